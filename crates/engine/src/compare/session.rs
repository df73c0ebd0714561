//! Connections to one side that all see the same moment.
//!
//! The first connection begins a read-only transaction in isolation level REPEATABLE READ and exports its snapshot, unless one
//! was given; the others take it (`SET TRANSACTION SNAPSHOT`). Both work on standbys (since 10). Every setting that a value's
//! text depends on is fixed, and `row_security` is off, so that a policy is an error instead of a part of the rows.
//!
//! Nothing is locked for longer than it is read: each query runs below a savepoint to which is rolled back. A change of a
//! table that a snapshot does not show (`TRUNCATE`, a rewrite) is noticed by its file, see [`super::digest`].

use asof_postgres::client::{Connection, ErrorKind, Row, escape_literal};
use asof_postgres::version::Major;
use futures::future::{try_join, try_join_all};

use super::{Side, SideReport};
use crate::error::{Error, Result};
use crate::server::{Contact, Server, contact};

/// How long a lock of somebody else is waited for: behind `ALTER TABLE`, a table is "could not compare", never a hang.
const SETTINGS: &str = "SET lock_timeout = '60s'; SET row_security = off; SET quote_all_identifiers = on; \
     SET extra_float_digits = 3; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; \
     SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET xmlbinary = 'base64'; SET xmloption = 'content'; \
     SET standard_conforming_strings = on; SET jit = off";

/// Both sides, in the order of the request.
pub(super) struct Pair {
    pub(super) a: Reader,
    pub(super) b: Reader,
}

/// One side.
pub(super) struct Reader {
    pub(super) label: String,
    pub(super) major: Major,
    /// Whether the text of this database is UTF-8 already, or bytes without an encoding: then nothing can be converted.
    pub(super) text_as_it_is: bool,
    contact: Contact,
    server: String,
    database: String,
    encoding: String,
    /// At least one.
    pub(super) sessions: Vec<Session>,
}

/// A connection under the snapshot of its side.
pub(super) struct Session {
    connection: Connection,
}

/// Why a query gave nothing, while the connection is as good as before.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) why: String,
    pub(super) denied: bool,
}

/// What a query gave that may fail by itself.
pub(super) type Tried<T> = std::result::Result<T, Refusal>;

impl Pair {
    pub(super) async fn open(a: &Side, b: &Side, jobs: usize) -> Result<Self> {
        let (a, b) = try_join(Reader::open(a, jobs), Reader::open(b, jobs)).await?;
        Ok(Self { a, b })
    }

    pub(super) fn describe(&self) -> [SideReport; 2] {
        [self.a.describe(), self.b.describe()]
    }

    pub(super) async fn close(self) {
        for session in self.a.sessions.into_iter().chain(self.b.sessions) {
            session.connection.close().await;
        }
    }
}

impl Reader {
    async fn open(side: &Side, jobs: usize) -> Result<Self> {
        let mut first = connect(&side.server).await?;
        let contact = contact(&mut first).await?;
        first.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let snapshot = match &side.snapshot {
            Some(snapshot) => {
                take_snapshot(&mut first, snapshot).await?;
                snapshot.clone()
            }
            None => first.query_one("SELECT pg_export_snapshot()").await?.required(0)?.to_owned(),
        };
        let row = first.query_one("SELECT current_setting('server_encoding'), current_database()").await?;
        let (encoding, database) = (row.required(0)?.to_owned(), text(&row, 1).unwrap_or_default());
        let server = side.server.at_host_of(&first);
        let more = (1..jobs.max(1)).map(|_| join_snapshot(&server, &snapshot));
        let more = try_join_all(more).await?;
        Ok(Self {
            label: side.label.clone(),
            major: contact.major,
            text_as_it_is: matches!(encoding.as_str(), "UTF8" | "SQL_ASCII"),
            server: first.server().to_owned(),
            contact,
            database,
            encoding,
            sessions: std::iter::once(first).chain(more).map(|connection| Session { connection }).collect(),
        })
    }

    fn describe(&self) -> SideReport {
        SideReport {
            label: self.label.clone(),
            server: self.server.clone(),
            database: self.database.clone(),
            major: self.major.number(),
            version: self.contact.version.clone(),
            encoding: self.encoding.clone(),
            in_recovery: self.contact.in_recovery,
        }
    }

    pub(super) fn main(&mut self) -> &mut Session {
        self.sessions.first_mut().expect("a side is opened with a session")
    }
}

async fn connect(server: &Server) -> Result<Connection> {
    let mut connection = server.connect().await?;
    connection.execute(SETTINGS).await?;
    if connection.parameter("server_encoding") == Some("SQL_ASCII") {
        // Else the server refuses to send what is no UTF-8.
        connection.execute("SET client_encoding = 'SQL_ASCII'").await?;
    }
    let number = connection.server_version_num()?;
    if number >= 170_000 {
        connection.execute("SET transaction_timeout = 0").await?;
    }
    if number >= 140_000 {
        // So that a server stops working on what nobody waits for any more. Not every system can.
        let _ = connection.execute("SET client_connection_check_interval = '10s'").await;
    }
    Ok(connection)
}

async fn join_snapshot(server: &Server, snapshot: &str) -> Result<Connection> {
    let mut connection = connect(server).await?;
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    take_snapshot(&mut connection, snapshot).await?;
    Ok(connection)
}

async fn take_snapshot(connection: &mut Connection, snapshot: &str) -> Result<()> {
    connection.execute(&format!("SET TRANSACTION SNAPSHOT {}", escape_literal(snapshot))).await?;
    Ok(())
}

impl Session {
    /// Runs a query that no server refuses.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<Row>> {
        Ok(self.connection.query(sql).await?)
    }

    /// Runs a query and gives back its locks. What the server says against the query is a value, a lost connection an error.
    pub(super) async fn attempt(&mut self, sql: &str) -> Result<Tried<Vec<Row>>> {
        self.connection.execute("SAVEPOINT piece").await?;
        let answer = self.connection.query(sql).await;
        let answer = match answer {
            Ok(rows) => Ok(rows),
            Err(error) => match (error.kind(), error.server_error()) {
                (kind @ (ErrorKind::Server | ErrorKind::Denied), Some(said)) => {
                    Err(Refusal { why: said.message.clone(), denied: kind == ErrorKind::Denied })
                }
                _ => return Err(Error::from(error)),
            },
        };
        self.connection.execute("ROLLBACK TO SAVEPOINT piece; RELEASE SAVEPOINT piece").await?;
        Ok(answer)
    }
}

/// A value as text. Bytes that are no UTF-8, which databases without an encoding hold, are written as `\xff`: as different as
/// they are.
pub(super) fn text(row: &Row, index: usize) -> Option<String> {
    let mut text = String::new();
    for chunk in row.bytes(index)?.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    Some(text)
}
