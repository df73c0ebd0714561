//! `cargo xtask test`: everything that must hold before a commit, in stages.
//!
//! A failed stage does not hide what the later ones have to say; all failed stages are named at the end. The tests
//! themselves come last but one, so that their results stand at the end of the output. Whatever they leave behind (a
//! server that still runs, an untracked file in the checkout) is a failure, too.

mod leftovers;

use crate::{Outcome, demo, place, run, setup};
pub(crate) use leftovers::Watch;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::time::Instant;

/// The version that `deny.toml` was written for.
const CARGO_DENY: &str = "0.20.2";

struct Stage {
    name: &'static str,
    /// Whether quick runs have it, too.
    quick: bool,
    run: fn(&Run) -> Outcome,
}

/// What the stages share.
struct Run {
    majors: &'static [u32],
    trees: PathBuf,
    /// Where tests put their data; removed at the end.
    data: PathBuf,
}

const STAGES: &[Stage] = &[
    Stage { name: "format", quick: true, run: |_| run::visibly(run::cargo().args(["fmt", "--all", "--check"])) },
    Stage { name: "lints", quick: true, run: lints },
    Stage { name: "dependencies", quick: false, run: dependencies },
    Stage { name: "documentation", quick: true, run: documentation },
    Stage { name: "demo", quick: false, run: |_| demo::show() },
    Stage { name: "tests", quick: true, run: tests },
];

/// Runs the stages and fails with the names of those that failed.
pub(crate) fn all(quick: bool) -> Outcome {
    setup::prepare(quick).map_err(|why| format!("stage setup failed: {why}"))?;
    let run = start(quick)?;
    let watch = Watch::begin();
    let mut results = Vec::new();
    for stage in STAGES.iter().filter(|stage| stage.quick || !quick) {
        results.push(timed(stage.name, || (stage.run)(&run)));
    }
    results.push(timed("leftovers", || watch.end(&run.data)));
    summary(&results)
}

fn start(quick: bool) -> Result<Run, String> {
    let shared = place::shared().map_err(|error| format!("no place for test data: {error}"))?;
    let data = shared.join("test-data").join(format!("run-{}", process::id()));
    fs::create_dir_all(data.join("tmp")).map_err(|error| format!("{}: {error}", data.display()))?;
    let majors: &[u32] = if quick { &setup::QUICK_MAJORS } else { &setup::MAJORS };
    Ok(Run { majors, trees: setup::trees_directory()?, data })
}

struct Done {
    name: &'static str,
    minutes: f64,
    outcome: Outcome,
}

fn timed(name: &'static str, work: impl FnOnce() -> Outcome) -> Done {
    println!("\n== {name}");
    let started = Instant::now();
    let outcome = work();
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    match &outcome {
        Ok(()) => println!("== {name}: {minutes:.1} min"),
        Err(why) => println!("== {name} FAILED after {minutes:.1} min: {why}"),
    }
    Done { name, minutes, outcome }
}

fn summary(results: &[Done]) -> Outcome {
    let line = |done: &Done| {
        let word = if done.outcome.is_ok() { "ok" } else { "FAILED" };
        format!("{} {word} {:.1}", done.name, done.minutes)
    };
    println!("\nstages, with minutes: {}", results.iter().map(line).collect::<Vec<_>>().join(", "));
    let failed: Vec<&str> = results.iter().filter(|done| done.outcome.is_err()).map(|done| done.name).collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

fn lints(_: &Run) -> Outcome {
    run::visibly(run::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn documentation(_: &Run) -> Outcome {
    run::visibly(run::cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn tests(run: &Run) -> Outcome {
    let majors: Vec<String> = run.majors.iter().map(ToString::to_string).collect();
    let mut command = run::cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    command.env("ASOF_TEST_PG", &run.trees).env("ASOF_TEST_MAJORS", majors.join(","));
    command.env("ASOF_TEST_DATA", &run.data).env("TMPDIR", run.data.join("tmp"));
    run::visibly(&mut command)
}

/// Licences, sources and forbidden crates. Advisories are not among it: they change without us, a test must not.
fn dependencies(_: &Run) -> Outcome {
    let tools = place::workspace().join("target/tools");
    install_cargo_deny(&tools)?;
    let mut command = Command::new(tools.join("bin/cargo-deny"));
    command.current_dir(place::workspace()).args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
    run::visibly(&mut command)
}

fn install_cargo_deny(tools: &Path) -> Outcome {
    let found = run::quietly(Command::new(tools.join("bin/cargo-deny")).arg("--version"));
    if found == Some(format!("cargo-deny {CARGO_DENY}")) {
        return Ok(());
    }
    println!("cargo-deny {CARGO_DENY} is not in target/tools: building it takes some minutes, once");
    let mut command = run::cargo();
    command.args(["install", "--locked", "--version", CARGO_DENY, "cargo-deny", "--root"]).arg(tools);
    run::visibly(&mut command).map_err(|why| format!("{why}; is the network there?"))
}
