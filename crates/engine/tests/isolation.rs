//! A restored instance beside its production: it runs, takes writes, and touches nothing of production's (rule 8).

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use asof_engine::progress::Silent;
use asof_engine::restore::{self, Existing, NewInstance, RestoreRequest, Restored, WriteOptions};
use asof_engine::runtime::{self, Instance, Reached, StopMode};
use asof_engine::target::Target;
use asof_testkit::{Options, Server, majors};
use asof_world::World;

use asof_engine::wal::stream::Pace;
use support::{Protected, chain};

/// A restored instance, which ends with the value.
struct Copy {
    world: World,
    data: PathBuf,
}

impl Copy {
    async fn stop(&self) {
        runtime::stop(&self.world, &self.data, StopMode::Fast).await.expect("stops");
    }
}

impl Drop for Copy {
    /// Ends the server of a test that failed: by the number in its own pid file, if that process stands in its directory.
    #[expect(clippy::disallowed_methods, reason = "a destructor cannot await the world")]
    fn drop(&mut self) {
        let text = std::fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let Some(pid) = text.lines().next().and_then(|line| line.parse::<u32>().ok()) else { return };
        if std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == self.data) {
            let _ = Command::new("sh").args(["-c", &format!("kill -QUIT {pid}")]).status();
            while std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok() {
                std::thread::yield_now();
            }
        }
    }
}

fn ask(instance: &Instance, production: &Server, sql: &str) -> String {
    let mut psql = production.tool("psql");
    psql.env("PGHOST", &instance.socket_directory).env("PGPORT", instance.port.to_string());
    answer(psql, sql)
}

fn answer(mut psql: Command, sql: &str) -> String {
    let output = psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]).output().expect("psql runs");
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// Whether a commit returns. One that waits for production's standbys is ended by no timeout of the server's, so it is
/// looked for: then it fails instead of hanging.
async fn commit(world: &World, psql: impl Fn() -> Command, sql: &str) {
    let (writer, sql) = (psql(), sql.to_owned());
    let committing = world.blocking(move || answer(writer, &sql));
    let waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    let watching = async {
        loop {
            assert_eq!(answer(psql(), waits), "0", "a commit of the copy waits for a standby");
            world.sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    futures::future::select(Box::pin(committing), Box::pin(watching)).await;
}

#[expect(clippy::disallowed_methods, reason = "the test looks at the real files behind the servers' back")]
fn names_in(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).expect("can be listed");
    entries.map(|entry| entry.expect("is an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[expect(clippy::disallowed_methods, reason = "the test looks at the real files behind the servers' back")]
fn everything_in(directory: &Path) -> String {
    names_in(directory).iter().map(|name| std::fs::read_to_string(directory.join(name)).expect("is text")).collect()
}

/// A production with everything by which a copy could act on it.
struct Production {
    protected: Protected,
    archive: PathBuf,
    logs: PathBuf,
}

impl Production {
    async fn new(major: u32) -> Self {
        let config = [
            "wal_level = logical",
            "log_connections = on",
            "log_replication_commands = on",
            // The subscription is for the copy; its configuration is not this file.
            "max_logical_replication_workers = 0",
            "max_connections = 77",
        ];
        let mut protected = Protected::new(major, &Options::with_config(&config)).await;
        let (archive, logs) = (protected.server.work().directory("archive"), protected.server.work().directory("logs"));
        let server = &protected.server;
        let upstream = server.conninfo();
        server.psql("create table rows as select 1 as n; create publication everything for all tables");
        server.psql("select pg_create_logical_replication_slot('subscriber', 'pgoutput')");
        server.psql(&format!(
            "create subscription subscriber connection '{upstream}' publication everything with (connect = false); \
             alter subscription subscriber enable"
        ));
        for (name, value) in [
            ("archive_mode", "on".to_owned()),
            ("archive_command", format!("cp \"%p\" \"{}/%f\"", archive.display())),
            ("archive_cleanup_command", format!("touch \"{}/cleaned\"", archive.display())),
            ("recovery_end_command", format!("touch \"{}/recovered\"", archive.display())),
            ("logging_collector", "on".to_owned()),
            ("log_directory", logs.display().to_string()),
            ("external_pid_file", format!("{}/pid", logs.display())),
            ("primary_conninfo", format!("{upstream} application_name=follower")),
            ("primary_slot_name", "follower".to_owned()),
            // From here on no commit of production returns.
            ("synchronous_standby_names", "nobody".to_owned()),
        ] {
            server.psql(&format!("alter system set {name} = '{}'", value.replace('\'', "''")));
        }
        protected.server.restart();
        Self { protected, archive, logs }
    }
}

/// Restores beside the server; as a mere reader of its repository does.
async fn copy(protected: &mut Protected, target: Target, inclusive: bool) -> (Copy, Restored) {
    let directory = protected.work.directory("copy");
    let request = RestoreRequest { destination: directory.join("data"), ..protected.wanted(target, inclusive) };
    let Protected { world, server, shelf, repository, .. } = protected;
    let plan = restore::plan(shelf, &request).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let new = NewInstance {
        name: "copy".to_owned(),
        directory: directory.clone(),
        port: None,
        user: None,
        bindir: Some(server.bin_dir().to_owned()),
        path_variable: None,
        role: None,
        jobs: 2,
    };
    let prepared = restore::prepare(shelf, &plan, &new).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let copy = Copy { world: world.clone(), data: plan.destination.clone() };
    let restored = restore::into_instance(shelf, repository, &plan, &new, prepared, Arc::new(Silent)).await;
    (copy, restored.unwrap_or_else(|error| panic!("{}", chain(&error))))
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_d2_an_instance_restored_beside_production_takes_writes_and_touches_nothing_of_production() {
    for major in majors() {
        let mut production = Production::new(major).await;
        production.protected.backup("first").await;
        let lineage = production.protected.shelf.lineage;
        let slot_sql = "select confirmed_flush_lsn, active from pg_replication_slots where slot_name = 'subscriber'";
        let slot = production.protected.server.psql(slot_sql);
        let log_files = names_in(&production.logs);
        let (copy, restored) = copy(&mut production.protected, Target::Latest, true).await;
        let server = &production.protected.server;
        let instance = &restored.running.instance;
        assert_eq!(restored.running.reached, Reached::Open);
        assert_ne!(restored.lineage, lineage);

        // Its first commit returns; production does not see it.
        let psql = || {
            let mut psql = server.tool("psql");
            psql.env("PGHOST", &instance.socket_directory).env("PGPORT", instance.port.to_string());
            psql
        };
        commit(&copy.world, psql, "insert into rows values (2)").await;
        assert_eq!(ask(instance, server, "select count(*) from rows"), "2");
        assert_eq!(server.psql("select count(*) from rows"), "1");
        // Enough happens in it for whatever would archive, log or connect to do so.
        ask(instance, server, "checkpoint; select pg_switch_wal(); checkpoint");

        let shown = ask(instance, server, "select name || '=' || setting from pg_settings");
        let shown: BTreeMap<&str, &str> = shown.lines().filter_map(|line| line.split_once('=')).collect();
        for it in &instance.overrides {
            let value = match it.name.as_str() {
                // What the server shows for any command while archive_mode is off (`show_archive_command`).
                "archive_command" => "(disabled)",
                // Recovery was its last use; from the next start on it is the empty one that is recorded.
                "restore_command" => "false",
                _ => it.value.as_str(),
            };
            assert_eq!(shown.get(it.name.as_str()), Some(&value), "{} of {major}", it.name);
        }
        assert_eq!(shown["max_connections"], "77");
        assert_eq!(ask(instance, server, "select count(*) from pg_replication_slots"), "0");
        assert_eq!(ask(instance, server, "select subenabled from pg_subscription"), "t");
        let busy = "select count(*) from pg_stat_activity where backend_type in \
                    ('archiver', 'walreceiver', 'logical replication launcher', 'logical replication worker', 'logger')";
        assert_eq!(ask(instance, server, busy), "0");
        copy.stop().await;

        // The copy's timeline is the second one: nothing of it was archived.
        let archived = names_in(&production.archive);
        assert!(archived.iter().all(|name| name.starts_with("00000001")), "{archived:?}");
        assert_eq!(names_in(&production.logs), log_files);
        let log = everything_in(&production.logs);
        for foreign in
            ["application_name=follower", "application_name=subscriber", "START_REPLICATION SLOT \"subscriber\""]
        {
            assert!(!log.contains(foreign), "{foreign} arrived at production:\n{log}");
        }
        assert!(log.contains("connection authorized"), "production logs who connects");
        assert_eq!(server.psql(slot_sql), slot);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_directory_is_started_by_hand_without_acting_on_production() {
    let production = Production::new(majors()[0]).await;
    production.protected.backup("first").await;
    let log_files = names_in(&production.logs);
    let restored = production.protected.restored(&production.protected.wanted(Target::Latest, true)).await;
    commit(&production.protected.world, || restored.tool("psql"), "insert into rows values (2)").await;
    restored.psql("checkpoint; select pg_switch_wal(); checkpoint");
    assert_eq!(restored.psql("select count(*) from rows"), "2");
    assert_eq!(production.protected.server.psql("select count(*) from rows"), "1");
    for name in ["synchronous_standby_names", "primary_conninfo", "primary_slot_name", "external_pid_file"] {
        assert_eq!(restored.psql(&format!("show {name}")), "", "{name}");
    }
    for (name, value) in
        [("archive_mode", "off"), ("max_logical_replication_workers", "0"), ("logging_collector", "off")]
    {
        assert_eq!(restored.psql(&format!("show {name}")), value, "{name}");
    }
    drop(restored);
    let archived = names_in(&production.archive);
    assert!(archived.iter().all(|name| name.starts_with("00000001")), "{archived:?}");
    assert_eq!(names_in(&production.logs), log_files);
    assert!(!everything_in(&production.logs).contains("application_name=follower"));
}

/// Restarts the server with settings that name places outside of its data directory, and returns where they lie.
#[expect(clippy::disallowed_methods, reason = "the test changes the real files behind the server's back")]
fn lead_outside(server: &mut Server) -> PathBuf {
    server.psql("create table rows as select 1 as n; alter role postgres password 'correct-horse'");
    let (outside, data) = (server.work().directory("outside"), server.data_dir().to_owned());
    std::fs::rename(data.join("pg_hba.conf"), outside.join("hba")).expect("moved");
    std::fs::copy(data.join("pg_ident.conf"), outside.join("ident")).expect("copied");
    std::fs::write(outside.join("more.conf"), "work_mem = '5MB'\n").expect("written");
    // What is left of initdb's rules is not in force, and may not become so.
    server.write_data_file("pg_hba.conf", b"host all all 127.0.0.1/32 trust\n");
    server.write_data_file("own.conf", b"maintenance_work_mem = '7MB'\n");
    // As a socket in the data directory leaves it behind; this process lives.
    server.write_data_file(".s.PGSQL.1.lock", format!("{}\n", std::process::id()).as_bytes());
    let place = outside.display();
    let settings = format!(
        "data_directory = '{}'\nhba_file = '{place}/hba'\nexternal_pid_file = '{place}/pid'\n\
         unix_socket_directories = '{place}'\nlogging_collector = on\nlog_directory = '{place}'\n\
         include '{place}/more.conf'\ninclude 'own.conf'\n",
        data.display()
    );
    let configuration = std::fs::read_to_string(data.join("postgresql.conf")).expect("is text") + &settings;
    server.write_data_file("postgresql.conf", configuration.as_bytes());
    server.psql(&format!("alter system set ident_file = '{place}/ident'"));
    server.restart();
    outside
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "the test looks at the real files behind the servers' back")]
async fn a_restored_directory_needs_nothing_outside_of_itself_whatever_production_s_settings_name() {
    for major in majors() {
        let mut production = Protected::new(major, &Options::default()).await;
        let outside = lead_outside(&mut production.server);
        production.backup("first").await;
        // Production runs, and on another machine nothing would be at that place, nor the directory where it was restored.
        std::fs::remove_dir_all(&outside).expect("removed");
        let mut request = production.wanted(Target::Latest, true);
        let elsewhere = production.work.path().join("carried");
        for existing in [Existing::Refuse, Existing::Compare] {
            let plan = restore::plan(&production.owner, &request).await;
            let plan = plan.unwrap_or_else(|error| panic!("{}", chain(&error)));
            let options = WriteOptions { existing, jobs: 2, owner: None };
            let written = restore::write(&production.owner, &plan, options, Arc::new(Silent)).await;
            written.unwrap_or_else(|error| panic!("{}", chain(&error)));
            if existing == Existing::Refuse {
                std::fs::rename(&request.destination, &elsewhere).expect("carried away");
                request.destination.clone_from(&elsewhere);
            }
            let mut restored = Server::adopt_as_it_is(major, &elsewhere);
            restored.start();
            let psql = |password: &str| {
                let mut psql = restored.tool("psql");
                psql.env("PGPASSWORD", password);
                psql
            };
            let output = psql("wrong").args(["-c", "select 1"]).output().expect("psql runs");
            assert!(!output.status.success(), "{major} lets in whoever comes");
            let shown = |name: &str| answer(psql("correct-horse"), &format!("show {name}"));
            let directory = restored.data_dir();
            for (name, value) in [
                ("data_directory", directory.display().to_string()),
                ("config_file", directory.join("postgresql.conf").display().to_string()),
                ("hba_file", directory.join("pg_hba.conf").display().to_string()),
                ("ident_file", directory.join("pg_ident.conf").display().to_string()),
                ("external_pid_file", String::new()),
                ("unix_socket_directories", ".".to_owned()),
                ("logging_collector", "off".to_owned()),
                ("work_mem", "4MB".to_owned()),
                ("maintenance_work_mem", "7MB".to_owned()),
            ] {
                assert_eq!(shown(name), value, "{name} of {major}");
            }
            assert_eq!(answer(psql("correct-horse"), "select count(*) from rows"), "1");
            let port = restored.port();
            let sockets: Vec<_> =
                names_in(directory).into_iter().filter(|name| name.starts_with(".s.PGSQL.")).collect();
            assert_eq!(sockets, [format!(".s.PGSQL.{port}"), format!(".s.PGSQL.{port}.lock")], "{major}");
        }
        assert!(!outside.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_instance_has_its_settings_back_also_when_alter_system_rewrote_them() {
    let mut protected = Protected::new(majors()[0], &Options::default()).await;
    for setting in ["archive_mode = 'on'", "archive_command = 'true'", "work_mem = '7MB'"] {
        protected.server.psql(&format!("alter system set {setting}"));
    }
    protected.server.restart();
    protected.backup("first").await;
    let (copy, restored) = copy(&mut protected, Target::Latest, true).await;
    let (server, instance) = (&protected.server, &restored.running.instance);
    let shown = |name: &str| ask(instance, server, &format!("show {name}"));
    assert_eq!(shown("archive_mode"), "off");
    // PostgreSQL writes the file anew, without comments.
    ask(instance, server, "alter system set statement_timeout = '7s'");
    runtime::adopt(&protected.world, &instance.run_directory, &Silent)
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    for (name, value) in
        [("archive_mode", "on"), ("archive_command", "true"), ("work_mem", "7MB"), ("statement_timeout", "7s")]
    {
        assert_eq!(shown(name), value, "{name}");
    }
    copy.stop().await;
}

/// What restores and standbys of years leave in `postgresql.auto.conf`, with the majors that know it: every sort of target, more
/// than one at a time, and what makes a server follow, wait, or not start on another machine.
const LEFTOVERS: &[(&str, &str, std::ops::RangeInclusive<u32>)] = &[
    ("recovery_target", "immediate", 13..=18),
    ("recovery_target_time", "2020-02-02 02:02:02+00", 13..=18),
    ("recovery_target_xid", "3", 13..=18),
    ("recovery_target_lsn", "0/28", 13..=18),
    ("recovery_target_timeline", "7", 13..=18),
    ("recovery_target_inclusive", "off", 13..=18),
    ("recovery_target_action", "shutdown", 13..=18),
    ("recovery_min_apply_delay", "1h", 13..=18),
    ("recovery_end_command", "exit 1", 13..=18),
    ("restore_command", "exit 255", 13..=18),
    ("archive_cleanup_command", "exit 1", 13..=18),
    ("archive_mode", "on", 13..=18),
    ("archive_command", "exit 1", 13..=18),
    ("archive_library", "basic_archive", 15..=18),
    ("primary_conninfo", "host=production.invalid", 13..=18),
    ("primary_slot_name", "mine", 13..=18),
    ("promote_trigger_file", "/", 13..=15),
    ("synchronous_standby_names", "nobody", 13..=18),
    ("hot_standby", "off", 13..=18),
    ("stats_temp_directory", "/nonexistent", 13..=14),
    ("unix_socket_group", "nonexistent", 13..=18),
    ("session_preload_libraries", "nonexistent", 13..=18),
    ("local_preload_libraries", "nonexistent", 13..=18),
    ("log_destination", "csvlog", 13..=18),
    ("logging_collector", "on", 13..=18),
    ("log_directory", "/nonexistent", 13..=18),
];

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_earlier_recoveries_left_behind_keep_neither_kind_of_restore_from_its_target() {
    for major in majors() {
        let options = Options::with_config(&["recovery_target_name = 'older'", "max_connections = 77"]);
        let mut production = Protected::new(major, &options).await;
        for (name, value, _) in LEFTOVERS.iter().filter(|(_, _, majors)| majors.contains(&major)) {
            // Written down, and not in force: with two targets it would not start again itself.
            production.server.psql(&format!("alter system set {name} = '{value}'"));
        }
        production.server.psql("create table rows as select 1 as n");
        production.backup("first").await;
        let receiver = production.receiver(Pace::AtOnce);
        production.server.psql("insert into rows values (2)");
        let target = receiver.catch_up(&production.server).await;
        production.server.psql("insert into rows values (3)");
        receiver.catch_up(&production.server).await;
        receiver.stop().await;

        let by_hand = production.restored(&production.wanted(Target::Lsn(target), false)).await;
        assert_eq!(by_hand.psql("select count(*) from rows"), "2", "{major}");
        commit(&production.world, || by_hand.tool("psql"), "insert into rows values (4)").await;
        let (copy, restored) = copy(&mut production, Target::Lsn(target), false).await;
        assert_eq!(restored.running.reached, Reached::Open);
        let instance = &restored.running.instance;
        assert_eq!(ask(instance, &production.server, "select count(*) from rows"), "2", "{major}");
        // Neither of the two knows a setting of production's that the other does not know to be dangerous.
        for it in instance.overrides.iter().filter(|it| !OWN_PLACES.contains(&it.name.as_str())) {
            let shown = format!("select setting from pg_settings where name = '{}'", it.name);
            let both = [ask(instance, &production.server, &shown), by_hand.psql(&shown)];
            assert_eq!(both[0], both[1], "{} of {major}", it.name);
        }
        copy.stop().await;
    }
}

/// What only a server that Asof runs has: places of its own.
const OWN_PLACES: [&str; 7] = [
    "config_file",
    "hba_file",
    "ident_file",
    "port",
    "unix_socket_directories",
    "unix_socket_permissions",
    "log_directory",
];
