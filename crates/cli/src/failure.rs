//! The one place where an error becomes words and an exit code.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed for a reason that the message says |
//! | 2 | the command line was not understood |
//! | 3 | refused, or not found: nothing was changed |
//! | 4 | something stored or read is damaged |
//! | 5 | a server or store did not answer: try again |
//! | 6 | a right or key is missing |
//! | 7 | `compare` only: the two sides differ |
//! | 130 | ended by the operator; nothing half made is left behind |
//! | 200 | `wal get` only: nobody can tell whether the file is there |

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use asof_postgres::client::ErrorKind;

/// The exit code for a missing right or key.
pub(crate) const DENIED: u8 = 6;
/// The exit code when something was refused before anything was done.
pub(crate) const REFUSED: u8 = 3;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// From the engine.
    Engine(asof_engine::Error),
    /// A local file.
    File { action: &'static str, path: PathBuf, source: io::Error },
    /// `wal get`: the file is proven absent.
    Absent(String),
    /// `wal get`: nobody can tell whether the file is there.
    CannotTell(Box<Failure>),
    /// `compare`: the sides differ. The report says where.
    Different,
    /// `compare`: nothing is known to differ, but not everything could be compared. The report says what.
    CouldNotCompare { denied: bool },
    /// The request makes no sense.
    Refused { what: String, hint: String },
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn refused(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), hint: hint.into() }
    }

    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// What to do next.
    pub(crate) fn hint(&self) -> Option<&str> {
        match self {
            Self::Engine(error) => error.hint(),
            Self::File { .. } | Self::Absent(_) | Self::Different => None,
            Self::CouldNotCompare { denied: true } => {
                Some("connect as a role that may read all of it, and bypasses row security")
            }
            Self::CouldNotCompare { denied: false } => Some("the lines above say why; compare again"),
            Self::CannotTell(failure) => failure.hint(),
            Self::Refused { hint, .. } => Some(hint),
        }
    }

    /// The exit code; the table stands above.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Absent(_) => 1,
            Self::Different => 7,
            Self::CouldNotCompare { denied: true } => DENIED,
            Self::CouldNotCompare { denied: false } => 1,
            // PostgreSQL aborts recovery only for codes above 125 (measured: 1, 2 and 125 open the server early).
            Self::CannotTell(_) => 200,
            Self::Engine(asof_engine::Error::Repository(error)) => repository_code(error),
            Self::Engine(asof_engine::Error::Client(error)) => match error.kind() {
                ErrorKind::Unavailable => 5,
                ErrorKind::Denied => 6,
                _ => 1,
            },
            // What a shell says of a program that SIGINT ended.
            Self::Engine(asof_engine::Error::Interrupted) => 130,
            Self::Engine(asof_engine::Error::Refused { .. }) | Self::Refused { .. } => REFUSED,
            Self::Engine(asof_engine::Error::Damaged { .. } | asof_engine::Error::Gone { .. }) => 4,
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 6,
            _ => 1,
        }
    }

    /// The error and its causes, then the hint.
    pub(crate) fn print(&self) {
        anstream::eprintln!("error: {self}");
        let mut cause = self.source();
        while let Some(error) = cause {
            anstream::eprintln!("  {error}");
            cause = error.source();
        }
        if let Some(hint) = self.hint() {
            anstream::eprintln!("  hint: {hint}");
        }
    }
}

fn repository_code(error: &asof_repository::Error) -> u8 {
    use asof_repository::Error;
    match error {
        Error::NotFound { .. } | Error::Conflict { .. } | Error::Invalid { .. } => 3,
        Error::Corrupt { .. } => 4,
        Error::Unavailable { .. } | Error::Uncertain { .. } => 5,
        Error::Denied { .. } => 6,
        _ => 1,
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Engine(error) => error.fmt(f),
            Self::File { action, path, .. } => write!(f, "cannot {action} {}", path.display()),
            Self::Refused { what, .. } => f.write_str(what),
            Self::Absent(name) => write!(f, "{name} is not in the repository"),
            Self::CannotTell(failure) => failure.fmt(f),
            Self::Different => f.write_str("the two sides differ"),
            Self::CouldNotCompare { .. } => f.write_str("not everything could be compared"),
        }
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            // The engine's transparent variants show their inner error; their source is that error's source.
            Self::Engine(error) => error.source(),
            Self::File { source, .. } => Some(source),
            Self::CannotTell(failure) => failure.source(),
            Self::Refused { .. } | Self::Absent(_) | Self::Different | Self::CouldNotCompare { .. } => None,
        }
    }
}

impl From<asof_engine::Error> for Failure {
    fn from(error: asof_engine::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<asof_repository::Error> for Failure {
    fn from(error: asof_repository::Error) -> Self {
        Self::Engine(error.into())
    }
}

impl From<asof_postgres::client::ClientError> for Failure {
    fn from(error: asof_postgres::client::ClientError) -> Self {
        Self::Engine(error.into())
    }
}
