//! Servers that hand out no files: who they are is known only from what they say by SQL.
//!
//! Their lineage is registered with the fact `files` = false, and only logical backups are made of it. What they say is
//! compared on each contact, as the facts of others are (hazard D1), with one difference: a dump can be loaded into any later
//! major, so an upgrade to a newer major, which gives the server another system identifier (pg_upgrade runs `initdb`), goes
//! on in the same lineage. What counts is therefore what the newest logical backup recorded.

use std::collections::BTreeMap;

use asof_postgres::client::Connection;
use asof_repository::lineage::{Lineage, Method};
use asof_world::planted;
use serde_json::{Value, json};

use super::{Contact, check_facts, managed_service, system_identifier};
use crate::error::{Error, Result};

/// The fact that says whether the server hands out its files. Where it is missing, it does.
const FILES: &str = "files";
/// The fact that names the managed service, or [`NO_SERVICE`].
const SERVICE: &str = "service";
const NO_SERVICE: &str = "none";

/// What a server says of itself by SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its major.
    pub major: u32,
    /// The server's own identifier; `None` when it may not be asked.
    pub system_identifier: Option<u64>,
    /// The managed service that it belongs to.
    pub service: Option<&'static str>,
}

impl Identity {
    /// Asks the server behind a connection.
    pub async fn ask(connection: &mut Connection, contact: &Contact) -> Result<Self> {
        let service = managed_service(connection).await?;
        let system_identifier = system_identifier(connection).await;
        Ok(Self { major: contact.major.number(), system_identifier, service })
    }

    /// What is recorded of a server of which only logical backups are made.
    #[must_use]
    pub fn facts(&self) -> BTreeMap<String, Value> {
        let mut facts = self.known();
        facts.insert(SERVICE.to_owned(), json!(self.service.unwrap_or(NO_SERVICE)));
        facts.insert(FILES.to_owned(), json!(false));
        facts
    }

    /// What every lineage records as well.
    fn known(&self) -> BTreeMap<String, Value> {
        let identifier = self.system_identifier.map(|it| ("system_identifier".to_owned(), json!(it.to_string())));
        identifier.into_iter().chain([("major".to_owned(), json!(self.major))]).collect()
    }
}

/// Whether a lineage was registered for logical backups only.
#[must_use]
pub fn is_logical_only(facts: &BTreeMap<String, Value>) -> bool {
    facts.get(FILES) == Some(&json!(false))
}

/// Refuses what needs the files or the WAL of a server that hands out neither.
///
/// # Errors
/// `Refused`, with what to do instead.
pub fn require_files(facts: &BTreeMap<String, Value>) -> Result<()> {
    if !is_logical_only(facts) {
        return Ok(());
    }
    let service = facts.get(SERVICE).and_then(Value::as_str).filter(|service| *service != NO_SERVICE);
    let of = service.map_or_else(String::new, |service| format!(" ({service})"));
    Err(Error::refused(
        format!(
            "this instance is registered for logical backups only{of}: asof has neither its files nor its WAL, and restores it to no \
             moment but those of its dumps"
        ),
        "`asof dump` backs a database up, `asof load` brings it back; a server that hands out its files is added under a name of its own",
    ))
}

/// What was last known of the server of a logical-only lineage: at its registration, or by its newest dump, kept or not.
struct LastKnown {
    major: u64,
    system_identifier: Option<String>,
    service: Option<String>,
}

impl LastKnown {
    fn of(lineage: &Lineage) -> Self {
        let text = |name: &str, from: &Value| from.get(name).and_then(Value::as_str).map(str::to_owned);
        let facts = json!(lineage.facts);
        let dumps = lineage.backups.values().filter(|state| state.backup.method == Method::Logical);
        let newest = dumps.max_by_key(|state| state.committed).map(|state| &state.backup.details);
        let seen = newest.filter(|details| details.get("major").is_some()).unwrap_or(&facts);
        Self {
            major: seen.get("major").and_then(Value::as_u64).unwrap_or(0),
            system_identifier: text("system_identifier", seen),
            service: text(SERVICE, &facts).filter(|service| service != NO_SERVICE),
        }
    }
}

/// Refuses a server that is not the one whose lineage this is, by what it says of itself (hazard D1). Returns what the operator
/// should know: that a server of which only logical backups are made was upgraded.
///
/// # Errors
/// `Refused`, with what differs.
pub fn check_identity(instance: &str, lineage: &Lineage, found: &Identity) -> Result<Option<String>> {
    if !is_logical_only(&lineage.facts) {
        return check_facts(instance, &lineage.facts, &found.known()).map(|()| None);
    }
    if planted("d1") {
        return Ok(None);
    }
    let known = LastKnown::of(lineage);
    let other = |what: &str, now: &str, before: &str| {
        let what =
            format!("this is not the server that was registered as {instance}: its {what} is {now}, not {before}");
        Err(Error::refused(what, "register it under a name of its own with `asof instance add`"))
    };
    if let (Some(now), Some(before)) = (found.service, &known.service)
        && now != before
    {
        return other("service", now, before);
    }
    let major = u64::from(found.major);
    if major < known.major {
        return other("major", &major.to_string(), &known.major.to_string());
    }
    if major > known.major {
        return Ok(Some(format!(
            "the server was PostgreSQL {} and is {major} now: taken for an upgrade of it; its dumps are loaded into {major} or newer",
            known.major
        )));
    }
    match (found.system_identifier.map(|it| it.to_string()), known.system_identifier) {
        (Some(now), Some(before)) if now != before => other("system_identifier", &now, &before),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RDS: Identity = Identity { major: 15, system_identifier: Some(7), service: Some("Amazon RDS or Aurora") };

    fn registered(identity: &Identity) -> Lineage {
        Lineage { facts: identity.facts(), registered: true, ..Lineage::default() }
    }

    #[test]
    fn hz_d1_another_server_of_the_same_major_is_refused_for_a_lineage_without_files() {
        let check = |found: Identity| check_identity("prod", &registered(&RDS), &found).map_err(|e| e.to_string());
        assert_eq!(check(RDS), Ok(None));
        assert_eq!(
            check(Identity { system_identifier: None, ..RDS }),
            Ok(None),
            "what it does not say is not held against it"
        );
        for (other, named) in [
            (Identity { system_identifier: Some(8), ..RDS }, "system_identifier is 8, not 7"),
            (Identity { major: 14, ..RDS }, "major is 14, not 15"),
            (Identity { service: Some("Google Cloud SQL"), ..RDS }, "service is Google Cloud SQL"),
        ] {
            let refused = check(other).expect_err("is refused");
            assert!(refused.contains("registered as prod") && refused.contains(named), "{refused}");
        }
    }

    #[test]
    fn an_upgrade_of_a_server_without_files_goes_on_and_is_remarked() {
        let upgraded = Identity { major: 17, system_identifier: Some(99), ..RDS };
        let remark = check_identity("prod", &registered(&RDS), &upgraded).expect("goes on").expect("is remarked");
        assert!(remark.contains("was PostgreSQL 15 and is 17 now"), "{remark}");
    }

    #[test]
    fn what_needs_files_is_refused_only_where_there_are_none() {
        let refused = require_files(&RDS.facts()).expect_err("is refused");
        assert!(refused.to_string().contains("logical backups only (Amazon RDS or Aurora)"), "{refused}");
        assert!(refused.hint().expect("a hint").contains("asof dump"));
        require_files(&BTreeMap::from([("major".to_owned(), json!(15))])).expect("has files");
        let anywhere = Identity { service: None, ..RDS };
        assert!(require_files(&anywhere.facts()).expect_err("is refused").to_string().contains("backups only: asof"));
    }
}
