//! What can go wrong with a repository, sorted by what the caller does about it.

use std::error::Error as StdError;

/// Why an operation on a repository failed. Variants exist where the reaction differs; each names its object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The object is proven absent.
    #[error("{object} is not in the repository")]
    NotFound {
        /// Name of the object.
        object: String,
    },
    /// The name is taken by something else, or somebody was faster.
    #[error("{object} exists already: {reason}")]
    Conflict {
        /// Name of the object.
        object: String,
        /// What stands there.
        reason: String,
    },
    /// The store could not be asked; trying again may help.
    #[error("the store could not {operation} {object}")]
    Unavailable {
        /// The call, as a verb.
        operation: &'static str,
        /// Name of the object.
        object: String,
        /// What the store said.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The call may have happened; only reading back can tell.
    #[error("the store did not say whether it did {operation} {object}")]
    Uncertain {
        /// The call, as a verb.
        operation: &'static str,
        /// Name of the object.
        object: String,
        /// What the store said.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Bytes are not what was written.
    #[error("{object} is damaged: {reason}")]
    Corrupt {
        /// Name of the object.
        object: String,
        /// What does not fit.
        reason: String,
    },
    /// Bytes are whole, but not from somebody who may have written them, or the key at hand cannot open them.
    #[error("{object} is refused: {reason}")]
    Denied {
        /// Name of the object, key or action.
        object: String,
        /// Why.
        reason: String,
    },
    /// The request makes no sense here.
    #[error("{what}")]
    Invalid {
        /// The request and what is wrong with it.
        what: String,
    },
}

/// The result of an operation on a repository.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn corrupt(object: impl ToString, reason: impl ToString) -> Self {
        Self::Corrupt { object: object.to_string(), reason: reason.to_string() }
    }

    pub(crate) fn denied(object: impl ToString, reason: impl ToString) -> Self {
        Self::Denied { object: object.to_string(), reason: reason.to_string() }
    }

    pub(crate) fn conflict(object: impl ToString, reason: impl ToString) -> Self {
        Self::Conflict { object: object.to_string(), reason: reason.to_string() }
    }

    pub(crate) fn invalid(what: impl ToString) -> Self {
        Self::Invalid { what: what.to_string() }
    }

    /// Whether this says that the object is proven absent.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether trying again may help: the store did not answer, or did not say what it did.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Uncertain { .. })
    }
}
