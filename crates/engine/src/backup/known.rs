//! What the repository already holds: the pages of the parent backup, and those of attempts that were broken off.
//!
//! The truth about a stored page is the hash in the index of its pack. Indexes are read when a file's pages are compared and
//! kept while neighbouring files need them: memory is bounded by [`CACHED_PACKS`], whatever the size of the instance.
//! A broken attempt is never resumed by names and times (hazard A13); its packs are only another place where a page with
//! this very hash may lie.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use asof_repository::crypto::ShortDigest;
use asof_repository::lineage::{Lineage, Outcome, StoredPack};
use asof_repository::map::{MapFile, MapPack, Place, StoredMap};
use asof_repository::names::PackId;
use asof_repository::pack::{PAGES_PER_FRAME, PackIndex, read_pack_index};

use crate::error::{Error, Result};
use crate::shelf::Shelf;

/// Indexes kept in memory; one describes about 14,000 pages and takes half a megabyte.
const CACHED_PACKS: usize = 48;

/// What is known of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// There is no such page.
    Absent,
    /// The page was all zeros.
    Zero,
    /// The page is stored.
    Stored {
        /// Its hash.
        hash: ShortDigest,
        /// Where it lies: a pack of [`KnownPages::packs`], and a position.
        place: Place,
    },
}

/// The pages that need not be stored again.
pub(crate) struct KnownPages {
    shelf: Shelf,
    parent: Option<StoredMap>,
    /// The parent's packs, then those of broken attempts.
    packs: Vec<MapPack>,
    /// Which packs of broken attempts hold pages of a file.
    broken: HashMap<Vec<u8>, Vec<u32>>,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    indexes: HashMap<u32, (u64, Arc<PackIndex>)>,
    clock: u64,
}

impl KnownPages {
    /// The pages of `parent`, and of the attempts that the journal shows as not committed.
    pub(crate) async fn gather(shelf: &Shelf, parent: Option<StoredMap>, state: &Lineage) -> Result<Self> {
        let packs = parent.as_ref().map_or_else(Vec::new, |parent| parent.map.packs.clone());
        let (broken, cache) = (HashMap::new(), Mutex::default());
        let mut known = Self { shelf: shelf.clone(), parent, packs, broken, cache };
        for (attempt, packs) in state.attempts.iter().filter(|(_, attempt)| attempt.outcome != Outcome::Committed) {
            for pack in &packs.packs {
                known.adopt(PackId { lineage: shelf.lineage, attempt: *attempt, number: pack.number }, pack).await?;
            }
        }
        Ok(known)
    }

    /// Adds a pack of a broken attempt. One that is gone or damaged helps nobody and harms nobody.
    async fn adopt(&mut self, id: PackId, pack: &StoredPack) -> Result<()> {
        let Shelf { store, keyring, signers, .. } = &self.shelf;
        let (index, opened) = match read_pack_index(store.as_ref(), keyring, signers, id, &pack.digest).await {
            Ok(found) => found,
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(_) => return Ok(()),
        };
        let number = u32::try_from(self.packs.len()).expect("packs are numbered with 32 bits");
        let frames = (0u32..).zip(index.frames.iter().map(|frame| frame.section)).collect();
        self.packs.push(MapPack { id, len: pack.len, reference: opened.reference, frames });
        for path in index.files {
            let packs = self.broken.entry(path).or_default();
            if packs.last() != Some(&number) {
                packs.push(number);
            }
        }
        Ok(())
    }

    /// The map of the parent, if there is one.
    pub(crate) fn parent(&self) -> Option<&StoredMap> {
        self.parent.as_ref()
    }

    /// What places refer to.
    pub(crate) fn packs(&self) -> &[MapPack] {
        &self.packs
    }

    /// Where to begin comparing a file; `None` when nothing of that path is known.
    pub(crate) async fn file(&self, path: &[u8]) -> Result<Option<KnownFile<'_>>> {
        let parent = self.parent.as_ref().and_then(|parent| parent.map.file(path));
        let broken = self.broken_pages(path).await?;
        if parent.is_none() && broken.is_empty() {
            return Ok(None);
        }
        Ok(Some(KnownFile { pages: self, parent, broken, page: 0, run: 0, within: 0 }))
    }

    async fn broken_pages(&self, path: &[u8]) -> Result<BTreeMap<u32, (ShortDigest, Place)>> {
        let mut pages = BTreeMap::new();
        for pack in self.broken.get(path).into_iter().flatten().copied() {
            let index = self.index(pack).await?;
            for (number, frame) in (0u32..).zip(&index.frames) {
                if index.files[frame.file as usize] != path {
                    continue;
                }
                for ((slot, block), hash) in (0u32..).zip(&frame.blocks).zip(&frame.hashes) {
                    let position = number * PAGES_PER_FRAME + slot;
                    pages.insert(*block, (*hash, Place::Pack { pack, position }));
                }
            }
        }
        Ok(pages)
    }

    async fn index(&self, pack: u32) -> Result<Arc<PackIndex>> {
        if let Some(index) = self.cached(pack) {
            return Ok(index);
        }
        let entry = &self.packs[pack as usize];
        let Shelf { store, keyring, signers, .. } = &self.shelf;
        let (index, _) = read_pack_index(store.as_ref(), keyring, signers, entry.id, &entry.reference.digest).await?;
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

/// A file, compared from its first page to its last.
pub(crate) struct KnownFile<'a> {
    pages: &'a KnownPages,
    parent: Option<&'a MapFile>,
    broken: BTreeMap<u32, (ShortDigest, Place)>,
    page: u32,
    run: usize,
    within: u32,
}

impl KnownFile<'_> {
    /// The next `count` pages.
    pub(crate) async fn next(&mut self, count: usize) -> Result<Vec<Known>> {
        let mut known = Vec::with_capacity(count);
        while known.len() < count {
            let Some(run) = self.parent.and_then(|file| file.runs.get(self.run)) else {
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
        for (page, known) in (self.page..).zip(&mut known) {
            if let (Known::Absent, Some((hash, place))) = (*known, self.broken.get(&page)) {
                *known = Known::Stored { hash: *hash, place: *place };
            }
        }
        self.page += u32::try_from(count).expect("a piece has few pages");
        Ok(known)
    }

    async fn stored(&self, pack: u32, positions: std::ops::Range<u32>, known: &mut Vec<Known>) -> Result<()> {
        let index = self.pages.index(pack).await?;
        for position in positions {
            let Some(hash) = index.hash_at(position) else {
                let id = self.pages.packs[pack as usize].id;
                let what = format!("{id} has no page at position {position}, but the map of the last backup says so");
                return Err(Error::damaged(
                    what,
                    "make a backup with --full-read, which does not use the last one, and look at the repository's disk",
                ));
            };
            known.push(Known::Stored { hash, place: Place::Pack { pack, position } });
        }
        Ok(())
    }
}
