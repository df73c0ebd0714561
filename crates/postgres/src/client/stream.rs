//! A socket with message buffers on both sides.

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::error::Fault;
use super::socket::Socket;
use super::wire::{Backend, Incoming, Outgoing};

pub(crate) struct Stream {
    pub(crate) socket: Socket,
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
}

impl Stream {
    pub(crate) fn new(socket: Socket) -> Self {
        Self { socket, incoming: Incoming::new(), outgoing: Outgoing::default() }
    }

    /// Where messages are written before [`Self::flush`].
    pub(crate) fn out(&mut self) -> &mut BytesMut {
        &mut self.outgoing.buffer
    }

    /// Sends what was written. If the server hung up, its last words say more than a broken pipe.
    pub(crate) async fn flush(&mut self) -> Result<(), Fault> {
        match self.outgoing.flush(&mut self.socket).await {
            Err(Fault::Io(broken)) => Err(self.last_words().await.unwrap_or(Fault::Io(broken))),
            result => result,
        }
    }

    /// The next message. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Backend, Fault> {
        self.incoming.next(&mut self.socket).await
    }

    async fn last_words(&mut self) -> Option<Fault> {
        loop {
            match self.next().await {
                Ok(Backend::Error(error)) => return Some(Fault::server_error(error)),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// Says goodbye. Errors do not matter any more.
    pub(crate) async fn terminate(mut self) {
        postgres_protocol::message::frontend::terminate(self.out());
        if self.outgoing.flush(&mut self.socket).await.is_ok() {
            drop(self.socket.shutdown().await);
        }
    }
}
