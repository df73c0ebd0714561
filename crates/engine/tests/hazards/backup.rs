//! A: taking the base backup.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use asof_engine::source::{FilesSource, Listing, Source, SourceFile};
use asof_engine::target::Target;
use asof_engine::{Error, Result, server};
use asof_postgres::control::{ControlFile, with_poisoned_checkpoint};
use asof_postgres::version::Major;
use asof_repository::lineage::Backup;
use asof_repository::map::open_map;
use asof_testkit::{Options, Workdir, digests, fill_small, majors};
use asof_world::World;
use async_trait::async_trait;

use crate::stage::{Failing, Interrupted, Stage, Unanswered};

#[tokio::test(flavor = "multi_thread")]
async fn hz_a1_a_restored_instance_does_not_start_without_its_label_and_production_starts_without_one() {
    let stage = Stage::plain().await;
    stage.sql("create table t as select generate_series(1, 5000) as n");
    stage.back_up("one").await.expect("the backup is made");
    let restored = stage.restore("one", "restored").await;
    for name in ["backup_label", "recovery.signal"] {
        fs::remove_file(restored.join(name)).expect("it is there"); // somebody wants to make it start
    }
    let refusal = asof_testkit::Server::adopt(stage.major, &restored).try_start();
    let refusal = refusal.expect_err("it started without its label");
    assert!(refusal.contains("checkpoint"), "{refusal}");
    // The label of a backup that is under way never lies in the server's own directory: it survives a crash.
    let server = stage.server.clone();
    let crash = Interrupted::new(stage.files(), 200, move || server.lock().expect("no holder panics").kill());
    stage.back_up_from("two", crash).await.expect_err("the server is gone");
    stage.server().start();
    assert_eq!(stage.sql("select count(*) from t"), "5000");
}

/// Ends every client's session and waits until they are gone; replication goes on.
const END_SESSIONS: &str = "do $$ begin
  perform pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid();
  while exists (select from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()) loop
    perform pg_sleep(0.01), pg_stat_clear_snapshot();
  end loop;
end $$";

#[tokio::test(flavor = "multi_thread")]
async fn hz_a2_a_backup_whose_session_ended_while_copying_is_none() {
    let stage = Stage::plain().await;
    for (name, at) in [("early", 1), ("late", 700)] {
        let server = stage.server.clone();
        let ends = Interrupted::new(stage.files(), at, move || {
            server.lock().expect("no holder panics").psql(END_SESSIONS);
        });
        let made = stage.back_up_from(name, ends).await;
        assert!(made.is_err(), "a backup was committed whose session had ended: {name}");
    }
    assert_eq!(stage.backups().await, []);
    stage.back_up("undisturbed").await.expect("the backup is made");
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_a3_a_standby_whose_wal_cannot_mend_torn_pages_is_refused() {
    let stage = Stage::with(&["full_page_writes = off"]).await;
    stage.sql("create table t as select generate_series(1, 5000) as n; checkpoint");
    stage.back_up("of-primary").await.expect("a primary writes images while it is backed up");
    stage.server().stop();
    stage.server().write_data_file("standby.signal", b"");
    stage.server().start();
    let made = stage.back_up("of-standby").await;
    let Err(Error::Refused { what, .. }) = &made else { panic!("not refused by us: {made:?}") };
    assert!(what.contains("full_page_writes"), "{what}");
    assert_eq!(stage.backups().await.len(), 1);
}

/// A listing made at a moment when a new database did not have all of its files.
struct Early {
    inner: FilesSource,
    missing: Vec<u8>,
}

#[async_trait]
impl Source for Early {
    async fn list(&self) -> Result<Listing> {
        let mut listing = self.inner.list().await?;
        listing.files.retain(|file| file.path != self.missing);
        Ok(listing)
    }

    async fn open(&self, path: &[u8]) -> Result<Option<Arc<dyn SourceFile>>> {
        self.inner.open(path).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_a6_a_database_that_is_created_during_the_backup_arrives_whole_or_not_at_all() {
    let stage = Stage::plain().await;
    stage.sql("create database young");
    let oid = stage.sql("select oid from pg_database where datname = 'young'");
    for name in ["PG_VERSION", "pg_filenode.map"] {
        let missing = format!("base/{oid}/{name}").into_bytes();
        let made = stage.back_up_from(name, Early { inner: stage.files(), missing }).await;
        assert!(made.is_err(), "a backup was committed in which a database lacks {name}");
    }
    for (number, at) in [1, 300, 800].into_iter().enumerate() {
        let server = stage.server.clone();
        let creates = Interrupted::new(stage.files(), at, move || {
            let (server, name) = (server.lock().expect("no holder panics"), format!("born_{number}"));
            server.psql(&format!("create database {name}"));
            server.psql_in(&name, "create table t as select generate_series(1, 1000) as n");
            server.psql("drop database if exists young");
        });
        stage.back_up_from(&format!("at-{at}"), creates).await.expect("databases may come and go");
    }
    let restored = stage.start(&stage.restore("at-800", "restored").await);
    for number in 0..3 {
        assert_eq!(restored.psql_in(&format!("born_{number}"), "select count(*) from t").trim(), "1000");
    }
}

/// `pg_control` of a server that writes it: the first reads see halves of two versions.
struct Torn {
    versions: [Vec<u8>; 2],
    reads: AtomicUsize,
    torn: usize,
}

#[async_trait]
impl Source for Shared {
    async fn list(&self) -> Result<Listing> {
        Ok(Listing::default())
    }

    async fn open(&self, _: &[u8]) -> Result<Option<Arc<dyn SourceFile>>> {
        Ok(Some(Arc::new(TornFile(self.0.clone()))))
    }
}

struct TornFile(Arc<Torn>);

struct Shared(Arc<Torn>);

#[async_trait]
impl SourceFile for TornFile {
    fn len(&self) -> u64 {
        self.0.versions[0].len() as u64
    }

    async fn read(&self, _: u64, _: usize) -> Result<Vec<u8>> {
        let [old, new] = &self.0.versions;
        match self.0.reads.fetch_add(1, Ordering::Relaxed) {
            read if read < self.0.torn => Ok([&new[..36], &old[36..]].concat()),
            _ => Ok(new.clone()),
        }
    }
}

#[tokio::test]
async fn hz_a4_a_control_file_that_is_being_written_is_read_until_it_is_whole() {
    let old = include_bytes!("../../../postgres/testdata/pg_control-15").to_vec();
    let new = other_checkpoint(&old);
    for torn in [0, 1, 7] {
        let source = Shared(Arc::new(Torn { versions: [old.clone(), new.clone()], reads: AtomicUsize::new(0), torn }));
        let (read, _) = server::read_control(&World::real(), &source).await.expect("it becomes whole");
        assert_eq!(read, new, "halves of two control files, after {torn} torn reads");
    }
    let source = Shared(Arc::new(Torn { versions: [old, new], reads: AtomicUsize::new(0), torn: usize::MAX }));
    let error = server::read_control(&World::real(), &source).await.expect_err("it never becomes whole");
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

/// A valid control file that differs in the bytes of its checkpoint and its checksum.
fn other_checkpoint(control: &[u8]) -> Vec<u8> {
    let mut other = with_poisoned_checkpoint(control).expect("a fixture is valid");
    if other == control {
        other[32] ^= 1; // the poison itself is switched off
    }
    assert!(ControlFile::parse(&other).is_ok());
    other
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_a5_a_file_that_cannot_be_read_fails_the_backup_and_one_that_vanished_does_not() {
    let stage = Stage::plain().await;
    stage.sql("create table precious as select generate_series(1, 20000) as n; checkpoint");
    let precious = stage.path_of("precious");
    for (operation, trouble) in [
        ("open", io::ErrorKind::PermissionDenied.into()),
        ("open", io::Error::from_raw_os_error(5)),
        ("open", io::Error::from_raw_os_error(40)),
        ("read", io::Error::from_raw_os_error(5)),
    ] {
        let (precious, what) = (precious.clone(), trouble.to_string());
        let world = Failing::world(&stage.world, move |called, path| {
            let hit = called == operation && path.ends_with(&precious);
            if !hit {
                Ok(())
            } else {
                Err(trouble.raw_os_error().map_or(trouble.kind().into(), io::Error::from_raw_os_error))
            }
        });
        let source = FilesSource::new(world, &stage.data, crate::stage::version(stage.major));
        let made = stage.back_up_from(&what, source).await;
        assert!(made.is_err(), "a table was left out after \"{what}\", and the backup counts");
    }
    // Tables that go, shrink and grow while they are copied are no error.
    stage.sql(
        "create table gone as select generate_series(1, 20000) as n; create table short as table gone; checkpoint",
    );
    let server = stage.server.clone();
    let storm = Interrupted::new(stage.files(), 1, move || {
        let server = server.lock().expect("no holder panics");
        server.psql("drop table gone");
        server.psql("truncate short; insert into precious select generate_series(1, 9000); checkpoint");
    });
    let report = stage.back_up_from("storm", storm).await.expect("files may vanish");
    assert!(report.vanished > 0);
    let expected = digests(&stage.server(), "postgres");
    let restored = stage.start(&stage.restore("storm", "restored").await);
    assert_eq!(digests(&restored, "postgres"), expected);
}

#[tokio::test]
async fn hz_a7_a_link_whose_content_nobody_judged_is_refused_and_known_ones_are_followed_once() {
    let work = Workdir::new("links");
    let root = work.directory("data");
    let list = || FilesSource::new(World::real(), &root, Major::V15);
    for directory in [
        "base/5",
        "global",
        "pg_tblspc",
        "pg_replslot",
        "elsewhere/PG_15_202209061/5",
        "elsewhere/PG_14_202107181/5",
        "wal",
    ] {
        fs::create_dir_all(root.join(directory)).expect("made");
    }
    fs::create_dir_all(work.path().join("space/PG_15_202209061/5")).expect("made");
    fs::create_dir_all(work.path().join("space/PG_14_202107181/5")).expect("made");
    fs::write(work.path().join("space/PG_15_202209061/5/1000"), "ours").expect("made");
    fs::write(work.path().join("space/PG_14_202107181/5/1000"), "of another major").expect("made");
    let link = |target: &Path, name: &str| std::os::unix::fs::symlink(target, root.join(name)).expect("linked");
    link(&work.path().join("space"), "pg_tblspc/16384");
    link(&work.path().join("wal elsewhere"), "pg_wal");
    let listing = list().list().await.expect("links of PostgreSQL are followed");
    let below: Vec<String> = listing
        .files
        .iter()
        .map(|file| String::from_utf8_lossy(&file.path).into_owned())
        .filter(|path| path.starts_with("pg_tblspc"))
        .collect();
    assert_eq!(below, ["pg_tblspc/16384/PG_15_202209061/5/1000"]);
    for (target, name) in [
        (Path::new("/etc/hostname"), "base/5/1259"),
        (root.as_path(), "base/circle"),
        (Path::new("dangling"), "global/dangling"),
        (Path::new("../elsewhere"), "pg_tblspc/not-a-number"),
        (Path::new("/etc"), "pg_xact"),
    ] {
        link(target, name);
        let listed = list().list().await;
        fs::remove_file(root.join(name)).expect("removed");
        let error = listed.err().unwrap_or_else(|| panic!("{name} leads to {}, and nobody was told", target.display()));
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// Every file below a directory, as paths relative to it.
fn tree(root: &Path) -> BTreeSet<String> {
    let (mut open, mut found) = (vec![root.to_owned()], BTreeSet::new());
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(root).expect("below it").to_string_lossy().into_owned());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_a8_what_a_base_backup_leaves_out_is_left_out_and_unlogged_tables_come_back_empty() {
    let stage = Stage::with(&["autovacuum = off"]).await;
    fill_small(&stage.server());
    stage.sql("checkpoint");
    let reference = stage.work.path().join("reference");
    let mut basebackup = stage.server().tool("pg_basebackup");
    let status = basebackup.args(["-c", "fast", "-X", "none", "--no-manifest", "-D"]).arg(&reference).status();
    assert!(status.expect("pg_basebackup runs").success());
    let listing = stage.files().list().await.expect("listed").without_unlogged();
    let ours: BTreeSet<String> =
        listing.files.iter().map(|file| String::from_utf8_lossy(&file.path).into_owned()).collect();
    let mut theirs = tree(&reference);
    theirs.retain(|path| !["backup_label", "global/pg_control"].contains(&path.as_str()));
    let differ: Vec<&String> = theirs.symmetric_difference(&ours).collect();
    assert!(differ.is_empty(), "other files than in a base backup: {differ:?}");
    stage.back_up("one").await.expect("the backup is made");
    let restored = stage.start(&stage.restore("one", "restored").await);
    let sql = "select count(*) from scratch; insert into scratch values (1, 'one'); \
               set enable_seqscan = off; select word from scratch where id = 1";
    assert_eq!(restored.psql(sql).trim(), "0\none");
}

/// The bytes of `page` in a file of the server, changed in one bit.
fn flip(path: &Path, page: u64) {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path).expect("the file is there");
    let (at, mut byte) = (page * 8192 + 5000, [0]);
    file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut byte)).expect("the page is there");
    byte[0] ^= 4;
    file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&byte)).expect("the page is changed");
}

/// A file whose first reads see its first page half written.
struct BeingWritten {
    inner: FilesSource,
    path: String,
    torn: usize,
    /// Happens when the file is opened: the backup has started, and nothing of the file is read.
    meanwhile: Box<dyn Fn() + Send + Sync>,
}

impl BeingWritten {
    fn new(stage: &Stage, path: &str, torn: usize, meanwhile: &'static str) -> Self {
        let server = stage.server.clone();
        let meanwhile = Box::new(move || drop(server.lock().expect("no holder panics").psql(meanwhile)));
        Self { inner: stage.files(), path: path.to_owned(), torn, meanwhile }
    }
}

struct HalfWritten {
    file: Arc<dyn SourceFile>,
    left: AtomicUsize,
}

#[async_trait]
impl Source for BeingWritten {
    async fn list(&self) -> Result<Listing> {
        self.inner.list().await
    }

    async fn open(&self, path: &[u8]) -> Result<Option<Arc<dyn SourceFile>>> {
        let watched = path == self.path.as_bytes();
        if watched {
            (self.meanwhile)();
        }
        let opened = self.inner.open(path).await?;
        Ok(opened.map(|file| match watched {
            true => Arc::new(HalfWritten { file, left: AtomicUsize::new(self.torn) }),
            false => file,
        }))
    }
}

#[async_trait]
impl SourceFile for HalfWritten {
    fn len(&self) -> u64 {
        self.file.len()
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = self.file.read(offset, len).await?;
        let torn = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if torn && let Some(second_half) = bytes.get_mut(4096..8192) {
            second_half.fill(7);
        }
        Ok(bytes)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_a9_damage_is_found_in_a_cold_page_and_a_page_being_written_raises_no_alarm() {
    let stage = Stage::plain().await;
    stage.sql("create table cold as select n, repeat('x', 100) from generate_series(1, 5000) n; checkpoint");
    let path = stage.path_of("cold");
    let being_written = BeingWritten::new(&stage, &path, 4, "select 1");
    let report = stage.back_up_from("written", being_written).await.expect("the backup is made");
    assert_eq!(report.backup.tainted, [""; 0], "an alarm about a page that was being written");
    flip(&stage.data.join(&path), 3);
    let report = stage.back_up("damaged").await.expect("the backup is made");
    let [taint] = &report.backup.tainted[..] else { panic!("damage was missed: {:?}", report.backup.tainted) };
    assert!(taint.contains(&path) && taint.contains("page 3"), "{taint}");
}

/// Pages of a file that a backup's map marks as torn.
async fn marked_as_torn(stage: &Stage, backup: &Backup, path: &str) -> Vec<u32> {
    let asof_engine::shelf::Shelf { store, keyring, signers, lineage, .. } = &stage.shelf;
    let map =
        open_map(store.clone(), keyring, signers, *lineage, backup.id, &backup.map).await.expect("the map is read");
    let part = map.find(path.as_bytes()).await.expect("a part is read").expect("the file is in the map");
    let runs = &part.file(path.as_bytes()).expect("the part was found for it").runs;
    let firsts = runs.iter().scan(0, |page, run| Some(std::mem::replace(page, *page + run.pages)));
    firsts.zip(runs).filter(|(_, run)| run.torn).map(|(page, _)| page).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_a9_a_page_that_stays_torn_counts_as_whole_only_if_wal_holds_its_image() {
    for major in majors() {
        let stage = Stage::of_major(major, &Options::default()).await;
        stage.sql("create table hot as select n, repeat('x', 100) as x from generate_series(1, 5000) n; checkpoint");
        let path = stage.path_of("hot");
        let always = |meanwhile| BeingWritten::new(&stage, &path, usize::MAX, meanwhile);
        let report = stage.back_up_from("mended", always("update hot set n = -1 where n = 1")).await.expect("is made");
        assert_eq!(report.backup.tainted, [""; 0], "WAL mends the page");
        assert_eq!(marked_as_torn(&stage, &report.backup, &path).await, [0]);
        let expected = stage.sql("select sum(n), count(*) from hot");
        let restored = stage.start(&stage.restore("mended", "restored").await);
        assert_eq!(restored.psql("select sum(n), count(*) from hot").trim(), expected);
        drop(restored);
        // Its image lies before this backup; the image of another page does not help; and this page is not the parent's.
        for (name, meanwhile) in [("cold", "select 1"), ("other", "update hot set n = -2 where ctid = '(9,1)'")] {
            let report = stage.back_up_from(name, always(meanwhile)).await.expect("the backup is made");
            let [taint] = &report.backup.tainted[..] else { panic!("{name}: {:?}", report.backup.tainted) };
            assert!(taint.contains(&path) && taint.contains("page 0"), "{taint}");
            assert_eq!(marked_as_torn(&stage, &report.backup, &path).await, [0; 0], "{name}: nothing mends it");
        }
        let report = stage.back_up("whole").await.expect("the backup is made");
        assert_eq!(report.backup.tainted, [""; 0]);
        let expected = stage.sql("select sum(n), count(*) from hot");
        let restored = stage.start(&stage.restore("whole", "restored-whole").await);
        assert_eq!(restored.psql("select sum(n), count(*) from hot").trim(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_a9_a_page_of_a_visibility_map_that_stays_torn_is_stored_empty() {
    let stage = Stage::plain().await;
    stage.sql("create table hot as select n from generate_series(1, 5000) n; create index on hot (n)");
    stage.sql("vacuum hot; checkpoint");
    let path = format!("{}_vm", stage.path_of("hot"));
    let torn = BeingWritten::new(&stage, &path, usize::MAX, "delete from hot where n % 10 = 0");
    let report = stage.back_up_from("one", torn).await.expect("the backup is made");
    assert_eq!(report.backup.tainted, [""; 0]);
    let restored = stage.restore("one", "restored").await;
    let page = fs::read(restored.join(&path)).expect("it is restored");
    assert!(page.iter().all(|byte| *byte == 0), "a wrong visibility map was restored");
    let restored = stage.start(&restored);
    let index_only = "set enable_seqscan = off; set enable_bitmapscan = off; select count(*) from hot where n > 0";
    assert_eq!(restored.psql(index_only).trim(), "4500");
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_a10_a_damaged_backup_never_takes_the_place_of_the_last_clean_one() {
    let stage = Stage::plain().await;
    stage.sql("create table cold as select n, repeat('x', 100) from generate_series(1, 5000) n; checkpoint");
    stage.back_up("clean").await.expect("the backup is made");
    flip(&stage.data.join(stage.path_of("cold")), 3);
    let damaged = stage.back_up("damaged").await.expect("the backup is made");
    assert!(!damaged.backup.tainted.is_empty());
    let to = stage.work.path().join("restored");
    let plan = stage.plan(None, Target::Latest, &to).await.expect("planned");
    assert_eq!(plan.backup.name, "clean", "the damaged backup was chosen");
    let plan = stage.plan(Some("damaged"), Target::Latest, &to).await.expect("planned");
    assert!(plan.warnings.iter().any(|warning| warning.contains("wrong page checksums")), "{:?}", plan.warnings);
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_a11_a_backup_whose_wal_is_not_in_the_repository_is_none() {
    let stage = Stage::plain().await;
    let shelf = Unanswered::shelf(&stage.shelf, |operation, name| operation == "create" && name.contains("/wal/"));
    let made = stage.back_up_into(&shelf, "without-wal", stage.files()).await;
    assert!(made.is_err(), "a backup was committed without its WAL");
    assert_eq!(stage.backups().await, []);
    stage.back_up("with-wal").await.expect("the backup is made");
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_a12_a_standby_that_is_promoted_half_way_gives_no_backup() {
    let stage = Stage::plain().await;
    stage.sql("create table t as select generate_series(1, 5000) as n; checkpoint");
    stage.server().stop();
    stage.server().write_data_file("standby.signal", b"");
    stage.server().start();
    assert_eq!(stage.sql("select pg_is_in_recovery()"), "t");
    stage.back_up("of-standby").await.expect("a standby can be backed up");
    let server = stage.server.clone();
    let promoted = Interrupted::new(stage.files(), 300, move || {
        server.lock().expect("no holder panics").psql("select pg_promote(true, 60)");
    });
    let made = stage.back_up_from("promoted", promoted).await;
    assert!(made.is_err(), "a backup was committed across a promotion");
    assert_eq!(stage.backups().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_a13_a_broken_attempt_is_never_continued_with_files_of_another_moment() {
    let stage = Stage::plain().await;
    fill_small(&stage.server());
    stage.sql("create table t as select n, 1 as generation from generate_series(1, 20000) n; checkpoint");
    let files = stage.files().list().await.expect("listed").without_unlogged().files.len();
    let server = stage.server.clone();
    let breaks = Interrupted::new(stage.files(), files * 95 / 100, move || {
        server.lock().expect("no holder panics").psql(END_SESSIONS);
    });
    stage.back_up_from("broken", breaks).await.expect_err("its session ended");
    stage.sql("update t set generation = 2; delete from customer where id % 3 = 0; vacuum; checkpoint");
    stage.back_up("again").await.expect("the backup is made");
    stage.sql("update t set generation = 3; checkpoint");
    stage.back_up("and-again").await.expect("the backup is made");
    let expected = digests(&stage.server(), "postgres");
    let restored = stage.start(&stage.restore("and-again", "restored").await);
    assert_eq!(digests(&restored, "postgres"), expected, "pages of another moment");
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_a14_names_of_any_bytes_and_sparse_files_come_back_as_they_were() {
    let stage = Stage::plain().await;
    let names: [&[u8]; 5] = [b" leading", b"a=b[c]#\\d", b"not \xff utf-8 \xfe", b"new\nline", b"tab\tquote\"'"];
    for name in names {
        fs::write(stage.data.join(std::ffi::OsStr::from_bytes(name)), name).expect("written");
    }
    let sparse = stage.data.join("sparse");
    let mut file = fs::File::create(&sparse).expect("made");
    file.seek(SeekFrom::Start((48 << 20) + 5)).and_then(|_| file.write_all(b"end")).expect("written");
    let report = stage.back_up("odd").await.expect("the backup is made");
    assert!(report.backup.sizes.stored < 40 << 20, "holes are stored: {:?}", report.backup.sizes);
    let restored = stage.restore("odd", "restored").await;
    for name in names {
        let found = fs::read(restored.join(std::ffi::OsStr::from_bytes(name)));
        let shown = String::from_utf8_lossy(name);
        assert_eq!(found.unwrap_or_else(|error| panic!("{shown:?}: {error}")), name);
    }
    assert_eq!(fs::read(restored.join("sparse")).expect("is there"), fs::read(sparse).expect("is there"));
}
