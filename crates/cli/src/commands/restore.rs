//! `asof restore`: the plan, and then the files or a running instance.

use std::path::{Path, PathBuf};

use asof_engine::restore::{self, Existing, NewInstance, Plan, Prepared, RestoreRequest, WriteOptions};
use asof_engine::runtime::{Override, ServerUser};
use asof_engine::target::{Landmark, Target, Wanted};
use asof_engine::time;
use asof_postgres::lsn::{Lsn, Timeline};
use serde_json::{Value, json};

use crate::args::{Restore, TargetArgs};
use crate::commands::instance::confirmed;
use crate::config::{self, Loaded};
use crate::context::{Context, Instance, variable};
use crate::failure::{Failure, Result};
use crate::show::{self, bytes, duration};

pub(crate) async fn run(context: &Context, args: Restore) -> Result<()> {
    let loaded = context.loaded()?;
    let instance = context.instance(args.instance.as_deref()).await?;
    if args.as_instance.is_none() && args.to.is_none() && !args.dry_run {
        let what = "it is not said where to restore to";
        return Err(Failure::refused(what, "--as NEWNAME makes a running instance, --to DIRECTORY writes files"));
    }
    if let Some(name) = &args.as_instance
        && loaded.config.instances.contains_key(name)
    {
        let what = format!("there is an instance \"{name}\" already");
        return Err(Failure::refused(what, "choose another name; a restore never replaces an instance"));
    }
    let directory = new_directory(&loaded, &args)?;
    let request = RestoreRequest {
        instance: instance.name.clone(),
        backup: args.backup.clone(),
        wanted: Wanted { target: target(&args.target)?, inclusive: !args.exclusive },
        timeline: args.target_timeline.map(Timeline),
        destination: destination(&args, &directory)?,
    };
    let began = context.world.monotonic();
    let plan = restore::plan(&instance.shelf, &request).await?;
    if args.dry_run || !args.json {
        print_plan(&plan, args.json);
    }
    if args.delta {
        let place = plan.destination.display();
        anstream::eprintln!("--delta makes {place} equal to the backup and removes whatever else lies in it");
    }
    let prepared = match &args.as_instance {
        Some(name) => Some(prepared(&instance, &plan, &args, name, &directory).await?),
        None => None,
    };
    if args.dry_run {
        return Ok(());
    }
    if args.delta && !args.yes {
        let name = plan.destination.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !confirmed("This cannot be undone.", &name)? {
            return Err(Failure::refused("nothing was changed", "type the name of the directory, or give --yes"));
        }
    }
    match prepared {
        Some(prepared) => into_instance(context, &loaded, &instance, &plan, &args, prepared).await?,
        None => into_directory(context, &instance, &plan, &args).await?,
    }
    if !args.json {
        anstream::println!("done in {}", duration(context.world.monotonic() - began));
    }
    Ok(())
}

/// Where the files go; nowhere for a mere look at the plan.
fn destination(args: &Restore, directory: &Path) -> Result<PathBuf> {
    match (&args.to, &args.as_instance) {
        (Some(to), _) => std::path::absolute(to).map_err(Failure::file("find", to)),
        (None, Some(_)) => Ok(directory.join("data")),
        (None, None) => Ok(PathBuf::new()),
    }
}

fn new_directory(loaded: &Loaded, args: &Restore) -> Result<PathBuf> {
    let Some(name) = &args.as_instance else { return Ok(PathBuf::new()) };
    let beside = loaded.path.parent().unwrap_or(Path::new("/")).join("instances").join(name);
    let directory = args.directory.clone().unwrap_or(beside);
    std::path::absolute(&directory).map_err(Failure::file("find", directory))
}

fn target(args: &TargetArgs) -> Result<Target> {
    if let Some(text) = &args.target_time {
        let at = time::parse(text).map_err(|what| Failure::refused(what, "times are RFC 3339 with an offset"))?;
        return Ok(Target::Time(at));
    }
    if let Some(text) = &args.target_lsn {
        let at: Lsn = text.parse().map_err(|_| {
            Failure::refused(format!("\"{text}\" is not a WAL position"), "positions look like 2/A3F10028")
        })?;
        return Ok(Target::Lsn(at));
    }
    Ok(match (&args.target_xid, &args.target_name, args.target_backup) {
        (Some(xid), ..) => Target::Xid(*xid),
        (_, Some(name), _) => Target::Name(name.clone()),
        (.., true) => Target::Backup,
        _ => Target::Latest,
    })
}

/// The instance that is wanted, and what it needs of this machine: all of it is found before anything is read.
async fn prepared(
    instance: &Instance,
    plan: &Plan,
    args: &Restore,
    name: &str,
    directory: &Path,
) -> Result<(NewInstance, Prepared)> {
    let new = NewInstance {
        name: name.to_owned(),
        directory: directory.to_owned(),
        port: args.port,
        user: args.user.clone(),
        bindir: args.bindir.clone().or_else(|| instance.bindir()),
        path_variable: variable("PATH"),
        role: None,
        jobs: usize::from(args.jobs),
    };
    let prepared = restore::prepare(&instance.shelf, plan, &new).await?;
    if let Some(port) = args.port {
        std::net::TcpListener::bind(("127.0.0.1", port)).map_err(|error| {
            Failure::refused(format!("port {port} cannot be used: {error}"), "choose another --port, or leave it out")
        })?;
    }
    for extension in &prepared.missing {
        anstream::eprintln!("warning: extension {extension} is not installed here: what uses it will fail");
    }
    Ok((new, prepared))
}

async fn into_instance(
    context: &Context,
    loaded: &Loaded,
    instance: &Instance,
    plan: &Plan,
    args: &Restore,
    (new, prepared): (NewInstance, Prepared),
) -> Result<()> {
    let (name, directory) = (new.name.clone(), new.directory.clone());
    make_reachable(&directory, &prepared.user)?;
    let mut repository = context.repository(loaded).await?;
    let bar = context.bar();
    let restored = restore::into_instance(&instance.shelf, &mut repository, plan, &new, prepared, bar.clone()).await;
    bar.finish();
    if matches!(&restored, Err(error) if !matches!(error, asof_engine::Error::Refused { .. })) {
        anstream::eprintln!(
            "what was restored so far lies in {0}, the server's log in {0}/run/log; remove it before you try again",
            directory.display()
        );
    }
    let restored = restored?;
    let fields = [("run_directory", directory.join("run").display().to_string().into())];
    config::set_instance(&loaded.path, &name, Some(&fields))?;
    let made = &restored.running.instance;
    if args.json {
        show::json(&json!({
            "instance": name,
            "port": made.port,
            "socket_directory": made.socket_directory,
            "data_directory": made.data_directory,
            "lineage": restored.lineage.to_string(),
            "replayed_to": restored.running.replayed.map(|lsn| lsn.to_string()),
            "plan": plan_json(plan),
            "overrides": made.overrides.iter().map(override_json).collect::<Vec<_>>(),
        }));
        return Ok(());
    }
    anstream::println!("{name} runs on port {}", made.port);
    anstream::println!(
        "  psql      psql -h {} -p {} -U {} postgres",
        made.socket_directory.display(),
        made.port,
        made.role
    );
    anstream::println!("  log       {}", made.run_directory.join("log").display());
    anstream::println!(
        "  isolated from production: {} settings are overridden (`asof instance show {name}`)",
        made.overrides.len()
    );
    Ok(())
}

fn override_json(setting: &Override) -> Value {
    json!({ "name": setting.name, "value": setting.value, "why": setting.why })
}

/// The directory of the new instance must be reachable for the user that the server runs as.
fn make_reachable(directory: &Path, user: &ServerUser) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(Failure::file("create", directory))?;
    if user.switch {
        let owner = (Some(user.owner.uid), Some(user.owner.gid));
        std::os::unix::fs::chown(directory, owner.0, owner.1).map_err(Failure::file("give away", directory))?;
    }
    Ok(())
}

async fn into_directory(context: &Context, instance: &Instance, plan: &Plan, args: &Restore) -> Result<()> {
    // Directories above that are missing become ordinary ones: whoever will own the files must get through them.
    if let Some(above) = plan.destination.parent() {
        std::fs::create_dir_all(above).map_err(Failure::file("create", above))?;
    }
    let user = restore::file_owner(&instance.shelf, plan, args.user.as_deref()).await?;
    let owner = user.switch.then_some(user.owner);
    let bar = context.bar();
    let existing = if args.delta { Existing::Compare } else { Existing::Refuse };
    let options = WriteOptions { existing, jobs: usize::from(args.jobs), owner };
    let written = restore::write(&instance.shelf, plan, options, bar.clone()).await;
    bar.finish();
    let written = written?;
    if args.json {
        show::json(&json!({
            "directory": plan.destination,
            "files": written.files,
            "bytes": written.bytes,
            "bytes_rewritten": written.rewritten,
            "wal_segments": written.segments,
            "plan": plan_json(plan),
        }));
        return Ok(());
    }
    let place = plan.destination.display();
    anstream::println!(
        "{} files, {}, {} segments of WAL in {place}",
        written.files,
        bytes(written.bytes),
        written.segments
    );
    if args.delta {
        anstream::println!("{} of pages differed and were written", bytes(written.rewritten));
    }
    anstream::println!("It needs neither asof nor network. PostgreSQL {} recovers and opens it:", plan.details.major);
    anstream::println!("  pg_ctl -D {place} start          (as {}, who owns the files)", user.name);
    anstream::println!("  psql -h {place}                  (its socket lies there)");
    // PGDATA, because images from 18 on keep theirs elsewhere; the address, because the restored settings listen on loopback
    // alone, which in a container is the container's own. The image gives the files to its own user.
    anstream::println!(
        "  docker run --rm -e PGDATA=/pgdata -v {place}:/pgdata -p 127.0.0.1:5433:5432 postgres:{} -c listen_addresses='*'",
        plan.details.major
    );
    Ok(())
}

fn print_plan(plan: &Plan, as_json: bool) {
    if as_json {
        show::json(&plan_json(plan));
        return;
    }
    let resolved = &plan.resolved;
    let moment = |landmark: &Landmark| format!("{} ({}, {})", time::rfc3339(landmark.time), landmark.what, landmark.at);
    anstream::println!("restore to {}", plan.target);
    anstream::println!("  backup     {}, made {}", plan.backup.name, show::time(plan.backup.stopped));
    anstream::println!("  timeline   {}", resolved.timeline);
    anstream::println!(
        "  replay     {} .. {} ({} of WAL)",
        Lsn(plan.backup.start),
        resolved.end,
        bytes(plan.wal_bytes())
    );
    anstream::println!(
        "  last in    {}",
        resolved.before.as_ref().map_or_else(|| "no commit since the backup".to_owned(), moment)
    );
    anstream::println!(
        "  first out  {}",
        resolved.after.as_ref().map_or_else(|| "nothing: this is all that is stored".to_owned(), moment)
    );
    anstream::println!("  files      {} of {} files", bytes(plan.backup.sizes.total), plan.backup.sizes.files);
    if !plan.destination.as_os_str().is_empty() {
        anstream::println!("  into       {}", plan.destination.display());
    }
    for warning in &plan.warnings {
        anstream::eprintln!("warning: {warning}");
    }
}

fn plan_json(plan: &Plan) -> Value {
    let landmark = |landmark: &Landmark| json!({ "lsn": landmark.at.to_string(), "time": time::rfc3339(landmark.time), "what": landmark.what });
    let resolved = &plan.resolved;
    json!({
        "target": plan.target.to_string(),
        "backup": plan.backup.name,
        "timeline": resolved.timeline.0,
        "replay_from": Lsn(plan.backup.start).to_string(),
        "last_record": resolved.last.to_string(),
        "replay_to": resolved.end.to_string(),
        "last_commit_in": resolved.before.as_ref().map(landmark),
        "first_commit_out": resolved.after.as_ref().map(landmark),
        "commits_behind_with_earlier_time": resolved.stepped_back.iter().map(landmark).collect::<Vec<_>>(),
        "prepared_transactions": resolved.prepared,
        "wal_bytes": plan.wal_bytes(),
        "wal_segments": plan.segments.len(),
        "files": plan.backup.sizes.files,
        "bytes": plan.backup.sizes.total,
        "destination": plan.destination,
        "warnings": plan.warnings,
    })
}
