//! SQL by `psql`, which ends well whatever it is given last: a script that is cut off, in a comment too, or by our own end. So its
//! transaction is begun and committed by statements of ours, the last of which comes only behind a whole script, and it says at the
//! very end that it came there.

use std::ffi::OsString;

use asof_world::planted;

use super::load::LoadPlan;
use super::program::{Link, Running};
use crate::error::{Error, Result};

/// A `psql` that stops at the first error.
pub(super) struct Psql {
    pub(super) running: Running,
    /// All of it or nothing.
    at_once: bool,
    /// What it says at the end.
    mark: String,
}

impl Psql {
    pub(super) async fn start(plan: &LoadPlan, link: &Link, at_once: bool) -> Result<Self> {
        let arguments = ["--no-psqlrc", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1", "--file=-"];
        let mut arguments: Vec<OsString> = arguments.into_iter().map(OsString::from).collect();
        let by_itself = at_once && planted("l6");
        arguments.extend(by_itself.then(|| "--single-transaction".into()));
        let at_once = at_once && !by_itself;
        let running = link.start(&plan.world, &plan.client, "psql", arguments).await?;
        let mut psql = Self { running, at_once, mark: format!("asof-{}", plan.world.id()) };
        if at_once {
            psql.say("BEGIN;\n".to_owned()).await?;
        }
        Ok(psql)
    }

    /// Gives it SQL of ours. That it reads no further is said by its end.
    pub(super) async fn say(&mut self, sql: String) -> Result<u64> {
        let len = sql.len() as u64;
        self.running.input().write(sql.into_bytes().into()).await?;
        Ok(len)
    }

    /// Ends it, behind everything that it was given: bytes, or nothing where it read no further. What was done counts only
    /// from here on. Returns the bytes, and what it remarked.
    pub(super) async fn end(self, given: Result<Option<u64>>) -> Result<(u64, Vec<String>)> {
        self.end_with("", given).await
    }

    /// As [`end`](Self::end), behind `last`.
    pub(super) async fn end_with(mut self, last: &str, given: Result<Option<u64>>) -> Result<(u64, Vec<String>)> {
        let given = match given {
            Ok(given) => given,
            Err(error) => {
                self.running.stop().await;
                return Err(error);
            }
        };
        let commit = if self.at_once { "COMMIT;\n" } else { "" };
        if given.is_some() {
            // Behind a line that has no end.
            self.say(format!("\n{last}{commit}\\echo {}\n", self.mark)).await?;
        }
        let said = self.running.rest().await?;
        let remarks = self.running.end().await?;
        if !String::from_utf8_lossy(&said).contains(&self.mark) {
            let what = "the script is cut off: a quote, a comment or the rows of a table have no end";
            return Err(Error::damaged(what, "take another copy of it, or dump again"));
        }
        Ok((given.unwrap_or(0), remarks))
    }
}
