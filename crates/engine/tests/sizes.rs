//! What a backup of a real instance takes besides its pages: footers of packs, page hashes, maps (docs/format.md, Sizes).
//!
//! The ends of objects are taken apart here by the document, not by the code that wrote them. `ASOF_SIZES_MIB` asks for an
//! instance of that size.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "the test reads real files and prints figures"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use asof_testkit::{Options, majors};
use support::Protected;

const PAGE: u64 = 8192;
const TRAILER: usize = 120;
/// Rows of about 4 KiB, a third of them noise, in files of their own.
const ROWS_PER_MIB: u64 = 256;

/// The objects of one kind.
#[derive(Default)]
struct Objects {
    count: u64,
    bytes: u64,
    /// Header, sealed index and trailer.
    ends: u64,
}

impl Objects {
    fn below(repository: &Path, kind: &str) -> Self {
        let mut found = Self::default();
        for path in files_below(repository).iter().filter(|path| path.components().any(|part| part.as_os_str() == kind))
        {
            let bytes = fs::read(path).expect("an object");
            let trailer = bytes.last_chunk::<TRAILER>().expect("longer than a trailer");
            let length = |at: usize| u64::from(u32::from_le_bytes(trailer[at..at + 4].try_into().expect("four bytes")));
            found.count += 1;
            found.bytes += bytes.len() as u64;
            found.ends += length(8) + length(12) + TRAILER as u64;
        }
        found
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        match entry.file_type().expect("a type").is_dir() {
            true => found.extend(files_below(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn footers_and_map_of_a_real_instance_are_as_small_as_the_format_says() {
    let mib: u64 = std::env::var("ASOF_SIZES_MIB").map_or(64, |text| text.parse().expect("a number"));
    let major = *majors().last().expect("a major");
    let production = Protected::new(major, &Options::default()).await;
    production.server.psql("create table body (id bigint, text text)");
    production.server.psql("alter table body alter text set storage plain");
    for from in (0..mib * ROWS_PER_MIB).step_by(1 << 16) {
        let to = (from + (1 << 16)).min(mib * ROWS_PER_MIB);
        production.server.psql(&format!(
            "insert into body select n, (select string_agg(md5((n * 64 + k)::text), '') from generate_series(1, 40) k) \
             || repeat('what is said twice is worth half ', 80) from generate_series({from}, {to} - 1) n"
        ));
    }
    production.server.psql("checkpoint");
    let repository = production.work.path().join("repository");
    let first = production.backup("first").await.backup.sizes;
    let (packs, map) = (Objects::below(&repository, "packs"), Objects::below(&repository, "maps"));
    let second = production.backup("second").await.backup.sizes;
    let maps = Objects::below(&repository, "maps");
    let unchanged = maps.bytes - map.bytes;
    let pages = first.changed / PAGE;
    let hashes = pages * 16;
    println!(
        r#"{{"measured":"sizes","major":{major},"files_bytes":{},"pages":{pages},"packs":{},"packs_bytes":{},"footers_bytes":{},"hashes_bytes":{hashes},"map_bytes":{},"unchanged_map_bytes":{unchanged},"second_stored_bytes":{}}}"#,
        first.total, packs.count, packs.bytes, packs.ends, map.bytes, second.stored
    );
    // The table says 17.6 bytes a page (2,253 MiB) for frames that become three times smaller, 21.9 MiB for the map. What an object
    // or a file has once weighs more in a small instance.
    let footers = pages * 185 / 10 + packs.count * 2048 + first.files * 32;
    let map_allowed = pages * 18 / 100 + 64 * 1024;
    assert_eq!((map.count, maps.count), (1, 2), "each backup has a map");
    assert!(packs.ends > hashes, "footers take {} bytes, less than the hashes in them", packs.ends);
    assert!(packs.ends <= footers, "footers take {} bytes, not {footers}", packs.ends);
    assert!(map.bytes <= map_allowed, "the map takes {} bytes, not {map_allowed}", map.bytes);
    assert!(unchanged <= 64 * 1024 + map.bytes / 20, "the map of an unchanged instance takes {unchanged} bytes");
}
