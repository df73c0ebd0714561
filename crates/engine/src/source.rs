//! Two ways to read the files of an instance, one interface: files of the same host, or SQL from anywhere.
//!
//! Both read parts of files of a running server. What is read may be torn, may vanish and may shrink; whoever reads deals
//! with that ([`crate::backup`]). Paths are bytes relative to the data directory, with `/` between parts; tablespaces appear
//! as `pg_tblspc/<oid>/…`, whatever they are linked to.

mod files;
mod sql;

use std::sync::Arc;

use asof_postgres::names::{self, FileKind, RelationFile};
use asof_postgres::version::{self, Major};
use asof_world::ReadFile;
use async_trait::async_trait;

use crate::error::Result;

pub use files::FilesSource;
pub use sql::{READS_EVERYTHING, SqlSource, grants, missing_rights, superfluous_rights, superfluous_to_dump};

/// A running instance whose files can be read.
#[async_trait]
pub trait Source: Send + Sync {
    /// Everything that belongs into a backup, in no order. `pg_control` is not in it: it is read last and by itself.
    async fn list(&self) -> Result<Listing>;
    /// Opens a file; `None` when it has vanished, which is normal for relations that were dropped.
    async fn open(&self, path: &[u8]) -> Result<Option<Arc<dyn SourceFile>>>;
}

/// A file of a running instance.
#[async_trait]
pub trait SourceFile: Send + Sync {
    /// Its length when it was opened.
    fn len(&self) -> u64;
    /// Whether it was empty when it was opened.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads up to `len` bytes at `offset`; fewer only at the present end of the file, which may be nearer than it was.
    async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>>;
    /// The file itself, where it is on this host: read by whoever has a thread to spare, many pieces in one go.
    fn local(&self) -> Option<Arc<dyn ReadFile>> {
        None
    }
}

/// What an instance consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Directories, including those whose content is left out.
    pub directories: Vec<Vec<u8>>,
    /// Files that belong into a backup.
    pub files: Vec<ListedFile>,
    /// Tablespaces besides the two built in.
    pub tablespaces: Vec<Tablespace>,
}

/// A file as listed; it may have changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFile {
    /// Its path.
    pub path: Vec<u8>,
    /// Its length then.
    pub len: u64,
    /// What it is.
    pub kind: FileKind,
    /// The relation, unless the kind is other.
    pub relation: Option<RelationFile>,
}

/// A tablespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// Its OID: the name of the link below `pg_tblspc`.
    pub oid: u32,
    /// Where the link leads; `None` for an in-place tablespace, which is a plain directory.
    pub location: Option<Vec<u8>>,
}

/// `pg_control`, which is read last and by itself.
pub const CONTROL_FILE: &[u8] = b"global/pg_control";

/// Whether a path belongs into a backup's listing, and what it is. Unlogged relations are removed later, by
/// [`Listing::without_unlogged`], because only the whole listing tells which they are.
pub(crate) fn judge(major: Major, path: Vec<u8>, len: u64) -> Option<ListedFile> {
    if path == CONTROL_FILE || version::excluded_from_backup(major, &path).is_some() {
        return None;
    }
    let classified = names::classify(&path, major);
    Some(ListedFile { path, len, kind: classified.kind, relation: classified.relation })
}

impl Listing {
    /// Leaves out relations whose content does not survive recovery, and puts everything in order of path.
    #[must_use]
    pub fn without_unlogged(mut self) -> Self {
        let unlogged = names::unlogged_relations(self.files.iter().filter_map(|file| file.relation.as_ref()));
        self.files.retain(|file| file.relation.as_ref().is_none_or(|r| !names::excluded_relation(r, &unlogged)));
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        self.directories.sort();
        self.tablespaces.sort_by_key(|tablespace| tablespace.oid);
        self
    }
}
