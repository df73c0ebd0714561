//! Makes an isolated instance production again: the one way to lift what keeps it away from production (rule 8).
//!
//! Lifting is explicit and printed. What stays are our places: port, socket, log, and, where the instance brought no
//! configuration of its own, ours. After a crash in between, the record still says "isolated" and the step can be repeated.

use std::collections::BTreeMap;
use std::path::Path;

use asof_world::World;

use super::instance::Instance;
use super::isolation::Override;
use super::process::{StopMode, stop};
use super::{Running, ServerUser, launch};
use crate::error::{Error, Result};
use crate::progress::Observer;
use crate::restore::{RESTORE_WROTE, without_recovery};

/// The largest configuration file that is looked at.
const LARGEST: u64 = 4 << 20;

/// Overrides that say where the server has its things; they stay.
const PLACES: [&str; 8] = [
    "port",
    "unix_socket_directories",
    "unix_socket_permissions",
    "unix_socket_group",
    "log_directory",
    "logging_collector",
    "log_destination",
    "external_pid_file",
];
/// Overrides that name configuration of ours; they stay where there is no other.
const FILES: [&str; 3] = ["config_file", "hba_file", "ident_file"];

/// An adopted instance.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// The running server.
    pub running: Running,
    /// What was lifted.
    pub lifted: Vec<Override>,
}

/// What adopting an instance would lift.
pub async fn would_lift(world: &World, run_directory: &Path) -> Result<Vec<Override>> {
    let instance = Instance::read(world, run_directory).await?;
    let own = has_own_configuration(world, &instance).await?;
    Ok(instance.overrides.into_iter().filter(|it| !stays(it, own)).collect())
}

/// Stops the instance, lifts its isolation, and starts it with its own configuration.
pub async fn adopt(world: &World, run_directory: &Path, observer: &dyn Observer) -> Result<Adopted> {
    let mut instance = Instance::read(world, run_directory).await?;
    if instance.recovery.is_some() {
        let what = format!("recovery of {} is not over", instance.data_directory.display());
        return Err(Error::refused(what, "start it and let it end first"));
    }
    let own = has_own_configuration(world, &instance).await?;
    stop(world, &instance.data_directory, StopMode::Fast).await?;
    forget_recovery(world, &instance).await?;
    let lifted: Vec<Override> = instance.overrides.iter().filter(|it| !stays(it, own)).cloned().collect();
    instance.overrides.retain(|it| stays(it, own));
    instance.adopted = true;
    let user = ServerUser::choose(world, Some(&instance.user), None).await?;
    instance.write(world, &user).await?;
    let running = launch::start_again(world, run_directory, BTreeMap::new(), observer).await?;
    Ok(Adopted { running, lifted })
}

fn stays(setting: &Override, own_configuration: bool) -> bool {
    let name = setting.name.as_str();
    PLACES.contains(&name) || (FILES.contains(&name) && !own_configuration)
}

/// Whether the data directory holds the configuration that the instance had, and not what a restore put in its place.
async fn has_own_configuration(world: &World, instance: &Instance) -> Result<bool> {
    let (files, path) = (world.files.clone(), instance.data_directory.join("postgresql.conf"));
    let shown = path.clone();
    let content = world.blocking(move || files.read(&path, LARGEST)).await.map_err(Error::files("read", shown))?;
    Ok(!content.starts_with(RESTORE_WROTE.as_bytes()))
}

/// Removes from `postgresql.auto.conf` what the restore wrote behind production's settings.
async fn forget_recovery(world: &World, instance: &Instance) -> Result<()> {
    let (files, path) = (world.files.clone(), instance.data_directory.join("postgresql.auto.conf"));
    let (shown, user) = (path.clone(), ServerUser::choose(world, Some(&instance.user), None).await?);
    let ours = instance.overrides.clone();
    let work = move || {
        let content = files.read(&path, LARGEST)?;
        files.replace(&path, &without_recovery(&content, &ours), 0o600)?;
        match user.switch {
            true => files.set_owner(&path, user.owner),
            false => Ok(()),
        }
    };
    world.blocking(work).await.map_err(Error::files("edit", shown))
}
