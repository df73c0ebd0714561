//! What came out of a dump, held against the database as the same snapshot shows it. An exit status says little: a table that
//! is missing or empty, although it has rows, makes the dump a failure whatever `pg_dump` said.

use std::collections::{HashMap, HashSet};

use asof_postgres::archive::Text;
use asof_postgres::archive::plain::{Ending, PlainScanner, TableRows};
use asof_postgres::archive::stream::Summary;
use asof_world::planted;

use super::members::with_data;
use super::record::{ForeignKey, Selection, TableRecord};
use super::snapshot::{Snapshot, Table};
use crate::error::{Error, Result};

/// What a dump holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    /// Tables with their OIDs; 0 where it is not known.
    pub(crate) tables: Vec<(u32, TableRecord)>,
    pub(crate) large_objects: u64,
}

impl Contents {
    /// Of archives that were decoded; several where they were made at once.
    pub(crate) fn of(summaries: &[Summary]) -> Self {
        let mut contents = Self::default();
        for summary in summaries {
            let blocks: HashMap<i32, _> = summary.blocks.iter().map(|block| (block.dump_id, block)).collect();
            for entry in with_data(&summary.toc) {
                let Some(block) = blocks.get(&entry.dump_id) else { continue };
                contents.large_objects += block.large_objects;
                if !entry.is_large_objects() {
                    let len = block.plain_bytes.unwrap_or(block.range.end - block.range.start);
                    let record = TableRecord::named(entry.schema(), entry.tag.as_bytes(), block.rows, len);
                    contents.tables.push((entry.object_oid, record));
                }
            }
        }
        contents
    }

    /// Of a script.
    ///
    /// # Errors
    /// `Damaged` when it did not come to its end.
    pub(crate) fn of_script(scanner: PlainScanner) -> Result<Self> {
        let script = scanner.finish();
        if script.ending != Ending::Complete {
            let what = format!("the script that came is not whole ({:?} after {} bytes)", script.ending, script.bytes);
            return Err(Error::damaged(what, "nothing was kept: dump again"));
        }
        Ok(Self::of_rows(&script.tables))
    }

    /// Of the rows in a script.
    pub(super) fn of_rows(tables: &[TableRows]) -> Self {
        let table = |TableRows { table, rows, .. }: &TableRows| {
            let schema = table.namespace.as_ref().map_or(&[][..], Text::as_bytes);
            (0, TableRecord::named(schema, table.name.as_bytes(), Some(*rows), 0))
        };
        Self { tables: tables.iter().map(table).collect(), large_objects: 0 }
    }

    /// Rows of all tables, where all were counted.
    pub(crate) fn rows(&self) -> Option<u64> {
        self.tables.iter().map(|(_, table)| table.rows).sum()
    }

    /// Adds what the server's statistics say, and names as the server says them.
    pub(crate) fn estimate(&mut self, known: &[Table]) {
        let by_oid: HashMap<u32, &Table> = known.iter().map(|table| (table.oid, table)).collect();
        let by_name: HashMap<(&[u8], &[u8]), &Table> = known.iter().map(|table| (table.dumped(), table)).collect();
        for (oid, record) in &mut self.tables {
            let (schema, name) = record.dumped();
            let table = by_oid.get(oid).or_else(|| by_name.get(&(schema.as_slice(), name.as_slice())));
            let Some(table) = table else { continue };
            *oid = table.oid;
            record.call((table.schema.clone(), table.name.clone()), table.dumped());
            record.estimate = u64::try_from(table.estimate).ok();
        }
    }
}

/// Fails when a table has rows that the dump should have and has not.
pub(crate) async fn hold_against(
    snapshot: &mut Snapshot,
    known: &[Table],
    selection: &Selection,
    contents: &Contents,
) -> Result<()> {
    if selection.schema_only || planted("l1") {
        return Ok(());
    }
    let rows: HashMap<u32, Option<u64>> = contents.tables.iter().map(|(oid, table)| (*oid, table.rows)).collect();
    for table in known.iter().filter(|table| table.bytes > 0) {
        let suspicion = match rows.get(&table.oid) {
            Some(Some(0)) => "came out empty",
            None if selection.is_everything() => "is not in the dump",
            _ => continue,
        };
        if snapshot.has_rows(table).await? {
            let what = format!("table {} {suspicion}, although it has rows", table.quoted());
            return Err(Error::damaged(
                what,
                "the dump is not kept; look at what pg_dump said, and at the rights of the role",
            ));
        }
    }
    Ok(())
}

/// Foreign keys of which the dump has one end only: rows in it may point at nothing, or nothing in it points at them any more.
pub(crate) fn cut_foreign_keys(keys: Vec<(u32, u32, ForeignKey)>, contents: &Contents) -> Vec<ForeignKey> {
    let inside: HashSet<u32> = contents.tables.iter().map(|(oid, _)| *oid).collect();
    let cut = keys.into_iter().filter(|(from, to, _)| inside.contains(from) != inside.contains(to));
    cut.map(|(_, _, key)| key).collect()
}

/// Why a dump is not the whole database.
pub(crate) fn reasons(selection: &Selection, unlogged_missing: bool) -> Vec<String> {
    let list =
        |what: &str, patterns: &[String]| (!patterns.is_empty()).then(|| format!("{what} {}", patterns.join(", ")));
    [
        selection.schema_only.then(|| "definitions only, no rows".to_owned()),
        selection.data_only.then(|| "rows only, no definitions".to_owned()),
        list("only tables that match", &selection.tables),
        list("no tables that match", &selection.exclude_tables),
        list("only schemas that match", &selection.schemas),
        list("no schemas that match", &selection.exclude_schemas),
        list("no rows of tables that match", &selection.exclude_table_data),
        unlogged_missing.then(|| "no rows of unlogged tables, which a standby does not have".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect()
}
