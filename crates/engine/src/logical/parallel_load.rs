//! Several `pg_restore` at once, of a dump of the repository.
//!
//! `pg_restore --jobs` wants a file that it can seek in. Here definitions come first, then the rows, each table as a small archive of its
//! own through a pipe, the largest first, with the indexes that need nothing else; then what is left, by `pg_restore --jobs` itself: it
//! needs nothing but the table of contents, which is given to it in memory.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::sync::Mutex;

use asof_postgres::archive::toc::{Entry, Section, Toc};
use futures::future::try_join_all;

use super::feed::{feed, finished};
use super::fetch::StoredDump;
use super::load::LoadPlan;
use super::members::{file_of, with_data};
use super::program::Link;
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};

/// Tables are loaded together up to this many bytes: a process for each small one costs more than its rows.
const TOGETHER: u64 = 32 << 20;
/// And up to this many.
const MOST_TOGETHER: usize = 500;
/// What an archive always says: the entries that set how text is read.
const SETTINGS: [&[u8]; 4] = [b"ENCODING", b"STDSTRINGS", b"SEARCHPATH", b"DATABASE"];

/// Loads in three phases.
pub(super) async fn load(
    plan: &LoadPlan,
    link: &Link,
    dump: &StoredDump,
    toc: &Toc,
    observer: &dyn Observer,
) -> Result<(u64, Vec<String>)> {
    let toc = &with_sections(toc);
    let definitions = only(toc, |entry| entry.section == Section::PreData);
    let mut remarks = part(plan, link, dump, &definitions, observer).await?.1;
    let built = built_with_tables(toc);
    let loads = Mutex::new(loads(dump, toc, &built).await?);
    let worker = async || {
        let (mut bytes, mut remarks) = (0, Vec::new());
        loop {
            let Some(load) = loads.lock().expect("no holder panics").pop() else {
                return Ok::<_, Error>((bytes, remarks));
            };
            let (more, said) = part(plan, link, dump, &load, observer).await?;
            bytes += more;
            remarks.extend(said);
        }
    };
    let done = try_join_all((0..plan.jobs()).map(|_| worker())).await?;
    let bytes = done.iter().map(|(bytes, _)| bytes).sum();
    remarks.extend(done.into_iter().flat_map(|(_, remarks)| remarks));
    observer.event(Event::Phase("adding constraints"));
    let mut taken: HashSet<i32> = built.values().flatten().copied().collect();
    let in_turn = of_partitions(toc, &taken);
    let attached = only(toc, |entry| in_turn.contains(&entry.dump_id));
    remarks.extend(part(plan, link, dump, &attached, observer).await?.1);
    taken.extend(in_turn);
    // Tables stay in it: by them pg_restore knows which of its jobs would lock each other out.
    let rest = only(toc, |entry| !taken.contains(&entry.dump_id));
    remarks.extend(the_rest(plan, link, &rest).await?);
    Ok((bytes, remarks))
}

/// What is left to be done for partitioned tables and their partitions. `pg_restore --jobs` knows only the locks of the tables that an
/// entry names, not those of their partitions, and its jobs may wait for each other in a circle ("deadlock detected").
fn of_partitions(toc: &Toc, taken: &HashSet<i32>) -> HashSet<i32> {
    let attach = toc.entries.iter().filter(|entry| entry.desc.as_bytes() == b"TABLE ATTACH");
    let tables: HashSet<i32> = attach.flat_map(|entry| entry.dependencies.iter().copied()).collect();
    let is_left = |entry: &&Entry| entry.section == Section::PostData && !taken.contains(&entry.dump_id);
    let left: HashMap<i32, &Entry> = toc.entries.iter().filter(is_left).map(|entry| (entry.dump_id, entry)).collect();
    let touches = |entry: &&&Entry| {
        entry.desc.as_bytes() == b"INDEX ATTACH" || entry.dependencies.iter().any(|id| tables.contains(id))
    };
    let mut todo: Vec<i32> =
        left.values().filter(touches).filter(|entry| !comes_last(entry)).map(|entry| entry.dump_id).collect();
    let mut wanted = HashSet::new();
    while let Some(id) = todo.pop() {
        if wanted.insert(id) {
            // And what it needs.
            todo.extend(left[&id].dependencies.iter().filter(|id| left.contains_key(id)));
        }
    }
    wanted
}

/// Privileges come last in any case, and so does what is made of rows that may not be there yet.
fn comes_last(entry: &Entry) -> bool {
    let desc = entry.desc.as_bytes();
    let last: [&[u8]; 2] = [b"MATERIALIZED VIEW DATA", b"EVENT TRIGGER"];
    desc.ends_with(b"ACL") || last.contains(&desc) || desc.starts_with(b"PUBLICATION")
}

/// Indexes and keys that need nothing but their table and definitions, by the OID of the table: they are built as soon as its rows
/// are there, while others are still loaded.
fn built_with_tables(toc: &Toc) -> HashMap<u32, Vec<i32>> {
    let defined = |entry: &&Entry| entry.section == Section::PreData;
    let before: HashMap<i32, &Entry> = toc.entries.iter().filter(defined).map(|entry| (entry.dump_id, entry)).collect();
    let known: HashSet<i32> = toc.entries.iter().map(|entry| entry.dump_id).collect();
    let filled: HashSet<u32> = with_data(toc).map(|entry| entry.object_oid).collect();
    let is_index = |entry: &&Entry| matches!(entry.desc.as_bytes(), b"INDEX" | b"CONSTRAINT");
    // Of a partition's index the one of its table, to which it is attached later; in whichever order the two are made.
    let of_parents: HashSet<i32> = toc.entries.iter().filter(is_index).map(|entry| entry.dump_id).collect();
    let mut built: HashMap<u32, Vec<i32>> = HashMap::new();
    for entry in toc.entries.iter().filter(is_index) {
        let needs: HashSet<i32> = entry.dependencies.iter().copied().filter(|id| known.contains(id)).collect();
        let tables: Vec<u32> = needs
            .iter()
            .filter_map(|id| before.get(id))
            .filter(|needed| needed.desc.as_bytes() == b"TABLE")
            .map(|table| table.object_oid)
            .collect();
        if let [table] = tables.as_slice()
            && needs.iter().all(|id| before.contains_key(id) || of_parents.contains(id))
            && filled.contains(table)
        {
            built.entry(*table).or_default().push(entry.dump_id);
        }
    }
    built
}

/// Some entries (comments, privileges) belong to whatever section they stand in (`SECTION_NONE`; `RestoreArchive` in
/// pg_backup_archiver.c, 9.3 to 18). In a part of the table of contents they would stand in another, so each is told its own. Privileges
/// come last, as they do in one `pg_restore`: they may take from the owner what loading needs.
fn with_sections(toc: &Toc) -> Toc {
    let mut toc = toc.clone();
    let mut current = Section::PreData;
    for entry in &mut toc.entries {
        match entry.section {
            Section::None if entry.desc.as_bytes().ends_with(b"ACL") => entry.section = Section::PostData,
            Section::None => entry.section = current,
            section => current = section,
        }
    }
    toc
}

/// A table of contents with fewer entries.
pub(super) fn only(toc: &Toc, wanted: impl Fn(&Entry) -> bool) -> Toc {
    let entries = toc.entries.iter().filter(|entry| wanted(entry) || SETTINGS.contains(&entry.desc.as_bytes()));
    Toc { entries: entries.cloned().collect(), ..toc.clone() }
}

/// Everything of the section of data, and what is built with it, in loads of which each is one archive; the largest is the last.
async fn loads(dump: &StoredDump, toc: &Toc, built: &HashMap<u32, Vec<i32>>) -> Result<Vec<Toc>> {
    let mut lengths: HashMap<String, u64> = dump.list().await?.into_iter().collect();
    let mut entries: Vec<(u64, &Entry)> = toc
        .entries
        .iter()
        .filter(|entry| entry.section == Section::Data)
        .map(|entry| (if entry.has_dumper { lengths.remove(&file_of(entry)).unwrap_or(0) } else { 0 }, entry))
        .collect();
    entries.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
    let mut groups: Vec<(u64, HashSet<i32>)> = Vec::new();
    for (len, entry) in entries {
        match groups.last_mut().filter(|(bytes, ids)| bytes + len <= TOGETHER && ids.len() < MOST_TOGETHER) {
            Some((bytes, ids)) => {
                *bytes += len;
                ids.insert(entry.dump_id);
            }
            None => groups.push((len, HashSet::from([entry.dump_id]))),
        }
        if entry.has_dumper
            && let (Some((_, ids)), Some(built)) = (groups.last_mut(), built.get(&entry.object_oid))
        {
            ids.extend(built);
        }
    }
    groups.sort_by_key(|(bytes, _)| *bytes);
    Ok(groups.into_iter().map(|(_, ids)| only(toc, |entry| ids.contains(&entry.dump_id))).collect())
}

/// One archive with some of the entries.
async fn part(
    plan: &LoadPlan,
    link: &Link,
    dump: &StoredDump,
    toc: &Toc,
    observer: &dyn Observer,
) -> Result<(u64, Vec<String>)> {
    let arguments = plan.pg_restore(false);
    let mut running = link.start(&plan.world, &plan.client, "pg_restore", arguments).await?;
    let stream = plan.origin.stream_of(dump, toc);
    let fed = feed(running.input(), stream, observer, |_| Ok(())).await;
    finished(running, fed).await
}

/// What comes last, by `pg_restore --jobs` itself.
async fn the_rest(plan: &LoadPlan, link: &Link, toc: &Toc) -> Result<Vec<String>> {
    let (files, bytes) = (plan.world.files.clone(), toc.encode_custom());
    let file = plan.world.blocking(move || files.in_memory(&bytes)).await;
    let file = file.map_err(Error::files("keep in memory", "the table of contents"))?;
    let mut arguments = plan.pg_restore(false);
    arguments.extend([
        OsString::from("--section=post-data"),
        format!("--jobs={}", plan.jobs()).into(),
        file.path.into(),
    ]);
    let running = link.start(&plan.world, &plan.client, "pg_restore", arguments).await?;
    let remarks = running.end().await;
    drop(file.held);
    remarks
}
