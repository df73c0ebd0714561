//! Backups: the procedure, in the order that keeps what it promises.
//!
//! 1. the attempt is announced in the journal;
//! 2. a temporary slot keeps the server from removing WAL, and a stream brings it into the repository;
//! 3. `pg_backup_start` on a connection that is kept until the end;
//! 4. the files are copied, `pg_control` last;
//! 5. `pg_backup_stop` on the same connection;
//! 6. the repository holds all WAL from start to stop, which says what becomes of pages that were torn (`torn`);
//! 7. the map, of which most was sealed meanwhile, is stored;
//! 8. the commit entry is written: from here on there is a backup;
//! 9. it is read back (`read_back`).
//!
//! Whatever fails before the commit leaves an aborted attempt and no backup.

pub(crate) mod copy;
mod details;
pub(crate) mod known;
pub(crate) mod pages;
mod run;
mod session;
mod torn;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::future::{Either, select};

use asof_postgres::client::Connection;
use asof_postgres::control::ControlFile;
use asof_postgres::lsn::Lsn;
use asof_repository::codec::Encoder;
use asof_repository::crypto::Digest;
use asof_repository::journal::Journal;
use asof_repository::lineage::{Backup, BackupKind, BackupState, Entry, Lineage, Method, Sizes, StoredPack};
use asof_repository::map::{CopiedFile, MapFile, MapPack, Place, Run, StoredMap, WAITING_FRAMES, open_map};
use asof_repository::names::PackId;
use asof_repository::object;
use asof_repository::pack::PackWriter;
use asof_world::{Id, Timestamp, planted};

pub use details::{Details, Reading, TablespaceRecord};

use copy::{Copied, CopySettings, PackLog};
use known::KnownPages;
use session::{Session, Started, Stopped};

use crate::error::{Error, Result};
use crate::progress::{Event, Observer};
use crate::read_back::{ReadBack, decode_files, read_back};
use crate::server::{self, Contact, Server};
use crate::shelf::Shelf;
use crate::source::{CONTROL_FILE, Listing, Source};
use crate::wal::feed::Feed;
use crate::wal::shape::WalConstants;
use crate::wal::stream::{self, IDLE_EVERY, Pace, StreamProgress, StreamSettings};

/// How long the WAL that a backup needs may fail to arrive before the backup is given up.
const WAL_PATIENCE: Duration = Duration::from_secs(120);
/// How often the packs stored so far are recorded.
const RECORD_EVERY: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often the open WAL segment is stored while the backup runs.
const WAL_PACE: Duration = Duration::from_secs(5);
/// zstd's level for pages.
const LEVEL: i32 = 1;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// The instance, for messages.
    pub instance: String,
    /// The name of the backup.
    pub name: String,
    /// Manual or automated.
    pub kind: BackupKind,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// Ask for an immediate checkpoint instead of a spread one.
    pub fast: bool,
    /// Jobs that read at once.
    pub jobs: usize,
    /// Bytes per second at most.
    pub rate: Option<u64>,
    /// Do not compare with the last backup: every page is stored anew.
    pub full_read: bool,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct BackupReport {
    /// As committed.
    pub backup: Backup,
    /// How long it took.
    pub elapsed: Duration,
    /// Whether pages were compared with an earlier backup.
    pub parent: Option<String>,
    /// Files that vanished while they were copied; normal under load.
    pub vanished: u64,
    /// What was looked at when it was committed.
    pub checks: ReadBack,
}

/// How the files of the instance are read.
pub struct Reader {
    /// The files.
    pub source: Arc<dyn Source>,
    /// By which way.
    pub reading: Reading,
}

/// Makes a backup of the instance whose lineage `shelf` is.
pub async fn create(
    shelf: &Shelf,
    server: &Server,
    reader: Reader,
    request: &BackupRequest,
    observer: Arc<dyn Observer>,
) -> Result<BackupReport> {
    let began = shelf.world.monotonic();
    let mut journal = shelf.journal().await?;
    server::require_files(&journal.state().facts)?;
    observer.event(Event::Phase("connecting"));
    let mut connection = server.connect().await?;
    let contact = server::contact(&mut connection).await?;
    let (_, control) = server::read_control(&shelf.world, reader.source.as_ref()).await?;
    server::check_facts(&request.instance, &journal.state().facts, &server::facts(&control))?;
    refuse_taken_name(&journal, &request.name)?;
    refuse_torn_pages(&contact, &control)?;
    let (parent, compared) = comparison(shelf, &journal, request, &control).await?;
    let attempt = shelf.world.id();
    journal.append(journal.state().epoch, Entry::AttemptStarted { attempt }).await?;
    let packs = Arc::new(StoredPacks::default());
    let mut run =
        Attempt { shelf, server, reader, request, observer, contact, control, attempt, compared, packs: packs.clone() };
    let result = {
        // While the attempt runs, what it stored is recorded: whatever ends it, the packs can be used by the next one.
        let making = Box::pin(run.make(connection));
        let recording = Box::pin(record_progress(shelf, &mut journal, attempt, &packs));
        match select(making, recording).await {
            Either::Left((result, _)) => result,
            Either::Right((never, _)) => match never {},
        }
    };
    match result {
        Ok((backup, vanished)) => {
            run.observer.event(Event::Phase("committing"));
            journal.append(journal.state().epoch, Entry::BackupCommitted(Box::new(backup.clone()))).await?;
            run.observer.event(Event::Phase("reading back"));
            let checks = read_back(shelf, &backup, packs.all(), decode_files).await?;
            Ok(BackupReport { backup, elapsed: shelf.world.monotonic() - began, parent, vanished, checks })
        }
        Err(error) => {
            abort(&mut journal, attempt, packs.take(), &error).await;
            Err(error)
        }
    }
}

/// Records stored packs every few seconds, for ever. A failure here costs only the reuse of what was stored.
pub(crate) async fn record_progress(
    shelf: &Shelf,
    journal: &mut Journal<Lineage>,
    attempt: Id,
    packs: &StoredPacks,
) -> std::convert::Infallible {
    loop {
        shelf.world.sleep(RECORD_EVERY).await;
        let packs = packs.take();
        if !packs.is_empty() {
            let epoch = journal.state().epoch;
            let _ = journal.append(epoch, Entry::Progress { attempt, packs }).await;
        }
    }
}

/// Records how far the attempt came, so that a later one can use its packs. The reason for the failure matters more than
/// whether this works.
pub(crate) async fn abort(journal: &mut Journal<Lineage>, attempt: Id, packs: Vec<StoredPack>, error: &Error) {
    let epoch = journal.state().epoch;
    if !packs.is_empty() {
        let _ = journal.append(epoch, Entry::Progress { attempt, packs }).await;
    }
    let _ = journal.append(epoch, Entry::AttemptAborted { attempt, reason: error.to_string() }).await;
}

/// What pages are compared with.
#[derive(Clone, Default)]
struct Compared {
    known: Option<Arc<KnownPages>>,
    parent: Option<Arc<StoredMap>>,
}

/// What pages may be compared with: the newest backup and the broken attempts. Returns the name of that backup.
async fn comparison(
    shelf: &Shelf,
    journal: &Journal<Lineage>,
    request: &BackupRequest,
    control: &ControlFile,
) -> Result<(Option<String>, Compared)> {
    if request.full_read {
        return Ok((None, Compared::default()));
    }
    let (name, map) = parent_of(shelf, journal, control).await?.unzip();
    let known = KnownPages::gather(shelf, journal.state()).await?;
    Ok((name, Compared { known: Some(Arc::new(known)), parent: map.map(Arc::new) }))
}

/// A page that was torn while it was copied is mended by its full image in WAL. A primary writes such images while it is
/// backed up; a standby replays what its primary wrote, and nobody here can ask for more (hazard A3). Whether they were
/// switched off later, `pg_backup_stop` tells.
fn refuse_torn_pages(contact: &Contact, control: &ControlFile) -> Result<()> {
    if !contact.in_recovery || control.checkpoint.full_page_writes || planted("a3") {
        return Ok(());
    }
    let what = "the WAL that this standby replays has no full images of pages: full_page_writes is off on its primary";
    Err(Error::refused(what, "set full_page_writes = on there, and let the standby replay a checkpoint made after it"))
}

pub(crate) fn refuse_taken_name(journal: &Journal<Lineage>, name: &str) -> Result<()> {
    let valid = !name.is_empty() && name.len() <= 200 && !name.chars().any(char::is_control);
    if !valid {
        return Err(Error::refused("a backup's name has 1 to 200 printable characters", "choose another with --name"));
    }
    match journal.state().existing().iter().find(|state| state.backup.name == name) {
        None => Ok(()),
        Some(_) => {
            Err(Error::refused(format!("there is a backup named \"{name}\" already"), "choose another with --name"))
        }
    }
}

/// The newest backup that pages may be compared with, and its map.
///
/// Everything is read in any case. What is compared is content, so an offline rewrite shows by itself; only pages of another
/// size or catalogue are not worth comparing.
async fn parent_of(
    shelf: &Shelf,
    journal: &Journal<Lineage>,
    control: &ControlFile,
) -> Result<Option<(String, StoredMap)>> {
    let Some(BackupState { backup, .. }) = journal.state().physical().pop() else { return Ok(None) };
    let Shelf { store, keyring, signers, lineage, .. } = shelf;
    let map = open_map(store.clone(), keyring, signers, *lineage, backup.id, &backup.map).await?;
    let same_pages = map.page_size() == control.block_size.bytes();
    Ok(same_pages.then(|| (backup.name.clone(), map)))
}

/// The packs of an attempt, in the order in which they were stored.
#[derive(Default)]
pub(crate) struct StoredPacks(Mutex<Packs>);

#[derive(Default)]
struct Packs {
    all: Vec<StoredPack>,
    /// How many of them the journal was given.
    taken: usize,
}

impl StoredPacks {
    /// Those that were not taken yet.
    pub(crate) fn take(&self) -> Vec<StoredPack> {
        let mut packs = self.0.lock().expect("no holder panics");
        let fresh = packs.all[packs.taken..].to_vec();
        packs.taken = packs.all.len();
        fresh
    }

    pub(crate) fn all(&self) -> Vec<StoredPack> {
        self.0.lock().expect("no holder panics").all.clone()
    }
}

impl PackLog for StoredPacks {
    fn stored(&self, pack: StoredPack) {
        self.0.lock().expect("no holder panics").all.push(pack);
    }
}

/// One attempt.
struct Attempt<'a> {
    shelf: &'a Shelf,
    server: &'a Server,
    reader: Reader,
    request: &'a BackupRequest,
    observer: Arc<dyn Observer>,
    contact: Contact,
    control: ControlFile,
    attempt: Id,
    compared: Compared,
    packs: Arc<StoredPacks>,
}

impl Attempt<'_> {
    /// Steps 2 to 7. Returns what to commit and how many files vanished.
    async fn make(&mut self, connection: Connection) -> Result<(Backup, u64)> {
        let mut session = Session::new(connection, &self.contact);
        let progress = self.stream_wal(&mut session).await?;
        let result = self.make_with_wal(session, &progress).await;
        progress.stop();
        while !progress.has_ended() {
            self.shelf.world.sleep(LOOK_EVERY).await;
        }
        result
    }

    async fn make_with_wal(&mut self, mut session: Session, progress: &StreamProgress) -> Result<(Backup, u64)> {
        let phase = if self.request.fast {
            "checkpoint"
        } else {
            "checkpoint, spread over minutes (--fast asks for it at once)"
        };
        self.observer.event(Event::Phase(phase));
        let mut started = session.start(&format!("asof {}", self.request.name), self.request.fast).await?;
        let listing = Arc::new(self.reader.source.list().await?.without_unlogged());
        let mut copied = self.copy(&listing).await?;
        self.check_databases(&listing, &copied).await?;
        let control = self.copy_control(&listing, &mut copied).await?;
        self.observer.event(Event::Phase("waiting for WAL"));
        if planted("a2") || planted("a12") {
            session = Session::new(self.server.connect().await?, &self.contact);
            started = session.start("on another connection", true).await?;
        }
        let stopped = session.stop().await?;
        self.check(&started, &stopped, &control)?;
        let details = self.details(&mut session, &listing, &stopped).await?;
        session.close().await;
        self.await_wal(progress, stopped.lsn).await?;
        let (timeline, wal) = (stopped.label.start_timeline, started.lsn..stopped.lsn);
        let constants = WalConstants::of(&self.control);
        torn::settle(self.shelf, &constants, timeline, wal, &mut copied, self.observer.as_ref()).await?;
        self.observer.event(Event::Phase("storing the map"));
        let tainted = torn::taints(&copied);
        let vanished = copied.vanished.len() as u64;
        let (sizes, map) = self.store_map(copied).await?;
        Ok((self.backup(&started, &stopped, sizes, map, tainted, &details), vanished))
    }

    /// Slot first, then the stream, before the backup is started: no WAL can be missed (rule 15).
    async fn stream_wal(&self, session: &mut Session) -> Result<Arc<StreamProgress>> {
        let slot = format!("asof_backup_{}", &self.attempt.to_string()[..12]);
        let mut feed = Feed::open(&self.server.known_as("asof-backup")).await?;
        if let Some(remark) = feed.remark(&self.server.config.user) {
            self.observer.event(Event::Note(remark));
        }
        let identity = feed.identity().await?;
        if identity.system_id != self.control.system_identifier {
            let what = "the files belong to another server than the connection";
            return Err(Error::refused(what, "check the data directory and the connection of the instance"));
        }
        let start = session.reserve_wal(&mut feed, &slot, &self.control).await?;
        let settings = StreamSettings {
            shelf: self.shelf.clone(),
            server: self.server.clone(),
            constants: WalConstants::of(&self.control),
            slot,
            pace: Pace::Every(WAL_PACE),
            spool: None,
            idle: IDLE_EVERY,
        };
        let progress = Arc::new(StreamProgress::default());
        let running = stream::run(settings, feed, identity.timeline, start, progress.clone());
        drop(self.shelf.world.spawn(running));
        Ok(progress)
    }

    async fn copy(&mut self, listing: &Arc<Listing>) -> Result<Copied> {
        self.observer.event(Event::Phase("copying"));
        self.observer.event(Event::Expect(listing.files.iter().map(|file| file.len).sum()));
        let shelf = self.shelf;
        let settings = CopySettings {
            world: shelf.world.clone(),
            store: shelf.store.clone(),
            keyring: shelf.keyring.clone(),
            lineage: shelf.lineage,
            attempt: self.attempt,
            page_size: self.control.block_size.bytes() as usize,
            pages_per_segment: self.control.blocks_per_segment,
            checksums: self.control.has_data_checksums(),
            level: LEVEL,
            rate: self.request.rate,
            jobs: self.request.jobs,
            waiting_frames: WAITING_FRAMES,
            known: self.compared.known.clone(),
            parent: self.compared.parent.clone(),
            observer: self.observer.clone(),
        };
        copy::copy(settings, self.reader.source.clone(), listing.clone(), self.packs.clone()).await
    }

    /// A database that came into being while its directory was listed may lack the two files without which nobody connects
    /// to it. They are there by now, unless it was dropped again (hazard A6).
    async fn check_databases(&self, listing: &Listing, copied: &Copied) -> Result<()> {
        let vanished: BTreeSet<&[u8]> = copied.vanished.iter().map(Vec::as_slice).collect();
        let is_copied = |path: &[u8]| {
            let listed = listing.files.binary_search_by(|file| file.path.as_slice().cmp(path)).is_ok();
            listed && !vanished.contains(path)
        };
        let copied = listing.files.iter().filter(|file| !vanished.contains(file.path.as_slice()));
        let relations = copied.filter(|file| file.relation.is_some());
        let directories: BTreeSet<&[u8]> = relations.filter_map(|file| parent_directory(&file.path)).collect();
        for directory in directories.into_iter().filter(|directory| *directory != b"global") {
            for name in [b"/PG_VERSION".as_slice(), b"/pg_filenode.map"] {
                let path = [directory, name].concat();
                let lacks = !is_copied(&path) && !planted("a6");
                // Where a database has only tables, in another tablespace than its own, neither file is there.
                if lacks && self.reader.source.open(&path).await?.is_some() {
                    let what = format!("{} was made while its directory was listed", copy::text(&path));
                    return Err(Error::damaged(what, "run the backup again"));
                }
            }
        }
        Ok(())
    }

    /// `pg_control`, read after every other file, in a pack of its own.
    async fn copy_control(&self, listing: &Listing, copied: &mut Copied) -> Result<ControlFile> {
        let (bytes, control) = server::read_control(&self.shelf.world, self.reader.source.as_ref()).await?;
        let Shelf { world, store, keyring, lineage, .. } = self.shelf;
        let number = copied.packs;
        let id = PackId { lineage: *lineage, attempt: self.attempt, number };
        let (mut pack, mut encoder) = (PackWriter::new(world, keyring, id), Encoder::new(LEVEL));
        let hasher = keyring.page_hasher(*lineage);
        let mut file = MapFile { path: CONTROL_FILE.to_vec(), len: bytes.len() as u64, runs: Vec::new() };
        let page_size = self.control.block_size.bytes() as usize;
        for (block, page) in (0u32..).zip(bytes.chunks(page_size)) {
            let position = pack.next_frame() * asof_repository::pack::PAGES_PER_FRAME;
            pack.frame(CONTROL_FILE, &[block], &[hasher.hash(block, page)], page, &mut encoder);
            file.push(Run { pages: 1, place: Place::Pack { pack: 0, position }, torn: false });
        }
        let finished = pack.finish(keyring, &mut encoder);
        object::create(store.as_ref(), &finished.object).await?;
        let (len, reference) = (finished.object.len, finished.object.reference);
        self.packs.stored(StoredPack { number, len, digest: reference.digest });
        let frames = (0u32..).zip(finished.index.frames.iter().map(|frame| frame.section)).collect();
        let packs = vec![Arc::new(OnceLock::from(MapPack { id, len, reference, frames }))];
        copied.map.add(copy::control_number(listing), Some(CopiedFile { file, part: None, packs }));
        copied.stored += len;
        copied.read += bytes.len() as u64;
        Ok(control)
    }

    fn check(&self, started: &Started, stopped: &Stopped, control: &ControlFile) -> Result<()> {
        if control.system_identifier != self.control.system_identifier {
            return Err(Error::damaged("the server was replaced while it was backed up", "run the backup again"));
        }
        if stopped.label.start_lsn != started.lsn || stopped.lsn < started.lsn {
            let what = format!("the backup label starts at {}, the backup at {}", stopped.label.start_lsn, started.lsn);
            return Err(Error::damaged(what, "run the backup again"));
        }
        if self.contact.in_recovery && control.min_recovery_point > stopped.lsn {
            let what = "the standby went on to replay while pg_control was read";
            return Err(Error::damaged(what, "run the backup again"));
        }
        Ok(())
    }

    /// The repository itself must show the WAL from start to stop: a backup without it cannot be restored (hazard A11).
    async fn await_wal(&self, progress: &StreamProgress, stop: Lsn) -> Result<()> {
        let world = &self.shelf.world;
        let (mut last, mut since) = (progress.durable(), world.monotonic());
        while progress.durable() < stop && !planted("a11") {
            if let Some(error) = progress.failure() {
                return Err(error);
            }
            if progress.durable() > last {
                (last, since) = (progress.durable(), world.monotonic());
            }
            if progress.has_ended() || world.monotonic().saturating_sub(since) > WAL_PATIENCE {
                let what = format!("WAL up to {stop} did not arrive; the repository holds it up to {last}");
                return Err(Error::damaged(what, "look at the server's log for the replication connection of asof"));
            }
            world.sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn details(&self, session: &mut Session, listing: &Listing, stopped: &Stopped) -> Result<Details> {
        let text = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
        let tablespaces = listing.tablespaces.iter();
        let (extensions, unasked) = session.extensions(self.server).await?;
        if !unasked.is_empty() {
            let databases = unasked.join(", ");
            self.observer
                .event(Event::Note(format!("which extensions these databases use is not recorded: {databases}")));
        }
        Ok(Details {
            major: self.contact.major.number(),
            version: self.contact.version.clone(),
            standby: self.contact.in_recovery,
            reading: self.reader.reading,
            checksums: self.control.has_data_checksums(),
            minimums: Some(self.control.standby_minimums),
            backup_label: stopped.label_text.clone(),
            tablespace_map: stopped.tablespace_map.clone(),
            tablespaces: tablespaces
                .map(|space| TablespaceRecord { oid: space.oid, location: space.location.as_ref().map(text) })
                .collect(),
            settings: session.settings().await?,
            extensions,
            platform: session.platform().await?,
            role: session.role().await?,
            data_directory: self.contact.data_directory.clone(),
        })
    }

    /// Ends the map and stores it. Returns what was copied, and what the commit entry records of the map.
    async fn store_map(&self, copied: Copied) -> Result<(Sizes, Digest)> {
        let (files, total) = copied.map.totals();
        let Copied { map, read, changed, stored, shared, .. } = copied;
        let objects = self.shelf.world.compute(move || map.finish()).await;
        let stored = stored + copy::store_maps(self.shelf.store.as_ref(), &objects).await?;
        let map = objects.last().expect("the map is the last").reference.digest;
        Ok((Sizes { total, read, changed, stored, shared, files }, map))
    }

    fn backup(
        &self,
        started: &Started,
        stopped: &Stopped,
        sizes: Sizes,
        map: Digest,
        tainted: Vec<String>,
        details: &Details,
    ) -> Backup {
        Backup {
            id: self.attempt,
            name: self.request.name.clone(),
            kind: self.request.kind,
            method: Method::Physical,
            started: started.time.0,
            stopped: stopped.time.0,
            timeline: stopped.label.start_timeline.0,
            start: started.lsn.0,
            stop: stopped.lsn.0,
            map,
            sizes,
            tainted,
            tags: self.request.tags.clone(),
            details: serde_json::to_value(details).expect("details can be written as JSON"),
        }
    }
}

fn parent_directory(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|byte| *byte == b'/').map(|at| &path[..at])
}

/// The default name of a manual snapshot: `NAME-manual-YYYYMMDD-HHMMSS`, in UTC.
pub fn default_name(instance: &str, kind: BackupKind, now: Timestamp) -> String {
    let kind = match kind {
        BackupKind::Manual => "manual",
        BackupKind::Automated => "auto",
    };
    format!("{instance}-{kind}-{}", crate::time::compact(now))
}
