//! `asof demo`: a throw-away PostgreSQL under load, backed up, damaged by accident, and brought back as of the moment
//! before. Everything is real: the server, the repository, the receiver, the restore. Nothing is left running, and without
//! `--keep` nothing is left at all.

mod database;
mod machine;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use asof_engine::backup::{self, BackupReport, BackupRequest, Reader};
use asof_engine::progress::Silent;
use asof_engine::restore::{self, NewInstance, RestoreRequest, Restored};
use asof_engine::server::{self, Server};
use asof_engine::shelf::Shelf;
use asof_engine::target::{Target, Wanted};
use asof_engine::time::rfc3339;
use asof_engine::wal::receiver::{receive, slot_name};
use asof_engine::wal::shape::WalConstants;
use asof_engine::wal::stream::{IDLE_EVERY, Pace, StreamProgress, StreamSettings};
use asof_postgres::lsn::Lsn;
use asof_repository::lineage::BackupKind;
use asof_repository::root::{self, Repository};
use asof_repository::store::local::LocalStore;
use asof_world::Timestamp;

use crate::args::Demo;
use crate::context::{Context, variable};
use crate::failure::{Failure, Result};
use crate::show::{bytes, duration};
use database::{Digest, Writer};
use machine::Machine;

/// How long the writer goes on between the moment that is restored and the accident, and after it.
const WRITE_ON: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(crate) async fn run(context: &Context, args: Demo) -> Result<()> {
    let began = context.world.monotonic();
    let machine = Machine::prepare(context, args.bindir.as_deref()).await?;
    let shown = tokio::select! {
        shown = show(context, &machine, &args) => shown,
        _ = tokio::signal::ctrl_c() => Err(Failure::refused("the demo was interrupted", "run it again")),
    };
    let cleaned = machine.clean_up(args.keep).await;
    shown?;
    cleaned?;
    anstream::println!();
    anstream::println!("The whole demo took {}. Nothing is left running.", duration(context.world.monotonic() - began));
    Ok(())
}

fn say(text: &str) {
    anstream::println!("{text}");
}

/// The story, in order.
async fn show(context: &Context, machine: &Machine, args: &Demo) -> Result<()> {
    say(&format!("PostgreSQL {} in {}", machine.binaries.version, machine.root.display()));
    let server = machine.start_production().await?;
    let size = database::fill(&server, args.size).await?;
    say(&format!("  a document chatbot's database: {} in documents, chunks, conversations, messages", bytes(size)));
    let writer = Writer::start(context.world.clone(), server.clone());
    say("  a writer commits numbered messages all the time");

    say("\n1. Protect it");
    let (mut repository, shelf, reader) = protect(context, machine).await?;
    let wal = start_receiver(&shelf, &server).await?;
    let report = back_up(&shelf, &server, reader).await?;
    print_backup(&report);

    say("\n2. The accident");
    writer.pause().await;
    let (moment, before) = (database::clock(&server).await?, database::digests(&server).await?);
    writer.resume();
    context.world.sleep(WRITE_ON).await;
    let dropped = database::accident(&server).await?;
    say(&format!("  {}  everything is fine ({} rows in chunks)", rfc3339(moment), before["chunks"].rows));
    say(&format!("  {}  DROP TABLE chunks, by somebody in a hurry; the writer goes on", rfc3339(dropped)));
    context.world.sleep(WRITE_ON).await;
    let written = writer.stop().await?;
    say(&format!("  {written} messages were committed meanwhile"));
    await_stored(context, &server, &wal.progress).await?;

    say("\n3. The instance as of the moment before");
    let restored = bring_back(context, machine, &mut repository, &shelf, moment).await?;
    let copy = restored.running.instance.server(&context.world, "postgres")?;
    compare(&server, &copy, &before).await?;
    wal.stop().await?;
    look_around(machine, &restored, args.keep);
    Ok(())
}

async fn protect(context: &Context, machine: &Machine) -> Result<(Repository, Shelf, Reader)> {
    let directory = machine.root.join("repository");
    let store = Arc::new(LocalStore::new(context.world.clone(), &directory));
    let (mut repository, _) = root::init(&context.world, store, false).await?;
    let reader = machine.reader(context);
    let (_, control) = server::read_control(&context.world, reader.source.as_ref()).await?;
    let (lineage, _) = repository.register("production", server::facts(&control), None).await?;
    let shelf = Shelf::new(&repository, lineage);
    say(&format!("  an encrypted repository in {}", directory.display()));
    Ok((repository, shelf, reader))
}

/// A receiver in the background.
struct Wal {
    progress: Arc<StreamProgress>,
    running: asof_world::Task<asof_engine::Result<()>>,
}

impl Wal {
    async fn stop(self) -> Result<()> {
        self.progress.stop();
        Ok(self.running.await?)
    }
}

async fn start_receiver(shelf: &Shelf, server: &Server) -> Result<Wal> {
    let constants = WalConstants::from_facts(&shelf.journal().await?.state().facts)?;
    let settings = StreamSettings {
        shelf: shelf.clone(),
        server: server.clone(),
        constants,
        slot: slot_name(shelf),
        pace: Pace::Every(Duration::from_secs(1)),
        spool: None,
        idle: IDLE_EVERY,
    };
    let progress = Arc::new(StreamProgress::default());
    let (world, shared) = (shelf.world.clone(), progress.clone());
    let running = world.spawn(async move { receive(&settings, shared, Arc::new(Silent)).await });
    say("  WAL is received by streaming replication");
    Ok(Wal { progress, running })
}

async fn back_up(shelf: &Shelf, server: &Server, reader: Reader) -> Result<BackupReport> {
    let request = BackupRequest {
        instance: "production".to_owned(),
        name: "before-the-accident".to_owned(),
        kind: BackupKind::Manual,
        tags: BTreeMap::new(),
        fast: true,
        jobs: 2,
        rate: None,
        full_read: false,
    };
    Ok(backup::create(shelf, server, reader, &request, Arc::new(Silent)).await?)
}

fn print_backup(report: &BackupReport) {
    let sizes = &report.backup.sizes;
    say(&format!(
        "  a backup under load: {} in {} files, stored as {}, in {}",
        bytes(sizes.total),
        sizes.files,
        bytes(sizes.stored),
        duration(report.elapsed)
    ));
}

/// Waits until everything that the server has flushed is stored.
async fn await_stored(context: &Context, server: &Server, progress: &StreamProgress) -> Result<()> {
    let mut connection = server.connect().await?;
    let flushed: Lsn = connection.query_one("SELECT pg_current_wal_flush_lsn()").await?.parse_required(0)?;
    connection.close().await;
    while progress.durable() < flushed {
        if let Some(error) = progress.failure() {
            return Err(error.into());
        }
        context.world.sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn bring_back(
    context: &Context,
    machine: &Machine,
    repository: &mut Repository,
    shelf: &Shelf,
    moment: Timestamp,
) -> Result<Restored> {
    let began = context.world.monotonic();
    let directory = machine.directory("restored")?;
    let request = RestoreRequest {
        instance: "production".to_owned(),
        backup: None,
        wanted: Wanted { target: Target::Time(moment), inclusive: true },
        timeline: None,
        destination: directory.join("data"),
    };
    let plan = restore::plan(shelf, &request).await?;
    if let (Some(last), Some(first)) = (&plan.resolved.before, &plan.resolved.after) {
        say(&format!("  last commit inside   {}  {}", rfc3339(last.time), last.what));
        say(&format!("  first commit outside {}  {}", rfc3339(first.time), first.what));
    }
    let new = NewInstance {
        name: "restored".to_owned(),
        directory,
        port: None,
        user: Some(machine.user.name.clone()),
        bindir: Some(machine.binaries.dir.clone()),
        path_variable: variable("PATH"),
        role: None,
        jobs: 4,
    };
    let prepared = restore::prepare(shelf, &plan, &new).await?;
    let restored = restore::into_instance(shelf, repository, &plan, &new, prepared, Arc::new(Silent)).await?;
    let took = duration(context.world.monotonic() - began);
    say(&format!(
        "  {} restored, {} of WAL replayed, running on port {} after {took}",
        bytes(restored.written.bytes),
        bytes(plan.wal_bytes()),
        restored.running.instance.port
    ));
    Ok(restored)
}

/// Both instances side by side; what was restored must be what was there at the moment.
async fn compare(production: &Server, copy: &Server, before: &BTreeMap<String, Digest>) -> Result<()> {
    let (now, restored) = (database::digests(production).await?, database::digests(copy).await?);
    say(&format!("\n  {:15} {:>22} {:>22}", "", "production now", "restored"));
    for (table, expected) in before {
        let there = now.get(table).map_or_else(|| "gone".to_owned(), |digest| format!("{} rows", digest.rows));
        let same = if restored.get(table) == Some(expected) { "identical" } else { "DIFFERENT" };
        let rows = restored.get(table).map_or_else(|| "gone".to_owned(), |digest| format!("{} rows", digest.rows));
        say(&format!("  {table:15} {there:>22} {rows:>22}  {same} to the moment before"));
    }
    if restored == *before {
        return Ok(());
    }
    Err(Failure::refused(
        "the restored instance differs from the moment before the accident",
        "this is a defect of asof",
    ))
}

fn look_around(machine: &Machine, restored: &Restored, keep: bool) {
    let instance = &restored.running.instance;
    say("\nLook around: `asof demo --keep` leaves everything in place, with the servers stopped.");
    if keep {
        let programs = machine.binaries.dir.display();
        let run = |name: &str, data: &Path| {
            say(&format!("  {name:11} {programs}/pg_ctl -D {} start   (as {})", data.display(), machine.user.name))
        };
        run("production", &machine.data());
        run("restored", &instance.data_directory);
    }
}
