//! What the tests of this crate share: a protected server and its repository, receivers, and restored copies.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asof_engine::Result;
use asof_engine::backup::{self, BackupReport, BackupRequest, Reader, Reading};
use asof_engine::progress::{Event, Observer, Silent};
use asof_engine::restore::{self, Existing, Plan, RestoreRequest, WriteOptions};
use asof_engine::server::{self, Server as Link};
use asof_engine::shelf::Shelf;
use asof_engine::source::{FilesSource, SqlSource};
use asof_engine::target::{Target, Wanted};
use asof_engine::wal::receiver;
use asof_engine::wal::shape::WalConstants;
use asof_engine::wal::stream::{IDLE_EVERY, Pace, StreamProgress, StreamSettings};
use asof_postgres::conninfo::{Config, Environment};
use asof_postgres::lsn::{Lsn, Timeline};
use asof_postgres::version::Major;
use asof_repository::lineage::{BackupKind, WalEvent};
use asof_repository::root::{self, Key, Repository};
use asof_repository::store::Store;
use asof_repository::store::local::LocalStore;
use asof_testkit::{Options, Server, Workdir};
use asof_world::{Owner, Task, World};

/// What a test waits for has happened by then, or never will.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the key of the protected host may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    FullKey,
    WriteOnlyKey,
}

/// A server with a lineage in a repository of its own.
pub(crate) struct Protected {
    pub(crate) world: World,
    pub(crate) server: Server,
    /// What the host writes with.
    pub(crate) shelf: Shelf,
    /// What restores read with: always the full key.
    pub(crate) owner: Shelf,
    /// The full key, as its file says it.
    pub(crate) key: String,
    pub(crate) repository: Repository,
    pub(crate) work: Workdir,
}

impl Protected {
    /// Starts a server and makes a local repository that knows it as `prod`.
    pub(crate) async fn new(major: u32, options: &Options) -> Self {
        let (world, work) = (World::real(), Workdir::new("protected"));
        let store = Arc::new(LocalStore::new(world.clone(), work.path().join("repository")));
        Self::stored(Server::running(major, options), work, store, Host::FullKey).await
    }

    /// Makes a repository in `store` that knows the server as `prod`, and a key for its host.
    pub(crate) async fn stored(server: Server, work: Workdir, store: Arc<dyn Store>, host: Host) -> Self {
        let world = World::real();
        let (mut repository, key) = root::init(&world, store.clone(), false).await.expect("the repository is made");
        let source = files_of(&world, &server).source;
        let (_, control) = server::read_control(&world, source.as_ref()).await.expect("pg_control is read");
        let facts = server::facts(&control);
        let (lineage, _) = repository.register("prod", facts, None).await.expect("the lineage is registered");
        let key = key.text.to_string();
        let shelf = match host {
            Host::FullKey => Shelf::new(&repository, lineage),
            Host::WriteOnlyKey => {
                let text = repository.add_write_only("host").await.expect("a key for the host is made");
                opened(&world, store.clone(), &text).await
            }
        };
        let owner = opened(&world, store, &key).await;
        Self { world, server, shelf, owner, key, repository, work }
    }

    /// Makes a backup from the files.
    pub(crate) async fn backup(&self, name: &str) -> BackupReport {
        self.backup_by(name, Reading::Files).await
    }

    /// Makes a backup.
    pub(crate) async fn backup_by(&self, name: &str, reading: Reading) -> BackupReport {
        let reader = match reading {
            Reading::Files => files_of(&self.world, &self.server),
            Reading::Sql => {
                let source = SqlSource::connect(&link(&self.server), 3).await.expect("the server is read by SQL");
                Reader { source: Arc::new(source), reading }
            }
        };
        let made = backup::create(&self.shelf, &link(&self.server), reader, &request(name), Arc::new(Silent)).await;
        made.unwrap_or_else(|error| panic!("backup {name}: {}", chain(&error)))
    }

    /// Asks for `target` in the newest history, into a directory that is not there yet.
    pub(crate) fn wanted(&self, target: Target, inclusive: bool) -> RestoreRequest {
        RestoreRequest {
            instance: "prod".to_owned(),
            backup: None,
            wanted: Wanted { target, inclusive },
            timeline: None,
            destination: self.work.path().join(format!("restored-{}", self.world.id())),
        }
    }

    /// Plans a restore to `target`.
    pub(crate) async fn plan(&self, target: Target, inclusive: bool) -> Result<Plan> {
        restore::plan(&self.owner, &self.wanted(target, inclusive)).await
    }

    /// Why a restore to `target` is refused, with its hint.
    pub(crate) async fn refusal(&self, target: Target) -> String {
        match self.plan(target.clone(), true).await {
            Ok(plan) => panic!("{target} should be refused, but leads to {}", plan.resolved.last),
            Err(error) => chain(&error),
        }
    }

    /// Restores, starts PostgreSQL on it and holds what was replayed against the plan.
    pub(crate) async fn restored(&self, request: &RestoreRequest) -> Server {
        let plan = restore::plan(&self.owner, request).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let options =
            WriteOptions { existing: Existing::Refuse, jobs: 2, owner: Some(owner_of(self.server.data_dir())) };
        let written = restore::write(&self.owner, &plan, options, Arc::new(Silent)).await;
        written.unwrap_or_else(|error| panic!("{}", chain(&error)));
        self.started(&plan).await
    }

    async fn started(&self, plan: &Plan) -> Server {
        let mut restored = Server::adopt(self.server.major(), &plan.destination);
        restored.start();
        // A hot standby accepts connections before it is promoted.
        until(&self.world, "the promotion", || restored.psql("select pg_is_in_recovery()") == "f").await;
        assert_eq!(restored.psql("select pg_last_wal_replay_lsn()"), plan.resolved.end.to_string());
        restored
    }

    /// Starts a receiver on the server, through the lineage's own slot.
    pub(crate) fn receiver(&self, pace: Pace) -> Receiver {
        Receiver::start(self.settings(&self.server, pace))
    }

    /// What a receiver on `server` needs.
    pub(crate) fn settings(&self, server: &Server, pace: Pace) -> StreamSettings {
        StreamSettings {
            shelf: self.shelf.clone(),
            server: link(server),
            constants: constants(server),
            slot: receiver::slot_name(&self.shelf),
            pace,
            spool: None,
            idle: IDLE_EVERY,
        }
    }

    /// Until when WAL is stored without a hole, as the repository shows it.
    pub(crate) async fn stored_end(&self) -> (Timeline, Lsn) {
        let journal = self.shelf.journal().await.expect("the journal is read");
        let size = constants(&self.server).stored_segment();
        let stored = receiver::stored_end(&self.shelf, journal.state(), size).await.expect("WAL is found");
        let stored = stored.expect("some WAL is stored");
        (stored.timeline, stored.end)
    }

    /// What the journal says of WAL.
    pub(crate) async fn wal_events(&self) -> Vec<WalEvent> {
        self.shelf.journal().await.expect("the journal is read").state().wal.clone()
    }
}

/// A running receiver.
pub(crate) struct Receiver {
    world: World,
    progress: Arc<StreamProgress>,
    events: Arc<Notes>,
    task: Task<Result<()>>,
}

impl Receiver {
    pub(crate) fn start(settings: StreamSettings) -> Self {
        let (progress, events) = (Arc::new(StreamProgress::default()), Arc::new(Notes::default()));
        let world = settings.shelf.world.clone();
        let (given, observer) = (progress.clone(), events.clone());
        let task = world.spawn(async move { receiver::receive(&settings, given, observer).await });
        Self { world, progress, events, task }
    }

    /// Waits until everything before `lsn` is stored.
    pub(crate) async fn reach(&self, lsn: Lsn) {
        let deadline = self.world.monotonic() + PATIENCE;
        while self.progress.durable() < lsn {
            let late = self.world.monotonic() > deadline;
            assert!(!late, "WAL up to {lsn} was not stored, only up to {}; {:?}", self.progress.durable(), self.events);
            self.world.sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until everything that `server` has written is stored, and returns how far that is.
    pub(crate) async fn catch_up(&self, server: &Server) -> Lsn {
        let flushed = flushed(server);
        self.reach(flushed).await;
        flushed
    }

    /// Waits until `attempt` succeeds.
    pub(crate) async fn allow<T>(&self, attempt: impl AsyncFn() -> Result<T>) {
        let deadline = self.world.monotonic() + PATIENCE;
        while let Err(error) = attempt().await {
            assert!(self.world.monotonic() < deadline, "{}; {:?}", chain(&error), self.events);
            self.world.sleep(LOOK_EVERY).await;
        }
    }

    /// Stops it in order.
    pub(crate) async fn stop(self) {
        self.progress.stop();
        self.task.await.unwrap_or_else(|error| panic!("the receiver failed: {}", chain(&error)));
    }

    /// Waits until it gives up, and returns why.
    pub(crate) async fn failure(self) -> String {
        let Self { world, task, events, .. } = self;
        let outcome = futures::future::select(task, Box::pin(world.sleep(PATIENCE))).await;
        match outcome {
            futures::future::Either::Left((Err(error), _)) => chain(&error),
            futures::future::Either::Left((Ok(()), _)) => panic!("the receiver ended without a reason; {events:?}"),
            futures::future::Either::Right(_) => panic!("the receiver goes on; {events:?}"),
        }
    }

    /// What it said.
    pub(crate) fn said(&self, text: &str) -> bool {
        self.events.0.lock().expect("no holder panics").iter().any(|event| format!("{event:?}").contains(text))
    }
}

/// Everything that was said.
#[derive(Default, Debug)]
pub(crate) struct Notes(Mutex<Vec<Event>>);

impl Observer for Notes {
    fn event(&self, event: Event) {
        self.0.lock().expect("no holder panics").push(event);
    }
}

/// The place of `prod` as somebody sees it who has a key and the repository, and nothing else.
pub(crate) async fn opened(world: &World, store: Arc<dyn Store>, key: &str) -> Shelf {
    let key = Key::parse(key).expect("the key can be read");
    let repository = root::open(world, store, &key, None).await.expect("the repository opens");
    let lineage = repository.lineage_of("prod").expect("the instance is known");
    Shelf::new(&repository, lineage)
}

/// How Asof reaches a test server.
pub(crate) fn link(server: &Server) -> Link {
    let environment = Environment::empty(1_800_000_000);
    let text = format!("{} application_name=asof", server.conninfo());
    let config = Config::parse(&text, &environment).expect("the test server's conninfo is valid");
    Link { config, environment }
}

pub(crate) fn files_of(world: &World, server: &Server) -> Reader {
    let major = Major::from_number(server.major()).expect("a supported major");
    let source = FilesSource::new(world.clone(), server.data_dir(), major);
    Reader { source: Arc::new(source), reading: Reading::Files }
}

#[expect(clippy::disallowed_methods, reason = "the test looks at the real files behind the server's back")]
pub(crate) fn constants(server: &Server) -> WalConstants {
    let bytes = std::fs::read(server.data_dir().join("global/pg_control")).expect("there is a pg_control");
    WalConstants::of(&asof_postgres::control::ControlFile::parse(&bytes).expect("pg_control is valid"))
}

/// A manual backup of that name.
pub(crate) fn request(name: &str) -> BackupRequest {
    BackupRequest {
        instance: "prod".to_owned(),
        name: name.to_owned(),
        kind: BackupKind::Manual,
        tags: BTreeMap::new(),
        fast: true,
        jobs: 2,
        rate: None,
        full_read: false,
    }
}

#[expect(clippy::disallowed_methods, reason = "the test gives what it restores to the user that its servers run as")]
pub(crate) fn owner_of(path: &Path) -> Owner {
    use std::os::unix::fs::MetadataExt;
    let data = std::fs::metadata(path).expect("the data directory exists");
    Owner { uid: data.uid(), gid: data.gid() }
}

/// Copies a data directory whose server is stopped.
pub(crate) fn copy_of(data: &Path, to: &Path) -> PathBuf {
    let copied = std::process::Command::new("cp").arg("-a").arg(data).arg(to).status().expect("cp runs");
    assert!(copied.success());
    to.to_owned()
}

/// An error with all its causes and its hint.
pub(crate) fn chain(error: &asof_engine::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    format!("{text} ({})", error.hint().unwrap_or("no hint"))
}

/// A position that the server answers with.
pub(crate) fn lsn(server: &Server, sql: &str) -> Lsn {
    server.psql(sql).parse().expect("an LSN")
}

/// How far the server has flushed WAL, after it flushed everything that was written so far.
pub(crate) fn flushed(server: &Server) -> Lsn {
    // A synchronous transaction takes everything before it along.
    server.psql("select pg_logical_emit_message(true, 'test', 'flush')");
    lsn(server, "select pg_current_wal_flush_lsn()")
}

/// A standby of the server, that has replayed everything.
pub(crate) async fn standby(production: &Protected) -> Server {
    let copy = production.work.path().join("standby");
    let mut basebackup = production.server.tool("pg_basebackup");
    let made = basebackup.args(["-c", "fast", "-X", "stream", "-D"]).arg(&copy).status().expect("pg_basebackup runs");
    assert!(made.success());
    let mut standby = Server::adopt(production.server.major(), &copy);
    // Not by pg_basebackup, which may be of a newer major and writes what an older one does not know.
    let upstream = format!("primary_conninfo = '{}'\n", production.server.conninfo());
    standby.write_data_file("postgresql.auto.conf", upstream.as_bytes());
    standby.write_data_file("standby.signal", b"");
    standby.start();
    follow(production, &standby).await;
    standby
}

/// Waits until the standby has replayed all that the primary wrote.
pub(crate) async fn follow(production: &Protected, standby: &Server) {
    let flushed = flushed(&production.server);
    let replayed = || lsn(standby, "select coalesce(pg_last_wal_replay_lsn(), '0/0')");
    until(&production.world, "the standby", || replayed() >= flushed).await;
}

/// Looks until something has happened; fails when it does not.
pub(crate) async fn until(world: &World, what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = world.monotonic() + PATIENCE;
    while !happened() {
        assert!(world.monotonic() < deadline, "{what} did not come");
        world.sleep(LOOK_EVERY).await;
    }
}
