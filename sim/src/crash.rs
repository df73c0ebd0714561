//! Stops a piece of work at every call it makes, and checks what is left.
//!
//! A [`Scenario`] says what is prepared, what the work is, and what has to hold whatever happened. The enumerations run
//! the work once to learn its calls, and then let something happen at each of them: [`enumerate_crashes`] to the calls
//! that are made to a disk, [`enumerate_outages`] to those that are made to an object store, and
//! [`enumerate_interruptions`] lets a rival do all of its work just before each call.
//!
//! What is left is checked, a new process does the work again and has to succeed, and the check is made again. The first
//! thing that does not hold ends the enumeration with a [`Finding`]: the case, the seed, the last calls.

mod disk;
mod outage;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asof_repository::error::Error;
use asof_repository::store::{Retrying, Store};
use asof_world::World;
use async_trait::async_trait;

use crate::planted::Planted;

pub use disk::{enumerate_crashes, enumerate_interruptions};
pub use outage::enumerate_outages;

/// What a process works with.
#[derive(Clone)]
pub struct Machine {
    /// The machine.
    pub world: World,
    /// The store, as this process reaches it.
    pub store: Arc<dyn Store>,
}

/// Why a piece of work ended before it was done.
#[derive(Debug)]
pub enum Stop {
    /// A call failed: right when one was made to fail.
    Failed(Error),
    /// Something does not hold: never right.
    Broken(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(what) => f.write_str(what),
            Self::Failed(error) => {
                write!(f, "it failed: {error}")?;
                let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
        }
    }
}

/// How a piece of work or a check ends.
pub type Outcome<T = ()> = Result<T, Stop>;

/// Fails a check.
///
/// # Errors
/// Unless `holds`.
pub fn hold(holds: bool, what: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(Stop::Broken(what())) }
}

/// Work that has to survive everything.
#[async_trait]
pub trait Scenario: Send + Sync + 'static {
    /// What the preparation found out: keys, ids.
    type Context: Clone + Send + Sync + 'static;
    /// What was acknowledged so far. It outlives every process, as the memory of those who were told does.
    type Ledger: Clone + Default + Send + 'static;

    /// What is there before; durable when the work begins.
    async fn prepare(&self, machine: &Machine) -> Outcome<Self::Context>;

    /// The work, or the rest of it: it finds out by itself what was done before. Acknowledges in `ledger`.
    async fn work(&self, machine: &Machine, context: &Self::Context, ledger: &Mutex<Self::Ledger>) -> Outcome;

    /// What holds at any time, given what was acknowledged.
    async fn check(&self, machine: &Machine, context: &Self::Context, ledger: &Self::Ledger) -> Outcome;

    /// What another process wants at the same time.
    async fn rival(&self, _: &Machine, _: &Self::Context, _: &Mutex<Self::Ledger>) -> Outcome {
        Ok(())
    }
}

/// How thoroughly, and on what.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The seed of the run; others order tasks and draw ids in other ways.
    pub seed: u64,
    /// How many drawn mixtures of survivors are tried at every point.
    pub mixtures: u64,
    /// Of how many calls one is tried, counted from the seed; 1 is all of them.
    pub every: usize,
    /// For how long a process asks again before it believes an error; `None` is not at all.
    pub patience: Option<Duration>,
    /// Where the repository is made, below `/srv`. Only `/srv` is there at first.
    pub root: &'static str,
    /// A defect under the store, to see that it is found.
    pub planted: Option<Planted>,
}

impl Settings {
    /// What a test does in a few seconds.
    pub fn quick(seed: u64) -> Self {
        Self { seed, mixtures: 4, every: 1, patience: None, root: "/srv/asof", planted: None }
    }

    /// What a campaign does with one seed.
    pub fn thorough(seed: u64) -> Self {
        Self { mixtures: 12, ..Self::quick(seed) }
    }

    /// The calls that are tried, of `calls` and the end.
    fn tried(&self, calls: usize) -> impl Iterator<Item = usize> {
        let every = u64::try_from(self.every).expect("a usize fits");
        let first = usize::try_from(self.seed % every).expect("it is less than a usize");
        (first..=calls).step_by(self.every)
    }

    /// The same with a process that asks again.
    #[must_use]
    pub fn patient(self) -> Self {
        Self { patience: Some(Duration::from_secs(60)), ..self }
    }

    /// The same with a defect.
    #[must_use]
    pub fn with(self, planted: Planted) -> Self {
        Self { planted: Some(planted), ..self }
    }
}

/// How much was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Calls that the work makes when nothing goes wrong.
    pub calls: usize,
    /// Points at which something happened: stops, failed calls, interruptions.
    pub points: usize,
    /// States that a new process started on and finished the work from.
    pub restarts: usize,
}

impl std::ops::AddAssign for Tried {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.points += other.points;
        self.restarts += other.restarts;
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} calls, {} points, {} restarts", self.calls, self.points, self.restarts)
    }
}

/// Something that does not hold.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The seed of the run.
    pub seed: u64,
    /// What was done to the process, and what came after.
    pub case: String,
    /// The calls up to there, the last one last.
    pub calls: Vec<String>,
    /// What does not hold.
    pub what: String,
}

/// How many calls a finding shows.
const SHOWN_CALLS: usize = 12;

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n  seed {}, {}\n  last calls:", self.what, self.seed, self.case)?;
        let skipped = self.calls.len().saturating_sub(SHOWN_CALLS);
        self.calls[skipped..]
            .iter()
            .enumerate()
            .try_for_each(|(at, call)| writeln!(f, "    {:>3} {call}", skipped + at))
    }
}

impl std::error::Error for Finding {}

fn snapshot<L: Clone>(ledger: &Mutex<L>) -> L {
    ledger.lock().expect("no holder panics").clone()
}

/// An error is right where one was made; says whether there was none.
fn tolerate(outcome: Outcome) -> Outcome<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(Stop::Failed(_)) => Ok(false),
        Err(broken) => Err(broken),
    }
}

fn finding(seed: u64, case: &str, calls: &[String], stop: &Stop) -> Box<Finding> {
    Box::new(Finding { seed, case: case.to_owned(), calls: calls.to_vec(), what: stop.to_string() })
}

/// A panic of the code under test is a finding like any other.
pub(crate) fn guarded<T>(act: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it says nothing");
        Err(Stop::Broken(format!("panic: {text}")))
    })
}

fn patient(settings: &Settings, store: Arc<dyn Store>, world: &World) -> Arc<dyn Store> {
    match settings.patience {
        Some(patience) => Arc::new(Retrying::new(store, world.clone(), patience)),
        None => store,
    }
}
