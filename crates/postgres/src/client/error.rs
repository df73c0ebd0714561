//! What can go wrong with a server, sorted by what the caller does about it.

use std::error::Error;
use std::fmt;
use std::io;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;

/// The reaction that an error calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Nobody answers, the connection broke, or the server is starting, stopping or full: try again later.
    /// A statement that was under way may have taken effect.
    Unavailable,
    /// Wrong password, no matching line in `pg_hba.conf`, missing privilege: somebody has to change something.
    Denied,
    /// The server reported an error about what was asked; see [`ClientError::server_error`].
    Server,
    /// What arrived is not the PostgreSQL protocol, or not in this order. The connection is unusable.
    Protocol,
    /// No encrypted connection as asked for: no TLS on the server, or a certificate that proves nothing.
    Tls,
    /// The request itself makes no sense: a bad file, name or order of calls.
    Invalid,
}

/// An `ErrorResponse` or `NoticeResponse` of the server.
/// Source: "Error and Notice Message Fields" (protocol chapter), PostgreSQL 18.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `PANIC`, or a notice level; never translated.
    pub severity: String,
    /// SQLSTATE, five characters.
    pub code: String,
    /// One line.
    pub message: String,
    /// More, possibly several lines.
    pub detail: Option<String>,
    /// A suggestion.
    pub hint: Option<String>,
}

impl ServerError {
    pub(crate) fn from_fields(mut fields: ErrorFields<'_>) -> io::Result<Self> {
        let mut error = Self::default();
        let mut translated = String::new();
        while let Some(field) = fields.next()? {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'S' => translated = value,
                b'V' => error.severity = value,
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                _ => {}
            }
        }
        if error.severity.is_empty() {
            error.severity = translated;
        }
        Ok(error)
    }

    /// SQLSTATE classes by reaction. Source: "PostgreSQL Error Codes" (appendix), PostgreSQL 18.
    fn kind(&self) -> ErrorKind {
        match self.code.as_str() {
            "42501" => ErrorKind::Denied,
            // too_many_connections, admin_shutdown, crash_shutdown, cannot_connect_now, idle_session_timeout
            "53300" | "57P01" | "57P02" | "57P03" | "57P05" => ErrorKind::Unavailable,
            code if code.starts_with("28") => ErrorKind::Denied,
            code if code.starts_with("08") => ErrorKind::Unavailable,
            _ => ErrorKind::Server,
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (SQLSTATE {})", self.severity, self.message, self.code)?;
        match &self.detail {
            Some(detail) => write!(f, "; {detail}"),
            None => Ok(()),
        }
    }
}

impl Error for ServerError {}

/// A failure that names the server, what was being done, and the kind of reaction it calls for.
/// `Display` is one clause; the cause stands in `source()`.
#[derive(Debug)]
pub struct ClientError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    server: String,
    action: String,
    fault: Fault,
}

impl ClientError {
    pub(crate) fn new(server: impl Into<String>, action: impl Into<String>, fault: Fault) -> Self {
        Self(Box::new(Inner { server: server.into(), action: action.into(), fault }))
    }

    /// The reaction this calls for.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.fault.kind()
    }

    /// What the server reported, if it is the server that failed the request.
    #[must_use]
    pub fn server_error(&self) -> Option<&ServerError> {
        match &self.0.fault {
            Fault::Server(error) => Some(error),
            _ => None,
        }
    }

    /// The SQLSTATE the server reported.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        self.server_error().map(|error| error.code.as_str())
    }

    /// The server this is about, as in `db1:5432`.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.0.server
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { server, action, .. } = &*self.0;
        match self.kind() {
            ErrorKind::Unavailable => write!(f, "{action}: {server} is not available"),
            ErrorKind::Denied => write!(f, "{action}: {server} denied access"),
            ErrorKind::Server => write!(f, "{action}: {server} reported an error"),
            ErrorKind::Protocol => write!(f, "{action}: {server} broke the protocol"),
            ErrorKind::Tls => write!(f, "{action}: no secure connection to {server}"),
            ErrorKind::Invalid => write!(f, "{action} on {server} is not possible"),
        }
    }
}

impl Error for ClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(match &self.0.fault {
            Fault::Io(error) => error,
            Fault::Server(error) => error,
            Fault::Unavailable(reason)
            | Fault::Denied(reason)
            | Fault::Protocol(reason)
            | Fault::Tls(reason)
            | Fault::Invalid(reason) => reason,
        })
    }
}

/// A cause that has no type of its own.
#[derive(Debug)]
pub(crate) struct Reason(String);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Reason {}

impl<T: Into<String>> From<T> for Reason {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

/// A failure before anyone said whose and during what.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The connection broke or never came about.
    Io(io::Error),
    Unavailable(Reason),
    Server(Box<ServerError>),
    Denied(Reason),
    Protocol(Reason),
    Tls(Reason),
    Invalid(Reason),
}

impl Fault {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Io(_) | Self::Unavailable(_) => ErrorKind::Unavailable,
            Self::Server(error) => error.kind(),
            Self::Denied(_) => ErrorKind::Denied,
            Self::Protocol(_) => ErrorKind::Protocol,
            Self::Tls(_) => ErrorKind::Tls,
            Self::Invalid(_) => ErrorKind::Invalid,
        }
    }

    pub(crate) fn unavailable(reason: impl Into<Reason>) -> Self {
        Self::Unavailable(reason.into())
    }
    pub(crate) fn denied(reason: impl Into<Reason>) -> Self {
        Self::Denied(reason.into())
    }
    pub(crate) fn protocol(reason: impl Into<Reason>) -> Self {
        Self::Protocol(reason.into())
    }
    pub(crate) fn tls(reason: impl Into<Reason>) -> Self {
        Self::Tls(reason.into())
    }
    pub(crate) fn invalid(reason: impl Into<Reason>) -> Self {
        Self::Invalid(reason.into())
    }

    /// A message that does not belong here.
    pub(crate) fn unexpected(message: &str, during: &str) -> Self {
        Self::protocol(format!("unexpected message {message} during {during}"))
    }

    pub(crate) fn server_error(error: ServerError) -> Self {
        Self::Server(Box::new(error))
    }

    /// The SQLSTATE, if the server reported one.
    pub(crate) fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server(error) => Some(&error.code),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Server(error) => error.fmt(f),
            Self::Unavailable(reason)
            | Self::Denied(reason)
            | Self::Protocol(reason)
            | Self::Tls(reason)
            | Self::Invalid(reason) => reason.fmt(f),
        }
    }
}
