//! Campaigns on real servers and file systems: tests of every run, told by the environment to go on for longer.
//!
//! They are built with optimisation, print what they count as lines of JSON, and leave nothing behind. A defect that
//! such a test has to find is planted afterwards, in a short run.

use crate::planted::registry::Plant;
use crate::test::Watch;
use crate::{Outcome, place, planted, run, setup, simulation};
use std::fs;
use std::process;

/// The full cycle in every combination.
pub(crate) fn matrix() -> Outcome {
    longer("asof-engine", "matrix", &[("ASOF_MATRIX", "full")])
}

/// The repository's file system loses power five hundred times.
pub(crate) fn power_cuts() -> Outcome {
    longer("asof-sim", "power_cuts", &[("ASOF_POWER_CUTS", "500")])?;
    planted::alone(&NO_DIRECTORY_SYNC)
}

/// Production is lost with thousands of commits in the ledger, again and again.
pub(crate) fn ledger() -> Outcome {
    longer("asof-engine", "ledger", &[("ASOF_LEDGER_KILLS", "24"), ("ASOF_LEDGER_COMMITS", "3000")])?;
    planted::alone(&TOO_EARLY)
}

const TOO_EARLY: Plant = Plant {
    id: "c1",
    package: "asof-engine",
    target: "ledger",
    test: "hz_c1_every_commit_that_a_synchronous_server_acknowledged_is_in_the_default_restore",
    defect: "what was received is reported as stored",
};

/// Measures what a backup takes besides its pages.
pub(crate) fn sizes() -> Outcome {
    longer("asof-engine", "sizes", &[("ASOF_SIZES_MIB", "10500")])
}

const NO_DIRECTORY_SYNC: Plant = Plant {
    id: "f2",
    package: "asof-sim",
    target: "power_cuts",
    test: "hz_f2_what_was_acknowledged_is_whole_after_every_power_cut_of_a_real_file_system",
    defect: "the directory of a new object is not synced",
};

/// Runs the tests of one target with the environment that makes them long, on all majors.
fn longer(package: &str, target: &str, environment: &[(&str, &str)]) -> Outcome {
    setup::prepare(false)?;
    simulation::commit();
    let shared = place::shared().map_err(|error| format!("no place for test data: {error}"))?;
    let data = shared.join("test-data").join(format!("{target}-{}", process::id()));
    fs::create_dir_all(data.join("tmp")).map_err(|error| format!("{}: {error}", data.display()))?;
    let watch = Watch::begin();
    let majors = setup::MAJORS.map(|major| major.to_string()).join(",");
    let mut command = run::cargo();
    command.args(["test", "--release", "--package", package, "--test", target, "--", "--nocapture"]);
    command.env("ASOF_TEST_PG", setup::trees_directory()?).env("ASOF_TEST_MAJORS", majors);
    command.env("ASOF_TEST_DATA", &data).env("TMPDIR", data.join("tmp")).envs(environment.iter().copied());
    let ran = run::visibly(&mut command);
    ran.and(watch.end(&data))
}
