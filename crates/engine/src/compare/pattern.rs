//! Which relations are compared.

use asof_postgres::pattern::Pattern;

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
