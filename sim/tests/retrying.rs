//! The retry loop against directed misbehaviour.

use std::sync::Arc;
use std::time::Duration;

use asof_repository::error::Error;
use asof_repository::store::{Body, Created, Retrying, Store};
use asof_sim::{Answer, Counts, MemoryStore, Simulation};
use asof_world::World;

/// Runs a scenario with a store that asks again for a minute, and the connection beneath it.
fn with_retrying<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    scenario: impl FnOnce(World, Retrying, MemoryStore) -> F,
) -> T {
    Simulation::new(1).run(|world| {
        let connection = MemoryStore::new(&world, 1);
        let retrying = Retrying::new(Arc::new(connection.clone()), world.clone(), Duration::from_secs(60));
        scenario(world, retrying, connection)
    })
}

fn body(text: &str) -> Body {
    Body::from(text.as_bytes().to_vec())
}

#[test]
fn a_creation_whose_answer_was_lost_is_new_when_the_bytes_are_ours() {
    for answer in [Answer::LostDone, Answer::LostUndone, Answer::LostDoneLater(Duration::from_millis(50))] {
        with_retrying(async move |_: World, store: Retrying, connection: MemoryStore| {
            connection.fail_at(0, answer);
            assert_eq!(store.create("a", body("ours")).await.expect("is settled"), Created::New, "{answer:?}");
        });
    }
}

#[test]
fn a_creation_whose_answer_was_lost_exists_when_the_bytes_are_anothers() {
    with_retrying(async |world: World, store: Retrying, connection: MemoryStore| {
        connection.client(&world, 2).create("a", body("theirs")).await.expect("creates");
        connection.fail_at(0, Answer::LostUndone);
        assert_eq!(store.create("a", body("ours")).await.expect("is settled"), Created::Exists);
    });
}

#[test]
fn a_good_connection_is_asked_once() {
    with_retrying(async |_: World, store: Retrying, connection: MemoryStore| {
        store.create("a", body("x")).await.expect("creates");
        assert_eq!(connection.take_counts(), Counts { creates: 1, bytes_created: 1, ..Counts::default() });
    });
}

#[test]
fn patience_ends() {
    let waited = with_retrying(async |world: World, store: Retrying, connection: MemoryStore| {
        connection.set_partitioned(true);
        assert!(matches!(store.create("a", body("x")).await, Err(Error::Unavailable { .. })));
        world.monotonic()
    });
    assert!(waited > Duration::from_secs(50) && waited <= Duration::from_secs(61), "{waited:?}");
}

#[test]
fn a_creation_that_may_have_happened_stays_unknown_when_the_store_goes_away() {
    with_retrying(async |world: World, store: Retrying, connection: MemoryStore| {
        connection.fail_at(0, Answer::LostDone);
        connection.stop_at(1);
        let error = store.create("a", body("x")).await.expect_err("is not settled");
        assert!(connection.client(&world, 2).read("a", asof_repository::store::ReadRange::Whole).await.is_ok());
        assert!(matches!(error, Error::Uncertain { .. }), "{error}");
    });
}
