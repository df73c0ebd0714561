//! Holds `docs/format.md` and the stored examples in `testdata` against the code.
//!
//! The examples are a small repository of this format and revision, and what it says in `expected.json`. Until the tag 0.1.0
//! they may be written anew, by `ASOF_WRITE_GOLDEN=1`; from then on they are read for ever.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests touch real files and stop when surprised")]
#![allow(clippy::disallowed_macros, reason = "figures of a campaign are read on the terminal")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use asof_repository::codec::Encoder;
use asof_repository::keyring::Role;
use asof_repository::lineage::{Entry, Parent};
use asof_repository::map::{MapFile, PageMap, Place, Run, WAITING_FRAMES};
use asof_repository::names::{JournalOf, Name, PackId, WalPosition};
use asof_repository::object::{self, Kind, Section};
use asof_repository::pack::{FrameEntry, PAGES_PER_FRAME, PackWriter, read_pack_index};
use asof_repository::root::{self, Key, Repository, RepositoryEntry};
use asof_repository::store::Store;
use asof_repository::store::local::LocalStore;
use asof_repository::wal::{
    CommitMark, Observation, WalInfo, last_observation, read_history, read_wal, write_history, write_observation,
    write_wal,
};
use asof_world::{Id, World};
use serde_json::{Value, json};

use support::large::{Changed, Large, Made};
use support::{Home, Tree, Written, backup_entry, page, read_map, read_tree, seeded_world, store_backup};

const PASSPHRASE: &str = "correct horse battery staple";
const PAGE: u32 = 8192;

fn manifest() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document() -> String {
    std::fs::read_to_string(manifest().join("../../docs/format.md")).unwrap()
}

fn source(file: &str) -> String {
    std::fs::read_to_string(manifest().join("src").join(file)).unwrap()
}

/// The variants of an enum, from its source: a new one must not escape the document.
fn variants(file: &str, name: &str) -> Vec<String> {
    let source = source(file);
    let body = source.split(&format!("pub enum {name} {{")).nth(1).unwrap();
    let body = body.split("\n}").next().unwrap();
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    let word = |line: &str| line.chars().take_while(|c| c.is_alphanumeric()).collect::<String>();
    let found: Vec<_> = lines.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase())).map(word).collect();
    assert!(found.len() > 1, "{name} in {file}");
    found
}

/// The kinds of a journal's entries, from what serde says about an unknown one.
fn kinds<E: serde::de::DeserializeOwned>() -> Vec<String> {
    let error = serde_json::from_str::<E>(r#"{ "kind": "?" }"#).err().unwrap().to_string();
    let kinds: Vec<_> = error.split('`').skip(3).step_by(2).map(str::to_owned).collect();
    assert!(kinds.len() > 3, "{error}");
    kinds
}

#[test]
fn every_name_kind_codec_role_and_entry_has_its_row_in_the_document() {
    let document = document();
    let rows: Vec<&str> = document.lines().filter(|line| line.starts_with('|')).collect();
    let in_a_row = |text: &str| rows.iter().any(|row| row.contains(&format!("`{text}`")));
    for name in variants("names.rs", "Name") {
        assert!(in_a_row(&name), "Name::{name}");
    }
    for (number, kind) in (1..).zip(variants("object.rs", "Kind")) {
        assert!(document.contains(&format!("{number} `{kind}`")), "Kind::{kind}");
    }
    for role in variants("keyring.rs", "Role") {
        assert!(in_a_row(&role.to_lowercase()), "Role::{role}");
    }
    for codec in variants("codec.rs", "Codec") {
        let row = |row: &&&str| row.starts_with("| ") && row.contains(&codec.to_lowercase());
        assert!(rows.iter().find(row).is_some(), "Codec::{codec}");
    }
    for kind in kinds::<Entry>().into_iter().chain(kinds::<RepositoryEntry>()) {
        assert!(in_a_row(&kind), "{kind}");
    }
}

#[test]
fn every_section_of_the_document_that_the_code_names_is_there() {
    let document = document();
    let headings: BTreeSet<&str> = document.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut named = 0;
    for file in
        ["codec", "crypto", "journal", "keyring", "lineage", "map", "names", "object", "pack", "root", "store", "wal"]
    {
        let source = source(&format!("{file}.rs"));
        let opening = source.lines().take_while(|line| line.starts_with("//!") && *line != "//! ```text");
        let opening = opening.collect::<Vec<_>>().join(" ");
        let after = opening.to_lowercase().find("format.md").map(|at| opening[at..].to_owned());
        let after = after.unwrap_or_else(|| panic!("{file}.rs does not say which section it implements"));
        for section in after.split('"').skip(1).step_by(2).take(3) {
            assert!(headings.contains(section), "{file}.rs names a section \"{section}\"");
            named += 1;
        }
    }
    assert!(named >= 12);
}

#[test]
fn the_document_states_the_version_that_the_code_writes() {
    let version = format!("Format **{}, revision {}**", object::FORMAT, object::REVISION);
    assert!(document().contains(&version));
}

fn golden() -> PathBuf {
    manifest().join("testdata/golden")
}

/// A repository with one object of every kind and one entry of every kind.
async fn write_golden(directory: &Path) {
    let world = seeded_world(1);
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(world.clone(), directory.join("repository")));
    let (mut repository, key) = root::init(&world, store.clone(), true).await.unwrap();
    let second = repository.add_key("safe").await.unwrap();
    repository.add_passphrase("kit", PASSPHRASE.to_owned().into()).await.unwrap();
    let write_only = repository.add_write_only("db host").await.unwrap();
    let facts = BTreeMap::from([("system_identifier".to_owned(), json!(7_412_345_678_901_234_567_u64))]);
    let parent = Parent { lineage: Id([9; 16]), timeline: 3, at: 0x0300_0000 };
    let (lineage, mut journal) = repository.register("prod", facts, Some(parent)).await.unwrap();
    repository.journal.append(0, RepositoryEntry::InstanceNamed { name: "old".to_owned(), lineage }).await.unwrap();
    repository.journal.append(0, RepositoryEntry::InstanceRemoved { name: "old".to_owned() }).await.unwrap();

    let mut tree: Tree = (0..80u64).map(|n| (format!("base/5/{n}").into_bytes(), page(n, 700))).collect();
    tree.insert(b"PG_VERSION".to_vec(), b"17\n".to_vec());
    tree.insert(
        b"base/5/1259".to_vec(),
        [page(100, 18 * PAGE as usize), vec![0; 5 * PAGE as usize], page(101, 99)].concat(),
    );
    let first = store_backup(&repository, lineage, Id([1; 16]), (PAGE, 60), &tree, None).await;
    let parent = read_map(&repository, lineage, first.attempt, &first.digest).await.unwrap();
    let mut changed = tree.clone();
    changed.get_mut(b"base/5/1259".as_slice()).unwrap()[3] ^= 1;
    let second_backup =
        store_backup(&repository, lineage, Id([2; 16]), (PAGE, 60), &changed, Some((&parent, &tree))).await;

    let reason = || "because".to_owned();
    append_backup(&mut journal, &first, "one").await;
    journal.append(0, Entry::Takeover { reason: reason() }).await.unwrap_err();
    append_backup(&mut journal, &second_backup, "two").await;
    let (backup, attempt) = (first.attempt, Id([3; 16]));
    let third = Written { attempt, map: PageMap::default(), digest: [3; 32], map_len: 1, packs: Vec::new() };
    append_backup(&mut journal, &third, "three").await;
    for entry in [
        Entry::BackupDeleted { backup: attempt, reason: reason() },
        Entry::Tagged { backup, tags: BTreeMap::from([("team".to_owned(), "\u{e9}".to_owned())]) },
        Entry::Held { backup, reason: reason() },
        Entry::Released { backup },
        Entry::Verified { backup, ok: false, what: "frame 3 of pack 0".to_owned(), elapsed_ms: 1234 },
        Entry::Drilled { backup, ok: true, report: json!({ "steps": [] }), elapsed_ms: 56_789, loaded_into: 18 },
        Entry::AttemptStarted { attempt: Id([4; 16]) },
        Entry::AttemptAborted { attempt: Id([4; 16]), reason: reason() },
        Entry::WalStarted { timeline: 1, start: 0x100_0000 },
        Entry::WalGap { timeline: 1, from: 0x110_0000, to: u64::MAX, reason: reason() },
        Entry::TimelineSwitched { from: 1, to: 2, at: 0x10f_0000, durable: 0x110_0000, commits: Some(3) },
    ] {
        journal.append(0, entry).await.unwrap();
    }
    journal.append(5, Entry::Takeover { reason: reason() }).await.unwrap();

    let at = |start| WalPosition { lineage, timeline: 1, start };
    for (name, position, len) in wal_examples(lineage) {
        let plain = [page(len as u64, 5000), vec![7; len - 5000]].concat();
        let mark = |time| Some(CommitMark { time, at: position.start + 40 });
        let info = WalInfo {
            system_identifier: 7_412_345_678_901_234_567,
            segment_size: 1 << 20,
            end: position.start + len as u64,
            first_commit: mark(1_767_225_600_000_000),
            last_commit: mark(-1),
            latest_time: Some(1_767_225_700_000_000),
            observed: Some(Observation { time: 5, flushed: position.start + 50 }),
        };
        let wal = write_wal(&world, &repository.keyring, name, &info, &plain, &mut Encoder::new(3));
        object::create(store.as_ref(), &wal).await.unwrap();
    }
    let seen = Observation { time: 1_767_225_800_000_000, flushed: 0x110_1388 };
    let seen = write_observation(&world, &repository.keyring, at(0x110_1388), 0, &seen);
    object::create(store.as_ref(), &seen).await.unwrap();
    let history =
        write_history(&world, &repository.keyring, lineage, 2, b"1\t0/10F0000\tno recovery target specified\n");
    object::create(store.as_ref(), &history).await.unwrap();

    for (name, text) in [("key", key.text), ("second-key", second.text), ("write-only-key", write_only)] {
        std::fs::write(directory.join(name), text).unwrap();
    }
    let described = describe(&world, directory, &read_key(directory, "key")).await;
    let text = serde_json::to_string_pretty(&described).unwrap();
    std::fs::write(directory.join("expected.json"), text + "\n").unwrap();
    std::fs::remove_dir(directory.join("repository/tmp")).unwrap();
}

/// A whole segment, and behind it a chunk that is merged with the next.
fn wal_examples(lineage: Id) -> [(Name, WalPosition, usize); 3] {
    let at = |start| WalPosition { lineage, timeline: 1, start };
    let (whole, open) = (at(0x100_0000), at(0x110_0000));
    [
        (Name::WalSegment(whole), whole, 1 << 20),
        (Name::WalChunk(open), open, 5000),
        (Name::WalMerged(open, 1), open, 9000),
    ]
}

async fn append_backup(
    journal: &mut asof_repository::journal::Journal<asof_repository::lineage::Lineage>,
    written: &Written,
    name: &str,
) {
    let attempt = written.attempt;
    journal.append(0, Entry::AttemptStarted { attempt }).await.unwrap();
    journal.append(0, Entry::Progress { attempt, packs: written.packs.clone() }).await.unwrap();
    journal.append(0, Entry::BackupCommitted(Box::new(backup_entry(written, name)))).await.unwrap();
}

fn read_key(directory: &Path, name: &str) -> Key {
    Key::parse(&std::fs::read_to_string(directory.join(name)).unwrap()).unwrap()
}

async fn open(world: &World, directory: &Path, key: &Key) -> Repository {
    let store = Arc::new(LocalStore::new(world.clone(), directory.join("repository")));
    root::open(world, store, key, None).await.unwrap()
}

/// Everything that the repository says, field by field.
async fn describe(world: &World, directory: &Path, key: &Key) -> Value {
    let repository = open(world, directory, key).await;
    let lineage = repository.lineage_of("prod").unwrap();
    let journal = repository.lineage(lineage).await.unwrap();
    assert_eq!((repository.journal.voids(), journal.voids()), ([].as_slice(), [].as_slice()));
    let (store, keyring) = (repository.store.as_ref(), &repository.keyring);
    let signers = repository.journal.signers();
    let mut maps = BTreeMap::new();
    let mut packs = BTreeMap::new();
    for state in journal.state().existing() {
        let (id, digest) = (state.backup.id, &state.backup.map);
        let stored = read_map(&repository, lineage, id, digest).await.unwrap();
        for pack in &stored.map.packs {
            let (index, opened) =
                read_pack_index(store, keyring, signers, pack.id, &pack.reference.digest).await.unwrap();
            let described = json!({
                "len": opened.len,
                "signer": opened.signer.to_string(),
                "files": index.files.iter().map(|path| String::from_utf8_lossy(path)).collect::<Vec<_>>(),
                "frames": index.frames.iter().map(describe_frame).collect::<Vec<_>>(),
            });
            packs.insert(pack.id.to_string(), described);
        }
        let files = |tree: Tree| {
            let file = |(path, bytes): (Vec<u8>, Vec<u8>)| {
                (
                    String::from_utf8(path).unwrap(),
                    json!({ "len": bytes.len(), "blake3": blake3::hash(&bytes).to_string() }),
                )
            };
            tree.into_iter().map(file).collect::<serde_json::Map<_, _>>()
        };
        let tree = match keyring.data_secret {
            Some(_) => files(read_tree(store, keyring, &stored.map).await.unwrap()),
            None => serde_json::Map::new(),
        };
        maps.insert(id.to_string(), json!({
            "page_size": stored.map.page_size,
            "directories": stored.map.directories.iter().map(|path| String::from_utf8_lossy(path)).collect::<Vec<_>>(),
            "runs": stored.map.files.iter().map(|file| describe_runs(&stored.map, file)).collect::<Vec<_>>(),
            "files": tree,
        }));
    }
    let mut wal = BTreeMap::new();
    let at = |start| WalPosition { lineage, timeline: 1, start };
    for (name, ..) in wal_examples(lineage) {
        if keyring.data_secret.is_some() {
            let (stored, plain) = read_wal(store, keyring, signers, name).await.unwrap();
            assert_eq!(stored.index.digest, *blake3::hash(&plain).as_bytes());
            wal.insert(name.to_string(), describe_wal(&stored.index.info, &plain));
        }
    }
    let (number, seen) = last_observation(store, keyring, signers, at(0x110_1388)).await.unwrap().unwrap();
    let history = read_history(store, keyring, signers, lineage, 2).await.unwrap();
    json!({
        "root": serde_json::to_value(&repository.root).unwrap(),
        "fingerprint": repository.root.fingerprint().to_string(),
        "keys": { "index": blake3::hash(keyring.index.expose()).to_string(), "data": hex::encode(keyring.data_public) },
        "repository_journal": entries(&repository, JournalOf::Repository).await,
        "lineage_journal": entries(&repository, JournalOf::Lineage(lineage)).await,
        "recipients": repository.journal.state().recipients.values().collect::<Vec<_>>(),
        "signers": signers.iter().map(|(id, signer)| json!([id.to_string(), signer.label, signer.roles])).collect::<Vec<_>>(),
        "epoch": journal.state().epoch,
        "backups": journal.state().existing().iter().map(|state| {
            json!([state.backup.name, state.tags, state.hold, state.committed.0])
        }).collect::<Vec<_>>(),
        "heads": [hex::encode(repository.journal.head()), hex::encode(journal.head())],
        "maps": maps,
        "packs": packs,
        "wal": wal,
        "observed": json!([number, seen.time, seen.flushed]),
        "history": String::from_utf8(history).unwrap(),
    })
}

fn describe_frame(frame: &FrameEntry) -> Value {
    let Section { offset, stored_len, plain_len, codec, digest } = frame.section;
    let hashes: Vec<_> = frame.hashes.iter().map(hex::encode).collect();
    json!([frame.file, offset, stored_len, plain_len, codec as u8, hex::encode(digest), frame.blocks, hashes])
}

fn describe_runs(map: &PageMap, file: &MapFile) -> Value {
    let run = |run: &Run| match run.place {
        Place::Zero => json!([run.pages, "zero"]),
        Place::Pack { pack, position } => {
            json!([run.pages, map.packs[pack as usize].id.to_string(), position, run.torn])
        }
    };
    json!([String::from_utf8_lossy(&file.path), file.len, file.runs.iter().map(run).collect::<Vec<_>>()])
}

fn describe_wal(info: &WalInfo, plain: &[u8]) -> Value {
    let mark = |mark: Option<CommitMark>| mark.map(|mark| json!([mark.time, mark.at]));
    json!({
        "system_identifier": info.system_identifier,
        "segment_size": info.segment_size,
        "end": info.end,
        "first_commit": mark(info.first_commit),
        "last_commit": mark(info.last_commit),
        "latest_time": info.latest_time,
        "observed": info.observed.map(|seen| json!([seen.time, seen.flushed])),
        "blake3": blake3::hash(plain).to_string(),
    })
}

/// The entries of a journal as they were written.
async fn entries(repository: &Repository, of: JournalOf) -> Vec<Value> {
    let mut entries = Vec::new();
    loop {
        let name = Name::Entry(of, entries.len() as u64 + 1);
        let Ok(bytes) = object::read(repository.store.as_ref(), name).await else { return entries };
        let signers = repository.journal.signers();
        let opened = object::open(&repository.keyring, signers, Role::Operator, name, Kind::Entry, &bytes).unwrap();
        let mut entry: Value = serde_json::from_slice(&opened.index).unwrap();
        entry["signer"] = opened.signer.to_string().into();
        entries.push(entry);
    }
}

#[tokio::test]
async fn t14_the_stored_example_says_what_it_said() {
    if std::env::var_os("ASOF_WRITE_GOLDEN").is_some() {
        std::fs::remove_dir_all(golden()).ok();
        std::fs::create_dir_all(golden()).unwrap();
        write_golden(&golden()).await;
    }
    let (world, directory) = (World::real(), golden());
    let text = std::fs::read_to_string(directory.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let keys = [
        read_key(&directory, "key"),
        read_key(&directory, "second-key"),
        Key::Passphrase(PASSPHRASE.to_owned().into()),
    ];
    for key in keys {
        let found = describe(&world, &directory, &key).await;
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&found[field], value, "{field}");
        }
        assert_eq!(found, expected);
    }
    let found = describe(&world, &directory, &read_key(&directory, "write-only-key")).await;
    for field in ["root", "repository_journal", "lineage_journal", "backups", "packs", "history"] {
        assert_eq!(found[field], expected[field], "{field} with a write-only key");
    }
}

#[tokio::test]
async fn t14_the_stored_example_holds_every_kind_of_object_and_entry() {
    let (world, directory) = (World::real(), golden());
    let repository = open(&world, &directory, &read_key(&directory, "key")).await;
    let names: Vec<_> = repository.store.list("").await.unwrap().into_iter().map(|listed| listed.name).collect();
    let lineage = format!("l/{}/", repository.lineage_of("prod").unwrap());
    let has = |prefix: String, parts: usize| {
        names.iter().any(|name| name.starts_with(&prefix) && name.split('/').count() == parts)
    };
    for variant in variants("names.rs", "Name") {
        let found = match variant.as_str() {
            "Root" => has("repository.json".to_owned(), 1),
            "Key" => has("keys/".to_owned(), 2),
            "Entry" => has("journal/".to_owned(), 2) && has(format!("{lineage}journal/"), 4),
            "Pack" => has(format!("{lineage}packs/"), 4),
            "Map" => has(format!("{lineage}maps/"), 4),
            "WalChunk" => has(format!("{lineage}wal/00000001/0"), 5),
            "WalMerged" => has(format!("{lineage}wal/00000001/m1/"), 6),
            "Observed" => has(format!("{lineage}wal/00000001/seen/"), 6),
            "WalSegment" => has(format!("{lineage}wal/00000001/seg/"), 6),
            "History" => has(format!("{lineage}wal/00000002/history"), 5),
            other => panic!("add an example of {other}"),
        };
        assert!(found, "{variant}: {names:?}");
    }
    let text = std::fs::read_to_string(directory.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    for (journal, kinds) in [("repository_journal", kinds::<RepositoryEntry>()), ("lineage_journal", kinds::<Entry>())]
    {
        for kind in kinds {
            let entries = expected[journal].as_array().unwrap();
            assert!(entries.iter().any(|entry| entry["entry"]["kind"] == kind.as_str()), "add an example of {kind}");
        }
    }
}

const MIB: f64 = 1048576.0;
const FRAMES_PER_TIB: f64 = 8_388_608.0;

/// Footers, map, and map of the unchanged instance: bytes per TiB in files of 1 GiB, frames a third of their pages.
async fn sizes() -> [f64; 3] {
    let home = Home::seeded(2);
    let (repository, _) = root::init(&home.world, home.store(), false).await.unwrap();
    let (keyring, lineage, frame_len) = (&repository.keyring, Id([1; 16]), PAGE * PAGES_PER_FRAME);
    let id = |number| PackId { lineage, attempt: Id([2; 16]), number };
    let mut pack = PackWriter::new(&home.world, keyring, id(0));
    let hasher = keyring.page_hasher(lineage);
    let (mut frames, mut stored) = (0u32, 0u64);
    while !pack.is_full() {
        let plain = page(u64::from(frames), frame_len as usize);
        let blocks: Vec<u32> = (frames * PAGES_PER_FRAME..).take(PAGES_PER_FRAME as usize).collect();
        let hashes: Vec<_> = blocks.iter().map(|block| hasher.hash(*block, &block.to_le_bytes())).collect();
        let (_, section) = pack.frame(b"base/16384/16385", &blocks, &hashes, &plain, &mut Encoder::new(1));
        stored += u64::from(section.stored_len);
        frames += 1;
    }
    let pack = pack.finish(keyring, &mut Encoder::new(3));
    let footers = (pack.object.len - stored) as f64 / f64::from(frames) * FRAMES_PER_TIB;

    let files = 16;
    let large = Large { repository: &repository, lineage, files, frames_in_pack: frames };
    let first = large.first(Id([3; 16])).await;
    let parent = large.stored(Id([3; 16]), &first).await;
    let second = large.next(Id([4; 16]), &parent, Changed::Nothing).await;
    let per_tib = 1024.0 / files as f64;
    let fixed = 420.0;
    [footers, first.map.len as f64 * per_tib, (second.map.len as f64 - fixed) * per_tib + fixed]
}

#[tokio::test]
async fn the_sizes_in_the_document_are_those_of_the_code() {
    let [footers, map, unchanged] = sizes().await;
    println!("footers {:.0} MiB, map {:.1} MiB, unchanged {:.1} KiB", footers / MIB, map / MIB, unchanged / 1024.0);
    let document = document();
    let stated = |row: &str, unit: &str| {
        let line = document.lines().find(|line| line.starts_with(&format!("| {row} |"))).unwrap();
        let cell = line.split('|').nth(2).unwrap().trim().strip_suffix(unit).unwrap();
        cell.trim().replace(',', "").parse::<f64>().unwrap()
    };
    let check = |row: &str, unit: &str, found: f64| {
        let stated = stated(row, unit);
        assert!((found / stated - 1.0).abs() < 0.03, "{row}: {stated} {unit} is stated, {found:.1} found");
    };
    check("footers of packs", "MiB", footers / MIB);
    check("map of a first backup", "MiB", map / MIB);
    check("map of an unchanged instance", "KiB", unchanged / 1024.0);
}

/// GiB of the two instances whose maps are held against each other.
fn instances() -> [usize; 2] {
    let asked = std::env::var("ASOF_GIB").ok();
    asked.map_or([66, 140], |text| {
        let (small, large) = text.split_once(',').unwrap();
        [small.parse().unwrap(), large.parse().unwrap()]
    })
}

/// A field of what Linux says about this process, in MiB.
fn resident(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or(": 0 kB");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<f64>().unwrap() / 1024.0
}

/// What `work` needs at most beyond what was there before.
async fn peak<T>(work: impl Future<Output = T>) -> (T, f64) {
    let before = resident("VmRSS");
    std::fs::write("/proc/self/clear_refs", "5").ok();
    let done = work.await;
    (done, resident("VmHWM") - before)
}

/// The makings of the first map and of the next, in which one page of every file has changed.
async fn makings(files: usize) -> [Made; 2] {
    let home = Home::seeded(5);
    let (repository, _) = root::init(&home.world, home.store(), false).await.unwrap();
    let large = Large { repository: &repository, lineage: Id([1; 16]), files, frames_in_pack: 750 };
    let say = |what: &str, made: &Made, peak: f64| {
        let map = made.len as f64 / MIB;
        println!("{files} GiB, {what}: {peak:.0} MiB, of which the map {map:.1}; {} frames held", made.held_frames);
    };
    let (first, most) = peak(large.first(Id([3; 16]))).await;
    say("first map", &first, most);
    let parent = large.stored(Id([3; 16]), &first).await;
    let (second, most) = peak(large.next(Id([4; 16]), &parent, Changed::Little)).await;
    say("next map", &second, most);
    [first, second]
}

/// `ASOF_GIB=128,512 cargo test -p asof-repository --test format -- sizes_in_memory --nocapture` prints peaks of memory, for which no
/// other test may run.
#[tokio::test]
async fn sizes_in_memory_do_not_grow_with_the_instance() {
    let [small, large] = instances();
    let [small, large] = [makings(small).await, makings(large).await];
    for (small, large) in small.iter().zip(&large) {
        assert!(large.len > 2 * small.len);
        assert!(large.held_frames < small.held_frames + 4096, "{} after {}", large.held_frames, small.held_frames);
        assert!(large.held_frames < WAITING_FRAMES + (64 << 13), "{}", large.held_frames);
    }
}
