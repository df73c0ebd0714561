//! What a role needs to back an instance up by SQL, as statements to run and as questions to ask.
//!
//! One list serves both: what is documented is what is checked. A grant on a function holds in the database where it was
//! given. Source: `system_functions.sql` (`system_views.sql` before 14), PostgreSQL 13 to 18.

use asof_postgres::client::{Connection, escape_identifier, escape_literal};
use asof_postgres::version::Major;

use crate::error::{Error, Result};

/// To be printed with every list of grants.
pub const READS_EVERYTHING: &str = "this role can read everything in the instance, the hashes of passwords included";

/// Executed by nobody but superusers unless granted.
const FUNCTIONS: &[&str] = &[
    "pg_ls_dir(text)",
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
    "pg_switch_wal()",
    "pg_create_restore_point(text)",
];

/// The names of the two changed with 15.
fn backup_functions(major: Major) -> [&'static str; 2] {
    if major >= Major::V15 {
        ["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"]
    } else {
        ["pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"]
    }
}

/// Attributes and memberships that a backup does not need, and why they are too much.
const TOO_MUCH: &[(&str, &str)] = &[
    ("rolsuper", "is a superuser"),
    ("rolcreaterole", "may create roles"),
    ("rolcreatedb", "may create databases"),
    ("rolbypassrls", "passes by row security"),
    (
        "NOT rolsuper AND pg_catalog.pg_has_role(oid, 'pg_read_server_files', 'USAGE')",
        "may read every file of the host that the server can (pg_read_server_files)",
    ),
    (
        "NOT rolsuper AND pg_catalog.pg_has_role(oid, 'pg_write_server_files', 'USAGE')",
        "may write files of the host (pg_write_server_files)",
    ),
    (
        "NOT rolsuper AND pg_catalog.pg_has_role(oid, 'pg_execute_server_program', 'USAGE')",
        "may run programs on the host (pg_execute_server_program)",
    ),
];

/// One right: how it is given, and how it is found.
struct Right {
    /// The statement that gives it.
    grant: String,
    /// An SQL expression that is true for a role `r` (a row of `pg_roles`) that has it.
    held: String,
}

/// Every right that `role` needs on a server of this major.
fn rights(major: Major, role: &str) -> Vec<Right> {
    let role = escape_identifier(role);
    let mut list = vec![Right {
        grant: format!("ALTER ROLE {role} REPLICATION;"),
        held: "(r.rolreplication OR r.rolsuper)".to_owned(),
    }];
    let checkpoint = (major >= Major::V15).then_some("pg_checkpoint");
    list.extend(["pg_monitor"].into_iter().chain(checkpoint).map(|group| Right {
        grant: format!("GRANT {group} TO {role};"),
        held: format!("pg_catalog.pg_has_role(r.oid, '{group}', 'USAGE')"),
    }));
    list.extend(FUNCTIONS.iter().copied().chain(backup_functions(major)).map(|function| Right {
        grant: format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {role};"),
        held: format!(
            "pg_catalog.has_function_privilege(r.oid, {}, 'EXECUTE')",
            escape_literal(&format!("pg_catalog.{function}"))
        ),
    }));
    list
}

/// The statements to run as a superuser, in the database that backups connect to, for an existing role that may log in.
pub fn grants(major: Major, role: &str) -> Vec<String> {
    rights(major, role).into_iter().map(|right| right.grant).collect()
}

/// The grants that the role of this connection lacks in this database, as statements.
pub async fn missing_rights(connection: &mut Connection) -> Result<Vec<String>> {
    let number = connection.server_version_num()?;
    let major = Major::from_server_version_num(i64::from(number))
        .map_err(|error| Error::refused(error.to_string(), "asof protects PostgreSQL 13 to 18"))?;
    let role = connection.query_one("SELECT current_user").await?.required(0)?.to_owned();
    let rights = rights(major, &role);
    let held = ask(connection, rights.iter().map(|right| right.held.as_str())).await?;
    Ok(rights.into_iter().zip(held).filter(|(_, held)| !held).map(|(right, _)| right.grant).collect())
}

/// What the role of this connection may do besides, that a backup does not need; each completes "the role …".
pub async fn superfluous_rights(connection: &mut Connection) -> Result<Vec<&'static str>> {
    let held = ask(connection, TOO_MUCH.iter().map(|(condition, _)| *condition)).await?;
    Ok(TOO_MUCH.iter().zip(held).filter(|(_, held)| *held).map(|((_, why), _)| *why).collect())
}

/// The same of a dump: it may have to pass by row security.
pub async fn superfluous_to_dump(connection: &mut Connection) -> Result<Vec<&'static str>> {
    let needed = |why: &&str| TOO_MUCH.iter().any(|(condition, of)| of == why && *condition == "rolbypassrls");
    Ok(superfluous_rights(connection).await?.into_iter().filter(|why| !needed(why)).collect())
}

/// Asks conditions about the current role, in one row.
async fn ask(connection: &mut Connection, conditions: impl Iterator<Item = &str>) -> Result<Vec<bool>> {
    let conditions: Vec<String> = conditions.map(|condition| format!("({condition})")).collect();
    let sql = format!("SELECT {} FROM pg_catalog.pg_roles r WHERE rolname = current_user", conditions.join(", "));
    let row = connection.query_one(&sql).await?;
    (0..conditions.len()).map(|index| Ok(row.required(index)? == "t")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backup_functions_are_those_of_the_major() {
        let has = |major, words: &str| grants(major, "b").iter().any(|grant| grant.contains(words));
        assert!(has(Major::V14, ".pg_start_backup(text, boolean, boolean)") && !has(Major::V14, "pg_backup_start"));
        assert!(has(Major::V15, ".pg_backup_stop(boolean)") && !has(Major::V15, "pg_stop_backup"));
        assert!(!has(Major::V14, "pg_checkpoint") && has(Major::V15, "GRANT pg_checkpoint TO \"b\";"));
    }

    #[test]
    fn a_role_s_name_is_quoted() {
        assert_eq!(grants(Major::V15, "a\"b")[0], "ALTER ROLE \"a\"\"b\" REPLICATION;");
    }
}
