//! Stores: three outcomes, and no doubt that is settled by a guess.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asof_repository::error::{Error, Result};
use asof_repository::store::local::LocalStore;
use asof_repository::store::{Body, Created, Listed, ReadRange, Retrying, Store};
use asof_world::{Attributes, DirEntry, Files, Owner, ReadFile, Tasks, World, WriteFile, WriteMode};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

use crate::support::Home;

/// The real files, of which one sync of a directory fails.
struct OneBadSync {
    inner: Arc<dyn Files>,
    left: AtomicUsize,
}

impl Files for OneBadSync {
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.inner.sync_dir(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        self.inner.open(path)
    }

    fn create(&self, path: &Path, mode: u32, write: WriteMode) -> io::Result<Box<dyn WriteFile>> {
        self.inner.create(path, mode, write)
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        self.inner.open_write(path)
    }

    fn link(&self, existing: &Path, new: &Path) -> io::Result<()> {
        self.inner.link(existing, new)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir(path)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.inner.create_dir(path, mode)
    }

    fn symlink(&self, target: &Path, link: &Path) -> io::Result<()> {
        self.inner.symlink(target, link)
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        self.inner.read_link(path)
    }

    fn set_owner(&self, path: &Path, owner: Owner) -> io::Result<()> {
        self.inner.set_owner(path, owner)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.inner.set_mode(path, mode)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(path)
    }

    fn attributes(&self, path: &Path) -> io::Result<Attributes> {
        self.inner.attributes(path)
    }
}

#[tokio::test]
async fn hz_f5_a_local_creation_that_failed_behind_the_link_is_uncertain_never_not_done() {
    let mut seen = Vec::new();
    for bad in 1.. {
        let home = Home::new();
        let files = OneBadSync { inner: home.world.files.clone(), left: AtomicUsize::new(bad) };
        let world = World { files: Arc::new(files), ..home.world.clone() };
        let store = LocalStore::new(world, home.dir.path());
        let result = store.create("l/a/journal/1", b"entry".to_vec().into()).await;
        let there = home.dir.path().join("l/a/journal/1").exists();
        match result {
            Ok(created) => {
                assert_eq!((created, there), (Created::New, true));
                break;
            }
            Err(error) => {
                assert_eq!(matches!(error, Error::Uncertain { .. }), there, "sync {bad}: {error}");
                seen.push(there);
            }
        }
    }
    assert!(seen.contains(&true) && seen.contains(&false), "{seen:?}");
}

/// A store that gives prepared answers to creations; `None` lets one through.
struct Scripted {
    inner: Arc<dyn Store>,
    answers: Mutex<Vec<Option<Answer>>>,
}

#[derive(Clone, Copy)]
enum Answer {
    Unavailable,
    Denied,
    DoneButUncertain,
}

fn no_answer(name: &str, uncertain: bool) -> Error {
    let (operation, object, source) = ("create", name.to_owned(), "the line is dead".into());
    if uncertain {
        Error::Uncertain { operation, object, source }
    } else {
        Error::Unavailable { operation, object, source }
    }
}

#[async_trait]
impl Store for Scripted {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn create(&self, name: &str, body: Body) -> Result<Created> {
        let answer = self.answers.lock().unwrap().pop();
        match answer.flatten() {
            None => self.inner.create(name, body).await,
            Some(Answer::Unavailable) => Err(no_answer(name, false)),
            Some(Answer::Denied) => {
                Err(Error::Denied { object: name.to_owned(), reason: "the token expired".to_owned() })
            }
            Some(Answer::DoneButUncertain) => {
                self.inner.create(name, body).await?;
                Err(no_answer(name, true))
            }
        }
    }

    async fn read(&self, name: &str, range: ReadRange) -> Result<Bytes> {
        self.inner.read(name, range).await
    }

    async fn len(&self, name: &str) -> Result<u64> {
        self.inner.len(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name).await
    }
}

/// Sleeps at once, so that patience is used up by counting.
struct NoSleep(Arc<dyn Tasks>);

impl Tasks for NoSleep {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self.0.spawn(future);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.blocking(work);
    }

    fn compute(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.compute(work);
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }

    fn processors(&self) -> usize {
        1
    }
}

/// A retrying store over prepared answers, first to last; patience ends after the wait that exceeds it.
fn retrying(home: &Home, answers: &[Option<Answer>], patience: Duration) -> Retrying {
    let answers = Mutex::new(answers.iter().rev().copied().collect());
    let scripted = Scripted { inner: home.store(), answers };
    let world = World { tasks: Arc::new(NoSleep(home.world.tasks.clone())), ..home.world.clone() };
    Retrying::new(Arc::new(scripted), world, patience)
}

const A_MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn hz_f5_a_creation_in_doubt_is_settled_by_reading_back() {
    let home = Home::new();
    let answers = [Some(Answer::DoneButUncertain), Some(Answer::Unavailable), None];
    let store = retrying(&home, &answers, A_MINUTE);
    assert_eq!(store.create("a", b"mine".to_vec().into()).await.unwrap(), Created::New);
    let store = retrying(&home, &[Some(Answer::Unavailable), None], A_MINUTE);
    assert_eq!(store.create("a", b"mine".to_vec().into()).await.unwrap(), Created::Exists, "nothing was in doubt");
    let store = retrying(&home, &[Some(Answer::DoneButUncertain), None], A_MINUTE);
    assert_eq!(store.create("a", b"other".to_vec().into()).await.unwrap(), Created::Exists, "somebody else's bytes");
}

#[tokio::test]
async fn hz_f5_a_creation_that_stays_in_doubt_is_uncertain_whatever_the_last_answer_was() {
    for last in [Answer::Unavailable, Answer::Denied] {
        let home = Home::new();
        let store = retrying(&home, &[Some(Answer::DoneButUncertain), Some(last)], Duration::from_millis(150));
        let error = store.create("a", b"mine".to_vec().into()).await.unwrap_err();
        assert!(matches!(error, Error::Uncertain { .. }), "{error}");
    }
}
