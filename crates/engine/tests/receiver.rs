//! The receiver against real servers that restart, fail over, forget and go back in time.

mod support;

use std::time::Duration;

use asof_engine::restore::{RestoreRequest, plan};
use asof_engine::target::Target;
use asof_engine::wal::stream::{Pace, StreamSettings, store_history};
use asof_postgres::lsn::{Lsn, Timeline};
use asof_repository::lineage::WalEvent;
use asof_testkit::{Options, Server, majors};
use asof_world::Timestamp;

use support::{Protected, Receiver, chain, copy_of, flushed, follow, lsn, standby, until};

const PACE: Pace = Pace::Every(Duration::from_millis(30));

/// Small segments, and no checkpoint that was not asked for: WAL is removed by checkpoints.
fn small(config: &[&str]) -> Options {
    let own = ["autovacuum = off", "checkpoint_timeout = 1h", "min_wal_size = 2MB", "max_wal_size = 256MB"];
    Options { wal_segment_mib: 1, ..Options::with_config(&[&own, config].concat()) }
}

/// As [`small`], where WAL can be read by SQL only.
fn sql_only(config: &[&str]) -> Options {
    let hba = vec!["local replication all reject".to_owned(), "host replication all all reject".to_owned()];
    Options { hba, ..small(config) }
}

/// A server with a table of numbers and a backup.
async fn production(major: u32, options: &Options) -> Protected {
    let production = Protected::new(major, options).await;
    production.server.psql("create table rows (n int)");
    production
}

fn insert(server: &Server, row: u32) {
    server.psql(&format!("insert into rows values ({row})"));
}

fn rows(server: &Server) -> String {
    server.psql("select string_agg(n::text, ' ' order by n) from rows")
}

/// The numbers from 1 to `last`, as [`rows`] shows them.
fn up_to(last: u32) -> String {
    (1..=last).map(|row| row.to_string()).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_stopped_and_started_leaves_no_gap_and_meets_no_conflict() {
    for major in majors() {
        let mut production = production(major, &small(&[])).await;
        production.backup("first").await;
        let mut row = 0;
        for round in 0..4 {
            let receiver = production.receiver(if round == 2 { Pace::AtOnce } else { PACE });
            for _ in 0..3 {
                row += 1;
                insert(&production.server, row);
                receiver.catch_up(&production.server).await;
            }
            if round == 1 {
                production.server.kill();
                production.server.start();
                row += 1;
                insert(&production.server, row);
                receiver.catch_up(&production.server).await;
            }
            if round == 2 {
                production.server.restart();
                receiver.catch_up(&production.server).await;
            }
            receiver.stop().await;
            // While nobody receives, the server goes on, past the end of the segment too.
            row += 1;
            insert(&production.server, row);
            production.server.psql(if round % 2 == 0 { "select pg_switch_wal()" } else { "select 1" });
        }
        let receiver = production.receiver(PACE);
        let end = receiver.catch_up(&production.server).await;
        receiver.stop().await;
        assert!(production.stored_end().await >= (Timeline(1), end));
        assert!(production.wal_events().await.len() <= 1, "{:?}", production.wal_events().await);
        let restored = production.restored(&production.wanted(Target::Latest, true)).await;
        assert_eq!(rows(&restored), up_to(row));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_writes_nothing_can_be_restored_as_of_a_moment_ago() {
    for major in majors() {
        for hba in ["local replication all trust", "local replication all reject"] {
            let production = production(major, &Options { hba: vec![hba.to_owned()], ..small(&[]) }).await;
            insert(&production.server, 1);
            production.backup("first").await;
            let settings = production.settings(&production.server, PACE);
            let receiver = Receiver::start(StreamSettings { idle: Duration::ZERO, ..settings });
            receiver.catch_up(&production.server).await;
            let now = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
            let idle: i64 = production.server.psql(now).parse().expect("a number");
            let wanted = production.wanted(Target::Time(Timestamp(idle)), true);
            receiver.allow(async || plan(&production.shelf, &wanted).await).await;
            receiver.stop().await;
            let later = Target::Time(Timestamp(idle + 3_600_000_000));
            assert!(production.refusal(later).await.contains("latest restorable time"));
            assert_eq!(rows(&production.restored(&wanted).await), "1");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c3_of_two_receivers_one_stores_and_the_other_goes_on_behind_it() {
    let production = production(15, &small(&[])).await;
    production.backup("first").await;
    let other = StreamSettings { slot: "another".to_owned(), ..production.settings(&production.server, Pace::AtOnce) };
    let receivers = [production.receiver(PACE), Receiver::start(other)];
    for row in 1..=30 {
        insert(&production.server, row);
        if row % 10 == 0 {
            production.server.psql("select pg_switch_wal()");
        }
    }
    let mut end = Lsn(0);
    for receiver in &receivers {
        end = receiver.catch_up(&production.server).await;
    }
    for receiver in receivers {
        receiver.reach(end).await;
        receiver.stop().await;
    }
    assert!(production.stored_end().await >= (Timeline(1), end));
    let restored = production.restored(&production.wanted(Target::Latest, true)).await;
    assert_eq!(rows(&restored), up_to(30));
}

/// Writes more than the server keeps without a slot, and returns a commit in the middle: its number, time and position.
fn write_past_what_is_kept(server: &Server) -> (u32, Timestamp, Lsn) {
    let mut middle = None;
    for round in 0..20 {
        let sql = "insert into rows values (1000); select pg_switch_wal()";
        server.psql(sql);
        if round == 10 {
            let printed = server.psql(
                "begin; insert into rows values (1001); select pg_current_xact_id()::text::bigint % 4294967296; commit; \
                 select (extract(epoch from clock_timestamp()) * 1000000)::bigint, pg_current_wal_insert_lsn()",
            );
            let words: Vec<&str> = printed.split(['\n', '|']).collect();
            let [xid, time, at] = words[..] else { panic!("three words: {printed}") };
            let (xid, time) = (xid.parse().expect("an xid"), time.parse().expect("microseconds"));
            middle = Some((xid, Timestamp(time), at.parse().expect("an LSN")));
        }
    }
    server.psql("checkpoint");
    middle.expect("ten rounds were made")
}

fn segment_of(server: &Server, at: Lsn) -> String {
    server.psql(&format!("select pg_walfile_name('{}')", Lsn(at.0 + 1)))
}

fn has_segment(server: &Server, at: Lsn) -> bool {
    let sql = format!("select count(*) from pg_ls_waldir() where name = pg_walfile_name('{}')", Lsn(at.0 + 1));
    server.psql(&sql) != "0"
}

/// WAL is gone before it was received: that is recorded, nothing in it can be restored, and a new backup makes good.
async fn check_gap(production: Protected, lose: impl AsyncFnOnce(&Server, &str)) {
    production.backup("first").await;
    let receiver = production.receiver(PACE);
    insert(&production.server, 1);
    let end = receiver.catch_up(&production.server).await;
    receiver.stop().await;
    let (_, stored) = production.stored_end().await;
    let slot = production.settings(&production.server, PACE).slot;
    lose(&production.server, &slot).await;
    let (xid, time, at) = write_past_what_is_kept(&production.server);
    assert!(!has_segment(&production.server, stored), "the server still has {stored}");
    let receiver = production.receiver(PACE);
    let behind = receiver.catch_up(&production.server).await;
    let events = production.wal_events().await;
    let gaps: Vec<(Lsn, Lsn)> = events.iter().filter_map(gap).collect();
    let [(from, to)] = gaps[..] else { panic!("one gap: {events:?}") };
    assert!(from >= end && from == stored && from < at && at < to && to < behind, "{from} {at} {to} {behind}");
    for target in [Target::Xid(xid), Target::Time(time), Target::Lsn(at), Target::Lsn(to)] {
        let refusal = production.refusal(target).await;
        assert!(refusal.contains(&stored.to_string()) || refusal.contains("latest restorable time"), "{refusal}");
    }
    let latest = production.plan(Target::Latest, true).await.expect("what lies before the gap is there");
    assert!(
        latest.warnings.iter().any(|it| it.contains(&format!("WAL {from} .. {to} was lost"))),
        "{:?}",
        latest.warnings
    );
    let latest = production.restored(&production.wanted(Target::Latest, true)).await;
    assert_eq!(rows(&latest), up_to(1));
    production.backup("second").await;
    insert(&production.server, 2);
    receiver.catch_up(&production.server).await;
    receiver.stop().await;
    for target in [Target::Xid(xid), Target::Lsn(at)] {
        production.refusal(target).await;
    }
    let latest = production.plan(Target::Latest, true).await.expect("the backup lies behind the gap");
    assert!(latest.warnings.is_empty(), "{:?}", latest.warnings);
    let latest = production.restored(&production.wanted(Target::Latest, true)).await;
    assert_eq!(rows(&latest), rows(&production.server));
}

fn gap(event: &WalEvent) -> Option<(Lsn, Lsn)> {
    match event {
        WalEvent::Gap { from, to, .. } => Some((Lsn(*from), Lsn(*to))),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c11_wal_that_is_gone_before_it_was_received_is_a_recorded_gap_that_no_target_may_lie_in() {
    for major in majors() {
        for options in [small(&[]), sql_only(&[])] {
            check_gap(production(major, &options).await, async |server, slot| {
                server.psql(&format!("select pg_drop_replication_slot('{slot}')"));
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c5_a_slot_that_the_server_gave_up_is_made_again_and_leaves_a_recorded_gap() {
    for major in majors() {
        let production = production(major, &small(&["max_slot_wal_keep_size = 2MB"])).await;
        check_gap(production, async |_, _| {}).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_sql_the_segment_in_which_a_timeline_ended_is_found_under_the_name_of_the_next_one() {
    for major in majors() {
        // With archiving on, the promotion renames the old one.
        let mut production = production(major, &sql_only(&["archive_mode = on", "archive_command = 'true'"])).await;
        production.backup("first").await;
        let receiver = production.receiver(PACE);
        insert(&production.server, 1);
        receiver.catch_up(&production.server).await;
        receiver.stop().await;
        insert(&production.server, 2);
        production.server.stop();
        production.server.write_data_file("standby.signal", b"");
        production.server.start();
        let partial = "select count(*) from pg_ls_waldir() where name like '%.partial'";
        production.server.psql("select pg_promote()");
        assert_eq!(production.server.psql(partial), "1");
        insert(&production.server, 3);
        let receiver = production.receiver(PACE);
        receiver.catch_up(&production.server).await;
        receiver.stop().await;
        let events = production.wal_events().await;
        assert!(!events.iter().any(|event| matches!(event, WalEvent::Gap { .. })), "{events:?}");
        let restored = production.restored(&production.wanted(Target::Latest, true)).await;
        assert_eq!(rows(&restored), up_to(3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c11_a_gap_across_a_failover_is_recorded_on_each_timeline() {
    for major in majors() {
        let mut production = production(major, &small(&[])).await;
        let standby = standby(&production).await;
        production.backup("first").await;
        let receiver = production.receiver(PACE);
        insert(&production.server, 1);
        receiver.catch_up(&production.server).await;
        receiver.stop().await;
        let (_, stored) = production.stored_end().await;
        for row in 2..=3 {
            insert(&production.server, row);
            production.server.psql("select pg_switch_wal()");
        }
        follow(&production, &standby).await;
        production.server.kill();
        standby.psql("select pg_promote()");
        write_past_what_is_kept(&standby);
        let left =
            format!("select count(*) from pg_ls_waldir() where name like '%{}'", &segment_of(&standby, stored)[8..]);
        assert_eq!(standby.psql(&left), "0", "the server still has {stored}");
        let receiver = Receiver::start(production.settings(&standby, PACE));
        let behind = receiver.catch_up(&standby).await;
        receiver.stop().await;
        let events = production.wal_events().await;
        let told: Vec<_> = events.iter().filter(|event| !matches!(event, WalEvent::Started { .. })).collect();
        let [WalEvent::Gap { timeline: 1, from, to: fork }, WalEvent::Gap { timeline: 2, from: again, to }] = told[..]
        else {
            panic!("a gap on each timeline: {events:?}")
        };
        assert!(*from == stored.0 && from < fork && fork == again && again < to && *to < behind.0, "{events:?}");
        let refusal = production.refusal(Target::Lsn(Lsn(fork + 8))).await;
        assert!(refusal.contains(&stored.to_string()), "{refusal}");
        let latest = production.plan(Target::Latest, true).await.expect("what lies before the gap is there");
        let lost = format!("WAL {stored} .. {} was lost", Lsn(*to));
        assert!(latest.warnings.iter().any(|it| it.contains(&lost)), "{:?}", latest.warnings);

        production.server = standby;
        production.backup("second").await;
        let receiver = production.receiver(PACE);
        insert(&production.server, 4);
        receiver.catch_up(&production.server).await;
        receiver.stop().await;
        assert_eq!(production.wal_events().await, events, "nothing more is missing");
        let restored = production.restored(&production.wanted(Target::Latest, true)).await;
        assert_eq!(rows(&restored), rows(&production.server));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_on_a_standby_waits_until_that_has_what_is_stored() {
    for major in majors() {
        let production = production(major, &small(&[])).await;
        let standby = standby(&production).await;
        production.backup("first").await;
        let upstream = standby.psql("show primary_conninfo");
        let follow_from = |upstream: &str| {
            standby.psql(&format!("alter system set primary_conninfo = '{}'", upstream.replace('\'', "''")));
            standby.psql("select pg_reload_conf()");
        };
        follow_from("host=127.0.0.1 port=1");
        until(&production.world, "a standby that is cut off", || standby.psql(WALRECEIVER) == "0").await;
        let receiver = production.receiver(PACE);
        insert(&production.server, 1);
        receiver.catch_up(&production.server).await;
        receiver.stop().await;
        let receiver = Receiver::start(production.settings(&standby, PACE));
        until(&production.world, "the word about the standby", || receiver.said("the standby stands at")).await;
        follow_from(&upstream);
        insert(&production.server, 2);
        receiver.catch_up(&production.server).await;
        receiver.stop().await;
        let restored = production.restored(&production.wanted(Target::Latest, true)).await;
        assert_eq!(rows(&restored), up_to(2));
    }
}

const WALRECEIVER: &str = "select count(*) from pg_stat_wal_receiver where status = 'streaming'";

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_that_loses_nothing_is_followed_without_a_tail() {
    for major in majors() {
        let mut production = production(major, &small(&[])).await;
        let mut standby = standby(&production).await;
        production.backup("first").await;
        let receiver = production.receiver(PACE);
        insert(&production.server, 1);
        receiver.catch_up(&production.server).await;
        follow(&production, &standby).await;
        // It ends when both have everything, the shutdown checkpoint too.
        production.server.stop();
        receiver.stop().await;
        standby.psql("select pg_promote()");
        let receiver = Receiver::start(production.settings(&standby, PACE));
        insert(&standby, 2);
        standby.psql("select pg_switch_wal()");
        insert(&standby, 3);
        receiver.catch_up(&standby).await;
        receiver.stop().await;
        let (timeline, _) = production.stored_end().await;
        assert_eq!(timeline, Timeline(2));
        let events = production.wal_events().await;
        assert!(!events.iter().any(|event| matches!(event, WalEvent::Gap { .. })), "{events:?}");
        assert!(!events.iter().any(|event| matches!(event, WalEvent::Switched { at, durable, .. } if at < durable)));
        let restored = production.restored(&production.wanted(Target::Latest, true)).await;
        assert_eq!(rows(&restored), up_to(3));
        // And again: a receiver goes on with what the new primary writes.
        standby.restart();
        let receiver = Receiver::start(production.settings(&standby, PACE));
        insert(&standby, 4);
        receiver.catch_up(&standby).await;
        receiver.stop().await;
        let restored = production.restored(&production.wanted(Target::Latest, true)).await;
        assert_eq!(rows(&restored), up_to(4));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c11_what_a_failover_left_behind_is_a_recorded_tail_that_stays_restorable() {
    for major in majors() {
        let mut production = production(major, &small(&[])).await;
        let mut standby = standby(&production).await;
        production.backup("first").await;
        insert(&production.server, 1);
        follow(&production, &standby).await;
        standby.stop();
        let receiver = production.receiver(PACE);
        insert(&production.server, 2);
        production.server.psql("select pg_switch_wal()");
        insert(&production.server, 3);
        let durable = receiver.catch_up(&production.server).await;
        production.server.kill();
        receiver.stop().await;
        standby.start();
        standby.psql("select pg_promote()");
        let receiver = Receiver::start(production.settings(&standby, PACE));
        insert(&standby, 10);
        receiver.catch_up(&standby).await;
        assert!(receiver.said("a failover left WAL"));
        receiver.stop().await;

        let events = production.wal_events().await;
        let tails: Vec<_> = events.iter().filter(|event| matches!(event, WalEvent::Switched { .. })).collect();
        let [WalEvent::Switched { from: 1, to: 2, at, durable: recorded, commits }] = tails[..] else {
            panic!("{events:?}")
        };
        assert!(*at < durable.0 && *recorded >= durable.0, "{events:?}");
        // Two rows that the standby never had, and the message behind which `catch_up` looks.
        assert_eq!(*commits, Some(3));
        let latest = production.wanted(Target::Latest, true);
        assert_eq!(rows(&production.restored(&latest).await), "1 10");
        let tail = RestoreRequest { timeline: Some(Timeline(1)), ..production.wanted(Target::Latest, true) };
        assert_eq!(rows(&production.restored(&tail).await), up_to(3));
        // Started once more, the receiver has nothing to record.
        let receiver = Receiver::start(production.settings(&standby, PACE));
        insert(&standby, 11);
        receiver.catch_up(&standby).await;
        receiver.stop().await;
        assert_eq!(production.wal_events().await, events);
        let latest = production.wanted(Target::Latest, true);
        assert_eq!(rows(&production.restored(&latest).await), "1 10 11");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_d5_a_timeline_of_which_only_the_history_is_stored_is_not_followed_yet() {
    let production = production(15, &small(&[])).await;
    production.backup("first").await;
    let receiver = production.receiver(PACE);
    insert(&production.server, 1);
    let end = receiver.catch_up(&production.server).await;
    receiver.stop().await;
    // The receiver stores a history before any WAL behind it; here it gets no further.
    let history = format!("1\t{end}\tno recovery target specified\n");
    store_history(&production.shelf, Timeline(2), history.as_bytes()).await.expect("is stored");
    let latest = production.wanted(Target::Latest, true);
    let found = plan(&production.shelf, &latest).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!((found.resolved.timeline, found.resolved.end), (Timeline(1), production.stored_end().await.1));
    assert_eq!(rows(&production.restored(&latest).await), up_to(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_rolled_back_is_refused_before_anything_is_stored() {
    for major in majors() {
        let mut production = production(major, &small(&[])).await;
        insert(&production.server, 1);
        production.server.stop();
        let old = copy_of(production.server.data_dir(), &production.work.path().join("old"));
        production.server.start();
        production.backup("first").await;
        let receiver = production.receiver(PACE);
        insert(&production.server, 2);
        production.server.psql("select pg_switch_wal()");
        insert(&production.server, 3);
        receiver.catch_up(&production.server).await;
        production.server.stop();
        receiver.stop().await;
        let stored = production.stored_end().await;

        let mut rolled_back = Server::adopt(major, &old);
        rolled_back.start();
        let why = Receiver::start(production.settings(&rolled_back, PACE)).failure().await;
        assert!(why.contains(&format!("behind {}, which is stored: it was rolled back", stored.1)), "{why}");
        // Once it has written past what is stored, only the content tells.
        for row in 100..110 {
            insert(&rolled_back, row);
            rolled_back.psql("select pg_switch_wal()");
        }
        assert!(flushed(&rolled_back) > stored.1);
        let why = Receiver::start(production.settings(&rolled_back, PACE)).failure().await;
        let found = ["stored with other content: two servers write timeline 1", "does not continue what is stored"];
        assert!(found.iter().any(|found| why.contains(found)), "{why}");
        assert_eq!(production.stored_end().await, stored);
        assert_eq!(rows(&production.restored(&production.wanted(Target::Latest, true)).await), up_to(3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_server_that_lost_its_old_wal_is_no_server_with_a_gap() {
    for major in majors() {
        for promoted in [false, true] {
            let mut production = production(major, &small(&[])).await;
            insert(&production.server, 1);
            production.server.stop();
            let old = copy_of(production.server.data_dir(), &production.work.path().join("old"));
            production.server.start();
            production.backup("first").await;
            let receiver = production.receiver(PACE);
            for row in 2..=41 {
                insert(&production.server, row);
                production.server.psql("select pg_switch_wal()");
            }
            receiver.catch_up(&production.server).await;
            if promoted {
                production.server.stop();
                production.server.write_data_file("standby.signal", b"");
                production.server.start();
                production.server.psql("select pg_promote()");
                insert(&production.server, 42);
                receiver.catch_up(&production.server).await;
            }
            production.server.stop();
            receiver.stop().await;
            let (stored, events) = (production.stored_end().await, production.wal_events().await);
            assert_eq!(stored.0, Timeline(if promoted { 2 } else { 1 }));

            // It stands where nothing of its old WAL is left, and still behind what is stored.
            let mut rolled_back = Server::adopt(major, &old);
            rolled_back.start();
            let before = flushed(&rolled_back);
            write_past_what_is_kept(&rolled_back);
            assert!(!has_segment(&rolled_back, before) && flushed(&rolled_back) < stored.1);
            let why = Receiver::start(production.settings(&rolled_back, PACE)).failure().await;
            assert!(why.contains("it was rolled back"), "promoted before: {promoted}: {why}");
            if promoted {
                // However far it gets: it is on a timeline that the instance left.
                write_past_what_is_kept(&rolled_back);
                write_past_what_is_kept(&rolled_back);
                assert!(flushed(&rolled_back) > stored.1);
                let why = Receiver::start(production.settings(&rolled_back, PACE)).failure().await;
                assert!(why.contains("it was rolled back"), "{why}");
            }
            assert_eq!((production.stored_end().await, production.wal_events().await), (stored, events));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c9_two_histories_are_not_joined_where_a_segment_ends() {
    let mut production = production(15, &small(&["wal_keep_size = 64MB"])).await;
    insert(&production.server, 1);
    production.server.stop();
    let old = copy_of(production.server.data_dir(), &production.work.path().join("old"));
    production.server.start();
    production.backup("first").await;
    let receiver = production.receiver(PACE);
    insert(&production.server, 2);
    let switched = lsn(&production.server, "select pg_switch_wal()");
    let border = Lsn(switched.0.next_multiple_of(1 << 20));
    receiver.reach(border).await;
    production.server.kill();
    receiver.stop().await;
    let stored = production.stored_end().await;
    assert_eq!(stored, (Timeline(1), border), "nothing was written behind the switch");

    let mut rolled_back = Server::adopt(15, &old);
    rolled_back.start();
    for row in 100..110 {
        insert(&rolled_back, row);
        rolled_back.psql("select pg_switch_wal()");
    }
    assert!(flushed(&rolled_back) > border);
    let why = Receiver::start(production.settings(&rolled_back, PACE)).failure().await;
    assert!(why.contains("does not continue what is stored"), "{why}");
    assert_eq!(production.stored_end().await, stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c8_segments_of_other_sizes_make_the_full_cycle() {
    for wal_segment_mib in [1, 64] {
        let options = Options { wal_segment_mib, ..small(&["max_wal_size = 1GB", "min_wal_size = 128MB"]) };
        let production = production(15, &options).await;
        let receiver = production.receiver(PACE);
        production.backup("first").await;
        insert(&production.server, 1);
        production.server.psql("select pg_switch_wal()");
        insert(&production.server, 2);
        let end = receiver.catch_up(&production.server).await;
        insert(&production.server, 3);
        receiver.catch_up(&production.server).await;
        receiver.stop().await;
        assert_eq!(rows(&production.restored(&production.wanted(Target::Lsn(end), false)).await), up_to(2));
        assert_eq!(rows(&production.restored(&production.wanted(Target::Latest, true)).await), up_to(3));
    }
}
