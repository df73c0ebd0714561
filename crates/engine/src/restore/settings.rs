//! What a restored data directory says to PostgreSQL: recover to here, and keep away from production (rule 8).

use std::fmt::Write;

use super::plan::Plan;
use super::survey::Survey;
use crate::runtime::{Override, Recovery, Situation, TargetAction, isolation};

/// The line above which everything in `postgresql.auto.conf` is production's.
const BEGIN: &str =
    "# asof: what follows was written by the restore; `asof instance adopt` or removing it lifts the isolation.";

/// How configuration files begin that a restore made because the backup has none.
pub const RESTORE_WROTE: &str = "# Written by the restore";

/// What a plan asks for: of no use to anybody once recovery is over, whatever its value.
const OF_RECOVERY: [&str; 6] = [
    "restore_command",
    "recovery_target_lsn",
    "recovery_target_inclusive",
    "recovery_target_timeline",
    "recovery_target_action",
    "allow_in_place_tablespaces",
];

/// `postgresql.auto.conf` without our part: `ours` are the settings that the restored instance runs under.
///
/// `ALTER SYSTEM` writes the file anew without its comments (`write_auto_conf_file`), our line among them, but keeps every
/// setting that it does not change in its place. Then the last mention of each of ours is ours if it has our value.
pub fn without_recovery(content: &[u8], ours: &[Override]) -> Vec<u8> {
    let begin = format!("\n{BEGIN}");
    if let Some(at) = content.windows(begin.len()).position(|window| window == begin.as_bytes()) {
        return content[..at].to_vec();
    }
    let mut open: Vec<&str> = OF_RECOVERY.into_iter().chain(ours.iter().map(|it| it.name.as_str())).collect();
    let written = |it: &Override| format!("{} = '{}'", it.name, escaped(&it.value));
    let ours: Vec<String> = ours.iter().map(written).collect();
    let mut kept = Vec::new();
    for line in content.split_inclusive(|byte| *byte == b'\n').rev() {
        let text = String::from_utf8_lossy(line);
        let name = text.split(['=', ' ']).next().unwrap_or_default();
        let last = open.iter().position(|open| *open == name).map(|at| open.swap_remove(at)).is_some();
        let is_ours = OF_RECOVERY.contains(&name) || ours.iter().any(|setting| setting == text.trim_end());
        if !(last && is_ours) {
            kept.push(line);
        }
    }
    kept.reverse();
    kept.concat()
}

/// Backslashes escape in configuration files (`DeescapeQuotedString`).
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('\'', "''")
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
        writeln!(text, "{name} = '{}' # {why}", escaped(&value)).expect("text can be written to");
    }
    [production, text.as_bytes()].concat()
}

/// Configuration files that PostgreSQL demands and that the backup does not have: Debian keeps them outside of the data directory.
pub(super) fn missing_files(survey: &Survey) -> Vec<(&'static str, &'static str)> {
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
    FILES.into_iter().filter(|(name, _)| !survey.files.contains(name.as_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(settings: &[(&str, &str)]) -> Vec<Override> {
        let one = |(name, value): &(&str, &str)| Override {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
            why: "because".to_owned(),
        };
        settings.iter().map(one).collect()
    }

    #[test]
    fn production_s_settings_come_back_whether_or_not_alter_system_took_our_line_away() {
        let production = "work_mem = '64MB'\narchive_mode = 'on'\narchive_command = 'cp %p \\\\host\'\n";
        let ours = ours(&[("port", "6543"), ("archive_mode", "off"), ("archive_command", ""), ("ssl", "off")]);
        let settings = "archive_mode = 'off'\narchive_command = ''\nssl = 'off'\nrestore_command = 'false'\n\
                        recovery_target_lsn = '0/3000060'\n";
        let restored = format!("{production}\n{BEGIN}\n{}", settings.replace("'\n", "' # because\n"));
        assert_eq!(without_recovery(restored.as_bytes(), &ours), production.as_bytes());
        // Written anew by ALTER SYSTEM, which put its own at the end.
        let altered = format!("{production}{settings}statement_timeout = '5s'\n");
        let expected = format!("{production}statement_timeout = '5s'\n");
        assert_eq!(String::from_utf8_lossy(&without_recovery(altered.as_bytes(), &ours)), expected);
        // And what an operator set on the restored instance is the operator's.
        let altered = "work_mem = '64MB'\narchive_command = ''\nssl = 'off'\narchive_mode = 'always'\n";
        let expected = "work_mem = '64MB'\narchive_mode = 'always'\n";
        assert_eq!(String::from_utf8_lossy(&without_recovery(altered.as_bytes(), &ours)), expected);
    }
}
