//! Copies the files of a running instance into packs: several jobs, each with a pack of its own, in little memory.
//!
//! Files are copied in order of path, as the parent's map and the new one have them: of both, only the parts around what is
//! being copied are in memory.
//!
//! A page whose checksum does not hold is read again, because the server may have been writing it. One that never becomes
//! valid is stored as it is, marked, and reported; whether WAL repairs it is decided by [`super::torn`] when all WAL is there.
//! Files that vanish or shrink while they are read are normal; any other failure to read fails the backup.
//!
//! Memory: a job holds one pack being filled, one being uploaded and one piece of a file: about 70 MiB; and files whose part of
//! the map waits for its pack, which name at most [`CopySettings::waiting_frames`]. Nothing grows with the length
//! of files (docs/decisions/0014-maps-are-sealed-part-by-part.md).

mod step;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use asof_postgres::names::FileKind;
use asof_repository::keyring::Keyring;
use asof_repository::lineage::StoredPack;
use asof_repository::map::{
    CopiedFile, MOST_FRAMES_OF_A_FILE, MapFile, MapPack, MapWriter, PageMap, Parts, PendingPack, Place, Run, StoredMap,
    frames_named,
};
use asof_repository::names::PackId;
use asof_repository::object::{self, Finished};
use asof_repository::pack::PackWriter;
use asof_repository::store::Store;
use asof_world::{Id, Task, World, planted};

use step::{Ahead, At, Packs, Step};

use super::known::KnownPages;
use super::pages::{Filling, PagePlace, Piece, invalid_pages};
use super::run;
use super::torn::TornPage;
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};
use crate::source::{CONTROL_FILE, ListedFile, Listing, Source, SourceFile};

/// How much of a file is read and handled at once.
pub(super) const PIECE_LEN: usize = 1 << 20;
/// How often a page with a wrong checksum is read again, …
const REREADS: u32 = 20;
/// … and how long to wait in between. A write of one page takes microseconds unless the disk is saturated.
const REREAD_WAIT: Duration = Duration::from_millis(50);

/// What a copy needs to know.
pub(crate) struct CopySettings {
    pub(crate) world: World,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keyring: Keyring,
    pub(crate) lineage: Id,
    pub(crate) attempt: Id,
    pub(crate) page_size: usize,
    /// Pages in one segment of a relation.
    pub(crate) pages_per_segment: u32,
    /// Whether pages carry checksums.
    pub(crate) checksums: bool,
    /// zstd's level.
    pub(crate) level: i32,
    /// Bytes per second to read at most.
    pub(crate) rate: Option<u64>,
    pub(crate) jobs: usize,
    /// A job closes its pack when the files that it copied meanwhile name this many frames.
    pub(crate) waiting_frames: usize,
    pub(crate) known: Option<Arc<KnownPages>>,
    /// The map of the backup before.
    pub(crate) parent: Option<Arc<StoredMap>>,
    pub(crate) observer: Arc<dyn Observer>,
}

/// What a copy read and stored.
pub(crate) struct Copied {
    /// The map, which has everything but `pg_control`.
    pub(crate) map: MapWriter,
    /// How many packs there are.
    pub(crate) packs: u32,
    pub(crate) torn: Vec<TornPage>,
    pub(crate) vanished: Vec<Vec<u8>>,
    pub(crate) read: u64,
    pub(crate) changed: u64,
    pub(crate) stored: u64,
    pub(crate) shared: u64,
}

/// Called after each stored pack, so that a broken attempt leaves a record of what it stored.
pub(crate) trait PackLog: Send + Sync {
    fn stored(&self, pack: StoredPack);
}

struct Copier {
    settings: CopySettings,
    source: Arc<dyn Source>,
    log: Arc<dyn PackLog>,
    listing: Arc<Listing>,
    next_pack: AtomicU32,
    queue: futures::lock::Mutex<Queue>,
    failed: AtomicBool,
    map: Mutex<Option<MapWriter>>,
    read: AtomicU64,
    began: Duration,
}

/// The files that no job has taken yet, in order of path.
struct Queue {
    next: usize,
    parent: Option<Parts>,
}

#[derive(Default)]
struct JobResult {
    changed_pages: u64,
    shared_pages: u64,
    packs: u32,
    stored: u64,
    torn: Vec<TornPage>,
    vanished: Vec<Vec<u8>>,
}

/// Copies the files of `listing`, which are in order of path.
pub(crate) async fn copy(
    settings: CopySettings,
    source: Arc<dyn Source>,
    listing: Arc<Listing>,
    log: Arc<dyn PackLog>,
) -> Result<Copied> {
    let began = settings.world.monotonic();
    let (jobs, world) = (settings.jobs.max(1), settings.world.clone());
    let map = Mutex::new(Some(new_map(&settings, &listing)));
    let queue = futures::lock::Mutex::new(Queue { next: 0, parent: settings.parent.as_ref().map(|map| map.parts(0)) });
    let (next_pack, read, failed) = (AtomicU32::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let copier = Arc::new(Copier { settings, source, log, listing, next_pack, queue, failed, map, read, began });
    let running: Vec<_> = (0..jobs).map(|_| world.spawn(Job::run(copier.clone()))).collect();
    // Every job is awaited, also after a failure: nothing of the attempt goes on in the background.
    let mut results = Vec::new();
    for job in running {
        results.push(job.await);
    }
    let results = results.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(copier.copied(results))
}

/// The map of these files and of `pg_control`, which is read by itself.
fn new_map(settings: &CopySettings, listing: &Listing) -> MapWriter {
    let CopySettings { world, keyring, lineage, attempt, page_size, parent, .. } = settings;
    let page_size = u32::try_from(*page_size).expect("a page is short");
    let mut paths: Vec<&[u8]> = listing.files.iter().map(|file| file.path.as_slice()).collect();
    paths.insert(control_number(listing), CONTROL_FILE);
    let parent = parent.as_deref();
    MapWriter::new(world, keyring, (*lineage, *attempt), page_size, &listing.directories, paths.into_iter(), parent)
}

/// The number that `pg_control` has among all files in order of path.
pub(crate) fn control_number(listing: &Listing) -> usize {
    listing.files.partition_point(|file| file.path.as_slice() < CONTROL_FILE)
}

/// Stores map objects, and returns their length.
pub(crate) async fn store_maps(store: &dyn Store, objects: &[Finished]) -> Result<u64> {
    for object in objects {
        object::create(store, object).await?;
    }
    Ok(objects.iter().map(|object| object.len).sum())
}

struct Job {
    copier: Arc<Copier>,
    filling: Option<Filling>,
    upload: Option<Task<Result<u64>>>,
    /// The pack being filled and those before that the file at hand may lie in, by number.
    packs: BTreeMap<u32, PendingPack>,
    /// Frames that the files name that were copied since the pack was begun.
    waiting_frames: usize,
    result: JobResult,
}

impl Job {
    async fn run(copier: Arc<Copier>) -> Result<JobResult> {
        let (packs, result) = (BTreeMap::new(), JobResult::default());
        let mut job = Self { copier, filling: None, upload: None, packs, waiting_frames: 0, result };
        let copied = job.copy_all().await;
        if copied.is_err() {
            job.copier.failed.store(true, Ordering::Relaxed);
            job.filling = None; // a file was left in the middle
        }
        // An upload that was started is awaited in any case.
        let ended = job.end().await;
        copied.and(ended).map(|()| job.result)
    }

    async fn copy_all(&mut self) -> Result<()> {
        let copier = self.copier.clone();
        while let Some((at, part)) = copier.take().await? {
            let listed = &copier.listing.files[at];
            let copied = match copier.source.open(&listed.path).await? {
                Some(file) => Some(self.copy_file(listed, file.as_ref(), part).await?),
                None => {
                    self.result.vanished.push(listed.path.clone());
                    None
                }
            };
            self.waiting_frames += copied.as_ref().map_or(0, |copied| 1 + frames_named(&copied.file));
            self.result.stored += copier.hand_over(at, copied).await?;
            let being_filled = self.filling.as_ref().map(Filling::number);
            self.packs.retain(|number, _| Some(*number) == being_filled);
            if self.waiting_frames >= self.copier.settings.waiting_frames {
                self.waiting_frames = 0;
                if let Some(filling) = self.filling.take_if(|filling| !filling.is_empty()) {
                    self.close(filling).await?;
                }
            }
        }
        Ok(())
    }

    /// `part` is the one of the parent's map that has this file.
    async fn copy_file(
        &mut self,
        listed: &ListedFile,
        file: &dyn SourceFile,
        part: Option<Arc<PageMap>>,
    ) -> Result<CopiedFile> {
        let copier = self.copier.clone();
        let page_size = copier.settings.page_size;
        let mut known = match &copier.settings.known {
            Some(known) => Ahead { file: known.file(&listed.path, part).await?, ready: Vec::new() },
            None => Ahead { file: None, ready: Vec::new() },
        };
        let mut packs = Packs::of(known.file.as_ref());
        let mut copied = MapFile { path: listed.path.clone(), len: 0, runs: Vec::new() };
        // Blocks appended after the file was opened are created again by replay.
        while copied.len < file.len() {
            let wanted = usize::try_from(file.len() - copied.len).unwrap_or(usize::MAX);
            let first_page = u32::try_from(copied.len / page_size as u64).map_err(|_| too_long(listed))?;
            let at = At { offset: copied.len, first_page, wanted };
            let mut step = self.stretch(listed, file, &mut known, &at).await?;
            if step.len == 0 && !step.ended {
                step = self.piece(listed, file, &mut known, &at).await?;
            }
            if step.len == 0 {
                break; // shrunk
            }
            known.used(step.places.len());
            copied.len += step.len as u64;
            copier.pace(step.len as u64).await;
            for (page, place) in (first_page..).zip(step.places) {
                let place = self.count(place, &mut packs);
                copied.push(Run { pages: 1, place, torn: step.torn.contains(&page) });
            }
            if step.ended {
                break;
            }
        }
        if let Some(filling) = &mut self.filling {
            filling.end_frame(&listed.path);
        }
        if frames_named(&copied) > MOST_FRAMES_OF_A_FILE {
            return Err(too_scattered(listed));
        }
        Ok(CopiedFile { file: copied, part: packs.part, packs: packs.others })
    }

    /// Handles many pieces in one go, where the file is on this host and nobody limits the rate; nothing if a page of the first
    /// does not hold.
    async fn stretch(
        &mut self,
        listed: &ListedFile,
        file: &dyn SourceFile,
        known: &mut Ahead<'_>,
        at: &At,
    ) -> Result<Step> {
        let settings = &self.copier.settings;
        let Some(local) = file.local().filter(|_| settings.rate.is_none()) else { return Ok(Step::default()) };
        let wanted = at.wanted.min(run::RUN_LEN);
        let run = run::Run {
            path: listed.path.clone(),
            file: local,
            from: at.offset,
            wanted,
            page_size: settings.page_size,
            first_page: at.first_page,
            first_block: self.first_block(listed, at.first_page),
            known: known.first(wanted.div_ceil(settings.page_size)).await?.to_vec(),
            hasher: settings.keyring.page_hasher(settings.lineage),
        };
        let filling = self.filling();
        let ran = self.copier.settings.world.compute(move || run.go(filling)).await;
        let ran = ran.map_err(Error::files("read", text(&listed.path)))?;
        self.keep(ran.filling).await?;
        Ok(Step { len: ran.len, places: ran.places, torn: Vec::new(), ended: ran.ended })
    }

    /// Handles one piece of a file.
    async fn piece(
        &mut self,
        listed: &ListedFile,
        file: &dyn SourceFile,
        known: &mut Ahead<'_>,
        at: &At,
    ) -> Result<Step> {
        let (page_size, wanted) = (self.copier.settings.page_size, at.wanted.min(PIECE_LEN));
        let mut bytes = file.read(at.offset, wanted).await?;
        let (len, ended) = (bytes.len(), bytes.len() < wanted);
        if len == 0 {
            return Ok(Step { ended, ..Step::default() });
        }
        let torn = self.repair(listed, file, &mut bytes, at.first_page).await?;
        let known = known.first(len.div_ceil(page_size)).await?.to_vec();
        let piece = Piece { path: listed.path.clone(), bytes, first_page: at.first_page, known };
        let places = self.absorb(piece).await?;
        Ok(Step { len, places, torn, ended })
    }

    /// The number within its relation of a page of this file, where checksums are looked at.
    fn first_block(&self, listed: &ListedFile, first_page: u32) -> Option<u32> {
        let settings = &self.copier.settings;
        let relation = listed.relation.filter(|_| settings.checksums && !planted("a9"))?;
        Some(relation.name.segment.wrapping_mul(settings.pages_per_segment).wrapping_add(first_page))
    }

    /// Reads pages with a wrong checksum again until they are valid, in place. Returns the page numbers of those that never were.
    async fn repair(
        &mut self,
        listed: &ListedFile,
        file: &dyn SourceFile,
        bytes: &mut [u8],
        first_page: u32,
    ) -> Result<Vec<u32>> {
        let settings = &self.copier.settings;
        let (Some(relation), Some(first_block)) = (listed.relation, self.first_block(listed, first_page)) else {
            return Ok(Vec::new());
        };
        let mut invalid = invalid_pages(bytes, settings.page_size, first_block);
        for _ in 0..REREADS {
            if invalid.is_empty() {
                return Ok(Vec::new());
            }
            settings.world.sleep(REREAD_WAIT).await;
            for at in std::mem::take(&mut invalid) {
                let page = &mut bytes[at * settings.page_size..][..settings.page_size];
                let number = first_page + u32::try_from(at).expect("a piece has few pages");
                let again = file.read(u64::from(number) * settings.page_size as u64, settings.page_size).await?;
                if again.len() == page.len() {
                    page.copy_from_slice(&again);
                }
                let block = first_block.wrapping_add(number - first_page);
                if !invalid_pages(page, settings.page_size, block).is_empty() {
                    invalid.push(at);
                }
            }
        }
        let numbers: Vec<u32> =
            invalid.iter().map(|at| first_page + u32::try_from(*at).expect("a piece has few pages")).collect();
        if matches!(listed.kind, FileKind::Vm | FileKind::Fsm) {
            // PostgreSQL rebuilds both from a zero page, and a wrong one gives wrong answers.
            invalid.iter().for_each(|at| bytes[at * settings.page_size..][..settings.page_size].fill(0));
            let (count, path) = (numbers.len(), text(&listed.path));
            let what = format!(
                "{count} pages of {path} were torn or damaged; they are stored empty, and PostgreSQL builds them anew"
            );
            settings.observer.event(Event::Warning(what));
            return Ok(Vec::new());
        }
        let torn = |page: &u32| {
            let block = (relation.locator(), relation.name.fork, first_block.wrapping_add(page - first_page));
            TornPage { path: listed.path.clone(), page: *page, block }
        };
        self.result.torn.extend(numbers.iter().map(torn));
        Ok(numbers)
    }

    async fn absorb(&mut self, piece: Piece) -> Result<Vec<PagePlace>> {
        let mut filling = self.filling();
        let settings = &self.copier.settings;
        let (hasher, page_size) = (settings.keyring.page_hasher(settings.lineage), settings.page_size);
        let work = move || {
            let places = filling.absorb(&piece, page_size, &hasher);
            (filling, places)
        };
        let (filling, places) = settings.world.compute(work).await;
        self.keep(filling).await?;
        Ok(places)
    }

    /// The pack that is being filled, or another one.
    fn filling(&mut self) -> Filling {
        self.filling.take().unwrap_or_else(|| {
            self.waiting_frames = 0;
            let filling = self.copier.new_filling();
            self.packs.insert(filling.number(), PendingPack::default());
            filling
        })
    }

    /// Goes on with a pack, or closes it.
    async fn keep(&mut self, filling: Filling) -> Result<()> {
        if filling.is_full() {
            return self.close(filling).await;
        }
        self.filling = Some(filling);
        Ok(())
    }

    fn count(&mut self, place: PagePlace, packs: &mut Packs) -> Place {
        match place {
            PagePlace::Zero => Place::Zero,
            PagePlace::Shared(place) => {
                self.result.shared_pages += 1;
                place
            }
            PagePlace::New { pack, position } => {
                self.result.changed_pages += 1;
                Place::Pack { pack: packs.number_of_new(pack, &self.packs[&pack]), position }
            }
        }
    }

    /// Seals the pack and uploads it while the next one is filled.
    async fn close(&mut self, filling: Filling) -> Result<()> {
        self.settle().await?;
        let (copier, pending) = (self.copier.clone(), self.packs[&filling.number()].clone());
        self.upload = Some(self.copier.settings.world.spawn(async move { copier.upload(filling, pending).await }));
        Ok(())
    }

    async fn settle(&mut self) -> Result<()> {
        if let Some(upload) = self.upload.take() {
            self.result.stored += upload.await?;
            self.result.packs += 1;
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        if let Some(filling) = self.filling.take() {
            self.close(filling).await?;
        }
        self.settle().await
    }
}

fn too_long(listed: &ListedFile) -> Error {
    Error::refused(format!("{} is longer than a file of an instance can be", text(&listed.path)), "look at this file")
}

fn too_scattered(listed: &ListedFile) -> Error {
    let what = format!("{} lies in too many places for a map", text(&listed.path));
    Error::refused(what, "make a backup with --full-read, which stores it in one piece")
}

/// A path for a message.
pub(crate) fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

impl Copier {
    /// The number of the next file in the listing, and the part of the parent's map that has it. Nothing more when a job failed.
    async fn take(&self) -> Result<Option<(usize, Option<Arc<PageMap>>)>> {
        let mut queue = self.queue.lock().await;
        let at = queue.next;
        let Some(listed) = self.listing.files.get(at).filter(|_| !self.failed.load(Ordering::Relaxed)) else {
            return Ok(None);
        };
        queue.next += 1;
        let part = match &mut queue.parent {
            Some(parent) => parent.holding(&listed.path).await?,
            None => None,
        };
        Ok(Some((at, part)))
    }

    /// Gives the map file number `at` of the listing, or that it vanished. Returns the length of what was stored.
    async fn hand_over(self: &Arc<Self>, at: usize, copied: Option<CopiedFile>) -> Result<u64> {
        let at = if at < control_number(&self.listing) { at } else { at + 1 };
        self.with_map(move |map| map.add(at, copied)).await
    }

    /// Parts are encoded and sealed on a processor thread; map objects that are full then are stored.
    async fn with_map(self: &Arc<Self>, change: impl FnOnce(&mut MapWriter) + Send + 'static) -> Result<u64> {
        let copier = self.clone();
        let work = move || {
            let mut map = copier.map();
            let map = map.as_mut().expect("the map is taken when all jobs ended");
            change(map);
            map.take_full()
        };
        let full = self.settings.world.compute(work).await;
        store_maps(self.settings.store.as_ref(), &full).await
    }

    fn map(&self) -> MutexGuard<'_, Option<MapWriter>> {
        self.map.lock().expect("no holder panics")
    }

    fn new_filling(&self) -> Filling {
        let number = self.next_pack.fetch_add(1, Ordering::Relaxed);
        let settings = &self.settings;
        let id = PackId { lineage: settings.lineage, attempt: settings.attempt, number };
        Filling::new(number, PackWriter::new(&settings.world, &settings.keyring, id), settings.level)
    }

    /// Counts bytes read, and waits when they came faster than the operator allows.
    async fn pace(&self, bytes: u64) {
        self.settings.observer.event(Event::Advance(bytes));
        let total = self.read.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(rate) = self.settings.rate {
            let due = Duration::from_micros(total.saturating_mul(1_000_000) / rate.max(1));
            let elapsed = self.settings.world.monotonic().saturating_sub(self.began);
            self.settings.world.sleep(due.saturating_sub(elapsed)).await;
        }
    }

    /// Returns the length of what was stored.
    async fn upload(self: Arc<Self>, filling: Filling, pending: PendingPack) -> Result<u64> {
        let settings = &self.settings;
        let (number, pack, mut encoder) = filling.into_pack();
        let keyring = settings.keyring.clone();
        let finished = settings.world.compute(move || pack.finish(&keyring, &mut encoder)).await;
        object::create(settings.store.as_ref(), &finished.object).await?;
        let (len, reference) = (finished.object.len, finished.object.reference);
        self.log.stored(StoredPack { number, len, digest: reference.digest });
        let id = PackId { lineage: settings.lineage, attempt: settings.attempt, number };
        let frames = (0u32..).zip(finished.index.frames.iter().map(|frame| frame.section)).collect();
        pending.set(MapPack { id, len, reference, frames }).expect("a pack is stored once");
        Ok(len + self.with_map(MapWriter::pack_stored).await?)
    }

    fn copied(&self, results: Vec<JobResult>) -> Copied {
        let page_size = self.settings.page_size as u64;
        let map = self.map().take().expect("it is taken once");
        let (packs, read) = (self.next_pack.load(Ordering::Relaxed), self.read.load(Ordering::Relaxed));
        let (torn, vanished) = (Vec::new(), Vec::new());
        let mut copied = Copied { map, packs, torn, vanished, read, changed: 0, stored: 0, shared: 0 };
        assert_eq!(results.iter().map(|result| result.packs).sum::<u32>(), packs, "every pack was stored");
        for result in results {
            copied.torn.extend(result.torn);
            copied.vanished.extend(result.vanished);
            copied.changed += result.changed_pages * page_size;
            copied.shared += result.shared_pages * page_size;
            copied.stored += result.stored;
        }
        copied
    }
}
