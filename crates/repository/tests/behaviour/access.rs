//! Who gets in: init, keys, roots.

use std::collections::BTreeMap;

use asof_repository::error::Error;
use asof_repository::lineage::Entry;
use asof_repository::names::Name;
use asof_repository::root::{self, Key, NewKey, Repository};

use crate::support::{Home, chain};

async fn init(home: &Home) -> (Repository, Key, NewKey) {
    let (repository, new) = root::init(&home.world, home.store(), false).await.unwrap();
    (repository, Key::parse(&new.text).unwrap(), new)
}

async fn open(home: &Home, key: &Key) -> asof_repository::Result<Repository> {
    root::open(&home.world, home.store(), key, None).await
}

fn denied<T>(result: asof_repository::Result<T>) -> String {
    match result {
        Err(error @ Error::Denied { .. }) => chain(&error),
        Err(error) => panic!("refused for another reason: {error}"),
        Ok(_) => panic!("not refused"),
    }
}

#[tokio::test]
async fn a_repository_opens_with_the_key_that_init_made_and_knows_its_instances() {
    let home = Home::new();
    let (mut made, key, _) = init(&home).await;
    let facts = BTreeMap::from([("system_identifier".to_owned(), serde_json::json!(u64::MAX))]);
    let (lineage, journal) = made.register("prod", facts.clone(), None).await.unwrap();
    let opened = root::open(&home.world, home.store(), &key, Some(made.root.fingerprint())).await.unwrap();
    assert_eq!(opened.root, made.root);
    assert_eq!(opened.lineage_of("prod"), Some(lineage));
    assert_eq!(opened.journal.state(), made.journal.state());
    assert_eq!(opened.keyring.data_secret.as_ref().unwrap().expose(), made.keyring.data_secret.unwrap().expose());
    assert_eq!(opened.lineage(lineage).await.unwrap().state(), journal.state());
    assert_eq!(journal.state().facts, facts);
}

#[tokio::test]
async fn a_second_init_is_refused_and_changes_nothing() {
    let home = Home::new();
    let (made, key, _) = init(&home).await;
    let error = root::init(&home.world, home.store(), false).await.err().unwrap();
    assert!(matches!(&error, Error::Conflict { .. }), "{error}");
    assert!(error.to_string().contains(&made.root.fingerprint().to_string()), "{error}");
    open(&home, &key).await.unwrap();
}

#[tokio::test]
async fn an_init_that_died_before_its_root_is_no_repository_and_can_be_repeated() {
    let home = Home::new();
    let (_, key, _) = init(&home).await;
    home.remove(Name::Root);
    assert!(open(&home, &key).await.err().unwrap().is_not_found());
    let (_, key, _) = init(&home).await;
    open(&home, &key).await.unwrap();
}

#[tokio::test]
async fn a_key_that_was_never_added_is_refused() {
    let (home, other) = (Home::new(), Home::new());
    init(&home).await;
    let (_, stranger, _) = init(&other).await;
    let message = denied(open(&home, &stranger).await);
    assert!(message.contains("opens no key of this repository"), "{message}");
}

#[tokio::test]
async fn a_key_file_carried_over_from_another_repository_is_refused_by_name() {
    let (home, other) = (Home::new(), Home::new());
    init(&home).await;
    let (foreign, stranger, new) = init(&other).await;
    home.overwrite(Name::Key(new.id), &other.bytes(Name::Key(new.id)));
    let message = denied(open(&home, &stranger).await);
    assert!(message.contains(&foreign.root.repository.to_string()), "{message}");
}

#[tokio::test]
async fn a_repository_with_another_root_key_than_the_configuration_expects_is_refused_by_name() {
    let (home, other) = (Home::new(), Home::new());
    let (mine, key, _) = init(&home).await;
    let (foreign, _, _) = init(&other).await;
    home.overwrite(Name::Root, &other.bytes(Name::Root));
    let result = root::open(&home.world, home.store(), &key, Some(mine.root.fingerprint())).await;
    let message = denied(result);
    for fingerprint in [mine.root.fingerprint(), foreign.root.fingerprint()] {
        assert!(message.contains(&fingerprint.to_string()), "{message}");
    }
}

#[tokio::test]
async fn a_write_only_key_appends_and_reads_journals_but_opens_no_data() {
    let home = Home::new();
    let (mut made, _, _) = init(&home).await;
    let (lineage, _) = made.register("prod", BTreeMap::new(), None).await.unwrap();
    let text = made.add_write_only("db host").await.unwrap();
    let mut host = open(&home, &Key::parse(&text).unwrap()).await.unwrap();
    let mut journal = host.lineage(lineage).await.unwrap();
    journal.append(0, Entry::AttemptStarted { attempt: home.world.id() }).await.unwrap();
    let message = denied(host.keyring.require_data_secret("frame 3"));
    assert!(message.contains("frame 3") && message.contains("cannot restore"), "{message}");
    denied(host.add_key("mine").await);
    denied(host.add_write_only("another").await);
}

#[tokio::test]
async fn a_write_only_key_of_another_repository_is_refused() {
    let (home, other) = (Home::new(), Home::new());
    init(&home).await;
    let (mut foreign, _, _) = init(&other).await;
    let text = foreign.add_write_only("db host").await.unwrap();
    denied(open(&home, &Key::parse(&text).unwrap()).await);
}

#[tokio::test]
async fn a_write_only_key_with_another_index_key_reads_nothing() {
    let (home, other) = (Home::new(), Home::new());
    let (mut made, _, _) = init(&home).await;
    let (foreign, _, _) = init(&other).await;
    let text = made.add_write_only("db host").await.unwrap();
    let wrong = text.replace(&hex::encode(made.keyring.index.expose()), &hex::encode(foreign.keyring.index.expose()));
    let message = denied(open(&home, &Key::parse(&wrong).unwrap()).await);
    assert!(message.contains("journal/000000000001"), "{message}");
}

#[tokio::test]
async fn an_added_key_has_all_rights() {
    let home = Home::new();
    let (mut made, _, _) = init(&home).await;
    let added = made.add_key("safe").await.unwrap();
    let mut second = open(&home, &Key::parse(&added.text).unwrap()).await.unwrap();
    assert_eq!(second.journal.state().recipients[&added.id], "safe");
    assert_ne!(second.keyring.signer(), made.keyring.signer());
    second.keyring.require_data_secret("a frame").unwrap();
    second.add_write_only("db host").await.unwrap();
}

#[tokio::test]
async fn a_passphrase_opens_the_repository_when_every_key_file_is_lost() {
    let home = Home::new();
    let (mut made, _, _) = init(&home).await;
    made.add_key("safe").await.unwrap();
    made.add_passphrase("kit", "correct horse".to_owned().into()).await.unwrap();
    let mut opened = open(&home, &Key::Passphrase("correct horse".to_owned().into())).await.unwrap();
    opened.keyring.require_data_secret("a frame").unwrap();
    opened.add_write_only("db host").await.unwrap();
    let message = denied(open(&home, &Key::Passphrase("wrong horse".to_owned().into())).await);
    assert!(message.contains("passphrase"), "{message}");
}

#[test]
fn a_key_file_holds_one_key_and_comments() {
    let check = |text: &str, says: &str| {
        let error = Key::parse(text).err().unwrap_or_else(|| panic!("accepted {text:?}"));
        assert!(error.to_string().contains(says), "{text:?}: {error}");
    };
    check("", "one line");
    check("# only a comment\n", "one line");
    check("a\nb\n", "one line");
    check("AGE-SECRET-KEY-1QQQQ", "holds no key");
    check("ASOF-WRITE-ONLY-KEY-1:00", "cut or changed");
    check(&format!("ASOF-WRITE-ONLY-KEY-1:{}", "A".repeat(191)), "cut or changed");
    check(&format!("ASOF-WRITE-ONLY-KEY-2:{}", "a".repeat(192)), "holds no key");
}

#[tokio::test]
async fn a_root_of_another_format_asks_for_another_asof_even_when_it_has_unknown_fields() {
    let home = Home::new();
    let (_, key, _) = init(&home).await;
    let mut json: serde_json::Value = serde_json::from_slice(&home.bytes(Name::Root)).unwrap();
    json["revision"] = 9.into();
    json["surprise"] = true.into();
    home.overwrite(Name::Root, &serde_json::to_vec(&json).unwrap());
    let message = denied(open(&home, &key).await);
    assert!(message.contains("format 0.9"), "{message}");
}

#[tokio::test]
async fn a_root_with_a_changed_or_unsigned_field_is_refused() {
    let home = Home::new();
    let (_, key, _) = init(&home).await;
    let whole: serde_json::Value = serde_json::from_slice(&home.bytes(Name::Root)).unwrap();
    let changes: [(&str, serde_json::Value); 5] = [
        ("single_writer", true.into()),
        ("created", 1.into()),
        ("data_key", "0".repeat(64).into()),
        ("root_key", whole["root_key"].as_str().unwrap().to_uppercase().into()),
        ("surprise", 1.into()),
    ];
    for (field, value) in changes {
        let mut changed = whole.clone();
        changed[field] = value;
        home.overwrite(Name::Root, &serde_json::to_vec(&changed).unwrap());
        let error = open(&home, &key).await.err().unwrap_or_else(|| panic!("{field} may be changed"));
        assert!(matches!(&error, Error::Corrupt { object, .. } if object == "repository.json"), "{field}: {error}");
    }
}
