//! Checks that an instance's operator wrote: what must be true of a database that was brought back.
//!
//! Each runs in a session of its own, which only reads and has a time limit. Its value is recorded whether it passes or not: what
//! failed is found by the number that was seen.

use std::time::Duration;

use asof_postgres::client::{Connection, escape_identifier};
use asof_world::Timestamp;
use serde::Serialize;

use super::verify::shortened;
use crate::error::{Error, Result, in_one_line};
use crate::server::Server;

/// How long one check may take.
const LIMIT: Duration = Duration::from_secs(600);
/// More of a value is not shown.
const VALUE_LEN: usize = 200;

/// A check.
#[derive(Clone, Debug, PartialEq)]
pub struct SqlCheck {
    /// Its name.
    pub name: String,
    /// Only dumps of this database are checked by it.
    pub database: Option<String>,
    /// What is looked at.
    pub subject: CheckSubject,
}

/// What a check looks at. Tables are named as SQL names them.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckSubject {
    /// What a query returns.
    Sql {
        /// The query.
        sql: String,
        /// What must hold of it.
        expect: Expect,
    },
    /// How many rows a table has.
    Rows {
        /// The table.
        table: String,
        /// What must hold of the number.
        expect: Expect,
    },
    /// Rows that refer to nothing: there must be none.
    Orphans {
        /// The table whose rows refer.
        table: String,
        /// By which column; NULL refers to nothing and is no orphan.
        column: String,
        /// The table that is referred to.
        references: String,
        /// By which of its columns.
        key: String,
    },
    /// Every vector of a column (of pgvector, or an array) has this many elements.
    Dimensions {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// How many.
        equals: u32,
        /// NULL is allowed.
        nulls: bool,
    },
    /// The newest time in a column is not older than this, seen from the moment of the dump.
    Newest {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// How old it may be.
        within: Duration,
    },
}

/// What must hold of the first column of the first row, or of the number of rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Expect {
    /// The value is this text.
    Equals(String),
    /// The value is a number, at least this.
    AtLeast(f64),
    /// The value is a number, at most this.
    AtMost(f64),
    /// There are rows.
    NotEmpty,
    /// There are no rows.
    Empty,
    /// The value is a time not older than this, seen from the moment of the dump.
    Within(Duration),
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// The check.
    pub name: String,
    /// Whether it passed.
    pub ok: bool,
    /// What was seen, or why nothing could be.
    pub value: String,
    /// What must hold.
    pub expected: String,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// Runs one check. `made` is the moment of the dump.
pub(super) async fn run(server: &Server, check: &SqlCheck, made: Option<Timestamp>) -> CheckResult {
    let seen = match session(server).await {
        Ok(mut connection) => {
            let seen = look(&mut connection, &check.subject, made).await;
            connection.close().await;
            seen
        }
        Err(error) => Err(error),
    };
    let (ok, value) = match seen {
        Ok(seen) => seen,
        Err(error) => (false, in_one_line(&error)),
    };
    CheckResult {
        name: check.name.clone(),
        ok,
        value: shortened(&value, VALUE_LEN),
        expected: expected(&check.subject),
        elapsed_ms: 0,
    }
}

/// A session that cannot write, in which names mean what they mean to an application.
async fn session(server: &Server) -> Result<Connection> {
    let mut connection = server.connect().await?;
    let limit = LIMIT.as_millis();
    let setup = format!(
        "RESET search_path; SET default_transaction_read_only = on; SET statement_timeout = {limit}; RESET role"
    );
    connection.execute(&setup).await?;
    Ok(connection)
}

type Seen = (bool, String);

async fn look(connection: &mut Connection, subject: &CheckSubject, made: Option<Timestamp>) -> Result<Seen> {
    match subject {
        CheckSubject::Sql { sql, expect } => ask(connection, sql, expect, made).await,
        CheckSubject::Rows { table, expect } => {
            let table = resolved(connection, table).await?;
            ask(connection, &format!("SELECT pg_catalog.count(*) FROM {table}"), expect, made).await
        }
        CheckSubject::Orphans { table, column, references, key } => {
            let (table, references) = (resolved(connection, table).await?, resolved(connection, references).await?);
            let (column, key) = (escape_identifier(column), escape_identifier(key));
            let sql = format!(
                "SELECT pg_catalog.count(*) FROM {table} c WHERE c.{column} IS NOT NULL \
                 AND NOT EXISTS (SELECT FROM {references} r WHERE r.{key} = c.{column})"
            );
            ask(connection, &sql, &Expect::Equals("0".to_owned()), made).await
        }
        CheckSubject::Dimensions { table, column, equals, nulls } => {
            dimensions(connection, table, column, *equals, *nulls).await
        }
        CheckSubject::Newest { table, column, within } => {
            let (table, column) = (resolved(connection, table).await?, escape_identifier(column));
            let sql = format!("SELECT pg_catalog.max({column}) FROM {table}");
            ask(connection, &sql, &Expect::Within(*within), made).await
        }
    }
}

async fn ask(connection: &mut Connection, sql: &str, expect: &Expect, made: Option<Timestamp>) -> Result<Seen> {
    // One statement only: another before it could take the limits of the session away.
    let rows = connection.query_params(sql, &[]).await?;
    let first = match rows.first() {
        Some(row) if !row.columns().is_empty() => row.text(0)?.map(str::to_owned),
        _ => None,
    };
    if let Expect::Within(within) = expect {
        return age(connection, first, *within, made).await;
    }
    Ok(judged(expect, rows.len(), first.as_deref()))
}

/// What an answer means, without a server.
fn judged(expect: &Expect, rows: usize, first: Option<&str>) -> Seen {
    let value = match (rows, first) {
        (0, _) => "no rows".to_owned(),
        (_, None) => "NULL".to_owned(),
        (_, Some(value)) => value.to_owned(),
    };
    let number = first.and_then(|value| value.trim().parse::<f64>().ok());
    let ok = match expect {
        Expect::Equals(wanted) => first == Some(wanted),
        Expect::AtLeast(least) => number.is_some_and(|number| number >= *least),
        Expect::AtMost(most) => number.is_some_and(|number| number <= *most),
        Expect::NotEmpty => return (rows > 0, format!("{rows} rows")),
        Expect::Empty if rows == 0 => true,
        Expect::Empty => return (false, format!("{rows} rows, the first {value}")),
        Expect::Within(_) => false,
    };
    (ok, value)
}

/// Whether a time is young enough; the server reads it, because it knows its time zone.
async fn age(
    connection: &mut Connection,
    value: Option<String>,
    within: Duration,
    made: Option<Timestamp>,
) -> Result<Seen> {
    let Some(value) = value else { return Ok((false, "no time at all".to_owned())) };
    let Some(made) = made else {
        return Ok((false, format!("{value}, and nobody recorded when the dump was taken")));
    };
    let sql = "SELECT (extract(epoch FROM $1::timestamptz) * 1000000)::bigint";
    let rows = connection.query_params(sql, &[Some(&value)]).await?;
    let micros: Option<i64> = rows.first().map(|row| row.parse(0)).transpose()?.flatten();
    let Some(micros) = micros else { return Ok((false, format!("{value} is no time"))) };
    let older = made.0.saturating_sub(micros);
    let limit = i64::try_from(within.as_micros()).unwrap_or(i64::MAX);
    let seconds = older.div_euclid(1_000_000);
    let how = if older < 0 { "after the dump began".to_owned() } else { format!("{seconds} s before the dump") };
    Ok((older <= limit, format!("{value}, {how}")))
}

/// A table by the name that a person gave it, as SQL must quote it.
async fn resolved(connection: &mut Connection, table: &str) -> Result<String> {
    let rows = connection.query_params("SELECT to_regclass($1)::text", &[Some(table)]).await?;
    let found = rows.first().map(|row| row.text(0)).transpose()?.flatten().map(str::to_owned);
    found.ok_or_else(|| Error::refused(format!("there is no table {table}"), "name it as SQL does"))
}

/// `array_length` refuses a vector of pgvector, and `vector_dims` refuses an array: the type decides.
async fn dimensions(connection: &mut Connection, table: &str, column: &str, equals: u32, nulls: bool) -> Result<Seen> {
    let table = resolved(connection, table).await?;
    let sql = "SELECT t.typname, t.typcategory, quote_ident(n.nspname), format_type(t.oid, NULL) FROM pg_attribute a \
               JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = t.typnamespace \
               WHERE a.attrelid = $1::regclass AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped";
    let rows = connection.query_params(sql, &[Some(&table), Some(column)]).await?;
    let Some(row) = rows.first() else {
        return Ok((false, format!("{table} has no column {column}")));
    };
    let quoted = escape_identifier(column);
    let counted = match (row.required(0)?, row.required(1)?) {
        ("vector" | "halfvec", _) => format!("{}.vector_dims({quoted})", row.required(2)?),
        // An empty array has no length.
        (_, "A") => format!("coalesce(pg_catalog.array_length({quoted}, 1), 0)"),
        _ => return Ok((false, format!("{table}.{column} is of type {}, no vector and no array", row.required(3)?))),
    };
    let sql = format!(
        "SELECT count(*), count(*) FILTER (WHERE {quoted} IS NULL), \
         count(*) FILTER (WHERE {quoted} IS NOT NULL AND {counted} <> {equals}), \
         min({counted}) FILTER (WHERE {quoted} IS NOT NULL), max({counted}) FILTER (WHERE {quoted} IS NOT NULL) FROM {table}"
    );
    let row = connection.query_one(&sql).await?;
    let (all, empty, wrong): (u64, u64, u64) = (row.parse_required(0)?, row.parse_required(1)?, row.parse_required(2)?);
    let range = match (row.text(3)?, row.text(4)?) {
        (Some(least), Some(most)) if least == most => format!("{least} dimensions"),
        (Some(least), Some(most)) => format!("{least} to {most} dimensions"),
        _ => "no vectors".to_owned(),
    };
    let ok = wrong == 0 && (nulls || empty == 0);
    Ok((ok, format!("{range} in {all} rows, {wrong} with another number, {empty} NULL")))
}

/// What must hold, in words.
fn expected(subject: &CheckSubject) -> String {
    let of = |expect: &Expect| match expect {
        Expect::Equals(value) => format!("= {value}"),
        Expect::AtLeast(least) => format!(">= {least}"),
        Expect::AtMost(most) => format!("<= {most}"),
        Expect::NotEmpty => "rows".to_owned(),
        Expect::Empty => "no rows".to_owned(),
        Expect::Within(within) => format!("at most {} s before the dump", within.as_secs()),
    };
    match subject {
        CheckSubject::Sql { expect, .. } => of(expect),
        CheckSubject::Rows { expect, table } => format!("rows of {table} {}", of(expect)),
        CheckSubject::Orphans { table, column, references, key } => {
            format!("every {table}.{column} is a {references}.{key}")
        }
        CheckSubject::Dimensions { table, column, equals, nulls } => {
            let nulls = if *nulls { ", or NULL" } else { "" };
            format!("{equals} dimensions in {table}.{column}{nulls}")
        }
        CheckSubject::Newest { within, table, column } => {
            format!("newest {table}.{column} {}", of(&Expect::Within(*within)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_its_first_value_or_its_number_of_rows() {
        let check = |expect: Expect, rows, first: Option<&str>, ok, value: &str| {
            assert_eq!(judged(&expect, rows, first), (ok, value.to_owned()), "{expect:?}");
        };
        check(Expect::Equals("3".into()), 1, Some("3"), true, "3");
        check(Expect::Equals("3".into()), 1, None, false, "NULL");
        check(Expect::AtLeast(3.0), 1, Some("2.9"), false, "2.9");
        check(Expect::AtLeast(3.0), 1, Some("3"), true, "3");
        check(Expect::AtMost(3.0), 1, Some("x"), false, "x");
        check(Expect::AtMost(3.0), 0, None, false, "no rows");
        check(Expect::NotEmpty, 2, Some("a"), true, "2 rows");
        check(Expect::NotEmpty, 0, None, false, "0 rows");
        check(Expect::Empty, 0, None, true, "no rows");
        check(Expect::Empty, 2, Some("a"), false, "2 rows, the first a");
    }
}
