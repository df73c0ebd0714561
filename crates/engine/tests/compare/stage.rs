//! Shared servers, pairs of databases, and what a report says in words.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use asof_engine::compare::{
    CompareReport, CompareRequest, Difference, Mode, Patterns, Side, Verdict, compare, verdict,
};
use asof_engine::progress::Silent;
use asof_engine::server::Server as Link;
use asof_testkit::{Options, Server, majors};
use asof_world::World;

use crate::support::{chain, link};

/// A server that tests share; each has databases of its own on it.
pub(crate) struct Shared {
    server: Mutex<Server>,
    pub(crate) major: u32,
    link: Link,
}

impl Shared {
    /// One server of a major for all tests that run at the same time; it goes with the last of them.
    pub(crate) fn of(major: u32) -> Arc<Self> {
        static SHARED: Mutex<BTreeMap<u32, Weak<Shared>>> = Mutex::new(BTreeMap::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.get(&major).and_then(Weak::upgrade) {
            return server;
        }
        let config = ["wal_level = logical", "fsync = off", "max_logical_replication_workers = 0"];
        let server = Server::running(major, &Options::with_config(&config));
        server.psql("create role reader login; create role \"Weird \"\"role\"");
        let link = link(&server);
        let server = Arc::new(Self { server: Mutex::new(server), major, link });
        shared.insert(major, Arc::downgrade(&server));
        server
    }

    pub(crate) fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql)
    }

    pub(crate) fn psql_in(&self, database: &str, sql: &str) -> String {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        server.psql_in(database, sql)
    }

    pub(crate) fn tool(&self, name: &str) -> Command {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        server.tool(name)
    }

    pub(crate) fn side(&self, label: &str, database: &str) -> Side {
        side(label, &self.link, database)
    }
}

pub(crate) fn side(label: &str, link: &Link, database: &str) -> Side {
    let mut link = link.clone();
    link.config.dbname = database.to_owned();
    Side { label: label.to_owned(), server: link, snapshot: None }
}

pub(crate) fn everything() -> CompareRequest {
    CompareRequest {
        tables: Patterns::default(),
        mode: Mode::Exact,
        jobs: 2,
        roles: true,
        owners: true,
        content: true,
        schema: true,
        examples: 10,
    }
}

pub(crate) fn only_content() -> CompareRequest {
    CompareRequest { schema: false, ..everything() }
}

pub(crate) async fn compared(a: &Side, b: &Side, request: &CompareRequest) -> CompareReport {
    let found = compare(&World::real(), a, b, request, Arc::new(Silent)).await;
    found.unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// Two databases with the same content, made by the same statements.
pub(crate) struct Two {
    pub(crate) server: Arc<Shared>,
    pub(crate) a: String,
    pub(crate) b: String,
}

impl Two {
    pub(crate) fn new(major: u32, name: &str, sql: &str) -> Self {
        let server = Shared::of(major);
        let (a, b) = (format!("{name} a"), format!("{name} b"));
        server.psql(&format!("create database \"{a}\""));
        server.psql_in(&a, sql);
        server.psql(&format!("create database \"{b}\" template \"{a}\""));
        Self { server, a, b }
    }

    pub(crate) fn sides(&self) -> (Side, Side) {
        (self.server.side("A", &self.a), self.server.side("B", &self.b))
    }

    pub(crate) async fn compared(&self, request: &CompareRequest) -> CompareReport {
        let (a, b) = self.sides();
        compared(&a, &b, request).await
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        let (a, b) = (&self.a, &self.b);
        if !std::thread::panicking() {
            for name in [a, b] {
                self.server.psql(&format!("drop database \"{name}\""));
            }
        }
    }
}

/// What the planted differences are planted into.
pub(crate) const BASE: &str = "
create table account (id int primary key, name text default 'nobody', amount float8, note text);
insert into account select n, 'name ' || n, n / 3.0, null from generate_series(1, 100) n;
create index account_name on account (name);
create table twice (word text); insert into twice values ('one'), ('two'), ('two');
create sequence ticket; select setval('ticket', 42);
create type mood as enum ('sad', 'happy');
create function answer() returns int language sql as 'select 42';
create function nothing() returns trigger language plpgsql as 'begin return new; end';
create trigger watch before update on account for each row execute function nothing();
create policy mine on account using (id > 0);
create publication feed for table account;
create table event (at date) partition by range (at);
create table event_1 partition of event for values from ('2026-01-01') to ('2026-02-01');
insert into event values ('2026-01-05');
create view rich as select id from account where amount > 10;
select lo_from_bytea(4711, decode(repeat('00112233', 1000000), 'hex'));
comment on table account is 'who owes what';
";

/// Plants SQL into the second of two equal databases; exactly the expected differences are found, as `class: object: property: a -> b`.
pub(crate) async fn check(name: &str, planted: &str, expected: &[&str]) {
    for major in majors() {
        let two = Two::new(major, name, BASE);
        assert_eq!(verdict(&two.compared(&everything()).await), Verdict::Equal, "before, on {major}");
        two.server.psql_in(&two.b, planted);
        let report = two.compared(&everything()).await;
        assert_eq!(words(&report), expected, "on {major}");
        assert_eq!(verdict(&report), Verdict::Different);
        assert!(report.could_not_compare.is_empty(), "{:?}", report.could_not_compare);
    }
}

pub(crate) fn words(report: &CompareReport) -> Vec<String> {
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let line = |d: &Difference| {
        // Digests are only looked at for being unequal.
        let values = match d.property.as_deref() {
            Some("digest") => "differs".to_owned(),
            _ => format!("{} -> {}", shown(&d.a), shown(&d.b)),
        };
        let property = d.property.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        format!("{}: {}: {property}{values}", d.class.words(), d.object)
    };
    report.differences.iter().map(line).collect()
}
