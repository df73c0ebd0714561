//! What an instance consists of, level by level, with one query for a group of directories.

use asof_postgres::client::{ClientError, Row, escape_literal};
use asof_postgres::names::{PG_DEFAULT, PG_GLOBAL};
use asof_postgres::version::{self, Major};
use futures::future::try_join_all;

use super::pool::Pool;
use crate::error::Result;
use crate::source::{Listing, Tablespace, judge};

/// Directories in one query: enough to make distance bearable, few enough for an answer that fits in memory.
const GROUP: usize = 64;

/// What is done with a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treatment {
    /// Its files are listed.
    Enter,
    /// It is kept empty, or its content is found by other means.
    Keep,
    /// It belongs to queries or to another major.
    Ignore,
    /// PostgreSQL does not make it.
    Unknown,
}

struct Entry {
    path: Vec<u8>,
    len: u64,
    directory: bool,
}

/// The listing, and directories that were left out.
pub(super) async fn list(pool: &Pool) -> Result<(Listing, Vec<Vec<u8>>)> {
    let (mut listing, mut left_out) = (Listing::default(), Vec::new());
    listing.tablespaces = tablespaces(pool).await?;
    let mut level = vec![Vec::new()];
    level.extend(listing.tablespaces.iter().map(|tablespace| format!("pg_tblspc/{}", tablespace.oid).into_bytes()));
    while !level.is_empty() {
        listing.directories.extend(level.iter().filter(|path| !path.is_empty()).cloned());
        let mut below = Vec::new();
        for entry in entries(pool, &level).await? {
            if !entry.directory {
                listing.files.extend(judge(pool.major, entry.path, entry.len).filter(|file| !is_socket(&file.path)));
                continue;
            }
            match treatment(pool.major, &entry.path) {
                Treatment::Enter => below.push(entry.path),
                Treatment::Keep => listing.directories.extend(kept(entry.path)),
                Treatment::Ignore => {}
                Treatment::Unknown => left_out.push(entry.path),
            }
        }
        level = below;
    }
    Ok((listing, left_out))
}

async fn tablespaces(pool: &Pool) -> Result<Vec<Tablespace>> {
    let sql = format!(
        "SELECT oid, pg_catalog.pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace \
         WHERE oid NOT IN ({PG_DEFAULT}, {PG_GLOBAL})"
    );
    let mut lease = pool.take().await?;
    let rows = lease.connection().query(&sql).await;
    let rows = lease.settle(rows)?;
    rows.iter().map(|row| Ok(tablespace(row)?)).collect()
}

/// The location of an in-place tablespace is its own directory, relative to the data directory.
fn tablespace(row: &Row) -> Result<Tablespace, ClientError> {
    let location = row.bytes(1).filter(|location| location.starts_with(b"/")).map(<[u8]>::to_vec);
    Ok(Tablespace { oid: row.parse_required(0)?, location })
}

/// All entries of some directories; the empty path is the data directory.
async fn entries(pool: &Pool, directories: &[Vec<u8>]) -> Result<Vec<Entry>> {
    // All at once: they wait for the pool's connections.
    let groups: Vec<_> = directories.chunks(GROUP).map(|group| entries_of_group(pool, group.to_vec())).collect();
    Ok(try_join_all(groups).await?.into_iter().flatten().collect())
}

async fn entries_of_group(pool: &Pool, directories: Vec<Vec<u8>>) -> Result<Vec<Entry>> {
    // Only names that were judged come here, and they are ASCII.
    let literals = directories.iter().map(|path| match path.as_slice() {
        b"" => "'.'".to_owned(),
        path => escape_literal(&String::from_utf8_lossy(path)),
    });
    let sql = format!(
        "SELECT d.path, f.name, s.size, s.isdir \
         FROM pg_catalog.unnest(ARRAY[{}]::text[]) AS d(path), \
         LATERAL pg_catalog.pg_ls_dir(d.path, true, false) AS f(name), \
         LATERAL pg_catalog.pg_stat_file(d.path || '/' || f.name, true) AS s",
        literals.collect::<Vec<_>>().join(", ")
    );
    let mut lease = pool.take().await?;
    let rows = lease.connection().query(&sql).await;
    let rows = lease.settle(rows)?;
    let found: Result<Vec<Option<Entry>>, ClientError> = rows.iter().map(entry).collect();
    Ok(found?.into_iter().flatten().collect())
}

/// `None` for what vanished between its name and its attributes.
fn entry(row: &Row) -> Result<Option<Entry>, ClientError> {
    let (directory, name) = (row.bytes(0).unwrap_or_default(), row.bytes(1).unwrap_or_default());
    let Some(len) = row.parse(2)? else { return Ok(None) };
    let path = if directory == b"." { name.to_vec() } else { [directory, b"/", name].concat() };
    Ok(Some(Entry { path, len, directory: row.text(3)? == Some("t") }))
}

/// The directories that PostgreSQL makes, by name.
fn treatment(major: Major, path: &[u8]) -> Treatment {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let is_oid = |name: &[u8]| !name.is_empty() && name.iter().all(u8::is_ascii_digit);
    match parts.as_slice() {
        [b"base" | b"global" | b"pg_xact" | b"pg_multixact" | b"pg_commit_ts"] => Treatment::Enter,
        [b"pg_logical" | b"pg_twophase" | b"pg_stat"] => Treatment::Enter,
        [b"pg_wal" | b"pg_tblspc"] => Treatment::Keep,
        [name] if version::EXCLUDED_DIRECTORY_CONTENTS.iter().any(|kept| kept.as_bytes() == *name) => Treatment::Keep,
        [b"base", database] if is_oid(database) => Treatment::Enter,
        [b"pg_multixact", b"members" | b"offsets"] | [b"pg_logical", b"snapshots" | b"mappings"] => Treatment::Enter,
        [b"pg_tblspc", _, ours] if *ours == major.tablespace_directory().as_bytes() => Treatment::Enter,
        [b"pg_tblspc", _, _] => Treatment::Ignore,
        [b"pg_tblspc", _, _, database] if is_oid(database) => Treatment::Enter,
        _ if version::excluded_from_backup(major, path).is_some() => Treatment::Ignore,
        _ => Treatment::Unknown,
    }
}

/// A directory that is kept empty; that of WAL holds another one.
fn kept(path: Vec<u8>) -> Vec<Vec<u8>> {
    if path == b"pg_wal" { vec![path, b"pg_wal/archive_status".to_vec()] } else { vec![path] }
}

/// A socket in the data directory has a length and is no directory, but cannot be read.
fn is_socket(path: &[u8]) -> bool {
    path.starts_with(b".s.PGSQL.") && !path.ends_with(b".lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_that_postgresql_makes_are_entered() {
        let check = |path: &str, expect| assert_eq!(treatment(Major::V15, path.as_bytes()), expect, "{path}");
        for path in ["base", "base/5", "global", "pg_multixact/members", "pg_logical/snapshots", "pg_xact"] {
            check(path, Treatment::Enter);
        }
        check("pg_tblspc/16400/PG_15_202209061", Treatment::Enter);
        check("pg_tblspc/16400/PG_15_202209061/5", Treatment::Enter);
        check("pg_tblspc/16400/PG_14_202107181", Treatment::Ignore);
        check("pg_tblspc/16400/PG_15_202209061/pgsql_tmp", Treatment::Ignore);
        check("base/pgsql_tmp", Treatment::Ignore);
        check("pg_replslot", Treatment::Keep);
        check("pg_wal", Treatment::Keep);
        for path in ["lost+found", "base/5/other", "base/link", "log", "pg_xact/x"] {
            check(path, Treatment::Unknown);
        }
    }
}
