//! Instances that come and go: rights before they are added, names that outlive them, ports that are taken.

mod support;

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use asof_testkit::{Options, Server};

use support::{Desk, Running, json, protected, with_server};

#[test]
fn rights_are_printed_before_an_instance_is_added() {
    let desk = Desk::with_repository();
    let by_major = desk.done("instance grants --major 15 --role backup");
    assert!(by_major.contains("GRANT EXECUTE ON FUNCTION") && by_major.contains("\"backup\""), "{by_major}");
    let server = Server::running(15, &Options::default());
    let asked = desk.run(desk.command().args(["instance", "grants", "--role", "backup", "--pg", &server.conninfo()]));
    assert_eq!((asked.code, asked.out), (0, by_major));
    desk.refused("instance grants --major 12", 3, &["PostgreSQL 12 is not supported"]);
}

#[test]
fn adding_an_instance_says_which_way_its_wal_comes_and_why() {
    let desk = Desk::with_repository();
    let refusing = ["local replication all reject", "host replication all all reject"].map(str::to_owned).into();
    let server = Server::running(15, &Options { hba: refusing, ..Options::default() });
    let added = desk.add("prod", &server.conninfo());
    assert_eq!(added.code, 0, "{added:?}");
    assert!(added.out.contains("received by SQL: ") && added.out.contains("host replication"), "{added:?}");
    let streaming = Server::running(15, &Options::default());
    let added = desk.add("other", &streaming.conninfo());
    assert!(added.out.contains("received by streaming replication"), "{added:?}");
}

#[test]
fn what_is_no_longer_configured_can_be_listed_and_restored_by_its_name() {
    let (desk, _server) = protected();
    let said = desk.done("instance remove prod");
    assert!(said.contains("pg_drop_replication_slot"), "{said}");
    assert!(desk.done("backup list prod").contains("first"));
    assert!(desk.done("backup list").contains("first"), "it is the only one");
    desk.done("restore prod --target-backup --to restored");
    assert!(desk.path("restored/PG_VERSION").exists());
    desk.refused("backup create prod", 3, &["prod is not configured here", "asof instance add prod"]);
    desk.refused("backup list another", 3, &["there is no instance \"another\""]);
}

#[test]
fn a_port_that_is_taken_is_refused_before_anything_is_written() {
    let (desk, _server) = protected();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let words = format!("restore --latest --as copy --port {port}");
    desk.refused(&words, 3, &[&format!("port {port} cannot be used"), "--port"]);
    assert!(!desk.path("instances").exists());
}

#[test]
fn a_list_of_keys_names_every_key_that_opens_the_repository() {
    let desk = Desk::with_repository();
    desk.done("key add safe --out safe.key");
    let listed = json(&desk.done("key list --json"));
    let keys = listed.as_array().expect("a list").iter().filter(|row| row["kind"] == "key");
    let mut labels: Vec<_> = keys.map(|row| row["label"].as_str().expect("a text")).collect();
    labels.sort_unstable();
    assert_eq!(labels, ["made by `asof init`", "safe"]);
}

#[test]
fn a_missing_key_file_or_repository_is_named_with_the_next_step() {
    let desk = Desk::with_repository();
    fs::rename(desk.path("asof.key"), desk.path("elsewhere")).expect("moved");
    desk.refused("status", 3, &["there is no key file", "asof.key", "recovery kit"]);
    fs::rename(desk.path("elsewhere"), desk.path("asof.key")).expect("moved");
    fs::rename(desk.path("repository"), desk.path("unmounted")).expect("moved");
    desk.refused("status", 3, &["there is no repository in", "asof.toml"]);
    desk.refused("--config b.toml init unmounted --key-file b.key", 3, &["exists already", "recovery kit"]);
}

#[test]
fn a_check_does_not_call_commits_safe_that_do_not_wait_for_us() {
    let (desk, server) = protected();
    let set = |sql: &str| {
        server.psql(sql);
        server.psql("select pg_reload_conf()");
    };
    let said = |desk: &Desk| desk.asof("check");
    assert!(!said(&desk).out.contains("synchronous  "), "nobody waits for us");
    // The sessions of these tests do not wait: nobody receives.
    set("set synchronous_commit = local; alter role postgres set synchronous_commit = 'on'");
    set("set synchronous_commit = local; alter system set synchronous_standby_names = 'asof'");
    let only = said(&desk);
    assert!(only.out.contains("we are the only one"), "{only:?}");
    set("set synchronous_commit = local; alter system set synchronous_standby_names = 'ANY 1 (asof, standby)'");
    let checked = said(&desk);
    assert!(checked.code == 0 && checked.out.contains("ANY 1 (asof, standby)"), "{checked:?}");
    for (value, place) in [("local", "role postgres"), ("remote_apply", "role postgres in database postgres")] {
        let scope = if place.contains("database") { "in database postgres " } else { "" };
        set(&format!("set synchronous_commit = local; alter role postgres {scope}set synchronous_commit = {value}"));
        let refused = said(&desk);
        assert_eq!(refused.code, 3, "{refused:?}");
        assert!(refused.out.contains(&format!("{place}: synchronous_commit={value}")), "{refused:?}");
        set(&format!("set synchronous_commit = local; alter role postgres {scope}reset synchronous_commit"));
    }
    set("set synchronous_commit = local; alter system set synchronous_commit = 'off'");
    assert!(said(&desk).out.contains("the server: synchronous_commit=off"));
}

#[test]
fn a_receiver_with_a_spool_says_where_it_acknowledges_from_and_shares_it_with_nobody() {
    let (desk, server) = protected();
    let conninfo = server.conninfo();
    let added = desk.command().args(["instance", "add", "prod", "--pg", &conninfo, "--spool", "spool"]).output();
    assert!(added.expect("asof runs").status.success());
    assert!(desk.read("asof.toml").contains("spool = \""), "{}", desk.read("asof.toml"));
    let log = fs::File::create(desk.path("receiver.log")).expect("a log");
    let mut receive = desk.command();
    receive.args(["wal", "receive", "prod", "--synchronous"]).stdout(Stdio::null()).stderr(log);
    let mut receiver = Running(receive.spawn().expect("asof runs"));
    server.psql("alter system set synchronous_standby_names = 'asof'");
    server.psql("select pg_reload_conf()");
    // Returns when the spool has it.
    server.psql("create table t (n int)");
    let status = desk.done("status");
    assert!(status.contains("which survives the loss of the primary, not of this host"), "{status}");
    assert!(desk.asof("check").out.contains("acknowledged from the spool"));
    desk.refused("wal receive prod", 3, &["another receiver uses the spool", "stop it"]);
    let signalled = Command::new("kill").arg(receiver.0.id().to_string()).status().expect("kill runs");
    assert!(signalled.success() && receiver.0.wait().expect("it ends").success(), "{}", desk.read("receiver.log"));
    let said = desk.read("receiver.log");
    assert!(said.contains("acknowledging from the spool") && said.contains("stopped; WAL is stored up to"), "{said}");
    assert_eq!(json(&desk.done("status --json"))[0]["spool_bytes"], 0, "all of it is in the repository");
}

#[test]
fn an_extension_of_any_database_that_is_not_installed_is_said_before_anything_is_read() {
    let (desk, server) = with_server();
    server.psql("create database other");
    server.psql_in("other", "update pg_extension set extname = 'from_elsewhere' where extname = 'plpgsql'");
    desk.done("backup create prod --name first");
    let said = desk.asof("restore --latest --as copy --dry-run");
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("extension from_elsewhere is not installed here"), "{said:?}");
    assert!(!desk.path("instances").exists());
    desk.refused("restore --latest --as copy --dry-run --bindir /nowhere", 3, &["/nowhere"]);
}
