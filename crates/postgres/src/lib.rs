//! What PostgreSQL's bytes and protocols mean: pages, WAL, control file, names, labels, and a client for SQL and replication.
//!
//! Majors 13 to 18. Decoders are plain functions that believe nothing; only the client talks to anybody. Knows nothing of
//! backups or repositories.

pub mod archive;
pub mod client;
pub mod conninfo;
pub mod control;
pub mod history;
pub mod label;
pub mod lsn;
pub mod names;
pub mod page;
pub mod pattern;
pub mod replication;
mod tls;
pub mod version;
pub mod wal;
