//! `global/pg_control`: who this instance is, where its last checkpoint lies, which sizes it was built with.
//!
//! The file is one C structure written with native byte order and alignment; we read the layout of 64-bit little-endian machines
//! (x86-64, arm64) and refuse others with an error that says so. A running server rewrites the file in place, so a torn read is ordinary:
//! it shows as [`ControlError::Crc`], and the reader tries again.
//!
//! The layout, from `catalog/pg_control.h` of 13 to 18 (byte offsets; a fixture of each major in `testdata/` holds it to account):
//!
//! | at | field | at | field |
//! |---|---|---|---|
//! | 0 | system identifier | 152, 160 | backup start and end point |
//! | 8 | `pg_control` version | 168 | backup end required |
//! | 12 | catalogue version | 172 | `wal_level` |
//! | 16 | state | 176 | `wal_log_hints` |
//! | 24 | time of last update | 180..200 | five settings that a standby must reach |
//! | 32 | checkpoint position | 200 | `track_commit_timestamp` |
//! | 40..128 | copy of the checkpoint record | 204, 208 | alignment, float format |
//! | 128 | unlogged LSN counter | 216..248 | sizes |
//! | 136 | minimum recovery point | 248 | float8 by value |
//! | 144 | its timeline | 252 | data checksum version |
//! | | | 256 | (18: char signedness,) nonce, CRC-32C |

use crate::lsn::{BlockSize, Lsn, SizeError, Timeline, WalSegmentSize};
use crate::version::{Major, VersionError};

/// How many bytes of the file carry data in the longest supported layout, including the CRC. The file itself has 8192.
pub const CONTROL_FILE_MIN_BYTES: usize = 296;

/// Why a `pg_control` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The file or the answer was cut off.
    #[error("pg_control has {0} bytes, too few to hold its data")]
    TooShort(usize),
    /// Written on a machine of the other byte order.
    #[error("pg_control was written by a big-endian server, which is not supported")]
    BigEndian,
    /// Not a layout we know.
    #[error("pg_control has layout version {0}, which belongs to no supported PostgreSQL (13 to 18)")]
    Layout(u32),
    /// Torn by a concurrent write, or damaged: read it again before believing the latter.
    #[error("pg_control has checksum {stored:08X} but its content sums to {computed:08X}")]
    Crc {
        /// In the file.
        stored: u32,
        /// Of the bytes before it.
        computed: u32,
    },
    /// A beta or a fork with its own catalogue.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// Layout and catalogue version belong to different majors.
    #[error("pg_control has layout version {layout}, but its catalogue version is that of PostgreSQL {major}")]
    Mismatch {
        /// As in [`Major::control_version`].
        layout: u32,
        /// From the catalogue version.
        major: Major,
    },
    /// The checksum is right and yet a field holds what no supported server writes.
    #[error("pg_control holds {value} as {field}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What stands there.
        value: u64,
    },
    /// A block or segment size that PostgreSQL cannot have.
    #[error(transparent)]
    Size(#[from] SizeError),
}

/// What the server was doing when it last wrote the file (`DBState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerState {
    /// Never run since `initdb`.
    Startup,
    /// Stopped cleanly.
    ShutDown,
    /// A standby that stopped cleanly.
    ShutDownInRecovery,
    /// Stopping.
    ShuttingDown,
    /// Replaying after a crash.
    CrashRecovery,
    /// Replaying as a standby or from an archive.
    ArchiveRecovery,
    /// Running, or crashed while running.
    Production,
}

/// `wal_level`, which decides what WAL can restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalLevel {
    /// Not enough to recover from a backup: some changes are not in WAL at all.
    Minimal,
    /// Enough for archiving and standbys.
    Replica,
    /// Also carries what logical decoding needs.
    Logical,
}

impl WalLevel {
    /// From the number in `pg_control` and in WAL records (`WalLevel` in `access/xlog.h`, 13 to 18).
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Minimal),
            1 => Some(Self::Replica),
            2 => Some(Self::Logical),
            _ => None,
        }
    }
}

/// The checkpoint record, as it stands in WAL and, copied, in `pg_control` (`CheckPoint` in `catalog/pg_control.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where replay must start.
    pub redo: Lsn,
    /// The timeline the checkpoint lies on.
    pub timeline: Timeline,
    /// The one before, if the checkpoint begins a new timeline; else equal to `timeline`.
    pub previous_timeline: Timeline,
    /// `full_page_writes` at that time.
    pub full_page_writes: bool,
    /// `wal_level` at that time; servers before 17 do not say.
    pub wal_level: Option<WalLevel>,
    /// The next transaction id, with its epoch in the upper half.
    pub next_full_xid: u64,
    /// The next OID.
    pub next_oid: u32,
    /// When it was made, seconds since 1970.
    pub time_unix_seconds: i64,
    /// The oldest transaction that was running; 0 in shutdown checkpoints.
    pub oldest_active_xid: u32,
}

impl Checkpoint {
    /// Bytes of the structure, equal in 13 to 18.
    pub const BYTES: usize = 88;

    /// Reads the structure; `None` if it is cut off or holds impossible values.
    #[must_use]
    pub fn parse(bytes: &[u8], major: Major) -> Option<Self> {
        let bytes = bytes.get(..Self::BYTES)?;
        // The level fills what was padding before 17.
        let wal_level = if major >= Major::V17 { Some(WalLevel::from_number(u32_at(bytes, 20)?)?) } else { None };
        Some(Self {
            redo: Lsn(u64_at(bytes, 0)?),
            timeline: Timeline(u32_at(bytes, 8)?),
            previous_timeline: Timeline(u32_at(bytes, 12)?),
            full_page_writes: bool_at(bytes, 16)?,
            wal_level,
            next_full_xid: u64_at(bytes, 24)?,
            next_oid: u32_at(bytes, 32)?,
            time_unix_seconds: i64_at(bytes, 64)?,
            oldest_active_xid: u32_at(bytes, 80)?,
        })
    }
}

/// The settings that a server replaying this WAL must at least have (rule: 13 refuses to start below them, 14 and later pause).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyMinimums {
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
}

/// A parsed `pg_control` whose checksum was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// Given by `initdb`, and shared by every physical copy of the instance.
    pub system_identifier: u64,
    /// From the catalogue version, held against the layout version.
    pub major: Major,
    /// The layout version.
    pub control_version: u32,
    /// The catalogue version.
    pub catalog_version: u32,
    /// What the server was doing.
    pub state: ServerState,
    /// When the file was last written, seconds since 1970.
    pub time_unix_seconds: i64,
    /// Where the last checkpoint's record lies.
    pub checkpoint_lsn: Lsn,
    /// A copy of that record.
    pub checkpoint: Checkpoint,
    /// A standby is consistent only from here on; [`Lsn::INVALID`] on a primary.
    pub min_recovery_point: Lsn,
    /// Its timeline; 0 on a primary.
    pub min_recovery_point_timeline: Timeline,
    /// Start of the base backup being recovered from; [`Lsn::INVALID`] otherwise.
    pub backup_start: Lsn,
    /// End of a backup taken from a standby; [`Lsn::INVALID`] otherwise.
    pub backup_end: Lsn,
    /// Recovery must still meet the backup's end record.
    pub backup_end_required: bool,
    /// `wal_level`.
    pub wal_level: WalLevel,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// What a server that replays this WAL must have.
    pub standby_minimums: StandbyMinimums,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
    /// Size of a data page.
    pub block_size: BlockSize,
    /// Blocks in one file of a relation.
    pub blocks_per_segment: u32,
    /// Size of a WAL page.
    pub wal_block_size: BlockSize,
    /// Size of a WAL segment.
    pub wal_segment_size: WalSegmentSize,
    /// 0: pages carry no checksums; 1: they do.
    pub data_checksum_version: u32,
    /// Whether `char` is signed where the instance was made; servers before 18 do not say.
    pub default_char_signed: Option<bool>,
}

impl ControlFile {
    /// Reads the file, or its first [`CONTROL_FILE_MIN_BYTES`] or more bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlError> {
        let crc_at = checked_crc_position(bytes)?;
        let short = || ControlError::TooShort(bytes.len());
        // Within this slice every offset of the layout exists; `short` cannot happen any more, but nothing relies on that.
        let data = bytes.get(..crc_at).ok_or_else(short)?;
        let control_version = u32_at(data, 8).ok_or_else(short)?;
        let catalog_version = u32_at(data, 12).ok_or_else(short)?;
        let major = Major::from_catalog_version(catalog_version)?;
        if major.control_version() != control_version {
            return Err(ControlError::Mismatch { layout: control_version, major });
        }
        check_architecture(data)?;
        let number = |at, field| u32_at(data, at).ok_or(ControlError::Field { field, value: 0 });
        let position = |at| u64_at(data, at).map(Lsn).ok_or_else(short);
        let flag = |at, field| {
            bool_at(data, at)
                .ok_or(ControlError::Field { field, value: data.get(at).copied().unwrap_or_default().into() })
        };
        let count = |at, field| {
            let value = number(at, field)?;
            if i32::try_from(value).is_ok() {
                Ok(value)
            } else {
                Err(ControlError::Field { field, value: value.into() })
            }
        };
        let state = number(16, "state")?;
        let wal_level = number(172, "wal_level")?;
        let checkpoint = data.get(40..).and_then(|copy| Checkpoint::parse(copy, major));
        let blocks_per_segment = number(220, "blocks per segment")?;
        if blocks_per_segment == 0 {
            return Err(ControlError::Field { field: "blocks per segment", value: 0 });
        }
        Ok(Self {
            system_identifier: u64_at(data, 0).ok_or_else(short)?,
            major,
            control_version,
            catalog_version,
            state: server_state(state).ok_or(ControlError::Field { field: "state", value: state.into() })?,
            time_unix_seconds: i64_at(data, 24).ok_or_else(short)?,
            checkpoint_lsn: position(32)?,
            checkpoint: checkpoint.ok_or(ControlError::Field { field: "checkpoint copy", value: 0 })?,
            min_recovery_point: position(136)?,
            min_recovery_point_timeline: Timeline(number(144, "minimum recovery point's timeline")?),
            backup_start: position(152)?,
            backup_end: position(160)?,
            backup_end_required: flag(168, "backup end required")?,
            wal_level: WalLevel::from_number(wal_level)
                .ok_or(ControlError::Field { field: "wal_level", value: wal_level.into() })?,
            wal_log_hints: flag(176, "wal_log_hints")?,
            standby_minimums: StandbyMinimums {
                max_connections: count(180, "max_connections")?,
                max_worker_processes: count(184, "max_worker_processes")?,
                max_wal_senders: count(188, "max_wal_senders")?,
                max_prepared_transactions: count(192, "max_prepared_transactions")?,
                max_locks_per_transaction: count(196, "max_locks_per_transaction")?,
            },
            track_commit_timestamp: flag(200, "track_commit_timestamp")?,
            block_size: BlockSize::new(number(216, "block size")?.into())?,
            blocks_per_segment,
            wal_block_size: BlockSize::new(number(224, "WAL block size")?.into())?,
            wal_segment_size: WalSegmentSize::new(number(228, "WAL segment size")?.into())?,
            data_checksum_version: number(252, "data checksum version")?,
            default_char_signed: if major >= Major::V18 { Some(flag(256, "char signedness")?) } else { None },
        })
    }

    /// Whether data pages carry checksums.
    #[must_use]
    pub const fn has_data_checksums(&self) -> bool {
        self.data_checksum_version != 0
    }
}

/// A position at which no record can lie: the last but one of 2^32 WAL files of 4 GiB, and not a multiple of eight.
///
/// It keeps clear of page headers for every size of a WAL page, because a server whose `pg_control` names a place inside one refuses to
/// start even *with* a label ("control file contains invalid checkpoint location", `StartupXLOG`).
pub const POISONED_CHECKPOINT: Lsn = Lsn(0xFFFF_FFFE_DEAD_BEEF);

/// A copy of a `pg_control` whose checkpoint lies at [`POISONED_CHECKPOINT`].
///
/// Recovery that has a `backup_label` takes the checkpoint from there and never reads this field. If someone removed the label of a
/// restored backup, recovery would start at the checkpoint of `pg_control` instead, skip WAL, and open a corrupt instance without
/// an error. With this copy it refuses to start.
pub fn with_poisoned_checkpoint(bytes: &[u8]) -> Result<Vec<u8>, ControlError> {
    let crc_at = checked_crc_position(bytes)?;
    let mut poisoned = bytes.to_vec();
    if asof_world::planted("a1") {
        return Ok(poisoned);
    }
    let checkpoint = poisoned.get_mut(32..40).ok_or(ControlError::TooShort(bytes.len()))?;
    checkpoint.copy_from_slice(&POISONED_CHECKPOINT.0.to_le_bytes());
    let crc = crc32c::crc32c(&poisoned[..crc_at]);
    poisoned[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    Ok(poisoned)
}

/// Finds the CRC of a known layout and holds it against the bytes before it.
fn checked_crc_position(bytes: &[u8]) -> Result<usize, ControlError> {
    let short = ControlError::TooShort(bytes.len());
    let layout = u32_at(bytes, 8).ok_or(short.clone())?;
    let crc_at = crc_position(layout).ok_or_else(|| match crc_position(layout.swap_bytes()) {
        Some(_) => ControlError::BigEndian,
        None => ControlError::Layout(layout),
    })?;
    let (Some(data), Some(stored)) = (bytes.get(..crc_at), u32_at(bytes, crc_at)) else { return Err(short) };
    let computed = crc32c::crc32c(data);
    if computed == stored || asof_world::planted("a4") {
        Ok(crc_at)
    } else {
        Err(ControlError::Crc { stored, computed })
    }
}

const fn crc_position(layout: u32) -> Option<usize> {
    match layout {
        1300 | 1700 => Some(288),
        // `default_char_signedness` stands before the nonce and pushes the CRC to the next multiple of four.
        1800 => Some(292),
        _ => None,
    }
}

/// Our decoders read data as 64-bit little-endian servers lay it out; other builds differ in alignment or in passing floats.
fn check_architecture(data: &[u8]) -> Result<(), ControlError> {
    let fail = |field, value| Err(ControlError::Field { field, value });
    let alignment = u32_at(data, 204).unwrap_or_default();
    if alignment != 8 {
        return fail("maximum alignment", alignment.into());
    }
    let float_format = u64_at(data, 208).unwrap_or_default();
    // FLOATFORMAT_VALUE in catalog/pg_control.h.
    if float_format != 1_234_567.0_f64.to_bits() {
        return fail("floating-point format", float_format);
    }
    if bool_at(data, 248) != Some(true) {
        return fail("float8 by value", data.get(248).copied().unwrap_or_default().into());
    }
    let checksum_version = u32_at(data, 252).unwrap_or_default();
    if checksum_version > 1 {
        return fail("data checksum version", checksum_version.into());
    }
    Ok(())
}

const fn server_state(number: u32) -> Option<ServerState> {
    match number {
        0 => Some(ServerState::Startup),
        1 => Some(ServerState::ShutDown),
        2 => Some(ServerState::ShutDownInRecovery),
        3 => Some(ServerState::ShuttingDown),
        4 => Some(ServerState::CrashRecovery),
        5 => Some(ServerState::ArchiveRecovery),
        6 => Some(ServerState::Production),
        _ => None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    bytes.get(at..)?.first_chunk().map(|chunk| i64::from_le_bytes(*chunk))
}

fn bool_at(bytes: &[u8], at: usize) -> Option<bool> {
    match bytes.get(at)? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIXTURES: [(Major, &[u8]); 6] = [
        (Major::V13, include_bytes!("../testdata/pg_control-13")),
        (Major::V14, include_bytes!("../testdata/pg_control-14")),
        (Major::V15, include_bytes!("../testdata/pg_control-15")),
        (Major::V16, include_bytes!("../testdata/pg_control-16")),
        (Major::V17, include_bytes!("../testdata/pg_control-17")),
        (Major::V18, include_bytes!("../testdata/pg_control-18")),
    ];

    #[test]
    fn the_control_file_of_every_major_is_understood() {
        for (major, bytes) in FIXTURES {
            let control = ControlFile::parse(bytes).expect("a fixture is valid");
            assert_eq!(control.major, major);
            assert_eq!(control.control_version, major.control_version());
            assert_eq!(control.catalog_version, major.catalog_version());
            assert_eq!(control.state, ServerState::ShutDown, "{major}");
            assert_eq!(control.checkpoint.timeline, Timeline::FIRST);
            assert_eq!(control.checkpoint.redo, control.checkpoint_lsn, "a shutdown checkpoint starts at itself");
            assert!(control.checkpoint.full_page_writes);
            assert_eq!(control.checkpoint.wal_level.is_some(), major >= Major::V17);
            assert_eq!(control.default_char_signed.is_some(), major >= Major::V18);
            assert_eq!(control.wal_level, WalLevel::Logical);
            assert!(control.has_data_checksums());
            assert!(!control.wal_log_hints);
            let minimums = control.standby_minimums;
            assert_eq!((minimums.max_connections, minimums.max_worker_processes), (37, 11));
            assert_eq!((minimums.max_wal_senders, minimums.max_prepared_transactions), (7, 5));
            assert_eq!(minimums.max_locks_per_transaction, 71);
            assert!(control.track_commit_timestamp);
            assert_eq!((control.block_size.bytes(), control.wal_block_size.bytes()), (8192, 8192));
            assert_eq!((control.blocks_per_segment, control.wal_segment_size.bytes()), (131_072, 1 << 20));
        }
    }

    #[test]
    fn hz_a4_a_flipped_bit_anywhere_in_the_data_is_noticed() {
        for (major, bytes) in FIXTURES {
            let crc_at = crc_position(major.control_version()).expect("known");
            for bit in 0..(crc_at + 4) * 8 {
                let mut torn = bytes.to_vec();
                torn[bit / 8] ^= 1 << (bit % 8);
                assert!(ControlFile::parse(&torn).is_err(), "PostgreSQL {major}, bit {bit}");
                assert!(with_poisoned_checkpoint(&torn).is_err(), "PostgreSQL {major}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_cut_off_control_file_is_refused_at_every_length() {
        for (major, bytes) in FIXTURES {
            let end = crc_position(major.control_version()).expect("known") + 4;
            for length in 0..end {
                assert_eq!(ControlFile::parse(&bytes[..length]), Err(ControlError::TooShort(length)));
            }
            assert!(ControlFile::parse(&bytes[..end]).is_ok());
        }
    }

    #[test]
    fn hz_a1_a_poisoned_control_file_is_valid_and_differs_in_the_checkpoint_alone() {
        for (_, bytes) in FIXTURES {
            let original = ControlFile::parse(bytes).expect("a fixture is valid");
            let poisoned = with_poisoned_checkpoint(bytes).expect("a fixture is valid");
            assert_eq!(poisoned.len(), bytes.len());
            let parsed = ControlFile::parse(&poisoned).expect("the checksum was recomputed");
            assert_eq!(parsed, ControlFile { checkpoint_lsn: POISONED_CHECKPOINT, ..original });
        }
    }

    #[test]
    fn a_control_file_of_another_byte_order_or_version_says_so() {
        let mut bytes = FIXTURES[2].1.to_vec();
        bytes[8..12].copy_from_slice(&1300_u32.to_be_bytes());
        assert_eq!(ControlFile::parse(&bytes), Err(ControlError::BigEndian));
        bytes[8..12].copy_from_slice(&1201_u32.to_le_bytes());
        assert_eq!(ControlFile::parse(&bytes), Err(ControlError::Layout(1201)));
    }

    proptest! {
        #[test]
        fn no_content_panics(content in proptest::collection::vec(any::<u8>(), 300), layout in 0usize..3) {
            let mut content = content;
            let layout = [1300_u32, 1700, 1800][layout];
            content[8..12].copy_from_slice(&layout.to_le_bytes());
            let crc_at = crc_position(layout).expect("known");
            let crc = crc32c::crc32c(&content[..crc_at]);
            content[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
            let _ = ControlFile::parse(&content);
        }
    }
}
