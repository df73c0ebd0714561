//! Programs: run to their end, or started so that they outlive us.
//!
//! Only the engine's runtime starts programs. A world that starts none, such as the simulated one, need not say so:
//! [`crate::Tasks::processes`] refuses by default. Calls are synchronous: they belong inside [`crate::World::blocking`].

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::Owner;

/// A program with everything it gets: nothing is inherited, neither environment nor open files.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// The file to run.
    pub path: PathBuf,
    /// Its arguments, without the name of the program.
    pub arguments: Vec<OsString>,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it begins to run; the user must be able to enter it.
    pub directory: PathBuf,
    /// Who it runs as; only root can name anybody but themselves. Supplementary groups are dropped.
    pub user: Option<Owner>,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What a program left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// What it wrote.
    pub stdout: Vec<u8>,
    /// What it complained about.
    pub stderr: Vec<u8>,
}

/// What becomes of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// It is there.
    Running,
    /// It is not; how it ended is known only of our own children.
    Ended(Option<Exit>),
}

/// The signals that a server is told to end by, and to read its configuration again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP.
    Hangup,
    /// SIGINT.
    Interrupt,
    /// SIGQUIT.
    Quit,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// One process, held so that another one with the same number is never taken for it.
pub trait Process: Send + Sync {
    /// Its number.
    fn pid(&self) -> u32;
    /// Whether it still runs.
    fn state(&self) -> io::Result<ProcessState>;
    /// Returns when it does not run any more, and how it ended.
    fn wait(&self) -> io::Result<ProcessState>;
    /// Sends it a signal. That it has ended by now is not an error.
    fn signal(&self, signal: Signal) -> io::Result<()>;
}

/// A running program whose ends we hold. Its standard input ends when `stdin` is dropped.
pub struct Piped {
    /// The process.
    pub process: Box<dyn Process>,
    /// What it reads.
    pub stdin: Box<dyn io::Write + Send>,
    /// What it writes.
    pub stdout: Box<dyn io::Read + Send>,
    /// What it complains about.
    pub stderr: Box<dyn io::Read + Send>,
}

/// Programs of this machine.
pub trait Processes: Send + Sync {
    /// Who we are, in effect.
    fn user(&self) -> Owner;
    /// Runs a program to its end.
    fn run(&self, program: &Program) -> io::Result<Output>;
    /// Starts a program that talks to us while it runs, in a process group of its own, so that a terminal's Ctrl-C reaches
    /// only us.
    fn pipe(&self, program: &Program) -> io::Result<Piped>;
    /// Starts a program in a process group of its own, so that no terminal ends it and it survives our end. It reads
    /// nothing; what it writes is appended to `log`, which is created (0600, the user's) and never followed as a link.
    fn start(&self, program: &Program, log: &Path) -> io::Result<Box<dyn Process>>;
    /// A running process by its number, `None` if there is none.
    fn find(&self, pid: u32) -> io::Result<Option<Box<dyn Process>>>;
    /// A TCP port of 127.0.0.1 that was free a moment ago.
    fn free_port(&self) -> io::Result<u16>;
}

/// A machine without programs.
pub(crate) struct NoProcesses;

impl NoProcesses {
    fn refusal() -> io::Error {
        io::Error::new(io::ErrorKind::Unsupported, "this world starts no programs")
    }
}

impl Processes for NoProcesses {
    fn user(&self) -> Owner {
        Owner { uid: 0, gid: 0 }
    }

    fn run(&self, _: &Program) -> io::Result<Output> {
        Err(Self::refusal())
    }

    fn pipe(&self, _: &Program) -> io::Result<Piped> {
        Err(Self::refusal())
    }

    fn start(&self, _: &Program, _: &Path) -> io::Result<Box<dyn Process>> {
        Err(Self::refusal())
    }

    fn find(&self, _: u32) -> io::Result<Option<Box<dyn Process>>> {
        Err(Self::refusal())
    }

    fn free_port(&self) -> io::Result<u16> {
        Err(Self::refusal())
    }
}
