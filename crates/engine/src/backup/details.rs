//! What a backup records besides its pages: everything that a restore on a bare machine has to know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How the files were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// From the files of the same host.
    Files,
    /// By SQL.
    Sql,
}

/// A tablespace as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TablespaceRecord {
    /// Its OID.
    pub oid: u32,
    /// Where it lay; `None` for one inside the data directory.
    pub location: Option<String>,
}

/// What a backup records of the server. Stored as JSON in the commit entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Details {
    /// The major.
    pub major: u32,
    /// The version, as the server writes it.
    pub version: String,
    /// Whether the source was a standby.
    pub standby: bool,
    /// How the files were read.
    pub reading: Reading,
    /// Whether pages carried checksums, which were verified.
    pub checksums: bool,
    /// `backup_label`, byte for byte: recovery starts where it says.
    pub backup_label: String,
    /// `tablespace_map`, byte for byte; empty without tablespaces.
    pub tablespace_map: String,
    /// Tablespaces.
    pub tablespaces: Vec<TablespaceRecord>,
    /// Settings that were not at their default.
    pub settings: BTreeMap<String, String>,
    /// Extensions per database: a restored instance needs their libraries.
    pub extensions: BTreeMap<String, String>,
    /// Operating system and C library as the server was built for; sort orders depend on them.
    pub platform: String,
    /// Where the data directory lay.
    pub data_directory: Option<String>,
}
