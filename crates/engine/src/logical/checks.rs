//! What is looked at before a load changes anything: each item is asked of the server, none is assumed.

use std::collections::BTreeSet;
use std::path::PathBuf;

use asof_postgres::archive::plain::{Ending, PlainScanner, Reach};
use asof_postgres::archive::toc::{Entry, Toc};
use asof_postgres::client::{Connection, ErrorKind};
use asof_postgres::version::Major;
use asof_world::{World, planted};

use super::chosen::Chosen;
use super::clients::Client;
use super::load::LoadRequest;
use super::origin::Origin;
use super::roles;
use super::target::{Existing, NAME_LEN, Policy, describe, exists, in_database};
use crate::error::{Error, Result, in_one_line};
use crate::server::Server;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// What was found, or why the load cannot succeed.
    pub result: Result<String, String>,
}

impl Finding {
    pub(super) fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, result: Ok(found.into()) }
    }

    pub(super) fn failed(what: &'static str, why: impl Into<String>) -> Self {
        Self { what, result: Err(why.into()) }
    }
}

/// What is to be loaded where.
pub(super) struct Subject<'a> {
    pub(super) world: &'a World,
    pub(super) origin: &'a Origin,
    pub(super) server: &'a Server,
    pub(super) request: &'a LoadRequest,
    pub(super) major: Major,
    pub(super) client: &'a Client,
    pub(super) chosen: Option<&'a Chosen>,
}

impl<'a> Subject<'a> {
    /// What will be made; nobody knows it of a script.
    fn entries(&self) -> Option<Vec<&'a Entry>> {
        let entries = self.origin.toc.as_ref()?.entries.iter();
        let is_made = |entry: &&Entry| self.chosen.is_none_or(|chosen| chosen.new.contains(&entry.dump_id));
        Some(entries.filter(is_made).collect())
    }
}

/// Refuses to go on when something was found that the load cannot survive.
pub(super) fn require(findings: &[Finding]) -> Result<()> {
    let failed: Vec<String> = findings
        .iter()
        .filter_map(|finding| Some(format!("{}: {}", finding.what, finding.result.as_ref().err()?)))
        .collect();
    match failed.as_slice() {
        [] => Ok(()),
        [only] => Err(Error::refused(format!("the dump cannot be loaded: {only}"), "nothing was changed")),
        all => {
            let what = format!("the dump cannot be loaded:\n    {}", all.join("\n    "));
            Err(Error::refused(what, "nothing was changed"))
        }
    }
}

/// Looks at everything. `connection` is to any database of the server.
pub(super) async fn all(
    subject: &Subject<'_>,
    connection: &mut Connection,
) -> Result<(Vec<Finding>, Option<Existing>)> {
    let mut findings =
        vec![Finding::ok("client", format!("{} in {}", subject.client.version, subject.client.dir.display()))];
    findings.push(versions(subject));
    let incomplete = subject.origin.incomplete();
    if !incomplete.is_empty() {
        findings.push(Finding::ok("contents", format!("INCOMPLETE: {}", incomplete.join("; "))));
    }
    let (target, existing) = target(subject, connection).await?;
    findings.push(target);
    findings.push(rights(subject, connection).await?);
    findings.extend(encoding(subject, existing.as_ref()));
    findings.push(space(subject, connection).await?);
    if let Some(entries) = subject.entries() {
        findings.push(extensions(&entries, connection).await?);
        findings.push(roles::check(subject, &entries, connection).await?);
        if !subject.request.no_tablespaces {
            findings.push(tablespaces(&entries, connection).await?);
        }
    }
    Ok((findings, existing))
}

fn versions(subject: &Subject<'_>) -> Finding {
    let made_from = subject.origin.toc.as_ref().map(|toc| toc.server_version.to_lossy());
    let made_from = made_from.or_else(|| Some(subject.origin.details.as_ref()?.database.server_version.clone()));
    let Some(version) = made_from else {
        return Finding::ok("versions", format!("a script for PostgreSQL {}", subject.major));
    };
    let major: Option<u32> = version.split(|c: char| !c.is_ascii_digit()).next().and_then(|text| text.parse().ok());
    let target = subject.major.number();
    match major {
        Some(major) if major > target => Finding::ok(
            "versions",
            format!("from {version} to the older {target}: what {target} does not know will stop the load"),
        ),
        _ => Finding::ok("versions", format!("from {version} to {target}")),
    }
}

/// That the database which is named is not there.
pub(super) fn not_there(name: &str) -> Finding {
    Finding::failed("database", format!("there is no database {name}; --new-database makes one"))
}

/// Refuses a name that no database can have. The server cuts a longer one and says so to nobody (`truncate_identifier` of scansup.c,
/// `namein` of name.c, 13 to 18), and takes that of the role for an empty one.
pub(super) fn require_name(name: &str) -> Result<()> {
    let why = match name.len() {
        0 => "a database cannot be called nothing: give it a name".to_owned(),
        len if len > NAME_LEN => {
            format!("{name} has {len} bytes, and the name of a database at most {NAME_LEN}: choose a shorter one")
        }
        _ => return Ok(()),
    };
    require(&[Finding::failed("database", why)])
}

async fn target(subject: &Subject<'_>, connection: &mut Connection) -> Result<(Finding, Option<Existing>)> {
    let (name, policy) = (&subject.request.database, subject.request.policy);
    let there = exists(connection, name).await?;
    if !there {
        let finding = match policy {
            Policy::New => Finding::ok("database", format!("{name} will be made")),
            Policy::IntoEmpty | Policy::IntoExisting | Policy::Replace => not_there(name),
        };
        return Ok((finding, None));
    }
    if policy == Policy::New {
        let why = format!("{name} exists already; choose another name, or --replace it");
        return Ok((Finding::failed("database", why), None));
    }
    let mut inside = match in_database(subject.server, name).connect().await {
        Ok(inside) => inside,
        Err(error) => {
            let why = format!("{name} cannot be entered: {}", in_one_line(error));
            return Ok((Finding::failed("database", why), None));
        }
    };
    let found = describe(&mut inside).await?;
    inside.close().await;
    let holds = format!("{name} has {} relations in {}", found.relations, in_units(found.bytes));
    let finding = match (policy, found.relations) {
        (Policy::IntoEmpty, 1..) => {
            let why = format!("{holds}; load into a --new-database, choose tables with --table, or --replace it");
            Finding::failed("database", why)
        }
        (Policy::IntoEmpty, 0) => Finding::ok("database", format!("{name} is empty")),
        (Policy::Replace, _) => Finding::ok("database", format!("{holds}; it is replaced when the load is whole")),
        _ => Finding::ok("database", holds),
    };
    Ok((finding, Some(found)))
}

/// Room where the server lies, if that is here. The original's size is known with its indexes and what it had lost to bloat, so only
/// less than the bare rows is too little for certain.
async fn space(subject: &Subject<'_>, connection: &mut Connection) -> Result<Finding> {
    let origin = subject.origin;
    let rows: u64 = origin.tables.iter().map(|table| table.bytes).sum();
    let Some(details) = &origin.details else {
        return Ok(Finding::ok("space", "nobody recorded how large it was"));
    };
    let whole = details.selection.is_everything() && subject.request.tables.is_empty();
    let taken = format!("the original took {}", in_units(details.database.size));
    // A path of the server is one of this machine when it is reached without a network.
    let sql = "SELECT setting FROM pg_settings WHERE name = 'data_directory' AND inet_server_addr() IS NULL";
    let place = connection.query(sql).await?.first().map(|row| row.required(0).map(PathBuf::from)).transpose()?;
    let free = match place {
        Some(place) => {
            let files = subject.world.files.clone();
            subject.world.blocking(move || files.space(&place)).await.ok().map(|space| space.free)
        }
        None => None,
    };
    Ok(match free {
        None => Finding::ok("space", format!("the server's disk cannot be seen from here; {taken}")),
        Some(free) => judged_space(free, details.database.size, rows, whole, &taken),
    })
}

fn in_units(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn judged_space(free: u64, size: u64, rows: u64, whole: bool, taken: &str) -> Finding {
    let found = format!("{} free, {taken}", in_units(free));
    match whole {
        true if free < rows.min(size) => {
            Finding::failed("space", format!("{found}, and its rows alone are {}", in_units(rows)))
        }
        true if free < size => Finding::ok("space", format!("{found}, which may be too little")),
        _ => Finding::ok("space", found),
    }
}

async fn rights(subject: &Subject<'_>, connection: &mut Connection) -> Result<Finding> {
    let sql = "SELECT rolsuper, rolcreatedb, current_user FROM pg_roles WHERE rolname = current_user";
    let row = connection.query_one(sql).await?;
    let (superuser, may_create, user) = (row.required(0)? == "t", row.required(1)? == "t", row.required(2)?.to_owned());
    Ok(match subject.request.policy {
        Policy::New | Policy::Replace if !superuser && !may_create => {
            Finding::failed("rights", format!("{user} may not make databases; ALTER ROLE {user} CREATEDB"))
        }
        _ if superuser => Finding::ok("rights", format!("{user} is a superuser")),
        _ => Finding::ok("rights", format!("{user} is no superuser: what only one may make stops the load")),
    })
}

/// Another encoding is no failure: the server converts, and refuses what it cannot.
fn encoding(subject: &Subject<'_>, existing: Option<&Existing>) -> Option<Finding> {
    let existing = existing.filter(|_| subject.request.policy != Policy::Replace)?;
    let dumped = match &subject.origin.details {
        Some(details) => details.database.encoding.clone(),
        None => subject.origin.toc.as_ref().and_then(encoding_of)?,
    };
    let found = match dumped == existing.encoding {
        true => format!("{dumped}, as the dump"),
        false => format!(
            "{} here and {dumped} in the dump: a character that {0} does not have stops the load",
            existing.encoding
        ),
    };
    Some(Finding::ok("encoding", found))
}

/// From the entry `SET client_encoding = '…';`.
fn encoding_of(toc: &Toc) -> Option<String> {
    let entry = toc.entries.iter().find(|entry| entry.desc.as_bytes() == b"ENCODING")?;
    let definition = entry.definition.as_ref()?.to_lossy();
    definition.split('\'').nth(1).map(str::to_owned)
}

async fn extensions(entries: &[&Entry], connection: &mut Connection) -> Result<Finding> {
    let wanted: BTreeSet<String> = entries
        .iter()
        .filter(|entry| entry.desc.as_bytes() == b"EXTENSION")
        .map(|entry| entry.tag.to_lossy())
        .collect();
    let known = names(connection, "SELECT name FROM pg_available_extensions").await?;
    let missing: Vec<&str> = wanted.difference(&known).map(String::as_str).collect();
    Ok(match (wanted.is_empty(), missing.as_slice()) {
        (true, _) => Finding::ok("extensions", "none are needed"),
        (false, []) => {
            let all: Vec<&str> = wanted.iter().map(String::as_str).collect();
            Finding::ok("extensions", format!("{} can be made here", all.join(", ")))
        }
        (false, missing) => Finding::failed(
            "extensions",
            format!("{} cannot be made here: install their packages on the server", missing.join(", ")),
        ),
    })
}

/// A tablespace that is missing stops a load at the first thing that lies in it.
async fn tablespaces(entries: &[&Entry], connection: &mut Connection) -> Result<Finding> {
    let wanted: BTreeSet<String> =
        entries.iter().filter_map(|entry| entry.tablespace.as_ref()).map(|name| name.to_lossy()).collect();
    let wanted: BTreeSet<String> = wanted.into_iter().filter(|name| !name.is_empty()).collect();
    let known = names(connection, "SELECT spcname FROM pg_tablespace").await?;
    let missing: Vec<&str> = wanted.difference(&known).map(String::as_str).collect();
    Ok(match missing.as_slice() {
        [] => Finding::ok("tablespaces", "all are here"),
        missing => Finding::failed(
            "tablespaces",
            format!("{} are not here: make them, or leave them out with --no-tablespaces", missing.join(", ")),
        ),
    })
}

pub(super) async fn names(connection: &mut Connection, sql: &str) -> Result<BTreeSet<String>> {
    match connection.query(sql).await {
        Ok(rows) => {
            let name = |row: &asof_postgres::client::Row| Ok(row.required(0)?.to_owned());
            rows.iter().map(name).collect()
        }
        Err(error) if error.kind() == ErrorKind::Denied => Ok(BTreeSet::new()),
        Err(error) => Err(error.into()),
    }
}

/// Refuses what does more than fill one database, before psql has all of it; in one transaction also what would end that.
pub(super) fn script_stays_inside(name: &str, scanner: &PlainScanner, at_once: bool) -> Result<()> {
    if let Some(Reach { what, at }) = scanner.beyond().filter(|_| !planted("l5")) {
        let what = format!("{name} reaches beyond the database that is loaded: {what}, before byte {at}");
        return Err(Error::refused(
            what,
            "nothing of it was kept; dump one database, without --create, or run it with psql on an instance that may be lost",
        ));
    }
    if let Some(Reach { what, at }) = scanner.transaction().filter(|_| at_once) {
        let what = format!(
            "{name} has transactions of its own ({what}, before byte {at}), as scripts with large objects have"
        );
        return Err(Error::refused(
            what,
            "nothing of it was kept; load it into a --new-database, where it need not be one transaction, or --replace this one",
        ));
    }
    Ok(())
}

/// Whether a script that `pg_dump` wrote came to its end. One of somebody else has no mark that could tell. Returns what its last
/// statement lacks.
pub(super) fn script_is_whole(name: &str, scanner: PlainScanner) -> Result<&'static str> {
    let script = scanner.finish();
    if script.scope.is_some() && script.ending != Ending::Complete {
        return Err(Error::damaged(
            format!("{name} is cut off: what pg_dump writes at the end is missing"),
            "nothing of it was kept; take another copy of it, or dump again",
        ));
    }
    // Behind a COPY, psql 18 takes a semicolon alone for the end of everything.
    Ok(if script.ending == Ending::InsideStatement { ";\n" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_less_room_than_the_bare_rows_take_is_too_little_for_certain() {
        let is_enough = |free, size, rows, whole| judged_space(free, size, rows, whole, "it took much").result.is_ok();
        assert!(!is_enough(99 << 20, 300 << 20, 100 << 20, true));
        assert!(is_enough(100 << 20, 300 << 20, 100 << 20, true), "bloat does not come along");
        assert!(is_enough(99 << 20, 80 << 20, 100 << 20, true), "text may be longer than what it says");
        assert!(is_enough(1, 300 << 20, 100 << 20, false), "nobody knows what chosen tables take");
        let said = judged_space(200 << 20, 300 << 20, 100 << 20, true, "it took much").result;
        assert_eq!(said, Ok("200 MiB free, it took much, which may be too little".to_owned()));
    }
}
