//! What is no difference: layout, majors, encodings; and roles, which are none unless they are asked for.

use asof_engine::compare::{CompareRequest, Verdict, verdict};
use asof_testkit::{Options, Server, majors};

use crate::stage::{Shared, compared, everything, only_content, side, words};
use crate::support::link;

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_compared_on_request_without_their_passwords() {
    let server = Shared::of(majors()[0]);
    let other = Server::running(majors()[0], &Options::default());
    let made = "create role reader login; create role \"Weird \"\"role\"; create role more createdb password 'secret'; \
                grant reader to more with admin option; alter role reader set work_mem = '5MB'; alter role reader password 'secret'";
    other.psql(made);
    let (a, b) = (server.side("A", "template1"), side("B", &link(&other), "template1"));
    let found = compared(&a, &b, &everything()).await;
    assert_eq!(words(&found), ["setting: role reader: - -> 5MB", "role: more: - -> exists"]);
    let without = CompareRequest { roles: false, ..everything() };
    assert_eq!(verdict(&compared(&a, &b, &without).await), Verdict::Equal);
}

/// What decides how values are written.
const SETTINGS: [&str; 6] = [
    "timezone = 'Asia/Tokyo'",
    "datestyle = 'German'",
    "intervalstyle = 'iso_8601'",
    "bytea_output = 'escape'",
    "extra_float_digits = 0",
    "search_path = pg_catalog, public",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_digest_does_not_depend_on_major_layout_or_dropped_columns() {
    let servers: Vec<_> = majors().into_iter().map(Shared::of).collect();
    let values = "create table t (id int primary key, f4 real, f8 float8, n numeric, t text, b bytea, at timestamptz, \
                  d date, i interval, j jsonb, u uuid, a text[], r int4range, m money, c char(5), x xml, k regclass); \
                  insert into t select n, n / 7.0, n / 7e10, n / 3.0, 'ä' || n, decode(md5(n::text), 'hex'), \
                  '2026-01-01Z'::timestamptz + n * interval '1.5 s', '2026-01-01'::date - n * 100, \
                  n * interval '1 month -2 days 3.25 s', jsonb_build_object('k', n), md5(n::text)::uuid, \
                  array['a', null, n::text], int4range(n, n + 5), n::money, 'x' || n % 10, '<a/>', 'pg_class' \
                  from generate_series(1, 500) n";
    let first = &servers[0];
    let mut digests = Vec::new();
    for (number, server) in servers.iter().enumerate() {
        server.psql("create database layout");
        server.psql_in("layout", values);
        if number % 2 == 1 {
            server.psql_in("layout", "alter table t add gone int; update t set gone = 1; alter table t drop gone");
            server.psql_in("layout", "vacuum full t; create index on t (t); cluster t using t_t_idx");
        }
        let report = compared(&first.side("A", "layout"), &server.side("B", "layout"), &only_content()).await;
        assert_eq!(verdict(&report), Verdict::Equal, "{:?} on {}", words(&report), server.major);
        digests.push(report.tables[0].b.clone());
    }
    assert_eq!(digests[0].as_ref().map(|content| content.rows), Some(500));
    // What happened on one server alone, too, and other ways to write values.
    first.psql("create database \"layout copy\" template layout");
    for setting in SETTINGS {
        first.psql(&format!("alter database \"layout copy\" set {setting}"));
    }
    let report = compared(&first.side("A", "layout"), &first.side("B", "layout copy"), &only_content()).await;
    assert_eq!(verdict(&report), Verdict::Equal);
    first.psql("drop database \"layout copy\"");
    first.psql_in("layout", "update t set t = t; vacuum full t");
    let report = compared(&first.side("A", "layout"), &first.side("B", "layout"), &only_content()).await;
    assert_eq!(report.tables[0].a, digests[0]);
    servers.iter().for_each(|server| drop(server.psql("drop database layout")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_text_in_another_encoding_is_equal() {
    for major in majors() {
        let server = Shared::of(major);
        let sql = "set client_encoding = 'UTF8'; create table \"tä\" (\"kö\" text primary key); insert into \"tä\" values ('äöü'), ('ß')";
        for (name, encoding) in [("in utf8", "UTF8"), ("in latin1", "LATIN1")] {
            server.psql(&format!("create database \"{name}\" encoding '{encoding}' locale 'C' template template0"));
            server.psql_in(name, sql);
        }
        let (a, b) = (server.side("A", "in utf8"), server.side("B", "in latin1"));
        assert_eq!(verdict(&compared(&a, &b, &only_content()).await), Verdict::Equal, "on {major}");
        let found = compared(&a, &b, &everything()).await;
        assert_eq!(words(&found), ["database: the database: encoding: UTF8 -> LATIN1"], "on {major}");
        server.psql_in(
            "in latin1",
            "set client_encoding = 'UTF8'; update \"tä\" set \"kö\" = 'äöv' where \"kö\" = 'äöü'",
        );
        let found = compared(&a, &b, &only_content()).await;
        assert_eq!(found.tables[0].examples.len(), 2, "{:?}", found.tables);
        assert_eq!(found.tables[0].examples[0].key, "(äöv)");
        server.psql("drop database \"in utf8\"");
        server.psql("drop database \"in latin1\"");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_without_an_encoding_are_compared_as_they_are() {
    let server = Shared::of(majors()[0]);
    for (name, byte) in [("ascii a", "ff"), ("ascii b", "fe")] {
        server.psql(&format!("create database \"{name}\" encoding 'SQL_ASCII' locale 'C' template template0"));
        let sql = format!("create table t (x text primary key); insert into t values (E'a\\x{byte}')");
        server.psql_in(name, &sql);
    }
    let (a, b) = (server.side("A", "ascii a"), server.side("B", "ascii b"));
    assert_eq!(verdict(&compared(&a, &a, &everything()).await), Verdict::Equal);
    let found = compared(&a, &b, &everything()).await;
    let keys: Vec<_> = found.tables[0].examples.iter().map(|it| it.key.as_str()).collect();
    assert_eq!(keys, ["(a\\xfe)", "(a\\xff)"]);
    server.psql("drop database \"ascii a\"");
    server.psql("drop database \"ascii b\"");
}
