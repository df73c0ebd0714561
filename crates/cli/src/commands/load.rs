//! `asof load`: a dump into a running instance.

use std::collections::BTreeMap;
use std::path::PathBuf;

use asof_engine::logical::{
    self, Clients, Conflict, Destination, DumpRequest, Existing, Finding, Format, LoadPlan, LoadReport, LoadRequest,
    Plan, Policy, Selection,
};
use asof_engine::server::Server;
use asof_engine::time::compact;
use asof_repository::lineage::BackupKind;
use serde_json::json;

use crate::args::{Load, OnConflict};
use crate::commands::dump::{clients, interrupted, plain};
use crate::commands::instance::confirmed;
use crate::commands::origin::named;
use crate::context::{Context, Instance};
use crate::failure::{Failure, Result};
use crate::show::{self, bytes, duration};

/// Where a dump goes.
struct Target {
    server: Server,
    /// The instance, when it is one of ours.
    instance: Option<Instance>,
    database: String,
}

pub(crate) async fn run(context: &Context, args: Load) -> Result<()> {
    let dump = named(context, &args.dump, args.instance.as_deref(), args.password_file.as_deref()).await?;
    let (origin, instance) = dump.open().await?;
    if let Some(remark) = origin.remark() {
        anstream::eprintln!("warning: {remark}");
    }
    let target = target(context, &args, instance.as_ref()).await?;
    let clients = clients(context, args.bindir.as_deref(), target.instance.as_ref()).await;
    let request = request(&args, &target.database);
    let server = if matches!(request.policy, Policy::IntoEmpty | Policy::IntoExisting) {
        target.server.clone()
    } else {
        maintenance(&target.server)
    };
    let plan = LoadPlan::make(&context.world, &clients, origin, &server, request).await?;
    if let (true, Some(instance)) = (args.replace, &target.instance) {
        plan.check_server(&instance.name, instance.shelf.journal().await?.state())?;
    }
    if args.dry_run {
        print_plan(&args, &target.database, &plan.findings);
    } else if !context.quiet && !args.json {
        plan.findings.iter().for_each(|finding| anstream::eprintln!("{}", line(finding)));
    }
    plan.require()?;
    if args.dry_run {
        return Ok(());
    }
    if args.replace
        && let Some(existing) = &plan.existing
    {
        // Whoever agrees has to have read it, whatever else is kept quiet.
        for reason in plan.incomplete() {
            anstream::eprintln!(
                "warning: the dump is INCOMPLETE: {reason}; {} will be no more than it",
                target.database
            );
        }
        agree(&args, &target.database, existing)?;
        if !args.no_safety_dump {
            safety_dump(context, &clients, &target).await?;
        }
    }
    let bar = context.bar();
    let loaded = logical::load(&plan, Box::pin(interrupted()), bar.as_ref()).await;
    bar.finish();
    report(&args, &loaded?);
    Ok(())
}

fn request(args: &Load, database: &str) -> LoadRequest {
    LoadRequest {
        database: database.to_owned(),
        policy: match (&args.new_database, args.replace) {
            (Some(_), _) => Policy::New,
            (None, true) => Policy::Replace,
            (None, false) if args.table.is_empty() => Policy::IntoEmpty,
            (None, false) => Policy::IntoExisting,
        },
        tables: args.table.clone(),
        conflict: match args.on_conflict {
            OnConflict::Fail => Conflict::Fail,
            OnConflict::Skip => Conflict::Skip,
            OnConflict::Replace => Conflict::Replace,
        },
        disable_triggers: args.disable_triggers,
        no_owner: args.no_owner,
        no_privileges: args.no_privileges,
        no_tablespaces: args.no_tablespaces,
        jobs: usize::from(args.jobs),
        locale: args.locale.clone(),
        analyze: !args.no_analyze,
    }
}

async fn target(context: &Context, args: &Load, of_backup: Option<&Instance>) -> Result<Target> {
    if let Some(database) = &args.new_database {
        let on = args.on.as_deref().or(of_backup.map(|instance| instance.name.as_str()));
        let on = on.ok_or_else(|| {
            Failure::refused("it is not said on which server", "name an instance or a connection string with --on")
        })?;
        let (server, instance) = context.named_server(on).await?;
        return Ok(Target { server, instance, database: database.clone() });
    }
    let Some(into) = &args.into else {
        let hint = "--new-database NAME makes one; --into INSTANCE/DATABASE or a connection string names one";
        return Err(Failure::refused("it is not said where to", hint));
    };
    let (server, instance) = match into.split_once('/').filter(|_| !into.contains("://") && !into.contains('=')) {
        Some((name, database)) => {
            let (mut server, instance) = context.named_server(name).await?;
            server.config.dbname = database.to_owned();
            (server, instance)
        }
        None if into.contains('=') || into.contains("://") => (context.server_of(into)?, None),
        None => {
            let what = format!("\"{into}\" does not say which database");
            return Err(Failure::refused(what, format!("write {into}/DATABASE, or a connection string")));
        }
    };
    let database = server.config.dbname.clone();
    Ok(Target { server, instance, database })
}

/// The same server, by a database that every server has: the one that is replaced cannot be renamed from within.
fn maintenance(server: &Server) -> Server {
    let mut server = server.clone();
    let other = if server.config.dbname == "postgres" { "template1" } else { "postgres" };
    server.config.dbname = other.to_owned();
    server
}

fn agree(args: &Load, database: &str, existing: &Existing) -> Result<()> {
    let Some(yes) = &args.yes else {
        let kept = match args.no_safety_dump {
            true => "nothing of it is kept",
            false => "a safety dump is made first; what is written into it afterwards is lost",
        };
        let holds = format!("{} relations, {}", existing.relations, bytes(existing.bytes));
        return match confirmed(&format!("This replaces database {database} ({holds}): {kept}."), database)? {
            true => Ok(()),
            false => {
                let hint = "type the name of the database, or give it with --yes";
                Err(Failure::refused("nothing was changed", hint))
            }
        };
    };
    match yes == database {
        true => Ok(()),
        false => {
            let what = format!("--yes names {yes}, and {database} would be replaced");
            Err(Failure::refused(what, "nothing was changed"))
        }
    }
}

/// What is replaced is kept: in the repository if its instance is in it, else in a file here.
async fn safety_dump(context: &Context, clients: &Clients, target: &Target) -> Result<()> {
    let mut server = target.server.clone();
    server.config.dbname.clone_from(&target.database);
    // Two loads may be made in one second.
    let id = &context.world.id().to_string()[..4];
    let name = format!("{}-before-load-{}-{id}", plain(&target.database), compact(context.world.now()));
    let destination = match &target.instance {
        Some(instance) => Destination::Repository(Box::new(instance.shelf.clone())),
        None => {
            let path = PathBuf::from(format!("{name}.dump"));
            Destination::File(std::path::absolute(&path).map_err(Failure::file("find", &path))?)
        }
    };
    let request = DumpRequest {
        name: name.clone(),
        kind: BackupKind::Manual,
        tags: BTreeMap::from([("reason".to_owned(), "before load".to_owned())]),
        format: Format::Custom,
        selection: Selection::default(),
        compress: None,
        globals: false,
        jobs: 1,
    };
    let plan = Plan::make(&context.world, clients, &server).await?;
    let bar = context.bar();
    let dumped = logical::dump(plan, &request, &destination, Box::pin(interrupted()), bar.clone()).await;
    bar.finish();
    let report = dumped?;
    let kept = report.files.first().map_or(name, |path| path.display().to_string());
    anstream::eprintln!("what {} held is kept as {kept}", target.database);
    Ok(())
}

fn line(finding: &Finding) -> String {
    match &finding.result {
        Ok(found) => format!("ok      {:12} {found}", finding.what),
        Err(why) => format!("FAILED  {:12} {why}", finding.what),
    }
}

fn print_plan(args: &Load, database: &str, findings: &[Finding]) {
    if !args.json {
        findings.iter().for_each(|finding| anstream::println!("{}", line(finding)));
        return;
    }
    let checks = findings.iter().map(|finding| match &finding.result {
        Ok(found) => json!({ "check": finding.what, "ok": true, "found": found }),
        Err(why) => json!({ "check": finding.what, "ok": false, "found": why }),
    });
    show::json(&json!({ "database": database, "checks": checks.collect::<Vec<_>>() }));
}

fn report(args: &Load, report: &LoadReport) {
    if args.json {
        show::json(&json!({
            "database": report.database,
            "tables": report.tables,
            "bytes": report.bytes,
            "remarks": report.remarks,
            "elapsed_seconds": report.elapsed.as_secs_f64(),
        }));
        return;
    }
    anstream::println!("loaded into database {}", report.database);
    if let Some(tables) = report.tables {
        anstream::println!("  tables  {tables}");
    }
    anstream::println!("  took    {}", duration(report.elapsed));
    report.remarks.iter().for_each(|remark| anstream::eprintln!("warning: {remark}"));
}
