//! PostgreSQL's client programs, run with their ends in our hands.
//!
//! What a program writes reaches us through a pipe, so nothing of it lies on a disk; what it complains about is kept for the
//! error message. A program that nobody holds any more is told to end.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use asof_postgres::client::Connection;
use asof_postgres::conninfo::Secret;
use asof_world::{Exit, Process, ProcessState, Program, Signal, Task, World};
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};

use super::clients::Client;
use crate::error::{Error, Result};
use crate::server::Server;

/// How much is read from a program at once.
pub(crate) const PIECE_LEN: usize = 512 << 10;
/// More complaints than this are not kept; the last are.
const COMPLAINTS_LEN: usize = 64 << 10;
/// How many lines of them a message shows.
const SHOWN_LINES: usize = 12;

/// How client programs reach a server: the one that answered us.
#[derive(Clone)]
pub(crate) struct Link {
    conninfo: String,
    secret: Option<(&'static str, Secret)>,
    environment: Vec<(OsString, OsString)>,
}

impl Link {
    /// The way to the server and database of `connection`, which was opened by `server`.
    pub(crate) fn of(server: &Server, connection: &Connection) -> Result<Self> {
        let config = &server.config;
        let host = config.host_named(connection.server()).ok_or_else(|| {
            let what = format!("{config} does not name {}, which answered", connection.server());
            Error::refused(what, "name it in the connection string")
        })?;
        // What libpq looks up by itself, and where programs and libraries are found.
        let inherited = ["HOME", "USER", "PATH", "LD_LIBRARY_PATH", "PGSYSCONFDIR", "TZ"];
        let variables = inherited.iter().filter_map(|name| Some((name, (server.environment.lookup)(name)?)));
        let mut environment: Vec<_> = variables.map(|(name, value)| ((*name).into(), value.into())).collect();
        // Messages are read by us, and by people in one language.
        environment.push(("LC_ALL".into(), "C".into()));
        Ok(Self { conninfo: config.for_programs(host), secret: config.password_variable(host), environment })
    }

    /// A program with these arguments and the connection, which stands where `--dbname` does in all of them.
    fn program(&self, client: &Client, name: &str, arguments: Vec<OsString>) -> Program {
        let mut program = self.offline(client, name, arguments);
        program.arguments.insert(0, format!("--dbname={}", self.conninfo).into());
        program.arguments.insert(1, "--no-password".into());
        program.environment.extend(self.secret.iter().map(|(name, value)| ((*name).into(), value.expose().into())));
        program
    }

    fn offline(&self, client: &Client, name: &str, arguments: Vec<OsString>) -> Program {
        let environment = self.environment.clone();
        Program { path: client.program(name), arguments, environment, directory: "/".into(), user: None }
    }

    /// Starts a program that connects to nothing.
    pub(crate) async fn start_offline(
        &self,
        world: &World,
        client: &Client,
        name: &'static str,
        arguments: Vec<OsString>,
    ) -> Result<Running> {
        Running::start(world, name, self.offline(client, name, arguments), None).await
    }

    /// Starts a program that connects by this link.
    pub(crate) async fn start(
        &self,
        world: &World,
        client: &Client,
        name: &'static str,
        arguments: Vec<OsString>,
    ) -> Result<Running> {
        Running::start(world, name, self.program(client, name, arguments), None).await
    }

    /// The same for a program that says how far it is, line by line, until it ends.
    pub(crate) async fn start_verbose(
        &self,
        world: &World,
        client: &Client,
        name: &'static str,
        mut arguments: Vec<OsString>,
    ) -> Result<(Running, UnboundedReceiver<String>)> {
        arguments.insert(0, "--verbose".into());
        let (to, said) = unbounded();
        let program = self.program(client, name, arguments);
        Ok((Running::start(world, name, program, Some(to)).await?, said))
    }
}

/// A program that runs.
pub(crate) struct Running {
    world: World,
    name: &'static str,
    pub(crate) output: Output,
    // Held here until the end: psql commits when its input ends, so a program is told to end before its pipes are closed.
    input: Option<Input>,
    process: Arc<dyn Process>,
    complaints: Arc<Mutex<Vec<u8>>>,
    /// Completes when everything that the program complained about was read.
    heard: Option<Task<()>>,
    ended: bool,
}

impl Running {
    async fn start(
        world: &World,
        name: &'static str,
        program: Program,
        news: Option<UnboundedSender<String>>,
    ) -> Result<Self> {
        let (processes, path) = (world.processes(), program.path.clone());
        let piped = world.blocking(move || processes.pipe(&program)).await.map_err(Error::files("start", path))?;
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let (kept, mut stderr, listening) = (complaints.clone(), piped.stderr, world.clone());
        let listener = Listener { news, line: Vec::new(), is_news: false };
        let heard = world.spawn(async move { listening.blocking(move || listener.listen(&mut *stderr, &kept)).await });
        Ok(Self {
            world: world.clone(),
            name,
            output: Output { world: world.clone(), name, pipe: Some(piped.stdout) },
            input: Some(Input { world: world.clone(), name, pipe: Some(piped.stdin) }),
            process: Arc::from(piped.process),
            complaints,
            heard: Some(heard),
            ended: false,
        })
    }

    /// What it reads.
    pub(crate) fn input(&mut self) -> &mut Input {
        self.input.as_mut().expect("its input was not taken")
    }

    /// What it still writes when its input has ended.
    pub(crate) async fn rest(&mut self) -> Result<Vec<u8>> {
        self.input = None;
        let mut rest = Vec::new();
        loop {
            let piece = self.output.read(Vec::new()).await?;
            if piece.is_empty() {
                return Ok(rest);
            }
            rest.extend_from_slice(&piece);
        }
    }

    /// Both ends, for a program that is not connected to anything but them.
    pub(crate) fn take_pipes(&mut self) -> (Input, Output) {
        let output = Output { world: self.world.clone(), name: self.name, pipe: self.output.pipe.take() };
        (self.input.take().expect("its input was not taken"), output)
    }

    /// Tells the program to end, and waits until it has.
    pub(crate) async fn stop(mut self) {
        let _ = self.process.signal(Signal::Terminate);
        self.output.pipe = None;
        // However it ends now is no news.
        let _ = self.end_with_pipes_closed().await;
    }

    /// Waits for the end of the program, whose input ends now. What it has left to say must have been read.
    ///
    /// # Errors
    /// `Program`, with what it complained about, unless it ended well. What it remarked if it did.
    pub(crate) async fn end(mut self) -> Result<Vec<String>> {
        self.end_with_pipes_closed().await
    }

    async fn end_with_pipes_closed(&mut self) -> Result<Vec<String>> {
        self.input = None;
        let process = self.process.clone();
        let state = self.world.blocking(move || process.wait()).await.map_err(Error::files("wait for", self.name))?;
        self.ended = true;
        if let Some(heard) = self.heard.take() {
            heard.await;
        }
        let lines = self.complaints();
        match state {
            ProcessState::Ended(Some(Exit::Code(0))) => Ok(lines),
            ProcessState::Ended(how) => Err(self.failure(how, &lines)),
            ProcessState::Running => Err(self.failure(None, &lines)),
        }
    }

    fn complaints(&self) -> Vec<String> {
        let bytes = self.complaints.lock().expect("no holder panics");
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }

    fn failure(&self, how: Option<Exit>, lines: &[String]) -> Error {
        let how = match how {
            Some(Exit::Code(code)) => format!("exit status {code}"),
            Some(Exit::Signal(signal)) => format!("signal {signal}"),
            None => "nobody knows how it ended".to_owned(),
        };
        let reason = reason(lines).map_or_else(String::new, |line| format!(": {}", without_program(line, self.name)));
        let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n        ");
        let hint = (lines.len() > 1).then(|| format!("it said:\n        {shown}"));
        Error::Program { what: format!("{} failed ({how}){reason}", self.name), hint }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            // One that is gone by now needs no signal, and nobody is left to tell about one that cannot be reached.
            let _ = self.process.signal(Signal::Terminate);
        }
    }
}

/// The line that says why a program failed. Programs write `error:`, and servers, whose words psql hands on, a severity in capitals
/// (`error_severity` in elog.c, 13 to 18); the lines behind it say where.
fn reason(lines: &[String]) -> Option<&String> {
    let is_reason =
        |line: &&String| ["error: ", "ERROR:  ", "FATAL:  ", "PANIC:  "].iter().any(|tag| line.contains(tag));
    lines.iter().find(is_reason).or(lines.last())
}

fn without_program<'a>(line: &'a str, name: &str) -> &'a str {
    let line = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(line);
    line.strip_prefix("error: ").unwrap_or(line)
}

/// Hears what a program says beside its output.
struct Listener {
    /// Where lines go that are no complaints, of a program that says more than complaints.
    news: Option<UnboundedSender<String>>,
    /// The line that is not complete yet.
    line: Vec<u8>,
    /// Whether the last line was one of them.
    is_news: bool,
}

impl Listener {
    fn listen(mut self, stderr: &mut dyn Read, kept: &Mutex<Vec<u8>>) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stderr.read(&mut buffer) {
            let heard = &buffer[..read];
            match &self.news {
                None => keep(kept, heard),
                Some(_) => heard.split_inclusive(|byte| *byte == b'\n').for_each(|piece| self.take(piece, kept)),
            }
        }
        keep(kept, &self.line);
    }

    fn take(&mut self, piece: &[u8], kept: &Mutex<Vec<u8>>) {
        self.line.extend_from_slice(piece);
        if !piece.ends_with(b"\n") {
            return;
        }
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        self.is_news = is_news(&text, self.is_news);
        match &self.news {
            // Nobody may want to know any more.
            Some(news) if self.is_news => drop(news.unbounded_send(text.trim_end().to_owned())),
            _ => keep(kept, &line),
        }
    }
}

/// Whether a line is said with `--verbose` only: complaints have a tag behind the program's name (`pg_log_generic_v` of logging.c, 13 to
/// 18), and a line without a name goes on where the last one ended. Programs of several processes may write into each other's lines,
/// so the tag counts wherever it stands.
fn is_news(line: &str, last_was: bool) -> bool {
    let is_complaint = ["error: ", "warning: ", "detail: ", "hint: ", "fatal: "].iter().any(|tag| line.contains(tag));
    let has_name = line.starts_with("pg_dump: ") || line.starts_with("pg_restore: ");
    !is_complaint && (has_name || last_was)
}

fn keep(kept: &Mutex<Vec<u8>>, heard: &[u8]) {
    let mut kept = kept.lock().expect("no holder panics");
    kept.extend_from_slice(heard);
    let surplus = kept.len().saturating_sub(COMPLAINTS_LEN);
    kept.drain(..surplus);
}

/// What a program writes.
pub(crate) struct Output {
    world: World,
    name: &'static str,
    pipe: Option<Box<dyn Read + Send>>,
}

impl Output {
    /// The next bytes, [`PIECE_LEN`] of them unless the program ended its output; empty at its end. They come in `piece`, so
    /// that its memory is used again.
    pub(crate) async fn read(&mut self, mut piece: Vec<u8>) -> Result<Vec<u8>> {
        let mut pipe = self.pipe.take().expect("one piece is read at a time");
        let read = move || {
            piece.resize(PIECE_LEN, 0);
            let result = fill(&mut *pipe, &mut piece);
            (pipe, result.map(|len| piece.truncate(len)).map(|()| piece))
        };
        let (pipe, piece) = self.world.blocking(read).await;
        self.pipe = Some(pipe);
        piece.map_err(Error::files("read the output of", Path::new(self.name)))
    }
}

/// Reads until the buffer is full or the input ends.
fn fill(pipe: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match pipe.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// What a program reads.
pub(crate) struct Input {
    world: World,
    name: &'static str,
    pipe: Option<Box<dyn Write + Send>>,
}

impl Input {
    /// Hands bytes to the program. False when it does not read any more: its end says why.
    pub(crate) async fn write(&mut self, bytes: bytes::Bytes) -> Result<bool> {
        let mut pipe = self.pipe.take().expect("one piece is written at a time");
        let write = move || {
            let result = pipe.write_all(&bytes);
            (pipe, result)
        };
        let (pipe, written) = self.world.blocking(write).await;
        self.pipe = Some(pipe);
        match written {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Error::files("write to", Path::new(self.name))(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_explained_by_the_line_that_says_why() {
        let check = |said: &str, expect: &str| {
            let lines: Vec<String> = said.lines().map(str::to_owned).collect();
            assert_eq!(reason(&lines).map(String::as_str), Some(expect));
        };
        check(
            "psql:<stdin>:3: WARNING:  odd\npsql:<stdin>:9: ERROR:  no such table \"x\"\nLINE 1: select x\n               ^\n\
             CONTEXT:  PL/pgSQL function f()",
            "psql:<stdin>:9: ERROR:  no such table \"x\"",
        );
        check("psql: error: connection failed: FATAL:  no\nhint", "psql: error: connection failed: FATAL:  no");
        check("pg_restore: error: a\npg_restore: error: b", "pg_restore: error: a");
        check("Killed\nby somebody", "by somebody");
    }

    #[test]
    fn of_a_program_that_says_how_far_it_is_only_complaints_are_kept() {
        let text = "pg_restore: processing data for table \"a.of\ntwo lines\"\n\
                    pg_restore: warning: something is odd\npg_restore: creating TABLE \"a.t\"\n\
                    pg_restore: pg_restore: error: could not execute query: ERROR:  no\nCommand was: SELECT\n1;\n\
                    pg_restore: finished item 1 TABLE DATA t\nno end";
        let (to, mut news) = unbounded();
        let kept = Mutex::new(Vec::new());
        Listener { news: Some(to), line: Vec::new(), is_news: false }.listen(&mut text.as_bytes(), &kept);
        let kept = String::from_utf8(kept.into_inner().expect("no holder panics")).expect("text");
        let complaints = [
            "pg_restore: warning: something is odd",
            "pg_restore: pg_restore: error: could not execute query: ERROR:  no",
            "Command was: SELECT",
            "1;",
            "no end",
        ];
        assert_eq!(kept.lines().collect::<Vec<_>>(), complaints);
        let mut said = Vec::new();
        while let Ok(line) = news.try_recv() {
            said.push(line);
        }
        assert_eq!(said.len(), 4, "{said:?}");
        assert_eq!(said[1], "two lines\"");
    }
}
