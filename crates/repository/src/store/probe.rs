//! Whether a store keeps the contract, found out by trying it: format.md, "Stores".
//!
//! Some servers that speak S3 answer 200 to a creation whose name is taken and overwrite the object; others check first
//! and write afterwards, so that two creators win; one honours the condition until the bucket gets versions. None of
//! them says so. So the very bucket and prefix are tried, with objects `probe/<random id>-…` that nothing refers to and
//! that are removed afterwards. A store that fails at reading or writing is an error; one without create-if-absent can
//! be used by a single writer, if the operator vouches for that.

use asof_world::World;
use futures::future::join_all;

use super::{Body, Created, ReadRange, Store};
use crate::error::{Error, Result};

/// How many creations of one name compete in a round.
const CREATORS: usize = 8;
/// How often they compete: a store that checks first and writes later may be lucky once.
const ROUNDS: usize = 3;
/// Length of an object of the probe: long enough for ranges, short enough to be no cost.
const LEN: usize = 1000;

/// What a store can do, besides what every store must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Why names are not safe from being taken twice; `None` when they are.
    pub overwrites: Option<String>,
    /// Whether a listing showed the new objects at once, and no more than is there.
    pub lists_at_once: bool,
    /// Why objects of the probe are still there; `None` when all were removed.
    pub left_behind: Option<String>,
}

impl Capabilities {
    /// Refuses a store without create-if-absent, unless the operator vouched for a single writer.
    ///
    /// # Errors
    /// [`Error::Invalid`], with what was seen.
    pub fn require(&self, place: &str, single_writer: bool) -> Result<()> {
        match &self.overwrites {
            Some(how) if !single_writer && !asof_world::planted("f5") => Err(Error::invalid(format!(
                "{place} does not protect what is stored: {how}. Two asofs that write to it would destroy each other's work"
            ))),
            _ => Ok(()),
        }
    }
}

/// Tries a store in the place where it is to be used.
///
/// # Errors
/// What the store answered, or [`Error::Corrupt`] when it does not give back what it was given.
pub async fn probe(store: &dyn Store, world: &World) -> Result<Capabilities> {
    let mut probe = Probe { store, world, prefix: format!("probe/{}", world.id()), made: Vec::new() };
    let tried = probe.try_everything().await;
    let left_behind = probe.clean_up().await;
    let (overwrites, lists_at_once) = tried?;
    Ok(Capabilities { overwrites, lists_at_once, left_behind })
}

struct Probe<'a> {
    store: &'a dyn Store,
    world: &'a World,
    prefix: String,
    made: Vec<String>,
}

impl Probe<'_> {
    async fn try_everything(&mut self) -> Result<(Option<String>, bool)> {
        let (name, bytes) = (self.name("once"), self.bytes());
        if self.store.create(&name, bytes.clone().into()).await? != Created::New {
            return Err(Error::corrupt(&name, "the store says that a random name is taken"));
        }
        self.reads_back(&name, &bytes).await?;
        let lists_at_once = self.is_listed(&name).await?;
        let overwrites = match self.second_creation(&name, &bytes).await? {
            None => self.races().await?,
            overwritten => overwritten,
        };
        Ok((overwrites, lists_at_once))
    }

    fn name(&mut self, what: &str) -> String {
        let name = format!("{}-{what}", self.prefix);
        self.made.push(name.clone());
        name
    }

    fn bytes(&self) -> Vec<u8> {
        self.world.random_bytes::<LEN>().to_vec()
    }

    async fn reads_back(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let len = LEN as u64;
        for (range, expect) in [
            (ReadRange::Whole, bytes),
            (ReadRange::Part { offset: 0, len: 1 }, &bytes[..1]),
            (ReadRange::Part { offset: 17, len: 300 }, &bytes[17..317]),
            (ReadRange::Part { offset: len - 1, len: 1 }, &bytes[LEN - 1..]),
            (ReadRange::Last { len: 100 }, &bytes[LEN - 100..]),
            (ReadRange::Last { len: len + 1 }, bytes),
        ] {
            let read = self.store.read(name, range).await.map_err(|error| still_there(name, error))?;
            if read != expect {
                return Err(Error::corrupt(name, format!("{range:?} gives other bytes than were stored")));
            }
        }
        match self.store.read(name, ReadRange::Part { offset: len - 1, len: 2 }).await {
            Err(error @ (Error::Unavailable { .. } | Error::Denied { .. })) => Err(error),
            Err(_) => Ok(()),
            Ok(_) => Err(Error::corrupt(name, "the store gives bytes that lie behind its end")),
        }
    }

    async fn is_listed(&self, name: &str) -> Result<bool> {
        let listed = self.store.list(&self.prefix).await?;
        Ok(listed.len() == 1 && listed[0].name == name && listed[0].len == LEN as u64)
    }

    /// How a name that is taken was taken again, if it was.
    async fn second_creation(&self, name: &str, bytes: &[u8]) -> Result<Option<String>> {
        let created = self.store.create(name, self.bytes().into()).await?;
        let kept = self.store.read(name, ReadRange::Whole).await? == bytes;
        Ok(match (created, kept) {
            (Created::Exists, true) => None,
            (Created::New, false) => Some("a second creation of the same object replaced the first".to_owned()),
            (Created::New, true) => Some("a second creation of the same object was reported as done".to_owned()),
            (Created::Exists, false) => Some("a creation that was refused changed the object".to_owned()),
        })
    }

    async fn races(&mut self) -> Result<Option<String>> {
        for round in 0..ROUNDS {
            let name = self.name(&format!("race-{round}"));
            if let Some(lost) = self.race(&name).await? {
                return Ok(Some(lost));
            }
        }
        Ok(None)
    }

    async fn race(&self, name: &str) -> Result<Option<String>> {
        let bodies: Vec<Vec<u8>> = (0..CREATORS).map(|_| self.bytes()).collect();
        let creations = bodies.iter().map(|bytes| self.store.create(name, Body::from(bytes.clone())));
        let created = join_all(creations).await.into_iter().collect::<Result<Vec<Created>>>()?;
        let winners: Vec<&Vec<u8>> = bodies
            .iter()
            .zip(&created)
            .filter(|(_, created)| **created == Created::New)
            .map(|(bytes, _)| bytes)
            .collect();
        let found = self.store.read(name, ReadRange::Whole).await.map_err(|error| still_there(name, error))?;
        Ok(match winners[..] {
            [winner] if found == *winner => None,
            [_] => Some(format!("of {CREATORS} creations at once, one was reported as done and another is there")),
            _ => Some(format!("of {CREATORS} creations at once, {} were reported as done", winners.len())),
        })
    }

    /// Removes what was made; a credential that may only create leaves it there.
    async fn clean_up(&self) -> Option<String> {
        let mut left = None;
        for name in &self.made {
            if let Err(error) = self.store.delete(name).await {
                left = Some(format!("{} small objects stay below {}: {error}", self.made.len(), self.prefix));
            }
        }
        left
    }
}

/// What was just created and is not found: the store is of no use, and asking again would hide that.
fn still_there(name: &str, error: Error) -> Error {
    match error {
        Error::NotFound { .. } => Error::corrupt(name, "it was just created, and the store does not find it"),
        other => other,
    }
}
