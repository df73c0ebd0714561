//! The keys of a connection string, and the set of them that one text or file gives.

use std::collections::BTreeMap;
use std::fmt;

use super::error::ConninfoError;
use super::secret::Secret;

/// Every key that is understood, with the environment variable that stands in for it.
/// Source: `PQconninfoOptions` in `interfaces/libpq/fe-connect.c`, PostgreSQL 18.
pub(super) const KEYS: &[(&str, Option<&str>)] = &[
    ("application_name", Some("PGAPPNAME")),
    ("channel_binding", Some("PGCHANNELBINDING")),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    ("dbname", Some("PGDATABASE")),
    ("fallback_application_name", None),
    ("gssencmode", Some("PGGSSENCMODE")),
    ("host", Some("PGHOST")),
    ("hostaddr", Some("PGHOSTADDR")),
    ("keepalives", None),
    ("keepalives_count", None),
    ("keepalives_idle", None),
    ("keepalives_interval", None),
    ("options", Some("PGOPTIONS")),
    ("passfile", Some("PGPASSFILE")),
    ("password", Some("PGPASSWORD")),
    ("port", Some("PGPORT")),
    ("service", Some("PGSERVICE")),
    ("sslcert", Some("PGSSLCERT")),
    ("sslkey", Some("PGSSLKEY")),
    ("sslmode", Some("PGSSLMODE")),
    ("sslnegotiation", Some("PGSSLNEGOTIATION")),
    ("sslrootcert", Some("PGSSLROOTCERT")),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    ("tcp_user_timeout", None),
    ("user", Some("PGUSER")),
];

/// Keys of libpq that are refused by name instead of being called unknown.
const UNSUPPORTED: &[&str] = &[
    "authtype",
    "client_encoding",
    "gssdelegation",
    "gsslib",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "scram_client_key",
    "scram_server_key",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkeylogfile",
    "sslpassword",
    "sslsni",
];

/// The pairs that one connection string, service or environment gives: keys are known, values not yet looked at.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<&'static str, Secret>);

impl Settings {
    /// Sets a key, replacing an earlier value.
    ///
    /// # Errors
    /// A key that is unknown or not supported.
    pub fn set(&mut self, key: &str, value: impl Into<String>) -> Result<(), ConninfoError> {
        let key = known(key)?;
        self.0.insert(key, Secret::new(value));
        Ok(())
    }

    /// The value of a key. Asking for a password is the caller's responsibility.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(Secret::expose)
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// The pairs as a connection string, without the password: fit for a configuration file.
    #[must_use]
    pub fn to_conninfo(&self) -> String {
        let pair = |(key, value): (&&str, &Secret)| format!("{key}={}", quoted(value.expose()));
        let pairs: Vec<String> = self.0.iter().filter(|(key, _)| **key != "password").map(pair).collect();
        pairs.join(" ")
    }

    /// Takes from `other` what is not set here: the earlier source wins, also with an empty value.
    pub(super) fn fill_from(&mut self, other: Self) {
        for (key, value) in other.0 {
            self.0.entry(key).or_insert(value);
        }
    }

    /// The value, unless it is absent or empty: libpq treats both alike for nearly every key.
    pub(super) fn non_empty(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for Settings {
    /// Names the keys, shows no values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A value as it stands in a connection string.
pub(super) fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn known(key: &str) -> Result<&'static str, ConninfoError> {
    if let Some((name, _)) = KEYS.iter().find(|(name, _)| *name == key) {
        return Ok(name);
    }
    let key = key.to_owned();
    if UNSUPPORTED.contains(&key.as_str()) {
        return Err(ConninfoError::UnsupportedKey { key });
    }
    Err(ConninfoError::UnknownKey { key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_being_written_and_the_password_is_left_out() {
        let text = "host=db1,db2 user='o\\'brien' application_name='' options='-c a=\\\\b' password=secret";
        let settings = Settings::parse(text).expect("parses");
        let written = settings.to_conninfo();
        assert!(!written.contains("secret"), "{written}");
        let mut expected = settings.clone();
        expected.remove("password");
        assert_eq!(Settings::parse(&written).expect("parses again"), expected, "{written}");
    }
}
