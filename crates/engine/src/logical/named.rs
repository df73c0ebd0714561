//! Names for a sentence: the first few, and how many more there are.

/// As many are given.
const SHOWN: usize = 5;

/// Names of one kind of object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    count: u64,
    first: Vec<String>,
}

impl Named {
    /// Of so many, these are the first.
    pub(super) fn some(first: Vec<String>, count: u64) -> Self {
        Self { count, first }
    }

    pub(super) fn add(&mut self, name: String) {
        self.count += 1;
        if self.first.len() < SHOWN {
            self.first.push(name);
        }
    }

    /// `a, b, c, d, e and 2 more`; `None` when there is none.
    pub(super) fn list(&self) -> Option<String> {
        let more = match self.count.saturating_sub(self.first.len() as u64) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        (self.count > 0).then(|| format!("{}{more}", self.first.join(", ")))
    }
}

impl FromIterator<String> for Named {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        let mut named = Self::default();
        names.into_iter().for_each(|name| named.add(name));
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_the_first_few_are_given_and_the_others_counted() {
        let of = |count: u64| (1..=count).map(|n| format!("t{n}")).collect::<Named>().list();
        assert_eq!(of(0), None);
        assert_eq!(of(5).as_deref(), Some("t1, t2, t3, t4, t5"));
        assert_eq!(of(7).as_deref(), Some("t1, t2, t3, t4, t5 and 2 more"));
        assert_eq!(Named::some(vec!["a".to_owned()], 3).list().as_deref(), Some("a and 2 more"));
    }
}
