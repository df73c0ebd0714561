//! `asof load` into databases whose names are unusual, wrong or of nobody: what is refused, and where what was replaced is kept.

mod support;

use std::fs;

use asof_testkit::{Options, Server};

use support::{Desk, Said};

/// A desk with a dump in a file, `shop.dump`, and the server that it is of, as `prod`.
struct Shop {
    desk: Desk,
    server: Server,
}

impl Shop {
    fn open() -> Self {
        let server = Server::running(15, &Options::default());
        server.psql("create database shop");
        server.psql_in("shop", "create table orders as select generate_series(1, 9) id; analyze");
        let desk = Desk::with_repository();
        let added = desk.add("prod", &server.conninfo());
        assert_eq!(added.code, 0, "{added:?}");
        desk.done("dump prod -d shop --out shop.dump");
        Self { desk, server }
    }

    fn load(&self, words: &[&str]) -> Said {
        self.desk.run(self.desk.command().args(["-q", "load", "shop.dump"]).args(words))
    }

    /// The names in a directory that begin and end like this.
    fn named(&self, directory: &str, begin: &str) -> usize {
        let entries = fs::read_dir(self.desk.path(directory)).expect("it can be listed");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(begin) && name.ends_with(".dump")).count()
    }
}

#[test]
fn what_is_replaced_is_kept_beside_whoever_asked_whatever_its_name_looks_like() {
    let shop = Shop::open();
    // Others may have left something there.
    let outside = shop.named("..", "up-before");
    for (name, kept) in [("../up", ".._up"), ("sl/ash", "sl_ash"), ("li\nne\t", "li_ne_")] {
        shop.server.psql(&format!("create database \"{name}\" template shop"));
        let target = shop.server.conninfo().replace("dbname=postgres", &format!("dbname='{name}'"));
        shop.load(&["--into", &target, "--replace", "--yes", name]).must(name, 0, &[]);
        let begin = format!("{kept}-before-load-");
        assert_eq!((shop.named(".", &begin), shop.named("..", "up-before")), (1, outside), "{name}");
        shop.load(&["--into", &format!("prod/{name}"), "--replace", "--yes", name]).must(name, 0, &[]);
        assert!(shop.desk.done("backup list prod").contains(&begin), "{name}");
        let dumped = shop.desk.run(shop.desk.command().args(["dump", "prod", "-d", name]));
        dumped.must(name, 0, &[]);
        assert!(shop.desk.done("backup list prod").contains(&format!("prod-{kept}-dump-")), "{name}");
    }
}

#[test]
fn a_database_that_cannot_be_loaded_into_is_refused_in_words() {
    let shop = Shop::open();
    let too_long = "y".repeat(70);
    let missing = "there is no database nosuch; --new-database makes one";
    for (words, code, says) in [
        (vec!["--into", "prod/nosuch"], 3, missing),
        (vec!["--into", "prod/nosuch", "--table", "orders"], 3, missing),
        (vec!["--into", "prod/nosuch", "--replace", "--yes", "nosuch"], 3, missing),
        (vec!["--into", "prod/template0"], 1, "not currently accepting connections"),
        (vec!["--into", "prod/"], 3, "a database cannot be called nothing"),
        (vec!["--new-database", "", "--on", "prod"], 3, "a database cannot be called nothing"),
        (vec!["--new-database", &too_long, "--on", "prod"], 3, "has 70 bytes"),
        (vec!["--new-database", "copy", "--on", "prod", "--replace"], 2, "cannot be used with"),
        (vec!["--new-database", "copy", "--on", "prod", "--yes", "copy"], 2, "cannot be used with"),
    ] {
        shop.load(&words).must(&words.join(" "), code, &[says]);
    }
    let listed = "select string_agg(datname, ' ' order by datname) from pg_database";
    assert_eq!(shop.server.psql(listed), "postgres shop template0 template1");
    // Whichever it is, another one is entered to replace it.
    shop.load(&["--into", "prod/postgres", "--replace", "--yes", "postgres"]).must("postgres", 0, &[]);
    assert_eq!(shop.server.psql_in("postgres", "select count(*) from orders"), "9");
    assert_eq!(shop.server.psql(listed), "postgres shop template0 template1");
}
