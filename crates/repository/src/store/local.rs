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

use asof_world::{FileKind, Files, World, WriteMode, create_dir_durable};
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
        io::ErrorKind::NotFound => Error::NotFound { object },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Error::Denied { object, reason: format!("the file system does not let us {operation} it: {error}") }
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            Error::Corrupt { object, reason: error.to_string() }
        }
        _ => Error::Unavailable { operation, object, source: Box::new(error) },
    }
}

impl Inner {
    fn path(&self, name: &str) -> io::Result<PathBuf> {
        let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        if !name.split('/').all(plain) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("\"{name}\" is not the name of an object"),
            ));
        }
        Ok(self.root.join(name))
    }

    fn ensure_dir(&self, dir: &Path) -> io::Result<()> {
        if self.known.lock().expect("no holder panics").contains(dir) {
            return Ok(());
        }
        create_dir_durable(self.files.as_ref(), dir, DIRECTORY_MODE)?;
        // The directory may have been made by a process that died before it synced the parent.
        if dir.starts_with(&self.root)
            && let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty())
        {
            self.files.sync_dir(parent)?;
            if dir != self.root {
                self.ensure_dir(parent)?;
            }
        }
        self.known.lock().expect("no holder panics").insert(dir.to_owned());
        Ok(())
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
        let result = self.stage(&staged, body).and_then(|()| match self.files.link(&staged, &path) {
            Ok(()) => Ok(Created::New),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Created::Exists),
            Err(error) => Err(error),
        });
        let removed = self.files.remove_file(&staged);
        let created = result?;
        Ok(Made { created, settled: removed.and_then(|()| self.files.sync_dir(directory)) })
    }

    fn stage(&self, staged: &Path, body: &Body) -> io::Result<()> {
        let bytes = body.as_slice();
        let mut file = self.files.create(staged, OBJECT_MODE, WriteMode::Direct)?;
        file.write_at(0, bytes)?;
        file.sync()
    }

    fn read(&self, name: &str, range: ReadRange) -> io::Result<Bytes> {
        let file = self.files.open(&self.path(name)?)?;
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
                        found.push(Listed { len: self.files.attributes(&path)?.len, name: child });
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
        match self.files.remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.files.sync_dir(path.parent().expect("an object lies in a directory")),
        }
    }
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
        self.call("look at", name, |inner, name| Ok(inner.files.attributes(&inner.path(name)?)?.len)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.call("list", prefix, Inner::list).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.call("delete", name, Inner::delete).await
    }
}
