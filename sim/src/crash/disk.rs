//! Crashes: what can happen to work on a disk.
//!
//! For every call that changes something:
//!
//! - the process **stops** just before it. Another one starts on what is left: on the disk as the processes saw it (the
//!   process was killed), and on what may survive a power cut, from everything to nothing and in drawn mixtures;
//! - the call **fails** once (refused, half done, done but reported as failed, a sync that forgets), the process goes on
//!   as it does after an error, and then the power goes.
//!
//! The new process is stopped too, after a few calls, and the power goes: what it acknowledged has to be durable as well.
//! Then it finishes the work, and a last power cut keeps nothing that was not synced.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use asof_repository::store::Store;
use asof_repository::store::local::LocalStore;
use asof_world::Files;

use super::{
    Finding, Machine, Outcome, Scenario, Settings, Stop, Tried, finding, guarded, patient, snapshot, tolerate,
};
use crate::{Call, Fault, Prng, SimFiles, Simulation, Trouble, Unsynced};

/// The directory that an operator provides for repositories; it is there at first.
const PROVIDED: &str = "/srv";
/// A process that is stopped a second time gets at most this far.
const SECOND_STOPS: usize = 12;

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
            let case = format!("{case}; {restart}");
            let outcome = guarded(|| self.finish(&case, &restart.disk(&left.files), &left.ledger));
            self.judge(&case, calls, outcome)?;
        }
        Ok(())
    }

    fn finish(&self, case: &str, disk: &SimFiles, ledger: &S::Ledger) -> Outcome {
        self.check("after the restart", disk, ledger)?;
        self.stop_again(case, disk, ledger)?;
        let ledger = Arc::new(Mutex::new(ledger.clone()));
        self.work(self.settings.seed + 2, disk, &ledger)
            .map_err(|stop| Stop::Broken(format!("the work cannot be finished: {stop}")))?;
        let ledger = snapshot(&ledger);
        self.check("after the work was finished", disk, &ledger)?;
        self.check("after a last power cut", &disk.copy_after_power_cut(Unsynced::Lost), &ledger)
    }

    /// The new process does not get far either: what it acknowledged meanwhile has to be durable, too.
    fn stop_again(&self, case: &str, disk: &SimFiles, ledger: &S::Ledger) -> Outcome {
        let (files, ledger) = (disk.copy(), Arc::new(Mutex::new(ledger.clone())));
        // Drawn from the case alone, so that it is the same whatever else is tried.
        let mut draw = Prng::new(
            case.bytes().fold(self.settings.seed, |sum, byte| sum.rotate_left(7).wrapping_add(u64::from(byte))),
        );
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
