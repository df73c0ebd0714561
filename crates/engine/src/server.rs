//! The server that is protected: how to reach it, and what it says of itself at first contact.

mod identity;

use std::collections::BTreeMap;

use asof_postgres::client::{Connection, Mode};
use asof_postgres::conninfo::{Config, Environment};
use asof_postgres::control::ControlFile;
use asof_postgres::version::Major;
use asof_world::{World, planted};
use serde_json::{Value, json};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::source::{CONTROL_FILE, Source};

pub use identity::{Identity, check_identity, is_logical_only, require_files};

/// How often `pg_control` is read until its checksum fits: the server may be writing it (hazard A4).
const CONTROL_READS: u32 = 50;
const CONTROL_WAIT: Duration = Duration::from_millis(20);

/// How to reach a server.
#[derive(Clone)]
pub struct Server {
    /// Hosts, user, password, TLS.
    pub config: Config,
    /// What a connection may ask of the machine.
    pub environment: Environment,
}

/// What a server says of itself.
#[derive(Clone, Debug)]
pub struct Contact {
    /// Its major.
    pub major: Major,
    /// Its version as it writes it, such as `15.20 (Debian 15.20-0+deb12u1)`.
    pub version: String,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Where it keeps its files, on its own host.
    pub data_directory: Option<String>,
}

impl Server {
    /// The same server, to which we are known as `name`: only the receiver may count as the standby that commits wait for.
    #[must_use]
    pub fn known_as(&self, name: &str) -> Self {
        let mut server = self.clone();
        server.config.application_name = Some(name.to_owned());
        server
    }

    /// The same server, by the host of this connection only: of a name with several hosts, the others may reach another server.
    #[must_use]
    pub fn at_host_of(&self, connection: &Connection) -> Self {
        let mut server = self.clone();
        server.config.hosts.retain(|host| host.to_string() == connection.server());
        server
    }

    /// Opens a connection for SQL that no setting of role or database ends early.
    pub async fn connect(&self) -> Result<Connection> {
        let mut connection = Connection::connect(&self.config, Mode::Sql, &self.environment).await?;
        let since_14 = connection.server_version_num()? >= 140_000;
        let mut setup =
            "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
                         SET search_path = pg_catalog; SET client_encoding = 'UTF8'"
                .to_owned();
        if since_14 {
            setup.push_str("; SET idle_session_timeout = 0");
        }
        connection.execute(&setup).await?;
        refuse_pooler(&mut connection).await?;
        Ok(connection)
    }

    /// Opens a connection for replication commands.
    pub async fn connect_replication(&self) -> Result<Connection> {
        Ok(Connection::connect(&self.config, Mode::Replication, &self.environment).await?)
    }
}

/// The system identifier of the server behind a connection, to hold the files against; `None` when it may not be asked.
pub async fn system_identifier(connection: &mut Connection) -> Option<u64> {
    let row = connection.query_one("SELECT system_identifier FROM pg_control_system()").await.ok()?;
    row.parse_required::<i64>(0).ok().map(i64::cast_unsigned)
}

/// A backup ends with its session; behind a pooler, sessions are not ours (rule 12).
async fn refuse_pooler(connection: &mut Connection) -> Result<()> {
    for _ in 0..2 {
        let pid: i32 = connection.query_one("SELECT pg_backend_pid()").await?.parse_required(0)?;
        if pid != connection.backend_pid() {
            let what = format!("{} is a connection pooler, not a PostgreSQL server", connection.server());
            return Err(Error::refused(what, "give the address of the server itself"));
        }
    }
    Ok(())
}

/// Services that hand out neither files nor WAL, by the settings that only they have: a pattern of names, and one that can be
/// asked for where settings that an extension defines are not listed.
const MANAGED: [(&str, &str, &str); 4] = [
    ("rds.%", "rds.extensions", "Amazon RDS or Aurora"),
    ("apg_%", "rds.extensions", "Amazon RDS or Aurora"),
    ("cloudsql.%", "cloudsql.iam_authentication", "Google Cloud SQL"),
    ("azure.%", "azure.extensions", "Azure Database for PostgreSQL"),
];

/// The managed service that this server belongs to, if it is one.
pub async fn managed_service(connection: &mut Connection) -> Result<Option<&'static str>> {
    let sql =
        "SELECT 1 WHERE current_setting($2, true) IS NOT NULL OR EXISTS (SELECT FROM pg_settings WHERE name LIKE $1)";
    for (pattern, name, service) in MANAGED {
        if !connection.query_params(sql, &[Some(pattern), Some(name)]).await?.is_empty() {
            return Ok(Some(service));
        }
    }
    Ok(None)
}

/// Asks a server what it is.
pub async fn contact(connection: &mut Connection) -> Result<Contact> {
    let number = connection.server_version_num()?;
    let major = Major::from_server_version_num(i64::from(number))
        .map_err(|error| Error::refused(error.to_string(), "asof protects PostgreSQL 13 to 18"))?;
    let row = connection.query_one("SELECT pg_is_in_recovery(), current_setting('server_version')").await?;
    // Only readable with pg_read_all_settings; reading by SQL does not need it.
    let directory = connection.query("SELECT current_setting('data_directory', true)").await;
    let data_directory = directory.ok().and_then(|rows| Some(rows.first()?.text(0).ok()??.to_owned()));
    Ok(Contact {
        major,
        version: row.required(1)?.to_owned(),
        in_recovery: row.required(0)? == "t",
        data_directory: data_directory.filter(|path| !path.is_empty()),
    })
}

/// Reads `pg_control` until its checksum fits, and returns its bytes and content.
pub async fn read_control(world: &World, source: &dyn Source) -> Result<(Vec<u8>, ControlFile)> {
    let mut last = None;
    for attempt in 0..CONTROL_READS {
        if attempt > 0 {
            world.sleep(CONTROL_WAIT).await;
        }
        let Some(file) = source.open(CONTROL_FILE).await? else {
            let what = "there is no global/pg_control: this is not the data directory of a PostgreSQL server";
            return Err(Error::refused(what, "check the data directory"));
        };
        let bytes = file.read(0, usize::try_from(file.len()).unwrap_or(0).clamp(512, 1 << 16)).await?;
        match ControlFile::parse(&bytes) {
            Ok(control) => return Ok((bytes, control)),
            Err(error) => last = Some(error),
        }
    }
    let reason = last.map_or_else(String::new, |error| error.to_string());
    Err(Error::damaged(format!("global/pg_control cannot be read: {reason}"), "look at the server's disk"))
}

/// What identifies an instance: recorded at the first contact and compared on every later one.
pub fn facts(control: &ControlFile) -> BTreeMap<String, Value> {
    [
        ("system_identifier", json!(control.system_identifier.to_string())),
        ("major", json!(control.major.number())),
        ("catalog_version", json!(control.catalog_version)),
        ("block_size", json!(control.block_size.bytes())),
        ("blocks_per_segment", json!(control.blocks_per_segment)),
        ("wal_block_size", json!(control.wal_block_size.bytes())),
        ("wal_segment_size", json!(control.wal_segment_size.bytes())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Refuses a server that is not the one whose lineage this is (hazard D1).
pub fn check_facts(instance: &str, recorded: &BTreeMap<String, Value>, found: &BTreeMap<String, Value>) -> Result<()> {
    for (name, value) in recorded {
        let Some(now) = found.get(name).filter(|now| *now != value) else { continue };
        if planted("d1") || (planted("d4") && name != "system_identifier") {
            continue;
        }
        let what =
            format!("this is not the server that was registered as {instance}: its {name} is {now}, not {value}");
        return Err(Error::refused(what, "register it under a name of its own with `asof instance add`"));
    }
    Ok(())
}
