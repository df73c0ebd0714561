//! The stream decoder: pages in, records out.
//!
//! It is in one of four states. *Between* records it stands at an eight-byte boundary and reads the next length; *within* a record it
//! collects bytes across pages; it *skips* the rest of a record that began before the stream, or the rest of a segment behind
//! a switch; and once it has *stopped*, it stays so. At every page border the header comes first and must agree with the state.
//!
//! A record whose bytes all lie on one page is used where it lies; one that crosses pages is copied together. Memory follows what was fed, never
//! what a length field claims.

use super::Reader;
use super::page::{self, PageHeader, PageHeaderError};
use super::record::{self, BlockRef, MalformedRecord, Record, Rmgr};
use crate::history::TimelineHistory;
use crate::lsn::{BlockSize, Lsn, WalSegmentSize};
use crate::version::Major;

/// The instance whose WAL is decoded: everything that every page must agree with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalShape {
    /// Decides magic number and record layouts.
    pub major: Major,
    /// From `pg_control`.
    pub system_identifier: u64,
    /// Of the newest timeline in the stream.
    pub history: TimelineHistory,
    /// From `pg_control`.
    pub segment_size: WalSegmentSize,
    /// Size of a WAL page.
    pub wal_block_size: BlockSize,
    /// Size of a data page, which bounds images.
    pub block_size: BlockSize,
}

/// Why decoding cannot start at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Records start at multiples of eight, behind a page's header.
    #[error("no WAL record can start at {0}")]
    Position(Lsn),
    /// A segment holds whole pages.
    #[error("WAL pages of {page} bytes do not fit segments of {segment} bytes")]
    Sizes {
        /// Size of a WAL page.
        page: u32,
        /// Size of a segment.
        segment: u32,
    },
}

/// What [`WalDecoder::next`] found.
#[derive(Debug)]
pub enum Decoded<'a> {
    /// The next record.
    Record(Record<'a>),
    /// Nothing is wrong so far; more bytes are needed.
    NeedMore,
    /// The valid WAL ends. The decoder stays here.
    Stop(&'a Stop),
}

/// Where the valid WAL ends, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("valid WAL ends at {valid_end}, because at {found_at} {reason}")]
pub struct Stop {
    /// Behind the last valid record: everything before is proven, nothing behind is.
    pub valid_end: Lsn,
    /// Where it was noticed: a record's start or a page's.
    pub found_at: Lsn,
    /// What was noticed.
    pub reason: StopReason,
}

/// Why valid WAL ends. Except for [`StopReason::Malformed`] each of these is what a crash may leave behind the last record, and also what
/// damage or a missing piece in the middle looks like: only the caller knows how far WAL must reach.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// Zeroes where a record would start: the usual end of a segment in use.
    #[error("there is no record")]
    Zeroes,
    /// The page's header is not the expected one.
    #[error(transparent)]
    Page(#[from] PageHeaderError),
    /// No record is that short or that long.
    #[error("a record claims {0} bytes")]
    Length(u32),
    /// Not a resource manager of this major.
    #[error("a record names resource manager {0}, which does not exist")]
    Rmgr(u8),
    /// The record was written for another place.
    #[error("a record says that the one before it starts at {found}")]
    BackLink {
        /// In the record.
        found: Lsn,
        /// The start of the record before; unknown for the first of a stream.
        expected: Option<Lsn>,
    },
    /// The record's bytes are not what was written.
    #[error("a record has checksum {stored:08X} but its content sums to {computed:08X}")]
    Crc {
        /// In the record.
        stored: u32,
        /// Of its bytes.
        computed: u32,
    },
    /// A record goes on beyond its page, and the next page does not continue it.
    #[error("the page does not continue the record that began at {0}")]
    NotContinued(Lsn),
    /// A page continues a record, but none is open.
    #[error("the page continues a record that did not begin")]
    NothingToContinue,
    /// A page says that a crash cut off a record, but the record that must follow names another one or does not follow.
    #[error("the record that a crash cut off at {0} is not named as such")]
    NotOverwritten(Lsn),
    /// Checksum and links are right, and yet the content is not the format we know: the span behind is unknown, not absent.
    #[error("a record is malformed: {0}")]
    Malformed(MalformedRecord),
    /// The 64-bit stream ends.
    #[error("no position lies behind the record")]
    Overflow,
}

impl StopReason {
    /// Whether nothing was ever written there: what lies behind the last record of a segment that was not used before.
    #[must_use]
    pub const fn is_unwritten(&self) -> bool {
        matches!(self, Self::Zeroes | Self::Page(PageHeaderError::Empty))
    }
}

/// `XLogRecordMaxSize` is 1020 MiB from 16 on; before, the limit was the largest allocation.
const MAX_RECORD_BYTES: u32 = 0x3FFF_FFFF;

/// A buffer for crossing records larger than this is given back after use.
const KEEP_BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Between,
    /// `total` is known; `collected` bytes are in the buffer.
    Within {
        start: Lsn,
        total: u32,
        collected: u32,
    },
    /// The rest of a record whose beginning the stream does not have.
    SkippingRecord {
        remaining: u32,
    },
    /// Up to the given position nothing is read, not even page headers: padding, or a segment behind its switch.
    SkippingTo(Lsn),
    Stopped,
}

/// Where the bytes of the current record lie.
#[derive(Clone, Debug)]
enum Place {
    Input(std::ops::Range<usize>),
    Collected,
}

/// See the [module](super).
#[derive(Debug)]
pub struct WalDecoder {
    shape: WalShape,
    state: State,
    /// Position of `input[cursor]`.
    position: Lsn,
    /// Bytes fed; those before `cursor` are done with.
    input: Vec<u8>,
    cursor: usize,
    /// A record that crosses pages.
    collected: Vec<u8>,
    /// Whether a page header or a record was accepted: until then a page may begin with the rest of an unknown record.
    synced: bool,
    previous: Option<Lsn>,
    valid_end: Lsn,
    /// A record that a crash cut off, until the record that names it was seen.
    cut_off: Option<Lsn>,
    stop: Option<Stop>,
    blocks: Vec<BlockRef>,
    current: Option<Current>,
}

#[derive(Clone, Debug)]
struct Current {
    start: Lsn,
    end: Lsn,
    place: Place,
    body: (Option<u32>, Option<u16>, usize),
}

impl WalDecoder {
    /// A decoder whose first byte fed will be the one at `start`: a page border, or a place where a record starts or may start.
    ///
    /// At a page border the rest of a record that began earlier is skipped. Inside a page `start` is taken for a record border, which
    /// the first record's checksum then proves or refutes.
    pub fn new(shape: WalShape, start: Lsn) -> Result<Self, StartError> {
        let (page, segment) = (shape.wal_block_size.bytes(), shape.segment_size.bytes());
        if page > segment {
            return Err(StartError::Sizes { page, segment });
        }
        let offset = shape.wal_block_size.offset(start);
        let in_header = offset != 0 && offset < page::header_bytes(&shape, shape.wal_block_size.floor(start));
        if in_header || !start.0.is_multiple_of(8) {
            return Err(StartError::Position(start));
        }
        Ok(Self {
            shape,
            state: State::Between,
            position: start,
            input: Vec::new(),
            cursor: 0,
            collected: Vec::new(),
            synced: offset != 0,
            previous: None,
            valid_end: start,
            cut_off: None,
            stop: None,
            blocks: Vec::new(),
            current: None,
        })
    }

    /// Says where the record before the first one starts, so that its back link is checked as well: to go on where another decoder ended.
    #[must_use]
    pub fn with_previous(mut self, previous: Lsn) -> Self {
        self.previous = Some(previous);
        self
    }

    /// Adds bytes that follow those fed before. After a stop they are ignored.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.state == State::Stopped {
            return;
        }
        self.current = None;
        self.input.drain(..self.cursor);
        self.cursor = 0;
        self.input.extend_from_slice(bytes);
    }

    /// The position of the next byte to be fed; `None` if that would be beyond the 64-bit stream.
    #[must_use]
    pub fn fed_to(&self) -> Option<Lsn> {
        self.position.checked_add(u64::try_from(self.input.len() - self.cursor).ok()?)
    }

    /// Behind the last valid record; the start of the stream if there was none yet.
    #[must_use]
    pub const fn valid_end(&self) -> Lsn {
        self.valid_end
    }

    /// The start of the last valid record: for [`Self::with_previous`].
    #[must_use]
    pub const fn previous(&self) -> Option<Lsn> {
        self.previous
    }

    /// Where and why decoding stopped, if it did.
    #[must_use]
    pub const fn stopped(&self) -> Option<&Stop> {
        self.stop.as_ref()
    }

    /// The next record, or why there is none.
    // Not an iterator: the record borrows from the decoder, and "need more" is not an end.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Decoded<'_> {
        self.current = None;
        if self.collected.capacity() > KEEP_BYTES && !matches!(self.state, State::Within { .. }) {
            self.collected = Vec::new();
        }
        loop {
            match self.step() {
                Step::Again => {}
                Step::NeedMore => return Decoded::NeedMore,
                Step::Found => break,
                Step::Stop(found_at, reason) => {
                    self.state = State::Stopped;
                    self.input = Vec::new();
                    self.cursor = 0;
                    self.stop = Some(Stop { valid_end: self.valid_end, found_at, reason });
                }
                Step::Stopped => break,
            }
        }
        match (&self.stop, &self.current) {
            (Some(stop), _) => Decoded::Stop(stop),
            (None, Some(current)) => Decoded::Record(self.view(current)),
            (None, None) => Decoded::NeedMore,
        }
    }

    fn step(&mut self) -> Step {
        match self.state {
            State::Stopped => Step::Stopped,
            State::SkippingTo(end) => self.skip_to(end),
            _ if self.shape.wal_block_size.offset(self.position) == 0 => self.enter_page(),
            State::Between => self.begin_record(),
            State::Within { start, total, collected } => self.collect(start, total, collected),
            State::SkippingRecord { remaining } => self.skip_record(remaining),
        }
    }

    fn skip_to(&mut self, end: Lsn) -> Step {
        let wanted = end.bytes_since(self.position).unwrap_or(0);
        let available = self.available();
        let skipped = usize::try_from(wanted).map_or(available, |wanted| wanted.min(available));
        self.advance(skipped);
        if self.position < end {
            return Step::NeedMore;
        }
        self.state = State::Between;
        Step::Again
    }

    /// Checks the header at a page border against the state, and goes behind it.
    fn enter_page(&mut self) -> Step {
        let at = self.position;
        let header = match PageHeader::parse(self.unread(), &self.shape, at) {
            // Zeroes are enough to know that nothing follows, but a header is only cut off, never guessed.
            None => return Step::NeedMore,
            Some(Err(error)) => return Step::Stop(at, error.into()),
            Some(Ok(header)) => header,
        };
        let open = match self.state {
            State::Within { start, total, collected } => Some((Some(start), total - collected)),
            State::SkippingRecord { remaining } => Some((None, remaining)),
            _ => None,
        };
        match open {
            Some((start, _)) if header.first_is_overwrite => {
                self.cut_off = start;
                self.collected.clear();
                self.state = State::Between;
            }
            Some((start, remaining)) if !header.first_is_continuation || header.remaining_length != remaining => {
                return Step::Stop(at, StopReason::NotContinued(start.unwrap_or(at)));
            }
            Some(_) => {}
            None if header.first_is_continuation => {
                let bounded = (1..=MAX_RECORD_BYTES).contains(&header.remaining_length);
                if self.synced || header.first_is_overwrite || !bounded {
                    return Step::Stop(at, StopReason::NothingToContinue);
                }
                self.state = State::SkippingRecord { remaining: header.remaining_length };
            }
            None if header.first_is_overwrite && self.synced => return Step::Stop(at, StopReason::NothingToContinue),
            None => {}
        }
        self.synced = true;
        self.advance(usize::try_from(header.bytes).expect("a page header fits in memory"));
        Step::Again
    }

    /// Reads the length of the record that starts here.
    fn begin_record(&mut self) -> Step {
        let start = self.position;
        let Some(total) = Reader(self.unread()).u32() else { return Step::NeedMore };
        if total == 0 {
            return Step::Stop(start, StopReason::Zeroes);
        }
        if total > MAX_RECORD_BYTES || usize::try_from(total).map_or(true, |total| total < record::HEADER_BYTES) {
            return Step::Stop(start, StopReason::Length(total));
        }
        self.collected.clear();
        self.state = State::Within { start, total, collected: 0 };
        Step::Again
    }

    /// Takes what this page has of the record, judges the header as soon as it is there, and the record once it is complete.
    fn collect(&mut self, start: Lsn, total: u32, collected: u32) -> Step {
        let missing = usize::try_from(total - collected).expect("a record is at most 1 GiB");
        let taken = missing.min(self.left_on_page()).min(self.available());
        if collected == 0 && taken < missing && self.left_on_page() >= missing {
            // The whole record lies on this page: wait for it instead of copying it, but refuse a header that is no header at once.
            return match self.header_fault(start, self.unread()) {
                Some(reason) => Step::Stop(start, reason),
                None => Step::NeedMore,
            };
        }
        let from = self.cursor;
        if collected == 0 && taken == missing {
            self.advance(taken);
            return self.finish(start, Place::Input(from..from + taken));
        }
        if taken == 0 {
            return Step::NeedMore;
        }
        self.collected.extend_from_slice(&self.input[from..from + taken]);
        self.advance(taken);
        if let Some(reason) = self.header_fault(start, &self.collected) {
            return Step::Stop(start, reason);
        }
        let collected = collected + u32::try_from(taken).expect("bounded by the record's length");
        self.state = State::Within { start, total, collected };
        if collected == total { self.finish(start, Place::Collected) } else { Step::Again }
    }

    /// What can be said about a record from its header alone, before its length is believed; `None` if it is fine or not yet there.
    fn header_fault(&self, start: Lsn, record: &[u8]) -> Option<StopReason> {
        let header: &[u8; record::HEADER_BYTES] = record.first_chunk()?;
        let rmgr = Rmgr(header[17]);
        if !rmgr.exists_in(self.shape.major) {
            return Some(StopReason::Rmgr(rmgr.0));
        }
        let found = Lsn(Reader(&header[8..]).u64()?);
        let fits = self.previous.map_or(found < start, |previous| found == previous);
        if fits { None } else { Some(StopReason::BackLink { found, expected: self.previous }) }
    }

    /// The last checks of a complete record.
    fn finish(&mut self, start: Lsn, place: Place) -> Step {
        let bytes = self.bytes(&place);
        if let Some(reason) = self.header_fault(start, bytes) {
            return Step::Stop(start, reason);
        }
        let (stored, computed) = record_crc(bytes);
        if stored != computed && !asof_world::planted("c9") {
            return Step::Stop(start, StopReason::Crc { stored, computed });
        }
        let mut blocks = std::mem::take(&mut self.blocks);
        let body = record::parse_body(self.bytes(&place), self.shape.major, self.shape.block_size, &mut blocks);
        self.blocks = blocks;
        let body = match body {
            Ok(body) => (body.top_level_xid, body.origin, body.main_length),
            Err(error) => return Step::Stop(start, StopReason::Malformed(error)),
        };
        let Some(end) = self.end_of_record(&place) else { return Step::Stop(start, StopReason::Overflow) };
        let current = Current { start, end, place, body };
        if let Some(cut_off) = self.cut_off.take()
            && self.view(&current).overwritten() != Some(cut_off)
        {
            return Step::Stop(start, StopReason::NotOverwritten(cut_off));
        }
        self.current = Some(current);
        self.previous = Some(start);
        self.valid_end = end;
        self.synced = true;
        self.state = if end == self.position { State::Between } else { State::SkippingTo(end) };
        Step::Found
    }

    /// Records are padded to eight bytes; a switch takes the rest of its segment.
    fn end_of_record(&self, place: &Place) -> Option<Lsn> {
        let aligned = Lsn(self.position.0.checked_next_multiple_of(8)?);
        let header = self.bytes(place);
        let is_switch = header.get(17) == Some(&Rmgr::XLOG.0) && header.get(16).is_some_and(|info| info & 0xF0 == 0x40);
        if is_switch { self.shape.segment_size.ceil(aligned) } else { Some(aligned) }
    }

    fn skip_record(&mut self, remaining: u32) -> Step {
        let wanted = usize::try_from(remaining).expect("bounded when the page was entered");
        let taken = wanted.min(self.left_on_page()).min(self.available());
        if taken == 0 {
            return Step::NeedMore;
        }
        self.advance(taken);
        let remaining = remaining - u32::try_from(taken).expect("bounded by what remains");
        if remaining > 0 {
            self.state = State::SkippingRecord { remaining };
            return Step::Again;
        }
        let Some(aligned) = self.position.0.checked_next_multiple_of(8).map(Lsn) else {
            return Step::Stop(self.position, StopReason::Overflow);
        };
        // Until a record is found, this is the first place that valid WAL could end at.
        self.valid_end = aligned;
        self.state = State::SkippingTo(aligned);
        Step::Again
    }

    fn view<'a>(&'a self, current: &Current) -> Record<'a> {
        let bytes = self.bytes(&current.place);
        let mut header = Reader(bytes);
        // The record is complete, so its header is; zero stands for what cannot happen.
        let total_length = header.u32().unwrap_or_default();
        let xid = header.u32().unwrap_or_default();
        let previous = Lsn(header.u64().unwrap_or_default());
        let info = header.u8().unwrap_or_default();
        let rmgr = Rmgr(header.u8().unwrap_or_default());
        let (top_level_xid, origin, main_length) = current.body;
        let main_data = bytes.get(bytes.len().saturating_sub(main_length)..).unwrap_or_default();
        let (start, end, major) = (current.start, current.end, self.shape.major);
        let blocks = &self.blocks;
        Record { start, end, previous, total_length, rmgr, info, xid, top_level_xid, origin, blocks, main_data, major }
    }

    fn bytes(&self, place: &Place) -> &[u8] {
        match place {
            Place::Input(range) => self.input.get(range.clone()).unwrap_or_default(),
            Place::Collected => &self.collected,
        }
    }

    fn unread(&self) -> &[u8] {
        self.input.get(self.cursor..).unwrap_or_default()
    }

    fn available(&self) -> usize {
        self.input.len() - self.cursor
    }

    fn left_on_page(&self) -> usize {
        let size = self.shape.wal_block_size;
        usize::try_from(size.bytes() - size.offset(self.position)).expect("a page fits in memory")
    }

    /// `count` bytes lie before us in `input`, so the position behind them was reached by feeding and exists.
    fn advance(&mut self, count: usize) {
        self.cursor += count;
        let count = u64::try_from(count).expect("a length fits in 64 bits");
        self.position = Lsn(self.position.0.saturating_add(count));
    }
}

enum Step {
    Again,
    NeedMore,
    Found,
    Stop(Lsn, StopReason),
    Stopped,
}

/// The stored checksum, and the one of the content and then of the header before it (`ValidXLogRecord`).
fn record_crc(record: &[u8]) -> (u32, u32) {
    let Some((header, content)) = record.split_first_chunk::<{ record::HEADER_BYTES }>() else { return (0, 1) };
    let (covered, stored) = header.split_at(record::HEADER_BYTES - 4);
    let stored = Reader(stored).u32().unwrap_or_default();
    (stored, crc32c::crc32c_append(crc32c::crc32c(content), covered))
}
