//! A way to a server: TCP, TLS over TCP, or a Unix-domain socket.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::error::Fault;
use crate::conninfo::{Host, Keepalives, Target};

/// One place that a connection is made to; a host may have several.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// An open stream.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// Where a host can be reached, in the order of the resolver.
pub(crate) async fn addresses(host: &Host) -> Result<Vec<Address>, Fault> {
    match &host.target {
        Target::Unix { directory, .. } => Ok(vec![Address::Unix(socket_file(directory.clone(), host.port))]),
        Target::Tcp { address: Some(address), .. } => Ok(vec![Address::Tcp(SocketAddr::new(*address, host.port))]),
        Target::Tcp { name, address: None } => {
            let name = name.as_deref().unwrap_or("localhost");
            let found = tokio::net::lookup_host((name, host.port)).await.map_err(Fault::Io)?;
            Ok(found.map(Address::Tcp).collect())
        }
    }
}

/// `<directory>/.s.PGSQL.<port>`; a leading `@` becomes the zero byte of the abstract namespace.
/// Source: `UNIXSOCK_PATH` in `libpq/pqcomm.h`, PostgreSQL 18.
fn socket_file(directory: PathBuf, port: u16) -> PathBuf {
    let file = directory.join(format!(".s.PGSQL.{port}"));
    match file.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => PathBuf::from(OsString::from(format!("\0{name}"))),
        None => file,
    }
}

impl Address {
    /// Opens a stream; never TLS.
    pub(crate) async fn dial(&self, keepalives: &Keepalives) -> Result<Socket, Fault> {
        match self {
            Self::Unix(path) => {
                UnixStream::connect(path).await.map(Socket::Unix).map_err(|error| self.unreachable(error))
            }
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(|error| self.unreachable(error))?;
                set_options(&stream, keepalives).map_err(Fault::Io)?;
                Ok(Socket::Tcp(stream))
            }
        }
    }

    fn unreachable(&self, error: io::Error) -> Fault {
        let shown = match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(path) => path.display().to_string().replace('\0', "@"),
        };
        Fault::Io(io::Error::new(error.kind(), format!("{shown}: {error}")))
    }
}

fn set_options(stream: &TcpStream, keepalives: &Keepalives) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, keepalives.enabled)?;
    if keepalives.enabled {
        keepalives.idle.map_or(Ok(()), |idle| sockopt::set_tcp_keepidle(stream, idle))?;
        keepalives.interval.map_or(Ok(()), |interval| sockopt::set_tcp_keepintvl(stream, interval))?;
        keepalives.count.map_or(Ok(()), |count| sockopt::set_tcp_keepcnt(stream, count))?;
    }
    #[cfg(target_os = "linux")]
    keepalives.user_timeout_ms.map_or(Ok(()), |timeout| sockopt::set_tcp_user_timeout(stream, timeout))?;
    Ok(())
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
