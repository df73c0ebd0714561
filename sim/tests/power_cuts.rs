//! Power cuts of a real file system under a repository (hazard programme T2): ext4 in a loop device shuts down without
//! flushing its log while another process stores packs, WAL and journal entries and says what it was told is durable.
//!
//! Every other cut falls when the writer waits, right behind what it acknowledged last: that is what a missing sync
//! loses. The others fall wherever three tasks are that write at once. Ten cuts, or as many as `ASOF_POWER_CUTS` asks for.
#![allow(clippy::unwrap_used, reason = "tests touch real files and stop when surprised")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use asof_engine::wal::spool::{Next, Spool};
use asof_postgres::lsn::{Lsn, Timeline};
use asof_repository::root::{self, Key};
use asof_repository::store::local::LocalStore;
use asof_repository::store::{ReadRange, Store};
use asof_sim::Prng;
use asof_testkit::{Volume, Workdir};
use asof_world::World;

const CUTS: u64 = 10;
/// A repository goes through so many cuts, then the file system is full enough.
const CUTS_PER_VOLUME: u64 = 10;
const MOST_OBJECTS: u64 = 25;
/// Bytes in a segment of a spool, and in one piece of WAL at most.
const SEGMENT: u64 = 1 << 20;
const MOST_WAL: u64 = 9000;

/// What an object must be like: length and BLAKE3.
type Content = (u64, String);

/// What is known of the repository's objects, by name.
#[derive(Default)]
struct Known {
    announced: BTreeMap<String, Content>,
    acknowledged: BTreeMap<String, Content>,
}

impl Known {
    fn hear(&mut self, line: &str) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["will", name, len, digest] => {
                self.announced.insert(name.to_owned(), (len.parse().unwrap(), digest.to_owned()));
            }
            ["did", name] => {
                self.acknowledged.insert(name.to_owned(), self.announced[name].clone());
            }
            _ => panic!("{line}"),
        }
    }
}

/// What a cut fell into.
struct Cut {
    /// Objects that were acknowledged before it.
    new: usize,
    /// Objects that were begun and not acknowledged.
    begun: usize,
}

/// A repository on a file system of its own.
struct Scene {
    volume: Volume,
    work: Workdir,
    key: Key,
    known: Known,
}

impl Scene {
    async fn new() -> Self {
        let (volume, work) = (Volume::new("power-cuts"), Workdir::new("power-cuts-key"));
        let world = World::real();
        let store = Arc::new(LocalStore::new(world.clone(), volume.path().join("repository")));
        let (mut repository, key) = root::init(&world, store, false).await.unwrap();
        repository.register("prod", BTreeMap::new(), None).await.unwrap();
        std::fs::write(work.path().join("key"), &key.text).unwrap();
        let key = Key::parse(&key.text).unwrap();
        let mut scene = Self { volume, work, key, known: Known::default() };
        let there = scene.there().await;
        scene.known = Known { announced: there.clone(), acknowledged: there };
        scene
    }

    fn root(&self) -> PathBuf {
        self.volume.path().join("repository")
    }

    /// A store that nothing is remembered in.
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(LocalStore::new(World::real(), self.root()))
    }

    /// Everything that has a name, as it is.
    async fn there(&self) -> BTreeMap<String, Content> {
        let store = self.store();
        let mut found = BTreeMap::new();
        for listed in store.list("").await.unwrap() {
            let bytes = store.read(&listed.name, ReadRange::Whole).await.unwrap();
            found.insert(listed.name, (bytes.len() as u64, blake3::hash(&bytes).to_hex().to_string()));
        }
        found
    }

    async fn cut(&mut self, seed: u64) -> Cut {
        let before = self.known.acknowledged.len();
        let objects = 1 + Prng::new(seed).below(MOST_OBJECTS);
        let stepwise = seed.is_multiple_of(2);
        let mut writer = Writer::start(self, seed, stepwise);
        for _ in 0..objects {
            writer.until_acknowledged(&mut self.known);
            // Nothing follows the last one: it is as fresh as can be when the power goes.
        }
        self.volume.cut();
        writer.end(&mut self.known);
        self.volume.switch_on();
        let acknowledged = self.known.acknowledged.len();
        let cut = Cut { new: acknowledged - before, begun: self.known.announced.len() - acknowledged };
        self.check(seed).await;
        cut
    }

    async fn check(&mut self, seed: u64) {
        let there = self.there().await;
        for (name, content) in &self.known.acknowledged {
            assert_eq!(there.get(name), Some(content), "seed {seed}: {name} was acknowledged and is not there whole");
        }
        for (name, content) in &there {
            assert_eq!(self.known.announced.get(name), Some(content), "seed {seed}: {name} is visible and not whole");
        }
        // Every entry is authenticated and follows the one before it.
        let repository = root::open(&World::real(), self.store(), &self.key, None).await.unwrap();
        let journal = repository.lineage(repository.lineage_of("prod").unwrap()).await.unwrap();
        let entries = there.keys().filter(|name| name.starts_with("l/") && name.contains("/journal/")).count();
        assert_eq!(journal.number(), entries as u64, "seed {seed}: the journal has a hole");
        // What is there without having been acknowledged may be relied on, now that somebody has seen it.
        self.known = Known { announced: there.clone(), acknowledged: there };
    }
}

/// The process that writes.
struct Writer {
    process: Child,
    says: Lines<BufReader<ChildStdout>>,
    next: Option<ChildStdin>,
    acknowledged: u64,
    /// Where it says why it ended.
    complaints: PathBuf,
}

impl Writer {
    fn start(scene: &Scene, seed: u64, stepwise: bool) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_writer"));
        command.arg(scene.root()).arg(scene.work.path().join("key")).arg(seed.to_string());
        let complaints = scene.work.path().join("complaints");
        command.arg(if stepwise { "stepwise" } else { "free" }).stderr(std::fs::File::create(&complaints).unwrap());
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let says = BufReader::new(process.stdout.take().unwrap()).lines();
        let next = stepwise.then(|| process.stdin.take().unwrap());
        Self { process, says, next, acknowledged: 0, complaints }
    }

    fn until_acknowledged(&mut self, known: &mut Known) {
        if let Some(next) = self.next.as_mut().filter(|_| self.acknowledged > 0) {
            writeln!(next).unwrap();
        }
        loop {
            let ended = || panic!("the writer ended: {}", std::fs::read_to_string(&self.complaints).unwrap());
            let line = self.says.next().unwrap_or_else(ended).unwrap();
            known.hear(&line);
            if line.starts_with("did ") {
                self.acknowledged += 1;
                return;
            }
        }
    }

    /// Hears everything that it said before it noticed, and waits for its end.
    fn end(mut self, known: &mut Known) {
        drop(self.next.take());
        for line in &mut self.says {
            known.hear(&line.unwrap());
        }
        self.process.wait().unwrap();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It may have ended already; a test that failed must not leave it behind.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// All of the WAL there is.
fn wal(from: u64, len: usize) -> Vec<u8> {
    (from..)
        .take(len)
        .map(|at| at.to_le_bytes().into_iter().fold(0, |sum: u8, byte| sum.wrapping_mul(31) ^ byte))
        .collect()
}

/// A receiver writes from `start` on into its spool, which acknowledges, until something fails.
async fn spool_wal(spool: Arc<Spool>, start: Lsn, seed: u64, acknowledged: Arc<AtomicU64>) {
    let (mut draw, mut writer) = (Prng::new(seed), spool.begin(Timeline(1), start, SEGMENT));
    loop {
        let from = writer.received();
        let len = 1 + usize::try_from(draw.below(MOST_WAL)).unwrap();
        let taken = writer.take(from, &wal(from.0, len)).await;
        if taken.is_err() || writer.flush().await.is_err() {
            return;
        }
        acknowledged.store(writer.durable().0, Ordering::Relaxed);
    }
}

/// Cuts the power while WAL arrives and is acknowledged. Returns how much of it was.
async fn cut_a_spool(volume: &Volume, seed: u64) -> u64 {
    let (directory, start) = (volume.path().join("spool"), Lsn(seed << 30));
    let open = || async { Spool::open(&World::real(), directory.clone(), Duration::ZERO).await.unwrap() };
    let acknowledged = Arc::new(AtomicU64::new(start.0));
    let writing = tokio::spawn(spool_wal(open().await, start, seed, acknowledged.clone()));
    let wanted = start.0 + 1 + Prng::new(seed).below(SEGMENT);
    while acknowledged.load(Ordering::Relaxed) < wanted && !writing.is_finished() {
        tokio::task::yield_now().await;
    }
    assert!(!writing.is_finished(), "seed {seed}: nothing failed so far");
    volume.cut();
    writing.await.unwrap();
    volume.switch_on();
    let (spool, acknowledged) = (open().await, acknowledged.load(Ordering::Relaxed));
    let mut at = start;
    for file in spool.files() {
        assert_eq!(file.start, at, "seed {seed}: a hole");
        let mut offset = 0;
        while let Next::Wal(bytes, next) = spool.next(file, offset, at).await.unwrap() {
            assert!(bytes == wal(at.0, bytes.len()), "seed {seed}: other WAL at {at}");
            (offset, at) = (next, Lsn(at.0 + bytes.len() as u64));
        }
    }
    assert!(at.0 >= acknowledged, "seed {seed}: {acknowledged} was acknowledged, and the spool ends at {}", at.0);
    for file in spool.files() {
        spool.remove(file.run, at).await.unwrap();
    }
    acknowledged - start.0
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_spool_acknowledged_is_there_after_every_power_cut_of_a_real_file_system() {
    let (volume, cuts, mut acknowledged) = (Volume::new("power-cuts-spool"), cuts(), 0);
    for seed in 0..cuts {
        acknowledged += cut_a_spool(&volume, seed).await;
    }
    println!(r#"{{"campaign":"power-cuts","of":"spool","cuts":{cuts},"acknowledged_bytes":{acknowledged},"lost":0}}"#);
}

fn cuts() -> u64 {
    std::env::var("ASOF_POWER_CUTS").map_or(CUTS, |number| number.parse().expect("a number of cuts"))
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_f2_what_was_acknowledged_is_whole_after_every_power_cut_of_a_real_file_system() {
    let cuts = cuts();
    let (mut scene, mut acknowledged, mut unfinished) = (Scene::new().await, 0, 0);
    for seed in 0..cuts {
        if seed > 0 && seed.is_multiple_of(CUTS_PER_VOLUME) {
            scene = Scene::new().await;
        }
        let Cut { new, begun } = scene.cut(seed).await;
        println!("cut {seed}: {new} objects acknowledged, {begun} begun");
        acknowledged += new;
        unfinished += begun;
    }
    println!(
        r#"{{"campaign":"power-cuts","cuts":{cuts},"acknowledged":{acknowledged},"begun":{unfinished},"lost":0}}"#
    );
}
