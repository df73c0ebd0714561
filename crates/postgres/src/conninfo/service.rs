//! The connection service file: named groups of settings.
//! Source: "The Connection Service File" (libpq chapter) and `parseServiceFile` in `fe-connect.c`, PostgreSQL 18.

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::error::ConninfoError;
use super::settings::Settings;

/// Where Debian's and Ubuntu's libpq look without `PGSYSCONFDIR`; elsewhere the directory is fixed when libpq is built.
const SYSTEM_DIRECTORY: &str = "/etc/postgresql-common";

/// Finds a service: first in the user's file (`PGSERVICEFILE` or `~/.pg_service.conf`), then in the system's.
pub(super) fn find(name: &str, environment: &Environment) -> Result<Settings, ConninfoError> {
    let searched = candidates(environment);
    for path in &searched {
        if let Some(settings) = find_in_file(name, path, environment)? {
            return Ok(settings);
        }
    }
    Err(ConninfoError::ServiceNotFound { name: name.to_owned(), searched })
}

fn candidates(environment: &Environment) -> Vec<PathBuf> {
    let named = environment.variable("PGSERVICEFILE").map(PathBuf::from);
    let own = named.or_else(|| environment.below_home(".pg_service.conf"));
    let system = environment.variable("PGSYSCONFDIR").unwrap_or_else(|| SYSTEM_DIRECTORY.to_owned());
    own.into_iter().chain([Path::new(&system).join("pg_service.conf")]).collect()
}

fn find_in_file(name: &str, path: &Path, environment: &Environment) -> Result<Option<Settings>, ConninfoError> {
    let unreadable = |source| ConninfoError::Unreadable { what: "service file", path: path.to_owned(), source };
    let Some(bytes) = environment.read_if_exists(path).map_err(unreadable)? else {
        return Ok(None);
    };
    let at_line = |line, reason| ConninfoError::ServiceFile { path: path.to_owned(), line, reason };
    let text = String::from_utf8(bytes).map_err(|_| at_line(1, "the file is not UTF-8".to_owned()))?;
    find_service(&text, name).map_err(|(line, reason)| at_line(line, reason))
}

/// The settings of `[name]` in the text of a service file, `None` if there is no such group.
/// An error is the line number, from 1, and what is wrong there; only lines of the wanted group are judged.
pub(super) fn find_service(text: &str, name: &str) -> Result<Option<Settings>, (usize, String)> {
    let mut found: Option<Settings> = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with('[') {
            if found.is_some() {
                break;
            }
            found = group_name(line).filter(|group| *group == name).map(|_| Settings::default());
        } else if let Some(settings) = &mut found {
            set_pair(settings, line).map_err(|reason| (index + 1, reason))?;
        }
    }
    Ok(found)
}

fn group_name(line: &str) -> Option<&str> {
    line.strip_prefix('[')?.strip_suffix(']')
}

fn set_pair(settings: &mut Settings, line: &str) -> Result<(), String> {
    let (key, value) = line.split_once('=').ok_or("expected key=value")?;
    if key == "service" {
        return Err("a service cannot name another service".to_owned());
    }
    // The first of two equal keys wins here, unlike in a connection string.
    if settings.get(key).is_some() { Ok(()) } else { settings.set(key, value).map_err(|error| error.to_string()) }
}
