//! The numbered log of what was decided: format.md, "Journals".
//!
//! A slot is a name with the next number, created only if absent. That one creation is the commit point, the fence and the
//! lock: whoever wants to write slot n+1 has read slot n, and of two who want it one wins and the other reads again. Each
//! entry carries the digest of the bytes before it, so removal and replacement show. No listing is needed: the end is
//! found by reading the next number.
//!
//! After a crash an entry is there whole or not at all (the store's promise); an append whose outcome is unknown is settled
//! by reading the slot back.

use std::sync::Arc;

use asof_world::{Timestamp, World};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::Encoder;
use crate::crypto::{self, Digest};
use crate::error::{Error, Result};
use crate::keyring::{Keyring, Role, Signers};
use crate::names::{JournalOf, Name};
use crate::object::{self, Kind, ObjectWriter};
use crate::serial;
use crate::store::{Created, ReadRange, Store};

/// The longest entry: bounds what a reader parses.
const MAX_ENTRY_LEN: usize = 16 << 20;

/// What a journal's entries add up to.
pub trait State: Send + Sync {
    /// One kind of entry.
    type Entry: Serialize + DeserializeOwned + Send + Sync;
    /// Which role may write this entry.
    fn role(entry: &Self::Entry) -> Role;
    /// Whether `entry` may follow what was folded so far; the reason when not.
    fn check(&self, context: &Context, entry: &Self::Entry) -> Result<(), String>;
    /// Folds an entry that [`State::check`] let pass.
    fn apply(&mut self, context: &Context, entry: Self::Entry);
    /// Whom the journal believes; the repository's own journal adds to it as it goes.
    fn signers<'a>(&'a self, given: &'a Signers) -> &'a Signers {
        given
    }
}

/// What every entry says besides its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Its slot.
    pub number: u64,
    /// When it was written, by the writer's clock. For people; nothing is decided by it.
    pub time: Timestamp,
    /// The writer's epoch.
    pub epoch: u64,
    /// Who signed it.
    pub signer: asof_world::Id,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<E> {
    number: u64,
    /// BLAKE3 of the bytes of the slot before, whatever they are; 64 zeros in slot 1.
    previous: String,
    time: i64,
    epoch: u64,
    entry: E,
}

/// A slot that nobody could open when the next one was written. Skipped by everybody alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Void {
    /// The slot.
    pub number: u64,
    /// Why it counts for nothing.
    pub reason: String,
}

/// A journal, folded up to its end as last read.
pub struct Journal<S: State> {
    world: World,
    store: Arc<dyn Store>,
    keyring: Keyring,
    signers: Signers,
    of: JournalOf,
    number: u64,
    last: Digest,
    state: S,
    voids: Vec<Void>,
}

/// A slot behind the last that opened. The next that opens says whether it counts; until then it may be a decision.
struct Unopened {
    number: u64,
    digest: Digest,
    error: Error,
}

/// A slot that opened.
struct Slot<E> {
    context: Context,
    previous: Digest,
    entry: E,
}

impl<S: State> Journal<S> {
    /// Reads a journal from its first entry to its end.
    pub async fn open(
        world: World,
        store: Arc<dyn Store>,
        keyring: Keyring,
        signers: Signers,
        of: JournalOf,
        empty: S,
    ) -> Result<Self> {
        let mut journal =
            Self { world, store, keyring, signers, of, number: 0, last: [0; 32], state: empty, voids: Vec::new() };
        journal.refresh().await?;
        journal.expect_nothing_behind_the_end().await?;
        Ok(journal)
    }

    /// An absent slot ends the journal, and a lost one looks the same. So look one further: what stands there proves that the
    /// slot before it was lost, and with it everything behind would silently count for nothing.
    async fn expect_nothing_behind_the_end(&mut self) -> Result<()> {
        let end = self.number;
        match self.store.len(&Name::Entry(self.of, end + 2).to_string()).await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        };
        // Somebody may have appended both since the end was found.
        self.refresh().await?;
        if self.number > end {
            return Ok(());
        }
        Err(Error::corrupt(Name::Entry(self.of, end + 1), "it is missing, although the entry behind it is there"))
    }

    /// What the entries add up to.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The number of the last entry; 0 for an empty journal.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The digest of the last entry: what a witness outside the repository keeps.
    pub fn head(&self) -> Digest {
        self.last
    }

    /// Slots that count for nothing, each a reason for an alarm.
    pub fn voids(&self) -> &[Void] {
        &self.voids
    }

    /// Whom the journal believes.
    pub fn signers(&self) -> &Signers {
        self.state.signers(&self.signers)
    }

    /// Reads what was appended since. Fails when the last slot is damaged, because it may be a decision; the journal then
    /// stays where it was, and the next refresh reads that slot again.
    pub async fn refresh(&mut self) -> Result<()> {
        let mut unopened: Vec<Unopened> = Vec::new();
        loop {
            let number = unopened.last().map_or(self.number, |slot| slot.number) + 1;
            let name = Name::Entry(self.of, number);
            if asof_world::planted("f4") && self.store.list(&name.to_string()).await?.is_empty() {
                break;
            }
            let bytes = match self.store.read(&name.to_string(), ReadRange::Whole).await {
                Ok(bytes) => bytes,
                Err(error) if error.is_not_found() => break,
                Err(error) => return Err(error),
            };
            let digest = crypto::digest(&bytes);
            match self.decode(number, name, &bytes) {
                Ok(slot) => self.take(slot, digest, std::mem::take(&mut unopened))?,
                Err(error @ Error::Corrupt { .. }) => unopened.push(Unopened { number, digest, error }),
                Err(error) => return Err(error),
            }
        }
        match unopened.into_iter().next() {
            None => Ok(()),
            Some(slot) => Err(slot.error),
        }
    }

    /// Folds a slot that opened, behind some that did not.
    fn take(&mut self, slot: Slot<S::Entry>, digest: Digest, unopened: Vec<Unopened>) -> Result<()> {
        let Slot { context, previous, entry } = slot;
        if previous != unopened.last().map_or(self.last, |slot| slot.digest) {
            let before = Name::Entry(self.of, context.number - 1);
            return Err(Error::corrupt(before, format!("it was changed after entry {} was written", context.number)));
        }
        self.voids
            .extend(unopened.into_iter().map(|slot| Void { number: slot.number, reason: slot.error.to_string() }));
        match self.admit(&context, &entry) {
            Ok(()) => self.state.apply(&context, entry),
            Err(reason) => self.voids.push(Void { number: context.number, reason }),
        }
        self.number = context.number;
        self.last = digest;
        Ok(())
    }

    /// Whether the entry counts: its signer may write this kind, and it may follow what was folded so far. Everybody finds
    /// the same, so that one who may write entries but not this one neither decides nor blocks anything (hazards, 2.1).
    fn admit(&self, context: &Context, entry: &S::Entry) -> Result<(), String> {
        let object = Name::Entry(self.of, context.number).to_string();
        self.signers().require(context.signer, S::role(entry), &object).map_err(|error| error.to_string())?;
        self.state.check(context, entry)
    }

    fn decode(&self, number: u64, name: Name, bytes: &[u8]) -> Result<Slot<S::Entry>> {
        // The role depends on the content: any registered signer may have written it; `admit` asks whether this one may.
        let opened = open_entry(&self.keyring, self.signers(), name, bytes)?;
        if opened.index.len() > MAX_ENTRY_LEN {
            return Err(Error::corrupt(name, "it is longer than an entry may be"));
        }
        let envelope: Envelope<S::Entry> = serde_json::from_slice(&opened.index).map_err(|error| {
            Error::denied(name, format!("this version of asof cannot read it ({error}); update asof"))
        })?;
        if envelope.number != number {
            return Err(Error::corrupt(name, format!("it says that it is entry {}", envelope.number)));
        }
        let previous = serial::digits(&envelope.previous)
            .ok_or_else(|| Error::corrupt(name, "the digest of the entry before is not one"))?;
        let time = Timestamp(envelope.time);
        let context = Context { number, time, epoch: envelope.epoch, signer: opened.signer };
        Ok(Slot { context, previous, entry: envelope.entry })
    }

    /// Appends `entry` at the end, wherever that is by now. Returns its number once it is durable.
    ///
    /// When the entry may not follow what others appended meanwhile, nothing is written.
    pub async fn append(&mut self, epoch: u64, entry: S::Entry) -> Result<u64> {
        loop {
            self.refresh().await?;
            let name = Name::Entry(self.of, self.number + 1);
            let context =
                Context { number: self.number + 1, time: self.world.now(), epoch, signer: self.keyring.signer() };
            let text = name.to_string();
            self.signers().require(context.signer, S::role(&entry), &text)?;
            self.state.check(&context, &entry).map_err(|reason| Error::conflict(&text, reason))?;
            let envelope = Envelope {
                number: context.number,
                previous: hex::encode(self.last),
                time: context.time.0,
                epoch,
                entry: &entry,
            };
            let plain = written(&envelope)?;
            let capacity = plain.len() + 1024;
            let writer = ObjectWriter::new(&self.world, &self.keyring, name, Kind::Entry, false, capacity);
            let object = writer.finish(&self.keyring, &plain, &mut Encoder::new(3));
            if self.store.create(&text, object.body.clone()).await? == Created::New {
                self.number = context.number;
                self.last = crypto::digest(object.body.as_slice());
                self.state.apply(&context, entry);
                return Ok(context.number);
            }
        }
    }
}

/// An entry as it is stored, proven to be readable: one that nobody can read would end the journal for good.
fn written<E: Serialize + DeserializeOwned>(envelope: &Envelope<&E>) -> Result<Vec<u8>> {
    let refused = |reason: &dyn std::fmt::Display| Error::invalid(format!("the entry cannot be recorded: {reason}"));
    let plain = serde_json::to_vec(envelope).map_err(|error| refused(&error))?;
    if plain.len() > MAX_ENTRY_LEN {
        return Err(refused(&format!("it has {} bytes, and {MAX_ENTRY_LEN} are allowed", plain.len())));
    }
    let back: Envelope<E> = serde_json::from_slice(&plain).map_err(|error| refused(&error))?;
    if serde_json::to_vec(&back).ok().as_ref() != Some(&plain) {
        return Err(refused(&"it does not read back as it was written"));
    }
    Ok(plain)
}

/// Opens an entry signed by anybody who is registered, in whatever role.
fn open_entry(keyring: &Keyring, signers: &Signers, name: Name, bytes: &[u8]) -> Result<object::Opened> {
    let mut last = None;
    for role in [Role::Writer, Role::Operator, Role::Collector] {
        match object::open(keyring, signers, role, name, Kind::Entry, bytes) {
            Err(error @ Error::Denied { .. }) => last = Some(error),
            settled => return settled,
        }
    }
    Err(last.expect("three roles were tried"))
}
