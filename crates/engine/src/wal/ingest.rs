//! Takes a stream of WAL into the repository: whole segments as segments, the open one in chunks.
//!
//! Every byte is decoded before it is stored; a stream that is not valid WAL of this instance is refused (hazard C9). What
//! [`Ingest::durable`] says is stored in the repository and is part of every default restore. Objects are created once: what
//! another receiver stored first is compared, never overwritten.
//!
//! Memory: one stored segment, at most 16 MiB.

use std::ops::Range;
use std::time::Duration;

use asof_postgres::lsn::{Lsn, Timeline};
use asof_postgres::wal::{Decoded, Event, StopReason, WalDecoder, WalShape};
use asof_repository::codec::Encoder;
use asof_repository::crypto::content_digest;
use asof_repository::names::Name;
use asof_repository::object::Finished;
use asof_repository::store::Created;
use asof_repository::wal::{
    CommitMark, MAX_WAL, MERGED_LEVELS, Observation, WalIndex, WalInfo, last_observation, read_wal_index,
    write_observation, write_wal,
};
use asof_world::planted;

use super::assemble::{Segment, index, piece, position, read_segment};
use super::merging::Merging;
use crate::error::{Error, Result};
use crate::shelf::Shelf;

/// zstd's level for WAL.
const LEVEL: i32 = 1;

/// One timeline of one instance on its way into the repository.
pub struct Ingest {
    shelf: Shelf,
    shape: WalShape,
    timeline: Timeline,
    /// Where the segment in memory begins.
    segment: Lsn,
    bytes: Vec<u8>,
    decoder: WalDecoder,
    marks: Vec<CommitMark>,
    /// How far the segment in memory is stored.
    stored: Lsn,
    merging: Merging,
    /// Whether nothing was stored behind `stored` when we last looked.
    at_end: bool,
    /// Observations that no object carries yet.
    observed: Vec<Observation>,
    /// The newest that an object carries.
    carried: Option<Observation>,
    /// The number of the next observation at `stored`, once somebody has looked.
    next_observation: Option<u32>,
    /// Whether the decoder has seen the segment before.
    follows_stored: bool,
}

impl Ingest {
    /// Begins at `start`, the first byte of a segment.
    pub fn new(shelf: Shelf, shape: WalShape, timeline: Timeline, start: Lsn) -> Result<Self> {
        assert_eq!(shape.segment_size.offset(start), 0, "a stream begins with a segment");
        let decoder = decoder(&shape, start)?;
        let (bytes, marks, observed) = (Vec::new(), Vec::new(), Vec::new());
        let merging = Merging::new(start);
        Ok(Self {
            shelf,
            shape,
            timeline,
            segment: start,
            bytes,
            decoder,
            marks,
            stored: start,
            merging,
            at_end: false,
            observed,
            carried: None,
            next_observation: None,
            follows_stored: false,
        })
    }

    /// Lets the first record be held against the segment before, if that is stored: at the border between two segments
    /// nothing else says whether the stream continues what is stored (hazard C9). Without the right to read WAL, or when that
    /// segment is damaged, receiving goes on all the same: what arrives now is worth more than the proof.
    pub async fn joined(mut self) -> Result<Self> {
        assert_eq!(self.received(), self.segment, "nothing was taken yet");
        let Some(stored) = self.segment_before().await? else { return Ok(self) };
        self.decoder = decoder(&self.shape, stored.start)?;
        let valid = self.decode(&stored.bytes).is_ok() && matches!(self.decoder.next(), Decoded::NeedMore);
        self.marks.clear();
        if valid {
            self.follows_stored = true;
        } else {
            self.decoder = decoder(&self.shape, self.segment)?;
        }
        Ok(self)
    }

    async fn segment_before(&self) -> Result<Option<Segment>> {
        let size = self.size();
        let Some(start) = self.segment.0.checked_sub(size).map(Lsn) else { return Ok(None) };
        if self.shelf.keyring.require_data_secret("comparing WAL").is_err() {
            return Ok(None);
        }
        let timeline = self.shape.history.timeline_at(Lsn(self.segment.0 - 1));
        match read_segment(&self.shelf, timeline, start, size).await {
            Ok(stored) => Ok(stored.filter(|stored| stored.end() == self.segment)),
            Err(Error::Repository(error)) if error.is_transient() => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    /// Bytes in a stored segment.
    fn size(&self) -> u64 {
        u64::from(self.shape.segment_size.bytes()).min(MAX_WAL)
    }

    /// The position behind the last byte taken.
    pub fn received(&self) -> Lsn {
        Lsn(self.segment.0 + self.bytes.len() as u64)
    }

    /// Everything before this position is in the repository.
    pub fn durable(&self) -> Lsn {
        if planted("c1") { self.received() } else { self.stored }
    }

    /// Notes that the server's clock was read before its flush position was.
    pub fn observe(&mut self, observation: Observation) {
        self.observed.push(observation);
    }

    /// Takes the bytes that follow those taken before, and stores each segment that they complete.
    pub async fn take(&mut self, start: Lsn, mut bytes: &[u8]) -> Result<()> {
        if start != self.received() {
            let what =
                format!("the WAL stream jumped from {} to {start} on timeline {}", self.received(), self.timeline);
            return Err(Error::damaged(what, "run the receiver again; it goes on where the repository ends"));
        }
        while !bytes.is_empty() {
            let room = self.segment.0 + self.size() - self.received().0;
            let (now, later) = bytes.split_at(usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len()));
            // At once, or growing would copy it again and again.
            let size = usize::try_from(self.size()).expect("a stored segment fits in memory");
            self.bytes.reserve_exact(size - self.bytes.len());
            self.bytes.extend_from_slice(now);
            self.decode(now)?;
            if now.len() as u64 == room {
                self.end_segment().await?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Stores what came since the last call, if anything.
    pub async fn flush(&mut self) -> Result<()> {
        while self.stored < self.received() {
            if !self.find_end().await? {
                return Ok(());
            }
            let (from, end) = (self.stored, self.received());
            if from == end {
                return Ok(());
            }
            if self.next_observation.is_none() {
                self.look_for_observations().await?;
            }
            match self.store(piece(&self.shelf, self.timeline, from, 0), from, end).await? {
                Created::New => self.advance(0, end),
                Created::Exists => self.at_end = false,
            }
        }
        Ok(())
    }

    /// Stores once more, in larger objects, what [`Self::flush`] stored in many small ones.
    pub async fn merge(&mut self) -> Result<()> {
        while let Some(due) = self.merging.due() {
            let name = piece(&self.shelf, self.timeline, due.from, due.level);
            let mut end = Some(due.to);
            if self.store(name, due.from, due.to).await? == Created::Exists {
                end = self.stored_before(name, due.from).await?;
            }
            match end {
                Some(end) => self.merging.stored(due.level, end),
                None => self.merging.postpone(due),
            }
        }
        Ok(())
    }

    /// Stores the newest observation by itself when the repository holds all WAL up to it, so that nothing else will carry it,
    /// and the last that is stored is older by at least `age`.
    pub async fn flush_observation(&mut self, age: Duration) -> Result<()> {
        let unwritten = |seen: &&Observation| seen.flushed <= self.stored.0;
        let Some(seen) = self.observed.iter().rfind(unwritten).copied() else { return Ok(()) };
        if self.stored < self.received() || !self.find_end().await? {
            return Ok(());
        }
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        if self.carried.is_some_and(|carried| seen.time < carried.time.saturating_add(age)) {
            return Ok(());
        }
        loop {
            let at = position(&self.shelf, self.timeline, self.stored);
            let Some(number) = self.next_observation else {
                self.look_for_observations().await?;
                continue;
            };
            let object = write_observation(&self.shelf.world, &self.shelf.keyring, at, number, &seen);
            match self.create(&object).await? {
                Created::New => {
                    self.next_observation = Some(number + 1);
                    break;
                }
                Created::Exists => self.next_observation = None,
            }
        }
        self.carry(seen);
        self.forget_observations(self.stored);
        Ok(())
    }

    fn decode(&mut self, bytes: &[u8]) -> Result<()> {
        self.decoder.feed(bytes);
        loop {
            match self.decoder.next() {
                Decoded::Record(record) => {
                    let at = record.start.0;
                    if let Ok(Event::TransactionEnd(end)) = record.event() {
                        self.marks.push(CommitMark { time: end.time_unix_micros, at });
                    }
                }
                Decoded::NeedMore => return Ok(()),
                // An unknown layout inside a valid record: the bytes are right, and what they mean is looked at on restore.
                Decoded::Stop(stop) if matches!(stop.reason, StopReason::Malformed(_)) => return Ok(()),
                Decoded::Stop(stop) if self.follows_stored && stop.valid_end <= self.segment => {
                    let what = format!(
                        "the WAL received on timeline {} does not continue what is stored before {}: {stop}",
                        self.timeline, self.segment
                    );
                    let hint = "the server was rolled back, or is a clone; register it with `asof instance add` under a name of its own";
                    return Err(Error::damaged(what, hint));
                }
                Decoded::Stop(stop) => {
                    let what = format!("the WAL received on timeline {} is not valid: {stop}", self.timeline);
                    return Err(Error::damaged(
                        what,
                        "look at the server's log and disk; nothing behind it was stored",
                    ));
                }
            }
        }
    }

    async fn end_segment(&mut self) -> Result<()> {
        let end = self.received();
        // A segment supersedes the chunks of its range, so those that we did not store must say the same: they may be ours
        // from before a restart, and the server may have been rolled back since (rule 5).
        self.at_end = false;
        if !self.find_end().await? {
            return Err(self.conflict(piece(&self.shelf, self.timeline, self.stored, 0)));
        }
        let name = Name::WalSegment(position(&self.shelf, self.timeline, self.segment));
        if self.store(name, self.segment, end).await? == Created::Exists {
            let there = self.there(name).await?;
            if there.digest != content_digest(&self.bytes) && !planted("c3") {
                return Err(self.conflict(name));
            }
        }
        self.segment = end;
        self.follows_stored = false;
        self.bytes.clear();
        self.marks.clear();
        self.advance(MERGED_LEVELS, end);
        self.at_end = false;
        Ok(())
    }

    /// Goes over what somebody stored of the segment in memory, ourselves before a restart or another receiver, comparing it,
    /// up to its end; false when that end is ahead of us.
    async fn find_end(&mut self) -> Result<bool> {
        while !self.at_end {
            // What is merged is stored as chunks before.
            let chunk = piece(&self.shelf, self.timeline, self.stored, 0);
            let Some(there) = index(&self.shelf, chunk).await? else {
                self.at_end = true;
                return Ok(true);
            };
            let mut found = None;
            for level in (1..=MERGED_LEVELS).rev() {
                let name = piece(&self.shelf, self.timeline, self.stored, level);
                if let Some(there) = index(&self.shelf, name).await?
                    && let Some(end) = self.compare(name, self.stored, &there.index)?
                {
                    found = Some((level, end, there.index.info.observed));
                    break;
                }
            }
            if found.is_none()
                && let Some(end) = self.compare(chunk, self.stored, &there.index)?
            {
                found = Some((0, end, there.index.info.observed));
            }
            let Some((level, end, observed)) = found else { return Ok(false) };
            observed.into_iter().for_each(|seen| self.carry(seen));
            self.advance(level, end);
            (self.at_end, self.next_observation) = (false, None);
        }
        Ok(true)
    }

    /// An object of `level` that ends at `end` is stored.
    fn advance(&mut self, level: u8, end: Lsn) {
        self.merging.stored(level, end);
        self.stored = end;
        self.next_observation = Some(0);
    }

    /// What was observed at the end of what is stored goes into the next chunk, or the latest restorable time would step back.
    async fn look_for_observations(&mut self) -> Result<()> {
        let Shelf { store, keyring, signers, .. } = &self.shelf;
        let at = position(&self.shelf, self.timeline, self.stored);
        let last = last_observation(store.as_ref(), keyring, signers, at).await?;
        self.next_observation = Some(last.map_or(0, |(number, _)| number + 1));
        last.into_iter().for_each(|(_, seen)| self.carry(seen));
        Ok(())
    }

    fn carry(&mut self, seen: Observation) {
        if self.carried.is_none_or(|carried| carried.flushed <= seen.flushed) {
            self.carried = Some(seen);
        }
    }

    /// Where the bytes from one position to another lie in memory.
    fn range(&self, from: Lsn, to: Lsn) -> Range<usize> {
        let at = |lsn: Lsn| usize::try_from(lsn.0 - self.segment.0).expect("a segment fits in memory");
        at(from)..at(to)
    }

    async fn store(&mut self, name: Name, from: Lsn, end: Lsn) -> Result<Created> {
        let (info, range) = (self.info(from.0, end.0), self.range(from, end));
        let observed = info.observed;
        let (world, keyring) = (self.shelf.world.clone(), self.shelf.keyring.clone());
        // Lent to the processor thread: a copy of a segment costs as much as its checksum.
        let bytes = std::mem::take(&mut self.bytes);
        let seal = move || {
            let object = write_wal(&world, &keyring, name, &info, &bytes[range], &mut Encoder::new(LEVEL));
            (object, bytes)
        };
        let (object, bytes) = self.shelf.world.compute(seal).await;
        self.bytes = bytes;
        let created = self.create(&object).await?;
        if created == Created::New {
            observed.into_iter().for_each(|seen| self.carry(seen));
            self.forget_observations(end);
        }
        Ok(created)
    }

    async fn create(&self, object: &Finished) -> Result<Created> {
        match self.shelf.store.create(&object.name.to_string(), object.body.clone()).await {
            Err(_) if planted("c10") => Ok(Created::New),
            created => Ok(created?),
        }
    }

    fn info(&self, start: u64, end: u64) -> WalInfo {
        let marks: Vec<_> = self.marks.iter().filter(|mark| (start..end).contains(&mark.at)).copied().collect();
        let carried = self.carried.filter(|seen| seen.flushed <= end);
        WalInfo {
            system_identifier: self.shape.system_identifier,
            segment_size: u64::from(self.shape.segment_size.bytes()),
            end,
            first_commit: marks.first().copied(),
            last_commit: marks.last().copied(),
            latest_time: marks.iter().map(|mark| mark.time).max(),
            observed: self.observed.iter().rfind(|seen| seen.flushed <= end).copied().or(carried),
        }
    }

    /// Observations that an object carries are not needed again.
    fn forget_observations(&mut self, end: Lsn) {
        self.observed.retain(|seen| seen.flushed > end.0);
    }

    async fn there(&self, name: Name) -> Result<WalIndex> {
        let Shelf { store, keyring, signers, .. } = &self.shelf;
        Ok(read_wal_index(store.as_ref(), keyring, signers, name).await?.index)
    }

    /// Where an object ends that somebody else stored at `from`; `None` while it is ahead of us.
    async fn stored_before(&self, name: Name, from: Lsn) -> Result<Option<Lsn>> {
        self.compare(name, from, &self.there(name).await?)
    }

    fn compare(&self, name: Name, from: Lsn, there: &WalIndex) -> Result<Option<Lsn>> {
        let end = Lsn(there.info.end);
        if end > self.received() {
            return Ok(None);
        }
        if there.digest != content_digest(&self.bytes[self.range(from, end)]) {
            return Err(self.conflict(name));
        }
        Ok(Some(end))
    }

    fn conflict(&self, name: Name) -> Error {
        let what = format!("{name} is stored with other content: two servers write timeline {}", self.timeline);
        Error::damaged(what, "one of them is a clone; register it with `asof instance add` under a name of its own")
    }
}

fn decoder(shape: &WalShape, start: Lsn) -> Result<WalDecoder> {
    WalDecoder::new(shape.clone(), start)
        .map_err(|error| Error::damaged(error.to_string(), "check the server's pg_control"))
}
