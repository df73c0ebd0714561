//! Servers that hand out no files, as managed services do: what can be done with them as a role that owns a database and
//! may do little else, and that everything else is refused in one sentence.

mod support;

use std::process::Command;

use asof_testkit::{Options, Server, majors};

use support::{Desk, Said, json};

/// What the role owns: objects of the kinds that applications have, with rows.
const APPLICATION: &str = "
    create schema shop; create type shop.state as enum ('new', 'paid'); create domain shop.amount as numeric check (value >= 0);
    create table shop.customers (id bigserial primary key, name text not null, note text);
    comment on table shop.customers is 'who buys';
    create table shop.orders (id int generated always as identity, customer bigint references shop.customers,
      state shop.state, total shop.amount, made date not null) partition by range (made);
    create table shop.orders_2025 partition of shop.orders for values from ('2025-01-01') to ('2026-01-01');
    create table shop.secrets (owner text, secret text); alter table shop.secrets enable row level security;
    create policy own on shop.secrets using (owner = current_user);
    create function shop.spent(bigint) returns numeric language sql stable
      return (select sum(total) from shop.orders where customer = $1);
    create view shop.paid as select * from shop.orders where state = 'paid';
    create materialized view shop.totals as select customer, sum(total) from shop.orders group by 1;
    insert into shop.customers (name) select 'name ' || n from generate_series(1, 300) n;
    insert into shop.orders (customer, state, total, made) select n, 'paid', n, '2025-03-01' from generate_series(1, 300) n;
    insert into shop.secrets values ('owner', 'a'), ('somebody', 'b'); refresh materialized view shop.totals;
    select lo_from_bytea(0, 'large');";

/// A server that calls itself a managed service, and a desk that knows it by the owner of one of its databases.
struct Managed {
    desk: Desk,
    server: Server,
}

impl Managed {
    /// With a database `app` of the role `owner`, which is no superuser and may read no files.
    fn new(major: u32, setting: &str) -> Self {
        let server = Server::running(major, &Options::with_config(&[setting]));
        server.psql("create role owner login createdb");
        server.psql("create database app owner owner");
        let managed = Self { desk: Desk::with_repository(), server };
        // SQL functions with a body of their own came with 14.
        let sql = match major {
            13 => APPLICATION.replace("return (", "as 'select (").replace("customer = $1);", "customer = $1)';"),
            _ => APPLICATION.to_owned(),
        };
        managed.server.psql_in("app", &format!("set role owner; {sql}"));
        managed
    }

    /// Registered as `prod`.
    fn registered(major: u32, setting: &str) -> (Self, Said) {
        let managed = Self::new(major, setting);
        let added = managed.add("prod", &[]);
        assert_eq!(added.code, 0, "{added:?}");
        (managed, added)
    }

    fn conninfo(&self) -> String {
        let (host, port) = (self.server.socket_dir().display(), self.server.port());
        format!("host={host} port={port} user=owner dbname=app")
    }

    fn add(&self, name: &str, more: &[&str]) -> Said {
        let conninfo = self.conninfo();
        self.desk.run(self.command().args(["instance", "add", name, "--pg", &conninfo]).args(more))
    }

    /// What the configuration says when this server's place was taken by another.
    fn replaced_by(&self, other: &Self) -> String {
        let place = |server: &Server| (server.socket_dir().display().to_string(), server.port().to_string());
        let ((socket, port), (its_socket, its_port)) = (place(&self.server), place(&other.server));
        let text = self.desk.read("asof.toml");
        assert!(text.contains(&socket) && text.contains(&port), "{text}");
        text.replace(&socket, &its_socket).replace(&port, &its_port)
    }

    /// `asof`, which finds the client programs of this machine and those of the server.
    fn command(&self) -> Command {
        let mut command = self.desk.command();
        let tool = self.server.tool("pg_dump");
        let own = std::path::Path::new(tool.get_program()).parent().expect("a directory");
        command.env("PATH", format!("{}:/usr/bin:/bin", own.display()));
        command
    }

    fn asof(&self, words: &str) -> Said {
        self.desk.run(self.command().args(words.split(' ')))
    }

    fn done(&self, words: &str) -> String {
        let said = self.asof(words);
        assert_eq!(said.code, 0, "asof {words} on {}: {said:?}", self.server.major());
        said.out
    }
}

#[test]
fn the_owner_of_a_database_of_a_managed_service_dumps_loads_and_compares_it() {
    for major in majors() {
        let (managed, added) = Managed::registered(major, "rds.extensions = 'plpgsql'");
        for expected in [
            "Amazon RDS or Aurora",
            "logical backups only",
            "WAL",
            "one moment of one database",
            "snapshots of the service",
        ] {
            assert!(added.out.contains(expected), "`{expected}` is not in {added:?}");
        }
        assert!(managed.desk.read("asof.toml").contains("logical = true"));
        managed.done("dump prod --name first");
        let globals = managed.asof("dump prod --name second --globals");
        assert_eq!(globals.code, 0, "{globals:?}");
        assert!(globals.err.contains("without their passwords"), "{globals:?}");
        managed.done("dump prod --name third --jobs 3");
        let file = managed.done("dump prod --out file.dump --globals");
        assert!(file.contains("beside"), "{file}");
        managed.done("load second --instance prod --new-database copy");
        let compared = managed.asof("compare prod/app prod/copy --owners");
        assert_eq!(compared.code, 0, "on {major}: {compared:?}");
        managed.server.psql("create database empty owner owner");
        managed.done("load third --instance prod --into prod/empty");
        managed.done("compare prod/app prod/empty --owners");
        assert_eq!(managed.server.psql_in("empty", "select sum(total), count(*) from shop.orders"), "45150|300");
        managed.server.psql_in("copy", "delete from shop.customers where id = 300 and not exists (select from shop.orders where customer = 300); drop table shop.secrets");
        assert_eq!(managed.asof("compare prod/app prod/copy").code, 7);
        let listed = managed.done("backup list prod");
        assert!(listed.contains("first") && listed.contains("second") && listed.contains("logical"), "{listed}");
    }
}

#[test]
fn every_known_service_is_recognised() {
    for (setting, service) in [
        ("rds.extensions = 'a'", "Amazon RDS or Aurora"),
        ("cloudsql.iam_authentication = 'off'", "Google Cloud SQL"),
        ("azure.extensions = ''", "Azure Database for PostgreSQL"),
    ] {
        let (managed, added) = Managed::registered(15, setting);
        assert!(added.out.contains(service), "{added:?}");
        let shown = json(&managed.done("instance show prod --json"));
        assert_eq!((&shown["service"], &shown["logical_only"]), (&service.into(), &true.into()));
    }
}

#[test]
fn what_needs_files_or_wal_is_refused_for_a_managed_service_in_one_sentence() {
    let (managed, _) = Managed::registered(15, "rds.extensions = 'plpgsql'");
    for words in [
        "backup create prod",
        "wal receive prod",
        "wal status prod",
        "wal push segment --instance prod",
        "restore prod --latest --to there",
        "restore prod --target-time 2026-01-01T00:00:00Z --as copy --dry-run",
    ] {
        managed.asof(words).must(words, 3, &["logical backups only (Amazon RDS or Aurora)", "asof dump", "asof load"]);
    }
    managed.asof("instance grants prod").must("instance grants", 3, &["only dumped", "asof check prod"]);
    let words = "wal get 000000010000000000000001 there --instance prod";
    managed.asof(words).must(words, 200, &["logical backups only"]);
    for more in [&["--by-sql"][..], &["--data-directory", "/x"], &["--spool", "/x"]] {
        managed.add("other", more).must("instance add", 3, &["hands out neither its files nor its WAL"]);
    }
}

#[test]
fn the_status_of_a_managed_service_shows_its_dumps_and_no_window() {
    let (managed, _) = Managed::registered(15, "rds.extensions = 'plpgsql'");
    let before = managed.done("status prod");
    assert!(before.contains("there is no dump"), "{before}");
    managed.done("dump prod --name whole");
    managed.done("dump prod --name part --table shop.customers");
    let status = managed.done("status prod");
    for expected in
        ["logical backups only: Amazon RDS or Aurora", "dumps     2", "app", "part", "1 tables", "INCOMPLETE"]
    {
        assert!(status.contains(expected), "`{expected}` is not in {status}");
    }
    for meaningless in ["window", "exposure", "WAL  "] {
        assert!(!status.contains(meaningless), "`{meaningless}` in {status}");
    }
    let value = json(&managed.done("status prod --json"));
    assert_eq!((&value[0]["logical_only"], &value[0]["logical_backups"]), (&true.into(), &2.into()));
    assert_eq!(
        (&value[0]["databases"][0]["database"], &value[0]["databases"][0]["incomplete"]),
        (&"app".into(), &true.into())
    );
    let listed = managed.done("instance list");
    assert!(listed.contains("dumps only"), "{listed}");
}

#[test]
fn any_server_can_be_added_for_logical_backups_only_and_anew_with_its_files_under_another_name() {
    let managed = Managed::new(15, "wal_level = minimal\nmax_wal_senders = 0");
    let added = managed.add("prod", &["--logical-only"]);
    assert!(added.code == 0 && added.out.contains("logical backups only"), "{added:?}");
    managed.done("dump prod --name first");
    managed.add("prod", &[]).must("instance add", 3, &["GRANT EXECUTE ON FUNCTION", "--logical-only"]);
    let files = managed.server.conninfo();
    let add = |name: &str, more: &[&str]| {
        managed.desk.run(managed.command().args(["instance", "add", name, "--pg", &files]).args(more))
    };
    add("prod", &[]).must("instance add", 3, &["prod is registered for logical backups only", "another name"]);
    assert_eq!(add("files", &[]).code, 0);
    add("files", &["--logical-only"]).must("instance add", 3, &["registered with its files", "another name"]);
    assert!(managed.done("backup list prod").contains("first"));
}

#[test]
fn hz_d1_another_server_under_the_name_of_a_managed_service_is_refused() {
    let (managed, _) = Managed::registered(15, "rds.extensions = 'plpgsql'");
    managed.done("dump prod --name first");
    let other = Managed::new(15, "rds.extensions = 'plpgsql'");
    managed.desk.write("asof.toml", &managed.replaced_by(&other));
    for words in [
        "dump prod",
        "dump prod --dry-run",
        "dump prod --out file.dump",
        "check prod",
        "drill --practical prod",
        "load first --into prod/app --replace --no-safety-dump --yes app",
    ] {
        let said = managed.asof(words);
        let text = format!("{}{}", said.out, said.err);
        assert_eq!(said.code, 3, "asof {words}: {said:?}");
        assert!(text.contains("not the server that was registered as prod"), "asof {words}: {said:?}");
    }
    assert_eq!(other.server.psql("select count(*) from pg_database where datname = 'app' and datallowconn"), "1");
    assert!(managed.done("status prod").contains("not the server that was registered as prod"));
    other.desk.run(managed.command().args(["instance", "add", "prod", "--pg", &other.conninfo()])).must(
        "instance add",
        3,
        &["not the server that was registered as prod"],
    );
    assert_eq!(json(&managed.done("backup list prod --json")).as_array().map(Vec::len), Some(1));
}

#[test]
fn a_major_upgrade_of_a_managed_service_is_remarked_and_goes_on() {
    // With one major there is nothing to upgrade.
    let [old, .., new] = majors()[..] else { return };
    let (managed, _) = Managed::registered(old, "rds.extensions = 'plpgsql'");
    managed.done("dump prod --name before");
    let upgraded = Managed::new(new, "rds.extensions = 'plpgsql'");
    let here = managed.desk.read("asof.toml");
    managed.desk.write("asof.toml", &managed.replaced_by(&upgraded));
    let remark = format!("was PostgreSQL {old} and is {new} now");
    assert!(managed.done("status prod").contains(&remark));
    // Whatever writes nothing into the journal does not settle it.
    for words in ["dump prod --dry-run", "dump prod --out file.dump", "dump prod --name after"] {
        let said = managed.asof(words);
        assert!(said.code == 0 && said.err.contains(&remark), "asof {words}: {said:?}");
    }
    let again = managed.asof("dump prod --name again");
    assert!(again.code == 0 && !again.err.contains(&remark), "said once: {again:?}");
    managed.desk.write("asof.toml", &here);
    managed.asof("dump prod").must("dump prod", 3, &[&format!("its major is {old}, not {new}")]);
}

#[test]
fn a_check_of_a_managed_service_tries_what_a_dump_needs_and_nothing_else() {
    for major in majors() {
        let (managed, _) = Managed::registered(major, "rds.extensions = 'plpgsql'");
        // What the service keeps for itself is nobody's to dump.
        managed.server.psql("create database rdsadmin");
        managed.server.psql_in("rdsadmin", "create table internal (n int)");
        let checked = managed.done("check prod");
        assert!(!checked.contains("rdsadmin"), "{checked}");
        for expected in [
            "server           the registered one",
            "more than dumps need: may create databases",
            "clients          pg_dump",
            "app: every table, sequence and large object can be read",
            "repository space",
            "the next backup may take",
        ] {
            assert!(checked.contains(expected), "`{expected}` is not in {checked}");
        }
        let found = json(&managed.done("check prod --json"));
        let all = found.as_array().expect("a list");
        assert!(all.iter().all(|finding| finding["ok"] == true && finding["state"].is_string()), "{found}");
        for needless in ["files", "wal_level", "WAL", "slots", "replication", "source space"] {
            assert!(!all.iter().any(|finding| finding["check"] == needless), "{needless} in {found}");
        }
    }
}

#[test]
fn what_a_role_cannot_dump_is_named_by_the_check_before_a_dump_fails_for_it() {
    for major in majors() {
        let (managed, _) = Managed::registered(major, "rds.extensions = 'plpgsql'");
        managed.server.psql_in(
            "app",
            "create table shop.hidden (n int); create sequence shop.counter; select lo_from_bytea(4711, 'x');
             create table shop.partly (n int); grant select on shop.partly to owner; alter table shop.partly enable row level security;
             create schema closed; create table closed.t (n int); grant select on closed.t to owner;
             create table shop.open (n int); grant select on shop.open to public; grant select on large object 4711 to public;
             select lo_from_bytea(4712, 'y'); create temporary table mine (n int)",
        );
        let said = managed.asof("check prod");
        assert_eq!(said.code, 3, "{said:?}");
        for expected in [
            "FAILED  dump rights      app: no SELECT on table closed.t, shop.hidden; no SELECT on sequence shop.counter; \
             no SELECT on large object 4712; row security, which the role does not bypass, on table shop.partly; grant",
            "repository space",
        ] {
            assert!(said.out.contains(expected), "on {major}: `{expected}` is not in {}", said.out);
        }
        assert_ne!(managed.asof("dump prod").code, 0, "the check was right on {major}");
        managed.server.psql_in(
            "app",
            "drop schema closed cascade; drop table shop.hidden, shop.partly; drop sequence shop.counter; select lo_unlink(4712)",
        );
        managed.done("check prod");
        managed.done("dump prod");
    }
}

#[test]
fn a_database_that_nobody_dumped_is_a_warning_and_one_that_was_dumped_a_failure() {
    let (managed, _) = Managed::registered(15, "rds.extensions = 'plpgsql'");
    managed.server.psql("create database other owner owner");
    managed.server.psql_in("other", "create table foreign_one (n int)");
    let warned = managed.asof("check prod");
    assert!(
        warned.code == 0 && warned.out.contains("warning dump rights      other: no SELECT on table"),
        "{warned:?}"
    );
    managed.server.psql_in("other", "grant select on foreign_one to owner");
    managed.done("dump prod --database other --name once");
    managed.server.psql_in("other", "revoke select on foreign_one from owner");
    let failed = managed.asof("check prod");
    assert!(failed.code == 3 && failed.out.contains("FAILED  dump rights      other: no SELECT"), "{failed:?}");
    managed.server.psql("drop database other");
    let gone = managed.asof("check prod");
    assert!(gone.code == 0 && gone.out.contains("other: was dumped, and is not there any more"), "{gone:?}");
}
