//! Waiting for a server that was started: until it is open, at its target, or failed.
//!
//! Three sources, each asked only for what it knows for certain. The process: whether it lives. `postmaster.pid`: whether
//! connections are taken, during recovery, too. A connection: whether recovery is over, and how far it is.

use std::sync::Arc;
use std::time::Duration;

use asof_postgres::client::{ClientError, Connection, ErrorKind, Mode, Row};
use asof_postgres::lsn::Lsn;
use asof_world::{Exit, Process, ProcessState, World};

use super::isolation::TargetAction;
use super::log::{Log, excerpt, reason};
use super::process::PidFile;
use super::{Instance, Reached};
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};

const LOOK_EVERY: Duration = Duration::from_millis(50);
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What the server log says, in 14 and later, when it stands still because a setting is below the primary's.
const STANDS_STILL: &str = "insufficient parameter settings";

pub(super) struct Watch<'a> {
    pub(super) world: &'a World,
    pub(super) instance: &'a Instance,
    pub(super) process: &'a Arc<dyn Process>,
    pub(super) log: &'a Log,
    pub(super) observer: &'a dyn Observer,
}

/// What a server answers about its recovery.
enum Answer {
    NotYet,
    Replaying(Option<Lsn>),
    Paused(Option<Lsn>),
    Open(Option<Lsn>),
}

type Outcome = (Reached, Option<Lsn>);

impl Watch<'_> {
    pub(super) async fn wait(&self) -> Result<Outcome> {
        let (mut session, mut told) = (Session::default(), Told::default());
        loop {
            if let Some(exit) = self.ended()? {
                return self.after_the_end(exit).await;
            }
            match self.ask(&mut session).await? {
                Answer::Open(lsn) => return Ok((Reached::Open, lsn)),
                Answer::Paused(lsn) => return self.paused(lsn).await,
                Answer::Replaying(Some(lsn)) => told.tell(self.world.monotonic(), lsn, self.observer),
                Answer::Replaying(None) | Answer::NotYet => {}
            }
            self.world.sleep(LOOK_EVERY).await;
        }
    }

    fn ended(&self) -> Result<Option<Option<Exit>>> {
        let state = self.process.state();
        match state.map_err(Error::files("look at", format!("/proc/{}", self.process.pid())))? {
            ProcessState::Running => Ok(None),
            ProcessState::Ended(exit) => Ok(Some(exit)),
        }
    }

    async fn after_the_end(&self, exit: Option<Exit>) -> Result<Outcome> {
        let action = self.instance.recovery.as_ref().map(|recovery| recovery.action);
        if action == Some(TargetAction::Shutdown) && exit == Some(Exit::Code(0)) {
            return Ok((Reached::ShutDownAtTarget, None));
        }
        let how = match exit {
            Some(Exit::Code(code)) => format!("exit code {code}"),
            Some(Exit::Signal(signal)) => format!("signal {signal}"),
            None => "nobody knows how".to_owned(),
        };
        Err(self.failure(&format!("ended before it was ready ({how})")).await)
    }

    /// A pause is what was asked for, or the server's way of refusing to go on.
    async fn paused(&self, lsn: Option<Lsn>) -> Result<Outcome> {
        let action = self.instance.recovery.as_ref().map(|recovery| recovery.action);
        if action == Some(TargetAction::Pause) && !self.log.text(self.world).await.contains(STANDS_STILL) {
            return Ok((Reached::PausedAtTarget, lsn));
        }
        Err(self.failure("stands still in recovery").await)
    }

    async fn failure(&self, what: &str) -> Error {
        let text = self.log.text(self.world).await;
        let why = reason(&text).map(|reason| format!(": {reason}")).unwrap_or_default();
        let data = self.instance.data_directory.display();
        let hint = format!("the server's log, {}, ends with\n{}", self.log.path.display(), excerpt(&text));
        Error::Program { what: format!("the server in {data} {what}{why}"), hint: Some(hint) }
    }

    async fn ask(&self, session: &mut Session) -> Result<Answer> {
        if session.connection.is_none() {
            let file = PidFile::read(self.world, &self.instance.data_directory).await;
            // A file of an earlier server names another process until this one has replaced it.
            if !file.is_some_and(|file| file.ready && file.pid == self.process.pid()) {
                return Ok(Answer::NotYet);
            }
        }
        match session.question(self).await {
            Ok(row) => answer(&row).map_err(Error::from),
            Err(error) => {
                session.connection = None;
                self.excuse(session, error)
            }
        }
    }

    /// Errors that pass: the server is starting or stopping, or recovery ended between two questions.
    fn excuse(&self, session: &mut Session, error: ClientError) -> Result<Answer> {
        match (error.kind(), error.sqlstate()) {
            (ErrorKind::Unavailable, _) | (_, Some("55000")) => Ok(Answer::NotYet),
            (_, Some("3D000")) if session.database == DATABASES[0] => {
                session.database = DATABASES[1];
                Ok(Answer::NotYet)
            }
            (ErrorKind::Denied, _) => {
                let role = &self.instance.role;
                let why = error.server_error().map(|error| format!(": {}", error.message)).unwrap_or_default();
                let what =
                    format!("the server in {} refuses the role {role}{why}", self.instance.data_directory.display());
                Err(Error::refused(what, "name a role that the instance had at the target and that may log in"))
            }
            _ => Err(error.into()),
        }
    }
}

/// Where every instance can be asked; the first may have been dropped.
const DATABASES: [&str; 2] = ["postgres", "template1"];

struct Session {
    connection: Option<Connection>,
    database: &'static str,
}

impl Default for Session {
    fn default() -> Self {
        Self { connection: None, database: DATABASES[0] }
    }
}

impl Session {
    async fn question(&mut self, watch: &Watch<'_>) -> Result<Row, ClientError> {
        if self.connection.is_none() {
            let server = watch.instance.server(watch.world, self.database);
            let server = server.expect("the names of settings are known, and a role is only text");
            self.connection = Some(Connection::connect(&server.config, Mode::Sql, &server.environment).await?);
        }
        let connection = self.connection.as_mut().expect("was just connected");
        connection.query_one(question(watch.instance.major)).await
    }
}

/// 13 tells only whether a pause was asked for, which at a target comes to the same.
fn question(major: u32) -> &'static str {
    if major == 13 {
        "SELECT pg_catalog.pg_is_in_recovery(), \
         CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_is_wal_replay_paused() END, \
         pg_catalog.pg_last_wal_replay_lsn()"
    } else {
        "SELECT pg_catalog.pg_is_in_recovery(), \
         CASE WHEN pg_catalog.pg_is_in_recovery() \
              THEN pg_catalog.pg_get_wal_replay_pause_state() OPERATOR(pg_catalog.=) 'paused' END, \
         pg_catalog.pg_last_wal_replay_lsn()"
    }
}

fn answer(row: &Row) -> Result<Answer, ClientError> {
    let lsn: Option<Lsn> = row.parse(2)?;
    Ok(match (row.required(0)?, row.text(1)?) {
        ("t", Some("t")) => Answer::Paused(lsn),
        ("t", _) => Answer::Replaying(lsn),
        _ => Answer::Open(lsn),
    })
}

/// Tells how far replay is: only news, and not too often.
#[derive(Default)]
struct Told {
    last: Option<(Duration, Lsn)>,
}

impl Told {
    fn tell(&mut self, now: Duration, lsn: Lsn, observer: &dyn Observer) {
        let due = self.last.is_none_or(|(when, told)| told != lsn && now.saturating_sub(when) >= TELL_EVERY);
        if due {
            self.last = Some((now, lsn));
            observer.event(Event::Note(format!("replayed to {lsn}")));
        }
    }
}

/// Whether a start failed only because somebody else had the port.
pub(super) fn port_is_taken(error: &Error) -> bool {
    let Error::Program { hint: Some(log), .. } = error else { return false };
    log.contains("could not bind") || log.contains("could not create any TCP/IP sockets")
}
