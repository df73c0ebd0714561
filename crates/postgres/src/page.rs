//! Data pages: their header, and whether their bytes are the ones PostgreSQL wrote.
//!
//! The checksum is a variant of FNV-1a that runs 32 sums side by side, so that one pass fits vector units
//! (`storage/checksum_impl.h`, PostgreSQL 9.3 to 18). It covers the page with its own field taken as zero, and the block's number counted
//! from the start of the relation across all files. Checksums say nothing about stale or swapped pages; content hashes do that.

use crate::lsn::{BlockSize, Lsn};

/// Bytes of the fixed part of a page header (`SizeOfPageHeaderData`).
pub const PAGE_HEADER_BYTES: usize = 24;

const CHECKSUM_AT: usize = 8;
const SUMS: usize = 32;
const ROW_BYTES: usize = SUMS * 4;
const FNV_PRIME: u32 = 16_777_619;

/// `checksumBaseOffsets` of `storage/checksum_impl.h`: the format's starting values, one per sum.
const BASE_OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// The fields every page begins with (`PageHeaderData` in `storage/bufpage.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// The end of the last record that changed the page; changes without WAL (hint bits, visibility map) leave it alone.
    pub lsn: Lsn,
    /// Valid only if the instance has checksums.
    pub checksum: u16,
    /// `PD_…` bits.
    pub flags: u16,
    /// Where free space starts.
    pub lower: u16,
    /// Where free space ends; 0 marks a page never initialised.
    pub upper: u16,
    /// Where the access method's own area starts.
    pub special: u16,
    /// As the page itself claims.
    pub size: u32,
    /// Layout version, 4 since PostgreSQL 8.3.
    pub version: u8,
}

impl PageHeader {
    /// Reads the header; `None` if there are fewer than [`PAGE_HEADER_BYTES`] bytes.
    #[must_use]
    pub fn parse(page: &[u8]) -> Option<Self> {
        let header: &[u8; PAGE_HEADER_BYTES] = page.first_chunk()?;
        let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let [version, _] = half(18).to_le_bytes();
        Some(Self {
            // The only 64-bit position that PostgreSQL stores as two halves, the upper one first (PageXLogRecPtr).
            lsn: Lsn(u64::from(word(0)) << 32 | u64::from(word(4))),
            checksum: half(CHECKSUM_AT),
            flags: half(10),
            lower: half(12),
            upper: half(14),
            special: half(16),
            size: u32::from(half(18) & 0xFF00),
            version,
        })
    }

    /// The plausibility test of `PageIsVerified` (`storage/page/bufpage.c`), for instances without checksums.
    #[must_use]
    pub fn is_plausible(&self, size: BlockSize) -> bool {
        let ordered = self.lower <= self.upper && self.upper <= self.special && u32::from(self.special) <= size.bytes();
        // PD_VALID_FLAG_BITS; special space is aligned to 8 bytes.
        self.flags & !0x0007 == 0 && ordered && self.special.is_multiple_of(8)
    }
}

/// What a page's bytes say about themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageState {
    /// All zero: extended, never initialised. Valid, and without a checksum.
    Zero,
    /// The checksum is right.
    Valid,
    /// The checksum is wrong: torn by a concurrent write, damaged, or at another block number than it was written for.
    Invalid {
        /// In the page.
        stored: u16,
        /// Of its bytes.
        computed: u16,
    },
    /// `pd_upper` says never initialised, yet bytes are not zero. The server reports it as an invalid page, without a checksum.
    Malformed,
}

impl PageState {
    /// True for what a healthy instance holds.
    #[must_use]
    pub const fn is_good(self) -> bool {
        matches!(self, Self::Zero | Self::Valid)
    }
}

/// Whether every byte is zero: PostgreSQL's idea of a new page.
#[must_use]
pub fn is_new(page: &[u8]) -> bool {
    // Folding whole chunks instead of stopping at the first byte lets the compiler use vectors; data pages leave after one chunk.
    let (chunks, rest) = page.as_chunks::<256>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |any, byte| any | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// The checksum PostgreSQL would store in `page` at `block`, counted from the start of the relation (`pg_checksum_page`).
///
/// `page` is a whole page. Bytes behind the last multiple of 128 would not be covered; every [`BlockSize`] is such a multiple.
#[must_use]
pub fn checksum(page: &[u8], block: u32) -> u16 {
    debug_assert!(page.len().is_multiple_of(ROW_BYTES), "a page is a multiple of {ROW_BYTES} bytes");
    let (rows, _) = page.as_chunks::<ROW_BYTES>();
    let mut sums = BASE_OFFSETS;
    if let Some((first, rest)) = rows.split_first() {
        let mut first = *first;
        first[CHECKSUM_AT..CHECKSUM_AT + 2].fill(0);
        mix_row(&mut sums, &first);
        for row in rest {
            mix_row(&mut sums, row);
        }
    }
    // Two rounds of zeroes, so that the last bits of the page reach every bit of the sum.
    mix_row(&mut sums, &[0; ROW_BYTES]);
    mix_row(&mut sums, &[0; ROW_BYTES]);
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    // Never zero, so that a cleared field is always wrong.
    u16::try_from(folded % 65_535 + 1).expect("a remainder of 65535, plus one, fits in 16 bits")
}

#[inline(always)]
fn mix_row(sums: &mut [u32; SUMS], row: &[u8; ROW_BYTES]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_le_bytes(*word);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

/// Judges one whole page of an instance with checksums; `block` counts from the start of the relation, across its files.
#[must_use]
pub fn verify(page: &[u8], block: u32) -> PageState {
    let Some(header) = PageHeader::parse(page) else { return PageState::Malformed };
    if header.upper == 0 {
        return if is_new(page) { PageState::Zero } else { PageState::Malformed };
    }
    let computed = checksum(page, block);
    if computed == header.checksum {
        PageState::Valid
    } else {
        PageState::Invalid { stored: header.checksum, computed }
    }
}

/// A page of a run that is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BadPage {
    /// Counted from the start of the relation.
    pub block: u32,
    /// Why.
    pub state: PageState,
}

/// What [`verify_run`] found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RunReport {
    /// Whole pages looked at.
    pub pages: u32,
    /// Of these, all zero.
    pub zero_pages: u32,
    /// In order.
    pub bad: Vec<BadPage>,
    /// Bytes behind the last whole page, which nothing was said about.
    pub trailing_bytes: usize,
}

/// Judges consecutive pages, the first of which is `first_block` of its relation.
#[must_use]
pub fn verify_run(bytes: &[u8], size: BlockSize, first_block: u32) -> RunReport {
    let page_bytes = usize::try_from(size.bytes()).expect("a page fits in memory");
    let pages = bytes.chunks_exact(page_bytes);
    let mut report = RunReport { trailing_bytes: pages.remainder().len(), ..RunReport::default() };
    // Relations end before block 2^32 - 1; a run that claims to go beyond wraps and is reported as bad, not as a panic.
    for (block, page) in std::iter::successors(Some(first_block), |block| Some(block.wrapping_add(1))).zip(pages) {
        report.pages += 1;
        match verify(page, block) {
            PageState::Valid => {}
            PageState::Zero => report.zero_pages += 1,
            state => report.bad.push(BadPage { block, state }),
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(bytes: u64) -> BlockSize {
        BlockSize::new(bytes).expect("a valid size")
    }

    fn sealed(mut page: Vec<u8>, block: u32) -> Vec<u8> {
        page[14] |= 1;
        let sum = checksum(&page, block);
        page[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn a_header_is_read_field_by_field() {
        let bytes: Vec<u8> =
            [0x16, 0, 0, 0, 0x48, 0xD8, 0x74, 0xB3, 0xEF, 0xBE, 5, 0, 40, 0, 0, 0x10, 0, 0x20, 4, 0x20, 0, 0, 0, 0]
                .to_vec();
        let header = PageHeader::parse(&bytes).expect("long enough");
        assert_eq!(header.lsn, Lsn(0x16_B374_D848));
        assert_eq!((header.checksum, header.flags), (0xBEEF, 5));
        assert_eq!((header.lower, header.upper, header.special), (40, 4096, 8192));
        assert_eq!((header.size, header.version), (8192, 4));
        assert!(header.is_plausible(size(8192)));
        assert!(!header.is_plausible(size(4096)));
        assert!(PageHeader::parse(&bytes[..23]).is_none());
    }

    #[test]
    fn a_zero_page_is_good_and_an_almost_zero_page_is_not() {
        let mut page = vec![0; 8192];
        assert_eq!(verify(&page, 7), PageState::Zero);
        page[8191] = 1;
        assert_eq!(verify(&page, 7), PageState::Malformed);
        assert_eq!(verify(&[], 0), PageState::Malformed);
    }

    #[test]
    fn hz_a9_one_flipped_bit_anywhere_makes_a_page_invalid() {
        let page = sealed((0..8192_u32).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect(), 131_072);
        assert_eq!(verify(&page, 131_072), PageState::Valid);
        assert!(!verify(&page, 0).is_good(), "the block number counts across files");
        for bit in (0..8192 * 8).step_by(61) {
            let mut damaged = page.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify(&damaged, 131_072).is_good(), "bit {bit}");
        }
    }

    #[test]
    fn a_run_names_its_bad_blocks() {
        let mut run = sealed(vec![1; 4096], 10);
        run.extend(vec![0; 4096]);
        run.extend(sealed(vec![2; 4096], 13));
        run.extend(sealed(vec![3; 4096], 13));
        run.extend([9; 100]);
        let report = verify_run(&run, size(4096), 10);
        assert_eq!((report.pages, report.zero_pages, report.trailing_bytes), (4, 1, 100));
        assert_eq!(report.bad.iter().map(|bad| bad.block).collect::<Vec<_>>(), [12]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic(bytes: Vec<u8>, block: u32) {
            let _ = verify_run(&bytes, size(1024), block);
            let _ = PageHeader::parse(&bytes);
        }

        #[test]
        fn a_sealed_page_is_valid_only_where_it_was_sealed(fill: u8, shift in 10u32..=15, block: u32, other: u32) {
            let page = sealed(vec![fill; 1 << shift], block);
            prop_assert_eq!(verify(&page, block), PageState::Valid);
            if block % 65_535 != other % 65_535 {
                // XOR with the block number, then a remainder: different blocks nearly always differ.
                prop_assume!(checksum(&page, other) != checksum(&page, block));
                prop_assert!(!verify(&page, other).is_good());
            }
        }
    }
}
