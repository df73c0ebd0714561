//! `asof instance`: what is protected, and servers that asof made.

mod add;

use std::path::PathBuf;

use asof_engine::runtime::{self, Endpoint, Instance as Made, Status, StopMode};
use asof_engine::server;
use asof_engine::source::grants as sql_grants;
use asof_engine::wal::receiver::slot_name;
use asof_postgres::conninfo::Settings;
use asof_postgres::version::Major;
use asof_repository::root::Repository;
use serde_json::json;

use crate::args::{ConnectionForm, Grants, InstanceCommand, OneInstance};
use crate::commands::backup;
use crate::config::{self, InstanceConfig};
use crate::context::{Context, conninfo_refused, resolve};
use crate::failure::{Failure, Result};
use crate::show;

pub(crate) async fn run(context: &Context, command: InstanceCommand) -> Result<()> {
    match command {
        InstanceCommand::Add(args) => add::run(context, args).await,
        InstanceCommand::List { json } => list(context, json).await,
        InstanceCommand::Show(args) => show_one(context, args).await,
        InstanceCommand::Remove { name } => remove(context, &name).await,
        InstanceCommand::Grants(args) => grants(context, args).await,
        InstanceCommand::Connection { name, format, database } => {
            connection(context, name.as_deref(), format, &database).await
        }
        InstanceCommand::Start { name } => start(context, &name).await,
        InstanceCommand::Stop { name } => stop(context, &name).await,
        InstanceCommand::Adopt { name, yes } => adopt(context, &name, yes).await,
        InstanceCommand::Destroy { name, no_final_snapshot, yes } => {
            destroy(context, &name, no_final_snapshot, yes).await
        }
    }
}

async fn list(context: &Context, as_json: bool) -> Result<()> {
    let loaded = context.loaded()?;
    let repository = context.repository(&loaded).await?;
    let mut rows = Vec::new();
    for (name, config) in &loaded.config.instances {
        rows.push((name.clone(), describe(&repository, name, config).await?));
    }
    if as_json {
        let rows: Vec<_> = rows.into_iter().map(|(_, description)| description).collect();
        show::json(&json!(rows));
        return Ok(());
    }
    let cell = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let line = |(name, d): (String, serde_json::Value)| {
        let by = if d["logical_only"] == true { "dumps only" } else { "files and WAL" };
        vec![name, cell(&d["major"]), by.to_owned(), cell(&d["made_by_asof"]), cell(&d["backups"]), cell(&d["where"])]
    };
    show::table(&["NAME", "MAJOR", "BACKED UP BY", "MADE BY ASOF", "BACKUPS", "WHERE"], rows.into_iter().map(line));
    Ok(())
}

async fn describe(repository: &Repository, name: &str, config: &InstanceConfig) -> Result<serde_json::Value> {
    let place =
        config.run_directory.as_ref().map_or_else(|| config.conninfo.clone(), |path| path.display().to_string());
    let Some(lineage) = repository.lineage_of(name) else {
        return Ok(json!({ "name": name, "lineage": null, "major": null, "backups": 0, "where": place,
            "made_by_asof": config.run_directory.is_some() }));
    };
    let journal = repository.lineage(lineage).await?;
    let facts = &journal.state().facts;
    let mut description = json!({
        "name": name,
        "lineage": lineage.to_string(),
        "major": facts.get("major"),
        "system_identifier": facts.get("system_identifier"),
        "logical_only": config.logical || server::is_logical_only(facts),
        "backups": journal.state().existing().len(),
        "where": place,
        "made_by_asof": config.run_directory.is_some(),
    });
    if let Some(service) = facts.get("service") {
        description["service"] = service.clone();
    }
    Ok(description)
}

async fn show_one(context: &Context, args: OneInstance) -> Result<()> {
    let loaded = context.loaded()?;
    let (name, config) = context.pick(&loaded, args.name.as_deref())?;
    let repository = context.repository(&loaded).await?;
    let mut description = describe(&repository, name, config).await?;
    if let Some(run_directory) = &config.run_directory {
        let made = Made::read(&context.world, run_directory).await?;
        let overrides = made.overrides.iter().map(|o| json!({ "name": o.name, "value": o.value, "why": o.why }));
        description["overrides"] = overrides.collect();
        description["port"] = json!(made.port);
        description["data_directory"] = json!(made.data_directory);
    }
    if args.json {
        show::json(&description);
        return Ok(());
    }
    for (key, value) in description.as_object().into_iter().flatten().filter(|(key, _)| *key != "overrides") {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        anstream::println!("{key:18} {text}");
    }
    let Some(overrides) = description["overrides"].as_array() else { return Ok(()) };
    anstream::println!();
    let cell = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    show::table(
        &["OVERRIDDEN", "VALUE", "WHY"],
        overrides.iter().map(|o| vec![cell(&o["name"]), cell(&o["value"]), cell(&o["why"])]),
    );
    Ok(())
}

async fn remove(context: &Context, name: &str) -> Result<()> {
    let loaded = context.loaded()?;
    let (_, config) = context.pick(&loaded, Some(name))?;
    if config.run_directory.is_some() {
        let what = format!("{name} is a server that asof made");
        return Err(Failure::refused(what, format!("`asof instance destroy {name}` stops it and removes its files")));
    }
    let logical_only = config.logical;
    let slot = context.instance(Some(name)).await.map(|it| (!logical_only).then(|| slot_name(&it.shelf)));
    config::set_instance(&loaded.path, name, None)?;
    let ours = loaded.path.with_file_name(format!("asof-{name}.pgpass"));
    if config.passfile.as_ref() == Some(&ours) && std::fs::remove_file(&ours).is_ok() {
        anstream::println!("removed {}", ours.display());
    }
    anstream::println!(
        "{name} is no longer configured; its backups stay in the repository and can be restored by this name"
    );
    if let Ok(Some(slot)) = slot {
        anstream::println!("If its WAL was received, the server keeps WAL for us until you drop the slot there:");
        anstream::println!(
            "  SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}';"
        );
    }
    Ok(())
}

/// Rights are wanted before the instance is added, and perhaps before anybody may connect.
async fn grants(context: &Context, args: Grants) -> Result<()> {
    let major = match (args.major, &args.pg) {
        (Some(major), _) => Major::from_number(u32::from(major)).ok_or_else(|| {
            Failure::refused(format!("PostgreSQL {major} is not supported"), "asof protects 13 to 18")
        })?,
        (None, Some(pg)) => {
            let settings = Settings::parse(pg).map_err(conninfo_refused)?;
            contacted(context, &resolve(settings, context.environment())?).await?
        }
        (None, None) => {
            let loaded = context.loaded()?;
            let (name, config) = context.pick(&loaded, args.name.as_deref())?;
            if config.logical {
                let what = format!("{name} is only dumped, and these rights are for reading its files");
                return Err(Failure::refused(what, format!("`asof check {name}` names what its role cannot dump")));
            }
            contacted(context, &context.server(config).await?).await?
        }
    };
    for line in sql_grants(major, &args.role) {
        anstream::println!("{line}");
    }
    Ok(())
}

async fn contacted(context: &Context, server: &server::Server) -> Result<Major> {
    let (connection, contact) = context.contact(server).await?;
    connection.close().await;
    Ok(contact.major)
}

async fn connection(context: &Context, name: Option<&str>, form: ConnectionForm, database: &str) -> Result<()> {
    let loaded = context.loaded()?;
    let (name, config) = context.pick(&loaded, name)?;
    let endpoint = match &config.run_directory {
        Some(run_directory) => {
            let made = Made::read(&context.world, run_directory).await?;
            Endpoint::of(&made, database, &made.role.clone())
        }
        None => {
            let server = context.server(config).await?;
            let host = server.config.hosts.first().ok_or_else(|| {
                Failure::refused(format!("{name} has no host"), "add it again with `asof instance add`")
            })?;
            Endpoint {
                host: host.to_string(),
                port: host.port,
                database: database.to_owned(),
                role: server.config.user.clone(),
            }
        }
    };
    let text = match form {
        ConnectionForm::Uri => endpoint.uri() + "\n",
        ConnectionForm::Jdbc => endpoint.jdbc() + "\n",
        ConnectionForm::Env => endpoint.dotenv(),
        ConnectionForm::Helm => endpoint.helm_values(),
    };
    anstream::print!("{text}");
    Ok(())
}

/// The run directory of a server that asof made.
fn made(context: &Context, name: &str) -> Result<PathBuf> {
    let loaded = context.loaded()?;
    let (_, config) = context.pick(&loaded, Some(name))?;
    config.run_directory.clone().ok_or_else(|| {
        Failure::refused(format!("{name} is not a server that asof made"), "asof starts and stops only its own servers")
    })
}

async fn start(context: &Context, name: &str) -> Result<()> {
    let run_directory = made(context, name)?;
    let bar = context.bar();
    let running = runtime::start_again(&context.world, &run_directory, Default::default(), bar.as_ref()).await;
    bar.finish();
    let running = running?;
    anstream::println!("{name} runs on port {} (pid {})", running.instance.port, running.pid);
    Ok(())
}

async fn stop(context: &Context, name: &str) -> Result<()> {
    let run_directory = made(context, name)?;
    let made = Made::read(&context.world, &run_directory).await?;
    runtime::stop(&context.world, &made.data_directory, StopMode::Fast).await?;
    anstream::println!("{name} is stopped");
    Ok(())
}

async fn adopt(context: &Context, name: &str, yes: bool) -> Result<()> {
    let run_directory = made(context, name)?;
    for setting in runtime::would_lift(&context.world, &run_directory).await? {
        anstream::println!("lifts {} = '{}'  ({})", setting.name, setting.value, setting.why);
    }
    let what = format!("{name} will archive, replicate and work for itself again.");
    if !yes && !confirmed(&what, name)? {
        return Err(Failure::refused("nothing was lifted", "type the name of the instance, or give --yes"));
    }
    let bar = context.bar();
    let adopted = runtime::adopt(&context.world, &run_directory, bar.as_ref()).await;
    bar.finish();
    let adopted = adopted?;
    anstream::println!("{name} is production again, on port {}", adopted.running.instance.port);
    Ok(())
}

async fn destroy(context: &Context, name: &str, no_final_snapshot: bool, yes: bool) -> Result<()> {
    let run_directory = made(context, name)?;
    if !yes && !confirmed(&format!("This removes every file of {name}."), name)? {
        return Err(Failure::refused("nothing was destroyed", "type the name of the instance, or give --yes"));
    }
    let made = Made::read(&context.world, &run_directory).await?;
    if !no_final_snapshot {
        if !matches!(runtime::status(&context.world, &made.data_directory).await?, Status::Running { .. }) {
            let what = format!("{name} does not run, so that no final snapshot can be made");
            return Err(Failure::refused(what, format!("`asof instance start {name}`, or give --no-final-snapshot")));
        }
        backup::final_snapshot(context, name).await?;
    }
    runtime::stop(&context.world, &made.data_directory, StopMode::Fast).await?;
    let destroyed = runtime::destroy(&context.world, &run_directory).await?;
    let loaded = context.loaded()?;
    config::set_instance(&loaded.path, name, None)?;
    for path in destroyed.removed {
        anstream::println!("removed {}", path.display());
    }
    for path in destroyed.left {
        anstream::println!("left    {} (a tablespace outside of the data directory)", path.display());
    }
    if !no_final_snapshot {
        anstream::println!(
            "its backups stay in the repository: asof backup list {name}; asof restore {name} --latest --as NEWNAME"
        );
    }
    Ok(())
}

pub(crate) fn confirmed(what: &str, name: &str) -> Result<bool> {
    anstream::eprint!("{what} Type its name to go on: ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(Failure::file("read", "standard input"))?;
    Ok(answer.trim() == name)
}
