//! Programs of the real machine. A process is held by a pidfd (pidfd_open(2), Linux 5.3), so that a number that was
//! given to somebody else in between is never signalled.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::{Exit, Output, Owner, Piped, Process, ProcessState, Processes, Program, Signal};

pub(super) struct KernelProcesses;

impl Processes for KernelProcesses {
    fn user(&self) -> Owner {
        Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    fn run(&self, program: &Program) -> io::Result<Output> {
        let output = command(program).output()?;
        Ok(Output { exit: exit(output.status), stdout: output.stdout, stderr: output.stderr })
    }

    fn pipe(&self, program: &Program) -> io::Result<Piped> {
        let mut command = command(program);
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (stdin, stdout) = (stdin.expect("it is piped"), stdout.expect("it is piped"));
        let (stdin, stdout) = (PipeWriter::new(stdin), PipeReader::new(stdout));
        let stderr = Box::new(stderr.expect("it is piped"));
        Ok(Piped { process: held(child)?, stdin: Box::new(stdin), stdout: Box::new(stdout), stderr })
    }

    fn start(&self, program: &Program, log: &Path) -> io::Result<Box<dyn Process>> {
        let log = open_log(log, program.user)?;
        let mut command = command(program);
        held(command.process_group(0).stdout(log.try_clone()?).stderr(log).spawn()?)
    }

    fn find(&self, number: u32) -> io::Result<Option<Box<dyn Process>>> {
        match pidfd_open(pid(number)?, PidfdFlags::empty()) {
            Ok(handle) => Ok(Some(Box::new(Held { number, handle, ended: None }))),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn free_port(&self) -> io::Result<u16> {
        Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
    }
}

fn command(program: &Program) -> Command {
    let mut command = Command::new(&program.path);
    command.args(&program.arguments).env_clear().envs(program.environment.iter().map(|(name, value)| (name, value)));
    command.current_dir(&program.directory).stdin(Stdio::null());
    if let Some(user) = program.user {
        // The standard library drops the supplementary groups when root names a user.
        command.uid(user.uid).gid(user.gid);
    }
    command
}

fn open_log(path: &Path, user: Option<Owner>) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let file = options.open(path)?;
    if let Some(user) = user {
        fchown(&file, Some(user.uid), Some(user.gid))?;
    }
    Ok(file)
}

/// Bytes that the kernel is asked to hold between us and a program: what an ordinary user may ask for (pipe(7)).
const PIPE_LEN: usize = 1 << 20;

/// Whether a pipe could be made that large. The kernel may not have the room (`pipe-user-pages-soft`).
fn widened(pipe: &impl AsFd) -> bool {
    rustix::pipe::fcntl_setpipe_size(pipe, PIPE_LEN).is_ok_and(|len| len >= PIPE_LEN)
}

/// How long a pipe is left alone when it had little for us. PostgreSQL's programs write and read 4 KiB at a time, and whoever waits in
/// the kernel is woken for each; in this time they fill or empty a part of a wide pipe.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
/// After so many pauses a program does not read, and is waited for.
const MOST_PAUSES: u32 = 20;
/// Less than that is little.
const MUCH: usize = PIPE_LEN / 4;

/// Leaves a pipe alone for that time, or until its other end is closed.
fn pause(pipe: &impl AsFd) -> io::Result<()> {
    retry_on_intr(|| poll(&mut [PollFd::new(pipe, PollFlags::empty())], Some(&PAUSE)))?;
    Ok(())
}

/// What a program writes.
struct PipeReader {
    pipe: ChildStdout,
    wide: bool,
    /// Whether the last read gave little.
    little: bool,
}

impl PipeReader {
    fn new(pipe: ChildStdout) -> Self {
        let wide = widened(&pipe);
        Self { pipe, wide, little: false }
    }
}

impl io::Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.little {
            pause(&self.pipe)?;
        }
        let read = self.pipe.read(buffer)?;
        self.little = self.wide && read < buffer.len().min(MUCH);
        Ok(read)
    }
}

/// What a program reads.
struct PipeWriter {
    pipe: ChildStdin,
}

impl PipeWriter {
    fn new(pipe: ChildStdin) -> Self {
        if widened(&pipe) {
            // Of our end only: each has a description of its own. Where it cannot be set, writing waits in the kernel.
            let _ = fcntl_getfl(&pipe).and_then(|flags| fcntl_setfl(&pipe, flags | OFlags::NONBLOCK));
        }
        Self { pipe }
    }
}

impl io::Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut pauses = 0;
        loop {
            match self.pipe.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            pauses += 1;
            if pauses < MOST_PAUSES {
                pause(&self.pipe)?;
            } else {
                // It does something else, such as building an index.
                retry_on_intr(|| poll(&mut [PollFd::new(&self.pipe, PollFlags::OUT)], None))?;
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pipe.flush()
    }
}

fn held(child: Child) -> io::Result<Box<dyn Process>> {
    // Held before anybody waits for it: until then its number is its own even if it has ended.
    let handle = pidfd_open(pid(child.id())?, PidfdFlags::empty())?;
    let (number, ended) = (child.id(), Arc::new(OnceLock::new()));
    reap(child, Arc::clone(&ended));
    Ok(Box::new(Held { number, handle, ended: Some(ended) }))
}

/// Waits for a child on a thread of its own: a pool's thread would keep the runtime from ending while the server runs.
fn reap(mut child: Child, ended: Arc<OnceLock<ExitStatus>>) {
    std::thread::spawn(move || {
        if let Ok(status) = child.wait() {
            // Nobody else sets it.
            let _ = ended.set(status);
        }
    });
}

fn exit(status: ExitStatus) -> Exit {
    status.code().map_or_else(|| Exit::Signal(status.signal().unwrap_or_default()), Exit::Code)
}

fn pid(number: u32) -> io::Result<Pid> {
    let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{number} is not the number of a process")))
}

struct Held {
    number: u32,
    handle: OwnedFd,
    /// How our own child ended, once it has been waited for.
    ended: Option<Arc<OnceLock<ExitStatus>>>,
}

impl Held {
    /// Where it stands when it has ended or this time has passed; `None` waits for its end.
    fn state_within(&self, limit: Option<&Timespec>) -> io::Result<ProcessState> {
        // "The file descriptor is readable when the process terminates": pidfd_open(2).
        let mut polled = [PollFd::new(&self.handle, PollFlags::IN)];
        if retry_on_intr(|| poll(&mut polled, limit))? == 0 {
            return Ok(ProcessState::Running);
        }
        match &self.ended {
            None => Ok(ProcessState::Ended(None)),
            Some(ended) => Ok(ProcessState::Ended(Some(exit(*ended.wait())))),
        }
    }
}

impl Process for Held {
    fn pid(&self) -> u32 {
        self.number
    }

    fn state(&self) -> io::Result<ProcessState> {
        self.state_within(Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    fn wait(&self) -> io::Result<ProcessState> {
        self.state_within(None)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let signal = match signal {
            Signal::Hangup => rustix::process::Signal::HUP,
            Signal::Interrupt => rustix::process::Signal::INT,
            Signal::Quit => rustix::process::Signal::QUIT,
            Signal::Terminate => rustix::process::Signal::TERM,
            Signal::Kill => rustix::process::Signal::KILL,
        };
        match pidfd_send_signal(self.handle.as_fd(), signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program {
            path: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            directory: "/".into(),
            ..Program::default()
        }
    }

    #[test]
    fn a_program_gets_the_environment_it_was_given_and_nothing_else() {
        let mut program = shell("echo \"$GIVEN:$HOME\"; echo no >&2; exit 3");
        program.environment.push(("GIVEN".into(), "x".into()));
        let output = KernelProcesses.run(&program).expect("runs");
        assert_eq!(
            (output.exit, &*output.stdout, &*output.stderr),
            (Exit::Code(3), b"x:\n".as_slice(), b"no\n".as_slice())
        );
    }

    #[test]
    fn a_started_program_is_found_ended_and_its_end_is_known() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = dir.path().join("log");
        let process = KernelProcesses.start(&shell("echo here; exec sleep 1000"), &log).expect("starts");
        let found = KernelProcesses.find(process.pid()).expect("can be looked for").expect("is there");
        assert_eq!(found.state().expect("tells"), ProcessState::Running);
        found.signal(Signal::Kill).expect("is signalled");
        // The child's own handle knows how it ended only after it was waited for.
        let ended = std::iter::repeat_with(|| process.state().expect("tells")).find(|it| *it != ProcessState::Running);
        assert_eq!(ended, Some(ProcessState::Ended(Some(Exit::Signal(9)))));
        assert_eq!(found.state().expect("tells"), ProcessState::Ended(None));
        found.signal(Signal::Kill).expect("the end is not an error");
        assert!(KernelProcesses.find(process.pid()).expect("can be looked for").is_none());
    }

    #[test]
    fn a_program_is_talked_to_while_it_runs_and_its_end_is_waited_for() {
        let mut piped = KernelProcesses.pipe(&shell("read line; echo \"$line!\"; cat >&2; exit 4")).expect("starts");
        let said = |from: &mut dyn io::Read| {
            let mut text = String::new();
            from.read_to_string(&mut text).map(|_| text)
        };
        piped.stdin.write_all(b"here\nthere").expect("writes");
        drop(piped.stdin);
        assert_eq!(said(&mut piped.stdout).expect("reads"), "here!\n");
        assert_eq!(said(&mut piped.stderr).expect("reads"), "there");
        assert_eq!(piped.process.wait().expect("waits"), ProcessState::Ended(Some(Exit::Code(4))));
    }

    #[test]
    fn a_log_that_is_a_link_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::os::unix::fs::symlink("/dev/null", dir.path().join("log")).expect("links");
        assert!(KernelProcesses.start(&shell("true"), &dir.path().join("log")).is_err());
    }
}
