//! One job copies files in memory, and packs and map are looked at.

use std::collections::BTreeMap;

use asof_repository::root::{self, Repository};
use asof_repository::store::local::LocalStore;
use asof_testkit::Workdir;
use async_trait::async_trait;

use super::*;
use crate::progress::Silent;
use crate::shelf::Shelf;

const PAGE: usize = 8192;
const LINEAGE: Id = Id([1; 16]);

/// Files in memory. One that is empty vanishes before it is opened.
struct Files(BTreeMap<Vec<u8>, Vec<u8>>);

struct File(Vec<u8>);

#[async_trait]
impl Source for Files {
    async fn list(&self) -> Result<Listing> {
        let file = |(path, bytes): (&Vec<u8>, &Vec<u8>)| {
            let (path, len) = (path.clone(), bytes.len() as u64);
            ListedFile { path, len, kind: FileKind::Other, relation: None }
        };
        Ok(Listing { files: self.0.iter().map(file).collect(), ..Listing::default() })
    }

    async fn open(&self, path: &[u8]) -> Result<Option<Arc<dyn SourceFile>>> {
        let bytes = self.0[path].clone();
        Ok((!bytes.is_empty()).then(|| Arc::new(File(bytes)) as Arc<dyn SourceFile>))
    }
}

#[async_trait]
impl SourceFile for File {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let from = usize::try_from(offset).expect("it is in memory").min(self.0.len());
        Ok(self.0[from..(from + len).min(self.0.len())].to_vec())
    }
}

/// The packs that were stored.
#[derive(Default)]
struct Log(Mutex<Vec<StoredPack>>);

impl PackLog for Log {
    fn stored(&self, pack: StoredPack) {
        self.0.lock().expect("no holder panics").push(pack);
    }
}

struct Scene {
    _place: Workdir,
    repository: Repository,
}

impl Scene {
    async fn new() -> Self {
        let (place, world) = (Workdir::new("copy"), World::real());
        let store = Arc::new(LocalStore::new(world.clone(), place.path().join("repository")));
        let (repository, _) = root::init(&world, store, false).await.expect("a repository is made");
        Self { _place: place, repository }
    }

    /// Copies files with one job. Returns what came of it and how many packs were stored.
    async fn copied(
        &self,
        attempt: Id,
        files: &Files,
        parent: Option<Arc<StoredMap>>,
        waiting_frames: usize,
    ) -> (Copied, usize) {
        let shelf = Shelf::new(&self.repository, LINEAGE);
        let known = KnownPages::gather(&shelf, &asof_repository::lineage::Lineage::default()).await;
        let settings = CopySettings {
            world: shelf.world.clone(),
            store: shelf.store.clone(),
            keyring: shelf.keyring.clone(),
            lineage: LINEAGE,
            attempt,
            page_size: PAGE,
            pages_per_segment: 1 << 17,
            checksums: false,
            level: 1,
            rate: None,
            jobs: 1,
            waiting_frames,
            known: Some(Arc::new(known.expect("nothing was broken off"))),
            parent,
            observer: Arc::new(Silent),
        };
        let (listing, log) = (Arc::new(files.list().await.expect("it is in memory")), Arc::new(Log::default()));
        let source = Arc::new(Files(files.0.clone()));
        let copied = copy(settings, source, listing.clone(), log.clone()).await.expect("files are copied");
        let packs = log.0.lock().expect("no holder panics").len();
        (copied, packs)
    }

    /// Ends and stores a map without `pg_control`, and opens it.
    async fn stored(&self, attempt: Id, files: &Files, mut copied: Copied) -> Arc<StoredMap> {
        let Repository { store, keyring, journal, .. } = &self.repository;
        copied.map.add(control_number(&files.list().await.expect("it is in memory")), None);
        let map = copied.map.finish();
        store_maps(store.as_ref(), &map).await.expect("the map is stored");
        let digest = &map[0].reference.digest;
        let opened =
            asof_repository::map::open_map(store.clone(), keyring, journal.signers(), LINEAGE, attempt, digest);
        Arc::new(opened.await.expect("the map opens"))
    }
}

fn files(count: usize, version: u8) -> Files {
    let file = |n: usize| {
        let mut bytes = vec![u8::try_from(n % 250 + 1).expect("at most 250"); 3 * PAGE];
        bytes[0] = version;
        (format!("base/1/{n:04}").into_bytes(), if n % 10 == 3 { Vec::new() } else { bytes })
    };
    Files((0..count).map(file).collect())
}

#[tokio::test]
async fn a_pack_with_little_in_it_is_stored_before_many_files_wait_for_it() {
    let scene = Scene::new().await;
    let (before, after) = (files(400, 1), files(400, 2));
    let (copied, packs) = scene.copied(Id([2; 16]), &before, None, usize::MAX).await;
    assert_eq!((packs, copied.vanished.len()), (1, 40));
    let parent = scene.stored(Id([2; 16]), &before, copied).await;

    let (copied, packs) = scene.copied(Id([3; 16]), &after, Some(parent.clone()), usize::MAX).await;
    assert_eq!((packs, copied.packs), (1, 1), "one page of each file fits into one pack");
    // Each file counts for itself and for its two runs.
    let (copied, packs) = scene.copied(Id([4; 16]), &after, Some(parent), 90).await;
    assert_eq!((packs, copied.packs), (12, 12));
    assert_eq!((copied.changed, copied.shared), (360 * PAGE as u64, 720 * PAGE as u64));
    let held = copied.map.held_frames();
    assert!(held < 128, "only the files around pg_control are held: {held}");
    let map = scene.stored(Id([4; 16]), &after, copied).await.whole().await.expect("the map is read");
    assert_eq!(map.files.len(), 360);
    assert!(map.files.iter().all(|file| file.pages() == 3));
}

/// The largest file of a relation is 1 GiB, and a pack lies in memory.
#[tokio::test]
async fn a_pack_is_closed_when_it_is_full_wherever_frames_begin_in_a_file() {
    let scene = Scene::new().await;
    let mut bytes = vec![0; 100 << 20];
    // A page of zeros is stored nowhere, so that no frame ends with a piece of the file.
    scene.repository.world.random.fill(&mut bytes[PAGE..]);
    let files = Files(BTreeMap::from([(b"base/1/2".to_vec(), bytes)]));
    let (copied, packs) = scene.copied(Id([2; 16]), &files, None, usize::MAX).await;
    assert_eq!((packs, copied.packs), (4, 4));
}
