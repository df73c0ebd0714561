//! Hazards: what has lost people's data before, tried on the engine with real servers (docs/hazards.md).
//!
//! Each test carries the number of its hazard, and each has been seen red with its rule switched off: see
//! `cargo xtask campaign planted`.
#![allow(clippy::disallowed_methods, reason = "the tests look at real files behind the engine's back")]

mod backup;
mod identity;
mod restore;
mod spool;
mod stage;
mod wal;
