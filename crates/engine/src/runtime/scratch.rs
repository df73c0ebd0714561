//! A throw-away server: made by `initdb`, reached over a socket that nobody else can enter, and gone afterwards.
//!
//! It is there to load something into it and look, so nothing of it needs to survive: it does not sync. It starts nothing by
//! itself and reaches nobody. Everything lies in one directory (mode 0700):
//!
//! ```text
//! DIRECTORY/lock      held as long as the process that made the server lives
//! DIRECTORY/data      the data directory
//! DIRECTORY/log       what initdb and the server wrote
//! DIRECTORY/.s.PGSQL.5432
//! ```
//!
//! A process of it is registered under a lock while it is started, and [`Scratch::remove`] closes that lock first. So whatever is
//! dropped at whatever point, nothing starts behind the back of whoever clears up. What a killed asof leaves behind is
//! found by [`leftovers`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asof_postgres::conninfo::{Config, Environment, Host, Settings, Target};
use asof_world::{FileKind, Files, Process, ProcessState, Program, Signal, World};

use super::binaries::Binaries;
use super::isolation::preload_libraries;
use super::log::{Log, excerpt, reason};
use super::places::{give, private_directory};
use super::process::{PidFile, Status, StopMode, status, stop};
use super::user::ServerUser;
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};
use crate::server::Server;

/// The superuser.
pub const SCRATCH_ROLE: &str = "postgres";

/// Of the socket, which lies in a directory of its own.
const PORT: u16 = 5432;
/// A socket's path has at most 107 bytes (unix(7)), and the server appends `/.s.PGSQL.5432.lock`.
const DIRECTORY_BYTES: usize = 107 - 20;

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A server that does not accept connections by then never will: it has nothing to recover.
const START_LIMIT: Duration = Duration::from_secs(120);
/// A process that was told to end at once and has not by then is killed.
const END_LIMIT: Duration = Duration::from_secs(20);
/// Files that a dying process still makes while they are removed: how often removal is tried again.
const REMOVALS: u32 = 250;

/// What always holds: nothing is synced, nobody is reached, nothing starts by itself.
const SETTINGS: [(&str, &str); 9] = [
    ("listen_addresses", ""),
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    // Less would be faster, and every publication would warn that it is too little.
    ("wal_level", "logical"),
    ("max_wal_senders", "0"),
    ("max_wal_size", "4GB"),
    ("max_logical_replication_workers", "0"),
    ("log_checkpoints", "off"),
];

/// A server that is to be made.
#[derive(Clone)]
pub struct ScratchSpec {
    /// Everything of it; must not exist, in a directory that its user can enter.
    pub directory: PathBuf,
    /// The programs.
    pub binaries: Binaries,
    /// Who it runs as.
    pub user: ServerUser,
    /// What client programs may ask of this machine.
    pub environment: Environment,
    /// Further arguments of `initdb`.
    pub initdb: Vec<String>,
    /// Further settings; they win.
    pub settings: Vec<(String, String)>,
}

/// A throw-away server. Dropped without [`remove`](Self::remove), it is told to end, but its files stay.
pub struct Scratch {
    world: World,
    spec: ScratchSpec,
    slot: Arc<Mutex<Slot>>,
    /// Whoever finds the directory and can take this lock knows that nobody needs it any more.
    lock: Option<Box<dyn Send>>,
}

/// The process that runs now.
#[derive(Default)]
struct Slot {
    process: Option<Arc<dyn Process>>,
    /// It is the server, and not what makes its files.
    is_server: bool,
    /// Nothing may start any more.
    closed: bool,
}

impl Scratch {
    /// Makes the directory. Nothing runs yet.
    ///
    /// # Errors
    /// `Refused` if its path is too long for a socket.
    pub async fn make(world: &World, spec: ScratchSpec) -> Result<Self> {
        if spec.directory.as_os_str().len() > DIRECTORY_BYTES {
            let what = format!("the path {} is too long for a server's socket", spec.directory.display());
            return Err(Error::refused(what, "set TMPDIR to a directory with a shorter path"));
        }
        let (files, directory, user) = (world.files.clone(), spec.directory.clone(), spec.user.clone());
        let make = move || {
            if files.exists(&directory).map_err(Error::files("look at", &directory))? {
                return Err(Error::refused(format!("{} exists already", directory.display()), "try again"));
            }
            private_directory(files.as_ref(), &directory, &user)?;
            let path = directory.join("lock");
            let lock = files.lock(&path).map_err(Error::files("lock", &path))?;
            give(files.as_ref(), &path, &user)?;
            Ok(lock)
        };
        let lock = world.blocking(make).await?;
        Ok(Self { world: world.clone(), spec, slot: Arc::default(), lock })
    }

    /// Has the server load the libraries that some of these extensions want loaded at its start: those that only watch.
    pub fn preload(&mut self, extensions: &BTreeSet<String>) {
        let names: Vec<&str> = extensions.iter().map(String::as_str).collect();
        let installed = |name: &str| self.spec.binaries.has_library(name) == Some(true);
        let kept = preload_libraries(&names.join(","), &[], installed).kept;
        if !kept.is_empty() {
            self.spec.settings.push(("shared_preload_libraries".to_owned(), kept.join(",")));
        }
    }

    /// Makes the data directory.
    ///
    /// # Errors
    /// `Program` with what `initdb` said.
    pub async fn init(&self, observer: &dyn Observer) -> Result<()> {
        observer.event(Event::Phase("making a server"));
        let data = self.data_directory();
        let mut arguments: Vec<String> =
            ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions", "--username"]
                .map(str::to_owned)
                .into();
        arguments.retain(|argument| self.spec.binaries.major.number() >= 14 || argument != "--no-instructions");
        arguments.push(SCRATCH_ROLE.to_owned());
        arguments.extend(self.spec.initdb.iter().cloned());
        let mut arguments: Vec<std::ffi::OsString> = arguments.into_iter().map(Into::into).collect();
        arguments.extend(["-D".into(), data.into()]);
        let log = Log::before_start(&self.world, &self.spec.directory).await;
        let process = self.launch("initdb", arguments).await?;
        let waited = process.clone();
        let ended = self.world.blocking(move || waited.wait()).await;
        let ended = ended.map_err(Error::files("wait for", "initdb"))?;
        self.slot().process = None;
        match ended {
            ProcessState::Ended(Some(asof_world::Exit::Code(0))) => Ok(()),
            _ => {
                let text = log.text(&self.world).await;
                let said = text.lines().find(|line| line.contains("error:")).unwrap_or("it said no reason").to_owned();
                Err(Error::Program { what: format!("initdb failed: {said}"), hint: Some(excerpt(&text)) })
            }
        }
    }

    /// Starts the server and returns when it accepts connections.
    ///
    /// # Errors
    /// `Program` with what its log says.
    pub async fn start(&self, observer: &dyn Observer) -> Result<()> {
        observer.event(Event::Phase("starting it"));
        let mut arguments: Vec<std::ffi::OsString> = vec!["-D".into(), self.data_directory().into()];
        let own = [
            ("unix_socket_directories".to_owned(), self.spec.directory.display().to_string()),
            ("port".to_owned(), PORT.to_string()),
        ];
        let fixed = SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        // The last of two values wins.
        for (name, value) in fixed.chain(own).chain(self.spec.settings.iter().cloned()) {
            arguments.extend(["-c".into(), format!("{name}={value}").into()]);
        }
        let log = Log::before_start(&self.world, &self.spec.directory).await;
        let process = self.launch("postgres", arguments).await?;
        let deadline = self.world.monotonic() + START_LIMIT;
        loop {
            let state = process.state().map_err(Error::files("look at", "the throw-away server"))?;
            if state != ProcessState::Running || self.world.monotonic() > deadline {
                let text = log.text(&self.world).await;
                let why = reason(&text).unwrap_or_else(|| "its log does not say why".to_owned());
                let what = format!("the throw-away server did not start: {why}");
                return Err(Error::Program { what, hint: Some(excerpt(&text)) });
            }
            if PidFile::read(&self.world, &self.data_directory()).await.is_some_and(|file| file.ready) {
                return Ok(());
            }
            self.world.sleep(LOOK_EVERY).await;
        }
    }

    /// Its data directory.
    #[must_use]
    pub fn data_directory(&self) -> PathBuf {
        self.spec.directory.join("data")
    }

    /// The directory of everything.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.spec.directory
    }

    /// How it is reached, as its superuser.
    ///
    /// # Errors
    /// None that is known: the settings are ours.
    pub fn server(&self, database: &str) -> Result<Server> {
        let mut settings = Settings::default();
        let unusable = |error: &dyn std::fmt::Display| Error::refused(error.to_string(), "choose another database");
        for (key, value) in [("user", SCRATCH_ROLE), ("dbname", database), ("application_name", "asof")] {
            settings.set(key, value).map_err(|error| unusable(&error))?;
        }
        // No variable, service or passfile of the caller leads elsewhere.
        let seconds = u64::try_from(self.world.now().0 / 1_000_000).unwrap_or(0);
        let mut config = Config::resolve(settings, &Environment::empty(seconds)).map_err(|error| unusable(&error))?;
        let target = Target::Unix { directory: self.spec.directory.clone(), default: false };
        config.hosts = vec![Host { target, port: PORT }];
        Ok(Server { config, environment: self.spec.environment.clone() })
    }

    /// Stops the server in order and leaves its files.
    ///
    /// # Errors
    /// As [`stop`].
    pub async fn stop(&self) -> Result<()> {
        self.slot().process = None;
        stop(&self.world, &self.data_directory(), StopMode::Fast).await
    }

    /// Ends whatever runs and removes everything.
    ///
    /// # Errors
    /// `Files` with what could not be removed, or `Refused` if a server runs that cannot be ended.
    pub async fn remove(mut self) -> Result<()> {
        self.end().await?;
        let (mut tried, directory) = (0, &self.spec.directory);
        loop {
            let (files, removed) = (self.world.files.clone(), directory.clone());
            match self.world.blocking(move || files.remove_tree(&removed)).await {
                Ok(()) => break,
                Err(error) if tried == REMOVALS => return Err(Error::files("remove", directory)(error)),
                Err(_) => tried += 1,
            }
            self.world.sleep(LOOK_EVERY).await;
        }
        drop(self.lock.take());
        Ok(())
    }

    /// Ends the process that was registered, and any server of the data directory. A process that does not end is killed.
    async fn end(&self) -> Result<()> {
        let (process, is_server) = {
            let mut slot = self.slot();
            slot.closed = true;
            (slot.process.take(), slot.is_server)
        };
        if let Some(process) = process {
            // initdb is waited for: its own children would go on writing. It takes a second or two.
            if is_server {
                process.signal(Signal::Quit).map_err(Error::files("end", "the throw-away server"))?;
            }
            self.wait_or_kill(&process).await?;
        }
        if let Status::Running { pid, .. } = status(&self.world, &self.data_directory()).await? {
            // Proven to be the server of this directory, whoever started it.
            let (processes, path) = (self.world.processes(), format!("/proc/{pid}"));
            let found =
                self.world.blocking(move || processes.find(pid)).await.map_err(Error::files("look for", path))?;
            if let Some(found) = found {
                let found: Arc<dyn Process> = found.into();
                found.signal(Signal::Quit).map_err(Error::files("end", "the throw-away server"))?;
                self.wait_or_kill(&found).await?;
            }
        }
        Ok(())
    }

    async fn wait_or_kill(&self, process: &Arc<dyn Process>) -> Result<()> {
        let deadline = self.world.monotonic() + END_LIMIT;
        let path = || PathBuf::from(format!("/proc/{}", process.pid()));
        let mut killed = false;
        while process.state().map_err(Error::files("look at", path()))? == ProcessState::Running {
            if !killed && self.world.monotonic() > deadline {
                process.signal(Signal::Kill).map_err(Error::files("kill", path()))?;
                killed = true;
            }
            self.world.sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Starts a program of the server's user; it is registered before anybody can let go of it.
    async fn launch(&self, name: &str, arguments: Vec<std::ffi::OsString>) -> Result<Arc<dyn Process>> {
        let program = Program {
            path: self.spec.binaries.program(name),
            arguments,
            environment: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()), ("LC_ALL".into(), "C".into())],
            directory: self.spec.directory.clone(),
            user: self.spec.user.to_become(),
        };
        let is_server = name == "postgres";
        let (processes, slot, log) = (self.world.processes(), self.slot.clone(), self.spec.directory.join("log"));
        let start = move || {
            let mut slot = slot.lock().expect("no holder panics");
            if slot.closed {
                return Err(Error::Interrupted);
            }
            let started = processes.start(&program, &log).map_err(Error::files("start", &program.path))?;
            let process: Arc<dyn Process> = started.into();
            slot.process = Some(process.clone());
            slot.is_server = is_server;
            Ok(process)
        };
        self.world.blocking(start).await
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Slot> {
        self.slot.lock().expect("no holder panics")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut slot = self.slot();
        slot.closed = true;
        if let Some(process) = slot.process.take() {
            // Nobody is left to tell about one that cannot be reached; its directory is named by whoever looks next.
            let _ = process.signal(Signal::Quit);
        }
    }
}

/// What a throw-away server left behind, because whoever made it was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Its directory.
    pub directory: PathBuf,
    /// Its first process, if it runs still.
    pub pid: Option<u32>,
}

/// Directories in `parent` whose names begin with `prefix`, that are `user`'s or our own, and that nobody needs any more.
pub async fn leftovers(world: &World, parent: &Path, prefix: &str, user: &ServerUser) -> Vec<Leftover> {
    let (files, processes, looked_at) = (world.files.clone(), world.processes(), parent.to_owned());
    let (prefix, user) = (prefix.to_owned(), user.clone());
    let abandoned = move || {
        let ours = [user.owner.uid, processes.user().uid];
        abandoned(files.as_ref(), &looked_at, &prefix, &ours)
    };
    let mut found = Vec::new();
    for directory in world.blocking(abandoned).await {
        let pid = match status(world, &directory.join("data")).await {
            Ok(Status::Running { pid, .. }) => Some(pid),
            _ => None,
        };
        found.push(Leftover { directory, pid });
    }
    found
}

fn abandoned(files: &dyn Files, parent: &Path, prefix: &str, ours: &[u32]) -> Vec<PathBuf> {
    let entries = files.list(parent).unwrap_or_default();
    let named = entries.into_iter().filter(|entry| entry.name.to_string_lossy().starts_with(prefix));
    let mut found: Vec<PathBuf> = named
        .map(|entry| parent.join(entry.name))
        .filter(|path| {
            let found = files.attributes(path);
            let is_ours = found.is_ok_and(|at| at.kind == FileKind::Directory && ours.contains(&at.owner.uid));
            // Only one that is there is asked for its lock: asking would make the file.
            let lock = path.join("lock");
            is_ours && files.exists(&lock).unwrap_or(false) && matches!(files.lock(&lock), Ok(Some(_)))
        })
        .collect();
    found.sort();
    found
}
