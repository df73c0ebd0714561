//! The status of an instance of which only logical backups are made: its dumps. There is no window, and no exposure that could
//! be measured.

use std::collections::BTreeMap;

use asof_engine::error::in_one_line;
use asof_engine::logical::Details;
use asof_engine::server::{Identity, check_identity};
use asof_repository::lineage::{Backup, Lineage};
use asof_world::Timestamp;
use serde_json::{Value, json};

use crate::config::InstanceConfig;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::show::{self, exact};

pub(super) async fn describe(context: &Context, name: &str, config: &InstanceConfig, state: &Lineage) -> Value {
    let now = context.world.now();
    let server = met(context, name, config, state).await.map_err(in_one_line);
    let (version, remark) = server.as_ref().ok().cloned().unzip();
    json!({
        "instance": name,
        "logical_only": true,
        "service": state.facts.get("service"),
        "backups": 0,
        "logical_backups": state.existing().len(),
        "databases": newest_of_each(state).into_values().map(|(backup, details)| of_dump(backup, &details, now)).collect::<Vec<_>>(),
        "server_version": version,
        "server_remark": remark.flatten(),
        "server_error": server.err(),
    })
}

/// The newest dump of each database. `existing` is ordered by time.
fn newest_of_each(state: &Lineage) -> BTreeMap<String, (&Backup, Details)> {
    let existing = state.existing().into_iter().map(|state| &state.backup);
    let with_details = existing.filter_map(|backup| {
        let details: Details = serde_json::from_value(backup.details.clone()).ok()?;
        Some((details.database.name.clone(), (backup, details)))
    });
    with_details.collect()
}

fn of_dump(backup: &Backup, details: &Details, now: Timestamp) -> Value {
    json!({
        "database": details.database.name,
        "last_dump": backup.name,
        "last_dump_time": exact(backup.started),
        "age_seconds": now.0.saturating_sub(backup.started).max(0) / 1_000_000,
        "tables": details.tables,
        "rows": details.rows,
        "incomplete": !details.incomplete.is_empty() || !details.cut_foreign_keys.is_empty(),
        "globals": details.globals,
    })
}

/// The version of the server, and what is to be remarked of it; why not, when it cannot be asked or is another one.
async fn met(
    context: &Context,
    name: &str,
    config: &InstanceConfig,
    state: &Lineage,
) -> Result<(String, Option<String>), Failure> {
    let (mut connection, contact) = context.contact(&context.server(config).await?).await?;
    let identity = Identity::ask(&mut connection, &contact).await;
    connection.close().await;
    Ok((contact.version, check_identity(name, state, &identity?)?))
}

pub(super) fn print(value: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
    let service = value["service"].as_str().filter(|service| *service != "none");
    anstream::println!();
    anstream::println!(
        "{} (logical backups only{})",
        text(&value["instance"]),
        service.map_or_else(String::new, |service| format!(": {service}"))
    );
    anstream::println!("  dumps     {}; each is one moment of one database", value["logical_backups"]);
    for dump in value["databases"].as_array().into_iter().flatten() {
        let age = std::time::Duration::from_secs(dump["age_seconds"].as_u64().unwrap_or(0));
        anstream::println!(
            "  {:9} {} ago: {} ({}), {} tables{}",
            text(&dump["database"]),
            show::duration(age),
            text(&dump["last_dump"]),
            text(&dump["last_dump_time"]),
            dump["tables"],
            if dump["incomplete"] == true { ", INCOMPLETE" } else { "" }
        );
    }
    match value["server_error"].as_str() {
        None => anstream::println!("  server    PostgreSQL {}", text(&value["server_version"])),
        Some(why) => anstream::println!("  server    unknown: {why}"),
    }
    if let Some(remark) = value["server_remark"].as_str() {
        anstream::println!("  WARNING   {remark}");
    }
    if value["logical_backups"] == 0 {
        anstream::println!("  WARNING   there is no dump: nothing can be brought back");
    }
    if value["void_journal_entries"].as_u64().unwrap_or(0) > 0 {
        anstream::println!("  WARNING   {} journal entries count for nothing", value["void_journal_entries"]);
    }
}
