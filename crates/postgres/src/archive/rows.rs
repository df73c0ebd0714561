//! Counting rows of a table without looking into them.
//!
//! A row of COPY's text format is a line: a line break in a value is written as `\n` (`CopyAttributeOutText`). `dumpTableData_copy`
//! in `pg_dump.c` (9.0 to 18) hands on the rows and then writes `\.` and three line breaks. So rows are the line breaks less three, if the end is
//! as it must be.

/// What follows the last row.
const END: &[u8] = b"\\.\n\n\n";
/// The end, and the line break of the row before it.
const TAIL: usize = END.len() + 1;
const LINES_OF_END: u64 = 3;

/// Counts what goes by.
#[derive(Clone, Debug, Default)]
pub(super) struct RowCounter {
    line_breaks: u64,
    bytes: u64,
    /// The last bytes, right-aligned.
    tail: [u8; TAIL],
}

impl RowCounter {
    #[inline]
    pub(super) fn push(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        self.line_breaks += memchr::memchr_iter(b'\n', data).count() as u64;
        if let Some(last) = data.last_chunk() {
            self.tail = *last;
        } else {
            self.tail.rotate_left(data.len());
            let from = TAIL - data.len();
            self.tail[from..].copy_from_slice(data);
        }
    }

    /// The rows, if everything was there.
    pub(super) fn rows(&self) -> Option<u64> {
        let end = self.tail.strip_prefix(b"\n") == Some(END);
        let only_end = self.bytes == END.len() as u64 && self.tail.ends_with(END);
        if end || only_end { self.line_breaks.checked_sub(LINES_OF_END) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(data: &str, expect: Option<u64>) {
        for piece in 1..=data.len().max(1) {
            let mut counter = RowCounter::default();
            data.as_bytes().chunks(piece).for_each(|data| counter.push(data));
            assert_eq!(counter.rows(), expect, "{data:?} in pieces of {piece}");
        }
    }

    #[test]
    fn rows_are_counted_up_to_the_end_of_data() {
        check("\\.\n\n\n", Some(0));
        check("a\n\\.\n\n\n", Some(1));
        check("\n\\.\n\n\n", Some(1));
        check("1\ta\\nb\n2\t\\\\.\n\\.\n\n\n", Some(2));
    }

    #[test]
    fn rows_without_their_end_are_not_counted() {
        for data in ["", "a\n", "a\n\\.\n", "a\n\\.\n\n", "a\\.\n\n\n", "a\n\\.\n\n\n\n", "\\\\.\n\n\n"] {
            check(data, None);
        }
    }
}
