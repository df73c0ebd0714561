//! What is recorded of a dump: in the journal what lists and decisions need, and beside the dump what a load and a comparison
//! need of every table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How a dump is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One archive file for `pg_restore`.
    Custom,
    /// A directory with one file for each table, for `pg_restore`.
    Directory,
    /// SQL for `psql`.
    Plain,
}

/// What of the database is dumped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Definitions and no rows.
    pub schema_only: bool,
    /// Rows and no definitions.
    pub data_only: bool,
    /// Only tables, views and sequences that match one of these patterns of `pg_dump`.
    pub tables: Vec<String>,
    /// None that match one of these.
    pub exclude_tables: Vec<String>,
    /// Only schemas that match one of these.
    pub schemas: Vec<String>,
    /// None that match one of these.
    pub exclude_schemas: Vec<String>,
    /// Definitions but no rows of tables that match one of these.
    pub exclude_table_data: Vec<String>,
}

impl Selection {
    /// Whether it is the whole database.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// In the words of `pg_dump`.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        arguments.extend(self.schema_only.then(|| "--schema-only".to_owned()));
        arguments.extend(self.data_only.then(|| "--data-only".to_owned()));
        let lists = [
            ("--table", &self.tables),
            ("--exclude-table", &self.exclude_tables),
            ("--schema", &self.schemas),
            ("--exclude-schema", &self.exclude_schemas),
            ("--exclude-table-data", &self.exclude_table_data),
        ];
        for (option, patterns) in lists {
            arguments.extend(patterns.iter().map(|pattern| format!("{option}={pattern}")));
        }
        arguments
    }
}

/// A database as it was at the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseRecord {
    /// Its name.
    pub name: String,
    /// Its encoding, by PostgreSQL's name.
    pub encoding: String,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// `c` for libc, `i` for ICU, `b` for the built-in provider.
    pub locale_provider: String,
    /// The locale of ICU or of the built-in provider.
    pub locale: Option<String>,
    /// The version of the collation, as the provider called it.
    pub collation_version: Option<String>,
    /// Its owner.
    pub owner: String,
    /// Bytes on the server's disk.
    pub size: u64,
    /// The version of the server, as it writes it.
    pub server_version: String,
    /// How many large objects it has.
    pub large_objects: u64,
    /// Extensions and their versions.
    pub extensions: BTreeMap<String, String>,
}

/// A foreign key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignKey {
    /// The name of the constraint.
    pub name: String,
    /// The table whose rows point.
    pub from: String,
    /// The table whose rows are pointed at.
    pub to: String,
}

/// A table of a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableRecord {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Rows in the dump; absent where they are not rows of COPY.
    pub rows: Option<u64>,
    /// Bytes of its rows in the dump.
    pub bytes: u64,
    /// Rows by the server's statistics; absent when it had none.
    pub estimate: Option<u64>,
    /// Schema and name as they are in the dump, in hex, where those are other bytes: a dump is in the encoding of its database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoded: Option<(String, String)>,
}

impl TableRecord {
    /// A table as a dump names it.
    pub(super) fn named(schema: &[u8], name: &[u8], rows: Option<u64>, bytes: u64) -> Self {
        let mut table = Self { schema: String::new(), name: String::new(), rows, bytes, estimate: None, encoded: None };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        table.call((text(schema), text(name)), (schema, name));
        table
    }

    /// Gives it the name that the server says, besides that of the dump.
    pub(super) fn call(&mut self, (schema, name): (String, String), dumped: (&[u8], &[u8])) {
        let is_same = dumped == (schema.as_bytes(), name.as_bytes());
        self.encoded = (!is_same).then(|| (hex::encode(dumped.0), hex::encode(dumped.1)));
        (self.schema, self.name) = (schema, name);
    }

    /// Schema and name as they are in the dump.
    pub(super) fn dumped(&self) -> (Vec<u8>, Vec<u8>) {
        let decoded = |(schema, name): &(String, String)| Some((hex::decode(schema).ok()?, hex::decode(name).ok()?));
        let plain = || (self.schema.clone().into_bytes(), self.name.clone().into_bytes());
        self.encoded.as_ref().and_then(decoded).unwrap_or_else(plain)
    }
}

/// What lies beside a dump in files, as `NAME.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRecord {
    /// When the snapshot was taken, by the server's clock.
    pub made: String,
    /// What was dumped.
    pub details: Details,
    /// Every table.
    pub tables: Vec<TableRecord>,
    /// SHA-256 by part: of a custom archive `toc` (what precedes the data) and `data`, of SQL `sql`, of a directory its files.
    pub sha256: BTreeMap<String, String>,
}

/// What the journal records of a dump, as the `details` of its backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Details {
    /// How it is laid out.
    pub format: Format,
    /// The database.
    pub database: DatabaseRecord,
    /// The major of the server.
    pub major: u32,
    /// The server's own identifier; absent when it may not be asked.
    #[serde(default)]
    pub system_identifier: Option<String>,
    /// The version of `pg_dump`, as it writes it.
    pub client_version: String,
    /// What of the database it has.
    pub selection: Selection,
    /// Why it is not the whole database; empty when it is.
    pub incomplete: Vec<String>,
    /// Foreign keys of which it has only one end.
    pub cut_foreign_keys: Vec<ForeignKey>,
    /// How many tables have rows in it, or could have.
    pub tables: u64,
    /// Rows in it, where they were counted.
    pub rows: Option<u64>,
    /// Whether roles and tablespaces are in it.
    pub globals: bool,
    /// Whether the source was a standby.
    pub standby: bool,
    /// The role that made it.
    pub role: String,
    /// Bytes of what `pg_dump` wrote.
    pub bytes: u64,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}
