//! Schemas, relations, and what belongs to one relation.

pub(super) const SCHEMAS: &str = "
SELECT format('%I', nspname), NULL, NULL, NULL, property, value
FROM space CROSS JOIN LATERAL (VALUES ('exists', 'exists'), ('owner', nspowner::regrole::text)) p(property, value)";

pub(super) const RELATIONS: &str = "
SELECT name, NULL, host_schema, host_name, property, value
FROM rel LEFT JOIN pg_am am ON am.oid = relam LEFT JOIN pg_class toast ON toast.oid = rel.reltoastrelid
CROSS JOIN LATERAL (VALUES
  ('kind', CASE rel.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
    WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' ELSE 'sequence' END),
  ('owner', rel.relowner::regrole::text),
  ('persistence', CASE rel.relpersistence WHEN 'p' THEN 'permanent' ELSE 'unlogged' END),
  ('partition key', CASE WHEN rel.relkind = 'p' THEN pg_get_partkeydef(rel.oid) END),
  ('partition bound', pg_get_expr(rel.relpartbound, rel.oid)),
  ('inherits', (SELECT string_agg(format('%I.%I', n.nspname, c.relname), ', ' ORDER BY i.inhseqno)
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE i.inhrelid = rel.oid)),
  ('of type', nullif(rel.reloftype, 0)::regtype::text),
  ('options', (SELECT string_agg(o, ', ' ORDER BY o) FROM unnest(rel.reloptions) o)),
  ('TOAST options', (SELECT string_agg(o, ', ' ORDER BY o) FROM unnest(toast.reloptions) o)),
  ('access method', am.amname::text),
  ('replica identity', CASE rel.relreplident WHEN 'd' THEN 'default' WHEN 'n' THEN 'nothing' WHEN 'f' THEN 'full'
    ELSE 'index' END),
  ('row security', CASE WHEN rel.relrowsecurity THEN 'enabled' ELSE 'disabled' END),
  ('row security of the owner', CASE WHEN rel.relforcerowsecurity THEN 'forced' ELSE 'not forced' END),
  ('populated', CASE WHEN rel.relispopulated THEN 'yes' ELSE 'no' END)
) p(property, value)";

pub(super) const COLUMNS: &str = "
SELECT format('%s.%I', name, attname), 'relation:' || name, host_schema, host_name, property, value
FROM rel JOIN pg_attribute a ON attrelid = rel.oid AND attnum > 0 AND NOT attisdropped
JOIN pg_type t ON t.oid = atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = attrelid AND d.adnum = attnum
CROSS JOIN LATERAL (VALUES
  ('type', format_type(atttypid, atttypmod)),
  ('collation', CASE WHEN attcollation <> typcollation THEN attcollation::regcollation::text END),
  ('not null', CASE WHEN attnotnull THEN 'yes' ELSE 'no' END),
  ('default', CASE WHEN attgenerated = '' THEN pg_get_expr(adbin, adrelid) END),
  ('identity', CASE attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' END),
  ('generated', CASE attgenerated WHEN 's' THEN 'stored ' WHEN 'v' THEN 'virtual ' END || pg_get_expr(adbin, adrelid)),
  ('storage', CASE WHEN relkind IN ('r', 'p', 'm', 'f') THEN CASE attstorage WHEN 'p' THEN 'plain'
    WHEN 'e' THEN 'external' WHEN 'm' THEN 'main' ELSE 'extended' END END),
  ('compression', nullif(to_jsonb(a) ->> 'attcompression', '')),
  -- The default was -1 up to 16.
  ('statistics target', nullif(attstattarget, -1)::text),
  ('options', (SELECT string_agg(o, ', ' ORDER BY o) FROM unnest(attoptions) o)),
  ('foreign options', (SELECT string_agg(o, ', ' ORDER BY o) FROM unnest(attfdwoptions) o))
) p(property, value)
WHERE relkind <> 'S'";

/// Objects with a name since 18; on older servers there is nothing to say of them but that they are there.
pub(super) const NOT_NULLS: &str = "
SELECT format('%s.%I', name, attname), 'relation:' || name, host_schema, host_name, 'not null constraint',
  concat_ws(' ', quote_ident(conname), CASE WHEN NOT convalidated THEN 'NOT VALID' END, CASE WHEN connoinherit THEN 'NO INHERIT' END)
FROM rel JOIN pg_constraint c ON conrelid = rel.oid AND contype = 'n'
JOIN pg_attribute ON attrelid = rel.oid AND attnum = conkey[1]";

pub(super) const COLUMN_ORDER: &str = "
SELECT name, 'relation:' || name, host_schema, host_name, 'columns', json_agg(attname ORDER BY attnum)::text
FROM rel JOIN pg_attribute ON attrelid = rel.oid AND attnum > 0 AND NOT attisdropped
WHERE relkind <> 'S' GROUP BY 1, 2, 3, 4";

pub(super) const CONSTRAINTS: &str = "
SELECT (pg_identify_object('pg_constraint'::regclass, c.oid, 0)).identity, 'relation:' || name,
  host_schema, host_name, property, value
FROM rel JOIN pg_constraint c ON conrelid = rel.oid AND contype NOT IN ('n', 't')
CROSS JOIN LATERAL (VALUES
  ('definition', pg_get_constraintdef(c.oid)),
  ('validated', CASE WHEN convalidated THEN 'yes' ELSE 'no' END)
) p(property, value)";

pub(super) const INDEXES: &str = "
SELECT format('%I.%I', n.nspname, ic.relname), 'relation:' || name, host_schema, host_name, property, value
FROM rel JOIN pg_index i ON indrelid = rel.oid
JOIN pg_class ic ON ic.oid = indexrelid JOIN pg_namespace n ON n.oid = ic.relnamespace
CROSS JOIN LATERAL (VALUES
  ('definition', pg_get_indexdef(indexrelid)),
  ('valid', CASE WHEN indisvalid AND indisready THEN 'yes' ELSE 'no' END),
  ('clustered', CASE WHEN indisclustered THEN 'yes' ELSE 'no' END),
  ('replica identity', CASE WHEN indisreplident THEN 'yes' ELSE 'no' END),
  ('partition of', (SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = indexrelid)),
  ('statistics targets', (SELECT string_agg(attnum || ': ' || attstattarget, ', ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = indexrelid AND attstattarget >= 0))
) p(property, value)";

pub(super) const STATISTICS: &str = "
SELECT format('%I.%I', n.nspname, stxname), 'relation:' || name, host_schema, host_name, property, value
FROM rel JOIN pg_statistic_ext s ON stxrelid = rel.oid JOIN pg_namespace n ON n.oid = stxnamespace
CROSS JOIN LATERAL (VALUES
  ('definition', pg_get_statisticsobjdef(s.oid)),
  ('target', nullif(stxstattarget, -1)::text),
  ('owner', stxowner::regrole::text)
) p(property, value)";

pub(super) const SEQUENCES: &str = "
SELECT name, 'relation:' || name, host_schema, host_name, property, value
FROM rel JOIN pg_sequence s ON seqrelid = rel.oid
CROSS JOIN LATERAL (VALUES
  ('type', format_type(seqtypid, NULL)),
  ('start', seqstart::text),
  ('increment', seqincrement::text),
  ('minimum', seqmin::text),
  ('maximum', seqmax::text),
  ('cache', seqcache::text),
  ('cycles', CASE WHEN seqcycle THEN 'yes' ELSE 'no' END),
  ('owned by', (SELECT (pg_identify_object(refclassid, refobjid, refobjsubid)).identity FROM pg_depend
    WHERE classid = 'pg_class'::regclass AND objid = rel.oid AND refclassid = 'pg_class'::regclass
      AND deptype IN ('a', 'i') LIMIT 1))
) p(property, value)";

pub(super) const VIEWS: &str = "
SELECT name, 'relation:' || name, host_schema, host_name, 'query', pg_get_viewdef(oid)
FROM rel WHERE relkind IN ('v', 'm')";

/// Clones of a partitioned table's triggers are by themselves only enabled or not; up to 14 they counted as internal.
pub(super) const TRIGGERS: &str = "
SELECT (pg_identify_object('pg_trigger'::regclass, t.oid, 0)).identity, 'relation:' || name,
  host_schema, host_name, property, value
FROM rel JOIN pg_trigger t ON tgrelid = rel.oid AND NOT tgisinternal AND tgparentid = 0
CROSS JOIN LATERAL (VALUES
  ('definition', pg_get_triggerdef(t.oid)),
  ('enabled', CASE tgenabled WHEN 'O' THEN 'yes' WHEN 'D' THEN 'no' WHEN 'A' THEN 'always' ELSE 'on replicas' END)
) p(property, value)";

pub(super) const TRIGGER_CLONES: &str = "
SELECT (pg_identify_object('pg_trigger'::regclass, t.oid, 0)).identity, 'relation:' || name, host_schema, host_name,
  'enabled', CASE tgenabled WHEN 'O' THEN 'yes' WHEN 'D' THEN 'no' WHEN 'A' THEN 'always' ELSE 'on replicas' END
FROM rel JOIN pg_trigger t ON tgrelid = rel.oid AND NOT tgisinternal AND tgparentid <> 0";

pub(super) const RULES: &str = "
SELECT (pg_identify_object('pg_rewrite'::regclass, r.oid, 0)).identity, 'relation:' || name,
  host_schema, host_name, property, value
FROM rel JOIN pg_rewrite r ON ev_class = rel.oid AND rulename <> '_RETURN'
CROSS JOIN LATERAL (VALUES
  ('definition', pg_get_ruledef(r.oid)),
  ('enabled', CASE ev_enabled WHEN 'O' THEN 'yes' WHEN 'D' THEN 'no' WHEN 'A' THEN 'always' ELSE 'on replicas' END)
) p(property, value)";

pub(super) const POLICIES: &str = "
SELECT (pg_identify_object('pg_policy'::regclass, o.oid, 0)).identity, 'relation:' || name,
  host_schema, host_name, property, value
FROM rel JOIN pg_policy o ON polrelid = rel.oid
CROSS JOIN LATERAL (VALUES
  ('command', polcmd::text),
  ('permissive', CASE WHEN polpermissive THEN 'yes' ELSE 'no' END),
  ('roles', (SELECT string_agg(CASE role WHEN 0 THEN 'PUBLIC' ELSE role::regrole::text END, ', ' ORDER BY
    CASE role WHEN 0 THEN '' ELSE role::regrole::text END) FROM unnest(polroles) role)),
  ('using', pg_get_expr(polqual, polrelid)),
  ('with check', pg_get_expr(polwithcheck, polrelid))
) p(property, value)";
