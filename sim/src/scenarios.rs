//! What has to survive everything: the protocols of the repository, each as a [`crate::crash::Scenario`].

pub mod backup;
pub mod journal;
pub mod objects;
pub mod spool;
pub mod wal;
