//! Drills: a dump is loaded into a server that is thrown away, and nothing of it is left, whatever happens.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asof_engine::Result;
use asof_engine::logical::{self, CheckSubject, DrillReport, DrillRequest, Expect, Plan, SqlCheck, Subject};
use asof_engine::progress::{Event, Observer, Silent};
use asof_engine::runtime::{Scratch, ScratchSpec, ServerUser, Status, find_binaries, leftovers, status};
use asof_postgres::conninfo::Environment;
use asof_postgres::version::Major;
use asof_testkit::{fill_universe, majors};
use futures::channel::oneshot;
use futures::future::pending;

use crate::stage::{Stage, clients, has_vector, in_database};
use crate::support::chain;
use crate::verify::stock;

const CHAT: &str = "
create table documents (id int primary key, title text not null, created_at timestamptz not null default now());
insert into documents select n, 'document ' || n from generate_series(1, 500) n;
create table chunks (id serial primary key, document_id int not null, embedding real[]);
insert into chunks (document_id, embedding) select 1 + n % 500, array_fill(0.5, array[384]) from generate_series(1, 900) n;
";

async fn chat(major: u32) -> Stage {
    let stage = Stage::new(major).await;
    stage.server().psql("create database chat");
    stage.server().psql_in("chat", CHAT);
    stage
}

/// A directory for a throw-away server, that the server's user can enter, with a path that is short enough for a socket. It is
/// gone with the value, whatever a test that failed left in it.
struct Place(PathBuf);

impl Place {
    fn new(stage: &Stage) -> Self {
        Self::named(&format!("asof-drill-{}", &stage.protected.world.id().to_string()[..8]))
    }

    fn named(name: &str) -> Self {
        Self(Path::new("/tmp").join(name))
    }
}

impl Drop for Place {
    /// A server that was dropped has been told to end; until it has, it may make another file.
    #[expect(clippy::disallowed_methods, reason = "the test clears up")]
    fn drop(&mut self) {
        for _ in 0..REMOVALS {
            if std::fs::remove_dir_all(&self.0).is_ok() || !is_there(&self.0) {
                return;
            }
        }
    }
}

const REMOVALS: u32 = 1000;

/// What is asked of a drill, and the place of its server.
struct Asked {
    request: DrillRequest,
    _place: Place,
}

impl Deref for Asked {
    type Target = DrillRequest;

    fn deref(&self) -> &DrillRequest {
        &self.request
    }
}

fn asked(stage: &Stage, checks: Vec<SqlCheck>) -> Asked {
    let place = Place::new(stage);
    let request = DrillRequest {
        directory: place.0.clone(),
        bindir: Some(stage.server().bin_dir().to_owned()),
        path_variable: None,
        user: None,
        environment: Environment::empty(0),
        jobs: 1,
        locale: None,
        checks,
    };
    Asked { request, _place: place }
}

async fn drilled(stage: &Stage, subject: Subject, request: &DrillRequest) -> Result<DrillReport> {
    let clients = clients(&stage.protected.world, stage.server()).await;
    let world = &stage.protected.world;
    logical::drill(world, &clients, subject, request, Box::pin(pending()), Arc::new(Silent)).await
}

async fn of_stored(stage: &Stage, name: &str) -> Subject {
    Subject::Dump(Box::new(stage.origin(name).await))
}

fn check(name: &str, subject: CheckSubject) -> SqlCheck {
    SqlCheck { name: name.to_owned(), database: None, subject }
}

fn sql(name: &str, sql: &str, expect: Expect) -> SqlCheck {
    check(name, CheckSubject::Sql { sql: sql.to_owned(), expect })
}

#[expect(clippy::disallowed_methods, reason = "the test looks at what was left")]
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Processes that name a directory on their command line.
#[expect(clippy::disallowed_methods, reason = "the test looks for processes")]
fn processes(directory: &Path) -> Vec<String> {
    let text = directory.display().to_string();
    let entries = std::fs::read_dir("/proc").expect("it is listed").flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&text)).collect()
}

async fn nothing_is_left(stage: &Stage, directory: &Path) {
    assert!(!is_there(directory), "{} is left", directory.display());
    nothing_runs(stage, directory).await;
}

/// Programs that were told to end need a moment.
async fn nothing_runs(stage: &Stage, directory: &Path) {
    for _ in 0..100 {
        if processes(directory).is_empty() {
            return;
        }
        stage.protected.world.sleep(Duration::from_millis(50)).await;
    }
    panic!("{:?}", processes(directory));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_object_survives_a_drill_and_the_journal_says_so() {
    for major in majors() {
        let stage = Stage::new(major).await;
        fill_universe(stage.server());
        let backup = stage.stored("universe", "all").await;
        let clients = clients(&stage.protected.world, stage.server()).await;
        for jobs in [1, 2] {
            let mut request = asked(&stage, Vec::new());
            request.request.jobs = jobs;
            let (owner, never) = (&stage.protected.owner, Box::pin(pending()));
            let report = logical::drill_stored(owner, &backup, &clients, &request, never, Arc::new(Silent)).await;
            let report = report.unwrap_or_else(|error| panic!("{major}: {}", chain(&error)));
            report.require().unwrap_or_else(|error| panic!("{major}: {}", chain(&error)));
            let steps: Vec<&str> = report.steps.iter().map(|step| step.what.as_str()).collect();
            let expected = ["read", "server", "load", "rows", "foreign keys", "indexes", "sequences", "extensions"];
            assert_eq!(steps, expected);
            assert!(report.load_ms.is_some_and(|load| load > 0 && load <= report.total_ms), "{report:?}");
            nothing_is_left(&stage, &request.directory).await;
        }
        let journal = stage.protected.owner.journal().await.expect("the journal");
        let drilled = journal.state().backups[&backup.id].drilled.clone().expect("it is recorded");
        assert_eq!((drilled.ok, drilled.loaded_into, drilled.report["passed"].as_bool()), (true, major, Some(true)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dumps_of_stock_programs_are_drilled_in_every_format() {
    for major in majors() {
        let stage = Stage::new(major).await;
        fill_universe(stage.server());
        for (name, arguments) in [("c", "-Fc"), ("d", "-Fd"), ("t", "-Ft"), ("p", "-Fp")] {
            let path = stage.path(name);
            stock(&stage, "universe", &[arguments], &path);
            let subject = Subject::Dump(Box::new(stage.file(&path).await.expect("it is opened")));
            // An archive says of which database it is, and a script does not.
            let elsewhere = sql("elsewhere", "select 1", Expect::NotEmpty);
            let elsewhere = SqlCheck { database: Some("ledger".to_owned()), ..elsewhere };
            let request = asked(&stage, vec![elsewhere]);
            let report = drilled(&stage, subject, &request).await;
            let report = report.unwrap_or_else(|error| panic!("{name} on {major}: {}", chain(&error)));
            assert_eq!(report.checks.is_empty(), name != "p", "{name} on {major}: {report:?}");
            report.require().unwrap_or_else(|error| panic!("{name} on {major}: {}", chain(&error)));
            nothing_is_left(&stage, &request.directory).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_practical_test_dumps_loads_and_compares_in_one_go() {
    for major in majors() {
        let stage = chat(major).await;
        fill_universe(stage.server());
        for database in ["chat", "universe"] {
            let plan = Plan::make(&stage.protected.world, &stage.clients, &in_database(stage.server(), database)).await;
            let request = asked(&stage, Vec::new());
            let subject = Subject::Practical(Box::new(plan.expect("a plan")));
            let report = drilled(&stage, subject, &request).await;
            let report = report.unwrap_or_else(|error| panic!("{database} on {major}: {}", chain(&error)));
            report.require().unwrap_or_else(|error| panic!("{database} on {major}: {}", chain(&error)));
            assert_eq!((report.database.as_deref(), report.steps[0].what.as_str()), (Some(database), "dump"));
            let found = |what| &report.steps.iter().find(|step| step.what == what).expect("it is looked at").found;
            if database == "chat" {
                assert!(found("rows").starts_with("1400 rows in 2 tables"), "{report:?}");
                assert_eq!(found("digests"), "1400 rows of 2 tables have the digests of the original", "on {major}");
            }
            assert!(found("digests").ends_with("have the digests of the original"), "{report:?}");
            nothing_is_left(&stage, &request.directory).await;
        }
    }
}

/// Somebody who writes into the original while its dump is loaded.
struct Writer(Mutex<Command>);

impl Observer for Writer {
    fn event(&self, event: Event) {
        if event == Event::Phase("loading") {
            assert!(self.0.lock().expect("no holder panics").status().expect("psql runs").success());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_the_practical_test_runs_is_no_difference() {
    let stage = chat(majors()[0]).await;
    let plan = Plan::make(&stage.protected.world, &stage.clients, &in_database(stage.server(), "chat")).await;
    let (world, request) = (&stage.protected.world, asked(&stage, Vec::new()));
    let subject = Subject::Practical(Box::new(plan.expect("a plan")));
    let mut psql = stage.server().tool("psql");
    psql.args([
        "-X",
        "-q",
        "-d",
        "chat",
        "-c",
        "insert into chunks (document_id) values (1); update documents set title = 'x'",
    ]);
    let (writer, never) = (Arc::new(Writer(Mutex::new(psql))), Box::pin(pending()));
    let report = logical::drill(world, &stage.clients, subject, &request, never, writer).await;
    let report = report.unwrap_or_else(|error| panic!("{}", chain(&error)));
    report.require().unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(stage.server().psql_in("chat", "select count(*) from chunks"), "901", "it was written meanwhile");
    nothing_is_left(&stage, &request.directory).await;
}

/// Its rows are computed from what differs from server to server, which only a look at the contents can tell.
const LIAR: &str = "
create function place() returns text immutable language sql as $$ select pg_catalog.current_setting('data_directory') $$;
create table liar (id int primary key, place text generated always as (place()) stored);
insert into liar select generate_series(1, 10);
create materialized view seen as select count(*) from liar;
insert into liar select generate_series(11, 20);
";

#[tokio::test(flavor = "multi_thread")]
async fn the_practical_test_fails_where_what_was_loaded_is_not_what_the_server_has() {
    let stage = chat(majors()[0]).await;
    stage.server().psql_in("chat", LIAR);
    let plan = Plan::make(&stage.protected.world, &stage.clients, &in_database(stage.server(), "chat")).await;
    let request = asked(&stage, Vec::new());
    let subject = Subject::Practical(Box::new(plan.expect("a plan")));
    let report = drilled(&stage, subject, &request).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let failed: Vec<_> = report.steps.iter().filter(|step| !step.ok).collect();
    assert!(failed.len() == 1 && failed[0].what == "digests", "{report:?}");
    // The rows are as many as they were, and a materialised view is computed anew by every load.
    assert_eq!(failed[0].found, "not what the original has: content of public.liar");
    assert!(chain(&report.require().expect_err("it failed")).contains("public.liar"));
    nothing_is_left(&stage, &request.directory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_check_passes_and_fails_with_the_value_that_it_saw() {
    let stage = chat(majors()[0]).await;
    stage.stored("chat", "all").await;
    let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86400));
    let of = |name: &str| name.to_owned();
    let rows = |expect| CheckSubject::Rows { table: of("documents"), expect };
    let orphans = |references: &str| CheckSubject::Orphans {
        table: of("chunks"),
        column: of("document_id"),
        references: of(references),
        key: of("id"),
    };
    let dimensions =
        |equals| CheckSubject::Dimensions { table: of("chunks"), column: of("embedding"), equals, nulls: false };
    let newest = |within| CheckSubject::Newest { table: of("public.documents"), column: of("created_at"), within };
    let one = "select 1 union all select 2 order by 1";
    let checks: Vec<(SqlCheck, bool, &str)> = vec![
        (check("rows", rows(Expect::AtLeast(500.0))), true, "500"),
        (check("too few", rows(Expect::AtLeast(501.0))), false, "500"),
        (check("orphans", orphans("documents")), true, "0"),
        (check("orphans of nothing", orphans("nowhere")), false, "there is no table nowhere"),
        (check("dimensions", dimensions(384)), true, "384 dimensions in 900 rows"),
        (check("other dimensions", dimensions(3)), false, "900 with another number"),
        (check("newest", newest(hour)), true, "before the dump"),
        (sql("equals", one, Expect::Equals(of("1"))), true, "1"),
        (sql("not equal", one, Expect::Equals(of("2"))), false, "1"),
        (sql("at most", one, Expect::AtMost(1.0)), true, "1"),
        (sql("not empty", one, Expect::NotEmpty), true, "2 rows"),
        (sql("empty", one, Expect::Empty), false, "2 rows, the first 1"),
        (sql("within", "select now() - interval '2 days'", Expect::Within(day)), false, "s before the dump"),
        (sql("wrong", "select nonsense", Expect::NotEmpty), false, "nonsense"),
        (sql("writes", "delete from documents returning 1", Expect::NotEmpty), false, "read-only"),
        (
            sql(
                "unbound",
                "set default_transaction_read_only = off; delete from documents; select 1",
                Expect::NotEmpty,
            ),
            false,
            "multiple commands",
        ),
    ];
    let elsewhere = SqlCheck { database: Some(of("ledger")), ..sql("elsewhere", one, Expect::Empty) };
    let all = checks.iter().map(|(check, ..)| check.clone()).chain([elsewhere]).collect();
    let request = asked(&stage, all);
    let report = drilled(&stage, of_stored(&stage, "all").await, &request).await;
    let report = report.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(report.checks.len(), checks.len());
    assert!(report.remarks.iter().any(|remark| remark.contains("elsewhere is for database ledger")), "{report:?}");
    for (result, (check, ok, says)) in report.checks.iter().zip(&checks) {
        assert!(result.ok == *ok && result.value.contains(says), "{}: {result:?}", check.name);
    }
    assert!(!report.passed && report.steps.iter().all(|step| step.ok), "{report:?}");
    let said = chain(&report.require().expect_err("it failed"));
    assert!(said.contains("too few") && said.contains("saw 500") && said.contains(">= 501"), "{said}");
    nothing_is_left(&stage, &request.directory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_pgvector_are_measured_by_its_own_function() {
    for major in majors() {
        let stage = chat(major).await;
        if !has_vector(stage.server()) {
            refused_without(&stage, "vector", "pgvector").await;
            continue;
        }
        stage.server().psql_in(
            "chat",
            "create schema elsewhere; create extension vector schema elsewhere;
             create table vectors (id int, embedding elsewhere.vector);
             insert into vectors select n, (select array_agg(n + m) from generate_series(1, 8) m)::elsewhere.vector
               from generate_series(1, 50) n;
             insert into vectors values (51, null)",
        );
        stage.stored("chat", "all").await;
        let column = |nulls, equals| CheckSubject::Dimensions {
            table: "vectors".to_owned(),
            column: "embedding".to_owned(),
            equals,
            nulls,
        };
        let by_hand = sql("by hand", "select array_length(embedding, 1) from vectors", Expect::Equals("8".to_owned()));
        let checks =
            vec![check("null", column(false, 8)), check("ok", column(true, 8)), check("9", column(true, 9)), by_hand];
        let report = drilled(&stage, of_stored(&stage, "all").await, &asked(&stage, checks)).await;
        let report = report.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(report.checks.iter().map(|check| check.ok).collect::<Vec<_>>(), [false, true, false, false]);
        let values: Vec<&str> = report.checks.iter().map(|check| check.value.as_str()).collect();
        assert!(values[0].contains("8 dimensions in 51 rows, 0 with another number, 1 NULL"), "{values:?}");
        assert!(values[3].contains("array_length"), "what works for arrays does not work for vectors: {values:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_is_not_installed_is_named_before_anything_starts() {
    let stage = Stage::new(majors()[0]).await;
    refused_without(&stage, "frobnicator", "frobnicator").await;
}

/// A dump with an extension that this machine does not have is refused by its name and that of its package, before anything is made.
async fn refused_without(stage: &Stage, extension: &str, package: &str) {
    let path = stage.path("wants.sql");
    write(&path, &format!("CREATE EXTENSION IF NOT EXISTS {extension} WITH SCHEMA public;\nCREATE TABLE a (b int);\n"));
    let request = asked(stage, Vec::new());
    let subject = Subject::Dump(Box::new(stage.file(&path).await.expect("it is opened")));
    let events = Arc::new(Phases::default());
    let clients = clients(&stage.protected.world, stage.server()).await;
    let drilled =
        logical::drill(&stage.protected.world, &clients, subject, &request, Box::pin(pending()), events.clone());
    let refused = drilled.await.expect_err("it is refused");
    let said = chain(&refused);
    assert!(said.contains(extension) && said.contains(package), "{said}");
    assert!(matches!(refused, asof_engine::Error::Refused { .. }));
    let phases = events.0.lock().expect("no holder panics").clone();
    assert!(!phases.contains(&"making a server"), "{phases:?}");
    nothing_is_left(stage, &request.directory).await;
}

/// What was begun.
#[derive(Default)]
struct Phases(Mutex<Vec<&'static str>>);

impl Observer for Phases {
    fn event(&self, event: Event) {
        if let Event::Phase(phase) = event {
            self.0.lock().expect("no holder panics").push(phase);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the test writes a script")]
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_cannot_be_loaded_fails_with_what_the_server_said_and_leaves_nothing() {
    let stage = Stage::new(majors()[0]).await;
    for (text, says) in [
        ("create table a (b int);\ninsert into a values ('x');\n", "invalid input syntax"),
        (
            "CREATE TABLE a (b int);\nCOPY public.a (b) FROM stdin;\n1\n2\n\\.\nDELETE FROM a WHERE b = 1;\n",
            "public.a has 1 rows, the dump 2",
        ),
        ("create table a (b serial);\ninsert into a values (7);\n", "public.a_b_seq stands at 1, and public.a has 7"),
    ] {
        let path = stage.path("bad.sql");
        write(&path, text);
        let request = asked(&stage, Vec::new());
        let subject = Subject::Dump(Box::new(stage.file(&path).await.expect("it is opened")));
        let report = drilled(&stage, subject, &request).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let said = chain(&report.require().expect_err("it failed"));
        assert!(said.contains(says) && !report.damaged, "{said}");
        nothing_is_left(&stage, &request.directory).await;
    }
}

/// Lets go of something when that many events of progress have come.
struct After(Mutex<(u32, Option<oneshot::Sender<()>>)>);

impl Observer for After {
    fn event(&self, event: Event) {
        let mut state = self.0.lock().expect("no holder panics");
        if !matches!(event, Event::Advance(_) | Event::Phase(_)) {
            return;
        }
        if state.0 == 0
            && let Some(sender) = state.1.take()
        {
            let _ = sender.send(());
        }
        state.0 = state.0.saturating_sub(1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_is_interrupted_anywhere_leaves_no_process_and_no_directory() {
    let stage = chat(majors()[0]).await;
    stage.stored("chat", "all").await;
    let clients = clients(&stage.protected.world, stage.server()).await;
    let mut interrupted = 0;
    for count in 0..14 {
        let request = asked(&stage, Vec::new());
        let (sender, come) = oneshot::channel();
        let observer = Arc::new(After(Mutex::new((count, Some(sender)))));
        let cancelled = Box::pin(async {
            if come.await.is_err() {
                pending::<()>().await;
            }
        });
        let subject = of_stored(&stage, "all").await;
        let world = &stage.protected.world;
        match logical::drill(world, &clients, subject, &request, cancelled, observer).await {
            Ok(_) => {}
            Err(asof_engine::Error::Interrupted) => interrupted += 1,
            Err(error) => panic!("after {count} events: {}", chain(&error)),
        }
        nothing_is_left(&stage, &request.directory).await;
    }
    assert!(interrupted >= 8, "only {interrupted} were interrupted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_drill_left_is_named_and_what_another_one_uses_is_not() {
    let stage = Stage::new(majors()[0]).await;
    let world = &stage.protected.world;
    let major = Major::from_number(stage.server().major()).expect("a major");
    let binaries = find_binaries(world, major, Some(stage.server().bin_dir()), None).await.expect("programs");
    let user = ServerUser::choose(world, None, None).await.expect("a user");
    let prefix = format!("asof-left-{}", &world.id().to_string()[..4]);
    let places = ["a", "b"].map(|name| Place::named(&format!("{prefix}{name}")));
    let make = async |place: &Place| {
        let spec = ScratchSpec {
            directory: place.0.clone(),
            binaries: binaries.clone(),
            user: user.clone(),
            environment: Environment::empty(0),
            initdb: Vec::new(),
            settings: Vec::new(),
        };
        Scratch::make(world, spec).await.unwrap_or_else(|error| panic!("{}", chain(&error)))
    };
    let (killed, used) = (make(&places[0]).await, make(&places[1]).await);
    killed.init(&Silent).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    killed.start(&Silent).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(leftovers(world, Path::new("/tmp"), &prefix, &user).await, []);
    let directory = killed.directory().to_owned();
    assert_eq!(mode(&directory), 0o700);
    drop(killed);
    let found = leftovers(world, Path::new("/tmp"), &prefix, &user).await;
    assert_eq!(found.iter().map(|left| left.directory.clone()).collect::<Vec<_>>(), std::slice::from_ref(&directory));
    nothing_runs(&stage, &directory).await;
    let [killed, used_place] = places;
    drop(killed);
    used.remove().await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(!is_there(&used_place.0));
    assert_eq!(leftovers(world, Path::new("/tmp"), &prefix, &user).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_end_when_it_is_told_to_is_killed() {
    let stage = Stage::new(majors()[0]).await;
    let world = &stage.protected.world;
    let major = Major::from_number(stage.server().major()).expect("a major");
    let place = Place::new(&stage);
    let spec = ScratchSpec {
        directory: place.0.clone(),
        binaries: find_binaries(world, major, Some(stage.server().bin_dir()), None).await.expect("programs"),
        user: ServerUser::choose(world, None, None).await.expect("a user"),
        environment: Environment::empty(0),
        initdb: Vec::new(),
        settings: Vec::new(),
    };
    let scratch = Scratch::make(world, spec).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    scratch.init(&Silent).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    scratch.start(&Silent).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let directory = scratch.directory().to_owned();
    let Ok(Status::Running { pid, .. }) = status(world, &scratch.data_directory()).await else { panic!("it runs") };
    let stopped = std::process::Command::new("kill").args(["-STOP", &pid.to_string()]).status();
    assert!(stopped.expect("kill runs").success());
    scratch.remove().await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(matches!(world.processes().find(pid), Ok(None)));
    nothing_is_left(&stage, &directory).await;
}

#[expect(clippy::disallowed_methods, reason = "the test looks at a mode")]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().expect("it is there").permissions().mode() & 0o777
}
