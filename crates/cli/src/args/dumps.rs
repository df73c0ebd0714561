//! The arguments of what is about dumps and comparisons.

use std::path::PathBuf;

use asof_postgres::pattern::Pattern;
use clap::{Args, ValueEnum};

#[derive(Args)]
pub(crate) struct Dump {
    /// The instance; may be left out when there is only one.
    #[arg(conflicts_with = "pg")]
    pub(crate) instance: Option<String>,
    /// A server that is not configured: a connection string or URI. The dump goes into a file.
    #[arg(long, value_name = "CONNINFO")]
    pub(crate) pg: Option<String>,
    /// The database [default: that of the connection string].
    #[arg(long, short, value_name = "NAME")]
    pub(crate) database: Option<String>,
    /// Into this file or directory instead of the repository [default: DATABASE_YYYYMMDD_HHMMSS here, ending in .dump, .dir or .sql].
    #[arg(long, value_name = "PATH", num_args = 0..=1)]
    pub(crate) out: Option<Option<PathBuf>>,
    /// How it is laid out.
    #[arg(long, short = 'F', value_enum, default_value_t = DumpFormat::Custom)]
    pub(crate) format: DumpFormat,
    /// The backup's name [default: INSTANCE-DATABASE-dump-YYYYMMDD-HHMMSS].
    #[arg(long, conflicts_with_all = ["out", "pg"])]
    pub(crate) name: Option<String>,
    /// A tag of the backup; may be given more than once.
    #[arg(long = "tag", value_name = "KEY=VALUE", conflicts_with_all = ["out", "pg"])]
    pub(crate) tags: Vec<String>,
    /// Roles and tablespaces too.
    #[arg(long)]
    pub(crate) globals: bool,
    /// Definitions and no rows.
    #[arg(long, short, conflicts_with = "data_only")]
    pub(crate) schema_only: bool,
    /// Rows and no definitions.
    #[arg(long, short = 'a')]
    pub(crate) data_only: bool,
    /// Only tables that match; may be given more than once, as the following.
    #[arg(long, short, value_name = "PATTERN")]
    pub(crate) table: Vec<String>,
    /// No tables that match.
    #[arg(long, short = 'T', value_name = "PATTERN")]
    pub(crate) exclude_table: Vec<String>,
    /// Only schemas that match.
    #[arg(long, short = 'n', value_name = "PATTERN")]
    pub(crate) schema: Vec<String>,
    /// No schemas that match.
    #[arg(long, short = 'N', value_name = "PATTERN")]
    pub(crate) exclude_schema: Vec<String>,
    /// No rows of tables that match.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude_table_data: Vec<String>,
    /// How a file is compressed, as pg_dump takes it: 0 to 9, or a method as in `gzip:6`. The repository compresses by itself.
    #[arg(long, short = 'Z', value_name = "METHOD")]
    pub(crate) compress: Option<String>,
    /// Processes that dump at once: into the repository a whole database, into a file only --format directory.
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: u8,
    /// Where PostgreSQL's programs are.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) bindir: Option<PathBuf>,
    /// Print what would be dumped, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DumpFormat {
    /// One archive for pg_restore.
    #[value(alias = "c")]
    Custom,
    /// A directory with a file for each table, for pg_restore.
    #[value(alias = "d")]
    Directory,
    /// SQL for psql.
    #[value(alias = "p")]
    Plain,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnConflict {
    /// Refuse when one of them has rows.
    Fail,
    /// Leave rows whose key exists, put the others back.
    Skip,
    /// Replace their rows by those of the dump.
    Replace,
}

#[derive(Args)]
pub(crate) struct Load {
    /// A logical backup (name or id), or the path of a dump.
    #[arg(value_name = "DUMP|PATH")]
    pub(crate) dump: String,
    /// The instance that has the backup; may be left out when there is only one.
    #[arg(long)]
    pub(crate) instance: Option<String>,
    /// Into a database that exists: INSTANCE/DATABASE, or a connection string or URI.
    #[arg(long, value_name = "TARGET")]
    pub(crate) into: Option<String>,
    /// Into a new database with this name.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["into", "replace", "no_safety_dump", "yes"])]
    pub(crate) new_database: Option<String>,
    /// The server of the new database: an instance, or a connection string [default: the instance of the backup].
    #[arg(long, value_name = "INSTANCE|CONNINFO", requires = "new_database")]
    pub(crate) on: Option<String>,
    /// Replace the database of --into, when the load is whole and after a safety dump.
    #[arg(long, requires = "into")]
    pub(crate) replace: bool,
    /// Make no safety dump before --replace.
    #[arg(long, requires = "replace")]
    pub(crate) no_safety_dump: bool,
    /// Do not ask before --replace; the name of the database, to be sure.
    #[arg(long, value_name = "DATABASE", requires = "replace")]
    pub(crate) yes: Option<String>,
    /// Only tables that match, with their indexes, constraints, sequences, triggers, privileges; may be given more than once.
    #[arg(long, short, value_name = "PATTERN", conflicts_with = "replace")]
    pub(crate) table: Vec<String>,
    /// What happens to tables of --table that exist already.
    #[arg(long, value_enum, default_value_t = OnConflict::Fail, requires = "table")]
    pub(crate) on_conflict: OnConflict,
    /// Let no trigger of tables that exist run while their rows are loaded.
    #[arg(long, requires = "table")]
    pub(crate) disable_triggers: bool,
    /// Leave the owner of everything as whoever loads.
    #[arg(long, short = 'O')]
    pub(crate) no_owner: bool,
    /// Leave privileges out, and the settings that roles have in the database.
    #[arg(long, short = 'x')]
    pub(crate) no_privileges: bool,
    /// Leave tablespaces out.
    #[arg(long)]
    pub(crate) no_tablespaces: bool,
    /// The locale of a new database [default: that of the dump].
    #[arg(long)]
    pub(crate) locale: Option<String>,
    /// Do not gather statistics afterwards.
    #[arg(long)]
    pub(crate) no_analyze: bool,
    /// A file with the password of a dump that openssl enc encrypted.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Processes that load at once.
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: u8,
    /// Where PostgreSQL's programs are.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) bindir: Option<PathBuf>,
    /// Print what was checked, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Export {
    /// The logical backup: name, id, or the first six or more digits of the id.
    pub(crate) dump: String,
    /// A file that does not exist, or an object in a bucket: s3://BUCKET/PREFIX/NAME.
    #[arg(long, value_name = "PATH|URL")]
    pub(crate) to: String,
    /// The instance; may be left out when there is only one.
    #[arg(long)]
    pub(crate) instance: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Compare {
    /// The first side: a connection string or URI, an instance, INSTANCE/DATABASE, the path of a dump, or a logical backup.
    pub(crate) a: String,
    /// The second side.
    pub(crate) b: String,
    /// The database of servers, unless a side is INSTANCE/DATABASE.
    #[arg(long)]
    pub(crate) database: Option<String>,
    /// Compare only these tables, views and sequences, such as public.order*; may be given more than once.
    #[arg(long = "table", value_name = "PATTERN")]
    pub(crate) tables: Vec<Pattern>,
    /// Do not compare these; may be given more than once.
    #[arg(long = "exclude-table", value_name = "PATTERN")]
    pub(crate) exclude_tables: Vec<Pattern>,
    /// Compare about one row of so many in large tables with a key, the same on both sides.
    #[arg(long, value_name = "ONE_IN", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) sample: Option<u32>,
    /// Tables that are compared at once.
    #[arg(long, short, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: u8,
    /// Compare roles, their memberships and settings, too.
    #[arg(long, conflicts_with = "data_only")]
    pub(crate) roles: bool,
    /// Compare who owns what, too.
    #[arg(long, conflicts_with = "data_only")]
    pub(crate) owners: bool,
    /// Compare descriptions only.
    #[arg(long, conflicts_with_all = ["data_only", "sample"])]
    pub(crate) schema_only: bool,
    /// Compare rows, sequences and large objects only.
    #[arg(long)]
    pub(crate) data_only: bool,
    /// The instance that has the backup; may be left out when there is only one.
    #[arg(long)]
    pub(crate) instance: Option<String>,
    /// A file with the password of a dump that openssl enc encrypted.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Where PostgreSQL's programs are, for a dump.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) bindir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Verify {
    /// A logical backup (name or id), or the path of a dump.
    #[arg(long, value_name = "DUMP|PATH")]
    pub(crate) dump: String,
    /// The instance that has the backup; may be left out when there is only one.
    #[arg(long)]
    pub(crate) instance: Option<String>,
    /// A file with the password of a dump that openssl enc encrypted.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Drill {
    /// A logical backup (name or id), or the path of a dump.
    #[arg(long, value_name = "DUMP|PATH", required_unless_present = "practical", conflicts_with = "practical")]
    pub(crate) dump: Option<String>,
    /// Dump a database of this server now, drill that dump, and compare the contents of both; nothing is kept.
    #[arg(long, value_name = "INSTANCE|CONNINFO", conflicts_with_all = ["instance", "password_file"])]
    pub(crate) practical: Option<String>,
    /// The database of --practical [default: that of the connection string].
    #[arg(long, short, value_name = "NAME", requires = "practical")]
    pub(crate) database: Option<String>,
    /// The instance that has the backup, which may be left out when there is only one; of a file, the one whose checks count.
    #[arg(long)]
    pub(crate) instance: Option<String>,
    /// Run only this check of asof.toml; may be given more than once.
    #[arg(long, value_name = "NAME")]
    pub(crate) check: Vec<String>,
    /// A locale that this machine has, instead of that of the dump.
    #[arg(long)]
    pub(crate) locale: Option<String>,
    /// Run the server as this user [default: postgres when asof runs as root].
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// A file with the password of a dump that openssl enc encrypted.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Processes that load at once.
    #[arg(long, short, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: u8,
    /// Where PostgreSQL's programs are.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) bindir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
