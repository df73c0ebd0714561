//! What processes see, what is durable, and the difference between the two.
//!
//! A file has the content that processes see, the content that is durable, and the list of changes between them; a
//! directory has the same for its names. A sync applies the list to the durable side. So a failed sync can forget the
//! list while processes go on seeing the new content, and a power cut can apply any part of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Range;

use crate::Prng;

/// The unit that a disk writes whole.
const SECTOR: usize = 512;

/// Which changes that were not synced survive a power cut.
pub(super) enum Survivors {
    None,
    All,
    Drawn(Prng),
}

impl Survivors {
    /// How this one file or directory fares: drawn runs mix all, none, the first few, and any.
    fn pattern(&mut self) -> Pattern {
        match self {
            Self::None => Pattern::None,
            Self::All => Pattern::All,
            Self::Drawn(draw) => match draw.below(5) {
                0 => Pattern::None,
                1 => Pattern::All,
                2 => Pattern::Prefix(Prng::new(draw.next_u64())),
                _ => Pattern::Any(Prng::new(draw.next_u64())),
            },
        }
    }
}

enum Pattern {
    None,
    All,
    Prefix(Prng),
    Any(Prng),
}

#[derive(Clone, Default)]
pub(super) struct Content {
    pub(super) now: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) dirty: Vec<Edit>,
}

#[derive(Clone)]
pub(super) enum Edit {
    Write { at: usize, bytes: Vec<u8> },
    SetLen(usize),
}

pub(super) type Names = BTreeMap<OsString, u64>;

#[derive(Clone, Default)]
pub(super) struct Directory {
    pub(super) now: Names,
    pub(super) durable: Names,
    pub(super) dirty: Vec<Naming>,
}

/// A change of names that a file system makes in one piece.
#[derive(Clone)]
pub(super) enum Naming {
    Add(OsString, u64),
    Remove(OsString),
    Move { from: OsString, to: OsString, node: u64 },
}

impl Edit {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => write(to, *at, bytes),
            Self::SetLen(len) => to.resize(*len, 0),
        }
    }
}

fn write(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = at + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[at..end].copy_from_slice(bytes);
}

impl Content {
    pub(super) fn edit(&mut self, edit: Edit) {
        edit.apply(&mut self.now);
        self.dirty.push(edit);
    }

    pub(super) fn sync(&mut self) {
        for edit in std::mem::take(&mut self.dirty) {
            edit.apply(&mut self.durable);
        }
    }

    pub(super) fn survivor(&self, survivors: &mut Survivors) -> Vec<u8> {
        let mut left = self.durable.clone();
        match survivors.pattern() {
            Pattern::None => {}
            Pattern::All => self.dirty.iter().for_each(|edit| edit.apply(&mut left)),
            Pattern::Prefix(mut draw) => {
                let count = draw.index(self.dirty.len() + 1);
                self.dirty[..count].iter().for_each(|edit| edit.apply(&mut left));
            }
            Pattern::Any(mut draw) => {
                self.dirty.iter().for_each(|edit| tear(edit, &mut left, self.durable.len(), &mut draw));
            }
        }
        left
    }
}

/// Applies what the draw leaves of an edit: each sector is new, old or, where the file was longer than before, zero; the
/// length may be that of the edit although its content is not there.
fn tear(edit: &Edit, left: &mut Vec<u8>, durable_len: usize, draw: &mut Prng) {
    let Edit::Write { at, bytes } = edit else {
        if draw.chance(500) {
            edit.apply(left);
        }
        return;
    };
    if draw.chance(500) && left.len() < at + bytes.len() {
        left.resize(at + bytes.len(), 0);
    }
    for part in sectors(*at, bytes.len()) {
        let new = &bytes[part.start - at..part.end - at];
        match draw.below(3) {
            0 => write(left, part.start, new),
            1 if part.start >= durable_len => write(left, part.start, &vec![0; new.len()]),
            _ => {}
        }
    }
}

/// The pieces of a write that lie in one sector each.
fn sectors(at: usize, len: usize) -> impl Iterator<Item = Range<usize>> {
    let end = at + len;
    let first = (at < end).then_some(at);
    std::iter::successors(first, move |start| Some(sector_end(*start)).filter(|next| *next < end))
        .map(move |start| start..sector_end(start).min(end))
}

fn sector_end(at: usize) -> usize {
    (at / SECTOR + 1) * SECTOR
}

impl Naming {
    fn apply(&self, to: &mut Names) {
        match self {
            Self::Add(name, node) => {
                to.insert(name.clone(), *node);
            }
            Self::Remove(name) => {
                to.remove(name);
            }
            Self::Move { from, to: new, node } => {
                to.remove(from);
                to.insert(new.clone(), *node);
            }
        }
    }
}

impl Directory {
    pub(super) fn change(&mut self, naming: Naming) {
        naming.apply(&mut self.now);
        self.dirty.push(naming);
    }

    pub(super) fn sync(&mut self) {
        for naming in std::mem::take(&mut self.dirty) {
            naming.apply(&mut self.durable);
        }
    }

    pub(super) fn survivor(&self, survivors: &mut Survivors) -> Names {
        let mut left = self.durable.clone();
        match survivors.pattern() {
            Pattern::None => {}
            Pattern::All => self.dirty.iter().for_each(|naming| naming.apply(&mut left)),
            Pattern::Prefix(mut draw) => {
                let count = draw.index(self.dirty.len() + 1);
                self.dirty[..count].iter().for_each(|naming| naming.apply(&mut left));
            }
            Pattern::Any(mut draw) => {
                self.dirty.iter().filter(|_| draw.chance(500)).for_each(|naming| naming.apply(&mut left));
            }
        }
        left
    }
}

impl Content {
    pub(super) fn durable(bytes: Vec<u8>) -> Self {
        Self { now: bytes.clone(), durable: bytes, dirty: Vec::new() }
    }
}

impl Directory {
    pub(super) fn durable(names: Names) -> Self {
        Self { now: names.clone(), durable: names, dirty: Vec::new() }
    }
}
