//! SQL of an archive's entry, statement by statement: names and values may hold line ends, semicolons and words of SQL.

use asof_postgres::client::escape_identifier;

/// The statements of a text, without the semicolons that end them.
pub(super) fn statements(sql: &str) -> Vec<&str> {
    let mut begin = 0;
    let mut found: Vec<&str> = bare(sql)
        .filter(|at| sql.as_bytes()[*at] == b';')
        .map(|end| sql[std::mem::replace(&mut begin, end + 1)..end].trim())
        .collect();
    found.push(sql[begin..].trim());
    found.retain(|statement| !statement.is_empty());
    found
}

/// A statement about the database `old`, made one about `new`; `None` when it is about neither.
///
/// It names the database once, behind the word DATABASE (`dumpDatabase`, `dumpComment`, `dumpSecLabel` and `buildACLCommands` of
/// pg_dump, 13 to 18).
pub(super) fn renamed(sql: &str, old: &str, new: &str) -> Option<String> {
    const WORD: &str = " DATABASE ";
    let at = bare(sql).find(|at| sql.as_bytes()[*at..].starts_with(WORD.as_bytes()))?;
    let (before, name) = sql.split_at(at + WORD.len());
    let behind = |old: &str| name.strip_prefix(old).filter(|rest| rest.is_empty() || rest.starts_with(' '));
    let rest = behind(&escape_identifier(old)).or_else(|| behind(old))?;
    Some(format!("{before}{}{rest}", escape_identifier(new)))
}

/// The positions outside of quotes.
///
/// A quote inside of quotes is doubled, also behind a backslash (`appendStringLiteral` and `fmtId` of string_utils.c, 13 to 18), so
/// that each ends what the one before it began.
fn bare(sql: &str) -> impl Iterator<Item = usize> {
    let mut open = None;
    sql.bytes().enumerate().filter_map(move |(at, byte)| match (open, byte) {
        (None, b'\'' | b'"') => {
            open = Some(byte);
            None
        }
        (None, _) => Some(at),
        (Some(quote), _) => {
            open = open.filter(|_| quote != byte);
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_outside_of_quotes_only() {
        let check = |sql: &str, expect: &[&str]| assert_eq!(statements(sql), expect, "{sql}");
        check("", &[]);
        check("A;\nB 'x;''y\n;';\n", &["A", "B 'x;''y\n;'"]);
        check("A \"d;\"\"e\" IS 'ä;';B", &["A \"d;\"\"e\" IS 'ä;'", "B"]);
        check("A E'\\\\;''';B;", &["A E'\\\\;'''", "B"]);
    }

    #[test]
    fn statements_about_a_database_are_about_another_one() {
        let check = |sql: &str, old: &str, expect: Option<&str>| {
            assert_eq!(renamed(sql, old, "n w").as_deref(), expect, "{sql}");
        };
        check("ALTER DATABASE a SET x TO '1'", "a", Some("ALTER DATABASE \"n w\" SET x TO '1'"));
        check("ALTER DATABASE a SET x TO '1'", "b", None);
        check("ALTER DATABASE ab SET x TO '1'", "a", None);
        check(
            "REVOKE ALL ON DATABASE \"l\n\"\"f\" FROM PUBLIC",
            "l\n\"f",
            Some("REVOKE ALL ON DATABASE \"n w\" FROM PUBLIC"),
        );
        check(
            "ALTER ROLE \"ö DATABASE a \" IN DATABASE a SET x TO 'y'",
            "a",
            Some("ALTER ROLE \"ö DATABASE a \" IN DATABASE \"n w\" SET x TO 'y'"),
        );
        let comment = "COMMENT ON DATABASE a IS 'see DATABASE a or\nGRANT'";
        check(comment, "a", Some("COMMENT ON DATABASE \"n w\" IS 'see DATABASE a or\nGRANT'"));
        check("COMMENT ON TABLE t IS ' DATABASE a '", "a", None);
    }
}
