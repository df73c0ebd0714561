//! What a drill found, in words for a person and for the journal.

use asof_repository::lineage::REPORT_LEN;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::sql_check::CheckResult;
use super::super::verify::shortened;
use crate::error::{Error, Result};

/// One step, as it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was done or looked at.
    pub what: String,
    /// Whether it went well.
    pub ok: bool,
    /// What was found, or why it failed.
    pub found: String,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// What a drill found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DrillReport {
    /// What the dump is called.
    pub dump: String,
    /// Its database, where that is known.
    pub database: Option<String>,
    /// Whether every step and every check passed.
    pub passed: bool,
    /// The version of the server it was loaded into.
    pub server_version: Option<String>,
    /// The major of that server; that of the dump where none was started.
    pub major: u32,
    /// Every step, in order.
    pub steps: Vec<Step>,
    /// What the operator's checks found.
    pub checks: Vec<CheckResult>,
    /// How long the load took, in milliseconds: what a restore of it would take, at least.
    pub load_ms: Option<u64>,
    /// How long everything took, in milliseconds.
    pub total_ms: u64,
    /// What the operator should know.
    pub remarks: Vec<String>,
    /// Whether the dump itself is damaged.
    pub damaged: bool,
}

impl DrillReport {
    /// Refuses to call it a success.
    ///
    /// # Errors
    /// `Damaged` when the dump is, else `Program`, with the first thing that failed.
    pub fn require(&self) -> Result<()> {
        if self.passed {
            return Ok(());
        }
        let failed = self.steps.iter().find(|step| !step.ok);
        let step = failed.map(|step| format!("{}: {}", step.what, first_line(&step.found)));
        let hint = failed.and_then(|step| step.found.split_once('\n')).map(|(_, hint)| hint.to_owned());
        let check = self.checks.iter().find(|check| !check.ok);
        let check = check.map(|check| format!("check {} saw {}, expected {}", check.name, check.value, check.expected));
        let what = format!("the drill of {} failed: {}", self.dump, step.or(check).unwrap_or_default());
        Err(match self.damaged {
            true => Error::damaged(what, "take another dump; this one cannot be relied on"),
            false => Error::Program { what, hint },
        })
    }

    /// As JSON that a journal takes: texts are cut, and passed checks left out, where it would be too long. What programs said besides
    /// the reason is left out always: it may quote rows, and more people read a journal than the data.
    #[must_use]
    pub fn bounded(&self) -> Value {
        for (len, most) in [(2000, 1000), (300, 100), (80, 50)] {
            let mut report = self.clone();
            for step in &mut report.steps {
                step.found = shortened(first_line(&step.found), len);
            }
            report.checks.sort_by_key(|check| check.ok);
            report.checks.truncate(most);
            for check in &mut report.checks {
                check.name = shortened(&check.name, len);
                check.expected = shortened(&check.expected, len);
            }
            report.remarks.truncate(20);
            report.remarks.iter_mut().for_each(|remark| *remark = shortened(remark, len));
            let value = serde_json::to_value(&report).expect("a report can be written as JSON");
            if value.to_string().len() <= REPORT_LEN {
                return value;
            }
        }
        json!({ "passed": self.passed, "load_ms": self.load_ms, "total_ms": self.total_ms })
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_takes_the_longest_report_and_what_failed_is_in_it() {
        let check = |at: usize| CheckResult {
            name: format!("check {at}"),
            ok: at != 4999,
            value: "v".repeat(200),
            expected: "e".repeat(3000),
            elapsed_ms: 1,
        };
        let step = Step {
            what: "rows".to_owned(),
            ok: false,
            found: "ü".repeat(100_000) + "\nCOPY a, line 1: \"secret\"",
            elapsed_ms: 1,
        };
        let report = DrillReport {
            steps: vec![step],
            checks: (0..5000).map(check).collect(),
            remarks: vec!["r".repeat(10_000); 500],
            ..DrillReport::default()
        };
        let bounded = report.bounded();
        assert!(bounded.to_string().len() <= REPORT_LEN);
        assert_eq!(bounded["checks"][0]["name"], "check 4999");
        assert!(!bounded.to_string().contains("secret"), "rows are nothing for a journal");
        assert!(report.require().is_err_and(|error| error.hint().is_some_and(|hint| hint.contains("secret"))));
        assert_eq!(DrillReport::default().bounded()["passed"], false);
    }
}
