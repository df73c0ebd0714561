//! What holds values and is no table: sequences and large objects.
//!
//! WAL holds the value of a sequence up to 32 calls in advance (`SEQ_LOG_VALS` in `commands/sequence.c`), so that after a
//! recovery, and on a standby, a sequence stands where its original has said it might go. One that is ahead by exactly that is
//! named among what is left out, not among the differences: no value comes twice.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join;

use super::facts::plain;
use super::report::{CouldNotCompare, LeftOut};
use super::schema::PRELUDE;
use super::session::{Pair, Reader, Tried, text};
use super::{Class, CompareReport, CompareRequest, Difference};
use crate::error::Result;

/// So many are asked for by one statement; where one of them is refused, one by one.
const AT_ONCE: usize = 200;

const SEQUENCES: &str =
    "SELECT name, host_schema, host_name, seqincrement FROM rel JOIN pg_sequence ON seqrelid = rel.oid ORDER BY 1";

const LARGE_OBJECTS: &str = "SELECT oid FROM pg_largeobject_metadata ORDER BY oid";

/// Stands for all, where not even a list could be had.
const ALL: &str = "(all)";

/// Values by identity, as text; where a value was refused, why.
type Values = BTreeMap<String, Tried<Value>>;

#[derive(Clone)]
struct Value {
    shown: String,
    /// Of a sequence: what it would be after a recovery.
    recovered: Option<String>,
}

pub(super) async fn compare(pair: &mut Pair, request: &CompareRequest, report: &mut CompareReport) -> Result<()> {
    let Pair { a, b } = pair;
    let (in_a, in_b) = try_join(sequences(a, request), sequences(b, request)).await?;
    note(Class::SequenceValue, (&a.label, &in_a), (&b.label, &in_b), request, report);
    // Large objects belong to no table, so that patterns for tables leave them out, as pg_dump does.
    if request.tables.include.is_empty() {
        let (in_a, in_b) = try_join(large_objects(a), large_objects(b)).await?;
        note(Class::LargeObject, (&a.label, &in_a), (&b.label, &in_b), request, report);
    }
    Ok(())
}

fn note(
    class: Class,
    (label_a, a): (&str, &Values),
    (label_b, b): (&str, &Values),
    request: &CompareRequest,
    report: &mut CompareReport,
) {
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    for key in keys {
        for (label, side) in [(label_a, a), (label_b, b)] {
            let Some(Err(refusal)) = side.get(key) else { continue };
            report.could_not_compare.push(CouldNotCompare {
                side: label.to_owned(),
                object: format!("{} {}", class.words(), plain(key)),
                why: refusal.why.clone(),
                denied: refusal.denied,
            });
        }
        if unknown(a, key) || unknown(b, key) {
            continue;
        }
        let value = |side: &Values| side.get(key).and_then(|value| value.as_ref().ok().cloned());
        let (a, b) = (value(a), value(b));
        if let (Some(a), Some(b)) = (&a, &b)
            && ahead(a, b)
        {
            let object = format!("{} {}", class.words(), plain(key));
            report.left_out.push(LeftOut { object, why: "one side is ahead by what WAL holds in advance" });
            continue;
        }
        let (a, b) = (a.map(|value| value.shown), b.map(|value| value.shown));
        // A sequence that one side lacks stands among the relations already.
        let told = class == Class::SequenceValue && request.schema && (a.is_none() || b.is_none());
        if a != b && !told {
            report.differences.push(Difference { class, object: plain(key), property: None, a, b });
        }
    }
}

/// Whether one is what a recovery makes of the other.
fn ahead(a: &Value, b: &Value) -> bool {
    a.shown != b.shown && (a.recovered.as_ref() == Some(&b.shown) || b.recovered.as_ref() == Some(&a.shown))
}

/// Whether a value could not be had, so that nothing can be said of it.
fn unknown(side: &Values, key: &str) -> bool {
    side.contains_key(ALL) || side.get(key).is_some_and(Result::is_err)
}

async fn sequences(side: &mut Reader, request: &CompareRequest) -> Result<Values> {
    let listed = side.main().attempt(&format!("{PRELUDE}{SEQUENCES}")).await?;
    let rows = match listed {
        Ok(rows) => rows,
        Err(refusal) => return Ok([(ALL.to_owned(), Err(refusal))].into()),
    };
    let taken = rows.iter().filter_map(|row| {
        let (name, schema, host, increment) = (text(row, 0)?, text(row, 1)?, text(row, 2)?, text(row, 3)?);
        request.tables.take(&schema, &host).then_some((name, increment))
    });
    let increments: BTreeMap<String, String> = taken.collect();
    let names: Vec<String> = increments.keys().cloned().collect();
    values(side, &names, |names| {
        let one = |(index, name): (usize, &String)| {
            let increment = &increments[name];
            format!(
                "SELECT {index}, last_value || CASE WHEN is_called THEN '' ELSE ' (not yet used)' END, \
                 CASE WHEN is_called AND log_cnt > 0 THEN (last_value + log_cnt * ({increment})::numeric)::text END \
                 FROM {name}"
            )
        };
        names.iter().enumerate().map(one).collect::<Vec<_>>().join(" UNION ALL ")
    })
    .await
}

/// Length and digest of each, computed by the server in pieces of a mebibyte. `lo_open` for reading is 0x40000 (`libpq-fs.h`).
async fn large_objects(side: &mut Reader) -> Result<Values> {
    let rows = match side.main().attempt(LARGE_OBJECTS).await? {
        Ok(rows) => rows,
        Err(refusal) => return Ok([(ALL.to_owned(), Err(refusal))].into()),
    };
    let oids: Vec<String> = rows.iter().filter_map(|row| text(row, 0)).collect();
    values(side, &oids, |oids| {
        let listed = oids.join(", ");
        format!(
            "SELECT number - 1, length || ' bytes, MD5 of pieces ' || md5((
               SELECT string_agg(md5(lo_get(o, piece * 1048576, 1048576)), '' ORDER BY piece)
               FROM generate_series(0, length / 1048576) piece)), NULL
             FROM (
               SELECT o, number, lo_lseek64(fd, 0, 2) AS length, lo_close(fd) FROM (
                 SELECT o, number, lo_open(o, 262144) AS fd
                 FROM unnest('{{{listed}}}'::oid[]) WITH ORDINALITY u(o, number) OFFSET 0
               ) opened OFFSET 0
             ) sized"
        )
    })
    .await
}

/// Asks for the values of `keys`: `sql` gives for each its position among those asked for, its value, and
/// that after a recovery.
async fn values(side: &mut Reader, keys: &[String], sql: impl Fn(&[String]) -> String) -> Result<Values> {
    let mut values = Values::new();
    for some in keys.chunks(AT_ONCE) {
        if let Ok(found) = ask(side, some, &sql).await? {
            values.extend(found);
            continue;
        }
        for one in some {
            match ask(side, std::slice::from_ref(one), &sql).await? {
                Ok(found) => values.extend(found),
                Err(refusal) => drop(values.insert(one.clone(), Err(refusal))),
            }
        }
    }
    Ok(values)
}

async fn ask(side: &mut Reader, keys: &[String], sql: impl Fn(&[String]) -> String) -> Result<Tried<Values>> {
    let rows = match side.main().attempt(&sql(keys)).await? {
        Ok(rows) => rows,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut values = Values::new();
    for row in &rows {
        let index: usize = row.parse_required(0)?;
        if let (Some(key), Some(value)) = (keys.get(index), text(row, 1)) {
            let recovered = text(row, 2);
            values.insert(key.clone(), Ok(Value { shown: value, recovered }));
        }
    }
    Ok(Ok(values))
}
