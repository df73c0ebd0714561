//! Drills of dumps: the procedure.
//!
//! 1. the dump is read and decoded to its end, and held against its record;
//! 2. programs of its server's major are found on this machine, and the extensions that it needs in them: nothing has started yet;
//! 3. a throw-away server is made, with the roles that the dump names; they can do nothing by themselves;
//! 4. the dump is loaded, measured;
//! 5. rows, keys, indexes, sequences and extensions are looked at, in the practical test also whether the contents are those of the
//!    server at the moment of the dump, then the checks that the operator wrote;
//! 6. whatever happened, the server and its files are removed.
//!
//! A dump is a program: its SQL runs as the superuser of the throw-away server, so with the rights of that server's user on this
//! machine. That is no more than a load of it into any server needs, and no reason to drill what nobody trusts.
//!
//! What is wrong with the dump is a step that failed, and the report says so. What is wrong with the machine is an error: it says
//! nothing about the dump.

mod digests;
mod report;
mod unpack;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use asof_postgres::archive::plain::Reach;
use asof_postgres::archive::toc::Toc;
use asof_postgres::conninfo::Environment;
use asof_postgres::version::Major;
use asof_repository::lineage::{Backup, BackupKind, Entry};
use asof_world::{Timestamp, World};
use futures::future::{BoxFuture, Either, pending, select};
use serde_json::Value;

use super::clients::Clients;
use super::dump::{Destination, DumpRequest, Plan, dump_as_planned};
use super::examine::Examined;
use super::load::{LoadPlan, LoadRequest, load};
use super::origin::Origin;
use super::proof::{self, Found};
use super::record::{Format, Selection, TableRecord};
use super::sql_check::{self, CheckResult, SqlCheck};
use super::target::Policy;
use super::verify::{is_damage, remarks, whole};
use crate::error::{Error, Result, in_one_line};
use crate::progress::{Event, Observer};
use crate::runtime::{Binaries, Scratch, ScratchSpec, ServerUser, find_binaries};
use crate::shelf::Shelf;

pub use report::{DrillReport, Step};
pub use unpack::{Unpacked, unpack};

/// The database in the throw-away server.
const DATABASE: &str = "asof_drill";

/// What is asked for.
#[derive(Clone)]
pub struct DrillRequest {
    /// The directory of the throw-away server; it must not exist, and is removed.
    pub directory: PathBuf,
    /// Where the server's programs are; found where it is absent.
    pub bindir: Option<PathBuf>,
    /// The content of `PATH`.
    pub path_variable: Option<String>,
    /// Who the server runs as; chosen where it is absent.
    pub user: Option<String>,
    /// What client programs may ask of this machine.
    pub environment: Environment,
    /// Processes that load at once.
    pub jobs: usize,
    /// A locale that this machine has, instead of that of the dump.
    pub locale: Option<String>,
    /// What must be true of the database, besides what every drill looks at.
    pub checks: Vec<SqlCheck>,
}

/// What is drilled.
pub enum Subject {
    /// A dump that is there.
    Dump(Box<Origin>),
    /// A dump that is made for it, of the database that was planned.
    Practical(Box<Plan>),
}

/// Loads a dump into a throw-away server and looks at it, unless `cancelled` completes before. Nothing of the server is left.
///
/// # Errors
/// `Refused` when this machine cannot drill it: no programs, no extension. `Interrupted`. `Files` when something could not be
/// removed. That the dump failed is no error, but stands in the report.
pub async fn drill(
    world: &World,
    clients: &Clients,
    subject: Subject,
    request: &DrillRequest,
    cancelled: BoxFuture<'_, ()>,
    observer: Arc<dyn Observer>,
) -> Result<DrillReport> {
    let began = world.monotonic();
    let mut drill = Drill::new(world, clients, request, observer.clone());
    let done = match select(Box::pin(drill.run(subject)), cancelled).await {
        Either::Left((done, _)) => done,
        Either::Right(((), _)) => Err(Error::Interrupted),
    };
    let removed = drill.clear_up().await;
    let Drill { mut report, .. } = drill;
    report.total_ms = millis(world.monotonic() - began);
    match done {
        Ok(()) => {}
        Err(error) if report.steps.last().is_some_and(|step| !step.ok) && !matches!(error, Error::Interrupted) => {
            report.damaged = is_damage(&error);
        }
        Err(error) => {
            // The reason counts for more; what is left is named by the next drill, too.
            if let Err(left) = removed {
                let place = request.directory.display();
                observer.event(Event::Warning(format!("{place} is left behind: {}", in_one_line(&left))));
            }
            return Err(error);
        }
    }
    removed?;
    report.passed = report.steps.iter().all(|step| step.ok) && report.checks.iter().all(|check| check.ok);
    Ok(report)
}

/// As [`drill`], of a backup in the repository; what was found is recorded in the journal.
///
/// # Errors
/// As [`drill`].
pub async fn drill_stored(
    shelf: &Shelf,
    backup: &Backup,
    clients: &Clients,
    request: &DrillRequest,
    cancelled: BoxFuture<'_, ()>,
    observer: Arc<dyn Observer>,
) -> Result<DrillReport> {
    let opened = Origin::stored(shelf, backup).await;
    let report = match opened {
        Ok(origin) => {
            let subject = Subject::Dump(Box::new(origin));
            drill(&shelf.world, clients, subject, request, cancelled, observer).await?
        }
        Err(error) if is_damage(&error) => DrillReport {
            dump: backup.name.clone(),
            steps: vec![Step { what: "read".to_owned(), ok: false, found: in_one_line(&error), elapsed_ms: 0 }],
            major: backup.details.get("major").and_then(Value::as_u64).and_then(|it| it.try_into().ok()).unwrap_or(0),
            damaged: true,
            ..DrillReport::default()
        },
        Err(error) => return Err(error),
    };
    let mut journal = shelf.journal().await?;
    let entry = Entry::Drilled {
        backup: backup.id,
        ok: report.passed,
        report: report.bounded(),
        elapsed_ms: report.total_ms,
        loaded_into: report.major,
    };
    journal.append(journal.state().epoch, entry).await?;
    Ok(report)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A drill that runs.
struct Drill<'a> {
    world: &'a World,
    clients: &'a Clients,
    request: &'a DrillRequest,
    observer: Arc<dyn Observer>,
    report: DrillReport,
    scratch: Option<Scratch>,
}

/// What is known of a dump that is loaded.
struct Loaded {
    tables: Vec<TableRecord>,
    /// Extensions and their versions, where they were recorded.
    extensions: BTreeMap<String, String>,
    examined: Examined,
    made: Option<Timestamp>,
    /// Of the practical test: what was dumped, its snapshot held.
    original: Option<Box<Plan>>,
}

impl<'a> Drill<'a> {
    fn new(world: &'a World, clients: &'a Clients, request: &'a DrillRequest, observer: Arc<dyn Observer>) -> Self {
        Self { world, clients, request, observer, report: DrillReport::default(), scratch: None }
    }

    async fn run(&mut self, subject: Subject) -> Result<()> {
        let Loaded { tables, extensions, examined, made, original } = self.loaded(subject).await?;
        self.look(&tables, extensions, &examined).await?;
        if let Some(original) = original {
            self.compare(&original, examined.toc.as_ref()).await?;
            original.close().await;
        }
        self.check(made).await
    }

    /// Everything up to a server that holds the dump.
    async fn loaded(&mut self, subject: Subject) -> Result<Loaded> {
        if let Subject::Practical(plan) = &subject {
            // Also when there will be no dump.
            self.report.dump.clone_from(&plan.database().name);
            self.report.database = Some(plan.database().name.clone());
        }
        let (mut origin, original) = match subject {
            Subject::Dump(origin) => (*origin, None),
            Subject::Practical(mut plan) => (self.made(&mut plan).await?, Some(plan)),
        };
        self.report.dump.clone_from(&origin.name);
        let recorded = origin.details.as_ref().map(|details| details.database.name.clone());
        self.report.database = recorded.or_else(|| origin.toc.as_ref().map(|toc| toc.database.to_lossy()));
        let examined = self.read(&origin).await?;
        origin.was_read = true;
        self.report.remarks.extend(remarks(&origin, &examined));
        refuse_what_is_no_database(&origin, &examined)?;
        if self.scratch.is_none() {
            let binaries = self.programs(dumped_major(&origin, &examined), &needed(&origin, &examined)).await?;
            self.make(binaries).await?;
        }
        self.start(&examined).await?;
        let tables = match origin.details.is_some() && !origin.tables.is_empty() {
            true => origin.tables.clone(),
            false => examined.tables.clone(),
        };
        let extensions = origin.details.as_ref().map(|details| details.database.extensions.clone()).unwrap_or_default();
        let made = origin.made;
        self.load(origin).await?;
        Ok(Loaded { tables, extensions, examined, made, original })
    }

    /// A dump of the planned database, in the directory of the drill.
    async fn made(&mut self, plan: &mut Plan) -> Result<Origin> {
        let needed: Vec<String> = plan.database().extensions.keys().cloned().collect();
        let binaries = self.programs(plan.identity.major, &needed).await?;
        self.make(binaries).await?;
        let began = self.world.monotonic();
        let request = DumpRequest {
            name: String::new(),
            kind: BackupKind::Manual,
            tags: Default::default(),
            format: Format::Custom,
            selection: Selection::default(),
            // It is thrown away: time counts for more than space.
            compress: Some("1".to_owned()),
            globals: false,
            jobs: 1,
        };
        let path = self.request.directory.join("dump");
        // Whoever cancels the drill drops it.
        let cancelled = Box::pin(std::future::pending());
        let (to, observer) = (Destination::File(path.clone()), self.observer.clone());
        let done = dump_as_planned(plan, &request, &to, cancelled, observer).await;
        let done = done.map(|report| {
            self.report.remarks.extend(report.remarks);
            let rows = report.details.rows.unwrap_or(0);
            format!("{} bytes, {} tables, {rows} rows", report.details.bytes, report.details.tables)
        });
        self.step("dump", began, done)?;
        let mut origin = Origin::file(self.world, &path, None).await?;
        origin.name = origin.details.as_ref().map_or_else(String::new, |details| details.database.name.clone());
        Ok(origin)
    }

    async fn read(&mut self, origin: &Origin) -> Result<Examined> {
        let began = self.world.monotonic();
        let read = whole(origin, self.observer.as_ref()).await;
        let found = read.as_ref().map(|examined| {
            let against = if origin.details.is_some() { ", held against its record" } else { "" };
            format!("{} bytes decoded{against}", examined.bytes)
        });
        match found {
            Ok(found) => self.step("read", began, Ok(found))?,
            // That the repository does not answer says nothing about the dump.
            Err(error) if is_damage(error) => self.failed("read", began, in_one_line(error)),
            Err(_) => {}
        }
        read
    }

    /// The programs of the dump's major or the next newer one that is here, with every extension that is needed.
    async fn programs(&mut self, major: u32, needed: &[String]) -> Result<Binaries> {
        self.report.major = major;
        let (mut first, bindir) = (None, self.request.bindir.as_deref());
        for candidate in Major::ALL.into_iter().filter(|candidate| candidate.number() >= major) {
            let path = self.request.path_variable.as_deref();
            match find_binaries(self.world, candidate, bindir, path).await {
                Ok(binaries) => {
                    require_extensions(&binaries, needed)?;
                    self.report.major = candidate.number();
                    self.report.server_version = Some(binaries.version.clone());
                    if candidate.number() != major {
                        let remark = format!(
                            "the dump is of PostgreSQL {major}, which is not installed here: it was loaded into {candidate}"
                        );
                        self.report.remarks.push(remark);
                    }
                    return Ok(binaries);
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        let what = format!("the dump is of PostgreSQL {major}, and neither that nor a newer one is installed here");
        let hint = match first {
            Some(error) => format!("{error}; install it (Debian: `apt install postgresql-{major}`), or name --bindir"),
            None => "this asof knows PostgreSQL up to 18".to_owned(),
        };
        Err(Error::refused(what, hint))
    }

    async fn make(&mut self, binaries: Binaries) -> Result<()> {
        let user = ServerUser::choose(self.world, self.request.user.as_deref(), None).await?;
        let spec = ScratchSpec {
            directory: self.request.directory.clone(),
            binaries,
            user,
            environment: self.request.environment.clone(),
            initdb: Vec::new(),
            settings: Vec::new(),
        };
        self.scratch = Some(Scratch::make(self.world, spec).await?);
        Ok(())
    }

    /// Makes and starts the server, with the roles that the dump names.
    async fn start(&mut self, examined: &Examined) -> Result<()> {
        let began = self.world.monotonic();
        let scratch = self.scratch.as_mut().expect("it was made before");
        scratch.preload(&examined.mentions.extensions);
        scratch.init(self.observer.as_ref()).await?;
        scratch.start(self.observer.as_ref()).await?;
        let mentions = &examined.mentions;
        let roles = proof::role_statements(&mentions.roles, &mentions.superusers);
        if !roles.is_empty() {
            let mut connection = scratch.server("postgres")?.connect().await?;
            let made = connection.execute(&roles).await;
            connection.close().await;
            made?;
        }
        let version = self.report.server_version.clone().unwrap_or_default();
        self.step("server", began, Ok(format!("PostgreSQL {version}, {} roles", mentions.roles.len())))
    }

    async fn load(&mut self, origin: Origin) -> Result<()> {
        let began = self.world.monotonic();
        let request = LoadRequest {
            // Of a script nothing can be left out.
            no_tablespaces: !origin.is_script(),
            jobs: self.request.jobs,
            locale: self.request.locale.clone(),
            ..LoadRequest::new(DATABASE, Policy::New)
        };
        let server = self.scratch.as_ref().expect("it was made before").server("postgres")?;
        let loaded = async {
            let plan = LoadPlan::make(self.world, self.clients, origin, &server, request).await?;
            load(&plan, Box::pin(pending()), self.observer.as_ref()).await
        };
        let loaded = loaded.await;
        if loaded.is_ok() {
            self.report.load_ms = Some(millis(self.world.monotonic() - began));
        }
        let found = loaded.map(|loaded| {
            self.report.remarks.extend(loaded.remarks);
            "complete, without an error".to_owned()
        });
        self.step("load", began, found)
    }

    async fn look(
        &mut self,
        tables: &[TableRecord],
        recorded: BTreeMap<String, String>,
        examined: &Examined,
    ) -> Result<()> {
        self.observer.event(Event::Phase("looking at it"));
        let server = self.scratch.as_ref().expect("it was made before").server(DATABASE)?;
        let mut connection = server.connect().await?;
        let mut named = examined.mentions.extensions.clone();
        named.extend(recorded.keys().cloned());
        let began = self.world.monotonic();
        let found = proof::rows(&mut connection, tables).await;
        self.seen("rows", began, found)?;
        let began = self.world.monotonic();
        let found = proof::foreign_keys(&mut connection).await;
        self.seen("foreign keys", began, found)?;
        let began = self.world.monotonic();
        let found = proof::indexes(&mut connection).await;
        self.seen("indexes", began, found)?;
        let began = self.world.monotonic();
        let found = proof::sequences(&mut connection).await;
        self.seen("sequences", began, found)?;
        let began = self.world.monotonic();
        let found = proof::extensions(&mut connection, &recorded, &named).await;
        self.seen("extensions", began, found)?;
        connection.close().await;
        Ok(())
    }

    async fn compare(&mut self, original: &Plan, toc: Option<&Toc>) -> Result<()> {
        let began = self.world.monotonic();
        let server = self.scratch.as_ref().expect("it was made before").server(DATABASE)?;
        let (jobs, observer) = (self.request.jobs, self.observer.clone());
        let found = digests::compared(self.world, original, toc, server, jobs, observer).await;
        self.seen("digests", began, found)
    }

    async fn check(&mut self, made: Option<Timestamp>) -> Result<()> {
        let server = self.scratch.as_ref().expect("it was made before").server(DATABASE)?;
        for check in &self.request.checks {
            if let (Some(wanted), Some(database)) = (&check.database, &self.report.database)
                && wanted != database
            {
                let remark = format!("check {} is for database {wanted}, and was not run", check.name);
                self.report.remarks.push(remark);
                continue;
            }
            let began = self.world.monotonic();
            let result = sql_check::run(&server, check, made).await;
            let elapsed_ms = millis(self.world.monotonic() - began);
            self.report.checks.push(CheckResult { elapsed_ms, ..result });
        }
        Ok(())
    }

    async fn clear_up(&mut self) -> Result<()> {
        match self.scratch.take() {
            Some(scratch) => {
                self.observer.event(Event::Phase("removing it"));
                scratch.remove().await
            }
            None => Ok(()),
        }
    }

    fn seen(&mut self, what: &str, began: Duration, found: Result<Found>) -> Result<()> {
        match found {
            Ok((true, found)) => self.step(what, began, Ok(found)),
            Ok((false, why)) => {
                self.failed(what, began, why);
                Ok(())
            }
            Err(error) => self.step(what, began, Err(error)),
        }
    }

    fn step(&mut self, what: &str, began: Duration, done: Result<String>) -> Result<()> {
        match done {
            Ok(found) => {
                let elapsed_ms = millis(self.world.monotonic() - began);
                self.report.steps.push(Step { what: what.to_owned(), ok: true, found, elapsed_ms });
                Ok(())
            }
            Err(error) => {
                // What a person needs on lines of its own: the first is what is recorded.
                let hint = error.hint().map_or_else(String::new, |hint| format!("\n{hint}"));
                self.failed(what, began, in_one_line(&error) + &hint);
                Err(error)
            }
        }
    }

    fn failed(&mut self, what: &str, began: Duration, found: String) {
        let elapsed_ms = millis(self.world.monotonic() - began);
        self.report.steps.push(Step { what: what.to_owned(), ok: false, found, elapsed_ms });
    }
}

/// What cannot be loaded into one new database says nothing about whether it is good.
fn refuse_what_is_no_database(origin: &Origin, examined: &Examined) -> Result<()> {
    if examined.script.as_ref().is_some_and(|script| script.is_cluster) {
        let what = format!("{} is of a whole instance (pg_dumpall), not of one database", origin.name);
        return Err(Error::refused(what, "drill the dumps of its databases"));
    }
    if let Some(Reach { what, at }) = examined.script.as_ref().and_then(|script| script.beyond.as_ref()) {
        let what = format!("{} reaches beyond one database: {what}, before byte {at}", origin.name);
        return Err(Error::refused(what, "drill a dump that was made without --create"));
    }
    let has = |desc: &[u8]| examined.toc.iter().flat_map(|toc| &toc.entries).any(|entry| entry.desc.as_bytes() == desc);
    if has(b"TABLE DATA") && !has(b"TABLE") || origin.details.as_ref().is_some_and(|it| it.selection.data_only) {
        let what = format!("{} has rows only, and no definitions to load them into", origin.name);
        return Err(Error::refused(what, "drill a dump that has both"));
    }
    Ok(())
}

/// The major of the server that was dumped; the oldest that is known where the dump does not say it.
fn dumped_major(origin: &Origin, examined: &Examined) -> u32 {
    let said = examined.toc.as_ref().map(|toc| toc.server_version.to_lossy());
    let said = said.or_else(|| examined.script.as_ref()?.server_version.clone());
    let number = said.and_then(|text| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
    origin.details.as_ref().map(|details| details.major).or(number).unwrap_or(13)
}

/// Every extension that the dump makes.
fn needed(origin: &Origin, examined: &Examined) -> Vec<String> {
    let mut needed = examined.mentions.extensions.clone();
    if origin.details.as_ref().is_some_and(|details| details.selection.is_everything()) {
        needed.extend(origin.details.iter().flat_map(|details| details.database.extensions.keys().cloned()));
    }
    needed.into_iter().collect()
}

fn require_extensions(binaries: &Binaries, needed: &[String]) -> Result<()> {
    let missing: Vec<&str> =
        needed.iter().filter(|name| binaries.has_extension(name) == Some(false)).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (dir, major) = (binaries.dir.display(), binaries.major);
    let what =
        format!("the dump needs extensions that PostgreSQL {major} in {dir} does not have: {}", missing.join(", "));
    let package = if missing.contains(&"vector") { "pgvector".to_owned() } else { missing[0].replace('_', "-") };
    Err(Error::refused(what, format!("install them (Debian: such as `apt install postgresql-{major}-{package}`)")))
}
