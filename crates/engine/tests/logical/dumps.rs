//! Dumps of everything, there and back.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use asof_engine::compare::{Class, CompareRequest, Mode, Patterns, Side, compare};
use asof_engine::logical::{
    self, Clients, Destination, DumpRequest, Format, LoadPlan, LoadRequest, Outside, Plan, Selection,
};
use asof_engine::progress::{Event, Observer, Silent};
use asof_postgres::conninfo::{Config, Environment};
use asof_postgres::version::Major;
use asof_testkit::{
    LabelProvider, Options, Server, assert_same_dump, digests, fill_labelled, fill_small, fill_universe, majors,
};

use crate::stage::{Stage, databases, has_vector, in_database, into_new, never, request, text_by, text_of};
use crate::support::{chain, link, standby};

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_object_comes_back_from_the_repository() {
    for major in majors() {
        let stage = Stage::new(major).await;
        fill_universe(stage.server());
        let expected = text_of(stage.server(), "universe");
        assert_eq!(expected.contains("CREATE TABLE public.embedding"), has_vector(stage.server()));
        let backup = stage.stored("universe", "all").await;
        assert!(backup.sizes.stored > 0 && backup.sizes.total > 0, "{:?}", backup.sizes);
        stage.load_new(stage.origin("all").await, "copy").await;
        assert_same_dump(&text_of(stage.server(), "copy"), &expected, &format!("the copy on {major}"));
        assert_eq!(databases(stage.server()), ["copy", "universe"]);
    }
}

/// 80 MiB in one table, of which compression takes half: it lies in frames that know nothing of each other.
const NOISE: &str = "
create table noise (body bytea);
alter table noise alter body set storage external;
insert into noise select decode(string_agg(md5(n || '/' || m), ''), 'hex')
    from generate_series(1, 1000) n, generate_series(1, 128) m group by n;
create table much (id int, body bytea);
alter table much alter body set storage external;
insert into much select n, body from noise, generate_series(1, 40) n;
";

#[tokio::test(flavor = "multi_thread")]
async fn a_large_table_is_stored_in_packs_that_are_closed_when_they_are_full() {
    let stage = Stage::new(majors()[0]).await;
    stage.server().psql("create database large");
    stage.server().psql_in("large", NOISE);
    let made = stage.dump("large", &request("all"), &stage.repository()).await;
    let made = made.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let (packs, stored) =
        (made.checks.expect("it is read back").packs, made.backup.expect("it is stored").sizes.stored);
    assert!(stored > 80 << 20, "{stored} bytes are too few for this test");
    // One that is filled lies in memory, as does the one before it.
    assert!(stored / packs < 40 << 20, "{stored} bytes in {packs} packs");
    stage.load_new(stage.origin("all").await, "copy").await;
    let sums = "select count(*), sum(hashtext(body::text)::bigint) from much";
    assert_eq!(stage.server().psql_in("copy", sums), stage.server().psql_in("large", sums));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_a_database_in_another_encoding_are_recorded_as_the_server_says_them() {
    for major in majors() {
        let stage = Stage::new(major).await;
        stage.server().psql("create database old template template0 encoding 'LATIN1' locale 'C'");
        let street = "set client_encoding = 'UTF8'; create table \"straße\" (name text); insert into \"straße\" values ('Größe'), ('klein')";
        stage.server().psql_in("old", street);
        for (format, jobs) in [(Format::Plain, 1), (Format::Custom, 1), (Format::Directory, 2)] {
            let path = stage.path(&format!("{format:?}"));
            let asked = DumpRequest { format, jobs, ..request("all") };
            let made = stage.dump("old", &asked, &Destination::File(path.clone())).await;
            let made = made.unwrap_or_else(|error| panic!("{format:?} on {major}: {}", chain(&error)));
            assert_eq!(made.tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>(), ["straße"]);
            let origin = stage.file(&path).await.expect("it is opened");
            let report = logical::verify(&origin, &Silent).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
            assert_eq!((report.rows, report.held_against_record), (Some(2), true), "{format:?} on {major}");
            let database = format!("new_{format:?}").to_lowercase();
            stage.load_new(origin, &database).await;
            let found = "select count(*), pg_encoding_to_char(encoding) from \"straße\", pg_database where datname = current_database() group by 2";
            assert_eq!(
                stage.server().psql_in(&database, &format!("set client_encoding = 'UTF8'; {found}")),
                "2|LATIN1"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_that_is_chosen_brings_its_partitions() {
    for major in majors() {
        let stage = Stage::new(major).await;
        stage.server().psql("create database shop");
        stage.server().psql_in(
            "shop",
            "create table part (id int) partition by range (id);
             create table \"part \"\"A\" partition of part for values from (0) to (1000);
             create table rest partition of part default partition by hash (id);
             create table hashed partition of rest for values with (modulus 1, remainder 0);
             create table other (id int);
             insert into part select generate_series(1, 2000)",
        );
        let selection = Selection { tables: vec!["part".to_owned()], ..Selection::default() };
        for (format, to) in [
            (Format::Custom, stage.repository()),
            (Format::Directory, Destination::File(stage.path("d"))),
            (Format::Plain, Destination::File(stage.path("p"))),
        ] {
            let asked = DumpRequest { format, selection: selection.clone(), ..request("part") };
            let made = stage.dump("shop", &asked, &to).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
            assert_eq!((made.details.tables, made.details.rows), (2, Some(2000)), "{format:?} on {major}");
        }
        stage.load_new(stage.origin("part").await, "copy").await;
        assert_eq!(stage.server().psql_in("copy", "select count(*) from part"), "2000", "on {major}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_stop_a_dump_is_said_before_it_begins() {
    let stage = Stage::new(15).await;
    stage.server().psql_in("postgres", "create table \"Orders\" (id int); create schema s; create table s.t (id int)");
    stage.stored("postgres", "taken").await;
    let file = || Destination::File(stage.path("x.dump"));
    let chosen = |tables: &[&str]| DumpRequest {
        selection: Selection { tables: tables.iter().map(|it| (*it).to_owned()).collect(), ..Selection::default() },
        ..request("new")
    };
    let compressed = |how: &str| DumpRequest { compress: Some(how.to_owned()), ..request("new") };
    let schema = DumpRequest {
        selection: Selection { schemas: vec!["none".to_owned()], ..Selection::default() },
        ..request("new")
    };
    for (asked, to, says) in [
        (chosen(&["\"Orders\"", "s.t", "s.*"]), file(), None),
        (compressed("9"), file(), None),
        (chosen(&["s.t", "orders"]), file(), Some("no table, view or sequence of postgres matches orders")),
        (chosen(&["t"]), file(), Some("no table, view or sequence of postgres matches t")),
        (schema, file(), Some("no schema of postgres matches none")),
        (compressed("gzip:6"), file(), Some("compresses with a level from 0 to 9, not with gzip:6")),
        (request("new"), Destination::File(stage.path("repository")), Some("exists already")),
        (request("taken"), stage.repository(), Some("taken")),
    ] {
        let link = in_database(stage.server(), "postgres");
        let mut plan = Plan::make(&stage.protected.world, &stage.clients, &link).await.expect("a plan");
        let rehearsed = plan.rehearse(&asked, &to).await.map_err(|error| chain(&error));
        plan.close().await;
        assert_eq!(rehearsed.is_ok(), says.is_none(), "{says:?}: {rehearsed:?}");
        if let Some(says) = says {
            assert!(rehearsed.is_err_and(|said| said.contains(says)), "{says}");
            let error = stage.dump("postgres", &asked, &to).await.expect_err("it is refused as well");
            assert!(chain(&error).contains(says), "{}", chain(&error));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn security_labels_come_back_and_are_compared() {
    for major in majors() {
        let provider = LabelProvider::build(major);
        let stage = Stage::with(major, &Options::with_config(&[&provider.setting()])).await;
        fill_labelled(stage.server());
        stage.stored("labelled", "all").await;
        stage.load_new(stage.origin("all").await, "copy").await;
        let text = |database| text_by(stage.server(), database, &["--create"]);
        let expected = text("labelled");
        assert_eq!(expected.matches("SECURITY LABEL FOR test").count(), 15, "on {major}: {expected}");
        assert_same_dump(
            &text("copy").replace("DATABASE copy", "DATABASE labelled"),
            &expected,
            &format!("on {major}"),
        );
        assert_eq!(differences(&stage, "labelled", "copy").await, Vec::<String>::new(), "on {major}");
        stage.server().psql_in(
            "copy",
            "security label for test on table s.\"weird \"\"name\"\"\" is 'another'; security label for test on schema s is null",
        );
        let found = differences(&stage, "labelled", "copy").await;
        assert_eq!(found, ["schema s", "table s.\"weird \"\"name\"\"\""], "on {major}");
    }
}

/// The objects that differ, each by its security label.
async fn differences(stage: &Stage, a: &str, b: &str) -> Vec<String> {
    let side = |database: &str| Side {
        label: database.to_owned(),
        server: in_database(stage.server(), database),
        snapshot: None,
    };
    let request = CompareRequest {
        tables: Patterns::default(),
        mode: Mode::Exact,
        jobs: 1,
        roles: false,
        owners: true,
        content: true,
        schema: true,
        examples: 0,
    };
    let compared = compare(&stage.protected.world, &side(a), &side(b), &request, Arc::new(Silent)).await;
    let report = compared.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(report.could_not_compare, Vec::new());
    assert!(report.differences.iter().all(|it| it.class == Class::SecurityLabel), "{:?}", report.differences);
    report.differences.into_iter().map(|it| it.object).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_of_file_comes_back_and_is_what_stock_programs_read() {
    for major in majors() {
        let stage = Stage::new(major).await;
        fill_universe(stage.server());
        let compressed = Some("6".to_owned());
        for (format, name, jobs, compress) in [
            (Format::Custom, "c", 1, None),
            (Format::Directory, "d", 2, None),
            (Format::Plain, "p", 1, None),
            (Format::Plain, "compressed", 1, compressed),
        ] {
            let path = stage.path(name);
            let asked = DumpRequest { format, jobs, compress, ..request(name) };
            let made = stage.dump("universe", &asked, &Destination::File(path.clone())).await;
            let made = made.unwrap_or_else(|error| panic!("{name} on {major}: {}", chain(&error)));
            assert_eq!(made.files.first(), Some(&path));
            let origin = stage.file(&path).await.expect("the file is opened");
            let verified = logical::verify(&origin, &Silent).await;
            verified.unwrap_or_else(|error| panic!("{name} on {major}: {}", chain(&error)));
            stage.load_new(origin, name).await;
            // A script has the properties of its database only when it makes it.
            let how: &[&str] = if format == Format::Plain { &[] } else { &["--create"] };
            let (found, expected) = (text_by(stage.server(), name, how), text_by(stage.server(), "universe", how));
            assert_same_dump(&found, &expected, &format!("{name} on {major}"));
            let by_stock = format!("{name}_by_stock");
            stage.server().psql(&format!("create database {by_stock}"));
            match format {
                Format::Plain => stock_psql(&stage, &by_stock, &gunzipped(&path)),
                _ => stock_restore(&stage, &by_stock, &[], &path),
            }
            let plain = |database: &str| text_by(stage.server(), database, &[]);
            assert_same_dump(&plain(&by_stock), &plain("universe"), &format!("{name} by stock programs on {major}"));
        }
    }
}

/// Programs from 17 on set this, whatever server they speak to.
const SINCE_17: &str = "unrecognized configuration parameter \"transaction_timeout\"";

/// Stock `pg_restore`, of the client that reads what was dumped. It must not complain, but for what an older server says of
/// [`SINCE_17`]: of majors without client programs of their own that is all there is.
fn stock_restore(stage: &Stage, database: &str, more: &[&str], path: &Path) {
    let (client, mut command) = stock_client(stage, "pg_restore");
    let may_be_too_new = client >= 17 && stage.server().major() < 17;
    let strict = if may_be_too_new { &[][..] } else { &["--exit-on-error"] };
    command.args(strict).args(more).arg(format!("--dbname={database}")).arg(path);
    let output = command.output().expect("pg_restore runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut errors = said.lines().filter(|line| line.contains("error: "));
    assert!(errors.all(|line| may_be_too_new && line.contains(SINCE_17)), "pg_restore {client}: {said}");
    assert!(output.status.success() || may_be_too_new, "pg_restore {client}: {said}");
}

/// The same script without compression, if it has any.
#[expect(clippy::disallowed_methods, reason = "the test writes a file")]
fn gunzipped(path: &Path) -> PathBuf {
    let (script, mut sql) = (std::fs::read(path).expect("the script"), Vec::new());
    if !script.starts_with(&[0x1f, 0x8b]) {
        return path.to_owned();
    }
    flate2::read::MultiGzDecoder::new(&*script).read_to_end(&mut sql).expect("it is whole");
    let plain = path.with_extension("sql");
    std::fs::write(&plain, sql).expect("a file");
    plain
}

/// Stock `psql`, as [`stock_restore`].
fn stock_psql(stage: &Stage, database: &str, path: &Path) {
    let (client, mut command) = stock_client(stage, "psql");
    let may_be_too_new = client >= 17 && stage.server().major() < 17;
    let strict = format!("ON_ERROR_STOP={}", u8::from(!may_be_too_new));
    command.args(["-X", "-q", "-v", &strict, "-d", database, "-f"]).arg(path);
    let output = command.stdout(std::process::Stdio::null()).output().expect("psql runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut errors = said.lines().filter(|line| line.contains("ERROR: "));
    assert!(errors.all(|line| may_be_too_new && line.contains(SINCE_17)), "psql {client}: {said}");
    assert!(output.status.success(), "psql {client}: {said}");
}

/// A program of the client that dumps this server, and its major.
fn stock_client(stage: &Stage, name: &str) -> (u32, Command) {
    let server = Major::from_number(stage.server().major()).expect("a major");
    let client = stage.clients.to_dump(server).unwrap_or_else(|error| panic!("{}", chain(&error)));
    let to_server = stage.server().tool(name);
    let mut command = Command::new(client.program(name));
    command.envs(to_server.get_envs().filter_map(|(name, value)| Some((name, value?))));
    (client.major, command)
}

#[tokio::test(flavor = "multi_thread")]
async fn several_jobs_make_the_same_dump_and_load_the_same_database() {
    for major in majors() {
        let stage = Stage::new(major).await;
        fill_universe(stage.server());
        // Tables that are worth a process of their own, one with a sequence, an index and somebody who refers to it.
        stage.server().psql_in(
            "universe",
            "create table big_1 (id bigserial primary key, body text);
             insert into big_1 (body) select repeat(md5(n::text), 9) from generate_series(1, 60000) n;
             create table \"big \"\"2\" (id bigint references big_1, body text);
             insert into \"big \"\"2\" select n, repeat(md5(n::text), 9) from generate_series(1, 50000) n;
             create index on \"big \"\"2\" (id); analyze",
        );
        let expected = text_of(stage.server(), "universe");
        let asked = DumpRequest { jobs: 3, ..request("all") };
        let open = Arc::new(OpenFiles::of_programs(stage.server()));
        let plan = Plan::make(&stage.protected.world, &stage.clients, &in_database(stage.server(), "universe")).await;
        let made = logical::dump(plan.expect("a plan"), &asked, &stage.repository(), never(), open.clone()).await;
        let made = made.unwrap_or_else(|error| panic!("{}", chain(&error)));
        open.nothing_lies_on_a_disk("dump");
        let rows = |name: &str| made.tables.iter().find(|table| table.name == name).and_then(|table| table.rows);
        assert_eq!((rows("big_1"), rows("big \"2")), (Some(60_000), Some(50_000)));
        for (jobs, name) in [(1, "one"), (3, "three")] {
            let wanted = LoadRequest { jobs, ..into_new(name) };
            let clients = crate::stage::clients(&stage.protected.world, stage.server()).await;
            let (origin, server) = (stage.origin("all").await, link(stage.server()));
            let plan = LoadPlan::make(&stage.protected.world, &clients, origin, &server, wanted).await;
            let open = OpenFiles::of_programs(stage.server());
            let loaded = logical::load(&plan.expect("a plan"), never(), &open).await;
            loaded.unwrap_or_else(|error| panic!("{jobs} on {major}: {}", chain(&error)));
            open.nothing_lies_on_a_disk("load");
            assert_same_dump(&text_of(stage.server(), name), &expected, &format!("{jobs} on {major}"));
        }
    }
}

/// What the programs that speak to a server have open, whenever something happens.
struct OpenFiles {
    /// What stands in their command lines.
    port: String,
    /// Where programs have their libraries, messages and locales, which the loader opens for a moment.
    installed: Vec<PathBuf>,
    seen: Mutex<BTreeSet<String>>,
}

impl OpenFiles {
    #[expect(clippy::disallowed_methods, reason = "the test follows a link to where libraries are")]
    fn of_programs(server: &Server) -> Self {
        let newest = asof_testkit::newest_clients();
        // A quick setup has no newer clients.
        let trees = [server.bin_dir().to_owned(), newest.canonicalize().unwrap_or(newest)];
        let trees = trees.iter().map(|bin| bin.parent().expect("programs lie in a tree").to_owned());
        let installed = trees.chain(["/usr", "/lib", "/lib64", "/etc"].map(PathBuf::from)).collect();
        Self { port: format!("port={} ", server.port()), installed, seen: Mutex::default() }
    }

    /// Pipes, connections and what lies in memory is all there is.
    fn nothing_lies_on_a_disk(&self, what: &str) {
        let seen = self.seen.lock().expect("no holder panics");
        let in_memory = ["pipe:", "socket:", "anon_inode:", "/memfd:", "/dev/null"];
        assert!(seen.iter().all(|file| in_memory.iter().any(|kind| file.starts_with(kind))), "{what}: {seen:?}");
        assert!(seen.iter().any(|file| file.starts_with("pipe:")), "{what}: nothing was seen: {seen:?}");
    }
}

impl Observer for OpenFiles {
    /// What ends while it is looked at has nothing open any more.
    #[expect(clippy::disallowed_methods, reason = "the test looks at processes")]
    fn event(&self, _: Event) {
        for process in std::fs::read_dir("/proc").expect("it is listed").flatten().map(|entry| entry.path()) {
            let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let is_program = ["pg_dump", "pg_restore", "psql"].iter().any(|name| line.contains(&format!("/{name}\0")));
            if !is_program || !line.contains(&self.port) {
                continue;
            }
            let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
            let files = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
            let files = files.filter(|file| !self.installed.iter().any(|place| file.starts_with(place)));
            let mut seen = self.seen.lock().expect("no holder panics");
            seen.extend(files.map(|file| file.display().to_string()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_dump_is_what_stock_pg_restore_reads_with_several_jobs() {
    for major in majors() {
        let stage = Stage::new(major).await;
        fill_universe(stage.server());
        let expected = text_of(stage.server(), "universe");
        let asked = DumpRequest { jobs: 2, globals: true, ..request("all") };
        stage.dump("universe", &asked, &stage.repository()).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let path = stage.path("exported.dump");
        let origin = stage.origin("all").await;
        let exported = logical::export(&origin, Outside::File(&path), &Silent).await;
        let exported = exported.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let names: Vec<&str> = exported.names.iter().filter_map(|name| name.rsplit('/').next()).collect();
        assert_eq!(names, ["exported.dump", "exported.dump.globals.sql", "exported.dump.json"]);
        // By the stock program, which finds each table by its place, and by ours, which holds the digests against it.
        stage.load_new(stage.file(&path).await.expect("a file"), "ours").await;
        assert_same_dump(&text_of(stage.server(), "ours"), &expected, &format!("ours on {major}"));
        let again = logical::export(&origin, Outside::File(&path), &Silent).await.expect_err("is refused");
        assert!(chain(&again).contains("exists already"), "{}", chain(&again));
        stage.server().psql("create database stock");
        for section in ["pre-data", "data", "post-data"] {
            // Of indexes of partitions and foreign keys its jobs may wait for each other for ever.
            let jobs = if section == "data" { "--jobs=3" } else { "--jobs=1" };
            stock_restore(&stage, "stock", &[jobs, "--section", section], &path);
        }
        let plain = |database: &str| text_by(stage.server(), database, &[]);
        assert_same_dump(&plain("stock"), &plain("universe"), &format!("stock on {major}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dumps_go_to_newer_servers_and_to_older_ones_as_far_as_those_know_what_is_in_them() {
    let majors = majors();
    let (oldest, newest) = (majors[0], *majors.last().expect("a run has a major"));
    let (old, new) = (Stage::new(oldest).await, Stage::new(newest).await);
    for stage in [&old, &new] {
        fill_small(stage.server());
        stage.stored("postgres", "small").await;
    }
    // Up, with everything that there is.
    fill_universe(old.server());
    old.stored("universe", "all").await;
    new.server().psql("create role reader; create role \"Weird \"\"Role\"\"\"");
    let loaded = new.load(old.origin("all").await, new.server(), into_new("up")).await;
    loaded.unwrap_or_else(|error| panic!("{oldest} to {newest}: {}", chain(&error)));
    assert_eq!(new.server().psql_in("up", "select count(*) from part"), "100");
    // Down: what programs of 17 and newer say to every server, an older one does not understand.
    let loaded = old.load(new.origin("small").await, old.server(), into_new("down")).await;
    loaded.unwrap_or_else(|error| panic!("{newest} to {oldest}: {}", chain(&error)));
    let expected = digests(new.server(), "postgres");
    assert_eq!(digests(old.server(), "down"), expected);
    assert_eq!(digests(old.server(), "postgres"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_newer_than_every_client_is_named_before_anything_starts() {
    let newest = *majors().last().expect("a run has a major");
    let stage = Stage::new(newest).await;
    let none = Clients::find(&stage.protected.world, Some(stage.protected.work.path()), None).await;
    let refused = Plan::make(&stage.protected.world, &none, &in_database(stage.server(), "postgres")).await;
    let said = refused.err().map(|error| chain(&error)).expect("is refused");
    assert!(
        said.contains(&format!("no pg_dump for PostgreSQL {newest} was found")) && said.contains("apt install"),
        "{said}"
    );
    assert!(stage.backups().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_or_a_database_that_is_not_there_is_said_plainly() {
    let hba = vec!["host all all 127.0.0.1/32 scram-sha-256".to_owned()];
    let stage = Stage::with(majors()[0], &Options { hba, ..Options::default() }).await;
    stage.server().psql("set password_encryption = 'scram-sha-256'; alter role postgres password 'right'");
    let refused = async |password: &str, database: &str| {
        let text = format!("{} password={password}", stage.server().conninfo_tcp());
        let environment = Environment::empty(1_800_000_000);
        let mut config = Config::parse(&text, &environment).expect("valid");
        config.dbname = database.to_owned();
        let server = asof_engine::server::Server { config, environment };
        Plan::make(&stage.protected.world, &stage.clients, &server).await.err().map(|error| chain(&error))
    };
    let said = refused("wrong", "postgres").await.expect("is refused");
    assert!(said.contains("password authentication failed"), "{said}");
    let said = refused("right", "nowhere").await.expect("is refused");
    assert!(said.contains("database \"nowhere\" does not exist"), "{said}");
    assert_eq!(refused("right", "postgres").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_reaches_the_programs_and_stands_in_no_argument() {
    let hba = vec!["host all all 127.0.0.1/32 scram-sha-256".to_owned()];
    let stage = Stage::with(majors()[0], &Options { hba, ..Options::default() }).await;
    stage.server().psql("set password_encryption = 'scram-sha-256'; alter role postgres password 'se cret'");
    fill_small(stage.server());
    let text = format!("{} password='se cret'", stage.server().conninfo_tcp());
    let environment = Environment::empty(1_800_000_000);
    let config = Config::parse(&text, &environment).expect("valid");
    let server = asof_engine::server::Server { config, environment };
    let seen = stage.path("seen");
    let clients = watched_clients(&stage, &seen).await;
    let plan = Plan::make(&stage.protected.world, &clients, &server).await.expect("a plan");
    let asked = DumpRequest { globals: true, ..request("by tcp") };
    logical::dump(plan, &asked, &stage.repository(), never(), Arc::new(Silent))
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    let origin = stage.origin("by tcp").await;
    let plan = LoadPlan::make(&stage.protected.world, &clients, origin, &server, into_new("copy")).await;
    logical::load(&plan.expect("a plan"), never(), &Silent).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let runs = watched(&seen);
    for (program, arguments, password) in &runs {
        assert!(!arguments.contains("se cret"), "{program}: {arguments}");
        assert_eq!(password == "se cret", arguments.contains("host="), "{program} of {runs:?}");
    }
    let connected = |wanted: &[&str]| {
        let mut runs = runs.iter().filter(|(.., password)| !password.is_empty());
        runs.any(|(program, ..)| wanted.contains(&program.as_str()))
    };
    // An older server is loaded by psql, when the dump is of a newer program.
    for programs in [&["pg_dump"][..], &["pg_dumpall"], &["pg_restore", "psql"]] {
        assert!(connected(programs), "{programs:?} in {runs:?}");
    }
    assert!(!format!("{:?}", server.config).contains("se cret"), "nor in what we print of it");
}

/// The client programs, each of which first writes down what everybody on the machine sees of its process, and what nobody does.
#[expect(clippy::disallowed_methods, reason = "the test plants programs")]
async fn watched_clients(stage: &Stage, seen: &Path) -> Clients {
    let real = PathBuf::from(stage.server().tool("pg_dump").get_program());
    let bin = stage.path("watched");
    for directory in [&bin, seen] {
        std::fs::create_dir_all(directory).expect("a directory");
    }
    for name in ["pg_dump", "pg_dumpall", "pg_restore", "psql"] {
        let (real, seen) = (real.with_file_name(name), seen.join(name));
        let script = format!(
            "#!/bin/sh\ncase \"$1\" in --version) exec {real} --version;; esac\n\
             cat /proc/$$/cmdline > {seen}.$$.arguments; printf %s \"$PGPASSWORD\" > {seen}.$$.password\n\
             exec {real} \"$@\"\n",
            real = real.display(),
            seen = seen.display()
        );
        std::fs::write(bin.join(name), script).expect("a script");
        std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).expect("it can be run");
    }
    Clients::find(&stage.protected.world, Some(&bin), None).await
}

/// Each program that ran, its command line, and the password in its environment.
#[expect(clippy::disallowed_methods, reason = "the test looks at what programs were given")]
fn watched(seen: &Path) -> Vec<(String, String, String)> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.replace('\0', " ")
    };
    let names = std::fs::read_dir(seen).expect("it is listed").map(|entry| entry.expect("an entry").file_name());
    let names = names.filter_map(|name| name.to_string_lossy().strip_suffix(".arguments").map(str::to_owned));
    names
        .map(|name| {
            let program = name.split('.').next().unwrap_or_default().to_owned();
            (program, read(seen.join(format!("{name}.arguments"))), read(seen.join(format!("{name}.password"))))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_of_other_encodings_come_back_byte_for_byte() {
    for major in majors() {
        let stage = Stage::new(major).await;
        let server = stage.server();
        for encoding in ["LATIN1", "SQL_ASCII", "EUC_JP"] {
            let name = encoding.to_lowercase();
            server.psql(&format!("create database {name} encoding '{encoding}' locale 'C' template template0"));
        }
        server.psql_in("latin1", "set client_encoding = 'UTF8'; create table \"nä\" (\"ö\" text default 'ü'); insert into \"nä\" values ('ß'), (null); comment on table \"nä\" is 'é'");
        server.psql_in(
            "euc_jp",
            "set client_encoding = 'UTF8'; create table \"表\" (\"列\" text); insert into \"表\" values ('値')",
        );
        let bytes = "do $$ begin execute 'create table \"x' || chr(255) || chr(200) || '\" as select chr(254) || ''y'' as a'; end $$";
        server.psql_in("sql_ascii", bytes);
        for database in ["latin1", "euc_jp", "sql_ascii"] {
            stage.stored(database, database).await;
            let copy = format!("{database}_copy");
            stage.load_new(stage.origin(database).await, &copy).await;
            let (found, expected) = (text_of(server, &copy), text_of(server, database));
            assert_same_dump(&found, &expected, &format!("{database} on {major}"));
        }
        assert_eq!(server.psql("select count(distinct encoding) from pg_database where datname ~ '_copy'"), "3");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_dumped_like_its_primary_but_for_unlogged_rows() {
    for major in majors() {
        let stage = Stage::new(major).await;
        fill_small(stage.server());
        let standby = standby(&stage.protected).await;
        let plan = Plan::make(&stage.protected.world, &stage.clients, &in_database(&standby, "postgres")).await;
        let plan = plan.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let asked = DumpRequest { jobs: 2, ..request("of the standby") };
        let made = logical::dump(plan, &asked, &stage.repository(), never(), Arc::new(Silent)).await;
        let made = made.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert!(made.details.standby);
        assert_eq!(made.details.incomplete, ["no rows of unlogged tables, which a standby does not have"]);
        stage.load_new(stage.origin("of the standby").await, "copy").await;
        assert_eq!(digests(stage.server(), "copy"), digests(stage.server(), "postgres"), "on {major}");
    }
}
