//! C: receiving and archiving WAL.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use asof_engine::progress::Silent;
use asof_engine::server;
use asof_engine::shelf::Shelf;
use asof_engine::target::Target;
use asof_engine::wal::archive::{Pushed, get, push};
use asof_engine::wal::assemble::{latest_observation, read_segment};
use asof_engine::wal::ingest::Ingest;
use asof_engine::wal::receiver;
use asof_engine::wal::shape::WalConstants;
use asof_engine::wal::stream::{IDLE_EVERY, Pace, StreamProgress, StreamSettings};
use asof_postgres::control::ControlFile;
use asof_postgres::history::TimelineHistory;
use asof_postgres::lsn::{Lsn, Timeline};
use asof_postgres::wal::{Decoded, WalDecoder};
use asof_repository::store::local::LocalStore;
use asof_repository::wal::Observation;
use asof_testkit::{Options, Workdir, digests, fill_small};
use asof_world::World;

use crate::stage::{Failing, Stage, Unanswered, shelf_of};

/// The beginning of a segment that a server wrote, and the lineage of that server.
struct Stored {
    shelf: Shelf,
    constants: WalConstants,
    start: Lsn,
    bytes: Vec<u8>,
    work: Workdir,
}

impl Stored {
    async fn in_world(world: &World) -> Self {
        let control = ControlFile::parse(include_bytes!("../../../postgres/testdata/pg_control-15")).expect("valid");
        let bytes = include_bytes!("../../../postgres/testdata/wal-15");
        let start = Lsn(u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes")));
        let constants = WalConstants::of(&control);
        let mut decoder = WalDecoder::new(constants.shape(TimelineHistory::first()), start).expect("a segment's start");
        decoder.feed(bytes);
        while let Decoded::Record(_) = decoder.next() {}
        let valid = usize::try_from(decoder.valid_end().0 - start.0).expect("short");
        let work = Workdir::new("wal");
        let store = Arc::new(LocalStore::new(world.clone(), work.path().join("repository")));
        let shelf = shelf_of(world, server::facts(&control), store).await;
        Self { shelf, constants, start, bytes: bytes[..valid].to_vec(), work }
    }

    fn ingest(&self) -> Ingest {
        let shape = self.constants.shape(TimelineHistory::first());
        Ingest::new(self.shelf.clone(), shape, Timeline::FIRST, self.start).expect("a segment's start")
    }

    /// What a reader finds.
    async fn readable(&self) -> Vec<u8> {
        let size = u64::from(self.constants.segment_size.bytes());
        let found = read_segment(&self.shelf, Timeline::FIRST, self.start, size).await.expect("the store answers");
        found.map_or(Vec::new(), |segment| segment.bytes)
    }

    /// Everything that may be acknowledged can be read.
    async fn holds(&self, ingest: &Ingest) {
        let (durable, readable) = (ingest.durable(), self.readable().await);
        let end = Lsn(self.start.0 + readable.len() as u64);
        assert!(durable <= end, "WAL is acknowledged up to {durable} and stored up to {end}");
        assert_eq!(readable, self.bytes[..readable.len()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c1_nothing_is_acknowledged_before_it_is_stored() {
    let stored = Stored::in_world(&World::real()).await;
    let mut ingest = stored.ingest();
    for (number, piece) in stored.bytes.chunks(1500).enumerate() {
        ingest.take(ingest.received(), piece).await.expect("valid WAL");
        stored.holds(&ingest).await;
        if number % 3 == 2 {
            ingest.flush().await.expect("the store works");
            assert_eq!(ingest.durable(), ingest.received());
            stored.holds(&ingest).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c10_a_full_disk_stops_the_acknowledgement_and_nothing_else() {
    let (writes, in_use) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
    let watched = in_use.clone();
    let world = Failing::world(&World::real(), move |operation, _| {
        let watched = operation == "write" && watched.load(Ordering::Relaxed);
        let full = watched && writes.fetch_add(1, Ordering::Relaxed) % 3 == 1;
        if full { Err(io::Error::from_raw_os_error(28)) } else { Ok(()) }
    });
    let stored = Stored::in_world(&world).await;
    in_use.store(true, Ordering::Relaxed);
    let (mut ingest, mut refused) = (stored.ingest(), 0);
    for piece in stored.bytes.chunks(900) {
        ingest.take(ingest.received(), piece).await.expect("valid WAL");
        while let Err(error) = ingest.flush().await {
            refused += 1;
            assert!(refused < 1000, "{error}");
            stored.holds(&ingest).await;
        }
        stored.holds(&ingest).await;
    }
    assert!(refused > 2, "the disk was never full");
    assert_eq!(stored.readable().await, stored.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c6_an_open_segment_of_many_small_chunks_is_few_reads_after_a_restart_too() {
    let (opened, counted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (opens, counts) = (opened.clone(), counted.clone());
    let world = Failing::world(&World::real(), move |operation, _| {
        let one = operation == "open" && counts.load(Ordering::Relaxed);
        opens.fetch_add(usize::from(one), Ordering::Relaxed);
        Ok(())
    });
    let stored = Stored::in_world(&world).await;
    let pieces: Vec<_> = stored.bytes.chunks(stored.bytes.len() / 1500).collect();
    let (first, second) = pieces.split_at(700);
    let receive = async |ingest: &mut Ingest, pieces: &[&[u8]]| {
        for piece in pieces {
            ingest.take(ingest.received(), piece).await.expect("valid WAL");
            ingest.flush().await.expect("the store works");
            ingest.merge().await.expect("the store works");
            assert_eq!(ingest.durable(), ingest.received());
        }
    };
    receive(&mut stored.ingest(), first).await;
    // A receiver that was started again begins with the segment.
    let mut ingest = stored.ingest();
    let sent_again: Vec<u8> = first.concat();
    receive(&mut ingest, &[&sent_again]).await;
    receive(&mut ingest, second).await;
    counted.store(true, Ordering::Relaxed);
    assert_eq!(stored.readable().await, stored.bytes);
    let (opened, chunks) = (opened.load(Ordering::Relaxed), pieces.len());
    assert!(opened < 100, "{chunks} chunks cost {opened} reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_restorable_time_of_an_idle_instance_moves_on_and_never_back() {
    let stored = Stored::in_world(&World::real()).await;
    let cut = stored.bytes.len() / 2;
    let middle = Lsn(stored.start.0 + cut as u64);
    let at = |time| Observation { time, flushed: middle.0 };
    let latest = async |end| latest_observation(&stored.shelf, &stored.constants, Timeline::FIRST, end).await;
    let mut ingest = stored.ingest();
    ingest.take(stored.start, &stored.bytes[..cut]).await.expect("valid WAL");
    ingest.observe(at(1_000_000));
    ingest.flush_observation(Duration::ZERO).await.expect("the store works");
    assert_eq!(latest(middle).await.expect("read"), None, "the WAL before it is not stored");
    ingest.flush().await.expect("the store works");
    assert_eq!(latest(middle).await.expect("read"), Some(1_000_000));
    for (time, told) in [(1_500_000, 1_000_000), (2_000_000, 2_000_000), (2_100_000, 2_000_000), (9_000_000, 9_000_000)]
    {
        ingest.observe(at(time));
        ingest.flush_observation(Duration::from_secs(1)).await.expect("the store works");
        assert_eq!(latest(middle).await.expect("read"), Some(told), "observed at {time}");
    }
    // Nobody tells the next receiver; it reads what was seen, and its first chunk says so.
    let mut ingest = stored.ingest();
    ingest.take(stored.start, &stored.bytes[..cut]).await.expect("valid WAL");
    ingest.take(middle, &stored.bytes[cut..]).await.expect("valid WAL");
    ingest.flush().await.expect("the store works");
    assert_eq!(latest(ingest.durable()).await.expect("read"), Some(9_000_000));
    // An observation that no WAL proves yet is not told.
    ingest.observe(Observation { time: 20_000_000, flushed: ingest.received().0 + 1 });
    ingest.flush_observation(Duration::ZERO).await.expect("the store works");
    assert_eq!(latest(ingest.durable()).await.expect("read"), Some(9_000_000));
}

/// A segment that the server completed: its name and its file.
fn completed(stage: &Stage) -> (String, PathBuf) {
    let name = stage
        .sql("create table if not exists c(n int); insert into c values (1); select pg_walfile_name(pg_switch_wal())");
    let path = stage.data.join("pg_wal").join(&name);
    (name, path)
}

async fn get_bytes(stage: &Stage, constants: &WalConstants, name: &str) -> Option<Vec<u8>> {
    let to = stage.work.path().join("got");
    let found = get(&stage.shelf, constants, name, &to).await.expect("the store answers");
    found.then(|| fs::read(&to).expect("written"))
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c2_an_archived_segment_is_acknowledged_only_whole_and_stored() {
    let stage = Stage::plain().await;
    let constants = stage.constants().await;
    let (name, path) = completed(&stage);
    let whole = fs::read(&path).expect("the segment is there");
    let cut = stage.work.path().join("cut");
    for len in [0, 1, 8192, whole.len() / 2, whole.len() - 1] {
        fs::write(&cut, &whole[..len]).expect("written");
        let pushed = push(&stage.shelf, &constants, &name, &cut).await;
        assert!(pushed.is_err(), "success was reported for {len} of {} bytes", whole.len());
        assert_eq!(get_bytes(&stage, &constants, &name).await, None);
    }
    let down = Unanswered::shelf(&stage.shelf, |operation, _| operation == "create");
    push(&down, &constants, &name, &path).await.expect_err("nothing was stored");
    assert_eq!(get_bytes(&stage, &constants, &name).await, None);
    assert_eq!(push(&stage.shelf, &constants, &name, &path).await.expect("is stored"), Pushed::Stored);
    assert_eq!(get_bytes(&stage, &constants, &name).await, Some(whole));
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c3_a_stored_segment_is_never_replaced_by_another() {
    let stage = Stage::plain().await;
    let constants = stage.constants().await;
    let (name, path) = completed(&stage);
    let ours = fs::read(&path).expect("the segment is there");
    let theirs = stage.work.path().join("theirs");
    // Behind the switch at its end a segment holds what nobody reads: another one is valid all the same.
    let mut other = ours.clone();
    *other.last_mut().expect("16 MiB") ^= 1;
    fs::write(&theirs, &other).expect("written");
    push(&stage.shelf, &constants, &name, &path).await.expect("is stored");
    let replaced = push(&stage.shelf, &constants, &name, &theirs).await;
    assert!(replaced.is_err(), "success was reported for other content than is stored");
    assert_eq!(get_bytes(&stage, &constants, &name).await.as_ref(), Some(&ours));
    push(&stage.shelf, &constants, &name, &path).await.expect("the same again is no conflict");
    // Of two who push at once, the one whose bytes are there is told so and the other is not.
    let (name, path) = completed(&stage);
    let ours = fs::read(&path).expect("the segment is there");
    let mut other = ours.clone();
    *other.last_mut().expect("16 MiB") ^= 1;
    fs::write(&theirs, &other).expect("written");
    let (a, b) =
        futures::join!(push(&stage.shelf, &constants, &name, &path), push(&stage.shelf, &constants, &name, &theirs));
    let there = get_bytes(&stage, &constants, &name).await.expect("is stored");
    assert_eq!((a.is_ok(), b.is_ok()), (there == ours, there == other));
    assert!(a.is_ok() != b.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c3_a_server_that_goes_on_while_a_second_receiver_begins_was_not_rolled_back() {
    let stage = Stage::plain().await;
    stage.sql("create table t (n int)");
    stage.back_up("one").await.expect("the backup is made");
    let constants = stage.constants().await;
    let receive = |shelf: &Shelf, slot: &str| {
        let (server, constants) = (stage.link.clone(), constants.clone());
        let settings = StreamSettings {
            shelf: shelf.clone(),
            server,
            constants,
            slot: slot.to_owned(),
            pace: Pace::AtOnce,
            spool: None,
            idle: IDLE_EVERY,
        };
        let progress = Arc::new(StreamProgress::default());
        let given = progress.clone();
        (progress, tokio::spawn(async move { receiver::receive(&settings, given, Arc::new(Silent)).await }))
    };
    let (first, receiving) = receive(&stage.shelf, "first");
    // When the second has begun to look at what is stored, more is written, and the first stores it.
    let (server, stored, happened) = (stage.server.clone(), first.clone(), AtomicBool::new(false));
    let shelf = Unanswered::shelf(&stage.shelf, move |operation, name| {
        if operation == "read" && name.contains("/journal/") && !happened.swap(true, Ordering::Relaxed) {
            let flushed = "insert into t values (1); select pg_current_wal_flush_lsn()";
            let flushed = server.lock().expect("no holder panics").psql(flushed).trim().parse().expect("a position");
            tokio::task::block_in_place(|| {
                while stored.durable() < flushed {
                    std::thread::yield_now();
                }
            });
        }
        false
    });
    let (second, also_receiving) = receive(&shelf, "second");
    let end = stage.sql("insert into t values (2); select pg_current_wal_flush_lsn()").parse().expect("a position");
    while second.durable() < end && !also_receiving.is_finished() {
        tokio::task::yield_now().await;
    }
    second.stop();
    let ended = also_receiving.await.expect("does not panic");
    assert!(ended.is_ok(), "a healthy server was refused: {}", ended.expect_err("it is an error"));
    first.stop();
    receiving.await.expect("does not panic").expect("it was stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c6_a_commit_that_was_acknowledged_is_in_the_next_restore_although_its_segment_is_open() {
    let stage = Stage::plain().await;
    stage.sql("create table t (n int)");
    stage.back_up("one").await.expect("the backup is made");
    let settings = StreamSettings {
        shelf: stage.shelf.clone(),
        server: stage.link.clone(),
        constants: stage.constants().await,
        slot: receiver::slot_name(&stage.shelf),
        pace: Pace::AtOnce,
        spool: None,
        idle: IDLE_EVERY,
    };
    let progress = Arc::new(StreamProgress::default());
    let following = progress.clone();
    let receiving = tokio::spawn(async move { receiver::receive(&settings, following, Arc::new(Silent)).await });
    stage.sql("alter system set synchronous_standby_names = '*'");
    stage.sql("select pg_reload_conf()");
    // Each of these commits returns when the repository holds it.
    for n in 1..=20 {
        stage.sql(&format!("insert into t values ({n})"));
    }
    let options = stage.options();
    stage.server().kill();
    fs::remove_dir_all(&stage.data).expect("the disk of the primary is lost");
    progress.stop();
    // The receiver asks again for ever, or ends when it is told to; it has nothing more to say.
    let _ = receiving.await.expect("it does not panic");
    let restored = stage.work.path().join("restored");
    let plan = stage.plan(None, Target::Latest, &restored).await.expect("planned");
    asof_engine::restore::write(&stage.shelf, &plan, options, Arc::new(Silent)).await.expect("written");
    assert_eq!(stage.start(&restored).psql("select count(*) from t").trim(), "20", "acknowledged commits are gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c7_every_history_file_is_kept_as_it_was_first_stored_and_odd_names_are_refused() {
    let stored = Stored::in_world(&World::real()).await;
    let (shelf, constants) = (&stored.shelf, &stored.constants);
    let file = |content: &str| {
        let path = stored.work.path().join("given");
        fs::write(&path, content).expect("written");
        path
    };
    let to = stored.work.path().join("got");
    for (name, content) in [
        ("00000002.history", "1\t0/5000000\tno recovery target\n"),
        ("00000003.history", "1\t0/5000000\tx\n\n2\t0/7000000\ty\n"),
    ] {
        let pushed = push(shelf, constants, name, &file(content)).await.expect("is stored");
        assert_eq!(pushed, Pushed::Stored);
        assert!(
            get(shelf, constants, name, &to).await.expect("the store answers"),
            "{name} was acknowledged and is not there"
        );
        assert_eq!(fs::read(&to).expect("written"), content.as_bytes());
    }
    let other = push(shelf, constants, "00000002.history", &file("1\t0/6000000\tanother server\n")).await;
    other.expect_err("another history under the same name");
    get(shelf, constants, "00000002.history", &to).await.expect("the store answers");
    assert_eq!(fs::read(&to).expect("written"), b"1\t0/5000000\tno recovery target\n");
    for name in [
        "",
        ".",
        "..",
        "../00000002.history",
        "00000002.history.tmp",
        "00000002.History",
        "2.history",
        "00000000.history",
        "000000010000000000000001.gz",
        "00000001000000000000001",
        "0000000100000000000000011",
        "00000001000000000000001g",
        "000000010000000000000001.00000028",
        "backup_label",
        "pg_control",
        "00000001/000000000000000001",
    ] {
        assert!(push(shelf, constants, name, &file("x")).await.is_err(), "{name:?} was accepted");
    }
    let note = push(shelf, constants, "000000010000000000000001.00000028.backup", Path::new("/nonexistent")).await;
    assert_eq!(note.expect("a note of the server"), Pushed::NotNeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c8_segments_of_every_size_come_back() {
    for wal_segment_mib in [1, 64] {
        let stage = Stage::of(&Options { wal_segment_mib, ..Options::default() }).await;
        fill_small(&stage.server());
        let mut expected = Vec::new();
        for name in ["one", "two"] {
            stage.back_up(name).await.expect("the backup is made");
            expected.push((name, digests(&stage.server(), "postgres")));
            // More than the 16 MiB of a stored object.
            stage.sql("create table if not exists more as select n, repeat('x', 500) from generate_series(1, 40000) n");
        }
        for (name, expected) in expected {
            let restored = stage.start(&stage.restore_to(name, Target::Backup, name).await);
            assert_eq!(digests(&restored, "postgres"), expected, "{name} with segments of {wal_segment_mib} MiB");
        }
    }
}
