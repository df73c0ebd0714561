//! From a configuration to an open connection: hosts, addresses, encryption, login, session attributes.
//! Source: `PQconnectPoll` in `fe-connect.c`, PostgreSQL 18.

use std::collections::BTreeMap;
use std::io;

use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::auth::{self, Channel, Credentials};
use super::cancel::CancelToken;
use super::error::{ClientError, Fault};
use super::socket::{Address, Socket, addresses};
use super::stream::Stream;
use super::wire::{Backend, unsendable};
use super::{Connection, Mode, Session, State};
use crate::conninfo::{Config, Environment, Host, SslMode, Target, TargetSessionAttrs};
use crate::tls::{self, Tls};

const CONNECTING: &str = "connecting";

pub(super) async fn connect(config: &Config, mode: Mode, environment: &Environment) -> Result<Connection, ClientError> {
    let mut failures = Vec::new();
    for wanted in passes(config.target_session_attrs) {
        for host in &config.hosts {
            let attempt = Attempt { config, host, mode, environment };
            match attempt.connect(*wanted).await {
                Ok(connection) => return Ok(connection),
                Err(fault) if may_try_next(&fault) => failures.push((host.to_string(), fault)),
                Err(fault) => return Err(ClientError::new(host.to_string(), CONNECTING, fault)),
            }
        }
    }
    Err(nobody(failures))
}

fn passes(wanted: TargetSessionAttrs) -> &'static [TargetSessionAttrs] {
    use TargetSessionAttrs::{Any, PreferStandby, Primary, ReadOnly, ReadWrite, Standby};
    match wanted {
        Any => &[Any],
        ReadWrite => &[ReadWrite],
        ReadOnly => &[ReadOnly],
        Primary => &[Primary],
        Standby => &[Standby],
        PreferStandby => &[Standby, Any],
    }
}

/// A host that cannot be reached, is starting or stopping, or is the wrong one; not one that refused us.
fn may_try_next(fault: &Fault) -> bool {
    match fault {
        Fault::Io(_) | Fault::Unavailable(_) => true,
        fault => fault.sqlstate() == Some("57P03"),
    }
}

fn nobody(mut failures: Vec<(String, Fault)>) -> ClientError {
    if failures.len() == 1
        && let Some((host, fault)) = failures.pop()
    {
        return ClientError::new(host, CONNECTING, fault);
    }
    let hosts = failures.iter().map(|(host, _)| host.clone()).collect::<Vec<_>>().join(",");
    let reasons = failures.iter().map(|(host, fault)| format!("{host}: {fault}")).collect::<Vec<_>>().join("; ");
    ClientError::new(hosts, CONNECTING, Fault::unavailable(reasons))
}

/// How a stream is to be secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    None,
    IfOffered,
    Required,
}

/// Which kinds of stream are tried one after the other. Unix-domain sockets are never encrypted.
fn plan(mode: SslMode, host: &Host) -> &'static [Encryption] {
    use Encryption::{IfOffered, None, Required};
    match (&host.target, mode) {
        (Target::Unix { .. }, _) | (_, SslMode::Disable) => &[None],
        (_, SslMode::Allow) => &[None, Required],
        (_, SslMode::Prefer) => &[IfOffered, None],
        (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Required],
    }
}

/// A failed try, and what decides whether another kind of stream is tried.
struct Refusal {
    fault: Fault,
    /// The server was reached.
    reached: bool,
    /// TLS was under way.
    secure: bool,
}

impl Refusal {
    fn unreached(fault: Fault) -> Self {
        Self { fault, reached: false, secure: false }
    }

    /// `prefer` goes on without TLS after TLS or a login over TLS failed; `allow` with TLS after a refused login.
    fn worth_another(&self, tried: Encryption) -> bool {
        match tried {
            Encryption::IfOffered => self.reached && self.secure && !matches!(self.fault, Fault::Protocol(_)),
            Encryption::None => matches!(self.fault, Fault::Server(_)),
            Encryption::Required => false,
        }
    }
}

struct Attempt<'a> {
    config: &'a Config,
    host: &'a Host,
    mode: Mode,
    environment: &'a Environment,
}

impl Attempt<'_> {
    async fn connect(&self, wanted: TargetSessionAttrs) -> Result<Connection, Fault> {
        let mut last = Fault::unavailable("the host name has no address");
        for address in addresses(self.host).await? {
            match self.connect_address(&address).await {
                Ok(connection) => return attributes(connection, wanted).await,
                Err(fault) if may_try_next(&fault) => last = fault,
                Err(fault) => return Err(fault),
            }
        }
        Err(last)
    }

    async fn connect_address(&self, address: &Address) -> Result<Connection, Fault> {
        let Some(limit) = self.config.connect_timeout else { return self.try_plan(address).await };
        match tokio::time::timeout(limit, self.try_plan(address)).await {
            Ok(result) => result,
            Err(_) => Err(Fault::Io(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no session within connect_timeout ({} s)", limit.as_secs()),
            ))),
        }
    }

    async fn try_plan(&self, address: &Address) -> Result<Connection, Fault> {
        let plan = plan(self.config.ssl.mode, self.host);
        let mut first: Option<Fault> = None;
        for (index, encryption) in plan.iter().enumerate() {
            let refusal = match self.open(address, *encryption).await {
                Ok(connection) => return Ok(connection),
                Err(refusal) => refusal,
            };
            let last = index + 1 == plan.len() || !refusal.worth_another(*encryption);
            if last {
                return Err(more_telling(first, refusal.fault));
            }
            first = Some(refusal.fault);
        }
        Err(Fault::invalid("no way to connect"))
    }

    async fn open(&self, address: &Address, encryption: Encryption) -> Result<Connection, Refusal> {
        let tls = self.tls(encryption).map_err(Refusal::unreached)?;
        let socket = address.dial(&self.config.keepalives).await.map_err(Refusal::unreached)?;
        let socket = secure(socket, tls.as_ref(), encryption).await?;
        let encrypted = matches!(socket, Socket::Tls(_));
        let cancel_tls = if encrypted { tls } else { None };
        let token = CancelToken::new(self.host, address, self.config, cancel_tls);
        self.log_in(socket, token).await.map_err(|fault| Refusal { fault, reached: true, secure: encrypted })
    }

    fn tls(&self, encryption: Encryption) -> Result<Option<Tls>, Fault> {
        if encryption == Encryption::None {
            return Ok(None);
        }
        let name = match &self.host.target {
            Target::Tcp { name, .. } => name.as_deref(),
            Target::Unix { .. } => None,
        };
        Tls::prepare(&self.config.ssl, name, self.environment).map(Some)
    }

    async fn log_in(&self, socket: Socket, cancel: CancelToken) -> Result<Connection, Fault> {
        let channel = match &socket {
            Socket::Tls(stream) => Some(Channel { end_point: tls::end_point(stream) }),
            Socket::Tcp(_) | Socket::Unix(_) => None,
        };
        let mut stream = Stream::new(socket);
        frontend::startup_message(self.parameters(), stream.out()).map_err(unsendable)?;
        stream.flush().await?;
        auth::authenticate(&mut stream, &self.credentials(channel)).await?;
        stream.incoming.logged_in();
        let session = Session {
            server: self.host.to_string().into(),
            mode: self.mode,
            parameters: BTreeMap::new(),
            notices: Vec::new(),
            cancel,
            state: State::InRequest,
        };
        let mut connection = Connection { stream, session };
        connection.finish_start_up().await?;
        Ok(connection)
    }

    fn parameters(&self) -> Vec<(&str, &str)> {
        let config = self.config;
        let mut parameters = vec![("user", config.user.as_str()), ("database", config.dbname.as_str())];
        parameters.push(("client_encoding", "UTF8"));
        parameters.extend(config.application_name.as_deref().map(|name| ("application_name", name)));
        parameters.extend(config.options.as_deref().map(|options| ("options", options)));
        if self.mode == Mode::Replication {
            parameters.push(("replication", "true"));
        }
        parameters
    }

    fn credentials(&self, channel: Option<Channel>) -> Credentials<'_> {
        let dbname = self.config.dbname.as_str();
        let databases: &[&str] = match self.mode {
            Mode::Sql => &[dbname],
            Mode::Replication => &["replication", dbname],
        };
        let password = self.config.password_for(self.host, databases);
        Credentials { user: &self.config.user, password, binding: self.config.channel_binding, channel }
    }
}

/// Which of two refusals of the same server to show: a wrong password says more than "not without TLS".
fn more_telling(first: Option<Fault>, second: Fault) -> Fault {
    match first {
        Some(first) if first.sqlstate() == Some("28P01") && second.sqlstate() != Some("28P01") => first,
        Some(first) if matches!(first, Fault::Tls(_)) && matches!(second, Fault::Io(_)) => first,
        _ => second,
    }
}

/// Secures a stream as wished. Only TCP streams come here with anything to secure.
async fn secure(socket: Socket, tls: Option<&Tls>, encryption: Encryption) -> Result<Socket, Refusal> {
    let reached = |fault, secure| Refusal { fault, reached: true, secure };
    let (mut stream, tls) = match (socket, tls) {
        (Socket::Tcp(stream), Some(tls)) => (stream, tls),
        (socket, _) => return Ok(socket),
    };
    if !tls.direct() && !asks_for_tls(&mut stream).await.map_err(|fault| reached(fault, true))? {
        return match encryption {
            Encryption::Required => Err(reached(Fault::tls("the server does not offer TLS"), false)),
            Encryption::IfOffered | Encryption::None => Ok(Socket::Tcp(stream)),
        };
    }
    let stream = tls.handshake(stream).await.map_err(|fault| reached(fault, true))?;
    Ok(Socket::Tls(Box::new(stream)))
}

/// Sends SSLRequest; true if the server agrees. What follows the agreement in clear text may be somebody else's
/// (CVE-2021-23222), and an error before TLS is not worth showing because anybody could have written it (CVE-2024-10977).
pub(super) async fn asks_for_tls(stream: &mut TcpStream) -> Result<bool, Fault> {
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(Fault::Io)?;
    let mut answer = [0; 2];
    match (stream.read(&mut answer).await.map_err(Fault::Io)?, answer[0]) {
        (0, _) => Err(Fault::Io(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"))),
        (1, b'S') => Ok(true),
        (1, b'N') => Ok(false),
        (_, b'S' | b'N') => Err(Fault::protocol("the server sent unencrypted data after its answer to SSLRequest")),
        (_, b'E') => Err(Fault::unavailable("the server answered the request for TLS with an error")),
        _ => Err(Fault::protocol("the answer to SSLRequest is neither yes nor no")),
    }
}

impl Connection {
    /// From `AuthenticationOk` to `ReadyForQuery`.
    async fn finish_start_up(&mut self) -> Result<(), Fault> {
        loop {
            match self.next().await? {
                Backend::Message(Message::ReadyForQuery(_)) => return Ok(()),
                Backend::Key { process_id, key } => self.session.cancel.set_key(process_id, key),
                Backend::Error(error) => return Err(Fault::server_error(error)),
                other => return Err(Fault::unexpected(other.name(), "start-up")),
            }
        }
    }
}

/// Passes the connection on if its session has the wanted attributes, else says goodbye.
async fn attributes(mut connection: Connection, wanted: TargetSessionAttrs) -> Result<Connection, Fault> {
    let fits = match wanted {
        TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby => Ok(true),
        TargetSessionAttrs::ReadWrite => connection.is_read_only().await.map(|read_only| !read_only),
        TargetSessionAttrs::ReadOnly => connection.is_read_only().await,
        TargetSessionAttrs::Primary => connection.is_standby().await.map(|standby| !standby),
        TargetSessionAttrs::Standby => connection.is_standby().await,
    };
    match fits {
        Ok(true) => Ok(connection),
        Ok(false) => {
            connection.close().await;
            Err(Fault::unavailable(format!("the server is not {}", described(wanted))))
        }
        Err(fault) => Err(fault),
    }
}

fn described(wanted: TargetSessionAttrs) -> &'static str {
    match wanted {
        TargetSessionAttrs::ReadWrite => "read-write",
        TargetSessionAttrs::ReadOnly => "read-only",
        TargetSessionAttrs::Primary => "a primary",
        TargetSessionAttrs::Standby | TargetSessionAttrs::PreferStandby => "a standby",
        TargetSessionAttrs::Any => "usable",
    }
}

impl Connection {
    /// From 14 on the server reports both parameters at login; before, it is asked.
    async fn is_read_only(&mut self) -> Result<bool, Fault> {
        match (self.parameter("default_transaction_read_only"), self.parameter("in_hot_standby")) {
            (Some(read_only), Some(standby)) => Ok(read_only == "on" || standby == "on"),
            _ => self.ask("SHOW transaction_read_only").await.map(|answer| answer == "on"),
        }
    }

    /// A walsender of 13 knows no functions; there "read only" stands in, which is also true of a primary with
    /// `default_transaction_read_only`.
    async fn is_standby(&mut self) -> Result<bool, Fault> {
        match (self.parameter("in_hot_standby"), self.mode()) {
            (Some(standby), _) => Ok(standby == "on"),
            (None, Mode::Sql) => self.ask("SELECT pg_catalog.pg_is_in_recovery()").await.map(|answer| answer == "t"),
            (None, Mode::Replication) => self.is_read_only().await,
        }
    }

    async fn ask(&mut self, sql: &str) -> Result<String, Fault> {
        let rows = self.simple(sql).await?.into_rows();
        let value = rows.first().and_then(|row| row.bytes(0)).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        value.ok_or_else(|| Fault::protocol(format!("no answer to {sql}")))
    }
}
