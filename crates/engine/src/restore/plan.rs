//! The plan of a restore: everything that is decided before a byte is written. Printable, and what `--dry-run` shows.

use std::path::PathBuf;
use std::sync::Arc;

use asof_postgres::control::StandbyMinimums;
use asof_postgres::lsn::{Lsn, Timeline};
use asof_postgres::version::Major;
use asof_postgres::wal::Prepared;
use asof_repository::journal::Journal;
use asof_repository::lineage::{Backup, BackupState, Lineage, Method};
use asof_repository::map::open_map;
use asof_world::{Id, Timestamp, planted};

use super::pages::{PageWriter, text};
use crate::backup::Details;
use crate::error::{Error, Result};
use crate::shelf::Shelf;
use crate::target::{Base, Path, Resolved, Target, Wanted, larger, resolve, timeline_to_follow};
use crate::time::rfc3339;
use crate::wal::assemble::latest_observation;
use crate::wal::receiver::first_hole;
use crate::wal::shape::WalConstants;

/// PostgreSQL's own limit for the state of a prepared transaction (`MaxAllocSize`).
const MAX_STATE_BYTES: u64 = 0x3FFF_FFFF;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// The instance, for messages.
    pub instance: String,
    /// A backup by name or id; the newest that fits when absent.
    pub backup: Option<String>,
    /// The target.
    pub wanted: Wanted,
    /// The timeline; the newest that descends from the backup when absent.
    pub timeline: Option<Timeline>,
    /// Where the files go.
    pub destination: PathBuf,
}

/// What will be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The backup to start from.
    pub backup: Backup,
    /// What it recorded of the server.
    pub details: Details,
    /// The constants of its WAL.
    pub constants: WalConstants,
    /// What was asked for.
    pub target: Target,
    /// Where it leads.
    pub resolved: Resolved,
    /// Segments of WAL that are replayed, with the timeline that each is read from.
    pub segments: Vec<(Timeline, Lsn)>,
    /// Where the files go.
    pub destination: PathBuf,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

impl Plan {
    /// What a server must at least be configured with: what was in force at the backup, or later in its WAL.
    pub fn minimums(&self) -> Option<StandbyMinimums> {
        match (self.details.minimums, self.resolved.minimums) {
            (Some(a), Some(b)) => Some(larger(Some(a), b)),
            (a, b) => a.or(b),
        }
    }

    /// Bytes of WAL to be replayed at most.
    pub fn wal_bytes(&self) -> u64 {
        self.resolved.end.0.saturating_sub(self.backup.start)
    }
}

/// Decides how `request` is met.
pub async fn plan(shelf: &Shelf, request: &RestoreRequest) -> Result<Plan> {
    shelf.keyring.require_data_secret("the restore")?;
    let journal = shelf.journal().await?;
    let constants = WalConstants::from_facts(&journal.state().facts)?;
    let candidates = candidates(&journal, request)?;
    let mut refusal = None;
    for state in &candidates {
        match plan_from(shelf, request, &constants, state).await {
            Ok(mut plan) => {
                plan.warnings.extend(hole_before(&journal, &plan));
                return Ok(plan);
            }
            // A transaction or restore point may lie before the newest backup: look further back. The newest says why not.
            Err(error @ Error::Refused { .. }) => refusal = Some(refusal.unwrap_or(error)),
            Err(error) => return Err(error),
        }
    }
    Err(refusal.unwrap_or_else(|| no_backup(&journal, request)))
}

/// The latest that can be restored is not the latest of the server when WAL in between was lost.
fn hole_before(journal: &Journal<Lineage>, plan: &Plan) -> Option<String> {
    let hole = first_hole(journal.state(), Lsn(plan.backup.stop)).filter(|_| plan.target == Target::Latest)?;
    Some(format!(
        "WAL {} .. {} was lost: this is the state before it, not the latest of the server; make a new backup to protect that",
        hole.from, hole.to
    ))
}

/// Backups that may serve, the best first.
fn candidates<'a>(journal: &'a Journal<Lineage>, request: &RestoreRequest) -> Result<Vec<&'a BackupState>> {
    if let Some(wanted) = &request.backup {
        return Ok(vec![physical(find(&journal.state().existing(), wanted)?)?]);
    }
    let mut existing = journal.state().physical();
    existing.reverse();
    existing.retain(|state| match &request.wanted.target {
        Target::Lsn(at) => state.backup.stop <= at.0,
        Target::Time(at) => state.backup.stopped <= at.0,
        _ => true,
    });
    if matches!(request.wanted.target, Target::Latest | Target::Backup | Target::Time(_) | Target::Lsn(_)) {
        // A backup with damaged pages only when there is no other.
        existing.sort_by_key(|state| !state.backup.tainted.is_empty() && !planted("a10"));
    }
    Ok(existing)
}

/// A backup by name, id, or the beginning of an id.
pub fn find<'a>(existing: &[&'a BackupState], wanted: &str) -> Result<&'a BackupState> {
    let by_name = existing.iter().find(|state| state.backup.name == wanted);
    let begins = |state: &&&BackupState| wanted.len() >= 6 && state.backup.id.to_string().starts_with(wanted);
    let mut by_id = existing.iter().filter(begins);
    match (by_name, by_id.next(), by_id.next()) {
        (Some(state), ..) | (None, Some(state), None) => Ok(state),
        (None, Some(_), Some(_)) => Err(Error::refused(
            format!("more than one backup has an id that begins with {wanted}"),
            "write more of the id",
        )),
        (None, None, _) => {
            Err(Error::refused(format!("there is no backup \"{wanted}\""), "`asof backup list` shows those that exist"))
        }
    }
}

/// A dump has no files of an instance, and WAL cannot be replayed on it (docs/guide/dump.md).
fn physical(state: &BackupState) -> Result<&BackupState> {
    if state.backup.method == Method::Physical {
        return Ok(state);
    }
    let name = &state.backup.name;
    let what =
        format!("{name} is a logical backup: an instance cannot be restored from it, and WAL cannot be replayed on it");
    Err(Error::refused(what, format!("load it into a running instance with `asof load {name}`")))
}

fn no_backup(journal: &Journal<Lineage>, request: &RestoreRequest) -> Error {
    let existing = journal.state().physical();
    let (instance, target) = (&request.instance, &request.wanted.target);
    match existing.first() {
        None => Error::refused(format!("{instance} has no backup yet"), "make one with `asof backup create`"),
        Some(oldest) => {
            let since = rfc3339(Timestamp(oldest.backup.stopped));
            let stop = Lsn(oldest.backup.stop);
            let what = format!("{target} lies before the oldest backup of {instance}, which ended at {since} ({stop})");
            Error::refused(what, "choose a later target")
        }
    }
}

async fn plan_from(
    shelf: &Shelf,
    request: &RestoreRequest,
    constants: &WalConstants,
    state: &BackupState,
) -> Result<Plan> {
    let backup = state.backup.clone();
    let details: Details = serde_json::from_value(backup.details.clone())
        .map_err(|error| Error::damaged(format!("the record of backup {}: {error}", backup.name), "update asof"))?;
    let (start, stop) = (Lsn(backup.start), Lsn(backup.stop));
    let timeline = match request.timeline {
        Some(timeline) => timeline,
        None if request.wanted.target == Target::Backup => Timeline(backup.timeline),
        None => timeline_to_follow(shelf, constants.stored_segment(), Timeline(backup.timeline), stop).await?,
    };
    let path = Path::to(shelf, constants, timeline).await?;
    if !path.history.reaches(Timeline(backup.timeline), stop) {
        let what = format!(
            "timeline {timeline} does not contain backup {} (timeline {}, {stop})",
            backup.name, backup.timeline
        );
        return Err(Error::refused(what, "choose another --target-timeline, or another backup"));
    }
    if let Target::Time(at) = request.wanted.target {
        refuse_earlier_time(&backup, at)?;
    }
    let base = Base { start, stop, prepared: prepared_in(shelf, &backup, constants.major).await? };
    let resolved = resolve(&path, &base, &request.wanted).await?;
    if let Target::Time(at) = request.wanted.target {
        refuse_unproven_time(&path, &backup, &resolved, at).await?;
    }
    let size = u64::from(constants.segment_size.bytes());
    let first = constants.segment_size.floor(start).0;
    let segments = (first..resolved.end.0).step_by(usize::try_from(size).expect("a segment fits in memory"));
    let segments = segments.map(|at| (path.timeline_of(Lsn(at)), Lsn(at))).collect();
    let warnings = warnings(&backup, &resolved);
    let (target, destination) = (request.wanted.target.clone(), request.destination.clone());
    Ok(Plan { backup, details, constants: constants.clone(), target, resolved, segments, destination, warnings })
}

/// A backup that was asked for by name may be younger than the time: what lies in between is in its files already.
fn refuse_earlier_time(backup: &Backup, at: Timestamp) -> Result<()> {
    if backup.stopped <= at.0 {
        return Ok(());
    }
    let (name, end) = (&backup.name, rfc3339(Timestamp(backup.stopped)));
    let what = format!("{} lies before the end of the backup {name}, {end}", rfc3339(at));
    Err(Error::refused(what, "choose a later target or an earlier backup; `asof backup list` shows them"))
}

/// The transactions that were prepared before the backup: `pg_backup_start` makes a checkpoint, which puts each into a file.
async fn prepared_in(shelf: &Shelf, backup: &Backup, major: Major) -> Result<Vec<Prepared>> {
    let Shelf { store, keyring, signers, lineage, .. } = shelf;
    const DIRECTORY: &[u8] = b"pg_twophase/";
    let map = open_map(store.clone(), keyring, signers, *lineage, backup.id, &backup.map).await?;
    let map = Arc::new(map);
    let mut parts = map.parts(map.reach(DIRECTORY).await?);
    let (mut pages, mut prepared) = (PageWriter::new(shelf.clone()), Vec::new());
    while let Some(part) = parts.next().await? {
        for file in part.files.iter().filter(|file| file.path.starts_with(DIRECTORY)) {
            let bytes = pages.read(&part, file, MAX_STATE_BYTES).await?;
            let state = Prepared::from_state_file(&bytes, major).ok_or_else(|| {
                Error::damaged(
                    format!("{} of backup {} is malformed", text(&file.path), backup.name),
                    "choose another backup, and look at the disk of the repository",
                )
            })?;
            prepared.push(state);
        }
        if part.files.last().is_some_and(|last| !last.path.starts_with(DIRECTORY) && last.path.as_slice() > DIRECTORY) {
            break;
        }
    }
    Ok(prepared)
}

/// A time behind the last stored commit is inside the window only if the server was seen to have nothing newer then.
async fn refuse_unproven_time(path: &Path<'_>, backup: &Backup, resolved: &Resolved, at: Timestamp) -> Result<()> {
    if resolved.after.is_some() {
        return Ok(());
    }
    let latest = latest_proven_time(path, backup, resolved).await?;
    if at.0 <= latest {
        return Ok(());
    }
    let what = format!("{} lies behind the latest restorable time, {}", rfc3339(at), rfc3339(Timestamp(latest)));
    Err(Error::refused(what, "use --latest, or wait until more WAL has arrived"))
}

/// The latest moment of which everything is known to be stored.
async fn latest_proven_time(path: &Path<'_>, backup: &Backup, resolved: &Resolved) -> Result<i64> {
    let commit = resolved.before.as_ref().map_or(i64::MIN, |commit| commit.time.0);
    let timeline = path.timeline_of(resolved.stored_to);
    let seen = latest_observation(path.shelf, path.constants, timeline, resolved.stored_to).await?;
    Ok(backup.stopped.max(commit).max(seen.unwrap_or(i64::MIN)))
}

fn warnings(backup: &Backup, resolved: &Resolved) -> Vec<String> {
    let mut warnings: Vec<String> =
        backup.tainted.iter().map(|taint| format!("backup {}: {taint}", backup.name)).collect();
    if !resolved.stepped_back.is_empty() {
        let n = resolved.stepped_back.len();
        warnings
            .push(format!("the server's clock stepped back: {n} commits with an earlier time lie behind the target"));
    }
    if !resolved.prepared.is_empty() {
        let names = resolved.prepared.join(", ");
        warnings.push(format!("prepared transactions are open at the target and hold their locks: {names}"));
    }
    if !resolved.tablespaces.is_empty() {
        let places = resolved.tablespaces.join(", ");
        warnings.push(format!("replay creates tablespaces at their original place: {places}"));
    }
    warnings
}

/// The id of the backup in a form for people.
pub fn short_id(id: Id) -> String {
    id.to_string()[..12].to_owned()
}
