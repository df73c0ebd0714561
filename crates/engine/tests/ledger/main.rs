//! No acknowledged commit is lost (hazard programme T12): clients keep a ledger of what they were told, production is
//! killed and deleted, the repository is all that remains, and the default restore is held against the ledger.
//!
//! The repository lies on a file system of its own, whose power is cut in half of the rounds while commits are being
//! acknowledged; a receiver keeps nothing on its host, and the restore opens the repository anew with the full key.
//! `ASOF_LEDGER_KILLS` asks for so many kills instead of one per major and at least three, `ASOF_LEDGER_COMMITS` for at
//! least so many commits before each.

mod book;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use asof_engine::progress::Silent;
use asof_engine::restore::RestoreRequest;
use asof_engine::shelf::Shelf;
use asof_engine::target::Target;
use asof_engine::wal::receiver;
use asof_engine::wal::spool::{Spool, bytes_in};
use asof_engine::wal::stream::{Pace, StreamSettings};
use asof_postgres::lsn::Timeline;
use asof_repository::lineage::WalEvent;
use asof_repository::store::local::LocalStore;
use asof_repository::store::{Body, Created, Listed, ReadRange, Store};
use asof_testkit::{Options, Server, Volume, Workdir, majors};
use asof_world::{Task, World};
use bytes::Bytes;
use tokio::runtime::Runtime;

use book::{Acknowledged, Book, client, first_of, is_suffix, lost};
use support::{Host, Protected, Receiver, link, opened, standby, until};

const LATENCY: Duration = Duration::from_millis(15);
/// What the binary does without `--synchronous`.
const USUAL: Pace = Pace::Every(Duration::from_secs(5));
const VOLUME_MIB: u64 = 256;
const COMMITS: usize = 60;
/// How often a spool is uploaded.
const UPLOADED: Duration = Duration::from_millis(100);
/// Longer than any step of a receiver that was cut off, and than storing what a spool holds.
const END: Duration = Duration::from_secs(60);

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

/// What lies on the volume, and acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    Repository,
    Spool,
}

/// A server that clients are about to write to, a sink on a volume, and the ledger on neither of both.
struct Scene {
    production: Protected,
    volume: Volume,
    book: Arc<Book>,
    sink: Sink,
    repository: PathBuf,
    /// What a receiver needs, from when the server was there.
    settings: StreamSettings,
}

impl Scene {
    async fn new(major: u32, sink: Sink) -> Self {
        let (volume, work) = (Volume::with_size("ledger", VOLUME_MIB), Workdir::new("ledger"));
        let book = Book::new(&work.path().join("ledger"));
        let server = Server::running(major, &Options::default());
        let place = if sink == Sink::Repository { volume.path() } else { work.path().to_owned() };
        let repository = place.join("repository");
        let store = Arc::new(LocalStore::new(World::real(), &repository));
        let production = Protected::stored(server, work, store, Host::WriteOnlyKey).await;
        production.server.psql("create table ledger (number int)");
        production.backup("first").await;
        let settings = production.settings(&production.server, Pace::AtOnce);
        Self { production, volume, book, sink, repository, settings }
    }

    /// A receiver in a runtime of its own, so that it can be cut off between any two of its steps.
    fn receiver(&self, pace: Pace) -> Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime can be made");
        let world = {
            let _inside = runtime.enter();
            World::real()
        };
        let inner = LocalStore::new(world.clone(), &self.repository);
        let store = Arc::new(Distant { world: world.clone(), inner });
        let shelf = Shelf { world: world.clone(), store, ..self.production.shelf.clone() };
        let settings = StreamSettings { shelf, pace, ..self.settings.clone() };
        let spool = (self.sink == Sink::Spool).then(|| self.spool());
        runtime.spawn(async move {
            let receiving = async {
                let spool = match spool {
                    Some(spool) => Some(Spool::open(&world, spool, UPLOADED).await?),
                    None => None,
                };
                let settings = StreamSettings { spool, ..settings };
                receiver::receive(&settings, Arc::default(), Arc::new(Silent)).await
            };
            receiving.await.unwrap_or_else(|error| panic!("the receiver failed: {}", support::chain(&error)));
        });
        runtime
    }

    fn spool(&self) -> PathBuf {
        self.volume.path().join("spool")
    }

    /// The next receiver stores what the spool holds; its server is gone.
    async fn spool_is_stored(&self) {
        let world = &self.production.world;
        let receiver = self.receiver(Pace::AtOnce);
        let deadline = world.monotonic() + END;
        while bytes_in(world, self.spool()).await.expect("the spool can be read") > 0 {
            assert!(world.monotonic() < deadline, "the spool is not stored");
            world.sleep(UPLOADED).await;
        }
        cut_off(receiver);
    }

    /// From now on a commit waits for the receiver.
    async fn synchronous(&self) {
        let Protected { world, server, .. } = &self.production;
        server.psql("alter system set synchronous_standby_names = 'asof'");
        server.psql("select pg_reload_conf()");
        let receiving = "select count(*) from pg_stat_replication where sync_state = 'sync'";
        until(world, "the synchronous receiver", || server.psql(receiving) == "1").await;
    }

    /// More clients for a longer round.
    fn clients(&self, commits: usize) -> Vec<Task<()>> {
        let clients = u32::try_from(commits / 100).unwrap_or(u32::MAX).clamp(3, 32);
        let Protected { world, server, .. } = &self.production;
        let one = |n| world.spawn(client(world.clone(), link(server), first_of(n), self.book.clone()));
        (0..clients).map(one).collect()
    }

    async fn until_acknowledged(&self, commits: usize) {
        until(&self.production.world, &format!("{commits} commits"), || self.book.len() >= commits).await;
    }

    /// Deletes the data directory and its WAL.
    fn lose_production(&self) {
        let mut find = Command::new("find");
        let lost = find.arg(self.production.server.data_dir()).args(["-mindepth", "1", "-delete"]).status();
        assert!(lost.expect("find runs").success());
    }

    /// The numbers that a restore finds, with nothing but the repository and the full key.
    async fn restored(&mut self, timeline: Option<Timeline>) -> BTreeSet<u32> {
        let production = &mut self.production;
        let store = Arc::new(LocalStore::new(production.world.clone(), &self.repository));
        production.owner = opened(&production.world, store, &production.key).await;
        let request = RestoreRequest { timeline, ..production.wanted(Target::Latest, true) };
        let found = production.restored(&request).await.psql("select number from ledger");
        found.lines().map(|line| line.parse().expect("a number")).collect()
    }
}

/// Ends a receiver between two of its steps, and waits until no thread of it works any more.
fn cut_off(receiver: Runtime) {
    tokio::task::block_in_place(|| receiver.shutdown_timeout(END));
}

/// What a seed decides.
#[derive(Clone, Copy, Debug)]
struct Round {
    major: u32,
    seed: u64,
    /// How many commits there are before the end.
    commits: usize,
    /// Whether the power of the repository's file system goes before the server does.
    power_cut: bool,
    receiver_first: bool,
    /// Whether the receiver is killed in between, too, and another one goes on.
    receiver_twice: bool,
    /// How long production runs at least before the end, when nothing else says how much is not stored by then.
    seconds: u64,
}

impl Round {
    fn drawn(seed: u64) -> Self {
        let mixed = (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize;
        let (majors, least) = (majors(), variable("ASOF_LEDGER_COMMITS").unwrap_or(COMMITS));
        Self {
            major: majors[usize::try_from(seed).expect("a small number") % majors.len()],
            seed,
            commits: least + mixed % (2 * least),
            power_cut: seed % 2 == 1,
            receiver_first: seed / 2 % 2 == 1,
            receiver_twice: seed.is_multiple_of(3),
            seconds: 5 + mixed as u64 % 6,
        }
    }

    fn all(default: usize) -> Vec<Self> {
        let kills = variable("ASOF_LEDGER_KILLS").unwrap_or(default) as u64;
        (1..=kills).map(Self::drawn).collect()
    }

    /// Everything ends while commits are being acknowledged. Returns when, and what is left is the repository.
    async fn end(self, scene: &mut Scene, receiver: Runtime) -> Duration {
        let at = scene.production.world.monotonic();
        if self.power_cut {
            scene.volume.cut();
        }
        if self.receiver_first {
            cut_off(receiver);
            scene.production.server.kill();
        } else {
            scene.production.server.kill();
            cut_off(receiver);
        }
        scene.lose_production();
        if self.power_cut {
            scene.volume.switch_on();
        }
        at
    }
}

#[expect(clippy::disallowed_methods, reason = "the campaign says by the environment how long it is to be")]
fn variable(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

/// What rounds came to.
#[derive(Default)]
struct Total {
    kills: usize,
    power_cuts: usize,
    acknowledged: usize,
    warned: usize,
    lost: usize,
    /// The age of the oldest commit that is lost, one for each kill, in milliseconds.
    lost_ms: Vec<u128>,
}

impl Total {
    #[expect(clippy::disallowed_macros, reason = "a campaign says what it has counted")]
    fn add(&mut self, round: Round, ledger: &[Acknowledged], warned: usize, lost: &[Acknowledged], end: Duration) {
        self.kills += 1;
        self.power_cuts += usize::from(round.power_cut);
        self.acknowledged += ledger.len();
        self.warned += warned;
        self.lost += lost.len();
        let oldest = lost.iter().map(|commit| end.saturating_sub(commit.at)).max();
        self.lost_ms.push(oldest.unwrap_or_default().as_millis());
        let Round { major, seed, .. } = round;
        println!("  kill {seed}, PostgreSQL {major}: {} commits acknowledged, {} lost", ledger.len(), lost.len());
    }

    #[expect(clippy::disallowed_macros, reason = "a campaign says what it has counted")]
    fn tell(mut self, mode: &str) {
        self.lost_ms.sort_unstable();
        let last = self.lost_ms.len() - 1;
        let [p50, p99, max] = [last / 2, (last * 99).div_ceil(100), last].map(|at| self.lost_ms[at]);
        let Self { kills, power_cuts, acknowledged, warned, lost, .. } = self;
        println!(
            r#"{{"campaign":"ledger","mode":"{mode}","kills":{kills},"power_cuts":{power_cuts},"acknowledged":{acknowledged},"warned":{warned},"lost":{lost},"lost_ms":{{"p50":{p50},"p99":{p99},"max":{max}}}}}"#
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_c1_every_commit_that_a_synchronous_server_acknowledged_is_in_the_default_restore() {
    acknowledged_commits_are_restored(Sink::Repository, majors().len().max(3)).await;
}

/// As long as this host is there: all of the spool that is left is what its disk had synced.
#[tokio::test(flavor = "multi_thread")]
async fn every_commit_that_a_spool_acknowledged_is_in_the_default_restore_once_the_next_receiver_has_run() {
    acknowledged_commits_are_restored(Sink::Spool, 2).await;
}

async fn acknowledged_commits_are_restored(sink: Sink, rounds: usize) {
    let mut total = Total::default();
    for round in Round::all(rounds) {
        let mut scene = Scene::new(round.major, sink).await;
        let mut receiver = scene.receiver(Pace::AtOnce);
        scene.synchronous().await;
        let clients = scene.clients(round.commits);
        if round.receiver_twice {
            scene.until_acknowledged(round.commits / 2).await;
            cut_off(receiver);
            receiver = scene.receiver(Pace::AtOnce);
        }
        scene.until_acknowledged(round.commits).await;
        let end = round.end(&mut scene, receiver).await;
        futures::future::join_all(clients).await;
        if sink == Sink::Spool {
            scene.spool_is_stored().await;
        }
        let (ledger, there) = (scene.book.read(), scene.restored(None).await);
        assert!(ledger.len() >= round.commits, "{round:?}");
        let lost = lost(&ledger, &there);
        assert!(lost.is_empty(), "acknowledged commits are lost: {} in {round:?}: {lost:?}", lost.len());
        total.add(round, &ledger, scene.book.warned(), &lost, end);
    }
    total.tell(if sink == Sink::Spool { "synchronous, by a spool" } else { "synchronous" });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_asynchronous_server_loses_are_its_last_seconds_and_nothing_in_between() {
    let mut total = Total::default();
    for round in Round::all(1) {
        let mut scene = Scene::new(round.major, Sink::Repository).await;
        let receiver = scene.receiver(USUAL);
        let clients = scene.clients(round.commits);
        scene.until_acknowledged(round.commits).await;
        // The moment of the end falls anywhere between two uploads.
        scene.production.world.sleep(Duration::from_secs(round.seconds)).await;
        let end = round.end(&mut scene, receiver).await;
        futures::future::join_all(clients).await;
        let (ledger, there) = (scene.book.read(), scene.restored(None).await);
        let lost = lost(&ledger, &there);
        assert!(is_suffix(&lost, &there), "{round:?}: lost in between: {lost:?}");
        total.add(round, &ledger, scene.book.warned(), &lost, end);
    }
    total.tell("asynchronous");
}

/// A receiver cannot be promoted: what only it has is a tail on the old timeline (rule 7).
#[tokio::test(flavor = "multi_thread")]
async fn hz_c11_commits_that_a_lagging_standby_lacks_are_a_reported_tail_and_can_be_restored() {
    let majors = majors();
    // The rule itself is tested on every major; the ledger behind it by the campaign.
    let one = majors.len() - 1..;
    for major in if variable("ASOF_LEDGER_KILLS").is_some() { &majors[..] } else { &majors[one] } {
        fail_over(*major).await;
    }
}

#[expect(clippy::disallowed_macros, reason = "a campaign says what it has counted")]
async fn fail_over(major: u32) {
    let mut scene = Scene::new(major, Sink::Repository).await;
    let mut standby = standby(&scene.production).await;
    standby.stop();
    let receiver = scene.receiver(Pace::AtOnce);
    scene.synchronous().await;
    let commits = variable("ASOF_LEDGER_COMMITS").unwrap_or(COMMITS);
    let clients = scene.clients(commits);
    scene.until_acknowledged(commits).await;
    scene.production.server.kill();
    cut_off(receiver);
    futures::future::join_all(clients).await;
    standby.start();
    standby.psql("select pg_promote()");
    let receiver = Receiver::start(scene.production.settings(&standby, Pace::AtOnce));
    receiver.catch_up(&standby).await;
    assert!(receiver.said("a failover left WAL"));
    receiver.stop().await;
    scene.lose_production();

    let events = scene.production.wal_events().await;
    let tail =
        |event: &WalEvent| matches!(event, WalEvent::Switched { from: 1, to: 2, at, durable, .. } if at < durable);
    assert_eq!(events.iter().filter(|event| tail(event)).count(), 1, "{events:?}");
    assert_eq!(scene.restored(None).await, BTreeSet::new(), "the default follows the new primary");
    let (ledger, there) = (scene.book.read(), scene.restored(Some(Timeline(1))).await);
    let lost = lost(&ledger, &there);
    assert!(lost.is_empty(), "{major}: {} acknowledged commits are lost: {lost:?}", lost.len());
    println!(r#"{{"campaign":"ledger","mode":"failover","major":{major},"acknowledged":{},"lost":0}}"#, ledger.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_waits_for_as_long_as_nobody_stores_it() {
    let production = Protected::new(15, &Options::default()).await;
    production.server.psql("create table ledger (number int)");
    production.server.psql("alter system set synchronous_standby_names = 'asof'");
    production.server.psql("select pg_reload_conf()");
    let book = Book::new(&production.work.path().join("ledger"));
    let (world, link) = (production.world.clone(), link(&production.server));
    let waiting = production.world.spawn(client(world, link, 1, book.clone()));
    let waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    until(&production.world, "the commit that waits", || production.server.psql(waits) == "1").await;
    // Somebody cancels the wait: the commit returns with a warning, and is not in the ledger.
    production.server.psql("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'");
    waiting.await;
    assert_eq!((book.len(), book.warned(), book.read().len()), (0, 1, 0));
    assert_eq!(production.server.psql("select number from ledger"), "1");
}
