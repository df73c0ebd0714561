//! Whether two PostgreSQL databases are equal, and where not: every description, every row, every sequence.
//!
//! A restore, an upgrade or a replica is believed because it was compared, not because a command returned 0. The idea:
//! both sides compute, in their own server, the same *canonical* answers, which do not depend on the major version, the
//! encoding, the order of rows or columns, or on anything physical; only answers travel, and what differs is looked into.
//!
//! - **Content** (`digest`): for each table the number of rows and the sums of the halves of each row's MD5. Sums do not
//!   depend on an order, and a row that is there twice counts twice.
//! - **Descriptions** (`schema`): facts from the catalogs, each of an object under its identity, as `pg_identify_object`
//!   and the `pg_get_…def` functions write them.
//! - **Values that are no rows** (`values`): sequences and large objects.
//!
//! Nothing is written, and each side is read under one exported snapshot (`session`), so that a database in use can be
//! compared. What cannot be compared is named and is never "equal". Not transactional in PostgreSQL itself, and therefore as
//! of the moment of reading: sequences, and what the `pg_get_…def` functions print of objects that are changed meanwhile.
//!
//! Not looked at: physical order, statistics, tablespaces, OIDs, the name of the database, `log_cnt` of sequences.

mod describe;
mod digest;
mod examples;
mod facts;
mod pattern;
mod report;
mod sample;
mod schema;
mod session;
mod tables;
mod values;

use std::sync::Arc;

use asof_world::World;

use crate::error::Result;
use crate::progress::{Event, Observer};
use crate::server::Server;

pub use pattern::Patterns;
pub use report::{
    Class, CompareReport, CouldNotCompare, Difference, Example, LeftOut, Sampling, SideReport, TableContent,
    TableReport, Verdict, Where, verdict,
};

use session::Pair;

/// One of the two databases.
#[derive(Clone)]
pub struct Side {
    /// What it is called in the report.
    pub label: String,
    /// How it is reached; its configuration names the database.
    pub server: Server,
    /// A snapshot that somebody else exported and holds; the moment of the comparison where there is none.
    pub snapshot: Option<String>,
}

/// What is compared, and how closely.
#[derive(Clone, Debug)]
pub struct CompareRequest {
    /// Which tables, and other relations. Where patterns include some, nothing but these and what belongs to them is compared.
    pub tables: Patterns,
    /// How closely rows are looked at.
    pub mode: Mode,
    /// Tables that are compared at once, at least 1: each takes a connection to each side.
    pub jobs: usize,
    /// Compare roles, their memberships and settings, which belong to the whole server. Never their passwords.
    pub roles: bool,
    /// Compare who owns what.
    pub owners: bool,
    /// Compare rows, values of sequences and large objects.
    pub content: bool,
    /// Compare descriptions: everything that a dump of the schema holds.
    pub schema: bool,
    /// For a table that differs and has a primary key: how many keys to name at most.
    pub examples: usize,
}

/// How closely rows are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every row.
    Exact,
    /// About one row of so many, chosen by key; see [`Sampling`] for which.
    Sampled {
        /// At least 1; 1 is every row.
        one_in: u32,
    },
}

/// Compares two databases and says what differs. Differences and what could not be compared are part of the report.
///
/// # Errors
/// A side that cannot be reached, or a connection that broke: then nothing is known.
pub async fn compare(
    world: &World,
    a: &Side,
    b: &Side,
    request: &CompareRequest,
    observer: Arc<dyn Observer>,
) -> Result<CompareReport> {
    let began = world.monotonic();
    observer.event(Event::Phase("connecting to both sides"));
    let mut pair = Pair::open(a, b, request.jobs).await?;
    pattern::refuse_idle(&mut pair, &request.tables).await?;
    let mut report = CompareReport::new(request, pair.describe());
    if request.schema {
        observer.event(Event::Phase("comparing descriptions"));
        describe::compare(&mut pair, request, &mut report).await?;
    }
    if request.content {
        observer.event(Event::Phase("comparing sequences and large objects"));
        values::compare(&mut pair, request, &mut report).await?;
        observer.event(Event::Phase("comparing rows"));
        tables::compare(&mut pair, request, &mut report, observer.as_ref()).await?;
    }
    pair.close().await;
    report.differences.sort();
    report.could_not_compare.sort();
    report.left_out.sort();
    report.left_out.dedup();
    report.elapsed = world.monotonic().saturating_sub(began);
    Ok(report)
}
