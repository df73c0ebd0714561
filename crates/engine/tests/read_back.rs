//! What is looked at when a backup was committed: a store that does not keep what it took is found out at once.

#[path = "logical/stage.rs"]
#[allow(dead_code, clippy::disallowed_methods, reason = "a part of it is used here; it looks for programs")]
mod stage;
#[path = "support/mod.rs"]
mod support;

use std::sync::{Arc, Mutex};

use asof_engine::logical::{DumpRequest, Format};
use asof_engine::progress::Silent;
use asof_engine::{Error, ReadBack, Result, backup};
use asof_repository::error::Result as Stored;
use asof_repository::store::local::LocalStore;
use asof_repository::store::{Body, Created, Listed, ReadRange, Store};
use asof_testkit::{Options, Server, Workdir, majors};
use asof_world::World;
use async_trait::async_trait;
use bytes::Bytes;

use stage::{Stage, clients, request as dump_request};
use support::{Host, Protected, chain, files_of, link, request};

/// What a store does not keep, although it said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loses {
    Nothing,
    /// The object with the map.
    Map,
    /// The pack that was created last before the map.
    LastPack,
    /// The second half of it.
    HalfOfLastPack,
    /// The first entry of a journal behind the map: the commit.
    Commit,
}

struct Forgetful {
    inner: LocalStore,
    loses: Mutex<Loses>,
    /// What was created last of packs, and whether a map was.
    seen: Mutex<(Option<(String, Body)>, bool)>,
}

impl Forgetful {
    fn now_loses(&self, loses: Loses) {
        *self.loses.lock().expect("no holder panics") = loses;
        *self.seen.lock().expect("no holder panics") = (None, false);
    }

    /// What is gone after the creation of `name`, and what is there instead.
    fn lost_with(&self, name: &str, body: &Body) -> Option<(String, Option<Body>)> {
        let mut seen = self.seen.lock().expect("no holder panics");
        if name.contains("/packs/") {
            seen.0 = Some((name.to_owned(), body.clone()));
        }
        let (is_map, behind_map) = (name.contains("/maps/"), seen.1);
        seen.1 |= is_map;
        match *self.loses.lock().expect("no holder panics") {
            Loses::Map if is_map => Some((name.to_owned(), None)),
            Loses::LastPack if is_map => seen.0.take().map(|(pack, _)| (pack, None)),
            Loses::HalfOfLastPack if is_map => seen.0.take().map(|(pack, body)| {
                let half = body.as_slice()[..body.as_slice().len() / 2].to_vec();
                (pack, Some(half.into()))
            }),
            Loses::Commit if name.contains("/journal/") && behind_map => Some((name.to_owned(), None)),
            _ => None,
        }
    }
}

#[async_trait]
impl Store for Forgetful {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn create(&self, name: &str, body: Body) -> Stored<Created> {
        let created = self.inner.create(name, body.clone()).await?;
        if let Some((lost, instead)) = self.lost_with(name, &body) {
            self.inner.delete(&lost).await?;
            if let Some(body) = instead {
                self.inner.create(&lost, body).await?;
            }
        }
        Ok(created)
    }

    async fn read(&self, name: &str, range: ReadRange) -> Stored<Bytes> {
        self.inner.read(name, range).await
    }

    async fn len(&self, name: &str) -> Stored<u64> {
        self.inner.len(name).await
    }

    async fn list(&self, prefix: &str) -> Stored<Vec<Listed>> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, name: &str) -> Stored<()> {
        self.inner.delete(name).await
    }
}

async fn stage(host: Host) -> (Stage, Arc<Forgetful>) {
    let (world, work) = (World::real(), Workdir::new("read-back"));
    let inner = LocalStore::new(world.clone(), work.path().join("repository"));
    let store = Arc::new(Forgetful { inner, loses: Mutex::new(Loses::Nothing), seen: Mutex::new((None, false)) });
    let server = Server::running(majors()[0], &Options::default());
    server.psql("create table t as select n, md5(n::text) from generate_series(1, 5000) n");
    let protected = Protected::stored(server, work, store.clone(), host).await;
    let clients = clients(&protected.world, &protected.server).await;
    (Stage { protected, clients }, store)
}

async fn back_up(stage: &Stage, name: &str) -> Result<ReadBack> {
    let Protected { world, server, shelf, .. } = &stage.protected;
    let made = backup::create(shelf, &link(server), files_of(world, server), &request(name), Arc::new(Silent)).await;
    made.map(|report| report.checks)
}

async fn dump(stage: &Stage, name: &str, format: Format) -> Result<ReadBack> {
    let asked = DumpRequest { format, ..dump_request(name) };
    let made = stage.dump("postgres", &asked, &stage.repository()).await?;
    Ok(made.checks.expect("one in the repository is read back"))
}

fn must_tell(what: &str, result: Result<ReadBack>, expected: &str) {
    let error = result.expect_err(what);
    let text = chain(&error);
    assert!(matches!(error, Error::Damaged { .. }), "{what}: {text}");
    assert!(text.contains("exists, but could not be read back") && text.contains(expected), "{what}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_loses_a_part_of_a_backup_is_found_out_when_it_is_read_back() {
    let (stage, store) = stage(Host::FullKey).await;
    let whole = back_up(&stage, "whole").await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(whole.packs >= 2 && whole.packs_looked_at == whole.packs, "{whole:?}");
    assert!(whole.decoded_bytes.expect("this key reads") > 8192, "{whole:?}");
    for (loses, expected) in [
        (Loses::LastPack, "/packs/"),
        (Loses::HalfOfLastPack, "bytes, and"),
        (Loses::Commit, "the journal does not record it"),
        // The next backup would look for pages in it.
        (Loses::Map, "/maps/"),
    ] {
        stage.protected.server.psql("update t set n = n + 1");
        store.now_loses(loses);
        must_tell(&format!("{loses:?}"), back_up(&stage, &format!("{loses:?}")).await, expected);
    }
    store.now_loses(Loses::Nothing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_loses_a_part_of_a_dump_is_found_out_when_it_is_read_back() {
    let (stage, store) = stage(Host::FullKey).await;
    for format in [Format::Custom, Format::Plain] {
        let whole =
            dump(&stage, &format!("{format:?}"), format).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert!(whole.decoded_bytes.expect("this key reads") > 50_000, "{whole:?}");
        for (loses, expected) in [
            (Loses::LastPack, "/packs/"),
            (Loses::HalfOfLastPack, "bytes, and"),
            (Loses::Map, "/maps/"),
            (Loses::Commit, "the journal does not record it"),
        ] {
            store.now_loses(loses);
            let name = format!("{format:?} {loses:?}");
            must_tell(&name, dump(&stage, &name, format).await, expected);
        }
        store.now_loses(Loses::Nothing);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_only_writes_looks_at_what_is_stored_and_says_that_it_read_nothing() {
    let (stage, store) = stage(Host::WriteOnlyKey).await;
    for made in [back_up(&stage, "files").await, dump(&stage, "dump", Format::Custom).await] {
        let made = made.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert!(made.decoded_bytes.is_none() && made.packs_looked_at > 0, "{made:?}");
    }
    store.now_loses(Loses::LastPack);
    must_tell("a pack", dump(&stage, "lost", Format::Custom).await, "/packs/");
}
