//! A database with every kind of object, and names and values that somebody once forgot to quote.

use crate::Server;

/// Makes database `universe`, and the roles that it names.
///
/// Not in it: security labels, for which a server needs a library; see [`fill_labelled`](crate::fill_labelled).
pub fn fill_universe(server: &Server) {
    server.psql("create database universe; create role reader; create role \"Weird \"\"Role\"\"\"");
    server.psql_in("universe", BASE);
    for (since, sql) in [(14, SINCE_14), (15, SINCE_15), (17, SINCE_17), (18, SINCE_18)] {
        if server.major() >= since {
            server.psql_in("universe", sql);
        }
    }
    if server.major() < 18 {
        // From 18 on an inherited NOT NULL is a constraint that cannot be dropped.
        server.psql_in("universe", "alter table child alter name drop not null");
    }
    if has_vector(server) {
        server.psql_in("universe", VECTOR);
    }
    server.psql("alter database universe set work_mem = '7MB'; alter database universe set search_path = public, \"a \"\"b\"\"\"; \
                 alter role reader in database universe set timezone = 'Europe/Berlin'; \
                 grant create on database universe to reader; comment on database universe is 'all of it; it''s weird'");
    server.psql_in("universe", "analyze");
}

/// Whether the server's build has pgvector.
#[must_use]
pub fn has_vector(server: &Server) -> bool {
    server.psql("select count(*) from pg_available_extensions where name = 'vector'") == "1"
}

const VECTOR: &str = "
create extension vector;
create table embedding (id int primary key, body vector(3) not null);
insert into embedding select g, array[g, g / 2.0, -g]::vector from generate_series(1, 500) g;
create index embedding_body on embedding using hnsw (body vector_l2_ops);
";

const BASE: &str = r#"
create schema s authorization reader;
create schema "a ""b""";
create extension hstore;
create extension citext schema s;

create type mood as enum ('sad', 'it''s ok', 'happy');
alter type mood add value 'very sad' before 'sad';
create type pair as (a int, "b c" text);
create domain positive as int check (value > 0);
create domain email as s.citext collate "C" default 'a@b' not null check (value ~ '@');
create type span as range (subtype = float8, subtype_diff = float8mi);
comment on type mood is 'moods';
comment on column pair."b c" is 'second';

create type s.own;
create function s.own_in(cstring) returns s.own language internal immutable strict as 'textin';
create function s.own_out(s.own) returns cstring language internal immutable strict as 'textout';
create type s.own (input = s.own_in, output = s.own_out, like = text, category = 'S', delimiter = ';', default = 'it''s');
create table owned (id int primary key, body s.own, bodies s.own[]);
insert into owned values (1, 'a', '{a;"b c";NULL}'), (2, null, '{}');
create type shell;

create collation "c y" (provider = libc, locale = 'C');
create conversion latin for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8;

create sequence counter as smallint start 5 increment 3 minvalue -7 maxvalue 3000 cache 4 cycle;
select nextval('counter'), nextval('counter');
create sequence unused;

create table "Weird ""Table""
with. newline, tab	and Ünïcödé %s $1" (
  "select" int primary key,
  "col ""q"" \" text,
  " " text default E'back\\slash \n new\tline',
  "ä.b" text
);
insert into "Weird ""Table""
with. newline, tab	and Ünïcödé %s $1" values
  (1, null, '', E'\\.'), (2, '', null, E'\\N'), (3, E'tab\tand\\back', E'cr\rlf\n', '"'), (4, E'\\.\n\\.', 'ß', E'\u0001\u007f');
comment on table "Weird ""Table""
with. newline, tab	and Ünïcödé %s $1" is E'it''s\na table; -- no comment';

create function s.twice(int, out int, out text) returns record language sql immutable strict parallel safe cost 7
  as $$ select $1 * 2, 'x; $1' $$;
create function "a ""b""".trigger_me() returns trigger language plpgsql as $f$
begin
  -- ' a quote and $$ dollars
  return new;
end $f$;
create procedure s.act(inout a int default 3) language plpgsql set search_path = s, public as $$ begin a := a + 1; end $$;
create function s.rows_of() returns table (x int, y text) language sql rows 5 as 'select 1, ''a''';
create function s.many(variadic numeric[]) returns numeric language sql as 'select sum(v) from unnest($1) v';
create aggregate s.total(int) (sfunc = int4pl, stype = int, initcond = '0', msfunc = int4pl, minvfunc = int4mi, mstype = int, minitcond = '0');
create operator s.=== (leftarg = int, rightarg = int, function = int4eq, commutator = operator(s.===), restrict = eqsel, join = eqjoinsel);
create operator family s.fam using btree;
create operator class s.cls for type int using btree family s.fam as
  operator 1 <, operator 2 <=, operator 3 =, operator 4 >=, operator 5 >, function 1 btint4cmp(int, int);
create function s.of_mood(mood) returns int language sql immutable as 'select 1';
create cast (mood as int) with function s.of_mood(mood) as assignment;
create cast (pair as text) with inout as implicit;

create text search dictionary s.dict (template = simple, stopwords = 'english', accept = false);
create text search configuration s.conf (copy = simple);
alter text search configuration s.conf alter mapping for asciiword with s.dict, simple;
create access method heap2 type table handler heap_tableam_handler;

create table kinds (
  id bigint generated always as identity (start 10 increment 5) primary key,
  other int generated by default as identity,
  twice int generated always as (small * 2) stored,
  small int,
  m mood default 'happy',
  p pair,
  pos positive,
  e email,
  r span,
  ir int4range,
  tr tstzrange,
  a int[],
  aa text[][],
  ma mood[],
  j json,
  jb jsonb,
  h hstore,
  x xml,
  b bytea,
  bits bit varying(9),
  n numeric(20, 5),
  f float8,
  f4 real,
  i interval,
  ts timestamptz,
  d date,
  t time with time zone,
  u uuid,
  ip inet,
  mac macaddr8,
  g polygon,
  tv tsvector,
  tq tsquery,
  c "char",
  nm name,
  mo money,
  rc regclass,
  l pg_lsn
) with (fillfactor = 80, autovacuum_enabled = false, toast.autovacuum_enabled = false);
insert into kinds (small, p, pos, e, r, ir, tr, a, aa, ma, j, jb, h, x, b, bits, n, f, f4, i, ts, d, t, u, ip, mac, g, tv, tq, c, nm, mo, rc, l)
values
  (1, row(1, 'x,y"'), 7, 'A@b', '[1.5,2.5)', '[1,10)', '[2020-01-01 00:00:00Z,infinity)', '{1,NULL,3}', '{{a,"b c"},{NULL,"\"q"}}', '{sad,"it''s ok"}',
   '{"a" : 1,  "a":2}', '{"b": [1.50, null], "a": "\u00e4"}', 'a=>1,"b c"=>NULL', '<a>&lt;</a>', '\x00ff5c27', '10101', 12345.67891, '-0', 'NaN',
   '1 year 2 mons -3 days 04:05:06.789', '2020-01-01 12:34:56.789012+02', 'infinity', '12:00+05:30', '00000000-0000-0000-0000-000000000001',
   '10.1.2.3/8', '08:00:2b:01:02:03:04:05', '((0,0),(1,1),(1,0))', 'a:1A fat:2', 'a & !b', 'z', 'nm', '12.34', 'kinds', '16/B374D848'),
  (null, null, null, 'c@D', 'empty', null, '(,)', '{}', null, null, 'null', 'null', '', null, '', '', 'NaN', 'Infinity', '-0', '-178000000 years', 'infinity', '-infinity', null, null, '::1', null, null, '', '', '', '', null, null, null);
alter table kinds alter j set storage external;
alter table kinds alter b set statistics 77;
alter table kinds alter n set (n_distinct = -0.5);
create unique index kinds_jb on kinds ((jb ->> 'b')) where small > 0;
create index kinds_gin on kinds using gin (jb jsonb_path_ops, a);
create index kinds_gist on kinds using gist (tr) with (fillfactor = 60);
create index kinds_brin on kinds using brin (ts) with (pages_per_range = 4);
create index kinds_hash on kinds using hash (nm);
create index kinds_include on kinds (small desc nulls last) include (other, nm);
create index "kinds ""cls""" on kinds (small s.cls);
alter table kinds cluster on kinds_include;
create statistics s.kinds_stats (ndistinct, dependencies, mcv) on small, other from kinds;
comment on index kinds_gin is 'gin';
comment on column kinds.j is 'json';
comment on constraint kinds_pkey on kinds is 'key';

create table parent (id int primary key, name text not null, check (id > 0) no inherit);
create table child (extra int default 4) inherits (parent);
create table grandchild (constraint odd check (id % 2 = 1)) inherits (child);
insert into parent values (1, 'p'); insert into child values (2, 'c', 5); insert into grandchild values (3, 'g');

create table part (k int not null, v text, at date not null default '2026-01-01') partition by range (at);
create table part_1 partition of part for values from ('2026-01-01') to ('2026-02-01');
create table part_2 partition of part for values from ('2026-02-01') to ('2026-03-01') partition by list (k);
create table part_2_a partition of part_2 for values in (1, 2);
create table part_2_b partition of part_2 default partition by hash (k);
create table part_2_b_0 partition of part_2_b for values with (modulus 2, remainder 0);
create table part_2_b_1 partition of part_2_b for values with (modulus 2, remainder 1);
create table s.part_rest (at date not null default '2020-01-01', v text, gone int, k int not null);
alter table s.part_rest drop column gone;
alter table part attach partition s.part_rest default;
alter table part add primary key (at, k);
create index part_v on part (v);
insert into part select g, 'v' || g, date '2026-01-15' + g % 60 from generate_series(1, 100) g;

create table refers (
  id int primary key,
  to_weird int references "Weird ""Table""
with. newline, tab	and Ünïcödé %s $1" on delete set null on update cascade deferrable initially deferred,
  to_part int, part_at date,
  self int references refers,
  during tstzrange,
  foreign key (part_at, to_part) references part match full,
  exclude using gist (during with &&)
);
insert into refers values (1, 1, null, null, 2, '[2020-01-01Z,2020-02-01Z)'), (2, null, 3, (select at from part where k = 3), null, null);
alter table refers add constraint later check (id < 100) not valid;
alter table refers replica identity full;
create table heaped (a int) using heap2;
create unlogged table fast (id serial primary key, w text);
insert into fast (w) values ('x');
select setval('fast_id_seq', 4711);
create table empty ();
create table dropped (a int, b int, c int); insert into dropped values (1, 2, 3); alter table dropped drop column b;
create table typed of pair (primary key (a));
insert into typed values (1, 'x');

create view v with (security_barrier) as select id, m from kinds where small > 0 with local check option;
create view s."v 2" as select v.*, row_number() over (order by id) from v;
create recursive view nums (n) as values (1) union all select n + 1 from nums where n < 5;
create view cyc_a as select 1 as x;
create view cyc_b as select x from cyc_a;
create or replace view cyc_a as select 2 as x;
create materialized view mv as select m, count(*) from kinds group by m;
create materialized view mv2 as select * from mv with data;
create unique index mv_m on mv (m);
create materialized view mv3 as select 1 as one with no data;
alter view v alter m set default 'sad';

create rule only_new as on update to parent where old.id = 1 do instead nothing;
create rule log_it as on insert to "Weird ""Table""
with. newline, tab	and Ünïcödé %s $1" do also notify heard;
create trigger t1 before insert or update of small on kinds for each row when (new.small > 100) execute function "a ""b""".trigger_me();
create trigger t2 after delete on kinds referencing old table as gone for each statement execute function "a ""b""".trigger_me('it''s', '2');
create constraint trigger t3 after insert on parent deferrable for each row execute function "a ""b""".trigger_me();
create trigger t4 after insert on part for each row execute function "a ""b""".trigger_me();
alter table kinds disable trigger t1;
alter table kinds enable always trigger t2;
alter table parent enable replica trigger t3;
create function s.on_ddl() returns event_trigger language plpgsql as 'begin end';
create event trigger ddl on ddl_command_end when tag in ('CREATE TABLE') execute function s.on_ddl();
alter event trigger ddl disable;

alter table kinds enable row level security;
alter table parent force row level security;
create policy mine on kinds as restrictive for select to reader using (small > 0);
create policy "it's" on kinds for all using (true) with check (small < 10);

create foreign data wrapper nothing options (a 'b');
create server far type 'x' version '1' foreign data wrapper nothing options (host 'h''h');
create user mapping for public server far options (password 'secret');
create foreign table remote (a int options (name 'A'), b text not null default 'x') server far options (t '"q"');

create publication p1 for table kinds, part with (publish = 'insert, update', publish_via_partition_root = true);
create publication p_all for all tables;
create subscription sub connection 'host=nowhere.invalid dbname=none' publication p1 with (connect = false, slot_name = none);

select lo_from_bytea(70001, convert_to(repeat('lo', 9000), 'UTF8')), lo_from_bytea(70002, ''), lo_from_bytea(70003, '\x00ff');
comment on large object 70001 is 'large';
alter large object 70002 owner to reader;
grant select on large object 70003 to reader;

alter table child owner to reader;
alter function s.rows_of() owner to "Weird ""Role""";
grant select, update (small, j) on kinds to reader with grant option;
grant all on table part to public;
revoke execute on function s.twice(int) from public;
grant execute on function s.twice(int) to reader;
grant usage on schema "a ""b""" to "Weird ""Role""";
grant usage on sequence counter to reader;
grant usage on type mood to reader; revoke usage on type mood from public;
grant usage on foreign server far to reader;
alter default privileges in schema s grant select on tables to reader;
alter default privileges for role reader revoke execute on functions from public;
comment on schema s is 'schema'; comment on role reader is 'r'; comment on function s.twice(int) is 'f'; comment on view v is 'v';
comment on rule only_new on parent is 'rule'; comment on trigger t1 on kinds is 'trigger'; comment on policy mine on kinds is 'policy';
comment on sequence counter is 'seq'; comment on publication p1 is 'pub'; comment on extension hstore is 'mine'; comment on domain positive is 'dom';
comment on event trigger ddl is 'et'; comment on server far is 'srv'; comment on aggregate s.total(int) is 'agg'; comment on operator s.=== (int, int) is 'op';
comment on statistics s.kinds_stats is 'st'; comment on cast (mood as int) is 'cast'; comment on materialized view mv is 'mv';
comment on text search configuration s.conf is 'conf'; comment on collation "c y" is 'coll'; comment on access method heap2 is 'am';
"#;

const SINCE_14: &str = r#"
create function s.standard(a int) returns int language sql begin atomic select a + 1; select a * 2; end;
create procedure s.gives(in a int, out b int) language plpgsql as 'begin b := a; end';
create type wide as range (subtype = int8, multirange_type_name = "wide's");
create table ranges (r wide, m "wide's"); insert into ranges values ('[1,2)', '{[1,2),[5,9)}');
alter table kinds alter j set compression pglz;
create statistics exprs on (small + 1), (other % 3) from kinds;
insert into kinds (n, e) values ('NaN', 'n@n');
"#;

const SINCE_15: &str = r#"
create table uniques (a int, b int, unique nulls not distinct (a));
create table sets (a int, b int, foreign key (a) references parent on delete set null (a));
create view invoked with (security_invoker = true) as select 1 as a;
create publication p_schema for tables in schema s;
create publication p_filter for table parent (id, name) where (id > 1);
create unlogged sequence quick;
grant set on parameter work_mem to reader;
"#;

const SINCE_17: &str = r#"
create table ident (a int generated always as identity, b text) partition by list (b);
create table ident_x partition of ident for values in ('x');
insert into ident (b) values ('x');
"#;

const SINCE_18: &str = r#"
create table virtuals (a int, b int generated always as (a * 2) virtual, c int constraint named not null);
insert into virtuals (a, c) values (1, 2);
create table enforced (a int, constraint unsure check (a > 0) not enforced);
create extension btree_gist;
create table temporal (id int, valid daterange, primary key (id, valid without overlaps));
"#;
