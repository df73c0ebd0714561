//! A full cycle against a real server: backup by files, WAL, restore, comparison.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use asof_engine::backup::{self, Reader, Reading};
use asof_engine::progress::Silent;
use asof_engine::restore::RestoreRequest;
use asof_engine::source::{Listing, Source, SourceFile};
use asof_engine::target::Target;
use asof_engine::wal::stream::Pace;
use asof_testkit::{Options, Server, digests, fill_small};

use support::{Protected, files_of, link, request};

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
    let production = Protected::new(major, &Options::default()).await;
    fill_small(&production.server);
    add_odd_things(&production.server);
    let before = [digests(&production.server, "postgres"), digests(&production.server, "another")];
    let first = production.backup_by("first", reading).await;
    let second = production.backup_by("second", reading).await;
    assert!(first.backup.tainted.is_empty() && second.backup.tainted.is_empty());
    assert!(second.backup.sizes.changed < first.backup.sizes.changed / 10, "{:?}", second.backup.sizes);
    assert!(second.backup.sizes.stored < first.backup.sizes.stored / 5, "{:?}", second.backup.sizes);
    for name in ["first", "second"] {
        let latest = production.wanted(Target::Latest, true);
        let restored = production.restored(&RestoreRequest { backup: Some(name.to_owned()), ..latest }).await;
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
    let production = Protected::new(asof_testkit::majors()[0], &Options::default()).await;
    let Protected { world, server, shelf, .. } = &production;
    fill_small(server);
    let inner = files_of(world, server).source;
    let source = Arc::new(Failing { inner, reads: AtomicU64::new(400) });
    let broken = Reader { source, reading: Reading::Files };
    let failed = backup::create(shelf, &link(server), broken, &request("broken"), Arc::new(Silent)).await;
    assert!(failed.expect_err("the attempt fails").to_string().contains("the disk went away"));
    assert!(shelf.journal().await.expect("the journal opens").state().existing().is_empty());

    server.psql("UPDATE customer SET name = name || '!' WHERE id % 7 = 0");
    let before = digests(server, "postgres");
    let report = production.backup("whole").await;
    assert!(report.backup.sizes.shared > 0 && report.backup.sizes.changed > 0, "{:?}", report.backup.sizes);
    let restored = production.restored(&production.wanted(Target::Latest, true)).await;
    assert_eq!(digests(&restored, "postgres"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_replication_connections_are_refused_wal_is_read_by_sql() {
    for major in asof_testkit::majors() {
        let hba = vec!["local replication all reject".to_owned(), "host replication all all reject".to_owned()];
        let production = Protected::new(major, &Options { hba, ..Options::default() }).await;
        fill_small(&production.server);
        production.backup("one").await;
        let receiver = production.receiver(Pace::Every(Duration::from_millis(300)));
        production.server.psql("CREATE TABLE later AS SELECT g AS a FROM generate_series(1, 30000) g");
        receiver.catch_up(&production.server).await;
        receiver.stop().await;
        let restored = production.restored(&production.wanted(Target::Latest, true)).await;
        assert_eq!(digests(&restored, "postgres"), digests(&production.server, "postgres"), "on {major}");
    }
}
