//! Verification: a dump that is whole is found whole, and one that is not is never.

use std::path::{Path, PathBuf};
use std::process::Command;

use asof_engine::logical::{self, Destination, DumpRequest, Format, Proof};
use asof_engine::progress::Silent;
use asof_postgres::version::Major;
use asof_testkit::{Server, fill_universe, majors};

use crate::stage::{Stage, into_new, request};
use crate::support::chain;

const SHOP: &str = "
create table customer (id int primary key, name text);
insert into customer select n, md5(n::text) || md5((n * 7)::text) from generate_series(1, 20000) n;
create table orders (id int primary key, customer int references customer);
insert into orders select n, 1 + n % 20000 from generate_series(1, 30000) n;
select lo_from_bytea(70001, convert_to(repeat('lo', 9000), 'UTF8'));
";

async fn shop(major: u32) -> Stage {
    let stage = Stage::new(major).await;
    stage.server().psql("create database shop");
    stage.server().psql_in("shop", SHOP);
    stage
}

/// What stock `pg_dump` makes; that of a newer major may write what an older server does not know.
pub(crate) fn stock(stage: &Stage, database: &str, arguments: &[&str], path: &Path) {
    let major = Major::from_number(stage.server().major()).expect("a major");
    let mut command = stage.server().tool("pg_dump");
    let environment: Vec<_> =
        command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    command = Command::new(stage.clients.to_dump(major).expect("a client").program("pg_dump"));
    for (name, value) in environment {
        value.map(|value| command.env(name, value));
    }
    let made = command.args(arguments).arg("--file").arg(path).arg(database).output().expect("it runs");
    assert!(made.status.success(), "pg_dump: {}", String::from_utf8_lossy(&made.stderr));
}

fn lists(server: &Server, path: &Path) -> bool {
    let program = PathBuf::from(server.tool("pg_restore").get_program());
    Command::new(program).arg("--list").arg(path).output().expect("pg_restore runs").status.success()
}

#[expect(clippy::disallowed_methods, reason = "the test damages files")]
fn damage(path: &Path, how: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("the file is read");
    how(&mut bytes);
    std::fs::write(path, bytes).expect("the file is written");
}

#[expect(clippy::disallowed_methods, reason = "the test damages copies")]
fn copy(from: &Path, to: &Path) -> PathBuf {
    std::fs::copy(from, to).expect("the file is copied");
    to.to_owned()
}

async fn failure(stage: &Stage, path: &Path) -> String {
    let origin = match stage.file(path).await {
        Ok(origin) => origin,
        Err(error) => return chain(&error),
    };
    match logical::verify(&origin, &Silent).await {
        Ok(report) => panic!("{} is found whole: {report:?}", path.display()),
        Err(error) => chain(&error),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_dump_is_read_whole_and_the_journal_says_so() {
    for major in majors() {
        let stage = Stage::new(major).await;
        fill_universe(stage.server());
        for (format, name) in [(Format::Custom, "archive"), (Format::Plain, "script")] {
            let asked = DumpRequest { format, globals: true, ..request(name) };
            let made = stage.dump("universe", &asked, &stage.repository()).await;
            let backup = made.unwrap_or_else(|error| panic!("{}", chain(&error))).backup.expect("a backup");
            let report = logical::verify_stored(&stage.protected.owner, &backup, &Silent).await;
            let report = report.unwrap_or_else(|error| panic!("{name} on {major}: {}", chain(&error)));
            assert_eq!((report.proof, report.held_against_record), (Proof::Authenticated, true));
            assert!(report.bytes > backup.sizes.total / 2 && report.tables > 15, "{report:?}");
            assert_eq!(report.remarks, Vec::<String>::new());
            let journal = stage.protected.owner.journal().await.expect("the journal");
            let verified = journal.state().backups[&backup.id].verified.clone().expect("it is recorded");
            assert!(verified.ok && verified.what.contains("tables"), "{verified:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_of_a_stored_dump_is_found_named_and_recorded() {
    let stage = shop(majors()[0]).await;
    let backup = stage.stored("shop", "all").await;
    let pack = largest_pack(&stage.path("repository"));
    damage(&pack, |bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    });
    let error = logical::verify_stored(&stage.protected.owner, &backup, &Silent).await.expect_err("it is damaged");
    let pack_name = pack.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(chain(&error).contains(&pack_name), "{}", chain(&error));
    let verified = recorded(&stage, &backup).await;
    assert!(!verified.ok && verified.what.contains(&pack_name), "{verified:?}");
    remove(&pack);
    let error = logical::verify_stored(&stage.protected.owner, &backup, &Silent).await.expect_err("it is missing");
    assert!(matches!(error, asof_engine::Error::Damaged { .. }), "{}", chain(&error));
    assert!(recorded(&stage, &backup).await.what.contains("is not in the repository"));
}

#[expect(clippy::disallowed_methods, reason = "the test loses an object")]
fn remove(path: &Path) {
    std::fs::remove_file(path).expect("it is removed");
}

async fn recorded(stage: &Stage, backup: &asof_repository::lineage::Backup) -> asof_repository::lineage::Verified {
    let journal = stage.protected.owner.journal().await.expect("the journal");
    journal.state().backups[&backup.id].verified.clone().expect("it is recorded")
}

#[expect(clippy::disallowed_methods, reason = "the test looks for an object")]
fn largest_pack(directory: &Path) -> PathBuf {
    let (mut found, mut ahead) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = ahead.pop() {
        for entry in std::fs::read_dir(directory).expect("it is listed") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => ahead.push(path),
                false if path.parent().is_some_and(|parent| parent.ends_with("packs")) => {
                    found.push((std::fs::metadata(&path).expect("it is there").len(), path));
                }
                false => {}
            }
        }
    }
    found.into_iter().max().expect("there is a pack").1
}

#[tokio::test(flavor = "multi_thread")]
async fn hz_l3_a_dump_that_only_its_table_of_contents_proves_is_not_whole() {
    for major in majors() {
        let stage = shop(major).await;
        for (name, arguments, why) in [
            ("z.dump", vec!["-Fc"], "the archive ends at byte "),
            ("t.tar", vec!["-Ft"], "the tar archive ends after "),
            ("p.sql", vec!["-Fp"], "it ends in the middle of the rows of "),
        ] {
            let path = stage.path(name);
            stock(&stage, "shop", &arguments, &path);
            // Cut: the table of contents is whole.
            let cut = copy(&path, &stage.path(&format!("cut-{name}")));
            damage(&cut, |bytes| bytes.truncate(bytes.len() / 2));
            assert!(name == "p.sql" || lists(stage.server(), &cut), "{name}: pg_restore --list says that it is fine");
            let said = failure(&stage, &cut).await;
            assert!(said.contains(&format!("cut-{name}")) && said.contains(why), "{said}");
            let origin = stage.file(&path).await.expect("it is opened");
            let report = logical::verify(&origin, &Silent).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
            assert_eq!((report.tables, report.rows), (2, Some(50_000)), "{name}");
            assert!(!report.remarks.is_empty(), "{name}: nobody recorded what it was");
        }
        // A flipped bit in compressed rows is seen by their checksum.
        let flipped = copy(&stage.path("z.dump"), &stage.path("flipped.dump"));
        damage(&flipped, |bytes| {
            let at = bytes.len() * 2 / 3;
            bytes[at] ^= 4;
        });
        assert!(lists(stage.server(), &flipped), "pg_restore --list says that it is fine");
        assert!(failure(&stage, &flipped).await.contains("flipped.dump"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_rows_without_checksums_is_found_by_the_record_beside_the_dump() {
    for major in majors() {
        let stage = shop(major).await;
        for (format, name) in [(Format::Custom, "c"), (Format::Directory, "d"), (Format::Plain, "p")] {
            let path = stage.path(name);
            let asked = DumpRequest { format, compress: Some("0".to_owned()), ..request(name) };
            let made = stage.dump("shop", &asked, &Destination::File(path.clone())).await;
            made.unwrap_or_else(|error| panic!("{}", chain(&error)));
            let origin = stage.file(&path).await.expect("it is opened");
            let report = logical::verify(&origin, &Silent).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
            assert_eq!((report.proof, report.held_against_record), (Proof::Recorded, true), "{name}");
            let file = if format == Format::Directory { rows_of(&path) } else { path.clone() };
            damage(&file, |bytes| {
                // In the middle of a customer's name, so that the row still has its form.
                let at = bytes.windows(9).position(|window| window == b"\n10000\t53" || window == b"\n10000\tb7");
                let at = at.unwrap_or(bytes.len() / 2);
                bytes[at + 8] ^= 1;
            });
            assert!(format == Format::Plain || lists(stage.server(), &path), "pg_restore --list says that it is fine");
            let said = failure(&stage, &path).await;
            assert!(said.contains("SHA-256"), "{name}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_script_has_its_record_and_another_in_its_place_is_not_loaded() {
    for major in majors() {
        let stage = shop(major).await;
        stage.server().psql("create database bytes template template0 encoding 'SQL_ASCII' locale 'C'");
        stage.server().psql_in("bytes", "create table t (a int); insert into t values (1)");
        let [shop, bytes] = [stage.path("shop.sql.gz"), stage.path("bytes.sql.gz")];
        for (database, path) in [("shop", &shop), ("bytes", &bytes)] {
            let asked = DumpRequest { format: Format::Plain, compress: Some("6".to_owned()), ..request("all") };
            let made = stage.dump(database, &asked, &Destination::File(path.clone())).await;
            made.unwrap_or_else(|error| panic!("{}", chain(&error)));
            let origin = stage.file(path).await.expect("it is opened");
            let report = logical::verify(&origin, &Silent).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
            assert_eq!((report.proof, report.held_against_record), (Proof::Recorded, true));
        }
        stage.load_new(stage.file(&bytes).await.expect("it is opened"), "copy").await;
        let sql = "select pg_encoding_to_char(encoding), datcollate from pg_database where datname = 'copy'";
        assert_eq!(stage.server().psql(sql), "SQL_ASCII|C", "on {major}");
        copy(&bytes, &shop);
        assert!(failure(&stage, &shop).await.contains("SHA-256"));
        let origin = stage.file(&shop).await.expect("it is opened");
        let loaded = stage.load(origin, stage.server(), into_new("swapped")).await.expect_err("it is another");
        assert!(chain(&loaded).contains("SHA-256"), "{}", chain(&loaded));
        assert_eq!(stage.server().psql("select count(*) from pg_database where datname ~ 'swapped|asof'"), "0");
        // A copy has another name, and no record.
        let origin = stage.file(&copy(&bytes, &stage.path("bytes.sql"))).await.expect("it is opened");
        let report = logical::verify(&origin, &Silent).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!((report.proof, report.held_against_record), (Proof::Checksums, false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_rows_than_were_recorded_are_named() {
    let stage = shop(majors()[0]).await;
    let path = stage.path("c");
    let made = stage.dump("shop", &request("c"), &Destination::File(path.clone())).await;
    made.unwrap_or_else(|error| panic!("{}", chain(&error)));
    damage(&stage.path("c.json"), |bytes| {
        let text = String::from_utf8_lossy(bytes).replace("\"rows\": 20000", "\"rows\": 20001");
        *bytes = text.into_bytes();
    });
    let said = failure(&stage, &path).await;
    assert!(said.contains("public.customer: 20000 rows, recorded 20001 rows"), "{said}");
}

/// The largest file of rows in a directory.
#[expect(clippy::disallowed_methods, reason = "the test looks for a file")]
fn rows_of(directory: &Path) -> PathBuf {
    let files = std::fs::read_dir(directory).expect("it is listed").map(|entry| entry.expect("an entry").path());
    let len = |path: &PathBuf| std::fs::metadata(path).expect("it is there").len();
    files.filter(|path| !path.ends_with("toc.dat")).max_by_key(len).expect("there is one")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_directory_that_is_gone_is_named() {
    let stage = shop(majors()[0]).await;
    let path = stage.path("d");
    stock(&stage, "shop", &["-Fd"], &path);
    let gone = rows_of(&path);
    remove(&gone);
    assert!(lists(stage.server(), &path), "pg_restore --list says that it is fine");
    let said = failure(&stage, &path).await;
    let stem = gone.file_name().expect("a name").to_string_lossy().replace(".gz", "");
    assert!(said.contains(&stem) && said.contains("missing"), "{said}");
}
