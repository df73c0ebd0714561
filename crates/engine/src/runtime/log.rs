//! What a server's log says about its end.

use std::path::{Path, PathBuf};

use asof_world::{Files, World};

/// More of a log than this is not looked at.
const TAIL_BYTES: u64 = 64 << 10;
const TAIL_LINES: usize = 12;

/// A log from the point where a server was started.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) path: PathBuf,
    /// Where this start begins: what stands before is of earlier ones.
    pub(super) from: u64,
}

impl Log {
    /// The log as it is before a start.
    pub(super) async fn before_start(world: &World, run_directory: &Path) -> Self {
        let (files, path) = (world.files.clone(), run_directory.join("log"));
        let looked_at = path.clone();
        let from = world.blocking(move || files.attributes(&looked_at).map_or(0, |found| found.len)).await;
        Self { path, from }
    }

    /// What was logged since, from its end at most.
    pub(super) async fn text(&self, world: &World) -> String {
        let (files, path, from) = (world.files.clone(), self.path.clone(), self.from);
        world.blocking(move || tail(files.as_ref(), &path, from)).await
    }
}

fn tail(files: &dyn Files, path: &Path, from: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let file = files.open(path)?;
        let len = file.len()?;
        let from = from.max(len.saturating_sub(TAIL_BYTES)).min(len);
        let mut bytes = vec![0; usize::try_from(len - from).unwrap_or(0)];
        let read = file.read_at(from, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    };
    // A log that cannot be read must not hide the failure that it was to explain.
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// The reason in one line: the last message that ended anything, without what stands before its level.
pub(super) fn reason(text: &str) -> Option<String> {
    let ends = |line: &&str| ["FATAL:", "PANIC:"].iter().any(|level| line.contains(level));
    // Connections that come too early are refused with FATAL, and say nothing about the server.
    let early = |line: &&str| line.contains("the database system is ") || line.contains("terminating connection");
    let line = text.lines().rev().filter(ends).find(|line| !early(line))?;
    let at = line.find("FATAL:").or_else(|| line.find("PANIC:"))?;
    Some(line[at..].to_owned())
}

/// The end of the log for a person: messages that ended anything first, then the last lines.
pub(super) fn excerpt(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.len().saturating_sub(TAIL_LINES);
    let fatal = lines[..last].iter().filter(|line| line.contains("FATAL:") || line.contains("PANIC:"));
    fatal.chain(&lines[last..]).copied().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_last_fatal_message_that_is_about_the_server() {
        let text = "t [1] LOG:  starting\nt [7] FATAL:  recovery ended before configured recovery target was reached\n\
                    t [9] FATAL:  the database system is starting up\nt [1] LOG:  shut down\n";
        let reason = reason(text).expect("there is one");
        assert_eq!(reason, "FATAL:  recovery ended before configured recovery target was reached");
        assert_eq!(super::reason("LOG: ready"), None);
    }

    #[test]
    fn an_excerpt_does_not_lose_an_early_fatal_message() {
        let text = format!("FATAL:  first\n{}", "LOG:  line\n".repeat(40));
        let shown = excerpt(&text);
        assert!(shown.starts_with("FATAL:  first\nLOG:"));
        assert_eq!(shown.lines().count(), 1 + TAIL_LINES);
    }
}
