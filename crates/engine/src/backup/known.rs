//! What the repository already holds: the pages of the parent backup, by hash.
//!
//! The truth about a stored page is the hash in the index of its pack. Indexes are read when a file's pages are compared and
//! kept while neighbouring files need them: memory is bounded by [`CACHED_PACKS`], whatever the size of the instance.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use asof_repository::crypto::ShortDigest;
use asof_repository::keyring::{Keyring, Signers};
use asof_repository::map::{MapFile, Place, StoredMap};
use asof_repository::pack::{PackIndex, read_pack_index};
use asof_repository::store::Store;

use crate::error::{Error, Result};

/// Indexes kept in memory; one describes about 14,000 pages and takes half a megabyte.
const CACHED_PACKS: usize = 48;

/// What is known of one page of the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// The parent has no such page.
    Absent,
    /// The page was all zeros.
    Zero,
    /// The page is stored.
    Stored {
        /// Its hash.
        hash: ShortDigest,
        /// Where it lies: a pack of the parent's map, and a position.
        place: Place,
    },
}

/// The pages of the parent backup.
pub(crate) struct KnownPages {
    store: Arc<dyn Store>,
    keyring: Keyring,
    signers: Signers,
    parent: StoredMap,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    indexes: HashMap<u32, (u64, Arc<PackIndex>)>,
    clock: u64,
}

impl KnownPages {
    pub(crate) fn new(store: Arc<dyn Store>, keyring: Keyring, signers: Signers, parent: StoredMap) -> Self {
        Self { store, keyring, signers, parent, cache: Mutex::default() }
    }

    pub(crate) fn into_parent(self) -> StoredMap {
        self.parent
    }

    pub(crate) fn parent(&self) -> &StoredMap {
        &self.parent
    }

    /// Where to begin comparing a file; `None` when the parent has no file of that path.
    pub(crate) fn file(&self, path: &[u8]) -> Option<KnownFile<'_>> {
        self.parent.map.file(path).map(|file| KnownFile { pages: self, file, run: 0, within: 0 })
    }

    async fn index(&self, pack: u32) -> Result<Arc<PackIndex>> {
        if let Some(index) = self.cached(pack) {
            return Ok(index);
        }
        let entry = &self.parent.map.packs[pack as usize];
        let digest = &entry.reference.digest;
        let (index, _) = read_pack_index(self.store.as_ref(), &self.keyring, &self.signers, entry.id, digest).await?;
        let index = Arc::new(index);
        self.keep(pack, index.clone());
        Ok(index)
    }

    fn cached(&self, pack: u32) -> Option<Arc<PackIndex>> {
        let mut cache = self.cache.lock().expect("no holder panics");
        cache.clock += 1;
        let now = cache.clock;
        let (used, index) = cache.indexes.get_mut(&pack)?;
        *used = now;
        Some(index.clone())
    }

    fn keep(&self, pack: u32, index: Arc<PackIndex>) {
        let mut cache = self.cache.lock().expect("no holder panics");
        if cache.indexes.len() >= CACHED_PACKS {
            let oldest = cache.indexes.iter().min_by_key(|(_, (used, _))| *used).map(|(pack, _)| *pack);
            oldest.and_then(|pack| cache.indexes.remove(&pack));
        }
        let now = cache.clock;
        cache.indexes.insert(pack, (now, index));
    }
}

/// A file of the parent, read from its first page to its last.
pub(crate) struct KnownFile<'a> {
    pages: &'a KnownPages,
    file: &'a MapFile,
    run: usize,
    within: u32,
}

impl KnownFile<'_> {
    /// The next `count` pages.
    pub(crate) async fn next(&mut self, count: usize) -> Result<Vec<Known>> {
        let mut known = Vec::with_capacity(count);
        while known.len() < count {
            let Some(run) = self.file.runs.get(self.run) else {
                known.resize(count, Known::Absent);
                break;
            };
            let take = (run.pages - self.within).min(u32::try_from(count - known.len()).unwrap_or(u32::MAX));
            match run.place {
                Place::Zero => known.extend(std::iter::repeat_n(Known::Zero, take as usize)),
                // A torn page is not what the server holds: it is never reused.
                Place::Pack { .. } if run.torn => known.extend(std::iter::repeat_n(Known::Absent, take as usize)),
                Place::Pack { pack, position } => {
                    let first = position + self.within;
                    self.stored(pack, first..first + take, &mut known).await?;
                }
            }
            self.within += take;
            if self.within == run.pages {
                (self.run, self.within) = (self.run + 1, 0);
            }
        }
        Ok(known)
    }

    async fn stored(&self, pack: u32, positions: std::ops::Range<u32>, known: &mut Vec<Known>) -> Result<()> {
        let index = self.pages.index(pack).await?;
        for position in positions {
            let Some(hash) = index.hash_at(position) else {
                let id = self.pages.parent.map.packs[pack as usize].id;
                let what = format!("{id} has no page at position {position}, but the map of the last backup says so");
                return Err(Error::damaged(
                    what,
                    "run `asof verify`; `asof backup create --full-read` does not use the last backup",
                ));
            };
            known.push(Known::Stored { hash, place: Place::Pack { pack, position } });
        }
        Ok(())
    }
}
