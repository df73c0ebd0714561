//! A cycle through S3: a real server is backed up by files into a bucket over HTTP, and restored from there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use asof_engine::backup::{self, BackupRequest, Reader, Reading};
use asof_engine::progress::Silent;
use asof_engine::restore::{self, Existing, RestoreRequest, WriteOptions};
use asof_engine::server::{self, Server as Link};
use asof_engine::shelf::Shelf;
use asof_engine::source::FilesSource;
use asof_engine::target::{Target, Wanted};
use asof_postgres::conninfo::{Config, Environment};
use asof_postgres::version::Major;
use asof_repository::lineage::BackupKind;
use asof_repository::root::{self, Key};
use asof_repository::store::s3::S3Store;
use asof_repository::store::{Retrying, Store};
use asof_testkit::{Moto, Options, Server, Workdir, digests, fill_small};
use asof_world::{Owner, World};

/// The store as the binary opens it.
fn bucket(world: &World, moto: &Moto) -> Arc<dyn Store> {
    let url = format!("s3://backups/main?endpoint={}", moto.endpoint());
    let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    let variable = |name: &str| keys.contains(&name).then(|| "test".to_owned());
    let store = S3Store::new(world.clone(), &url, variable).expect("the URL is valid");
    Arc::new(Retrying::new(Arc::new(store), world.clone(), Duration::from_secs(10)))
}

fn link(server: &Server) -> Link {
    let environment = Environment::empty(1_800_000_000);
    let config = Config::parse(&server.conninfo(), &environment).expect("the test server's conninfo is valid");
    Link { config, environment }
}

fn reader(world: &World, server: &Server) -> Reader {
    let major = Major::from_number(server.major()).expect("a supported major");
    let source = FilesSource::new(world.clone(), server.data_dir(), major);
    Reader { source: Arc::new(source), reading: Reading::Files }
}

fn request() -> BackupRequest {
    BackupRequest {
        instance: "prod".to_owned(),
        name: "first".to_owned(),
        kind: BackupKind::Manual,
        tags: BTreeMap::new(),
        fast: true,
        jobs: 2,
        rate: None,
        full_read: false,
    }
}

#[expect(clippy::disallowed_methods, reason = "the server's files are real")]
fn owner_of(path: &Path) -> Owner {
    use std::os::unix::fs::MetadataExt;
    let data = std::fs::metadata(path).expect("the data directory exists");
    Owner { uid: data.uid(), gid: data.gid() }
}

/// Backs up into a new repository and returns its key: all that is left for the restore, with the bucket.
async fn back_up(world: &World, moto: &Moto, server: &Server) -> Key {
    let (mut repository, key) = root::init(world, bucket(world, moto), false).await.expect("the repository is made");
    let source = reader(world, server).source;
    let (_, control) = server::read_control(world, source.as_ref()).await.expect("pg_control is read");
    let facts = server::facts(&control);
    let (lineage, _) = repository.register("prod", facts, None).await.expect("the lineage is registered");
    let shelf = Shelf::new(&repository, lineage);
    let made = backup::create(&shelf, &link(server), reader(world, server), &request(), Arc::new(Silent)).await;
    assert!(made.expect("the backup is made").backup.tainted.is_empty());
    Key::parse(&key.text).expect("a fresh key can be read")
}

async fn restore_to(world: &World, moto: &Moto, key: &Key, destination: &Path, owner: Owner) {
    let repository = root::open(world, bucket(world, moto), key, None).await.expect("the repository opens");
    let lineage = repository.lineage_of("prod").expect("the instance is known");
    let shelf = Shelf::new(&repository, lineage);
    let request = RestoreRequest {
        instance: "prod".to_owned(),
        backup: Some("first".to_owned()),
        wanted: Wanted { target: Target::Latest, inclusive: true },
        timeline: None,
        destination: destination.to_owned(),
    };
    let plan = restore::plan(&shelf, &request).await.expect("the restore is planned");
    let options = WriteOptions { existing: Existing::Refuse, jobs: 2, owner: Some(owner) };
    restore::write(&shelf, &plan, options, Arc::new(Silent)).await.expect("the files are written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_restored_from_s3_equals_the_server_it_was_taken_from() {
    let (world, moto) = (World::real(), Moto::with_bucket("backups"));
    let server = Server::running(15, &Options::default());
    fill_small(&server);
    let before = digests(&server, "postgres");
    let key = back_up(&world, &moto, &server).await;
    let work = Workdir::new("cycle-s3");
    let destination = work.path().join("restored");
    restore_to(&world, &moto, &key, &destination, owner_of(server.data_dir())).await;
    let mut restored = Server::adopt(15, &destination);
    restored.start();
    assert_eq!(digests(&restored, "postgres"), before);
}
