//! One WAL record: a header of 24 bytes, headers of the blocks it touches, their images and data, its own data.
//!
//! ```text
//! total length 4 | xid 4 | previous record 8 | info 1 | resource manager 1 | padding 2 | CRC-32C 4
//! { block id 1 | fork and flags 1 | data length 2 | [image: length 2, hole offset 2, info 1, [hole length 2]]
//!   | [tablespace 4, database 4, relation 4] | block 4 } ...
//! [253 origin 2] [252 top-level xid 4] [255 length 1 | 254 length 4]
//! images and data of the blocks, in order | main data
//! ```
//!
//! Source: `access/xlogrecord.h` and `DecodeXLogRecord` in `access/transam/xlogreader.c`, 13 to 18. The bits of the image info
//! changed in 15, where compression got three methods; a wrong reading there would shift everything behind it.

use super::Reader;
use crate::lsn::{BlockSize, Lsn};
use crate::names::{Fork, RelFileLocator};
use crate::version::Major;

pub(super) const HEADER_BYTES: usize = 24;

/// A resource manager: who wrote the record and can replay it (`access/rmgrlist.h`, the same numbers in 13 to 18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rmgr(pub u8);

impl Rmgr {
    /// Checkpoints, settings, restore points, segment switches, full-page images.
    pub const XLOG: Self = Self(0);
    /// Transactions.
    pub const TRANSACTION: Self = Self(1);
    /// Files of relations.
    pub const STORAGE: Self = Self(2);
    /// Databases.
    pub const DATABASE: Self = Self(4);
    /// Tablespaces.
    pub const TABLESPACE: Self = Self(5);
    /// Heap, first part.
    pub const HEAP: Self = Self(10);

    const CORE_NAMES: [&str; 22] = [
        "XLOG",
        "Transaction",
        "Storage",
        "CLOG",
        "Database",
        "Tablespace",
        "MultiXact",
        "RelMap",
        "Standby",
        "Heap2",
        "Heap",
        "Btree",
        "Hash",
        "Gin",
        "Gist",
        "Sequence",
        "SPGist",
        "BRIN",
        "CommitTs",
        "ReplicationOrigin",
        "Generic",
        "LogicalMessage",
    ];

    /// As `pg_waldump` calls it; `None` for extensions' own (128 and above) and unknown numbers.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Self::CORE_NAMES.get(usize::from(self.0)).copied()
    }

    /// An extension's own resource manager (`RM_MIN_CUSTOM_ID`), possible from 15 on. Its block references are generic and can be used.
    #[must_use]
    pub const fn is_custom(self) -> bool {
        self.0 >= 128
    }

    /// Whether a server of this major can have written such a record.
    #[must_use]
    pub fn exists_in(self, major: Major) -> bool {
        self.name().is_some() || (self.is_custom() && major >= Major::V15)
    }
}

/// Whether a record carries the whole content of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockImage {
    /// It does not.
    None,
    /// Replay overwrites the block with it, which also repairs a torn page.
    Applied,
    /// Only compared with what replay produced (`wal_consistency_checking`).
    ForComparison,
}

/// A block that a record touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    /// Number of the reference within its record.
    pub id: u8,
    /// Which relation.
    pub relation: RelFileLocator,
    /// Which fork.
    pub fork: Fork,
    /// Which block, counted from the start of the fork.
    pub block: u32,
    /// Its content, if present.
    pub image: BlockImage,
    /// Replay starts from an empty page.
    pub will_initialize: bool,
}

/// A record with a right checksum whose inside contradicts itself: not the format we know. Nothing behind it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedRecord {
    /// It ends inside one of its own parts, or is longer than they are.
    #[error("its parts do not add up to its length")]
    Length,
    /// A header that no supported major writes.
    #[error("it has a part of unknown kind {0}")]
    BlockId(u8),
    /// Block references come in rising order.
    #[error("its block references are out of order at {0}")]
    BlockOrder(u8),
    /// A fork number above 3.
    #[error("it names fork {0}, which does not exist")]
    Fork(u8),
    /// "The same relation as before", and there was none before.
    #[error("its block reference {0} repeats a relation that was not given")]
    NoRelation(u8),
    /// Flags and lengths of an image or of data contradict each other.
    #[error("its block reference {0} describes an impossible image or data length")]
    Image(u8),
}

/// A valid record. Borrows from the decoder until the next one is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Where it starts; what `pg_waldump` calls its LSN, and what recovery targets are compared with.
    pub start: Lsn,
    /// Where the next one may start; what `pg_current_wal_insert_lsn()` says after it.
    pub end: Lsn,
    /// Start of the record before it.
    pub previous: Lsn,
    /// Bytes of the record itself, without page headers and padding.
    pub total_length: u32,
    /// Who wrote it.
    pub rmgr: Rmgr,
    /// What it is, within its resource manager: the upper four bits; the lower four are general.
    pub info: u8,
    /// The transaction that wrote it, or 0.
    pub xid: u32,
    /// The top-level transaction, where a subtransaction writes for the first time with `wal_level=logical` (14 and later).
    pub top_level_xid: Option<u32>,
    /// The replication origin it was replayed from.
    pub origin: Option<u16>,
    /// The blocks it touches.
    pub blocks: &'a [BlockRef],
    /// What its resource manager put into it besides.
    pub main_data: &'a [u8],
    pub(super) major: Major,
}

/// What stands in a record besides the header.
pub(super) struct Body {
    pub(super) top_level_xid: Option<u32>,
    pub(super) origin: Option<u16>,
    /// Length at the end of the record.
    pub(super) main_length: usize,
}

const MAX_BLOCK_ID: u8 = 32;
const ID_TOP_LEVEL_XID: u8 = 252;
const ID_ORIGIN: u8 = 253;
const ID_LONG_DATA: u8 = 254;
const ID_SHORT_DATA: u8 = 255;

/// Reads a whole record behind its header, filling `blocks` (which are cleared first).
pub(super) fn parse_body(
    record: &[u8],
    major: Major,
    block_size: BlockSize,
    blocks: &mut Vec<BlockRef>,
) -> Result<Body, MalformedRecord> {
    blocks.clear();
    let short = MalformedRecord::Length;
    let mut rest = Reader(record.get(HEADER_BYTES..).ok_or(short)?);
    let mut body = Body { top_level_xid: None, origin: None, main_length: 0 };
    // Images, block data and main data follow the headers, without lengths of their own: the sum must be exactly what is left.
    let mut announced = 0_usize;
    let mut relation = None;
    while rest.0.len() > announced {
        match rest.u8().ok_or(short)? {
            ID_SHORT_DATA => {
                body.main_length = usize::from(rest.u8().ok_or(short)?);
                announced += body.main_length;
                break;
            }
            ID_LONG_DATA => {
                body.main_length = usize::try_from(rest.u32().ok_or(short)?).map_err(|_| short)?;
                announced = announced.checked_add(body.main_length).ok_or(short)?;
                break;
            }
            ID_ORIGIN => body.origin = Some(rest.u16().ok_or(short)?),
            ID_TOP_LEVEL_XID if major >= Major::V14 => body.top_level_xid = Some(rest.u32().ok_or(short)?),
            id if id <= MAX_BLOCK_ID => {
                if blocks.last().is_some_and(|before| before.id >= id) {
                    return Err(MalformedRecord::BlockOrder(id));
                }
                let (block, data_bytes) = block_ref(&mut rest, id, relation, major, block_size)?;
                relation = Some(block.relation);
                announced += data_bytes;
                blocks.push(block);
            }
            id => return Err(MalformedRecord::BlockId(id)),
        }
    }
    if rest.0.len() == announced { Ok(body) } else { Err(short) }
}

/// One block header behind its id, and how many bytes its image and data take.
fn block_ref(
    rest: &mut Reader<'_>,
    id: u8,
    previous: Option<RelFileLocator>,
    major: Major,
    block_size: BlockSize,
) -> Result<(BlockRef, usize), MalformedRecord> {
    const FORK_MASK: u8 = 0x0F;
    const HAS_IMAGE: u8 = 0x10;
    const HAS_DATA: u8 = 0x20;
    const WILL_INITIALIZE: u8 = 0x40;
    const SAME_RELATION: u8 = 0x80;
    let short = MalformedRecord::Length;
    let flags = rest.u8().ok_or(short)?;
    let data_length = rest.u16().ok_or(short)?;
    let fork = Fork::from_number(u32::from(flags & FORK_MASK)).ok_or(MalformedRecord::Fork(flags & FORK_MASK))?;
    if (flags & HAS_DATA != 0) != (data_length != 0) {
        return Err(MalformedRecord::Image(id));
    }
    let (image, image_length) =
        if flags & HAS_IMAGE == 0 { (BlockImage::None, 0) } else { block_image(rest, id, major, block_size)? };
    let relation = if flags & SAME_RELATION == 0 {
        locator(rest).ok_or(short)?
    } else {
        previous.ok_or(MalformedRecord::NoRelation(id))?
    };
    let block = rest.u32().ok_or(short)?;
    let will_initialize = flags & WILL_INITIALIZE != 0;
    Ok((BlockRef { id, relation, fork, block, image, will_initialize }, usize::from(data_length) + image_length))
}

/// The header of a full-page image: what it is for, and how many bytes it takes.
fn block_image(
    rest: &mut Reader<'_>,
    id: u8,
    major: Major,
    block_size: BlockSize,
) -> Result<(BlockImage, usize), MalformedRecord> {
    const HAS_HOLE: u8 = 0x01;
    // BKPIMAGE_IS_COMPRESSED and BKPIMAGE_APPLY up to 14; BKPIMAGE_COMPRESS_PGLZ, _LZ4, _ZSTD and BKPIMAGE_APPLY from 15 on.
    let (compressed_mask, apply) = if major >= Major::V15 { (0x1C, 0x02) } else { (0x02, 0x04) };
    let short = MalformedRecord::Length;
    let length = rest.u16().ok_or(short)?;
    let hole_offset = rest.u16().ok_or(short)?;
    let info = rest.u8().ok_or(short)?;
    let (has_hole, compressed) = (info & HAS_HOLE != 0, info & compressed_mask != 0);
    let hole_length = match (has_hole, compressed) {
        (true, true) => u32::from(rest.u16().ok_or(short)?),
        // What is missing from an uncompressed image is the hole.
        (true, false) => block_size.bytes().checked_sub(u32::from(length)).ok_or(MalformedRecord::Image(id))?,
        (false, _) => 0,
    };
    let whole = u32::from(length) == block_size.bytes();
    let possible = if has_hole {
        hole_offset != 0 && hole_length != 0 && u32::from(hole_offset) + hole_length <= block_size.bytes() && !whole
    } else {
        hole_offset == 0 && compressed != whole
    };
    if !possible || u32::from(length) > block_size.bytes() {
        return Err(MalformedRecord::Image(id));
    }
    let image = if info & apply == 0 { BlockImage::ForComparison } else { BlockImage::Applied };
    Ok((image, usize::from(length)))
}

/// `RelFileNode`, `RelFileLocator`: tablespace, database, relation.
pub(super) fn locator(bytes: &mut Reader<'_>) -> Option<RelFileLocator> {
    Some(RelFileLocator { tablespace: bytes.u32()?, database: bytes.u32()?, relation: bytes.u32()? })
}
