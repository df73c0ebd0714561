//! What the hazard tests share: a server with a repository, and layers that let files, stores and sources go wrong.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use asof_engine::Result;
use asof_engine::backup::{self, BackupReport, BackupRequest, Reader, Reading};
use asof_engine::progress::Silent;
use asof_engine::restore::{self, Existing, Plan, RestoreRequest, WriteOptions};
use asof_engine::server::{self, Server as Link};
use asof_engine::shelf::Shelf;
use asof_engine::source::{FilesSource, Listing, Source, SourceFile};
use asof_engine::target::{Target, Wanted};
use asof_postgres::conninfo::{Config, Environment};
use asof_postgres::version::Major;
use asof_repository::lineage::{Backup, BackupKind};
use asof_repository::root;
use asof_repository::store::local::LocalStore;
use asof_repository::store::{Body, Created, Listed, ReadRange, Store};
use asof_testkit::{Options, Server, Workdir, majors};
use asof_world::{Attributes, DirEntry, Files, Owner, ReadFile, World, WriteFile, WriteMode};
use async_trait::async_trait;
use bytes::Bytes;

/// A server that is protected, and its repository.
pub(crate) struct Stage {
    pub(crate) server: Arc<Mutex<Server>>,
    pub(crate) major: u32,
    pub(crate) world: World,
    pub(crate) shelf: Shelf,
    pub(crate) link: Link,
    pub(crate) data: PathBuf,
    pub(crate) work: Workdir,
}

impl Stage {
    /// A running server of the first major of this run, with settings for `postgresql.conf`.
    pub(crate) async fn with(config: &[&str]) -> Self {
        Self::of(&Options::with_config(config)).await
    }

    /// As `with`, made in another way.
    pub(crate) async fn of(options: &Options) -> Self {
        Self::of_major(majors()[0], options).await
    }

    /// As `of`, of another major.
    pub(crate) async fn of_major(major: u32, options: &Options) -> Self {
        let server = Server::running(major, options);
        let world = World::real();
        let work = Workdir::new("hazard");
        let (link, data) = (link(&server), server.data_dir().to_owned());
        let source = FilesSource::new(world.clone(), &data, version(major));
        let shelf = shelf(&world, &source, &work.path().join("repository")).await;
        Self { server: Arc::new(Mutex::new(server)), major, world, shelf, link, data, work }
    }

    /// A running server without settings of its own.
    pub(crate) async fn plain() -> Self {
        Self::with(&[]).await
    }

    pub(crate) fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().expect("no holder panics")
    }

    pub(crate) fn sql(&self, text: &str) -> String {
        self.server().psql(text).trim().to_owned()
    }

    /// The files of the server, as they are.
    pub(crate) fn files(&self) -> FilesSource {
        FilesSource::new(self.world.clone(), &self.data, version(self.major))
    }

    /// The path of a relation's first file within the data directory.
    pub(crate) fn path_of(&self, relation: &str) -> String {
        self.sql(&format!("select pg_relation_filepath('{relation}')"))
    }

    pub(crate) async fn back_up(&self, name: &str) -> Result<BackupReport> {
        self.back_up_from(name, self.files()).await
    }

    pub(crate) async fn back_up_from(&self, name: &str, source: impl Source + 'static) -> Result<BackupReport> {
        self.back_up_into(&self.shelf, name, source).await
    }

    pub(crate) async fn back_up_into(
        &self,
        shelf: &Shelf,
        name: &str,
        source: impl Source + 'static,
    ) -> Result<BackupReport> {
        let reader = Reader { source: Arc::new(source), reading: Reading::Files };
        backup::create(shelf, &self.link, reader, &request(name), Arc::new(Silent)).await
    }

    /// Backups that count.
    pub(crate) async fn backups(&self) -> Vec<Backup> {
        let journal = self.shelf.journal().await.expect("the journal is read");
        journal.state().existing().iter().map(|state| state.backup.clone()).collect()
    }

    pub(crate) fn owner(&self) -> Owner {
        let data = std::fs::metadata(&self.data).expect("the data directory exists");
        Owner { uid: data.uid(), gid: data.gid() }
    }

    pub(crate) fn options(&self) -> WriteOptions {
        WriteOptions { existing: Existing::Refuse, jobs: 2, owner: Some(self.owner()) }
    }

    pub(crate) async fn plan(&self, backup: Option<&str>, target: Target, to: &Path) -> Result<Plan> {
        plan_on(&self.shelf, backup, target, to).await
    }

    /// Restores the latest state into a directory of the test.
    pub(crate) async fn restore(&self, backup: &str, to: &str) -> PathBuf {
        self.restore_to(backup, Target::Latest, to).await
    }

    pub(crate) async fn restore_to(&self, backup: &str, target: Target, to: &str) -> PathBuf {
        let destination = self.work.path().join(to);
        let plan = self.plan(Some(backup), target, &destination).await.expect("the restore is planned");
        restore::write(&self.shelf, &plan, self.options(), Arc::new(Silent)).await.expect("the files are written");
        destination
    }

    /// Starts a server on a restored directory; it is at its target and takes writes when this returns.
    pub(crate) fn start(&self, data: &Path) -> Server {
        self.try_start(data).unwrap_or_else(|why| panic!("{why}"))
    }

    /// As `start`, for a directory that may rightly refuse.
    pub(crate) fn try_start(&self, data: &Path) -> std::result::Result<Server, String> {
        let mut server = Server::adopt(self.major, data);
        server.try_start()?;
        // A standby that answers queries may still be replaying.
        server.psql("do $$ begin while pg_is_in_recovery() loop perform pg_sleep(0.01); end loop; end $$");
        Ok(server)
    }

    /// The constants of the server's WAL.
    pub(crate) async fn constants(&self) -> asof_engine::wal::shape::WalConstants {
        let (_, control) = server::read_control(&self.world, &self.files()).await.expect("pg_control is read");
        asof_engine::wal::shape::WalConstants::of(&control)
    }
}

pub(crate) async fn plan_on(shelf: &Shelf, backup: Option<&str>, target: Target, to: &Path) -> Result<Plan> {
    let request = RestoreRequest {
        instance: "prod".to_owned(),
        backup: backup.map(str::to_owned),
        wanted: Wanted { target, inclusive: true },
        timeline: None,
        destination: to.to_owned(),
    };
    restore::plan(shelf, &request).await
}

pub(crate) fn version(major: u32) -> Major {
    Major::from_number(major).expect("a supported major")
}

pub(crate) fn link(server: &Server) -> Link {
    let environment = Environment::empty(1_800_000_000);
    let config = Config::parse(&server.conninfo(), &environment).expect("the test server's conninfo is valid");
    Link { config, environment }
}

pub(crate) fn request(name: &str) -> BackupRequest {
    BackupRequest {
        instance: "prod".to_owned(),
        name: name.to_owned(),
        kind: BackupKind::Manual,
        tags: BTreeMap::new(),
        fast: true,
        jobs: 1,
        rate: None,
        full_read: false,
    }
}

/// A repository in which the instance that `source` shows is registered.
pub(crate) async fn shelf(world: &World, source: &dyn Source, repository: &Path) -> Shelf {
    let (_, control) = server::read_control(world, source).await.expect("pg_control is read");
    shelf_of(world, server::facts(&control), Arc::new(LocalStore::new(world.clone(), repository))).await
}

pub(crate) async fn shelf_of(
    world: &World,
    facts: BTreeMap<String, serde_json::Value>,
    store: Arc<dyn Store>,
) -> Shelf {
    let (mut repository, _) = root::init(world, store, false).await.expect("the repository is made");
    let (lineage, _) = repository.register("prod", facts, None).await.expect("the lineage is registered");
    Shelf::new(&repository, lineage)
}

/// A source that lets something happen while it is read: just before file number `at` is opened.
pub(crate) struct Interrupted {
    inner: FilesSource,
    at: usize,
    opened: AtomicUsize,
    happening: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Interrupted {
    pub(crate) fn new(inner: FilesSource, at: usize, happening: impl FnOnce() + Send + 'static) -> Self {
        Self { inner, at, opened: AtomicUsize::new(0), happening: Mutex::new(Some(Box::new(happening))) }
    }
}

#[async_trait]
impl Source for Interrupted {
    async fn list(&self) -> Result<Listing> {
        self.inner.list().await
    }

    async fn open(&self, path: &[u8]) -> Result<Option<Arc<dyn SourceFile>>> {
        if self.opened.fetch_add(1, Ordering::Relaxed) == self.at {
            let happening = self.happening.lock().expect("no holder panics").take();
            happening.expect("it happens once")();
        }
        self.inner.open(path).await
    }
}

type Verdict = dyn Fn(&'static str, &Path) -> io::Result<()> + Send + Sync;

/// Files of which any call may fail. Calls that change something: `create`, `write`, `set_len`, `sync`, `link`, `rename`,
/// `remove`, `create_dir`, `set_owner`, `set_mode`, `sync_dir`; others: `open`, `read`. Syncs are judged and not carried out: in
/// these tests no power goes.
#[derive(Clone)]
pub(crate) struct Failing {
    files: Arc<dyn Files>,
    judge: Arc<Verdict>,
}

impl Failing {
    /// The world with these files.
    pub(crate) fn world(
        world: &World,
        judge: impl Fn(&'static str, &Path) -> io::Result<()> + Send + Sync + 'static,
    ) -> World {
        let files = Arc::new(Self { files: world.files.clone(), judge: Arc::new(judge) });
        World { files, ..world.clone() }
    }
}

struct FailingFile<F> {
    file: F,
    path: PathBuf,
    judge: Arc<Verdict>,
}

impl ReadFile for FailingFile<Box<dyn ReadFile>> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        (self.judge)("read", &self.path)?;
        self.file.read_at(offset, buffer)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

impl WriteFile for FailingFile<Box<dyn WriteFile>> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (self.judge)("write", &self.path)?;
        self.file.write_at(offset, bytes)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        (self.judge)("set_len", &self.path)?;
        self.file.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        (self.judge)("sync", &self.path)
    }
}

impl Files for Failing {
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        (self.judge)("open", path)?;
        let file = self.files.open(path)?;
        Ok(Box::new(FailingFile { file, path: path.to_owned(), judge: self.judge.clone() }))
    }

    fn create(&self, path: &Path, mode: u32, write: WriteMode) -> io::Result<Box<dyn WriteFile>> {
        (self.judge)("create", path)?;
        let file = self.files.create(path, mode, write)?;
        Ok(Box::new(FailingFile { file, path: path.to_owned(), judge: self.judge.clone() }))
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let file = self.files.open_write(path)?;
        Ok(Box::new(FailingFile { file, path: path.to_owned(), judge: self.judge.clone() }))
    }

    fn link(&self, existing: &Path, new: &Path) -> io::Result<()> {
        (self.judge)("link", new)?;
        self.files.link(existing, new)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.judge)("rename", to)?;
        self.files.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        (self.judge)("remove", path)?;
        self.files.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        (self.judge)("remove", path)?;
        self.files.remove_dir(path)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        (self.judge)("create_dir", path)?;
        self.files.create_dir(path, mode)
    }

    fn symlink(&self, target: &Path, link: &Path) -> io::Result<()> {
        self.files.symlink(target, link)
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        self.files.read_link(path)
    }

    fn set_owner(&self, path: &Path, owner: Owner) -> io::Result<()> {
        (self.judge)("set_owner", path)?;
        self.files.set_owner(path, owner)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        (self.judge)("set_mode", path)?;
        self.files.set_mode(path, mode)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        (self.judge)("sync_dir", path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send>>> {
        self.files.lock(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.files.list(path)
    }

    fn attributes(&self, path: &Path) -> io::Result<Attributes> {
        self.files.attributes(path)
    }
}

type Answer = dyn Fn(&'static str, &str) -> bool + Send + Sync;

/// A store that does not answer some calls (`create`, `read`, `len`, `delete`), or lists nothing (`list`).
pub(crate) struct Unanswered {
    inner: Arc<dyn Store>,
    fails: Box<Answer>,
}

impl Unanswered {
    /// The shelf with this store.
    pub(crate) fn shelf(shelf: &Shelf, fails: impl Fn(&'static str, &str) -> bool + Send + Sync + 'static) -> Shelf {
        let store = Arc::new(Self { inner: shelf.store.clone(), fails: Box::new(fails) });
        Shelf { store, ..shelf.clone() }
    }

    fn ask(&self, operation: &'static str, name: &str) -> asof_repository::Result<()> {
        if !(self.fails)(operation, name) {
            return Ok(());
        }
        let source = io::Error::other("the test took the store away").into();
        Err(asof_repository::Error::Unavailable { operation, object: name.to_owned(), source })
    }
}

#[async_trait]
impl Store for Unanswered {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn create(&self, name: &str, body: Body) -> asof_repository::Result<Created> {
        self.ask("create", name)?;
        self.inner.create(name, body).await
    }

    async fn read(&self, name: &str, range: ReadRange) -> asof_repository::Result<Bytes> {
        self.ask("read", name)?;
        self.inner.read(name, range).await
    }

    async fn len(&self, name: &str) -> asof_repository::Result<u64> {
        self.ask("len", name)?;
        self.inner.len(name).await
    }

    async fn list(&self, prefix: &str) -> asof_repository::Result<Vec<Listed>> {
        if (self.fails)("list", prefix) {
            return Ok(Vec::new());
        }
        self.inner.list(prefix).await
    }

    async fn delete(&self, name: &str) -> asof_repository::Result<()> {
        self.ask("delete", name)?;
        self.inner.delete(name).await
    }
}
