//! What the names of files say: WAL files in an archive, relation files in a data directory.
//!
//! Both grammars are strict. A WAL archive is fed by `archive_command`, and a name we do not understand is refused rather than kept
//! under a guess. In a data directory the relation grammar decides what may be treated as pages; everything outside it is
//! [`FileKind::Other`] and is always read in full, so refusing a doubtful name is the safe side.
//! Sources: `access/xlog_internal.h`, `common/relpath.c`, `backend/storage/file/reinit.c`, `backend/storage/file/fd.c`
//! (`looks_like_temp_rel_name`), PostgreSQL 13 to 18.

use std::collections::HashSet;

use crate::lsn::{Lsn, SegmentNo, Timeline, WalSegmentSize};
use crate::version::Major;

/// The name of a file that PostgreSQL hands to `archive_command`, or that `pg_receivewal` leaves in its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WalFileName {
    /// A complete segment: 24 hexadecimal digits.
    Segment {
        /// First eight digits.
        timeline: Timeline,
        /// From the other sixteen and the segment size.
        segment: SegmentNo,
    },
    /// `….partial`: the last segment of a timeline that ended inside it. Bytes behind its last valid record are old garbage.
    Partial {
        /// First eight digits.
        timeline: Timeline,
        /// From the other sixteen and the segment size.
        segment: SegmentNo,
    },
    /// `TTTTTTTT.history`: the ancestors of a timeline, see [`crate::history`].
    History {
        /// The timeline whose ancestors it lists.
        timeline: Timeline,
    },
    /// `….OOOOOOOO.backup`: notes that the server writes when a base backup ends.
    Backup {
        /// First eight digits.
        timeline: Timeline,
        /// Where the backup starts: the segment and the offset inside it.
        start: Lsn,
    },
}

/// A name that no WAL archive of an instance with this segment size can hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a WAL segment, partial segment, timeline history or backup history file")]
pub struct WalFileNameError(pub String);

impl WalFileName {
    /// Reads a bare file name. Digits are upper case, the timeline is not 0, and the segment must exist at this segment size.
    pub fn parse(name: &[u8], size: WalSegmentSize) -> Result<Self, WalFileNameError> {
        Self::parse_known(name, size)
            .ok_or_else(|| WalFileNameError(String::from_utf8_lossy(&name[..name.len().min(80)]).into_owned()))
    }

    fn parse_known(name: &[u8], size: WalSegmentSize) -> Option<Self> {
        if let Some(stem) = name.strip_suffix(b".history") {
            return Some(Self::History { timeline: timeline(stem)? });
        }
        let (stem, suffix) = name.split_at_checked(24)?;
        let timeline = timeline(stem.get(..8)?)?;
        let segment = segment(stem.get(8..)?, size)?;
        match suffix {
            b"" => Some(Self::Segment { timeline, segment }),
            b".partial" => Some(Self::Partial { timeline, segment }),
            _ => {
                let digits = suffix.strip_prefix(b".")?.strip_suffix(b".backup")?;
                let offset = hex8(digits).filter(|offset| *offset < size.bytes())?;
                let start = size.start(segment)?.checked_add(u64::from(offset))?;
                Some(Self::Backup { timeline, start })
            }
        }
    }

    /// The name as PostgreSQL writes it.
    #[must_use]
    pub fn format(self, size: WalSegmentSize) -> String {
        match self {
            Self::Segment { timeline, segment } => segment_name(timeline, segment, size),
            Self::Partial { timeline, segment } => segment_name(timeline, segment, size) + ".partial",
            Self::History { timeline } => format!("{:08X}.history", timeline.0),
            Self::Backup { timeline, start } => {
                let segment = segment_name(timeline, size.segment_of(start), size);
                format!("{segment}.{:08X}.backup", size.offset(start))
            }
        }
    }
}

/// The 24 digits of a segment: timeline, then the segment number in two halves whose border depends on the segment size.
#[must_use]
pub fn segment_name(timeline: Timeline, segment: SegmentNo, size: WalSegmentSize) -> String {
    let per_log_id = size.segments_per_log_id();
    format!("{:08X}{:08X}{:08X}", timeline.0, segment.0 / per_log_id, segment.0 % per_log_id)
}

fn timeline(digits: &[u8]) -> Option<Timeline> {
    hex8(digits).map(Timeline).filter(|timeline| timeline.is_valid())
}

fn segment(digits: &[u8], size: WalSegmentSize) -> Option<SegmentNo> {
    let (log_id, low) = digits.split_at_checked(8)?;
    let low = hex8(low).map(u64::from).filter(|low| *low < size.segments_per_log_id())?;
    Some(SegmentNo(u64::from(hex8(log_id)?) * size.segments_per_log_id() + low))
}

/// Exactly eight upper-case hexadecimal digits.
fn hex8(digits: &[u8]) -> Option<u32> {
    let upper_hex = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
    if digits.len() != 8 || !digits.iter().all(upper_hex) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// One of the files that make up a relation. The discriminants are PostgreSQL's fork numbers, which stand in WAL records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fork {
    /// The data: no suffix.
    Main = 0,
    /// The free space map: `_fsm`.
    FreeSpaceMap = 1,
    /// The visibility map: `_vm`.
    VisibilityMap = 2,
    /// The empty image of an unlogged relation: `_init`.
    Init = 3,
}

impl Fork {
    /// Every fork, by number.
    pub const ALL: [Self; 4] = [Self::Main, Self::FreeSpaceMap, Self::VisibilityMap, Self::Init];

    /// From a fork number in a WAL record.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// What stands behind the relation number in a file name.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::FreeSpaceMap => "_fsm",
            Self::VisibilityMap => "_vm",
            Self::Init => "_init",
        }
    }
}

/// Which relation, physically: what PostgreSQL calls `RelFileNode` up to 15 and `RelFileLocator` from 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelFileLocator {
    /// OID of the tablespace; [`PG_DEFAULT`] and [`PG_GLOBAL`] have directories of their own.
    pub tablespace: u32,
    /// OID of the database, 0 for relations that all databases share.
    pub database: u32,
    /// The number in the file's name; not the relation's OID.
    pub relation: u32,
}

/// OID of the tablespace `pg_default`: the directory `base`.
pub const PG_DEFAULT: u32 = 1663;
/// OID of the tablespace `pg_global`: the directory `global`, whose relations belong to no database.
pub const PG_GLOBAL: u32 = 1664;

impl RelFileLocator {
    /// The path of one segment of one fork, relative to the data directory.
    #[must_use]
    pub fn path(self, fork: Fork, segment: u32, major: Major) -> String {
        let name = RelationFileName { temporary: None, relation: self.relation, fork, segment };
        format!("{}/{}", database_directory(self.tablespace, self.database, major), name.format())
    }
}

/// The directory of a database in a tablespace, relative to the data directory.
#[must_use]
pub fn database_directory(tablespace: u32, database: u32, major: Major) -> String {
    match tablespace {
        PG_GLOBAL => "global".to_owned(),
        PG_DEFAULT => format!("base/{database}"),
        other => format!("pg_tblspc/{other}/{}/{database}", major.tablespace_directory()),
    }
}

/// The bare name of a relation file: `1234`, `1234.1`, `1234_vm`, `1234_fsm.2`, `1234_init`, `t3_1234`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFileName {
    /// The backend that owns a temporary relation.
    pub temporary: Option<u32>,
    /// The relation number, never 0.
    pub relation: u32,
    /// Which fork.
    pub fork: Fork,
    /// 0 for the first file, which has no suffix.
    pub segment: u32,
}

impl RelationFileName {
    /// `None` for anything PostgreSQL would not write itself: leading zeros, `.0`, unknown forks, number 0.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(name).ok()?;
        let (temporary, rest) = match name.strip_prefix('t') {
            // Backend numbers start at 1 up to 16 and at 0 from 17 on (ProcNumber).
            Some(rest) => rest.split_once('_').and_then(|(backend, rest)| Some((Some(decimal(backend)?), rest)))?,
            None => (None, name),
        };
        let (stem, segment) = match rest.split_once('.') {
            Some((stem, segment)) => (stem, decimal(segment).filter(|segment| *segment != 0)?),
            None => (rest, 0),
        };
        let (relation, fork) = match stem.find('_') {
            Some(at) => (&stem[..at], Fork::ALL.into_iter().find(|fork| fork.suffix() == &stem[at..])?),
            None => (stem, Fork::Main),
        };
        let relation = decimal(relation).filter(|relation| *relation != 0)?;
        Some(Self { temporary, relation, fork, segment })
    }

    /// The name as PostgreSQL writes it.
    #[must_use]
    pub fn format(self) -> String {
        let prefix = self.temporary.map(|backend| format!("t{backend}_")).unwrap_or_default();
        let suffix = if self.segment == 0 { String::new() } else { format!(".{}", self.segment) };
        format!("{prefix}{}{}{suffix}", self.relation, self.fork.suffix())
    }
}

/// A decimal number as `%u` prints it: no sign, no leading zero.
fn decimal(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok() } else { None }
}

/// What a file in a data directory is, as far as its path says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Data pages of a relation.
    Main,
    /// Free space map.
    Fsm,
    /// Visibility map.
    Vm,
    /// Empty image of an unlogged relation; its other forks are left out of backups.
    Init,
    /// Any fork of a temporary relation; left out of backups.
    Temp,
    /// Not a relation file: always read in full.
    Other,
}

/// The relation file behind a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFile {
    /// Tablespace and database, from the directories.
    pub tablespace: u32,
    /// See [`RelFileLocator::database`].
    pub database: u32,
    /// From the bare name.
    pub name: RelationFileName,
}

impl RelationFile {
    /// The relation it belongs to.
    #[must_use]
    pub const fn locator(&self) -> RelFileLocator {
        RelFileLocator { tablespace: self.tablespace, database: self.database, relation: self.name.relation }
    }
}

/// A path and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Classified {
    /// What kind of file.
    pub kind: FileKind,
    /// Present exactly if the kind is not [`FileKind::Other`].
    pub relation: Option<RelationFile>,
}

/// Classifies a path relative to the data directory (with `/`, without a leading one).
///
/// Relation files lie only in `global`, `base/<database>` and `pg_tblspc/<tablespace>/PG_<major>_<catalogue>/<database>`; a
/// tablespace directory of another major, which `pg_upgrade` may leave behind, is not ours.
#[must_use]
pub fn classify(path: &[u8], major: Major) -> Classified {
    let relation = relation_file(path, major);
    let kind = match relation.map(|file| file.name) {
        None => FileKind::Other,
        Some(RelationFileName { temporary: Some(_), .. }) => FileKind::Temp,
        Some(RelationFileName { fork: Fork::Main, .. }) => FileKind::Main,
        Some(RelationFileName { fork: Fork::FreeSpaceMap, .. }) => FileKind::Fsm,
        Some(RelationFileName { fork: Fork::VisibilityMap, .. }) => FileKind::Vm,
        Some(RelationFileName { fork: Fork::Init, .. }) => FileKind::Init,
    };
    Classified { kind, relation }
}

fn relation_file(path: &[u8], major: Major) -> Option<RelationFile> {
    let components: Vec<&str> = std::str::from_utf8(path).ok()?.split('/').take(6).collect();
    let (tablespace, database, name) = match components.as_slice() {
        ["global", name] => (PG_GLOBAL, 0, *name),
        ["base", database, name] => (PG_DEFAULT, oid(database)?, *name),
        ["pg_tblspc", tablespace, version, database, name] if *version == major.tablespace_directory() => {
            (oid(tablespace)?, oid(database)?, *name)
        }
        _ => return None,
    };
    Some(RelationFile { tablespace, database, name: RelationFileName::parse(name.as_bytes())? })
}

fn oid(digits: &str) -> Option<u32> {
    decimal(digits).filter(|oid| *oid != 0)
}

/// The unlogged relations of a listing: those with an init fork.
///
/// The server leaves every other fork of such a relation out of a backup, because the start of the restored server overwrites the main
/// fork with the init fork and removes the rest (`sendDir` in `basebackup.c`, `ResetUnloggedRelations`).
#[must_use]
pub fn unlogged_relations<'a>(files: impl IntoIterator<Item = &'a RelationFile>) -> HashSet<RelFileLocator> {
    let init_forks = files.into_iter().filter(|file| file.name.temporary.is_none() && file.name.fork == Fork::Init);
    init_forks.map(RelationFile::locator).collect()
}

/// Whether a backup leaves this file out because its content does not survive recovery: temporary, or unlogged and not the init fork.
#[must_use]
pub fn excluded_relation(file: &RelationFile, unlogged: &HashSet<RelFileLocator>) -> bool {
    let temporary = file.name.temporary.is_some();
    let kept = file.name.fork == Fork::Init && !asof_world::planted("a8");
    temporary || (!kept && unlogged.contains(&file.locator()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(mib: u64) -> WalSegmentSize {
        WalSegmentSize::new(mib << 20).expect("a valid size")
    }

    /// `expect` is the kind and the segment or start position; `None` means refused.
    fn wal(name: &str, mib: u64, expect: Option<(&str, u64)>) {
        let parsed = WalFileName::parse(name.as_bytes(), size(mib));
        let summary = parsed.as_ref().ok().map(|parsed| match *parsed {
            WalFileName::Segment { segment, .. } => ("segment", segment.0),
            WalFileName::Partial { segment, .. } => ("partial", segment.0),
            WalFileName::History { timeline } => ("history", u64::from(timeline.0)),
            WalFileName::Backup { start, .. } => ("backup", start.0),
        });
        assert_eq!(summary, expect, "{name:?} at {mib} MiB");
        if let Ok(parsed) = parsed {
            assert_eq!(parsed.format(size(mib)), name);
        }
    }

    #[test]
    fn hz_c7_wal_names_follow_a_strict_grammar() {
        wal("000000010000000000000001", 16, Some(("segment", 1)));
        wal("000000010000000000000000", 16, Some(("segment", 0)));
        wal("0000000100000000000000FF", 16, Some(("segment", 255)));
        wal("000000010000000000000100", 16, None);
        wal("000000010000000000000100", 1, Some(("segment", 256)));
        wal("000000010000000000000FFF", 1, Some(("segment", 4095)));
        wal("000000010000000000001000", 1, None);
        wal("0000000A0000000200000003", 1024, Some(("segment", 11)));
        wal("000000010000000000000004", 1024, None);
        wal("00000001000000010000003F", 64, Some(("segment", 127)));
        wal("FFFFFFFFFFFFFFFF000000FF", 16, Some(("segment", (1 << 40) - 1)));
        wal("000000010000000000000001.partial", 16, Some(("partial", 1)));
        wal("0000000200000000000000A3.partial", 16, Some(("partial", 0xA3)));
        wal("00000002.history", 16, Some(("history", 2)));
        wal("0000000A.history", 16, Some(("history", 10)));
        wal("FFFFFFFF.history", 1, Some(("history", 0xFFFF_FFFF)));
        wal("000000010000000000000002.00000028.backup", 16, Some(("backup", 0x200_0028)));
        wal("000000010000000000000002.00FFFFFF.backup", 16, Some(("backup", 0x2FF_FFFF)));
        wal("000000010000000000000002.01000000.backup", 16, None);
        wal("000000010000000000000002.01000000.backup", 64, Some(("backup", 0x900_0000)));
        wal("000000000000000000000001", 16, None);
        wal("00000000.history", 16, None);
        wal("00000001000000000000000", 16, None);
        wal("0000000100000000000000010", 16, None);
        wal("00000001000000000000000a", 16, None);
        wal("00000001000000000000000G", 16, None);
        wal("+00000010000000000000001", 16, None);
        wal("00000001 000000000000001", 16, None);
        wal("000000010000000000000001.Partial", 16, None);
        wal("000000010000000000000001.partial.partial", 16, None);
        wal("000000010000000000000001.", 16, None);
        wal("000000010000000000000001.gz", 16, None);
        wal("000000010000000000000001.ready", 16, None);
        wal("000000010000000000000001\n", 16, None);
        wal("0000000a.history", 16, None);
        wal("0000002.history", 16, None);
        wal("000000002.history", 16, None);
        wal(".history", 16, None);
        wal("000000010000000000000001.history", 16, None);
        wal("000000010000000000000002.0000028.backup", 16, None);
        wal("000000010000000000000002.000000028.backup", 16, None);
        wal("000000010000000000000002.backup", 16, None);
        wal("000000010000000000000002..backup", 16, None);
        wal("000000010000000000000002.00000028.backup.gz", 16, None);
        wal("", 16, None);
        wal("RECOVERYXLOG", 16, None);
        wal("../0000000100000000000000", 16, None);
        wal("archive_status", 16, None);
        wal("é00000010000000000000001", 16, None);
        wal("00000001000000000000000\u{1F600}", 16, None);
    }

    fn relation(name: &str, expect: Option<(Option<u32>, u32, Fork, u32)>) {
        let parsed = RelationFileName::parse(name.as_bytes());
        let expect =
            expect.map(|(temporary, relation, fork, segment)| RelationFileName { temporary, relation, fork, segment });
        assert_eq!(parsed, expect, "{name:?}");
        if let Some(parsed) = parsed {
            assert_eq!(parsed.format(), name);
        }
    }

    #[test]
    fn relation_names_are_what_postgresql_writes_and_nothing_else() {
        relation("1234", Some((None, 1234, Fork::Main, 0)));
        relation("1234.1", Some((None, 1234, Fork::Main, 1)));
        relation("1234.131071", Some((None, 1234, Fork::Main, 131_071)));
        relation("1234_vm", Some((None, 1234, Fork::VisibilityMap, 0)));
        relation("1234_fsm", Some((None, 1234, Fork::FreeSpaceMap, 0)));
        relation("1234_fsm.2", Some((None, 1234, Fork::FreeSpaceMap, 2)));
        relation("1234_init", Some((None, 1234, Fork::Init, 0)));
        relation("4294967295", Some((None, u32::MAX, Fork::Main, 0)));
        relation("t3_1234", Some((Some(3), 1234, Fork::Main, 0)));
        relation("t0_1234_vm", Some((Some(0), 1234, Fork::VisibilityMap, 0)));
        relation("t12_1234_fsm.1", Some((Some(12), 1234, Fork::FreeSpaceMap, 1)));
        for name in [
            "",
            "0",
            "01234",
            "4294967296",
            "1234.",
            "1234.0",
            "1234.01",
            "1234.1.1",
            "1234_",
            "1234_vm_",
            "1234_main",
            "1234_VM",
            "1234_vm.x",
            "-1",
            "+1",
            " 1",
            "1 ",
            "t",
            "t_1",
            "t3",
            "t3_",
            "t03_1",
            "t3_0",
            "T3_1",
            "t-1_5",
            "1234~",
            "PG_VERSION",
            "pg_filenode.map",
            "1234_fsm_vm",
            "1234.1_vm",
            "١٢",
            "t3_t4_5",
        ] {
            relation(name, None);
        }
    }

    fn path(path: &str, kind: FileKind, expect: Option<(u32, u32)>) {
        let classified = classify(path.as_bytes(), Major::V15);
        assert_eq!(classified.kind, kind, "{path}");
        assert_eq!(classified.relation.map(|file| (file.tablespace, file.database)), expect, "{path}");
        if let Some(file) = classified.relation
            && file.name.temporary.is_none()
        {
            assert_eq!(file.locator().path(file.name.fork, file.name.segment, Major::V15), path);
        }
    }

    #[test]
    fn a_path_says_tablespace_database_and_kind() {
        path("base/5/1259", FileKind::Main, Some((PG_DEFAULT, 5)));
        path("base/5/1259.3", FileKind::Main, Some((PG_DEFAULT, 5)));
        path("base/5/1259_vm", FileKind::Vm, Some((PG_DEFAULT, 5)));
        path("base/5/1259_fsm", FileKind::Fsm, Some((PG_DEFAULT, 5)));
        path("base/5/16400_init", FileKind::Init, Some((PG_DEFAULT, 5)));
        path("base/5/t4_16400", FileKind::Temp, Some((PG_DEFAULT, 5)));
        path("global/1262", FileKind::Main, Some((PG_GLOBAL, 0)));
        path("pg_tblspc/16500/PG_15_202209061/5/16501", FileKind::Main, Some((16500, 5)));
        path("pg_tblspc/16500/PG_14_202107181/5/16501", FileKind::Other, None);
        path("pg_tblspc/16500/5/16501", FileKind::Other, None);
        path("global/pg_control", FileKind::Other, None);
        path("base/5/PG_VERSION", FileKind::Other, None);
        path("base/5/pg_filenode.map", FileKind::Other, None);
        path("base/1259", FileKind::Other, None);
        path("base/05/1259", FileKind::Other, None);
        path("base/0/1259", FileKind::Other, None);
        path("base/5/x/1259", FileKind::Other, None);
        path("/base/5/1259", FileKind::Other, None);
        path("./base/5/1259", FileKind::Other, None);
        path("pg_xact/0000", FileKind::Other, None);
        path("1259", FileKind::Other, None);
        path("", FileKind::Other, None);
    }

    #[test]
    fn hz_a8_an_unlogged_relation_keeps_only_its_init_fork() {
        let file = |path: &str| classify(path.as_bytes(), Major::V15).relation.expect("a relation file");
        let listing: Vec<RelationFile> =
            ["base/5/1", "base/5/1_init", "base/5/1_fsm", "base/5/1.1", "base/6/1", "base/5/2", "base/5/t1_1"]
                .map(file)
                .to_vec();
        let unlogged = unlogged_relations(&listing);
        let kept: Vec<String> = listing
            .iter()
            .filter(|file| !excluded_relation(file, &unlogged))
            .map(|file| file.locator().path(file.name.fork, file.name.segment, Major::V15))
            .collect();
        assert_eq!(kept, ["base/5/1_init", "base/6/1", "base/5/2"]);
    }

    proptest! {
        #[test]
        fn no_name_panics_and_an_accepted_name_is_canonical(name: Vec<u8>, shift in 0u64..=10) {
            if let Ok(parsed) = WalFileName::parse(&name, size(1 << shift)) {
                prop_assert_eq!(parsed.format(size(1 << shift)).into_bytes(), name.clone());
            }
            if let Some(parsed) = RelationFileName::parse(&name) {
                prop_assert_eq!(parsed.format().into_bytes(), name.clone());
            }
            let _ = classify(&name, Major::V18);
        }

        #[test]
        fn every_position_has_a_segment_name_that_leads_back(position: u64, timeline in 1u32.., shift in 0u64..=10) {
            let size = size(1 << shift);
            let (start, timeline) = (Lsn(position), Timeline(timeline));
            for name in [
                WalFileName::Segment { timeline, segment: size.segment_of(start) },
                WalFileName::Partial { timeline, segment: size.segment_of(start) },
                WalFileName::Backup { timeline, start },
                WalFileName::History { timeline },
            ] {
                prop_assert_eq!(WalFileName::parse(name.format(size).as_bytes(), size), Ok(name));
            }
        }

        #[test]
        fn almost_names_never_panic(name in "t?[0-9_]{0,12}(_fsm|_vm|_init|_)?(\\.[0-9]{0,11})?") {
            if let Some(parsed) = RelationFileName::parse(name.as_bytes()) {
                prop_assert_eq!(parsed.format(), name);
            }
        }
    }
}
