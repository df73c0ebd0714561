//! Servers of ours beside production: isolated, found again, and never mistaken for another's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use asof_engine::progress::{Event, Observer, Silent};
use asof_engine::runtime::{
    self, Endpoint, Instance, Reached, Recovery, ServerSpec, ServerUser, Status, StopMode, TargetAction, find_binaries,
};
use asof_postgres::control::{ControlFile, StandbyMinimums};
use asof_postgres::lsn::{Lsn, Timeline};
use asof_postgres::version::Major;
use asof_testkit::{Options, Server, Workdir, majors};
use asof_world::{Id, World};

/// A copy of production's data directory, made while production was stopped, and what runs on it.
struct Copy {
    work: Workdir,
    world: World,
    spec: ServerSpec,
}

impl Copy {
    async fn of(production: &mut Server) -> Self {
        let (work, world) = (Workdir::new("runtime"), World::real());
        production.stop();
        let data = work.path().join("data");
        let copied = Command::new("cp").arg("-a").arg(production.data_dir()).arg(&data).status().expect("cp runs");
        assert!(copied.success());
        production.start();
        let major = Major::from_number(production.major()).expect("a supported major");
        let binaries = find_binaries(&world, major, Some(production.bin_dir()), None).await.expect("finds them");
        let user = ServerUser::choose(&world, None, None).await.expect("there is one");
        let spec = ServerSpec {
            minimums: minimums(&data),
            run_directory: work.path().join("run"),
            data_directory: data,
            binaries,
            user,
            role: "postgres".to_owned(),
            port: None,
            libraries: Vec::new(),
            recovery: None,
            settings: BTreeMap::from([("fsync".to_owned(), "off".to_owned())]),
            environment: BTreeMap::new(),
            lineage: None,
        };
        Self { work, world, spec }
    }

    async fn start(&self) -> runtime::Running {
        match runtime::start(&self.world, &self.spec, &Silent).await {
            Ok(running) => running,
            Err(error) => panic!("{error}\n{}", error.hint().unwrap_or_default()),
        }
    }

    async fn status(&self) -> Status {
        runtime::status(&self.world, &self.spec.data_directory).await.expect("can be told")
    }

    async fn stop(&self) {
        runtime::stop(&self.world, &self.spec.data_directory, StopMode::Fast).await.expect("stops");
    }
}

impl Drop for Copy {
    /// Ends the server of a test that failed: by the number in its own pid file, if that process stands in its directory.
    #[expect(clippy::disallowed_methods, reason = "a destructor cannot await the world")]
    fn drop(&mut self) {
        let data = &self.spec.data_directory;
        let text = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        let Some(pid) = text.lines().next().and_then(|line| line.parse::<u32>().ok()) else { return };
        if std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == *data) {
            let _ = Command::new("sh").args(["-c", &format!("kill -QUIT {pid}")]).status();
            while std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok() {
                std::thread::yield_now();
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the test looks at the real files behind the server's back")]
fn minimums(data: &Path) -> StandbyMinimums {
    let bytes = std::fs::read(data.join("global/pg_control")).expect("is there");
    ControlFile::parse(&bytes).expect("is valid").standby_minimums
}

fn psql(instance: &Instance, production: &Server, sql: &str) -> String {
    let mut psql = production.tool("psql");
    psql.env("PGHOST", &instance.socket_directory).env("PGPORT", instance.port.to_string());
    let output = psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]).output().expect("psql runs");
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

#[expect(clippy::disallowed_methods, reason = "the test plants files that the engine must not trust")]
fn plant(path: PathBuf, text: &str) {
    std::fs::write(&path, text).expect("can be written");
}

#[expect(clippy::disallowed_methods, reason = "the test looks at the real files behind the server's back")]
fn exists(path: &Path) -> bool {
    path.exists()
}

/// Settings with which a copy would act as production, or not start at all.
const HOSTILE: &str = "\
archive_mode = on
archive_command = 'touch /dev/null'
synchronous_standby_names = 'nobody'
primary_conninfo = 'host=production.invalid'
primary_slot_name = 'asof'
external_pid_file = '/nonexistent/pid'
log_directory = '/nonexistent/log'
logging_collector = on
shared_preload_libraries = 'no_such_library'
session_preload_libraries = 'no_such_library'
unix_socket_directories = '/nonexistent'
listen_addresses = '*'
hba_file = '/nonexistent/pg_hba.conf'
restore_command = 'false'
recovery_target_time = '2001-01-01'
max_connections = 20
port = 1
";

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_runs_beside_production_with_our_settings_in_force() {
    for major in majors() {
        let mut production = Server::running(major, &Options::with_config(&["max_connections = 77"]));
        production.psql("create table t as select 42 as n");
        let mut copy = Copy::of(&mut production).await;
        copy.spec.settings.insert("archive_mode".to_owned(), "on".to_owned());
        plant(copy.spec.data_directory.join("postgresql.auto.conf"), HOSTILE);
        let running = copy.start().await;
        assert_eq!(running.reached, Reached::Open);
        let instance = &running.instance;
        assert_eq!(psql(instance, &production, "show max_connections"), "77");
        let shown = psql(instance, &production, "select name || '=' || setting from pg_settings");
        let shown: BTreeMap<&str, &str> = shown.lines().filter_map(|line| line.split_once('=')).collect();
        for it in &instance.overrides {
            // What the server shows for any command while archive_mode is off (`show_archive_command`).
            let value = if it.name == "archive_command" { "(disabled)" } else { it.value.as_str() };
            assert_eq!(shown.get(it.name.as_str()), Some(&value), "{} of {major}", it.name);
        }
        assert_eq!(psql(instance, &production, "create table committed as select n from t; table committed"), "42");
        assert_eq!(production.psql("select count(*) from pg_class where relname = 'committed'"), "0");

        let Status::Running { pid, port, ready, .. } = copy.status().await else { panic!("it runs") };
        assert_eq!((pid, port, ready), (running.pid, Some(instance.port), true));
        let again = runtime::start(&copy.world, &copy.spec, &Silent).await.expect_err("one server is enough");
        assert!(again.to_string().contains("runs on"), "{again}");
        copy.stop().await;
        assert_eq!(copy.status().await, Status::Stopped);
        assert_eq!(production.psql("select n from t"), "42");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_ours_is_started_again_and_destroyed_by_its_record_alone() {
    let mut production = Server::running(15, &Options::default());
    let place = production.tablespace_dir("kept");
    production.psql(&format!("create tablespace kept location '{}'", place.display()));
    let copy = Copy::of(&mut production).await;
    let first = copy.start().await;
    psql(&first.instance, &production, "create table t as select 42 as n");
    copy.stop().await;
    let run = &copy.spec.run_directory;
    let second = runtime::start_again(&copy.world, run, BTreeMap::new(), &Silent).await.expect("starts");
    assert_eq!(second.instance, first.instance);
    let mut recorded = second.instance.clone();
    recorded.record_lineage(&copy.world, Id([7; 16])).await.expect("is written");
    let read = Instance::read(&copy.world, run).await.expect("is read");
    assert_eq!(read.lineage, Some("07".repeat(16)));
    assert_eq!(psql(&second.instance, &production, "select n from t"), "42");
    assert_eq!(Endpoint::of(&second.instance, "postgres", "ann").port, first.instance.port);

    let error = runtime::destroy(&copy.world, run).await.expect_err("it runs");
    assert!(error.to_string().contains("runs (process"), "{error}");
    copy.stop().await;
    let destroyed = runtime::destroy(&copy.world, run).await.expect("is destroyed");
    assert_eq!(destroyed.left, [place]);
    assert!(!exists(&copy.spec.data_directory) && !exists(run));
    assert!(exists(copy.work.path()));
    assert_eq!(production.psql("select 1"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_without_the_marker_of_the_instance_is_not_destroyed() {
    let mut production = Server::running(15, &Options::default());
    let copy = Copy::of(&mut production).await;
    copy.start().await;
    copy.stop().await;
    let marker = copy.spec.data_directory.join(runtime::MARKER);
    plant(marker, "{\"format\": 0, \"id\": \"another\"}");
    let error = runtime::destroy(&copy.world, &copy.spec.run_directory).await.expect_err("is refused");
    assert!(error.to_string().contains("does not carry the marker"), "{error}");
    assert!(exists(&copy.spec.data_directory.join("PG_VERSION")));
    let error = runtime::destroy(&copy.world, &copy.spec.data_directory.join("base")).await.expect_err("is refused");
    assert!(error.to_string().contains("holds no instance of asof"), "{error}");
}

/// Fills production with two tables, and says where the record after the first commit begins.
async fn production_with_a_target() -> (Server, Copy, Lsn) {
    let mut production = Server::running(15, &Options::default());
    let copy = Copy::of(&mut production).await;
    production.psql("create table before as select 1 as n");
    let target = production.psql("select pg_current_wal_insert_lsn()").parse().expect("an LSN");
    production.psql("create table after as select 1 as n; select pg_switch_wal()");
    (production, copy, target)
}

fn recovery(production: &Server, target_lsn: Option<Lsn>, action: TargetAction) -> Option<Recovery> {
    let restore_command = format!("cp '{}/pg_wal/%f' '%p'", production.data_dir().display());
    Some(Recovery { target_lsn, timeline: Timeline(1), action, restore_command })
}

#[derive(Default)]
struct Notes(Mutex<Vec<Event>>);

impl Observer for Notes {
    fn event(&self, event: Event) {
        self.0.lock().expect("nobody panicked").push(event);
    }
}

const TABLES: &str =
    "select string_agg(relname, ' ' order by relname) from pg_class where relname in ('before', 'after')";

#[tokio::test(flavor = "multi_thread")]
async fn recovery_to_the_end_opens_a_new_timeline_and_forgets_its_plan() {
    let (production, mut copy, _) = production_with_a_target().await;
    copy.spec.recovery = recovery(&production, None, TargetAction::Promote);
    let notes = Notes::default();
    let running = runtime::start(&copy.world, &copy.spec, &notes).await.expect("recovers");
    assert_eq!(running.reached, Reached::Open);
    assert!(running.replayed.is_some());
    assert_eq!(psql(&running.instance, &production, TABLES), "after before");
    let timeline = "select timeline_id from pg_control_checkpoint()";
    psql(&running.instance, &production, "checkpoint");
    assert_eq!(psql(&running.instance, &production, timeline), "2");
    assert_eq!(running.instance.recovery, None);
    let read = Instance::read(&copy.world, &copy.spec.run_directory).await.expect("is recorded");
    assert_eq!(read, running.instance);
    assert!(read.overrides.iter().any(|it| it.name == "restore_command" && it.value.is_empty()));
    assert_eq!(notes.0.lock().expect("nobody panicked").first(), Some(&Event::Phase("recovery")));
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_pauses_or_ends_at_its_target_as_it_was_told_to() {
    let (production, mut copy, target) = production_with_a_target().await;
    copy.spec.recovery = recovery(&production, Some(target), TargetAction::Pause);
    let running = copy.start().await;
    assert_eq!(running.reached, Reached::PausedAtTarget);
    assert!(running.replayed.is_some_and(|lsn| lsn > target));
    assert_eq!(psql(&running.instance, &production, TABLES), "before");
    copy.stop().await;
    copy.spec.recovery = recovery(&production, Some(target), TargetAction::Shutdown);
    assert_eq!(copy.start().await.reached, Reached::ShutDownAtTarget);
    assert_eq!(copy.status().await, Status::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_never_reached_fails_with_the_server_s_reason() {
    let (production, mut copy, _) = production_with_a_target().await;
    copy.spec.recovery = recovery(&production, Some(Lsn(0xFF_0000_0000)), TargetAction::Promote);
    let error = runtime::start(&copy.world, &copy.spec, &Silent).await.expect_err("there is no such record");
    assert!(error.to_string().contains("recovery ended before configured recovery target was reached"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains(&*copy.spec.run_directory.to_string_lossy())));
    assert!(!matches!(copy.status().await, Status::Running { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_start_says_why() {
    let mut production = Server::running(15, &Options::default());
    let mut copy = Copy::of(&mut production).await;
    copy.spec.settings.insert("no_such_setting".to_owned(), "1".to_owned());
    let error = runtime::start(&copy.world, &copy.spec, &Silent).await.expect_err("nobody knows the setting");
    assert!(error.to_string().contains("FATAL:  unrecognized configuration parameter"), "{error}");

    copy.spec.settings.clear();
    copy.spec.role = "nobody".to_owned();
    let error = runtime::start(&copy.world, &copy.spec, &Silent).await.expect_err("the role does not exist");
    assert!(error.to_string().contains("refuses the role nobody: role \"nobody\" does not exist"), "{error}");
    assert_eq!(copy.status().await, Status::Stopped);

    plant(copy.spec.data_directory.join("standby.signal"), "");
    let error = runtime::start(&copy.world, &copy.spec, &Silent).await.expect_err("it would follow production");
    assert!(error.to_string().contains("standby of production"), "{error}");
}

/// A process that is nobody's server.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_the_server_s_number_is_never_stopped() {
    let mut production = Server::running(15, &Options::default());
    let copy = Copy::of(&mut production).await;
    let pid_file = copy.spec.data_directory.join("postmaster.pid");
    assert_eq!(copy.status().await, Status::Stopped);

    // A pid file that was copied from a running server names a true server, of another directory.
    let other = production.pid().expect("production runs");
    plant(pid_file.clone(), &format!("{other}\n/data\n1\n5432\n/tmp\n\n1 2\nready\n"));
    assert_eq!(copy.status().await, Status::Stale { pid: other });
    copy.stop().await;
    assert_eq!(production.psql("select 1"), "1");

    // A process that stands in the directory and is no server.
    let sleep = Command::new("sleep").arg("1000").current_dir(&copy.spec.data_directory).stdin(Stdio::null()).spawn();
    let mut stranger = Stranger(sleep.expect("sleep runs"));
    let number = stranger.0.id();
    plant(pid_file.clone(), &format!("{number}\n/data\n"));
    assert_eq!(copy.status().await, Status::Stale { pid: number });
    copy.stop().await;
    assert!(stranger.0.try_wait().expect("can be asked").is_none(), "it still runs");
    drop(stranger);
    assert_eq!(copy.status().await, Status::Stale { pid: number });
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_are_found_by_major_and_what_was_found_instead_is_said() {
    let (world, server) = (World::real(), Server::init(15, &Options::default()));
    let found = find_binaries(&world, Major::V15, Some(server.bin_dir()), None).await.expect("are there");
    assert!(found.version.starts_with("15."), "{}", found.version);
    assert_eq!(found.has_extension("plpgsql"), Some(true));
    assert_eq!(found.has_extension("no_such_extension"), Some(false));
    assert_eq!(found.has_library("$libdir/plpgsql"), Some(true));
    let error = find_binaries(&world, Major::V16, Some(server.bin_dir()), None).await.expect_err("another major");
    assert!(error.to_string().contains("found 15.") && error.to_string().contains("need 16"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("postgresql-16")));
    let error = find_binaries(&world, Major::V16, Some(server.work().path()), None).await.expect_err("nothing there");
    assert!(error.to_string().contains("nothing found"), "{error}");
}
