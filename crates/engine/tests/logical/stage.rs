//! A protected server, its dumps, and databases that were loaded from them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use asof_engine::Result;
use asof_engine::logical::{
    self, Clients, Destination, DumpReport, DumpRequest, Format, LoadPlan, LoadReport, LoadRequest, Origin, Plan,
    Policy, Selection,
};
use asof_engine::progress::Silent;
use asof_engine::restore::find;
use asof_engine::server::Server as Link;
use asof_repository::lineage::{Backup, BackupKind};
use asof_testkit::{Options, Server, newest_clients};
use futures::future::BoxFuture;

use crate::support::{Protected, chain, link};

/// A server with a repository, and the client programs of this machine.
pub(crate) struct Stage {
    pub(crate) protected: Protected,
    pub(crate) clients: Clients,
}

impl Stage {
    pub(crate) async fn new(major: u32) -> Self {
        Self::with(major, &Options::default()).await
    }

    pub(crate) async fn with(major: u32, options: &Options) -> Self {
        let protected = Protected::new(major, options).await;
        let clients = clients(&protected.world, &protected.server).await;
        Self { protected, clients }
    }

    pub(crate) fn server(&self) -> &Server {
        &self.protected.server
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.protected.work.path().join(name)
    }

    /// Dumps a database of the protected server.
    pub(crate) async fn dump(&self, database: &str, request: &DumpRequest, to: &Destination) -> Result<DumpReport> {
        let plan = Plan::make(&self.protected.world, &self.clients, &in_database(self.server(), database)).await?;
        logical::dump(plan, request, to, never(), Arc::new(Silent)).await
    }

    pub(crate) fn repository(&self) -> Destination {
        Destination::Repository(Box::new(self.protected.shelf.clone()))
    }

    /// Dumps everything into the repository.
    pub(crate) async fn stored(&self, database: &str, name: &str) -> Backup {
        let report = self.dump(database, &request(name), &self.repository()).await;
        report.unwrap_or_else(|error| panic!("{}", chain(&error))).backup.expect("it is a backup")
    }

    pub(crate) async fn backups(&self) -> Vec<Backup> {
        let journal = self.protected.shelf.journal().await.expect("the journal is read");
        journal.state().existing().iter().map(|state| state.backup.clone()).collect()
    }

    /// Opens a dump of the repository, as somebody does who has the full key.
    pub(crate) async fn origin(&self, name: &str) -> Origin {
        let journal = self.protected.owner.journal().await.expect("the journal is read");
        let backup = find(&journal.state().existing(), name).expect("the backup exists").backup.clone();
        Origin::stored(&self.protected.owner, &backup).await.unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    pub(crate) async fn file(&self, path: &Path) -> Result<Origin> {
        Origin::file(&self.protected.world, path, None).await
    }

    /// Loads into a server.
    pub(crate) async fn load(&self, origin: Origin, into: &Server, request: LoadRequest) -> Result<LoadReport> {
        let clients = clients(&self.protected.world, self.server()).await;
        let plan = LoadPlan::make(&self.protected.world, &clients, origin, &link(into), request).await?;
        logical::load(&plan, never(), &Silent).await
    }

    /// Loads into a new database of the protected server.
    pub(crate) async fn load_new(&self, origin: Origin, database: &str) {
        let loaded = self.load(origin, self.server(), into_new(database)).await;
        loaded.unwrap_or_else(|error| panic!("{}", chain(&error)));
    }
}

/// The clients of this machine, and those that belong to the server.
pub(crate) async fn clients(world: &asof_world::World, server: &Server) -> Clients {
    let tool = PathBuf::from(server.tool("pg_dump").get_program());
    let own = tool.parent().expect("a directory").display().to_string();
    let newest = newest_clients();
    Clients::find(world, None, Some(&format!("{own}:{}", newest.display()))).await
}

/// Nobody cancels.
pub(crate) fn never() -> BoxFuture<'static, ()> {
    Box::pin(std::future::pending())
}

/// How a database of a server is reached.
pub(crate) fn in_database(server: &Server, database: &str) -> Link {
    let mut link = link(server);
    link.config.dbname = database.to_owned();
    link
}

pub(crate) fn request(name: &str) -> DumpRequest {
    DumpRequest {
        name: name.to_owned(),
        kind: BackupKind::Manual,
        tags: BTreeMap::new(),
        format: Format::Custom,
        selection: Selection::default(),
        compress: None,
        globals: false,
        jobs: 1,
    }
}

pub(crate) fn into_new(database: &str) -> LoadRequest {
    LoadRequest::new(database, Policy::New)
}

/// What stock `pg_dump` says of a database and its properties, its own name left out.
pub(crate) fn text_of(server: &Server, database: &str) -> String {
    text_by(server, database, &["--create"])
}

/// What stock `pg_dump` says with these arguments.
pub(crate) fn text_by(server: &Server, database: &str, arguments: &[&str]) -> String {
    let output = server.tool("pg_dump").args(arguments).args(["--dbname", database]).output().expect("pg_dump runs");
    assert!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Tokens that are drawn at random, and what says the name.
    let name =
        [format!("-- Name: {database};"), format!("-- Name: DATABASE {database};"), format!("\\connect {database}")];
    let drawn = ["\\restrict ".to_owned(), "\\unrestrict ".to_owned()];
    let kept = text.lines().filter(|line| !name.iter().chain(&drawn).any(|start| line.starts_with(start)));
    let unnamed = |line: &str| {
        line.replace(&format!(" DATABASE {database} "), " DATABASE d ")
            .replace(&format!(" DATABASE {database};"), " DATABASE d;")
    };
    kept.map(unnamed).collect::<Vec<_>>().join("\n")
}

/// The databases of a server besides those that every one has.
pub(crate) fn databases(server: &Server) -> Vec<String> {
    let sql = "select datname from pg_database where datname not in ('postgres', 'template0', 'template1') order by 1";
    server.psql(sql).lines().map(str::to_owned).collect()
}

/// The majors into whose trees `cargo xtask setup` puts pgvector; others may have it.
const WITH_VECTOR: [u32; 2] = [16, 18];

/// Whether a server has pgvector.
///
/// # Panics
/// When one lacks it that must have it: what is proven with it would silently not be proven.
pub(crate) fn has_vector(server: &Server) -> bool {
    let (has, major) = (asof_testkit::has_vector(server), server.major());
    let must = WITH_VECTOR.contains(&major);
    assert!(
        has || !must,
        "PostgreSQL {major} lacks pgvector: `cargo xtask setup`, or of Debian postgresql-{major}-pgvector"
    );
    has
}
