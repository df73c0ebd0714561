//! `asof check`: whether an instance can be backed up now. Every line was tried; what cannot be tried is not OK.

mod arrival;
mod dumps;
mod place;
mod server;
mod space;

use asof_engine::error::in_one_line;
use asof_engine::runtime::find_binaries;
use asof_engine::server::{self as engine, Contact, Identity, Server};
use asof_postgres::client::Connection;
use asof_repository::lineage::Lineage;
use serde_json::json;

use crate::args::OneInstance;
use crate::config::InstanceConfig;
use crate::context::{Context, Instance, variable};
use crate::failure::{Failure, Result};
use crate::show::{self, SPOOL_SURVIVES};

pub(crate) use server::{Replication, replication};

/// What came of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    /// It works, and something should be known about it.
    Warning,
    /// It could not be tried from here.
    Unknown,
    Failed,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Failed => "FAILED",
        }
    }
}

struct Finding {
    what: &'static str,
    state: State,
    text: String,
}

impl Finding {
    fn new(what: &'static str, state: State, text: impl Into<String>) -> Self {
        Self { what, state, text: text.into() }
    }

    fn of(what: &'static str, result: Result<String, String>) -> Self {
        match result {
            Ok(text) => Self::new(what, State::Ok, text),
            Err(text) => Self::new(what, State::Failed, text),
        }
    }
}

/// What is checked, and what was found so far.
struct Checkup<'a> {
    context: &'a Context,
    instance: &'a Instance,
    config: &'a InstanceConfig,
    link: Server,
    lineage: &'a Lineage,
    findings: Vec<Finding>,
}

pub(crate) async fn run(context: &Context, args: OneInstance) -> Result<()> {
    let instance = context.instance(args.name.as_deref()).await?;
    let config = instance.config()?;
    let link = context.server(config).await?;
    let journal = instance.shelf.journal().await?;
    let (lineage, findings) = (journal.state(), Vec::new());
    let mut checkup = Checkup { context, instance: &instance, config, link, lineage, findings };
    checkup.everything().await?;
    let findings = checkup.findings;
    if args.json {
        let line = |finding: &Finding| {
            let ok = matches!(finding.state, State::Ok | State::Warning);
            let state = finding.state.word().to_lowercase();
            json!({ "check": finding.what, "ok": ok, "state": state, "result": finding.text })
        };
        show::json(&json!(findings.iter().map(line).collect::<Vec<_>>()));
    } else {
        for Finding { what, state, text } in &findings {
            anstream::println!("{:7} {what:16} {text}", state.word());
        }
    }
    match findings.iter().filter(|finding| finding.state == State::Failed).count() {
        0 => Ok(()),
        n => {
            Err(Failure::refused(format!("{n} of {} checks failed", findings.len()), "mend them; nothing was changed"))
        }
    }
}

impl Checkup<'_> {
    fn add(&mut self, what: &'static str, state: State, text: impl Into<String>) {
        self.findings.push(Finding::new(what, state, text));
    }

    fn add_result(&mut self, what: &'static str, result: Result<String, String>) {
        self.findings.push(Finding::of(what, result));
    }

    async fn everything(&mut self) -> Result<()> {
        self.add("repository", State::Ok, "opens with this key");
        let store = place::repository_store(self.context).await?;
        self.add_result("repository store", store);
        let logical_only = self.config.logical || engine::is_logical_only(&self.lineage.facts);
        match self.context.contact(&self.link).await {
            Err(error) => self.add_result("connection", Err(in_one_line(error))),
            Ok((mut connection, contact)) => {
                self.add("connection", State::Ok, format!("PostgreSQL {}", contact.version));
                if logical_only {
                    self.of_dumps_only(&mut connection, &contact).await?;
                } else {
                    self.of_files(&mut connection, &contact).await?;
                }
                connection.close().await;
            }
        }
        if !logical_only {
            let way = replication(&self.link).await.map(|way| match way {
                Replication::Streams(stands) => stands,
                Replication::Refused(why) => format!("refused, so WAL is read by SQL: {why}"),
            });
            self.add_result("replication", way);
        }
        Ok(())
    }

    /// The path of a dump: there are no files to read and there is no WAL.
    async fn of_dumps_only(&mut self, connection: &mut Connection, contact: &Contact) -> Result<()> {
        self.identity(connection, contact).await;
        self.add_result("rights", server::rights_to_dump(connection).await);
        self.dumps(connection, contact, true).await;
        self.space(connection, true).await
    }

    async fn of_files(&mut self, connection: &mut Connection, contact: &Contact) -> Result<()> {
        let files = self.files(contact).await;
        self.add_result("files", files);
        self.add_result("wal_level", server::wal_level(connection).await);
        self.add_result("full_page_writes", server::full_page_writes(connection).await);
        let by_sql = self.config.data_directory.is_none() && self.config.run_directory.is_none();
        self.add_result("rights", server::rights(connection, by_sql).await);
        self.add_result("slots", server::slots(connection).await);
        if let Some(mut result) = server::synchronous(connection, &self.link).await {
            if self.config.spool.is_some() {
                result = result.map(|stands| format!("{stands}; acknowledged from the spool, which {SPOOL_SURVIVES}"));
            }
            self.add_result("synchronous", result);
        }
        self.wal_arrives(connection, contact).await;
        self.programs(contact).await;
        self.dumps(connection, contact, false).await;
        self.space(connection, false).await
    }

    /// Whether the files are readable and those of the server that was registered (hazard D1).
    async fn files(&self, contact: &Contact) -> Result<String, String> {
        let reader = self.context.reader(self.config, &self.link, contact).await.map_err(in_one_line)?;
        let control = engine::read_control(&self.context.world, reader.source.as_ref()).await;
        let (_, control) = control.map_err(in_one_line)?;
        engine::check_facts(&self.instance.name, &self.lineage.facts, &engine::facts(&control))
            .map(|()| "readable, of the registered server".to_owned())
            .map_err(in_one_line)
    }

    /// The same where only SQL can tell.
    async fn identity(&mut self, connection: &mut Connection, contact: &Contact) {
        let checked = match Identity::ask(connection, contact).await {
            Ok(identity) => engine::check_identity(&self.instance.name, self.lineage, &identity),
            Err(error) => Err(error),
        };
        match checked {
            Ok(None) => {
                self.add("server", State::Ok, "the registered one, as far as it says; its files are not asked for")
            }
            Ok(Some(remark)) => self.add("server", State::Warning, remark),
            Err(error) => self.add("server", State::Failed, in_one_line(error)),
        }
    }

    /// What a restore into a running instance would need of this machine. A restore may well happen on another.
    async fn programs(&mut self, contact: &Contact) {
        let (bindir, path) = (self.instance.bindir(), variable("PATH"));
        match find_binaries(&self.context.world, contact.major, bindir.as_deref(), path.as_deref()).await {
            Ok(found) => self.add("programs", State::Ok, format!("{} in {}", found.version, found.dir.display())),
            Err(error) => {
                let text = format!("{error}; without them this machine restores into directories only (--to)");
                self.add("programs", State::Warning, text);
            }
        }
    }
}
