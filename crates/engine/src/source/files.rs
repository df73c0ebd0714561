//! Reading an instance through the files of this host.
//!
//! Links are followed only where PostgreSQL itself makes them: `pg_wal`, and the tablespaces below `pg_tblspc`, of which
//! only the directory of our own catalogue version is ours. Any other link is refused by name: it may lead anywhere, and
//! a backup that quietly leaves out what it could not judge is worse than none (hazard A7).

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use asof_postgres::version::{self, Excluded, Major};
use asof_world::{FileKind as EntryKind, Files, ReadFile, World, planted};
use async_trait::async_trait;

use super::{Listing, Source, SourceFile, Tablespace, judge};
use crate::error::{Error, Result};

/// An instance whose data directory this process can read.
pub struct FilesSource {
    world: World,
    root: PathBuf,
    major: Major,
}

impl FilesSource {
    /// The instance in `data_directory`.
    pub fn new(world: World, data_directory: impl Into<PathBuf>, major: Major) -> Self {
        Self { world, root: data_directory.into(), major }
    }
}

#[async_trait]
impl Source for FilesSource {
    async fn list(&self) -> Result<Listing> {
        let walk = Walk { files: self.world.files.clone(), root: self.root.clone(), major: self.major };
        self.world.blocking(move || walk.run()).await
    }

    async fn open(&self, path: &[u8]) -> Result<Option<Arc<dyn SourceFile>>> {
        let (files, full) = (self.world.files.clone(), self.root.join(OsStr::from_bytes(path)));
        let opened = self.world.blocking(move || open(files.as_ref(), &full)).await?;
        Ok(opened.map(|(file, len, path)| {
            let file = OpenFile { world: self.world.clone(), file: file.into(), len, path };
            Arc::new(file) as Arc<dyn SourceFile>
        }))
    }
}

type Opened = (Box<dyn ReadFile>, u64, PathBuf);

/// Only "no such file" means vanished: an input/output error or a missing right must fail the backup (hazard A5).
fn open(files: &dyn Files, path: &Path) -> Result<Option<Opened>> {
    let file = match files.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound || planted("a5") => return Ok(None),
        other => other.map_err(Error::files("open", path))?,
    };
    let len = file.len().map_err(Error::files("look at", path))?;
    Ok(Some((file, len, path.to_owned())))
}

struct OpenFile {
    world: World,
    file: Arc<dyn ReadFile>,
    len: u64,
    path: PathBuf,
}

#[async_trait]
impl SourceFile for OpenFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn local(&self) -> Option<Arc<dyn ReadFile>> {
        Some(self.file.clone())
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let file = self.file.clone();
        let read = move || {
            let mut bytes = vec![0; len];
            let read = file.read_at(offset, &mut bytes)?;
            bytes.truncate(read);
            Ok(bytes)
        };
        self.world.blocking(read).await.map_err(Error::files("read", &self.path))
    }
}

/// The OID in `pg_tblspc/<oid>`.
fn tablespace_oid(path: &[u8]) -> Option<u32> {
    std::str::from_utf8(path.strip_prefix(b"pg_tblspc/")?).ok()?.parse().ok()
}

struct Walk {
    files: Arc<dyn Files>,
    root: PathBuf,
    major: Major,
}

impl Walk {
    fn run(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        let mut open = vec![Vec::new()];
        while let Some(directory) = open.pop() {
            if !directory.is_empty() {
                listing.directories.push(directory.clone());
            }
            for (path, kind) in self.entries(&directory)? {
                match kind {
                    EntryKind::Directory if self.is_entered(&path) => {
                        let in_place = tablespace_oid(&path).map(|oid| Tablespace { oid, location: None });
                        listing.tablespaces.extend(in_place);
                        open.push(path);
                    }
                    EntryKind::Directory => {}
                    EntryKind::File => self.file(path, &mut listing)?,
                    EntryKind::Symlink => self.link(path, &mut listing, &mut open)?,
                    EntryKind::Other => {} // sockets and pipes hold no data
                }
            }
        }
        Ok(listing)
    }

    fn full(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }

    fn entries(&self, directory: &[u8]) -> Result<Vec<(Vec<u8>, EntryKind)>> {
        let full = self.full(directory);
        let entries = match self.files.list(&full) {
            // A database that is dropped while we list takes its directory along; the data directory itself must be there.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !directory.is_empty() => return Ok(Vec::new()),
            other => other.map_err(Error::files("list", full))?,
        };
        let child = |name: Vec<u8>| if directory.is_empty() { name } else { [directory, b"/", &name].concat() };
        Ok(entries.into_iter().map(|entry| (child(entry.name.into_vec()), entry.kind)).collect())
    }

    /// A directory is entered unless it belongs to another major or to queries. A tablespace may hold the directories of
    /// several majors after `pg_upgrade`.
    fn is_entered(&self, path: &[u8]) -> bool {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let foreign =
            matches!(parts[..], [b"pg_tblspc", _, version] if version != self.major.tablespace_directory().as_bytes());
        !foreign
            && !matches!(
                version::excluded_from_backup(self.major, path),
                Some(Excluded::QueryTemporary | Excluded::Wal | Excluded::DirectoryContent)
            )
    }

    fn file(&self, path: Vec<u8>, listing: &mut Listing) -> Result<()> {
        let full = self.full(&path);
        let len = match self.files.attributes(&full) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(Error::files("look at", full))?.len,
        };
        listing.files.extend(judge(self.major, path, len));
        Ok(())
    }

    fn link(&self, path: Vec<u8>, listing: &mut Listing, open: &mut Vec<Vec<u8>>) -> Result<()> {
        let full = self.full(&path);
        if path == b"pg_wal" {
            listing.directories.extend([b"pg_wal".to_vec(), b"pg_wal/archive_status".to_vec()]);
            return Ok(());
        }
        if version::excluded_from_backup(self.major, &path).is_some() {
            return Ok(());
        }
        let Some(oid) = tablespace_oid(&path) else {
            if planted("a7") {
                return Ok(());
            }
            let what = format!("{} is a symbolic link, and asof does not know what belongs to it", full.display());
            return Err(Error::refused(
                what,
                "replace the link by the file or directory itself, or keep it outside of the data directory",
            ));
        };
        let target = self.files.read_link(&full).map_err(Error::files("read the link", &full))?;
        listing.tablespaces.push(Tablespace { oid, location: Some(target.into_os_string().into_vec()) });
        open.push(path);
        Ok(())
    }
}
