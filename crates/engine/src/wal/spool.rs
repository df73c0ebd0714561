//! A spool: WAL that is durable on this host, on its way into the repository.
//!
//! With a spool the receiver acknowledges what a local disk has synced, so neither a commit nor the server's `pg_wal` waits for
//! a store that is slow or away. What it holds survives the loss of the primary, not of this host (rule 7).
//!
//! One file for each stored segment of each run, named `<run>-<timeline>-<start>` in hexadecimal; a run begins with a segment, whenever
//! a stream begins. A file is a sequence of frames: length, checksum of position and bytes, bytes. The first frame that is not
//! whole ends it: nothing behind it was acknowledged. A file that once failed to sync is not written again (hazard F3). Whatever
//! an earlier process left goes into the repository before anything new is received.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use asof_postgres::lsn::{Lsn, Timeline};
use asof_repository::wal::Observation;
use asof_world::{Files, World, WriteFile, WriteMode, create_dir_durable, planted};

use super::receiver::StoredEnd;
use crate::error::{Error, Result};
use crate::shelf::Shelf;

/// Length and checksum, four bytes each, little-endian.
const HEADER: usize = 8;
/// A frame holds no more than this.
const MAX_FRAME: usize = 1 << 20;
/// Held by the receiver that uses the spool.
const LOCK: &str = "lock";
/// One that has just ended may hold it for a moment, and so may a program that it is about to start (between `fork` and `exec`).
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_LOOK_EVERY: Duration = Duration::from_millis(50);

/// The file of one segment in one run; in the order in which they were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpoolFile {
    /// Counts the streams that were received.
    pub run: u32,
    /// Of the WAL in it.
    pub timeline: Timeline,
    /// The position of its first byte.
    pub start: Lsn,
}

impl SpoolFile {
    fn name(self) -> String {
        format!("{:08X}-{:08X}-{:016X}", self.run, self.timeline.0, self.start.0)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let mut next = |digits| parts.next().filter(|part| part.len() == digits);
        let run = u32::from_str_radix(next(8)?, 16).ok()?;
        let timeline = Timeline(u32::from_str_radix(next(8)?, 16).ok()?);
        let start = Lsn(u64::from_str_radix(next(16)?, 16).ok()?);
        parts.next().is_none().then_some(Self { run, timeline, start })
    }
}

/// How much of a file is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Durable {
    /// Bytes of the file, with headers.
    len: u64,
    /// Behind the last byte of WAL.
    end: Lsn,
}

#[derive(Default)]
struct Queue {
    files: VecDeque<(SpoolFile, Durable)>,
    /// The run that is being written.
    open: Option<u32>,
    next_run: u32,
    observed: Vec<(u32, Observation)>,
    /// Histories that are in the repository.
    histories: BTreeMap<Timeline, Vec<u8>>,
    failure: Option<Error>,
    /// Whether nothing more will be received.
    closed: bool,
}

/// What comes behind a position of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// WAL, and where in the file the next frame begins.
    Wal(Vec<u8>, u64),
    /// The next file of the same run.
    File(SpoolFile),
    /// Nothing yet.
    Later,
    /// Nothing: the run is over.
    End,
}

/// The spool of one lineage, in use by this process.
pub struct Spool {
    world: World,
    directory: PathBuf,
    upload_every: Duration,
    queue: Mutex<Queue>,
    _lock: Mutex<Box<dyn Send>>,
}

impl Spool {
    /// Takes the spool in `directory`, which is made if need be, and finds what is left in it.
    pub async fn open(world: &World, directory: PathBuf, upload_every: Duration) -> Result<Arc<Self>> {
        let deadline = world.monotonic() + LOCK_PATIENCE;
        let (lock, files) = loop {
            let (files, place) = (world.files.clone(), directory.clone());
            let opened = world.blocking(move || {
                create_dir_durable(files.as_ref(), &place, 0o700)?;
                sync_above(files.as_ref(), &place)?;
                let Some(lock) = files.lock(&place.join(LOCK))? else { return Ok(None) };
                Ok(Some((lock, left_in(files.as_ref(), &place)?)))
            });
            if let Some(opened) = opened.await.map_err(Error::files("open the spool", &directory))? {
                break opened;
            }
            if world.monotonic() >= deadline {
                let what = format!("another receiver uses the spool {}", directory.display());
                return Err(Error::refused(what, "stop it, or give this one a directory of its own"));
            }
            world.sleep(LOCK_LOOK_EVERY).await;
        };
        let next_run = files.back().map_or(0, |(file, _)| file.run + 1);
        let queue = Mutex::new(Queue { files, next_run, ..Queue::default() });
        let (world, lock) = (world.clone(), Mutex::new(lock));
        Ok(Arc::new(Self { world, directory, upload_every, queue, _lock: lock }))
    }

    /// Where it lies.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How often the repository gets what is new.
    pub(super) fn upload_every(&self) -> Duration {
        self.upload_every
    }

    /// Begins a run of WAL at `start`, the first byte of a stored segment of `size` bytes.
    pub fn begin(self: &Arc<Self>, timeline: Timeline, start: Lsn, size: u64) -> SpoolWriter {
        let mut queue = self.queue();
        let run = queue.next_run;
        queue.next_run += 1;
        queue.open = Some(run);
        drop(queue);
        let file = SpoolFile { run, timeline, start };
        let (durable, pending) = (Durable { len: 0, end: start }, Vec::new());
        SpoolWriter { spool: self.clone(), size, file, handle: None, written: durable, durable, pending }
    }

    /// The files with anything in them, the oldest first.
    pub fn files(&self) -> Vec<SpoolFile> {
        self.queue().files.iter().map(|(file, _)| *file).collect()
    }

    /// The first of them.
    pub fn oldest(&self) -> Option<SpoolFile> {
        self.queue().files.front().map(|(file, _)| *file)
    }

    /// Up to where it holds WAL; `None` when the repository has everything.
    pub fn end(&self) -> Option<StoredEnd> {
        let queue = self.queue();
        queue.files.back().map(|(file, durable)| StoredEnd { timeline: file.timeline, end: durable.end })
    }

    /// What comes behind `offset` of `file`, where the position in the WAL is `at`.
    pub async fn next(&self, file: SpoolFile, offset: u64, at: Lsn) -> Result<Next> {
        {
            let queue = self.queue();
            let durable = queue.files.iter().find(|(other, _)| *other == file).map_or(0, |(_, durable)| durable.len);
            if offset >= durable {
                let after = queue.files.iter().map(|(other, _)| *other).find(|other| *other > file);
                return Ok(match after.filter(|next| next.run == file.run) {
                    Some(next) => Next::File(next),
                    None if queue.open == Some(file.run) => Next::Later,
                    None => Next::End,
                });
            }
        }
        let (files, path) = (self.world.files.clone(), self.directory.join(file.name()));
        let read = self.world.blocking(move || {
            let open = files.open(&path)?;
            frame(open.as_ref(), offset, at)
        });
        let path = self.directory.join(file.name());
        match read.await.map_err(Error::files("read", &path))? {
            Some(bytes) => {
                let next = offset + (HEADER + bytes.len()) as u64;
                Ok(Next::Wal(bytes, next))
            }
            None => {
                let what = format!("{} is damaged behind byte {offset}", path.display());
                Err(Error::damaged(what, "look at the disk of the spool; move the file away to go on without it"))
            }
        }
    }

    /// Removes the files of `run` before `position`: the repository has them.
    pub async fn remove(&self, run: u32, position: Lsn) -> Result<()> {
        loop {
            let Some(oldest) = self.oldest().filter(|file| file.run == run && file.start < position) else {
                return Ok(());
            };
            let (files, path) = (self.world.files.clone(), self.directory.join(oldest.name()));
            let removed = self.world.blocking(move || files.remove_file(&path)).await;
            removed.map_err(Error::files("remove", self.directory.join(oldest.name())))?;
            self.queue().files.pop_front();
        }
    }

    /// Notes what was observed while a run was written.
    fn observe(&self, run: u32, observation: Observation) {
        self.queue().observed.push((run, observation));
    }

    /// Takes what was observed in `run` and before.
    pub(super) fn observed(&self, run: u32) -> Vec<Observation> {
        let mut queue = self.queue();
        let (mine, later) = queue.observed.drain(..).partition::<Vec<_>, _>(|(of, _)| *of <= run);
        queue.observed = later;
        mine.into_iter().filter(|(of, _)| *of == run).map(|(_, seen)| seen).collect()
    }

    /// Whether the repository has this history of a timeline, as far as this process knows.
    pub(super) fn knows(&self, timeline: Timeline, history: &[u8]) -> bool {
        self.queue().histories.get(&timeline).is_some_and(|known| known == history)
    }

    /// The repository has this history.
    pub(super) fn learn(&self, timeline: Timeline, history: &[u8]) {
        self.queue().histories.insert(timeline, history.to_vec());
    }

    /// Nothing more will be received.
    pub(super) fn close(&self) {
        self.queue().closed = true;
    }

    /// Whether nothing more will be received.
    pub(super) fn is_closed(&self) -> bool {
        self.queue().closed
    }

    /// What it holds cannot be brought into the repository.
    pub(super) fn fail(&self, error: Error) {
        self.queue().failure = Some(error);
    }

    /// Why what it holds cannot be brought into the repository.
    pub(super) fn check(&self) -> Result<()> {
        self.queue().failure.take().map_or(Ok(()), Err)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder panics")
    }
}

/// The directory of a lineage's spool.
pub fn directory_of(shelf: &Shelf, spool: &Path) -> PathBuf {
    spool.join(shelf.lineage.to_string())
}

/// Bytes in a spool that the repository does not have for certain; 0 when there is none.
pub async fn bytes_in(world: &World, directory: PathBuf) -> Result<u64> {
    let (files, place) = (world.files.clone(), directory.clone());
    let sum = move || {
        let mut sum = 0;
        for file in listed(files.as_ref(), &place)? {
            sum += files.attributes(&place.join(file.name()))?.len;
        }
        io::Result::Ok(sum)
    };
    match world.blocking(sum).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        sum => sum.map_err(Error::files("look into the spool", directory)),
    }
}

fn listed(files: &dyn Files, directory: &Path) -> io::Result<Vec<SpoolFile>> {
    let entries = files.list(directory)?;
    let mut found: Vec<_> =
        entries.iter().filter_map(|entry| SpoolFile::parse(&entry.name.to_string_lossy())).collect();
    found.sort_unstable();
    Ok(found)
}

/// Makes the directory's own name durable: whoever made it may have died before that. What lies above may be forbidden to us, and
/// then is not ours.
fn sync_above(files: &dyn Files, directory: &Path) -> io::Result<()> {
    for above in directory.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
        match files.sync_dir(above) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {}
            other => other?,
        }
    }
    Ok(())
}

/// What an earlier process left: every file up to its first frame that is not whole.
fn left_in(files: &dyn Files, directory: &Path) -> io::Result<VecDeque<(SpoolFile, Durable)>> {
    let mut left = VecDeque::new();
    for file in listed(files, directory)? {
        let path = directory.join(file.name());
        let open = files.open(&path)?;
        let mut durable = Durable { len: 0, end: file.start };
        while let Some(bytes) = frame(open.as_ref(), durable.len, durable.end)? {
            durable.len += (HEADER + bytes.len()) as u64;
            durable.end.0 += bytes.len() as u64;
        }
        match durable.len {
            0 => files.remove_file(&path)?,
            _ => left.push_back((file, durable)),
        }
    }
    Ok(left)
}

/// The frame at `offset` that holds WAL from `at` on; `None` when there is no whole one.
fn frame(file: &dyn asof_world::ReadFile, offset: u64, at: Lsn) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; HEADER];
    if read_full(file, offset, &mut header)? < header.len() {
        return Ok(None);
    }
    let [a, b, c, d, checksum @ ..] = header;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if len == 0 || len > MAX_FRAME {
        return Ok(None);
    }
    let mut bytes = vec![0; len];
    let whole = read_full(file, offset + HEADER as u64, &mut bytes)? == len;
    Ok((whole && checksum_of(at, &bytes) == u32::from_le_bytes(checksum)).then_some(bytes))
}

fn read_full(file: &dyn asof_world::ReadFile, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(offset + done as u64, &mut buffer[done..])? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

fn framed(at: Lsn, bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).expect("a frame is short");
    [&len.to_le_bytes(), &checksum_of(at, bytes).to_le_bytes(), bytes].concat()
}

fn checksum_of(at: Lsn, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&at.0.to_le_bytes()), bytes)
}

/// One run on its way into the spool.
pub struct SpoolWriter {
    spool: Arc<Spool>,
    /// Bytes in a stored segment.
    size: u64,
    /// The file that is being written.
    file: SpoolFile,
    handle: Option<Box<dyn WriteFile>>,
    written: Durable,
    durable: Durable,
    pending: Vec<u8>,
}

impl SpoolWriter {
    /// The position behind the last byte taken.
    pub fn received(&self) -> Lsn {
        Lsn(self.written.end.0 + self.pending.len() as u64)
    }

    /// Everything before this position is durable on this host.
    pub fn durable(&self) -> Lsn {
        if planted("c1") { self.received() } else { self.durable.end }
    }

    /// Notes that the server's clock was read before its flush position was.
    pub fn observe(&self, observation: Observation) {
        self.spool.observe(self.file.run, observation);
    }

    /// Takes the bytes that follow those taken before.
    pub async fn take(&mut self, start: Lsn, mut bytes: &[u8]) -> Result<()> {
        if start != self.received() {
            let (received, timeline) = (self.received(), self.file.timeline);
            let what = format!("the WAL stream jumped from {received} to {start} on timeline {timeline}");
            return Err(Error::damaged(what, "run the receiver again; it goes on where the spool ends"));
        }
        while !bytes.is_empty() {
            let in_file = self.file.start.0 + self.size - self.received().0;
            let room = (MAX_FRAME - self.pending.len()).min(usize::try_from(in_file).unwrap_or(usize::MAX));
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.pending.extend_from_slice(now);
            bytes = later;
            if self.received().0 == self.file.start.0 + self.size {
                self.flush().await?;
                let start = self.received();
                (self.file, self.handle) = (SpoolFile { start, ..self.file }, None);
                self.durable = Durable { len: 0, end: start };
                self.written = self.durable;
            } else if self.pending.len() == MAX_FRAME {
                self.append().await?;
            }
        }
        Ok(())
    }

    /// Makes durable what was taken. After an error the run is over, and what counts of it is what was durable before.
    pub async fn flush(&mut self) -> Result<()> {
        self.spool.check()?;
        if self.received() == self.durable.end {
            return Ok(());
        }
        self.append().await?;
        let is_new = self.durable.len == 0;
        let (files, directory) = (self.spool.world.files.clone(), self.spool.directory.clone());
        let sync = move |file: &mut dyn WriteFile| {
            file.sync()?;
            if is_new { files.sync_dir(&directory) } else { Ok(()) }
        };
        self.on_file(sync).await?;
        self.durable = self.written;
        let mut queue = self.spool.queue();
        match queue.files.back_mut() {
            Some((file, durable)) if *file == self.file => *durable = self.durable,
            _ => queue.files.push_back((self.file, self.durable)),
        }
        Ok(())
    }

    /// Writes what is pending as a frame.
    async fn append(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let (Durable { len, end }, received) = (self.written, self.received());
        let frame = framed(end, &std::mem::take(&mut self.pending));
        let written = Durable { len: len + frame.len() as u64, end: received };
        self.on_file(move |file| file.write_at(len, &frame)).await?;
        self.written = written;
        Ok(())
    }

    /// Works on the file, which is made if need be. What does not count takes no space after an error: a full disk is the likely
    /// cause.
    async fn on_file(
        &mut self,
        work: impl FnOnce(&mut dyn WriteFile) -> io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let (files, path) = (self.spool.world.files.clone(), self.path());
        let (handle, durable) = (self.handle.take(), self.durable.len);
        let worked = self.spool.world.blocking(move || {
            let mut handle = match handle {
                Some(handle) => handle,
                None => files.create(&path, 0o600, WriteMode::Cached)?,
            };
            if let Err(error) = work(handle.as_mut()) {
                let _ = if durable == 0 { files.remove_file(&path) } else { handle.set_len(durable) };
                return Err(error);
            }
            Ok(handle)
        });
        self.handle = Some(worked.await.map_err(Error::files("write", self.path()))?);
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.spool.directory.join(self.file.name())
    }
}

impl Drop for SpoolWriter {
    fn drop(&mut self) {
        if self.handle.is_some() && self.durable.len == 0 {
            // Nobody knows of it, and nothing in it was acknowledged; a next process would take it for something.
            let _ = self.spool.world.files.remove_file(&self.path());
        }
        let mut queue = self.spool.queue();
        queue.open = queue.open.filter(|run| *run != self.file.run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_they_were_written_and_foreign_files_are_none() {
        let file = SpoolFile { run: 1, timeline: Timeline(0x1F), start: Lsn(0x2_0100_0000) };
        assert_eq!(file.name(), "00000001-0000001F-0000000201000000");
        assert_eq!(SpoolFile::parse(&file.name()), Some(file));
        for foreign in ["lock", "00000001-0000001F", "00000001-0000001F-0000000201000000-1", "1-1F-2", "é0000001-00"] {
            assert_eq!(SpoolFile::parse(foreign), None, "{foreign}");
        }
    }
}
