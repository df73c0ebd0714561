//! The password file (`~/.pgpass`): `host:port:database:user:password` per line.
//! Source: "The Password File" (libpq chapter) and `passwordFromFile` in `fe-connect.c`, PostgreSQL 18.

use super::secret::Secret;

/// Whom a password is wanted for.
#[derive(Clone, Copy, Debug)]
pub struct PassfileQuery<'a> {
    /// Host name, address or socket directory; `localhost` stands for the default socket directories.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// Database; `replication` for a replication connection.
    pub database: &'a str,
    /// Role.
    pub user: &'a str,
}

/// The password of the first line that matches. Each of the first four fields is a text or `*`; a backslash takes the next
/// character as it is; lines that begin with `#` and lines with fewer fields are ignored.
#[must_use]
pub fn find_password(content: &str, query: PassfileQuery<'_>) -> Option<Secret> {
    content.lines().filter(|line| !line.starts_with('#')).find_map(|line| password_of_line(line, query))
}

/// Whether a passfile with these permission bits may be used: libpq ignores one that group or others can reach.
#[must_use]
pub fn mode_is_private(mode: u32) -> bool {
    mode & 0o077 == 0
}

fn password_of_line(line: &str, query: PassfileQuery<'_>) -> Option<Secret> {
    let port = query.port.to_string();
    let mut rest = line;
    for wanted in [query.host, &port, query.database, query.user] {
        rest = match_field(rest, wanted)?;
    }
    Some(Secret::new(unescape(rest)))
}

/// What follows the first field of `line` if that field is `*` or means `wanted`.
fn match_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let end = field_end(line)?;
    if unescape(&line[..end]) == wanted { Some(&line[end + 1..]) } else { None }
}

/// The position of the first colon that no backslash stands before.
fn field_end(line: &str) -> Option<usize> {
    let mut characters = line.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            ':' => return Some(at),
            '\\' => drop(characters.next()),
            _ => {}
        }
    }
    None
}

/// Also ends at the first colon that is not escaped: what follows a password is not part of it.
fn unescape(field: &str) -> String {
    let field = field_end(field).map_or(field, |end| &field[..end]);
    let mut text = String::with_capacity(field.len());
    let mut characters = field.chars();
    while let Some(c) = characters.next() {
        let escaped = if c == '\\' { characters.next() } else { None };
        text.push(escaped.unwrap_or(c));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &str, expect: Option<&str>) {
        let query = PassfileQuery { host: "db1", port: 5432, database: "app", user: "al:ice" };
        let found = find_password(content, query);
        assert_eq!(found.as_ref().map(Secret::expose), expect, "{content:?}");
    }

    #[test]
    fn a_line_matches_when_every_field_is_equal_or_a_star() {
        check("db1:5432:app:al\\:ice:secret", Some("secret"));
        check("*:*:*:*:any", Some("any"));
        check("db1:*:app:*:some", Some("some"));
        check("db2:*:*:*:other", None);
        check("*:5433:*:*:other", None);
        check("", None);
    }

    #[test]
    fn the_first_matching_line_wins() {
        check("db2:*:*:*:no\ndb1:*:*:*:first\n*:*:*:*:second\n", Some("first"));
    }

    #[test]
    fn comments_and_short_lines_are_ignored() {
        check("#*:*:*:*:commented\n*:*:*\n\n*:*:*:*:real", Some("real"));
    }

    #[test]
    fn a_backslash_takes_the_next_character_as_it_is() {
        check("*:*:*:*:a\\:b\\\\c", Some("a:b\\c"));
        check("*:*:*:*:a:b", Some("a"));
        check("*:*:*:*:end\\", Some("end\\"));
        check("\\*:*:*:*:literal star", None);
    }

    #[test]
    fn windows_line_ends_are_not_part_of_the_password() {
        check("*:*:*:*:secret\r\n", Some("secret"));
    }

    #[test]
    fn a_passfile_that_others_can_reach_is_not_private() {
        assert!(mode_is_private(0o600) && mode_is_private(0o400));
        assert!(!mode_is_private(0o640) && !mode_is_private(0o604) && !mode_is_private(0o610));
    }
}
