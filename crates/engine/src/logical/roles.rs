//! The roles without which a load stops: owners, those to whom something is granted, and those that policies and user mappings name.

use std::collections::BTreeSet;

use asof_postgres::archive::toc::Entry;
use asof_postgres::client::Connection;

use super::checks::{Finding, Subject, names};
use super::mentions::{identifiers, without_name};
use super::properties::{is_of_database, roles_with_settings};
use super::target::Policy;
use crate::error::Result;

/// What entries need.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needed {
    owners: BTreeSet<String>,
    /// Named by privileges, by default privileges and by settings of roles in the database.
    granted: BTreeSet<String>,
    /// Named by what no option leaves out.
    bound: BTreeSet<String>,
}

/// Looks whether all are there, and whether things can be given to the owners.
pub(super) async fn check(subject: &Subject<'_>, entries: &[&Entry], connection: &mut Connection) -> Result<Finding> {
    // Up to 14 `public` of a new database belongs to whom initdb made, and being given to them again asks for no right
    // (`AlterSchemaOwner_internal`, schemacmds.c). pg_dump from 15 on writes that down.
    let first = match subject.major.number() {
        ..15 => names(connection, "SELECT rolname FROM pg_roles WHERE oid = 10").await?,
        _ => BTreeSet::new(),
    };
    let mut needed = Needed::default();
    entries.iter().filter(|entry| !is_of_database(entry)).for_each(|entry| needed.add(entry, &first));
    // Only a database that is made from the dump gets its properties from it, whatever tables were chosen.
    if subject.request.policy == Policy::New {
        let toc = subject.origin.toc.iter().flat_map(|toc| &toc.entries);
        toc.filter(|entry| is_of_database(entry)).for_each(|entry| needed.add(entry, &first));
    }
    if subject.request.no_owner {
        needed.owners.clear();
    }
    if subject.request.no_privileges {
        needed.granted.clear();
    }
    let known = names(connection, "SELECT rolname FROM pg_roles").await?;
    // Whoever is no superuser gives things only to roles that it is a member of (`check_can_set_role` and its forerunners, acl.c).
    let own = names(connection, "SELECT rolname FROM pg_roles WHERE pg_has_role(oid, 'MEMBER')").await?;
    Ok(judged(&needed, &known, &own)
        .map_or_else(|why| Finding::failed("roles", why), |found| Finding::ok("roles", found)))
}

fn judged(needed: &Needed, known: &BTreeSet<String>, own: &BTreeSet<String>) -> Result<String, String> {
    let listed = |roles: Vec<&String>| roles.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let absent = |roles: &BTreeSet<String>| listed(roles.difference(known).collect());
    let bound = absent(&needed.bound);
    if !bound.is_empty() {
        return Err(format!("{bound} are not here, and policies or user mappings name them: make them"));
    }
    let optional: BTreeSet<String> = needed.owners.union(&needed.granted).cloned().collect();
    let missing = absent(&optional);
    if !missing.is_empty() {
        return Err(format!("{missing} are not here: make them, or leave them out with --no-owner --no-privileges"));
    }
    let foreign = listed(needed.owners.difference(own).collect());
    if !foreign.is_empty() {
        return Err(format!("nothing can be given to {foreign}: be made a member of them, or load with --no-owner"));
    }
    Ok(match optional.union(&needed.bound).count() {
        0 => "none are needed".to_owned(),
        all => format!("{all} are here"),
    })
}

impl Needed {
    /// `public` is not counted when it belongs to one of `first`.
    fn add(&mut self, entry: &Entry, first: &BTreeSet<String>) {
        let desc = entry.desc.as_bytes();
        let owner = entry.owner.as_ref().map(|owner| owner.to_lossy()).filter(|owner| !owner.is_empty());
        let is_public = desc == b"SCHEMA" && entry.tag.as_bytes() == b"public";
        // Only what can be dropped is given to its owner (`_printTocEntry`, pg_backup_archiver.c).
        let is_given = entry.drop.as_ref().is_some_and(|sql| !sql.as_bytes().is_empty());
        let definition = entry.definition.as_ref().map(|sql| sql.to_lossy()).unwrap_or_default();
        match desc {
            // `ALTER DEFAULT PRIVILEGES FOR ROLE` the owner (`dumpDefaultACL`, pg_dump.c).
            b"DEFAULT ACL" => self.granted.extend(owner.into_iter().chain(grantees(&definition))),
            b"ACL" => self.granted.extend(grantees(&definition)),
            b"DATABASE PROPERTIES" => self.granted.extend(roles_with_settings(&definition)),
            _ if is_given => self.owners.extend(owner.filter(|owner| !(is_public && first.contains(owner)))),
            _ => {}
        }
        match desc {
            b"POLICY" => self.bound.extend(roles_of_policy(&definition)),
            b"USER MAPPING" => self.bound.extend(user_of_mapping(&definition)),
            _ => {}
        }
    }
}

/// Whom the statements of an ACL name: `GRANT … TO name;` and `REVOKE … FROM name;`, as `buildACLCommands` of dumputils.c
/// writes them.
fn grantees(sql: &str) -> Vec<String> {
    let statements = sql.lines().filter_map(|line| {
        let end = line.strip_suffix(';')?.trim_end_matches(" WITH GRANT OPTION");
        let word = if line.contains("GRANT ") && !line.starts_with("REVOKE") { " TO " } else { " FROM " };
        Some(end.rsplit_once(word)?.1)
    });
    statements.filter(|name| *name != "PUBLIC").flat_map(identifiers).collect()
}

/// `CREATE POLICY name ON table AS RESTRICTIVE FOR SELECT TO a, b USING (…);`, as `dumpPolicy` of pg_dump.c writes it. What stands in
/// the expressions may look like anything, so it is read from the beginning.
fn roles_of_policy(sql: &str) -> Vec<String> {
    let roles = || {
        let rest = without_name(sql.trim_start().strip_prefix("CREATE POLICY ")?);
        let mut rest = without_name(rest.strip_prefix(" ON ")?);
        for word in [" AS ", " FOR "] {
            rest = rest.strip_prefix(word).map_or(rest, without_name);
        }
        rest.strip_prefix(" TO ").map(identifiers)
    };
    roles().unwrap_or_default()
}

/// `CREATE USER MAPPING FOR name SERVER server …;`, as `dumpUserMappings` of pg_dump.c writes it.
fn user_of_mapping(sql: &str) -> Option<String> {
    let named = identifiers(sql.trim_start().strip_prefix("CREATE USER MAPPING FOR ")?);
    named.into_iter().next().filter(|name| name != "public")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_found_in_what_privileges_say() {
        let sql = "GRANT SELECT ON TABLE public.a TO reader;\nGRANT ALL ON TABLE a TO \"o\"\"b c\" WITH GRANT OPTION;\n\
                   REVOKE ALL ON TABLE a FROM PUBLIC;\nREVOKE ALL ON SCHEMA s FROM owner;\n\
                   ALTER DEFAULT PRIVILEGES FOR ROLE x IN SCHEMA s GRANT SELECT ON TABLES TO y;\n";
        assert_eq!(grantees(sql), ["reader", "o\"b c", "owner", "y"]);
    }

    #[test]
    fn roles_of_policies_and_user_mappings_are_found_wherever_names_and_expressions_look_like_them() {
        let policies = [
            ("CREATE POLICY p ON public.t TO reader USING ((a = 1));\n", vec!["reader"]),
            ("CREATE POLICY p ON public.t FOR SELECT TO reader, \"W r\" USING (true);\n", vec!["reader", "W r"]),
            ("CREATE POLICY p ON t AS RESTRICTIVE FOR ALL TO a WITH CHECK (true);\n", vec!["a"]),
            ("CREATE POLICY \"p ON x TO y\" ON \"S.s\".\"t \"\" TO z\" TO r;\n", vec!["r"]),
            ("CREATE POLICY p ON public.\"t t\" USING ((note = ' TO nobody'::text));\n", vec![]),
            ("CREATE POLICY p ON public.t;\n", vec![]),
        ];
        for (sql, roles) in policies {
            assert_eq!(roles_of_policy(sql), roles, "{sql}");
        }
        let mapped = |name| user_of_mapping(&format!("CREATE USER MAPPING FOR {name} SERVER s OPTIONS (a 'b');\n"));
        assert_eq!(
            (mapped("app"), mapped("\"A p\""), mapped("public")),
            (Some("app".into()), Some("A p".into()), None)
        );
    }

    #[test]
    fn each_way_of_lacking_a_role_has_its_own_next_step() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let (known, own) = (set(&["me", "other"]), set(&["me"]));
        let said = |owners: &[&str], granted: &[&str], bound: &[&str]| {
            let needed = Needed { owners: set(owners), granted: set(granted), bound: set(bound) };
            judged(&needed, &known, &own).unwrap_or_else(|why| why)
        };
        assert_eq!(said(&[], &[], &[]), "none are needed");
        assert_eq!(said(&["me"], &["other"], &["other"]), "2 are here");
        assert!(said(&["me"], &["gone"], &[]).contains("gone are not here: make them, or leave them out"));
        assert!(said(&["other"], &[], &[]).contains("nothing can be given to other"));
        assert!(said(&["gone"], &[], &["bound"]).contains("bound are not here, and policies"));
    }
}
