//! Dumps of everything, there and back.

use asof_engine::logical::{self, Destination, DumpRequest, Format, LoadRequest, Outside};
use asof_engine::progress::Silent;
use asof_testkit::{assert_same_dump, fill_universe, majors};
use asof_world::Timestamp;

use crate::stage::{Stage, databases, into_new, request, text_by, text_of};
use crate::support::chain;

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_object_comes_back_from_the_repository() {
    for major in majors() {
        let stage = Stage::new(major).await;
        fill_universe(stage.server());
        let expected = text_of(stage.server(), "universe");
        let backup = stage.stored("universe", "all").await;
        assert!(backup.sizes.stored > 0 && backup.sizes.total > 0, "{:?}", backup.sizes);
        stage.load_new(stage.origin("all").await, "copy").await;
        assert_same_dump(&text_of(stage.server(), "copy"), &expected, &format!("the copy on {major}"));
        assert_eq!(databases(stage.server()), ["copy", "universe"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_of_file_comes_back_and_is_what_stock_programs_read() {
    for major in majors() {
        let stage = Stage::new(major).await;
        fill_universe(stage.server());
        for (format, name) in [(Format::Custom, "c"), (Format::Directory, "d"), (Format::Plain, "p")] {
            let path = stage.path(name);
            let asked = DumpRequest { format, jobs: if format == Format::Directory { 2 } else { 1 }, ..request(name) };
            let made = stage.dump("universe", &asked, &Destination::File(path.clone())).await;
            let made = made.unwrap_or_else(|error| panic!("{name} on {major}: {}", chain(&error)));
            assert_eq!(made.files.first(), Some(&path));
            stage.load_new(stage.file(&path).await.expect("the file is opened"), name).await;
            // A script has the properties of its database only when it makes it.
            let how: &[&str] = if format == Format::Plain { &[] } else { &["--create"] };
            let (found, expected) = (text_by(stage.server(), name, how), text_by(stage.server(), "universe", how));
            assert_same_dump(&found, &expected, &format!("{name} on {major}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_jobs_make_the_same_dump_and_load_the_same_database() {
    for major in majors() {
        let stage = Stage::new(major).await;
        fill_universe(stage.server());
        // Tables that are worth a process of their own, one with a sequence, an index and somebody who refers to it.
        stage.server().psql_in(
            "universe",
            "create table big_1 (id bigserial primary key, body text);
             insert into big_1 (body) select repeat(md5(n::text), 9) from generate_series(1, 60000) n;
             create table \"big \"\"2\" (id bigint references big_1, body text);
             insert into \"big \"\"2\" select n, repeat(md5(n::text), 9) from generate_series(1, 50000) n;
             create index on \"big \"\"2\" (id); analyze",
        );
        let expected = text_of(stage.server(), "universe");
        let asked = DumpRequest { jobs: 3, ..request("all") };
        let made = stage
            .dump("universe", &asked, &stage.repository())
            .await
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        let rows = |name: &str| made.tables.iter().find(|table| table.name == name).and_then(|table| table.rows);
        assert_eq!((rows("big_1"), rows("big \"2")), (Some(60_000), Some(50_000)));
        for (jobs, name) in [(1, "one"), (3, "three")] {
            let wanted = LoadRequest { jobs, ..into_new(name) };
            let loaded = stage.load(stage.origin("all").await, stage.server(), wanted).await;
            loaded.unwrap_or_else(|error| panic!("{jobs} on {major}: {}", chain(&error)));
            assert_same_dump(&text_of(stage.server(), name), &expected, &format!("{jobs} on {major}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_dump_is_what_stock_pg_restore_reads_with_several_jobs() {
    for major in majors() {
        let stage = Stage::new(major).await;
        fill_universe(stage.server());
        let expected = text_of(stage.server(), "universe");
        let asked = DumpRequest { jobs: 2, globals: true, ..request("all") };
        stage.dump("universe", &asked, &stage.repository()).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let path = stage.path("exported.dump");
        let origin = stage.origin("all").await;
        let exported = logical::export(&origin, Timestamp(0), Outside::File(&path), &Silent).await;
        let exported = exported.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let names: Vec<&str> = exported.names.iter().filter_map(|name| name.rsplit('/').next()).collect();
        assert_eq!(names, ["exported.dump", "exported.dump.globals.sql", "exported.dump.json"]);
        // By the stock program, which finds each table by its place, and by ours, which holds the digests against it.
        stage.load_new(stage.file(&path).await.expect("a file"), "ours").await;
        assert_same_dump(&text_of(stage.server(), "ours"), &expected, &format!("ours on {major}"));
        let again =
            logical::export(&origin, Timestamp(0), Outside::File(&path), &Silent).await.expect_err("is refused");
        assert!(chain(&again).contains("exists already"), "{}", chain(&again));
        if stage.clients.all().iter().any(|client| client.major == major) {
            stage.server().psql("create database stock");
            for section in ["pre-data", "data", "post-data"] {
                // Of indexes of partitions and foreign keys its jobs may wait for each other for ever.
                let jobs = if section == "data" { "--jobs=3" } else { "--jobs=1" };
                let mut restore = stage.server().tool("pg_restore");
                restore.args([jobs, "--section", section, "--exit-on-error", "--dbname=stock"]).arg(&path);
                let restored = restore.output().expect("pg_restore runs");
                assert!(restored.status.success(), "on {major}: {}", String::from_utf8_lossy(&restored.stderr));
            }
            let plain = |database: &str| text_by(stage.server(), database, &[]);
            assert_same_dump(&plain("stock"), &plain("universe"), &format!("stock on {major}"));
        }
    }
}
