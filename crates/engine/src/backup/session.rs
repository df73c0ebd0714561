//! The one connection that a backup lives on: `pg_backup_start`, `pg_backup_stop`, and what is asked in between.
//!
//! The server ends a backup when its session ends (hazard A2): success is only what `pg_backup_stop` on this very session
//! says. Only the non-exclusive functions are used, under the names of the major (renamed in 15).

use std::collections::BTreeMap;

use asof_postgres::client::Connection;
use asof_postgres::control::ControlFile;
use asof_postgres::label::{BackupLabel, BackupMethod};
use asof_postgres::lsn::Lsn;
use asof_postgres::replication::SlotLife;
use asof_postgres::version::Major;
use asof_world::Timestamp;

use crate::error::{Error, Result};
use crate::server::{Contact, Server};
use crate::wal::feed::Feed;

/// The connection of one backup.
pub(super) struct Session {
    connection: Connection,
    major: Major,
    standby: bool,
}

/// What `pg_backup_start` said.
pub(super) struct Started {
    pub(super) lsn: Lsn,
    /// The server's clock before.
    pub(super) time: Timestamp,
}

/// What `pg_backup_stop` said.
pub(super) struct Stopped {
    pub(super) lsn: Lsn,
    /// The server's clock before: every commit acknowledged by then lies before `lsn`.
    pub(super) time: Timestamp,
    pub(super) label: BackupLabel,
    pub(super) label_text: String,
    pub(super) tablespace_map: String,
}

impl Session {
    pub(super) fn new(connection: Connection, contact: &Contact) -> Self {
        Self { connection, major: contact.major, standby: contact.in_recovery }
    }

    /// Makes the slot and returns from where WAL is to be streamed: not behind the start of a backup that is started later.
    pub(super) async fn reserve_wal(&mut self, feed: &mut Feed, slot: &str, control: &ControlFile) -> Result<Lsn> {
        feed.make_slot(slot, SlotLife::Temporary).await?;
        if self.standby {
            // A backup of a standby starts at its last restartpoint, which is older than now.
            let view = self.connection.slot_by_sql(slot).await?;
            let kept = view.and_then(|view| view.restart_lsn).unwrap_or(control.checkpoint.redo);
            return Ok(kept.min(control.checkpoint.redo));
        }
        // A new checkpoint begins behind what is flushed now.
        Ok(self.connection.query_one("SELECT pg_current_wal_flush_lsn()").await?.parse_required(0)?)
    }

    async fn clock(&mut self) -> Result<Timestamp> {
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        Ok(Timestamp(self.connection.query_one(sql).await?.parse_required(0)?))
    }

    pub(super) async fn start(&mut self, label: &str, fast: bool) -> Result<Started> {
        let time = self.clock().await?;
        let sql = if self.major >= Major::V15 {
            "SELECT pg_backup_start($1, $2::bool)"
        } else {
            "SELECT pg_start_backup($1, $2::bool, false)"
        };
        let label: String = label.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(200).collect();
        let fast = if fast { "true" } else { "false" };
        let rows = self.connection.query_params(sql, &[Some(&label), Some(fast)]).await?;
        let row = rows
            .first()
            .ok_or_else(|| Error::damaged("the server did not say where the backup starts", "try again"))?;
        Ok(Started { lsn: row.parse_required(0)?, time })
    }

    pub(super) async fn stop(&mut self) -> Result<Stopped> {
        let time = self.clock().await?;
        // We prove the WAL ourselves: a broken archive_command must not make us wait for ever (rule 15).
        let sql = if self.major >= Major::V15 {
            "SELECT lsn, labelfile, spcmapfile FROM pg_backup_stop(false)"
        } else {
            "SELECT lsn, labelfile, spcmapfile FROM pg_stop_backup(false, false)"
        };
        let row = self.connection.query_one(sql).await?;
        let label_text = row.required(1)?.to_owned();
        let label = BackupLabel::parse(label_text.as_bytes())
            .map_err(|error| Error::damaged(error.to_string(), "run the backup again"))?;
        if label.method == BackupMethod::Exclusive {
            return Err(Error::damaged(
                "the server made an exclusive backup, which nobody asked for",
                "run the backup again",
            ));
        }
        let tablespace_map = row.text(2)?.unwrap_or_default().to_owned();
        Ok(Stopped { lsn: row.parse_required(0)?, time, label, label_text, tablespace_map })
    }

    /// Settings that are not at their default.
    pub(super) async fn settings(&mut self) -> Result<BTreeMap<String, String>> {
        let sql =
            "SELECT name, setting FROM pg_settings WHERE source NOT IN ('default', 'session', 'client', 'override')";
        pairs(&mut self.connection, sql).await
    }

    /// Extensions of all databases, and the databases that could not be asked.
    pub(super) async fn extensions(&mut self, server: &Server) -> Result<(BTreeMap<String, String>, Vec<String>)> {
        let sql = "SELECT datname, datname = current_database() FROM pg_database WHERE datallowconn ORDER BY 1";
        let (mut extensions, mut unasked) = (BTreeMap::new(), Vec::new());
        for (database, ours) in pairs(&mut self.connection, sql).await? {
            let asked = if ours == "t" {
                pairs(&mut self.connection, EXTENSIONS).await
            } else {
                extensions_of(server, &database).await
            };
            match asked {
                Ok(found) => extensions.extend(found),
                Err(_) => unasked.push(database),
            }
        }
        Ok((extensions, unasked))
    }

    pub(super) async fn platform(&mut self) -> Result<String> {
        Ok(self.connection.query_one("SELECT version()").await?.required(0)?.to_owned())
    }

    pub(super) async fn role(&mut self) -> Result<String> {
        Ok(self.connection.query_one("SELECT session_user").await?.required(0)?.to_owned())
    }

    pub(super) async fn close(self) {
        self.connection.close().await;
    }
}

const EXTENSIONS: &str = "SELECT extname, extversion FROM pg_extension";

async fn extensions_of(server: &Server, database: &str) -> Result<BTreeMap<String, String>> {
    let mut server = server.clone();
    server.config.dbname = database.to_owned();
    let mut connection = server.connect().await?;
    let extensions = pairs(&mut connection, EXTENSIONS).await;
    connection.close().await;
    extensions
}

async fn pairs(connection: &mut Connection, sql: &str) -> Result<BTreeMap<String, String>> {
    let rows = connection.query(sql).await?;
    let pair = |row: &asof_postgres::client::Row| -> Result<(String, String)> {
        Ok((row.required(0)?.to_owned(), row.required(1)?.to_owned()))
    };
    rows.iter().map(pair).collect()
}
