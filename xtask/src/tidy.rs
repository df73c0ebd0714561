//! Rules about the tree itself that no compiler checks. Each is a function from text to complaints, seen red in a test
//! of its own, and held against the tree by one test.

use crate::planted::registry::PLANTS;
use crate::{docs, place};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which crates of ours a crate may name as a normal dependency: the graph of the design, pointing down only.
const GRAPH: &[(&str, &[&str])] = &[
    ("asof-world", &[]),
    ("asof-repository", &["asof-world"]),
    ("asof-postgres", &["asof-world"]),
    ("asof-engine", &["asof-world", "asof-repository", "asof-postgres"]),
    ("asof-mount", &["asof-world", "asof-repository"]),
    ("asof-service", &["asof-world", "asof-repository", "asof-postgres", "asof-engine", "asof-mount"]),
    ("asof-web", &["asof-world", "asof-service"]),
    (
        "asof-cli",
        &["asof-world", "asof-repository", "asof-postgres", "asof-engine", "asof-mount", "asof-service", "asof-web"],
    ),
    ("asof-sim", &["asof-world", "asof-repository", "asof-postgres", "asof-engine"]),
    ("asof-testkit", &[]),
    ("xtask", &[]),
];

/// Crates that tests may use besides what their crate may use.
const FOR_TESTS: &[&str] = &["asof-testkit", "asof-sim"];

#[test]
fn every_source_file_says_what_it_is_for_and_holds_no_sediment() {
    let sources = files_below(&["crates", "sim", "testkit", "xtask"], |path| has_extension(path, &["rs"]));
    assert!(sources.len() > 10, "{sources:?}");
    hold(&sources, source_complaints);
}

#[test]
fn crates_depend_on_each_other_as_the_design_draws_it() {
    let manifests = files_below(&["crates", "sim", "testkit", "xtask"], |path| path.ends_with("Cargo.toml"));
    assert!(manifests.len() >= 8, "{manifests:?}");
    hold(&manifests, manifest_complaints);
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    let texts = files_below(&["."], |path| {
        has_extension(path, &["rs", "toml", "md", "sh", "yml", "yaml", "json", "sql"]) || path.ends_with(".ci/run")
    });
    hold(&texts, foreign_paths);
}

#[test]
fn every_covered_requirement_names_a_test_that_exists() {
    let sources = files_below(&["crates", "sim", "testkit", "xtask"], |path| has_extension(path, &["rs"]));
    let code: String = sources.iter().map(|path| read(path)).collect();
    let covered = docs::covered().unwrap();
    let missing: Vec<_> = covered.iter().filter(|it| !has_test(&code, &it.test)).collect();
    assert!(missing.is_empty(), "these name no test function: {missing:?}");
    let mut ids: Vec<&str> = covered.iter().map(|it| it.id.as_str()).collect();
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "an id stands twice in {ids:?}");
}

#[test]
fn every_planted_defect_has_a_place_a_test_and_a_row() {
    let sources = files_below(&["crates", "sim"], |path| has_extension(path, &["rs"]));
    let code: String = sources.iter().map(|path| read(path)).collect();
    let placed: BTreeSet<&str> =
        code.split("planted(\"").skip(1).filter_map(|rest| rest.split_once('"')).map(|(id, _)| id).collect();
    let registered: BTreeSet<&str> = PLANTS.iter().map(|plant| plant.id).collect();
    assert_eq!(placed, registered, "the registry of plants and the places in the code differ");
    let document = read(Path::new("docs/hazards.md"));
    for plant in PLANTS {
        let (id, test) = (plant.id, plant.test);
        assert!(test.starts_with(&format!("hz_{id}_")) && has_test(&code, test), "{id}: {test} is no test of it");
        let row = format!("| `{test}` | {} |", plant.defect);
        assert!(document.contains(&row), "{id}: run `cargo xtask campaign planted` and commit docs/hazards.md");
    }
    assert!(!document.contains("NOT FOUND"), "a planted defect is not found");
}

#[test]
fn the_tables_of_what_works_are_current() {
    let covered = docs::covered().unwrap();
    for name in docs::TABLES {
        let text = fs::read_to_string(place::workspace().join(name)).unwrap_or_default();
        match docs::with_table(name, &text, &covered) {
            Ok(wanted) => assert!(wanted == text, "run `cargo xtask docs` and commit {name}"),
            Err(why) => assert!(covered.is_empty(), "{why}"),
        }
    }
}

/// Applies a rule to every file and fails with all complaints.
fn hold(files: &[PathBuf], rule: fn(&str) -> Vec<String>) {
    let complaints: Vec<String> = files
        .iter()
        .flat_map(|path| rule(&read(path)).into_iter().map(move |what| format!("{}: {what}", path.display())))
        .collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn source_complaints(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push("does not begin with //! docs".to_owned());
    }
    // Written in halves, so that this file does not complain about itself.
    for (word, why) in [
        (concat!("todo", "!("), "unfinished code is not committed"),
        (concat!("unimplemented", "!("), "unfinished code is not committed"),
        (concat!("#[", "ignore"), "a test runs or goes"),
        (concat!("thread::", "sleep"), "a sleep is too short or too long: wait for what happens"),
    ] {
        if text.contains(word) {
            found.push(format!("`{word}`: {why}"));
        }
    }
    found
}

fn foreign_paths(text: &str) -> Vec<String> {
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/fa", "rm/")];
    let begins = |index: usize| {
        let before = text[..index].chars().next_back();
        before.is_none_or(|it| !it.is_alphanumeric() && !"_-./~}>".contains(it))
    };
    let named = places.into_iter().filter(|place| text.match_indices(place).any(|(index, _)| begins(index)));
    named.map(|place| format!("names `{place}`, a path of one machine")).collect()
}

fn manifest_complaints(text: &str) -> Vec<String> {
    let Some(name) = package_name(text) else { return vec!["has no package name".to_owned()] };
    let Some((_, allowed)) = GRAPH.iter().find(|(known, _)| *known == name) else {
        return vec![format!("{name} is not in the crate graph: draw it first")];
    };
    let wrong = |section: &str, dependency: &str| {
        let ours = GRAPH.iter().any(|(known, _)| *known == dependency);
        let dev = section.ends_with("dev-dependencies");
        let fine = allowed.contains(&dependency) || (dev && FOR_TESTS.contains(&dependency));
        // These two have to be built by a machine that has nothing yet.
        (ours && !fine) || (!ours && ["xtask", "asof-testkit"].contains(&name))
    };
    let bad = dependencies(text).into_iter().filter(|(section, dependency)| wrong(section, dependency));
    bad.map(|(section, dependency)| format!("{name} may not have {dependency} in [{section}]")).collect()
}

fn package_name(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
}

/// All dependencies of a manifest with their section, as `key = …`, `key.workspace = …` and `[dependencies.key]`.
fn dependencies(text: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('[') {
            header.trim_end_matches(']').clone_into(&mut section);
            if let Some((outer, name)) = section.rsplit_once('.').filter(|(outer, _)| outer.ends_with("dependencies")) {
                found.push((outer.to_owned(), name.to_owned()));
            }
        } else if section.ends_with("dependencies") {
            let name = line.split(['=', '.']).next().unwrap_or_default().trim();
            found.push((section.clone(), name.to_owned()));
        }
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

/// Whether a function of this name stands directly below a test attribute (`#[test]`, `#[tokio::test]` …).
fn has_test(code: &str, name: &str) -> bool {
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    let starts = [format!("fn {name}("), format!("async fn {name}(")];
    let is_function = |line: &str| starts.iter().any(|start| line.starts_with(start));
    lines.iter().enumerate().filter(|(_, line)| is_function(line)).any(|(index, _)| {
        let attributes =
            lines[..index].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        attributes.into_iter().any(|line| line.starts_with("#[") && line.contains("test"))
    })
}

fn has_extension(path: &Path, wanted: &[&str]) -> bool {
    path.extension().and_then(|it| it.to_str()).is_some_and(|it| wanted.contains(&it))
}

fn read(path: &Path) -> String {
    fs::read_to_string(place::workspace().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files of the tree below some directories, relative to the workspace; never what git or cargo keep.
fn files_below(directories: &[&str], wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let root = place::workspace();
    let mut open: Vec<PathBuf> = directories.iter().map(|directory| root.join(directory)).collect();
    let mut found = Vec::new();
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            let ours = !["target", ".git", "node_modules"].iter().any(|name| path.ends_with(name));
            if kind.is_dir() && ours {
                open.push(path);
            } else if kind.is_file() && wanted(&path) {
                found.push(path.strip_prefix(&root).unwrap().to_path_buf());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_source_file_without_docs_or_with_sediment_is_found() {
    assert_eq!(source_complaints("//! A clock.\nfn now() {}\n"), [""; 0]);
    assert_eq!(source_complaints("use std::fs;\n").len(), 1);
    let lines = ["to do!()", "unimple mented!()", "#[ig nore]", "#[ig nore = \"slow\"]", "std::thread:: sleep(x)"];
    for line in lines.map(|it| it.replacen(' ', "", 1)) {
        assert_eq!(source_complaints(&format!("//! Docs.\n{line}\n")).len(), 1, "{line}");
    }
}

#[test]
fn a_path_of_one_machine_is_found_and_a_part_of_a_path_is_not() {
    for path in ["wo rk", "ro ot", "fa rm"].map(|it| it.replace(' ', "")) {
        assert_eq!(foreign_paths(&format!("see `/{path}/x`")).len(), 1, "{path}");
        assert_eq!(foreign_paths(&format!("/{path}/x")).len(), 1, "{path}");
        assert_eq!(foreign_paths(&format!("target/{path}/x")), [""; 0], "{path}");
    }
}

#[test]
fn an_edge_that_the_design_does_not_draw_is_found() {
    let check = |name: &str, rest: &str, expect: usize| {
        let found = manifest_complaints(&format!("[package]\nname = \"{name}\"\n\n{rest}"));
        assert_eq!(found.len(), expect, "{name} {rest}: {found:?}");
    };
    check("asof-engine", "[dependencies]\nasof-repository.workspace = true\nbytes.workspace = true\n", 0);
    check("asof-repository", "[dependencies]\nasof-postgres.workspace = true\n", 1);
    check("asof-postgres", "[dev-dependencies]\nasof-repository = { path = \"../repository\" }\n", 1);
    check("asof-postgres", "[dependencies.asof-repository]\nworkspace = true\n", 1);
    check("asof-postgres", "[target.'cfg(unix)'.dependencies]\nasof-engine.workspace = true\n", 1);
    check("asof-engine", "[dependencies]\nasof-testkit.workspace = true\n", 1);
    check("asof-engine", "[dev-dependencies]\nasof-testkit.workspace = true\n", 0);
    check("asof-engine", "[dependencies]\nasof-sim.workspace = true\n", 1);
    check("asof-utils", "", 1);
    check("xtask", "[dependencies]\nserde = \"1\"\n", 1);
}

#[test]
fn only_a_function_with_a_test_attribute_counts_as_a_test() {
    let code = "#[test]\nfn a() {}\n\n#[tokio::test]\n// why\nasync fn b() {}\n\n#[must_use]\nfn c() {}\n\nfn d() {}\n";
    assert_eq!(["a", "b", "c", "d", "e"].map(|name| has_test(code, name)), [true, true, false, false, false]);
}
