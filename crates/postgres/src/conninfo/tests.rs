//! The table of connection strings.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;

/// Surroundings with variables and files; every file has mode `0600` unless its content says `mode 0644`.
fn surroundings(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Environment {
    let owned = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let (variables, files) = (owned(variables), Arc::new(owned(files)));
    let read = Arc::clone(&files);
    let find = |files: &BTreeMap<String, String>, path: &Path| -> io::Result<String> {
        files.get(path.to_str().expect("UTF-8")).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    Environment {
        lookup: Arc::new(move |name| variables.get(name).cloned()),
        read_file: Arc::new(move |path| find(&read, path).map(String::into_bytes)),
        file_mode: Arc::new(move |path| {
            find(&files, path).map(|content| if content.contains("mode 0644") { 0o644 } else { 0o600 })
        }),
        home: Some(PathBuf::from("/home/op")),
        user: Some("op".to_owned()),
        ..Environment::empty(0)
    }
}

/// The keys given by a connection string, as `key=value` lines in the order of keys.
fn check(text: &str, expect: &[(&str, &str)]) {
    let settings = Settings::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    for (key, value) in expect {
        assert_eq!(settings.get(key), Some(*value), "{key} of {text}");
    }
    let given = settings::KEYS.iter().filter(|(key, _)| settings.get(key).is_some()).count();
    assert_eq!(given, expect.len(), "{text} gives {settings:?}");
}

fn refuse(text: &str, expect: &str) {
    let error = Settings::parse(text).expect_err(text).to_string();
    assert!(error.contains(expect), "{text}: {error}");
}

fn config(text: &str) -> Config {
    Config::parse(text, &surroundings(&[], &[])).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refuse_config(text: &str, expect: &str) {
    let error = Config::parse(text, &surroundings(&[], &[])).expect_err(text).to_string();
    assert!(error.contains(expect), "{text}: {error}");
}

fn hosts(text: &str, expect: &[&str]) {
    let shown = config(text).hosts.iter().map(Host::to_string).collect::<Vec<_>>();
    assert_eq!(shown, expect, "{text}");
}

#[test]
fn pairs_are_separated_by_blanks_and_may_be_quoted() {
    check("", &[]);
    check("  \t ", &[]);
    check("host=db1 user=op", &[("host", "db1"), ("user", "op")]);
    check("host = db1\n user\t=\t'op'", &[("host", "db1"), ("user", "op")]);
    check("password='a b' user=op", &[("password", "a b"), ("user", "op")]);
    check("password=''", &[("password", "")]);
    check("password='a'user=op", &[("password", "a"), ("user", "op")]);
}

#[test]
fn a_backslash_takes_the_next_character_inside_and_outside_quotes() {
    check(r"password='it\'s' user=a\ b", &[("password", "it's"), ("user", "a b")]);
    check(r"password=a\\b\'c", &[("password", r"a\b'c")]);
    check(r"password=end\", &[("password", "end")]);
    check("options=-c\\ geqo=off", &[("options", "-c geqo=off")]);
}

#[test]
fn an_equals_sign_a_percent_and_unicode_are_ordinary_in_values() {
    check("password=a=b%41é", &[("password", "a=b%41é")]);
    check("password='\u{a0}' user=x", &[("password", "\u{a0}"), ("user", "x")]);
}

#[test]
fn the_last_of_two_equal_keys_wins() {
    check("host=db1 host=db2", &[("host", "db2")]);
}

#[test]
fn broken_pairs_are_refused() {
    refuse("host", "missing \"=\" after \"host\"");
    refuse("host db1", "missing \"=\"");
    refuse("password='abc", "no closing quote");
    refuse(r"password='abc\'", "no closing quote");
    refuse("=x", "unknown connection option \"\"");
}

#[test]
fn a_key_that_nobody_knows_is_named() {
    refuse("hots=db1", "unknown connection option \"hots\"");
    refuse("postgresql://db1?hots=1", "unknown connection option \"hots\"");
    refuse("sslcrl=x", "option \"sslcrl\" is not supported by asof");
}

#[test]
fn a_uri_gives_user_password_hosts_database_and_parameters() {
    check("postgresql://", &[]);
    check("postgres://db1", &[("host", "db1")]);
    check("postgresql:///app", &[("dbname", "app")]);
    check("postgresql://op@", &[("user", "op")]);
    check("postgresql://op:@db1", &[("user", "op"), ("host", "db1")]);
    check(
        "postgresql://op:se:cret@db1:5433/app?sslmode=require&connect_timeout=3",
        &[
            ("user", "op"),
            ("password", "se:cret"),
            ("host", "db1"),
            ("port", "5433"),
            ("dbname", "app"),
            ("sslmode", "require"),
            ("connect_timeout", "3"),
        ],
    );
    check("postgresql://db1?user=op", &[("host", "db1"), ("user", "op")]);
    check("postgresql://db1/?user=op", &[("host", "db1"), ("user", "op")]);
    check("postgresql://db1?ssl=true", &[("host", "db1"), ("sslmode", "require")]);
    check("postgresql://db1?host=db2", &[("host", "db2")]);
    check("postgresql:///a/b", &[("dbname", "a/b")]);
}

#[test]
fn a_uri_lists_hosts_and_ports() {
    check("postgresql://db1,db2:5433,db3", &[("host", "db1,db2,db3"), ("port", ",5433,")]);
    check("postgresql://[::1]:5433,[fe80::1]/app", &[("host", "::1,fe80::1"), ("port", "5433,"), ("dbname", "app")]);
    check("postgresql://:5433", &[("port", "5433")]);
}

#[test]
fn percent_codes_are_decoded_once_in_every_part() {
    check("postgresql://%2Frun%2Fpg/app", &[("host", "/run/pg"), ("dbname", "app")]);
    check("postgresql://o%40p:p%2540%3A@db1", &[("user", "o@p"), ("password", "p%40:"), ("host", "db1")]);
    check("postgresql://db1?pass%77ord=%C3%A9+%20", &[("host", "db1"), ("password", "é+ ")]);
    check("postgresql://db1/%3f%2F", &[("host", "db1"), ("dbname", "?/")]);
}

#[test]
fn broken_uris_are_refused() {
    refuse("postgresql://db%", "two hexadecimal digits");
    refuse("postgresql://db%4", "two hexadecimal digits");
    refuse("postgresql://db%+1", "two hexadecimal digits");
    refuse("postgresql://db%4é", "two hexadecimal digits");
    refuse("postgresql://db%00", "%00");
    refuse("postgresql://db%ff", "UTF-8");
    refuse("postgresql://[::1", "no closing \"]\"");
    refuse("postgresql://[]", "empty");
    refuse("postgresql://[::1]x", "other than a port");
    refuse("postgresql://db?user", "no \"=\"");
    refuse("postgresql://db?user=a=b", "more than one \"=\"");
    refuse("postgresql://db?user=a&", "no \"=\"");
}

#[test]
fn hosts_addresses_and_ports_are_matched_up() {
    hosts("host=db1", &["db1:5432"]);
    hosts("host=db1,db2 port=5433", &["db1:5433", "db2:5433"]);
    hosts("host=db1,db2 port=1,", &["db1:1", "db2:5432"]);
    hosts("host=/run/pg port=7", &["/run/pg/.s.PGSQL.7"]);
    hosts("host=@abstract", &["@abstract/.s.PGSQL.5432"]);
    hosts("hostaddr=::1", &["[::1]:5432"]);
    hosts("host=::1", &["[::1]:5432"]);
    hosts("host=db1 hostaddr=10.0.0.1", &["db1:5432"]);
    hosts("port=1", &["/var/run/postgresql/.s.PGSQL.1", "/tmp/.s.PGSQL.1"]);
    refuse_config("host=a,b hostaddr=10.0.0.1", "2 hosts are named, but 1 hostaddr");
    refuse_config("host=a,b,c port=1,2", "2 ports are given for 3 hosts");
    refuse_config("hostaddr=db1", "an IPv4 or IPv6 address");
    refuse_config("port=0", "1 to 65535");
    refuse_config("port=65536", "1 to 65535");
}

#[test]
fn values_are_judged_by_their_keys() {
    refuse_config("sslmode=on", "\"sslmode\" cannot be \"on\": one of disable, allow");
    refuse_config("target_session_attrs=master", "one of any, read-write");
    refuse_config("connect_timeout=1s", "a whole number");
    refuse_config("gssencmode=require", "no GSSAPI");
    refuse_config("sslrootcert=system sslmode=require", "verify-full");
    refuse_config("sslnegotiation=direct", "sslmode=require or stronger");
    assert_eq!(config("sslrootcert=system").ssl.mode, SslMode::VerifyFull);
    assert_eq!(config("").ssl.mode, SslMode::Prefer);
    assert_eq!(config("connect_timeout=0").connect_timeout, None);
    assert_eq!(config("connect_timeout=' 7 '").connect_timeout, Some(Duration::from_secs(7)));
    assert!(!config("keepalives=0").keepalives.enabled);
}

#[test]
fn the_string_wins_over_the_service_and_that_over_the_environment() {
    let files = [(
        "/home/op/.pg_service.conf",
        "# all\n[other]\nhost=no\n[prod]\nhost=svc\ndbname=svcdb\nport=1\n[last]\nuser=no",
    )];
    let variables =
        [("PGSERVICE", "prod"), ("PGHOST", "env"), ("PGUSER", "envuser"), ("PGPORT", "2"), ("PGAPPNAME", "")];
    let config = Config::parse("port=3", &surroundings(&variables, &files)).expect("valid");
    assert_eq!(config.to_string(), "envuser@svc:3/svcdb");
    assert_eq!(config.application_name, None);
}

#[test]
fn an_explicitly_empty_value_hides_the_environment() {
    let config = Config::parse("host=db1 dbname=''", &surroundings(&[("PGDATABASE", "env")], &[])).expect("valid");
    assert_eq!(config.to_string(), "op@db1:5432/op");
}

#[test]
fn a_service_that_is_missing_or_broken_names_file_and_line() {
    let error = |files: &[(&str, &str)], text: &str| {
        Config::parse(text, &surroundings(&[("PGSERVICEFILE", "/svc")], files)).expect_err(text).to_string()
    };
    assert!(error(&[], "service=prod").contains("\"prod\" is not defined in /svc or /etc/postgresql-common/"));
    assert!(error(&[("/svc", "[prod]\n\nhots=1")], "service=prod").contains("/svc line 3: unknown connection option"));
    assert!(error(&[("/svc", "[prod]\nservice=x")], "service=prod").contains("cannot name another service"));
    assert!(error(&[("/svc", "[prod]\nhost")], "service=prod").contains("key=value"));
}

#[test]
fn the_passfile_serves_only_without_a_password_and_when_private() {
    let files = [("/home/op/.pgpass", "db1:*:replication:*:repl\n*:*:*:*:any")];
    let config = Config::parse("host=db1,db2", &surroundings(&[], &files)).expect("valid");
    let password = |index: usize, databases: &[&str]| {
        config.password_for(&config.hosts[index], databases).expect("found").expose().to_owned()
    };
    assert_eq!(password(0, &["replication", "op"]), "repl");
    assert_eq!(password(1, &["replication", "op"]), "any");
    let given = Config::parse("host=db1", &surroundings(&[("PGPASSWORD", "given")], &files)).expect("valid");
    assert_eq!(given.password_for(&given.hosts[0], &["op"]).expect("given").expose(), "given");
    assert!(given.passfile.is_none());
}

#[test]
fn a_passfile_that_others_can_read_is_ignored_with_a_warning() {
    let files = [("/pass", "# mode 0644\n*:*:*:*:any")];
    let config = Config::parse("host=db1 passfile=/pass", &surroundings(&[], &files)).expect("valid");
    assert!(config.password_for(&config.hosts[0], &["op"]).is_none());
    assert_eq!(config.warnings, [Warning::PassfileNotPrivate { path: "/pass".into(), mode: 0o644 }]);
    assert!(config.warnings[0].to_string().contains("mode 0644"));
}

#[test]
fn localhost_stands_for_a_default_socket_in_the_passfile() {
    let files = [("/pass", "localhost:*:*:*:local\n/run/pg:*:*:*:named")];
    let password = |text: &str| {
        let config = Config::parse(text, &surroundings(&[("PGPASSFILE", "/pass")], &files)).expect("valid");
        config.password_for(&config.hosts[0], &["op"]).map(|secret| secret.expose().to_owned())
    };
    assert_eq!(password("").as_deref(), Some("local"));
    assert_eq!(password("host=/run/pg").as_deref(), Some("named"));
    assert_eq!(password("host=127.0.0.1"), None);
}

#[test]
fn no_text_form_shows_a_password() {
    let settings = Settings::parse("host=db1 password=hunter2").expect("valid");
    let config = config("host=db1 password=hunter2");
    for text in [format!("{settings:?}"), format!("{config:?}"), config.to_string()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}
