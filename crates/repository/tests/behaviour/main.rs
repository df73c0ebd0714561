//! What the repository promises, by area, through its public functions.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests touch real files and stop when surprised")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod content;
mod journals;
mod maps;
mod stores;
