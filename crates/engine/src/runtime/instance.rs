//! The record of a server of ours: what is needed to stop, start, reach or destroy it when nobody remembers.
//!
//! `asof-instance.json` stands in the run directory, complete, and in the data directory, as the id alone. Only a pair that
//! agrees is ever destroyed: a marker that came along with a restored data directory, or was copied, names another id.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use asof_postgres::conninfo::{Config, Environment, Host, Settings, Target};
use asof_world::{FileKind, Files, Id, World};
use serde::{Deserialize, Serialize};

use super::isolation::{Override, Places, Recovery};
use super::process::{Status, status};
use super::{places, user::ServerUser};
use crate::error::{Error, Result};
use crate::server::Server;

/// The name of the marker.
pub const MARKER: &str = "asof-instance.json";

const MARKER_BYTES: u64 = 1 << 20;
const FORMAT: u32 = 0;

/// A server of ours, as recorded in its run directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    pub(super) format: u32,
    /// Names this server, for good.
    pub id: String,
    /// The lineage it belongs to.
    pub lineage: Option<String>,
    /// The major.
    pub major: u32,
    /// The data directory.
    pub data_directory: PathBuf,
    /// The directory this record stands in.
    pub run_directory: PathBuf,
    /// Where its socket is.
    pub socket_directory: PathBuf,
    /// Where its programs are.
    pub bin_directory: PathBuf,
    /// Its TCP port.
    pub port: u16,
    /// The user of the operating system it runs as.
    pub user: String,
    /// The role it is asked as.
    pub role: String,
    /// Whether it was made production again; its overrides are lifted then.
    pub adopted: bool,
    /// The recovery that is not over yet.
    pub recovery: Option<Recovery>,
    /// Further settings.
    pub settings: BTreeMap<String, String>,
    /// What isolates it.
    pub overrides: Vec<Override>,
}

/// What stands in the data directory.
#[derive(Serialize, Deserialize)]
struct DataMarker {
    format: u32,
    id: String,
}

/// What was removed, and what was left because it may be somebody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destroyed {
    /// Directories that are gone.
    pub removed: Vec<PathBuf>,
    /// Directories of tablespaces outside of the data directory: their links are gone.
    pub left: Vec<PathBuf>,
}

impl Instance {
    /// Reads the record in a run directory.
    ///
    /// # Errors
    /// `Refused` if there is none, `Damaged` if it cannot be understood.
    pub async fn read(world: &World, run_directory: &Path) -> Result<Self> {
        let (files, directory) = (world.files.clone(), run_directory.to_owned());
        world.blocking(move || read(files.as_ref(), &directory)).await
    }

    /// Where the server has its things.
    pub fn places(&self) -> Places {
        Places {
            run_directory: self.run_directory.clone(),
            socket_directory: self.socket_directory.clone(),
            port: self.port,
        }
    }

    /// How to reach the server over its socket, as the role it is asked as.
    pub fn server(&self, world: &World, database: &str) -> Result<Server> {
        let environment = Environment::empty(u64::try_from(world.now().0 / 1_000_000).unwrap_or(0));
        let mut settings = Settings::default();
        let pairs = [
            ("user", self.role.as_str()),
            ("dbname", database),
            ("application_name", "asof"),
            ("connect_timeout", "10"),
        ];
        for (key, value) in pairs {
            settings.set(key, value).map_err(|error| Error::refused(error.to_string(), "name another role"))?;
        }
        let resolved = Config::resolve(settings, &environment);
        let mut config = resolved.map_err(|error| Error::refused(error.to_string(), "name another role"))?;
        // Not through the text of a connection string, where a comma in the path would divide it.
        let target = Target::Unix { directory: self.socket_directory.clone(), default: false };
        config.hosts = vec![Host { target, port: self.port }];
        Ok(Server { config, environment })
    }

    /// Records the lineage that the server turned out to begin, once it is registered.
    ///
    /// # Errors
    /// `Files` if the record cannot be written; `Refused` if the server's user is gone.
    pub async fn record_lineage(&mut self, world: &World, lineage: Id) -> Result<()> {
        let user = ServerUser::choose(world, Some(&self.user), None).await?;
        self.lineage = Some(lineage.to_string());
        self.write(world, &user).await
    }

    /// Writes the record into both directories.
    pub(super) async fn write(&self, world: &World, user: &ServerUser) -> Result<()> {
        let (files, instance, user) = (world.files.clone(), self.clone(), user.clone());
        world.blocking(move || write(files.as_ref(), &instance, &user)).await
    }
}

fn read(files: &dyn Files, run_directory: &Path) -> Result<Instance> {
    let path = run_directory.join(MARKER);
    let bytes = match files.read(&path, MARKER_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let what = format!("{} holds no instance of asof", run_directory.display());
            return Err(Error::refused(what, format!("it would have a file {MARKER}")));
        }
        other => other.map_err(Error::files("read", &path))?,
    };
    let instance: Instance = serde_json::from_slice(&bytes).map_err(|error| {
        let what = format!("{} cannot be understood: {error}", path.display());
        Error::damaged(what, "it was written by another version of asof, or changed by hand")
    })?;
    if instance.format != FORMAT {
        let what = format!("{} has format {}, and this asof reads {FORMAT}", path.display(), instance.format);
        return Err(Error::refused(what, "use the version of asof that made the instance"));
    }
    Ok(instance)
}

fn write(files: &dyn Files, instance: &Instance, user: &ServerUser) -> Result<()> {
    let json = |value: serde_json::Result<String>| {
        value.map_err(|error| {
            let what = format!("the record of {} cannot be written: {error}", instance.data_directory.display());
            Error::refused(what, "use paths that are valid UTF-8")
        })
    };
    let record = json(serde_json::to_string_pretty(instance))?;
    let marker = json(serde_json::to_string(&DataMarker { format: FORMAT, id: instance.id.clone() }))?;
    places::write(files, &instance.run_directory.join(MARKER), &record, user)?;
    places::write(files, &instance.data_directory.join(MARKER), &marker, user)
}

/// Removes an instance that does not run: its data directory, its socket's and its run directory, in this order, so that a
/// crash on the way leaves the record. Links to tablespaces are removed, what they lead to is left and named.
///
/// # Errors
/// `Refused` if the server runs, or a directory does not carry the marker of this instance.
pub async fn destroy(world: &World, run_directory: &Path) -> Result<Destroyed> {
    let instance = Instance::read(world, run_directory).await?;
    if let Status::Running { pid, .. } = status(world, &instance.data_directory).await? {
        let what = format!("the server in {} runs (process {pid})", instance.data_directory.display());
        return Err(Error::refused(what, "stop it with `asof instance stop` first"));
    }
    let (files, run_directory) = (world.files.clone(), run_directory.to_owned());
    world.blocking(move || remove(files.as_ref(), &instance, &run_directory)).await
}

fn remove(files: &dyn Files, instance: &Instance, run_directory: &Path) -> Result<Destroyed> {
    let mut destroyed = Destroyed::default();
    let data = &instance.data_directory;
    if files.exists(data).map_err(Error::files("look at", data))? {
        check_marker(files, instance)?;
        destroyed.left = tablespaces(files, data)?;
        remove_data(files, data)?;
        destroyed.removed.push(data.clone());
    }
    for directory in [instance.socket_directory.as_path(), run_directory] {
        files.remove_tree(directory).map_err(Error::files("remove", directory))?;
        destroyed.removed.push(directory.to_owned());
    }
    Ok(destroyed)
}

fn check_marker(files: &dyn Files, instance: &Instance) -> Result<()> {
    let path = instance.data_directory.join(MARKER);
    let found: Option<DataMarker> =
        files.read(&path, MARKER_BYTES).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if found.is_some_and(|found| found.id == instance.id) {
        return Ok(());
    }
    let what = format!("{} does not carry the marker of this instance", instance.data_directory.display());
    Err(Error::refused(what, "it may be somebody else's data: look at it, and remove it by hand"))
}

/// Everything but the marker goes first, so that an interrupted removal can be repeated.
fn remove_data(files: &dyn Files, data: &Path) -> Result<()> {
    for entry in files.list(data).map_err(Error::files("list", data))? {
        let path = data.join(&entry.name);
        let removed = match entry.kind {
            _ if entry.name == MARKER => Ok(()),
            FileKind::Directory => files.remove_tree(&path),
            _ => files.remove_file(&path),
        };
        removed.map_err(Error::files("remove", path))?;
    }
    files.sync_dir(data).map_err(Error::files("sync", data))?;
    files.remove_tree(data).map_err(Error::files("remove", data))
}

fn tablespaces(files: &dyn Files, data: &Path) -> Result<Vec<PathBuf>> {
    let directory = data.join("pg_tblspc");
    let entries = match files.list(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::files("list", &directory))?,
    };
    let links = entries.into_iter().filter(|entry| entry.kind == FileKind::Symlink);
    links
        .map(|link| {
            files.read_link(&directory.join(&link.name)).map_err(Error::files("read", directory.join(&link.name)))
        })
        .collect()
}
