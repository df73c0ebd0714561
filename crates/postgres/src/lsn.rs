//! Positions in the write-ahead log, and the sizes that give them a place in a file.
//!
//! A WAL position is a 64-bit byte offset in one endless stream. Which file it lies in follows from the segment size, which is
//! chosen at `initdb`; nothing here assumes the default of 16 MiB, and nothing assumes pages of 8 KiB.
//! Sources: `access/xlogdefs.h`, `access/xlog_internal.h` (`IsValidWalSegSize`, `XLByteToSeg`), PostgreSQL 13 to 18.

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log (`XLogRecPtr`). Zero is PostgreSQL's "invalid", see [`Lsn::INVALID`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `InvalidXLogRecPtr`: no position. The first real record never lies there, because page 0 starts with a header.
    pub const INVALID: Self = Self(0);
    /// The greatest position; stands for "no end".
    pub const MAX: Self = Self(u64::MAX);

    /// False for [`Lsn::INVALID`].
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// The position `bytes` further on, or `None` beyond the end of the 64-bit stream.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(position) => Some(Self(position)),
            None => None,
        }
    }

    /// The position `bytes` back, or `None` before the start of the stream.
    #[must_use]
    pub const fn checked_sub(self, bytes: u64) -> Option<Self> {
        match self.0.checked_sub(bytes) {
            Some(position) => Some(Self(position)),
            None => None,
        }
    }

    /// How many bytes lie from `earlier` to here; `None` if `earlier` is in fact later.
    #[must_use]
    pub const fn bytes_since(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    /// As PostgreSQL prints it up to 18: `%X/%X`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is not a WAL position of the form `16/B374D848`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a WAL position (expected two hexadecimal numbers such as 16/B374D848)")]
pub struct LsnParseError(pub String);

impl FromStr for Lsn {
    type Err = LsnParseError;

    /// Accepts what `pg_lsn_in` accepts: one to eight hexadecimal digits on either side of the slash, no blanks.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let halves = text.split_once('/').and_then(|(high, low)| Some((hex_u32(high)?, hex_u32(low)?)));
        let (high, low) = halves.ok_or_else(|| LsnParseError(text.to_owned()))?;
        Ok(Self(u64::from(high) << 32 | u64::from(low)))
    }
}

fn hex_u32(digits: &str) -> Option<u32> {
    let well_formed = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if well_formed { u32::from_str_radix(digits, 16).ok() } else { None }
}

/// A timeline id (`TimeLineID`): one unbroken run of WAL; promotion and recovery to a target start a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline(pub u32);

impl Timeline {
    /// The timeline of a fresh `initdb`.
    pub const FIRST: Self = Self(1);

    /// False for 0, which PostgreSQL never uses.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for Timeline {
    /// Decimal, as `pg_controldata` and history files print it. File names use hexadecimal: see [`crate::names`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a WAL segment: its start divided by the segment size. Meaningless without the [`WalSegmentSize`] it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNo(pub u64);

/// A size that PostgreSQL cannot have been built or initialised with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// See [`WalSegmentSize`].
    #[error("{0} bytes is not a WAL segment size (a power of two from 1 MiB to 1 GiB)")]
    WalSegment(u64),
    /// See [`BlockSize`].
    #[error("{0} bytes is not a block size (a power of two from 1 KiB to 64 KiB)")]
    Block(u64),
}

/// The size of a WAL segment file: a power of two from 1 MiB to 1 GiB, fixed by `initdb --wal-segsize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WalSegmentSize(u32);

impl WalSegmentSize {
    const MIN: u32 = 1 << 20;
    const MAX: u32 = 1 << 30;

    /// Refuses what `IsValidWalSegSize` refuses.
    pub fn new(bytes: u64) -> Result<Self, SizeError> {
        let size = u32::try_from(bytes).ok().filter(|size| size.is_power_of_two());
        let size = size.filter(|size| (Self::MIN..=Self::MAX).contains(size));
        size.map(Self).ok_or(SizeError::WalSegment(bytes))
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// The segment that holds the byte at `lsn` (`XLByteToSeg`). For the *end* of a record use [`Self::segment_before`].
    #[must_use]
    pub fn segment_of(self, lsn: Lsn) -> SegmentNo {
        SegmentNo(lsn.0 / u64::from(self.0))
    }

    /// The segment that holds the byte before `lsn` (`XLByteToPrevSeg`): where a record that ends at `lsn` ends.
    #[must_use]
    pub fn segment_before(self, lsn: Lsn) -> SegmentNo {
        SegmentNo(lsn.0.saturating_sub(1) / u64::from(self.0))
    }

    /// Where `segment` starts; `None` if no 64-bit position lies in it.
    #[must_use]
    pub fn start(self, segment: SegmentNo) -> Option<Lsn> {
        segment.0.checked_mul(u64::from(self.0)).map(Lsn)
    }

    /// The position behind the last byte of `segment`; `None` if that is beyond the stream.
    #[must_use]
    pub fn end(self, segment: SegmentNo) -> Option<Lsn> {
        self.start(segment)?.checked_add(u64::from(self.0))
    }

    /// The start of the segment that holds `lsn`.
    #[must_use]
    pub fn floor(self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 - u64::from(self.offset(lsn)))
    }

    /// `lsn` itself if a segment starts there, else the start of the next one; `None` beyond the stream.
    #[must_use]
    pub fn ceil(self, lsn: Lsn) -> Option<Lsn> {
        let floor = self.floor(lsn);
        if floor == lsn { Some(lsn) } else { floor.checked_add(u64::from(self.0)) }
    }

    /// How far `lsn` lies inside its segment.
    #[must_use]
    pub fn offset(self, lsn: Lsn) -> u32 {
        offset_in(lsn, self.0)
    }

    /// How many segments share the first eight digits after the timeline in a file name (`XLogSegmentsPerXLogId`).
    #[must_use]
    pub fn segments_per_log_id(self) -> u64 {
        (1 << 32) / u64::from(self.0)
    }
}

/// The size of a data page or of a WAL page: a power of two from 1 KiB to 64 KiB, fixed when PostgreSQL was built.
///
/// Data pages go up to 32 KiB (`--with-blocksize`), WAL pages to 64 KiB (`--with-wal-blocksize`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockSize(u32);

impl BlockSize {
    /// Refuses what `configure` refuses.
    pub fn new(bytes: u64) -> Result<Self, SizeError> {
        let size = u32::try_from(bytes).ok().filter(|size| size.is_power_of_two());
        let size = size.filter(|size| (1 << 10..=1 << 16).contains(size));
        size.map(Self).ok_or(SizeError::Block(bytes))
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// How far `lsn` lies inside its page.
    #[must_use]
    pub fn offset(self, lsn: Lsn) -> u32 {
        offset_in(lsn, self.0)
    }

    /// The start of the page that holds `lsn`.
    #[must_use]
    pub fn floor(self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 - u64::from(self.offset(lsn)))
    }
}

/// `size` is a power of two that fits in 32 bits, so the remainder does too.
#[allow(clippy::cast_possible_truncation)]
fn offset_in(lsn: Lsn, size: u32) -> u32 {
    (lsn.0 & (u64::from(size) - 1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_position_prints_and_parses_as_postgresql_writes_it() {
        for (text, value) in
            [("0/0", 0), ("16/B374D848", 0x16_B374_D848), ("FFFFFFFF/FFFFFFFF", u64::MAX), ("0/0000001A", 26)]
        {
            assert_eq!(text.parse(), Ok(Lsn(value)), "{text}");
        }
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
        assert_eq!(Lsn(0x1_0000_0000).to_string(), "1/0");
    }

    #[test]
    fn what_pg_lsn_refuses_is_refused() {
        for text in
            ["", "/", "0/", "/0", "16B374D848", "0/0/0", "+1/0", "0/-1", " 0/0", "0/0 ", "0x1/0", "123456789/0", "G/0"]
        {
            assert_eq!(text.parse::<Lsn>(), Err(LsnParseError(text.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn only_sizes_that_postgresql_can_have_are_sizes() {
        for bytes in [0, 1, 1 << 19, (1 << 20) + 1, 3 << 20, 1 << 31, u64::MAX] {
            assert_eq!(WalSegmentSize::new(bytes), Err(SizeError::WalSegment(bytes)));
        }
        for bytes in [0, 512, 8191, 1 << 17, u64::MAX] {
            assert_eq!(BlockSize::new(bytes), Err(SizeError::Block(bytes)));
        }
        for shift in 20..=30 {
            assert!(WalSegmentSize::new(1 << shift).is_ok());
        }
        for shift in 10..=16 {
            assert!(BlockSize::new(1 << shift).is_ok());
        }
    }

    #[test]
    fn the_end_of_a_segment_belongs_to_the_next_one_and_its_last_byte_does_not() {
        let size = WalSegmentSize::new(1 << 24).expect("16 MiB is valid");
        let boundary = Lsn(5 << 24);
        assert_eq!(size.segment_of(boundary), SegmentNo(5));
        assert_eq!(size.segment_before(boundary), SegmentNo(4));
        assert_eq!(size.ceil(boundary), Some(boundary));
        assert_eq!(size.ceil(Lsn(boundary.0 + 1)), Some(Lsn(6 << 24)));
        assert_eq!(size.end(SegmentNo(4)), Some(boundary));
    }

    proptest! {
        #[test]
        fn every_position_survives_its_text(value: u64) {
            prop_assert_eq!(Lsn(value).to_string().parse(), Ok(Lsn(value)));
        }

        #[test]
        fn a_position_lies_in_its_segment(value: u64, shift in 20u32..=30) {
            let size = WalSegmentSize::new(1 << shift).expect("in range");
            let lsn = Lsn(value);
            let start = size.start(size.segment_of(lsn)).expect("the segment holds a position");
            prop_assert_eq!(start, size.floor(lsn));
            prop_assert_eq!(start.0 + u64::from(size.offset(lsn)), value);
            prop_assert!(size.end(size.segment_of(lsn)).is_none_or(|end| lsn < end));
        }
    }
}
