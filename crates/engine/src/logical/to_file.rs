//! Dumps into files: as the stock programs write them, but under another name until they are whole.
//!
//! A custom archive comes through us, so it is decoded while it is written, and gets what `pg_dump` leaves out when it cannot
//! seek: the place of each table's data, by which `pg_restore --jobs` and `--table` find it. Beside the dump lies what is known
//! of it (`NAME.json`), with digests, because an archive that is not compressed has no checksums of its own.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use asof_postgres::archive::stream::{Depth, Summary};
use asof_postgres::archive::toc::Place;
use asof_world::{Files, World, WriteFile, WriteMode};
use aws_lc_rs::digest::{Context as Sha, SHA256};

use super::dump::{DumpRequest, Dumped, Plan, ended, pump};
use super::outcome::Contents;
use super::record::Format;
use super::script::Script;
use super::watched::Watched;
use crate::error::{Error, Result};
use crate::progress::Observer;

/// Files that are being written under names that nobody takes for a dump.
pub(super) struct Making {
    world: World,
    path: PathBuf,
    pub(super) partial: PathBuf,
    /// Files beside the dump: as they are called now, and then.
    beside: Vec<(PathBuf, PathBuf)>,
    pub(super) digests: BTreeMap<String, String>,
    published: bool,
}

/// Begins what will have this name.
pub(super) async fn begin(world: &World, path: &Path) -> Result<Making> {
    refuse_unusable(world, path).await?;
    Ok(Making {
        world: world.clone(),
        path: path.to_owned(),
        partial: partial(path, &world.id().to_string()[..8]),
        beside: Vec::new(),
        digests: BTreeMap::new(),
        published: false,
    })
}

/// Refuses a name that no file can get, and what is there already.
pub(super) async fn refuse_unusable(world: &World, path: &Path) -> Result<()> {
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        let what = format!("{} names a directory, and there is none", path.display());
        return Err(Error::refused(what, "make the directory first, or leave the slash out"));
    }
    let above = parent(path);
    let (files, looked_at) = (world.files.clone(), above.to_owned());
    match world.blocking(move || files.attributes(&looked_at)).await {
        Ok(found) if found.kind == asof_world::FileKind::Directory => {}
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(Error::files("look at", above)(error));
        }
        Ok(_) | Err(_) => {
            let what = format!("there is no directory {}", above.display());
            return Err(Error::refused(what, format!("make it, and {} can be written into it", path.display())));
        }
    }
    for path in [path.to_owned(), beside(path, "json"), beside(path, "globals.sql")] {
        let (files, looked_at) = (world.files.clone(), path.clone());
        if world.blocking(move || files.exists(&looked_at)).await.map_err(Error::files("look at", &path))? {
            let what = format!("{} exists already", path.display());
            return Err(Error::refused(what, "a dump never overwrites anything: name another file"));
        }
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `.NAME.1a2b3c4d.partial` in the same directory.
fn partial(path: &Path, id: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or(OsStr::new("dump")));
    name.push(format!(".{id}.partial"));
    path.with_file_name(name)
}

/// The file beside a dump with this ending more.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{ending}"));
    path.with_file_name(name)
}

impl Making {
    /// Writes a small file beside the dump.
    pub(super) async fn add(&mut self, ending: &str, bytes: &[u8]) -> Result<()> {
        let (now, then) = (beside(&self.partial, ending), beside(&self.path, ending));
        let mut file = FileWriter::create(&self.world, &now).await?;
        self.beside.push((now, then));
        file.write(bytes.to_vec()).await?;
        file.end(None).await
    }

    pub(super) fn digests(&self) -> BTreeMap<String, String> {
        self.digests.clone()
    }

    /// Gives everything its name, the dump last. Returns the names, the dump first.
    pub(super) async fn publish(mut self) -> Result<Vec<PathBuf>> {
        let mut names = vec![(self.partial.clone(), self.path.clone())];
        names.append(&mut self.beside);
        let (files, moved) = (self.world.files.clone(), names.clone());
        let publish = move || give_names(files.as_ref(), &moved);
        self.world.blocking(publish).await.inspect_err(|_| self.beside = names[1..].to_vec())?;
        self.published = true;
        Ok(names.into_iter().map(|(_, then)| then).collect())
    }
}

/// All names or none: a record without its dump would be in the way of the next one.
fn give_names(files: &dyn Files, names: &[(PathBuf, PathBuf)]) -> Result<()> {
    let mut named = Vec::new();
    let given = names.iter().rev().try_for_each(|(now, then)| give_name(files, now, then, &mut named));
    if given.is_err() {
        // The reason counts for more than whether this works; what is left is named by the next dump, which refuses it.
        for then in named {
            let _ = files.remove_file(&then).or_else(|_| files.remove_tree(&then));
        }
    }
    given
}

/// A name that was free: a link fails where a rename would overwrite.
fn give_name(files: &dyn Files, now: &Path, then: &Path, named: &mut Vec<PathBuf>) -> Result<()> {
    let is_directory =
        files.attributes(now).map_err(Error::files("look at", now))?.kind == asof_world::FileKind::Directory;
    let given = match is_directory {
        true => files.sync_tree(now).and_then(|()| files.rename(now, then)),
        false => files.link(now, then),
    };
    given.map_err(Error::files("give its name to", then))?;
    named.push(then.to_owned());
    if !is_directory {
        files.remove_file(now).map_err(Error::files("remove", now))?;
    }
    let parent = parent(then);
    files.sync_dir(parent).map_err(Error::files("sync", parent))
}

impl Drop for Making {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        // What cannot be removed is left under a name that says what it is.
        let is_directory = self.world.files.attributes(&self.partial).map(|found| found.kind);
        let _ = match is_directory {
            Ok(asof_world::FileKind::Directory) => self.world.files.remove_tree(&self.partial),
            _ => self.world.files.remove_file(&self.partial),
        };
        for (now, _) in &self.beside {
            let _ = self.world.files.remove_file(now);
        }
    }
}

/// Makes the dump itself.
pub(super) async fn dump(
    plan: &Plan,
    making: &mut Making,
    request: &DumpRequest,
    observer: &dyn Observer,
) -> Result<Dumped> {
    match request.format {
        Format::Custom => custom(plan, making, request, observer).await,
        Format::Plain => plain(plan, making, request, observer).await,
        Format::Directory => super::to_directory::dump(plan, making, request, observer).await,
    }
}

pub(super) fn arguments(plan: &Plan, request: &DumpRequest, format: &str) -> Vec<OsString> {
    let mut arguments = plan.arguments(&request.selection);
    arguments.push(format!("--format={format}").into());
    arguments.extend(request.compress.iter().map(|compress| format!("--compress={compress}").into()));
    arguments
}

async fn custom(plan: &Plan, making: &mut Making, request: &DumpRequest, observer: &dyn Observer) -> Result<Dumped> {
    let mut file = FileWriter::create(&plan.world, &making.partial).await?;
    let arguments = arguments(plan, request, "custom");
    let mut running = plan.link.start(&plan.world, &plan.client, "pg_dump", arguments).await?;
    let (mut watched, mut toc, mut sha) = (Watched::new(&plan.world, Depth::Content), Vec::new(), Sha::new(&SHA256));
    let pumped = pump(&mut running.output, async |piece| {
        let piece = watched.look(piece).await?;
        watched.tell(observer);
        let in_toc = watched.toc_end().map_or(piece.len(), |end| {
            usize::try_from(end.saturating_sub(file.offset)).unwrap_or(piece.len()).min(piece.len())
        });
        toc.extend_from_slice(&piece[..in_toc]);
        sha.update(&piece[in_toc..]);
        file.write(piece).await
    });
    let pumped = pumped.await;
    let (bytes, remarks) = ended(running, pumped).await?;
    let summary = watched.finish()?;
    let placed = with_places(&summary, &toc);
    making.digests.insert("toc".to_owned(), sha256(placed.as_ref().unwrap_or(&toc)));
    making.digests.insert("data".to_owned(), hex::encode(sha.finish()));
    file.end(placed).await?;
    Ok(Dumped { contents: Contents::of(&[summary]), bytes, remarks })
}

/// The table of contents with the place of each block. It is as long as it was; nothing when it would not be the same otherwise.
fn with_places(summary: &Summary, toc: &[u8]) -> Option<Vec<u8>> {
    if summary.toc.encode_custom() != toc {
        return None;
    }
    let mut placed = summary.toc.clone();
    for block in &summary.blocks {
        let entry = placed.entries.iter_mut().find(|entry| entry.dump_id == block.dump_id)?;
        entry.place = Place::Offset(Some(block.range.start));
    }
    Some(placed.encode_custom()).filter(|placed| placed.len() == toc.len())
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&SHA256, bytes))
}

async fn plain(plan: &Plan, making: &mut Making, request: &DumpRequest, observer: &dyn Observer) -> Result<Dumped> {
    let mut file = FileWriter::create(&plan.world, &making.partial).await?;
    let arguments = arguments(plan, request, "plain");
    let mut running = plan.link.start(&plan.world, &plan.client, "pg_dump", arguments).await?;
    let (mut script, mut sha) = (Script::new(&plan.world), Sha::new(&SHA256));
    let pumped = pump(&mut running.output, async |piece| {
        let piece = script.look(piece).await?;
        script.tell(observer);
        sha.update(&piece);
        file.write(piece).await
    });
    let pumped = pumped.await;
    let (bytes, remarks) = ended(running, pumped).await?;
    making.digests.insert("sql".to_owned(), hex::encode(sha.finish()));
    let contents = script.finish()?;
    file.end(None).await?;
    Ok(Dumped { contents, bytes, remarks })
}

/// A file that is written from its beginning to its end.
pub(super) struct FileWriter {
    world: World,
    path: PathBuf,
    file: Option<Box<dyn WriteFile>>,
    offset: u64,
}

impl FileWriter {
    pub(super) async fn create(world: &World, path: &Path) -> Result<Self> {
        let (files, created) = (world.files.clone(), path.to_owned());
        let file = world.blocking(move || files.create(&created, 0o600, WriteMode::Cached)).await;
        let file = file.map_err(Error::files("create", path))?;
        Ok(Self { world: world.clone(), path: path.to_owned(), file: Some(file), offset: 0 })
    }

    /// Appends bytes, and gives them back.
    pub(super) async fn write(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let at = self.offset;
        let write = move |file: &mut dyn WriteFile| {
            file.write_at(at, &bytes)?;
            file.write_out(at, bytes.len() as u64);
            Ok(bytes)
        };
        let bytes = self.with_file(write).await?;
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }

    /// Makes it durable, its first bytes replaced by these.
    pub(super) async fn end(mut self, first: Option<Vec<u8>>) -> Result<()> {
        self.with_file(move |file| {
            first.map_or(Ok(()), |first| file.write_at(0, &first))?;
            file.sync()
        })
        .await
    }

    async fn with_file<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut dyn WriteFile) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut file = self.file.take().expect("a file is written by one caller");
        let work = move || {
            let result = work(file.as_mut());
            (file, result)
        };
        let (file, result) = self.world.blocking(work).await;
        self.file = Some(file);
        result.map_err(Error::files("write", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use asof_testkit::Workdir;

    use super::*;

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "the test looks at files")]
    async fn a_dump_that_cannot_get_its_name_leaves_nothing_and_takes_nothing_away() {
        let (work, world) = (Workdir::new("publish"), World::real());
        let path = work.path().join("x.dump");
        let mut making = begin(&world, &path).await.expect("the name is free");
        FileWriter::create(&world, &making.partial).await.expect("it is made").end(None).await.expect("it is written");
        making.add("json", b"{}").await.expect("it is written");
        // Somebody else was faster.
        std::fs::write(&path, "theirs").expect("it is written");
        let error = making.publish().await.expect_err("the name is taken").to_string();
        assert!(error.contains("x.dump"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "theirs");
        assert_eq!(std::fs::read_dir(work.path()).expect("it is listed").count(), 1);
    }

    #[tokio::test]
    async fn a_name_in_a_directory_that_is_not_there_is_refused_with_the_directory() {
        let (work, world) = (Workdir::new("publish"), World::real());
        let said = async |name: &str| begin(&world, &work.path().join(name)).await.err().map(|error| error.to_string());
        assert_eq!(said("x").await, None);
        let missing = said("none/x").await.expect("it is refused");
        assert!(missing.starts_with("there is no directory ") && missing.ends_with("/none"), "{missing}");
        let slash = said("trail/").await.expect("it is refused");
        assert!(slash.ends_with("/trail/ names a directory, and there is none"), "{slash}");
    }
}
