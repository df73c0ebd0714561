//! What a restored data directory says to PostgreSQL: recover to here, and keep away from production (rule 8).

use std::fmt::Write;

use asof_repository::map::PageMap;

use super::plan::Plan;

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

/// The settings with which PostgreSQL recovers to the plan's target, and nothing else. Only a position is ever handed over.
fn recovery_settings(plan: &Plan) -> Vec<(&'static str, String)> {
    vec![
        ("recovery_target_lsn", plan.resolved.last.to_string()),
        ("recovery_target_inclusive", "on".to_owned()),
        ("recovery_target_timeline", plan.resolved.timeline.0.to_string()),
        ("recovery_target_action", "promote".to_owned()),
        // All WAL lies in pg_wal. The command says that nothing else is to be had; PostgreSQL demands that there is one.
        ("restore_command", "false".to_owned()),
    ]
}

/// Settings that would let the copy act on production.
fn isolation(plan: &Plan) -> Vec<(&'static str, String)> {
    let none = String::new;
    let mut settings = vec![
        ("archive_mode", "off".to_owned()),
        ("archive_command", none()),
        ("recovery_end_command", none()),
        ("archive_cleanup_command", none()),
        ("primary_conninfo", none()),
        ("primary_slot_name", none()),
        ("synchronous_standby_names", none()),
        ("max_logical_replication_workers", "0".to_owned()),
        ("shared_preload_libraries", none()),
        ("external_pid_file", none()),
        ("logging_collector", "off".to_owned()),
        ("ssl", "off".to_owned()),
        ("listen_addresses", "localhost".to_owned()),
    ];
    if plan.details.major >= 15 {
        settings.push(("archive_library", none()));
    }
    if asof_world::planted("d2") {
        settings.retain(|(name, _)| !name.starts_with("archive"));
    }
    if super::has_tablespaces(plan) {
        // Tablespaces are restored as directories in pg_tblspc, so that the data directory is complete by itself. Recovery
        // accepts such directories only if told so (CheckTablespaceDirectory, xlogrecovery.c, since the minors of August 2022).
        settings.push(("allow_in_place_tablespaces", "on".to_owned()));
    }
    for (name, value) in super::minimums(plan) {
        settings.push((name, value.to_string()));
    }
    settings
}

/// `postgresql.auto.conf` with our part behind what production had; PostgreSQL takes the last word.
pub(super) fn with_recovery(production: &[u8], plan: &Plan) -> Vec<u8> {
    let mut text = String::from("\n");
    writeln!(text, "{BEGIN}").expect("text can be written to");
    for (name, value) in isolation(plan).into_iter().chain(recovery_settings(plan)) {
        writeln!(text, "{name} = '{}'", value.replace('\'', "''")).expect("text can be written to");
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
