//! The page map of a backup: every file, and where each of its pages lies. Format.md, "Maps".
//!
//! A map is complete: restoring needs no other backup. It is cut into *parts* of neighbouring files; a part that is equal
//! to one of the backup before is not written again but referred to. Where parts are cut depends on the paths alone, so
//! that a file more or less moves no other cut. Everything that a reader needs to open any page (packs with their keys,
//! frames with their places) stands in the part that names the page: once the part is read, a page is one ranged read.
//!
//! Nobody holds a whole map: a backup seals each part when its files are copied and their packs stored ([`MapWriter`]), and
//! reads the parts of its parent one after the other ([`StoredMap`]), as a restore does.

mod index;
mod part;
mod reader;
mod writer;

pub use part::frames_of;
pub use reader::{Parts, StoredMap, open_map};
pub use writer::{CopiedFile, MOST_FRAMES_OF_A_FILE, MapWriter, PendingPack, WAITING_FRAMES, frames_named, write_map};

use crate::frames::Frames;
use crate::names::PackId;
use crate::object::Reference;

/// Where a run of pages lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: the pages are all zeros.
    Zero,
    /// In a pack, from this position on.
    Pack {
        /// An index into [`PageMap::packs`].
        pack: u32,
        /// Position of the first page.
        position: u32,
    },
}

/// A run of pages of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// How many pages.
    pub pages: u32,
    /// Where they lie.
    pub place: Place,
    /// Whether the page (a run of one) was torn when it was read and is repaired by replay.
    pub torn: bool,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFile {
    /// Its path relative to the data directory, as bytes, with `/` between parts.
    pub path: Vec<u8>,
    /// Exact length in bytes; the last page is cut accordingly.
    pub len: u64,
    /// Its pages from the first to the last.
    pub runs: Vec<Run>,
}

/// A pack that a map refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapPack {
    /// Which pack.
    pub id: PackId,
    /// Its length in bytes.
    pub len: u64,
    /// What proves it and opens its frames.
    pub reference: Reference,
    /// The frames that are referred to, by number.
    pub frames: Frames,
}

/// Files and the packs that they need: those of one part, or of a whole map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageMap {
    /// Bytes in a page.
    pub page_size: u32,
    /// Directories, so that empty ones come back.
    pub directories: Vec<Vec<u8>>,
    /// Files by ascending path.
    pub files: Vec<MapFile>,
    /// Packs that runs refer to.
    pub packs: Vec<MapPack>,
}

impl PageMap {
    /// The file with this path.
    pub fn file(&self, path: &[u8]) -> Option<&MapFile> {
        self.files.binary_search_by(|file| file.path.as_slice().cmp(path)).ok().map(|at| &self.files[at])
    }
}

impl MapFile {
    /// Appends pages, joining them with the run before where they continue it.
    pub fn push(&mut self, run: Run) {
        if let Some(last) = self.runs.last_mut()
            && !last.torn
            && !run.torn
            && last.place.continues_at(last.pages, run.place)
        {
            last.pages += run.pages;
            return;
        }
        self.runs.push(run);
    }

    /// How many pages the file has.
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.pages)).sum()
    }
}

impl Place {
    fn continues_at(self, pages: u32, next: Self) -> bool {
        match (self, next) {
            (Self::Zero, Self::Zero) => true,
            (Self::Pack { pack: a, position: at }, Self::Pack { pack: b, position }) => {
                a == b && at + pages == position
            }
            _ => false,
        }
    }
}
