//! While others work, where rights are missing, and where not everything is looked at.

use std::sync::{Arc, Mutex};

use asof_engine::compare::{CompareReport, CompareRequest, Mode, Patterns, Sampling, Verdict, Where, compare, verdict};
use asof_engine::progress::{Event, Observer, Silent};
use asof_engine::{Error, Result};
use asof_postgres::client::ErrorKind;
use asof_testkit::{Options, fill_small, majors};
use asof_world::World;

use crate::stage::{BASE, Shared, Two, compared, everything, only_content, side, words};
use crate::support::{Protected, chain, follow, link, standby};

// While others work.

/// Does something at the moment when descriptions have been read and rows have not.
struct Meanwhile(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Observer for Meanwhile {
    fn event(&self, event: Event) {
        if event == Event::Phase("comparing rows")
            && let Some(act) = self.0.lock().expect("nobody panics").take()
        {
            act();
        }
    }
}

async fn tried_while(two: &Two, sql: &str) -> Result<CompareReport> {
    let (server, database, sql) = (Arc::clone(&two.server), two.b.clone(), sql.to_owned());
    let act: Box<dyn FnOnce() + Send> = Box::new(move || drop(server.psql_in(&database, &sql)));
    let (a, b) = two.sides();
    compare(&World::real(), &a, &b, &everything(), Arc::new(Meanwhile(Mutex::new(Some(act))))).await
}

async fn compared_while(two: &Two, sql: &str) -> CompareReport {
    tried_while(two, sql).await.unwrap_or_else(|error| panic!("{}", chain(&error)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_an_error_and_no_answer() {
    for major in majors() {
        let two = Two::new(major, "lost", BASE);
        let ended = "select pg_terminate_backend(pid) from pg_stat_activity \
                     where datname = current_database() and application_name = 'asof'";
        match tried_while(&two, ended).await {
            Err(Error::Client(error)) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error} on {major}"),
            other => panic!("{other:?} on {major}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_commit_meanwhile_is_not_seen() {
    for major in majors() {
        let two = Two::new(major, "snapshot", BASE);
        let report = compared_while(&two, "insert into account (id) values (200); delete from twice").await;
        assert_eq!(verdict(&report), Verdict::Equal, "{:?} on {major}", words(&report));
        assert_eq!(verdict(&two.compared(&everything()).await), Verdict::Different);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_truncated_meanwhile_is_not_taken_for_empty() {
    for major in majors() {
        let two = Two::new(major, "truncate", BASE);
        let report = compared_while(&two, "truncate twice").await;
        let refused: Vec<_> =
            report.could_not_compare.iter().map(|it| (it.side.as_str(), it.object.as_str())).collect();
        assert_eq!(refused, [("B", "table public.twice")], "on {major}");
        assert_eq!(verdict(&report), Verdict::CouldNotCompare);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_compared_with_its_primary() {
    for major in majors() {
        let production = Protected::new(major, &Options::default()).await;
        fill_small(&production.server);
        let standby = standby(&production).await;
        // Unlogged tables have no content there, and sequences stand where WAL has them.
        production.server.psql("create sequence used; select nextval('used')");
        production.server.psql("drop table scratch");
        follow(&production, &standby).await;
        let (a, b) = (side("A", &link(&production.server), "postgres"), side("B", &link(&standby), "postgres"));
        let report = compared(&a, &b, &everything()).await;
        assert_eq!(words(&report), Vec::<String>::new(), "on {major}");
        assert_eq!((verdict(&report), report.b.in_recovery), (Verdict::Equal, true));
        let left_out: Vec<_> = report.left_out.iter().map(|it| it.object.as_str()).collect();
        assert_eq!(left_out, ["sequence value public.used"], "on {major}");
        assert!(report.rows() > 70_000, "{}", report.rows());
    }
}

// What cannot be compared.

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_right_is_named_and_never_equal() {
    for major in majors() {
        let two = Two::new(major, "right", BASE);
        for database in [&two.a, &two.b] {
            let granted = "grant select on all tables in schema public to reader; \
                           grant select on sequence ticket to reader; grant select on large object 4711 to reader; \
                           revoke all on twice from reader";
            two.server.psql_in(database, granted);
        }
        let (mut a, mut b) = two.sides();
        a.server.config.user = "reader".to_owned();
        b.server.config.user = "reader".to_owned();
        let report = compared(&a, &b, &everything()).await;
        assert_eq!(words(&report), Vec::<String>::new(), "on {major}");
        assert_eq!(verdict(&report), Verdict::CouldNotCompare);
        let refused: Vec<_> =
            report.could_not_compare.iter().map(|it| (it.side.as_str(), it.object.as_str(), it.denied)).collect();
        assert_eq!(refused, [("A", "table public.twice", true), ("B", "table public.twice", true)], "on {major}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_only_others_may_see_are_not_taken_for_none() {
    for major in majors() {
        let sql = "create foreign data wrapper w; create server s foreign data wrapper w; \
                   create user mapping for postgres server s options (a 'b'); create user mapping for reader server s; \
                   grant usage on foreign server s to reader";
        let two = Two::new(major, "mapping", sql);
        two.server.psql_in(&two.b, "alter user mapping for postgres server s options (set a 'c')");
        let found = words(&two.compared(&everything()).await);
        assert_eq!(found, ["user mapping: postgres on server s: options: a=b -> a=c"], "on {major}");
        let (mut a, mut b) = two.sides();
        a.server.config.user = "reader".to_owned();
        b.server.config.user = "reader".to_owned();
        let report = compared(&a, &b, &everything()).await;
        assert_eq!(verdict(&report), Verdict::CouldNotCompare, "{:?} on {major}", words(&report));
        let hidden: Vec<_> = report.could_not_compare.iter().map(|it| it.object.as_str()).collect();
        assert_eq!(hidden, ["user mapping postgres on server s"; 2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_would_hide_rows_is_an_error_and_not_a_part_of_them() {
    for major in majors() {
        let two = Two::new(major, "hidden", BASE);
        let guarded = "alter table account enable row level security; grant select on account, twice to reader";
        two.server.psql_in(&two.a, guarded);
        two.server.psql_in(&two.b, guarded);
        let (mut a, mut b) = two.sides();
        a.server.config.user = "reader".to_owned();
        b.server.config.user = "reader".to_owned();
        let report = compared(&a, &b, &only_content()).await;
        let found = report.could_not_compare.iter().find(|it| it.object == "table public.account").expect("is named");
        assert!(found.why.contains("row-level security") && found.denied, "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_does_not_answer_is_an_error() {
    let server = Shared::of(majors()[0]);
    let here = server.side("A", "postgres");
    let mut gone = here.clone();
    gone.server.config.dbname = "nothing".to_owned();
    assert!(compare(&World::real(), &here, &gone, &everything(), Arc::new(Silent)).await.is_err());
}

// Closer, and less close.

#[tokio::test(flavor = "multi_thread")]
async fn examples_name_the_keys_of_a_large_table() {
    for major in majors() {
        let two = Two::new(
            major,
            "examples",
            "create table t (a int, b text, v int, primary key (a, b)); \
            insert into t select n, 'k ' || n, n from generate_series(1, 20000) n",
        );
        two.server.psql_in(
            &two.b,
            "update t set v = 0 where a = 12345; delete from t where a = 17; insert into t values (-5, 'k', 1)",
        );
        let report = two.compared(&only_content()).await;
        let mut found: Vec<_> = report.tables[0].examples.iter().map(|it| (it.key.as_str(), it.found)).collect();
        found.sort_by_key(|(key, _)| *key);
        let expected =
            [("(-5,k)", Where::OnlyInB), ("(12345,\"k 12345\")", Where::Differs), ("(17,\"k 17\")", Where::OnlyInA)];
        assert_eq!(found, expected, "on {major}");
        let few = CompareRequest { examples: 1, ..only_content() };
        assert_eq!(two.compared(&few).await.tables[0].examples.len(), 1);
        let none = CompareRequest { examples: 0, ..only_content() };
        assert_eq!(two.compared(&none).await.tables[0].examples, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_finds_what_is_in_it_and_says_that_it_is_one() {
    for major in majors() {
        let two = Two::new(
            major,
            "sample",
            "create table t (id bigint primary key, v text); \
            insert into t select n, repeat('x', 500) from generate_series(1, 20000) n; \
            create table words (word text primary key, v text); \
            insert into words select 'w' || n, repeat('x', 500) from generate_series(1, 20000) n; analyze",
        );
        let sampled = CompareRequest { mode: Mode::Sampled { one_in: 10 }, ..only_content() };
        let report = two.compared(&sampled).await;
        assert_eq!(verdict(&report), Verdict::Equal, "{:?} on {major}", words(&report));
        for table in &report.tables {
            let rows = table.a.as_ref().expect("was read").rows;
            assert!((500..5000).contains(&rows), "{rows} rows of {}", table.table);
        }
        // The lowest and the highest keys are always among them; of words, those whose hash says so.
        let chosen = two.server.psql_in(
            &two.a,
            "select word from words where \
            ('x' || left(md5(row(word)::text), 8))::bit(32)::bigint % 10 = 0 order by word limit 1",
        );
        two.server.psql_in(&two.b, &format!("update t set v = 'y' where id = 1; insert into t values (30000, 'z'); update words set v = 'y' where word = '{chosen}'"));
        let report = two.compared(&sampled).await;
        let found: Vec<_> = report
            .tables
            .iter()
            .map(|it| (it.sampled.clone(), it.examples.iter().map(|it| it.key.clone()).collect::<Vec<_>>()))
            .collect();
        let [(Some(Sampling::Ranges { column, .. }), of_t), (Some(Sampling::KeyHash { columns }), of_words)] =
            &found[..]
        else {
            panic!("{found:?} on {major}")
        };
        assert_eq!((column.as_str(), columns.as_slice()), ("id", &["word".to_owned()][..]));
        assert_eq!(
            (of_t.as_slice(), of_words.as_slice()),
            (&["(1)".to_owned(), "(30000)".to_owned()][..], &[format!("({chosen})")][..])
        );
        assert!(report.compared.contains(&"content (sampled)"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_choose_what_is_compared() {
    for major in majors() {
        let two = Two::new(major, "patterns", BASE);
        two.server.psql_in(&two.b, "insert into twice values ('x'); drop index account_name; drop function answer()");
        let patterns = |include: &[&str], exclude: &[&str]| {
            let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a pattern")).collect();
            CompareRequest { tables: Patterns { include: parse(include), exclude: parse(exclude) }, ..everything() }
        };
        let found = two.compared(&patterns(&["public.tw*"], &[])).await;
        assert_eq!(words(&found), ["content: public.twice: rows: 3 -> 4"], "on {major}");
        let found = two.compared(&patterns(&["acc?unt"], &[])).await;
        assert_eq!(words(&found), ["index: public.account_name: exists -> -"], "on {major}");
        let found = two.compared(&patterns(&[], &["account", "twice"])).await;
        assert_eq!(words(&found), ["routine: public.answer(): exists -> -"], "on {major}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_that_nothing_matches_is_refused_and_not_equal() {
    let two = Two::new(majors()[0], "idle patterns", BASE);
    two.server.psql_in(&two.b, "create table only_there (a int)");
    let (a, b) = two.sides();
    for (pattern, refused) in [("nosuch", true), ("public.n*", true), ("only_there", false), ("ticket", false)] {
        let tables = Patterns { include: vec![pattern.parse().expect("a pattern")], exclude: Vec::new() };
        let request = CompareRequest { tables, ..everything() };
        let done = compare(&World::real(), &a, &b, &request, Arc::new(Silent)).await;
        match done {
            Err(error) => assert!(refused && chain(&error).contains("no table of either side matches"), "{pattern}"),
            Ok(report) => assert!(!refused, "{pattern}: {:?}", words(&report)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_has_for_himself_does_not_keep_others_from_being_compared() {
    for major in majors() {
        let two = Two::new(major, "locked", BASE);
        two.server.psql_in(&two.b, "update account set note = 'new' where id = 7");
        let (a, b) = two.sides();
        let mut holder = a.server.connect().await.expect("connects");
        holder.execute("BEGIN; LOCK TABLE public.twice").await.expect("it is locked");
        let tables = Patterns { include: Vec::new(), exclude: vec!["twice".parse().expect("a pattern")] };
        let report = compared(&a, &b, &CompareRequest { tables, ..only_content() }).await;
        assert_eq!(words(&report), ["content: public.account: digest: differs"], "on {major}");
        holder.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_one_side_hides_are_no_difference() {
    let sql = "create foreign data wrapper w; create server s foreign data wrapper w; \
               create user mapping for postgres server s options (a 'b'); grant usage on foreign server s to reader";
    let two = Two::new(majors()[0], "half hidden", sql);
    let (mut a, b) = two.sides();
    a.server.config.user = "reader".to_owned();
    let report = compared(&a, &b, &everything()).await;
    assert_eq!(words(&report), Vec::<String>::new());
    assert_eq!(verdict(&report), Verdict::CouldNotCompare);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptions_a_missing_table_is_still_a_difference() {
    let two = Two::new(majors()[0], "data only", BASE);
    two.server.psql_in(&two.b, "drop table twice; alter table account drop note");
    let expected = [
        "content: public.account: columns: amount, id, name, note -> amount, id, name",
        "content: public.twice: exists -> -",
    ];
    assert_eq!(words(&two.compared(&only_content()).await), expected);
}
