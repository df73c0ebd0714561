//! `asof wal`: received and looked at.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use asof_engine::progress::{Event, Observer};
use asof_engine::wal::archive;
use asof_engine::wal::prefetch::Prefetched;
use asof_engine::wal::receiver::{self, slot_name, stored_end};
use asof_engine::wal::shape::WalConstants;
use asof_engine::wal::spool::{Spool, directory_of};
use asof_engine::wal::stream::{IDLE_EVERY, Pace, StreamProgress, StreamSettings};
use asof_postgres::names::WalFileName;
use asof_repository::lineage::WalEvent;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{OneInstance, WalCommand};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::show;

/// How often a spool is synced that no commit waits for.
const SYNC_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn run(context: &Context, command: WalCommand) -> Result<()> {
    match command {
        WalCommand::Receive { name, synchronous, upload_every } => {
            receive(context, name.as_deref(), synchronous, Duration::from_secs(upload_every)).await
        }
        WalCommand::Push { path, instance } => push(context, instance.as_deref(), &path).await,
        WalCommand::Get { name, path, instance } => match get(context, instance.as_deref(), &name, &path).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::Absent(name)),
            Err(failure) => Err(Failure::CannotTell(Box::new(failure))),
        },
        WalCommand::Prefetch { name, path, instance } => prefetch(context, instance.as_deref(), &name, &path).await,
        WalCommand::Status(args) => status(context, args).await,
    }
}

async fn push(context: &Context, instance: Option<&str>, path: &Path) -> Result<()> {
    let instance = context.instance(instance).await?;
    let constants = WalConstants::from_facts(&instance.shelf.journal().await?.state().facts)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // PostgreSQL gives %p relative to the data directory, where it also starts us.
    archive::push(&instance.shelf, &constants, name, path).await?;
    Ok(())
}

async fn get(context: &Context, instance: Option<&str>, name: &str, path: &Path) -> Result<bool> {
    let opened = context.instance(instance).await?;
    let ready = Prefetched::beside(&opened.shelf, path);
    if let Some(taken) = ready.take(name, path).await {
        if taken.runs_low {
            start_prefetch(context, instance, name, path);
        }
        return Ok(true);
    }
    let constants = WalConstants::from_facts(&opened.shelf.journal().await?.state().facts)?;
    let found = archive::get(&opened.shelf, &constants, name, path).await?;
    if matches!(WalFileName::parse(name.as_bytes(), constants.segment_size), Ok(WalFileName::Segment { .. })) {
        match found {
            true => start_prefetch(context, instance, name, path),
            // What is left over takes space and nothing else: the answer does not depend on it.
            false => drop(ready.clear().await),
        }
    }
    Ok(found)
}

/// Lets a process of its own fetch what the server will ask for next. Nothing depends on it.
fn start_prefetch(context: &Context, instance: Option<&str>, name: &str, path: &Path) {
    use std::os::unix::process::CommandExt;
    let Ok(program) = std::env::current_exe() else { return };
    let mut command = std::process::Command::new(program);
    if let Some(config) = &context.config {
        command.arg("--config").arg(config);
    }
    command.arg("--quiet").args(["wal", "prefetch", name]).arg(path);
    if let Some(instance) = instance {
        command.args(["--instance", instance]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    // It ends by itself, and outlives us: the server waits only for us.
    drop(command.spawn());
}

async fn prefetch(context: &Context, instance: Option<&str>, name: &str, path: &Path) -> Result<()> {
    let opened = context.instance(instance).await?;
    let constants = WalConstants::from_facts(&opened.shelf.journal().await?.state().facts)?;
    Ok(Prefetched::beside(&opened.shelf, path).fill(&constants, name).await?)
}

async fn receive(context: &Context, name: Option<&str>, synchronous: bool, upload_every: Duration) -> Result<()> {
    let instance = context.instance(name).await?;
    instance.require_files().await?;
    let config = instance.config()?;
    let server = context.server(config).await?;
    let spool = match &config.spool {
        Some(spool) => Some(Spool::open(&context.world, directory_of(&instance.shelf, spool), upload_every).await?),
        None => None,
    };
    let pace = match (&spool, synchronous) {
        (_, true) => Pace::AtOnce,
        (Some(_), false) => Pace::Every(SYNC_EVERY.min(upload_every)),
        (None, false) => Pace::Every(upload_every),
    };
    let journal = instance.shelf.journal().await?;
    let constants = WalConstants::from_facts(&journal.state().facts)?;
    let slot = slot_name(&instance.shelf);
    let settings =
        StreamSettings { shelf: instance.shelf, server, constants, slot, pace, spool: spool.clone(), idle: IDLE_EVERY };
    let progress = Arc::new(StreamProgress::default());
    let stopping = tokio::spawn(stop_on_signal(progress.clone()));
    let observer: Arc<dyn Observer> = context.bar();
    if let Some(spool) = &spool {
        let (place, left) = (spool.directory().display(), spool.end());
        observer.event(Event::Note(format!("acknowledging from the spool {place}, which {}", show::SPOOL_SURVIVES)));
        if let Some(left) = left {
            observer.event(Event::Note(format!("storing first what it holds from before, up to {}", left.end)));
        }
    }
    let result = receiver::receive(&settings, progress.clone(), observer.clone()).await;
    stopping.abort();
    let left = spool
        .and_then(|spool| spool.end())
        .map_or_else(String::new, |left| format!(", and in the spool up to {}", left.end));
    observer.event(Event::Note(format!("stopped; WAL is stored up to {}{left}", progress.stored())));
    Ok(result?)
}

/// The first signal lets the receiver store what it has; nothing acknowledged depends on that.
async fn stop_on_signal(progress: Arc<StreamProgress>) -> Result<()> {
    let listen = |kind| signal(kind).map_err(Failure::file("listen for signals in", "this process"));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    progress.stop();
    Ok(())
}

async fn status(context: &Context, args: OneInstance) -> Result<()> {
    let instance = context.instance(args.name.as_deref()).await?;
    let journal = instance.shelf.journal().await?;
    let constants = WalConstants::from_facts(&journal.state().facts)?;
    let size = constants.stored_segment();
    let end = stored_end(&instance.shelf, journal.state(), size).await?;
    let event = |event: &WalEvent| match *event {
        WalEvent::Started { timeline, start } => json!({ "event": "started", "timeline": timeline, "at": lsn(start) }),
        WalEvent::Gap { timeline, from, to } => {
            json!({ "event": "gap", "timeline": timeline, "from": lsn(from), "to": lsn(to) })
        }
        WalEvent::Switched { from, to, at, durable, commits } => json!({
            "event": "tail", "timeline": from, "next": to, "from": lsn(at), "to": lsn(durable), "commits": commits
        }),
    };
    let value = json!({
        "instance": instance.name,
        "slot": slot_name(&instance.shelf),
        "timeline": end.map(|end| end.timeline.0),
        "stored_to": end.map(|end| end.end.to_string()),
        "events": journal.state().wal.iter().map(event).collect::<Vec<_>>(),
    });
    if args.json {
        show::json(&value);
        return Ok(());
    }
    match end {
        None => anstream::println!("{}: no WAL is stored", instance.name),
        Some(end) => {
            anstream::println!("{}: WAL is stored up to {} on timeline {}", instance.name, end.end, end.timeline);
        }
    }
    for event in journal.state().wal.iter().filter(|event| !matches!(event, WalEvent::Started { .. })) {
        match *event {
            WalEvent::Gap { timeline, from, to } => {
                anstream::println!(
                    "  gap   {} .. {} on timeline {timeline}: targets inside are refused",
                    lsn(from),
                    lsn(to)
                );
            }
            WalEvent::Switched { from, to, at, durable, commits } => anstream::println!(
                "  tail  {} .. {} of timeline {from}, {} commits: left behind by the failover to timeline {to}; restorable with --target-timeline {from}",
                lsn(at),
                lsn(durable),
                commits.map_or_else(|| "an unknown number of".to_owned(), |commits| commits.to_string())
            ),
            WalEvent::Started { .. } => {}
        }
    }
    Ok(())
}

fn lsn(at: u64) -> String {
    asof_postgres::lsn::Lsn(at).to_string()
}
