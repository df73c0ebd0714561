//! The truth about one lineage: the entries of its journal and what they add up to. Format.md, "Lineage journal".

use std::collections::BTreeMap;

use asof_world::{Id, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::journal::{Context, State};
use crate::keyring::Role;
use crate::serial;

/// The longest report of a drill, as JSON: every reader of the journal reads it.
pub const REPORT_LEN: usize = 64 << 10;

/// An entry of a lineage's journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Entry {
    /// Slot 1: what was found at the first contact, and where the history came from.
    Registered {
        /// What identifies the server; compared on every later contact.
        facts: BTreeMap<String, Value>,
        /// The lineage that this one was restored or upgraded from.
        parent: Option<Parent>,
    },
    /// A writer declares that older epochs may no longer decide anything.
    Takeover {
        /// Why.
        reason: String,
    },
    /// Somebody begins to write packs under this attempt's name.
    AttemptStarted {
        /// The attempt.
        #[serde(with = "serial::id")]
        attempt: Id,
    },
    /// Packs of the attempt that are stored, so that a later attempt can adopt them.
    Progress {
        /// The attempt.
        #[serde(with = "serial::id")]
        attempt: Id,
        /// Packs stored since the last such entry.
        packs: Vec<StoredPack>,
    },
    /// The backup exists from here on.
    BackupCommitted(Box<Backup>),
    /// The attempt will never be committed.
    AttemptAborted {
        /// The attempt.
        #[serde(with = "serial::id")]
        attempt: Id,
        /// Why.
        reason: String,
    },
    /// Tags are set; an empty value removes one.
    Tagged {
        /// The backup.
        #[serde(with = "serial::id")]
        backup: Id,
        /// What to set.
        tags: BTreeMap<String, String>,
    },
    /// The backup must not be deleted until the hold is released.
    Held {
        /// The backup.
        #[serde(with = "serial::id")]
        backup: Id,
        /// Why.
        reason: String,
    },
    /// The hold is gone.
    Released {
        /// The backup.
        #[serde(with = "serial::id")]
        backup: Id,
    },
    /// The backup is gone; its space is freed by collection.
    BackupDeleted {
        /// The backup.
        #[serde(with = "serial::id")]
        backup: Id,
        /// Why.
        reason: String,
    },
    /// Every stored byte of the backup was read and decoded.
    Verified {
        /// The backup.
        #[serde(with = "serial::id")]
        backup: Id,
        /// Whether it is whole.
        ok: bool,
        /// What was read, or what is damaged and where.
        what: String,
        /// How long it took, in milliseconds.
        elapsed_ms: u64,
    },
    /// The backup was brought back into a throw-away server and looked at.
    Drilled {
        /// The backup.
        #[serde(with = "serial::id")]
        backup: Id,
        /// Whether everything passed.
        ok: bool,
        /// What was done and found; opaque here, and no longer than [`REPORT_LEN`].
        report: Value,
        /// How long it took, in milliseconds.
        elapsed_ms: u64,
        /// The major of the server.
        loaded_into: u32,
    },
    /// WAL is stored without a hole from here on, until another such entry or a gap.
    WalStarted {
        /// The timeline.
        timeline: u32,
        /// The first position that is stored.
        start: u64,
    },
    /// WAL between two positions is not stored and never will be.
    WalGap {
        /// The timeline.
        timeline: u32,
        /// The first missing position.
        from: u64,
        /// The first position that is stored again.
        to: u64,
        /// Why.
        reason: String,
    },
    /// A timeline ended for this lineage and another began.
    TimelineSwitched {
        /// The timeline left behind.
        from: u32,
        /// The timeline that follows.
        to: u32,
        /// Where they part.
        at: u64,
        /// How far WAL of the old timeline is durable here; behind `at` it is a tail that the failover left behind.
        durable: u64,
        /// Commits in the tail, where they could be counted.
        commits: Option<u64>,
    },
}

/// Where a lineage's history came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// The lineage.
    #[serde(with = "serial::id")]
    pub lineage: Id,
    /// The timeline on which the two part.
    pub timeline: u32,
    /// Where they part.
    pub at: u64,
}

/// A pack that is stored, and what proves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredPack {
    /// Its number within the attempt.
    pub number: u32,
    /// Length in bytes.
    pub len: u64,
    /// The digest of its end.
    #[serde(with = "serial::digest")]
    pub digest: [u8; 32],
}

/// Who asked for a backup, which decides how long it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupKind {
    /// Made by the schedule; expires.
    Automated,
    /// A manual snapshot: kept until it is deleted.
    Manual,
}

/// What a backup is made of, which decides what can be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The files of an instance: with WAL, every later moment can be restored from it.
    Physical,
    /// What `pg_dump` wrote of one database: that moment, to be loaded into any instance.
    Logical,
}

/// A committed backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// Its id: that of the attempt which made it.
    #[serde(with = "serial::id")]
    pub id: Id,
    /// Its name, free to choose; unique among those that exist.
    pub name: String,
    /// Automated or manual. `kind` in JSON is that of the entry.
    #[serde(rename = "backup_kind")]
    pub kind: BackupKind,
    /// Files of an instance, or a dump.
    pub method: Method,
    /// When it was started and ended, by the server's clock, in microseconds since 1970.
    pub started: i64,
    /// When it ended.
    pub stopped: i64,
    /// The timeline; 0 for a dump of a server that does not tell it.
    pub timeline: u32,
    /// Replay begins here; the position of the snapshot of a dump, 0 where the server does not tell it.
    pub start: u64,
    /// The backup is consistent from here on; for a dump that is `start`.
    pub stop: u64,
    /// The digest of the end of its page map.
    #[serde(with = "serial::digest")]
    pub map: [u8; 32],
    /// What it cost.
    pub sizes: Sizes,
    /// Reasons for which it must not be the only backup; empty for a good one.
    pub tainted: Vec<String>,
    /// Tags given at creation.
    pub tags: BTreeMap<String, String>,
    /// What the maker of the backup needs to restore it; opaque here.
    pub details: Value,
}

/// What a backup cost, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Length of all its files.
    pub total: u64,
    /// Read from the server.
    pub read: u64,
    /// Plaintext of the pages that were stored for it.
    pub changed: u64,
    /// Written to the repository, packs and map.
    pub stored: u64,
    /// Plaintext of the pages that it shares with earlier backups.
    pub shared: u64,
    /// How many files it has.
    pub files: u64,
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Its state.
    pub outcome: Outcome,
    /// Packs that it recorded.
    pub packs: Vec<StoredPack>,
    /// The slot of its start.
    pub started: u64,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has not ended.
    Open,
    /// Its backup exists.
    Committed,
    /// It will never be committed; the reason.
    Aborted(String),
}

/// A backup with what was decided about it later.
#[derive(Clone, Debug, PartialEq)]
pub struct BackupState {
    /// As committed.
    pub backup: Backup,
    /// Tags in force.
    pub tags: BTreeMap<String, String>,
    /// The reason it is held for.
    pub hold: Option<String>,
    /// Why it was deleted.
    pub deleted: Option<String>,
    /// The last verification.
    pub verified: Option<Verified>,
    /// The last drill.
    pub drilled: Option<Drilled>,
    /// When the commit was written.
    pub committed: Timestamp,
}

impl BackupState {
    /// A backup about which nothing was decided yet.
    #[must_use]
    pub fn new(backup: Backup, committed: Timestamp) -> Self {
        let tags = backup.tags.clone();
        Self { backup, tags, hold: None, deleted: None, verified: None, drilled: None, committed }
    }
}

/// A verification that was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Whether the backup was whole.
    pub ok: bool,
    /// What was read, or what is damaged and where.
    pub what: String,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
    /// When it was recorded.
    #[serde(skip)]
    pub at: Timestamp,
    /// When one last succeeded: before `at` when this one failed.
    #[serde(skip)]
    pub last_ok: Option<Timestamp>,
}

/// A drill that was recorded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drilled {
    /// Whether everything passed.
    pub ok: bool,
    /// What was done and found; opaque here.
    pub report: Value,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
    /// The major of the server.
    pub loaded_into: u32,
    /// When it was recorded.
    #[serde(skip)]
    pub at: Timestamp,
    /// When one last succeeded: before `at` when this one failed.
    #[serde(skip)]
    pub last_ok: Option<Timestamp>,
}

/// A stretch of stored WAL, as far as the journal knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalEvent {
    /// Stored without a hole from here.
    Started {
        /// The timeline.
        timeline: u32,
        /// First stored position.
        start: u64,
    },
    /// Not stored.
    Gap {
        /// The timeline.
        timeline: u32,
        /// First missing position.
        from: u64,
        /// First position stored again.
        to: u64,
    },
    /// Another timeline took over.
    Switched {
        /// The timeline left behind.
        from: u32,
        /// The timeline that follows.
        to: u32,
        /// Where they part.
        at: u64,
        /// How far the old one is durable.
        durable: u64,
        /// Commits in what was left behind, where they could be counted.
        commits: Option<u64>,
    },
}

/// What a lineage's journal adds up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lineage {
    /// What identified the server at the first contact; empty before slot 1.
    pub facts: BTreeMap<String, Value>,
    /// Where the history came from.
    pub parent: Option<Parent>,
    /// Whether slot 1 was written.
    pub registered: bool,
    /// The highest epoch: entries of lower ones count for nothing.
    pub epoch: u64,
    /// All attempts.
    pub attempts: BTreeMap<Id, Attempt>,
    /// All backups that were ever committed.
    pub backups: BTreeMap<Id, BackupState>,
    /// What happened to WAL, in order.
    pub wal: Vec<WalEvent>,
}

impl Lineage {
    /// Backups that exist, oldest first.
    pub fn existing(&self) -> Vec<&BackupState> {
        let mut found: Vec<_> = self.backups.values().filter(|state| state.deleted.is_none()).collect();
        found.sort_by_key(|state| (state.backup.stopped, state.backup.id));
        found
    }

    /// Physical backups that exist, oldest first: what a restore starts from and pages are compared with.
    pub fn physical(&self) -> Vec<&BackupState> {
        let mut found = self.existing();
        found.retain(|state| state.backup.method == Method::Physical);
        found
    }

    fn open_attempt(&self, id: Id) -> Result<&Attempt, String> {
        match self.attempts.get(&id) {
            None => Err(format!("attempt {id} was never started")),
            Some(Attempt { outcome: Outcome::Committed, .. }) => Err(format!("attempt {id} is committed already")),
            Some(Attempt { outcome: Outcome::Aborted(reason), .. }) => {
                Err(format!("attempt {id} was aborted: {reason}"))
            }
            Some(attempt) => Ok(attempt),
        }
    }

    fn existing_backup(&self, id: Id) -> Result<&BackupState, String> {
        match self.backups.get(&id) {
            Some(state) if state.deleted.is_none() => Ok(state),
            Some(_) => Err(format!("backup {id} is deleted")),
            None => Err(format!("there is no backup {id}")),
        }
    }
}

impl State for Lineage {
    type Entry = Entry;

    fn role(entry: &Entry) -> Role {
        match entry {
            Entry::Tagged { .. } | Entry::Held { .. } | Entry::Released { .. } | Entry::BackupDeleted { .. } => {
                Role::Operator
            }
            _ => Role::Writer,
        }
    }

    fn check(&self, context: &Context, entry: &Entry) -> Result<(), String> {
        if !self.registered && !matches!(entry, Entry::Registered { .. }) {
            return Err("the lineage is not registered".to_owned());
        }
        if context.epoch < self.epoch {
            return Err(format!("epoch {} was superseded by epoch {}", context.epoch, self.epoch));
        }
        match entry {
            Entry::Registered { .. } if self.registered => Err("the lineage is registered already".to_owned()),
            Entry::Takeover { .. } if context.epoch == self.epoch => {
                Err(format!("epoch {} is in force already", self.epoch))
            }
            Entry::Takeover { .. } => Ok(()),
            _ if context.epoch > self.epoch => {
                Err(format!("epoch {} is in force, and no takeover began epoch {}", self.epoch, context.epoch))
            }
            Entry::AttemptStarted { attempt } if self.attempts.contains_key(attempt) => {
                Err(format!("attempt {attempt} was started already"))
            }
            Entry::Progress { attempt, .. } | Entry::AttemptAborted { attempt, .. } => {
                self.open_attempt(*attempt).map(|_| ())
            }
            Entry::BackupCommitted(backup) => {
                self.open_attempt(backup.id)?;
                match self.existing().iter().find(|state| state.backup.name == backup.name) {
                    Some(_) => Err(format!("there is a backup named \"{}\" already", backup.name)),
                    None => Ok(()),
                }
            }
            Entry::Tagged { backup, .. } | Entry::Held { backup, .. } | Entry::Released { backup } => {
                self.existing_backup(*backup).map(|_| ())
            }
            Entry::Verified { backup, .. } => self.existing_backup(*backup).map(|_| ()),
            Entry::Drilled { backup, report, .. } => match report.to_string().len() {
                0..=REPORT_LEN => self.existing_backup(*backup).map(|_| ()),
                len => Err(format!("a report of {len} bytes is longer than {REPORT_LEN}")),
            },
            Entry::BackupDeleted { backup, .. } => match &self.existing_backup(*backup)?.hold {
                Some(reason) => Err(format!("backup {backup} is held: {reason}")),
                None => Ok(()),
            },
            Entry::WalGap { from, to, .. } if from >= to => Err("a gap has a length".to_owned()),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, context: &Context, entry: Entry) {
        self.epoch = context.epoch;
        match entry {
            Entry::Registered { facts, parent } => {
                self.facts = facts;
                self.parent = parent;
                self.registered = true;
            }
            Entry::Takeover { .. } => {}
            Entry::AttemptStarted { attempt } => {
                let started = Attempt { outcome: Outcome::Open, packs: Vec::new(), started: context.number };
                self.attempts.insert(attempt, started);
            }
            Entry::Progress { attempt, packs } => self.attempt(attempt).packs.extend(packs),
            Entry::AttemptAborted { attempt, reason } => self.attempt(attempt).outcome = Outcome::Aborted(reason),
            Entry::BackupCommitted(backup) => self.commit(context, *backup),
            Entry::Tagged { backup, tags } => {
                let current = &mut self.backup(backup).tags;
                current.extend(tags);
                current.retain(|_, value| !value.is_empty());
            }
            Entry::Held { backup, reason } => self.backup(backup).hold = Some(reason),
            Entry::Released { backup } => self.backup(backup).hold = None,
            Entry::BackupDeleted { backup, reason } => self.backup(backup).deleted = Some(reason),
            Entry::Verified { backup, ok, what, elapsed_ms } => {
                let state = self.backup(backup);
                let earlier = state.verified.take().and_then(|earlier| earlier.last_ok);
                let last_ok = if ok { Some(context.time) } else { earlier };
                state.verified = Some(Verified { ok, what, elapsed_ms, at: context.time, last_ok });
            }
            Entry::Drilled { backup, ok, report, elapsed_ms, loaded_into } => {
                let state = self.backup(backup);
                let earlier = state.drilled.take().and_then(|earlier| earlier.last_ok);
                let last_ok = if ok { Some(context.time) } else { earlier };
                state.drilled = Some(Drilled { ok, report, elapsed_ms, loaded_into, at: context.time, last_ok });
            }
            Entry::WalStarted { timeline, start } => self.wal.push(WalEvent::Started { timeline, start }),
            Entry::WalGap { timeline, from, to, .. } => self.wal.push(WalEvent::Gap { timeline, from, to }),
            Entry::TimelineSwitched { from, to, at, durable, commits } => {
                self.wal.push(WalEvent::Switched { from, to, at, durable, commits });
            }
        }
    }
}

impl Lineage {
    fn attempt(&mut self, id: Id) -> &mut Attempt {
        self.attempts.get_mut(&id).expect("the entry was checked before")
    }

    fn backup(&mut self, id: Id) -> &mut BackupState {
        self.backups.get_mut(&id).expect("the entry was checked before")
    }

    fn commit(&mut self, context: &Context, backup: Backup) {
        self.attempt(backup.id).outcome = Outcome::Committed;
        let state = BackupState::new(backup, context.time);
        self.backups.insert(state.backup.id, state);
    }
}
