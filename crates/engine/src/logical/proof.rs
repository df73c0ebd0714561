//! What is looked at in a database that was just loaded, whether anybody wrote checks for it or not.

use std::collections::{BTreeMap, BTreeSet};

use asof_postgres::client::{Connection, Row, escape_identifier};

use super::record::TableRecord;
use super::verify::{NAMED, by_name};
use crate::error::Result;
use crate::runtime::SCRATCH_ROLE;

/// Whether something holds, and what was found.
pub(super) type Found = (bool, String);

/// Holds the rows of every table against those of the dump. `tables` of one name are one.
pub(super) async fn rows(connection: &mut Connection, tables: &[TableRecord]) -> Result<Found> {
    let expected = by_name(tables);
    let (mut total, mut compared, mut differ) = (0, 0, Vec::new());
    for ((schema, name), rows) in &expected {
        let Some(rows) = rows else { continue };
        // Scripts older than 10.3 do not say the schema.
        let schema = if schema.is_empty() { "public" } else { schema };
        let sql = format!("SELECT count(*) FROM ONLY {}.{}", escape_identifier(schema), escape_identifier(name));
        let found: u64 = connection.query_one(&sql).await?.parse_required(0)?;
        (total, compared) = (total + found, compared + 1);
        if found != *rows {
            differ.push(format!("{schema}.{name} has {found} rows, the dump {rows}"));
        }
    }
    let uncounted = expected.len() - compared;
    let uncounted = match uncounted {
        0 => String::new(),
        some => format!("; {some} more tables are INSERTs, whose rows nobody counted"),
    };
    Ok(match differ.len() {
        // They may be INSERTs, which nobody counts.
        0 if compared == 0 => (true, "not counted: the dump has no rows that could be".to_owned()),
        0 => (true, format!("{total} rows in {compared} tables, as many as in the dump{uncounted}")),
        count => {
            differ.truncate(NAMED);
            (false, format!("{count} of {compared} tables differ: {}", differ.join("; ")))
        }
    })
}

/// Foreign keys are validated by the load itself, unless the dump says NOT VALID.
pub(super) async fn foreign_keys(connection: &mut Connection) -> Result<Found> {
    let sql = "SELECT count(*), count(*) FILTER (WHERE NOT convalidated) FROM pg_constraint WHERE contype = 'f'";
    let row = connection.query_one(sql).await?;
    let (all, not_valid): (u64, u64) = (row.parse_required(0)?, row.parse_required(1)?);
    Ok(match not_valid {
        0 => (true, format!("{all}, all validated")),
        some => (true, format!("{all}, {some} of them not validated, as the dump says")),
    })
}

/// Indexes that queries cannot use. Those of partitioned tables hold nothing, and are as incomplete as the dump says.
pub(super) async fn indexes(connection: &mut Connection) -> Result<Found> {
    let sql = "SELECT count(*), count(*) FILTER (WHERE NOT (indisvalid AND indisready) AND c.relkind = 'i'), \
               string_agg(indexrelid::regclass::text, ', ') FILTER (WHERE NOT (indisvalid AND indisready) AND c.relkind = 'i') \
               FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname !~ '^pg_'";
    let row = connection.query_one(sql).await?;
    let (all, invalid): (u64, u64) = (row.parse_required(0)?, row.parse_required(1)?);
    Ok(match invalid {
        0 => (true, format!("{all}, all valid")),
        some => (false, format!("{some} of {all} are not valid: {}", row.text(2)?.unwrap_or_default())),
    })
}

/// Sequences that belong to a column and would give a value that is there already. One that may begin again is left out.
pub(super) async fn sequences(connection: &mut Connection) -> Result<Found> {
    let sql = "SELECT s.seqrelid::regclass, d.refobjid::regclass, a.attname, s.seqincrement > 0 \
               FROM pg_sequence s JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.seqrelid \
                 AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0 \
               JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
               JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p') \
               WHERE NOT s.seqcycle AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype)";
    let owned = connection.query(sql).await?;
    let mut behind = Vec::new();
    for row in &owned {
        behind.extend(behind_its_column(connection, row).await?);
    }
    Ok(match behind.is_empty() {
        true => (true, format!("{} belong to columns, none is behind", owned.len())),
        false => (false, behind.join("; ")),
    })
}

async fn behind_its_column(connection: &mut Connection, row: &Row) -> Result<Option<String>> {
    let (sequence, table, column) = (row.required(0)?, row.required(1)?, escape_identifier(row.required(2)?));
    let (furthest, beyond) = if row.required(3)? == "t" { ("max", ">") } else { ("min", "<") };
    let sql = format!(
        "SELECT m, last_value FROM {sequence}, (SELECT {furthest}({column}) AS m FROM {table}) t \
         WHERE m {beyond} last_value OR (m = last_value AND NOT is_called)"
    );
    let found = connection.query(&sql).await?;
    Ok(match found.first() {
        None => None,
        Some(found) => Some(format!(
            "{sequence} stands at {}, and {table} has {} in {column} already",
            found.required(1)?,
            found.required(0)?
        )),
    })
}

/// Extensions that the dump has; another version is what this installation makes, and is said.
pub(super) async fn extensions(
    connection: &mut Connection,
    recorded: &BTreeMap<String, String>,
    named: &BTreeSet<String>,
) -> Result<Found> {
    let rows = connection.query("SELECT extname, extversion FROM pg_extension").await?;
    let found: BTreeMap<String, String> =
        rows.iter().map(|row| Ok((row.required(0)?.to_owned(), row.required(1)?.to_owned()))).collect::<Result<_>>()?;
    let missing: Vec<&str> = named.iter().filter(|name| !found.contains_key(*name)).map(String::as_str).collect();
    if !missing.is_empty() {
        return Ok((false, format!("{} missing", missing.join(", "))));
    }
    let said = found.iter().map(|(name, version)| match recorded.get(name).filter(|was| *was != version) {
        Some(was) => format!("{name} {version} (the dump: {was})"),
        None => format!("{name} {version}"),
    });
    Ok((true, said.collect::<Vec<_>>().join(", ")))
}

/// The statements that make what a load needs besides the dump: roles that can do nothing by themselves. Some objects must be
/// owned by a superuser.
pub(super) fn role_statements(roles: &BTreeSet<String>, superusers: &BTreeSet<String>) -> String {
    let role = |name: &String| {
        let rights = if superusers.contains(name) { "NOLOGIN SUPERUSER" } else { "NOLOGIN" };
        format!("CREATE ROLE {} {rights}", escape_identifier(name))
    };
    // The dump may name the superuser of the throw-away server itself.
    roles.iter().filter(|name| *name != SCRATCH_ROLE).map(role).collect::<Vec<_>>().join(";\n")
}
