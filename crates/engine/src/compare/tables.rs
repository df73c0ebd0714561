//! The rows of every table, several tables at once, each on both sides at the same time.
//!
//! Ordinary tables, each leaf partition on its own, materialised views, unlogged tables, and those tables of extensions whose
//! rows a dump holds, too (`pg_extension_config_dump`). Foreign tables hold their rows elsewhere and are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use asof_world::planted;
use futures::future::{try_join, try_join_all};
use serde::Deserialize;

use super::digest::View;
use super::facts::plain;
use super::report::{CouldNotCompare, LeftOut, TableContent, TableReport};
use super::sample::Choice;
use super::schema::PRELUDE;
use super::session::{Pair, Reader, Refusal, Session, Tried, text};
use super::{Class, CompareReport, CompareRequest, Difference, Mode, examples};
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};

/// A table of one side, as its snapshot has it.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) oid: String,
    /// Qualified, every name quoted: what SQL takes and what both sides call it.
    pub(super) name: String,
    /// `pg_class.relfilenode`: another one means that the snapshot does not show what the table held.
    pub(super) file: String,
    pub(super) populated: bool,
    foreign: bool,
    /// Of the table alone, for sampling.
    pub(super) blocks: u64,
    /// With out-of-line values.
    bytes: u64,
    /// Quoted.
    columns: BTreeSet<String>,
    /// What identifies a row: the primary key first, then unique keys without NULL.
    pub(super) keys: Vec<Key>,
}

/// Columns by which there is one row.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Key {
    pub(super) primary: bool,
    /// Quoted name and type of each column.
    pub(super) columns: Vec<(String, String)>,
}

impl Key {
    pub(super) fn names(&self) -> Vec<&str> {
        self.columns.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// The size of a table is asked for only where nobody holds or wants it for himself: the functions take a lock, and would wait.
const TABLES: &str = "
, taken AS (
  SELECT relation FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND locktype = 'relation'
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT c.oid, format('%I.%I', n.nspname, c.relname), n.nspname, c.relname, c.relkind = 'f', c.relispopulated, c.relfilenode,
  CASE WHEN taken.relation IS NULL THEN coalesce(pg_relation_size(c.oid), 0) ELSE 0 END / current_setting('block_size')::bigint,
  CASE WHEN taken.relation IS NULL THEN coalesce(pg_table_size(c.oid), 0) ELSE 0 END,
  (SELECT json_agg(format('%I', attname)) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
  (SELECT json_agg(json_build_object('primary', indisprimary, 'columns', columns) ORDER BY indisprimary DESC, indexrelid)
    FROM pg_index CROSS JOIN LATERAL (
      SELECT json_agg(json_build_array(format('%I', attname), format_type(atttypid, NULL)) ORDER BY position) AS columns,
        bool_and(attnotnull) AS not_null
      FROM unnest(indkey) WITH ORDINALITY AS u(number, position)
      JOIN pg_attribute ON attrelid = indrelid AND attnum = u.number WHERE position <= indnkeyatts
    ) k
    WHERE indrelid = c.oid AND indisunique AND indisvalid AND indimmediate AND indpred IS NULL AND indexprs IS NULL AND not_null)
FROM pg_class c JOIN space n ON n.oid = c.relnamespace LEFT JOIN (SELECT DISTINCT relation FROM taken) taken ON relation = c.oid
WHERE c.relkind IN ('r', 'm', 'f') AND c.relpersistence <> 't'
  AND (('pg_class'::regclass, c.oid) NOT IN (SELECT classid, objid FROM member)
    OR EXISTS (SELECT FROM pg_extension WHERE c.oid = ANY (extconfig)))";

type Tables = BTreeMap<String, Table>;

async fn list(side: &mut Reader, request: &CompareRequest) -> Result<Tables> {
    let rows = side.main().attempt(&format!("{PRELUDE}{TABLES}")).await?.map_err(|refusal| {
        let what = format!("the tables of {} cannot be listed: {}", side.label, refusal.why);
        Error::refused(
            what,
            "connect as a role that may read the catalogs, and compare when nobody holds locks on them",
        )
    })?;
    let mut tables = Tables::new();
    for row in &rows {
        let name = |index| text(row, index).unwrap_or_default();
        if !request.tables.take(&name(2), &name(3)) {
            continue;
        }
        let json = |index| text(row, index).unwrap_or_else(|| "[]".to_owned());
        let unreadable = |_| Error::damaged(format!("the columns of {} are no list", name(1)), "report this");
        let table = Table {
            oid: name(0),
            name: name(1),
            foreign: name(4) == "t",
            populated: name(5) == "t",
            file: name(6),
            blocks: row.parse_required(7)?,
            bytes: row.parse_required(8)?,
            columns: serde_json::from_str(&json(9)).map_err(unreadable)?,
            keys: serde_json::from_str(&json(10)).map_err(unreadable)?,
        };
        tables.insert(table.name.clone(), table);
    }
    Ok(tables)
}

/// What one table gave.
struct Outcome {
    report: TableReport,
    difference: Option<Difference>,
    refused: Vec<CouldNotCompare>,
}

impl Outcome {
    /// Of a table of which nothing is known yet.
    fn of(on: &On<'_>) -> Self {
        let table = plain(&on.table.name);
        let report = TableReport { table, a: None, b: None, sampled: None, examples: Vec::new() };
        Self { report, difference: None, refused: Vec::new() }
    }
}

pub(super) async fn compare(
    pair: &mut Pair,
    request: &CompareRequest,
    report: &mut CompareReport,
    observer: &dyn Observer,
) -> Result<()> {
    let Pair { a, b } = pair;
    let (in_a, in_b) = try_join(list(a, request), list(b, request)).await?;
    let (in_a, in_b) = (without_foreign(in_a, report), without_foreign(in_b, report));
    if !request.schema {
        report.differences.extend(shapes(&in_a, &in_b));
    }
    let mut both: Vec<(&Table, &Table)> = in_a.values().filter_map(|a| Some((a, in_b.get(&a.name)?))).collect();
    // The largest first, so that no job is left alone with it at the end.
    both.sort_by_key(|(a, b)| std::cmp::Reverse(a.bytes.max(b.bytes)));
    observer.event(Event::Expect(both.iter().map(|(a, b)| a.bytes + b.bytes).sum()));
    let round = Round { both, next: AtomicUsize::new(0), a: Context::of(a), b: Context::of(b), request, observer };
    let sessions = a.sessions.iter_mut().zip(&mut b.sessions);
    let workers = sessions.map(|(in_a, in_b)| round.work(in_a, in_b));
    for outcome in try_join_all(workers).await?.into_iter().flatten() {
        report.differences.extend(outcome.difference);
        report.could_not_compare.extend(outcome.refused);
        report.tables.push(outcome.report);
    }
    report.tables.sort_by(|a, b| a.table.cmp(&b.table));
    Ok(())
}

/// What the workers share: each takes the next table.
struct Round<'a> {
    both: Vec<(&'a Table, &'a Table)>,
    next: AtomicUsize,
    a: Context,
    b: Context,
    request: &'a CompareRequest,
    observer: &'a dyn Observer,
}

impl Round<'_> {
    async fn work(&self, in_a: &mut Session, in_b: &mut Session) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        while let Some((a, b)) = self.both.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let on_a = On { session: in_a, table: a, context: &self.a };
            let on_b = On { session: in_b, table: b, context: &self.b };
            outcomes.push(compare_one(on_a, on_b, self.request).await?);
            self.observer.event(Event::Advance(a.bytes + b.bytes));
        }
        Ok(outcomes)
    }
}

fn without_foreign(tables: Tables, report: &mut CompareReport) -> Tables {
    let why = "the rows of a foreign table are elsewhere";
    let (foreign, own): (Tables, Tables) = tables.into_iter().partition(|(_, table)| table.foreign);
    report.left_out.extend(foreign.keys().map(|name| LeftOut { object: plain(name), why }));
    own
}

/// Tables that one side lacks, and columns that one side lacks: told here only where descriptions are not compared.
fn shapes(a: &Tables, b: &Tables) -> Vec<Difference> {
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let difference = |name: &String, property: Option<&str>, a: Option<String>, b: Option<String>| Difference {
        class: Class::Content,
        object: plain(name),
        property: property.map(str::to_owned),
        a,
        b,
    };
    let columns = |table: &Table| table.columns.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", ");
    names
        .into_iter()
        .filter_map(|name| match (a.get(name), b.get(name)) {
            (Some(a), Some(b)) if a.columns == b.columns => None,
            (Some(a), Some(b)) => Some(difference(name, Some("columns"), Some(columns(a)), Some(columns(b)))),
            (a, b) => {
                let exists = |table: Option<&Table>| table.map(|_| "exists".to_owned());
                Some(difference(name, None, exists(a), exists(b)))
            }
        })
        .collect()
}

/// What is the same for all sessions of a side.
struct Context {
    label: String,
    text_as_it_is: bool,
}

impl Context {
    fn of(side: &Reader) -> Self {
        Self { label: side.label.clone(), text_as_it_is: side.text_as_it_is }
    }
}

/// A table on one side.
struct On<'a> {
    session: &'a mut Session,
    table: &'a Table,
    context: &'a Context,
}

async fn compare_one(a: On<'_>, b: On<'_>, request: &CompareRequest) -> Result<Outcome> {
    // What only one side has is a difference by itself; the rows are compared by what both have.
    let columns: Vec<String> = a.table.columns.intersection(&b.table.columns).cloned().collect();
    let key = a.table.keys.iter().find(|key| b.table.keys.contains(key));
    let choice = match choose(&mut *a.session, a.table, b.table, key, request.mode).await? {
        Ok(choice) => choice,
        Err(refusal) => return Ok(Outcome { refused: vec![not_compared(&a, &refusal)], ..Outcome::of(&a) }),
    };
    let condition = |on: &On<'_>| choice.as_ref().map(|choice| choice.condition(on.context.text_as_it_is));
    let (in_a, in_b) = (condition(&a), condition(&b));
    let view_a = view(&a, &columns, in_a.as_deref());
    let view_b = view(&b, &columns, in_b.as_deref());
    let (found_a, found_b) = try_join(view_a.measure(a.session), view_b.measure(b.session)).await?;
    let mut outcome = Outcome::of(&a);
    outcome.report.sampled = choice.map(Choice::into_report);
    for (on, found) in [(&a, &found_a), (&b, &found_b)] {
        outcome.refused.extend(found.as_ref().err().map(|refusal| not_compared(on, refusal)));
    }
    (outcome.report.a, outcome.report.b) = (found_a.ok(), found_b.ok());
    let (Some(found_a), Some(found_b)) = (&outcome.report.a, &outcome.report.b) else { return Ok(outcome) };
    outcome.difference = match planted("l4") {
        true => None,
        false => content_difference(&outcome.report.table, found_a, found_b),
    };
    if let (Some(_), Some(key), true) = (&outcome.difference, key, request.examples > 0) {
        let wanted = examples::Wanted { key, rows: found_a.rows.max(found_b.rows), most: request.examples };
        outcome.report.examples = examples::find(a.session, &view_a, b.session, &view_b, &wanted).await?;
    }
    Ok(outcome)
}

/// Which rows are looked at; `None` means all of them.
async fn choose(
    session: &mut Session,
    a: &Table,
    b: &Table,
    key: Option<&Key>,
    mode: Mode,
) -> Result<Tried<Option<Choice>>> {
    match mode {
        Mode::Sampled { one_in } if one_in > 1 && a.populated && b.populated => {
            Choice::make(session, a, key, one_in).await
        }
        _ => Ok(Ok(None)),
    }
}

fn view<'a>(on: &On<'a>, columns: &'a [String], condition: Option<&'a str>) -> View<'a> {
    View { table: on.table, columns, text_as_it_is: on.context.text_as_it_is, condition }
}

fn content_difference(table: &str, a: &TableContent, b: &TableContent) -> Option<Difference> {
    let shown = |content: &TableContent, property: &str| match property {
        "rows" => content.rows.to_string(),
        _ => content.digest.clone(),
    };
    let property = match (a.rows == b.rows, a.digest == b.digest) {
        (true, true) => return None,
        (false, _) => "rows",
        (true, false) => "digest",
    };
    Some(Difference {
        class: Class::Content,
        object: table.to_owned(),
        property: Some(property.to_owned()),
        a: Some(shown(a, property)),
        b: Some(shown(b, property)),
    })
}

fn not_compared(on: &On<'_>, refusal: &Refusal) -> CouldNotCompare {
    CouldNotCompare {
        side: on.context.label.clone(),
        object: format!("table {}", plain(&on.table.name)),
        why: refusal.why.clone(),
        denied: refusal.denied,
    }
}
