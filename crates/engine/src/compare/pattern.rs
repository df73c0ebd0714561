//! Which relations are compared.

use asof_postgres::pattern::Pattern;

use super::session::{Pair, text};
use crate::error::{Error, Result};

/// Which relations are compared: all that are included (without any pattern: all) and not excluded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns {
    /// Those that are meant; empty means all.
    pub include: Vec<Pattern>,
    /// Those that are not.
    pub exclude: Vec<Pattern>,
}

impl Patterns {
    /// Whether a relation is meant.
    #[must_use]
    pub fn take(&self, schema: &str, name: &str) -> bool {
        let among = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(schema, name));
        (self.include.is_empty() || among(&self.include)) && !among(&self.exclude)
    }
}

/// Refuses patterns that no relation of either side matches: nothing would be compared, and that would be called equal.
pub(super) async fn refuse_idle(pair: &mut Pair, patterns: &Patterns) -> Result<()> {
    let mut idle: Vec<&Pattern> = patterns.include.iter().collect();
    for side in [&mut pair.a, &mut pair.b] {
        let sql = "SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
                   WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')";
        let rows = if idle.is_empty() { Vec::new() } else { side.main().query(sql).await? };
        let names: Vec<_> = rows.iter().map(|row| (text(row, 0), text(row, 1))).collect();
        let is_there = |pattern: &Pattern| {
            let mut names = names.iter().filter_map(|(schema, name)| Some((schema.as_ref()?, name.as_ref()?)));
            names.any(|(schema, name)| pattern.matches(schema, name))
        };
        idle.retain(|pattern| !is_there(pattern));
    }
    match idle.first() {
        None => Ok(()),
        Some(pattern) => {
            let what = format!("no table of either side matches {pattern}");
            Err(Error::refused(what, "quote names with capitals as in SQL; * stands for any part of a name"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_pattern_everything_is_meant_and_exclusion_wins() {
        let patterns = |include: &[&str], exclude: &[&str]| {
            let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("is a pattern")).collect();
            Patterns { include: parse(include), exclude: parse(exclude) }
        };
        assert!(patterns(&[], &[]).take("a", "b"));
        assert!(!patterns(&["a.*"], &["*.b"]).take("a", "b"));
        assert!(patterns(&["a.*"], &["*.b"]).take("a", "c"));
        assert!(!patterns(&["a.*"], &[]).take("b", "c"));
    }
}
