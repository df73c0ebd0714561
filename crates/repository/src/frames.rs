//! The frames of a pack, as a map needs them, in few bytes: a terabyte has eight million.
//!
//! Frames ascend by number and by place, and nearly all follow the one before and are as long before coding: such a frame takes
//! four bytes here, and forty in a [`Section`]. Every `BLOCK` frames an entry says where to begin looking. Clones share the
//! bytes: many files wait with the same pack.
//!
//! Only what is in memory has this shape; format.md says how frames are stored.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::codec::Codec;
use crate::cursor::{Cursor, put_varint};
use crate::object::Section;

/// Frames that are decoded to find one.
const BLOCK: usize = 32;

/// The entry is behind the one before, in number and place.
const FOLLOWS: u8 = 1;
/// Its plaintext is as long as that of the one before.
const SAME_LEN: u8 = 2;
/// The codec stands above the two flags.
const CODEC_SHIFT: u32 = 2;

/// The frames of a pack by number, without digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames(Arc<Packed>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Packed {
    blocks: Vec<Block>,
    bytes: Vec<u8>,
    len: usize,
    /// Behind the last frame.
    end: Position,
}

/// What the next entry is relative to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    number: u32,
    offset: u64,
    plain_len: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    first: Position,
    /// Where its entries begin.
    at: usize,
}

impl Frames {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Where a frame lies; its digest is not known here and all zeros.
    pub fn get(&self, number: u32) -> Option<Section> {
        let block = self.0.blocks.partition_point(|block| block.first.number <= number).checked_sub(1)?;
        self.block(block).find(|(found, _)| *found == number).map(|(_, section)| section)
    }

    /// Those with these numbers, as far as they are there.
    pub fn range(&self, numbers: Range<u32>) -> impl Iterator<Item = (u32, Section)> + '_ {
        let block = self.0.blocks.partition_point(|block| block.first.number <= numbers.start).saturating_sub(1);
        let from = (block..self.0.blocks.len()).flat_map(|block| self.block(block));
        from.skip_while(move |(number, _)| *number < numbers.start).take_while(move |(number, _)| *number < numbers.end)
    }

    /// All of them, by ascending number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Section)> + '_ {
        (0..self.0.blocks.len()).flat_map(|block| self.block(block))
    }

    /// Adds a frame. False, and nothing is added, when it does not lie behind the others in number and place.
    pub fn push(&mut self, number: u32, section: &Section) -> bool {
        let end = self.0.end;
        if number < end.number || section.offset < end.offset {
            return false;
        }
        let packed = Arc::make_mut(&mut self.0);
        let begins = packed.len.is_multiple_of(BLOCK);
        if begins {
            let first = Position { number, offset: section.offset, plain_len: 0 };
            packed.blocks.push(Block { first, at: packed.bytes.len() });
        }
        let follows = begins || (number, section.offset) == (end.number, end.offset);
        let same_len = !begins && section.plain_len == end.plain_len;
        let flags = if follows { FOLLOWS } else { 0 } | if same_len { SAME_LEN } else { 0 };
        packed.bytes.push(flags | (section.codec as u8) << CODEC_SHIFT);
        if !follows {
            put_varint(&mut packed.bytes, u64::from(number - end.number));
            put_varint(&mut packed.bytes, section.offset - end.offset);
        }
        put_varint(&mut packed.bytes, u64::from(section.stored_len));
        if !same_len {
            put_varint(&mut packed.bytes, u64::from(section.plain_len));
        }
        packed.len += 1;
        packed.end = behind(number, section);
        true
    }

    /// Takes in the frames that another part of a map names of the same pack. False when the two contradict each other.
    pub fn merge(&mut self, other: &Self) -> bool {
        if self.is_empty() {
            self.clone_from(other);
            return true;
        }
        // Parts and packs are both in order of path, so this is how it nearly always goes.
        let mut merged = self.clone();
        if other.iter().all(|(number, section)| merged.push(number, &section)) {
            *self = merged;
            return true;
        }
        let all: BTreeMap<u32, Section> = self.iter().chain(other.iter()).collect();
        *self = Self::default();
        all.iter().all(|(number, section)| self.push(*number, section))
    }

    /// Gives back memory that was kept for more frames.
    pub(crate) fn shrink(&mut self) {
        let packed = Arc::make_mut(&mut self.0);
        packed.bytes.shrink_to_fit();
        packed.blocks.shrink_to_fit();
    }

    fn block(&self, block: usize) -> impl Iterator<Item = (u32, Section)> + '_ {
        let Block { first, at } = &self.0.blocks[block];
        let count = BLOCK.min(self.0.len - block * BLOCK);
        let (mut cursor, mut next) = (Cursor::new(&self.0.bytes[*at..]), *first);
        (0..count).map(move |_| {
            let (number, section) = take(&mut cursor, next).expect("these bytes were written by push");
            next = behind(number, &section);
            (number, section)
        })
    }

    /// Bytes of memory that they take.
    #[cfg(test)]
    fn held_bytes(&self) -> usize {
        self.0.bytes.capacity() + self.0.blocks.capacity() * size_of::<Block>()
    }
}

fn behind(number: u32, section: &Section) -> Position {
    let offset = section.offset + u64::from(section.stored_len);
    Position { number: number.saturating_add(1), offset, plain_len: section.plain_len }
}

fn take(cursor: &mut Cursor<'_>, mut next: Position) -> Option<(u32, Section)> {
    let flags = cursor.u8().ok()?;
    if flags & FOLLOWS == 0 {
        next.number += cursor.varint32().ok()?;
        next.offset += cursor.varint().ok()?;
    }
    let stored_len = cursor.varint32().ok()?;
    let plain_len = if flags & SAME_LEN == 0 { cursor.varint32().ok()? } else { next.plain_len };
    let codec = Codec::from_id(flags >> CODEC_SHIFT)?;
    Some((next.number, Section { offset: next.offset, stored_len, plain_len, codec, digest: [0; 16] }))
}

/// Of frames in order, as a pack's writer knows them.
impl FromIterator<(u32, Section)> for Frames {
    fn from_iter<I: IntoIterator<Item = (u32, Section)>>(frames: I) -> Self {
        let mut all = Self::default();
        for (number, section) in frames {
            assert!(all.push(number, &section), "a pack's frames come in order");
        }
        all.shrink();
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Steps in number and place, and the two lengths.
    type Step = (u32, u64, u32, u32);

    fn sections(steps: &[Step]) -> BTreeMap<u32, Section> {
        let (mut number, mut offset) = (0, 8);
        let section = |step: &Step| {
            let (ahead, gap, stored_len, plain_len) = *step;
            let codec = if plain_len.is_multiple_of(2) { Codec::Zstd } else { Codec::Raw };
            let at = number + ahead;
            let section = Section { offset: offset + gap, stored_len, plain_len, codec, digest: [0; 16] };
            (number, offset) = (at + 1, section.offset + u64::from(stored_len));
            (at, section)
        };
        steps.iter().map(section).collect()
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let usual = (Just(0), Just(0), 1..200_000u32, Just(131_072));
        let odd = (0..5u32, 0..1u64 << 20, 0..1u32 << 26, 0..1u32 << 26);
        proptest::collection::vec(prop_oneof![3 => usual, 1 => odd], 0..150)
    }

    proptest! {
        #[test]
        fn every_frame_comes_back_and_no_other(steps in steps()) {
            let expected = sections(&steps);
            let frames: Frames = expected.clone().into_iter().collect();
            prop_assert_eq!(frames.len(), expected.len());
            prop_assert_eq!(frames.iter().collect::<BTreeMap<_, _>>(), expected.clone());
            for number in 0..expected.keys().next_back().map_or(1, |last| last + 2) {
                prop_assert_eq!(frames.get(number), expected.get(&number).copied());
                let some = number..number + 40;
                let there = expected.range(some.clone()).map(|(number, section)| (*number, *section));
                prop_assert!(frames.range(some).eq(there));
            }
        }

        #[test]
        fn frames_of_two_parts_are_merged_in_any_order(steps in steps(), chosen in proptest::collection::vec(any::<u8>(), 150)) {
            let all = sections(&steps);
            let part = |with: u8| -> Frames {
                let of = all.clone().into_iter().zip(&chosen).filter(|(_, in_part)| **in_part % 3 != with);
                of.map(|(frame, _)| frame).collect()
            };
            let mut merged = part(0);
            prop_assert!(merged.merge(&part(1)));
            prop_assert_eq!(merged, all.into_iter().collect());
        }
    }

    #[test]
    fn frames_that_contradict_each_other_are_not_merged() {
        let one = |number, offset| -> Frames {
            let section = Section { offset, stored_len: 500, plain_len: 1000, codec: Codec::Raw, digest: [0; 16] };
            [(number, section)].into_iter().collect()
        };
        assert!(one(4, 1000).merge(&one(3, 500)));
        for (number, offset) in [(3, 501), (5, 1499), (3, 2000)] {
            assert!(!one(4, 1000).merge(&one(number, offset)), "{number} at {offset}");
        }
    }

    #[test]
    fn a_terabyte_s_frames_take_forty_megabytes_however_many_maps_name_them() {
        const PACK: usize = 750;
        const FRAMES_PER_TIB: usize = 8 << 20;
        let of_pack = |n: usize| -> Frames {
            let stored = |frame: usize| u32::try_from(30_000 + (n * 7919 + frame * 104_729) % 30_000).unwrap();
            sections(&(0..PACK).map(|frame| (0, 0, stored(frame), 131_072)).collect::<Vec<_>>()).into_iter().collect()
        };
        let packs: Vec<Frames> = (0..1000).map(of_pack).collect();
        let next_map = packs.clone();
        assert!(packs.iter().zip(&next_map).all(|(a, b)| Arc::ptr_eq(&a.0, &b.0)), "a clone has bytes of its own");
        let held: usize = packs.iter().map(Frames::held_bytes).sum();
        let per_tib = held as f64 / (1000 * PACK) as f64 * FRAMES_PER_TIB as f64;
        assert!(per_tib < 42e6, "{per_tib} bytes for 1 TiB");
    }
}
