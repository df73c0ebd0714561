//! Runs the simulation for as long as one likes and prints what was tried.
//!
//! `campaign crash-points [--seeds N] [--from SEED]` stops every protocol at every call; `campaign contests [--seeds N]
//! [--from SEED]` lets writers compete. The last line of output is JSON: seeds and counts. Leaves with 1 when something does
//! not hold.

use std::ops::Range;
use std::process::ExitCode;

use asof_sim::campaign::{contests, crash_points};
use asof_sim::crash::Finding;
use asof_sim::scenarios::journal::Contested;
use serde_json::json;

const USAGE: &str = "usage: campaign crash-points|contests [--seeds N] [--from SEED]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((what, seeds)) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(what, seeds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(finding) => {
            println!("FAILED: {finding}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: &str, seeds: Range<u64>) -> Result<(), Box<Finding>> {
    let (from, to) = (seeds.start, seeds.end - 1);
    let counts = if what == "contests" {
        let total = contests(seeds)?;
        let Contested { acknowledged, refused, calls } = total;
        json!({ "acknowledged": acknowledged, "refused": refused, "calls": calls })
    } else {
        let total = crash_points(seeds, |part| println!("  {}: {}", part.name, part.tried))?;
        json!({ "calls": total.calls, "points": total.points, "restarts": total.restarts })
    };
    println!("{}", json!({ "campaign": what, "seeds": [from, to], "failed": 0, "counts": counts }));
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
