//! Receives WAL, by streaming replication or by SQL, and stores it in the repository.
//!
//! Two halves: one reads the stream into [`Ingest`], the other reports to the server what is durable, so that a slow store
//! never lets the server believe that we are gone. What is reported as written and flushed is what the sink holds: the repository,
//! or a spool on this host; nothing is ever reported as applied, because nobody can query us (rule 7).

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use asof_postgres::history::TimelineHistory;
use asof_postgres::lsn::{Lsn, Timeline};
use asof_postgres::replication::{Standing, WalMessage, WalReader, WalStream, WalWriter};
use asof_repository::names::Name;
use asof_repository::store::Created;
use asof_repository::wal::{Observation, read_history, write_history};
use futures::StreamExt;
use futures::channel::mpsc;
use futures::future::{Either, select};

use super::feed::{self, Feed};
use super::ingest::Ingest;
use super::shape::WalConstants;
use super::spool::{Spool, SpoolWriter};
use crate::error::{Error, Result};
use crate::server::Server;
use crate::shelf::Shelf;

/// How often the server hears of us at least. PostgreSQL's default `wal_sender_timeout` is 60 s.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// How often a change of the durable position is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Microseconds from 1970 to 2000, PostgreSQL's epoch.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// How often a server is asked for WAL by SQL.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// How soon the open segment is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As soon as something arrives: commits may be waiting for it.
    AtOnce,
    /// That often, while there is something new.
    Every(Duration),
}

/// How far a stream is; shared with whoever waits for it.
#[derive(Default)]
pub struct StreamProgress {
    /// Positions and the wish to stop are shared with whoever waits through several connections.
    shared: Arc<Positions>,
    ended: AtomicBool,
    failure: Mutex<Option<Error>>,
    observed: Mutex<Vec<Observation>>,
}

#[derive(Default)]
struct Positions {
    stored: AtomicU64,
    durable: AtomicU64,
    received: AtomicU64,
    server: AtomicU64,
    stop: AtomicBool,
}

impl StreamProgress {
    /// The progress of one more connection: positions and the wish to stop are those of `whole`.
    pub fn following(whole: &Self) -> Self {
        Self { shared: whole.shared.clone(), ..Self::default() }
    }

    /// Everything before this is in the repository.
    pub fn stored(&self) -> Lsn {
        Lsn(self.shared.stored.load(Ordering::Acquire))
    }

    /// Everything before this is durable in the sink, and acknowledged: in the repository, or in the spool.
    pub fn durable(&self) -> Lsn {
        Lsn(self.shared.durable.load(Ordering::Acquire))
    }

    /// Everything before this has arrived.
    pub fn received(&self) -> Lsn {
        Lsn(self.shared.received.load(Ordering::Acquire))
    }

    /// How far the server was when it last said so.
    pub fn server(&self) -> Lsn {
        Lsn(self.shared.server.load(Ordering::Acquire))
    }

    /// Asks the stream to store what it has and end.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
    }

    /// Whether the stream has ended, for whatever reason.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Notes that the server's clock was read before its flush position was.
    pub fn observe(&self, observation: Observation) {
        self.observed.lock().expect("no holder panics").push(observation);
    }

    /// Whether it was asked to stop.
    pub fn wants_stop(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    /// Why the stream ended, if it failed. Can be taken once.
    pub fn failure(&self) -> Option<Error> {
        self.failure.lock().expect("no holder panics").take()
    }

    fn hand_over(&self, sink: &mut Sink) {
        let observed = std::mem::take(&mut *self.observed.lock().expect("no holder panics"));
        observed.into_iter().for_each(|observation| sink.observe(observation));
    }

    /// Whether more is durable than was published before.
    fn publish(&self, sink: &Sink) -> bool {
        if let Sink::Repository(ingest) = sink {
            self.publish_stored(ingest.durable());
        }
        self.shared.received.store(sink.received().0, Ordering::Release);
        self.shared.durable.swap(sink.durable().0, Ordering::AcqRel) != sink.durable().0
    }

    pub(super) fn publish_stored(&self, stored: Lsn) {
        self.shared.stored.store(stored.0, Ordering::Release);
    }
}

/// Where a stream goes. What is durable there is acknowledged.
enum Sink {
    Repository(Box<Ingest>),
    Spool(SpoolWriter),
}

impl Sink {
    fn received(&self) -> Lsn {
        match self {
            Self::Repository(ingest) => ingest.received(),
            Self::Spool(writer) => writer.received(),
        }
    }

    fn durable(&self) -> Lsn {
        match self {
            Self::Repository(ingest) => ingest.durable(),
            Self::Spool(writer) => writer.durable(),
        }
    }

    fn observe(&mut self, observation: Observation) {
        match self {
            Self::Repository(ingest) => ingest.observe(observation),
            Self::Spool(writer) => writer.observe(observation),
        }
    }

    async fn take(&mut self, start: Lsn, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Repository(ingest) => ingest.take(start, bytes).await,
            Self::Spool(writer) => writer.take(start, bytes).await,
        }
    }

    async fn flush(&mut self) -> Result<()> {
        match self {
            Self::Repository(ingest) => ingest.flush().await,
            Self::Spool(writer) => writer.flush().await,
        }
    }

    async fn keep_house(&mut self, settings: &StreamSettings, progress: &StreamProgress) -> Result<()> {
        match self {
            Self::Repository(ingest) => keep_house(settings, ingest, progress).await,
            Self::Spool(_) => Ok(()),
        }
    }
}

/// What a stream needs to know.
#[derive(Clone)]
pub struct StreamSettings {
    /// Where to store.
    pub shelf: Shelf,
    /// The server.
    pub server: Server,
    /// The constants of its WAL.
    pub constants: WalConstants,
    /// The slot to stream through.
    pub slot: String,
    /// How soon the open segment is made durable in the sink.
    pub pace: Pace,
    /// What arrives goes here first, and is acknowledged from here; straight into the repository without it.
    pub spool: Option<Arc<Spool>>,
    /// How often the server's clock is stored while it writes nothing: [`IDLE_EVERY`], or more often for a test.
    pub idle: Duration,
}

/// How a timeline's stream ended.
enum End {
    Stopped,
    Switched { timeline: Timeline },
}

/// How far the latest restorable time of an idle instance lags behind.
pub const IDLE_EVERY: Duration = Duration::from_secs(30);

/// How often the server's clock is read.
const OBSERVE_EVERY: Duration = Duration::from_secs(2);

/// Reads the server's clock, and then its flush position, every few seconds until the stream ends (rule 10): once WAL is
/// durable through that position, every commit acknowledged before that moment is. An idle instance moves on by this.
pub async fn observe(world: asof_world::World, server: Server, progress: Arc<StreamProgress>) {
    let mut connection = None;
    while !progress.has_ended() && !progress.wants_stop() {
        // A server that cannot be asked now is asked again; the stream itself reports what is wrong with it.
        if connection.is_none() {
            connection = server.connect().await.ok();
        }
        if let Some(open) = &mut connection {
            match read_clock(open).await {
                Ok(observation) => progress.observe(observation),
                Err(_) => connection = None,
            }
        }
        let until = world.monotonic() + OBSERVE_EVERY;
        while world.monotonic() < until && !progress.has_ended() && !progress.wants_stop() {
            world.sleep(LOOK_EVERY * 10).await;
        }
    }
    if let Some(open) = connection {
        open.close().await;
    }
}

async fn read_clock(connection: &mut asof_postgres::client::Connection) -> Result<Observation> {
    let clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let time = connection.query_one(clock).await?.parse_required(0)?;
    let position = "SELECT pg_current_wal_flush_lsn()";
    let flushed: Lsn = connection.query_one(position).await?.parse_required(0)?;
    Ok(Observation { time, flushed: flushed.0 })
}

/// Streams from `start` (rounded down to a segment) on `timeline` until it is asked to stop, following timeline switches.
/// The slot exists already.
pub async fn run(settings: StreamSettings, feed: Feed, timeline: Timeline, start: Lsn, progress: Arc<StreamProgress>) {
    let result = follow(&settings, feed, timeline, start, &progress).await;
    if let Err(error) = result {
        *progress.failure.lock().expect("no holder panics") = Some(error);
    }
    progress.ended.store(true, Ordering::Release);
}

async fn follow(
    settings: &StreamSettings,
    mut feed: Feed,
    mut timeline: Timeline,
    start: Lsn,
    progress: &Arc<StreamProgress>,
) -> Result<()> {
    let size = settings.constants.segment_size;
    let mut start = size.floor(start);
    loop {
        let history = history_of(settings, &mut feed, timeline).await?;
        let mut sink = match &settings.spool {
            Some(spool) => Sink::Spool(spool.begin(timeline, start, settings.constants.stored_segment())),
            None => {
                let shape = settings.constants.shape(history);
                Sink::Repository(Box::new(Ingest::new(settings.shelf.clone(), shape, timeline, start)?.joined().await?))
            }
        };
        progress.publish(&sink);
        let end = match feed {
            Feed::Stream(connection) => {
                let stream = connection.start_physical(Some(&settings.slot), start, timeline).await?;
                let (end, returned) = pump(settings, stream, &mut sink, progress).await?;
                feed = Feed::Stream(returned);
                end
            }
            Feed::Sql(mut connection, refused) => {
                let end = ask(settings, &mut connection, timeline, &mut sink, progress).await?;
                feed = Feed::Sql(connection, refused);
                end
            }
        };
        match end {
            End::Stopped => return Ok(()),
            End::Switched { timeline: next } => {
                // The new timeline's first segment begins with the old one's bytes; it is stored whole under its own name.
                start = size.floor(sink.received());
                timeline = next;
            }
        }
    }
}

/// Reads WAL by SQL until it is asked to stop or the timeline ends.
async fn ask(
    settings: &StreamSettings,
    connection: &mut asof_postgres::client::Connection,
    timeline: Timeline,
    sink: &mut Sink,
    progress: &StreamProgress,
) -> Result<End> {
    let (world, size) = (&settings.shelf.world, settings.constants.segment_size);
    let mut flushed = world.monotonic();
    loop {
        let horizon = feed::horizon(connection, timeline).await?;
        progress.shared.server.fetch_max(horizon.end.0, Ordering::AcqRel);
        while sink.received() < horizon.end && !progress.wants_stop() {
            let from = sink.received();
            let bytes = feed::read_wal(connection, timeline, size, from, &horizon).await?;
            sink.take(from, &bytes).await?;
            progress.publish(sink);
        }
        sink.observe(horizon.observed);
        let due = match settings.pace {
            Pace::AtOnce => true,
            Pace::Every(interval) => world.monotonic().saturating_sub(flushed) >= interval,
        };
        let ended = horizon.next.filter(|_| sink.received() >= horizon.end);
        if due || ended.is_some() || progress.wants_stop() {
            sink.flush().await?;
            feed::advance_slot(connection, &settings.slot, sink.durable()).await?;
            flushed = world.monotonic();
            progress.publish(sink);
        }
        sink.keep_house(settings, progress).await?;
        if progress.wants_stop() {
            return Ok(End::Stopped);
        }
        if let Some(timeline) = ended {
            return Ok(End::Switched { timeline });
        }
        world.sleep(ASK_EVERY).await;
    }
}

/// Gets the history of a timeline, and stores it before any WAL of it (hazard C7).
pub(super) async fn history_of(
    settings: &StreamSettings,
    feed: &mut Feed,
    timeline: Timeline,
) -> Result<TimelineHistory> {
    if timeline == Timeline::FIRST {
        return Ok(TimelineHistory::first());
    }
    let content = feed.history(timeline).await?;
    let history = TimelineHistory::parse(timeline, &content)
        .map_err(|error| Error::damaged(error.to_string(), "look at the server's pg_wal"))?;
    // A spool receives on while the repository is away.
    if settings.spool.as_ref().is_some_and(|spool| spool.knows(timeline, &content)) {
        return Ok(history);
    }
    store_history(&settings.shelf, timeline, &content).await?;
    for ancestor in history.ancestors().iter().filter(|ancestor| ancestor.timeline != Timeline::FIRST) {
        let known = read_history_of(&settings.shelf, ancestor.timeline).await;
        if known.is_err()
            && let Ok(content) = feed.history(ancestor.timeline).await
        {
            store_history(&settings.shelf, ancestor.timeline, &content).await?;
        }
    }
    if let Some(spool) = &settings.spool {
        spool.learn(timeline, &content);
    }
    Ok(history)
}

async fn read_history_of(shelf: &Shelf, timeline: Timeline) -> Result<Vec<u8>> {
    Ok(read_history(shelf.store.as_ref(), &shelf.keyring, &shelf.signers, shelf.lineage, timeline.0).await?)
}

/// Stores a history file; one that is there must be the same (hazard D3).
pub async fn store_history(shelf: &Shelf, timeline: Timeline, content: &[u8]) -> Result<()> {
    let object = write_history(&shelf.world, &shelf.keyring, shelf.lineage, timeline.0, content);
    let name = Name::History { lineage: shelf.lineage, timeline: timeline.0 }.to_string();
    if shelf.store.create(&name, object.body).await? == Created::New {
        return Ok(());
    }
    if read_history_of(shelf, timeline).await? == content || asof_world::planted("d3") {
        return Ok(());
    }
    let what = format!("timeline {timeline} is stored with another history: two servers chose the same timeline");
    Err(Error::damaged(
        what,
        "register the server that was promoted last with `asof instance add` under a name of its own",
    ))
}

async fn pump(
    settings: &StreamSettings,
    stream: WalStream,
    sink: &mut Sink,
    progress: &Arc<StreamProgress>,
) -> Result<(End, asof_postgres::client::Connection)> {
    let (mut reader, writer) = stream.split();
    let (nudge, nudged) = mpsc::channel(1);
    let world = settings.shelf.world.clone();
    let reporting = settings.shelf.world.spawn(report(world, writer, progress.clone(), nudged));
    let result = receive(settings, &mut reader, sink, progress, nudge).await;
    let writer = reporting.await;
    let end = result?;
    let connection = WalStream::join(reader, writer?).finish().await?;
    Ok((end, connection))
}

/// Tells the server how far we are, whenever that changes and at least every few seconds.
async fn report(
    world: asof_world::World,
    mut writer: WalWriter,
    progress: Arc<StreamProgress>,
    mut nudged: mpsc::Receiver<()>,
) -> Result<WalWriter> {
    let standing = || Standing { write: progress.durable(), flush: progress.durable(), apply: Lsn::INVALID };
    loop {
        // Dropped by the receiving half when it ends.
        let ended = matches!(select(nudged.next(), Box::pin(world.sleep(STATUS_EVERY))).await, Either::Left((None, _)));
        let told = writer.send_status(standing(), world.now().0 - POSTGRES_EPOCH, false).await;
        if ended {
            // The stream may have been ended by the server: then nobody listens, and nothing is lost by not saying it.
            return Ok(writer);
        }
        told?;
    }
}

async fn receive(
    settings: &StreamSettings,
    reader: &mut WalReader,
    sink: &mut Sink,
    progress: &StreamProgress,
    mut nudge: mpsc::Sender<()>,
) -> Result<End> {
    let world = &settings.shelf.world;
    let mut flushed = world.monotonic();
    loop {
        let tick = match settings.pace {
            Pace::AtOnce if sink.durable() < sink.received() => Duration::ZERO,
            _ => LOOK_EVERY * 5,
        };
        let message = match select(Box::pin(reader.next()), Box::pin(world.sleep(tick))).await {
            Either::Left((message, _)) => Some(message?),
            Either::Right(_) => None,
        };
        let idle = message.is_none();
        progress.hand_over(sink);
        if let Some(end) = handle(message, sink, progress, &mut nudge).await? {
            sink.flush().await?;
            progress.publish(sink);
            return Ok(end);
        }
        let due = match settings.pace {
            Pace::AtOnce => idle,
            Pace::Every(interval) => world.monotonic().saturating_sub(flushed) >= interval,
        };
        if due || progress.wants_stop() {
            sink.flush().await?;
            flushed = world.monotonic();
        }
        if progress.publish(sink) {
            tell(&mut nudge);
        }
        sink.keep_house(settings, progress).await?;
        if progress.wants_stop() {
            return Ok(End::Stopped);
        }
    }
}

/// What no commit waits for.
pub(super) async fn keep_house(
    settings: &StreamSettings,
    ingest: &mut Ingest,
    progress: &StreamProgress,
) -> Result<()> {
    ingest.merge().await?;
    // The last word before it ends is worth an object.
    let age = if progress.wants_stop() { Duration::from_micros(1) } else { settings.idle };
    ingest.flush_observation(age).await
}

/// Has the server told how far we are, now. One nudge that is not yet heard is as good as many.
fn tell(nudge: &mut mpsc::Sender<()>) {
    let _ = nudge.try_send(());
}

async fn handle(
    message: Option<WalMessage>,
    sink: &mut Sink,
    progress: &StreamProgress,
    nudge: &mut mpsc::Sender<()>,
) -> Result<Option<End>> {
    match message {
        None => {}
        Some(WalMessage::Data { start, server_end, bytes, .. }) => {
            progress.shared.server.fetch_max(server_end.0, Ordering::AcqRel);
            sink.take(start, &bytes).await?;
        }
        Some(WalMessage::Keepalive { server_end, reply_requested, .. }) => {
            // Its clock is no observation: the walsender reads it after the position, and a commit may lie in between.
            progress.shared.server.fetch_max(server_end.0, Ordering::AcqRel);
            if reply_requested {
                tell(nudge);
            }
        }
        Some(WalMessage::TimelineEnd { next_timeline, .. }) => {
            return Ok(Some(End::Switched { timeline: next_timeline }));
        }
    }
    Ok(None)
}
