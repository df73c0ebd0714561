//! `asof check`: whether an instance can be backed up now. Every line was tried; what cannot be tried is not OK.

use asof_engine::server;
use asof_engine::source::{missing_rights, superfluous_rights};
use asof_postgres::client::Connection;
use asof_repository::store::probe::{Capabilities, probe};
use serde_json::json;

use crate::args::OneInstance;
use crate::context::Context;
use crate::failure::{DENIED, Failure, Result};
use crate::show;

struct Finding {
    what: &'static str,
    result: Result<String, String>,
}

pub(crate) async fn run(context: &Context, args: OneInstance) -> Result<()> {
    let instance = context.instance(args.name.as_deref()).await?;
    let link = context.server(&instance.config).await?;
    let mut findings = vec![
        Finding { what: "repository", result: Ok("opens with this key".to_owned()) },
        Finding { what: "repository store", result: repository_store(context).await? },
    ];
    match context.contact(&link).await {
        Err(error) => findings.push(Finding { what: "connection", result: Err(error.in_one_line()) }),
        Ok((mut connection, contact)) => {
            findings.push(Finding { what: "connection", result: Ok(format!("PostgreSQL {}", contact.version)) });
            let files = match context.reader(&instance.config, &link, &contact).await {
                Ok(reader) => match server::read_control(&context.world, reader.source.as_ref()).await {
                    Ok((_, control)) => {
                        let facts = server::facts(&control);
                        let journal = instance.shelf.journal().await?;
                        server::check_facts(&instance.name, &journal.state().facts, &facts)
                            .map(|()| "readable, of the registered server".to_owned())
                            .map_err(|error| error.to_string())
                    }
                    Err(error) => Err(error.to_string()),
                },
                Err(error) => Err(error.to_string()),
            };
            findings.push(Finding { what: "files", result: files });
            findings.push(Finding { what: "wal_level", result: wal_level(&mut connection).await });
            findings.push(Finding { what: "full_page_writes", result: full_page_writes(&mut connection).await });
            let by_sql = instance.config.data_directory.is_none() && instance.config.run_directory.is_none();
            findings.push(Finding { what: "rights", result: rights(&mut connection, by_sql).await });
            findings.push(Finding { what: "slots", result: slots(&mut connection).await });
            connection.close().await;
        }
    }
    let way = replication(&link).await.map(|way| match way {
        Replication::Streams(stands) => stands,
        Replication::Refused(why) => format!("refused, so WAL is read by SQL: {why}"),
    });
    findings.push(Finding { what: "replication", result: way });
    let failed = findings.iter().filter(|finding| finding.result.is_err()).count();
    if args.json {
        let line = |finding: &Finding| {
            let (ok, text) = match &finding.result {
                Ok(text) => (true, text),
                Err(text) => (false, text),
            };
            json!({ "check": finding.what, "ok": ok, "result": text })
        };
        show::json(&json!(findings.iter().map(line).collect::<Vec<_>>()));
    } else {
        for finding in &findings {
            match &finding.result {
                Ok(text) => anstream::println!("ok      {:16} {text}", finding.what),
                Err(text) => anstream::println!("FAILED  {:16} {text}", finding.what),
            }
        }
    }
    match failed {
        0 => Ok(()),
        n => {
            Err(Failure::refused(format!("{n} of {} checks failed", findings.len()), "mend them; nothing was changed"))
        }
    }
}

/// What trying the store gives; only that the store cannot be opened at all is an error of the command.
async fn repository_store(context: &Context) -> Result<Result<String, String>> {
    let loaded = context.loaded()?;
    let store = context.store(&loaded.config.repository.url)?;
    let single_writer = context.repository(&loaded).await?.root.single_writer;
    let found = match probe(store.as_ref(), &context.world).await {
        Ok(found) => found,
        Err(error) => return Ok(Err(with_causes(&error))),
    };
    let protects = found.require(&store.place(), single_writer).map_err(|error| error.to_string());
    Ok(protects.map(|()| described(&found)))
}

fn described(found: &Capabilities) -> String {
    let mut words = vec![match &found.overwrites {
        None => "creates without overwriting, reads back at once".to_owned(),
        Some(how) => format!("used by a single writer, because {how}"),
    }];
    if !found.lists_at_once {
        words.push("lists with a delay".to_owned());
    }
    words.extend(found.left_behind.clone());
    words.join("; ")
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

async fn ask(connection: &mut Connection, sql: &str) -> Result<String, String> {
    let row = connection.query_one(sql).await.map_err(|error| error.to_string())?;
    row.required(0).map(str::to_owned).map_err(|error| error.to_string())
}

async fn wal_level(connection: &mut Connection) -> Result<String, String> {
    match ask(connection, "SHOW wal_level").await?.as_str() {
        "minimal" => Err("minimal: WAL cannot be replayed; set wal_level = replica and restart".to_owned()),
        level => Ok(level.to_owned()),
    }
}

async fn full_page_writes(connection: &mut Connection) -> Result<String, String> {
    match ask(connection, "SHOW full_page_writes").await?.as_str() {
        "on" => Ok("on".to_owned()),
        _ => Err("off: torn pages of a backup cannot be repaired; set full_page_writes = on".to_owned()),
    }
}

/// What the role lacks is a failure where the files are read by SQL; what it has too much is said.
async fn rights(connection: &mut Connection, by_sql: bool) -> Result<String, String> {
    let missing = missing_rights(connection).await.map_err(|error| error.to_string())?;
    if by_sql && !missing.is_empty() {
        return Err(format!("missing: {}; `asof instance grants` prints them all", missing.join("; ")));
    }
    let superfluous = superfluous_rights(connection).await.map_err(|error| error.to_string())?;
    match superfluous.len() {
        0 => Ok("what is needed and no more".to_owned()),
        _ => Ok(format!("more than is needed: {}", superfluous.join(", "))),
    }
}

async fn slots(connection: &mut Connection) -> Result<String, String> {
    let sql = "SELECT current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots)";
    let free: i64 =
        ask(connection, sql).await?.parse().map_err(|_| "the server did not answer with a number".to_owned())?;
    if free >= 2 {
        Ok(format!("{free} free"))
    } else {
        Err(format!("{free} free, 2 needed; raise max_replication_slots"))
    }
}

/// Which way WAL comes from a server.
pub(crate) enum Replication {
    /// By streaming replication; where the server stands.
    Streams(String),
    /// By SQL, because replication connections are refused: why, and what would change it.
    Refused(String),
}

/// Tries a replication connection.
pub(crate) async fn replication(link: &server::Server) -> Result<Replication, String> {
    let mut connection = match link.connect_replication().await {
        Ok(connection) => connection,
        Err(error) => {
            let (failure, user) = (Failure::from(error), &link.config.user);
            let refused = failure.in_one_line();
            // A missing right is told apart from a missing line by what the server said.
            return match failure.code() {
                DENIED => Ok(Replication::Refused(format!(
                    "{refused}; it costs more and cannot be synchronous; streaming takes ALTER ROLE {user} REPLICATION, and in \
                     pg_hba.conf: host replication {user} ADDRESS scram-sha-256"
                ))),
                _ => Err(refused),
            };
        }
    };
    let identity = connection.identify_system().await.map_err(|error| error.to_string())?;
    connection.close().await;
    Ok(Replication::Streams(format!("timeline {}, at {}", identity.timeline, identity.xlogpos)))
}
