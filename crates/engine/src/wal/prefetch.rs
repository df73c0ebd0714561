//! WAL for a recovering server, fetched before it is asked for.
//!
//! A server in recovery asks for one segment at a time and waits for it. So whoever was asked for a segment has the next ones put
//! beside the place where the server wants them, into `asof-prefetch/<lineage>`, by a process of its own; the next question is
//! then answered by renaming a file. What lies there was authenticated when it was read, and appears under its name whole. The
//! directory means nothing: what it lacks is fetched, and what is not asked for is removed.

use std::path::{Path, PathBuf};

use asof_postgres::lsn::{SegmentNo, WalSegmentSize};
use asof_postgres::names::{WalFileName, segment_name};
use asof_world::create_dir_durable;

use super::archive::get;
use super::shape::WalConstants;
use crate::error::{Error, Result};
use crate::shelf::Shelf;

/// Bytes that are kept ready.
const AHEAD: u64 = 128 << 20;
/// Held by the one who fetches.
const LOCK: &str = "lock";

/// The segments that are kept ready for one recovering server.
pub struct Prefetched {
    shelf: Shelf,
    directory: PathBuf,
}

/// A segment that was taken from what is ready.
pub struct Taken {
    /// Whether it is time to fetch more.
    pub runs_low: bool,
}

impl Prefetched {
    /// Those beside `path`, where the server wants its next file.
    pub fn beside(shelf: &Shelf, path: &Path) -> Self {
        let parent = path.parent().unwrap_or(Path::new("")).join("asof-prefetch");
        Self { shelf: shelf.clone(), directory: parent.join(shelf.lineage.to_string()) }
    }

    /// Moves the segment `name` to `path`, if it is ready.
    pub async fn take(&self, name: &str, path: &Path) -> Option<Taken> {
        let (files, from, to) = (self.shelf.world.files.clone(), self.directory.join(name), path.to_owned());
        let (directory, name) = (self.directory.clone(), name.to_owned());
        let take = move || {
            let size = WalSegmentSize::new(files.attributes(&from).ok()?.len).ok()?;
            let following = following(&name, size)?;
            files.rename(&from, &to).ok()?;
            let ready = following.iter().filter(|name| files.exists(&directory.join(name)).unwrap_or(false)).count();
            Some(Taken { runs_low: ready * 2 < following.len() })
        };
        self.shelf.world.blocking(take).await
    }

    /// Fetches what follows `name` until enough is ready or there is nothing more. Of two who do so at once one goes.
    pub async fn fill(&self, constants: &WalConstants, name: &str) -> Result<()> {
        let Some(lock) = self.lock().await? else { return Ok(()) };
        let wanted = following(name, constants.segment_size).unwrap_or_default();
        self.remove_all_but(&wanted).await?;
        for name in wanted {
            let place = self.directory.join(&name);
            let (files, there) = (self.shelf.world.files.clone(), place.clone());
            let is_ready = self.shelf.world.blocking(move || files.exists(&there)).await;
            if !is_ready.map_err(Error::files("look at", &place))?
                && !get(&self.shelf, constants, &name, &place).await?
            {
                break;
            }
        }
        drop(lock);
        Ok(())
    }

    /// Removes everything: the server has all that there is.
    pub async fn clear(&self) -> Result<()> {
        let (files, directory) = (self.shelf.world.files.clone(), self.directory.clone());
        let remove = move || match files.exists(&directory)? {
            true => files.remove_tree(directory.parent().unwrap_or(&directory)),
            false => Ok(()),
        };
        self.shelf.world.blocking(remove).await.map_err(Error::files("remove", &self.directory))
    }

    async fn lock(&self) -> Result<Option<Box<dyn Send>>> {
        let (files, directory) = (self.shelf.world.files.clone(), self.directory.clone());
        let lock = move || {
            create_dir_durable(files.as_ref(), &directory, 0o700)?;
            files.lock(&directory.join(LOCK))
        };
        self.shelf.world.blocking(lock).await.map_err(Error::files("lock", &self.directory))
    }

    async fn remove_all_but(&self, wanted: &[String]) -> Result<()> {
        let (files, directory, wanted) = (self.shelf.world.files.clone(), self.directory.clone(), wanted.to_vec());
        let remove = move || {
            for entry in files.list(&directory)? {
                let name = entry.name.to_string_lossy().into_owned();
                if name != LOCK && !wanted.contains(&name) {
                    // The server may take it at this moment.
                    let _ = files.remove_file(&directory.join(name));
                }
            }
            Ok(())
        };
        self.shelf.world.blocking(remove).await.map_err(Error::files("clean up", &self.directory))
    }
}

/// The names of the segments that are kept ready behind `name`.
fn following(name: &str, size: WalSegmentSize) -> Option<Vec<String>> {
    let Ok(WalFileName::Segment { timeline, segment }) = WalFileName::parse(name.as_bytes(), size) else { return None };
    let count = (AHEAD / u64::from(size.bytes())).clamp(1, 64);
    let name = |n| {
        let next = SegmentNo(segment.0.checked_add(n)?);
        size.start(next)?;
        Some(segment_name(timeline, next, size))
    };
    (1..=count).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_segment_crosses_the_border_of_its_name_and_is_bounded() {
        let size = |bytes| WalSegmentSize::new(bytes).expect("a valid size");
        let names = following("0000000200000001000000FE", size(16 << 20)).expect("a segment");
        assert_eq!(names.len(), 8);
        assert_eq!(names[0..2], ["0000000200000001000000FF", "000000020000000200000000"]);
        assert_eq!(following("000000010000000000000001", size(1 << 20)).expect("a segment").len(), 64);
        assert_eq!(following("000000010000000000000001", size(1 << 30)).expect("a segment").len(), 1);
        assert_eq!(following("00000002.history", size(16 << 20)), None);
    }
}
