//! Dumps: the procedure.
//!
//! 1. a transaction with an exported snapshot is opened, and what the database is at this moment is read in it;
//! 2. `pg_dump` is given the snapshot, and writes into a pipe; what comes is decoded and stored, sealed, at once;
//! 3. what came is held against the tables as the snapshot shows them;
//! 4. the record and, in the repository, the commit entry are written: from here on there is a dump;
//! 5. one in the repository is read back (`read_back`).
//!
//! Whatever fails before there is a dump leaves an aborted attempt or nothing, and no file that looks like a dump.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use asof_postgres::conninfo::database_for_programs;
use asof_repository::lineage::{Backup, BackupKind, Entry, Lineage, Method, Sizes};
use asof_world::{Id, Timestamp, World};
use futures::channel::mpsc;
use futures::future::{BoxFuture, Either, select, try_join};
use futures::{SinkExt, StreamExt};

use super::clients::{Client, Clients};
use super::members::{GLOBALS, SQL, TABLES, TOC};
use super::outcome::{Contents, cut_foreign_keys, hold_against, reasons};
use super::parallel;
use super::program::{Link, Output, Running};
use super::record::{DatabaseRecord, Details, FileRecord, Format, Selection, TableRecord};
use super::reread::decode;
use super::script::Script;
use super::shelve::{Shelved, Shelving};
use super::snapshot::{Snapshot, Table, option};
use super::to_file;

use crate::backup::{StoredPacks, abort, record_progress, refuse_taken_name};
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};
use crate::read_back::{ReadBack, read_back};
use crate::server::{self, Identity, Server, check_identity};
use crate::shelf::Shelf;
use crate::time::rfc3339;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct DumpRequest {
    /// The name of the backup; of no use for a file.
    pub name: String,
    /// Manual or automated.
    pub kind: BackupKind,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// How it is laid out.
    pub format: Format,
    /// What of the database.
    pub selection: Selection,
    /// What `pg_dump --compress` is given, for files; the repository compresses by itself.
    pub compress: Option<String>,
    /// Roles and tablespaces too.
    pub globals: bool,
    /// Processes that dump at once.
    pub jobs: usize,
}

/// Where a dump goes.
pub enum Destination {
    /// Into the repository, sealed, as a backup of this lineage.
    Repository(Box<Shelf>),
    /// Into a file or directory that does not exist, as the stock programs read it.
    File(PathBuf),
}

/// What was done.
#[derive(Clone, Debug)]
pub struct DumpReport {
    /// What was recorded.
    pub details: Details,
    /// Every table.
    pub tables: Vec<TableRecord>,
    /// The backup, if it went into the repository.
    pub backup: Option<Backup>,
    /// The files, if it went into files; the dump itself is the first.
    pub files: Vec<PathBuf>,
    /// What the programs remarked.
    pub remarks: Vec<String>,
    /// What was looked at when it was committed, if it went into the repository.
    pub checks: Option<ReadBack>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Everything that is known before anything is dumped.
pub struct Plan {
    pub(super) world: World,
    pub(super) server: Server,
    pub(super) client: Client,
    pub(super) link: Link,
    pub(super) snapshot: Snapshot,
    pub(super) database: DatabaseRecord,
    pub(super) identity: Identity,
    remark: Option<String>,
    standby: bool,
    role: String,
    pub(super) known: Vec<Table>,
    /// Schemas and names of the partitions of tables that were chosen, as they are in a dump.
    pub(super) partitions: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Plan {
    /// Connects, finds the client, and takes the snapshot. Nothing is dumped yet, and nothing is written.
    ///
    /// # Errors
    /// `Refused` if no client of this machine can dump the server.
    pub async fn make(world: &World, clients: &Clients, server: &Server) -> Result<Self> {
        let server = server.known_as("asof-dump");
        let mut connection = server.connect().await?;
        let server = server.at_host_of(&connection);
        let contact = server::contact(&mut connection).await?;
        let client = clients.to_dump(contact.major)?.clone();
        let identity = Identity::ask(&mut connection, &contact).await?;
        let link = Link::of(&server, &connection)?;
        connection.close().await;
        let mut snapshot = Snapshot::take(&server).await?;
        let database = snapshot.database().await?;
        let known = snapshot.tables().await?;
        let (standby, role) = (contact.in_recovery, server.config.user.clone());
        let (world, remark) = (world.clone(), None);
        Ok(Self {
            world,
            server,
            client,
            link,
            snapshot,
            database,
            identity,
            remark,
            standby,
            role,
            known,
            partitions: Vec::new(),
        })
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> &DatabaseRecord {
        &self.database
    }

    /// The programs that will be used.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Refuses another server than the one that was registered (hazard D1). What the operator should know of it otherwise is kept
    /// with the other remarks.
    ///
    /// # Errors
    /// `Refused`, with what differs.
    pub fn check_server(&mut self, instance: &str, lineage: &Lineage) -> Result<()> {
        self.remark = check_identity(instance, lineage, &self.identity)?;
        Ok(())
    }

    /// What the operator should know of the server.
    #[must_use]
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// How many tables the database has, and their bytes on the server's disk.
    #[must_use]
    pub fn tables(&self) -> (usize, u64) {
        (self.known.len(), self.known.iter().map(|table| table.all_bytes).sum())
    }

    /// Ends the transaction without a dump.
    pub async fn close(self) {
        self.snapshot.close().await;
    }

    /// The arguments of `pg_dump` that the database and the selection ask for.
    pub(super) fn arguments(&self, selection: &Selection) -> Vec<OsString> {
        let mut arguments = vec![format!("--snapshot={}", self.snapshot.id)];
        arguments.extend(selection.arguments());
        arguments.extend(self.standby.then(|| "--no-unlogged-table-data".to_owned()));
        let partitions = self.partitions.iter().map(|(schema, name)| option("--table", (schema, name)));
        arguments.into_iter().map(OsString::from).chain(partitions).collect()
    }

    async fn details(&mut self, request: &DumpRequest, contents: &Contents, bytes: u64) -> Result<Details> {
        let cut = match request.selection.is_everything() {
            true => Vec::new(),
            false => cut_foreign_keys(self.snapshot.foreign_keys().await?, contents),
        };
        let unlogged = self.known.iter().any(|table| table.unlogged);
        Ok(Details {
            format: request.format,
            database: self.database.clone(),
            major: self.identity.major,
            system_identifier: self.identity.system_identifier.map(|it| it.to_string()),
            client_version: self.client.version.clone(),
            selection: request.selection.clone(),
            incomplete: reasons(&request.selection, self.standby && unlogged),
            cut_foreign_keys: cut,
            tables: contents.tables.len() as u64,
            rows: contents.rows(),
            globals: request.globals,
            standby: self.standby,
            role: self.role.clone(),
            bytes,
            elapsed_ms: 0,
        })
    }
}

/// Makes a dump, unless `cancelled` completes before.
///
/// # Errors
/// `Program` with what `pg_dump` said; `Damaged` when what came is not whole, whatever it said; `Interrupted`.
pub async fn dump(
    mut plan: Plan,
    request: &DumpRequest,
    destination: &Destination,
    cancelled: BoxFuture<'static, ()>,
    observer: Arc<dyn Observer>,
) -> Result<DumpReport> {
    let result = dump_as_planned(&mut plan, request, destination, cancelled, observer).await;
    plan.snapshot.close().await;
    result
}

/// As [`dump`]; the snapshot is kept for what else is asked of that moment.
pub(super) async fn dump_as_planned(
    plan: &mut Plan,
    request: &DumpRequest,
    destination: &Destination,
    cancelled: BoxFuture<'static, ()>,
    observer: Arc<dyn Observer>,
) -> Result<DumpReport> {
    let began = plan.world.monotonic();
    plan.settle(request).await?;
    observer.event(Event::Phase("dumping"));
    observer.event(Event::Expect(plan.tables().1));
    let result = match destination {
        Destination::Repository(shelf) => {
            to_repository(plan, shelf, request, cancelled, began, observer.as_ref()).await
        }
        Destination::File(path) => until(cancelled, to_files(plan, path, request, began, observer.as_ref())).await,
    };
    result.map(|mut report| {
        report.remarks.extend(plan.remark.clone());
        report
    })
}

/// The work, or that it was cancelled before: dropped, it ends what it started.
pub(super) async fn until<T>(cancelled: BoxFuture<'static, ()>, work: impl Future<Output = Result<T>>) -> Result<T> {
    match select(Box::pin(work), cancelled).await {
        Either::Left((result, _)) => result,
        Either::Right(((), _)) => Err(Error::Interrupted),
    }
}

/// What was dumped, wherever it went.
pub(super) struct Dumped {
    pub(super) contents: Contents,
    /// Bytes of what `pg_dump` wrote.
    pub(super) bytes: u64,
    pub(super) remarks: Vec<String>,
}

async fn to_repository(
    plan: &mut Plan,
    shelf: &Shelf,
    request: &DumpRequest,
    cancelled: BoxFuture<'static, ()>,
    began: Duration,
    observer: &dyn Observer,
) -> Result<DumpReport> {
    let mut journal = shelf.journal().await?;
    plan.check_server("this instance", journal.state())?;
    refuse_taken_name(&journal, &request.name)?;
    let attempt = shelf.world.id();
    journal.append(journal.state().epoch, Entry::AttemptStarted { attempt }).await?;
    let packs = Arc::new(StoredPacks::default());
    let result = {
        let storing = store(plan, shelf, request, attempt, packs.clone(), began, observer);
        let making = Box::pin(until(cancelled, storing));
        let recording = Box::pin(record_progress(shelf, &mut journal, attempt, &packs));
        match select(making, recording).await {
            Either::Left((result, _)) => result,
            Either::Right((never, _)) => match never {},
        }
    };
    match result {
        Ok(mut report) => {
            let backup = report.backup.clone().expect("what was stored is a backup");
            journal.append(journal.state().epoch, Entry::BackupCommitted(Box::new(backup.clone()))).await?;
            observer.event(Event::Phase("reading back"));
            report.checks = Some(read_back(shelf, &backup, packs.all(), decode).await?);
            Ok(report)
        }
        Err(error) => {
            abort(&mut journal, attempt, packs.take(), &error).await;
            Err(error)
        }
    }
}

async fn store(
    plan: &mut Plan,
    shelf: &Shelf,
    request: &DumpRequest,
    attempt: Id,
    packs: Arc<StoredPacks>,
    began: Duration,
    observer: &dyn Observer,
) -> Result<DumpReport> {
    let shelving = Shelving::new(shelf, attempt, packs);
    let (mut shelving, mut dumped) = match request.format {
        Format::Plain => plain(plan, shelving, request, observer).await?,
        Format::Custom | Format::Directory => archive(plan, shelving, request, observer).await?,
    };
    let (globals, tables) = completed(plan, request, &mut dumped, observer).await?;
    if let Some(sql) = globals {
        shelving.put(GLOBALS, &sql).await?;
    }
    shelving.put(TABLES, &serde_json::to_vec(&tables).expect("records can be written as JSON")).await?;
    observer.event(Event::Phase("storing the map"));
    let shelved = shelving.finish().await?;
    let mut details = plan.details(request, &dumped.contents, dumped.bytes).await?;
    let elapsed = plan.world.monotonic() - began;
    details.elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let backup = backup(plan, request, attempt, &shelved, &details);
    let (backup, files, remarks) = (Some(backup), Vec::new(), dumped.remarks);
    Ok(DumpReport { details, tables, backup, files, remarks, checks: None, elapsed })
}

fn backup(plan: &Plan, request: &DumpRequest, attempt: Id, shelved: &Shelved, details: &Details) -> Backup {
    let started = plan.snapshot.time;
    let ended = Timestamp(started.0.saturating_add_unsigned(details.elapsed_ms * 1000));
    Backup {
        id: attempt,
        name: request.name.clone(),
        kind: request.kind,
        method: Method::Logical,
        started: started.0,
        stopped: ended.0,
        timeline: plan.snapshot.timeline,
        start: plan.snapshot.lsn.0,
        stop: plan.snapshot.lsn.0,
        map: shelved.map,
        sizes: Sizes {
            total: shelved.total,
            read: details.bytes,
            changed: shelved.changed,
            stored: shelved.stored,
            shared: 0,
            files: shelved.files,
        },
        tainted: Vec::new(),
        tags: request.tags.clone(),
        details: serde_json::to_value(details).expect("details can be written as JSON"),
    }
}

/// An archive, its data in one file for each entry.
async fn archive(
    plan: &mut Plan,
    shelving: Shelving,
    request: &DumpRequest,
    observer: &dyn Observer,
) -> Result<(Shelving, Dumped)> {
    let shares = parallel::shares(plan, request);
    let archives = parallel::archives(plan, request, &shares, &shelving, observer).await?;
    let (mut shelving, toc, dumped) = parallel::joined(archives, shelving).await?;
    shelving.put(TOC, &toc).await?;
    Ok((shelving, dumped))
}

/// SQL in one file.
async fn plain(
    plan: &mut Plan,
    mut shelving: Shelving,
    request: &DumpRequest,
    observer: &dyn Observer,
) -> Result<(Shelving, Dumped)> {
    let mut arguments = plan.arguments(&request.selection);
    arguments.push("--format=plain".into());
    let mut running = plan.link.start(&plan.world, &plan.client, "pg_dump", arguments).await?;
    let mut script = Script::new(&plan.world);
    shelving.begin(SQL);
    let pumped = pump(&mut running.output, async |piece| {
        let piece = script.look(piece).await?;
        script.tell(observer);
        shelving.write(&piece).await?;
        Ok(piece)
    });
    let pumped = pumped.await;
    let (bytes, remarks) = ended(running, pumped).await?;
    shelving.end().await?;
    Ok((shelving, Dumped { contents: script.finish()?, bytes, remarks }))
}

/// What was done with the output of a program, and what it remarked. A failure of ours ends the program; a failure of its own counts
/// for more than what its output lacks.
pub(super) async fn ended<T>(running: Running, pumped: Result<T>) -> Result<(T, Vec<String>)> {
    match pumped {
        Ok(value) => Ok((value, running.end().await?)),
        Err(error) => {
            running.stop().await;
            Err(error)
        }
    }
}

/// How many pieces may wait to be handled: while one is compressed, or written to a disk that is busy, the program goes on.
const AHEAD: usize = 8;

/// Hands on what a program writes, piece by piece: while one is handled the next are read. Whoever handles a piece gives its memory
/// back. Returns the bytes.
pub(super) async fn pump(output: &mut Output, mut handle: impl AsyncFnMut(Vec<u8>) -> Result<Vec<u8>>) -> Result<u64> {
    let (mut pieces, mut waiting) = mpsc::channel::<Vec<u8>>(AHEAD);
    let (spare, mut spares) = mpsc::unbounded::<Vec<u8>>();
    let reading = async move {
        loop {
            let piece = output.read(spares.try_recv().unwrap_or_default()).await?;
            // Whoever handles them fails before it goes away.
            if piece.is_empty() || pieces.send(piece).await.is_err() {
                return Ok::<(), Error>(());
            }
        }
    };
    let handling = async {
        let mut total = 0;
        while let Some(piece) = waiting.next().await {
            total += piece.len() as u64;
            let _ = spare.unbounded_send(handle(piece).await?);
        }
        Ok::<u64, Error>(total)
    };
    Ok(try_join(reading, handling).await?.1)
}

/// What came, held against the database; then the globals, if they are wanted, and what is recorded of every table.
async fn completed(
    plan: &mut Plan,
    request: &DumpRequest,
    dumped: &mut Dumped,
    observer: &dyn Observer,
) -> Result<(Option<Vec<u8>>, Vec<TableRecord>)> {
    dumped.contents.estimate(&plan.known);
    hold_against(&mut plan.snapshot, &plan.known, &request.selection, &dumped.contents).await?;
    let tables = dumped.contents.tables.iter().map(|(_, table)| table.clone()).collect();
    if !request.globals {
        return Ok((None, tables));
    }
    observer.event(Event::Phase("roles and tablespaces"));
    let (sql, remarks) = globals(plan).await?;
    dumped.remarks.extend(remarks);
    Ok((Some(sql), tables))
}

/// Roles and tablespaces as SQL. Only a superuser may read passwords; without them roles are better than none.
pub(super) async fn globals(plan: &Plan) -> Result<(Vec<u8>, Vec<String>)> {
    match globals_with(plan, &["--globals-only"]).await {
        Err(Error::Program { what, .. }) if what.contains("pg_authid") => {
            let (sql, mut remarks) = globals_with(plan, &["--globals-only", "--no-role-passwords"]).await?;
            remarks.push("roles are dumped without their passwords, which only a superuser may read".to_owned());
            Ok((sql, remarks))
        }
        other => other,
    }
}

async fn globals_with(plan: &Plan, arguments: &[&str]) -> Result<(Vec<u8>, Vec<String>)> {
    let mut arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    // The database that let us in; by itself it tries postgres and template1, which a service may keep closed.
    arguments.push(format!("--database={}", database_for_programs(&plan.database.name)).into());
    let mut running = plan.link.start(&plan.world, &plan.client, "pg_dumpall", arguments).await?;
    let (mut sql, mut script) = (Vec::new(), Script::new(&plan.world));
    let pumped = pump(&mut running.output, async |piece| {
        let piece = script.look(piece).await?;
        sql.extend_from_slice(&piece);
        Ok(piece)
    });
    let pumped = pumped.await;
    let (_, remarks) = ended(running, pumped).await?;
    script.finish()?;
    Ok((sql, remarks))
}

async fn to_files(
    plan: &mut Plan,
    path: &Path,
    request: &DumpRequest,
    began: Duration,
    observer: &dyn Observer,
) -> Result<DumpReport> {
    let mut making = to_file::begin(&plan.world, path).await?;
    let mut dumped = to_file::dump(plan, &mut making, request, observer).await?;
    let (globals, tables) = completed(plan, request, &mut dumped, observer).await?;
    if let Some(sql) = globals {
        making.add("globals.sql", &sql).await?;
    }
    let mut details = plan.details(request, &dumped.contents, dumped.bytes).await?;
    let elapsed = plan.world.monotonic() - began;
    details.elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let (made, sha256) = (rfc3339(plan.snapshot.time), making.digests());
    let record = FileRecord { made, details: details.clone(), tables: tables.clone(), sha256 };
    making.add("json", &serde_json::to_vec_pretty(&record).expect("records can be written as JSON")).await?;
    let files = making.publish().await?;
    Ok(DumpReport { details, tables, backup: None, files, remarks: dumped.remarks, checks: None, elapsed })
}
