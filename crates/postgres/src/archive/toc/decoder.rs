//! Reading a table of contents, see [`super`] for its layout.

use super::{ArchiveFormat, ArchiveVersion, Created, Entry, INT_BYTES, MAGIC, Place, Section, Toc, TocError};
use crate::archive::{Compression, Text};
use std::collections::HashSet;

/// No value in PostgreSQL is larger than this (`MaxAllocSize` in `utils/memutils.h`), so no text in an archive is.
const MAX_TEXT_BYTES: usize = 0x3fff_ffff;
/// `K_OFFSET_POS_NOT_SET`, `K_OFFSET_POS_SET`, `K_OFFSET_NO_DATA` in `pg_backup_archiver.h`.
pub(super) const OFFSET_UNKNOWN: u8 = 1;
pub(super) const OFFSET_KNOWN: u8 = 2;
pub(super) const OFFSET_NO_DATA: u8 = 3;
/// So much is buffered at most behind a table of contents that came in one piece with the data.
const MAX_PIECE_BYTES: usize = 64 << 10;

/// Reads a table of contents as its bytes come, entry by entry, so that nothing is looked at again for each further piece.
#[derive(Debug)]
pub struct TocDecoder {
    format: ArchiveFormat,
    /// What came and is not yet understood, from `at` on.
    buffer: Vec<u8>,
    at: usize,
    /// Below this length of the buffer there is no use in trying.
    wanted: usize,
    header: Option<Header>,
    entries: Vec<Entry>,
    ids: HashSet<i32>,
    /// An entry that is not complete.
    pending: Option<Entry>,
    dependencies_known: bool,
}

#[derive(Debug)]
struct Header {
    toc: Toc,
    offset_bytes: usize,
    count: usize,
}

/// Why a step was not made.
enum Halt {
    /// The buffer must have this length first.
    NeedMore(usize),
    /// The field of this name is wrong.
    Bad(&'static str),
    Error(TocError),
}

impl TocDecoder {
    /// Begins at the first byte.
    #[must_use]
    pub fn new(format: ArchiveFormat) -> Self {
        Self {
            format,
            buffer: Vec::new(),
            at: 0,
            wanted: 0,
            header: None,
            entries: Vec::new(),
            ids: HashSet::new(),
            pending: None,
            dependencies_known: false,
        }
    }

    /// Takes the next bytes. `None` asks for more; otherwise the table of contents is complete, and so many of *these* bytes
    /// belonged to it.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<(Toc, usize)>, TocError> {
        let mut before = 0;
        for piece in bytes.chunks(MAX_PIECE_BYTES) {
            if let Some((toc, used)) = self.push_piece(piece)? {
                return Ok(Some((toc, before + used)));
            }
            before += piece.len();
        }
        Ok(None)
    }

    fn push_piece(&mut self, bytes: &[u8]) -> Result<Option<(Toc, usize)>, TocError> {
        // What was used up goes before the buffer would grow for it.
        if self.at > 0 && self.buffer.len() + bytes.len() > self.buffer.capacity() {
            self.buffer.drain(..self.at);
            self.wanted -= self.at;
            self.at = 0;
        }
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() >= self.wanted {
            match self.step() {
                Ok(Some(toc)) => {
                    let behind = self.buffer.len() - self.at;
                    return Ok(Some((toc, bytes.len().saturating_sub(behind))));
                }
                Ok(None) => self.wanted = self.at,
                Err(Halt::NeedMore(length)) => self.wanted = length,
                Err(Halt::Error(error)) => return Err(error),
                Err(Halt::Bad(field)) if self.header.is_none() => return Err(TocError::Header(field)),
                Err(Halt::Bad(field)) => return Err(TocError::Entry { entry: self.entries.len() + 1, field }),
            }
        }
        Ok(None)
    }

    /// One step that is made whole or not at all.
    fn step(&mut self) -> Result<Option<Toc>, Halt> {
        let mut reader = Reader { bytes: &self.buffer, at: self.at };
        let Some(header) = &mut self.header else {
            self.header = Some(reader.header(self.format)?);
            self.at = reader.at;
            return Ok(None);
        };
        match &mut self.pending {
            None if self.entries.len() == header.count => {
                let entries = std::mem::take(&mut self.entries);
                return Ok(Some(Toc { entries, ..header.toc.clone() }));
            }
            None => {
                let entry = reader.fields(header.toc.version)?;
                if !self.ids.insert(entry.dump_id) {
                    return Err(Halt::Bad("dump id: it was given before"));
                }
                (self.pending, self.dependencies_known) = (Some(entry), false);
            }
            Some(entry) if !self.dependencies_known => match reader.text()? {
                Some(text) => entry.dependencies.push(number(&text, "dependency")?),
                None => self.dependencies_known = true,
            },
            Some(entry) => {
                entry.place = reader.place(header.toc.format, header.offset_bytes)?;
                self.entries.extend(self.pending.take());
            }
        }
        self.at = reader.at;
        Ok(None)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Halt> {
        let end = self.at + count;
        let taken = self.bytes.get(self.at..end).ok_or(Halt::NeedMore(end))?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Halt> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn int(&mut self) -> Result<i32, Halt> {
        int(self.array()?).ok_or(Halt::Bad("number"))
    }

    fn text(&mut self) -> Result<Option<Text>, Halt> {
        match usize::try_from(self.int()?) {
            Err(_) => Ok(None),
            Ok(length) if length > MAX_TEXT_BYTES => Err(Halt::Bad("length of a text")),
            Ok(length) => Ok(Some(Text(self.take(length)?.to_vec()))),
        }
    }

    fn required(&mut self, field: &'static str) -> Result<Text, Halt> {
        self.text()?.ok_or(Halt::Bad(field))
    }

    fn header(&mut self, format: ArchiveFormat) -> Result<Header, Halt> {
        let error = |error| Err(Halt::Error(error));
        // Said before more is asked for: something else may be shorter than any header.
        let start = &self.bytes[..self.bytes.len().min(MAGIC.len())];
        if !MAGIC.starts_with(start) {
            return error(TocError::Magic);
        }
        self.take(MAGIC.len())?;
        let [major, minor, revision] = self.array()?;
        if major != 1 || !(ArchiveVersion::OLDEST_MINOR..=ArchiveVersion::NEWEST_MINOR).contains(&minor) {
            return error(TocError::Version { major, minor });
        }
        let version = ArchiveVersion { minor, revision };
        let [int, offset, found] = self.array()?;
        if int != INT_BYTES || !matches!(offset, 4 | 8) {
            return error(TocError::Sizes { int, offset });
        }
        if !format.is_written_as(found) {
            return error(TocError::Format { expected: format, found });
        }
        let (compression, level) = if version.names_compression() {
            let [algorithm] = self.array()?;
            (Compression::of_algorithm(algorithm).ok_or(Halt::Bad("compression"))?, 0)
        } else {
            let level = self.int()?;
            (if level == 0 { Compression::None } else { Compression::Gzip }, level)
        };
        let created = Created {
            second: self.int()?,
            minute: self.int()?,
            hour: self.int()?,
            day: self.int()?,
            month: self.int()?,
            year: self.int()?,
            daylight_saving: self.int()?,
        };
        let mut text = || self.text().map(Option::unwrap_or_default);
        let (database, server_version, dump_version) = (text()?, text()?, text()?);
        let entries = Vec::new();
        let toc = Toc { version, format, compression, level, created, database, server_version, dump_version, entries };
        let count = usize::try_from(self.int()?).map_err(|_| Halt::Bad("number of entries"))?;
        Ok(Header { toc, offset_bytes: offset.into(), count })
    }

    fn fields(&mut self, version: ArchiveVersion) -> Result<Entry, Halt> {
        let dump_id = self.int()?;
        if dump_id <= 0 {
            return Err(Halt::Bad("dump id"));
        }
        Ok(Entry {
            dump_id,
            has_dumper: self.int()? != 0,
            catalog_oid: number(&self.required("catalogue")?, "catalogue")?,
            object_oid: number(&self.required("OID")?, "OID")?,
            tag: self.required("name")?,
            desc: self.required("kind")?,
            section: Section::from_number(self.int()?).ok_or(Halt::Bad("section"))?,
            definition: self.text()?,
            drop: self.text()?,
            copy: self.text()?,
            namespace: self.text()?,
            tablespace: self.text()?,
            access_method: if version.has_access_method() { self.text()? } else { None },
            relkind: if version.has_relkind() { self.int()? } else { 0 },
            owner: self.text()?,
            with_oids: self.required("mark for OIDs")? == "true",
            dependencies: Vec::new(),
            place: Place::None,
        })
    }

    fn place(&mut self, format: ArchiveFormat, offset_bytes: usize) -> Result<Place, Halt> {
        if format != ArchiveFormat::Custom {
            let name = self.text()?.unwrap_or_default();
            return if name.0.is_empty() { Ok(Place::None) } else { safe_name(name).map(Place::File) };
        }
        let [state] = self.array()?;
        let mut offset = [0; 8];
        offset[..offset_bytes].copy_from_slice(self.take(offset_bytes)?);
        match state {
            OFFSET_UNKNOWN => Ok(Place::Offset(None)),
            OFFSET_KNOWN => Ok(Place::Offset(Some(u64::from_le_bytes(offset)))),
            OFFSET_NO_DATA => Ok(Place::None),
            _ => Err(Halt::Bad("place of its data")),
        }
    }
}

/// Names of files come from the archive and are joined to a directory, so they are not paths.
fn safe_name(name: Text) -> Result<String, Halt> {
    let name = String::from_utf8(name.0).ok().filter(|name| is_file_name(name));
    name.ok_or(Halt::Bad("name of a file"))
}

/// A name as `pg_dump` gives files: letters, digits, `_`, `-`, and dots inside.
pub(in crate::archive) fn is_file_name(name: &str) -> bool {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=255).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(usual)
}

fn number<T: std::str::FromStr>(text: &Text, field: &'static str) -> Result<T, Halt> {
    let digits = std::str::from_utf8(&text.0).ok().filter(|text| !text.starts_with('+'));
    digits.and_then(|text| text.parse().ok()).ok_or(Halt::Bad(field))
}

/// An int as `WriteInt` writes it.
pub(in crate::archive) fn int(bytes: [u8; 5]) -> Option<i32> {
    let [sign, magnitude @ ..] = bytes;
    let magnitude = i64::from(u32::from_le_bytes(magnitude));
    match sign {
        0 => i32::try_from(magnitude).ok(),
        1 => i32::try_from(-magnitude).ok(),
        _ => None,
    }
}
