//! Who is let in, and what is said to who is not.

use asof_postgres::client::{Connection, ErrorKind, Mode};
use asof_postgres::conninfo::Config;
use asof_testkit::Server;

use crate::{Options, chain, connect, environment, environment_at_home, majors, refused};

const HBA: [&str; 6] = [
    "host all scram 127.0.0.1/32 scram-sha-256",
    "host all md5 127.0.0.1/32 md5",
    "host all clear 127.0.0.1/32 password",
    "host replication scram 127.0.0.1/32 scram-sha-256",
    "host replication all 127.0.0.1/32 reject",
    "host all nobody 127.0.0.1/32 reject",
];

fn server(major: u32) -> Server {
    let hba = HBA.map(str::to_owned).to_vec();
    let server = Server::running(major, &Options { hba, ..Options::default() });
    server.psql(
        "SET password_encryption = 'scram-sha-256'; \
         CREATE ROLE scram LOGIN REPLICATION PASSWORD 'pä\"ss wörd'; CREATE ROLE clear LOGIN PASSWORD 'clear'; \
         CREATE ROLE nobody LOGIN REPLICATION; CREATE ROLE plain LOGIN; \
         SET password_encryption = 'md5'; CREATE ROLE md5 LOGIN PASSWORD 'old';",
    );
    server
}

fn tcp(server: &Server, rest: &str) -> String {
    format!("host=127.0.0.1 port={} dbname=postgres {rest}", server.port())
}

async fn who(conninfo: &str) -> String {
    let mut connection = connect(conninfo, Mode::Sql).await;
    let row = connection.query_one("SELECT current_user").await.unwrap();
    row.required(0).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_password_lets_its_role_in() {
    for major in majors() {
        let server = server(major);
        assert_eq!(who(&server.conninfo()).await, "postgres");
        assert_eq!(who(&tcp(&server, "user=scram password='pä\"ss wörd'")).await, "scram");
        assert_eq!(who(&tcp(&server, "user=md5 password=old")).await, "md5");
        assert_eq!(who(&tcp(&server, "user=clear password=clear")).await, "clear");
        let uri = format!("postgresql://scram:p%C3%A4%22ss%20w%C3%B6rd@127.0.0.1:{}/postgres", server.port());
        assert_eq!(who(&uri).await, "scram");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_passfile_serves_sql_and_replication() {
    for major in majors() {
        let server = server(major);
        let home = server.work().directory("home");
        let line = format!("127.0.0.1:{}:replication:scram:pä\"ss wörd\n*:*:postgres:clear:clear\n", server.port());
        std::fs::write(home.join(".pgpass"), line).unwrap();
        let environment = environment_at_home(&home);
        let path = home.join(".pgpass");
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        for (user, mode) in [("scram", Mode::Replication), ("clear", Mode::Sql)] {
            let config = Config::parse(&tcp(&server, &format!("user={user}")), &environment).unwrap();
            Connection::connect(&config, mode, &environment).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_or_missing_password_is_denied_and_names_the_server() {
    for major in majors() {
        let server = server(major);
        for user in ["scram", "md5", "clear"] {
            let error = refused(&tcp(&server, &format!("user={user} password=wrong")), Mode::Sql).await;
            assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Denied, Some("28P01")), "{}", chain(&error));
            assert_eq!(error.to_string(), format!("connecting: 127.0.0.1:{} denied access", server.port()));
        }
        let error = refused(&tcp(&server, "user=scram"), Mode::Sql).await;
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(chain(&error).contains("asks for a password and none is configured"), "{}", chain(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_pg_hba_is_denied_in_the_servers_words() {
    for major in majors() {
        let server = server(major);
        let error = refused(&tcp(&server, "user=nobody"), Mode::Sql).await;
        assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Denied, Some("28000")));
        let error = refused(&tcp(&server, "user=nobody"), Mode::Replication).await;
        assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Denied, Some("28000")));
        assert!(chain(&error).contains("replication connection"), "{}", chain(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_for_replication_in_pg_hba_is_denied() {
    for major in majors() {
        let server = Server::running(major, &Options::default());
        server.write_data_file("pg_hba.conf", b"local all all trust\nhost all all 127.0.0.1/32 trust\n");
        server.psql("SELECT pg_reload_conf()");
        let error = loop {
            // The postmaster takes the file up when it gets to it.
            match crate::try_connect(&tcp(&server, "user=postgres"), Mode::Replication).await {
                Ok(connection) => connection.close().await,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(chain(&error).contains("no pg_hba.conf entry for replication connection"), "{}", chain(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_the_right_to_replicate_is_denied() {
    for major in majors() {
        let server = server(major);
        let conninfo = format!("host={} port={} user=plain", server.socket_dir().display(), server.port());
        let error = refused(&conninfo, Mode::Replication).await;
        assert_eq!(error.kind(), ErrorKind::Denied, "{}", chain(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listening_is_unavailable_and_the_next_host_is_tried() {
    let server = Server::running(majors()[0], &Options::default());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = refused(&format!("host=127.0.0.1 port={free}"), Mode::Sql).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let both = format!("host=127.0.0.1,127.0.0.1 port={free},{} dbname=postgres", server.port());
    assert_eq!(connect(&both, Mode::Sql).await.server(), format!("127.0.0.1:{}", server.port()));
    let error = refused(&format!("host=127.0.0.1,/nowhere port={free}"), Mode::Sql).await;
    let shown = chain(&error);
    assert!(shown.contains(&format!("127.0.0.1:{free}")) && shown.contains("/nowhere/.s.PGSQL."), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_exist_is_the_servers_error() {
    let server = Server::running(majors()[0], &Options::default());
    let error = refused(&server.conninfo().replace("dbname=postgres", "dbname=nowhere"), Mode::Sql).await;
    assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Server, Some("3D000")));
}

#[tokio::test(flavor = "multi_thread")]
async fn start_up_options_reach_the_session() {
    for major in majors() {
        let server = Server::running(major, &Options::default());
        let rest = "application_name='asof test' options='-c geqo_seed=0.5 -c statement_timeout=7s'";
        let mut connection = connect(&format!("{} {rest}", server.conninfo()), Mode::Sql).await;
        assert_eq!(connection.show("application_name").await.unwrap(), "asof test");
        assert_eq!(connection.show("statement_timeout").await.unwrap(), "7s");
        assert_eq!(connection.server_version_num().unwrap() / 10_000, major);
        let shown = connection.show("server_version_num").await.unwrap();
        assert_eq!(shown, connection.server_version_num().unwrap().to_string());
        let row = connection.query_one("SELECT pg_backend_pid()").await.unwrap();
        assert_eq!(row.parse_required::<i32>(0).unwrap(), connection.backend_pid());
        connection.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wanted_session_attributes_choose_the_host() {
    for major in majors() {
        let primary = Server::running(major, &Options::default());
        let standby = standby(major);
        let hosts = format!("host=127.0.0.1,127.0.0.1 port={},{} dbname=postgres", standby.port(), primary.port());
        for (wanted, port) in [
            ("any", standby.port()),
            ("read-write", primary.port()),
            ("primary", primary.port()),
            ("read-only", standby.port()),
            ("standby", standby.port()),
            ("prefer-standby", standby.port()),
        ] {
            for mode in [Mode::Sql, Mode::Replication] {
                let connection = connect(&format!("{hosts} target_session_attrs={wanted}"), mode).await;
                assert_eq!(connection.server(), format!("127.0.0.1:{port}"), "{wanted} on {major}");
            }
        }
        let only = |wanted: &str| format!("{} target_session_attrs={wanted}", primary.conninfo());
        assert_eq!(connect(&only("prefer-standby"), Mode::Sql).await.mode(), Mode::Sql);
        let error = refused(&only("standby"), Mode::Sql).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(chain(&error).contains("the server is not a standby"), "{}", chain(&error));
    }
}

/// A server in recovery that follows nobody.
fn standby(major: u32) -> Server {
    let mut server = Server::running(major, &Options::default());
    server.stop();
    server.write_data_file("standby.signal", b"");
    server.start();
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_too_full_is_unavailable() {
    let server = Server::running(
        majors()[0],
        &Options::with_config(&["max_connections = 2", "max_wal_senders = 0", "superuser_reserved_connections = 0"]),
    );
    let conninfo = server.conninfo();
    let held = [connect(&conninfo, Mode::Sql).await, connect(&conninfo, Mode::Sql).await];
    let error = refused(&conninfo, Mode::Sql).await;
    assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Unavailable, Some("53300")));
    drop(held);
    drop(environment());
}
