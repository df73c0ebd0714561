//! The commands of a runbook as people have written them for years, run as they stand with stock clients; what they get wrong,
//! shown; and what Asof does instead. Host, port and user of the originals are those of the test's server.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use asof_testkit::{Moto, Options, Server};

use support::{Desk, Running, Said, json};

const CHATBOT: &str = "
create table documents_document (id bigserial primary key, title text not null, created_at timestamptz not null default now());
create table documents_documentchunk (id bigserial primary key, document_id bigint not null references documents_document,
  content text not null, embedding real[] not null);
create table chat_conversation (id bigserial primary key, title text);
create table chat_message (id bigserial primary key, conversation_id bigint references chat_conversation, content text,
  created_at timestamptz not null default now());
insert into documents_document (title) select 'Document ' || n from generate_series(1, 100) n;
insert into documents_documentchunk (document_id, content, embedding)
  select 1 + n % 100, repeat(md5(n::text), 20), array_fill(n::real, array[384]) from generate_series(1, 2000) n;
insert into chat_conversation (title) select 'c' || n from generate_series(1, 20) n;
insert into chat_message (conversation_id, content) select 1 + n % 20, 'message ' || n from generate_series(1, 500) n;
analyze;
";

/// Documents and their chunks.
const ROWS: &str = "select (select count(*) from documents_document), (select count(*) from documents_documentchunk)";

/// A server with the chatbot's database, somebody at a shell beside it, and a repository.
struct Runbook {
    desk: Desk,
    server: Server,
}

impl Runbook {
    fn open() -> Self {
        let server = Server::running(15, &Options::default());
        server.psql("create role chatbot_user superuser login; create database chatbot_dev owner chatbot_user");
        server.psql_in("chatbot_dev", &format!("set role chatbot_user; {CHATBOT}"));
        let desk = Desk::with_repository();
        let added = desk.add("prod", &server.conninfo());
        assert_eq!(added.code, 0, "{added:?}");
        Self { desk, server }
    }

    /// Runs a line of the runbook in a shell that finds stock clients and `asof`.
    fn shell(&self, line: &str) -> Output {
        let line = line.replace("-h localhost -p 5432", &self.address()).replace("-h localhost", &self.address());
        let asof = Path::new(env!("CARGO_BIN_EXE_asof")).parent().expect("a directory").to_owned();
        let tools = PathBuf::from(self.server.tool("pg_dump").get_program()).parent().expect("a directory").to_owned();
        let path = format!("{}:{}:/usr/bin:/bin", tools.display(), asof.display());
        let mut shell = Command::new("bash");
        shell.args(["-c", &line]).env_clear().env("PATH", path).env("HOME", self.desk.work.path());
        shell
            .env("PGHOST", self.server.socket_dir())
            .env("PGPORT", self.server.port().to_string())
            .env("PGUSER", "postgres");
        shell.current_dir(self.desk.work.path()).stdin(Stdio::null()).output().expect("bash runs")
    }

    fn address(&self) -> String {
        format!("-h {} -p {}", self.server.socket_dir().display(), self.server.port())
    }

    /// As [`shell`](Self::shell); it must end well. Returns what was printed.
    fn runs(&self, line: &str) -> String {
        let output = self.shell(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// As [`shell`](Self::shell); it must fail, and say this.
    fn fails(&self, line: &str, says: &str) {
        let output = self.shell(line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(says), "{line}: {said}");
    }

    fn asof(&self, words: &str) -> Said {
        let mut command = self.desk.command();
        command.args(words.split_whitespace());
        self.desk.run(&mut command)
    }

    /// As [`asof`](Self::asof), with a line on its standard input.
    fn typed(&self, words: &str, line: &str) -> Said {
        let mut command = self.desk.command();
        self.desk.run(command.args(words.split_whitespace()).stdin(self.desk.input(line)))
    }

    fn done(&self, words: &str) -> String {
        let said = self.asof(words);
        assert_eq!(said.code, 0, "asof {words}: {said:?}");
        said.out
    }

    /// A file becomes a database; what it holds.
    fn loaded(&self, file: &str, database: &str) -> String {
        self.done(&format!("-q load {file} --new-database {database} --on prod"));
        self.server.psql_in(database, ROWS)
    }

    fn len(&self, file: &str) -> u64 {
        fs::metadata(self.desk.path(file)).unwrap_or_else(|error| panic!("{file}: {error}")).len()
    }

    /// What `asof check` reckons with for the next backup, and what the databases have, in MiB.
    fn next_backup(&self, instance: &str) -> (f64, f64) {
        let checked = self.done(&format!("check {instance}"));
        let line = checked.lines().find(|line| line.contains("repository space")).expect("room was looked for");
        let behind = |words: &str| {
            let rest = line.split_once(words).map(|(_, rest)| rest).unwrap_or_else(|| panic!("{words}: {line}"));
            let (number, _) = rest.split_once(" MiB").unwrap_or_else(|| panic!("{words}: {line}"));
            number.trim().parse().unwrap_or_else(|error| panic!("{error}: {line}"))
        };
        (behind("the next backup may take"), behind("databases, which have"))
    }

    /// Whether a dump lists definitions of tables, and rows.
    fn kinds(&self, file: &str) -> (bool, bool) {
        let list = self.runs(&format!("pg_restore --list {file}"));
        (list.contains(" TABLE public "), list.contains(" TABLE DATA public "))
    }
}

#[test]
fn the_dumps_of_the_runbook_are_answered_by_one_command_and_read_by_stock_clients() {
    let book = Runbook::open();
    // 1.1: custom, compressed, plain. The originals run as they stand, and so does the answer's file with the stock client.
    let original = "pg_dump -h localhost -p 5432 -U chatbot_user -d chatbot_dev --format=custom --file=backup_dev_$(date +%Y%m%d_%H%M%S).dump";
    book.runs(original);
    book.runs(&format!("{original}9 --compress=9"));
    book.runs("pg_dump -h localhost -p 5432 -U chatbot_user -d chatbot_dev --format=plain --file=original.sql");
    book.done("dump prod -d chatbot_dev --out backup.dump");
    book.done("dump prod -d chatbot_dev --out small.dump --compress 9");
    book.done("dump prod -d chatbot_dev --out large.dump --compress 0");
    book.done("dump prod -d chatbot_dev --out backup.sql --format plain");
    let [small, large] = ["small.dump", "large.dump"].map(|name| book.len(name));
    assert!(small < large / 2, "{small} with 9, {large} with 0");
    for (file, by) in [
        ("backup.dump", "pg_restore --exit-on-error -d"),
        ("small.dump", "pg_restore --exit-on-error -d"),
        ("backup.sql", "psql -q -v ON_ERROR_STOP=1 -d"),
    ] {
        let read = if by.starts_with("psql") { format!("-f {file}") } else { file.to_owned() };
        book.runs(&format!("createdb by_stock && {by} by_stock {read} > log"));
        assert_eq!(book.server.psql_in("by_stock", ROWS), "100|2000", "{file}");
        book.runs("dropdb by_stock");
    }
    // 1.2 to 1.5: definitions, rows, some tables, all but one. What is less than the database says so.
    let schema = book.done("dump prod -d chatbot_dev --schema-only --out schema.dump");
    assert!(schema.contains("INCOMPLETE: definitions only, no rows"), "{schema}");
    assert_eq!(book.kinds("schema.dump"), (true, false));
    let data = book.done("dump prod -d chatbot_dev --data-only --out data.dump");
    assert!(data.contains("INCOMPLETE: rows only, no definitions"), "{data}");
    assert_eq!(book.kinds("data.dump"), (false, true));
    let some = book
        .done("dump prod -d chatbot_dev --table documents_document --table documents_documentchunk --out some.dump");
    assert!(some.contains("INCOMPLETE: only tables that match documents_document, documents_documentchunk"), "{some}");
    assert!(!some.contains("foreign key"), "both ends are in it: {some}");
    assert_eq!(book.kinds("some.dump"), (true, true));
    let cut = "INCOMPLETE: foreign key documents_documentchunk_document_id_fkey from public.documents_documentchunk \
               to public.documents_document has one end only";
    for (selection, name) in [("--table", "one"), ("--exclude-table", "most")] {
        let part = book.done(&format!("dump prod -d chatbot_dev {selection} documents_documentchunk --name {name}"));
        assert!(part.contains(cut), "{selection}: {part}");
        let listed = book.done("backup list prod");
        let line = listed.lines().find(|line| line.starts_with(&format!("{name} "))).expect("it is listed");
        assert!(line.contains("INCOMPLETE"), "{listed}");
    }
}

#[test]
fn a_dump_is_named_compressed_sealed_and_described_without_being_told() {
    let book = Runbook::open();
    book.done("dump prod -d chatbot_dev --out large.dump --compress 0");
    let made = json(&book.done("-q dump prod -d chatbot_dev --json"));
    // 1.1: a name with a stamp.
    let name = made["name"].as_str().expect("a name");
    let stamp = name.strip_prefix("prod-chatbot_dev-dump-").unwrap_or_else(|| panic!("{name}"));
    assert!(stamp.len() == 15 && stamp.chars().all(|c| c.is_ascii_digit() || c == '-'), "{name}");
    assert!(book.done("backup list prod").contains(name));
    book.done("dump prod -d chatbot_dev --out");
    let names = book.runs("ls");
    assert!(names.lines().any(is_stamped), "{names}");
    // 11: too large. Nobody has to think of --compress, and what is kept cannot be read.
    let stored = made["sizes"]["stored"].as_u64().unwrap_or_else(|| panic!("{made}"));
    assert!(stored < book.len("large.dump") / 2, "{stored} of {}", book.len("large.dump"));
    book.runs("grep -qa 'Document 50' large.dump");
    assert_eq!(book.shell("grep -rqa 'Document 50' repository").status.code(), Some(1), "it is readable");
    let refused = book.asof("dump prod -d chatbot_dev --compress 9");
    refused.must("dump", 3, &["the repository compresses by itself"]);
    let without = book.done("dump prod -d chatbot_dev --exclude-table documents_documentchunk --name without");
    assert!(without.contains("INCOMPLETE: no tables that match documents_documentchunk"), "{without}");
    // 5.2: what is known of it, by the server's own words.
    let shown = json(&book.done(&format!("backup show {name} --json")));
    let (details, database) = (&shown["details"], &shown["details"]["database"]);
    let of_server = |sql: &str| book.server.psql_in("chatbot_dev", sql);
    for (recorded, sql) in [
        (&database["encoding"], "select getdatabaseencoding()"),
        (&database["collate"], "select datcollate from pg_database where datname = 'chatbot_dev'"),
        (&database["ctype"], "select datctype from pg_database where datname = 'chatbot_dev'"),
        (&database["owner"], "select 'chatbot_user'"),
        (&database["server_version"], "show server_version"),
        (&database["extensions"]["plpgsql"], "select extversion from pg_extension where extname = 'plpgsql'"),
    ] {
        assert_eq!(recorded, &of_server(sql), "{sql}: {shown}");
    }
    let client = book.runs("pg_dump --version");
    assert!(details["client_version"].as_str().is_some_and(|version| client.contains(version)), "{shown}");
    assert_eq!((&details["major"], &details["rows"], &details["tables"]), (&15.into(), &2620.into(), &4.into()));
    assert_eq!((&details["format"], &details["incomplete"]), (&"custom".into(), &json("[]")));
    // The moment of its snapshot, between two times that the server tells.
    let started = shown["started"].as_str().expect("a time");
    let lies_before = of_server(&format!("select timestamptz '{started}' between now() - interval '1 hour' and now()"));
    assert_eq!(lies_before, "t", "{started}");
}

/// `chatbot_dev_20261120_101112.dump`.
fn is_stamped(name: &str) -> bool {
    let stamp = name.strip_prefix("chatbot_dev_").and_then(|rest| rest.strip_suffix(".dump"));
    stamp.is_some_and(|stamp| stamp.len() == 15 && stamp.chars().all(|c| c.is_ascii_digit() || c == '_'))
}

#[test]
fn trap_a_script_under_the_name_of_a_dump_is_known_by_its_content() {
    let book = Runbook::open();
    // 1.4 and 1.5 forget --format=custom.
    book.runs("pg_dump -h localhost -U chatbot_user -d chatbot_dev --table=documents_document --table=documents_documentchunk --file=backup_partial.dump");
    book.runs("createdb chatbot_restored");
    book.fails("pg_restore -d chatbot_restored backup_partial.dump", "appears to be a text format dump");
    assert_eq!(book.loaded("backup_partial.dump", "partial"), "100|2000");
    // 6.1: ls -lh, file backup.dump.
    book.done("dump prod -d chatbot_dev --format plain --name script");
    let shown = book.done("backup show script");
    let of = |key: &str| shown.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}: {shown}"));
    assert!(of("name").ends_with(" script") && of("method").ends_with(" logical"), "{shown}");
    let recorded = json(&book.done("backup show script --json"));
    assert_eq!(recorded["details"]["format"], "plain");
    let total = recorded["sizes"]["total"].as_u64().unwrap_or_else(|| panic!("{recorded}"));
    assert!(total > 1_000_000 && of("sizes").contains(&total.to_string()), "{shown}");
}

#[test]
fn trap_a_database_that_holds_data_is_not_dropped_before_the_new_one_is_whole() {
    let book = Runbook::open();
    book.server.psql_in("chatbot_dev", "grant select on chat_message to public");
    book.runs("pg_dump -U chatbot_user -d chatbot_dev --format=custom --file=backup.dump");
    book.runs("head -c 60000 backup.dump > cut.dump; createdb victim; psql -q -d victim -c 'create table precious as select 1 as a'");
    // 3.1 drops first, and finds out then that the dump is no good.
    book.fails(
        "dropdb victim && createdb victim && pg_restore --verbose --no-owner --no-privileges -d victim cut.dump",
        "error",
    );
    assert_eq!(book.server.psql_in("victim", "select to_regclass('precious') is null"), "t", "the original lost it");
    book.runs("psql -q -d victim -c 'drop schema public cascade; create schema public; create table precious as select 1 as a; analyze'");
    let said = book.asof("load cut.dump --into prod/victim --replace --yes victim --no-owner --no-privileges");
    assert!(said.code != 0, "{said:?}");
    assert_eq!(book.server.psql_in("victim", "select count(*) from precious"), "1");
    // A safety dump was made; with a dump that is whole the database is replaced, and only when its name is said.
    assert!(book.done("backup list prod").contains("victim-before-load-"));
    let said = book.asof("load backup.dump --into prod/victim --replace --yes other");
    said.must("load", 3, &["--yes names other"]);
    // Without --yes somebody has to type it.
    for answer in ["", "yes", "victim2"] {
        let said = book.typed("load backup.dump --into prod/victim --replace", answer);
        said.must("load", 3, &["This replaces database victim (1 relations", "Type its name", "nothing was changed"]);
        assert_eq!(book.server.psql_in("victim", "select count(*) from precious"), "1");
    }
    let said = book.typed("load backup.dump --into prod/victim --replace --no-owner --no-privileges", "victim");
    said.must("load", 0, &["what victim held is kept as victim-before-load-"]);
    assert_eq!(book.server.psql_in("victim", ROWS), "100|2000");
    let of_others = "select count(*) from pg_class where relnamespace = 'public'::regnamespace \
                     and (relowner <> 'postgres'::regrole or relacl is not null)";
    assert_eq!(book.server.psql_in("victim", of_others), "0", "neither owners nor privileges came along");
    book.done("load backup.dump --into prod/victim --replace --yes victim");
    assert_ne!(book.server.psql_in("victim", of_others), "0", "they do when nobody leaves them out");
    // What was replaced first is in the first safety dump that was made of it.
    let listed = book.done("backup list prod");
    let kept = listed.lines().rfind(|line| line.starts_with("victim-before-load-")).expect("it is kept");
    let kept = kept.split_whitespace().next().expect("a name");
    book.done(&format!("load {kept} --new-database kept"));
    assert_eq!(book.server.psql_in("kept", "select count(*) from precious"), "1");
}

#[test]
fn what_a_load_would_be_refused_for_is_the_result_of_its_dry_run() {
    let book = Runbook::open();
    book.done("dump prod -d chatbot_dev --name good");
    let said = book.asof("load good --into prod/chatbot_dev --dry-run");
    said.must("load --dry-run", 3, &["the dump cannot be loaded"]);
    assert!(said.out.contains("FAILED  database") && said.out.contains("ok      client"), "{said:?}");
    let said = book.asof("load good --into prod/chatbot_dev --dry-run --json");
    assert_eq!(said.code, 3, "{said:?}");
    let plan = json(&said.out);
    let checks = plan["checks"].as_array().expect("checks");
    let failed: Vec<_> = checks.iter().filter(|check| check["ok"] == false).map(|check| &check["check"]).collect();
    assert_eq!(failed, ["database"], "{plan}");
    let plan = json(&book.done("load good --new-database copy --dry-run --json"));
    assert_eq!(plan["database"], "copy");
    assert_eq!(book.server.psql("select count(*) from pg_database where datname ~ 'copy'"), "0");
}

#[test]
fn what_would_stop_a_dump_is_the_result_of_its_dry_run() {
    let book = Runbook::open();
    let plan = json(&book.done("dump prod -d chatbot_dev --name first --dry-run --json"));
    assert_eq!(
        (&plan["database"]["name"], &plan["into"]["backup"]),
        (&"chatbot_dev".into(), &"first".into()),
        "{plan}"
    );
    assert!(plan["tables"] == 4 && plan["client"]["version"].is_string() && plan["bytes"].is_u64(), "{plan}");
    book.done("dump prod -d chatbot_dev --name first --schema-only");
    book.desk.write("there.dump", "mine");
    for (words, says) in [
        ("--name first", "first"),
        ("--out there.dump", "there.dump exists already"),
        ("--out none/x.dump", "there is no directory "),
        ("--out trail/", "trail/ names a directory, and there is none"),
        ("--out -", "not to standard output"),
        ("--out x.dump --compress gzip:6", "compresses with a level from 0 to 9"),
        ("--table nosuch", "no table, view or sequence of chatbot_dev matches nosuch"),
    ] {
        for dry in ["", " --dry-run"] {
            let words = format!("dump prod -d chatbot_dev {words}{dry}");
            book.asof(&words).must(&words, 3, &[says]);
        }
    }
    for to in ["-", "http://x/y"] {
        book.asof(&format!("export first --to {to}")).must("export", 3, &["name a file"]);
    }
    book.done("dump prod -d chatbot_dev --out trail/ --format directory");
    assert!(book.desk.path("trail/toc.dat").exists() && book.desk.path("trail.json").exists());
    assert!(!book.desk.path("-").exists() && !book.desk.path("http:").exists());
}

#[test]
fn a_dump_that_is_not_the_whole_database_says_so_when_it_is_shown_and_loaded() {
    let book = Runbook::open();
    book.done("dump prod -d chatbot_dev --name bare --schema-only --globals");
    let shown = book.done("backup show bare");
    for line in
        ["database   chatbot_dev of PostgreSQL 15", "INCOMPLETE definitions only, no rows", "tablespaces are in it"]
    {
        assert!(shown.contains(line), "{shown}");
    }
    let said = book.asof("load bare --new-database copy --dry-run");
    assert!(said.out.contains("ok      contents     INCOMPLETE: definitions only, no rows"), "{said:?}");
    let stock = "pg_dump -h localhost -p 5432 -d chatbot_dev -Fc --schema-only --file=stock.dump";
    book.runs(stock);
    book.runs("createdb victim");
    for dump in ["bare", "stock.dump"] {
        let said = book.asof(&format!("-q load {dump} --into prod/victim --replace --yes victim"));
        assert!(said.code == 0 && said.err.contains("INCOMPLETE: definitions only, no rows"), "{said:?}");
    }
}

#[test]
fn a_dump_that_is_not_found_may_have_been_meant_as_a_file() {
    let book = Runbook::open();
    for words in ["load x.dump --new-database y --on prod", "verify --dump x.dump"] {
        book.asof(words).must(words, 3, &["there is no file x.dump here, and there is no backup \"x.dump\""]);
    }
    let added = book.desk.add("second", &book.server.conninfo());
    assert_eq!(added.code, 0, "{added:?}");
    book.asof("verify --dump x.dump").must("verify", 3, &["no file x.dump here, and there is more than one instance"]);
    book.runs("pg_dump -h localhost -p 5432 -d chatbot_dev -Ft --file=all.tar");
    let words = "load all.tar --into prod/chatbot_dev --table chat_message";
    book.asof(words).must(words, 3, &["have rows already"]);
    book.server.psql_in("chatbot_dev", "delete from chat_message where id > 100");
    book.done(&format!("{words} --on-conflict skip"));
    assert_eq!(book.server.psql_in("chatbot_dev", "select count(*) from chat_message"), "500");
}

#[test]
fn an_option_that_would_do_nothing_is_refused() {
    let book = Runbook::open();
    for (words, code, says) in [
        ("dump prod -d chatbot_dev --format plain --jobs 2", 3, "SQL is written by one process"),
        ("dump prod -d chatbot_dev --out a.dump --jobs 2", 3, "a file is written by one process"),
        ("dump prod -d chatbot_dev --table chat_message --jobs 2", 3, "a selection goes into the repository by one"),
        ("dump prod -d chatbot_dev --compress 9", 3, "the repository compresses by itself"),
        ("dump prod -d chatbot_dev --out a.dump --name nightly", 2, "cannot be used with"),
        ("dump prod -d chatbot_dev --out a.dump --tag a=b", 2, "cannot be used with"),
    ] {
        book.asof(words).must(words, code, &[says]);
    }
    assert!(!book.desk.path("a.dump").exists());
    assert_eq!(json(&book.done("backup list prod --json")).as_array().map(Vec::len), Some(0));
}

#[test]
fn a_database_without_tables_is_kept_as_well_before_it_is_replaced() {
    let book = Runbook::open();
    book.done("dump prod -d chatbot_dev --name good");
    book.runs("createdb bare; psql -q -d bare -c \"select lo_from_bytea(4711, 'kept')\"");
    book.done("load good --into prod/bare --replace --yes bare");
    let listed = json(&book.done("backup list prod --json"));
    let names = listed.as_array().expect("backups").iter().filter_map(|backup| backup["name"].as_str());
    let kept = names.into_iter().find(|name| name.starts_with("bare-before-load-")).expect("a safety dump").to_owned();
    book.done(&format!("load {kept} --new-database again"));
    assert_eq!(book.server.psql_in("again", "select convert_from(lo_get(4711), 'utf8')"), "kept");
}

#[test]
fn trap_a_script_stops_at_its_first_error_and_leaves_nothing() {
    let book = Runbook::open();
    book.runs("pg_dump -U chatbot_user -d chatbot_dev --format=plain --file=backup.sql; sed -i 's/Document 50/Document 50\\tone column more/' backup.sql");
    // 3.1: psql … < backup.sql goes on behind an error and ends with 0.
    book.runs("createdb half && psql -q -d half < backup.sql > log 2>&1");
    assert!(book.desk.read("log").contains("ERROR"), "it failed");
    assert_eq!(book.server.psql_in("half", "select count(*) from chat_message"), "500", "and went on");
    assert_eq!(book.server.psql_in("half", "select count(*) from documents_document"), "0");
    let said = book.asof("-q load backup.sql --new-database whole --on prod");
    said.must("load", 1, &["extra data after last expected column"]);
    assert_eq!(book.server.psql("select count(*) from pg_database where datname ~ 'whole'"), "0");
}

#[test]
fn trap_a_table_comes_back_with_its_indexes_keys_and_sequence() {
    let book = Runbook::open();
    book.runs("pg_dump -U chatbot_user -d chatbot_dev --format=custom --file=backup.dump");
    book.done("dump prod -d chatbot_dev --name good");
    // 3.2: rows that exist conflict, and where the table is gone it comes back bare.
    book.fails(
        "pg_restore -d chatbot_dev --table=documents_document --table=documents_documentchunk backup.dump",
        "already exists",
    );
    book.runs("psql -q -d chatbot_dev -c 'drop table documents_documentchunk' && pg_restore -d chatbot_dev --table=documents_documentchunk backup.dump");
    let constraints = "select count(*) from pg_constraint where conrelid = 'documents_documentchunk'::regclass and contype in ('p', 'f')";
    assert_eq!(book.server.psql_in("chatbot_dev", constraints), "0", "no key came back");
    book.runs("psql -q -d chatbot_dev -c 'drop table documents_documentchunk'");
    book.done("load good --into prod/chatbot_dev --table documents_documentchunk");
    assert_eq!(book.server.psql_in("chatbot_dev", constraints), "2");
    let insert =
        "insert into documents_documentchunk (document_id, content, embedding) values (1, '', '{}') returning id";
    assert!(book.server.psql_in("chatbot_dev", insert).starts_with("2001"), "the sequence goes on behind the rows");
}

#[test]
fn trap_a_pipe_that_stays_empty_is_a_failure() {
    let book = Runbook::open();
    // 7.3: --file=- writes a file of that name; what is encrypted is nothing.
    book.runs("pg_dump -U chatbot_user -d chatbot_dev --format=custom --file=- | openssl enc -aes-256-cbc -salt -pbkdf2 -pass pass:secret -out backup.enc");
    assert_eq!(
        fs::metadata(book.desk.path("backup.enc")).expect("it is there").len(),
        32,
        "sixteen bytes of salt, and padding"
    );
    assert!(book.desk.path("-").exists());
    book.desk.write("pw", "secret\n");
    book.runs("chmod 600 pw");
    let said = book.asof("-q load backup.enc --password-file pw --new-database nothing --on prod");
    assert!(said.code != 0 && said.err.contains("backup.enc"), "{said:?}");
    // As it was meant, it is read: decrypted and restored in one pipe by stock programs, and by one command.
    book.runs("pg_dump -U chatbot_user -d chatbot_dev --format=custom | openssl enc -aes-256-cbc -salt -pbkdf2 -pass pass:secret -out meant.enc");
    book.runs("createdb chatbot_restored && openssl enc -d -aes-256-cbc -pbkdf2 -pass pass:secret -in meant.enc | pg_restore -d chatbot_restored");
    let said = book.asof("-q load meant.enc --password-file pw --new-database meant --on prod");
    assert!(said.code == 0 && said.err.contains("without authentication"), "{said:?}");
    // So it is by what proves a dump, also when it is wrapped twice.
    book.runs(
        "pg_dump -d chatbot_dev -Fp | gzip | openssl enc -aes-256-cbc -salt -pbkdf2 -pass pass:secret -out twice.enc",
    );
    let bin = book.server.bin_dir().display();
    // A script says neither who owns its database nor its locale.
    for (file, besides) in [("meant.enc", "--owners"), ("twice.enc", "--data-only")] {
        book.done(&format!("verify --dump {file} --password-file pw"));
        book.done(&format!("drill --dump {file} --password-file pw --bindir {bin}"));
        book.done(&format!("compare {file} prod/chatbot_dev --password-file pw --bindir {bin} {besides}"));
    }
}

#[test]
fn trap_what_was_changed_in_an_encrypted_dump_shows_only_in_the_repository() {
    let book = Runbook::open();
    // 7.3: a bit that is flipped in the ciphertext of openssl enc garbles one block and one bit of the next; nothing tells.
    book.runs("pg_dump -U chatbot_user -d chatbot_dev --format=plain | openssl enc -aes-256-cbc -salt -pbkdf2 -pass pass:s -out plain.enc");
    let mut bytes = fs::read(book.desk.path("plain.enc")).expect("the file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(book.desk.path("changed.enc"), bytes).expect("written");
    book.runs("openssl enc -d -aes-256-cbc -pbkdf2 -pass pass:s -in changed.enc > /dev/null");
    book.done("dump prod -d chatbot_dev --name sealed");
    let packs = book.runs("ls -S repository/l/*/packs/* | head -1");
    let pack = packs.trim();
    let mut bytes = fs::read(book.desk.path(pack)).expect("a pack");
    bytes[40_000] ^= 1;
    book.runs(&format!("chmod u+w {pack}"));
    fs::write(book.desk.path(pack), bytes).expect("written");
    let said = book.asof("-q load sealed --new-database changed");
    said.must("load", 4, &["damaged"]);
    assert_eq!(book.server.psql("select count(*) from pg_database where datname ~ 'changed'"), "0");
}

#[test]
fn trap_disabling_triggers_acts_where_it_can_and_says_so_where_it_cannot() {
    let book = Runbook::open();
    book.done("dump prod -d chatbot_dev --name good");
    // 11: --disable-triggers changes nothing unless only rows are loaded; pg_restore says nothing of it.
    book.runs(
        "pg_dump -d chatbot_dev --format=custom --file=b.dump; createdb x; pg_restore -d x --disable-triggers b.dump",
    );
    book.done("load good --new-database fast --jobs 4");
    assert_eq!(book.server.psql_in("fast", ROWS), "100|2000");
    let said = book.asof("load good --new-database y --table chat_message --disable-triggers");
    assert!(said.code == 0 && said.err.contains("--disable-triggers changed nothing"), "{said:?}");
    book.server.psql_in(
        "chatbot_dev",
        "create table seen (what text); create function note() returns trigger language plpgsql as
         'begin insert into seen values (tg_name); return new; end';
         create trigger noted after insert on chat_message for each row execute function note(); delete from chat_message where id < 10",
    );
    book.done("load good --into prod/chatbot_dev --table chat_message --on-conflict skip --disable-triggers");
    let counts = "select (select count(*) from chat_message), (select count(*) from seen)";
    assert_eq!(book.server.psql_in("chatbot_dev", counts), "500|0");
}

#[test]
fn trap_old_dumps_are_not_removed_by_the_name_of_a_file() {
    let book = Runbook::open();
    // 11: find … -mtime +30 -delete removes the only good dump there is, and knows no hold.
    book.runs("pg_dump -d chatbot_dev --format=custom --file=only.dump; touch -d '40 days ago' only.dump; find . -maxdepth 1 -name '*.dump' -mtime +30 -delete");
    assert!(!book.desk.path("only.dump").exists());
    book.done("dump prod -d chatbot_dev --name only");
    book.done("backup hold only --reason audit");
    book.desk.refused("backup delete only", 3, &["is held: audit"]);
}

#[test]
fn what_dumps_and_loads_took_is_measured_and_recorded() {
    let book = Runbook::open();
    // 9.3: time pg_dump …, time pg_restore …
    let made = json(&book.done("-q dump prod -d chatbot_dev --name timed --json"));
    assert!(made["elapsed_seconds"].as_f64().is_some_and(|took| took > 0.0), "{made}");
    let shown = json(&book.done("backup show timed --json"));
    assert!(shown["details"]["elapsed_ms"].as_u64().is_some(), "{shown}");
    let loaded = json(&book.done("-q load timed --new-database timed --json"));
    assert!(loaded["elapsed_seconds"].as_f64().is_some_and(|took| took > 0.0), "{loaded}");
    let bin = book.server.bin_dir().display();
    let drilled = json(&book.done(&format!("-q drill --dump timed --json --bindir {bin}")));
    let (load, total) = (drilled["load_ms"].as_u64(), drilled["total_ms"].as_u64());
    assert!(load.is_some_and(|load| load > 0) && load < total, "{drilled}");
    let shown = json(&book.done("backup show timed --json"));
    assert_eq!(shown["drilled"]["elapsed_ms"].as_u64(), total, "{shown}");
    for words in ["dump prod -d chatbot_dev --name again", "load timed --new-database again"] {
        let printed = book.done(words);
        assert!(printed.lines().any(|line| line.trim_start().starts_with("took ")), "{words}: {printed}");
    }
}

#[test]
fn trap_twice_the_size_of_the_database_is_no_measure_of_a_dump() {
    let book = Runbook::open();
    // 5.1: pg_database_size, times one to two, held against df -h. What the server keeps compressed is long in a dump.
    book.server.psql("create database chatty");
    book.server.psql_in(
        "chatty",
        "create table note as select repeat('the same again ', 200000) as body from generate_series(1, 20)",
    );
    let size: u64 = book.server.psql("select pg_database_size('chatty')").parse().expect("bytes");
    book.runs("pg_dump -d chatty --format=plain --file=chatty.sql");
    let dumped = fs::metadata(book.desk.path("chatty.sql")).expect("the dump").len();
    assert!(dumped > 2 * size, "{dumped} of {size}");
    let made = json(&book.done("-q dump prod -d chatty --name chatty --json"));
    let stored = made["sizes"]["stored"].as_u64().unwrap_or_else(|| panic!("{made}"));
    assert!(stored < size, "{stored} of {size}");
    // The check goes by what the dump of a database took, as soon as there is one.
    let conninfo = book.server.conninfo();
    let mut add = book.desk.command();
    let added = book.desk.run(add.args(["instance", "add", "dumped", "--logical-only", "--pg", &conninfo]));
    assert_eq!(added.code, 0, "{added:?}");
    let (unknown, all) = book.next_backup("dumped");
    assert_eq!(unknown, all, "nobody knows yet what a dump takes");
    book.done("dump dumped -d chatty --name chatty");
    let (known, all) = book.next_backup("dumped");
    assert!((unknown - known - mib(size - stored)).abs() < 0.3, "{known} of {all} MiB, {unknown} before");
}

#[expect(clippy::cast_precision_loss, reason = "the length of a small database")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[test]
fn trap_equal_sums_over_ids_hide_other_contents() {
    let book = Runbook::open();
    // 10, step 7: the sums of the original see ids and nothing else.
    book.runs(
        "createdb chatbot_restored; pg_dump -d chatbot_dev -Fc --file=d.dump; pg_restore -d chatbot_restored d.dump",
    );
    book.done("compare prod/chatbot_dev prod/chatbot_restored");
    book.server.psql_in("chatbot_restored", "update documents_document set title = 'lost' where id = 7");
    let sum = |database: &str| {
        let sql = "SELECT md5(array_agg(id::text ORDER BY id)::text) FROM documents_document";
        book.runs(&format!("psql -d {database} -tAc '{sql}'"))
    };
    assert_eq!(sum("chatbot_dev"), sum("chatbot_restored"), "the original sees no difference");
    let said = book.asof("compare prod/chatbot_dev prod/chatbot_restored");
    assert_eq!(said.code, 7, "{said:?}");
    assert!(said.out.contains("row (7) differs"), "{said:?}");
}

#[test]
fn trap_a_sleep_is_no_proof_that_a_server_is_there() {
    let book = Runbook::open();
    book.done("dump prod -d chatbot_dev --name whole");
    // 3.4: the container is started, and after a while it is taken for ready. This server never will be.
    let bin = book.desk.path("bin");
    fs::create_dir(&bin).expect("a directory");
    for entry in fs::read_dir(book.server.bin_dir()).expect("programs").map(|entry| entry.expect("an entry")) {
        std::os::unix::fs::symlink(entry.path(), bin.join(entry.file_name())).expect("a link");
    }
    fs::remove_file(bin.join("postgres")).expect("there is one");
    let real = book.server.bin_dir().join("postgres");
    let broken = format!(
        "#!/bin/sh\ncase \"$*\" in -D*) echo 'FATAL:  it does not start today' >&2; exit 1;; esac\nexec {} \"$@\"\n",
        real.display()
    );
    fs::write(bin.join("postgres"), broken).expect("a script");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(bin.join("postgres"), executable).expect("it can be run");
    let original = format!("{}/postgres -D none & sleep 0.1; echo ready", bin.display());
    assert_eq!(book.runs(&original), "ready\n");
    let said = book.asof(&format!("drill --dump whole --bindir {}", bin.display()));
    assert_ne!(said.code, 0, "{said:?}");
    assert!(said.err.contains("it does not start today"), "{said:?}");
}

#[test]
fn an_export_into_a_bucket_is_a_file_that_stock_pg_restore_reads() {
    let (book, moto) = (Runbook::open(), Moto::with_bucket("archive"));
    // More than one part of an upload.
    book.server.psql_in(
        "chatbot_dev",
        "create table bulk as select md5(n::text) || md5((-n)::text) as it from generate_series(1, 400000) n",
    );
    book.done("dump prod -d chatbot_dev --name yearly --globals");
    let url = format!("s3://archive/2026/yearly.dump?region=eu-central-1&endpoint=http://{}", moto.address());
    let export = |name: &str, url: &str| {
        let mut command = book.desk.command();
        command.args(["-q", "export", name, "--json", "--to", url]);
        book.desk.run(command.envs([("AWS_ACCESS_KEY_ID", "writer"), ("AWS_SECRET_ACCESS_KEY", "writer")]))
    };
    let said = export("yearly", &url);
    assert_eq!(said.code, 0, "{said:?}");
    let bytes = json(&said.out)["bytes"].as_u64().expect("a length");
    let found = object(&moto, "archive/2026/yearly.dump");
    assert!(found.len() as u64 == bytes && bytes > 12_000_000, "{} of {bytes}", found.len());
    fs::write(book.desk.path("fetched.dump"), found).expect("a file");
    let record = String::from_utf8(object(&moto, "archive/2026/yearly.dump.json")).expect("text");
    let record = json(&record);
    assert_eq!(record["details"]["database"]["name"], "chatbot_dev");
    assert_eq!(record["details"]["incomplete"], json("[]"));
    let roles = String::from_utf8(object(&moto, "archive/2026/yearly.dump.globals.sql")).expect("text");
    assert!(roles.contains("chatbot_user"), "{roles}");

    book.runs("createdb -O chatbot_user fetched; pg_restore --exit-on-error -d fetched fetched.dump");
    book.done("compare prod/chatbot_dev prod/fetched --owners");
    // What is less than the database is marked there, too.
    book.done("dump prod -d chatbot_dev --name part --table documents_documentchunk");
    assert_eq!(export("part", &url.replace("yearly", "part")).code, 0);
    let record = String::from_utf8(object(&moto, "archive/2026/part.dump.json")).expect("text");
    let record = json(&record);
    assert_eq!(record["details"]["incomplete"][0], "only tables that match documents_documentchunk");
    assert_eq!(record["details"]["cut_foreign_keys"][0]["to"], "public.documents_document");
    // Nothing of a bucket is overwritten either.
    let said = export("yearly", &url);
    assert!(said.code == 3 && said.err.contains("yearly.dump"), "{said:?}");
}

/// What anybody gets who asks for an object; this server asks for no signature.
fn object(moto: &Moto, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(moto.address()).expect("the server answers");
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {}\r\n\r\n", moto.address()).expect("it listens");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    assert!(head.contains(" 200 "), "{path}: {head}");
    answer.split_off(end)
}

/// Some MiB of rows, into a table whose trigger waits for a lock at the tenth.
const WAITING: &str = "create table q (i int primary key, t text);
create function wait() returns trigger language plpgsql as
  $$ begin if new.i = 10 then perform pg_advisory_xact_lock(7); end if; return new; end $$;
create trigger waits before insert on q for each row execute function wait();";

/// Waits until the server answers so.
fn wait_for(server: &Server, sql: &str, answer: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.psql(sql) != answer {
        assert!(Instant::now() < deadline, "{sql} is not {answer}");
        std::thread::yield_now();
    }
}

#[test]
fn hz_l6_a_load_that_is_killed_commits_nothing() {
    let book = Runbook::open();
    let server = &book.server;
    server.psql("create database original; create database target; create database empty_one");
    server.psql_in("original", WAITING);
    server.psql_in("original", "insert into q select n, repeat(md5(n::text), 100) from generate_series(1, 2000) n");
    book.runs("pg_dump -Fc -Z0 original > q.dump");
    let rows = book.runs("psql -XAtc 'copy q to stdout' original");
    fs::write(book.desk.path("q.sql"), format!("{WAITING}\ncopy q from stdin;\n{rows}\\.\n")).expect("a file");
    server.psql_in("target", &format!("{WAITING} insert into q values (-1, 'old')"));
    for words in ["load q.dump --into prod/target --table q --on-conflict replace", "load q.sql --into prod/empty_one"]
    {
        let mut holder = server.tool("psql");
        holder.args(["-XAtq", "-d", "postgres"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = Running(holder.spawn().expect("psql runs"));
        // Advisory locks are of one database.
        let database = words.split("prod/").nth(1).and_then(|rest| rest.split(' ').next()).expect("it is named");
        let lock = format!("\\connect {database}\nselect pg_advisory_lock(7);\nselect 'held';\n");
        holder.0.stdin.as_mut().expect("it is piped").write_all(lock.as_bytes()).expect("it reads");
        let (mut said, mut piece) = (String::new(), [0; 64]);
        while !said.contains("held") {
            let read = holder.0.stdout.as_mut().expect("it is piped").read(&mut piece).expect("it answers");
            assert!(read > 0, "{said}");
            said.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        let mut command = book.desk.command();
        command.args(words.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut loading = Running(command.spawn().expect("it starts"));
        wait_for(server, "select count(*) from pg_locks where locktype = 'advisory' and not granted", "1");
        loading.0.kill().expect("it is killed");
        assert_eq!(loading.0.wait().expect("it ends").code(), None);
        drop(holder.0.stdin.take());
        assert!(holder.0.wait().expect("it ends").success());
        let others =
            format!("select count(*) from pg_stat_activity where datname = '{database}' and pid <> pg_backend_pid()");
        wait_for(server, &others, "0");
    }
    assert_eq!(server.psql_in("target", "select count(*), min(t) from q"), "1|old");
    assert_eq!(server.psql_in("empty_one", "select count(*) from pg_class where relname = 'q'"), "0");
}
