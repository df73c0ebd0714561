//! `backup_label` and `tablespace_map`: the two files that `pg_backup_stop` hands over and recovery reads.
//!
//! The label names the checkpoint that recovery must start from. Without it a restored backup would start at the wrong place; so it is stored with
//! the backup, byte for byte, and parsed only to check it. `tablespace_map` tells recovery which links to make below `pg_tblspc`.
//! Sources: `build_backup_content` (`access/transam/xlogbackup.c`, 16 to 18; `xlog.c` before), `read_backup_label` and
//! `read_tablespace_map` (`xlogrecovery.c`, 15 to 18; `xlog.c` before).

use crate::lsn::{Lsn, Timeline};
use crate::version::Major;

/// Both files are small: a label has seven lines and a label text of at most 1024 bytes; a map has a path of at most 1024 per tablespace.
const MAX_LABEL_BYTES: usize = 64 << 10;
const MAX_TABLESPACES: usize = 100_000;

/// Where the server that was read stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackupSource {
    /// Written `primary`; `master` by 13.
    Primary,
    /// Recovery will demand more WAL before it calls the copy consistent.
    Standby,
}

/// How the server was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackupMethod {
    /// Replication protocol, or the non-exclusive functions.
    Streamed,
    /// The exclusive functions of 13 and 14, which leave the label in the live data directory. We never use them.
    Exclusive,
}

/// A parsed `backup_label`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where replay starts: the checkpoint's redo position.
    pub start_lsn: Lsn,
    /// The segment that holds it, as a bare name.
    pub start_segment: String,
    /// Where the checkpoint record lies.
    pub checkpoint_lsn: Lsn,
    /// `BACKUP METHOD`.
    pub method: BackupMethod,
    /// `BACKUP FROM`.
    pub source: BackupSource,
    /// `START TIME`, in the server's log time zone: for people, not for decisions.
    pub start_time: String,
    /// What we called the backup.
    pub label: String,
    /// The timeline of `start_lsn`.
    pub start_timeline: Timeline,
    /// The copy is a difference to an earlier one (`INCREMENTAL FROM LSN`, 17 and later), useless without `pg_combinebackup`.
    pub incremental_from: Option<Lsn>,
}

/// Why a `backup_label` cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Not text, or far too long.
    #[error("backup_label is not a text of at most {MAX_LABEL_BYTES} bytes")]
    NotText,
    /// A line that every label has is absent.
    #[error("backup_label has no line {0:?}")]
    Missing(&'static str),
    /// Twice the same line: a label text with a line break could forge one.
    #[error("backup_label has the line {0:?} twice")]
    Repeated(&'static str),
    /// The last line has no end: the text was cut off.
    #[error("backup_label does not end with a line break")]
    CutOff,
    /// A line that no supported server writes.
    #[error("backup_label has the unknown line {0:?}")]
    Unknown(String),
    /// A line whose value is not what it should be.
    #[error("backup_label says {value:?} as {field:?}")]
    Value {
        /// Which line.
        field: &'static str,
        /// What it says.
        value: String,
    },
}

const START_WAL: &str = "START WAL LOCATION";
const CHECKPOINT: &str = "CHECKPOINT LOCATION";
const METHOD: &str = "BACKUP METHOD";
const FROM: &str = "BACKUP FROM";
const START_TIME: &str = "START TIME";
const LABEL: &str = "LABEL";
const START_TIMELINE: &str = "START TIMELINE";
const INCREMENTAL_LSN: &str = "INCREMENTAL FROM LSN";
const INCREMENTAL_TLI: &str = "INCREMENTAL FROM TLI";
const FIELDS: [&str; 9] =
    [START_WAL, CHECKPOINT, METHOD, FROM, START_TIME, LABEL, START_TIMELINE, INCREMENTAL_LSN, INCREMENTAL_TLI];

impl BackupLabel {
    /// Reads the text that `pg_backup_stop` returned.
    pub fn parse(content: &[u8]) -> Result<Self, LabelError> {
        let text = std::str::from_utf8(content).ok().filter(|text| text.len() <= MAX_LABEL_BYTES);
        let text = text.ok_or(LabelError::NotText)?;
        let mut values: [Option<&str>; FIELDS.len()] = [None; FIELDS.len()];
        for line in text.strip_suffix('\n').ok_or(LabelError::CutOff)?.split('\n') {
            let (index, value) = field(line).ok_or_else(|| LabelError::Unknown(line.chars().take(80).collect()))?;
            if values[index].replace(value).is_some() {
                return Err(LabelError::Repeated(FIELDS[index]));
            }
        }
        let optional = |name| FIELDS.iter().position(|field| *field == name).and_then(|index| values[index]);
        let get = |name| optional(name).ok_or(LabelError::Missing(name));
        let (start_lsn, start_segment) = start_location(get(START_WAL)?)?;
        Ok(Self {
            start_lsn,
            start_segment,
            checkpoint_lsn: position(CHECKPOINT, get(CHECKPOINT)?)?,
            method: method(get(METHOD)?)?,
            source: source(get(FROM)?)?,
            start_time: get(START_TIME)?.to_owned(),
            label: get(LABEL)?.to_owned(),
            start_timeline: timeline(get(START_TIMELINE)?)?,
            incremental_from: optional(INCREMENTAL_LSN).map(|value| position(INCREMENTAL_LSN, value)).transpose()?,
        })
    }
}

/// `NAME: value`; the names are distinct up to the colon.
fn field(line: &str) -> Option<(usize, &str)> {
    let value = |name| line.strip_prefix(name).and_then(|rest: &str| rest.strip_prefix(": "));
    FIELDS.iter().enumerate().find_map(|(index, name)| Some((index, value(name)?)))
}

fn bad(field: &'static str, value: &str) -> LabelError {
    LabelError::Value { field, value: value.chars().take(80).collect() }
}

fn position(field: &'static str, value: &str) -> Result<Lsn, LabelError> {
    value.parse().ok().filter(|lsn: &Lsn| lsn.is_valid()).ok_or_else(|| bad(field, value))
}

/// `0/2000028 (file 000000010000000000000002)`.
fn start_location(value: &str) -> Result<(Lsn, String), LabelError> {
    let parts = value.split_once(" (file ").and_then(|(lsn, rest)| Some((lsn, rest.strip_suffix(')')?)));
    let (lsn, file) = parts.ok_or_else(|| bad(START_WAL, value))?;
    let digits = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    if file.len() != 24 || !file.bytes().all(digits) {
        return Err(bad(START_WAL, value));
    }
    Ok((position(START_WAL, lsn)?, file.to_owned()))
}

fn method(value: &str) -> Result<BackupMethod, LabelError> {
    match value {
        "streamed" => Ok(BackupMethod::Streamed),
        "pg_start_backup" => Ok(BackupMethod::Exclusive),
        _ => Err(bad(METHOD, value)),
    }
}

fn source(value: &str) -> Result<BackupSource, LabelError> {
    match value {
        "primary" | "master" => Ok(BackupSource::Primary),
        "standby" => Ok(BackupSource::Standby),
        _ => Err(bad(FROM, value)),
    }
}

fn timeline(value: &str) -> Result<Timeline, LabelError> {
    let plain = value.bytes().all(|byte| byte.is_ascii_digit());
    let timeline = value.parse().ok().filter(|_| plain).map(Timeline).filter(|timeline| timeline.is_valid());
    timeline.ok_or_else(|| bad(START_TIMELINE, value))
}

/// One line of a `tablespace_map`: the link `pg_tblspc/<oid>` points to `path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TablespaceLink {
    /// OID of the tablespace.
    pub oid: u32,
    /// Where the link points. Paths are bytes.
    pub path: Vec<u8>,
}

/// Why a `tablespace_map` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TablespaceMapError {
    /// Not `<oid> <path>`.
    #[error("line {0} of tablespace_map is not a number and a path")]
    Line(usize),
    /// Cut off behind a backslash or inside a line.
    #[error("tablespace_map ends inside line {0}")]
    CutOff(usize),
    /// Two links for one tablespace.
    #[error("tablespace_map names tablespace {0} twice")]
    Repeated(u32),
    /// More than any instance has.
    #[error("tablespace_map has more than {MAX_TABLESPACES} lines")]
    TooLong,
    /// A path that PostgreSQL would not read back: empty, with a zero byte, or, in 13, with a backslash in a bad place.
    #[error("tablespace {0} has a path that tablespace_map cannot hold")]
    Path(u32),
}

/// What a backslash means in a `tablespace_map`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    /// It takes the next byte as it is (14 and later).
    Any,
    /// It stands for itself, unless a line break follows: then that is part of the path (13).
    LineBreaks,
}

const fn escape(major: Major) -> Escape {
    match major {
        Major::V13 => Escape::LineBreaks,
        Major::V14 | Major::V15 | Major::V16 | Major::V17 | Major::V18 => Escape::Any,
    }
}

/// Reads a `tablespace_map` of this major. A line ends at an unescaped line feed or carriage return.
pub fn parse_tablespace_map(content: &[u8], major: Major) -> Result<Vec<TablespaceLink>, TablespaceMapError> {
    let mut links: Vec<TablespaceLink> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (index, line) in unescaped_lines(content, escape(major))?.into_iter().enumerate() {
        let number = index + 1;
        if line.is_empty() {
            continue;
        }
        if links.len() == MAX_TABLESPACES {
            return Err(TablespaceMapError::TooLong);
        }
        let link = tablespace_link(&line).ok_or(TablespaceMapError::Line(number))?;
        if !seen.insert(link.oid) {
            return Err(TablespaceMapError::Repeated(link.oid));
        }
        links.push(link);
    }
    Ok(links)
}

fn unescaped_lines(content: &[u8], escape: Escape) -> Result<Vec<Vec<u8>>, TablespaceMapError> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    let mut rest = content;
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        match (byte, rest.split_first()) {
            (b'\\', Some((escaped, behind))) if escape == Escape::Any || is_line_break(*escaped) => {
                line.push(*escaped);
                rest = behind;
            }
            (b'\\', None) => return Err(TablespaceMapError::CutOff(lines.len() + 1)),
            (byte, _) if is_line_break(*byte) => lines.push(std::mem::take(&mut line)),
            (byte, _) => line.push(*byte),
        }
    }
    if line.is_empty() { Ok(lines) } else { Err(TablespaceMapError::CutOff(lines.len() + 1)) }
}

const fn is_line_break(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

fn tablespace_link(line: &[u8]) -> Option<TablespaceLink> {
    let (oid, path) = line.split_at(line.iter().position(|byte| *byte == b' ')?);
    let oid = std::str::from_utf8(oid).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let oid = oid.parse().ok().filter(|oid| *oid != 0)?;
    let path = path.get(1..).filter(|path| !path.is_empty() && !path.contains(&0))?;
    Some(TablespaceLink { oid, path: path.to_vec() })
}

/// Writes a `tablespace_map` for a server of this major. 13 cannot hold a path with a backslash before a line break or at its end.
pub fn format_tablespace_map(links: &[TablespaceLink], major: Major) -> Result<Vec<u8>, TablespaceMapError> {
    let mut content = Vec::new();
    for link in links {
        if !can_hold(&link.path, escape(major)) {
            return Err(TablespaceMapError::Path(link.oid));
        }
        content.extend(format!("{} ", link.oid).into_bytes());
        for byte in &link.path {
            if is_line_break(*byte) || (*byte == b'\\' && escape(major) == Escape::Any) {
                content.push(b'\\');
            }
            content.push(*byte);
        }
        content.push(b'\n');
    }
    Ok(content)
}

fn can_hold(path: &[u8], escape: Escape) -> bool {
    let before_break = |pair: &[u8]| matches!(pair, [b'\\', b'\n' | b'\r']);
    let ambiguous = path.ends_with(b"\\") || path.windows(2).any(before_break);
    !path.is_empty() && !path.contains(&0) && (escape == Escape::Any || !ambiguous)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LABEL_15: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\n\
        BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-20 03:00:00 UTC\nLABEL: asof: nightly\nSTART TIMELINE: 1\n";

    #[test]
    fn a_label_says_where_recovery_starts() {
        let label = BackupLabel::parse(LABEL_15.as_bytes()).expect("a valid label");
        assert_eq!(label.start_lsn, Lsn(0x200_0028));
        assert_eq!(label.start_segment, "000000010000000000000002");
        assert_eq!(label.checkpoint_lsn, Lsn(0x200_0060));
        assert_eq!((label.method, label.source), (BackupMethod::Streamed, BackupSource::Primary));
        assert_eq!(label.start_time, "2026-11-20 03:00:00 UTC");
        assert_eq!(label.label, "asof: nightly");
        assert_eq!(label.start_timeline, Timeline(1));
        assert_eq!(label.incremental_from, None);
    }

    fn changed(from: &str, to: &str) -> Result<BackupLabel, LabelError> {
        assert!(LABEL_15.contains(from));
        BackupLabel::parse(LABEL_15.replace(from, to).as_bytes())
    }

    #[test]
    fn labels_of_other_majors_and_sources_are_read() {
        assert_eq!(changed("primary", "master").map(|label| label.source), Ok(BackupSource::Primary));
        assert_eq!(changed("primary", "standby").map(|label| label.source), Ok(BackupSource::Standby));
        assert_eq!(changed("streamed", "pg_start_backup").map(|label| label.method), Ok(BackupMethod::Exclusive));
        let incremental =
            changed("TIMELINE: 1\n", "TIMELINE: 1\nINCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n");
        assert_eq!(incremental.map(|label| label.incremental_from), Ok(Some(Lsn(0x100_0028))));
        assert_eq!(changed("asof: nightly", "").map(|label| label.label), Ok(String::new()));
    }

    #[test]
    fn a_label_that_no_server_wrote_is_refused() {
        assert!(matches!(changed("0/2000028 ", "0/0 "), Err(LabelError::Value { field: START_WAL, .. })));
        assert!(matches!(changed("0000002)", "0000002"), Err(LabelError::Value { field: START_WAL, .. })));
        assert!(matches!(changed("(file 0", "(file g"), Err(LabelError::Value { field: START_WAL, .. })));
        assert!(matches!(changed("0/2000060", "x"), Err(LabelError::Value { field: CHECKPOINT, .. })));
        assert!(matches!(changed("TIMELINE: 1", "TIMELINE: 0"), Err(LabelError::Value { field: START_TIMELINE, .. })));
        assert!(matches!(changed("TIMELINE: 1", "TIMELINE: +1"), Err(LabelError::Value { field: START_TIMELINE, .. })));
        assert!(matches!(changed("nightly", "x\nSTART TIMELINE: 9"), Err(LabelError::Repeated(START_TIMELINE))));
        assert!(matches!(changed("nightly", "x\nfree text"), Err(LabelError::Unknown(_))));
        assert_eq!(BackupLabel::parse(b""), Err(LabelError::CutOff));
        assert_eq!(BackupLabel::parse(&[0xFF]), Err(LabelError::NotText));
    }

    #[test]
    fn a_label_cut_off_anywhere_is_refused() {
        for length in 0..LABEL_15.len() {
            assert!(BackupLabel::parse(&LABEL_15.as_bytes()[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn hz_a14_a_tablespace_path_may_hold_any_byte_but_zero() {
        let map = b"16385 /srv/a b\n16386 /srv/back\\\\slash\\\nline\n";
        let links = parse_tablespace_map(map, Major::V15).expect("a valid map");
        assert_eq!(links[0], TablespaceLink { oid: 16385, path: b"/srv/a b".to_vec() });
        assert_eq!(links[1], TablespaceLink { oid: 16386, path: b"/srv/back\\slash\nline".to_vec() });
        assert_eq!(format_tablespace_map(&links, Major::V15), Ok(map.to_vec()));
        assert_eq!(parse_tablespace_map(b"", Major::V15), Ok(Vec::new()));
    }

    #[test]
    fn a_backslash_stands_for_itself_in_13() {
        let map = b"16386 /srv/back\\slash\\\nline\n";
        let links = parse_tablespace_map(map, Major::V13).expect("a valid map");
        assert_eq!(links[0].path, b"/srv/back\\slash\nline");
        assert_eq!(format_tablespace_map(&links, Major::V13), Ok(map.to_vec()));
        for path in [&b"/srv/x\\"[..], b"/srv/x\\\ny"] {
            let link = TablespaceLink { oid: 1, path: path.to_vec() };
            assert_eq!(format_tablespace_map(&[link], Major::V13), Err(TablespaceMapError::Path(1)));
        }
    }

    #[test]
    fn a_map_that_is_damaged_is_refused() {
        use TablespaceMapError as E;
        let check = |content: &[u8], expect| assert_eq!(parse_tablespace_map(content, Major::V15), Err(expect));
        check(b"16385\n", E::Line(1));
        check(b"16385 \n", E::Line(1));
        check(b"x /a\n", E::Line(1));
        check(b"0 /a\n", E::Line(1));
        check(b"1 /a\n2 /b", E::CutOff(2));
        check(b"1 /a\\", E::CutOff(1));
        check(b"1 /a\n1 /b\n", E::Repeated(1));
    }

    proptest! {
        #[test]
        fn no_content_panics(content: Vec<u8>) {
            let _ = BackupLabel::parse(&content);
            let _ = parse_tablespace_map(&content, Major::V13);
            let _ = parse_tablespace_map(&content, Major::V18);
        }

        #[test]
        fn a_map_survives_its_text(paths in proptest::collection::vec(proptest::collection::vec(1u8.., 1..40), 0..5)) {
            let links: Vec<_> = (1..).zip(paths).map(|(oid, path)| TablespaceLink { oid, path }).collect();
            let text = format_tablespace_map(&links, Major::V18).expect("no zero bytes");
            prop_assert_eq!(parse_tablespace_map(&text, Major::V18), Ok(links.clone()));
            if let Ok(text) = format_tablespace_map(&links, Major::V13) {
                prop_assert_eq!(parse_tablespace_map(&text, Major::V13), Ok(links));
            }
        }
    }
}
