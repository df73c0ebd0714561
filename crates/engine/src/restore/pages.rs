//! Writes files from a page map: frames are fetched in large ranges, opened, and their pages put in place.
//!
//! A file is built in windows of a few megabytes. For a window the frames that it needs are known from the map; frames that lie
//! close together in a pack are fetched with one read. A window of zeros is not written at all. Nothing is written that was
//! not authenticated; pages carry no hash here, because their frame opens only as what it was sealed as.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use asof_repository::codec::Decoder;
use asof_repository::map::{MapFile, PageMap, Place};
use asof_repository::names::{Name, PackId};
use asof_repository::object::{DataSections, Section};
use asof_repository::pack::PAGES_PER_FRAME;
use asof_repository::store::ReadRange;
use asof_world::{AlignedBuf, Files, ReadFile, WriteFile, WriteMode};
use bytes::Bytes;
use futures::future::join;

use super::existing::wrong_pages;
use crate::backup::known::KnownPages;
use crate::error::{Error, Result};
use crate::shelf::Shelf;

/// Pages are put together in memory in windows of this many bytes.
const WINDOW_LEN: usize = 4 << 20;
/// Frames whose distance in their pack is at most this are fetched together: reading a little too much is cheaper than
/// another request.
const GAP: u64 = 128 << 10;
/// Files from this length on are written past the page cache, which costs a fraction of the processor time.
const DIRECT_FROM: u64 = 1 << 20;
/// A read is never longer than this, however close frames lie.
const LONGEST_READ: u64 = 8 << 20;
/// How far ahead a small file's frames are fetched: its neighbours lie behind it.
const READ_AHEAD: u64 = 512 << 10;

/// Restores files of one map, part by part; one for each job.
pub(crate) struct PageWriter {
    shelf: Shelf,
    part: Arc<PageMap>,
    ahead: Option<Fetched>,
    /// Of the packs of the part.
    sections: BTreeMap<u32, Arc<DataSections>>,
}

/// Bytes of a pack that are in memory.
#[derive(Clone)]
struct Fetched {
    pack: PackId,
    offset: u64,
    bytes: Bytes,
}

/// Where one page of a window comes from.
#[derive(Clone, Copy)]
struct Piece {
    pack: u32,
    frame: u32,
    slot: usize,
    /// Page within the window.
    to: usize,
}

/// A frame that a window needs.
struct Needed {
    pack: u32,
    number: u32,
    section: Section,
    /// Slots in the frame, and the pages of the window that they fill.
    pages: Vec<(usize, usize)>,
}

/// A frame with its sealed bytes, ready to be opened.
struct Sealed {
    number: u32,
    section: Section,
    bytes: Bytes,
    sections: Arc<DataSections>,
    pages: Vec<(usize, usize)>,
}

impl PageWriter {
    pub(crate) fn new(shelf: Shelf) -> Self {
        Self { shelf, part: Arc::default(), ahead: None, sections: BTreeMap::new() }
    }

    /// Goes on with files of this part.
    fn turn_to(&mut self, part: &Arc<PageMap>) {
        if !Arc::ptr_eq(&self.part, part) {
            self.part = part.clone();
            self.sections.clear();
        }
    }

    /// Reads a whole small file into memory.
    pub(crate) async fn read(&mut self, part: &Arc<PageMap>, file: &MapFile, limit: u64) -> Result<Vec<u8>> {
        self.turn_to(part);
        if file.len > limit {
            return Err(Error::damaged(
                format!("{} is impossibly long", text(&file.path)),
                "choose another backup, and look at the disk of the repository",
            ));
        }
        let page_size = self.part.page_size as usize;
        let len = usize::try_from(file.len).expect("it was compared with a small limit").next_multiple_of(page_size);
        let window = self.window(file, 0, AlignedBuf::with_capacity(len)).await?;
        Ok(window.as_slice().to_vec())
    }

    /// Reads a piece of a file from `offset` on, where a page begins; shorter than the others only at the end of the file.
    pub(crate) async fn read_at(&mut self, part: &Arc<PageMap>, file: &MapFile, offset: u64) -> Result<AlignedBuf> {
        self.turn_to(part);
        let len = usize::try_from(file.len - offset).unwrap_or(usize::MAX).min(WINDOW_LEN);
        self.window(file, offset, AlignedBuf::with_capacity(len.next_multiple_of(self.part.page_size as usize))).await
    }

    /// Creates `path` with the content of `file`. `advance` hears of bytes written.
    pub(crate) async fn write(
        &mut self,
        part: &Arc<PageMap>,
        file: &MapFile,
        path: PathBuf,
        advance: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<()> {
        self.turn_to(part);
        let files = self.shelf.world.files.clone();
        let write = if file.len >= DIRECT_FROM { WriteMode::Direct } else { WriteMode::Cached };
        let mut out = Output::create(&self.shelf, files, path, write).await?;
        let window_len = usize::try_from(file.len).unwrap_or(usize::MAX).min(WINDOW_LEN);
        let capacity = window_len.next_multiple_of(self.part.page_size as usize);
        // While one window is written, the next is read and decoded.
        let (shelf, mut offset) = (self.shelf.clone(), 0);
        let (mut spare, mut decoded): (Option<AlignedBuf>, Option<(u64, AlignedBuf)>) = (None, None);
        while offset < file.len || decoded.is_some() {
            let decoding = async {
                if offset == file.len {
                    return Ok(None);
                }
                let mut buffer = spare.take().unwrap_or_else(|| AlignedBuf::with_capacity(capacity));
                buffer.clear();
                self.window(file, offset, buffer).await.map(Some)
            };
            let writing = async {
                let Some((at, buffer)) = decoded.take() else { return Ok(None) };
                let len = buffer.len() as u64;
                let buffer = out.write(&shelf, at, buffer).await?;
                advance(len);
                Ok::<_, Error>(Some(buffer))
            };
            let (next, written) = join(decoding, writing).await;
            spare = written?;
            if let Some(buffer) = next? {
                let len = buffer.len() as u64;
                decoded = Some((offset, buffer));
                offset += len;
            }
        }
        out.end(&self.shelf, file.len).await
    }

    /// Makes an existing file equal to `file`: reads it, and writes only pages that differ. Returns the bytes written.
    pub(crate) async fn update(
        &mut self,
        part: &Arc<PageMap>,
        file: &MapFile,
        path: &Path,
        known: &KnownPages,
        advance: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<u64> {
        self.turn_to(part);
        let page_size = self.part.page_size as usize;
        let files = self.shelf.world.files.clone();
        let (reader, shown) = (path.to_owned(), path.to_owned());
        let open = move || Ok::<_, std::io::Error>((files.open(&reader)?, files.open_write(&reader)?));
        let (existing, writer) = self.shelf.world.blocking(open).await.map_err(Error::files("open", &shown))?;
        let (existing, mut writer): (Arc<dyn ReadFile>, _) = (existing.into(), Some(writer));
        let mut cursor = known.file(&file.path, Some(part.clone())).await?;
        let (mut offset, mut written) = (0, 0);
        while offset < file.len {
            let len = usize::try_from(file.len - offset).unwrap_or(usize::MAX).min(WINDOW_LEN / page_size * page_size);
            let there = self.read_existing(&existing, offset, len, path).await?;
            let known = match &mut cursor {
                Some(cursor) => cursor.next(len.div_ceil(page_size)).await?,
                None => Vec::new(),
            };
            let first = u32::try_from(offset / page_size as u64).map_err(|_| too_long(file))?;
            let hasher = self.shelf.keyring.page_hasher(self.shelf.lineage);
            let compared = file.clone();
            let compare = move || wrong_pages(&compared, first, &there, len, page_size, &known, &hasher);
            let wrong = self.shelf.world.compute(compare).await;
            written += self.rewrite(file, offset, len, wrong, &mut writer, path).await?;
            offset += len as u64;
            advance(len as u64);
        }
        Output { file: writer, path: path.to_owned() }.end(&self.shelf, file.len).await?;
        Ok(written)
    }

    async fn read_existing(&self, file: &Arc<dyn ReadFile>, offset: u64, len: usize, path: &Path) -> Result<Vec<u8>> {
        let file = file.clone();
        let read = move || {
            let mut bytes = vec![0; len];
            let read = file.read_at(offset, &mut bytes)?;
            bytes.truncate(read);
            Ok(bytes)
        };
        self.shelf.world.blocking(read).await.map_err(Error::files("read", path))
    }

    /// Writes the wrong pages of a window.
    async fn rewrite(
        &mut self,
        file: &MapFile,
        offset: u64,
        len: usize,
        wrong: Vec<usize>,
        writer: &mut Option<Box<dyn WriteFile>>,
        path: &Path,
    ) -> Result<u64> {
        if wrong.is_empty() {
            return Ok(0);
        }
        let page_size = self.part.page_size as usize;
        let capacity = len.next_multiple_of(page_size);
        let window = self.window(file, offset, AlignedBuf::with_capacity(capacity)).await?;
        let mut out = writer.take().expect("a file is written by one caller");
        let work = move || {
            let mut written = 0;
            for page in wrong {
                let end = ((page + 1) * page_size).min(len);
                let bytes = &window.as_slice()[page * page_size..end];
                if let Err(error) = out.write_at(offset + (page * page_size) as u64, bytes) {
                    return (out, Err(error));
                }
                written += bytes.len() as u64;
            }
            (out, Ok(written))
        };
        let (out, result) = self.shelf.world.blocking(work).await;
        *writer = Some(out);
        result.map_err(Error::files("write", path))
    }

    /// Fills `buffer` with the bytes of `file` from `offset` on, as far as it has room.
    async fn window(&mut self, file: &MapFile, offset: u64, mut buffer: AlignedBuf) -> Result<AlignedBuf> {
        let page_size = self.part.page_size as usize;
        let len =
            usize::try_from(file.len - offset).unwrap_or(usize::MAX).min(buffer.capacity() / page_size * page_size);
        let pages = len.div_ceil(page_size);
        buffer.resize((pages * page_size).min(buffer.capacity()));
        let pieces = pieces(file, offset / page_size as u64, pages);
        let sealed = self.fetch(&pieces).await?;
        let work = move || open_frames(sealed, buffer, page_size);
        let mut buffer = self.shelf.world.compute(work).await?;
        buffer.resize(len);
        Ok(buffer)
    }

    /// Fetches the frames that `pieces` need.
    async fn fetch(&mut self, pieces: &[Piece]) -> Result<Vec<Sealed>> {
        let mut wanted: BTreeMap<(u32, u32), Vec<(usize, usize)>> = BTreeMap::new();
        for piece in pieces {
            wanted.entry((piece.pack, piece.frame)).or_default().push((piece.slot, piece.to));
        }
        let needed = wanted.into_iter().map(|((pack, number), pages)| {
            let section =
                self.part.packs[pack as usize].frames.get(number).expect("a map names only frames that it lists");
            Needed { pack, number, section, pages }
        });
        let needed: Vec<Needed> = needed.collect();
        let mut sealed = Vec::with_capacity(needed.len());
        let mut rest = needed.as_slice();
        while let Some(first) = rest.first() {
            let (now, later) = rest.split_at(neighbours(rest));
            let last = now.last().map_or(first.section, |frame| frame.section);
            let end = last.offset + u64::from(last.stored_len);
            let fetched = self.range(first.pack, first.section.offset, end).await?;
            let sections = self.sections(first.pack)?;
            for Needed { number, section, pages, .. } in now {
                let from = usize::try_from(section.offset - fetched.offset).expect("a range fits in memory");
                let bytes = fetched.bytes.slice(from..from + section.stored_len as usize);
                let (sections, pages) = (sections.clone(), pages.clone());
                sealed.push(Sealed { number: *number, section: *section, bytes, sections, pages });
            }
            rest = later;
        }
        Ok(sealed)
    }

    /// Bytes `offset..end` of a pack, from memory if the last read brought them along.
    async fn range(&mut self, pack: u32, offset: u64, end: u64) -> Result<Fetched> {
        let entry = &self.part.packs[pack as usize];
        let covers = |ahead: &&Fetched| {
            ahead.pack == entry.id && ahead.offset <= offset && end <= ahead.offset + ahead.bytes.len() as u64
        };
        if let Some(ahead) = self.ahead.as_ref().filter(covers) {
            return Ok(ahead.clone());
        }
        let wanted = if end - offset < READ_AHEAD { (offset + READ_AHEAD).min(entry.len) } else { end };
        let range = ReadRange::Part { offset, len: wanted.max(end) - offset };
        let bytes = self.shelf.store.read(&Name::Pack(entry.id).to_string(), range).await?;
        let fetched = Fetched { pack: entry.id, offset, bytes };
        self.ahead = Some(fetched.clone());
        Ok(fetched)
    }

    fn sections(&mut self, pack: u32) -> Result<Arc<DataSections>> {
        if let Some(sections) = self.sections.get(&pack) {
            return Ok(sections.clone());
        }
        let entry = &self.part.packs[pack as usize];
        let sections = Arc::new(DataSections::new(&self.shelf.keyring, Name::Pack(entry.id), &entry.reference)?);
        self.sections.insert(pack, sections.clone());
        Ok(sections)
    }
}

/// How many of the next frames lie close enough to be fetched with one read.
fn neighbours(frames: &[Needed]) -> usize {
    let end = |frame: &Needed| frame.section.offset + u64::from(frame.section.stored_len);
    let close = |pair: &[Needed]| {
        let [a, b] = pair else { return false };
        a.pack == b.pack && b.section.offset <= end(a) + GAP && end(b) - frames[0].section.offset <= LONGEST_READ
    };
    1 + frames.windows(2).take_while(|pair| close(pair)).count()
}

/// Where the pages of a window come from; pages of zeros come from nowhere.
fn pieces(file: &MapFile, first: u64, pages: usize) -> Vec<Piece> {
    let (mut pieces, mut at) = (Vec::new(), 0u64);
    let end = first + pages as u64;
    for run in &file.runs {
        let (start, behind) = (at, at + u64::from(run.pages));
        at = behind;
        if behind <= first {
            continue;
        }
        if start >= end {
            break;
        }
        let Place::Pack { pack, position } = run.place else { continue };
        for page in start.max(first)..behind.min(end) {
            let position = position + u32::try_from(page - start).expect("a run is shorter than 2^32 pages");
            let to = usize::try_from(page - first).expect("a window has few pages");
            let slot = (position % PAGES_PER_FRAME) as usize;
            pieces.push(Piece { pack, frame: position / PAGES_PER_FRAME, slot, to });
        }
    }
    pieces
}

fn open_frames(sealed: Vec<Sealed>, mut buffer: AlignedBuf, page_size: usize) -> Result<AlignedBuf> {
    buffer.as_mut_slice().fill(0);
    let (mut decoder, mut plain, mut scratch) = (Decoder::new(), Vec::new(), Vec::new());
    for frame in sealed {
        plain.resize(frame.section.plain_len as usize, 0);
        scratch.clear();
        scratch.extend_from_slice(&frame.bytes);
        frame.sections.open(frame.number, &frame.section, &mut scratch, &mut plain, &mut decoder)?;
        for (slot, to) in frame.pages {
            let from = slot * page_size;
            let page = plain.get(from..(from + page_size).min(plain.len())).filter(|page| !page.is_empty());
            let page = page.ok_or_else(|| {
                Error::damaged(
                    format!("frame {} has fewer pages than the map says", frame.number),
                    "choose another backup, and look at the disk of the repository",
                )
            })?;
            let room = buffer.len() - to * page_size;
            let len = page.len().min(room);
            buffer.as_mut_slice()[to * page_size..][..len].copy_from_slice(&page[..len]);
        }
    }
    Ok(buffer)
}

/// A file being written.
struct Output {
    file: Option<Box<dyn WriteFile>>,
    path: PathBuf,
}

impl Output {
    async fn create(shelf: &Shelf, files: Arc<dyn Files>, path: PathBuf, write: WriteMode) -> Result<Self> {
        let target = path.clone();
        let created = shelf.world.blocking(move || files.create(&target, 0o600, write)).await;
        Ok(Self { file: Some(created.map_err(Error::files("create", &path))?), path })
    }

    async fn write(&mut self, shelf: &Shelf, offset: u64, buffer: AlignedBuf) -> Result<AlignedBuf> {
        let mut file = self.file.take().expect("a file is written by one caller");
        let work = move || {
            // Zeros at a place that was never written need not be written either.
            let result = if buffer.as_slice().iter().all(|byte| *byte == 0) {
                Ok(())
            } else {
                file.write_at(offset, buffer.as_slice())
            };
            (file, buffer, result)
        };
        let (file, buffer, result) = shelf.world.blocking(work).await;
        self.file = Some(file);
        result.map_err(Error::files("write", &self.path))?;
        Ok(buffer)
    }

    /// The length counts also where the end is zeros. Durability comes with the whole tree.
    async fn end(self, shelf: &Shelf, len: u64) -> Result<()> {
        let mut file = self.file.expect("a file is written by one caller");
        let result = shelf.world.blocking(move || file.set_len(len)).await;
        result.map_err(Error::files("write", &self.path))
    }
}

fn too_long(file: &MapFile) -> Error {
    Error::damaged(
        format!("{} is impossibly long", text(&file.path)),
        "choose another backup, and look at the disk of the repository",
    )
}

/// A path for a message.
pub(crate) fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// The place of a stored path below `root`, or `None` for one that would lie elsewhere.
pub(crate) fn confined(root: &Path, path: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let plain = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0);
    if asof_world::planted("a14") {
        return Some(root.join(text(path)));
    }
    path.split(|byte| *byte == b'/').all(plain).then(|| root.join(std::ffi::OsStr::from_bytes(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use asof_repository::map::Run;

    #[test]
    fn hz_e5_a_stored_path_never_leads_out_of_the_target() {
        for path in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a/\0", "a/"] {
            assert_eq!(confined(Path::new("/target"), path.as_bytes()), None, "{path:?}");
        }
        assert_eq!(confined(Path::new("/target"), b"base/1/2"), Some(PathBuf::from("/target/base/1/2")));
    }

    #[test]
    fn a_window_takes_the_pages_of_the_runs_that_cross_it() {
        let run = |pages, place| Run { pages, place, torn: false };
        let pack = |position| Place::Pack { pack: 0, position };
        let file = MapFile {
            path: b"f".to_vec(),
            len: 8192 * 30,
            runs: vec![run(10, pack(100)), run(10, Place::Zero), run(10, pack(7))],
        };
        let found: Vec<_> = pieces(&file, 8, 14).iter().map(|p| (p.frame as usize * 16 + p.slot, p.to)).collect();
        assert_eq!(found, [(108, 0), (109, 1), (7, 12), (8, 13)]);
    }
}
