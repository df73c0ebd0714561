//! Tables of contents and custom-format archives: real ones, made-up ones, and ones that something happened to.

use super::codec::Wrapping;
use super::codec::tests::compress;
use super::stream::{ArchiveDecoder, Block, Depth, Piece, Summary};
use super::toc::{ArchiveFormat, ArchiveVersion, Created, Entry, Place, Section, Toc, TocDecoder, TocError, file_name};
use super::{ArchiveError, Compression, DataError, Text};
use proptest::prelude::*;

const SHOP_15: &[u8] = include_bytes!("../../testdata/archive/shop-15.custom");
const SHOP_16: &[u8] = include_bytes!("../../testdata/archive/shop-16.custom");
const SHOP_18: &[u8] = include_bytes!("../../testdata/archive/shop-18.custom");
const SHOP_15_GZIP: &[u8] = include_bytes!("../../testdata/archive/shop-15-gzip.custom");
const SHOP_16_GZIP: &[u8] = include_bytes!("../../testdata/archive/shop-16-gzip.custom");
const SHOP_18_GZIP: &[u8] = include_bytes!("../../testdata/archive/shop-18-gzip.custom");
const INSERTS: &[u8] = include_bytes!("../../testdata/archive/item-18-inserts-pipe.custom");
const LATIN: [&[u8]; 3] = [
    include_bytes!("../../testdata/archive/latin-15.custom"),
    include_bytes!("../../testdata/archive/latin-16.custom"),
    include_bytes!("../../testdata/archive/latin-18.custom"),
];
const SHOPS: [(u8, &[u8], &[u8]); 3] =
    [(14, SHOP_15, SHOP_15_GZIP), (15, SHOP_16, SHOP_16_GZIP), (16, SHOP_18, SHOP_18_GZIP)];

/// An entry's data: for each large object its OID, or one part without.
type Data = Vec<(i32, Vec<(Option<u32>, Vec<u8>)>)>;

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    summary: Summary,
    data: Data,
}

fn read(bytes: &[u8], piece: usize, depth: Depth) -> Result<Seen, ArchiveError> {
    let (mut decoder, mut data, mut ended) = (ArchiveDecoder::new(depth), Data::new(), 0);
    for bytes in bytes.chunks(piece) {
        decoder.push(bytes, &mut |piece| match piece {
            Piece::Toc { .. } => assert!(data.is_empty()),
            Piece::DataStart { dump_id, .. } => data.push((dump_id, Vec::new())),
            Piece::LargeObjectStart { oid } => data.last_mut().expect("started").1.push((Some(oid), Vec::new())),
            Piece::Data(bytes) => {
                let parts = &mut data.last_mut().expect("started").1;
                if parts.is_empty() {
                    parts.push((None, Vec::new()));
                }
                parts.last_mut().expect("a part").1.extend(bytes);
            }
            Piece::DataEnd(block) => {
                assert_eq!(block.dump_id, data.last().expect("started").0);
                ended += 1;
            }
        })?;
    }
    let summary = decoder.finish()?;
    assert_eq!((ended, data.len()), (summary.blocks.len(), summary.blocks.len()));
    Ok(Seen { summary, data })
}

fn whole(bytes: &[u8]) -> Seen {
    read(bytes, bytes.len(), Depth::Content).expect("a whole archive")
}

/// Writes a custom-format archive as `pg_dump` of this version does; the directory's table of contents differs in the places alone.
fn write(toc: &Toc, data: &Data, compression: Compression) -> Vec<u8> {
    let head = |offsets: &[(i32, u64)]| {
        let plain = Toc { entries: Vec::new(), ..toc.clone() }.encode_directory();
        let mut out = plain[..plain.len() - 5].to_vec();
        out[10] = 1;
        let code = [Compression::None, Compression::Gzip, Compression::Lz4, Compression::Zstd];
        let code = code.iter().position(|known| *known == compression).expect("known");
        // In 1.15 and later a byte, before the last byte but three of an int.
        let at = if toc.version.minor >= 15 { 11 } else { 12 };
        out[at] = u8::try_from(code).expect("small");
        out.push(0);
        out.extend(u32::try_from(toc.entries.len()).expect("small").to_le_bytes());
        for entry in &toc.entries {
            let one = Toc { entries: vec![entry.clone()], ..toc.clone() }.encode_directory();
            let name = file_name(toc.version, entry).unwrap_or_default();
            out.extend(&one[plain.len()..one.len() - 5 - name.len()]);
            let offset = offsets.iter().find(|(dump_id, _)| *dump_id == entry.dump_id);
            out.push(if offset.is_some() {
                2
            } else if entry.has_dumper {
                1
            } else {
                3
            });
            out.extend(offset.map_or(0, |(_, offset)| *offset).to_le_bytes());
        }
        out
    };
    let mut out = head(&[]);
    let mut offsets = Vec::new();
    for (dump_id, parts) in data {
        offsets.push((*dump_id, out.len() as u64));
        let large_objects = toc.entry(*dump_id).expect("an entry").is_large_objects();
        out.push(if large_objects { 3 } else { 1 });
        put_int(&mut out, *dump_id);
        for (oid, part) in parts {
            if let Some(oid) = oid {
                put_int(&mut out, oid.cast_signed());
            }
            for chunk in compress(part, compression, Wrapping::Archive).chunks(100) {
                put_int(&mut out, i32::try_from(chunk.len()).expect("small"));
                out.extend(chunk);
            }
            put_int(&mut out, 0);
        }
        if large_objects {
            put_int(&mut out, 0);
        }
    }
    let head = head(&offsets);
    out[..head.len()].copy_from_slice(&head);
    out
}

fn put_int(out: &mut Vec<u8>, value: i32) {
    out.push(value.is_negative().into());
    out.extend(value.unsigned_abs().to_le_bytes());
}

#[test]
fn every_field_of_a_table_of_contents_is_read() {
    for (minor, bytes, _) in SHOPS {
        let toc = whole(bytes).summary.toc;
        assert_eq!((toc.version.minor, toc.format, toc.compression), (minor, ArchiveFormat::Custom, Compression::None));
        assert_eq!(toc.database, "shop");
        assert_eq!((toc.created.year, toc.created.month, toc.created.day), (126, 10, 20));
        assert!(toc.server_version.to_lossy().starts_with("15."), "{}", toc.server_version);
        let entry = toc.entries.iter().find(|entry| entry.desc == "TABLE" && entry.tag == "customer").expect("there");
        assert_eq!(entry.namespace, Some("public".into()));
        assert_eq!(entry.owner, Some("postgres".into()));
        assert_eq!(entry.access_method, Some("heap".into()));
        assert_eq!((entry.catalog_oid, entry.section, entry.has_dumper), (1259, Section::PreData, false));
        assert_eq!(entry.relkind, if minor == 16 { i32::from(b'r') } else { 0 });
        assert_eq!(entry.place, Place::None);
        assert!(entry.definition.as_ref().expect("text").to_lossy().starts_with("CREATE TABLE public.customer ("));
        assert_eq!(entry.drop, Some("DROP TABLE public.customer;\n".into()));
        let rows = toc.entries.iter().find(|rows| rows.desc == "TABLE DATA" && rows.tag == "customer").expect("there");
        assert_eq!(rows.copy, Some("COPY public.customer (id, name, feels) FROM stdin;\n".into()));
        assert_eq!(rows.dependencies, [entry.dump_id]);
        assert!(matches!(rows.place, Place::Offset(Some(_))), "{:?}", rows.place);
    }
}

#[test]
fn names_need_not_be_utf8() {
    for bytes in LATIN {
        let seen = whole(bytes);
        let entry = seen.summary.toc.entries.iter().find(|entry| entry.desc == "TABLE DATA").expect("there");
        assert_eq!(entry.tag, Text(b"caf\xe9".to_vec()));
        assert_eq!(entry.tag.to_string(), "caf\u{fffd}");
        assert_eq!(seen.data[0].1[0].1, b"\xe9\n\\.\n\n\n");
    }
}

#[test]
fn rows_and_large_objects_are_counted_whatever_the_compression() {
    for (_, plain, gzip) in SHOPS {
        let seen = whole(plain);
        let toc = &seen.summary.toc;
        let rows = |block: &Block| (toc.entry(block.dump_id).expect("there").tag.to_lossy(), block.rows);
        let counted: Vec<_> = seen.summary.blocks.iter().map(rows).collect();
        let odd = "odd; Type: TABLE\nname";
        let expected = [("customer", 20), ("item", 3), (odd, 6), ("sale_2024", 8), ("sale_2025", 2)];
        assert_eq!(counted[..5], expected.map(|(name, rows)| (name.to_owned(), Some(rows))));
        let (blobs, objects) = (&seen.summary.blocks[5], &seen.data[5].1);
        assert_eq!((blobs.large_objects, blobs.plain_bytes, blobs.rows), (3, Some(505), None));
        let hello = (Some(1001), b"hello".to_vec());
        assert_eq!(objects[..], [hello, (Some(1002), Vec::new()), (Some(3_000_000_000), vec![b'x'; 500])]);
        assert_eq!(blobs.range.end, plain.len() as u64);

        let zipped = whole(gzip);
        assert_eq!(zipped.data, seen.data);
        assert_eq!(zipped.summary.toc.compression, Compression::Gzip);
        for compression in [Compression::None, Compression::Gzip, Compression::Lz4, Compression::Zstd] {
            if compression == Compression::None || compression == Compression::Gzip || toc.version.minor >= 15 {
                let bytes = write(toc, &seen.data, compression);
                let again = whole(&bytes);
                assert_eq!(again.data, seen.data, "{compression}");
                assert_eq!(again.summary.toc.compression, compression);
                for piece in [1, 3, 17, 1000] {
                    assert_eq!(read(&bytes, piece, Depth::Content).as_ref(), Ok(&again), "{compression} by {piece}");
                }
            }
        }
    }
}

#[test]
fn our_own_writer_writes_what_pg_dump_writes() {
    // Otherwise what it writes in other compressions and versions would prove little. The chunks are those of rows, so the place
    // of the first block is compared, and everything before it.
    for (_, bytes, _) in SHOPS {
        let seen = whole(bytes);
        let written = write(&seen.summary.toc, &seen.data, Compression::None);
        let first = usize::try_from(seen.summary.blocks[0].range.start).expect("small");
        let toc = whole(&written).summary.toc;
        assert_eq!(toc.entries.len(), seen.summary.toc.entries.len());
        let differing = bytes[..first].iter().zip(&written[..first]).filter(|(ours, theirs)| ours != theirs).count();
        // Bytes of the offsets of four of six blocks, and those that 15 leaves in the offsets of entries without data.
        assert!(differing <= 5 * 2, "{differing}");
    }
}

#[test]
fn the_structure_alone_is_read_without_decompression() {
    for (_, plain, gzip) in SHOPS {
        let deep = whole(gzip);
        let shallow = read(gzip, 100, Depth::Structure).expect("whole");
        for (shallow, deep) in shallow.summary.blocks.iter().zip(&deep.summary.blocks) {
            assert_eq!((&shallow.range, shallow.large_objects), (&deep.range, deep.large_objects));
            assert_eq!((shallow.rows, shallow.plain_bytes), (None, None));
        }
        // Where nothing is compressed, nothing is saved by looking away.
        assert_eq!(read(plain, 100, Depth::Structure), read(plain, 100, Depth::Content));
    }
}

#[test]
fn rows_that_are_inserts_are_not_counted_and_places_may_be_unknown() {
    let seen = whole(INSERTS);
    assert_eq!(seen.summary.blocks.len(), 1);
    assert_eq!(seen.summary.blocks[0].rows, None);
    let entry = seen.summary.toc.entry(seen.summary.blocks[0].dump_id).expect("there");
    assert_eq!(entry.place, Place::Offset(None));
    assert!(seen.data[0].1[0].1.starts_with(b"INSERT INTO public.item VALUES (1, 1);\n"));
}

#[test]
fn an_archive_that_was_cut_off_is_noticed_at_every_length() {
    let seen = whole(SHOP_18);
    let small = |compression| write(&seen.summary.toc, &seen.data, compression);
    let compressed = [Compression::Lz4, Compression::Zstd].map(small);
    for bytes in [SHOP_15, SHOP_18, SHOP_16_GZIP, INSERTS, &compressed[0], &compressed[1]] {
        let end_of_toc = whole(bytes).summary.blocks[0].range.start;
        for length in 0..bytes.len() {
            // Inside the table of contents every byte is alike.
            if length as u64 > end_of_toc || length % 7 == 0 {
                let error = read(&bytes[..length], 5000, Depth::Content).expect_err("cut off");
                let short = matches!(
                    error,
                    ArchiveError::EndsInToc(_)
                        | ArchiveError::EndsInBlock { .. }
                        | ArchiveError::EndsInHeader(_)
                        | ArchiveError::NoBlock { .. }
                );
                assert!(short, "{error} at {length}");
            }
        }
    }
}

#[test]
fn no_change_of_bytes_panics() {
    let seen = whole(SHOP_18);
    let bytes = [Compression::None, Compression::Gzip, Compression::Lz4, Compression::Zstd]
        .map(|compression| write(&seen.summary.toc, &seen.data, compression));
    for bytes in bytes.iter().map(Vec::as_slice).chain([SHOP_15, SHOP_16_GZIP, INSERTS]) {
        let data = usize::try_from(whole(bytes).summary.blocks[0].range.start).expect("small");
        for bit in 0..bytes.len() * 8 {
            if bit % 61 == 0 || (bit / 8 >= data && bit % 5 == 0) {
                let mut torn = bytes.to_vec();
                torn[bit / 8] ^= 1 << (bit % 8);
                let _ = read(&torn, 4096, Depth::Content);
            }
        }
        for at in (0..bytes.len()).step_by(83) {
            for cut in [1, 4, 9] {
                let mut torn = bytes.to_vec();
                torn.drain(at..(at + cut).min(bytes.len()));
                let _ = read(&torn, 4096, Depth::Content);
                let mut grown = bytes.to_vec();
                grown.splice(at..at, [0, 0xff, 0x80, 1].into_iter().cycle().take(cut));
                let _ = read(&grown, 4096, Depth::Structure);
            }
        }
    }
}

#[test]
fn damage_of_blocks_is_named() {
    let seen = whole(SHOP_18);
    let (toc, data) = (&seen.summary.toc, &seen.data);
    let check = |data: &Data, expect: fn(&ArchiveError) -> bool| {
        let error = read(&write(toc, data, Compression::None), 100, Depth::Content).expect_err("damaged");
        assert!(expect(&error), "{error}");
    };
    check(&data[1..].to_vec(), |error| matches!(error, ArchiveError::NoBlock { .. }));
    check(&[&data[..1], &data[..]].concat(), |error| matches!(error, ArchiveError::BadBlock { .. }));
    let without_end = vec![(data[0].0, vec![(None, b"1\tx\n".to_vec())])];
    let no_end = |error: &ArchiveError| matches!(error, ArchiveError::Data { source: DataError::NoEndOfData, .. });
    check(&without_end, no_end);
    // A block moved by a byte is not where pg_restore looks for it.
    let mut longer = SHOP_18.to_vec();
    let first = usize::try_from(seen.summary.blocks[0].range.start).expect("small");
    longer.insert(first, 0);
    let error = read(&longer, 100, Depth::Content).expect_err("moved");
    assert!(matches!(error, ArchiveError::BadBlock { .. }), "{error}");
    let second = usize::try_from(seen.summary.blocks[1].range.start).expect("small");
    let mut swapped = SHOP_18[..first].to_vec();
    swapped.extend(&SHOP_18[second..]);
    let error = read(&swapped, 100, Depth::Content).expect_err("moved");
    assert!(matches!(error, ArchiveError::Misplaced { .. }), "{error}");
}

#[test]
fn a_decoder_that_failed_stays_failed() {
    let mut decoder = ArchiveDecoder::new(Depth::Content);
    let error = decoder.push(b"SELECT 1", &mut |_| {}).expect_err("no archive");
    assert_eq!(error, ArchiveError::Toc(TocError::Magic));
    assert_eq!(decoder.push(SHOP_18, &mut |_| {}), Err(error.clone()));
    assert_eq!(decoder.finish(), Err(error));
}

#[test]
fn other_versions_and_formats_are_refused_by_name() {
    let toc = |at: usize, byte: u8| {
        let mut bytes = SHOP_18.to_vec();
        bytes[at] = byte;
        Toc::decode(ArchiveFormat::Custom, &bytes).expect_err("refused")
    };
    assert_eq!(toc(6, 11), TocError::Version { major: 1, minor: 11 });
    assert_eq!(toc(6, 17), TocError::Version { major: 1, minor: 17 });
    assert_eq!(toc(5, 2), TocError::Version { major: 2, minor: 16 });
    assert_eq!(toc(8, 8), TocError::Sizes { int: 8, offset: 8 });
    assert_eq!(toc(10, 3), TocError::Format { expected: ArchiveFormat::Custom, found: 3 });
    assert_eq!(toc(11, 4), TocError::Header("compression"));
}

#[test]
fn impossible_entries_are_refused() {
    let shop = whole(SHOP_18).summary.toc;
    let refused = |change: fn(&mut Vec<Entry>)| {
        let mut entries = shop.entries.clone();
        change(&mut entries);
        let bytes = Toc { entries, ..shop.clone() }.encode_directory();
        Toc::decode(ArchiveFormat::Directory, &bytes).expect_err("refused")
    };
    let id = |field| TocError::Entry { entry: 2, field };
    assert_eq!(refused(|entries| entries[1].dump_id = 0), id("dump id"));
    assert_eq!(refused(|entries| entries[1].dump_id = -1), id("dump id"));
    assert_eq!(refused(|entries| entries[1].dump_id = entries[0].dump_id), id("dump id: it was given before"));
    // A name of a file is no path.
    let bytes = shop.encode_directory();
    let at = memchr::memmem::find(&bytes, b"3409.dat").expect("there");
    for name in [b"../9.dat", b"/409.dat", b".409.dat", b"3409\0dat", b"34/9.dat"] {
        let mut bytes = bytes.clone();
        bytes[at..at + 8].copy_from_slice(name);
        let error = Toc::decode(ArchiveFormat::Directory, &bytes).expect_err("refused");
        assert!(matches!(error, TocError::Entry { field: "name of a file", .. }), "{error}");
    }
    // A text longer than any is refused before it is waited for.
    let mut bytes = bytes;
    bytes[at - 4..at].copy_from_slice(&(1_u32 << 30).to_le_bytes());
    let error = TocDecoder::new(ArchiveFormat::Directory).push(&bytes).expect_err("refused");
    assert!(matches!(error, TocError::Entry { field: "length of a text", .. }), "{error}");
}

#[test]
fn a_table_of_contents_that_was_cut_off_asks_for_more() {
    let bytes = include_bytes!("../../testdata/archive/shop-18.toc");
    for length in 0..bytes.len() {
        let mut decoder = TocDecoder::new(ArchiveFormat::Directory);
        assert_eq!(decoder.push(&bytes[..length]), Ok(None), "{length}");
        // And takes it, saying how much of it was needed.
        if length % 50 == 0 {
            let rest = [&bytes[length..], b"behind"].concat();
            let (toc, used) = decoder.push(&rest).expect("valid").expect("complete");
            assert_eq!((toc.entries.len(), used), (60, bytes.len() - length));
        }
    }
    assert_eq!(Toc::decode(ArchiveFormat::Directory, &bytes[..99]), Err(TocError::CutOff(99)));
    assert_eq!(Toc::decode(ArchiveFormat::Directory, &[&bytes[..], &[0]].concat()), Err(TocError::Trailing));
}

#[test]
fn a_huge_table_of_contents_is_read_once_in_small_pieces() {
    let shop = whole(SHOP_18).summary.toc;
    let (definition, dependencies) = (Some(Text(vec![b'x'; 500])), (0..20).collect());
    let template = Entry { definition, dependencies, ..shop.entries[0].clone() };
    let entries = (1..=20_000).map(|dump_id| Entry { dump_id, ..template.clone() }).collect();
    let toc = Toc { entries, format: ArchiveFormat::Directory, compression: Compression::None, ..shop };
    let bytes = toc.encode_directory();
    assert!(bytes.len() > 10 << 20, "{}", bytes.len());
    let mut decoder = TocDecoder::new(ArchiveFormat::Directory);
    let found = bytes.chunks(100).find_map(|piece| decoder.push(piece).expect("valid"));
    assert!(found.is_some_and(|(found, _)| found == toc));
}

#[test]
fn the_table_of_contents_of_a_directory_is_that_of_the_same_custom_archive() {
    for (custom, directory) in [
        (SHOP_15, &include_bytes!("../../testdata/archive/shop-15.toc")[..]),
        (SHOP_16, include_bytes!("../../testdata/archive/shop-16.toc")),
        (SHOP_18, include_bytes!("../../testdata/archive/shop-18.toc")),
    ] {
        let directory = Toc::decode(ArchiveFormat::Directory, directory).expect("valid");
        let ours = whole(custom).summary.toc.encode_directory();
        let ours = Toc::decode(ArchiveFormat::Directory, &ours).expect("valid");
        let expected = Toc { compression: Compression::None, level: 0, created: ours.created, ..directory };
        assert_eq!(ours.version, expected.version);
        for (ours, expected) in ours.entries.iter().zip(&expected.entries) {
            assert_eq!(ours, expected);
        }
        assert_eq!(ours, expected);
    }
}

fn texts() -> impl Strategy<Value = Option<Text>> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20).prop_map(Text))
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let names = (texts(), texts(), texts(), texts(), texts(), texts(), texts());
    let numbers = (any::<[u32; 2]>(), any::<i32>(), proptest::collection::vec(any::<i32>(), 0..4));
    let kinds = (0usize..4, any::<bool>(), any::<bool>());
    let desc = prop_oneof![Just("TABLE DATA"), Just("BLOBS"), Just("TABLE"), Just("")];
    let entry = (names, numbers, kinds, desc).prop_map(|(names, numbers, kinds, desc)| Entry {
        dump_id: 1,
        has_dumper: kinds.1,
        catalog_oid: numbers.0[0],
        object_oid: numbers.0[1],
        tag: names.0.clone().unwrap_or_default(),
        desc: desc.into(),
        section: [Section::None, Section::PreData, Section::Data, Section::PostData][kinds.0],
        definition: names.0,
        drop: names.1,
        copy: names.2,
        namespace: names.3,
        tablespace: names.4,
        access_method: names.5,
        relkind: numbers.1,
        owner: names.6,
        with_oids: kinds.2,
        dependencies: numbers.2,
        place: Place::None,
    });
    proptest::collection::vec(entry, 0..6)
}

proptest! {
    #[test]
    fn a_table_of_contents_survives_writing_and_reading(
        mut entries in entries(), minor in 12u8..=16, fields in any::<[i32; 7]>(), piece in 1usize..50
    ) {
        let version = ArchiveVersion { minor, revision: 0 };
        for (entry, dump_id) in entries.iter_mut().zip(1..) {
            entry.dump_id = dump_id;
            entry.place = file_name(version, entry).map_or(Place::None, Place::File);
            if minor < 14 {
                entry.access_method = None;
            }
            if minor < 16 {
                entry.relkind = 0;
            }
        }
        let [second, minute, hour, day, month, year, daylight_saving] = fields;
        let toc = Toc {
            version,
            format: ArchiveFormat::Directory,
            compression: Compression::None,
            level: 0,
            created: Created { second, minute, hour, day, month, year, daylight_saving },
            database: "d".into(),
            server_version: "s".into(),
            dump_version: "v".into(),
            entries,
        };
        let bytes = toc.encode_directory();
        let mut decoder = TocDecoder::new(ArchiveFormat::Directory);
        let found = bytes.chunks(piece).find_map(|piece| decoder.push(piece).expect("valid"));
        prop_assert_eq!(found.map(|(toc, _)| toc), Some(toc));
    }

    #[test]
    fn no_content_behind_a_header_panics(content in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..2000) {
        let bytes = [&SHOP_18[..at], &content].concat();
        let _ = read(&bytes, 64, Depth::Content);
    }
}
