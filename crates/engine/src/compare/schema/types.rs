//! Types, routines, operators and what is made of them.

pub(super) const TYPES: &str = "
SELECT format_type(t.oid, NULL), NULL, NULL, NULL, property, value
FROM pg_type t JOIN space n ON n.oid = typnamespace LEFT JOIN pg_class c ON c.oid = typrelid
LEFT JOIN pg_range r ON rngtypid = t.oid LEFT JOIN pg_opclass oc ON oc.oid = rngsubopc
CROSS JOIN LATERAL (VALUES
  ('kind', CASE typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' WHEN 'c' THEN 'composite' WHEN 'r' THEN 'range'
    ELSE 'base' END),
  ('owner', typowner::regrole::text),
  ('labels', (SELECT json_agg(enumlabel ORDER BY enumsortorder)::text FROM pg_enum WHERE enumtypid = t.oid)),
  ('base type', CASE typtype WHEN 'd' THEN format_type(typbasetype, typtypmod) END),
  ('not null', CASE WHEN typtype = 'd' AND typnotnull THEN 'yes' END),
  ('default', CASE WHEN typtype IN ('d', 'b') THEN typdefault END),
  ('collation', CASE WHEN typtype = 'd' THEN nullif(typcollation, 0)::regcollation::text END),
  ('attributes', (SELECT json_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod),
      CASE WHEN attcollation <> at.typcollation THEN attcollation::regcollation::text END) ORDER BY attnum)::text
    FROM pg_attribute JOIN pg_type at ON at.oid = atttypid
    WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped)),
  ('subtype', format_type(rngsubtype, NULL)),
  ('subtype operator class', (pg_identify_object('pg_opclass'::regclass, oc.oid, 0)).identity),
  ('subtype collation', nullif(rngcollation, 0)::regcollation::text),
  ('subtype functions', nullif(concat_ws(' ', nullif(rngcanonical, 0)::regproc, nullif(rngsubdiff, 0)::regproc), ''))
) p(property, value)
WHERE typtype <> 'm' AND typisdefined AND (t.typrelid = 0 OR c.relkind = 'c')
  AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
  AND ('pg_type'::regclass, t.oid) NOT IN (SELECT classid, objid FROM member)
  AND ('pg_class'::regclass, t.typrelid) NOT IN (SELECT classid, objid FROM member)";

pub(super) const BASE_TYPES: &str = "
SELECT format_type(t.oid, NULL), NULL, NULL, NULL, property, value
FROM pg_type t JOIN space n ON n.oid = typnamespace
CROSS JOIN LATERAL (VALUES
  ('functions', concat_ws(' ', typinput, typoutput, typreceive, typsend, typmodin, typmodout, typanalyze)),
  ('storage', concat_ws(' ', typlen, typbyval, typalign, typstorage)),
  ('category', concat_ws(' ', typcategory, typispreferred, typdelim)),
  ('element', nullif(typelem, 0)::regtype::text)
) p(property, value)
WHERE typtype = 'b' AND typisdefined AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
  AND ('pg_type'::regclass, t.oid) NOT IN (SELECT classid, objid FROM member)";

pub(super) const DOMAIN_CONSTRAINTS: &str = "
SELECT (pg_identify_object('pg_constraint'::regclass, c.oid, 0)).identity, 'type:' || format_type(t.oid, NULL),
  NULL, NULL, property, value
FROM pg_constraint c JOIN pg_type t ON t.oid = contypid JOIN space n ON n.oid = typnamespace
CROSS JOIN LATERAL (VALUES
  ('definition', pg_get_constraintdef(c.oid)),
  ('validated', CASE WHEN convalidated THEN 'yes' ELSE 'no' END)
) p(property, value)
WHERE contype NOT IN ('n', 't') AND ('pg_type'::regclass, t.oid) NOT IN (SELECT classid, objid FROM member)";

pub(super) const COLLATIONS: &str = "
SELECT (pg_identify_object('pg_collation'::regclass, c.oid, 0)).identity, NULL, NULL, NULL, property, value
FROM pg_collation c JOIN space n ON n.oid = collnamespace CROSS JOIN LATERAL to_jsonb(c) j
CROSS JOIN LATERAL (VALUES
  ('provider', collprovider::text),
  ('deterministic', collisdeterministic::text),
  -- One column for all locales of a provider since 17, one for ICU's since 15, before it was the other two.
  ('locale', coalesce(j ->> 'colllocale', j ->> 'colliculocale', j ->> 'collcollate')),
  ('LC_CTYPE', CASE collprovider WHEN 'c' THEN j ->> 'collctype' END),
  ('rules', j ->> 'collicurules'),
  ('owner', collowner::regrole::text)
) p(property, value)
WHERE ('pg_collation'::regclass, c.oid) NOT IN (SELECT classid, objid FROM member)";

pub(super) const CONVERSIONS: &str = "
SELECT (pg_identify_object('pg_conversion'::regclass, c.oid, 0)).identity, NULL, NULL, NULL, property, value
FROM pg_conversion c JOIN space n ON n.oid = connamespace
CROSS JOIN LATERAL (VALUES
  ('encodings', pg_encoding_to_char(conforencoding) || ' to ' || pg_encoding_to_char(contoencoding)),
  ('function', conproc::text),
  ('default', condefault::text),
  ('owner', conowner::regrole::text)
) p(property, value)
WHERE ('pg_conversion'::regclass, c.oid) NOT IN (SELECT classid, objid FROM member)";

pub(super) const ROUTINES: &str = "
SELECT (pg_identify_object('pg_proc'::regclass, f.oid, 0)).identity, NULL, NULL, NULL, property, value
FROM pg_proc f JOIN space n ON n.oid = pronamespace JOIN pg_language l ON l.oid = prolang
CROSS JOIN LATERAL (VALUES
  ('kind', CASE prokind WHEN 'f' THEN 'function' WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'window' END),
  ('owner', proowner::regrole::text),
  ('arguments', pg_get_function_arguments(f.oid)),
  ('result', pg_get_function_result(f.oid)),
  ('language', lanname::text),
  ('source', prosrc),
  ('library', probin),
  ('volatility', CASE provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END),
  ('parallel', CASE proparallel WHEN 's' THEN 'safe' WHEN 'r' THEN 'restricted' ELSE 'unsafe' END),
  ('strict', proisstrict::text),
  ('leakproof', proleakproof::text),
  ('security definer', prosecdef::text),
  ('cost', procost::text),
  ('rows', prorows::text),
  ('support function', nullif(prosupport, 0)::regproc::text),
  ('settings', (SELECT string_agg(c, ', ' ORDER BY c) FROM unnest(proconfig) c)),
  ('transforms', (SELECT string_agg(format_type(t, NULL), ', ' ORDER BY i) FROM unnest(protrftypes) WITH ORDINALITY u(t, i)))
) p(property, value)
WHERE ('pg_proc'::regclass, f.oid) NOT IN (SELECT classid, objid FROM member)
  -- The constructors of a range type come and go with it; those of multiranges exist since 14.
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND deptype = 'i')";

pub(super) const AGGREGATES: &str = "
SELECT (pg_identify_object('pg_proc'::regclass, f.oid, 0)).identity, NULL, NULL, NULL, property, value
FROM pg_aggregate a JOIN pg_proc f ON f.oid = aggfnoid JOIN space n ON n.oid = pronamespace
CROSS JOIN LATERAL (VALUES
  ('aggregate kind', aggkind::text || aggnumdirectargs),
  ('aggregate functions', concat_ws(' ', aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn)),
  ('moving functions', concat_ws(' ', aggmtransfn, aggminvtransfn, aggmfinalfn)),
  ('state', concat_ws(' ', format_type(aggtranstype, NULL), aggtransspace, aggfinalextra, aggfinalmodify)),
  ('moving state', concat_ws(' ', format_type(nullif(aggmtranstype, 0), NULL), aggmtransspace, aggmfinalextra,
    aggmfinalmodify)),
  ('initial value', agginitval),
  ('initial moving value', aggminitval),
  ('sort operator', nullif(aggsortop, 0)::regoperator::text)
) p(property, value)
WHERE ('pg_proc'::regclass, f.oid) NOT IN (SELECT classid, objid FROM member)";

pub(super) const SQL_BODIES: &str = "
SELECT identity, 'routine:' || identity, NULL, NULL, 'body', pg_get_function_sqlbody(f.oid)
FROM pg_proc f JOIN space n ON n.oid = pronamespace
CROSS JOIN LATERAL pg_identify_object('pg_proc'::regclass, f.oid, 0)
WHERE prosqlbody IS NOT NULL AND ('pg_proc'::regclass, f.oid) NOT IN (SELECT classid, objid FROM member)";

pub(super) const OPERATORS: &str = "
SELECT (pg_identify_object('pg_operator'::regclass, o.oid, 0)).identity, NULL, NULL, NULL, property, value
FROM pg_operator o JOIN space n ON n.oid = oprnamespace
CROSS JOIN LATERAL (VALUES
  ('function', oprcode::text),
  ('result', format_type(oprresult, NULL)),
  ('commutator', nullif(oprcom, 0)::regoperator::text),
  ('negator', nullif(oprnegate, 0)::regoperator::text),
  ('estimators', concat_ws(' ', oprrest, oprjoin)),
  ('merges', oprcanmerge::text),
  ('hashes', oprcanhash::text),
  ('owner', oprowner::regrole::text)
) p(property, value)
WHERE ('pg_operator'::regclass, o.oid) NOT IN (SELECT classid, objid FROM member)";

pub(super) const OPERATOR_FAMILIES: &str = "
SELECT (pg_identify_object('pg_opfamily'::regclass, f.oid, 0)).identity, NULL, NULL, NULL, property, value
FROM pg_opfamily f JOIN space n ON n.oid = opfnamespace
CROSS JOIN LATERAL (VALUES
  ('owner', opfowner::regrole::text),
  ('operators', (SELECT string_agg(line, '; ' ORDER BY line) FROM (
    SELECT concat_ws(' ', amopstrategy, amopopr::regoperator, amoppurpose,
      (SELECT format('%I', opfname) FROM pg_opfamily s WHERE s.oid = amopsortfamily)) AS line
    FROM pg_amop WHERE amopfamily = f.oid) lines)),
  ('functions', (SELECT string_agg(line, '; ' ORDER BY line) FROM (
    SELECT concat_ws(' ', amprocnum, amproc::regprocedure, format_type(amproclefttype, NULL),
      format_type(amprocrighttype, NULL)) AS line
    FROM pg_amproc WHERE amprocfamily = f.oid) lines))
) p(property, value)
WHERE ('pg_opfamily'::regclass, f.oid) NOT IN (SELECT classid, objid FROM member)";

pub(super) const OPERATOR_CLASSES: &str = "
SELECT (pg_identify_object('pg_opclass'::regclass, o.oid, 0)).identity, NULL, NULL, NULL, property, value
FROM pg_opclass o JOIN space n ON n.oid = opcnamespace
CROSS JOIN LATERAL (VALUES
  ('family', (pg_identify_object('pg_opfamily'::regclass, opcfamily, 0)).identity),
  ('type', format_type(opcintype, NULL)),
  ('storage', format_type(nullif(opckeytype, 0), NULL)),
  ('default', opcdefault::text),
  ('owner', opcowner::regrole::text)
) p(property, value)
WHERE ('pg_opclass'::regclass, o.oid) NOT IN (SELECT classid, objid FROM member)";

/// What `initdb` makes has OIDs below 16384 (`FirstNormalObjectId` in `access/transam.h`).
pub(super) const ACCESS_METHODS: &str = "
SELECT format('%I', amname), NULL, NULL, NULL, 'handler', amtype::text || ' ' || amhandler
FROM pg_am WHERE oid >= 16384 AND ('pg_am'::regclass, oid) NOT IN (SELECT classid, objid FROM member)";

pub(super) const CASTS: &str = "
SELECT (pg_identify_object('pg_cast'::regclass, c.oid, 0)).identity, NULL, NULL, NULL, property, value
FROM pg_cast c
CROSS JOIN LATERAL (VALUES
  ('function', CASE castmethod WHEN 'f' THEN castfunc::regprocedure::text WHEN 'i' THEN 'by text' ELSE 'without function' END),
  ('context', CASE castcontext WHEN 'e' THEN 'explicit' WHEN 'a' THEN 'assignment' ELSE 'implicit' END)
) p(property, value)
WHERE c.oid >= 16384 AND ('pg_cast'::regclass, c.oid) NOT IN (SELECT classid, objid FROM member)
  -- The cast of a range to its multirange comes and goes with the type.
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_cast'::regclass AND d.objid = c.oid AND deptype = 'i')";

pub(super) const TRANSFORMS: &str = "
SELECT (pg_identify_object('pg_transform'::regclass, t.oid, 0)).identity, NULL, NULL, NULL, 'functions',
  concat_ws(' ', trffromsql, trftosql)
FROM pg_transform t WHERE ('pg_transform'::regclass, t.oid) NOT IN (SELECT classid, objid FROM member)";

pub(super) const LANGUAGES: &str = "
SELECT format('%I', lanname), NULL, NULL, NULL, property, value
FROM pg_language l
CROSS JOIN LATERAL (VALUES
  ('functions', concat_ws(' ', lanplcallfoid::regproc, laninline::regproc, lanvalidator::regproc)),
  ('trusted', lanpltrusted::text),
  ('owner', lanowner::regrole::text)
) p(property, value)
WHERE l.oid >= 16384 AND ('pg_language'::regclass, l.oid) NOT IN (SELECT classid, objid FROM member)";
