//! A whole dump, read and decoded to its end: its table of contents says only what it should hold.
//!
//! `pg_restore --list` and its like read the table of contents and nothing else, so they succeed on a dump whose rows are cut off or
//! damaged. Here every byte is read. What that proves depends on where the dump lies: in the repository every byte is
//! authenticated; a file is held against the digests that were recorded beside it; compressed data has checksums of its own; and
//! data that is not compressed and has no record proves no more than that it has the right form.

use asof_postgres::archive::Compression;
use asof_postgres::archive::plain::{Ending, PlainScanner, Reach, Scope};
use asof_postgres::archive::sniff::Kind;
use asof_postgres::archive::stream::{ArchiveDecoder, Depth, Piece};
use asof_postgres::archive::toc::Toc;
use asof_world::{World, planted};
use aws_lc_rs::digest::{Context as Sha, SHA256};
use bytes::Bytes;
use serde::Serialize;

use super::mentions::{MentionScanner, Mentions};
use super::origin::{Origin, Place};
use super::outcome::Contents;
use super::record::TableRecord;
use super::tar::TarReader;
use super::to_directory;
use super::watched::unreadable;
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};

/// What vouches for the bytes of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// Every byte is sealed in the repository.
    Authenticated,
    /// Every byte has the SHA-256 that was recorded beside the dump.
    Recorded,
    /// Compressed data carries checksums; the table of contents and what is not compressed do not.
    Checksums,
    /// Nothing: a byte of a row may be another, and nobody would know.
    FormOnly,
}

/// What a dump turned out to be.
#[derive(Clone, Debug)]
pub(super) struct Examined {
    pub(super) proof: Proof,
    /// Bytes of the dump, as `pg_restore` or `psql` reads it.
    pub(super) bytes: u64,
    pub(super) tables: Vec<TableRecord>,
    pub(super) large_objects: u64,
    /// The table of contents; a script has none.
    pub(super) toc: Option<Toc>,
    /// What a script says of itself.
    pub(super) script: Option<ScriptFacts>,
    pub(super) mentions: Mentions,
}

/// What a script says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScriptFacts {
    pub(super) server_version: Option<String>,
    /// Not of one database, but of a whole instance.
    pub(super) is_cluster: bool,
    /// It has the mark by which its end is known.
    pub(super) has_end_mark: bool,
    /// What reaches beyond one database.
    pub(super) beyond: Option<Reach>,
}

/// Reads and decodes everything.
///
/// # Errors
/// `Damaged`, with what is wrong and where.
pub(super) async fn examine(origin: &Origin, observer: &dyn Observer) -> Result<Examined> {
    observer.event(Event::Phase("reading the dump"));
    match &origin.place {
        Place::Directory(path) => {
            let (files, directory) = (origin.world.files.clone(), path.clone());
            let read = origin.world.blocking(move || to_directory::read_back(files.as_ref(), &directory)).await?;
            let recorded = prove_directory(origin, &read.digests)?;
            let toc = origin.toc.clone();
            let compressed = toc.as_ref().is_some_and(|toc| toc.compression == Compression::Gzip);
            let tables = read.contents.tables.into_iter().map(|(_, table)| table).collect();
            Ok(Examined {
                proof: proof_of_file(recorded, compressed),
                bytes: read.bytes,
                tables,
                large_objects: read.contents.large_objects,
                mentions: toc.as_ref().map(Mentions::of_archive).unwrap_or_default(),
                toc,
                script: None,
            })
        }
        Place::Stored(_) | Place::File { .. } => stream(origin, observer).await,
    }
}

/// Whether every file has the digest that was recorded, and none is missing.
fn prove_directory(origin: &Origin, found: &[(String, String)]) -> Result<bool> {
    for (name, digest) in found {
        origin.prove(name, digest)?;
    }
    let missing = origin.sha256.keys().find(|name| !found.iter().any(|(known, _)| known == *name));
    match missing {
        Some(name) => {
            let what = format!("{} is not what was dumped: its {name} was recorded and is not there", origin.name);
            Err(Error::damaged(what, "take another copy of it, or dump again"))
        }
        None => Ok(!origin.sha256.is_empty() && found.iter().all(|(name, _)| origin.sha256.contains_key(name))),
    }
}

/// Only zlib adds checksums by itself: `pg_dump` asks neither LZ4 nor Zstandard for theirs (compress_lz4.c, compress_zstd.c, 16 to
/// 18). Of the programs `gzip`, `zstd` and `lz4` all do.
fn proof_of_file(recorded: bool, compressed: bool) -> Proof {
    match (recorded, compressed) {
        (true, _) => Proof::Recorded,
        (false, true) => Proof::Checksums,
        (false, false) => Proof::FormOnly,
    }
}

async fn stream(origin: &Origin, observer: &dyn Observer) -> Result<Examined> {
    if let Some(toc) = origin.toc.clone().filter(|_| planted("l3")) {
        let (tables, mentions) = (origin.tables.clone(), Mentions::of_archive(&toc));
        let (toc, proof) = (Some(toc), Proof::FormOnly);
        return Ok(Examined { proof, bytes: 0, tables, large_objects: 0, toc, script: None, mentions });
    }
    let (mut stream, mut reading) = (origin.stream().await?, Reading::new(origin));
    while let Some(piece) = stream.next().await? {
        let len = piece.len() as u64;
        reading = reading.push(&origin.world, piece).await?;
        observer.event(Event::Advance(len));
    }
    reading.finish(origin)
}

/// A stream that is being decoded.
struct Reading {
    look: Look,
    /// Digests of the table of contents, and of everything behind it.
    head: Sha,
    rest: Sha,
    bytes: u64,
    name: String,
}

enum Look {
    Archive { decoder: Box<ArchiveDecoder>, toc_end: Option<u64> },
    Tar(Box<TarReader>),
    Script { scanner: Box<PlainScanner>, mentions: MentionScanner },
}

impl Reading {
    fn new(origin: &Origin) -> Self {
        let is_tar = matches!(&origin.place, Place::File { recipe, .. } if recipe.inner == Kind::Tar);
        let look = match (origin.is_script(), is_tar) {
            (true, _) => Look::Script { scanner: Box::default(), mentions: MentionScanner::default() },
            (false, true) => Look::Tar(Box::new(TarReader::new())),
            (false, false) => Look::Archive { decoder: Box::new(ArchiveDecoder::new(Depth::Content)), toc_end: None },
        };
        let (head, rest) = (Sha::new(&SHA256), Sha::new(&SHA256));
        Self { look, head, rest, bytes: 0, name: origin.name.clone() }
    }

    async fn push(mut self, world: &World, piece: Bytes) -> Result<Self> {
        let work = move || {
            let result = self.take(&piece);
            result.map(|()| self)
        };
        world.compute(work).await
    }

    fn take(&mut self, piece: &[u8]) -> Result<()> {
        let in_head = match &mut self.look {
            Look::Archive { decoder, toc_end } => {
                let pushed = decoder.push(piece, &mut |found| {
                    if let Piece::Toc { end, .. } = found {
                        *toc_end = Some(end);
                    }
                });
                pushed.map_err(|error| of(&self.name, unreadable(error)))?;
                toc_end.map_or(u64::MAX, |end| end.saturating_sub(self.bytes))
            }
            Look::Tar(reader) => {
                reader.push(piece).map_err(|why| damaged(&self.name, &why))?;
                0
            }
            Look::Script { scanner, mentions } => {
                scanner.push(piece);
                mentions.push(piece);
                0
            }
        };
        let in_head = usize::try_from(in_head).unwrap_or(usize::MAX).min(piece.len());
        self.head.update(&piece[..in_head]);
        self.rest.update(&piece[in_head..]);
        self.bytes += piece.len() as u64;
        Ok(())
    }

    fn finish(self, origin: &Origin) -> Result<Examined> {
        let (head, rest) = (hex::encode(self.head.finish()), hex::encode(self.rest.finish()));
        let name = &self.name;
        let (contents, toc, script, mentions) = match self.look {
            Look::Archive { decoder, .. } => {
                let summary = decoder.finish().map_err(unreadable).map_err(|error| of(name, error))?;
                let mentions = Mentions::of_archive(&summary.toc);
                (Contents::of(std::slice::from_ref(&summary)), Some(summary.toc), None, mentions)
            }
            Look::Tar(reader) => {
                let (toc, contents) = reader.finish().map_err(|why| damaged(name, &why))?;
                let mentions = Mentions::of_archive(&toc);
                (contents, Some(toc), None, mentions)
            }
            Look::Script { scanner, mentions } => {
                let (contents, facts) = script(name, *scanner)?;
                (contents, None, Some(facts), mentions.finish())
            }
        };
        let parts: &[(&str, &str)] = match (&toc, &origin.place) {
            (_, Place::Stored(_)) => &[],
            (Some(_), _) => &[("toc", &head), ("data", &rest)],
            (None, _) => &[("sql", &rest)],
        };
        for (part, digest) in parts {
            origin.prove(part, digest)?;
        }
        let is_recorded = |part: &str| origin.sha256.contains_key(part) || origin.outer_sha256.is_some();
        let recorded = !parts.is_empty() && parts.iter().all(|(part, _)| is_recorded(part));
        let compressed = match &origin.place {
            Place::File { recipe, .. } if recipe.is_compressed() => true,
            _ => toc.as_ref().is_some_and(|toc| toc.compression == Compression::Gzip),
        };
        let proof = match &origin.place {
            Place::Stored(_) => Proof::Authenticated,
            _ => proof_of_file(recorded, compressed),
        };
        let tables = contents.tables.into_iter().map(|(_, table)| table).collect();
        let large_objects = contents.large_objects;
        Ok(Examined { proof, bytes: self.bytes, tables, large_objects, toc, script, mentions })
    }
}

/// Of a script: one of `pg_dump` must have its end; one of somebody else must at least not end in the middle of something.
fn script(name: &str, scanner: PlainScanner) -> Result<(Contents, ScriptFacts)> {
    let summary = scanner.finish();
    let is_whole =
        summary.ending == Ending::Complete || (summary.scope.is_none() && summary.ending == Ending::NoEndMark);
    if !is_whole {
        let ending = match &summary.ending {
            Ending::InsideRows(table) => format!("it ends in the middle of the rows of {}", table.name.to_lossy()),
            Ending::InsideStatement => "it ends in the middle of a statement".to_owned(),
            _ => "what pg_dump writes at the end is missing".to_owned(),
        };
        return Err(damaged(name, &format!("{ending}, after {} bytes", summary.bytes)));
    }
    let contents = Contents::of_rows(&summary.tables);
    let facts = ScriptFacts {
        server_version: summary.server_version,
        is_cluster: summary.scope == Some(Scope::Cluster),
        has_end_mark: summary.ending == Ending::Complete,
        beyond: summary.beyond,
    };
    Ok((contents, facts))
}

fn of(name: &str, error: Error) -> Error {
    match error {
        Error::Damaged { what, hint } => Error::Damaged { what: format!("{name}: {what}"), hint },
        other => other,
    }
}

pub(super) fn damaged(name: &str, why: &str) -> Error {
    Error::damaged(format!("{name} is damaged or cut off: {why}"), "take another copy of it, or dump again")
}
