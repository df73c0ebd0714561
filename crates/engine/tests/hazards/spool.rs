//! C, with a spool: what this host has synced is acknowledged, and reaches the repository.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use asof_engine::error::Result;
use asof_engine::progress::Silent;
use asof_engine::shelf::Shelf;
use asof_engine::target::Target;
use asof_engine::wal::receiver;
use asof_engine::wal::shape::WalConstants;
use asof_engine::wal::spool::{Spool, bytes_in};
use asof_engine::wal::stream::{IDLE_EVERY, Pace, StreamProgress, StreamSettings};
use asof_postgres::lsn::{Lsn, Timeline};
use asof_testkit::Workdir;
use asof_world::World;
use tokio::task::JoinHandle;

use crate::stage::{Failing, Stage, Unanswered};

/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(60);
const UPLOADED: Duration = Duration::from_millis(100);

/// A receiver with a spool.
struct Receiver {
    spool: Arc<Spool>,
    progress: Arc<StreamProgress>,
    task: JoinHandle<Result<()>>,
}

impl Receiver {
    async fn start(stage: &Stage, shelf: &Shelf, world: &World) -> Self {
        Self::start_on(stage, shelf, world, stage.constants().await).await
    }

    async fn start_on(stage: &Stage, shelf: &Shelf, world: &World, constants: WalConstants) -> Self {
        let spool = Spool::open(world, directory(stage), UPLOADED).await.expect("the spool is free");
        let settings = StreamSettings {
            shelf: shelf.clone(),
            server: stage.link.clone(),
            constants,
            slot: receiver::slot_name(shelf),
            pace: Pace::AtOnce,
            spool: Some(spool.clone()),
            idle: IDLE_EVERY,
        };
        let progress = Arc::new(StreamProgress::default());
        let given = progress.clone();
        let task = tokio::spawn(async move { receiver::receive(&settings, given, Arc::new(Silent)).await });
        Self { spool, progress, task }
    }

    async fn until(&self, what: &str, there: impl Fn(&StreamProgress) -> bool) {
        let world = World::real();
        let deadline = world.monotonic() + PATIENCE;
        while !there(&self.progress) {
            let at = (self.progress.received(), self.progress.durable(), self.progress.stored());
            assert!(world.monotonic() < deadline && !self.task.is_finished(), "never {what}: {at:?}");
            world.sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stop(self) -> Result<()> {
        self.progress.stop();
        self.task.await.expect("it does not panic")
    }
}

fn directory(stage: &Stage) -> PathBuf {
    stage.work.path().join("spool/of-prod")
}

fn flushed(stage: &Stage) -> Lsn {
    stage.sql("select pg_current_wal_flush_lsn()").parse().expect("a position")
}

/// From now on a commit waits for the receiver.
fn wait_for_asof(stage: &Stage) {
    stage.sql("alter system set synchronous_standby_names = '*'");
    stage.sql("select pg_reload_conf()");
}

async fn restored(stage: &Stage, name: &str) -> String {
    let data = stage.restore_to("one", Target::Latest, name).await;
    stage.start(&data).psql("select count(*), sum(n) from t").trim().to_owned()
}

/// A synchronous receiver, and from now on the repository is away for as long as `away` says.
async fn through_an_outage(stage: &Stage, away: &Arc<AtomicBool>) -> (Receiver, Lsn) {
    let is_away = away.clone();
    let shelf = Unanswered::shelf(&stage.shelf, move |_, _| is_away.load(Ordering::Relaxed));
    let receiver = Receiver::start(stage, &shelf, &stage.world).await;
    let before = flushed(stage);
    receiver.until("stored", |progress| progress.stored() >= before).await;
    wait_for_asof(stage);
    away.store(true, Ordering::Relaxed);
    (receiver, before)
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c1_with_a_spool_commits_return_and_are_kept_while_the_repository_is_away() {
    let stage = Stage::plain().await;
    stage.sql("create table t (n int)");
    stage.back_up("one").await.expect("the backup is made");
    let away = Arc::default();
    let (receiver, before) = through_an_outage(&stage, &away).await;
    for n in 1..=10 {
        stage.sql(&format!("insert into t values ({n})"));
        if n % 3 == 0 {
            stage.sql("select pg_switch_wal()");
        }
    }
    // The connection breaks, too: the spool says where to go on.
    stage.sql("select pg_terminate_backend(pid) from pg_stat_replication");
    for n in 11..=20 {
        stage.sql(&format!("insert into t values ({n})"));
    }
    let end = flushed(&stage);
    receiver.until("durable", |progress| progress.durable() >= end).await;
    assert!(receiver.progress.stored() < end, "the repository was away");
    let kept: Lsn = stage.sql("select restart_lsn from pg_replication_slots").parse().expect("a position");
    assert!(kept > before, "the server still keeps the WAL of the outage: {kept}");
    away.store(false, Ordering::Relaxed);
    receiver.until("stored", |progress| progress.stored() >= end).await;
    receiver.stop().await.expect("it was stopped");
    assert_eq!(bytes_in(&stage.world, directory(&stage)).await.expect("counted"), 0, "all of it is in the repository");
    assert_eq!(restored(&stage, "restored").await, "20|210");
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c1_a_spool_that_outlives_primary_and_receiver_is_stored_by_the_next_receiver() {
    let stage = Stage::plain().await;
    stage.sql("create table t (n int)");
    stage.back_up("one").await.expect("the backup is made");
    let constants = stage.constants().await;
    let (receiver, _) = through_an_outage(&stage, &Arc::default()).await;
    for n in 1..=10 {
        stage.sql(&format!("insert into t values ({n})"));
    }
    let second = Spool::open(&stage.world, directory(&stage), UPLOADED).await;
    let refused = second.err().expect("two receivers must not share a spool").to_string();
    assert!(refused.contains("another receiver uses the spool"), "{refused}");
    // Asked to stop while the repository is away, it ends all the same and leaves the spool.
    receiver.stop().await.expect("it was stopped");
    stage.server().kill();
    let left = bytes_in(&stage.world, directory(&stage)).await.expect("counted");
    assert!(left > 0, "what was acknowledged is in the spool");
    // The primary is gone, and the next receiver stores what is left without it.
    let receiver = Receiver::start_on(&stage, &stage.shelf, &stage.world, constants).await;
    let spool = receiver.spool.clone();
    receiver.until("stored", |_| spool.end().is_none()).await;
    receiver.stop().await.expect("it was stopped");
    assert_eq!(restored(&stage, "restored").await, "10|55");
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c10_a_full_or_failing_disk_of_the_spool_stops_the_acknowledgement_and_nothing_else() {
    let stage = Stage::plain().await;
    stage.sql("create table t (n int)");
    stage.back_up("one").await.expect("the backup is made");
    let (writes, syncs) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let fails = |left: &Arc<AtomicUsize>| {
        let left = left.clone();
        move || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    };
    let (write_fails, sync_fails) = (fails(&writes), fails(&syncs));
    let world = Failing::world(&stage.world, move |operation, _| match operation {
        "write" if write_fails() => Err(io::Error::from_raw_os_error(28)),
        "sync" if sync_fails() => Err(io::Error::from_raw_os_error(5)),
        _ => Ok(()),
    });
    let receiver = Receiver::start(&stage, &stage.shelf, &world).await;
    let before = flushed(&stage);
    receiver.until("stored", |progress| progress.stored() >= before).await;
    wait_for_asof(&stage);
    for n in 1..=3 {
        writes.store(2, Ordering::Relaxed);
        syncs.store(1, Ordering::Relaxed);
        stage.sql(&format!("insert into t values ({n})"));
        let left = (writes.load(Ordering::Relaxed), syncs.load(Ordering::Relaxed));
        assert_eq!(left, (0, 0), "a commit came back before the disk was well");
    }
    stage.server().kill();
    receiver.until("stored", |_| receiver.spool.end().is_none()).await;
    receiver.stop().await.expect("it was stopped");
    assert_eq!(restored(&stage, "restored").await, "3|6");
    let left = fs::read_dir(directory(&stage)).expect("the spool is there").count();
    assert_eq!(left, 1, "nothing but the lock is left of what failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c9_a_spool_that_holds_no_wal_of_the_instance_is_refused_and_kept() {
    let stage = Stage::plain().await;
    stage.back_up("one").await.expect("the backup is made");
    let spool = Spool::open(&stage.world, directory(&stage), UPLOADED).await.expect("the spool is free");
    let size = stage.constants().await.stored_segment();
    let mut writer = spool.begin(Timeline::FIRST, Lsn(size * 9), size);
    writer.take(Lsn(size * 9), &[7; 10_000]).await.expect("taken");
    writer.flush().await.expect("synced");
    drop((writer, spool));
    let receiver = Receiver::start(&stage, &stage.shelf, &stage.world).await;
    let refused = receiver.task.await.expect("it does not panic").expect_err("it is refused").to_string();
    assert!(refused.contains("is not valid"), "{refused}");
    assert!(bytes_in(&stage.world, directory(&stage)).await.expect("counted") > 10_000, "nobody removes it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broken_stream_left_unsynced_takes_no_space_in_a_spool() {
    let (work, size) = (Workdir::new("spool"), 16 << 20);
    let spool = Spool::open(&World::real(), work.path().to_owned(), UPLOADED).await.expect("the spool is free");
    let mut writer = spool.begin(Timeline::FIRST, Lsn(size), size);
    writer.take(Lsn(size), &vec![7; 3 << 20]).await.expect("taken");
    let names = || fs::read_dir(work.path()).expect("the spool is there").count();
    assert_eq!(names(), 2, "the lock, and what is not synced yet");
    drop(writer);
    assert_eq!((names(), spool.files()), (1, Vec::new()));
}
