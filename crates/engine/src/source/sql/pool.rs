//! Connections that are shared by the tasks of one backup.
//!
//! All of them lead to the same running server: the first one decides which host that is, and every later one must find the
//! same start time, to the microsecond. A server that was restarted, or another one behind the same name, is refused, since
//! bytes of two servers must never meet in one backup.

use std::sync::Arc;

use asof_postgres::client::{ClientError, Connection, ErrorKind};
use asof_postgres::version::Major;
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::lock::Mutex;

use super::{ReadError, explain};
use crate::error::{Error, Result};
use crate::server::Server;

/// An idle connection; `None` stands for one that broke and is opened anew by the next who needs it.
type Idle = Option<Connection>;

pub(super) struct Pool {
    pub(super) major: Major,
    server: Server,
    identity: String,
    /// Whoever waits for a connection waits for this lock, which is fair.
    idle: Mutex<UnboundedReceiver<Idle>>,
    back: UnboundedSender<Idle>,
}

impl Pool {
    pub(super) async fn connect(server: &Server, connections: usize) -> Result<Arc<Self>> {
        let connections = connections.max(1);
        let (first, major, identity) = open(server).await?;
        let server = server.at_host_of(&first);
        let (back, idle) = unbounded();
        give(&back, Some(first));
        for _ in 1..connections {
            give(&back, Some(open_same(&server, &identity).await?));
        }
        Ok(Arc::new(Self { major, server, identity, idle: Mutex::new(idle), back }))
    }

    /// Waits for a connection and reopens it if it broke; once, so that the error of a server that is gone is reported.
    pub(super) async fn take(&self) -> Result<Lease<'_>> {
        let idle = self.idle.lock().await.next().await.expect("the pool holds a sender itself");
        let mut lease = Lease { pool: self, connection: idle, intact: false };
        if lease.connection.is_none() {
            lease.connection = Some(open_same(&self.server, &self.identity).await?);
        }
        Ok(lease)
    }
}

async fn open(server: &Server) -> Result<(Connection, Major, String)> {
    let mut connection = server.connect().await?;
    let number = connection.server_version_num()?;
    let major = Major::from_server_version_num(i64::from(number))
        .map_err(|error| Error::refused(error.to_string(), "asof protects PostgreSQL 13 to 18"))?;
    // Names of files are bytes: with this encoding they pass as they are. From 17 on a single statement has a limit, too.
    let unlimited = if major >= Major::V17 { "; SET transaction_timeout = 0" } else { "" };
    connection.execute(&format!("SET client_encoding = 'SQL_ASCII'{unlimited}")).await?;
    let asked = "SELECT EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time())";
    let identity = connection.query_one(asked).await?.required(0)?.to_owned();
    Ok((connection, major, identity))
}

async fn open_same(server: &Server, identity: &str) -> Result<Connection> {
    let (connection, _, found) = open(server).await?;
    if found != identity {
        let what = format!("{} was restarted, or is another server than the one that is being read", server.config);
        return Err(Error::refused(what, "start again; with several addresses behind one name, give one of them"));
    }
    Ok(connection)
}

fn give(back: &UnboundedSender<Idle>, connection: Idle) {
    // Fails only when the pool itself is gone, and then nobody wants the connection.
    let _ = back.unbounded_send(connection);
}

/// A connection for one request. It goes back to the pool in any case, and is opened anew unless the request was settled.
pub(super) struct Lease<'a> {
    pool: &'a Pool,
    connection: Idle,
    intact: bool,
}

impl Lease<'_> {
    pub(super) fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("a lease is made with a connection")
    }

    /// Ends the lease. After an error that the server reported about the request, the connection is as good as before.
    pub(super) fn settle<T>(mut self, result: Result<T, ClientError>) -> Result<T> {
        self.intact = match &result {
            Ok(_) => true,
            Err(error) => matches!(error.kind(), ErrorKind::Server | ErrorKind::Denied),
        };
        result.map_err(|error| explain(error, &self.pool.server, self.pool.major))
    }

    pub(super) fn settle_read<T>(self, result: Result<T, ReadError>) -> Result<T> {
        match result {
            Ok(value) => self.settle(Ok(value)),
            Err(ReadError::Client(error)) => self.settle(Err(error)),
            Err(ReadError::Format(why)) => {
                let what = format!("{} sent what is no answer to a read: {why}", self.pool.server.config);
                Err(Error::damaged(what, "look for a proxy between asof and the server"))
            }
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        give(&self.pool.back, self.connection.take().filter(|_| self.intact));
    }
}
