//! Journals: appends that survive everything, and writers that compete for slots.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asof_repository::error::Error;
use asof_repository::journal::Journal;
use asof_repository::keyring::{Keyring, Signers};
use asof_repository::lineage::{Entry, Lineage, WalEvent};
use asof_repository::names::JournalOf;
use asof_repository::root;
use asof_repository::store::Retrying;
use asof_world::{Id, World};
use async_trait::async_trait;

use crate::crash::{Finding, Machine, Outcome, Scenario, Stop, guarded, hold};
use crate::{Faults, MemoryStore, Prng, Process, Simulation};

/// A repository with one registered lineage.
#[derive(Clone)]
pub struct Registered {
    /// All rights.
    pub keyring: Keyring,
    /// Whom it believes.
    pub signers: Signers,
    /// The lineage.
    pub lineage: Id,
}

impl Registered {
    /// Makes the repository and registers the lineage.
    pub async fn prepare(machine: &Machine) -> Outcome<Self> {
        let (mut repository, _) = root::init(&machine.world, machine.store.clone(), false).await?;
        let (lineage, _) = repository.register("instance", BTreeMap::new(), None).await?;
        let signers = repository.journal.signers().clone();
        Ok(Self { keyring: repository.keyring, signers, lineage })
    }

    /// Opens the lineage's journal.
    pub async fn journal(&self, machine: &Machine) -> Outcome<Journal<Lineage>> {
        let (world, store) = (machine.world.clone(), machine.store.clone());
        let (keyring, signers, of) = (self.keyring.clone(), self.signers.clone(), JournalOf::Lineage(self.lineage));
        Ok(Journal::open(world, store, keyring, signers, of, Lineage::default()).await?)
    }
}

/// An entry that says who wrote it and which one it is: a gap in WAL, for want of an entry made for counting.
fn note(writer: u32, serial: u64) -> Entry {
    Entry::WalGap { timeline: writer, from: serial, to: serial + 1, reason: "simulated".to_owned() }
}

/// Who wrote the note, and which one it is.
fn noted(event: &WalEvent) -> (u32, u64) {
    match event {
        WalEvent::Gap { timeline, from, .. } => (*timeline, *from),
        other => panic!("nobody wrote {other:?}"),
    }
}

/// What makes a writer count an entry as acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Its own append that returned.
    Appended,
    /// That, and whatever it reads when it opens the journal: others act on what they read.
    Read,
}

/// Appends a few notes. Acknowledged ones are there for ever, each once, in order; the chain holds; a new process goes on
/// with the next number.
pub struct Appends(pub Counts);

/// How many notes are appended.
const NOTES: u64 = 4;
/// Slot 1 holds the registration; notes follow.
const FIRST_NOTE: u64 = 2;

#[async_trait]
impl Scenario for Appends {
    type Context = Registered;
    /// The note in each acknowledged slot.
    type Ledger = BTreeMap<u64, (u32, u64)>;

    async fn prepare(&self, machine: &Machine) -> Outcome<Registered> {
        Registered::prepare(machine).await
    }

    async fn work(&self, machine: &Machine, registered: &Registered, ledger: &Mutex<Self::Ledger>) -> Outcome {
        let mut journal = registered.journal(machine).await?;
        let found: Vec<(u32, u64)> = journal.state().wal.iter().map(noted).collect();
        if self.0 == Counts::Read {
            ledger.lock().expect("no holder panics").extend((FIRST_NOTE..).zip(found.iter().copied()));
        }
        for serial in (0..NOTES).filter(|serial| !found.contains(&(1, *serial))) {
            let number = journal.append(0, note(1, serial)).await?;
            ledger.lock().expect("no holder panics").insert(number, (1, serial));
        }
        Ok(())
    }

    async fn check(&self, machine: &Machine, registered: &Registered, ledger: &Self::Ledger) -> Outcome {
        let journal = registered.journal(machine).await?;
        check_notes(&journal, ledger)
    }
}

/// Acknowledged notes stand in their slots, no note stands in two, and every slot counts.
fn check_notes(journal: &Journal<Lineage>, acknowledged: &BTreeMap<u64, (u32, u64)>) -> Outcome {
    let found: BTreeMap<u64, (u32, u64)> = (FIRST_NOTE..).zip(journal.state().wal.iter().map(noted)).collect();
    for (number, note) in acknowledged {
        let there = found.get(number);
        hold(there == Some(note), || format!("entry {number} was acknowledged as {note:?}, and is {there:?}"))?;
    }
    let once: BTreeSet<_> = found.values().collect();
    hold(once.len() == found.len(), || format!("a note stands twice: {found:?}"))?;
    hold(journal.voids().is_empty(), || format!("slots count for nothing: {:?}", journal.voids()))
}

// ---- Competing writers -----------------------------------------------------------------------------------------------

/// How many notes each writer wants to append.
const WANTED: u64 = 6;
/// The epochs of the three writers; the last one takes over.
const EPOCHS: [u64; 3] = [0, 0, 1];
/// By now everything is over: no request is on its way, and nobody is patient any longer.
const OVER: Duration = Duration::from_hours(6);
/// How long a writer asks again.
const PATIENCE: Duration = Duration::from_mins(10);

/// What the writers were told.
#[derive(Clone, Default)]
struct Told {
    /// Slot and note of every append that returned.
    acknowledged: BTreeMap<u64, (u32, u64)>,
    /// The slot of the takeover, once it returned.
    takeover: Option<u64>,
    /// Writers that were refused because of their epoch.
    refused: BTreeSet<u32>,
    /// Writers that reached their end, whichever it was.
    ended: BTreeSet<u32>,
}

/// What a contest came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contested {
    /// Appends that returned.
    pub acknowledged: usize,
    /// Writers that were refused after the takeover.
    pub refused: usize,
    /// Calls that the store answered or lost.
    pub calls: usize,
}

impl std::ops::AddAssign for Contested {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.calls += other.calls;
    }
}

impl fmt::Display for Contested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries acknowledged, {} writers refused, {} calls", self.acknowledged, self.refused, self.calls)
    }
}

/// Two writers of one epoch append to one journal, and a third takes over with a higher one, while answers get lost,
/// connections are cut, processes are frozen, thawed and killed, and calendars jump. Every acknowledged entry stands in
/// its slot, each once; nothing of the old epoch follows the takeover; afterwards the journal can be written again.
///
/// # Errors
/// What does not hold.
pub fn contest(seed: u64) -> Result<Contested, Box<Finding>> {
    contest_on(seed, MemoryStore::new)
}

/// The same on a store of the caller's making.
///
/// # Errors
/// What does not hold.
pub fn contest_on(seed: u64, make: impl FnOnce(&World, u64) -> MemoryStore) -> Result<Contested, Box<Finding>> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    let outcome = guarded(|| {
        let simulation = Simulation::new(seed);
        let processes = EPOCHS.map(|_| simulation.process());
        simulation.run(|world| {
            let store = make(&world, seed);
            async move { run_contest(&world, &store, processes, seed, &seen).await }
        })
    });
    let calls = calls.lock().expect("no holder panics").clone();
    outcome.map_err(|stop| Box::new(Finding { seed, case: "a contest".to_owned(), calls, what: stop.to_string() }))
}

async fn run_contest(
    world: &World,
    store: &MemoryStore,
    processes: [Process; 3],
    seed: u64,
    calls: &Mutex<Vec<String>>,
) -> Outcome<Contested> {
    let plain = Machine { world: world.clone(), store: Arc::new(store.clone()) };
    let registered = Registered::prepare(&plain).await?;
    let told = Arc::new(Mutex::new(Told::default()));
    let mut draw = Prng::new(seed);
    let connections: Vec<MemoryStore> =
        processes.iter().map(|process| store.client(&process.world(), draw.next_u64())).collect();
    let rates = [0, 20, 200][draw.index(3)];
    for (writer, (process, connection)) in (0u32..).zip(processes.iter().zip(&connections)) {
        let slowest = Duration::from_millis(500);
        connection.set_faults(Faults { unavailable: rates, uncertain: rates, slowest, ..Faults::default() });
        let own = process.world();
        let patient = Retrying::new(Arc::new(connection.clone()), own.clone(), PATIENCE);
        let machine = Machine { world: own.clone(), store: Arc::new(patient) };
        let writer = Writer { number: writer, registered: registered.clone(), machine, told: told.clone() };
        drop(own.spawn(writer.write(Prng::new(draw.next_u64()))));
    }
    disturb(world, &processes, &connections, &mut draw).await;
    world.sleep(OVER).await;
    calls.lock().expect("no holder panics").extend(connections.iter().flat_map(MemoryStore::calls));
    let told = told.lock().expect("no holder panics").clone();
    check_contest(&plain, &registered, &told).await?;
    let changed = store.changed();
    hold(changed.is_empty(), || format!("objects changed after they were created: {}", changed.join(", ")))?;
    let calls = connections.iter().map(|connection| connection.calls().len()).sum();
    Ok(Contested { acknowledged: told.acknowledged.len(), refused: told.refused.len(), calls })
}

/// Freezes, thaws, cuts, mends, puts clocks wrong; sometimes kills one of the older writers.
async fn disturb(world: &World, processes: &[Process; 3], connections: &[MemoryStore], draw: &mut Prng) {
    for _ in 0..draw.below(12) {
        let at = draw.index(processes.len());
        match draw.below(8) {
            0 | 1 => processes[at].freeze(),
            2 => connections[at].set_partitioned(true),
            3 => processes[at].clock().jump_forward(Duration::from_hours(draw.below(24 * 365))),
            4 => processes[at].clock().jump_back(Duration::from_hours(draw.below(24 * 365))),
            5 if at < 2 => processes[at].kill(),
            _ => {}
        }
        world.sleep(Duration::from_millis(draw.below(3000))).await;
        if draw.chance(700) {
            processes[at].thaw();
            connections[at].set_partitioned(false);
        }
    }
    processes.iter().for_each(Process::thaw);
    connections.iter().for_each(|connection| connection.set_partitioned(false));
}

async fn check_contest(plain: &Machine, registered: &Registered, told: &Told) -> Outcome {
    let mut journal = registered.journal(plain).await?;
    hold(told.ended.contains(&2), || "the writer that took over never came to an end".to_owned())?;
    // The takeover holds a slot and leaves no note; slots behind it are counted without it.
    let shifted = told.acknowledged.iter().map(|(number, note)| {
        let behind = told.takeover.is_some_and(|takeover| *number > takeover);
        (if behind { number - 1 } else { *number }, *note)
    });
    check_notes(&journal, &shifted.collect())?;
    for (number, (writer, serial)) in &told.acknowledged {
        let late = told.takeover.is_some_and(|takeover| *number > takeover) && EPOCHS[*writer as usize] == 0;
        hold(!late, || format!("note {serial} of writer {writer} followed the takeover in slot {number}"))?;
    }
    let epoch = journal.state().epoch;
    journal.append(epoch, note(9, 0)).await?;
    Ok(())
}

struct Writer {
    number: u32,
    registered: Registered,
    machine: Machine,
    told: Arc<Mutex<Told>>,
}

impl Writer {
    async fn write(self, mut draw: Prng) {
        let epoch = EPOCHS[self.number as usize];
        let pause = |draw: &mut Prng| Duration::from_millis(draw.below(2000));
        if epoch > 0 {
            self.machine.world.sleep(3 * pause(&mut draw)).await;
        }
        let mut journal = self.open().await;
        if epoch > 0 {
            let reason = "the other machine is gone".to_owned();
            let number = self.until_known(&mut journal, epoch, Entry::Takeover { reason }).await;
            self.told.lock().expect("no holder panics").takeover = number;
        }
        for serial in 0..WANTED {
            match journal.append(epoch, note(self.number, serial)).await {
                Ok(number) => {
                    let mut told = self.told.lock().expect("no holder panics");
                    told.acknowledged.insert(number, (self.number, serial));
                }
                Err(Error::Conflict { .. }) => {
                    self.told.lock().expect("no holder panics").refused.insert(self.number);
                    break;
                }
                // Whether it stands there is not known; the next note is another one.
                Err(_) => {}
            }
            self.machine.world.sleep(pause(&mut draw)).await;
        }
        self.told.lock().expect("no holder panics").ended.insert(self.number);
    }

    async fn open(&self) -> Journal<Lineage> {
        loop {
            match self.registered.journal(&self.machine).await {
                Ok(journal) => return journal,
                Err(Stop::Failed(error)) if error.is_transient() => {}
                Err(stop) => panic!("writer {} cannot open the journal: {stop}", self.number),
            }
        }
    }

    /// Appends the takeover; when it is not known whether it did, the journal tells, by the epoch in force.
    async fn until_known(&self, journal: &mut Journal<Lineage>, epoch: u64, entry: Entry) -> Option<u64> {
        loop {
            match journal.append(epoch, entry.clone()).await {
                Ok(number) => return Some(number),
                Err(error) if error.is_transient() => {}
                Err(_) => return None,
            }
        }
    }
}
