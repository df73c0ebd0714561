//! `asof.toml`: found, read strictly, and edited with its comments kept.
//!
//! Passwords never stand in it: what `instance add` was given is kept in a passfile beside it, mode 0600.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use asof_engine::logical::SqlCheck;
use serde::Deserialize;
use toml_edit::{DocumentMut, Item, Table, Value, value};

use crate::checks;
use crate::failure::{Failure, Result};

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) repository: RepositoryConfig,
    #[serde(default)]
    pub(crate) instances: BTreeMap<String, InstanceConfig>,
}

/// Where the repository is and how it is opened.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RepositoryConfig {
    /// A directory or URL.
    pub(crate) url: String,
    /// The fingerprint of its root key: another repository at the same place is refused.
    pub(crate) root_key: String,
    /// The key file; where there is none, a passphrase opens the repository.
    pub(crate) key_file: Option<PathBuf>,
    /// The file that holds the passphrase; it is asked for when absent.
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// A protected server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InstanceConfig {
    /// A connection string without a password.
    #[serde(default)]
    pub(crate) conninfo: String,
    /// The passfile that holds its password.
    pub(crate) passfile: Option<PathBuf>,
    /// Read files from here; by SQL when absent.
    pub(crate) data_directory: Option<PathBuf>,
    /// Where PostgreSQL's programs are.
    pub(crate) bindir: Option<PathBuf>,
    /// Make only logical backups: the server hands out no files.
    #[serde(default)]
    pub(crate) logical: bool,
    /// Receive WAL into this directory first and acknowledge it from there.
    pub(crate) spool: Option<PathBuf>,
    /// The directory of an instance that asof made.
    pub(crate) run_directory: Option<PathBuf>,
    /// What drills look at.
    #[serde(default, deserialize_with = "checks::deserialize")]
    pub(crate) checks: Vec<SqlCheck>,
}

/// The file and where it lies.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) path: PathBuf,
    pub(crate) config: Config,
}

/// The places where a configuration is looked for, the first that exists wins.
pub(crate) fn places(given: Option<&Path>, variable: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    if let Some(given) = given {
        return vec![given.to_owned()];
    }
    // Set but empty counts as not set (XDG Base Directory Specification).
    let user = variable("XDG_CONFIG_HOME")
        .filter(|directory| !directory.is_empty())
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".config")));
    let user = user.map(|directory| directory.join("asof/asof.toml"));
    [Some(PathBuf::from("asof.toml")), user, Some(PathBuf::from("/etc/asof/asof.toml"))].into_iter().flatten().collect()
}

/// Finds and reads the configuration.
pub(crate) fn load(given: Option<&Path>, variable: &dyn Fn(&str) -> Option<String>) -> Result<Loaded> {
    let places = places(given, variable);
    for path in &places {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let path = std::path::absolute(path).map_err(Failure::file("find", path))?;
                return Ok(Loaded { config: parse(&path, &text)?, path });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::file("read", path)(error)),
        }
    }
    let looked: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
    let what = format!("there is no configuration: looked for {}", looked.join(", "));
    Err(Failure::refused(what, "make a repository with `asof init DIRECTORY`, or name the file with --config"))
}

fn parse(path: &Path, text: &str) -> Result<Config> {
    let mut config: Config = toml::from_str(text).map_err(|error| {
        Failure::refused(
            format!("{} cannot be used: {}", path.display(), error.to_string().trim()),
            "mend the line it names",
        )
    })?;
    // Relative paths are meant from where the file lies.
    let base = path.parent().unwrap_or(Path::new("/"));
    let opens = &mut config.repository;
    if opens.key_file.is_some() && opens.passphrase_file.is_some() {
        let what = format!("{} names both a key_file and a passphrase_file", path.display());
        return Err(Failure::refused(what, "one of them opens the repository: remove the other line"));
    }
    for path in [&mut opens.key_file, &mut opens.passphrase_file].into_iter().flatten() {
        *path = base.join(&*path);
    }
    if !config.repository.url.contains("://") {
        config.repository.url = base.join(&config.repository.url).display().to_string();
    }
    for instance in config.instances.values_mut() {
        for path in [&mut instance.passfile, &mut instance.spool, &mut instance.run_directory].into_iter().flatten() {
            *path = base.join(&*path);
        }
    }
    Ok(config)
}

/// A new configuration for a repository that was just made.
pub(crate) fn create(path: &Path, url: &str, root_key: &str, key_file: &Path) -> Result<()> {
    let mut document = DocumentMut::new();
    let mut repository = Table::new();
    repository.decor_mut().set_prefix("# Configuration of asof. Its commands edit this file and keep comments.\n\n");
    repository["url"] = value(url);
    repository["root_key"] = value(root_key);
    repository["key_file"] = value(key_file.display().to_string());
    document["repository"] = Item::Table(repository);
    store(path, &document)
}

/// What every command that makes an instance known decides anew; what a person wrote beside it stays.
const DECIDED_ANEW: [&str; 5] = ["conninfo", "passfile", "data_directory", "logical", "run_directory"];

/// Changes the table of an instance; `None` removes it.
pub(crate) fn set_instance(path: &Path, name: &str, fields: Option<&[(&str, Value)]>) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(Failure::file("read", path))?;
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        Failure::refused(format!("{}: {error}", path.display()), "mend the line it names")
    })?;
    let instances = document.entry("instances").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let instances = instances.as_table_mut().ok_or_else(|| {
        Failure::refused(format!("{}: instances is not a table", path.display()), "write [instances.NAME]")
    })?;
    match fields {
        None => {
            instances.remove(name);
        }
        Some(fields) => {
            let table = instances.entry(name).or_insert_with(|| Item::Table(Table::new()));
            let table = table.as_table_mut().ok_or_else(|| {
                Failure::refused(format!("{}: {name} is not a table", path.display()), "write [instances.NAME]")
            })?;
            DECIDED_ANEW.iter().for_each(|key| drop(table.remove(key)));
            for (key, set) in fields {
                table[*key] = Item::Value(set.clone());
            }
        }
    }
    store(path, &document)
}

fn store(path: &Path, document: &DocumentMut) -> Result<()> {
    write_durably(path, document.to_string().as_bytes(), 0o644)
}

/// Writes beside the file, syncs, renames: a crash leaves the old file or the new one.
pub(crate) fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(Failure::file("create", parent))?;
    let beside = path.with_extension("new");
    let _ = std::fs::remove_file(&beside);
    let open = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside);
    let mut file = open.map_err(Failure::file("create", &beside))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Failure::file("write", &beside))?;
    std::fs::rename(&beside, path).map_err(Failure::file("replace", path))?;
    std::fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(Failure::file("sync", parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "[repository]\nurl = \"repo\"\nroot_key = \"00\"\nkey_file = \"asof.key\"\n";

    #[test]
    fn relative_paths_are_meant_from_where_the_file_lies() {
        let config = parse(Path::new("/etc/asof/asof.toml"), MINIMAL).expect("parses");
        assert_eq!(config.repository.key_file.as_deref(), Some(Path::new("/etc/asof/asof.key")));
        assert_eq!(config.repository.url, "/etc/asof/repo");
    }

    #[test]
    fn the_page_about_this_file_names_every_key_and_its_example_is_read() {
        let page = include_str!("../../../docs/guide/configuration.md");
        let example = page.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
        parse(Path::new("/x/asof.toml"), example).expect("parses");
        let check = |text: &str| format!("{MINIMAL}[[instances.a.checks]]\nname = \"a\"\n{text}\n");
        let ready = ["rows", "orphans", "dimensions", "newest"].map(|kind| check(&format!("{kind} = {{ none = 1 }}")));
        let tables =
            ["[repository]\nnone = 1\n".to_owned(), format!("{MINIMAL}[instances.a]\nnone = 1\n"), check("none = 1")];
        for table in tables.into_iter().chain(ready) {
            let error = parse(Path::new("/x/asof.toml"), &table).expect_err("is refused").to_string();
            let known = error.split("expected one of ").nth(1).expect("the keys that are known");
            let keys: Vec<_> = known.lines().next().expect("a line").split(", ").collect();
            assert!(keys.len() >= 3, "{error}");
            keys.iter().for_each(|key| assert!(page.contains(&format!("| {key} |")), "{key} is not on the page"));
        }
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = parse(Path::new("/x/asof.toml"), &format!("{MINIMAL}retention = 7\n")).expect_err("is refused");
        assert!(error.to_string().contains("retention"), "{error}");
    }

    #[test]
    fn a_key_file_and_a_passphrase_file_exclude_each_other() {
        let text = MINIMAL.replace("key_file", "passphrase_file");
        let config = parse(Path::new("/etc/asof/asof.toml"), &text).expect("parses");
        assert_eq!(config.repository.passphrase_file.as_deref(), Some(Path::new("/etc/asof/asof.key")));
        let error = parse(Path::new("/x/asof.toml"), &format!("{text}key_file = \"b\"\n")).expect_err("is refused");
        assert!(error.to_string().contains("both"), "{error}");
    }

    #[test]
    fn editing_an_instance_keeps_comments_and_other_instances() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("asof.toml");
        std::fs::write(&path, format!("# mine\n{MINIMAL}\n[instances.a] # first\nconninfo = \"host=a\"\n"))
            .expect("writes");
        set_instance(&path, "b", Some(&[("conninfo", "host=b".into())])).expect("edits");
        let text = std::fs::read_to_string(&path).expect("reads");
        assert!(text.contains("# mine") && text.contains("# first"), "{text}");
        let config = parse(&path, &text).expect("parses");
        assert_eq!(config.instances.keys().collect::<Vec<_>>(), ["a", "b"]);
        let by_hand =
            text.replace("host=b\"\n", "host=b\"\ndata_directory = \"/old\"\nspool = \"/spool\" # a disk of its own\n");
        std::fs::write(&path, &by_hand).expect("writes");
        set_instance(&path, "b", Some(&[("conninfo", "host=c".into())])).expect("edits");
        let text = std::fs::read_to_string(&path).expect("reads");
        let b = parse(&path, &text).expect("parses").instances["b"].clone();
        assert_eq!((b.conninfo.as_str(), b.data_directory), ("host=c", None), "{text}");
        assert!(b.spool.is_some() && text.contains("# a disk of its own"), "{text}");
        set_instance(&path, "a", None).expect("removes");
        let config = parse(&path, &std::fs::read_to_string(&path).expect("reads")).expect("parses");
        assert_eq!(config.instances.keys().collect::<Vec<_>>(), ["b"]);
    }
}
