//! Writes into a repository as a protected host does, until something fails: the process whose power is cut.
//!
//! `writer ROOT KEY-FILE SEED stepwise|free`: packs, WAL and journal entries, each object announced on standard output
//! before it is created (`will NAME LENGTH BLAKE3`) and after the store said that it is durable (`did NAME`). Stepwise, one
//! object at a time, it waits for a line on standard input before the next; free, three tasks write at once.

use std::io::{Write, stdin, stdout};
use std::sync::Arc;

use asof_repository::codec::Encoder;
use asof_repository::error::{Error, Result};
use asof_repository::journal::Journal;
use asof_repository::lineage::{Entry, Lineage};
use asof_repository::names::{Name, PackId, WalPosition};
use asof_repository::object;
use asof_repository::pack::{PAGES_PER_FRAME, PackWriter};
use asof_repository::root::{self, Key, Repository};
use asof_repository::store::local::LocalStore;
use asof_repository::store::{Body, Created, Listed, ReadRange, Store};
use asof_repository::wal::{WalInfo, write_wal};
use asof_sim::Prng;
use asof_world::{Id, World};
use async_trait::async_trait;
use bytes::Bytes;

const PAGE: usize = 8192;
/// Small packs: a cut should fall into many of them.
const MOST_FRAMES: u64 = 6;
const MOST_WAL: u64 = 64 << 10;
const SEGMENT: u64 = 16 << 20;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, key, seed, pace] = arguments.as_slice() else { panic!("writer ROOT KEY-FILE SEED stepwise|free") };
    let seed = seed.parse().expect("the seed is a number");
    let key = std::fs::read_to_string(key).expect("there is a key");
    let world = World::real();
    let inner = LocalStore::new(world.clone(), root);
    let store: Arc<dyn Store> = Arc::new(Announcing { inner, stepwise: pace == "stepwise" });
    let repository = root::open(&world, store, &Key::parse(&key)?, None).await?;
    let host = Host::new(repository, seed).await?;
    if pace == "stepwise" { host.in_turn().await } else { host.at_once().await }
}

/// A local store that says what it does.
struct Announcing {
    inner: LocalStore,
    stepwise: bool,
}

fn say(line: &str) {
    writeln!(stdout(), "{line}").expect("somebody listens");
}

#[async_trait]
impl Store for Announcing {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn create(&self, name: &str, body: Body) -> Result<Created> {
        say(&format!("will {name} {} {}", body.as_slice().len(), blake3::hash(body.as_slice()).to_hex()));
        let created = self.inner.create(name, body).await?;
        assert_eq!(created, Created::New, "nobody else writes");
        say(&format!("did {name}"));
        if self.stepwise {
            stdin().read_line(&mut String::new()).expect("somebody says how to go on");
        }
        Ok(created)
    }

    async fn read(&self, name: &str, range: ReadRange) -> Result<Bytes> {
        self.inner.read(name, range).await
    }

    async fn len(&self, name: &str) -> Result<u64> {
        self.inner.len(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name).await
    }
}

/// What writes: all content follows from the seed, all names from this run's own attempt.
struct Host {
    packs: Packs,
    wal: Wal,
    journal: Entries,
    draw: Prng,
}

impl Host {
    async fn new(repository: Repository, seed: u64) -> Result<Self> {
        let lineage = repository.lineage_of("prod").ok_or_else(|| Error::Invalid { what: "no prod".to_owned() })?;
        let journal = repository.lineage(lineage).await?;
        let repository = Arc::new(repository);
        let attempt = repository.world.id();
        Ok(Self {
            packs: Packs { repository: repository.clone(), lineage, attempt, next: 0, draw: Prng::new(seed ^ 1) },
            wal: Wal { repository: repository.clone(), lineage, next: (seed + 1) << 40, draw: Prng::new(seed ^ 2) },
            journal: Entries { journal, world: repository.world.clone() },
            draw: Prng::new(seed),
        })
    }

    async fn in_turn(mut self) -> Result<()> {
        loop {
            match self.draw.below(3) {
                0 => self.packs.one().await?,
                1 => self.wal.one().await?,
                _ => self.journal.one().await?,
            }
        }
    }

    async fn at_once(self) -> Result<()> {
        let Self { mut packs, mut wal, mut journal, .. } = self;
        let packs = async move {
            loop {
                packs.one().await?;
            }
        };
        let wal = async move {
            loop {
                wal.one().await?;
            }
        };
        let journal = async move {
            loop {
                journal.one().await?;
            }
        };
        futures::future::try_join3(packs, wal, journal).await.map(|(never, ..): ((), (), ())| never)
    }
}

struct Packs {
    repository: Arc<Repository>,
    lineage: Id,
    attempt: Id,
    next: u32,
    draw: Prng,
}

impl Packs {
    async fn one(&mut self) -> Result<()> {
        let Repository { world, store, keyring, .. } = self.repository.as_ref();
        let (mut encoder, hasher) = (Encoder::new(3), keyring.page_hasher(self.lineage));
        let id = PackId { lineage: self.lineage, attempt: self.attempt, number: self.next };
        let mut pack = PackWriter::new(world, keyring, id);
        for frame in 0..1 + u32::try_from(self.draw.below(MOST_FRAMES)).expect("a small number") {
            let plain = self.draw.bytes(PAGE * PAGES_PER_FRAME as usize);
            let blocks: Vec<u32> = (0..PAGES_PER_FRAME).map(|page| frame * PAGES_PER_FRAME + page).collect();
            let pages = blocks.iter().zip(plain.chunks(PAGE));
            let hashes: Vec<_> = pages.map(|(block, page)| hasher.hash(*block, page)).collect();
            pack.frame(b"base/5/16384", &blocks, &hashes, &plain, &mut encoder);
        }
        self.next += 1;
        object::create(store.as_ref(), &pack.finish(keyring, &mut encoder).object).await
    }
}

struct Wal {
    repository: Arc<Repository>,
    lineage: Id,
    next: u64,
    draw: Prng,
}

impl Wal {
    async fn one(&mut self) -> Result<()> {
        let Repository { world, store, keyring, .. } = self.repository.as_ref();
        let len = 1 + self.draw.below(MOST_WAL);
        let plain = self.draw.bytes(usize::try_from(len).expect("a small number"));
        let name = Name::WalChunk(WalPosition { lineage: self.lineage, timeline: 1, start: self.next });
        self.next += len;
        let info = WalInfo { system_identifier: 7, segment_size: SEGMENT, end: self.next, ..WalInfo::default() };
        object::create(store.as_ref(), &write_wal(world, keyring, name, &info, &plain, &mut Encoder::new(3))).await
    }
}

struct Entries {
    journal: Journal<Lineage>,
    world: World,
}

impl Entries {
    async fn one(&mut self) -> Result<()> {
        self.journal.append(0, Entry::AttemptStarted { attempt: self.world.id() }).await.map(drop)
    }
}
