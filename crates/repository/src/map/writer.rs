//! Makes the map of a backup while its files are copied, and holds little of it.
//!
//! Files come in any order, and are known by their number among all files in order of path. A path whose hash says so ends a
//! part whatever lies before it: the files up to it are a *group*, and groups have nothing to do with each other. Within a
//! group files are put in order and cut into parts. A part is sealed, and its files are forgotten, when the packs that it names
//! are stored; one with a torn page waits until the end, because only then it is known what becomes of that page. What is sealed
//! is handed out in objects of limited length.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use asof_world::{Id, World};

use super::index::{MapIndex, PartEntry};
use super::{MapFile, MapPack, PageMap, StoredMap, part};
use crate::codec::Encoder;
use crate::crypto::{self, Digest};
use crate::keyring::Keyring;
use crate::names::Name;
use crate::object::{Class, Finished, Kind, ObjectWriter};
use crate::pack::PAGES_PER_FRAME;

/// A part is cut after a file whose path hashes to 0 modulo this, …
const CUT_EVERY: u64 = 64;
/// … or when it names this many frames.
const CUT_AT_FRAMES: usize = 4096;

/// Parts that do not fit into this length of the map object go into further ones, so that no more than two such lengths are in
/// memory, and one that is being stored.
const OBJECT_LEN: usize = 16 << 20;
/// No more frames may be named by one file, so that its part is not longer than a section may be: a frame and a run take about
/// 20 bytes. A file in one piece reaches this with 256 GiB; PostgreSQL cuts relations at 1 GiB.
pub const MOST_FRAMES_OF_A_FILE: usize = 2 << 20;

/// A pack is not filled any longer, however little is in it, when the files that were copied meanwhile name this many frames:
/// 64 GiB in one piece, less where pages are scattered. Until it is stored their parts wait, and take up to 30 bytes a frame.
pub const WAITING_FRAMES: usize = 1 << 19;

/// A pack; one that is being filled becomes known when it is stored.
pub type PendingPack = Arc<OnceLock<MapPack>>;

/// A file of the backup that is being made.
pub struct CopiedFile {
    /// The file. Its runs name packs by number: first those of `part`, then `packs`.
    pub file: MapFile,
    /// The part of the parent's map with this file.
    pub part: Option<Arc<PageMap>>,
    /// Other packs.
    pub packs: Vec<PendingPack>,
}

impl CopiedFile {
    /// The files of a map.
    pub(super) fn all_of(mut map: PageMap) -> Vec<Self> {
        let files = std::mem::take(&mut map.files);
        let part = Arc::new(map);
        files.into_iter().map(|file| Self { file, part: Some(part.clone()), packs: Vec::new() }).collect()
    }

    /// A pack that is stored.
    pub(super) fn pack(&self, number: u32) -> &MapPack {
        let (number, shared) = (number as usize, self.part.as_ref().map_or(&[][..], |part| &part.packs));
        let stored = |number: usize| self.packs[number].get().expect("a part is sealed when its packs are stored");
        shared.get(number).unwrap_or_else(|| stored(number - shared.len()))
    }

    fn has_torn_page(&self) -> bool {
        self.file.runs.iter().any(|run| run.torn)
    }
}

/// How many frames a file names, at most: what it takes in a map and in memory.
pub fn frames_named(file: &MapFile) -> usize {
    file.runs.iter().map(|run| (run.pages / PAGES_PER_FRAME + 1) as usize).sum()
}

/// The map of a backup that is being made.
pub struct MapWriter {
    sealed: Sealed,
    /// The number of the last file of each group.
    ends: Vec<usize>,
    groups: BTreeMap<usize, Group>,
    /// Parts whose packs are not all stored, or with a torn page.
    waiting: Vec<Part>,
    files: u64,
    bytes: u64,
}

/// Files of which some are not copied yet.
#[derive(Default)]
struct Group {
    /// How many of its first files were put in order.
    done: usize,
    /// What came before its turn; `None` for a file that vanished.
    early: BTreeMap<usize, Option<CopiedFile>>,
    next_part: Part,
}

#[derive(Default)]
struct Part {
    files: Vec<CopiedFile>,
    frames: usize,
}

impl Part {
    fn is_ready(&self) -> bool {
        let ready = |copied: &CopiedFile| copied.packs.iter().all(|pack| pack.get().is_some());
        self.files.iter().all(|copied| ready(copied) && !copied.has_torn_page())
    }
}

impl MapWriter {
    /// Starts the map of a backup of these directories and files, both by ascending path. Parts are shared with `parent`.
    pub fn new<'a>(
        world: &World,
        keyring: &Keyring,
        (lineage, attempt): (Id, Id),
        page_size: u32,
        directories: &[Vec<u8>],
        paths: impl Iterator<Item = &'a [u8]>,
        parent: Option<&StoredMap>,
    ) -> Self {
        let mut sealed = Sealed::new(world, keyring, (lineage, attempt), page_size, parent);
        if !directories.is_empty() {
            sealed.add(Vec::new(), &part::encode_directories(directories));
        }
        let (mut ends, mut count) = (Vec::new(), 0);
        for path in paths {
            count += 1;
            if ends_group(path) {
                ends.push(count - 1);
            }
        }
        if ends.last().map_or(0, |end| end + 1) < count {
            ends.push(count - 1);
        }
        Self { sealed, ends, groups: BTreeMap::new(), waiting: Vec::new(), files: 0, bytes: 0 }
    }

    /// Takes file number `at`, or that it vanished.
    pub fn add(&mut self, at: usize, copied: Option<CopiedFile>) {
        if let Some(copied) = &copied {
            self.files += 1;
            self.bytes += copied.file.len;
        }
        let number = self.ends.partition_point(|end| *end < at);
        let first = number.checked_sub(1).map_or(0, |before| self.ends[before] + 1);
        let len = self.ends[number] + 1 - first;
        let group = self.groups.entry(number).or_default();
        assert!(at - first >= group.done, "a file is copied once");
        group.early.insert(at - first, copied);
        let mut cut = Vec::new();
        while let Some(next) = group.early.remove(&group.done) {
            group.done += 1;
            group.next_part.frames += next.as_ref().map_or(0, |copied| frames_named(&copied.file));
            group.next_part.files.extend(next);
            if group.next_part.frames >= CUT_AT_FRAMES || group.done == len {
                cut.push(std::mem::take(&mut group.next_part));
            }
        }
        if group.done == len {
            self.groups.remove(&number);
        }
        cut.into_iter().filter(|part| !part.files.is_empty()).for_each(|part| self.seal_or_wait(part));
    }

    /// Seals what waited for nothing but packs that are stored now.
    pub fn pack_stored(&mut self) {
        std::mem::take(&mut self.waiting).into_iter().for_each(|part| self.seal_or_wait(part));
    }

    fn seal_or_wait(&mut self, part: Part) {
        if part.is_ready() { self.sealed.add_files(&part.files) } else { self.waiting.push(part) }
    }

    /// Map objects that are full: they have to be stored before the map is.
    pub fn take_full(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.sealed.full)
    }

    /// Takes the mark of a torn page away.
    pub fn unmark(&mut self, path: &[u8], page: u32) {
        let files = self.waiting.iter_mut().flat_map(|part| &mut part.files);
        let copied = files.into_iter().find(|copied| copied.file.path == path);
        let runs = &mut copied.expect("a part with a torn page waits").file.runs;
        let mut behind = 0;
        let run = runs.iter_mut().find(|run| {
            behind += run.pages;
            page < behind
        });
        run.expect("a torn page lies in its file").torn = false;
    }

    /// How many files were taken, and their bytes.
    pub fn totals(&self) -> (u64, u64) {
        (self.files, self.bytes)
    }

    /// How many frames the files name that are held in memory.
    pub fn held_frames(&self) -> usize {
        let early = self.groups.values().flat_map(|group| group.early.values().flatten());
        let parts = self.groups.values().map(|group| &group.next_part).chain(&self.waiting);
        early.map(|copied| frames_named(&copied.file)).sum::<usize>() + parts.map(|part| part.frames).sum::<usize>()
    }

    /// Seals what is left, and ends the map. All files have come, and all packs are stored. Objects that are full come first, the map
    /// is the last.
    pub fn finish(mut self) -> Vec<Finished> {
        assert!(self.groups.is_empty(), "every file was copied or vanished");
        self.waiting.iter().for_each(|part| self.sealed.add_files(&part.files));
        self.sealed.finish()
    }
}

fn ends_group(path: &[u8]) -> bool {
    let hash = u64::from_le_bytes(crypto::digest(path)[..8].try_into().expect("8 bytes were taken"));
    hash.is_multiple_of(CUT_EVERY)
}

/// Parts that are sealed, or shared with the parent.
struct Sealed {
    world: World,
    /// The map object, which has the index.
    object: Growing,
    /// Where parts go since that is full.
    further: Option<Growing>,
    full: Vec<Finished>,
    /// How many further ones were begun.
    objects: u32,
    encoder: Encoder,
    keyring: Keyring,
    lineage: Id,
    page_size: u32,
    parent: HashMap<Digest, (Id, Digest, PartEntry)>,
    owners: Vec<(Id, Digest)>,
    /// By the first path.
    parts: BTreeMap<Vec<u8>, PartEntry>,
}

/// An object that gets parts.
struct Growing {
    owner: u32,
    writer: ObjectWriter,
    last_section: u32,
}

impl Growing {
    fn new(world: &World, keyring: &Keyring, (lineage, attempt): (Id, Id), owner: u32) -> Self {
        let name = Name::Map { lineage, attempt };
        Self { owner, writer: ObjectWriter::new(world, keyring, name, Kind::Map, false, 1 << 20), last_section: 0 }
    }

    fn is_full(&self) -> bool {
        self.writer.len() >= OBJECT_LEN
    }
}

impl Sealed {
    fn new(
        world: &World,
        keyring: &Keyring,
        (lineage, attempt): (Id, Id),
        page_size: u32,
        parent: Option<&StoredMap>,
    ) -> Self {
        Self {
            world: world.clone(),
            object: Growing::new(world, keyring, (lineage, attempt), 0),
            further: None,
            full: Vec::new(),
            objects: 0,
            encoder: Encoder::new(3),
            keyring: keyring.clone(),
            lineage,
            page_size,
            parent: parent.map_or_else(HashMap::new, StoredMap::by_content),
            owners: vec![(attempt, [0; 32])],
            parts: BTreeMap::new(),
        }
    }

    fn add_files(&mut self, files: &[CopiedFile]) {
        let first = files.first().expect("a part has files").file.path.clone();
        self.add(first, &part::encode_files(self.lineage, files));
    }

    fn add(&mut self, first: Vec<u8>, plain: &[u8]) {
        // A map that nobody can read would be noticed by a restore: what is about to be stored is read first.
        let read = part::decode(self.page_size, self.lineage, plain).expect("a part that is written can be read");
        assert!(part::encode(self.lineage, read) == plain, "a part that is read again is the same");
        let content = content_digest(&self.keyring, self.lineage, plain);
        let entry = match self.parent.get(&content) {
            Some((owner, digest, entry)) => {
                PartEntry { owner: owner_number(&mut self.owners, *owner, *digest), ..entry.clone() }
            }
            None => self.seal(plain, content),
        };
        assert!(self.parts.insert(first, entry).is_none(), "no two parts begin with the same file");
        if self.further.as_ref().is_some_and(Growing::is_full) {
            self.end_further();
        }
    }

    fn seal(&mut self, plain: &[u8], content: Digest) -> PartEntry {
        let growing = if self.object.is_full() {
            self.further.get_or_insert_with(|| {
                let (attempt, owner) = (self.owners[0].0, self.owners.len());
                let id = further_id(attempt, self.objects);
                self.objects += 1;
                self.owners.push((id, [0; 32]));
                let owner = u32::try_from(owner).expect("a map has few owners");
                Growing::new(&self.world, &self.keyring, (self.lineage, id), owner)
            })
        } else {
            &mut self.object
        };
        growing.last_section += 1;
        let number = growing.last_section;
        let section = growing.writer.section(Class::Index, number, plain, &mut self.encoder);
        PartEntry { owner: growing.owner, number, section, content }
    }

    /// Ends the further object, whose index lists its own parts.
    fn end_further(&mut self) {
        let Some(Growing { owner, writer, .. }) = self.further.take() else { return };
        let own = self.parts.values().filter(|part| part.owner == owner);
        let parts = own.map(|part| PartEntry { owner: 0, ..part.clone() }).collect();
        let (id, digest) = &mut self.owners[owner as usize];
        let index = MapIndex { page_size: self.page_size, owners: vec![(*id, [0; 32])], parts };
        let finished = writer.finish(&self.keyring, &index.encode(), &mut self.encoder);
        *digest = finished.reference.digest;
        self.full.push(finished);
    }

    fn finish(mut self) -> Vec<Finished> {
        self.end_further();
        let parts = self.parts.into_values().collect();
        let index = MapIndex { page_size: self.page_size, owners: self.owners, parts };
        self.full.push(self.object.writer.finish(&self.keyring, &index.encode(), &mut self.encoder));
        self.full
    }
}

/// The id under which further map object number `number` of an attempt is stored.
fn further_id(attempt: Id, number: u32) -> Id {
    let mut hasher = blake3::Hasher::new();
    let hash = hasher.update(b"asof format 0: further map").update(&attempt.0).update(&number.to_le_bytes()).finalize();
    Id(hash.as_bytes()[..16].try_into().expect("16 bytes were taken"))
}

fn owner_number(owners: &mut Vec<(Id, Digest)>, attempt: Id, digest: Digest) -> u32 {
    let known = owners.iter().position(|(id, _)| *id == attempt);
    let at = known.unwrap_or_else(|| {
        owners.push((attempt, digest));
        owners.len() - 1
    });
    u32::try_from(at).expect("a map has few owners")
}

fn content_digest(keyring: &Keyring, lineage: Id, plain: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new_keyed(keyring.index.expose());
    *hasher.update(b"asof format 0: map part").update(&lineage.0).update(plain).finalize().as_bytes()
}

/// Writes a map that is in memory as a whole and fits into one object, as the small ones of tests and simulations do.
pub fn write_map(
    world: &World,
    keyring: &Keyring,
    lineage: Id,
    attempt: Id,
    map: &PageMap,
    parent: Option<&StoredMap>,
) -> Finished {
    let paths = map.files.iter().map(|file| file.path.as_slice());
    let ids = (lineage, attempt);
    let mut writer = MapWriter::new(world, keyring, ids, map.page_size, &map.directories, paths, parent);
    CopiedFile::all_of(map.clone()).into_iter().enumerate().for_each(|(at, copied)| writer.add(at, Some(copied)));
    let [map] =
        <[Finished; 1]>::try_from(writer.finish()).unwrap_or_else(|_| panic!("the map is too long for one object"));
    map
}
