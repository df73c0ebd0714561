//! Where a repository and PostgreSQL meet: backup, WAL, restore, and the servers that Asof itself runs.
//!
//! Everything here is asynchronous over [`asof_world::World`] and names no runtime. Plans are values; runs execute them.

pub mod backup;
pub mod compare;
pub mod error;
pub mod logical;
pub mod progress;
mod read_back;
pub mod restore;
pub mod runtime;
pub mod server;
pub mod shelf;
pub mod source;
pub mod target;
pub mod time;
pub mod wal;

pub use error::{Error, Result};
pub use read_back::ReadBack;
