//! `cargo xtask demo`: the release binary shows itself on a PostgreSQL of its own.

use crate::{Outcome, place, run, setup};
use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Prepares, builds and shows.
pub(crate) fn show() -> Outcome {
    setup::prepare(true)?;
    run::visibly(run::cargo().args(["build", "--release", "--package", "asof-cli"]))?;
    let server = setup::trees_directory()?.join("15/bin");
    let server = server.canonicalize().map_err(|error| format!("{}: {error}", server.display()))?;
    run::visibly(Command::new(release_directory().join("asof")).args(["demo", "--bindir"]).arg(server))
}

fn release_directory() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    place::workspace().join(target.unwrap_or_else(|| "target".into())).join("release")
}
