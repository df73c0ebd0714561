//! What is asked of a dump, held against the database and the client before anything is dumped: `pg_dump` says that nothing matches
//! without saying what, and of a partitioned table it takes the definition alone.

use asof_postgres::client::escape_literal;

use super::dump::{Destination, DumpRequest, Plan};
use super::snapshot::Snapshot;
use super::to_file::refuse_unusable;
use crate::backup::refuse_taken_name;
use crate::error::{Error, Result};

/// The first `pg_dump` whose `--compress` takes more than a level (`main` in pg_dump.c, 15 and 16).
const COMPRESSES_BY_METHOD: u32 = 16;

impl Plan {
    /// Refuses what would stop the dump later. Nothing is written.
    ///
    /// # Errors
    /// `Refused`, with what stands in the way.
    pub async fn rehearse(&mut self, request: &DumpRequest, destination: &Destination) -> Result<()> {
        self.settle(request).await?;
        match destination {
            Destination::File(path) => refuse_unusable(&self.world, path).await,
            Destination::Repository(shelf) => refuse_taken_name(&shelf.journal().await?, &request.name),
        }
    }

    /// Refuses what no dump can be made of, and finds the partitions of what was chosen.
    pub(super) async fn settle(&mut self, request: &DumpRequest) -> Result<()> {
        let level = |text: &String| text.parse::<u8>().is_ok_and(|level| level <= 9);
        if let Some(compress) = request.compress.as_ref().filter(|text| !level(text))
            && self.client.major < COMPRESSES_BY_METHOD
        {
            let what =
                format!("pg_dump {} compresses with a level from 0 to 9, not with {compress}", self.client.major);
            return Err(Error::refused(what, "give a level, or name newer client programs with --bindir"));
        }
        let selection = &request.selection;
        for schema in &selection.schemas {
            let sql =
                format!("SELECT EXISTS (SELECT FROM pg_namespace n WHERE {})", Regex::of(schema).names("n.nspname"));
            self.require(&sql, "schema", schema).await?;
        }
        if selection.tables.is_empty() {
            return Ok(());
        }
        let (mut chosen, path) = (Vec::new(), search_path(&mut self.snapshot).await?);
        for table in &selection.tables {
            let condition = Regex::of(table).relations(&path);
            let sql = format!("SELECT EXISTS (SELECT FROM {RELATIONS} WHERE {condition})");
            self.require(&sql, "table, view or sequence", table).await?;
            chosen.push(condition);
        }
        self.partitions = partitions(&mut self.snapshot, &chosen.join(" OR ")).await?;
        Ok(())
    }

    async fn require(&mut self, sql: &str, kind: &str, pattern: &str) -> Result<()> {
        if self.snapshot.connection.query_one(sql).await?.required(0)? == "t" {
            return Ok(());
        }
        let what = format!("no {kind} of {} matches {pattern}", self.database.name);
        Err(Error::refused(
            what,
            "quote names with capitals as in SQL, and name the schema of what is not in search_path",
        ))
    }
}

/// The schemas in which a name alone is looked for, as `pg_dump` has them: our own connection looks into `pg_catalog` only.
async fn search_path(snapshot: &mut Snapshot) -> Result<String> {
    let sql = "SET LOCAL search_path TO DEFAULT; SELECT pg_catalog.current_schemas(true)";
    let path = format!("{}::name[]", escape_literal(snapshot.connection.query_one(sql).await?.required(0)?));
    snapshot.connection.execute("SET LOCAL search_path = pg_catalog").await?;
    Ok(path)
}

/// What `--table` may name (`expand_table_name_patterns` in pg_dump.c, 13 to 18).
const RELATIONS: &str =
    "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND c.relkind IN ('r', 'S', 'v', 'm', 'f', 'p')";

/// Partitions of tables, and theirs, by the names that a dump has for them. `pg_dump` before 16 has no option for it
/// (`--table-and-children`), and that option takes children of every kind.
async fn partitions(snapshot: &mut Snapshot, condition: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let sql = format!(
        "WITH RECURSIVE p(oid) AS (SELECT i.inhrelid FROM {RELATIONS} JOIN pg_inherits i ON i.inhparent = c.oid \
           WHERE c.relkind = 'p' AND ({condition}) \
           UNION SELECT i.inhrelid FROM p JOIN pg_class c ON c.oid = p.oid AND c.relkind = 'p' JOIN pg_inherits i ON i.inhparent = p.oid) \
         SELECT encode(convert_to(n.nspname::text, getdatabaseencoding()), 'hex'), \
           encode(convert_to(c.relname::text, getdatabaseencoding()), 'hex') \
         FROM p JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY p.oid"
    );
    let rows = snapshot.connection.query(&sql).await?;
    rows.iter().map(|row| Ok((super::snapshot::from_hex(row, 0)?, super::snapshot::from_hex(row, 1)?))).collect()
}

/// A pattern of `pg_dump` as regular expressions of the server, as `patternToSQLRegex` in string_utils.c (14 to 18) makes them.
#[derive(Debug, PartialEq, Eq)]
struct Regex {
    schema: Option<String>,
    name: String,
}

impl Regex {
    fn of(pattern: &str) -> Self {
        let (mut parts, mut quoted, mut rest) = (vec![String::new()], false, pattern.chars().peekable());
        while let Some(c) = rest.next() {
            let part = parts.last_mut().expect("there is always a part");
            match c {
                '"' if quoted && rest.next_if_eq(&'"').is_some() => part.push('"'),
                '"' => quoted = !quoted,
                '*' if !quoted => part.push_str(".*"),
                '?' if !quoted => part.push('.'),
                '.' if !quoted => parts.push(String::new()),
                '$' => part.push_str("\\$"),
                _ if quoted && "|*+?()[]{}.^\\".contains(c) => part.extend(['\\', c]),
                '[' if rest.peek() == Some(&']') => part.push_str("\\["),
                _ if !quoted => part.push(c.to_ascii_lowercase()),
                _ => part.push(c),
            }
        }
        let name = parts.pop().expect("there is always a part");
        Self { schema: parts.pop(), name }
    }

    /// The condition that a column has such a name.
    fn names(&self, column: &str) -> String {
        matches(column, &self.name)
    }

    /// The condition that a relation is meant; without a schema only one that the name alone finds is.
    fn relations(&self, path: &str) -> String {
        let found = match &self.schema {
            Some(schema) => matches("n.nspname", schema),
            None => format!(
                "c.oid = (SELECT t.oid FROM pg_class t JOIN pg_namespace s ON s.oid = t.relnamespace \
                 WHERE t.relname = c.relname AND s.nspname = ANY ({path}) ORDER BY array_position({path}, s.nspname) LIMIT 1)"
            ),
        };
        format!("({} AND {found})", self.names("c.relname"))
    }
}

fn matches(column: &str, regex: &str) -> String {
    format!("{column} ~ {} COLLATE pg_catalog.default", escape_literal(&format!("^({regex})$")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_the_expression_that_pg_dump_makes_of_it() {
        let check = |pattern: &str, schema: Option<&str>, name: &str| {
            let expected = Regex { schema: schema.map(str::to_owned), name: name.to_owned() };
            assert_eq!(Regex::of(pattern), expected, "{pattern}");
        };
        check("Orders", None, "orders");
        check("a*.\"B.*\"\"$\"", Some("a.*"), "B\\.\\*\"\\$");
        check("t?[0-9]|x", None, "t.[0-9]|x");
        check("db.s.t[]", Some("s"), "t\\[]");
    }
}
