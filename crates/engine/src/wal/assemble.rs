//! Puts segments of WAL together from what the repository holds: a whole segment, or the chunks of an open one.
//!
//! Segments are stored ones: PostgreSQL's, or 16 MiB of it where it is larger ([`WalConstants::stored_segment`]). No listing is
//! involved: a segment has one name, and a chunk begins where the one before it ends. Three answers: here,
//! proven absent, or an error, which means that nobody can tell (hazard E1).

use asof_postgres::lsn::{Lsn, Timeline};
use asof_repository::names::{Name, WalPosition};
use asof_repository::wal::{MERGED_LEVELS, StoredWal, WalInfo, last_observation, read_wal, read_wal_index};
use asof_world::planted;

use super::shape::WalConstants;
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

/// Reads the segment that begins at `start`; `None` when nothing of it is stored. `size` is that of a stored segment.
pub async fn read_segment(shelf: &Shelf, timeline: Timeline, start: Lsn, size: u64) -> Result<Option<Segment>> {
    if let Some(bytes) = read(shelf, Name::WalSegment(position(shelf, timeline, start))).await? {
        return Ok(Some(Segment { start, bytes }));
    }
    if planted("c6") {
        return Ok(None);
    }
    let mut segment = Segment { start, bytes: Vec::new() };
    for level in (0..=MERGED_LEVELS).rev() {
        while (segment.bytes.len() as u64) < size
            && let Some(bytes) = read(shelf, piece(shelf, timeline, segment.end(), level)).await?
        {
            segment.bytes.extend_from_slice(&bytes);
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
    for level in (0..=MERGED_LEVELS).rev() {
        while at.0 < start.0 + size
            && let Some(found) = index(shelf, piece(shelf, timeline, at, level)).await?
        {
            at = Lsn(found.index.info.end);
            infos.push(found.index.info);
        }
    }
    Ok(infos)
}

/// The latest moment at which the server is known to have had nothing that lies behind `end`, where the WAL of `timeline` ends that
/// is stored: from the objects of the last two segments, and from what was observed when nothing was written any more (rule 10).
pub async fn latest_observation(
    shelf: &Shelf,
    constants: &WalConstants,
    timeline: Timeline,
    end: Lsn,
) -> Result<Option<i64>> {
    let size = constants.stored_segment();
    let last = end.0.saturating_sub(1) / size * size;
    let mut latest = None;
    for start in [last.saturating_sub(size), last] {
        let infos = read_segment_info(shelf, timeline, Lsn(start), size).await?;
        let within = infos.iter().filter(|info| info.end <= end.0);
        latest = latest.max(within.filter_map(|info| info.observed.map(|seen| seen.time)).max());
    }
    let at = position(shelf, timeline, end);
    let alone = last_observation(shelf.store.as_ref(), &shelf.keyring, &shelf.signers, at).await?;
    Ok(latest.max(alone.map(|(_, seen)| seen.time)))
}

/// The name of what begins at `at`: a chunk at level 0, merged chunks above.
pub(super) fn piece(shelf: &Shelf, timeline: Timeline, at: Lsn, level: u8) -> Name {
    let at = position(shelf, timeline, at);
    if level == 0 { Name::WalChunk(at) } else { Name::WalMerged(at, level) }
}

async fn read(shelf: &Shelf, name: Name) -> Result<Option<Vec<u8>>> {
    match read_wal(shelf.store.as_ref(), &shelf.keyring, &shelf.signers, name).await {
        Ok((_, bytes)) => Ok(Some(bytes)),
        Err(error) if error.is_not_found() || planted("e1") => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What an object says of itself; `None` when it is absent.
pub(super) async fn index(shelf: &Shelf, name: Name) -> Result<Option<StoredWal>> {
    match read_wal_index(shelf.store.as_ref(), &shelf.keyring, &shelf.signers, name).await {
        Ok(wal) => Ok(Some(wal)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn position(shelf: &Shelf, timeline: Timeline, start: Lsn) -> WalPosition {
    WalPosition { lineage: shelf.lineage, timeline: timeline.0, start: start.0 }
}
