//! A configuration in the words of libpq, for PostgreSQL's own client programs.
//!
//! A program connects to the one host that answered us, because a snapshot lives on one server. Passwords stand in its
//! environment, which only its user and root can read, never in its arguments, which everybody can.

use std::fmt::Write;

use super::settings::quoted;
use super::{ChannelBinding, Config, Host, RootCertificates, SslMode, SslNegotiation, Target};

/// A database as the options of client programs take it that read a connection string where a name may stand (`recognized_connection_string`
/// of fe-connect.c, 13 to 18): whatever its name looks like, it is only a name.
#[must_use]
pub fn database_for_programs(name: &str) -> String {
    format!("dbname={}", quoted(name))
}

impl Config {
    /// The host whose name a connection gives as its server, see [`crate::client::Connection::server`].
    #[must_use]
    pub fn host_named(&self, server: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.to_string() == server)
    }

    /// What a client program connects by: a connection string without secrets.
    ///
    /// Only what differs from libpq's defaults is written, so that programs of older majors understand it.
    #[must_use]
    pub fn for_programs(&self, host: &Host) -> String {
        let mut text = String::new();
        let mut put = |key: &str, value: &str| {
            let space = if text.is_empty() { "" } else { " " };
            write!(text, "{space}{key}={}", quoted(value)).expect("writing to a string does not fail");
        };
        match &host.target {
            Target::Tcp { name, address } => {
                name.iter().for_each(|name| put("host", name));
                address.iter().for_each(|address| put("hostaddr", &address.to_string()));
            }
            Target::Unix { directory, .. } => put("host", &directory.display().to_string()),
        }
        put("port", &host.port.to_string());
        put("user", &self.user);
        put("dbname", &self.dbname);
        self.put_tls(&mut put);
        if let Some(limit) = self.connect_timeout {
            put("connect_timeout", &limit.as_secs().to_string());
        }
        for (key, value) in [("application_name", &self.application_name), ("options", &self.options)] {
            value.iter().for_each(|value| put(key, value));
        }
        self.put_keepalives(&mut put);
        text
    }

    /// The environment variable that holds the password, where there is one.
    #[must_use]
    pub fn password_variable(&self, host: &Host) -> Option<(&'static str, super::Secret)> {
        self.password_for(host, &[self.dbname.as_str()]).map(|password| ("PGPASSWORD", password))
    }

    fn put_tls(&self, put: &mut impl FnMut(&str, &str)) {
        let mode = match self.ssl.mode {
            SslMode::Prefer => None,
            SslMode::Disable => Some("disable"),
            SslMode::Allow => Some("allow"),
            SslMode::Require => Some("require"),
            SslMode::VerifyCa => Some("verify-ca"),
            SslMode::VerifyFull => Some("verify-full"),
        };
        mode.iter().for_each(|mode| put("sslmode", mode));
        if self.ssl.negotiation == SslNegotiation::Direct {
            put("sslnegotiation", "direct");
        }
        match &self.ssl.roots {
            RootCertificates::System => put("sslrootcert", "system"),
            RootCertificates::File(path) => put("sslrootcert", &path.display().to_string()),
            RootCertificates::DefaultFile(_) | RootCertificates::None => {}
        }
        for (key, file) in [("sslcert", &self.ssl.certificate), ("sslkey", &self.ssl.key)] {
            file.iter().filter(|file| file.named).for_each(|file| put(key, &file.path.display().to_string()));
        }
        match self.channel_binding {
            ChannelBinding::Prefer => {}
            ChannelBinding::Disable => put("channel_binding", "disable"),
            ChannelBinding::Require => put("channel_binding", "require"),
        }
    }

    fn put_keepalives(&self, put: &mut impl FnMut(&str, &str)) {
        let alive = &self.keepalives;
        if !alive.enabled {
            put("keepalives", "0");
        }
        let seconds = |time: Option<std::time::Duration>| time.map(|time| time.as_secs().to_string());
        let numbers = [
            ("keepalives_idle", seconds(alive.idle)),
            ("keepalives_interval", seconds(alive.interval)),
            ("keepalives_count", alive.count.map(|count| count.to_string())),
            ("tcp_user_timeout", alive.user_timeout_ms.map(|limit| limit.to_string())),
        ];
        for (key, value) in numbers {
            value.iter().for_each(|value| put(key, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Environment;
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, &Environment::empty(0)).expect("parses")
    }

    #[test]
    fn a_program_gets_what_was_asked_for_and_no_password() {
        let config = config(
            "host=db1,db2 port=1,2 user='o''b' dbname='a b\\\\c\\'d' password=secret sslmode=verify-full \
             keepalives_idle=9 channel_binding=require connect_timeout=7"
                .replace("''", "\\'")
                .as_str(),
        );
        let host = config.host_named("db2:2").expect("is one of them");
        let text = config.for_programs(host);
        assert!(!text.contains("secret"), "{text}");
        let read = super::super::Config::parse(&text, &Environment::empty(0)).expect("parses again");
        assert_eq!(read.hosts.as_slice(), std::slice::from_ref(host));
        assert_eq!((read.user.as_str(), read.dbname.as_str()), ("o'b", "a b\\c'd"));
        assert_eq!(
            (read.ssl, read.keepalives, read.channel_binding),
            (config.ssl.clone(), config.keepalives, config.channel_binding)
        );
        assert_eq!(read.connect_timeout, config.connect_timeout);
        let (variable, password) = config.password_variable(host).expect("there is one");
        assert_eq!((variable, password.expose()), ("PGPASSWORD", "secret"));
    }

    #[test]
    fn a_database_for_programs_is_a_name_and_nothing_else() {
        for name in ["a", "a=b", "port=1 dbname=x", "postgresql://h/x", "", "it's \\ 'x'", "li\nne", "a port=1"] {
            let text = database_for_programs(name);
            let mut settings = super::super::Settings::parse(&text).expect("parses");
            assert_eq!(settings.get("dbname"), Some(name), "{text}");
            settings.remove("dbname");
            assert_eq!(settings.to_conninfo(), "", "{text}");
        }
    }

    #[test]
    fn defaults_are_left_to_the_program() {
        let config = config("host=/run/pg user=a dbname=b");
        assert_eq!(config.for_programs(&config.hosts[0]), "host=/run/pg port=5432 user=a dbname=b");
    }
}
