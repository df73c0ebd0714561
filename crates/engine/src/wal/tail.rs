//! What a failover left behind: how many commits lie in the WAL that only we have (rule 7).

use asof_postgres::lsn::{Lsn, Timeline};
use asof_postgres::wal::{Decoded, Event, TransactionOutcome, WalDecoder};

use super::shape::WalConstants;
use crate::error::{Error, Result};
use crate::shelf::Shelf;
use crate::target::Path;

/// Commits of `timeline` from one position to another, in stored WAL; `None` where it cannot be read: without the right to, or
/// because it is damaged. The tail itself is recorded all the same.
pub(super) async fn commits_in(
    shelf: &Shelf,
    constants: &WalConstants,
    timeline: Timeline,
    from: Lsn,
    to: Lsn,
) -> Result<Option<u64>> {
    if shelf.keyring.require_data_secret("counting commits").is_err() {
        return Ok(None);
    }
    match count(shelf, constants, timeline, from, to).await {
        Ok(commits) => Ok(Some(commits)),
        Err(Error::Repository(error)) if error.is_transient() => Err(error.into()),
        Err(_) => Ok(None),
    }
}

async fn count(shelf: &Shelf, constants: &WalConstants, timeline: Timeline, from: Lsn, to: Lsn) -> Result<u64> {
    let path = Path::to(shelf, constants, timeline).await?;
    let (mut at, mut commits) = (constants.segment_size.floor(from), 0);
    let mut decoder = WalDecoder::new(constants.shape(path.history.clone()), at)
        .map_err(|error| Error::damaged(error.to_string(), "look at the disk of the repository"))?;
    while at < to {
        let Some(segment) = path.segment(at).await? else { break };
        decoder.feed(&segment.bytes);
        while let Decoded::Record(record) = decoder.next() {
            let within = record.start >= from && record.end <= to;
            if let Ok(Event::TransactionEnd(end)) = record.event() {
                commits += u64::from(within && end.outcome == TransactionOutcome::Committed);
            }
        }
        at = Lsn(at.0 + constants.stored_segment());
    }
    Ok(commits)
}
