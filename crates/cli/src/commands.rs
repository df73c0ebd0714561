//! One module for each command: from its arguments to a request, from the engine's report to words.

pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod compare;
pub(crate) mod demo;
pub(crate) mod drill;
pub(crate) mod dump;
pub(crate) mod export;
pub(crate) mod init;
pub(crate) mod instance;
pub(crate) mod key;
pub(crate) mod load;
pub(crate) mod origin;
pub(crate) mod restore;
pub(crate) mod status;
pub(crate) mod verify;
pub(crate) mod wal;
