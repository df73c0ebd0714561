//! Whether WAL arrives: what is stored, held against where the server stands. Nothing is written to the server to find out.

use asof_engine::error::in_one_line;
use asof_engine::server::Contact;
use asof_engine::wal::assemble::latest_observation;
use asof_engine::wal::receiver::{slot_name, stored_end};
use asof_engine::wal::shape::WalConstants;
use asof_postgres::client::{Connection, Row};
use asof_postgres::lsn::Lsn;

use super::{Checkup, State};
use crate::failure::Failure;
use crate::show::{bytes, duration, time};

/// A receiver stores the clock of an idle server every half minute; one that is well is never this late.
const LATE_SECONDS: u64 = 300;
/// Whole segments are pushed: one is being filled, one is on its way.
const LATE_SEGMENTS: u64 = 2;

/// What the server says of its WAL.
struct Served {
    flushed: Lsn,
    /// Its clock, in microseconds.
    now: i64,
    /// Of our slot, if there is one: its state, where it can be told.
    slot: Option<Option<String>>,
    archiving: Archiving,
}

/// What the server says of `archive_command`.
struct Archiving {
    /// Whether it hands segments to asof; `None` when it may not be asked.
    ours: Option<bool>,
    /// The last that succeeded; a command that cannot be started at all counts neither here nor there.
    last: Option<String>,
    /// What failed since.
    failure: Option<String>,
}

/// What the repository has.
#[derive(Clone, Copy)]
struct Stored {
    end: Lsn,
    /// The server's clock when that was all, in microseconds.
    seen: Option<i64>,
}

impl Checkup<'_> {
    pub(super) async fn wal_arrives(&mut self, connection: &mut Connection, contact: &Contact) {
        let served = match served(connection, contact, &slot_name(&self.instance.shelf)).await {
            Ok(served) => served,
            Err(error) => return self.add("WAL", State::Unknown, in_one_line(Failure::from(error))),
        };
        match self.stored().await {
            Ok((stored, segment)) => {
                let (state, text) = judged(&served, stored, segment, &self.instance.name);
                self.add("WAL", state, text);
            }
            Err(error) => self.add("WAL", State::Failed, in_one_line(error)),
        }
        if let Some((state, text)) = judged_archiving(served.archiving) {
            self.add("archiving", state, text);
        }
    }

    async fn stored(&self) -> asof_engine::Result<(Option<Stored>, u64)> {
        let (shelf, constants) = (&self.instance.shelf, WalConstants::from_facts(&self.lineage.facts)?);
        let segment = u64::from(constants.segment_size.bytes());
        let Some(end) = stored_end(shelf, self.lineage, constants.stored_segment()).await? else {
            return Ok((None, segment));
        };
        let seen = latest_observation(shelf, &constants, end.timeline, end.end).await?;
        Ok((Some(Stored { end: end.end, seen }), segment))
    }
}

async fn served(connection: &mut Connection, contact: &Contact, slot: &str) -> asof_engine::Result<Served> {
    let position = if contact.in_recovery { "pg_last_wal_replay_lsn()" } else { "pg_current_wal_flush_lsn()" };
    let sql = format!("SELECT {position}, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint");
    let row = connection.query_one(&sql).await?;
    let (flushed, now) = (row.parse_required(0)?, row.parse_required(1)?);
    let sql = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1";
    let slots = connection.query_params(sql, &[Some(slot)]).await?;
    let state = |row: &Row| Ok::<_, asof_engine::Error>(row.text(0)?.map(str::to_owned));
    let slot = slots.first().map(state).transpose()?;
    Ok(Served { flushed, now, slot, archiving: archiving(connection).await? })
}

/// What is not shown to this role is not in `pg_settings`.
async fn archiving(connection: &mut Connection) -> asof_engine::Result<Archiving> {
    let sql = "SELECT current_setting('archive_mode'), (SELECT setting FROM pg_settings WHERE name = 'archive_command'), \
               coalesce(last_failed_time > last_archived_time, last_failed_time IS NOT NULL), \
               format('%s at %s', last_archived_wal, date_trunc('second', last_archived_time)), last_archived_time IS NOT NULL, \
               format('archive_command failed for %s at %s, %s times since the server counts, and nothing was archived since: \
               its log says why', last_failed_wal, date_trunc('second', last_failed_time), failed_count) FROM pg_stat_archiver";
    let row = connection.query_one(sql).await?;
    let ours = match (row.required(0)?, row.text(1)?) {
        ("off", _) => Some(false),
        (_, None) => None,
        (_, Some(command)) => Some(command.contains("asof")),
    };
    let text = |at: usize| row.required(at).map(str::to_owned);
    let last = if row.required(4)? == "t" { Some(text(3)?) } else { None };
    let failure = if row.required(2)? == "t" { Some(text(5)?) } else { None };
    Ok(Archiving { ours, last, failure })
}

fn judged_archiving(archiving: Archiving) -> Option<(State, String)> {
    Some(match archiving {
        Archiving { ours: Some(false), .. } => return None,
        Archiving { ours: None, .. } => {
            (State::Unknown, "this role may not see archive_command: GRANT pg_monitor".to_owned())
        }
        Archiving { failure: Some(why), .. } => (State::Failed, why),
        Archiving { last: Some(last), .. } => (State::Ok, format!("the last was {last}")),
        Archiving { last: None, .. } => (
            State::Warning,
            "archive_command has stored nothing yet; one that cannot be started is only in the server's log".to_owned(),
        ),
    })
}

fn judged(served: &Served, stored: Option<Stored>, segment: u64, name: &str) -> (State, String) {
    if let Some(Some(state)) = &served.slot
        && state == "lost"
    {
        let text = "the server has removed WAL that the receiver had not stored: a gap; make a new backup".to_owned();
        return (State::Failed, text);
    }
    let (receives, pushed) = (served.slot.is_some(), served.archiving.ours == Some(true));
    if !receives && !pushed {
        let text = format!("not received: only the moments of backups can be restored; `asof wal receive {name}`");
        return (State::Warning, text);
    }
    let Some(stored) = stored else {
        return (State::Warning, format!("nothing is stored yet; the server is at {}", served.flushed));
    };
    let behind = served.flushed.0.saturating_sub(stored.end.0);
    let micros = stored.seen.map(|seen| served.now.saturating_sub(seen).max(0).unsigned_abs());
    let age = micros.map(|micros| micros / 1_000_000);
    let seen = match (stored.seen, age) {
        (Some(seen), Some(age)) => {
            format!(", as of {} ({} ago)", time(seen), duration(std::time::Duration::from_secs(age)))
        }
        _ => String::new(),
    };
    let stands = format!("stored to {}, {} behind the server{seen}", stored.end, bytes(behind));
    let is_late = match receives {
        true => behind > 0 && age.is_none_or(|age| age > LATE_SECONDS),
        false => behind > LATE_SEGMENTS * segment,
    };
    match (is_late, receives) {
        (false, _) => (State::Ok, stands),
        (true, true) => (
            State::Warning,
            format!("{stands}: is `asof wal receive {name}` running? The server keeps WAL until it is"),
        ),
        (true, false) => (State::Warning, format!("{stands}: does archive_command run?")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    fn served(slot: Option<Option<&str>>, ours: bool) -> Served {
        let archiving = Archiving { ours: Some(ours), last: None, failure: None };
        let slot = slot.map(|state| state.map(str::to_owned));
        Served { flushed: Lsn(100 * SEGMENT), now: 1_000_000_000, slot, archiving }
    }

    fn stored(behind: u64, seconds: i64) -> Option<Stored> {
        Some(Stored { end: Lsn(100 * SEGMENT - behind), seen: Some(1_000_000_000 - seconds * 1_000_000) })
    }

    #[test]
    fn wal_that_stands_still_is_told_from_wal_that_arrives() {
        let check = |served: &Served, stored, state, words: &str| {
            let (found, text) = judged(served, stored, SEGMENT, "prod");
            assert!(found == state && text.contains(words), "{found:?} {text}");
        };
        let received = served(Some(Some("reserved")), false);
        check(&received, stored(0, 900), State::Ok, "0 B behind");
        check(&received, stored(SEGMENT, 4), State::Ok, "16.0 MiB behind");
        check(&received, stored(8, 301), State::Warning, "is `asof wal receive prod` running?");
        check(&received, None, State::Warning, "nothing is stored yet");
        check(&served(Some(Some("lost")), false), stored(0, 1), State::Failed, "make a new backup");
        let pushed = served(None, true);
        check(&pushed, stored(2 * SEGMENT, 9000), State::Ok, "32.0 MiB behind");
        check(&pushed, stored(2 * SEGMENT + 1, 1), State::Warning, "archive_command");
        check(&served(None, false), stored(0, 1), State::Warning, "only the moments of backups");
    }
}
