//! Loads some tables, all of it in one transaction: one `psql` reads what `pg_restore` writes of the dump, and around it the
//! statements that keep a table which exists whole. Foreign keys are taken away and put back, so that the server validates them;
//! sequences are moved behind the rows; nothing is left to be done by hand.

use std::collections::HashSet;
use std::ffi::OsString;

use asof_postgres::archive::select::list_file;
use asof_postgres::client::{Connection, escape_literal};
use asof_world::MemoryFile;
use futures::future::join;

use super::chosen::{Chosen, Conflict, Target};
use super::feed::feed;
use super::load::LoadPlan;
use super::origin::Place;
use super::program::{Link, Output, Running};
use super::psql::Psql;
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};

/// How much of a script is looked at for the line that names the table.
const HEAD_LEN: usize = 1 << 20;

/// Loads what was chosen. Returns the bytes that psql read, and what the programs remarked.
pub(super) async fn load(
    plan: &LoadPlan,
    link: &Link,
    chosen: &Chosen,
    connection: &mut Connection,
    observer: &dyn Observer,
) -> Result<(u64, Vec<String>)> {
    let frame = Frame::around(plan, chosen, connection).await?;
    let mut psql = Psql::start(plan, link, true).await?;
    let done = write(plan, link, chosen, &frame, &mut psql, observer).await;
    psql.end(done.map(Some)).await
}

async fn write(
    plan: &LoadPlan,
    link: &Link,
    chosen: &Chosen,
    frame: &Frame,
    psql: &mut Psql,
    observer: &dyn Observer,
) -> Result<u64> {
    let mut total = say(psql, &frame.before).await?;
    if !chosen.new.is_empty() {
        let script = Script::of(plan, link, &chosen.new, &[]).await?;
        total += script.into(plan, psql, None, observer).await?;
    }
    for (number, target) in chosen.existing.iter().enumerate() {
        observer.event(Event::At(target.quoted.clone()));
        let script = Script::of(plan, link, &HashSet::from([target.data]), &["--data-only"]).await?;
        let stage = format!("asof_stage_{number}");
        let (into, before, after) = around(plan.request.conflict, target, &stage);
        total += say(psql, &before).await?;
        total += script.into(plan, psql, Some((&target.copy, &into)), observer).await?;
        total += say(psql, &after).await?;
    }
    total += say(psql, &chosen.behind).await?;
    total += say(psql, &frame.after).await?;
    Ok(total)
}

/// Where the rows of a table go at first, and the statements before and after them.
fn around(conflict: Conflict, target: &Target, stage: &str) -> (String, Vec<String>, Vec<String>) {
    let Target { quoted, columns, .. } = target;
    match conflict {
        Conflict::Fail => (format!("COPY {quoted} {columns} FROM stdin;\n"), Vec::new(), Vec::new()),
        Conflict::Replace => {
            (format!("COPY {quoted} {columns} FROM stdin;\n"), vec![format!("TRUNCATE ONLY {quoted}")], Vec::new())
        }
        Conflict::Skip => {
            let list = columns.trim_start_matches('(').trim_end_matches(')');
            let before =
                format!("CREATE TEMPORARY TABLE {stage} ON COMMIT DROP AS SELECT {list} FROM {quoted} LIMIT 0");
            let after = format!(
                "INSERT INTO {quoted} {columns} OVERRIDING SYSTEM VALUE SELECT {list} FROM pg_temp.{stage} ON CONFLICT DO NOTHING"
            );
            (format!("COPY pg_temp.{stage} {columns} FROM stdin;\n"), vec![before], vec![after])
        }
    }
}

/// Gives psql statements.
async fn say(psql: &mut Psql, statements: &[String]) -> Result<u64> {
    psql.say(statements.iter().map(|sql| format!("{};\n", sql.trim_end().trim_end_matches(';'))).collect()).await
}

/// What is done before the first and after the last row.
struct Frame {
    before: Vec<String>,
    after: Vec<String>,
}

impl Frame {
    async fn around(plan: &LoadPlan, chosen: &Chosen, connection: &mut Connection) -> Result<Self> {
        let mut frame = Self { before: vec!["SET row_security = off".to_owned()], after: Vec::new() };
        if chosen.existing.is_empty() {
            return Ok(frame);
        }
        let tables: Vec<String> =
            chosen.existing.iter().map(|target| format!("{}::regclass", escape_literal(&target.quoted))).collect();
        let tables = tables.join(", ");
        if plan.request.disable_triggers {
            frame.without_triggers(connection, &tables).await?;
        }
        if plan.request.conflict != Conflict::Skip {
            frame.without_foreign_keys(connection, &tables).await?;
        }
        frame.with_sequences(connection, &tables).await?;
        Ok(frame)
    }

    /// A key that is added again is validated by the server, whatever triggers do and whoever loads.
    async fn without_foreign_keys(&mut self, connection: &mut Connection, tables: &str) -> Result<()> {
        let sql = format!(
            "WITH RECURSIVE t(oid) AS (SELECT unnest(ARRAY[{tables}])::oid UNION SELECT inhparent FROM pg_inherits JOIN t ON inhrelid = t.oid) \
             SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname), \
               format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(c.oid)), \
               format('COMMENT ON CONSTRAINT %I ON %s IS %L', conname, conrelid::regclass, obj_description(c.oid, 'pg_constraint')), \
               obj_description(c.oid, 'pg_constraint') IS NOT NULL \
             FROM pg_constraint c WHERE contype = 'f' AND conparentid = 0 \
               AND (conrelid IN (SELECT oid FROM t) OR confrelid IN (SELECT oid FROM t)) ORDER BY c.oid"
        );
        for row in connection.query(&sql).await? {
            self.before.push(row.required(0)?.to_owned());
            self.after.push(row.required(1)?.to_owned());
            if row.required(3)? == "t" {
                self.after.push(row.required(2)?.to_owned());
            }
        }
        Ok(())
    }

    /// Triggers of users; each is afterwards as it was.
    async fn without_triggers(&mut self, connection: &mut Connection, tables: &str) -> Result<()> {
        let sql = format!(
            "SELECT format('ALTER TABLE %s DISABLE TRIGGER %I', tgrelid::regclass, tgname), \
               format('ALTER TABLE %s ENABLE %s TRIGGER %I', tgrelid::regclass, \
                 CASE tgenabled WHEN 'A' THEN 'ALWAYS' WHEN 'R' THEN 'REPLICA' ELSE '' END, tgname) \
             FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D' AND tgrelid = ANY (ARRAY[{tables}]::oid[])"
        );
        for row in connection.query(&sql).await? {
            self.before.push(row.required(0)?.to_owned());
            self.after.insert(0, row.required(1)?.to_owned());
        }
        Ok(())
    }

    /// A sequence that stands before the largest value would give it out again.
    async fn with_sequences(&mut self, connection: &mut Connection, tables: &str) -> Result<()> {
        let sql = format!(
            "SELECT format('SELECT setval(%L, greatest(max(%I), (SELECT last_value FROM %s))) FROM %s HAVING max(%I) IS NOT NULL', \
               d.objid::regclass, attname, d.objid::regclass, d.refobjid::regclass, attname) \
             FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
             JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
             JOIN pg_sequence q ON q.seqrelid = s.oid AND q.seqincrement > 0 \
             WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') \
               AND d.refobjid = ANY (ARRAY[{tables}]::oid[])"
        );
        for row in connection.query(&sql).await? {
            self.after.push(row.required(0)?.to_owned());
        }
        Ok(())
    }
}

/// `pg_restore` that writes some entries as SQL.
struct Script {
    running: Running,
    output: Output,
    input: Option<(super::program::Input, super::origin::Stream)>,
    held: Option<MemoryFile>,
}

impl Script {
    async fn of(plan: &LoadPlan, link: &Link, entries: &HashSet<i32>, more: &[&str]) -> Result<Self> {
        let toc = plan.origin.toc.as_ref().expect("tables are chosen from a table of contents");
        let mut arguments = plan.pg_restore(false);
        arguments.extend(more.iter().map(Into::into));
        arguments.push("--file=-".into());
        let (mut stream, mut held) = (None, None);
        if let Place::Stored(dump) = &plan.origin.place {
            let part = super::parallel_load::only(toc, |entry| entries.contains(&entry.dump_id));
            stream = Some(plan.origin.stream_of(dump, &part));
        } else {
            let list = list_file(toc.entries.iter().filter(|entry| entries.contains(&entry.dump_id)));
            let files = plan.world.files.clone();
            let file = plan.world.blocking(move || files.in_memory(list.as_bytes())).await;
            let file = file.map_err(Error::files("keep in memory", "the list of entries"))?;
            arguments.push(option("--use-list=", &file.path));
            held = Some(file);
            match plan.origin.directory() {
                Some(path) => arguments.push(path.into()),
                None => stream = Some(plan.origin.stream().await?),
            }
        }
        let mut running = link.start_offline(&plan.world, &plan.client, "pg_restore", arguments).await?;
        let (input, output) = running.take_pipes();
        Ok(Self { running, output, input: stream.map(|stream| (input, stream)), held })
    }

    /// Hands the SQL on to psql; `rows` says which line that names the table is replaced by which.
    async fn into(
        self,
        plan: &LoadPlan,
        psql: &mut Psql,
        rows: Option<(&[u8], &str)>,
        observer: &dyn Observer,
    ) -> Result<u64> {
        let Self { running, mut output, input, held } = self;
        let feeding = async move {
            match input {
                // A program that has what it wants reads no further.
                Some((mut input, stream)) => feed(&mut input, stream, observer, |_| Ok(())).await.map(|_| ()),
                None => Ok(()),
            }
        };
        // It takes the output along: when psql reads no further, pg_restore must not wait for somebody who reads.
        let input = psql.running.input();
        let passing = async move {
            let (mut total, mut is_head) = (0, true);
            loop {
                let mut piece = output.read(Vec::new()).await?;
                if piece.is_empty() {
                    return Ok::<_, Error>(total);
                }
                if std::mem::take(&mut is_head) {
                    piece = plan.for_server(piece);
                    if let Some((named, replaced)) = rows {
                        piece = redirected(piece, named, replaced)?;
                    }
                }
                total += piece.len() as u64;
                if !input.write(piece.into()).await? {
                    return Ok(total);
                }
            }
        };
        let (fed, passed) = join(feeding, passing).await;
        let restored = running.end().await;
        drop(held);
        fed?;
        let total = passed?;
        restored?;
        Ok(total)
    }
}

fn option(name: &str, value: &std::path::Path) -> OsString {
    let mut option = OsString::from(name);
    option.push(value);
    option
}

/// Lets the rows of a table go somewhere else: the one line that names it stands before them.
fn redirected(script: Vec<u8>, named: &[u8], replaced: &str) -> Result<Vec<u8>> {
    let at = script.windows(named.len().max(1)).take(HEAD_LEN).position(|window| window == named);
    let at = at.ok_or_else(|| Error::damaged("pg_restore wrote no rows for the table", "this is a defect of asof"))?;
    // pg_restore empties search_path, which triggers of a table that exists may live by.
    let replaced = format!("RESET search_path;\n{replaced}");
    Ok([&script[..at], replaced.as_bytes(), &script[at + named.len()..]].concat())
}
