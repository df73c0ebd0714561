//! Restores: a plan, and the files of an instance as of the plan's target.
//!
//! The marker is written first and `pg_control` last; before the marker is removed everything is durable. A directory
//! with a marker does not start: it has no `pg_control`, or one whose checkpoint is poisoned, so that recovery must begin
//! where `backup_label` says (hazards A1, E6). WAL up to the target is placed into `pg_wal` before PostgreSQL is started, every
//! byte authenticated: recovery never waits for the repository and never mistakes an outage for the end of WAL (E1).

mod existing;
mod instance;
pub(crate) mod pages;
mod plan;
mod settings;
mod survey;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use asof_postgres::control;
use asof_postgres::lsn::{Lsn, Timeline};
use asof_postgres::names::segment_name;
use asof_repository::lineage::Lineage;
use asof_repository::map::{MapFile, PageMap, Parts, StoredMap, open_map};
use asof_repository::wal::read_history;
use asof_world::{FileKind, Owner, WriteMode, create_dir_durable, planted};

use crate::backup::known::KnownPages;
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};
use crate::runtime::{Status, status};
use crate::shelf::Shelf;
use crate::source::CONTROL_FILE;
use crate::wal::assemble::read_segment;

pub use instance::{NewInstance, Prepared, Restored, file_owner, into_instance, prepare};
pub use plan::{Plan, RestoreRequest, find, plan, short_id};
pub use settings::{RESTORE_WROTE, without_recovery};

use pages::{PageWriter, confined, text};
use survey::Survey;

/// The file that says that a restore into this directory is not complete.
pub const MARKER: &str = "asof-restore-incomplete";
const ABOUT_MARKER: &str =
    "A restore by asof into this directory has not ended. Run it again; PostgreSQL does not start here.\n";

/// What becomes of a data directory that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is refused.
    Refuse,
    /// It is made equal to the backup; only pages that differ are written.
    Compare,
}

/// How files are written.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// What becomes of a data directory that is there already.
    pub existing: Existing,
    /// Jobs at once.
    pub jobs: usize,
    /// Who shall own the files; ourselves when absent.
    pub owner: Option<Owner>,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Files of the data directory.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of pages that had to be written; fewer than `bytes` over an existing directory.
    pub rewritten: u64,
    /// Segments of WAL.
    pub segments: u64,
}

/// Executes a plan up to the point at which PostgreSQL can be started on its destination.
pub async fn write(shelf: &Shelf, plan: &Plan, options: WriteOptions, observer: Arc<dyn Observer>) -> Result<Written> {
    let Shelf { store, keyring, signers, lineage, .. } = shelf;
    observer.event(Event::Phase("reading the map"));
    keyring.require_data_secret("restore")?;
    let map = open_map(store.clone(), keyring, signers, *lineage, plan.backup.id, &plan.backup.map).await?;
    let map = Arc::new(map);
    let survey = Arc::new(Survey::of(&map).await?);
    let target = Target { shelf: shelf.clone(), root: plan.destination.clone(), owner: options.owner };
    let known = match options.existing {
        Existing::Refuse => {
            target.claim().await?;
            None
        }
        Existing::Compare => {
            target.take_over(plan, &survey).await?;
            Some(Arc::new(KnownPages::gather(shelf, &Lineage::default()).await?))
        }
    };
    target.directories(&survey).await?;
    observer.event(Event::Phase("restoring"));
    observer.event(Event::Expect(survey.bytes));
    let mut written = write_files(&target, &map, known, options.jobs, &observer).await?;
    observer.event(Event::Phase("placing WAL"));
    written.segments = place_wal(&target, plan, options.jobs).await?;
    target.small_file("backup_label", plan.details.backup_label.as_bytes()).await?;
    if planted("e6") {
        target.control(&map).await?;
    }
    target.settings(plan, &map, &survey).await?;
    observer.event(Event::Phase("making it durable"));
    target.sync().await?;
    if !planted("e6") {
        target.control(&map).await?;
    }
    target.sync().await?;
    target.release().await?;
    Ok(written)
}

/// The directory that is being filled.
#[derive(Clone)]
struct Target {
    shelf: Shelf,
    root: PathBuf,
    owner: Option<Owner>,
}

impl Target {
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let target = self.clone();
        self.shelf.world.blocking(move || work(&target)).await
    }

    /// Makes the directory ours: it must be new, empty, or the rest of an earlier try of ours.
    async fn claim(&self) -> Result<()> {
        self.blocking(|target| {
            let files = target.shelf.world.files.as_ref();
            create_dir_durable(files, &target.root, 0o700).map_err(Error::files("create", &target.root))?;
            let entries = files.list(&target.root).map_err(Error::files("list", &target.root))?;
            let ours = entries.iter().any(|entry| entry.name == MARKER);
            if !entries.is_empty() && !ours && !planted("e5") {
                let what = format!("{} is not empty", target.root.display());
                return Err(Error::refused(what, "give a directory that does not exist yet"));
            }
            for entry in entries.iter().filter(|entry| entry.name != MARKER) {
                let path = target.root.join(&entry.name);
                let removed = match entry.kind {
                    FileKind::Directory => files.remove_tree(&path),
                    _ => files.remove_file(&path),
                };
                removed.map_err(Error::files("remove", &path))?;
            }
            files.set_mode(&target.root, 0o700).map_err(Error::files("set the mode of", &target.root))?;
            target.own(&target.root)?;
            if !ours {
                target.create(&target.root.join(MARKER), ABOUT_MARKER.as_bytes())?;
            }
            files.sync_dir(&target.root).map_err(Error::files("sync", &target.root))
        })
        .await
    }

    /// Makes an existing data directory ours: marker first, then nothing in it can start any more.
    async fn take_over(&self, plan: &Plan, survey: &Arc<Survey>) -> Result<()> {
        if let Status::Running { pid, .. } = status(&self.shelf.world, &self.root).await? {
            let what = format!("a server runs on {} (process {pid})", self.root.display());
            return Err(Error::refused(what, "stop it first"));
        }
        let (identifier, survey) = (plan.constants.system_identifier, survey.clone());
        self.blocking(move |target| {
            let files = target.shelf.world.files.as_ref();
            let marker = target.root.join(MARKER);
            if !files.exists(&marker).map_err(Error::files("look at", &marker))? {
                existing::check(files, &target.root, identifier)?;
                target.create(&marker, ABOUT_MARKER.as_bytes())?;
                files.sync_dir(&target.root).map_err(Error::files("sync", &target.root))?;
            }
            existing::clear(files, &target.root, &survey)
        })
        .await
    }

    fn own(&self, path: &Path) -> Result<()> {
        match self.owner {
            Some(owner) => self.shelf.world.files.set_owner(path, owner).map_err(Error::files("give away", path)),
            None => Ok(()),
        }
    }

    fn create(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let mut file =
            self.shelf.world.files.create(path, 0o600, WriteMode::Cached).map_err(Error::files("create", path))?;
        file.write_at(0, bytes).map_err(Error::files("write", path))?;
        file.sync().map_err(Error::files("sync", path))?;
        self.own(path)
    }

    fn place(&self, path: &[u8]) -> Result<PathBuf> {
        confined(&self.root, path).ok_or_else(|| {
            Error::damaged(
                format!("the backup names a file {:?} outside of its directory", text(path)),
                "choose another backup, and look at the disk of the repository",
            )
        })
    }

    async fn directories(&self, survey: &Arc<Survey>) -> Result<()> {
        let survey = survey.clone();
        self.blocking(move |target| {
            let fixed = [b"pg_wal".as_slice(), b"pg_wal/archive_status"];
            let listed = survey.directories.iter().map(Vec::as_slice);
            let all: std::collections::BTreeSet<&[u8]> = listed.chain(fixed).collect();
            for directory in all {
                let path = target.place(directory)?;
                match target.shelf.world.files.create_dir(&path, 0o700) {
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    other => other.map_err(Error::files("create", &path))?,
                }
                target.own(&path)?;
            }
            Ok(())
        })
        .await
    }

    async fn has(&self, path: &Path) -> Result<bool> {
        let path = path.to_owned();
        self.blocking(move |target| target.shelf.world.files.exists(&path).map_err(Error::files("look at", &path)))
            .await
    }

    async fn small_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, bytes) = (self.root.join(name), bytes.to_vec());
        self.blocking(move |target| target.create(&path, &bytes)).await
    }

    /// The content of a small file of the backup.
    async fn stored_file(&self, map: &StoredMap, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>> {
        match map.find(path).await? {
            Some(part) => Ok(Some(self.file_of(part, path, limit).await?)),
            None => Ok(None),
        }
    }

    /// The content of a small file of the part that has it.
    async fn file_of(&self, part: PageMap, path: &[u8], limit: u64) -> Result<Vec<u8>> {
        let part = Arc::new(part);
        let file = part.file(path).expect("the part was found for it");
        PageWriter::new(self.shelf.clone()).read(&part, file, limit).await
    }

    /// A file of the backup that gets other content.
    async fn replaced_file(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let path = self.root.join(name);
        self.blocking(move |target| {
            let replaced = target.shelf.world.files.replace(&path, &bytes, 0o600);
            replaced.map_err(Error::files("replace", &path))?;
            target.own(&path)
        })
        .await
    }

    /// `pg_control`, whose checkpoint nobody can start from.
    async fn control(&self, map: &StoredMap) -> Result<()> {
        let bytes = self.stored_file(map, CONTROL_FILE, 1 << 16).await?.ok_or_else(|| {
            Error::damaged(
                "the backup has no pg_control",
                "choose another backup, and look at the disk of the repository",
            )
        })?;
        let poisoned = control::with_poisoned_checkpoint(&bytes).map_err(|error| {
            Error::damaged(
                format!("the backup's pg_control: {error}"),
                "choose another backup, and look at the disk of the repository",
            )
        })?;
        self.small_file("global/pg_control", &poisoned).await
    }

    /// The settings that recovery needs and that keep the restored instance away from production, behind whatever
    /// `postgresql.auto.conf` says; no setting that leads out of the directory; and the configuration files that PostgreSQL
    /// needs, where the backup has none.
    async fn settings(&self, plan: &Plan, map: &StoredMap, survey: &Survey) -> Result<()> {
        let home = plan.details.data_directory.as_deref();
        let auto = self.stored_file(map, b"postgresql.auto.conf", settings::LARGEST).await?.unwrap_or_default();
        let auto = settings::cleared(&auto, home);
        self.small_file("postgresql.auto.conf", &settings::with_recovery(&auto.content, plan)).await?;
        self.small_file("recovery.signal", b"").await?;
        let mut unused = auto.unused;
        for path in survey.files.iter().filter(|path| settings::may_hold_settings(path)) {
            // Settings do not take more than that: a longer one is something else by that name.
            let is_short = |part: &PageMap| part.file(path).is_some_and(|file| file.len <= settings::LARGEST);
            let Some(part) = map.find(path).await?.filter(is_short) else { continue };
            let content = self.file_of(part, path, settings::LARGEST).await?;
            let cleared = settings::cleared(&content, home);
            if cleared.changed {
                self.replaced_file(&text(path), cleared.content).await?;
            }
            unused.extend(cleared.unused);
        }
        for (name, content) in settings::missing_files(survey, &unused) {
            self.replaced_file(name, content.into()).await?;
        }
        Ok(())
    }

    async fn sync(&self) -> Result<()> {
        self.blocking(|target| {
            target.shelf.world.files.sync_tree(&target.root).map_err(Error::files("sync", &target.root))
        })
        .await
    }

    /// The restore is complete: the marker goes.
    async fn release(&self) -> Result<()> {
        self.blocking(|target| {
            let marker = target.root.join(MARKER);
            let files = target.shelf.world.files.as_ref();
            files.remove_file(&marker).map_err(Error::files("remove", &marker))?;
            files.sync_dir(&target.root).map_err(Error::files("sync", &target.root))
        })
        .await
    }
}

/// Whether the restored instance has tablespaces, which lie in its data directory then.
fn has_tablespaces(plan: &Plan) -> bool {
    !plan.details.tablespaces.is_empty()
}

/// Files that the restore writes itself, and those that would make the server follow production, or take it for itself: the
/// lock of a socket in the data directory names the process that had it.
fn is_ours(path: &[u8]) -> bool {
    const NAMES: [&[u8]; 6] = [
        b"postgresql.auto.conf",
        b"standby.signal",
        b"recovery.signal",
        b"backup_label",
        b"tablespace_map",
        b"postmaster.pid",
    ];
    let prefixes = [b"pg_replslot/".as_slice(), b".s.PGSQL."];
    path == CONTROL_FILE || NAMES.contains(&path) || prefixes.iter().any(|prefix| path.starts_with(prefix))
}

/// The files that no job has taken yet, in order of path: only the part at hand is in memory.
struct Queue {
    parts: Parts,
    /// The part, and how many of its files were taken.
    current: Option<(Arc<PageMap>, usize)>,
    failed: bool,
}

impl Queue {
    /// The next file: its part, and which of its files it is. Nothing more when a job failed.
    async fn take(&mut self) -> Result<Option<(Arc<PageMap>, usize)>> {
        while !self.failed {
            match &mut self.current {
                Some((part, taken)) if *taken < part.files.len() => {
                    *taken += 1;
                    if !is_ours(&part.files[*taken - 1].path) {
                        return Ok(Some((part.clone(), *taken - 1)));
                    }
                }
                _ => match self.parts.next().await? {
                    Some(part) => self.current = Some((part, 0)),
                    None => return Ok(None),
                },
            }
        }
        Ok(None)
    }
}

async fn write_files(
    target: &Target,
    map: &Arc<StoredMap>,
    known: Option<Arc<KnownPages>>,
    jobs: usize,
    observer: &Arc<dyn Observer>,
) -> Result<Written> {
    let queue = Arc::new(futures::lock::Mutex::new(Queue { parts: map.parts(0), current: None, failed: false }));
    let job = |_| {
        let (target, known, queue, observer) = (target.clone(), known.clone(), queue.clone(), observer.clone());
        target.shelf.world.clone().spawn(async move {
            let written = write_some(target, known, &queue, observer).await;
            if written.is_err() {
                queue.lock().await.failed = true;
            }
            written
        })
    };
    let running: Vec<_> = (0..jobs.max(1)).map(job).collect();
    let mut written = Written::default();
    let mut failure = None;
    for job in running {
        match job.await {
            Ok(part) => {
                written.files += part.files;
                written.bytes += part.bytes;
                written.rewritten += part.rewritten;
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(written), Err)
}

async fn write_some(
    target: Target,
    known: Option<Arc<KnownPages>>,
    queue: &futures::lock::Mutex<Queue>,
    observer: Arc<dyn Observer>,
) -> Result<Written> {
    let mut writer = PageWriter::new(target.shelf.clone());
    let mut written = Written::default();
    loop {
        let next = queue.lock().await.take().await?;
        let Some((part, at)) = next else { return Ok(written) };
        let file = &part.files[at];
        written.rewritten += write_one(&target, &mut writer, &part, file, known.as_deref(), &observer).await?;
        written.files += 1;
        written.bytes += file.len;
    }
}

/// Writes one file, or mends it where it is there; returns the bytes written.
async fn write_one(
    target: &Target,
    writer: &mut PageWriter,
    part: &Arc<PageMap>,
    file: &MapFile,
    known: Option<&KnownPages>,
    observer: &Arc<dyn Observer>,
) -> Result<u64> {
    let path = target.place(&file.path)?;
    let observer = observer.clone();
    let advance = move |bytes| observer.event(Event::Advance(bytes));
    let there = known.is_some() && target.has(&path).await?;
    let written = match known.filter(|_| there) {
        Some(known) => writer.update(part, file, &path, known, &advance).await?,
        None => {
            writer.write(part, file, path.clone(), &advance).await?;
            file.len
        }
    };
    if target.owner.is_some() {
        target.blocking(move |target| target.own(&path)).await?;
    }
    Ok(written)
}

/// Places the WAL of the plan, and every history file that is known, so that the new timeline gets a free number.
async fn place_wal(target: &Target, plan: &Plan, jobs: usize) -> Result<u64> {
    for (timeline, content) in histories(&target.shelf, plan.resolved.timeline).await? {
        target.small_file(&format!("pg_wal/{:08X}.history", timeline.0), &content).await?;
    }
    let queue = Arc::new(Mutex::new(plan.segments.clone().into_iter()));
    let job = |_| {
        let (target, plan, queue) = (target.clone(), plan.clone(), queue.clone());
        target.shelf.world.clone().spawn(async move {
            loop {
                let next = queue.lock().expect("no holder panics").next();
                let Some((timeline, start)) = next else { return Ok(()) };
                place_segment(&target, &plan, timeline, start).await?;
            }
        })
    };
    let running: Vec<_> = (0..jobs.max(1)).map(job).collect();
    let mut result: Result<()> = Ok(());
    for job in running {
        result = result.and(job.await);
    }
    result.map(|()| plan.segments.len() as u64)
}

/// Places one segment, filled up with zeros behind what is stored of it.
async fn place_segment(target: &Target, plan: &Plan, timeline: Timeline, start: Lsn) -> Result<()> {
    let size = plan.constants.segment_size;
    let name = segment_name(timeline, size.segment_of(start), size);
    let path = target.root.join(format!("pg_wal/{name}"));
    target.small_file(&format!("pg_wal/{name}"), b"").await?;
    let stored = plan.constants.stored_segment();
    for offset in (0..u64::from(size.bytes())).step_by(usize::try_from(stored).expect("at most 16 MiB")) {
        let at = Lsn(start.0 + offset);
        let found = read_segment(&target.shelf, timeline, at, stored).await?;
        let mut bytes = found.map_or_else(Vec::new, |segment| segment.bytes);
        // Behind the end of the plan nothing is replayed.
        if at.0 + (bytes.len() as u64) < plan.resolved.end.0.min(at.0 + stored) {
            let what = format!("WAL of segment {name} is missing from the repository");
            return Err(Error::damaged(what, "choose a target before it, or a backup made after it"));
        }
        bytes.resize(usize::try_from(stored).expect("at most 16 MiB"), 0);
        let path = path.clone();
        let write = move |target: &Target| {
            let files = target.shelf.world.files.as_ref();
            let mut file = files.open_write(&path).map_err(Error::files("open", &path))?;
            file.write_at(offset, &bytes).map_err(Error::files("write", &path))?;
            file.sync().map_err(Error::files("sync", &path))
        };
        target.blocking(write).await?;
    }
    Ok(())
}

/// The histories of a timeline and those around it.
async fn histories(shelf: &Shelf, timeline: Timeline) -> Result<Vec<(Timeline, Vec<u8>)>> {
    let (mut found, mut missing, mut candidate) = (Vec::new(), 0, 1);
    while missing < 4 || candidate <= timeline.0 {
        candidate += 1;
        match read_history(shelf.store.as_ref(), &shelf.keyring, &shelf.signers, shelf.lineage, candidate).await {
            Ok(content) => {
                missing = 0;
                found.push((Timeline(candidate), content));
            }
            Err(error) if error.is_not_found() => missing += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}
