//! Logical backups: what `pg_dump` writes of one database, kept in the repository or in a file, and brought back with
//! `pg_restore` or `psql`.
//!
//! PostgreSQL's own programs do what only they can do. Around them is what a person would have to do by hand: the client of
//! the right major is found, the result is proven to be whole, what is in it is recorded, and nothing that is half made
//! looks as if it were whole. A logical backup is that one moment of one database: WAL cannot be replayed on it, and roles and
//! tablespaces are in it only when they were asked for.

mod checks;
mod chosen;
mod clients;
mod drill;
mod dump;
mod examine;
mod export;
mod feed;
mod fetch;
mod layers;
mod load;
mod members;
mod mentions;
mod named;
mod origin;
mod outcome;
mod parallel;
mod parallel_load;
mod program;
mod proof;
mod properties;
mod psql;
mod record;
mod reread;
mod rights;
mod roles;
mod said;
mod script;
mod shelve;
mod snapshot;
mod sql_check;
mod statements;
mod tables;
mod tar;
mod target;
mod to_directory;
mod to_file;
mod verify;
mod wanted;
mod watched;

pub use checks::Finding;
pub use chosen::Conflict;
pub use clients::{Client, Clients};
pub use drill::{DrillReport, DrillRequest, Step, Subject, Unpacked, drill, drill_stored, unpack};
pub use dump::{Destination, DumpReport, DumpRequest, Plan, dump};
pub use examine::Proof;
pub use export::{ExportReport, Outside, export};
pub use load::{LoadPlan, LoadReport, LoadRequest, load};
pub use origin::Origin;
pub use record::{DatabaseRecord, Details, ForeignKey, Format, Selection, TableRecord};
pub use rights::{Database, Undumpable, databases, undumpable};
pub use sql_check::{CheckResult, CheckSubject, Expect, SqlCheck};
pub use target::{Existing, Policy};
pub use verify::{VerifyReport, verify, verify_stored};
