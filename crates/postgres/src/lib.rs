//! placeholder

pub mod client;
pub mod conninfo;
pub mod lsn;
pub mod version;
pub mod control;
pub mod names;
pub mod page;
pub mod history;
pub mod label;
pub mod wal;
pub mod replication;
mod tls;
