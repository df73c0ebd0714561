//! What every piece of an instance's WAL has in common, and how it stands in a lineage's facts.

use std::collections::BTreeMap;

use asof_postgres::control::ControlFile;
use asof_postgres::history::TimelineHistory;
use asof_postgres::lsn::{BlockSize, WalSegmentSize};
use asof_postgres::version::Major;
use asof_postgres::wal::WalShape;
use asof_repository::wal::MAX_WAL;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::server::require_files;

/// The constants of an instance's WAL; with a history they make a [`WalShape`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalConstants {
    /// Decides the layout of records.
    pub major: Major,
    /// The server's own identifier.
    pub system_identifier: u64,
    /// Bytes in a segment.
    pub segment_size: WalSegmentSize,
    /// Bytes in a page of WAL.
    pub wal_block_size: BlockSize,
    /// Bytes in a data page.
    pub block_size: BlockSize,
}

impl WalConstants {
    /// From `pg_control`.
    pub fn of(control: &ControlFile) -> Self {
        Self {
            major: control.major,
            system_identifier: control.system_identifier,
            segment_size: control.wal_segment_size,
            wal_block_size: control.wal_block_size,
            block_size: control.block_size,
        }
    }

    /// From what was recorded at the first contact.
    ///
    /// # Errors
    /// `Refused` for an instance of which only logical backups are made.
    pub fn from_facts(facts: &BTreeMap<String, Value>) -> Result<Self> {
        require_files(facts)?;
        let bad = |name: &str| Error::damaged(format!("the lineage does not record its {name}"), "update asof");
        let number = |name: &str| facts.get(name).and_then(Value::as_u64).ok_or_else(|| bad(name));
        let identifier = facts.get("system_identifier").and_then(Value::as_str).and_then(|text| text.parse().ok());
        let segment_size = if asof_world::planted("c8") { 16 << 20 } else { number("wal_segment_size")? };
        let block = |name: &str| BlockSize::new(number(name)?).map_err(|_| bad(name));
        let major = u32::try_from(number("major")?).ok().and_then(Major::from_number);
        Ok(Self {
            major: major.ok_or_else(|| bad("major"))?,
            system_identifier: identifier.ok_or_else(|| bad("system_identifier"))?,
            segment_size: WalSegmentSize::new(segment_size).map_err(|_| bad("wal_segment_size"))?,
            wal_block_size: block("wal_block_size")?,
            block_size: block("block_size")?,
        })
    }

    /// Bytes in a stored segment: PostgreSQL's, or 16 MiB where that is larger, so that nobody holds more in memory.
    pub fn stored_segment(&self) -> u64 {
        u64::from(self.segment_size.bytes()).min(MAX_WAL)
    }

    /// The shape of WAL on the newest timeline of `history`.
    pub fn shape(&self, history: TimelineHistory) -> WalShape {
        WalShape {
            major: self.major,
            system_identifier: self.system_identifier,
            history,
            segment_size: self.segment_size,
            wal_block_size: self.wal_block_size,
            block_size: self.block_size,
        }
    }
}
