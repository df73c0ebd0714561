//! A dump in tar format, decoded while it streams by: every member that its table of contents promises must come, and be whole.

use std::collections::{BTreeSet, HashMap};

use asof_postgres::archive::Compression;
use asof_postgres::archive::directory::{DataFileDecoder, MemberKind, members, parse_large_objects};
use asof_postgres::archive::tar::{TOC_MEMBER, TarDecoder, TarPiece};
use asof_postgres::archive::toc::{ArchiveFormat, Toc};

use super::outcome::Contents;
use super::record::TableRecord;

/// Longer lists are not read into memory.
const LIST_LEN: usize = 64 << 20;

/// A tar archive that is being read.
pub(super) struct TarReader {
    /// Taken while a piece is decoded.
    decoder: Option<TarDecoder>,
    members: Members,
}

#[derive(Default)]
struct Members {
    toc: Option<Toc>,
    /// What the table of contents promises and has not come yet, by name.
    promised: HashMap<String, (MemberKind, i32)>,
    /// Large objects that a list promises, and those that came.
    objects_promised: BTreeSet<String>,
    objects_found: BTreeSet<String>,
    current: Current,
    contents: Contents,
}

#[derive(Default)]
enum Current {
    /// Read for itself: the table of contents or a list.
    Kept { bytes: Vec<u8>, is_toc: bool },
    /// Rows.
    Decoded { decoder: Box<DataFileDecoder>, dump_id: i32 },
    /// A large object, or what `pg_restore` has no use for.
    #[default]
    Passed,
}

impl TarReader {
    pub(super) fn new() -> Self {
        Self { decoder: Some(TarDecoder::new()), members: Members::default() }
    }

    /// Takes the next bytes; the error is what is wrong and where.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut decoder = self.decoder.take().expect("one piece is read at a time");
        let mut wrong = None;
        let result = decoder.push(bytes, &mut |piece| {
            if wrong.is_none() {
                wrong = self.members.take(piece).err();
            }
        });
        self.decoder = Some(decoder);
        result.map_err(|error| error.to_string())?;
        wrong.map_or(Ok(()), Err)
    }

    /// The table of contents, once it has come.
    pub(super) fn toc(&self) -> Option<&Toc> {
        self.members.toc.as_ref()
    }

    /// The table of contents, and what was found.
    pub(super) fn finish(self) -> Result<(Toc, Contents), String> {
        self.decoder.expect("one piece is read at a time").finish().map_err(|error| error.to_string())?;
        let Members { toc, promised, objects_promised, objects_found, mut contents, .. } = self.members;
        let toc = toc.ok_or_else(|| format!("it has no {TOC_MEMBER}"))?;
        if let Some(name) = promised.keys().min().or(objects_promised.difference(&objects_found).next()) {
            return Err(format!("{name} is missing, although the table of contents promises it"));
        }
        contents.large_objects = objects_promised.len() as u64;
        Ok((toc, contents))
    }
}

impl Members {
    fn take(&mut self, piece: TarPiece<'_>) -> Result<(), String> {
        match piece {
            TarPiece::Start(member) => self.begin(&member.name),
            TarPiece::Data(data) => self.data(data),
            TarPiece::End(member) => self.end(&member.name).map_err(|error| format!("{}: {error}", member.name)),
        }
    }

    fn begin(&mut self, name: &str) -> Result<(), String> {
        self.current = match self.promised.get(name) {
            _ if name == TOC_MEMBER => Current::Kept { bytes: Vec::new(), is_toc: true },
            Some((MemberKind::LargeObjectList, _)) => Current::Kept { bytes: Vec::new(), is_toc: false },
            Some((kind, dump_id)) => {
                let decoder = DataFileDecoder::new(*kind, Compression::None).map_err(|error| error.to_string())?;
                Current::Decoded { decoder: Box::new(decoder), dump_id: *dump_id }
            }
            None => {
                self.objects_found.insert(name.to_owned());
                Current::Passed
            }
        };
        Ok(())
    }

    fn data(&mut self, data: &[u8]) -> Result<(), String> {
        match &mut self.current {
            Current::Kept { bytes, is_toc: false } if bytes.len() + data.len() > LIST_LEN => {
                Err("a list of large objects is too long".to_owned())
            }
            Current::Kept { bytes, .. } => {
                bytes.extend_from_slice(data);
                Ok(())
            }
            Current::Decoded { decoder, .. } => decoder.push(data, &mut |_| {}).map_err(|error| error.to_string()),
            Current::Passed => Ok(()),
        }
    }

    fn end(&mut self, name: &str) -> Result<(), String> {
        match std::mem::take(&mut self.current) {
            Current::Kept { bytes, is_toc: true } => {
                let toc = Toc::decode(ArchiveFormat::Tar, &bytes).map_err(|error| error.to_string())?;
                let promised = members(&toc).into_iter().map(|member| (member.name, (member.kind, member.dump_id)));
                self.promised = promised.collect();
                self.toc = Some(toc);
            }
            Current::Kept { bytes, is_toc: false } => {
                let objects = parse_large_objects(&bytes).map_err(|error| error.to_string())?;
                self.objects_promised.extend(objects.into_iter().map(|object| object.name));
            }
            Current::Decoded { decoder, dump_id } => {
                let found = decoder.finish().map_err(|error| error.to_string())?;
                let toc = self.toc.as_ref().expect("members are promised by it");
                let entry = toc.entry(dump_id).expect("a member belongs to an entry");
                let record = TableRecord::named(entry.schema(), entry.tag.as_bytes(), found.rows, found.plain_bytes);
                self.contents.tables.push((entry.object_oid, record));
            }
            Current::Passed => {}
        }
        self.promised.remove(name);
        Ok(())
    }
}
