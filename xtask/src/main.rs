//! The project's only scripts: set up a machine, run the tests, show a demo, run campaigns.
//!
//! `cargo xtask` without arguments lists what there is. It depends on nothing but the standard library, so that on a
//! fresh machine it is built in seconds and can then say, and install, what everything else needs.

mod arguments;
mod catalogue;
mod demo;
mod docs;
#[path = "../../testkit/src/place.rs"]
mod place;
mod planted;
mod run;
mod servers;
mod setup;
mod simulation;
mod test;
#[cfg(test)]
mod tidy;

use arguments::Task;
use std::env;
use std::process::ExitCode;

/// What a task ends with: nothing more to say, or one clause for the operator.
type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let task = match arguments::parse(&words) {
        Ok(task) => task,
        Err(why) => {
            eprintln!("error: {why}\n\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    match perform(&task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: &Task) -> Outcome {
    match task {
        Task::Help => {
            println!("{}", arguments::USAGE);
            Ok(())
        }
        Task::Setup { quick } => setup::prepare(*quick),
        Task::Test { quick } => test::all(*quick),
        Task::Demo => demo::show(),
        Task::Docs => docs::write(),
        Task::Listed(entry) => (entry.run)(),
    }
}
