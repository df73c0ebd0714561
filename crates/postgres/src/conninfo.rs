//! Where a PostgreSQL server is and how to be let in, from everything that can say so.
//!
//! The rules are libpq's, because operators know them: a connection string (pairs or URI) wins over the service file it
//! names, that over the `PG*` environment, that over defaults; a passfile serves when no password was given. Parsing is
//! pure; variables and files come through [`Environment`].
//! Source: "Database Connection Control Functions" (libpq chapter), PostgreSQL 18.

mod environment;
mod error;
mod parse;
mod passfile;
mod programs;
mod resolve;
mod secret;
mod service;
mod settings;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use environment::Environment;
pub use error::ConninfoError;
pub use passfile::{PassfileQuery, find_password, mode_is_private};
pub use programs::database_for_programs;
pub use secret::Secret;
pub use settings::Settings;

/// The port PostgreSQL listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 5432;

/// Where one server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// How to get there.
    pub target: Target,
    /// TCP port, or the number in the name of the socket file.
    pub port: u16,
}

/// The way to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// TCP. `name` is what certificates and the passfile are compared with; `address` spares the name resolution.
    /// At least one of the two is set.
    Tcp {
        /// Host name or address as written in `host`.
        name: Option<String>,
        /// `hostaddr`.
        address: Option<std::net::IpAddr>,
    },
    /// A Unix-domain socket in this directory; `@name` is the abstract namespace of Linux.
    Unix {
        /// The directory.
        directory: PathBuf,
        /// Nobody named it: one of the places where servers put their socket.
        default: bool,
    },
}

/// Whether a connection is encrypted and what is proven of the server. Source: "SSL Mode Descriptions", PostgreSQL 18.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS only if the server refuses without.
    Allow,
    /// TLS if the server has it; without, if TLS fails.
    #[default]
    Prefer,
    /// TLS; the certificate is only checked if there is a root certificate.
    Require,
    /// TLS; the certificate was issued by a trusted root.
    VerifyCa,
    /// As `VerifyCa`, and it names the host.
    VerifyFull,
}

/// How TLS begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslNegotiation {
    /// Ask with an SSLRequest packet first.
    #[default]
    Postgres,
    /// Begin with the TLS handshake (servers from 17 on).
    Direct,
}

/// Which certificates are trusted to vouch for a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCertificates {
    /// `sslrootcert=system`.
    System,
    /// A file that was named: it must exist.
    File(PathBuf),
    /// `~/.postgresql/root.crt`: used if it exists.
    DefaultFile(PathBuf),
    /// None named, and no home to look in.
    None,
}

/// A file that was named must exist; a default one may be absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionalFile {
    /// Where.
    pub path: PathBuf,
    /// Whether somebody named it.
    pub named: bool,
}

/// Everything about TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SslSettings {
    /// `sslmode`.
    pub mode: SslMode,
    /// `sslnegotiation`.
    pub negotiation: SslNegotiation,
    /// `sslrootcert`.
    pub roots: RootCertificates,
    /// `sslcert`.
    pub certificate: Option<OptionalFile>,
    /// `sslkey`.
    pub key: Option<OptionalFile>,
}

/// Whether authentication must be bound to the TLS channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// If the server offers it.
    #[default]
    Prefer,
    /// Nothing else is accepted: a server in between cannot pass for the real one.
    Require,
}

/// Which of several hosts is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetSessionAttrs {
    /// The first that answers.
    #[default]
    Any,
    /// Accepts writes by default.
    ReadWrite,
    /// Does not.
    ReadOnly,
    /// Not in recovery.
    Primary,
    /// In recovery.
    Standby,
    /// A standby; any if there is none.
    PreferStandby,
}

/// TCP keep-alive and user timeout; `None` leaves the system's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalives {
    /// `keepalives`; on unless switched off.
    pub enabled: bool,
    /// `keepalives_idle`.
    pub idle: Option<Duration>,
    /// `keepalives_interval`.
    pub interval: Option<Duration>,
    /// `keepalives_count`.
    pub count: Option<u32>,
    /// `tcp_user_timeout`, in milliseconds.
    pub user_timeout_ms: Option<u32>,
}

/// A resolved configuration: every question a connection asks has an answer.
#[derive(Clone, Debug)]
pub struct Config {
    /// In the order in which they are tried; never empty.
    pub hosts: Vec<Host>,
    /// Role.
    pub user: String,
    /// Database.
    pub dbname: String,
    /// A password that was given outright.
    pub password: Option<Secret>,
    /// The content of a usable passfile.
    pub passfile: Option<Secret>,
    /// TLS.
    pub ssl: SslSettings,
    /// `channel_binding`.
    pub channel_binding: ChannelBinding,
    /// Per address; `None` waits for ever.
    pub connect_timeout: Option<Duration>,
    /// `target_session_attrs`.
    pub target_session_attrs: TargetSessionAttrs,
    /// What `pg_stat_activity` and `synchronous_standby_names` see.
    pub application_name: Option<String>,
    /// Command-line options for the server process (`-c name=value`).
    pub options: Option<String>,
    /// TCP keep-alive.
    pub keepalives: Keepalives,
    /// What was ignored and why, in words for the operator.
    pub warnings: Vec<Warning>,
}

/// Something that was set aside while the configuration was put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A passfile that group or others can reach is not used, as in libpq.
    PassfileNotPrivate {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The passfile exists and cannot be read.
    PassfileUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PassfileNotPrivate { path, mode } => {
                write!(f, "password file {} has mode {mode:04o} and is ignored (chmod 0600)", path.display())
            }
            Self::PassfileUnreadable { path, reason } => {
                write!(f, "password file {} cannot be read: {reason}", path.display())
            }
        }
    }
}

impl Settings {
    /// Reads a connection string: `key=value` pairs, or a URI `postgresql://…`. The empty string is valid and sets nothing.
    ///
    /// # Errors
    /// A key that does not exist, or text outside the grammar. Values are only judged by [`Config::resolve`].
    pub fn parse(text: &str) -> Result<Self, ConninfoError> {
        parse::parse(text)
    }
}

impl Config {
    /// Reads a connection string and completes it from `environment`.
    ///
    /// # Errors
    /// As [`Settings::parse`] and [`Config::resolve`].
    pub fn parse(text: &str, environment: &Environment) -> Result<Self, ConninfoError> {
        Self::resolve(Settings::parse(text)?, environment)
    }

    /// Completes settings in libpq's order: service file, environment, defaults; then judges every value.
    ///
    /// # Errors
    /// A value its key does not allow, options that exclude each other, a service that is not defined, an unreadable file.
    pub fn resolve(settings: Settings, environment: &Environment) -> Result<Self, ConninfoError> {
        resolve::resolve(settings, environment)
    }

    /// The password for one host: the one given outright, else the passfile's.
    /// `databases` are tried in order: a replication connection looks for `replication` before its database.
    #[must_use]
    pub fn password_for(&self, host: &Host, databases: &[&str]) -> Option<Secret> {
        if self.password.is_some() {
            return self.password.clone();
        }
        let content = self.passfile.as_ref()?.expose();
        let name = host.passfile_name();
        let (port, user) = (host.port, self.user.as_str());
        let query = |database| PassfileQuery { host: &name, port, database, user };
        databases.iter().find_map(|database| find_password(content, query(database)))
    }
}

impl Host {
    fn passfile_name(&self) -> String {
        match &self.target {
            Target::Tcp { name: Some(name), .. } => name.clone(),
            Target::Tcp { address: Some(address), .. } => address.to_string(),
            Target::Unix { directory, default: false } => directory.display().to_string(),
            Target::Unix { default: true, .. } | Target::Tcp { name: None, address: None } => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for Host {
    /// `db1:5432`, `[::1]:5432` or `/run/postgresql/.s.PGSQL.5432`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Tcp { name: Some(name), .. } if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Target::Tcp { name: Some(name), .. } => write!(f, "{name}:{}", self.port),
            Target::Tcp { address: Some(address), .. } => std::net::SocketAddr::new(*address, self.port).fmt(f),
            Target::Tcp { name: None, address: None } => write!(f, "localhost:{}", self.port),
            Target::Unix { directory, .. } => write!(f, "{}/.s.PGSQL.{}", directory.display(), self.port),
        }
    }
}

impl fmt::Display for Config {
    /// `alice@db1:5432,db2:5432/app`: for messages. Never shows a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@", self.user)?;
        for (index, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if index == 0 { "" } else { "," })?;
        }
        write!(f, "/{}", self.dbname)
    }
}
