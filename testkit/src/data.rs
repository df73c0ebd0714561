//! Contents for a server, and a digest of contents to compare two servers by.

use crate::Server;
use std::collections::BTreeMap;

/// Rows of one table, counted and summed up whatever their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// How many rows there are.
    pub rows: u64,
    /// The sum over the rows of the 64-bit hash of their text, in decimal.
    pub sum: String,
}

/// Fills database `postgres` with about 25 MB of several kinds: text with b-tree and hash indexes, `jsonb` with GIN,
/// out-of-line values, partitions, a materialised view, an unlogged table, a sequence and large objects.
///
/// The content is the same every time. Ends with a `VACUUM`, so that visibility maps exist.
pub fn fill_small(server: &Server) {
    server.psql(FILL);
}

const FILL: &str = "\
create table customer (id int primary key, name text not null, note text);
insert into customer select n, 'customer ' || n, repeat(md5(n::text), 1 + n % 3) from generate_series(1, 40000) n;
create index customer_name on customer (lower(name));
create index customer_note on customer using hash (note);

create table document (id int primary key, body jsonb not null);
insert into document
  select n, jsonb_build_object('key', md5(n::text), 'tags', array[n % 7, n % 11], 'text', repeat(md5(n::text), 6))
  from generate_series(1, 8000) n;
create index document_body on document using gin (body jsonb_path_ops);

create table picture (id int primary key, bytes text not null);
alter table picture alter bytes set storage external;
insert into picture
  select n, (select string_agg(md5((n * 1000 + part)::text), '') from generate_series(1, 250) part)
  from generate_series(1, 400) n;

create table event (at timestamptz not null, kind int not null, value float8) partition by range (at);
create table event_q1 partition of event for values from ('2026-01-01Z') to ('2026-04-01Z');
create table event_q2 partition of event for values from ('2026-04-01Z') to ('2026-07-01Z');
create table event_rest partition of event default;
insert into event
  select timestamptz '2026-01-01Z' + n * interval '10 minutes', n % 5, n / 7.0 from generate_series(1, 30000) n;
create index event_at on event using brin (at);

create materialized view event_by_kind as select kind, count(*), max(at) from event group by kind;

create unlogged table scratch (id int primary key, word text);
insert into scratch select n, md5(n::text) from generate_series(1, 5000) n;

create sequence ticket start 100;
select setval('ticket', 4711);

select lo_from_bytea(n, convert_to(repeat(md5(n::text), 500), 'UTF8')) from generate_series(70001, 70020) n;

delete from customer where id % 10 = 0;
update document set body = body || '{\"seen\": true}' where id % 20 = 0;
vacuum analyze;
";

/// The digest of every table, partition and materialised view of a database that lies outside the system schemas, by
/// its qualified name, and that of the large objects as `pg_largeobject`.
///
/// What WAL does not promise is left out: unlogged tables, which are empty after a recovery, and sequences, which may
/// run ahead by up to 32 values.
#[must_use]
pub fn digests(server: &Server, database: &str) -> BTreeMap<String, Digest> {
    let printed = server.psql_in(database, DIGESTS);
    printed.lines().map(parse_digest).collect()
}

/// Builds one query for each table and runs what it built (`\gexec`). Settings that change the text of values are fixed.
const DIGESTS: &str = "\
set timezone = 'UTC'; set datestyle = 'ISO'; set intervalstyle = 'postgres'; set bytea_output = 'hex';
set extra_float_digits = 1; set row_security = off;
select format(
    'select %L, count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) from only %s t',
    name, name)
from (
  select c.oid::regclass::text as name from pg_class c
  where relkind in ('r', 'm') and relispopulated and relpersistence = 'p'
    and relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
  union all select 'pg_largeobject'
) tables
order by name
\\gexec
";

/// Parses `name|rows|sum`; the name, which is quoted as SQL needs it, may itself hold a `|`.
fn parse_digest(line: &str) -> (String, Digest) {
    let mut fields = line.rsplitn(3, '|');
    let (sum, rows, name) = (fields.next(), fields.next(), fields.next());
    let rows = rows.and_then(|rows| rows.parse().ok());
    let (Some(name), Some(rows), Some(sum)) = (name, rows, sum) else { panic!("not a digest: {line}") };
    (name.to_owned(), Digest { rows, sum: sum.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_line_may_have_bars_in_the_name() {
        let (name, digest) = parse_digest("public.\"a|b\"|12|-9");
        assert_eq!((name.as_str(), digest.rows, digest.sum.as_str()), ("public.\"a|b\"", 12, "-9"));
    }
}
