//! The first words of a statement, by which it is known what it reaches.

use super::is_word;

/// Words of a statement beyond these do not matter.
const MOST_WORDS: usize = 4;
/// None of the words that matter is longer.
const MAX_WORD_BYTES: usize = 16;

/// The first words of a statement. The body of a routine (`BEGIN ATOMIC … END`) has statements of its own, which end none (`psqlscan.l`,
/// 14 to 18).
#[derive(Debug, Default)]
pub(super) struct Words {
    /// In capitals.
    words: Vec<String>,
    /// The one that is being read.
    word: String,
    /// Something that is no word has come.
    ended: bool,
    /// How many `BEGIN` and `CASE` of a body are open.
    depth: u32,
}

impl Words {
    /// Whether what follows does not matter.
    pub(super) fn are_known(&self) -> bool {
        (self.ended || self.words.len() >= MOST_WORDS) && !self.is_routine()
    }

    /// Whether a semicolon ends a statement of a body only.
    pub(super) fn are_in_body(&self) -> bool {
        self.depth > 0
    }

    pub(super) fn text(&self) -> String {
        self.words.join(" ")
    }

    /// Databases, roles and tablespaces belong to the instance, and so do its settings.
    pub(super) fn reach_beyond(&self) -> bool {
        match self.all().as_slice() {
            ["CREATE" | "DROP" | "ALTER", "USER", "MAPPING", ..] => false,
            ["CREATE" | "DROP" | "ALTER", "DATABASE" | "ROLE" | "USER" | "GROUP" | "TABLESPACE", ..] => true,
            ["ALTER", "SYSTEM", ..] => true,
            _ => false,
        }
    }

    /// Whether the statement begins or ends a transaction.
    pub(super) fn rule_transaction(&self) -> bool {
        match self.all().as_slice() {
            ["ROLLBACK", "TO", ..] => false,
            ["BEGIN" | "COMMIT" | "END" | "ROLLBACK" | "ABORT", ..] => true,
            ["START" | "PREPARE", "TRANSACTION", ..] => true,
            _ => false,
        }
    }

    fn all(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }

    fn is_routine(&self) -> bool {
        let routine = |word: Option<&String>| word.is_some_and(|word| word == "FUNCTION" || word == "PROCEDURE");
        let is = |at: usize, word: &str| self.words.get(at).is_some_and(|it| it == word);
        is(0, "CREATE") && (routine(self.words.get(1)) || is(1, "OR") && is(2, "REPLACE") && routine(self.words.get(3)))
    }

    /// A byte outside of quotes and comments.
    pub(super) fn take(&mut self, byte: u8) {
        if is_word(byte) {
            if self.word.len() < MAX_WORD_BYTES {
                self.word.push(char::from(byte.to_ascii_uppercase()));
            }
            return;
        }
        let word = std::mem::take(&mut self.word);
        if !word.is_empty() {
            self.end_of_word(word);
        }
        // Comments stand where blanks do.
        self.ended |= !(self.words.is_empty() || byte.is_ascii_whitespace() || matches!(byte, b'-' | b'/' | b'*'));
    }

    fn end_of_word(&mut self, word: String) {
        if self.is_routine() {
            match word.as_str() {
                "BEGIN" => self.depth += 1,
                "CASE" if self.depth > 0 => self.depth += 1,
                "END" => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        } else if !self.ended && self.words.len() < MOST_WORDS {
            self.words.push(word);
        }
    }
}
