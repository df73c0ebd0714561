//! Stops a piece of work at every call it makes, and checks what is left.
//!
//! A [`Scenario`] says what is prepared, what the work is, and what has to hold whatever happened. The enumeration runs
//! the work once to learn its calls. Then, for every call:
//!
//! - the process **stops** just before it. Another one starts on what is left: on the disk as the processes saw it (the
//!   process was killed), and on what may survive a power cut, from everything to nothing and in drawn mixtures;
//! - the call **fails** once (refused, half done, done but reported as failed, a sync that forgets), the process goes on
//!   as it does after an error, and then the power goes.
//!
//! What is left is checked. The new process is stopped too, after a few calls, and the power goes. Then it does the work
//! again, which has to succeed, the check is made again, and once more after a last power cut that keeps nothing unsynced. [`enumerate_outages`] does the same to the calls that are
//! made to an object store, where answers get lost; [`enumerate_interruptions`] lets a rival do all of its work just
//! before each call.
//!
//! The first thing that does not hold ends the enumeration with a [`Finding`]: the case, the seed, the last calls.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asof_repository::error::Error;
use asof_repository::store::local::LocalStore;
use asof_repository::store::{Retrying, Store};
use asof_world::{Files, World};
use async_trait::async_trait;

use crate::planted::Planted;
use crate::{Answer, Call, Fault, MemoryStore, Prng, SimFiles, Simulation, Trouble, Unsynced};

/// The directory that an operator provides for repositories; it is there at first.
const PROVIDED: &str = "/srv";

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

/// A process that is stopped a second time gets at most this far.
const SECOND_STOPS: usize = 12;
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

/// What is done to a process at one of its calls on the disk.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Stopped,
    Fails(Fault),
}

/// How a new process comes to its disk.
#[derive(Clone, Copy, Debug)]
enum Restart {
    Killed,
    PowerCut(Unsynced),
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed => f.write_str("the process was killed"),
            Self::PowerCut(unsynced) => write!(f, "the power went, unsynced: {unsynced:?}"),
        }
    }
}

impl Restart {
    fn disk(self, files: &SimFiles) -> SimFiles {
        match self {
            Self::Killed => files.copy(),
            Self::PowerCut(unsynced) => files.copy_after_power_cut(unsynced),
        }
    }
}

/// The faults that a call can have.
fn faults_of(call: &Call) -> &'static [Fault] {
    const FULL: Fault = Fault::Refused(Trouble::Full);
    const DONE: Fault = Fault::DoneButFailed(Trouble::Device);
    match call.operation {
        "write" => &[FULL, Fault::Halfway(Trouble::Full), DONE],
        "sync" => &[Fault::Refused(Trouble::Device), Fault::Forgets, DONE],
        _ => &[FULL, DONE],
    }
}

/// A scenario on a disk.
struct OnDisk<S: Scenario> {
    scenario: Arc<S>,
    settings: Settings,
    context: S::Context,
    base: SimFiles,
    tried: Tried,
}

/// What is left of a process.
struct Left<L> {
    files: SimFiles,
    ledger: L,
}

/// What is left of a process when it meets an error, and when it went on in spite of it.
struct LeftTwice<L> {
    at_once: Left<L>,
    later: Left<L>,
}

/// Enumerates what can happen to work on a [`LocalStore`].
///
/// # Errors
/// The first thing that does not hold.
pub fn enumerate_crashes<S: Scenario>(settings: &Settings, scenario: S) -> Result<Tried, Box<Finding>> {
    let mut run = OnDisk::prepare(settings, scenario)?;
    let calls = run.undisturbed()?;
    run.tried.calls = calls.len();
    for number in settings.tried(calls.len()) {
        run.try_point(number, Happening::Stopped, &calls)?;
        for fault in calls.get(number).map_or(&[][..], faults_of) {
            run.try_point(number, Happening::Fails(*fault), &calls)?;
        }
    }
    Ok(run.tried)
}

/// Lets the rival of a scenario do all of its work just before each call on the disk.
///
/// # Errors
/// The first thing that does not hold.
pub fn enumerate_interruptions<S: Scenario>(settings: &Settings, scenario: S) -> Result<Tried, Box<Finding>> {
    let mut run = OnDisk::prepare(settings, scenario)?;
    let calls = run.undisturbed()?;
    run.tried.calls = calls.len();
    for number in settings.tried(calls.len()) {
        let case = format!("a rival works before call {number}");
        let outcome = guarded(|| run.interrupted(number));
        let left = run.judge(&case, &calls[..number], outcome)?;
        run.tried.points += 1;
        run.restart_everywhere(&case, &calls[..number], &left)?;
    }
    Ok(run.tried)
}

impl<S: Scenario> OnDisk<S> {
    fn prepare(settings: &Settings, scenario: S) -> Result<Self, Box<Finding>> {
        let (scenario, base) = (Arc::new(scenario), SimFiles::new());
        base.create_dir(Path::new(PROVIDED), 0o755).expect("an empty disk takes a directory");
        let work = scenario.clone();
        let prepared = guarded(|| {
            // What is prepared is prepared without defects.
            let settings = Settings { planted: None, ..settings.clone() };
            on_disk(&settings, settings.seed, &base, async move |machine| work.prepare(&machine).await)
        });
        let context = prepared.map_err(|stop| finding(settings.seed, "nothing happened: preparing", &[], &stop))?;
        base.settle();
        Ok(Self { scenario, settings: settings.clone(), context, base, tried: Tried::default() })
    }

    /// The calls of the work when nothing goes wrong, which has to succeed.
    fn undisturbed(&mut self) -> Result<Vec<Call>, Box<Finding>> {
        let files = self.base.copy();
        let outcome = guarded(|| {
            let ledger = Arc::default();
            self.work(self.settings.seed, &files, &ledger)?;
            Ok(Left { files: files.copy(), ledger: snapshot(&ledger) })
        });
        let left = self.judge("nothing happened", &files.calls(), outcome)?;
        self.restart_everywhere("nothing happened", &files.calls(), &left)?;
        Ok(files.calls())
    }

    /// One happening at one call, and everything after it.
    fn try_point(&mut self, number: usize, happening: Happening, calls: &[Call]) -> Result<(), Box<Finding>> {
        let shown = &calls[..calls.len().min(number + 1)];
        self.tried.points += 1;
        match happening {
            Happening::Stopped => {
                let case = format!("stopped before call {number}");
                let outcome = guarded(|| self.stopped(number));
                let left = self.judge(&case, shown, outcome)?;
                self.restart_everywhere(&case, shown, &left)
            }
            Happening::Fails(fault) => {
                let case = format!("call {number} failed ({fault:?})");
                let outcome = guarded(|| self.failed(number, fault));
                let LeftTwice { at_once, later } = self.judge(&case, shown, outcome)?;
                self.restart_everywhere(&case, shown, &at_once)?;
                self.restart_everywhere(&format!("{case}, and the process went on"), shown, &later)
            }
        }
    }

    fn stopped(&self, number: usize) -> Outcome<Left<S::Ledger>> {
        let (files, ledger) = (self.base.copy(), Arc::default());
        files.stop_at(number);
        tolerate(self.work(self.settings.seed, &files, &ledger))?;
        Ok(Left { files, ledger: snapshot(&ledger) })
    }

    /// The process meets one error and then tries once more.
    fn failed(&self, number: usize, fault: Fault) -> Outcome<LeftTwice<S::Ledger>> {
        let (files, ledger) = (self.base.copy(), Arc::new(Mutex::new(S::Ledger::default())));
        files.fail_at(number, fault);
        let (scenario, context, disk, seen) =
            (self.scenario.clone(), self.context.clone(), files.clone(), ledger.clone());
        let at_once = on_disk(&self.settings, self.settings.seed, &files, async move |machine| {
            let outcome = tolerate(scenario.work(&machine, &context, &seen).await);
            let at_once = Left { files: disk.copy(), ledger: snapshot(&seen) };
            if !outcome? {
                scenario.work(&machine, &context, &seen).await?;
            }
            Outcome::Ok(at_once)
        })?;
        Ok(LeftTwice { at_once, later: Left { files, ledger: snapshot(&ledger) } })
    }

    fn interrupted(&self, number: usize) -> Outcome<Left<S::Ledger>> {
        let (files, ledger) = (self.base.copy(), Arc::new(Mutex::new(S::Ledger::default())));
        let (scenario, context, seen) = (self.scenario.clone(), self.context.clone(), ledger.clone());
        let (neighbour, settings) = (files.neighbour(), self.settings.clone());
        let met = Arc::new(Mutex::new(Ok(())));
        let told = met.clone();
        files.interrupt_at(number, move || {
            let rival = on_disk(&settings, settings.seed + 1, &neighbour, async move |machine| {
                scenario.rival(&machine, &context, &seen).await
            });
            *told.lock().expect("no holder panics") = rival;
        });
        self.work(self.settings.seed, &files, &ledger)?;
        std::mem::replace(&mut *met.lock().expect("no holder panics"), Ok(()))?;
        Ok(Left { files, ledger: snapshot(&ledger) })
    }

    /// New processes start on all that may be left, and finish the work.
    fn restart_everywhere(&mut self, case: &str, calls: &[Call], left: &Left<S::Ledger>) -> Result<(), Box<Finding>> {
        let mixtures = (0..self.settings.mixtures).map(|mixture| Unsynced::Mixed(self.settings.seed ^ mixture << 32));
        let cuts = [Unsynced::Lost, Unsynced::Kept].into_iter().chain(mixtures).map(Restart::PowerCut);
        for restart in std::iter::once(Restart::Killed).chain(cuts) {
            self.tried.restarts += 1;
            let outcome = guarded(|| self.finish(&restart.disk(&left.files), &left.ledger));
            self.judge(&format!("{case}; {restart}"), calls, outcome)?;
        }
        Ok(())
    }

    fn finish(&self, disk: &SimFiles, ledger: &S::Ledger) -> Outcome {
        self.check("after the restart", disk, ledger)?;
        self.stop_again(disk, ledger)?;
        let ledger = Arc::new(Mutex::new(ledger.clone()));
        self.work(self.settings.seed + 2, disk, &ledger)
            .map_err(|stop| Stop::Broken(format!("the work cannot be finished: {stop}")))?;
        let ledger = snapshot(&ledger);
        self.check("after the work was finished", disk, &ledger)?;
        self.check("after a last power cut", &disk.copy_after_power_cut(Unsynced::Lost), &ledger)
    }

    /// The new process does not get far either: what it acknowledged meanwhile has to be durable, too.
    fn stop_again(&self, disk: &SimFiles, ledger: &S::Ledger) -> Outcome {
        let (files, ledger) = (disk.copy(), Arc::new(Mutex::new(ledger.clone())));
        let mut draw = Prng::new(self.settings.seed ^ self.tried.restarts as u64);
        let number = draw.index(SECOND_STOPS);
        let unsynced = if draw.chance(500) { Unsynced::Lost } else { Unsynced::Mixed(draw.next_u64()) };
        files.stop_at(number);
        tolerate(self.work(self.settings.seed + 2, &files, &ledger))?;
        let when =
            format!("after the new process was stopped before its call {number} and the power went ({unsynced:?})");
        self.check(&when, &files.copy_after_power_cut(unsynced), &snapshot(&ledger))
    }

    fn work(&self, seed: u64, files: &SimFiles, ledger: &Arc<Mutex<S::Ledger>>) -> Outcome {
        let (scenario, context, ledger) = (self.scenario.clone(), self.context.clone(), ledger.clone());
        on_disk(&self.settings, seed, files, async move |machine| scenario.work(&machine, &context, &ledger).await)
    }

    fn check(&self, when: &str, files: &SimFiles, ledger: &S::Ledger) -> Outcome {
        let (scenario, context, ledger) = (self.scenario.clone(), self.context.clone(), ledger.clone());
        on_disk(&self.settings, self.settings.seed + 3, files, async move |machine| {
            scenario.check(&machine, &context, &ledger).await
        })
        .map_err(|stop| Stop::Broken(format!("{when}: {stop}")))
    }

    fn judge<T>(&self, case: &str, calls: &[Call], outcome: Outcome<T>) -> Result<T, Box<Finding>> {
        let shown: Vec<String> = calls.iter().map(Call::to_string).collect();
        outcome.map_err(|stop| finding(self.settings.seed, case, &shown, &stop))
    }
}

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

/// Runs one process on a disk.
fn on_disk<T, F>(settings: &Settings, seed: u64, files: &SimFiles, process: impl FnOnce(Machine) -> F) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let planted = settings.planted;
    Simulation::new(seed).with_files(files).run(|mut world| {
        if let Some(planted) = planted {
            world.files = planted.over(world.files);
        }
        let store: Arc<dyn Store> = Arc::new(LocalStore::new(world.clone(), settings.root));
        process(Machine { store: patient(settings, store, &world), world })
    })
}

fn patient(settings: &Settings, store: Arc<dyn Store>, world: &World) -> Arc<dyn Store> {
    match settings.patience {
        Some(patience) => Arc::new(Retrying::new(store, world.clone(), patience)),
        None => store,
    }
}

// ---- The same on an object store -------------------------------------------------------------------------------------

/// What happens to a process at one of its calls to an object store.
#[derive(Clone, Copy, Debug)]
enum Outage {
    Stopped,
    Answered(Answer),
}

/// Later than any request that was given up is done.
const LATE: Duration = Duration::from_secs(20);

const OUTAGES: [Outage; 5] = [
    Outage::Stopped,
    Outage::Answered(Answer::Unavailable),
    Outage::Answered(Answer::LostUndone),
    Outage::Answered(Answer::LostDone),
    Outage::Answered(Answer::LostDoneLater(LATE)),
];

/// Enumerates what can happen to work on an object store: at every call the process stops, or the answer goes wrong in
/// each way; in either case once with the caller going on, and then a new process finishes the work.
///
/// # Errors
/// The first thing that does not hold.
pub fn enumerate_outages<S: Scenario>(settings: &Settings, scenario: S) -> Result<Tried, Box<Finding>> {
    let scenario = Arc::new(scenario);
    let mut tried = Tried::default();
    let calls = outage(settings, &scenario, None)
        .map_err(|(stop, calls)| finding(settings.seed, "nothing happened", &calls, &stop))?;
    tried.calls = calls.len();
    for number in settings.tried(calls.len().saturating_sub(1)) {
        for happens in OUTAGES {
            tried.points += 1;
            tried.restarts += 1;
            let result = outage(settings, &scenario, Some((number, happens)));
            result.map_err(|(stop, calls)| {
                finding(settings.seed, &format!("call {number}: {happens:?}"), &calls, &stop)
            })?;
        }
    }
    Ok(tried)
}

/// One run: the first process meets the outage, the second finishes. The calls are those of the first.
fn outage<S: Scenario>(
    settings: &Settings,
    scenario: &Arc<S>,
    happens: Option<(usize, Outage)>,
) -> Result<Vec<String>, (Stop, Vec<String>)> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (scenario, settings, seen) = (scenario.clone(), settings.clone(), calls.clone());
    let outcome = guarded(|| {
        Simulation::new(settings.seed)
            .run(|world| async move { through_outage(&world, &settings, scenario.as_ref(), happens, &seen).await })
    });
    let calls = snapshot(&calls);
    outcome.map(|()| calls.clone()).map_err(|stop| (stop, calls))
}

async fn through_outage<S: Scenario>(
    world: &World,
    settings: &Settings,
    scenario: &S,
    happens: Option<(usize, Outage)>,
    calls: &Mutex<Vec<String>>,
) -> Outcome {
    let objects = MemoryStore::new(world, settings.seed);
    let connect = |connection: &MemoryStore| Machine {
        world: world.clone(),
        store: patient(settings, Arc::new(connection.clone()), world),
    };
    let context = scenario.prepare(&connect(&objects)).await?;
    let (first, second) = (objects.client(world, 1), objects.client(world, 2));
    match happens {
        Some((number, Outage::Stopped)) => first.stop_at(number),
        Some((number, Outage::Answered(answer))) => first.fail_at(number, answer),
        None => {}
    }
    let ledger = Mutex::new(S::Ledger::default());
    let outcome = scenario.work(&connect(&first), &context, &ledger).await;
    *calls.lock().expect("no holder panics") = first.calls();
    if happens.is_some() {
        tolerate(outcome)?;
    } else {
        outcome?;
    }
    let machine = connect(&second);
    for when in ["at once", "once more"] {
        let broken = |stop: Stop| Stop::Broken(format!("{when}: {stop}"));
        scenario.check(&machine, &context, &snapshot(&ledger)).await.map_err(broken)?;
        scenario.work(&machine, &context, &ledger).await.map_err(broken)?;
        scenario.check(&machine, &context, &snapshot(&ledger)).await.map_err(broken)?;
        world.sleep(2 * LATE).await;
    }
    scenario.check(&machine, &context, &snapshot(&ledger)).await?;
    let changed = objects.changed();
    hold(changed.is_empty(), || format!("objects changed after they were created: {}", changed.join(", ")))
}
