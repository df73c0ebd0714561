//! Packs, maps and WAL: what was stored comes back, and nothing else ever does.

use std::collections::BTreeMap;

use asof_repository::codec::Encoder;
use asof_repository::error::Error;
use asof_repository::keyring::{Keyring, Role};
use asof_repository::map::Place;
use asof_repository::names::{JournalOf, Name, PackId, WalPosition};
use asof_repository::object::{self, Class, Kind, ObjectWriter};
use asof_repository::pack::{PAGES_PER_FRAME, PackWriter, read_pack_index};
use asof_repository::root::{self, Repository};
use asof_repository::store::ReadRange;
use asof_repository::wal::{
    CommitMark, Observation, WalInfo, last_observation, read_history, read_wal, read_wal_index, write_history,
    write_observation, write_wal,
};
use asof_world::Id;
use proptest::prelude::*;

use crate::support::{
    Counting, Home, ReadMap, Tree, Written, chain, digest, flatten, page, place_of, read_map, read_page, read_tree,
    store_backup,
};

pub(crate) const LINEAGE: Id = Id([0x11; 16]);
pub(crate) const PAGE: u32 = 512;

pub(crate) async fn scene() -> (Home, Repository) {
    let home = Home::new();
    let (repository, _) = root::init(&home.world, home.store(), false).await.unwrap();
    (home, repository)
}

pub(crate) async fn read_back(repository: &Repository, written: &Written) -> asof_repository::Result<ReadMap> {
    read_map(repository, LINEAGE, written.attempt, &written.digest).await
}

/// Files of every awkward size: none, less than a page, whole frames, a short last page, zeros at either end.
fn awkward() -> Tree {
    let page_size = PAGE as usize;
    let mut tree = Tree::new();
    let mut put = |path: &str, bytes: Vec<u8>| tree.insert(path.as_bytes().to_vec(), bytes);
    put("PG_VERSION", b"17\n".to_vec());
    put("base/1/empty", Vec::new());
    put("base/1/zeros", vec![0; 40 * page_size + 3]);
    put("base/1/frame", page(1, 16 * page_size));
    put("base/1/frames", page(2, 33 * page_size));
    put("base/1/short", page(3, 17 * page_size + 1));
    let mut holes = page(4, 60 * page_size + 100);
    holes[..page_size].fill(0);
    holes[20 * page_size..41 * page_size].fill(0);
    holes[60 * page_size..].fill(0);
    put("base/1/holes", holes);
    tree
}

#[tokio::test]
async fn every_page_of_every_file_comes_back_from_packs_and_map() {
    let (_home, repository) = scene().await;
    for frames in [1, 3, 1000] {
        let attempt = repository.world.id();
        let written = store_backup(&repository, LINEAGE, attempt, (PAGE, frames), &awkward(), None).await;
        let stored = read_back(&repository, &written).await.unwrap();
        assert_eq!(flatten(&stored.map), flatten(&written.map));
        assert_eq!(stored.map.directories, written.map.directories);
        assert_eq!(read_tree(repository.store.as_ref(), &repository.keyring, &stored.map).await.unwrap(), awkward());
    }
}

#[tokio::test]
async fn the_index_of_a_pack_says_the_hash_and_place_of_every_page() {
    let (_home, repository) = scene().await;
    let attempt = repository.world.id();
    let written = store_backup(&repository, LINEAGE, attempt, (PAGE, 4), &awkward(), None).await;
    let (store, signers) = (repository.store.as_ref(), repository.journal.signers());
    let hasher = repository.keyring.page_hasher(LINEAGE);
    let mut seen = 0;
    for pack in &written.packs {
        let id = PackId { lineage: LINEAGE, attempt, number: pack.number };
        let (index, opened) = read_pack_index(store, &repository.keyring, signers, id, &pack.digest).await.unwrap();
        assert_eq!(opened.len, pack.len);
        for ((path, block), (position, hash)) in index.pages() {
            let bytes = &awkward()[path];
            let page = bytes.chunks(PAGE as usize).nth(block as usize).unwrap();
            assert_eq!(hash, hasher.hash(block, page));
            assert_eq!(index.hash_at(position), Some(hash));
            let (number, at) = place_of(&written.map, path, block as usize).unwrap();
            assert_eq!((written.map.packs[number as usize].id, at), (id, position));
            seen += 1;
        }
        assert_eq!(index.hash_at(u32::MAX), None);
    }
    assert_eq!(seen, 1 + 16 + 33 + 18 + (20 - 1) + (60 - 41));
}

#[tokio::test]
async fn page_hashes_differ_by_block_page_and_lineage_and_tell_a_stranger_nothing() {
    let (_home, repository) = scene().await;
    let (_other_home, other) = scene().await;
    let content = page(1, 8192);
    let hash = repository.keyring.page_hasher(LINEAGE).hash(1, &content);
    assert_eq!(hash, repository.keyring.page_hasher(LINEAGE).hash(1, &content));
    assert_ne!(hash, repository.keyring.page_hasher(LINEAGE).hash(2, &content));
    assert_ne!(hash, repository.keyring.page_hasher(Id([0x12; 16])).hash(1, &content));
    assert_ne!(hash, other.keyring.page_hasher(LINEAGE).hash(1, &content));
    assert_ne!(hash, repository.keyring.page_hasher(LINEAGE).hash(1, &page(2, 8192)));
}

#[tokio::test]
async fn once_the_map_is_open_any_page_is_one_ranged_read() {
    let (home, mut repository) = scene().await;
    let written = store_backup(&repository, LINEAGE, Id([1; 16]), (PAGE, 3), &awkward(), None).await;
    let counting = std::sync::Arc::new(Counting::new(home.store()));
    repository.store = counting.clone();
    let stored = read_back(&repository, &written).await.unwrap();
    counting.take();
    for (path, bytes) in awkward() {
        for (number, expected) in bytes.chunks(PAGE as usize).enumerate() {
            let read = read_page(counting.as_ref(), &repository.keyring, &stored.map, &path, number).await.unwrap();
            assert_eq!(read, expected);
            let calls = counting.take();
            match place_of(&stored.map, &path, number) {
                None => assert_eq!(calls, [], "zeros are read from nowhere"),
                Some(_) => assert!(matches!(calls[..], [("read", _, Some(ReadRange::Part { .. }))]), "{calls:?}"),
            }
        }
    }
}

/// Many small files, so that their map has many parts.
pub(crate) fn broad(files: u64) -> Tree {
    (0..files).map(|n| (format!("base/5/{n}").into_bytes(), page(n, 3 * PAGE as usize + 7))).collect()
}

#[tokio::test]
async fn the_map_of_an_unchanged_instance_is_references() {
    let (_home, repository) = scene().await;
    let tree = broad(3000);
    let first = store_backup(&repository, LINEAGE, Id([1; 16]), (PAGE, 500), &tree, None).await;
    let parent = read_back(&repository, &first).await.unwrap();
    let second = store_backup(&repository, LINEAGE, Id([2; 16]), (PAGE, 500), &tree, Some((&parent, &tree))).await;
    assert_eq!(second.packs, []);
    // About 47 parts of 64 files each, and each is one reference of some 60 bytes.
    assert!(second.map_len * 8 < first.map_len, "{} after {}", second.map_len, first.map_len);
    assert!(second.map_len < 3_500, "{}", second.map_len);
    let again = read_back(&repository, &second).await.unwrap();
    assert_eq!(flatten(&again.map), flatten(&parent.map));
    let third = store_backup(&repository, LINEAGE, Id([3; 16]), (PAGE, 500), &tree, Some((&again, &tree))).await;
    assert!(third.map_len.abs_diff(second.map_len) < 64, "a reference leads to the owner, not to another reference");
    assert_eq!(flatten(&read_back(&repository, &third).await.unwrap().map), flatten(&parent.map));
}

#[tokio::test]
async fn one_small_instance_that_did_not_change_has_a_map_of_a_few_hundred_bytes() {
    let (_home, repository) = scene().await;
    let first = store_backup(&repository, LINEAGE, Id([1; 16]), (PAGE, 500), &awkward(), None).await;
    let parent = read_back(&repository, &first).await.unwrap();
    let second =
        store_backup(&repository, LINEAGE, Id([2; 16]), (PAGE, 500), &awkward(), Some((&parent, &awkward()))).await;
    assert!(second.map_len < 900, "{}", second.map_len);
}

#[tokio::test]
async fn a_file_more_or_less_moves_no_other_cut() {
    let (_home, repository) = scene().await;
    let tree = broad(3000);
    let first = store_backup(&repository, LINEAGE, Id([1; 16]), (PAGE, 500), &tree, None).await;
    let parent = read_back(&repository, &first).await.unwrap();
    let mut changed = tree.clone();
    changed.insert(b"base/5/1500a".to_vec(), page(1 << 40, 512));
    changed.remove(b"base/5/700".as_slice());
    let second = store_backup(&repository, LINEAGE, Id([2; 16]), (PAGE, 500), &changed, Some((&parent, &tree))).await;
    assert!(second.map_len * 4 < first.map_len, "{} after {}", second.map_len, first.map_len);
    let again = read_back(&repository, &second).await.unwrap();
    assert_eq!(read_tree(repository.store.as_ref(), &repository.keyring, &again.map).await.unwrap(), changed);
}

#[tokio::test]
async fn a_backup_restores_after_the_packs_and_journal_of_every_other_are_gone() {
    let (home, repository) = scene().await;
    let tree = awkward();
    let first = store_backup(&repository, LINEAGE, Id([1; 16]), (PAGE, 500), &tree, None).await;
    let parent = read_back(&repository, &first).await.unwrap();
    let mut changed = tree.clone();
    changed.get_mut(b"base/1/frames".as_slice()).unwrap()[5000] ^= 1;
    let second = store_backup(&repository, LINEAGE, Id([2; 16]), (PAGE, 500), &changed, Some((&parent, &tree))).await;
    home.remove(Name::Pack(PackId { lineage: LINEAGE, attempt: Id([2; 16]), number: 0 }));
    let (store, keyring) = (repository.store.as_ref(), &repository.keyring);
    assert_eq!(read_tree(store, keyring, &parent.map).await.unwrap(), tree);
    let error = read_tree(store, keyring, &read_back(&repository, &second).await.unwrap().map).await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("packs/02020202"), "{error}");
}

#[tokio::test]
async fn a_write_only_key_reads_maps_and_pack_indexes_but_no_page() {
    let (_home, mut repository) = scene().await;
    let written = store_backup(&repository, LINEAGE, Id([1; 16]), (PAGE, 500), &awkward(), None).await;
    repository.keyring = Keyring { data_secret: None, ..repository.keyring.clone() };
    let stored = read_back(&repository, &written).await.unwrap();
    let (store, keyring, signers) = (repository.store.as_ref(), &repository.keyring, repository.journal.signers());
    let id = PackId { lineage: LINEAGE, attempt: Id([1; 16]), number: 0 };
    let (index, _) = read_pack_index(store, keyring, signers, id, &written.packs[0].digest).await.unwrap();
    let error = read_page(store, keyring, &stored.map, b"base/1/frame", 0).await.unwrap_err();
    assert!(matches!(&error, Error::Denied { .. }), "{error}");
    // What it can do instead: compare the stored bytes with their digests.
    let bytes = object::read(store, Name::Pack(id)).await.unwrap();
    for frame in &index.frames {
        let at = usize::try_from(frame.section.offset).unwrap();
        let stored = &bytes[at..at + frame.section.stored_len as usize];
        assert_eq!(frame.section.digest, digest(stored)[..16]);
    }
}

#[tokio::test]
async fn hz_d1_an_object_under_another_name_is_refused() {
    let (home, repository) = scene().await;
    let a = store_backup(&repository, LINEAGE, Id([1; 16]), (PAGE, 2), &awkward(), None).await;
    let b = store_backup(&repository, LINEAGE, Id([2; 16]), (PAGE, 2), &awkward(), None).await;
    let pack = |attempt, number| Name::Pack(PackId { lineage: LINEAGE, attempt, number });
    let map = |attempt| Name::Map { lineage: LINEAGE, attempt };
    let tree = async |written: &Written| {
        let stored = read_back(&repository, written).await?;
        read_tree(repository.store.as_ref(), &repository.keyring, &stored.map).await
    };
    for (here, there) in [
        (pack(a.attempt, 0), pack(a.attempt, 1)),
        (pack(a.attempt, 0), pack(b.attempt, 0)),
        (map(a.attempt), map(b.attempt)),
    ] {
        let whole = home.bytes(here);
        home.overwrite(here, &home.bytes(there));
        let message = chain(&tree(&a).await.expect_err("a swapped object was read"));
        assert!(message.contains(&here.to_string()), "{here}: {message}");
        home.overwrite(here, &whole);
    }
    tree(&a).await.unwrap();
}

#[tokio::test]
async fn an_object_of_another_kind_or_signed_by_somebody_without_the_role_is_refused() {
    let (home, mut repository) = scene().await;
    let name = Name::Map { lineage: LINEAGE, attempt: Id([1; 16]) };
    let object = ObjectWriter::new(&home.world, &repository.keyring, name, Kind::Pack, false, 4096);
    let object = object.finish(&repository.keyring, b"", &mut Encoder::new(3));
    home.overwrite(name, object.body.as_slice());
    let written = Written { attempt: Id([1; 16]), digest: object.reference.digest, ..empty() };
    assert!(matches!(read_back(&repository, &written).await, Err(Error::Denied { .. })));

    let writer = repository.add_write_only("host").await.unwrap();
    let root::Key::WriteOnly { signing, .. } = root::Key::parse(&writer).unwrap() else { panic!("another key") };
    let keyring = Keyring { signing, ..repository.keyring.clone() };
    let object = ObjectWriter::new(&home.world, &keyring, name, Kind::Map, false, 4096);
    let object = object.finish(&keyring, b"", &mut Encoder::new(3));
    let bytes = object.body.as_slice();
    let signers = repository.journal.signers();
    let open = |role| object::open(&repository.keyring, signers, role, name, Kind::Map, bytes);
    assert!(open(Role::Writer).is_ok());
    assert!(matches!(open(Role::Operator), Err(Error::Denied { .. })));
}

fn empty() -> Written {
    Written { attempt: Id([0; 16]), map: Default::default(), digest: [0; 32], map_len: 0, packs: Vec::new() }
}

#[tokio::test]
async fn an_object_of_another_revision_or_with_an_unknown_feature_asks_for_another_asof() {
    let (home, repository) = scene().await;
    let name = Name::History { lineage: LINEAGE, timeline: 2 };
    let object = write_history(&home.world, &repository.keyring, LINEAGE, 2, b"1\t0/5000000\tno reason\n");
    // Prologue; then the header, which begins behind it because nothing else stands before.
    for (at, says) in
        [(4, "format 1.3"), (5, "format 0.1"), (8 + 5, "format 0.1"), (8 + 10, "feature"), (8 + 12, "feature")]
    {
        let mut bytes = object.body.as_slice().to_vec();
        bytes[at] ^= if at == 4 { 1 } else { 2 };
        home.overwrite(name, &bytes);
        let (store, signers) = (repository.store.as_ref(), repository.journal.signers());
        let error = read_history(store, &repository.keyring, signers, LINEAGE, 2).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{at}: {error}");
        assert!(error.to_string().contains(says), "{at}: {error}");
    }
}

#[tokio::test]
async fn a_pack_of_pages_that_compress_to_nothing_is_closed_before_its_index_is_too_long() {
    let (home, repository) = scene().await;
    let mut encoder = Encoder::new(1);
    let id = PackId { lineage: LINEAGE, attempt: Id([1; 16]), number: 0 };
    let mut pack = PackWriter::new(&home.world, &repository.keyring, id);
    let (plain, hashes) = (vec![1; 16 * 32], [[7; 16]; PAGES_PER_FRAME as usize]);
    let mut first = 0;
    while !pack.is_full() {
        let blocks: Vec<u32> = (first..first + PAGES_PER_FRAME).collect();
        pack.frame(b"base/1/2", &blocks, &hashes, &plain, &mut encoder);
        first += PAGES_PER_FRAME;
    }
    let finished = pack.finish(&repository.keyring, &mut encoder);
    object::create(repository.store.as_ref(), &finished.object).await.unwrap();
    let (store, signers) = (repository.store.as_ref(), repository.journal.signers());
    let digest = finished.object.reference.digest;
    let (index, _) = read_pack_index(store, &repository.keyring, signers, id, &digest).await.unwrap();
    assert_eq!(index, finished.index);
}

#[tokio::test]
#[should_panic(expected = "fresh")]
async fn a_section_number_that_was_used_before_stops_the_writer() {
    let (home, repository) = scene().await;
    let name = Name::Map { lineage: LINEAGE, attempt: Id([1; 16]) };
    let mut object = ObjectWriter::new(&home.world, &repository.keyring, name, Kind::Map, true, 4096);
    object.section(Class::Index, 1, b"a", &mut Encoder::new(3));
    object.section(Class::Data, 1, b"a", &mut Encoder::new(3));
    object.section(Class::Index, 1, b"b", &mut Encoder::new(3));
}

fn wal_name(start: u64) -> Name {
    Name::WalChunk(WalPosition { lineage: LINEAGE, timeline: 1, start })
}

fn info(end: u64) -> WalInfo {
    WalInfo {
        system_identifier: u64::MAX,
        segment_size: 16 << 20,
        end,
        first_commit: Some(CommitMark { time: -5, at: 0x100_0100 }),
        last_commit: Some(CommitMark { time: i64::MAX, at: u64::MAX }),
        latest_time: Some(i64::MIN),
        observed: Some(Observation { time: 7, flushed: end }),
    }
}

#[tokio::test]
async fn wal_comes_back_as_it_was_stored_and_its_index_costs_one_small_read() {
    let (home, mut repository) = scene().await;
    let counting = std::sync::Arc::new(Counting::new(home.store()));
    repository.store = counting.clone();
    let (keyring, signers) = (&repository.keyring, repository.journal.signers());
    let mut start = 0x100_0000;
    for len in [1, 8192, 256 << 10, (256 << 10) + 1, 1 << 20] {
        let plain = page(start, len);
        let info = info(start + len as u64);
        let name = wal_name(start);
        let object = write_wal(&home.world, keyring, name, &info, &plain, &mut Encoder::new(3));
        object::create(counting.as_ref(), &object).await.unwrap();
        let (wal, read) = read_wal(counting.as_ref(), keyring, signers, name).await.unwrap();
        assert_eq!((&wal.index.info, &read), (&info, &plain));
        counting.take();
        let index = read_wal_index(counting.as_ref(), keyring, signers, name).await.unwrap();
        assert_eq!(index.index, wal.index);
        let calls = counting.take();
        assert_eq!(calls.iter().filter(|(call, ..)| *call == "read").count(), 1, "{calls:?}");
        // A reader without a listing finds the next piece by the end of this one.
        start = index.index.info.end;
    }
    assert!(read_wal_index(counting.as_ref(), keyring, signers, wal_name(start)).await.err().unwrap().is_not_found());
    let nothing = WalInfo { end: start + 1, ..WalInfo::default() };
    let object = write_wal(&home.world, keyring, wal_name(start), &nothing, b"x", &mut Encoder::new(3));
    object::create(counting.as_ref(), &object).await.unwrap();
    assert_eq!(read_wal(counting.as_ref(), keyring, signers, wal_name(start)).await.unwrap().0.index.info, nothing);
}

#[tokio::test]
async fn hz_d3_of_two_who_store_the_same_wal_or_history_the_second_changes_nothing() {
    let (home, repository) = scene().await;
    let (store, keyring) = (repository.store.as_ref(), &repository.keyring);
    let wal = |byte: u8| {
        let info = WalInfo { end: 0x100_0004, ..WalInfo::default() };
        write_wal(&home.world, keyring, wal_name(0x100_0000), &info, &[byte; 4], &mut Encoder::new(3))
    };
    let history = |text: &[u8]| write_history(&home.world, keyring, LINEAGE, 2, text);
    for (first, second) in [(wal(1), wal(2)), (history(b"1\t0/5\tme\n"), history(b"1\t0/6\tyou\n"))] {
        object::create(store, &first).await.unwrap();
        let error = object::create(store, &second).await.unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error}");
        assert_eq!(home.bytes(first.name), first.body.as_slice());
    }
    let read = read_history(store, keyring, repository.journal.signers(), LINEAGE, 2).await.unwrap();
    assert_eq!(read, b"1\t0/5\tme\n");
}

#[tokio::test]
async fn wal_that_is_longer_or_shorter_than_its_position_says_is_refused() {
    let (home, repository) = scene().await;
    let keyring = &repository.keyring;
    let object = write_wal(&home.world, keyring, wal_name(16), &info(20), b"four", &mut Encoder::new(3));
    let whole = object.body.as_slice();
    for cut in 0..whole.len() {
        home.overwrite(object.name, &whole[..cut]);
        let result = read_wal(repository.store.as_ref(), keyring, repository.journal.signers(), object.name).await;
        let message = chain(&result.err().unwrap_or_else(|| panic!("{cut} bytes were enough")));
        assert!(message.contains(&object.name.to_string()), "{message}");
    }
}

#[tokio::test]
async fn hz_3_2_a_nothing_that_was_stored_can_be_read_in_the_stored_bytes_or_names() {
    let home = Home::new();
    let (mut repository, _) = root::init(&home.world, home.store(), false).await.unwrap();
    let canary = b"canary-of-the-customer";
    let facts = BTreeMap::from([("database".to_owned(), serde_json::json!("canary-of-the-customer"))]);
    let (lineage, _) = repository.register("canary-of-the-customer", facts, None).await.unwrap();
    repository.add_write_only("canary-of-the-customer").await.unwrap();
    let tree = Tree::from([(canary.to_vec(), canary.repeat(500))]);
    store_backup(&repository, lineage, Id([1; 16]), (PAGE, 5), &tree, None).await;
    let wal = WalInfo { end: 22, ..WalInfo::default() };
    let object = write_wal(&home.world, &repository.keyring, wal_name(0), &wal, canary, &mut Encoder::new(3));
    object::create(repository.store.as_ref(), &object).await.unwrap();
    let all = repository.store.list("").await.unwrap();
    assert!(all.len() >= 8);
    for listed in all {
        let bytes = repository.store.read(&listed.name, ReadRange::Whole).await.unwrap();
        assert!(!listed.name.contains("canary"));
        assert!(!bytes.windows(canary.len()).any(|window| window == canary), "{}", listed.name);
    }
}

#[tokio::test]
async fn a_torn_page_is_marked_in_the_map() {
    let (_home, repository) = scene().await;
    let written = store_backup(&repository, LINEAGE, Id([1; 16]), (PAGE, 50), &awkward(), None).await;
    let mut map = written.map.clone();
    let file = map.files.iter_mut().find(|file| file.path == b"base/1/frame").unwrap();
    let Place::Pack { pack, position } = file.runs[0].place else { panic!("a stored page") };
    let run = |pages, position, torn| asof_repository::map::Run { pages, place: Place::Pack { pack, position }, torn };
    file.runs = vec![run(3, position, false)];
    file.push(run(1, position + 3, true));
    file.push(run(12, position + 4, false));
    assert_eq!(file.runs.len(), 3);
    let object =
        asof_repository::map::write_map(&repository.world, &repository.keyring, LINEAGE, Id([9; 16]), &map, None);
    object::create(repository.store.as_ref(), &object).await.unwrap();
    let torn = Written { attempt: Id([9; 16]), digest: object.reference.digest, ..empty() };
    let stored = read_back(&repository, &torn).await.unwrap();
    assert_eq!(
        stored.map.file(b"base/1/frame").unwrap().runs.iter().map(|run| run.torn).collect::<Vec<_>>(),
        [false, true, false]
    );
    assert_eq!(read_tree(repository.store.as_ref(), &repository.keyring, &stored.map).await.unwrap(), awkward());
}

#[tokio::test]
async fn the_last_observation_is_found_without_a_listing_however_many_there_are() {
    let (home, repository) = scene().await;
    let (store, keyring, signers) = (home.store(), &repository.keyring, repository.journal.signers());
    let at = WalPosition { lineage: LINEAGE, timeline: 1, start: 0x100_0000 };
    for number in 0..70u32 {
        let last = last_observation(store.as_ref(), keyring, signers, at).await.unwrap();
        assert_eq!(
            last.map(|(number, seen)| (number + 1, seen.time)).unwrap_or((0, -1)),
            (number, i64::from(number) - 1)
        );
        let seen = Observation { time: i64::from(number), flushed: 0x100_0000 };
        object::create(store.as_ref(), &write_observation(&home.world, keyring, at, number, &seen)).await.unwrap();
    }
    let elsewhere = WalPosition { start: 0x100_0001, ..at };
    assert_eq!(last_observation(store.as_ref(), keyring, signers, elsewhere).await.unwrap(), None);
}

#[tokio::test]
async fn names_are_made_of_ids_and_numbers() {
    let id = Id([0xab; 16]);
    let text = id.to_string();
    let at = WalPosition { lineage: id, timeline: 26, start: 0x1_0100_0000 };
    let check = |name: Name, expected: String| assert_eq!(name.to_string(), expected);
    check(Name::Root, "repository.json".to_owned());
    check(Name::Key(id), format!("keys/{text}"));
    check(Name::Entry(JournalOf::Repository, 1), "journal/000000000001".to_owned());
    check(Name::Entry(JournalOf::Lineage(id), 1_234_567_890_123), format!("l/{text}/journal/1234567890123"));
    check(Name::Pack(PackId { lineage: id, attempt: id, number: 10 }), format!("l/{text}/packs/{text}-10"));
    check(Name::Map { lineage: id, attempt: id }, format!("l/{text}/maps/{text}"));
    check(Name::WalChunk(at), format!("l/{text}/wal/0000001a/0000000101000000"));
    check(Name::WalMerged(at, 2), format!("l/{text}/wal/0000001a/m2/0000000101000000"));
    check(Name::WalSegment(at), format!("l/{text}/wal/0000001a/seg/0000000101000000"));
    check(Name::Observed(at, 7), format!("l/{text}/wal/0000001a/seen/0000000101000000-7"));
    check(Name::History { lineage: id, timeline: 26 }, format!("l/{text}/wal/0000001a/history"));
}

/// Pages by what they hold: zeros, or noise from a seed.
fn files() -> impl Strategy<Value = Tree> {
    let pages = prop::collection::vec(prop_oneof![Just(0u64), 1..50u64], 0..70);
    let file = (pages, 1..=PAGE as usize).prop_map(|(pages, last)| {
        let mut bytes: Vec<u8> = pages.iter().flat_map(|seed| content(*seed)).collect();
        bytes.truncate((bytes.len() + last).saturating_sub(PAGE as usize));
        bytes
    });
    prop::collection::btree_map("[a-c]{1,3}(/[0-9]{1,2}){0,2}".prop_map(String::into_bytes), file, 0..12)
}

fn content(seed: u64) -> Vec<u8> {
    if seed == 0 { vec![0; PAGE as usize] } else { page(seed, PAGE as usize) }
}

/// What may happen to an instance between two backups.
fn changed(tree: &Tree, changes: &[(usize, u64)]) -> Tree {
    let mut tree = tree.clone();
    for (at, seed) in changes {
        let Some(path) = tree.keys().nth(at % (tree.len() + 1)).cloned() else {
            tree.insert(format!("new/{seed}").into_bytes(), page(*seed, (*seed % 5000) as usize));
            continue;
        };
        let bytes = tree.get_mut(&path).unwrap();
        match seed % 4 {
            0 => drop(tree.remove(&path)),
            1 => bytes.truncate(bytes.len() / 2),
            2 => bytes.extend(content(*seed)),
            _ if bytes.is_empty() => bytes.extend(content(*seed)),
            _ => {
                let at = usize::try_from(*seed).unwrap() * 31 % bytes.len();
                bytes[at] ^= 1;
            }
        }
    }
    tree
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_instance_comes_back_from_every_one_of_its_backups(
        tree in files(),
        changes in prop::collection::vec(prop::collection::vec((0..20usize, 1..1000u64), 0..6), 0..4),
        frames in 1..40usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (_home, repository) = scene().await;
            let mut backups: Vec<(Written, Tree)> = Vec::new();
            let mut present = tree;
            for round in 0..=changes.len() {
                let attempt = Id([u8::try_from(round).unwrap(); 16]);
                let parent = match backups.last() {
                    None => None,
                    Some((written, tree)) => Some((read_back(&repository, written).await.unwrap(), tree.clone())),
                };
                let parent = parent.as_ref().map(|(map, tree)| (map, tree));
                let written = store_backup(&repository, LINEAGE, attempt, (PAGE, frames), &present, parent).await;
                backups.push((written, present.clone()));
                if let Some(changes) = changes.get(round) {
                    present = changed(&present, changes);
                }
            }
            for (written, tree) in &backups {
                let stored = read_back(&repository, written).await.unwrap();
                assert_eq!(flatten(&stored.map), flatten(&written.map));
                let read = read_tree(repository.store.as_ref(), &repository.keyring, &stored.map).await.unwrap();
                assert_eq!(&read, tree);
            }
        });
    }
}
