//! The PostgreSQL majors we understand, how each names itself, and what a base backup of each leaves out.
//!
//! A server names its major in five places: `server_version_num`, `PG_VERSION`, the catalogue version, the version of
//! `pg_control` and the magic number of WAL pages. The last two may be shared by several majors or by none, so every mapping
//! here is explicit. Numbers: `catalog/catversion.h`, `catalog/pg_control.h`, `access/xlog_internal.h` of each release branch;
//! the fixtures in `testdata/` hold each against a server of that major.

use std::fmt;

/// A supported major version of PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Major {
    /// PostgreSQL 13.
    V13,
    /// PostgreSQL 14.
    V14,
    /// PostgreSQL 15.
    V15,
    /// PostgreSQL 16.
    V16,
    /// PostgreSQL 17.
    V17,
    /// PostgreSQL 18.
    V18,
}

/// A version that is not one of [`Major::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// From `server_version_num`.
    #[error("PostgreSQL with server_version_num {0} is not supported (13 to 18 are)")]
    ServerVersionNum(i64),
    /// From a `PG_VERSION` file.
    #[error("PG_VERSION {0:?} does not name a supported PostgreSQL (13 to 18)")]
    PgVersion(String),
    /// From `pg_control` or the name of a tablespace directory.
    #[error("catalogue version {0} is not that of a PostgreSQL release from 13 to 18")]
    CatalogVersion(u32),
}

impl Major {
    /// Every supported major, oldest first.
    pub const ALL: [Self; 6] = [Self::V13, Self::V14, Self::V15, Self::V16, Self::V17, Self::V18];

    /// The number as PostgreSQL writes it: 13 to 18.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::V13 => 13,
            Self::V14 => 14,
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }

    /// From the bare number, such as 15.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|major| major.number() == number)
    }

    /// From `SHOW server_version_num`, such as 150008.
    pub fn from_server_version_num(number: i64) -> Result<Self, VersionError> {
        let major = u32::try_from(number / 10_000).ok().and_then(Self::from_number);
        major.ok_or(VersionError::ServerVersionNum(number))
    }

    /// From the content of a `PG_VERSION` file: the number and a newline.
    pub fn from_pg_version(text: &[u8]) -> Result<Self, VersionError> {
        let line = text.strip_suffix(b"\n").unwrap_or(text);
        let known = Self::ALL.into_iter().find(|major| major.number().to_string().as_bytes() == line);
        known.ok_or_else(|| VersionError::PgVersion(String::from_utf8_lossy(&text[..text.len().min(32)]).into_owned()))
    }

    /// From the catalogue version of a release (betas have others, and are refused).
    pub fn from_catalog_version(number: u32) -> Result<Self, VersionError> {
        let known = Self::ALL.into_iter().find(|major| major.catalog_version() == number);
        known.ok_or(VersionError::CatalogVersion(number))
    }

    /// `CATALOG_VERSION_NO`; it never changes after a major's release. It tells majors apart where
    /// [`Self::control_version`] does not, and names a tablespace's directory: `PG_15_202209061`.
    #[must_use]
    pub const fn catalog_version(self) -> u32 {
        match self {
            Self::V13 => 202_007_201,
            Self::V14 => 202_107_181,
            Self::V15 => 202_209_061,
            Self::V16 => 202_307_071,
            Self::V17 => 202_406_281,
            Self::V18 => 202_506_291,
        }
    }

    /// `PG_CONTROL_VERSION`: the layout of `pg_control`. 13 to 16 share one.
    #[must_use]
    pub const fn control_version(self) -> u32 {
        match self {
            Self::V13 | Self::V14 | Self::V15 | Self::V16 => 1300,
            Self::V17 => 1700,
            Self::V18 => 1800,
        }
    }

    /// `XLOG_PAGE_MAGIC`: the first two bytes of every WAL page.
    #[must_use]
    pub const fn wal_page_magic(self) -> u16 {
        match self {
            Self::V13 => 0xD106,
            Self::V14 => 0xD10D,
            Self::V15 => 0xD110,
            Self::V16 => 0xD113,
            Self::V17 => 0xD116,
            Self::V18 => 0xD118,
        }
    }

    /// The major whose WAL pages start with `magic`.
    #[must_use]
    pub fn from_wal_page_magic(magic: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|major| major.wal_page_magic() == magic)
    }

    /// `TABLESPACE_VERSION_DIRECTORY`: the only directory below a tablespace that belongs to this major.
    #[must_use]
    pub fn tablespace_directory(self) -> String {
        format!("PG_{}_{}", self.number(), self.catalog_version())
    }
}

impl fmt::Display for Major {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

/// Why a base backup leaves a file or the content of a directory out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Excluded {
    /// The content is removed or rebuilt when the server starts; the directory itself is kept, empty.
    DirectoryContent,
    /// WAL is backed up as WAL. `pg_wal` and `pg_wal/archive_status` are kept, empty.
    Wal,
    /// The file belongs to the running server, or to the backup this instance was once restored from.
    ServerFile,
    /// A temporary file or directory of queries (`pgsql_tmp…`).
    QueryTemporary,
}

impl fmt::Display for Excluded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DirectoryContent => "emptied or rebuilt when the server starts",
            Self::Wal => "WAL, which is backed up as WAL",
            Self::ServerFile => "belongs to the running server or to an earlier backup",
            Self::QueryTemporary => "temporary file of a query",
        })
    }
}

/// Directories in the data directory whose content is left out. The server compares the bare name at any depth; we do so at the top
/// level only, where alone it creates them, and rather copy a stranger of the same name.
///
/// `excludeDirContents[]` in `backend/replication/basebackup.c` (13, 14) and `backend/backup/basebackup.c` (15 to 18): the same
/// seven in each. Before 15 a server also skips a `stats_temp_directory` that was configured elsewhere inside the data directory;
/// such a file is harmless in a backup, because the server removes it when it starts.
pub const EXCLUDED_DIRECTORY_CONTENTS: [&str; 7] =
    ["pg_stat_tmp", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans"];

/// Files left out at any depth, by exact name. `excludeFiles[]` in the same sources, equal in 13 to 18; and `.DS_Store`, which
/// the minor releases since early 2024 skip on every branch.
pub const EXCLUDED_FILES: [&str; 8] = [
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label",
    "tablespace_map",
    "backup_manifest",
    "postmaster.pid",
    "postmaster.opts",
    ".DS_Store",
];

/// Files left out at any depth, by the beginning of their name: the relation cache and its temporary files
/// (`RELCACHE_INIT_FILENAME`, prefix match in `excludeFiles[]`).
pub const EXCLUDED_FILE_PREFIX: &str = "pg_internal.init";

/// Query temporaries, files and directories, at any depth (`PG_TEMP_FILE_PREFIX`, `storage/fd.h`).
pub const QUERY_TEMPORARY_PREFIX: &str = "pgsql_tmp";

/// Says whether the server's own base backup of this major leaves `path` out, and why; `path` is relative to the data directory,
/// with `/` between components and without a leading one.
///
/// Temporary and unlogged relations are a matter of relation names: see [`crate::names`]. `pg_control` is not excluded; it is read last.
/// A directory named in [`EXCLUDED_DIRECTORY_CONTENTS`] is itself not excluded, only what lies in it.
#[must_use]
pub fn excluded_from_backup(major: Major, path: &[u8]) -> Option<Excluded> {
    // One rule for all six: the lists were compared and are equal. The parameter stays, so that a major that differs gets an arm.
    match major {
        Major::V13 | Major::V14 | Major::V15 | Major::V16 | Major::V17 | Major::V18 => {}
    }
    let mut components = path.split(|byte| *byte == b'/');
    let first = components.next().unwrap_or_default();
    let below_first = components.clone().next().is_some();
    if below_first && EXCLUDED_DIRECTORY_CONTENTS.iter().any(|name| name.as_bytes() == first) {
        return Some(Excluded::DirectoryContent);
    }
    if below_first && first == b"pg_wal" {
        let status_directory = path == b"pg_wal/archive_status";
        return if status_directory { None } else { Some(Excluded::Wal) };
    }
    std::iter::once(first).chain(components).find_map(excluded_component)
}

fn excluded_component(name: &[u8]) -> Option<Excluded> {
    if name.starts_with(QUERY_TEMPORARY_PREFIX.as_bytes()) {
        return Some(Excluded::QueryTemporary);
    }
    let server_file = name.starts_with(EXCLUDED_FILE_PREFIX.as_bytes())
        || EXCLUDED_FILES.iter().any(|excluded| excluded.as_bytes() == name);
    server_file.then_some(Excluded::ServerFile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_major_is_found_by_each_of_its_names() {
        for major in Major::ALL {
            let number = i64::from(major.number());
            assert_eq!(Major::from_server_version_num(number * 10_000 + 7), Ok(major));
            assert_eq!(Major::from_pg_version(format!("{number}\n").as_bytes()), Ok(major));
            assert_eq!(Major::from_catalog_version(major.catalog_version()), Ok(major));
            assert_eq!(Major::from_wal_page_magic(major.wal_page_magic()), Some(major));
        }
        assert_eq!(Major::V15.tablespace_directory(), "PG_15_202209061");
    }

    #[test]
    fn unknown_versions_are_named_in_the_error() {
        assert_eq!(Major::from_server_version_num(120_022), Err(VersionError::ServerVersionNum(120_022)));
        assert_eq!(Major::from_server_version_num(190_000), Err(VersionError::ServerVersionNum(190_000)));
        assert_eq!(Major::from_server_version_num(-130_000), Err(VersionError::ServerVersionNum(-130_000)));
        assert_eq!(Major::from_catalog_version(0), Err(VersionError::CatalogVersion(0)));
        for text in ["", "\n", "9.6\n", "15.2\n", "015\n", "15\n\n", " 15", "\u{fe}"] {
            assert!(Major::from_pg_version(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_base_backup_leaves_out_what_the_server_leaves_out() {
        let check = |path: &str, expect: Option<Excluded>| {
            for major in Major::ALL {
                assert_eq!(excluded_from_backup(major, path.as_bytes()), expect, "{path}");
            }
        };
        for directory in EXCLUDED_DIRECTORY_CONTENTS {
            check(directory, None);
            check(&format!("{directory}/0000"), Some(Excluded::DirectoryContent));
            check(&format!("{directory}/a/b"), Some(Excluded::DirectoryContent));
            check(&format!("base/1/{directory}"), None);
        }
        check("pg_wal", None);
        check("pg_wal/archive_status", None);
        check("pg_wal/archive_status/000000010000000000000001.ready", Some(Excluded::Wal));
        check("pg_wal/000000010000000000000001", Some(Excluded::Wal));
        check("pg_wal/summaries/x.summary", Some(Excluded::Wal));
        check("postmaster.pid", Some(Excluded::ServerFile));
        check("postmaster.pid.old", None);
        check("backup_label", Some(Excluded::ServerFile));
        check("backup_label.old", None);
        check("postgresql.auto.conf", None);
        check("postgresql.auto.conf.tmp", Some(Excluded::ServerFile));
        check("base/16384/pg_internal.init", Some(Excluded::ServerFile));
        check("global/pg_internal.init.4711", Some(Excluded::ServerFile));
        check("base/pgsql_tmp", Some(Excluded::QueryTemporary));
        check("base/pgsql_tmp/pgsql_tmp123.0", Some(Excluded::QueryTemporary));
        check("pg_tblspc/16400/PG_15_202209061/pgsql_tmp/x", Some(Excluded::QueryTemporary));
        check("global/pg_control", None);
        check("base/16384/1259", None);
        check("PG_VERSION", None);
        check("", None);
    }
}
