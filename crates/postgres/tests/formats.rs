//! The formats held against real servers: every major in `ASOF_TEST_MAJORS` writes what is then decoded here.
//!
//! Where the server's package has `pg_waldump`, our records are compared with its, one by one. Everywhere else the server itself is the
//! oracle: its flush position, its control file, its commit timestamps, its catalogue.

// What real servers leave on real disks is read here without the World that simulations replace.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use asof_postgres::control::{self, ControlFile, ServerState};
use asof_postgres::history::TimelineHistory;
use asof_postgres::label::{BackupLabel, BackupMethod, BackupSource, parse_tablespace_map};
use asof_postgres::lsn::{Lsn, SegmentNo, Timeline};
use asof_postgres::names::{self, FileKind, Fork, WalFileName};
use asof_postgres::page::{self, PageState};
use asof_postgres::version::{self, Major};
use asof_postgres::wal::{
    BlockImage, Decoded, Event, PageHeaderError, Stop, StopReason, TransactionEnd, TransactionOutcome,
};
use asof_postgres::wal::{WalDecoder, WalShape};
use asof_testkit::{Options, Server, Workdir, majors};

/// One block reference, as `pg_waldump` shows it: number, relation, fork, block, whether an image is applied.
type Block = (u8, String, Fork, u32, bool);

/// What both we and `pg_waldump` say about a record.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Seen {
    start: Lsn,
    previous: Lsn,
    rmgr: String,
    xid: u32,
    total_length: u32,
    blocks: Vec<Block>,
}

struct Decoding {
    records: Vec<Seen>,
    events: Vec<(Lsn, Event)>,
    end: Lsn,
    stop: Option<Stop>,
}

fn options(lines: &[&str]) -> Options {
    let mut config = vec!["wal_keep_size = 2GB", "max_prepared_transactions = 5", "autovacuum = off"];
    config.extend(lines);
    Options { wal_segment_mib: 1, ..Options::with_config(&config) }
}

fn lsn(server: &Server, function: &str) -> Lsn {
    server.psql(&format!("select {function}")).trim().parse().expect("a position")
}

fn control_file(data: &Path) -> ControlFile {
    let bytes = fs::read(data.join("global/pg_control")).expect("pg_control");
    ControlFile::parse(&bytes).expect("a control file of a supported major")
}

fn shape(data: &Path, history: TimelineHistory) -> WalShape {
    let control = control_file(data);
    WalShape {
        major: control.major,
        system_identifier: control.system_identifier,
        history,
        segment_size: control.wal_segment_size,
        wal_block_size: control.wal_block_size,
        block_size: control.block_size,
    }
}

/// The segments of `pg_wal` that a reader on this history takes, by number: of the newest timeline that has one.
fn segments(data: &Path, shape: &WalShape) -> BTreeMap<SegmentNo, PathBuf> {
    let mut found: BTreeMap<SegmentNo, (Timeline, PathBuf)> = BTreeMap::new();
    for entry in fs::read_dir(data.join("pg_wal")).expect("pg_wal") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").as_encoded_bytes();
        let Ok(WalFileName::Segment { timeline, segment }) = WalFileName::parse(name, shape.segment_size) else {
            continue;
        };
        if shape.history.stretch(timeline).is_some() && found.get(&segment).is_none_or(|(other, _)| *other < timeline) {
            found.insert(segment, (timeline, path));
        }
    }
    found.into_iter().map(|(segment, (_, path))| (segment, path)).collect()
}

/// Feeds consecutive segments in chunks until the decoder stops or the files end.
fn decode(shape: &WalShape, files: &BTreeMap<SegmentNo, PathBuf>, chunk: usize) -> Decoding {
    let (first, _) = files.first_key_value().expect("a segment");
    let start = shape.segment_size.start(*first).expect("a position");
    let mut decoder = WalDecoder::new(shape.clone(), start).expect("a page border");
    let mut decoding = Decoding { records: Vec::new(), events: Vec::new(), end: start, stop: None };
    for (number, (segment, path)) in files.iter().enumerate() {
        assert_eq!(segment.0, first.0 + number as u64, "pg_wal has a hole");
        for bytes in fs::read(path).expect("a segment").chunks(chunk) {
            decoder.feed(bytes);
            while let Decoded::Record(record) = decoder.next() {
                assert_eq!(decoding.records.last().map_or(record.previous, |last| last.start), record.previous);
                let event = record.event().unwrap_or_else(|error| panic!("PostgreSQL {}: {error}", shape.major));
                if event != Event::Other {
                    decoding.events.push((record.start, event));
                }
                let blocks = record.blocks.iter().map(|block| {
                    let relation = block.relation;
                    let name = format!("{}/{}/{}", relation.tablespace, relation.database, relation.relation);
                    (block.id, name, block.fork, block.block, block.image == BlockImage::Applied)
                });
                decoding.records.push(Seen {
                    start: record.start,
                    previous: record.previous,
                    rmgr: record.rmgr.name().expect("a core resource manager").to_owned(),
                    xid: record.xid,
                    total_length: record.total_length,
                    blocks: blocks.collect(),
                });
            }
        }
    }
    decoding.end = decoder.valid_end();
    decoding.stop = decoder.stopped().cloned();
    decoding
}

/// What `pg_waldump` of the same major says, if the package has it.
fn waldump(server: &Server, from: Lsn, to: Lsn) -> Option<Vec<Seen>> {
    let program = server.bin_dir().join("pg_waldump");
    if !program.is_file() {
        return None;
    }
    let mut command = server.tool("pg_waldump");
    command.arg("-p").arg(server.data_dir().join("pg_wal")).args(["-s", &from.to_string(), "-e", &to.to_string()]);
    let output = command.output().expect("pg_waldump");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.lines().filter(|line| line.starts_with("rmgr: ")).map(|line| seen(line).expect(line)).collect())
}

fn seen(line: &str) -> Option<Seen> {
    let after = |name: &str| line.split_once(name).map(|(_, rest)| rest.trim_start());
    let until = |text: &str, end: char| text.split(end).next().map(|text| text.trim().to_owned());
    let (_, lengths) = after("len (rec/tot):")?.split_once('/')?;
    let blocks = line.split(", blkref #").skip(1).map(|text| {
        let (id, rest) = text.split_once(": rel ")?;
        let (relation, rest) = rest.split_once(' ')?;
        let (fork, rest) = match rest.strip_prefix("fork ") {
            None => (Fork::Main, rest),
            Some(rest) => {
                let (name, rest) = rest.split_once(' ')?;
                (Fork::ALL.into_iter().find(|fork| fork.suffix().strip_prefix('_') == Some(name))?, rest)
            }
        };
        let mut words = rest.strip_prefix("blk ")?.split([' ', ',', ';']);
        let block = words.next()?.parse().ok()?;
        Some((id.parse().ok()?, relation.to_owned(), fork, block, rest.contains(" FPW")))
    });
    Some(Seen {
        start: until(after("lsn: ")?, ',')?.parse().ok()?,
        previous: until(after("prev ")?, ',')?.parse().ok()?,
        rmgr: until(after("rmgr: ")?, ' ')?,
        xid: until(after("tx: ")?, ',')?.parse().ok()?,
        total_length: until(lengths, ',')?.parse().ok()?,
        blocks: blocks.collect::<Option<_>>()?,
    })
}

const LOAD: &str = "
create table t(id int primary key, v text);
insert into t select i, repeat(md5(i::text), 3) from generate_series(1, 20000) i;
create index on t using gin (to_tsvector('simple', v));
create index on t using hash (v);
create index on t using brin (id);
create table g(p point); insert into g select point(i, i) from generate_series(1, 2000) i;
create index on g using gist (p); create index on g using spgist (p);
create sequence s; select count(nextval('s')) from generate_series(1, 100);
update t set v = v || 'x' where id % 3 = 0;
delete from t where id > 15000;
vacuum (truncate) t;
vacuum (freeze) g;
create unlogged table u(i int); insert into u select generate_series(1, 1000);
create table big(b bytea);
alter table big alter b set storage external;
insert into big select decode(repeat(md5(i::text), 4000), 'hex') from generate_series(1, 40) i;
begin; savepoint a; insert into t values (100001, 'a'); savepoint b; insert into t values (100002, 'b'); rollback to b; commit;
begin; insert into t values (100003, 'c'); rollback;
select pg_logical_emit_message(true, 'asof', repeat('m', 5000));
checkpoint;
select count(*) from t;
update t set v = v || 'y' where id % 7 = 0;
select pg_switch_wal();
create table x(i int); insert into x values (1);
";

#[test]
fn wal_of_a_mixed_load_is_decoded_completely() {
    for major in majors() {
        let mut server = Server::init(
            major,
            &options(&["wal_level = logical", "track_commit_timestamp = on", "wal_compression = on"]),
        );
        let tablespace = server.tablespace_dir("other");
        server.start();
        server.psql(LOAD);
        server.psql(&format!("create tablespace other location '{}'", tablespace.display()));
        let filenode =
            |table: &str| server.psql(&format!("select pg_relation_filenode('{table}')")).trim().parse::<u32>();
        let (dropped, truncated, shrunk) = (filenode("x"), filenode("g"), filenode("t"));
        server.psql("drop table x");
        server.psql("truncate g");
        server.psql("begin; insert into t values (200001, 'p'); prepare transaction 'asof-commit';");
        server.psql("begin; insert into t values (200002, 'p'); prepare transaction 'asof-rollback';");
        let prepared = server.psql("select transaction from pg_prepared_xacts order by gid");
        let prepared: Vec<u32> = prepared.lines().map(|xid| xid.parse().expect("an xid")).collect();
        server.psql("commit prepared 'asof-commit'");
        server.psql("rollback prepared 'asof-rollback'");
        server.psql("create database one");
        if major >= 15 {
            server.psql("create database two strategy file_copy");
        }
        let databases = server.psql("select oid from pg_database where datname in ('one', 'two') order by datname");
        let databases: Vec<u32> = databases.lines().map(|oid| oid.parse().expect("an oid")).collect();
        server.psql("alter database one set tablespace other");
        server.psql("drop database one");
        server.psql("drop tablespace other");
        server.psql("select pg_create_restore_point('before the flood')");
        let horizon = lsn(&server, "pg_current_wal_insert_lsn()");
        let commits = commit_times(&server);
        server.stop();
        server.write_data_file(
            "postgresql.auto.conf",
            b"wal_level = replica\nwal_log_hints = on\nmax_connections = 50\n",
        );
        server.start();
        server.psql("insert into t values (300000, 'after'); checkpoint; insert into t values (300001, 'after');");
        let flushed = lsn(&server, "pg_current_wal_flush_lsn()");
        server.stop();

        let data = server.data_dir();
        let control = control_file(data);
        let shape = shape(data, TimelineHistory::first());
        let files = segments(data, &shape);
        assert!(files.len() > 8, "the load crosses segments");
        let decoding = decode(&shape, &files, 1 << 20);

        // Nothing is missing at the end: the last record is the shutdown checkpoint that pg_control names.
        let stop = decoding.stop.as_ref().expect("the last segment is not full");
        assert!(stop.reason.is_unwritten(), "PostgreSQL {major}: {stop}");
        assert_eq!(stop.valid_end, decoding.end);
        assert!(decoding.end > flushed);
        let (at, last) = decoding.events.last().expect("events");
        assert_eq!(*at, control.checkpoint_lsn);
        assert_eq!(*last, Event::ShutdownCheckpoint(control.checkpoint));
        assert_eq!(control.state, ServerState::ShutDown);

        // In whatever pieces it arrives.
        for chunk in [8192, 4093, 64] {
            let again = decode(&shape, &files, chunk);
            assert!(
                again.records == decoding.records && again.events == decoding.events && again.stop == decoding.stop
            );
        }
        compare_with_waldump(&server, &decoding);

        let events: Vec<&Event> = decoding.events.iter().map(|(_, event)| event).collect();
        let ends: Vec<&TransactionEnd> = events
            .iter()
            .filter_map(|event| if let Event::TransactionEnd(end) = event { Some(end) } else { None })
            .collect();
        // Every commit the server remembers, at its time to the microsecond.
        let decoded: BTreeMap<u32, i64> = ends
            .iter()
            .filter(|end| end.outcome == TransactionOutcome::Committed)
            .flat_map(|end| {
                // Kept subtransactions have the time of the whole.
                let xids = std::iter::once(end.xid).chain(end.subtransactions.iter().copied());
                xids.map(|xid| (xid, end.time_unix_micros))
            })
            .collect();
        assert!(commits.len() > 15);
        for (xid, time) in &commits {
            let decoded = decoded.get(xid).unwrap_or_else(|| panic!("PostgreSQL {major}: no commit of {xid}"));
            assert!(decoded.abs_diff(*time) <= 1, "PostgreSQL {major}: xid {xid} at {decoded}, not {time}");
        }
        let of =
            |xid| ends.iter().find(|end| end.xid == xid && end.prepared).expect("the end of a prepared transaction");
        assert_eq!(of(prepared[0]).outcome, TransactionOutcome::Committed);
        assert_eq!(of(prepared[0]).gid.as_deref(), Some(&b"asof-commit"[..]));
        assert_eq!(of(prepared[1]).outcome, TransactionOutcome::Aborted);
        let prepares = events.iter().filter_map(|event| if let Event::Prepared(p) = event { Some(p) } else { None });
        let prepares: Vec<_> = prepares.map(|p| (p.xid, String::from_utf8_lossy(&p.gid).into_owned())).collect();
        assert_eq!(prepares, [(prepared[0], "asof-commit".to_owned()), (prepared[1], "asof-rollback".to_owned())]);
        assert!(ends.iter().any(|end| end.subtransactions.len() == 1), "a savepoint that was kept");

        let names_dropped = |filenode: u32| ends.iter().any(|end| end.dropped.iter().any(|r| r.relation == filenode));
        assert!(names_dropped(dropped.expect("a filenode")), "DROP TABLE");
        assert!(names_dropped(truncated.expect("a filenode")), "TRUNCATE gives the table new files");
        let shrunk = shrunk.expect("a filenode");
        let cut = events.iter().any(|event| {
            matches!(event, Event::RelationTruncated { relation, blocks, main: true, visibility_map: true, free_space_map: true }
                if relation.relation == shrunk && *blocks > 0)
        });
        assert!(cut, "PostgreSQL {major}: VACUUM cut the table");
        let created =
            |fork| events.iter().any(|event| matches!(event, Event::RelationCreated { fork: f, .. } if *f == fork));
        assert!(created(Fork::Main) && created(Fork::Init));

        let copied = |database: u32| {
            events.iter().any(|event| matches!(event, Event::DatabaseCopied { database: d, .. } if *d == database))
        };
        let built = |database: u32| {
            events.iter().any(|event| matches!(event, Event::DatabaseCreated { database: d, .. } if *d == database))
        };
        if major >= 15 {
            assert!(built(databases[0]) && copied(databases[1]) && !built(databases[1]));
        }
        assert!(copied(databases[0]), "a move to another tablespace copies files on every major");
        let removed =
            |event: &&Event| matches!(event, Event::DatabaseDropped { database, .. } if *database == databases[0]);
        assert_eq!(events.iter().filter(|event| removed(event)).count(), 2, "moved away, then dropped");
        assert!(events.iter().any(|event| matches!(event, Event::TablespaceCreated { path, .. }
            if path.as_slice() == tablespace.as_os_str().as_encoded_bytes())));
        assert!(events.iter().any(|event| matches!(event, Event::TablespaceDropped { .. })));
        assert!(events.iter().any(|event| matches!(event, Event::Truncate { tables, .. } if tables.len() == 1)));
        assert!(events.iter().any(|event| matches!(event, Event::SegmentSwitch)));
        assert!(events.iter().any(|event| matches!(event, Event::OnlineCheckpoint(_))));
        assert_eq!(events.iter().any(|event| matches!(event, Event::CheckpointRedo { .. })), major >= 17);
        let point = decoding.events.iter().find(|(_, event)| {
            matches!(event, Event::RestorePoint { name, .. }
            if name == b"before the flood")
        });
        let (at, _) = point.expect("the restore point");
        assert!(*at < horizon);
        let change = events.iter().rev().find_map(|event| match event {
            Event::ParameterChange { minimums, wal_level, wal_log_hints, .. } => {
                Some((minimums, wal_level, wal_log_hints))
            }
            _ => None,
        });
        let (minimums, wal_level, wal_log_hints) = change.expect("settings changed");
        assert_eq!((*minimums, *wal_level), (control.standby_minimums, control.wal_level));
        assert_eq!((minimums.max_connections, *wal_log_hints), (50, true));

        pages_are_valid(data, &control);
    }
}

/// Commit times as the server keeps them, in microseconds since 1970.
fn commit_times(server: &Server) -> BTreeMap<u32, i64> {
    let rows = server.psql(
        "select x, (extract(epoch from pg_xact_commit_timestamp(x::text::xid)) * 1000000)::bigint
         from (select generate_series(greatest(3, txid_current() - 60), txid_current() - 1) x) s
         where pg_xact_commit_timestamp(x::text::xid) is not null",
    );
    let row =
        |line: &str| line.split_once('|').map(|(xid, time)| (xid.parse().expect("xid"), time.parse().expect("time")));
    rows.lines().filter_map(row).collect()
}

fn compare_with_waldump(server: &Server, decoding: &Decoding) {
    let first = decoding.records.first().expect("records").start;
    let Some(expected) = waldump(server, first, decoding.end) else { return };
    for (ours, theirs) in decoding.records.iter().zip(&expected) {
        assert_eq!(ours, theirs, "PostgreSQL {}", server.major());
    }
    assert_eq!(decoding.records.len(), expected.len(), "PostgreSQL {}", server.major());
    eprintln!("PostgreSQL {}: {} records equal to pg_waldump's", server.major(), expected.len());
}

/// Every page of a stopped instance verifies at its own block number, and no file of a relation escapes the name grammar.
fn pages_are_valid(data: &Path, control: &ControlFile) {
    let mut pages = 0;
    let mut kinds = BTreeSet::new();
    let mut directories = vec![PathBuf::from("base"), PathBuf::from("global"), PathBuf::from("pg_tblspc")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(data.join(&directory)).expect("a directory") {
            let entry = entry.expect("an entry");
            let path = directory.join(entry.file_name());
            if fs::metadata(data.join(&path)).expect("it is there").is_dir() {
                directories.push(path);
                continue;
            }
            let name = path.as_os_str().as_encoded_bytes();
            let classified = names::classify(name, control.major);
            kinds.insert(format!("{:?}", classified.kind));
            let Some(file) = classified.relation else {
                let known = ["pg_control", "PG_VERSION", "pg_filenode.map", "pg_internal.init"];
                let bare = path.file_name().expect("a name").to_string_lossy().into_owned();
                assert!(known.contains(&bare.as_str()), "{}", path.display());
                let excluded = version::excluded_from_backup(control.major, name).is_some();
                assert_eq!(excluded, bare == "pg_internal.init");
                continue;
            };
            assert_ne!(classified.kind, FileKind::Temp, "the server is stopped");
            let bytes = fs::read(data.join(&path)).expect("a relation file");
            let first = file.name.segment * control.blocks_per_segment;
            let report = page::verify_run(&bytes, control.block_size, first);
            assert_eq!((report.bad.len(), report.trailing_bytes), (0, 0), "{}", path.display());
            pages += report.pages;
            if report.pages > report.zero_pages {
                let size = usize::try_from(control.block_size.bytes()).expect("small");
                let page = bytes.chunks_exact(size).position(|page| !page::is_new(page)).expect("one is not zero");
                let wrong = page::verify(
                    &bytes[page * size..(page + 1) * size],
                    first + u32::try_from(page).expect("small") + 1,
                );
                assert!(matches!(wrong, PageState::Invalid { .. }), "{}", path.display());
            }
        }
    }
    assert!(pages > 1000, "{pages} pages");
    for kind in ["Main", "Fsm", "Vm", "Init"] {
        assert!(kinds.contains(kind), "{kind} among {kinds:?}");
    }
}

#[test]
fn hz_c9_recycled_segments_end_the_valid_wal() {
    for major in majors() {
        let mut server =
            Server::running(major, &options(&["wal_keep_size = 0", "min_wal_size = 5MB", "max_wal_size = 8MB"]));
        server.psql("create table t(v text)");
        for _ in 0..12 {
            server.psql("insert into t select repeat('r', 500) from generate_series(1, 3000); checkpoint;");
        }
        server.psql("insert into t select repeat('r', 500) from generate_series(1, 300);");
        let flushed = lsn(&server, "pg_current_wal_flush_lsn()");
        server.kill();
        let shape = shape(server.data_dir(), TimelineHistory::first());
        let files = segments(server.data_dir(), &shape);
        let current = shape.segment_size.segment_before(flushed);
        let (last, last_path) = files.last_key_value().expect("a segment");
        assert!(*last > current, "PostgreSQL {major} keeps recycled segments");
        assert!(fs::read(last_path).expect("a segment")[..24].iter().any(|byte| *byte != 0), "with their old content");
        let decoding = decode(&shape, &files, 100_000);
        assert_eq!(decoding.end, flushed, "PostgreSQL {major}: {:?}", decoding.stop);
        // And from the recycled segment itself not one record comes.
        let alone = decode(&shape, &BTreeMap::from([(*last, last_path.clone())]), 1 << 20);
        assert!(alone.records.is_empty());
        let reason = alone.stop.expect("it stops at once").reason;
        assert!(matches!(reason, StopReason::Page(PageHeaderError::Address(_))), "{reason}");
    }
}

#[test]
fn hz_c9_a_record_cut_off_by_a_crash_is_replaced_by_one_that_names_it() {
    for major in majors() {
        let mut server = Server::running(major, &options(&[]));
        server.psql("create table t(i int); select pg_switch_wal();");
        let before = lsn(&server, "pg_current_wal_insert_lsn()");
        server.psql("select pg_logical_emit_message(true, 'asof', repeat('m', 2000000))");
        server.kill();
        // Lose the segments that hold the rest of the message.
        let of = |server: &Server| shape(server.data_dir(), TimelineHistory::first());
        let shape = of(&server);
        let begun = shape.segment_size.segment_of(before);
        for (_, path) in segments(server.data_dir(), &shape).range(SegmentNo(begun.0 + 1)..) {
            fs::remove_file(path).expect("removed");
        }
        server.start();
        server.psql("insert into t values (1)");
        let flushed = lsn(&server, "pg_current_wal_flush_lsn()");
        server.kill();
        let decoding = decode(&of(&server), &segments(server.data_dir(), &shape), 1 << 20);
        assert_eq!(decoding.end, flushed, "PostgreSQL {major}: {:?}", decoding.stop);
        let replaced = decoding.events.iter().find_map(|(at, event)| match event {
            Event::OverwriteContrecord { overwritten, .. } => Some((*at, *overwritten)),
            _ => None,
        });
        let (at, overwritten) = replaced.unwrap_or_else(|| panic!("PostgreSQL {major} named no record"));
        assert_eq!(shape.segment_size.segment_of(overwritten), begun);
        assert!(at > overwritten);
        assert!(decoding.records.iter().all(|record| record.start != overwritten));
    }
}

#[test]
fn hz_c9_wal_of_a_promoted_server_is_decoded_along_its_history() {
    for major in majors() {
        let mut server = Server::running(major, &options(&[]));
        server.psql("create table t(v text); insert into t select repeat('a', 200) from generate_series(1, 3000)");
        server.stop();
        server.write_data_file("recovery.signal", b"");
        server.write_data_file("postgresql.auto.conf", b"restore_command = 'false'\n");
        server.start();
        server.psql("do $$ begin while pg_is_in_recovery() loop perform pg_sleep(0.01); end loop; end $$");
        server.psql("insert into t select repeat('b', 200) from generate_series(1, 9000)");
        let flushed = lsn(&server, "pg_current_wal_flush_lsn()");
        server.stop();
        let data = server.data_dir();
        let file = fs::read(data.join("pg_wal/00000002.history")).expect("a history file");
        let history = TimelineHistory::parse(Timeline(2), &file).expect("a valid history");
        assert_eq!(history.format(), file, "PostgreSQL {major} writes it as we do");
        let switch = history.switch_point(Timeline(1)).expect("it left timeline 1");
        let with = shape(data, history.clone());
        let files = segments(data, &with);
        let decoding = decode(&with, &files, 1 << 20);
        assert!(decoding.end >= flushed, "PostgreSQL {major}: {:?}", decoding.stop);
        assert!(decoding.stop.expect("an end").reason.is_unwritten());
        let begins = decoding.events.iter().find_map(|(at, event)| match event {
            Event::EndOfRecovery { timeline, previous_timeline, .. } => Some((*at, *timeline, *previous_timeline)),
            Event::ShutdownCheckpoint(checkpoint) if checkpoint.timeline != checkpoint.previous_timeline => {
                Some((*at, checkpoint.timeline, checkpoint.previous_timeline))
            }
            _ => None,
        });
        let (at, timeline, previous) = begins.expect("a record begins the new timeline");
        assert_eq!((timeline, previous), (Timeline(2), Timeline(1)));
        assert!(at >= switch);
        // The segment with the switch holds pages of both, and the old history knows nothing of the newer ones.
        let at_switch = shape(data, history).segment_size.segment_of(switch);
        let both: BTreeSet<u8> =
            fs::read(&files[&at_switch]).expect("a segment").chunks(8192).map(|page| page[4]).collect();
        assert!(both.contains(&1), "{both:?}");
        let without = shape(data, TimelineHistory::first());
        let stop = decode(&without, &files, 1 << 20).stop.expect("it stops");
        assert!(matches!(stop.reason, StopReason::Page(PageHeaderError::Timeline(_))), "{stop}");
        assert!(stop.valid_end <= Lsn(switch.0 + 8192));
    }
}

/// What `pg_backup_stop` returned.
struct StoppedBackup {
    lsn: Lsn,
    label: String,
    map: String,
}

/// A backup in one session, with `between` (psql commands) run while it is open.
fn backup(server: &Server, between: &str) -> StoppedBackup {
    let (start, stop) = if server.major() >= 15 {
        ("pg_backup_start('asof: test', true)", "pg_backup_stop(false)")
    } else {
        ("pg_start_backup('asof: test', true, false)", "pg_stop_backup(false, false)")
    };
    let answer = server.psql(&format!(
        "select {start};\n{between}\nselect '#' || lsn || '#' || labelfile || '#' || spcmapfile from {stop};"
    ));
    let mut parts = answer.split('#').skip(1).map(str::to_owned);
    let mut next = || parts.next().expect("four parts");
    let (lsn, label, map) = (next(), next(), next());
    StoppedBackup { lsn: lsn.parse().expect("a position"), label, map: map.trim_end_matches('\n').to_owned() + "\n" }
}

#[test]
fn labels_and_maps_are_read_as_each_major_writes_them() {
    for major in majors() {
        let server = Server::running(major, &options(&[]));
        let directory = server.tablespace_dir("odd \\ name");
        server.psql(&format!("create tablespace odd location '{}'", directory.display()));
        let oid = server.psql("select oid from pg_tablespace where spcname = 'odd'").trim().parse().expect("an oid");
        let stopped = backup(&server, "create table t(i int);");
        let label = BackupLabel::parse(stopped.label.as_bytes()).unwrap_or_else(|e| panic!("{e} in {}", stopped.label));
        assert!(label.start_lsn < label.checkpoint_lsn && label.checkpoint_lsn < stopped.lsn);
        assert_eq!((label.method, label.source), (BackupMethod::Streamed, BackupSource::Primary));
        assert_eq!((label.label.as_str(), label.start_timeline), ("asof: test", Timeline(1)));
        let control = control_file(server.data_dir());
        assert_eq!(label.checkpoint_lsn, control.checkpoint_lsn);
        assert_eq!(label.start_lsn, control.checkpoint.redo);
        let segment = control.wal_segment_size.segment_of(label.start_lsn);
        assert_eq!(label.start_segment, names::segment_name(Timeline(1), segment, control.wal_segment_size));
        let links = parse_tablespace_map(stopped.map.as_bytes(), control.major).expect("a valid map");
        let links: Vec<_> = links.into_iter().map(|link| (link.oid, link.path)).collect();
        assert_eq!(links, [(oid, directory.as_os_str().as_encoded_bytes().to_vec())], "PostgreSQL {major}");
        // The backup's end is in WAL, and names its start.
        let shape = shape(server.data_dir(), TimelineHistory::first());
        let decoding = decode(&shape, &segments(server.data_dir(), &shape), 1 << 20);
        assert!(decoding.events.iter().any(|(_, event)| *event == Event::BackupEnd { start: label.start_lsn }));
    }
}

#[test]
fn hz_a1_a_poisoned_copy_starts_with_its_label_and_refuses_without() {
    for major in majors() {
        let server = Server::running(major, &options(&[]));
        server.psql("create table t(i int); insert into t select generate_series(1, 5000);");
        let work = Workdir::new("poisoned");
        let source = server.data_dir().display();
        let (with, without) = (work.path().join("with"), work.path().join("without"));
        let copy = format!(
            "insert into t values (0);\n\\! cp -a {source} {}\ninsert into t values (-1);\ncheckpoint;",
            with.display()
        );
        let stopped = backup(&server, &copy);
        fs::remove_file(with.join("postmaster.pid")).expect("copied");
        for entry in fs::read_dir(server.data_dir().join("pg_wal")).expect("pg_wal") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                fs::copy(&path, with.join("pg_wal").join(path.file_name().expect("a name"))).expect("copied");
            }
        }
        let original = fs::read(with.join("global/pg_control")).expect("pg_control");
        let poisoned = control::with_poisoned_checkpoint(&original).expect("a valid control file");
        assert_eq!(poisoned.len(), original.len());
        fs::write(with.join("global/pg_control"), poisoned).expect("written");
        let status = std::process::Command::new("cp").arg("-a").args([&with, &without]).status().expect("cp");
        assert!(status.success());
        fs::write(with.join("backup_label"), &stopped.label).expect("written");

        let refusal = Server::adopt(major, &without).try_start().expect_err("it must not start without its label");
        assert!(refusal.contains("checkpoint"), "PostgreSQL {major}: {refusal}");
        let mut restored = Server::adopt(major, &with);
        restored.start();
        assert_eq!(restored.psql("select count(*) from t where i > 0").trim(), "5000", "PostgreSQL {major}");
        assert_ne!(control_file(restored.data_dir()).checkpoint_lsn, control::POISONED_CHECKPOINT);
    }
}

#[test]
fn each_major_is_recognised_by_what_it_writes() {
    for number in majors() {
        let server = Server::running(number, &options(&[]));
        let major = Major::from_number(number).expect("a supported major");
        let reported = server.psql("show server_version_num").trim().parse().expect("a number");
        assert_eq!(Major::from_server_version_num(reported), Ok(major));
        let text = fs::read(server.data_dir().join("PG_VERSION")).expect("PG_VERSION");
        assert_eq!(Major::from_pg_version(&text), Ok(major));
        assert_eq!(control_file(server.data_dir()).major, major);
        let directory = server.tablespace_dir("versioned");
        server.psql(&format!("create tablespace versioned location '{}'", directory.display()));
        assert!(directory.join(major.tablespace_directory()).is_dir());
        let system = server.psql("select system_identifier from pg_control_system()").trim().parse();
        assert_eq!(Ok(control_file(server.data_dir()).system_identifier), system);
    }
}
