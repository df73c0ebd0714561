//! The index of a map object: where its parts lie, and what they hold in one number.

use asof_world::Id;

use crate::crypto::Digest;
use crate::cursor::{Cursor, Decoded, Malformed, put_varint};
use crate::object::Section;
use crate::pack::{put_section, take_section};

/// Where a part lies: in this map object or in that of an earlier backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartEntry {
    /// The attempt whose map object holds it, an index into the owners.
    pub(super) owner: u32,
    /// Its section number there.
    pub(super) number: u32,
    pub(super) section: Section,
    /// Keyed hash of its plaintext: equal parts are found by it.
    pub(super) content: Digest,
}

/// The index of a map object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MapIndex {
    pub(super) page_size: u32,
    /// Map objects that hold parts, with the digest of their ends. The first is this object itself, digest zero.
    pub(super) owners: Vec<(Id, Digest)>,
    pub(super) parts: Vec<PartEntry>,
}

impl MapIndex {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, u64::from(self.page_size));
        put_varint(&mut out, self.owners.len() as u64);
        for (attempt, digest) in &self.owners {
            out.extend_from_slice(&attempt.0);
            out.extend_from_slice(digest);
        }
        put_varint(&mut out, self.parts.len() as u64);
        for part in &self.parts {
            put_varint(&mut out, u64::from(part.owner));
            put_varint(&mut out, u64::from(part.number));
            put_section(&mut out, &part.section);
            out.extend_from_slice(&part.content);
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Decoded<Self> {
        let mut cursor = Cursor::new(bytes);
        let page_size = cursor.varint32()?;
        let owners = (0..cursor.count()?)
            .map(|_| Ok((Id(cursor.array()?), cursor.array()?)))
            .collect::<Decoded<Vec<(Id, Digest)>>>()?;
        let parts = (0..cursor.count()?).map(|_| {
            let (owner, number) = (cursor.varint32()?, cursor.varint32()?);
            if owner as usize >= owners.len() {
                return Err(Malformed("a part belongs to a map that is not listed"));
            }
            Ok(PartEntry { owner, number, section: take_section(&mut cursor)?, content: cursor.array()? })
        });
        let parts = parts.collect::<Decoded<Vec<_>>>()?;
        cursor.end()?;
        Ok(Self { page_size, owners, parts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Codec;

    #[test]
    fn an_index_reads_as_it_was_written_or_not_at_all() {
        let section = Section { offset: 8, stored_len: 500, plain_len: 90, codec: Codec::Zstd, digest: [0; 16] };
        let part = |owner, number| PartEntry { owner, number, section, content: [6; 32] };
        let owners = vec![(Id([2; 16]), [0; 32]), (Id([3; 16]), [8; 32])];
        let index = MapIndex { page_size: 8192, owners, parts: vec![part(0, 1), part(1, 300), part(0, 2)] };
        crate::hostile::check(&index.encode(), |bytes| MapIndex::decode(bytes).ok().map(|index| index.encode()));
        assert_eq!(MapIndex::decode(&index.encode()), Ok(index));
    }
}
