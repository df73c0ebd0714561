//! A small PostgreSQL client: SQL and physical replication over one connection type.
//!
//! It speaks protocol 3.0 with the frames of `postgres-protocol` and behaves towards a server as libpq does: the same
//! `sslmode`, authentication, host list and errors. It has what a backup needs: simple queries with text values, calls with
//! parameters, `COPY … TO STDOUT` as a stream, cancelling, and the walsender's commands ([`crate::replication`]).
//!
//! A connection is used by one caller at a time. A request whose future is dropped before its end leaves answers in the
//! stream that belong to nobody, so the connection then refuses further requests ([`ErrorKind::Invalid`]).
//! Source: "Frontend/Backend Protocol", PostgreSQL 13 to 18.

mod auth;
mod cancel;
mod connect;
mod copy;
mod copy_binary;
mod error;
mod query;
mod row;
mod socket;
mod stream;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use postgres_protocol::message::backend::Message;

pub use cancel::CancelToken;
pub use copy::CopyOut;
pub use copy_binary::{BinaryCopy, BinaryCopyError, BinaryRow};
pub use error::{ClientError, ErrorKind, ServerError};
pub use row::{Column, Row};

pub(crate) use error::Fault;
pub(crate) use query::Results;
pub(crate) use socket::Socket;
pub(crate) use stream::Stream;
pub(crate) use wire::{Backend, Incoming, Outgoing};

use wire::malformed;

use crate::conninfo::{Config, Environment};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// SQL in the configured database.
    Sql,
    /// A physical walsender: replication commands and `SHOW` only (`replication=true`).
    Replication,
}

/// An open connection to one server. Dropping it closes the socket without a goodbye; see [`Connection::close`].
pub struct Connection {
    stream: Stream,
    session: Session,
}

/// What is known of a session, apart from its stream.
pub(crate) struct Session {
    server: Arc<str>,
    mode: Mode,
    parameters: BTreeMap<String, String>,
    notices: Vec<ServerError>,
    cancel: CancelToken,
    state: State,
}

/// Whether the stream stands between two requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    InRequest,
}

/// More than this many notices are not kept: they are for a person to read.
const NOTICES_KEPT: usize = 100;

impl Connection {
    /// Connects to the first host of `config` that answers and has the wanted session attributes.
    ///
    /// # Errors
    /// `Unavailable` if no host answers, `Denied`, `Tls`, `Invalid` as the first host that is reached says: as in libpq, a
    /// refused login is not tried elsewhere.
    pub async fn connect(config: &Config, mode: Mode, environment: &Environment) -> Result<Self, ClientError> {
        connect::connect(config, mode, environment).await
    }

    /// The server this is a connection to, as in `db1:5432`.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.session.server
    }

    pub(crate) fn shared_server(&self) -> &Arc<str> {
        &self.session.server
    }

    /// What the connection is for.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.session.mode
    }

    /// A value the server reported (`ParameterStatus`), for example `server_version` or, from 14 on, `in_hot_standby`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.session.parameters.get(name).map(String::as_str)
    }

    /// `server_version_num`, computed from `server_version`: 150020 for `15.20 (Debian …)`, 180000 for `18beta1`.
    ///
    /// # Errors
    /// `Protocol` if the server reports no version.
    pub fn server_version_num(&self) -> Result<u32, ClientError> {
        let version = self.parameter("server_version").and_then(version_number);
        version.ok_or_else(|| self.error("reading the server version", Fault::protocol("no usable server_version")))
    }

    /// The process id of the server process.
    #[must_use]
    pub fn backend_pid(&self) -> i32 {
        self.session.cancel.process_id()
    }

    /// What can stop a request of this connection from elsewhere.
    #[must_use]
    pub fn cancel_token(&self) -> CancelToken {
        self.session.cancel.clone()
    }

    /// Takes the notices and warnings that arrived since the last call, oldest first; at most 100 are kept.
    /// A `COMMIT` that returned with a warning was not acknowledged by its synchronous standbys.
    pub fn take_notices(&mut self) -> Vec<ServerError> {
        std::mem::take(&mut self.session.notices)
    }

    /// Says goodbye, so that the server does not log a lost connection. Cannot fail: the connection is gone either way.
    pub async fn close(self) {
        self.stream.terminate().await;
    }

    /// Takes the connection apart for streaming.
    pub(crate) fn take_apart(self) -> (Stream, Session) {
        (self.stream, self.session)
    }

    /// Puts it together again.
    pub(crate) fn assemble(stream: Stream, session: Session) -> Self {
        Self { stream, session }
    }

    pub(crate) fn error(&self, action: &str, fault: Fault) -> ClientError {
        ClientError::new(&*self.session.server, action, fault)
    }

    /// Marks the start of a request.
    fn begin(&mut self) -> Result<(), Fault> {
        if self.session.state != State::Idle {
            return Err(Fault::invalid("an earlier request on this connection was abandoned before its end"));
        }
        self.session.state = State::InRequest;
        Ok(())
    }

    /// The next message that answers the present request; notices and parameters are put aside.
    async fn next(&mut self) -> Result<Backend, Fault> {
        loop {
            let message = self.stream.next().await?;
            if let Some(message) = self.session.absorb(message)? {
                return Ok(message);
            }
        }
    }

    /// After an error: reads up to `ReadyForQuery`. The error stands also if the server hangs up instead.
    async fn fail(&mut self, error: ServerError) -> Fault {
        loop {
            match self.next().await {
                Ok(Backend::Message(Message::ReadyForQuery(_))) | Err(_) => return Fault::server_error(error),
                Ok(_) => {}
            }
        }
    }
}

impl Session {
    /// The server, as in `db1:5432`.
    pub(crate) fn server(&self) -> &Arc<str> {
        &self.server
    }

    /// Keeps what may arrive at any time, passes on the rest.
    pub(crate) fn absorb(&mut self, message: Backend) -> Result<Option<Backend>, Fault> {
        match message {
            Backend::Message(Message::NoticeResponse(body)) => {
                let notice = ServerError::from_fields(body.fields()).map_err(malformed)?;
                if self.notices.len() < NOTICES_KEPT {
                    self.notices.push(notice);
                }
                Ok(None)
            }
            Backend::Message(Message::ParameterStatus(body)) => {
                let name = body.name().map_err(malformed)?.to_owned();
                self.parameters.insert(name, body.value().map_err(malformed)?.to_owned());
                Ok(None)
            }
            Backend::Message(Message::NotificationResponse(_)) => Ok(None),
            Backend::Message(Message::ReadyForQuery(body)) => {
                self.state = State::Idle;
                Ok(Some(Backend::Message(Message::ReadyForQuery(body))))
            }
            other => Ok(Some(other)),
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Session { server, mode, state, .. } = &self.session;
        f.debug_struct("Connection").field("server", server).field("mode", mode).field("state", state).finish()
    }
}

/// `major * 10000 + minor`, as `PG_VERSION_NUM` since version 10; text after the digits is a build's business.
fn version_number(text: &str) -> Option<u32> {
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    let major = digits(text);
    let minor = text[major.len()..].strip_prefix('.').map(digits).unwrap_or_default();
    let minor = if minor.is_empty() { 0 } else { minor.parse::<u32>().ok()? };
    major.parse::<u32>().ok()?.checked_mul(10_000)?.checked_add(minor)
}

/// Quotes a text as an SQL literal, safe with every setting of `standard_conforming_strings`.
#[must_use]
pub fn escape_literal(text: &str) -> String {
    postgres_protocol::escape::escape_literal(text).trim_start().to_owned()
}

/// Quotes a text as an SQL identifier.
#[must_use]
pub fn escape_identifier(text: &str) -> String {
    postgres_protocol::escape::escape_identifier(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_number_follows_from_the_text() {
        assert_eq!(version_number("15.20 (Debian 15.20-0+deb12u1)"), Some(150_020));
        assert_eq!(version_number("18beta1"), Some(180_000));
        assert_eq!(version_number("19devel"), Some(190_000));
        assert_eq!(version_number("13.23"), Some(130_023));
        assert_eq!(version_number("unknown"), None);
        assert_eq!(version_number("99999999999.1"), None);
    }

    #[test]
    fn literals_and_identifiers_cannot_be_left() {
        assert_eq!(escape_literal("it's"), "'it''s'");
        assert_eq!(escape_literal(r"a\b"), r"E'a\\b'");
        assert_eq!(escape_identifier("a\"b"), "\"a\"\"b\"");
    }
}
