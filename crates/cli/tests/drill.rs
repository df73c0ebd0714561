//! `asof verify`, `asof drill`, and `asof compare` of dumps, from outside: exit codes, what is said and recorded, and that nothing is left.

mod support;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use asof_testkit::Server;

use support::{Desk, Running, json, with_server};

const CHAT: &str = "
create role owner_of_all; create table documents (id int primary key, created_at timestamptz default now());
insert into documents (id) select generate_series(1, 500);
create table chunks (id int primary key, document_id int references documents, embedding real[]);
insert into chunks select n, 1 + n % 500, array_fill(0.5, array[384]) from generate_series(1, 3000) n;
alter table chunks owner to owner_of_all;
";

const CHECKS: &str = "
[[instances.prod.checks]]
name = \"documents\"
rows = { table = \"documents\", at_least = 500 }

[[instances.prod.checks]]
name = \"embeddings\"
dimensions = { table = \"chunks\", column = \"embedding\", equals = 384 }

[[instances.prod.checks]]
name = \"no-orphans\"
orphans = { table = \"chunks\", column = \"document_id\", references = \"documents\", key = \"id\" }

[[instances.prod.checks]]
name = \"fresh\"
newest = { table = \"documents\", column = \"created_at\", within = \"25h\" }

[[instances.prod.checks]]
name = \"impossible\"
sql = \"select count(*) from documents\"
at_least = 501
";

/// A desk with a server that has a dump `first` of database `chat` in the repository, and a place for servers of drills.
fn with_dump() -> (Desk, Server, Temporary) {
    let (desk, server) = with_server();
    let temporary = Temporary::of(&desk);
    server.psql("create database chat");
    server.psql_in("chat", CHAT);
    done(&desk, &server, "dump prod --database chat --name first");
    (desk, server, temporary)
}

/// Where client programs are; what the machine has in its usual places comes first.
fn programs(server: &Server) -> String {
    let tool = PathBuf::from(server.tool("pg_dump").get_program());
    let tools = tool.parent().expect("a directory").display().to_string();
    format!("{}:{tools}:/usr/bin:/bin", server.bin_dir().display())
}

fn asof(desk: &Desk, server: &Server, words: &str) -> support::Said {
    desk.run(desk.command().env("PATH", programs(server)).env("TMPDIR", temporary(desk)).args(words.split(' ')))
}

fn done(desk: &Desk, server: &Server, words: &str) -> String {
    let said = asof(desk, server, words);
    assert_eq!(said.code, 0, "asof {words}: {said:?}");
    said.out
}

/// A place that the server's user can enter, of one desk alone, with a path that is short enough for a socket.
struct Temporary(PathBuf);

impl Temporary {
    fn of(desk: &Desk) -> Self {
        let place = Self(temporary(desk));
        fs::create_dir_all(&place.0).expect("a directory");
        place
    }
}

impl Drop for Temporary {
    /// Whatever a test that failed left behind goes, servers too.
    fn drop(&mut self) {
        for left in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            stop(&left.path());
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn temporary(desk: &Desk) -> PathBuf {
    let name = desk.work.path().file_name().expect("a name").to_string_lossy().into_owned();
    Path::new("/tmp").join(format!("asof-{name}"))
}

fn left_in(desk: &Desk) -> Vec<PathBuf> {
    let entries = fs::read_dir(temporary(desk)).expect("it is listed");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

#[test]
fn a_dump_is_verified_and_drilled_and_the_list_says_when() {
    let (desk, server, _temporary) = with_dump();
    desk.write("asof.toml", &(desk.read("asof.toml") + CHECKS));
    assert!(done(&desk, &server, "verify --dump first").contains("every byte is authenticated"));
    let value = json(&done(&desk, &server, "verify --dump first --json"));
    assert_eq!((value["proof"].as_str(), value["rows"].as_u64()), (Some("authenticated"), Some(3500)));

    let printed = done(&desk, &server, "drill --dump first --check documents --check embeddings");
    for says in ["3500 rows in 2 tables, as many as in the dump", "384 dimensions in 3000 rows", "passed; nothing"] {
        assert!(printed.contains(says), "{printed}");
    }
    let shown = json(&done(&desk, &server, "backup show first --json"));
    assert_eq!((shown["verified"]["ok"].as_bool(), shown["drilled"]["ok"].as_bool()), (Some(true), Some(true)));
    assert_eq!(shown["drilled"]["report"]["checks"][0]["value"], "500");

    let said = asof(&desk, &server, "drill --dump first --json");
    said.must("drill", 1, &["impossible", "saw 500", ">= 501"]);
    let report = json(&said.out);
    let passed: Vec<_> = report["checks"].as_array().expect("checks").iter().map(|check| &check["ok"]).collect();
    assert_eq!(report["passed"], false);
    assert_eq!(passed, [true, true, true, true, false]);
    let listed = done(&desk, &server, "backup list");
    assert!(listed.contains("verified 20") && listed.contains("FAILED (ok 20"), "{listed}");
    asof(&desk, &server, "drill --dump first --check none").must("drill", 3, &["no check \"none\"", "impossible"]);
    assert_eq!(left_in(&desk), Vec::<PathBuf>::new());
}

#[test]
fn a_row_that_refers_to_nothing_and_a_table_that_nobody_writes_to_fail_the_drill_by_name() {
    let (desk, server, _temporary) = with_dump();
    desk.write("asof.toml", &(desk.read("asof.toml") + CHECKS));
    done(&desk, &server, "drill --dump first --check no-orphans --check fresh");
    // Where a key was validated, and somebody went round it, the load finds out by itself.
    server.psql_in("chat", "set session_replication_role = replica; update chunks set document_id = 501 where id = 7");
    done(&desk, &server, "dump prod --database chat --name around");
    asof(&desk, &server, "drill --dump around --check documents").must("drill", 1, &["chunks_document_id_fkey"]);
    // Without a key nothing else does.
    server.psql_in(
        "chat",
        "alter table chunks drop constraint chunks_document_id_fkey; update chunks set document_id = 501 where id in (7, 8);
         update chunks set document_id = null where id = 9; update documents set created_at = now() - interval '2 days'",
    );
    done(&desk, &server, "dump prod --database chat --name second");
    for (check, says) in [
        ("no-orphans", "check no-orphans saw 2, expected every chunks.document_id is a documents.id"),
        ("fresh", " s before the dump, expected newest documents.created_at at most 90000 s before the dump"),
    ] {
        let said = asof(&desk, &server, &format!("drill --dump second --check {check}"));
        said.must("drill", 1, &[check, says]);
        assert!(said.out.contains(&format!("FAILED  check {check} ")), "{said:?}");
    }
    assert_eq!(left_in(&desk), Vec::<PathBuf>::new());
}

#[test]
fn damage_of_a_dump_ends_with_4_and_is_recorded() {
    let (desk, server, _temporary) = with_dump();
    let pack = largest(&desk.path("repository"));
    let mut bytes = fs::read(&pack).expect("it is read");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&pack, bytes).expect("it is written");
    let name = pack.file_name().expect("a name").to_string_lossy().into_owned();
    let said = asof(&desk, &server, "verify --dump first");
    said.must("verify", 4, &[&name, "first is damaged", "hint: choose another backup, and dump again"]);
    assert_eq!(said.err.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{said:?}");
    asof(&desk, &server, "drill --dump first").must("drill", 4, &[&name]);
    let shown = json(&done(&desk, &server, "backup show first --json"));
    assert_eq!((shown["verified"]["ok"].as_bool(), shown["drilled"]["ok"].as_bool()), (Some(false), Some(false)));
    assert!(shown["verified"]["what"].as_str().is_some_and(|what| what.contains(&name)), "{shown}");
}

fn largest(directory: &Path) -> PathBuf {
    let (mut found, mut ahead) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = ahead.pop() {
        for path in fs::read_dir(directory).expect("it is listed").map(|entry| entry.expect("an entry").path()) {
            match path.is_dir() {
                true => ahead.push(path),
                false => found.push((fs::metadata(&path).expect("it is there").len(), path)),
            }
        }
    }
    found.into_iter().filter(|(_, path)| path.to_string_lossy().contains("/packs/")).max().expect("a pack").1
}

#[test]
fn the_practical_test_is_one_command() {
    let (desk, server, _temporary) = with_dump();
    let printed = done(&desk, &server, "drill --practical prod --database chat");
    for says in [
        "ok      dump",
        "ok      load",
        "3500 rows in 2 tables",
        "3500 rows of 2 tables have the digests of the original",
        "the load took",
        "passed",
    ] {
        assert!(printed.contains(says), "{printed}");
    }
    // Of a server that nobody registered as well.
    let (host, port) = (server.socket_dir().display(), server.port());
    let printed =
        done(&desk, &server, &format!("drill --practical postgresql:///chat?host={host}&port={port}&user=postgres"));
    assert!(printed.contains("drill of chat") && printed.contains("passed"), "{printed}");
    assert_eq!(left_in(&desk), Vec::<PathBuf>::new());
    // Nothing of it is in the repository.
    assert_eq!(json(&done(&desk, &server, "backup list --json")).as_array().map(Vec::len), Some(1));
}

#[test]
fn what_cannot_be_drilled_here_is_refused_and_nothing_is_recorded() {
    let (desk, server, _temporary) = with_dump();
    asof(&desk, &server, "verify").must("verify", 2, &["--dump"]);
    asof(&desk, &server, "drill").must("drill", 2, &["--dump"]);
    asof(&desk, &server, "verify --dump nothing").must("verify", 3, &["no backup \"nothing\""]);
    asof(&desk, &server, "verify --dump ./nothing").must("verify", 3, &["no file ./nothing"]);
    fs::create_dir(desk.path("empty")).expect("a directory");
    let words = format!("drill --dump first --bindir {}", desk.path("empty").display());
    asof(&desk, &server, &words).must("drill", 3, &["neither that nor a newer one"]);
    assert!(json(&done(&desk, &server, "backup show first --json"))["drilled"].is_null());
    let mut stock = server.tool("pg_dump");
    stock.args(["-d", "chat", "-Fc", "--data-only", "-f"]).arg(desk.path("rows.dump"));
    assert!(stock.status().expect("pg_dump runs").success());
    let said = asof(&desk, &server, "drill --dump rows.dump");
    said.must("drill", 3, &["rows.dump has rows only", "drill a dump that has both"]);
    done(&desk, &server, "dump prod --database chat --data-only --name rows");
    asof(&desk, &server, "drill --dump rows").must("drill", 3, &["rows has rows only"]);
}

#[test]
fn a_drill_that_is_killed_is_named_by_the_next_and_one_that_is_interrupted_leaves_nothing() {
    let (desk, server, _temporary) = with_dump();
    for (signal, code) in [("INT", Some(130)), ("TERM", Some(130)), ("KILL", None)] {
        let mut command = desk.command();
        command.env("PATH", programs(&server)).env("TMPDIR", temporary(&desk)).args(["drill", "--dump", "first"]);
        let mut running = Running(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts"));
        // It says what it begins; a server runs by then.
        let (mut said, mut piece) = (String::new(), [0; 256]);
        let stderr = running.0.stderr.as_mut().expect("piped");
        while !said.contains("starting it") {
            let read = stderr.read(&mut piece).expect("a pipe can be read");
            assert!(read > 0, "{said}");
            said.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        let kill =
            std::process::Command::new("kill").args([&format!("-{signal}"), &running.0.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        assert_eq!(running.0.wait().expect("it ends").code(), code, "{signal}");
        if signal != "KILL" {
            assert_eq!(left_in(&desk), Vec::<PathBuf>::new(), "{signal}");
        }
    }
    let left = left_in(&desk);
    assert_eq!(left.len(), 1, "{left:?}");
    let said = asof(&desk, &server, "drill --dump first");
    said.must("drill", 0, &[&left[0].display().to_string(), "rm -r"]);
    assert_eq!(left_in(&desk), left, "nothing is removed that nobody asked to remove");
}

/// Ends the server in a directory that was left behind.
fn stop(directory: &Path) {
    let Ok(text) = fs::read_to_string(directory.join("data/postmaster.pid")) else { return };
    let Some(pid) = text.lines().next().map(str::to_owned) else { return };
    let _ = std::process::Command::new("kill").args(["-QUIT", &pid]).status();
    let deadline = Instant::now() + Duration::from_secs(30);
    while Path::new("/proc").join(&pid).exists() {
        // A second panic while one unwinds would abort and hide the first.
        assert!(std::thread::panicking() || Instant::now() < deadline, "the server {pid} does not end");
        std::thread::yield_now();
    }
}

#[test]
fn a_dump_is_compared_with_the_database_that_it_is_of() {
    let (desk, server, _temporary) = with_dump();
    let file = desk.work.path().join("chat.dump");
    done(&desk, &server, &format!("export first --to {}", file.display()));
    for dump in ["first", &file.display().to_string()] {
        let out = done(&desk, &server, &format!("compare {dump} prod/chat --owners"));
        assert!(out.starts_with("equal: 2 tables, 3500 rows, "), "{out}");
    }
    server
        .psql_in("chat", "update chunks set document_id = 7 where id = 11; create index late on chunks (document_id)");
    let said = asof(&desk, &server, "compare prod/chat first --json");
    assert_eq!(said.code, 7, "{said:?}");
    let report = json(&said.out);
    let objects: Vec<&str> =
        report["differences"].as_array().expect("a list").iter().filter_map(|it| it["object"].as_str()).collect();
    assert_eq!(objects, ["public.late", "public.chunks"]);
    assert_eq!(report["tables"][0]["examples"][0]["key"], "(11)");
    assert_eq!(report["b"]["label"], "first");
    assert_eq!(done(&desk, &server, &format!("compare first {} --data-only", file.display())).lines().count(), 1);

    let said = asof(&desk, &server, "compare prod/chat secnd");
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("\"secnd\" is no instance, no file and no backup"), "{said:?}");
    assert!(said.err.contains("known instances: prod"), "{said:?}");
    assert!(asof(&desk, &server, "compare prodd/chat first").err.contains("there is no instance \"prodd\""));
    let cut = fs::read(&file).expect("the dump");
    fs::write(&file, &cut[..cut.len() / 2]).expect("half of it");
    let said = asof(&desk, &server, &format!("compare {} prod/chat", file.display()));
    assert_eq!(said.code, 4, "{said:?}");
    assert_eq!(left_in(&desk), Vec::<PathBuf>::new());
}
