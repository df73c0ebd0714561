//! `asof compare`: whether two databases are equal, and where not.
//!
//! Exit codes tell the three answers apart: 0 equal, 7 different, and where something could not be compared and nothing is known
//! to differ, 6 if a right is missing and 1 otherwise; 5 if a server did not answer.
//!
//! A dump is loaded into a throw-away server for it, and removed with it.

use std::collections::BTreeMap;
use std::path::Path;

use asof_engine::compare::{self, Class, CompareReport, CompareRequest, Difference, Mode, Patterns, Side, Verdict};
use asof_engine::logical::{self, Unpacked};
use asof_postgres::conninfo::Settings;
use serde_json::json;

use crate::args::Compare;
use crate::commands::drill::throw_away;
use crate::commands::dump::{clients, interrupted, interruptible};
use crate::commands::origin::{Named, named};
use crate::context::{Context, conninfo_refused, resolve};
use crate::failure::{Failure, REFUSED, Result};
use crate::show;

/// So many keys of rows that differ are named for each table.
const EXAMPLES: usize = 10;

/// Values longer than this are cut: the whole value is in the JSON.
const SHOWN_CHARS: usize = 200;

pub(crate) async fn run(context: &Context, args: Compare) -> Result<()> {
    let named = (meant(context, &args, &args.a).await?, meant(context, &args, &args.b).await?);
    let a = open(context, &args, named.0).await?;
    let b = match open(context, &args, named.1).await {
        Ok(b) => b,
        Err(error) => return Err(a.close(error).await),
    };
    let bar = context.bar();
    let compared =
        interruptible(compare::compare(&context.world, &a.side, &b.side, &request(&args), bar.clone())).await;
    bar.finish();
    let removed = (a.remove().await, b.remove().await);
    let report = compared?;
    removed.0.and(removed.1)?;
    let verdict = compare::verdict(&report);
    if args.json {
        let mut value = json!(report);
        value["verdict"] = json!(verdict);
        show::json(&value);
    } else {
        print(&report, verdict);
    }
    outcome(&report, verdict)
}

fn request(args: &Compare) -> CompareRequest {
    CompareRequest {
        tables: Patterns { include: args.tables.clone(), exclude: args.exclude_tables.clone() },
        mode: args.sample.map_or(Mode::Exact, |one_in| Mode::Sampled { one_in }),
        jobs: args.jobs.into(),
        roles: args.roles,
        owners: args.owners,
        content: !args.schema_only,
        schema: !args.data_only,
        examples: EXAMPLES,
    }
}

/// What one of the two arguments means.
enum Meant {
    /// A database of a server, and how the report calls it.
    Database(Box<Side>),
    /// A dump: a file, or a backup of the repository, and how it was named.
    Dump(String, Named),
}

/// A side that can be compared, and the throw-away server that it lies in.
struct Open {
    side: Side,
    unpacked: Option<Unpacked>,
}

impl Open {
    async fn remove(self) -> Result<()> {
        match self.unpacked {
            Some(unpacked) => Ok(unpacked.remove().await?),
            None => Ok(()),
        }
    }

    /// Removes it because of an error, which counts for more than what is left.
    async fn close(self, error: Failure) -> Failure {
        if let Err(left) = self.remove().await {
            anstream::eprintln!("warning: {left}");
        }
        error
    }
}

/// A connection string or URI, `INSTANCE`, `INSTANCE/DATABASE`, a path, or a backup's name, in this order.
async fn meant(context: &Context, args: &Compare, text: &str) -> Result<Meant> {
    let (mut server, own) = if text.contains('=') || text.contains("://") {
        (resolve(Settings::parse(text).map_err(conninfo_refused)?, context.environment())?, None)
    } else {
        let (name, own) = text.split_once('/').map_or((text, None), |(name, own)| (name, Some(own)));
        let config = match context.loaded() {
            Ok(loaded) => context.pick(&loaded, Some(name)).map(|(_, config)| config.clone()),
            Err(none) => Err(none),
        };
        match config {
            Ok(config) => (context.server(&config).await?, own),
            Err(unknown) => return dump(context, args, text, unknown).await,
        }
    };
    if let Some(database) = own.or(args.database.as_deref()) {
        database.clone_into(&mut server.config.dbname);
    }
    // Never the text itself, which may hold a password.
    let label = server.config.to_string();
    Ok(Meant::Database(Box::new(Side { label, server, snapshot: None })))
}

/// A dump, since it is no instance.
async fn dump(context: &Context, args: &Compare, text: &str, unknown: Failure) -> Result<Meant> {
    let is_file = Path::new(text).exists();
    if !is_file && (text.contains('/') || context.loaded().is_err()) {
        return Err(unknown);
    }
    match named(context, text, args.instance.as_deref(), args.password_file.as_deref()).await {
        Ok(named) => Ok(Meant::Dump(text.to_owned(), named)),
        Err(error) if !is_file && error.code() == REFUSED => {
            let hint = unknown.hint().unwrap_or_default();
            let hint = format!("{hint}; a backup needs --instance where there are several");
            Err(Failure::refused(format!("\"{text}\" is no instance, no file and no backup"), hint))
        }
        Err(error) => Err(error),
    }
}

async fn open(context: &Context, args: &Compare, meant: Meant) -> Result<Open> {
    let (label, named) = match meant {
        Meant::Database(side) => return Ok(Open { side: *side, unpacked: None }),
        Meant::Dump(label, named) => (label, named),
    };
    let (origin, instance) = named.open().await?;
    let clients = clients(context, args.bindir.as_deref(), instance.as_ref()).await;
    let request = throw_away(context, args.bindir.as_deref(), instance.as_ref());
    let (bar, cancelled) = (context.bar(), Box::pin(interrupted()));
    let unpacked = logical::unpack(&context.world, &clients, origin, &request, cancelled, bar.clone()).await;
    bar.finish();
    let unpacked = unpacked?;
    unpacked.remarks.iter().for_each(|remark| anstream::eprintln!("warning: {remark}"));
    Ok(Open { side: Side { label, server: unpacked.server()?, snapshot: None }, unpacked: Some(unpacked) })
}

fn outcome(report: &CompareReport, verdict: Verdict) -> Result<()> {
    match verdict {
        Verdict::Equal => Ok(()),
        Verdict::Different => Err(Failure::Different),
        Verdict::CouldNotCompare => {
            Err(Failure::CouldNotCompare { denied: report.could_not_compare.iter().any(|it| it.denied) })
        }
    }
}

fn print(report: &CompareReport, verdict: Verdict) {
    if verdict != Verdict::Equal {
        for (name, side) in [("A", &report.a), ("B", &report.b)] {
            anstream::println!("{name} is {}, PostgreSQL {}", side.label, side.version);
        }
    }
    let mut classes: BTreeMap<Class, Vec<&Difference>> = BTreeMap::new();
    for difference in &report.differences {
        classes.entry(difference.class).or_default().push(difference);
    }
    for (class, differences) in classes {
        anstream::println!("{}{}", class.words(), caution(class, report));
        for difference in differences {
            anstream::println!("  {}", line(difference));
            if class == Class::Content {
                examples(report, &difference.object);
            }
        }
    }
    for it in &report.could_not_compare {
        anstream::println!("could not compare {} of {}: {}", it.object, it.side, one_line(&it.why));
    }
    for it in &report.left_out {
        anstream::println!("left out {}: {}", it.object, it.why);
    }
    anstream::println!("{}", summary(report, verdict));
}

/// What a reader must know to judge differences of a class.
fn caution(class: Class, report: &CompareReport) -> &'static str {
    match class {
        Class::Definition if report.a.major != report.b.major => " (two majors may print the same one differently)",
        _ => "",
    }
}

fn line(difference: &Difference) -> String {
    let object = one_line(&difference.object);
    let shown = |value: &String| one_line(value);
    let values = match (&difference.a, &difference.b) {
        (Some(a), None) if a == "exists" => "only in A".to_owned(),
        (None, Some(b)) if b == "exists" => "only in B".to_owned(),
        (a, b) => {
            let shown = |value: &Option<String>| value.as_ref().map_or_else(|| "nothing".to_owned(), shown);
            format!("A has {}, B has {}", shown(a), shown(b))
        }
    };
    match &difference.property {
        Some(property) => format!("{object}: {}: {values}", one_line(property)),
        None => format!("{object}: {values}"),
    }
}

fn examples(report: &CompareReport, table: &str) {
    let Some(table) = report.tables.iter().find(|it| it.table == table) else { return };
    for example in &table.examples {
        let found = match example.found {
            compare::Where::OnlyInA => "only in A",
            compare::Where::OnlyInB => "only in B",
            compare::Where::Differs => "differs",
        };
        anstream::println!("    row {} {found}", one_line(&example.key));
    }
}

/// What a value or name is shown as: without control characters, and not endless.
fn one_line(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let mut shown: String = text.chars().take(SHOWN_CHARS).map(escape).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

fn summary(report: &CompareReport, verdict: Verdict) -> String {
    let count = report.differences.len();
    let answer = match verdict {
        Verdict::Equal => "equal".to_owned(),
        Verdict::Different if count == 1 => "1 difference".to_owned(),
        Verdict::Different => format!("{count} differences"),
        Verdict::CouldNotCompare => "nothing differs, but not everything could be compared".to_owned(),
    };
    let not_compared = match report.could_not_compare.len() {
        0 => String::new(),
        count => format!(", {count} not compared"),
    };
    let sampled = report.tables.iter().filter(|table| table.sampled.is_some()).count();
    let sampled = if sampled == 0 { String::new() } else { format!(" ({sampled} of them sampled)") };
    format!(
        "{answer}: {} tables{sampled}, {} rows{not_compared}, {} in {}",
        report.tables.len(),
        report.rows(),
        report.compared.join(" and "),
        show::duration(report.elapsed)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_one_line_whatever_is_in_it() {
        let difference = |property: Option<&str>, a: Option<&str>, b: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            let (property, a, b) = (owned(property), owned(a), owned(b));
            line(&Difference { class: Class::Routine, object: "public.\"f\n\"".to_owned(), property, a, b })
        };
        assert_eq!(difference(None, Some("exists"), None), "public.\"f\\n\": only in A");
        assert_eq!(difference(None, None, Some("exists")), "public.\"f\\n\": only in B");
        assert_eq!(difference(Some("cost"), Some("1"), None), "public.\"f\\n\": cost: A has 1, B has nothing");
        assert_eq!(difference(Some("x"), Some("a\tb"), Some("")), "public.\"f\\n\": x: A has a\\tb, B has ");
        assert_eq!(one_line(&"x".repeat(300)).chars().count(), SHOWN_CHARS + 1);
    }
}
