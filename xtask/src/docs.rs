//! The table "what works today", rendered from `docs/requirements.toml` into `README.md`, and the one of `docs/runbook.md`: what
//! runbooks do by hand, and what does it here.
//!
//! The list holds one line per requirement that a test covers, with the test's name. The tidy test refuses a name that
//! is no test and a table that is not current, so the README cannot promise what nothing proves.

use crate::{Outcome, place};
use std::fs;

/// One covered requirement.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Covered {
    pub(crate) id: String,
    pub(crate) says: String,
    pub(crate) test: String,
    /// What a runbook does by hand; such a line stands in the table of runbooks instead.
    pub(crate) original: String,
}

const BEGIN: &str = "<!-- covered -->";
const END: &str = "<!-- /covered -->";

/// The documents with a table.
pub(crate) const TABLES: [&str; 2] = ["README.md", "docs/runbook.md"];

/// Writes the tables.
pub(crate) fn write() -> Outcome {
    let covered = covered()?;
    for name in TABLES {
        let path = place::workspace().join(name);
        let text = fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
        let wanted = with_table(name, &text, &covered)?;
        if wanted == text {
            println!("{name} is current");
            continue;
        }
        fs::write(&path, wanted).map_err(|error| format!("{name}: {error}"))?;
        println!("{name} has a new table");
    }
    Ok(())
}

/// Reads the list of the tree.
pub(crate) fn covered() -> Result<Vec<Covered>, String> {
    let path = place::workspace().join("docs/requirements.toml");
    parse(&fs::read_to_string(path).map_err(|error| format!("docs/requirements.toml: {error}"))?)
}

/// Replaces what stands between the markers.
pub(crate) fn with_table(name: &str, text: &str, covered: &[Covered]) -> Result<String, String> {
    let missing = || format!("{name} has no {BEGIN} … {END} for the table");
    let (before, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    let (originals, promises): (Vec<&Covered>, Vec<&Covered>) = covered.iter().partition(|it| !it.original.is_empty());
    let table = if name == TABLES[0] { table(&promises) } else { originals_table(&originals) };
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

fn originals_table(covered: &[&Covered]) -> String {
    let rows = covered.iter().map(|it| format!("| {} | {} | {} | `{}` |\n", it.id, it.original, it.says, it.test));
    format!("| id | in a runbook | here | proven by |\n|---|---|---|---|\n{}", rows.collect::<String>())
}

fn table(covered: &[&Covered]) -> String {
    if covered.is_empty() {
        return "Nothing is covered by a test yet.\n".to_owned();
    }
    let rows = covered.iter().map(|it| format!("| {} | {} | `{}` |\n", it.id, it.says, it.test));
    format!("| id | what works today | proven by |\n|---|---|---|\n{}", rows.collect::<String>())
}

/// Parses the small part of TOML that the list uses: `[[covered]]` tables of `key = "string"`, and comments.
fn parse(text: &str) -> Result<Vec<Covered>, String> {
    let mut list: Vec<Covered> = Vec::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        let outcome = match line {
            "" => Ok(()),
            comment if comment.starts_with('#') => Ok(()),
            "[[covered]]" => {
                list.push(Covered::default());
                Ok(())
            }
            pair => set(list.last_mut(), pair),
        };
        outcome.map_err(|why| format!("docs/requirements.toml line {number}: {why}"))?;
    }
    match list.iter().find(|it| it.id.is_empty() || it.says.is_empty() || it.test.is_empty()) {
        Some(it) => Err(format!("docs/requirements.toml: an entry is not complete: {it:?}")),
        None => Ok(list),
    }
}

fn set(entry: Option<&mut Covered>, pair: &str) -> Outcome {
    let entry = entry.ok_or("a key stands before the first [[covered]]")?;
    let (key, value) = pair.split_once('=').ok_or("neither [[covered]] nor key = \"value\"")?;
    let value = value.trim().strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    let value = value.filter(|it| !it.contains(['"', '\\', '|'])).ok_or("a value is text in \"…\" without \" \\ |")?;
    match key.trim() {
        "id" => entry.id = value.to_owned(),
        "says" => entry.says = value.to_owned(),
        "test" => entry.test = value.to_owned(),
        "original" => entry.original = value.to_owned(),
        other => return Err(format!("unknown key `{other}`")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "# list\n[[covered]]\nid = \"W1\"\nsays = \"it backs up\"\ntest = \"it_backs_up\"\n";

    #[test]
    fn the_table_stands_between_the_markers_and_stays_the_same() {
        let list = parse(ONE).unwrap();
        let readme = format!("# Asof\n{BEGIN}old{END}\nend\n");
        let written = with_table("README.md", &readme, &list).unwrap();
        assert!(written.contains("| W1 | it backs up | `it_backs_up` |\n<!-- /covered -->\nend\n"), "{written}");
        assert_eq!(with_table("README.md", &written, &list).unwrap(), written);
        assert!(with_table("README.md", "# Asof\n", &list).is_err());
    }

    #[test]
    fn a_list_with_a_mistake_names_its_line() {
        let check = |text: &str, expect: &str| {
            let why = parse(text).unwrap_err();
            assert!(why.contains(expect), "{why}");
        };
        check("id = \"W1\"", "line 1: a key stands before");
        check("[[covered]]\nid = W1", "line 2: a value is text");
        check("[[covered]]\nname = \"W1\"", "line 2: unknown key `name`");
        check("[[covered]]\nid = \"W1\"", "not complete");
    }
}
