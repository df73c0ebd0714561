//! From settings to a configuration: completes, then judges every value.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::environment::Environment;
use super::error::ConninfoError;
use super::settings::{KEYS, Settings};
use super::{
    ChannelBinding, Config, DEFAULT_PORT, Host, Keepalives, OptionalFile, RootCertificates, Secret, SslMode,
    SslNegotiation, SslSettings, Target, TargetSessionAttrs, Warning, mode_is_private, service,
};

/// Where a server puts its socket: Debian's builds, and everybody else's (`DEFAULT_PGSOCKET_DIR`).
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

pub(super) fn resolve(mut settings: Settings, environment: &Environment) -> Result<Config, ConninfoError> {
    complete(&mut settings, environment)?;
    let settings = &settings;
    let user = required_user(settings, environment)?;
    let mut warnings = Vec::new();
    refuse_gss(settings)?;
    Ok(Config {
        hosts: hosts(settings)?,
        dbname: text(settings, "dbname").unwrap_or_else(|| user.clone()),
        user,
        password: settings.non_empty("password").map(Secret::new),
        passfile: passfile(settings, environment, &mut warnings),
        ssl: ssl(settings, environment)?,
        channel_binding: choice(settings, "channel_binding", CHANNEL_BINDINGS)?,
        connect_timeout: connect_timeout(settings)?,
        target_session_attrs: choice(settings, "target_session_attrs", SESSION_ATTRS)?,
        application_name: text(settings, "application_name").or_else(|| text(settings, "fallback_application_name")),
        options: text(settings, "options"),
        keepalives: keepalives(settings)?,
        warnings,
    })
}

fn complete(settings: &mut Settings, environment: &Environment) -> Result<(), ConninfoError> {
    let service = text(settings, "service").or_else(|| environment.variable("PGSERVICE"));
    if let Some(name) = service {
        settings.fill_from(service::find(&name, environment)?);
    }
    for (key, variable) in KEYS {
        let value = variable.and_then(|variable| environment.variable(variable));
        if let (Some(value), None) = (value, settings.get(key)) {
            settings.set(key, value)?;
        }
    }
    Ok(())
}

fn text(settings: &Settings, key: &str) -> Option<String> {
    settings.non_empty(key).map(str::to_owned)
}

fn required_user(settings: &Settings, environment: &Environment) -> Result<String, ConninfoError> {
    let user = text(settings, "user").or_else(|| environment.user.clone());
    user.ok_or_else(|| {
        ConninfoError::Conflict("no user is named, and the operating system has none to offer".to_owned())
    })
}

fn refuse_gss(settings: &Settings) -> Result<(), ConninfoError> {
    match settings.non_empty("gssencmode") {
        None | Some("disable" | "prefer") => Ok(()),
        Some(other) => Err(value_error("gssencmode", other, "asof has no GSSAPI; use disable or prefer")),
    }
}

fn value_error(key: &'static str, value: &str, expected: impl Into<String>) -> ConninfoError {
    ConninfoError::Value { key, value: value.to_owned(), expected: expected.into() }
}

const SSL_MODES: &[(&str, SslMode)] = &[
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];
const NEGOTIATIONS: &[(&str, SslNegotiation)] =
    &[("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)];
const CHANNEL_BINDINGS: &[(&str, ChannelBinding)] =
    &[("disable", ChannelBinding::Disable), ("prefer", ChannelBinding::Prefer), ("require", ChannelBinding::Require)];
const SESSION_ATTRS: &[(&str, TargetSessionAttrs)] = &[
    ("any", TargetSessionAttrs::Any),
    ("read-write", TargetSessionAttrs::ReadWrite),
    ("read-only", TargetSessionAttrs::ReadOnly),
    ("primary", TargetSessionAttrs::Primary),
    ("standby", TargetSessionAttrs::Standby),
    ("prefer-standby", TargetSessionAttrs::PreferStandby),
];

fn choice<T: Copy + Default>(
    settings: &Settings,
    key: &'static str,
    choices: &[(&str, T)],
) -> Result<T, ConninfoError> {
    let Some(value) = settings.non_empty(key) else { return Ok(T::default()) };
    let found = choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice);
    found.ok_or_else(|| {
        let names = choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        value_error(key, value, format!("one of {names}"))
    })
}

/// A whole number as libpq reads it: blanks around it are allowed, and it is a C `int`.
fn integer(settings: &Settings, key: &'static str) -> Result<Option<i32>, ConninfoError> {
    let Some(value) = settings.non_empty(key) else { return Ok(None) };
    let parsed = value.trim().parse::<i32>();
    parsed.map(Some).map_err(|_| value_error(key, value, "a whole number"))
}

/// Zero and less mean "the system's value".
fn positive(settings: &Settings, key: &'static str) -> Result<Option<u32>, ConninfoError> {
    Ok(integer(settings, key)?.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0))
}

fn connect_timeout(settings: &Settings) -> Result<Option<Duration>, ConninfoError> {
    Ok(positive(settings, "connect_timeout")?.map(seconds))
}

fn seconds(number: u32) -> Duration {
    Duration::from_secs(number.into())
}

fn keepalives(settings: &Settings) -> Result<Keepalives, ConninfoError> {
    Ok(Keepalives {
        enabled: integer(settings, "keepalives")? != Some(0),
        idle: positive(settings, "keepalives_idle")?.map(seconds),
        interval: positive(settings, "keepalives_interval")?.map(seconds),
        count: positive(settings, "keepalives_count")?,
        user_timeout_ms: positive(settings, "tcp_user_timeout")?,
    })
}

fn hosts(settings: &Settings) -> Result<Vec<Host>, ConninfoError> {
    let names = list(settings, "host");
    let addresses = list(settings, "hostaddr");
    let count = match (names.len(), addresses.len()) {
        (0, 0) => return default_hosts(settings),
        (names, 0) => names,
        (0, addresses) => addresses,
        (names, addresses) if names == addresses => names,
        (names, addresses) => {
            return Err(ConninfoError::Conflict(format!("{names} hosts are named, but {addresses} hostaddr values")));
        }
    };
    let ports = ports(settings, count)?;
    let mut hosts = Vec::with_capacity(count);
    for (index, port) in ports.into_iter().enumerate() {
        let name = names.get(index).copied().filter(|name| !name.is_empty());
        let address = addresses.get(index).copied().filter(|address| !address.is_empty());
        hosts.extend(targets(name, address)?.into_iter().map(|target| Host { target, port }));
    }
    Ok(hosts)
}

fn list<'a>(settings: &'a Settings, key: &str) -> Vec<&'a str> {
    settings.non_empty(key).map(|value| value.split(',').map(str::trim).collect()).unwrap_or_default()
}

fn ports(settings: &Settings, count: usize) -> Result<Vec<u16>, ConninfoError> {
    let ports = list(settings, "port");
    match ports.len() {
        0 => Ok(vec![DEFAULT_PORT; count]),
        1 => Ok(vec![port(ports[0])?; count]),
        len if len == count => ports.into_iter().map(port).collect(),
        len => Err(ConninfoError::Conflict(format!("{len} ports are given for {count} hosts"))),
    }
}

fn port(text: &str) -> Result<u16, ConninfoError> {
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    let number = text.parse::<u16>().ok().filter(|number| *number != 0);
    number.ok_or_else(|| value_error("port", text, "a number from 1 to 65535"))
}

fn default_hosts(settings: &Settings) -> Result<Vec<Host>, ConninfoError> {
    let port = ports(settings, 1)?[0];
    Ok(default_targets().into_iter().map(|target| Host { target, port }).collect())
}

fn default_targets() -> Vec<Target> {
    SOCKET_DIRECTORIES.map(|path| Target::Unix { directory: PathBuf::from(path), default: true }).to_vec()
}

fn targets(name: Option<&str>, address: Option<&str>) -> Result<Vec<Target>, ConninfoError> {
    let address = address.map(parse_address).transpose()?;
    Ok(match (name, address) {
        (None, None) => default_targets(),
        (Some(path), None) if path.starts_with(['/', '@']) => {
            vec![Target::Unix { directory: PathBuf::from(path), default: false }]
        }
        (name, address) => vec![Target::Tcp { name: name.map(str::to_owned), address }],
    })
}

fn parse_address(text: &str) -> Result<IpAddr, ConninfoError> {
    text.parse().map_err(|_| value_error("hostaddr", text, "an IPv4 or IPv6 address"))
}

fn ssl(settings: &Settings, environment: &Environment) -> Result<SslSettings, ConninfoError> {
    let negotiation = choice(settings, "sslnegotiation", NEGOTIATIONS)?;
    let roots = roots(settings, environment);
    let default = if roots == RootCertificates::System { SslMode::VerifyFull } else { SslMode::default() };
    let given = settings.non_empty("sslmode").is_some();
    let mode = if given { choice(settings, "sslmode", SSL_MODES)? } else { default };
    if roots == RootCertificates::System && mode != SslMode::VerifyFull {
        return Err(ConninfoError::Conflict("sslrootcert=system needs sslmode=verify-full".to_owned()));
    }
    if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
        return Err(ConninfoError::Conflict("sslnegotiation=direct needs sslmode=require or stronger".to_owned()));
    }
    let certificate = optional_file(settings, environment, "sslcert", ".postgresql/postgresql.crt");
    let key = optional_file(settings, environment, "sslkey", ".postgresql/postgresql.key");
    Ok(SslSettings { mode, negotiation, roots, certificate, key })
}

fn roots(settings: &Settings, environment: &Environment) -> RootCertificates {
    match settings.non_empty("sslrootcert") {
        Some("system") => RootCertificates::System,
        Some(path) => RootCertificates::File(path.into()),
        None => match environment.below_home(".postgresql/root.crt") {
            Some(path) => RootCertificates::DefaultFile(path),
            None => RootCertificates::None,
        },
    }
}

fn optional_file(settings: &Settings, environment: &Environment, key: &str, default: &str) -> Option<OptionalFile> {
    let named = settings.non_empty(key).map(|path| OptionalFile { path: path.into(), named: true });
    named.or_else(|| environment.below_home(default).map(|path| OptionalFile { path, named: false }))
}

/// The content of the passfile, if there is one that may be used and no password makes it superfluous.
fn passfile(settings: &Settings, environment: &Environment, warnings: &mut Vec<Warning>) -> Option<Secret> {
    if settings.non_empty("password").is_some() {
        return None;
    }
    let path = text(settings, "passfile").map(PathBuf::from).or_else(|| environment.below_home(".pgpass"))?;
    let mode = (environment.file_mode)(&path).ok()?;
    if !mode_is_private(mode) {
        warnings.push(Warning::PassfileNotPrivate { path, mode });
        return None;
    }
    match (environment.read_file)(&path) {
        Ok(bytes) => Some(Secret::new(String::from_utf8_lossy(&bytes))),
        Err(error) => {
            warnings.push(Warning::PassfileUnreadable { path, reason: error.to_string() });
            None
        }
    }
}
