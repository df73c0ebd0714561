//! What belongs to a database without being in it: a copy and a replacement have it, and whoever loads is told what they lack.

use asof_engine::logical::{self, Conflict, LoadPlan, LoadReport, LoadRequest, Policy};
use asof_engine::progress::Silent;
use asof_testkit::{Server, majors};

use crate::stage::{Stage, clients, databases, into_new, never};
use crate::support::{chain, link};
use crate::verify::stock;

async fn shop(major: u32) -> Stage {
    let stage = Stage::new(major).await;
    stage.server().psql("create database shop");
    stage.server().psql_in("shop", "create table orders as select generate_series(1, 9) id; analyze");
    stage
}

async fn loaded(stage: &Stage, name: &str, request: LoadRequest) -> LoadReport {
    let loaded = stage.load(stage.origin(name).await, stage.server(), request).await;
    loaded.unwrap_or_else(|error| panic!("{}", chain(&error)))
}

async fn refused(stage: &Stage, name: &str, request: LoadRequest) -> String {
    match stage.load(stage.origin(name).await, stage.server(), request).await {
        Ok(report) => panic!("it was loaded into {}", report.database),
        Err(error) => chain(&error),
    }
}

fn replace(database: &str) -> LoadRequest {
    LoadRequest { policy: Policy::Replace, ..into_new(database) }
}

/// Every setting of a database, and for whom.
fn settings(server: &Server, database: &str) -> String {
    server.psql(&format!(
        "select setrole::regrole, unnest(setconfig) from pg_db_role_setting s join pg_database d on d.oid = setdatabase \
         where datname = '{database}' order by 1, 2"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_with_settings_in_a_database_are_missed_before_anything_is_made_or_left_out() {
    for major in majors() {
        let stage = shop(major).await;
        let server = stage.server();
        server.psql("create role \"Work er\"; alter role \"Work er\" in database shop set work_mem = '8MB'");
        server.psql("alter database shop set lock_timeout = '7s'; create database empty_one");
        stage.stored("shop", "all").await;
        server.psql("drop role \"Work er\"");
        let chosen = LoadRequest { tables: vec!["orders".to_owned()], ..into_new("copy") };
        for request in [into_new("copy"), LoadRequest { no_owner: true, ..into_new("copy") }, chosen] {
            let said = refused(&stage, "all", request).await;
            assert!(said.contains("Work er are not here: make them, or leave them out"), "{said}");
            assert_eq!(databases(server), ["empty_one", "shop"]);
        }
        loaded(&stage, "all", LoadRequest { no_privileges: true, ..into_new("copy") }).await;
        assert_eq!(settings(server, "copy"), "-|lock_timeout=7s", "on {major}");
        // A database that is there keeps its own properties, and needs nobody for them.
        loaded(&stage, "all", LoadRequest { policy: Policy::IntoEmpty, ..into_new("empty_one") }).await;
        loaded(&stage, "all", replace("shop")).await;
        assert_eq!(settings(server, "shop"), "-|lock_timeout=7s", "on {major}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_loader_may_not_set_is_remarked_and_the_rest_is_set() {
    for major in majors() {
        let stage = shop(major).await;
        let server = stage.server();
        server.psql("create role worker; create role mover login createdb; grant worker to mover");
        server.psql("alter role worker in database shop set application_name = 'a secret; or two'");
        server.psql("alter role mover in database shop set work_mem = '8MB'; comment on database shop is 'sold here'");
        stage.stored("shop", "all").await;
        let clients = clients(&stage.protected.world, server).await;
        let mut mover = link(server);
        mover.config.user = "mover".to_owned();
        let request = LoadRequest { no_owner: true, ..into_new("moved") };
        let plan = LoadPlan::make(&stage.protected.world, &clients, stage.origin("all").await, &mover, request).await;
        let done = logical::load(&plan.expect("a plan"), never(), &Silent).await;
        let remarks = done.unwrap_or_else(|error| panic!("{}", chain(&error))).remarks;
        let [remark] = remarks.as_slice() else { panic!("{remarks:?}") };
        let says = "not applied: ALTER ROLE worker IN DATABASE \"moved\" SET application_name TO … (";
        assert!(remark.starts_with(says), "{remark}");
        assert_eq!(settings(server, "moved"), "mover|work_mem=8MB", "on {major}");
        let comment = "select shobj_description(oid, 'pg_database') from pg_database where datname = 'moved'";
        assert_eq!(server.psql(comment), "sold here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_property_that_the_server_refuses_is_named_and_leaves_nothing() {
    let stage = shop(15).await;
    let server = stage.server();
    server.psql("alter database shop is_template true; alter database shop set work_mem = '9MB'");
    // It can be set until the library is loaded whose name it bears.
    server.psql("alter database shop set plpgsql.nosuch = 'x'");
    stage.stored("shop", "all").await;
    server.psql("alter role postgres set session_preload_libraries = 'plpgsql'");
    let said = refused(&stage, "all", into_new("copy")).await;
    assert!(
        said.contains("ALTER DATABASE \"copy\" SET \"plpgsql.nosuch\" TO …: invalid configuration parameter"),
        "{said}"
    );
    assert_eq!(databases(server), ["shop"], "one that is a template already is dropped as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_replaced_hands_on_everything_that_it_has() {
    for major in majors() {
        let stage = shop(major).await;
        let server = stage.server();
        stage.stored("shop", "all").await;
        server.psql("create role worker");
        for sql in [
            "database shop set search_path = ''",
            "database shop set temp_tablespaces = ''",
            "database shop set \"Odd.name\" = 'it''s \\ \"odd\"'",
            "database shop set datestyle = 'German, DMY'",
            "role worker in database shop set session_preload_libraries = ''",
            "role worker in database shop set search_path = \"$user\", 'a \"b, c', public",
            "database shop connection limit 7",
            "database shop is_template true",
        ] {
            server.psql(&format!("alter {sql}"));
        }
        server.psql("grant create on database shop to worker with grant option; comment on database shop is 'it''s'");
        let attributes = "select datconnlimit, datistemplate, datallowconn, shobj_description(oid, 'pg_database'), \
                          array(select unnest(datacl)::text order by 1) from pg_database where datname = 'shop'";
        let before = (settings(server, "shop"), server.psql(attributes));
        let oid = server.psql("select oid from pg_database where datname = 'shop'");
        let report = loaded(&stage, "all", replace("shop")).await;
        assert_eq!((settings(server, "shop"), server.psql(attributes)), before, "on {major}");
        assert_eq!((databases(server), report.remarks), (vec!["shop".to_owned()], Vec::new()), "on {major}");
        assert_ne!(server.psql("select oid from pg_database where datname = 'shop'"), oid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_replaced_and_cannot_be_dropped_is_remarked() {
    let stage = shop(majors()[0]).await;
    let server = stage.server();
    stage.stored("shop", "all").await;
    let subscription =
        "create subscription s connection 'dbname=none' publication p with (connect = false, slot_name = none)";
    server.psql_in("shop", subscription);
    let report = loaded(&stage, "all", replace("shop")).await;
    let [remark] = report.remarks.as_slice() else { panic!("{:?}", report.remarks) };
    let [_, left] = databases(server).try_into().expect("two");
    assert!(left.starts_with("shop_asof_replaced_"), "{left}");
    let says = format!("what was replaced is left behind as {left}: drop it by hand (");
    assert!(remark.starts_with(&says) && remark.contains("subscription"), "{remark}");
    assert_eq!(server.psql_in("shop", "select count(*) from orders"), "9");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_several_lines_keeps_no_property_from_a_copy() {
    let stage = shop(majors()[0]).await;
    let server = stage.server();
    let odd = "\"li\nne DATABASE \"\" a;\"";
    server.psql(&format!("alter database shop rename to {odd}"));
    for sql in ["alter database {} set work_mem = '9MB'", "alter role postgres in database {} set work_mem = '8MB'"] {
        server.psql(&sql.replace("{}", odd));
    }
    server.psql(&format!("comment on database {odd} is 'two\nlines;'; revoke all on database {odd} from public"));
    let odd = odd.trim_matches('"').replace("\"\"", "\"");
    stage.stored(&odd, "odd").await;
    let report = loaded(&stage, "odd", into_new("copy")).await;
    assert_eq!(report.remarks, Vec::<String>::new());
    assert_eq!(settings(server, "copy"), "-|work_mem=9MB\npostgres|work_mem=8MB");
    let others = "select shobj_description(oid, 'pg_database'), array_to_string(datacl, ',') !~ '(^|,)=' \
                  from pg_database where datname = 'copy'";
    assert_eq!(server.psql(others), "two\nlines;|t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tar_gives_what_an_archive_gives_and_a_script_says_what_it_lacks() {
    for major in majors() {
        let stage = shop(major).await;
        let server = stage.server();
        server.psql(
            "create role keeper; create database odd encoding 'LATIN1' locale 'C' template template0 owner keeper",
        );
        server.psql("alter database odd set work_mem = '9MB'; comment on database odd is 'kept'");
        server.psql_in(
            "odd",
            "create table orders (id int primary key); insert into orders select generate_series(1, 9)",
        );
        let properties = |database: &str| {
            let select = "pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, \
                          shobj_description(oid, 'pg_database')";
            (
                server.psql(&format!("select {select} from pg_database where datname = '{database}'")),
                settings(server, database),
            )
        };
        let (tar, script) = (stage.path("odd.tar"), stage.path("odd.sql"));
        stock(&stage, "odd", &["-Ft"], &tar);
        stock(&stage, "odd", &["-Fp"], &script);
        let load = async |path, request| {
            let loaded = stage.load(stage.file(path).await.expect("it is opened"), server, request).await;
            loaded.unwrap_or_else(|error| panic!("{}", chain(&error)))
        };
        let report = load(&tar, into_new("of_tar")).await;
        assert_eq!((report.tables, report.remarks), (Some(1), Vec::new()));
        assert_eq!(properties("of_tar"), properties("odd"), "on {major}");
        // Tables can be chosen from it as well, wherever they go.
        let orders = |request| LoadRequest { tables: vec!["orders".to_owned()], ..request };
        load(&tar, orders(into_new("part"))).await;
        server.psql_in("part", "delete from orders where id > 3");
        let skip = LoadRequest { policy: Policy::IntoExisting, conflict: Conflict::Skip, ..into_new("part") };
        load(&tar, orders(skip)).await;
        assert_eq!(server.psql_in("part", "select count(*), max(id) from orders"), "9|9");
        let report = load(&script, into_new("of_script")).await;
        let [remark] = report.remarks.as_slice() else { panic!("{:?}", report.remarks) };
        assert!(remark.contains("odd.sql is a script, which has no properties of its database: owner"), "{remark}");
        assert_eq!(properties("of_script").1, "");
        // What the tar needs is missed before anything is made.
        server.psql("reassign owned by keeper to postgres; drop role keeper");
        let tar = stage.file(&tar).await.expect("it is opened");
        let refused = stage.load(tar, server, into_new("again")).await.expect_err("a role is missing");
        assert!(chain(&refused).contains("keeper are not here"), "{}", chain(&refused));
    }
}
