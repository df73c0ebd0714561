//! What a connection may ask of the machine it runs on, handed in by the caller.
//!
//! Nothing in this crate reads `std::env`, a file or a clock: the binary hands in the real ones, a test hands in values.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use asof_world::{FileKind, Files, World};

/// More than any passfile or bundle of root certificates.
const LARGEST_FILE: u64 = 4 << 20;
/// As many links as Linux follows in a path (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;
type ReadFile = dyn Fn(&Path) -> io::Result<Vec<u8>> + Send + Sync;
type FileMode = dyn Fn(&Path) -> io::Result<u32> + Send + Sync;
type UnixSeconds = dyn Fn() -> u64 + Send + Sync;

/// The surroundings of a connection: environment variables, small files, the user, and the time for certificates.
#[derive(Clone)]
pub struct Environment {
    /// The value of an environment variable (`PGHOST`, …).
    pub lookup: Arc<Lookup>,
    /// Reads a small file: passfile, service file, certificate, key. Follows links, as libpq does.
    pub read_file: Arc<ReadFile>,
    /// Permission bits of a file (`0o777` of `st_mode`), following links; `NotFound` if there is none.
    pub file_mode: Arc<FileMode>,
    /// Seconds since 1970, for the validity of certificates only.
    pub unix_seconds: Arc<UnixSeconds>,
    /// The home directory: `.pgpass`, `.pg_service.conf` and `.postgresql/` are looked for there.
    pub home: Option<PathBuf>,
    /// The name of the operating-system user: PostgreSQL's default for `user`.
    pub user: Option<String>,
}

impl Environment {
    /// Surroundings in which there is nothing: no variables, no files, no home, no user; the time is `unix_seconds`.
    #[must_use]
    pub fn empty(unix_seconds: u64) -> Self {
        Self {
            lookup: Arc::new(|_| None),
            read_file: Arc::new(|_| Err(io::ErrorKind::NotFound.into())),
            file_mode: Arc::new(|_| Err(io::ErrorKind::NotFound.into())),
            unix_seconds: Arc::new(move || unix_seconds),
            home: None,
            user: None,
        }
    }

    /// The machine behind `world`, with these variables. Home directory and user are `HOME` and `USER` of the variables, where
    /// libpq asks the user database; set the fields for another answer.
    ///
    /// Files are read where the connection is made, without [`World::blocking`]: they are few, local and small.
    #[must_use]
    pub fn of_world(world: &World, lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let (reader, modes, clock) = (Arc::clone(&world.files), Arc::clone(&world.files), Arc::clone(&world.clock));
        Self {
            home: lookup("HOME").filter(|home| !home.is_empty()).map(PathBuf::from),
            user: lookup("USER").filter(|user| !user.is_empty()),
            lookup: Arc::new(lookup),
            read_file: Arc::new(move |path| reader.read(&follow(&*reader, path)?, LARGEST_FILE)),
            file_mode: Arc::new(move |path| Ok(modes.attributes(&follow(&*modes, path)?)?.mode & 0o777)),
            unix_seconds: Arc::new(move || u64::try_from(clock.now().0 / 1_000_000).unwrap_or(0)),
        }
    }

    /// The value of a variable; an empty one counts as unset.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    /// The content of a file, `None` if it does not exist.
    pub(crate) fn read_if_exists(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match (self.read_file)(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A path below the home directory, `None` without a home.
    pub(crate) fn below_home(&self, relative: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(relative))
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("home", &self.home).field("user", &self.user).finish_non_exhaustive()
    }
}

/// The file that `path` stands for, after its own links.
fn follow(files: &dyn Files, path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        if files.attributes(&path)?.kind != FileKind::Symlink {
            return Ok(path);
        }
        let target = files.read_link(&path)?;
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    Err(io::Error::other(format!("{} is a loop of links", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use asof_world::WriteMode;

    #[tokio::test]
    async fn files_of_the_world_are_read_through_their_links() {
        let dir = asof_testkit::Workdir::new("environment");
        let (world, at) = (World::real(), |name: &str| dir.path().join(name));
        let mut file = world.files.create(&at("real"), 0o600, WriteMode::Cached).expect("creates");
        file.write_at(0, b"content").expect("writes");
        world.files.symlink(Path::new("real"), &at("link")).expect("links");
        world.files.symlink(Path::new("loop"), &at("loop")).expect("links");
        let home = dir.path().display().to_string();
        let environment = Environment::of_world(&world, move |name| (name == "HOME").then(|| home.clone()));
        assert_eq!((environment.read_file)(&at("link")).expect("reads"), b"content");
        assert_eq!((environment.file_mode)(&at("link")).expect("has a mode"), 0o600);
        assert_eq!(environment.read_if_exists(&at("nothing")).expect("absent"), None);
        assert!((environment.read_file)(&at("loop")).is_err());
        assert_eq!(environment.below_home("link"), Some(at("link")));
        assert!((environment.unix_seconds)() > 1_700_000_000);
    }
}
