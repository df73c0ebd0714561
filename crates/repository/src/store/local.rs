//! A repository in a local directory.
//!
//! An object is written to `tmp/` beside the repository's own folders, synced, and linked to its name: `link(2)` fails
//! when the name is taken, so creation is atomic and never overwrites. Then the directory of the name, and every directory
//! made for it, is synced. After a crash an object is there whole or not at all; what is left in `tmp/` is garbage that
//! nothing refers to. Renaming without syncing the directory was measured to lose the name on ext4 after a power cut.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{collections::HashSet, sync::Arc};

use asof_world::{FileKind, Files, World, WriteMode, create_dir_durable, planted};
use async_trait::async_trait;
use bytes::Bytes;

use super::{Body, Created, Listed, ReadRange, Store};
use crate::error::{Error, Result};

const TEMPORARY: &str = "tmp";
const DIRECTORY_MODE: u32 = 0o700;
const OBJECT_MODE: u32 = 0o600;

/// A store in a directory of this machine.
pub struct LocalStore {
    inner: Arc<Inner>,
    world: World,
}

struct Inner {
    root: PathBuf,
    files: Arc<dyn Files>,
    /// Directories that are known to be durable, so that each is synced into its parent once.
    known: Mutex<HashSet<PathBuf>>,
}

impl LocalStore {
    /// A store below `root`, which is created with the first object.
    pub fn new(world: World, root: impl Into<PathBuf>) -> Self {
        let inner = Inner { root: root.into(), files: world.files.clone(), known: Mutex::default() };
        Self { inner: Arc::new(inner), world }
    }

    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        name: &str,
        work: impl FnOnce(&Inner, &str) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (inner, object) = (self.inner.clone(), name.to_owned());
        let result = self.world.blocking(move || work(&inner, &object)).await;
        result.map_err(|error| classify(operation, name, error))
    }
}

fn classify(operation: &'static str, name: &str, error: io::Error) -> Error {
    let object = name.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::NotFound { object },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Error::Denied { object, reason: format!("the file system does not let us {operation} it: {error}") }
        }
        io::ErrorKind::InvalidInput => Error::invalid(error),
        io::ErrorKind::UnexpectedEof => Error::Corrupt { object, reason: error.to_string() },
        _ => Error::Unavailable { operation, object, source: Box::new(error) },
    }
}

impl Inner {
    fn path(&self, name: &str) -> io::Result<PathBuf> {
        let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        let temporary = name.split('/').next() == Some(TEMPORARY);
        if temporary || !name.split('/').all(plain) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("\"{name}\" is not the name of an object"),
            ));
        }
        Ok(self.root.join(name))
    }

    /// Creates the directory if it is missing, and makes its name and those of all its ancestors durable, once for each
    /// process: whoever made them may have died before it did so.
    fn ensure_dir(&self, dir: &Path) -> io::Result<()> {
        if self.known.lock().expect("no holder panics").contains(dir) {
            return Ok(());
        }
        create_dir_durable(self.files.as_ref(), dir, DIRECTORY_MODE)?;
        self.settle_ancestors(dir)
    }

    fn settle_ancestors(&self, dir: &Path) -> io::Result<()> {
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        let Some(parent) = parent.filter(|_| !self.known.lock().expect("no holder panics").contains(dir)) else {
            return Ok(());
        };
        match self.files.sync_dir(parent) {
            // Above the root there may be directories that we can pass through and not open; they are not ours to make durable.
            Err(error) if !parent.starts_with(&self.root) && is_forbidden(&error) => {}
            other => other?,
        }
        self.settle_ancestors(parent)?;
        self.known.lock().expect("no holder panics").insert(dir.to_owned());
        Ok(())
    }

    /// Makes durable what is about to be relied on: the object may have been named by a process that died, or is about to
    /// die, before it synced the directory. A journal entry that was read and acted on must not disappear again.
    fn settle(&self, directory: &Path) -> io::Result<()> {
        match self.settle_ancestors(directory).and_then(|()| self.files.sync_dir(directory)) {
            // Nothing there, or a store that is only there to be read: then nobody here writes to it.
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_forbidden(&error) => Ok(()),
            other => other,
        }
    }

    fn create(&self, name: &str, temporary: &str, body: &Body) -> io::Result<Made> {
        let path = self.path(name)?;
        let directory = path.parent().expect("an object lies in a directory");
        self.ensure_dir(directory)?;
        if self.files.exists(&path)? {
            // Whoever made it may have died before the directory was synced, and we are about to rely on it.
            self.files.sync_dir(directory)?;
            return Ok(Made { created: Created::Exists, settled: Ok(()) });
        }
        let staging = self.root.join(TEMPORARY);
        self.ensure_dir(&staging)?;
        let staged = staging.join(temporary);
        let linked = self.stage(&staged, body).map(|()| self.link(&staged, &path));
        let removed = self.files.remove_file(&staged);
        let Linked { created, doubt } = linked?;
        let sync = || if planted("f2") { Ok(()) } else { self.files.sync_dir(directory) };
        let settled = doubt.map_or(Ok(()), Err).and(removed).and_then(|()| sync());
        match (created, settled) {
            (Some(created), settled) => Ok(Made { created, settled }),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => unreachable!("a link without an outcome has an error"),
        }
    }

    /// Gives the staged file its name. An error says little: a network file system may have done it all the same, and may
    /// answer "exists" for its own link. The identity of the file tells.
    fn link(&self, staged: &Path, path: &Path) -> Linked {
        let Err(error) = self.files.link(staged, path) else {
            return Linked { created: Some(Created::New), doubt: None };
        };
        match (self.files.attributes(staged), self.files.attributes(path)) {
            (Ok(ours), Ok(there)) if ours.identity == there.identity => {
                Linked { created: Some(Created::New), doubt: None }
            }
            (Ok(_), Ok(_)) => Linked { created: Some(Created::Exists), doubt: None },
            (_, Err(missing)) if missing.kind() == io::ErrorKind::NotFound => {
                Linked { created: None, doubt: Some(error) }
            }
            _ => Linked { created: Some(Created::New), doubt: Some(error) },
        }
    }

    fn stage(&self, staged: &Path, body: &Body) -> io::Result<()> {
        let bytes = body.as_slice();
        let mut file = self.files.create(staged, OBJECT_MODE, WriteMode::Direct)?;
        file.write_at(0, bytes)?;
        // A sync that failed is not tried again: the pages may be marked clean, and lost (hazard F3).
        file.sync().or_else(|error| if planted("f3") { file.sync() } else { Err(error) })
    }

    /// The path of an object that is there and may be relied on.
    fn find(&self, name: &str) -> io::Result<(PathBuf, u64)> {
        let path = self.path(name)?;
        let found = self.files.attributes(&path)?;
        if found.kind != FileKind::File {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok((path, found.len))
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        let (path, len) = self.find(name)?;
        self.settle(path.parent().expect("an object lies in a directory"))?;
        Ok(len)
    }

    fn read(&self, name: &str, range: ReadRange) -> io::Result<Bytes> {
        let (path, _) = self.find(name)?;
        // Parts are read of objects that a decision was already read about.
        if !matches!(range, ReadRange::Part { .. }) {
            self.settle(path.parent().expect("an object lies in a directory"))?;
        }
        let file = self.files.open(&path)?;
        let len = file.len()?;
        let (offset, wanted) = match range {
            ReadRange::Whole => (0, len),
            ReadRange::Part { offset, len } => (offset, len),
            ReadRange::Last { len: last } => (len.saturating_sub(last), last.min(len)),
        };
        let end = offset.checked_add(wanted).filter(|end| *end <= len);
        let wanted = match end {
            Some(_) => usize::try_from(wanted).map_err(io::Error::other)?,
            None => {
                let message = format!("bytes {offset} to {} of {len}", offset.saturating_add(wanted));
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
        };
        let mut bytes = vec![0; wanted];
        let read = file.read_at(offset, &mut bytes)?;
        if read < wanted {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the object became shorter while it was read"));
        }
        Ok(bytes.into())
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        let mut found = Vec::new();
        let mut directories = vec![(self.root.clone(), String::new())];
        while let Some((directory, name)) = directories.pop() {
            let entries = match self.files.list(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            for entry in entries {
                let Some(part) = entry.name.to_str() else { continue };
                let child = if name.is_empty() { part.to_owned() } else { format!("{name}/{part}") };
                let path = directory.join(part);
                match entry.kind {
                    FileKind::Directory if child == TEMPORARY => {}
                    FileKind::Directory if may_hold(&child, prefix) => directories.push((path, child)),
                    FileKind::File if child.starts_with(prefix) => {
                        match self.files.attributes(&path) {
                            Ok(attributes) => found.push(Listed { len: attributes.len, name: child }),
                            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // deleted meanwhile
                            Err(error) => return Err(error),
                        }
                    }
                    _ => {}
                }
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        let path = self.path(name)?;
        let directory = path.parent().expect("an object lies in a directory");
        match self.files.remove_file(&path) {
            // Somebody may have removed it and died before that was durable.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.settle(directory),
            Err(error) => Err(error),
            Ok(()) => self.files.sync_dir(directory),
        }
    }
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// What a link came to. Without an outcome nothing happened; with an outcome and a doubt, nobody can tell.
struct Linked {
    created: Option<Created>,
    doubt: Option<io::Error>,
}

/// What became of a creation once the object has its name, and whether that is durable.
struct Made {
    created: Created,
    settled: io::Result<()>,
}

/// Whether objects below `directory` can begin with `prefix`.
fn may_hold(directory: &str, prefix: &str) -> bool {
    prefix.starts_with(directory) || directory.starts_with(prefix)
}

#[async_trait]
impl Store for LocalStore {
    fn place(&self) -> String {
        self.inner.root.display().to_string()
    }

    async fn create(&self, name: &str, body: Body) -> Result<Created> {
        let temporary = self.world.id().to_string();
        let made = self.call("create", name, move |inner, name| inner.create(name, &temporary, &body)).await?;
        // The object has its name by now: it is there, and may be gone after a crash.
        let in_doubt =
            |error| Error::Uncertain { operation: "create", object: name.to_owned(), source: Box::new(error) };
        made.settled.map_err(in_doubt)?;
        Ok(made.created)
    }

    async fn read(&self, name: &str, range: ReadRange) -> Result<Bytes> {
        self.call("read", name, move |inner, name| inner.read(name, range)).await
    }

    async fn len(&self, name: &str) -> Result<u64> {
        self.call("look at", name, Inner::len).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.call("list", prefix, Inner::list).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.call("delete", name, Inner::delete).await
    }
}
