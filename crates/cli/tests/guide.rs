//! The pages of `docs/guide`, executed against a real PostgreSQL.
//!
//! A fenced block of `sh` or `sql` whose preceding line is a comment `<!-- run … -->` is run, in the order of the page:
//!
//! | marker | what it says |
//! |---|---|
//! | `<!-- run -->` | the block ends with 0 |
//! | `<!-- run: exit 3 -->` | it ends with that |
//! | `<!-- run: prints X -->` | from here on, X in the page stands for the last line that it printed |
//! | `<!-- run: shows X -->` | what it prints contains X |
//! | `<!-- run: keep running -->` | it is one `asof wal receive`, stopped at the end of the page, which must end with 0 |
//! | `<!-- run: on another machine -->` | it runs in an empty directory to which only the recovery kit was carried |
//!
//! What a reader would replace, such as the place of the repository, is replaced here ([`Guide::replacements`]). While something
//! receives, each block waits until everything that the server has is stored, as a reader who types is slow enough to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use asof_testkit::{Moto, Options, Server, Workdir, majors};

/// Every page, and what its reader has done before.
const PAGES: [(&str, Before); 15] = [
    ("README.md", Before::Nothing),
    ("first-backup.md", Before::Nothing),
    ("restore.md", Before::Receiving),
    ("point-in-time.md", Before::Receiving),
    ("wal.md", Before::Protected),
    ("synchronous.md", Before::Protected),
    ("keys.md", Before::Protected),
    ("instances.md", Before::Protected),
    ("compare.md", Before::Protected),
    ("dump.md", Before::Protected),
    ("drill.md", Before::Protected),
    ("troubleshooting.md", Before::Protected),
    ("configuration.md", Before::Protected),
    ("managed.md", Before::Service),
    ("s3.md", Before::Bucket),
];

/// How often it is asked whether everything is stored; a tenth of a second lies between two tries.
const TRIES: usize = 600;

/// How long a receiver may take to store what it has and end.
const END_LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    /// There is an instance `prod` with a backup `first` and a table `orders`.
    Protected,
    /// And its WAL is received.
    Receiving,
    /// The server calls itself a managed service, and has a database `shop` that belongs to the role `master`.
    Service,
    /// There is an empty bucket, and credentials are in the environment.
    Bucket,
}

#[test]
fn every_page_of_the_guide_is_executed() {
    let found = fs::read_dir(guide()).expect("the guide").map(|entry| entry.expect("an entry").file_name());
    let mut found: Vec<String> = found.map(|name| name.into_string().expect("a plain name")).collect();
    found.sort();
    let mut known: Vec<&str> = PAGES.iter().map(|(name, _)| *name).collect();
    known.sort_unstable();
    assert_eq!(found, known);
}

#[test]
fn the_index_can_be_executed() {
    Guide::open("README.md").read_through();
}

#[test]
fn the_first_backup_can_be_executed() {
    Guide::open("first-backup.md").read_through();
}

#[test]
fn restores_can_be_executed_and_the_directory_starts_without_asof() {
    let guide = Guide::open("restore.md").read_through();
    let mut restored = Server::adopt(guide.server.major(), &guide.work.path().join("restore/prod"));
    restored.start();
    assert_eq!(restored.psql("select count(*) from orders"), guide.server.psql("select count(*) from orders"));
}

#[test]
fn point_in_time_can_be_executed() {
    Guide::open("point-in-time.md").read_through();
}

#[test]
fn the_configuration_can_be_executed() {
    Guide::open("configuration.md").read_through();
}

#[test]
fn wal_can_be_executed() {
    Guide::open("wal.md").read_through();
}

#[test]
fn the_synchronous_standby_can_be_executed() {
    Guide::open("synchronous.md").read_through();
}

#[test]
fn keys_can_be_executed() {
    Guide::open("keys.md").read_through();
}

#[test]
fn instances_can_be_executed() {
    Guide::open("instances.md").read_through();
}

#[test]
fn comparing_can_be_executed() {
    Guide::open("compare.md").read_through();
}

#[test]
fn dumps_can_be_executed() {
    Guide::open("dump.md").read_through();
}

#[test]
fn drills_can_be_executed() {
    Guide::open("drill.md").read_through();
}

#[test]
fn troubleshooting_can_be_executed() {
    Guide::open("troubleshooting.md").read_through();
}

#[test]
fn a_server_without_files_can_be_executed() {
    Guide::open("managed.md").read_through();
}

#[test]
fn a_repository_in_a_bucket_can_be_executed() {
    let guide = Guide::open("s3.md").read_through();
    let mut restored = Server::adopt(guide.server.major(), &guide.work.path().join("restore/prod"));
    restored.start();
    assert_eq!(restored.psql("select 1"), "1");
}

/// A page and a reader with a server, a home and another machine.
struct Guide {
    page: &'static str,
    blocks: Vec<Block>,
    replacements: Vec<(String, String)>,
    // Before the server, so that they are stopped first.
    receivers: Vec<Receiver>,
    server: Server,
    bucket: Option<Moto>,
    work: Workdir,
    another_machine: PathBuf,
}

impl Guide {
    fn open(page: &'static str) -> Self {
        let (_, before) = PAGES.iter().find(|(name, _)| *name == page).expect("a page of the list");
        let text = fs::read_to_string(guide().join(page)).expect("the page");
        let blocks = blocks(&text).unwrap_or_else(|why| panic!("{page}: {why}"));
        assert!(!blocks.is_empty(), "{page} has no block that is executed");
        let server = server(*before);
        let work = Workdir::new("guide");
        let another_machine = work.directory("another-machine");
        let mut replacements = Self::replacements(&server, &work);
        let bucket = (*before == Before::Bucket).then(|| Moto::with_bucket("my-bucket"));
        if let Some(moto) = &bucket {
            let there = format!("?region=eu-central-1&endpoint=http://{}", moto.address());
            replacements.push(("?region=eu-central-1".to_owned(), there));
        }
        let mut guide =
            Self { page, blocks, replacements, receivers: Vec::new(), server, bucket, work, another_machine };
        guide.prepare(*before);
        guide
    }

    /// What stands in a page, and what stands for it here; the first that fits counts.
    fn replacements(server: &Server, work: &Workdir) -> Vec<(String, String)> {
        let tcp = format!("host=127.0.0.1 port={}", server.port());
        let place = |name: &str| work.path().join(name).display().to_string();
        [
            ("host=/var/run/postgresql", format!("host={} port={}", server.socket_dir().display(), server.port())),
            ("host=127.0.0.1 port=5432", tcp.clone()),
            ("host=db.example.com", tcp.clone()),
            ("host=shop.c1a2b3.eu-central-1.rds.amazonaws.com", tcp),
            ("/var/lib/postgresql/15/main", server.data_dir().display().to_string()),
            ("/backup/asof", place("repository")),
            ("/restore/prod", place("restore/prod")),
        ]
        .map(|(written, meant)| (written.to_owned(), meant))
        .into()
    }

    fn prepare(&mut self, before: Before) {
        if matches!(before, Before::Nothing | Before::Bucket) {
            return;
        }
        if before == Before::Service {
            self.server.psql("create role master login createdb password 'secret'");
            self.server.psql("create database shop owner master");
            self.server.psql_in("shop", "set role master; create table orders as select generate_series(1, 500) as id");
            return;
        }
        self.server.psql("create table orders as select generate_series(1, 500) as id");
        self.expect(
            "asof init /backup/asof
             asof instance add prod --pg 'host=/var/run/postgresql user=postgres'
             asof backup create prod --name first",
            &Expect::default(),
        );
        if before == Before::Receiving {
            self.keep_running("asof wal receive prod");
            self.server.psql("insert into orders select generate_series(501, 1000)");
        }
    }

    fn read_through(mut self) -> Self {
        for block in std::mem::take(&mut self.blocks) {
            self.wait_until_stored();
            match (block.language, block.expect.keeps_running) {
                (Language::Sh, true) => self.keep_running(&block.text),
                (Language::Sh, false) => self.expect(&block.text, &block.expect),
                (Language::Sql, _) => self.expect_sql(&block),
            }
        }
        self.receivers.drain(..).for_each(Receiver::stop);
        self
    }

    fn expect(&mut self, script: &str, expect: &Expect) {
        let mut command = self.shell(script);
        if expect.on_another_machine {
            self.carry_the_kit();
            command.current_dir(&self.another_machine);
        }
        let output = command.stdin(Stdio::null()).output().expect("sh runs");
        let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let page = self.page;
        assert_eq!(output.status.code(), Some(expect.exit), "{page}, in:\n{script}\nit printed:\n{printed}{said}");
        self.note(expect, &printed);
    }

    /// What a query shall show may need a moment, as settings do that were reloaded: it is asked again.
    fn expect_sql(&mut self, block: &Block) {
        let sql = self.replaced(&block.text);
        let shown = block.expect.shows.as_deref().map(|words| self.replaced(words)).unwrap_or_default();
        let mut printed = String::new();
        for _ in 0..TRIES {
            let said = self.server.try_psql_in("postgres", &sql);
            printed = said.unwrap_or_else(|why| panic!("{}, in:\n{sql}\n{why}", self.page));
            if printed.contains(&shown) {
                break;
            }
            self.server.psql("select pg_sleep(0.1)");
        }
        self.note(&block.expect, &printed);
    }

    /// What was printed must show what the page says; from here on, its example means what was printed.
    fn note(&mut self, expect: &Expect, printed: &str) {
        if let Some(words) = expect.shows.as_ref().map(|words| self.replaced(words)) {
            assert!(printed.contains(&words), "{}: `{words}` is not in what was printed:\n{printed}", self.page);
        }
        let Some(example) = &expect.prints else { return };
        let line = printed.trim_end().lines().last().unwrap_or_else(|| panic!("{}: nothing was printed", self.page));
        self.replacements.insert(0, (example.clone(), line.to_owned()));
    }

    fn replaced(&self, text: &str) -> String {
        self.replacements.iter().fold(text.to_owned(), |text, (written, meant)| text.replace(written, meant))
    }

    /// A shell in the reader's home that finds `asof` and `psql`, and whose `psql` reaches the server.
    fn shell(&self, script: &str) -> Command {
        let mut command = self.server.tool("psql");
        let asof = Path::new(env!("CARGO_BIN_EXE_asof"));
        let own = [asof, Path::new(command.get_program())].map(|program| program.parent().expect("a directory"));
        let system = std::env::var_os("PATH").unwrap_or_default();
        let paths = own.into_iter().map(Path::to_owned).chain(std::env::split_paths(&system));
        let path = std::env::join_paths(paths).expect("paths without colons");
        // The environment that reaches the server, with a shell instead of psql.
        let environment: Vec<_> =
            command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
        command = Command::new("sh");
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("PG") || name.starts_with("ASOF_") || name.starts_with("XDG_") {
                command.env_remove(&*name);
            }
        }
        command.args(["-eu", "-c", &self.replaced(script)]).current_dir(self.work.path());
        command.env("HOME", self.work.path()).env("PATH", path).envs(environment);
        if self.bucket.is_some() {
            command.envs([("AWS_ACCESS_KEY_ID", "reader"), ("AWS_SECRET_ACCESS_KEY", "reader")]);
        }
        command
    }

    fn carry_the_kit(&self) {
        let kit = "recovery-kit.txt";
        fs::copy(self.work.path().join(kit), self.another_machine.join(kit)).expect("the page has made a recovery kit");
    }

    fn keep_running(&mut self, script: &str) {
        let name = script.split_whitespace().nth(3).expect("asof wal receive NAME").to_owned();
        let mut command = self.shell(&format!("exec {}", script.trim()));
        let child = command.stdin(Stdio::null()).spawn().expect("sh runs");
        self.receivers.push(Receiver::watch(child, name));
        self.wait_until_stored();
    }

    /// Returns when each receiver has stored what the server has now.
    fn wait_until_stored(&self) {
        for receiver in &self.receivers {
            let flushed = lsn(&self.server.psql("select pg_current_wal_flush_lsn()"));
            let stored = (0..TRIES).any(|_| {
                let reached = self.stored_to(&receiver.instance).is_some_and(|stored| stored >= flushed);
                if !reached {
                    self.server.psql("select pg_sleep(0.1)");
                }
                reached
            });
            assert!(stored, "{}: WAL of {} is not stored in time", self.page, receiver.instance);
        }
    }

    fn stored_to(&self, instance: &str) -> Option<u64> {
        let output = self.shell(&format!("asof wal status {instance} --json")).output().expect("sh runs");
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        status["stored_to"].as_str().map(lsn)
    }
}

impl Drop for Guide {
    /// Stops what a page has restored, in case it failed before it came to that.
    fn drop(&mut self) {
        for home in [self.work.path(), &self.another_machine] {
            for made in fs::read_dir(home.join("instances")).into_iter().flatten().flatten() {
                let mut stop = self.shell("asof instance stop \"$MADE\"");
                let _ = stop.env("MADE", made.file_name()).current_dir(home).stderr(Stdio::null()).output();
            }
        }
    }
}

/// The server of the pages. Over TCP it wants passwords, and lets nobody replicate but the role `asof`: as a container's
/// server and a remote one do in the first page.
fn server(before: Before) -> Server {
    let hba = [
        "host all all 127.0.0.1/32 scram-sha-256",
        "host replication asof 127.0.0.1/32 scram-sha-256",
        "host replication all 127.0.0.1/32 reject",
    ];
    // The pages are written for 15: they name its directories and its segments by number. `password_encryption` is md5 before 14.
    let run = majors();
    let major = *run.iter().find(|major| **major == 15).or(run.last()).expect("a run has a major");
    let mut config = vec!["password_encryption = 'scram-sha-256'"];
    config.extend((before == Before::Service).then_some("rds.extensions = 'plpgsql'"));
    let options = Options { hba: hba.map(str::to_owned).into(), ..Options::with_config(&config) };
    let server = Server::running(major, &options);
    server.psql("alter role postgres password 'secret'");
    server
}

/// A running `asof wal receive`.
struct Receiver {
    instance: String,
    pid: u32,
    ended: mpsc::Receiver<ExitStatus>,
}

impl Receiver {
    fn watch(mut child: Child, instance: String) -> Self {
        let pid = child.id();
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || child.wait().map(|status| sender.send(status)));
        Self { instance, pid, ended }
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid);
        let _ = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status();
    }

    fn stop(self) {
        self.signal("TERM");
        let status = self.ended.recv_timeout(END_LIMIT).expect("the receiver ends when it is told to");
        assert_eq!(status.code(), Some(0), "a receiver that is told to stop ends with 0");
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // After a test that failed; one that was stopped is gone.
        if self.ended.try_recv() == Err(mpsc::TryRecvError::Empty) {
            self.signal("KILL");
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Language {
    Sh,
    Sql,
}

/// What a marker says of its block.
#[derive(Debug, Default, PartialEq)]
struct Expect {
    exit: i32,
    prints: Option<String>,
    shows: Option<String>,
    keeps_running: bool,
    on_another_machine: bool,
}

#[derive(Debug, PartialEq)]
struct Block {
    language: Language,
    text: String,
    expect: Expect,
}

/// The blocks of a page that are executed.
fn blocks(page: &str) -> Result<Vec<Block>, String> {
    let mut lines = page.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(marker) = line.strip_prefix("<!-- run").and_then(|rest| rest.strip_suffix("-->")) else { continue };
        let expect = expectation(marker.trim_start_matches(':').trim())?;
        let language = match lines.next() {
            Some("```sh") => Language::Sh,
            Some("```sql") => Language::Sql,
            other => return Err(format!("behind `{line}` stands {other:?}, not a block of sh or sql")),
        };
        let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        found.push(Block { language, text: text.join("\n"), expect });
    }
    Ok(found)
}

fn expectation(words: &str) -> Result<Expect, String> {
    let nothing = Expect::default();
    Ok(match words.split_once(' ').unwrap_or((words, "")) {
        ("", _) => nothing,
        ("exit", code) => Expect { exit: code.parse().map_err(|_| format!("`{code}` is no exit code"))?, ..nothing },
        ("prints", example) => Expect { prints: Some(example.to_owned()), ..nothing },
        ("shows", words) => Expect { shows: Some(words.to_owned()), ..nothing },
        ("keep", "running") => Expect { keeps_running: true, ..nothing },
        ("on", "another machine") => Expect { on_another_machine: true, ..nothing },
        _ => return Err(format!("`{words}` is no marker")),
    })
}

fn guide() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide")
}

/// `16/B374D848` as a number.
fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap_or_else(|| panic!("not a position: {text}"));
    let part = |text| u64::from_str_radix(text, 16).unwrap_or_else(|_| panic!("not a position: {text}"));
    part(high) << 32 | part(low)
}

#[test]
fn a_marker_must_stand_before_a_block_and_be_known() {
    let page = "<!-- run: exit 3 -->\n```sh\na\nb\n```\ntext\n```sh\nnot run\n```\n<!-- run: prints 47 11 -->\n```sql\nc\n```\n";
    let found = blocks(page).expect("a good page");
    assert_eq!(found.iter().map(|block| block.text.as_str()).collect::<Vec<_>>(), ["a\nb", "c"]);
    assert_eq!((found[0].expect.exit, found[1].expect.prints.as_deref()), (3, Some("47 11")));
    assert!(blocks("<!-- run -->\n\n```sh\n```\n").is_err());
    assert!(blocks("<!-- run: sometimes -->\n```sh\n```\n").is_err());
}
