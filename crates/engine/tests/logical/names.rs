//! Databases whose names are no names, are too long, mean something to client programs, or belong to nobody.

use asof_engine::logical::{DumpRequest, LoadPlan, LoadRequest, Policy};
use asof_testkit::majors;

use crate::stage::{Stage, clients, databases, in_database, into_new, request};
use crate::support::chain;

async fn shop(major: u32) -> Stage {
    let stage = Stage::new(major).await;
    stage.server().psql("create database shop");
    stage.server().psql_in("shop", "create table orders as select generate_series(1, 9) id; analyze");
    stage.stored("shop", "all").await;
    stage
}

async fn refused(stage: &Stage, request: LoadRequest) -> String {
    match stage.load(stage.origin("all").await, stage.server(), request).await {
        Ok(report) => panic!("it was loaded into {}", report.database),
        Err(error) => chain(&error),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_no_database_can_have_is_refused_before_anything_is_made() {
    let stage = shop(majors()[0]).await;
    let server = stage.server();
    let (longest, too_long) = ("y".repeat(63), "y".repeat(64));
    server.psql(&format!("create database {longest}"));
    for policy in [Policy::New, Policy::Replace, Policy::IntoEmpty] {
        let said = refused(&stage, LoadRequest { policy, ..into_new(&too_long) }).await;
        assert!(said.contains(&format!("{too_long} has 64 bytes")) && said.contains("at most 63"), "{said}");
        let said = refused(&stage, LoadRequest { policy, ..into_new("") }).await;
        assert!(said.contains("a database cannot be called nothing"), "{said}");
    }
    assert_eq!(databases(server), ["shop", &longest]);
    let replace = LoadRequest { policy: Policy::Replace, ..into_new(&longest) };
    let loaded = stage.load(stage.origin("all").await, server, replace).await;
    loaded.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(databases(server), ["shop", &longest]);
    assert_eq!(server.psql_in(&longest, "select count(*) from orders"), "9");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_is_missed_however_it_is_asked_for() {
    let stage = shop(majors()[0]).await;
    let says = "there is no database nosuch; --new-database makes one";
    for policy in [Policy::Replace, Policy::IntoEmpty, Policy::IntoExisting] {
        let request = LoadRequest { policy, ..into_new("nosuch") };
        let said = refused(&stage, request.clone()).await;
        assert!(said.contains(says), "{said}");
        // By a connection to the very database.
        let clients = clients(&stage.protected.world, stage.server()).await;
        let link = in_database(stage.server(), "nosuch");
        let plan = LoadPlan::make(&stage.protected.world, &clients, stage.origin("all").await, &link, request).await;
        let said = chain(&plan.err().expect("is refused"));
        assert!(said.contains(says), "{said}");
    }
    assert_eq!(databases(stage.server()), ["shop"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_lets_nobody_in_is_refused_with_the_reason_of_the_server() {
    let stage = shop(majors()[0]).await;
    let said = refused(&stage, LoadRequest { policy: Policy::Replace, ..into_new("template0") }).await;
    assert!(said.contains("template0 cannot be entered: ") && said.contains("not currently accepting"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_name_reads_like_a_connection_string_is_dumped_with_roles_and_loaded() {
    for major in majors() {
        let stage = shop(major).await;
        let server = stage.server();
        for (number, name) in
            ["port=1 dbname=x", "a=b", "postgresql://nowhere:1/x", "it's \\ \"odd\""].iter().enumerate()
        {
            let quoted = name.replace('"', "\"\"");
            server.psql(&format!("create database \"{quoted}\" template shop"));
            let asked = DumpRequest { globals: true, ..request(&format!("odd{number}")) };
            let dumped = stage.dump(name, &asked, &stage.repository()).await;
            let dumped = dumped.unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
            assert!(dumped.details.globals);
            let replace = LoadRequest { policy: Policy::Replace, jobs: 2, ..into_new(name) };
            let loaded = stage.load(stage.origin(&asked.name).await, server, replace).await;
            loaded.unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
            let entered = in_database(server, name).connect().await;
            let row = entered.expect("it is there").query_one("select count(*) from public.orders").await;
            assert_eq!(row.expect("a row").required(0).expect("a number"), "9", "{name} on {major}");
        }
    }
}
