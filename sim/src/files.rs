//! A disk in memory that forgets what was not synced.
//!
//! The content and length of a file survive a power cut once the file was synced; a name survives once the directory
//! that holds it was synced. What was not synced may survive in any combination ([`Unsynced`]): names of one directory
//! without those of another, a length without its content, a write torn at 512-byte sectors. Owner and permission bits
//! are only stored.
//!
//! Calls that change something are numbered and recorded, so that a test can stop the process at each of them, let each
//! of them fail ([`Fault`]), or let another process run just before it. A [`SimFiles`] is what *one process* sees;
//! [`SimFiles::neighbour`] is another process on the same disk, with calls and faults of its own.
//!
//! A failed sync of a file forgets what was dirty and says so once, as kernels do (hazard F3: "fsyncgate"). A failed
//! sync of a directory leaves its names as they were, not durable: file systems with a journal do that or stop.

mod disk;
mod unsynced;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use asof_world::{Attributes, Clock, DirEntry, Files, Owner, ReadFile, WriteFile, WriteMode};

use crate::{Prng, SimClock};
use disk::{Disk, Mutation};
use unsynced::Survivors;

/// What becomes of changes that were not synced when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// All of them are gone: the least that a file system may keep.
    Lost,
    /// All of them are there, as if the machine had been given time.
    Kept,
    /// Some of them are there; the seed says which.
    Mixed(u64),
}

/// An error that the machine reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// EIO: the device failed.
    Device,
    /// ENOSPC: the disk is full.
    Full,
}

impl Trouble {
    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Device => disk::EIO,
            Self::Full => disk::ENOSPC,
        })
    }
}

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and changes nothing.
    Refused(Trouble),
    /// It fails after half of the bytes were written; calls that write nothing are refused.
    Halfway(Trouble),
    /// It is done, and reported as failed. A sync that "fails" so is a sync that made all durable.
    DoneButFailed(Trouble),
    /// A sync of a file fails, and what was dirty will never become durable, whatever later syncs say. A sync of a
    /// directory loses its names in the same way, as on file systems without a journal.
    Forgets,
}

/// A call that changes something, as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Name of the call.
    pub operation: &'static str,
    /// The file or directory; for a link and a rename the new name.
    pub path: PathBuf,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.operation, self.path.display())
    }
}

/// The files of one simulated process.
#[derive(Clone)]
pub struct SimFiles {
    machine: Arc<Mutex<Machine>>,
    process: Arc<Mutex<Process>>,
    clock: Arc<SimClock>,
}

/// The disk, and how often the machine was started: a handle from before a power cut is dead.
#[derive(Default)]
struct Machine {
    disk: Disk,
    boot: u64,
    locked: BTreeSet<PathBuf>,
}

type Interruption = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Process {
    calls: Vec<Call>,
    faults: BTreeMap<usize, Fault>,
    interruptions: BTreeMap<usize, Interruption>,
    stops_at: Option<usize>,
}

impl Default for SimFiles {
    fn default() -> Self {
        Self::new()
    }
}

impl SimFiles {
    /// An empty disk.
    pub fn new() -> Self {
        Self::on(Disk::default())
    }

    fn on(disk: Disk) -> Self {
        let machine = Machine { disk, boot: 0, locked: BTreeSet::new() };
        let clock = Arc::new(SimClock::new());
        Self { machine: Arc::new(Mutex::new(machine)), process: Arc::default(), clock }
    }

    /// The same files, dated by another clock.
    #[must_use]
    pub fn with_clock(&self, clock: Arc<SimClock>) -> Self {
        Self { clock, ..self.clone() }
    }

    /// Another process on the same disk: it has its own numbering of calls, and its own faults.
    #[must_use]
    pub fn neighbour(&self) -> Self {
        Self { process: Arc::default(), ..self.clone() }
    }

    /// A copy of the machine as it is now, without faults: what a process started after this one died would see.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self::on(self.machine().disk.clone())
    }

    /// A copy of the machine as it comes up after a power cut at this moment.
    #[must_use]
    pub fn copy_after_power_cut(&self, unsynced: Unsynced) -> Self {
        Self::on(self.survivors(unsynced))
    }

    /// Cuts the power: what was not synced is gone, open files are dead, faults are over.
    pub fn crash(&self) {
        self.crash_with(Unsynced::Lost);
    }

    /// Cuts the power, and lets `unsynced` say what survives.
    pub fn crash_with(&self, unsynced: Unsynced) {
        let disk = self.survivors(unsynced);
        let mut machine = self.machine();
        machine.disk = disk;
        machine.boot += 1;
        machine.locked.clear();
        drop(machine);
        *self.process() = Process::default();
    }

    fn survivors(&self, unsynced: Unsynced) -> Disk {
        let machine = self.machine();
        match unsynced {
            Unsynced::Lost => machine.disk.survivors(&mut Survivors::None),
            Unsynced::Kept => machine.disk.survivors(&mut Survivors::All),
            Unsynced::Mixed(seed) => machine.disk.survivors(&mut Survivors::Drawn(Prng::new(seed))),
        }
    }

    /// Makes everything durable, as time does: the state that a scenario starts from.
    pub fn settle(&self) {
        let mut machine = self.machine();
        machine.disk = machine.disk.survivors(&mut Survivors::All);
    }

    /// Lets the `number`th changing call of this process, counted from 0, go wrong.
    pub fn fail_at(&self, number: usize, fault: Fault) {
        self.process().faults.insert(number, fault);
    }

    /// Stops this process before its changing call `number`: that call and every later one, reads too, fail.
    pub fn stop_at(&self, number: usize) {
        self.process().stops_at = Some(number);
    }

    /// Runs `interruption` just before changing call `number`: somebody else was faster.
    pub fn interrupt_at(&self, number: usize, interruption: impl FnOnce() + Send + 'static) {
        self.process().interruptions.insert(number, Box::new(interruption));
    }

    /// The changing calls that this process made so far, the failed ones too.
    pub fn calls(&self) -> Vec<Call> {
        self.process().calls.clone()
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().expect("no holder panics")
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().expect("no holder panics")
    }

    /// Numbers and records a call, and says what is to go wrong with it.
    fn begin(&self, call: Call) -> io::Result<Option<Fault>> {
        let interruption = {
            let mut process = self.process();
            let number = process.calls.len();
            process.interruptions.remove(&number)
        };
        if let Some(interruption) = interruption {
            interruption();
        }
        let mut process = self.process();
        let number = process.calls.len();
        process.calls.push(call);
        if process.stops_at.is_some_and(|stop| number >= stop) {
            return Err(Trouble::Device.error());
        }
        Ok(process.faults.remove(&number))
    }

    fn mutate(&self, path: &Path, mutation: Mutation<'_>) -> io::Result<u64> {
        let fault = self.begin(Call { operation: mutation.operation(), path: path.to_owned() })?;
        let now = self.clock.now();
        let mut machine = self.machine();
        match fault {
            None => machine.disk.apply(mutation, now),
            Some(Fault::Refused(trouble)) => Err(trouble.error()),
            Some(Fault::Halfway(trouble)) => {
                if let Mutation::Write { file, offset, bytes } = mutation {
                    let half = Mutation::Write { file, offset, bytes: &bytes[..bytes.len() / 2] };
                    machine.disk.apply(half, now)?;
                }
                Err(trouble.error())
            }
            Some(Fault::DoneButFailed(trouble)) => {
                machine.disk.apply(mutation, now)?;
                Err(trouble.error())
            }
            Some(Fault::Forgets) => {
                machine.disk.forget(mutation)?;
                Err(Trouble::Device.error())
            }
        }
    }

    fn look<T>(&self, look: impl FnOnce(&Disk) -> io::Result<T>) -> io::Result<T> {
        let process = self.process();
        if process.stops_at.is_some_and(|stop| process.calls.len() > stop) {
            return Err(Trouble::Device.error());
        }
        drop(process);
        look(&self.machine().disk)
    }
}

/// An open file.
struct Handle {
    files: SimFiles,
    path: PathBuf,
    file: u64,
    boot: u64,
}

impl Handle {
    fn new(files: &SimFiles, path: &Path, file: u64) -> Self {
        let boot = files.machine().boot;
        Self { files: files.clone(), path: path.to_owned(), file, boot }
    }

    fn alive(&self) -> io::Result<()> {
        if self.boot == self.files.machine().boot { Ok(()) } else { Err(Trouble::Device.error()) }
    }
}

impl ReadFile for Handle {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.alive()?;
        self.files.look(|disk| disk.read(self.file, offset, buffer))
    }

    fn len(&self) -> io::Result<u64> {
        self.alive()?;
        self.files.look(|disk| disk.file_len(self.file))
    }
}

impl WriteFile for Handle {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.alive()?;
        self.files.mutate(&self.path, Mutation::Write { file: self.file, offset, bytes }).map(drop)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.alive()?;
        self.files.mutate(&self.path, Mutation::SetLen { file: self.file, len }).map(drop)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.alive()?;
        self.files.mutate(&self.path, Mutation::Sync { file: self.file }).map(drop)
    }
}

/// A lock that somebody has. It ends with the process, whose power may be gone by then.
struct Locked {
    files: SimFiles,
    path: PathBuf,
    boot: u64,
}

impl Drop for Locked {
    fn drop(&mut self) {
        let mut machine = self.files.machine();
        if machine.boot == self.boot {
            machine.locked.remove(&self.path);
        }
    }
}

impl Files for SimFiles {
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        let file = self.look(|disk| disk.find_file(path))?;
        Ok(Box::new(Handle::new(self, path, file)))
    }

    fn create(&self, path: &Path, mode: u32, _: WriteMode) -> io::Result<Box<dyn WriteFile>> {
        let file = self.mutate(path, Mutation::Create { path, mode })?;
        Ok(Box::new(Handle::new(self, path, file)))
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let file = self.look(|disk| disk.find_file_itself(path))?;
        Ok(Box::new(Handle::new(self, path, file)))
    }

    fn link(&self, existing: &Path, new: &Path) -> io::Result<()> {
        self.mutate(new, Mutation::Link { existing, new }).map(drop)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.mutate(to, Mutation::Rename { from, to }).map(drop)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.mutate(path, Mutation::RemoveFile { path }).map(drop)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.mutate(path, Mutation::RemoveDir { path }).map(drop)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.mutate(path, Mutation::CreateDir { path, mode }).map(drop)
    }

    fn symlink(&self, target: &Path, link: &Path) -> io::Result<()> {
        self.mutate(link, Mutation::Symlink { target, link }).map(drop)
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        self.look(|disk| disk.read_link(path))
    }

    fn set_owner(&self, path: &Path, owner: Owner) -> io::Result<()> {
        self.mutate(path, Mutation::SetOwner { path, owner }).map(drop)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.mutate(path, Mutation::SetMode { path, mode }).map(drop)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.mutate(path, Mutation::SyncDir { path }).map(drop)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send>>> {
        if !self.exists(path)? {
            self.create(path, 0o600, WriteMode::Cached)?;
        }
        let (taken, boot) = {
            let mut machine = self.machine();
            (machine.locked.insert(path.to_owned()), machine.boot)
        };
        let locked = || -> Box<dyn Send> { Box::new(Locked { files: self.clone(), path: path.to_owned(), boot }) };
        Ok(taken.then(locked))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.look(|disk| disk.list(path))
    }

    fn attributes(&self, path: &Path) -> io::Result<Attributes> {
        self.look(|disk| disk.attributes(path))
    }
}

#[cfg(test)]
mod tests;
