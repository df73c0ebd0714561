//! Every store against the contract.

use std::sync::Arc;
use std::time::Duration;

use asof_repository::store::local::LocalStore;
use asof_repository::store::{Retrying, Store};
use asof_sim::conformance::{a_prefix_is_not_an_object, store_keeps_its_contract};
use asof_sim::{Faults, MemoryStore, Simulation};
use asof_world::World;

/// Runs a check against a store in simulation.
fn simulated<F>(seed: u64, store: impl FnOnce(&World) -> Arc<dyn Store>, check: impl FnOnce(Arc<dyn Store>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    Simulation::new(seed).run(|world| check(store(&world)));
}

fn real_directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the test")
}

#[test]
fn a_store_in_memory_keeps_the_contract() {
    simulated(1, |world| Arc::new(MemoryStore::new(world, 1)), store_keeps_its_contract);
    simulated(1, |world| Arc::new(MemoryStore::new(world, 1)), a_prefix_is_not_an_object);
}

#[test]
fn a_local_store_on_the_simulated_disk_keeps_the_contract() {
    simulated(2, |world| Arc::new(LocalStore::new(world.clone(), "/srv/asof/main")), store_keeps_its_contract);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_store_on_the_real_file_system_keeps_the_contract() {
    let dir = real_directory();
    store_keeps_its_contract(Arc::new(LocalStore::new(World::real(), dir.path().join("deep/main")))).await;
}

#[test]
fn asking_again_makes_a_bad_connection_keep_the_contract() {
    for seed in 0..5 {
        simulated(seed, |world| Arc::new(retrying(world, seed)), store_keeps_its_contract);
    }
}

fn retrying(world: &World, seed: u64) -> Retrying {
    let store = MemoryStore::new(world, seed);
    store.set_faults(Faults { unavailable: 200, uncertain: 200, slowest: Duration::from_secs(1), ..Faults::default() });
    Retrying::new(Arc::new(store), world.clone(), Duration::from_secs(3600))
}

#[test]
#[should_panic(expected = "a taken name")]
fn a_store_that_ignores_create_if_absent_fails_the_contract() {
    simulated(3, |world| Arc::new(MemoryStore::ignoring_create_if_absent(world)), store_keeps_its_contract);
}

#[test]
fn a_local_store_does_not_take_a_directory_for_an_object() {
    simulated(4, |world| Arc::new(LocalStore::new(world.clone(), "/srv/asof/main")), a_prefix_is_not_an_object);
}
