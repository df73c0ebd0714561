//! What the repository already holds: the pages of the backup before, and those of attempts that were broken off.
//!
//! The truth about a stored page is the hash in the index of its pack. Indexes are read when a file's pages are compared and
//! kept while neighbouring files need them: memory is bounded by [`CACHED_PACKS`], whatever the size of the instance.
//! A broken attempt is never resumed by names and times (hazard A13); its packs are only another place where a page with
//! this very hash may lie.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock};

use asof_repository::crypto::{Digest, ShortDigest};
use asof_repository::lineage::{Lineage, Outcome, StoredPack};
use asof_repository::map::{MapFile, MapPack, PageMap, PendingPack, Place};
use asof_repository::names::PackId;
use asof_repository::object::Reference;
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
        /// Where it lies: a pack of [`KnownFile::packs`], and a position.
        place: Place,
    },
}

/// The pages that need not be stored again.
pub(crate) struct KnownPages {
    shelf: Shelf,
    /// The packs of broken attempts: which, and the digest of its end.
    broken_packs: Vec<(PackId, Digest)>,
    /// Which of them hold pages of a file.
    broken: HashMap<Vec<u8>, Vec<u32>>,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    indexes: HashMap<PackId, (u64, Arc<Indexed>)>,
    clock: u64,
}

/// A pack as its own end describes it.
struct Indexed {
    index: PackIndex,
    len: u64,
    reference: Reference,
}

impl KnownPages {
    /// The pages of the attempts that `state` shows as not committed, and of the parts that [`KnownPages::file`] is given.
    pub(crate) async fn gather(shelf: &Shelf, state: &Lineage) -> Result<Self> {
        let (broken_packs, broken, cache) = (Vec::new(), HashMap::new(), Mutex::default());
        let mut known = Self { shelf: shelf.clone(), broken_packs, broken, cache };
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
        let (index, _) = match read_pack_index(store.as_ref(), keyring, signers, id, &pack.digest).await {
            Ok(found) => found,
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(_) => return Ok(()),
        };
        let number = u32::try_from(self.broken_packs.len()).expect("packs are numbered with 32 bits");
        self.broken_packs.push((id, pack.digest));
        for path in index.files {
            let packs = self.broken.entry(path).or_default();
            if packs.last() != Some(&number) {
                packs.push(number);
            }
        }
        Ok(())
    }

    /// Where to begin comparing a file; `None` when nothing of that path is known. `part` is the one of the map of the backup
    /// before that has the file.
    pub(crate) async fn file(&self, path: &[u8], part: Option<Arc<PageMap>>) -> Result<Option<KnownFile<'_>>> {
        if part.is_none() && !self.broken.contains_key(path) {
            return Ok(None);
        }
        let (packs, broken) = (Vec::new(), BTreeMap::new());
        let file = part.as_ref().and_then(|part| part.files.iter().position(|file| file.path == path));
        let mut known = KnownFile { pages: self, part, file, packs, broken, page: 0, run: 0, within: 0 };
        for number in self.broken.get(path).into_iter().flatten() {
            known.add_broken(path, *number).await?;
        }
        Ok(Some(known))
    }

    async fn index(&self, id: PackId, digest: &Digest) -> Result<Arc<Indexed>> {
        if let Some(index) = self.cached(id) {
            return Ok(index);
        }
        let Shelf { store, keyring, signers, .. } = &self.shelf;
        let (index, opened) = read_pack_index(store.as_ref(), keyring, signers, id, digest).await?;
        let indexed = Arc::new(Indexed { index, len: opened.len, reference: opened.reference });
        self.keep(id, indexed.clone());
        Ok(indexed)
    }

    fn cached(&self, id: PackId) -> Option<Arc<Indexed>> {
        let mut cache = self.cache.lock().expect("no holder panics");
        cache.clock += 1;
        let now = cache.clock;
        let (used, index) = cache.indexes.get_mut(&id)?;
        *used = now;
        Some(index.clone())
    }

    fn keep(&self, id: PackId, index: Arc<Indexed>) {
        let mut cache = self.cache.lock().expect("no holder panics");
        if cache.indexes.len() >= CACHED_PACKS {
            let oldest = cache.indexes.iter().min_by_key(|(_, (used, _))| *used).map(|(id, _)| *id);
            oldest.and_then(|id| cache.indexes.remove(&id));
        }
        let now = cache.clock;
        cache.indexes.insert(id, (now, index));
    }
}

/// A file, compared from its first page to its last.
pub(crate) struct KnownFile<'a> {
    pages: &'a KnownPages,
    part: Option<Arc<PageMap>>,
    /// Which of the part's files.
    file: Option<usize>,
    /// The packs of broken attempts, numbered behind those of the part.
    packs: Vec<PendingPack>,
    broken: BTreeMap<u32, (ShortDigest, Place)>,
    page: u32,
    run: usize,
    within: u32,
}

impl KnownFile<'_> {
    /// What places refer to: first the packs of the part, then the others.
    pub(crate) fn packs(&self) -> (Option<Arc<PageMap>>, Vec<PendingPack>) {
        (self.part.clone(), self.packs.clone())
    }

    fn parent(&self) -> Option<&MapFile> {
        Some(&self.part.as_ref()?.files[self.file?])
    }

    async fn add_broken(&mut self, path: &[u8], number: u32) -> Result<()> {
        let (id, digest) = &self.pages.broken_packs[number as usize];
        let stored = self.pages.index(*id, digest).await?;
        let first = self.part.as_ref().map_or(0, |part| part.packs.len());
        let pack = u32::try_from(first + self.packs.len()).expect("packs are numbered with 32 bits");
        for (number, frame) in (0u32..).zip(&stored.index.frames) {
            if stored.index.files[frame.file as usize] != path {
                continue;
            }
            for ((slot, block), hash) in (0u32..).zip(&frame.blocks).zip(&frame.hashes) {
                let position = number * PAGES_PER_FRAME + slot;
                self.broken.insert(*block, (*hash, Place::Pack { pack, position }));
            }
        }
        let frames = (0u32..).zip(stored.index.frames.iter().map(|frame| frame.section)).collect();
        let (len, reference) = (stored.len, stored.reference);
        self.packs.push(Arc::new(OnceLock::from(MapPack { id: *id, len, reference, frames })));
        Ok(())
    }

    /// The next `count` pages.
    pub(crate) async fn next(&mut self, count: usize) -> Result<Vec<Known>> {
        let mut known = Vec::with_capacity(count);
        while known.len() < count {
            let Some(run) = self.parent().and_then(|file| file.runs.get(self.run).copied()) else {
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
        let part = self.part.as_ref().expect("a run is one of the part's");
        let MapPack { id, reference, .. } = &part.packs[pack as usize];
        let stored = self.pages.index(*id, &reference.digest).await?;
        for position in positions {
            let Some(hash) = stored.index.hash_at(position) else {
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
