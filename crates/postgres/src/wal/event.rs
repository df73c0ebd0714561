//! What the records mean that a backup tool must understand; every other record is [`Event::Other`].
//!
//! Three kinds of knowledge come from here. *When*: commits, aborts and restore points carry the times that recovery targets are
//! resolved against. *Which files*: creation, truncation and removal of relations, databases and tablespaces change blocks that no block
//! reference names. *Whether at all*: a span of `wal_level=minimal` cannot be recovered through.
//!
//! Numbers of records differ between majors and are decoded by major: 0x10 of the database manager drops a database in 13 and 14
//! and creates one from 15 on. A record of these managers that the major does not have is an error, not `Other`: its effect is unknown.

use super::Reader;
use super::record::{self, Record, Rmgr};
use crate::control::{Checkpoint, StandbyMinimums, WalLevel};
use crate::lsn::{Lsn, Timeline};
use crate::names::{Fork, RelFileLocator};
use crate::version::Major;

/// Microseconds from 1970 to 2000, PostgreSQL's epoch.
const POSTGRES_EPOCH_UNIX_MICROS: i64 = 946_684_800_000_000;

/// A `TimestampTz` as microseconds since 1970; `None` outside 64 bits.
#[must_use]
pub const fn postgres_micros_to_unix(micros: i64) -> Option<i64> {
    micros.checked_add(POSTGRES_EPOCH_UNIX_MICROS)
}

/// Whether a transaction's changes count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionOutcome {
    /// They do.
    Committed,
    /// They do not.
    Aborted,
}

/// A change replayed from another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Position of the commit on the other server.
    pub lsn: Lsn,
    /// Its time there, microseconds since 1970.
    pub time_unix_micros: i64,
}

/// The end of a transaction (`xl_xact_commit`, `xl_xact_abort` in `access/xact.h`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionEnd {
    /// Commit or abort.
    pub outcome: TransactionOutcome,
    /// The transaction that ended: for `COMMIT PREPARED` and `ROLLBACK PREPARED` the prepared one, not the one that wrote the record.
    pub xid: u32,
    /// Whether it was a prepared transaction.
    pub prepared: bool,
    /// The time that `recovery_target_time` is compared with; microseconds since 1970. Not monotonic in WAL order.
    pub time_unix_micros: i64,
    /// Its database; absent in records that need none.
    pub database: Option<u32>,
    /// Its subtransactions.
    pub subtransactions: Vec<u32>,
    /// Relations whose files go away now.
    pub dropped: Vec<RelFileLocator>,
    /// The name it was prepared under; only with `wal_level=logical`.
    pub gid: Option<Vec<u8>>,
    /// Where it was replayed from.
    pub origin: Option<Origin>,
}

/// A transaction that holds its locks until somebody ends it (`xl_xact_prepare`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Its number.
    pub xid: u32,
    /// Its database.
    pub database: u32,
    /// When, microseconds since 1970.
    pub time_unix_micros: i64,
    /// Its name.
    pub gid: Vec<u8>,
}

impl Prepared {
    /// From a file of `pg_twophase`, which is the content of the record and a checksum; `None` if it is none.
    #[must_use]
    pub fn from_state_file(bytes: &[u8], major: Major) -> Option<Self> {
        prepared(Reader(bytes), major)
    }
}

/// What a record means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A transaction ended.
    TransactionEnd(TransactionEnd),
    /// `PREPARE TRANSACTION`.
    Prepared(Prepared),
    /// A checkpoint made while the server stopped, or at the end of recovery.
    ShutdownCheckpoint(Checkpoint),
    /// A checkpoint of a running server: replay starts at its `redo`, before this record.
    OnlineCheckpoint(Checkpoint),
    /// Where the checkpoint that follows will start (17 and later).
    CheckpointRedo {
        /// At that time.
        wal_level: WalLevel,
    },
    /// Recovery ended here and a new timeline begins.
    EndOfRecovery {
        /// Microseconds since 1970.
        time_unix_micros: i64,
        /// The new one.
        timeline: Timeline,
        /// The one it forked from.
        previous_timeline: Timeline,
        /// From 17 on.
        wal_level: Option<WalLevel>,
    },
    /// Settings changed at a restart.
    ParameterChange {
        /// What a server that replays the WAL behind this must have.
        minimums: StandbyMinimums,
        /// `Minimal` ends point-in-time recovery here.
        wal_level: WalLevel,
        /// Hint bits are logged.
        wal_log_hints: bool,
        /// Commit times are kept.
        track_commit_timestamp: bool,
    },
    /// `full_page_writes` changed; while off, torn pages of a backup cannot be repaired.
    FullPageWrites(bool),
    /// `pg_create_restore_point`.
    RestorePoint {
        /// As given, without the zero byte.
        name: Vec<u8>,
        /// Microseconds since 1970.
        time_unix_micros: i64,
    },
    /// The rest of the segment is padding.
    SegmentSwitch,
    /// A base backup of a primary ended.
    BackupEnd {
        /// The start position of that backup.
        start: Lsn,
    },
    /// A crash cut off a record, which this one replaces.
    OverwriteContrecord {
        /// Where that record started.
        overwritten: Lsn,
        /// Microseconds since 1970.
        time_unix_micros: i64,
    },
    /// A fork's first file was made, empty.
    RelationCreated {
        /// Which relation.
        relation: RelFileLocator,
        /// Which fork.
        fork: Fork,
    },
    /// Forks were cut off. The visibility and free space maps are cut to what `blocks` of the main fork need.
    RelationTruncated {
        /// Which relation.
        relation: RelFileLocator,
        /// What remains of the main fork.
        blocks: u32,
        /// Whether the main fork was cut.
        main: bool,
        /// Whether the visibility map was cut.
        visibility_map: bool,
        /// Whether the free space map was cut.
        free_space_map: bool,
    },
    /// A database was made by copying files: no record names their blocks.
    DatabaseCopied {
        /// The new one.
        database: u32,
        /// Where it was made.
        tablespace: u32,
        /// The template, or the same database when it moves to another tablespace.
        source_database: u32,
        /// Where that lies.
        source_tablespace: u32,
    },
    /// A database was made whose content follows in WAL (15 and later).
    DatabaseCreated {
        /// The new one.
        database: u32,
        /// Where it was made.
        tablespace: u32,
    },
    /// The directories of a database were removed.
    DatabaseDropped {
        /// Which.
        database: u32,
        /// Where.
        tablespaces: Vec<u32>,
    },
    /// A tablespace was made.
    TablespaceCreated {
        /// Its OID.
        tablespace: u32,
        /// Where the link points.
        path: Vec<u8>,
    },
    /// A tablespace was removed.
    TablespaceDropped {
        /// Its OID.
        tablespace: u32,
    },
    /// `TRUNCATE`, as logical decoding needs it: only with `wal_level=logical`. It names tables by OID.
    Truncate {
        /// Their database.
        database: u32,
        /// Their OIDs.
        tables: Vec<u32>,
    },
    /// Nothing of these. Its block references may still matter.
    Other,
}

/// A record whose effect is unknown, so that the span of WAL that holds it is unknown too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The major has no such record.
    #[error("record {info:02X} of resource manager {rmgr} at {at} is unknown to PostgreSQL {major}")]
    Unknown {
        /// Where it starts.
        at: Lsn,
        /// Which manager.
        rmgr: u8,
        /// Which record.
        info: u8,
        /// As decoded.
        major: Major,
    },
    /// Its content is shorter than its kind needs, or impossible.
    #[error("record {info:02X} of resource manager {rmgr} at {at} has impossible content")]
    Content {
        /// Where it starts.
        at: Lsn,
        /// Which manager.
        rmgr: u8,
        /// Which record.
        info: u8,
    },
}

/// What a decoder of one manager says: unknown record, or content that does not parse.
enum Fault {
    Unknown,
    Content,
}

impl Record<'_> {
    /// What the record means.
    pub fn event(&self) -> Result<Event, EventError> {
        let decoded = match self.rmgr {
            Rmgr::XLOG => self.xlog(),
            Rmgr::TRANSACTION => self.transaction(),
            Rmgr::STORAGE => self.storage(),
            Rmgr::DATABASE => self.database(),
            Rmgr::TABLESPACE => self.tablespace(),
            Rmgr::HEAP => self.heap(),
            _ => Ok(Event::Other),
        };
        let (at, rmgr, info) = (self.start, self.rmgr.0, self.info);
        decoded.map_err(|fault| match fault {
            Fault::Unknown => EventError::Unknown { at, rmgr, info, major: self.major },
            Fault::Content => EventError::Content { at, rmgr, info },
        })
    }

    /// The record that an `XLOG_OVERWRITE_CONTRECORD` replaces.
    pub(super) fn overwritten(&self) -> Option<Lsn> {
        match self.event() {
            Ok(Event::OverwriteContrecord { overwritten, .. }) => Some(overwritten),
            _ => None,
        }
    }

    /// `catalog/pg_control.h` for the numbers, `access/xlog_internal.h` for the structures.
    fn xlog(&self) -> Result<Event, Fault> {
        let mut data = Reader(self.main_data);
        let parsed = match self.info & 0xF0 {
            0x00 => Checkpoint::parse(data.0, self.major).map(Event::ShutdownCheckpoint),
            0x10 => Checkpoint::parse(data.0, self.major).map(Event::OnlineCheckpoint),
            // No-op, next OID, the two full-page images: nothing beyond their block references.
            0x20 | 0x30 | 0xA0 | 0xB0 => Some(Event::Other),
            0x40 => Some(Event::SegmentSwitch),
            0x50 => data.u64().map(|start| Event::BackupEnd { start: Lsn(start) }),
            0x60 => parameter_change(data),
            0x70 => restore_point(data),
            0x80 => data.flag().map(Event::FullPageWrites),
            0x90 => end_of_recovery(data, self.major),
            0xD0 => overwrite_contrecord(data),
            0xE0 if self.major >= Major::V17 => {
                data.u32().and_then(WalLevel::from_number).map(|wal_level| Event::CheckpointRedo { wal_level })
            }
            _ => return Err(Fault::Unknown),
        };
        parsed.ok_or(Fault::Content)
    }

    /// `access/xact.h`; `ParseCommitRecord` and `ParseAbortRecord` in `access/rmgrdesc/xactdesc.c`.
    fn transaction(&self) -> Result<Event, Fault> {
        let data = Reader(self.main_data);
        let end = |outcome, prepared| {
            transaction_end(data, self, outcome, prepared).map(Event::TransactionEnd).ok_or(Fault::Content)
        };
        match self.info & 0x70 {
            0x00 => end(TransactionOutcome::Committed, false),
            0x10 => prepared(data, self.major).map(Event::Prepared).ok_or(Fault::Content),
            0x20 => end(TransactionOutcome::Aborted, false),
            0x30 => end(TransactionOutcome::Committed, true),
            0x40 => end(TransactionOutcome::Aborted, true),
            // Assignment of subtransactions; invalidations of a running transaction, new in 14.
            0x50 => Ok(Event::Other),
            0x60 if self.major >= Major::V14 => Ok(Event::Other),
            _ => Err(Fault::Unknown),
        }
    }

    /// `catalog/storage_xlog.h`.
    fn storage(&self) -> Result<Event, Fault> {
        let mut data = Reader(self.main_data);
        let parsed = match self.info & 0xF0 {
            0x10 => relation_created(&mut data),
            0x20 => relation_truncated(&mut data),
            _ => return Err(Fault::Unknown),
        };
        parsed.ok_or(Fault::Content)
    }

    /// `commands/dbcommands_xlog.h`.
    fn database(&self) -> Result<Event, Fault> {
        let data = Reader(self.main_data);
        let parsed = match (self.info & 0xF0, self.major >= Major::V15) {
            (0x00, _) => database_copied(data),
            (0x10, false) | (0x20, true) => database_dropped(data),
            (0x10, true) => database_created(data),
            _ => return Err(Fault::Unknown),
        };
        parsed.ok_or(Fault::Content)
    }

    /// `commands/tablespace.h`.
    fn tablespace(&self) -> Result<Event, Fault> {
        let mut data = Reader(self.main_data);
        let mut created = || {
            let (tablespace, path) = (data.u32()?, data.c_string()?.to_vec());
            Some(Event::TablespaceCreated { tablespace, path })
        };
        let parsed = match self.info & 0xF0 {
            0x00 => created(),
            0x10 => data.u32().map(|tablespace| Event::TablespaceDropped { tablespace }),
            _ => return Err(Fault::Unknown),
        };
        parsed.ok_or(Fault::Content)
    }

    /// `access/heapam_xlog.h`; all records but the truncation are told by their block references.
    fn heap(&self) -> Result<Event, Fault> {
        const OPERATION: u8 = 0x70;
        const TRUNCATE: u8 = 0x30;
        if self.info & OPERATION != TRUNCATE {
            return Ok(Event::Other);
        }
        truncate(Reader(self.main_data)).ok_or(Fault::Content)
    }
}

fn micros(data: &mut Reader<'_>) -> Option<i64> {
    postgres_micros_to_unix(data.i64()?)
}

/// `count` values of four bytes. The bytes are there before anything is allocated.
fn words(data: &mut Reader<'_>, count: usize) -> Option<Vec<u32>> {
    let (words, _) = data.take(count.checked_mul(4)?)?.as_chunks();
    Some(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
}

fn parameter_change(mut data: Reader<'_>) -> Option<Event> {
    let mut setting = || data.u32().filter(|value| i32::try_from(*value).is_ok());
    let minimums = StandbyMinimums {
        max_connections: setting()?,
        max_worker_processes: setting()?,
        max_wal_senders: setting()?,
        max_prepared_transactions: setting()?,
        max_locks_per_transaction: setting()?,
    };
    let wal_level = WalLevel::from_number(data.u32()?)?;
    let (wal_log_hints, track_commit_timestamp) = (data.flag()?, data.flag()?);
    Some(Event::ParameterChange { minimums, wal_level, wal_log_hints, track_commit_timestamp })
}

fn restore_point(mut data: Reader<'_>) -> Option<Event> {
    const NAME_BYTES: usize = 64;
    let time_unix_micros = micros(&mut data)?;
    let name = Reader(data.take(NAME_BYTES)?).c_string()?.to_vec();
    Some(Event::RestorePoint { name, time_unix_micros })
}

fn end_of_recovery(mut data: Reader<'_>, major: Major) -> Option<Event> {
    let time_unix_micros = micros(&mut data)?;
    let (timeline, previous_timeline) = (Timeline(data.u32()?), Timeline(data.u32()?));
    let wal_level = if major >= Major::V17 { Some(WalLevel::from_number(data.u32()?)?) } else { None };
    Some(Event::EndOfRecovery { time_unix_micros, timeline, previous_timeline, wal_level })
}

fn overwrite_contrecord(mut data: Reader<'_>) -> Option<Event> {
    let overwritten = Lsn(data.u64()?);
    Some(Event::OverwriteContrecord { overwritten, time_unix_micros: micros(&mut data)? })
}

/// The record is a time and then whatever its flags announce, in this order, unaligned.
fn transaction_end(
    mut data: Reader<'_>,
    record: &Record<'_>,
    outcome: TransactionOutcome,
    prepared: bool,
) -> Option<TransactionEnd> {
    const INFO_HAS_FLAGS: u8 = 0x80;
    const HAS_DATABASE: u32 = 1 << 0;
    const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
    const HAS_RELATIONS: u32 = 1 << 2;
    const HAS_INVALIDATIONS: u32 = 1 << 3;
    const HAS_TWO_PHASE: u32 = 1 << 4;
    const HAS_ORIGIN: u32 = 1 << 5;
    const HAS_GID: u32 = 1 << 7;
    const HAS_DROPPED_STATISTICS: u32 = 1 << 8;
    const INVALIDATION_BYTES: usize = 16;
    // xl_xact_stats_item: kind, database and an OID up to 17; the object became 64 bits wide in 18.
    let statistics_bytes = if record.major >= Major::V18 { 16 } else { 12 };
    let mut end = TransactionEnd {
        outcome,
        xid: record.xid,
        prepared,
        time_unix_micros: micros(&mut data)?,
        database: None,
        subtransactions: Vec::new(),
        dropped: Vec::new(),
        gid: None,
        origin: None,
    };
    let flags = if record.info & INFO_HAS_FLAGS == 0 { 0 } else { data.u32()? };
    let has = |flag| flags & flag != 0;
    if has(HAS_DATABASE) {
        end.database = Some(data.u32()?).filter(|database| *database != 0);
        data.u32()?;
    }
    if has(HAS_SUBTRANSACTIONS) {
        let count = data.count()?;
        end.subtransactions = words(&mut data, count)?;
    }
    if has(HAS_RELATIONS) {
        let count = data.count()?;
        let mut relations = Reader(data.take(count.checked_mul(12)?)?);
        end.dropped = std::iter::from_fn(|| record::locator(&mut relations)).collect();
    }
    if has(HAS_DROPPED_STATISTICS) {
        let count = data.count()?;
        data.take(count.checked_mul(statistics_bytes)?)?;
    }
    if has(HAS_INVALIDATIONS) {
        let count = data.count()?;
        data.take(count.checked_mul(INVALIDATION_BYTES)?)?;
    }
    if has(HAS_TWO_PHASE) {
        end.xid = data.u32()?;
        if has(HAS_GID) {
            end.gid = Some(data.c_string()?.to_vec());
        }
    }
    if prepared != has(HAS_TWO_PHASE) {
        return None;
    }
    if has(HAS_ORIGIN) {
        end.origin = Some(Origin { lsn: Lsn(data.u64()?), time_unix_micros: micros(&mut data)? });
    }
    Some(end)
}

fn prepared(mut data: Reader<'_>, major: Major) -> Option<Prepared> {
    // Magic and total length of the state file.
    data.take(8)?;
    let (xid, database) = (data.u32()?, data.u32()?);
    let time_unix_micros = micros(&mut data)?;
    // Owner, then counts: subtransactions, relations at commit and at abort, statistics at both (15), invalidations.
    data.take(if major >= Major::V15 { 28 } else { 20 })?;
    let _invalidate_init_file = data.flag()?;
    data.take(1)?;
    let gid_bytes = usize::from(data.u16()?);
    // Origin position and time.
    data.take(16)?;
    let mut gid = Reader(data.take(gid_bytes)?);
    Some(Prepared { xid, database, time_unix_micros, gid: gid.c_string()?.to_vec() })
}

fn relation_created(data: &mut Reader<'_>) -> Option<Event> {
    let relation = record::locator(data)?;
    Some(Event::RelationCreated { relation, fork: Fork::from_number(data.u32()?)? })
}

fn relation_truncated(data: &mut Reader<'_>) -> Option<Event> {
    let blocks = data.u32()?;
    let relation = record::locator(data)?;
    let flags = data.u32()?;
    let [main, visibility_map, free_space_map] = [1, 2, 4].map(|flag| flags & flag != 0);
    Some(Event::RelationTruncated { relation, blocks, main, visibility_map, free_space_map })
}

fn database_copied(mut data: Reader<'_>) -> Option<Event> {
    let (database, tablespace) = (data.u32()?, data.u32()?);
    let (source_database, source_tablespace) = (data.u32()?, data.u32()?);
    Some(Event::DatabaseCopied { database, tablespace, source_database, source_tablespace })
}

fn database_created(mut data: Reader<'_>) -> Option<Event> {
    Some(Event::DatabaseCreated { database: data.u32()?, tablespace: data.u32()? })
}

fn database_dropped(mut data: Reader<'_>) -> Option<Event> {
    let database = data.u32()?;
    let count = data.count()?;
    Some(Event::DatabaseDropped { database, tablespaces: words(&mut data, count)? })
}

fn truncate(mut data: Reader<'_>) -> Option<Event> {
    let database = data.u32()?;
    let count = usize::try_from(data.u32()?).ok()?;
    // Flags (CASCADE, RESTART IDENTITY) and padding.
    data.take(4)?;
    Some(Event::Truncate { database, tables: words(&mut data, count)? })
}
