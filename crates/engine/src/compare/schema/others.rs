//! The database itself, extensions, replication, foreign data, text search.

pub(super) const DATABASE: &str = "
SELECT 'the database', NULL, NULL, NULL, property, value
FROM pg_database d CROSS JOIN LATERAL to_jsonb(d) j
CROSS JOIN LATERAL (VALUES
  ('encoding', pg_encoding_to_char(encoding)::text),
  ('locale provider', coalesce(j ->> 'datlocprovider', 'c')),
  ('LC_COLLATE', datcollate::text),
  ('LC_CTYPE', datctype::text),
  ('locale', coalesce(j ->> 'datlocale', j ->> 'daticulocale')),
  ('ICU rules', j ->> 'daticurules'),
  ('connection limit', datconnlimit::text),
  ('owner', datdba::regrole::text)
) p(property, value)
WHERE datname = current_database()";

pub(super) const SETTINGS: &str = "
SELECT CASE setrole WHEN 0 THEN 'the database' ELSE format('role %s in the database', setrole::regrole) END,
  NULL, NULL, NULL, split_part(entry, '=', 1), substr(entry, strpos(entry, '=') + 1)
FROM pg_db_role_setting CROSS JOIN LATERAL unnest(setconfig) entry
WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())";

pub(super) const EXTENSIONS: &str = "
SELECT format('%I', extname), NULL, NULL, NULL, property, value
FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
CROSS JOIN LATERAL (VALUES
  ('version', extversion), ('schema', nspname::text), ('owner', extowner::regrole::text)
) p(property, value)";

pub(super) const EVENT_TRIGGERS: &str = "
SELECT format('%I', evtname), NULL, NULL, NULL, property, value
FROM pg_event_trigger e
CROSS JOIN LATERAL (VALUES
  ('event', evtevent::text),
  ('tags', (SELECT string_agg(t, ', ' ORDER BY t) FROM unnest(evttags) t)),
  ('function', evtfoid::regproc::text),
  ('enabled', CASE evtenabled WHEN 'O' THEN 'yes' WHEN 'D' THEN 'no' WHEN 'A' THEN 'always' ELSE 'on replicas' END),
  ('owner', evtowner::regrole::text)
) p(property, value)
WHERE ('pg_event_trigger'::regclass, e.oid) NOT IN (SELECT classid, objid FROM member)";

pub(super) const PUBLICATIONS: &str = "
SELECT format('%I', pubname), NULL, NULL, NULL, property, value
FROM pg_publication b
CROSS JOIN LATERAL (VALUES
  ('all tables', puballtables::text),
  ('operations', concat_ws(', ', CASE WHEN pubinsert THEN 'insert' END, CASE WHEN pubupdate THEN 'update' END,
    CASE WHEN pubdelete THEN 'delete' END, CASE WHEN pubtruncate THEN 'truncate' END)),
  ('via root', pubviaroot::text),
  ('generated columns', nullif(to_jsonb(b) ->> 'pubgencols', 'n')),
  ('owner', pubowner::regrole::text)
) p(property, value)
WHERE ('pg_publication'::regclass, b.oid) NOT IN (SELECT classid, objid FROM member)";

pub(super) const PUBLICATION_TABLES: &str = "
SELECT format('%I', pubname), NULL, NULL, NULL, 'table ' || format('%I.%I', n.nspname, c.relname), 'published'
FROM pg_publication b JOIN pg_publication_rel ON prpubid = b.oid
JOIN pg_class c ON c.oid = prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE ('pg_publication'::regclass, b.oid) NOT IN (SELECT classid, objid FROM member)";

pub(super) const PUBLICATION_FILTERS: &str = "
SELECT format('%I', pubname), NULL, NULL, NULL, part || format('%I.%I', n.nspname, c.relname), value
FROM pg_publication b JOIN pg_publication_rel r ON prpubid = b.oid
JOIN pg_class c ON c.oid = prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (VALUES
  ('rows of ', pg_get_expr(prqual, prrelid)),
  ('columns of ', (SELECT string_agg(format('%I', attname), ', ' ORDER BY attname) FROM pg_attribute
    WHERE attrelid = prrelid AND attnum = ANY (prattrs)))
) p(part, value)
WHERE ('pg_publication'::regclass, b.oid) NOT IN (SELECT classid, objid FROM member)";

pub(super) const PUBLICATION_SCHEMAS: &str = "
SELECT format('%I', pubname), NULL, NULL, NULL, 'schema ' || pnnspid::regnamespace, 'published'
FROM pg_publication b JOIN pg_publication_namespace ON pnpubid = b.oid
WHERE ('pg_publication'::regclass, b.oid) NOT IN (SELECT classid, objid FROM member)";

/// Never `subconninfo`, which holds passwords and which only superusers may read.
pub(super) const SUBSCRIPTIONS: &str = "
SELECT format('%I', subname), NULL, NULL, NULL, property, value
FROM pg_subscription
CROSS JOIN LATERAL (VALUES
  ('enabled', CASE WHEN subenabled THEN 'yes' ELSE 'no' END),
  ('publications', (SELECT string_agg(s, ', ' ORDER BY s) FROM unnest(subpublications) s)),
  ('slot', subslotname::text),
  ('owner', subowner::regrole::text)
) p(property, value)
WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Not for everybody's eyes up to 13.
pub(super) const SUBSCRIPTION_COMMITS: &str = "
SELECT format('%I', subname), NULL, NULL, NULL, property, value
FROM pg_subscription CROSS JOIN LATERAL (VALUES
  ('synchronous commit', subsynccommit),
  ('binary', subbinary::text),
  -- A boolean up to 15.
  ('streaming', CASE substream::text WHEN 'f' THEN 'false' WHEN 't' THEN 'true' WHEN 'p' THEN 'parallel' ELSE substream::text END)
) p(property, value)
WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";

pub(super) const SUBSCRIPTION_PHASES: &str = "
SELECT format('%I', subname), NULL, NULL, NULL, property, value
FROM pg_subscription CROSS JOIN LATERAL (VALUES
  ('two phases', CASE subtwophasestate WHEN 'd' THEN 'no' ELSE 'yes' END),
  ('disabled by errors', subdisableonerr::text)
) p(property, value)
WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";

pub(super) const SUBSCRIPTION_ORIGINS: &str = "
SELECT format('%I', subname), NULL, NULL, NULL, property, value
FROM pg_subscription CROSS JOIN LATERAL (VALUES
  ('origin', suborigin::text),
  ('password required', subpasswordrequired::text),
  ('run as owner', subrunasowner::text)
) p(property, value)
WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";

pub(super) const FOREIGN_DATA_WRAPPERS: &str = "
SELECT format('%I', fdwname), NULL, NULL, NULL, property, value
FROM pg_foreign_data_wrapper w
CROSS JOIN LATERAL (VALUES
  ('functions', concat_ws(' ', fdwhandler::regproc, fdwvalidator::regproc)),
  ('options', (SELECT string_agg(option_name || '=' || CASE WHEN option_name ~* 'pass|secret|token|key' THEN '***'
    ELSE option_value END, ', ' ORDER BY option_name) FROM pg_options_to_table(fdwoptions))),
  ('secret options', (SELECT string_agg(hashtextextended(option_value, 0)::text, ', ' ORDER BY option_name)
    FROM pg_options_to_table(fdwoptions) WHERE option_name ~* 'pass|secret|token|key')),
  ('owner', fdwowner::regrole::text)
) p(property, value)
WHERE ('pg_foreign_data_wrapper'::regclass, w.oid) NOT IN (SELECT classid, objid FROM member)";

pub(super) const FOREIGN_SERVERS: &str = "
SELECT format('%I', srvname), NULL, NULL, NULL, property, value
FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = srvfdw
CROSS JOIN LATERAL (VALUES
  ('wrapper', fdwname::text),
  ('type', srvtype),
  ('version', srvversion),
  ('options', (SELECT string_agg(option_name || '=' || CASE WHEN option_name ~* 'pass|secret|token|key' THEN '***'
    ELSE option_value END, ', ' ORDER BY option_name) FROM pg_options_to_table(srvoptions))),
  ('secret options', (SELECT string_agg(hashtextextended(option_value, 0)::text, ', ' ORDER BY option_name)
    FROM pg_options_to_table(srvoptions) WHERE option_name ~* 'pass|secret|token|key')),
  ('owner', srvowner::regrole::text)
) p(property, value)
WHERE ('pg_foreign_server'::regclass, s.oid) NOT IN (SELECT classid, objid FROM member)";

/// The view shows options only to those who may see them, and NULL to others: its own condition tells which it is
/// (`system_views.sql`, 13 to 18).
pub(super) const USER_MAPPINGS: &str = "
SELECT format('%I on server %I', usename, m.srvname), NULL, NULL, NULL, property, value
FROM pg_user_mappings m JOIN pg_foreign_server s ON s.oid = srvid
CROSS JOIN LATERAL (VALUES
  ('options', (SELECT string_agg(option_name || '=' || CASE WHEN option_name ~* 'pass|secret|token|key' THEN '***'
    ELSE option_value END, ', ' ORDER BY option_name) FROM pg_options_to_table(umoptions))),
  ('secret options', (SELECT string_agg(hashtextextended(option_value, 0)::text, ', ' ORDER BY option_name)
    FROM pg_options_to_table(umoptions) WHERE option_name ~* 'pass|secret|token|key')),
  ('hidden', CASE WHEN umoptions IS NULL AND current_setting('is_superuser') <> 'on'
    AND NOT (umuser = 0 AND pg_has_role(srvowner, 'USAGE'))
    AND NOT (umuser <> 0 AND usename = current_user
      AND (pg_has_role(srvowner, 'USAGE') OR has_server_privilege(srvid, 'USAGE')))
    THEN 'its options are hidden from this role' END)
) p(property, value)";

pub(super) const FOREIGN_TABLES: &str = "
SELECT name, NULL, host_schema, host_name, property, value
FROM rel JOIN pg_foreign_table ON ftrelid = rel.oid JOIN pg_foreign_server s ON s.oid = ftserver
CROSS JOIN LATERAL (VALUES
  ('server', srvname::text),
  ('foreign options', (SELECT string_agg(option_name || '=' || option_value, ', ' ORDER BY option_name)
    FROM pg_options_to_table(ftoptions)))
) p(property, value)";

pub(super) const TEXT_SEARCH: &str = "
SELECT kind || ' ' || name, NULL, NULL, NULL, property, value FROM (
  SELECT 'configuration' AS kind, format('%I.%I', nspname, cfgname) AS name, property, value
  FROM pg_ts_config c JOIN space n ON n.oid = cfgnamespace
  CROSS JOIN LATERAL (VALUES
    ('parser', (pg_identify_object('pg_ts_parser'::regclass, cfgparser, 0)).identity),
    ('mappings', (SELECT string_agg(alias || ': ' || dictionaries, '; ' ORDER BY alias) FROM (
      SELECT alias, string_agg(mapdict::regdictionary::text, ', ' ORDER BY mapseqno) AS dictionaries
      FROM pg_ts_config_map JOIN ts_token_type(cfgparser) ON tokid = maptokentype WHERE mapcfg = c.oid GROUP BY alias) m)),
    ('owner', cfgowner::regrole::text)
  ) p(property, value)
  WHERE ('pg_ts_config'::regclass, c.oid) NOT IN (SELECT classid, objid FROM member)
  UNION ALL
  SELECT 'dictionary', format('%I.%I', nspname, dictname), property, value
  FROM pg_ts_dict d JOIN space n ON n.oid = dictnamespace
  CROSS JOIN LATERAL (VALUES
    ('template', (pg_identify_object('pg_ts_template'::regclass, dicttemplate, 0)).identity),
    ('options', dictinitoption),
    ('owner', dictowner::regrole::text)
  ) p(property, value)
  WHERE ('pg_ts_dict'::regclass, d.oid) NOT IN (SELECT classid, objid FROM member)
  UNION ALL
  SELECT 'parser', format('%I.%I', nspname, prsname), 'functions',
    concat_ws(' ', prsstart, prstoken, prsend, prsheadline, prslextype)
  FROM pg_ts_parser p JOIN space n ON n.oid = prsnamespace
  WHERE ('pg_ts_parser'::regclass, p.oid) NOT IN (SELECT classid, objid FROM member)
  UNION ALL
  SELECT 'template', format('%I.%I', nspname, tmplname), 'functions', concat_ws(' ', tmplinit, tmpllexize)
  FROM pg_ts_template t JOIN space n ON n.oid = tmplnamespace
  WHERE ('pg_ts_template'::regclass, t.oid) NOT IN (SELECT classid, objid FROM member)
) all_of_them";
