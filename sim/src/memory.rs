//! An object store in memory that keeps the contract, and answers as badly as a network does when told to.
//!
//! One set of objects, any number of clients: [`MemoryStore::client`] is another connection to the same objects, with
//! faults, counters and a numbering of calls of its own. A call goes wrong because its number says so
//! ([`MemoryStore::fail_at`]), or because the seed draws it ([`Faults`]). An answer that is lost leaves the call undone,
//! done, or done later, when the caller went on long ago.
//!
//! What was ever created is recorded, so that a test can say that nothing changed after it was created (invariant I3).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use asof_repository::error::{Error, Result};
use asof_repository::store::{Body, Created, Listed, ReadRange, Store};
use asof_world::World;
use async_trait::async_trait;
use bytes::Bytes;

use crate::Prng;

/// How badly a connection answers. Rates are per thousand calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Calls that are refused before anything was done.
    pub unavailable: u32,
    /// Creations and deletions whose answer is lost: not done, done, or done later, a third each.
    pub uncertain: u32,
    /// Entries that a listing leaves out.
    pub list_loses: u32,
    /// How long a listing does not show a new object.
    pub list_lags: Duration,
    /// The longest that a call takes; each takes a drawn part of it.
    pub slowest: Duration,
}

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Refused, nothing done.
    Unavailable,
    /// The answer is lost, nothing done.
    LostUndone,
    /// The answer is lost, all done.
    LostDone,
    /// The answer is lost; what was asked for is done after this time.
    LostDoneLater(Duration),
}

/// The longest that a request may be on its way after its caller gave it up.
const LATEST: Duration = Duration::from_secs(30);

/// How many calls a connection made, and how many bytes went over it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Creations.
    pub creates: u64,
    /// Reads of a whole object or a part.
    pub reads: u64,
    /// Questions for a length.
    pub lens: u64,
    /// Listings.
    pub lists: u64,
    /// Deletions.
    pub deletes: u64,
    /// Bytes handed over for creation.
    pub bytes_created: u64,
    /// Bytes read.
    pub bytes_read: u64,
}

/// The kind of a call, as a verb for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Create,
    Read,
    Len,
    List,
    Delete,
}

impl Verb {
    fn text(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::Len => "look at",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
}

/// A connection to a store in memory.
#[derive(Clone)]
pub struct MemoryStore {
    world: World,
    objects: Arc<Mutex<Objects>>,
    connection: Arc<Mutex<Connection>>,
}

#[derive(Clone, Default)]
struct Objects {
    present: BTreeMap<String, Object>,
    /// Every content that each name ever had.
    history: BTreeMap<String, Vec<Bytes>>,
    ignores_create_if_absent: bool,
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    since: Duration,
}

struct Connection {
    draw: Prng,
    faults: Faults,
    partitioned: bool,
    counts: Counts,
    calls: Vec<String>,
    answers: BTreeMap<usize, Answer>,
    stops_at: Option<usize>,
}

#[derive(Debug)]
struct Misbehaves(&'static str);

impl fmt::Display for Misbehaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Misbehaves {}

impl Connection {
    fn new(seed: u64) -> Self {
        Self {
            draw: Prng::new(seed),
            faults: Faults::default(),
            partitioned: false,
            counts: Counts::default(),
            calls: Vec::new(),
            answers: BTreeMap::new(),
            stops_at: None,
        }
    }

    /// Numbers and records a call, and decides how it goes wrong.
    fn begin(&mut self, verb: Verb, name: &str) -> Option<Answer> {
        let number = self.calls.len();
        self.calls.push(format!("{} {name}", verb.text()));
        match verb {
            Verb::Create => self.counts.creates += 1,
            Verb::Read => self.counts.reads += 1,
            Verb::Len => self.counts.lens += 1,
            Verb::List => self.counts.lists += 1,
            Verb::Delete => self.counts.deletes += 1,
        }
        if self.partitioned || self.stops_at.is_some_and(|stop| number >= stop) {
            return Some(Answer::Unavailable);
        }
        self.answers.remove(&number).or_else(|| self.draw_answer(verb))
    }

    fn draw_answer(&mut self, verb: Verb) -> Option<Answer> {
        if self.draw.chance(self.faults.unavailable) {
            return Some(Answer::Unavailable);
        }
        if !matches!(verb, Verb::Create | Verb::Delete) || !self.draw.chance(self.faults.uncertain) {
            return None;
        }
        Some(match self.draw.below(3) {
            0 => Answer::LostUndone,
            1 => Answer::LostDone,
            _ => Answer::LostDoneLater(self.duration_up_to(LATEST)),
        })
    }

    fn duration_up_to(&mut self, most: Duration) -> Duration {
        let micros = u64::try_from(most.as_micros()).expect("a delay is short");
        Duration::from_micros(self.draw.below(micros + 1))
    }
}

impl MemoryStore {
    /// An empty store that answers well; `seed` draws its faults once it is given some.
    pub fn new(world: &World, seed: u64) -> Self {
        Self { world: world.clone(), objects: Arc::default(), connection: Arc::new(Mutex::new(Connection::new(seed))) }
    }

    /// A store that overwrites whatever has the name and calls it new: one that has to be refused.
    pub fn ignoring_create_if_absent(world: &World) -> Self {
        let store = Self::new(world, 0);
        store.objects().ignores_create_if_absent = true;
        store
    }

    /// Another connection to the same objects, used by `world`.
    #[must_use]
    pub fn client(&self, world: &World, seed: u64) -> Self {
        let connection = Arc::new(Mutex::new(Connection::new(seed)));
        Self { world: world.clone(), objects: self.objects.clone(), connection }
    }

    /// A store of its own that holds the same objects, for another world.
    #[must_use]
    pub fn copy(&self, world: &World, seed: u64) -> Self {
        let copy = Self::new(world, seed);
        *copy.objects() = self.objects().clone();
        // Time starts anew in another world.
        copy.objects().present.values_mut().for_each(|object| object.since = Duration::ZERO);
        copy
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().expect("no holder panics")
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().expect("no holder panics")
    }

    // ---- What a test does to a connection ----------------------------------------------------------------------------

    /// Lets this connection answer badly from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.connection().faults = faults;
    }

    /// Cuts or mends this connection.
    pub fn set_partitioned(&self, partitioned: bool) {
        self.connection().partitioned = partitioned;
    }

    /// Lets call `number` of this connection, counted from 0, go wrong.
    pub fn fail_at(&self, number: usize, answer: Answer) {
        self.connection().answers.insert(number, answer);
    }

    /// Cuts this connection before its call `number`, for ever.
    pub fn stop_at(&self, number: usize) {
        self.connection().stops_at = Some(number);
    }

    /// The calls so far, each as verb and name.
    pub fn calls(&self) -> Vec<String> {
        self.connection().calls.clone()
    }

    /// How many calls this connection made since the last [`MemoryStore::take_counts`].
    pub fn take_counts(&self) -> Counts {
        std::mem::take(&mut self.connection().counts)
    }

    // ---- What a test sees and does behind the back of every connection ------------------------------------------------

    /// The names of all objects.
    pub fn names(&self) -> Vec<String> {
        self.objects().present.keys().cloned().collect()
    }

    /// The content of an object.
    pub fn bytes(&self, name: &str) -> Option<Bytes> {
        self.objects().present.get(name).map(|object| object.bytes.clone())
    }

    /// Names that had more than one content in their life.
    pub fn changed(&self) -> Vec<String> {
        let objects = self.objects();
        let changed = objects.history.iter().filter(|(_, contents)| contents.windows(2).any(|pair| pair[0] != pair[1]));
        changed.map(|(name, _)| name.clone()).collect()
    }

    /// Flips one bit of an object.
    ///
    /// # Panics
    /// When there is no such object or no such bit.
    pub fn flip_bit(&self, name: &str, bit: usize) {
        self.damage(name, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
    }

    /// Changes an object as nobody may.
    ///
    /// # Panics
    /// When there is no such object.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut objects = self.objects();
        let object = objects.present.get_mut(name).expect("the object to damage is there");
        let mut bytes = object.bytes.to_vec();
        change(&mut bytes);
        object.bytes = bytes.into();
    }

    /// Loses an object.
    pub fn lose(&self, name: &str) {
        self.objects().present.remove(name);
    }

    // ---- A call ------------------------------------------------------------------------------------------------------

    /// Makes a call: takes its time, changes or looks at the objects, and loses the answer if it is to be lost.
    async fn call<T: Send + 'static>(
        &self,
        verb: Verb,
        name: &str,
        act: impl FnOnce(&mut Objects, Duration) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, before, after) = {
            let mut connection = self.connection();
            let answer = connection.begin(verb, name);
            let slowest = connection.faults.slowest / 2;
            (answer, connection.duration_up_to(slowest), connection.duration_up_to(slowest))
        };
        self.pass(before).await;
        let (operation, object) = (verb.text(), name.to_owned());
        let lost =
            |source| Error::Uncertain { operation, object: object.clone(), source: Box::new(Misbehaves(source)) };
        match answer {
            None => {
                let result = act(&mut self.objects(), self.world.monotonic());
                self.pass(after).await;
                result
            }
            Some(Answer::Unavailable) => {
                let source = Box::new(Misbehaves("no connection"));
                Err(Error::Unavailable { operation, object: object.clone(), source })
            }
            Some(Answer::LostUndone) => Err(lost("the request got lost")),
            Some(Answer::LostDone) => {
                act(&mut self.objects(), self.world.monotonic())?;
                Err(lost("the answer got lost"))
            }
            Some(Answer::LostDoneLater(delay)) => {
                let (world, objects) = (self.world.clone(), self.objects.clone());
                drop(self.world.spawn(async move {
                    world.sleep(delay).await;
                    // Nobody is left to hear how it ended.
                    let _ = act(&mut objects.lock().expect("no holder panics"), world.monotonic());
                }));
                Err(lost("no answer in time"))
            }
        }
    }

    async fn pass(&self, time: Duration) {
        if time > Duration::ZERO {
            self.world.sleep(time).await;
        }
    }
}

impl Objects {
    fn create(&mut self, name: String, bytes: Bytes, now: Duration) -> Created {
        if self.present.contains_key(&name) && !self.ignores_create_if_absent {
            return Created::Exists;
        }
        self.history.entry(name.clone()).or_default().push(bytes.clone());
        self.present.insert(name, Object { bytes, since: now });
        Created::New
    }

    fn get(&self, name: &str) -> Result<&Bytes> {
        let object = self.present.get(name).map(|object| &object.bytes);
        object.ok_or_else(|| Error::NotFound { object: name.to_owned() })
    }

    fn list(&self, prefix: &str, now: Duration, lags: Duration) -> Vec<Listed> {
        self.present
            .range(prefix.to_owned()..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .filter(|(_, object)| object.since + lags <= now)
            .map(|(name, object)| Listed { name: name.clone(), len: object.bytes.len() as u64 })
            .collect()
    }
}

/// The same names that a directory can hold: no empty part, none that walks.
fn check_name(name: &str) -> Result<()> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    if name.split('/').all(plain) {
        return Ok(());
    }
    Err(Error::Invalid { what: format!("\"{name}\" is not the name of an object") })
}

fn cut(name: &str, bytes: &Bytes, range: ReadRange) -> Result<Bytes> {
    let len = bytes.len() as u64;
    let (offset, wanted) = match range {
        ReadRange::Whole => (0, len),
        ReadRange::Part { offset, len } => (offset, len),
        ReadRange::Last { len: last } => (len.saturating_sub(last), last.min(len)),
    };
    let end = offset.checked_add(wanted).filter(|end| *end <= len);
    let range = end.and_then(|end| Some(usize::try_from(offset).ok()?..usize::try_from(end).ok()?));
    range.map(|range| bytes.slice(range)).ok_or_else(|| Error::Corrupt {
        object: name.to_owned(),
        reason: format!("{wanted} bytes from {offset} were asked for, and it has {len}"),
    })
}

#[async_trait]
impl Store for MemoryStore {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    async fn create(&self, name: &str, body: Body) -> Result<Created> {
        check_name(name)?;
        self.connection().counts.bytes_created += body.as_slice().len() as u64;
        let (object, bytes) = (name.to_owned(), body.to_bytes());
        self.call(Verb::Create, name, move |objects, now| Ok(objects.create(object, bytes, now))).await
    }

    async fn read(&self, name: &str, range: ReadRange) -> Result<Bytes> {
        check_name(name)?;
        let object = name.to_owned();
        let bytes = self.call(Verb::Read, name, move |objects, _| cut(&object, objects.get(&object)?, range)).await?;
        self.connection().counts.bytes_read += bytes.len() as u64;
        Ok(bytes)
    }

    async fn len(&self, name: &str) -> Result<u64> {
        check_name(name)?;
        let object = name.to_owned();
        self.call(Verb::Len, name, move |objects, _| Ok(objects.get(&object)?.len() as u64)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let Faults { list_loses, list_lags, .. } = self.connection().faults;
        let start = prefix.to_owned();
        let mut listed =
            self.call(Verb::List, prefix, move |objects, now| Ok(objects.list(&start, now, list_lags))).await?;
        let mut connection = self.connection();
        listed.retain(|_| !connection.draw.chance(list_loses));
        Ok(listed)
    }

    async fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let object = name.to_owned();
        self.call(Verb::Delete, name, move |objects, _| {
            objects.present.remove(&object);
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests;
