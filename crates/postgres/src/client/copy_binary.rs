//! Rows of `COPY … (FORMAT binary)`, from bytes that arrive in any pieces.
//! Source: "Binary Format" of the COPY reference page, PostgreSQL 18.
//!
//! ```text
//! header   "PGCOPY\n\xff\r\n\0"   flags: u32 (bits 16-31 critical)   extension length: u32, extension
//! row      fields: i16            per field: length: i32 (-1 = NULL), bytes
//! trailer  -1: i16
//! ```
//! All numbers are big-endian.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
const HEADER_LEN: usize = SIGNATURE.len() + 8;
/// A header extension may be skipped; none has ever been defined, so a long one is not one.
const MAX_EXTENSION: u32 = 1 << 16;

/// Bytes that are not binary COPY data, or more than was allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BinaryCopyError {
    /// The data does not begin as it must.
    #[error("the data does not begin with the binary COPY signature")]
    Signature,
    /// A critical flag, or an extension that is too long to be true.
    #[error("binary COPY header with unknown features (flags {flags:#010x}, extension of {extension} bytes)")]
    Header {
        /// The flags field.
        flags: u32,
        /// The length of the extension.
        extension: u32,
    },
    /// A field count that is neither a row's nor the trailer's.
    #[error("binary COPY row with {0} fields")]
    FieldCount(i16),
    /// A length that is negative and not NULL's, or above the limit.
    #[error("binary COPY field of {len} bytes (limit {limit})")]
    FieldLength {
        /// As it was sent.
        len: i32,
        /// The limit given to [`BinaryCopy::new`].
        limit: u32,
    },
    /// Bytes after the trailer.
    #[error("data after the end of the binary COPY")]
    AfterEnd,
    /// The stream ended before the trailer.
    #[error("binary COPY data ends before its trailer")]
    Truncated,
}

/// The fields of one row; `None` is NULL.
pub type BinaryRow = Vec<Option<Bytes>>;

/// A parser of binary COPY data. Give it pieces with [`Self::feed`], take rows with [`Self::next_row`].
/// It holds at most one incomplete row and what was fed since.
#[derive(Debug)]
pub struct BinaryCopy {
    max_field: u32,
    stage: Stage,
    rest: BytesMut,
    /// A piece taken over without copying, as long as `rest` is empty.
    piece: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    Rows,
    End,
}

/// Something whole at the front of the buffer.
enum Item {
    Header,
    Row(Vec<Option<Range<usize>>>),
    Trailer,
}

impl BinaryCopy {
    /// A parser that refuses fields of more than `max_field` bytes.
    #[must_use]
    pub fn new(max_field: u32) -> Self {
        Self { max_field, stage: Stage::Header, rest: BytesMut::new(), piece: Bytes::new() }
    }

    /// Adds bytes. A piece that arrives when nothing is left over is shared, not copied.
    pub fn feed(&mut self, piece: Bytes) {
        if self.rest.is_empty() && self.piece.is_empty() {
            self.piece = piece;
            return;
        }
        self.rest.extend_from_slice(&std::mem::take(&mut self.piece));
        self.rest.extend_from_slice(&piece);
    }

    /// The next whole row; `None` if more bytes are needed, or the end was reached.
    ///
    /// # Errors
    /// The bytes are not binary COPY data; the parser is of no further use then.
    pub fn next_row(&mut self) -> Result<Option<BinaryRow>, BinaryCopyError> {
        while let Some((item, len)) = self.item()? {
            let bytes = self.consume(len);
            match item {
                Item::Header => self.stage = Stage::Rows,
                Item::Trailer => self.stage = Stage::End,
                Item::Row(fields) => {
                    return Ok(Some(fields.into_iter().map(|field| field.map(|range| bytes.slice(range))).collect()));
                }
            }
        }
        Ok(None)
    }

    /// To be asked when no more bytes come.
    ///
    /// # Errors
    /// `Truncated` if the trailer did not arrive.
    pub fn finish(&self) -> Result<(), BinaryCopyError> {
        if self.stage == Stage::End { Ok(()) } else { Err(BinaryCopyError::Truncated) }
    }

    fn bytes(&self) -> &[u8] {
        if self.rest.is_empty() { &self.piece } else { &self.rest }
    }

    fn consume(&mut self, len: usize) -> Bytes {
        if self.rest.is_empty() { self.piece.split_to(len) } else { self.rest.split_to(len).freeze() }
    }

    fn item(&self) -> Result<Option<(Item, usize)>, BinaryCopyError> {
        match self.stage {
            Stage::Header => header(self.bytes()),
            Stage::Rows => row(self.bytes(), self.max_field),
            Stage::End if self.bytes().is_empty() => Ok(None),
            Stage::End => Err(BinaryCopyError::AfterEnd),
        }
    }
}

fn header(bytes: &[u8]) -> Result<Option<(Item, usize)>, BinaryCopyError> {
    let compared = bytes.len().min(SIGNATURE.len());
    if bytes[..compared] != SIGNATURE[..compared] {
        return Err(BinaryCopyError::Signature);
    }
    if bytes.len() < HEADER_LEN {
        return Ok(None);
    }
    let mut fields = &bytes[SIGNATURE.len()..HEADER_LEN];
    let (flags, extension) = (fields.get_u32(), fields.get_u32());
    // Bit 16 once meant OIDs; no server since 12 sets any of the critical half.
    if flags >> 16 != 0 || extension > MAX_EXTENSION {
        return Err(BinaryCopyError::Header { flags, extension });
    }
    let len = HEADER_LEN + extension as usize;
    Ok((bytes.len() >= len).then_some((Item::Header, len)))
}

fn row(bytes: &[u8], max_field: u32) -> Result<Option<(Item, usize)>, BinaryCopyError> {
    let Some((count, _)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
    let count = i16::from_be_bytes(*count);
    if count == -1 {
        return Ok(Some((Item::Trailer, 2)));
    }
    let fields = usize::try_from(count).map_err(|_| BinaryCopyError::FieldCount(count))?;
    let mut ranges = Vec::new();
    let mut at = 2;
    for _ in 0..fields {
        let Some((field, end)) = field(bytes, at, max_field)? else { return Ok(None) };
        ranges.push(field);
        at = end;
    }
    Ok(Some((Item::Row(ranges), at)))
}

/// A field and where it ends.
type Field = (Option<Range<usize>>, usize);

fn field(bytes: &[u8], at: usize, max_field: u32) -> Result<Option<Field>, BinaryCopyError> {
    let Some((len, _)) = bytes.get(at..).and_then(|rest| rest.split_first_chunk::<4>()) else { return Ok(None) };
    let (len, start) = (i32::from_be_bytes(*len), at + 4);
    if len == -1 {
        return Ok(Some((None, start)));
    }
    let size = u32::try_from(len).ok().filter(|size| *size <= max_field);
    let size = size.ok_or(BinaryCopyError::FieldLength { len, limit: max_field })?;
    let end = start + size as usize;
    Ok((bytes.len() >= end).then_some((Some(start..end), end)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Values = Vec<Vec<Option<Vec<u8>>>>;

    fn encode(rows: &Values) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0; 8]);
        for row in rows {
            bytes.extend(i16::try_from(row.len()).expect("few fields").to_be_bytes());
            for field in row {
                let len = field.as_ref().map_or(-1, |value| i32::try_from(value.len()).expect("short"));
                bytes.extend(len.to_be_bytes());
                bytes.extend(field.iter().flatten());
            }
        }
        bytes.extend((-1_i16).to_be_bytes());
        bytes
    }

    /// Everything that comes out of `pieces`, and whether the parser calls that complete.
    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(Values, bool), BinaryCopyError> {
        let mut copy = BinaryCopy::new(1000);
        let mut rows = Values::new();
        for piece in pieces {
            copy.feed(Bytes::copy_from_slice(piece));
            while let Some(row) = copy.next_row()? {
                rows.push(row.into_iter().map(|field| field.map(|bytes| bytes.to_vec())).collect());
            }
        }
        Ok((rows, copy.finish().is_ok()))
    }

    fn refuse(after_header: &[u8], expect: BinaryCopyError) {
        let mut bytes = encode(&Values::new());
        bytes.truncate(HEADER_LEN);
        bytes.extend(after_header);
        assert_eq!(decode([bytes.as_slice()]), Err(expect));
    }

    fn rows() -> impl Strategy<Value = Values> {
        let field = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50));
        proptest::collection::vec(proptest::collection::vec(field, 0..5), 0..6)
    }

    proptest! {
        #[test]
        fn rows_come_out_as_they_went_in_however_the_bytes_are_cut(rows in rows(), size in 1_usize..40) {
            let bytes = encode(&rows);
            prop_assert_eq!(decode(bytes.chunks(size)), Ok((rows, true)));
        }

        #[test]
        fn truncation_at_any_byte_gives_fewer_rows_and_no_end(rows in rows()) {
            let bytes = encode(&rows);
            for cut in 0..bytes.len() {
                let (got, complete) = decode([&bytes[..cut]]).expect("a prefix is not wrong");
                prop_assert!(!complete && got == rows[..got.len()]);
            }
        }

        #[test]
        fn damaged_bytes_never_panic(rows in rows(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = encode(&rows);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            drop(decode(bytes.chunks(7)));
        }
    }

    #[test]
    fn what_is_not_binary_copy_is_refused() {
        assert_eq!(decode([b"1\t2\n".as_slice()]), Err(BinaryCopyError::Signature));
        refuse(&[0xff, 0xfe], BinaryCopyError::FieldCount(-2));
        refuse(&[0, 1, 0xff, 0xff, 0xff, 0xfe], BinaryCopyError::FieldLength { len: -2, limit: 1000 });
        refuse(&[0, 1, 0, 0, 3, 0xe9], BinaryCopyError::FieldLength { len: 1001, limit: 1000 });
        refuse(&[0xff, 0xff, 0], BinaryCopyError::AfterEnd);
    }

    #[test]
    fn a_critical_flag_is_refused_and_an_extension_skipped() {
        let with = |flags: u32, extension: u32, body: &[u8]| {
            let mut bytes = SIGNATURE.to_vec();
            bytes.extend(flags.to_be_bytes());
            bytes.extend(extension.to_be_bytes());
            bytes.extend(body);
            decode([bytes.as_slice()])
        };
        assert_eq!(with(1 << 16, 0, &[]), Err(BinaryCopyError::Header { flags: 1 << 16, extension: 0 }));
        assert_eq!(with(0, 1 << 20, &[]), Err(BinaryCopyError::Header { flags: 0, extension: 1 << 20 }));
        assert_eq!(with(1, 3, &[7, 7, 7, 0xff, 0xff]), Ok((Values::new(), true)));
    }

    #[test]
    fn a_piece_that_holds_whole_rows_is_not_copied() {
        let bytes = Bytes::from(encode(&vec![vec![Some(vec![7; 100])]]));
        let mut copy = BinaryCopy::new(1000);
        copy.feed(bytes.clone());
        let row = copy.next_row().expect("valid").expect("whole");
        let field = row[0].as_ref().expect("not NULL");
        assert!(bytes.as_ptr_range().contains(&field.as_ptr()));
    }
}
