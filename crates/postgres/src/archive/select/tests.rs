//! Choosing from real tables of contents, and from made-up ones.

use super::*;
use crate::archive::toc::{ArchiveFormat, Place, Section, TocDecoder};

fn shops() -> [Toc; 3] {
    [
        &include_bytes!("../../../testdata/archive/shop-15.toc")[..],
        include_bytes!("../../../testdata/archive/shop-16.toc"),
        include_bytes!("../../../testdata/archive/shop-18.toc"),
    ]
    .map(|bytes| Toc::decode(ArchiveFormat::Directory, bytes).expect("valid"))
}

fn patterns(all: &[&str]) -> Vec<Pattern> {
    all.iter().map(|pattern| pattern.parse().expect("a pattern")).collect()
}

fn labels(entries: &[&Entry]) -> Vec<String> {
    let mut labels: Vec<String> = entries.iter().map(|entry| format!("{} {}", entry.desc, entry.tag)).collect();
    labels.sort();
    labels
}

#[track_caller]
fn check(tables: &[&str], entries: &[&str], cut: &[&str], needs: &[&str]) {
    for toc in shops() {
        let selection = closure_of_tables(&toc, &patterns(tables));
        assert_eq!(labels(&selection.entries), entries, "archive {}", toc.version);
        let names: Vec<String> = selection.cut.iter().map(|cut| cut.entry.tag.to_lossy()).collect();
        assert_eq!(names, cut);
        assert_eq!(labels(&selection.needs), needs);
    }
}

#[test]
fn a_table_brings_all_that_belongs_to_it() {
    check(
        &["customer"],
        &[
            "ACL COLUMN customer.name",
            "ACL TABLE customer",
            "COMMENT COLUMN customer.name",
            "COMMENT TABLE customer",
            "CONSTRAINT customer customer_name_key",
            "CONSTRAINT customer customer_pkey",
            "POLICY customer mine",
            "ROW SECURITY customer",
            "SEQUENCE SET customer_id_seq",
            "SEQUENCE customer_id_seq",
            "TABLE DATA customer",
            "TABLE customer",
            "TRIGGER customer touched",
        ],
        &[],
        &["FUNCTION touch()", "TYPE mood"],
    );
    check(
        &["public.item"],
        &[
            "COMMENT CONSTRAINT cheap ON item",
            "CONSTRAINT item item_pkey",
            "DEFAULT item id",
            "RULE item no_delete",
            "SEQUENCE OWNED BY item_id_seq",
            "SEQUENCE SET item_id_seq",
            "SEQUENCE item_id_seq",
            "STATISTICS item_stats",
            "TABLE DATA item",
            "TABLE item",
        ],
        &[],
        &[],
    );
}

const SALE: [&str; 18] = [
    "COMMENT INDEX sale_item",
    "CONSTRAINT sale sale_pkey",
    "CONSTRAINT sale_2024 sale_2024_pkey",
    "CONSTRAINT sale_2025 sale_2025_pkey",
    "INDEX ATTACH sale_2024_item_idx",
    "INDEX ATTACH sale_2024_pkey",
    "INDEX ATTACH sale_2025_item_idx",
    "INDEX ATTACH sale_2025_pkey",
    "INDEX sale_2024_item_idx",
    "INDEX sale_2024_ri",
    "INDEX sale_2025_item_idx",
    "INDEX sale_item",
    "TABLE ATTACH sale_2024",
    "TABLE ATTACH sale_2025",
    "TABLE DATA sale_2024",
    "TABLE DATA sale_2025",
    "TABLE sale",
    "TABLE sale_2024",
];

#[test]
fn a_partitioned_table_brings_its_partitions_and_loses_foreign_keys_to_others() {
    let entries = [&SALE[..], &["TABLE sale_2025"]].concat();
    check(&["sale"], &entries, &["sale sale_customer_fkey", "sale sale_item_fkey"], &[]);
    for toc in shops() {
        let selection = closure_of_tables(&toc, &patterns(&["sale"]));
        assert!(selection.cut[0].statement.contains("ADD CONSTRAINT sale_customer_fkey FOREIGN KEY (customer)"));
    }
}

#[test]
fn a_foreign_key_comes_where_both_tables_do() {
    for toc in shops() {
        let selection = closure_of_tables(&toc, &patterns(&["sale", "item", "nobody"]));
        let cut: Vec<String> = selection.cut.iter().map(|cut| cut.entry.tag.to_lossy()).collect();
        assert_eq!(cut, ["sale sale_customer_fkey"]);
        assert!(labels(&selection.entries).contains(&"FK CONSTRAINT sale sale_item_fkey".to_owned()));
        assert_eq!(selection.unmatched, patterns(&["nobody"]));
    }
}

#[test]
fn a_partition_comes_alone_if_it_is_asked_for_alone() {
    let entries = [
        "CONSTRAINT sale_2024 sale_2024_pkey",
        "INDEX sale_2024_item_idx",
        "INDEX sale_2024_ri",
        "TABLE DATA sale_2024",
    ];
    check(&["sale_2024"], &[&entries[..], &["TABLE sale_2024"]].concat(), &[], &[]);
}

#[test]
fn a_partition_without_its_parent_says_how_it_would_be_attached() {
    for toc in shops() {
        let selection = closure_of_tables(&toc, &patterns(&["sale_2024"]));
        let [loose] = selection.loose.as_slice() else { panic!("{:?}", selection.loose) };
        assert_eq!(labels(&[loose.partition, loose.parent]), ["TABLE sale", "TABLE sale_2024"]);
        let attach = loose.attach.as_deref().expect("an entry attaches it");
        assert!(attach.starts_with("ALTER TABLE ONLY public.sale ATTACH PARTITION public.sale_2024 FOR"), "{attach}");
        assert_eq!(labels(&loose.indexes), ["CONSTRAINT sale_2024 sale_2024_pkey", "INDEX sale_2024_item_idx"]);
        assert_eq!(closure_of_tables(&toc, &patterns(&["sale"])).loose, []);
    }
}

#[test]
fn a_partition_that_its_definition_attaches_comes_with_its_parent_and_alone_needs_it() {
    // As pg_dump 12 and 13 write it.
    let definition = "CREATE TABLE public.p1 (\n    id integer\n);\nALTER TABLE ONLY public.p ATTACH PARTITION public.p1 DEFAULT;\n\n";
    let child =
        Entry { definition: Some(definition.into()), ..entry(2, "TABLE", "p1", "DROP TABLE public.p1;\n", &[1]) };
    let toc = toc(vec![entry(1, "TABLE", "p", "DROP TABLE public.p;\n", &[]), child]);
    let whole = closure_of_tables(&toc, &patterns(&["p"]));
    assert_eq!((labels(&whole.entries), whole.loose.len()), (vec!["TABLE p".to_owned(), "TABLE p1".to_owned()], 0));
    let alone = closure_of_tables(&toc, &patterns(&["p1"]));
    assert_eq!(
        (labels(&alone.entries), labels(&alone.needs)),
        (vec!["TABLE p1".to_owned()], vec!["TABLE p".to_owned()])
    );
    assert!(matches!(alone.loose.as_slice(), [LoosePartition { attach: None, .. }]), "{:?}", alone.loose);
}

#[test]
fn membership_in_publications_and_views_stay_away() {
    for toc in shops() {
        let all = closure_of_tables(&toc, &patterns(&["*"]));
        let strange =
            |entry: &&&Entry| entry.desc.to_lossy().contains("PUBLICATION") || entry.desc.to_lossy().contains("VIEW");
        assert_eq!(all.entries.iter().find(strange), None);
        assert_eq!(all.cut, []);
        assert_eq!(tables(&toc).len(), 5);
        assert_eq!(extensions(&toc).len(), 0);
    }
}

#[test]
fn statistics_of_a_table_and_of_its_indexes_come_with_it() {
    let bytes = include_bytes!("../../../testdata/archive/item-18-inserts-pipe.custom");
    let (toc, _) = TocDecoder::new(ArchiveFormat::Custom).push(bytes).expect("valid").expect("complete");
    let labels = labels(&closure_of_tables(&toc, &patterns(&["item"])).entries);
    let statistics: Vec<&String> = labels.iter().filter(|label| label.starts_with("STATISTICS")).collect();
    assert_eq!(statistics, ["STATISTICS DATA item", "STATISTICS DATA item_pkey"]);
}

#[test]
fn tables_with_data_have_their_definition() {
    for toc in shops() {
        for table in tables(&toc) {
            let definition = table.definition.expect("there");
            assert_eq!((definition.object_oid, &definition.tag), (table.data.object_oid, &table.name.name));
        }
    }
}

#[test]
fn a_list_has_a_line_per_entry_in_the_order_of_the_archive() {
    let [_, _, toc] = shops();
    let list = list_file(closure_of_tables(&toc, &patterns(&["\"odd; Type: TABLE\nname\""])).entries);
    let expected = "223; 1259 16468 TABLE public odd; Type: TABLE name postgres\n\
                    3415; 0 16468 TABLE DATA public odd; Type: TABLE name postgres\n";
    assert_eq!(list, expected);
}

fn entry(dump_id: i32, desc: &str, tag: &str, drop: &str, dependencies: &[i32]) -> Entry {
    Entry {
        dump_id,
        has_dumper: false,
        catalog_oid: 0,
        object_oid: 0,
        tag: tag.into(),
        desc: desc.into(),
        section: Section::PreData,
        definition: None,
        drop: Some(drop.into()),
        copy: None,
        namespace: Some("public".into()),
        tablespace: None,
        access_method: None,
        relkind: 0,
        owner: None,
        with_oids: false,
        dependencies: dependencies.to_vec(),
        place: Place::None,
    }
}

fn toc(entries: Vec<Entry>) -> Toc {
    let [_, _, toc] = shops();
    Toc { entries, ..toc }
}

#[test]
fn what_names_several_tables_belongs_to_the_one_its_drop_names() {
    let toc = toc(vec![
        entry(1, "TABLE", "a", "DROP TABLE public.a;\n", &[]),
        entry(2, "TABLE", "ab", "DROP TABLE public.ab;\n", &[]),
        entry(3, "RULE", "log", "DROP RULE log ON public.ab;\n", &[1, 2]),
        entry(4, "POLICY", "a p", "", &[2, 1]),
        entry(5, "TRIGGER", "x", "", &[1, 2]),
        entry(6, "COMMENT", "RULE log", "", &[3]),
        entry(7, "TABLE", "a b", "DROP TABLE public.\"a b\";\n", &[]),
        entry(8, "TRIGGER", "a b c", "DROP TRIGGER c ON public.\"a b\";\n", &[1, 7]),
    ]);
    let of = |name: &str| {
        closure_of_tables(&toc, &patterns(&[name])).entries.iter().map(|entry| entry.dump_id).collect::<Vec<_>>()
    };
    assert_eq!((of("a"), of("ab"), of("a b")), (vec![1, 4], vec![2, 3, 6], vec![7, 8]));
}

#[test]
fn a_foreign_key_to_a_table_that_is_not_in_the_archive_is_cut() {
    let with = |references: &str| {
        let text =
            format!("ALTER TABLE ONLY public.a\n    ADD CONSTRAINT f FOREIGN KEY (x) REFERENCES {references}(id);\n");
        let key = entry(2, "FK CONSTRAINT", "a f", "ALTER TABLE ONLY public.a DROP CONSTRAINT f;\n", &[1]);
        let key = Entry { definition: Some(text.as_str().into()), ..key };
        toc(vec![entry(1, "TABLE", "a", "DROP TABLE public.a;\n", &[]), key])
    };
    assert_eq!(closure_of_tables(&with("public.a"), &patterns(&["a"])).cut.len(), 0);
    assert_eq!(closure_of_tables(&with("a"), &patterns(&["a"])).cut.len(), 0);
    assert_eq!(closure_of_tables(&with("public.ab"), &patterns(&["a"])).cut.len(), 1);
}

#[test]
fn needs_are_followed_through() {
    let toc = toc(vec![
        entry(1, "EXTENSION", "citext", "", &[]),
        entry(2, "DOMAIN", "mail", "", &[1]),
        entry(3, "TABLE", "t", "DROP TABLE public.t;\n", &[2, 4, 5]),
        entry(4, "SCHEMA", "public", "", &[]),
        entry(5, "SCHEMA", "app", "", &[]),
    ]);
    let selection = closure_of_tables(&toc, &patterns(&["t"]));
    assert_eq!(labels(&selection.needs), ["DOMAIN mail", "EXTENSION citext", "SCHEMA app"]);
    assert_eq!(labels(&extensions(&toc)), ["EXTENSION citext"]);
}
