//! Stopping a request from another connection.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect::asks_for_tls;
use super::error::{ClientError, Fault};
use super::socket::{Address, Socket};
use crate::conninfo::{Config, Host, Keepalives};
use crate::tls::Tls;

/// Names a running session to its server. Cheap to clone; stays valid while the session lives.
#[derive(Clone)]
pub struct CancelToken(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    server: String,
    address: Address,
    keepalives: Keepalives,
    timeout: Option<std::time::Duration>,
    /// Set if the session itself is encrypted: then the request is, too.
    tls: Option<Tls>,
    process_id: i32,
    key: Bytes,
}

/// `CancelRequestCode` in `libpq/pqcomm.h`.
const CANCEL_REQUEST: i32 = 80_877_102;

impl CancelToken {
    pub(super) fn new(host: &Host, address: &Address, config: &Config, tls: Option<Tls>) -> Self {
        Self(Arc::new(Inner {
            server: host.to_string(),
            address: address.clone(),
            keepalives: config.keepalives,
            timeout: config.connect_timeout,
            tls,
            process_id: 0,
            key: Bytes::new(),
        }))
    }

    pub(super) fn set_key(&mut self, process_id: i32, key: Bytes) {
        let inner = Arc::make_mut(&mut self.0);
        inner.process_id = process_id;
        inner.key = key;
    }

    pub(super) fn process_id(&self) -> i32 {
        self.0.process_id
    }

    /// Asks the server to stop what the session is doing. That the request arrived says nothing about its effect: the
    /// session may just have finished. The request that was stopped fails with SQLSTATE 57014.
    ///
    /// # Errors
    /// `Unavailable` or `Tls` if the server cannot be asked.
    pub async fn cancel(&self) -> Result<(), ClientError> {
        let result = match self.0.timeout {
            None => self.send().await,
            Some(limit) => tokio::time::timeout(limit, self.send())
                .await
                .unwrap_or_else(|_| Err(Fault::Io(std::io::ErrorKind::TimedOut.into()))),
        };
        result.map_err(|fault| ClientError::new(&*self.0.server, "cancelling a request", fault))
    }

    async fn send(&self) -> Result<(), Fault> {
        let socket = self.0.address.dial(&self.0.keepalives).await?;
        let mut socket = match (socket, &self.0.tls) {
            (Socket::Tcp(mut stream), Some(tls)) => {
                if !tls.direct() && !asks_for_tls(&mut stream).await? {
                    return Err(Fault::tls("the server does not offer TLS any more"));
                }
                Socket::Tls(Box::new(tls.handshake(stream).await?))
            }
            (socket, _) => socket,
        };
        socket.write_all(&self.request()).await.map_err(Fault::Io)?;
        socket.flush().await.map_err(Fault::Io)?;
        // The server answers by closing, after it has passed the request on. How it closes does not matter.
        drop(socket.read(&mut [0; 1]).await);
        Ok(())
    }

    fn request(&self) -> BytesMut {
        let mut request = BytesMut::new();
        let key = &self.0.key;
        request.put_i32(i32::try_from(12 + key.len()).expect("a key has at most 256 bytes"));
        request.put_i32(CANCEL_REQUEST);
        request.put_i32(self.0.process_id);
        request.extend_from_slice(key);
        request
    }
}

impl std::fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelToken({} process {})", self.0.server, self.0.process_id)
    }
}
