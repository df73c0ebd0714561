//! WAL as it streams: messages in, positions out.
//!
//! ```text
//! in    'w' start: u64, server end: u64, server time: i64, WAL      'k' server end: u64, server time: i64, reply wanted: u8
//! out   'r' write: u64, flush: u64, apply: u64, time: i64, reply wanted: u8
//! ```
//! All numbers are big-endian; times are microseconds since 2000-01-01 00:00 UTC.
//! Source: "Streaming Replication Protocol" and `replication/walsender.c`, PostgreSQL 13 to 18.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::Mutex;

use crate::client::{
    Backend, ClientError, Connection, Fault, Incoming, Outgoing, Results, Row, Session, Socket, Stream,
};
use crate::lsn::{Lsn, Timeline};

/// Something the walsender says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalMessage {
    /// WAL, contiguous from message to message; up to 128 KiB, cut anywhere but in a page at the end of a segment.
    Data {
        /// The position of the first byte.
        start: Lsn,
        /// Up to where the server had WAL to send.
        server_end: Lsn,
        /// Its clock when it sent this, in microseconds since 2000-01-01 UTC.
        server_time: i64,
        /// The WAL. Never empty.
        bytes: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// Up to where the server has sent WAL.
        server_end: Lsn,
        /// Its clock when it sent this, in microseconds since 2000-01-01 UTC.
        server_time: i64,
        /// The server gives up in half of `wal_sender_timeout` unless it hears of us ([`WalWriter::send_status`]).
        reply_requested: bool,
    },
    /// The requested timeline ended here. The stream is over; [`WalStream::finish`] gives the connection back.
    TimelineEnd {
        /// The timeline the server's history continues on.
        next_timeline: Timeline,
        /// Where it begins.
        start: Lsn,
    },
}

/// What we have done with the WAL, for the server. Every field only ever grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Up to here it was received and handed to the operating system: releases `synchronous_commit=remote_write`.
    pub write: Lsn,
    /// Up to here it is durable: releases `synchronous_commit=on` and moves the slot on.
    pub flush: Lsn,
    /// Up to here it can be read by queries; [`Lsn::INVALID`] for a receiver that never applies anything.
    pub apply: Lsn,
}

/// A running stream. Use it whole, or [`WalStream::split`] it so that reading and reporting go on independently.
#[derive(Debug)]
pub struct WalStream {
    reader: WalReader,
    writer: WalWriter,
}

/// The half that receives WAL.
pub struct WalReader {
    about: Arc<str>,
    incoming: Incoming,
    socket: ReadHalf<Socket>,
    out: Arc<Mutex<Out>>,
    stage: Stage,
    session: Session,
    results: Results,
}

/// The half that reports positions. It never waits for WAL to be read.
pub struct WalWriter {
    about: Arc<str>,
    server: Arc<str>,
    out: Arc<Mutex<Out>>,
}

/// The sending side, shared because the reader answers `CopyDone` by itself.
struct Out {
    socket: WriteHalf<Socket>,
    outgoing: Outgoing,
    /// Our `CopyDone` was put into `outgoing`: nothing may follow it.
    done: bool,
}

/// How far the stream has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// WAL arrives.
    Copying,
    /// The server said `CopyDone`; ours is owed or sent; the result of the command follows.
    Ending,
    /// `ReadyForQuery`: the connection can be used again.
    Ended,
    /// An error was reported; there is nothing more to read.
    Failed,
}

impl WalStream {
    pub(super) async fn start(mut connection: Connection, command: String) -> Result<Self, ClientError> {
        let mut results = Results::default();
        let stage = match begin(&mut connection, &command, &mut results).await {
            Ok(stage) => stage,
            Err(fault) => return Err(connection.error(&command, fault)),
        };
        let (Stream { socket, incoming, outgoing }, session) = connection.take_apart();
        let (read, write) = tokio::io::split(socket);
        let out = Arc::new(Mutex::new(Out { socket: write, outgoing, done: stage == Stage::Ending }));
        let (about, server): (Arc<str>, _) = (command.into(), Arc::clone(session.server()));
        let writer = WalWriter { about: Arc::clone(&about), server, out: Arc::clone(&out) };
        Ok(Self { reader: WalReader { about, incoming, socket: read, out, stage, session, results }, writer })
    }

    /// See [`WalReader::next`].
    ///
    /// # Errors
    /// As there.
    pub async fn next(&mut self) -> Result<WalMessage, ClientError> {
        self.reader.next().await
    }

    /// See [`WalWriter::send_status`].
    ///
    /// # Errors
    /// As there.
    pub async fn send_status(
        &mut self,
        standing: Standing,
        now_micros: i64,
        reply_requested: bool,
    ) -> Result<(), ClientError> {
        self.writer.send_status(standing, now_micros, reply_requested).await
    }

    /// Two halves that can be used by different tasks.
    #[must_use]
    pub fn split(self) -> (WalReader, WalWriter) {
        (self.reader, self.writer)
    }

    /// Puts the halves of one stream together again.
    ///
    /// # Panics
    /// If they are halves of different streams.
    #[must_use]
    pub fn join(reader: WalReader, writer: WalWriter) -> Self {
        assert!(Arc::ptr_eq(&reader.out, &writer.out), "the halves belong to different WAL streams");
        Self { reader, writer }
    }

    /// Ends the stream, wherever it stands, and gives the connection back. WAL that is still under way is dropped.
    ///
    /// # Errors
    /// `Unavailable` if the connection broke, `Server` if the server reported an error at the end.
    pub async fn finish(self) -> Result<Connection, ClientError> {
        let Self { mut reader, writer } = self;
        if let Err(fault) = reader.drain().await {
            return Err(reader.error(fault));
        }
        drop(writer);
        let (about, server) = (Arc::clone(&reader.about), Arc::clone(reader.session.server()));
        reader.unsplit().map_err(|fault| ClientError::new(&*server, &*about, fault))
    }
}

/// Sends the command. A timeline that ends exactly where we ask to start is answered by its successor, without any stream.
async fn begin(connection: &mut Connection, command: &str, results: &mut Results) -> Result<Stage, Fault> {
    connection.require_replication()?;
    connection.send_simple(command).await?;
    let Some(first) = connection.start_of_copy_both().await? else { return Ok(Stage::Copying) };
    results.take(connection.shared_server(), first)?;
    Ok(Stage::Ending)
}

impl WalReader {
    /// What the server says next. Cancel safe: if the future is dropped, the next call goes on where it was.
    ///
    /// # Errors
    /// `Unavailable` if the connection broke or the server is shutting down; `Server` if the WAL is not there any more;
    /// `Invalid` after the end of the timeline was told.
    pub async fn next(&mut self) -> Result<WalMessage, ClientError> {
        self.step().await.map_err(|fault| self.error(fault))
    }

    fn error(&self, fault: Fault) -> ClientError {
        ClientError::new(&**self.session.server(), &*self.about, fault)
    }

    async fn step(&mut self) -> Result<WalMessage, Fault> {
        loop {
            match self.stage {
                Stage::Copying => {
                    if let Some(message) = self.copying().await? {
                        return Ok(message);
                    }
                }
                Stage::Ending => return self.ending().await,
                Stage::Ended | Stage::Failed => return Err(Fault::invalid("the stream has ended")),
            }
        }
    }

    /// The next message of the copy; `None` if the copy ended.
    async fn copying(&mut self) -> Result<Option<WalMessage>, Fault> {
        match self.receive().await? {
            Backend::Message(Message::CopyData(body)) => decode(body.into_bytes()).map(Some),
            Backend::Message(Message::CopyDone) => {
                self.stage = Stage::Ending;
                Ok(None)
            }
            // A server that shuts down ends the command without CopyDone (`WalSndDone`).
            Backend::Message(Message::CommandComplete(_)) => {
                self.stage = Stage::Failed;
                Err(Fault::unavailable("the server ended the stream because it is shutting down"))
            }
            other => Err(Fault::unexpected(other.name(), "streaming")),
        }
    }

    /// Answers `CopyDone` and reads where the history goes on.
    async fn ending(&mut self) -> Result<WalMessage, Fault> {
        self.read_results().await?;
        let rows = std::mem::take(&mut self.results).into_rows();
        let Some(row) = rows.first() else {
            return Err(Fault::unavailable("the server ended the stream without naming a next timeline"));
        };
        successor(row)
    }

    /// From the server's `CopyDone` to `ReadyForQuery`.
    async fn read_results(&mut self) -> Result<(), Fault> {
        self.send_copy_done().await?;
        let server = Arc::clone(self.session.server());
        loop {
            let message = self.receive().await?;
            if self.results.take(&server, message)? {
                self.stage = Stage::Ended;
                return Ok(());
            }
        }
    }

    async fn receive(&mut self) -> Result<Backend, Fault> {
        loop {
            let message = self.incoming.next(&mut self.socket).await?;
            match self.session.absorb(message)? {
                Some(Backend::Error(error)) => {
                    self.stage = Stage::Failed;
                    return Err(Fault::server_error(error));
                }
                Some(message) => return Ok(message),
                None => {}
            }
        }
    }

    async fn send_copy_done(&self) -> Result<(), Fault> {
        let mut out = self.out.lock().await;
        let Out { socket, outgoing, done } = &mut *out;
        if !std::mem::replace(done, true) {
            frontend::copy_done(&mut outgoing.buffer);
        }
        outgoing.flush(socket).await
    }

    /// Reads to `ReadyForQuery` from wherever the stream stands.
    async fn drain(&mut self) -> Result<(), Fault> {
        if self.stage == Stage::Copying {
            self.send_copy_done().await?;
            while self.copying().await?.is_some() {}
        }
        match self.stage {
            Stage::Ending => self.read_results().await,
            Stage::Ended => Ok(()),
            Stage::Copying | Stage::Failed => Err(Fault::invalid("the stream has failed")),
        }
    }

    fn unsplit(self) -> Result<Connection, Fault> {
        let out =
            Arc::try_unwrap(self.out).map_err(|_| Fault::invalid("the other half of the stream is still in use"))?;
        let Out { socket, outgoing, .. } = out.into_inner();
        let stream = Stream { socket: self.socket.unsplit(socket), incoming: self.incoming, outgoing };
        Ok(Connection::assemble(stream, self.session))
    }
}

impl WalWriter {
    /// Tells the server what we have done. `now_micros` is our clock in microseconds since 2000-01-01 UTC; the server only
    /// shows it. With `reply_requested` the server answers with a keep-alive at once.
    ///
    /// Cancel safe in this sense: a report that was begun is finished before the next one.
    ///
    /// # Errors
    /// `Unavailable` if the connection broke. After the end of the stream a report is silently not sent.
    pub async fn send_status(
        &mut self,
        standing: Standing,
        now_micros: i64,
        reply_requested: bool,
    ) -> Result<(), ClientError> {
        let mut out = self.out.lock().await;
        let Out { socket, outgoing, done } = &mut *out;
        if !*done {
            put_status(&mut outgoing.buffer, standing, now_micros, reply_requested);
        }
        let result = outgoing.flush(socket).await;
        result.map_err(|fault| ClientError::new(&*self.server, format!("reporting on {}", self.about), fault))
    }
}

fn put_status(buffer: &mut bytes::BytesMut, standing: Standing, now_micros: i64, reply_requested: bool) {
    const LEN: i32 = 4 + 1 + 3 * 8 + 8 + 1;
    buffer.put_u8(b'd');
    buffer.put_i32(LEN);
    buffer.put_u8(b'r');
    for position in [standing.write, standing.flush, standing.apply] {
        buffer.put_u64(position.0);
    }
    buffer.put_i64(now_micros);
    buffer.put_u8(u8::from(reply_requested));
}

/// Reads the body of a `CopyData` message of the walsender.
fn decode(mut body: Bytes) -> Result<WalMessage, Fault> {
    let short = |error: bytes::TryGetError| Fault::protocol(format!("a replication message is too short: {error}"));
    match body.try_get_u8().map_err(short)? {
        b'w' => {
            let start = Lsn(body.try_get_u64().map_err(short)?);
            let server_end = Lsn(body.try_get_u64().map_err(short)?);
            let server_time = body.try_get_i64().map_err(short)?;
            if body.is_empty() || start.checked_add(body.len() as u64).is_none() {
                return Err(Fault::protocol(format!("{} bytes of WAL at {start}", body.len())));
            }
            Ok(WalMessage::Data { start, server_end, server_time, bytes: body })
        }
        b'k' => {
            let server_end = Lsn(body.try_get_u64().map_err(short)?);
            let server_time = body.try_get_i64().map_err(short)?;
            let reply_requested = body.try_get_u8().map_err(short)? != 0;
            Ok(WalMessage::Keepalive { server_end, server_time, reply_requested })
        }
        other => Err(Fault::protocol(format!("unknown replication message {:?}", char::from(other)))),
    }
}

/// The result set at the end of a timeline: `next_tli`, `next_tli_startpos`.
fn successor(row: &Row) -> Result<WalMessage, Fault> {
    let read = || Some((row.parse::<u32>(0).ok()??, row.parse::<Lsn>(1).ok()??));
    let (timeline, start) = read().ok_or_else(|| Fault::protocol("the next timeline is not readable"))?;
    Ok(WalMessage::TimelineEnd { next_timeline: Timeline(timeline), start })
}

impl std::fmt::Debug for WalReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalReader").field("about", &self.about).field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for WalWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalWriter").field("about", &self.about).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(wal: &[u8]) -> Vec<u8> {
        let mut body = vec![b'w'];
        body.extend(0x0300_0000_u64.to_be_bytes());
        body.extend(0x0300_2000_u64.to_be_bytes());
        body.extend(7_i64.to_be_bytes());
        body.extend(wal);
        body
    }

    #[test]
    fn wal_and_signs_of_life_are_read() {
        let expect = WalMessage::Data {
            start: Lsn(0x0300_0000),
            server_end: Lsn(0x0300_2000),
            server_time: 7,
            bytes: Bytes::from_static(b"wal"),
        };
        assert_eq!(decode(data(b"wal").into()).expect("valid"), expect);
        let keepalive = [b"k".as_slice(), &1_u64.to_be_bytes(), &(-2_i64).to_be_bytes(), &[1]].concat();
        let expect = WalMessage::Keepalive { server_end: Lsn(1), server_time: -2, reply_requested: true };
        assert_eq!(decode(keepalive.into()).expect("valid"), expect);
    }

    #[test]
    fn a_message_cut_anywhere_in_its_header_is_refused() {
        let whole = data(b"");
        for cut in 0..=whole.len() {
            assert!(decode(Bytes::copy_from_slice(&whole[..cut])).is_err(), "{cut}");
        }
        assert!(decode(Bytes::from_static(b"x")).is_err());
    }

    #[test]
    fn wal_beyond_the_last_position_is_refused() {
        let mut body = data(b"wal");
        body[1..9].fill(0xff);
        assert!(decode(body.into()).is_err());
    }

    #[test]
    fn a_report_has_the_form_of_the_protocol() {
        let mut buffer = bytes::BytesMut::new();
        put_status(&mut buffer, Standing { write: Lsn(3), flush: Lsn(2), apply: Lsn(1) }, -1, true);
        let numbers: [u64; 4] = [3, 2, 1, u64::MAX];
        let body = numbers.map(u64::to_be_bytes).concat();
        assert_eq!(&buffer[..], [b"d\0\0\0\x26r".as_slice(), &body, &[1]].concat());
    }
}
