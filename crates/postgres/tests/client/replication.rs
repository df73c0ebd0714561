//! Physical replication: slots, streams, timelines, and what a synchronous commit waits for.

use std::collections::BTreeMap;

use asof_postgres::client::{Connection, ErrorKind, Mode};
use asof_postgres::lsn::{Lsn, Timeline};
use asof_postgres::replication::{IfActive, Reserve, SlotLife, Standing, WalMessage, WalReader, WalStream};
use asof_testkit::Server;

use crate::{Options, chain, connect, majors, pg_micros, sql, wait_for, waits_for};

async fn replication(server: &Server) -> Connection {
    connect(&server.conninfo(), Mode::Replication).await
}

/// Up to where WAL is flushed.
async fn flushed(connection: &mut Connection) -> Lsn {
    connection.query_one("SELECT pg_current_wal_flush_lsn()").await.unwrap().parse_required(0).unwrap()
}

/// The bytes from `start` to `end` as they lie in the segment files of `timeline`.
fn wal_on_disk(server: &Server, timeline: u32, start: Lsn, end: Lsn) -> Vec<u8> {
    const SEGMENT: u64 = 16 << 20;
    let mut bytes = Vec::new();
    let mut at = start.0;
    while at < end.0 {
        let segment = at / SEGMENT;
        let name = format!("{timeline:08X}{:08X}{:08X}", segment / 256, segment % 256);
        let file = std::fs::read(server.data_dir().join("pg_wal").join(name)).unwrap();
        let upto = end.0.min((segment + 1) * SEGMENT);
        bytes.extend_from_slice(&file[(at % SEGMENT) as usize..=((upto - 1) % SEGMENT) as usize]);
        at = upto;
    }
    bytes
}

/// What arrives until `end` is reached; each message must continue the one before.
async fn receive(reader: &mut WalReader, from: Lsn, end: Lsn) -> Vec<u8> {
    let mut bytes = Vec::new();
    while from.0 + (bytes.len() as u64) < end.0 {
        let message = reader.next().await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        if let WalMessage::Data { start, bytes: piece, .. } = message {
            assert_eq!(start.0, from.0 + bytes.len() as u64);
            bytes.extend_from_slice(&piece);
        }
    }
    bytes
}

fn write_some_wal(server: &Server) {
    server.psql("CREATE TABLE IF NOT EXISTS t AS SELECT g, repeat('x', 500) FROM generate_series(1, 40000) g");
    server.psql("SELECT pg_switch_wal()");
    server.psql("INSERT INTO t SELECT g FROM generate_series(1, 1000) g");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_system_is_identified_and_shown() {
    for major in majors() {
        let server = Server::running(major, &Options::default());
        let mut connection = replication(&server).await;
        let system = connection.identify_system().await.unwrap();
        assert_eq!(system.system_id.to_string(), server.psql("SELECT system_identifier FROM pg_control_system()"));
        assert_eq!((system.timeline, system.dbname.as_deref()), (Timeline(1), None));
        assert!(system.xlogpos <= flushed(&mut sql(&server).await).await);
        assert_eq!(connection.show("wal_segment_size").await.unwrap(), "16MB");
        assert_eq!(connection.show("data_directory_mode").await.unwrap(), "0700");
        assert_eq!(connection.timeline_history(Timeline(1)).await.unwrap_err().kind(), ErrorKind::Server);
        connection.identify_system().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_made_read_and_dropped() {
    for major in majors() {
        let server = Server::running(major, &Options::default());
        let (mut connection, mut observer) = (replication(&server).await, sql(&server).await);
        let created = connection.create_physical_slot("kept", SlotLife::Permanent, Reserve::Now).await.unwrap();
        assert_eq!((created.name.as_str(), created.consistent_point), ("kept", Lsn::INVALID));
        connection.create_physical_slot("late", SlotLife::Temporary, Reserve::OnFirstUse).await.unwrap();
        let kept = observer.slot_by_sql("kept").await.unwrap().unwrap();
        let late = observer.slot_by_sql("late").await.unwrap().unwrap();
        assert!(kept.restart_lsn.is_some() && !kept.temporary && !kept.active);
        assert!(late.restart_lsn.is_none() && late.temporary && late.active);
        assert_eq!((kept.slot_type.as_str(), kept.wal_status.as_deref()), ("physical", Some("reserved")));
        assert_eq!(observer.slot_by_sql("x' OR true --").await.unwrap(), None);
        if major >= 15 {
            let read = connection.read_slot("kept").await.unwrap().unwrap();
            assert_eq!((read.restart_lsn, read.restart_timeline), (kept.restart_lsn, Some(Timeline(1))));
            assert_eq!(connection.read_slot("nothing").await.unwrap(), None);
        } else {
            assert_eq!(connection.read_slot("kept").await.unwrap_err().kind(), ErrorKind::Invalid);
        }
        let error = connection.create_physical_slot("kept", SlotLife::Permanent, Reserve::Now).await.unwrap_err();
        assert_eq!(error.sqlstate(), Some("42710"));
        let error = connection.drop_slot("no such", IfActive::Wait).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        connection.drop_slot("kept", IfActive::Wait).await.unwrap();
        assert_eq!(connection.drop_slot("kept", IfActive::Fail).await.unwrap_err().sqlstate(), Some("42704"));
        assert_eq!(observer.slot_by_sql("kept").await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_wal_equals_the_files_and_moves_the_slot() {
    for major in majors() {
        let server = Server::running(major, &Options::default());
        let mut connection = replication(&server).await;
        connection.create_physical_slot("asof", SlotLife::Permanent, Reserve::Now).await.unwrap();
        let mut observer = sql(&server).await;
        let slot = observer.slot_by_sql("asof").await.unwrap().unwrap();
        let start = Lsn(slot.restart_lsn.unwrap().0 & !((16 << 20) - 1));
        let stream = connection.start_physical(Some("asof"), start, Timeline(1)).await.unwrap();
        write_some_wal(&server);
        let end = flushed(&mut observer).await;
        let (mut reader, mut writer) = stream.split();
        let bytes = receive(&mut reader, start, end).await;
        let got = Lsn(start.0 + bytes.len() as u64);
        assert!(bytes == wal_on_disk(&server, 1, start, got), "the stream differs from the files");
        let standing = Standing { write: got, flush: got, apply: Lsn::INVALID };
        writer.send_status(standing, pg_micros(), true).await.unwrap();
        while !matches!(reader.next().await.unwrap(), WalMessage::Keepalive { .. }) {}
        let moved =
            format!("SELECT restart_lsn = '{got}' AND active FROM pg_replication_slots WHERE slot_name = 'asof'");
        wait_for(&mut observer, &moved).await;
        let mut connection = WalStream::join(reader, writer).finish().await.unwrap();
        connection.identify_system().await.unwrap();
        connection.drop_slot("asof", IfActive::Wait).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_future_loses_no_wal() {
    let server = Server::running(majors()[0], &Options::default());
    let mut connection = replication(&server).await;
    let system = connection.identify_system().await.unwrap();
    let start = Lsn(system.xlogpos.0 & !((16 << 20) - 1));
    let stream = connection.start_physical(None, start, Timeline(1)).await.unwrap();
    write_some_wal(&server);
    let end = flushed(&mut sql(&server).await).await;
    let (mut reader, _writer) = stream.split();
    let mut bytes = Vec::new();
    while start.0 + (bytes.len() as u64) < end.0 {
        // Every other future is dropped wherever its first poll left it.
        tokio::select! {
            biased;
            message = reader.next() => if let WalMessage::Data { start: at, bytes: piece, .. } = message.unwrap() {
                assert_eq!(at.0, start.0 + bytes.len() as u64);
                bytes.extend_from_slice(&piece);
            },
            () = tokio::task::yield_now() => {}
        }
    }
    assert!(bytes == wal_on_disk(&server, 1, start, Lsn(start.0 + bytes.len() as u64)));
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_is_not_there_is_the_servers_error() {
    for major in majors() {
        let server = Server::running(major, &Options::default());
        // The server begins the stream before it looks at the position.
        let mut stream = replication(&server).await.start_physical(None, Lsn(1 << 40), Timeline(1)).await.unwrap();
        let ahead = stream.next().await.unwrap_err();
        assert_eq!(ahead.kind(), ErrorKind::Server);
        assert!(chain(&ahead).contains("ahead of the WAL flush position"), "{}", chain(&ahead));
        let other = replication(&server).await.start_physical(None, Lsn(1 << 24), Timeline(7)).await.unwrap_err();
        assert!(chain(&other).contains("requested timeline 7 is not in this server's history"), "{}", chain(&other));
        write_some_wal(&server);
        server.psql("CHECKPOINT");
        server.psql("SELECT pg_switch_wal()");
        server.psql("CHECKPOINT");
        assert!(!server.data_dir().join("pg_wal/000000010000000000000001").exists());
        let mut stream = replication(&server).await.start_physical(None, Lsn(1 << 24), Timeline(1)).await.unwrap();
        let gone = stream.next().await.unwrap_err();
        assert_eq!((gone.kind(), gone.sqlstate()), (ErrorKind::Server, Some("58P01")), "{}", chain(&gone));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_sql_asks_for_is_refused_here() {
    let server = Server::running(majors()[0], &Options::default());
    let error = sql(&server).await.start_physical(None, Lsn(1 << 24), Timeline(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

/// A standby that follows nobody, with WAL of its own.
fn standby(major: u32) -> Server {
    let mut server = Server::running(major, &Options::default());
    write_some_wal(&server);
    server.stop();
    server.write_data_file("standby.signal", b"");
    server.start();
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_ends_the_stream_and_names_the_next_timeline() {
    for major in majors() {
        let server = standby(major);
        let mut connection = replication(&server).await;
        let system = connection.identify_system().await.unwrap();
        assert_eq!(system.timeline, Timeline(1));
        let start = Lsn(system.xlogpos.0 & !((16 << 20) - 1));
        let mut stream = connection.start_physical(None, start, Timeline(1)).await.unwrap();
        server.psql("SELECT pg_promote()");
        let (next, switch, bytes) = read_to_end_of_timeline(&mut stream).await;
        assert_eq!(next, Timeline(2));
        assert_eq!(bytes.len() as u64, switch.0 - start.0, "everything up to the switch arrived");
        assert_eq!(stream.next().await.unwrap_err().kind(), ErrorKind::Invalid);
        stream.send_status(Standing::default(), pg_micros(), false).await.unwrap();
        let mut connection = stream.finish().await.unwrap();
        let (name, history) = connection.timeline_history(Timeline(2)).await.unwrap();
        assert_eq!(name, "00000002.history");
        assert!(String::from_utf8_lossy(&history).contains(&switch.to_string()), "{history:?}");
        // A start exactly at the end of a timeline is answered without any stream.
        let mut stream = connection.start_physical(None, switch, Timeline(1)).await.unwrap();
        let end = WalMessage::TimelineEnd { next_timeline: Timeline(2), start: switch };
        assert_eq!(stream.next().await.unwrap(), end);
        let connection = stream.finish().await.unwrap();
        let stream = connection.start_physical(None, switch, Timeline(2)).await.unwrap();
        let (mut reader, writer) = stream.split();
        let upto = flushed(&mut sql(&server).await).await;
        let bytes = receive(&mut reader, switch, upto).await;
        assert!(bytes == wal_on_disk(&server, 2, switch, Lsn(switch.0 + bytes.len() as u64)));
        WalStream::join(reader, writer).finish().await.unwrap().close().await;
    }
}

/// Next timeline, where it begins, and the WAL before.
async fn read_to_end_of_timeline(stream: &mut WalStream) -> (Timeline, Lsn, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        match stream.next().await.unwrap_or_else(|error| panic!("{}", chain(&error))) {
            WalMessage::Data { bytes: piece, .. } => bytes.extend_from_slice(&piece),
            WalMessage::Keepalive { .. } => {}
            WalMessage::TimelineEnd { next_timeline, start } => return (next_timeline, start, bytes),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_commit_waits_for_the_flush_we_report() {
    for major in majors() {
        let config = ["synchronous_standby_names = 'asof_sync'", "synchronous_commit = on"];
        let server = Server::running(major, &Options::with_config(&config));
        server.psql("SET synchronous_commit = local; CREATE TABLE t (a int)");
        let mut connection =
            connect(&format!("{} application_name=asof_sync", server.conninfo()), Mode::Replication).await;
        let start = connection.identify_system().await.unwrap().xlogpos;
        let stream = connection.start_physical(None, start, Timeline(1)).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let (mut observer, mut committer) = (sql(&server).await, sql(&server).await);
        let pid = committer.backend_pid();
        let commit = tokio::spawn(async move {
            let tag = committer.execute("INSERT INTO t VALUES (1)").await;
            (committer, tag)
        });
        wait_for(&mut observer, &waits_for(pid, "SyncRep")).await;
        let end = flushed(&mut observer).await;
        let got = Lsn(start.0 + receive(&mut reader, start, end).await.len() as u64);
        let written = Standing { write: got, ..Standing::default() };
        writer.send_status(written, pg_micros(), true).await.unwrap();
        while !matches!(reader.next().await.unwrap(), WalMessage::Keepalive { .. }) {}
        wait_for(&mut observer, &waits_for(pid, "SyncRep")).await;
        assert!(!commit.is_finished(), "written is not flushed");
        let flushed = Standing { write: got, flush: got, apply: Lsn::INVALID };
        writer.send_status(flushed, pg_micros(), false).await.unwrap();
        let (mut committer, tag) = commit.await.unwrap();
        assert_eq!(tag.unwrap(), "INSERT 0 1");
        assert!(committer.take_notices().is_empty());
        let state = "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'asof_sync'";
        assert_eq!(observer.query_one(state).await.unwrap().required(0).unwrap(), "sync");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_shuts_down_sends_everything_and_then_is_unavailable() {
    for major in majors() {
        let mut server = Server::running(major, &Options::default());
        let mut connection = replication(&server).await;
        let start = connection.identify_system().await.unwrap().xlogpos;
        let (mut reader, mut writer) = connection.start_physical(None, start, Timeline(1)).await.unwrap().split();
        let stopping = tokio::task::spawn_blocking(move || {
            server.stop();
            server
        });
        let (mut bytes, mut got) = (BTreeMap::new(), start);
        let error = loop {
            match reader.next().await {
                Ok(WalMessage::Data { start, bytes: piece, .. }) => {
                    got = Lsn(start.0 + piece.len() as u64);
                    bytes.insert(start.0, piece);
                }
                Ok(_) => {}
                Err(error) => break error,
            }
            // The server waits until everything was reported as flushed (written, before 17).
            let standing = Standing { write: got, flush: got, apply: Lsn::INVALID };
            drop(writer.send_status(standing, pg_micros(), false).await);
        };
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", chain(&error));
        let server = stopping.await.unwrap();
        let all: Vec<u8> = bytes.into_values().flatten().collect();
        assert!(all == wal_on_disk(&server, 1, start, got), "the shutdown checkpoint is part of the stream");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stands_still_does_not_stop_reports() {
    let server = Server::running(majors()[0], &Options::with_config(&["wal_sender_timeout = 2s"]));
    let mut connection = replication(&server).await;
    let start = Lsn(connection.identify_system().await.unwrap().xlogpos.0 & !((16 << 20) - 1));
    let (mut reader, mut writer) = connection.start_physical(None, start, Timeline(1)).await.unwrap().split();
    let mut observer = sql(&server).await;
    write_some_wal(&server);
    let pid = "SELECT pid FROM pg_stat_replication";
    let pid: i32 = observer.query_one(pid).await.unwrap().parse_required(0).unwrap();
    // Nothing is read, so the walsender fills every buffer and waits for us; reports still arrive, one after the other.
    for step in 1..=3_u64 {
        let standing = Standing { write: Lsn(start.0 + step), flush: Lsn(start.0 + step), apply: Lsn::INVALID };
        writer.send_status(standing, pg_micros(), false).await.unwrap();
        let text = format!("SELECT flush_lsn = '{}' FROM pg_stat_replication WHERE pid = {pid}", Lsn(start.0 + step));
        wait_for(&mut observer, &text).await;
    }
    let end = flushed(&mut observer).await;
    receive(&mut reader, start, end).await;
}
