//! Which rows a sampled comparison looks at: chosen once, by the first side, and the same on both.
//!
//! By ranges of a key's first column where its order is the same everywhere (numbers, dates, times, UUIDs): the first side
//! reads some blocks that it picks at random with a fixed seed (`TABLESAMPLE SYSTEM … REPEATABLE`), the lowest key of each
//! becomes a border, and of the ranges between the borders every n-th is compared, and always the first and the last, which
//! are open: rows that only one side has, with whatever key, can be found. The index leads to the rows; nothing else is read.
//!
//! By a hash of the key where its order depends on a collation: every row is visited, only the chosen ones are digested.
//! A table without a key, or one so small that choosing costs as much as reading, is read whole and not called sampled.

use asof_postgres::client::escape_literal;

use super::digest::md5;
use super::facts::plain;
use super::report::Sampling;
use super::session::{Session, Tried, text};
use super::tables::{Key, Table};
use crate::error::Result;

/// Borders for each range that is compared, so that chance evens out.
const RANGES_COMPARED: u64 = 16;
const FEWEST_BORDERS: u64 = 200;
const MOST_BORDERS: u64 = 10_000;
/// Below so many blocks for each border, a table is read whole.
const BLOCKS_PER_BORDER: u64 = 4;

/// Types whose values have one order and one text on every server.
const ORDERED: [&str; 9] = [
    "smallint",
    "integer",
    "bigint",
    "numeric",
    "oid",
    "date",
    "uuid",
    "timestamp without time zone",
    "timestamp with time zone",
];

/// The choice of rows.
#[derive(Debug)]
pub(super) enum Choice {
    Ranges { column: String, kind: String, ranges: Vec<(Option<String>, Option<String>)> },
    KeyHash { columns: Vec<String>, one_in: u32 },
}

impl Choice {
    /// Chooses; `None` means every row.
    pub(super) async fn make(
        session: &mut Session,
        table: &Table,
        key: Option<&Key>,
        one_in: u32,
    ) -> Result<Tried<Option<Self>>> {
        let borders = (RANGES_COMPARED * u64::from(one_in)).clamp(FEWEST_BORDERS, MOST_BORDERS);
        let Some(key) = key.filter(|_| table.blocks > BLOCKS_PER_BORDER * borders) else { return Ok(Ok(None)) };
        let Some((column, kind)) = key.columns.first() else { return Ok(Ok(None)) };
        if !ORDERED.contains(&plain(kind).as_str()) {
            let columns = key.columns.iter().map(|(name, _)| name.clone()).collect();
            return Ok(Ok(Some(Self::KeyHash { columns, one_in })));
        }
        let found = session.attempt(&borders_sql(table, column, borders)).await?;
        Ok(found.map(|rows| {
            let mut borders: Vec<String> = rows.iter().filter_map(|row| text(row, 0)).collect();
            borders.dedup();
            Some(Self::Ranges { column: column.clone(), kind: kind.clone(), ranges: ranges(&borders, one_in) })
        }))
    }

    /// As a condition over the alias `r`.
    pub(super) fn condition(&self, text_as_it_is: bool) -> String {
        match self {
            Self::Ranges { column, kind, ranges } => {
                let bound = |sign: &str, value: &Option<String>| {
                    value.as_ref().map(|value| format!("r.{column} {sign} {}::{kind}", escape_literal(value)))
                };
                let range = |(from, to): &(Option<String>, Option<String>)| {
                    let bounds: Vec<String> = [bound(">=", from), bound("<", to)].into_iter().flatten().collect();
                    if bounds.is_empty() { "true".to_owned() } else { bounds.join(" AND ") }
                };
                ranges.iter().map(range).collect::<Vec<_>>().join(" OR ")
            }
            Self::KeyHash { columns, one_in } => {
                let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
                format!("('x' || left({}, 8))::bit(32)::bigint % {one_in} = 0", md5(&columns, text_as_it_is))
            }
        }
    }

    pub(super) fn into_report(self) -> Sampling {
        match self {
            Self::Ranges { column, ranges, .. } => Sampling::Ranges { column: plain(&column), ranges: ranges.len() },
            Self::KeyHash { columns, .. } => {
                Sampling::KeyHash { columns: columns.iter().map(|column| plain(column)).collect() }
            }
        }
    }
}

/// The lowest key of each of about so many blocks, in order.
fn borders_sql(table: &Table, column: &str, borders: u64) -> String {
    let millionths = (borders * 1_000_000).div_ceil(table.blocks.max(1));
    let percent = format!("{}.{:04}", millionths / 10_000, millionths % 10_000);
    let block = "(r.ctid::text::point)[0]";
    format!(
        "SELECT s.border::text FROM (SELECT DISTINCT ON ({block}) r.{column} AS border FROM ONLY {} r \
         TABLESAMPLE SYSTEM ({percent}) REPEATABLE (0) ORDER BY {block}, r.{column}) s ORDER BY s.border",
        table.name
    )
}

/// Every n-th range between borders, the open one below the first border, and the open one above the last.
fn ranges(borders: &[String], one_in: u32) -> Vec<(Option<String>, Option<String>)> {
    let last = borders.len();
    let step = usize::try_from(one_in).unwrap_or(usize::MAX).max(1);
    let border = |index: usize| borders.get(index).cloned();
    let chosen = (0..=last).filter(|index| index % step == 0 || *index == last);
    chosen.map(|index| (index.checked_sub(1).and_then(border), border(index))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_the_last_and_every_nth_range_are_chosen() {
        let borders: Vec<String> = (1..=7).map(|n| n.to_string()).collect();
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let chosen = |one_in| {
            let ranges = ranges(&borders, one_in);
            ranges.iter().map(|(from, to)| format!("{}..{}", text(from), text(to))).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(chosen(3), "-..1 3..4 6..7 7..-");
        assert_eq!(chosen(100), "-..1 7..-");
        assert_eq!(ranges(&[], 3), [(None, None)]);
    }

    #[test]
    fn a_range_becomes_a_condition() {
        let choice = Choice::Ranges {
            column: "\"id\"".to_owned(),
            kind: "bigint".to_owned(),
            ranges: vec![(None, Some("5".to_owned())), (Some("9".to_owned()), None)],
        };
        assert_eq!(choice.condition(true), "r.\"id\" < '5'::bigint OR r.\"id\" >= '9'::bigint");
    }
}
