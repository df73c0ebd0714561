//! Whether there is room for the next backup: at the source, in the spool, in the repository.

use std::path::{Path, PathBuf};

use asof_engine::error::in_one_line;
use asof_engine::logical::{Database, databases};
use asof_postgres::client::Connection;
use asof_repository::lineage::{Lineage, Method};
use asof_world::{Space, World};

use super::server::ask;
use super::{Checkup, State};
use crate::context::directory;
use crate::failure::Result;
use crate::show::bytes;

/// What the next backup may take, and by what that is told.
struct Estimate {
    bytes: u64,
    because: String,
}

impl Checkup<'_> {
    pub(super) async fn space(&mut self, connection: &mut Connection, logical_only: bool) -> Result<()> {
        if !logical_only {
            self.space_for_wal(connection).await?;
        }
        let estimate = match databases(connection).await {
            Ok(known) if logical_only => of_dumps(&known, self.lineage),
            Ok(known) => of_files(&known, self.lineage),
            Err(error) => {
                self.add("repository space", State::Unknown, in_one_line(error));
                return Ok(());
            }
        };
        let url = self.context.loaded()?.config.repository.url;
        let needed = format!("the next backup may take {}: {}", bytes(estimate.bytes), estimate.because);
        if url.starts_with("s3://") {
            self.add("repository space", State::Ok, format!("not limited as far as known; {needed}"));
            return Ok(());
        }
        self.compare("repository space", &directory(&url)?, estimate.bytes, &needed).await;
        Ok(())
    }

    /// WAL is kept at the source while a backup runs, and in the spool while the repository is away. Nobody knows how much
    /// that will be; what the server itself may fill between two checkpoints is the least that must be free.
    async fn space_for_wal(&mut self, connection: &mut Connection) -> Result<()> {
        let sql = "SELECT setting::bigint * 1024 * 1024 FROM pg_settings WHERE name = 'max_wal_size'";
        let needed: u64 = match ask(connection, sql).await.and_then(|text| text.parse().map_err(|_| text)) {
            Ok(needed) => needed,
            Err(why) => {
                self.add("source space", State::Unknown, why);
                return Ok(());
            }
        };
        let yardstick = format!("at least max_wal_size, {},", bytes(needed));
        match self.context.data_directory(self.config).await? {
            // Where a link leads to another disk, that is the one that fills up.
            Some(data) => {
                let what = format!("{yardstick} must be free for WAL that a backup keeps there");
                self.compare("source space", &data.join("pg_wal"), needed, &what).await;
            }
            None => self.add("source space", State::Unknown, "not on this host"),
        }
        if let Some(spool) = &self.config.spool {
            let what = format!("{yardstick} must be free for WAL that waits for the repository");
            self.compare("spool space", spool, needed, &what).await;
        }
        Ok(())
    }

    async fn compare(&mut self, what: &'static str, place: &Path, needed: u64, because: &str) {
        match space(&self.context.world, place).await {
            Ok(space) => {
                let (state, text) = judged(space, needed);
                self.add(what, state, format!("{text} at {}; {because}", place.display()));
            }
            Err(error) => self.add(what, State::Unknown, format!("{}: {error}", place.display())),
        }
    }
}

fn judged(space: Space, needed: u64) -> (State, String) {
    let state = if space.free < needed { State::Failed } else { State::Ok };
    (state, format!("{} of {} free", bytes(space.free), bytes(space.total)))
}

/// The space where a path lies, or will when it is made.
async fn space(world: &World, path: &Path) -> std::io::Result<Space> {
    let (files, path) = (world.files.clone(), path.to_owned());
    let look = move || {
        let mut place: PathBuf = path;
        loop {
            match files.space(&place) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && place.pop() => {}
                other => return other,
            }
        }
    };
    world.blocking(look).await
}

/// Bytes that `size` bytes take, when `stored` of `total` were taken before; as much as they are, when nothing is known.
fn scaled(size: u64, before: Option<(u64, u64)>) -> u64 {
    match before {
        Some((stored, total)) if total > 0 => {
            u64::try_from(u128::from(size) * u128::from(stored) / u128::from(total)).unwrap_or(u64::MAX)
        }
        _ => size,
    }
}

/// A backup of files shares what did not change, so the last one tells what the next will take.
fn of_files(known: &[Database], lineage: &Lineage) -> Estimate {
    let size = known.iter().filter_map(|database| database.size).sum();
    let last = lineage.physical().last().map(|state| state.backup.sizes);
    let estimate = scaled(size, last.map(|sizes| (sizes.stored, sizes.total)));
    let by = match last {
        Some(sizes) => format!("the last took {} for {}", bytes(sizes.stored), bytes(sizes.total)),
        None => "there is none yet to tell what it takes when compressed".to_owned(),
    };
    Estimate { bytes: estimate, because: format!("the server has {}{}, and {by}", bytes(size), unasked(known)) }
}

/// Dumps share nothing. One of each database is reckoned with, by what the last of it took.
fn of_dumps(known: &[Database], lineage: &Lineage) -> Estimate {
    let of_database = |database: &Database| {
        let is_its = |details: &serde_json::Value| details["database"]["name"] == database.name.as_str();
        let existing = lineage.existing().into_iter().rev().map(|state| &state.backup);
        let mut its = existing.filter(|backup| backup.method == Method::Logical && is_its(&backup.details));
        let last =
            its.next().and_then(|backup| Some((backup.sizes.stored, backup.details["database"]["size"].as_u64()?)));
        scaled(database.size.unwrap_or(0), last)
    };
    let dumped: Vec<&Database> = known.iter().filter(|database| database.can_be_dumped).collect();
    let size = dumped.iter().filter_map(|database| database.size).sum();
    let estimate = dumped.iter().map(|database| of_database(database)).fold(0, u64::saturating_add);
    let because = format!("one dump of each of {} databases, which have {}", dumped.len(), bytes(size));
    Estimate { bytes: estimate, because }
}

/// Databases whose size the role may not ask, which count for nothing.
fn unasked(known: &[Database]) -> String {
    let names: Vec<&str> = known.iter().filter(|it| it.size.is_none()).map(|it| it.name.as_str()).collect();
    if names.is_empty() { String::new() } else { format!(" without {}, whose size may not be asked", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_free_than_is_needed_fails_with_the_numbers() {
        let check = |free, needed| judged(Space { free, total: 1 << 30 }, needed);
        assert_eq!(check(1 << 20, 1 << 20), (State::Ok, "1.0 MiB of 1.0 GiB free".to_owned()));
        assert_eq!(check((1 << 20) - 1, 1 << 20).0, State::Failed);
    }

    #[test]
    fn what_the_next_backup_takes_follows_what_the_last_one_took() {
        assert_eq!(scaled(1000, None), 1000);
        assert_eq!(scaled(1000, Some((30, 100))), 300);
        assert_eq!(scaled(1000, Some((0, 0))), 1000);
        assert_eq!(scaled(u64::MAX, Some((u64::MAX, 1))), u64::MAX);
    }
}
