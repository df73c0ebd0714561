//! Logical backups against real servers: what is dumped comes back, and what is not whole is not kept.

#[path = "../support/mod.rs"]
mod support;

mod drill;
mod dumps;
mod faults;
mod loads;
mod names;
mod properties;
mod scripts;
mod stage;
mod tables;
mod verify;
