//! Recovery targets against an oracle: what PostgreSQL itself said about each commit when it was made (rule 20).

mod support;

use std::time::Duration;

use asof_engine::restore::RestoreRequest;
use asof_engine::shelf::Shelf;
use asof_engine::target::{Base, Target, Wanted, resolve};
use asof_engine::time::{parse, rfc3339};
use asof_engine::wal::assemble::read_segment;
use asof_engine::wal::ingest::Ingest;
use asof_engine::wal::stream::Pace;
use asof_postgres::history::TimelineHistory;
use asof_postgres::lsn::{Lsn, Timeline};
use asof_repository::codec::Encoder;
use asof_repository::names::{Name, WalPosition};
use asof_repository::wal::{WalInfo, write_wal};
use asof_testkit::{Options, Server, majors};
use asof_world::Timestamp;

use support::{Protected, Receiver, chain, lsn};

const PACE: Pace = Pace::Every(Duration::from_millis(50));
const PAGE: u64 = 8192;

fn options() -> Options {
    Options::with_config(&[
        "track_commit_timestamp = on",
        "max_prepared_transactions = 10",
        "autovacuum = off",
        "checkpoint_timeout = 1h",
    ])
}

/// A commit of one row, as PostgreSQL tells it.
#[derive(Clone, Copy, Debug)]
struct Commit {
    /// The row; all rows committed before have lower numbers.
    row: u32,
    xid: u32,
    /// Where its record begins.
    start: Lsn,
    /// Where the record behind it begins.
    end: Lsn,
    time: Timestamp,
}

/// A server that is received from, and its rows.
struct History {
    production: Protected,
    receiver: Receiver,
    rows: u32,
}

impl History {
    /// Two rows, then a backup.
    async fn new(major: u32) -> Self {
        let production = Protected::new(major, &options()).await;
        production.server.psql("create table rows (n int); insert into rows values (1), (2)");
        let receiver = production.receiver(PACE);
        production.backup("first").await;
        Self { production, receiver, rows: 2 }
    }

    /// Commits one more row, alone.
    fn commit(&mut self) -> Commit {
        self.commit_with("", 48)
    }

    /// As [`commit`](Self::commit), with statements before the commit whose record may take `longest` bytes. Now and then the
    /// server writes something of its own in between; then nobody can tell what lies where, and another row is committed.
    fn commit_with(&mut self, before: &str, longest: u64) -> Commit {
        for _ in 0..10 {
            self.rows += 1;
            let printed = self.production.server.psql(&commit_script(self.rows, before));
            let words: Vec<&str> = printed.split_whitespace().collect();
            let [.., xid, start, end, time] = words[..] else { panic!("not the oracle's answer: {printed}") };
            let (start, end): (Lsn, Lsn) = (start.parse().expect("an LSN"), end.parse().expect("an LSN"));
            if end.0 - start.0 <= longest {
                let (xid, time) = (xid.parse().expect("an xid"), Timestamp(time.parse().expect("microseconds")));
                return Commit { row: self.rows, xid, start, end, time };
            }
        }
        panic!("the server writes WAL all the time");
    }

    fn server(&self) -> &Server {
        &self.production.server
    }

    /// Everything that was written so far is stored.
    async fn stored(&self) -> Lsn {
        self.receiver.catch_up(self.server()).await
    }

    /// The plan to a target must end between two commits: behind `inside`, before `outside`.
    async fn check(&self, target: Target, inclusive: bool, inside: &Commit, outside: &Commit) {
        let how = format!("{target}, inclusive: {inclusive}, should part {inside:?} and {outside:?}");
        let plan = self.production.plan(target, inclusive).await.unwrap_or_else(|e| panic!("{how}: {}", chain(&e)));
        let resolved = &plan.resolved;
        assert_eq!(resolved.before.as_ref().map(|commit| commit.at), Some(inside.start), "{how}");
        assert_eq!(resolved.after.as_ref().map(|commit| commit.at), Some(outside.start), "{how}");
        assert!(inside.end <= resolved.end && resolved.last < outside.start, "{how}: {resolved:?}");
    }

    /// Restores, starts PostgreSQL and looks which rows are there.
    async fn check_rows(&self, request: &RestoreRequest, last_row: u32) {
        let restored = self.production.restored(request).await;
        let rows = restored.psql("select count(*), max(n) from rows");
        assert_eq!(rows, format!("{last_row}|{last_row}"), "{:?}", request.wanted);
    }

    fn wanted(&self, target: Target, inclusive: bool) -> RestoreRequest {
        self.production.wanted(target, inclusive)
    }
}

/// The first statements are there so that no catalogue is read, and no hint written, between the positions.
fn commit_script(row: u32, before: &str) -> String {
    let xid = "select pg_current_xact_id()::text::bigint % 4294967296";
    let insert = "select pg_current_wal_insert_lsn()";
    let time = "select (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000000)::bigint from rows where n = ";
    format!(
        "{insert}; begin; insert into rows values ({row}); {before}; {xid}; {insert}; commit; {insert}; {time}{row}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_e2_each_border_of_a_commit_is_where_postgresql_says() {
    for major in majors() {
        let mut history = History::new(major).await;
        let commits: Vec<Commit> = (0..5).map(|_| history.commit()).collect();
        history.stored().await;
        for three in commits.windows(3) {
            let [before, at, behind] = three else { unreachable!("windows of three") };
            history.check(Target::Lsn(at.start), true, at, behind).await;
            history.check(Target::Lsn(at.start), false, before, at).await;
            history.check(Target::Lsn(at.end), true, at, behind).await;
            history.check(Target::Lsn(at.end), false, at, behind).await;
            history.check(Target::Time(at.time), true, at, behind).await;
            history.check(Target::Time(at.time), false, before, at).await;
            history.check(Target::Time(Timestamp(at.time.0 - 1)), true, before, at).await;
            history.check(Target::Time(Timestamp(at.time.0 + 1)), false, at, behind).await;
            history.check(Target::Xid(at.xid), true, at, behind).await;
            history.check(Target::Xid(at.xid), false, before, at).await;
        }
        let [_, one, two, three, _] = commits[..] else { unreachable!("five commits") };
        history.check_rows(&history.wanted(Target::Lsn(one.start), true), one.row).await;
        history.check_rows(&history.wanted(Target::Lsn(two.start), false), two.row - 1).await;
        history.check_rows(&history.wanted(Target::Time(two.time), true), two.row).await;
        history.check_rows(&history.wanted(Target::Xid(three.xid), false), three.row - 1).await;
        history.check_rows(&history.wanted(Target::Latest, true), history.rows).await;
        history.check_rows(&history.wanted(Target::Backup, true), 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_e2_a_position_at_the_end_of_wal_means_everything_and_one_behind_it_is_refused() {
    let mut history = History::new(15).await;
    history.commit();
    let end = history.stored().await;
    let at_end = history.production.plan(Target::Lsn(end), true).await.expect("the end is inside");
    let latest = history.production.plan(Target::Latest, true).await.expect("the latest state is inside");
    assert_eq!(at_end.resolved.last, latest.resolved.last);
    assert_eq!(at_end.resolved.end, end);
    history.check_rows(&history.wanted(Target::Lsn(end), true), history.rows).await;
    let refusal = history.production.refusal(Target::Lsn(Lsn(end.0 + 8))).await;
    assert!(refusal.contains(&format!("which ends at {end}")), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_to_a_time_before_the_first_backup_says_which_is_oldest() {
    let production = Protected::new(15, &options()).await;
    let refusal = production.refusal(Target::Latest).await;
    assert!(refusal.contains("prod has no backup yet"), "{refusal}");
    let before = production.world.now();
    let oldest = production.backup("first").await.backup;
    production.backup("second").await;
    let known =
        format!("oldest backup of prod, which ended at {} ({})", rfc3339(Timestamp(oldest.stopped)), Lsn(oldest.stop));
    for target in [Target::Time(before), Target::Lsn(Lsn(oldest.stop - 8))] {
        let refusal = production.refusal(target).await;
        assert!(refusal.contains(&known), "{refusal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_before_the_newest_backup_takes_an_older_one() {
    let mut history = History::new(15).await;
    let early = history.commit();
    history.server().psql("select pg_create_restore_point('between')");
    let late = history.commit();
    let second = history.production.backup("second").await.backup;
    let behind = history.commit();
    history.stored().await;
    let plan = history.production.plan(Target::Name("between".to_owned()), true).await.expect("is planned");
    assert!(
        plan.resolved.before.as_ref().is_some_and(|it| it.what == "restore point \"between\""),
        "{:?}",
        plan.resolved
    );
    assert!(early.end <= plan.resolved.last && plan.resolved.end <= late.start, "{:?}", plan.resolved);
    let targets = [
        Target::Name("between".to_owned()),
        Target::Xid(early.xid),
        Target::Time(early.time),
        Target::Lsn(early.end),
        Target::Lsn(Lsn(second.start)),
    ];
    for target in targets {
        let mut request = history.wanted(target.clone(), true);
        let plan = asof_engine::restore::plan(&history.production.shelf, &request).await.expect("is planned");
        assert_eq!(plan.backup.name, "first", "{target}");
        request.backup = Some("second".to_owned());
        let refused = asof_engine::restore::plan(&history.production.shelf, &request).await.expect_err("is too early");
        let refused = chain(&refused);
        let why = ["lies before the end of the backup", "is not in the stored WAL"];
        assert!(why.iter().any(|why| refused.contains(why)), "{target}: {refused}");
    }
    for target in [Target::Lsn(behind.start), Target::Xid(behind.xid), Target::Time(behind.time), Target::Latest] {
        let plan = history.production.plan(target.clone(), true).await.expect("is planned");
        assert_eq!(plan.backup.name, "second", "{target}");
    }
    let first = RestoreRequest { backup: Some("first".to_owned()), ..history.wanted(Target::Latest, true) };
    history.check_rows(&first, history.rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_rolled_back_is_a_target_and_an_unknown_one_is_not() {
    let mut history = History::new(15).await;
    let before = history.commit();
    let aborted = history
        .server()
        .psql("begin; insert into rows values (-1); select pg_current_xact_id()::text::bigint % 4294967296; rollback");
    let aborted: u32 = aborted.trim().parse().expect("an xid");
    let behind = history.commit();
    let end = history.stored().await;
    let plan = history.production.plan(Target::Xid(aborted), true).await.expect("its end is in WAL");
    assert!(plan.resolved.before.as_ref().is_some_and(|it| it.what == format!("abort of transaction {aborted}")));
    assert!(before.end < plan.resolved.end && plan.resolved.end <= behind.start, "{:?}", plan.resolved);
    let refusal = history.production.refusal(Target::Xid(behind.xid + 1000)).await;
    assert!(
        refusal.contains(&format!("transaction {} is not in the stored WAL, which ends at {end}", behind.xid + 1000))
    );
    let refusal = history.production.refusal(Target::Name("never made".to_owned())).await;
    assert!(refusal.contains("restore point \"never made\" is not in the stored WAL"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_e3_a_time_with_any_offset_is_the_same_moment_and_one_without_is_refused() {
    let mut history = History::new(15).await;
    let (inside, outside) = (history.commit(), history.commit());
    history.stored().await;
    let moment = Timestamp((inside.time.0 + outside.time.0) / 2);
    let utc = rfc3339(moment);
    let elsewhere = rfc3339(Timestamp(moment.0 + 2 * 3_600_000_000)).replace('Z', "+02:00");
    for text in [&utc, &utc.replace('Z', "+00:00"), &elsewhere] {
        history.check(Target::Time(parse(text).expect("is a time")), true, &inside, &outside).await;
    }
    let refusal = parse(utc.trim_end_matches('Z')).expect_err("means another moment elsewhere");
    assert!(refusal.contains("has no time zone"), "{refusal}");
}

/// The moment by the server's clock.
fn clock(server: &Server) -> Timestamp {
    let sql = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
    Timestamp(server.psql(sql).parse().expect("microseconds"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_of_an_instance_without_commits_moves_on_with_its_clock() {
    let mut history = History::new(15).await;
    let last = history.commit();
    let moment = clock(history.server());
    assert!(moment > last.time);
    let server = history.server();
    let mut window = Err(String::new());
    for _ in 0..100 {
        // Something is written, but nothing is committed.
        server.psql("select pg_logical_emit_message(false, 'test', 'no transaction')");
        window = history.production.plan(Target::Time(moment), true).await.map_err(|error| chain(&error));
        if window.is_ok() {
            break;
        }
        history.production.world.sleep(Duration::from_millis(100)).await;
    }
    let plan = window.expect("the server's clock was read behind that moment");
    assert_eq!(plan.resolved.before.map(|commit| commit.at), Some(last.start));
    let refusal = history.production.refusal(Target::Time(Timestamp(moment.0 + 3_600_000_000))).await;
    let (_, named) = refusal.split_once("latest restorable time, ").expect("names it");
    let latest = parse(named.split(' ').next().expect("a word")).expect("a time");
    assert!(latest >= moment, "{refusal}");
    let now = clock(history.server());
    assert!(latest < now, "{refusal}");
    let found = history.production.plan(Target::Time(latest), true).await.expect("the latest restorable time is one");
    assert!(found.resolved.end >= last.end);
    let refusal = history.production.refusal(Target::Time(Timestamp(latest.0 + 60_000_000))).await;
    assert!(refusal.contains("lies behind the latest restorable time"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_is_named_as_long_as_it_is_open_at_the_target() {
    for major in majors() {
        let mut history = History::new(major).await;
        let first = history.commit();
        let prepare = |gid: &str, row: i32| {
            let sql = format!("begin; insert into rows values ({row}); prepare transaction '{gid}'");
            history.production.server.psql(&sql);
        };
        prepare("kept", -1);
        prepare("ended", -2);
        prepare("rolled back", -3);
        history.server().psql("rollback prepared 'rolled back'");
        let before = history.commit();
        let position = lsn(history.server(), "select pg_current_wal_insert_lsn()");
        history.server().psql("commit prepared 'ended'");
        let behind = history.commit();
        // What was prepared long ago is open all the same.
        for _ in 0..4 {
            history.commit();
            history.server().psql("select pg_switch_wal()");
        }
        history.server().psql("checkpoint");
        let (late, last) = (history.commit(), history.commit());
        history.stored().await;
        let open = async |target: Target, inclusive: bool| {
            let how = format!("{target}, inclusive: {inclusive}");
            let plan =
                history.production.plan(target, inclusive).await.unwrap_or_else(|e| panic!("{how}: {}", chain(&e)));
            assert_eq!(
                plan.warnings.iter().any(|warning| warning.contains("prepared")),
                !plan.resolved.prepared.is_empty()
            );
            plan.resolved.prepared
        };
        assert!(open(Target::Xid(first.xid), true).await.is_empty());
        assert_eq!(open(Target::Xid(before.xid), true).await, ["kept", "ended"]);
        assert_eq!(open(Target::Lsn(position), false).await, ["kept", "ended"]);
        assert_eq!(open(Target::Lsn(position), true).await, ["kept"]);
        assert_eq!(open(Target::Xid(behind.xid), true).await, ["kept"]);
        assert_eq!(open(Target::Time(late.time), true).await, ["kept"]);
        assert_eq!(open(Target::Latest, true).await, ["kept"]);
        let restored = history.production.restored(&history.wanted(Target::Lsn(position), false)).await;
        assert_eq!(restored.psql("select gid from pg_prepared_xacts order by 1"), "ended\nkept");
        assert_eq!(restored.psql("select min(n) from rows"), "1");
        assert!(last.end > late.end);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_prepared_before_the_backup_is_named_while_it_is_open() {
    for major in majors() {
        let mut history = History::new(major).await;
        let server = &history.production.server;
        server.psql("begin; insert into rows values (-1); prepare transaction 'before the backup'");
        history.production.backup("second").await;
        let open = history.commit();
        history.server().psql("commit prepared 'before the backup'");
        let ended = history.commit();
        history.stored().await;
        let plan = history.production.plan(Target::Time(open.time), true).await.expect("is planned");
        assert_eq!(
            (plan.backup.name.as_str(), plan.resolved.prepared),
            ("second", vec!["before the backup".to_owned()])
        );
        let plan = history.production.plan(Target::Xid(ended.xid), true).await.expect("is planned");
        assert!(plan.resolved.prepared.is_empty(), "{:?}", plan.resolved.prepared);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_beside_the_border_of_a_segment_is_found_where_it_is() {
    let mut history = History::new(15).await;
    let before = history.commit();
    let switch = lsn(history.server(), "select pg_switch_wal()");
    let (behind, next) = (history.commit(), history.commit());
    let last = history.stored().await;
    let border = Lsn(behind.start.0 / (16 << 20) * (16 << 20));
    assert!(switch < border && before.start < switch, "{switch} {behind:?}");
    history.check(Target::Lsn(border), false, &before, &behind).await;
    history.check(Target::Lsn(switch), false, &before, &behind).await;
    history.check(Target::Lsn(Lsn(border.0 - 8)), true, &before, &behind).await;
    history.check(Target::Time(before.time), true, &before, &behind).await;
    history.check(Target::Time(behind.time), true, &behind, &next).await;
    history.check_rows(&history.wanted(Target::Lsn(border), false), before.row).await;
    history.check_rows(&history.wanted(Target::Lsn(behind.start), true), behind.row).await;
    // The switch is the last thing there is.
    history.server().psql("select pg_switch_wal()");
    let end = Lsn((last.0 / (16 << 20) + 1) * (16 << 20));
    history.receiver.reach(end).await;
    history.check_rows(&history.wanted(Target::Lsn(end), true), history.rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_record_across_the_border_of_a_page_is_found_where_it_is() {
    let mut history = History::new(15).await;
    let before = history.commit();
    let across = crossing(&mut history);
    let behind = history.commit();
    history.stored().await;
    history.check(Target::Lsn(across.start), true, &across, &behind).await;
    history.check(Target::Lsn(across.start), false, &before, &across).await;
    history.check(Target::Lsn(across.end), false, &across, &behind).await;
    history.check(Target::Lsn(Lsn(across.end.0 / PAGE * PAGE)), false, &across, &behind).await;
    history.check(Target::Time(across.time), true, &across, &behind).await;
    history.check_rows(&history.wanted(Target::Lsn(across.start), true), across.row).await;
    history.check_rows(&history.wanted(Target::Lsn(across.start), false), across.row - 1).await;
}

/// A commit whose record begins on one page and ends on the next: a message that belongs to no transaction fills the page up.
fn crossing(history: &mut History) -> Commit {
    // What a message's record takes besides its bytes, the first guess; a wrong one is put right by what was seen.
    let mut overhead = 64;
    for _ in 0..20 {
        let left = "(8192 - (pg_current_wal_insert_lsn() - '0/0') % 8192)::int";
        let fill = format!(
            "select count(pg_logical_emit_message(false, 't', repeat('x', (case when {left} > 400 then {left} - {overhead} - 16 \
             else {left} + 200 end))))"
        );
        let commit = history.commit_with(&fill, 200);
        if commit.start.0 / PAGE != (commit.end.0 - 1) / PAGE && commit.end.0 - commit.start.0 < 100 {
            return commit;
        }
        let left = PAGE - commit.start.0 % PAGE;
        overhead = if left > 400 { overhead - 8 } else { overhead + 16 - left.min(overhead) };
    }
    panic!("no record lies across two pages");
}

/// CRC-32C, bit by bit.
fn crc32c(pieces: &[&[u8]]) -> u32 {
    let bits = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
    let bytes = pieces.iter().copied().flatten();
    !bytes.fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bits))
}

/// Puts another time into the commit record at `at` of a segment, and a fitting checksum; see `XLogRecord` and `xl_xact_commit`.
fn with_time(segment: &mut [u8], at: usize, time: Timestamp) {
    const HEADER: usize = 24;
    const CRC: usize = 20;
    let len = u32::from_le_bytes(segment[at..at + 4].try_into().expect("four bytes")) as usize;
    assert_eq!(segment[at + HEADER], 0xFF, "its content has a short header");
    let since_2000 = time.0 - 946_684_800_000_000;
    segment[at + HEADER + 2..at + HEADER + 10].copy_from_slice(&since_2000.to_le_bytes());
    let crc = crc32c(&[&segment[at + HEADER..at + len], &segment[at..at + CRC]]);
    segment[at + CRC..at + HEADER].copy_from_slice(&crc.to_le_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_e4_a_clock_that_stepped_back_parts_commits_as_postgresql_does_and_is_named() {
    let mut history = History::new(15).await;
    history.server().psql("select pg_switch_wal()");
    let commits: Vec<Commit> = (0..5).map(|_| history.commit()).collect();
    history.stored().await;
    let [a, b, c, d, e] = commits[..] else { unreachable!("five commits") };
    let Protected { shelf, repository, server, .. } = &mut history.production;
    let constants = support::constants(server);
    let start = constants.segment_size.floor(a.start);
    let segment = read_segment(shelf, Timeline(1), start, 16 << 20).await.expect("is read").expect("is there");
    assert!(segment.start <= a.start && e.end <= segment.end(), "one segment holds them all");
    // The clock went an hour ahead before the second commit, and back before the third.
    let mut bytes = segment.bytes.clone();
    let ahead = Timestamp(b.time.0 + 3_600_000_000);
    with_time(&mut bytes, usize::try_from(b.start.0 - start.0).expect("is small"), ahead);
    let facts = shelf.journal().await.expect("is read").state().facts.clone();
    let (lineage, _) = repository.register("stepped", facts, None).await.expect("is registered");
    let stepped = Shelf::new(repository, lineage);
    let shape = constants.shape(TimelineHistory::first());
    let mut ingest = Ingest::new(stepped.clone(), shape, Timeline(1), start).expect("begins with a segment");
    ingest.take(start, &bytes).await.expect("the changed WAL is valid");
    ingest.flush().await.expect("is stored");

    let path = asof_engine::target::Path::to(&stepped, &constants, Timeline(1)).await.expect("is known");
    let base = Base { start: a.start, stop: a.start, prepared: Vec::new() };
    let resolved = async |time: Timestamp, inclusive| {
        let wanted = Wanted { target: Target::Time(time), inclusive };
        resolve(&path, &base, &wanted).await.expect("lies behind the first commit")
    };
    for time in [a.time, c.time, d.time, e.time, Timestamp(ahead.0 - 1)] {
        let found = resolved(time, true).await;
        assert_eq!(found.before.as_ref().map(|it| it.at), Some(a.start), "{time:?}");
        assert_eq!(found.after.as_ref().map(|it| it.at), Some(b.start), "{time:?}");
        let ours = found.stepped_back.iter().filter(|it| it.at <= e.start);
        let behind: Vec<Lsn> = ours.map(|it| it.at).collect();
        let expected: Vec<Lsn> = [c, d, e].iter().filter(|it| it.time <= time).map(|it| it.start).collect();
        assert_eq!(behind, expected, "{time:?}");
    }
    assert_eq!(resolved(ahead, false).await.after.map(|it| it.at), Some(b.start));
    let everything = resolved(ahead, true).await;
    assert!(everything.before.is_some_and(|it| it.at >= e.start));
    assert!(everything.after.is_none() && everything.stepped_back.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_may_lie_behind_damaged_wal_is_refused() {
    let mut history = History::new(15).await;
    let commit = history.commit();
    history.stored().await;
    let Protected { shelf, repository, server, world, .. } = &mut history.production;
    let constants = support::constants(server);
    let start = constants.segment_size.floor(commit.start);
    let segment = read_segment(shelf, Timeline(1), start, 16 << 20).await.expect("is read").expect("is there");
    let mut bytes = segment.bytes;
    bytes[usize::try_from(commit.start.0 - start.0).expect("is small") + 30] ^= 1;
    let facts = shelf.journal().await.expect("is read").state().facts.clone();
    let (lineage, _) = repository.register("damaged", facts, None).await.expect("is registered");
    let damaged = Shelf::new(repository, lineage);
    // As whoever stored it would have signed it: a receiver does not store such bytes.
    let name = Name::WalChunk(WalPosition { lineage, timeline: 1, start: start.0 });
    let info = WalInfo { end: start.0 + bytes.len() as u64, segment_size: 16 << 20, ..WalInfo::default() };
    let object = write_wal(world, &damaged.keyring, name, &info, &bytes, &mut Encoder::new(1));
    damaged.store.create(&name.to_string(), object.body).await.expect("is stored");

    let path = asof_engine::target::Path::to(&damaged, &constants, Timeline(1)).await.expect("is known");
    let base = Base { start, stop: start, prepared: Vec::new() };
    let wanted = |target| Wanted { target, inclusive: true };
    for target in [Target::Latest, Target::Time(commit.time)] {
        let refused = resolve(&path, &base, &wanted(target)).await.expect_err("the target may lie behind the damage");
        assert!(chain(&refused).contains(&format!("breaks off at {}", commit.start)), "{}", chain(&refused));
    }
    let before = resolve(&path, &base, &wanted(Target::Lsn(commit.start))).await.expect("is all there is");
    assert_eq!(before.end, commit.start);
}
