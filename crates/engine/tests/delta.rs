//! Restoring over a directory that is there: only what differs is written, and nothing outside of it is touched.

#![allow(clippy::disallowed_methods, reason = "the test damages files behind the back of the code")]

mod support;

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use asof_engine::progress::Silent;
use asof_engine::restore::{self, Existing, WriteOptions};
use asof_engine::target::Target;
use asof_testkit::{Options, Server, digests, fill_small};
use support::{Protected, owner_of};

/// Flips bits in the middle of the largest file below `directory`.
fn scribble(directory: &std::path::Path) {
    let mut files: Vec<_> =
        std::fs::read_dir(directory).expect("lists").map(|entry| entry.expect("an entry")).collect();
    files.sort_by_key(|entry| entry.metadata().expect("metadata").len());
    let largest = files.last().expect("a file").path();
    let file = std::fs::OpenOptions::new().write(true).open(largest).expect("opens");
    file.write_all_at(&[0xA5; 300], 8192 + 4000).expect("writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_over_an_instance_that_went_its_own_way_writes_only_what_differs() {
    let production = Protected::new(asof_testkit::majors()[0], &Options::default()).await;
    fill_small(&production.server);
    production.backup("one").await;
    let before = digests(&production.server, "postgres");
    let request = production.wanted(Target::Latest, true);
    let mut copy = production.restored(&request).await;
    copy.psql(
        "DROP TABLE picture; UPDATE customer SET name = 'gone' WHERE id % 3 = 0; CREATE TABLE stray AS SELECT 1 AS a",
    );

    let owner = owner_of(production.server.data_dir());
    let options = WriteOptions { existing: Existing::Compare, jobs: 2, owner: Some(owner) };
    let again = restore::RestoreRequest { destination: request.destination.clone(), ..request };
    let plan = restore::plan(&production.shelf, &again).await.expect("the restore is planned");
    let refused = restore::write(&production.shelf, &plan, options, Arc::new(Silent)).await;
    assert!(refused.expect_err("is refused").to_string().contains("a server runs on"));
    assert_eq!(copy.psql("SELECT count(*) FROM stray"), "1", "a refused restore changes nothing");

    copy.stop();
    let database = plan.destination.join("base").join(
        std::fs::read_dir(plan.destination.join("base"))
            .expect("lists")
            .map(|e| e.expect("an entry").file_name())
            .max_by_key(|name| name.to_string_lossy().parse::<u32>().unwrap_or(0))
            .expect("a database"),
    );
    scribble(&database);
    let outside = production.work.path().join("outside");
    std::fs::create_dir(&outside).expect("creates");
    std::fs::write(outside.join("precious"), "kept").expect("writes");
    std::os::unix::fs::symlink(&outside, plan.destination.join("base/4294967200")).expect("links");

    let written = restore::write(&production.shelf, &plan, options, Arc::new(Silent)).await;
    let written = written.unwrap_or_else(|error| panic!("{error}"));
    assert!(written.rewritten > 0 && written.rewritten < written.bytes * 3 / 4, "{written:?}");
    assert_eq!(std::fs::read(outside.join("precious")).expect("is there"), b"kept");
    let mut restored = Server::adopt(production.server.major(), &plan.destination);
    restored.start();
    assert_eq!(digests(&restored, "postgres"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_instance_is_never_restored_over() {
    let major = asof_testkit::majors()[0];
    let production = Protected::new(major, &Options::default()).await;
    production.backup("one").await;
    let mut stranger = Server::running(major, &Options::default());
    stranger.psql("CREATE TABLE mine AS SELECT 1 AS a");
    stranger.stop();
    let request = restore::RestoreRequest {
        destination: stranger.data_dir().to_owned(),
        ..production.wanted(Target::Latest, true)
    };
    let plan = restore::plan(&production.shelf, &request).await.expect("the restore is planned");
    let options = WriteOptions { existing: Existing::Compare, jobs: 2, owner: None };
    let refused = restore::write(&production.shelf, &plan, options, Arc::new(Silent)).await;
    assert!(refused.expect_err("is refused").to_string().contains("another instance"));
    stranger.start();
    assert_eq!(stranger.psql("SELECT count(*) FROM mine"), "1");
}
