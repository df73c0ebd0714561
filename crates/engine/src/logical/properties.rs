//! What belongs to a database but is not in it: its owner, settings, privileges, a comment. `pg_restore` brings them only when it makes the
//! database itself (`--create`), under its old name; here they are applied to the database that we made.

use asof_postgres::archive::Text;
use asof_postgres::archive::toc::{Entry, Toc};
use asof_postgres::client::{Connection, ErrorKind, Row, escape_identifier, escape_literal};

use super::mentions::identifiers;
use super::statements::{renamed, statements};
use crate::error::{Error, Result};

/// The statements that give a database its properties, in their order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Properties {
    steps: Vec<String>,
    /// What was left out.
    remarks: Vec<String>,
}

/// Whether an entry says something of the database itself.
pub(super) fn is_of_database(entry: &Entry) -> bool {
    let (desc, tag) = (entry.desc.as_bytes(), entry.tag.as_bytes());
    match desc {
        b"DATABASE" | b"DATABASE PROPERTIES" => true,
        b"COMMENT" | b"SECURITY LABEL" | b"ACL" => tag.starts_with(b"DATABASE "),
        _ => false,
    }
}

/// The roles that have settings of their own in a database: `ALTER ROLE name IN DATABASE …;` of its DATABASE PROPERTIES, as
/// `makeAlterConfigCommand` of dumputils.c writes it.
pub(super) fn roles_with_settings(definition: &str) -> Vec<String> {
    let roles = statements(definition).into_iter().filter_map(|sql| sql.strip_prefix(ALTER_ROLE));
    roles.filter_map(|rest| identifiers(rest).into_iter().next()).collect()
}

const ALTER_ROLE: &str = "ALTER ROLE ";

/// The statements of an archive about its database, for one of another name. Settings of roles go with the privileges: they need
/// roles that are not in the dump.
///
/// The owner is more than a name: from 15 on, `public` belongs to whoever owns the database.
pub(super) fn of_archive(toc: &Toc, name: &str, with_owner: bool, with_privileges: bool) -> Properties {
    let mut properties = Properties::default();
    let old = toc.database.to_lossy();
    for entry in toc.entries.iter().filter(|entry| is_of_database(entry)) {
        let definition = entry.definition.as_ref().map_or_else(String::new, Text::to_lossy);
        match entry.desc.as_bytes() {
            b"DATABASE" => {
                let owner = entry.owner.as_ref().map(Text::to_lossy).filter(|owner| with_owner && !owner.is_empty());
                properties.steps.extend(owner.map(|owner| owned(name, &owner)));
            }
            b"ACL" if !with_privileges => {}
            _ => statements(&definition)
                .into_iter()
                .filter(|sql| with_privileges || !sql.starts_with(ALTER_ROLE))
                .for_each(|sql| properties.add(sql, &old, name)),
        }
    }
    properties
}

fn owned(name: &str, owner: &str) -> String {
    format!("ALTER DATABASE {} OWNER TO {}", escape_identifier(name), escape_identifier(owner))
}

impl Properties {
    fn add(&mut self, sql: &str, old: &str, new: &str) {
        // What a role that is not the owner has granted stands between `SET SESSION AUTHORIZATION` and `RESET SESSION
        // AUTHORIZATION` (`buildACLCommands` of dumputils.c): sent as one, so that nothing is granted by another.
        let granted_by = self.steps.last_mut().filter(|last| last.starts_with(SET_ROLE) && !last.ends_with(RESET_ROLE));
        match (renamed(sql, old, new), granted_by) {
            (Some(sql), Some(last)) => last.push_str(&format!(";\n{sql}")),
            (Some(sql), None) => self.steps.push(sql),
            (None, Some(last)) if sql == RESET_ROLE => last.push_str(&format!(";\n{RESET_ROLE}")),
            (None, None) if sql.starts_with(SET_ROLE) => self.steps.push(sql.to_owned()),
            // As it stands it would change another database, which may well exist.
            (None, _) => self.remarks.push(format!("left out, for it does not name {old}: {}", shown(sql))),
        }
    }

    /// Applies one after the other to the database, which will be called `finally`; returns what is to be remarked.
    ///
    /// What the role has no right to is left out: the database is whole without it.
    ///
    /// # Errors
    /// `Refused`, with the statement that failed.
    pub(super) async fn apply(self, connection: &mut Connection, name: &str, finally: &str) -> Result<Vec<String>> {
        let mut remarks = self.remarks;
        for sql in &self.steps {
            let Err(error) = connection.execute(sql).await else { continue };
            let Some(reason) = error.server_error() else { return Err(error.into()) };
            let (reason, sql) =
                (&reason.message, sql.replacen(&escape_identifier(name), &escape_identifier(finally), 1));
            match error.kind() {
                ErrorKind::Denied => remarks.push(format!("not applied: {} ({reason})", shown(&sql))),
                ErrorKind::Server => {
                    let what = format!("the server refused a property of the database, {}: {reason}", shown(&sql));
                    return Err(Error::refused(
                        what,
                        "make what it names, or load --into an empty database, which keeps the properties that it has",
                    ));
                }
                _ => return Err(error.into()),
            }
        }
        Ok(remarks)
    }
}

const SET_ROLE: &str = "SET SESSION AUTHORIZATION ";
const RESET_ROLE: &str = "RESET SESSION AUTHORIZATION";

/// A statement up to its first value, which may be a secret.
fn shown(sql: &str) -> String {
    let line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.split_once('\'') {
        Some((open, _)) => format!("{open}…"),
        None => line,
    }
}

/// The statements that make another database as this one is, whose name `new` will become.
pub(super) async fn of_existing(connection: &mut Connection, old: &str, new: &str) -> Result<Properties> {
    let (old, name) = (escape_literal(old), escape_identifier(new));
    let of = |select: &str, from: &str| format!("SELECT {select} FROM pg_database d{from} WHERE datname = {old}");
    let optional = |row: &Row, at: usize| row.text(at).map(|text| text.map(str::to_owned));
    let select =
        "pg_get_userbyid(datdba), datconnlimit, datistemplate, datacl IS NULL, shobj_description(oid, 'pg_database')";
    let row = connection.query_one(&of(select, "")).await?;
    let mut steps = vec![owned(new, row.required(0)?)];
    // -2 says that it is being dropped (`DATCONNLIMIT_INVALID_DB`, pg_database.h), -1 that there is no limit.
    let limit: i32 = row.parse_required(1)?;
    steps.extend((limit >= 0).then(|| format!("ALTER DATABASE {name} CONNECTION LIMIT {limit}")));
    steps.extend((row.required(2)? == "t").then(|| format!("ALTER DATABASE {name} IS_TEMPLATE true")));
    steps.extend((row.required(3)? == "f").then(|| format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC")));
    let comment = optional(&row, 4)?;
    let select = "privilege_type, CASE WHEN grantee <> 0 THEN pg_get_userbyid(grantee) END, is_grantable";
    for row in connection.query(&of(select, ", aclexplode(datacl)")).await? {
        let grantee = row.text(1)?.map_or_else(|| "PUBLIC".to_owned(), escape_identifier);
        let option = if row.required(2)? == "t" { " WITH GRANT OPTION" } else { "" };
        steps.push(format!("GRANT {} ON DATABASE {name} TO {grantee}{option}", row.required(0)?));
    }
    let select = "CASE WHEN setrole <> 0 THEN pg_get_userbyid(setrole) END, setting";
    let from = " JOIN pg_db_role_setting ON setdatabase = d.oid, unnest(setconfig) setting";
    for row in connection.query(&of(select, from)).await? {
        let whose = match row.text(0)? {
            Some(role) => format!("ALTER ROLE {} IN DATABASE {name}", escape_identifier(role)),
            None => format!("ALTER DATABASE {name}"),
        };
        let (key, value) = row.required(1)?.split_once('=').unwrap_or_default();
        steps.push(format!("{whose} SET {} TO {}", escape_identifier(key), value_of(key, value)));
    }
    steps.extend(comment.map(|text| format!("COMMENT ON DATABASE {name} IS {}", escape_literal(&text))));
    Ok(Properties { steps, remarks: Vec::new() })
}

/// Values of these are lists of quoted names (`variable_is_guc_list_quote` of dumputils.c, 13 to 18).
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// What stands in `SET … TO`. A list is one of literals, none of which may be a quoted name: `""` is none
/// (`makeAlterConfigCommand` of dumputils.c).
fn value_of(key: &str, value: &str) -> String {
    let list = if LISTS.iter().any(|list| key.eq_ignore_ascii_case(list)) { elements(value) } else { None };
    let list = list.unwrap_or_else(|| vec![value.to_owned()]);
    list.iter().map(|element| escape_literal(element).trim().to_owned()).collect::<Vec<_>>().join(", ")
}

/// The names in a list; `None` when it is none (`SplitGUCList` of dumputils.c, which leaves case and length alone).
fn elements(list: &str) -> Option<Vec<String>> {
    let (mut found, mut rest) = (Vec::new(), list.trim());
    loop {
        let (element, behind) = match rest.strip_prefix('"') {
            Some(quoted) => until_quote(quoted)?,
            None => {
                let end = rest.find(|c: char| c == ',' || c.is_ascii_whitespace()).unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        found.push(element);
        rest = match behind.trim_start().strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if behind.trim_start().is_empty() => return Some(found),
            None => return None,
        };
    }
}

/// What stands before the quote that ends it, in which it is doubled, and what stands behind.
fn until_quote(text: &str) -> Option<(String, &str)> {
    let (mut found, mut rest) = (String::new(), text);
    loop {
        let (piece, behind) = rest.split_once('"')?;
        found.push_str(piece);
        match behind.strip_prefix('"') {
            Some(more) => {
                found.push('"');
                rest = more;
            }
            None => return Some((found, behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_given_as_literals_and_anything_else_as_one() {
        let check = |key: &str, value: &str, expect: &str| assert_eq!(value_of(key, value), expect, "{key}={value}");
        check("work_mem", "9MB", "'9MB'");
        check("app.list", "\"\"", "'\"\"'");
        check("search_path", "\"\"", "''");
        check("search_path", "", "''");
        check("search_path", "\"$user\", public", "'$user', 'public'");
        check("Temp_Tablespaces", "\"a \"\"b, c\",d", "'a \"b, c', 'd'");
        check("session_preload_libraries", "auto_explain, \"$libdir/It's\"", "'auto_explain', '$libdir/It''s'");
        check("search_path", "\"open", "'\"open'");
        check("search_path", "a\\b", "E'a\\\\b'");
    }

    #[test]
    fn roles_of_settings_are_found_whatever_their_names_and_values_look_like() {
        let sql = "ALTER DATABASE d SET x TO 'ALTER ROLE none;\nALTER ROLE no';\nALTER ROLE a IN DATABASE d SET x TO '1';\n\
                   ALTER ROLE \"b;\nc\" IN DATABASE d SET x TO '1';\n";
        assert_eq!(roles_with_settings(sql), ["a", "b;\nc"]);
    }

    #[test]
    fn what_another_role_granted_is_granted_by_it_or_by_nobody() {
        let mut properties = Properties::default();
        let sql = "GRANT ALL ON DATABASE a TO b;\nSET SESSION AUTHORIZATION c;\nGRANT CONNECT ON DATABASE a TO d;\n\
                   RESET SESSION AUTHORIZATION;\nGRANT ALL ON DATABASE a TO e;\nGRANT ALL ON DATABASE other TO e;\n";
        statements(sql).into_iter().for_each(|sql| properties.add(sql, "a", "n"));
        let expect = [
            "GRANT ALL ON DATABASE \"n\" TO b",
            "SET SESSION AUTHORIZATION c;\nGRANT CONNECT ON DATABASE \"n\" TO d;\nRESET SESSION AUTHORIZATION",
            "GRANT ALL ON DATABASE \"n\" TO e",
        ];
        assert_eq!(properties.steps, expect);
        assert_eq!(properties.remarks, ["left out, for it does not name a: GRANT ALL ON DATABASE other TO e"]);
    }
}
