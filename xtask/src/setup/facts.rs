//! What this machine has already.

use super::install::{stamp_path, trees_directory};
use crate::run;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What decides the plan.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// The PostgreSQL major of this Debian release.
    pub(super) debian_major: Option<u32>,
    /// Majors whose Debian server package is installed.
    pub(super) debian_servers: BTreeSet<u32>,
    /// Programs that are there; `python3 -m venv` stands for a Python that can make environments with pip.
    pub(super) programs: BTreeSet<String>,
    /// Trees that are whole, with the stamp of what made them.
    pub(super) stamps: BTreeMap<String, String>,
}

/// Looks around.
pub(super) fn gather() -> Result<Facts, String> {
    let trees = trees_directory()?;
    Ok(Facts {
        debian_major: debian_major(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
        debian_servers: super::MAJORS.into_iter().filter(|major| debian_bin(*major).join("initdb").is_file()).collect(),
        programs: programs(),
        stamps: stamps(&trees),
    })
}

fn debian_bin(major: u32) -> std::path::PathBuf {
    Path::new("/usr/lib/postgresql").join(major.to_string()).join("bin")
}

fn programs() -> BTreeSet<String> {
    let found = ["cc", "npm", "pg_lsclusters"].into_iter().filter(|name| run::which(name).is_some());
    // Debian's python3 has `venv` but not what it needs (`ensurepip`) until python3-venv is installed.
    let venv = run::quietly(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_some();
    // Ordinary users do not have it on their search path.
    let places = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(Path::new);
    let mkfs = places.iter().any(|place| place.join("mkfs.ext4").is_file()) || run::which("mkfs.ext4").is_some();
    let more = [venv.then_some("python3 -m venv"), mkfs.then_some("mkfs.ext4")];
    found.chain(more.into_iter().flatten()).map(str::to_owned).collect()
}

fn stamps(trees: &Path) -> BTreeMap<String, String> {
    let names = super::MAJORS.map(|major| major.to_string()).into_iter().chain(["tools", "moto"].map(str::to_owned));
    names
        .filter_map(|name| {
            let probe = match name.as_str() {
                "tools" => "psql",
                "moto" => "moto_server",
                _ => "initdb",
            };
            let whole = trees.join(&name).join("bin").join(probe).is_file();
            let stamp = fs::read_to_string(stamp_path(trees, &name)).ok().filter(|_| whole)?;
            Some((name, stamp))
        })
        .collect()
}

/// The major that a release of Debian brings, from the text of `/etc/os-release`.
fn debian_major(os_release: &str) -> Option<u32> {
    let value = |key: &str| os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    match (value("ID")?, value("VERSION_CODENAME")?) {
        ("debian", "bookworm") => Some(15),
        ("debian", "trixie") => Some(17),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_names_its_major() {
        let bookworm = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(debian_major(bookworm), Some(15));
        assert_eq!(debian_major("ID=debian\nVERSION_CODENAME=trixie"), Some(17));
        assert_eq!(debian_major("ID=ubuntu\nVERSION_CODENAME=noble"), None);
        assert_eq!(debian_major(""), None);
    }
}
