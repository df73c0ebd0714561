//! A full cycle against a real server: backup by files, WAL, restore, comparison.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use asof_engine::backup::{self, BackupRequest, Reader, Reading};
use asof_engine::progress::Silent;
use asof_engine::restore::{self, RestoreRequest, WriteOptions};
use asof_engine::server::{self, Server as Link};
use asof_engine::shelf::Shelf;
use asof_engine::source::{FilesSource, Listing, Source, SourceFile, SqlSource};
use asof_engine::target::{Target, Wanted};
use asof_engine::wal::receiver::{receive, slot_name};
use asof_engine::wal::shape::WalConstants;
use asof_engine::wal::stream::{Pace, StreamProgress, StreamSettings};
use asof_postgres::conninfo::{Config, Environment};
use asof_postgres::lsn::Lsn;
use asof_postgres::version::Major;
use asof_repository::lineage::BackupKind;
use asof_repository::root;
use asof_repository::store::local::LocalStore;
use asof_testkit::{Options, Server, Workdir, digests, fill_small};
use asof_world::{Owner, World};

fn link(server: &Server) -> Link {
    let environment = Environment::empty(1_800_000_000);
    let config = Config::parse(&server.conninfo(), &environment).expect("the test server's conninfo is valid");
    Link { config, environment }
}

async fn reader_by(world: &World, server: &Server, reading: Reading) -> Reader {
    match reading {
        Reading::Files => reader(world, server),
        Reading::Sql => {
            let source = SqlSource::connect(&link(server), 3).await.expect("the server is read by SQL");
            Reader { source: Arc::new(source), reading }
        }
    }
}

fn reader(world: &World, server: &Server) -> Reader {
    let major = Major::from_number(server.major()).expect("a supported major");
    let source = FilesSource::new(world.clone(), server.data_dir(), major);
    Reader { source: Arc::new(source), reading: Reading::Files }
}

fn request(name: &str) -> BackupRequest {
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

fn owner_of(path: &Path) -> Owner {
    use std::os::unix::fs::MetadataExt;
    let data = std::fs::metadata(path).expect("the data directory exists");
    Owner { uid: data.uid(), gid: data.gid() }
}

async fn shelf_for(world: &World, server: &Server, repository: &Path) -> Shelf {
    let store = Arc::new(LocalStore::new(world.clone(), repository));
    let (mut repository, _) = root::init(world, store, false).await.expect("the repository is made");
    let (_, control) =
        server::read_control(world, reader(world, server).source.as_ref()).await.expect("pg_control is read");
    let facts = server::facts(&control);
    let (lineage, _) = repository.register("prod", facts, None).await.expect("the lineage is registered");
    Shelf::new(&repository, lineage)
}

/// Things that the small data set does not have: a tablespace, an empty database, a prepared transaction.
fn add_odd_things(server: &Server) {
    let tablespace = server.tablespace_dir("elsewhere");
    server.psql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", tablespace.display()));
    server.psql("CREATE TABLE moved (a int, b text) TABLESPACE elsewhere");
    server.psql("INSERT INTO moved SELECT g, repeat('x', g % 300) FROM generate_series(1, 20000) g");
    server.psql("CREATE DATABASE another");
    server.psql_in("another", "CREATE TABLE there (a int); INSERT INTO there SELECT generate_series(1, 1000)");
    server.psql("CREATE TABLE \"weird \"\"name\"\" \\ here\" AS SELECT 1 AS a");
}

async fn cycle(major: u32, reading: Reading) {
    let world = World::real();
    let server = Server::running(major, &Options::default());
    fill_small(&server);
    add_odd_things(&server);
    let work = Workdir::new("cycle");
    let shelf = shelf_for(&world, &server, &work.path().join("repository")).await;
    let before = [digests(&server, "postgres"), digests(&server, "another")];
    let mut reports = Vec::new();
    for name in ["first", "second"] {
        let reader = reader_by(&world, &server, reading).await;
        let made = backup::create(&shelf, &link(&server), reader, &request(name), Arc::new(Silent)).await;
        reports.push(made.expect("the backup is made"));
    }
    let [first, second] = &reports[..] else { unreachable!("two backups were made") };
    assert!(first.backup.tainted.is_empty() && second.backup.tainted.is_empty());
    assert!(second.backup.sizes.changed < first.backup.sizes.changed / 10, "{:?}", second.backup.sizes);
    assert!(second.backup.sizes.stored < first.backup.sizes.stored / 5, "{:?}", second.backup.sizes);
    for name in ["first", "second"] {
        let destination = work.path().join(name);
        let request = RestoreRequest {
            instance: "prod".to_owned(),
            backup: Some(name.to_owned()),
            wanted: Wanted { target: Target::Latest, inclusive: true },
            timeline: None,
            destination: destination.clone(),
        };
        let plan = restore::plan(&shelf, &request).await.expect("the restore is planned");
        let options = WriteOptions { jobs: 2, owner: Some(owner_of(server.data_dir())) };
        restore::write(&shelf, &plan, options, Arc::new(Silent)).await.expect("the files are written");
        let mut restored = Server::adopt(major, &destination);
        restored.start();
        let after = [digests(&restored, "postgres"), digests(&restored, "another")];
        assert_eq!(after, before, "{name} on {major} by {reading:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_by_files_equals_the_server_it_was_taken_from() {
    for major in asof_testkit::majors() {
        cycle(major, Reading::Files).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_by_sql_equals_the_server_it_was_taken_from() {
    for major in asof_testkit::majors() {
        cycle(major, Reading::Sql).await;
    }
}

/// An instance that stops answering after some reads.
struct Failing {
    inner: Arc<dyn Source>,
    reads: AtomicU64,
}

#[async_trait::async_trait]
impl Source for Failing {
    async fn list(&self) -> asof_engine::Result<Listing> {
        self.inner.list().await
    }

    async fn open(&self, path: &[u8]) -> asof_engine::Result<Option<Arc<dyn SourceFile>>> {
        // pg_control is read before the copy begins.
        if !path.ends_with(b"pg_control") && self.reads.fetch_sub(1, Ordering::Relaxed) == 0 {
            let what = "the disk went away".to_owned();
            return Err(asof_engine::Error::Damaged { what, hint: None });
        }
        self.inner.open(path).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_a13_what_a_broken_attempt_stored_is_used_by_the_next_one_through_its_hashes() {
    let world = World::real();
    let server = Server::running(asof_testkit::majors()[0], &Options::default());
    fill_small(&server);
    let work = Workdir::new("broken");
    let shelf = shelf_for(&world, &server, &work.path().join("repository")).await;
    let inner = reader(&world, &server).source;
    let source = Arc::new(Failing { inner, reads: AtomicU64::new(1000) });
    let broken = Reader { source, reading: Reading::Files };
    let failed = backup::create(&shelf, &link(&server), broken, &request("broken"), Arc::new(Silent)).await;
    assert!(failed.expect_err("the attempt fails").to_string().contains("the disk went away"));
    assert!(shelf.journal().await.expect("the journal opens").state().existing().is_empty());

    server.psql("UPDATE customer SET name = name || '!' WHERE id % 7 = 0");
    let before = digests(&server, "postgres");
    let made =
        backup::create(&shelf, &link(&server), reader(&world, &server), &request("whole"), Arc::new(Silent)).await;
    let report = made.expect("the next attempt succeeds");
    assert!(report.backup.sizes.shared > 0 && report.backup.sizes.changed > 0, "{:?}", report.backup.sizes);
    let destination = work.path().join("restored");
    let request = RestoreRequest {
        instance: "prod".to_owned(),
        backup: None,
        wanted: Wanted { target: Target::Latest, inclusive: true },
        timeline: None,
        destination: destination.clone(),
    };
    let plan = restore::plan(&shelf, &request).await.expect("the restore is planned");
    let options = WriteOptions { jobs: 2, owner: Some(owner_of(server.data_dir())) };
    restore::write(&shelf, &plan, options, Arc::new(Silent)).await.expect("the files are written");
    let mut restored = Server::adopt(server.major(), &destination);
    restored.start();
    assert_eq!(digests(&restored, "postgres"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_replication_connections_are_refused_wal_is_read_by_sql() {
    for major in asof_testkit::majors() {
        let world = World::real();
        let hba = vec!["local replication all reject".to_owned(), "host replication all all reject".to_owned()];
        let server = Server::running(major, &Options { hba, ..Options::default() });
        fill_small(&server);
        let work = Workdir::new("sql-wal");
        let shelf = shelf_for(&world, &server, &work.path().join("repository")).await;
        let reader = reader(&world, &server);
        let made = backup::create(&shelf, &link(&server), reader, &request("one"), Arc::new(Silent)).await;
        made.expect("the backup is made");

        let facts = shelf.journal().await.expect("the journal opens").state().facts.clone();
        let settings = StreamSettings {
            shelf: shelf.clone(),
            server: link(&server),
            constants: WalConstants::from_facts(&facts).expect("the facts are complete"),
            slot: slot_name(&shelf),
            pace: Pace::Every(Duration::from_millis(300)),
        };
        let progress = Arc::new(StreamProgress::default());
        let shared = progress.clone();
        let receiving = tokio::spawn(async move { receive(&settings, shared, Arc::new(Silent)).await });
        server.psql("CREATE TABLE later AS SELECT g AS a FROM generate_series(1, 30000) g");
        let flushed: Lsn = server.psql("SELECT pg_current_wal_flush_lsn()").trim().parse().expect("a position");
        while progress.durable() < flushed {
            assert!(!receiving.is_finished(), "{:?}", receiving.await);
            world.sleep(Duration::from_millis(20)).await;
        }
        progress.stop();
        receiving.await.expect("no panic").expect("the receiver ends well");
        let before = digests(&server, "postgres");
        let destination = work.path().join("restored");
        let request = RestoreRequest {
            instance: "prod".to_owned(),
            backup: None,
            wanted: Wanted { target: Target::Latest, inclusive: true },
            timeline: None,
            destination: destination.clone(),
        };
        let plan = restore::plan(&shelf, &request).await.expect("the restore is planned");
        let options = WriteOptions { jobs: 2, owner: Some(owner_of(server.data_dir())) };
        restore::write(&shelf, &plan, options, Arc::new(Silent)).await.expect("the files are written");
        let mut restored = Server::adopt(major, &destination);
        restored.start();
        assert_eq!(digests(&restored, "postgres"), before, "on {major}");
    }
}
