//! Pages whose checksum never held while they were read: does WAL mend them, or are they damaged (rule 13)?
//!
//! The first record that names a block after the start of a backup brings its full image, or makes it from nothing: replay
//! does not look at what was there. So a page that was being written whenever it was read is as good as any other, if such a
//! record lies between start and stop; it is stored with a mark, so that nobody holds its checksum against the backup. Without
//! one, nothing was writing it: replay would stop at it or keep it, and the backup is tainted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use asof_postgres::lsn::{Lsn, Timeline};
use asof_postgres::names::{Fork, RelFileLocator};
use asof_postgres::wal::{BlockImage, Decoded, Record, WalDecoder};

use super::copy::{Copied, text};
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};
use crate::shelf::Shelf;
use crate::target::Path;
use crate::wal::shape::WalConstants;

/// A page that never became valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TornPage {
    pub(crate) path: Vec<u8>,
    /// Number within the file.
    pub(crate) page: u32,
    /// What WAL calls it.
    pub(crate) block: Block,
}

/// A block as WAL names it.
pub(crate) type Block = (RelFileLocator, Fork, u32);

/// Leaves in `copied.torn` only what WAL from start to stop does not mend, and takes the mark off that in the map.
pub(super) async fn settle(
    shelf: &Shelf,
    constants: &WalConstants,
    timeline: Timeline,
    wal: Range<Lsn>,
    copied: &mut Copied,
    observer: &dyn Observer,
) -> Result<()> {
    if copied.torn.is_empty() {
        return Ok(());
    }
    let mended = if shelf.keyring.require_data_secret("reading WAL").is_ok() {
        let blocks = copied.torn.iter().map(|torn| torn.block).collect();
        mended_by(&Path::to(shelf, constants, timeline).await?, wal, blocks).await?
    } else {
        let what = "this host cannot read WAL, so it does not know whether replay mends the pages with wrong checksums";
        observer.event(Event::Warning(what.to_owned()));
        BTreeSet::new()
    };
    copied.torn.retain(|torn| !mended.contains(&torn.block));
    for torn in &copied.torn {
        copied.map.unmark(&torn.path, torn.page);
    }
    if !mended.is_empty() {
        observer
            .event(Event::Note(format!("{} pages were torn whenever they were read; replay mends them", mended.len())));
    }
    Ok(())
}

/// Which of `blocks` the WAL of that range makes anew, as it lies in the repository.
async fn mended_by(path: &Path<'_>, wal: Range<Lsn>, blocks: BTreeSet<Block>) -> Result<BTreeSet<Block>> {
    let mut search = Search { wal, open: blocks, mended: BTreeSet::new() };
    let mut at = path.constants.segment_size.floor(search.wal.start);
    let mut decoder = WalDecoder::new(path.constants.shape(path.history.clone()), at)
        .map_err(|error| Error::damaged(error.to_string(), "run the backup again"))?;
    while at < search.wal.end && !search.open.is_empty() {
        let Some(segment) = path.segment(at).await? else { break };
        decoder.feed(&segment.bytes);
        while let Decoded::Record(record) = decoder.next() {
            search.look(&record);
        }
        at = Lsn(at.0 + path.constants.stored_segment());
    }
    Ok(search.mended)
}

struct Search {
    wal: Range<Lsn>,
    /// Not named by any record so far.
    open: BTreeSet<Block>,
    mended: BTreeSet<Block>,
}

impl Search {
    /// Only the first record counts: if it changes a block that is there, replay reads what the backup holds.
    fn look(&mut self, record: &Record<'_>) {
        if record.start < self.wal.start || record.end > self.wal.end {
            return;
        }
        for named in record.blocks {
            let block = (named.relation, named.fork, named.block);
            let anew = named.image == BlockImage::Applied || named.will_initialize;
            if self.open.remove(&block) && anew {
                self.mended.insert(block);
            }
        }
    }
}

/// Reasons for which this backup must never be the only one.
pub(super) fn taints(copied: &Copied) -> Vec<String> {
    let mut by_file: BTreeMap<&[u8], Vec<u32>> = BTreeMap::new();
    copied.torn.iter().for_each(|torn| by_file.entry(&torn.path).or_default().push(torn.page));
    let describe = |(path, pages): (&[u8], Vec<u32>)| {
        let shown: Vec<String> = pages.iter().take(5).map(u32::to_string).collect();
        let more = if pages.len() > 5 { format!(" and {} more", pages.len() - 5) } else { String::new() };
        format!("wrong page checksums in {}: page {}{more}", text(path), shown.join(", "))
    };
    by_file.into_iter().map(describe).collect()
}
