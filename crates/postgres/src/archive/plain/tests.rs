//! Scripts: real ones, and ones made to mislead.

use super::*;
use proptest::prelude::*;

const SHOPS: [&[u8]; 3] = [
    include_bytes!("../../../testdata/archive/shop-15.sql.dump"),
    include_bytes!("../../../testdata/archive/shop-16.sql.dump"),
    include_bytes!("../../../testdata/archive/shop-18.sql.dump"),
];
const CLUSTER: &[u8] = include_bytes!("../../../testdata/archive/cluster-15.sql.dump");

fn read(bytes: &[u8], piece: usize) -> PlainSummary {
    let mut scanner = PlainScanner::new();
    bytes.chunks(piece).for_each(|piece| scanner.push(piece));
    scanner.finish()
}

fn table(name: &str) -> TableName {
    TableName { namespace: Some("public".into()), name: name.into() }
}

#[test]
fn a_script_tells_what_it_is_and_how_many_rows_it_has() {
    for (bytes, version) in SHOPS.iter().zip(["15.18", "16.14", "18.6"]) {
        let summary = read(bytes, bytes.len());
        assert_eq!((summary.scope, &summary.ending), (Some(Scope::Database), &Ending::Complete));
        assert!(summary.server_version.as_ref().is_some_and(|server| server.starts_with("15.18")));
        assert!(summary.dump_version.as_ref().is_some_and(|dump| dump.starts_with(version)));
        let rows: Vec<_> = summary.tables.iter().map(|table| (table.table.clone(), table.rows)).collect();
        let odd = "odd; Type: TABLE\nname";
        let expected = [("customer", 20), ("item", 3), (odd, 6), ("sale_2024", 8), ("sale_2025", 2)];
        assert_eq!(rows, expected.map(|(name, rows)| (table(name), rows)));
        assert_eq!(summary.bytes, bytes.len() as u64);
        for piece in [1, 2, 13, 1000] {
            assert_eq!(read(bytes, piece), summary, "in pieces of {piece}");
        }
    }
}

#[test]
fn the_dump_of_an_instance_names_the_database_of_each_table() {
    let summary = read(CLUSTER, 100);
    assert_eq!((summary.scope, &summary.ending), (Some(Scope::Cluster), &Ending::Complete));
    let rows: Vec<_> = summary.tables.iter().map(|table| (table.database.clone(), table.rows)).collect();
    assert_eq!(rows, [(Some("latin".into()), 1)]);
    // It holds dumps of databases, which are complete by themselves.
    let inner = CLUSTER.len() - 200;
    assert_ne!(read(&CLUSTER[..inner], 100).ending, Ending::Complete);
}

#[test]
fn a_script_that_was_cut_off_is_never_complete() {
    for bytes in SHOPS.into_iter().chain([CLUSTER]) {
        let marker = memmem::rfind(bytes, b"dump complete").expect("there") + b"dump complete".len();
        for length in (0..marker).step_by(11).chain(marker - 200..marker) {
            assert_ne!(read(&bytes[..length], 4096).ending, Ending::Complete, "{length}");
        }
        // What follows may be blanks, the comment's last line, and `\unrestrict`, which says nothing once it is cut.
        for length in [marker, bytes.len()] {
            assert_eq!(read(&bytes[..length], 4096).ending, Ending::Complete, "{length}");
        }
    }
}

#[track_caller]
fn check(script: &str, ending: Ending, rows: &[(&str, u64)]) {
    for piece in 1..=script.len() {
        let summary = read(script.as_bytes(), piece);
        assert_eq!(summary.ending, ending, "{script} in pieces of {piece}");
        let found: Vec<_> = summary.tables.iter().map(|table| (table.table.name.to_lossy(), table.rows)).collect();
        let expected: Vec<_> = rows.iter().map(|(name, rows)| ((*name).to_owned(), *rows)).collect();
        assert_eq!(found, expected, "{script} in pieces of {piece}");
    }
}

#[test]
fn what_looks_like_a_mark_or_a_copy_is_none_inside_of_quotes_and_rows() {
    let begin = "--\n-- PostgreSQL database dump\n--\n";
    let end = "--\n-- PostgreSQL database dump complete\n--\n\n";
    let copy = "COPY t (a) FROM stdin;\n1\n\\.\n";
    let whole = |middle: &str| format!("{begin}{middle}\n{end}");
    for quote in ["$$", "$a_b$", "'", "E'\\'", "\""] {
        let close = if quote.starts_with('E') { "'" } else { quote };
        check(&whole(&format!("SELECT {quote}\n{copy}{close};")), Ending::Complete, &[]);
        check(&format!("{begin}SELECT {quote}\n{end}"), Ending::InsideStatement, &[]);
    }
    check(&whole(&format!("/* /* */ {copy} */")), Ending::Complete, &[]);
    check(&format!("{begin}/* {end}"), Ending::InsideStatement, &[]);
    check(&whole(copy), Ending::Complete, &[("t", 1)]);
    check(&whole(&format!("SELECT E'\\\\', 'a''b', a$b$c, $1;\n{copy}")), Ending::Complete, &[("t", 1)]);
    check(&whole(&format!("SELECT 'it\\';\n{copy}")), Ending::Complete, &[("t", 1)]);
    check(&whole(&format!("SELECT $a$ x$$a$, $$y$$;\n{copy}")), Ending::Complete, &[("t", 1)]);
    let off = format!("SET standard_conforming_strings = off;\nSELECT 'it\\';{copy}';\n");
    check(&whole(&off), Ending::Complete, &[]);
    check(
        &format!("{begin}COPY t (a) FROM stdin;\n{end}"),
        Ending::InsideRows(TableName { namespace: None, name: "t".into() }),
        &[],
    );
    check(&format!("{begin}{copy}{end}\\unrestrict abc\n\n"), Ending::Complete, &[("t", 1)]);
    check(&format!("{begin}{copy}{end}SELECT 1;\n"), Ending::NoEndMark, &[("t", 1)]);
    check(&format!("{begin}{copy}{end}\\connect other\n"), Ending::NoEndMark, &[("t", 1)]);
    check(&format!("{begin}{end}{begin}"), Ending::NoEndMark, &[]);
    check(&format!("{copy}{end}"), Ending::NoEndMark, &[("t", 1)]);
}

#[test]
fn rows_are_lines_and_the_end_is_a_line_of_its_own() {
    let copy = |rows: &str| format!("COPY \"a\"\"b\".\"c.d\" (x) FROM stdin;\n{rows}\\.\nCOPY e FROM stdin;\n\\.\n");
    for (rows, count) in [("", 0), ("\n", 1), ("\\\\.\n", 1), ("\\.x\n", 1), ("a\\.\n\\N\n\n", 3), ("\\\n.\n", 2)] {
        check(&copy(rows), Ending::NoEndMark, &[("c.d", count), ("e", 0)]);
    }
    check("COPY t FROM stdin;\r\n1\r\n\\.\r\n", Ending::NoEndMark, &[("t", 1)]);
    let name = read(copy("").as_bytes(), 5).tables[0].table.clone();
    assert_eq!(name, TableName { namespace: Some("a\"b".into()), name: "c.d".into() });
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let script = [b"\xef\xbb\xbf", SHOPS[0]].concat();
    assert_eq!(read(&script, 2).ending, Ending::Complete);
}

proptest! {
    #[test]
    fn pieces_make_no_difference_and_nothing_panics(
        words in proptest::collection::vec(0usize..24, 0..60), piece in 1usize..20
    ) {
        let all = [
            "'", "\"", "$", "$$", "$a$", "--", "/*", "*/", "\\", "\\.", "\n", ";", "E'", "COPY t FROM stdin;\n", "COPY ",
            "FROM stdin", "-- PostgreSQL database dump\n", "-- PostgreSQL database dump complete\n", "a", " ", "1", "\r\n",
            "SET standard_conforming_strings = off;", "\\connect x\n",
        ];
        let script: String = words.into_iter().map(|word| all[word]).collect();
        prop_assert_eq!(read(script.as_bytes(), piece), read(script.as_bytes(), script.len().max(1)));
    }
}

#[test]
fn what_reaches_beyond_one_database_is_told_as_soon_as_it_has_come() {
    let scripts = [
        ("DROP DATABASE shop;", Some("DROP DATABASE SHOP")),
        ("select 1;\ndrop /* it */ database if exists x;", Some("DROP DATABASE IF EXISTS")),
        ("DROP/**/DATABASE x;", Some("DROP DATABASE X")),
        ("create database a;", Some("CREATE DATABASE A")),
        ("ALTER ROLE a SET work_mem = 1;", Some("ALTER ROLE A SET")),
        ("drop user a;", Some("DROP USER A")),
        ("alter system set x = 1;", Some("ALTER SYSTEM SET X")),
        ("CREATE TABLESPACE t LOCATION '/x';", Some("CREATE TABLESPACE T LOCATION")),
        ("\\connect shop\n", Some("\\connect shop")),
        ("select 1 \\! rm\n;", Some("\\! rm")),
        ("\\restrict abc\nselect 1;\n\\unrestrict abc\n", None),
        ("CREATE USER MAPPING FOR a SERVER s;", None),
        ("create table role (a int); select 'DROP DATABASE x;';", None),
        ("-- DROP DATABASE x;\n/* drop database y; */ select 1;", None),
        ("COPY a (b) FROM stdin;\nDROP DATABASE x;\n\\connect x\n\\.\n", None),
    ];
    for (script, what) in scripts {
        for piece in [1, 7, 1000] {
            let mut scanner = PlainScanner::new();
            script.as_bytes().chunks(piece).for_each(|piece| scanner.push(piece));
            assert_eq!(scanner.beyond().map(|reach| reach.what.as_str()), what, "{script}");
        }
    }
    for script in SHOPS {
        let summary = read(script, 100);
        assert_eq!(summary.beyond, None);
    }
    let cluster = read(CLUSTER, 100);
    assert_eq!(cluster.beyond.map(|reach| reach.what), Some("CREATE ROLE POSTGRES".to_owned()));
}

#[test]
fn what_rules_a_transaction_is_told_and_bodies_of_routines_are_not() {
    let scripts = [
        ("begin;", Some("BEGIN")),
        ("select 1; COMMIT WORK;", Some("COMMIT WORK")),
        ("start transaction;", Some("START TRANSACTION")),
        ("rollback to savepoint a;", None),
        (
            "create function f() returns int begin atomic select 1; select case when true then 2 end; end; select 1;",
            None,
        ),
        ("CREATE OR REPLACE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC INSERT INTO t VALUES (1); END; END;", Some("END")),
        ("create function f() returns int language plpgsql as $$ begin commit; end $$;", None),
    ];
    for (script, what) in scripts {
        let summary = read(script.as_bytes(), 3);
        assert_eq!(summary.transaction.map(|reach| reach.what).as_deref(), what, "{script}");
        assert_eq!(summary.ending, Ending::NoEndMark, "{script}");
    }
}

#[test]
fn rows_are_found_however_a_person_writes_their_copy() {
    for copy in [
        "copy t from stdin;",
        "Copy T\n(a, b)\nFrom  STDIN;",
        "COPY t(a,b)FROM stdin WITH (FORMAT csv);",
        "COPY \"t\" FROM stdin;",
    ] {
        let summary = read(format!("{copy}\n1\t\\connect x\n\\.\nselect 1;\n").as_bytes(), 5);
        assert_eq!(summary.tables.len(), 1, "{copy}");
        assert_eq!((summary.tables[0].table.name.clone(), summary.tables[0].rows), ("t".into(), 1), "{copy}");
        assert_eq!((summary.beyond, summary.ending), (None, Ending::NoEndMark), "{copy}");
    }
    for no_copy in ["COPY t TO stdout;", "COPY t FROM '/stdin';", "copyright from stdin;"] {
        assert_eq!(read(format!("{no_copy}\nselect 1;\n").as_bytes(), 5).tables, [], "{no_copy}");
    }
}
