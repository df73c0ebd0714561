//! Takes a stream of WAL into the repository: whole segments as segments, the open one in chunks.
//!
//! Every byte is decoded before it is stored; a stream that is not valid WAL of this instance is refused (hazard C9). What
//! [`Ingest::durable`] says is stored in the repository and is part of every default restore. Objects are created once: what
//! another receiver stored first is compared, never overwritten.
//!
//! Memory: one segment.

use asof_postgres::lsn::{Lsn, Timeline};
use asof_postgres::wal::{Decoded, Event, StopReason, WalDecoder, WalShape};
use asof_repository::codec::Encoder;
use asof_repository::crypto::content_digest;
use asof_repository::names::{Name, WalPosition};
use asof_repository::store::Created;
use asof_repository::wal::{CommitMark, Observation, WalInfo, read_wal_index, write_wal};
use asof_world::planted;

use super::assemble::{Segment, read_segment};
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
    observed: Vec<Observation>,
    /// Whether the decoder has seen the segment before.
    follows_stored: bool,
}

impl Ingest {
    /// Begins at `start`, the first byte of a segment.
    pub fn new(shelf: Shelf, shape: WalShape, timeline: Timeline, start: Lsn) -> Result<Self> {
        assert_eq!(shape.segment_size.offset(start), 0, "a stream begins with a segment");
        let decoder = decoder(&shape, start)?;
        let (bytes, marks, observed) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self {
            shelf,
            shape,
            timeline,
            segment: start,
            bytes,
            decoder,
            marks,
            stored: start,
            observed,
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
        let size = u64::from(self.shape.segment_size.bytes());
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
            let room = self.shape.segment_size.bytes() as usize - self.bytes.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.bytes.extend_from_slice(now);
            self.decode(now)?;
            if now.len() == room {
                self.end_segment().await?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Stores what came since the last call, if anything.
    pub async fn flush(&mut self) -> Result<()> {
        while self.stored < self.received() {
            let plain = self.part(self.stored, self.received());
            let name = Name::WalChunk(self.position(self.stored));
            self.stored = match self.store(name, plain, self.received()).await? {
                Created::New => self.received(),
                Created::Exists => match self.foreign_end(name).await? {
                    Some(end) => end,
                    None => return Ok(()),
                },
            };
        }
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
        self.compare_chunks().await?;
        let name = Name::WalSegment(self.position(self.segment));
        let plain = self.part(self.segment, end);
        if self.store(name, plain, end).await? == Created::Exists {
            let there = self.index(name).await?;
            if there.index.digest != content_digest(&self.bytes) && !planted("c3") {
                return Err(self.conflict(name));
            }
        }
        self.segment = end;
        self.stored = end;
        self.follows_stored = false;
        self.bytes.clear();
        self.marks.clear();
        Ok(())
    }

    /// A segment supersedes the chunks of its range, so those that we did not store must say the same: they may be ours from
    /// before a restart, and the server may have been rolled back since (rule 5).
    async fn compare_chunks(&mut self) -> Result<()> {
        while self.stored < self.received() {
            let name = Name::WalChunk(self.position(self.stored));
            match self.foreign_end(name).await {
                Ok(Some(end)) => self.stored = end,
                Ok(None) => return Err(self.conflict(name)),
                Err(Error::Repository(error)) if error.is_not_found() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn part(&self, from: Lsn, to: Lsn) -> Vec<u8> {
        let at = |lsn: Lsn| usize::try_from(lsn.0 - self.segment.0).expect("a segment fits in memory");
        self.bytes[at(from)..at(to)].to_vec()
    }

    fn position(&self, start: Lsn) -> WalPosition {
        WalPosition { lineage: self.shelf.lineage, timeline: self.timeline.0, start: start.0 }
    }

    async fn store(&mut self, name: Name, plain: Vec<u8>, end: Lsn) -> Result<Created> {
        let info = self.info(end.0 - plain.len() as u64, end.0);
        let (world, keyring) = (self.shelf.world.clone(), self.shelf.keyring.clone());
        let seal = move || write_wal(&world, &keyring, name, &info, &plain, &mut Encoder::new(LEVEL));
        let object = self.shelf.world.compute(seal).await;
        let created = match self.shelf.store.create(&name.to_string(), object.body.clone()).await {
            Err(_) if planted("c10") => Created::New,
            created => created?,
        };
        self.forget_observations(end);
        Ok(created)
    }

    fn info(&self, start: u64, end: u64) -> WalInfo {
        let marks: Vec<_> = self.marks.iter().filter(|mark| (start..end).contains(&mark.at)).copied().collect();
        WalInfo {
            system_identifier: self.shape.system_identifier,
            segment_size: u64::from(self.shape.segment_size.bytes()),
            end,
            first_commit: marks.first().copied(),
            last_commit: marks.last().copied(),
            latest_time: marks.iter().map(|mark| mark.time).max(),
            observed: self.observed.iter().rfind(|seen| seen.flushed <= end).copied(),
        }
    }

    /// Observations that an object carries are not needed again, but the newest of them is: the segment repeats it.
    fn forget_observations(&mut self, end: Lsn) {
        let carried = self.observed.iter().filter(|seen| seen.flushed <= end.0).count();
        self.observed.drain(..carried.saturating_sub(1));
    }

    async fn index(&self, name: Name) -> Result<asof_repository::wal::StoredWal> {
        let Shelf { store, keyring, signers, .. } = &self.shelf;
        Ok(read_wal_index(store.as_ref(), keyring, signers, name).await?)
    }

    /// Where a chunk ends that somebody else stored under our name; `None` while it is ahead of us.
    async fn foreign_end(&self, name: Name) -> Result<Option<Lsn>> {
        let there = self.index(name).await?;
        let end = Lsn(there.index.info.end);
        if end > self.received() {
            return Ok(None);
        }
        if there.index.digest != content_digest(&self.part(self.stored, end)) {
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
