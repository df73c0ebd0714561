//! A directory for one test, removed with the value.

use crate::{place, user};
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

/// A fresh directory in which both the test and a server may write.
///
/// It is removed when the value goes, also when the test panics; with `ASOF_TEST_KEEP` set it stays, for looking at.
#[derive(Debug)]
pub struct Workdir {
    path: PathBuf,
}

impl Workdir {
    /// Makes `<shared>/test-data/<name>-<process>-<n>`. The name is for people; two directories never collide.
    ///
    /// `ASOF_TEST_DATA` replaces `<shared>/test-data`, so that a run can clean up after tests that were killed.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::below(&parent(), name)
    }

    /// As [`new`](Self::new), in another place.
    pub(crate) fn below(parent: &Path, name: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(parent).unwrap_or_else(|error| panic!("{}: {error}", parent.display()));
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{name}-{}-{number}", process::id()));
            match fs::create_dir(&path) {
                Ok(()) => {
                    user::give(&path);
                    return Self { path };
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }

    /// The directory itself, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes an empty directory inside, owned by the server's user with mode 0755, and returns its path.
    #[must_use]
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        user::give(&path);
        path
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if env::var_os("ASOF_TEST_KEEP").is_none() {
            // A second panic while one unwinds would abort and hide the first: what stays behind is below target/.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn parent() -> PathBuf {
    if let Some(given) = env::var_os("ASOF_TEST_DATA") {
        return PathBuf::from(given);
    }
    place::shared().expect("a directory that the server's user can reach").join("test-data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workdir_is_fresh_and_goes_with_its_value() {
        let (first, second) = (Workdir::new("fresh"), Workdir::new("fresh"));
        assert_ne!(first.path(), second.path());
        fs::write(first.directory("inner").join("file"), "x").unwrap();
        let path = first.path().to_path_buf();
        drop(first);
        assert_eq!(path.exists(), env::var_os("ASOF_TEST_KEEP").is_some());
    }
}
