//! Defects on purpose, as layers over [`Files`]. Every one of them is a mistake that a real store made; an enumeration
//! of crashes that stays green with one of them underneath proves nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use asof_world::{Attributes, DirEntry, Files, Owner, ReadFile, WriteFile, WriteMode};

/// Which mistake is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Directories are never synced: a new name is gone after a power cut.
    NoDirectorySync,
    /// Files are never synced: a name without its content.
    NoFileSync,
    /// A link is made as a rename, which replaces what had the name: the later of two writers wins.
    RenameInsteadOfLink,
}

impl Planted {
    /// `files` with this mistake.
    pub fn over(self, files: Arc<dyn Files>) -> Arc<dyn Files> {
        Arc::new(Mistaken { files, mistake: self })
    }
}

struct Mistaken {
    files: Arc<dyn Files>,
    mistake: Planted,
}

/// A file whose sync does nothing.
struct NeverSynced(Box<dyn WriteFile>);

impl WriteFile for NeverSynced {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Mistaken {
    fn writer(&self, file: Box<dyn WriteFile>) -> Box<dyn WriteFile> {
        if self.mistake == Planted::NoFileSync { Box::new(NeverSynced(file)) } else { file }
    }
}

impl Files for Mistaken {
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        self.files.open(path)
    }

    fn create(&self, path: &Path, mode: u32, write: WriteMode) -> io::Result<Box<dyn WriteFile>> {
        self.files.create(path, mode, write).map(|file| self.writer(file))
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        self.files.open_write(path).map(|file| self.writer(file))
    }

    fn link(&self, existing: &Path, new: &Path) -> io::Result<()> {
        match self.mistake {
            Planted::RenameInsteadOfLink => self.files.rename(existing, new),
            _ => self.files.link(existing, new),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        match self.files.remove_file(path) {
            // Who renames does not expect the old name to be there.
            Err(error) if self.mistake == Planted::RenameInsteadOfLink && error.kind() == io::ErrorKind::NotFound => {
                Ok(())
            }
            other => other,
        }
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.files.remove_dir(path)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.files.create_dir(path, mode)
    }

    fn symlink(&self, target: &Path, link: &Path) -> io::Result<()> {
        self.files.symlink(target, link)
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        self.files.read_link(path)
    }

    fn set_owner(&self, path: &Path, owner: Owner) -> io::Result<()> {
        self.files.set_owner(path, owner)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.files.set_mode(path, mode)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if self.mistake == Planted::NoDirectorySync { Ok(()) } else { self.files.sync_dir(path) }
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send>>> {
        self.files.lock(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.files.list(path)
    }

    fn attributes(&self, path: &Path) -> io::Result<Attributes> {
        self.files.attributes(path)
    }
}
