//! Stored WAL: pieces of open segments, whole segments, timeline histories. Format.md, "WAL".
//!
//! WAL is addressed by timeline and the position of its first byte. A *chunk* is a piece of a segment that is not complete
//! yet; where it ends the next chunk of the segment begins, so that a reader finds all of them without a listing. *Merged*
//! chunks repeat many small ones in one object. A *segment* is whole and supersedes the chunks of its range. All are created
//! once: of two receivers that store the same piece one wins, and the other checks that the stored bytes are a continuation
//! of its own.

mod observed;

pub use observed::{last_observation, read_observation, write_observation};

use asof_world::{Id, World};

use crate::codec::{Decoder, Encoder};
use crate::crypto;
use crate::cursor::{Cursor, Decoded, Malformed, put_varint};
use crate::error::{Error, Result};
use crate::keyring::{Keyring, Role, Signers};
use crate::names::{Name, WalPosition};
use crate::object::{self, Class, DataSections, Finished, Kind, ObjectWriter, Opened, Section};
use crate::pack::{put_section, take_section};
use crate::store::Store;

/// Plaintext bytes in one frame of a WAL object.
const FRAME_LEN: usize = 256 << 10;
/// Nearly every index of a WAL object fits into this many last bytes.
const INDEX_GUESS: u64 = 4 << 10;
/// The longest WAL object; of larger segments each object is a part. Whoever handles WAL holds one object in memory.
pub const MAX_WAL: u64 = 16 << 20;
/// The highest level of merged chunks.
pub const MERGED_LEVELS: u8 = 2;

/// A moment at which the server's clock was read before its flush position was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Observation {
    /// The server's clock, in microseconds since 1970.
    pub time: i64,
    /// The position that was flushed at or after that moment.
    pub flushed: u64,
}

/// A commit or abort record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CommitMark {
    /// Its timestamp, in microseconds since 1970.
    pub time: i64,
    /// The position of its record.
    pub at: u64,
}

/// What a WAL object says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct WalInfo {
    /// The server's own identifier.
    pub system_identifier: u64,
    /// Bytes in a whole segment.
    pub segment_size: u64,
    /// The position behind its last byte.
    pub end: u64,
    /// The first commit or abort in it.
    pub first_commit: Option<CommitMark>,
    /// The last one.
    pub last_commit: Option<CommitMark>,
    /// The largest timestamp among them; clocks step back.
    pub latest_time: Option<i64>,
    /// The latest observation whose position lies in or before it.
    pub observed: Option<Observation>,
}

/// The index of a WAL object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalIndex {
    /// What it says of itself.
    pub info: WalInfo,
    /// BLAKE3 of its plaintext.
    pub digest: [u8; 32],
    frames: Vec<Section>,
}

/// Builds a WAL object from plaintext; `name` is a chunk, merged chunks or a segment.
pub fn write_wal(
    world: &World,
    keyring: &Keyring,
    name: Name,
    info: &WalInfo,
    plain: &[u8],
    encoder: &mut Encoder,
) -> Finished {
    let start = position_of(name).start;
    assert_eq!(start + plain.len() as u64, info.end, "a WAL object is as long as it says");
    let mut object = ObjectWriter::new(world, keyring, name, Kind::Wal, true, plain.len() / 2 + (64 << 10));
    let frames = (0u32..).zip(plain.chunks(FRAME_LEN));
    let frames = frames.map(|(number, frame)| object.section(Class::Data, number, frame, encoder)).collect();
    let index = WalIndex { info: info.clone(), digest: crypto::digest(plain), frames };
    object.finish(keyring, &index.encode(), encoder)
}

fn position_of(name: Name) -> WalPosition {
    match name {
        Name::WalChunk(at) | Name::WalMerged(at, _) | Name::WalSegment(at) => at,
        other => panic!("{other} does not name WAL"),
    }
}

impl WalIndex {
    fn encode(&self) -> Vec<u8> {
        let info = &self.info;
        let mut out = Vec::new();
        for field in [info.system_identifier, info.segment_size, info.end] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for mark in [info.first_commit, info.last_commit] {
            put_pair(&mut out, mark.map(|mark| (mark.time, mark.at)));
        }
        put_pair(&mut out, info.latest_time.map(|time| (time, 0)));
        put_pair(&mut out, info.observed.map(|seen| (seen.time, seen.flushed)));
        out.extend_from_slice(&self.digest);
        put_varint(&mut out, self.frames.len() as u64);
        self.frames.iter().for_each(|frame| put_section(&mut out, frame));
        out
    }

    fn decode(bytes: &[u8]) -> Decoded<Self> {
        let mut cursor = Cursor::new(bytes);
        let mut number = || Ok(u64::from_le_bytes(cursor.array()?));
        let (system_identifier, segment_size, end) = (number()?, number()?, number()?);
        let mark = |pair: Option<(i64, u64)>| pair.map(|(time, at)| CommitMark { time, at });
        let info = WalInfo {
            system_identifier,
            segment_size,
            end,
            first_commit: mark(take_pair(&mut cursor)?),
            last_commit: mark(take_pair(&mut cursor)?),
            latest_time: match take_pair(&mut cursor)? {
                None => None,
                Some((time, 0)) => Some(time),
                Some(_) => return Err(Malformed("a time without a position has one")),
            },
            observed: take_pair(&mut cursor)?.map(|(time, flushed)| Observation { time, flushed }),
        };
        let digest = cursor.array()?;
        let frames = (0..cursor.count()?).map(|_| take_section(&mut cursor)).collect::<Decoded<Vec<_>>>()?;
        cursor.end()?;
        Ok(Self { info, digest, frames })
    }
}

/// 1, time, position; or 0.
fn put_pair(out: &mut Vec<u8>, pair: Option<(i64, u64)>) {
    match pair {
        None => out.push(0),
        Some((time, at)) => {
            out.push(1);
            out.extend_from_slice(&time.to_le_bytes());
            out.extend_from_slice(&at.to_le_bytes());
        }
    }
}

fn take_pair(cursor: &mut Cursor<'_>) -> Decoded<Option<(i64, u64)>> {
    match cursor.u8()? {
        0 => Ok(None),
        1 => Ok(Some((i64::from_le_bytes(cursor.array()?), u64::from_le_bytes(cursor.array()?)))),
        _ => Err(Malformed("a field is neither there nor absent")),
    }
}

/// A WAL object whose index was authenticated.
pub struct StoredWal {
    /// Which one.
    pub name: Name,
    /// What it says.
    pub index: WalIndex,
    opened: Opened,
}

/// Reads the index of a WAL object: one small read.
pub async fn read_wal_index(store: &dyn Store, keyring: &Keyring, signers: &Signers, name: Name) -> Result<StoredWal> {
    let opened = object::read_index(store, keyring, signers, name, Kind::Wal, INDEX_GUESS).await?;
    stored(name, opened)
}

fn stored(name: Name, opened: Opened) -> Result<StoredWal> {
    let index = WalIndex::decode(&opened.index).map_err(|reason| Error::corrupt(name, reason))?;
    let len = index.info.end.checked_sub(position_of(name).start).filter(|len| (1..=MAX_WAL).contains(len));
    let in_frames: u64 = index.frames.iter().map(|frame| u64::from(frame.plain_len)).sum();
    if len != Some(in_frames) {
        return Err(Error::corrupt(name, "its length does not fit its position"));
    }
    Ok(StoredWal { name, index, opened })
}

/// Reads a WAL object: its index and plaintext, every byte authenticated.
pub async fn read_wal(
    store: &dyn Store,
    keyring: &Keyring,
    signers: &Signers,
    name: Name,
) -> Result<(StoredWal, Vec<u8>)> {
    let bytes = object::read(store, name).await?;
    let opened = object::open(keyring, signers, Role::Writer, name, Kind::Wal, &bytes)?;
    let wal = stored(name, opened)?;
    let sections = wal.opened.data_sections(keyring, name)?;
    let plain = open_frames(&wal, &sections, &bytes)?;
    Ok((wal, plain))
}

fn open_frames(wal: &StoredWal, sections: &DataSections, bytes: &[u8]) -> Result<Vec<u8>> {
    let total: usize = wal.index.frames.iter().map(|frame| frame.plain_len as usize).sum();
    let (mut plain, mut decoder, mut scratch, mut at) = (vec![0; total], Decoder::new(), Vec::new(), 0);
    for (number, frame) in (0u32..).zip(&wal.index.frames) {
        let offset = usize::try_from(frame.offset).unwrap_or(usize::MAX);
        let stored = offset.checked_add(frame.stored_len as usize).and_then(|end| bytes.get(offset..end));
        let stored = stored.ok_or_else(|| Error::corrupt(wal.name, format!("frame {number} lies outside of it")))?;
        scratch.clear();
        scratch.extend_from_slice(stored);
        let end = at + frame.plain_len as usize;
        sections.open(number, frame, &mut scratch, &mut plain[at..end], &mut decoder)?;
        at = end;
    }
    if crypto::digest(&plain) != wal.index.digest {
        return Err(Error::corrupt(wal.name, "its plaintext has another digest than was recorded"));
    }
    Ok(plain)
}

/// Builds the object of a timeline history file.
pub fn write_history(world: &World, keyring: &Keyring, lineage: Id, timeline: u32, content: &[u8]) -> Finished {
    let name = Name::History { lineage, timeline };
    let object = ObjectWriter::new(world, keyring, name, Kind::History, false, content.len() + 1024);
    object.finish(keyring, content, &mut Encoder::new(3))
}

/// Reads a timeline history file.
pub async fn read_history(
    store: &dyn Store,
    keyring: &Keyring,
    signers: &Signers,
    lineage: Id,
    timeline: u32,
) -> Result<Vec<u8>> {
    let name = Name::History { lineage, timeline };
    let bytes = object::read(store, name).await?;
    Ok(object::open(keyring, signers, Role::Writer, name, Kind::History, &bytes)?.index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Codec;
    use crate::crypto::{Secret, SigningKey};
    use crate::keyring::SignerEntry;
    use crate::store::{Store, local::LocalStore};

    /// Stores WAL of four bytes whose index was changed by its own writer, and reads it.
    async fn read_with_index(change: fn(&mut WalIndex)) -> Result<Vec<u8>> {
        let (world, directory) = (World::real(), tempfile::tempdir().unwrap());
        let (data, signing) = (Secret::random(&world), SigningKey::new(Secret::random(&world)));
        let mut signers = Signers::default();
        signers.add(SignerEntry { public: signing.public(), roles: vec![Role::Writer], label: "w".to_owned() });
        let (index, data_public) = (Secret::random(&world), crypto::data_public_key(&data));
        let keyring = Keyring { repository: world.id(), index, data_public, data_secret: Some(data), signing };
        let store = LocalStore::new(world.clone(), directory.path());
        let name = Name::WalChunk(WalPosition { lineage: Id([1; 16]), timeline: 1, start: 100 });
        let mut object = ObjectWriter::new(&world, &keyring, name, Kind::Wal, true, 4096);
        let mut encoder = Encoder::new(3);
        let frames = vec![object.section(Class::Data, 0, b"four", &mut encoder)];
        let info = WalInfo { end: 104, ..WalInfo::default() };
        let mut index = WalIndex { info, digest: crypto::digest(b"four"), frames };
        change(&mut index);
        let object = object.finish(&keyring, &index.encode(), &mut encoder);
        store.create(&name.to_string(), object.body.clone()).await?;
        Ok(read_wal(&store, &keyring, &signers, name).await?.1)
    }

    #[tokio::test]
    async fn wal_whose_writer_was_wrong_about_it_is_refused() {
        assert_eq!(read_with_index(|_| {}).await.unwrap(), b"four");
        let changes: [fn(&mut WalIndex); 5] = [
            |index| index.digest[0] ^= 1,
            |index| index.info.end += 1,
            |index| index.info.end = 99,
            |index| index.frames[0].offset = u64::MAX,
            |index| index.frames.push(index.frames[0]),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            assert!(matches!(read_with_index(change).await, Err(Error::Corrupt { .. })), "change {at}");
        }
    }

    #[test]
    fn an_index_reads_as_it_was_written_or_not_at_all() {
        let mark = CommitMark { time: -1, at: 5 };
        let info = WalInfo {
            system_identifier: u64::MAX,
            segment_size: 1 << 24,
            end: 1 << 40,
            first_commit: Some(mark),
            last_commit: None,
            latest_time: Some(i64::MIN),
            observed: Some(Observation { time: 9, flushed: 10 }),
        };
        let frame = Section { offset: 8, stored_len: 900, plain_len: 1000, codec: Codec::Raw, digest: [4; 16] };
        let whole = WalIndex { info, digest: [7; 32], frames: vec![frame; 3] };
        let empty = WalIndex { info: WalInfo::default(), digest: [0; 32], frames: Vec::new() };
        for index in [whole, empty] {
            crate::hostile::check(&index.encode(), |bytes| WalIndex::decode(bytes).ok().map(|index| index.encode()));
            assert_eq!(WalIndex::decode(&index.encode()), Ok(index));
        }
    }
}
