//! Which rows differ, without shipping the table: keys fall into buckets by the MD5 of their text, the buckets' digests are
//! compared, and only those that differ are divided further, until what is in them is small enough to be fetched.
//!
//! Each step reads the table once; with 4096 buckets at a time, two steps are enough for millions of rows.

use std::collections::BTreeMap;

use asof_postgres::client::escape_literal;
use futures::future::try_join;

use super::digest::{SUMS, View, md5, row_text, sums};
use super::report::{Example, Where};
use super::session::{Session, text};
use super::tables::Key;
use crate::error::Result;

/// Hexadecimal digits by which the buckets of one step are finer than those of the step before.
const STEP: usize = 3;
/// An MD5 has 32 digits.
const FINEST: usize = 30;
/// So many rows are fetched from each side at most (unless one bucket of the finest step has more).
const FETCHED: u64 = 5_000;

/// What is looked for.
pub(super) struct Wanted<'a> {
    pub(super) key: &'a Key,
    /// How many rows the larger side has.
    pub(super) rows: u64,
    /// How many examples are enough.
    pub(super) most: usize,
}

/// Finds some rows that differ. What a side refuses on the way gives no examples: that the table differs is known already.
pub(super) async fn find(
    a: &mut Session,
    in_a: &View<'_>,
    b: &mut Session,
    in_b: &View<'_>,
    wanted: &Wanted<'_>,
) -> Result<Vec<Example>> {
    let (mut prefixes, mut rows, mut digits) = (Vec::new(), wanted.rows, 0);
    while rows > FETCHED && digits < FINEST {
        let finer = digits + STEP;
        let (found_a, found_b) =
            try_join(buckets(a, in_a, wanted.key, &prefixes, finer), buckets(b, in_b, wanted.key, &prefixes, finer))
                .await?;
        let (Some(found_a), Some(found_b)) = (found_a, found_b) else { return Ok(Vec::new()) };
        (prefixes, rows) = differing(&found_a, &found_b, wanted.most);
        digits = finer;
    }
    let (found_a, found_b) =
        try_join(fetch(a, in_a, wanted.key, &prefixes), fetch(b, in_b, wanted.key, &prefixes)).await?;
    let (Some(found_a), Some(found_b)) = (found_a, found_b) else { return Ok(Vec::new()) };
    Ok(examples(&found_a, &found_b, wanted.most))
}

/// Number of rows and digest of each bucket.
type Buckets = BTreeMap<String, (u64, String)>;

async fn buckets(
    session: &mut Session,
    view: &View<'_>,
    key: &Key,
    prefixes: &[String],
    digits: usize,
) -> Result<Option<Buckets>> {
    let hash = md5(&key.names(), view.text_as_it_is);
    let rows = view.rows(&format!("left({hash}, {digits}) AS bucket, "), among(&hash, prefixes).as_deref());
    let sql = format!("SELECT bucket, count(*), {SUMS} FROM {rows} GROUP BY bucket");
    let Ok(rows) = session.attempt(&sql).await? else { return Ok(None) };
    let mut buckets = Buckets::new();
    for row in &rows {
        buckets.insert(row.required(0)?.to_owned(), (row.parse_required(1)?, sums(row, 2)?));
    }
    Ok(Some(buckets))
}

/// The MD5 of each row by its key's text.
async fn fetch(
    session: &mut Session,
    view: &View<'_>,
    key: &Key,
    prefixes: &[String],
) -> Result<Option<BTreeMap<String, String>>> {
    let hash = md5(&key.names(), view.text_as_it_is);
    let rows = view.rows(&format!("{} AS key, ", row_text(&key.names())), among(&hash, prefixes).as_deref());
    let Ok(rows) = session.attempt(&format!("SELECT key, h FROM {rows}")).await? else { return Ok(None) };
    Ok(Some(rows.iter().filter_map(|row| Some((text(row, 0)?, text(row, 1)?))).collect()))
}

fn among(hash: &str, prefixes: &[String]) -> Option<String> {
    let digits = prefixes.first()?.len();
    let listed: Vec<String> = prefixes.iter().map(|prefix| escape_literal(prefix)).collect();
    Some(format!("left({hash}, {digits}) IN ({})", listed.join(", ")))
}

/// The first buckets that differ, as many as there may be examples, and how many rows they hold on the larger side.
fn differing(a: &Buckets, b: &Buckets, most: usize) -> (Vec<String>, u64) {
    let mut found: Vec<&String> =
        a.iter().filter(|(bucket, content)| b.get(*bucket) != Some(content)).map(|it| it.0).collect();
    found.extend(b.keys().filter(|bucket| !a.contains_key(*bucket)));
    found.sort();
    found.truncate(most);
    let rows = |side: &Buckets| found.iter().filter_map(|bucket| side.get(*bucket)).map(|(rows, _)| rows).sum::<u64>();
    let rows = rows(a).max(rows(b));
    (found.into_iter().cloned().collect(), rows)
}

fn examples(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>, most: usize) -> Vec<Example> {
    let here = a.iter().filter_map(|(key, row)| match b.get(key) {
        None => Some((key, Where::OnlyInA)),
        Some(other) if other != row => Some((key, Where::Differs)),
        Some(_) => None,
    });
    let there = b.keys().filter(|key| !a.contains_key(*key)).map(|key| (key, Where::OnlyInB));
    let mut found: Vec<_> = here.chain(there).collect();
    found.sort_by_key(|(key, _)| *key);
    found.truncate(most);
    found.into_iter().map(|(key, found)| Example { key: key.clone(), found }).collect()
}
