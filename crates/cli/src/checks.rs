//! `[[instances.NAME.checks]]`: what must be true of a database that was brought back, as a person writes it.
//!
//! A check has a name and exactly one predicate. Whatever is wrong with it is said with its name.

use std::time::Duration;

use asof_engine::logical::{CheckSubject, Expect, SqlCheck};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use toml::{Table, Value};

/// Everything that can stand in a check.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    database: Option<String>,
    sql: Option<String>,
    equals: Option<Value>,
    at_least: Option<Number>,
    at_most: Option<Number>,
    not_empty: Option<bool>,
    empty: Option<bool>,
    within: Option<String>,
    rows: Option<Table>,
    orphans: Option<Table>,
    dimensions: Option<Table>,
    newest: Option<Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    table: String,
    equals: Option<u64>,
    at_least: Option<Number>,
    at_most: Option<Number>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Orphans {
    table: String,
    column: String,
    references: String,
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dimensions {
    table: String,
    column: String,
    equals: u32,
    #[serde(default)]
    nulls: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Newest {
    table: String,
    column: String,
    within: String,
}

/// A number, with or without a fraction.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Number {
    Whole(i64),
    Fraction(f64),
}

impl From<Number> for f64 {
    fn from(number: Number) -> Self {
        match number {
            #[expect(clippy::cast_precision_loss, reason = "what is compared with it is no more exact")]
            Number::Whole(number) => number as Self,
            Number::Fraction(number) => number,
        }
    }
}

/// The checks of an instance.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SqlCheck>, D::Error> {
    let tables = Vec::<Table>::deserialize(deserializer)?;
    let mut checks: Vec<SqlCheck> = Vec::new();
    for table in tables {
        let name = table.get("name").and_then(Value::as_str).unwrap_or("without a name").to_owned();
        let check = check(table).map_err(|why| D::Error::custom(format!("check {name}: {why}")))?;
        if checks.iter().any(|known| known.name == check.name) {
            return Err(D::Error::custom(format!("there are two checks {name}")));
        }
        checks.push(check);
    }
    Ok(checks)
}

fn check(table: Table) -> Result<SqlCheck, String> {
    let written: Written = of_table(table)?;
    let (name, database) = (written.name.clone(), written.database.clone());
    Ok(SqlCheck { name, database, subject: subject(written)? })
}

fn subject(written: Written) -> Result<CheckSubject, String> {
    let Written { sql, equals, at_least, at_most, not_empty, empty, within, rows, orphans, dimensions, newest, .. } =
        written;
    let expectations: Vec<Expect> = [
        equals.map(text).transpose()?.map(Expect::Equals),
        at_least.map(|least| Expect::AtLeast(least.into())),
        at_most.map(|most| Expect::AtMost(most.into())),
        flag("not_empty", not_empty)?.map(|()| Expect::NotEmpty),
        flag("empty", empty)?.map(|()| Expect::Empty),
        within.as_deref().map(duration).transpose()?.map(Expect::Within),
    ]
    .into_iter()
    .flatten()
    .collect();
    let ready: Vec<CheckSubject> =
        [
            rows.map(rows_of).transpose()?,
            orphans.map(of_table).transpose()?.map(|Orphans { table, column, references, key }| {
                CheckSubject::Orphans { table, column, references, key }
            }),
            dimensions.map(of_table).transpose()?.map(|Dimensions { table, column, equals, nulls }| {
                CheckSubject::Dimensions { table, column, equals, nulls }
            }),
            newest.map(newest_of).transpose()?,
        ]
        .into_iter()
        .flatten()
        .collect();
    match (sql, only(expectations)?, only(ready)?) {
        (Some(sql), ..) if sql.trim().is_empty() => Err("its sql is empty".to_owned()),
        (Some(sql), Some(expect), None) => Ok(CheckSubject::Sql { sql, expect }),
        (None, None, Some(subject)) => Ok(subject),
        (Some(_), None, None) => Err(format!("sql needs one of {EXPECTATIONS}")),
        (None, Some(_), None) => Err("it has no sql".to_owned()),
        (None, None, None) => Err("it has neither sql nor one of rows, orphans, dimensions, newest".to_owned()),
        (_, _, Some(_)) => {
            Err("rows, orphans, dimensions and newest stand alone, without sql and its predicate".to_owned())
        }
    }
}

const EXPECTATIONS: &str = "equals, at_least, at_most, not_empty, empty, within";

/// One or none; two would have to be two checks.
fn only<T>(mut found: Vec<T>) -> Result<Option<T>, String> {
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => Err("it has two predicates; make two checks of it".to_owned()),
    }
}

fn rows_of(table: Table) -> Result<CheckSubject, String> {
    let Rows { table, equals, at_least, at_most } = of_table(table)?;
    let expectations = [
        equals.map(|rows| Expect::Equals(rows.to_string())),
        at_least.map(|least| Expect::AtLeast(least.into())),
        at_most.map(|most| Expect::AtMost(most.into())),
    ];
    let expect = only(expectations.into_iter().flatten().collect())?;
    let expect = expect.ok_or("rows needs one of equals, at_least, at_most")?;
    Ok(CheckSubject::Rows { table, expect })
}

fn newest_of(table: Table) -> Result<CheckSubject, String> {
    let Newest { table, column, within } = of_table(table)?;
    Ok(CheckSubject::Newest { table, column, within: duration(&within)? })
}

fn of_table<T: DeserializeOwned>(table: Table) -> Result<T, String> {
    table.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
}

fn flag(key: &str, value: Option<bool>) -> Result<Option<()>, String> {
    match value {
        None => Ok(None),
        Some(true) => Ok(Some(())),
        Some(false) => Err(format!("{key} can only be true")),
    }
}

fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Integer(number) => Ok(number.to_string()),
        other => Err(format!("equals is a text, not {other}")),
    }
}

/// `90s`, `15m`, `25h`, `7d`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("within is a time such as 90s, 15m, 25h or 7d, not {text}");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Holder {
        #[serde(deserialize_with = "deserialize")]
        checks: Vec<SqlCheck>,
    }

    fn parsed(text: &str) -> Result<Vec<SqlCheck>, String> {
        let text = format!("[[checks]]\nname = \"a\"\n{text}\n");
        toml::from_str::<Holder>(&text).map(|holder| holder.checks).map_err(|error| error.to_string())
    }

    #[test]
    fn every_predicate_is_read() {
        let check = |text: &str, expect: CheckSubject| {
            let checks = parsed(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(checks[0].subject, expect, "{text}");
        };
        let sql = |expect| CheckSubject::Sql { sql: "select 1".to_owned(), expect };
        check("sql = 'select 1'\nequals = '1'", sql(Expect::Equals("1".into())));
        check("sql = 'select 1'\nat_least = 1", sql(Expect::AtLeast(1.0)));
        check("sql = 'select 1'\nat_most = 1.5", sql(Expect::AtMost(1.5)));
        check("sql = 'select 1'\nnot_empty = true", sql(Expect::NotEmpty));
        check("sql = 'select 1'\nempty = true", sql(Expect::Empty));
        check("sql = 'select 1'\nwithin = '25h'", sql(Expect::Within(Duration::from_secs(90_000))));
        let table = || "t".to_owned();
        check(
            "rows = { table = 't', at_least = 9 }",
            CheckSubject::Rows { table: table(), expect: Expect::AtLeast(9.0) },
        );
        let dimensions = CheckSubject::Dimensions { table: table(), column: "c".into(), equals: 384, nulls: true };
        check("dimensions = { table = 't', column = 'c', equals = 384, nulls = true }", dimensions);
        let within = Duration::from_secs(900);
        let newest = CheckSubject::Newest { table: table(), column: "c".into(), within };
        check("newest = { table = 't', column = 'c', within = '15m' }", newest);
        let (references, key) = ("r".to_owned(), "k".to_owned());
        let orphans = CheckSubject::Orphans { table: table(), column: "c".into(), references, key };
        check("orphans = { table = 't', column = 'c', references = 'r', key = 'k' }", orphans);
    }

    #[test]
    fn what_is_wrong_with_a_check_is_said_with_its_name() {
        let check = |text: &str, says: &str| {
            let error = parsed(text).expect_err(text);
            assert!(error.contains("check a: ") && error.contains(says), "{text}: {error}");
        };
        check("sql = 'select 1'", "needs one of equals");
        check("sql = ' '\nempty = true", "its sql is empty");
        check("sql = 'select 1'\nat_least = 1\nat_most = 2", "two predicates");
        check("sql = 'select 1'\nempty = false", "can only be true");
        check("sql = 'select 1'\nwithin = '25 hours'", "25h");
        check("sql = 'select 1'\natleast = 1", "unknown field `atleast`");
        check("at_least = 1", "no sql");
        check("database = 'd'", "neither sql nor");
        check("rows = { table = 't' }", "needs one of");
        check("rows = { table = 't', at_least = 1, rows = 2 }", "unknown field `rows`");
        check("rows = { table = 't', at_least = 1 }\nat_most = 5", "stand alone");
        check("orphans = { table = 't', column = 'c' }", "missing field `references`");
        let twice = parsed("rows = { table = 't', at_least = 1 }\n[[checks]]\nname = 'a'\nsql = 'x'\nempty = true");
        assert!(twice.expect_err("is refused").contains("two checks a"));
    }
}
