//! What is known while one file is copied, step by step.

use std::sync::Arc;

use asof_repository::map::{PageMap, PendingPack};

use crate::backup::known::{Known, KnownFile};
use crate::backup::pages::PagePlace;
use crate::error::Result;

/// How the runs of one file number packs.
pub(super) struct Packs {
    /// The parent's packs come first, …
    pub(super) part: Option<Arc<PageMap>>,
    /// … then those of broken attempts, then those of this attempt.
    pub(super) others: Vec<PendingPack>,
    /// The number of the last of this attempt, here and there.
    newest: Option<(u32, u32)>,
}

impl Packs {
    pub(super) fn of(known: Option<&KnownFile<'_>>) -> Self {
        let (part, others) = known.map_or((None, Vec::new()), KnownFile::packs);
        Self { part, others, newest: None }
    }

    /// The number here of pack `number` of this attempt.
    pub(super) fn number_of_new(&mut self, number: u32, pack: &PendingPack) -> u32 {
        match self.newest {
            Some((newest, here)) if newest == number => here,
            _ => {
                let shared = self.part.as_ref().map_or(0, |part| part.packs.len());
                let here = u32::try_from(shared + self.others.len()).expect("packs are numbered with 32 bits");
                self.others.push(pack.clone());
                self.newest = Some((number, here));
                here
            }
        }
    }
}

/// Where in a file the next step begins, and how much is left of it.
pub(super) struct At {
    pub(super) offset: u64,
    pub(super) first_page: u32,
    pub(super) wanted: usize,
}

/// What one step handled.
#[derive(Default)]
pub(super) struct Step {
    pub(super) len: usize,
    pub(super) places: Vec<PagePlace>,
    /// Page numbers that never held.
    pub(super) torn: Vec<u32>,
    /// Whether the file ended earlier than it was.
    pub(super) ended: bool,
}

/// What the parent has of a file, read as it is wanted.
pub(super) struct Ahead<'a> {
    pub(super) file: Option<KnownFile<'a>>,
    pub(super) ready: Vec<Known>,
}

impl Ahead<'_> {
    /// The next pages, which are not used up; nothing without a parent.
    pub(super) async fn first(&mut self, pages: usize) -> Result<&[Known]> {
        if let Some(file) = &mut self.file
            && self.ready.len() < pages
        {
            self.ready.extend(file.next(pages - self.ready.len()).await?);
        }
        Ok(&self.ready[..pages.min(self.ready.len())])
    }

    pub(super) fn used(&mut self, pages: usize) {
        self.ready.drain(..pages.min(self.ready.len()));
    }
}
