//! What is loaded: a dump of the repository, or a file of anybody, known by its content and never by its name.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use asof_postgres::archive::sniff::Kind;
use asof_postgres::archive::toc::{ArchiveFormat, Entry, Toc, TocDecoder};
use asof_postgres::conninfo::Secret;
use asof_repository::lineage::{Backup, Method};
use asof_world::{FileKind, ReadFile, Timestamp, World};
use aws_lc_rs::digest::{Context as Sha, SHA256};
use bytes::Bytes;

use super::fetch::{StoredDump, StoredFile};
use super::layers::{Layers, Recipe, WRAPPED_LEN};
use super::members::{SQL, TABLES, TOC, TOC_LIMIT, block_header, file_of, with_data};
use super::record::{Details, FileRecord, Format, TableRecord};
use super::tar::TarReader;
use super::to_file;
use crate::error::{Error, Result};
use crate::shelf::Shelf;

/// What to do about a dump that cannot be read.
const AGAIN: &str = "take another copy of it, or dump again";

/// How much of a file is read at once.
const PIECE_LEN: usize = 4 << 20;

/// A dump that was opened.
pub struct Origin {
    pub(super) world: World,
    /// What it is called in messages.
    pub(super) name: String,
    pub(super) place: Place,
    /// The table of contents; a script has none.
    pub(super) toc: Option<Toc>,
    /// What was recorded of it, when it is ours.
    pub(super) details: Option<Details>,
    /// Its tables, as far as they were recorded.
    pub(super) tables: Vec<TableRecord>,
    /// When its snapshot was taken, where that was recorded.
    pub(super) made: Option<Timestamp>,
    /// What its parts are proven by; empty when nobody recorded it.
    pub(super) sha256: BTreeMap<String, String>,
    /// What the bytes of a file are proven by before anything is taken off, of a script that `pg_dump` compressed.
    pub(super) outer_sha256: Option<String>,
    /// Whether all of it was read and decoded by whoever loads it now.
    pub(super) was_read: bool,
}

/// Where its bytes are.
pub(super) enum Place {
    /// In the repository.
    Stored(StoredDump),
    /// In a file, perhaps wrapped.
    File { path: PathBuf, recipe: Recipe },
    /// In the files of a directory.
    Directory(PathBuf),
}

impl Origin {
    /// Opens a logical backup.
    ///
    /// # Errors
    /// `Refused` for a physical one.
    pub async fn stored(shelf: &Shelf, backup: &Backup) -> Result<Self> {
        if backup.method != Method::Logical {
            let what = format!("{} is a backup of a whole instance, not a dump", backup.name);
            return Err(Error::refused(what, "restore it with `asof restore`"));
        }
        let details: Details = serde_json::from_value(backup.details.clone())
            .map_err(|error| Error::damaged(format!("the record of {}: {error}", backup.name), "update asof"))?;
        let dump = StoredDump::open(shelf, backup).await?;
        let toc = match details.format {
            Format::Plain => None,
            Format::Custom | Format::Directory => {
                Some(decoded(&backup.name, ArchiveFormat::Custom, &dump.file(TOC).await?.whole(TOC_LIMIT).await?)?)
            }
        };
        let tables = dump.file(TABLES).await?.whole(TOC_LIMIT).await?;
        let tables = serde_json::from_slice(&tables)
            .map_err(|error| Error::damaged(format!("the tables of {}: {error}", backup.name), "update asof"))?;
        let (world, name) = (shelf.world.clone(), backup.name.clone());
        let (place, details, sha256) = (Place::Stored(dump), Some(details), BTreeMap::new());
        let made = Some(Timestamp(backup.started));
        Ok(Self { world, name, place, toc, details, tables, made, sha256, outer_sha256: None, was_read: false })
    }

    /// Opens a file or a directory; `secret` opens what `openssl enc` closed.
    ///
    /// # Errors
    /// `Refused` for what is no dump, with what it is instead.
    pub async fn file(world: &World, path: &Path, secret: Option<&Secret>) -> Result<Self> {
        let name = path.display().to_string();
        // Programs run elsewhere.
        let path = &std::path::absolute(path).map_err(Error::files("find", path))?;
        let (files, looked_at) = (world.files.clone(), path.join("toc.dat"));
        let toc = world.blocking(move || files.read(&looked_at, TOC_LIMIT)).await;
        let toc = match toc {
            Ok(toc) => Some(toc),
            // A file, or a directory of something else.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
            Err(error) => return Err(Error::files("read", path.join("toc.dat"))(error)),
        };
        if let Some(toc) = toc {
            let mut origin = Self::of_file(world, name, Place::Directory(path.to_owned()));
            origin.take_record(path).await?;
            origin.prove("toc.dat", &to_file::sha256(&toc))?;
            origin.toc = Some(decoded(&origin.name, ArchiveFormat::Directory, &toc)?);
            return Ok(origin);
        }
        let recipe = recipe(world, path, secret).await?;
        let (is_wrapped, is_compressed_script) = (recipe.is_wrapped(), recipe.is_compressed_script());
        let mut origin = Self::of_file(world, name, Place::File { path: path.to_owned(), recipe });
        if !is_wrapped {
            origin.take_record(path).await?;
        } else if is_compressed_script {
            origin.take_record_of_compressed(path).await?;
        }
        origin.toc = origin.toc_of_file().await?;
        Ok(origin)
    }

    /// Whether a file is encrypted by `openssl enc`, so that a password is needed.
    ///
    /// # Errors
    /// `Files` if it cannot be read.
    pub async fn is_encrypted(world: &World, path: &Path) -> Result<bool> {
        let (files, opened) = (world.files.clone(), path.to_owned());
        let read = move || {
            let mut beginning = [0; 512];
            if files.attributes(&opened)?.kind == FileKind::Directory {
                return Ok(false);
            }
            let len = files.open(&opened)?.read_at(0, &mut beginning)?;
            Ok::<_, std::io::Error>(Kind::of(&beginning[..len]) == Kind::OpensslSalted)
        };
        world.blocking(read).await.map_err(Error::files("read", path))
    }

    fn of_file(world: &World, name: String, place: Place) -> Self {
        let (tables, sha256) = (Vec::new(), BTreeMap::new());
        let (world, toc, details, made, was_read) = (world.clone(), None, None, None, false);
        Self { world, name, place, toc, details, tables, made, sha256, outer_sha256: None, was_read }
    }

    /// Takes in what was recorded beside a dump of ours. A file of this name that says something else is somebody's own.
    async fn take_record(&mut self, path: &Path) -> Result<()> {
        let (files, beside) = (self.world.files.clone(), to_file::beside(path, "json"));
        let read = self.world.blocking(move || files.read(&beside, TOC_LIMIT).map_err(|error| (error, beside))).await;
        let bytes = match read {
            Ok(bytes) => bytes,
            Err((error, _)) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err((error, beside)) => return Err(Error::files("read", beside)(error)),
        };
        if let Ok(FileRecord { made, details, tables, sha256 }) = serde_json::from_slice(&bytes) {
            self.made = crate::time::parse(&made).ok();
            (self.details, self.tables, self.sha256) = (Some(details), tables, sha256);
        }
        Ok(())
    }

    /// The same for a script that is compressed. `pg_dump --compress` made it so, and then the record is of the bytes as they lie there.
    /// Whoever compresses an archive of ours and leaves it its name has no record of it any more.
    async fn take_record_of_compressed(&mut self, path: &Path) -> Result<()> {
        self.take_record(path).await?;
        self.outer_sha256 = self.sha256.remove("sql");
        if self.outer_sha256.is_none() {
            (self.details, self.tables, self.made) = (None, Vec::new(), None);
            self.sha256.clear();
        }
        Ok(())
    }

    /// Holds a digest against the one that was recorded, where one was.
    pub(super) fn prove(&self, part: &str, found: &str) -> Result<()> {
        self.sha256.get(part).map_or(Ok(()), |recorded| held_against(&self.name, part, recorded, found))
    }

    async fn toc_of_file(&self) -> Result<Option<Toc>> {
        let Place::File { recipe, .. } = &self.place else { return Ok(None) };
        let format = match &recipe.inner {
            Kind::Custom => ArchiveFormat::Custom,
            Kind::Tar => return self.toc_of_tar().await,
            Kind::PlainSql => return Ok(None),
            Kind::TocOfDirectory => {
                let what = format!("{} is a part of a dump in directory format", self.name);
                return Err(Error::refused(what, "name the directory"));
            }
            Kind::Empty => {
                let what = format!("{} is empty", self.name);
                return Err(Error::damaged(what, "whatever made it failed: dump again"));
            }
            Kind::Unknown(reason) => {
                let what = format!("{} is no dump: {reason}", self.name);
                return Err(Error::refused(what, "name what pg_dump or pg_dumpall wrote"));
            }
            other => {
                let what = format!("{} is no dump: inside is {other:?}", self.name);
                return Err(Error::refused(what, "name what pg_dump or pg_dumpall wrote"));
            }
        };
        let (mut stream, mut decoder, mut head) = (self.stream().await?, TocDecoder::new(format), Vec::new());
        while let Some(piece) = stream.next().await? {
            let before = head.len();
            head.extend_from_slice(&piece);
            if let Some((toc, used)) = decoder.push(&piece).map_err(|error| damaged(&self.name, &error))? {
                self.prove("toc", &to_file::sha256(&head[..before + used]))?;
                return Ok(Some(toc));
            }
        }
        Err(Error::damaged(format!("{} ends inside its table of contents", self.name), "take another copy of it"))
    }

    /// The first member of what `pg_dump` writes. Another tar may have it anywhere, where only `pg_restore` looks for it.
    async fn toc_of_tar(&self) -> Result<Option<Toc>> {
        let (mut stream, mut reader, mut len) = (self.stream().await?, TarReader::new(), 0);
        while let Some(piece) = stream.next().await?.filter(|_| len < TOC_LIMIT) {
            len += piece.len() as u64;
            let pushed = reader.push(&piece);
            if let Some(toc) = reader.toc() {
                return Ok(Some(toc.clone()));
            }
            pushed
                .map_err(|why| Error::damaged(format!("{} is no archive that can be read: {why}", self.name), AGAIN))?;
        }
        Ok(None)
    }

    /// Whether it is SQL and not an archive.
    #[must_use]
    pub fn is_script(&self) -> bool {
        match &self.place {
            Place::Stored(_) => self.toc.is_none(),
            Place::File { recipe, .. } => recipe.inner == Kind::PlainSql,
            Place::Directory(_) => false,
        }
    }

    /// What a new database lacks that is made of what has no table of contents.
    pub(super) fn without_properties(&self) -> String {
        let kind = if self.is_script() { "a script" } else { "a tar without a table of contents in front" };
        format!(
            "{} is {kind}, which has no properties of its database: owner, settings, privileges and comment are those of a new one",
            self.name
        )
    }

    /// The directory that programs read by themselves.
    pub(super) fn directory(&self) -> Option<&Path> {
        match &self.place {
            Place::Directory(path) => Some(path),
            Place::Stored(_) | Place::File { .. } => None,
        }
    }

    /// Whether every byte is authenticated before it is used, or is none of ours to look at.
    pub(super) fn is_proven(&self) -> bool {
        match &self.place {
            Place::Stored(_) | Place::Directory(_) => true,
            Place::File { recipe, .. } => recipe.inner != Kind::Custom,
        }
    }

    /// What the operator should know about how it was kept.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        match &self.place {
            Place::File { recipe, .. } if recipe.is_encrypted() => Some(format!(
                "{} is encrypted without authentication: that it was decrypted does not prove that nobody changed it",
                self.name
            )),
            _ => None,
        }
    }

    /// Why it is not a whole database, as far as that is recorded or shows in its table of contents.
    #[must_use]
    pub fn incomplete(&self) -> Vec<String> {
        match (&self.details, &self.toc) {
            (Some(details), _) => details.incomplete.clone(),
            // Also of an empty table there is an entry for its rows (`getTableData` in pg_dump.c).
            (None, Some(toc)) => {
                let is_table = |entry: &&Entry| entry.desc.as_bytes() == b"TABLE";
                let definitions_only =
                    toc.entries.iter().any(|entry| is_table(&entry)) && !toc.entries.iter().any(Entry::is_table_data);
                definitions_only.then(|| "definitions only, no rows".to_owned()).into_iter().collect()
            }
            (None, None) => Vec::new(),
        }
    }

    /// The major of the `pg_dump` that made it, where it says so.
    #[must_use]
    pub fn maker(&self) -> Option<u32> {
        let version = self.toc.as_ref().map(|toc| toc.dump_version.to_lossy());
        let version = version.or_else(|| Some(self.details.as_ref()?.client_version.clone()))?;
        version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    /// How many bytes there are to read, as far as that is known before.
    pub(super) async fn len(&self) -> Result<Option<u64>> {
        match &self.place {
            Place::Stored(dump) => Ok(Some(dump.list().await?.iter().map(|(_, len)| len).sum())),
            Place::File { path, recipe } if !recipe.is_wrapped() => {
                let (files, looked_at) = (self.world.files.clone(), path.clone());
                let found = self.world.blocking(move || files.attributes(&looked_at)).await;
                Ok(Some(found.map_err(Error::files("look at", path))?.len))
            }
            Place::File { .. } | Place::Directory(_) => Ok(None),
        }
    }

    /// The whole dump as one stream of bytes, as `pg_restore` or `psql` reads it; a directory has none.
    pub(super) async fn stream(&self) -> Result<Stream> {
        let parts = match &self.place {
            Place::Stored(dump) => {
                let part = |file: &str| Part::File(file.to_owned());
                let ahead = self.toc.as_ref().map_or_else(|| vec![part(SQL)], |toc| archive(toc, part(TOC)));
                Parts::Members { dump: Box::new(dump.clone()), ahead }
            }
            Place::File { path, recipe } => {
                let (files, opened) = (self.world.files.clone(), path.clone());
                let file =
                    self.world.blocking(move || files.open(&opened)).await.map_err(Error::files("open", path))?;
                let layers = if recipe.is_wrapped() { Some(recipe.layers()?) } else { None };
                let proof = self.outer_sha256.as_ref().map(|recorded| (recorded.clone(), Sha::new(&SHA256)));
                let name = self.name.clone();
                let opened = Opened { reader: file, layers, proof, name };
                Parts::File { file: Some(opened), path: path.clone(), offset: 0, ended: false }
            }
            Place::Directory(path) => {
                let what = format!("{} is a directory, and not one stream", path.display());
                return Err(Error::refused(what, "pg_restore reads it by itself"));
            }
        };
        Ok(self.stream_from(parts))
    }
}

impl Origin {
    fn stream_from(&self, parts: Parts) -> Stream {
        Stream { world: self.world.clone(), parts, current: None, news: None }
    }

    /// The data of an archive, without its table of contents.
    pub(super) fn data_of(&self, dump: &StoredDump, toc: &Toc) -> Stream {
        let ahead = archive(toc, Part::Bytes(Bytes::new()));
        self.stream_from(Parts::Members { dump: Box::new(dump.clone()), ahead })
    }

    /// An archive with these entries of a stored dump.
    pub(super) fn stream_of(&self, dump: &StoredDump, toc: &Toc) -> Stream {
        let ahead = archive(toc, Part::Bytes(toc.encode_custom().into()));
        self.stream_from(Parts::Members { dump: Box::new(dump.clone()), ahead })
    }
}

fn decoded(name: &str, format: ArchiveFormat, bytes: &[u8]) -> Result<Toc> {
    Toc::decode(format, bytes).map_err(|error| damaged(name, &error))
}

fn damaged(name: &str, error: &dyn std::error::Error) -> Error {
    Error::damaged(format!("{name} is no archive that can be read: {error}"), AGAIN)
}

async fn recipe(world: &World, path: &Path, secret: Option<&Secret>) -> Result<Recipe> {
    let (files, path, secret) = (world.files.clone(), path.to_owned(), secret.cloned());
    let look = move || {
        if files.attributes(&path).map_err(Error::files("read", &path))?.kind == FileKind::Directory {
            let what = format!("{} is a directory without a toc.dat", path.display());
            return Err(Error::refused(what, "name a dump in directory format, or a file"));
        }
        let file = files.open(&path).map_err(Error::files("read", &path))?;
        Recipe::of(&path, file.as_ref(), secret.as_ref())
    };
    world.blocking(look).await
}

/// A piece of what is read.
enum Part {
    Bytes(Bytes),
    File(String),
    /// The data of an entry, by its file, and what it is for people.
    Data(String, String),
}

/// The archive that was taken apart, last part first; `head` is its table of contents.
fn archive(toc: &Toc, head: Part) -> Vec<Part> {
    let data = with_data(toc);
    let data = data.flat_map(|entry| {
        [Part::Bytes(block_header(entry).to_vec().into()), Part::Data(file_of(entry), entry.tag.to_lossy())]
    });
    let mut parts: Vec<Part> = std::iter::once(head).chain(data).collect();
    parts.reverse();
    parts
}

/// The bytes of a dump.
pub(super) struct Stream {
    world: World,
    parts: Parts,
    current: Option<StoredFile>,
    /// What has begun since somebody asked.
    news: Option<String>,
}

enum Parts {
    Members { dump: Box<StoredDump>, ahead: Vec<Part> },
    File { file: Option<Opened>, path: PathBuf, offset: u64, ended: bool },
}

/// A file that is read.
struct Opened {
    reader: Box<dyn ReadFile>,
    layers: Option<Layers>,
    /// The digest that was recorded of its bytes, and what has been read of them.
    proof: Option<(String, Sha)>,
    name: String,
}

impl Opened {
    /// What is inside of the next bytes of the file.
    fn unwrapped(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        if let Some((_, sha)) = &mut self.proof {
            sha.update(&bytes);
        }
        let Some(layers) = &mut self.layers else { return Ok(bytes) };
        let mut plain = Vec::new();
        layers.push(&bytes, &mut plain)?;
        Ok(plain)
    }

    /// The last of what is inside, when nothing more is in the file: before it is handed on, the file is proven.
    fn finish(&mut self, plain: &mut Vec<u8>) -> Result<()> {
        if let Some((recorded, sha)) = &self.proof {
            held_against(&self.name, "sql", recorded, &hex::encode(sha.clone().finish()))?;
        }
        self.layers.as_mut().map_or(Ok(()), |layers| layers.finish(plain))
    }
}

fn held_against(name: &str, part: &str, recorded: &str, found: &str) -> Result<()> {
    if recorded == found {
        return Ok(());
    }
    let what = format!("{name} is not what was dumped: its {part} has another SHA-256 than was recorded");
    Err(Error::damaged(what, "take another copy of it, or dump again"))
}

impl Stream {
    /// The table whose data has begun, once.
    pub(super) fn news(&mut self) -> Option<String> {
        self.news.take()
    }

    /// The next bytes; `None` at the end, when everything was complete.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        match &self.parts {
            Parts::Members { .. } => self.next_of_members().await,
            Parts::File { .. } => self.next_of_file().await,
        }
    }

    async fn next_of_members(&mut self) -> Result<Option<Bytes>> {
        let Parts::Members { dump, ahead } = &mut self.parts else { return Ok(None) };
        loop {
            if let Some(file) = &mut self.current {
                if let Some(piece) = file.next().await? {
                    return Ok(Some(Bytes::from_owner(piece)));
                }
                self.current = None;
            }
            match ahead.pop() {
                None => return Ok(None),
                Some(Part::Bytes(bytes)) => return Ok(Some(bytes)),
                Some(Part::File(path)) => self.current = Some(dump.file(&path).await?),
                Some(Part::Data(path, name)) => {
                    self.current = Some(dump.file(&path).await?);
                    self.news = Some(name);
                }
            }
        }
    }

    async fn next_of_file(&mut self) -> Result<Option<Bytes>> {
        let Parts::File { file, path, offset, ended } = &mut self.parts else { return Ok(None) };
        while !*ended {
            let (mut opened, from) = (file.take().expect("one piece is read at a time"), *offset);
            let wanted = if opened.layers.is_some() { WRAPPED_LEN } else { PIECE_LEN };
            let work = move || {
                let mut bytes = vec![0; wanted];
                let read = opened.reader.read_at(from, &mut bytes);
                bytes.truncate(*read.as_ref().unwrap_or(&0));
                let plain = opened.unwrapped(bytes);
                (opened, read, plain)
            };
            let (opened, read, plain) = self.world.blocking(work).await;
            let opened = file.insert(opened);
            let read = read.map_err(Error::files("read", &*path))?;
            (*ended, *offset) = (read < wanted, *offset + read as u64);
            let mut plain = plain?;
            if *ended {
                opened.finish(&mut plain)?;
            }
            if !plain.is_empty() {
                return Ok(Some(plain.into()));
            }
        }
        Ok(None)
    }
}
