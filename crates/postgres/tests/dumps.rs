//! Dumps of real databases, in every format and compression that the `pg_dump` at hand can write, held against the server; and
//! what we write held against `pg_restore`.

// What real programs leave on real disks is read here without the World that simulations replace.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use asof_postgres::archive::Compression;
use asof_postgres::archive::directory::{
    self, DataFileDecoder, FileSummary, LargeObjectFile, MemberKind, TOC_FILE, large_object_file, parse_large_objects,
};
use asof_postgres::archive::plain::{Ending, PlainScanner, Scope};
use asof_postgres::archive::select::{closure_of_tables, list_file, tables};
use asof_postgres::archive::sniff::{Kind, SNIFF_BYTES};
use asof_postgres::archive::stream::{ArchiveDecoder, Depth, Piece, Summary};
use asof_postgres::archive::tar::{TOC_MEMBER, TarDecoder, TarPiece};
use asof_postgres::archive::toc::{ArchiveFormat, Toc};
use asof_testkit::{Options, Server, Workdir, majors};

const SHOP: &str = include_str!("../testdata/archive/shop.sql");
/// Rows of all lengths, some longer than every buffer on the way, and large objects that are no text.
const MORE: &str = "
create schema \"Other; \"\"one\"\"\";
create table \"Other; \"\"one\"\"\".\"T.a\" as
    select i, repeat(md5(i::text), i % 50) as text, case when i % 3 = 0 then now() end as at from generate_series(1, 4000) i;
create table wide as select i, repeat(chr(9) || '\\' || chr(10) || md5(i::text), 20000) as text from generate_series(1, 5) i;
create table empty (i int);
select lo_from_bytea(0, decode(repeat(md5(i::text), i * 700), 'hex')) from generate_series(0, 9) i;
";

/// Rows of each table, and bytes of each large object: what the server says, and what a decoder found.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Content {
    rows: BTreeMap<(String, String), u64>,
    large_objects: BTreeMap<u32, u64>,
}

fn shop(major: u32) -> Server {
    let server = Server::running(major, &Options::default());
    server.psql("create database shop");
    server.psql_in("shop", SHOP);
    server.psql_in("shop", MORE);
    server
}

fn content(server: &Server, database: &str) -> Content {
    let names = server.psql_in(
        database,
        "select format('select concat_ws(''#'', encode(%L::text::bytea, ''hex''), encode(%L::text::bytea, ''hex''), count(*))
                        from %I.%I', nspname, relname, nspname, relname)
         from pg_class join pg_namespace n on n.oid = relnamespace
         where relkind = 'r' and nspname not in ('pg_catalog', 'information_schema') \\gexec",
    );
    let text = |hex: &str| {
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
        String::from_utf8((0..hex.len()).step_by(2).map(byte).collect()).expect("UTF-8")
    };
    let rows = names.lines().map(|line| {
        let parts: Vec<&str> = line.split('#').collect();
        ((text(parts[0]), text(parts[1])), parts[2].parse().expect("a number"))
    });
    let objects = server.psql_in(database, "select oid, length(lo_get(oid)) from pg_largeobject_metadata");
    let objects = objects.lines().map(|line| {
        let (oid, length) = line.split_once('|').expect("two columns");
        (oid.parse().expect("an OID"), length.parse().expect("a length"))
    });
    Content { rows: rows.collect(), large_objects: objects.collect() }
}

/// Runs a program; the error is what it said.
fn run(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = command.output().expect("it can be started");
    if output.status.success() { Ok(output.stdout) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Dumps the database; `false` if this build knows no such compression.
fn dump(server: &Server, path: &Path, format: &str, compression: &str) -> bool {
    let mut command = server.tool("pg_dump");
    command.args(["-d", "shop", format]).arg("-f").arg(path);
    if !compression.is_empty() {
        command.args(["-Z", compression]);
    }
    match run(&mut command) {
        Ok(_) => true,
        Err(why) if why.contains("compress") => false,
        Err(why) => panic!("{why}"),
    }
}

fn name_of(toc: &Toc, dump_id: i32) -> (String, String) {
    let entry = toc.entry(dump_id).expect("an entry");
    (entry.namespace.as_ref().expect("a schema").to_lossy(), entry.tag.to_lossy())
}

/// Restores an archive. A newer `pg_restore` sets a parameter that servers before 17 do not know, and goes on.
fn restore(server: &Server, database: &str, arguments: &[&str], archive: &Path) {
    let outcome = run(server.tool("pg_restore").args(["-d", database]).args(arguments).arg(archive));
    let why = outcome.err().unwrap_or_default();
    let error = why.lines().find(|line| line.contains("error:") && !line.contains("\"transaction_timeout\""));
    assert_eq!(error, None, "{why}");
}

type Files = BTreeMap<String, Vec<u8>>;

/// Reads a custom-format archive in pieces and returns what it holds, also as the files of a directory.
fn read_custom(bytes: &[u8], piece: usize) -> (Summary, Content, Files) {
    let (mut decoder, mut files, mut content) = (ArchiveDecoder::new(Depth::Content), Files::new(), Content::default());
    let (mut file, mut names, mut list) = (String::new(), BTreeMap::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        let outcome = decoder.push(piece, &mut |piece| match piece {
            Piece::Toc { toc, .. } => {
                names.extend(directory::members(toc).into_iter().map(|member| (member.dump_id, member.name)));
            }
            Piece::DataStart { dump_id, .. } => {
                file = names[&dump_id].clone();
                files.insert(file.clone(), Vec::new());
            }
            Piece::LargeObjectStart { oid } => {
                file = large_object_file(oid);
                files.insert(file.clone(), Vec::new());
                list.push(LargeObjectFile { oid, name: file.clone() });
            }
            Piece::Data(data) => files.get_mut(&file).expect("started").extend(data),
            Piece::DataEnd(block) if names[&block.dump_id].starts_with("blobs") => {
                let lines = directory::format_large_objects(&std::mem::take(&mut list));
                files.insert(names[&block.dump_id].clone(), lines);
            }
            Piece::DataEnd(_) => {}
        });
        outcome.expect("a valid archive");
    }
    let summary = decoder.finish().expect("a whole archive");
    for block in &summary.blocks {
        if let Some(rows) = block.rows {
            content.rows.insert(name_of(&summary.toc, block.dump_id), rows);
        }
    }
    add_large_objects(&mut content, &files);
    (summary, content, files)
}

fn add_large_objects(content: &mut Content, files: &Files) {
    let lists = files.iter().filter(|(name, _)| name.starts_with("blobs"));
    for file in lists.flat_map(|(_, list)| parse_large_objects(list).expect("valid")) {
        content.large_objects.insert(file.oid, files[&file.name].len() as u64);
    }
}

fn decode_file(kind: MemberKind, compression: Compression, bytes: &[u8]) -> (FileSummary, Vec<u8>) {
    let (mut decoder, mut plain) = (DataFileDecoder::new(kind, compression).expect("a decoder"), Vec::new());
    for piece in bytes.chunks(777) {
        decoder.push(piece, &mut |data| plain.extend(data)).expect("valid");
    }
    (decoder.finish().expect("whole"), plain)
}

/// The files of a directory or the members of a tar archive, and what they hold, decompressed.
fn read_files(toc: &Toc, stored: &Files) -> (Content, Files) {
    let (mut content, mut files) = (Content::default(), Files::new());
    for (name, bytes) in stored.iter().filter(|(name, _)| !["toc.dat", "restore.sql"].contains(&name.as_str())) {
        let (plain_name, compression) = Compression::of_name(name);
        let member = directory::members(toc).into_iter().find(|member| member.name == plain_name);
        let kind = member.as_ref().map_or(MemberKind::Data, |member| member.kind);
        let (summary, plain) = decode_file(kind, compression, bytes);
        assert_eq!(summary.plain_bytes, plain.len() as u64);
        if let (Some(member), Some(rows)) = (member, summary.rows) {
            content.rows.insert(name_of(toc, member.dump_id), rows);
        }
        files.insert(plain_name.to_owned(), plain);
    }
    add_large_objects(&mut content, &files);
    (content, files)
}

fn read_directory(path: &Path) -> (Toc, Files) {
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.expect("an entry");
        (entry.file_name().into_string().expect("UTF-8"), fs::read(entry.path()).expect("a file"))
    };
    let files: Files = fs::read_dir(path).expect("a directory").map(file).collect();
    (Toc::decode(ArchiveFormat::Directory, &files[TOC_FILE]).expect("valid"), files)
}

fn read_tar(bytes: &[u8]) -> (Toc, Files) {
    let (mut decoder, mut files, mut order) = (TarDecoder::new(), Files::new(), Vec::new());
    for piece in bytes.chunks(1000) {
        let outcome = decoder.push(piece, &mut |piece| match piece {
            TarPiece::Start(member) => {
                order.push(member.name.clone());
                files.insert(member.name.clone(), Vec::new());
            }
            TarPiece::Data(data) => files.get_mut(order.last().expect("one")).expect("started").extend(data),
            TarPiece::End(_) => {}
        });
        outcome.expect("valid");
    }
    decoder.finish().expect("whole");
    assert_eq!(order[0], TOC_MEMBER);
    (Toc::decode(ArchiveFormat::Tar, &files[TOC_MEMBER]).expect("valid"), files)
}

#[test]
fn every_format_and_compression_holds_what_the_server_has() {
    for major in majors() {
        let server = shop(major);
        let work = Workdir::new("dumps");
        let expected = content(&server, "shop");
        assert_eq!((expected.rows.len(), expected.large_objects.len()), (8, 13), "{expected:?}");
        let mut plain_files = None;
        let mut seen = Vec::new();
        for compression in ["0", "1", "9", "lz4", "zstd"] {
            let custom = work.path().join(format!("{compression}.custom"));
            if !dump(&server, &custom, "-Fc", compression) {
                continue;
            }
            seen.push(compression);
            let bytes = fs::read(&custom).expect("a dump");
            assert_eq!(Kind::of(&bytes[..SNIFF_BYTES]), Kind::Custom);
            let (summary, found, files) = read_custom(&bytes, 1 << 20);
            assert!(bytes.starts_with(&summary.toc.encode_custom()), "PostgreSQL {major}, custom {compression}");
            assert_eq!(found, expected, "PostgreSQL {major}, custom {compression}");
            let rows = &expected.rows;
            assert!(
                tables(&summary.toc).iter().all(|table| rows.contains_key(&name_of(&summary.toc, table.data.dump_id)))
            );
            assert_eq!(read_custom(&bytes, 997), (summary, found, files.clone()));
            // The numbers of the entries are those of the database, the same in each dump of it.
            assert_eq!(plain_files.get_or_insert(files.clone()), &files);

            let path = work.path().join(format!("{compression}.directory"));
            assert!(dump(&server, &path, "-Fd", compression));
            let (toc, stored) = read_directory(&path);
            let (found, plain) = read_files(&toc, &stored);
            assert_eq!(found, expected, "PostgreSQL {major}, directory {compression}");
            assert_eq!(plain, files);
        }
        assert!(seen.starts_with(&["0", "1", "9"]), "{seen:?}");

        let tar = work.path().join("tar");
        assert!(dump(&server, &tar, "-Ft", ""));
        let bytes = fs::read(&tar).expect("a dump");
        assert_eq!(Kind::of(&bytes[..SNIFF_BYTES]), Kind::Tar);
        let (toc, stored) = read_tar(&bytes);
        let (found, plain) = read_files(&toc, &stored);
        assert_eq!(found, expected, "PostgreSQL {major}, tar");
        assert_eq!(Some(plain), plain_files);
    }
}

#[test]
fn a_script_has_as_many_rows_as_the_server() {
    for major in majors() {
        let server = shop(major);
        let work = Workdir::new("scripts");
        let expected = content(&server, "shop").rows;
        let path = work.path().join("shop.custom");
        assert!(dump(&server, &path, "-Fp", ""));
        let script = fs::read(&path).expect("a dump");
        assert_eq!(Kind::of(&script[..SNIFF_BYTES]), Kind::PlainSql);
        let all = run(&mut server.tool("pg_dumpall")).expect("a dump");
        for (bytes, scope) in [(&script, Scope::Database), (&all, Scope::Cluster)] {
            let mut scanner = PlainScanner::new();
            bytes.chunks(1001).for_each(|piece| scanner.push(piece));
            let summary = scanner.finish();
            assert_eq!((summary.scope, summary.ending), (Some(scope), Ending::Complete), "PostgreSQL {major}");
            let name = |part: Option<asof_postgres::archive::Text>| part.expect("a schema").to_lossy();
            let found = summary.tables.into_iter();
            let found: BTreeMap<_, _> =
                found.map(|table| ((name(table.table.namespace), table.table.name.to_lossy()), table.rows)).collect();
            assert_eq!(found, expected, "PostgreSQL {major}");
        }
    }
}

/// What `pg_restore` says of an archive, without what is random in it and what says which format it has.
fn restored_sql(server: &Server, arguments: &[&str], path: &Path) -> Vec<String> {
    let output = run(server.tool("pg_restore").args(arguments).arg(path)).unwrap_or_else(|why| panic!("{why}"));
    let text = String::from_utf8(output).expect("UTF-8");
    let random = |line: &&str| ["\\restrict ", "\\unrestrict ", ";"].iter().any(|start| line.starts_with(start));
    text.lines().filter(|line| !random(line)).map(str::to_owned).collect()
}

#[test]
fn pg_restore_reads_our_directory_as_the_archive_that_it_comes_from() {
    for major in majors() {
        let server = shop(major);
        let work = Workdir::new("directories");
        let expected = content(&server, "shop");
        for compression in ["0", "1"] {
            let custom = work.path().join(format!("{compression}.custom"));
            assert!(dump(&server, &custom, "-Fc", compression));
            let (summary, _, files) = read_custom(&fs::read(&custom).expect("a dump"), 5000);
            let ours = work.path().join(format!("{compression}.directory"));
            fs::create_dir(&ours).expect("a directory");
            fs::write(ours.join(TOC_FILE), summary.toc.encode_directory()).expect("written");
            for (name, content) in &files {
                fs::write(ours.join(name), content).expect("written");
            }
            for arguments in [&["-l"][..], &["-f", "-"], &["-f", "-", "--section=data"]] {
                let (theirs, ours) =
                    (restored_sql(&server, arguments, &custom), restored_sql(&server, arguments, &ours));
                assert!(theirs.len() > 10);
                assert_eq!(ours, theirs, "PostgreSQL {major}, {arguments:?}");
            }
            let database = format!("copy{compression}");
            server.psql(&format!("create database {database}"));
            restore(&server, &database, &["-Fd", "-j", "2"], &ours);
            assert_eq!(content(&server, &database), expected, "PostgreSQL {major}");
        }
    }
}

#[test]
fn pg_restore_brings_back_what_we_choose_for_a_table() {
    for major in majors() {
        let server = shop(major);
        let work = Workdir::new("tables");
        let custom = work.path().join("custom");
        assert!(dump(&server, &custom, "-Fc", "1"));
        let (summary, _, _) = read_custom(&fs::read(&custom).expect("a dump"), 5000);
        let patterns = ["sale", "public.item"].map(|pattern| pattern.parse().expect("a pattern"));
        let selection = closure_of_tables(&summary.toc, &patterns);
        assert_eq!(selection.needs, Vec::<&_>::new(), "PostgreSQL {major}");
        assert_eq!(selection.cut.len(), 1);
        let list = work.path().join("list");
        fs::write(&list, list_file(selection.entries)).expect("written");
        server.psql("create database part");
        restore(&server, "part", &["-L", list.to_str().expect("UTF-8")], &custom);
        // Everything that the catalogue knows of these tables is the same, but the one foreign key.
        let catalogue = "
            select conrelid::regclass || ' ' || pg_get_constraintdef(oid) from pg_constraint
                where conrelid in ('sale'::regclass, 'item'::regclass, 'sale_2024'::regclass) and conname !~ 'customer';
            select pg_get_indexdef(indexrelid) from pg_index where indrelid::regclass::text ~ '^(sale|item)';
            select inhrelid::regclass || ' of ' || inhparent::regclass from pg_inherits;
            select pg_get_statisticsobjdef(oid) from pg_statistic_ext;
            select ev_class::regclass || rulename from pg_rewrite where ev_class = 'item'::regclass;
            select relname, relreplident from pg_class where relname ~ '^(sale|item)';
            select obj_description('sale_item'::regclass);
            select last_value from item_id_seq;
            select count(*), sum(id) from sale;
            insert into item (price) values (5) returning id;";
        let sorted = |database: &str| {
            let text = server.psql_in(database, catalogue);
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted("part"), sorted("shop"), "PostgreSQL {major}");
    }
}
