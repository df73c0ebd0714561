//! `asof drill`: a dump is loaded into a server that is thrown away, looked at, and measured.

use std::path::{Path, PathBuf};
use std::time::Duration;

use asof_engine::logical::{self, DrillReport, DrillRequest, SqlCheck, Subject};
use asof_engine::runtime::{ServerUser, leftovers};
use serde_json::json;

use crate::args::Drill;
use crate::commands::dump::{clients, interrupted, plan};
use crate::commands::origin::{Named, named};
use crate::context::{Context, Instance, variable};
use crate::failure::{Failure, Result};
use crate::show::{self, duration};

/// What the directories of drills are called.
const PREFIX: &str = "asof-drill-";

pub(crate) async fn run(context: &Context, args: Drill) -> Result<()> {
    name_leftovers(context, args.user.as_deref()).await;
    let report = match (&args.practical, &args.dump) {
        (Some(name), _) => practical(context, &args, name).await?,
        (None, Some(dump)) => of_dump(context, &args, dump).await?,
        (None, None) => return Err(Failure::refused("it is not said what to drill", "name a dump with --dump")),
    };
    if args.json {
        show::json(&json!(report));
    } else {
        print_report(&report);
    }
    Ok(report.require()?)
}

async fn of_dump(context: &Context, args: &Drill, dump: &str) -> Result<DrillReport> {
    let dump = named(context, dump, args.instance.as_deref(), args.password_file.as_deref()).await?;
    let bar = context.bar();
    let done = match dump {
        Named::Stored { instance, backup } => {
            let request = request(context, args, Some(&instance), instance.checks())?;
            let clients = clients(context, args.bindir.as_deref(), Some(&instance)).await;
            let cancelled = Box::pin(interrupted());
            logical::drill_stored(&instance.shelf, &backup, &clients, &request, cancelled, bar.clone()).await
        }
        Named::File(origin) => {
            // A file belongs to no instance; the checks of one count when it is named.
            let checks = match &args.instance {
                Some(name) => context.pick(&context.loaded()?, Some(name))?.1.checks.clone(),
                None => Vec::new(),
            };
            let request = request(context, args, None, &checks)?;
            let clients = clients(context, args.bindir.as_deref(), None).await;
            let (subject, cancelled) = (Subject::Dump(origin), Box::pin(interrupted()));
            logical::drill(&context.world, &clients, subject, &request, cancelled, bar.clone()).await
        }
    };
    bar.finish();
    Ok(done?)
}

/// Dump, load and comparison in one go; the repository is not involved.
async fn practical(context: &Context, args: &Drill, name: &str) -> Result<DrillReport> {
    let (mut server, instance) = context.named_server(name).await?;
    if let Some(database) = &args.database {
        server.config.dbname.clone_from(database);
    }
    let checks = instance.as_ref().map(|instance| instance.checks()).unwrap_or_default();
    let request = request(context, args, instance.as_ref(), checks)?;
    let clients = clients(context, args.bindir.as_deref(), instance.as_ref()).await;
    let plan = plan(context, &clients, &server, instance.as_ref()).await?;
    let bar = context.bar();
    let (subject, cancelled) = (Subject::Practical(Box::new(plan)), Box::pin(interrupted()));
    let done = logical::drill(&context.world, &clients, subject, &request, cancelled, bar.clone()).await;
    bar.finish();
    Ok(done?)
}

fn request(context: &Context, args: &Drill, instance: Option<&Instance>, checks: &[SqlCheck]) -> Result<DrillRequest> {
    Ok(DrillRequest {
        user: args.user.clone(),
        jobs: usize::from(args.jobs),
        locale: args.locale.clone(),
        checks: chosen(checks, &args.check)?,
        ..throw_away(context, args.bindir.as_deref(), instance)
    })
}

/// A throw-away server with nothing asked of it.
pub(crate) fn throw_away(context: &Context, bindir: Option<&Path>, instance: Option<&Instance>) -> DrillRequest {
    DrillRequest {
        directory: std::env::temp_dir().join(format!("{PREFIX}{}", &context.world.id().to_string()[..8])),
        bindir: bindir.map(Path::to_owned).or_else(|| instance.and_then(Instance::bindir)),
        path_variable: variable("PATH"),
        user: None,
        environment: context.environment(),
        jobs: 2,
        locale: None,
        checks: Vec::new(),
    }
}

/// The checks that were named, or all.
fn chosen(checks: &[SqlCheck], names: &[String]) -> Result<Vec<SqlCheck>> {
    let find = |name: &String| {
        checks.iter().find(|check| check.name == *name).cloned().ok_or_else(|| {
            let known: Vec<&str> = checks.iter().map(|check| check.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Failure::refused(format!("there is no check \"{name}\""), format!("known checks: {known}"))
        })
    };
    match names.is_empty() {
        true => Ok(checks.to_vec()),
        false => names.iter().map(find).collect(),
    }
}

/// Whoever was killed could not clear up. Nothing is removed that nobody asked to remove.
async fn name_leftovers(context: &Context, user: Option<&str>) {
    let Ok(user) = ServerUser::choose(&context.world, user, None).await else { return };
    let place: PathBuf = std::env::temp_dir();
    for left in leftovers(&context.world, Path::new(&place), PREFIX, &user).await {
        let directory = left.directory.display();
        match left.pid {
            None => anstream::eprintln!(
                "warning: a drill or comparison that was killed left {directory}; rm -r {directory}"
            ),
            Some(pid) => anstream::eprintln!(
                "warning: the server of a drill or comparison that was killed still runs; kill -QUIT {pid}, then rm -r {directory}"
            ),
        }
    }
}

fn print_report(report: &DrillReport) {
    let took = |ms: u64| duration(Duration::from_millis(ms));
    let verdict = if report.passed { "passed" } else { "FAILED" };
    let version = report.server_version.as_ref().map_or_else(String::new, |it| format!(" on PostgreSQL {it}"));
    anstream::println!("drill of {}{version}", report.dump);
    let steps = report.steps.iter().map(|step| (step.ok, step.what.clone(), step.found.clone(), step.elapsed_ms));
    let checks = report.checks.iter().map(|check| {
        let seen = format!("{}   (must be: {})", check.value, check.expected);
        (check.ok, format!("check {}", check.name), seen, check.elapsed_ms)
    });
    let rows: Vec<_> = steps.chain(checks).collect();
    let width = rows.iter().map(|(_, what, ..)| what.chars().count()).max().unwrap_or(0);
    for (ok, what, found, elapsed) in rows {
        let mark = if ok { "ok    " } else { "FAILED" };
        // The error that follows says what else there is to say.
        let found = found.lines().next().unwrap_or_default();
        anstream::println!("  {mark}  {what:width$}  {:>8}  {found}", took(elapsed));
    }
    if let Some(load) = report.load_ms {
        anstream::println!("  the load took {}, everything {}", took(load), took(report.total_ms));
    }
    anstream::println!("{verdict}; nothing of the server is left");
    report.remarks.iter().for_each(|remark| anstream::eprintln!("warning: {remark}"));
}
