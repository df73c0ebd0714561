//! How an archive lies in the repository: its table of contents is one file, and the data of each entry another.
//!
//! Put behind each other with the headers of their blocks, in the order of the table of contents, the files are the archive that
//! `pg_dump` wrote, byte for byte. By themselves they let one table be read without the others, several be read at once, and
//! a table be found again in the next dump: its file is named by the table's OID.

use std::collections::HashMap;

use asof_postgres::archive::toc::{Entry, Toc};

/// The table of contents.
pub(crate) const TOC: &str = "toc";
/// A dump in plain SQL.
pub(crate) const SQL: &str = "dump.sql";
/// Roles and tablespaces.
pub(crate) const GLOBALS: &str = "globals.sql";
/// What is recorded of every table.
pub(crate) const TABLES: &str = "tables.json";

/// Longer ones are not read into memory.
pub(crate) const TOC_LIMIT: u64 = 1 << 30;

/// Whether the data is large objects: the first byte of the header of a block (`BLK_BLOBS` and `BLK_DATA` of
/// pg_backup_archiver.h, 9.0 to 18).
const ROWS: u8 = 1;
const LARGE_OBJECTS: u8 = 3;

/// The file with the data of an entry.
pub(crate) fn file_of(entry: &Entry) -> String {
    match (entry.is_large_objects(), entry.object_oid) {
        (true, _) => format!("large-objects/{}", entry.dump_id),
        (false, 0) => format!("data/entry-{}", entry.dump_id),
        (false, oid) => format!("data/{oid}"),
    }
}

/// Entries with data, in the order in which their blocks lie in the archive.
pub(crate) fn with_data(toc: &Toc) -> impl Iterator<Item = &Entry> {
    toc.entries.iter().filter(|entry| entry.has_dumper)
}

/// What the data of each entry is for people.
pub(crate) fn names_of_data(toc: &Toc) -> HashMap<i32, String> {
    with_data(toc).map(|entry| (entry.dump_id, entry.tag.to_lossy())).collect()
}

/// What precedes the data of an entry in the archive.
pub(crate) fn block_header(entry: &Entry) -> [u8; 6] {
    let kind = if entry.is_large_objects() { LARGE_OBJECTS } else { ROWS };
    let [a, b, c, d] = entry.dump_id.to_le_bytes();
    // An int is its sign and its magnitude; dump ids begin with 1.
    [kind, 0, a, b, c, d]
}

/// The length of [`block_header`].
pub(crate) const BLOCK_HEADER_LEN: u64 = 6;
