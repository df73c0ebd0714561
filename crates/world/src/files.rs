//! The local file system, reduced to what a backup tool does to it.
//!
//! Calls are synchronous: they belong inside [`crate::World::blocking`]. Nothing is durable until the file *and* the
//! directory that names it were synced; a failed sync means the data is lost and must be written anew (hazard F3).

use std::io;
use std::path::{Path, PathBuf};

use crate::Timestamp;

/// What a directory entry is; links are never followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A socket, pipe or device.
    Other,
}

/// User and group id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What is known of a file without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes.
    pub len: u64,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Who owns it.
    pub owner: Owner,
    /// Last modification.
    pub modified: Timestamp,
    /// Device and inode: the identity that a link cycle is found by.
    pub identity: (u64, u64),
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name within the directory; bytes as the file system has them.
    pub name: std::ffi::OsString,
    /// What it is.
    pub kind: FileKind,
}

/// How bytes reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Through the page cache.
    Cached,
    /// Past the page cache where the file system can; writes must then start at multiples of [`crate::ALIGNMENT`] from
    /// aligned memory. Falls back to the page cache where it cannot.
    Direct,
}

/// A file open for reading at any offset.
pub trait ReadFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// The present length.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file is empty now.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A file open for writing at any offset.
pub trait WriteFile: Send {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts or extends (with zeros) to `len`.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
    /// Begins to bring what was written there to the disk, so that [`sync`](Self::sync) finds little left; and lets go of memory that
    /// others need more. No more than a hint.
    fn write_out(&mut self, _offset: u64, _len: u64) {}
    /// Makes content and length durable. After an error the content is undefined: write it anew.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that lies in memory.
pub struct MemoryFile {
    /// By which programs open it, as long as this value is held.
    pub path: PathBuf,
    /// What keeps it there.
    pub held: Box<dyn Send + Sync>,
}

/// How much a file system holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What whoever is not root can still write.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// The local file system.
pub trait Files: Send + Sync {
    /// Opens for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>>;
    /// Creates a file that must not exist, with permission bits `mode`.
    fn create(&self, path: &Path, mode: u32, write: WriteMode) -> io::Result<Box<dyn WriteFile>>;
    /// Opens an existing regular file for writing; refuses a symbolic link.
    fn open_write(&self, path: &Path) -> io::Result<Box<dyn WriteFile>>;
    /// Gives a file a second name, which must not exist.
    fn link(&self, existing: &Path, new: &Path) -> io::Result<()>;
    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file or a symbolic link.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Creates one directory; the parent must exist.
    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Creates a symbolic link at `link` that points to `target`.
    fn symlink(&self, target: &Path, link: &Path) -> io::Result<()>;
    /// What a symbolic link points to.
    fn read_link(&self, path: &Path) -> io::Result<PathBuf>;
    /// Changes the owner.
    fn set_owner(&self, path: &Path, owner: Owner) -> io::Result<()>;
    /// Changes the permission bits.
    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a tree of files and directories durable.
    fn sync_tree(&self, path: &Path) -> io::Result<()> {
        for entry in self.list(path)? {
            let child = path.join(&entry.name);
            match entry.kind {
                FileKind::Directory => self.sync_tree(&child)?,
                FileKind::File => self.open_write(&child)?.sync()?,
                FileKind::Symlink | FileKind::Other => {}
            }
        }
        self.sync_dir(path)
    }
    /// Takes the lock of a file, which is created if need be, until the answer is dropped or this process ends; `None` while
    /// somebody else has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send>>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("{} cannot be locked here", path.display())))
    }
    /// A file with these bytes that lies on no disk and is gone when the answer is dropped; a program of the same user can open
    /// its path, and seek in it.
    fn in_memory(&self, bytes: &[u8]) -> io::Result<MemoryFile> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("there is no place in memory for {} bytes", bytes.len()),
        ))
    }
    /// How much the file system has on which this existing file or directory lies; links are followed.
    fn space(&self, path: &Path) -> io::Result<Space> {
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("{} has no space that is known", path.display())))
    }
    /// The entries of a directory, without `.` and `..`, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Attributes of the entry itself; a symbolic link is not followed.
    fn attributes(&self, path: &Path) -> io::Result<Attributes>;

    /// Reads a whole file of at most `limit` bytes.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let len = file.len()?;
        if len > limit {
            let message = format!("{} is {len} bytes long, more than the {limit} expected", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        let read = file.read_at(0, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Replaces a small file durably: written beside it, synced, renamed, directory synced.
    fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let beside = path.with_file_name(name);
        match self.remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = self.create(&beside, mode, WriteMode::Cached)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        self.rename(&beside, path)?;
        self.sync_dir(path.parent().unwrap_or(Path::new(".")))
    }

    /// Whether something has this name.
    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.attributes(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a directory and everything below it; links are removed, not followed. Absence is not an error.
    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        let entries = match self.list(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let child = path.join(&entry.name);
            match entry.kind {
                FileKind::Directory => self.remove_tree(&child)?,
                _ => self.remove_file(&child)?,
            }
        }
        self.remove_dir(path)
    }
}

/// Creates `path` and the parents it lacks, and makes each new name durable. An existing directory is fine.
pub fn create_dir_durable(files: &dyn Files, path: &Path, mode: u32) -> io::Result<()> {
    if path.as_os_str().is_empty() || files.exists(path)? {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    create_dir_durable(files, parent, mode)?;
    match files.create_dir(path, mode) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    files.sync_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}
