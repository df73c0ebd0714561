//! What a backup records besides its pages: everything that a restore on a bare machine has to know.

use std::collections::BTreeMap;

use asof_postgres::control::StandbyMinimums;
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
    /// What a server that replays this must at least be configured with.
    #[serde(with = "minimums", default)]
    pub minimums: Option<StandbyMinimums>,
    /// `backup_label`, byte for byte: recovery starts where it says.
    pub backup_label: String,
    /// `tablespace_map`, byte for byte; empty without tablespaces.
    pub tablespace_map: String,
    /// Tablespaces.
    pub tablespaces: Vec<TablespaceRecord>,
    /// Settings that were not at their default.
    pub settings: BTreeMap<String, String>,
    /// Extensions of all databases: a restored instance needs their libraries.
    pub extensions: BTreeMap<String, String>,
    /// Operating system and C library as the server was built for; sort orders depend on them.
    pub platform: String,
    /// The role that made the backup: it exists in every restored instance.
    pub role: String,
    /// Where the data directory lay.
    pub data_directory: Option<String>,
}

/// The five settings as a list, in the order of `pg_control`.
mod minimums {
    use asof_postgres::control::StandbyMinimums;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Option<StandbyMinimums>, serializer: S) -> Result<S::Ok, S::Error> {
        let list = value.map(|m| {
            [
                m.max_connections,
                m.max_worker_processes,
                m.max_wal_senders,
                m.max_prepared_transactions,
                m.max_locks_per_transaction,
            ]
        });
        list.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<StandbyMinimums>, D::Error> {
        let list = Option::<[u32; 5]>::deserialize(deserializer)?;
        Ok(list.map(|[connections, workers, senders, prepared, locks]| StandbyMinimums {
            max_connections: connections,
            max_worker_processes: workers,
            max_wal_senders: senders,
            max_prepared_transactions: prepared,
            max_locks_per_transaction: locks,
        }))
    }
}
