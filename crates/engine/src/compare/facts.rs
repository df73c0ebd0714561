//! What the catalogs say of one side, in a form that can be held against the other, and the comparison itself: no I/O.

use std::collections::{BTreeMap, BTreeSet};

use super::{Class, Difference};

/// What is known of one side.
#[derive(Debug, Default)]
pub(super) struct Facts(BTreeMap<(Class, String), Thing>);

/// An object with what can be said of it.
#[derive(Debug, Default)]
struct Thing {
    /// The object that it goes with: without that one, its absence is no news.
    parent: Option<String>,
    properties: BTreeMap<String, Option<String>>,
}

/// One fact, as a query gives it.
#[derive(Debug)]
pub(super) struct Fact {
    pub(super) class: Class,
    /// Identity; every name in it is quoted.
    pub(super) object: String,
    /// The object that it goes with, as `kind:identity`.
    pub(super) parent: Option<String>,
    pub(super) property: String,
    pub(super) value: Option<String>,
}

impl Facts {
    pub(super) fn add(&mut self, fact: Fact) {
        let thing = self.0.entry((fact.class, fact.object)).or_default();
        thing.parent = fact.parent;
        thing.properties.insert(fact.property, fact.value);
    }

    /// Whether there is an object that is named as `kind:identity`.
    fn has(&self, wanted: &str) -> bool {
        let Some((kind, object)) = wanted.split_once(':') else { return false };
        let class = match kind {
            "relation" => Class::Relation,
            "type" => Class::Type,
            "routine" => Class::Routine,
            "schema" => Class::Schema,
            _ => return true,
        };
        self.0.contains_key(&(class, object.to_owned()))
    }
}

/// What differs between two sides.
pub(super) fn differences(a: &Facts, b: &Facts) -> Vec<Difference> {
    let keys: BTreeSet<_> = a.0.keys().chain(b.0.keys()).collect();
    let mut found = Vec::new();
    for key in keys {
        match (a.0.get(key), b.0.get(key)) {
            (Some(here), Some(there)) => found.extend(differing(key, here, there)),
            (Some(here), None) => found.extend(one_sided(key, here, b).map(|value| only(key, Some(value), None))),
            (None, Some(there)) => found.extend(one_sided(key, there, a).map(|value| only(key, None, Some(value)))),
            (None, None) => {}
        }
    }
    found
}

/// What there is to say of an object that the other side lacks; nothing where it lacks what the object goes with.
fn one_sided(key: &(Class, String), thing: &Thing, other: &Facts) -> Option<String> {
    // A large object that one side lacks is found with its content.
    if matches!(key.0, Class::ColumnOrder | Class::LargeObject)
        || thing.parent.as_deref().is_some_and(|parent| !other.has(parent))
    {
        return None;
    }
    let mut values = thing.properties.values();
    match (values.next(), values.next()) {
        (Some(Some(value)), None) => Some(value.clone()),
        _ => Some("exists".to_owned()),
    }
}

fn only((class, object): &(Class, String), a: Option<String>, b: Option<String>) -> Difference {
    Difference { class: *class, object: plain(object), property: None, a, b }
}

fn differing((class, object): &(Class, String), here: &Thing, there: &Thing) -> Vec<Difference> {
    let names: BTreeSet<_> = here.properties.keys().chain(there.properties.keys()).collect();
    let value = |thing: &Thing, name| thing.properties.get(name).cloned().flatten();
    let pairs = names.into_iter().map(|name| (name, value(here, name), value(there, name)));
    let unequal = pairs.filter(|(_, a, b)| match class {
        Class::ColumnOrder => !same_order(a.as_deref(), b.as_deref()),
        _ => a != b,
    });
    let shown = |name: &str, value: Option<String>| match name {
        "type" | "owner" | "not null constraint" => value.map(|value| plain(&value)),
        // A digest of them, which is nobody's business either.
        "secret options" => value.map(|_| "***".to_owned()),
        _ => value,
    };
    let difference = |(name, a, b): (&String, _, _)| Difference {
        class: *class,
        object: plain(object),
        property: Some(plain(name)),
        a: shown(name, a),
        b: shown(name, b),
    };
    unequal.map(difference).collect()
}

/// Whether the columns that both have come in the same order; both are lists in JSON.
fn same_order(a: Option<&str>, b: Option<&str>) -> bool {
    let parse = |list: Option<&str>| serde_json::from_str::<Vec<String>>(list.unwrap_or("[]")).unwrap_or_default();
    let (a, b) = (parse(a), parse(b));
    let common = |list: &[String], other: &[String]| -> Vec<String> {
        list.iter().filter(|name| other.contains(name)).cloned().collect()
    };
    common(&a, &b) == common(&b, &a)
}

/// An identity in which only those names are quoted that need it for being more than small letters, digits and `_`.
///
/// The catalogs are asked with `quote_all_identifiers`, because which names need quotes depends on the major's keywords.
pub(super) fn plain(identity: &str) -> String {
    let mut shown = String::new();
    let mut rest = identity;
    while let Some(open) = rest.find('"') {
        let (before, quoted) = rest.split_at(open);
        shown.push_str(before);
        let end = end_of_quoted(quoted);
        let (quoted, after) = quoted.split_at(end);
        let name = quoted.trim_matches('"');
        let small = |c: char| c.is_ascii_lowercase() || c == '_';
        let simple = name.starts_with(small) && name.chars().all(|c| small(c) || c.is_ascii_digit());
        rest = after;
        if let ("pg_catalog", Some(after)) = (name, after.strip_prefix('.')) {
            rest = after;
            continue;
        }
        shown.push_str(if simple && quoted.len() == name.len() + 2 { name } else { quoted });
    }
    shown + rest
}

/// Where a name in quotes ends, of a text that begins with its opening quote.
fn end_of_quoted(text: &str) -> usize {
    let mut at = 1;
    while let Some(next) = text[at..].find('"') {
        at += next + 1;
        if !text[at..].starts_with('"') {
            return at;
        }
        at += 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(class: Class, object: &str, parent: Option<&str>, property: &str, value: &str) -> Fact {
        let (object, property) = (object.to_owned(), property.to_owned());
        Fact { class, object, parent: parent.map(str::to_owned), property, value: Some(value.to_owned()) }
    }

    fn facts(list: Vec<Fact>) -> Facts {
        let mut facts = Facts::default();
        list.into_iter().for_each(|fact| facts.add(fact));
        facts
    }

    #[test]
    fn names_are_shown_without_quotes_that_they_do_not_need() {
        for (identity, expect) in [
            ("\"public\".\"t\"", "public.t"),
            ("\"p\" on \"a b\".\"T\"", "p on \"a b\".\"T\""),
            ("\"say \"\"hi\"\"\".\"x1\"", "\"say \"\"hi\"\"\".x1"),
            ("\"1a\".\"\"", "\"1a\".\"\""),
            ("\"f\"(integer, \"s\".\"t\"[])", "f(integer, s.t[])"),
            ("\"f\"(\"pg_catalog\".\"text\")", "f(text)"),
            ("\"open", "\"open"),
        ] {
            assert_eq!(plain(identity), expect);
        }
    }

    #[test]
    fn what_belongs_to_a_missing_object_is_not_reported_again() {
        let table = || fact(Class::Relation, "t", None, "kind", "table");
        let column = || fact(Class::Column, "t.a", Some("relation:t"), "type", "integer");
        let found = differences(&facts(vec![table(), column()]), &facts(vec![]));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].class, Class::Relation);
        let found = differences(&facts(vec![table(), column()]), &facts(vec![table()]));
        assert_eq!((found.len(), found[0].class, found[0].a.as_deref()), (1, Class::Column, Some("integer")));
    }

    #[test]
    fn the_order_of_columns_is_that_of_those_on_both_sides() {
        assert!(same_order(Some(r#"["a","b","c"]"#), Some(r#"["a","c"]"#)));
        assert!(!same_order(Some(r#"["a","b","c"]"#), Some(r#"["c","a"]"#)));
    }
}
