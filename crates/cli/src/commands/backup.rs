//! `asof backup`: made, listed, shown, deleted, tagged, held.

use std::collections::BTreeMap;

use asof_engine::ReadBack;
use asof_engine::backup::{self, BackupReport, BackupRequest, default_name};
use asof_engine::logical::Details;
use asof_engine::restore::{find, short_id};
use asof_repository::journal::Journal;
use asof_repository::lineage::{Backup, BackupKind, BackupState, Entry, Lineage, Method};
use asof_world::{Id, Timestamp};
use serde_json::{Value, json};

use crate::args::{BackupCommand, BackupCreate, OneBackup, OneInstance};
use crate::context::{Context, Instance};
use crate::failure::{Failure, Result};
use crate::show::{self, bytes, duration, exact, time, time_from};

pub(crate) async fn run(context: &Context, command: BackupCommand) -> Result<()> {
    match command {
        BackupCommand::Create(args) => create(context, args).await,
        BackupCommand::List(args) => list(context, args).await,
        BackupCommand::Show(args) => show_one(context, args).await,
        BackupCommand::Delete(args) => delete(context, args).await,
        BackupCommand::Tag { backup, tags, instance } => {
            let tags = parse_tags(&tags)?;
            change(context, instance.as_deref(), &backup, |id| Entry::Tagged { backup: id, tags }).await
        }
        BackupCommand::Hold { backup, reason, instance } => {
            change(context, instance.as_deref(), &backup, |id| Entry::Held { backup: id, reason }).await
        }
        BackupCommand::Release(args) => {
            change(context, args.instance.as_deref(), &args.backup, |id| Entry::Released { backup: id }).await
        }
    }
}

async fn create(context: &Context, args: BackupCreate) -> Result<()> {
    let instance = context.instance(args.instance.as_deref()).await?;
    let kind = if args.automated { BackupKind::Automated } else { BackupKind::Manual };
    let now = context.world.now();
    let request = BackupRequest {
        instance: instance.name.clone(),
        name: args.name.unwrap_or_else(|| default_name(&instance.name, kind, now)),
        kind,
        tags: parse_tags(&args.tags)?,
        fast: args.fast || (kind == BackupKind::Manual && !args.spread),
        jobs: usize::from(args.jobs),
        rate: args.rate,
        full_read: args.full_read,
    };
    let report = make(context, &instance, &request).await?;
    if args.json {
        show::json(&report_json(&report))
    } else {
        print_report(&report)
    }
    Ok(())
}

async fn make(context: &Context, instance: &Instance, request: &BackupRequest) -> Result<BackupReport> {
    instance.require_files().await?;
    let server = context.server(instance.config()?).await?;
    let (connection, contact) = context.contact(&server).await?;
    connection.close().await;
    let reader = context.reader(instance.config()?, &server, &contact).await?;
    let bar = context.bar();
    let report = backup::create(&instance.shelf, &server, reader, request, bar.clone()).await;
    bar.finish();
    Ok(report?)
}

/// The snapshot that is made before an instance is destroyed.
pub(crate) async fn final_snapshot(context: &Context, name: &str) -> Result<()> {
    let instance = context.instance(Some(name)).await?;
    let stamp = default_name(name, BackupKind::Manual, context.world.now()).replacen("-manual-", "-final-", 1);
    let request = BackupRequest {
        instance: name.to_owned(),
        name: stamp,
        kind: BackupKind::Manual,
        tags: BTreeMap::new(),
        fast: true,
        jobs: 2,
        rate: None,
        full_read: false,
    };
    let report = make(context, &instance, &request).await?;
    anstream::println!("final snapshot {}", report.backup.name);
    Ok(())
}

fn print_report(report: &BackupReport) {
    let backup = &report.backup;
    let sizes = &backup.sizes;
    anstream::println!("backup {} ({})", backup.name, short_id(backup.id));
    anstream::println!("  read    {} in {} files", bytes(sizes.read), sizes.files);
    anstream::println!("  stored  {} for {} of new or changed pages", bytes(sizes.stored), bytes(sizes.changed));
    match &report.parent {
        Some(parent) => anstream::println!("  shared  {} with {parent} and earlier backups", bytes(sizes.shared)),
        None => anstream::println!("  shared  nothing: there is no earlier backup to compare with"),
    }
    anstream::println!("  took    {}", duration(report.elapsed));
    anstream::println!("  checked {}", checked(&report.checks));
    anstream::println!("  restorable from {} on", time_from(backup.stopped));
    for taint in &backup.tainted {
        anstream::eprintln!("warning: tainted: {taint}");
    }
}

fn report_json(report: &BackupReport) -> Value {
    let state = BackupState::new(report.backup.clone(), Timestamp(report.backup.stopped));
    let mut value = backup_json(&state);
    value["elapsed_seconds"] = json!(report.elapsed.as_secs_f64());
    value["parent"] = json!(report.parent);
    value["vanished_files"] = json!(report.vanished);
    value["checks"] = checks_json(&report.checks);
    value
}

/// What was found true of a backup when it was committed. Each was tried; what fails is an error.
pub(crate) fn checked(checks: &ReadBack) -> String {
    let packs = match (checks.packs_looked_at, checks.packs) {
        (looked_at, all) if looked_at == all => String::new(),
        (looked_at, all) => format!(" ({looked_at} of {all} packs looked at)"),
    };
    let read_back = match checks.decoded_bytes {
        Some(_) => "read back",
        None => "not read back, because this key only writes",
    };
    format!("stored{packs}, not empty, {read_back}, recorded")
}

pub(crate) fn checks_json(checks: &ReadBack) -> Value {
    json!({
        "stored": true,
        "packs": checks.packs,
        "packs_looked_at": checks.packs_looked_at,
        "not_empty": true,
        "read_back": checks.decoded_bytes.is_some(),
        "read_back_bytes": checks.decoded_bytes,
        "recorded": true,
    })
}

pub(crate) fn backup_json(state: &BackupState) -> Value {
    let backup = &state.backup;
    json!({
        "id": backup.id.to_string(),
        "name": backup.name,
        "kind": backup.kind,
        "method": backup.method,
        "started": exact(backup.started),
        "stopped": exact(backup.stopped),
        "timeline": backup.timeline,
        "start_lsn": asof_postgres::lsn::Lsn(backup.start).to_string(),
        "stop_lsn": asof_postgres::lsn::Lsn(backup.stop).to_string(),
        "sizes": backup.sizes,
        "tainted": backup.tainted,
        "tags": state.tags,
        "hold": state.hold,
        "verified": state.verified.as_ref().map(|it| proven_json(json!(it), it.at, it.last_ok)),
        "drilled": state.drilled.as_ref().map(|it| proven_json(json!(it), it.at, it.last_ok)),
        "details": backup.details,
    })
}

/// A verification or a drill with its times.
fn proven_json(mut value: Value, at: Timestamp, last_ok: Option<Timestamp>) -> Value {
    value["at"] = json!(exact(at.0));
    value["last_ok"] = json!(last_ok.map(|at| exact(at.0)));
    value
}

/// When a verification or a drill was, and how it went: `drilled 2026-11-20 ok`. A failure does not hide an earlier success.
fn proven(what: &str, ok: bool, at: Timestamp, last_ok: Option<Timestamp>) -> String {
    let day = |at: Timestamp| time(at.0).chars().take(10).collect::<String>();
    match (ok, last_ok) {
        (true, _) => format!("{what} {} ok", day(at)),
        (false, None) => format!("{what} {} FAILED", day(at)),
        (false, Some(earlier)) => format!("{what} {} FAILED (ok {})", day(at), day(earlier)),
    }
}

async fn list(context: &Context, args: OneInstance) -> Result<()> {
    let instance = context.instance(args.name.as_deref()).await?;
    let journal = instance.shelf.journal().await?;
    let existing = journal.state().existing();
    if args.json {
        show::json(&json!(existing.iter().rev().map(|state| backup_json(state)).collect::<Vec<_>>()));
        return Ok(());
    }
    let row = |state: &&BackupState| {
        let backup = &state.backup;
        let kind = match (backup.method, backup.kind) {
            (Method::Logical, BackupKind::Manual) => "logical",
            (Method::Logical, BackupKind::Automated) => "logical, automated",
            (Method::Physical, BackupKind::Automated) => "automated",
            (Method::Physical, BackupKind::Manual) => "manual",
        };
        let mut notes: Vec<String> = state.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        notes.extend(state.hold.as_ref().map(|reason| format!("held: {reason}")));
        notes.extend(state.verified.as_ref().map(|it| proven("verified", it.ok, it.at, it.last_ok)));
        notes.extend(state.drilled.as_ref().map(|it| proven("drilled", it.ok, it.at, it.last_ok)));
        notes.extend(is_incomplete(backup).then(|| "INCOMPLETE".to_owned()));
        notes.extend((!backup.tainted.is_empty()).then(|| "TAINTED".to_owned()));
        vec![
            backup.name.clone(),
            short_id(backup.id),
            kind.to_owned(),
            time(backup.stopped),
            bytes(backup.sizes.total),
            bytes(backup.sizes.stored),
            notes.join(" "),
        ]
    };
    show::table(&["NAME", "ID", "KIND", "MADE", "SIZE", "STORED", "NOTES"], existing.iter().rev().map(row));
    Ok(())
}

/// Whether a dump is of less than its database.
fn is_incomplete(backup: &Backup) -> bool {
    let reasons = backup.details.get("incomplete").and_then(Value::as_array);
    backup.method == Method::Logical && reasons.is_none_or(|reasons| !reasons.is_empty())
}

async fn show_one(context: &Context, args: OneBackup) -> Result<()> {
    let instance = context.instance(args.instance.as_deref()).await?;
    let journal = instance.shelf.journal().await?;
    let state = find(&journal.state().existing(), &args.backup)?;
    let value = backup_json(state);
    if args.json {
        show::json(&value);
        return Ok(());
    }
    for (key, value) in value.as_object().into_iter().flatten().filter(|(key, _)| *key != "details") {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        anstream::println!("{key:10} {text}");
    }
    if state.backup.method == Method::Logical {
        dump_lines(&state.backup.details).iter().for_each(|(key, text)| anstream::println!("{key:10} {text}"));
    }
    Ok(())
}

/// What a dump holds.
fn dump_lines(details: &Value) -> Vec<(&'static str, String)> {
    let Ok(details) = serde_json::from_value::<Details>(details.clone()) else {
        return vec![("database", "its record cannot be read; update asof".to_owned())];
    };
    let database = &details.database;
    let rows = details.rows.map_or_else(String::new, |rows| format!(", {rows} rows"));
    let globals = if details.globals { "in it" } else { "not in it" };
    let mut lines = vec![
        ("database", format!("{} of PostgreSQL {}, {}", database.name, database.server_version, database.encoding)),
        ("holds", format!("{} tables{rows}", details.tables)),
        ("globals", format!("roles and tablespaces are {globals}")),
    ];
    lines.extend(details.incomplete.into_iter().map(|reason| ("INCOMPLETE", reason)));
    let keys = details.cut_foreign_keys.into_iter();
    lines.extend(keys.map(|key| {
        ("INCOMPLETE", format!("foreign key {} from {} to {} has one end only", key.name, key.from, key.to))
    }));
    lines
}

async fn delete(context: &Context, args: OneBackup) -> Result<()> {
    let reason = "deleted by the operator".to_owned();
    change(context, args.instance.as_deref(), &args.backup, |id| Entry::BackupDeleted { backup: id, reason }).await?;
    if !context.quiet {
        anstream::eprintln!("The backup is gone. Its space is freed by collection, which comes in a later version.");
    }
    Ok(())
}

/// Appends one decision about one backup.
async fn change(
    context: &Context,
    instance: Option<&str>,
    wanted: &str,
    entry: impl FnOnce(Id) -> Entry,
) -> Result<()> {
    let instance = context.instance(instance).await?;
    // Such keys may only write. The journal says so too, but in words about itself.
    instance.shelf.keyring.require_data_secret("a change to a backup")?;
    let mut journal: Journal<Lineage> = instance.shelf.journal().await?;
    let existing = journal.state().existing();
    let known = find(&existing, wanted)?;
    let (id, name) = (known.backup.id, known.backup.name.clone());
    let entry = entry(id);
    if let (Entry::BackupDeleted { .. }, Some(reason)) = (&entry, &known.hold) {
        let hint = format!("`asof backup release {name}` lifts the hold");
        return Err(Failure::refused(format!("backup {name} is held: {reason}"), hint));
    }
    let epoch = journal.state().epoch;
    journal.append(epoch, entry).await?;
    Ok(())
}

pub(crate) fn parse_tags(texts: &[String]) -> Result<BTreeMap<String, String>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && key.len() <= 128 && value.len() <= 256 => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => {
            Err(Failure::refused(format!("\"{text}\" is not a tag"), "write KEY=VALUE, at most 128 and 256 characters"))
        }
    };
    texts.iter().map(pair).collect()
}
