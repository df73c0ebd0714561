//! The throw-away server of the demo: where its files are, who runs it, how it ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use asof_engine::backup::{Reader, Reading};
use asof_engine::progress::Silent;
use asof_engine::runtime::{Binaries, Scratch, ScratchSpec, ServerUser, StopMode, find_binaries, stop};
use asof_engine::server::Server;
use asof_engine::source::FilesSource;
use asof_postgres::conninfo::Environment;
use asof_postgres::version::Major;
use asof_world::World;

use crate::context::{Context, variable};
use crate::failure::{Failure, Result};

/// Everything that the demo makes on this machine.
pub(super) struct Machine {
    world: World,
    scratch: Scratch,
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
        own(&root, &user)?;
        let spec = production(&root, &binaries, &user, context.environment());
        let scratch = Scratch::make(&context.world, spec).await?;
        Ok(Self { world: context.world.clone(), scratch, root, binaries, user })
    }

    /// A new directory of the server's user.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.root.join(name);
        own(&directory, &self.user)?;
        Ok(directory)
    }

    /// The data directory of the demo's production.
    pub(super) fn data(&self) -> PathBuf {
        self.scratch.data_directory()
    }

    pub(super) fn reader(&self, context: &Context) -> Reader {
        let source = FilesSource::new(context.world.clone(), self.data(), self.binaries.major);
        Reader { source: Arc::new(source), reading: Reading::Files }
    }

    /// Makes and starts the server. It listens on a socket in its own directory only.
    pub(super) async fn start_production(&self) -> Result<Server> {
        self.scratch.init(&Silent).await?;
        self.scratch.start(&Silent).await?;
        Ok(self.scratch.server("postgres")?)
    }

    /// Stops whatever the demo started, and removes its files unless they are to be kept.
    pub(super) async fn clean_up(self, keep: bool) -> Result<()> {
        let restored = self.root.join("restored/data");
        if restored.join("postmaster.pid").exists() {
            let mode = if keep { StopMode::Fast } else { StopMode::Immediate };
            stop(&self.world, &restored, mode).await?;
        }
        if keep {
            return Ok(self.scratch.stop().await?);
        }
        self.scratch.remove().await?;
        std::fs::remove_dir_all(&self.root).map_err(Failure::file("remove", &self.root))
    }
}

/// Production syncs what it commits, and can be backed up: a throw-away server does neither by itself.
const AS_IN_PRODUCTION: [(&str, &str); 6] = [
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("max_wal_size", "2GB"),
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "on"),
];

fn production(root: &Path, binaries: &Binaries, user: &ServerUser, environment: Environment) -> ScratchSpec {
    ScratchSpec {
        directory: root.join("production"),
        binaries: binaries.clone(),
        user: user.clone(),
        environment,
        initdb: vec!["--data-checksums".to_owned()],
        settings: AS_IN_PRODUCTION.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    }
}

fn own(directory: &Path, user: &ServerUser) -> Result<()> {
    std::fs::create_dir(directory).map_err(Failure::file("create", directory))?;
    if user.switch {
        let owner = user.owner;
        std::os::unix::fs::chown(directory, Some(owner.uid), Some(owner.gid))
            .map_err(Failure::file("give away", directory))?;
    }
    Ok(())
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
