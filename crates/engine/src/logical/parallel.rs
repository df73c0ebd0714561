//! Several `pg_dump` at once, of one snapshot, into one archive.
//!
//! `pg_dump --jobs` writes a directory, and a directory lies on a disk. Here one process dumps everything but the rows of the
//! largest tables, the others those; each writes an archive into its own pipe. The entries of the rows are then put into the table
//! of contents of the first, where `pg_dump` itself would have put them.

use std::collections::HashMap;
use std::ffi::OsString;

use asof_postgres::archive::stream::Summary;
use asof_postgres::archive::toc::{Entry, Section, Toc};
use futures::future::try_join_all;

use super::dump::{DumpRequest, Dumped, Plan, ended, pump};
use super::outcome::Contents;
use super::shelve::Shelving;
use super::snapshot::{Table, option};
use super::watched::Stored;
use crate::error::{Error, Result};
use crate::progress::Observer;

/// Tables that are smaller are not worth another process.
const WORTH: u64 = 8 << 20;
/// Names of more tables make a command line too long.
const MOST_TABLES: usize = 1000;

/// The tables whose rows each further process dumps.
pub(super) fn shares<'a>(plan: &'a Plan, request: &DumpRequest) -> Vec<Vec<&'a Table>> {
    let selection = &request.selection;
    let patterns = [&selection.tables, &selection.exclude_tables, &selection.schemas, &selection.exclude_schemas];
    // Which tables match a pattern only pg_dump knows.
    let all = patterns.iter().all(|list| list.is_empty()) && selection.exclude_table_data.is_empty();
    if request.jobs < 2 || selection.schema_only || selection.data_only || !all {
        return Vec::new();
    }
    dealt(&plan.known, request.jobs)
}

/// The largest tables, dealt to processes so that each has about as much to do; the first process keeps the rest.
fn dealt(known: &[Table], jobs: usize) -> Vec<Vec<&Table>> {
    // A name that is not UTF-8 cannot be said.
    let can_be_named = |table: &&Table| !table.quoted().contains(char::REPLACEMENT_CHARACTER);
    let worth = |table: &&Table| table.all_bytes >= WORTH && !table.unlogged;
    let mut large: Vec<&Table> = known.iter().filter(worth).filter(can_be_named).collect();
    large.sort_by_key(|table| (std::cmp::Reverse(table.all_bytes), table.oid));
    large.truncate(MOST_TABLES);
    let taken: u64 = large.iter().map(|table| table.all_bytes).sum();
    let rest = known.iter().map(|table| table.all_bytes).sum::<u64>() - taken;
    let mut shares: Vec<(u64, Vec<&Table>)> = vec![(rest, Vec::new())];
    shares.resize(jobs, (0, Vec::new()));
    for table in large {
        let least = shares.iter_mut().min_by_key(|(bytes, _)| *bytes).expect("there is a first process");
        least.0 += table.all_bytes;
        least.1.push(table);
    }
    // What falls to the first process stays where it is.
    shares.into_iter().skip(1).map(|(_, tables)| tables).filter(|tables| !tables.is_empty()).collect()
}

/// What one process wrote.
pub(super) struct Archive {
    stored: Stored,
    bytes: u64,
    remarks: Vec<String>,
}

/// Runs all processes to their end; when one fails, all end.
pub(super) async fn archives(
    plan: &Plan,
    request: &DumpRequest,
    shares: &[Vec<&Table>],
    shelving: &Shelving,
    observer: &dyn Observer,
) -> Result<Vec<Archive>> {
    let mut first = plan.arguments(&request.selection);
    first.extend(shares.iter().flatten().map(|table| option("--exclude-table-data", table.dumped())));
    let further = shares.iter().map(|tables| {
        let mut arguments = plan.arguments(&request.selection);
        arguments.push("--data-only".into());
        arguments.extend(tables.iter().map(|table| option("--table", table.dumped())));
        arguments
    });
    let all = std::iter::once(first).chain(further);
    try_join_all(all.map(|arguments| archive(plan, shelving.beside(), arguments, observer))).await
}

async fn archive(
    plan: &Plan,
    shelving: Shelving,
    mut arguments: Vec<OsString>,
    observer: &dyn Observer,
) -> Result<Archive> {
    // Compressed data cannot be compressed by us, and costs more time than all the rest.
    arguments.extend(["--format=custom", "--compress=0"].map(OsString::from));
    let mut running = plan.link.start(&plan.world, &plan.client, "pg_dump", arguments).await?;
    let mut stored = Stored::new(&plan.world, shelving);
    let pumped = pump(&mut running.output, async |piece| {
        let piece = stored.take(piece).await?;
        stored.watched.tell(observer);
        Ok(piece)
    });
    let pumped = pumped.await;
    let (bytes, remarks) = ended(running, pumped).await?;
    Ok(Archive { stored, bytes, remarks })
}

/// Puts the archives together: everything that they stored, and the one table of contents.
pub(super) async fn joined(archives: Vec<Archive>, mut shelving: Shelving) -> Result<(Shelving, Vec<u8>, Dumped)> {
    let (mut summaries, mut bytes, mut remarks, mut toc) = (Vec::new(), 0, Vec::new(), Vec::new());
    for Archive { stored, bytes: more, remarks: said } in archives {
        bytes += more;
        remarks.extend(said);
        summaries.push(stored.watched.finish()?);
        shelving.join(stored.shelving).await?;
        if toc.is_empty() {
            toc = stored.toc;
        }
    }
    let contents = Contents::of(&summaries);
    if let Some((first, further)) = summaries.split_first().filter(|(_, further)| !further.is_empty()) {
        toc = merged(&first.toc, further)?.encode_custom();
    }
    Ok((shelving, toc, Dumped { contents, bytes, remarks }))
}

/// The first table of contents with the rows of the others.
fn merged(first: &Toc, further: &[Summary]) -> Result<Toc> {
    let tables: HashMap<u32, i32> = first
        .entries
        .iter()
        .filter(|entry| entry.desc.as_bytes() == b"TABLE")
        .map(|entry| (entry.object_oid, entry.dump_id))
        .collect();
    let last = first.entries.iter().map(|entry| entry.dump_id).max().unwrap_or(0);
    let mut rows = Vec::new();
    let with_rows = further.iter().flat_map(|summary| &summary.toc.entries).filter(|entry| entry.has_dumper);
    for (dump_id, entry) in (last + 1..).zip(with_rows) {
        let table = tables.get(&entry.object_oid).ok_or_else(|| {
            let what = format!("the rows of {} belong to no table of the dump", entry.describe());
            Error::damaged(what, "dump again with --jobs 1")
        })?;
        rows.push(Entry { dump_id, dependencies: vec![*table], ..entry.clone() });
    }
    let mut toc = first.clone();
    let data = |entry: &Entry| matches!(entry.section, Section::Data);
    let post = |entry: &Entry| matches!(entry.section, Section::PostData);
    let at = toc.entries.iter().position(data).or(toc.entries.iter().position(post)).unwrap_or(toc.entries.len());
    toc.entries.splice(at..at, rows);
    Ok(toc)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(oid: u32, mib: u64) -> Table {
        let (schema, name) = ("s".to_owned(), oid.to_string());
        Table {
            oid,
            schema,
            name,
            estimate: 0,
            bytes: 0,
            all_bytes: mib << 20,
            unlogged: false,
            dumped: Default::default(),
        }
    }

    #[test]
    fn the_largest_tables_are_dealt_and_the_first_process_keeps_its_share() {
        let known = [table(1, 100), table(2, 90), table(3, 10), table(4, 9), table(5, 1)];
        let oids = |jobs| -> Vec<Vec<u32>> {
            dealt(&known, jobs).iter().map(|share| share.iter().map(|table| table.oid).collect()).collect()
        };
        assert_eq!(oids(2), [vec![1, 4]]);
        assert_eq!(oids(3), [vec![1], vec![2]]);
        assert!(dealt(&known[4..], 4).is_empty(), "small tables are not worth a process");
    }
}
