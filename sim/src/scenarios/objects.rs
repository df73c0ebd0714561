//! Single objects: creation and deletion.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use asof_repository::error::Error;
use asof_repository::store::{Body, Created, ReadRange};
use async_trait::async_trait;

use crate::Prng;
use crate::crash::{Machine, Outcome, Scenario, hold};

/// Names in new and in shared directories, and lengths around the sector and the page.
const OBJECTS: [(&str, usize); 5] = [
    ("repository.json", 300),
    ("l/aa/journal/000000000001", 511),
    ("l/aa/journal/000000000002", 4096),
    ("l/aa/packs/bb-0", 9001),
    ("empty", 0),
];

fn content(writer: u64, name: &str, len: usize) -> Vec<u8> {
    Prng::new(name.len() as u64 ^ writer << 32).bytes(len)
}

/// Creates objects. One whose creation returned is there whole after everything; one whose creation did not return is
/// there whole or not at all; creation can be repeated.
pub struct Creation;

#[async_trait]
impl Scenario for Creation {
    type Context = ();
    type Ledger = BTreeSet<&'static str>;

    async fn prepare(&self, _: &Machine) -> Outcome {
        Ok(())
    }

    async fn work(&self, machine: &Machine, (): &(), ledger: &Mutex<Self::Ledger>) -> Outcome {
        for (name, len) in OBJECTS {
            // New or not: it is there now, and there is only one who creates it.
            machine.store.create(name, Body::from(content(0, name, len))).await?;
            ledger.lock().expect("no holder panics").insert(name);
        }
        Ok(())
    }

    async fn check(&self, machine: &Machine, (): &(), ledger: &Self::Ledger) -> Outcome {
        for (name, len) in OBJECTS {
            match machine.store.read(name, ReadRange::Whole).await {
                Ok(found) => {
                    let half = || format!("{name} is there with {} bytes, not as it was created", found.len());
                    hold(found == content(0, name, len), half)?;
                }
                Err(error) if error.is_not_found() => {
                    hold(!ledger.contains(name), || format!("{name} was acknowledged and is not there"))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        for listed in machine.store.list("").await? {
            let known = OBJECTS.contains(&(listed.name.as_str(), usize::try_from(listed.len).unwrap_or(usize::MAX)));
            hold(known, || format!("the listing shows {} with {} bytes", listed.name, listed.len))?;
        }
        Ok(())
    }
}

/// Two processes create the same names. Of each name one wins and says so, and the object is the winner's for ever.
pub struct Race;

/// Who won which name.
pub type Winners = BTreeMap<&'static str, Vec<u64>>;

impl Race {
    async fn create(writer: u64, machine: &Machine, ledger: &Mutex<Winners>) -> Outcome {
        for (name, len) in OBJECTS {
            let created = machine.store.create(name, Body::from(content(writer, name, len))).await?;
            let mut ledger = ledger.lock().expect("no holder panics");
            let winners = ledger.entry(name).or_default();
            if created == Created::New {
                winners.push(writer);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Scenario for Race {
    type Context = ();
    type Ledger = Winners;

    async fn prepare(&self, _: &Machine) -> Outcome {
        Ok(())
    }

    async fn work(&self, machine: &Machine, (): &(), ledger: &Mutex<Self::Ledger>) -> Outcome {
        Self::create(1, machine, ledger).await
    }

    async fn rival(&self, machine: &Machine, (): &(), ledger: &Mutex<Self::Ledger>) -> Outcome {
        Self::create(2, machine, ledger).await
    }

    async fn check(&self, machine: &Machine, (): &(), ledger: &Self::Ledger) -> Outcome {
        for (name, winners) in ledger {
            let [winner] = winners[..] else {
                return hold(false, || format!("{name} was won by {winners:?}"));
            };
            let len = OBJECTS.iter().find(|object| object.0 == *name).expect("only these are created").1;
            let found = machine.store.read(name, ReadRange::Whole).await?;
            hold(found == content(winner, name, len), || format!("{name} is not the object of its winner {winner}"))?;
        }
        Ok(())
    }
}

/// Deletes objects. One whose deletion returned does not come back; the others are whole or gone.
pub struct Deletion;

#[async_trait]
impl Scenario for Deletion {
    type Context = ();
    type Ledger = BTreeSet<&'static str>;

    async fn prepare(&self, machine: &Machine) -> Outcome {
        Creation.work(machine, &(), &Mutex::default()).await
    }

    async fn work(&self, machine: &Machine, (): &(), ledger: &Mutex<Self::Ledger>) -> Outcome {
        for (name, _) in &OBJECTS[1..] {
            machine.store.delete(name).await?;
            ledger.lock().expect("no holder panics").insert(name);
        }
        Ok(())
    }

    async fn check(&self, machine: &Machine, (): &(), ledger: &Self::Ledger) -> Outcome {
        Creation.check(machine, &(), &BTreeSet::from(["repository.json"])).await?;
        for name in ledger {
            let gone = machine.store.read(name, ReadRange::Whole).await.is_err_and(|error| error.is_not_found());
            hold(gone, || format!("{name} was deleted and came back"))?;
        }
        Ok(())
    }
}

/// The only creator of its objects, who makes new bytes for every try, as every writer of ours does. What it is told has to
/// be true: *new* is its own object, *exists* is that of an earlier try, *not done* is not there.
pub struct Truth;

/// What the creator tried for one name, and what it was told.
#[derive(Clone, Default)]
pub struct Told {
    tried: Vec<Vec<u8>>,
    new: Vec<Vec<u8>>,
    not_done: Vec<Vec<u8>>,
}

#[async_trait]
impl Scenario for Truth {
    type Context = ();
    type Ledger = BTreeMap<&'static str, Told>;

    async fn prepare(&self, _: &Machine) -> Outcome {
        Ok(())
    }

    async fn work(&self, machine: &Machine, (): &(), ledger: &Mutex<Self::Ledger>) -> Outcome {
        for (name, _) in &OBJECTS[..3] {
            let bytes = machine.world.random_bytes::<700>().to_vec();
            let tries = {
                let mut ledger = ledger.lock().expect("no holder panics");
                let told = ledger.entry(name).or_default();
                told.tried.push(bytes.clone());
                told.tried.len()
            };
            let created = machine.store.create(name, Body::from(bytes.clone())).await;
            let mut ledger = ledger.lock().expect("no holder panics");
            let told = ledger.entry(name).or_default();
            match created {
                Ok(Created::New) => told.new.push(bytes),
                Ok(Created::Exists) => {
                    hold(tries > 1, || format!("the only creator of {name} was told that somebody else was faster"))?;
                }
                Err(error) => {
                    if !matches!(error, Error::Uncertain { .. }) {
                        told.not_done.push(bytes);
                    }
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    async fn check(&self, machine: &Machine, (): &(), ledger: &Self::Ledger) -> Outcome {
        for (name, told) in ledger {
            match machine.store.read(name, ReadRange::Whole).await {
                Ok(found) => {
                    let found = found.to_vec();
                    hold(told.tried.contains(&found), || format!("{name} is not what anybody created"))?;
                    hold(!told.not_done.contains(&found), || format!("{name} is there and was said not to be done"))?;
                    let ours = told.new.iter().all(|new| *new == found);
                    hold(ours, || format!("{name} is another object than the one that was new"))?;
                }
                Err(error) if error.is_not_found() => {
                    hold(told.new.is_empty(), || format!("{name} was new and is not there"))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
