//! The commands of a physical walsender, and the WAL it streams.
//!
//! Everything here needs a connection opened with [`Mode::Replication`], except [`Connection::slot_by_sql`]. The grammar of
//! the commands differs between versions; the connection knows which one it talks to.
//! Source: "Streaming Replication Protocol" (protocol chapter) and `replication/repl_gram.y`, PostgreSQL 13 to 18.

mod stream;

pub use stream::{Standing, WalMessage, WalReader, WalStream, WalWriter};

use bytes::Bytes;

use crate::client::{ClientError, Connection, Fault, Mode, Row, escape_identifier};
use crate::lsn::{Lsn, Timeline};

/// The answer to `IDENTIFY_SYSTEM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The system identifier of `pg_control`; clones of a server share it.
    pub system_id: u64,
    /// The timeline the server is on.
    pub timeline: Timeline,
    /// Up to where WAL is flushed (on a standby: up to where it was received and can be sent on).
    pub xlogpos: Lsn,
    /// The database of a logical walsender; `None` for a physical one.
    pub dbname: Option<String>,
}

/// The answer to `CREATE_REPLICATION_SLOT … PHYSICAL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// The name of the slot.
    pub name: String,
    /// Always 0/0 for a physical slot: what it keeps is told by [`SlotState::restart_lsn`].
    pub consistent_point: Lsn,
}

/// What is known of a physical slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// `physical` or `logical`.
    pub slot_type: String,
    /// The oldest WAL the slot keeps; `None` until it has reserved any, or after it was invalidated.
    pub restart_lsn: Option<Lsn>,
    /// The timeline of `restart_lsn`; only `READ_REPLICATION_SLOT` tells it.
    pub restart_timeline: Option<Timeline>,
}

/// A slot as `pg_replication_slots` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// `physical` or `logical`.
    pub slot_type: String,
    /// Whether somebody streams from it now.
    pub active: bool,
    /// Whether it ends with its session.
    pub temporary: bool,
    /// The oldest WAL the slot keeps.
    pub restart_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`; `None` as long as it keeps nothing.
    pub wal_status: Option<String>,
    /// Bytes of WAL that may still be written before the slot is in danger; `None` without `max_slot_wal_keep_size`.
    pub safe_wal_size: Option<i64>,
}

/// Whether a slot outlives its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotLife {
    /// Kept until it is dropped.
    Permanent,
    /// Dropped by the server when the session ends or an error occurs in it.
    Temporary,
}

/// From when on a slot keeps WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// From its creation: the redo position of the last checkpoint.
    Now,
    /// From its first use.
    OnFirstUse,
}

/// What to do about a slot that is in use while it is to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfActive {
    /// Report the error (SQLSTATE 55006).
    Fail,
    /// Wait until it is free.
    Wait,
}

impl Connection {
    /// `IDENTIFY_SYSTEM`.
    ///
    /// # Errors
    /// As [`Connection::query`]; `Protocol` if the answer has another form.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, ClientError> {
        let row = self.command("IDENTIFY_SYSTEM").await?;
        Ok(SystemIdentity {
            system_id: row.parse_required(0)?,
            timeline: Timeline(row.parse_required(1)?),
            xlogpos: row.parse_required(2)?,
            dbname: row.text(3)?.map(str::to_owned),
        })
    }

    /// `CREATE_REPLICATION_SLOT … PHYSICAL`. A slot of that name that exists already is a server error, SQLSTATE 42710.
    ///
    /// # Errors
    /// As [`Connection::query`]; `Invalid` for a name that no slot can have.
    pub async fn create_physical_slot(
        &mut self,
        name: &str,
        life: SlotLife,
        reserve: Reserve,
    ) -> Result<CreatedSlot, ClientError> {
        let version = self.server_version_num()?;
        let slot = self.slot_name(name)?;
        let row = self.command(&create_slot(version, &slot, life, reserve)).await?;
        Ok(CreatedSlot { name: row.required(0)?.to_owned(), consistent_point: row.parse_required(1)? })
    }

    /// `DROP_REPLICATION_SLOT`. A slot that does not exist is a server error, SQLSTATE 42704.
    ///
    /// # Errors
    /// As [`Connection::query`]; `Invalid` for a name that no slot can have.
    pub async fn drop_slot(&mut self, name: &str, if_active: IfActive) -> Result<(), ClientError> {
        let slot = self.slot_name(name)?;
        let wait = if if_active == IfActive::Wait { " WAIT" } else { "" };
        self.execute(&format!("DROP_REPLICATION_SLOT {slot}{wait}")).await.map(drop)
    }

    /// `READ_REPLICATION_SLOT`; `None` if there is no slot of that name. Servers from 15 on; before, use
    /// [`Connection::slot_by_sql`] on another connection.
    ///
    /// # Errors
    /// As [`Connection::query`]; `Invalid` on servers before 15; `Server` for a logical slot.
    pub async fn read_slot(&mut self, name: &str) -> Result<Option<SlotState>, ClientError> {
        if self.server_version_num()? < 150_000 {
            let fault = Fault::invalid("READ_REPLICATION_SLOT exists from PostgreSQL 15 on");
            return Err(self.error("reading a replication slot", fault));
        }
        let slot = self.slot_name(name)?;
        let row = self.command(&format!("READ_REPLICATION_SLOT {slot}")).await?;
        let Some(slot_type) = row.text(0)?.map(str::to_owned) else { return Ok(None) };
        let restart_timeline = row.parse(2)?.map(Timeline);
        Ok(Some(SlotState { slot_type, restart_lsn: row.parse(1)?, restart_timeline }))
    }

    /// The slot as `pg_replication_slots` shows it, over a connection for SQL; `None` if there is none of that name.
    ///
    /// # Errors
    /// As [`Connection::query_params`].
    pub async fn slot_by_sql(&mut self, name: &str) -> Result<Option<SlotView>, ClientError> {
        const SQL: &str = "SELECT slot_type, active, temporary, restart_lsn, wal_status, safe_wal_size \
                           FROM pg_catalog.pg_replication_slots WHERE slot_name OPERATOR(pg_catalog.=) $1::pg_catalog.name";
        let rows = self.query_params(SQL, &[Some(name)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(SlotView {
            slot_type: row.required(0)?.to_owned(),
            active: row.required(1)? == "t",
            temporary: row.required(2)? == "t",
            restart_lsn: row.parse(3)?,
            wal_status: row.text(4)?.map(str::to_owned),
            safe_wal_size: row.parse(5)?,
        }))
    }

    /// `SHOW name`: works on both kinds of connection. `wal_segment_size` comes as `16MB`.
    ///
    /// # Errors
    /// As [`Connection::query`]; an unknown parameter is a server error, SQLSTATE 42704.
    pub async fn show(&mut self, name: &str) -> Result<String, ClientError> {
        let row = self.command(&format!("SHOW {}", escape_identifier(name))).await?;
        Ok(row.text(0)?.unwrap_or_default().to_owned())
    }

    /// `TIMELINE_HISTORY`: name and content of a history file. Timeline 1 has none (a server error, SQLSTATE 58P01).
    ///
    /// # Errors
    /// As [`Connection::query`].
    pub async fn timeline_history(&mut self, timeline: Timeline) -> Result<(String, Bytes), ClientError> {
        let action = format!("TIMELINE_HISTORY {timeline}");
        let row = self.command(&action).await?;
        let name = row.required(0)?.to_owned();
        let content = row.shared_bytes(1);
        content.map(|bytes| (name, bytes)).ok_or_else(|| self.error(&action, Fault::protocol("no content")))
    }

    /// `START_REPLICATION … PHYSICAL`: WAL from `lsn` on, on `timeline`. The connection comes back from
    /// [`WalStream::finish`].
    ///
    /// # Errors
    /// `Server` if the timeline is not in the server's history, does not hold the position, or the slot is in use (SQLSTATE
    /// 55006); `Invalid` for a name that no slot can have. The connection is closed then. WAL that is gone (58P01) and a
    /// position ahead of the server are only told by the first [`WalStream::next`].
    pub async fn start_physical(
        self,
        slot: Option<&str>,
        lsn: Lsn,
        timeline: Timeline,
    ) -> Result<WalStream, ClientError> {
        let slot = match slot {
            Some(name) => format!("SLOT {} ", self.slot_name(name)?),
            None => String::new(),
        };
        WalStream::start(self, format!("START_REPLICATION {slot}PHYSICAL {lsn} TIMELINE {timeline}")).await
    }

    /// One row from a replication command.
    async fn command(&mut self, command: &str) -> Result<Row, ClientError> {
        self.query_one(command).await
    }

    fn slot_name(&self, name: &str) -> Result<String, ClientError> {
        if is_slot_name(name) {
            return Ok(escape_identifier(name));
        }
        let reason = format!("\"{name}\" is no slot name: 1 to 63 of a-z, 0-9 and _");
        Err(self.error("naming a replication slot", Fault::invalid(reason)))
    }

    pub(crate) fn require_replication(&self) -> Result<(), Fault> {
        match self.mode() {
            Mode::Replication => Ok(()),
            Mode::Sql => Err(Fault::invalid("WAL is only streamed to a replication connection")),
        }
    }
}

/// Source: `ReplicationSlotValidateName` in `replication/slot.c`, PostgreSQL 13 to 18.
fn is_slot_name(name: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=63).contains(&name.len()) && name.bytes().all(valid)
}

/// From 15 on options stand in parentheses.
fn create_slot(version: u32, slot: &str, life: SlotLife, reserve: Reserve) -> String {
    let temporary = if life == SlotLife::Temporary { " TEMPORARY" } else { "" };
    let reserve = match (reserve, version >= 150_000) {
        (Reserve::OnFirstUse, _) => "",
        (Reserve::Now, true) => " (RESERVE_WAL)",
        (Reserve::Now, false) => " RESERVE_WAL",
    };
    format!("CREATE_REPLICATION_SLOT {slot}{temporary} PHYSICAL{reserve}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_a_slot_follow_the_grammar_of_the_version() {
        let check = |version, life, reserve, expect| assert_eq!(create_slot(version, "\"s\"", life, reserve), expect);
        let (temporary, now) = (SlotLife::Temporary, Reserve::Now);
        check(130_000, temporary, now, "CREATE_REPLICATION_SLOT \"s\" TEMPORARY PHYSICAL RESERVE_WAL");
        check(140_009, SlotLife::Permanent, now, "CREATE_REPLICATION_SLOT \"s\" PHYSICAL RESERVE_WAL");
        check(150_000, temporary, now, "CREATE_REPLICATION_SLOT \"s\" TEMPORARY PHYSICAL (RESERVE_WAL)");
        check(180_000, SlotLife::Permanent, Reserve::OnFirstUse, "CREATE_REPLICATION_SLOT \"s\" PHYSICAL");
    }

    #[test]
    fn slot_names_are_judged_as_the_server_does() {
        assert!(is_slot_name("asof_1") && is_slot_name(&"a".repeat(63)));
        for name in ["", "A", "a-b", "a b", "ä", &"a".repeat(64)] {
            assert!(!is_slot_name(name), "{name}");
        }
    }
}
