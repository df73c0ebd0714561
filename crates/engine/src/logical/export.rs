//! A dump of the repository as the stock programs read it, outside of the repository: for archives that outlive every tool but
//! PostgreSQL's own. It is not encrypted there, and nothing of Asof is needed to read it.

use std::collections::BTreeMap;
use std::path::Path;

use asof_postgres::archive::toc::{Place as DataPlace, Toc};
use asof_repository::store::s3::S3Store;
use asof_world::World;
use aws_lc_rs::digest::{Context as Sha, SHA256};
use bytes::Bytes;

use super::fetch::StoredDump;
use super::members::{BLOCK_HEADER_LEN, GLOBALS, TOC_LIMIT, file_of, with_data};
use super::origin::{Origin, Place, Stream};
use super::record::{FileRecord, Format};
use super::to_file::{self, FileWriter, beside, sha256};
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};
use crate::time::rfc3339;

/// Where a dump goes.
pub enum Outside<'a> {
    /// A file that does not exist.
    File(&'a Path),
    /// An object of this name that does not exist.
    Store(&'a S3Store, &'a str),
}

/// What was written.
#[derive(Clone, Debug)]
pub struct ExportReport {
    /// Files or objects; the dump itself is the first.
    pub names: Vec<String>,
    /// Bytes of the dump.
    pub bytes: u64,
    /// Its digests by part.
    pub sha256: BTreeMap<String, String>,
}

/// Writes a stored dump as an archive of custom format or as SQL, with what is known of it and its globals beside it.
///
/// # Errors
/// `Refused` if the name is taken, `Damaged` if the repository is; nothing is left behind then that looks whole.
pub async fn export(origin: &Origin, out: Outside<'_>, observer: &dyn Observer) -> Result<ExportReport> {
    let Place::Stored(dump) = &origin.place else {
        return Err(Error::refused(format!("{} is a file already", origin.name), "copy it"));
    };
    let mut source = Source::of(origin, dump).await?;
    observer.event(Event::Phase("exporting"));
    observer.event(Event::Expect(source.len));
    let globals = match dump.find(GLOBALS).await? {
        Some(file) => Some(file.whole(TOC_LIMIT).await?),
        None => None,
    };
    let world = &origin.world;
    match out {
        Outside::File(path) => to_path(world, origin, &mut source, globals, path, observer).await,
        Outside::Store(store, name) => to_store(origin, &mut source, globals, store, name, observer).await,
    }
}

async fn to_path(
    world: &World,
    origin: &Origin,
    source: &mut Source,
    globals: Option<Vec<u8>>,
    path: &Path,
    observer: &dyn Observer,
) -> Result<ExportReport> {
    let mut making = to_file::begin(world, path).await?;
    let mut file = FileWriter::create(world, &making.partial).await?;
    while let Some(piece) = source.next().await? {
        observer.event(Event::Advance(piece.len() as u64));
        file.write(piece.into()).await?;
    }
    file.end(None).await?;
    let sha256 = source.digests();
    if let Some(globals) = &globals {
        making.add("globals.sql", globals).await?;
    }
    making.add("json", &record(origin, &sha256)).await?;
    let names = making.publish().await?.into_iter().map(|path| path.display().to_string()).collect();
    Ok(ExportReport { names, bytes: source.done, sha256 })
}

async fn to_store(
    origin: &Origin,
    source: &mut Source,
    globals: Option<Vec<u8>>,
    store: &S3Store,
    name: &str,
    observer: &dyn Observer,
) -> Result<ExportReport> {
    let next = async || {
        let piece = source.next().await?;
        observer.event(Event::Advance(piece.as_ref().map_or(0, |piece| piece.len() as u64)));
        Ok::<_, Error>(piece)
    };
    store.upload(name, next).await?;
    let (mut names, sha256) = (vec![name.to_owned()], source.digests());
    let more = globals.into_iter().map(|globals| ("globals.sql", globals));
    for (ending, bytes) in more.chain([("json", record(origin, &sha256))]) {
        let mut bytes = Some(Bytes::from(bytes));
        let name = beside(Path::new(name), ending).display().to_string();
        store.upload(&name, async || Ok::<_, Error>(bytes.take())).await?;
        names.push(name);
    }
    Ok(ExportReport { names, bytes: source.done, sha256 })
}

fn record(origin: &Origin, sha256: &BTreeMap<String, String>) -> Vec<u8> {
    let (made, details) = origin.made.zip(origin.details.clone()).expect("a stored dump has a record");
    let record = FileRecord { made: rfc3339(made), details, tables: origin.tables.clone(), sha256: sha256.clone() };
    serde_json::to_vec_pretty(&record).expect("records can be written as JSON")
}

/// The bytes of the dump, and their digests.
struct Source {
    stream: Stream,
    /// The table of contents with the place of each table's data; SQL has none.
    head: Option<Bytes>,
    is_archive: bool,
    head_digest: String,
    sha: Sha,
    len: u64,
    done: u64,
}

impl Source {
    async fn of(origin: &Origin, dump: &StoredDump) -> Result<Self> {
        let lengths: BTreeMap<String, u64> = dump.list().await?.into_iter().collect();
        let is_archive = origin.details.as_ref().is_none_or(|details| details.format != Format::Plain);
        let (head, stream) = match &origin.toc {
            Some(toc) => {
                let head = with_places(toc, &lengths);
                (Some(Bytes::from(head)), origin.data_of(dump, toc))
            }
            None => (None, origin.stream().await?),
        };
        let head_digest = head.as_ref().map_or_else(String::new, |head| sha256(head));
        let len = lengths.values().sum();
        Ok(Self { stream, head, is_archive, head_digest, sha: Sha::new(&SHA256), len, done: 0 })
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let piece = match self.head.take() {
            Some(head) => Some(head),
            None => {
                let piece = self.stream.next().await?;
                piece.iter().for_each(|piece| self.sha.update(piece));
                piece
            }
        };
        self.done += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Ok(piece)
    }

    fn digests(&self) -> BTreeMap<String, String> {
        let data = hex::encode(self.sha.clone().finish());
        match self.is_archive {
            true => {
                [("toc", self.head_digest.clone()), ("data", data)].map(|(part, sha)| (part.to_owned(), sha)).into()
            }
            false => [("sql".to_owned(), data)].into(),
        }
    }
}

/// The table of contents as `pg_dump` writes it into a file in which it can seek.
fn with_places(toc: &Toc, lengths: &BTreeMap<String, u64>) -> Vec<u8> {
    let mut at = toc.encode_custom().len() as u64;
    let mut placed = toc.clone();
    let blocks: Vec<(i32, u64)> = with_data(toc)
        .map(|entry| {
            let start = at;
            at += BLOCK_HEADER_LEN + lengths.get(&file_of(entry)).copied().unwrap_or(0);
            (entry.dump_id, start)
        })
        .collect();
    let starts: BTreeMap<i32, u64> = blocks.into_iter().collect();
    for entry in &mut placed.entries {
        if let Some(start) = starts.get(&entry.dump_id) {
            entry.place = DataPlace::Offset(Some(*start));
        }
    }
    placed.encode_custom()
}
