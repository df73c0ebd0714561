//! What is looked at when a backup was committed: that it is there, as a reader who comes later would find it.
//!
//! Everything was proven on its way: decoded before it was sealed, created durably, recorded. What is left is a store that says
//! so and does not keep it. So the journal is opened anew, the lengths of stored objects are asked for, and something of the
//! content is opened. It is a sample, not a proof of all bytes: that is what `verify` is for.

use asof_postgres::control::ControlFile;
use asof_repository::lineage::{Backup, StoredPack};
use asof_repository::map::{MapFile, PageMap, Place, StoredMap, open_map};
use asof_repository::names::{Name, PackId};
use futures::future::try_join_all;
use serde::Serialize;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::restore::pages::PageWriter;
use crate::shelf::Shelf;
use crate::source::CONTROL_FILE;

/// Of how many packs the store is asked for the length: a request each.
const SAMPLED: usize = 16;
/// No `pg_control` is longer.
const CONTROL_LEN: u64 = 1 << 16;

/// What was found when a backup was read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ReadBack {
    /// Packs that were stored for it.
    pub packs: u64,
    /// Packs whose stored length is the one that was recorded; the last is among them.
    pub packs_looked_at: u64,
    /// Bytes of its content that were read from the repository, opened and decoded; `None` where the key may only write.
    pub decoded_bytes: Option<u64>,
}

/// Holds what is stored against what was committed. `decode` reads some content, where the key can.
pub(crate) async fn read_back(
    shelf: &Shelf,
    committed: &Backup,
    packs: Vec<StoredPack>,
    decode: impl AsyncFn(&Shelf, &Backup) -> Result<u64>,
) -> Result<ReadBack> {
    tried(shelf, committed, packs, decode).await.map_err(|error| {
        let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
        let why = std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ");
        Error::damaged(
            format!("backup {} exists, but could not be read back: {why}", committed.name),
            "do not count on it: `asof check` tries the store; then make another backup, with --full-read if it is one of files",
        )
    })
}

async fn tried(
    shelf: &Shelf,
    committed: &Backup,
    packs: Vec<StoredPack>,
    decode: impl AsyncFn(&Shelf, &Backup) -> Result<u64>,
) -> Result<ReadBack> {
    is_recorded(shelf, committed).await?;
    let looked_at = are_stored(shelf, committed, &packs).await?;
    let decoded = match shelf.keyring.data_secret {
        Some(_) => Some(decode(shelf, committed).await?),
        None => None,
    };
    if committed.sizes.files == 0 || committed.sizes.total == 0 || decoded == Some(0) {
        return Err(Error::damaged("it is empty", "look at what the server has"));
    }
    Ok(ReadBack { packs: packs.len() as u64, packs_looked_at: looked_at as u64, decoded_bytes: decoded })
}

/// A journal that is opened anew must show what was committed.
async fn is_recorded(shelf: &Shelf, committed: &Backup) -> Result<()> {
    match shelf.journal().await?.state().backups.get(&committed.id) {
        Some(state) if state.backup == *committed => Ok(()),
        Some(_) => Err(Error::damaged("the journal records another backup under its id", "look at the repository")),
        None => Err(Error::damaged("the journal does not record it", "look at the repository")),
    }
}

/// The map must be there, and packs as long as they were. Returns how many packs were looked at.
async fn are_stored(shelf: &Shelf, committed: &Backup, packs: &[StoredPack]) -> Result<usize> {
    let map = Name::Map { lineage: shelf.lineage, attempt: committed.id };
    shelf.store.len(&map.to_string()).await?;
    let sample = sample(packs);
    let lengths = sample.iter().map(async |pack| {
        let id = PackId { lineage: shelf.lineage, attempt: committed.id, number: pack.number };
        match shelf.store.len(&id.to_string()).await? {
            len if len == pack.len => Ok(()),
            len => {
                Err(Error::damaged(format!("{id} has {len} bytes, and {} were stored", pack.len), "look at the store"))
            }
        }
    });
    try_join_all(lengths).await?;
    Ok(sample.len())
}

/// All of a few packs; of many some in even distances, and the last.
fn sample(packs: &[StoredPack]) -> Vec<&StoredPack> {
    let mut all: Vec<&StoredPack> = packs.iter().collect();
    all.sort_by_key(|pack| pack.number);
    match all.len() {
        0..=SAMPLED => all,
        len => (1..=SAMPLED).map(|nth| all[nth * len / SAMPLED - 1]).collect(),
    }
}

/// Of a backup of files: `pg_control`, which lies in the pack that was stored last, and a piece of the first file with pages.
pub(crate) async fn decode_files(shelf: &Shelf, backup: &Backup) -> Result<u64> {
    let Shelf { store, keyring, signers, lineage, .. } = shelf;
    let map = Arc::new(open_map(store.clone(), keyring, signers, *lineage, backup.id, &backup.map).await?);
    let mut reader = PageWriter::new(shelf.clone());
    let part = map.find(CONTROL_FILE).await?.map(Arc::new);
    let found = part.as_ref().and_then(|part| Some((part, part.file(CONTROL_FILE)?)));
    let (part, file) = found.ok_or_else(|| Error::damaged("its map names no pg_control", "make another backup"))?;
    let control = reader.read(part, file, CONTROL_LEN).await?;
    ControlFile::parse(&control)
        .map_err(|error| Error::damaged(format!("its pg_control: {error}"), "make another backup"))?;
    let mut bytes = control.len() as u64;
    if let Some((part, file)) = first_with_pages(&map).await? {
        bytes += reader.read_at(&part, &file, 0).await?.len() as u64;
    }
    Ok(bytes)
}

async fn first_with_pages(map: &Arc<StoredMap>) -> Result<Option<(Arc<PageMap>, MapFile)>> {
    let mut parts = map.parts(0);
    let stored = |file: &&MapFile| file.runs.iter().any(|run| matches!(run.place, Place::Pack { .. }));
    while let Some(part) = parts.next().await? {
        if let Some(file) = part.files.iter().find(stored).cloned() {
            return Ok(Some((part, file)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_packs_some_are_looked_at_and_always_the_last() {
        let sampled = |count: u32| -> Vec<u32> {
            let pack = |number| StoredPack { number, len: 1, digest: [0; 32] };
            let packs: Vec<StoredPack> = (0..count).rev().map(pack).collect();
            sample(&packs).iter().map(|pack| pack.number).collect()
        };
        assert_eq!(sampled(0), [0; 0]);
        assert_eq!(sampled(3), [0, 1, 2]);
        assert_eq!(sampled(16).len(), 16);
        for count in [17, 31, 1000] {
            let numbers = sampled(count);
            assert_eq!((numbers.len(), numbers.last()), (16, Some(&(count - 1))), "{numbers:?}");
            assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
        }
    }
}
