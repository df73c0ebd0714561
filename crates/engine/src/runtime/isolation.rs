//! What keeps a copy of production from acting as production, as a list of settings with a reason each.
//!
//! There is one list. A server of ours gets it on its command line (`-c`), where neither `postgresql.auto.conf` in the restored
//! data directory nor any other file wins. A directory that is started by hand has it at the end of that file
//! (`restore::settings`), where it wins over every other file; its places are the directory itself, wherever that is moved.
//!
//! Order matters in one place: the recovery targets that are cleared stand before the one that is set, because PostgreSQL
//! refuses a second target while one is set (`error_multiple_recovery_targets`). In files that is the order of the last
//! mention of each.
//! Source of names and contexts: `guc_tables.c` of PostgreSQL 13 to 18.

use std::path::{Path, PathBuf};

use asof_postgres::control::StandbyMinimums;
use asof_postgres::lsn::{Lsn, Timeline};
use asof_postgres::version::Major;
use serde::{Deserialize, Serialize};

/// One setting of ours that wins over whatever the instance brought along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// The setting.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Why it is set.
    pub why: String,
}

/// Where an isolated server has its things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Configuration and log.
    pub run_directory: PathBuf,
    /// The socket.
    pub socket_directory: PathBuf,
    /// The TCP port.
    pub port: u16,
}

impl Places {
    pub(super) fn config_file(&self) -> PathBuf {
        self.run_directory.join("postgresql.conf")
    }
    pub(super) fn hba_file(&self) -> PathBuf {
        self.run_directory.join("pg_hba.conf")
    }
    pub(super) fn ident_file(&self) -> PathBuf {
        self.run_directory.join("pg_ident.conf")
    }
}

/// What the server does at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetAction {
    /// Opens a new timeline.
    Promote,
    /// Stands still and answers queries.
    Pause,
    /// Ends.
    Shutdown,
}

/// A recovery that was planned: the one timeline, the start of the last record to apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The start of the last record to be applied; `None` replays everything that `restore_command` has.
    #[serde(with = "optional_lsn")]
    pub target_lsn: Option<Lsn>,
    /// The timeline to recover along.
    #[serde(with = "timeline")]
    pub timeline: Timeline,
    /// What then.
    pub action: TargetAction,
    /// The shell command that serves WAL. It is visible to every user of the machine: no secrets.
    pub restore_command: String,
}

/// What [`isolation`] decides from.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The server's major.
    pub major: Major,
    /// What hot standby demands, if that is known.
    pub minimums: Option<&'a StandbyMinimums>,
    /// Where the server has its things; `None` for a directory that somebody starts by hand and that has them in itself.
    pub places: Option<&'a Places>,
    /// The libraries to load.
    pub libraries: &'a [String],
    /// The recovery to perform, if any.
    pub recovery: Option<&'a Recovery>,
}

/// Libraries that only watch or check: they start nothing by themselves and reach nobody.
pub const PRELOAD_ALLOWED: [&str; 7] = [
    "auto_explain",
    "passwordcheck",
    "pg_hint_plan",
    "pg_qualstats",
    "pg_stat_kcache",
    "pg_stat_statements",
    "pgaudit",
];

/// Which of the libraries that production preloads a copy may load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preload {
    /// To be loaded, in production's order.
    pub kept: Vec<String>,
    /// Not allowed: they may start workers that act for production.
    pub refused: Vec<String>,
    /// Allowed and not installed here.
    pub missing: Vec<String>,
}

/// Sorts production's `shared_preload_libraries` (as the setting is written) by [`PRELOAD_ALLOWED`], by what the operator
/// allows besides, and by what is installed.
pub fn preload_libraries(recorded: &str, also_allowed: &[String], installed: impl Fn(&str) -> bool) -> Preload {
    let mut sorted = Preload::default();
    for entry in recorded.split(',').map(|entry| entry.trim().trim_matches('"')).filter(|entry| !entry.is_empty()) {
        let name = entry.strip_prefix("$libdir/").unwrap_or(entry);
        let name = name.strip_suffix(".so").unwrap_or(name);
        let allowed = PRELOAD_ALLOWED.contains(&name) || also_allowed.iter().any(|allowed| allowed == name);
        let list = match (allowed, installed(name)) {
            (false, _) => &mut sorted.refused,
            (true, false) => &mut sorted.missing,
            (true, true) => &mut sorted.kept,
        };
        list.push(name.to_owned());
    }
    sorted
}

/// Every setting that isolates a server, in the order in which it is given.
pub fn isolation(situation: &Situation<'_>) -> Vec<Override> {
    let mut list = Vec::new();
    match situation.places {
        Some(places) => own_places(places, &mut list),
        None => list.push(socket_by_hand()),
    }
    let fixed = FIXED.iter().filter(|(_, _, since, until, _)| (*since..=*until).contains(&situation.major.number()));
    list.extend(fixed.map(|(name, value, _, _, why)| set(name, *value, why)));
    let why = "libraries of production may start workers that act for it, and must be installed here";
    list.push(set("shared_preload_libraries", situation.libraries.join(","), why));
    if let Some(found) = situation.minimums {
        minimums(found, &mut list);
    }
    recovery(situation.recovery, &mut list);
    if asof_world::planted("d2") {
        list.retain(|it| !it.name.starts_with("archive"));
    }
    list
}

fn set(name: &str, value: impl Into<String>, why: &str) -> Override {
    Override { name: name.to_owned(), value: value.into(), why: why.to_owned() }
}

fn own_places(places: &Places, list: &mut Vec<Override>) {
    let own = "configuration of ours: production's may lie elsewhere, and names production's places";
    list.push(set("config_file", text(&places.config_file()), own));
    list.push(set("hba_file", text(&places.hba_file()), own));
    list.push(set("ident_file", text(&places.ident_file()), own));
    list.push(set("port", places.port.to_string(), "production's port is taken, or will be"));
    let socket = quoted_list_entry(&text(&places.socket_directory));
    list.push(set("unix_socket_directories", socket, "only our own directory, which nobody else enters"));
    list.push(set("unix_socket_permissions", "0700", "the socket trusts whoever reaches it"));
    list.push(set("log_directory", text(&places.run_directory), "production's log is not ours to write"));
}

/// The socket of a directory that somebody starts by hand. Servers work in their data directory (`ChangeToDataDir`), which only
/// their user enters, so this place is right wherever the directory is.
pub(crate) fn socket_by_hand() -> Override {
    set(
        "unix_socket_directories",
        ".",
        "production's socket directory is not ours, or not here: this is the data directory",
    )
}

const ARCHIVE: &str = "a copy must not write into production's WAL archive";
const UPSTREAM: &str = "a copy must not follow or use production's servers";
const TARGET: &str = "only the planned target counts; another one was left behind by an earlier restore";
const LOG: &str = "messages go to where the server is started, not to production's log";

/// Name, value, first and last major that has it, reason.
const FIXED: &[(&str, &str, u32, u32, &str)] = &[
    ("listen_addresses", "localhost", 13, 18, "nobody on the network shall take the copy for production"),
    ("unix_socket_group", "", 13, 18, "the group may not exist here"),
    ("bonjour", "off", 13, 18, "the copy is not announced"),
    ("external_pid_file", "", 13, 18, "production's pid file is not ours to write"),
    ("logging_collector", "off", 13, 18, LOG),
    ("log_destination", "stderr", 13, 18, LOG),
    ("lc_messages", "C", 13, 18, "asof reads the log, and production's language may not be installed here"),
    ("stats_temp_directory", "pg_stat_tmp", 13, 14, "production's directory is not ours to write"),
    ("archive_mode", "off", 13, 18, ARCHIVE),
    ("archive_command", "", 13, 18, ARCHIVE),
    ("archive_library", "", 15, 18, ARCHIVE),
    ("archive_cleanup_command", "", 13, 18, ARCHIVE),
    ("recovery_end_command", "", 13, 18, "production's command acts on production"),
    ("primary_conninfo", "", 13, 18, UPSTREAM),
    ("primary_slot_name", "", 13, 18, UPSTREAM),
    ("recovery_min_apply_delay", "0", 13, 18, "a delayed standby's delay would hold recovery up"),
    ("promote_trigger_file", "", 13, 15, "a trigger file of production would end recovery early"),
    ("synchronous_standby_names", "", 13, 18, "the first commit would wait for production's standbys"),
    (
        "max_logical_replication_workers",
        "0",
        13,
        18,
        "subscriptions would consume the changes that production waits for",
    ),
    ("session_preload_libraries", "", 13, 18, "libraries of production may not be installed here"),
    ("local_preload_libraries", "", 13, 18, "libraries of production may not be installed here"),
    ("ssl", "off", 13, 18, "production's certificate and key are not here, and the copy listens on this machine only"),
    ("huge_pages", "try", 13, 18, "this machine may have none"),
    ("hot_standby", "on", 13, 18, "the server is asked how far recovery is"),
    ("recovery_target", "", 13, 18, TARGET),
    ("recovery_target_name", "", 13, 18, TARGET),
    ("recovery_target_time", "", 13, 18, TARGET),
    ("recovery_target_xid", "", 13, 18, TARGET),
];

fn minimums(minimums: &StandbyMinimums, list: &mut Vec<Override>) {
    let why = "recovery stops below the primary's value, which pg_control and the WAL record";
    for (name, value) in [
        ("max_connections", minimums.max_connections),
        ("max_worker_processes", minimums.max_worker_processes),
        ("max_wal_senders", minimums.max_wal_senders),
        ("max_prepared_transactions", minimums.max_prepared_transactions),
        ("max_locks_per_transaction", minimums.max_locks_per_transaction),
    ] {
        list.push(set(name, value.to_string(), why));
    }
}

/// Rule: a target is always the start of the last record, inclusive, on a numbered timeline.
fn recovery(recovery: Option<&Recovery>, list: &mut Vec<Override>) {
    let Some(recovery) = recovery else {
        list.push(set("restore_command", "", "WAL comes from the plan of a restore, and none is under way"));
        return;
    };
    let plan = "the plan of the restore";
    if let Some(lsn) = recovery.target_lsn {
        list.push(set("recovery_target_lsn", lsn.to_string(), plan));
    } else {
        list.push(set("recovery_target_lsn", "", plan));
    }
    list.push(set("recovery_target_inclusive", "on", plan));
    list.push(set("recovery_target_timeline", recovery.timeline.0.to_string(), plan));
    list.push(set("recovery_target_action", recovery.action.word(), plan));
    list.push(set("restore_command", recovery.restore_command.as_str(), plan));
}

/// What stays when recovery is over: a plan serves its own recovery only, and the new timeline is not in it.
pub(super) fn after_recovery(list: &mut Vec<Override>) {
    list.retain(|it| {
        let target = ["recovery_target_lsn", "recovery_target_inclusive", "recovery_target_timeline"];
        !target.contains(&it.name.as_str())
            && !["recovery_target_action", "restore_command"].contains(&it.name.as_str())
    });
    recovery(None, list);
}

impl TargetAction {
    fn word(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Shutdown => "shutdown",
        }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A directory in a comma-separated setting: quoted if it holds anything that divides or ends an entry
/// (`SplitDirectoriesString`).
fn quoted_list_entry(path: &str) -> String {
    if path.contains([',', '"', ' ', '\t', '\n']) {
        format!("\"{}\"", path.replace('"', "\"\""))
    } else {
        path.to_owned()
    }
}

mod optional_lsn {
    use asof_postgres::lsn::Lsn;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(lsn: &Option<Lsn>, to: S) -> Result<S::Ok, S::Error> {
        lsn.map(|lsn| lsn.to_string()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Lsn>, D::Error> {
        let text: Option<String> = Option::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

mod timeline {
    use asof_postgres::lsn::Timeline;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(timeline: &Timeline, to: S) -> Result<S::Ok, S::Error> {
        timeline.0.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timeline, D::Error> {
        u32::deserialize(from).map(Timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMUMS: StandbyMinimums = StandbyMinimums {
        max_connections: 321,
        max_worker_processes: 9,
        max_wal_senders: 11,
        max_prepared_transactions: 5,
        max_locks_per_transaction: 65,
    };

    fn list(major: Major, recovery: Option<&Recovery>) -> Vec<Override> {
        let places =
            Places { run_directory: "/run/a b".into(), socket_directory: "/run/a b/socket".into(), port: 6543 };
        let (minimums, places) = (Some(&MINIMUMS), Some(&places));
        isolation(&Situation { major, minimums, places, libraries: &[], recovery })
    }

    fn value<'a>(list: &'a [Override], name: &str) -> Option<&'a str> {
        list.iter().find(|it| it.name == name).map(|it| it.value.as_str())
    }

    #[test]
    fn every_way_to_production_is_closed() {
        for major in Major::ALL {
            let list = list(major, None);
            for name in [
                "archive_command",
                "recovery_end_command",
                "archive_cleanup_command",
                "primary_conninfo",
                "primary_slot_name",
                "synchronous_standby_names",
                "external_pid_file",
                "shared_preload_libraries",
                "restore_command",
            ] {
                assert_eq!(value(&list, name), Some(""), "{name} of {major}");
            }
            for name in ["archive_mode", "ssl", "logging_collector"] {
                assert_eq!(value(&list, name), Some("off"), "{name} of {major}");
            }
            assert_eq!(value(&list, "max_logical_replication_workers"), Some("0"));
            assert_eq!(value(&list, "listen_addresses"), Some("localhost"));
            assert_eq!(value(&list, "config_file"), Some("/run/a b/postgresql.conf"));
            assert_eq!(value(&list, "unix_socket_directories"), Some("\"/run/a b/socket\""));
            assert_eq!(value(&list, "max_connections"), Some("321"));
            assert_eq!(value(&list, "recovery_target_lsn"), None);
            assert!(list.iter().all(|it| !it.why.is_empty()));
        }
    }

    #[test]
    fn a_setting_that_a_major_does_not_know_is_left_out() {
        let has = |major, name| value(&list(major, None), name).is_some();
        assert!(!has(Major::V14, "archive_library") && has(Major::V15, "archive_library"));
        assert!(has(Major::V14, "stats_temp_directory") && !has(Major::V15, "stats_temp_directory"));
        assert!(has(Major::V15, "promote_trigger_file") && !has(Major::V16, "promote_trigger_file"));
    }

    #[test]
    fn a_recovery_names_a_position_and_a_numbered_timeline_after_clearing_other_targets() {
        let recovery = Recovery {
            target_lsn: Some(Lsn(0x2_0000_0028)),
            timeline: Timeline(3),
            action: TargetAction::Promote,
            restore_command: "asof wal get --plan x %f %p".to_owned(),
        };
        let list = list(Major::V15, Some(&recovery));
        assert_eq!(value(&list, "recovery_target_lsn"), Some("2/28"));
        assert_eq!(value(&list, "recovery_target_timeline"), Some("3"));
        assert_eq!(value(&list, "recovery_target_inclusive"), Some("on"));
        assert_eq!(value(&list, "recovery_target_action"), Some("promote"));
        assert_eq!(value(&list, "restore_command"), Some("asof wal get --plan x %f %p"));
        let at = |name: &str| list.iter().position(|it| it.name == name).expect("is set");
        assert!(at("recovery_target_time") < at("recovery_target_lsn"));
        let mut later = list.clone();
        after_recovery(&mut later);
        assert_eq!(later, super::tests::list(Major::V15, None));
        let text = serde_json::to_string(&recovery).expect("can be written");
        assert_eq!(serde_json::from_str::<Recovery>(&text).expect("can be read"), recovery);
    }

    #[test]
    fn a_directory_that_is_started_by_hand_has_the_same_list_with_its_socket_as_the_only_place() {
        for major in Major::ALL {
            let ours = list(major, None);
            let situation =
                Situation { major, minimums: Some(&MINIMUMS), places: None, libraries: &[], recovery: None };
            let by_hand = isolation(&situation);
            let (socket, by_hand) = by_hand.split_first().expect("there are settings");
            assert_eq!(*socket, socket_by_hand());
            assert_eq!(&ours[ours.len() - by_hand.len()..], by_hand);
            let rest: Vec<_> = ours[..ours.len() - by_hand.len()].iter().map(|it| it.name.as_str()).collect();
            let places = [
                "config_file",
                "hba_file",
                "ident_file",
                "port",
                "unix_socket_directories",
                "unix_socket_permissions",
                "log_directory",
            ];
            assert_eq!(rest, places);
        }
    }

    #[test]
    fn a_library_is_loaded_only_if_it_is_allowed_and_installed() {
        let recorded = "pg_stat_statements, \"pg_cron\",$libdir/pgaudit,auto_explain,timescaledb";
        let sorted = preload_libraries(recorded, &["timescaledb".to_owned()], |name| name != "auto_explain");
        assert_eq!(sorted.kept, ["pg_stat_statements", "pgaudit", "timescaledb"]);
        assert_eq!(sorted.refused, ["pg_cron"]);
        assert_eq!(sorted.missing, ["auto_explain"]);
        assert_eq!(preload_libraries("", &[], |_| true), Preload::default());
    }
}
