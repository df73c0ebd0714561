//! The store answers well until it is told otherwise, and then in exactly the ways it was told.

use super::*;
use crate::Simulation;

fn body(text: &str) -> Body {
    Body::from(text.as_bytes().to_vec())
}

/// Runs a scenario with a store in memory.
fn with_store<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    seed: u64,
    scenario: impl FnOnce(World, MemoryStore) -> F,
) -> T {
    Simulation::new(seed).run(|world| {
        let store = MemoryStore::new(&world, seed);
        scenario(world, store)
    })
}

#[test]
fn a_lost_answer_leaves_the_call_undone_done_or_done_later() {
    let later = Duration::from_secs(10);
    for (answer, at_once, in_the_end) in [
        (Answer::LostUndone, false, false),
        (Answer::LostDone, true, true),
        (Answer::LostDoneLater(later), false, true),
        (Answer::Unavailable, false, false),
    ] {
        with_store(1, async move |world: World, store: MemoryStore| {
            store.fail_at(0, answer);
            let error = store.create("a", body("x")).await.expect_err("is not answered");
            assert_eq!(matches!(error, Error::Uncertain { .. }), answer != Answer::Unavailable);
            assert_eq!(store.bytes("a").is_some(), at_once, "{answer:?}");
            world.sleep(2 * later).await;
            assert_eq!(store.bytes("a").is_some(), in_the_end, "{answer:?}");
        });
    }
}

#[test]
fn a_partition_cuts_one_client_and_not_the_other() {
    with_store(1, async |world: World, store: MemoryStore| {
        let other = store.client(&world, 2);
        store.set_partitioned(true);
        store.create("a", body("x")).await.expect_err("is cut off");
        assert_eq!(other.create("a", body("y")).await.expect("creates"), Created::New);
        store.set_partitioned(false);
        assert_eq!(store.create("a", body("x")).await.expect("is asked"), Created::Exists);
    });
}

#[test]
fn listings_lag_and_lose_and_reads_do_not() {
    with_store(1, async |world: World, store: MemoryStore| {
        store.set_faults(Faults { list_lags: Duration::from_secs(60), ..Faults::default() });
        for number in 0..100 {
            store.create(&format!("n/{number}"), body("x")).await.expect("creates");
        }
        assert_eq!(store.list("n/").await.expect("lists"), []);
        assert_eq!(store.read("n/7", ReadRange::Whole).await.expect("reads"), "x");
        world.sleep(Duration::from_secs(61)).await;
        assert_eq!(store.list("n/").await.expect("lists").len(), 100);
        store.set_faults(Faults { list_loses: 500, ..Faults::default() });
        let listed = store.list("n/").await.expect("lists").len();
        assert!((20..80).contains(&listed), "{listed}");
    });
}

#[test]
fn calls_are_counted_by_kind_and_bytes() {
    with_store(1, async |_, store: MemoryStore| {
        store.create("a/b", body("12345")).await.expect("creates");
        store.read("a/b", ReadRange::Part { offset: 1, len: 2 }).await.expect("reads");
        let counts = store.take_counts();
        assert_eq!(counts, Counts { creates: 1, reads: 1, bytes_created: 5, bytes_read: 2, ..Counts::default() });
        assert_eq!(store.take_counts(), Counts::default());
        assert_eq!(store.calls(), ["create a/b", "read a/b"]);
    });
}

#[test]
fn a_store_that_ignores_create_if_absent_is_seen_to_change_objects() {
    with_store(1, async |world: World, good: MemoryStore| {
        let bad = MemoryStore::ignoring_create_if_absent(&world);
        for (store, second, changed) in [(&good, Created::Exists, vec![]), (&bad, Created::New, vec!["a".to_owned()])] {
            assert_eq!(store.create("a", body("one")).await.expect("creates"), Created::New);
            assert_eq!(store.create("a", body("two")).await.expect("answers"), second);
            assert_eq!(store.changed(), changed);
        }
    });
}

#[test]
fn a_slow_store_takes_virtual_time() {
    let passed = with_store(1, async |world: World, store: MemoryStore| {
        store.set_faults(Faults { slowest: Duration::from_secs(10), ..Faults::default() });
        for _ in 0..10 {
            store.list("").await.expect("lists");
        }
        world.monotonic()
    });
    assert!(passed > Duration::from_secs(10) && passed < Duration::from_secs(100), "{passed:?}");
}

#[test]
fn rates_are_kept_over_many_calls() {
    with_store(5, async |_, store: MemoryStore| {
        store.set_faults(Faults { unavailable: 100, uncertain: 100, ..Faults::default() });
        let (mut refused, mut lost) = (0, 0);
        for number in 0..2000 {
            match store.create(&number.to_string(), body("x")).await {
                Err(Error::Unavailable { .. }) => refused += 1,
                Err(Error::Uncertain { .. }) => lost += 1,
                other => assert_eq!(other.expect("creates"), Created::New),
            }
        }
        assert!((140..260).contains(&refused) && (120..240).contains(&lost), "{refused} refused, {lost} lost");
    });
}
