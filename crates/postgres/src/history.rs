//! Timeline history: through which timelines the WAL of an instance came, and where each was left.
//!
//! A promotion or a recovery to a target starts a new timeline at the *switch point* of the old one. The file `TTTTTTTT.history`
//! lists all ancestors, oldest first: `timeline <tab> switch point <tab> reason`, blank lines and `#` comments allowed
//! (`access/timeline.c`, `writeTimeLineHistory` and `readTimeLineHistory`, PostgreSQL 13 to 18). Timeline 1 has no such file.
//!
//! Every byte of WAL belongs to exactly one timeline of a history: positions before a switch point to the older one, the switch point
//! itself and later ones to the newer. The first segment of a new timeline starts with a copy of the old one's bytes, so its pages carry
//! the *old* timeline until the switch point: [`TimelineHistory::check_page`] demands exactly that.

use crate::lsn::{Lsn, Timeline};

/// Timelines in one history. PostgreSQL sets no limit; ten thousand promotions are beyond any real instance and bound the parser.
const MAX_ANCESTORS: usize = 10_000;

/// A timeline that was left for a newer one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ancestor {
    /// The timeline that ended.
    pub timeline: Timeline,
    /// The first position that does not belong to it any more.
    pub switch_point: Lsn,
    /// Why, in PostgreSQL's words. Bytes as they stand in the file, without line breaks.
    pub reason: Vec<u8>,
}

/// A stretch of WAL on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stretch {
    /// Whose WAL.
    pub timeline: Timeline,
    /// Its first position.
    pub start: Lsn,
    /// The position behind its last; `None` for the newest timeline, which is open.
    pub end: Option<Lsn>,
}

/// A timeline with all its ancestors.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TimelineHistory {
    timeline: Timeline,
    ancestors: Vec<Ancestor>,
}

/// Why a history file is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// Neither blank, nor a comment, nor three fields.
    #[error("line {line} of the history of timeline {timeline} is not a timeline, a switch point and a reason")]
    Line {
        /// Whose history.
        timeline: Timeline,
        /// Counted from 1.
        line: usize,
    },
    /// Ancestors must have rising numbers, all below the timeline's own, and switch points that do not go back.
    #[error("line {line} of the history of timeline {timeline} is out of order")]
    Order {
        /// Whose history.
        timeline: Timeline,
        /// Counted from 1; one more than the last line if the timeline's own number is too small.
        line: usize,
    },
    /// Timeline 0, or a timeline above 1 without any ancestor.
    #[error("timeline {0} cannot have this history: only timeline 1 has no ancestors, and there is no timeline 0")]
    Rootless(Timeline),
    /// More lines than any instance can have.
    #[error("the history of timeline {0} has more than {MAX_ANCESTORS} ancestors")]
    TooLong(Timeline),
}

/// Why a WAL page does not belong to a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageTimelineError {
    /// The page is of a timeline that is no ancestor.
    #[error("WAL page {page} is of timeline {found}, which is not in the history of timeline {of}")]
    Foreign {
        /// Where the page starts.
        page: Lsn,
        /// In its header.
        found: Timeline,
        /// The newest timeline of the history.
        of: Timeline,
    },
    /// The timeline is an ancestor, but its stretch does not hold the page.
    #[error("WAL page {page} is of timeline {found}, but the history puts that position on timeline {expected}")]
    Misplaced {
        /// Where the page starts.
        page: Lsn,
        /// In its header.
        found: Timeline,
        /// The timeline whose stretch holds the page.
        expected: Timeline,
    },
}

impl TimelineHistory {
    /// The history of an instance that never changed its timeline.
    #[must_use]
    pub const fn first() -> Self {
        Self { timeline: Timeline::FIRST, ancestors: Vec::new() }
    }

    /// Checks order and numbers; `ancestors` oldest first.
    pub fn new(timeline: Timeline, ancestors: Vec<Ancestor>) -> Result<Self, HistoryError> {
        if !timeline.is_valid() || (ancestors.is_empty() && timeline != Timeline::FIRST) {
            return Err(HistoryError::Rootless(timeline));
        }
        if ancestors.len() > MAX_ANCESTORS {
            return Err(HistoryError::TooLong(timeline));
        }
        let mut newest = (Timeline(0), Lsn::INVALID);
        for (index, ancestor) in ancestors.iter().enumerate() {
            if ancestor.timeline <= newest.0 || ancestor.switch_point < newest.1 {
                return Err(HistoryError::Order { timeline, line: index + 1 });
            }
            newest = (ancestor.timeline, ancestor.switch_point);
        }
        if timeline <= newest.0 {
            return Err(HistoryError::Order { timeline, line: ancestors.len() + 1 });
        }
        Ok(Self { timeline, ancestors })
    }

    /// Reads the history file of `timeline`.
    pub fn parse(timeline: Timeline, content: &[u8]) -> Result<Self, HistoryError> {
        let mut ancestors = Vec::new();
        for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            if ancestors.len() == MAX_ANCESTORS {
                return Err(HistoryError::TooLong(timeline));
            }
            ancestors.push(ancestor(line).ok_or(HistoryError::Line { timeline, line: index + 1 })?);
        }
        Self::new(timeline, ancestors)
    }

    /// The content of the history file, as PostgreSQL writes it. Empty for timeline 1, which has no file.
    #[must_use]
    pub fn format(&self) -> Vec<u8> {
        let mut content = Vec::new();
        for ancestor in &self.ancestors {
            let head = format!("{}\t{}\t", ancestor.timeline, ancestor.switch_point);
            content.extend(head.into_bytes());
            content.extend(ancestor.reason.iter().map(|byte| if byte.is_ascii_control() { b' ' } else { *byte }));
            content.push(b'\n');
        }
        content
    }

    /// The newest timeline, whose history this is.
    #[must_use]
    pub const fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// Those it descends from, oldest first.
    #[must_use]
    pub fn ancestors(&self) -> &[Ancestor] {
        &self.ancestors
    }

    /// The whole way, oldest first: every stretch of WAL that leads to the newest timeline. Stretches may be empty: a
    /// standby promoted before it wrote anything.
    #[must_use]
    pub fn stretches(&self) -> Vec<Stretch> {
        let starts = std::iter::once(Lsn::INVALID).chain(self.ancestors.iter().map(|ancestor| ancestor.switch_point));
        let ends = self.ancestors.iter().map(|ancestor| (ancestor.timeline, Some(ancestor.switch_point)));
        let all = ends.chain(std::iter::once((self.timeline, None)));
        starts.zip(all).map(|(start, (timeline, end))| Stretch { timeline, start, end }).collect()
    }

    /// The stretch of one timeline; `None` if it is neither the newest nor an ancestor.
    #[must_use]
    pub fn stretch(&self, timeline: Timeline) -> Option<Stretch> {
        self.stretches().into_iter().find(|stretch| stretch.timeline == timeline)
    }

    /// Where `timeline` was left; `None` for the newest and for strangers.
    #[must_use]
    pub fn switch_point(&self, timeline: Timeline) -> Option<Lsn> {
        self.ancestors.iter().find(|ancestor| ancestor.timeline == timeline).map(|ancestor| ancestor.switch_point)
    }

    /// The timeline that the byte at `lsn` belongs to (`tliOfPointInHistory`).
    #[must_use]
    pub fn timeline_at(&self, lsn: Lsn) -> Timeline {
        let left = self.ancestors.iter().find(|ancestor| lsn < ancestor.switch_point);
        left.map_or(self.timeline, |ancestor| ancestor.timeline)
    }

    /// Whether the byte at `lsn` of `timeline` lies on this history.
    #[must_use]
    pub fn contains(&self, timeline: Timeline, lsn: Lsn) -> bool {
        self.timeline_at(lsn) == timeline
    }

    /// Whether everything *before* `lsn` of `timeline`, back to that timeline's start, lies on this history.
    ///
    /// For the end of something, such as a backup's stop: unlike [`Self::contains`] the switch point itself still counts.
    #[must_use]
    pub fn reaches(&self, timeline: Timeline, lsn: Lsn) -> bool {
        self.stretch(timeline).is_some_and(|stretch| stretch.start <= lsn && stretch.end.is_none_or(|end| lsn <= end))
    }

    /// Whether `older` is this history, or what this history was before some promotion.
    #[must_use]
    pub fn descends_from(&self, older: &Self) -> bool {
        if older.timeline == self.timeline {
            return older.ancestors.len() == self.ancestors.len() && self.shares(older);
        }
        self.ancestors.get(older.ancestors.len()).is_some_and(|next| next.timeline == older.timeline)
            && self.shares(older)
    }

    /// Reasons are for people: the ancestors are the same if timelines and switch points are.
    fn shares(&self, older: &Self) -> bool {
        let pairs = self.ancestors.iter().zip(&older.ancestors);
        pairs.into_iter().all(|(a, b)| (a.timeline, a.switch_point) == (b.timeline, b.switch_point))
    }

    /// Whether a WAL page that starts at `page` and carries the timeline `found` may stand in the WAL of this history.
    ///
    /// A new timeline's first segment repeats the old one's bytes up to the switch point. The page that holds the switch point was begun by the
    /// old timeline and keeps its number; pages from the switch point on carry the new one. Since a page's start decides, timelines
    /// never fall from one page to the next.
    pub fn check_page(&self, page: Lsn, found: Timeline) -> Result<(), PageTimelineError> {
        let expected = self.timeline_at(page);
        if found == expected {
            return Ok(());
        }
        if self.stretch(found).is_none() {
            return Err(PageTimelineError::Foreign { page, found, of: self.timeline });
        }
        Err(PageTimelineError::Misplaced { page, found, expected })
    }
}

/// One line, already trimmed.
fn ancestor(line: &[u8]) -> Option<Ancestor> {
    let blank = |byte: &u8| byte.is_ascii_whitespace();
    let (timeline, rest) = line.split_at(line.iter().position(blank)?);
    let rest = rest.trim_ascii_start();
    let (switch_point, reason) = rest.split_at(rest.iter().position(blank).unwrap_or(rest.len()));
    let timeline =
        std::str::from_utf8(timeline).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let timeline = timeline.parse().ok().map(Timeline).filter(|timeline| timeline.is_valid())?;
    let switch_point = std::str::from_utf8(switch_point).ok()?.parse().ok()?;
    Some(Ancestor { timeline, switch_point, reason: reason.trim_ascii_start().to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: &[u8] =
        b"1\t0/3635160\tno recovery target specified\n\n# by hand\n3\t0/5000000\tbefore 2026-11-20 03:00:00+00\n";

    fn history() -> TimelineHistory {
        TimelineHistory::parse(Timeline(4), FILE).expect("a valid history")
    }

    #[test]
    fn a_history_file_lists_where_each_ancestor_was_left() {
        let history = history();
        assert_eq!(history.timeline(), Timeline(4));
        assert_eq!(history.switch_point(Timeline(1)), Some(Lsn(0x363_5160)));
        assert_eq!(history.switch_point(Timeline(3)), Some(Lsn(0x500_0000)));
        assert_eq!(history.switch_point(Timeline(4)), None);
        assert_eq!(history.ancestors()[1].reason, b"before 2026-11-20 03:00:00+00");
        let stretches: Vec<_> =
            history.stretches().into_iter().map(|s| (s.timeline.0, s.start.0, s.end.map(|end| end.0))).collect();
        assert_eq!(stretches, [(1, 0, Some(0x363_5160)), (3, 0x363_5160, Some(0x500_0000)), (4, 0x500_0000, None)]);
    }

    #[test]
    fn a_switch_point_belongs_to_the_newer_timeline_but_still_ends_the_older() {
        let history = history();
        let switch = Lsn(0x363_5160);
        assert!(history.contains(Timeline(1), Lsn(switch.0 - 1)));
        assert!(!history.contains(Timeline(1), switch));
        assert!(history.contains(Timeline(3), switch));
        assert!(history.reaches(Timeline(1), switch));
        assert!(!history.reaches(Timeline(1), Lsn(switch.0 + 1)));
        assert!(!history.reaches(Timeline(2), Lsn(1)));
        assert!(history.reaches(Timeline(4), Lsn::MAX));
        assert!(!history.reaches(Timeline(4), switch));
    }

    #[test]
    fn hz_c9_pages_keep_the_old_timeline_up_to_the_switch_point() {
        let history = history();
        let page = |lsn, timeline| history.check_page(Lsn(lsn), Timeline(timeline));
        assert_eq!(page(0x363_4000, 1), Ok(()));
        assert_eq!(page(0x363_6000, 3), Ok(()));
        assert_eq!(page(0x500_0000, 4), Ok(()));
        assert!(matches!(page(0x363_4000, 3), Err(PageTimelineError::Misplaced { expected: Timeline(1), .. })));
        assert!(matches!(page(0x363_6000, 1), Err(PageTimelineError::Misplaced { expected: Timeline(3), .. })));
        assert!(matches!(page(0x363_6000, 2), Err(PageTimelineError::Foreign { of: Timeline(4), .. })));
    }

    #[test]
    fn a_history_descends_from_its_own_past_and_from_no_other() {
        let history = history();
        let past = TimelineHistory::parse(Timeline(3), b"1\t0/3635160\tother words\n").expect("valid");
        let other = TimelineHistory::parse(Timeline(3), b"1\t0/3635168\tsame number, other fork\n").expect("valid");
        let cousin = TimelineHistory::parse(Timeline(2), b"1\t0/3635160\tcousin\n").expect("valid");
        assert!(history.descends_from(&history));
        assert!(history.descends_from(&past));
        assert!(history.descends_from(&TimelineHistory::first()));
        assert!(!history.descends_from(&other));
        assert!(!history.descends_from(&cousin));
        assert!(!past.descends_from(&history));
    }

    fn refused(timeline: u32, content: &str, expect: HistoryError) {
        assert_eq!(TimelineHistory::parse(Timeline(timeline), content.as_bytes()), Err(expect), "{content:?}");
    }

    #[test]
    fn a_history_that_cannot_be_is_refused() {
        let line = |timeline: u32, line| HistoryError::Line { timeline: Timeline(timeline), line };
        let order = |timeline: u32, line| HistoryError::Order { timeline: Timeline(timeline), line };
        refused(2, "", HistoryError::Rootless(Timeline(2)));
        refused(0, "", HistoryError::Rootless(Timeline(0)));
        refused(2, "1\n", line(2, 1));
        refused(2, "1\tx\n", line(2, 1));
        refused(2, "\n+1\t0/1\t\n", line(2, 2));
        refused(2, "0\t0/1\t\n", line(2, 1));
        refused(2, "4294967296\t0/1\n", line(2, 1));
        refused(2, "2\t0/1\tself\n", order(2, 2));
        refused(3, "2\t0/9\ta\n1\t0/10\tb\n", order(3, 2));
        refused(3, "1\t0/9\ta\n2\t0/8\tb\n", order(3, 2));
        refused(3, "1\t0/9\ta\n1\t0/9\tb\n", order(3, 2));
    }

    #[test]
    fn a_reason_is_optional_and_an_empty_stretch_is_fine() {
        let history = TimelineHistory::parse(Timeline(3), b"1 0/10\n2\t0/10\tat once").expect("valid");
        assert_eq!(history.timeline_at(Lsn(0x10)), Timeline(3));
        assert_eq!(history.timeline_at(Lsn(0xF)), Timeline(1));
        assert!(!history.contains(Timeline(2), Lsn(0x10)));
    }

    proptest! {
        #[test]
        fn no_content_panics(content: Vec<u8>, timeline: u32) {
            let _ = TimelineHistory::parse(Timeline(timeline), &content);
        }

        #[test]
        fn a_history_survives_its_file_and_a_cut_file_never_gains_an_ancestor(
            steps in proptest::collection::vec((1u32..9, 0u64..1 << 40, "[ -~]{0,20}"), 1..6),
            cut: prop::sample::Index,
        ) {
            let (mut timeline, mut switch_point, mut ancestors) = (0, 0, Vec::new());
            for (skip, bytes, reason) in steps {
                timeline += skip;
                switch_point += bytes;
                let reason = reason.trim().as_bytes().to_vec();
                ancestors.push(Ancestor { timeline: Timeline(timeline), switch_point: Lsn(switch_point), reason });
            }
            let history = TimelineHistory::new(Timeline(timeline + 1), ancestors).expect("in order");
            let file = history.format();
            prop_assert_eq!(TimelineHistory::parse(history.timeline(), &file), Ok(history.clone()));
            if let Ok(short) = TimelineHistory::parse(history.timeline(), &file[..cut.index(file.len())]) {
                prop_assert!(short.ancestors().len() <= history.ancestors().len());
            }
            for stretch in history.stretches() {
                if stretch.end != Some(stretch.start) {
                    prop_assert!(history.contains(stretch.timeline, stretch.start));
                    prop_assert!(history.check_page(stretch.start, stretch.timeline).is_ok());
                }
            }
        }
    }
}
