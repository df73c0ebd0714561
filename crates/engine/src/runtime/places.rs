//! Small files and directories of ours: written durably, given to the server's user.

use std::io;
use std::path::{Path, PathBuf};

use asof_world::{Files, Id};

use super::isolation::Places;
use super::user::ServerUser;
use crate::error::{Error, Result};

/// A socket's path has at most 107 bytes (unix(7)), and the server appends `/.s.PGSQL.65535.lock`.
const SOCKET_DIRECTORY_BYTES: usize = 107 - 20;

const PRIVATE: u32 = 0o700;

/// Everybody whom the directories let through to the socket is trusted, and they let through only the server's user and
/// root. Over TCP the instance's own passwords count (`md5` also means SCRAM), and nobody replicates from a copy.
const HBA: &str = "\
# Written by asof for an isolated instance.
local all all              trust
local replication all      trust
host  all all 127.0.0.1/32 md5
host  all all ::1/128      md5
";

/// Reads a small text that may come from `/proc`, where files have no length.
pub(super) fn read_text(files: &dyn Files, path: &Path, limit: usize) -> io::Result<String> {
    let mut bytes = vec![0; limit];
    let read = files.open(path)?.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Where the socket goes: into the run directory, unless its path is too long for one.
pub(super) fn socket_directory(run_directory: &Path, id: Id) -> PathBuf {
    let own = run_directory.join("socket");
    if own.as_os_str().len() <= SOCKET_DIRECTORY_BYTES {
        return own;
    }
    Path::new("/tmp").join(format!("asof-{id}"))
}

/// Makes a directory that only the server's user may enter. One that is there must be a directory and that user's.
pub(super) fn private_directory(files: &dyn Files, path: &Path, user: &ServerUser) -> Result<()> {
    match files.create_dir(path, PRIVATE) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return check_private(files, path, user),
        Err(error) => return Err(Error::files("create", path)(error)),
    }
    files.set_mode(path, PRIVATE).map_err(Error::files("set the mode of", path))?;
    give(files, path, user)?;
    files.sync_dir(path.parent().unwrap_or(Path::new("/"))).map_err(Error::files("sync the directory of", path))
}

fn check_private(files: &dyn Files, path: &Path, user: &ServerUser) -> Result<()> {
    let found = files.attributes(path).map_err(Error::files("look at", path))?;
    let theirs = found.owner.uid == user.owner.uid || (user.switch && found.owner.uid == 0);
    if found.kind != asof_world::FileKind::Directory || !theirs {
        let what = format!("{} is not a directory of {}", path.display(), user.name);
        return Err(Error::refused(what, "name another run directory"));
    }
    files.set_mode(path, PRIVATE).map_err(Error::files("set the mode of", path))?;
    give(files, path, user)
}

/// Gives a file or directory to the server's user, if that is not ourselves anyway.
pub(super) fn give(files: &dyn Files, path: &Path, user: &ServerUser) -> Result<()> {
    match user.to_become() {
        Some(owner) => files.set_owner(path, owner).map_err(Error::files("give away", path)),
        None => Ok(()),
    }
}

/// Replaces a file of the server's user.
pub(super) fn write(files: &dyn Files, path: &Path, text: &str, user: &ServerUser) -> Result<()> {
    files.replace(path, text.as_bytes(), 0o600).map_err(Error::files("write", path))?;
    give(files, path, user)
}

/// Writes the three configuration files of an isolated server.
pub(super) fn write_configuration(files: &dyn Files, places: &Places, user: &ServerUser) -> Result<()> {
    let settings =
        "# Written by asof. What is in force is given on the server's command line; see asof-instance.json.\n";
    write(files, &places.config_file(), settings, user)?;
    write(files, &places.hba_file(), HBA, user)?;
    write(files, &places.ident_file(), "# Written by asof.\n", user)
}
