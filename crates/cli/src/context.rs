//! From a command line to what the engine works on: the opened repository, an instance, its server, its shelf.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use asof_engine::backup::{Reader, Reading};
use asof_engine::logical::SqlCheck;
use asof_engine::runtime::Instance as Made;
use asof_engine::server::{self, Contact, Server};
use asof_engine::shelf::Shelf;
use asof_engine::source::{FilesSource, SqlSource};
use asof_postgres::client::Connection;
use asof_postgres::conninfo::{Config as Conninfo, Environment, Settings};
use asof_repository::root::{self, Key, Repository};
use asof_repository::store::local::LocalStore;
use asof_repository::store::s3::S3Store;
use asof_repository::store::{Retrying, Store};
use asof_world::World;

use crate::config::{self, InstanceConfig, Loaded};
use crate::failure::{Failure, Result};
use crate::passphrase;
use crate::show::Bar;

/// How long a store that does not answer is asked again.
const PATIENCE: Duration = Duration::from_secs(60);

/// What every command has.
pub(crate) struct Context {
    pub(crate) world: World,
    pub(crate) config: Option<PathBuf>,
    pub(crate) quiet: bool,
}

/// An instance of the repository.
pub(crate) struct Instance {
    pub(crate) name: String,
    /// How it is reached; absent when it is not configured here.
    config: Option<InstanceConfig>,
    pub(crate) shelf: Shelf,
}

impl Instance {
    /// How it is reached.
    pub(crate) fn config(&self) -> Result<&InstanceConfig> {
        self.config.as_ref().ok_or_else(|| {
            let what = format!("{} is not configured here, so its server cannot be reached", self.name);
            Failure::refused(
                what,
                format!("add it with `asof instance add {}`; its backups can be restored as it is", self.name),
            )
        })
    }

    /// What drills of its dumps look at.
    pub(crate) fn checks(&self) -> &[SqlCheck] {
        self.config.as_ref().map_or(&[], |config| &config.checks)
    }

    /// Refuses what needs the server's files or WAL, where only logical backups are made.
    pub(crate) async fn require_files(&self) -> Result<()> {
        server::require_files(&self.shelf.journal().await?.state().facts)?;
        if self.config.as_ref().is_some_and(|config| config.logical) {
            let what = format!("asof.toml says logical = true of {}: only logical backups are made of it", self.name);
            return Err(Failure::refused(what, "`asof dump` makes one; remove that line to back its files up again"));
        }
        Ok(())
    }

    /// Where its programs are, if the configuration says so.
    pub(crate) fn bindir(&self) -> Option<PathBuf> {
        self.config.as_ref()?.bindir.clone()
    }
}

/// An environment variable; the only place that reads one.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether somebody is there who can be asked.
pub(crate) fn on_a_terminal() -> bool {
    use std::io::IsTerminal;
    std::io::stdin().is_terminal()
}

impl Context {
    pub(crate) fn bar(&self) -> Arc<Bar> {
        Arc::new(Bar::new(self.quiet))
    }

    pub(crate) fn loaded(&self) -> Result<Loaded> {
        config::load(self.config.as_deref(), &variable)
    }

    /// Where a new configuration goes.
    pub(crate) fn new_config_path(&self) -> Result<PathBuf> {
        let path = self.config.clone().unwrap_or_else(|| PathBuf::from("asof.toml"));
        std::path::absolute(&path).map_err(Failure::file("find", path))
    }

    /// Opens the store of a directory or URL.
    pub(crate) fn store(&self, url: &str) -> Result<Arc<dyn Store>> {
        self.store_asked_for(url, PATIENCE)
    }

    /// As [`store`](Self::store), with its own patience: who waits for a verdict on the store wants it soon.
    pub(crate) fn store_asked_for(&self, url: &str, patience: Duration) -> Result<Arc<dyn Store>> {
        let store: Arc<dyn Store> = if url.starts_with("s3://") {
            Arc::new(S3Store::new(self.world.clone(), url, variable)?)
        } else {
            Arc::new(LocalStore::new(self.world.clone(), directory(url)?))
        };
        Ok(Arc::new(Retrying::new(store, self.world.clone(), patience)))
    }

    /// Opens the configured repository.
    pub(crate) async fn repository(&self, loaded: &Loaded) -> Result<Repository> {
        let configured = &loaded.config.repository;
        let key = match &configured.key_file {
            Some(path) => read_key(path)?,
            None => Key::Passphrase(passphrase::of_repository(loaded)?.into()),
        };
        let expected = configured.root_key.parse().map_err(|_| {
            let what = format!("root_key in {} is not a fingerprint", loaded.path.display());
            Failure::refused(what, "it has 32 hexadecimal digits; `asof init` printed it")
        })?;
        root::open(&self.world, self.store(&configured.url)?, &key, Some(expected)).await.map_err(|error| match error {
            asof_repository::Error::NotFound { .. } => {
                let what = format!("there is no repository in {}", configured.url);
                let hint =
                    format!("mount it, or correct url in {}; `asof init` makes a new one", loaded.path.display());
                Failure::refused(what, hint)
            }
            other => other.into(),
        })
    }

    /// The instance named, or the only one.
    pub(crate) fn pick<'a>(&self, loaded: &'a Loaded, name: Option<&str>) -> Result<(&'a str, &'a InstanceConfig)> {
        let instances = &loaded.config.instances;
        if let Some(name) = name {
            let found = instances.get_key_value(name).map(|(name, config)| (name.as_str(), config));
            return found.ok_or_else(|| {
                let known: Vec<&str> = instances.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Failure::refused(format!("there is no instance \"{name}\""), format!("known instances: {known}"))
            });
        }
        let mut all = instances.iter();
        match (all.next(), all.next()) {
            (Some((name, config)), None) => Ok((name, config)),
            (None, _) => Err(Failure::refused("no instance is configured", "add one with `asof instance add NAME`")),
            _ => {
                let names: Vec<&str> = instances.keys().map(String::as_str).collect();
                Err(Failure::refused("there is more than one instance", format!("say which: {}", names.join(", "))))
            }
        }
    }

    /// Opens the repository and the instance in it. What is no longer configured, or not yet on a bare machine, can still be
    /// restored: the repository knows its name.
    pub(crate) async fn instance(&self, name: Option<&str>) -> Result<Instance> {
        let loaded = self.loaded()?;
        let repository = self.repository(&loaded).await?;
        let stored: Vec<&String> = repository.journal.state().instances.keys().collect();
        let (name, config) = match (name, stored.as_slice()) {
            (Some(name), _) if !loaded.config.instances.contains_key(name) && repository.lineage_of(name).is_some() => {
                (name, None)
            }
            (None, [only]) if loaded.config.instances.is_empty() => (only.as_str(), None),
            _ => self.pick(&loaded, name).map(|(name, config)| (name, Some(config.clone())))?,
        };
        let lineage = repository.lineage_of(name).ok_or_else(|| {
            let what = format!("the repository knows no instance \"{name}\"");
            Failure::refused(what, format!("register it with `asof instance add {name}`"))
        })?;
        let shelf = Shelf::new(&repository, lineage);
        Ok(Instance { name: name.to_owned(), config, shelf })
    }

    /// How to reach the server of an instance.
    pub(crate) async fn server(&self, config: &InstanceConfig) -> Result<Server> {
        if let Some(run_directory) = &config.run_directory {
            return Ok(Made::read(&self.world, run_directory).await?.server(&self.world, "postgres")?);
        }
        let environment = self.environment();
        let mut settings = Settings::parse(&config.conninfo).map_err(conninfo_refused)?;
        if let Some(passfile) = &config.passfile {
            settings.set("passfile", passfile.display().to_string()).map_err(conninfo_refused)?;
        }
        resolve(settings, environment)
    }

    /// The server of a connection string.
    pub(crate) fn server_of(&self, conninfo: &str) -> Result<Server> {
        resolve(Settings::parse(conninfo).map_err(conninfo_refused)?, self.environment())
    }

    /// A server by the name of an instance, or by a connection string.
    pub(crate) async fn named_server(&self, text: &str) -> Result<(Server, Option<Instance>)> {
        if text.contains('=') || text.contains("://") {
            return Ok((self.server_of(text)?, None));
        }
        let instance = self.instance(Some(text)).await?;
        Ok((self.server(instance.config()?).await?, Some(instance)))
    }

    /// What connections may ask of this machine.
    pub(crate) fn environment(&self) -> Environment {
        Environment::of_world(&self.world, |name| match name {
            // libpq asks the system for the user's name; the variables are right wherever a person or a service runs us.
            "USER" => variable("USER").or_else(|| variable("LOGNAME")).or_else(|| Some("root".to_owned())),
            _ => variable(name),
        })
    }

    /// The data directory of an instance, where it is read from this host.
    pub(crate) async fn data_directory(&self, config: &InstanceConfig) -> Result<Option<PathBuf>> {
        match (&config.data_directory, &config.run_directory) {
            (Some(directory), _) => Ok(Some(directory.clone())),
            (None, Some(run_directory)) => Ok(Some(Made::read(&self.world, run_directory).await?.data_directory)),
            (None, None) => Ok(None),
        }
    }

    /// How the files of an instance are read: directly where a data directory is configured, else by SQL.
    pub(crate) async fn reader(&self, config: &InstanceConfig, server: &Server, contact: &Contact) -> Result<Reader> {
        match self.data_directory(config).await? {
            Some(directory) => {
                let source = FilesSource::new(self.world.clone(), directory, contact.major);
                Ok(Reader { source: Arc::new(source), reading: Reading::Files })
            }
            None => {
                let source = SqlSource::connect(server, 4).await?;
                Ok(Reader { source: Arc::new(source), reading: Reading::Sql })
            }
        }
    }

    /// Connects and asks the server what it is.
    pub(crate) async fn contact(&self, server: &Server) -> Result<(Connection, Contact)> {
        let mut connection = server.connect().await?;
        let contact = server::contact(&mut connection).await?;
        Ok((connection, contact))
    }
}

/// The directory that is meant by a path or a `file://` URL.
pub(crate) fn directory(url: &str) -> Result<PathBuf> {
    let path = url.strip_prefix("file://").unwrap_or(url);
    if path.contains("://") {
        let what = format!("{url} is no place for a repository that this version of asof knows");
        return Err(Failure::refused(what, "give a directory, or s3://BUCKET/PREFIX"));
    }
    std::path::absolute(path).map_err(Failure::file("find", path))
}

pub(crate) fn conninfo_refused(error: impl std::fmt::Display) -> Failure {
    Failure::refused(format!("the connection string cannot be used: {error}"), "see `asof instance add --help`")
}

/// A server from settings; it is called `asof` unless they say otherwise.
pub(crate) fn resolve(mut settings: Settings, environment: Environment) -> Result<Server> {
    if settings.get("application_name").is_none() {
        settings.set("application_name", "asof").map_err(conninfo_refused)?;
    }
    let config = Conninfo::resolve(settings, &environment).map_err(conninfo_refused)?;
    Ok(Server { config, environment })
}

fn read_key(path: &Path) -> Result<Key> {
    let hint =
        "put it back, or write it anew from the recovery kit; without key_file in asof.toml, a passphrase is asked for";
    Ok(Key::parse(&read_secret("key file", path, hint)?)?)
}

/// Reads a file that holds a secret; one that others can read is refused. `missing` is what to do when it is not there.
pub(crate) fn read_secret(kind: &str, path: &Path, missing: &str) -> Result<String> {
    use std::os::unix::fs::PermissionsExt;
    let found = std::fs::metadata(path);
    if found.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Err(Failure::refused(format!("there is no {kind} {}", path.display()), missing));
    }
    let mode = found.map_err(Failure::file("read", path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let what = format!("the {kind} {} can be read by others (mode {mode:o})", path.display());
        return Err(Failure::refused(what, format!("chmod 600 {}", path.display())));
    }
    std::fs::read_to_string(path).map_err(Failure::file("read", path))
}
