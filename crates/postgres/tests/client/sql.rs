//! Queries, parameters, copies, and their ends.

use asof_postgres::client::{BinaryCopy, ErrorKind, Mode, escape_identifier, escape_literal};
use asof_testkit::Server;

use crate::{Options, chain, connect, majors, sql, wait_for, waits_for};

#[tokio::test(flavor = "multi_thread")]
async fn a_query_gives_text_by_position_and_name() {
    for major in majors() {
        let server = Server::running(major, &Options::default());
        let mut connection = sql(&server).await;
        let text = "SELECT 1 AS one, NULL AS nothing, 'ä' AS text, '' AS empty, '\\xff00'::bytea AS bytes";
        let row = connection.query_one(text).await.unwrap();
        let names: Vec<_> = row.columns().iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["one", "nothing", "text", "empty", "bytes"]);
        assert_eq!(row.parse_required::<i32>(0).unwrap(), 1);
        assert_eq!(row.text(1).unwrap(), None);
        assert_eq!((row.required(2).unwrap(), row.required(3).unwrap()), ("ä", ""));
        assert_eq!(row.bytes(4), Some(b"\\xff00".as_slice()));
        let error = row.required(1).unwrap_err();
        assert!(chain(&error).contains("column 2 (nothing): the value is NULL"), "{}", chain(&error));
        assert!(row.text(5).is_err() && row.parse::<u8>(2).is_err() && row.bytes(5).is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_statements_give_the_last_rows_and_the_last_tag() {
    let server = Server::running(majors()[0], &Options::default());
    let mut connection = sql(&server).await;
    let rows = connection.query("SELECT 1; SELECT 2 UNION ALL SELECT 3 ORDER BY 1; SET geqo = off").await.unwrap();
    let values: Vec<_> = rows.iter().map(|row| row.required(0).unwrap()).collect();
    assert_eq!(values, ["2", "3"]);
    let tag = connection.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2)").await.unwrap();
    assert_eq!(tag, "INSERT 0 2");
    assert_eq!(connection.execute("").await.unwrap(), "");
    assert!(connection.query("SELECT FROM t WHERE a > 5").await.unwrap().is_empty());
    assert!(connection.query_one("SELECT a FROM t").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_keeps_the_servers_words_and_the_connection() {
    for major in majors() {
        let server = Server::running(major, &Options::default());
        let mut connection = sql(&server).await;
        let error = connection.query("SELECT pg_catalog.nothing(1)").await.unwrap_err();
        let reported = error.server_error().unwrap();
        assert_eq!((error.kind(), reported.code.as_str()), (ErrorKind::Server, "42883"));
        assert_eq!(reported.severity, "ERROR");
        assert!(reported.hint.is_some(), "{reported:?}");
        let shown = error.to_string();
        assert!(
            shown.contains("running \"SELECT pg_catalog.nothing(1)\"") && shown.contains(connection.server()),
            "{shown}"
        );
        connection.query_params("SELECT $1::int", &[Some("x")]).await.unwrap_err();
        connection.query("SELECT 'a\0b'").await.unwrap_err();
        assert_eq!(connection.query_one("SELECT 1").await.unwrap().required(0).unwrap(), "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_values_whatever_they_contain() {
    for major in majors() {
        let server = Server::running(major, &Options::default());
        let mut connection = sql(&server).await;
        let nasty = "'; DROP TABLE x; -- \\ \" ä $1";
        let rows = connection
            .query_params("SELECT $1::text AS v, $2::int + 1, $3::text", &[Some(nasty), Some("41"), None])
            .await;
        let row = &rows.unwrap()[0];
        assert_eq!((row.required(0).unwrap(), row.required(1).unwrap()), (nasty, "42"));
        assert_eq!((row.text(2).unwrap(), row.columns()[0].name.as_str()), (None, "v"));
        let text = format!("SELECT {} AS {}", escape_literal(nasty), escape_identifier("a\"; b"));
        let row = connection.query_one(&text).await.unwrap();
        assert_eq!((row.required(0).unwrap(), row.columns()[0].name.as_str()), (nasty, "a\"; b"));
        assert!(connection.query_params("CREATE TABLE t (a int)", &[]).await.unwrap().is_empty());
        let mut replication = connect(&server.conninfo(), Mode::Replication).await;
        assert_eq!(replication.query_params("SELECT 1", &[]).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_are_kept_and_bounded() {
    let server = Server::running(majors()[0], &Options::default());
    let mut connection = sql(&server).await;
    connection.execute("DO $$ BEGIN FOR i IN 1..150 LOOP RAISE WARNING 'number %', i; END LOOP; END $$").await.unwrap();
    let notices = connection.take_notices();
    assert_eq!(notices.len(), 100);
    assert_eq!((notices[0].severity.as_str(), notices[0].message.as_str()), ("WARNING", "number 1"));
    assert!(connection.take_notices().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_that_changes_is_reported() {
    let server = Server::running(majors()[0], &Options::default());
    let mut connection = sql(&server).await;
    connection.execute("SET application_name = 'other'").await.unwrap();
    assert_eq!(connection.parameter("application_name"), Some("other"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_copy_gives_the_rows() {
    for major in majors() {
        let server = Server::running(major, &Options::default());
        let mut connection = sql(&server).await;
        let text = "COPY (SELECT g, NULL, repeat('x', g) FROM generate_series(1, 1000) g) TO STDOUT (FORMAT binary)";
        let mut copy = connection.copy_out(text).await.unwrap();
        let (mut parser, mut rows) = (BinaryCopy::new(1 << 20), 0_i32);
        while let Some(piece) = copy.next().await.unwrap() {
            parser.feed(piece);
            while let Some(row) = parser.next_row().unwrap() {
                rows += 1;
                assert_eq!(row[0].as_deref(), Some(rows.to_be_bytes().as_slice()));
                assert_eq!(
                    (row[1].is_none(), row[2].as_ref().map(|text| text.len())),
                    (true, usize::try_from(rows).ok())
                );
            }
        }
        parser.finish().unwrap();
        assert_eq!(rows, 1000);
        assert!(copy.next().await.unwrap().is_none());
        assert_eq!(connection.query_one("SELECT 1").await.unwrap().required(0).unwrap(), "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_not_read_holds_the_server_up_instead_of_filling_memory() {
    for major in majors() {
        let server = Server::running(major, &Options::default());
        for conninfo in [server.conninfo(), server.conninfo_tcp()] {
            let mut connection = connect(&conninfo, Mode::Sql).await;
            let pid = connection.backend_pid();
            let text = "COPY (SELECT repeat('x', 1000000) FROM generate_series(1, 100)) TO STDOUT (FORMAT binary)";
            let mut copy = connection.copy_out(text).await.unwrap();
            let mut len = copy.next().await.unwrap().unwrap().len();
            wait_for(&mut sql(&server).await, &waits_for(pid, "ClientWrite")).await;
            while let Some(piece) = copy.next().await.unwrap() {
                len += piece.len();
            }
            assert_eq!(len, 19 + 100 * (2 + 4 + 1_000_000) + 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_fails_on_the_way_is_an_error_and_not_an_end() {
    let server = Server::running(majors()[0], &Options::default());
    let mut connection = sql(&server).await;
    let text = "COPY (SELECT 1 / (100 - g) FROM generate_series(1, 200) g) TO STDOUT";
    let mut copy = connection.copy_out(text).await.unwrap();
    let error = loop {
        match copy.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the copy ended well"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.sqlstate(), Some("22012"));
    assert!(connection.copy_out("SELECT 1").await.is_err_and(|error| error.kind() == ErrorKind::Invalid));
    assert!(connection.query("COPY (SELECT 1) TO STDOUT").await.is_err_and(|error| error.kind() == ErrorKind::Invalid));
    connection.execute("CREATE TABLE t (a int)").await.unwrap();
    connection.query("COPY t FROM STDIN").await.unwrap_err();
    assert_eq!(connection.query_one("SELECT 1").await.unwrap().required(0).unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_abandoned_blocks_the_connection() {
    let server = Server::running(majors()[0], &Options::default());
    let mut connection = sql(&server).await;
    drop(connection.copy_out("COPY (SELECT 1) TO STDOUT").await.unwrap());
    let error = connection.query("SELECT 1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(chain(&error).contains("abandoned before its end"), "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_query_fails_and_the_connection_goes_on() {
    for major in majors() {
        let server = Server::running(major, &Options::default());
        for conninfo in [server.conninfo(), server.conninfo_tcp()] {
            let mut connection = connect(&conninfo, Mode::Sql).await;
            let (token, pid) = (connection.cancel_token(), connection.backend_pid());
            let sleeping = tokio::spawn(async move {
                let error = connection.execute("SELECT pg_sleep(1000)").await.unwrap_err();
                (connection, error)
            });
            wait_for(&mut sql(&server).await, &waits_for(pid, "PgSleep")).await;
            token.cancel().await.unwrap();
            let (mut connection, error) = sleeping.await.unwrap();
            assert_eq!(error.sqlstate(), Some("57014"));
            assert_eq!(connection.query_one("SELECT 1").await.unwrap().required(0).unwrap(), "1");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_mid_query_is_unavailable() {
    for major in majors() {
        let mut server = Server::running(major, &Options::default());
        let mut connection = sql(&server).await;
        let (pid, name) = (connection.backend_pid(), connection.server().to_owned());
        let sleeping = tokio::spawn(async move { connection.execute("SELECT pg_sleep(1000)").await });
        wait_for(&mut sql(&server).await, &waits_for(pid, "PgSleep")).await;
        tokio::task::block_in_place(|| server.kill());
        let error = sleeping.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(error.to_string(), format!("running \"SELECT pg_sleep(1000)\": {name} is not available"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_ended_by_an_administrator_tells_so() {
    for major in majors() {
        let server = Server::running(major, &Options::default());
        let (mut idle, mut admin) = (sql(&server).await, sql(&server).await);
        let pid = idle.backend_pid();
        admin.execute(&format!("SELECT pg_terminate_backend({pid})")).await.unwrap();
        wait_for(&mut admin, &format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})")).await;
        let error = idle.query("SELECT 1").await.unwrap_err();
        assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Unavailable, Some("57P01")), "{}", chain(&error));
    }
}
