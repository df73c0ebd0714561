//! Disks that fill up and connections that break, at many points: nothing that is half made looks whole.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asof_engine::logical::{self, Destination, LoadPlan, Plan};
use asof_engine::progress::{Event, Observer, Silent};
use asof_engine::shelf::Shelf;
use asof_repository::root;
use asof_repository::store::local::LocalStore;
use asof_testkit::{Server, Volume, majors};

use crate::stage::{Stage, databases, in_database, into_new, never, request};
use crate::support::{chain, files_of, link};

/// How many points are tried.
const POINTS: u32 = 20;

/// With so much room left a dump succeeds.
const ROOM: u64 = 20 << 20;

/// A load that waits for a program which waits for it would never end; one takes a second.
const LONGEST: Duration = Duration::from_secs(120);

const ROWS: &str = "
create table noise (id int primary key, body text not null);
insert into noise select n, md5(n::text) || md5((n * 3)::text) || md5((n * 7)::text) from generate_series(1, 120000) n;
create index on noise (body);
create table more (id int primary key references noise, body text);
insert into more select n, md5(n::text) from generate_series(1, 60000) n;
analyze;
";

async fn stage() -> Stage {
    let stage = Stage::new(majors()[0]).await;
    stage.server().psql("create database shop");
    stage.server().psql_in("shop", ROWS);
    stage
}

#[expect(clippy::disallowed_methods, reason = "the test fills a disk and looks at what is left")]
mod disk {
    use std::path::Path;
    use std::process::{Command, Stdio};

    /// Takes room away until so many bytes are left for us. How much there is cannot be asked: file systems keep a part for root
    /// and for themselves. So all of it is taken, and that much given back.
    pub(super) fn leave(volume: &Path, bytes: u64) {
        let ballast = volume.join("ballast");
        let _ = std::fs::remove_file(&ballast);
        sync();
        let mut taken = 0;
        for piece in (12..=26).rev().step_by(2).map(|power| 1_u64 << power) {
            while allocate(&ballast, taken, piece) {
                taken += piece;
            }
        }
        assert!(taken > bytes, "the disk is too small: {taken} bytes");
        let file = std::fs::File::options().write(true).open(&ballast).expect("the ballast");
        file.set_len(taken - bytes).expect("room is given back");
        drop(file);
        sync();
    }

    fn allocate(file: &Path, from: u64, len: u64) -> bool {
        let mut command = Command::new("fallocate");
        command.args(["-o", &from.to_string(), "-l", &len.to_string()]).arg(file).stderr(Stdio::null());
        command.status().expect("fallocate runs").success()
    }

    /// Blocks that were given back can be used when the file system has written that down.
    fn sync() {
        assert!(Command::new("sync").status().expect("sync runs").success());
    }

    /// Names without the ballast and what every file system has.
    pub(super) fn names(volume: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(volume).expect("it can be listed");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| name != "ballast" && name != "lost+found" && name != "repository").collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_anywhere_leaves_no_dump_that_looks_whole() {
    let stage = stage().await;
    // What failed leaves packs in the repository, which nobody collects.
    let volume = Volume::with_size("full", 256);
    let world = stage.protected.world.clone();
    let shelf = shelf_on(&stage, &volume.path()).await;
    let (mut files, mut stored) = (Ended::default(), Ended::default());
    for point in 0..POINTS {
        // A dump takes some 15 MB in a file and 9 in the repository; the record and the journal need a block here and there.
        let room = 4096 + u64::from(point) * ROOM / u64::from(POINTS - 1);
        for to in [Destination::File(volume.path().join("shop.dump")), Destination::Repository(Box::new(shelf.clone()))]
        {
            disk::leave(&volume.path(), room);
            let plan = Plan::make(&world, &stage.clients, &in_database(stage.server(), "shop")).await;
            let name = format!("at {point}");
            let asked = logical::DumpRequest { compress: Some("0".to_owned()), ..request(&name) };
            let made = logical::dump(plan.expect("a plan"), &asked, &to, never(), Arc::new(Silent)).await;
            let ended = if matches!(to, Destination::File(_)) { &mut files } else { &mut stored };
            if let Err(error) = made {
                assert!(chain(&error).contains("No space left"), "at {point}: {}", chain(&error));
                assert_eq!(disk::names(&volume.path()), Vec::<String>::new(), "at {point}");
                ended.failed += 1;
            } else {
                if let Destination::File(path) = &to {
                    let origin = stage.file(path).await.expect("it is whole");
                    logical::verify(&origin, &Silent).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
                    remove(&volume.path());
                }
                ended.succeeded.push(name);
            }
        }
    }
    for ended in [&files, &stored] {
        assert!(ended.failed >= 5 && !ended.succeeded.is_empty(), "{files:?} {stored:?}");
    }
    disk::leave(&volume.path(), 30 << 20);
    // What succeeded is there and whole, and nothing else is there.
    let journal = shelf.journal().await.expect("the journal is read");
    let existing: Vec<_> = journal.state().existing().iter().map(|state| state.backup.clone()).collect();
    assert_eq!(existing.iter().map(|backup| backup.name.clone()).collect::<Vec<_>>(), stored.succeeded);
    for backup in existing {
        let verified = logical::verify_stored(&shelf, &backup, &Silent).await;
        let verified = verified.unwrap_or_else(|error| panic!("{}: {}", backup.name, chain(&error)));
        assert_eq!((verified.tables, verified.rows), (2, Some(180_000)), "{}", backup.name);
    }
}

/// How the dumps into one kind of place ended.
#[derive(Debug, Default)]
struct Ended {
    failed: u32,
    /// Their names.
    succeeded: Vec<String>,
}

#[expect(clippy::disallowed_methods, reason = "the test makes room again")]
fn remove(volume: &Path) {
    for name in disk::names(volume) {
        std::fs::remove_file(volume.join(name)).expect("removed");
    }
}

/// A repository on another disk, that knows the server.
async fn shelf_on(stage: &Stage, disk: &Path) -> Shelf {
    let world = &stage.protected.world;
    let store = Arc::new(LocalStore::new(world.clone(), disk.join("repository")));
    let (mut repository, _) = root::init(world, store, false).await.expect("the repository is made");
    let source = files_of(world, stage.server()).source;
    let (_, control) = asof_engine::server::read_control(world, source.as_ref()).await.expect("pg_control is read");
    let facts = asof_engine::server::facts(&control);
    let (lineage, _) = repository.register("prod", facts, None).await.expect("the lineage is registered");
    Shelf::new(&repository, lineage)
}

/// Ends every session of a client program when that many events of progress have come.
struct Breaking {
    left: AtomicU32,
    server: Mutex<Option<Killer>>,
}

struct Killer {
    psql: std::process::Command,
}

impl Breaking {
    fn after(events: u32, server: &Server, application: &str) -> Self {
        let mut psql = server.tool("psql");
        let sql = format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = '{application}' and pid <> pg_backend_pid()"
        );
        psql.args(["-X", "-q", "-A", "-t", "-c", &sql]).stdout(std::process::Stdio::null());
        Self { left: AtomicU32::new(events), server: Mutex::new(Some(Killer { psql })) }
    }
}

impl Observer for Breaking {
    fn event(&self, event: Event) {
        if !matches!(event, Event::Advance(_) | Event::Phase(_)) || self.left.fetch_sub(1, Ordering::Relaxed) != 0 {
            return;
        }
        if let Some(mut killer) = self.server.lock().expect("no holder panics").take() {
            assert!(killer.psql.status().expect("psql runs").success());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_anywhere_leaves_no_dump_and_no_database() {
    let stage = stage().await;
    let world = stage.protected.world.clone();
    stage.stored("shop", "whole").await;
    let (mut broken_dumps, mut broken_loads) = (0, 0);
    for point in 0..POINTS {
        let plan = Plan::make(&world, &stage.clients, &in_database(stage.server(), "shop")).await.expect("a plan");
        let name = format!("at {point}");
        let breaking = Arc::new(Breaking::after(point, stage.server(), "asof-dump"));
        let made = logical::dump(plan, &request(&name), &stage.repository(), never(), breaking).await;
        let exists = stage.backups().await.iter().any(|backup| backup.name == name);
        assert_eq!(made.is_ok(), exists, "at {point}");
        broken_dumps += u32::from(made.is_err());

        let clients = crate::stage::clients(&world, stage.server()).await;
        let server = link(stage.server());
        let plan = LoadPlan::make(&world, &clients, stage.origin("whole").await, &server, into_new("half")).await;
        let breaking = Breaking::after(point, stage.server(), "asof-load");
        let loaded = logical::load(&plan.expect("a plan"), never(), &breaking).await;
        let expected: &[&str] = if loaded.is_ok() { &["half", "shop"] } else { &["shop"] };
        assert_eq!(databases(stage.server()), expected, "at {point}: {:?}", loaded.err().map(|error| chain(&error)));
        broken_loads += u32::from(expected.len() == 1);
        stage.server().psql("drop database if exists half");
    }
    assert!(broken_dumps >= 2 && broken_loads >= 3, "{broken_dumps} dumps and {broken_loads} loads broke");
}

const LOSE: &str = "delete from more; delete from noise where id > 10";

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_while_a_table_is_replaced_leaves_the_table_as_it_was() {
    let stage = stage().await;
    let (world, server) = (stage.protected.world.clone(), stage.server());
    stage.stored("shop", "whole").await;
    server.psql_in("shop", LOSE);
    let mut broken = 0;
    for point in 0..POINTS {
        let clients = crate::stage::clients(&world, server).await;
        let tables = vec!["noise".to_owned()];
        let (policy, conflict) = (logical::Policy::IntoExisting, logical::Conflict::Replace);
        let request = logical::LoadRequest { tables, conflict, ..logical::LoadRequest::new("shop", policy) };
        let plan = LoadPlan::make(&world, &clients, stage.origin("whole").await, &link(server), request).await;
        let plan = plan.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let breaking = Breaking::after(point, server, "asof-load");
        #[expect(clippy::disallowed_methods, reason = "what is looked for is a load that never ends")]
        let loaded = tokio::time::timeout(LONGEST, logical::load(&plan, never(), &breaking)).await;
        let loaded = loaded.unwrap_or_else(|_| panic!("after {point} events it waits for ever"));
        let rows = server.psql_in("shop", "select count(*) from noise");
        assert_eq!(rows == "10", loaded.is_err(), "after {point} events: {rows} rows, {loaded:?}");
        if loaded.is_ok() {
            server.psql_in("shop", LOSE);
        }
        broken += u32::from(loaded.is_err());
    }
    assert!(broken >= 3, "{broken} loads broke");
}
