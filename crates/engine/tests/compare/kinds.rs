//! A database with an object of every kind: its copy by `pg_dump` is equal, and every change of it is found.

use std::path::Path;

use asof_engine::compare::{Class, Difference, Verdict, verdict};
use asof_testkit::{Workdir, majors};

use crate::stage::{Shared, compared, everything, words};

const EVERY_KIND: &str = include_str!("every_kind.sql");

fn make_every_kind(server: &Shared, database: &str) {
    let newer = if server.major >= 14 { "" } else { "\\set old 1\n" };
    let work = Workdir::new("compare");
    let script = work.path().join("every_kind.sql");
    write(&script, format!("{newer}{EVERY_KIND}").as_bytes());
    run_script(server, database, &script);
}

/// Loads one database with what `pg_dump` says of another.
fn dump_into(from: &Shared, database: &str, to: &Shared, copy: &str) {
    let dump = from.tool("pg_dump").args(["-d", database]).output().expect("pg_dump runs");
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let work = Workdir::new("compare");
    let script = work.path().join("dump.sql");
    // What a newer pg_dump says to servers that know it.
    let text = String::from_utf8(dump.stdout).expect("UTF-8").replace("SET transaction_timeout = 0;", "");
    write(&script, text.as_bytes());
    run_script(to, copy, &script);
}

fn run_script(server: &Shared, database: &str, script: &Path) {
    let mut psql = server.tool("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-f"]).arg(script);
    let done = psql.output().expect("psql runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_was_loaded_is_equal_with_objects_of_every_kind_and_weird_names() {
    for major in majors() {
        let server = Shared::of(major);
        server.psql("create database original; create database loaded template template0");
        make_every_kind(&server, "original");
        if major < 15 {
            // A newer pg_dump gives it options that this server does not know.
            server.psql_in("original", "alter subscription follower set (slot_name = none)");
            server.psql_in("original", "drop subscription follower");
        }
        dump_into(&server, "original", &server, "loaded");
        let report = compared(&server.side("A", "original"), &server.side("B", "loaded"), &everything()).await;
        assert_eq!(words(&report), Vec::<String>::new(), "on {major}");
        assert_eq!(report.could_not_compare, []);
        assert!(report.tables.len() >= 8, "{:?}", report.tables);
        let left_out: Vec<_> = report.left_out.iter().map(|it| it.object.as_str()).collect();
        assert_eq!(left_out, ["public.elsewhere"]);
    }
}

#[expect(clippy::disallowed_methods, reason = "a script for psql")]
fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_an_old_major_in_a_new_one_differs_in_words_only() {
    let (old, new) = (majors()[0], *majors().last().expect("at least one"));
    let (from, to) = (Shared::of(old), Shared::of(new));
    from.psql("create database upgraded");
    make_every_kind(&from, "upgraded");
    from.psql_in("upgraded", "alter subscription follower set (slot_name = none)");
    from.psql_in("upgraded", "drop subscription follower");
    to.psql("create database \"upgraded copy\" template template0");
    dump_into(&from, "upgraded", &to, "upgraded copy");
    let report = compared(&from.side("A", "upgraded"), &to.side("B", "upgraded copy"), &everything()).await;
    // Views are printed without needless qualifications since 16; extensions come with their major.
    let by_major = |it: &Difference| old != new && matches!(it.class, Class::Definition | Class::Extension);
    assert!(report.differences.iter().all(by_major), "{:#?}", report.differences);
    assert_eq!(report.could_not_compare, []);
}

/// What is changed, and what is then said to differ.
const CHANGES: [(&str, &str); 42] = [
    ("alter domain positive drop constraint above", "constraint: above on public.positive: "),
    ("alter domain positive set default 2", "type: public.positive: default: "),
    ("alter type pair add attribute z int cascade", "type: public.pair: attributes: "),
    ("drop type span", "type: public.span: exists -> -"),
    ("drop collation \"My collation\"", "collation: public.\"My collation\": exists -> -"),
    ("drop conversion mine", "conversion: public.mine: exists -> -"),
    ("alter function add(int, int) cost 8", "routine: public.add(integer,integer): cost: "),
    ("drop aggregate total(int)", "routine: public.total(integer): exists -> -"),
    (
        "alter operator <<>> (int, int) set (restrict = scalarltsel)",
        "operator: public.<<>>(integer,integer): estimators: ",
    ),
    (
        "alter operator family odd using btree add operator 2 <= (int, int)",
        "operator family: public.odd USING btree: operators: ",
    ),
    ("drop operator class odd_ops using btree", "operator class: public.odd_ops USING btree: exists -> -"),
    ("drop cast (int as pair)", "cast: (integer AS public.pair): "),
    ("drop access method other", "access method: other: "),
    (
        "alter text search configuration mine drop mapping for word",
        "text search: configuration public.mine: mappings: ",
    ),
    ("alter text search dictionary simple_one (stopwords)", "text search: dictionary public.simple_one: options: "),
    ("alter foreign data wrapper wrapper options (set debug 'no')", "foreign data wrapper: wrapper: options: "),
    (
        "alter server \"Far away\" options (set host 'x')",
        "foreign server: \"Far away\": options: host=nowhere -> host=x",
    ),
    (
        "alter user mapping for reader server \"Far away\" options (set \"user\" 'y')",
        "user mapping: reader on server \"Far away\": options: password=***, user=x -> password=***, user=y",
    ),
    ("alter foreign table elsewhere options (set a 'c')", "relation: public.elsewhere: foreign options: a=b -> a=c"),
    ("alter table account set (fillfactor = 71)", "relation: public.account: options: fillfactor=70 -> fillfactor=71"),
    ("alter table account alter mood set statistics 56", "column: public.account.mood: statistics target: 55 -> 56"),
    ("alter table account alter big set storage main", "column: public.account.big: storage: external -> main"),
    (
        "alter table account alter id set generated by default",
        "column: public.account.id: identity: always -> by default",
    ),
    ("alter table account set without cluster", "index: public.account_pkey: clustered: yes -> no"),
    ("alter table account replica identity full", "relation: public.account: replica identity: index -> full"),
    ("alter statistics stats set statistics 78", "statistics: public.stats: target: 77 -> 78"),
    ("alter table scratch set logged", "relation: public.scratch: persistence: unlogged -> permanent"),
    ("alter table child no inherit parent", "relation: public.child: inherits: "),
    ("alter sequence \"Ticket\" no cycle", "sequence: public.\"Ticket\": cycles: yes -> no"),
    ("refresh materialized view empty", "relation: public.empty: populated: no -> yes"),
    ("alter table parent disable rule guard", "rule: guard on public.parent: enabled: yes -> no"),
    ("alter event trigger never enable", "event trigger: never: enabled: no -> yes"),
    ("alter subscription follower set (slot_name = none)", "subscription: follower: slot: follower -> -"),
    ("alter default privileges in schema public revoke select on tables from reader", "default privilege: "),
    (
        "revoke usage on schema \"Weird \"\"schema\"\".x\" from reader",
        "privilege: schema \"Weird \"\"schema\"\".x\": to reader: ",
    ),
    ("comment on operator ### (int, int) is 'new'", "comment: operator public.###(integer,integer): text: odd -> new"),
    (
        "alter user mapping for reader server \"Far away\" options (set password 'other')",
        "user mapping: reader on server \"Far away\": secret options: *** -> ***",
    ),
    ("grant select on large object 815 to \"Weird \"\"role\"", "privilege: large object 815: "),
    ("grant select on pg_shadow to reader", "privilege: relation pg_shadow: - -> SELECT granted to \"reader\""),
    (
        "grant execute on function upper(text) to public",
        "privilege: routine upper(text): EXECUTE revoked from PUBLIC -> -",
    ),
    ("alter table papers alter j type text", "column: public.papers.j: type: json -> text"),
    ("alter large object 815 owner to postgres", "large object: 815: owner: reader -> postgres"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_an_object_of_any_kind_is_found() {
    for major in majors() {
        let server = Shared::of(major);
        for database in ["every a", "every b"] {
            server.psql(&format!("create database \"{database}\""));
            make_every_kind(&server, database);
        }
        let (a, b) = (server.side("A", "every a"), server.side("B", "every b"));
        assert_eq!(verdict(&compared(&a, &b, &everything()).await), Verdict::Equal, "on {major}");
        for (change, _) in CHANGES {
            server.psql_in("every b", change);
        }
        let found = words(&compared(&a, &b, &everything()).await);
        for (change, expected) in CHANGES {
            assert!(
                found.iter().any(|it| it.starts_with(expected)),
                "{change} on {major}: {expected} is not in {found:#?}"
            );
        }
    }
}
