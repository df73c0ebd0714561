//! The one moment that a dump shows: a transaction that is kept open, whose snapshot `pg_dump` is given, and everything that
//! is recorded of the database as of that moment.
//!
//! It reads and locks nothing but catalogs. Its connection is not needed any more once `pg_dump` has taken the snapshot, but
//! is kept: what came out of the dump is held against the tables as they were.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use asof_postgres::client::{Connection, ErrorKind, escape_identifier};
use asof_postgres::lsn::Lsn;
use asof_world::Timestamp;

use super::record::{DatabaseRecord, ForeignKey};
use crate::error::{Error, Result};
use crate::server::Server;

/// A transaction with an exported snapshot.
pub(crate) struct Snapshot {
    pub(crate) connection: Connection,
    /// What `pg_dump --snapshot` is given.
    pub(crate) id: String,
    /// The server's clock when it was taken.
    pub(crate) time: Timestamp,
    /// Everything that the snapshot shows was written before this position; 0 where the server does not tell it.
    pub(crate) lsn: Lsn,
    /// The timeline of that position, or 0.
    pub(crate) timeline: u32,
}

/// A table as the catalogs have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// Rows by the server's statistics; less than 0 when it has none.
    pub(crate) estimate: i64,
    /// Bytes of the table itself, without indexes and long values.
    pub(crate) bytes: u64,
    /// Bytes with long values.
    pub(crate) all_bytes: u64,
    pub(crate) unlogged: bool,
    /// Schema and name in the encoding of the database, as they are in a dump.
    pub(crate) dumped: (Vec<u8>, Vec<u8>),
}

impl Table {
    pub(crate) fn quoted(&self) -> String {
        format!("{}.{}", escape_identifier(&self.schema), escape_identifier(&self.name))
    }

    /// Schema and name as they are in a dump.
    pub(crate) fn dumped(&self) -> (&[u8], &[u8]) {
        (&self.dumped.0, &self.dumped.1)
    }
}

impl Snapshot {
    /// Takes a snapshot.
    pub(crate) async fn take(server: &Server) -> Result<Self> {
        let mut connection = server.connect().await?;
        if connection.parameter("server_encoding") == Some("SQL_ASCII") {
            // Names in it are bytes of no encoding.
            connection.execute("SET client_encoding = 'SQL_ASCII'").await?;
        }
        let sql = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_export_snapshot(), \
                   (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let row = connection.query_one(sql).await?;
        let (id, time) = (row.required(0)?.to_owned(), Timestamp(row.parse_required(1)?));
        // A failed statement would end the transaction, and some services refuse these.
        let lsn = attempted(
            &mut connection,
            "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END",
        )
        .await?;
        let timeline = attempted(&mut connection, "SELECT timeline_id FROM pg_control_checkpoint()").await?;
        let timeline = timeline.and_then(|text| text.parse().ok()).unwrap_or(0);
        let lsn = lsn.and_then(|text| text.parse().ok()).unwrap_or(Lsn(0));
        Ok(Self { connection, id, time, lsn, timeline })
    }

    /// What the database is.
    pub(crate) async fn database(&mut self) -> Result<DatabaseRecord> {
        let number = self.connection.server_version_num()?;
        // The provider came with 15, its locale was renamed in 17.
        let (provider, locale, version) = match number {
            ..150_000 => ("'c'", "NULL", "NULL"),
            150_000..170_000 => ("datlocprovider", "daticulocale", "datcollversion"),
            _ => ("datlocprovider", "datlocale", "datcollversion"),
        };
        let sql = format!(
            "SELECT datname, pg_encoding_to_char(encoding), datcollate, datctype, {provider}, {locale}, {version}, \
             pg_get_userbyid(datdba), pg_database_size(oid), current_setting('server_version'), \
             (SELECT count(*) FROM pg_largeobject_metadata) \
             FROM pg_database WHERE datname = current_database()"
        );
        let row = self.connection.query_one(&sql).await?;
        let optional = |at: usize| row.text(at).map(|text| text.map(str::to_owned));
        Ok(DatabaseRecord {
            name: row.required(0)?.to_owned(),
            encoding: row.required(1)?.to_owned(),
            collate: row.required(2)?.to_owned(),
            ctype: row.required(3)?.to_owned(),
            locale_provider: row.required(4)?.to_owned(),
            locale: optional(5)?,
            collation_version: optional(6)?,
            owner: row.required(7)?.to_owned(),
            size: row.parse_required(8)?,
            server_version: row.required(9)?.to_owned(),
            large_objects: row.parse_required(10)?,
            extensions: self.extensions().await?,
        })
    }

    async fn extensions(&mut self) -> Result<BTreeMap<String, String>> {
        let rows = self.connection.query("SELECT extname, extversion FROM pg_extension").await?;
        rows.iter().map(|row| Ok((row.required(0)?.to_owned(), row.required(1)?.to_owned()))).collect()
    }

    /// Every ordinary table that is the database's own: whose data is in a dump of everything.
    pub(crate) async fn tables(&mut self) -> Result<Vec<Table>> {
        let sql = "SELECT c.oid, n.nspname, c.relname, c.reltuples::bigint, pg_relation_size(c.oid), pg_table_size(c.oid), \
                   c.relpersistence, encode(convert_to(n.nspname::text, getdatabaseencoding()), 'hex'), \
                   encode(convert_to(c.relname::text, getdatabaseencoding()), 'hex') \
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' \
                   AND n.nspname <> 'information_schema' AND NOT EXISTS (SELECT FROM pg_depend d \
                   WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";
        let rows = self.connection.query(sql).await?;
        let table = |row: &asof_postgres::client::Row| {
            Ok(Table {
                oid: row.parse_required(0)?,
                schema: String::from_utf8_lossy(row.bytes(1).unwrap_or_default()).into_owned(),
                name: String::from_utf8_lossy(row.bytes(2).unwrap_or_default()).into_owned(),
                estimate: row.parse_required(3)?,
                // A table that was dropped meanwhile has none.
                bytes: row.parse(4)?.unwrap_or(0),
                all_bytes: row.parse(5)?.unwrap_or(0),
                unlogged: row.required(6)? == "u",
                dumped: (from_hex(row, 7)?, from_hex(row, 8)?),
            })
        };
        rows.iter().map(table).collect()
    }

    /// Foreign keys by the tables they lead from and to.
    pub(crate) async fn foreign_keys(&mut self) -> Result<Vec<(u32, u32, ForeignKey)>> {
        // Those of partitions repeat the one of their root.
        let sql = "SELECT conrelid, confrelid, conname, conrelid::regclass, confrelid::regclass FROM pg_constraint \
                   WHERE contype = 'f' AND conparentid = 0";
        let rows = self.connection.query(sql).await?;
        let text = |row: &asof_postgres::client::Row, at| {
            String::from_utf8_lossy(row.bytes(at).unwrap_or_default()).into_owned()
        };
        let key = |row: &asof_postgres::client::Row| {
            let key = ForeignKey { name: text(row, 2), from: text(row, 3), to: text(row, 4) };
            Ok((row.parse_required(0)?, row.parse_required(1)?, key))
        };
        rows.iter().map(key).collect()
    }

    /// Whether the snapshot shows any row of this table, of which the dump has none.
    pub(crate) async fn has_rows(&mut self, table: &Table) -> Result<bool> {
        let sql = format!("SET LOCAL row_security = off; SELECT EXISTS (SELECT FROM ONLY {})", table.quoted());
        Ok(self.connection.query_one(&sql).await?.required(0)? == "t")
    }

    pub(crate) async fn close(self) {
        self.connection.close().await;
    }
}

/// An option of `pg_dump` for exactly this schema and name: it takes them in the encoding of the database, as long as nobody asks it
/// for another one.
pub(super) fn option(option: &str, (schema, name): (&[u8], &[u8])) -> OsString {
    let mut bytes = option.as_bytes().to_vec();
    for (before, name) in [(b'=', schema), (b'.', name)] {
        bytes.extend([before, b'"']);
        name.iter().for_each(|byte| bytes.extend(std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 })));
        bytes.push(b'"');
    }
    OsString::from_vec(bytes)
}

pub(super) fn from_hex(row: &asof_postgres::client::Row, at: usize) -> Result<Vec<u8>> {
    let text = row.required(at)?;
    hex::decode(text).map_err(|_| Error::damaged(format!("the server says {text} for bytes in hex"), "try again"))
}

/// The one value of a query that a server may refuse, inside of a transaction that goes on.
async fn attempted(connection: &mut Connection, sql: &str) -> Result<Option<String>> {
    connection.execute("SAVEPOINT attempt").await?;
    match connection.query_one(sql).await {
        Ok(row) => Ok(row.text(0)?.map(str::to_owned)),
        Err(error) if matches!(error.kind(), ErrorKind::Server | ErrorKind::Denied) => {
            connection.execute("ROLLBACK TO SAVEPOINT attempt").await?;
            Ok(None)
        }
        Err(error) => Err(Error::from(error)),
    }
}
