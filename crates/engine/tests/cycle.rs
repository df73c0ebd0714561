//! Cycles that do not go as planned: an attempt that breaks off, and a server that refuses replication connections.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use asof_engine::backup::{self, Reader, Reading};
use asof_engine::progress::Silent;
use asof_engine::source::{Listing, Source, SourceFile};
use asof_engine::target::Target;
use asof_engine::wal::stream::Pace;
use asof_testkit::{Options, digests, fill_small};

use support::{Protected, files_of, link, request};

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
