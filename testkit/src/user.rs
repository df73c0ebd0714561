//! Which user servers run as: ourselves, or `postgres` when we are root.

use crate::place;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// A numeric user and its main group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    uid: u32,
    gid: u32,
}

/// The user to switch to before a server program runs; `None` when we are not root and stay who we are.
pub(crate) fn server_user() -> Option<User> {
    if !place::is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
    let user = find(&passwd, "postgres").expect("no user `postgres` to run servers as: run `cargo xtask setup`");
    Some(user)
}

/// A command that will run as the server's user.
pub(crate) fn server_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some(user) = server_user() {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// Gives one file or directory to the server's user.
pub(crate) fn give(path: &Path) {
    if let Some(user) = server_user() {
        chown(path, Some(user.uid), Some(user.gid)).unwrap_or_else(|error| panic!("chown {}: {error}", path.display()));
    }
}

/// Gives a whole tree to the server's user, without following links.
pub(crate) fn give_tree(path: &Path) {
    let Some(user) = server_user() else { return };
    give_tree_to(path, user);
}

fn give_tree_to(path: &Path, user: User) {
    let kind = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).file_type();
    if kind.is_symlink() {
        return;
    }
    chown(path, Some(user.uid), Some(user.gid)).unwrap_or_else(|error| panic!("chown {}: {error}", path.display()));
    if kind.is_dir() {
        for entry in fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
            give_tree_to(&entry.expect("a directory can be listed").path(), user);
        }
    }
}

/// Finds a user in the text of `/etc/passwd` (`name:password:uid:gid:…`).
fn find(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        Some(User { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:8::/:/bin/sh\npostgres:x:101:104::/:/bin/sh\n";
        assert_eq!(find(passwd, "postgres"), Some(User { uid: 101, gid: 104 }));
        assert_eq!(find(passwd, "nobody"), None);
    }
}
