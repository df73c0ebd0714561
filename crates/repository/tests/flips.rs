//! Every bit counts (hazards, T6): whatever is flipped, cut, swapped, replayed or deleted in a repository, a reader says
//! which object it is, and hands out no wrong byte.
//!
//! Small objects are flipped bit by bit; packs and maps at random places, 2,000 or as many as `ASOF_FLIPS` asks for. The
//! seed is printed and can be given as `ASOF_SEED`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests touch real files and stop when surprised")]
#![allow(clippy::disallowed_macros, reason = "figures of a campaign are read on the terminal")]

mod support;

use std::collections::BTreeMap;

use asof_repository::codec::{Decoder, Encoder};
use asof_repository::error::{Error, Result};
use asof_repository::journal::Journal;
use asof_repository::keyring::Role;
use asof_repository::lineage::{Entry, Lineage};
use asof_repository::names::{JournalOf, Name, PackId, WalPosition};
use asof_repository::object::{self, Kind};
use asof_repository::pack::read_pack_index;
use asof_repository::root::{self, Key, Repository};
use asof_repository::wal::{
    Observation, WalInfo, read_history, read_observation, read_wal, read_wal_index, write_history, write_observation,
    write_wal,
};
use asof_world::Id;

use support::{Dice, Home, Tree, Written, backup_entry, chain, page, read_tree, store_backup};

const PAGE: u32 = 8192;

/// A small repository with two backups, of which the second shares packs and a part of the map with the first.
struct Scene {
    home: Home,
    key: Key,
    key_id: Id,
    repository: Repository,
    lineage: Id,
    backups: [(Written, Tree); 2],
    wal: Vec<(Name, Vec<u8>)>,
    history: Vec<u8>,
    entries: [u64; 2],
}

const OBSERVATION: Observation = Observation { time: 1_767_225_600_000_000, flushed: 0x110_0000 };

fn observed_at(lineage: Id) -> WalPosition {
    WalPosition { lineage, timeline: 1, start: 0x110_0000 }
}

impl Scene {
    async fn new() -> Self {
        let home = Home::new();
        let (mut repository, new) = root::init(&home.world, home.store(), false).await.unwrap();
        let (lineage, mut journal) = repository.register("prod", BTreeMap::new(), None).await.unwrap();
        repository.add_write_only("db host").await.unwrap();
        // Enough small files for a map of several parts, so that the second map refers to some of the first.
        let mut tree: Tree = (0..150u64).map(|n| (format!("base/1/{n}").into_bytes(), page(n, 9000))).collect();
        tree.insert(b"base/1/1259".to_vec(), page(1, 40 * PAGE as usize - 5));
        tree.insert(b"base/1/zero".to_vec(), vec![0; 3 * PAGE as usize]);
        let first = store_backup(&repository, lineage, Id([1; 16]), (PAGE, 70), &tree, None).await;
        let parent = Self::map(&repository, lineage, &first).await.unwrap();
        let mut changed = tree.clone();
        changed.get_mut(b"base/1/1259".as_slice()).unwrap()[100_000] ^= 1;
        let second =
            store_backup(&repository, lineage, Id([2; 16]), (PAGE, 70), &changed, Some((&parent, &tree))).await;
        for (written, name) in [(&first, "one"), (&second, "two")] {
            let attempt = written.attempt;
            journal.append(0, Entry::AttemptStarted { attempt }).await.unwrap();
            journal.append(0, Entry::Progress { attempt, packs: written.packs.clone() }).await.unwrap();
            journal.append(0, Entry::BackupCommitted(Box::new(backup_entry(written, name)))).await.unwrap();
        }
        let (store, keyring) = (repository.store.as_ref(), &repository.keyring);
        let at = |start| WalPosition { lineage, timeline: 1, start };
        let mut wal = Vec::new();
        for (name, start, len) in [
            (Name::WalChunk(at(0x100_0000)), 0x100_0000u64, 5000),
            (Name::WalMerged(at(0x100_0000), 1), 0x100_0000, 6000),
            (Name::WalSegment(at(0x100_0000)), 0x100_0000, 1 << 20),
        ] {
            let plain = page(len as u64, len);
            let info =
                WalInfo { system_identifier: 7, segment_size: 1 << 20, end: start + len as u64, ..WalInfo::default() };
            let object = write_wal(&home.world, keyring, name, &info, &plain, &mut Encoder::new(3));
            object::create(store, &object).await.unwrap();
            wal.push((name, plain));
        }
        let history = b"1\t0/1100000\tno recovery target specified\n".to_vec();
        object::create(store, &write_history(&home.world, keyring, lineage, 2, &history)).await.unwrap();
        let seen = write_observation(&home.world, keyring, observed_at(lineage), 0, &OBSERVATION);
        object::create(store, &seen).await.unwrap();
        let entries = [repository.journal.number(), journal.number()];
        let (key, key_id) = (Key::parse(&new.text).unwrap(), new.id);
        let backups = [(first, tree), (second, changed)];
        Self { home, key, key_id, repository, lineage, backups, wal, history, entries }
    }

    async fn map(repository: &Repository, lineage: Id, written: &Written) -> Result<support::ReadMap> {
        support::read_map(repository, lineage, written.attempt, &written.digest).await
    }

    async fn open(&self) -> Result<Repository> {
        root::open(&self.home.world, self.home.store(), &self.key, Some(self.repository.root.fingerprint())).await
    }

    async fn journal(&self) -> Result<Journal<Lineage>> {
        self.repository.lineage(self.lineage).await
    }

    fn packs(&self) -> Vec<(Name, &Written)> {
        let mut packs = Vec::new();
        for (written, _) in &self.backups {
            for pack in &written.packs {
                let id = PackId { lineage: self.lineage, attempt: written.attempt, number: pack.number };
                packs.push((Name::Pack(id), written));
            }
        }
        packs
    }

    fn maps(&self) -> Vec<Name> {
        self.backups.iter().map(|(written, _)| Name::Map { lineage: self.lineage, attempt: written.attempt }).collect()
    }

    fn slots(&self) -> Vec<Name> {
        let slots = |of, last| (1..=last).map(move |number| Name::Entry(of, number));
        let [repository, lineage] = self.entries;
        slots(JournalOf::Repository, repository).chain(slots(JournalOf::Lineage(self.lineage), lineage)).collect()
    }

    /// All stored objects.
    fn all(&self) -> Vec<Name> {
        let history = Name::History { lineage: self.lineage, timeline: 2 };
        let observed = Name::Observed(observed_at(self.lineage), 0);
        let mut names = vec![Name::Root, Name::Key(self.key_id), history, observed];
        names.extend(self.slots());
        names.extend(self.maps());
        names.extend(self.packs().iter().map(|(name, _)| *name));
        names.extend(self.wal.iter().map(|(name, _)| *name));
        names
    }

    /// Reads everything that the object serves and compares it with what was stored.
    async fn serve(&self, name: Name) -> Result<()> {
        let (store, keyring) = (self.repository.store.as_ref(), &self.repository.keyring);
        let signers = self.repository.journal.signers();
        match name {
            Name::Root | Name::Key(_) | Name::Entry(JournalOf::Repository, _) => {
                let repository = self.open().await?;
                assert_eq!(repository.journal.state(), self.repository.journal.state());
                assert_eq!(repository.root, self.repository.root);
            }
            Name::Entry(JournalOf::Lineage(_), _) => {
                let journal = self.journal().await?;
                assert_eq!(journal.number(), self.entries[1]);
                assert_eq!(journal.voids(), []);
                assert_eq!(journal.state().backups.len(), 2);
            }
            Name::Pack(_) => self.serve_pack(name).await?,
            Name::Map { attempt, .. } => {
                // Whoever reads all of it sees its first bytes as well.
                self.whole(name, Kind::Map).await?;
                for (written, _) in &self.backups {
                    if written.attempt == attempt {
                        let stored = Self::map(&self.repository, self.lineage, written).await?;
                        assert_eq!(support::flatten(&stored.map), support::flatten(&written.map));
                    }
                }
            }
            Name::WalChunk(_) | Name::WalMerged(..) | Name::WalSegment(_) => {
                let (_, plain) = read_wal(store, keyring, signers, name).await?;
                let expected = self.wal.iter().find(|(wal, _)| *wal == name).map(|(_, plain)| plain);
                assert_eq!(Some(&plain), expected);
            }
            Name::Observed(at, number) => {
                // Whoever reads its end alone learns nothing from its first bytes.
                self.whole(name, Kind::Observation).await?;
                let seen = read_observation(store, keyring, signers, at, number).await?;
                assert_eq!(seen, OBSERVATION);
            }
            Name::History { timeline, .. } => {
                let plain = read_history(store, keyring, signers, self.lineage, timeline).await?;
                assert_eq!(plain, self.history);
            }
        }
        Ok(())
    }

    async fn whole(&self, name: Name, kind: Kind) -> Result<object::Opened> {
        let bytes = object::read(self.repository.store.as_ref(), name).await?;
        object::open(&self.repository.keyring, self.repository.journal.signers(), Role::Writer, name, kind, &bytes)
    }

    /// Every byte of a pack: its first, its frames by way of its own index, and the pages that maps name.
    async fn serve_pack(&self, name: Name) -> Result<()> {
        let Name::Pack(id) = name else { panic!("{name}") };
        let (store, keyring) = (self.repository.store.as_ref(), &self.repository.keyring);
        let signers = self.repository.journal.signers();
        let (_, written) = *self.packs().iter().find(|(pack, _)| *pack == name).unwrap();
        let digest = written.packs[id.number as usize].digest;
        self.whole(name, Kind::Pack).await?;
        let (index, opened) = read_pack_index(store, keyring, signers, id, &digest).await?;
        let sections = opened.data_sections(keyring, name)?;
        let bytes = object::read(store, name).await?;
        let hasher = keyring.page_hasher(self.lineage);
        for (number, frame) in (0u32..).zip(&index.frames) {
            let at = usize::try_from(frame.section.offset).unwrap();
            let mut stored = bytes[at..at + frame.section.stored_len as usize].to_vec();
            let mut plain = vec![0; frame.section.plain_len as usize];
            sections.open(number, &frame.section, &mut stored, &mut plain, &mut Decoder::new())?;
            for ((block, hash), page) in frame.blocks.iter().zip(&frame.hashes).zip(plain.chunks(PAGE as usize)) {
                assert_eq!(hasher.hash(*block, page), *hash);
            }
        }
        Ok(())
    }

    /// Damages an object, and holds what its readers say against what they must; then makes it whole again.
    async fn damaged(&self, name: Name, bytes: Option<&[u8]>, what: &str) {
        let whole = self.home.bytes(name);
        match bytes {
            Some(bytes) => self.home.overwrite(name, bytes),
            None => self.home.remove(name),
        }
        match self.serve(name).await {
            Ok(()) => panic!("{what} of {name} was not seen"),
            Err(error) => assert_named(&error, name, what),
        }
        self.home.overwrite(name, &whole);
    }
}

fn assert_named(error: &Error, name: Name, what: &str) {
    // A root that is not ours is refused under the place of the repository.
    let named = chain(error).contains(&name.to_string()) || matches!((name, error), (Name::Root, Error::Denied { .. }));
    assert!(named, "{what} of {name} is not named: {}", chain(error));
    assert!(!error.is_transient(), "{what} of {name} is not a matter of patience: {error}");
}

fn flipped(whole: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

fn asked(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

fn seed() -> u64 {
    let seed = std::env::var("ASOF_SEED").map_or(20_260_101, |text| text.parse().unwrap());
    println!("ASOF_SEED={seed}");
    seed
}

#[tokio::test]
async fn an_untouched_repository_serves_everything() {
    let scene = Scene::new().await;
    for name in scene.all() {
        scene.serve(name).await.unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
    }
    let store = scene.repository.store.as_ref();
    for (written, tree) in &scene.backups {
        let stored = Scene::map(&scene.repository, scene.lineage, written).await.unwrap();
        assert_eq!(&read_tree(store, &scene.repository.keyring, &stored.map).await.unwrap(), tree);
    }
    let listed: Vec<_> = store.list("").await.unwrap().into_iter().map(|listed| listed.name).collect();
    let mut known: Vec<_> = scene.all().iter().map(ToString::to_string).collect();
    known.sort();
    assert_eq!(listed, known, "every object of the scene is in the campaign");
}

#[tokio::test]
async fn t6_every_bit_of_root_and_key_counts() {
    let scene = Scene::new().await;
    let mut flips = 0;
    for name in [Name::Root, Name::Key(scene.key_id)] {
        let whole = scene.home.bytes(name);
        for bit in 0..whole.len() * 8 {
            scene.damaged(name, Some(&flipped(&whole, bit)), &format!("bit {bit}")).await;
            flips += 1;
        }
    }
    println!("{flips} flips, all seen");
}

#[tokio::test]
async fn t6_every_bit_of_entries_wal_and_histories_counts() {
    let scene = Scene::new().await;
    let (keyring, signers) = (&scene.repository.keyring, scene.repository.journal.signers());
    let small = scene.all().into_iter().filter(|name| {
        let long = matches!(name, Name::Root | Name::Key(_) | Name::Pack(_) | Name::Map { .. } | Name::WalSegment(_));
        !long
    });
    let mut flips = 0;
    for name in small {
        let whole = scene.home.bytes(name);
        let kind = match name {
            Name::Entry(..) => Kind::Entry,
            Name::WalChunk(_) | Name::WalMerged(..) => Kind::Wal,
            Name::Observed(..) => Kind::Observation,
            _ => Kind::History,
        };
        for bit in 0..whole.len() * 8 {
            let bytes = flipped(&whole, bit);
            // Without the disk, so that every bit has its turn; the ends of objects once more through their readers below.
            let opened = object::open(keyring, signers, Role::Writer, name, kind, &bytes);
            match opened {
                Err(error) => assert_named(&error, name, &format!("bit {bit}")),
                Ok(_) if kind == Kind::Wal => {
                    scene.damaged(name, Some(&bytes), &format!("bit {bit}")).await;
                }
                Ok(_) => panic!("bit {bit} of {name} was not seen"),
            }
            flips += 1;
        }
    }
    println!("{flips} flips, all seen");
    assert!(flips > 50_000, "{flips}");
}

#[tokio::test]
async fn t6_random_bits_of_every_object_count_for_its_readers() {
    let scene = Scene::new().await;
    let (mut dice, flips) = (Dice(seed()), asked("ASOF_FLIPS", 2000));
    let all = scene.all();
    let packs = scene.packs();
    for n in 0..flips {
        // Half of them in packs, where most bytes are; the rest anywhere.
        let name = if n % 2 == 0 { packs[dice.below(packs.len())].0 } else { all[dice.below(all.len())] };
        let whole = scene.home.bytes(name);
        let bit = dice.below(whole.len() * 8);
        scene.damaged(name, Some(&flipped(&whole, bit)), &format!("bit {bit}")).await;
    }
    println!("{flips} flips, all seen");
}

#[tokio::test]
async fn t6_a_flip_in_a_pack_never_reaches_a_restore() {
    let scene = Scene::new().await;
    let mut dice = Dice(seed());
    let (mut seen, mut harmless) = (0, 0);
    for _ in 0..asked("ASOF_FLIPS", 2000) / 20 {
        let packs = scene.packs();
        let (name, _) = packs[dice.below(packs.len())];
        let whole = scene.home.bytes(name);
        let bit = dice.below(whole.len() * 8);
        scene.home.overwrite(name, &flipped(&whole, bit));
        for (written, tree) in &scene.backups {
            let stored = Scene::map(&scene.repository, scene.lineage, written).await.unwrap();
            match read_tree(scene.repository.store.as_ref(), &scene.repository.keyring, &stored.map).await {
                // A restore does not read footers, and the second backup not every frame of the first.
                Ok(read) => {
                    assert!(read == *tree, "bit {bit} of {name} reached a restore");
                    harmless += 1;
                }
                Err(error) => {
                    assert_named(&error, name, &format!("bit {bit}"));
                    seen += 1;
                }
            }
        }
        scene.home.overwrite(name, &whole);
    }
    println!("{seen} restores stopped, {harmless} did not need the damaged bytes");
    assert!(seen > harmless);
}

#[tokio::test]
async fn t6_an_object_that_was_cut_or_grew_is_named() {
    let scene = Scene::new().await;
    let mut dice = Dice(seed());
    let mut cuts = 0;
    for name in scene.all() {
        let whole = scene.home.bytes(name);
        let mut lens: Vec<usize> = (0..20).map(|_| dice.below(whole.len())).collect();
        lens.extend([0, 1, 7, 8, 119, 120, 121, whole.len() - 1]);
        for len in lens {
            scene.damaged(name, Some(&whole[..len.min(whole.len() - 1)]), &format!("a cut to {len}")).await;
            scene
                .damaged(name, Some(&whole[whole.len() - len.min(whole.len() - 1)..]), &format!("the last {len}"))
                .await;
            cuts += 2;
        }
        let longer = [whole.as_slice(), &[0]].concat();
        if name != Name::Root {
            scene.damaged(name, Some(&longer), "a byte more").await;
        }
    }
    println!("{cuts} cuts, all seen");
}

#[tokio::test]
async fn t6_an_object_in_the_place_of_another_is_named() {
    let scene = Scene::new().await;
    let mut swaps = 0;
    let all = scene.all();
    for here in &all {
        for there in &all {
            if here != there {
                scene.damaged(*here, Some(&scene.home.bytes(*there)), &format!("a copy of {there} instead")).await;
                swaps += 1;
            }
        }
    }
    println!("{swaps} swaps, all seen");
}

#[tokio::test]
async fn t6_an_older_or_foreign_object_of_the_same_name_is_named() {
    let scene = Scene::new().await;
    let (keyring, lineage) = (&scene.repository.keyring, scene.lineage);
    // A writer who retried with other content, or replayed what it once wrote under this name.
    let again = store_backup(&scene.repository, Id([9; 16]), Id([1; 16]), (PAGE, 70), &scene.backups[1].1, None).await;
    assert_ne!(again.digest, scene.backups[0].0.digest);
    let other = Scene::new().await;
    for (name, _) in scene.packs() {
        let Name::Pack(id) = name else { panic!("{name}") };
        let mut pack = asof_repository::pack::PackWriter::new(&scene.home.world, keyring, id);
        pack.frame(b"base/1/0", &[0], &[[0; 16]], b"old", &mut Encoder::new(3));
        let pack = pack.finish(keyring, &mut Encoder::new(3));
        scene.damaged(name, Some(pack.object.body.as_slice()), "another pack").await;
    }
    for (written, _) in &scene.backups {
        let name = Name::Map { lineage, attempt: written.attempt };
        let empty = asof_repository::map::PageMap { page_size: PAGE, ..Default::default() };
        let map = asof_repository::map::write_map(&scene.home.world, keyring, lineage, written.attempt, &empty, None);
        scene.damaged(name, Some(map.body.as_slice()), "another map").await;
    }
    scene.damaged(Name::Root, Some(&other.home.bytes(Name::Root)), "the root of another repository").await;
    let [repository, _] = scene.entries;
    for number in 1..=repository {
        let name = Name::Entry(JournalOf::Repository, number);
        scene.damaged(name, Some(&other.home.bytes(name)), "the entry of another repository").await;
    }
}

#[tokio::test]
async fn t6_a_deleted_object_is_named_unless_it_ends_a_journal() {
    let scene = Scene::new().await;
    let [repository, lineage] = scene.entries;
    let ends =
        [Name::Entry(JournalOf::Repository, repository), Name::Entry(JournalOf::Lineage(scene.lineage), lineage)];
    for name in scene.all().into_iter().filter(|name| !ends.contains(name)) {
        scene.damaged(name, None, "the loss").await;
    }
    // The end of a journal is where it ends: only somebody who kept its head can tell.
    let head = scene.journal().await.unwrap().head();
    scene.home.remove(ends[1]);
    assert_ne!(scene.journal().await.unwrap().head(), head);
}

#[tokio::test]
async fn t6_the_index_of_wal_is_as_safe_as_all_of_it() {
    let scene = Scene::new().await;
    let (store, keyring) = (scene.repository.store.as_ref(), &scene.repository.keyring);
    let signers = scene.repository.journal.signers();
    let mut dice = Dice(seed());
    let (name, _) = scene.wal[1];
    let whole = scene.home.bytes(name);
    let expected = read_wal_index(store, keyring, signers, name).await.unwrap().index;
    for _ in 0..500 {
        // The end of the object: frames are not read here.
        let bit = (whole.len() - 1 - dice.below(700)) * 8 + dice.below(8);
        scene.home.overwrite(name, &flipped(&whole, bit));
        match read_wal_index(store, keyring, signers, name).await {
            Ok(wal) => assert_eq!(wal.index, expected, "bit {bit}"),
            Err(error) => assert_named(&error, name, &format!("bit {bit}")),
        }
    }
}
