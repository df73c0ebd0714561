//! The table of contents: every object of the dump, in an order in which it can be restored.
//!
//! A custom-format archive begins with it; the other two formats keep it in `toc.dat`. Layout (`WriteHead`, `WriteToc`, `WriteInt`,
//! `WriteStr`, `WriteOffset` in `pg_backup_archiver.c`, 9.0 to 18), with *int* = a sign byte (0 or 1) and four bytes of
//! magnitude, least significant first, and *text* = an int length (-1: no text) and the bytes:
//!
//! | field | |
//! | --- | --- |
//! | `PGDMP` | |
//! | major, minor, revision | a byte each |
//! | size of an int, size of an offset, format | a byte each; `toc.dat` says tar also in a directory |
//! | compression | 1.15 and later: a byte; before: int, the level of zlib |
//! | second, minute, hour, day, month, year, daylight saving | int each, as in `struct tm` |
//! | database, version of the server, version of `pg_dump` | text each |
//! | number of entries | int |
//! | of each entry: dump id, has data | int each |
//! | OID of the catalogue, OID of the object | text each |
//! | tag, kind | text each |
//! | section | int |
//! | definition, drop, copy, schema, tablespace | text each |
//! | access method | text; 1.14 and later |
//! | relkind | int; 1.16 and later |
//! | owner, with OIDs (`true` or `false`) | text each |
//! | dump ids it depends on | text each, and one that is absent at the end |
//! | custom: state and position of the data | a byte, an offset |
//! | directory, tar: file with the data | text, empty if there is none |

use super::{Compression, Text};
use std::fmt;

mod decoder;

pub use decoder::TocDecoder;
use decoder::{OFFSET_KNOWN, OFFSET_NO_DATA, OFFSET_UNKNOWN};
pub(super) use decoder::{int, is_file_name};

const MAGIC: &[u8] = b"PGDMP";
const INT_BYTES: u8 = 4;

/// Where a table of contents is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArchiveFormat {
    /// At the beginning of a custom-format archive (`pg_dump -Fc`).
    Custom,
    /// In `toc.dat` of a directory (`-Fd`).
    Directory,
    /// In `toc.dat` of a tar archive (`-Ft`).
    Tar,
}

impl ArchiveFormat {
    /// `ArchiveFormat` in `pg_backup.h`. A directory calls itself tar, "so there's no point having a different format code"
    /// (`pg_backup_directory.c`).
    const fn is_written_as(self, byte: u8) -> bool {
        match self {
            Self::Custom => byte == 1,
            Self::Tar => byte == 3,
            Self::Directory => byte == 3 || byte == 5,
        }
    }
}

impl fmt::Display for ArchiveFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Custom => "custom",
            Self::Directory => "directory",
            Self::Tar => "tar",
        })
    }
}

/// The version of an archive: always major 1, and a minor from 12 to 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArchiveVersion {
    /// 12: 9.0 · 13: 11 and fixes of older ones · 14: 12 to 15 · 15: 16 · 16: 17 and 18.
    pub minor: u8,
    /// 0 so far.
    pub revision: u8,
}

impl ArchiveVersion {
    /// `pg_dump` 17 and 18: several groups of large objects, and the relkind.
    pub const V1_16: Self = Self { minor: 16, revision: 0 };
    const OLDEST_MINOR: u8 = 12;
    const NEWEST_MINOR: u8 = 16;

    const fn has_access_method(self) -> bool {
        self.minor >= 14
    }

    const fn names_compression(self) -> bool {
        self.minor >= 15
    }

    const fn has_relkind(self) -> bool {
        self.minor >= 16
    }
}

impl fmt::Display for ArchiveVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.minor)
    }
}

/// When the dump began, as `struct tm` in the time zone of the host that dumped, which the archive does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Created {
    /// 0 to 60.
    pub second: i32,
    /// 0 to 59.
    pub minute: i32,
    /// 0 to 23.
    pub hour: i32,
    /// 1 to 31.
    pub day: i32,
    /// 0 is January.
    pub month: i32,
    /// Since 1900.
    pub year: i32,
    /// Positive in daylight saving time, 0 outside, negative if not known.
    pub daylight_saving: i32,
}

/// In which pass of a restore an entry is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Section {
    /// Comments, privileges and the like, which go with what they belong to.
    None,
    /// Definitions before the data.
    PreData,
    /// Rows, large objects, sequence values.
    Data,
    /// Indexes, constraints, triggers.
    PostData,
}

impl Section {
    const fn from_number(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::None),
            2 => Some(Self::PreData),
            3 => Some(Self::Data),
            4 => Some(Self::PostData),
            _ => None,
        }
    }

    const fn number(self) -> i32 {
        match self {
            Self::None => 1,
            Self::PreData => 2,
            Self::Data => 3,
            Self::PostData => 4,
        }
    }
}

/// Where the data of an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// It has none.
    None,
    /// In the same custom-format archive, at this byte; not known if `pg_dump` wrote into a pipe.
    Offset(Option<u64>),
    /// In the file of this name, without the suffix of its compression.
    File(String),
}

/// One object of the dump.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Its number in this archive; positive and given once.
    pub dump_id: i32,
    /// It has data of its own: rows or large objects.
    pub has_dumper: bool,
    /// OID of the catalogue that holds the object; 0 if none does.
    pub catalog_oid: u32,
    /// OID of the object.
    pub object_oid: u32,
    /// Its name, for people.
    pub tag: Text,
    /// What it is: `TABLE`, `TABLE DATA`, `FK CONSTRAINT`.
    pub desc: Text,
    /// When it is restored.
    pub section: Section,
    /// The SQL that makes it.
    pub definition: Option<Text>,
    /// The SQL that drops it.
    pub drop: Option<Text>,
    /// `COPY … FROM stdin` for its rows; absent or empty if they are INSERTs.
    pub copy: Option<Text>,
    /// Its schema.
    pub namespace: Option<Text>,
    /// Its tablespace.
    pub tablespace: Option<Text>,
    /// Its table access method (12 and later).
    pub access_method: Option<Text>,
    /// `relkind` in `pg_class` (17 and later); 0 if it is no table or view, or not said.
    pub relkind: i32,
    /// Its owner.
    pub owner: Option<Text>,
    /// A table `WITH OIDS` (before 12).
    pub with_oids: bool,
    /// What must be restored before it. Some may not be in the archive.
    pub dependencies: Vec<i32>,
    /// Where its data is.
    pub place: Place,
}

impl Entry {
    /// The schema that it lies in; of what lies in none it is empty.
    #[must_use]
    pub fn schema(&self) -> &[u8] {
        self.namespace.as_ref().map_or(&[], Text::as_bytes)
    }

    /// It holds the rows of a table.
    #[must_use]
    pub fn is_table_data(&self) -> bool {
        self.desc == "TABLE DATA"
    }

    /// It holds large objects.
    #[must_use]
    pub fn is_large_objects(&self) -> bool {
        self.desc == "BLOBS"
    }

    /// Its rows are in the text format of COPY, not INSERTs (`--inserts`).
    #[must_use]
    pub fn has_copy_rows(&self) -> bool {
        self.is_table_data() && self.copy.as_ref().is_some_and(|copy| !copy.0.is_empty())
    }

    /// What it is and its name, as messages say it.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.namespace {
            Some(namespace) if !namespace.0.is_empty() => {
                format!("{} {}.{} (entry {})", self.desc, namespace, self.tag, self.dump_id)
            }
            _ => format!("{} {} (entry {})", self.desc, self.tag, self.dump_id),
        }
    }
}

/// A table of contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toc {
    /// Which fields it has.
    pub version: ArchiveVersion,
    /// Where it was found.
    pub format: ArchiveFormat,
    /// How the data is compressed, in a directory by default: each file says it by its suffix.
    pub compression: Compression,
    /// The level of zlib as it is written before 1.15, where it stands for the compression; else 0.
    pub level: i32,
    /// When the dump began.
    pub created: Created,
    /// The database.
    pub database: Text,
    /// The version of the server, as it says it itself.
    pub server_version: Text,
    /// The version of `pg_dump`.
    pub dump_version: Text,
    /// In the order of a restore.
    pub entries: Vec<Entry>,
}

/// Why bytes are no table of contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TocError {
    /// Something else.
    #[error("it does not begin with PGDMP, as every archive of pg_dump does")]
    Magic,
    /// Older or newer than what we know.
    #[error("archive version {major}.{minor} is not supported, only 1.12 to 1.16 (pg_dump 9.0 to 18)")]
    Version {
        /// As written.
        major: u8,
        /// As written.
        minor: u8,
    },
    /// Made where an int or a file offset is something else.
    #[error("it has ints of {int} and offsets of {offset} bytes, not 4 and 4 or 8")]
    Sizes {
        /// Bytes of an int.
        int: u8,
        /// Bytes of an offset.
        offset: u8,
    },
    /// A table of contents of another format.
    #[error("it has format {found}, which is not that of a {expected} archive")]
    Format {
        /// What was asked for.
        expected: ArchiveFormat,
        /// As written.
        found: u8,
    },
    /// A field that says what it cannot say.
    #[error("entry {entry} has an impossible {field}")]
    Entry {
        /// Counted from 1.
        entry: usize,
        /// Which field.
        field: &'static str,
    },
    /// The same, before the first entry.
    #[error("its header has an impossible {0}")]
    Header(&'static str),
    /// It ends too early.
    #[error("it ends after {0} bytes, in the middle")]
    CutOff(usize),
    /// It does not end where it should.
    #[error("something follows its last entry")]
    Trailing,
}

impl Toc {
    /// Reads a whole `toc.dat`.
    pub fn decode(format: ArchiveFormat, bytes: &[u8]) -> Result<Self, TocError> {
        let (toc, used) = TocDecoder::new(format).push(bytes)?.ok_or(TocError::CutOff(bytes.len()))?;
        if used == bytes.len() { Ok(toc) } else { Err(TocError::Trailing) }
    }

    /// The entry with this number.
    #[must_use]
    pub fn entry(&self, dump_id: i32) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.dump_id == dump_id)
    }

    /// Writes `toc.dat` of a directory with the same entries, whose files are not compressed and named as [`file_name`] says.
    #[must_use]
    pub fn encode_directory(&self) -> Vec<u8> {
        self.encode(ArchiveFormat::Directory)
    }

    /// Writes what precedes the data in a custom-format archive. What was decoded from one is the same again, byte for byte.
    #[must_use]
    pub fn encode_custom(&self) -> Vec<u8> {
        self.encode(ArchiveFormat::Custom)
    }

    fn encode(&self, format: ArchiveFormat) -> Vec<u8> {
        let custom = format == ArchiveFormat::Custom;
        let mut out = MAGIC.to_vec();
        out.extend([1, self.version.minor, self.version.revision, INT_BYTES, 8, if custom { 1 } else { 3 }]);
        match (self.version.names_compression(), custom) {
            (true, true) => out.push(self.compression.algorithm()),
            (true, false) => out.push(0),
            (false, _) => put_int(&mut out, if custom { self.level } else { 0 }),
        }
        let created = &self.created;
        for field in [created.second, created.minute, created.hour, created.day, created.month, created.year] {
            put_int(&mut out, field);
        }
        put_int(&mut out, created.daylight_saving);
        for text in [&self.database, &self.server_version, &self.dump_version] {
            put_text(&mut out, Some(&text.0));
        }
        put_int(&mut out, i32::try_from(self.entries.len()).expect("dump ids are positive ints, each given once"));
        for entry in &self.entries {
            self.put_entry(&mut out, entry);
            match &entry.place {
                _ if !custom => {
                    put_text(&mut out, Some(file_name(self.version, entry).unwrap_or_default().as_bytes()));
                }
                Place::Offset(Some(offset)) => put_offset(&mut out, OFFSET_KNOWN, *offset),
                _ if entry.has_dumper => put_offset(&mut out, OFFSET_UNKNOWN, 0),
                _ => put_offset(&mut out, OFFSET_NO_DATA, 0),
            }
        }
        out
    }

    fn put_entry(&self, out: &mut Vec<u8>, entry: &Entry) {
        let text = |out: &mut Vec<u8>, text: &Option<Text>| put_text(out, text.as_ref().map(Text::as_bytes));
        put_int(out, entry.dump_id);
        put_int(out, entry.has_dumper.into());
        put_text(out, Some(entry.catalog_oid.to_string().as_bytes()));
        put_text(out, Some(entry.object_oid.to_string().as_bytes()));
        put_text(out, Some(&entry.tag.0));
        put_text(out, Some(&entry.desc.0));
        put_int(out, entry.section.number());
        for field in [&entry.definition, &entry.drop, &entry.copy, &entry.namespace, &entry.tablespace] {
            text(out, field);
        }
        if self.version.has_access_method() {
            text(out, &entry.access_method);
        }
        if self.version.has_relkind() {
            put_int(out, entry.relkind);
        }
        text(out, &entry.owner);
        put_text(out, Some(if entry.with_oids { b"true" } else { b"false" }));
        for dependency in &entry.dependencies {
            put_text(out, Some(dependency.to_string().as_bytes()));
        }
        put_text(out, None);
    }
}

/// The file of a directory that holds an entry's data, without a suffix for compression; none if it has no data.
///
/// `_ArchiveEntry` and `_LoadLOs` in `pg_backup_directory.c`: before 1.16 there is one list of large objects, whatever name the table of
/// contents gives it.
#[must_use]
pub fn file_name(version: ArchiveVersion, entry: &Entry) -> Option<String> {
    match (entry.is_large_objects(), entry.has_dumper) {
        (true, _) if version < ArchiveVersion::V1_16 => Some("blobs.toc".to_owned()),
        (true, _) => Some(format!("blobs_{}.toc", entry.dump_id)),
        (false, true) => Some(format!("{}.dat", entry.dump_id)),
        (false, false) => None,
    }
}

/// `WriteOffset` in `pg_backup_archiver.c`.
fn put_offset(out: &mut Vec<u8>, flag: u8, offset: u64) {
    out.push(flag);
    out.extend(offset.to_le_bytes());
}

fn put_int(out: &mut Vec<u8>, value: i32) {
    out.push(value.is_negative().into());
    out.extend(value.unsigned_abs().to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: Option<&[u8]>) {
    let Some(text) = text else { return put_int(out, -1) };
    put_int(out, i32::try_from(text.len()).expect("a text of an archive is shorter than 1 GiB"));
    out.extend(text);
}
