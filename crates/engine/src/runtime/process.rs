//! Which process serves a data directory, and how it is ended.
//!
//! `postmaster.pid` names a process, and after a crash the number may be anybody's. So the process is held first (see
//! [`asof_world::Process`]), then looked at: it must run a program named `postgres` and stand in the data directory, where
//! every server goes before it writes the file. Only then is it signalled.
//! Source: `LOCK_FILE_LINE_*` in `miscadmin.h`, PostgreSQL 13 to 18.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use asof_world::{Files, Process, ProcessState, Processes, Signal, World};

use super::places::read_text;
use crate::error::{Error, Result};

const PID_FILE_BYTES: usize = 16 << 10;

/// How often a server that was told to end is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Whether a data directory is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// By this server.
    Running {
        /// Its first process.
        pid: u32,
        /// Its TCP port, once it has told.
        port: Option<u16>,
        /// The directory of its socket, once it has told.
        socket_directory: Option<PathBuf>,
        /// Whether it takes connections.
        ready: bool,
    },
    /// By nobody.
    Stopped,
    /// By nobody any more: a server left its `postmaster.pid` behind, and the process it names is gone or another's.
    Stale {
        /// The process that the file names.
        pid: u32,
    },
}

/// How a server is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// When the last client has left.
    Smart,
    /// At once, in order: clients are cut off, everything is written.
    Fast,
    /// At once, as a crash: the next start recovers.
    Immediate,
}

/// Says whether a server runs on a data directory.
///
/// # Errors
/// `Refused` if the process cannot be looked at because it is another user's; `Files` if `postmaster.pid` cannot be read.
pub async fn status(world: &World, data_directory: &Path) -> Result<Status> {
    Ok(find(world, data_directory).await?.0)
}

/// Ends the server of a data directory and returns when its process is gone; no server is not an error. There is no
/// deadline: a smart stop waits for clients, a fast one for the last checkpoint.
///
/// # Errors
/// As [`status`], and `Refused` if a single-user session holds the directory.
pub async fn stop(world: &World, data_directory: &Path, mode: StopMode) -> Result<()> {
    let (_, Some(process)) = find(world, data_directory).await? else { return Ok(()) };
    end(world, process, mode).await
}

/// Signals a process that was proven to be ours, and waits for its end.
pub(super) async fn end(world: &World, process: Arc<dyn Process>, mode: StopMode) -> Result<()> {
    let signal = match mode {
        StopMode::Smart => Signal::Terminate,
        StopMode::Fast => Signal::Interrupt,
        StopMode::Immediate => Signal::Quit,
    };
    let failed = |source| Error::files("signal", format!("/proc/{}", process.pid()))(source);
    process.signal(signal).map_err(failed)?;
    while process.state().map_err(failed)? == ProcessState::Running {
        world.sleep(LOOK_EVERY).await;
    }
    Ok(())
}

type Found = (Status, Option<Arc<dyn Process>>);

async fn find(world: &World, data_directory: &Path) -> Result<Found> {
    let (files, processes, directory) = (world.files.clone(), world.processes(), data_directory.to_owned());
    world.blocking(move || look(files.as_ref(), processes.as_ref(), &directory)).await
}

fn look(files: &dyn Files, processes: &dyn Processes, directory: &Path) -> Result<Found> {
    let path = directory.join("postmaster.pid");
    let text = match read_text(files, &path, PID_FILE_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Status::Stopped, None)),
        other => other.map_err(Error::files("read", &path))?,
    };
    let file = PidFile::parse(&text).ok_or_else(|| {
        let what = format!("{} does not begin with the number of a process", path.display());
        Error::damaged(what, "if no server runs on the directory, remove the file")
    })?;
    let process = processes.find(file.pid).map_err(Error::files("look for", format!("/proc/{}", file.pid)))?;
    match process {
        Some(process) if is_server_of(files, process.as_ref(), directory)? => {
            if file.single_user {
                let what = format!("{} is held by a single-user session (process {})", directory.display(), file.pid);
                return Err(Error::refused(what, "end that session first"));
            }
            Ok((file.running(), Some(process.into())))
        }
        _ => Ok((Status::Stale { pid: file.pid }, None)),
    }
}

/// Whether a process that is held runs `postgres` in the data directory.
fn is_server_of(files: &dyn Files, process: &dyn Process, directory: &Path) -> Result<bool> {
    let proc = PathBuf::from(format!("/proc/{}", process.pid()));
    let looked = || -> io::Result<bool> {
        let program = files.read_link(&proc.join("exe"))?;
        let is_postgres = program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("postgres"));
        // A path that ends in `/.` is what a link leads to: the same directory, whatever it is called.
        let stands_in = files.attributes(&proc.join("cwd/."))?.identity;
        Ok(is_postgres && stands_in == files.attributes(&directory.join("."))?.identity)
    };
    match looked() {
        Ok(answer) => Ok(answer),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let what = format!(
                "{} names process {}, which is another user's: asof cannot tell whether it is the server",
                directory.join("postmaster.pid").display(),
                process.pid()
            );
            Err(Error::refused(what, "run asof as the user of the server, or as root"))
        }
        Err(error) => Err(Error::files("look at", proc)(error)),
    }
}

/// The lines of `postmaster.pid`: pid, data directory, start, port, socket directory, address, shared memory, status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PidFile {
    pub(super) pid: u32,
    single_user: bool,
    port: Option<u16>,
    socket_directory: Option<PathBuf>,
    /// Takes connections; in recovery as a hot standby, too.
    pub(super) ready: bool,
}

impl PidFile {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().map(str::trim);
        let number: i64 = lines.next()?.parse().ok()?;
        let rest: Vec<&str> = lines.collect();
        Some(Self {
            pid: u32::try_from(number.unsigned_abs()).ok().filter(|pid| *pid != 0)?,
            single_user: number < 0,
            port: rest.get(2).and_then(|port| port.parse().ok()),
            socket_directory: rest.get(3).filter(|path| !path.is_empty()).map(PathBuf::from),
            ready: rest.get(6) == Some(&"ready"),
        })
    }

    /// What the file says now, `None` if it is not there or not written yet.
    pub(super) async fn read(world: &World, data_directory: &Path) -> Option<Self> {
        let (files, path) = (world.files.clone(), data_directory.join("postmaster.pid"));
        let text = world.blocking(move || read_text(files.as_ref(), &path, PID_FILE_BYTES)).await;
        text.ok().as_deref().and_then(Self::parse)
    }

    fn running(self) -> Status {
        Status::Running { pid: self.pid, port: self.port, socket_directory: self.socket_directory, ready: self.ready }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_read_by_its_lines() {
        let text = "4711\n/data\n1700000000\n5433\n/run/x\nlocalhost\n  1234  5\nready   \n";
        let file = PidFile::parse(text).expect("is one");
        let expect =
            Status::Running { pid: 4711, port: Some(5433), socket_directory: Some("/run/x".into()), ready: true };
        assert_eq!(file.running(), expect);
    }

    #[test]
    fn a_pid_file_that_is_still_being_written_promises_nothing() {
        let file = PidFile::parse("4711\n/data\n").expect("is one");
        assert_eq!((file.port, file.ready), (None, false));
        assert_eq!(PidFile::parse(""), None);
        assert_eq!(PidFile::parse("0\n"), None);
        assert!(PidFile::parse("-17\n/data\n").is_some_and(|file| file.single_user && file.pid == 17));
    }
}
