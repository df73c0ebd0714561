//! Loads: the procedure.
//!
//! 1. everything that can be known is checked, and listed: nothing is changed before all of it holds;
//! 2. a new database is made under a name that says that it is being loaded; into one that stays everything goes in one
//!    transaction;
//! 3. `pg_restore` or `psql` reads the dump from a pipe, and stops at the first error;
//! 4. statistics are gathered, and the database gets its name.
//!
//! Whatever fails before the last step leaves the server as it was.

use std::ffi::OsString;
use std::time::Duration;

use asof_postgres::archive::plain::PlainScanner;
use asof_postgres::client::Connection;
use asof_postgres::version::Major;
use asof_repository::lineage::Lineage;
use asof_world::World;
use aws_lc_rs::digest::{Context as Sha, SHA256};
use futures::future::{BoxFuture, join};

use super::checks::{self, Finding, Subject};
use super::chosen::{self, Chosen, Conflict};
use super::clients::{Client, Clients};
use super::dump::until;
use super::feed::{feed, feed_from, feed_watched, finished};
use super::origin::{Origin, Place};
use super::parallel_load;
use super::program::{Input, Link, Output};
use super::properties;
use super::psql::Psql;
use super::said::tell;
use super::tables;
use super::target::{Existing, Like, Policy, Scaffold, exists, explained, in_database};
use super::verify::whole;
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};
use crate::server::{self, Identity, Server, check_identity};

/// The first `pg_dump` whose archives set `transaction_timeout`, which older servers do not know (`_doSetFixedOutputState` in
/// pg_backup_archiver.c, 17).
const SETS_TRANSACTION_TIMEOUT: u32 = 17;

/// `ERRCODE_UNDEFINED_DATABASE` (errcodes.txt).
const UNDEFINED_DATABASE: &str = "3D000";

/// How much of a script is its head.
const HEAD_LEN: usize = 64 << 10;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// The database.
    pub database: String,
    /// What becomes of one that is there.
    pub policy: Policy,
    /// Leave owners as whoever loads.
    pub no_owner: bool,
    /// Leave out privileges.
    pub no_privileges: bool,
    /// Leave out tablespaces.
    pub no_tablespaces: bool,
    /// Processes that load at once.
    pub jobs: usize,
    /// Only these tables, with what belongs to them; everything when there are none.
    pub tables: Vec<String>,
    /// What happens to tables that exist.
    pub conflict: Conflict,
    /// Let no trigger of tables that exist run.
    pub disable_triggers: bool,
    /// The locale of a new database instead of that of the dump.
    pub locale: Option<String>,
    /// Gather statistics afterwards.
    pub analyze: bool,
}

impl LoadRequest {
    /// Everything, with owners and privileges, by one process.
    #[must_use]
    pub fn new(database: &str, policy: Policy) -> Self {
        Self {
            database: database.to_owned(),
            policy,
            no_owner: false,
            no_privileges: false,
            no_tablespaces: false,
            jobs: 1,
            tables: Vec::new(),
            conflict: Conflict::Fail,
            disable_triggers: false,
            locale: None,
            analyze: true,
        }
    }
}

/// What was done.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// The database.
    pub database: String,
    /// Tables of which data was loaded; unknown of a script.
    pub tables: Option<u64>,
    /// Bytes that the program read.
    pub bytes: u64,
    /// What the programs remarked.
    pub remarks: Vec<String>,
    /// How long it took.
    pub elapsed: Duration,
}

/// A load of which everything is known.
pub struct LoadPlan {
    pub(super) world: World,
    pub(super) origin: Origin,
    /// To a database that is not the one that is loaded, where that is made.
    server: Server,
    pub(super) client: Client,
    major: Major,
    identity: Identity,
    pub(super) request: LoadRequest,
    like: Like,
    /// What was looked at, and what was found.
    pub findings: Vec<Finding>,
    chosen: Option<Chosen>,
    /// The database that is there, if one is.
    pub existing: Option<Existing>,
}

impl LoadPlan {
    /// Finds out everything that decides whether the load can succeed. Nothing is changed.
    ///
    /// `server` names a database that exists; it may be the one to load into.
    pub async fn make(
        world: &World,
        clients: &Clients,
        origin: Origin,
        server: &Server,
        request: LoadRequest,
    ) -> Result<Self> {
        refuse_idle_options(&origin, &request)?;
        checks::require_name(&request.database)?;
        let server = server.known_as("asof-load");
        let mut connection = entered(&server, &request).await?;
        let contact = server::contact(&mut connection).await?;
        let client = clients.to_load(origin.maker(), contact.major)?.clone();
        let like = like(&origin, &request, contact.major);
        let exists = exists(&mut connection, &request.database).await?;
        let chosen = chosen(&origin, &server, &request, exists).await?;
        let subject = Subject {
            world,
            origin: &origin,
            server: &server,
            request: &request,
            major: contact.major,
            client: &client,
            chosen: chosen.as_ref(),
        };
        let (mut findings, existing) = checks::all(&subject, &mut connection).await?;
        let identity = Identity::ask(&mut connection, &contact).await?;
        connection.close().await;
        findings.extend(chosen.iter().flat_map(|chosen| chosen.findings.clone()));
        let (world, major) = (world.clone(), contact.major);
        Ok(Self { world, origin, server, client, major, identity, request, like, findings, chosen, existing })
    }

    /// Refuses to go on when something was found that the load cannot survive.
    ///
    /// # Errors
    /// `Refused`, with everything that was found.
    pub fn require(&self) -> Result<()> {
        checks::require(&self.findings)
    }

    /// Why the dump is not a whole database.
    #[must_use]
    pub fn incomplete(&self) -> Vec<String> {
        self.origin.incomplete()
    }

    /// Refuses another server than the one that was registered (hazard D1): for what takes something away. Elsewhere a dump may
    /// go to a server that has taken the place of a lost one.
    ///
    /// # Errors
    /// `Refused`, with what differs.
    pub fn check_server(&self, instance: &str, lineage: &Lineage) -> Result<()> {
        check_identity(instance, lineage, &self.identity).map(drop)
    }
}

/// A script is run as it stands.
fn refuse_idle_options(origin: &Origin, request: &LoadRequest) -> Result<()> {
    let options = [
        (request.no_owner, "--no-owner"),
        (request.no_privileges, "--no-privileges"),
        (request.no_tablespaces, "--no-tablespaces"),
    ];
    let idle: Vec<&str> = options.into_iter().filter(|(given, _)| *given).map(|(_, name)| name).collect();
    if idle.is_empty() || !origin.is_script() {
        return Ok(());
    }
    let what = format!("{} is a script, of which {} can leave nothing out", origin.name, idle.join(" and "));
    Err(Error::refused(what, "dump it so, or in --format custom; or leave the options out"))
}

/// A connection to the server. Where that is by the database to load into, one that is not there is missed here already.
async fn entered(server: &Server, request: &LoadRequest) -> Result<Connection> {
    server.connect().await.or_else(|error| {
        let Error::Client(client) = &error else { return Err(error) };
        let is_missing = client.server_error().is_some_and(|error| error.code == UNDEFINED_DATABASE);
        if is_missing && server.config.dbname == request.database {
            checks::require(&[checks::not_there(&request.database)])?;
        }
        Err(error)
    })
}

/// The tables that are asked for, and what the target has of them.
async fn chosen(origin: &Origin, server: &Server, request: &LoadRequest, exists: bool) -> Result<Option<Chosen>> {
    if request.tables.is_empty() {
        return refuse_rows_only(origin).map(|()| None);
    }
    let toc = origin.toc.as_ref().ok_or_else(|| {
        let kind = if origin.is_script() { "a script" } else { "a tar archive" };
        let what = format!("{} is {kind}, from which no tables can be chosen", origin.name);
        Error::refused(what, "load it into a --new-database, and take the tables from there with `asof dump --table`")
    })?;
    if request.policy != Policy::IntoExisting || !exists {
        return chosen::choose(toc, &request.tables, request.conflict, None).await.map(Some);
    }
    let mut inside = in_database(server, &request.database).connect().await?;
    let chosen = chosen::choose(toc, &request.tables, request.conflict, Some(&mut inside)).await;
    inside.close().await;
    chosen.map(Some)
}

/// Rows without tables fit only into tables that are there, and somebody has to say into which.
fn refuse_rows_only(origin: &Origin) -> Result<()> {
    let recorded = origin.details.as_ref().is_some_and(|details| details.selection.data_only);
    let hint = match &origin.toc {
        Some(toc) if chosen::has_rows_only(toc) => {
            "choose tables with --table, and name a database that has them with --into"
        }
        None if recorded => "it is a script: give it to psql, in a database that has its tables",
        _ => return Ok(()),
    };
    Err(Error::refused(format!("{} has rows only, and no tables for them", origin.name), hint))
}

fn like(origin: &Origin, request: &LoadRequest, major: Major) -> Like {
    let mut like = match &origin.details {
        Some(details) => Like::recorded(&details.database, major.number()),
        None => origin.toc.as_ref().map_or_else(Like::default, Like::of_archive),
    };
    if let Some(locale) = &request.locale {
        like.locale = ["LC_COLLATE", "LC_CTYPE"].map(|key| (key.to_owned(), locale.clone())).into();
    }
    like
}

/// Loads, unless `cancelled` completes before.
///
/// # Errors
/// `Refused` if a check failed, `Program` with what the program said, `Interrupted`. The server is as it was then.
pub async fn load(plan: &LoadPlan, cancelled: BoxFuture<'static, ()>, observer: &dyn Observer) -> Result<LoadReport> {
    let began = plan.world.monotonic();
    plan.require()?;
    let result = match plan.request.policy {
        Policy::New | Policy::Replace => into_new(plan, cancelled, observer).await,
        Policy::IntoEmpty | Policy::IntoExisting => {
            until(cancelled, run(plan, &plan.request.database, true, observer)).await
        }
    };
    let (bytes, remarks) = result?;
    if plan.request.disable_triggers && plan.chosen.as_ref().is_none_or(Chosen::is_all_new) {
        observer.event(Event::Warning("--disable-triggers changed nothing: no table was there before".to_owned()));
    }
    let tables = plan.origin.toc.as_ref().map(|toc| {
        let with_rows = toc.entries.iter().filter(|entry| entry.is_table_data());
        with_rows.filter(|entry| plan.chosen.as_ref().is_none_or(|chosen| chosen.loads(entry))).count() as u64
    });
    let elapsed = plan.world.monotonic() - began;
    Ok(LoadReport { database: plan.request.database.clone(), tables, bytes, remarks, elapsed })
}

async fn into_new(
    plan: &LoadPlan,
    cancelled: BoxFuture<'static, ()>,
    observer: &dyn Observer,
) -> Result<(u64, Vec<String>)> {
    let scaffold = Scaffold::create(&plan.world, &plan.server, &plan.request.database, &plan.like).await;
    let scaffold = scaffold.map_err(|error| explained(error, &plan.like))?;
    let loading = async {
        let (bytes, mut remarks) = run(plan, &scaffold.name, false, observer).await?;
        remarks.extend(apply_properties(plan, &scaffold.name).await?);
        Ok((bytes, remarks))
    };
    let named = match until(cancelled, loading).await {
        Ok((bytes, mut remarks)) => {
            observer.event(Event::Phase("naming the database"));
            scaffold.finish(plan.request.policy == Policy::Replace).await.map(|left| {
                remarks.extend(left);
                (bytes, remarks)
            })
        }
        Err(error) => Err(error),
    };
    match named {
        Ok(done) => Ok(done),
        Err(error) => {
            // The reason counts for more than whether clearing up works; what is left says by its name what it is.
            let name = scaffold.name.clone();
            if let Err(left) = scaffold.abandon().await {
                observer.event(Event::Warning(format!("{name} is left behind, half loaded: drop it by hand ({left})")));
            }
            Err(error)
        }
    }
}

/// A database that is replaced hands its settings and privileges on; a new one gets those of the dump. Returns what is remarked.
async fn apply_properties(plan: &LoadPlan, name: &str) -> Result<Vec<String>> {
    let (request, replaces) = (&plan.request, plan.request.policy == Policy::Replace);
    if plan.origin.toc.is_none() && !replaces {
        return Ok(vec![plan.origin.without_properties()]);
    }
    let mut connection = plan.server.connect().await?;
    let properties = match plan.origin.toc.as_ref().filter(|_| !replaces) {
        Some(toc) => properties::of_archive(toc, name, !request.no_owner, !request.no_privileges),
        None => properties::of_existing(&mut connection, &request.database, name).await?,
    };
    let applied = properties.apply(&mut connection, name, &request.database).await;
    connection.close().await;
    applied
}

/// Whether programs open the files of the dump by themselves, or stop before its end, so that nothing passes by us that could be
/// held against what was recorded of it.
fn passes_us_by(plan: &LoadPlan, at_once: bool) -> bool {
    match &plan.origin.place {
        Place::Stored(_) => false,
        Place::Directory(_) => true,
        Place::File { recipe, .. } => {
            plan.chosen.is_some() || plan.jobs() > 1 && !at_once && recipe.is_seekable() || plan.is_older_server()
        }
    }
}

/// Why one process loads although several were asked for.
fn why_alone(plan: &LoadPlan, at_once: bool) -> Option<&'static str> {
    match &plan.origin.place {
        _ if plan.jobs() == 1 => None,
        _ if plan.origin.is_script() => Some("a script is read by one session"),
        _ if plan.chosen.is_some() => Some("chosen tables are loaded in one transaction"),
        _ if at_once => Some("a database that exists is loaded in one transaction"),
        _ if plan.is_older_server() => Some("these client programs load into a server before 17 by a script"),
        Place::File { recipe, .. } if !recipe.is_seekable() => {
            Some("only pg_dump's custom and directory formats can be sought in")
        }
        _ => None,
    }
}

/// Reads the dump into a database; all of it or nothing where `at_once`.
async fn run(plan: &LoadPlan, database: &str, at_once: bool, observer: &dyn Observer) -> Result<(u64, Vec<String>)> {
    let server = in_database(&plan.server, database);
    let mut connection = server.connect().await?;
    let link = Link::of(&server, &connection)?;
    if plan.origin.details.is_some() && !plan.origin.was_read && passes_us_by(plan, at_once) {
        whole(&plan.origin, observer).await?;
    }
    observer.event(Event::Phase("loading"));
    plan.origin.len().await?.into_iter().for_each(|len| observer.event(Event::Expect(len)));
    let (bytes, mut remarks) = match &plan.chosen {
        Some(chosen) => tables::load(plan, &link, chosen, &mut connection, observer).await?,
        None => everything(plan, &link, at_once, observer).await?,
    };
    remarks.extend(why_alone(plan, at_once).map(|why| format!("--jobs changed nothing: {why}")));
    if plan.request.analyze {
        // What is loaded is loaded: without statistics queries are slow, and nothing is wrong.
        remarks.extend(
            analyze(&mut connection, observer).await.err().map(|error| {
                format!("statistics were not gathered ({error}): run ANALYZE in {}", plan.request.database)
            }),
        );
    }
    connection.close().await;
    Ok((bytes, remarks))
}

async fn everything(
    plan: &LoadPlan,
    link: &Link,
    at_once: bool,
    observer: &dyn Observer,
) -> Result<(u64, Vec<String>)> {
    match (&plan.origin.place, plan.origin.is_script()) {
        (_, true) => script(plan, link, at_once, observer).await,
        _ if plan.is_older_server() => by_script(plan, link, at_once, observer).await,
        (Place::Directory(path), _) => directory(plan, link, path, at_once, observer).await,
        (Place::Stored(dump), _) if plan.jobs() > 1 && !at_once => {
            let toc = plan.origin.toc.as_ref().expect("an archive has one");
            parallel_load::load(plan, link, dump, toc, observer).await
        }
        (Place::File { path, recipe }, _) if plan.jobs() > 1 && !at_once && recipe.is_seekable() => {
            directory(plan, link, path, at_once, observer).await
        }
        (_, false) => archive(plan, link, at_once, observer).await,
    }
}

/// Without statistics the first queries are planned as if all tables were empty.
async fn analyze(connection: &mut Connection, observer: &dyn Observer) -> Result<()> {
    observer.event(Event::Phase("gathering statistics"));
    connection.execute("ANALYZE").await?;
    Ok(())
}

impl LoadPlan {
    /// Whether the server is older than what the programs write for it.
    fn is_older_server(&self) -> bool {
        self.client.major >= SETS_TRANSACTION_TIMEOUT && self.major.number() < SETS_TRANSACTION_TIMEOUT
    }

    /// The beginning of a script as the server understands it.
    pub(super) fn for_server(&self, head: Vec<u8>) -> Vec<u8> {
        if self.major.number() < SETS_TRANSACTION_TIMEOUT { without_timeout(head) } else { head }
    }

    /// Processes that load at once.
    pub(super) fn jobs(&self) -> usize {
        self.request.jobs.max(1)
    }

    pub(super) fn pg_restore(&self, at_once: bool) -> Vec<OsString> {
        let mut arguments = vec!["--exit-on-error"];
        arguments.extend(at_once.then_some("--single-transaction"));
        arguments.extend(self.request.no_owner.then_some("--no-owner"));
        arguments.extend(self.request.no_privileges.then_some("--no-privileges"));
        arguments.extend(self.request.no_tablespaces.then_some("--no-tablespaces"));
        arguments.into_iter().map(OsString::from).collect()
    }
}

/// What `pg_restore` opens by itself, several processes at once.
async fn directory(
    plan: &LoadPlan,
    link: &Link,
    path: &std::path::Path,
    at_once: bool,
    observer: &dyn Observer,
) -> Result<(u64, Vec<String>)> {
    let mut arguments = plan.pg_restore(at_once);
    let jobs = if at_once { 1 } else { plan.jobs() };
    arguments.extend((jobs > 1).then(|| format!("--jobs={jobs}").into()));
    arguments.push(path.into());
    let (running, said) = link.start_verbose(&plan.world, &plan.client, "pg_restore", arguments).await?;
    let sizes = plan.origin.tables.iter().map(|table| ((table.schema.as_str(), table.name.as_str()), table.bytes));
    let ((), remarks) = join(tell(said, sizes, jobs, observer), running.end()).await;
    Ok((0, remarks?))
}

async fn archive(plan: &LoadPlan, link: &Link, at_once: bool, observer: &dyn Observer) -> Result<(u64, Vec<String>)> {
    let arguments = plan.pg_restore(at_once);
    let mut running = link.start(&plan.world, &plan.client, "pg_restore", arguments).await?;
    let stream = plan.origin.stream().await?;
    let fed = match plan.origin.is_proven() {
        true => feed(running.input(), stream, observer, |_| Ok(())).await,
        false => feed_watched(&plan.origin, running.input(), stream, observer).await,
    };
    finished(running, fed).await
}

/// SQL by `psql`, which does not notice a script that is cut off: what is not whole is not committed. And what reaches beyond the
/// database never gets to it.
async fn script(plan: &LoadPlan, link: &Link, at_once: bool, observer: &dyn Observer) -> Result<(u64, Vec<String>)> {
    let mut psql = Psql::start(plan, link, at_once).await?;
    let mut scanner = PlainScanner::new();
    let mut stream = plan.origin.stream().await?;
    let mut head = stream.next().await?;
    // It counts as it was, not as psql reads it.
    let (mut sha, mut is_head) = (Sha::new(&SHA256), true);
    head.iter().for_each(|head| sha.update(head));
    head = head.map(|head| plan.for_server(head.into()).into());
    let look = |piece: Option<&[u8]>| {
        scanner.push(piece.unwrap_or_default());
        if !std::mem::take(&mut is_head) {
            sha.update(piece.unwrap_or_default());
        }
        checks::script_stays_inside(&plan.origin.name, &scanner, at_once)
    };
    let fed = feed_from(head, psql.running.input(), stream, observer, look).await;
    let mut last = "";
    let whole = fed.and_then(|total| match total {
        None => Ok(None),
        Some(_) => {
            last = checks::script_is_whole(&plan.origin.name, scanner)?;
            plan.origin.prove("sql", &hex::encode(sha.finish()))?;
            Ok(total)
        }
    });
    psql.end_with(last, whole).await
}

/// An archive for a server that does not know one of the settings with which `pg_restore` begins: as SQL without it.
async fn by_script(plan: &LoadPlan, link: &Link, at_once: bool, observer: &dyn Observer) -> Result<(u64, Vec<String>)> {
    // It writes BEGIN and COMMIT itself then, and none around large objects.
    let mut arguments = plan.pg_restore(at_once);
    arguments.push("--file=-".into());
    arguments.extend(plan.origin.directory().map(Into::into));
    let mut restore = link.start_offline(&plan.world, &plan.client, "pg_restore", arguments).await?;
    let mut psql = Psql::start(plan, link, false).await?;
    let (mut input, output) = restore.take_pipes();
    let mut scanner = PlainScanner::new();
    let stream = if plan.origin.directory().is_some() { None } else { Some(plan.origin.stream().await?) };
    let feeding = async move {
        match stream {
            Some(stream) => feed(&mut input, stream, observer, |_| Ok(())).await,
            None => Ok(Some(0)),
        }
    };
    let (fed, passed) = join(feeding, pass_on(plan, output, psql.running.input(), &mut scanner)).await;
    let restored = restore.end().await;
    let whole = match (fed, passed) {
        // psql stopped reading: its end says why.
        (_, Ok(false)) => Ok(None),
        (Ok(total), Ok(true)) => {
            restored.and_then(|_| checks::script_is_whole(&plan.origin.name, scanner)).map(|_| total)
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    psql.end(whole).await
}

/// Hands SQL from one program to another; false when the other does not read any more.
async fn pass_on(plan: &LoadPlan, mut output: Output, input: &mut Input, scanner: &mut PlainScanner) -> Result<bool> {
    let mut first = true;
    loop {
        let mut piece = output.read(Vec::new()).await?;
        if piece.is_empty() {
            return Ok(true);
        }
        if std::mem::take(&mut first) {
            piece = plan.for_server(piece);
        }
        scanner.push(&piece);
        if !input.write(piece.into()).await? {
            return Ok(false);
        }
    }
}

/// Takes the one line out that older servers refuse. It stands among the first.
fn without_timeout(script: Vec<u8>) -> Vec<u8> {
    const LINE: &[u8] = b"\nSET transaction_timeout = 0;\n";
    match script.windows(LINE.len()).take(HEAD_LEN).position(|window| window == LINE) {
        None => script,
        Some(at) => [&script[..at], &script[at + LINE.len() - 1..]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_older_servers_refuse_is_taken_out_of_the_head_only() {
        let head = b"SET lock_timeout = 0;\nSET transaction_timeout = 0;\nSET x = 1;\n".to_vec();
        assert_eq!(without_timeout(head), b"SET lock_timeout = 0;\nSET x = 1;\n");
        let data = [vec![b'x'; HEAD_LEN + 1], b"\nSET transaction_timeout = 0;\n".to_vec()].concat();
        assert_eq!(without_timeout(data.clone()), data);
    }
}
