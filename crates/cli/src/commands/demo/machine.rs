//! The throw-away server of the demo: where its files are, who runs it, how it ends.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use asof_engine::backup::{Reader, Reading};
use asof_engine::runtime::{Binaries, ServerUser, StopMode, find_binaries, stop};
use asof_engine::server::Server;
use asof_engine::source::FilesSource;
use asof_postgres::conninfo::Settings;
use asof_postgres::version::Major;
use asof_world::{Exit, Program, World};

use crate::context::{Context, resolve, variable};
use crate::failure::{Failure, Result};

/// The superuser of the demo's servers.
pub(super) const ROLE: &str = "postgres";

/// Everything that the demo makes on this machine.
pub(super) struct Machine {
    world: World,
    environment: asof_postgres::conninfo::Environment,
    pub(super) root: PathBuf,
    pub(super) binaries: Binaries,
    pub(super) user: ServerUser,
}

impl Machine {
    /// Finds PostgreSQL and makes an empty directory that the server's user can reach.
    pub(super) async fn prepare(context: &Context, bindir: Option<&Path>) -> Result<Self> {
        let binaries = newest_binaries(&context.world, bindir).await?;
        let user = ServerUser::choose(&context.world, None, None).await?;
        let name = format!("asof-demo-{}", &context.world.id().to_string()[..8]);
        let root = std::env::temp_dir().join(name);
        let machine = Self { world: context.world.clone(), environment: context.environment(), root, binaries, user };
        machine.own(&machine.root)?;
        Ok(machine)
    }

    fn own(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir(directory).map_err(Failure::file("create", directory))?;
        if self.user.switch {
            let owner = self.user.owner;
            std::os::unix::fs::chown(directory, Some(owner.uid), Some(owner.gid))
                .map_err(Failure::file("give away", directory))?;
        }
        Ok(())
    }

    /// A new directory of the server's user.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.root.join(name);
        self.own(&directory)?;
        Ok(directory)
    }

    /// The data directory of the demo's production.
    pub(super) fn data(&self) -> PathBuf {
        self.root.join("production")
    }

    pub(super) fn reader(&self, context: &Context) -> Reader {
        let source = FilesSource::new(context.world.clone(), self.data(), self.binaries.major);
        Reader { source: Arc::new(source), reading: Reading::Files }
    }

    async fn run(&self, program: &str, arguments: &[String]) -> Result<()> {
        let call = Program {
            path: self.binaries.program(program),
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: vec![
                ("PATH".into(), variable("PATH").unwrap_or_default().into()),
                ("LC_ALL".into(), "C".into()),
            ],
            directory: self.root.clone(),
            user: self.user.switch.then_some(self.user.owner),
        };
        let processes = self.world.processes();
        let output = self.world.blocking(move || processes.run(&call)).await;
        let output = output.map_err(Failure::file("run", self.binaries.program(program)))?;
        if output.exit == Exit::Code(0) {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        Err(Failure::refused(format!("{program} failed: {}", said.trim()), "look at what it says"))
    }

    /// Makes and starts the server. It listens on a socket in its own directory only.
    pub(super) async fn start_production(&self) -> Result<Server> {
        let sockets = self.directory("socket")?;
        let data = self.data();
        let text = |path: &Path| path.display().to_string();
        let initdb = ["-D", &text(&data), "-U", ROLE, "-A", "trust", "-E", "UTF8", "--locale=C", "--data-checksums"];
        self.run("initdb", &initdb.map(str::to_owned)).await?;
        let options = format!(
            "-c listen_addresses='' -c unix_socket_directories='{}' -c max_wal_size=2GB -c wal_level=replica",
            text(&sockets)
        );
        let log = text(&self.root.join("production.log"));
        let start = ["-D", &text(&data), "-l", &log, "-o", &options, "-w", "-s", "start"];
        self.run("pg_ctl", &start.map(str::to_owned)).await?;
        let mut settings = Settings::default();
        for (key, value) in [("host", text(&sockets).as_str()), ("user", ROLE), ("dbname", "postgres")] {
            settings.set(key, value).map_err(crate::context::conninfo_refused)?;
        }
        resolve(settings, self.environment.clone())
    }

    /// Stops whatever the demo started, and removes its files unless they are to be kept.
    pub(super) async fn clean_up(&self, keep: bool) -> Result<()> {
        for data in [self.data(), self.root.join("restored/data")] {
            if data.join("postmaster.pid").exists() {
                let mode = if keep { StopMode::Fast } else { StopMode::Immediate };
                stop(&self.world, &data, mode).await?;
            }
        }
        if keep {
            return Ok(());
        }
        std::fs::remove_dir_all(&self.root).map_err(Failure::file("remove", &self.root))
    }
}

async fn newest_binaries(world: &World, bindir: Option<&Path>) -> Result<Binaries> {
    let path = variable("PATH");
    let mut last = None;
    for major in Major::ALL.into_iter().rev() {
        match find_binaries(world, major, bindir, path.as_deref()).await {
            Ok(binaries) => return Ok(binaries),
            Err(error) => last = Some(error),
        }
    }
    let looked = last.map_or_else(String::new, |error| format!(" ({error})"));
    let what = format!("no programs of PostgreSQL 13 to 18 were found{looked}");
    Err(Failure::refused(
        what,
        "install PostgreSQL (Debian: `apt install postgresql`), or name its directory with --bindir",
    ))
}
