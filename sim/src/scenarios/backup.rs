//! Backups: attempts that write packs, a map and a commit entry. Whatever happens, a committed backup restores, every
//! page of it, and one whose commit returned is there for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use asof_repository::codec::{Decoder, Encoder};
use asof_repository::frames::Frames;
use asof_repository::journal::Journal;
use asof_repository::lineage::{
    Backup, BackupKind, BackupState, Entry, Lineage, Outcome as AttemptOutcome, Sizes, StoredPack,
};
use asof_repository::map::{MapFile, MapPack, PageMap, Place, Run, StoredMap, frames_of, open_map, write_map};
use asof_repository::names::{Name, PackId};
use asof_repository::object::{self, DataSections};
use asof_repository::pack::{PAGES_PER_FRAME, PackWriter, read_pack_index};
use asof_repository::store::ReadRange;
use asof_world::Id;
use async_trait::async_trait;
use serde_json::Value;

use super::journal::Registered;
use crate::Prng;
use crate::crash::{Machine, Outcome, Scenario, hold};

const PAGE: usize = 1024;
const PAGE_SIZE: u32 = 1024;
/// The files of the instance, and their pages: one that fills frames, one that does not, one that is empty.
const FILES: [(&str, u32); 3] = [("base/1/100", 40), ("base/1/200", 5), ("base/1/300", 0)];
/// The backups that are made one after the other; each shares what did not change since the one before.
const BACKUPS: [&str; 2] = ["monday", "tuesday"];

/// The page as it is when backup `backup` is made: of the first file every seventh page changes each time.
fn page(backup: usize, file: &str, block: u32) -> Vec<u8> {
    let version = if file == FILES[0].0 && block.is_multiple_of(7) { backup as u64 } else { 0 };
    Prng::new(version << 40 | u64::from(block) << 8 | file.len() as u64).bytes(PAGE)
}

/// Makes two backups, the second on top of the first.
pub struct Backups;

#[async_trait]
impl Scenario for Backups {
    type Context = Registered;
    /// Backups whose commit returned.
    type Ledger = BTreeSet<Id>;

    async fn prepare(&self, machine: &Machine) -> Outcome<Registered> {
        Registered::prepare(machine).await
    }

    async fn work(&self, machine: &Machine, registered: &Registered, ledger: &Mutex<Self::Ledger>) -> Outcome {
        let mut journal = registered.journal(machine).await?;
        abort_open_attempts(&mut journal).await?;
        for (number, name) in BACKUPS.iter().enumerate() {
            let made = journal.state().existing().iter().any(|state| state.backup.name == *name);
            if !made {
                let id = Attempt { machine, registered, number }.make(&mut journal).await?;
                ledger.lock().expect("no holder panics").insert(id);
            }
        }
        Ok(())
    }

    async fn check(&self, machine: &Machine, registered: &Registered, ledger: &Self::Ledger) -> Outcome {
        let journal = registered.journal(machine).await?;
        hold(journal.voids().is_empty(), || format!("slots count for nothing: {:?}", journal.voids()))?;
        let existing = journal.state().existing();
        for id in ledger {
            let there = existing.iter().any(|state| state.backup.id == *id);
            hold(there, || format!("backup {id} was committed and is not there"))?;
        }
        for state in existing {
            check_backup(machine, registered, state).await?;
        }
        Ok(())
    }
}

/// What a writer does with attempts of its own that a crash left open.
async fn abort_open_attempts(journal: &mut Journal<Lineage>) -> Outcome {
    let attempts = &journal.state().attempts;
    let open: Vec<Id> =
        attempts.iter().filter(|(_, attempt)| attempt.outcome == AttemptOutcome::Open).map(|(id, _)| *id).collect();
    for attempt in open {
        journal.append(0, Entry::AttemptAborted { attempt, reason: "its writer is gone".to_owned() }).await?;
    }
    Ok(())
}

/// One backup being made.
struct Attempt<'a> {
    machine: &'a Machine,
    registered: &'a Registered,
    number: usize,
}

impl Attempt<'_> {
    async fn make(&self, journal: &mut Journal<Lineage>) -> Outcome<Id> {
        let attempt = self.machine.world.id();
        journal.append(0, Entry::AttemptStarted { attempt }).await?;
        let parent = self.parent(journal).await?;
        let mut map = PageMap { page_size: PAGE_SIZE, directories: vec![b"base/1".to_vec()], ..PageMap::default() };
        if let Some((_, parent)) = &parent {
            map.packs.clone_from(&parent.packs);
        }
        for (file, pages) in FILES {
            let pack = PackId { lineage: self.registered.lineage, attempt, number: self.next_pack(&map, attempt) };
            let made = self.file(&mut map, pack, parent.as_ref().map(|(_, map)| map), file, pages).await?;
            map.files.push(made.file);
            if let Some(pack) = made.stored {
                journal.append(0, Entry::Progress { attempt, packs: vec![pack] }).await?;
            }
        }
        let Registered { keyring, lineage, .. } = self.registered;
        let parent = parent.as_ref().map(|(stored, _)| stored);
        let object = write_map(&self.machine.world, keyring, *lineage, attempt, &map, parent);
        object::create(self.machine.store.as_ref(), &object).await?;
        let backup = self.backup(attempt, object.reference.digest);
        journal.append(0, Entry::BackupCommitted(Box::new(backup))).await?;
        Ok(attempt)
    }

    async fn parent(&self, journal: &Journal<Lineage>) -> Outcome<Option<(StoredMap, PageMap)>> {
        match journal.state().existing().last() {
            None => Ok(None),
            Some(state) => Ok(Some(stored_map(self.machine, self.registered, state).await?)),
        }
    }

    fn next_pack(&self, map: &PageMap, attempt: Id) -> u32 {
        u32::try_from(map.packs.iter().filter(|pack| pack.id.attempt == attempt).count()).expect("a few packs")
    }

    /// Stores the pages of a file that changed, and names all of them in the map.
    async fn file(
        &self,
        map: &mut PageMap,
        id: PackId,
        parent: Option<&PageMap>,
        path: &str,
        pages: u32,
    ) -> Outcome<MadeFile> {
        let keyring = &self.registered.keyring;
        let hasher = keyring.page_hasher(self.registered.lineage);
        let before = parent.and_then(|parent| parent.file(path.as_bytes()));
        let same =
            |block: u32| before.is_some() && page(self.number, path, block) == page(self.number - 1, path, block);
        let changed: Vec<u32> = (0..pages).filter(|block| !same(*block)).collect();
        let (mut writer, mut encoder) = (PackWriter::new(&self.machine.world, keyring, id), Encoder::new(1));
        let (mut frames, mut places) = (Frames::default(), BTreeMap::new());
        let pack = u32::try_from(map.packs.len()).expect("a few packs");
        for blocks in changed.chunks(PAGES_PER_FRAME as usize) {
            let plain: Vec<Vec<u8>> = blocks.iter().map(|block| page(self.number, path, *block)).collect();
            let hashes: Vec<_> = blocks.iter().zip(&plain).map(|(block, page)| hasher.hash(*block, page)).collect();
            let (frame, section) = writer.frame(path.as_bytes(), blocks, &hashes, &plain.concat(), &mut encoder);
            assert!(frames.push(frame, &section), "frames come in order");
            places.extend(
                blocks
                    .iter()
                    .zip(frame * PAGES_PER_FRAME..)
                    .map(|(block, position)| (*block, Place::Pack { pack, position })),
            );
        }
        let stored = if writer.is_empty() { None } else { Some(self.store(map, id, writer, frames).await?) };
        let mut file = MapFile { path: path.into(), len: u64::from(pages) * PAGE as u64, runs: Vec::new() };
        for block in 0..pages {
            let place = places.get(&block).copied().unwrap_or_else(|| place_of(before.expect("it is the same"), block));
            file.push(Run { pages: 1, place, torn: false });
        }
        Ok(MadeFile { file, stored })
    }

    async fn store(&self, map: &mut PageMap, id: PackId, writer: PackWriter, frames: Frames) -> Outcome<StoredPack> {
        let object = writer.finish(&self.registered.keyring, &mut Encoder::new(1)).object;
        object::create(self.machine.store.as_ref(), &object).await?;
        map.packs.push(MapPack { id, len: object.len, reference: object.reference, frames });
        Ok(StoredPack { number: id.number, len: object.len, digest: object.reference.digest })
    }

    fn backup(&self, id: Id, map: [u8; 32]) -> Backup {
        let at = self.number as u64 * 1000;
        let time = self.machine.world.now().0;
        Backup {
            id,
            name: BACKUPS[self.number].to_owned(),
            kind: BackupKind::Manual,
            method: asof_repository::lineage::Method::Physical,
            started: time,
            stopped: time,
            timeline: 1,
            start: at,
            stop: at + 100,
            map,
            sizes: Sizes::default(),
            tainted: Vec::new(),
            tags: BTreeMap::new(),
            details: Value::Null,
        }
    }
}

struct MadeFile {
    file: MapFile,
    stored: Option<StoredPack>,
}

/// Where a page of a file lies.
fn place_of(file: &MapFile, block: u32) -> Place {
    let mut first = 0;
    for run in &file.runs {
        if block < first + run.pages {
            return match run.place {
                Place::Zero => Place::Zero,
                Place::Pack { pack, position } => Place::Pack { pack, position: position + block - first },
            };
        }
        first += run.pages;
    }
    panic!("the file has no block {block}")
}

// ---- Checking --------------------------------------------------------------------------------------------------------

async fn stored_map(machine: &Machine, registered: &Registered, state: &BackupState) -> Outcome<(StoredMap, PageMap)> {
    let Registered { keyring, signers, lineage } = registered;
    let Backup { id, map, .. } = &state.backup;
    let stored = open_map(machine.store.clone(), keyring, signers, *lineage, *id, map).await?;
    let whole = stored.whole().await?;
    Ok((stored, whole))
}

/// Every page of a backup is what it was, read as a restore reads it and as a scan does.
async fn check_backup(machine: &Machine, registered: &Registered, state: &BackupState) -> Outcome {
    let name = &state.backup.name;
    let number = BACKUPS.iter().position(|known| known == name).expect("only these are made");
    let (_, map) = stored_map(machine, registered, state).await?;
    let paths: Vec<&[u8]> = map.files.iter().map(|file| file.path.as_slice()).collect();
    hold(paths == FILES.map(|(path, _)| path.as_bytes()), || format!("{name} has other files than the instance"))?;
    let frames = open_frames(machine, registered, &map).await?;
    for (path, pages) in FILES {
        let file = map.file(path.as_bytes()).expect("it was compared");
        for block in 0..pages {
            let Place::Pack { pack, position } = place_of(file, block) else {
                return hold(false, || format!("{name}: page {block} of {path} is nowhere"));
            };
            let plain = &frames[&(pack, position / PAGES_PER_FRAME)];
            let start = (position % PAGES_PER_FRAME) as usize * PAGE;
            let same = plain.get(start..start + PAGE) == Some(&page(number, path, block));
            hold(same, || format!("{name}: page {block} of {path} is another one"))?;
        }
    }
    Ok(())
}

/// The plaintext of every frame that the map names, by pack and number.
async fn open_frames(
    machine: &Machine,
    registered: &Registered,
    map: &PageMap,
) -> Outcome<BTreeMap<(u32, u32), Vec<u8>>> {
    let (store, Registered { keyring, signers, .. }) = (machine.store.as_ref(), registered);
    let mut opened = BTreeMap::new();
    for (at, pack) in (0u32..).zip(&map.packs) {
        read_pack_index(store, keyring, signers, pack.id, &pack.reference.digest).await?;
        let name = Name::Pack(pack.id);
        let sections = DataSections::new(keyring, name, &pack.reference)?;
        for (number, section) in pack.frames.iter() {
            let range = ReadRange::Part { offset: section.offset, len: u64::from(section.stored_len) };
            let mut stored = store.read(&name.to_string(), range).await?.to_vec();
            let mut plain = vec![0; section.plain_len as usize];
            sections.open(number, &section, &mut stored, &mut plain, &mut Decoder::new())?;
            opened.insert((at, number), plain);
        }
    }
    let named = map.files.iter().flat_map(|file| &file.runs).all(|run| match run.place {
        Place::Zero => true,
        Place::Pack { pack, position } => {
            frames_of(position, run.pages).all(|frame| opened.contains_key(&(pack, frame)))
        }
    });
    hold(named, || "the map names a frame that its packs do not list".to_owned())?;
    Ok(opened)
}
