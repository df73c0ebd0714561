//! The header of a WAL page (`XLogPageHeaderData`, `XLogLongPageHeaderData` in `access/xlog_internal.h`).
//!
//! | at | field | |
//! |---|---|---|
//! | 0 | magic | one per major |
//! | 2 | flags | |
//! | 4 | timeline | of the first record on the page |
//! | 8 | page address | must be where the page lies; a recycled page gives itself away here |
//! | 16 | remaining length | of a record begun on an earlier page |
//! | 20 | padding | |
//! | 24 | system identifier | first page of a segment only |
//! | 32 | segment size | " |
//! | 36 | WAL page size | " |

use super::Reader;
use crate::history::PageTimelineError;
use crate::lsn::{Lsn, Timeline};
use crate::wal::WalShape;

pub(super) const SHORT_HEADER_BYTES: u32 = 24;
pub(super) const LONG_HEADER_BYTES: u32 = 40;

const FIRST_IS_CONTINUATION: u16 = 0x0001;
const LONG_HEADER: u16 = 0x0002;
const FIRST_IS_OVERWRITE: u16 = 0x0008;
/// With `XLP_BKP_REMOVABLE` (0x0004), which concerns nobody but old archivers.
const ALL_FLAGS: u16 = 0x000F;

/// What a page header says, once checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// The page begins with the rest of a record.
    pub first_is_continuation: bool,
    /// The record that should continue here was given up by a crash; the page begins a record that says so.
    pub first_is_overwrite: bool,
    /// Whose WAL.
    pub timeline: Timeline,
    /// How many bytes of the continued record are still to come, this page's included.
    pub remaining_length: u32,
    /// Bytes of the header itself.
    pub bytes: u32,
}

/// Why a page is not the one that belongs here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageHeaderError {
    /// All zero: never written.
    #[error("the page is empty")]
    Empty,
    /// Another major, or no WAL at all.
    #[error("the page has magic number {found:04X}, not {expected:04X}")]
    Magic {
        /// In the page.
        found: u16,
        /// Of this major.
        expected: u16,
    },
    /// Undefined bits, or a long header in the wrong place.
    #[error("the page has impossible flags {0:04X}")]
    Flags(u16),
    /// An older use of the same file, or a piece out of place.
    #[error("the page says that it belongs at {0}")]
    Address(Lsn),
    /// Not on the history.
    #[error(transparent)]
    Timeline(#[from] PageTimelineError),
    /// Another instance.
    #[error("the page is from the instance with system identifier {found}, not {expected}")]
    SystemIdentifier {
        /// In the page.
        found: u64,
        /// Of the instance being decoded.
        expected: u64,
    },
    /// Initialised or built with another size.
    #[error("the page is from WAL with segments of {segment} and pages of {page} bytes")]
    Sizes {
        /// Segment size in the page.
        segment: u32,
        /// WAL page size in the page.
        page: u32,
    },
}

/// How many header bytes the page at `at` has.
pub(super) fn header_bytes(shape: &WalShape, at: Lsn) -> u32 {
    if shape.segment_size.offset(at) == 0 { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES }
}

impl PageHeader {
    /// Checks the header of the page at `at`; `None` means that `bytes` end before the header does.
    #[must_use]
    pub fn parse(bytes: &[u8], shape: &WalShape, at: Lsn) -> Option<Result<Self, PageHeaderError>> {
        let length = header_bytes(shape, at);
        let bytes = bytes.get(..usize::try_from(length).ok()?)?;
        Self::check(Reader(bytes), shape, at, length)
    }

    fn check(mut header: Reader<'_>, shape: &WalShape, at: Lsn, bytes: u32) -> Option<Result<Self, PageHeaderError>> {
        if header.0.iter().all(|byte| *byte == 0) {
            return Some(Err(PageHeaderError::Empty));
        }
        let (found, expected) = (header.u16()?, shape.major.wal_page_magic());
        if found != expected {
            return Some(Err(PageHeaderError::Magic { found, expected }));
        }
        let flags = header.u16()?;
        let is_long = flags & LONG_HEADER != 0;
        if flags & !ALL_FLAGS != 0 || is_long != (bytes == LONG_HEADER_BYTES) {
            return Some(Err(PageHeaderError::Flags(flags)));
        }
        let timeline = Timeline(header.u32()?);
        let address = Lsn(header.u64()?);
        if address != at {
            return Some(Err(PageHeaderError::Address(address)));
        }
        let remaining_length = header.u32()?;
        header.u32()?;
        if is_long {
            let (found, expected) = (header.u64()?, shape.system_identifier);
            if found != expected {
                return Some(Err(PageHeaderError::SystemIdentifier { found, expected }));
            }
            let (segment, page) = (header.u32()?, header.u32()?);
            if segment != shape.segment_size.bytes() || page != shape.wal_block_size.bytes() {
                return Some(Err(PageHeaderError::Sizes { segment, page }));
            }
        }
        if let Err(error) = shape.history.check_page(at, timeline) {
            return Some(Err(error.into()));
        }
        Some(Ok(Self {
            first_is_continuation: flags & FIRST_IS_CONTINUATION != 0,
            first_is_overwrite: flags & FIRST_IS_OVERWRITE != 0,
            timeline,
            remaining_length,
            bytes,
        }))
    }
}
