//! A custom-format archive as one stream of bytes.
//!
//! Behind the table of contents there is one block per entry with data (`_StartData`, `_StartLOs` in `pg_backup_custom.c`, 9.0 to 18):
//! a byte that says what it is (1 rows, 3 large objects) and the dump id as an int. Data follows in chunks, each an int with
//! its length and so many bytes; a length of 0 ends it. In a block of large objects, each has its OID as an int before its data; an OID of 0
//! ends the block. Compressed data is one stream per table or large object, whatever the chunks are. An archive that is not compressed has
//! a chunk per row, so the way from chunk to chunk is what has to be quick.

use super::codec::{Decompressor, Wrapping};
use super::rows::RowCounter;
use super::toc::{ArchiveFormat, Entry, Place, Toc, TocDecoder, int};
use super::{ArchiveError, Compression, DataError};
use std::collections::HashMap;
use std::ops::Range;

/// `BLK_DATA` and `BLK_BLOBS` in `pg_backup_archiver.h`.
const BLOCK_ROWS: u8 = 1;
const BLOCK_LARGE_OBJECTS: u8 = 3;
const INT_BYTES: usize = 5;
const BLOCK_HEADER_BYTES: usize = 1 + INT_BYTES;

/// How deep to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Blocks and chunks only: compressed data is neither decompressed nor handed on, and its rows are not counted. Data that is not
    /// compressed is treated as in `Content`.
    Structure,
    /// Also what is in them.
    Content,
}

/// What is met on the way through an archive, in this order.
#[derive(Debug)]
pub enum Piece<'a> {
    /// The table of contents is complete. Once, and first.
    Toc {
        /// The table of contents.
        toc: &'a Toc,
        /// The position behind it.
        end: u64,
    },
    /// The data of an entry begins.
    DataStart {
        /// Which entry.
        dump_id: i32,
        /// The position of its block, whose header comes first.
        at: u64,
    },
    /// A large object begins; the one before is complete.
    LargeObjectStart {
        /// Its OID.
        oid: u32,
    },
    /// Some bytes of the rows or of the large object, decompressed. Never empty.
    Data(&'a [u8]),
    /// The data of the entry is complete.
    DataEnd(&'a Block),
}

/// The data of one entry, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Which entry.
    pub dump_id: i32,
    /// The bytes of the archive that it takes, with its headers.
    pub range: Range<u64>,
    /// Rows of a table; not known if they are INSERTs or were not decompressed.
    pub rows: Option<u64>,
    /// Bytes of data when decompressed; not known if they were not.
    pub plain_bytes: Option<u64>,
    /// How many large objects it has.
    pub large_objects: u64,
}

/// What an archive was that came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The table of contents.
    pub toc: Toc,
    /// One block per entry with data, in the order in which they are in the archive.
    pub blocks: Vec<Block>,
}

/// Reads a custom-format archive in the pieces in which it comes.
#[derive(Debug)]
pub struct ArchiveDecoder {
    depth: Depth,
    position: u64,
    toc: TocDecoder,
    /// Behind the table of contents.
    body: Option<Body>,
    state: State,
    header: Header,
    failed: Option<ArchiveError>,
}

/// What comes next, behind the table of contents.
#[derive(Clone, Copy, Debug)]
enum State {
    BlockHeader,
    LargeObjectHeader,
    ChunkHeader,
    Chunk { left: usize },
}

/// A header, as far as it came.
#[derive(Debug, Default)]
struct Header {
    bytes: [u8; BLOCK_HEADER_BYTES],
    have: usize,
}

/// What there is once the table of contents is known.
#[derive(Debug)]
struct Body {
    toc: Toc,
    /// Entries with data, by dump id, and whether their block came.
    expected: HashMap<i32, Expected>,
    blocks: Vec<Block>,
    decompressor: Option<Decompressor>,
    current: Current,
}

#[derive(Clone, Copy, Debug)]
struct Expected {
    index: usize,
    seen: bool,
}

/// The block that is being read.
#[derive(Debug, Default)]
struct Current {
    /// Of the entry.
    index: usize,
    start: u64,
    is_large_objects: bool,
    plain_bytes: u64,
    large_objects: u64,
    rows: Option<RowCounter>,
}

impl ArchiveDecoder {
    /// Begins at the first byte of an archive.
    #[must_use]
    pub fn new(depth: Depth) -> Self {
        Self {
            depth,
            position: 0,
            toc: TocDecoder::new(ArchiveFormat::Custom),
            body: None,
            state: State::BlockHeader,
            header: Header::default(),
            failed: None,
        }
    }

    /// The table of contents, once it is complete.
    #[must_use]
    pub fn toc(&self) -> Option<&Toc> {
        self.body.as_ref().map(|body| &body.toc)
    }

    /// The blocks that are complete.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        self.body.as_ref().map_or(&[], |body| &body.blocks)
    }

    /// How many bytes were taken.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Takes the next bytes. After an error every further call returns that error.
    pub fn push(&mut self, bytes: &[u8], sink: &mut impl FnMut(Piece<'_>)) -> Result<(), ArchiveError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.advance(bytes, sink).inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Says whether the archive ended where it may, with everything that it promised.
    pub fn finish(self) -> Result<Summary, ArchiveError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let at = self.position;
        let Some(body) = self.body else { return Err(ArchiveError::EndsInToc(at)) };
        match self.state {
            State::BlockHeader if self.header.have == 0 => {}
            State::BlockHeader => return Err(ArchiveError::EndsInHeader(at)),
            _ => return Err(ArchiveError::EndsInBlock { entry: body.entry().describe(), at }),
        }
        let missing = body.expected.values().filter(|expected| !expected.seen).map(|expected| expected.index).min();
        match missing {
            Some(index) => Err(ArchiveError::NoBlock { entry: body.toc.entries[index].describe(), at }),
            None => Ok(Summary { toc: body.toc, blocks: body.blocks }),
        }
    }

    fn advance(&mut self, mut bytes: &[u8], sink: &mut impl FnMut(Piece<'_>)) -> Result<(), ArchiveError> {
        while !bytes.is_empty() {
            let Some(body) = &mut self.body else {
                bytes = self.take_toc(bytes, sink)?;
                continue;
            };
            self.state = match self.state {
                State::Chunk { left } => {
                    let (data, rest) = bytes.split_at(left.min(bytes.len()));
                    bytes = rest;
                    body.data(data, sink)?;
                    self.position += data.len() as u64;
                    match left - data.len() {
                        0 => State::ChunkHeader,
                        left => State::Chunk { left },
                    }
                }
                State::ChunkHeader => {
                    let Some([length @ .., _]) = self.header.take::<INT_BYTES>(&mut bytes) else { break };
                    self.position += INT_BYTES as u64;
                    body.chunk(length, self.position, sink)?
                }
                State::LargeObjectHeader => {
                    let Some([oid @ .., _]) = self.header.take::<INT_BYTES>(&mut bytes) else { break };
                    self.position += INT_BYTES as u64;
                    body.large_object(oid, self.position, sink)?
                }
                State::BlockHeader => {
                    let Some(header) = self.header.take::<BLOCK_HEADER_BYTES>(&mut bytes) else { break };
                    self.position += BLOCK_HEADER_BYTES as u64;
                    body.begin(header, self.position - BLOCK_HEADER_BYTES as u64, sink)?
                }
            };
        }
        Ok(())
    }

    /// Takes what belongs to the table of contents, and returns the rest.
    fn take_toc<'a>(&mut self, bytes: &'a [u8], sink: &mut impl FnMut(Piece<'_>)) -> Result<&'a [u8], ArchiveError> {
        let Some((toc, used)) = self.toc.push(bytes)? else {
            self.position += bytes.len() as u64;
            return Ok(&[]);
        };
        self.position += used as u64;
        let body = self.body.insert(Body::new(toc, self.depth)?);
        sink(Piece::Toc { toc: &body.toc, end: self.position });
        Ok(bytes.get(used..).unwrap_or_default())
    }
}

impl Header {
    /// Takes a header of so many bytes from the front, or what there is of it. What stands behind them in the answer means nothing.
    #[inline]
    fn take<const WANTED: usize>(&mut self, bytes: &mut &[u8]) -> Option<[u8; BLOCK_HEADER_BYTES]> {
        if self.have == 0
            && let Some(chunk) = bytes.first_chunk()
        {
            *bytes = &bytes[WANTED..];
            return Some(*chunk);
        }
        let taken = (WANTED - self.have).min(bytes.len());
        self.bytes[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
        self.have += taken;
        *bytes = &bytes[taken..];
        if self.have < WANTED {
            return None;
        }
        self.have = 0;
        Some(self.bytes)
    }
}

impl Body {
    fn new(toc: Toc, depth: Depth) -> Result<Self, ArchiveError> {
        let entries = toc.entries.iter().enumerate().filter(|(_, entry)| entry.has_dumper);
        let expected = entries.map(|(index, entry)| (entry.dump_id, Expected { index, seen: false })).collect();
        let opaque = depth == Depth::Structure && toc.compression != Compression::None;
        let decompressor = if opaque { None } else { Some(Decompressor::new(toc.compression, Wrapping::Archive)) };
        let named = |source| ArchiveError::Data { entry: "the archive".to_owned(), source };
        let decompressor = decompressor.transpose().map_err(named)?;
        Ok(Self { toc, expected, blocks: Vec::new(), decompressor, current: Current::default() })
    }

    /// The entry whose block is being read.
    fn entry(&self) -> &Entry {
        &self.toc.entries[self.current.index]
    }

    fn begin(
        &mut self,
        [kind, dump_id @ ..]: [u8; BLOCK_HEADER_BYTES],
        at: u64,
        sink: &mut impl FnMut(Piece<'_>),
    ) -> Result<State, ArchiveError> {
        let bad = |what: String| ArchiveError::BadBlock { at, what };
        if kind != BLOCK_ROWS && kind != BLOCK_LARGE_OBJECTS {
            return Err(bad(format!("the byte {kind:#04x}")));
        }
        let dump_id = int(dump_id).ok_or_else(|| bad("an impossible number".to_owned()))?;
        let expected = self.expected.get_mut(&dump_id);
        let expected = expected.ok_or_else(|| bad(format!("data of entry {dump_id}, which has none")))?;
        let entry = &self.toc.entries[expected.index];
        if std::mem::replace(&mut expected.seen, true) {
            return Err(bad(format!("again the data of {}", entry.describe())));
        }
        if entry.is_large_objects() != (kind == BLOCK_LARGE_OBJECTS) {
            return Err(bad(format!("data of another kind than {} has", entry.describe())));
        }
        if let Place::Offset(Some(said)) = entry.place
            && said != at
        {
            return Err(ArchiveError::Misplaced { entry: entry.describe(), at, said });
        }
        let is_large_objects = entry.is_large_objects();
        let counts = entry.has_copy_rows() && self.decompressor.is_some();
        self.current = Current {
            index: expected.index,
            start: at,
            is_large_objects,
            rows: counts.then(RowCounter::default),
            ..Current::default()
        };
        sink(Piece::DataStart { dump_id, at });
        Ok(if is_large_objects { State::LargeObjectHeader } else { State::ChunkHeader })
    }

    /// The length of a chunk, or the end of the data.
    #[inline]
    fn chunk(
        &mut self,
        length: [u8; INT_BYTES],
        position: u64,
        sink: &mut impl FnMut(Piece<'_>),
    ) -> Result<State, ArchiveError> {
        match int(length).and_then(|length| usize::try_from(length).ok()) {
            None => Err(self.bad_number(position)),
            Some(0) => self.end_of_data(position, sink),
            Some(left) => Ok(State::Chunk { left }),
        }
    }

    /// The OID of a large object, or the end of the block.
    fn large_object(
        &mut self,
        oid: [u8; INT_BYTES],
        position: u64,
        sink: &mut impl FnMut(Piece<'_>),
    ) -> Result<State, ArchiveError> {
        // `WriteInt` takes the OID as a signed int.
        match int(oid).map(i32::cast_unsigned) {
            None => Err(self.bad_number(position)),
            Some(0) => self.end_of_block(position, sink),
            Some(oid) => {
                self.current.large_objects += 1;
                sink(Piece::LargeObjectStart { oid });
                Ok(State::ChunkHeader)
            }
        }
    }

    fn bad_number(&self, position: u64) -> ArchiveError {
        ArchiveError::BadNumber { entry: self.entry().describe(), at: position - INT_BYTES as u64 }
    }

    #[inline]
    fn data(&mut self, data: &[u8], sink: &mut impl FnMut(Piece<'_>)) -> Result<(), ArchiveError> {
        let Some(decompressor) = &mut self.decompressor else { return Ok(()) };
        let Current { rows, plain_bytes, .. } = &mut self.current;
        let outcome = decompressor.push(data, &mut |plain| {
            if !plain.is_empty() {
                *plain_bytes += plain.len() as u64;
                if let Some(rows) = rows {
                    rows.push(plain);
                }
                sink(Piece::Data(plain));
            }
        });
        outcome.map_err(|source| self.invalid(source))
    }

    fn invalid(&self, source: DataError) -> ArchiveError {
        ArchiveError::Data { entry: self.entry().describe(), source }
    }

    /// The end of a table's rows, or of one large object.
    fn end_of_data(&mut self, at: u64, sink: &mut impl FnMut(Piece<'_>)) -> Result<State, ArchiveError> {
        if let Some(decompressor) = &mut self.decompressor {
            decompressor.finish().map_err(|source| self.invalid(source))?;
        }
        if self.current.is_large_objects { Ok(State::LargeObjectHeader) } else { self.end_of_block(at, sink) }
    }

    fn end_of_block(&mut self, at: u64, sink: &mut impl FnMut(Piece<'_>)) -> Result<State, ArchiveError> {
        let rows = self.current.rows.take().map(|rows| rows.rows().ok_or(DataError::NoEndOfData));
        let rows = rows.transpose().map_err(|source| self.invalid(source))?;
        let block = Block {
            dump_id: self.entry().dump_id,
            range: self.current.start..at,
            rows,
            plain_bytes: self.decompressor.as_ref().map(|_| self.current.plain_bytes),
            large_objects: self.current.large_objects,
        };
        sink(Piece::DataEnd(&block));
        self.blocks.push(block);
        Ok(State::BlockHeader)
    }
}
