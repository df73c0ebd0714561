//! Reading an instance by SQL, from anywhere and without a superuser.
//!
//! Files are read with `pg_read_binary_file` through binary `COPY`, in rows of 1 MiB, over several connections; they are
//! enumerated with `pg_ls_dir` and `pg_stat_file`, only in the directories that PostgreSQL itself makes. Every path is
//! relative to the data directory, because that is all a role without `pg_read_server_files` may name.
//!
//! Two things follow that reading by files has not. Symbolic links are invisible: what a link below a known directory leads
//! to is read as if it stood there. And directories that PostgreSQL does not make are left out; [`SqlSource::left_out`]
//! names them. No connection is ever inside a transaction for longer than one statement, so nothing holds back vacuum.

mod listing;
mod pool;
mod rights;

use std::sync::{Arc, Mutex, PoisonError};

use asof_postgres::client::{BinaryCopy, ClientError, Connection, ErrorKind, escape_literal};
use asof_postgres::version::Major;
use async_trait::async_trait;

use super::{Listing, Source, SourceFile};
use crate::error::{Error, Result};
use crate::server::Server;
use pool::Pool;

pub use rights::{READS_EVERYTHING, grants, missing_rights, superfluous_rights, superfluous_to_dump};

/// One row of a read: large enough for speed, small enough for the memory of the server process (rule 12).
const CHUNK_BYTES: u32 = 1 << 20;

/// An instance that is read over SQL connections.
pub struct SqlSource {
    pool: Arc<Pool>,
    left_out: Mutex<Vec<Vec<u8>>>,
}

impl SqlSource {
    /// Opens `connections` connections (at least one), all to the same server process.
    ///
    /// # Errors
    /// `Refused` behind a connection pooler and for unsupported majors; `Client` if the server cannot be reached.
    pub async fn connect(server: &Server, connections: usize) -> Result<Self> {
        Ok(Self { pool: Pool::connect(server, connections).await?, left_out: Mutex::default() })
    }

    /// The server's major.
    pub fn major(&self) -> Major {
        self.pool.major
    }

    /// Directories that the last listing left out, because PostgreSQL does not make them. To be shown to the operator.
    pub fn left_out(&self) -> Vec<Vec<u8>> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Source for SqlSource {
    async fn list(&self) -> Result<Listing> {
        let (listing, left_out) = listing::list(&self.pool).await?;
        *self.left_out.lock().unwrap_or_else(PoisonError::into_inner) = left_out;
        Ok(listing)
    }

    async fn open(&self, path: &[u8]) -> Result<Option<Arc<dyn SourceFile>>> {
        let literal = literal(path)?;
        let sql = format!("SELECT size, isdir FROM pg_catalog.pg_stat_file({literal}, true)");
        let mut lease = self.pool.take().await?;
        let row = lease.connection().query_one(&sql).await;
        let row = lease.settle(row)?;
        let Some(len) = row.parse(0)? else { return Ok(None) };
        if row.text(1)? == Some("t") {
            let what = format!("{} is a directory, not a file", String::from_utf8_lossy(path));
            return Err(Error::refused(what, "this is a defect in asof: please report it"));
        }
        Ok(Some(Arc::new(RemoteFile { pool: Arc::clone(&self.pool), literal, len })))
    }
}

/// A path as an SQL literal.
fn literal(path: &[u8]) -> Result<String> {
    std::str::from_utf8(path).map(escape_literal).map_err(|_| {
        let what = format!("the name of {} is not valid UTF-8 and cannot be asked for by SQL", path.escape_ascii());
        Error::refused(what, "rename the file, or back this instance up by its files")
    })
}

struct RemoteFile {
    pool: Arc<Pool>,
    literal: String,
    len: u64,
}

#[async_trait]
impl SourceFile for RemoteFile {
    fn len(&self) -> u64 {
        self.len
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let sql = read_sql(&self.literal, offset, len);
        let mut lease = self.pool.take().await?;
        let bytes = copy(lease.connection(), &sql, len).await;
        lease.settle_read(bytes)
    }
}

/// Rows of at most [`CHUNK_BYTES`], in order of their place in the file.
fn read_sql(literal: &str, offset: u64, len: usize) -> String {
    let end = offset.saturating_add(len as u64);
    format!(
        "COPY (SELECT pg_catalog.pg_read_binary_file({literal}, place, \
         LEAST({CHUNK_BYTES}::bigint, {end}::bigint OPERATOR(pg_catalog.-) place), true) \
         FROM pg_catalog.generate_series({offset}::bigint, {}::bigint, {CHUNK_BYTES}::bigint) AS place) \
         TO STDOUT (FORMAT binary)",
        end - 1
    )
}

/// What may go wrong while bytes arrive.
enum ReadError {
    Client(ClientError),
    /// Not what was asked for.
    Format(String),
}

impl From<ClientError> for ReadError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

async fn copy(connection: &mut Connection, sql: &str, len: usize) -> Result<Vec<u8>, ReadError> {
    let mut rows = BinaryCopy::new(CHUNK_BYTES);
    let mut chunks = Chunks::new(len);
    let mut stream = connection.copy_out(sql).await?;
    while let Some(piece) = stream.next().await? {
        rows.feed(piece);
        while let Some(row) = rows.next_row().map_err(|error| ReadError::Format(error.to_string()))? {
            let [chunk] = row.as_slice() else {
                return Err(ReadError::Format(format!("a row of {} columns", row.len())));
            };
            // NULL: the file has vanished.
            chunks.take(chunk.as_deref().unwrap_or_default()).map_err(ReadError::Format)?;
        }
    }
    rows.finish().map_err(|error| ReadError::Format(error.to_string()))?;
    Ok(chunks.bytes)
}

/// Puts rows together up to the first that is short: there the file ended when it was read, and what a later row holds was
/// written since and belongs elsewhere.
struct Chunks {
    bytes: Vec<u8>,
    missing: usize,
    ended: bool,
}

impl Chunks {
    fn new(len: usize) -> Self {
        Self { bytes: Vec::with_capacity(len), missing: len, ended: false }
    }

    /// The error says what is wrong with a row that holds more than it was asked for.
    fn take(&mut self, chunk: &[u8]) -> Result<(), String> {
        let wanted = self.missing.min(CHUNK_BYTES as usize);
        if chunk.len() > wanted {
            return Err(format!("{} bytes instead of {wanted}", chunk.len()));
        }
        self.missing -= wanted;
        if !self.ended {
            self.bytes.extend_from_slice(chunk);
            self.ended = chunk.len() < wanted;
        }
        Ok(())
    }
}

/// Says which right is missing, and where: grants on functions hold in one database only.
fn explain(error: ClientError, server: &Server, major: Major) -> Error {
    let function = error.server_error().and_then(|error| error.message.strip_prefix("permission denied for function "));
    let Some(function) = function.filter(|_| error.kind() == ErrorKind::Denied) else { return error.into() };
    let (role, database) = (&server.config.user, &server.config.dbname);
    let what = format!("role {role} may not call {function} in database {database} of {}", error.server());
    let needed = format!(".{function}(");
    let grants: Vec<String> = grants(major, role).into_iter().filter(|grant| grant.contains(&needed)).collect();
    Error::refused(what, format!("in database {database}, where this grant alone holds, run {}", grants.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_cut_into_chunks_and_ends_where_it_was_asked_to() {
        let sql = read_sql("'base/1/2'", 100, 10);
        assert!(sql.contains("LEAST(1048576::bigint, 110::bigint OPERATOR(pg_catalog.-) place)"), "{sql}");
        assert!(sql.contains("generate_series(100::bigint, 109::bigint, 1048576::bigint)"), "{sql}");
    }

    #[test]
    fn what_is_written_behind_the_end_of_a_file_while_it_is_read_is_left_out() {
        let full = vec![1; CHUNK_BYTES as usize];
        let mut chunks = Chunks::new(3 * full.len() + 10);
        for chunk in [&full[..], b"short", &full, b"later"] {
            chunks.take(chunk).expect("is no more than was asked for");
        }
        assert_eq!(chunks.bytes, [&full[..], b"short"].concat());
        assert!(Chunks::new(3).take(b"four").is_err());
    }

    #[test]
    fn a_path_cannot_leave_its_literal() {
        assert_eq!(literal(b"base/it's").expect("is UTF-8"), "'base/it''s'");
        assert!(literal(b"base/\xff").is_err());
    }
}
