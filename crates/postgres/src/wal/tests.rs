//! The decoder against WAL made here, where every byte is known: all page and segment sizes, cuts, flipped bits, crashes.

#![allow(clippy::cast_possible_truncation)]

use super::*;
use crate::history::{Ancestor, TimelineHistory};
use crate::lsn::{BlockSize, Lsn, Timeline, WalSegmentSize};
use crate::version::Major;
use proptest::prelude::*;

fn shape(page: u64, history: TimelineHistory) -> WalShape {
    WalShape {
        major: Major::V15,
        system_identifier: 0x0123_4567_89AB_CDEF,
        history,
        segment_size: WalSegmentSize::new(1 << 20).expect("valid"),
        wal_block_size: BlockSize::new(page).expect("valid"),
        block_size: BlockSize::new(8192).expect("valid"),
    }
}

fn short_pages() -> WalShape {
    shape(1024, TimelineHistory::first())
}

/// A record as a test compares it: start, content length, and a sum over everything it says.
type Found = (Lsn, usize, u32);

fn sum(xid: u32, rmgr: Rmgr, info: u8, blocks: &[BlockRef], main_data: &[u8]) -> u32 {
    crc32c::crc32c(format!("{xid} {rmgr:?} {info} {blocks:?} {main_data:?}").as_bytes())
}

/// Writes WAL as PostgreSQL lays it out.
struct Writer {
    shape: WalShape,
    start: Lsn,
    bytes: Vec<u8>,
    previous: u64,
    records: Vec<Found>,
}

impl Writer {
    fn new(shape: WalShape, start: Lsn) -> Self {
        Self { shape, start, bytes: Vec::new(), previous: 0, records: Vec::new() }
    }

    fn position(&self) -> Lsn {
        Lsn(self.start.0 + self.bytes.len() as u64)
    }

    fn page_header(&mut self, flags: u16, remaining: usize) {
        let at = self.position();
        if self.shape.wal_block_size.offset(at) != 0 {
            return;
        }
        let long = self.shape.segment_size.offset(at) == 0;
        self.bytes.extend(self.shape.major.wal_page_magic().to_le_bytes());
        self.bytes.extend((flags | if long { 2 } else { 0 }).to_le_bytes());
        self.bytes.extend(self.shape.history.timeline_at(at).0.to_le_bytes());
        self.bytes.extend(at.0.to_le_bytes());
        self.bytes.extend(u32::try_from(remaining).expect("small").to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(self.shape.system_identifier.to_le_bytes());
            self.bytes.extend(self.shape.segment_size.bytes().to_le_bytes());
            self.bytes.extend(self.shape.wal_block_size.bytes().to_le_bytes());
        }
    }

    fn left_on_page(&self) -> usize {
        let size = self.shape.wal_block_size;
        (size.bytes() - size.offset(self.position())) as usize
    }

    /// A record with main data and nothing else; returns where it starts.
    fn record(&mut self, rmgr: Rmgr, info: u8, main: &[u8]) -> Lsn {
        let mut content = Vec::new();
        if !main.is_empty() {
            content.push(254);
            content.extend(u32::try_from(main.len()).expect("small").to_le_bytes());
            content.extend(main);
        }
        self.raw_record(rmgr, info, &content, 0)
    }

    fn raw_record(&mut self, rmgr: Rmgr, info: u8, content: &[u8], first_page_flags: u16) -> Lsn {
        let total = 24 + content.len();
        let mut record = u32::try_from(total).expect("small").to_le_bytes().to_vec();
        record.extend(7_u32.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, rmgr.0, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(content), &record);
        record.extend(crc.to_le_bytes());
        record.extend(content);
        self.page_header(first_page_flags, 0);
        let start = self.position();
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            self.page_header(1, rest.len());
            let (now, later) = rest.split_at(rest.len().min(self.left_on_page()));
            self.bytes.extend(now);
            rest = later;
        }
        while !self.bytes.len().is_multiple_of(8) {
            self.bytes.push(0);
        }
        self.previous = start.0;
        let main_data = match content.first() {
            Some(254) => &content[5..],
            Some(_) => &content[2..],
            None => &[],
        };
        self.records.push((start, content.len(), sum(7, rmgr, info, &[], main_data)));
        start
    }

    /// Whole pages, as a file has them.
    fn padded(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len().next_multiple_of(self.shape.wal_block_size.bytes() as usize), 0);
        bytes
    }
}

/// The records found, and the stop if there was one.
fn decode(shape: &WalShape, start: Lsn, chunks: &[&[u8]]) -> (Vec<Found>, Option<Stop>) {
    let mut decoder = WalDecoder::new(shape.clone(), start).expect("a valid start");
    let mut found = Vec::new();
    for chunk in chunks {
        decoder.feed(chunk);
        while let Decoded::Record(record) = decoder.next() {
            assert!(record.end > record.start);
            let sum = sum(record.xid, record.rmgr, record.info, record.blocks, record.main_data);
            found.push((record.start, record.total_length as usize - 24, sum));
        }
    }
    assert!(!matches!(decoder.next(), Decoded::Record(_)), "nothing is left behind");
    (found, decoder.stopped().cloned())
}

fn messages(shape: WalShape, start: Lsn, lengths: &[usize]) -> Writer {
    let mut writer = Writer::new(shape, start);
    for length in lengths {
        writer.record(Rmgr(21), 0, &vec![0xA5; *length]);
    }
    writer
}

#[test]
fn a_cut_stream_gives_a_prefix_and_asks_for_more() {
    let writer = messages(short_pages(), Lsn(1 << 20), &[10, 3000, 0, 100, 900, 24, 1, 2048]);
    for cut in 0..=writer.bytes.len() {
        let (found, stop) = decode(&writer.shape, writer.start, &[&writer.bytes[..cut]]);
        assert_eq!(stop, None, "cut at {cut}");
        assert_eq!(found, writer.records[..found.len()], "cut at {cut}");
    }
    assert_eq!(decode(&writer.shape, writer.start, &[&writer.bytes]).0, writer.records);
}

#[test]
fn hz_c9_a_flipped_bit_never_yields_a_changed_record() {
    let writer = messages(short_pages(), Lsn(1 << 20), &[10, 3000, 0, 100, 900, 24, 1, 2048]);
    let bytes = writer.padded();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let (found, _) = decode(&writer.shape, writer.start, &[&damaged]);
        let at = Lsn(writer.start.0 + bit as u64 / 8);
        let before = writer.records.iter().take_while(|(start, ..)| *start <= at).count();
        assert_eq!(found, writer.records[..found.len()], "bit {bit}");
        assert!(found.len() + 1 >= before.min(writer.records.len()), "bit {bit}: records before the damage are found");
    }
}

#[test]
fn the_end_of_valid_wal_is_reported_with_its_reason() {
    let writer = messages(short_pages(), Lsn(1 << 20), &[10, 2000]);
    let end = writer.position();
    let stop = |bytes: &[u8]| decode(&writer.shape, writer.start, &[bytes]).1.expect("it stops");
    let mut bytes = writer.padded();
    assert_eq!(stop(&bytes), Stop { valid_end: end, found_at: end, reason: StopReason::Zeroes });
    let last_page = bytes.len() - 1024;
    bytes.truncate(last_page);
    let page = Lsn(writer.start.0 + last_page as u64);
    let second = writer.records[1].0;
    bytes.extend([0; 1024]);
    assert_eq!(
        stop(&bytes),
        Stop { valid_end: second, found_at: page, reason: StopReason::Page(PageHeaderError::Empty) }
    );
    let recycled = messages(short_pages(), Lsn(9 << 20), &[10, 2000]).padded();
    bytes.truncate(last_page);
    bytes.extend(&recycled[last_page..]);
    let address = Lsn((9 << 20) + last_page as u64);
    assert_eq!(
        stop(&bytes),
        Stop { valid_end: second, found_at: page, reason: StopReason::Page(PageHeaderError::Address(address)) }
    );
    assert_eq!(stop(&bytes).valid_end, second, "the record that reached into the lost page is not valid");
}

#[test]
fn hz_c9_recycled_records_behind_the_last_one_are_refused_by_their_link() {
    let old = messages(short_pages(), Lsn(1 << 20), &[16, 16, 16, 16]);
    let new = messages(short_pages(), Lsn(1 << 20), &[16, 40]);
    let mut bytes = old.padded();
    bytes[..new.bytes.len()].copy_from_slice(&new.bytes);
    // What follows the new end is the middle of an old record; then, aligned by hand, a whole old one.
    let stop = decode(&new.shape, new.start, &[&bytes]).1.expect("it stops");
    assert_eq!(stop.valid_end, new.position());
    let mut bytes = new.bytes.clone();
    let fourth = (old.records[3].0.0 - old.start.0) as usize;
    bytes.extend(&old.bytes[fourth..]);
    let stop = decode(&new.shape, new.start, &[&bytes]).1.expect("it stops");
    assert_eq!(stop.valid_end, new.position());
    assert!(matches!(stop.reason, StopReason::BackLink { .. }), "{stop}");
}

#[test]
fn a_switch_takes_the_rest_of_its_segment_whatever_is_there() {
    let mut writer = Writer::new(short_pages(), Lsn(1 << 20));
    writer.record(Rmgr(21), 0, b"one");
    writer.record(Rmgr::XLOG, 0x40, b"");
    writer.bytes.resize(1 << 20, 0xEE);
    let next = writer.record(Rmgr(21), 0, b"two");
    assert_eq!(next, Lsn((2 << 20) + 40));
    let chunks: Vec<&[u8]> = writer.bytes.chunks(777).collect();
    assert_eq!(decode(&writer.shape, writer.start, &chunks), (writer.records.clone(), None));
}

#[test]
fn a_stream_may_begin_inside_a_record() {
    let writer = messages(short_pages(), Lsn(1 << 20), &[5000, 10]);
    for page in 1..=4 {
        let offset = page * 1024;
        let start = Lsn(writer.start.0 + offset as u64);
        let (found, stop) = decode(&writer.shape, start, &[&writer.bytes[offset..]]);
        assert_eq!((found.as_slice(), stop), (&writer.records[1..], None), "from page {page}");
    }
    let mut wrong = writer.bytes[1024..].to_vec();
    wrong[1024 + 16] ^= 1;
    let stop = decode(&writer.shape, Lsn(writer.start.0 + 1024), &[&wrong]).1.expect("it stops");
    assert!(matches!(stop.reason, StopReason::NotContinued(_)), "{stop}");
}

#[test]
fn decoding_can_go_on_at_any_record_with_its_link_checked() {
    let writer = messages(short_pages(), Lsn(1 << 20), &[100, 3000, 5]);
    for (index, (start, ..)) in writer.records.iter().enumerate().skip(1) {
        let rest = &writer.bytes[(start.0 - writer.start.0) as usize..];
        for (previous, works) in [(writer.records[index - 1].0, true), (Lsn(8), false)] {
            let decoder = WalDecoder::new(writer.shape.clone(), *start).expect("a valid start");
            let mut decoder = decoder.with_previous(previous);
            decoder.feed(rest);
            assert_eq!(matches!(decoder.next(), Decoded::Record(_)), works);
        }
    }
}

#[test]
fn no_record_starts_in_a_page_header_or_off_alignment() {
    for (at, works) in
        [(0, true), (8, false), (32, false), (40, true), (44, false), (1024, true), (1032, false), (1048, true)]
    {
        assert_eq!(WalDecoder::new(short_pages(), Lsn((1 << 20) + at)).is_ok(), works, "{at}");
    }
}

/// A crash in the middle of a record: its first page stays, the next one begins with the record that replaces it.
fn crashed(overwritten: impl Fn(Lsn) -> Lsn) -> (Writer, Lsn) {
    let mut writer = messages(short_pages(), Lsn(1 << 20), &[10]);
    let (previous, records) = (writer.previous, writer.records.clone());
    let lost = writer.record(Rmgr(21), 0, &[1; 3000]);
    writer.bytes.truncate(2048);
    (writer.previous, writer.records) = (previous, records);
    let mut content = vec![255, 16];
    content.extend(overwritten(lost).0.to_le_bytes());
    content.extend(0_i64.to_le_bytes());
    writer.raw_record(Rmgr::XLOG, 0xD0, &content, 8);
    writer.record(Rmgr(21), 0, &[2; 10]);
    (writer, lost)
}

#[test]
fn hz_c9_a_record_cut_off_by_a_crash_is_left_out_if_it_is_named() {
    let (writer, lost) = crashed(|lost| lost);
    assert_eq!(decode(&writer.shape, writer.start, &[&writer.bytes]), (writer.records.clone(), None));
    assert!(writer.records.iter().all(|(start, ..)| *start != lost));
    let (writer, lost) = crashed(|lost| Lsn(lost.0 + 8));
    let stop = decode(&writer.shape, writer.start, &[&writer.bytes]).1.expect("it stops");
    assert_eq!(stop.reason, StopReason::NotOverwritten(lost));
}

#[test]
fn every_field_of_a_page_header_is_held_against_the_instance() {
    let writer = messages(short_pages(), Lsn(1 << 20), &[10]);
    let check = |at: usize, reason: fn(&PageHeaderError) -> bool| {
        let mut bytes = writer.bytes.clone();
        bytes[at] ^= 0x10;
        let stop = decode(&writer.shape, writer.start, &[&bytes]).1.expect("it stops");
        assert!(matches!(&stop.reason, StopReason::Page(error) if reason(error)), "byte {at}: {stop}");
    };
    check(0, |error| matches!(error, PageHeaderError::Magic { .. }));
    check(2, |error| matches!(error, PageHeaderError::Flags(_)));
    check(4, |error| matches!(error, PageHeaderError::Timeline(_)));
    check(10, |error| matches!(error, PageHeaderError::Address(_)));
    check(24, |error| matches!(error, PageHeaderError::SystemIdentifier { .. }));
    check(33, |error| matches!(error, PageHeaderError::Sizes { .. }));
    check(37, |error| matches!(error, PageHeaderError::Sizes { .. }));
}

#[test]
fn hz_c9_a_stream_crosses_to_a_new_timeline_where_its_history_says() {
    let ancestor = Ancestor { timeline: Timeline(1), switch_point: Lsn((1 << 20) + 1500), reason: Vec::new() };
    let history = TimelineHistory::new(Timeline(2), vec![ancestor]).expect("valid");
    let writer = messages(shape(1024, history), Lsn(1 << 20), &[100, 3000, 10]);
    assert_eq!(decode(&writer.shape, writer.start, &[&writer.bytes]), (writer.records.clone(), None));
    let stop = decode(&short_pages(), writer.start, &[&writer.bytes]).1.expect("it stops");
    assert!(matches!(stop.reason, StopReason::Page(PageHeaderError::Timeline(_))), "{stop}");
}

fn body(content: &[u8], major: Major) -> Result<(Vec<BlockRef>, usize), MalformedRecord> {
    let mut record = vec![0; 24];
    record.extend(content);
    let mut blocks = Vec::new();
    let size = BlockSize::new(8192).expect("valid");
    record::parse_body(&record, major, size, &mut blocks).map(|body| (blocks, body.main_length))
}

#[test]
fn the_bits_of_an_image_are_read_by_major() {
    let image = |info: u8, hole: &[u8], length: u16| {
        let mut content = vec![0, 0x10, 0, 0];
        content.extend(length.to_le_bytes());
        content.extend(if info & 1 == 1 { [40, 0] } else { [0, 0] });
        content.push(info);
        content.extend(hole);
        content.extend([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0]);
        content.resize(content.len() + usize::from(length), 0);
        content
    };
    let parsed = |content: &[u8], major| body(content, major).map(|(blocks, _)| blocks[0].image);
    // A whole page, applied.
    assert_eq!(parsed(&image(0x04, &[], 8192), Major::V14), Ok(BlockImage::Applied));
    assert_eq!(parsed(&image(0x02, &[], 8192), Major::V15), Ok(BlockImage::Applied));
    assert_eq!(parsed(&image(0x00, &[], 8192), Major::V15), Ok(BlockImage::ForComparison));
    // A hole without compression has no length of its own; with it, it has.
    assert_eq!(parsed(&image(0x05, &[], 4000), Major::V14), Ok(BlockImage::Applied));
    assert_eq!(parsed(&image(0x07, &[0, 16], 900), Major::V13), Ok(BlockImage::Applied));
    assert_eq!(parsed(&image(0x07, &[0, 16], 900), Major::V15), Ok(BlockImage::Applied));
    assert_eq!(parsed(&image(0x13, &[0, 16], 900), Major::V18), Ok(BlockImage::Applied));
    // Contradictions.
    for (info, hole, length) in [(0x02, &[][..], 900), (0x04, &[], 8192), (0x07, &[0, 0], 900), (0x07, &[0, 64], 900)] {
        assert!(matches!(parsed(&image(info, hole, length), Major::V15), Err(MalformedRecord::Image(0))), "{info:02X}");
    }
}

#[test]
fn a_malformed_record_is_named() {
    assert_eq!(body(&[], Major::V15), Ok((vec![], 0)));
    assert_eq!(body(&[255, 3, 1, 2, 3], Major::V15), Ok((vec![], 3)));
    assert_eq!(body(&[255, 3, 1, 2], Major::V15), Err(MalformedRecord::Length));
    assert_eq!(body(&[255, 1, 1, 2], Major::V15), Err(MalformedRecord::Length));
    assert_eq!(body(&[254, 255, 255, 255, 255, 0], Major::V15), Err(MalformedRecord::Length));
    assert_eq!(body(&[100, 0], Major::V15), Err(MalformedRecord::BlockId(100)));
    assert_eq!(body(&[252, 1, 0, 0, 0], Major::V13), Err(MalformedRecord::BlockId(252)));
    assert_eq!(body(&[252, 1, 0, 0, 0], Major::V14), Ok((vec![], 0)));
    assert_eq!(body(&[0, 0x80, 0, 0, 1, 0, 0, 0], Major::V15), Err(MalformedRecord::NoRelation(0)));
    assert_eq!(body(&[0, 0x04, 0, 0, 1, 0, 0, 0], Major::V15), Err(MalformedRecord::Fork(4)));
    assert_eq!(body(&[0, 0x20, 0, 0, 1, 0, 0, 0], Major::V15), Err(MalformedRecord::Image(0)));
}

fn event(major: Major, rmgr: Rmgr, info: u8, main_data: &[u8]) -> Result<Event, EventError> {
    let (start, end, previous) = (Lsn(40), Lsn(80), Lsn(8));
    let (top_level_xid, origin, blocks) = (None, None, &[]);
    Record {
        start,
        end,
        previous,
        total_length: 40,
        rmgr,
        info,
        xid: 7,
        top_level_xid,
        origin,
        blocks,
        main_data,
        major,
    }
    .event()
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn database_records_changed_their_numbers_in_15() {
    let dropped = Ok(Event::DatabaseDropped { database: 5, tablespaces: vec![1663] });
    let created = Ok(Event::DatabaseCreated { database: 5, tablespace: 1 });
    assert_eq!(event(Major::V14, Rmgr::DATABASE, 0x10, &words(&[5, 1, 1663])), dropped);
    assert_eq!(event(Major::V15, Rmgr::DATABASE, 0x20, &words(&[5, 1, 1663])), dropped);
    assert_eq!(event(Major::V15, Rmgr::DATABASE, 0x10, &words(&[5, 1, 1663])), created);
    assert!(matches!(event(Major::V14, Rmgr::DATABASE, 0x20, &[]), Err(EventError::Unknown { .. })));
    assert!(matches!(event(Major::V15, Rmgr::DATABASE, 0x30, &[]), Err(EventError::Unknown { .. })));
    assert!(matches!(event(Major::V15, Rmgr::DATABASE, 0x20, &words(&[5, 2, 1663])), Err(EventError::Content { .. })));
}

#[test]
fn a_commit_is_read_part_by_part() {
    let mut main = 1_000_000_i64.to_le_bytes().to_vec();
    main.extend(words(&[0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x80 | 0x100]));
    main.extend(words(&[5, 1663]));
    main.extend(words(&[2, 100, 101]));
    main.extend(words(&[1, 1663, 5, 16384]));
    main.extend(words(&[1, 1, 5, 16384]));
    main.extend(words(&[1, 0, 0, 0, 0]));
    main.extend(words(&[99]));
    main.extend(b"gid\0");
    main.extend(0x16_B374_D848_u64.to_le_bytes());
    main.extend(2_i64.to_le_bytes());
    let Ok(Event::TransactionEnd(end)) = event(Major::V15, Rmgr::TRANSACTION, 0xB0, &main) else { panic!("a commit") };
    assert_eq!((end.outcome, end.prepared, end.xid), (TransactionOutcome::Committed, true, 99));
    assert_eq!(end.time_unix_micros, 946_684_801_000_000);
    assert_eq!((end.database, end.subtransactions), (Some(5), vec![100, 101]));
    assert_eq!(end.dropped.iter().map(|relation| relation.relation).collect::<Vec<_>>(), [16384]);
    assert_eq!(end.gid.as_deref(), Some(&b"gid"[..]));
    let origin = end.origin.expect("it has one");
    assert_eq!((origin.lsn, origin.time_unix_micros), (Lsn(0x16_B374_D848), 946_684_800_000_002));
    for cut in 0..main.len() {
        assert!(event(Major::V15, Rmgr::TRANSACTION, 0xB0, &main[..cut]).is_err(), "cut at {cut}");
    }
    assert!(event(Major::V15, Rmgr::TRANSACTION, 0x80, &main).is_err(), "an ordinary commit has no other transaction");
}

proptest! {
    #[test]
    fn records_of_any_length_survive_any_page_size_and_any_chunks(
        lengths in proptest::collection::vec(prop_oneof![0usize..64, 0usize..5000], 1..40),
        page_shift in 10u32..=16,
        start_page in 0u64..8,
        chunk in 1usize..9000,
    ) {
        let shape = shape(1 << page_shift, TimelineHistory::first());
        // Up to the border of a segment, so that long headers occur in the middle.
        let start = Lsn((2 << 20) - (start_page << page_shift));
        let writer = messages(shape, start, &lengths);
        let chunks: Vec<&[u8]> = writer.bytes.chunks(chunk).collect();
        prop_assert_eq!(decode(&writer.shape, start, &chunks), (writer.records.clone(), None));
        let padded = writer.padded();
        let (found, stop) = decode(&writer.shape, start, &[&padded]);
        prop_assert_eq!(found, writer.records.clone());
        if let Some(stop) = stop {
            prop_assert!(stop.reason.is_unwritten());
            prop_assert_eq!(stop.valid_end, writer.position());
        }
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, start: u64, good_header: bool) {
        let start = Lsn(start & !1023);
        let mut writer = Writer::new(short_pages(), start);
        if good_header && start.0 < u64::MAX - (1 << 20) {
            writer.page_header(0, 0);
        }
        writer.bytes.extend(bytes);
        if let Ok(mut decoder) = WalDecoder::new(short_pages(), start) {
            decoder.feed(&writer.bytes);
            while let Decoded::Record(record) = decoder.next() {
                let _ = record.event();
            }
        }
    }

    #[test]
    fn no_content_panics(content: Vec<u8>, major in 0usize..6, rmgr in 0u8..12, info: u8) {
        let major = Major::ALL[major];
        let _ = body(&content, major);
        let _ = event(major, Rmgr(rmgr), info, &content);
    }
}

/// The first pages of a segment that a server of each major wrote, and that server's control file. Page images in it are compressed.
const SAMPLES: [(&[u8], &[u8]); 6] = [
    (include_bytes!("../../testdata/pg_control-13"), include_bytes!("../../testdata/wal-13")),
    (include_bytes!("../../testdata/pg_control-14"), include_bytes!("../../testdata/wal-14")),
    (include_bytes!("../../testdata/pg_control-15"), include_bytes!("../../testdata/wal-15")),
    (include_bytes!("../../testdata/pg_control-16"), include_bytes!("../../testdata/wal-16")),
    (include_bytes!("../../testdata/pg_control-17"), include_bytes!("../../testdata/wal-17")),
    (include_bytes!("../../testdata/pg_control-18"), include_bytes!("../../testdata/wal-18")),
];

fn sample(control: &[u8], bytes: &[u8]) -> (WalShape, Lsn) {
    let control = crate::control::ControlFile::parse(control).expect("a fixture is valid");
    let shape = WalShape {
        major: control.major,
        system_identifier: control.system_identifier,
        history: TimelineHistory::first(),
        segment_size: control.wal_segment_size,
        wal_block_size: control.wal_block_size,
        block_size: control.block_size,
    };
    let address = Reader(&bytes[8..]).u64().expect("a page header");
    (shape, Lsn(address))
}

#[test]
fn real_wal_of_every_major_tells_what_was_done() {
    for (control, bytes) in SAMPLES {
        let (shape, start) = sample(control, bytes);
        let mut decoder = WalDecoder::new(shape.clone(), start).expect("a segment's start");
        decoder.feed(bytes);
        let mut told = Vec::new();
        while let Decoded::Record(record) = decoder.next() {
            told.push(match record.event().expect("a known record") {
                Event::TransactionEnd(end) => match (end.outcome, end.prepared, end.subtransactions.len()) {
                    (TransactionOutcome::Committed, false, 0) if !end.dropped.is_empty() => "commit with drop",
                    (TransactionOutcome::Committed, false, 0) => "commit",
                    (TransactionOutcome::Committed, false, _) => "commit with savepoint",
                    (TransactionOutcome::Committed, true, _) => "commit prepared",
                    (TransactionOutcome::Aborted, false, _) => "abort",
                    (TransactionOutcome::Aborted, true, _) => "rollback prepared",
                },
                Event::Prepared(prepared) if prepared.gid == b"keep" => "prepare keep",
                Event::Prepared(prepared) if prepared.gid == b"lose" => "prepare lose",
                Event::RelationTruncated { main: true, blocks: 0, .. } => "vacuum to nothing",
                Event::RelationCreated { fork: crate::names::Fork::Main, .. } => "new file",
                Event::Truncate { tables, .. } if tables.len() == 1 => "truncate",
                _ => continue,
            });
        }
        let told: Vec<_> = told.into_iter().skip_while(|what| *what != "commit with savepoint").collect();
        // "commit" between the parts: DELETE, the catalogue changes of VACUUM.
        let told: Vec<_> = told.into_iter().filter(|what| *what != "commit").collect();
        let expect = [
            "commit with savepoint",
            "abort",
            "prepare keep",
            "commit prepared",
            "prepare lose",
            "rollback prepared",
            "vacuum to nothing",
            "commit with drop",
            "new file",
            "new file",
            "new file",
            "truncate",
            "commit with drop",
        ];
        assert_eq!(told, expect, "PostgreSQL {}", shape.major);
        assert!(decoder.stopped().expect("it stops").reason.is_unwritten());
    }
}

#[test]
fn hz_c9_damaged_real_wal_yields_a_prefix_of_the_undamaged_records() {
    for (control, bytes) in SAMPLES {
        let (shape, start) = sample(control, bytes);
        let (all, stop) = decode(&shape, start, &[bytes]);
        let end = stop.expect("it stops").valid_end;
        let used = (end.0 - start.0) as usize;
        assert!(all.len() > 80 && used > 16_384, "{} records, {used} bytes", all.len());
        for at in (0..used).step_by(53) {
            let (found, _) = decode(&shape, start, &[&bytes[..at]]);
            assert_eq!(found, all[..found.len()], "PostgreSQL {}: cut at {at}", shape.major);
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x40;
            let (found, stop) = decode(&shape, start, &[&damaged]);
            assert_eq!(found, all[..found.len()], "PostgreSQL {}: damaged at {at}", shape.major);
            // Only padding may be changed unnoticed.
            assert!(found.len() < all.len() || stop.expect("it stops").valid_end == end);
        }
    }
}
