//! Why a connection string cannot be used.

use std::path::PathBuf;

/// A connection string, a variable or a file beside it that cannot be used. Never carries a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConninfoError {
    /// A key that PostgreSQL does not have.
    #[error("unknown connection option \"{key}\"")]
    UnknownKey {
        /// As it was written.
        key: String,
    },
    /// A key that PostgreSQL's own clients have and this one does not.
    #[error("connection option \"{key}\" is not supported by asof")]
    UnsupportedKey {
        /// As it was written.
        key: String,
    },
    /// The text does not follow the grammar.
    #[error("connection string: {reason}")]
    Syntax {
        /// What was expected and what was found; no values.
        reason: String,
    },
    /// A value that its key does not allow.
    #[error("connection option \"{key}\" cannot be \"{value}\": {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it was set to; never used for passwords.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// Two options that exclude each other.
    #[error("{0}")]
    Conflict(String),
    /// A named service that no service file defines.
    #[error("service \"{name}\" is not defined in {}", list(.searched))]
    ServiceNotFound {
        /// The service.
        name: String,
        /// The files that were looked into.
        searched: Vec<PathBuf>,
    },
    /// A line of a service file.
    #[error("service file {} line {line}: {reason}", path.display())]
    ServiceFile {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that exists and cannot be read.
    #[error("{what} {} cannot be read", path.display())]
    Unreadable {
        /// What the file is for.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn list(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return "any service file (there is none)".to_owned();
    }
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
}
