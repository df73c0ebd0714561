//! Starting a server: its directories, its record, its process, and the wait for it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;

use asof_postgres::version::Major;
use asof_world::{Files, Process, Program, World, WriteMode};

use super::binaries::{Binaries, find_binaries};
use super::instance::{Instance, MARKER};
use super::isolation::{Places, Situation, after_recovery, isolation};
use super::log::Log;
use super::process::{self, Status, StopMode, status};
use super::ready::{Watch, port_is_taken};
use super::{Reached, Running, ServerSpec, ServerUser, places};
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};

/// Between the choice of a free port and the server's use of it somebody else may take it.
const PORT_ATTEMPTS: u32 = 3;

pub(super) async fn start(world: &World, spec: &ServerSpec, observer: &dyn Observer) -> Result<Running> {
    refuse_running(world, &spec.data_directory).await?;
    let mut attempt = 1;
    loop {
        let instance = register(world, spec).await?;
        let started = Start { world, user: &spec.user, environment: &spec.environment, observer };
        match started.run(instance).await {
            Err(error) if spec.port.is_none() && attempt < PORT_ATTEMPTS && port_is_taken(&error) => attempt += 1,
            result => return result,
        }
    }
}

pub(super) async fn start_again(
    world: &World,
    run_directory: &Path,
    environment: BTreeMap<String, String>,
    observer: &dyn Observer,
) -> Result<Running> {
    let instance = Instance::read(world, run_directory).await?;
    refuse_running(world, &instance.data_directory).await?;
    check_programs(world, &instance).await?;
    let user = ServerUser::choose(world, Some(&instance.user), None).await?;
    Start { world, user: &user, environment: &environment, observer }.run(instance).await
}

async fn refuse_running(world: &World, data_directory: &Path) -> Result<()> {
    if let Status::Running { pid, .. } = status(world, data_directory).await? {
        let what = format!("a server runs on {} already (process {pid})", data_directory.display());
        return Err(Error::refused(what, "stop it first, or use it"));
    }
    Ok(())
}

/// The programs may have been removed or replaced by another major's since.
async fn check_programs(world: &World, instance: &Instance) -> Result<Binaries> {
    let major = Major::from_number(instance.major)
        .ok_or_else(|| Error::refused(format!("PostgreSQL {} is not supported", instance.major), "use another asof"))?;
    find_binaries(world, major, Some(&instance.bin_directory), None).await
}

/// Makes the directories and writes the record: from here on the server is ours, whether it comes up or not.
async fn register(world: &World, spec: &ServerSpec) -> Result<Instance> {
    let (files, processes, fresh, spec) = (world.files.clone(), world.processes(), world.id(), spec.clone());
    let user = spec.user.clone();
    let prepared = move || {
        check_directories(files.as_ref(), &spec)?;
        prepare_recovery(files.as_ref(), &spec)?;
        let port = match spec.port {
            Some(port) => port,
            None => processes.free_port().map_err(Error::files("find a free port of", "127.0.0.1"))?,
        };
        let places = Places {
            socket_directory: places::socket_directory(&spec.run_directory, fresh),
            run_directory: spec.run_directory.clone(),
            port,
        };
        places::private_directory(files.as_ref(), &places.run_directory, &spec.user)?;
        places::private_directory(files.as_ref(), &places.socket_directory, &spec.user)?;
        places::write_configuration(files.as_ref(), &places, &spec.user)?;
        Ok::<_, Error>(record(spec, places, fresh.to_string()))
    };
    let instance = world.blocking(prepared).await?;
    instance.write(world, &user).await?;
    Ok(instance)
}

fn record(spec: ServerSpec, places: Places, id: String) -> Instance {
    let overrides = isolation(&Situation {
        major: spec.binaries.major,
        minimums: Some(&spec.minimums),
        places: Some(&places),
        libraries: &spec.libraries,
        recovery: spec.recovery.as_ref(),
    });
    Instance {
        format: 0,
        id,
        lineage: spec.lineage.map(|id| id.to_string()),
        major: spec.binaries.major.number(),
        data_directory: spec.data_directory,
        run_directory: places.run_directory,
        socket_directory: places.socket_directory,
        bin_directory: spec.binaries.dir,
        port: places.port,
        user: spec.user.name,
        role: spec.role,
        adopted: false,
        recovery: spec.recovery,
        settings: spec.settings,
        overrides,
    }
}

/// A run directory is ours alone: absent, empty, or marked.
fn check_directories(files: &dyn Files, spec: &ServerSpec) -> Result<()> {
    if !spec.data_directory.is_absolute() || !spec.run_directory.is_absolute() {
        return Err(Error::refused("a server's directories must be absolute paths", "write them from / on"));
    }
    let entries = match files.list(&spec.run_directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::files("list", &spec.run_directory))?,
    };
    let ours = entries.iter().any(|entry| entry.name == MARKER) && !entries.iter().any(|entry| entry.name == "base");
    if entries.is_empty() || ours {
        return Ok(());
    }
    let what = format!("{} is not empty and holds no instance of asof", spec.run_directory.display());
    Err(Error::refused(what, "name a run directory that does not exist yet"))
}

/// Recovery begins with `recovery.signal`; without it a server would replay what lies in `pg_wal` and open. A
/// `standby.signal` would win over it and follow for ever.
fn prepare_recovery(files: &dyn Files, spec: &ServerSpec) -> Result<()> {
    let standby = spec.data_directory.join("standby.signal");
    if files.exists(&standby).map_err(Error::files("look at", &standby))? {
        let what = format!("{} would make the server a standby of production", standby.display());
        return Err(Error::refused(what, "remove the file"));
    }
    let signal = spec.data_directory.join("recovery.signal");
    if spec.recovery.is_none() || files.exists(&signal).map_err(Error::files("look at", &signal))? {
        return Ok(());
    }
    let create = || {
        files.create(&signal, 0o600, WriteMode::Cached)?.sync()?;
        files.sync_dir(&spec.data_directory)
    };
    create().map_err(Error::files("create", &signal))?;
    places::give(files, &signal, &spec.user)
}

struct Start<'a> {
    world: &'a World,
    user: &'a ServerUser,
    environment: &'a BTreeMap<String, String>,
    observer: &'a dyn Observer,
}

impl Start<'_> {
    async fn run(&self, mut instance: Instance) -> Result<Running> {
        let phase = if instance.recovery.is_some() { "recovery" } else { "start" };
        self.observer.event(Event::Phase(phase));
        let log = Log::before_start(self.world, &instance.run_directory).await;
        let process = self.launch(&instance, &log).await?;
        let watch =
            Watch { world: self.world, instance: &instance, process: &process, log: &log, observer: self.observer };
        let (reached, replayed) = match watch.wait().await {
            Ok(outcome) => outcome,
            Err(error) => {
                // The first failure is the news; a server that cannot be stopped is still named by its record.
                let _ = process::end(self.world, Arc::clone(&process), StopMode::Fast).await;
                return Err(error);
            }
        };
        if reached == Reached::Open && instance.recovery.take().is_some() {
            after_recovery(&mut instance.overrides);
            instance.write(self.world, self.user).await?;
        }
        Ok(Running { instance, pid: process.pid(), reached, replayed })
    }

    async fn launch(&self, instance: &Instance, log: &Log) -> Result<Arc<dyn Process>> {
        let program = program(instance, self.user, self.environment);
        let (processes, path) = (self.world.processes(), log.path.clone());
        let shown = program.path.clone();
        let started = self.world.blocking(move || processes.start(&program, &path)).await;
        started.map(Arc::from).map_err(Error::files("start", shown))
    }
}

/// `postgres` itself, with every setting on its command line.
fn program(instance: &Instance, user: &ServerUser, environment: &BTreeMap<String, String>) -> Program {
    let mut arguments: Vec<OsString> = vec!["-D".into(), instance.data_directory.clone().into()];
    let settings = instance.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // The last of two values wins.
    let overrides = instance.overrides.iter().map(|it| (it.name.as_str(), it.value.as_str()));
    for (name, value) in settings.chain(overrides) {
        arguments.extend(["-c".into(), format!("{name}={value}").into()]);
    }
    let defaults = [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C")];
    let defaults = defaults.into_iter().filter(|(name, _)| !environment.contains_key(*name));
    let given = environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Program {
        path: instance.bin_directory.join("postgres"),
        arguments,
        environment: defaults.chain(given).map(|(name, value)| (name.into(), value.into())).collect(),
        directory: instance.run_directory.clone(),
        user: user.to_become(),
    }
}
