//! WAL on its way through a spool: whatever was acknowledged is in the spool or in the repository, without a hole, and is what
//! was received.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asof_engine::wal::spool::{Next, Spool};
use asof_postgres::lsn::{Lsn, Timeline};
use asof_repository::error::Error;
use asof_repository::store::{Body, ReadRange};
use async_trait::async_trait;

use crate::Prng;
use crate::crash::{Machine, Outcome, Scenario, Stop, hold};

const SEGMENT: u64 = 8192;
/// Where the spool is synced; two of them end a segment.
const SYNCED: [u64; 5] = [3000, 7000, SEGMENT, SEGMENT + 100, 2 * SEGMENT];
const DIRECTORY: &str = "/srv/spool/of/this";
const TIMELINE: Timeline = Timeline(1);

/// All of the WAL there is.
fn stream() -> Vec<u8> {
    Prng::new(11).bytes(2 * 8192)
}

fn of_stream(from: u64, to: u64) -> Vec<u8> {
    let at = |position| usize::try_from(position).expect("short");
    stream()[at(from)..at(to)].to_vec()
}

/// Where WAL lies, and up to where.
type Stretches = BTreeMap<u64, u64>;

/// A receiver with a spool: brings what is left in it into the store, goes on where the store ends, acknowledges what the
/// spool has synced, and brings each segment into the store when it is full.
pub struct Spooled;

#[async_trait]
impl Scenario for Spooled {
    type Context = ();
    /// The acknowledged position.
    type Ledger = u64;

    async fn prepare(&self, _: &Machine) -> Outcome {
        Ok(())
    }

    async fn work(&self, machine: &Machine, (): &(), ledger: &Mutex<u64>) -> Outcome {
        let spool = open(machine).await?;
        forward(machine, &spool).await?;
        let end = end_of(&stored(machine).await?);
        let start = end / SEGMENT * SEGMENT;
        let mut writer = spool.begin(TIMELINE, Lsn(start), SEGMENT);
        for synced in SYNCED.into_iter().filter(|synced| *synced > end) {
            let from = writer.received();
            writer.take(from, &of_stream(from.0, synced)).await.map_err(failed)?;
            acknowledge(ledger, writer.durable());
            writer.flush().await.map_err(failed)?;
            acknowledge(ledger, writer.durable());
        }
        drop(writer);
        forward(machine, &spool).await
    }

    async fn check(&self, machine: &Machine, (): &(), ledger: &u64) -> Outcome {
        let mut there = stored(machine).await?;
        let spool = open(machine).await?;
        for (from, bytes) in read(&spool).await? {
            let to = from + bytes.len() as u64;
            hold(bytes == of_stream(from, to), || format!("the spool holds other WAL at {from}"))?;
            there.entry(from).and_modify(|end| *end = to.max(*end)).or_insert(to);
        }
        let end = end_of(&there);
        hold(end >= *ledger, || format!("WAL was acknowledged up to {ledger} and is there up to {end}"))
    }
}

fn acknowledge(ledger: &Mutex<u64>, position: Lsn) {
    let mut ledger = ledger.lock().expect("no holder panics");
    *ledger = (*ledger).max(position.0);
}

async fn open(machine: &Machine) -> Outcome<Arc<Spool>> {
    Spool::open(&machine.world, PathBuf::from(DIRECTORY), Duration::ZERO).await.map_err(failed)
}

fn failed(error: asof_engine::error::Error) -> Stop {
    Stop::Failed(Error::Unavailable { operation: "use", object: DIRECTORY.to_owned(), source: Box::new(error) })
}

/// How far there is no hole.
fn end_of(there: &Stretches) -> u64 {
    there.iter().fold(0, |end, (from, to)| if *from <= end { end.max(*to) } else { end })
}

/// Everything in the spool, frame by frame, and then nothing: as the forwarding half of a receiver does it.
async fn forward(machine: &Machine, spool: &Arc<Spool>) -> Outcome {
    while let Some(mut file) = spool.oldest() {
        let (mut offset, mut at) = (0, file.start);
        loop {
            match spool.next(file, offset, at).await.map_err(failed)? {
                Next::Wal(bytes, next) => {
                    let to = at.0 + bytes.len() as u64;
                    machine.store.create(&format!("wal/{}-{to}", at.0), Body::from(bytes)).await?;
                    (offset, at) = (next, Lsn(to));
                    spool.remove(file.run, Lsn(to / SEGMENT * SEGMENT)).await.map_err(failed)?;
                }
                Next::File(next) => (file, offset) = (next, 0),
                Next::Later | Next::End => break,
            }
        }
        spool.remove(file.run, at).await.map_err(failed)?;
    }
    Ok(())
}

async fn read(spool: &Arc<Spool>) -> Outcome<Vec<(u64, Vec<u8>)>> {
    let mut found = Vec::new();
    for file in spool.files() {
        let (mut offset, mut at) = (0, file.start);
        while let Next::Wal(bytes, next) = spool.next(file, offset, at).await.map_err(failed)? {
            let to = Lsn(at.0 + bytes.len() as u64);
            found.push((at.0, bytes));
            (offset, at) = (next, to);
        }
    }
    Ok(found)
}

async fn stored(machine: &Machine) -> Outcome<Stretches> {
    let mut there = Stretches::new();
    for listed in machine.store.list("wal/").await? {
        let bytes = machine.store.read(&listed.name, ReadRange::Whole).await?;
        let ends = listed.name.trim_start_matches("wal/").split_once('-');
        let (from, to) = ends.expect("a name of ours");
        let (from, to): (u64, u64) = (from.parse().expect("a number"), to.parse().expect("a number"));
        hold(bytes == of_stream(from, to), || format!("{} holds other WAL than was received", listed.name))?;
        there.entry(from).and_modify(|end| *end = to.max(*end)).or_insert(to);
    }
    Ok(there)
}
