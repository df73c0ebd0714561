//! What the tests of this crate share: a place for a repository, a small backup writer, and a reference reader.
//!
//! Writer and reader are as simple as the format allows and use only what the crate makes public, so that a test which
//! compares bytes compares them with what a stranger would read who knows `docs/format.md`.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests touch real files and stop when surprised"
)]

pub(crate) mod large;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asof_repository::codec::{Decoder, Encoder};
use asof_repository::crypto::SigningKey;
use asof_repository::error::{Error, Result};
use asof_repository::frames::Frames;
use asof_repository::keyring::Keyring;
use asof_repository::lineage::{Backup, BackupKind, Method, Sizes, StoredPack};
use asof_repository::map::MapFile;
use asof_repository::map::{MapPack, PageMap, Place, Run, StoredMap, frames_of, open_map, write_map};
use asof_repository::names::{JournalOf, Name, PackId};
use asof_repository::object::{self, DataSections, Finished, Kind, ObjectWriter, Reference, Section};
use asof_repository::pack::{FinishedPack, PAGES_PER_FRAME, PackWriter};
use asof_repository::root::Repository;
use asof_repository::store::local::LocalStore;
use asof_repository::store::{Body, Created, Listed, ReadRange, Store};
use asof_world::{Clock, Id, Random, Timestamp, World};
use async_trait::async_trait;
use bytes::Bytes;

/// A directory for one repository, gone with the test.
pub(crate) struct Home {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) world: World,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), world: World::real() }
    }

    /// A home whose randomness and clock depend on `seed` alone.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), world: seeded_world(seed) }
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::new(LocalStore::new(self.world.clone(), self.dir.path()))
    }

    pub(crate) fn path(&self, name: Name) -> PathBuf {
        self.dir.path().join(name.to_string())
    }

    pub(crate) fn bytes(&self, name: Name) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Puts bytes under a name whatever stands there: what the store never does, and damage does.
    pub(crate) fn overwrite(&self, name: Name, bytes: &[u8]) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        // In place: a file that is truncated and written again is flushed by ext4 at every close.
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(self.path(name)).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
    }

    pub(crate) fn remove(&self, name: Name) {
        std::fs::remove_file(self.path(name)).unwrap();
    }
}

pub(crate) fn seeded_world(seed: u64) -> World {
    World {
        random: Arc::new(Seeded { seed, drawn: AtomicU64::new(0) }),
        clock: Arc::<Steps>::default(),
        ..World::real()
    }
}

struct Seeded {
    seed: u64,
    drawn: AtomicU64,
}

impl Random for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(&self.drawn.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        hasher.finalize_xof().fill(bytes);
    }
}

/// 2026-01-01, and a second more with every look.
#[derive(Default)]
struct Steps(AtomicI64);

impl Clock for Steps {
    fn now(&self) -> Timestamp {
        Timestamp(1_767_225_600_000_000 + 1_000_000 * self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// Numbers without a pattern, the same for the same seed: a splitmix64.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

/// Bytes that compress like pages do: a third noise, the rest repetition.
pub(crate) fn page(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![7; len];
    let noise = len / 3;
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes[..noise.max(1)]);
    bytes
}

/// A store that remembers what was asked of it.
pub(crate) struct Counting {
    inner: Arc<dyn Store>,
    calls: Mutex<Vec<(&'static str, String, Option<ReadRange>)>>,
}

impl Counting {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, calls: Mutex::default() }
    }

    /// The calls since the last look.
    pub(crate) fn take(&self) -> Vec<(&'static str, String, Option<ReadRange>)> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn note(&self, call: &'static str, name: &str, range: Option<ReadRange>) {
        self.calls.lock().unwrap().push((call, name.to_owned(), range));
    }
}

#[async_trait]
impl Store for Counting {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn create(&self, name: &str, body: Body) -> Result<Created> {
        self.note("create", name, None);
        self.inner.create(name, body).await
    }

    async fn read(&self, name: &str, range: ReadRange) -> Result<Bytes> {
        self.note("read", name, Some(range));
        self.inner.read(name, range).await
    }

    async fn len(&self, name: &str) -> Result<u64> {
        self.note("len", name, None);
        self.inner.len(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.note("list", prefix, None);
        self.inner.list(prefix).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.note("delete", name, None);
        self.inner.delete(name).await
    }
}

/// Files of an instance, by path.
pub(crate) type Tree = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a small backup left in the repository.
pub(crate) struct Written {
    pub(crate) attempt: Id,
    pub(crate) map: PageMap,
    pub(crate) digest: [u8; 32],
    pub(crate) map_len: u64,
    pub(crate) packs: Vec<StoredPack>,
}

/// A stored map, and all of it in memory.
pub(crate) struct ReadMap {
    pub(crate) stored: Arc<StoredMap>,
    pub(crate) map: PageMap,
}

/// Reads the whole map of a backup.
pub(crate) async fn read_map(repository: &Repository, lineage: Id, attempt: Id, digest: &[u8; 32]) -> Result<ReadMap> {
    let (store, signers) = (repository.store.clone(), repository.journal.signers());
    let stored = Arc::new(open_map(store, &repository.keyring, signers, lineage, attempt, digest).await?);
    let map = stored.whole().await?;
    Ok(ReadMap { stored, map })
}

/// Stores `tree` as a backup does, without the journal: packs of at most `frames` frames, then the map. Pages that
/// `parent` has at the same place are not stored again.
pub(crate) async fn store_backup(
    repository: &Repository,
    lineage: Id,
    attempt: Id,
    (page_size, frames): (u32, usize),
    tree: &Tree,
    parent: Option<(&ReadMap, &Tree)>,
) -> Written {
    let mut filling = Filling {
        repository,
        lineage,
        attempt,
        frames,
        page_size,
        writer: None,
        filled: 0,
        packs: Vec::new(),
        encoder: Encoder::new(3),
        map: PageMap { page_size, directories: directories(tree), ..PageMap::default() },
    };
    for (path, bytes) in tree {
        filling.file(path, bytes, parent);
    }
    filling.close();
    let Filling { mut map, packs, .. } = filling;
    let mut stored = Vec::new();
    for (pack, place) in &packs {
        object::create(repository.store.as_ref(), &pack.object).await.unwrap();
        let (len, reference) = (pack.object.len, pack.object.reference);
        let Name::Pack(id) = pack.object.name else { panic!("{}", pack.object.name) };
        stored.push(StoredPack { number: id.number, len, digest: reference.digest });
        let sections = (0u32..).zip(pack.index.frames.iter().map(|frame| without_digest(frame.section)));
        map.packs[*place] = MapPack { id, len, reference, frames: sections.collect() };
    }
    let parent = parent.map(|(read, _)| read.stored.as_ref());
    let object = write_map(&repository.world, &repository.keyring, lineage, attempt, &map, parent);
    object::create(repository.store.as_ref(), &object).await.unwrap();
    Written { attempt, map, digest: object.reference.digest, map_len: object.len, packs: stored }
}

fn directories(tree: &Tree) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = vec![b"pg_notify".to_vec()];
    for path in tree.keys() {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        found.extend(ends.map(|at| path[..at].to_vec()));
    }
    found.sort();
    found.dedup();
    found
}

/// Maps hold no digests of frames.
pub(crate) fn without_digest(section: Section) -> Section {
    Section { digest: [0; 16], ..section }
}

struct Filling<'a> {
    repository: &'a Repository,
    lineage: Id,
    attempt: Id,
    frames: usize,
    page_size: u32,
    /// The pack being filled and its place among the packs of the map.
    writer: Option<(PackWriter, usize)>,
    filled: usize,
    packs: Vec<(FinishedPack, usize)>,
    encoder: Encoder,
    map: PageMap,
}

impl Filling<'_> {
    fn file(&mut self, path: &[u8], bytes: &[u8], parent: Option<(&ReadMap, &Tree)>) {
        let mut file = MapFile { path: path.to_vec(), len: bytes.len() as u64, runs: Vec::new() };
        let pages: Vec<&[u8]> = bytes.chunks(self.page_size as usize).collect();
        let mut at = 0;
        while at < pages.len() {
            if pages[at].iter().all(|byte| *byte == 0) {
                file.push(Run { pages: 1, place: Place::Zero, torn: false });
                at += 1;
            } else if let Some(place) = self.known(path, at, pages[at], parent) {
                file.push(Run { pages: 1, place, torn: false });
                at += 1;
            } else {
                let fresh = |n: &usize| {
                    let page = pages[*n];
                    page.iter().any(|byte| *byte != 0)
                        && !equal_in(path, *n, page, parent.map(|(_, tree)| tree), self.page_size)
                };
                let blocks: Vec<usize> = (at..pages.len()).take_while(fresh).take(PAGES_PER_FRAME as usize).collect();
                let plain: Vec<u8> = blocks.iter().flat_map(|n| pages[*n].to_vec()).collect();
                let numbers: Vec<u32> = blocks.iter().map(|n| u32::try_from(*n).unwrap()).collect();
                let place = self.frame(path, &numbers, &plain);
                file.push(Run { pages: u32::try_from(numbers.len()).unwrap(), place, torn: false });
                at += blocks.len();
            }
        }
        self.map.files.push(file);
    }

    fn known(&mut self, path: &[u8], at: usize, page: &[u8], parent: Option<(&ReadMap, &Tree)>) -> Option<Place> {
        let (stored, tree) = parent?;
        if !equal_in(path, at, page, Some(tree), self.page_size) {
            return None;
        }
        let (pack, position) = place_of(&stored.map, path, at)?;
        let pack = &stored.map.packs[pack as usize];
        let known = self.map.packs.iter().position(|known| known.id == pack.id);
        let number = known.unwrap_or_else(|| {
            self.map.packs.push(pack.clone());
            self.map.packs.len() - 1
        });
        Some(Place::Pack { pack: u32::try_from(number).unwrap(), position })
    }

    fn frame(&mut self, path: &[u8], blocks: &[u32], plain: &[u8]) -> Place {
        let (keyring, lineage) = (&self.repository.keyring, self.lineage);
        if self.writer.is_none() {
            let number = u32::try_from(self.packs.len()).unwrap();
            let id = PackId { lineage, attempt: self.attempt, number };
            // Filled in when the pack is closed.
            let reference = Reference { digest: [0; 32], sealed_data_key: [0; 80], header_digest: [0; 32] };
            self.map.packs.push(MapPack { id, len: 0, reference, frames: Frames::default() });
            self.writer = Some((PackWriter::new(&self.repository.world, keyring, id), self.map.packs.len() - 1));
            self.filled = 0;
        }
        let (writer, place) = self.writer.as_mut().unwrap();
        let hasher = keyring.page_hasher(lineage);
        let pages = blocks.iter().zip(plain.chunks(self.page_size as usize));
        let hashes: Vec<_> = pages.map(|(block, page)| hasher.hash(*block, page)).collect();
        let (number, _) = writer.frame(path, blocks, &hashes, plain, &mut self.encoder);
        let place = Place::Pack { pack: u32::try_from(*place).unwrap(), position: number * PAGES_PER_FRAME };
        self.filled += 1;
        if self.filled == self.frames {
            self.close();
        }
        place
    }

    fn close(&mut self) {
        if let Some((writer, place)) = self.writer.take() {
            self.packs.push((writer.finish(&self.repository.keyring, &mut self.encoder), place));
        }
    }
}

fn equal_in(path: &[u8], at: usize, page: &[u8], tree: Option<&Tree>, page_size: u32) -> bool {
    tree.and_then(|tree| tree.get(path)).and_then(|bytes| bytes.chunks(page_size as usize).nth(at)) == Some(page)
}

/// Pack and position of a page; `None` for one of zeros.
pub(crate) fn place_of(map: &PageMap, path: &[u8], page: usize) -> Option<(u32, u32)> {
    let mut left = u32::try_from(page).unwrap();
    for run in &map.file(path)?.runs {
        if left < run.pages {
            return match run.place {
                Place::Zero => None,
                Place::Pack { pack, position } => Some((pack, position + left)),
            };
        }
        left -= run.pages;
    }
    None
}

/// What is needed to read a page; nothing for zeros.
pub(crate) type PageSource = Option<(PackId, Reference, u32, Section)>;

/// Every page of every file, with all that is needed to read it: what two maps have to agree about.
pub(crate) fn flatten(map: &PageMap) -> Vec<(Vec<u8>, u64, Vec<PageSource>)> {
    let pages = |file: &MapFile| {
        let all = 0..usize::try_from(file.pages()).unwrap();
        all.map(|page| {
            place_of(map, &file.path, page).map(|(pack, position)| {
                let pack = &map.packs[pack as usize];
                (pack.id, pack.reference, position, pack.frames.get(position / PAGES_PER_FRAME).unwrap())
            })
        })
        .collect()
    };
    map.files.iter().map(|file| (file.path.clone(), file.len, pages(file))).collect()
}

/// Reads one page with one ranged read.
pub(crate) async fn read_page(
    store: &dyn Store,
    keyring: &Keyring,
    map: &PageMap,
    path: &[u8],
    page: usize,
) -> Result<Vec<u8>> {
    let file = map.file(path).ok_or_else(|| Error::Invalid { what: "no such file".to_owned() })?;
    let page_size = map.page_size as usize;
    let len = usize::try_from(file.len).unwrap().checked_sub(page * page_size).unwrap().min(page_size);
    let Some((pack, position)) = place_of(map, path, page) else { return Ok(vec![0; len]) };
    let pack = &map.packs[pack as usize];
    let frame = frames_of(position, 1).start;
    let plain = read_frame(store, keyring, pack, frame).await?;
    let start = (position % PAGES_PER_FRAME) as usize * page_size;
    let bytes = plain.get(start..start + len);
    bytes.map(<[u8]>::to_vec).ok_or_else(|| Error::Corrupt { object: pack.id.to_string(), reason: "short".to_owned() })
}

/// Reads and opens one frame.
pub(crate) async fn read_frame(store: &dyn Store, keyring: &Keyring, pack: &MapPack, frame: u32) -> Result<Vec<u8>> {
    let section = pack.frames.get(frame).unwrap();
    let range = ReadRange::Part { offset: section.offset, len: u64::from(section.stored_len) };
    let mut stored = store.read(&pack.id.to_string(), range).await?.to_vec();
    let mut plain = vec![0; section.plain_len as usize];
    let sections = DataSections::new(keyring, Name::Pack(pack.id), &pack.reference)?;
    sections.open(frame, &section, &mut stored, &mut plain, &mut Decoder::new())?;
    Ok(plain)
}

/// Reads every file of a map, every frame once.
pub(crate) async fn read_tree(store: &dyn Store, keyring: &Keyring, map: &PageMap) -> Result<Tree> {
    let mut frames: HashMap<(u32, u32), Vec<u8>> = HashMap::new();
    let mut tree = Tree::new();
    for file in &map.files {
        let mut bytes = Vec::new();
        for page in 0..usize::try_from(file.pages()).unwrap() {
            let page_size = map.page_size as usize;
            let len = (usize::try_from(file.len).unwrap() - bytes.len()).min(page_size);
            let Some((pack, position)) = place_of(map, &file.path, page) else {
                bytes.resize(bytes.len() + len, 0);
                continue;
            };
            let frame = position / PAGES_PER_FRAME;
            let plain = match frames.entry((pack, frame)) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(read_frame(store, keyring, &map.packs[pack as usize], frame).await?),
            };
            let start = (position % PAGES_PER_FRAME) as usize * page_size;
            bytes.extend_from_slice(&plain[start..start + len]);
        }
        tree.insert(file.path.clone(), bytes);
    }
    Ok(tree)
}

/// A backup as the journal records it.
pub(crate) fn backup_entry(written: &Written, name: &str) -> Backup {
    Backup {
        id: written.attempt,
        name: name.to_owned(),
        kind: BackupKind::Manual,
        method: Method::Physical,
        started: 1_767_225_600_000_000,
        stopped: 1_767_225_660_000_000,
        timeline: 1,
        start: 0x0200_0028,
        stop: 0x0200_0100,
        map: written.digest,
        sizes: Sizes { total: 10, read: 9, changed: 8, stored: written.map_len, shared: 6, files: 5 },
        tainted: vec!["checksum of base/1/1259 block 4".to_owned()],
        tags: BTreeMap::from([("ticket".to_owned(), "4711".to_owned())]),
        details: serde_json::json!({ "label": "START WAL LOCATION: 0/2000028", "lsn": u64::MAX }),
    }
}

/// Builds an entry with any content, as somebody could who has the keys in `keyring`.
pub(crate) fn forge(
    world: &World,
    keyring: &Keyring,
    of: JournalOf,
    number: u64,
    previous: [u8; 32],
    epoch: u64,
    entry: &serde_json::Value,
) -> Finished {
    let envelope = serde_json::json!({
        "number": number, "previous": hex::encode(previous), "time": 0, "epoch": epoch, "entry": entry,
    });
    let writer = ObjectWriter::new(world, keyring, Name::Entry(of, number), Kind::Entry, false, 4096);
    writer.finish(keyring, &serde_json::to_vec(&envelope).unwrap(), &mut Encoder::new(3))
}

pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// The keys of somebody who signs with another key.
pub(crate) fn with_signing(keyring: &Keyring, signing: SigningKey) -> Keyring {
    Keyring { signing, ..keyring.clone() }
}

/// An error and its causes, as one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
