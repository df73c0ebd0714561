//! Deterministic simulation of the repository and what stands on it, under faults.
//!
//! The shipped code runs unchanged on a [`asof_world::World`] whose clock is virtual, whose files forget what was not
//! synced, whose tasks run in a seeded order on one thread, and whose stores lose answers. A run is a function of its
//! seed: every failure names the seed that repeats it.
//!
//! - [`Simulation`] is the machine: executor, clock, randomness, files.
//! - [`SimFiles`] is the disk: what survives a power cut is decided by the model, not by luck.
//! - [`MemoryStore`] is the object store: it keeps the contract, and answers badly when told to.
//! - [`conformance`] is what every store has to pass.
//! - [`crash`] stops a piece of work at every call it makes, and checks what is left.
//! - [`campaign`] does that for as long as there is time.
//! - [`planted`] holds defects on purpose: a suite that does not find them is not trusted.

pub mod campaign;
mod clock;
pub mod conformance;
pub mod crash;

mod executor;
mod files;
mod memory;

pub mod planted;
mod random;
pub mod scenarios;

pub use clock::SimClock;
pub use executor::{Process, Simulation};
pub use files::{Call, Fault, SimFiles, Trouble, Unsynced};

pub use memory::{Answer, Counts, Faults, MemoryStore};
pub use random::{Prng, SimRandom};
