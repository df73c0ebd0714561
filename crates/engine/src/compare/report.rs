//! What a comparison found: a value that the command renders as text or JSON.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{CompareRequest, Mode};

/// The whole answer.
#[derive(Clone, Debug, Serialize)]
pub struct CompareReport {
    /// The first side.
    pub a: SideReport,
    /// The second side.
    pub b: SideReport,
    /// What was compared, in words: `descriptions`, `content`, `content (sampled)`, `owners`, `roles`.
    pub compared: Vec<&'static str>,
    /// What differs, by class and object. The content of tables is part of it.
    pub differences: Vec<Difference>,
    /// What could not be compared. While there is any, nobody knows whether the sides are equal.
    pub could_not_compare: Vec<CouldNotCompare>,
    /// What is by design no part of the answer, such as the rows behind foreign tables.
    pub left_out: Vec<LeftOut>,
    /// Every table whose rows were compared.
    pub tables: Vec<TableReport>,
    /// How long it took.
    #[serde(rename = "elapsed_seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
}

/// One side, as it describes itself.
#[derive(Clone, Debug, Serialize)]
pub struct SideReport {
    /// What the request called it.
    pub label: String,
    /// Its server, such as `db1:5432`.
    pub server: String,
    /// The database.
    pub database: String,
    /// The major of its server.
    pub major: u32,
    /// `server_version`, such as `15.20 (Debian 15.20-0+deb12u1)`.
    pub version: String,
    /// The encoding of the database, such as `UTF8`.
    pub encoding: String,
    /// Whether it is a standby.
    pub in_recovery: bool,
}

/// One thing that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// What kind of thing.
    pub class: Class,
    /// Its identity, such as `public.account` or `name_check on public.account`. Quoted where SQL needs it.
    pub object: String,
    /// What of it; absent when the object exists on one side only.
    pub property: Option<String>,
    /// The value on the first side; absent where there is none.
    pub a: Option<String>,
    /// The value on the second side; absent where there is none.
    pub b: Option<String>,
}

/// Something that could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct CouldNotCompare {
    /// The side on which it failed: the label of the request.
    pub side: String,
    /// What, such as `table public.secret`.
    pub object: String,
    /// What the server said.
    pub why: String,
    /// Whether a right is missing, which somebody can grant.
    pub denied: bool,
}

/// Something that does not count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LeftOut {
    /// What.
    pub object: String,
    /// Why.
    pub why: &'static str,
}

/// The content of one table on both sides.
#[derive(Clone, Debug, Serialize)]
pub struct TableReport {
    /// Its identity, such as `public.account`.
    pub table: String,
    /// On the first side; absent if there is no such table, or it could not be read.
    pub a: Option<TableContent>,
    /// On the second side.
    pub b: Option<TableContent>,
    /// Which rows, when not all of them.
    pub sampled: Option<Sampling>,
    /// Some of the rows that differ, by their keys.
    pub examples: Vec<Example>,
}

/// What a table holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableContent {
    /// How many rows were looked at.
    pub rows: u64,
    /// Their digest: equal contents have equal ones, on every major and in every encoding. `not populated` for a materialised
    /// view without content.
    pub digest: String,
}

/// Which rows of a table were looked at. The choice is the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum Sampling {
    /// Ranges of the first column of a key, read through its index: nothing else is read. Always among them are the rows with
    /// the lowest and the highest keys. The borders are those of blocks that the first side picked at random, but with a
    /// fixed seed.
    Ranges {
        /// The column.
        column: String,
        /// How many ranges.
        ranges: usize,
    },
    /// Rows whose key has an MD5 that falls into the share. Every key is read, the rest of the row only where it is chosen.
    /// For keys whose order depends on a collation.
    KeyHash {
        /// The columns of the key.
        columns: Vec<String>,
    },
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// The values of its primary key, as a row constructor prints them: `(42)`, `("a b",7)`.
    pub key: String,
    /// Where it is.
    pub found: Where,
}

/// Where a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Where {
    /// Only on the first side.
    OnlyInA,
    /// Only on the second side.
    OnlyInB,
    /// On both, with different values.
    Differs,
}

/// The kinds of things that can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each is PostgreSQL's own word for it")]
pub enum Class {
    /// Encoding, locale and limits of the database.
    Database,
    /// `ALTER DATABASE … SET`, `ALTER ROLE … IN DATABASE … SET`.
    Setting,
    Role,
    Extension,
    Schema,
    Language,
    Type,
    Collation,
    Conversion,
    Routine,
    Operator,
    OperatorFamily,
    OperatorClass,
    AccessMethod,
    Cast,
    Transform,
    TextSearch,
    ForeignDataWrapper,
    ForeignServer,
    UserMapping,
    /// A table, view, materialised view, foreign table or sequence as such.
    Relation,
    Column,
    /// The order in which `SELECT *` shows the columns that both sides have.
    ColumnOrder,
    Constraint,
    Index,
    Statistics,
    Sequence,
    /// The query of a view, the body of a routine in standard SQL. Two majors may print the same one differently: then this is
    /// a difference in words, to be judged by a person.
    Definition,
    Trigger,
    EventTrigger,
    Rule,
    Policy,
    Publication,
    Subscription,
    Comment,
    SecurityLabel,
    Privilege,
    DefaultPrivilege,
    /// `last_value` and `is_called` of a sequence.
    SequenceValue,
    LargeObject,
    /// The rows of a table.
    Content,
}

impl Class {
    /// As a person reads it: `column order`.
    #[must_use]
    pub fn words(self) -> String {
        let name = serde_json::to_value(self).expect("a unit variant is a string");
        name.as_str().unwrap_or_default().replace('-', " ")
    }
}

/// The answer in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything was compared and nothing differs.
    Equal,
    /// Something differs; more may, where something could not be compared.
    Different,
    /// Nothing is known to differ, but not everything could be compared.
    CouldNotCompare,
}

/// What the report amounts to.
#[must_use]
pub fn verdict(report: &CompareReport) -> Verdict {
    match (report.differences.is_empty(), report.could_not_compare.is_empty()) {
        (false, _) => Verdict::Different,
        (true, false) => Verdict::CouldNotCompare,
        (true, true) => Verdict::Equal,
    }
}

impl CompareReport {
    pub(super) fn new(request: &CompareRequest, [a, b]: [SideReport; 2]) -> Self {
        let content = match request.mode {
            Mode::Exact => "content",
            Mode::Sampled { .. } => "content (sampled)",
        };
        let parts = [
            (request.schema, "descriptions"),
            (request.content, content),
            (request.schema && request.owners, "owners"),
            (request.schema && request.roles, "roles"),
        ];
        Self {
            a,
            b,
            compared: parts.into_iter().filter(|(wanted, _)| *wanted).map(|(_, part)| part).collect(),
            differences: Vec::new(),
            could_not_compare: Vec::new(),
            left_out: Vec::new(),
            tables: Vec::new(),
            elapsed: Duration::ZERO,
        }
    }

    /// How many rows were looked at, on the side that has more of them.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let rows = |content: &Option<TableContent>| content.as_ref().map_or(0, |content| content.rows);
        self.tables.iter().map(|table| rows(&table.a).max(rows(&table.b))).sum()
    }
}

fn seconds<S: Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(elapsed.as_secs_f64())
}
