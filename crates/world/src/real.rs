//! The real machine: tokio for tasks, the kernel for files, time and randomness.

mod processes;

use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use rustix::fs::OFlags;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::{
    ALIGNMENT, Attributes, Clock, DirEntry, FileKind, Files, MemoryFile, Owner, Processes, Random, ReadFile, Space,
    Tasks, Timestamp, World, WriteFile, WriteMode,
};

pub(crate) fn world() -> World {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    World {
        clock: Arc::new(SystemClock { start: Instant::now() }),
        random: Arc::new(KernelRandom),
        files: Arc::new(KernelFiles),
        tasks: Arc::new(TokioTasks {
            runtime: Handle::current(),
            processors,
            computing: Arc::new(Semaphore::new(processors)),
        }),
    }
}

struct SystemClock {
    start: Instant,
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let micros = match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()),
            Err(before) => i64::try_from(before.duration().as_micros()).map(|micros| -micros),
        };
        Timestamp(micros.unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

struct KernelRandom;

impl Random for KernelRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            // getrandom(2) without flags fails only when interrupted by a signal before the pool was ready.
            let got = rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty())
                .expect("the kernel hands out randomness");
            rest = &mut rest[got..];
        }
    }
}

struct TokioTasks {
    runtime: Handle,
    processors: usize,
    computing: Arc<Semaphore>,
}

impl Tasks for TokioTasks {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self.runtime.spawn(future);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.runtime.spawn_blocking(work);
    }

    fn compute(&self, work: Box<dyn FnOnce() + Send>) {
        let computing = self.computing.clone();
        let runtime = self.runtime.clone();
        self.runtime.spawn(async move {
            let permit = computing.acquire_owned().await.expect("the semaphore is never closed");
            runtime.spawn_blocking(move || {
                work();
                drop(permit);
            });
        });
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn processors(&self) -> usize {
        self.processors
    }

    fn processes(&self) -> Arc<dyn Processes> {
        Arc::new(processes::KernelProcesses)
    }
}

struct KernelFiles;

struct Reader(fs::File);

impl ReadFile for Reader {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.0.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

struct Writer {
    file: fs::File,
    direct: bool,
}

impl Writer {
    /// Direct writes need aligned memory, offset and length; the unaligned end of a file takes the page cache.
    fn leave_direct_mode(&mut self) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(self.file.as_fd())?;
        rustix::fs::fcntl_setfl(self.file.as_fd(), flags - OFlags::DIRECT)?;
        self.direct = false;
        Ok(())
    }
}

impl WriteFile for Writer {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if !self.direct {
            return self.file.write_all_at(bytes, offset);
        }
        let aligned = offset.is_multiple_of(ALIGNMENT as u64) && bytes.as_ptr().align_offset(ALIGNMENT) == 0;
        let whole = if aligned { bytes.len() / ALIGNMENT * ALIGNMENT } else { 0 };
        self.file.write_all_at(&bytes[..whole], offset)?;
        if whole < bytes.len() {
            self.leave_direct_mode()?;
            self.file.write_all_at(&bytes[whole..], offset + whole as u64)?;
        }
        Ok(())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn write_out(&mut self, offset: u64, len: u64) {
        // Dirty pages are written, asynchronously, before they are let go (`generic_fadvise` in mm/fadvise.c).
        let _ = rustix::fs::fadvise(&self.file, offset, NonZeroU64::new(len), rustix::fs::Advice::DontNeed);
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        // While ext4 shuts down, an fsync that is on its way says that all is well, and the last append is lost: seen in 8 of 60
        // power cuts. The next call that writes, even nothing, is told; in 200 cuts nothing was lost that way.
        self.file.write_at(&[], 0).map(drop)
    }
}

fn kind_of(kind: fs::FileType) -> FileKind {
    if kind.is_file() {
        FileKind::File
    } else if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_symlink() {
        FileKind::Symlink
    } else {
        FileKind::Other
    }
}

impl Files for KernelFiles {
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        Ok(Box::new(Reader(fs::File::open(path)?)))
    }

    fn create(&self, path: &Path, mode: u32, write: WriteMode) -> io::Result<Box<dyn WriteFile>> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        if write == WriteMode::Direct {
            options.custom_flags(OFlags::DIRECT.bits().cast_signed());
            match options.open(path) {
                Ok(file) => return Ok(Box::new(Writer { file, direct: true })),
                // tmpfs before Linux 6.6 and some network file systems know no direct I/O: open(2), EINVAL.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    // The file may have been created before the flag was refused.
                    let _ = fs::remove_file(path);
                    options.custom_flags(0);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Box::new(Writer { file: options.open(path)?, direct: false }))
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let file = fs::OpenOptions::new().write(true).custom_flags(flags).open(path)?;
        Ok(Box::new(Writer { file, direct: false }))
    }

    fn link(&self, existing: &Path, new: &Path) -> io::Result<()> {
        fs::hard_link(existing, new)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::DirBuilder::new().mode(mode).create(path)
    }

    fn symlink(&self, target: &Path, link: &Path) -> io::Result<()> {
        std::os::unix::fs::symlink(target, link)
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        fs::read_link(path)
    }

    fn set_owner(&self, path: &Path, owner: Owner) -> io::Result<()> {
        std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    /// One call for the whole file system: syncing ten thousand files one by one takes a disk flush each. Since Linux 5.8
    /// syncfs(2) reports writeback errors that happened after the file system was opened here.
    fn sync_tree(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::syncfs(fs::File::open(path)?)?)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send>>> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn in_memory(&self, bytes: &[u8]) -> io::Result<MemoryFile> {
        let held = rustix::fs::memfd_create("asof", rustix::fs::MemfdFlags::CLOEXEC)?;
        let file = fs::File::from(held);
        file.write_all_at(bytes, 0)?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&file));
        Ok(MemoryFile { path: path.into(), held: Box::new(file) })
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let found = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Space { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        fs::read_dir(path)?
            .map(|entry| {
                let entry = entry?;
                Ok(DirEntry { kind: kind_of(entry.file_type()?), name: entry.file_name() })
            })
            .collect()
    }

    fn attributes(&self, path: &Path) -> io::Result<Attributes> {
        let data = fs::symlink_metadata(path)?;
        Ok(Attributes {
            kind: kind_of(data.file_type()),
            len: data.len(),
            mode: data.mode() & 0o7777,
            owner: Owner { uid: data.uid(), gid: data.gid() },
            modified: Timestamp(data.mtime().saturating_mul(1_000_000).saturating_add(data.mtime_nsec() / 1000)),
            identity: (data.dev(), data.ino()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AlignedBuf, create_dir_durable};

    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory for the test")
    }

    #[test]
    fn a_direct_write_with_a_ragged_end_reads_back_whole() {
        let dir = scratch();
        let path = dir.path().join("pack");
        let mut buffer = AlignedBuf::with_capacity(3 * ALIGNMENT);
        buffer.extend(&[9; 2 * ALIGNMENT + 17]);
        let mut file = KernelFiles.create(&path, 0o600, WriteMode::Direct).expect("creates");
        file.write_at(0, buffer.as_slice()).expect("writes");
        file.sync().expect("syncs");
        assert_eq!(KernelFiles.read(&path, 1 << 20).expect("reads"), buffer.as_slice());
    }

    #[test]
    fn creating_a_file_that_exists_is_refused() {
        let dir = scratch();
        let path = dir.path().join("once");
        KernelFiles.create(&path, 0o600, WriteMode::Cached).expect("creates");
        let error = KernelFiles.create(&path, 0o600, WriteMode::Direct).err().expect("is refused");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn replacing_leaves_one_file_with_the_new_content() {
        let dir = scratch();
        let path = dir.path().join("a/b/settings");
        create_dir_durable(&KernelFiles, path.parent().expect("has a parent"), 0o700).expect("creates parents");
        for content in [b"one".as_slice(), b"two"] {
            KernelFiles.replace(&path, content, 0o600).expect("replaces");
            assert_eq!(KernelFiles.read(&path, 10).expect("reads"), content);
        }
        assert_eq!(KernelFiles.list(path.parent().expect("has a parent")).expect("lists").len(), 1);
    }

    #[test]
    fn the_space_of_a_file_system_is_known_and_that_of_nothing_is_not() {
        let dir = scratch();
        let space = KernelFiles.space(dir.path()).expect("is known");
        assert!(0 < space.total && space.free <= space.total, "{space:?}");
        let missing = KernelFiles.space(&dir.path().join("missing")).expect_err("is not there");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn removing_a_tree_does_not_follow_links() {
        let dir = scratch();
        let (kept, tree) = (dir.path().join("kept"), dir.path().join("tree"));
        fs::write(&kept, "x").expect("writes");
        fs::create_dir_all(tree.join("deep")).expect("creates");
        std::os::unix::fs::symlink(dir.path(), tree.join("deep/up")).expect("links");
        KernelFiles.remove_tree(&tree).expect("removes");
        assert!(kept.exists() && !tree.exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tasks_blocking_and_computing_work_return_their_results() {
        let world = World::real();
        let task = world.spawn(async { 1 });
        let sum = world.compute(|| 2).await + world.blocking(|| 3).await + task.await;
        assert_eq!(sum, 6);
    }
}
