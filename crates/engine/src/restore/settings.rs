//! What a restored data directory says to PostgreSQL: recover to here, and keep away from production (rule 8).

use std::fmt::Write;

use asof_repository::map::PageMap;

use super::plan::Plan;
use crate::runtime::{Override, Recovery, Situation, TargetAction, isolation};

/// The line above which everything in `postgresql.auto.conf` is production's.
const BEGIN: &str =
    "# asof: what follows was written by the restore; `asof instance adopt` or removing it lifts the isolation.";

/// How configuration files begin that a restore made because the backup has none.
pub const RESTORE_WROTE: &str = "# Written by the restore";

/// `postgresql.auto.conf` without our part.
pub fn without_recovery(content: &[u8]) -> &[u8] {
    let begin = format!("\n{BEGIN}");
    let at = content.windows(begin.len()).position(|window| window == begin.as_bytes());
    at.map_or(content, |at| &content[..at])
}

/// The recovery that the plan asks of PostgreSQL. Only a position is ever handed over.
pub(super) fn recovery(plan: &Plan) -> Recovery {
    Recovery {
        target_lsn: Some(plan.resolved.last),
        timeline: plan.resolved.timeline,
        action: TargetAction::Promote,
        // All WAL lies in pg_wal. The command says that nothing else is to be had; PostgreSQL demands that there is one.
        restore_command: "false".to_owned(),
    }
}

/// `postgresql.auto.conf` with our part behind what production had; PostgreSQL takes the last word.
pub(super) fn with_recovery(production: &[u8], plan: &Plan) -> Vec<u8> {
    let (minimums, recovery) = (plan.minimums(), recovery(plan));
    let mut settings = isolation(&Situation {
        major: plan.constants.major,
        minimums: minimums.as_ref(),
        places: None,
        libraries: &[],
        recovery: Some(&recovery),
    });
    if super::has_tablespaces(plan) {
        // Tablespaces are restored as directories in pg_tblspc, so that the data directory is complete by itself. Recovery
        // accepts such directories only if told so (CheckTablespaceDirectory, xlogrecovery.c, since the minors of August 2022).
        let why = "tablespaces are restored as directories in pg_tblspc".to_owned();
        let (name, value) = ("allow_in_place_tablespaces".to_owned(), "on".to_owned());
        settings.push(Override { name, value, why });
    }
    let mut text = String::from("\n");
    writeln!(text, "{BEGIN}").expect("text can be written to");
    for Override { name, value, why } in settings {
        // Backslashes escape in configuration files (`DeescapeQuotedString`).
        let value = value.replace('\\', r"\\").replace('\'', "''");
        writeln!(text, "{name} = '{value}' # {why}").expect("text can be written to");
    }
    [production, text.as_bytes()].concat()
}

/// Configuration files that PostgreSQL demands and that the backup does not have: Debian keeps them outside of the data directory.
pub(super) fn missing_files(map: &PageMap) -> Vec<(&'static str, &'static str)> {
    const FILES: [(&str, &str); 3] = [
        (
            "postgresql.conf",
            "# Written by the restore: the instance kept its configuration outside of its data directory.\n",
        ),
        (
            "pg_hba.conf",
            "# Written by the restore. Only this host, with passwords.\nlocal all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n",
        ),
        ("pg_ident.conf", "# Written by the restore.\n"),
    ];
    FILES.into_iter().filter(|(name, _)| map.file(name.as_bytes()).is_none()).collect()
}
