//! Runs the simulation for as long as one likes and prints what was tried.
//!
//! `campaign crash-points [--seeds N] [--from SEED] [--only TEXT]` stops every protocol at every call; `campaign contests
//! [--seeds N] [--from SEED]` lets writers compete. The last line of output is JSON: seeds and counts. Leaves with 1 when
//! something does not hold.

use std::ops::Range;
use std::process::ExitCode;

use asof_sim::campaign::{Part, contests, crash_points};
use asof_sim::crash::{Finding, Tried};
use asof_sim::scenarios::journal::Contested;
use serde_json::{Value, json};

const USAGE: &str = "usage: campaign crash-points|contests [--seeds N] [--from SEED] [--only TEXT]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(request) = Request::parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match request.run() {
        Ok(counts) => {
            let seeds = [request.seeds.start, request.seeds.end - 1];
            println!("{}", json!({ "campaign": request.what, "seeds": seeds, "failed": 0, "counts": counts }));
            ExitCode::SUCCESS
        }
        Err(finding) => {
            println!("FAILED: {finding}");
            ExitCode::FAILURE
        }
    }
}

struct Request {
    what: String,
    seeds: Range<u64>,
    only: String,
}

impl Request {
    fn parse(arguments: &[String]) -> Option<Self> {
        let (what, options) = arguments.split_first()?;
        let (mut count, mut from, mut only) = (1, 0, String::new());
        for option in options.chunks(2) {
            let value = option.get(1)?;
            match option[0].as_str() {
                "--seeds" => count = value.parse().ok()?,
                "--from" => from = value.parse().ok()?,
                "--only" => only.clone_from(value),
                _ => return None,
            }
        }
        let known = ["crash-points", "contests"].contains(&what.as_str());
        let request = Self { what: what.clone(), seeds: from..from.checked_add(count)?, only };
        (known && count > 0).then_some(request)
    }

    fn run(&self) -> Result<Value, Box<Finding>> {
        if self.what == "contests" {
            let Contested { acknowledged, refused, calls } = contests(self.seeds.clone())?;
            return Ok(json!({ "acknowledged": acknowledged, "refused": refused, "calls": calls }));
        }
        let tell = |part: &Part| println!("  {}: {}", part.name, part.tried);
        let Tried { calls, points, restarts } = crash_points(self.seeds.clone(), &self.only, tell)?;
        Ok(json!({ "calls": calls, "points": points, "restarts": restarts }))
    }
}
