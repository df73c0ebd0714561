//! Packs: frames of pages, and an index that holds the truth about every page. Format.md, "Packs".
//!
//! A frame is up to [`PAGES_PER_FRAME`] pages of one file, coded and sealed by itself, so that one page costs one ranged
//! read. A page's place is its *position*: frame number times [`PAGES_PER_FRAME`] plus its slot. The index names, for
//! every frame, the file, the blocks and their hashes, so that a pack can be adopted by a later attempt and checked by a
//! scan; a restore does not need it.

use std::collections::BTreeMap;

use asof_world::World;

use crate::codec::{Codec, Encoder};
use crate::crypto::ShortDigest;
use crate::cursor::{Cursor, Decoded, Malformed, put_bytes, put_varint};
use crate::error::{Error, Result};
use crate::keyring::{Keyring, Signers};
use crate::names::{Name, PackId};
use crate::object::{self, Class, Finished, Kind, ObjectWriter, Opened, Section};
use crate::store::Store;

/// Pages in a full frame, whatever their size.
pub const PAGES_PER_FRAME: u32 = 16;
/// A pack is closed when it has grown to this: large enough for cheap object storage, small enough for quick retries.
pub const PACK_LEN: usize = 32 << 20;
/// A pack is also closed when its index has grown to this: pages that compress to nothing would otherwise need an index
/// that no reader accepts.
const INDEX_LEN: usize = 4 << 20;
/// Bytes in the index that a frame and a page need at most, besides paths.
const FRAME_ENTRY_LEN: usize = 50;
const PAGE_ENTRY_LEN: usize = 21;
/// What the last piece of a file and the index may need beyond [`PACK_LEN`].
const SLACK: usize = 8 << 20;
/// Nearly every index fits into this many last bytes.
const INDEX_GUESS: u64 = 512 << 10;

/// Builds one pack in memory.
pub struct PackWriter {
    object: ObjectWriter,
    index: PackIndex,
    /// What the index will need at most.
    index_len: usize,
}

/// One frame as the index describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// The path of the file, an index into [`PackIndex::files`].
    pub file: u32,
    /// Where its bytes lie.
    pub section: Section,
    /// The blocks that it holds, in order.
    pub blocks: Vec<u32>,
    /// The hash of each.
    pub hashes: Vec<ShortDigest>,
}

/// What a pack holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackIndex {
    /// Paths of the files that the frames belong to.
    pub files: Vec<Vec<u8>>,
    /// The frames, in order.
    pub frames: Vec<FrameEntry>,
}

/// A pack that is ready to be stored.
pub struct FinishedPack {
    /// Its bytes and what proves it.
    pub object: Finished,
    /// What it holds.
    pub index: PackIndex,
}

impl PackWriter {
    /// Starts a pack.
    pub fn new(world: &World, keyring: &Keyring, id: PackId) -> Self {
        let object = ObjectWriter::new(world, keyring, Name::Pack(id), Kind::Pack, true, PACK_LEN + SLACK);
        Self { object, index: PackIndex::default(), index_len: 0 }
    }

    /// Whether it has reached its length.
    pub fn is_full(&self) -> bool {
        self.object.len() >= PACK_LEN || self.index_len >= INDEX_LEN
    }

    /// Whether it holds no frame.
    pub fn is_empty(&self) -> bool {
        self.index.frames.is_empty()
    }

    /// The number that the next frame will get.
    pub fn next_frame(&self) -> u32 {
        u32::try_from(self.index.frames.len()).expect("a pack holds few frames")
    }

    /// Adds a frame of pages of one file and returns its number and place. `plain` is the pages one after the other; only
    /// the last may be shorter than the others.
    pub fn frame(
        &mut self,
        file: &[u8],
        blocks: &[u32],
        hashes: &[ShortDigest],
        plain: &[u8],
        encoder: &mut Encoder,
    ) -> (u32, Section) {
        assert!(!blocks.is_empty() && blocks.len() <= PAGES_PER_FRAME as usize, "a frame holds 1 to 16 pages");
        assert_eq!(blocks.len(), hashes.len(), "every page has a hash");
        let number = self.next_frame();
        let section = self.object.section(Class::Data, number, plain, encoder);
        self.index_len += FRAME_ENTRY_LEN + blocks.len() * PAGE_ENTRY_LEN;
        let file = self.file_number(file);
        self.index.frames.push(FrameEntry { file, section, blocks: blocks.to_vec(), hashes: hashes.to_vec() });
        (number, section)
    }

    /// Frames come file by file: only the last path can be the same.
    fn file_number(&mut self, file: &[u8]) -> u32 {
        if self.index.files.last().is_none_or(|last| last != file) {
            self.index_len += file.len() + 5;
            self.index.files.push(file.to_vec());
        }
        u32::try_from(self.index.files.len() - 1).expect("a pack holds few files")
    }

    /// Closes the pack.
    pub fn finish(self, keyring: &Keyring, encoder: &mut Encoder) -> FinishedPack {
        let object = self.object.finish(keyring, &self.index.encode(), encoder);
        FinishedPack { object, index: self.index }
    }
}

impl PackIndex {
    /// The hashes by file and block: what a scan or an adopting attempt asks.
    pub fn pages(&self) -> BTreeMap<(&[u8], u32), (u32, ShortDigest)> {
        let mut pages = BTreeMap::new();
        for (number, frame) in (0u32..).zip(&self.frames) {
            let path = self.files[frame.file as usize].as_slice();
            for ((slot, block), hash) in (0u32..).zip(&frame.blocks).zip(&frame.hashes) {
                pages.insert((path, *block), (number * PAGES_PER_FRAME + slot, *hash));
            }
        }
        pages
    }

    /// The hash of the page at `position`.
    pub fn hash_at(&self, position: u32) -> Option<ShortDigest> {
        let frame = self.frames.get((position / PAGES_PER_FRAME) as usize)?;
        frame.hashes.get((position % PAGES_PER_FRAME) as usize).copied()
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.files.len() as u64);
        self.files.iter().for_each(|path| put_bytes(&mut out, path));
        put_varint(&mut out, self.frames.len() as u64);
        for frame in &self.frames {
            put_varint(&mut out, u64::from(frame.file));
            put_section(&mut out, &frame.section);
            put_varint(&mut out, frame.blocks.len() as u64);
            let mut next = 0;
            for block in &frame.blocks {
                // Blocks of a frame ascend; most follow the one before.
                put_varint(&mut out, u64::from(block - next));
                next = block + 1;
            }
            frame.hashes.iter().for_each(|hash| out.extend_from_slice(hash));
        }
        out
    }

    /// Decodes the plaintext of a pack's index.
    pub(crate) fn decode(bytes: &[u8]) -> Decoded<Self> {
        let mut cursor = Cursor::new(bytes);
        let files = (0..cursor.count()?).map(|_| Ok(cursor.bytes()?.to_vec())).collect::<Decoded<Vec<_>>>()?;
        let frames =
            (0..cursor.count()?).map(|_| decode_frame(&mut cursor, files.len())).collect::<Decoded<Vec<_>>>()?;
        cursor.end()?;
        Ok(Self { files, frames })
    }
}

fn decode_frame(cursor: &mut Cursor<'_>, files: usize) -> Decoded<FrameEntry> {
    let file = cursor.varint32()?;
    if file as usize >= files {
        return Err(Malformed("a frame names a file that is not listed"));
    }
    let section = take_section(cursor)?;
    let pages = cursor.count()?;
    if pages == 0 || pages > PAGES_PER_FRAME as usize {
        return Err(Malformed("a frame holds 1 to 16 pages"));
    }
    let mut next = 0u32;
    let blocks = (0..pages).map(|_| {
        let block = next.checked_add(cursor.varint32()?).ok_or(Malformed("a block number is too large"))?;
        next = block.checked_add(1).ok_or(Malformed("a block number is too large"))?;
        Ok(block)
    });
    let blocks = blocks.collect::<Decoded<Vec<_>>>()?;
    let hashes = (0..pages).map(|_| cursor.array()).collect::<Decoded<Vec<_>>>()?;
    Ok(FrameEntry { file, section, blocks, hashes })
}

/// Offset, lengths, codec, digest.
pub(crate) fn put_section(out: &mut Vec<u8>, section: &Section) {
    put_varint(out, section.offset);
    put_varint(out, u64::from(section.stored_len));
    put_varint(out, u64::from(section.plain_len));
    out.push(section.codec as u8);
    out.extend_from_slice(&section.digest);
}

pub(crate) fn take_section(cursor: &mut Cursor<'_>) -> Decoded<Section> {
    let section = Section {
        offset: cursor.varint()?,
        stored_len: cursor.varint32()?,
        plain_len: cursor.varint32()?,
        codec: Codec::from_id(cursor.u8()?).ok_or(Malformed("a codec is unknown; a newer asof wrote it"))?,
        digest: cursor.array()?,
    };
    if section.stored_len as usize > object::MAX_SECTION_LEN || section.plain_len as usize > object::MAX_SECTION_LEN {
        return Err(Malformed("a section is longer than sections may be"));
    }
    Ok(section)
}

/// Reads and authenticates the index of a stored pack. `digest` is what a map or entry recorded of it.
pub async fn read_pack_index(
    store: &dyn Store,
    keyring: &Keyring,
    signers: &Signers,
    id: PackId,
    digest: &[u8; 32],
) -> Result<(PackIndex, Opened)> {
    let opened = object::read_index(store, keyring, signers, Name::Pack(id), Kind::Pack, INDEX_GUESS).await?;
    if opened.reference.digest != *digest {
        return Err(Error::corrupt(id, "it is another pack than the one that was recorded"));
    }
    let index = PackIndex::decode(&opened.index).map_err(|reason| Error::corrupt(id, reason))?;
    Ok((index, opened))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> PackIndex {
        let section =
            |offset| Section { offset, stored_len: 300, plain_len: 1 << 15, codec: Codec::Zstd, digest: [3; 16] };
        let frame = |file, offset, blocks: &[u32]| FrameEntry {
            file,
            section: section(offset),
            blocks: blocks.to_vec(),
            hashes: blocks.iter().map(|block| [u8::try_from(block % 251).unwrap(); 16]).collect(),
        };
        let last: Vec<u32> = (u32::MAX - 16..u32::MAX).collect();
        let frames =
            vec![frame(0, 8, &[0, 1, 2]), frame(1, 308, &[7, 300, 70_000]), frame(1, u64::from(u32::MAX), &last)];
        PackIndex { files: vec![b"base/1/1259".to_vec(), b"global/pg_\xff".to_vec()], frames }
    }

    #[test]
    fn an_index_reads_as_it_was_written_or_not_at_all() {
        for index in [PackIndex::default(), index()] {
            crate::hostile::check(&index.encode(), |bytes| PackIndex::decode(bytes).ok().map(|index| index.encode()));
        }
        assert_eq!(PackIndex::decode(&index().encode()), Ok(index()));
    }

    #[test]
    fn what_cannot_be_in_a_pack_is_refused() {
        let check = |change: fn(&mut PackIndex), says: &str| {
            let mut index = index();
            change(&mut index);
            assert_eq!(PackIndex::decode(&index.encode()).unwrap_err().0, says);
        };
        check(|index| index.frames[0].file = 2, "a frame names a file that is not listed");
        check(|index| index.frames[0].blocks.clear(), "a frame holds 1 to 16 pages");
        check(|index| index.frames[0].blocks = (0..17).collect(), "a frame holds 1 to 16 pages");
        check(|index| index.frames[0].section.plain_len = 1 << 30, "a section is longer than sections may be");
        check(|index| index.frames[0].section.stored_len = 1 << 30, "a section is longer than sections may be");
        let mut bytes = index().encode();
        bytes.push(0);
        assert_eq!(PackIndex::decode(&bytes).unwrap_err().0, "bytes follow its end");
    }
}
