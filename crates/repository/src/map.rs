//! The page map of a backup: every file, and where each of its pages lies. Format.md, "Maps".
//!
//! A map is complete: restoring needs no other backup. It is cut into *parts* of neighbouring files; a part that is equal
//! to one of the backup before is not written again but referred to. Where parts are cut depends on the paths alone, so
//! that a file more or less moves no other cut. Everything that a reader needs to open any page (packs with their keys,
//! frames with their places) stands in the part that names the page: once the map is open, a page is one ranged read.

use std::collections::{BTreeMap, HashMap};

use asof_world::{Id, World};

use crate::codec::{Codec, Encoder};
use crate::crypto::{self, Digest};
use crate::cursor::{Cursor, Decoded, Malformed, put_bytes, put_varint};
use crate::error::{Error, Result};
use crate::frames::Frames;
use crate::keyring::{Keyring, Signers};
use crate::names::{Name, PackId};
use crate::object::{self, Class, Finished, Kind, ObjectWriter, Opened, Reference, Section};
use crate::pack::{PAGES_PER_FRAME, put_section, take_section};
use crate::store::{ReadRange, Store};

/// A part is cut after a file whose path hashes to 0 modulo this, …
const CUT_EVERY: u64 = 64;
/// … or when it names this many frames.
const CUT_AT_FRAMES: usize = 4096;
/// Nearly every index of a map fits into this many last bytes.
const INDEX_GUESS: u64 = 128 << 10;

/// Where a run of pages lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: the pages are all zeros.
    Zero,
    /// In a pack, from this position on.
    Pack {
        /// An index into [`PageMap::packs`].
        pack: u32,
        /// Position of the first page.
        position: u32,
    },
}

/// A run of pages of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// How many pages.
    pub pages: u32,
    /// Where they lie.
    pub place: Place,
    /// Whether the page (a run of one) was torn when it was read and is repaired by replay.
    pub torn: bool,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFile {
    /// Its path relative to the data directory, as bytes, with `/` between parts.
    pub path: Vec<u8>,
    /// Exact length in bytes; the last page is cut accordingly.
    pub len: u64,
    /// Its pages from the first to the last.
    pub runs: Vec<Run>,
}

/// A pack that a map refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapPack {
    /// Which pack.
    pub id: PackId,
    /// Its length in bytes.
    pub len: u64,
    /// What proves it and opens its frames.
    pub reference: Reference,
    /// The frames that are referred to, by number.
    pub frames: Frames,
}

/// The pages of a whole backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageMap {
    /// Bytes in a page.
    pub page_size: u32,
    /// Directories, so that empty ones come back.
    pub directories: Vec<Vec<u8>>,
    /// Files by ascending path.
    pub files: Vec<MapFile>,
    /// Packs that runs refer to.
    pub packs: Vec<MapPack>,
}

impl PageMap {
    /// The file with this path.
    pub fn file(&self, path: &[u8]) -> Option<&MapFile> {
        self.files.binary_search_by(|file| file.path.as_slice().cmp(path)).ok().map(|at| &self.files[at])
    }
}

impl MapFile {
    /// Appends pages, joining them with the run before where they continue it.
    pub fn push(&mut self, run: Run) {
        if let Some(last) = self.runs.last_mut()
            && !last.torn
            && !run.torn
            && last.place.continues_at(last.pages, run.place)
        {
            last.pages += run.pages;
            return;
        }
        self.runs.push(run);
    }

    /// How many pages the file has.
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.pages)).sum()
    }
}

impl Place {
    fn continues_at(self, pages: u32, next: Self) -> bool {
        match (self, next) {
            (Self::Zero, Self::Zero) => true,
            (Self::Pack { pack: a, position: at }, Self::Pack { pack: b, position }) => {
                a == b && at + pages == position
            }
            _ => false,
        }
    }
}

/// Where a part lies: in this map object or in that of an earlier backup.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PartEntry {
    /// The attempt whose map object holds it, an index into the owners.
    owner: u32,
    /// Its section number there.
    number: u32,
    section: Section,
    /// Keyed hash of its plaintext: equal parts are found by it.
    content: Digest,
}

/// The index of a map object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MapIndex {
    page_size: u32,
    /// Map objects that hold parts, with the digest of their ends. The first is this object itself, digest zero.
    owners: Vec<(Id, Digest)>,
    parts: Vec<PartEntry>,
}

/// A map that was read, with what the next map needs to share parts with it.
pub struct StoredMap {
    /// The pages.
    pub map: PageMap,
    parts: HashMap<Digest, (Id, Digest, PartEntry)>,
}

/// Builds the map object of a backup, sharing parts with `parent`.
pub fn write_map(
    world: &World,
    keyring: &Keyring,
    lineage: Id,
    attempt: Id,
    map: &PageMap,
    parent: Option<&StoredMap>,
) -> Finished {
    let name = Name::Map { lineage, attempt };
    let mut object = ObjectWriter::new(world, keyring, name, Kind::Map, false, 1 << 20);
    let mut encoder = Encoder::new(3);
    let mut index = MapIndex { page_size: map.page_size, owners: vec![(attempt, [0; 32])], parts: Vec::new() };
    let directories = (!map.directories.is_empty()).then(|| encode_directories(&map.directories));
    for plain in directories.into_iter().chain(cut(map).map(|files| encode_part(map, lineage, files))) {
        assert!(reads_back(map.page_size, lineage, &plain), "a part that is written can be read");
        let content = content_digest(keyring, lineage, &plain);
        let entry = match parent.and_then(|parent| parent.parts.get(&content)) {
            Some((owner, digest, entry)) => PartEntry { owner: index.owner(*owner, *digest), ..entry.clone() },
            None => {
                let number = u32::try_from(index.parts.len() + 1).expect("a map has few parts");
                let section = object.section(Class::Index, number, &plain, &mut encoder);
                PartEntry { owner: 0, number, section, content }
            }
        };
        index.parts.push(entry);
    }
    object.finish(keyring, &index.encode(), &mut encoder)
}

/// What is about to be stored is read first: a map that nobody can read would be noticed by a restore.
fn reads_back(page_size: u32, lineage: Id, plain: &[u8]) -> bool {
    let mut map = PageMap { page_size, ..PageMap::default() };
    if map.take_part(lineage, plain, &mut HashMap::new()).is_err() {
        return false;
    }
    let again = match plain.first() {
        Some(&PART_DIRECTORIES) => encode_directories(&map.directories),
        _ => encode_part(&map, lineage, &map.files),
    };
    again == plain
}

fn content_digest(keyring: &Keyring, lineage: Id, plain: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new_keyed(keyring.index.expose());
    *hasher.update(b"asof format 0: map part").update(&lineage.0).update(plain).finalize().as_bytes()
}

impl MapIndex {
    fn owner(&mut self, attempt: Id, digest: Digest) -> u32 {
        let known = self.owners.iter().position(|(id, _)| *id == attempt);
        let at = known.unwrap_or_else(|| {
            self.owners.push((attempt, digest));
            self.owners.len() - 1
        });
        u32::try_from(at).expect("a map has few owners")
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, u64::from(self.page_size));
        put_varint(&mut out, self.owners.len() as u64);
        for (attempt, digest) in &self.owners {
            out.extend_from_slice(&attempt.0);
            out.extend_from_slice(digest);
        }
        put_varint(&mut out, self.parts.len() as u64);
        for part in &self.parts {
            put_varint(&mut out, u64::from(part.owner));
            put_varint(&mut out, u64::from(part.number));
            put_section(&mut out, &part.section);
            out.extend_from_slice(&part.content);
        }
        out
    }

    fn decode(bytes: &[u8]) -> Decoded<Self> {
        let mut cursor = Cursor::new(bytes);
        let page_size = cursor.varint32()?;
        let owners = (0..cursor.count()?)
            .map(|_| Ok((Id(cursor.array()?), cursor.array()?)))
            .collect::<Decoded<Vec<(Id, Digest)>>>()?;
        let parts = (0..cursor.count()?).map(|_| {
            let (owner, number) = (cursor.varint32()?, cursor.varint32()?);
            if owner as usize >= owners.len() {
                return Err(Malformed("a part belongs to a map that is not listed"));
            }
            Ok(PartEntry { owner, number, section: take_section(&mut cursor)?, content: cursor.array()? })
        });
        let parts = parts.collect::<Decoded<Vec<_>>>()?;
        cursor.end()?;
        Ok(Self { page_size, owners, parts })
    }
}

/// Cuts the files of a map into parts, by path alone (and size, for very large files).
fn cut(map: &PageMap) -> impl Iterator<Item = &[MapFile]> {
    let mut rest = map.files.as_slice();
    std::iter::from_fn(move || {
        let mut frames = 0usize;
        let ends_part = |file: &MapFile| {
            let hash = u64::from_le_bytes(crypto::digest(&file.path)[..8].try_into().expect("8 bytes were taken"));
            frames += file.runs.iter().map(|run| (run.pages / PAGES_PER_FRAME + 1) as usize).sum::<usize>();
            hash.is_multiple_of(CUT_EVERY) || frames >= CUT_AT_FRAMES
        };
        let end = rest.iter().position(ends_part).map_or(rest.len(), |at| at + 1);
        let (part, after) = rest.split_at(end);
        rest = after;
        (!part.is_empty()).then_some(part)
    })
}

const PART_DIRECTORIES: u8 = 1;
const PART_FILES: u8 = 2;

fn encode_directories(directories: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![PART_DIRECTORIES];
    put_varint(&mut out, directories.len() as u64);
    directories.iter().for_each(|path| put_bytes(&mut out, path));
    out
}

const RUN_ZERO: u8 = 0;
const RUN_PACK: u8 = 1;
const RUN_TORN: u8 = 2;

fn encode_part(map: &PageMap, lineage: Id, files: &[MapFile]) -> Vec<u8> {
    // Packs are numbered anew within the part, in order of first use, so that equal parts are equal bytes.
    let mut local: Vec<u32> = Vec::new();
    let mut used: BTreeMap<u32, BTreeMap<u32, Section>> = BTreeMap::new();
    let mut body = Vec::new();
    put_varint(&mut body, files.len() as u64);
    for file in files {
        put_bytes(&mut body, &file.path);
        put_varint(&mut body, file.len);
        put_varint(&mut body, file.runs.len() as u64);
        for run in &file.runs {
            put_varint(&mut body, u64::from(run.pages));
            match run.place {
                Place::Zero => {
                    assert!(!run.torn, "a page of zeros is not torn");
                    body.push(RUN_ZERO);
                }
                Place::Pack { pack, position } => {
                    body.push(if run.torn { RUN_TORN } else { RUN_PACK });
                    let number = local.iter().position(|known| *known == pack).unwrap_or_else(|| {
                        local.push(pack);
                        local.len() - 1
                    });
                    put_varint(&mut body, number as u64);
                    put_varint(&mut body, u64::from(position));
                    let numbers = frames_of(position, run.pages);
                    let count = numbers.len();
                    let frames = map.packs[pack as usize].frames.range(numbers);
                    let named = used.entry(pack).or_default();
                    let found = frames.map(|(number, section)| named.insert(number, section)).count();
                    assert_eq!(found, count, "a run names frames of its pack");
                }
            }
        }
    }
    let mut out = vec![PART_FILES];
    put_varint(&mut out, local.len() as u64);
    for pack in local {
        put_pack(&mut out, lineage, &map.packs[pack as usize], &used[&pack]);
    }
    out.extend_from_slice(&body);
    out
}

/// The frames that `pages` pages from `position` on lie in.
pub fn frames_of(position: u32, pages: u32) -> std::ops::Range<u32> {
    position / PAGES_PER_FRAME..(position + pages).div_ceil(PAGES_PER_FRAME)
}

fn put_pack(out: &mut Vec<u8>, lineage: Id, pack: &MapPack, frames: &BTreeMap<u32, Section>) {
    assert_eq!(pack.id.lineage, lineage, "a map refers to packs of its own lineage");
    out.extend_from_slice(&pack.id.attempt.0);
    put_varint(out, u64::from(pack.id.number));
    put_varint(out, pack.len);
    out.extend_from_slice(&pack.reference.digest);
    out.extend_from_slice(&pack.reference.sealed_data_key);
    out.extend_from_slice(&pack.reference.header_digest);
    put_varint(out, frames.len() as u64);
    let (mut next_number, mut next_offset) = (0, 0);
    for (number, section) in frames {
        // Frames ascend, and most follow the one before: two small numbers instead of two large ones. No digests here:
        // a restore opens the seal, a scan reads the pack's index.
        put_varint(out, u64::from(number - next_number));
        put_varint(out, section.offset - next_offset);
        put_varint(out, u64::from(section.stored_len));
        put_varint(out, u64::from(section.plain_len));
        out.push(section.codec as u8);
        next_number = number + 1;
        next_offset = section.offset + u64::from(section.stored_len);
    }
}

fn take_pack(cursor: &mut Cursor<'_>, lineage: Id) -> Decoded<MapPack> {
    let id = PackId { lineage, attempt: Id(cursor.array()?), number: cursor.varint32()? };
    let len = cursor.varint()?;
    let reference =
        Reference { digest: cursor.array()?, sealed_data_key: cursor.array()?, header_digest: cursor.array()? };
    let mut frames = Frames::default();
    let (mut next_number, mut next_offset) = (0u32, 0u64);
    const TOO_LARGE: Malformed = Malformed("a frame lies beyond any pack");
    for _ in 0..cursor.count()? {
        let number = next_number.checked_add(cursor.varint32()?).ok_or(TOO_LARGE)?;
        let offset = next_offset.checked_add(cursor.varint()?).ok_or(TOO_LARGE)?;
        let (stored_len, plain_len) = (cursor.varint32()?, cursor.varint32()?);
        let codec = Codec::from_id(cursor.u8()?).ok_or(Malformed("a codec is unknown; a newer asof wrote it"))?;
        if stored_len as usize > object::MAX_SECTION_LEN || plain_len as usize > object::MAX_SECTION_LEN {
            return Err(Malformed("a frame is longer than frames may be"));
        }
        next_number = number.checked_add(1).ok_or(TOO_LARGE)?;
        next_offset = offset.checked_add(u64::from(stored_len)).filter(|end| *end <= len).ok_or(TOO_LARGE)?;
        let section = Section { offset, stored_len, plain_len, codec, digest: [0; 16] };
        assert!(frames.push(number, &section), "numbers and places were added up");
    }
    Ok(MapPack { id, len, reference, frames })
}

/// Reads and authenticates the map of a backup. `digest` is what the commit entry recorded.
pub async fn read_map(
    store: &dyn Store,
    keyring: &Keyring,
    signers: &Signers,
    lineage: Id,
    attempt: Id,
    digest: &Digest,
) -> Result<StoredMap> {
    let name = Name::Map { lineage, attempt };
    let (opened, index) = open_map(store, keyring, signers, name, digest).await?;
    let mut owners: Vec<Option<Opened>> = Vec::new();
    owners.push(Some(opened));
    owners.resize_with(index.owners.len(), || None);
    let mut stored = StoredMap {
        map: PageMap { page_size: index.page_size, ..PageMap::default() },
        parts: HashMap::with_capacity(index.parts.len()),
    };
    let mut packs = HashMap::new();
    for part in &index.parts {
        let owner = part.owner as usize;
        let (owner_id, owner_digest) = index.owners[owner];
        let owner_name = Name::Map { lineage, attempt: owner_id };
        let opened = match &mut owners[owner] {
            Some(opened) => opened,
            missing => missing.insert(open_map(store, keyring, signers, owner_name, &owner_digest).await?.0),
        };
        let range = ReadRange::Part { offset: part.section.offset, len: u64::from(part.section.stored_len) };
        let bytes = store.read(&owner_name.to_string(), range).await?;
        let plain = opened.open_index_section(part.number, &part.section, &bytes)?;
        stored
            .map
            .take_part(lineage, &plain, &mut packs)
            .map_err(|reason| Error::corrupt(owner_name, format!("part {}: {reason}", part.number)))?;
        let proof = if owner == 0 { opened.reference.digest } else { owner_digest };
        stored.parts.insert(part.content, (owner_id, proof, part.clone()));
    }
    stored.map.packs.iter_mut().for_each(|pack| pack.frames.shrink());
    if !stored.map.files.is_sorted_by(|a, b| a.path < b.path) {
        return Err(Error::corrupt(name, "its files are not in order"));
    }
    Ok(stored)
}

async fn open_map(
    store: &dyn Store,
    keyring: &Keyring,
    signers: &Signers,
    name: Name,
    digest: &Digest,
) -> Result<(Opened, MapIndex)> {
    let opened = object::read_index(store, keyring, signers, name, Kind::Map, INDEX_GUESS).await?;
    if opened.reference.digest != *digest {
        return Err(Error::corrupt(name, "it is another map than the one that was recorded"));
    }
    let index = MapIndex::decode(&opened.index).map_err(|reason| Error::corrupt(name, reason))?;
    if index.owners.is_empty() && !index.parts.is_empty() || !valid_page_size(index.page_size) {
        return Err(Error::corrupt(name, "its index is impossible"));
    }
    Ok((opened, index))
}

fn valid_page_size(size: u32) -> bool {
    size.is_power_of_two() && (512..=65536).contains(&size)
}

impl PageMap {
    fn take_part(&mut self, lineage: Id, plain: &[u8], packs: &mut HashMap<PackId, u32>) -> Decoded<()> {
        let mut cursor = Cursor::new(plain);
        match cursor.u8()? {
            PART_DIRECTORIES => {
                for _ in 0..cursor.count()? {
                    self.directories.push(cursor.bytes()?.to_vec());
                }
            }
            PART_FILES => {
                let mut local = Vec::new();
                for _ in 0..cursor.count()? {
                    local.push(self.merge_pack(take_pack(&mut cursor, lineage)?, packs)?);
                }
                for _ in 0..cursor.count()? {
                    let file = self.take_file(&mut cursor, &local)?;
                    self.files.push(file);
                }
            }
            _ => return Err(Malformed("it is of an unknown kind")),
        }
        cursor.end()
    }

    fn merge_pack(&mut self, pack: MapPack, packs: &mut HashMap<PackId, u32>) -> Decoded<u32> {
        if let Some(known) = packs.get(&pack.id) {
            let existing = &mut self.packs[*known as usize];
            if existing.reference != pack.reference || existing.len != pack.len {
                return Err(Malformed("it describes a pack differently than another part"));
            }
            if !existing.frames.merge(&pack.frames) {
                return Err(Malformed("it describes frames differently than another part"));
            }
            return Ok(*known);
        }
        let number = u32::try_from(self.packs.len()).map_err(|_| Malformed("it names too many packs"))?;
        packs.insert(pack.id, number);
        self.packs.push(pack);
        Ok(number)
    }

    fn take_file(&self, cursor: &mut Cursor<'_>, local: &[u32]) -> Decoded<MapFile> {
        let (path, len) = (cursor.bytes()?.to_vec(), cursor.varint()?);
        let mut file = MapFile { path, len, runs: Vec::new() };
        let mut left = len;
        for _ in 0..cursor.count()? {
            let (pages, kind) = (cursor.varint32()?, cursor.u8()?);
            let page_size = u64::from(self.page_size);
            let before_last = page_size.saturating_mul(u64::from(pages.saturating_sub(1)));
            let last_len = left.saturating_sub(before_last).min(page_size);
            left = left.saturating_sub(before_last + last_len);
            let place = match kind {
                RUN_TORN if pages != 1 => return Err(Malformed("a torn run has one page")),
                RUN_ZERO => Place::Zero,
                RUN_PACK | RUN_TORN => {
                    let number = usize::try_from(cursor.varint()?).unwrap_or(usize::MAX);
                    let pack = *local.get(number).ok_or(Malformed("a run names a pack that is not listed"))?;
                    let position = cursor.varint32()?;
                    self.check_run(pack, position, pages, last_len)?;
                    Place::Pack { pack, position }
                }
                _ => return Err(Malformed("a run is of an unknown kind")),
            };
            file.runs.push(Run { pages, place, torn: kind == RUN_TORN });
        }
        if file.pages() != len.div_ceil(u64::from(self.page_size)) {
            return Err(Malformed("a file has another number of pages than its length needs"));
        }
        Ok(file)
    }

    /// Whether every page of the run lies in a frame that is listed. The last page of a file may be short: `last_len`.
    fn check_run(&self, pack: u32, position: u32, pages: u32, last_len: u64) -> Decoded<()> {
        const NOT_LISTED: Malformed = Malformed("a run names a frame that is not listed");
        let end = position.checked_add(pages).filter(|end| pages > 0 && *end < u32::MAX - PAGES_PER_FRAME);
        let last = end.ok_or(NOT_LISTED)? - 1;
        let numbers = frames_of(position, pages);
        let mut listed = self.packs[pack as usize].frames.range(numbers.clone());
        for frame in numbers {
            let (_, section) = listed.next().filter(|(number, _)| *number == frame).ok_or(NOT_LISTED)?;
            let (slot, len) = match last / PAGES_PER_FRAME == frame {
                true => (last % PAGES_PER_FRAME, last_len),
                false => (PAGES_PER_FRAME - 1, u64::from(self.page_size)),
            };
            if u64::from(slot) * u64::from(self.page_size) + len > u64::from(section.plain_len) {
                return Err(Malformed("a run names a page that its frame does not hold"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINEAGE: Id = Id([1; 16]);
    const PAGE: u32 = 8192;

    fn section(offset: u64, plain_len: u32) -> Section {
        Section { offset, stored_len: 500, plain_len, codec: Codec::Zstd, digest: [0; 16] }
    }

    fn pack(number: u32, plain_lens: &[u32]) -> MapPack {
        let frames = (0u32..).zip(plain_lens).map(|(n, len)| (n * 3, section(8 + 700 * u64::from(n), *len)));
        let id = PackId { lineage: LINEAGE, attempt: Id([2; 16]), number };
        let reference = Reference { digest: [3; 32], sealed_data_key: [4; 80], header_digest: [5; 32] };
        MapPack { id, len: 1 << 20, reference, frames: frames.collect() }
    }

    /// Pages, pack and position, torn.
    type Pages = (u32, Option<(u32, u32)>, bool);

    fn file(path: &str, len: u64, runs: &[Pages]) -> MapFile {
        let runs = runs.iter().map(|(pages, place, torn)| Run {
            pages: *pages,
            place: place.map_or(Place::Zero, |(pack, position)| Place::Pack { pack, position }),
            torn: *torn,
        });
        MapFile { path: path.as_bytes().to_vec(), len, runs: runs.collect() }
    }

    fn map() -> PageMap {
        let page = u64::from(PAGE);
        let files = vec![
            file("a", 0, &[]),
            file("b", 7 * page - 1, &[(2, Some((1, 0)), false), (3, None, false), (2, Some((0, 48)), false)]),
            file("c", 4 * page, &[(2, Some((0, 4)), false), (1, Some((0, 6)), true), (1, Some((1, 1)), false)]),
        ];
        PageMap {
            page_size: PAGE,
            directories: Vec::new(),
            files,
            packs: vec![pack(0, &[16 * PAGE, 2 * PAGE - 1]), pack(1, &[2 * PAGE])],
        }
    }

    fn decode(plain: &[u8]) -> Decoded<PageMap> {
        let mut map = PageMap { page_size: PAGE, ..PageMap::default() };
        map.take_part(LINEAGE, plain, &mut HashMap::new()).map(|()| map)
    }

    /// Asks for every byte of every page as a reader does: each lies in its frame.
    fn assert_readable(map: &PageMap) {
        for file in &map.files {
            let mut left = file.len;
            for run in &file.runs {
                for page in 0..run.pages {
                    let len = left.min(u64::from(PAGE));
                    left -= len;
                    if let Place::Pack { pack, position } = run.place {
                        let at = position + page;
                        let section = map.packs[pack as usize].frames.get(at / PAGES_PER_FRAME).expect("is listed");
                        let end = u64::from(at % PAGES_PER_FRAME) * u64::from(PAGE) + len;
                        assert!(end <= u64::from(section.plain_len), "a page lies behind its frame");
                    }
                }
            }
            assert_eq!(left, 0);
        }
    }

    #[test]
    fn a_part_survives_and_a_changed_one_names_no_page_that_is_not_there() {
        let map = map();
        let plain = encode_part(&map, LINEAGE, &map.files);
        assert_readable(&decode(&plain).unwrap());
        assert_eq!(decode(&plain).unwrap().files.len(), map.files.len());
        crate::hostile::survive(&plain, |bytes| {
            // Huge files of zeros are legal, and too long to walk page by page here.
            if let Ok(map) = decode(bytes)
                && map.files.iter().all(|file| file.len < 1 << 30)
            {
                assert_readable(&map);
            }
        });
        for len in 0..plain.len() {
            assert!(decode(&plain[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn an_index_reads_as_it_was_written_or_not_at_all() {
        let part = |owner, number| PartEntry { owner, number, section: section(8, 90), content: [6; 32] };
        let owners = vec![(Id([2; 16]), [0; 32]), (Id([3; 16]), [8; 32])];
        let index = MapIndex { page_size: PAGE, owners, parts: vec![part(0, 1), part(1, 300), part(0, 2)] };
        crate::hostile::check(&index.encode(), |bytes| MapIndex::decode(bytes).ok().map(|index| index.encode()));
        assert_eq!(MapIndex::decode(&index.encode()), Ok(index));
    }

    #[test]
    fn directories_read_as_they_were_written_or_not_at_all() {
        let whole = encode_directories(&[b"base".to_vec(), b"base/1".to_vec(), b"pg_wal/\xff".to_vec()]);
        crate::hostile::check(&whole, |bytes| match bytes.first() {
            Some(&PART_DIRECTORIES) => decode(bytes).ok().map(|map| encode_directories(&map.directories)),
            _ => None,
        });
    }

    /// Gives a frame another length.
    fn of_len(pack: &mut MapPack, frame: u32, plain_len: u32) {
        let changed =
            |(number, section)| (number, if number == frame { Section { plain_len, ..section } } else { section });
        pack.frames = pack.frames.iter().map(changed).collect();
    }

    #[test]
    fn what_cannot_be_in_a_map_is_refused() {
        let check = |change: fn(&mut PageMap), says: &str| {
            let mut map = map();
            change(&mut map);
            let plain = encode_part(&map, LINEAGE, &map.files);
            assert_eq!(decode(&plain).err().map(|reason| reason.0), Some(says));
        };
        let absent = "a run names a page that its frame does not hold";
        check(|map| of_len(&mut map.packs[1], 0, PAGE), absent);
        check(|map| of_len(&mut map.packs[0], 3, 2 * PAGE - 2), absent);
        check(|map| map.files[1].len += 1, absent);
        check(|map| map.files[1].len = 6 * u64::from(PAGE), "a file has another number of pages than its length needs");
        check(|map| map.files[2].runs[0].torn = true, "a torn run has one page");
        check(|map| of_len(&mut map.packs[0], 0, 1 << 30), "a frame is longer than frames may be");
        check(|map| map.packs[0].len = 100, "a frame lies beyond any pack");
    }

    #[test]
    fn the_decoder_of_zstd_survives_anything() {
        let plain: Vec<u8> = (0..3000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let coded = Encoder::new(3).encode(&plain).bytes.to_vec();
        let decoder = std::cell::RefCell::new(crate::codec::Decoder::new());
        crate::hostile::survive(&coded, |bytes| {
            let mut out = vec![0; plain.len()];
            let _ = decoder.borrow_mut().decode(Codec::Zstd, bytes, &mut out);
        });
    }
}
