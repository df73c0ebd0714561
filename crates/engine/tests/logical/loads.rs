//! Dumps and loads that fail: the reason is said, and nothing half made looks whole.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use asof_engine::logical::{self, Clients, Destination, DumpRequest, Format, LoadPlan, LoadRequest, Plan, Policy};
use asof_engine::progress::{Event, Observer, Silent};
use asof_repository::lineage::Outcome;
use asof_testkit::{Server, majors};
use futures::channel::oneshot;

use crate::stage::{Stage, databases, in_database, into_new, never, request};
use crate::support::{chain, link};

const SHOP: &str = "
create table customer (id int primary key, name text);
insert into customer select n, 'customer ' || n from generate_series(1, 20000) n;
create table orders (id int primary key, customer int references customer, body text);
insert into orders select n, 1 + n % 20000, repeat(md5(n::text), 8) from generate_series(1, 60000) n;
create index on orders (customer);
analyze;
";

async fn shop(major: u32) -> Stage {
    let stage = Stage::new(major).await;
    stage.server().psql("create database shop");
    stage.server().psql_in("shop", SHOP);
    stage
}

/// A directory of client programs of which `pg_dump` is this script; `$REAL` is the true one.
#[expect(clippy::disallowed_methods, reason = "the test plants a program")]
async fn clients_with(stage: &Stage, script: &str) -> Clients {
    let real = PathBuf::from(stage.server().tool("pg_dump").get_program());
    let bin = stage.path("planted");
    std::fs::create_dir_all(&bin).expect("a directory");
    for name in ["pg_dumpall", "pg_restore", "psql"] {
        let _ = std::os::unix::fs::symlink(real.with_file_name(name), bin.join(name));
    }
    let planted = bin.join("pg_dump");
    let text = format!(
        "#!/bin/sh\nREAL='{}'\ncase \"$1\" in --version) exec \"$REAL\" --version;; esac\n{script}\n",
        real.display()
    );
    std::fs::write(&planted, text).expect("a script");
    std::fs::set_permissions(&planted, std::fs::Permissions::from_mode(0o755)).expect("it can be run");
    Clients::find(&stage.protected.world, Some(&bin), None).await
}

async fn dump_with(stage: &Stage, clients: &Clients, request: &DumpRequest, to: &Destination) -> String {
    let plan = Plan::make(&stage.protected.world, clients, &in_database(stage.server(), "shop")).await;
    let plan = plan.unwrap_or_else(|error| panic!("{}", chain(&error)));
    match logical::dump(plan, request, to, never(), Arc::new(Silent)).await {
        Ok(report) => panic!("a dump of {} tables was kept", report.tables.len()),
        Err(error) => chain(&error),
    }
}

/// The files below a directory, hidden ones too.
#[expect(clippy::disallowed_methods, reason = "the test looks at what was left")]
fn files_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("the directory can be listed");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[expect(clippy::disallowed_methods, reason = "the test makes a directory to look at")]
fn empty_directory(stage: &Stage, name: &str) -> PathBuf {
    let path = stage.path(name);
    std::fs::create_dir_all(&path).expect("a directory");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_l1_whatever_pg_dump_makes_of_its_exit_status_a_dump_that_is_not_whole_is_none() {
    let stage = shop(majors()[0]).await;
    let out = empty_directory(&stage, "out");
    // The trap of --file=-, which writes a file of that name and leaves the pipe empty, and its like.
    let planted = [
        ("exit 0", "not whole"),
        ("\"$REAL\" \"$@\" | head -c 300000; exit 0", "not whole"),
        ("\"$REAL\" \"$@\" | head -c 700; exit 0", "not whole"),
        ("exec \"$REAL\" --schema-only \"$@\"", "although it has rows"),
        ("exec \"$REAL\" --exclude-table-data=orders \"$@\"", "although it has rows"),
        ("exec \"$REAL\" --exclude-table=orders \"$@\"", "although it has rows"),
        ("echo 'no dump at all'; exit 0", "not whole"),
        ("echo 'pg_dump: error: out of luck' >&2; exit 1", "out of luck"),
        ("kill -9 $$", "signal 9"),
    ];
    for (script, says) in planted {
        let clients = clients_with(&stage, script).await;
        for to in [stage.repository(), Destination::File(out.join("shop.dump"))] {
            let said = dump_with(&stage, &clients, &request("bad"), &to).await;
            assert!(said.contains(says), "{script}: {said}");
        }
        assert_eq!(files_in(&out), Vec::<String>::new(), "{script}");
        assert!(stage.backups().await.is_empty(), "{script}");
    }
    let plain = DumpRequest { format: Format::Plain, ..request("bad") };
    let clients = clients_with(&stage, "\"$REAL\" \"$@\" | head -c 300000; exit 0").await;
    for to in [stage.repository(), Destination::File(out.join("shop.sql"))] {
        let said = dump_with(&stage, &clients, &plain, &to).await;
        assert!(said.contains("not whole"), "{said}");
    }
    // A compressed script is looked at inside: its last frame may be whole and the script not.
    let compressed = DumpRequest { compress: Some("6".to_owned()), ..plain };
    for (script, says) in [
        ("\"$REAL\" \"$@\" | head -c 300000; exit 0", "not whole"),
        ("\"$REAL\" \"$@\" | gzip -d | head -c 300000 | gzip; exit 0", "not whole"),
        ("printf '' | gzip; exit 0", "not whole"),
        ("exec \"$REAL\" --exclude-table-data=orders \"$@\"", "although it has rows"),
    ] {
        let clients = clients_with(&stage, script).await;
        let said = dump_with(&stage, &clients, &compressed, &Destination::File(out.join("shop.sql"))).await;
        assert!(said.contains(says), "{script}: {said}");
    }
    assert_eq!(files_in(&out), Vec::<String>::new());
    assert!(stage.backups().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_really_empty_is_no_reason_to_fail() {
    let stage = shop(majors()[0]).await;
    stage.server().psql_in("shop", "create table gone as select generate_series(1, 9999) as a; delete from gone");
    stage.stored("shop", "with an empty table").await;
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "the test damages files")]
async fn a_dump_that_is_cut_off_or_damaged_loads_nothing() {
    let stage = shop(majors()[0]).await;
    let formats =
        [(Format::Custom, None, "c.dump"), (Format::Custom, Some("0"), "u.dump"), (Format::Plain, None, "p.sql")];
    for (format, compress, name) in formats {
        let path = stage.path(name);
        let asked = DumpRequest { format, compress: compress.map(str::to_owned), ..request(name) };
        let made = stage.dump("shop", &asked, &Destination::File(path.clone())).await;
        made.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let whole = std::fs::read(&path).expect("the dump");
        let mut bad: Vec<(String, Vec<u8>)> = [0, 3, 200, whole.len() / 3, whole.len() / 2, whole.len() - 20]
            .map(|len| (format!("cut at {len}"), whole[..len].to_vec()))
            .into();
        // By what lies beside it every bit is proven.
        std::fs::copy(stage.path(&format!("{name}.json")), stage.path("damaged.json")).expect("the record");
        for at in [100, whole.len() / 2, whole.len() - 100] {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x01;
            bad.push((format!("flipped at {at}"), flipped));
        }
        for (what, bytes) in bad {
            let damaged = stage.path("damaged");
            std::fs::write(&damaged, bytes).expect("a file");
            let error = match stage.file(&damaged).await {
                Ok(origin) => stage.load(origin, stage.server(), into_new("half")).await.err(),
                Err(error) => Some(error),
            };
            let error = error.unwrap_or_else(|| panic!("{name}, {what}: it was loaded"));
            assert!(!chain(&error).is_empty());
            assert_eq!(databases(stage.server()), ["shop"], "{name}, {what}: {}", chain(&error));
        }
        std::fs::remove_file(stage.path("damaged.json")).expect("the record is removed");
        std::fs::write(stage.path("damaged"), &whole[..whole.len() / 2]).expect("a file");
        let cut = match stage.file(&stage.path("damaged")).await {
            Ok(origin) => stage.load(origin, stage.server(), into_new("half")).await.err(),
            Err(error) => Some(error),
        };
        assert!(cut.is_some(), "{name} was loaded although half of it is missing");
        assert_eq!(databases(stage.server()), ["shop"]);
    }
}

/// Larger than any block of a frame, and nothing that a compressor makes smaller by much.
const NOISE: &str = "
create table noise (id int primary key, body bytea);
alter table noise alter body set storage external;
insert into noise select n, decode(string_agg(md5(n::text || '/' || m), ''), 'hex')
    from generate_series(1, 6000) n, generate_series(1, 64) m group by n;
";

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "the test wraps files as other people's scripts do")]
async fn a_dump_that_somebody_compressed_is_loaded_when_it_is_whole_and_only_then() {
    let stage = Stage::new(majors()[0]).await;
    stage.server().psql("create database shop");
    stage.server().psql_in("shop", NOISE);
    let sums = "select count(*), sum(hashtext(body::text)::bigint) from noise";
    let expected = stage.server().psql_in("shop", sums);
    for (format, name) in [(Format::Custom, "c.dump"), (Format::Plain, "p.sql")] {
        let path = stage.path(name);
        let asked = DumpRequest { format, ..request(name) };
        let made = stage.dump("shop", &asked, &Destination::File(path.clone())).await;
        made.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let whole = std::fs::read(&path).expect("the dump");
        assert!(whole.len() > 5 << 20, "{} bytes", whole.len());
        for (wrapping, bytes) in wrapped(&whole) {
            let file = stage.path("wrapped");
            std::fs::write(&file, &bytes).expect("a file");
            let origin = stage.file(&file).await.unwrap_or_else(|error| panic!("{wrapping}: {}", chain(&error)));
            stage.load_new(origin, "unwrapped").await;
            assert_eq!(stage.server().psql_in("unwrapped", sums), expected, "{name}, {wrapping}");
            stage.server().psql("drop database unwrapped");
            for len in [20, bytes.len() / 2, bytes.len() - 1] {
                std::fs::write(&file, &bytes[..len]).expect("a file");
                let cut = match stage.file(&file).await {
                    Ok(origin) => stage.load(origin, stage.server(), into_new("half")).await.err(),
                    Err(error) => Some(error),
                };
                let cut = cut.unwrap_or_else(|| panic!("{name}, {wrapping}: {len} bytes of it were loaded"));
                assert!(chain(&cut).contains("wrapped"), "{name}, {wrapping}, {len}: {}", chain(&cut));
                assert_eq!(databases(stage.server()), ["shop"], "{name}, {wrapping}, {len}");
            }
        }
    }
}

/// As `gzip`, `zstd`, `lz4` with its largest blocks, and two of them write it.
fn wrapped(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).expect("compression");
    let gzip = gzip.finish().expect("compression");
    let info = lz4_flex::frame::FrameInfo::new().block_size(lz4_flex::frame::BlockSize::Max4MB).content_checksum(true);
    let lz4 = |bytes: &[u8]| {
        let mut lz4 = lz4_flex::frame::FrameEncoder::with_frame_info(info.clone(), Vec::new());
        lz4.write_all(bytes).expect("compression");
        lz4.finish().expect("compression")
    };
    let zstd = zstd::encode_all(bytes, 1).expect("compression");
    vec![("lz4 of gzip", lz4(&gzip)), ("gzip", gzip), ("lz4", lz4(bytes)), ("zstd", zstd)]
}

/// Lets go of something when that many events of progress have come.
struct After(Mutex<(u32, Option<oneshot::Sender<()>>)>);

impl After {
    fn events(count: u32) -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Mutex::new((count, Some(sender)))), receiver)
    }
}

impl Observer for After {
    fn event(&self, event: Event) {
        let mut state = self.0.lock().expect("no holder panics");
        if !matches!(event, Event::Advance(_) | Event::Phase(_)) {
            return;
        }
        if state.0 == 0 {
            let _ = state.1.take().map(|sender| sender.send(()));
        }
        state.0 = state.0.saturating_sub(1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_l2_a_load_that_is_interrupted_anywhere_leaves_the_server_as_it_was() {
    let stage = shop(majors()[0]).await;
    stage.stored("shop", "all").await;
    let clients = crate::stage::clients(&stage.protected.world, stage.server()).await;
    for count in 0..6 {
        let origin = stage.origin("all").await;
        let server = link(stage.server());
        let plan = LoadPlan::make(&stage.protected.world, &clients, origin, &server, into_new("half")).await;
        let plan = plan.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let (after, come) = After::events(count);
        let cancelled = Box::pin(async {
            let _ = come.await;
        });
        match logical::load(&plan, cancelled, &after).await {
            Err(error) => {
                assert_eq!(error.to_string(), "interrupted");
                assert_eq!(databases(stage.server()), ["shop"], "after {count} events");
            }
            // The last event may come when there is nothing left to interrupt.
            Ok(_) => {
                assert!(count >= 3, "it was not interrupted after {count} events");
                stage.server().psql("drop database half");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_is_interrupted_or_loses_its_server_is_no_backup() {
    for major in majors() {
        let mut stage = shop(major).await;
        let out = empty_directory(&stage, "out");
        for to in [stage.repository(), Destination::File(out.join("shop.dump"))] {
            let plan = Plan::make(&stage.protected.world, &stage.clients, &in_database(stage.server(), "shop")).await;
            let (after, come) = After::events(1);
            let asked = request("cut");
            let cancelled = Box::pin(async {
                let _ = come.await;
            });
            let made = logical::dump(plan.expect("a plan"), &asked, &to, cancelled, Arc::new(after)).await;
            assert_eq!(made.expect_err("it was cancelled").to_string(), "interrupted");
            assert_eq!(files_in(&out), Vec::<String>::new());
            assert!(stage.backups().await.is_empty());
            let journal = stage.protected.shelf.journal().await.expect("the journal is read");
            let left = journal.state().attempts.values().filter(|attempt| attempt.outcome == Outcome::Open);
            assert_eq!(left.count(), 0, "the attempt is open as if it went on");
        }
        let plan = Plan::make(&stage.protected.world, &stage.clients, &in_database(stage.server(), "shop")).await;
        let plan = plan.expect("a plan");
        let (killer, ready) = (Server::kill, request("lost"));
        killer(&mut stage.protected.server);
        let lost = logical::dump(plan, &ready, &stage.repository(), never(), Arc::new(Silent)).await;
        let said = chain(&lost.expect_err("the server is gone"));
        assert!(said.contains("pg_dump failed"), "{said}");
        assert!(stage.backups().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_replaced_only_by_one_that_is_whole() {
    for major in majors() {
        let stage = shop(major).await;
        let server = stage.server();
        server.psql(
            "create role keeper; grant connect on database shop to keeper; revoke connect on database shop from public;
                     alter database shop set work_mem = '9MB'; alter database shop owner to keeper",
        );
        stage.stored("shop", "before").await;
        server.psql_in("shop", "delete from orders; insert into customer values (-1, 'new')");
        let replace = || LoadRequest { policy: Policy::Replace, ..into_new("shop") };
        let crowd = Crowd::around(server, "shop");
        let broken = stage.path("broken.sql");
        write(&broken, "create table a (b int);\ninsert into a values ('x');\n");
        let origin = stage.file(&broken).await.expect("a script");
        let failed = stage.load(origin, server, replace()).await.expect_err("the script fails");
        assert!(chain(&failed).contains("invalid input syntax"), "{}", chain(&failed));
        assert_eq!(server.psql_in("shop", "select count(*) from customer where id = -1"), "1", "the old one is there");

        let loaded = stage.load(stage.origin("before").await, server, replace()).await;
        loaded.unwrap_or_else(|error| panic!("{}", chain(&error)));
        crowd.disperse(server);
        assert_eq!(server.psql_in("shop", "select count(*) from orders"), "60000");
        assert_eq!(databases(server), ["shop"]);
        let properties = "select pg_get_userbyid(datdba), has_database_privilege('keeper', oid, 'connect'), datacl is null,
                          (select setconfig from pg_db_role_setting where setdatabase = d.oid) from pg_database d where datname = 'shop'";
        assert_eq!(server.psql(properties), "keeper|t|f|{work_mem=9MB}");
    }
}

/// Applications that use a database, and connect again as soon as they are disconnected.
struct Crowd {
    over: Arc<AtomicBool>,
    members: Vec<std::thread::JoinHandle<()>>,
}

const CROWD: usize = 4;

impl Crowd {
    fn around(server: &Server, database: &str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let member = |_| {
            let (over, mut psql) = (over.clone(), server.tool("psql"));
            psql.args(["-X", "-q", "-d", database, "-c", "select pg_sleep(3600)"]);
            psql.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            #[expect(clippy::disallowed_methods, reason = "each application is a thread that waits for its psql")]
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    psql.status().expect("psql runs");
                }
            })
        };
        let crowd = Self { members: (0..CROWD).map(member).collect(), over };
        let present =
            format!("select count(*) from pg_stat_activity where datname = '{database}' and query ~ 'pg_sleep'");
        while server.psql(&present) != CROWD.to_string() {
            std::thread::yield_now();
        }
        crowd
    }

    fn disperse(self, server: &Server) {
        self.over.store(true, Ordering::Relaxed);
        while !self.members.iter().all(std::thread::JoinHandle::is_finished) {
            server.psql("select pg_terminate_backend(pid) from pg_stat_activity where query ~ 'pg_sleep' and pid <> pg_backend_pid()");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the test writes a script")]
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impossible_load_is_refused_before_anything_is_made() {
    let stage = shop(majors()[0]).await;
    let server = stage.server();
    server.psql("create database full_one; create database empty_one; create role missing_owner");
    server.psql_in("full_one", "create table a as select 1");
    server.psql_in("shop", "alter table customer owner to missing_owner; grant select on orders to missing_owner");
    stage.stored("shop", "all").await;
    server.psql_in("shop", "reassign owned by missing_owner to postgres; drop owned by missing_owner");
    server.psql("drop role missing_owner");
    let cases: [(LoadRequest, &str); 5] = [
        (into_new("full_one"), "exists already"),
        (LoadRequest { policy: Policy::IntoEmpty, ..into_new("full_one") }, "has 1 relations"),
        (LoadRequest { policy: Policy::IntoEmpty, ..into_new("nowhere") }, "there is no database nowhere"),
        (into_new("new_one"), "missing_owner are not here"),
        (LoadRequest { no_owner: true, ..into_new("new_one") }, "missing_owner are not here"),
    ];
    for (request, says) in cases {
        let refused = stage.load(stage.origin("all").await, server, request).await.expect_err("is refused");
        assert!(chain(&refused).contains(says), "{}", chain(&refused));
    }
    assert_eq!(databases(server), ["empty_one", "full_one", "shop"]);
    let without =
        LoadRequest { no_owner: true, no_privileges: true, policy: Policy::IntoEmpty, ..into_new("empty_one") };
    stage.load(stage.origin("all").await, server, without).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(server.psql_in("empty_one", "select count(*) from orders"), "60000");
    // A backup of the instance is none of a database.
    stage.protected.backup("physical").await;
    let journal = stage.protected.owner.journal().await.expect("the journal");
    let physical = journal.state().physical()[0].backup.clone();
    let refused = logical::Origin::stored(&stage.protected.owner, &physical).await.err().expect("is refused");
    assert!(chain(&refused).contains("asof restore"), "{}", chain(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_that_policies_user_mappings_and_default_privileges_name_are_missed_before_anything_is_made() {
    for major in majors() {
        let stage = shop(major).await;
        let server = stage.server();
        server.psql("create role \"Watch er\"; create role mapped; create role giver");
        let bound = [
            ("create policy p on orders for select to \"Watch er\" using (body <> ' TO nobody')", "Watch er"),
            (
                "create foreign data wrapper w; create server s foreign data wrapper w; \
                 create user mapping for mapped server s; create user mapping for public server s",
                "mapped",
            ),
        ];
        for (sql, role) in bound {
            server.psql_in("shop", sql);
            stage.stored("shop", role).await;
            server.psql_in("shop", "drop policy if exists p on orders; drop foreign data wrapper if exists w cascade");
            server.psql(&format!("drop role \"{role}\""));
            let without = LoadRequest { no_owner: true, no_privileges: true, ..into_new("new_one") };
            let refused = stage.load(stage.origin(role).await, server, without).await.expect_err("is refused");
            let expected = format!("{role} are not here, and policies or user mappings name them");
            assert!(chain(&refused).contains(&expected), "{}", chain(&refused));
        }
        server.psql_in("shop", "alter default privileges for role giver grant select on tables to public");
        stage.stored("shop", "default").await;
        server.psql_in("shop", "drop owned by giver; drop role giver");
        let refused = stage.load(stage.origin("default").await, server, into_new("new_one")).await;
        let refused = chain(&refused.expect_err("is refused"));
        assert!(refused.contains("giver are not here"), "{refused}");
        let without = LoadRequest { no_privileges: true, ..into_new("new_one") };
        let loaded = stage.load(stage.origin("default").await, server, without).await;
        loaded.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(databases(server), ["new_one", "shop"], "on {major}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_change_nothing_are_remarked() {
    let stage = shop(15).await;
    let server = stage.server();
    server.psql("create database empty_one");
    stage.stored("shop", "all").await;
    let script = stage.path("shop.sql");
    let plain = DumpRequest { format: Format::Plain, ..request("plain") };
    let made = stage.dump("shop", &plain, &Destination::File(script.clone())).await;
    made.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let several = |request: LoadRequest| LoadRequest { jobs: 2, ..request };
    let cases = [
        (stage.origin("all").await, into_new("whole"), None),
        (
            stage.origin("all").await,
            LoadRequest { policy: Policy::IntoEmpty, ..into_new("empty_one") },
            Some("that exists"),
        ),
        (
            stage.origin("all").await,
            LoadRequest { tables: vec!["customer".to_owned()], ..into_new("part") },
            Some("chosen"),
        ),
        (stage.file(&script).await.expect("it is opened"), into_new("from_script"), Some("a script")),
    ];
    for (origin, request, why) in cases {
        let loaded =
            stage.load(origin, server, several(request)).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let remarks = loaded.remarks.join("; ");
        match why {
            Some(why) => assert!(remarks.contains("--jobs changed nothing") && remarks.contains(why), "{remarks}"),
            None => assert_eq!(remarks, ""),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_database_belongs_to_whom_the_original_belonged() {
    for major in majors() {
        let stage = shop(major).await;
        let server = stage.server();
        server.psql("create role keeper login; alter database shop owner to keeper; create role mover login createdb");
        stage.stored("shop", "kept").await;
        stage.load_new(stage.origin("kept").await, "copy").await;
        let owner = "select rolname from pg_database d join pg_roles r on r.oid = datdba where datname = 'copy'";
        assert_eq!(server.psql(owner), "keeper", "on {major}");
        // From 15 on, who owns the database decides who may make tables in public.
        server.psql_in("copy", "set role keeper; create table public.of_keeper ()");
        // Who cannot give it away is told before anything is made.
        let clients = crate::stage::clients(&stage.protected.world, server).await;
        let mut mover = link(server);
        mover.config.user = "mover".to_owned();
        let plan = |request| {
            let (world, clients, mover) = (&stage.protected.world, &clients, &mover);
            async { LoadPlan::make(world, clients, stage.origin("kept").await, mover, request).await.expect("a plan") }
        };
        let refused = plan(into_new("moved")).await.require().expect_err("it belongs to others");
        assert!(chain(&refused).contains("nothing can be given to keeper"), "{}", chain(&refused));
        let request = LoadRequest { no_owner: true, no_privileges: true, ..into_new("moved") };
        let plan = plan(request).await;
        logical::load(&plan, never(), &Silent).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(server.psql(&owner.replace("'copy'", "'moved'")), "mover", "on {major}");
    }
}
