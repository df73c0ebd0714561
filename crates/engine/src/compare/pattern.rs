//! Which relations are meant: `pg_dump`'s patterns.
//!
//! `schema.table` or `table` (then in any schema); `*` is any text, `?` any one character. As in SQL, letters are folded to
//! lower case unless they stand in double quotes, where `*`, `?` and `.` mean themselves.
//! Source: "Patterns" on the reference page of psql, PostgreSQL 18; regular expressions are not among ours.

use std::str::FromStr;

/// A pattern for relations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Any, if there is none.
    schema: Option<Vec<Piece>>,
    name: Vec<Piece>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    One(char),
    AnyOne,
    Any,
}

/// Which relations are compared: all that are included (without any pattern: all) and not excluded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns {
    /// Those that are meant; empty means all.
    pub include: Vec<Pattern>,
    /// Those that are not.
    pub exclude: Vec<Pattern>,
}

impl Patterns {
    /// Whether a relation is meant.
    #[must_use]
    pub fn take(&self, schema: &str, name: &str) -> bool {
        let among = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(schema, name));
        (self.include.is_empty() || among(&self.include)) && !among(&self.exclude)
    }
}

impl Pattern {
    /// Whether a relation of this name in this schema is meant.
    #[must_use]
    pub fn matches(&self, schema: &str, name: &str) -> bool {
        let fits = |pieces: &[Piece], text: &str| fits(pieces, &text.chars().collect::<Vec<_>>());
        self.schema.as_deref().is_none_or(|pieces| fits(pieces, schema)) && fits(&self.name, name)
    }
}

impl FromStr for Pattern {
    type Err = String;

    /// Reads a pattern; refuses one with more than two parts, with an open quote, and the empty one.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = vec![Vec::new()];
        let (mut quoted, mut chars) = (false, text.chars().peekable());
        while let Some(char) = chars.next() {
            let part = parts.last_mut().expect("there is always a part");
            match char {
                '"' if quoted && chars.next_if_eq(&'"').is_some() => part.push(Piece::One('"')),
                '"' => quoted = !quoted,
                _ if quoted => part.push(Piece::One(char)),
                '.' => parts.push(Vec::new()),
                '*' => part.push(Piece::Any),
                '?' => part.push(Piece::AnyOne),
                _ => part.extend(char.to_lowercase().map(Piece::One)),
            }
        }
        let name = parts.pop().filter(|part| !part.is_empty() && !quoted);
        match (name, parts.pop(), parts.is_empty()) {
            (Some(name), schema, true) if schema.as_ref().is_none_or(|part| !part.is_empty()) => {
                Ok(Self { schema, name })
            }
            _ => Err(format!("{text} is no pattern such as schema.table, with * and ?")),
        }
    }
}

/// Matches with one point to come back to, so that many `*` cost no more than one.
fn fits(pieces: &[Piece], text: &[char]) -> bool {
    let (mut piece, mut at, mut back) = (0, 0, None);
    while at < text.len() {
        match pieces.get(piece) {
            Some(Piece::Any) => {
                back = Some((piece, at));
                piece += 1;
            }
            Some(Piece::AnyOne) => (piece, at) = (piece + 1, at + 1),
            Some(Piece::One(char)) if *char == text[at] => (piece, at) = (piece + 1, at + 1),
            _ => {
                let Some((star, from)) = back else { return false };
                back = Some((star, from + 1));
                (piece, at) = (star + 1, from + 1);
            }
        }
    }
    pieces[piece..].iter().all(|piece| *piece == Piece::Any)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, schema: &str, name: &str, expect: bool) {
        let parsed: Pattern = pattern.parse().expect("is a pattern");
        assert_eq!(parsed.matches(schema, name), expect, "{pattern} on {schema}.{name}");
    }

    #[test]
    fn patterns_mean_what_pg_dump_means_by_them() {
        check("account", "public", "account", true);
        check("account", "other", "account", true);
        check("public.account", "other", "account", false);
        check("Public.ACCOUNT", "public", "account", true);
        check("\"Public\".account", "public", "account", false);
        check("\"Public\".account", "Public", "account", true);
        check("*.a*t", "x", "account", true);
        check("*.a*t", "x", "accounts", false);
        check("a?count", "x", "account", true);
        check("a?count", "x", "acount", false);
        check("\"a*\"", "x", "a*", true);
        check("\"a*\"", "x", "ab", false);
        check("\"a.b\".c", "a.b", "c", true);
        check("\"say \"\"hi\"\"\"", "x", "say \"hi\"", true);
        check("*", "x", "", true);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", ".", "a.", ".a", "a.b.c", "\"a"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn without_a_pattern_everything_is_meant_and_exclusion_wins() {
        let patterns = |include: &[&str], exclude: &[&str]| {
            let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("is a pattern")).collect();
            Patterns { include: parse(include), exclude: parse(exclude) }
        };
        assert!(patterns(&[], &[]).take("a", "b"));
        assert!(!patterns(&["a.*"], &["*.b"]).take("a", "b"));
        assert!(patterns(&["a.*"], &["*.b"]).take("a", "c"));
        assert!(!patterns(&["a.*"], &[]).take("b", "c"));
    }
}
