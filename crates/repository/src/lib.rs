//! What is stored, in which order, and how it is proven whole: `docs/format.md`. Knows nothing of PostgreSQL.

pub mod codec;
pub mod crypto;
pub mod error;
pub mod journal;
pub mod keyring;
pub mod lineage;
pub mod names;
pub mod object;
pub mod root;
mod serial;
pub mod store;

pub use error::{Error, Result};
