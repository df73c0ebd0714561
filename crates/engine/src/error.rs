//! What can go wrong between an instance and its repository, and what to do about it.

use std::io;
use std::path::PathBuf;

use asof_postgres::client::ClientError;

/// Why a backup, a restore or a receiver could not go on. Each variant names its object; [`Error::hint`] says the next step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The repository.
    #[error(transparent)]
    Repository(#[from] asof_repository::Error),
    /// The server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A local file.
    #[error("cannot {action} {}", path.display())]
    Files {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The request was understood and must not or cannot be done.
    #[error("{what}")]
    Refused {
        /// What and why.
        what: String,
        /// What to do instead.
        hint: Option<String>,
    },
    /// Something is not what it was said to be.
    #[error("{what}")]
    Damaged {
        /// What and how.
        what: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// WAL that the server does not have any more.
    #[error("the server has no {path} any more")]
    Gone {
        /// The file of the segment, relative to the data directory.
        path: String,
    },
    /// Not now; by itself it will become possible.
    #[error("{what}")]
    NotYet {
        /// What is waited for.
        what: String,
    },
    /// The operator ended it.
    #[error("interrupted")]
    Interrupted,
    /// A program of PostgreSQL or a server of ours failed.
    #[error("{what}")]
    Program {
        /// Which, and what it said.
        what: String,
        /// Where to read on.
        hint: Option<String>,
    },
}

/// The result of an engine operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What the operator can do next.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused { hint, .. } | Self::Damaged { hint, .. } | Self::Program { hint, .. } => hint.as_deref(),
            Self::Gone { .. } => Some("make a new backup to protect what follows"),
            _ => None,
        }
    }

    pub(crate) fn refused(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), hint: Some(hint.into()) }
    }

    pub(crate) fn damaged(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Damaged { what: what.into(), hint: Some(hint.into()) }
    }

    pub(crate) fn files(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Files { action, path, source }
    }
}

/// An error and its causes, where there is only one line.
pub fn in_one_line(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
