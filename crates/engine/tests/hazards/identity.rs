//! D: identity and timelines.

use std::collections::BTreeSet;
use std::fs;

use asof_engine::Error;
use asof_engine::server::{self, check_facts};
use asof_engine::target::Target;
use asof_engine::wal::stream::store_history;
use asof_postgres::lsn::{Lsn, Timeline};
use asof_repository::codec::Encoder;
use asof_repository::names::{Name, WalPosition};
use asof_repository::object;
use asof_repository::wal::{WalInfo, read_history, write_wal};
use asof_testkit::Workdir;
use serde_json::json;

use crate::stage::{Stage, request};

#[tokio::test(flavor = "multi_thread")]
async fn hz_d1_another_server_cannot_write_under_the_name_of_the_first() {
    let stage = Stage::plain().await;
    let stranger = Stage::plain().await;
    stage.back_up("ours").await.expect("the backup is made");
    let before = stage.shelf.store.list("").await.expect("listed");
    let reader = asof_engine::backup::Reader {
        source: std::sync::Arc::new(stranger.files()),
        reading: asof_engine::backup::Reading::Files,
    };
    let silent = std::sync::Arc::new(asof_engine::progress::Silent);
    let made = asof_engine::backup::create(&stage.shelf, &stranger.link, reader, &request("theirs"), silent).await;
    assert_eq!(stage.shelf.store.list("").await.expect("listed"), before, "another server wrote into the lineage");
    assert!(matches!(made, Err(Error::Refused { .. })), "another server's backup was stored: {made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_d2_a_restored_copy_leaves_the_archive_of_its_origin_alone() {
    let work = Workdir::new("archive");
    let archive = work.directory("archive");
    let command = format!("archive_command = 'cp %p {}/%f'", archive.display());
    let stage = Stage::with(&["archive_mode = on", &command]).await;
    stage.sql("create table t as select generate_series(1, 5000) as n");
    stage.back_up("one").await.expect("the backup is made");
    stage.server().stop(); // archives what there is
    let listed = || {
        let entries = fs::read_dir(&archive).expect("a directory").map(|entry| entry.expect("an entry").file_name());
        entries.collect::<BTreeSet<_>>()
    };
    let before = listed();
    assert!(!before.is_empty(), "the origin archives nothing");
    for copy in ["first", "second"] {
        let mut restored = stage.start(&stage.restore("one", copy).await);
        restored.psql("insert into t values (-1)");
        restored.psql("select pg_switch_wal()");
        restored.stop();
        assert_eq!(listed(), before, "the {copy} copy wrote into the archive of its origin");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_d3_of_two_servers_that_chose_one_timeline_the_second_is_refused() {
    let stage = Stage::plain().await;
    let (ours, theirs) = (b"1\t0/5000000\tours\n".as_slice(), b"1\t0/6000000\ttheirs\n".as_slice());
    store_history(&stage.shelf, Timeline(2), ours).await.expect("the first is stored");
    store_history(&stage.shelf, Timeline(2), ours).await.expect("the same again is no conflict");
    let second = store_history(&stage.shelf, Timeline(2), theirs).await;
    assert!(second.is_err(), "two servers promoted to one timeline, and nobody was told");
    let asof_engine::shelf::Shelf { store, keyring, signers, lineage, .. } = &stage.shelf;
    assert_eq!(read_history(store.as_ref(), keyring, signers, *lineage, 2).await.expect("is stored"), ours);
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_d4_a_server_of_another_major_or_catalogue_is_another_instance() {
    let stage = Stage::plain().await;
    let (_, control) = server::read_control(&stage.world, &stage.files()).await.expect("pg_control is read");
    let recorded = server::facts(&control);
    check_facts("prod", &recorded, &recorded).expect("it is the same server");
    for (name, value) in [
        ("system_identifier", json!("7000000000000000000")),
        ("major", json!(stage.major + 1)),
        ("catalog_version", json!(202_512_311)),
        ("wal_segment_size", json!(1 << 20)),
        ("block_size", json!(16384)),
    ] {
        let mut upgraded = recorded.clone();
        upgraded.insert(name.to_owned(), value);
        for (before, after) in [(&recorded, &upgraded), (&upgraded, &recorded)] {
            let error = check_facts("prod", before, after).err();
            let error = error.unwrap_or_else(|| panic!("another {name} went on under the same name"));
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

/// The size of a WAL segment of the test servers.
const SEGMENT: u64 = 16 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn hz_d5_recovery_follows_the_branch_that_contains_the_backup() {
    let stage = Stage::plain().await;
    stage.sql("create table t (n int)");
    let backup = stage.back_up("one").await.expect("the backup is made").backup;
    stage.sql("insert into t values (1)");
    let second = stage.back_up("two").await.expect("the backup is made").backup;
    // A branch that left before the backup was consistent, and of which WAL is stored.
    let history = format!("1\t{}\tno recovery target specified\n", Lsn(backup.start));
    store_history(&stage.shelf, Timeline(2), history.as_bytes()).await.expect("is stored");
    let start = backup.start / SEGMENT * SEGMENT;
    let position = WalPosition { lineage: stage.shelf.lineage, timeline: 2, start };
    let info = WalInfo { end: backup.start + 8192, segment_size: SEGMENT, ..WalInfo::default() };
    let plain = vec![0; usize::try_from(info.end - start).expect("short")];
    let name = Name::WalChunk(position);
    let chunk = write_wal(&stage.world, &stage.shelf.keyring, name, &info, &plain, &mut Encoder::new(1));
    object::create(stage.shelf.store.as_ref(), &chunk).await.expect("is stored");
    let to = stage.work.path().join("restored");
    for name in ["one", "two"] {
        let plan = stage.plan(Some(name), Target::Latest, &to).await;
        let plan = plan.unwrap_or_else(|error| panic!("a dead branch was followed: {error}"));
        assert_eq!(plan.resolved.timeline, Timeline::FIRST, "a dead branch was followed");
        assert!(plan.resolved.end.0 >= second.stop);
    }
    for (target, named) in [(Timeline(2), "one"), (Timeline(2), "two")] {
        let request = asof_engine::restore::RestoreRequest {
            instance: "prod".to_owned(),
            backup: Some(named.to_owned()),
            wanted: asof_engine::target::Wanted { target: Target::Latest, inclusive: true },
            timeline: Some(target),
            destination: to.clone(),
        };
        let planned = asof_engine::restore::plan(&stage.shelf, &request).await;
        let error = planned.err().unwrap_or_else(|| panic!("timeline {target} does not contain backup {named}"));
        assert!(error.to_string().contains("does not contain"), "{error}");
    }
    assert_eq!(stage.start(&stage.restore("one", "restored").await).psql("select count(*) from t").trim(), "1");
}
