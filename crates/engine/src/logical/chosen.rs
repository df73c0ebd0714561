//! Some tables of a dump, and what of them the target has already. `pg_restore --table` brings the bare table and fails where
//! there is one; here a table comes with all that belongs to it, and for one that exists somebody has to say what is to happen.

use std::collections::{BTreeMap, HashSet};

use asof_postgres::archive::select::{LoosePartition, closure_of_tables};
use asof_postgres::archive::toc::{Entry, Toc};
use asof_postgres::client::{Connection, escape_identifier, escape_literal};
use asof_postgres::pattern::{Pattern, PatternError};

use super::checks::Finding;
use super::named::Named;
use crate::error::{Error, Result};

/// What happens to a table that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The load is refused when it has rows.
    Fail,
    /// Rows whose key exists stay as they are; the others are put back.
    Skip,
    /// Its rows are replaced by those of the dump.
    Replace,
}

/// The tables that were chosen.
pub(super) struct Chosen {
    /// Entries of the tables that the target does not have, with all that belongs to them.
    pub(super) new: HashSet<i32>,
    /// Tables that it has, and the entry of their rows.
    pub(super) existing: Vec<Target>,
    /// What is done behind the rows: partitions are attached to parents that are there, and foreign keys made to tables that are.
    pub(super) behind: Vec<String>,
    /// What was found on the way.
    pub(super) findings: Vec<Finding>,
}

/// A table that exists.
pub(super) struct Target {
    pub(super) quoted: String,
    /// The entry of its rows.
    pub(super) data: i32,
    /// `COPY … FROM stdin;` as the archive has it.
    pub(super) copy: Vec<u8>,
    /// What stands behind the name of the table in it: the columns.
    pub(super) columns: String,
    has_rows: bool,
    has_key: bool,
}

/// A name as SQL has it.
fn quoted(entry: &Entry) -> String {
    let name = escape_identifier(&entry.tag.to_lossy());
    match &entry.namespace {
        Some(schema) if !schema.as_bytes().is_empty() => format!("{}.{name}", escape_identifier(&schema.to_lossy())),
        _ => name,
    }
}

/// Chooses, and asks the target what it has. `inside` is a connection to it; a database that is yet to be made has nothing.
pub(super) async fn choose(
    toc: &Toc,
    patterns: &[String],
    conflict: Conflict,
    mut inside: Option<&mut Connection>,
) -> Result<Chosen> {
    let patterns: Vec<Pattern> = patterns.iter().map(|text| parsed(text)).collect::<Result<_>>()?;
    let rows_only = has_rows_only(toc);
    let (tables, unmatched) = if rows_only { rows_of(toc, &patterns) } else { tables_of(toc, &patterns) };
    if let Some(unmatched) = unmatched.first() {
        let what = format!("no table of the dump matches {unmatched}");
        let known = toc.entries.iter().filter(|entry| if rows_only { entry.is_table_data() } else { is_table(entry) });
        let has = known.map(quoted).collect::<Named>().list().unwrap_or_else(|| "no tables".to_owned());
        return Err(Error::refused(what, format!("it has {has}; quote names with capitals as in SQL")));
    }
    let mut chosen = Chosen { new: HashSet::new(), existing: Vec::new(), behind: Vec::new(), findings: Vec::new() };
    let (mut absent, mut names) = (Vec::new(), Vec::new());
    for table in tables {
        match target(toc, table, inside.as_deref_mut()).await? {
            Some(target) => chosen.existing.extend(target),
            None if rows_only => {
                let what = format!("the dump has rows only, and there is no table {} for them", quoted(table));
                return Err(Error::refused(what, "load its definition first, from a dump that has it, with --into"));
            }
            None => absent.push(Pattern::of_entry(table)),
        }
        names.push(quoted(table));
    }
    chosen.take_new(toc, &absent, inside).await?;
    chosen.findings.push(Finding { what: "tables", result: Ok(names.join(", ")) });
    chosen.findings.push(chosen.judge(conflict));
    Ok(chosen)
}

fn is_table(entry: &Entry) -> bool {
    entry.desc.as_bytes() == b"TABLE"
}

/// Whether a dump has rows and none of the tables that they belong to (`pg_dump --data-only`).
pub(super) fn has_rows_only(toc: &Toc) -> bool {
    !toc.entries.iter().any(is_table) && toc.entries.iter().any(Entry::is_table_data)
}

/// Tables that match, and patterns that match none.
fn tables_of<'a>(toc: &'a Toc, patterns: &[Pattern]) -> (Vec<&'a Entry>, Vec<Pattern>) {
    let selection = closure_of_tables(toc, patterns);
    (selection.entries.into_iter().filter(|entry| is_table(entry)).collect(), selection.unmatched)
}

/// The same of a dump that has the rows alone.
fn rows_of<'a>(toc: &'a Toc, patterns: &[Pattern]) -> (Vec<&'a Entry>, Vec<Pattern>) {
    let rows: Vec<&Entry> = toc.entries.iter().filter(|entry| entry.is_table_data()).collect();
    let unmatched = patterns.iter().filter(|pattern| !rows.iter().any(|entry| pattern.takes(entry))).cloned();
    let chosen = rows.iter().filter(|entry| patterns.iter().any(|pattern| pattern.takes(entry))).copied();
    (chosen.collect(), unmatched.collect())
}

fn parsed(text: &str) -> Result<Pattern> {
    text.parse().map_err(|error: PatternError| Error::refused(error.to_string(), "write table, or schema.table"))
}

/// The table as the target has it; `Some(None)` for one that has no rows of its own, as a partitioned one.
async fn target(toc: &Toc, table: &Entry, inside: Option<&mut Connection>) -> Result<Option<Option<Target>>> {
    let (Some(connection), name) = (inside, quoted(table)) else { return Ok(None) };
    let known = format!("SELECT to_regclass({}) IS NOT NULL", escape_literal(&name));
    if connection.query_one(&known).await?.required(0)? != "t" {
        return Ok(None);
    }
    let data = toc.entries.iter().find(|entry| entry.is_table_data() && entry.object_oid == table.object_oid);
    let Some(data) = data else { return Ok(Some(None)) };
    let literal = escape_literal(&name);
    let sql = format!(
        "SELECT EXISTS (SELECT FROM {name}), EXISTS (SELECT FROM pg_index WHERE indrelid = {literal}::regclass \
         AND indisunique AND indpred IS NULL AND indisvalid)"
    );
    let row = connection.query_one(&sql).await?;
    let copy = data.copy.as_ref().map_or_else(Vec::new, |copy| copy.as_bytes().to_vec());
    if copy.is_empty() {
        let what = format!("the rows of {name} are INSERTs in this dump, and cannot be put into a table that exists");
        return Err(Error::refused(what, "load the dump into a --new-database, and copy the rows from there"));
    }
    let columns = columns_of(&String::from_utf8_lossy(&copy)).unwrap_or_default();
    let (has_rows, has_key) = (row.required(0)? == "t", row.required(1)? == "t");
    Ok(Some(Some(Target { quoted: name, data: data.dump_id, copy, columns, has_rows, has_key })))
}

/// `(a, b)` of `COPY public.t (a, b) FROM stdin;`. Names of tables may hold anything, so it is looked for from the end.
fn columns_of(copy: &str) -> Option<String> {
    let head = copy.trim_end().strip_suffix(" FROM stdin;")?;
    let (mut quoted, mut start) = (false, None);
    for (at, c) in head.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '(' if !quoted => start = start.or(Some(at)),
            _ => {}
        }
    }
    start.map(|at| head[at..].to_owned())
}

impl Chosen {
    /// Whether the target had none of the tables.
    pub(super) fn is_all_new(&self) -> bool {
        self.existing.is_empty()
    }

    /// Whether an entry of the dump is made, or its rows go into a table that exists.
    pub(super) fn loads(&self, entry: &Entry) -> bool {
        self.new.contains(&entry.dump_id) || self.existing.iter().any(|target| target.data == entry.dump_id)
    }

    /// The entries of tables that are made anew, and of what they need and the target lacks.
    async fn take_new(&mut self, toc: &Toc, absent: &[Pattern], mut inside: Option<&mut Connection>) -> Result<()> {
        if absent.is_empty() {
            return Ok(());
        }
        let selection = closure_of_tables(toc, absent);
        self.new = selection.entries.iter().map(|entry| entry.dump_id).collect();
        for needed in &selection.needs {
            if !is_there(needed, inside.as_deref_mut()).await? {
                self.new.insert(needed.dump_id);
            }
        }
        for loose in &selection.loose {
            let there = is_there(loose.parent, inside.as_deref_mut()).await?;
            self.attach(loose, there);
        }
        let by_id: BTreeMap<i32, &Entry> = toc.entries.iter().map(|entry| (entry.dump_id, entry)).collect();
        for cut in &selection.cut {
            let others = cut.entry.dependencies.iter().filter_map(|id| by_id.get(id));
            let others: Vec<&&Entry> = others
                .filter(|entry| entry.desc.as_bytes() == b"TABLE" && !self.new.contains(&entry.dump_id))
                .collect();
            let mut there = !others.is_empty();
            for other in others {
                there &= is_there(other, inside.as_deref_mut()).await?;
            }
            if there {
                self.behind.push(cut.statement.clone());
            } else {
                let left = cut.statement.split_whitespace().collect::<Vec<_>>().join(" ");
                self.findings.push(Finding {
                    what: "foreign key",
                    result: Ok(format!("not brought back, for want of its other end: {left}")),
                });
            }
        }
        Ok(())
    }

    /// A partition is attached when its indexes are there: the server takes those that fit for parts of its parent's, and makes the
    /// others (`AttachPartitionEnsureIndexes` in tablecmds.c).
    fn attach(&mut self, loose: &LoosePartition<'_>, parent_is_there: bool) {
        match (&loose.attach, parent_is_there) {
            (Some(statement), true) => self.behind.push(statement.clone()),
            (None, true) => self.new.retain(|id| loose.indexes.iter().all(|index| index.dump_id != *id)),
            (attach, false) => {
                let (partition, parent) = (quoted(loose.partition), quoted(loose.parent));
                let found = match attach {
                    Some(_) => {
                        format!("{partition} becomes a table of its own: {parent}, which it is a part of, is not there")
                    }
                    None => format!("{partition} brings {parent}, which it is a part of, without its other partitions"),
                };
                self.findings.push(Finding::ok("partition", found));
            }
        }
    }

    /// Whether what exists may be touched.
    fn judge(&self, conflict: Conflict) -> Finding {
        let names =
            |targets: Vec<&Target>| targets.iter().map(|target| target.quoted.clone()).collect::<Vec<_>>().join(", ");
        let with_rows: Vec<&Target> = self.existing.iter().filter(|target| target.has_rows).collect();
        let keyless: Vec<&Target> = self.existing.iter().filter(|target| !target.has_key && target.has_rows).collect();
        let result = match conflict {
            _ if self.existing.is_empty() => Ok("none of them exists".to_owned()),
            Conflict::Fail if !with_rows.is_empty() => Err(format!(
                "{} have rows already: --on-conflict skip puts missing rows back, --on-conflict replace takes the dump's",
                names(with_rows)
            )),
            Conflict::Skip if !keyless.is_empty() => {
                Err(format!("{} have no unique key by which rows could be told apart", names(keyless)))
            }
            Conflict::Fail => Ok(format!("{} exist and are empty", names(self.existing.iter().collect()))),
            Conflict::Skip => Ok(format!("rows that {} miss are put back", names(self.existing.iter().collect()))),
            Conflict::Replace => Ok(format!("the rows of {} are replaced", names(self.existing.iter().collect()))),
        };
        Finding { what: "conflicts", result }
    }
}

/// Whether the target has something already that a table needs.
async fn is_there(entry: &Entry, inside: Option<&mut Connection>) -> Result<bool> {
    let Some(connection) = inside else { return Ok(false) };
    let (name, tag) = (quoted(entry), entry.tag.to_lossy());
    let schema = entry.namespace.as_ref().map_or_else(String::new, |schema| escape_identifier(&schema.to_lossy()));
    let known = |sql: &str, name: &str| format!("SELECT {sql}({}) IS NOT NULL", escape_literal(name));
    let listed = |table: &str, column: &str| {
        format!("SELECT EXISTS (SELECT FROM {table} WHERE {column} = {})", escape_literal(&tag))
    };
    let sql = match entry.desc.as_bytes() {
        b"TABLE" | b"VIEW" | b"SEQUENCE" | b"FOREIGN TABLE" | b"MATERIALIZED VIEW" => known("to_regclass", &name),
        b"TYPE" | b"DOMAIN" => known("to_regtype", &name),
        b"FUNCTION" | b"PROCEDURE" | b"AGGREGATE" => known("to_regprocedure", &format!("{schema}.{tag}")),
        b"SCHEMA" => listed("pg_namespace", "nspname"),
        b"EXTENSION" => listed("pg_extension", "extname"),
        b"COLLATION" => listed("pg_collation", "collname"),
        b"ACCESS METHOD" => listed("pg_am", "amname"),
        // What is not known by name is made, and fails if it is there.
        _ => return Ok(false),
    };
    Ok(connection.query_one(&sql).await?.required(0)? == "t")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_a_copy_are_found_behind_any_name() {
        let check = |copy: &str, expect: Option<&str>| assert_eq!(columns_of(copy).as_deref(), expect, "{copy}");
        check("COPY public.t (a, b) FROM stdin;\n", Some("(a, b)"));
        check("COPY public.\"we(ird\"\" (x)\" (\"a (b\", c) FROM stdin;\n", Some("(\"a (b\", c)"));
        check("COPY public.t  FROM stdin;\n", None);
    }
}
