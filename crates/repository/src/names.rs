//! The names of stored objects: format.md, "Names".
//!
//! A name carries ids and numbers only, never the name of an instance, database or table. It is part of what every
//! object is sealed with, so an object moved to another name does not open.

use std::fmt;

use asof_world::Id;

/// Which journal: the repository's own, or that of one lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JournalOf {
    /// Recipients, writers, instance names, policies.
    Repository,
    /// The truth about one lineage.
    Lineage(Id),
}

/// The name of a stored object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// `repository.json`: format, id, root key.
    Root,
    /// `keys/<id>`: what one recipient can open.
    Key(Id),
    /// `journal/<number>` or `l/<lineage>/journal/<number>`.
    Entry(JournalOf, u64),
    /// `l/<lineage>/packs/<attempt>-<n>`.
    Pack(PackId),
    /// `l/<lineage>/maps/<attempt>`.
    Map {
        /// The lineage.
        lineage: Id,
        /// The attempt that made the backup.
        attempt: Id,
    },
    /// `l/<lineage>/wal/<timeline>/<start>`: a piece of an unfinished segment.
    WalChunk(WalPosition),
    /// `l/<lineage>/wal/<timeline>/m<level>/<start>`: several chunks in one, so that an open segment is few reads.
    WalMerged(WalPosition, u8),
    /// `l/<lineage>/wal/<timeline>/seg/<start>`: a whole segment.
    WalSegment(WalPosition),
    /// `l/<lineage>/wal/<timeline>/seen/<start>-<n>`: the server's clock while nothing was written behind `start`.
    Observed(WalPosition, u32),
    /// `l/<lineage>/wal/<timeline>/history`: how the timeline came to be.
    History {
        /// The lineage.
        lineage: Id,
        /// The timeline whose ancestors it names.
        timeline: u32,
    },
}

/// One pack of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId {
    /// The lineage.
    pub lineage: Id,
    /// The attempt that wrote it.
    pub attempt: Id,
    /// Counts from 0 within the attempt.
    pub number: u32,
}

/// Where a WAL object starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalPosition {
    /// The lineage.
    pub lineage: Id,
    /// The timeline.
    pub timeline: u32,
    /// The position of its first byte in the WAL.
    pub start: u64,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => write!(f, "repository.json"),
            Self::Key(id) => write!(f, "keys/{id}"),
            Self::Entry(JournalOf::Repository, number) => write!(f, "journal/{number:012}"),
            Self::Entry(JournalOf::Lineage(lineage), number) => write!(f, "l/{lineage}/journal/{number:012}"),
            Self::Pack(pack) => pack.fmt(f),
            Self::Map { lineage, attempt } => write!(f, "l/{lineage}/maps/{attempt}"),
            Self::WalChunk(at) => write!(f, "l/{}/wal/{:08x}/{:016x}", at.lineage, at.timeline, at.start),
            Self::WalMerged(at, level) => {
                write!(f, "l/{}/wal/{:08x}/m{level}/{:016x}", at.lineage, at.timeline, at.start)
            }
            Self::WalSegment(at) => write!(f, "l/{}/wal/{:08x}/seg/{:016x}", at.lineage, at.timeline, at.start),
            Self::Observed(at, number) => {
                write!(f, "l/{}/wal/{:08x}/seen/{:016x}-{number}", at.lineage, at.timeline, at.start)
            }
            Self::History { lineage, timeline } => write!(f, "l/{lineage}/wal/{timeline:08x}/history"),
        }
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "l/{}/packs/{}-{}", self.lineage, self.attempt, self.number)
    }
}
