//! Messages on a byte stream: framing in, buffering out.
//!
//! `postgres-protocol` decodes message bodies. Two messages it cannot take are decoded here: `CopyBothResponse`, which only
//! replication knows, and `BackendKeyData`, whose key may be longer than four bytes from protocol 3.2 on.
//! Reading is cancel safe: what has arrived of a message stays in the buffer.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::error::{Fault, ServerError};

/// A message of the server.
pub(crate) enum Backend {
    /// Any that `postgres-protocol` knows, except errors.
    Message(Message),
    /// `CopyBothResponse`: physical replication begins.
    CopyBoth,
    /// `BackendKeyData`.
    Key { process_id: i32, key: Bytes },
    /// `ErrorResponse`.
    Error(ServerError),
}

impl Backend {
    /// The name of the message in the protocol chapter, for errors.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::CopyBoth => "CopyBothResponse",
            Self::Key { .. } => "BackendKeyData",
            Self::Error(_) => "ErrorResponse",
            Self::Message(message) => message_name(message),
        }
    }
}

fn message_name(message: &Message) -> &'static str {
    match message {
        Message::BindComplete => "BindComplete",
        Message::CommandComplete(_) => "CommandComplete",
        Message::CopyData(_) => "CopyData",
        Message::CopyDone => "CopyDone",
        Message::CopyInResponse(_) => "CopyInResponse",
        Message::CopyOutResponse(_) => "CopyOutResponse",
        Message::DataRow(_) => "DataRow",
        Message::EmptyQueryResponse => "EmptyQueryResponse",
        Message::NoData => "NoData",
        Message::NoticeResponse(_) => "NoticeResponse",
        Message::ParameterStatus(_) => "ParameterStatus",
        Message::ParseComplete => "ParseComplete",
        Message::ReadyForQuery(_) => "ReadyForQuery",
        Message::RowDescription(_) => "RowDescription",
        Message::AuthenticationOk => "AuthenticationOk",
        _ => "of another kind",
    }
}

/// The longest message before the server has let us in. libpq: 30,000 bytes (`fe-connect.c`, PostgreSQL 18).
const LIMIT_BEFORE_LOGIN: usize = 64 << 10;
/// The longest message after: PostgreSQL cannot build one of more than 1 GiB (`MaxAllocSize`).
const LIMIT: usize = 1 << 30;
const READ_SIZE: usize = 128 << 10;

/// Bytes that have arrived and are not yet taken.
pub(crate) struct Incoming {
    buffer: BytesMut,
    logged_in: bool,
}

impl Incoming {
    pub(crate) fn new() -> Self {
        Self { buffer: BytesMut::new(), logged_in: false }
    }

    /// From here on long messages are allowed.
    pub(crate) fn logged_in(&mut self) {
        self.logged_in = true;
    }

    /// The next message. Cancel safe.
    pub(crate) async fn next<R: AsyncRead + Unpin>(&mut self, reader: &mut R) -> Result<Backend, Fault> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            // Grown by what arrives, never by what a header claims.
            self.buffer.reserve(READ_SIZE);
            if reader.read_buf(&mut self.buffer).await.map_err(Fault::Io)? == 0 {
                let end = io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection");
                return Err(Fault::Io(end));
            }
        }
    }

    /// A whole message from the buffer, `None` if more bytes are needed.
    fn take(&mut self) -> Result<Option<Backend>, Fault> {
        let Some(header) = Header::parse(&self.buffer).map_err(malformed)? else { return Ok(None) };
        let len = usize::try_from(header.len()).map_err(|_| Fault::protocol("a message of negative length"))?;
        self.check_length(header.tag(), len)?;
        if self.buffer.len() <= len {
            return Ok(None);
        }
        match header.tag() {
            b'W' => {
                self.buffer.advance(len + 1);
                Ok(Some(Backend::CopyBoth))
            }
            b'K' => self.take_key(len).map(Some),
            _ => self.take_message(),
        }
    }

    fn check_length(&self, tag: u8, len: usize) -> Result<(), Fault> {
        let limit = if self.logged_in { LIMIT } else { LIMIT_BEFORE_LOGIN };
        if len <= limit {
            return Ok(());
        }
        if tag == b'E' && !self.logged_in {
            // A postmaster that cannot fork answers in the format of protocol 2, which has no length.
            return Err(Fault::unavailable("the server could not start a session"));
        }
        Err(Fault::protocol(format!("a message of {len} bytes, more than the {limit} that are possible here")))
    }

    fn take_key(&mut self, len: usize) -> Result<Backend, Fault> {
        let mut body = self.buffer.split_to(len + 1).freeze();
        body.advance(5);
        if body.len() < 8 || body.len() > 4 + 256 {
            return Err(Fault::protocol(format!("BackendKeyData of {} bytes", body.len())));
        }
        Ok(Backend::Key { process_id: body.get_i32(), key: body })
    }

    fn take_message(&mut self) -> Result<Option<Backend>, Fault> {
        match Message::parse(&mut self.buffer).map_err(malformed)? {
            None => Ok(None),
            Some(Message::ErrorResponse(body)) => {
                ServerError::from_fields(body.fields()).map(|error| Some(Backend::Error(error))).map_err(malformed)
            }
            Some(message) => Ok(Some(Backend::Message(message))),
        }
    }
}

/// Bytes that do not follow the message format.
pub(crate) fn malformed(error: io::Error) -> Fault {
    Fault::protocol(error.to_string())
}

/// A request that cannot be put into a message: a zero byte in a text, or too long.
pub(crate) fn unsendable(error: io::Error) -> Fault {
    Fault::invalid(error.to_string())
}

/// Bytes on their way out. Cancel safe: a message that was begun is finished by the next flush.
#[derive(Default)]
pub(crate) struct Outgoing {
    pub(crate) buffer: BytesMut,
}

impl Outgoing {
    /// Sends everything that is buffered.
    pub(crate) async fn flush<W: AsyncWrite + Unpin>(&mut self, writer: &mut W) -> Result<(), Fault> {
        while self.buffer.has_remaining() {
            if writer.write_buf(&mut self.buffer).await.map_err(Fault::Io)? == 0 {
                return Err(Fault::Io(io::ErrorKind::WriteZero.into()));
            }
        }
        writer.flush().await.map_err(Fault::Io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn first(bytes: &[u8]) -> Result<Backend, Fault> {
        Incoming::new().next(&mut &bytes[..]).await
    }

    fn reason(result: Result<Backend, Fault>) -> String {
        result.err().expect("an error").to_string()
    }

    #[tokio::test]
    async fn a_message_longer_than_a_login_allows_is_refused_before_it_is_read() {
        assert!(reason(first(b"R\x7f\xff\xff\xff").await).contains("more than the 65536"));
    }

    #[tokio::test]
    async fn an_error_in_the_format_of_protocol_2_means_unavailable() {
        let fault = first(b"Ecould not fork new process").await.err().expect("an error");
        assert!(matches!(fault, Fault::Unavailable(_)), "{fault}");
    }

    #[tokio::test]
    async fn a_length_below_four_is_refused() {
        assert!(reason(first(b"R\0\0\0\x03").await).contains("invalid message length"));
    }

    #[tokio::test]
    async fn an_unknown_message_is_refused() {
        assert!(reason(first(b"!\0\0\0\x04").await).contains("unknown message tag"));
    }

    #[tokio::test]
    async fn the_end_of_the_stream_inside_a_message_is_a_broken_connection() {
        assert!(matches!(first(b"R\0\0\0\x08\0\0").await, Err(Fault::Io(_))));
    }

    #[tokio::test]
    async fn a_long_cancel_key_is_kept_whole() {
        let message = first(b"K\0\0\0\x10\0\0\0\x07abcdefgh").await.expect("valid");
        assert!(matches!(message, Backend::Key { process_id: 7, key } if key == "abcdefgh"));
    }

    #[tokio::test]
    async fn copy_both_is_understood_whatever_formats_follow() {
        assert!(matches!(first(b"W\0\0\0\x07\0\0\0").await, Ok(Backend::CopyBoth)));
    }
}
