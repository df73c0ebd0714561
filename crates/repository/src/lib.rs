//! What is stored, in which order, and how it is proven whole: `docs/format.md`. Knows nothing of PostgreSQL.

pub mod codec;
pub mod crypto;
mod cursor;
pub mod error;
pub mod frames;
#[cfg(test)]
mod hostile;
pub mod journal;
pub mod keyring;
pub mod lineage;
pub mod map;
pub mod names;
pub mod object;
pub mod pack;
pub mod root;
mod serial;
pub mod store;
pub mod wal;

pub use error::{Error, Result};
