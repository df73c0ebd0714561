//! `asof compare` from outside: exit codes, what is printed where, and JSON.

mod support;

use asof_testkit::{Options, Server};

use support::{Desk, Said, json, with_server};

fn compare(desk: &Desk, server: &Server, options: &[&str]) -> Said {
    let database = |name: &str| server.conninfo().replace("dbname=postgres", &format!("dbname={name}"));
    desk.run(desk.command().args(["-q", "compare", &database("one"), &database("two")]).args(options))
}

#[test]
fn equal_different_and_not_compared_have_exit_codes_of_their_own() {
    let (desk, server) = (Desk::new(), Server::running(15, &Options::default()));
    server.psql("create database one");
    server.psql_in(
        "one",
        "create table t (id int primary key, v text); insert into t values (1, 'a'); create table u ()",
    );
    server.psql("create database two template one");

    let said = compare(&desk, &server, &[]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    assert!(said.out.starts_with("equal: 2 tables, 1 rows, descriptions and content in "), "{said:?}");

    server.psql_in("two", "update t set v = 'b'; create index late on t (v)");
    let said = compare(&desk, &server, &[]);
    assert_eq!(said.code, 7, "{said:?}");
    for expected in [
        "index\n  public.late: only in B",
        "content\n  public.t: digest: A has ",
        "    row (1) differs\n",
        "\n2 differences: ",
    ] {
        assert!(said.out.contains(expected), "no `{expected}` in {said:?}");
    }
    assert!(said.err.contains("the two sides differ"), "{said:?}");
    assert_eq!(compare(&desk, &server, &["--exclude-table", "t"]).code, 0);
    assert_eq!(compare(&desk, &server, &["--table", "public.t", "--data-only"]).code, 7);
    let said = compare(&desk, &server, &["--schema-only"]);
    assert!(said.code == 7 && !said.out.contains("content"), "{said:?}");

    server.psql("create role reader login");
    let database =
        |name: &str| server.conninfo().replace("user=postgres dbname=postgres", &format!("user=reader dbname={name}"));
    let said = desk.run(desk.command().args(["compare", &database("one"), &database("one")]));
    said.must("compare", 6, &["not everything could be compared"]);
    assert!(said.out.contains("could not compare table public.t of reader@"), "{said:?}");

    let said = desk.run(desk.command().args(["compare", &database("one"), "host=127.0.0.1 port=1 user=x dbname=y"]));
    said.must("compare", 5, &["not available"]);
    let said = compare(&desk, &server, &["--table", "a.b.c"]);
    said.must("compare", 2, &["does not name relations"]);
    desk.refused("compare nothing other", 3, &["there is no configuration"]);
}

#[test]
fn the_report_in_json_is_the_whole_answer_and_holds_no_password() {
    let (desk, server) = (Desk::new(), Server::running(15, &Options::default()));
    server.psql("create database one");
    server.psql_in("one", "create table t (id int primary key, v text); insert into t values (1, 'a'), (2, 'b')");
    server.psql("create database two template one");
    server.psql_in("two", "delete from t where id = 2");
    let given = |name: &str| format!("postgresql://postgres:geheim@127.0.0.1:{}/{name}", server.port());
    let said = desk.run(desk.command().args(["compare", &given("one"), &given("two"), "--json"]));
    assert_eq!(said.code, 7, "{said:?}");
    assert!(!said.out.contains("geheim") && !said.err.contains("geheim"), "{said:?}");
    let report = json(&said.out);
    assert_eq!(report["verdict"], "different");
    assert_eq!(report["a"]["label"], format!("postgres@127.0.0.1:{}/one", server.port()));
    let difference = &report["differences"][0];
    assert_eq!((&difference["class"], &difference["object"]), (&"content".into(), &"public.t".into()));
    assert_eq!(
        (&difference["property"], &difference["a"], &difference["b"]),
        (&"rows".into(), &"2".into(), &"1".into())
    );
    assert_eq!(report["tables"][0]["examples"][0]["key"], "(2)");
    assert_eq!(report["tables"][0]["examples"][0]["found"], "only-in-a");
    assert_eq!(report["tables"][0]["a"]["rows"], 2);
    assert!(report["elapsed_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
}

#[test]
fn instances_are_named_with_or_without_a_database() {
    let (desk, server) = with_server();
    server.psql("create database shop");
    assert_eq!(desk.asof("compare prod prod").code, 0);
    assert_eq!(desk.asof("compare prod/shop prod --database shop").code, 0);
    server.psql_in("shop", "create table t ()");
    assert_eq!(desk.asof("compare prod/shop prod/postgres").code, 7);
    assert_eq!(desk.asof("compare prod/shop prod").code, 7);
    desk.refused(
        "compare prod other",
        3,
        &["\"other\" is no instance, no file and no backup", "known instances: prod"],
    );
}
