//! A restore that ends with a running instance: files, recovery, promotion, a lineage of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use asof_postgres::lsn::Lsn;
use asof_postgres::version::Major;
use asof_repository::lineage::Parent;
use asof_repository::root::Repository;
use asof_world::{Id, Owner};

use super::{Existing, Plan, WriteOptions, Written, write};
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};
use crate::runtime::{self, Binaries, Running, ServerSpec, ServerUser, find_binaries, preload_libraries};
use crate::shelf::Shelf;

/// The instance that a restore makes.
#[derive(Clone, Debug)]
pub struct NewInstance {
    /// Its name.
    pub name: String,
    /// Its directory: `data` and `run` are made in it.
    pub directory: PathBuf,
    /// Its port; a free one when absent.
    pub port: Option<u16>,
    /// The user to run as; see [`ServerUser::choose`].
    pub user: Option<String>,
    /// Where PostgreSQL's programs are.
    pub bindir: Option<PathBuf>,
    /// The content of `PATH`.
    pub path_variable: Option<String>,
    /// A role of the instance that may connect; the one that made the backup when absent.
    pub role: Option<String>,
    /// Jobs at once.
    pub jobs: usize,
}

/// What a restore needs from this machine; found before anything is read.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The programs.
    pub binaries: Binaries,
    /// Who the server runs as.
    pub user: ServerUser,
    /// What the instance uses and this machine lacks.
    pub missing: Vec<String>,
}

/// A restored instance.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The running server.
    pub running: Running,
    /// What was written.
    pub written: Written,
    /// Its lineage.
    pub lineage: Id,
}

/// Looks for what the machine must have, so that nothing is found missing when terabytes have been written.
pub async fn prepare(shelf: &Shelf, plan: &Plan, new: &NewInstance) -> Result<Prepared> {
    let major = Major::from_number(plan.details.major)
        .ok_or_else(|| Error::refused(format!("PostgreSQL {} is not supported", plan.details.major), "update asof"))?;
    let binaries = find_binaries(&shelf.world, major, new.bindir.as_deref(), new.path_variable.as_deref()).await?;
    let user = file_owner(shelf, plan, new.user.as_deref()).await?;
    let extensions = plan.details.extensions.keys();
    let missing = extensions.filter(|name| binaries.has_extension(name) == Some(false)).cloned().collect();
    Ok(Prepared { binaries, user, missing })
}

/// Who shall own restored files and run the server on them; see [`ServerUser::choose`].
pub async fn file_owner(shelf: &Shelf, plan: &Plan, wanted: Option<&str>) -> Result<ServerUser> {
    ServerUser::choose(&shelf.world, wanted, original_owner(shelf, plan).await).await
}

/// Who owns the original data directory, if it is on this machine.
async fn original_owner(shelf: &Shelf, plan: &Plan) -> Option<Owner> {
    let (files, directory) = (shelf.world.files.clone(), PathBuf::from(plan.details.data_directory.as_ref()?));
    shelf.world.blocking(move || files.attributes(&directory).ok()).await.map(|attributes| attributes.owner)
}

/// Restores, starts, recovers, promotes and registers. The plan's destination must be `data` in the new directory.
pub async fn into_instance(
    shelf: &Shelf,
    repository: &mut Repository,
    plan: &Plan,
    new: &NewInstance,
    prepared: Prepared,
    observer: Arc<dyn Observer>,
) -> Result<Restored> {
    let owner = prepared.user.switch.then_some(prepared.user.owner);
    let written =
        write(shelf, plan, WriteOptions { existing: Existing::Refuse, jobs: new.jobs, owner }, observer.clone())
            .await?;
    let mut running =
        runtime::start(&shelf.world, &spec(plan, new, prepared, observer.as_ref())?, observer.as_ref()).await?;
    check_end(plan, running.replayed)?;
    let facts = shelf.journal().await?.state().facts.clone();
    let parent = Parent { lineage: shelf.lineage, timeline: plan.resolved.timeline.0, at: plan.resolved.end.0 };
    let (lineage, _) = repository.register(&new.name, facts, Some(parent)).await?;
    running.instance.record_lineage(&shelf.world, lineage).await?;
    Ok(Restored { running, written, lineage })
}

fn spec(plan: &Plan, new: &NewInstance, prepared: Prepared, observer: &dyn Observer) -> Result<ServerSpec> {
    let minimums = plan.minimums().ok_or_else(|| {
        Error::damaged("the backup does not record what its server was configured with", "use --to DIRECTORY")
    })?;
    let recorded = plan.details.settings.get("shared_preload_libraries").map_or("", String::as_str);
    let preload = preload_libraries(recorded, &[], |name| prepared.binaries.has_library(name).unwrap_or(false));
    if !preload.refused.is_empty() {
        let names = preload.refused.join(", ");
        observer.event(Event::Note(format!("not loaded, because they could act for production: {names}")));
    }
    if !preload.missing.is_empty() {
        observer.event(Event::Warning(format!("not installed here: {}", preload.missing.join(", "))));
    }
    Ok(ServerSpec {
        data_directory: plan.destination.clone(),
        run_directory: new.directory.join("run"),
        binaries: prepared.binaries,
        user: prepared.user,
        role: new.role.clone().unwrap_or_else(|| plan.details.role.clone()),
        port: new.port,
        minimums,
        libraries: preload.kept,
        recovery: Some(super::settings::recovery(plan)),
        settings: super::has_tablespaces(plan)
            .then(|| ("allow_in_place_tablespaces".to_owned(), "on".to_owned()))
            .into_iter()
            .collect(),
        environment: BTreeMap::new(),
        lineage: None,
    })
}

/// What was replayed must be what was planned; anything else is a failed restore, whatever the server says (rule 3).
fn check_end(plan: &Plan, replayed: Option<Lsn>) -> Result<()> {
    let planned = plan.resolved.end;
    match replayed {
        Some(replayed) if replayed == planned => Ok(()),
        Some(replayed) => Err(Error::damaged(
            format!("recovery ended at {replayed}, but the plan ends at {planned}"),
            "look at the server's log; the restored instance is not what was asked for",
        )),
        None => Err(Error::damaged(
            format!("the server does not say how far it recovered; the plan ends at {planned}"),
            "look at the server's log",
        )),
    }
}
