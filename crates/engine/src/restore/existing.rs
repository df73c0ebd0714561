//! Restoring over a data directory that is there: what is right already is left alone, page by page.
//!
//! Nothing about a page is believed but its content: each is read and its hash compared with the backup's. The directory is
//! made unable to start first (marker, then `pg_control` goes), and everything that the backup does not know is removed;
//! links are removed, never followed, so that nothing outside of the directory is read or written.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use asof_postgres::control::ControlFile;
use asof_repository::keyring::PageHasher;
use asof_repository::map::MapFile;
use asof_world::{FileKind, Files};

use super::survey::Survey;
use super::{MARKER, is_ours};
use crate::backup::known::Known;
use crate::error::{Error, Result};

/// Refuses a directory that is not the stopped instance whose backup is restored.
pub(super) fn check(files: &dyn Files, root: &Path, system_identifier: u64) -> Result<()> {
    let path = root.join("global/pg_control");
    let refuse = |why: String| {
        let what = format!("{} cannot be restored over: {why}", root.display());
        Error::refused(what, "give a directory that does not exist yet, and leave out --delta")
    };
    let bytes = files.read(&path, 1 << 16).map_err(|error| refuse(format!("it has no pg_control ({error})")))?;
    let control = ControlFile::parse(&bytes).map_err(|error| refuse(error.to_string()))?;
    if control.system_identifier == system_identifier {
        return Ok(());
    }
    Err(refuse(format!("it is another instance (system identifier {})", control.system_identifier)))
}

/// Makes the directory unable to start, and removes what the backup does not have or the restore writes itself.
pub(super) fn clear(files: &dyn Files, root: &Path, survey: &Survey) -> Result<()> {
    let control = root.join("global/pg_control");
    match files.remove_file(&control) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::files("remove", &control)(error));
        }
        _ => {}
    }
    clear_directory(files, root, &[], survey)
}

fn clear_directory(files: &dyn Files, root: &Path, directory: &[u8], survey: &Survey) -> Result<()> {
    let kept = |path: &[u8]| survey.files.contains(path) && !is_ours(path);
    let full = |path: &[u8]| -> PathBuf { root.join(std::ffi::OsStr::from_bytes(path)) };
    let here = full(directory);
    for entry in files.list(&here).map_err(Error::files("list", &here))? {
        let name = entry.name.as_bytes();
        let path = if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() };
        let place = full(&path);
        let result = match entry.kind {
            FileKind::Directory if survey.directories.contains(&path) => {
                clear_directory(files, root, &path, survey)?;
                Ok(())
            }
            FileKind::Directory => files.remove_tree(&place),
            FileKind::File if kept(&path) || path == MARKER.as_bytes() => Ok(()),
            _ => files.remove_file(&place),
        };
        result.map_err(Error::files("remove", &place))?;
    }
    Ok(())
}

/// The pages of a window that are not what the backup has, given what is there now.
pub(super) fn wrong_pages(
    file: &MapFile,
    first: u32,
    there: &[u8],
    wanted: usize,
    page_size: usize,
    known: &[Known],
    hasher: &PageHasher,
) -> Vec<usize> {
    let pages = wanted.div_ceil(page_size);
    let right = |at: usize| {
        let end = ((at + 1) * page_size).min(wanted);
        let Some(page) = there.get(at * page_size..end) else { return false };
        match known.get(at) {
            Some(Known::Zero) => page.iter().all(|byte| *byte == 0),
            Some(Known::Stored { hash, .. }) => {
                let block = first + u32::try_from(at).expect("a window has few pages");
                hasher.hash(block, page) == *hash
            }
            _ => false,
        }
    };
    debug_assert!(u64::from(first) * page_size as u64 <= file.len, "a window lies in its file");
    (0..pages).filter(|at| !right(*at)).collect()
}
