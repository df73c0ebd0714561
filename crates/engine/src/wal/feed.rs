//! Two ways in which WAL reaches us: streaming replication, and reading `pg_wal` by SQL where replication connections are refused
//! (the `pg_hba.conf` of the official container image lets them in from nowhere but the container itself).
//!
//! Both go through a physical slot, so that the server keeps what we have not stored. By SQL the server is asked several times a
//! second and sends WAL as text; nobody can wait for us as a synchronous standby then.

use asof_postgres::client::{Connection, ErrorKind};
use asof_postgres::history::TimelineHistory;
use asof_postgres::lsn::{Lsn, Timeline, WalSegmentSize};
use asof_postgres::names::segment_name;
use asof_postgres::replication::{Reserve, SlotLife, SystemIdentity};
use asof_repository::wal::Observation;

use crate::error::{Error, Result};
use crate::server::Server;

/// How much WAL one question asks for.
const PIECE: u64 = 1 << 20;

/// An open way to a server's WAL.
pub enum Feed {
    /// A replication connection.
    Stream(Connection),
    /// A connection for SQL, and what a replication connection was refused with.
    Sql(Connection, String),
}

impl Feed {
    /// Streaming if the server lets us, else SQL.
    pub async fn open(server: &Server) -> Result<Self> {
        match server.connect_replication().await {
            Ok(connection) => Ok(Self::Stream(connection)),
            Err(Error::Client(refused)) if refused.kind() == ErrorKind::Denied => {
                // With the same user and password: if SQL works, replication alone is what is refused.
                Ok(Self::Sql(server.connect().await?, refused.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    /// What the operator should know about the way that was taken.
    pub fn remark(&self, user: &str) -> Option<String> {
        match self {
            Self::Stream(_) => None,
            Self::Sql(_, refused) => Some(format!(
                "{refused}: WAL is read by SQL instead, which costs the server more and cannot be synchronous; a line in \
                 pg_hba.conf changes that: host replication {user} ADDRESS scram-sha-256"
            )),
        }
    }

    /// System identifier, timeline and flush position.
    pub async fn identity(&mut self) -> Result<SystemIdentity> {
        match self {
            Self::Stream(connection) => Ok(connection.identify_system().await?),
            Self::Sql(connection, _) => {
                let sql = "SELECT (SELECT system_identifier FROM pg_control_system()), pg_current_wal_flush_lsn(), \
                           pg_walfile_name(pg_current_wal_lsn())";
                let row = connection.query_one(sql).await?;
                let system_id = row.parse_required::<i64>(0)?.cast_unsigned();
                let (xlogpos, timeline) = (row.parse_required(1)?, timeline_of(row.required(2)?)?);
                Ok(SystemIdentity { system_id, timeline, xlogpos, dbname: None })
            }
        }
    }

    /// The history file of a timeline above 1.
    pub async fn history(&mut self, timeline: Timeline) -> Result<Vec<u8>> {
        match self {
            Self::Stream(connection) => Ok(connection.timeline_history(timeline).await?.1.to_vec()),
            Self::Sql(connection, _) => {
                let path = format!("pg_wal/{:08X}.history", timeline.0);
                read_file(connection, &path, 0, PIECE).await?.ok_or_else(|| gone(&path))
            }
        }
    }

    /// Makes a slot that keeps WAL from now on.
    pub async fn make_slot(&mut self, name: &str, life: SlotLife) -> Result<()> {
        match self {
            Self::Stream(connection) => {
                connection.create_physical_slot(name, life, Reserve::Now).await?;
            }
            Self::Sql(connection, _) => {
                let temporary = if life == SlotLife::Temporary { "true" } else { "false" };
                let sql = "SELECT pg_create_physical_replication_slot($1, true, $2::bool)";
                connection.query_params(sql, &[Some(name), Some(temporary)]).await?;
            }
        }
        Ok(())
    }
}

fn timeline_of(segment: &str) -> Result<Timeline> {
    let digits = segment.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    digits
        .map(Timeline)
        .ok_or_else(|| Error::damaged(format!("the server calls its WAL segment {segment:?}"), "try again"))
}

fn gone(path: &str) -> Error {
    Error::damaged(format!("the server has no {path} any more"), "make a new backup to protect what follows")
}

/// Where the WAL of a timeline ends at present.
pub(super) struct Horizon {
    /// Behind its last readable byte.
    pub(super) end: Lsn,
    /// The timeline that follows, when this one has ended.
    pub(super) next: Option<Timeline>,
    pub(super) observed: Observation,
}

/// Reads the server's clock, and then how far `timeline` reaches.
pub(super) async fn horizon(connection: &mut Connection, timeline: Timeline) -> Result<Horizon> {
    let clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let time = connection.query_one(clock).await?.parse_required(0)?;
    let row = connection.query_one("SELECT pg_current_wal_flush_lsn(), pg_walfile_name(pg_current_wal_lsn())").await?;
    let (flushed, current): (Lsn, Timeline) = (row.parse_required(0)?, timeline_of(row.required(1)?)?);
    let observed = Observation { time, flushed: flushed.0 };
    if current == timeline {
        return Ok(Horizon { end: flushed, next: None, observed });
    }
    let path = format!("pg_wal/{:08X}.history", current.0);
    let content = read_file(connection, &path, 0, PIECE).await?.ok_or_else(|| gone(&path))?;
    let history = TimelineHistory::parse(current, &content)
        .map_err(|error| Error::damaged(error.to_string(), "look at the server's pg_wal"))?;
    let end = history.switch_point(timeline).ok_or_else(|| {
        let what = format!("the server is on timeline {current}, which does not descend from timeline {timeline}");
        Error::damaged(what, "register it under a name of its own with `asof instance add`")
    })?;
    let after = history.timeline_at(end);
    Ok(Horizon { end, next: Some(after), observed })
}

/// WAL from `from` on, at most up to the horizon and to the end of its segment.
///
/// The segment in which a timeline ended may lie under the next one's name only, as the walsender knows, too
/// (`WalSndSegmentOpen`): with archiving on, promotion renames the old one to `.partial`.
pub(super) async fn read_wal(
    connection: &mut Connection,
    timeline: Timeline,
    size: WalSegmentSize,
    from: Lsn,
    horizon: &Horizon,
) -> Result<Vec<u8>> {
    let segment = size.segment_of(from);
    let offset = u64::from(size.offset(from));
    let len = (horizon.end.0 - from.0).min(PIECE).min(u64::from(size.bytes()) - offset);
    let next = horizon.next.filter(|_| segment == size.segment_of(horizon.end));
    for timeline in std::iter::once(timeline).chain(next) {
        let path = format!("pg_wal/{}", segment_name(timeline, segment, size));
        if let Some(bytes) = read_file(connection, &path, offset, len).await?.filter(|bytes| !bytes.is_empty()) {
            return Ok(bytes);
        }
    }
    Err(Error::Gone { path: format!("pg_wal/{}", segment_name(timeline, segment, size)) })
}

async fn read_file(connection: &mut Connection, path: &str, offset: u64, len: u64) -> Result<Option<Vec<u8>>> {
    let sql = "SELECT encode(pg_read_binary_file($1, $2::bigint, $3::bigint, true), 'hex')";
    let rows = connection.query_params(sql, &[Some(path), Some(&offset.to_string()), Some(&len.to_string())]).await?;
    let text = rows.first().and_then(|row| row.bytes(0));
    let decode =
        |text: &[u8]| hex::decode(text).map_err(|_| Error::damaged(format!("{path} arrived cut"), "try again"));
    text.map(decode).transpose()
}

/// Tells the server up to where it need not keep WAL for us any more.
pub(super) async fn advance_slot(connection: &mut Connection, slot: &str, to: Lsn) -> Result<()> {
    let sql = "SELECT pg_replication_slot_advance($1, $2::pg_lsn)";
    connection.query_params(sql, &[Some(slot), Some(&to.to_string())]).await?;
    Ok(())
}
