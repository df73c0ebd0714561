//! The receiver: one slot, from where the repository ends, for as long as it is wanted.
//!
//! Where to begin is decided from what is stored and what the server has, before anything is streamed ([`begin`], a pure
//! function). Every hole is a record in the journal: WAL that the server no longer has is a gap; WAL of ours that a failover
//! left behind is a tail, which is kept and stays restorable (rule 7). A server that stands behind what is stored on its own
//! timeline, or on a timeline that the instance left, was rolled back: that is refused, because going on would mix two
//! histories (rule 5).

use std::sync::Arc;
use std::time::Duration;

use asof_postgres::client::ErrorKind;
use asof_postgres::history::{Stretch, TimelineHistory};
use asof_postgres::lsn::{Lsn, Timeline};
use asof_postgres::replication::{SlotLife, SystemIdentity};
use asof_repository::journal::Journal;
use asof_repository::lineage::{Entry, Lineage, Method, WalEvent};

use super::assemble::read_segment_info;
use super::feed::Feed;
use super::forward;
use super::spool::Spool;
use super::stream::{self, StreamProgress, StreamSettings};
use super::tail::commits_in;
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};
use crate::shelf::Shelf;
use crate::target::{history_of, timeline_to_follow};

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The name of a lineage's slot.
pub fn slot_name(shelf: &Shelf) -> String {
    format!("asof_{}", &shelf.lineage.to_string()[..12])
}

/// How far WAL is stored without a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredEnd {
    /// The newest timeline of which WAL is stored.
    pub timeline: Timeline,
    /// Behind the last stored byte of it.
    pub end: Lsn,
}

/// Where to begin, and what to record about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Nothing is stored yet: begin here.
    Fresh {
        /// On this timeline.
        timeline: Timeline,
        /// At this position.
        at: Lsn,
    },
    /// Go on where the repository ends.
    Continue(StoredEnd),
    /// The server's history left ours before our end: our tail stays behind.
    Tail {
        /// What is stored of the old timeline.
        stored: StoredEnd,
        /// The server's timeline.
        timeline: Timeline,
        /// Where it forked.
        fork: Lsn,
    },
    /// The server stands behind what is stored: on the same timeline, or on one that is older.
    RolledBack {
        /// What is stored.
        stored: StoredEnd,
        /// The server's timeline.
        timeline: Timeline,
        /// Where the server stands.
        server: Lsn,
    },
}

/// Decides where to begin. `history` is that of the server's timeline.
pub fn begin(stored: Option<StoredEnd>, server: &SystemIdentity, history: &TimelineHistory, kept: Lsn) -> Begin {
    let Some(stored) = stored else { return Begin::Fresh { timeline: server.timeline, at: kept } };
    match history.switch_point(stored.timeline) {
        Some(fork) if fork < stored.end && !asof_world::planted("c11") => {
            Begin::Tail { stored, timeline: server.timeline, fork }
        }
        // A promotion takes the next free number, so a lower one that does not descend from ours was left for ours.
        None if server.timeline < stored.timeline
            || (stored.timeline == server.timeline && server.xlogpos < stored.end) =>
        {
            Begin::RolledBack { stored, timeline: server.timeline, server: server.xlogpos }
        }
        None if stored.timeline != server.timeline => {
            // Our timeline is not in the server's history at all: it forked before ours began.
            let fork = history.ancestors().last().map_or(Lsn(0), |ancestor| ancestor.switch_point);
            Begin::Tail { stored, timeline: server.timeline, fork }
        }
        _ => Begin::Continue(stored),
    }
}

/// How far WAL is stored, found by reading forward from the last position that the journal knows.
pub async fn stored_end(shelf: &Shelf, state: &Lineage, size: u64) -> Result<Option<StoredEnd>> {
    let Some((mut timeline, mut known)) = last_known(state) else { return Ok(None) };
    loop {
        let next = timeline_to_follow(shelf, size, timeline, known).await?;
        if next == timeline {
            return Ok(Some(end_on(shelf, timeline, known, size).await?));
        }
        let history = history_of(shelf, next).await?;
        known = history.ancestors().last().map_or(known, |ancestor| ancestor.switch_point);
        timeline = next;
    }
}

/// How far one timeline is stored from `known` on, in its own files.
async fn end_on(shelf: &Shelf, timeline: Timeline, known: Lsn, size: u64) -> Result<StoredEnd> {
    let (mut end, mut start) = (known, Lsn(known.0 / size * size));
    loop {
        let infos = read_segment_info(shelf, timeline, start, size).await?;
        let Some(last) = infos.last() else { return Ok(StoredEnd { timeline, end }) };
        end = end.max(Lsn(last.end));
        if last.end < start.0 + size {
            return Ok(StoredEnd { timeline, end });
        }
        start = Lsn(start.0 + size);
    }
}

/// The newest position up to which WAL is known to be stored.
fn last_known(state: &Lineage) -> Option<(Timeline, Lsn)> {
    let physical = state.backups.values().filter(|known| known.backup.method == Method::Physical);
    let backups = physical.map(|known| (known.backup.timeline, known.backup.stop));
    let events = state.wal.iter().map(|event| match *event {
        WalEvent::Started { timeline, start } => (timeline, start),
        WalEvent::Gap { timeline, to, .. } => (timeline, to),
        WalEvent::Switched { to, at, .. } => (to, at),
    });
    backups.chain(events).max().map(|(timeline, at)| (Timeline(timeline), Lsn(at)))
}

/// A hole in the stored WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The first missing position.
    pub from: Lsn,
    /// The first position that is stored again.
    pub to: Lsn,
}

/// The first hole behind the position `stop` of a backup: nothing behind it can be restored from that backup.
pub fn first_hole(state: &Lineage, stop: Lsn) -> Option<Hole> {
    let holes = state.wal.iter().filter_map(|event| match *event {
        WalEvent::Gap { from, to, .. } if Lsn(to) > stop => Some(Hole { from: Lsn(from), to: Lsn(to) }),
        _ => None,
    });
    let mut holes: Vec<Hole> = holes.collect();
    holes.sort_by_key(|hole| hole.from);
    // One that crosses a fork is recorded once for each timeline.
    holes.into_iter().reduce(|first, next| if next.from == first.to { Hole { to: next.to, ..first } } else { first })
}

/// How far the instance can be restored: to the first hole behind its newest backup, or to the end of what is stored. Nothing
/// can be restored without a backup.
pub fn restorable_end(state: &Lineage, stored: Option<StoredEnd>) -> Option<Lsn> {
    let stop = Lsn(state.physical().last()?.backup.stop);
    match first_hole(state, stop) {
        Some(hole) => Some(hole.from.max(stop)),
        None => Some(stored.map_or(stop, |stored| stored.end.max(stop))),
    }
}

/// Receives until it is asked to stop. A server or store that does not answer is asked again for ever; anything that could
/// damage what is stored ends the receiver.
pub async fn receive(
    settings: &StreamSettings,
    progress: Arc<StreamProgress>,
    observer: Arc<dyn Observer>,
) -> Result<()> {
    let Some(spool) = settings.spool.clone() else {
        return receive_again_and_again(settings, &progress, &observer).await;
    };
    let forwarding = forward::run(settings.clone(), spool.clone(), progress.clone(), observer.clone());
    let forwarding = settings.shelf.world.spawn(forwarding);
    // What an earlier process left comes first: whether this host has it for certain, only the repository can say.
    let result = match drained(settings, &spool, &progress).await {
        Ok(()) => receive_again_and_again(settings, &progress, &observer).await,
        failed => failed,
    };
    spool.close();
    forwarding.await;
    result.and(spool.check())
}

/// Waits until the repository has everything that is in the spool, or the receiver is asked to stop.
async fn drained(settings: &StreamSettings, spool: &Spool, progress: &StreamProgress) -> Result<()> {
    while spool.end().is_some() && !progress.wants_stop() {
        spool.check()?;
        settings.shelf.world.sleep(Duration::from_millis(50)).await;
    }
    spool.check()
}

async fn receive_again_and_again(
    settings: &StreamSettings,
    progress: &Arc<StreamProgress>,
    observer: &Arc<dyn Observer>,
) -> Result<()> {
    let world = &settings.shelf.world;
    let mut wait = FIRST_WAIT;
    while !progress.wants_stop() {
        settings.spool.as_ref().map_or(Ok(()), |spool| spool.check())?;
        let before = progress.durable();
        match receive_once(settings, progress, observer).await {
            Ok(()) => return Ok(()),
            Err(error) if is_transient(&error) => {
                wait = if progress.durable() > before { FIRST_WAIT } else { LONGEST_WAIT.min(wait * 2) };
                observer.event(Event::Warning(format!("{}; trying again", describe(&error))));
                let until = world.monotonic() + wait;
                while world.monotonic() < until && !progress.wants_stop() {
                    world.sleep(Duration::from_millis(50)).await;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Whether waiting may help: the server restarts, the network or the store is away, the slot is still held by our last session, the
/// disk of the spool is full.
pub(super) fn is_transient(error: &Error) -> bool {
    match error {
        Error::Client(error) => {
            error.kind() == ErrorKind::Unavailable
                || matches!(error.sqlstate(), Some("55006" | "57P01" | "57P02" | "57P03"))
        }
        Error::Repository(error) => error.is_transient(),
        Error::Files { .. } | Error::NotYet { .. } => true,
        _ => false,
    }
}

async fn receive_once(
    settings: &StreamSettings,
    progress: &Arc<StreamProgress>,
    observer: &Arc<dyn Observer>,
) -> Result<()> {
    let mut feed = Feed::open(&settings.server).await?;
    if let Some(remark) = feed.remark(&settings.server.config.user) {
        observer.event(Event::Warning(remark));
    }
    // Before the server says where it stands: what another receiver stores meanwhile would look like a server that went back.
    let mut known = known(settings).await?;
    let identity = feed.identity().await?;
    if identity.system_id != settings.constants.system_identifier {
        let what = format!("the server has system identifier {}, not that of the instance", identity.system_id);
        return Err(Error::refused(what, "register it under a name of its own with `asof instance add`"));
    }
    let (kept, in_recovery) = ensure_slot(settings, &mut feed).await?;
    let history = stream::history_of(settings, &mut feed, identity.timeline).await?;
    let mut decision = begin(known.stored, &identity, &history, kept);
    if known.journal.is_none() && !matches!(decision, Begin::Continue(_)) {
        // It takes an entry, which counts on what the repository holds.
        known = in_repository(settings, progress).await?;
        if known.journal.is_none() {
            // Asked to stop before that.
            return Ok(());
        }
        decision = begin(known.stored, &identity, &history, kept);
    }
    if let (Begin::RolledBack { stored, timeline, server }, true) = (&decision, in_recovery) {
        return Err(lagging(stored, *timeline, *server));
    }
    let lost = match &decision {
        Begin::Tail { stored, fork, .. } => {
            commits_in(&settings.shelf, &settings.constants, stored.timeline, *fork, stored.end).await?
        }
        _ => None,
    };
    let (timeline, start, entry) = act_on(&decision, lost)?;
    if let (Some(journal), Some(entry)) = (&mut known.journal, entry) {
        let epoch = journal.state().epoch;
        journal.append(epoch, entry).await?;
    }
    if let Begin::Tail { stored, fork, .. } = &decision {
        let commits = lost.map_or_else(|| "an unknown number of".to_owned(), |commits| commits.to_string());
        let what = format!(
            "a failover left WAL {fork} .. {} of timeline {} behind, with {commits} commits; it is kept",
            stored.end, stored.timeline
        );
        observer.event(Event::Warning(what));
    }
    if known.journal.is_some() {
        progress.publish_stored(start);
    }
    observer.event(Event::Note(format!("streaming from {start} on timeline {timeline}")));
    match run_stream(settings, feed, timeline, start, progress).await {
        Err(error) if is_gone(&error) => {
            let known = in_repository(settings, progress).await?;
            bridge(settings, known, &history, kept, observer).await
        }
        settled => settled,
    }
}

/// A standby that stands behind what is stored has not received it yet, and will.
fn lagging(stored: &StoredEnd, timeline: Timeline, server: Lsn) -> Error {
    let StoredEnd { timeline: newest, end } = stored;
    let what = format!(
        "the standby stands at {server} on timeline {timeline}, behind {end} on timeline {newest}, which is stored"
    );
    Error::NotYet { what }
}

/// What is known before a stream begins.
struct Known {
    /// Read when the repository says where WAL ends.
    journal: Option<Journal<Lineage>>,
    stored: Option<StoredEnd>,
}

/// Where WAL ends: in the spool while it holds anything, so that a repository that is away keeps nobody from receiving.
async fn known(settings: &StreamSettings) -> Result<Known> {
    if let Some(end) = settings.spool.as_ref().and_then(|spool| spool.end()) {
        return Ok(Known { journal: None, stored: Some(end) });
    }
    let journal = settings.shelf.journal().await?;
    let stored = stored_end(&settings.shelf, journal.state(), settings.constants.stored_segment()).await?;
    Ok(Known { journal: Some(journal), stored })
}

/// The same, once the repository has all that the spool holds.
async fn in_repository(settings: &StreamSettings, progress: &StreamProgress) -> Result<Known> {
    if let Some(spool) = &settings.spool {
        drained(settings, spool, progress).await?;
    }
    known(settings).await
}

/// Whether the server says that it does not have the WAL any more.
fn is_gone(error: &Error) -> bool {
    match error {
        Error::Client(error) => error.sqlstate() == Some("58P01"),
        Error::Gone { .. } => true,
        _ => false,
    }
}

/// The server no longer has the WAL that we need next: the hole becomes a record, and the stream goes on behind it. The stream
/// may have got on before it met the hole, so where that begins was looked up again.
async fn bridge(
    settings: &StreamSettings,
    known: Known,
    history: &TimelineHistory,
    kept: Lsn,
    observer: &Arc<dyn Observer>,
) -> Result<()> {
    // Asked to stop before the repository had what is in the spool: the next receiver meets the same hole.
    let Some(mut journal) = known.journal else { return Ok(()) };
    let from = known.stored.expect("where a stream begins is recorded before it does").end;
    let to = settings.constants.segment_size.floor(kept);
    if to <= from {
        let what = format!("the server has no WAL from {from} on, although its slot keeps {kept}");
        return Err(Error::damaged(what, "look at the server's pg_wal; drop the slot and run the receiver again"));
    }
    for (timeline, hole) in by_timeline(history, Hole { from, to }) {
        let epoch = journal.state().epoch;
        let reason = "the server had removed it before it was received".to_owned();
        let entry = match asof_world::planted("c5") {
            true => Entry::WalStarted { timeline: timeline.0, start: hole.to.0 },
            false => Entry::WalGap { timeline: timeline.0, from: hole.from.0, to: hole.to.0, reason },
        };
        journal.append(epoch, entry).await?;
    }
    observer.event(Event::Warning(format!("WAL {from} .. {to} is lost; make a new backup to protect what follows")));
    Err(Error::NotYet { what: format!("the gap behind {from} is recorded, and the stream goes on behind it") })
}

/// The parts of a hole that lie on each timeline of the server's history.
fn by_timeline(history: &TimelineHistory, hole: Hole) -> Vec<(Timeline, Hole)> {
    let part = |stretch: Stretch| {
        let from = stretch.start.max(hole.from);
        let to = stretch.end.map_or(hole.to, |end| end.min(hole.to));
        (from < to).then_some((stretch.timeline, Hole { from, to }))
    };
    history.stretches().into_iter().filter_map(part).collect()
}

/// Where to stream from, and what to record: `commits` is the number of those in a tail, if it is known.
fn act_on(decision: &Begin, commits: Option<u64>) -> Result<(Timeline, Lsn, Option<Entry>)> {
    match *decision {
        Begin::Fresh { timeline, at } => {
            Ok((timeline, at, Some(Entry::WalStarted { timeline: timeline.0, start: at.0 })))
        }
        Begin::Continue(stored) => Ok((stored.timeline, stored.end, None)),
        Begin::Tail { stored, timeline, fork } => {
            let (from, to) = (stored.timeline.0, timeline.0);
            let entry = Entry::TimelineSwitched { from, to, at: fork.0, durable: stored.end.0, commits };
            Ok((timeline, fork, Some(entry)))
        }
        Begin::RolledBack { stored, timeline, server } => {
            let StoredEnd { timeline: newest, end } = stored;
            let what = if timeline == newest {
                format!(
                    "the server stands at {server} on timeline {timeline}, behind {end}, which is stored: it was rolled back"
                )
            } else {
                format!(
                    "the server stands on timeline {timeline}, which the instance left for timeline {newest}: \
                     it was rolled back, or is the old primary of a failover"
                )
            };
            Err(Error::damaged(what, "register this server with `asof instance add` under a name of its own"))
        }
    }
}

/// Makes the slot if it is not there. Returns from where on it keeps WAL, and whether the server is a standby.
async fn ensure_slot(settings: &StreamSettings, feed: &mut Feed) -> Result<(Lsn, bool)> {
    let mut sql = settings.server.connect().await?;
    let in_recovery = sql.query_one("SELECT pg_is_in_recovery()").await?.required(0)? == "t";
    let found = sql.slot_by_sql(&settings.slot).await?;
    let lost = found.as_ref().is_some_and(|slot| slot.wal_status.as_deref() == Some("lost"));
    if lost {
        // The server gave it up (`max_slot_wal_keep_size`, from 18 on also idleness), and newer ones never stream from it again.
        sql.query_params("SELECT pg_drop_replication_slot($1)", &[Some(&settings.slot)]).await?;
    }
    if lost || found.is_none() {
        feed.make_slot(&settings.slot, SlotLife::Permanent).await?;
    }
    let view = sql.slot_by_sql(&settings.slot).await?;
    let position: Option<Lsn> = view.and_then(|view| view.restart_lsn);
    let kept = match position {
        Some(kept) => kept,
        None if in_recovery => sql.query_one("SELECT pg_last_wal_replay_lsn()").await?.parse_required(0)?,
        None => sql.query_one("SELECT pg_current_wal_flush_lsn()").await?.parse_required(0)?,
    };
    sql.close().await;
    Ok((settings.constants.segment_size.floor(kept), in_recovery))
}

async fn run_stream(
    settings: &StreamSettings,
    feed: Feed,
    timeline: Timeline,
    start: Lsn,
    progress: &Arc<StreamProgress>,
) -> Result<()> {
    let round = Arc::new(StreamProgress::following(progress));
    let observing = settings.shelf.world.spawn(stream::observe(
        settings.shelf.world.clone(),
        settings.server.clone(),
        round.clone(),
    ));
    stream::run(settings.clone(), feed, timeline, start, round.clone()).await;
    observing.await;
    round.failure().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use asof_postgres::history::Ancestor;

    fn server(timeline: u32, at: u64) -> SystemIdentity {
        SystemIdentity { system_id: 1, timeline: Timeline(timeline), xlogpos: Lsn(at), dbname: None }
    }

    fn forked(at: u64) -> TimelineHistory {
        let ancestor = Ancestor { timeline: Timeline(1), switch_point: Lsn(at), reason: Vec::new() };
        TimelineHistory::new(Timeline(2), vec![ancestor]).expect("a valid history")
    }

    fn stored(timeline: u32, end: u64) -> StoredEnd {
        StoredEnd { timeline: Timeline(timeline), end: Lsn(end) }
    }

    #[test]
    fn an_empty_repository_begins_where_the_slot_keeps_wal() {
        let decision = begin(None, &server(1, 900), &TimelineHistory::first(), Lsn(500));
        assert_eq!(decision, Begin::Fresh { timeline: Timeline(1), at: Lsn(500) });
    }

    #[test]
    fn a_receiver_goes_on_where_the_repository_ends() {
        let decision = begin(Some(stored(1, 800)), &server(1, 900), &TimelineHistory::first(), Lsn(500));
        assert_eq!(decision, Begin::Continue(stored(1, 800)));
        let decision = begin(Some(stored(1, 800)), &server(2, 900), &forked(800), Lsn(500));
        assert_eq!(decision, Begin::Continue(stored(1, 800)));
    }

    #[test]
    fn hz_c11_a_failover_below_the_stored_end_leaves_a_tail() {
        let decision = begin(Some(stored(1, 800)), &server(2, 900), &forked(700), Lsn(500));
        assert_eq!(decision, Begin::Tail { stored: stored(1, 800), timeline: Timeline(2), fork: Lsn(700) });
    }

    #[test]
    fn hz_c11_nothing_behind_a_hole_counts_as_restorable() {
        let mut state = Lineage::default();
        assert_eq!(restorable_end(&state, Some(stored(1, 900))), None, "without a backup");
        state.wal = vec![
            WalEvent::Gap { timeline: 1, from: 100, to: 200 },
            WalEvent::Gap { timeline: 1, from: 600, to: 700 },
            WalEvent::Gap { timeline: 1, from: 400, to: 500 },
        ];
        let hole = |from, to| Some(Hole { from: Lsn(from), to: Lsn(to) });
        assert_eq!(first_hole(&state, Lsn(300)), hole(400, 500));
        assert_eq!(first_hole(&state, Lsn(550)), hole(600, 700));
        assert_eq!(first_hole(&state, Lsn(700)), None);
        state.wal.push(WalEvent::Gap { timeline: 2, from: 500, to: 550 });
        assert_eq!(first_hole(&state, Lsn(300)), hole(400, 550), "it goes on behind the fork");
    }

    #[test]
    fn a_server_behind_the_stored_end_on_its_own_timeline_was_rolled_back() {
        let rolled_back = |stored, timeline, server| Begin::RolledBack { stored, timeline, server };
        let decision = begin(Some(stored(1, 800)), &server(1, 700), &TimelineHistory::first(), Lsn(500));
        assert_eq!(decision, rolled_back(stored(1, 800), Timeline(1), Lsn(700)));
        // Before a promotion that is stored, wherever it stands; and whatever it still has.
        for at in [700, 1700] {
            let decision = begin(Some(stored(2, 800)), &server(1, at), &TimelineHistory::first(), Lsn(at));
            assert_eq!(decision, rolled_back(stored(2, 800), Timeline(1), Lsn(at)));
        }
    }

    #[test]
    fn hz_c11_a_hole_across_a_fork_has_a_part_on_each_timeline() {
        let parts = |history: &TimelineHistory, from, to| -> Vec<(u32, u64, u64)> {
            let parts = by_timeline(history, Hole { from: Lsn(from), to: Lsn(to) });
            parts.into_iter().map(|(timeline, hole)| (timeline.0, hole.from.0, hole.to.0)).collect()
        };
        assert_eq!(parts(&TimelineHistory::first(), 500, 900), [(1, 500, 900)]);
        assert_eq!(parts(&forked(700), 500, 900), [(1, 500, 700), (2, 700, 900)]);
        assert_eq!(parts(&forked(700), 500, 700), [(1, 500, 700)]);
        assert_eq!(parts(&forked(700), 700, 900), [(2, 700, 900)]);
    }
}
