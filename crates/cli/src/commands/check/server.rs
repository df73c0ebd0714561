//! What the server must be set to, and what its role may do, for backups of its files and its WAL.

use asof_engine::error::in_one_line;
use asof_engine::server::Server;
use asof_engine::source::{missing_rights, superfluous_rights, superfluous_to_dump};
use asof_postgres::client::Connection;

use crate::failure::{DENIED, Failure, Result};

pub(super) async fn ask(connection: &mut Connection, sql: &str) -> Result<String, String> {
    let row = connection.query_one(sql).await.map_err(in_one_line)?;
    row.required(0).map(str::to_owned).map_err(in_one_line)
}

pub(super) async fn wal_level(connection: &mut Connection) -> Result<String, String> {
    match ask(connection, "SHOW wal_level").await?.as_str() {
        "minimal" => Err("minimal: WAL cannot be replayed; set wal_level = replica and restart".to_owned()),
        level => Ok(level.to_owned()),
    }
}

pub(super) async fn full_page_writes(connection: &mut Connection) -> Result<String, String> {
    match ask(connection, "SHOW full_page_writes").await?.as_str() {
        "on" => Ok("on".to_owned()),
        _ => Err("off: torn pages of a backup cannot be repaired; set full_page_writes = on".to_owned()),
    }
}

/// What the role lacks is a failure where the files are read by SQL; what it has too much is said.
pub(super) async fn rights(connection: &mut Connection, by_sql: bool) -> Result<String, String> {
    let missing = missing_rights(connection).await.map_err(in_one_line)?;
    if by_sql && !missing.is_empty() {
        return Err(format!("missing: {}; `asof instance grants` prints them all", missing.join("; ")));
    }
    let superfluous = superfluous_rights(connection).await.map_err(in_one_line)?;
    match superfluous.len() {
        0 => Ok("what is needed and no more".to_owned()),
        _ => Ok(format!("more than is needed: {}", superfluous.join(", "))),
    }
}

/// What the role may do besides, where only dumps are made; what it lacks is found in each database.
pub(super) async fn rights_to_dump(connection: &mut Connection) -> Result<String, String> {
    let superfluous = superfluous_to_dump(connection).await.map_err(in_one_line)?;
    match superfluous.len() {
        0 => Ok("no more than dumps need".to_owned()),
        _ => Ok(format!("more than dumps need: {}", superfluous.join(", "))),
    }
}

pub(super) async fn slots(connection: &mut Connection) -> Result<String, String> {
    let sql = "SELECT current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots)";
    let free: i64 =
        ask(connection, sql).await?.parse().map_err(|_| "the server did not answer with a number".to_owned())?;
    if free >= 2 {
        Ok(format!("{free} free"))
    } else {
        Err(format!("{free} free, 2 needed; raise max_replication_slots"))
    }
}

/// Where commits wait for us: whether all of them do, and what happens when we are away. `None` where none does.
pub(super) async fn synchronous(connection: &mut Connection, link: &Server) -> Option<Result<String, String>> {
    let names = match ask(connection, "SHOW synchronous_standby_names").await {
        Ok(names) => names,
        Err(error) => return Some(Err(error)),
    };
    let ours = link.config.application_name.as_deref().unwrap_or("asof");
    let standbys = standbys_of(&names);
    if !standbys.iter().any(|name| name == "*" || name.eq_ignore_ascii_case(ours)) {
        return None;
    }
    // Whoever commits with another setting than the server's does so by role, database or session; sessions cannot be seen.
    let sql = "SELECT string_agg(who || ': ' || setting, '; ') FROM ( \
               SELECT 'the server' AS who, 'synchronous_commit=' || reset_val AS setting FROM pg_settings \
               WHERE name = 'synchronous_commit' UNION ALL \
               SELECT concat_ws(' in ', 'role ' || rolname, 'database ' || datname), setting \
               FROM pg_db_role_setting s CROSS JOIN unnest(setconfig) setting \
               LEFT JOIN pg_roles r ON r.oid = setrole LEFT JOIN pg_database d ON d.oid = setdatabase \
               WHERE setting LIKE 'synchronous_commit=%') all_of_them \
               WHERE split_part(setting, '=', 2) NOT IN ('on', 'remote_write')";
    let exceptions = match connection.query_one(sql).await.and_then(|row| Ok(row.text(0)?.map(str::to_owned))) {
        Ok(exceptions) => exceptions,
        Err(error) => return Some(Err(in_one_line(error))),
    };
    if let Some(exceptions) = exceptions {
        return Some(Err(format!(
            "commits can be lost, or wait for ever, under {exceptions}: local and off do not wait for us, and remote_apply waits for \
             what we never do; use on"
        )));
    }
    Some(Ok(match standbys.len() {
        1 => format!("{names}: we are the only one, so that commits wait for as long as we are away"),
        _ => names,
    }))
}

/// The names in `synchronous_standby_names`: `FIRST 2 (a, b)`, `ANY 1 (a, b)`, `a, b`, `*`.
fn standbys_of(setting: &str) -> Vec<String> {
    let list = setting.rsplit_once('(').map_or(setting, |(_, list)| list.trim_end().trim_end_matches(')'));
    let names = list.split(',').map(|name| name.trim().trim_matches('"').to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

/// Which way WAL comes from a server.
pub(crate) enum Replication {
    /// By streaming replication; where the server stands.
    Streams(String),
    /// By SQL, because replication connections are refused: why, and what would change it.
    Refused(String),
}

/// Tries a replication connection.
pub(crate) async fn replication(link: &Server) -> Result<Replication, String> {
    let mut connection = match link.connect_replication().await {
        Ok(connection) => connection,
        Err(error) => {
            let (failure, user) = (Failure::from(error), &link.config.user);
            let refused = in_one_line(&failure);
            // A missing right is told apart from a missing line by what the server said.
            return match failure.code() {
                DENIED => Ok(Replication::Refused(format!(
                    "{refused}; it costs more and cannot be synchronous; streaming takes ALTER ROLE {user} REPLICATION, and in \
                     pg_hba.conf: host replication {user} ADDRESS scram-sha-256"
                ))),
                _ => Err(refused),
            };
        }
    };
    let identity = connection.identify_system().await.map_err(in_one_line)?;
    connection.close().await;
    Ok(Replication::Streams(format!("timeline {}, at {}", identity.timeline, identity.xlogpos)))
}

#[cfg(test)]
mod tests {
    use super::standbys_of;

    #[test]
    fn the_names_of_synchronous_standbys_are_read_in_every_form() {
        for (setting, names) in [
            ("", vec![]),
            ("*", vec!["*"]),
            ("asof", vec!["asof"]),
            ("a, asof", vec!["a", "asof"]),
            ("FIRST 1 (asof, \"Standby 1\")", vec!["asof", "Standby 1"]),
            ("ANY 2 (a,b , c )", vec!["a", "b", "c"]),
            ("2 (a, b)", vec!["a", "b"]),
        ] {
            assert_eq!(standbys_of(setting), names, "{setting}");
        }
    }
}
