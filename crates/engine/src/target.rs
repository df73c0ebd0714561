//! Recovery targets: from what a person asks for to the last record that is applied.
//!
//! PostgreSQL compares the *start* of records, fails when a target lies behind the last record, and pauses where nobody
//! looks. So every target is resolved here, before anything is written, to a timeline and the start of the last record to be
//! applied, and only that is ever handed to PostgreSQL (rule 3). Time resolves as PostgreSQL does it: in WAL order, up to the
//! first commit or abort whose timestamp is greater than the target (not less than, when exclusive).

use std::fmt;

use asof_postgres::control::{StandbyMinimums, WalLevel};
use asof_postgres::history::TimelineHistory;
use asof_postgres::lsn::{Lsn, Timeline};
use asof_postgres::wal::{Decoded, Event, Prepared, StopReason, WalDecoder};
use asof_repository::wal::read_history;
use asof_world::{Timestamp, planted};

use crate::error::{Error, Result};
use crate::shelf::Shelf;
use crate::time;
use crate::wal::assemble::{read_segment, read_segment_info};
use crate::wal::shape::WalConstants;

/// What a person asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Everything that is stored.
    Latest,
    /// The end of the backup itself.
    Backup,
    /// As of a moment.
    Time(Timestamp),
    /// As of a position.
    Lsn(Lsn),
    /// As of the end of a transaction.
    Xid(u32),
    /// As of a named restore point.
    Name(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("the latest stored state"),
            Self::Backup => f.write_str("the end of the backup"),
            Self::Time(at) => f.write_str(&time::rfc3339(*at)),
            Self::Lsn(at) => write!(f, "WAL position {at}"),
            Self::Xid(xid) => write!(f, "transaction {xid}"),
            Self::Name(name) => write!(f, "restore point \"{name}\""),
        }
    }
}

/// Something in WAL near the target that helps a person to judge it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landmark {
    /// The start of its record.
    pub at: Lsn,
    /// Its timestamp.
    pub time: Timestamp,
    /// What happened.
    pub what: String,
}

/// A target, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The timeline.
    pub timeline: Timeline,
    /// Its ancestors.
    pub history: TimelineHistory,
    /// The start of the last record to be applied.
    pub last: Lsn,
    /// Where that record ends: what is replayed when it was.
    pub end: Lsn,
    /// The last commit that is inside.
    pub before: Option<Landmark>,
    /// The first commit that is not.
    pub after: Option<Landmark>,
    /// Commits with a timestamp inside the target that lie behind it: the clock stepped back.
    pub stepped_back: Vec<Landmark>,
    /// Transactions that are prepared at the target: they hold their locks in the restored instance.
    pub prepared: Vec<String>,
    /// Behind the last stored byte of WAL.
    pub stored_to: Lsn,
    /// What a server must at least be configured with to replay this WAL, as far as it says so.
    pub minimums: Option<StandbyMinimums>,
    /// Tablespaces that were created in it: replay makes them at their original place.
    pub tablespaces: Vec<String>,
}

/// The part of the history that a restore walks along.
pub struct Path<'a> {
    /// The lineage's place.
    pub shelf: &'a Shelf,
    /// The constants of its WAL.
    pub constants: &'a WalConstants,
    /// The timeline to follow.
    pub timeline: Timeline,
    /// Its ancestors.
    pub history: TimelineHistory,
}

impl<'a> Path<'a> {
    /// The path to `timeline`.
    pub async fn to(shelf: &'a Shelf, constants: &'a WalConstants, timeline: Timeline) -> Result<Path<'a>> {
        let history = history_of(shelf, timeline).await?;
        Ok(Self { shelf, constants, timeline, history })
    }

    /// The timeline whose file holds the byte at `at`: that of the last byte in PostgreSQL's segment, as PostgreSQL reads.
    pub fn timeline_of(&self, at: Lsn) -> Timeline {
        let size = self.constants.segment_size;
        self.history.timeline_at(Lsn(size.floor(at).0 + u64::from(size.bytes()) - 1))
    }

    /// The bytes of the stored segment that begins at `start`.
    pub async fn segment(&self, start: Lsn) -> Result<Option<crate::wal::assemble::Segment>> {
        read_segment(self.shelf, self.timeline_of(start), start, self.constants.stored_segment()).await
    }
}

/// The history of a timeline, from the repository.
pub async fn history_of(shelf: &Shelf, timeline: Timeline) -> Result<TimelineHistory> {
    if timeline == Timeline::FIRST {
        return Ok(TimelineHistory::first());
    }
    let Shelf { store, keyring, signers, lineage, .. } = shelf;
    let content = read_history(store.as_ref(), keyring, signers, *lineage, timeline.0).await?;
    TimelineHistory::parse(timeline, &content).map_err(|error| {
        Error::damaged(error.to_string(), "choose another backup, and look at the disk of the repository")
    })
}

/// The newest timeline that continues `from` behind `position` and of which WAL is stored behind its fork.
///
/// A history is stored before any WAL of its timeline; until that has arrived, the older timeline is all that there is, and
/// following the new one would lose what is stored of the segment in which they part.
pub async fn timeline_to_follow(shelf: &Shelf, segment_size: u64, from: Timeline, position: Lsn) -> Result<Timeline> {
    for history in descendants(shelf, from, position).await?.iter().rev() {
        let fork = history.ancestors().last().map_or(Lsn(0), |ancestor| ancestor.switch_point);
        let segment = Lsn(fork.0 / segment_size * segment_size);
        let stored = read_segment_info(shelf, history.timeline(), segment, segment_size).await?;
        if stored.iter().any(|info| info.end > fork.0) {
            return Ok(history.timeline());
        }
    }
    Ok(from)
}

/// The timelines that continue `from` behind `position`, found by reading the histories that follow it.
async fn descendants(shelf: &Shelf, from: Timeline, position: Lsn) -> Result<Vec<TimelineHistory>> {
    let (mut found, mut candidate) = (Vec::new(), from.0);
    // PostgreSQL gives a new timeline the next free number, so numbers have no holes in the histories of one lineage;
    // a few are skipped in case one was never received.
    let mut missing = 0;
    while missing < 4 {
        candidate += 1;
        match history_of(shelf, Timeline(candidate)).await {
            Ok(history) => {
                missing = 0;
                found.extend((history.reaches(from, position) || planted("d5")).then_some(history));
            }
            Err(Error::Repository(error)) if error.is_not_found() => missing += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// What is asked for, and how its border is meant.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The target.
    pub target: Target,
    /// Whether a commit exactly at the target belongs to it.
    pub inclusive: bool,
}

impl Wanted {
    /// Whether a commit of that time belongs to the target; no commit does when the target is no time.
    fn has_by(&self, commit: Timestamp) -> bool {
        match self.target {
            Target::Time(target) if self.inclusive => commit <= target,
            Target::Time(target) => commit < target,
            _ => false,
        }
    }
}

/// The backup that a target is resolved for.
#[derive(Clone, Debug)]
pub struct Base {
    /// Replay begins here.
    pub start: Lsn,
    /// It is consistent from here on.
    pub stop: Lsn,
    /// Transactions that are prepared in its files.
    pub prepared: Vec<Prepared>,
}

/// Resolves `wanted` on a path, for a restore that begins with `base`.
///
/// All WAL from its start on is looked at, for a time too: what is prepared, which settings replay needs and whether it can
/// be replayed at all is known only by who has seen everything that replay will see.
pub async fn resolve(path: &Path<'_>, base: &Base, wanted: &Wanted) -> Result<Resolved> {
    let mut walk = Walk::new(path, base, wanted);
    walk.run(path.constants.segment_size.floor(base.start)).await?;
    walk.finish()
}

/// Decodes WAL until the target is decided.
struct Walk<'a> {
    path: &'a Path<'a>,
    wanted: &'a Wanted,
    start: Lsn,
    stop: Lsn,
    /// Start and end of the last record that belongs to the target.
    last: Option<(Lsn, Lsn)>,
    /// Whether the next records are only looked at for landmarks.
    decided: bool,
    /// Whether what was asked for was seen.
    found: bool,
    before: Option<Landmark>,
    after: Option<Landmark>,
    stepped_back: Vec<Landmark>,
    prepared: Vec<(u32, String)>,
    stored_to: Lsn,
    ended_by: Option<String>,
    minimums: Option<StandbyMinimums>,
    tablespaces: Vec<String>,
    /// Where WAL says that it cannot be replayed through.
    minimal: Option<Lsn>,
}

impl<'a> Walk<'a> {
    fn new(path: &'a Path<'a>, base: &Base, wanted: &'a Wanted) -> Self {
        Self {
            path,
            wanted,
            start: base.start,
            stop: base.stop,
            last: None,
            decided: false,
            found: false,
            before: None,
            after: None,
            stepped_back: Vec::new(),
            prepared: base.prepared.iter().map(named).collect(),
            stored_to: Lsn(0),
            ended_by: None,
            minimums: None,
            tablespaces: Vec::new(),
            minimal: None,
        }
    }

    fn size(&self) -> u64 {
        self.path.constants.stored_segment()
    }

    async fn run(&mut self, first: Lsn) -> Result<()> {
        let shape = self.path.constants.shape(self.path.history.clone());
        let damaged = |error: asof_postgres::wal::StartError| {
            Error::damaged(error.to_string(), "choose another backup, and look at the disk of the repository")
        };
        let mut decoder = WalDecoder::new(shape, first).map_err(damaged)?;
        let mut at = first;
        loop {
            let Some(segment) = self.path.segment(at).await? else { return Ok(()) };
            self.stored_to = segment.end();
            decoder.feed(&segment.bytes);
            if !self.drain(&mut decoder)? || (segment.bytes.len() as u64) < self.size() {
                return Ok(());
            }
            if self.decided && self.after.is_some() && !matches!(self.wanted.target, Target::Time(_)) {
                return Ok(());
            }
            // For a time, a few more segments show whether the clock stepped back behind the target.
            if self.decided && self.last.is_some_and(|(_, end)| segment.end().0 > end.0 + 4 * self.size()) {
                return Ok(());
            }
            at = Lsn(at.0 + self.size());
        }
    }

    /// Looks at every record that is complete; false when the valid WAL ends.
    fn drain(&mut self, decoder: &mut WalDecoder) -> Result<bool> {
        loop {
            match decoder.next() {
                Decoded::NeedMore => return Ok(true),
                Decoded::Record(record) => {
                    let event = record.event().unwrap_or(Event::Other);
                    self.look(record.start, record.end, event);
                }
                Decoded::Stop(stop) => {
                    if !matches!(stop.reason, StopReason::Zeroes) {
                        self.ended_by = Some(stop.to_string());
                    }
                    return Ok(false);
                }
            }
        }
    }

    fn look(&mut self, start: Lsn, end: Lsn, event: Event) {
        let landmark = landmark(start, &event);
        if self.decided {
            if let Some(landmark) = landmark {
                self.look_behind(landmark);
            }
            return;
        }
        // What lies before the backup is in its files, whatever its clock said.
        let verdict = if start < self.start { Verdict::Before } else { self.judge(start, &event) };
        match verdict {
            Verdict::Before => self.include(start, end, &event, landmark),
            Verdict::Last => {
                self.include(start, end, &event, landmark);
                (self.decided, self.found) = (true, true);
            }
            Verdict::Behind => {
                (self.decided, self.found) = (true, true);
                self.after = landmark;
            }
        }
    }

    fn look_behind(&mut self, landmark: Landmark) {
        if self.wanted.has_by(landmark.time) && self.stepped_back.len() < 10 {
            self.stepped_back.push(landmark.clone());
        }
        self.after.get_or_insert(landmark);
    }

    fn include(&mut self, start: Lsn, end: Lsn, event: &Event, landmark: Option<Landmark>) {
        self.last = Some((start, end));
        self.before = landmark.or(self.before.take());
        match event {
            Event::Prepared(prepared) => {
                // It may stand in the backup's files already.
                self.prepared.retain(|(xid, _)| *xid != prepared.xid);
                self.prepared.push(named(prepared));
            }
            Event::ParameterChange { minimums, wal_level, .. } => {
                self.minimums = Some(larger(self.minimums, *minimums));
                self.minimal = (*wal_level == WalLevel::Minimal).then_some(start).or(self.minimal);
            }
            Event::TablespaceCreated { path, .. } => {
                self.tablespaces.push(String::from_utf8_lossy(path).into_owned());
            }
            Event::TransactionEnd(ended) => self.prepared.retain(|(xid, _)| *xid != ended.xid),
            _ => {}
        }
    }

    fn judge(&self, start: Lsn, event: &Event) -> Verdict {
        let inclusive = self.wanted.inclusive || planted("e4");
        match (&self.wanted.target, event) {
            (Target::Backup, _) if start >= self.stop => Verdict::Behind,
            (Target::Time(_), Event::TransactionEnd(end)) => {
                if self.wanted.has_by(Timestamp(end.time_unix_micros)) {
                    Verdict::Before
                } else {
                    Verdict::Behind
                }
            }
            (Target::Lsn(target), _) if start >= *target => {
                if inclusive {
                    Verdict::Last
                } else {
                    Verdict::Behind
                }
            }
            (Target::Xid(xid), Event::TransactionEnd(end)) if end.xid == *xid => {
                if inclusive {
                    Verdict::Last
                } else {
                    Verdict::Behind
                }
            }
            (Target::Name(name), Event::RestorePoint { name: found, .. }) if name.as_bytes() == found => Verdict::Last,
            _ => Verdict::Before,
        }
    }

    fn finish(self) -> Result<Resolved> {
        let target = &self.wanted.target;
        let Some((last, end)) = self.last else {
            let what = format!("no WAL is stored from which {target} could be reached");
            return Err(Error::refused(what, "see the recovery window with `asof status`"));
        };
        if end < self.stop && !planted("e2") {
            return Err(self.too_early(end));
        }
        if let Some(at) = self.minimal {
            let what = format!("the server ran with wal_level=minimal from {at} on, and {target} lies behind that");
            return Err(Error::refused(what, "choose a target before it, or a backup made after it"));
        }
        // A receiver stores only WAL that continues what was before, so what is stored is valid up to its end.
        if let (Target::Latest | Target::Time(_), false, Some(reason)) = (target, self.decided, &self.ended_by) {
            let what = format!("the stored WAL breaks off at {end}, before its end at {}: {reason}", self.stored_to);
            let hint = format!("run `asof verify`; what lies before is restored with --target-lsn {end}");
            return Err(Error::damaged(what, hint));
        }
        let reached = match target {
            Target::Latest | Target::Backup => true,
            Target::Lsn(at) => self.found || *at <= end,
            Target::Time(_) => true, // whether it lies in the window is judged by the caller, who knows its end
            Target::Xid(_) | Target::Name(_) => self.found,
        };
        if !reached {
            let why = self.ended_by.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            let what = format!("{target} is not in the stored WAL, which ends at {end}{why}");
            return Err(Error::refused(what, "use --latest, or see the recovery window with `asof status`"));
        }
        Ok(Resolved {
            timeline: self.path.timeline,
            history: self.path.history.clone(),
            last,
            end,
            before: self.before,
            after: self.after,
            stepped_back: self.stepped_back,
            prepared: self.prepared.into_iter().map(|(_, gid)| gid).collect(),
            stored_to: self.stored_to,
            minimums: self.minimums,
            tablespaces: self.tablespaces,
        })
    }

    fn too_early(&self, end: Lsn) -> Error {
        let (target, stop) = (&self.wanted.target, self.stop);
        let what = format!(
            "{target} lies before the end of the backup: it reaches {end}, the backup is consistent from {stop} on"
        );
        Error::refused(what, "choose a later target or an earlier backup; `asof backup list` shows them")
    }
}

/// Each of the settings at its largest: WAL was written under all of them.
pub(crate) fn larger(known: Option<StandbyMinimums>, new: StandbyMinimums) -> StandbyMinimums {
    let Some(known) = known else { return new };
    StandbyMinimums {
        max_connections: known.max_connections.max(new.max_connections),
        max_worker_processes: known.max_worker_processes.max(new.max_worker_processes),
        max_wal_senders: known.max_wal_senders.max(new.max_wal_senders),
        max_prepared_transactions: known.max_prepared_transactions.max(new.max_prepared_transactions),
        max_locks_per_transaction: known.max_locks_per_transaction.max(new.max_locks_per_transaction),
    }
}

enum Verdict {
    Before,
    Last,
    Behind,
}

fn named(prepared: &Prepared) -> (u32, String) {
    (prepared.xid, String::from_utf8_lossy(&prepared.gid).into_owned())
}

fn landmark(at: Lsn, event: &Event) -> Option<Landmark> {
    let (time, what) = match event {
        Event::TransactionEnd(end) => {
            let kind = match end.outcome {
                asof_postgres::wal::TransactionOutcome::Committed => "commit",
                asof_postgres::wal::TransactionOutcome::Aborted => "abort",
            };
            let dropped = match end.dropped.len() {
                0 => String::new(),
                n => format!(", removing the files of {n} relations (DROP, TRUNCATE or a rewrite)"),
            };
            (end.time_unix_micros, format!("{kind} of transaction {}{dropped}", end.xid))
        }
        Event::RestorePoint { name, time_unix_micros } => {
            (*time_unix_micros, format!("restore point \"{}\"", String::from_utf8_lossy(name)))
        }
        _ => return None,
    };
    Some(Landmark { at, time: Timestamp(time), what })
}
