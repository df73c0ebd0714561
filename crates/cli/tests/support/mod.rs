//! A home from which the binary is called, and servers that it protects.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use asof_testkit::{Options, Server, Workdir};
use serde_json::Value;

pub(crate) const PASSWORD: &str = "correct-horse";
pub(crate) const PASSPHRASE: &str = "correct horse battery staple";

/// A home, from which `asof` is called.
pub(crate) struct Desk {
    pub(crate) work: Workdir,
}

/// What a command left.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self { work: Workdir::new("cli") }
    }

    /// With a repository.
    pub(crate) fn with_repository() -> Self {
        let desk = Self::new();
        desk.done("init repository");
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_asof"));
        command.env_clear().env("HOME", self.work.path()).env("PATH", "/usr/bin:/bin");
        command.envs(std::env::var_os("ASOF_PLANT").map(|planted| ("ASOF_PLANT", planted)));
        command.current_dir(self.work.path()).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, command: &mut Command) -> Said {
        let output = command.output().expect("asof runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code().expect("no signal"), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Runs `asof` with words that are separated by spaces.
    pub(crate) fn asof(&self, words: &str) -> Said {
        self.run(self.command().args(words.split(' ')))
    }

    /// As [`asof`](Self::asof); it must end with 0. Returns what it printed.
    pub(crate) fn done(&self, words: &str) -> String {
        let said = self.asof(words);
        assert_eq!(said.code, 0, "asof {words}: {said:?}");
        said.out
    }

    /// As [`asof`](Self::asof); it must end with `code` and name each of `expected` in its message.
    pub(crate) fn refused(&self, words: &str, code: i32, expected: &[&str]) {
        self.asof(words).must(words, code, expected);
    }

    /// A file with one line, for a command's standard input.
    pub(crate) fn input(&self, line: &str) -> fs::File {
        self.write("input", &format!("{line}\n"));
        fs::File::open(self.path("input")).expect("it was just written")
    }

    /// Runs `asof` on a terminal of its own (`script`, util-linux) and types a line at each prompt. Everything is in `out`.
    pub(crate) fn typed(&self, words: &str, lines: &[(&str, &str)]) -> Said {
        let command = format!("tty > tty; exec {} {words}", env!("CARGO_BIN_EXE_asof"));
        let mut script = Command::new("timeout");
        script.args(["60", "script", "-qec", &command, "/dev/null"]).env("HOME", self.work.path());
        script.current_dir(self.work.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = script.spawn().expect("script runs");
        let (mut keys, mut screen) = (running.stdin.take().expect("piped"), running.stdout.take().expect("piped"));
        let mut seen = Vec::new();
        let mut read = |seen: &mut Vec<u8>| {
            let mut piece = [0; 4096];
            let read = screen.read(&mut piece).expect("a pipe can be read");
            seen.extend_from_slice(&piece[..read]);
            read > 0
        };
        for (prompt, line) in lines {
            let from = seen.len();
            while !String::from_utf8_lossy(&seen[from..]).contains(prompt) {
                assert!(read(&mut seen), "no `{prompt}` in {}", String::from_utf8_lossy(&seen));
            }
            // The prompt comes first, then the terminal is told not to show what is typed.
            while !self.is_silent(self.read("tty").trim()) {
                assert!(running.try_wait().expect("it can be asked").is_none(), "nobody reads what is typed");
                std::thread::yield_now();
            }
            keys.write_all(format!("{line}\n").as_bytes()).expect("typed");
        }
        while read(&mut seen) {}
        let code = running.wait().expect("it ended").code().expect("no signal");
        Said { code, out: String::from_utf8_lossy(&seen).into_owned(), err: String::new() }
    }

    fn is_silent(&self, terminal: &str) -> bool {
        let stty = Command::new("stty").args(["-a", "-F", terminal]).output().expect("stty runs");
        String::from_utf8_lossy(&stty.stdout).split_whitespace().any(|flag| flag == "-echo")
    }

    pub(crate) fn add(&self, name: &str, conninfo: &str) -> Said {
        self.run(self.command().args(["instance", "add", name, "--pg", conninfo]))
    }
}

impl Said {
    pub(crate) fn must(&self, words: &str, code: i32, expected: &[&str]) {
        assert_eq!(self.code, code, "asof {words}: {self:?}");
        for expected in expected {
            assert!(self.err.contains(expected), "asof {words} does not say `{expected}`: {self:?}");
        }
        assert!(!self.err.contains("panicked"), "asof {words}: {self:?}");
    }
}

/// A desk with a server, protected as `prod`, that has a backup `first`.
pub(crate) fn protected() -> (Desk, Server) {
    let (desk, server) = with_server();
    desk.done("backup create prod --name first");
    (desk, server)
}

/// A desk with a server, protected as `prod`. Over TCP it wants passwords.
pub(crate) fn with_server() -> (Desk, Server) {
    let hba = ["host all all 127.0.0.1/32 scram-sha-256", "host replication all 127.0.0.1/32 scram-sha-256"];
    let server = Server::running(15, &Options { hba: hba.map(str::to_owned).into(), ..Options::default() });
    server.psql(&format!("alter role postgres password '{PASSWORD}'"));
    let desk = Desk::with_repository();
    let added = desk.add("prod", &server.conninfo());
    assert_eq!(added.code, 0, "{added:?}");
    (desk, server)
}

pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// A program that ends when the test does.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
