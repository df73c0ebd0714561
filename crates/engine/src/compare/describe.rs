//! Asks both sides for their descriptions and notes what differs.

use asof_postgres::client::Row;
use asof_postgres::version::Major;
use futures::future::try_join;

use super::facts::{Fact, Facts, differences, plain};
use super::report::CouldNotCompare;
use super::schema::{OWNERS, PRELUDE, QUERIES, Query, ROLES};
use super::session::{Pair, Reader, Refusal, text};
use super::{Class, CompareReport, CompareRequest, Difference};
use crate::error::Result;

pub(super) async fn compare(pair: &mut Pair, request: &CompareRequest, report: &mut CompareReport) -> Result<()> {
    let oldest = pair.a.major.min(pair.b.major);
    let Pair { a, b } = pair;
    let (a, b) = try_join(read(a, request, oldest), read(b, request, oldest)).await?;
    // What one side did not tell says nothing about the other.
    let told = |difference: &Difference| {
        !a.refused.iter().chain(&b.refused).any(|(class, _)| *class == difference.class)
            && !a
                .hidden
                .iter()
                .chain(&b.hidden)
                .any(|hidden| hidden.object == named(difference.class, &difference.object))
    };
    report.differences.extend(differences(&a.facts, &b.facts).into_iter().filter(told));
    report.could_not_compare.extend(a.hidden.into_iter().chain(b.hidden));
    report.could_not_compare.extend(a.refused.into_iter().chain(b.refused).map(|(_, refused)| refused));
    Ok(())
}

fn named(class: Class, object: &str) -> String {
    format!("{} {object}", class.words())
}

/// What one side told.
#[derive(Default)]
struct Told {
    facts: Facts,
    /// Classes of which nothing is known.
    refused: Vec<(Class, CouldNotCompare)>,
    /// Objects of which something is not known.
    hidden: Vec<CouldNotCompare>,
}

impl Told {
    fn add(&mut self, fact: Fact, label: &str) {
        if fact.property != "hidden" {
            self.facts.add(fact);
        } else if let Some(why) = fact.value {
            let object = named(fact.class, &plain(&fact.object));
            self.hidden.push(CouldNotCompare { side: label.to_owned(), object, why, denied: true });
        }
    }
}

/// Reads everything that the request wants of one side; `oldest` is the older one of both majors.
async fn read(side: &mut Reader, request: &CompareRequest, oldest: Major) -> Result<Told> {
    let mut told = Told::default();
    let label = side.label.clone();
    for query in wanted(request).filter(|query| query.since <= oldest) {
        match side.main().attempt(&sql(query, oldest)).await? {
            Ok(rows) => {
                let facts = rows.iter().filter_map(|row| fact(query, row, request));
                facts.for_each(|fact| told.add(fact, &label));
            }
            Err(Refusal { why, denied }) => {
                let object = format!("descriptions of class {}", query.class.words());
                told.refused.push((query.class, CouldNotCompare { side: label.clone(), object, why, denied }));
            }
        }
    }
    Ok(told)
}

fn wanted(request: &CompareRequest) -> impl Iterator<Item = &'static Query> {
    let owners = if request.owners { OWNERS } else { &[] };
    let roles = if request.roles { ROLES } else { &[] };
    QUERIES.iter().chain(owners).chain(roles)
}

fn sql(query: &Query, oldest: Major) -> String {
    // What only newer servers know of the older one cannot have.
    let unknown = if oldest < Major::V17 { "MAINTAIN" } else { "" };
    format!("{PRELUDE}{}", query.sql.replace("$unknown_privilege", unknown))
}

/// Columns of every query: object, parent, schema and name of the relation that it goes with, property, value.
fn fact(query: &Query, row: &Row, request: &CompareRequest) -> Option<Fact> {
    let object = text(row, 0)?;
    let property = text(row, 4)?;
    if property == "owner" && !request.owners {
        return None;
    }
    let taken = match (text(row, 2), text(row, 3)) {
        (Some(schema), Some(name)) => request.tables.take(&schema, &name),
        _ => request.tables.include.is_empty(),
    };
    let value = text(row, 5).map(|value| {
        if EXPRESSIONS.contains(&&*property) { value.replace("::\"json\"", "::json") } else { of_any_major(&value) }
    });
    let (object, parent) = (of_any_major(&object), text(row, 1).map(|parent| of_any_major(&parent)));
    taken.then_some(Fact { class: query.class, object, parent, property, value })
}

/// Properties in which anything may stand between quotes.
const EXPRESSIONS: [&str; 9] =
    ["text", "default", "generated", "query", "definition", "source", "using", "with check", "options"];

/// Names of types as 17 and newer write them: `json` became a word of the grammar there, which `quote_all_identifiers` leaves as it is
/// (`format_type_extended`, format_type.c).
fn of_any_major(text: &str) -> String {
    text.replace("\"pg_catalog\".\"json\"", "json").replace("pg_catalog.\"json\"", "json").replace("\"json\"", "json")
}
