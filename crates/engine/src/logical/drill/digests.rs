//! The practical test's proof: what was loaded has the rows and large objects that the server had at the moment of the dump.
//!
//! Counts that agree say little: a column that was computed anew, or cut, keeps them. So both servers sum up the contents of
//! each table, the original under the snapshot of the dump, which is kept until then.

use std::collections::BTreeSet;
use std::sync::Arc;

use asof_postgres::archive::toc::Toc;
use asof_postgres::pattern::Pattern;
use asof_world::World;

use super::super::dump::Plan;
use super::super::named::Named;
use super::super::proof::Found;
use crate::compare::{Class, CompareReport, CompareRequest, Mode, Patterns, Side, compare};
use crate::error::Result;
use crate::progress::Observer;
use crate::server::Server;

/// Compares the contents of a loaded database with those of the planned one.
pub(super) async fn compared(
    world: &World,
    plan: &Plan,
    toc: Option<&Toc>,
    loaded: Server,
    jobs: usize,
    observer: Arc<dyn Observer>,
) -> Result<Found> {
    // A materialised view is computed anew by a load, from rows that may have changed since the original's was.
    let views = toc.iter().flat_map(|toc| &toc.entries).filter(|entry| entry.desc.as_bytes() == b"MATERIALIZED VIEW");
    let exclude = views.map(Pattern::of_entry).collect();
    let request = CompareRequest {
        tables: Patterns { include: Vec::new(), exclude },
        mode: Mode::Exact,
        jobs,
        roles: false,
        owners: false,
        content: true,
        schema: false,
        examples: 0,
    };
    let original = Side {
        label: "the original".to_owned(),
        server: plan.server.clone(),
        snapshot: Some(plan.snapshot.id.clone()),
    };
    let loaded = Side { label: "the loaded database".to_owned(), server: loaded, snapshot: None };
    Ok(judged(&compare(world, &original, &loaded, &request, observer).await?))
}

fn judged(report: &CompareReport) -> Found {
    // Sequences know no snapshot: the original's have gone on.
    let counted = report.differences.iter().filter(|it| it.class != Class::SequenceValue);
    let different: BTreeSet<String> = counted.map(|it| format!("{} of {}", it.class.words(), it.object)).collect();
    let different: Named = different.into_iter().collect();
    let unknown = report.could_not_compare.iter().map(|it| format!("{} of {}: {}", it.object, it.side, it.why));
    let unknown: Named = unknown.collect();
    match (different.list(), unknown.list()) {
        (None, None) => {
            let (rows, tables) = (report.rows(), report.tables.len());
            (true, format!("{rows} rows of {tables} tables have the digests of the original"))
        }
        (Some(different), _) => (false, format!("not what the original has: {different}")),
        (None, Some(unknown)) => (false, format!("could not be compared: {unknown}")),
    }
}
