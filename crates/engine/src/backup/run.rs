//! The usual case of a file on this host: many pieces, read, checked, hashed and sealed in one go on one processor thread.
//!
//! Handing each piece from one thread to another costs a quarter of the time of two processors. A piece with a page whose
//! checksum does not hold ends the run before it: [`super::copy`] then reads that piece again, with patience.

use std::io;
use std::sync::Arc;

use asof_repository::keyring::PageHasher;
use asof_world::ReadFile;

use super::copy::PIECE_LEN;
use super::known::Known;
use super::pages::{Filling, PagePlace, Piece, invalid_pages};

/// How much is handled in one go at most.
pub(super) const RUN_LEN: usize = 16 * PIECE_LEN;

/// What one go shall handle.
pub(super) struct Run {
    pub(super) path: Vec<u8>,
    pub(super) file: Arc<dyn ReadFile>,
    /// Where in the file it begins, and how much is wanted.
    pub(super) from: u64,
    pub(super) wanted: usize,
    pub(super) page_size: usize,
    /// The number of its first page within the file, and within the relation where checksums are looked at.
    pub(super) first_page: u32,
    pub(super) first_block: Option<u32>,
    /// What the parent has of these pages; empty without one.
    pub(super) known: Vec<Known>,
    pub(super) hasher: PageHasher,
}

/// What came of it.
pub(super) struct Ran {
    pub(super) filling: Filling,
    pub(super) places: Vec<PagePlace>,
    pub(super) len: usize,
    /// Whether the file ends here, earlier than it was.
    pub(super) ended: bool,
}

impl Run {
    /// Goes on until everything wanted is handled, the pack is full, or a page does not hold.
    pub(super) fn go(self, mut filling: Filling) -> io::Result<Ran> {
        let (mut places, mut len, mut ended, mut bytes) = (Vec::new(), 0, false, Vec::new());
        while len < self.wanted && !ended && !filling.is_full() {
            let wanted = (self.wanted - len).min(PIECE_LEN);
            bytes.resize(wanted, 0);
            let read = self.file.read_at(self.from + len as u64, &mut bytes)?;
            bytes.truncate(read);
            ended = read < wanted;
            let pages = u32::try_from(len / self.page_size).expect("a run is short");
            let block = self.first_block.map(|first| first.wrapping_add(pages));
            if block.is_some_and(|block| !invalid_pages(&bytes, self.page_size, block).is_empty()) {
                ended = false;
                break;
            }
            let known = self.known.iter().skip(pages as usize).take(read.div_ceil(self.page_size)).copied().collect();
            let piece = Piece { path: self.path.clone(), bytes, first_page: self.first_page + pages, known };
            places.extend(filling.absorb(&piece, self.page_size, &self.hasher));
            len += read;
            bytes = piece.bytes;
        }
        Ok(Ran { filling, places, len, ended })
    }
}
