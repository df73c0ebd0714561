//! One test for each kind of difference.

use asof_engine::compare::{Class, CompareRequest, Verdict, Where, verdict};
use asof_testkit::majors;

use crate::stage::{BASE, Two, check, everything, words};

#[tokio::test(flavor = "multi_thread")]
async fn hz_l4_one_changed_value_is_found_and_its_key_named() {
    let changed = "update account set name = 'other' where id = 7";
    check("value", changed, &["content: public.account: digest: differs"]).await;
    let two = Two::new(majors()[0], "value key", BASE);
    two.server.psql_in(&two.b, changed);
    let report = two.compared(&everything()).await;
    let table = report.tables.iter().find(|table| table.table == "public.account").expect("it was compared");
    let found: Vec<_> = table.examples.iter().map(|example| (example.key.as_str(), example.found)).collect();
    assert_eq!(found, [("(7)", Where::Differs)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_more_row_is_found() {
    check("row", "insert into account (id) values (101)", &["content: public.account: rows: 100 -> 101"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_there_twice_instead_of_another_is_found() {
    let planted = "delete from twice where word = 'two'; insert into twice values ('one'), ('two')";
    check("twice", planted, &["content: public.twice: digest: differs"]).await;
    check("thrice", "insert into twice values ('two')", &["content: public.twice: rows: 3 -> 4"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn null_is_not_the_empty_text() {
    let planted = "update account set note = '' where id = 9";
    check("null", planted, &["content: public.account: digest: differs"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn minus_zero_is_not_zero() {
    for major in majors() {
        let two = Two::new(major, "zero", "create table t (f float8); insert into t values ('0')");
        two.server.psql_in(&two.b, "update t set f = '-0'");
        assert_eq!(words(&two.compared(&everything()).await), ["content: public.t: digest: differs"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comma_in_one_column_is_not_two_columns() {
    for major in majors() {
        let two = Two::new(major, "comma", "create table t (x text, y text); insert into t values ('a,b', 'c')");
        two.server.psql_in(&two.b, "update t set x = 'a', y = 'b,c'");
        assert_eq!(words(&two.compared(&everything()).await), ["content: public.t: digest: differs"]);
        two.server.psql_in(&two.b, "update t set x = 'c', y = 'a,b'");
        assert_eq!(words(&two.compared(&everything()).await), ["content: public.t: digest: differs"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_value_of_a_sequence_is_compared() {
    check("sequence", "select nextval('ticket')", &["sequence value: public.ticket: 42 -> 43"]).await;
    check("unused", "select setval('ticket', 42, false)", &["sequence value: public.ticket: 42 -> 42 (not yet used)"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_is_compared() {
    let planted = "alter table account alter name set default 'somebody'";
    let expected = "column: public.account.name: default: 'nobody'::\"text\" -> 'somebody'::\"text\"";
    check("default", planted, &[expected]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_index_is_found() {
    check("index", "drop index account_name", &["index: public.account_name: exists -> -"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_privilege_is_compared() {
    let planted =
        "grant select on account to reader with grant option; revoke execute on function answer() from public";
    let expected = [
        "privilege: relation public.account: to reader: - -> SELECT*",
        "privilege: routine public.answer(): to PUBLIC: EXECUTE -> -",
    ];
    check("privilege", planted, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn granting_what_everybody_has_by_default_is_no_difference() {
    for major in majors() {
        let two = Two::new(major, "acldefault", BASE);
        two.server.psql_in(&two.b, "grant execute on function answer() to public");
        assert_eq!(words(&two.compared(&everything()).await), Vec::<String>::new(), "on {major}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_not_null_that_nobody_validated_is_found() {
    for major in majors().into_iter().filter(|major| *major >= 18) {
        let two = Two::new(major, "not null", "create table t (a int); alter table t add constraint n not null a");
        two.server
            .psql_in(&two.b, "alter table t drop constraint n; alter table t add constraint n not null a not valid");
        let found = words(&two.compared(&everything()).await);
        assert_eq!(found, ["column: public.t.a: not null constraint: n -> n NOT VALID"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_is_compared() {
    let planted = "comment on table account is 'others'; comment on column account.id is 'new'";
    let expected = [
        "comment: table column public.account.id: - -> new",
        "comment: table public.account: text: who owes what -> others",
    ];
    check("comment", planted, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_compared() {
    let planted = "alter policy mine on account using (id > 1); alter table account enable row level security";
    let expected = [
        "relation: public.account: row security: disabled -> enabled",
        "policy: mine on public.account: using: (\"id\" > 0) -> (\"id\" > 1)",
    ];
    check("policy", planted, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_trigger_is_found() {
    let planted = "alter table account disable trigger watch";
    check("trigger", planted, &["trigger: watch on public.account: enabled: yes -> no"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_columns_is_a_difference_of_its_own() {
    for major in majors() {
        let two = Two::new(major, "order", "create table t (x int, y int); insert into t values (1, 2)");
        two.server.psql_in(&two.b, "alter table t drop x, add x int; update t set x = 1");
        let found = two.compared(&everything()).await;
        assert_eq!(words(&found), ["column order: public.t: columns: [\"x\", \"y\"] -> [\"y\", \"x\"]"], "on {major}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_of_an_enum_is_compared() {
    let expected = "type: public.mood: labels: [\"sad\", \"happy\"] -> [\"sad\", \"soso\", \"happy\"]";
    check("enum", "alter type mood add value 'soso' before 'happy'", &[expected]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_of_a_function_is_compared() {
    let planted = "create or replace function answer() returns int language sql as 'select 43'";
    check("function", planted, &["routine: public.answer(): source: select 42 -> select 43"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constraint_that_is_not_valid_is_found() {
    for major in majors() {
        let two = Two::new(major, "check", "create table t (x int constraint small check (x < 5))");
        two.server.psql_in(&two.b, "alter table t drop constraint small, add constraint small check (x < 5) not valid");
        let found = words(&two.compared(&everything()).await);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[1], "constraint: small on public.t: validated: yes -> no", "on {major}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_of_an_extension_is_compared_and_its_members_are_not() {
    for major in majors() {
        let two = Two::new(major, "extension", "create extension amcheck version '1.1'");
        two.server.psql_in(&two.b, "alter extension amcheck update to '1.2'");
        assert_eq!(
            words(&two.compared(&everything()).await),
            ["extension: amcheck: version: 1.1 -> 1.2"],
            "on {major}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_of_a_large_object_is_compared() {
    for major in majors() {
        let two = Two::new(major, "large", BASE);
        two.server.psql_in(&two.b, "select lo_put(4711, 3999999, '\\x44'); select lo_create(4712)");
        let found = two.compared(&everything()).await;
        let classes: Vec<_> = found.differences.iter().map(|it| (it.class, it.object.as_str())).collect();
        assert_eq!(classes, [(Class::LargeObject, "4711"), (Class::LargeObject, "4712")], "on {major}");
        let bytes = found.differences[0].a.as_deref().expect("is there");
        assert!(bytes.starts_with("4000000 bytes"), "{bytes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_is_compared() {
    let planted = "alter publication feed add table twice; alter publication feed set (publish = 'insert')";
    let expected = [
        "publication: feed: operations: insert, update, delete, truncate -> insert",
        "publication: feed: table public.twice: - -> published",
    ];
    check("publication", planted, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_of_a_partition_is_compared() {
    let planted = "alter table event detach partition event_1; \
                   alter table event attach partition event_1 for values from ('2026-01-01') to ('2026-03-01')";
    let expected = "relation: public.event_1: partition bound: FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') -> \
                    FOR VALUES FROM ('2026-01-01') TO ('2026-03-01')";
    check("partition", planted, &[expected]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_of_the_database_is_compared() {
    for major in majors() {
        let two = Two::new(major, "setting", BASE);
        two.server.psql(&format!("alter database \"{}\" set work_mem = '5MB'", two.b));
        let found = words(&two.compared(&everything()).await);
        assert_eq!(found, ["setting: the database: - -> 5MB"], "on {major}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_query_of_a_view_is_compared_as_a_definition() {
    for major in majors() {
        let two = Two::new(major, "view", BASE);
        two.server.psql_in(&two.b, "create or replace view rich as select id from account where amount > 11");
        let found = two.compared(&everything()).await;
        let classes: Vec<_> = found.differences.iter().map(|it| (it.class, it.object.as_str())).collect();
        assert_eq!(classes, [(Class::Definition, "public.rich")], "on {major}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_is_one_difference_and_not_one_for_each_of_its_parts() {
    check(
        "table",
        "drop table account cascade",
        &[
            "relation: public.account: exists -> -",
            "relation: public.rich: exists -> -",
            "publication: feed: table public.account: published -> -",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_are_compared_on_request_only() {
    for major in majors() {
        let two = Two::new(major, "owner", BASE);
        two.server.psql_in(&two.b, "alter table twice owner to reader");
        let found = words(&two.compared(&everything()).await);
        assert_eq!(found, ["relation: public.twice: owner: postgres -> reader"], "on {major}");
        let without = CompareRequest { owners: false, ..everything() };
        assert_eq!(verdict(&two.compared(&without).await), Verdict::Equal, "on {major}");
    }
}
