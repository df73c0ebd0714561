//! The catalogs, read as facts: one query for each kind of object.
//!
//! Every query gives six columns: the object's identity; the object without which its absence is no news, as `kind:identity`;
//! schema and name of the relation by which patterns choose it (for an owned sequence, the table's); a property; its value.
//!
//! The property `hidden` is none: its value says why an object cannot be compared.
//!
//! What belongs to an extension is left out: the extension and its version stand for it. So is what `initdb` made, apart
//! from the schema `public`. Columns of catalogs that only newer majors have are asked for through `to_jsonb`, so that one
//! query serves all. Not-null constraints, which are objects since 18, are compared as properties of the column.

mod access;
mod others;
mod relations;
mod types;

use asof_postgres::version::Major;

use super::Class;

/// A query for facts.
#[derive(Clone, Copy)]
pub(super) struct Query {
    pub(super) class: Class,
    /// The oldest major that has all it names. It is asked where both sides are at least that.
    pub(super) since: Major,
    pub(super) sql: &'static str,
}

const fn query(class: Class, sql: &'static str) -> Query {
    Query { class, since: Major::V13, sql }
}

const fn since(since: Major, class: Class, sql: &'static str) -> Query {
    Query { class, since, sql }
}

/// What every query may build on: members of extensions, the schemas that count, and the relations in them.
pub(super) const PRELUDE: &str = "\
WITH member AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
space AS (
  SELECT oid, nspname, nspowner, nspacl FROM pg_namespace
  WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND nspname !~ '^pg_(temp|toast_temp)_'
),
rel AS (
  SELECT c.*, format('%I.%I', n.nspname, c.relname) AS name,
    coalesce(owner.nspname, n.nspname) AS host_schema, coalesce(owner.relname, c.relname) AS host_name
  FROM pg_class c JOIN space n ON n.oid = c.relnamespace
  LEFT JOIN LATERAL (
    SELECT tn.nspname, t.relname
    FROM pg_depend d JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace tn ON tn.oid = t.relnamespace
    WHERE c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
      AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    LIMIT 1
  ) owner ON true
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
    AND ('pg_class'::regclass, c.oid) NOT IN (SELECT classid, objid FROM member)
)
";

/// The description of a database.
pub(super) const QUERIES: &[Query] = &[
    query(Class::Database, others::DATABASE),
    query(Class::Setting, others::SETTINGS),
    query(Class::Extension, others::EXTENSIONS),
    query(Class::Schema, relations::SCHEMAS),
    query(Class::Relation, relations::RELATIONS),
    query(Class::Column, relations::COLUMNS),
    since(Major::V18, Class::Column, relations::NOT_NULLS),
    query(Class::ColumnOrder, relations::COLUMN_ORDER),
    query(Class::Constraint, relations::CONSTRAINTS),
    query(Class::Index, relations::INDEXES),
    query(Class::Statistics, relations::STATISTICS),
    query(Class::Sequence, relations::SEQUENCES),
    query(Class::Definition, relations::VIEWS),
    query(Class::Trigger, relations::TRIGGERS),
    since(Major::V15, Class::Trigger, relations::TRIGGER_CLONES),
    query(Class::Rule, relations::RULES),
    query(Class::Policy, relations::POLICIES),
    query(Class::Relation, others::FOREIGN_TABLES),
    query(Class::Type, types::TYPES),
    query(Class::Type, types::BASE_TYPES),
    query(Class::Constraint, types::DOMAIN_CONSTRAINTS),
    query(Class::Collation, types::COLLATIONS),
    query(Class::Conversion, types::CONVERSIONS),
    query(Class::Routine, types::ROUTINES),
    query(Class::Routine, types::AGGREGATES),
    since(Major::V14, Class::Definition, types::SQL_BODIES),
    query(Class::Operator, types::OPERATORS),
    query(Class::OperatorFamily, types::OPERATOR_FAMILIES),
    query(Class::OperatorClass, types::OPERATOR_CLASSES),
    query(Class::AccessMethod, types::ACCESS_METHODS),
    query(Class::Cast, types::CASTS),
    query(Class::Transform, types::TRANSFORMS),
    query(Class::Language, types::LANGUAGES),
    query(Class::TextSearch, others::TEXT_SEARCH),
    query(Class::EventTrigger, others::EVENT_TRIGGERS),
    query(Class::Publication, others::PUBLICATIONS),
    query(Class::Publication, others::PUBLICATION_TABLES),
    since(Major::V15, Class::Publication, others::PUBLICATION_FILTERS),
    since(Major::V15, Class::Publication, others::PUBLICATION_SCHEMAS),
    query(Class::Subscription, others::SUBSCRIPTIONS),
    since(Major::V14, Class::Subscription, others::SUBSCRIPTION_COMMITS),
    since(Major::V15, Class::Subscription, others::SUBSCRIPTION_PHASES),
    since(Major::V16, Class::Subscription, others::SUBSCRIPTION_ORIGINS),
    query(Class::ForeignDataWrapper, others::FOREIGN_DATA_WRAPPERS),
    query(Class::ForeignServer, others::FOREIGN_SERVERS),
    query(Class::UserMapping, others::USER_MAPPINGS),
    query(Class::Privilege, access::PRIVILEGES),
    query(Class::Privilege, access::SYSTEM_PRIVILEGES),
    query(Class::DefaultPrivilege, access::DEFAULT_PRIVILEGES),
    query(Class::Comment, access::COMMENTS),
    query(Class::SecurityLabel, access::SECURITY_LABELS),
];

/// What is asked besides only when owners are compared.
pub(super) const OWNERS: &[Query] = &[query(Class::LargeObject, access::LARGE_OBJECTS)];

/// What belongs to the whole server.
pub(super) const ROLES: &[Query] = &[
    query(Class::Role, access::ROLES),
    query(Class::Role, access::MEMBERSHIPS),
    since(Major::V16, Class::Role, access::MEMBERSHIP_OPTIONS),
    since(Major::V15, Class::Privilege, access::PARAMETER_PRIVILEGES),
    query(Class::Role, access::ROLE_COMMENTS),
    query(Class::Setting, access::ROLE_SETTINGS),
];
