//! What each `sslmode` proves, and what SCRAM is bound to.

use asof_postgres::client::{Connection, ErrorKind, Mode};
use asof_postgres::conninfo::Config;
use asof_testkit::{Server, Workdir};

use crate::certificates::{Authority, EC, Leaf, install, self_signed};
use crate::{Options, chain, connect, environment, majors, refused};

/// A server with TLS that lets `scram` in by password, `cert` by certificate, and `plain` only without TLS.
fn server(major: u32, leaf: &Leaf, client_root: Option<&Authority>) -> Server {
    let hba = [
        "hostssl all scram 127.0.0.1/32 scram-sha-256",
        "hostssl replication scram 127.0.0.1/32 scram-sha-256",
        "hostssl all cert 127.0.0.1/32 cert",
        "hostnossl all plain 127.0.0.1/32 scram-sha-256",
        "host all plain 127.0.0.1/32 reject",
        "host all scram 127.0.0.1/32 reject",
    ];
    let mut config = vec!["ssl = on".to_owned()];
    config.extend(client_root.map(|_| "ssl_ca_file = 'root.crt'".to_owned()));
    let hba = hba.map(str::to_owned).to_vec();
    let mut server = Server::init(major, &Options { hba, config, ..Options::default() });
    install(&server, leaf, client_root.map(Authority::root).as_deref());
    server.start();
    server.psql(
        "SET password_encryption = 'scram-sha-256'; CREATE ROLE scram LOGIN REPLICATION PASSWORD 'secret'; \
         CREATE ROLE cert LOGIN; CREATE ROLE plain LOGIN PASSWORD 'secret';",
    );
    server
}

/// TCP to `host`, which is `localhost` or an address.
fn tcp(server: &Server, host: &str, rest: &str) -> String {
    format!("host={host} hostaddr=127.0.0.1 port={} dbname=postgres user=scram password=secret {rest}", server.port())
}

fn full(authority: &Authority) -> String {
    format!("sslmode=verify-full sslrootcert={}", authority.root().display())
}

/// Whether the session is encrypted, by the server's own view.
async fn encrypted(connection: &mut Connection) -> bool {
    let row = connection.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await.unwrap();
    row.required(0).unwrap() == "t"
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_is_bound_to_a_verified_channel() {
    for major in majors() {
        let authority = Authority::new("root");
        let server = server(major, &authority.server("DNS:localhost,IP:127.0.0.1"), None);
        for host in ["localhost", "127.0.0.1"] {
            let rest = format!("{} channel_binding=require", full(&authority));
            let mut connection = connect(&tcp(&server, host, &rest), Mode::Sql).await;
            assert!(encrypted(&mut connection).await);
            let mut connection = connect(&tcp(&server, host, &rest), Mode::Replication).await;
            connection.identify_system().await.unwrap();
        }
        let mut connection = connect(&tcp(&server, "localhost", "channel_binding=disable"), Mode::Sql).await;
        assert!(encrypted(&mut connection).await, "prefer takes TLS");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hash_of_the_binding_follows_the_certificate() {
    let dir = Workdir::new("hash");
    let pss = ["-newkey", "rsa:2048", "-sha384", "-sigopt", "rsa_padding_mode:pss"];
    for options in [["-newkey", "rsa:2048", "-sha384"].as_slice(), &["-newkey", "rsa:2048", "-sha512"], &pss] {
        let leaf = self_signed(dir.path(), "localhost", options);
        let server = server(majors()[0], &leaf, None);
        connect(&tcp(&server, "localhost", "sslmode=require channel_binding=require"), Mode::Sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_names_no_hash_is_used_without_binding() {
    let dir = Workdir::new("ed25519");
    let leaf = self_signed(dir.path(), "localhost", &["-newkey", "ed25519"]);
    let server = server(majors()[0], &leaf, None);
    connect(&tcp(&server, "localhost", "sslmode=require"), Mode::Sql).await;
    let error = refused(&tcp(&server, "localhost", "sslmode=require channel_binding=require"), Mode::Sql).await;
    assert_eq!(error.kind(), ErrorKind::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_or_host_is_refused() {
    for major in majors() {
        let (authority, other) = (Authority::new("root"), Authority::new("other"));
        let server = server(major, &authority.server("DNS:localhost"), None);
        let ca = |root: &Authority, mode: &str| format!("sslmode={mode} sslrootcert={}", root.root().display());
        for mode in ["require", "verify-ca", "verify-full"] {
            let error = refused(&tcp(&server, "localhost", &ca(&other, mode)), Mode::Sql).await;
            assert_eq!(error.kind(), ErrorKind::Tls, "{mode}: {}", chain(&error));
        }
        let error = refused(&tcp(&server, "db.example.com", &ca(&authority, "verify-full")), Mode::Sql).await;
        assert_eq!(error.kind(), ErrorKind::Tls);
        assert!(chain(&error).contains("not valid for name"), "{}", chain(&error));
        let error = refused(&tcp(&server, "127.0.0.1", &ca(&authority, "verify-full")), Mode::Sql).await;
        assert_eq!(error.kind(), ErrorKind::Tls);
        connect(&tcp(&server, "db.example.com", &ca(&authority, "verify-ca")), Mode::Sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_refused_by_the_time_that_was_handed_in() {
    let authority = Authority::new("root");
    let server = server(majors()[0], &authority.server("DNS:localhost"), None);
    let config = Config::parse(&tcp(&server, "localhost", &full(&authority)), &environment()).unwrap();
    let mut later = environment();
    let now = (later.unix_seconds)();
    later.unix_seconds = std::sync::Arc::new(move || now + 30 * 86_400);
    let error = Connection::connect(&config, Mode::Sql, &later).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls);
    assert!(chain(&error).contains("expired"), "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_made_by_the_manual_of_postgresql_are_understood() {
    let authority = Authority::new("root");
    let (version_1, dir) = (authority.version_1("localhost"), Workdir::new("self"));
    let alone = self_signed(dir.path(), "localhost", &EC);
    for (leaf, root) in [(&version_1, authority.root()), (&alone, alone.certificate.clone())] {
        let server = server(majors()[0], leaf, None);
        let verify = |mode: &str| format!("sslmode={mode} sslrootcert={} channel_binding=require", root.display());
        connect(&tcp(&server, "localhost", "sslmode=require"), Mode::Sql).await;
        connect(&tcp(&server, "localhost", &verify("verify-full")), Mode::Sql).await;
        let error = refused(&tcp(&server, "db.example.com", &verify("verify-full")), Mode::Sql).await;
        assert_eq!(error.kind(), ErrorKind::Tls);
        let namesake = Authority::new("root");
        let other = format!("sslmode=verify-ca sslrootcert={}", namesake.root().display());
        let error = refused(&tcp(&server, "localhost", &other), Mode::Sql).await;
        assert_eq!(error.kind(), ErrorKind::Tls, "an authority of the same name is another");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_works_like_1_3() {
    for major in majors() {
        let authority = Authority::new("root");
        let server = server(major, &authority.server("DNS:localhost"), None);
        server.psql("ALTER SYSTEM SET ssl_max_protocol_version = 'TLSv1.2'");
        server.psql("SELECT pg_reload_conf()");
        let rest = format!("{} channel_binding=require", full(&authority));
        loop {
            let mut connection = connect(&tcp(&server, "localhost", &rest), Mode::Sql).await;
            let version = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            if connection.query_one(version).await.unwrap().required(0).unwrap() == "TLSv1.2" {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_lets_its_role_in() {
    for major in majors() {
        let authority = Authority::new("root");
        let server = server(major, &authority.server("DNS:localhost"), Some(&authority));
        let leaf = authority.client("cert");
        let files = format!("sslcert={} sslkey={}", leaf.certificate.display(), leaf.key.display());
        let rest = format!("user=cert sslmode=require {files}");
        connect(&tcp(&server, "localhost", &rest), Mode::Sql).await;
        let error = refused(&tcp(&server, "localhost", "user=cert sslmode=require"), Mode::Sql).await;
        assert!(matches!(error.kind(), ErrorKind::Denied), "{}", chain(&error));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(&leaf.key, mode).unwrap();
        let error = refused(&tcp(&server, "localhost", &rest), Mode::Sql).await;
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(chain(&error).contains("mode 0644 lets others use it"), "{}", chain(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prefer_and_allow_fall_to_what_the_server_accepts() {
    for major in majors() {
        let authority = Authority::new("root");
        let server = server(major, &authority.server("DNS:localhost"), None);
        for (user, mode, expect) in [
            ("scram", "prefer", true),
            ("scram", "allow", true),
            ("plain", "prefer", false),
            ("plain", "allow", false),
            ("plain", "disable", false),
        ] {
            let rest = format!("user={user} sslmode={mode}");
            let mut connection = connect(&tcp(&server, "localhost", &rest), Mode::Sql).await;
            assert_eq!(encrypted(&mut connection).await, expect, "{user} {mode} on {major}");
        }
        for rest in ["user=scram sslmode=disable", "user=plain sslmode=require"] {
            let error = refused(&tcp(&server, "localhost", rest), Mode::Sql).await;
            assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Denied, Some("28000")));
        }
        let error = refused(&tcp(&server, "localhost", "user=scram password=wrong"), Mode::Sql).await;
        assert_eq!(error.sqlstate(), Some("28P01"), "the wrong password is the news, not the missing TLS");
        let error = refused(&tcp(&server, "localhost", "user=plain channel_binding=require"), Mode::Sql).await;
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(chain(&error).contains("channel_binding=require"), "{}", chain(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_refused_where_tls_was_asked_for() {
    for major in majors() {
        let server = Server::running(major, &Options::default());
        let tcp = |rest: &str| format!("{} {rest}", server.conninfo_tcp());
        connect(&tcp("sslmode=prefer"), Mode::Sql).await;
        let error = refused(&tcp("sslmode=require"), Mode::Sql).await;
        assert_eq!(error.kind(), ErrorKind::Tls);
        assert!(chain(&error).contains("does not offer TLS"), "{}", chain(&error));
        let error = refused(&tcp("sslmode=verify-full sslrootcert=/nowhere"), Mode::Sql).await;
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(chain(&error).contains("/nowhere does not exist"), "{}", chain(&error));
        connect(&format!("{} sslmode=require", server.conninfo()), Mode::Sql).await.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_handshake_needs_a_server_that_knows_it() {
    for major in majors() {
        let authority = Authority::new("root");
        let server = server(major, &authority.server("DNS:localhost"), None);
        let conninfo = tcp(&server, "localhost", &format!("{} sslnegotiation=direct", full(&authority)));
        if major >= 17 {
            let mut connection = connect(&conninfo, Mode::Sql).await;
            assert!(encrypted(&mut connection).await);
        } else {
            assert_eq!(refused(&conninfo, Mode::Sql).await.kind(), ErrorKind::Tls);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_session_is_cancelled_over_an_encrypted_connection() {
    for major in majors() {
        let authority = Authority::new("root");
        let server = server(major, &authority.server("DNS:localhost"), None);
        let mut connection = connect(&tcp(&server, "localhost", &full(&authority)), Mode::Sql).await;
        let (token, pid) = (connection.cancel_token(), connection.backend_pid());
        let sleeping = tokio::spawn(async move { connection.execute("SELECT pg_sleep(1000)").await });
        crate::wait_for(&mut crate::sql(&server).await, &crate::waits_for(pid, "PgSleep")).await;
        token.cancel().await.unwrap();
        assert_eq!(sleeping.await.unwrap().unwrap_err().sqlstate(), Some("57014"));
    }
}
