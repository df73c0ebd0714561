//! When the chunks of an open segment are merged: counting, nothing else.
//!
//! A receiver that stores every flush makes thousands of small objects of one segment, and a restore of the open segment would
//! read them one by one. Every 32 chunks are stored once more as one object, and every 32 of those again. What is merged is stored
//! already, so nothing waits for it and nothing depends on it.

use asof_postgres::lsn::Lsn;
use asof_repository::wal::MERGED_LEVELS;

/// How many objects of one level make one of the next.
const FAN_IN: u32 = 32;

/// What is to be stored once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) level: u8,
    pub(super) from: Lsn,
    pub(super) to: Lsn,
}

/// Objects of one level behind the last of the next.
#[derive(Clone, Copy)]
struct Pending {
    from: Lsn,
    to: Lsn,
    objects: u32,
}

/// The open segment's objects, by level.
pub(super) struct Merging([Pending; MERGED_LEVELS as usize]);

impl Merging {
    /// A segment of which nothing is stored.
    pub(super) fn new(start: Lsn) -> Self {
        Self([Pending { from: start, to: start, objects: 0 }; MERGED_LEVELS as usize])
    }

    /// An object of `level` is stored that ends at `end`.
    pub(super) fn stored(&mut self, level: u8, end: Lsn) {
        let level = usize::from(level);
        for below in self.0.iter_mut().take(level) {
            *below = Pending { from: end, to: end, objects: 0 };
        }
        if let Some(own) = self.0.get_mut(level) {
            (own.to, own.objects) = (end, own.objects + 1);
        }
    }

    /// What is to be merged now, the lowest level first.
    pub(super) fn due(&self) -> Option<Due> {
        let (level, pending) = (1..).zip(&self.0).find(|(_, pending)| pending.objects >= FAN_IN)?;
        Some(Due { level, from: pending.from, to: pending.to })
    }

    /// Somebody else merged further than we have received: the next try comes after as many objects again.
    pub(super) fn postpone(&mut self, due: Due) {
        self.0[usize::from(due.level) - 1].objects = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores `chunks` chunks of one byte; how many objects a reader reads then, and the longest chain of each level.
    fn read_after(chunks: u64) -> (usize, Vec<(u8, u64, u64)>) {
        let (mut merging, mut merged) = (Merging::new(Lsn(0)), Vec::new());
        for end in 1..=chunks {
            merging.stored(0, Lsn(end));
            while let Some(due) = merging.due() {
                merged.push((due.level, due.from.0, due.to.0));
                merging.stored(due.level, due.to);
            }
        }
        let (mut at, mut reads) = (0, 0);
        for level in (1..=MERGED_LEVELS).rev() {
            while let Some((.., to)) = merged.iter().find(|(of, from, _)| (*of, *from) == (level, at)) {
                (at, reads) = (*to, reads + 1);
            }
        }
        (reads + usize::try_from(chunks - at).expect("few"), merged)
    }

    #[test]
    fn an_open_segment_is_few_reads_however_many_chunks_it_has() {
        assert_eq!(read_after(31), (31, vec![]));
        assert_eq!(read_after(33), (2, vec![(1, 0, 32)]));
        assert_eq!(read_after(1025).0, 2);
        for chunks in [5000u64, 16_000] {
            let bound = chunks / 1024 + 32 + 32;
            assert!(read_after(chunks).0 as u64 <= bound, "{chunks} chunks are {} reads", read_after(chunks).0);
        }
    }

    #[test]
    fn merged_chunks_of_somebody_else_are_followed_and_ours_begin_behind_them() {
        let mut merging = Merging::new(Lsn(0));
        merging.stored(1, Lsn(500));
        (0..FAN_IN).for_each(|n| merging.stored(0, Lsn(501 + u64::from(n))));
        let due = Due { level: 1, from: Lsn(500), to: Lsn(532) };
        assert_eq!(merging.due(), Some(due));
        merging.postpone(due);
        assert_eq!(merging.due(), None);
        (0..FAN_IN).for_each(|n| merging.stored(0, Lsn(533 + u64::from(n))));
        assert_eq!(merging.due(), Some(Due { to: Lsn(564), ..due }), "what is merged begins where it did");
    }
}
