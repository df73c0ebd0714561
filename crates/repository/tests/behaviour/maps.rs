//! Maps that are made while files are copied, and read part by part.

use std::sync::{Arc, OnceLock};

use asof_repository::map::{CopiedFile, MapWriter, PageMap, PendingPack, Place, StoredMap, open_map};
use asof_repository::object;
use asof_repository::root::Repository;
use asof_world::Id;

use super::content::{LINEAGE, PAGE, broad, read_back, scene};
use crate::support::large::{Changed, Large};
use crate::support::{Counting, Dice, Tree, Written, flatten, store_backup};

fn writer(repository: &Repository, attempt: Id, map: &PageMap, parent: Option<&StoredMap>) -> MapWriter {
    let paths = map.files.iter().map(|file| file.path.as_slice());
    let ids = (LINEAGE, attempt);
    MapWriter::new(&repository.world, &repository.keyring, ids, map.page_size, &map.directories, paths, parent)
}

/// A file of `map` whose packs are these.
fn copied(map: &PageMap, at: usize, packs: &[PendingPack]) -> CopiedFile {
    CopiedFile { file: map.files[at].clone(), part: None, packs: packs.to_vec() }
}

fn stored_packs(map: &PageMap) -> Vec<PendingPack> {
    map.packs.iter().map(|pack| Arc::new(OnceLock::from(pack.clone()))).collect()
}

/// Ends a map and reads it.
async fn ended(repository: &Repository, attempt: Id, writer: MapWriter) -> (PageMap, u64) {
    let object = writer.finish().pop().unwrap();
    object::create(repository.store.as_ref(), &object).await.unwrap();
    let (store, signers, digest) = (repository.store.clone(), repository.journal.signers(), &object.reference.digest);
    let stored = open_map(store, &repository.keyring, signers, LINEAGE, attempt, digest).await.unwrap();
    (stored.whole().await.unwrap(), object.len)
}

async fn backed_up(repository: &Repository, tree: &Tree) -> Written {
    store_backup(repository, LINEAGE, Id([1; 16]), (PAGE, 100), tree, None).await
}

#[tokio::test]
async fn files_may_come_in_any_order_and_packs_at_any_time_and_the_parts_are_the_same() {
    let (_home, repository) = scene().await;
    let first = backed_up(&repository, &broad(1000)).await;
    let parent = read_back(&repository, &first).await.unwrap();
    let (map, mut dice) = (&first.map, Dice(1));
    for round in 2..6 {
        let attempt = Id([round; 16]);
        let mut writer = writer(&repository, attempt, map, Some(parent.stored.as_ref()));
        let packs: Vec<PendingPack> = map.packs.iter().map(|_| PendingPack::default()).collect();
        let mut events: Vec<usize> = (0..map.files.len() + packs.len()).collect();
        (1..events.len()).rev().for_each(|at| events.swap(at, dice.below(at + 1)));
        for event in events {
            match event.checked_sub(map.files.len()) {
                None => writer.add(event, Some(copied(map, event, &packs))),
                Some(pack) => {
                    packs[pack].set(map.packs[pack].clone()).unwrap();
                    writer.pack_stored();
                }
            }
        }
        assert_eq!(writer.held_frames(), 0, "everything is sealed");
        assert_eq!(writer.totals(), (1000, map.files.iter().map(|file| file.len).sum()));
        let (read, len) = ended(&repository, attempt, writer).await;
        assert_eq!(flatten(&read), flatten(&parent.map));
        assert_eq!(read.directories, parent.map.directories);
        assert!(len < 2_000, "{len} bytes: a part was not found in the parent");
    }
}

#[tokio::test]
async fn a_part_waits_for_its_packs_and_one_with_a_torn_page_for_the_end() {
    let (_home, repository) = scene().await;
    let mut map = backed_up(&repository, &broad(300)).await.map;
    let torn = 100;
    let mut run = map.files[torn].runs.remove(0);
    let Place::Pack { pack, position } = run.place else { panic!("a page that is stored") };
    let rest = asof_repository::map::Run {
        pages: run.pages - 1,
        place: Place::Pack { pack, position: position + 1 },
        torn: false,
    };
    (run.pages, run.torn) = (1, true);
    map.files[torn].runs.splice(0..0, [run, rest]);

    let (whole, mut packs) = (stored_packs(&map), stored_packs(&map));
    packs[1] = PendingPack::default();
    let mut writer = writer(&repository, Id([2; 16]), &map, None);
    (0..300).for_each(|at| writer.add(at, Some(copied(&map, at, &packs))));
    let all = writer.held_frames();
    assert!(all >= 300, "a pack is missing: {all}");
    packs[1].set(whole[1].get().unwrap().clone()).unwrap();
    writer.pack_stored();
    let held = writer.held_frames();
    assert!(held > 0 && held < all, "only the part with the torn page waits: {held} of {all}");
    writer.unmark(&map.files[torn].path, 0);
    let (read, _) = ended(&repository, Id([2; 16]), writer).await;
    map.files[torn].runs[0].torn = false;
    assert_eq!(flatten(&read), flatten(&map));
    assert!(read.files.iter().all(|file| file.runs.iter().all(|run| !run.torn)));
}

#[tokio::test]
async fn a_file_that_vanished_is_in_no_part_and_the_others_are() {
    let (_home, repository) = scene().await;
    let map = backed_up(&repository, &broad(300)).await.map;
    let packs = stored_packs(&map);
    for vanished in [0..1, 7..70, 299..300, 0..300] {
        let attempt = repository.world.id();
        let mut writer = writer(&repository, attempt, &map, None);
        let file = |at: usize| (!vanished.contains(&at)).then(|| copied(&map, at, &packs));
        (0..300).rev().for_each(|at| writer.add(at, file(at)));
        let (read, _) = ended(&repository, attempt, writer).await;
        let left = map.files.iter().enumerate().filter(|(at, _)| !vanished.contains(at)).map(|(_, file)| &file.path);
        assert!(read.files.iter().map(|file| &file.path).eq(left), "{vanished:?}");
    }
}

#[tokio::test]
async fn a_long_map_is_several_objects_and_reads_as_one() {
    let (home, repository) = scene().await;
    // A pack for each frame makes a map of more than a megabyte for each file.
    let large = Large { repository: &repository, lineage: LINEAGE, files: 30, frames_in_pack: 1 };
    let first = large.first(Id([1; 16])).await;
    let parent = large.stored(Id([1; 16]), &first).await;
    let objects = repository.store.list(&format!("l/{LINEAGE}/maps/")).await.unwrap();
    assert!(objects.len() > 2, "{objects:?}");
    assert!(objects.iter().all(|object| object.len < 20 << 20), "{objects:?}");
    let second = large.next(Id([2; 16]), &parent, Changed::Nothing).await;
    assert!(second.map.len < 20_000, "{} bytes: a part was not found in the parent", second.map.len);
    let again = large.stored(Id([2; 16]), &second).await;
    let (mut parts, mut same, mut files) = (parent.parts(0), again.parts(0), 0);
    while let Some(part) = parts.next().await.unwrap() {
        assert!(same.next().await.unwrap().unwrap() == part);
        files += part.files.len();
    }
    assert_eq!(files, 30);

    let further = objects.iter().find(|object| !object.name.ends_with(&Id([1; 16]).to_string())).unwrap();
    std::fs::remove_file(home.dir.path().join(&further.name)).unwrap();
    let error = again.whole().await.unwrap_err();
    assert!(error.is_not_found() || error.to_string().contains(&further.name), "{error}");
}

#[tokio::test]
async fn a_map_is_read_part_by_part_and_each_part_once() {
    let (home, mut repository) = scene().await;
    let tree = broad(2000);
    let written = backed_up(&repository, &tree).await;
    let counting = Arc::new(Counting::new(home.store()));
    repository.store = counting.clone();
    let (store, signers) = (repository.store.clone(), repository.journal.signers());
    let stored = open_map(store, &repository.keyring, signers, LINEAGE, written.attempt, &written.digest);
    let stored = Arc::new(stored.await.unwrap());
    let opening = counting.take().len();
    assert!(opening <= 2, "{opening} calls open a map");

    let mut parts = stored.parts(0);
    assert!(parts.holding(b"a").await.unwrap().is_none());
    for path in tree.keys() {
        let part = parts.holding(path).await.unwrap().unwrap();
        assert!(part.file(path).is_some() && part.files.len() < 600);
        assert!(parts.holding(&[path, &b"!"[..]].concat()).await.unwrap().is_none(), "there is no such file");
    }
    assert!(parts.holding(b"z").await.unwrap().is_none());
    let calls = counting.take().len();
    assert!(calls <= 2, "{calls} reads of a map of {} bytes", written.map_len);

    for path in [b"base/5/0".as_slice(), b"base/5/1234", b"base/5/999"] {
        assert!(stored.find(path).await.unwrap().unwrap().file(path).is_some());
        let calls = counting.take().len();
        assert!(calls <= 8, "{calls} reads to find one of about 32 parts");
    }
    for path in [b"a".as_slice(), b"base/5/1234a", b"z"] {
        assert!(stored.find(path).await.unwrap().is_none());
    }
}
