//! Dumps in directory format: `pg_dump` writes the files itself, several at once; each is decoded when it has ended.

use std::path::{Path, PathBuf};

use asof_postgres::archive::Compression;
use asof_postgres::archive::directory::{self, DataFileDecoder, MemberKind, TOC_FILE, members, parse_large_objects};
use asof_postgres::archive::toc::{ArchiveFormat, Toc};
use asof_world::Files;
use aws_lc_rs::digest::{Context as Sha, SHA256};
use futures::future::join;

use super::dump::{DumpRequest, Dumped, Plan};
use super::members::TOC_LIMIT;
use super::outcome::Contents;
use super::record::TableRecord;
use super::said::tell;
use super::to_file::{Making, arguments, sha256};
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};

const PIECE_LEN: usize = 4 << 20;

pub(super) async fn dump(
    plan: &Plan,
    making: &mut Making,
    request: &DumpRequest,
    observer: &dyn Observer,
) -> Result<Dumped> {
    let mut arguments = arguments(plan, request, "directory");
    arguments.push(format!("--jobs={}", request.jobs.max(1)).into());
    let mut file = std::ffi::OsString::from("--file=");
    file.push(&making.partial);
    arguments.push(file);
    let (running, said) = plan.link.start_verbose(&plan.world, &plan.client, "pg_dump", arguments).await?;
    let sizes = plan.known.iter().map(|table| ((table.schema.as_str(), table.name.as_str()), table.bytes));
    let ((), remarks) = join(tell(said, sizes, request.jobs.max(1), observer), running.end()).await;
    let remarks = remarks?;
    observer.event(Event::Phase("reading it back"));
    let (files, directory) = (plan.world.files.clone(), making.partial.clone());
    let read = plan.world.blocking(move || read_back(files.as_ref(), &directory)).await?;
    making.digests.extend(read.digests);
    Ok(Dumped { contents: read.contents, bytes: read.bytes, remarks })
}

/// What the files of a directory turned out to be.
pub(super) struct ReadBack {
    pub(super) contents: Contents,
    pub(super) bytes: u64,
    /// SHA-256 by name.
    pub(super) digests: Vec<(String, String)>,
}

/// Reads and decodes every file that the table of contents promises.
pub(super) fn read_back(files: &dyn Files, directory: &Path) -> Result<ReadBack> {
    let path = directory.join(TOC_FILE);
    let toc = files.read(&path, TOC_LIMIT).map_err(Error::files("read", &path))?;
    let mut read = ReadBack {
        contents: Contents::default(),
        bytes: toc.len() as u64,
        digests: vec![(TOC_FILE.to_owned(), sha256(&toc))],
    };
    let toc = Toc::decode(ArchiveFormat::Directory, &toc).map_err(|error| damaged(&path, &error))?;
    for member in members(&toc) {
        let (path, compression) = find(files, directory, &member.name)?;
        match member.kind {
            MemberKind::LargeObjectList => read.large_objects(files, directory, &path)?,
            kind => {
                let found = read.file(files, &path, kind, compression)?;
                let entry = toc.entry(member.dump_id).expect("a member belongs to an entry");
                let record = TableRecord::named(entry.schema(), entry.tag.as_bytes(), found.rows, found.plain_bytes);
                read.contents.tables.push((entry.object_oid, record));
            }
        }
    }
    Ok(read)
}

impl ReadBack {
    fn large_objects(&mut self, files: &dyn Files, directory: &Path, list: &Path) -> Result<()> {
        let content = files.read(list, TOC_LIMIT).map_err(Error::files("read", list))?;
        self.bytes += content.len() as u64;
        self.digests.push((name_of(list), sha256(&content)));
        for object in parse_large_objects(&content).map_err(|error| damaged(list, &error))? {
            let (path, compression) = find(files, directory, &object.name)?;
            self.file(files, &path, MemberKind::Data, compression)?;
            self.contents.large_objects += 1;
        }
        Ok(())
    }

    fn file(
        &mut self,
        files: &dyn Files,
        path: &Path,
        kind: MemberKind,
        compression: Compression,
    ) -> Result<directory::FileSummary> {
        let file = files.open(path).map_err(Error::files("open", path))?;
        let mut decoder = DataFileDecoder::new(kind, compression).map_err(|error| damaged(path, &error))?;
        let (mut offset, mut buffer, mut sha) = (0, vec![0; PIECE_LEN], Sha::new(&SHA256));
        loop {
            let read = file.read_at(offset, &mut buffer).map_err(Error::files("read", path))?;
            if read == 0 {
                break;
            }
            sha.update(&buffer[..read]);
            decoder.push(&buffer[..read], &mut |_| {}).map_err(|error| damaged(path, &error))?;
            offset += read as u64;
        }
        self.bytes += offset;
        self.digests.push((name_of(path), hex::encode(sha.finish())));
        decoder.finish().map_err(|error| damaged(path, &error))
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The file of this name, with whatever suffix its compression gives it.
fn find(files: &dyn Files, directory: &Path, name: &str) -> Result<(PathBuf, Compression)> {
    for compression in directory::COMPRESSIONS {
        let path = directory.join(format!("{name}{}", compression.suffix()));
        if files.exists(&path).map_err(Error::files("look at", &path))? {
            return Ok((path, compression));
        }
    }
    let what = format!("{} is missing, although the table of contents promises it", directory.join(name).display());
    Err(Error::damaged(what, "dump again, or take another copy"))
}

fn damaged(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::damaged(format!("{} cannot be read: {error}", path.display()), "dump again, or take another copy")
}
