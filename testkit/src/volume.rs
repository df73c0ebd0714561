//! A file system whose power can be cut: ext4 in a file, mounted through a loop device.
//!
//! [`Volume::cut`] asks ext4 to shut down without flushing its log (`EXT4_IOC_SHUTDOWN` with
//! `EXT4_GOING_FLAGS_NOLOGFLUSH`, fs/ext4/ext4.h). From then on every call fails, and what was not synced is gone when the
//! file system is mounted again: data that was not written, names whose directory was not synced. The log commits only
//! when somebody syncs (`commit=600`), so nothing is saved by the kernel's own regular commit.
//!
//! What reached the loop device stays: a device that forgets what it acknowledged is not simulated.
//!
//! Mounting needs root; another user's tests go through `sudo`, and fail when that would ask for a password.

use crate::{Workdir, place, programs};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Room for a small repository, and for a log that is a good part of it.
const DEFAULT_MIB: u64 = 96;

/// One volume at a time is mounted or unmounted: where one takes the loop device that another is just giving back, both read errors.
static LOOP_DEVICES: Mutex<()> = Mutex::new(());

/// How long a process that was killed may keep its files open.
const BUSY_LIMIT: Duration = Duration::from_secs(30);

/// `_IOR('X', 125, u32)` with the flag 2.
const SHUT_DOWN: &str = "
import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))
";

/// An ext4 file system of its own, unmounted and removed with the value.
#[derive(Debug)]
pub struct Volume {
    work: Workdir,
}

impl Volume {
    /// Makes and mounts an empty one.
    ///
    /// # Panics
    /// When it cannot be made or mounted, for example for want of rights.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::with_size(name, DEFAULT_MIB)
    }

    /// As [`new`](Self::new), with room for `mib` MiB.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    #[must_use]
    pub fn with_size(name: &str, mib: u64) -> Self {
        let volume = Self { work: Workdir::new(name) };
        let image = volume.image();
        let made = File::create(&image).and_then(|file| file.set_len(mib << 20));
        made.unwrap_or_else(|error| panic!("{}: {error}", image.display()));
        // Without lazy initialisation, which goes on in the background; the root directory belongs to us.
        let options = "root_owner,lazy_itable_init=0,lazy_journal_init=0";
        succeed(system("mkfs.ext4").args(["-q", "-F", "-E", options]).arg(&image));
        let _ = volume.work.directory("mounted");
        volume.mount();
        volume
    }

    /// Its root directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.work.path().join("mounted")
    }

    /// Cuts the power. Whoever works in it sees errors from now on.
    ///
    /// # Panics
    /// When the file system does not shut down.
    pub fn cut(&self) {
        succeed(privileged(&programs::python()).args(["-c", SHUT_DOWN]).arg(self.path()));
    }

    /// Mounts it again after a cut. Every process that had files in it open must have ended or be ending.
    ///
    /// # Panics
    /// When somebody keeps it busy, or ext4 cannot recover.
    pub fn switch_on(&self) {
        let deadline = Instant::now() + BUSY_LIMIT;
        while let Err(why) = self.unmounted() {
            assert!(why.contains("busy") && Instant::now() < deadline, "{why}");
            std::thread::yield_now();
        }
        self.mount();
    }

    fn image(&self) -> PathBuf {
        self.work.path().join("image")
    }

    fn mount(&self) {
        let _alone = alone();
        // A loop device that goes with the mount.
        let mut mount = privileged(Path::new("mount"));
        succeed(mount.args(["-t", "ext4", "-o", "loop,commit=600"]).arg(self.image()).arg(self.path()));
    }

    fn unmounted(&self) -> Result<(), String> {
        let _alone = alone();
        attempt(&mut self.unmount())
    }

    fn unmount(&self) -> Command {
        let mut unmount = privileged(Path::new("umount"));
        unmount.arg(self.path());
        unmount
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: what still has files open ends with the test, and the mount then goes with it.
        if is_mounted(&self.path()) {
            let _alone = alone();
            let _ = attempt(self.unmount().arg("--lazy"));
        }
    }
}

fn alone() -> MutexGuard<'static, ()> {
    // A test that failed while it had this leaves nothing half done that matters to others.
    LOOP_DEVICES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

/// A program that ordinary users may not have on their search path.
fn system(program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

fn privileged(program: &Path) -> Command {
    if place::is_root() {
        return system(program.to_str().expect("our paths are UTF-8"));
    }
    let mut command = system("sudo");
    command.arg("-n").arg(program);
    command
}

fn succeed(command: &mut Command) {
    attempt(command).unwrap_or_else(|why| {
        panic!("{why}: file systems of tests need root, or sudo without a password, and `cargo xtask setup`")
    });
}

fn attempt(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {} {}", output.status, said.trim())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_takes_what_was_not_synced_and_leaves_what_was() {
        let volume = Volume::new("volume");
        let directory = volume.path().join("directory");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("synced"), "a").unwrap();
        for path in [directory.join("synced"), directory.clone(), volume.path()] {
            File::open(path).unwrap().sync_all().unwrap();
        }
        fs::write(directory.join("forgotten"), "b").unwrap();
        volume.cut();
        assert!(fs::write(directory.join("too-late"), "c").is_err());
        volume.switch_on();
        let names: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["synced"]);
        assert_eq!(fs::read_to_string(directory.join("synced")).unwrap(), "a");
    }

    #[test]
    fn a_volume_is_unmounted_with_its_value() {
        let volume = Volume::new("volume");
        let path = volume.path();
        assert!(is_mounted(&path));
        drop(volume);
        assert!(!is_mounted(&path));
    }
}
