//! Copies the files of a running instance into packs: several jobs, each with a pack of its own, in little memory.
//!
//! A page whose checksum does not hold is read again, because the server may have been writing it. One that never becomes
//! valid is stored as it is, marked, and reported; whether WAL repairs it is decided by [`super::torn`] when all WAL is there.
//! Files that vanish or shrink while they are read are normal; any other failure to read fails the backup.
//!
//! Memory: a job holds one pack being filled, one being uploaded and one piece of a file: about 70 MiB. The map grows with the
//! instance, by about 200 MiB for each TiB at its peak (docs/decisions/0012-frames-in-few-bytes.md).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asof_postgres::names::FileKind;
use asof_repository::keyring::Keyring;
use asof_repository::lineage::StoredPack;
use asof_repository::map::{MapFile, MapPack, PageMap, Place, Run};
use asof_repository::names::PackId;
use asof_repository::object;
use asof_repository::pack::PackWriter;
use asof_repository::store::Store;
use asof_world::{Id, Task, World, planted};

use super::known::{Known, KnownFile, KnownPages};
use super::pages::{Filling, PagePlace, Piece, invalid_pages};
use super::run;
use super::torn::TornPage;
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};
use crate::source::{ListedFile, Source, SourceFile};

/// How much of a file is read and handled at once.
pub(super) const PIECE_LEN: usize = 1 << 20;
/// A file that keeps a job busy for long.
const LARGE: u64 = 64 << 20;
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
    pub(crate) known: Option<Arc<KnownPages>>,
    pub(crate) observer: Arc<dyn Observer>,
}

/// What a copy read and stored.
#[derive(Default)]
pub(crate) struct Copied {
    pub(crate) map: PageMap,
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
    next_pack: AtomicU32,
    queue: Mutex<std::vec::IntoIter<ListedFile>>,
    read: AtomicU64,
    began: Duration,
}

/// Marks, until all packs are known, the number of a pack of this attempt; other numbers are those of the parent's map.
const OF_THIS_ATTEMPT: u32 = 1 << 31;

#[derive(Default)]
struct JobResult {
    files: Vec<MapFile>,
    changed_pages: u64,
    shared_pages: u64,
    packs: Vec<(u32, MapPack)>,
    torn: Vec<TornPage>,
    vanished: Vec<Vec<u8>>,
}

/// Copies `files` and returns their map. The directories are left to the caller.
pub(crate) async fn copy(
    settings: CopySettings,
    source: Arc<dyn Source>,
    files: Vec<ListedFile>,
    log: Arc<dyn PackLog>,
) -> Result<Copied> {
    let began = settings.world.monotonic();
    let (jobs, world) = (settings.jobs.max(1), settings.world.clone());
    let queue = Mutex::new(large_first(files).into_iter());
    let (next_pack, read) = (AtomicU32::new(0), AtomicU64::new(0));
    let copier = Arc::new(Copier { settings, source, log, next_pack, queue, read, began });
    let running: Vec<_> = (0..jobs).map(|_| world.spawn(Job::run(copier.clone()))).collect();
    // Every job is awaited, also after a failure: nothing of the attempt goes on in the background.
    let mut results = Vec::new();
    for job in running {
        results.push(job.await);
    }
    let results = results.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(copier.assemble(results))
}

/// Large files first, the largest before all, so that no job is left alone with one at the end; the others in order of path.
fn large_first(mut files: Vec<ListedFile>) -> Vec<ListedFile> {
    files.sort_by_key(|file| std::cmp::Reverse(if file.len < LARGE { 0 } else { file.len }));
    files
}

struct Job {
    copier: Arc<Copier>,
    filling: Option<Filling>,
    upload: Option<Task<Result<(u32, MapPack)>>>,
    result: JobResult,
}

impl Job {
    async fn run(copier: Arc<Copier>) -> Result<JobResult> {
        let mut job = Self { copier, filling: None, upload: None, result: JobResult::default() };
        let copied = job.copy_all().await;
        if copied.is_err() {
            job.filling = None; // a file was left in the middle
        }
        // An upload that was started is awaited in any case.
        let ended = job.end().await;
        copied.and(ended).map(|()| job.result)
    }

    async fn copy_all(&mut self) -> Result<()> {
        loop {
            let next = self.copier.queue.lock().expect("no holder panics").next();
            let Some(listed) = next else { return Ok(()) };
            match self.copier.source.open(&listed.path).await {
                Ok(Some(file)) => self.copy_file(&listed, file.as_ref()).await?,
                Ok(None) => self.result.vanished.push(listed.path),
                Err(error) => {
                    self.copier.give_up();
                    return Err(error);
                }
            }
        }
    }

    async fn copy_file(&mut self, listed: &ListedFile, file: &dyn SourceFile) -> Result<()> {
        let copied = self.copy_pages(listed, file).await;
        match copied {
            Ok(copied) => self.result.files.push(copied),
            Err(error) => {
                self.copier.give_up();
                return Err(error);
            }
        }
        Ok(())
    }

    async fn copy_pages(&mut self, listed: &ListedFile, file: &dyn SourceFile) -> Result<MapFile> {
        let copier = self.copier.clone();
        let page_size = copier.settings.page_size;
        let mut known = match &copier.settings.known {
            Some(known) => Ahead { file: known.file(&listed.path).await?, ready: Vec::new() },
            None => Ahead { file: None, ready: Vec::new() },
        };
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
                copied.push(Run { pages: 1, place: self.count(place), torn: step.torn.contains(&page) });
            }
            if step.ended {
                break;
            }
        }
        if let Some(filling) = &mut self.filling {
            filling.end_frame(&listed.path);
        }
        Ok(copied)
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
        let filling = self.filling.take().unwrap_or_else(|| self.copier.new_filling());
        let ran = settings.world.compute(move || run.go(filling)).await;
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
        let mut filling = self.filling.take().unwrap_or_else(|| self.copier.new_filling());
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

    /// Goes on with a pack, or closes it.
    async fn keep(&mut self, filling: Filling) -> Result<()> {
        if filling.is_full() {
            return self.close(filling).await;
        }
        self.filling = Some(filling);
        Ok(())
    }

    fn count(&mut self, place: PagePlace) -> Place {
        match place {
            PagePlace::Zero => Place::Zero,
            PagePlace::Shared(place) => {
                self.result.shared_pages += 1;
                place
            }
            PagePlace::New { pack, position } => {
                self.result.changed_pages += 1;
                Place::Pack { pack: OF_THIS_ATTEMPT | pack, position }
            }
        }
    }

    /// Seals the pack and uploads it while the next one is filled.
    async fn close(&mut self, filling: Filling) -> Result<()> {
        self.settle().await?;
        let copier = self.copier.clone();
        self.upload = Some(self.copier.settings.world.spawn(async move { copier.upload(filling).await }));
        Ok(())
    }

    async fn settle(&mut self) -> Result<()> {
        if let Some(upload) = self.upload.take() {
            self.result.packs.push(upload.await?);
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

/// Where in a file the next step begins, and how much is left of it.
struct At {
    offset: u64,
    first_page: u32,
    wanted: usize,
}

/// What one step handled.
#[derive(Default)]
struct Step {
    len: usize,
    places: Vec<PagePlace>,
    /// Page numbers that never held.
    torn: Vec<u32>,
    /// Whether the file ended earlier than it was.
    ended: bool,
}

/// What the parent has of a file, read as it is wanted.
struct Ahead<'a> {
    file: Option<KnownFile<'a>>,
    ready: Vec<Known>,
}

impl Ahead<'_> {
    /// The next pages, which are not used up; nothing without a parent.
    async fn first(&mut self, pages: usize) -> Result<&[Known]> {
        if let Some(file) = &mut self.file
            && self.ready.len() < pages
        {
            self.ready.extend(file.next(pages - self.ready.len()).await?);
        }
        Ok(&self.ready[..pages.min(self.ready.len())])
    }

    fn used(&mut self, pages: usize) {
        self.ready.drain(..pages.min(self.ready.len()));
    }
}

fn too_long(listed: &ListedFile) -> Error {
    Error::refused(format!("{} is longer than a file of an instance can be", text(&listed.path)), "look at this file")
}

/// A path for a message.
pub(crate) fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

impl Copier {
    /// Lets the other jobs end after the file at hand.
    fn give_up(&self) {
        let mut queue = self.queue.lock().expect("no holder panics");
        *queue = Vec::new().into_iter();
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

    async fn upload(&self, filling: Filling) -> Result<(u32, MapPack)> {
        let settings = &self.settings;
        let (number, pack, mut encoder) = filling.into_pack();
        let keyring = settings.keyring.clone();
        let finished = settings.world.compute(move || pack.finish(&keyring, &mut encoder)).await;
        object::create(settings.store.as_ref(), &finished.object).await?;
        let (len, reference) = (finished.object.len, finished.object.reference);
        self.log.stored(StoredPack { number, len, digest: reference.digest });
        let id = PackId { lineage: settings.lineage, attempt: settings.attempt, number };
        let frames = (0u32..).zip(finished.index.frames.iter().map(|frame| frame.section)).collect();
        Ok((number, MapPack { id, len, reference, frames }))
    }

    /// One numbering for packs: those of the parent first, then those of this attempt.
    fn assemble(&self, results: Vec<JobResult>) -> Copied {
        let settings = &self.settings;
        let page_size = u32::try_from(settings.page_size).expect("a page is short");
        let mut copied = Copied { read: self.read.load(Ordering::Relaxed), ..Copied::default() };
        let parents = settings.known.as_ref().map_or(Vec::new(), |known| known.packs().to_vec());
        let first_new = u32::try_from(parents.len()).expect("packs are numbered with 32 bits");
        let mut packs = BTreeMap::new();
        for result in results {
            packs.extend(result.packs);
            copied.map.files.extend(result.files);
            copied.torn.extend(result.torn);
            copied.vanished.extend(result.vanished);
            copied.changed += result.changed_pages * settings.page_size as u64;
            copied.shared += result.shared_pages * settings.page_size as u64;
        }
        copied.stored = packs.values().map(|pack: &MapPack| pack.len).sum();
        assert!(packs.keys().copied().eq(0..u32::try_from(packs.len()).expect("few packs")), "every pack was stored");
        let runs = copied.map.files.iter_mut().flat_map(|file| &mut file.runs);
        for pack in runs.filter_map(|run| match &mut run.place {
            Place::Pack { pack, .. } => Some(pack),
            Place::Zero => None,
        }) {
            if *pack & OF_THIS_ATTEMPT != 0 {
                *pack = first_new + (*pack & !OF_THIS_ATTEMPT);
            }
        }
        copied.map.files.sort_by(|a, b| a.path.cmp(&b.path));
        copied.map.packs = parents.into_iter().chain(packs.into_values()).collect();
        copied.map.page_size = page_size;
        copied
    }
}
