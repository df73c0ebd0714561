//! A directory-format archive: which files it has, and what is in one of them.
//!
//! `pg_backup_directory.c`, 9.1 to 18. Besides `toc.dat` there is a file per table with rows; one per large object; and lists of large
//! objects, which say which file is which object. Data files are compressed one by one, and their suffix says how; `pg_restore` looks for
//! the name without a suffix first (`InitDiscoverCompressFileHandle` in `compress_io.c`), then for `.gz`, `.lz4` and `.zst`. Lists are
//! not compressed, though a person may have done that.

use super::codec::{Decompressor, Wrapping};
use super::rows::RowCounter;
use super::toc::{Entry, Place, Toc, file_name, is_file_name};
use super::{Compression, DataError};

/// The file with the table of contents.
pub const TOC_FILE: &str = "toc.dat";

/// In the order in which `pg_restore` looks for a file.
pub const COMPRESSIONS: [Compression; 4] = [Compression::None, Compression::Gzip, Compression::Lz4, Compression::Zstd];

impl Compression {
    /// What it adds to the name of a file.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Lz4 => ".lz4",
            Self::Zstd => ".zst",
        }
    }

    /// Splits the name of a file into the name that the table of contents uses, and how it is compressed.
    #[must_use]
    pub fn of_name(name: &str) -> (&str, Self) {
        let suffixed = COMPRESSIONS.into_iter().skip(1);
        let mut found =
            suffixed.filter_map(|compression| Some((name.strip_suffix(compression.suffix())?, compression)));
        found.next().unwrap_or((name, Self::None))
    }
}

/// What a file of a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberKind {
    /// Rows as COPY writes them, with their end.
    CopyRows,
    /// Rows as INSERTs, or other data that is only handed on.
    Data,
    /// A list of large objects, see [`parse_large_objects`].
    LargeObjectList,
}

/// A file that the table of contents demands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Of which entry.
    pub dump_id: i32,
    /// Without the suffix of its compression.
    pub name: String,
    /// What it holds.
    pub kind: MemberKind,
}

impl Member {
    /// The names that it may have, in the order in which `pg_restore` looks for them.
    #[must_use]
    pub fn variants(&self) -> [(String, Compression); 4] {
        COMPRESSIONS.map(|compression| (format!("{}{}", self.name, compression.suffix()), compression))
    }
}

/// The files that belong to a table of contents, besides itself and the large objects that the lists name.
///
/// For a custom-format archive these are the files that go with [`Toc::encode_directory`].
#[must_use]
pub fn members(toc: &Toc) -> Vec<Member> {
    toc.entries.iter().filter_map(|entry| member(toc, entry)).collect()
}

fn member(toc: &Toc, entry: &Entry) -> Option<Member> {
    let kind = match entry {
        _ if entry.is_large_objects() => MemberKind::LargeObjectList,
        _ if entry.has_copy_rows() => MemberKind::CopyRows,
        _ => MemberKind::Data,
    };
    let name = match &entry.place {
        // Before 1.16 the name of the list that stands there is not the one that is used, see `file_name`.
        Place::File(name) if !entry.is_large_objects() => name.clone(),
        Place::File(_) | Place::Offset(_) => file_name(toc.version, entry)?,
        Place::None => return None,
    };
    Some(Member { dump_id: entry.dump_id, name, kind })
}

/// The file of a large object, without the suffix of its compression (`_StartLO`).
#[must_use]
pub fn large_object_file(oid: u32) -> String {
    format!("blob_{oid}.dat")
}

/// A line of a list of large objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LargeObjectFile {
    /// The object.
    pub oid: u32,
    /// Its file, without the suffix of its compression in a directory, with it in a tar archive of an old version.
    pub name: String,
}

/// Why a list of large objects cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LargeObjectListError {
    /// Not `<oid> <file>`.
    #[error("line {0} of the list of large objects is not a number and the name of a file")]
    Line(usize),
    /// Cut off inside a line.
    #[error("the list of large objects ends inside line {0}")]
    CutOff(usize),
}

/// Reads a `blobs.toc` or `blobs_<dump id>.toc`. An empty one is valid.
pub fn parse_large_objects(content: &[u8]) -> Result<Vec<LargeObjectFile>, LargeObjectListError> {
    let mut files = Vec::new();
    for (index, line) in content.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let line = line.strip_suffix(b"\n").ok_or(LargeObjectListError::CutOff(number))?;
        files.push(large_object_line(line).ok_or(LargeObjectListError::Line(number))?);
    }
    Ok(files)
}

fn large_object_line(line: &[u8]) -> Option<LargeObjectFile> {
    let (oid, name) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let oid = oid.bytes().all(|byte| byte.is_ascii_digit()).then(|| oid.parse().ok())??;
    is_file_name(name).then(|| LargeObjectFile { oid, name: name.to_owned() })
}

/// Writes a list of large objects as `_EndLO` does.
#[must_use]
pub fn format_large_objects(files: &[LargeObjectFile]) -> Vec<u8> {
    files.iter().flat_map(|file| format!("{} {}\n", file.oid, file.name).into_bytes()).collect()
}

/// What a data file held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSummary {
    /// Rows, if it is a file of rows.
    pub rows: Option<u64>,
    /// Bytes when decompressed.
    pub plain_bytes: u64,
}

/// Reads one file of a directory, or one member of a tar archive, in the pieces in which it comes.
#[derive(Debug)]
pub struct DataFileDecoder {
    decompressor: Decompressor,
    rows: Option<RowCounter>,
    plain_bytes: u64,
}

impl DataFileDecoder {
    /// Begins at the first byte. `compression` is what the name's suffix says.
    pub fn new(kind: MemberKind, compression: Compression) -> Result<Self, DataError> {
        let rows = (kind == MemberKind::CopyRows).then(RowCounter::default);
        Ok(Self { decompressor: Decompressor::new(compression, Wrapping::File)?, rows, plain_bytes: 0 })
    }

    /// Takes the next bytes and hands on what they decompress to. After an error the decoder must not be used any more.
    pub fn push(&mut self, bytes: &[u8], sink: &mut impl FnMut(&[u8])) -> Result<(), DataError> {
        let Self { decompressor, rows, plain_bytes } = self;
        decompressor.push(bytes, &mut |plain| {
            if !plain.is_empty() {
                *plain_bytes += plain.len() as u64;
                if let Some(rows) = rows {
                    rows.push(plain);
                }
                sink(plain);
            }
        })
    }

    /// Says whether the file came to its end.
    pub fn finish(mut self) -> Result<FileSummary, DataError> {
        self.decompressor.finish()?;
        let rows = self.rows.map(|rows| rows.rows().ok_or(DataError::NoEndOfData)).transpose()?;
        Ok(FileSummary { rows, plain_bytes: self.plain_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::toc::ArchiveFormat;

    #[test]
    fn the_table_of_contents_says_which_files_there_must_be() {
        for (bytes, list) in [
            (&include_bytes!("../../testdata/archive/shop-15.toc")[..], "blobs.toc"),
            (include_bytes!("../../testdata/archive/shop-16.toc"), "blobs.toc"),
            (include_bytes!("../../testdata/archive/shop-18.toc"), "blobs_3417.toc"),
        ] {
            let toc = Toc::decode(ArchiveFormat::Directory, bytes).expect("valid");
            let members = members(&toc);
            let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
            let rows = ["3409.dat", "3411.dat", "3415.dat", "3412.dat", "3413.dat"];
            assert_eq!(names, [&rows[..], &[list]].concat());
            assert!(members[..5].iter().all(|member| member.kind == MemberKind::CopyRows));
            assert_eq!(members[5].kind, MemberKind::LargeObjectList);
            assert_eq!(members[0].variants()[1], ("3409.dat.gz".to_owned(), Compression::Gzip));
        }
    }

    #[test]
    fn names_say_how_files_are_compressed() {
        assert_eq!(Compression::of_name("1.dat"), ("1.dat", Compression::None));
        assert_eq!(Compression::of_name("1.dat.gz"), ("1.dat", Compression::Gzip));
        assert_eq!(Compression::of_name("1.dat.lz4"), ("1.dat", Compression::Lz4));
        assert_eq!(Compression::of_name("1.dat.zst"), ("1.dat", Compression::Zstd));
    }

    #[test]
    fn lists_of_large_objects_are_read_and_written() {
        let content = b"1001 blob_1001.dat\n3000000000 blob_3000000000.dat\n";
        let files = parse_large_objects(content).expect("valid");
        assert_eq!(files[1], LargeObjectFile { oid: 3_000_000_000, name: large_object_file(3_000_000_000) });
        assert_eq!(format_large_objects(&files), content);
        assert_eq!(parse_large_objects(b""), Ok(Vec::new()));
        assert_eq!(parse_large_objects(b"1 blob_1.dat\n2 blob_2.dat"), Err(LargeObjectListError::CutOff(2)));
        for line in ["x blob_1.dat\n", "1 ../etc\n", "1\n", "+1 a\n", "1 \n", "4294967296 a\n", "\n"] {
            assert_eq!(parse_large_objects(line.as_bytes()), Err(LargeObjectListError::Line(1)), "{line}");
        }
    }
}
