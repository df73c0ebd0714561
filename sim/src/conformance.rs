//! What every store has to do, as one suite: the contract of [`Store`] in executable form.
//!
//! The suite is for a store at rest that nobody else uses, below a prefix of its own. It asserts, and so panics where a
//! store does not keep the contract. Listings have to be complete here, although nothing may rely on that elsewhere.

use std::sync::Arc;

use asof_repository::error::Error;
use asof_repository::store::{Body, Created, ReadRange, Store};
use bytes::Bytes;
use futures::future::join_all;

use crate::Prng;

const MIB: usize = 1 << 20;

/// Holds a store against the whole contract.
///
/// # Panics
/// Where the store does not keep it.
pub async fn store_keeps_its_contract(store: Arc<dyn Store>) {
    let store = store.as_ref();
    creation_makes_an_object_once(store).await;
    any_part_of_an_object_can_be_read(store).await;
    absence_is_told_from_every_other_answer(store).await;
    a_listing_names_what_begins_with_the_prefix(store).await;
    deletion_is_idempotent(store).await;
    names_that_leave_the_repository_are_refused(store).await;
    objects_of_every_size_come_back_whole(store).await;
    of_many_creators_one_wins(store).await;
}

async fn put(store: &dyn Store, name: &str, bytes: &[u8]) {
    let created = store.create(name, Body::from(bytes.to_vec())).await;
    assert_eq!(created.unwrap_or_else(|error| panic!("create {name}: {error}")), Created::New, "{name}");
}

async fn get(store: &dyn Store, name: &str, range: ReadRange) -> Bytes {
    store.read(name, range).await.unwrap_or_else(|error| panic!("read {range:?} of {name}: {error}"))
}

async fn creation_makes_an_object_once(store: &dyn Store) {
    put(store, "once/a", b"first").await;
    // Equal bytes are not tried: a layer that settles lost answers takes them for its own.
    for second in [b"other".as_slice(), b""] {
        let created = store.create("once/a", Body::from(second.to_vec())).await;
        assert_eq!(created.expect("a taken name is no error"), Created::Exists, "a taken name is taken");
        assert_eq!(get(store, "once/a", ReadRange::Whole).await, "first", "a taken name keeps its content");
    }
}

async fn any_part_of_an_object_can_be_read(store: &dyn Store) {
    let bytes = Prng::new(1).bytes(10_000);
    put(store, "parts/a", &bytes).await;
    assert_eq!(get(store, "parts/a", ReadRange::Whole).await, bytes);
    for (offset, len) in [(0, 1), (0, 10_000), (1, 9_999), (4_095, 2), (9_999, 1), (512, 4_096)] {
        let part = get(store, "parts/a", ReadRange::Part { offset: offset as u64, len: len as u64 }).await;
        assert_eq!(part, bytes[offset..offset + len], "{len} bytes from {offset}");
    }
    for (last, start) in [(1, 9_999), (10_000, 0), (10_001, 0), (u64::MAX, 0), (0, 10_000)] {
        let part = get(store, "parts/a", ReadRange::Last { len: last }).await;
        assert_eq!(part, bytes[start..], "the last {last} bytes");
    }
    for (offset, len) in [(0, 0), (17, 0), (10_000, 0)] {
        assert_eq!(get(store, "parts/a", ReadRange::Part { offset, len }).await, "", "nothing from {offset}");
    }
    for (offset, len) in [(0, 10_001), (9_999, 2), (10_000, 1), (10_001, 0), (u64::MAX, 1), (1, u64::MAX)] {
        let read = store.read("parts/a", ReadRange::Part { offset, len }).await;
        let error = read.err().unwrap_or_else(|| panic!("{len} bytes from {offset} of 10000 were read"));
        assert!(!error.is_not_found() && !error.is_transient(), "{len} bytes from {offset}: {error}");
    }
    assert_eq!(store.len("parts/a").await.expect("has a length"), 10_000);
}

async fn absence_is_told_from_every_other_answer(store: &dyn Store) {
    put(store, "absent/present", b"x").await;
    for name in ["absent/a", "nowhere/at/all", "absent/presen", "absent/present2"] {
        for range in [ReadRange::Whole, ReadRange::Last { len: 1 }, ReadRange::Part { offset: 0, len: 1 }] {
            let error = store.read(name, range).await.expect_err("nothing is there");
            assert!(error.is_not_found(), "read {name}: {error}");
        }
        let error = store.len(name).await.expect_err("nothing is there");
        assert!(error.is_not_found(), "len {name}: {error}");
    }
}

/// A part of names is not an object, although a directory has it: what a directory makes easy to get wrong.
///
/// # Panics
/// Where the store takes a directory for an object.
pub async fn a_prefix_is_not_an_object(store: Arc<dyn Store>) {
    put(store.as_ref(), "prefix/deep/a", b"x").await;
    for name in ["prefix", "prefix/deep", "prefix/deep/a/b"] {
        let error = store.read(name, ReadRange::Whole).await.expect_err("no object has this name");
        assert!(error.is_not_found(), "read {name}: {error}");
        let error = store.len(name).await.expect_err("no object has this name");
        assert!(error.is_not_found(), "len {name}: {error}");
    }
}

async fn a_listing_names_what_begins_with_the_prefix(store: &dyn Store) {
    for (name, len) in
        [("list/a", 1), ("list/ab", 2), ("list/a/deep/er", 3), ("list/b/c", 4), ("lis", 5), ("listing", 6)]
    {
        // A directory cannot hold a file and a directory of one name, and no two objects of ours need that.
        let name = if name == "list/a" { "list/a1" } else { name };
        put(store, name, &vec![0; len]).await;
    }
    for (prefix, expect) in [
        ("list/", "list/a/deep/er=3 list/a1=1 list/ab=2 list/b/c=4"),
        ("list/a", "list/a/deep/er=3 list/a1=1 list/ab=2"),
        ("list/a/", "list/a/deep/er=3"),
        ("list/a/de", "list/a/deep/er=3"),
        ("list/ab", "list/ab=2"),
        ("lis", "lis=5 list/a/deep/er=3 list/a1=1 list/ab=2 list/b/c=4 listing=6"),
        ("list/c", ""),
        ("nowhere/", ""),
    ] {
        let mut listed = store.list(prefix).await.unwrap_or_else(|error| panic!("list {prefix}: {error}"));
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        let found: Vec<String> = listed.iter().map(|object| format!("{}={}", object.name, object.len)).collect();
        assert_eq!(found.join(" "), expect, "below \"{prefix}\"");
    }
    let all = store.list("").await.expect("lists everything");
    assert!(all.iter().any(|object| object.name == "once/a") && all.iter().any(|object| object.name == "listing"));
    assert!(all.iter().all(|object| !object.name.starts_with('/')), "names are relative");
}

async fn deletion_is_idempotent(store: &dyn Store) {
    put(store, "delete/a", b"x").await;
    put(store, "delete/b", b"y").await;
    for _ in 0..2 {
        store.delete("delete/a").await.expect("absence is no error");
        assert!(store.read("delete/a", ReadRange::Whole).await.expect_err("is gone").is_not_found());
    }
    store.delete("never/was/there").await.expect("absence is no error");
    assert_eq!(get(store, "delete/b", ReadRange::Whole).await, "y");
    let listed = store.list("delete/").await.expect("lists");
    assert_eq!(listed.iter().map(|object| object.name.as_str()).collect::<Vec<_>>(), ["delete/b"]);
}

async fn names_that_leave_the_repository_are_refused(store: &dyn Store) {
    for name in ["", "/", "/etc/passwd", "..", "../x", "a/../../x", "a/..", ".", "a/./b", "a//b", "a/", "a\0b"] {
        let refused = |error: Error| {
            assert!(!error.is_transient() && !error.is_not_found(), "\"{name}\" is refused for good: {error}");
        };
        refused(store.create(name, Body::from(vec![1])).await.expect_err("is refused"));
        refused(store.read(name, ReadRange::Whole).await.expect_err("is refused"));
        refused(store.len(name).await.expect_err("is refused"));
        refused(store.delete(name).await.expect_err("is refused"));
    }
}

async fn objects_of_every_size_come_back_whole(store: &dyn Store) {
    for len in [0, 1, 511, 512, 4_095, 4_096, 4_097, MIB, 40 * MIB] {
        let (name, bytes) = (format!("size/{len}"), Prng::new(len as u64).bytes(len));
        put(store, &name, &bytes).await;
        assert!(get(store, &name, ReadRange::Whole).await == bytes, "{len} bytes come back as they were");
        assert_eq!(store.len(&name).await.expect("has a length"), len as u64);
        let last = get(store, &name, ReadRange::Last { len: 100 }).await;
        assert_eq!(last, bytes[len.saturating_sub(100)..], "the end of {len} bytes");
    }
}

async fn of_many_creators_one_wins(store: &dyn Store) {
    for round in 0..4 {
        let name = format!("race/{round}");
        let bodies: Vec<Vec<u8>> = (0..16).map(|creator| Prng::new(creator).bytes(5_000)).collect();
        let creations = join_all(bodies.iter().map(|bytes| store.create(&name, Body::from(bytes.clone())))).await;
        let winners: Vec<usize> = (0..16).filter(|at| matches!(creations[*at], Ok(Created::New))).collect();
        let losers = creations.iter().filter(|created| matches!(created, Ok(Created::Exists))).count();
        assert_eq!((winners.len(), losers), (1, 15), "round {round}: {creations:?}");
        let found = get(store, &name, ReadRange::Whole).await;
        assert!(found == bodies[winners[0]], "round {round}: the object is the winner's");
    }
}
