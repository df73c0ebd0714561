//! Streams into the repository: files of a logical backup are stored as those of a physical one are, in packs and a map.
//!
//! A stream has no length before its end, and its files come one after the other. So the pieces of each file are packed as they
//! come, its place in the map is kept, and the map is made at the end of all. Memory: a pack being filled, one being stored, and
//! some bytes for each file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use asof_repository::lineage::StoredPack;
use asof_repository::map::{
    CopiedFile, MOST_FRAMES_OF_A_FILE, MapFile, MapPack, MapWriter, PendingPack, Place, Run, frames_named,
};
use asof_repository::names::PackId;
use asof_repository::object::{self, Finished};
use asof_repository::pack::{PAGES_PER_FRAME, PackWriter};
use asof_world::{Id, Task};

use crate::backup::copy::{PackLog, store_maps, text};
use crate::backup::pages::{Filling, PagePlace, Piece};
use crate::error::{Error, Result};
use crate::shelf::Shelf;

/// Pages of a dump have nothing to do with those of an instance. The largest that maps know make frames of a megabyte, which
/// compress best and are few.
pub(crate) const PAGE_SIZE: usize = 64 << 10;
const FRAME_LEN: usize = PAGES_PER_FRAME as usize * PAGE_SIZE;
/// Pieces of a file are handled from this length on: four frames.
const STEP_LEN: usize = 4 * FRAME_LEN;
/// zstd's level: what keeps up with `pg_dump`.
const LEVEL: i32 = 1;

/// Files that are being stored under one attempt.
pub(crate) struct Shelving {
    shelf: Shelf,
    attempt: Id,
    log: Arc<dyn PackLog>,
    filling: Option<(Filling, PendingPack)>,
    next_pack: Arc<AtomicU32>,
    upload: Option<Task<Result<u64>>>,
    open: Option<Open>,
    /// Of the last file, for the next.
    memory: (Vec<u8>, Vec<u8>),
    files: Vec<CopiedFile>,
    changed: u64,
    stored: u64,
}

/// The file whose pieces are coming.
struct Open {
    file: MapFile,
    packs: Vec<(u32, PendingPack)>,
    /// What does not fill a step yet.
    rest: Vec<u8>,
    /// Memory for the next step.
    spare: Vec<u8>,
}

/// What was stored.
pub(crate) struct Shelved {
    /// The digest of the end of the map.
    pub(crate) map: asof_repository::crypto::Digest,
    /// Length of all files.
    pub(crate) total: u64,
    pub(crate) changed: u64,
    pub(crate) stored: u64,
    pub(crate) files: u64,
}

impl Shelving {
    pub(crate) fn new(shelf: &Shelf, attempt: Id, log: Arc<dyn PackLog>) -> Self {
        Self {
            shelf: shelf.clone(),
            attempt,
            log,
            filling: None,
            next_pack: Arc::default(),
            upload: None,
            open: None,
            memory: Default::default(),
            files: Vec::new(),
            changed: 0,
            stored: 0,
        }
    }

    /// Another one of the same attempt, for files that come at the same time.
    pub(crate) fn beside(&self) -> Self {
        Self { next_pack: self.next_pack.clone(), ..Self::new(&self.shelf, self.attempt, self.log.clone()) }
    }

    /// Takes over what another one of the same attempt has stored.
    pub(crate) async fn join(&mut self, mut other: Self) -> Result<()> {
        other.settle_all().await?;
        self.files.append(&mut other.files);
        self.changed += other.changed;
        self.stored += other.stored;
        Ok(())
    }

    /// Begins a file. Paths come in any order, each once.
    pub(crate) fn begin(&mut self, path: &str) {
        assert!(self.open.is_none(), "one file ends before the next begins");
        let (rest, spare) = std::mem::take(&mut self.memory);
        let file = MapFile { path: path.as_bytes().to_vec(), len: 0, runs: Vec::new() };
        self.open = Some(Open { file, packs: Vec::new(), rest, spare });
    }

    /// The next bytes of the file.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let open = self.open.as_mut().expect("a file was begun");
        open.rest.extend_from_slice(bytes);
        if open.rest.len() < STEP_LEN {
            return Ok(());
        }
        let ready = open.rest.len() / FRAME_LEN * FRAME_LEN;
        let mut next = std::mem::take(&mut open.spare);
        next.clear();
        next.extend_from_slice(&open.rest[ready..]);
        let mut step = std::mem::replace(&mut open.rest, next);
        step.truncate(ready);
        self.pack(step).await
    }

    /// Ends the file.
    pub(crate) async fn end(&mut self) -> Result<()> {
        let rest = std::mem::take(&mut self.open.as_mut().expect("a file was begun").rest);
        if !rest.is_empty() {
            self.pack(rest).await?;
        }
        let mut open = self.open.take().expect("a file was begun");
        open.rest.clear();
        self.memory = (open.rest, std::mem::take(&mut open.spare));
        if let Some((filling, _)) = &mut self.filling {
            filling.end_frame(&open.file.path);
        }
        if frames_named(&open.file) > MOST_FRAMES_OF_A_FILE {
            let what = format!("{} is too long for a map", text(&open.file.path));
            return Err(Error::refused(what, "dump its tables by themselves (--table, --exclude-table)"));
        }
        let packs = open.packs.into_iter().map(|(_, pack)| pack).collect();
        self.files.push(CopiedFile { file: open.file, part: None, packs });
        Ok(())
    }

    /// Stores a whole small file.
    pub(crate) async fn put(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.begin(path);
        self.write(bytes).await?;
        self.end().await
    }

    async fn pack(&mut self, bytes: Vec<u8>) -> Result<()> {
        let (mut filling, pending) = self.filling.take().unwrap_or_else(|| self.new_filling());
        let open = self.open.as_mut().expect("a file was begun");
        let first_page = u32::try_from(open.file.len / PAGE_SIZE as u64)
            .map_err(|_| Error::refused("the dump is longer than a map can say", "dump its tables by themselves"))?;
        let piece = Piece { path: open.file.path.clone(), bytes, first_page, known: Vec::new() };
        let hasher = self.shelf.keyring.page_hasher(self.shelf.lineage);
        let len = piece.bytes.len() as u64;
        let work = move || {
            let places = filling.absorb(&piece, PAGE_SIZE, &hasher);
            (filling, places, piece.bytes)
        };
        let (filling, places, spare) = self.shelf.world.compute(work).await;
        open.spare = spare;
        open.file.len += len;
        for place in places {
            let place = placed(place, open, filling.number(), &pending);
            self.changed += if place == Place::Zero { 0 } else { PAGE_SIZE as u64 };
            open.file.push(Run { pages: 1, place, torn: false });
        }
        if filling.is_full() {
            return self.close(filling, pending).await;
        }
        self.filling = Some((filling, pending));
        Ok(())
    }

    fn new_filling(&mut self) -> (Filling, PendingPack) {
        let number = self.next_pack.fetch_add(1, Ordering::Relaxed);
        let id = self.pack_id(number);
        let pack = PackWriter::new(&self.shelf.world, &self.shelf.keyring, id);
        (Filling::new(number, pack, LEVEL), PendingPack::default())
    }

    fn pack_id(&self, number: u32) -> PackId {
        PackId { lineage: self.shelf.lineage, attempt: self.attempt, number }
    }

    /// Seals the pack and stores it while the next one is filled.
    async fn close(&mut self, filling: Filling, pending: PendingPack) -> Result<()> {
        self.settle().await?;
        let (shelf, log, id) = (self.shelf.clone(), self.log.clone(), self.pack_id(filling.number()));
        self.upload = Some(self.shelf.world.spawn(upload(shelf, log, id, filling, pending)));
        Ok(())
    }

    async fn settle(&mut self) -> Result<()> {
        if let Some(upload) = self.upload.take() {
            self.stored += upload.await?;
        }
        Ok(())
    }

    async fn settle_all(&mut self) -> Result<()> {
        assert!(self.open.is_none(), "the last file was ended");
        if let Some((filling, pending)) = self.filling.take().filter(|(filling, _)| !filling.is_empty()) {
            self.close(filling, pending).await?;
        }
        self.settle().await
    }

    /// Stores what is left, and the map of all files.
    pub(crate) async fn finish(mut self) -> Result<Shelved> {
        self.settle_all().await?;
        self.files.sort_by(|a, b| a.file.path.cmp(&b.file.path));
        let (files, total) = (self.files.len() as u64, self.files.iter().map(|copied| copied.file.len).sum());
        let (shelf, attempt, copied) = (self.shelf.clone(), self.attempt, std::mem::take(&mut self.files));
        let objects = self.shelf.world.compute(move || map_of(&shelf, attempt, copied)).await;
        let map = objects.last().expect("the map itself comes last").reference.digest;
        let stored = self.stored + store_maps(self.shelf.store.as_ref(), &objects).await?;
        Ok(Shelved { map, total, changed: self.changed, stored, files })
    }
}

fn map_of(shelf: &Shelf, attempt: Id, files: Vec<CopiedFile>) -> Vec<Finished> {
    let paths: Vec<Vec<u8>> = files.iter().map(|copied| copied.file.path.clone()).collect();
    let page_size = u32::try_from(PAGE_SIZE).expect("a page is short");
    let (ids, paths) = ((shelf.lineage, attempt), paths.iter().map(Vec::as_slice));
    let mut map = MapWriter::new(&shelf.world, &shelf.keyring, ids, page_size, &[], paths, None);
    let mut full = Vec::new();
    for (at, copied) in files.into_iter().enumerate() {
        map.add(at, Some(copied));
        full.append(&mut map.take_full());
    }
    full.append(&mut map.finish());
    full
}

/// A place in the words of the file's own list of packs.
fn placed(place: PagePlace, open: &mut Open, filling: u32, pending: &PendingPack) -> Place {
    match place {
        PagePlace::Zero => Place::Zero,
        PagePlace::Shared(place) => place,
        PagePlace::New { position, .. } => {
            let known = open.packs.iter().rposition(|(number, _)| *number == filling);
            let at = known.unwrap_or_else(|| {
                open.packs.push((filling, pending.clone()));
                open.packs.len() - 1
            });
            Place::Pack { pack: u32::try_from(at).expect("a file lies in few packs"), position }
        }
    }
}

async fn upload(
    shelf: Shelf,
    log: Arc<dyn PackLog>,
    id: PackId,
    filling: Filling,
    pending: PendingPack,
) -> Result<u64> {
    let (number, pack, mut encoder) = filling.into_pack();
    let keyring = shelf.keyring.clone();
    let finished = shelf.world.compute(move || pack.finish(&keyring, &mut encoder)).await;
    object::create(shelf.store.as_ref(), &finished.object).await?;
    let (len, reference) = (finished.object.len, finished.object.reference);
    log.stored(StoredPack { number, len, digest: reference.digest });
    let frames = (0u32..).zip(finished.index.frames.iter().map(|frame| frame.section)).collect();
    pending.set(MapPack { id, len, reference, frames }).expect("a pack is stored once");
    Ok(len)
}
