//! Queries: the simple protocol with text values, and one call with parameters by the extended protocol.

use std::sync::Arc;

use postgres_protocol::IsNull;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend::{self, BindError};

use super::error::{ClientError, Fault};
use super::row::{Row, Shape};
use super::wire::{Backend, malformed, unsendable};
use super::{Connection, Mode};

/// What one statement gave.
#[derive(Default)]
pub(crate) struct ResultSet {
    shape: Option<Arc<Shape>>,
    rows: Vec<Row>,
    /// The command tag, empty for an empty statement.
    tag: String,
}

/// What all statements of one request gave, in order.
#[derive(Default)]
pub(crate) struct Results {
    sets: Vec<ResultSet>,
    open: ResultSet,
}

impl Results {
    /// Takes a message in; true at the end of the request.
    pub(crate) fn take(&mut self, server: &Arc<str>, message: Backend) -> Result<bool, Fault> {
        let message = match message {
            Backend::Message(message) => message,
            other => return Err(Fault::unexpected(other.name(), "a query")),
        };
        match message {
            Message::RowDescription(body) => self.open.shape = Some(Shape::new(Arc::clone(server), &body)?),
            Message::DataRow(body) => {
                let shape = self.open.shape.as_ref().ok_or_else(|| Fault::unexpected("DataRow", "a query"))?;
                self.open.rows.push(Row::new(shape, &body)?);
            }
            Message::CommandComplete(body) => {
                self.open.tag = body.tag().map_err(malformed)?.to_owned();
                self.sets.push(std::mem::take(&mut self.open));
            }
            Message::EmptyQueryResponse => self.sets.push(ResultSet::default()),
            Message::ParseComplete | Message::BindComplete | Message::NoData => {}
            Message::ReadyForQuery(_) => return Ok(true),
            other => return Err(Fault::unexpected(Backend::Message(other).name(), "a query")),
        }
        Ok(false)
    }

    /// The rows of the last statement that returned any columns.
    pub(crate) fn into_rows(self) -> Vec<Row> {
        self.sets.into_iter().rev().find(|set| set.shape.is_some()).map(|set| set.rows).unwrap_or_default()
    }

    /// The tag of the last statement.
    fn into_tag(self) -> String {
        self.sets.into_iter().next_back().map(|set| set.tag).unwrap_or_default()
    }
}

impl Connection {
    /// Runs SQL by the simple query protocol; several statements are one transaction. Gives the rows of the last statement
    /// that returns any; values are text.
    ///
    /// # Errors
    /// `Server` or `Denied` with what the server reported; `Unavailable` if the connection broke, and then nobody knows
    /// whether the statement took effect. `Invalid` for `COPY`, see [`Connection::copy_out`].
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, ClientError> {
        self.simple(sql).await.map(Results::into_rows).map_err(|fault| self.error(&about(sql), fault))
    }

    /// As [`Self::query`], for exactly one row.
    ///
    /// # Errors
    /// As [`Self::query`], and `Protocol` if there is no row, or more than one.
    pub async fn query_one(&mut self, sql: &str) -> Result<Row, ClientError> {
        let mut rows = self.query(sql).await?;
        match (rows.pop(), rows.len()) {
            (Some(row), 0) => Ok(row),
            (_, more) => {
                let reason = format!("expected one row, got {}", if more == 0 { 0 } else { more + 1 });
                Err(self.error(&about(sql), Fault::protocol(reason)))
            }
        }
    }

    /// Runs SQL for its effect; gives the command tag of the last statement, as in `INSERT 0 1`.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn execute(&mut self, sql: &str) -> Result<String, ClientError> {
        self.simple(sql).await.map(Results::into_tag).map_err(|fault| self.error(&about(sql), fault))
    }

    /// Runs one statement with `$1`, `$2`, … bound to text values (`None` is NULL), so that no value can become SQL.
    /// The server infers the types of the parameters.
    ///
    /// # Errors
    /// As [`Self::query`], and `Invalid` on a replication connection, which has no extended protocol.
    pub async fn query_params(&mut self, sql: &str, parameters: &[Option<&str>]) -> Result<Vec<Row>, ClientError> {
        self.extended(sql, parameters).await.map(Results::into_rows).map_err(|fault| self.error(&about(sql), fault))
    }

    pub(crate) async fn simple(&mut self, sql: &str) -> Result<Results, Fault> {
        self.send_simple(sql).await?;
        self.collect().await
    }

    /// Sends a simple query; the answers are the caller's to read.
    pub(crate) async fn send_simple(&mut self, sql: &str) -> Result<(), Fault> {
        self.begin_with(|buffer| frontend::query(sql, buffer).map_err(unsendable)).await
    }

    async fn extended(&mut self, sql: &str, parameters: &[Option<&str>]) -> Result<Results, Fault> {
        if self.mode() == Mode::Replication {
            return Err(Fault::invalid("a replication connection has no statements with parameters"));
        }
        self.begin_with(|buffer| {
            frontend::parse("", sql, [], buffer).map_err(unsendable)?;
            frontend::bind("", "", [], parameters, write_text, [], buffer).map_err(unbindable)?;
            frontend::describe(b'P', "", buffer).map_err(unsendable)?;
            frontend::execute("", 0, buffer).map_err(unsendable)?;
            frontend::sync(buffer);
            Ok(())
        })
        .await?;
        self.collect().await
    }

    /// Begins a request with what `write` puts out; if it cannot be written, nothing was sent and the connection stays idle.
    async fn begin_with(&mut self, write: impl FnOnce(&mut bytes::BytesMut) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut request = bytes::BytesMut::new();
        write(&mut request)?;
        self.begin()?;
        self.stream.out().unsplit(request);
        self.stream.flush().await
    }

    /// Reads up to `ReadyForQuery`. A COPY that nobody asked for is ended, so that the connection stays usable.
    async fn collect(&mut self) -> Result<Results, Fault> {
        let mut results = Results::default();
        let server = Arc::clone(self.shared_server());
        let mut copy = false;
        loop {
            match self.next().await? {
                Backend::Error(error) => return Err(self.fail(error).await),
                Backend::Message(Message::CopyInResponse(_)) => self.refuse_copy().await?,
                Backend::Message(Message::CopyOutResponse(_) | Message::CopyData(_) | Message::CopyDone) => copy = true,
                message => {
                    if results.take(&server, message)? {
                        break;
                    }
                }
            }
        }
        if copy { Err(Fault::invalid("the statement is a COPY to the client")) } else { Ok(results) }
    }

    async fn refuse_copy(&mut self) -> Result<(), Fault> {
        frontend::copy_fail("asof sends no COPY data", self.stream.out()).map_err(unsendable)?;
        self.stream.flush().await
    }
}

type Unserialisable = Box<dyn std::error::Error + Sync + Send>;

fn write_text(value: &Option<&str>, buffer: &mut bytes::BytesMut) -> Result<IsNull, Unserialisable> {
    let Some(text) = value else { return Ok(IsNull::Yes) };
    buffer.extend_from_slice(text.as_bytes());
    Ok(IsNull::No)
}

fn unbindable(error: BindError) -> Fault {
    match error {
        BindError::Conversion(error) => Fault::invalid(error.to_string()),
        BindError::Serialization(error) => unsendable(error),
    }
}

/// The beginning of a statement, for errors: one line, short, up to the first literal, which may be a secret.
pub(super) fn about(sql: &str) -> String {
    const SHOWN: usize = 60;
    let line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    let open = line.split('\'').next().unwrap_or_default();
    let mut shown = open.chars().take(SHOWN).collect::<String>();
    if shown.len() < line.len() {
        shown.push('…');
    }
    format!("running \"{shown}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_the_statement_up_to_its_first_literal() {
        assert_eq!(about("SELECT  1\n"), "running \"SELECT 1\"");
        assert_eq!(about("ALTER ROLE x PASSWORD 'hunter2'"), "running \"ALTER ROLE x PASSWORD …\"");
        assert_eq!(about(&"x".repeat(70)), format!("running \"{}…\"", "x".repeat(60)));
    }
}
