//! Whether databases can be dumped: by which program, and with which rights.

use std::collections::BTreeSet;

use asof_engine::error::in_one_line;
use asof_engine::logical::{Database, databases, undumpable};
use asof_engine::server::{Contact, Server};
use asof_postgres::client::Connection;
use asof_repository::lineage::{Lineage, Method};
use serde_json::Value;

use super::{Checkup, State};
use crate::commands::dump::clients;

/// How much it matters that a database can be dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// It was dumped before, or is the one of the connection.
    Surely,
    /// Nobody has said so.
    Perhaps,
}

impl Checkup<'_> {
    /// Of an instance whose files are backed up only what was dumped before counts.
    pub(super) async fn dumps(&mut self, connection: &mut Connection, contact: &Contact, logical_only: bool) {
        let dumped = dumped(self.lineage);
        let clients = clients(self.context, None, Some(self.instance)).await;
        match clients.to_dump(contact.major) {
            Ok(client) => {
                let text = format!("pg_dump {} in {}", client.version, client.dir.display());
                self.add("clients", State::Ok, text);
            }
            Err(error) if logical_only || !dumped.is_empty() => self.add("clients", State::Failed, in_one_line(error)),
            Err(error) => {
                self.add("clients", State::Warning, format!("{}; `asof dump` needs them", in_one_line(error)))
            }
        }
        let known = match databases(connection).await {
            Ok(known) => known,
            Err(error) => return self.add("dump rights", State::Failed, in_one_line(error)),
        };
        let connected = logical_only.then(|| self.link.config.dbname.clone());
        let surely: BTreeSet<String> = dumped.into_iter().chain(connected).collect();
        for missing in surely.iter().filter(|name| !known.iter().any(|known| known.name == **name)) {
            self.add("dump rights", State::Warning, format!("{missing}: was dumped, and is not there any more"));
        }
        for database in &known {
            let wanted = if surely.contains(&database.name) { Wanted::Surely } else { Wanted::Perhaps };
            if wanted == Wanted::Surely || logical_only && database.can_be_dumped {
                self.dump_rights(database, wanted).await;
            }
        }
    }

    async fn dump_rights(&mut self, database: &Database, wanted: Wanted) {
        let name = &database.name;
        let failed = if wanted == Wanted::Surely { State::Failed } else { State::Warning };
        if !database.can_be_dumped {
            let text = format!("{name}: the role may not connect to it; GRANT CONNECT ON DATABASE");
            return self.add("dump rights", failed, text);
        }
        match reasons(&self.link, name).await {
            Err(why) => self.add("dump rights", failed, format!("{name}: {why}")),
            Ok(reasons) if reasons.is_empty() => {
                self.add(
                    "dump rights",
                    State::Ok,
                    format!("{name}: every table, sequence and large object can be read"),
                );
            }
            Ok(reasons) => {
                let next = "grant them (tables and sequences: pg_read_all_data from 14 on; each large object by itself; row security: \
                            BYPASSRLS), or dump as the owner";
                self.add("dump rights", failed, format!("{name}: {}; {next}", reasons.join("; ")));
            }
        }
    }
}

async fn reasons(link: &Server, database: &str) -> Result<Vec<String>, String> {
    let mut inside = link.clone();
    inside.config.dbname = database.to_owned();
    let mut connection = inside.connect().await.map_err(in_one_line)?;
    let found = undumpable(&mut connection).await;
    connection.close().await;
    Ok(found.map_err(in_one_line)?.reasons())
}

/// The databases of which a dump exists.
fn dumped(lineage: &Lineage) -> BTreeSet<String> {
    let existing = lineage.existing().into_iter().filter(|state| state.backup.method == Method::Logical);
    let name = |details: &Value| details["database"]["name"].as_str().map(str::to_owned);
    existing.filter_map(|state| name(&state.backup.details)).collect()
}
