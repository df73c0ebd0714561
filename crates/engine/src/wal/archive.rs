//! WAL by `archive_command` and `restore_command`: one file at a time, as PostgreSQL hands it over or asks for it.
//!
//! Pushing says yes only when the repository holds the very bytes (hazard C2), and never replaces different ones (C3): a
//! file that is there already is compared. Getting has three answers: here it is, it is proven absent, and an error, which
//! means that nobody can tell (E1). Only whole segments are ever served: a standby that was given the beginning of one would
//! replay it as if it were complete (rule 11).

use std::path::{Path, PathBuf};

use asof_postgres::history::TimelineHistory;
use asof_postgres::lsn::{Lsn, Timeline};
use asof_postgres::names::WalFileName;
use asof_postgres::wal::{Decoded, WalDecoder, WalShape};
use asof_repository::names::{Name, WalPosition};
use asof_repository::wal::{read_history, read_wal};
use asof_world::{WriteFile, WriteMode, planted};

use super::ingest::Ingest;
use super::shape::WalConstants;
use super::stream::store_history;
use crate::error::{Error, Result};
use crate::shelf::Shelf;
use crate::target::history_of;

/// The largest file that PostgreSQL archives besides segments.
const LARGEST_HISTORY: u64 = 4 << 20;

/// How much of a file is read at once.
const PIECE: usize = 1 << 20;

/// What became of a pushed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The repository holds it.
    Stored,
    /// It says nothing that the repository needs: the notes that the server writes about a base backup.
    NotNeeded,
}

/// Stores one file that PostgreSQL archives; `name` is `%f`, `path` is `%p`.
pub async fn push(shelf: &Shelf, constants: &WalConstants, name: &str, path: &Path) -> Result<Pushed> {
    let parsed = parse(constants, name)?;
    match parsed {
        WalFileName::Backup { .. } => Ok(Pushed::NotNeeded),
        WalFileName::History { timeline } => {
            let content = read(shelf, path, LARGEST_HISTORY).await?;
            TimelineHistory::parse(timeline, &content).map_err(|error| invalid(name, &error))?;
            if !planted("c7") {
                store_history(shelf, timeline, &content).await?;
            }
            Ok(Pushed::Stored)
        }
        WalFileName::Segment { timeline, segment } | WalFileName::Partial { timeline, segment } => {
            let size = constants.segment_size;
            let start = size.start(segment).ok_or_else(|| invalid(name, &"no such segment"))?;
            let len = len(shelf, path).await?;
            if len != u64::from(size.bytes()) && !planted("c2") {
                let what = format!("{name} has {len} bytes, a segment has {}", size.bytes());
                return Err(Error::damaged(what, "nothing was stored; PostgreSQL will offer it again"));
            }
            let whole = matches!(parsed, WalFileName::Segment { .. });
            store_segment(shelf, constants, timeline, start, path, whole).await?;
            Ok(Pushed::Stored)
        }
    }
}

async fn store_segment(
    shelf: &Shelf,
    constants: &WalConstants,
    timeline: Timeline,
    start: Lsn,
    path: &Path,
    whole: bool,
) -> Result<()> {
    let shape = constants.shape(history_of(shelf, timeline).await?);
    let mut left = if whole { u64::MAX } else { valid_len(shelf, shape.clone(), start, path).await? };
    let mut ingest = Ingest::new(shelf.clone(), shape, timeline, start)?;
    let (mut offset, mut piece) = (0, Vec::new());
    while left > 0 {
        piece = read_piece(shelf, path, offset, piece).await?;
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        if piece.is_empty() {
            break;
        }
        ingest.take(ingest.received(), &piece).await?;
        offset += piece.len() as u64;
        left -= piece.len() as u64;
    }
    ingest.flush().await?;
    if ingest.durable() < ingest.received() {
        let what = format!("WAL from {} on is being stored by somebody else", ingest.durable());
        return Err(Error::damaged(what, "PostgreSQL will offer it again"));
    }
    Ok(())
}

/// How much of a segment that ended early is WAL: behind the last valid record lies what the file held before.
async fn valid_len(shelf: &Shelf, shape: WalShape, start: Lsn, path: &Path) -> Result<u64> {
    let mut decoder =
        WalDecoder::new(shape, start).map_err(|error| Error::damaged(error.to_string(), "check the file"))?;
    let (mut offset, mut piece) = (0, Vec::new());
    loop {
        piece = read_piece(shelf, path, offset, piece).await?;
        offset += piece.len() as u64;
        decoder.feed(&piece);
        while let Decoded::Record(_) = decoder.next() {}
        if piece.is_empty() || matches!(decoder.next(), Decoded::Stop(_)) {
            return Ok(decoder.valid_end().0.saturating_sub(start.0).min(offset));
        }
    }
}

/// Writes one file that PostgreSQL asks for to `path`; false when it is proven absent.
pub async fn get(shelf: &Shelf, constants: &WalConstants, name: &str, path: &Path) -> Result<bool> {
    let Shelf { store, keyring, signers, lineage, .. } = shelf;
    match parse(constants, name)? {
        WalFileName::Segment { timeline, segment } => {
            let start = constants.segment_size.start(segment).ok_or_else(|| invalid(name, &"no such segment"))?;
            get_segment(shelf, constants, timeline, start, path).await
        }
        WalFileName::History { timeline } => {
            let content = read_history(store.as_ref(), keyring, signers, *lineage, timeline.0).await;
            match found(content)? {
                Some(content) => {
                    let mut file = NewFile::create(shelf, path).await?;
                    file.append(content).await?;
                    file.finish().await.map(|()| true)
                }
                None => Ok(false),
            }
        }
        WalFileName::Partial { .. } | WalFileName::Backup { .. } => Ok(false),
    }
}

async fn get_segment(
    shelf: &Shelf,
    constants: &WalConstants,
    timeline: Timeline,
    start: Lsn,
    path: &Path,
) -> Result<bool> {
    let Shelf { store, keyring, signers, lineage, .. } = shelf;
    let mut file = None;
    let parts = usize::try_from(constants.stored_segment()).expect("at most 16 MiB");
    for offset in (0..u64::from(constants.segment_size.bytes())).step_by(parts) {
        let at = WalPosition { lineage: *lineage, timeline: timeline.0, start: start.0 + offset };
        let Some((_, bytes)) = found(read_wal(store.as_ref(), keyring, signers, Name::WalSegment(at)).await)? else {
            return Ok(false);
        };
        if file.is_none() {
            file = Some(NewFile::create(shelf, path).await?);
        }
        if let Some(file) = &mut file {
            file.append(bytes).await?;
        }
    }
    match file {
        Some(file) => file.finish().await.map(|()| true),
        None => Ok(false),
    }
}

fn found<T>(read: asof_repository::Result<T>) -> Result<Option<T>> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn parse(constants: &WalConstants, name: &str) -> Result<WalFileName> {
    WalFileName::parse(name.as_bytes(), constants.segment_size)
        .map_err(|error| Error::refused(error.to_string(), "use %f for the name and %p for the path"))
}

fn invalid(name: &str, reason: &dyn std::fmt::Display) -> Error {
    Error::damaged(format!("{name}: {reason}"), "look at the server's pg_wal")
}

async fn read(shelf: &Shelf, path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (files, target) = (shelf.world.files.clone(), path.to_owned());
    shelf.world.blocking(move || files.read(&target, limit)).await.map_err(Error::files("read", path))
}

async fn len(shelf: &Shelf, path: &Path) -> Result<u64> {
    let (files, target) = (shelf.world.files.clone(), path.to_owned());
    shelf.world.blocking(move || files.open(&target)?.len()).await.map_err(Error::files("read", path))
}

/// The bytes at `offset`, at most [`PIECE`], in the memory of `bytes`; none at the end.
async fn read_piece(shelf: &Shelf, path: &Path, offset: u64, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    let (files, target) = (shelf.world.files.clone(), path.to_owned());
    let work = move || {
        let (file, mut filled) = (files.open(&target)?, 0);
        bytes.resize(PIECE, 0);
        loop {
            match file.read_at(offset + filled as u64, &mut bytes[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    };
    shelf.world.blocking(work).await.map_err(Error::files("read", path))
}

/// PostgreSQL takes whatever lies at the path once we say yes, so it appears there whole or not at all. It is not synced: after a
/// crash PostgreSQL asks again, and what it keeps it syncs itself (`KeepFileRestoredFromArchive`, since 10 by `durable_rename`).
struct NewFile {
    shelf: Shelf,
    path: PathBuf,
    beside: PathBuf,
    file: Option<Box<dyn WriteFile>>,
    len: u64,
}

impl NewFile {
    async fn create(shelf: &Shelf, path: &Path) -> Result<Self> {
        // Somebody else may write the same file at the same moment.
        let mut beside = path.to_owned().into_os_string();
        beside.push(format!(".{}", shelf.world.id()));
        let (files, target) = (shelf.world.files.clone(), PathBuf::from(beside));
        let beside = target.clone();
        let create = move || files.create(&target, 0o600, WriteMode::Cached);
        let file = shelf.world.blocking(create).await.map_err(Error::files("create", &beside))?;
        Ok(Self { shelf: shelf.clone(), path: path.to_owned(), beside, file: Some(file), len: 0 })
    }

    async fn append(&mut self, bytes: Vec<u8>) -> Result<()> {
        let (mut file, at) = (self.file.take().expect("a failed write is not followed by another"), self.len);
        self.len += bytes.len() as u64;
        let write = move || file.write_at(at, &bytes).map(|()| file);
        let file = self.shelf.world.blocking(write).await.map_err(Error::files("write", &self.beside))?;
        self.file = Some(file);
        Ok(())
    }

    async fn finish(self) -> Result<()> {
        let Self { shelf, path, beside, file, .. } = self;
        let (files, target) = (shelf.world.files.clone(), path.clone());
        drop(file);
        let finish = move || files.rename(&beside, &target);
        shelf.world.blocking(finish).await.map_err(Error::files("write", &path))
    }
}
