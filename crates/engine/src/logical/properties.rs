//! What belongs to a database but is not in it: its owner, settings, privileges, a comment. `pg_restore` brings them only when it makes the
//! database itself (`--create`), under its old name; here they are applied to the database that we made.

use asof_postgres::archive::Text;
use asof_postgres::archive::toc::{Entry, Toc};
use asof_postgres::client::{Connection, escape_identifier, escape_literal};

use crate::error::Result;

/// The statements of an archive about its database, for one of another name.
///
/// The owner is more than a name: from 15 on, `public` belongs to whoever owns the database.
pub(super) fn of_archive(toc: &Toc, name: &str, with_owner: bool, with_privileges: bool) -> Vec<String> {
    let is_database = |entry: &&Entry| entry.desc.as_bytes() == b"DATABASE";
    let owner = toc.entries.iter().find(is_database).and_then(|entry| entry.owner.as_ref()).map(Text::to_lossy);
    let owner = owner
        .filter(|owner| with_owner && !owner.is_empty())
        .map(|owner| format!("ALTER DATABASE {} OWNER TO {}", escape_identifier(name), escape_identifier(&owner)));
    let about = |entry: &&Entry| {
        let (desc, tag) = (entry.desc.as_bytes(), entry.tag.as_bytes());
        match desc {
            b"DATABASE PROPERTIES" => true,
            b"COMMENT" | b"SECURITY LABEL" => tag.starts_with(b"DATABASE "),
            b"ACL" => with_privileges && tag.starts_with(b"DATABASE "),
            _ => false,
        }
    };
    let old = toc.database.to_lossy();
    let definitions = toc.entries.iter().filter(about).filter_map(|entry| entry.definition.as_ref());
    owner.into_iter().chain(definitions.map(|sql| renamed(&sql.to_lossy(), &old, name))).collect()
}

/// Statements begin on lines of their own, and name the database once behind the word DATABASE (`dumpDatabase`, `dumpComment` and
/// `buildACLCommands` of pg_dump, 11 to 18).
fn renamed(sql: &str, old: &str, new: &str) -> String {
    let old = [format!(" DATABASE {old} "), format!(" DATABASE {} ", escape_identifier(old))];
    let new = format!(" DATABASE {} ", escape_identifier(new));
    let begins =
        |line: &str| ["ALTER ", "COMMENT ", "GRANT ", "REVOKE ", "SECURITY "].iter().any(|word| line.starts_with(word));
    let line = |line: &str| match old.iter().filter(|_| begins(line)).find(|old| line.contains(old.as_str())) {
        Some(old) => line.replacen(old.as_str(), &new, 1),
        None => line.to_owned(),
    };
    sql.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// Values of these are lists that are quoted already (`GUC_LIST_QUOTE` in guc_tables.c, 13 to 18).
const LISTS: &str = "'local_preload_libraries', 'search_path', 'session_preload_libraries', 'shared_preload_libraries', \
                     'temp_tablespaces', 'unix_socket_directories'";

/// The statements that make another database as this one is, whose name `new` will become.
pub(super) async fn of_existing(connection: &mut Connection, old: &str, new: &str) -> Result<Vec<String>> {
    let (old, new) = (escape_literal(old), escape_literal(new));
    let sql = format!(
        "WITH d AS (SELECT * FROM pg_database WHERE datname = {old}) \
         SELECT format('ALTER DATABASE %I OWNER TO %I', {new}, pg_get_userbyid(datdba)) FROM d \
         UNION ALL SELECT format('ALTER DATABASE %I CONNECTION LIMIT %s', {new}, datconnlimit) FROM d WHERE datconnlimit >= 0 \
         UNION ALL SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', {new}) FROM d WHERE datacl IS NOT NULL \
         UNION ALL SELECT format('GRANT %s ON DATABASE %I TO %s%s', privilege_type, {new}, \
           CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END, \
           CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) FROM d, aclexplode(datacl) \
         UNION ALL SELECT format('ALTER DATABASE %I SET %s TO %s', {new}, name, value) FROM ( \
           SELECT setrole, split_part(s, '=', 1) AS name, \
             CASE WHEN split_part(s, '=', 1) IN ({LISTS}) THEN substr(s, strpos(s, '=') + 1) \
             ELSE quote_literal(substr(s, strpos(s, '=') + 1)) END AS value \
           FROM pg_db_role_setting, unnest(setconfig) s WHERE setdatabase = (SELECT oid FROM d)) x WHERE setrole = 0 \
         UNION ALL SELECT format('ALTER ROLE %I IN DATABASE %I SET %s TO %s', pg_get_userbyid(setrole), {new}, \
           split_part(s, '=', 1), CASE WHEN split_part(s, '=', 1) IN ({LISTS}) THEN substr(s, strpos(s, '=') + 1) \
             ELSE quote_literal(substr(s, strpos(s, '=') + 1)) END) \
           FROM pg_db_role_setting, unnest(setconfig) s WHERE setdatabase = (SELECT oid FROM d) AND setrole <> 0 \
         UNION ALL SELECT format('COMMENT ON DATABASE %I IS %L', {new}, shobj_description(oid, 'pg_database')) FROM d \
           WHERE shobj_description(oid, 'pg_database') IS NOT NULL"
    );
    let rows = connection.query(&sql).await?;
    rows.iter().map(|row| Ok(row.required(0)?.to_owned())).collect()
}

/// Runs the statements, all or none.
pub(super) async fn apply(connection: &mut Connection, statements: &[String]) -> Result<()> {
    if !statements.is_empty() {
        connection.execute(&statements.join(";\n")).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_about_a_database_are_about_another_one() {
        let check = |sql: &str, old: &str, expect: &str| assert_eq!(renamed(sql, old, "n w"), expect);
        check("ALTER DATABASE a SET x TO '1';\n", "a", "ALTER DATABASE \"n w\" SET x TO '1';\n");
        check(
            "ALTER ROLE r IN DATABASE \"A b\" SET x TO 'y';",
            "A b",
            "ALTER ROLE r IN DATABASE \"n w\" SET x TO 'y';",
        );
        let comment = "COMMENT ON DATABASE a IS 'see DATABASE a or\nGRANT';";
        check(comment, "a", "COMMENT ON DATABASE \"n w\" IS 'see DATABASE a or\nGRANT';");
        check("SET SESSION AUTHORIZATION DATABASE a ;", "a", "SET SESSION AUTHORIZATION DATABASE a ;");
    }
}
