-- One object of every kind that a dump holds, with names that need care. `:old` is set where the server is older than 14.
create schema "Weird ""schema"".x";
create extension amcheck;
create extension pg_visibility with schema "Weird ""schema"".x";
create type mood as enum ('sad', 'it''s', 'übel');
create domain positive as int default 1 constraint above check (value > 0);
create type pair as (x int, y text collate "C");
create type span as range (subtype = float8);
create collation "My collation" (provider = libc, locale = 'C');
create conversion mine for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8;
create function add(int, other int default 2) returns int language sql immutable strict parallel safe cost 7
  set work_mem = '4MB' as 'select $1 + $2';
create function "say ""hi"""(pair[], variadic text[]) returns setof pair language plpgsql security definer
  as $body$ begin return; end $body$;
create procedure work() language plpgsql as 'begin end';
\if :{?old}
\else
create function standard(x int) returns int begin atomic select x * 2; end;
\endif
create aggregate total(int) (sfunc = int4pl, stype = int, initcond = '0');
create operator ### (leftarg = int, rightarg = int, function = int4pl, commutator = ###);
create operator <<>> (leftarg = int, rightarg = int, function = int4lt);
create operator family odd using btree;
create operator class odd_ops for type int using btree family odd as operator 1 <, operator 3 =, function 1 btint4cmp(int, int);
create function to_pair(int) returns pair language sql as 'select row($1, '''')::pair';
create cast (int as pair) with function to_pair(int) as assignment;
create access method other type index handler bthandler;
create text search dictionary simple_one (template = simple, stopwords = english);
create text search configuration mine (copy = simple);
alter text search configuration mine alter mapping for word with simple_one;
create foreign data wrapper wrapper options (debug 'yes');
create server "Far away" type 'x' version '1' foreign data wrapper wrapper options (host 'nowhere');
create user mapping for reader server "Far away" options (password 'secret', "user" 'x');
create foreign table elsewhere (id int options (column_name 'x')) server "Far away" options (a 'b');

create table account (
  id int generated always as identity primary key,
  "select" text not null default 'it''s' collate "C",
  mood mood,
  amount positive,
  twice int generated always as (id * 2) stored,
  big text,
  unique (mood, amount)
) with (fillfactor = 70, toast.autovacuum_enabled = off);
alter table account alter big set storage external, alter mood set statistics 55, alter id set (n_distinct = -0.5);
insert into account ("select", mood, amount, big)
  select 'a' || n, 'it''s', n, repeat(md5(n::text), 200) from generate_series(1, 50) n;
create table "Weird ""schema"".x"."new
line, dot. and ünïcode" ("a ""b"".c" int references account, "
" text);
insert into "Weird ""schema"".x"."new
line, dot. and ünïcode" values (1, null), (1, null), (2, ''), (3, E'\\ " ,()\n');
create index "an ""index""" on account (lower("select") text_pattern_ops desc nulls last) include (mood) where id > 3;
alter table account cluster on account_pkey, replica identity using index account_pkey;
create statistics stats (dependencies) on id, mood from account;
alter statistics stats set statistics 77;
create unlogged table scratch (x int); insert into scratch values (1);
create table parent (x int, y int); create table child (z int) inherits (parent);
insert into parent values (1, 2); insert into child values (1, 2, 3);
create table typed of pair (x with options not null);
create table nothing ();
insert into nothing default values; insert into nothing default values;
create table event (at date not null, n int, check (n > 0)) partition by range (at);
create table event_1 partition of event for values from ('2026-01-01') to ('2026-02-01');
create table event_2 partition of event for values from ('2026-02-01') to (maxvalue) partition by list (n);
create table event_2_1 partition of event_2 for values in (1, 2);
create table event_rest partition of event default;
create index event_n on event (n);
insert into event values ('2026-01-05', 1), ('2026-03-05', 2), ('2020-01-01', 3);
create table moved (gone int, kept int); alter table moved drop gone; insert into moved values (1);
create sequence "Ticket" as smallint increment by -3 minvalue -300 maxvalue 10 start 5 cache 4 cycle;
select nextval('"Ticket"');
create sequence unused;
create view shown with (security_barrier = true) as select id, "select" from account where mood = 'sad' with local check option;
create materialized view kept as select count(*) from account;
create materialized view empty as select 1 as one with no data;
create rule guard as on delete to parent do instead nothing;
create function watch() returns trigger language plpgsql as 'begin return new; end';
create trigger "a trigger" before insert or update of amount on account for each row when (new.id > 0) execute function watch();
create trigger off after insert on account execute function watch();
alter table account disable trigger off;
create trigger each after insert on event for each row execute function watch();
create function never() returns event_trigger language plpgsql as 'begin end';
create event trigger never on ddl_command_end when tag in ('CREATE TABLE') execute function never();
alter event trigger never disable;
alter table account enable row level security, force row level security;
create policy mine on account as restrictive for update to reader, "Weird ""role" using (id > 1) with check (amount > 2);
create publication feed for table account, parent with (publish = 'insert, update');
create publication everything for all tables;
create subscription follower connection 'host=nowhere password=secret' publication feed with (connect = false);
comment on table account is E'multi\nline "comment"';
comment on column account.mood is 'how';
comment on function add(int, int) is 'adds';
comment on constraint above on domain positive is 'why';
comment on trigger off on account is 'off';
comment on policy mine on account is 'mine';
comment on index "an ""index""" is 'odd';
comment on operator ### (int, int) is 'odd';
comment on schema "Weird ""schema"".x" is 'weird';
grant select, insert on account to reader with grant option;
grant select on account to public;
grant update (mood) on account to "Weird ""role";
grant usage on schema "Weird ""schema"".x" to reader;
revoke all on function add(int, int) from public;
grant usage on type mood to reader;
grant usage on sequence unused to reader;
grant usage on foreign server "Far away" to reader;
alter default privileges in schema public grant select on tables to reader;
alter default privileges for role reader revoke execute on functions from public;
alter table parent owner to reader;
select lo_from_bytea(815, '\x000102');
select lo_create(816);
alter large object 815 owner to reader;
grant select on large object 816 to reader;
comment on large object 816 is 'empty';
create table papers (j json default '{"a": "json"}'::json, many json[]);
create domain paper as json;
create function printed(json, "JSON" json) returns json language sql as 'select $1';
create cast (json as pair) with inout;
grant select on pg_authid to reader;
revoke execute on function upper(text) from public;
