//! Real PostgreSQL servers for tests: made, filled, compared, killed and cleaned up; and what repositories lie on: an S3 server,
//! and file systems whose power can be cut.
//!
//! A test that needs a server says `Server::running(15, &Options::default())` and gets one with its own data
//! directory, socket and port. It goes away with the value, also when the test panics. Where the servers come from is
//! `cargo xtask setup`'s business; which majors a run covers is [`majors`].
//!
//! This crate is never shipped and depends on nothing, so that any other crate may use it in its tests. Its functions
//! panic instead of returning errors: a harness that cannot do its work fails the test, it is never skipped.

mod data;
mod labels;
mod likeness;
mod moto;
mod place;
mod programs;
mod server;
mod universe;
mod user;
mod volume;
mod workdir;

pub use data::{Digest, digests, fill_small};
pub use labels::{LabelProvider, fill_labelled};
pub use likeness::{assert_same_dump, assert_sound, dump};
pub use moto::Moto;
pub use programs::{majors, newest_clients};
pub use server::{Options, Server};
pub use universe::{fill_universe, has_vector};
pub use volume::Volume;
pub use workdir::Workdir;
