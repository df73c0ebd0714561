//! `asof check` of a server whose files are backed up: each line was tried, and says what to do where it failed.

mod support;

use std::process::{Command, Stdio};

use asof_testkit::{Options, Server, Volume};
use serde_json::Value;

use support::{Desk, Running, json, protected};

/// How often it is looked; a tenth of a second lies between two looks.
const LOOKS: usize = 600;

/// Everything that the check finds.
fn findings(desk: &Desk) -> Vec<Value> {
    json(&desk.asof("check prod --json").out).as_array().expect("a list").clone()
}

/// What the check says of one item: its state and its text.
fn finding(desk: &Desk, what: &str) -> (String, String) {
    let all = findings(desk);
    let found = all.iter().find(|finding| finding["check"] == what);
    let found = found.unwrap_or_else(|| panic!("no {what} in {all:?}"));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&found["state"]), text(&found["result"]))
}

fn until(server: &Server, what: &str, mut holds: impl FnMut() -> bool) {
    let came = (0..LOOKS).any(|_| {
        let holds = holds();
        if !holds {
            server.psql("select pg_sleep(0.1)");
        }
        holds
    });
    assert!(came, "{what} did not come");
}

#[test]
fn a_repository_without_room_for_the_next_backup_fails_the_check_with_the_numbers() {
    // The databases of a new server have more than this.
    let volume = Volume::with_size("small", 16);
    let (desk, server) = (Desk::new(), Server::running(15, &Options::default()));
    desk.done(&format!("init {}", volume.path().join("repository").display()));
    assert_eq!(desk.add("prod", &server.conninfo()).code, 0);
    let (state, text) = finding(&desk, "repository space");
    assert!(state == "failed" && text.contains(" free at ") && text.contains("the server has"), "{state} {text}");
    desk.refused("check prod", 3, &["checks failed"]);
}

#[test]
fn trap_an_empty_file_fits_where_nothing_else_does() {
    let volume = Volume::with_size("full", 16);
    let (desk, server) = (Desk::new(), Server::running(15, &Options::default()));
    desk.done(&format!("init {}", volume.path().join("repository").display()));
    assert_eq!(desk.add("prod", &server.conninfo()).code, 0);
    assert_eq!(finding(&desk, "repository store").0, "ok");
    // As much as there is, and then what is left in parts of blocks.
    for size in ["1M", "1k"] {
        let fill = format!(
            "dd if=/dev/zero bs={size} of={} oflag=append conv=notrunc",
            volume.path().join("ballast").display()
        );
        let _ = Command::new("sh").args(["-c", &fill]).stderr(Stdio::null()).status().expect("sh runs");
    }
    let probe = format!("touch {0} && rm {0}", volume.path().join("repository/test.txt").display());
    assert!(
        Command::new("sh").args(["-c", &probe]).status().expect("sh runs").success(),
        "the disk takes an empty file"
    );
    let (state, text) = finding(&desk, "repository store");
    assert!(state == "failed" && text.contains("No space left"), "{state} {text}");
}

#[test]
fn room_is_looked_for_where_the_server_the_spool_and_the_repository_lie() {
    let (desk, server) = protected();
    for what in ["source space", "repository space"] {
        let (state, text) = finding(&desk, what);
        assert!(state == "ok" && text.contains(" free at "), "{what}: {state} {text}");
    }
    assert!(finding(&desk, "repository space").1.contains("the last took"), "it goes by the last backup");
    let again = desk
        .command()
        .args(["instance", "add", "prod", "--by-sql", "--spool", "spool", "--pg", &server.conninfo()])
        .output();
    assert!(again.expect("asof runs").status.success());
    assert_eq!(finding(&desk, "source space"), ("unknown".to_owned(), "not on this host".to_owned()));
    let (state, text) = finding(&desk, "spool space");
    assert!(state == "ok" && text.contains("spool; at least max_wal_size, 1.0 GiB,"), "{state} {text}");
    assert!(desk.done("check prod").contains("unknown source space     not on this host"));
}

#[test]
fn a_check_says_whether_wal_arrives() {
    let (desk, server) = protected();
    let (state, text) = finding(&desk, "WAL");
    assert!(state == "warning" && text.contains("only the moments of backups"), "{state} {text}");
    let mut receive = desk.command();
    receive.args(["wal", "receive", "prod"]).stdout(Stdio::null()).stderr(Stdio::null());
    let _receiver = Running(receive.spawn().expect("asof runs"));
    until(&server, "the receiver", || finding(&desk, "WAL").0 == "ok");
    server.psql("create table t (n int)");
    until(&server, "what was written", || finding(&desk, "WAL").1.contains(", 0 B behind the server, as of "));
}

#[test]
fn an_archive_command_of_asof_that_fails_fails_the_check() {
    let (desk, server) = protected();
    let set = |command: &str| {
        server.psql(&format!("alter system set archive_command = '{command}'"));
        server.psql("select pg_reload_conf()");
    };
    set("false asof wal push --instance prod %p");
    server.psql("alter system set archive_mode = on");
    let mut server = server;
    server.restart();
    server.psql("create table t (n int); select pg_switch_wal()");
    until(&server, "a failure", || server.psql("select failed_count > 0 from pg_stat_archiver") == "t");
    let (state, text) = finding(&desk, "archiving");
    assert!(state == "failed" && text.contains("archive_command failed for 0000"), "{state} {text}");
    server.psql("alter system set archive_command = 'true asof'");
    server.psql("select pg_reload_conf()");
    until(&server, "a success", || server.psql("select archived_count > 0 from pg_stat_archiver") == "t");
    assert_eq!(finding(&desk, "archiving").0, "ok");
    server.psql("alter system set archive_command = 'true'");
    server.psql("select pg_reload_conf()");
    // Of a command that is none of ours nothing is said, and of everything else it is.
    let is_found = |all: &[Value], what: &str| all.iter().any(|finding| finding["check"] == what);
    until(&server, "another command", || {
        let all = findings(&desk);
        assert!(is_found(&all, "WAL") && is_found(&all, "replication"), "{all:?}");
        !is_found(&all, "archiving")
    });
}

#[test]
fn what_was_dumped_of_a_server_whose_files_are_backed_up_is_checked_as_well() {
    let (desk, server) = protected();
    assert!(!desk.done("check prod").contains("dump rights"), "nothing was dumped");
    desk.done("dump prod --database postgres");
    let (state, text) = finding(&desk, "dump rights");
    assert!(state == "ok" && text.starts_with("postgres: "), "{state} {text}");
    assert_eq!(finding(&desk, "clients").0, "ok");
    drop(server);
}
