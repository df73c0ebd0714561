//! What a restored data directory says to PostgreSQL: recover to here, and keep away from production (rule 8).

use std::collections::BTreeSet;
use std::fmt::Write;

use super::plan::Plan;
use super::survey::Survey;
use crate::runtime::{Override, Recovery, Situation, TargetAction, isolation, socket_by_hand};

/// The line above which everything in `postgresql.auto.conf` is production's.
const BEGIN: &str =
    "# asof: what follows was written by the restore; `asof instance adopt` or removing it lifts the isolation.";

/// How configuration files begin that a restore made because the backup has none.
pub const RESTORE_WROTE: &str = "# Written by the restore";

/// What stands before a setting of production's that is no longer one.
const SET_ASIDE: &str = "# asof: this names a place outside of what was restored: ";

/// The longest configuration file that is looked at.
pub(super) const LARGEST: u64 = 1 << 20;

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
    // On the command line the socket of ours has another place.
    let placed = |it: &&Override| it.name != "unix_socket_directories";
    let ours: Vec<Override> = ours.iter().filter(placed).cloned().chain([socket_by_hand()]).collect();
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

/// Whether a file of the data directory may hold settings: `include_dir` reads `*.conf`. Access rules are no settings.
pub(super) fn may_hold_settings(path: &[u8]) -> bool {
    let others: [&[u8]; 3] = [b"pg_hba.conf", b"pg_ident.conf", b"postgresql.auto.conf"];
    std::str::from_utf8(path).is_ok_and(|path| path.ends_with(".conf")) && !others.contains(&path)
}

/// A configuration file of production's without what leads out of the restored directory.
pub(super) struct Cleared {
    /// Its text. The settings in question are comments now.
    pub(super) content: Vec<u8>,
    /// Whether there were any.
    pub(super) changed: bool,
    /// Files of the data directory that were not in force: production had others, outside.
    pub(super) unused: BTreeSet<&'static str>,
}

/// Turns into comments what makes PostgreSQL read, or start on, files outside of its directory, and what cannot be overridden at the
/// end of `postgresql.auto.conf`: `data_directory` is taken from `postgresql.conf` alone and wins over `-D` (`SelectConfigFiles`,
/// guc.c), an empty `hba_file` is not the default one, and a file that is to be included must be there.
pub(super) fn cleared(content: &[u8], data_directory: Option<&str>) -> Cleared {
    let mut cleared = Cleared { content: Vec::new(), changed: false, unused: BTreeSet::new() };
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(line);
        let (name, value) = setting(&text);
        let outside = value.starts_with('/') || value.split('/').any(|part| part == "..");
        let file = match name.as_str() {
            "hba_file" => Some("pg_hba.conf"),
            "ident_file" => Some("pg_ident.conf"),
            _ => None,
        };
        let aside = match name.as_str() {
            "data_directory" => true,
            "include" | "include_if_exists" | "include_dir" => outside,
            _ => file.is_some(),
        };
        if aside {
            cleared.changed = true;
            cleared.content.extend_from_slice(SET_ASIDE.as_bytes());
        }
        cleared.content.extend_from_slice(line);
        let inside = |file: &&str| data_directory.is_some_and(|directory| value == format!("{directory}/{file}"));
        cleared.unused.extend(file.filter(|file| !inside(file)));
    }
    cleared
}

/// The name of a line's setting in lower case and its value without quotes; both are empty where there is none.
fn setting(line: &str) -> (String, &str) {
    let line = line.trim();
    let end = line.find(|it: char| !it.is_ascii_alphanumeric() && it != '_').unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => quoted.split('\'').next(),
        None => rest.split([' ', '\t', '#']).next(),
    };
    (name.to_ascii_lowercase(), value.unwrap_or_default())
}

/// Configuration files that PostgreSQL demands and that the backup does not have, or not as production had them: Debian keeps them
/// outside of the data directory. Rules that were not in force may let in anybody.
pub(super) fn missing_files(survey: &Survey, unused: &BTreeSet<&str>) -> Vec<(&'static str, &'static str)> {
    const FILES: [(&str, &str); 3] = [
        (
            "postgresql.conf",
            "# Written by the restore: the instance kept its configuration outside of its data directory.\n",
        ),
        (
            "pg_hba.conf",
            "# Written by the restore. Only this host, with passwords (md5 also means SCRAM).\nlocal all all md5\nhost all all 127.0.0.1/32 md5\nhost all all ::1/128 md5\n",
        ),
        ("pg_ident.conf", "# Written by the restore.\n"),
    ];
    FILES.into_iter().filter(|(name, _)| !survey.files.contains(name.as_bytes()) || unused.contains(name)).collect()
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
        // The socket's place by hand is ours, although a server of ours has another one.
        let altered = format!("{production}unix_socket_directories = '.'\n");
        assert_eq!(String::from_utf8_lossy(&without_recovery(altered.as_bytes(), &ours)), production);
        // And what an operator set on the restored instance is the operator's.
        let altered = "work_mem = '64MB'\narchive_command = ''\nssl = 'off'\narchive_mode = 'always'\n";
        let expected = "work_mem = '64MB'\narchive_mode = 'always'\n";
        assert_eq!(String::from_utf8_lossy(&without_recovery(altered.as_bytes(), &ours)), expected);
    }

    #[test]
    fn what_leads_out_of_the_directory_becomes_a_comment() {
        let check = |line: &str, aside: bool, unused: &[&str]| {
            let content = format!("port = 1\n{line}\nwork_mem = '7MB'\n");
            let cleared = cleared(content.as_bytes(), Some("/pg/data"));
            let expect = if aside { content.replace(line, &format!("{SET_ASIDE}{line}")) } else { content };
            assert_eq!(String::from_utf8_lossy(&cleared.content), expect, "{line}");
            assert_eq!(cleared.changed, aside, "{line}");
            assert_eq!(cleared.unused.into_iter().collect::<Vec<_>>(), unused, "{line}");
        };
        check("data_directory = '/pg/data'", true, &[]);
        check("  Data_Directory '/elsewhere' # ours", true, &[]);
        check("hba_file = '/pg/data/pg_hba.conf'", true, &[]);
        check("hba_file='/etc/pg_hba.conf'", true, &["pg_hba.conf"]);
        check("ident_file = /etc/pg_ident.conf # here", true, &["pg_ident.conf"]);
        check("include '/etc/all.conf'", true, &[]);
        check("include_if_exists = '../all.conf'", true, &[]);
        check("include_dir 'conf.d'", false, &[]);
        check("include 'more..conf'", false, &[]);
        check("#hba_file = 'ConfigDir/pg_hba.conf'", false, &[]);
        check("hba_files.of_ours = '/etc/x'", false, &[]);
        check("", false, &[]);
    }
}
