//! Who may do what, what is said about objects, and roles.

/// Privileges as a set for each grantee: an absent list is the built-in default, `*` stands for the grant option. The owner is
/// called so, because who that is, is another question. Who granted is not compared.
pub(super) const PRIVILEGES: &str = "
, guarded AS (
  SELECT 'relation ' || name AS object, 'relation:' || name AS parent, host_schema, host_name,
    (CASE relkind WHEN 'S' THEN 's' ELSE 'r' END)::\"char\" AS kind, relowner AS owner, relacl AS acl
  FROM rel
  UNION ALL
  SELECT format('column %s.%I', name, attname), 'relation:' || name, host_schema, host_name, 'c', relowner, attacl
  FROM rel JOIN pg_attribute ON attrelid = rel.oid AND NOT attisdropped AND attacl IS NOT NULL
  UNION ALL
  SELECT 'routine ' || identity, 'routine:' || identity, NULL, NULL, 'f', proowner, proacl
  FROM pg_proc f JOIN space n ON n.oid = pronamespace
  CROSS JOIN LATERAL pg_identify_object('pg_proc'::regclass, f.oid, 0)
  WHERE ('pg_proc'::regclass, f.oid) NOT IN (SELECT classid, objid FROM member)
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND deptype = 'i')
  UNION ALL
  SELECT format('schema %I', nspname), format('schema:%I', nspname), NULL, NULL, 'n', nspowner, nspacl FROM space
  UNION ALL
  SELECT 'type ' || format_type(t.oid, NULL), 'type:' || format_type(t.oid, NULL), NULL, NULL, 'T', typowner, typacl
  FROM pg_type t JOIN space n ON n.oid = typnamespace LEFT JOIN pg_class c ON c.oid = typrelid
  WHERE typtype <> 'm' AND typisdefined AND (typrelid = 0 OR c.relkind = 'c')
    AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
    AND ('pg_type'::regclass, t.oid) NOT IN (SELECT classid, objid FROM member)
  UNION ALL
  SELECT format('language %I', lanname), NULL, NULL, NULL, 'l', lanowner, lanacl
  FROM pg_language l WHERE lanpltrusted AND lanname NOT IN ('internal', 'c')
  UNION ALL
  SELECT format('foreign-data wrapper %I', fdwname), NULL, NULL, NULL, 'F', fdwowner, fdwacl
  FROM pg_foreign_data_wrapper w
  UNION ALL
  SELECT format('server %I', srvname), NULL, NULL, NULL, 'S', srvowner, srvacl FROM pg_foreign_server s
  UNION ALL
  SELECT 'the database', NULL, NULL, NULL, 'd', datdba, datacl FROM pg_database WHERE datname = current_database()
  UNION ALL
  SELECT 'large object ' || oid, NULL, NULL, NULL, 'L', lomowner, lomacl FROM pg_largeobject_metadata
  WHERE lomacl <> acldefault('L', lomowner)
)
SELECT object, parent, host_schema, host_name,
  'to ' || CASE grantee WHEN 0 THEN 'PUBLIC' WHEN owner THEN 'the owner' ELSE grantee::regrole::text END,
  string_agg(privilege_type || CASE WHEN is_grantable AND grantee <> owner THEN '*' ELSE '' END, ', '
    ORDER BY privilege_type, is_grantable)
FROM guarded CROSS JOIN LATERAL (
  SELECT grantee, privilege_type, bool_or(is_grantable) AS is_grantable
  FROM aclexplode(coalesce(acl, acldefault(kind, owner))) GROUP BY 1, 2
) entries
WHERE privilege_type <> '$unknown_privilege'
GROUP BY object, parent, host_schema, host_name, owner, grantee";

pub(super) const LARGE_OBJECTS: &str = "
SELECT oid::text, NULL, NULL, NULL, property, value
FROM pg_largeobject_metadata
CROSS JOIN LATERAL (VALUES ('owner', lomowner::regrole::text)) p(property, value)";

/// What was granted and revoked of the system's own objects since `initdb` (`pg_init_privs`), which majors do not agree about. Some views
/// of `information_schema` may be read by everybody although `initdb` notes nothing of it (18).
pub(super) const SYSTEM_PRIVILEGES: &str = "
, system AS (
  SELECT 'relation ' || c.oid::regclass AS object, 'pg_class'::regclass AS class, c.oid,
    (CASE relkind WHEN 'S' THEN 's' ELSE 'r' END)::\"char\" AS kind, relowner AS owner, relacl AS acl
  FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
  WHERE nspname IN ('pg_catalog', 'information_schema') AND relacl IS NOT NULL
  UNION ALL
  SELECT 'routine ' || f.oid::regprocedure, 'pg_proc'::regclass, f.oid, 'f', proowner, proacl
  FROM pg_proc f JOIN pg_namespace n ON n.oid = pronamespace
  WHERE nspname IN ('pg_catalog', 'information_schema') AND proacl IS NOT NULL
  UNION ALL
  SELECT 'schema ' || nspname, 'pg_namespace'::regclass, oid, 'n', nspowner, nspacl
  FROM pg_namespace WHERE nspname IN ('pg_catalog', 'information_schema') AND nspacl IS NOT NULL
), changed AS (
  SELECT object, coalesce(acl, acldefault(kind, owner)) AS acl, coalesce(initprivs, acldefault(kind, owner)) AS initial
  FROM system s LEFT JOIN pg_init_privs i ON i.classoid = s.class AND i.objoid = s.oid AND i.objsubid = 0
  WHERE acl IS DISTINCT FROM initprivs AND (class, s.oid) NOT IN (SELECT classid, objid FROM member)
), entries AS (
  SELECT object, 'granted' AS how, grantee, privilege_type FROM changed CROSS JOIN LATERAL (
    SELECT grantee, privilege_type FROM aclexplode(acl) EXCEPT SELECT grantee, privilege_type FROM aclexplode(initial)) e
  UNION ALL
  SELECT object, 'revoked', grantee, privilege_type FROM changed CROSS JOIN LATERAL (
    SELECT grantee, privilege_type FROM aclexplode(initial) EXCEPT SELECT grantee, privilege_type FROM aclexplode(acl)) e
)
SELECT object, NULL, NULL, NULL,
  how || ' ' || whom, string_agg(privilege_type, ', ' ORDER BY privilege_type) || ' ' || how || ' ' || whom
FROM entries CROSS JOIN LATERAL (SELECT CASE how WHEN 'granted' THEN 'to ' ELSE 'from ' END
  || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS whom) w
WHERE privilege_type <> '$unknown_privilege'
  AND NOT (how = 'granted' AND grantee = 0 AND privilege_type = 'SELECT' AND object ~ '^relation \"?information_schema\"?[.]')
GROUP BY object, how, whom";

pub(super) const DEFAULT_PRIVILEGES: &str = "
SELECT (pg_identify_object('pg_default_acl'::regclass, d.oid, 0)).identity, NULL, NULL, NULL,
  'to ' || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END,
  string_agg(privilege_type || CASE WHEN is_grantable THEN '*' ELSE '' END, ', ' ORDER BY privilege_type, is_grantable)
FROM pg_default_acl d CROSS JOIN LATERAL aclexplode(defaclacl)
WHERE privilege_type <> '$unknown_privilege'
GROUP BY d.oid, grantee";

pub(super) const COMMENTS: &str = "
SELECT type || ' ' || identity,
  coalesce('relation:' || rel.name, CASE WHEN classoid IN ('pg_proc'::regclass, 'pg_type'::regclass, 'pg_namespace'::regclass)
    THEN CASE classoid WHEN 'pg_proc'::regclass THEN 'routine:' WHEN 'pg_type'::regclass THEN 'type:' ELSE 'schema:' END
      || identity END),
  host_schema, host_name, 'text', description
FROM pg_description d CROSS JOIN LATERAL pg_identify_object(classoid, objoid, objsubid) o
LEFT JOIN pg_index ON classoid = 'pg_class'::regclass AND indexrelid = objoid
LEFT JOIN rel ON classoid = 'pg_class'::regclass AND rel.oid = coalesce(indrelid, objoid)
WHERE (objoid >= 16384 OR classoid = 'pg_namespace'::regclass) AND coalesce(o.schema, '') !~ '^\"?pg_(temp|toast)'
  AND (classoid, objoid) NOT IN (SELECT classid, objid FROM member)
  AND NOT (classoid = 'pg_namespace'::regclass AND objoid NOT IN (SELECT oid FROM space))
UNION ALL
SELECT 'the database', NULL, NULL, NULL, 'text', description FROM pg_shdescription
WHERE classoid = 'pg_database'::regclass AND objoid = (SELECT oid FROM pg_database WHERE datname = current_database())";

pub(super) const SECURITY_LABELS: &str = "
SELECT type || ' ' || identity, 'relation:' || rel.name, host_schema, host_name, provider, label
FROM pg_seclabel CROSS JOIN LATERAL pg_identify_object(classoid, objoid, objsubid)
LEFT JOIN rel ON classoid = 'pg_class'::regclass AND rel.oid = objoid
WHERE (classoid, objoid) NOT IN (SELECT classid, objid FROM member)
UNION ALL
SELECT 'the database', NULL, NULL, NULL, provider, label FROM pg_shseclabel
WHERE classoid = 'pg_database'::regclass AND objoid = (SELECT oid FROM pg_database WHERE datname = current_database())";

pub(super) const ROLES: &str = "
SELECT format('%I', rolname), NULL, NULL, NULL, property, value
FROM pg_roles
CROSS JOIN LATERAL (VALUES
  ('superuser', rolsuper::text),
  ('inherit', rolinherit::text),
  ('create role', rolcreaterole::text),
  ('create database', rolcreatedb::text),
  ('login', rolcanlogin::text),
  ('replication', rolreplication::text),
  ('bypass row security', rolbypassrls::text),
  ('connection limit', rolconnlimit::text),
  ('valid until', rolvaliduntil::text)
) p(property, value)
WHERE rolname !~ '^pg_'";

pub(super) const MEMBERSHIPS: &str = "
SELECT format('%I', m.rolname), NULL, NULL, NULL, format('member of %I', g.rolname),
  CASE WHEN bool_or(admin_option) THEN 'with admin option' ELSE 'without admin option' END
FROM pg_auth_members JOIN pg_roles m ON m.oid = member JOIN pg_roles g ON g.oid = roleid
WHERE m.rolname !~ '^pg_' GROUP BY m.rolname, g.rolname";

/// A membership may be granted by several roles; it is what any of them grants.
pub(super) const MEMBERSHIP_OPTIONS: &str = "
SELECT format('%I', m.rolname), NULL, NULL, NULL, format('options of member of %I', g.rolname),
  concat_ws(' ', CASE WHEN bool_or(inherit_option) THEN 'inherit' END, CASE WHEN bool_or(set_option) THEN 'set' END)
FROM pg_auth_members JOIN pg_roles m ON m.oid = member JOIN pg_roles g ON g.oid = roleid
WHERE m.rolname !~ '^pg_' GROUP BY m.rolname, g.rolname";

pub(super) const PARAMETER_PRIVILEGES: &str = "
SELECT 'parameter ' || parname, NULL, NULL, NULL,
  'to ' || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END,
  string_agg(privilege_type || CASE WHEN is_grantable THEN '*' ELSE '' END, ', ' ORDER BY privilege_type, is_grantable)
FROM pg_parameter_acl CROSS JOIN LATERAL aclexplode(paracl) GROUP BY parname, grantee";

pub(super) const ROLE_COMMENTS: &str = "
SELECT objoid::regrole::text, NULL, NULL, NULL, 'comment', description
FROM pg_shdescription WHERE classoid = 'pg_authid'::regclass AND objoid >= 16384";

pub(super) const ROLE_SETTINGS: &str = "
SELECT CASE setrole WHEN 0 THEN 'all roles' ELSE format('role %s', setrole::regrole) END,
  NULL, NULL, NULL, split_part(entry, '=', 1), substr(entry, strpos(entry, '=') + 1)
FROM pg_db_role_setting CROSS JOIN LATERAL unnest(setconfig) entry WHERE setdatabase = 0";
