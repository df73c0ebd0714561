//! The plaintext of one part, and what is read from it.

use std::collections::{BTreeMap, HashMap};

use asof_world::Id;

use super::{CopiedFile, MapFile, MapPack, PageMap, Place, Run};
use crate::codec::Codec;
use crate::cursor::{Cursor, Decoded, Malformed, put_bytes, put_varint};
use crate::frames::Frames;
use crate::names::PackId;
use crate::object::{self, Reference, Section};
use crate::pack::PAGES_PER_FRAME;

const PART_DIRECTORIES: u8 = 1;
const PART_FILES: u8 = 2;

pub(super) fn encode_directories(directories: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![PART_DIRECTORIES];
    put_varint(&mut out, directories.len() as u64);
    directories.iter().for_each(|path| put_bytes(&mut out, path));
    out
}

const RUN_ZERO: u8 = 0;
const RUN_PACK: u8 = 1;
const RUN_TORN: u8 = 2;

/// Packs are numbered anew within the part, in order of first use, so that equal parts are equal bytes.
#[derive(Default)]
struct LocalPacks<'a> {
    numbers: HashMap<PackId, usize>,
    /// With the frames that runs name.
    packs: Vec<(&'a MapPack, BTreeMap<u32, Section>)>,
}

impl<'a> LocalPacks<'a> {
    /// The number of a pack of which these pages are named.
    fn name(&mut self, pack: &'a MapPack, position: u32, pages: u32) -> usize {
        let number = *self.numbers.entry(pack.id).or_insert(self.packs.len());
        if number == self.packs.len() {
            self.packs.push((pack, BTreeMap::new()));
        }
        let named = &mut self.packs[number].1;
        let numbers = frames_of(position, pages);
        let count = numbers.len();
        let found = pack.frames.range(numbers).map(|(number, section)| named.insert(number, section)).count();
        assert_eq!(found, count, "a run names frames of its pack");
        number
    }
}

pub(super) fn encode_files(lineage: Id, files: &[CopiedFile]) -> Vec<u8> {
    let (mut local, mut body) = (LocalPacks::default(), Vec::new());
    put_varint(&mut body, files.len() as u64);
    for copied in files {
        let file = &copied.file;
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
                    put_varint(&mut body, local.name(copied.pack(pack), position, run.pages) as u64);
                    put_varint(&mut body, u64::from(position));
                }
            }
        }
    }
    let mut out = vec![PART_FILES];
    put_varint(&mut out, local.packs.len() as u64);
    for (pack, frames) in &local.packs {
        put_pack(&mut out, lineage, pack, frames);
    }
    out.extend_from_slice(&body);
    out
}

/// The plaintext of what was read from a part.
pub(super) fn encode(lineage: Id, part: PageMap) -> Vec<u8> {
    if part.directories.is_empty() {
        return encode_files(lineage, &CopiedFile::all_of(part));
    }
    encode_directories(&part.directories)
}

pub(super) fn decode(page_size: u32, lineage: Id, plain: &[u8]) -> Decoded<PageMap> {
    let mut part = PageMap { page_size, ..PageMap::default() };
    part.take_part(lineage, plain, &mut HashMap::new())?;
    part.packs.iter_mut().for_each(|pack| pack.frames.shrink());
    Ok(part)
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

impl PageMap {
    /// Adds the content of one part; `packs` are those that earlier parts named.
    pub(super) fn take_part(&mut self, lineage: Id, plain: &[u8], packs: &mut HashMap<PackId, u32>) -> Decoded<()> {
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
                    if self.files.last().is_some_and(|last| last.path >= file.path) {
                        return Err(Malformed("its files are not in order"));
                    }
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
    use crate::codec::Encoder;

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
        super::decode(PAGE, LINEAGE, plain)
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
        let plain = encode(LINEAGE, map.clone());
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
            let plain = encode(LINEAGE, map.clone());
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
