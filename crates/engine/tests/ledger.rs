//! No acknowledged commit is lost: clients keep a ledger of what they were told, the server is lost, the repository is all
//! that remains (hazard programme T12, in short).

mod support;

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asof_engine::progress::Silent;
use asof_engine::server::Server as Link;
use asof_engine::shelf::Shelf;
use asof_engine::target::Target;
use asof_engine::wal::receiver;
use asof_engine::wal::stream::{Pace, StreamProgress, StreamSettings};
use asof_repository::store::local::LocalStore;
use asof_repository::store::{Body, Created, Listed, ReadRange, Store};
use asof_testkit::{Options, majors};
use asof_world::World;
use bytes::Bytes;
use tokio::runtime::Runtime;

use support::{Protected, link, until};

const CLIENTS: u32 = 3;
const LATENCY: Duration = Duration::from_millis(15);
/// Far more than a client commits in a round.
const PER_CLIENT: u32 = 1_000_000;

/// Numbers that PostgreSQL acknowledged.
type Ledger = Arc<Mutex<Vec<u32>>>;

/// Commits number after number until the server is gone.
async fn client(link: Link, first: u32, ledger: Ledger) {
    let Ok(mut connection) = link.connect().await else { return };
    for number in first.. {
        let committed = connection.execute(&format!("INSERT INTO public.ledger VALUES ({number})")).await;
        // A commit that returned with a warning is committed there, and only there.
        if committed.is_err() || connection.take_notices().iter().any(|notice| notice.severity == "WARNING") {
            return;
        }
        ledger.lock().expect("no holder panics").push(number);
    }
}

/// A repository that takes as long as one across a network: what is on its way when the receiver ends never arrives.
struct Distant {
    world: World,
    inner: LocalStore,
}

#[async_trait::async_trait]
impl Store for Distant {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn create(&self, name: &str, body: Body) -> asof_repository::Result<Created> {
        self.world.sleep(LATENCY).await;
        self.inner.create(name, body).await
    }

    async fn read(&self, name: &str, range: ReadRange) -> asof_repository::Result<Bytes> {
        self.inner.read(name, range).await
    }

    async fn len(&self, name: &str) -> asof_repository::Result<u64> {
        self.inner.len(name).await
    }

    async fn list(&self, prefix: &str) -> asof_repository::Result<Vec<Listed>> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, name: &str) -> asof_repository::Result<()> {
        self.inner.delete(name).await
    }
}

/// A receiver in a runtime of its own, so that it can be cut off between any two of its steps.
fn receiver_apart(production: &Protected, pace: Pace) -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime can be made");
    let world = {
        let _inside = runtime.enter();
        World::real()
    };
    let inner = LocalStore::new(world.clone(), production.work.path().join("repository"));
    let store = Arc::new(Distant { world: world.clone(), inner });
    let shelf = Shelf { world, store, ..production.shelf.clone() };
    let settings = StreamSettings { shelf, ..production.settings(&production.server, pace) };
    runtime.spawn(async move {
        let progress = Arc::new(StreamProgress::default());
        receiver::receive(&settings, progress, Arc::new(Silent)).await
    });
    runtime
}

/// What a seed decides: how many commits there are before the end, and whether the receiver ends before the server does.
struct Round {
    commits: usize,
    receiver_first: bool,
}

impl Round {
    fn drawn(seed: u64) -> Self {
        let mixed = (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize;
        Self { commits: 20 + mixed % 180, receiver_first: seed % 2 == 1 }
    }
}

async fn round(major: u32, seed: u64) {
    let Round { commits, receiver_first } = Round::drawn(seed);
    let mut production = Protected::new(major, &Options::default()).await;
    production.server.psql("create table ledger (number int)");
    production.backup("first").await;
    let receiving = receiver_apart(&production, Pace::AtOnce);
    production.server.psql("alter system set synchronous_standby_names = 'asof'");
    production.server.psql("select pg_reload_conf()");
    let synchronous = "select count(*) from pg_stat_replication where sync_state = 'sync'";
    until(&production.world, "the synchronous receiver", || production.server.psql(synchronous) == "1").await;

    let ledger = Ledger::default();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| production.world.spawn(client(link(&production.server), 1 + n * PER_CLIENT, ledger.clone())))
        .collect();
    let acknowledged = || ledger.lock().expect("no holder panics").len();
    until(&production.world, &format!("{commits} commits with seed {seed}"), || acknowledged() >= commits).await;
    if receiver_first {
        receiving.shutdown_background();
        production.server.kill();
    } else {
        production.server.kill();
        receiving.shutdown_background();
    }
    for client in clients {
        client.await;
    }
    let data = production.server.data_dir().to_owned();
    let lost = Command::new("find").arg(&data).args(["-mindepth", "1", "-delete"]).status().expect("find runs");
    assert!(lost.success());

    let restored = production.restored(&production.wanted(Target::Latest, true)).await;
    let there = restored.psql("select number from ledger");
    let there: std::collections::BTreeSet<u32> = there.lines().map(|line| line.parse().expect("a number")).collect();
    let mut ledger = ledger.lock().expect("no holder panics").clone();
    assert!(ledger.len() >= commits);
    ledger.retain(|number| !there.contains(number));
    assert!(ledger.is_empty(), "seed {seed}: {} acknowledged commits are lost: {ledger:?}", ledger.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c1_every_commit_that_a_synchronous_server_acknowledged_is_in_the_default_restore() {
    for major in majors() {
        for seed in 1..=3 {
            round(major, seed).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_waits_for_as_long_as_nobody_stores_it() {
    let production = Protected::new(15, &Options::default()).await;
    production.server.psql("create table ledger (number int)");
    production.server.psql("alter system set synchronous_standby_names = 'asof'");
    production.server.psql("select pg_reload_conf()");
    let ledger = Ledger::default();
    let waiting = production.world.spawn(client(link(&production.server), 1, ledger.clone()));
    let waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    until(&production.world, "the commit that waits", || production.server.psql(waits) == "1").await;
    // Somebody cancels the wait: the commit returns with a warning, and is not in the ledger.
    production.server.psql("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'");
    waiting.await;
    assert!(ledger.lock().expect("no holder panics").is_empty());
    assert_eq!(production.server.psql("select number from ledger"), "1");
}
