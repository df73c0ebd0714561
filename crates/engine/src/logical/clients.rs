//! PostgreSQL's client programs on this machine, and which of them serves for what.
//!
//! `pg_dump` reads servers of its own major and older ones, and refuses newer ones; `pg_restore` reads archives of its own
//! major and older ones. So the client of the server's own major is taken, and where that is missing the next newer one: an
//! archive should not need a newer program than it must.

use std::path::{Path, PathBuf};

use asof_postgres::version::Major;
use asof_world::{Exit, Files, Processes, World};
use futures::future::join_all;

use crate::error::{Error, Result};
use crate::runtime::{call, major_of};

/// The directories that packages put programs into, before and behind the number of the major.
const PACKAGES: [(&str, &str); 2] = [("/usr/lib/postgresql", "bin"), ("/usr/pgsql-", "bin")];

/// The programs of one installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The directory that holds `pg_dump`, `pg_dumpall`, `pg_restore` and `psql`.
    pub dir: PathBuf,
    /// The major.
    pub major: u32,
    /// As they say, such as `15.20 (Debian 15.20-0+deb12u1)`.
    pub version: String,
}

impl Client {
    /// The path of one program.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// The clients of this machine, and where was looked.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    /// By ascending major; of one major the first that was found.
    found: Vec<Client>,
    looked: Vec<PathBuf>,
}

impl Clients {
    /// Looks for `pg_dump`: in `bindir` if one is given, else where packages put it, then in the directories of
    /// `path_variable` (the content of `PATH`).
    pub async fn find(world: &World, bindir: Option<&Path>, path_variable: Option<&str>) -> Self {
        let looked = bindir.map_or_else(|| places(path_variable.unwrap_or_default()), |given| vec![given.to_owned()]);
        let asked = looked.iter().cloned().map(|place| {
            let (files, processes) = (world.files.clone(), world.processes());
            let skips = bindir.is_none();
            world.blocking(move || match skips && is_wrapper(files.as_ref(), &place) {
                true => None,
                false => client(files.as_ref(), processes.as_ref(), place),
            })
        });
        let mut found: Vec<Client> = Vec::new();
        for client in join_all(asked).await.into_iter().flatten() {
            if !found.iter().any(|known| known.major == client.major) {
                found.push(client);
            }
        }
        found.sort_by_key(|client| client.major);
        Self { found, looked }
    }

    /// Every client that was found, by ascending major.
    #[must_use]
    pub fn all(&self) -> &[Client] {
        &self.found
    }

    /// The client that dumps a server of this major.
    ///
    /// # Errors
    /// `Refused`, with what was found and where was looked.
    pub fn to_dump(&self, server: Major) -> Result<&Client> {
        let wanted = server.number();
        self.at_least(wanted).ok_or_else(|| {
            let what = format!("no pg_dump for PostgreSQL {wanted} was found: {}", self.described("newer or equal"));
            self.missing(what, wanted)
        })
    }

    /// The client that loads a dump made by `maker`, the major of a `pg_dump` if that is known, into a server of this major.
    ///
    /// # Errors
    /// `Refused`, with what was found and where was looked.
    pub fn to_load(&self, maker: Option<u32>, server: Major) -> Result<&Client> {
        let Some(maker) = maker else {
            let any = self.at_least(server.number()).or(self.found.last());
            return any.ok_or_else(|| self.missing(self.described("newer or equal"), server.number()));
        };
        let wanted = maker.max(server.number());
        // An older server is loaded best by its own programs, and only the dump may force newer ones on it.
        self.at_least(wanted).or_else(|| self.at_least(maker)).ok_or_else(|| {
            let what = format!("the dump was made by pg_dump {maker}, and {}", self.described("as new"));
            self.missing(what, maker)
        })
    }

    fn at_least(&self, major: u32) -> Option<&Client> {
        self.found.iter().find(|client| client.major >= major)
    }

    fn described(&self, wanted: &str) -> String {
        let looked: Vec<String> = self.looked.iter().map(|place| place.display().to_string()).collect();
        let found: Vec<String> =
            self.found.iter().map(|client| format!("{} in {}", client.major, client.dir.display())).collect();
        match found.is_empty() {
            true => format!("there are no client programs in {}", looked.join(", ")),
            false => format!("the clients here are {}, none of them {wanted}", found.join(", ")),
        }
    }

    fn missing(&self, what: String, major: u32) -> Error {
        let hint = format!(
            "install them (Debian: `apt install postgresql-client-{major}`), or set bindir of the instance to their directory"
        );
        Error::refused(what, hint)
    }
}

fn places(path: &str) -> Vec<PathBuf> {
    let of_major = |major: Major| {
        let [(debian, bin), (red_hat, _)] = PACKAGES;
        [PathBuf::from(format!("{debian}/{major}/{bin}")), PathBuf::from(format!("{red_hat}{major}/{bin}"))]
    };
    let mut places: Vec<PathBuf> = Major::ALL.into_iter().flat_map(of_major).collect();
    places.push("/usr/local/pgsql/bin".into());
    // A relative entry of PATH means another directory tomorrow.
    for place in path.split(':').map(PathBuf::from).filter(|place| place.is_absolute()) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// The programs of a directory, by what `pg_dump --version` says: `pg_dump (PostgreSQL) 15.20 (Debian …)`.
fn client(files: &dyn Files, processes: &dyn Processes, dir: PathBuf) -> Option<Client> {
    let program = dir.join("pg_dump");
    if !files.exists(&program).unwrap_or(false) {
        return None;
    }
    let output = processes.run(&call(program, "--version")).ok().filter(|output| output.exit == Exit::Code(0))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = said.trim().split_once("(PostgreSQL) ")?.1.to_owned();
    Some(Client { dir, major: major_of(&version)?, version })
}

/// Debian's programs in /usr/bin run those of the packages, which have a place of their own here, and take their time for it.
fn is_wrapper(files: &dyn Files, dir: &Path) -> bool {
    files.read_link(&dir.join("pg_dump")).is_ok_and(|target| target.ends_with("pg_wrapper"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(majors: &[u32]) -> Clients {
        let client =
            |major: &u32| Client { dir: format!("/c/{major}").into(), major: *major, version: major.to_string() };
        Clients { found: majors.iter().map(client).collect(), looked: vec!["/c".into()] }
    }

    #[test]
    fn a_dump_takes_the_servers_own_client_or_the_next_newer_one() {
        let major = |client: Result<&Client>| client.map(|client| client.major).map_err(|error| error.to_string());
        assert_eq!(major(clients(&[13, 15, 18]).to_dump(Major::V15)), Ok(15));
        assert_eq!(major(clients(&[13, 15, 18]).to_dump(Major::V16)), Ok(18));
        let missing = major(clients(&[13, 15]).to_dump(Major::V16)).expect_err("is missing");
        assert!(missing.contains("PostgreSQL 16") && missing.contains("15 in /c/15"), "{missing}");
    }

    #[test]
    fn a_load_needs_what_can_read_the_dump_and_prefers_what_fits_the_server() {
        let major = |client: Result<&Client>| client.map(|client| client.major).map_err(|error| error.to_string());
        assert_eq!(major(clients(&[13, 15, 18]).to_load(Some(13), Major::V15)), Ok(15));
        assert_eq!(
            major(clients(&[13, 15]).to_load(Some(13), Major::V18)),
            Ok(13),
            "older programs speak to newer servers"
        );
        assert_eq!(major(clients(&[13, 18]).to_load(Some(17), Major::V13)), Ok(18));
        assert!(major(clients(&[13, 15]).to_load(Some(17), Major::V13)).is_err());
        assert_eq!(major(clients(&[13, 15]).to_load(None, Major::V18)), Ok(15), "nobody knows who made it");
        assert_eq!(major(clients(&[13, 15]).to_load(None, Major::V13)), Ok(13));
        assert!(major(clients(&[]).to_load(None, Major::V13)).expect_err("is missing").contains("no client programs"));
        assert!(
            major(clients(&[]).to_load(Some(13), Major::V13)).expect_err("is missing").contains("no client programs")
        );
    }

    #[test]
    fn packages_are_looked_at_before_the_path() {
        let looked = places("/opt/pg/bin:relative:/usr/lib/postgresql/15/bin");
        assert_eq!(looked.first(), Some(&PathBuf::from("/usr/lib/postgresql/13/bin")));
        assert_eq!(looked.last(), Some(&PathBuf::from("/opt/pg/bin")));
        assert!(!looked.contains(&PathBuf::from("relative")));
    }
}
