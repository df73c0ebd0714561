//! Where a dump is loaded to, and that nothing there is lost or half made.
//!
//! A database is loaded under a name that says that it is being loaded, and gets its own name when it is whole. One that is to be
//! replaced keeps its name until then. Into a database that exists and stays, everything goes in one transaction.

use asof_postgres::archive::toc::Toc;
use asof_postgres::client::{Connection, escape_identifier, escape_literal};
use asof_world::{World, planted};

use super::record::DatabaseRecord;
use crate::error::{Error, Result, in_one_line};
use crate::server::Server;

/// The longest name of a database (`NAMEDATALEN` - 1).
pub(super) const NAME_LEN: usize = 63;
/// Behind the name of a database that is being loaded.
const LOADING: &str = "_asof_loading_";
/// Behind the name of one that has been replaced.
const REPLACED: &str = "_asof_replaced_";

/// What becomes of the database that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// It must not exist, and is made.
    New,
    /// It exists and has no tables; the dump goes into it as it is.
    IntoEmpty,
    /// It exists and stays; only the tables that were chosen are touched.
    IntoExisting,
    /// It exists, and is replaced when the load is whole.
    Replace,
}

/// A database as the server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Existing {
    /// Its encoding.
    pub encoding: String,
    /// How many tables, views, sequences and the like are its own.
    pub relations: u64,
    /// Its bytes on the server's disk.
    pub bytes: u64,
}

/// Asks for a database by name; `connection` is to any database of the server.
pub(super) async fn exists(connection: &mut Connection, name: &str) -> Result<bool> {
    let rows = connection.query_params("SELECT 1 FROM pg_database WHERE datname = $1", &[Some(name)]).await?;
    Ok(!rows.is_empty())
}

/// What the database of this connection holds.
pub(super) async fn describe(connection: &mut Connection) -> Result<Existing> {
    let sql = "SELECT pg_encoding_to_char(encoding), pg_database_size(oid), \
         (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relpersistence <> 't' \
          AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid \
          AND d.deptype = 'e')) \
         FROM pg_database WHERE datname = current_database()";
    let row = connection.query_one(sql).await?;
    Ok(Existing {
        encoding: row.required(0)?.to_owned(),
        bytes: row.parse_required(1)?,
        relations: row.parse_required(2)?,
    })
}

/// The same server, another database.
pub(super) fn in_database(server: &Server, database: &str) -> Server {
    let mut server = server.clone();
    server.config.dbname = database.to_owned();
    server
}

/// A database that is being loaded, dropped with everything in it unless it gets its name.
pub(super) struct Scaffold {
    server: Server,
    /// What it is called until then.
    pub(super) name: String,
    /// What the one is called that it replaces, until that is dropped.
    replaced: String,
    finally: String,
}

impl Scaffold {
    /// Creates an empty database like the one of the dump. `server` names any other database.
    pub(super) async fn create(world: &World, server: &Server, finally: &str, like: &Like) -> Result<Self> {
        let id = &world.id().to_string()[..8];
        // Short enough for both marks.
        let kept = shortened(finally, NAME_LEN - REPLACED.len() - id.len());
        let name = if planted("l2") { finally.to_owned() } else { format!("{kept}{LOADING}{id}") };
        let replaced = format!("{kept}{REPLACED}{id}");
        let mut connection = server.connect().await?;
        let sql = format!("CREATE DATABASE {} {}", escape_identifier(&name), like.clause());
        let created = connection.execute(&sql).await;
        connection.close().await;
        created?;
        Ok(Self { server: server.clone(), name, replaced, finally: finally.to_owned() })
    }

    /// Gives the database its name; the one that had it is dropped, when it is to be replaced. Returns what is left of that.
    pub(super) async fn finish(&self, replaces: bool) -> Result<Option<String>> {
        let mut connection = self.server.connect().await?;
        let result = self.rename(&mut connection, replaces).await;
        connection.close().await;
        result
    }

    async fn rename(&self, connection: &mut Connection, replaces: bool) -> Result<Option<String>> {
        if planted("l2") {
            return Ok(None);
        }
        let (new, name) = (escape_identifier(&self.name), escape_identifier(&self.finally));
        if replaces {
            let old = escape_identifier(&self.replaced);
            // A database can only be renamed when nobody is connected to it, and applications connect again at once.
            connection.execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await?;
            let renamed = async {
                end_sessions(connection, &self.finally).await?;
                Ok(connection.execute(&format!("ALTER DATABASE {name} RENAME TO {old}")).await?)
            };
            if let Err(error) = renamed.await {
                connection.execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await?;
                return Err(error);
            }
            if let Err(error) = connection.execute(&format!("ALTER DATABASE {new} RENAME TO {name}")).await {
                connection.execute(&format!("ALTER DATABASE {old} RENAME TO {name}")).await?;
                connection.execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await?;
                return Err(error.into());
            }
            // The new one is in its place: from here on nothing is a failure of the load.
            let dropped = drop_database(connection, &self.replaced).await;
            return Ok(dropped.err().map(|error| {
                format!(
                    "what was replaced is left behind as {}: drop it by hand ({})",
                    self.replaced,
                    in_one_line(error)
                )
            }));
        }
        connection.execute(&format!("ALTER DATABASE {new} RENAME TO {name}")).await?;
        Ok(None)
    }

    /// Drops the database with what was loaded of it.
    pub(super) async fn abandon(self) -> Result<()> {
        if planted("l2") {
            return Ok(());
        }
        let mut connection = self.server.connect().await?;
        end_sessions(&mut connection, &self.name).await?;
        let dropped = drop_database(&mut connection, &self.name).await;
        connection.close().await;
        dropped
    }
}

/// Drops a database if it is there. One that is a template cannot be dropped (`dropdb` of dbcommands.c, 13 to 18).
async fn drop_database(connection: &mut Connection, name: &str) -> Result<()> {
    let sql = "SELECT 1 FROM pg_database WHERE datname = $1 AND datistemplate";
    let is_template = !connection.query_params(sql, &[Some(name)]).await?.is_empty();
    let name = escape_identifier(name);
    if is_template {
        connection.execute(&format!("ALTER DATABASE {name} IS_TEMPLATE false")).await?;
    }
    connection.execute(&format!("DROP DATABASE IF EXISTS {name}")).await?;
    Ok(())
}

/// Whoever is connected to a database is disconnected.
async fn end_sessions(connection: &mut Connection, database: &str) -> Result<()> {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()";
    connection.query_params(sql, &[Some(database)]).await?;
    Ok(())
}

/// At most `len` bytes of a name.
fn shortened(name: &str, len: usize) -> String {
    let mut end = name.len().min(len);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

/// What a new database is to be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Like {
    /// Encoding; the server's default when it is not known.
    pub encoding: Option<String>,
    /// What stands in CREATE DATABASE about the locale.
    pub locale: Vec<(String, String)>,
}

impl Like {
    /// As the database was that is recorded. `major` is that of the server which makes the new one.
    #[must_use]
    pub(super) fn recorded(database: &DatabaseRecord, major: u32) -> Self {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut locale = vec![pair("LC_COLLATE", &database.collate), pair("LC_CTYPE", &database.ctype)];
        if let Some(name) = &database.locale {
            match (database.locale_provider.as_str(), major) {
                ("i", 15..) => locale.extend([pair("LOCALE_PROVIDER", "icu"), pair("ICU_LOCALE", name)]),
                ("b", 17..) => locale.extend([pair("LOCALE_PROVIDER", "builtin"), pair("BUILTIN_LOCALE", name)]),
                _ => {}
            }
        }
        Self { encoding: Some(database.encoding.clone()), locale }
    }

    /// As an archive says: `CREATE DATABASE name WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'C';`
    /// (`dumpDatabase` in pg_dump.c).
    #[must_use]
    pub(super) fn of_archive(toc: &Toc) -> Self {
        let entry = toc.entries.iter().find(|entry| entry.desc.as_bytes() == b"DATABASE");
        let definition =
            entry.and_then(|entry| entry.definition.as_ref()).map_or_else(String::new, |sql| sql.to_lossy());
        let option = |key: &str| {
            let (_, rest) = definition.split_once(&format!(" {key} = '"))?;
            rest.split_once('\'').map(|(value, _)| value.to_owned())
        };
        let keys = ["LOCALE", "LC_COLLATE", "LC_CTYPE", "ICU_LOCALE", "BUILTIN_LOCALE"];
        let mut locale: Vec<(String, String)> =
            keys.iter().filter_map(|key| Some(((*key).to_owned(), option(key)?))).collect();
        for provider in ["icu", "builtin"] {
            if definition.contains(&format!(" LOCALE_PROVIDER = {provider}")) {
                locale.push(("LOCALE_PROVIDER".to_owned(), provider.to_owned()));
            }
        }
        Self { encoding: option("ENCODING"), locale }
    }

    fn clause(&self) -> String {
        let mut clause = "TEMPLATE template0".to_owned();
        if let Some(encoding) = &self.encoding {
            clause.push_str(&format!(" ENCODING {}", escape_literal(encoding)));
        }
        for (key, value) in &self.locale {
            let value = if key == "LOCALE_PROVIDER" { value.clone() } else { escape_literal(value) };
            clause.push_str(&format!(" {key} {value}"));
        }
        clause
    }
}

/// Whether there is a locale that the server does not have, in words for the operator.
pub(super) fn explained(error: Error, like: &Like) -> Error {
    let Error::Client(client) = &error else { return error };
    let Some(reason) = client.server_error().map(|error| error.message.clone()) else { return error };
    let wanted: Vec<String> = like.locale.iter().map(|(key, value)| format!("{key} {value}")).collect();
    Error::refused(
        format!("a database like that of the dump cannot be made here: {reason}"),
        format!("it had {}; choose another locale with --locale", wanted.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_database_is_like_the_one_that_was_dumped() {
        let mut record = DatabaseRecord {
            name: "d".into(),
            encoding: "UTF8".into(),
            collate: "C".into(),
            ctype: "de'DE".into(),
            locale_provider: "i".into(),
            locale: Some("de-DE".into()),
            collation_version: None,
            owner: "o".into(),
            size: 0,
            server_version: "16".into(),
            large_objects: 0,
            extensions: Default::default(),
        };
        let clause = Like::recorded(&record, 16).clause();
        let expect = "TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'de''DE' LOCALE_PROVIDER icu ICU_LOCALE 'de-DE'";
        assert_eq!(clause, expect);
        assert!(!Like::recorded(&record, 14).clause().contains("PROVIDER"), "14 has only one");
        record.locale_provider = "c".into();
        record.locale = None;
        assert!(!Like::recorded(&record, 18).clause().contains("PROVIDER"));
    }

    #[test]
    fn a_name_is_cut_between_characters() {
        assert_eq!(shortened("äö", 3), "ä");
        assert_eq!(shortened("ab", 3), "ab");
    }
}
