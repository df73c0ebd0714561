//! Where PostgreSQL's programs are, and which majors a test run covers.

use crate::place;
use std::env;
use std::path::{Path, PathBuf};

/// The majors that tests run against: `ASOF_TEST_MAJORS` (as `13,15`), or only 15.
#[must_use]
pub fn majors() -> Vec<u32> {
    match env::var("ASOF_TEST_MAJORS") {
        Ok(list) => parse_majors(&list).unwrap_or_else(|word| panic!("ASOF_TEST_MAJORS: `{word}` is not a major")),
        Err(_) => vec![15],
    }
}

/// `bin/` of a server's major, absolute and free of links, because the server's user may not be able to follow them.
pub(crate) fn server_bin(major: u32) -> PathBuf {
    let bin = root().join(major.to_string()).join("bin");
    let found = bin.canonicalize().ok().filter(|bin| bin.join("initdb").is_file());
    found.unwrap_or_else(|| panic!("PostgreSQL {major} is not in {}: run `cargo xtask setup`", bin.display()))
}

/// A client program: the server's own, else the newest of the client tools, else one that Debian installed.
pub(crate) fn client(server_bin: &Path, name: &str) -> PathBuf {
    let mut places = vec![server_bin.to_path_buf(), root().join("tools/bin")];
    places.extend((13..=18).rev().map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"))));
    let found = places.into_iter().map(|place| place.join(name)).find(|program| program.is_file());
    found.unwrap_or_else(|| panic!("no client program {name}: run `cargo xtask setup`"))
}

/// Where the newest client programs are; a quick setup installs none of their own.
#[must_use]
pub fn newest_clients() -> PathBuf {
    root().join("tools/bin")
}

/// The directory with one subdirectory per major, each with `bin/`, and `tools/bin` and `moto/bin`.
pub(crate) fn root() -> PathBuf {
    if let Some(given) = env::var_os("ASOF_TEST_PG") {
        return PathBuf::from(given);
    }
    place::shared().expect("a directory that the server's user can reach").join("pg")
}

/// The interpreter of the environment in which setup installed the S3 server.
pub(crate) fn python() -> PathBuf {
    let python = root().join("moto/bin/python");
    assert!(python.exists(), "there is no {}: run `cargo xtask setup`", python.display());
    python
}

/// Parses `13,14,15`; the error is the word that is no number.
fn parse_majors(list: &str) -> Result<Vec<u32>, String> {
    list.split(',').map(|word| word.trim().parse().map_err(|_| word.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majors_are_a_comma_separated_list() {
        assert_eq!(parse_majors("13, 18"), Ok(vec![13, 18]));
        assert_eq!(parse_majors("13,new"), Err("new".to_owned()));
        assert_eq!(parse_majors(""), Err(String::new()));
    }
}
