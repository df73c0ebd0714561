//! The full cycle on real servers (fill, back up, receive WAL, change, restore everything, compare), over every supported
//! major, both ways to read an instance, a directory and a bucket, and both kinds of key on the protected host.
//!
//! A run of the tests takes rows that hold every pair of values; `ASOF_MATRIX=full`, the campaign, takes the whole product.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use asof_engine::backup::Reading;
use asof_engine::restore::RestoreRequest;
use asof_engine::target::Target;
use asof_engine::wal::stream::Pace;
use asof_repository::store::local::LocalStore;
use asof_repository::store::s3::S3Store;
use asof_repository::store::{Retrying, Store};
use asof_testkit::{
    Digest, Moto, Options, Server, Workdir, assert_same_dump, assert_sound, digests, dump, fill_small, majors,
};
use asof_world::World;

use support::{Host, Protected, opened};

const MAJORS: [u32; 6] = [13, 14, 15, 16, 17, 18];
const READINGS: [Reading; 2] = [Reading::Files, Reading::Sql];
const PLACES: [Place; 2] = [Place::Directory, Place::Bucket];
const HOSTS: [Host; 2] = [Host::FullKey, Host::WriteOnlyKey];

const DATABASES: [&str; 2] = ["postgres", "another"];

/// Where the repository is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Directory,
    Bucket,
}

/// One combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row(u32, Reading, Place, Host);

/// Each major needs two rows that have nothing else in common; which two, alternates, so that the other pairs come in.
const PAIRWISE: [Row; 12] = [
    Row(13, Reading::Files, Place::Directory, Host::FullKey),
    Row(13, Reading::Sql, Place::Bucket, Host::WriteOnlyKey),
    Row(14, Reading::Files, Place::Bucket, Host::WriteOnlyKey),
    Row(14, Reading::Sql, Place::Directory, Host::FullKey),
    Row(15, Reading::Files, Place::Bucket, Host::FullKey),
    Row(15, Reading::Sql, Place::Directory, Host::WriteOnlyKey),
    Row(16, Reading::Files, Place::Directory, Host::WriteOnlyKey),
    Row(16, Reading::Sql, Place::Bucket, Host::FullKey),
    Row(17, Reading::Files, Place::Bucket, Host::FullKey),
    Row(17, Reading::Sql, Place::Directory, Host::WriteOnlyKey),
    Row(18, Reading::Files, Place::Directory, Host::WriteOnlyKey),
    Row(18, Reading::Sql, Place::Bucket, Host::FullKey),
];

fn product() -> Vec<Row> {
    let hosts = |major, reading, place| HOSTS.into_iter().map(move |host| Row(major, reading, place, host));
    let places = |major, reading| PLACES.into_iter().flat_map(move |place| hosts(major, reading, place));
    let readings = |major| READINGS.into_iter().flat_map(move |reading| places(major, reading));
    MAJORS.into_iter().flat_map(readings).collect()
}

/// Every two values that stand in a row together.
fn pairs(rows: &[Row]) -> BTreeSet<(String, String)> {
    let values =
        |row: &Row| [row.0.to_string(), format!("{:?}", row.1), format!("{:?}", row.2), format!("{:?}", row.3)];
    let of_row = |row: &Row| {
        let values = values(row);
        (0..4)
            .flat_map(|a| (a + 1..4).map(move |b| (a, b)))
            .map(|(a, b)| (values[a].clone(), values[b].clone()))
            .collect()
    };
    rows.iter().flat_map(|row| -> Vec<(String, String)> { of_row(row) }).collect()
}

#[test]
fn the_rows_of_a_run_hold_every_pair_of_values_and_none_is_needless() {
    let product = product();
    assert_eq!((product.len(), pairs(&product).len()), (48, 6 * 2 * 3 + 3 * 4));
    assert_eq!(pairs(&PAIRWISE), pairs(&product));
    for left_out in PAIRWISE {
        let others: Vec<Row> = PAIRWISE.into_iter().filter(|row| *row != left_out).collect();
        assert!(pairs(&others).len() < pairs(&product).len(), "{left_out:?} adds nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_by_files_equals_the_server_it_was_taken_from() {
    cycles(Reading::Files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_by_sql_equals_the_server_it_was_taken_from() {
    cycles(Reading::Sql).await;
}

#[expect(clippy::disallowed_methods, reason = "the campaign says by the environment that it wants all rows")]
fn rows() -> Vec<Row> {
    match std::env::var("ASOF_MATRIX") {
        Ok(word) => {
            assert_eq!(word, "full", "ASOF_MATRIX is full or not set");
            product()
        }
        Err(_) => PAIRWISE.to_vec(),
    }
}

#[expect(clippy::disallowed_macros, reason = "a campaign says what it has tried")]
async fn cycles(reading: Reading) {
    let majors = majors();
    let rows: Vec<Row> = rows().into_iter().filter(|row| row.1 == reading && majors.contains(&row.0)).collect();
    assert!(!rows.is_empty(), "{majors:?}");
    for row in &rows {
        cycle(*row).await;
        println!("  equal twice: {row:?}");
    }
    println!(r#"{{"campaign":"matrix","reading":"{reading:?}","rows":{0},"equal":{0}}}"#, rows.len());
}

/// The store as the binary opens it, anew for everybody who does.
struct Sink {
    moto: Option<Moto>,
    work: std::path::PathBuf,
}

impl Sink {
    fn new(place: Place, work: &Workdir) -> Self {
        let moto = (place == Place::Bucket).then(|| Moto::with_bucket("backups"));
        Self { moto, work: work.path().to_owned() }
    }

    fn open(&self, world: &World) -> Arc<dyn Store> {
        let Some(moto) = &self.moto else {
            return Arc::new(LocalStore::new(world.clone(), self.work.join("repository")));
        };
        let url = format!("s3://backups/main?endpoint={}", moto.endpoint());
        let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        let variable = |name: &str| keys.contains(&name).then(|| "test".to_owned());
        let store = S3Store::new(world.clone(), &url, variable).expect("the URL is valid");
        Arc::new(Retrying::new(Arc::new(store), world.clone(), Duration::from_secs(10)))
    }
}

async fn cycle(row: Row) {
    let Row(major, reading, place, host) = row;
    let (world, work) = (World::real(), Workdir::new("matrix"));
    let sink = Sink::new(place, &work);
    let server = Server::running(major, &Options::default());
    let mut production = Protected::stored(server, work, sink.open(&world), host).await;
    fill_small(&production.server);
    add_odd_things(&production.server);

    let first = production.backup_by("first", reading).await;
    let receiver = production.receiver(Pace::Every(Duration::from_millis(300)));
    production.server.psql("INSERT INTO moved SELECT g, 'between' FROM generate_series(1, 100) g");
    let second = production.backup_by("second", reading).await;
    assert!(first.backup.tainted.is_empty() && second.backup.tainted.is_empty());
    assert!(second.backup.sizes.changed < first.backup.sizes.changed / 10, "{:?}", second.backup.sizes);
    assert!(second.backup.sizes.stored < first.backup.sizes.stored / 5, "{:?}", second.backup.sizes);
    change(&production.server);
    receiver.catch_up(&production.server).await;
    receiver.stop().await;

    let (contents, text) = (contents(&production.server), dump(&production.server));
    assert!(text.contains("CREATE ROLE reader") && text.contains("COPY public.later "), "the dump is not whole");
    production.server.stop();
    // All that is left is the key and the repository.
    production.owner = opened(&world, sink.open(&world), &production.key).await;
    for name in ["first", "second"] {
        let latest = production.wanted(Target::Latest, true);
        let restored = production.restored(&RestoreRequest { backup: Some(name.to_owned()), ..latest }).await;
        let what = format!("{name} of {row:?}");
        assert_eq!(self::contents(&restored), contents, "{what}");
        assert_same_dump(&dump(&restored), &text, &what);
        DATABASES.iter().for_each(|database| assert_sound(&restored, database));
    }
}

fn contents(server: &Server) -> [BTreeMap<String, Digest>; 2] {
    DATABASES.map(|database| digests(server, database))
}

/// Things that the small data set does not have: a tablespace, an empty database, an awkward name, a role.
fn add_odd_things(server: &Server) {
    let tablespace = server.tablespace_dir("elsewhere");
    server.psql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", tablespace.display()));
    server.psql("CREATE TABLE moved (a int, b text) TABLESPACE elsewhere");
    server.psql("INSERT INTO moved SELECT g, repeat('x', g % 300) FROM generate_series(1, 20000) g");
    server.psql("CREATE DATABASE another");
    server.psql_in("another", "CREATE TABLE there (a int); INSERT INTO there SELECT generate_series(1, 1000)");
    server.psql("CREATE TABLE \"weird \"\"name\"\" \\ here\" AS SELECT 1 AS a");
    server.psql("CREATE ROLE reader LOGIN PASSWORD 'secret'; GRANT SELECT ON moved TO reader");
}

/// What happens behind the last backup, and is there by WAL alone: new, changed, cut, moved and dropped things.
fn change(server: &Server) {
    server.psql(
        "CREATE TABLE later TABLESPACE elsewhere AS SELECT g AS a, md5(g::text) AS b FROM generate_series(1, 20000) g",
    );
    server
        .psql("CREATE UNIQUE INDEX later_b ON later (b, a); DELETE FROM later WHERE a % 3 = 0; VACUUM (FREEZE) later");
    server.psql("UPDATE customer SET note = note || 'later' WHERE id % 9 = 0");
    server.psql("DELETE FROM picture WHERE id > 300; VACUUM FULL picture");
    server.psql("ALTER TABLE moved SET TABLESPACE pg_default; DROP MATERIALIZED VIEW event_by_kind");
    server.psql("TRUNCATE event_q1; SELECT lo_unlink(70001)");
    server.psql_in("another", "INSERT INTO there SELECT generate_series(1001, 3000)");
    server.psql("ALTER ROLE reader CONNECTION LIMIT 3");
}
