//! The store in S3: the contract on a real HTTP server, and every bad answer in the right kind of error.
//!
//! The bad answers are hazards F1 (an upload that failed or was cut is taken for good), F5 (a conditional creation is
//! ignored or ambiguous) and T4 (misbehaving stores).

mod stub;

use std::sync::Arc;
use std::time::Duration;

use asof_repository::error::{Error, Result};
use asof_repository::root::{self, Key};
use asof_repository::store::local::LocalStore;
use asof_repository::store::probe::{Capabilities, probe};
use asof_repository::store::s3::S3Store;
use asof_repository::store::{Body, Created, Listed, ReadRange, Retrying, Store};
use asof_sim::conformance::{a_prefix_is_not_an_object, store_keeps_its_contract};
use asof_sim::{MemoryStore, Simulation};
use asof_testkit::Moto;
use asof_world::{Tasks, World};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use stub::{Answer, Stub, announcing, answer, error, header};

const BUCKET: &str = "backups";

/// Credentials, as the environment would give them.
fn variable(name: &str) -> Option<String> {
    match name {
        "AWS_ACCESS_KEY_ID" => Some("AKIDEXAMPLE".to_owned()),
        "AWS_SECRET_ACCESS_KEY" => Some("not-a-secret".to_owned()),
        _ => None,
    }
}

fn store_at(world: World, prefix: &str, endpoint: &str) -> S3Store {
    let url = format!("s3://{BUCKET}{prefix}?region=us-east-1&endpoint={endpoint}");
    S3Store::new(world, &url, variable).expect("the URL is valid")
}

/// The store as the binary opens it.
fn patient(prefix: &str, moto: &Moto) -> Arc<Retrying> {
    let store = store_at(World::real(), prefix, &moto.endpoint());
    Arc::new(Retrying::new(Arc::new(store), World::real(), Duration::from_secs(30)))
}

// ---- The contract ----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn s3_keeps_the_contract_below_a_prefix() {
    let moto = Moto::with_bucket(BUCKET);
    let store = patient("/deep/main", &moto);
    store_keeps_its_contract(store.clone()).await;
    a_prefix_is_not_an_object(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_keeps_the_contract_in_a_bucket_of_its_own() {
    let moto = Moto::with_bucket(BUCKET);
    store_keeps_its_contract(patient("", &moto)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_repositories_in_one_bucket_do_not_see_each_other() {
    let moto = Moto::with_bucket(BUCKET);
    let [a, b] = ["/a", "/a2"].map(|prefix| patient(prefix, &moto));
    a.create("x", Body::from(vec![1])).await.expect("is created");
    assert_eq!(b.create("x", Body::from(vec![2])).await.expect("is created"), Created::New);
    let listed = a.list("").await.expect("lists");
    assert_eq!(listed.iter().map(|object| object.name.as_str()).collect::<Vec<_>>(), ["x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_does_not_exist_is_not_an_absent_object() {
    let moto = Moto::running();
    let store = patient("", &moto);
    for result in [
        store.read("x", ReadRange::Whole).await.map(drop),
        store.len("x").await.map(drop),
        store.create("x", Body::from(vec![1])).await.map(drop),
        store.list("").await.map(drop),
    ] {
        let error = result.expect_err("there is no bucket");
        assert!(matches!(&error, Error::Invalid { what } if what.contains("NoSuchBucket")), "{error}");
    }
}

// ---- The probe -------------------------------------------------------------------------------------------------------

fn keeps_everything() -> Capabilities {
    Capabilities { overwrites: None, lists_at_once: true, left_behind: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_accepts_a_store_in_s3_and_leaves_nothing() {
    let moto = Moto::with_bucket(BUCKET);
    let store = patient("/main", &moto);
    assert_eq!(probe(store.as_ref(), &World::real()).await.expect("the store works"), keeps_everything());
    assert_eq!(store.list("").await.expect("lists"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_accepts_a_directory() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the test");
    let store = LocalStore::new(World::real(), dir.path());
    assert_eq!(probe(&store, &World::real()).await.expect("the store works"), keeps_everything());
    assert_eq!(store.list("").await.expect("lists"), []);
}

#[test]
fn hz_f5_a_store_that_ignores_create_if_absent_is_refused_without_a_single_writer() {
    Simulation::new(1).run(|world| async move {
        let store = MemoryStore::ignoring_create_if_absent(&world);
        let found = probe(&store, &world).await.expect("the store can be tried");
        let refused = found.require("memory", false).expect_err("is refused");
        assert!(refused.to_string().contains("a second creation"), "{refused}");
        found.require("memory", true).expect("the operator vouched for a single writer");
        assert!(store.names().is_empty(), "{:?}", store.names());
    });
}

#[test]
fn a_single_writer_overwrites_nothing_in_a_store_that_would_let_it() {
    Simulation::new(4).run(|world| async move {
        let overwriting = MemoryStore::ignoring_create_if_absent(&world);
        let (repository, key) = root::init(&world, Arc::new(overwriting.clone()), true).await.expect("is made");
        let key = Key::parse(&key.text).expect("is a key");
        let again = root::open(&world, Arc::new(overwriting.clone()), &key, None).await.expect("opens");
        for (repository, name) in [(&repository, "a"), (&again, "b")] {
            assert_eq!(repository.store.create(name, Body::from(vec![1])).await.expect("is created"), Created::New);
            assert_eq!(repository.store.create(name, Body::from(vec![2])).await.expect("is taken"), Created::Exists);
        }
        assert_eq!(overwriting.changed(), [""; 0]);
    });
}

/// A store in memory that misbehaves in one respect.
struct Misbehaving {
    inner: MemoryStore,
    world: World,
    /// Looks first and writes later, as some servers do: no condition holds between two creators.
    looks_first: bool,
    /// Deletes nothing, as with the credential of a host that may only create.
    keeps: bool,
}

#[async_trait]
impl Store for Misbehaving {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn create(&self, name: &str, body: Body) -> Result<Created> {
        if self.looks_first {
            if self.inner.len(name).await.is_ok() {
                return Ok(Created::Exists);
            }
            self.world.sleep(Duration::from_millis(1)).await;
        }
        self.inner.create(name, body).await
    }

    async fn read(&self, name: &str, range: ReadRange) -> Result<Bytes> {
        self.inner.read(name, range).await
    }

    async fn len(&self, name: &str) -> Result<u64> {
        self.inner.len(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        if self.keeps {
            return Err(Error::Denied { object: name.to_owned(), reason: "it may only create".to_owned() });
        }
        self.inner.delete(name).await
    }
}

#[test]
fn hz_f5_a_store_that_looks_first_and_writes_later_is_refused() {
    Simulation::new(2).run(|world| async move {
        let inner = MemoryStore::ignoring_create_if_absent(&world);
        let store = Misbehaving { inner, world: world.clone(), looks_first: true, keeps: false };
        let found = probe(&store, &world).await.expect("the store can be tried");
        let how = found.overwrites.expect("of creations at once, more than one wins");
        assert!(how.contains("8 creations at once"), "{how}");
    });
}

#[test]
fn a_credential_that_cannot_delete_is_reported_and_accepted() {
    Simulation::new(3).run(|world| async move {
        let inner = MemoryStore::new(&world, 0);
        let store = Misbehaving { inner, world: world.clone(), looks_first: false, keeps: true };
        let found = probe(&store, &world).await.expect("the store works");
        found.require("memory", false).expect("is accepted");
        assert!(found.left_behind.expect("objects stay").contains("it may only create"));
    });
}

// ---- Bad answers -----------------------------------------------------------------------------------------------------

/// The kind of an error, as its variant is called.
fn kind(error: &Error) -> String {
    format!("{error:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

async fn asked<T>(answers: Vec<Answer>, call: impl AsyncFnOnce(S3Store) -> T) -> (T, Vec<String>) {
    let stub = Stub::answering(answers);
    let store = store_at(World::real(), "/main", &format!("http://{}", stub.address()));
    let result = call(store).await;
    (result, stub.asked())
}

async fn create(answers: Vec<Answer>) -> Result<Created> {
    asked(answers, async |store| store.create("x", Body::from(b"hello".to_vec())).await).await.0
}

async fn read(range: ReadRange, answers: Vec<Answer>) -> Result<Bytes> {
    asked(answers, async |store| store.read("x", range).await).await.0
}

async fn check_create(answers: Vec<Answer>, expect: &str) {
    let shown = format!("{answers:?}");
    let error = create(answers).await.expect_err(&shown);
    assert_eq!(kind(&error), expect, "{error}; {shown}");
}

async fn check_read(range: ReadRange, answers: Vec<Answer>, expect: &str) {
    let shown = format!("{range:?} {answers:?}");
    let error = read(range, answers).await.expect_err(&shown);
    assert_eq!(kind(&error), expect, "{error}; {shown}");
}

fn stored() -> Answer {
    answer("200 OK", "ETag: \"e\"\r\n", b"")
}

fn head_of(len: usize) -> Answer {
    announcing(len, "200 OK", "ETag: \"e\"\r\n", b"")
}

fn part(range: &str, body: &[u8]) -> Answer {
    answer("206 Partial Content", &format!("ETag: \"e\"\r\nContent-Range: bytes {range}\r\n"), body)
}

const FIRST_FIVE: ReadRange = ReadRange::Part { offset: 0, len: 5 };

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_is_conditional_carries_its_digest_and_is_confirmed() {
    let (created, asked) = asked(vec![stored(), head_of(5)], async |store| {
        store.create("x", Body::from(b"hello".to_vec())).await.expect("is created")
    })
    .await;
    assert_eq!(created, Created::New);
    assert!(asked[0].starts_with("PUT /backups/main/x "), "{}", asked[0]);
    assert_eq!(header(&asked[0], "if-none-match"), Some("*"));
    assert_eq!(header(&asked[0], "content-length"), Some("5"));
    let digest = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=";
    assert_eq!(header(&asked[0], "x-amz-checksum-sha256"), Some(digest));
    assert!(asked[1].starts_with("HEAD /backups/main/x "), "{}", asked[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_name_is_no_error() {
    for status in ["412 Precondition Failed", "304 Not Modified"] {
        let answers = vec![error(status, "PreconditionFailed")];
        assert_eq!(create(answers).await.expect("a taken name is no error"), Created::Exists, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_f5_a_lost_race_for_a_name_that_is_free_again_is_not_a_taken_name() {
    check_create(vec![error("409 Conflict", "ConditionalRequestConflict")], "Unavailable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_t4_a_creation_that_was_not_carried_out_can_be_tried_again() {
    check_create(vec![error("503 Service Unavailable", "SlowDown")], "Unavailable").await;
    check_create(vec![answer("429 Too Many Requests", "", b"")], "Unavailable").await;
    check_create(vec![error("400 Bad Request", "BadDigest")], "Unavailable").await;
    let gone = store_at(World::real(), "", "http://127.0.0.1:1");
    let error = gone.create("x", Body::from(vec![1])).await.expect_err("nobody listens");
    assert_eq!(kind(&error), "Unavailable", "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_t4_a_creation_without_a_clear_answer_is_uncertain() {
    check_create(vec![Answer::Nothing], "Uncertain").await;
    check_create(vec![error("500 Internal Server Error", "InternalError")], "Uncertain").await;
    check_create(vec![answer("502 Bad Gateway", "", b"<html>")], "Uncertain").await;
    check_create(vec![announcing(100, "200 OK", "ETag: \"e\"\r\n", b""), error("404", "")], "Uncertain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_f1_an_upload_that_is_reported_as_done_is_not_believed() {
    // An error in the body of an answer that says 200, with and without what an answer to an upload has.
    check_create(vec![error("200 OK", "InternalError")], "Uncertain").await;
    check_create(vec![answer("200 OK", "ETag: \"e\"\r\n", b"<Error><Code>SlowDown</Code></Error>")], "Unavailable")
        .await;
    // Done, and then not there.
    let absent = || vec![stored(), answer("404 Not Found", "", b""), error("404 Not Found", "NoSuchKey")];
    check_create(absent(), "Uncertain").await;
    // Done, and then shorter.
    check_create(vec![stored(), head_of(4)], "Corrupt").await;
    // Done, and then nobody can tell.
    check_create(vec![stored(), Answer::Nothing], "Uncertain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_f5_a_creation_in_doubt_is_settled_by_reading_it_back() {
    let lost = error("500 Internal Server Error", "InternalError");
    let taken = error("412 Precondition Failed", "PreconditionFailed");
    for (there, expect) in [(&b"hello"[..], Created::New), (b"other", Created::Exists)] {
        let answers = vec![lost.clone(), taken.clone(), answer("200 OK", "ETag: \"e\"\r\n", there)];
        let (created, _) = asked(answers, async |store| {
            let store = Retrying::new(Arc::new(store), World::real(), Duration::from_secs(60));
            store.create("x", Body::from(b"hello".to_vec())).await.expect("is settled")
        })
        .await;
        assert_eq!(created, expect);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_denied_and_named() {
    let denied = || error("403 Forbidden", "AccessDenied");
    let error = create(vec![denied()]).await.expect_err("is denied");
    assert!(kind(&error) == "Denied" && error.to_string().contains("s3:PutObject"), "{error}");
    let error = read(FIRST_FIVE, vec![denied()]).await.expect_err("is denied");
    assert!(kind(&error) == "Denied" && error.to_string().contains("s3:ListBucket"), "{error}");
    check_create(vec![stub::error("400 Bad Request", "ExpiredToken")], "Denied").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_t4_a_read_that_failed_on_the_way_can_be_tried_again() {
    for range in [FIRST_FIVE, ReadRange::Whole] {
        check_read(range, vec![error("500 Internal Server Error", "InternalError")], "Unavailable").await;
        check_read(range, vec![error("503 Service Unavailable", "SlowDown")], "Unavailable").await;
        check_read(range, vec![Answer::Nothing], "Unavailable").await;
        // The connection ends before the length that was announced.
        check_read(
            range,
            vec![announcing(5, "206 Partial Content", "Content-Range: bytes 0-4/9\r\n", b"hel")],
            "Unavailable",
        )
        .await;
    }
    check_read(FIRST_FIVE, vec![error("200 OK", "InternalError")], "Unavailable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_t4_an_answer_that_does_not_fit_the_question_is_damage() {
    // Another range than asked for, a range without saying which, the whole object instead of a part.
    check_read(FIRST_FIVE, vec![part("5-9/10", b"world")], "Corrupt").await;
    check_read(FIRST_FIVE, vec![part("0-3/10", b"hell")], "Corrupt").await;
    check_read(FIRST_FIVE, vec![answer("206 Partial Content", "ETag: \"e\"\r\n", b"hello")], "Corrupt").await;
    check_read(FIRST_FIVE, vec![answer("200 OK", "ETag: \"e\"\r\n", b"hello world")], "Corrupt").await;
    // Fewer and more bytes than the range has.
    check_read(FIRST_FIVE, vec![part("0-4/10", b"hell")], "Corrupt").await;
    check_read(FIRST_FIVE, vec![part("0-4/10", b"hello!")], "Corrupt").await;
    // The object ends earlier.
    check_read(FIRST_FIVE, vec![part("0-3/4", b"hell")], "Corrupt").await;
    check_read(FIRST_FIVE, vec![error("416 Range Not Satisfiable", "InvalidRange")], "Corrupt").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn absence_is_believed_from_s3_only() {
    check_read(FIRST_FIVE, vec![error("404 Not Found", "NoSuchKey")], "NotFound").await;
    check_read(FIRST_FIVE, vec![error("404 Not Found", "NoSuchBucket")], "Invalid").await;
    check_read(FIRST_FIVE, vec![answer("404 Not Found", "", b"<html>no such page</html>")], "Invalid").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_goes_through_all_pages() {
    let page = |names: &[&str], next: Option<&str>| {
        let objects: String = names
            .iter()
            .map(|name| {
                let time = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>";
                format!("<Contents><Key>main/{name}</Key>{time}<Size>7</Size></Contents>")
            })
            .collect();
        let next = next.map(|token| format!("<NextContinuationToken>{token}</NextContinuationToken>"));
        let body = format!("<ListBucketResult>{objects}{}</ListBucketResult>", next.unwrap_or_default());
        answer("200 OK", "", body.as_bytes())
    };
    let pages = vec![page(&["keys/a", "keys/b"], Some("more")), page(&[], Some("most")), page(&["keys/c"], None)];
    let (listed, asked) = asked(pages, async |store| store.list("keys/").await.expect("lists")).await;
    assert_eq!(listed.iter().map(|object| object.name.as_str()).collect::<Vec<_>>(), ["keys/a", "keys/b", "keys/c"]);
    assert!(asked[1].contains("continuation-token=more") && asked[2].contains("continuation-token=most"), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_does_not_need_the_object_to_be_there() {
    for gone in [answer("204 No Content", "", b""), error("404 Not Found", "NoSuchKey")] {
        let (deleted, asked) = asked(vec![gone], async |store| store.delete("x").await).await;
        deleted.expect("absence is no error");
        assert!(asked[0].starts_with("DELETE /backups/main/x "), "{asked:?}");
    }
    let (deleted, _) = asked(vec![Answer::Nothing], async |store| store.delete("x").await).await;
    assert_eq!(kind(&deleted.expect_err("no answer")), "Uncertain");
}

/// Tasks without patience: every wait is over at once.
struct Impatient(Arc<dyn Tasks>);

impl Tasks for Impatient {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self.0.spawn(future);
    }
    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.blocking(work);
    }
    fn compute(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.compute(work);
    }
    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
    fn processors(&self) -> usize {
        self.0.processors()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_t4_a_server_that_says_nothing_is_given_up() {
    let real = World::real();
    let world = World { tasks: Arc::new(Impatient(real.tasks.clone())), ..real };
    // The kernel takes connections for a listener, and nobody answers.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a free port");
    let address = silent.local_addr().expect("it is bound");
    let store = store_at(world, "/main", &format!("http://{address}"));
    let error = store.create("x", Body::from(vec![1])).await.expect_err("no answer");
    assert_eq!(kind(&error), "Uncertain", "{error}");
    let error = store.read("x", ReadRange::Whole).await.expect_err("no answer");
    assert_eq!(kind(&error), "Unavailable", "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_the_variables_are_named() {
    let nobody = |name: &str| (name == "AWS_EC2_METADATA_SERVICE_ENDPOINT").then(|| "http://127.0.0.1:1".to_owned());
    let store = S3Store::new(World::real(), "s3://backups?region=eu-central-1", nobody).expect("the URL is valid");
    let error = store.read("x", ReadRange::Whole).await.expect_err("nobody asks");
    assert!(kind(&error) == "Denied" && error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_for_aws_needs_a_region() {
    let error = S3Store::new(World::real(), "s3://backups/x", variable).err().expect("is refused");
    assert!(error.to_string().contains("?region="), "{error}");
}
