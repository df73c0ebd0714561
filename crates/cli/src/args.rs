//! What can be said on the command line. Names of commands are fixed; an option says who would change it.

mod dumps;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use dumps::{Compare, Drill, Dump, DumpFormat, Export, Load, OnConflict, Verify};

/// Your PostgreSQL as of any second: backups, point-in-time restore into a running instance.
#[derive(Parser)]
#[command(name = "asof", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Configuration file [default: asof.toml here, then in the user's and the system's configuration directory].
    #[arg(long, global = true, env = "ASOF_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Say nothing but results and errors.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a repository, its key and the configuration.
    Init(Init),
    /// Add, look at and run instances.
    #[command(subcommand)]
    Instance(InstanceCommand),
    /// Check that an instance can be backed up now.
    Check(OneInstance),
    /// Make, list and manage backups.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Receive, store and serve WAL.
    #[command(subcommand)]
    Wal(WalCommand),
    /// Restore an instance as of any moment.
    Restore(Restore),
    /// Dump one database, into the repository or into a file (a logical backup).
    ///
    /// It is that one moment of one database: WAL cannot be replayed on it, and roles and tablespaces are in it only with
    /// --globals. `asof backup create` protects the whole instance up to the last second.
    Dump(Dump),
    /// Load a dump into a running instance: one of the repository, or a file that pg_dump wrote.
    Load(Load),
    /// Write a logical backup as a stock file, outside of the repository and not encrypted.
    Export(Export),
    /// Read and decode every byte of a dump: `pg_restore --list` and its like read only the table of contents.
    Verify(Verify),
    /// Load a dump into a server that is thrown away, and see that everything is there.
    ///
    /// Rows are held against the dump, keys, indexes, sequences and extensions are looked at, then the checks of asof.toml run.
    Drill(Drill),
    /// Show how well each instance is protected.
    Status(OneInstance),
    /// Compare two databases: descriptions, rows, sequences, large objects. Nothing is written.
    ///
    /// Exits with 0 when they are equal and 7 when they differ. When something could not be compared and nothing is known
    /// to differ, it exits with 6 if a right is missing and 1 otherwise; with 5 if a server did not answer.
    Compare(Compare),
    /// Manage the keys of the repository.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Show everything on a throw-away PostgreSQL: backup, accident, restore to the moment before.
    Demo(Demo),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
pub(crate) struct Init {
    /// Where the repository goes: a directory, or s3://bucket/prefix.
    #[arg(value_name = "DIRECTORY|URL")]
    pub(crate) repository: String,
    /// Where the key file goes [default: asof.key beside the configuration].
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Accept a store that cannot create an object only if it is absent. Only one asof may ever write to it.
    #[arg(long)]
    pub(crate) single_writer: bool,
}

#[derive(Args)]
pub(crate) struct OneInstance {
    /// The instance; may be left out when there is only one.
    pub(crate) name: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Subcommand)]
pub(crate) enum InstanceCommand {
    /// Protect a PostgreSQL server.
    Add(InstanceAdd),
    /// List the instances.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one instance.
    Show(OneInstance),
    /// Forget an instance; its backups stay in the repository.
    Remove {
        /// The instance.
        name: String,
    },
    /// Print the SQL that gives a role what backups need, and no more.
    Grants(Grants),
    /// Print how an application reaches an instance.
    Connection {
        /// The instance.
        name: Option<String>,
        /// In which form.
        #[arg(long, value_enum, default_value_t = ConnectionForm::Uri)]
        format: ConnectionForm,
        /// The database.
        #[arg(long, default_value = "postgres")]
        database: String,
    },
    /// Start an instance that asof made.
    Start {
        /// The instance.
        name: String,
    },
    /// Stop an instance that asof made.
    Stop {
        /// The instance.
        name: String,
    },
    /// Make an instance that asof made production again: lift what keeps it away from production.
    Adopt {
        /// The instance.
        name: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Stop an instance that asof made and remove its files, after a final snapshot.
    Destroy {
        /// The instance.
        name: String,
        /// Make no final snapshot.
        #[arg(long)]
        no_final_snapshot: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args)]
pub(crate) struct Grants {
    /// The instance, when it is added already.
    pub(crate) name: Option<String>,
    /// The role.
    #[arg(long, default_value = "asof")]
    pub(crate) role: String,
    /// A server that is not added yet: a connection string or URI.
    #[arg(long, value_name = "CONNINFO", conflicts_with = "name")]
    pub(crate) pg: Option<String>,
    /// The major version, without asking a server.
    #[arg(long, value_name = "N", conflicts_with_all = ["name", "pg"])]
    pub(crate) major: Option<u8>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ConnectionForm {
    /// postgresql://…
    Uri,
    /// jdbc:postgresql://…
    Jdbc,
    /// Lines for a .env file.
    Env,
    /// Values for a Helm chart.
    Helm,
}

#[derive(Args)]
pub(crate) struct InstanceAdd {
    /// What the instance is called from now on.
    pub(crate) name: String,
    /// A connection string or URI; what it leaves out comes from PG* variables, the service file and the passfile.
    #[arg(long, value_name = "CONNINFO", default_value = "")]
    pub(crate) pg: String,
    /// The data directory, when it is not where the server says.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) data_directory: Option<PathBuf>,
    /// Read the files by SQL even though they could be read directly.
    #[arg(long)]
    pub(crate) by_sql: bool,
    /// Let `wal receive` acknowledge WAL that a directory on this host has, before the repository has it.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) spool: Option<PathBuf>,
    /// Make only logical backups (`asof dump`), as for a managed service: its files and its WAL are not asked for.
    #[arg(long, conflicts_with_all = ["data_directory", "by_sql", "spool"])]
    pub(crate) logical_only: bool,
}

#[derive(Subcommand)]
pub(crate) enum BackupCommand {
    /// Make a backup: a manual snapshot, kept until it is deleted, unless --automated.
    Create(BackupCreate),
    /// List the backups of an instance.
    List(OneInstance),
    /// Show one backup.
    Show(OneBackup),
    /// Delete a backup.
    Delete(OneBackup),
    /// Set or remove tags.
    Tag {
        /// The backup.
        backup: String,
        /// key=value; an empty value removes the tag.
        #[arg(required = true, value_name = "KEY=VALUE")]
        tags: Vec<String>,
        /// The instance; may be left out when there is only one.
        #[arg(long)]
        instance: Option<String>,
    },
    /// Keep a backup from being deleted.
    Hold {
        /// The backup.
        backup: String,
        /// Why.
        #[arg(long, default_value = "held by the operator")]
        reason: String,
        /// The instance; may be left out when there is only one.
        #[arg(long)]
        instance: Option<String>,
    },
    /// Lift a hold.
    Release(OneBackup),
}

#[derive(Args)]
pub(crate) struct OneBackup {
    /// Name, id, or the first six or more digits of the id.
    pub(crate) backup: String,
    /// The instance; may be left out when there is only one.
    #[arg(long)]
    pub(crate) instance: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct BackupCreate {
    /// The instance; may be left out when there is only one.
    pub(crate) instance: Option<String>,
    /// The backup's name [default: INSTANCE-manual-YYYYMMDD-HHMMSS].
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Make an automated backup, which expires by the instance's policy.
    #[arg(long)]
    pub(crate) automated: bool,
    /// A tag; may be given more than once.
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(crate) tags: Vec<String>,
    /// Have the server make its checkpoint at once (the default for a manual snapshot).
    #[arg(long)]
    pub(crate) fast: bool,
    /// Let the server spread its checkpoint over minutes, which disturbs production least.
    #[arg(long, conflicts_with = "fast")]
    pub(crate) spread: bool,
    /// Files that are read at once.
    #[arg(long, short, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: u8,
    /// Bytes per second to read at most, such as 50M.
    #[arg(long, value_parser = parse_bytes)]
    pub(crate) rate: Option<u64>,
    /// Store every page anew instead of comparing with the last backup.
    #[arg(long)]
    pub(crate) full_read: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Subcommand)]
pub(crate) enum WalCommand {
    /// Receive WAL by streaming replication until stopped.
    Receive {
        /// The instance; may be left out when there is only one.
        name: Option<String>,
        /// Store every commit at once and report it, so that PostgreSQL can wait for us as a synchronous standby.
        #[arg(long)]
        synchronous: bool,
        /// Seconds between two uploads of the open segment.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
        upload_every: u64,
    },
    /// Store one finished WAL file: archive_command = 'asof wal push --instance NAME %p'.
    Push {
        /// The file: PostgreSQL's %p.
        path: PathBuf,
        /// The instance; may be left out when there is only one.
        #[arg(long)]
        instance: Option<String>,
    },
    /// Fetch one WAL file: restore_command = 'asof wal get --instance NAME %f %p'.
    ///
    /// Exits with 0 when the file is there, 1 when it is proven absent, and above 125 when nobody can tell, so that
    /// PostgreSQL stops instead of opening early.
    Get {
        /// The name: PostgreSQL's %f.
        name: String,
        /// Where to: PostgreSQL's %p.
        path: PathBuf,
        /// The instance; may be left out when there is only one.
        #[arg(long)]
        instance: Option<String>,
    },
    /// Fetch what a recovering server will ask for next: `get` starts this by itself.
    #[command(hide = true)]
    Prefetch {
        /// The segment that it has.
        name: String,
        /// Where it wants its files.
        path: PathBuf,
        /// The instance; may be left out when there is only one.
        #[arg(long)]
        instance: Option<String>,
    },
    /// Show how far WAL is stored.
    Status(OneInstance),
}

#[derive(Args)]
pub(crate) struct Restore {
    /// The instance; may be left out when there is only one.
    pub(crate) instance: Option<String>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Start from this backup instead of the newest that fits.
    #[arg(long, value_name = "NAME|ID")]
    pub(crate) backup: Option<String>,
    /// Follow this timeline instead of the newest.
    #[arg(long, value_name = "N")]
    pub(crate) target_timeline: Option<u32>,
    /// Leave out a commit exactly at the target.
    #[arg(long)]
    pub(crate) exclusive: bool,
    /// Restore into a running instance with this name.
    #[arg(long = "as", value_name = "NEWNAME", conflicts_with = "to")]
    pub(crate) as_instance: Option<String>,
    /// The port of the new instance [default: a free one].
    #[arg(long, requires = "as_instance")]
    pub(crate) port: Option<u16>,
    /// Restore into this directory, to be started by any PostgreSQL of the same major.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) to: Option<PathBuf>,
    /// Restore over the stopped instance in the directory of --to: only pages that differ are written, and what the backup
    /// does not have is removed.
    #[arg(long, requires = "to")]
    pub(crate) delta: bool,
    /// Do not ask before --delta removes what the backup does not have.
    #[arg(long, requires = "delta")]
    pub(crate) yes: bool,
    /// Where the new instance keeps its files [default: beside the configuration].
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) directory: Option<PathBuf>,
    /// Run the server, and own its files, as this user [default: the owner of the original, or postgres].
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// Where PostgreSQL's programs are.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) bindir: Option<PathBuf>,
    /// Print the plan and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Files that are written at once.
    #[arg(long, short, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: u8,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct TargetArgs {
    /// Everything that is stored.
    #[arg(long)]
    pub(crate) latest: bool,
    /// As of this moment, such as 2026-11-20T10:30:00+01:00.
    #[arg(long, value_name = "TIME")]
    pub(crate) target_time: Option<String>,
    /// As of this WAL position, such as 2/A3F10028.
    #[arg(long, value_name = "LSN")]
    pub(crate) target_lsn: Option<String>,
    /// As of the end of this transaction.
    #[arg(long, value_name = "XID")]
    pub(crate) target_xid: Option<u32>,
    /// As of this restore point (pg_create_restore_point).
    #[arg(long, value_name = "NAME")]
    pub(crate) target_name: Option<String>,
    /// The state of the chosen backup itself, without later WAL.
    #[arg(long)]
    pub(crate) target_backup: bool,
}

#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// Add a key file with all rights, a write-only one, or a passphrase.
    Add {
        /// Who holds it.
        label: String,
        /// Where the key file goes.
        #[arg(long, value_name = "FILE", required_unless_present = "passphrase", conflicts_with = "passphrase")]
        out: Option<PathBuf>,
        /// A key that backs up but can neither restore nor delete.
        #[arg(long, conflicts_with = "passphrase")]
        write_only: bool,
        /// A passphrase with all rights instead of a key file; asked for on a terminal, else one line of standard input.
        #[arg(long)]
        passphrase: bool,
    },
    /// List keys and signers.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the recovery kit: everything that is needed on a bare machine.
    Export,
}

#[derive(Args)]
pub(crate) struct Demo {
    /// Where PostgreSQL's programs are.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) bindir: Option<PathBuf>,
    /// Megabytes of documents to make.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) size: u64,
    /// Leave everything in place afterwards, with the servers stopped.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// A number with an optional binary suffix.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        other => return Err(format!("{other} is no unit; use K, M or G")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text} is not a number of bytes such as 50M"))?;
    number.checked_mul(factor).filter(|bytes| *bytes > 0).ok_or_else(|| format!("{text} is not a usable rate"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn rates_take_binary_suffixes() {
        assert_eq!(parse_bytes("50M"), Ok(50 << 20));
        assert_eq!(parse_bytes("7"), Ok(7));
        assert!(parse_bytes("M").is_err() && parse_bytes("5X").is_err() && parse_bytes("0").is_err());
    }
}
