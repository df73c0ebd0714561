//! Security labels, for which a server needs a library.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{Server, Workdir};

const SOURCE: &str = include_str!("labels.c");

/// A provider of security labels, `test`, as a library for `shared_preload_libraries`. It is gone with the value.
#[derive(Debug)]
pub struct LabelProvider {
    work: Workdir,
}

impl LabelProvider {
    /// Builds it with the C compiler that Rust links with.
    #[must_use]
    pub fn build(major: u32) -> Self {
        let provider = Self { work: Workdir::new("labels") };
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", &format!("-DMAJOR={major}"), "-x", "c", "-", "-o"]).arg(provider.library());
        let mut running = compiler.stdin(Stdio::piped()).spawn().expect("there is a C compiler");
        running.stdin.take().expect("it is piped").write_all(SOURCE.as_bytes()).expect("it reads");
        assert!(running.wait().expect("it ends").success(), "the label provider is compiled");
        provider
    }

    /// The line of `postgresql.conf` that loads it.
    #[must_use]
    pub fn setting(&self) -> String {
        format!("shared_preload_libraries = '{}'", self.library().display())
    }

    fn library(&self) -> PathBuf {
        self.work.path().join("labels.so")
    }
}

/// Makes database `labelled`, whose objects of every kind that takes one have a label.
pub fn fill_labelled(server: &Server) {
    server.psql("create database labelled");
    server.psql_in("labelled", LABELLED);
    server.psql("security label for test on database labelled is 'the database''s'");
}

const LABELLED: &str = r#"
create schema s;
create table s."weird ""name""" (id serial primary key, "col ""q""" text);
insert into s."weird ""name""" ("col ""q""") values ('x');
create view seen as select 1 as one;
create materialized view kept as select 2 as two;
create function twice(int) returns int language sql as 'select $1 * 2';
create procedure act() language sql as 'select 1';
create aggregate total(int) (sfunc = int4pl, stype = int, initcond = '0');
create domain positive as int check (value > 0);
create type mood as enum ('sad');
create sequence counter;
create publication p for table s."weird ""name""";
create function on_ddl() returns event_trigger language plpgsql as 'begin end';
create event trigger ddl on ddl_command_end execute function on_ddl();
select lo_from_bytea(4711, 'labelled');
security label for test on schema s is 'schema';
security label for test on table s."weird ""name""" is E'it''s\na table';
security label for test on column s."weird ""name"""."col ""q""" is 'column';
security label for test on sequence counter is 'sequence';
security label for test on view seen is 'view';
security label for test on materialized view kept is 'materialised view';
security label for test on function twice(int) is 'function';
security label for test on procedure act() is 'procedure';
security label for test on aggregate total(int) is 'aggregate';
security label for test on domain positive is 'domain';
security label for test on type mood is 'type';
security label for test on publication p is 'publication';
security label for test on event trigger ddl is 'event trigger';
security label for test on large object 4711 is 'large object';
"#;
