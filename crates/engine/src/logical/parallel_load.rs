//! Several `pg_restore` at once, of a dump of the repository.
//!
//! `pg_restore --jobs` wants a file that it can seek in. Here definitions come first, then the rows, each table as a small archive of its
//! own through a pipe, the largest first; then indexes and constraints, by `pg_restore --jobs` itself: they need nothing but the
//! table of contents, which is given to it in memory.

use std::ffi::OsString;
use std::sync::Mutex;

use asof_postgres::archive::toc::{Entry, Section, Toc};
use futures::future::try_join_all;

use super::fetch::StoredDump;
use super::load::{LoadPlan, feed, finished};
use super::members::file_of;
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
    let mut remarks =
        part(plan, link, dump, &only(toc, |entry| entry.section != Section::Data), "pre-data", observer).await?.1;
    let loads = Mutex::new(loads(dump, toc).await?);
    let worker = async || {
        let (mut bytes, mut remarks) = (0, Vec::new());
        loop {
            let Some(load) = loads.lock().expect("no holder panics").pop() else {
                return Ok::<_, Error>((bytes, remarks));
            };
            let (more, said) = part(plan, link, dump, &load, "data", observer).await?;
            bytes += more;
            remarks.extend(said);
        }
    };
    let done = try_join_all((0..plan.jobs()).map(|_| worker())).await?;
    let bytes = done.iter().map(|(bytes, _)| bytes).sum();
    remarks.extend(done.into_iter().flat_map(|(_, remarks)| remarks));
    observer.event(Event::Phase("building indexes"));
    remarks.extend(indexes(plan, link, toc).await?);
    Ok((bytes, remarks))
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

/// Everything of the section of data, in loads of which each is one archive; the largest is the last.
async fn loads(dump: &StoredDump, toc: &Toc) -> Result<Vec<Toc>> {
    let mut lengths: std::collections::HashMap<String, u64> = dump.list().await?.into_iter().collect();
    let mut entries: Vec<(u64, &Entry)> = toc
        .entries
        .iter()
        .filter(|entry| entry.section == Section::Data)
        .map(|entry| (if entry.has_dumper { lengths.remove(&file_of(entry)).unwrap_or(0) } else { 0 }, entry))
        .collect();
    entries.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
    let mut groups: Vec<(u64, Vec<i32>)> = Vec::new();
    for (len, entry) in entries {
        match groups.last_mut().filter(|(bytes, ids)| bytes + len <= TOGETHER && ids.len() < MOST_TOGETHER) {
            Some((bytes, ids)) => {
                *bytes += len;
                ids.push(entry.dump_id);
            }
            None => groups.push((len, vec![entry.dump_id])),
        }
    }
    groups.sort_by_key(|(bytes, _)| *bytes);
    Ok(groups.into_iter().map(|(_, ids)| only(toc, |entry| ids.contains(&entry.dump_id))).collect())
}

/// One archive, one section of it.
async fn part(
    plan: &LoadPlan,
    link: &Link,
    dump: &StoredDump,
    toc: &Toc,
    section: &str,
    observer: &dyn Observer,
) -> Result<(u64, Vec<String>)> {
    let mut arguments = plan.pg_restore(false);
    arguments.push(format!("--section={section}").into());
    let mut running = link.start(&plan.world, &plan.client, "pg_restore", arguments).await?;
    let stream = plan.origin.stream_of(dump, toc);
    let fed = feed(running.input(), stream, observer, |_| Ok(())).await;
    finished(running, fed).await
}

async fn indexes(plan: &LoadPlan, link: &Link, toc: &Toc) -> Result<Vec<String>> {
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
