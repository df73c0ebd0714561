//! `asof dump`: one database, into the repository or into a file.

use std::path::{Path, PathBuf};

use asof_engine::logical::{self, Clients, Destination, DumpReport, DumpRequest, Format, Plan, Selection};
use asof_engine::restore::short_id;
use asof_engine::server::Server;
use asof_engine::time::compact;
use asof_repository::lineage::{BackupKind, BackupState};
use serde_json::{Value, json};

use crate::args::{Dump, DumpFormat};
use crate::commands::backup::{backup_json, checked, checks_json, parse_tags};
use crate::context::{Context, Instance, variable};
use crate::failure::{Failure, Result};
use crate::show::{self, bytes, duration};

pub(crate) async fn run(context: &Context, args: Dump) -> Result<()> {
    let (source, instance) = source(context, &args).await?;
    let clients = clients(context, args.bindir.as_deref(), instance.as_ref()).await;
    let bar = context.bar();
    let mut plan = plan(context, &clients, &source, instance.as_ref()).await?;
    let database = plan.database().name.clone();
    let request = request(context, &args, instance.as_ref(), &database)?;
    let destination = destination(context, &args, instance, &database, request.format)?;
    refuse_idle_jobs(&request, &destination)?;
    if args.dry_run {
        plan.rehearse(&request, &destination).await?;
        match args.json {
            true => show::json(&plan_json(&plan, &request, &destination)),
            false => print_plan(&plan, &request, &destination),
        }
        plan.close().await;
        return Ok(());
    }
    let dumped = logical::dump(plan, &request, &destination, Box::pin(interrupted()), bar.clone()).await;
    bar.finish();
    let report = dumped?;
    if args.json {
        show::json(&report_json(&report));
    } else {
        print_report(&report);
    }
    Ok(())
}

/// Refused where the server is another one than was registered.
pub(crate) async fn plan(
    context: &Context,
    clients: &Clients,
    server: &Server,
    instance: Option<&Instance>,
) -> Result<Plan> {
    let mut plan = Plan::make(&context.world, clients, server).await?;
    if let Some(instance) = instance {
        plan.check_server(&instance.name, instance.shelf.journal().await?.state())?;
    }
    Ok(plan)
}

/// The work, or that the operator ended it: dropped, it takes back what it began.
pub(crate) async fn interruptible<T, E: Into<Failure>>(work: impl Future<Output = Result<T, E>>) -> Result<T> {
    tokio::select! {
        result = work => result.map_err(Into::into),
        () = interrupted() => Err(asof_engine::Error::Interrupted.into()),
    }
}

/// Completes when the operator or the system wants us to end.
pub(crate) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The server, its database chosen, and the instance unless it is named by a connection string.
async fn source(context: &Context, args: &Dump) -> Result<(Server, Option<Instance>)> {
    let (mut server, instance) = match &args.pg {
        Some(pg) => (context.server_of(pg)?, None),
        None => {
            let instance = context.instance(args.instance.as_deref()).await?;
            (context.server(instance.config()?).await?, Some(instance))
        }
    };
    if let Some(database) = &args.database {
        server.config.dbname.clone_from(database);
    }
    Ok((server, instance))
}

/// The client programs of this machine: where the command line says, or the configuration, or the usual places.
pub(crate) async fn clients(context: &Context, bindir: Option<&Path>, instance: Option<&Instance>) -> Clients {
    let bindir = bindir.map(Path::to_owned).or_else(|| instance.and_then(Instance::bindir));
    Clients::find(&context.world, bindir.as_deref(), variable("PATH").as_deref()).await
}

fn request(context: &Context, args: &Dump, instance: Option<&Instance>, database: &str) -> Result<DumpRequest> {
    let of = instance.map_or_else(String::new, |instance| format!("{}-", instance.name));
    let stamp = compact(context.world.now());
    let name = args.name.clone().unwrap_or_else(|| format!("{of}{}-dump-{stamp}", plain(database)));
    Ok(DumpRequest {
        name,
        kind: BackupKind::Manual,
        tags: parse_tags(&args.tags)?,
        format: match args.format {
            DumpFormat::Custom => Format::Custom,
            DumpFormat::Directory => Format::Directory,
            DumpFormat::Plain => Format::Plain,
        },
        selection: Selection {
            schema_only: args.schema_only,
            data_only: args.data_only,
            tables: args.table.clone(),
            exclude_tables: args.exclude_table.clone(),
            schemas: args.schema.clone(),
            exclude_schemas: args.exclude_schema.clone(),
            exclude_table_data: args.exclude_table_data.clone(),
        },
        compress: args.compress.clone(),
        globals: args.globals,
        jobs: usize::from(args.jobs),
    })
}

fn destination(
    context: &Context,
    args: &Dump,
    instance: Option<Instance>,
    database: &str,
    format: Format,
) -> Result<Destination> {
    if let (Some(instance), None) = (&instance, &args.out) {
        if args.compress.is_some() {
            let what = "the repository compresses by itself";
            return Err(Failure::refused(what, "leave --compress out, or dump into a file with --out"));
        }
        return Ok(Destination::Repository(Box::new(instance.shelf.clone())));
    }
    let stamped = stamped(context, database, format);
    let path = match args.out.clone().flatten() {
        None => stamped,
        Some(directory) if directory.is_dir() && directory.read_dir().is_ok() && !is_dump(&directory) => {
            directory.join(stamped)
        }
        Some(path) if path.as_os_str() == "-" => {
            let what = "a dump is written under a name that it gets when it is whole, and not to standard output";
            return Err(Failure::refused(what, "name a file with --out; ./- is the file of that name"));
        }
        // A directory may be called one.
        Some(path) if format == Format::Directory => path.components().collect(),
        Some(path) => path,
    };
    let path = std::path::absolute(&path).map_err(Failure::file("find", &path))?;
    Ok(Destination::File(path))
}

/// Several processes are asked for only by who expects them.
fn refuse_idle_jobs(request: &DumpRequest, destination: &Destination) -> Result<()> {
    let (what, hint) = match (request.format, destination) {
        _ if request.jobs < 2 => return Ok(()),
        (Format::Plain, _) => ("SQL is written by one process", "leave --jobs out, or choose another --format"),
        (Format::Custom, Destination::File(_)) => {
            ("a file is written by one process", "add --format directory, or leave --jobs out")
        }
        (Format::Custom | Format::Directory, Destination::Repository(_)) if !request.selection.is_everything() => {
            ("a selection goes into the repository by one process", "leave --jobs out")
        }
        _ => return Ok(()),
    };
    Err(Failure::refused(what, hint))
}

fn is_dump(directory: &Path) -> bool {
    directory.join("toc.dat").exists()
}

/// The name of a database as part of the name of a file or a backup: it may hold anything, and neither a place nor a line end comes along.
pub(crate) fn plain(database: &str) -> String {
    database.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

/// `DATABASE_YYYYMMDD_HHMMSS`, with an ending that says how it is laid out.
fn stamped(context: &Context, database: &str, format: Format) -> PathBuf {
    let ending = match format {
        Format::Custom => ".dump",
        Format::Directory => ".dir",
        Format::Plain => ".sql",
    };
    format!("{}_{}{ending}", plain(database), compact(context.world.now()).replace('-', "_")).into()
}

fn print_plan(plan: &Plan, request: &DumpRequest, destination: &Destination) {
    let (tables, size) = plan.tables();
    let database = plan.database();
    anstream::println!("would dump {} of PostgreSQL {}", database.name, database.server_version);
    anstream::println!("  tables  {tables} with {} on the server's disk", bytes(size));
    anstream::println!("  client  pg_dump {} in {}", plan.client().version, plan.client().dir.display());
    match destination {
        Destination::Repository(_) => anstream::println!("  into    the repository, as {}", request.name),
        Destination::File(path) => anstream::println!("  into    {}", path.display()),
    }
    plan.remark().into_iter().for_each(|remark| anstream::eprintln!("warning: {remark}"));
}

fn plan_json(plan: &Plan, request: &DumpRequest, destination: &Destination) -> Value {
    let ((tables, size), client) = (plan.tables(), plan.client());
    let into = match destination {
        Destination::Repository(_) => json!({ "backup": request.name }),
        Destination::File(path) => json!({ "file": path }),
    };
    json!({
        "database": plan.database(),
        "tables": tables,
        "bytes": size,
        "client": { "version": client.version, "directory": client.dir },
        "into": into,
        "remarks": plan.remark().into_iter().collect::<Vec<_>>(),
    })
}

fn print_report(report: &DumpReport) {
    let details = &report.details;
    match (&report.backup, report.files.first()) {
        (Some(backup), _) => anstream::println!("dump {} ({})", backup.name, short_id(backup.id)),
        (None, Some(path)) => anstream::println!("dump {}", path.display()),
        (None, None) => {}
    }
    let rows = details.rows.map_or_else(String::new, |rows| format!(", {rows} rows"));
    anstream::println!("  holds   {} tables{rows} of database {}", details.tables, details.database.name);
    match &report.backup {
        Some(backup) => {
            anstream::println!("  stored  {} for {} of pg_dump", bytes(backup.sizes.stored), bytes(details.bytes));
        }
        None => anstream::println!("  size    {}", bytes(details.bytes)),
    }
    anstream::println!("  took    {}", duration(report.elapsed));
    let checked = report.checks.as_ref().map_or_else(|| "stored, not empty".to_owned(), checked);
    anstream::println!("  checked {checked}; decoded to its end and held against the tables of the server");
    report.files.iter().skip(1).for_each(|path| anstream::println!("  beside  {}", path.display()));
    let not = if details.globals {
        "other databases, WAL"
    } else {
        "roles and tablespaces (--globals), other databases, WAL"
    };
    anstream::println!("  not in it: {not}; it is this one moment, and no other can be restored from it");
    for reason in &details.incomplete {
        anstream::println!("  INCOMPLETE: {reason}");
    }
    for key in &details.cut_foreign_keys {
        anstream::println!("  INCOMPLETE: foreign key {} from {} to {} has one end only", key.name, key.from, key.to);
    }
    for remark in &report.remarks {
        anstream::eprintln!("warning: {remark}");
    }
}

fn report_json(report: &DumpReport) -> Value {
    let mut value = match &report.backup {
        None => json!({ "details": report.details }),
        Some(backup) => backup_json(&BackupState::new(backup.clone(), asof_world::Timestamp(backup.stopped))),
    };
    value["files"] = json!(report.files);
    value["tables"] = json!(report.tables);
    value["remarks"] = json!(report.remarks);
    value["checks"] = report.checks.as_ref().map_or(Value::Null, checks_json);
    value["elapsed_seconds"] = json!(report.elapsed.as_secs_f64());
    value
}
