//! Write-ahead log: from a stream of bytes to records, and from records to what they mean.
//!
//! [`WalDecoder`] takes bytes as they come, from a segment file or from the replication protocol, and yields [`Record`]s. It believes
//! nothing: every page header, every record's checksum and every link back to the record before must be right, and the first thing that is not
//! ends the valid WAL ([`Stop`] says where and why). Behind the last valid record of a segment lies whatever the recycled file
//! held before; such bytes are never returned.
//!
//! A record names the blocks it changes in a generic header, so [`Record::blocks`] needs no knowledge of what the record does, also for
//! extensions. [`Record::event`] decodes the handful of records that a backup tool must understand: [`Event`].
//!
//! Layouts: `access/xlog_internal.h`, `access/xlogrecord.h`, `access/rmgrlist.h` and the headers named at each event, PostgreSQL 13 to 18.

mod decoder;
mod event;
mod page;
mod record;
#[cfg(test)]
mod tests;

pub use decoder::{Decoded, StartError, Stop, StopReason, WalDecoder, WalShape};
pub use event::{Event, EventError, Origin, Prepared, TransactionEnd, TransactionOutcome, postgres_micros_to_unix};
pub use page::{PageHeader, PageHeaderError};
pub use record::{BlockImage, BlockRef, MalformedRecord, Record, Rmgr};

/// The bytes of a record or of a page header, read from the front. Every read says whether there was enough.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// A C `bool`: one byte, 0 or 1.
    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// A C `int` that counts things; negative is nonsense.
    fn count(&mut self) -> Option<usize> {
        usize::try_from(self.i32()?).ok()
    }

    /// Bytes up to a zero byte, which is consumed too.
    fn c_string(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.take(end)?;
        self.take(1)?;
        Some(text)
    }
}
