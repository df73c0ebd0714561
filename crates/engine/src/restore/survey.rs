//! What a map names, without where its pages lie: what has to be known before the first file is written.

use std::collections::BTreeSet;
use std::sync::Arc;

use asof_repository::map::StoredMap;

use crate::error::Result;

/// The names in a map.
#[derive(Default)]
pub(super) struct Survey {
    /// Directories, including those of files that the backup's listing did not name: a file may be younger than the listing.
    pub(super) directories: BTreeSet<Vec<u8>>,
    /// Paths of files.
    pub(super) files: BTreeSet<Vec<u8>>,
    /// How long the files are together.
    pub(super) bytes: u64,
}

impl Survey {
    /// Reads all parts once.
    pub(super) async fn of(map: &Arc<StoredMap>) -> Result<Self> {
        let (mut survey, mut parts) = (Self::default(), map.parts(0));
        while let Some(part) = parts.next().await? {
            survey.directories.extend(part.directories.iter().cloned());
            for file in &part.files {
                survey.bytes += file.len;
                survey.directories.extend(parents(&file.path).map(<[u8]>::to_vec));
                survey.files.insert(file.path.clone());
            }
        }
        Ok(survey)
    }
}

fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}
