//! Maps of large instances, made as a backup makes them: files of 1 GiB come in no order, packs are stored later than the files that
//! begin in them, and nothing but the map is real.

use std::sync::Arc;

use asof_repository::codec::Codec;
use asof_repository::frames::Frames;
use asof_repository::keyring::Keyring;
use asof_repository::map::{
    CopiedFile, MapFile, MapPack, MapWriter, PendingPack, Place, Run, StoredMap, WAITING_FRAMES, frames_named, open_map,
};
use asof_repository::names::PackId;
use asof_repository::object::{self, Finished, Reference, Section};
use asof_repository::pack::PAGES_PER_FRAME;
use asof_repository::root::Repository;
use asof_world::Id;

use super::{Dice, page};

pub(crate) const PAGE: u32 = 8192;
const FRAMES_IN_GIB: u32 = (1 << 30) / (PAGE * PAGES_PER_FRAME);
/// Files that are copied at once.
const AT_ONCE: usize = 4;

/// What has changed since the last backup.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changed {
    Nothing,
    /// The first page of every file.
    Little,
}

/// An instance of `files` files of 1 GiB.
pub(crate) struct Large<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) lineage: Id,
    pub(crate) files: usize,
    /// Frames in a full pack.
    pub(crate) frames_in_pack: u32,
}

/// A map that was made, and is stored but for its last object.
pub(crate) struct Made {
    pub(crate) map: Finished,
    /// The length of all objects.
    pub(crate) len: u64,
    /// The most frames that were held at once.
    pub(crate) held_frames: usize,
}

struct Copy<'a> {
    large: &'a Large<'a>,
    attempt: Id,
    writer: MapWriter,
    dice: Dice,
    packs: u32,
    held_frames: usize,
    stored: u64,
}

impl Large<'_> {
    fn path(at: usize) -> Vec<u8> {
        format!("base/16384/{}", 20_000 + at).into_bytes()
    }

    fn copy(&self, attempt: Id, parent: Option<&StoredMap>) -> Copy<'_> {
        let paths: Vec<_> = (0..self.files).map(Self::path).collect();
        let (world, keyring): (_, &Keyring) = (&self.repository.world, &self.repository.keyring);
        let (ids, paths) = ((self.lineage, attempt), paths.iter().map(Vec::as_slice));
        let writer = MapWriter::new(world, keyring, ids, PAGE, &[], paths, parent);
        Copy { large: self, attempt, writer, dice: Dice(3), packs: 0, held_frames: 0, stored: 0 }
    }

    /// The map of the first backup.
    pub(crate) async fn first(&self, attempt: Id) -> Made {
        let mut copy = self.copy(attempt, None);
        for at in in_no_order(self.files) {
            let (runs, packs) = copy.new_file();
            let last = packs.last().unwrap().clone();
            for ((number, frames), pack) in packs.iter().take(packs.len() - 1) {
                pack.set(copy.pack(*number, *frames)).unwrap();
            }
            let packs = packs.into_iter().map(|(_, pack)| pack).collect();
            copy.add(at, CopiedFile { file: file(at, runs), part: None, packs }).await;
            let ((number, frames), pack) = last;
            pack.set(copy.pack(number, frames)).unwrap();
            copy.writer.pack_stored();
        }
        copy.end().await
    }

    /// The map of the next one.
    pub(crate) async fn next(&self, attempt: Id, parent: &Arc<StoredMap>, changed: Changed) -> Made {
        let mut copy = self.copy(attempt, Some(parent));
        let mut parts = parent.parts(0);
        let (mut filling, mut pages, mut waiting) = (PendingPack::default(), 0, 0);
        let mut parents = Vec::new();
        for at in in_no_order(self.files) {
            if at % AT_ONCE == AT_ONCE - 1 || parents.is_empty() {
                for at in at / AT_ONCE * AT_ONCE..=at {
                    parents.push(parts.holding(&Self::path(at)).await.unwrap().unwrap());
                }
            }
            let part = parents.pop().unwrap();
            let mut file = part.file(&Self::path(at)).unwrap().clone();
            let mut packs = Vec::new();
            if changed == Changed::Little {
                let (pack, position) = (u32::try_from(part.packs.len()).unwrap(), pages * PAGES_PER_FRAME);
                change_first_page(&mut file, Place::Pack { pack, position });
                packs.push(filling.clone());
                pages += 1;
            }
            waiting += frames_named(&file);
            copy.add(at, CopiedFile { file, part: Some(part), packs }).await;
            if pages > 0 && waiting >= WAITING_FRAMES {
                copy.store(std::mem::take(&mut filling), std::mem::take(&mut pages));
                waiting = 0;
            }
        }
        if pages > 0 {
            copy.store(filling, pages);
        }
        copy.end().await
    }

    async fn create(&self, objects: &[Finished]) -> u64 {
        for object in objects {
            object::create(self.repository.store.as_ref(), object).await.unwrap();
        }
        objects.iter().map(|object| object.len).sum()
    }

    /// Stores a map and opens it again.
    pub(crate) async fn stored(&self, attempt: Id, made: &Made) -> Arc<StoredMap> {
        let Repository { store, keyring, journal, .. } = self.repository;
        object::create(store.as_ref(), &made.map).await.unwrap();
        let digest = &made.map.reference.digest;
        Arc::new(open_map(store.clone(), keyring, journal.signers(), self.lineage, attempt, digest).await.unwrap())
    }
}

/// As jobs end them: every few the last comes first.
fn in_no_order(files: usize) -> impl Iterator<Item = usize> {
    (0..files).step_by(AT_ONCE).flat_map(move |first| (first..files.min(first + AT_ONCE)).rev())
}

fn file(at: usize, runs: Vec<Run>) -> MapFile {
    MapFile { path: Large::path(at), len: 1 << 30, runs }
}

fn change_first_page(file: &mut MapFile, place: Place) {
    let first = &mut file.runs[0];
    let Place::Pack { position, .. } = &mut first.place else { panic!("a page that is stored") };
    *position += 1;
    first.pages -= 1;
    file.runs.insert(0, Run { pages: 1, place, torn: false });
}

/// Number and frames of a pack, and the pack.
type New = ((u32, u32), PendingPack);

impl Copy<'_> {
    fn new_file(&mut self) -> (Vec<Run>, Vec<New>) {
        let (mut left, mut runs, mut packs) = (FRAMES_IN_GIB, Vec::new(), Vec::new());
        while left > 0 {
            let frames = left.min(self.large.frames_in_pack);
            let place = Place::Pack { pack: u32::try_from(packs.len()).unwrap(), position: 0 };
            runs.push(Run { pages: frames * PAGES_PER_FRAME, place, torn: false });
            packs.push(((self.packs, frames), PendingPack::default()));
            self.packs += 1;
            left -= frames;
        }
        (runs, packs)
    }

    async fn add(&mut self, at: usize, copied: CopiedFile) {
        self.writer.add(at, Some(copied));
        let full = self.writer.take_full();
        self.stored += self.large.create(&full).await;
        self.held_frames = self.held_frames.max(self.writer.held_frames());
    }

    fn store(&mut self, pending: PendingPack, frames: u32) {
        let pack = self.pack(self.packs, frames);
        self.packs += 1;
        pending.set(pack).unwrap();
        self.writer.pack_stored();
    }

    async fn end(self) -> Made {
        let Self { large, writer, held_frames, stored, .. } = self;
        let mut objects = writer.finish();
        let map = objects.pop().unwrap();
        Made { len: stored + large.create(&objects).await + map.len, map, held_frames }
    }

    /// A pack of full frames that are a third of their pages.
    fn pack(&mut self, number: u32, frames: u32) -> MapPack {
        let mut offset = 8;
        let sections = (0..frames).map(|n| {
            let stored_len = 35_000 + u32::try_from(self.dice.below(17_000)).unwrap();
            let plain_len = PAGE * PAGES_PER_FRAME;
            let section = Section { offset, stored_len, plain_len, codec: Codec::Zstd, digest: [0; 16] };
            offset += u64::from(stored_len);
            (n, section)
        });
        let frames: Frames = sections.collect();
        let id = PackId { lineage: self.large.lineage, attempt: self.attempt, number };
        MapPack { id, len: offset + 300_000, reference: proof(number), frames }
    }
}

/// Digests and sealed keys do not compress: different ones for every pack.
fn proof(number: u32) -> Reference {
    let noise = page(u64::from(number), 600);
    let mut proof = Reference { digest: [0; 32], sealed_data_key: [0; 80], header_digest: [0; 32] };
    proof.digest.copy_from_slice(&noise[..32]);
    proof.header_digest.copy_from_slice(&noise[32..64]);
    proof.sealed_data_key.copy_from_slice(&noise[64..144]);
    proof
}
