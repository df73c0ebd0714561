//! WAL by `archive_command` and `restore_command`: one file at a time, as PostgreSQL hands it over or asks for it.
//!
//! Pushing says yes only when the repository holds the very bytes (hazard C2), and never replaces different ones (C3): a
//! file that is there already is compared. Getting has three answers: here it is, it is proven absent, and an error, which
//! means that nobody can tell (E1). Only whole segments are ever served: a standby that was given the beginning of one would
//! replay it as if it were complete (rule 11).

use std::path::Path;

use asof_postgres::history::TimelineHistory;
use asof_postgres::lsn::{Lsn, Timeline};
use asof_postgres::names::WalFileName;
use asof_postgres::wal::{Decoded, WalDecoder};
use asof_repository::names::{Name, WalPosition};
use asof_repository::wal::{read_history, read_wal};
use asof_world::{WriteMode, planted};

use super::ingest::Ingest;
use super::shape::WalConstants;
use super::stream::store_history;
use crate::error::{Error, Result};
use crate::shelf::Shelf;
use crate::target::history_of;

/// The largest file that PostgreSQL archives besides segments.
const LARGEST_HISTORY: u64 = 4 << 20;

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
            let bytes = read(shelf, path, u64::from(size.bytes())).await?;
            if bytes.len() != size.bytes() as usize && !planted("c2") {
                let what = format!("{name} has {} bytes, a segment has {}", bytes.len(), size.bytes());
                return Err(Error::damaged(what, "nothing was stored; PostgreSQL will offer it again"));
            }
            let whole = matches!(parsed, WalFileName::Segment { .. });
            store_segment(shelf, constants, timeline, start, &bytes, whole).await?;
            Ok(Pushed::Stored)
        }
    }
}

async fn store_segment(
    shelf: &Shelf,
    constants: &WalConstants,
    timeline: Timeline,
    start: Lsn,
    bytes: &[u8],
    whole: bool,
) -> Result<()> {
    let shape = constants.shape(history_of(shelf, timeline).await?);
    let valid = if whole { bytes } else { &bytes[..valid_len(shape.clone(), start, bytes)?] };
    let mut ingest = Ingest::new(shelf.clone(), shape, timeline, start)?;
    ingest.take(start, valid).await?;
    ingest.flush().await?;
    if ingest.durable() < ingest.received() {
        let what = format!("WAL from {} on is being stored by somebody else", ingest.durable());
        return Err(Error::damaged(what, "PostgreSQL will offer it again"));
    }
    Ok(())
}

/// How much of a segment that ended early is WAL: behind the last valid record lies what the file held before.
fn valid_len(shape: asof_postgres::wal::WalShape, start: Lsn, bytes: &[u8]) -> Result<usize> {
    let mut decoder =
        WalDecoder::new(shape, start).map_err(|error| Error::damaged(error.to_string(), "check the file"))?;
    decoder.feed(bytes);
    while let Decoded::Record(_) = decoder.next() {}
    Ok(usize::try_from(decoder.valid_end().0.saturating_sub(start.0)).unwrap_or(0).min(bytes.len()))
}

/// Writes one file that PostgreSQL asks for to `path`; false when it is proven absent.
pub async fn get(shelf: &Shelf, constants: &WalConstants, name: &str, path: &Path) -> Result<bool> {
    let Shelf { store, keyring, signers, lineage, .. } = shelf;
    let found = match parse(constants, name)? {
        WalFileName::Segment { timeline, segment } => {
            let start = constants.segment_size.start(segment).ok_or_else(|| invalid(name, &"no such segment"))?;
            let at = WalPosition { lineage: *lineage, timeline: timeline.0, start: start.0 };
            read_wal(store.as_ref(), keyring, signers, Name::WalSegment(at)).await.map(|(_, bytes)| bytes)
        }
        WalFileName::History { timeline } => read_history(store.as_ref(), keyring, signers, *lineage, timeline.0).await,
        WalFileName::Partial { .. } | WalFileName::Backup { .. } => return Ok(false),
    };
    match found {
        Ok(bytes) => write(shelf, path, bytes).await.map(|()| true),
        Err(error) if error.is_not_found() => Ok(false),
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

/// PostgreSQL takes whatever lies at the path once we say yes: it appears there whole and synced, or not at all.
async fn write(shelf: &Shelf, path: &Path, bytes: Vec<u8>) -> Result<()> {
    let (files, target) = (shelf.world.files.clone(), path.to_owned());
    let work = move || {
        let mut beside = target.clone().into_os_string();
        beside.push(".asof");
        let beside = std::path::PathBuf::from(beside);
        let _ = files.remove_file(&beside);
        let mut file = files.create(&beside, 0o600, WriteMode::Cached)?;
        file.write_at(0, &bytes)?;
        file.sync()?;
        files.rename(&beside, &target)
    };
    shelf.world.blocking(work).await.map_err(Error::files("write", path))
}
