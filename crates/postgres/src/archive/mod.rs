//! What `pg_dump` writes: archives in custom, directory and tar format, and plain SQL.
//!
//! Everything here is a decoder that takes bytes in the pieces in which they come and believes nothing: a table of contents
//! ([`toc`]), a custom-format archive as one stream ([`stream`]), the members of the other two formats ([`directory`], [`tar`]), a
//! script ([`plain`]), and the question which of them it is ([`sniff`]). [`select`] answers which entries of a table of contents
//! belong to a table.
//!
//! An archive carries no checksum and no end mark. What can be proven of one that was read to its end is that every entry with data had its
//! block, that every block was complete, that compressed data could be decompressed, and that every table's rows ended with
//! the line that ends them.
//!
//! Archive versions 1.12 (9.0) to 1.16 (17 and 18). Sources: `src/bin/pg_dump/` of PostgreSQL 9.0 to 18, files named where they
//! are used.

pub mod codec;
pub mod directory;
pub mod plain;
mod rows;
pub mod select;
pub mod sniff;
pub mod stream;
pub mod tar;
#[cfg(test)]
mod tests;
pub mod toc;

use toc::TocError;

/// How the data in an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// Deflate: as a zlib stream in custom format, as a gzip file in a directory.
    Gzip,
    /// LZ4 frames (16 and later).
    Lz4,
    /// Zstandard frames (16 and later).
    Zstd,
}

impl Compression {
    /// Its number in archives from 1.15 on: `pg_compress_algorithm` in `common/compression.h`.
    const fn algorithm(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Lz4 => 2,
            Self::Zstd => 3,
        }
    }

    fn of_algorithm(number: u8) -> Option<Self> {
        [Self::None, Self::Gzip, Self::Lz4, Self::Zstd].into_iter().find(|one| one.algorithm() == number)
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// Why an archive is not whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// Its table of contents cannot be read.
    #[error("the table of contents of the archive is not valid")]
    Toc(#[from] TocError),
    /// It ends inside the table of contents.
    #[error("the archive ends inside its table of contents, after {0} bytes")]
    EndsInToc(u64),
    /// It ends inside a block.
    #[error("the archive ends at byte {at} inside the data of {entry}")]
    EndsInBlock {
        /// Which entry.
        entry: String,
        /// How many bytes there were.
        at: u64,
    },
    /// It ends inside the header of a block.
    #[error("the archive ends at byte {0} inside the header of a data block")]
    EndsInHeader(u64),
    /// An entry that has data, and no block with it.
    #[error("the archive ends at byte {at} without the data of {entry}")]
    NoBlock {
        /// Which entry.
        entry: String,
        /// How many bytes there were.
        at: u64,
    },
    /// Bytes that are no block.
    #[error("at byte {at} of the archive there is {what} where a data block should begin")]
    BadBlock {
        /// Where.
        at: u64,
        /// What is there.
        what: String,
    },
    /// The table of contents says that the block is elsewhere; `pg_restore` would look there.
    #[error("the data of {entry} begins at byte {at}, but the table of contents says {said}")]
    Misplaced {
        /// Which entry.
        entry: String,
        /// Where it is.
        at: u64,
        /// Where it should be.
        said: u64,
    },
    /// A length or an OID inside a block that none can have.
    #[error("at byte {at}, in the data of {entry}, there is an impossible number")]
    BadNumber {
        /// Which entry.
        entry: String,
        /// Where.
        at: u64,
    },
    /// What an entry's data is does not hold together.
    #[error("the data of {entry} is not valid")]
    Data {
        /// Which entry.
        entry: String,
        /// What is wrong.
        source: DataError,
    },
}

/// Why the data of one entry, or one file of a directory, cannot be what was dumped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// The decompressor refuses it.
    #[error("it cannot be decompressed as {compression}: {reason}")]
    Codec {
        /// As what.
        compression: Compression,
        /// What the decompressor says.
        reason: String,
    },
    /// The compressed stream has no end.
    #[error("its {0} stream is cut off")]
    CutOff(Compression),
    /// Something follows the compressed stream.
    #[error("something follows the end of its {0} stream")]
    Trailing(Compression),
    /// The rows of a table are not followed by `\.`.
    #[error("its rows do not end with the end-of-data line")]
    NoEndOfData,
}

/// A text of an archive. It is in the encoding of the dumped database, so it need not be UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Text(pub Vec<u8>);

impl Text {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// For people: what is not UTF-8 is replaced.
    #[must_use]
    pub fn to_lossy(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}
