//! A stored dump as streams: its files are read from the repository piece by piece, every byte authenticated.

use std::fmt::Display;
use std::sync::Arc;

use asof_repository::lineage::Backup;
use asof_repository::map::{MapFile, PageMap, StoredMap, open_map};
use asof_world::AlignedBuf;

use crate::error::{Error, Result};
use crate::restore::pages::PageWriter;
use crate::shelf::Shelf;

/// The files of one logical backup. Cheap to clone.
#[derive(Clone)]
pub(crate) struct StoredDump {
    shelf: Shelf,
    map: Arc<StoredMap>,
    name: Arc<str>,
}

impl StoredDump {
    /// Opens the map of a logical backup.
    pub(crate) async fn open(shelf: &Shelf, backup: &Backup) -> Result<Self> {
        let Shelf { store, keyring, signers, lineage, .. } = shelf;
        keyring.require_data_secret(&format!("reading backup {}", backup.name))?;
        let name = Arc::from(backup.name.as_str());
        let map = open_map(store.clone(), keyring, signers, *lineage, backup.id, &backup.map).await;
        let map = map.map_err(|error| of_the_dump(&name, error.into()))?;
        Ok(Self { shelf: shelf.clone(), map: Arc::new(map), name })
    }

    /// Starts reading a file; `None` when the dump has none of this name.
    pub(crate) async fn find(&self, path: &str) -> Result<Option<StoredFile>> {
        let part = self.map.find(path.as_bytes()).await.map_err(|error| of_the_dump(&self.name, error.into()))?;
        let Some(part) = part else { return Ok(None) };
        let file = part.file(path.as_bytes()).expect("the part was found by it").clone();
        let (reader, name) = (PageWriter::new(self.shelf.clone()), self.name.clone());
        Ok(Some(StoredFile { reader, part: Arc::new(part), file, offset: 0, name }))
    }

    /// Starts reading a file that must be there.
    pub(crate) async fn file(&self, path: &str) -> Result<StoredFile> {
        let found = self.find(path).await?;
        found.ok_or_else(|| damaged(&self.name, &format_args!("it has no {path}")))
    }

    /// Every file with its length.
    pub(crate) async fn list(&self) -> Result<Vec<(String, u64)>> {
        let (mut parts, mut files) = (self.map.parts(0), Vec::new());
        while let Some(part) = parts.next().await.map_err(|error| of_the_dump(&self.name, error.into()))? {
            files.extend(part.files.iter().map(|file| (String::from_utf8_lossy(&file.path).into_owned(), file.len)));
        }
        Ok(files)
    }
}

/// A file of a stored dump that is being read.
pub(crate) struct StoredFile {
    reader: PageWriter,
    part: Arc<PageMap>,
    file: MapFile,
    offset: u64,
    name: Arc<str>,
}

impl StoredFile {
    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<AlignedBuf>> {
        if self.offset == self.file.len {
            return Ok(None);
        }
        let piece = self.reader.read_at(&self.part, &self.file, self.offset).await;
        let piece = piece.map_err(|error| of_the_dump(&self.name, error))?;
        self.offset += piece.len() as u64;
        Ok(Some(piece))
    }

    /// All of a file that is not longer than `limit`.
    pub(crate) async fn whole(mut self, limit: u64) -> Result<Vec<u8>> {
        self.reader.read(&self.part, &self.file, limit).await.map_err(|error| of_the_dump(&self.name, error))
    }
}

/// An object that is damaged or not there is damage of the dump that needs it.
fn of_the_dump(name: &str, error: Error) -> Error {
    use asof_repository::Error::{Corrupt, NotFound};
    match error {
        Error::Repository(error @ (Corrupt { .. } | NotFound { .. })) => damaged(name, &error),
        other => other,
    }
}

fn damaged(name: &str, why: &dyn Display) -> Error {
    Error::damaged(format!("{name} is damaged: {why}"), "choose another backup, and dump again")
}
