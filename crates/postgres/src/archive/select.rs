//! Which entries of a table of contents bring a table back, with all that belongs to it.
//!
//! `pg_restore --table` restores the definition and the rows, and forgets indexes, constraints, triggers, defaults, sequences, privileges and
//! comments. So the entries are chosen here and given to `pg_restore --use-list`.
//!
//! What an entry belongs to is not written down; the dependencies say what it needs, which is more. A trigger depends on its
//! table and on its function, a rule on its table and on those it writes into. The statement that drops an entry names the table that
//! it belongs to, and decides where dependencies leave a choice.

use super::Text;
use super::plain::TableName;
use super::toc::{Entry, Toc};
use crate::pattern::Pattern;
use std::collections::{HashMap, HashSet};

/// Entries that belong to one table.
const OWNED: [&[u8]; 12] = [
    b"TABLE DATA",
    b"DEFAULT",
    b"SEQUENCE",
    b"INDEX",
    b"CONSTRAINT",
    b"CHECK CONSTRAINT",
    b"FK CONSTRAINT",
    b"TRIGGER",
    b"RULE",
    b"POLICY",
    b"ROW SECURITY",
    b"STATISTICS",
];
/// Entries that go with those that they name: needed if all of these are there.
const ATTACHED: [&[u8]; 8] = [
    b"COMMENT",
    b"ACL",
    b"SECURITY LABEL",
    b"SEQUENCE OWNED BY",
    b"SEQUENCE SET",
    b"STATISTICS DATA",
    b"TABLE ATTACH",
    b"INDEX ATTACH",
];

impl Pattern {
    /// Exactly the relation that an entry is of.
    #[must_use]
    pub fn of_entry(entry: &Entry) -> Self {
        Self::exactly(schema(entry), entry.tag.as_bytes())
    }

    fn takes(&self, entry: &Entry) -> bool {
        self.matches(schema(entry), entry.tag.as_bytes())
    }
}

fn schema(entry: &Entry) -> &[u8] {
    entry.namespace.as_ref().map_or(&[], Text::as_bytes)
}

/// What brings the chosen tables back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection<'a> {
    /// What to restore, in the order of the table of contents.
    pub entries: Vec<&'a Entry>,
    /// Foreign keys of chosen tables that lead to tables which are not chosen, and so cannot be restored.
    pub cut: Vec<CutForeignKey<'a>>,
    /// What the entries depend on, directly or not, and what is not among them: types, functions, extensions, schemas. It must exist
    /// where they are restored, or be restored as well.
    pub needs: Vec<&'a Entry>,
    /// Patterns that no table matches.
    pub unmatched: Vec<Pattern>,
}

/// A foreign key that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutForeignKey<'a> {
    /// Its entry; `tag` has its name, behind the table's.
    pub entry: &'a Entry,
    /// The statement that would add it.
    pub statement: String,
}

/// A table whose rows are in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableWithData<'a> {
    /// Its name.
    pub name: TableName,
    /// Its rows.
    pub data: &'a Entry,
    /// Its definition, if that is in the archive (not with `--data-only`).
    pub definition: Option<&'a Entry>,
}

/// All tables with data, in the order of the table of contents.
#[must_use]
pub fn tables(toc: &Toc) -> Vec<TableWithData<'_>> {
    let index = Index::new(toc);
    let table =
        |data| TableWithData { name: name(data), data, definition: index.owner(data).filter(|it| is_table(it)) };
    toc.entries.iter().filter(|entry| entry.is_table_data()).map(table).collect()
}

fn name(entry: &Entry) -> TableName {
    TableName { namespace: entry.namespace.clone(), name: entry.tag.clone() }
}

/// All extensions. Their own objects are not in the archive.
#[must_use]
pub fn extensions(toc: &Toc) -> Vec<&Entry> {
    toc.entries.iter().filter(|entry| entry.desc == "EXTENSION").collect()
}

/// Chooses the tables that match any of the patterns, the partitions of those that have any, and all that belongs to them.
#[must_use]
pub fn closure_of_tables<'a>(toc: &'a Toc, patterns: &[Pattern]) -> Selection<'a> {
    let index = Index::new(toc);
    let mut selected = HashSet::new();
    let mut unmatched = patterns.to_vec();
    for table in toc.entries.iter().filter(|entry| is_table(entry)) {
        if patterns.iter().any(|pattern| pattern.takes(table)) {
            unmatched.retain(|pattern| !pattern.takes(table));
            selected.insert(table.dump_id);
        }
    }
    index.add_partitions(&mut selected);
    let tables = selected.clone();
    let mut cut = Vec::new();
    for entry in toc.entries.iter().filter(|entry| OWNED.contains(&entry.desc.as_bytes())) {
        match index.owner(entry).filter(|owner| tables.contains(&owner.dump_id)) {
            None => {}
            Some(owner) if entry.desc == "FK CONSTRAINT" && !index.leads_into(entry, owner, &tables) => {
                let statement = entry.definition.as_ref().map(Text::to_lossy).unwrap_or_default();
                cut.push(CutForeignKey { entry, statement });
            }
            Some(_) => drop(selected.insert(entry.dump_id)),
        }
    }
    index.add_attached(&mut selected);
    let entries = toc.entries.iter().filter(|entry| selected.contains(&entry.dump_id)).collect();
    let needs = index.needs(&selected);
    Selection { entries, cut, needs, unmatched }
}

/// The list that `pg_restore --use-list` takes: what is not in it is not restored, and its order is that of the restore.
#[must_use]
pub fn list_file<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> String {
    entries.into_iter().map(list_line).collect()
}

/// A line as `PrintTOCSummary` writes it; `SortTocFromFile` reads the number and nothing else (`pg_backup_archiver.c`).
fn list_line(entry: &Entry) -> String {
    let text = |text: &Option<Text>, none: &str| match text {
        Some(text) if !text.0.is_empty() => sanitized(text),
        _ => none.to_owned(),
    };
    let (namespace, owner) = (text(&entry.namespace, "-"), text(&entry.owner, ""));
    let Entry { dump_id, catalog_oid, object_oid, desc, tag, .. } = entry;
    format!("{dump_id}; {catalog_oid} {object_oid} {desc} {namespace} {} {owner}\n", sanitized(tag))
}

/// A name with a line break would make a line of its own (`sanitize_line` in `dumputils.c`).
fn sanitized(text: &Text) -> String {
    text.to_lossy().replace(['\n', '\r'], " ")
}

fn is_table(entry: &Entry) -> bool {
    entry.desc == "TABLE" || entry.desc == "FOREIGN TABLE"
}

fn is_relation(entry: &Entry) -> bool {
    is_table(entry) || entry.desc == "VIEW" || entry.desc == "MATERIALIZED VIEW"
}

/// The table as SQL names it, as its drop says it: `DROP TABLE public.customer;`.
fn qualified(table: &Entry) -> Option<&[u8]> {
    let drop = table.drop.as_ref()?.0.trim_ascii().strip_suffix(b";")?;
    let kinds: [&[u8]; 4] = [b"DROP TABLE ", b"DROP FOREIGN TABLE ", b"DROP VIEW ", b"DROP MATERIALIZED VIEW "];
    kinds.into_iter().find_map(|kind| drop.strip_prefix(kind))
}

/// Whether a statement names something: as a whole word.
fn names(statement: Option<&Text>, before: &[u8], name: &[u8]) -> bool {
    let Some(statement) = statement else { return false };
    let wanted = [before, name].concat();
    let ends = |at: usize| matches!(statement.0.get(at + wanted.len()), None | Some(b' ' | b';' | b'\n' | b'('));
    memchr::memmem::find_iter(&statement.0, &wanted).any(ends)
}

struct Index<'a> {
    toc: &'a Toc,
    by_id: HashMap<i32, &'a Entry>,
}

impl<'a> Index<'a> {
    fn new(toc: &'a Toc) -> Self {
        Self { toc, by_id: toc.entries.iter().map(|entry| (entry.dump_id, entry)).collect() }
    }

    /// What an entry depends on, as far as it is in the archive; each once.
    fn dependencies(&self, entry: &Entry) -> Vec<&'a Entry> {
        let mut found: Vec<&'a Entry> = Vec::new();
        for dependency in entry.dependencies.iter().filter_map(|dump_id| self.by_id.get(dump_id)) {
            if !found.iter().any(|known| known.dump_id == dependency.dump_id) {
                found.push(dependency);
            }
        }
        found
    }

    /// The table or view that an entry belongs to.
    fn owner(&self, entry: &Entry) -> Option<&'a Entry> {
        let mut relations = self.dependencies(entry);
        relations.retain(|relation| is_relation(relation));
        if let [only] = relations.as_slice() {
            return Some(only);
        }
        let dropped =
            |relation: &&&Entry| qualified(relation).is_some_and(|name| names(entry.drop.as_ref(), b" ", name));
        let tagged = |relation: &&&Entry| {
            let rest = entry.tag.0.strip_prefix(relation.tag.as_bytes());
            relation.namespace == entry.namespace && rest.is_some_and(|rest| rest.starts_with(b" "))
        };
        relations.iter().find(dropped).or_else(|| relations.iter().find(tagged)).copied()
    }

    /// Whether a foreign key of `owner` leads to one of `tables`.
    fn leads_into(&self, entry: &Entry, owner: &Entry, tables: &HashSet<i32>) -> bool {
        let mut others = self.dependencies(entry);
        others.retain(|other| is_table(other) && other.dump_id != owner.dump_id);
        if !others.is_empty() {
            return others.iter().all(|other| tables.contains(&other.dump_id));
        }
        // To itself, or to a table that is not in the archive at all: then the dependency is not there either.
        let named = |name: &[u8]| names(entry.definition.as_ref(), b" REFERENCES ", name);
        qualified(owner).is_some_and(named) || named(&owner.tag.0)
    }

    /// Partitions of what is selected, and theirs.
    fn add_partitions(&self, selected: &mut HashSet<i32>) {
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        for (child, parent) in self.partitions() {
            children.entry(parent).or_default().push(child);
        }
        let mut todo: Vec<i32> = selected.iter().copied().collect();
        while let Some(parent) = todo.pop() {
            let found = children.get(&parent).into_iter().flatten();
            todo.extend(found.filter(|child| selected.insert(**child)));
        }
    }

    /// Each partition with its parent: attached by an entry, or made as a partition (`pg_dump` 10 and 11).
    fn partitions(&self) -> Vec<(i32, i32)> {
        let mut pairs = Vec::new();
        for entry in &self.toc.entries {
            let mut tables = self.dependencies(entry);
            tables.retain(|table| is_table(table));
            if entry.desc == "TABLE ATTACH"
                && let [child, parent] = tables.as_slice()
            {
                pairs.push((child.dump_id, parent.dump_id));
            } else if is_table(entry) {
                let of = |parent: &&&Entry| {
                    qualified(parent).is_some_and(|name| names(entry.definition.as_ref(), b" PARTITION OF ", name))
                };
                pairs.extend(tables.iter().filter(of).map(|parent| (entry.dump_id, parent.dump_id)));
            }
        }
        pairs
    }

    /// What names only selected entries, again and again: privileges of a column depend on those of the table.
    fn add_attached(&self, selected: &mut HashSet<i32>) {
        let attached = |entry: &&Entry| ATTACHED.contains(&entry.desc.as_bytes());
        let mut rest: Vec<&Entry> = self.toc.entries.iter().filter(attached).collect();
        loop {
            let before = rest.len();
            rest.retain(|entry| {
                let named = self.dependencies(entry);
                let goes = !named.is_empty() && named.iter().all(|named| selected.contains(&named.dump_id));
                if goes {
                    selected.insert(entry.dump_id);
                }
                !goes
            });
            if rest.len() == before {
                return;
            }
        }
    }

    /// What the selection depends on and does not hold. A partition does not need the table that it is attached to.
    fn needs(&self, selected: &HashSet<i32>) -> Vec<&'a Entry> {
        let partitions: HashSet<(i32, i32)> = self.partitions().into_iter().collect();
        let attached = |entry: &Entry, parent: i32| {
            partitions.contains(&(entry.dump_id, parent)) && !names(entry.definition.as_ref(), b" PARTITION ", b"OF")
        };
        let mut needed = HashSet::new();
        let mut todo: Vec<&Entry> = selected.iter().filter_map(|dump_id| self.by_id.get(dump_id).copied()).collect();
        while let Some(entry) = todo.pop() {
            for dependency in self.dependencies(entry) {
                let known = selected.contains(&dependency.dump_id) || attached(entry, dependency.dump_id);
                // Indexes of a parent that is not there: the partition's own are made without.
                let parts = dependency.desc == "INDEX" || dependency.desc == "CONSTRAINT";
                // The schema that every new database has; up to 14 it has an entry that does nothing.
                let everywhere = dependency.desc == "SCHEMA" && dependency.tag == "public";
                if !known && !parts && !everywhere && needed.insert(dependency.dump_id) {
                    todo.push(dependency);
                }
            }
        }
        self.toc.entries.iter().filter(|entry| needed.contains(&entry.dump_id)).collect()
    }
}

#[cfg(test)]
mod tests;
