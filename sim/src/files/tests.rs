//! The disk keeps what was synced, loses the rest in every way a file system may, and fails where it is told to.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use asof_world::{FileKind, create_dir_durable};

use super::*;

fn path(path: &str) -> &Path {
    Path::new(path)
}

fn put(files: &SimFiles, name: &str, bytes: &[u8]) -> io::Result<Box<dyn WriteFile>> {
    let mut file = files.create(path(name), 0o600, WriteMode::Cached)?;
    file.write_at(0, bytes)?;
    Ok(file)
}

fn content(files: &SimFiles, name: &str) -> Option<Vec<u8>> {
    files.read(path(name), u64::MAX).ok()
}

fn kind(result: io::Result<impl Sized>) -> ErrorKind {
    result.err().expect("it is refused").kind()
}

#[test]
fn a_file_survives_only_when_it_and_its_name_were_synced() {
    for (sync_file, sync_name, left) in [
        (true, true, Some(b"bytes".to_vec())),
        (false, true, Some(Vec::new())),
        (true, false, None),
        (false, false, None),
    ] {
        let files = SimFiles::new();
        let mut file = put(&files, "/f", b"bytes").expect("writes");
        if sync_file {
            file.sync().expect("syncs");
        }
        if sync_name {
            files.sync_dir(path("/")).expect("syncs");
        }
        files.crash();
        assert_eq!(content(&files, "/f"), left, "file synced: {sync_file}, name synced: {sync_name}");
    }
}

#[test]
fn a_synced_file_in_a_directory_without_a_durable_name_is_gone() {
    let files = SimFiles::new();
    files.create_dir(path("/d"), 0o700).expect("creates");
    put(&files, "/d/f", b"x").expect("writes").sync().expect("syncs");
    files.sync_dir(path("/d")).expect("syncs");
    assert_eq!(content(&files.copy_after_power_cut(Unsynced::Lost), "/d/f"), None);
    files.sync_dir(path("/")).expect("syncs");
    assert_eq!(content(&files.copy_after_power_cut(Unsynced::Lost), "/d/f"), Some(b"x".to_vec()));
}

#[test]
fn creating_directories_durably_survives_a_crash_at_once() {
    let files = SimFiles::new();
    create_dir_durable(&files, path("/a/b/c"), 0o700).expect("creates");
    files.crash();
    assert_eq!(files.attributes(path("/a/b/c")).expect("is there").kind, FileKind::Directory);
}

#[test]
fn an_unsynced_removal_and_an_unsynced_rename_are_undone() {
    let files = SimFiles::new();
    for name in ["/gone", "/old"] {
        put(&files, name, name.as_bytes()).expect("writes").sync().expect("syncs");
    }
    files.sync_dir(path("/")).expect("syncs");
    files.remove_file(path("/gone")).expect("removes");
    files.rename(path("/old"), path("/new")).expect("renames");
    assert_eq!((content(&files, "/gone"), content(&files, "/old")), (None, None));
    files.crash();
    assert_eq!(content(&files, "/gone"), Some(b"/gone".to_vec()));
    assert_eq!((content(&files, "/old"), content(&files, "/new")), (Some(b"/old".to_vec()), None));
}

#[test]
fn a_rename_between_directories_becomes_durable_in_each_on_its_own() {
    let files = SimFiles::new();
    for dir in ["/a", "/b"] {
        files.create_dir(path(dir), 0o700).expect("creates");
    }
    put(&files, "/a/f", b"x").expect("writes").sync().expect("syncs");
    files.sync_dir(path("/a")).expect("syncs");
    files.sync_dir(path("/")).expect("syncs");
    files.rename(path("/a/f"), path("/b/f")).expect("renames");
    files.sync_dir(path("/a")).expect("syncs");
    files.crash();
    assert_eq!((content(&files, "/a/f"), content(&files, "/b/f")), (None, None), "lost by syncing only the source");
}

#[test]
fn replacing_a_file_leaves_the_old_or_the_new_one_whatever_survives() {
    let base = SimFiles::new();
    base.replace(path("/settings"), b"old", 0o600).expect("replaces");
    for stop in 0..6 {
        for seed in 0..50 {
            let files = base.copy();
            files.stop_at(stop);
            let done = files.replace(path("/settings"), b"new", 0o600).is_ok();
            let left = content(&files.copy_after_power_cut(Unsynced::Mixed(seed)), "/settings");
            let left = left.expect("is there");
            assert!(left == b"new" || (left == b"old" && !done), "stopped at {stop}, seed {seed}: {left:?}");
        }
    }
}

#[test]
fn what_was_not_synced_survives_in_many_ways() {
    let files = SimFiles::new();
    let mut file = put(&files, "/f", &[1; 2048]).expect("writes");
    file.sync().expect("syncs");
    files.sync_dir(path("/")).expect("syncs");
    file.write_at(1024, &[2; 2048]).expect("writes");
    let left: BTreeSet<Vec<u8>> = (0..500)
        .map(|seed| content(&files.copy_after_power_cut(Unsynced::Mixed(seed)), "/f").expect("is there"))
        .collect();
    assert!(left.iter().all(|bytes| bytes[..1024] == [1; 1024]), "what was synced and not written again is as it was");
    assert!(left.contains([vec![1; 1024], vec![2; 2048]].concat().as_slice()), "the whole write");
    assert!(left.contains([1; 2048].as_slice()), "nothing of it");
    assert!(left.iter().any(|bytes| bytes.len() == 3072 && bytes.ends_with(&[0; 512])), "a length without content");
    assert!(left.iter().any(|bytes| bytes[1024..1536] == [1; 512] && bytes[1536..2048] == [2; 512]), "a torn write");
    assert!(left.iter().all(|bytes| bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0]))));
}

#[test]
fn a_sync_that_failed_is_not_made_good_by_the_next_one() {
    let files = SimFiles::new();
    let mut file = put(&files, "/f", b"lost").expect("writes");
    files.sync_dir(path("/")).expect("syncs");
    files.fail_at(files.calls().len(), Fault::Forgets);
    assert!(file.sync().is_err());
    file.sync().expect("syncs");
    assert_eq!(content(&files, "/f"), Some(b"lost".to_vec()), "it reads well");
    files.crash();
    assert_eq!(content(&files, "/f"), Some(Vec::new()), "and is gone");
}

#[test]
fn a_call_fails_before_halfway_or_after_it_was_done() {
    for (fault, left) in [
        (Fault::Refused(Trouble::Full), b"".as_slice()),
        (Fault::Halfway(Trouble::Full), b"12"),
        (Fault::DoneButFailed(Trouble::Full), b"1234"),
    ] {
        let files = SimFiles::new();
        files.fail_at(1, fault);
        assert_eq!(kind(put(&files, "/f", b"1234")), ErrorKind::StorageFull, "{fault:?}");
        assert_eq!(content(&files, "/f").as_deref(), Some(left), "{fault:?}");
    }
}

#[test]
fn a_stopped_process_can_do_nothing_and_its_neighbour_everything() {
    let files = SimFiles::new();
    files.stop_at(2);
    put(&files, "/f", b"x").expect("writes");
    assert!(files.sync_dir(path("/")).is_err());
    assert!(files.attributes(path("/f")).is_err());
    let neighbour = files.neighbour();
    assert_eq!(content(&neighbour, "/f"), Some(b"x".to_vec()));
    neighbour.remove_file(path("/f")).expect("removes");
    let made: Vec<String> = files.calls().iter().map(Call::to_string).collect();
    assert_eq!(made, ["create /f", "write /f", "sync_dir /"]);
}

#[test]
fn another_process_can_be_faster_at_a_chosen_call() {
    let files = SimFiles::new();
    let neighbour = files.neighbour();
    put(&files, "/mine", b"x").expect("writes");
    files.interrupt_at(2, move || drop(put(&neighbour, "/name", b"theirs").expect("writes")));
    assert_eq!(kind(files.link(path("/mine"), path("/name"))), ErrorKind::AlreadyExists);
}

#[test]
fn a_file_opened_before_the_power_cut_is_dead_after_it() {
    let files = SimFiles::new();
    let mut file = put(&files, "/f", b"x").expect("writes");
    files.sync_dir(path("/")).expect("syncs");
    files.crash();
    assert!(file.write_at(0, b"y").is_err());
}

#[test]
fn names_are_refused_as_a_kernel_refuses_them() {
    let files = SimFiles::new();
    files.create_dir(path("/d"), 0o700).expect("creates");
    put(&files, "/d/f", b"x").expect("writes");
    assert_eq!(kind(files.create(path("/d/f"), 0o600, WriteMode::Direct)), ErrorKind::AlreadyExists);
    assert_eq!(kind(files.create(path("/no/f"), 0o600, WriteMode::Cached)), ErrorKind::NotFound);
    assert_eq!(kind(files.create_dir(path("/d/f/g"), 0o700)), ErrorKind::NotADirectory);
    assert_eq!(kind(files.link(path("/d/f"), path("/d"))), ErrorKind::AlreadyExists);
    assert_eq!(kind(files.link(path("/d"), path("/e"))), ErrorKind::PermissionDenied);
    assert_eq!(kind(files.remove_dir(path("/d"))), ErrorKind::DirectoryNotEmpty);
    assert_eq!(kind(files.remove_file(path("/d"))), ErrorKind::IsADirectory);
    assert_eq!(kind(files.rename(path("/d"), path("/d/e"))), ErrorKind::InvalidInput);
    assert_eq!(kind(files.read(path("/d"), 1 << 20)), ErrorKind::IsADirectory);
    assert_eq!(kind(files.list(path("/d/f"))), ErrorKind::NotADirectory);
    assert_eq!(kind(files.attributes(path("/d/../d"))), ErrorKind::InvalidInput);
}

#[test]
fn links_are_followed_on_the_way_but_not_at_the_end() {
    let files = SimFiles::new();
    files.create_dir(path("/d"), 0o700).expect("creates");
    put(&files, "/d/f", b"x").expect("writes");
    files.symlink(path("/d"), path("/l")).expect("links");
    files.symlink(path("l"), path("/m")).expect("links");
    files.symlink(path("/loop"), path("/loop")).expect("links");
    assert_eq!(content(&files, "/m/f"), Some(b"x".to_vec()));
    assert_eq!(files.attributes(path("/l")).expect("is there").kind, FileKind::Symlink);
    assert_eq!(files.read_link(path("/m")).expect("is a link"), path("l"));
    assert!(files.open_write(path("/l")).is_err() && files.list(path("/l")).is_err());
    assert!(files.open(path("/loop/f")).is_err());
    files.remove_tree(path("/")).expect_err("the root stays");
    assert_eq!(content(&files, "/d/f"), None, "everything below went");
}

#[test]
fn owner_mode_and_identity_are_kept() {
    let files = SimFiles::new();
    drop(put(&files, "/f", b"x").expect("writes"));
    files.link(path("/f"), path("/g")).expect("links");
    files.set_owner(path("/f"), Owner { uid: 7, gid: 8 }).expect("sets");
    files.set_mode(path("/g"), 0o640).expect("sets");
    let (f, g) = (files.attributes(path("/f")).expect("is there"), files.attributes(path("/g")).expect("is there"));
    assert_eq!(f, g);
    assert_eq!((f.mode, f.owner, f.len), (0o640, Owner { uid: 7, gid: 8 }, 1));
}
