//! The harness against real servers: what it promises to the tests that use it.

use asof_testkit::{Options, Server, Workdir, assert_sound, digests, dump, fill_small, majors};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

#[test]
fn contents_survive_a_restart_and_a_crash_on_every_major() {
    for major in majors() {
        let mut server = Server::running(major, &Options::default());
        fill_small(&server);
        let before = digests(&server, "postgres");
        assert_eq!(before["customer"].rows, 36_000, "{major}");
        assert_eq!(before["pg_largeobject"].rows, 160, "{major}");
        assert_eq!(before.len(), 8, "{major}: {:?}", before.keys());
        server.restart();
        assert_eq!(digests(&server, "postgres"), before, "{major}");
        server.kill();
        server.start();
        assert!(server.log().contains("automatic recovery in progress"), "{major}");
        assert_eq!(digests(&server, "postgres"), before, "{major}");
        assert_eq!(server.psql("select count(*) from scratch"), "0", "{major}");
    }
}

#[test]
fn a_dump_shows_what_digests_do_not() {
    let server = Server::running(15, &Options::default());
    server.psql("create role reader; create table t as select n from generate_series(1, 3) n");
    let before = (digests(&server, "postgres"), dump(&server));
    assert_eq!(dump(&server), before.1);
    server.psql("alter role reader connection limit 7");
    assert_eq!(digests(&server, "postgres"), before.0);
    assert_ne!(dump(&server), before.1);
}

#[test]
#[should_panic(expected = "lacks matching index tuple")]
fn an_index_that_does_not_say_what_its_table_says_is_unsound() {
    let server = Server::running(15, &Options::default());
    server.psql("create function one(int) returns int immutable language sql as 'select 1'");
    server.psql("create table t as select n from generate_series(1, 100) n; create index on t (one(n))");
    assert_sound(&server, "postgres");
    server.psql("create or replace function one(int) returns int immutable language sql as 'select 2'");
    assert_sound(&server, "postgres");
}

#[test]
#[should_panic(expected = "visibility maps in postgres")]
fn a_visibility_map_from_before_a_change_is_unsound() {
    let mut server = Server::running(15, &Options::default());
    server.psql("create table t as select n from generate_series(1, 100) n");
    server.psql("vacuum t");
    assert_sound(&server, "postgres");
    let map = server.data_dir().join(format!("{}_vm", server.psql("select pg_relation_filepath('t')")));
    server.stop();
    let stale = std::fs::read(&map).unwrap();
    server.start();
    server.psql("delete from t where n = 50");
    server.stop();
    assert_ne!(std::fs::read(&map).unwrap(), stale);
    std::fs::write(&map, stale).unwrap();
    server.start();
    assert_sound(&server, "postgres");
}

#[test]
fn a_change_of_one_value_changes_the_digest_of_its_table_only() {
    let server = Server::running(15, &Options::default());
    server.psql("create table a as select 1 as n; create table b as select 1 as n");
    let before = digests(&server, "postgres");
    server.psql("update a set n = 2");
    let after = digests(&server, "postgres");
    assert_ne!(before["a"], after["a"]);
    assert_eq!(before["b"], after["b"]);
}

#[test]
fn options_reach_the_server() {
    let options = Options {
        checksums: false,
        wal_segment_mib: 1,
        hba: vec!["host all stranger 127.0.0.1/32 reject".to_owned()],
        ..Options::with_config(&["wal_level = logical"])
    };
    for major in majors() {
        let server = Server::running(major, &options);
        let shown = server.psql("show wal_level; show wal_segment_size; show data_checksums; show server_version_num");
        let shown: Vec<&str> = shown.lines().collect();
        assert_eq!(shown[..3], ["logical", "1MB", "off"], "{major}");
        assert!(shown[3].starts_with(&major.to_string()), "{major}: {}", shown[3]);
        assert_eq!(server.psql("select address from pg_hba_file_rules where auth_method = 'reject'"), "127.0.0.1");
    }
}

#[test]
fn a_dropped_server_leaves_no_process_and_no_file() {
    let server = Server::running(15, &Options::default());
    let (pid, work) = (server.pid().unwrap(), server.work().path().to_path_buf());
    let mut session = server.tool("psql").arg("-At").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    session.stdin.as_mut().unwrap().write_all(b"select 'connected';\n").unwrap();
    let mut line = String::new();
    BufReader::new(session.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "connected\n");
    drop(server);
    session.kill().and_then(|()| session.wait()).unwrap();
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
    assert_eq!(work.exists(), std::env::var_os("ASOF_TEST_KEEP").is_some());
}

#[test]
fn a_killed_server_leaves_no_shared_memory() {
    for major in majors() {
        let mut server = Server::running(major, &Options::default());
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", server.pid().unwrap())).unwrap();
        assert!(maps.contains("/pg_dynshmem/") && !maps.contains("/dev/shm/"), "{major}: {maps}");
        let pid_file = std::fs::read_to_string(server.data_dir().join("postmaster.pid")).unwrap();
        let segment = pid_file.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap().to_owned();
        let exists = || {
            let segments = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
            segments.lines().any(|line| line.split_whitespace().nth(1) == Some(&segment))
        };
        assert!(exists(), "{major}");
        server.kill();
        assert!(!exists(), "{major}");
    }
}

#[test]
fn a_server_goes_when_its_test_panics() {
    let panicked = std::panic::catch_unwind(|| {
        let server = Server::running(15, &Options::default());
        std::panic::panic_any(server.pid().unwrap());
    });
    let pid = *panicked.unwrap_err().downcast::<u32>().unwrap();
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
}

#[test]
fn a_copied_data_directory_can_be_adopted() {
    let mut original = Server::running(15, &Options::default());
    original.psql("create table t as select 42 as n");
    original.stop();
    let work = Workdir::new("adopted");
    let copy = work.path().join("data");
    let copied = Command::new("cp").arg("-a").arg(original.data_dir()).arg(&copy).status().unwrap();
    assert!(copied.success());
    let mut server = Server::adopt(15, &copy);
    original.start();
    server.start();
    assert_eq!(server.psql("select n from t"), "42");
    assert_ne!(server.port(), original.port());
}

#[test]
fn a_server_that_refuses_to_start_says_why() {
    let mut server = Server::init(15, &Options::with_config(&["no_such_setting = on"]));
    let why = server.try_start().unwrap_err();
    assert!(why.contains("no_such_setting"), "{why}");
}

#[test]
fn a_tablespace_gets_a_directory_that_the_server_may_use() {
    let server = Server::running(15, &Options::default());
    let place = server.tablespace_dir("fast disk");
    server.psql(&format!("create tablespace fast location '{}'", place.display()));
    server.psql("create table t tablespace fast as select 1 as n");
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 1);
}

#[test]
fn a_long_way_to_the_work_directory_does_not_stop_a_server() {
    let long = Workdir::new(&"a".repeat(100));
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "options_reach_the_server"])
        .env("ASOF_TEST_DATA", long.path())
        .env("ASOF_TEST_MAJORS", "15")
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn an_error_in_sql_is_returned_with_the_server_s_words() {
    let server = Server::running(15, &Options::default());
    let why = server.try_psql_in("postgres", "select 1; select nothing").unwrap_err();
    assert!(why.contains("column \"nothing\" does not exist"), "{why}");
}

#[test]
fn the_universe_can_be_made_on_every_major() {
    for major in majors() {
        let server = Server::running(major, &Options::default());
        asof_testkit::fill_universe(&server);
        let kinds = "select count(distinct classid) from pg_depend where classid <> 0";
        assert!(server.psql_in("universe", kinds).parse::<u32>().expect("a number") > 25, "on {major}");
    }
}
