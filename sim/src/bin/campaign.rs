//! Runs the simulation for as long as one likes and prints what was tried.
//!
//! `campaign crash-points [--seeds N] [--from SEED]` stops every protocol at every call; `campaign contests [--seeds N]
//! [--from SEED]` lets writers compete. Leaves with 1 when something does not hold.

use std::ops::Range;
use std::process::ExitCode;

use asof_sim::campaign::{contests, crash_points};
use asof_sim::crash::Finding;

const USAGE: &str = "usage: campaign crash-points|contests [--seeds N] [--from SEED]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((what, seeds)) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    println!("{what}: seeds {} to {}", seeds.start, seeds.end - 1);
    match run(what, seeds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(finding) => {
            println!("FAILED: {finding}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: &str, seeds: Range<u64>) -> Result<(), Box<Finding>> {
    if what == "contests" {
        println!("{}", contests(seeds)?);
        return Ok(());
    }
    let total = crash_points(seeds, |part| println!("  {}: {}", part.name, part.tried))?;
    println!("in all: {total}");
    Ok(())
}

fn parse(arguments: &[String]) -> Option<(&str, Range<u64>)> {
    let (what, options) = arguments.split_first()?;
    let (mut count, mut from) = (1, 0);
    for option in options.chunks(2) {
        let value = option.get(1)?.parse().ok()?;
        match option[0].as_str() {
            "--seeds" => count = value,
            "--from" => from = value,
            _ => return None,
        }
    }
    let known = ["crash-points", "contests"].contains(&what.as_str());
    (known && count > 0).then_some((what, from..from.checked_add(count)?))
}
