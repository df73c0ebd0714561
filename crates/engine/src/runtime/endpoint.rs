//! How an application reaches an instance, written the ways that applications read.

use super::instance::Instance;

/// Where an instance answers, for one database and role. Passwords are the instance's own and never appear here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database.
    pub database: String,
    /// Role.
    pub role: String,
}

impl Endpoint {
    /// The TCP endpoint of an instance on this machine.
    pub fn of(instance: &Instance, database: &str, role: &str) -> Self {
        Self { host: "localhost".to_owned(), port: instance.port, database: database.to_owned(), role: role.to_owned() }
    }

    /// `postgresql://role@host:port/database`, as libpq and most drivers read it.
    pub fn uri(&self) -> String {
        format!("postgresql://{}@{}:{}/{}", encoded(&self.role), self.uri_host(), self.port, encoded(&self.database))
    }

    /// `jdbc:postgresql://host:port/database?user=role`, as the JDBC driver reads it.
    pub fn jdbc(&self) -> String {
        let (database, role) = (encoded(&self.database), encoded(&self.role));
        format!("jdbc:postgresql://{}:{}/{database}?user={role}", self.uri_host(), self.port)
    }

    /// Lines for a `.env` file: libpq's variables and `DATABASE_URL`.
    pub fn dotenv(&self) -> String {
        let pairs = [
            ("PGHOST", self.host.clone()),
            ("PGPORT", self.port.to_string()),
            ("PGDATABASE", self.database.clone()),
            ("PGUSER", self.role.clone()),
            ("DATABASE_URL", self.uri()),
        ];
        pairs.into_iter().map(|(name, value)| format!("{name}={}\n", single_quoted(&value))).collect()
    }

    /// Values for a Helm chart that takes an external database, as Bitnami's charts name them.
    pub fn helm_values(&self) -> String {
        format!(
            "postgresql:\n  enabled: false\nexternalDatabase:\n  host: {}\n  port: {}\n  database: {}\n  user: {}\n",
            double_quoted(&self.host),
            self.port,
            double_quoted(&self.database),
            double_quoted(&self.role)
        )
    }

    fn uri_host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

/// Percent-encoding of everything but unreserved characters (RFC 3986, 2.3).
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A text in single quotes, in which neither a shell nor a reader of `.env` files expands anything.
fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A text in double quotes as YAML reads it.
fn double_quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(database: &str, role: &str) -> Endpoint {
        Endpoint { host: "localhost".into(), port: 5433, database: database.into(), role: role.into() }
    }

    #[test]
    fn an_endpoint_is_written_as_each_reader_wants_it() {
        let plain = endpoint("app", "ann");
        assert_eq!(plain.uri(), "postgresql://ann@localhost:5433/app");
        assert_eq!(plain.jdbc(), "jdbc:postgresql://localhost:5433/app?user=ann");
        assert!(plain.dotenv().contains("PGPORT='5433'\n"));
        assert!(plain.dotenv().ends_with("DATABASE_URL='postgresql://ann@localhost:5433/app'\n"));
        assert!(plain.helm_values().contains("externalDatabase:\n  host: \"localhost\"\n  port: 5433\n"));
    }

    #[test]
    fn names_cannot_leave_their_place() {
        let odd = endpoint("a/b?c", "x@y\"z");
        assert_eq!(odd.uri(), "postgresql://x%40y%22z@localhost:5433/a%2Fb%3Fc");
        assert!(odd.dotenv().contains("PGUSER='x@y\"z'\n"));
        assert!(odd.helm_values().contains("user: \"x@y\\\"z\"\n"));
        let six = Endpoint { host: "::1".into(), ..endpoint("app", "ann") };
        assert_eq!(six.uri(), "postgresql://ann@[::1]:5433/app");
    }
}
