//! What is stored, in which order, and how it is proven whole: `docs/format.md`. Knows nothing of PostgreSQL.

pub mod error;
pub mod names;
pub mod store;

pub use error::{Error, Result};
