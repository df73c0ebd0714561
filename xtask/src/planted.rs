//! `cargo xtask campaign planted`: every hazard's test with its rule, and without it.
//!
//! The tests are built with the feature `plant`, in a target directory of their own. Each must be green as it is and red
//! with `ASOF_PLANT` set to its hazard; a defect that is not found fails the campaign. The result is the table of
//! `docs/hazards.md`, which a test holds against the registry.

pub(crate) mod registry;

use crate::{Outcome, place, run, setup, simulation};
use registry::{LIB, PLANTS, Plant, UNTESTED};
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

/// A test that hangs is ended after so many seconds.
const LIMIT: &str = "600";
/// The heading of the table.
const HEADING: &str = "| id | hazard | test | defect planted | what the test says then |\n|---|---|---|---|---|\n";
/// The longest sentence of a test that is quoted.
const QUOTE_CHARS: usize = 110;

/// How one run of a test ended.
#[derive(Debug, PartialEq, Eq)]
enum Ran {
    Green,
    /// With the first line of the failure.
    Red(String),
}

/// What became of one hazard.
struct Tried {
    plant: &'static Plant,
    /// What the test said with the defect, or why it proves nothing.
    result: Result<String, String>,
}

/// Runs all tests, prints and writes the table.
pub(crate) fn campaign() -> Outcome {
    setup::prepare(true)?;
    simulation::commit();
    let bench = Bench::new()?;
    bench.build()?;
    let tried: Vec<Tried> = PLANTS.iter().map(|plant| bench.tried(plant)).collect();
    fs::remove_dir_all(&bench.data).map_err(|error| format!("{}: {error}", bench.data.display()))?;
    write(&tried)?;
    let missed: Vec<&str> = tried.iter().filter(|tried| tried.result.is_err()).map(|tried| tried.plant.id).collect();
    println!(r#"{{"campaign":"planted","planted":{},"found":{}}}"#, tried.len(), tried.len() - missed.len());
    if missed.is_empty() { Ok(()) } else { Err(format!("not found: {}", missed.join(", "))) }
}

/// Runs one test with its defect and without it, for a campaign that has to show that it can fail.
pub(crate) fn alone(plant: &'static Plant) -> Outcome {
    let bench = Bench::new()?;
    run::visibly(bench.cargo(plant.package, plant.target).arg("--no-run"))?;
    let Tried { result, .. } = bench.tried(plant);
    fs::remove_dir_all(&bench.data).map_err(|error| format!("{}: {error}", bench.data.display()))?;
    result.map(drop)
}

/// Where tests are built and what they run with.
struct Bench {
    target: PathBuf,
    trees: PathBuf,
    data: PathBuf,
}

impl Bench {
    fn new() -> Result<Self, String> {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        let shared = place::shared().map_err(|error| format!("no place for test data: {error}"))?;
        let data = shared.join("test-data").join(format!("planted-{}", process::id()));
        fs::create_dir_all(data.join("tmp")).map_err(|error| format!("{}: {error}", data.display()))?;
        Ok(Self { target: place::workspace().join(target).join("plant"), trees: setup::trees_directory()?, data })
    }

    fn build(&self) -> Outcome {
        let targets: BTreeSet<(&str, &str)> = PLANTS.iter().map(|plant| (plant.package, plant.target)).collect();
        for (package, target) in targets {
            run::visibly(self.cargo(package, target).arg("--no-run"))?;
        }
        Ok(())
    }

    fn cargo(&self, package: &str, target: &str) -> Command {
        let mut command = Command::new("timeout");
        let cargo = run::cargo();
        command.current_dir(place::workspace()).arg(LIMIT);
        command.arg(cargo.get_program()).args(["test", "--package", package, "--features", "plant"]);
        if target == LIB {
            command.arg("--lib")
        } else {
            command.args(["--test", target])
        };
        command.env("CARGO_TARGET_DIR", &self.target);
        command
    }

    fn tried(&self, plant: &'static Plant) -> Tried {
        let result = match (self.ran(plant, ""), self.ran(plant, plant.id)) {
            (Ok(Ran::Green), Ok(Ran::Red(said))) => Ok(said),
            (Ok(Ran::Green), Ok(Ran::Green)) => Err("the defect is not found".to_owned()),
            (Ok(Ran::Red(said)), _) => Err(format!("red without a defect: {said}")),
            (Err(why), _) | (_, Err(why)) => Err(why),
        };
        let (word, said) = match &result {
            Ok(said) => ("found", said),
            Err(why) => ("MISSED", why),
        };
        println!("{:<4} {word:<7} {}\n     {said}", plant.id, plant.test);
        Tried { plant, result }
    }

    fn ran(&self, plant: &Plant, planted: &str) -> Result<Ran, String> {
        let mut command = self.cargo(plant.package, plant.target);
        command.args(["--", plant.test]).env("ASOF_PLANT", planted).env("RUST_BACKTRACE", "0");
        let majors = setup::QUICK_MAJORS.map(|major| major.to_string()).join(",");
        command.env("ASOF_TEST_PG", &self.trees).env("ASOF_TEST_MAJORS", majors);
        command.env("ASOF_TEST_DATA", &self.data).env("TMPDIR", self.data.join("tmp"));
        let output =
            command.stdin(Stdio::null()).output().map_err(|error| format!("{}: {error}", run::shown(&command)))?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        judge(&text).ok_or_else(|| format!("the test did not run: {}", run::shown(&command)))
    }
}

/// How the one test ended that must have run.
fn judge(text: &str) -> Option<Ran> {
    let result = text.lines().find_map(|line| line.strip_prefix("test result: "))?;
    match result.split_once(';')? {
        ("ok. 1 passed", _) => Some(Ran::Green),
        (_, failed) if failed.trim_start().starts_with("1 failed") => {
            let behind = text.lines().skip_while(|line| !line.contains("panicked at")).skip(1);
            Some(Ran::Red(quote(behind.map(str::trim).find(|line| !line.is_empty()).unwrap_or("it failed"))))
        }
        _ => None,
    }
}

/// A failure in a form that is the same on every machine: without values, paths and what breaks a table.
fn quote(line: &str) -> String {
    let line = line.strip_prefix("assertion `left == right` failed").unwrap_or(line).trim_start_matches(": ");
    let plain = line.split(['{', '[']).next().unwrap_or_default();
    let word = |word: &str| if word.starts_with('/') { "…".to_owned() } else { word.replace(['|', '`', '\\'], "") };
    let mut words: Vec<String> = plain.split_whitespace().map(word).collect();
    // A value that was cut off says nothing.
    while plain.len() < line.len() && words.last().is_some_and(|word| word.contains('(')) {
        words.pop();
    }
    let text = words.join(" ");
    // The unit is what an unexpected success holds.
    let text = text.trim_end_matches("()").trim_end_matches([' ', ':']);
    match text {
        "" => "other values than expected".to_owned(),
        text => text.chars().take(QUOTE_CHARS).collect(),
    }
}

fn write(tried: &[Tried]) -> Outcome {
    let path = place::workspace().join("docs/hazards.md");
    let text = fs::read_to_string(&path).map_err(|error| format!("docs/hazards.md: {error}"))?;
    let cells = |id: &str| match tried.iter().find(|tried| tried.plant.id.eq_ignore_ascii_case(id)) {
        Some(Tried { plant, result }) => {
            let said = result.clone().unwrap_or_else(|why| format!("NOT FOUND: {}", quote(&why)));
            Some([format!("`{}`", plant.test), plant.defect.to_owned(), said])
        }
        None => None,
    };
    write_if_changed(&path, &text, &with_table(&text, cells)?)
}

fn write_if_changed(path: &Path, old: &str, new: &str) -> Outcome {
    if old == new {
        return Ok(());
    }
    println!("docs/hazards.md has a new table");
    fs::write(path, new).map_err(|error| format!("{}: {error}", path.display()))
}

/// The document with the table renewed: ids and hazards stay, the rest comes from `cells`.
fn with_table(text: &str, cells: impl Fn(&str) -> Option<[String; 3]>) -> Result<String, String> {
    let begin = text.find("| id |").ok_or("docs/hazards.md has no table that begins with | id |")?;
    let rows = text[begin..].lines().skip(2).take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let mut columns = line.trim_matches('|').split('|').map(str::trim);
        let (id, hazard) = (columns.next().unwrap_or_default(), columns.next().unwrap_or_default());
        let reason = UNTESTED.iter().find(|(untested, _)| *untested == id).map(|(_, reason)| format!("none: {reason}"));
        let none = || [reason.unwrap_or_else(|| "none yet".to_owned()), String::new(), String::new()];
        let [test, defect, said] = cells(id).unwrap_or_else(none);
        format!("| {id} | {hazard} | {test} | {defect} | {said} |\n")
    };
    let table: String = rows.map(row).collect();
    Ok(format!("{}{HEADING}{table}", &text[..begin]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_green_or_red_only_when_one_test_ran() {
        let ran =
            |result: &str| judge(&format!("\nrunning 1 test\nthread 'a' panicked at b.rs:1:2:\n\nthe cause\n{result}"));
        assert_eq!(ran("test result: ok. 1 passed; 0 failed; 0 ignored"), Some(Ran::Green));
        assert_eq!(ran("test result: FAILED. 0 passed; 1 failed; 0 ignored"), Some(Ran::Red("the cause".to_owned())));
        assert_eq!(ran("test result: ok. 0 passed; 0 failed; 0 ignored"), None);
        assert_eq!(ran("error: could not compile"), None);
    }

    #[test]
    fn a_quoted_failure_names_no_machine_and_no_value() {
        assert_eq!(quote("assertion `left == right` failed: was lost"), "was lost");
        assert_eq!(quote("assertion `left == right` failed"), "other values than expected");
        assert_eq!(quote("planned: Refused { what: \"no WAL\" }"), "planned: Refused");
        assert_eq!(quote("taken: Ok(Plan { id: 7 })"), "taken");
        assert_eq!(quote("it started: ()"), "it started");
        assert_eq!(quote("in /somewhere/else a `b` (x)"), "in … a b (x)");
    }

    #[test]
    fn the_table_keeps_hazards_and_gets_tests() {
        let text =
            "# Hazards\n\n| id | hazard | test |\n|---|---|---|\n| A1 | lost | none yet |\n| C4 | drop | none yet |\n";
        let cells = |id: &str| (id == "A1").then(|| ["`hz_a1_x`", "off", "red"].map(str::to_owned));
        let written = with_table(text, cells).unwrap();
        assert!(written.starts_with("# Hazards\n\n| id | hazard | test | defect planted |"), "{written}");
        assert!(
            written.contains("| A1 | lost | `hz_a1_x` | off | red |\n| C4 | drop | none: nothing drops WAL"),
            "{written}"
        );
        assert_eq!(with_table(&written, cells).unwrap(), written);
    }
}
