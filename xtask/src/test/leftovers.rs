//! What a run of the tests may have left behind, and its removal.

use crate::{Outcome, place, run, setup};
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The state of the checkout before the tests.
pub(crate) struct Watch {
    untracked: BTreeSet<String>,
}

impl Watch {
    /// Takes down what is untracked now.
    pub(crate) fn begin() -> Self {
        Self { untracked: untracked_files() }
    }

    /// Ends processes that still work in the run's data directory, unmounts what is mounted there, removes it, and fails if
    /// there was anything to end or the checkout holds new files.
    pub(crate) fn end(self, data: &Path) -> Outcome {
        let processes = processes_in(data);
        end_processes(&processes)?;
        let mounts = mounts_in(data);
        mounts.iter().try_for_each(|mount| run::visibly(setup::privileged("umount").arg("--lazy").arg(mount)))?;
        fs::remove_dir_all(data).map_err(|error| format!("{}: {error}", data.display()))?;
        let files: Vec<String> = untracked_files().difference(&self.untracked).cloned().collect();
        if !processes.is_empty() {
            return Err(format!("tests left processes behind (ended now): {processes:?}"));
        }
        if !mounts.is_empty() {
            return Err(format!("tests left file systems behind (unmounted now): {mounts:?}"));
        }
        if files.is_empty() { Ok(()) } else { Err(format!("new files in the checkout: {}", files.join(", "))) }
    }
}

/// Untracked files, but only where nobody edits while the tests run.
fn untracked_files() -> BTreeSet<String> {
    if env::var_os("CI").is_none() {
        return BTreeSet::new();
    }
    let mut git = Command::new("git");
    git.current_dir(place::workspace()).args(["ls-files", "--others", "--exclude-standard"]);
    run::quietly(&mut git).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Processes whose working directory lies below a directory, which is true of every server that a test started.
fn processes_in(directory: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory))).collect()
}

/// File systems that a test mounted and did not unmount, because it was killed.
fn mounts_in(directory: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    places.filter(|place| place.starts_with(directory)).collect()
}

fn end_processes(pids: &[u32]) -> Outcome {
    if pids.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = pids.iter().map(ToString::to_string).collect();
    run::visibly(Command::new("sh").args(["-c", &format!("kill -KILL {} || true", list.join(" "))]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    #[test]
    fn a_process_is_found_by_where_it_works() {
        let here = place::shared().unwrap().join(format!("leftovers-{}", std::process::id()));
        fs::create_dir_all(&here).unwrap();
        let mut child = Command::new("cat").current_dir(&here).stdin(Stdio::piped()).spawn().unwrap();
        let found = processes_in(&here);
        end_processes(&found).unwrap();
        assert_eq!(found, [child.id()]);
        assert!(!child.wait().unwrap().success());
        assert_eq!(processes_in(&here), [0; 0]);
        fs::remove_dir(&here).unwrap();
    }
}
