//! What the server's clock said while it wrote nothing. Format.md, "WAL".
//!
//! An instance that writes nothing has no new WAL to carry an observation, and its latest restorable time has to move on all the
//! same. So an observation may be stored by itself: under the position at which the stored WAL ends, numbered from 0 without
//! holes. The last is found by asking for numbers, twice as far each time and then by halves.

use asof_world::World;

use super::{Observation, put_pair, take_pair};
use crate::codec::Encoder;
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::keyring::{Keyring, Signers};
use crate::names::{Name, WalPosition};
use crate::object::{self, Finished, Kind, ObjectWriter};
use crate::store::Store;

/// An observation is 17 bytes; this reads it and everything around it.
const GUESS: u64 = 1 << 10;

/// Builds the object of observation `number` at `at`, the position at which the stored WAL ends.
pub fn write_observation(
    world: &World,
    keyring: &Keyring,
    at: WalPosition,
    number: u32,
    observation: &Observation,
) -> Finished {
    assert!(observation.flushed <= at.start, "an observation is proven by the WAL before it");
    let object = ObjectWriter::new(world, keyring, Name::Observed(at, number), Kind::Observation, false, 1024);
    let mut index = Vec::new();
    put_pair(&mut index, Some((observation.time, observation.flushed)));
    object.finish(keyring, &index, &mut Encoder::new(1))
}

/// Reads observation `number` at `at`.
pub async fn read_observation(
    store: &dyn Store,
    keyring: &Keyring,
    signers: &Signers,
    at: WalPosition,
    number: u32,
) -> Result<Observation> {
    let name = Name::Observed(at, number);
    let opened = object::read_index(store, keyring, signers, name, Kind::Observation, GUESS).await?;
    let mut cursor = Cursor::new(&opened.index);
    let pair = take_pair(&mut cursor).and_then(|pair| cursor.end().map(|()| pair));
    let (time, flushed) = pair.ok().flatten().ok_or_else(|| Error::corrupt(name, "it is no observation"))?;
    if flushed > at.start {
        return Err(Error::corrupt(name, "it is not proven by the WAL before it"));
    }
    Ok(Observation { time, flushed })
}

/// The last observation at `at` and its number; `None` when there is none.
pub async fn last_observation(
    store: &dyn Store,
    keyring: &Keyring,
    signers: &Signers,
    at: WalPosition,
) -> Result<Option<(u32, Observation)>> {
    let (mut there, mut absent) = (None, 0u32);
    while exists(store, at, absent).await? {
        there = Some(absent);
        absent = absent * 2 + 1;
    }
    let Some(mut there) = there else { return Ok(None) };
    while absent - there > 1 {
        let middle = there + (absent - there) / 2;
        if exists(store, at, middle).await? {
            there = middle;
        } else {
            absent = middle;
        }
    }
    Ok(Some((there, read_observation(store, keyring, signers, at, there).await?)))
}

async fn exists(store: &dyn Store, at: WalPosition, number: u32) -> Result<bool> {
    match store.len(&Name::Observed(at, number).to_string()).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
