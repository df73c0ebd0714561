//! A plain-SQL dump as one stream of bytes: whether it is complete, and how many rows each table has.
//!
//! `RestoreArchive` in `pg_backup_archiver.c` and `main` in `pg_dumpall.c` (9.0 to 18) write a comment at the beginning and one at the end. Any of
//! these lines may also be a row of a table, or stand in the body of a function or in a comment. So the script is read as psql reads
//! it: quotes, dollar quotes, comments and commands are told apart (`psqlscan.l`), and what follows a `COPY … FROM stdin` is data up to a
//! line `\.`.
//!
//! A script is never proven whole: there is no count and no checksum in it. That the mark of the end is its last word says that `pg_dump` came to its end.

mod words;

use super::Text;
use memchr::memmem;
use words::Words;

const DATABASE_BEGINS: &[u8] = b"PostgreSQL database dump";
const DATABASE_ENDS: &[u8] = b"PostgreSQL database dump complete";
const CLUSTER_BEGINS: &[u8] = b"PostgreSQL database cluster dump";
const CLUSTER_ENDS: &[u8] = b"PostgreSQL database cluster dump complete";
const SERVER_VERSION: &[u8] = b"Dumped from database version ";
const DUMP_VERSION: &[u8] = b"Dumped by pg_dump version ";

/// A comment or command that says something is shorter.
const MAX_LINE_BYTES: usize = 4 << 10;
/// A COPY with 1600 columns of 63 quoted four-byte characters is shorter.
const MAX_STATEMENT_BYTES: usize = 1 << 20;
/// `NAMEDATALEN` bounds no tag of a dollar quote, but nobody writes longer ones.
const MAX_TAG_BYTES: usize = 1 << 10;

/// Commands of psql that only say something, and those around a script of `pg_dump`.
const HARMLESS_COMMANDS: [&[u8]; 5] = [b"restrict", b"unrestrict", b"echo", b"qecho", b"warn"];

/// What was dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One database (`pg_dump`).
    Database,
    /// A whole instance (`pg_dumpall`).
    Cluster,
}

/// A table, as SQL names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// Its schema; dumps before 10.3 rely on `search_path`.
    pub namespace: Option<Text>,
    /// Its name.
    pub name: Text,
}

/// The rows of one COPY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRows {
    /// What the last `\connect` before it said, in the dump of an instance.
    pub database: Option<Text>,
    /// The table.
    pub table: TableName,
    /// How many.
    pub rows: u64,
}

/// How a script ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With its mark of the end.
    Complete,
    /// Between two statements, without it.
    NoEndMark,
    /// In the middle of a statement, a quote or a comment.
    InsideStatement,
    /// In the middle of a table's rows.
    InsideRows(TableName),
}

/// What a script was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainSummary {
    /// What its first comment says; none if it does not come from `pg_dump`.
    pub scope: Option<Scope>,
    /// Of the server; the first, in the dump of an instance.
    pub server_version: Option<String>,
    /// Of `pg_dump`; the first, in the dump of an instance.
    pub dump_version: Option<String>,
    /// Tables whose rows are there as COPY, in order. One may be there twice.
    pub tables: Vec<TableRows>,
    /// How it ends.
    pub ending: Ending,
    /// How long it is.
    pub bytes: u64,
    /// The first statement or command that reaches beyond one database.
    pub beyond: Option<Reach>,
    /// The first statement that begins or ends a transaction.
    pub transaction: Option<Reach>,
}

/// Something in a script that does more than fill one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Its beginning, such as `DROP DATABASE` or `\connect shop`.
    pub what: String,
    /// Behind so many bytes it has ended.
    pub at: u64,
}

/// Reads a plain-SQL dump in the pieces in which it comes.
#[derive(Debug)]
pub struct PlainScanner {
    state: State,
    /// A statement has begun.
    in_statement: bool,
    /// Its text, as long as it may be one of those that matter.
    statement: Option<Vec<u8>>,
    /// Of the comment or command that is being read.
    line: Vec<u8>,
    /// Its first words.
    words: Words,
    /// The last byte outside of quotes and comments, and how many bytes of a word it ends.
    previous: u8,
    word_bytes: usize,
    /// `standard_conforming_strings` is off: every quoted string knows backslashes.
    backslashes: bool,
    marker: Option<Scope>,
    database: Option<Text>,
    summary: PlainSummary,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Normal,
    LineComment,
    /// How deep, and the byte before.
    BlockComment {
        depth: u32,
        previous: u8,
    },
    Single {
        backslashes: bool,
        escaped: bool,
    },
    /// Behind a closing quote: another one at once means a quote in the text.
    SingleEnded {
        backslashes: bool,
    },
    Double,
    /// Behind a `$`, in what may become a tag.
    Tag(Vec<u8>),
    /// In a dollar quote; how much of the closing tag was seen.
    Dollar {
        tag: Vec<u8>,
        seen: usize,
    },
    Command,
    /// Behind `COPY … FROM stdin;`, up to the end of the line.
    CopyBegins(TableName),
    Rows {
        table: TableName,
        rows: u64,
        line: Line,
    },
}

/// Where in a line of rows the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Start,
    Backslash,
    End,
    EndReturn,
    Inside,
}

impl Default for PlainScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl PlainScanner {
    /// Begins at the first byte.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Normal,
            in_statement: false,
            statement: None,
            words: Words::default(),
            line: Vec::new(),
            previous: 0,
            word_bytes: 0,
            backslashes: false,
            marker: None,
            database: None,
            summary: PlainSummary {
                scope: None,
                server_version: None,
                dump_version: None,
                tables: Vec::new(),
                ending: Ending::NoEndMark,
                bytes: 0,
                beyond: None,
                transaction: None,
            },
        }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = self.step(rest).clamp(1, rest.len());
            let (taken, behind) = rest.split_at(used);
            self.capture(taken);
            self.summary.bytes += taken.len() as u64;
            if self.state == State::Normal && self.previous == b';' && !self.words.are_in_body() {
                self.end_of_statement();
            }
            rest = behind;
        }
    }

    /// What reaches beyond one database, as soon as it has come.
    #[must_use]
    pub fn beyond(&self) -> Option<&Reach> {
        self.summary.beyond.as_ref()
    }

    /// What begins or ends a transaction, as soon as it has come.
    #[must_use]
    pub fn transaction(&self) -> Option<&Reach> {
        self.summary.transaction.as_ref()
    }

    /// Says what it was.
    #[must_use]
    pub fn finish(mut self) -> PlainSummary {
        // The last line may have no end.
        match self.state {
            State::LineComment => self.end_of_comment(),
            State::Command => self.end_of_command(self.summary.bytes),
            _ => {}
        }
        self.summary.ending = match self.state {
            State::CopyBegins(table) | State::Rows { table, .. } => Ending::InsideRows(table),
            State::Normal if !self.in_statement => match (self.marker, self.summary.scope) {
                (Some(marker), Some(scope)) if marker == scope => Ending::Complete,
                _ => Ending::NoEndMark,
            },
            _ => Ending::InsideStatement,
        };
        self.summary
    }

    /// Goes on by as many bytes as are alike.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let byte = bytes[0];
        let to = |end: Option<usize>| end.map_or(bytes.len(), |end| end + 1);
        match &mut self.state {
            State::Normal => match self.skip(bytes) {
                0 => return self.normal(byte),
                skipped => return skipped,
            },
            State::LineComment | State::Command => {
                let end = memchr::memchr(b'\n', bytes);
                let line = &bytes[..end.unwrap_or(bytes.len())];
                let room = MAX_LINE_BYTES - self.line.len();
                self.line.extend_from_slice(&line[..line.len().min(room)]);
                if let Some(end) = end {
                    let at = self.summary.bytes + end as u64 + 1;
                    if self.state == State::Command { self.end_of_command(at) } else { self.end_of_comment() }
                }
                return to(end);
            }
            State::BlockComment { depth, previous } => {
                match (*previous, byte) {
                    (b'/', b'*') => (*depth, *previous) = (depth.saturating_add(1), 0),
                    (b'*', b'/') => (*depth, *previous) = (*depth - 1, 0),
                    _ => *previous = byte,
                }
                if *depth == 0 {
                    self.state = State::Normal;
                }
            }
            State::Single { escaped, .. } if *escaped => *escaped = false,
            State::Single { backslashes: false, .. } => {
                let end = memchr::memchr(b'\'', bytes);
                if end.is_some() {
                    self.state = State::SingleEnded { backslashes: false };
                }
                return to(end);
            }
            State::Single { escaped, .. } => match byte {
                b'\\' => *escaped = true,
                b'\'' => self.state = State::SingleEnded { backslashes: true },
                _ => {}
            },
            State::SingleEnded { backslashes } => {
                let backslashes = *backslashes;
                if byte == b'\'' {
                    self.state = State::Single { backslashes, escaped: false };
                } else {
                    self.state = State::Normal;
                    return self.normal(byte);
                }
            }
            State::Double => {
                let end = memchr::memchr(b'"', bytes);
                if end.is_some() {
                    self.state = State::Normal;
                }
                return to(end);
            }
            State::Tag(_) => return self.tag(byte),
            State::Dollar { tag, seen } => {
                if *seen == 0 && byte != b'$' {
                    return memchr::memchr(b'$', bytes).unwrap_or(bytes.len());
                }
                *seen = match byte {
                    _ if tag.get(*seen) == Some(&byte) => *seen + 1,
                    // A tag has a `$` at its ends only, so this one can only begin it.
                    b'$' => 1,
                    _ => 0,
                };
                if *seen == tag.len() {
                    self.state = State::Normal;
                }
            }
            State::CopyBegins(table) => {
                let end = memchr::memchr(b'\n', bytes);
                if end.is_some() {
                    let table = table.clone();
                    self.state = State::Rows { table, rows: 0, line: Line::Start };
                }
                return to(end);
            }
            State::Rows { table, rows, line } => {
                let (used, ended) = read_rows(bytes, rows, line);
                if ended {
                    let (database, table, rows) = (self.database.clone(), table.clone(), *rows);
                    self.summary.tables.push(TableRows { database, table, rows });
                    self.state = State::Normal;
                }
                return used;
            }
        }
        1
    }

    /// Goes over what means nothing in a statement that does not matter. A dump with `--inserts` is made of it.
    fn skip(&mut self, bytes: &[u8]) -> usize {
        if !self.in_statement || self.statement.is_some() || !self.words.are_known() {
            return 0;
        }
        let special = |byte: &u8| matches!(byte, b'\'' | b'"' | b'$' | b'\\' | b'-' | b'/' | b'*' | b';');
        let skipped = &bytes[..bytes.iter().position(special).unwrap_or(bytes.len())];
        if let Some(last) = skipped.last() {
            let word = skipped.iter().rev().take_while(|byte| is_word(**byte)).count();
            self.word_bytes = if word == skipped.len() { self.word_bytes + word } else { word };
            (self.previous, self.marker) = (*last, None);
        }
        skipped.len()
    }

    /// One byte outside of quotes, comments and rows.
    fn normal(&mut self, byte: u8) -> usize {
        let before = std::mem::replace(&mut self.previous, byte);
        let word_bytes = self.word_bytes;
        self.words.take(byte);
        self.word_bytes = if is_word(byte) { word_bytes + 1 } else { 0 };
        // A byte order mark, which psql skips too.
        let mark = matches!((self.summary.bytes, byte), (0, 0xef) | (1, 0xbb) | (2, 0xbf));
        if byte.is_ascii_whitespace() || mark {
            return 1;
        }
        let quote = State::Single {
            backslashes: self.backslashes || (word_bytes == 1 && before.eq_ignore_ascii_case(&b'e')),
            escaped: false,
        };
        let state = match (before, byte) {
            (b'-', b'-') => Some(State::LineComment),
            (b'/', b'*') => Some(State::BlockComment { depth: 1, previous: 0 }),
            (_, b'\'') => Some(quote),
            (_, b'"') => Some(State::Double),
            (_, b'$') if word_bytes == 0 => Some(State::Tag(vec![b'$'])),
            (_, b'\\') => Some(State::Command),
            _ => None,
        };
        match state {
            Some(state @ (State::LineComment | State::BlockComment { .. })) => {
                // Its first byte looked like a statement.
                if self.statement.as_ref().is_some_and(|statement| statement.len() == 1) {
                    (self.in_statement, self.statement) = (false, None);
                }
                self.previous = 0;
                self.line.clear();
                self.state = state;
            }
            Some(State::Command) => {
                self.line.clear();
                self.state = State::Command;
            }
            _ => {
                if !self.in_statement {
                    (self.in_statement, self.statement) = (true, Some(Vec::new()));
                }
                // The first byte of a comment is not yet a statement.
                if !matches!(byte, b'-' | b'/') {
                    self.marker = None;
                }
                self.state = state.unwrap_or(State::Normal);
            }
        }
        1
    }

    /// Keeps the text of statements that begin as those that matter do.
    fn capture(&mut self, taken: &[u8]) {
        let Some(statement) = &mut self.statement else { return };
        let begins_so = |start: &[u8]| {
            let length = statement.len().min(start.len());
            statement[..length].eq_ignore_ascii_case(&start[..length])
        };
        let comment = statement.len() <= 1 && matches!(statement.first(), None | Some(b'-' | b'/'));
        if statement.len() > MAX_STATEMENT_BYTES || !(comment || begins_so(b"COPY") || begins_so(b"SET standard_")) {
            self.statement = None;
        } else {
            statement.extend_from_slice(&taken[..taken.len().min(MAX_STATEMENT_BYTES)]);
        }
    }

    fn end_of_statement(&mut self) {
        (self.previous, self.in_statement, self.marker) = (0, false, None);
        let words = std::mem::take(&mut self.words);
        let reach = || Reach { what: words.text(), at: self.summary.bytes };
        if words.reach_beyond() {
            self.summary.beyond.get_or_insert_with(reach);
        } else if words.rule_transaction() {
            self.summary.transaction.get_or_insert_with(reach);
        }
        let Some(statement) = self.statement.take() else { return };
        let statement = statement.strip_suffix(b";").unwrap_or(&statement);
        if let Some(table) = copied_table(statement) {
            self.state = State::CopyBegins(table);
        } else if let Some(value) = statement.strip_prefix(b"SET standard_conforming_strings = ") {
            self.backslashes = value.trim_ascii() == b"off";
        }
    }

    fn end_of_comment(&mut self) {
        self.state = State::Normal;
        if self.in_statement {
            return;
        }
        let comment = self.line.trim_ascii();
        let summary = &mut self.summary;
        let text = |rest: &[u8]| String::from_utf8_lossy(rest).into_owned();
        match comment {
            DATABASE_BEGINS => {
                summary.scope.get_or_insert(Scope::Database);
                self.marker = None;
            }
            CLUSTER_BEGINS => {
                summary.scope.get_or_insert(Scope::Cluster);
                self.marker = None;
            }
            DATABASE_ENDS => self.marker = Some(Scope::Database),
            CLUSTER_ENDS => self.marker = Some(Scope::Cluster),
            _ => {
                if let Some(version) = comment.strip_prefix(SERVER_VERSION) {
                    summary.server_version.get_or_insert_with(|| text(version));
                } else if let Some(version) = comment.strip_prefix(DUMP_VERSION) {
                    summary.dump_version.get_or_insert_with(|| text(version));
                }
            }
        }
    }

    /// `\restrict` and `\unrestrict` stand around a script since the fixes of August 2025.
    fn end_of_command(&mut self, at: u64) {
        self.state = State::Normal;
        self.previous = 0;
        let line = self.line.trim_ascii();
        if !line.starts_with(b"unrestrict") {
            self.marker = None;
        }
        let name = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        if !HARMLESS_COMMANDS.contains(&name) && self.summary.beyond.is_none() {
            let what = format!("\\{}", String::from_utf8_lossy(line));
            self.summary.beyond = Some(Reach { what, at });
        }
        if let Some(database) = line.strip_prefix(b"connect ") {
            self.database = Some(Text(database.trim_ascii().to_vec()));
        }
    }

    fn tag(&mut self, byte: u8) -> usize {
        let State::Tag(tag) = &mut self.state else { return 1 };
        let starts = tag.len() == 1;
        if byte == b'$' {
            tag.push(byte);
            let tag = std::mem::take(tag);
            self.state = State::Dollar { tag, seen: 0 };
            return 1;
        }
        if is_word(byte) && !(starts && byte.is_ascii_digit()) && tag.len() < MAX_TAG_BYTES {
            tag.push(byte);
            return 1;
        }
        self.state = State::Normal;
        self.normal(byte)
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Counts rows up to the line `\.`; says how many bytes were used, and whether that line came.
fn read_rows(bytes: &[u8], rows: &mut u64, line: &mut Line) -> (usize, bool) {
    if *line == Line::Inside {
        let end = memmem::find(bytes, b"\n\\.").map_or(bytes.len(), |at| at + 1);
        *rows += memchr::memchr_iter(b'\n', &bytes[..end]).count() as u64;
        *line = match memchr::memrchr(b'\n', &bytes[..end]).map(|at| &bytes[at + 1..end]) {
            Some([]) => Line::Start,
            Some([b'\\']) => Line::Backslash,
            _ => Line::Inside,
        };
        return (end, false);
    }
    *line = match (*line, bytes[0]) {
        (Line::End | Line::EndReturn, b'\n') => return (1, true),
        (_, b'\n') => {
            *rows += 1;
            Line::Start
        }
        (Line::Start, b'\\') => Line::Backslash,
        (Line::Backslash, b'.') => Line::End,
        (Line::End, b'\r') => Line::EndReturn,
        _ => Line::Inside,
    };
    (1, false)
}

/// The table of a `COPY … FROM stdin`, however a person writes it.
fn copied_table(statement: &[u8]) -> Option<TableName> {
    let (copy, rest) = statement.split_at_checked(b"COPY".len())?;
    let lower = rest.to_ascii_lowercase();
    let mut words = lower.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).peekable();
    let is_from = |word: &[u8]| word == b"from" || word.ends_with(b")from");
    let mut is_input = std::iter::from_fn(|| {
        let word = words.next()?;
        Some(is_from(word) && words.peek().is_some_and(|next| *next == b"stdin"))
    });
    if !copy.eq_ignore_ascii_case(b"COPY") || !is_input.any(|found| found) {
        return None;
    }
    Some(qualified_name(rest.trim_ascii_start())?.0)
}

/// `name` or `schema.name` at the front, and what follows it.
pub(super) fn qualified_name(text: &[u8]) -> Option<(TableName, &[u8])> {
    let (first, rest) = identifier(text)?;
    let Some(rest) = rest.strip_prefix(b".") else { return Some((TableName { namespace: None, name: first }, rest)) };
    let (name, rest) = identifier(rest)?;
    Some((TableName { namespace: Some(first), name }, rest))
}

/// An identifier at the front, without its quotes, and what follows it.
fn identifier(text: &[u8]) -> Option<(Text, &[u8])> {
    let Some(mut rest) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| !is_word(*byte) && *byte != b'$').unwrap_or(text.len());
        return (end > 0).then(|| (Text(text[..end].to_ascii_lowercase()), &text[end..]));
    };
    let mut name = Vec::new();
    loop {
        let end = memchr::memchr(b'"', rest)?;
        name.extend_from_slice(&rest[..end]);
        rest = &rest[end + 1..];
        let Some(behind) = rest.strip_prefix(b"\"") else { return Some((Text(name), rest)) };
        name.push(b'"');
        rest = behind;
    }
}

#[cfg(test)]
mod tests;
