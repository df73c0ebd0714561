//! Reading real servers by SQL: the same files, the same bytes, with no more rights than are printed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use asof_engine::Error;
use asof_engine::server::Server as Link;
use asof_engine::source::{self, FilesSource, Listing, Source, SqlSource};
use asof_postgres::client::ErrorKind;
use asof_postgres::conninfo::{Config, Environment};
use asof_postgres::version::Major;
use asof_testkit::{Options, Server, fill_small, majors};
use asof_world::World;

fn link(conninfo: &str) -> Link {
    let environment = Environment::empty(1_800_000_000);
    let config = Config::parse(conninfo, &environment).expect("the connection string is valid");
    Link { config, environment }
}

fn major(server: &Server) -> Major {
    Major::from_number(server.major()).expect("a supported major")
}

/// A tablespace, an unlogged table, and a file of more than one chunk that does not end on a chunk's border.
fn fill(server: &Server) {
    fill_small(server);
    let place = server.tablespace_dir("fast");
    server.psql(&format!("create tablespace fast location '{}'", place.display()));
    server.psql("create table elsewhere tablespace fast as select n, repeat('x', 500) from generate_series(1, 9000) n");
    server.psql("create unlogged table \"Odd name\" as select 1 as n; checkpoint");
}

/// Ends what changes files by itself, so that two readers see one state.
fn settle(server: &mut Server) {
    let quiet = "autovacuum = off\nbgwriter_delay = 10s\ncheckpoint_timeout = 1h\n";
    let path = server.data_dir().join("postgresql.conf");
    let mut text = read_file(&path);
    text.extend_from_slice(quiet.as_bytes());
    server.write_data_file("postgresql.conf", &text);
    server.restart();
    server.psql("checkpoint");
}

#[expect(clippy::disallowed_methods, reason = "the test looks at the real files behind the server's back")]
fn read_file(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("the file can be read")
}

async fn contents(source: &dyn Source, listing: &Listing) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut contents = BTreeMap::new();
    for file in &listing.files {
        let open = source.open(&file.path).await.expect("opens").expect("is there");
        let len = usize::try_from(open.len()).expect("a small file");
        contents.insert(file.path.clone(), open.read(0, len + 8192).await.expect("reads"));
    }
    contents
}

fn names(contents: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<String> {
    contents.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_shows_the_same_files_and_bytes_as_the_data_directory() {
    for number in majors() {
        let mut server = Server::running(number, &Options::default());
        fill(&server);
        settle(&mut server);
        let by_files = FilesSource::new(World::real(), server.data_dir(), major(&server));
        let by_sql = SqlSource::connect(&link(&server.conninfo()), 3).await.expect("connects");
        let (mut files, mut sql) = (by_files.list().await.expect("lists"), by_sql.list().await.expect("lists by SQL"));
        // The session that lists has made these, and removes them when it ends.
        for listing in [&mut files, &mut sql] {
            listing.files.retain(|file| !file.path.ends_with(b"pg_internal.init"));
            listing.directories.sort();
        }
        assert_eq!(files.clone().without_unlogged(), sql.clone().without_unlogged(), "{number}");
        assert_eq!(by_sql.left_out(), Vec::<Vec<u8>>::new());
        assert_eq!(sql.tablespaces.len(), 1);
        let (files, sql) = (contents(&by_files, &files).await, contents(&by_sql, &sql).await);
        assert_eq!(names(&files), names(&sql), "{number}");
        let differ: Vec<_> = files.iter().filter(|(path, bytes)| sql[*path] != **bytes).map(|(path, _)| path).collect();
        assert!(differ.is_empty(), "{number}: {differ:?}");
        assert!(files.values().any(|bytes| bytes.len() > 4 << 20 && bytes.len() % (1 << 20) != 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_file_is_read_and_the_end_is_where_the_file_ends() {
    let server = Server::running(15, &Options::default());
    server.psql("create table t as select n, repeat('x', 1000) from generate_series(1, 4000) n; checkpoint");
    let path = server.psql("select pg_relation_filepath('t')");
    let source = SqlSource::connect(&link(&server.conninfo()), 1).await.expect("connects");
    let file = source.open(path.as_bytes()).await.expect("opens").expect("is there");
    let whole = read_file(&server.data_dir().join(&path));
    assert_eq!(file.len(), whole.len() as u64);
    assert!(whole.len() > 3 << 20);
    for (offset, len) in
        [(0, 1), (8191, 2), (1 << 20, 1 << 20), ((1 << 20) - 5, (2 << 20) + 11), (whole.len() - 3, 100)]
    {
        let read = file.read(offset as u64, len).await.expect("reads");
        assert_eq!(read, whole[offset..(offset + len).min(whole.len())], "{len} bytes at {offset}");
    }
    assert_eq!(file.read(whole.len() as u64 + 8192, 10).await.expect("reads"), b"");
    assert_eq!(file.read(7, 0).await.expect("reads"), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_vanished_is_none_before_and_empty_after_it_was_opened() {
    let server = Server::running(15, &Options::default());
    server.psql("create table t as select 1 as n; checkpoint");
    let path = server.psql("select pg_relation_filepath('t')");
    let source = SqlSource::connect(&link(&server.conninfo()), 1).await.expect("connects");
    let file = source.open(path.as_bytes()).await.expect("opens").expect("is there");
    server.psql("drop table t");
    server.psql("checkpoint");
    assert_eq!(file.read(0, 8192).await.expect("reads"), b"");
    assert!(source.open(path.as_bytes()).await.expect("asks").is_none());
    assert!(source.open(b"base/1/no such file").await.expect("asks").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_grants_are_enough_and_no_more_is_needed() {
    for number in majors() {
        let server = Server::running(number, &Options::default());
        server.psql("create role \"Backup\" login");
        let link = link(&server.conninfo().replace("user=postgres", "user=Backup"));
        let mut connection = link.connect().await.expect("connects");
        let missing = source::missing_rights(&mut connection).await.expect("asks");
        assert_eq!(missing, source::grants(major(&server), "Backup"), "{number}");
        for grant in &missing {
            server.psql(grant);
        }
        assert_eq!(source::missing_rights(&mut connection).await.expect("asks"), Vec::<String>::new(), "{number}");
        assert_eq!(source::superfluous_rights(&mut connection).await.expect("asks"), Vec::<&str>::new());
        let reader = SqlSource::connect(&link, 2).await.expect("connects");
        let listing = reader.list().await.expect("lists");
        assert!(listing.files.len() > 500, "{number}");
        contents(&reader, &listing).await;
        server.psql("alter role \"Backup\" createdb");
        assert_eq!(source::superfluous_rights(&mut connection).await.expect("asks"), ["may create databases"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_grant_is_named_with_its_database() {
    let server = Server::running(15, &Options::default());
    server.psql("create role backup login; create database other");
    for grant in source::grants(Major::V15, "backup") {
        server.psql(&grant);
    }
    let conninfo = server.conninfo().replace("user=postgres dbname=postgres", "user=backup dbname=other");
    let source = SqlSource::connect(&link(&conninfo), 1).await.expect("connects");
    let error = source.list().await.expect_err("grants hold in one database");
    assert!(error.to_string().contains("role backup may not call pg_"), "{error}");
    assert!(error.to_string().contains("in database other"), "{error}");
    let hint = error.hint().expect("says what to run");
    assert!(hint.contains("GRANT EXECUTE ON FUNCTION pg_catalog.pg_"), "{hint}");
    assert!(
        source.list().await.is_err_and(|error| matches!(error, Error::Refused { .. })),
        "the connection still works"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_fails_one_read_and_is_opened_anew_for_the_next() {
    let mut server = Server::running(15, &Options::default());
    let source = SqlSource::connect(&link(&server.conninfo()), 1).await.expect("connects");
    server.psql("select pg_terminate_backend(pid, 10000) from pg_stat_activity where client_port = -1 and pid <> pg_backend_pid() and backend_type = 'client backend'");
    let error = source.open(b"PG_VERSION").await.err().expect("the connection is gone");
    let Error::Client(error) = error else { panic!("{error}") };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.server().contains(&server.port().to_string()), "{error}");
    assert!(source.open(b"PG_VERSION").await.expect("is connected again").is_some());

    server.restart();
    assert!(source.open(b"PG_VERSION").await.is_err());
    let error = source.open(b"PG_VERSION").await.err().expect("another start is another server");
    assert!(error.to_string().contains("was restarted"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_share_few_connections() {
    let server = Server::running(15, &Options::default());
    let source = SqlSource::connect(&link(&server.conninfo()), 2).await.expect("connects");
    let reads = (0..40).map(|_| async {
        let file = source.open(b"PG_VERSION").await.expect("opens").expect("is there");
        file.read(0, 100).await.expect("reads")
    });
    let read = futures::future::join_all(reads).await;
    assert!(read.iter().all(|bytes| bytes == b"15\n"));
    let used = server
        .psql("select count(*) from pg_stat_activity where application_name = '' and backend_type = 'client backend'");
    assert_eq!(used, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_is_refused() {
    let server = Server::running(15, &Options::default());
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("has an address").port();
    pose_as_pooler(listener, server.port());
    let through = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres sslmode=disable");
    let error = SqlSource::connect(&link(&through), 1).await.err().expect("is refused");
    assert!(error.to_string().contains("pooler"), "{error}");
    let direct = link(&format!("{} sslmode=disable", server.conninfo_tcp()));
    SqlSource::connect(&direct, 1).await.expect("the server itself is fine");
}

/// Passes one session on, but gives it a process number of its own, as poolers do: the pid stands in `BackendKeyData`
/// (`K`, length 12, pid, key).
#[expect(clippy::disallowed_methods, reason = "a proxy for the test is not the engine's work")]
fn pose_as_pooler(listener: TcpListener, to: u16) {
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("accepts");
        let mut server = TcpStream::connect(("127.0.0.1", to)).expect("connects");
        let (mut from_client, mut to_server) =
            (client.try_clone().expect("clones"), server.try_clone().expect("clones"));
        std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = server.read(&mut buffer) {
            seen.extend_from_slice(&buffer[..read]);
            if let Some(at) = seen.windows(5).position(|window| window == b"K\0\0\0\x0c") {
                seen[at + 5] ^= 0x40;
            }
            if client.write_all(&seen).is_err() {
                return;
            }
            seen.clear();
        }
    });
}
