//! Scripts are run by psql, which does whatever stands in them.

use std::path::PathBuf;

use asof_engine::logical::{LoadRequest, Policy};
use asof_testkit::{Server, majors};

use crate::stage::{Stage, databases, into_new};
use crate::support::chain;

#[expect(clippy::disallowed_methods, reason = "the test writes a script")]
fn script(stage: &Stage, text: &str) -> PathBuf {
    let path = stage.path("foreign.sql");
    std::fs::write(&path, text).expect("a file");
    path
}

fn dumped(server: &Server, database: &str, more: &[&str]) -> String {
    let output = server.tool("pg_dump").args(more).arg(database).output().expect("pg_dump runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

async fn load(stage: &Stage, text: &str, request: LoadRequest) -> Result<(), String> {
    let origin = stage.file(&script(stage, text)).await.map_err(|error| chain(&error))?;
    stage.load(origin, stage.server(), request).await.map(drop).map_err(|error| chain(&error))
}

/// A server with a database of two rows, and dumps of it from when it had one.
async fn victim(major: u32) -> (Stage, String, String) {
    let stage = Stage::new(major).await;
    let server = stage.server();
    server.psql("create database victim; create database empty_one");
    server.psql_in("victim", "create table t (a int); insert into t values (1)");
    let clean = dumped(server, "victim", &["--clean", "--if-exists", "--create"]);
    let create = dumped(server, "victim", &["--create"]);
    server.psql_in("victim", "insert into t values (2)");
    (stage, clean, create)
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_l5_a_script_that_leaves_the_database_it_is_loaded_into_changes_nothing() {
    for major in majors() {
        let (stage, clean, create) = victim(major).await;
        let server = stage.server();
        let scripts = [
            (clean, "DROP DATABASE"),
            (create, "CREATE DATABASE"),
            ("create table mine (a int);\n\\connect victim\ndrop table t;\n".to_owned(), "\\connect victim"),
            ("\\! touch /tmp/never\n".to_owned(), "\\! touch"),
            ("create role sneaked superuser;\n".to_owned(), "CREATE ROLE"),
            (format!("{}drop database victim;\n", "select 1;\n".repeat(100_000)), "DROP DATABASE"),
        ];
        for (text, what) in scripts {
            let into_empty = LoadRequest { policy: Policy::IntoEmpty, ..into_new("empty_one") };
            for request in [into_new("copy"), into_empty, LoadRequest { policy: Policy::Replace, ..into_new("victim") }]
            {
                let said = load(&stage, &text, request).await.expect_err("is refused");
                assert!(said.contains("reaches beyond the database") && said.contains(what), "on {major}: {said}");
            }
        }
        assert_eq!(databases(server), ["empty_one", "victim"], "on {major}");
        assert_eq!(server.psql_in("victim", "select count(*) from t"), "2");
        assert_eq!(server.psql_in("empty_one", "select count(*) from pg_class where relname = 'mine'"), "0");
        assert_eq!(server.psql("select count(*) from pg_roles where rolname = 'sneaked'"), "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_commits_by_itself_is_not_loaded_into_a_database_that_stays() {
    let (stage, ..) = victim(majors()[0]).await;
    let text = "create table one (a int);\ncommit;\ncreate table two (a int);\n";
    let into_empty = LoadRequest { policy: Policy::IntoEmpty, ..into_new("empty_one") };
    let said = load(&stage, text, into_empty).await.expect_err("is refused");
    assert!(said.contains("transactions of its own (COMMIT"), "{said}");
    assert_eq!(
        stage.server().psql_in("empty_one", "select count(*) from pg_class where relname in ('one', 'two')"),
        "0"
    );
    load(&stage, text, into_new("copy")).await.expect("a new database is nobody's yet");
    assert_eq!(stage.server().psql_in("copy", "select count(*) from pg_class where relname in ('one', 'two')"), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_without_an_end_is_not_taken_for_loaded() {
    let (stage, ..) = victim(majors()[0]).await;
    let into_empty = || LoadRequest { policy: Policy::IntoEmpty, ..into_new("empty_one") };
    for text in ["create table half (a int);\n/* no end", "create table half (a int);\nselect 'no end"] {
        for request in [into_empty(), into_new("copy")] {
            let said = load(&stage, text, request).await.expect_err("is refused");
            assert!(!said.is_empty());
        }
        assert_eq!(stage.server().psql_in("empty_one", "select count(*) from pg_class where relname = 'half'"), "0");
    }
    assert_eq!(databases(stage.server()), ["empty_one", "victim"]);
    // What only lacks its semicolon, or ends in the line of a comment, is whole.
    load(&stage, "create table whole (a int);\ninsert into whole values (1)\n-- no line behind it", into_empty())
        .await
        .expect("it is whole");
    assert_eq!(stage.server().psql_in("empty_one", "select count(*) from whole"), "1");
}
