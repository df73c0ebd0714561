//! A dump that was just committed, opened again as a load does: its map, its table of contents, its record of tables, and the
//! beginning of its rows.

use asof_repository::lineage::Backup;

use super::members::{SQL, TABLES, TOC};
use super::origin::{Origin, Place};
use crate::error::{Error, Result};
use crate::shelf::Shelf;

/// Returns the bytes that were read and decoded.
pub(super) async fn decode(shelf: &Shelf, backup: &Backup) -> Result<u64> {
    let origin = Origin::stored(shelf, backup).await?;
    let recorded = origin.details.as_ref().map_or(0, |details| details.tables);
    if recorded != origin.tables.len() as u64 {
        let what = format!("it names {} tables, and {recorded} were recorded", origin.tables.len());
        return Err(Error::damaged(what, "dump again"));
    }
    let Place::Stored(dump) = &origin.place else { unreachable!("it was opened in the repository") };
    let files = dump.list().await?;
    let of = |name: &str| files.iter().find(|(path, _)| path == name).map_or(0, |(_, len)| *len);
    let rows = files.iter().find(|(path, len)| *len > 0 && (path == SQL || path.contains('/')));
    let beginning = match rows {
        Some((path, _)) => dump.file(path).await?.next().await?.map_or(0, |piece| piece.len() as u64),
        None => 0,
    };
    Ok(of(TOC) + of(TABLES) + beginning)
}
