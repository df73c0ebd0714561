//! Outages: what can happen to work on an object store.
//!
//! At every call the process stops, or the answer goes wrong in each way: refused, lost with nothing done, lost with all
//! done, lost and done when nobody waits for it any more. The caller goes on as it does after an error; then a new process
//! finishes the work, twice, with enough time between for what is late to arrive.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use asof_world::World;

use super::{
    Finding, Machine, Outcome, Scenario, Settings, Stop, Tried, finding, guarded, hold, patient, snapshot, tolerate,
};
use crate::{Answer, MemoryStore, Simulation};

/// What happens to a process at one of its calls to an object store.
#[derive(Clone, Copy, Debug)]
enum Outage {
    Stopped,
    Answered(Answer),
}

/// Later than any request that was given up is done.
const LATE: Duration = Duration::from_secs(20);

const OUTAGES: [Outage; 5] = [
    Outage::Stopped,
    Outage::Answered(Answer::Unavailable),
    Outage::Answered(Answer::LostUndone),
    Outage::Answered(Answer::LostDone),
    Outage::Answered(Answer::LostDoneLater(LATE)),
];

/// Enumerates what can happen to work on an object store: at every call the process stops, or the answer goes wrong in
/// each way; in either case once with the caller going on, and then a new process finishes the work.
///
/// # Errors
/// The first thing that does not hold.
pub fn enumerate_outages<S: Scenario>(settings: &Settings, scenario: S) -> Result<Tried, Box<Finding>> {
    let scenario = Arc::new(scenario);
    let mut tried = Tried::default();
    let calls = outage(settings, &scenario, None)
        .map_err(|(stop, calls)| finding(settings.seed, "nothing happened", &calls, &stop))?;
    tried.calls = calls.len();
    for number in settings.tried(calls.len().saturating_sub(1)) {
        for happens in OUTAGES {
            tried.points += 1;
            tried.restarts += 1;
            let result = outage(settings, &scenario, Some((number, happens)));
            result.map_err(|(stop, calls)| {
                finding(settings.seed, &format!("call {number}: {happens:?}"), &calls, &stop)
            })?;
        }
    }
    Ok(tried)
}

/// One run: the first process meets the outage, the second finishes. The calls are those of the first.
fn outage<S: Scenario>(
    settings: &Settings,
    scenario: &Arc<S>,
    happens: Option<(usize, Outage)>,
) -> Result<Vec<String>, (Stop, Vec<String>)> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (scenario, settings, seen) = (scenario.clone(), settings.clone(), calls.clone());
    let outcome = guarded(|| {
        Simulation::new(settings.seed)
            .run(|world| async move { through_outage(&world, &settings, scenario.as_ref(), happens, &seen).await })
    });
    let calls = snapshot(&calls);
    outcome.map(|()| calls.clone()).map_err(|stop| (stop, calls))
}

async fn through_outage<S: Scenario>(
    world: &World,
    settings: &Settings,
    scenario: &S,
    happens: Option<(usize, Outage)>,
    calls: &Mutex<Vec<String>>,
) -> Outcome {
    let objects = MemoryStore::new(world, settings.seed);
    let connect = |connection: &MemoryStore| Machine {
        world: world.clone(),
        store: patient(settings, Arc::new(connection.clone()), world),
    };
    let context = scenario.prepare(&connect(&objects)).await?;
    let (first, second) = (objects.client(world, 1), objects.client(world, 2));
    match happens {
        Some((number, Outage::Stopped)) => first.stop_at(number),
        Some((number, Outage::Answered(answer))) => first.fail_at(number, answer),
        None => {}
    }
    let ledger = Mutex::new(S::Ledger::default());
    let outcome = scenario.work(&connect(&first), &context, &ledger).await;
    *calls.lock().expect("no holder panics") = first.calls();
    if happens.is_some() {
        tolerate(outcome)?;
    } else {
        outcome?;
    }
    let machine = connect(&second);
    for when in ["at once", "once more"] {
        let broken = |stop: Stop| Stop::Broken(format!("{when}: {stop}"));
        scenario.check(&machine, &context, &snapshot(&ledger)).await.map_err(broken)?;
        scenario.work(&machine, &context, &ledger).await.map_err(broken)?;
        scenario.check(&machine, &context, &snapshot(&ledger)).await.map_err(broken)?;
        world.sleep(2 * LATE).await;
    }
    scenario.check(&machine, &context, &snapshot(&ledger)).await?;
    let changed = objects.changed();
    hold(changed.is_empty(), || format!("objects changed after they were created: {}", changed.join(", ")))
}
