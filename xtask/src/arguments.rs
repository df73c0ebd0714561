//! What was asked for, from the words of the command line.

use crate::catalogue::{self, Entry, Kind};

/// The help text.
pub(crate) const USAGE: &str = "\
usage: cargo xtask TASK

  setup [--quick]   install what the tests need and this machine lacks; says what and why first
  test [--quick]    everything that must hold before a commit; --quick: one PostgreSQL major, no demo
  demo              build the release binary and show it at work on a PostgreSQL of its own
  docs              write the generated parts of the documents
  campaign NAME     a long run that proves one promise (docs/campaigns.md)
  bench NAME        a measurement that a document quotes
  dist NAME         what is released";

/// One task with its choices.
#[derive(Debug)]
pub(crate) enum Task {
    /// Print the help text.
    Help,
    /// Install what is missing, for the quick tests or for all.
    Setup { quick: bool },
    /// Run the tests on one major, or on all with the demo.
    Test { quick: bool },
    /// Run the demo.
    Demo,
    /// Write the generated parts of the documents.
    Docs,
    /// Run one row of the catalogue.
    Listed(&'static Entry),
}

/// Parses the words after `cargo xtask`; the error is one clause.
pub(crate) fn parse(words: &[String]) -> Result<Task, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["help" | "--help" | "-h"] => Ok(Task::Help),
        ["setup", rest @ ..] => Ok(Task::Setup { quick: quick(rest)? }),
        ["test", rest @ ..] => Ok(Task::Test { quick: quick(rest)? }),
        ["demo"] => Ok(Task::Demo),
        ["docs"] => Ok(Task::Docs),
        ["campaign", rest @ ..] => listed(Kind::Campaign, rest),
        ["bench", rest @ ..] => listed(Kind::Bench, rest),
        ["dist", rest @ ..] => listed(Kind::Dist, rest),
        ["demo" | "docs", extra, ..] => Err(format!("unexpected argument `{extra}`")),
        [unknown, ..] => Err(format!("unknown task `{unknown}`")),
    }
}

fn quick(rest: &[&str]) -> Result<bool, String> {
    match rest {
        [] => Ok(false),
        ["--quick"] => Ok(true),
        [extra, ..] => Err(format!("unexpected argument `{extra}`")),
    }
}

fn listed(kind: Kind, rest: &[&str]) -> Result<Task, String> {
    match rest {
        [] => Err(format!("which {}? {}", kind.word(), catalogue::known(kind))),
        [name] => catalogue::find(kind, name)
            .map(Task::Listed)
            .ok_or_else(|| format!("unknown {} `{name}`; {}", kind.word(), catalogue::known(kind))),
        [_, extra, ..] => Err(format!("unexpected argument `{extra}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expect: &str) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let got = match parse(&words) {
            Ok(task) => format!("{task:?}"),
            Err(why) => why,
        };
        assert_eq!(got, expect, "{line}");
    }

    #[test]
    fn words_become_tasks_or_a_reason() {
        check("", "Help");
        check("test", "Test { quick: false }");
        check("test --quick", "Test { quick: true }");
        check("setup --quick", "Setup { quick: true }");
        check("setup --fast", "unexpected argument `--fast`");
        check("demo --quick", "unexpected argument `--quick`");
        check("tset", "unknown task `tset`");
    }

    #[test]
    fn an_unknown_campaign_is_told_which_ones_there_are() {
        for kind in ["campaign", "bench", "dist"] {
            let words = [kind.to_owned(), "no-such-name".to_owned()];
            let why = parse(&words).unwrap_err();
            assert!(why.starts_with(&format!("unknown {kind} `no-such-name`; known:")), "{why}");
        }
    }
}
