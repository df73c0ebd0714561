//! PostgreSQL servers that Asof itself runs: restored instances, drills, and what they need from the machine.
//!
//! This is the one place that starts programs. A server of ours runs on a data directory that somebody else may still be
//! running in production, so two things are guaranteed. It runs [isolated](isolation): every setting by which a copy could
//! reach, follow or be taken for production is overridden on its command line, where no file wins. And nothing is ever
//! signalled but a process that was proven to be the server of the data directory in question ([`status`], [`stop`]).
//!
//! A server survives the process that started it. What is needed to stop, start or destroy it later stands in
//! `asof-instance.json` in its run directory ([`Instance`]), which is written before the server is started: after a crash at
//! any point the directory still says whose it is.

mod adopt;
mod binaries;
mod endpoint;
mod instance;
mod isolation;
mod launch;
mod log;
mod places;
mod process;
mod ready;
mod scratch;
mod user;

use std::collections::BTreeMap;
use std::path::PathBuf;

use asof_postgres::control::StandbyMinimums;
use asof_postgres::lsn::Lsn;
use asof_world::{Id, World};

use crate::error::Result;
use crate::progress::Observer;

pub use adopt::{Adopted, adopt, would_lift};
pub use binaries::{Binaries, find_binaries};
pub(crate) use binaries::{call, major_of};
pub use endpoint::Endpoint;
pub use instance::{Destroyed, Instance, MARKER, destroy};
pub(crate) use isolation::socket_by_hand;
pub use isolation::{
    Override, PRELOAD_ALLOWED, Places, Preload, Recovery, Situation, TargetAction, isolation, preload_libraries,
};
pub use process::{Status, StopMode, status, stop};
pub use scratch::{Leftover, SCRATCH_ROLE, Scratch, ScratchSpec, leftovers};
pub use user::ServerUser;

/// A server that is to be run on a data directory that is complete.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// The data directory; it belongs to `user`.
    pub data_directory: PathBuf,
    /// A directory of ours, made if it is not there: socket, log, configuration, marker. Must not be the data directory.
    pub run_directory: PathBuf,
    /// The programs.
    pub binaries: Binaries,
    /// Who the server runs as.
    pub user: ServerUser,
    /// A role that exists in the instance; it is asked over the socket how far recovery is.
    pub role: String,
    /// The TCP port; `None` takes a free one.
    pub port: Option<u16>,
    /// What hot standby demands, from `pg_control` and from the WAL that will be replayed.
    pub minimums: StandbyMinimums,
    /// Libraries to load, see [`preload_libraries`].
    pub libraries: Vec<String>,
    /// Recovery to perform; `None` for a directory that was recovered before.
    pub recovery: Option<Recovery>,
    /// Further settings, such as memory. What isolates wins over them.
    pub settings: BTreeMap<String, String>,
    /// Environment of the server and of its `restore_command`. Not recorded, because it may hold secrets.
    pub environment: BTreeMap<String, String>,
    /// The lineage of the instance, for the record.
    pub lineage: Option<Id>,
}

/// A server that did what it was started for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// What is recorded of it.
    pub instance: Instance,
    /// Its first process; gone if it was to shut down at the target.
    pub pid: u32,
    /// Where recovery led.
    pub reached: Reached,
    /// The end of the last record that was replayed, if the server could still be asked and had replayed any.
    pub replayed: Option<Lsn>,
}

/// Where a start led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Recovery, if there was any, is over: the server takes writes.
    Open,
    /// Replay stands still at the target; the server answers queries.
    PausedAtTarget,
    /// The server ended at the target, as it was told to.
    ShutDownAtTarget,
}

/// Starts a server and waits until recovery is over, at its target, or failed. There is no deadline: replay takes what it
/// takes, and `observer` is told how far it is.
///
/// # Errors
/// `Program` with what the server's log says, if it ends or stands still before its target. It does not run any more then.
pub async fn start(world: &World, spec: &ServerSpec, observer: &dyn Observer) -> Result<Running> {
    launch::start(world, spec, observer).await
}

/// Starts a server again that was started before, with the same settings; a recovery that was interrupted goes on.
///
/// # Errors
/// As [`start`], and `Refused` if the run directory carries no marker or the programs are gone.
pub async fn start_again(
    world: &World,
    run_directory: &std::path::Path,
    environment: BTreeMap<String, String>,
    observer: &dyn Observer,
) -> Result<Running> {
    launch::start_again(world, run_directory, environment, observer).await
}
