//! One PostgreSQL server: made with `initdb`, run as our own child, asked with `psql`.
//!
//! Nothing here hopes that a time is long enough. A start waits for the server to end or to say that it is ready. That
//! every process is gone is told by the kernel: the log file is locked (`flock`) through the very handle that the server
//! inherits as its output, so the lock is free when the last process that could still write to it has ended, children
//! of the server included. `pg_ctl` is not used because its servers become orphans: until somebody reaps a killed one,
//! its pid looks alive and the next start is refused.

use crate::{Workdir, programs, user};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How a server is made. `..Options::default()` gives page checksums, 16 MiB segments and no further settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether pages carry checksums (`initdb --data-checksums`).
    pub checksums: bool,
    /// Size of a WAL segment in MiB: a power of two from 1 to 1024.
    pub wal_segment_mib: u32,
    /// Further arguments of `initdb`.
    pub initdb: Vec<String>,
    /// Lines at the end of `postgresql.conf`; they win over the harness's own.
    pub config: Vec<String>,
    /// Lines before the harness's own in `pg_hba.conf`, which trust everyone on the socket and on 127.0.0.1.
    pub hba: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { checksums: true, wal_segment_mib: 16, initdb: Vec::new(), config: Vec::new(), hba: Vec::new() }
    }
}

impl Options {
    /// The defaults with lines for `postgresql.conf`.
    #[must_use]
    pub fn with_config(lines: &[&str]) -> Self {
        Self { config: lines.iter().map(ToString::to_string).collect(), ..Self::default() }
    }
}

/// Speed over durability, because a killed process loses nothing that the kernel already has; small memory, because
/// several servers run at a time; a listener on loopback besides the socket; and no shared memory in `/dev/shm`, where that of
/// a killed server would stay.
const CONFIG: &str = "\
listen_addresses = '127.0.0.1'
fsync = off
shared_buffers = 32MB
dynamic_shared_memory_type = mmap
max_wal_senders = 10
max_replication_slots = 10
";

/// The longest path of a Unix socket on Linux, see unix(7), without the zero byte.
const SOCKET_PATH_BYTES: usize = 107;

/// `/.s.PGSQL.65535.lock`: PostgreSQL puts a lock file beside the socket.
const SOCKET_NAME_BYTES: usize = 20;

const HBA: &str = "\
local all         all              trust
host  all         all 127.0.0.1/32 trust
local replication all              trust
host  replication all 127.0.0.1/32 trust
";

/// How long recovery may take before a start counts as failed.
const START_LIMIT: Duration = Duration::from_secs(120);

/// How often a start looks whether the server is ready.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long all processes of a server may take to end after they were told to.
const END_LIMIT: Duration = Duration::from_secs(60);

/// A server of one major with its own data directory, socket and port, stopped and removed with the value.
#[derive(Debug)]
pub struct Server {
    major: u32,
    bin: PathBuf,
    data: PathBuf,
    port: u16,
    process: Option<Process>,
    /// Whether the socket is where the server's own configuration says, and not where our command line does.
    own_socket: bool,
    /// Where the socket is when the work directory's path is too long for one.
    short: Option<Workdir>,
    // Last, so that the directory goes after the server in it has been stopped by `Drop`.
    work: Workdir,
}

impl Server {
    /// Makes a data directory, not yet started.
    #[must_use]
    pub fn init(major: u32, options: &Options) -> Self {
        let work = Workdir::new(&format!("pg{major}"));
        let data = work.path().join("data");
        let bin = programs::server_bin(major);
        run_initdb(&bin, major, &data, options);
        let server = Self::new(major, bin, data, work);
        server.append("postgresql.conf", &format!("{CONFIG}{}\n", options.config.join("\n")));
        server.write_data_file("pg_hba.conf", format!("{}\n{HBA}", options.hba.join("\n")).as_bytes());
        server
    }

    /// Makes a data directory and starts the server.
    #[must_use]
    pub fn running(major: u32, options: &Options) -> Self {
        let mut server = Self::init(major, options);
        server.start();
        server
    }

    /// Takes a data directory that something else made, for example a restore, not yet started.
    ///
    /// The tree is given to the server's user and stays the caller's to remove. Nothing in it is changed: the port and
    /// the socket's place are given on the command line, everything else is what its own configuration says.
    #[must_use]
    pub fn adopt(major: u32, data: &Path) -> Self {
        let bin = programs::server_bin(major);
        let data = data.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", data.display()));
        user::give_tree(&data);
        Self::new(major, bin, data, Workdir::new(&format!("pg{major}")))
    }

    /// As [`adopt`](Self::adopt), to be started as `pg_ctl -D` does it: only the port is ours, and the socket is where its own
    /// configuration says. Client programs find it over TCP.
    #[must_use]
    pub fn adopt_as_it_is(major: u32, data: &Path) -> Self {
        let mut server = Self::adopt(major, data);
        server.own_socket = true;
        server
    }

    fn new(major: u32, bin: PathBuf, data: PathBuf, work: Workdir) -> Self {
        let fits = work.path().as_os_str().len() + SOCKET_NAME_BYTES <= SOCKET_PATH_BYTES;
        let short = (!fits).then(|| Workdir::below(Path::new("/tmp"), "asof-socket"));
        Self { major, bin, data, port: free_port(), process: None, own_socket: false, short, work }
    }

    /// Starts the server and returns when it accepts connections.
    pub fn start(&mut self) {
        self.try_start().unwrap_or_else(|why| panic!("{why}"));
    }

    /// As [`start`](Self::start), for a server that may rightly refuse; the error holds the end of its log.
    pub fn try_start(&mut self) -> Result<(), String> {
        let first_time = !self.log_path().exists();
        for _ in 0..3 {
            match self.launch().and_then(|()| self.wait_until_ready()) {
                Err(why) if first_time && why.contains("could not bind") => self.port = free_port(),
                outcome => return outcome,
            }
        }
        Err("three ports in a row were taken by others".to_owned())
    }

    /// Stops the server in order (a fast shutdown) and returns when all its processes are gone.
    pub fn stop(&mut self) {
        self.shut_down("INT").unwrap_or_else(|why| panic!("{why}"));
    }

    /// Kills every process of the server with SIGKILL, as a crash does, and returns when they are gone.
    pub fn kill(&mut self) {
        self.kill_all().unwrap_or_else(|why| panic!("{why}"));
    }

    /// Stops the server in order if it runs, and starts it.
    pub fn restart(&mut self) {
        if self.process.is_some() {
            self.stop();
        }
        self.start();
    }

    /// Runs SQL in database `postgres` and returns what it printed: rows on lines, columns separated by `|`.
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql)
    }

    /// As [`psql`](Self::psql), in another database.
    pub fn psql_in(&self, database: &str, sql: &str) -> String {
        self.try_psql_in(database, sql).unwrap_or_else(|why| panic!("{why}\nin: {sql}"))
    }

    /// As [`psql_in`](Self::psql_in), for statements that may rightly fail; the error is what `psql` said.
    pub fn try_psql_in(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = self.tool("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"]);
        let mut child = psql
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("psql: {error}"))?;
        // psql reads line by line and may leave at the first error, so a broken pipe here is not the news.
        let _ = child.stdin.take().expect("stdin is piped").write_all(sql.as_bytes());
        let output = child.wait_with_output().map_err(|error| format!("psql: {error}"))?;
        text_or_error(&output)
    }

    /// A client program (`pgbench`, `pg_dump`, `pg_amcheck` …) that connects to this server by its environment.
    ///
    /// It is the server's own program where its packaging has one, else that of the newest major.
    #[must_use]
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(programs::client(&self.bin, name));
        for variable in ["PGOPTIONS", "PGSERVICE", "PGSSLMODE", "PGPASSWORD"] {
            command.env_remove(variable);
        }
        command
            .env("PGHOST", if self.own_socket { Path::new("127.0.0.1") } else { self.socket_dir() })
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        command
    }

    /// How to connect over the socket, in libpq's keywords.
    #[must_use]
    pub fn conninfo(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.socket_dir().display(), self.port)
    }

    /// How to connect over TCP, in libpq's keywords.
    #[must_use]
    pub fn conninfo_tcp(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port)
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// The directory of the server's Unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.short.as_ref().unwrap_or(&self.work).path()
    }

    /// The port, chosen by the kernel and the same for the life of the value.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The directory of the server's programs.
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        &self.bin
    }

    /// The server's directory for what belongs to it besides its data.
    #[must_use]
    pub fn work(&self) -> &Workdir {
        &self.work
    }

    /// Everything the server has logged so far, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// The pid of the server's first process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.pid)
    }

    /// Makes an empty directory for a tablespace, outside the data directory.
    #[must_use]
    pub fn tablespace_dir(&self, name: &str) -> PathBuf {
        self.work.directory(name)
    }

    /// Writes a file into the data directory as the server would: its user's, mode 0600.
    pub fn write_data_file(&self, name: &str, content: &[u8]) {
        let path = self.data.join(name);
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(true).write(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(content)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        user::give(&path);
    }

    fn append(&self, name: &str, text: &str) {
        let path = self.data.join(name);
        let file = OpenOptions::new().append(true).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    fn log_path(&self) -> PathBuf {
        self.work.path().join("log")
    }

    /// Starts the first process as our own child, so that it is reaped here and its pid is free again once it ended.
    fn launch(&mut self) -> Result<(), String> {
        let log = self.locked_log()?;
        let mut command = user::server_command(&self.bin.join("postgres"));
        command.current_dir(self.work.path()).arg("-D").arg(&self.data);
        command.args(["-p", &self.port.to_string()]);
        if !self.own_socket {
            command.arg("-k").arg(self.socket_dir());
        }
        command.stdin(Stdio::null()).stderr(log.try_clone().map_err(|error| format!("the server's log: {error}"))?);
        let child = command.stdout(log).spawn().map_err(|error| format!("postgres: {error}"))?;
        self.process = Some(Process::watch(child));
        // `command` goes here and with it our handles: from now on the lock is held by the server's processes alone.
        Ok(())
    }

    /// Waits for the end of the first process, and looks every now and then whether it has become ready instead.
    fn wait_until_ready(&mut self) -> Result<(), String> {
        let process = self.process.as_ref().ok_or("the server was not started")?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match process.ended.recv_timeout(LOOK_EVERY) {
                Err(RecvTimeoutError::Timeout) if is_ready(&self.data, process.pid) => return Ok(()),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(_) => return Err(self.failure("become ready in time")),
                Ok(status) => {
                    self.process = None;
                    return Err(self.failure(&format!("start ({status})")));
                }
            }
        }
    }

    /// Sends the first process the signal of a kind of shutdown and returns when all processes are gone.
    fn shut_down(&mut self, signal_name: &str) -> Result<(), String> {
        let process = self.process.as_ref().ok_or("the server to stop does not run")?;
        signal(signal_name, &[process.pid])?;
        self.wait_for_the_end()
    }

    fn wait_for_the_end(&mut self) -> Result<(), String> {
        let process = self.process.as_ref().ok_or("the server to stop does not run")?;
        if process.ended.recv_timeout(END_LIMIT).is_err() {
            return Err(self.failure("stop in time"));
        }
        self.process = None;
        self.wait_until_gone()
    }

    /// The log, open for appending and locked: the lock goes where the handle goes.
    fn locked_log(&self) -> Result<File, String> {
        let file = OpenOptions::new().create(true).append(true).open(self.log_path());
        file.and_then(|file| file.lock().map(|()| file)).map_err(|error| format!("the server's log: {error}"))
    }

    /// Stops the first process so that it forks no more, then kills it and all its children at once. The segment of shared memory
    /// that tells PostgreSQL whether somebody is there goes, too: only a start in the same directory would remove it.
    fn kill_all(&mut self) -> Result<(), String> {
        let pid = self.process.as_ref().ok_or("the server to kill does not run")?.pid;
        signal("STOP", &[pid])?;
        let mut all = children(pid);
        all.push(pid);
        signal("KILL", &all)?;
        self.wait_for_the_end()?;
        if let Some(segment) = shared_memory(&self.data) {
            // Where it cannot be removed it stays, as it would have.
            let _ = Command::new("ipcrm").args(["-m", &segment]).stderr(Stdio::null()).status();
        }
        Ok(())
    }

    /// Returns when no process has the log open for writing any more.
    fn wait_until_gone(&self) -> Result<(), String> {
        let file = File::open(self.log_path()).map_err(|error| format!("the server's log: {error}"))?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(file.lock()));
        match receiver.recv_timeout(END_LIMIT) {
            Ok(locked) => locked.map_err(|error| format!("the server's log: {error}")),
            Err(_) => Err(format!("processes of the server in {} do not end", self.data.display())),
        }
    }

    fn failure(&self, action: &str) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(30)..].join("\n");
        format!("PostgreSQL {} in {} did not {action}; its log ends with\n{end}", self.major, self.data.display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_some() && self.shut_down("QUIT").is_err() {
            // Nothing is left to try, and a second panic would hide the first.
            let _ = self.kill_all();
        }
    }
}

/// The first process of a running server.
#[derive(Debug)]
struct Process {
    pid: u32,
    /// Tells the exit status, once, when the process has ended and been reaped.
    ended: Receiver<ExitStatus>,
}

impl Process {
    fn watch(mut child: Child) -> Self {
        let pid = child.id();
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || child.wait().map(|status| sender.send(status)));
        Self { pid, ended }
    }
}

/// Whether the server says in line 8 of `postmaster.pid` that it accepts connections, or that it is a standby that
/// never will: the test of `pg_ctl -w`, see `LOCK_FILE_LINE_PM_STATUS` in `miscadmin.h` of PostgreSQL 13 to 18.
fn is_ready(data: &Path, pid: u32) -> bool {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.first() == Some(&pid.to_string().as_str()) && matches!(lines.get(7), Some(&("ready" | "standby")))
}

/// The id of the server's System V segment, which stands in line 7 of `postmaster.pid` behind its key
/// (`LOCK_FILE_LINE_SHMEM_KEY`).
fn shared_memory(data: &Path) -> Option<String> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    Some(text.lines().nth(6)?.split_whitespace().nth(1)?.to_owned())
}

fn run_initdb(bin: &Path, major: u32, data: &Path, options: &Options) {
    let mut command = user::server_command(&bin.join("initdb"));
    command.current_dir(data.parent().expect("the data directory lies in a workdir")).stdin(Stdio::null());
    command.arg("-D").arg(data);
    command.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
    command.arg(format!("--wal-segsize={}", options.wal_segment_mib));
    if options.checksums {
        command.arg("--data-checksums");
    } else if major >= 18 {
        command.arg("--no-data-checksums");
    }
    let output = command.args(&options.initdb).output().unwrap_or_else(|error| panic!("initdb: {error}"));
    text_or_error(&output).unwrap_or_else(|why| panic!("initdb of PostgreSQL {major}: {why}"));
}

/// A port that was free a moment ago; whoever takes it in between makes the first start fail, which is tried again.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// Sends a signal with the shell's own `kill`, because the program of that name is not on every system.
fn signal(name: &str, pids: &[u32]) -> Result<(), String> {
    let list: Vec<String> = pids.iter().map(ToString::to_string).collect();
    let script = format!("kill -{name} {}", list.join(" "));
    let output = Command::new("sh").args(["-c", &script]).output().map_err(|error| format!("sh: {error}"))?;
    // A child may have ended by itself in between; that the first process is gone is proven by the log's lock.
    let missing = String::from_utf8_lossy(&output.stderr).contains("No such process");
    if output.status.success() || missing { Ok(()) } else { text_or_error(&output).map(drop) }
}

/// The direct children of a process, from field 4 (`ppid`) of `/proc/<pid>/stat`, see proc(5).
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc can be listed");
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so fields are counted from its end: state, ppid.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn text_or_error(output: &Output) -> Result<String, String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    Err(format!("{} {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end()))
}
