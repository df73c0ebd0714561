//! `asof status`: how well each instance is protected, derived from stored records and, where it answers, the server.

mod logical;

use asof_engine::error::in_one_line;
use asof_engine::server::is_logical_only;
use asof_engine::shelf::Shelf;
use asof_engine::wal::assemble::latest_observation;
use asof_engine::wal::receiver::{first_hole, restorable_end, stored_end};
use asof_engine::wal::shape::WalConstants;
use asof_engine::wal::spool::{bytes_in, directory_of};
use asof_postgres::lsn::{Lsn, Timeline};
use serde_json::{Value, json};

use crate::args::OneInstance;
use crate::config::InstanceConfig;
use crate::context::Context;
use crate::failure::Result;
use crate::show::{self, SPOOL_SURVIVES, bytes, exact};

pub(crate) async fn run(context: &Context, args: OneInstance) -> Result<()> {
    let loaded = context.loaded()?;
    let chosen = args.name.as_deref().map(|name| context.pick(&loaded, Some(name))).transpose()?;
    let repository = context.repository(&loaded).await?;
    let mut found = Vec::new();
    for (name, config) in &loaded.config.instances {
        if chosen.is_none_or(|(chosen, _)| chosen == name)
            && let Some(lineage) = repository.lineage_of(name)
        {
            found.push(describe(context, name, config, &Shelf::new(&repository, lineage)).await?);
        }
    }
    if args.json {
        show::json(&json!(found));
        return Ok(());
    }
    anstream::println!(
        "repository {} ({})",
        loaded.config.repository.url,
        if repository.keyring.data_secret.is_some() {
            "full key: can back up and restore"
        } else {
            "write-only key: can back up, cannot restore"
        }
    );
    for value in &found {
        if value["logical_only"] == true { logical::print(value) } else { print(value) }
    }
    Ok(())
}

async fn describe(context: &Context, name: &str, config: &InstanceConfig, shelf: &Shelf) -> Result<Value> {
    let journal = shelf.journal().await?;
    let state = journal.state();
    if config.logical || is_logical_only(&state.facts) {
        let mut value = logical::describe(context, name, config, state).await;
        value["void_journal_entries"] = json!(journal.voids().len());
        return Ok(value);
    }
    let existing = state.physical();
    let dumps = state.existing().len() - existing.len();
    let constants = WalConstants::from_facts(&state.facts)?;
    let size = constants.stored_segment();
    let stored = stored_end(shelf, state, size).await?;
    let server = flushed(context, config).await;
    let restorable = restorable_end(state, stored);
    let exposure = match (&server, restorable) {
        (Ok(flushed), Some(restorable)) => Some(flushed.0.saturating_sub(restorable.0)),
        _ => None,
    };
    let latest = match (existing.last(), stored, restorable) {
        (Some(newest), Some(stored), Some(end)) => {
            let timeline = if end < stored.end { newest.backup.timeline } else { stored.timeline.0 };
            let seen = latest_observation(shelf, &constants, Timeline(timeline), end).await?;
            Some(seen.map_or(newest.backup.stopped, |seen| seen.max(newest.backup.stopped)))
        }
        (newest, ..) => newest.map(|newest| newest.backup.stopped),
    };
    let spooled = match &config.spool {
        Some(spool) => Some(bytes_in(&context.world, directory_of(shelf, spool)).await?),
        None => None,
    };
    let hole = existing.last().and_then(|newest| first_hole(state, Lsn(newest.backup.stop)));
    Ok(json!({
        "instance": name,
        "logical_only": false,
        "backups": existing.len(),
        "logical_backups": dumps,
        "tainted": existing.iter().filter(|state| !state.backup.tainted.is_empty()).count(),
        "earliest_restorable_time": existing.first().map(|state| exact(state.backup.stopped)),
        "latest_restorable_time": latest.map(exact),
        "last_backup": existing.last().map(|state| state.backup.name.clone()),
        "last_backup_time": existing.last().map(|state| exact(state.backup.stopped)),
        "wal_stored_to": stored.map(|stored| stored.end.to_string()),
        "restorable_to": restorable.map(|end| end.to_string()),
        "wal_lost": hole.map(|hole| json!({ "from": hole.from.to_string(), "to": hole.to.to_string() })),
        "wal_timeline": stored.map(|stored| stored.timeline.0),
        "server_flushed_to": server.as_ref().ok().map(ToString::to_string),
        "server_error": server.err(),
        "exposure_bytes": exposure,
        "spool": config.spool,
        "spool_bytes": spooled,
        "void_journal_entries": journal.voids().len(),
    }))
}

/// How far the server has flushed, or why it cannot be asked.
async fn flushed(context: &Context, config: &InstanceConfig) -> Result<Lsn, String> {
    let ask = async {
        let server = context.server(config).await?;
        let (mut connection, contact) = context.contact(&server).await?;
        let function = if contact.in_recovery { "pg_last_wal_replay_lsn()" } else { "pg_current_wal_flush_lsn()" };
        let row = connection.query_one(&format!("SELECT {function}")).await?;
        let lsn: Lsn = row.parse_required(0)?;
        connection.close().await;
        Ok::<_, crate::failure::Failure>(lsn)
    };
    ask.await.map_err(in_one_line)
}

fn print(value: &Value) {
    let text = |key: &str| value[key].as_str().unwrap_or("none").to_owned();
    anstream::println!();
    anstream::println!("{}", text("instance"));
    anstream::println!("  backups   {} (last {}, {})", value["backups"], text("last_backup"), text("last_backup_time"));
    anstream::println!("  window    from {} to {}", text("earliest_restorable_time"), text("latest_restorable_time"));
    anstream::println!("  WAL       stored to {}, server at {}", text("wal_stored_to"), text("server_flushed_to"));
    match value["exposure_bytes"].as_u64() {
        Some(exposure) => anstream::println!("  exposure  {} of WAL that could not be restored", bytes(exposure)),
        None => {
            let why = value["server_error"].as_str().unwrap_or("there is no backup: nothing can be restored");
            anstream::println!("  exposure  unknown: {why}");
        }
    }
    if let (Some(spool), Some(waiting)) = (value["spool"].as_str(), value["spool_bytes"].as_u64()) {
        anstream::println!("  spool     {} in {spool}, which {SPOOL_SURVIVES}", bytes(waiting));
    }
    if let (Some(from), Some(to)) = (value["wal_lost"]["from"].as_str(), value["wal_lost"]["to"].as_str()) {
        anstream::println!(
            "  WARNING   WAL {from} .. {to} was lost: nothing behind it can be restored until a new backup is made"
        );
    }
    if value["tainted"].as_u64().unwrap_or(0) > 0 {
        anstream::println!("  WARNING   {} backups have damaged pages", value["tainted"]);
    }
    if value["void_journal_entries"].as_u64().unwrap_or(0) > 0 {
        anstream::println!("  WARNING   {} journal entries count for nothing", value["void_journal_entries"]);
    }
}
