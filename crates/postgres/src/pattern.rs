//! Which relations are meant: the patterns of `psql` and `pg_dump`.
//!
//! `schema.table` or `table` (then in any schema); `*` is any text, `?` any one character. As in SQL, letters are folded to
//! lower case unless they stand in double quotes, where `*`, `?` and `.` mean themselves.
//! Source: "Patterns" on the reference page of psql, PostgreSQL 18, and `processSQLNamePattern` in `fe_utils/string_utils.c`;
//! regular expressions are not among ours. Names are bytes: a database need not be in UTF-8.

use std::fmt;
use std::str::FromStr;

/// A pattern for relations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// Any, if there is none.
    schema: Option<Vec<Piece>>,
    name: Vec<Piece>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Piece {
    Byte(u8),
    One,
    Any,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not name relations: it should be `table` or `schema.table`, with * and ?, quoted as in SQL")]
pub struct PatternError(String);

impl Pattern {
    /// Exactly this one.
    #[must_use]
    pub fn exactly(schema: &[u8], name: &[u8]) -> Self {
        let literal = |text: &[u8]| text.iter().copied().map(Piece::Byte).collect();
        Self { schema: Some(literal(schema)), name: literal(name) }
    }

    /// Whether a relation of this name in this schema is meant.
    #[must_use]
    pub fn matches(&self, schema: impl AsRef<[u8]>, name: impl AsRef<[u8]>) -> bool {
        self.schema.as_ref().is_none_or(|pieces| fits(pieces, schema.as_ref())) && fits(&self.name, name.as_ref())
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    /// Reads a pattern; refuses one with more than two parts, with an open quote, and the empty one.
    fn from_str(text: &str) -> Result<Self, PatternError> {
        let mut parts = vec![Vec::new()];
        let (mut quoted, mut bytes) = (false, text.bytes().peekable());
        while let Some(byte) = bytes.next() {
            let part = parts.last_mut().expect("there is always a part");
            match byte {
                b'"' if quoted && bytes.next_if_eq(&b'"').is_some() => part.push(Piece::Byte(b'"')),
                b'"' => quoted = !quoted,
                _ if quoted => part.push(Piece::Byte(byte)),
                b'.' => parts.push(Vec::new()),
                b'*' => part.push(Piece::Any),
                b'?' => part.push(Piece::One),
                _ => part.push(Piece::Byte(byte.to_ascii_lowercase())),
            }
        }
        let whole = !quoted && parts.iter().all(|part| !part.is_empty());
        match (parts.pop(), parts.pop(), parts.pop()) {
            (Some(name), schema, None) if whole => Ok(Self { schema, name }),
            _ => Err(PatternError(text.to_owned())),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |piece: &Piece| match piece {
            Piece::Byte(byte) => *byte,
            Piece::One => b'?',
            Piece::Any => b'*',
        };
        let text =
            |pieces: &[Piece]| String::from_utf8_lossy(&pieces.iter().map(plain).collect::<Vec<_>>()).into_owned();
        match &self.schema {
            Some(schema) => write!(f, "{}.{}", text(schema), text(&self.name)),
            None => f.write_str(&text(&self.name)),
        }
    }
}

/// Goes back to the last `*` where it does not fit; so the time is at most the product of the lengths.
fn fits(pieces: &[Piece], name: &[u8]) -> bool {
    let (mut piece, mut at, mut retry) = (0, 0, None);
    while at < name.len() {
        match pieces.get(piece) {
            Some(Piece::Any) => {
                retry = Some((piece, at));
                piece += 1;
            }
            Some(Piece::One) => (piece, at) = (piece + 1, at + character(&name[at..])),
            Some(Piece::Byte(byte)) if *byte == name[at] => (piece, at) = (piece + 1, at + 1),
            _ => {
                let Some((any, from)) = retry else { return false };
                let next = from + character(&name[from..]);
                retry = Some((any, next));
                (piece, at) = (any + 1, next);
            }
        }
    }
    pieces[piece..].iter().all(|piece| *piece == Piece::Any)
}

/// The bytes of the first character, or one where it is not in UTF-8.
fn character(bytes: &[u8]) -> usize {
    let len = match bytes[0] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    if bytes.get(..len).is_some_and(|bytes| str::from_utf8(bytes).is_ok()) { len } else { 1 }
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
        check("*a*b?", "x", "xaxbaabc", true);
        check("*a*b?", "x", "xaxbaab", false);
        check("a?count", "x", "account", true);
        check("a?count", "x", "acount", false);
        check("\"a*\"", "x", "a*", true);
        check("\"a*\"", "x", "ab", false);
        check("\"a.b\".c", "a.b", "c", true);
        check("\"say \"\"hi\"\"\"", "x", "say \"hi\"", true);
        check("*", "x", "", true);
    }

    #[test]
    fn a_character_may_have_several_bytes_or_be_in_no_utf_8() {
        check("gr?n", "x", "grün", true);
        check("gr??n", "x", "grün", false);
        check("*n?", "x", "ünü", true);
        // Letters beyond ASCII are not folded.
        check("GRÜN", "x", "grün", false);
        check("GRÜN", "x", "grÜn", true);
        assert!("gr?n".parse::<Pattern>().expect("a pattern").matches("x", b"gr\xfcn"));
        assert!("gr?".parse::<Pattern>().expect("a pattern").matches("x", b"gr\xc3"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", ".", "a.", ".a", "a.b.c", "\"a", "\"\""] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_exact_pattern_knows_no_special_characters() {
        let exact = Pattern::exactly(b"x", b"T*");
        assert!(exact.matches("x", "T*"));
        assert!(!exact.matches("x", "Table") && !exact.matches("x", "t*"));
        assert_eq!(exact.to_string(), "x.T*");
    }
}
