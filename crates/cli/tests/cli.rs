//! The command line from outside: what it says, its exit codes, and what it leaves behind.
//!
//! Each test has a home of its own, to which every path leads: no configuration or password of the machine is read.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use std::time::{Duration, Instant};

use serde_json::Value;

use support::{Desk, PASSPHRASE, PASSWORD, json, mode, protected, with_server};

// Configuration and keys.

#[test]
fn without_a_configuration_every_place_that_was_looked_at_is_named() {
    let desk = Desk::new();
    let user = desk.path(".config/asof/asof.toml").display().to_string();
    desk.refused("status", 3, &["for asof.toml, ", &user, "/etc/asof/asof.toml", "asof init"]);
    desk.refused("status --config elsewhere.toml", 3, &["looked for elsewhere.toml"]);
}

#[test]
fn an_empty_xdg_config_home_counts_as_none() {
    let desk = Desk::new();
    let said = desk.run(desk.command().env("XDG_CONFIG_HOME", "").arg("status"));
    said.must("status", 3, &[&desk.path(".config/asof/asof.toml").display().to_string()]);
}

#[test]
fn the_configuration_is_found_in_the_user_s_directory() {
    let desk = Desk::new();
    desk.done("init repository --config .config/asof/asof.toml");
    assert_eq!(desk.done("key list --json"), desk.done("key list --json --config .config/asof/asof.toml"));
}

#[test]
fn an_unknown_key_of_the_configuration_is_named_with_its_line() {
    let desk = Desk::with_repository();
    desk.write("asof.toml", &(desk.read("asof.toml") + "retention = 7\n"));
    desk.refused("status", 3, &["asof.toml", "line", "`retention`"]);
}

#[test]
fn a_key_file_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    let desk = Desk::with_repository();
    let key = desk.path("asof.key");
    assert_eq!(mode(&key), 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("a new mode");
    desk.refused("status", 3, &["mode 640", &format!("chmod 600 {}", key.display())]);
}

#[test]
fn a_foreign_repository_is_refused_by_its_root_key() {
    let desk = Desk::with_repository();
    let theirs = desk.done("init foreign/repository --config foreign/asof.toml");
    let root_key = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("root key"));
        line.expect("init prints the root key").trim().to_owned()
    };
    let (mine, foreign) = (desk.path("repository"), desk.path("foreign/repository"));
    fs::rename(&mine, desk.path("away")).expect("moved away");
    fs::rename(&foreign, &mine).expect("moved in");
    let place = mine.display().to_string();
    desk.refused("status", 6, &[&place, &root_key(&theirs), "not the repository that was set up here"]);
}

#[test]
fn a_key_of_another_repository_opens_nothing() {
    let desk = Desk::with_repository();
    desk.done("init foreign/repository --config foreign/asof.toml");
    fs::copy(desk.path("foreign/asof.key"), desk.path("asof.key")).expect("copied");
    desk.refused("status", 6, &["key"]);
}

#[test]
fn init_changes_nothing_where_there_is_a_configuration_a_repository_or_a_key() {
    let desk = Desk::with_repository();
    let before = (desk.read("asof.toml"), desk.read("asof.key"));
    desk.refused("init repository", 3, &["asof.toml exists already"]);
    desk.refused("init elsewhere", 3, &["asof.toml exists already"]);
    desk.refused("init repository --config second/asof.toml", 3, &["repository", "already"]);
    desk.refused("init elsewhere --config second/asof.toml --key-file asof.key", 3, &["asof.key exists already"]);
    assert_eq!((desk.read("asof.toml"), desk.read("asof.key")), before);
    for name in ["elsewhere", "second"] {
        assert!(!desk.path(name).exists(), "{name} was made");
    }
    desk.done("key list");
}

#[test]
fn a_key_is_never_written_over_a_file() {
    let desk = Desk::with_repository();
    desk.write("there", "mine");
    desk.refused("key add second --out there", 3, &["there exists already"]);
    assert_eq!(desk.read("there"), "mine");
}

#[test]
fn a_second_key_opens_the_repository_without_the_first() {
    let desk = Desk::with_repository();
    desk.done("key add second --out second.key");
    assert_eq!(mode(&desk.path("second.key")), 0o600);
    fs::rename(desk.path("second.key"), desk.path("asof.key")).expect("moved");
    assert!(desk.done("key list").contains("second"));
}

#[test]
fn a_passphrase_opens_the_repository_in_place_of_the_key_file() {
    let desk = Desk::with_repository();
    let said = desk.run(desk.command().args(["key", "add", "kit", "--passphrase"]).stdin(desk.input("five words")));
    said.must("key add", 3, &["10 characters", "at least 15"]);
    let said = desk.run(desk.command().args(["key", "add", "kit", "--passphrase"]).stdin(desk.input("")));
    said.must("key add", 3, &["standard input holds no passphrase"]);
    let said = desk.run(desk.command().args(["key", "add", "kit", "--passphrase"]).stdin(desk.input(PASSPHRASE)));
    assert_eq!(said.code, 0, "{said:?}");
    let listed = json(&desk.done("key list --json"));
    let kinds = listed.as_array().expect("a list").iter().filter(|row| row["kind"] == "passphrase");
    assert_eq!(kinds.map(|row| row["label"].clone()).collect::<Vec<_>>(), ["kit"]);

    fs::remove_file(desk.path("asof.key")).expect("removed");
    let configuration = desk.read("asof.toml");
    let key_file = configuration.lines().find(|line| line.starts_with("key_file")).expect("a key file");
    desk.write("asof.toml", &configuration.replace(key_file, ""));
    desk.refused("key list", 3, &["nobody is there to be asked for a passphrase", "passphrase_file"]);
    desk.write("asof.toml", &configuration.replace(key_file, "passphrase_file = \"phrase\""));
    desk.refused("key list", 3, &["there is no passphrase file"]);
    desk.write("phrase", "correct horse battery stable\n");
    desk.refused("key list", 3, &["can be read by others", "chmod 600"]);
    fs::set_permissions(desk.path("phrase"), fs::Permissions::from_mode(0o600)).expect("a new mode");
    desk.refused("key list", 6, &["the passphrase opens none of the keys"]);
    desk.write("phrase", &format!("{PASSPHRASE}\n"));
    // With all rights: from here on there is a key file again.
    desk.done("key add second --out asof.key");
    desk.refused("key export", 3, &["no key_file", "asof key add"]);
    desk.write("asof.toml", &configuration);
    assert_eq!(json(&desk.done("key list --json")).as_array().map(Vec::len), Some(6));
}

#[test]
fn on_a_terminal_a_new_passphrase_is_asked_for_twice_and_one_that_opens_once_and_none_is_shown() {
    let desk = Desk::with_repository();
    let add = "key add kit --passphrase";
    let typed = [("New passphrase: ", PASSPHRASE), ("Once more: ", "correct horse battery stable")];
    let said = desk.typed(add, &typed);
    assert!(said.code == 3 && said.out.contains("the two passphrases differ"), "{said:?}");
    assert!(!desk.done("key list").contains("passphrase"));
    let said = desk.typed(add, &[("New passphrase: ", PASSPHRASE), ("Once more: ", PASSPHRASE)]);
    assert!(said.code == 0 && !said.out.contains(PASSPHRASE), "{said:?}");
    let configuration = desk.read("asof.toml");
    desk.write("asof.toml", &configuration.replace("key_file", "# key_file"));
    let said = desk.typed("key list", &[("Passphrase of ", PASSPHRASE)]);
    assert!(said.code == 0 && said.out.contains("kit") && !said.out.contains(PASSPHRASE), "{said:?}");
}

#[test]
fn a_passphrase_is_no_key_file() {
    let desk = Desk::with_repository();
    desk.refused("key add kit --passphrase --out kit.key", 2, &["cannot be used with"]);
    desk.refused("key add kit --passphrase --write-only", 2, &["cannot be used with"]);
    desk.refused("key add kit", 2, &["--out"]);
}

#[test]
fn the_recovery_kit_holds_the_key_and_a_configuration_that_can_be_parsed() {
    let desk = Desk::with_repository();
    let kit = desk.done("key export");
    let secret = desk.read("asof.key").lines().last().expect("a secret").to_owned();
    assert!(kit.contains(&secret), "{kit}");
    let from = kit.find("[repository]").expect("a configuration");
    let to = kit.find("then:").expect("what to do with it");
    desk.write("bare/asof.toml", &kit[from..to]);
    fs::copy(desk.path("asof.key"), desk.path("bare/asof.key")).expect("copied");
    desk.done("key list --config bare/asof.toml");
}

// The command line itself.

#[test]
fn completions_are_printed_for_each_shell() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = desk.done(&format!("completions {shell}"));
        assert!(script.contains("asof") && script.contains("restore"), "{shell}: {script}");
    }
}

#[test]
fn what_is_not_a_command_ends_with_2() {
    let desk = Desk::new();
    desk.refused("frobnicate", 2, &["frobnicate"]);
    desk.refused("restore prod", 2, &["--latest", "--target-time"]);
    desk.refused("restore prod --latest --target-xid 5", 2, &["cannot be used"]);
    desk.refused("backup create --rate 5X", 2, &["5X"]);
}

#[test]
fn a_name_may_be_left_out_only_when_there_is_one_instance() {
    let desk = Desk::with_repository();
    desk.refused("backup list", 3, &["no instance is configured", "asof instance add"]);
    let (desk, server) = with_server();
    desk.done("backup list");
    assert_eq!(desk.add("other", &server.conninfo()).code, 0);
    desk.refused("backup list", 3, &["more than one instance", "other, prod"]);
    desk.refused("backup list nobody", 3, &["nobody", "other, prod"]);
    desk.done("backup list other");
}

// Servers.

#[test]
fn a_wrong_password_is_a_missing_right_and_names_the_server() {
    let (desk, server) = with_server();
    let before = desk.read("asof.toml");
    let said = desk.add("remote", &format!("{} password=wrong", server.conninfo_tcp()));
    let place = format!("127.0.0.1:{}", server.port());
    said.must("instance add", 6, &[&place, "password authentication failed"]);
    let said = desk.add("remote", &server.conninfo_tcp());
    said.must("instance add", 6, &[&place, "password"]);
    assert_eq!(desk.read("asof.toml"), before);
}

#[test]
fn a_dead_server_is_told_from_a_failure_by_code_5() {
    let (desk, mut server) = with_server();
    let place = server.socket_dir().display().to_string();
    server.stop();
    desk.refused("backup create", 5, &[&place, "not available"]);
    desk.add("other", &server.conninfo_tcp()).must("instance add", 5, &[&format!("127.0.0.1:{}", server.port())]);
    desk.refused("check", 3, &["checks failed"]);
    let status = json(&desk.done("status --json"));
    assert!(status[0]["server_error"].as_str().is_some_and(|text| text.contains("not available")), "{status}");
    assert_eq!(status[0]["exposure_bytes"], Value::Null);
}

#[test]
fn a_password_stands_neither_in_the_configuration_nor_on_a_command_line() {
    let (desk, server) = with_server();
    let said = desk.add("remote", &format!("{} password={PASSWORD}", server.conninfo_tcp()));
    assert_eq!(said.code, 0, "{said:?}");
    assert!(!(said.out + &said.err + &desk.read("asof.toml")).contains(PASSWORD));
    let passfile = desk.path("asof-remote.pgpass");
    assert!(mode(&passfile) == 0o600 && desk.read("asof-remote.pgpass").contains(PASSWORD));
    desk.done("backup create remote --name first");
    let program_path = server.bin_dir().display().to_string();
    desk.done(&format!("restore remote --latest --as copy --bindir {program_path}"));
    let pid = desk.read("instances/copy/data/postmaster.pid");
    let pid = pid.lines().next().expect("a pid");
    let secret = desk.read("asof.key").lines().last().expect("a secret").to_owned();
    for file in ["cmdline", "environ"] {
        let seen = fs::read(format!("/proc/{pid}/{file}")).expect("the restored server runs");
        let seen = String::from_utf8_lossy(&seen);
        assert!(!seen.contains(PASSWORD) && !seen.contains(&secret), "{file}: {seen}");
    }
    desk.done("instance destroy copy --no-final-snapshot --yes");
    assert!(!desk.path("instances/copy/data").exists());
    // The backup and what it recorded of the server hold no password either, in whatever form it is listed.
    assert!(!desk.done("backup list remote --json").contains(PASSWORD));
}

#[test]
fn a_server_of_the_user_s_is_neither_started_nor_stopped_nor_destroyed() {
    let (desk, server) = with_server();
    for words in ["instance start prod", "instance stop prod", "instance destroy prod --yes"] {
        desk.refused(words, 3, &["prod is not a server that asof made"]);
    }
    assert_eq!(server.psql("select 1"), "1");
}

// Backups.

#[test]
fn a_backup_name_that_is_taken_is_refused() {
    let (desk, _server) = protected();
    desk.refused("backup create prod --name first", 3, &["\"first\" already", "--name"]);
    assert_eq!(json(&desk.done("backup list --json")).as_array().map(Vec::len), Some(1));
}

#[test]
fn a_held_backup_is_not_deleted_before_it_is_released() {
    let (desk, _server) = protected();
    desk.done("backup hold first --reason audit");
    desk.refused("backup delete first", 3, &["first is held: audit", "asof backup release first"]);
    assert!(desk.done("backup list").contains("held: audit"));
    desk.done("backup release first");
    desk.done("backup delete first");
    desk.refused("backup show first", 3, &["no backup \"first\""]);
    desk.refused("restore --latest --dry-run", 3, &["no backup"]);
}

#[test]
fn a_write_only_key_backs_up_and_lists_and_can_neither_restore_nor_delete() {
    let (desk, _server) = protected();
    desk.done("key add host --write-only --out host.key");
    desk.write("asof.toml", &desk.read("asof.toml").replace("asof.key", "host.key"));
    desk.done("backup create --name second");
    let backups = desk.done("backup list");
    for words in [
        "restore --latest --dry-run",
        "restore --latest --to restored",
        "backup delete first",
        "backup hold first",
        "backup tag first a=b",
        "key add third --out third.key",
        "key export",
    ] {
        desk.refused(words, 6, &["write-only key"]);
    }
    assert!(!desk.path("restored").exists() && !desk.path("third.key").exists());
    assert_eq!(desk.done("backup list"), backups);
    assert!(backups.contains("first") && backups.contains("second"));
}

#[test]
fn every_list_is_also_json() {
    let (desk, _server) = protected();
    for (words, entry) in [
        ("instance list", "name"),
        ("backup list", "name"),
        ("key list", "label"),
        ("status", "instance"),
        ("check", "check"),
    ] {
        let list = json(&desk.done(&format!("{words} --json")));
        assert!(list[0][entry].is_string(), "{words}: {list}");
    }
    for (words, entry) in [
        ("instance show", "name"),
        ("backup show first", "name"),
        ("backup create --name second", "name"),
        ("wal status", "slot"),
        ("restore --latest --dry-run", "replay_to"),
        ("restore --latest --to restored", "directory"),
    ] {
        let one = json(&desk.done(&format!("{words} --json")));
        assert!(one[entry].is_string(), "{words}: {one}");
    }
}

// Restores.

#[test]
fn a_time_without_an_offset_is_refused_with_one_that_could_be_meant() {
    let (desk, _server) = protected();
    let words = "restore --dry-run --target-time 2026-11-20T10:30:00";
    desk.refused(words, 3, &["has no time zone", "2026-11-20T10:30:00Z", "2026-11-20T10:30:00+02:00"]);
    desk.refused("restore --dry-run --target-time yesterday", 3, &["\"yesterday\" is not a time", "offset"]);
    desk.refused("restore --dry-run --target-lsn five", 3, &["\"five\" is not a WAL position", "2/A3F10028"]);
}

#[test]
fn the_times_that_are_shown_can_be_restored_to() {
    let (desk, server) = with_server();
    let printed = desk.done("backup create --name first");
    let line = printed.lines().find_map(|line| line.trim().strip_prefix("restorable from "));
    let shown = line.expect("the report says from when on").trim_end_matches(" on").to_owned();
    let status = json(&desk.done("status --json"))[0]["earliest_restorable_time"].as_str().expect("a time").to_owned();
    let stopped = json(&desk.done("backup show first --json"))["stopped"].as_str().expect("a time").to_owned();
    // A later backup shows that nothing happened up to then, so that the times are inside of the window.
    server.psql("select pg_sleep(1)");
    server.psql("create table later ()");
    desk.done("backup create --name second");
    desk.done("backup delete second");
    let latest = json(&desk.done("status --json"))[0]["latest_restorable_time"].as_str().expect("a time").to_owned();
    for time in [&status, &stopped, &latest] {
        desk.done(&format!("restore --dry-run --target-time {time}"));
    }
    let said = desk.asof(&format!("restore --dry-run --target-time {shown}"));
    assert!(!said.err.contains("before the oldest backup"), "{shown}: {said:?}");
}

#[test]
fn targets_outside_of_the_window_say_where_it_begins_or_ends() {
    let (desk, _server) = protected();
    desk.refused("restore --dry-run --target-time 2001-01-01T00:00:00Z", 3, &["before the oldest backup", "ended at"]);
    desk.refused("restore --dry-run --target-time 2101-01-01T00:00:00Z", 3, &["latest restorable time", "--latest"]);
    desk.refused("restore --dry-run --target-lsn F0/0", 3, &["not in the stored WAL", "ends at"]);
    desk.refused("restore --dry-run --target-name nothing", 3, &["restore point \"nothing\""]);
    desk.refused("restore --dry-run --target-xid 4000000", 3, &["transaction 4000000"]);
    desk.refused("restore --dry-run --latest --backup third", 3, &["no backup \"third\""]);
}

#[test]
fn a_restore_onto_something_is_refused_and_changes_nothing() {
    let (desk, _server) = protected();
    desk.write("taken/file", "mine");
    desk.refused("restore --latest --to taken", 3, &["taken is not empty"]);
    assert_eq!(desk.read("taken/file"), "mine");
    assert_eq!(fs::read_dir(desk.path("taken")).expect("listed").count(), 1);
    let before = desk.read("asof.toml");
    desk.refused("restore --latest --as prod", 3, &["an instance \"prod\" already"]);
    desk.write("instances/copy/data/file", "mine");
    desk.refused("restore --latest --as copy", 3, &["is not empty"]);
    assert_eq!(fs::read_dir(desk.path("instances/copy/data")).expect("listed").count(), 1);
    assert_eq!(desk.read("asof.toml"), before);
    desk.refused("restore --latest", 3, &["where to restore to", "--as", "--to"]);
}

#[test]
fn a_restored_instance_is_where_the_restore_says_and_leaves_a_final_snapshot() {
    let (desk, server) = protected();
    let printed = desk.done(&format!("restore --latest --as copy --bindir {}", server.bin_dir().display()));
    let line = |name: &str| printed.lines().find_map(|line| line.trim().strip_prefix(name)).expect("a line").trim();
    assert!(fs::read_to_string(line("log ")).is_ok_and(|log| log.contains("ready to accept connections")), "{printed}");
    let port = json(&desk.done("instance show copy --json"))["port"].to_string();
    let socket =
        Path::new(line("psql ").split(' ').nth(2).expect("psql -h DIRECTORY")).join(format!(".s.PGSQL.{port}"));
    assert!(socket.exists(), "{printed}");
    assert_eq!(desk.done("instance connection copy"), format!("postgresql://postgres@localhost:{port}/postgres\n"));
    for words in ["instance stop copy", "instance stop copy", "instance start copy"] {
        desk.done(words);
    }
    desk.refused("instance start copy", 3, &["runs", "already"]);
    desk.refused("instance remove copy", 3, &["asof instance destroy copy"]);
    desk.refused("instance destroy copy", 3, &["nothing was destroyed", "--yes"]);
    desk.done("instance destroy copy --yes");
    assert!(!desk.path("instances/copy/data").exists() && !desk.read("asof.toml").contains("copy"));
    desk.write("asof.toml", &(desk.read("asof.toml") + "\n[instances.copy]\n"));
    assert!(desk.done("backup list copy").contains("copy-final-"));
    desk.done("restore copy --latest --dry-run");
}

#[test]
fn the_owner_of_restored_files_gets_through_the_directories_above_them() {
    let (desk, _server) = protected();
    desk.done("restore --latest --to new/deep/restored");
    assert_eq!([mode(&desk.path("new")) & 0o111, mode(&desk.path("new/deep")) & 0o111], [0o111; 2]);
    assert_eq!(mode(&desk.path("new/deep/restored")), 0o700);
}

// Single WAL files.

#[test]
fn wal_get_ends_with_0_for_a_file_1_for_none_and_200_when_nobody_can_tell() {
    let (desk, server) = protected();
    let stored = server.psql("select pg_walfile_name(pg_switch_wal())");
    let pushed = server.data_dir().join("pg_wal").join(&stored);
    desk.done(&format!("wal push {}", pushed.display()));
    desk.done(&format!("wal get {stored} got"));
    assert_eq!(fs::read(desk.path("got")).expect("written"), fs::read(&pushed).expect("readable"));
    desk.refused("wal get 0000000100000000000000F0 absent", 1, &["0000000100000000000000F0"]);
    desk.refused("wal get 00000009.history absent", 1, &["00000009.history"]);
    desk.refused("wal get nonsense absent", 200, &["nonsense"]);
    fs::rename(desk.path("repository"), desk.path("unmounted")).expect("moved");
    desk.refused(&format!("wal get {stored} absent"), 200, &[]);
    assert!(!desk.path("absent").exists());
}

#[test]
fn wal_get_fetches_ahead_and_leaves_nothing_when_it_has_handed_out_all_there_is() {
    let (desk, server) = protected();
    let pg_wal = server.data_dir().join("pg_wal");
    let push = |_| {
        let name =
            server.psql("select pg_logical_emit_message(true, 'a', 'b'); select pg_walfile_name(pg_switch_wal())");
        let name = name.lines().last().expect("a name").to_owned();
        desk.done(&format!("wal push {}", pg_wal.join(&name).display()));
        name
    };
    let names: Vec<String> = (0..11).map(push).collect();
    fs::create_dir(desk.path("in")).expect("made");
    desk.done(&format!("wal get {} in/RECOVERYXLOG", names[0]));
    // Another process fetches what follows.
    let lineage =
        fs::read_dir(desk.path("repository/l")).expect("listed").next().expect("one").expect("read").file_name();
    let ahead = desk.path("in/asof-prefetch").join(lineage);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !ahead.join(&names[8]).exists() {
        assert!(Instant::now() < deadline, "the eighth segment ahead was not fetched");
        std::thread::yield_now();
    }
    assert!(!ahead.join(&names[9]).exists(), "it is bounded");
    // Its WAL is not asked for any more; only what is ready can be handed out.
    let wal = ahead.file_name().map(|lineage| desk.path("repository/l").join(lineage).join("wal")).expect("a name");
    fs::rename(&wal, desk.path("unmounted")).expect("moved");
    for name in &names[1..5] {
        desk.done(&format!("wal get {name} in/RECOVERYXLOG"));
        assert_eq!(
            fs::read(desk.path("in/RECOVERYXLOG")).expect("written"),
            fs::read(pg_wal.join(name)).expect("readable")
        );
    }
    // A file that is cut is as good as none.
    fs::write(ahead.join(&names[5]), "short").expect("written");
    desk.refused(&format!("wal get {} in/RECOVERYXLOG", names[5]), 1, &[&names[5]]);
    assert!(!desk.path("in/asof-prefetch").exists(), "the server has all there is");
    fs::rename(desk.path("unmounted"), &wal).expect("moved");
    desk.done(&format!("wal get {} in/RECOVERYXLOG", names[10]));
}

#[test]
fn wal_push_refuses_a_file_that_is_not_a_finished_segment() {
    let (desk, server) = protected();
    let current = server.psql("create table t (); select pg_walfile_name(pg_current_wal_lsn())");
    let before = desk.done("wal status --json");
    desk.refused(
        &format!("wal push {}", server.data_dir().join("pg_wal").join(current).display()),
        4,
        &["valid WAL ends at"],
    );
    desk.write("0000000100000000000000F0", "short");
    desk.refused("wal push 0000000100000000000000F0", 4, &["0000000100000000000000F0"]);
    assert_eq!(desk.done("wal status --json"), before);
}
