//! The client against real servers: every login, TLS, queries, copies and physical streaming.
//!
//! Servers are those of `ASOF_TEST_MAJORS`; a major that is missing fails the run. Nothing waits for a time to pass: a test
//! that needs a session to be somewhere asks the server until it is there.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests use the real machine, and a failure is the answer"
)]
#![allow(missing_docs, reason = "the names of tests are sentences")]

mod certificates;
mod login;
mod replication;
mod sql;
mod stub;
mod tls;

use std::error::Error;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use asof_postgres::client::{ClientError, Connection, Mode};
use asof_postgres::conninfo::{Config, Environment};
use asof_testkit::Server;

pub(crate) use asof_testkit::{Options, majors};

/// The real machine, but no variables and no home.
pub(crate) fn environment() -> Environment {
    Environment {
        read_file: Arc::new(|path| std::fs::read(path)),
        file_mode: Arc::new(|path| Ok(std::fs::metadata(path)?.permissions().mode() & 0o777)),
        unix_seconds: Arc::new(now),
        user: Some("postgres".to_owned()),
        ..Environment::empty(0)
    }
}

/// As [`environment`], with a home directory.
pub(crate) fn environment_at_home(home: &Path) -> Environment {
    Environment { home: Some(home.to_owned()), ..environment() }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Microseconds since 2000-01-01, for status reports.
pub(crate) fn pg_micros() -> i64 {
    i64::try_from((now() - 946_684_800) * 1_000_000).unwrap()
}

pub(crate) async fn try_connect(conninfo: &str, mode: Mode) -> Result<Connection, ClientError> {
    Connection::connect(&Config::parse(conninfo, &environment()).unwrap(), mode, &environment()).await
}

pub(crate) async fn connect(conninfo: &str, mode: Mode) -> Connection {
    try_connect(conninfo, mode).await.unwrap_or_else(|error| panic!("{conninfo}: {}", chain(&error)))
}

/// An SQL connection over the socket, as superuser.
pub(crate) async fn sql(server: &Server) -> Connection {
    connect(&server.conninfo(), Mode::Sql).await
}

pub(crate) async fn refused(conninfo: &str, mode: Mode) -> ClientError {
    match try_connect(conninfo, mode).await {
        Ok(_) => panic!("{conninfo} was let in"),
        Err(error) => error,
    }
}

/// An error with all its causes, as an operator would see it.
pub(crate) fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// Asks until the answer to `sql` is `t`.
pub(crate) async fn wait_for(observer: &mut Connection, sql: &str) {
    loop {
        let row = observer.query_one(sql).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        // What a session has not reported yet is NULL.
        if row.text(0).unwrap() == Some("t") {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// SQL that is true once the session of `pid` waits for `event`.
pub(crate) fn waits_for(pid: i32, event: &str) -> String {
    format!("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event = '{event}')")
}
