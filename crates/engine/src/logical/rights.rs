//! What a role cannot dump, found before anything is dumped: `pg_dump` stops at the first, and names only that.
//!
//! It locks every table that it dumps (`LOCK TABLE … IN ACCESS SHARE MODE`) and reads it with `row_security = off`, so that a
//! policy is an error and never a filter; it reads every sequence and every large object (`getTables`, `dumpSequenceData`,
//! `dumpLOs` of pg_dump.c, 13 to 18). What belongs to an extension is not dumped, except its configuration tables.

use asof_postgres::client::{Connection, Row};

use super::named::Named;
use crate::error::Result;

/// Databases that managed services keep for themselves, which let nobody else in whatever their privileges say: RDS, Cloud SQL, Azure.
const OF_SERVICES: &str = "'rdsadmin', 'cloudsqladmin', 'azure_maintenance', 'azure_sys'";

/// A database of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Bytes on the server's disk; `None` when the role may not ask.
    pub size: Option<u64>,
    /// Whether the role may connect to it and it belongs to its users: no template, and none of a service's own.
    pub can_be_dumped: bool,
}

/// Every database of the server, by name.
pub async fn databases(connection: &mut Connection) -> Result<Vec<Database>> {
    let sql = format!(
        "SELECT datname, CASE WHEN has_database_privilege(oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE') \
               THEN pg_database_size(oid) END, datallowconn AND NOT datistemplate AND has_database_privilege(oid, 'CONNECT') \
               AND datname NOT IN ({OF_SERVICES}) FROM pg_database ORDER BY datname"
    );
    let database =
        |row: &Row| Ok(Database { name: text(row, 0), size: row.parse(1)?, can_be_dumped: row.required(2)? == "t" });
    connection.query(&sql).await?.iter().map(database).collect()
}

/// What keeps the role of a connection from dumping the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undumpable {
    tables: Named,
    sequences: Named,
    large_objects: Named,
    row_security: Named,
}

impl Undumpable {
    /// One clause for each kind, with the first few names; empty when all can be dumped.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        [
            ("no SELECT on table", &self.tables),
            ("no SELECT on sequence", &self.sequences),
            ("no SELECT on large object", &self.large_objects),
            ("row security, which the role does not bypass, on table", &self.row_security),
        ]
        .into_iter()
        .filter_map(|(what, named)| Some(format!("{what} {}", named.list()?)))
        .collect()
    }
}

/// Asks what the role of this connection cannot dump of its database.
pub async fn undumpable(connection: &mut Connection) -> Result<Undumpable> {
    let relations = "SELECT name, kind, readable, secured FROM ( \
         SELECT format('%I.%I', n.nspname, c.relname) AS name, c.relkind AS kind, \
           has_schema_privilege(n.oid, 'USAGE') AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege(c.oid, 'SELECT') \
             ELSE has_table_privilege(c.oid, 'SELECT') END AS readable, \
           c.relkind <> 'S' AND row_security_active(c.oid) AS secured \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' \
           AND n.nspname <> 'information_schema' \
           AND (c.oid IN (SELECT unnest(extconfig) FROM pg_extension) OR NOT EXISTS (SELECT FROM pg_depend d \
             WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'))) all_of_them \
         WHERE NOT readable OR secured ORDER BY name";
    let mut found = Undumpable::default();
    for row in connection.query(relations).await? {
        let (name, is_sequence, readable) = (text(&row, 0), row.required(1)? == "S", row.required(2)? == "t");
        match (readable, is_sequence) {
            (false, true) => found.sequences.add(name),
            (false, false) => found.tables.add(name),
            (true, _) => found.row_security.add(name),
        }
    }
    // Before 18 there is no function that answers it; whoever has the owner's rights may read.
    let large_objects = "SELECT oid, count(*) OVER () FROM pg_largeobject_metadata WHERE NOT (current_setting('lo_compat_privileges')::boolean \
         OR pg_has_role(lomowner, 'USAGE') OR EXISTS (SELECT FROM aclexplode(lomacl) WHERE privilege_type = 'SELECT' \
         AND CASE grantee WHEN 0 THEN true ELSE pg_has_role(grantee, 'USAGE') END)) ORDER BY oid LIMIT 5";
    let rows = connection.query(large_objects).await?;
    let count = rows.first().map_or(Ok(0), |row| row.parse_required(1))?;
    found.large_objects = Named::some(rows.iter().map(|row| text(row, 0)).collect(), count);
    Ok(found)
}

/// Names may be of any encoding that the database was made with.
fn text(row: &Row, at: usize) -> String {
    String::from_utf8_lossy(row.bytes(at).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_what_cannot_be_dumped_is_a_clause() {
        let mut found = Undumpable::default();
        assert_eq!(found.reasons(), [""; 0]);
        (1..=7).for_each(|n| found.tables.add(format!("a.t{n}")));
        found.large_objects.add("4711".to_owned());
        assert_eq!(
            found.reasons(),
            ["no SELECT on table a.t1, a.t2, a.t3, a.t4, a.t5 and 2 more", "no SELECT on large object 4711"]
        );
    }
}
