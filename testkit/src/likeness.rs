//! Whether a restored server is the one it was made from, and sound by itself: a dump as text, and PostgreSQL's own
//! checks of indexes, heaps and visibility maps.

use crate::Server;

/// What `pg_dumpall` says of the whole server: roles, tablespaces, databases and every row in its physical order.
///
/// Left out is what a restore changes on purpose or WAL does not promise: where a tablespace lies, the rows of unlogged
/// tables, and the token that newer programs draw at random.
///
/// # Panics
/// When `pg_dumpall` fails.
#[must_use]
pub fn dump(server: &Server) -> String {
    let output = server.tool("pg_dumpall").arg("--no-unlogged-table-data").output();
    let output = output.unwrap_or_else(|error| panic!("pg_dumpall: {error}"));
    assert!(output.status.success(), "pg_dumpall: {}", String::from_utf8_lossy(&output.stderr));
    normalized(&String::from_utf8(output.stdout).expect("the databases are UTF-8"))
}

/// Fails unless two dumps are equal, with the first line that differs: a whole dump is no message.
///
/// # Panics
/// When they differ.
pub fn assert_same_dump(found: &str, expected: &str, what: &str) {
    let differing = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
    if let Some(at) = differing {
        let line = |text: &str| text.lines().nth(at).unwrap_or_default().to_owned();
        panic!("{what}: line {} of the dump is\n{}\nand not\n{}", at + 1, line(found), line(expected));
    }
    assert_eq!(found.len(), expected.len(), "{what}: one dump is longer");
}

fn normalized(dump: &str) -> String {
    let kept = dump.lines().filter(|line| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict "));
    kept.map(without_location).collect::<Vec<_>>().join("\n")
}

fn without_location(line: &str) -> &str {
    let tablespace = line.starts_with("CREATE TABLESPACE ").then(|| line.split_once(" LOCATION "));
    tablespace.flatten().map_or(line, |(before, _)| before)
}

/// How many b-tree indexes an empty database has at least, in its system catalogs.
const CATALOG_INDEXES: usize = 100;

/// Fails unless every b-tree of a database is a whole index of its table, every table is well formed (from major 14 on, where
/// the check begins to exist), and every visibility map is true. Both extensions are part of every build that tests run on.
///
/// # Panics
/// When something is wrong.
pub fn assert_sound(server: &Server, database: &str) {
    server.psql_in(database, "create extension if not exists amcheck; create extension if not exists pg_visibility");
    let checked = server.psql_in(database, INDEXES).lines().count();
    assert!(checked >= CATALOG_INDEXES, "only {checked} indexes of {database} were checked");
    if server.major() >= 14 {
        assert_eq!(server.psql_in(database, HEAPS), "", "verify_heapam in {database}");
    }
    assert_eq!(server.psql_in(database, VISIBILITY), "", "visibility maps in {database}");
}

const INDEXES: &str = "\
select indexrelid::regclass, bt_index_parent_check(indexrelid, heapallindexed => true, rootdescend => true)
from pg_index join pg_class on pg_class.oid = indexrelid join pg_am on pg_am.oid = relam
where amname = 'btree' and relkind = 'i' and relpersistence <> 't' and indisready and indisvalid";

const HEAPS: &str = "\
select pg_class.oid::regclass, found.*
from pg_class, lateral verify_heapam(pg_class.oid) found
where relkind in ('r', 'm', 't') and relpersistence <> 't'";

const VISIBILITY: &str = "\
select pg_class.oid::regclass, what, t_ctid
from pg_class, lateral (
  select 'not all visible' as what, t_ctid from pg_check_visible(pg_class.oid)
  union all select 'not all frozen', t_ctid from pg_check_frozen(pg_class.oid)
) found
where relkind in ('r', 'm', 't') and relpersistence <> 't'";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_keeps_everything_but_places_and_random_tokens() {
        let dump = "\\restrict aB1\nCREATE TABLESPACE a OWNER b LOCATION '/c';\n1\tLOCATION \n\\unrestrict aB1\n";
        assert_eq!(normalized(dump), "CREATE TABLESPACE a OWNER b\n1\tLOCATION ");
    }

    #[test]
    #[should_panic(expected = "line 2 of the dump is\nc\nand not\nb")]
    fn dumps_that_differ_say_where() {
        assert_same_dump("a\nc", "a\nb", "this");
    }
}
