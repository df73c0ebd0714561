//! WAL: pieces of an open segment, then the whole segment. Whatever was acknowledged can be read, from the first position
//! on without a hole, and is what was received.

use std::sync::Mutex;

use asof_repository::codec::Encoder;
use asof_repository::error::Error;
use asof_repository::names::{Name, WalPosition};
use asof_repository::object;
use asof_repository::wal::{WalInfo, read_history, read_wal, read_wal_index, write_history, write_wal};
use async_trait::async_trait;

use super::journal::{Counts, Registered};
use crate::Prng;
use crate::crash::{Machine, Outcome, Scenario, hold};

const SEGMENT: u64 = 8192;
/// Where pieces end; every second one ends a segment.
const PIECES: [u64; 4] = [3000, SEGMENT, SEGMENT + 100, 2 * SEGMENT];
const TIMELINE: u32 = 1;
const HISTORY: &[u8] = b"1\t0/2000\tno recovery target specified\n";

/// All of the WAL there is.
fn stream() -> Vec<u8> {
    Prng::new(7).bytes(2 * 8192)
}

/// A receiver: stores pieces as they come, whole segments when they are full, and acknowledges positions. A new one finds
/// out what is stored and goes on behind it.
pub struct Receiver(pub Counts);

#[async_trait]
impl Scenario for Receiver {
    type Context = Registered;
    /// The acknowledged position.
    type Ledger = u64;

    async fn prepare(&self, machine: &Machine) -> Outcome<Registered> {
        Registered::prepare(machine).await
    }

    async fn work(&self, machine: &Machine, registered: &Registered, ledger: &Mutex<u64>) -> Outcome {
        let Registered { keyring, lineage, .. } = registered;
        let mut position = stored_end(machine, registered).await?;
        if self.0 == Counts::Read {
            acknowledge(ledger, position);
        }
        for end in PIECES {
            if end > position {
                store(machine, registered, false, position, end).await?;
                position = end;
                acknowledge(ledger, position);
            }
            if end.is_multiple_of(SEGMENT) {
                store(machine, registered, true, end - SEGMENT, end).await?;
            }
        }
        let history = write_history(&machine.world, keyring, *lineage, TIMELINE + 1, HISTORY);
        settle(object::create(machine.store.as_ref(), &history).await)
    }

    async fn check(&self, machine: &Machine, registered: &Registered, ledger: &u64) -> Outcome {
        let end = stored_end(machine, registered).await?;
        hold(end >= *ledger, || format!("WAL was acknowledged up to {ledger} and is stored up to {end}"))?;
        let Registered { keyring, signers, lineage } = registered;
        match read_history(machine.store.as_ref(), keyring, signers, *lineage, TIMELINE + 1).await {
            Ok(content) => hold(content == HISTORY, || "the history is another one".to_owned()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn acknowledge(ledger: &Mutex<u64>, position: u64) {
    let mut ledger = ledger.lock().expect("no holder panics");
    *ledger = (*ledger).max(position);
}

fn name(registered: &Registered, segment: bool, start: u64) -> Name {
    let at = WalPosition { lineage: registered.lineage, timeline: TIMELINE, start };
    if segment { Name::WalSegment(at) } else { Name::WalChunk(at) }
}

async fn store(machine: &Machine, registered: &Registered, segment: bool, start: u64, end: u64) -> Outcome {
    let info = WalInfo { system_identifier: 1, segment_size: SEGMENT, end, ..WalInfo::default() };
    let plain = &stream()[usize::try_from(start).expect("short")..usize::try_from(end).expect("short")];
    let name = name(registered, segment, start);
    let object = write_wal(&machine.world, &registered.keyring, name, &info, plain, &mut Encoder::new(1));
    settle(object::create(machine.store.as_ref(), &object).await)
}

/// Somebody was faster with the same bytes: an earlier process of ours.
fn settle(created: Result<(), Error>) -> Outcome {
    match created {
        Err(Error::Conflict { .. }) => Ok(()),
        other => Ok(other?),
    }
}

/// How far WAL is stored without a hole, found by following the ends; every byte of it is read and compared.
async fn stored_end(machine: &Machine, registered: &Registered) -> Outcome<u64> {
    let mut position = 0;
    loop {
        let segment = position - position % SEGMENT;
        let whole = read(machine, registered, name(registered, true, segment), segment).await?;
        let next = match whole {
            Some(end) if end > position => Some(end),
            _ => read(machine, registered, name(registered, false, position), position).await?,
        };
        match next {
            Some(end) => position = end,
            None => return Ok(position),
        }
    }
}

/// Reads one object of WAL, which has to be what was received; its end, or `None` when there is none.
async fn read(machine: &Machine, registered: &Registered, name: Name, start: u64) -> Outcome<Option<u64>> {
    let (store, Registered { keyring, signers, .. }) = (machine.store.as_ref(), registered);
    match read_wal(store, keyring, signers, name).await {
        Ok((wal, plain)) => {
            let start = usize::try_from(start).expect("short");
            let same = stream().get(start..start + plain.len()) == Some(&plain);
            hold(same, || format!("{name} holds other WAL than was received"))?;
            let index = read_wal_index(store, keyring, signers, name).await?.index;
            hold(index == wal.index, || format!("{name} says something else when only its end is read"))?;
            Ok(Some(wal.index.info.end))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
