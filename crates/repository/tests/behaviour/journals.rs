//! Journals: one order for everybody, and nothing that was decided is lost, bent or obeyed from somebody who may not.

use std::collections::BTreeMap;
use std::sync::Arc;

use asof_repository::crypto::{Secret, SigningKey};
use asof_repository::error::Error;
use asof_repository::journal::Journal;
use asof_repository::keyring::{Keyring, Role};
use asof_repository::lineage::{Entry, Lineage, Outcome, Parent, REPORT_LEN, StoredPack, WalEvent};
use asof_repository::names::{JournalOf, Name};
use asof_repository::object;
use asof_repository::root::{self, Key, Repository, RepositoryEntry};
use asof_world::Id;
use serde_json::json;

use crate::support::{Counting, Home, Written, backup_entry, chain, digest, forge, with_signing};

/// A repository with one registered lineage.
struct Scene {
    home: Home,
    repository: Repository,
    lineage: Id,
}

impl Scene {
    async fn new() -> Self {
        let home = Home::new();
        let (mut repository, _) = root::init(&home.world, home.store(), false).await.unwrap();
        let (lineage, _) = repository.register("prod", BTreeMap::new(), None).await.unwrap();
        Self { home, repository, lineage }
    }

    async fn journal(&self) -> Journal<Lineage> {
        self.repository.lineage(self.lineage).await.unwrap()
    }

    async fn reopened(&self) -> asof_repository::Result<Journal<Lineage>> {
        self.repository.lineage(self.lineage).await
    }

    fn slot(&self, number: u64) -> Name {
        Name::Entry(JournalOf::Lineage(self.lineage), number)
    }

    /// Puts an entry with any content into a slot, whatever stands there.
    fn forge(&self, keyring: &Keyring, number: u64, epoch: u64, entry: &serde_json::Value) {
        let previous = digest(&self.home.bytes(self.slot(number - 1)));
        let of = JournalOf::Lineage(self.lineage);
        let object = forge(&self.home.world, keyring, of, number, previous, epoch, entry);
        self.home.overwrite(self.slot(number), object.body.as_slice());
    }

    /// Appends a backup that is committed, and returns it.
    async fn backup(&self, journal: &mut Journal<Lineage>, name: &str) -> Id {
        let attempt = self.home.world.id();
        journal.append(0, Entry::AttemptStarted { attempt }).await.unwrap();
        journal.append(0, Entry::BackupCommitted(Box::new(backup_entry(&written(attempt), name)))).await.unwrap();
        attempt
    }

    /// A key of a host that may only write backups.
    async fn write_only(&mut self) -> Keyring {
        let text = self.repository.add_write_only("db host").await.unwrap();
        let Key::WriteOnly { signing, .. } = Key::parse(&text).unwrap() else { panic!("another key") };
        Keyring { data_secret: None, ..with_signing(&self.repository.keyring, signing) }
    }
}

fn written(attempt: Id) -> Written {
    Written { attempt, map: Default::default(), digest: [5; 32], map_len: 77, packs: Vec::new() }
}

fn names<T>(result: asof_repository::Result<T>, object: Name) -> String {
    let error = result.err().unwrap_or_else(|| panic!("damage to {object} was not seen"));
    let message = chain(&error);
    assert!(message.contains(&object.to_string()), "{object} is not named: {message}");
    message
}

#[tokio::test]
async fn every_kind_of_entry_survives_being_written_and_read() {
    let scene = Scene::new().await;
    let mut journal = scene.journal().await;
    let (first, second, third) = (Id([1; 16]), Id([2; 16]), Id([3; 16]));
    let packs = vec![StoredPack { number: 0, len: 4096, digest: [9; 32] }];
    let reason = || "because".to_owned();
    let tags = |value: &str| BTreeMap::from([("team".to_owned(), value.to_owned())]);
    let entries = [
        Entry::AttemptStarted { attempt: first },
        Entry::Progress { attempt: first, packs: packs.clone() },
        Entry::BackupCommitted(Box::new(backup_entry(&written(first), "one"))),
        Entry::Tagged { backup: first, tags: tags("a") },
        Entry::Held { backup: first, reason: reason() },
        Entry::Released { backup: first },
        Entry::AttemptStarted { attempt: second },
        Entry::AttemptAborted { attempt: second, reason: reason() },
        Entry::AttemptStarted { attempt: third },
        Entry::BackupCommitted(Box::new(backup_entry(&written(third), "three"))),
        Entry::BackupDeleted { backup: third, reason: reason() },
        Entry::Verified { backup: first, ok: true, what: "all of it".to_owned(), elapsed_ms: 7 },
        Entry::Drilled { backup: first, ok: true, report: json!({ "a": 1 }), elapsed_ms: 8, loaded_into: 15 },
        Entry::WalStarted { timeline: 1, start: 0x100_0000 },
        Entry::WalGap { timeline: 1, from: 0x200_0000, to: u64::MAX, reason: reason() },
        Entry::TimelineSwitched { from: 1, to: 2, at: 7, durable: 9, commits: None },
    ];
    for (number, entry) in (2..).zip(entries) {
        assert_eq!(journal.append(0, entry).await.unwrap(), number);
    }
    journal.append(1, Entry::Takeover { reason: reason() }).await.unwrap();
    let again = scene.journal().await;
    assert_eq!(again.state(), journal.state());
    assert_eq!((again.number(), again.head()), (journal.number(), journal.head()));
    assert_eq!(again.voids(), []);
    let state = again.state();
    assert_eq!(state.backups[&first].backup, backup_entry(&written(first), "one"));
    assert_eq!(state.backups[&first].tags["team"], "a");
    assert_eq!(state.backups[&first].hold, None);
    assert_eq!(state.attempts[&first].packs, packs);
    assert_eq!(state.attempts[&second].outcome, Outcome::Aborted(reason()));
    assert_eq!(state.existing().len(), 1);
    assert_eq!(state.wal[1], WalEvent::Gap { timeline: 1, from: 0x200_0000, to: u64::MAX });
    assert_eq!(state.epoch, 1);
}

#[tokio::test]
async fn every_kind_of_entry_of_the_repository_survives_being_written_and_read() {
    let home = Home::new();
    let (mut repository, key) = root::init(&home.world, home.store(), true).await.unwrap();
    let parent = Parent { lineage: Id([4; 16]), timeline: 3, at: 99 };
    let (lineage, journal) = repository.register("prod", BTreeMap::new(), Some(parent.clone())).await.unwrap();
    assert_eq!(journal.state().parent, Some(parent));
    repository.add_key("safe").await.unwrap();
    repository.journal.append(0, RepositoryEntry::InstanceNamed { name: "old".to_owned(), lineage }).await.unwrap();
    repository.journal.append(0, RepositoryEntry::InstanceRemoved { name: "old".to_owned() }).await.unwrap();
    let again = root::open(&home.world, home.store(), &Key::parse(&key.text).unwrap(), None).await.unwrap();
    assert_eq!(again.journal.state(), repository.journal.state());
    assert_eq!((again.lineage_of("prod"), again.lineage_of("old")), (Some(lineage), None));
    assert_eq!(again.journal.state().signers.iter().count(), 2);
}

#[tokio::test]
async fn a_reader_sees_what_others_appended_after_a_refresh() {
    let scene = Scene::new().await;
    let (mut writer, mut reader) = (scene.journal().await, scene.journal().await);
    scene.backup(&mut writer, "one").await;
    assert_eq!(reader.state().backups.len(), 0);
    reader.refresh().await.unwrap();
    assert_eq!(reader.state(), writer.state());
    assert_eq!(reader.head(), writer.head());
}

#[tokio::test]
async fn hz_f8_writers_that_race_get_slots_of_their_own_and_agree_about_the_order() {
    let scene = Scene::new().await;
    let writer = async || {
        let mut journal = scene.journal().await;
        for _ in 0..10 {
            journal.append(0, Entry::AttemptStarted { attempt: scene.home.world.id() }).await.unwrap();
        }
    };
    futures::join!(writer(), writer(), writer());
    let journal = scene.journal().await;
    assert_eq!(journal.number(), 31);
    assert_eq!(journal.state().attempts.len(), 30);
    assert_eq!(journal.voids(), []);
}

#[tokio::test]
async fn of_two_who_want_the_same_name_for_a_backup_the_second_writes_nothing() {
    let scene = Scene::new().await;
    let (mut a, mut b) = (scene.journal().await, scene.journal().await);
    let attempt = scene.home.world.id();
    b.append(0, Entry::AttemptStarted { attempt }).await.unwrap();
    scene.backup(&mut a, "nightly").await;
    let error = b.append(0, Entry::BackupCommitted(Box::new(backup_entry(&written(attempt), "nightly")))).await;
    assert!(matches!(error, Err(Error::Conflict { .. })), "{error:?}");
    assert_eq!(scene.journal().await.number(), a.number());
}

#[tokio::test]
async fn hz_f8_after_a_takeover_the_former_writer_decides_nothing() {
    let scene = Scene::new().await;
    let (mut old, mut new) = (scene.journal().await, scene.journal().await);
    let attempt = scene.home.world.id();
    old.append(0, Entry::AttemptStarted { attempt }).await.unwrap();
    new.append(1, Entry::Takeover { reason: "the host is gone".to_owned() }).await.unwrap();
    let late = Entry::BackupCommitted(Box::new(backup_entry(&written(attempt), "late")));
    assert!(matches!(old.append(0, late).await, Err(Error::Conflict { .. })));
    assert!(matches!(old.append(1, Entry::Takeover { reason: "me".to_owned() }).await, Err(Error::Conflict { .. })));
    let entry = json!({ "kind": "attempt_started", "attempt": Id([8; 16]).to_string() });
    scene.forge(&scene.repository.keyring, 4, 0, &entry);
    let reader = scene.journal().await;
    assert_eq!(reader.voids()[0].number, 4);
    assert!(reader.voids()[0].reason.contains("superseded"), "{:?}", reader.voids());
    assert_eq!(reader.state().attempts.len(), 1);
}

#[tokio::test]
async fn an_entry_that_may_not_follow_is_refused_and_where_it_stands_it_is_void() {
    let scene = Scene::new().await;
    let mut journal = scene.journal().await;
    let held = scene.backup(&mut journal, "held").await;
    journal.append(0, Entry::Held { backup: held, reason: "audit".to_owned() }).await.unwrap();
    let gone = scene.backup(&mut journal, "gone").await;
    let reason = || "expired".to_owned();
    journal.append(0, Entry::BackupDeleted { backup: gone, reason: reason() }).await.unwrap();
    let (unknown, end) = (Id([6; 16]), journal.number());
    let check = async |entry: Entry, says: &str| {
        let mut journal = scene.journal().await;
        let error = journal.append(0, entry).await.expect_err(says);
        assert!(matches!(error, Error::Conflict { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(scene.journal().await.number(), end);
    };
    check(Entry::Registered { facts: BTreeMap::new(), parent: None }, "registered already").await;
    check(Entry::AttemptStarted { attempt: held }, "was started already").await;
    check(Entry::Progress { attempt: held, packs: Vec::new() }, "committed already").await;
    check(Entry::Progress { attempt: unknown, packs: Vec::new() }, "was never started").await;
    check(Entry::AttemptAborted { attempt: held, reason: reason() }, "committed already").await;
    check(Entry::BackupDeleted { backup: held, reason: reason() }, "is held: audit").await;
    check(Entry::BackupDeleted { backup: gone, reason: reason() }, "is deleted").await;
    check(Entry::Held { backup: gone, reason: reason() }, "is deleted").await;
    check(Entry::Tagged { backup: unknown, tags: BTreeMap::new() }, "there is no backup").await;
    check(Entry::Verified { backup: gone, ok: true, what: String::new(), elapsed_ms: 0 }, "is deleted").await;
    let drilled = |backup, report| Entry::Drilled { backup, ok: true, report, elapsed_ms: 0, loaded_into: 15 };
    check(drilled(unknown, json!(null)), "there is no backup").await;
    check(drilled(held, json!("x".repeat(REPORT_LEN - 1))), "longer than 65536").await;
    check(Entry::WalGap { timeline: 1, from: 5, to: 5, reason: reason() }, "a gap has a length").await;
    check(Entry::Takeover { reason: reason() }, "in force already").await;

    scene.forge(
        &scene.repository.keyring,
        end + 1,
        0,
        &json!({"kind": "backup_deleted", "backup": held.to_string(), "reason": "x"}),
    );
    let reader = scene.journal().await;
    assert!(reader.voids()[0].reason.contains("is held: audit"), "{:?}", reader.voids());
    assert_eq!(reader.state().existing().len(), 1);
}

#[tokio::test]
async fn the_last_proof_of_a_backup_counts_and_a_failure_does_not_hide_when_one_succeeded() {
    let scene = Scene::new().await;
    let mut journal = scene.journal().await;
    let backup = scene.backup(&mut journal, "one").await;
    let seen = |state: &Lineage| {
        let state = &state.backups[&backup];
        let verified = state.verified.as_ref().map(|it| (it.ok, it.at, it.last_ok));
        (verified, state.drilled.as_ref().map(|it| (it.ok, it.at, it.last_ok)))
    };
    assert_eq!(seen(journal.state()), (None, None));
    let entries = |ok| {
        let drilled = Entry::Drilled { backup, ok, report: json!({}), elapsed_ms: 1, loaded_into: 18 };
        [Entry::Verified { backup, ok, what: "x".to_owned(), elapsed_ms: 1 }, drilled]
    };
    for entry in entries(true) {
        journal.append(0, entry).await.unwrap();
    }
    let (Some((true, verified, proven)), Some((true, drilled, passed))) = seen(journal.state()) else {
        panic!("{:?}", journal.state())
    };
    assert_eq!((proven, passed), (Some(verified), Some(drilled)));
    for entry in entries(false) {
        journal.append(0, entry).await.unwrap();
    }
    let (Some(now), Some(then)) = seen(journal.state()) else { panic!("{:?}", journal.state()) };
    assert_eq!((now.0, now.2, then.0, then.2), (false, Some(verified), false, Some(drilled)));
    assert_eq!(seen(scene.journal().await.state()), seen(journal.state()));
}

#[tokio::test]
async fn only_a_takeover_raises_the_epoch() {
    let scene = Scene::new().await;
    let mut journal = scene.journal().await;
    let error = journal.append(7, Entry::AttemptStarted { attempt: Id([1; 16]) }).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
    journal.append(7, Entry::Takeover { reason: "asked".to_owned() }).await.unwrap();
    journal.append(7, Entry::AttemptStarted { attempt: Id([1; 16]) }).await.unwrap();
    assert_eq!(scene.journal().await.state().epoch, 7);
}

#[tokio::test]
async fn a_lineage_begins_with_its_registration() {
    let scene = Scene::new().await;
    let mut empty = scene.repository.lineage(Id([9; 16])).await.unwrap();
    assert_eq!((empty.number(), empty.state().registered), (0, false));
    let error = empty.append(0, Entry::AttemptStarted { attempt: Id([1; 16]) }).await.unwrap_err();
    assert!(error.to_string().contains("is not registered"), "{error}");
}

#[tokio::test]
async fn a_damaged_last_entry_stops_readers_and_writers_until_it_is_settled() {
    let scene = Scene::new().await;
    let mut journal = scene.journal().await;
    scene.backup(&mut journal, "one").await;
    let last = scene.slot(journal.number());
    let mut reader = scene.journal().await;
    let whole = scene.home.bytes(last);
    let mut damaged = whole.clone();
    damaged[300] ^= 1;
    scene.home.overwrite(last, &damaged);
    for _ in 0..2 {
        names(scene.reopened().await, last);
    }
    let next = Name::Entry(JournalOf::Lineage(scene.lineage), journal.number() + 1);
    // Whoever has read it whole goes on; its successor then shows that the slot was changed.
    reader.refresh().await.unwrap();
    scene.home.overwrite(next, b"garbage");
    for _ in 0..2 {
        names(reader.refresh().await, next);
        names(reader.append(0, Entry::AttemptStarted { attempt: Id([1; 16]) }).await, next);
    }
    assert!(!scene.home.path(Name::Entry(JournalOf::Lineage(scene.lineage), journal.number() + 2)).exists());
    scene.home.remove(next);
    scene.home.overwrite(last, &whole);
    reader.refresh().await.unwrap();
    assert_eq!(scene.journal().await.state(), reader.state());
}

#[tokio::test]
async fn a_damaged_entry_that_somebody_went_on_behind_is_void_for_everybody() {
    let scene = Scene::new().await;
    scene.home.overwrite(scene.slot(2), b"garbage");
    scene.home.overwrite(scene.slot(3), b"more garbage");
    let entry = json!({ "kind": "attempt_started", "attempt": Id([8; 16]).to_string() });
    scene.forge(&scene.repository.keyring, 4, 0, &entry);
    let mut journal = scene.journal().await;
    assert_eq!(journal.voids().iter().map(|void| void.number).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(journal.state().attempts.len(), 1);
    assert_eq!(journal.append(0, Entry::AttemptStarted { attempt: Id([9; 16]) }).await.unwrap(), 5);
    assert_eq!(scene.journal().await.state(), journal.state());
}

#[tokio::test]
async fn an_entry_that_was_damaged_after_the_next_was_written_is_named() {
    let scene = Scene::new().await;
    let mut journal = scene.journal().await;
    scene.backup(&mut journal, "one").await;
    let mut damaged = scene.home.bytes(scene.slot(2));
    damaged[100] ^= 1;
    scene.home.overwrite(scene.slot(2), &damaged);
    names(scene.reopened().await, scene.slot(2));
}

#[tokio::test]
async fn an_entry_that_was_replaced_by_a_valid_one_is_named() {
    let scene = Scene::new().await;
    let mut journal = scene.journal().await;
    scene.backup(&mut journal, "one").await;
    scene.forge(&scene.repository.keyring, 2, 0, &json!({"kind": "wal_started", "timeline": 1, "start": 5}));
    let message = names(scene.reopened().await, scene.slot(2));
    assert!(message.contains("was changed after entry 3"), "{message}");
}

#[tokio::test]
async fn a_lost_entry_is_named_even_though_no_listing_is_asked() {
    let mut scene = Scene::new().await;
    let mut journal = scene.journal().await;
    scene.backup(&mut journal, "one").await;
    scene.backup(&mut journal, "two").await;
    for lost in [1, 2, 4] {
        let bytes = scene.home.bytes(scene.slot(lost));
        scene.home.remove(scene.slot(lost));
        names(scene.reopened().await, scene.slot(lost));
        scene.home.overwrite(scene.slot(lost), &bytes);
    }
    let counting = Arc::new(Counting::new(scene.home.store()));
    scene.repository.store = counting.clone();
    scene.journal().await;
    let calls = counting.take();
    assert!(calls.iter().all(|(call, ..)| ["read", "len"].contains(call)), "{calls:?}");
    assert_eq!(calls.len(), 7, "five entries, the end, and what would be behind a lost one: {calls:?}");
}

#[tokio::test]
async fn a_cut_tail_is_an_older_journal_that_only_a_witness_of_its_head_can_tell() {
    let scene = Scene::new().await;
    let mut journal = scene.journal().await;
    let before = journal.head();
    journal.append(0, Entry::AttemptStarted { attempt: Id([1; 16]) }).await.unwrap();
    scene.home.remove(scene.slot(2));
    let cut = scene.journal().await;
    assert_eq!((cut.number(), cut.head()), (1, before));
    assert_ne!(cut.head(), journal.head());
}

#[tokio::test]
async fn an_entry_of_an_unknown_kind_asks_for_a_newer_asof() {
    let scene = Scene::new().await;
    for entry in [
        json!({ "kind": "teleported" }),
        json!({ "kind": "attempt_started", "attempt": Id([8; 16]).to_string(), "surprise": 1 }),
        json!({ "kind": "attempt_started", "attempt": Id([0xab; 16]).to_string().to_uppercase() }),
    ] {
        scene.forge(&scene.repository.keyring, 2, 0, &entry);
        let Err(error @ Error::Denied { .. }) = scene.reopened().await else { panic!("{entry} was accepted") };
        assert!(error.to_string().contains("update asof"), "{error}");
    }
}

#[tokio::test]
async fn a_writer_key_cannot_delete_tag_hold_or_add_keys() {
    let mut scene = Scene::new().await;
    let mut journal = scene.journal().await;
    let backup = scene.backup(&mut journal, "one").await;
    let writer = scene.write_only().await;
    scene.repository.keyring = writer.clone();
    let mut host = scene.journal().await;
    host.append(0, Entry::WalStarted { timeline: 1, start: 0 }).await.unwrap();
    host.append(0, Entry::Verified { backup, ok: false, what: "cut".to_owned(), elapsed_ms: 1 }).await.unwrap();
    let reason = || "ransom".to_owned();
    for entry in [
        Entry::BackupDeleted { backup, reason: reason() },
        Entry::Held { backup, reason: reason() },
        Entry::Released { backup },
        Entry::Tagged { backup, tags: BTreeMap::new() },
    ] {
        let error = host.append(0, entry).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error}");
    }
    let number = host.number() + 1;
    scene.forge(
        &writer,
        number,
        0,
        &json!({"kind": "backup_deleted", "backup": backup.to_string(), "reason": "ransom"}),
    );
    let reader = scene.journal().await;
    assert_eq!(reader.state().existing().len(), 1, "the entry of a writer must not delete");
    assert_eq!(reader.voids()[0].number, number);
    assert!(reader.voids()[0].reason.contains("may not act as operator"), "{:?}", reader.voids());
}

#[tokio::test]
async fn a_writer_key_cannot_make_an_operator_of_itself() {
    let mut scene = Scene::new().await;
    let writer = scene.write_only().await;
    let (of, number) = (JournalOf::Repository, scene.repository.journal.number() + 1);
    let signer = json!({
        "kind": "signer_added", "public": hex::encode(writer.signing.public()), "roles": ["operator"], "label": "me",
    });
    let object = forge(&scene.home.world, &writer, of, number, scene.repository.journal.head(), 0, &signer);
    scene.home.overwrite(Name::Entry(of, number), object.body.as_slice());
    scene.repository.journal.refresh().await.unwrap();
    let signers = scene.repository.journal.signers();
    assert!(signers.require(writer.signer(), Role::Operator, "it").is_err());
    assert_eq!(scene.repository.journal.voids()[0].number, number);
}

#[tokio::test]
async fn an_entry_of_an_unregistered_signer_is_refused_by_name() {
    let scene = Scene::new().await;
    let stranger = with_signing(&scene.repository.keyring, SigningKey::new(Secret::random(&scene.home.world)));
    scene.forge(&stranger, 2, 0, &json!({ "kind": "wal_started", "timeline": 1, "start": 5 }));
    let message = names(scene.reopened().await, scene.slot(2));
    assert!(message.contains("is not registered"), "{message}");
    let mut journal = Journal::open(
        scene.home.world.clone(),
        scene.home.store(),
        stranger,
        scene.repository.journal.signers().clone(),
        JournalOf::Lineage(Id([7; 16])),
        Lineage::default(),
    )
    .await
    .unwrap();
    let first = Entry::Registered { facts: BTreeMap::new(), parent: None };
    assert!(matches!(journal.append(0, first).await, Err(Error::Denied { .. })));
}

#[tokio::test]
async fn hz_d1_an_entry_does_not_open_under_another_number_lineage_or_repository() {
    let (scene, other) = (Scene::new().await, Scene::new().await);
    let mut journal = scene.journal().await;
    scene.backup(&mut journal, "one").await;
    let third = scene.home.bytes(scene.slot(3));
    scene.home.overwrite(scene.slot(4), &third);
    names(scene.reopened().await, scene.slot(4));
    let lineage = JournalOf::Lineage(Id([7; 16]));
    scene.home.overwrite(Name::Entry(lineage, 1), &scene.home.bytes(scene.slot(1)));
    names(scene.repository.lineage(Id([7; 16])).await, Name::Entry(lineage, 1));
    other.home.overwrite(other.slot(2), &third);
    let message = names(other.reopened().await, other.slot(2));
    assert!(message.contains(&scene.repository.root.repository.to_string()), "{message}");
}

#[tokio::test]
async fn an_entry_says_nothing_to_somebody_without_the_index_key() {
    let scene = Scene::new().await;
    let mut journal = scene.journal().await;
    scene.backup(&mut journal, "top-secret-name").await;
    let stranger = Keyring { index: Secret::random(&scene.home.world), ..scene.repository.keyring.clone() };
    let (name, bytes) = (scene.slot(3), scene.home.bytes(scene.slot(3)));
    let signers = scene.repository.journal.signers();
    let opened = object::open(&stranger, signers, Role::Writer, name, object::Kind::Entry, &bytes);
    assert!(matches!(opened, Err(Error::Denied { .. })));
    assert!(!bytes.windows(10).any(|window| window == b"top-secret"));
}

#[tokio::test]
async fn an_entry_that_states_another_number_than_its_slot_is_refused() {
    let scene = Scene::new().await;
    let name = scene.slot(2);
    let (world, keyring) = (&scene.home.world, &scene.repository.keyring);
    let envelope = json!({
        "number": 3, "previous": hex::encode(digest(&scene.home.bytes(scene.slot(1)))), "time": 0, "epoch": 0,
        "entry": { "kind": "wal_started", "timeline": 1, "start": 5 },
    });
    let writer = object::ObjectWriter::new(world, keyring, name, object::Kind::Entry, false, 4096);
    let plain = serde_json::to_vec(&envelope).unwrap();
    let object = writer.finish(keyring, &plain, &mut asof_repository::codec::Encoder::new(3));
    scene.home.overwrite(name, object.body.as_slice());
    let message = names(scene.reopened().await, name);
    assert!(message.contains("says that it is entry 3"), "{message}");
}
