//! E: restore and recovery.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use asof_engine::progress::Silent;
use asof_engine::restore::{self, Existing, MARKER, WriteOptions};
use asof_engine::shelf::Shelf;
use asof_engine::target::{Target, Wanted};
use asof_engine::{Error, restore::RestoreRequest, time};
use asof_postgres::lsn::Lsn;
use asof_world::Timestamp;

use crate::stage::{Failing, Stage, Unanswered, plan_on};

/// Calls that change files.
const CHANGES: [&str; 8] = ["create", "write", "set_len", "rename", "remove", "create_dir", "sync", "sync_dir"];

/// The shelf with files that nobody can change any more from change number `at` on, and the counter of changes.
fn dies_at(shelf: &Shelf, at: usize) -> (Shelf, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let world = Failing::world(&shelf.world, move |operation, _| {
        let dead = CHANGES.contains(&operation) && counted.fetch_add(1, Ordering::Relaxed) >= at;
        if dead { Err(io::Error::other("the process is gone")) } else { Ok(()) }
    });
    (Shelf { world, ..shelf.clone() }, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_e6_a_restore_that_was_killed_anywhere_does_not_start_until_it_was_run_again() {
    let stage = Stage::plain().await;
    stage.sql("create table t (n int)");
    stage.back_up("one").await.expect("the backup is made");
    let wanted = stage.sql("begin; insert into t values (1); select pg_current_xact_id(); commit");
    stage.sql("insert into t values (2)");
    stage.back_up("two").await.expect("the backup is made");
    let options = WriteOptions { jobs: 1, ..stage.options() };
    let to = stage.work.path().join("restored");
    // What lies behind the target is in the last segment all the same: recovery without its settings goes too far.
    let target = Target::Xid(wanted.parse().expect("a transaction"));
    let plan = stage.plan(Some("one"), target, &to).await.expect("planned");
    let (shelf, count) = dies_at(&stage.shelf, usize::MAX);
    restore::write(&shelf, &plan, options, Arc::new(Silent)).await.expect("written");
    let all = count.load(Ordering::Relaxed);
    let syncs = fs_entries(&to);
    // The very end, a few points on the way, and changes behind the files, as far as they are not syncs of the whole tree.
    let last = [all - 1];
    let early = (0..3).map(|part| all * part / 3);
    let behind_the_files = (all - 2 * syncs - 28..all - 2 * syncs - 4).step_by(3);
    let control = (all - syncs - 8..all - syncs - 2).step_by(2);
    for at in last.into_iter().chain(early).chain(behind_the_files).chain(control) {
        stage.world.files.remove_tree(&to).expect("the last try is removed");
        let (shelf, _) = dies_at(&stage.shelf, at);
        let killed = restore::write(&shelf, &plan, options, Arc::new(Silent)).await;
        assert!(killed.is_err(), "it ended before change {at} of {all}");
        let [marker, base, control] = [MARKER, "base", "global/pg_control"].map(|name| to.join(name).exists());
        assert!(marker || control || !base, "half a restore without a marker, killed at {at} of {all}");
        // With its control file, which comes last, everything else is there and durable.
        if control {
            let server = stage.try_start(&to);
            let rows = server.map(|server| server.psql("select count(*) from t").trim().to_owned());
            assert!(
                rows.is_err() || rows == Ok("1".to_owned()),
                "half a restore started [killed at {at} of {all}: {rows:?}]"
            );
        }
    }
    // Run again, it is whole.
    restore::write(&stage.shelf, &plan, options, Arc::new(Silent)).await.expect("the rest is written");
    assert!(!to.join(MARKER).exists());
    assert_eq!(stage.start(&to).psql("select count(*) from t").trim(), "1");
}

/// Files and directories below a directory, which is how often a tree is synced.
fn fs_entries(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    1 + entries.map(|path| if path.is_dir() { fs_entries(&path) } else { 1 }).sum::<usize>()
}

fn snapshot(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).expect("read"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_e5_a_restore_never_writes_over_a_live_or_foreign_directory() {
    let stage = Stage::plain().await;
    stage.sql("create table t as select generate_series(1, 5000) as n");
    stage.back_up("one").await.expect("the backup is made");
    let foreign = stage.work.directory("foreign");
    fs::write(foreign.join("thesis.tex"), "years of work").expect("written");
    let finished = stage.restore("one", "finished").await;
    for (what, to) in [("foreign", &foreign), ("restored before", &finished), ("live", &stage.data)] {
        let before = snapshot(to);
        let plan = stage.plan(None, Target::Latest, to).await.expect("planned");
        let refused = restore::write(&stage.shelf, &plan, stage.options(), Arc::new(Silent)).await;
        assert!(matches!(refused, Err(Error::Refused { .. })), "a {what} directory was written over: {refused:?}");
        assert_eq!(snapshot(to), before, "{what}");
    }
    // Over an existing directory goes a restore only when it is asked to, and the instance in it is this one and stands still.
    for (what, to) in [("foreign", &foreign), ("live", &stage.data)] {
        let before = snapshot(to);
        let plan = stage.plan(None, Target::Latest, to).await.expect("planned");
        let over = WriteOptions { existing: Existing::Compare, ..stage.options() };
        let refused = restore::write(&stage.shelf, &plan, over, Arc::new(Silent)).await;
        assert!(matches!(refused, Err(Error::Refused { .. })), "a {what} directory was taken over: {refused:?}");
        assert_eq!(snapshot(to), before, "{what}");
    }
    assert_eq!(stage.sql("select count(*) from t"), "5000");
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_e1_a_store_that_does_not_answer_is_not_the_end_of_wal() {
    let stage = Stage::plain().await;
    for round in 0..3 {
        stage.sql(&format!("create table t{round} as select 1 as n; select pg_switch_wal()"));
    }
    stage.back_up("one").await.expect("the backup is made");
    stage.sql("create table after as select 1 as n");
    stage.back_up("two").await.expect("the backup is made");
    let to = stage.work.path().join("restored");
    let complete = stage.plan(Some("one"), Target::Latest, &to).await.expect("planned");
    assert!(complete.segments.len() > 1, "{:?}", complete.segments);
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = reads.clone();
    let counting = Unanswered::shelf(&stage.shelf, move |operation, name| {
        counted.fetch_add(usize::from(operation == "read" && name.contains("/wal/")), Ordering::Relaxed);
        false
    });
    plan_on(&counting, Some("one"), Target::Latest, &to).await.expect("planned");
    for at in 0..reads.load(Ordering::Relaxed) {
        let seen = AtomicUsize::new(0);
        let shelf = Unanswered::shelf(&stage.shelf, move |operation, name| {
            operation == "read" && name.contains("/wal/") && seen.fetch_add(1, Ordering::Relaxed) == at
        });
        match plan_on(&shelf, Some("one"), Target::Latest, &to).await {
            Err(Error::Repository(_)) => {}
            Err(error) => panic!("an outage at read {at} was taken for something else: {error}"),
            Ok(plan) => {
                assert_eq!(plan.resolved.end, complete.resolved.end, "an outage at read {at} cut the history short")
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_e2_a_target_before_the_end_of_the_backup_or_behind_the_last_wal_is_refused() {
    let stage = Stage::plain().await;
    stage.sql("create table t as select generate_series(1, 5000) as n");
    let early: Lsn = stage.sql("select pg_current_wal_lsn()").parse().expect("a position");
    let first = stage.back_up("first").await.expect("the backup is made").backup;
    stage.sql("insert into t values (0)");
    let second = stage.back_up("second").await.expect("the backup is made").backup;
    let to = stage.work.path().join("restored");
    let within = |backup: &asof_repository::lineage::Backup| Target::Lsn(Lsn(backup.start + 8));
    let refused = [
        ("before every backup", None, Target::Lsn(early)),
        ("a time before every backup", None, Target::Time(Timestamp(first.started - 1_000_000))),
        ("in the first backup", Some("first"), within(&first)),
        ("in the second backup", Some("second"), within(&second)),
        ("between, from the second", Some("second"), Target::Lsn(Lsn(first.stop))),
        ("behind all WAL", None, Target::Lsn(Lsn(second.stop + (1 << 30)))),
        ("in the future", None, Target::Time(Timestamp(second.stopped + 3_600_000_000))),
        ("a transaction that never was", None, Target::Xid(4_000_000_000)),
        ("a name that never was", None, Target::Name("nowhere".to_owned())),
    ];
    for (what, backup, target) in refused {
        let planned = stage.plan(backup, target, &to).await;
        assert!(matches!(planned, Err(Error::Refused { .. })), "{what}: {planned:?}");
    }
    for (what, target) in
        [("stop", Target::Lsn(Lsn(first.stop))), ("latest", Target::Latest), ("backup", Target::Backup)]
    {
        let plan = stage.plan(Some("first"), target, &to).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(plan.resolved.end.0 >= first.stop, "{what}");
    }
}

#[test]
fn hz_e3_a_time_without_a_zone_is_refused_and_one_with_a_zone_is_one_moment() {
    for text in ["2026-11-20T10:30:00", "2026-11-20 10:30", "2026-11-20", "10:30", "13am", "2026-11-20T10:30:00 CET"] {
        assert!(time::parse(text).is_err(), "\"{text}\" was accepted as some moment");
    }
    let moment = time::parse("2026-11-20T10:30:00Z").expect("a moment");
    for text in [
        "2026-11-20T10:30:00+00:00",
        "2026-11-20T12:30:00+02:00",
        "2026-11-20T05:00:00-05:30",
        "2026-11-20T11:30:00+01:00",
    ] {
        assert_eq!(time::parse(text), Ok(moment), "{text}");
    }
    // The hour that a change of clocks repeats is two moments, an hour apart.
    let [summer, winter] =
        ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"].map(|text| time::parse(text).expect(text));
    assert_eq!(winter.0 - summer.0, 3_600_000_000);
    assert_eq!(time::rfc3339(moment), "2026-11-20T10:30:00Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_e4_a_target_says_exactly_which_commits_are_inside() {
    let stage = Stage::plain().await;
    stage.sql("create table t (n int)");
    stage.back_up("one").await.expect("the backup is made");
    let insert = |n: u32| {
        let xid = stage.sql(&format!("begin; insert into t values ({n}); select pg_current_xact_id(); commit"));
        xid.parse::<u32>().expect("a transaction")
    };
    let [first, second, _] = [1, 2, 3].map(insert);
    stage.back_up("two").await.expect("the backup is made");
    let plan = async |target: &Target, inclusive: bool, to: &str| {
        let request = RestoreRequest {
            instance: "prod".to_owned(),
            backup: Some("one".to_owned()),
            wanted: Wanted { target: target.clone(), inclusive },
            timeline: None,
            destination: stage.work.path().join(to),
        };
        restore::plan(&stage.shelf, &request).await.expect("planned")
    };
    let commit_of = |xid: u32| format!("commit of transaction {xid}");
    let with = plan(&Target::Xid(second), true, "with").await;
    let without = plan(&Target::Xid(second), false, "without").await;
    assert_eq!(with.resolved.before.as_ref().map(|landmark| &landmark.what), Some(&commit_of(second)));
    assert_eq!(
        without.resolved.before.as_ref().map(|landmark| &landmark.what),
        Some(&commit_of(first)),
        "the border is inside"
    );
    // The moment and the place of that commit mean the same.
    let border = with.resolved.before.clone().expect("a commit");
    for target in [Target::Time(border.time), Target::Lsn(border.at)] {
        assert_eq!(plan(&target, true, "x").await.resolved.before, with.resolved.before, "{target}");
        assert_eq!(plan(&target, false, "x").await.resolved.before, without.resolved.before, "{target}");
    }
    for (plan, rows) in [(with, "2"), (without, "1")] {
        restore::write(&stage.shelf, &plan, stage.options(), Arc::new(Silent)).await.expect("written");
        let restored = stage.start(&plan.destination);
        assert_eq!(restored.psql("select count(*) from t").trim(), rows);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_f4_nothing_is_believed_or_deleted_because_of_a_listing() {
    let stage = Stage::plain().await;
    stage.sql("create table t as select generate_series(1, 5000) as n");
    stage.back_up("one").await.expect("the backup is made");
    let deleted = Arc::new(AtomicUsize::new(0));
    let counted = deleted.clone();
    let shelf = Unanswered::shelf(&stage.shelf, move |operation, _| {
        counted.fetch_add(usize::from(operation == "delete"), Ordering::Relaxed);
        operation == "list"
    });
    let second = stage.back_up_into(&shelf, "two", stage.files()).await.expect("no listing is needed");
    assert!(second.backup.sizes.shared > second.backup.sizes.changed, "the first backup was not seen");
    let to = stage.work.path().join("restored");
    for name in ["one", "two"] {
        let plan = plan_on(&shelf, Some(name), Target::Latest, &to).await;
        assert!(plan.is_ok(), "backup {name} is gone, because a listing does not show it: {plan:?}");
    }
    let plan = plan_on(&shelf, None, Target::Latest, &to).await.expect("planned");
    restore::write(&shelf, &plan, stage.options(), Arc::new(Silent)).await.expect("written");
    assert_eq!(stage.start(&to).psql("select count(*) from t").trim(), "5000");
    assert_eq!(deleted.load(Ordering::Relaxed), 0, "something was deleted");
}
