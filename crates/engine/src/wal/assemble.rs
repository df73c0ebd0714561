//! Puts segments of WAL together from what the repository holds: a whole segment, or the chunks of an open one.
//!
//! No listing is involved: a segment has one name, and a chunk begins where the one before it ends. Three answers: here,
//! proven absent, or an error, which means that nobody can tell (hazard E1).

use asof_postgres::lsn::{Lsn, Timeline};
use asof_repository::names::{Name, WalPosition};
use asof_repository::wal::{StoredWal, WalInfo, read_wal, read_wal_index};
use asof_world::planted;

use crate::error::{Error, Result};
use crate::shelf::Shelf;

/// A segment, or as much of it as is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub start: Lsn,
    /// Its bytes from there; fewer than a segment while it is open.
    pub bytes: Vec<u8>,
}

impl Segment {
    /// Behind its last stored byte.
    pub fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.bytes.len() as u64)
    }
}

/// Reads the segment that begins at `start`; `None` when nothing of it is stored.
pub async fn read_segment(shelf: &Shelf, timeline: Timeline, start: Lsn, size: u64) -> Result<Option<Segment>> {
    let whole = Name::WalSegment(position(shelf, timeline, start));
    match read_wal(shelf.store.as_ref(), &shelf.keyring, &shelf.signers, whole).await {
        Ok((_, bytes)) => return Ok(Some(Segment { start, bytes })),
        Err(error) if error.is_not_found() || planted("e1") => {}
        Err(error) => return Err(error.into()),
    }
    if planted("c6") {
        return Ok(None);
    }
    let mut segment = Segment { start, bytes: Vec::new() };
    while (segment.bytes.len() as u64) < size {
        let name = Name::WalChunk(position(shelf, timeline, segment.end()));
        match read_wal(shelf.store.as_ref(), &shelf.keyring, &shelf.signers, name).await {
            Ok((_, bytes)) => segment.bytes.extend_from_slice(&bytes),
            Err(error) if error.is_not_found() || planted("e1") => break,
            Err(error) => return Err(error.into()),
        }
    }
    if segment.bytes.len() as u64 > size {
        return Err(Error::damaged(
            format!("the chunks of segment {start} are longer than a segment"),
            "choose another backup, and look at the disk of the repository",
        ));
    }
    Ok((!segment.bytes.is_empty()).then_some(segment))
}

/// What the objects of a segment say of themselves, without reading its bytes; empty when nothing is stored.
pub async fn read_segment_info(shelf: &Shelf, timeline: Timeline, start: Lsn, size: u64) -> Result<Vec<WalInfo>> {
    if let Some(whole) = index(shelf, Name::WalSegment(position(shelf, timeline, start))).await? {
        return Ok(vec![whole.index.info]);
    }
    let (mut infos, mut at) = (Vec::new(), start);
    while at.0 < start.0 + size {
        let Some(chunk) = index(shelf, Name::WalChunk(position(shelf, timeline, at))).await? else { break };
        at = Lsn(chunk.index.info.end);
        infos.push(chunk.index.info);
    }
    Ok(infos)
}

async fn index(shelf: &Shelf, name: Name) -> Result<Option<StoredWal>> {
    match read_wal_index(shelf.store.as_ref(), &shelf.keyring, &shelf.signers, name).await {
        Ok(wal) => Ok(Some(wal)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn position(shelf: &Shelf, timeline: Timeline, start: Lsn) -> WalPosition {
    WalPosition { lineage: shelf.lineage, timeline: timeline.0, start: start.0 }
}
