//! `COPY … TO STDOUT` as a stream.

use bytes::Bytes;
use postgres_protocol::message::backend::Message;

use super::Connection;
use super::error::{ClientError, Fault};
use super::query::about;
use super::wire::Backend;

/// The data of a running `COPY … TO STDOUT`, as the server cut it: one row per piece in practice, but nothing follows from
/// the borders. Nothing is buffered beyond the message that is being read, so a slow reader slows the server down.
///
/// Dropped before the end, it leaves the connection unusable: cancel, or read to the end.
#[derive(Debug)]
pub struct CopyOut<'a> {
    connection: &'a mut Connection,
    about: String,
    /// Row data may still come.
    data: bool,
    done: bool,
}

impl Connection {
    /// Starts a `COPY … TO STDOUT`.
    ///
    /// # Errors
    /// As [`Connection::query`]; `Invalid` if the statement is no such COPY.
    pub async fn copy_out(&mut self, sql: &str) -> Result<CopyOut<'_>, ClientError> {
        let about = about(sql);
        match self.start_copy_out(sql).await {
            Ok(()) => Ok(CopyOut { connection: self, about, data: true, done: false }),
            Err(fault) => Err(self.error(&about, fault)),
        }
    }

    async fn start_copy_out(&mut self, sql: &str) -> Result<(), Fault> {
        self.send_simple(sql).await?;
        match self.next().await? {
            Backend::Message(Message::CopyOutResponse(_)) => Ok(()),
            Backend::Error(error) => Err(self.fail(error).await),
            other => {
                let reason = format!("the statement is no COPY … TO STDOUT (the server answered {})", other.name());
                self.end_of_request().await?;
                Err(Fault::invalid(reason))
            }
        }
    }

    /// `None` if the command that was sent is answered by a copy in both directions; else the first message of its result.
    pub(crate) async fn start_of_copy_both(&mut self) -> Result<Option<Backend>, Fault> {
        match self.next().await? {
            Backend::CopyBoth => Ok(None),
            Backend::Error(error) => Err(self.fail(error).await),
            other => Ok(Some(other)),
        }
    }

    /// Reads and drops the rest of a request that is not wanted.
    async fn end_of_request(&mut self) -> Result<(), Fault> {
        loop {
            match self.next().await? {
                Backend::Message(Message::ReadyForQuery(_)) => return Ok(()),
                Backend::Error(error) => return Err(self.fail(error).await),
                _ => {}
            }
        }
    }
}

impl CopyOut<'_> {
    /// The next piece, `None` after the last: only then did the server finish the command without an error.
    /// Cancel safe: dropping the future loses nothing.
    ///
    /// # Errors
    /// `Server` if the statement failed on the way, `Unavailable` if the connection broke.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        self.step().await.map_err(|fault| self.connection.error(&self.about, fault))
    }

    async fn step(&mut self) -> Result<Option<Bytes>, Fault> {
        while !self.done {
            match self.connection.next().await? {
                Backend::Message(Message::CopyData(body)) if self.data => return Ok(Some(body.into_bytes())),
                Backend::Message(Message::CopyDone) if self.data => self.data = false,
                Backend::Message(Message::CommandComplete(_)) if !self.data => {}
                Backend::Message(Message::ReadyForQuery(_)) if !self.data => self.done = true,
                Backend::Error(error) => {
                    self.done = true;
                    return Err(self.connection.fail(error).await);
                }
                other => return Err(Fault::unexpected(other.name(), "COPY")),
            }
        }
        Ok(None)
    }
}
