//! The digest of a table: a number of rows, and two sums.
//!
//! For each row the server forms `ROW(column, …)::text` over the columns in the order of their names, converts it to UTF-8 and
//! takes its MD5; the digest is the sums, as unlimited numbers, of the first and of the last 64 bits. Text because it is what
//! majors agree on, with the settings of [`super::session`]; MD5 because PostgreSQL's own hashes may change between majors;
//! a row constructor because its text tells NULL from `''` and `'a,b'` from two values; sums because no order matters and a
//! row that is there twice counts twice. This finds accidents: somebody who wants to deceive could construct equal sums.
//!
//! A database without an encoding (`SQL_ASCII`) gives its bytes as they are.

use asof_postgres::client::Row;

use super::report::TableContent;
use super::session::{Refusal, Session, Tried};
use super::tables::Table;
use crate::error::Result;

/// The two sums over the column `h` of a subquery.
pub(super) const SUMS: &str =
    "coalesce(sum(('x' || left(h, 16))::bit(64)::bigint), 0), coalesce(sum(('x' || right(h, 16))::bit(64)::bigint), 0)";

/// A table as it is looked at: which columns, which rows.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) table: &'a Table,
    /// Quoted, in the same order on both sides.
    pub(super) columns: &'a [String],
    /// Whether the texts of this database need no conversion.
    pub(super) text_as_it_is: bool,
    /// A condition over the alias `r`; every row if there is none.
    pub(super) condition: Option<&'a str>,
}

impl View<'_> {
    /// The rows' MD5 as column `h` of a subquery `s`, after what else is asked of each row.
    ///
    /// `OFFSET '0'` keeps the planner from computing an MD5 once for each use. As a typed constant it still lets workers share
    /// the scan, which `OFFSET 0` would not (`limit_needed` in `optimizer/plan/planner.c` sees a cast there).
    pub(super) fn rows(&self, besides: &str, condition: Option<&str>) -> String {
        let digest = md5(&self.columns.iter().map(String::as_str).collect::<Vec<_>>(), self.text_as_it_is);
        let conditions: Vec<String> =
            [self.condition, condition].into_iter().flatten().map(|it| format!("({it})")).collect();
        let wheres = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        format!("(SELECT {besides}{digest} AS h FROM ONLY {} r{wheres} OFFSET '0') s", self.table.name)
    }

    /// Counts and digests what is looked at.
    pub(super) async fn measure(&self, session: &mut Session) -> Result<Tried<TableContent>> {
        if !self.table.populated {
            return Ok(Ok(TableContent { rows: 0, digest: "not populated".to_owned() }));
        }
        let file = format!("pg_relation_filenode('{}'::regclass)", self.table.oid);
        let sql = format!("SELECT count(*), {SUMS}, {file} FROM {}", self.rows("", None));
        let rows = match session.attempt(&sql).await? {
            Ok(rows) => rows,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let row = rows.first().ok_or_else(|| self.no_answer())?;
        // The scan's lock keeps the file in place; a snapshot sees nothing of what a rewrite left out.
        if row.text(3)? != Some(self.table.file.as_str()) {
            let why = "it was rewritten or truncated after the comparison began: compare again".to_owned();
            return Ok(Err(Refusal { why, denied: false }));
        }
        Ok(Ok(TableContent { rows: row.parse_required(0)?, digest: sums(row, 1)? }))
    }

    fn no_answer(&self) -> crate::Error {
        crate::Error::damaged(
            format!("the server gave no row for the digest of {}", self.table.name),
            "look for a proxy between asof and the server",
        )
    }
}

/// Two sums of a row, from column `at` on.
pub(super) fn sums(row: &Row, at: usize) -> Result<String> {
    Ok(format!("{}:{}", row.required(at)?, row.required(at + 1)?))
}

/// The text of a row constructor over columns of alias `r`.
pub(super) fn row_text(columns: &[&str]) -> String {
    let columns: Vec<String> = columns.iter().map(|column| format!("r.{column}")).collect();
    format!("ROW({})::text", columns.join(", "))
}

/// The MD5 of that text in UTF-8.
pub(super) fn md5(columns: &[&str], text_as_it_is: bool) -> String {
    let text = row_text(columns);
    if text_as_it_is { format!("md5({text})") } else { format!("md5(convert_to({text}, 'UTF8'))") }
}
