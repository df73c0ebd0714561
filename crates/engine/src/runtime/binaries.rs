//! Where PostgreSQL's programs are, and what their installation holds.

use std::path::{Path, PathBuf};

use asof_postgres::version::Major;
use asof_world::{Exit, Files, Processes, Program, World};

use crate::error::{Error, Result};

/// The programs of one major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// The directory that holds `postgres`.
    pub dir: PathBuf,
    /// The major they were found for.
    pub major: Major,
    /// As they say, such as `15.20 (Debian 15.20-0+deb12u1)`.
    pub version: String,
    /// Where `<extension>.control` files are; `None` if it could not be told.
    pub extension_control_dir: Option<PathBuf>,
    /// Where loadable libraries are; `None` if it could not be told.
    pub library_dir: Option<PathBuf>,
    extensions: Vec<String>,
    libraries: Vec<String>,
}

impl Binaries {
    /// Whether an extension is installed, to say before a restore what the instance would miss. `None` if the place of
    /// extensions is unknown.
    pub fn has_extension(&self, name: &str) -> Option<bool> {
        self.extension_control_dir.as_ref().map(|_| self.extensions.iter().any(|known| known == name))
    }

    /// Whether a library can be loaded; `$libdir/` before its name is understood. `None` if the place is unknown.
    pub fn has_library(&self, name: &str) -> Option<bool> {
        let name = name.strip_prefix("$libdir/").unwrap_or(name);
        let name = name.strip_suffix(".so").unwrap_or(name);
        self.library_dir.as_ref().map(|_| self.libraries.iter().any(|known| known == name))
    }

    /// The path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Finds the programs of a major: in `bindir` only if one is given, else where packages put them, else in the directories
/// of `path_variable` (the content of `PATH`).
///
/// # Errors
/// `Refused`, with every place that was looked at and what was found there.
pub async fn find_binaries(
    world: &World,
    major: Major,
    bindir: Option<&Path>,
    path_variable: Option<&str>,
) -> Result<Binaries> {
    let places = places(major, bindir, path_variable);
    let (files, processes) = (world.files.clone(), world.processes());
    world.blocking(move || find(files.as_ref(), processes.as_ref(), major, &places)).await
}

fn places(major: Major, bindir: Option<&Path>, path_variable: Option<&str>) -> Vec<PathBuf> {
    if let Some(given) = bindir {
        return vec![given.to_owned()];
    }
    let mut places = vec![
        format!("/usr/lib/postgresql/{major}/bin").into(),
        format!("/usr/pgsql-{major}/bin").into(),
        PathBuf::from("/usr/local/pgsql/bin"),
    ];
    // A relative entry of PATH means another directory tomorrow.
    let path = path_variable.unwrap_or_default().split(':').map(PathBuf::from).filter(|place| place.is_absolute());
    for place in path {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

fn find(files: &dyn Files, processes: &dyn Processes, major: Major, places: &[PathBuf]) -> Result<Binaries> {
    let mut looked = Vec::new();
    for place in places {
        match version(files, processes, place) {
            Ok(version) if major_of(&version) == Some(major.number()) => {
                return Ok(describe(files, processes, major, place, version));
            }
            Ok(version) => looked.push(format!("{} (found {version}, need {major})", place.display())),
            Err(why) => looked.push(format!("{} ({why})", place.display())),
        }
    }
    let what = format!("no programs of PostgreSQL {major} were found; looked in {}", looked.join(", "));
    Err(Error::refused(
        what,
        format!("install them (Debian: `apt install postgresql-{major}`) or name their directory with --bindir"),
    ))
}

/// `postgres --version` says `postgres (PostgreSQL) 15.20 (Debian …)`; the version begins behind the closing parenthesis.
fn version(files: &dyn Files, processes: &dyn Processes, place: &Path) -> std::result::Result<String, String> {
    let program = place.join("postgres");
    if !files.exists(&program).unwrap_or(false) {
        return Err("nothing found".to_owned());
    }
    let output = processes.run(&call(program, "--version")).map_err(|error| format!("cannot run postgres: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.trim().split_once("(PostgreSQL) ") {
        Some((_, version)) if output.exit == Exit::Code(0) => Ok(version.to_owned()),
        _ => Err(format!("postgres --version said {:?}", said.trim())),
    }
}

pub(crate) fn call(path: PathBuf, argument: &str) -> Program {
    Program {
        path,
        arguments: vec![argument.into()],
        environment: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()), ("LC_ALL".into(), "C".into())],
        directory: "/".into(),
        user: None,
    }
}

pub(crate) fn major_of(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn describe(files: &dyn Files, processes: &dyn Processes, major: Major, dir: &Path, version: String) -> Binaries {
    let beside = |relative: &str| dir.parent().unwrap_or(dir).join(relative);
    let shares = [
        ask_pg_config(files, processes, dir, "--sharedir"),
        Some(beside("share/postgresql")),
        Some(beside("share")),
        Some(format!("/usr/share/postgresql/{major}").into()),
    ];
    let shares = shares.into_iter().flatten().map(|share| share.join("extension"));
    let libraries =
        [ask_pg_config(files, processes, dir, "--pkglibdir"), Some(beside("lib/postgresql")), Some(beside("lib"))];
    let found = first_listed(files, shares, ".control");
    let found_libraries = first_listed(files, libraries.into_iter().flatten(), ".so");
    let (extension_control_dir, extensions) = found.map_or((None, Vec::new()), |(dir, names)| (Some(dir), names));
    let (library_dir, libraries) = found_libraries.map_or((None, Vec::new()), |(dir, names)| (Some(dir), names));
    Binaries { dir: dir.to_owned(), major, version, extension_control_dir, library_dir, extensions, libraries }
}

fn ask_pg_config(files: &dyn Files, processes: &dyn Processes, dir: &Path, what: &str) -> Option<PathBuf> {
    let program = dir.join("pg_config");
    if !files.exists(&program).ok()? {
        return None;
    }
    let output = processes.run(&call(program, what)).ok().filter(|output| output.exit == Exit::Code(0))?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_absolute().then_some(path)
}

/// The first directory that can be listed and holds any name with this ending, and the stems of those names.
fn first_listed(
    files: &dyn Files,
    places: impl IntoIterator<Item = PathBuf>,
    ending: &str,
) -> Option<(PathBuf, Vec<String>)> {
    places.into_iter().find_map(|place| {
        let entries = files.list(&place).ok()?;
        let stems = entries.iter().filter_map(|entry| Some(entry.name.to_str()?.strip_suffix(ending)?.to_owned()));
        let stems: Vec<String> = stems.collect();
        (!stems.is_empty()).then_some((place, stems))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_come_before_the_search_path_and_a_given_directory_before_all() {
        let looked = places(Major::V16, None, Some("/opt/pg/bin:relative:/usr/local/pgsql/bin"));
        let expect = ["/usr/lib/postgresql/16/bin", "/usr/pgsql-16/bin", "/usr/local/pgsql/bin", "/opt/pg/bin"]
            .map(PathBuf::from);
        assert_eq!(looked, expect);
        assert_eq!(places(Major::V16, Some(Path::new("/x")), Some("/y")), [PathBuf::from("/x")]);
    }

    #[test]
    fn the_major_is_the_number_the_version_begins_with() {
        assert_eq!(major_of("15.20 (Debian 15.20-0+deb12u1)"), Some(15));
        assert_eq!(major_of("18beta1"), Some(18));
        assert_eq!(major_of("EnterpriseDB"), None);
    }
}
