//! Verification of a dump: every byte is read and decoded, and the rows of every table are held against what was recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use asof_postgres::archive::plain::PlainScanner;
use asof_repository::lineage::{Backup, Entry};
use serde::Serialize;

use super::examine::{Examined, Proof, damaged, examine};
use super::fetch::StoredDump;
use super::members::{GLOBALS, SQL, TOC, file_of, with_data};
use super::origin::{Origin, Place};
use super::outcome::Contents;
use super::record::TableRecord;
use crate::error::{Error, Result, in_one_line};
use crate::progress::{Event, Observer};
use crate::shelf::Shelf;

/// How many differences a message names.
pub(super) const NAMED: usize = 10;

/// What the journal keeps of a failure, in characters.
const WHAT_LEN: usize = 2000;

/// What a verification found: a dump that is whole.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// What the dump is called.
    pub dump: String,
    /// What vouches for its bytes.
    pub proof: Proof,
    /// Bytes that were read and decoded.
    pub bytes: u64,
    /// Tables that have rows in it, or could have.
    pub tables: u64,
    /// Rows, where they are counted in all tables.
    pub rows: Option<u64>,
    /// Large objects.
    pub large_objects: u64,
    /// Whether the rows of every table are as many as were recorded; false where nothing was recorded.
    pub held_against_record: bool,
    /// What the operator should know.
    pub remarks: Vec<String>,
    /// How long it took.
    #[serde(skip)]
    pub elapsed: Duration,
}

impl VerifyReport {
    /// In one line, for the journal.
    fn line(&self) -> String {
        let rows = self.rows.map_or_else(String::new, |rows| format!(", {rows} rows"));
        format!("{} bytes decoded, {} tables{rows}", self.bytes, self.tables)
    }
}

/// Reads and decodes a whole dump.
///
/// # Errors
/// `Damaged`, with what is wrong and where.
pub async fn verify(origin: &Origin, observer: &dyn Observer) -> Result<VerifyReport> {
    let began = origin.world.monotonic();
    let examined = whole(origin, observer).await?;
    Ok(report(origin, &examined, origin.world.monotonic() - began))
}

/// Reads and decodes everything, and holds it against its record.
pub(super) async fn whole(origin: &Origin, observer: &dyn Observer) -> Result<Examined> {
    let mut examined = examine(origin, observer).await?;
    if let Place::Stored(dump) = &origin.place {
        examined.bytes += read_the_rest(origin, dump, observer).await?;
    }
    if origin.details.is_some() {
        hold_against_record(origin, &examined)?;
    }
    Ok(examined)
}

fn report(origin: &Origin, examined: &Examined, elapsed: Duration) -> VerifyReport {
    VerifyReport {
        dump: origin.name.clone(),
        proof: examined.proof,
        bytes: examined.bytes,
        tables: examined.tables.len() as u64,
        rows: examined.tables.iter().map(|table| table.rows).sum(),
        large_objects: examined.large_objects,
        held_against_record: origin.details.is_some(),
        remarks: remarks(origin, examined),
        elapsed,
    }
}

/// As [`verify`], of a backup in the repository; what was found is recorded in the journal, damage too. A repository that
/// does not answer says nothing about the dump, and is not recorded.
///
/// # Errors
/// As [`verify`], and `Refused` for a physical backup.
pub async fn verify_stored(shelf: &Shelf, backup: &Backup, observer: &dyn Observer) -> Result<VerifyReport> {
    let began = shelf.world.monotonic();
    let verified = async { verify(&Origin::stored(shelf, backup).await?, observer).await }.await;
    let what = match &verified {
        Ok(report) => report.line(),
        Err(error) if is_damage(error) => shortened(&in_one_line(error), WHAT_LEN),
        Err(_) => return verified,
    };
    let elapsed_ms = u64::try_from((shelf.world.monotonic() - began).as_millis()).unwrap_or(u64::MAX);
    let mut journal = shelf.journal().await?;
    let entry = Entry::Verified { backup: backup.id, ok: verified.is_ok(), what, elapsed_ms };
    journal.append(journal.state().epoch, entry).await?;
    verified
}

/// Whether an error says that the dump itself is not what it was.
pub(super) fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Damaged { .. })
}

/// Files of a stored dump that are no part of the stream: each is read, so that each of its bytes is authenticated.
async fn read_the_rest(origin: &Origin, dump: &StoredDump, observer: &dyn Observer) -> Result<u64> {
    let streamed: BTreeSet<String> = match &origin.toc {
        Some(toc) => with_data(toc).map(file_of).chain([TOC.to_owned()]).collect(),
        None => BTreeSet::from([SQL.to_owned()]),
    };
    let mut total = 0;
    for (name, _) in dump.list().await?.into_iter().filter(|(name, _)| !streamed.contains(name)) {
        let (mut file, mut scanner) = (dump.file(&name).await?, PlainScanner::new());
        while let Some(piece) = file.next().await? {
            if name == GLOBALS {
                scanner.push(piece.as_slice());
            }
            total += piece.len() as u64;
            observer.event(Event::Advance(piece.len() as u64));
        }
        if name == GLOBALS {
            Contents::of_script(scanner).map_err(|_| damaged(&format!("{}, {name}", origin.name), "it has no end"))?;
        }
    }
    Ok(total)
}

/// The rows of every table by its name; of one that is there more than once, all of them.
pub(super) fn by_name(tables: &[TableRecord]) -> BTreeMap<(&str, &str), Option<u64>> {
    rows_by(tables, |table| (table.schema.as_str(), table.name.as_str()))
}

/// The same by the name that is in the dump: those of a script are not decoded when it is read.
fn by_dumped_name(tables: &[TableRecord]) -> BTreeMap<(Vec<u8>, Vec<u8>), Option<u64>> {
    rows_by(tables, TableRecord::dumped)
}

fn rows_by<'a, K: Ord>(tables: &'a [TableRecord], key: impl Fn(&'a TableRecord) -> K) -> BTreeMap<K, Option<u64>> {
    let mut found = BTreeMap::new();
    for table in tables {
        let rows: &mut Option<u64> = found.entry(key(table)).or_insert(Some(0));
        *rows = rows.zip(table.rows).map(|(known, more)| known + more);
    }
    found
}

/// Holds what was decoded against what the dump's maker counted.
fn hold_against_record(origin: &Origin, examined: &Examined) -> Result<()> {
    let (recorded, found) = (by_dumped_name(&origin.tables), by_dumped_name(&examined.tables));
    let shown = |rows: Option<&Option<u64>>| match rows {
        None => "absent".to_owned(),
        Some(None) => "not counted".to_owned(),
        Some(Some(rows)) => format!("{rows} rows"),
    };
    let names: BTreeSet<_> = recorded.keys().chain(found.keys()).collect();
    let differ = names.into_iter().filter(|name| recorded.get(*name) != found.get(*name));
    let differences: Vec<String> = differ
        .take(NAMED)
        .map(|name| {
            let (was, is) = (shown(recorded.get(name)), shown(found.get(name)));
            let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
            format!("{}.{}: {is}, recorded {was}", text(&name.0), text(&name.1))
        })
        .collect();
    match differences.is_empty() {
        true => Ok(()),
        false => {
            let what = format!("{} has not the rows that were recorded: {}", origin.name, differences.join("; "));
            Err(Error::damaged(what, "take another copy of it, or dump again"))
        }
    }
}

pub(super) fn remarks(origin: &Origin, examined: &Examined) -> Vec<String> {
    let proof = match examined.proof {
        Proof::Authenticated | Proof::Recorded => None,
        Proof::Checksums => Some(format!(
            "no record lies beside {}: compressed data has checksums, everything else was only read to its end",
            origin.name
        )),
        Proof::FormOnly => Some(format!(
            "nothing proves the data of {}: it has no checksums, and no record lies beside it; it was read to its end, but a byte of a \
             row may be another",
            origin.name
        )),
    };
    let end =
        examined.script.as_ref().filter(|script| !script.has_end_mark).map(|_| {
            format!("{} does not come from pg_dump: no mark tells whether it is all of what it was", origin.name)
        });
    proof.into_iter().chain(end).chain(origin.remark()).collect()
}

/// At most `len` characters.
pub(super) fn shortened(text: &str, len: usize) -> String {
    match text.char_indices().nth(len) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!([shortened("äöü", 2), shortened("äö", 2)], ["äö…", "äö"]);
    }
}
