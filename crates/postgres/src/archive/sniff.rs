//! What a file is, by its first bytes and never by its name.
//!
//! Plain SQL goes by names like `shop.dump`, archives by names like `shop.sql`; so names say nothing. Magic numbers decide where there are any.
//! A script has none: it is text that begins as SQL or as a command of psql does.

use super::tar;

/// So many first bytes decide, if there are as many.
pub const SNIFF_BYTES: usize = 512;

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A custom-format archive of `pg_dump`.
    Custom,
    /// The table of contents of a directory or tar archive, without its data.
    TocOfDirectory,
    /// A tar archive, of `pg_dump` or not: that is known when its first member is `toc.dat`.
    Tar,
    /// Something compressed by gzip.
    Gzip,
    /// Something compressed by zstd.
    Zstd,
    /// Something compressed by lz4.
    Lz4,
    /// Something encrypted by `openssl enc` with a salted password.
    OpensslSalted,
    /// A script for psql.
    PlainSql,
    /// Nothing.
    Empty,
    /// Something else; the text says what speaks against a dump.
    Unknown(String),
}

impl Kind {
    /// Decides by the first bytes: [`SNIFF_BYTES`], or all there are.
    #[must_use]
    pub fn of(first_bytes: &[u8]) -> Self {
        if first_bytes.is_empty() {
            return Self::Empty;
        }
        if first_bytes.starts_with(b"PGDMP") {
            return archive(first_bytes);
        }
        if tar::is_header(first_bytes) {
            return Self::Tar;
        }
        let magics: [(&[u8], Self); 4] = [
            (&[0x1f, 0x8b], Self::Gzip),
            (&[0x28, 0xb5, 0x2f, 0xfd], Self::Zstd),
            (&[0x04, 0x22, 0x4d, 0x18], Self::Lz4),
            (b"Salted__", Self::OpensslSalted),
        ];
        let known = magics.into_iter().find(|(magic, _)| first_bytes.starts_with(magic));
        known.map_or_else(|| text(first_bytes), |(_, kind)| kind)
    }
}

/// The format stands in the 11th byte, see [`super::toc`].
fn archive(bytes: &[u8]) -> Kind {
    let toc = bytes.get(10).is_some_and(|format| *format == 3 || *format == 5);
    if toc { Kind::TocOfDirectory } else { Kind::Custom }
}

/// Files that people mistake for dumps, so that the message can name them.
const STRANGERS: [(&[u8], &str); 9] = [
    (&[0xff, 0xfe], "UTF-16 text, as a redirection in PowerShell writes it; psql reads none"),
    (&[0xfe, 0xff], "UTF-16 text; psql reads none"),
    (b"BZh", "compressed by bzip2"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "compressed by xz"),
    (b"PK\x03\x04", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (&[0x02, 0x21, 0x4c, 0x18], "compressed by lz4 in its legacy format"),
    (b"age-encryption.org/", "encrypted by age"),
    (b"SQLite format 3\0", "an SQLite database"),
];

/// How scripts begin: comments, commands of psql, and SQL. In capitals; with a space where a longer word would be something else.
const BEGINNINGS: [&[u8]; 31] = [
    b"--",
    b"/*",
    b"\\",
    b"SET ",
    b"SELECT ",
    b"CREATE ",
    b"DROP ",
    b"ALTER ",
    b"INSERT ",
    b"UPDATE ",
    b"DELETE ",
    b"COPY ",
    b"BEGIN",
    b"START ",
    b"COMMENT ",
    b"GRANT ",
    b"REVOKE ",
    b"WITH ",
    b"TRUNCATE ",
    b"DO ",
    b"COMMIT",
    b"END",
    b"ROLLBACK",
    b"RESET ",
    b"REFRESH ",
    b"ANALYZE",
    b"VACUUM",
    b"REINDEX ",
    b"SECURITY ",
    b"REASSIGN ",
    b"LOCK ",
];

fn text(bytes: &[u8]) -> Kind {
    let unknown = |reason: &str| Kind::Unknown(reason.to_owned());
    if let Some((_, reason)) = STRANGERS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return unknown(reason);
    }
    let body = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if body.contains(&0) {
        return unknown("binary data: it has zero bytes");
    }
    // Bytes above 127 may be any encoding; control characters are none.
    if let Some(byte) =
        body.iter().find(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace() && **byte != 0x0b)
    {
        return Kind::Unknown(format!("binary data: it has the control character {byte:#04x}"));
    }
    let body = body.trim_ascii_start();
    if body.is_empty() {
        return unknown("nothing but blanks");
    }
    if begins_as_sql(body) { Kind::PlainSql } else { unknown("text that does not begin as SQL does") }
}

fn begins_as_sql(body: &[u8]) -> bool {
    BEGINNINGS.iter().any(|beginning| {
        let shorter = body.len().min(beginning.len());
        let (start, wanted) = (&body[..shorter], &beginning[..shorter]);
        // A line break or tab is as good as the space.
        let same = |(byte, wanted): (&u8, &u8)| {
            byte.to_ascii_uppercase() == *wanted || (*wanted == b' ' && byte.is_ascii_whitespace())
        };
        shorter == beginning.len() && start.iter().zip(wanted).all(same)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expect: Kind) {
        assert_eq!(Kind::of(bytes), expect);
    }

    #[test]
    fn dumps_of_every_format_are_recognised() {
        check(include_bytes!("../../testdata/archive/shop-15.custom"), Kind::Custom);
        check(&include_bytes!("../../testdata/archive/shop-18.custom")[..SNIFF_BYTES], Kind::Custom);
        check(include_bytes!("../../testdata/archive/shop-18.toc"), Kind::TocOfDirectory);
        check(&include_bytes!("../../testdata/archive/item-16.tar")[..SNIFF_BYTES], Kind::Tar);
        check(&include_bytes!("../../testdata/archive/shop-18.sql.dump")[..SNIFF_BYTES], Kind::PlainSql);
        check(&include_bytes!("../../testdata/archive/cluster-15.sql.dump")[..SNIFF_BYTES], Kind::PlainSql);
    }

    #[test]
    fn containers_are_recognised() {
        check(b"\x1f\x8b\x08\0", Kind::Gzip);
        check(b"\x28\xb5\x2f\xfd\0", Kind::Zstd);
        check(b"\x04\x22\x4d\x18\0", Kind::Lz4);
        check(b"Salted__12345678\0\x01", Kind::OpensslSalted);
        check(b"", Kind::Empty);
    }

    #[test]
    fn scripts_begin_with_comments_commands_or_sql() {
        for script in
            ["--\n-- PostgreSQL", "\\restrict x\n", "\n\n set x = 1;", "create\ttable t()", "BEGIN;", "/* x */"]
        {
            check(script.as_bytes(), Kind::PlainSql);
        }
        check(b"\xef\xbb\xbf-- with a mark", Kind::PlainSql);
        check(b"-- caf\xe9 in LATIN1", Kind::PlainSql);
    }

    #[test]
    fn everything_else_is_unknown_and_says_why() {
        let reason = |bytes: &[u8]| match Kind::of(bytes) {
            Kind::Unknown(reason) => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason(b"<?xml version='1.0'?><Error><Code>AccessDenied").contains("does not begin as SQL"));
        assert!(reason(b"settings: 1").contains("does not begin as SQL"));
        assert!(reason(b"\xff\xfe-\0-\0").contains("UTF-16"));
        assert!(reason(b"\x7fELF\x02\x01\x01\0").contains("binary"));
        assert!(reason(b"-- x\x01").contains("0x01"));
        assert!(reason(b"  \n").contains("blanks"));
        assert!(reason(b"BZh91AY").contains("bzip2"));
    }
}
