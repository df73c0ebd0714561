//! Campaigns, measurements and what is released: one row each.

use crate::{Outcome, planted, servers, simulation};

/// Which list a row belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A long run that proves a promise.
    Campaign,
    /// A measurement that a document quotes.
    Bench,
    /// Something that is released.
    Dist,
}

impl Kind {
    /// The task's name on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Campaign => "campaign",
            Kind::Bench => "bench",
            Kind::Dist => "dist",
        }
    }
}

/// One row: adding it here is all that a new campaign needs.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) name: &'static str,
    /// What it does, in one line for the list.
    pub(crate) says: &'static str,
    pub(crate) run: fn() -> Outcome,
}

const ENTRIES: &[Entry] = &[
    Entry {
        kind: Kind::Campaign,
        name: "crash-points",
        says: "stops every protocol at every call, 20 seeds",
        run: simulation::crash_points,
    },
    Entry {
        kind: Kind::Campaign,
        name: "contests",
        says: "lets writers compete for a journal, 3,000 seeds",
        run: simulation::contests,
    },
    Entry {
        kind: Kind::Campaign,
        name: "flips",
        says: "flips 10,000 random bits of a repository",
        run: simulation::flips,
    },
    Entry {
        kind: Kind::Campaign,
        name: "matrix",
        says: "restores and compares every combination of major, reading, store and key: 48",
        run: servers::matrix,
    },
    Entry {
        kind: Kind::Campaign,
        name: "power-cuts",
        says: "cuts the power of the repository's file system 500 times while objects are acknowledged",
        run: servers::power_cuts,
    },
    Entry {
        kind: Kind::Campaign,
        name: "ledger",
        says: "kills production 24 times synchronously and 24 times not, and wants every acknowledged commit back",
        run: servers::ledger,
    },
    Entry {
        kind: Kind::Campaign,
        name: "sizes",
        says: "backs up an instance of 10 GiB and holds footers, page hashes and maps against the document",
        run: servers::sizes,
    },
    Entry {
        kind: Kind::Campaign,
        name: "planted",
        says: "switches each hazard's rule off and wants its test red",
        run: planted::campaign,
    },
];

/// Finds a row by its name.
pub(crate) fn find(kind: Kind, name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.kind == kind && entry.name == name)
}

/// The rows of one list, for an error message.
pub(crate) fn known(kind: Kind) -> String {
    let lines: Vec<String> = ENTRIES
        .iter()
        .filter(|entry| entry.kind == kind)
        .map(|entry| format!("\n  {:<16} {}", entry.name, entry.says))
        .collect();
    if lines.is_empty() { "known: none yet".to_owned() } else { format!("known:{}", lines.concat()) }
}
