//! Everything Asof takes from the machine it runs on: time, randomness, durable files, tasks and processors.
//!
//! The rest of the workspace reads no clock, draws no random number, opens no file and starts no task except through a
//! [`World`]. That is what lets the simulation run the shipped code: it hands out a world whose clock is virtual, whose
//! files forget what was not synced, and whose tasks run in a seeded order.
//!
//! The charter is closed. A thing belongs here only when the simulation needs another version of it; this crate is not a
//! place for helpers.

mod buffer;
mod clock;
mod files;
pub mod ids;
mod plant;
mod processes;
mod random;
mod real;
mod tasks;

use std::sync::Arc;
use std::time::Duration;

pub use buffer::{ALIGNMENT, AlignedBuf};
pub use clock::{Clock, Timestamp};
pub use files::{
    Attributes, DirEntry, FileKind, Files, MemoryFile, Owner, ReadFile, Space, WriteFile, WriteMode, create_dir_durable,
};
pub use ids::Id;
pub use plant::planted;
pub use processes::{Exit, Output, Piped, Process, ProcessState, Processes, Program, Signal};
pub use random::Random;
pub use tasks::{Task, Tasks};

/// The machine as the rest of the program sees it. Cheap to clone: four shared handles.
#[derive(Clone)]
pub struct World {
    /// Wall clock and monotonic clock.
    pub clock: Arc<dyn Clock>,
    /// Cryptographically strong randomness.
    pub random: Arc<dyn Random>,
    /// The local file system.
    pub files: Arc<dyn Files>,
    /// Tasks, worker threads and timers.
    pub tasks: Arc<dyn Tasks>,
}

impl World {
    /// The real machine, on the tokio runtime of the caller.
    ///
    /// # Panics
    /// When called outside a tokio runtime: tasks could not be started later.
    pub fn real() -> Self {
        real::world()
    }

    /// The present time on the wall clock. For records and reports, never for a safety decision.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Time since an arbitrary point; never goes backwards.
    pub fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// A fresh 128-bit id.
    pub fn id(&self) -> Id {
        Id(self.random_bytes())
    }

    /// `N` bytes that nobody can guess.
    pub fn random_bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes);
        bytes
    }

    /// Waits for at least `duration`.
    pub async fn sleep(&self, duration: Duration) {
        self.tasks.sleep(duration).await;
    }

    /// Programs of this machine; refuses where there are none.
    pub fn processes(&self) -> Arc<dyn Processes> {
        self.tasks.processes()
    }

    /// Runs `future` beside the caller. Dropping the returned task does not stop it.
    pub fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Task<T> {
        tasks::spawn(self.tasks.as_ref(), future)
    }

    /// Runs work that waits for files on a thread made for waiting.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        tasks::blocking(self.tasks.as_ref(), work).await
    }

    /// Runs work that keeps a processor busy; no more of it at once than there are processors.
    pub async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        tasks::compute(self.tasks.as_ref(), work).await
    }
}
