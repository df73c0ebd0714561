//! Where servers and their data live: below `target/`, or beside it when the server's user could not get there.
//!
//! PostgreSQL refuses to run as root, so root's tests run it as the user `postgres`. That user must be able to traverse
//! every directory on the way, which a checkout in a closed home directory does not allow. Then everything moves to a
//! directory under `/tmp` whose name derives from the checkout. `xtask` includes this file as a module: both must agree.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The directory that holds the workspace's `Cargo.toml`. Both users of this file are members directly below it.
pub(crate) fn workspace() -> PathBuf {
    let member = Path::new(env!("CARGO_MANIFEST_DIR"));
    member.parent().expect("a member lies below the workspace").to_path_buf()
}

/// The directory that holds `pg/` (server trees) and `test-data/`: `<workspace>/target`, or its stand-in under `/tmp`.
///
/// It exists when this returns. Fails when it cannot be made, or when the stand-in belongs to somebody else.
pub(crate) fn shared() -> io::Result<PathBuf> {
    let target = workspace().join("target");
    fs::create_dir_all(&target)?;
    if !is_root() || open_to_all(&target) {
        return Ok(target);
    }
    let stand_in = stand_in(&workspace());
    create_open_directory(&stand_in)?;
    Ok(stand_in)
}

/// Whether this process is root, as the owner of its own `/proc` entry tells.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0)
}

/// Whether every user may traverse the directory and all those above it.
fn open_to_all(directory: &Path) -> bool {
    directory.ancestors().all(|it| fs::metadata(it).is_ok_and(|meta| meta.mode() & 0o001 != 0))
}

/// `/tmp/asof-<16 hex digits>`, the digits being the FNV-1a hash of the checkout's path.
fn stand_in(checkout: &Path) -> PathBuf {
    let hash = checkout
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    PathBuf::from(format!("/tmp/asof-{hash:016x}"))
}

/// Makes a directory with mode 0755, or accepts the one that is there if it is a real directory of ours: `/tmp` is
/// open to everybody, and root must not run programs from a directory that another user prepared.
fn create_open_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o755)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(path)?;
            let ours = found.is_dir() && found.uid() == fs::metadata("/proc/self")?.uid();
            if ours { Ok(()) } else { Err(io::Error::other(format!("{} belongs to another user", path.display()))) }
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stand_in_differs_between_checkouts_and_not_between_runs() {
        assert_eq!(stand_in(Path::new("/home/a/asof")), stand_in(Path::new("/home/a/asof")));
        assert_ne!(stand_in(Path::new("/home/a/asof")), stand_in(Path::new("/home/b/asof")));
    }

    #[test]
    fn the_shared_directory_can_be_traversed_by_the_server_user() {
        let shared = shared().unwrap();
        assert!(!is_root() || open_to_all(&shared), "{}", shared.display());
    }
}
