//! What a connection may ask of the machine it runs on, handed in by the caller.
//!
//! Nothing in this crate reads `std::env`, a file or a clock: the binary hands in the real ones, a test hands in values.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;
type ReadFile = dyn Fn(&Path) -> io::Result<Vec<u8>> + Send + Sync;
type FileMode = dyn Fn(&Path) -> io::Result<u32> + Send + Sync;
type UnixSeconds = dyn Fn() -> u64 + Send + Sync;

/// The surroundings of a connection: environment variables, small files, the user, and the time for certificates.
#[derive(Clone)]
pub struct Environment {
    /// The value of an environment variable (`PGHOST`, …).
    pub lookup: Arc<Lookup>,
    /// Reads a small file: passfile, service file, certificate, key. Follows links, as libpq does.
    pub read_file: Arc<ReadFile>,
    /// Permission bits of a file (`0o777` of `st_mode`), following links; `NotFound` if there is none.
    pub file_mode: Arc<FileMode>,
    /// Seconds since 1970, for the validity of certificates only.
    pub unix_seconds: Arc<UnixSeconds>,
    /// The home directory: `.pgpass`, `.pg_service.conf` and `.postgresql/` are looked for there.
    pub home: Option<PathBuf>,
    /// The name of the operating-system user: PostgreSQL's default for `user`.
    pub user: Option<String>,
}

impl Environment {
    /// Surroundings in which there is nothing: no variables, no files, no home, no user; the time is `unix_seconds`.
    #[must_use]
    pub fn empty(unix_seconds: u64) -> Self {
        Self {
            lookup: Arc::new(|_| None),
            read_file: Arc::new(|_| Err(io::ErrorKind::NotFound.into())),
            file_mode: Arc::new(|_| Err(io::ErrorKind::NotFound.into())),
            unix_seconds: Arc::new(move || unix_seconds),
            home: None,
            user: None,
        }
    }

    /// The value of a variable; an empty one counts as unset.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    /// The content of a file, `None` if it does not exist.
    pub(crate) fn read_if_exists(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match (self.read_file)(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A path below the home directory, `None` without a home.
    pub(crate) fn below_home(&self, relative: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(relative))
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("home", &self.home).field("user", &self.user).finish_non_exhaustive()
    }
}
