//! Which entries of a table of contents bring a table back, with all that belongs to it.
//!
//! `pg_restore --table` restores the definition and the rows, and forgets indexes, constraints, triggers, defaults, sequences, privileges and
//! comments. So the entries are chosen here and given to `pg_restore --use-list`.
//!
//! What an entry belongs to is not written down; the dependencies say what it needs, which is more. A trigger depends on its
//! table and on its function, a rule on its table and on those it writes into. The statement that drops an entry names the table that
//! it belongs to, and decides where dependencies leave a choice.

use super::Text;
use super::plain::{TableName, qualified_name};
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
const ATTACHED: [&[u8]; 7] =
    [b"COMMENT", b"ACL", b"SECURITY LABEL", b"SEQUENCE OWNED BY", b"SEQUENCE SET", b"STATISTICS DATA", b"TABLE ATTACH"];

impl Pattern {
    /// Exactly the relation that an entry is of.
    #[must_use]
    pub fn of_entry(entry: &Entry) -> Self {
        Self::exactly(entry.schema(), entry.tag.as_bytes())
    }

    /// Whether the relation that an entry is of is meant.
    #[must_use]
    pub fn takes(&self, entry: &Entry) -> bool {
        self.matches(entry.schema(), entry.tag.as_bytes())
    }
}

/// What brings the chosen tables back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection<'a> {
    /// What to restore, in the order of the table of contents.
    pub entries: Vec<&'a Entry>,
    /// Foreign keys of chosen tables that lead to tables which are not chosen, and so cannot be restored.
    pub cut: Vec<CutForeignKey<'a>>,
    /// Partitions of tables that are not chosen.
    pub loose: Vec<LoosePartition<'a>>,
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

/// A partition that comes without the table that it is a part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoosePartition<'a> {
    /// The partition.
    pub partition: &'a Entry,
    /// What it is a part of.
    pub parent: &'a Entry,
    /// The statement that would attach it; none if its definition does (`pg_dump` before 14), which then needs the parent.
    pub attach: Option<String>,
    /// Its indexes and keys that are parts of those of its parent: where its definition attaches it, the server makes them with it.
    /// None of one that has partitions itself.
    pub indexes: Vec<&'a Entry>,
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
    index.add_attached_indexes(&mut selected);
    let entries = toc.entries.iter().filter(|entry| selected.contains(&entry.dump_id)).collect();
    let (loose, needs) = (index.loose(&selected), index.needs(&selected));
    Selection { entries, cut, loose, needs, unmatched }
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

/// Whether the definition of a table makes it a partition of the one of this name.
fn makes_part_of(entry: &Entry, parent: &[u8]) -> bool {
    let definition = entry.definition.as_ref();
    let attaches = [b" ".as_slice(), parent, b" ATTACH"].concat();
    names(definition, b" PARTITION OF ", parent) || names(definition, &attaches, b" PARTITION")
}

/// A partition, and what it is a part of.
struct Part<'a> {
    child: &'a Entry,
    parent: &'a Entry,
    /// The entry that attaches it, if one does.
    attach: Option<&'a Entry>,
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
        for part in self.partitions() {
            children.entry(part.parent.dump_id).or_default().push(part.child.dump_id);
        }
        let mut todo: Vec<i32> = selected.iter().copied().collect();
        while let Some(parent) = todo.pop() {
            let found = children.get(&parent).into_iter().flatten();
            todo.extend(found.filter(|child| selected.insert(**child)));
        }
    }

    /// Each partition with its parent: attached by an entry (`pg_dump` since 14), by the end of its definition (12 and 13), or made
    /// as a partition (10 and 11); `dumpTableSchema` and `dumpTableAttach` in `pg_dump.c`.
    fn partitions(&self) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        for entry in &self.toc.entries {
            let mut tables = self.dependencies(entry);
            tables.retain(|table| is_table(table));
            if entry.desc == "TABLE ATTACH"
                && let [child, parent] = tables.as_slice()
            {
                parts.push(Part { child, parent, attach: Some(entry) });
            } else if is_table(entry) {
                let of = |parent: &&&Entry| qualified(parent).is_some_and(|name| makes_part_of(entry, name));
                let part = |parent: &&'a Entry| Part { child: entry, parent, attach: None };
                parts.extend(tables.iter().filter(of).map(part));
            }
        }
        parts
    }

    /// Selected partitions of parents that are not.
    fn loose(&self, selected: &HashSet<i32>) -> Vec<LoosePartition<'a>> {
        let alone =
            |part: &Part<'_>| selected.contains(&part.child.dump_id) && !selected.contains(&part.parent.dump_id);
        let found = self.partitions().into_iter().filter(alone);
        let loose = found.map(|Part { child, parent, attach }| {
            let attach = attach.map(|entry| entry.definition.as_ref().map(Text::to_lossy).unwrap_or_default());
            LoosePartition { partition: child, parent, attach, indexes: self.indexes_of_parent(child) }
        });
        loose.collect()
    }

    fn indexes_of_parent(&self, partition: &Entry) -> Vec<&'a Entry> {
        if self.partitions().iter().any(|part| part.parent.dump_id == partition.dump_id) {
            return Vec::new();
        }
        let attached = self.toc.entries.iter().filter(|entry| entry.desc == "INDEX ATTACH");
        let attached: HashSet<(&[u8], &[u8])> = attached.map(|entry| (entry.schema(), entry.tag.as_bytes())).collect();
        let of_partition = |entry: &&Entry| self.owner(entry).is_some_and(|it| it.dump_id == partition.dump_id);
        let is_part = |entry: &&Entry| self.index_name(entry).is_some_and(|name| attached.contains(&name));
        self.toc.entries.iter().filter(of_partition).filter(is_part).collect()
    }

    /// Schema and name of an index, or of the one that a constraint has.
    fn index_name(&self, entry: &'a Entry) -> Option<(&'a [u8], &'a [u8])> {
        let name = match entry.desc.as_bytes() {
            b"INDEX" => entry.tag.as_bytes(),
            // It is called by its table's name and its own.
            b"CONSTRAINT" => entry.tag.0.strip_prefix(self.owner(entry)?.tag.as_bytes())?.strip_prefix(b" ")?,
            _ => return None,
        };
        Some((entry.schema(), name))
    }

    /// Indexes that are parts of selected ones. Their dependencies are also those of the indexes, up to the root (`getDependencies` and
    /// `findDumpableDependencies` in `pg_dump.c`), so the statement counts: `ALTER INDEX parent ATTACH PARTITION child`.
    fn add_attached_indexes(&self, selected: &mut HashSet<i32>) {
        let there = self.toc.entries.iter().filter(|entry| selected.contains(&entry.dump_id));
        let there: HashSet<(&[u8], &[u8])> = there.filter_map(|entry| self.index_name(entry)).collect();
        let goes = |entry: &&Entry| {
            let parent = entry.definition.as_ref().and_then(|sql| qualified_name(sql.0.strip_prefix(b"ALTER INDEX ")?));
            parent.is_some_and(|(parent, _)| {
                let above = parent.namespace.as_ref().map_or(entry.schema(), Text::as_bytes);
                there.contains(&(above, parent.name.as_bytes()))
                    && there.contains(&(entry.schema(), entry.tag.as_bytes()))
            })
        };
        let attached = self.toc.entries.iter().filter(|entry| entry.desc == "INDEX ATTACH").filter(goes);
        selected.extend(attached.map(|entry| entry.dump_id));
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
        let attached = self.partitions().into_iter().filter(|part| part.attach.is_some());
        let attached: HashSet<(i32, i32)> = attached.map(|part| (part.child.dump_id, part.parent.dump_id)).collect();
        let mut needed = HashSet::new();
        let mut todo: Vec<&Entry> = selected.iter().filter_map(|dump_id| self.by_id.get(dump_id).copied()).collect();
        while let Some(entry) = todo.pop() {
            for dependency in self.dependencies(entry) {
                let known =
                    selected.contains(&dependency.dump_id) || attached.contains(&(entry.dump_id, dependency.dump_id));
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
