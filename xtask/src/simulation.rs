//! Campaigns that need no server: the simulation for many seeds, and a repository with flipped bits.

use crate::{Outcome, run};

/// Stops every protocol at every call.
pub(crate) fn crash_points() -> Outcome {
    campaign(&["crash-points", "--seeds", "20"])
}

/// Lets writers compete.
pub(crate) fn contests() -> Outcome {
    campaign(&["contests", "--seeds", "3000"])
}

/// Flips bits of a repository, each of which somebody must notice.
pub(crate) fn flips() -> Outcome {
    commit();
    let mut cargo = run::cargo();
    cargo.args(["test", "--release", "--package", "asof-repository", "--test", "flips", "--", "--nocapture"]);
    cargo.env("ASOF_FLIPS", "10000");
    run::visibly(&mut cargo)
}

fn campaign(arguments: &[&str]) -> Outcome {
    commit();
    let mut cargo = run::cargo();
    cargo.args(["run", "--release", "--package", "asof-sim", "--bin", "campaign", "--"]).args(arguments);
    run::visibly(&mut cargo)
}

/// A figure counts for the commit that it was made with.
pub(crate) fn commit() {
    let mut git = std::process::Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=12"]).current_dir(crate::place::workspace());
    println!("commit {}", run::quietly(&mut git).unwrap_or_else(|| "unknown".to_owned()));
}
