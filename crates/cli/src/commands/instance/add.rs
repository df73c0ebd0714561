//! `asof instance add`: the first contact with a server, what is recorded of it, and how it is reached from now on.

use std::path::PathBuf;

use asof_engine::server::{self, Contact, Identity, Server};
use asof_postgres::client::Connection;
use asof_postgres::conninfo::Settings;
use asof_repository::root::Repository;
use toml_edit::Value;

use crate::args::InstanceAdd;
use crate::commands::check::{Replication, replication};
use crate::config::{self, InstanceConfig, Loaded, write_durably};
use crate::context::{Context, conninfo_refused, on_a_terminal, resolve};
use crate::failure::{DENIED, Failure, Result};

/// A server that was reached for the first time.
struct Newcomer {
    settings: Settings,
    server: Server,
    connection: Connection,
    contact: Contact,
}

pub(super) async fn run(context: &Context, args: InstanceAdd) -> Result<()> {
    let loaded = context.loaded()?;
    check_name(&args.name)?;
    let repository = context.repository(&loaded).await?;
    let mut newcomer = reach(context, &args).await?;
    let service = server::managed_service(&mut newcomer.connection).await?;
    if args.logical_only || service.is_some() {
        return add_logical(&loaded, repository, &args, newcomer).await;
    }
    add_with_files(context, &loaded, repository, &args, newcomer).await
}

/// Connects; a password that is missing is asked for.
async fn reach(context: &Context, args: &InstanceAdd) -> Result<Newcomer> {
    let mut settings = Settings::parse(&args.pg).map_err(conninfo_refused)?;
    let mut server = resolve(settings.clone(), context.environment())?;
    let reached = match context.contact(&server).await {
        Err(refused) if refused.code() == DENIED && settings.get("password").is_none() && on_a_terminal() => {
            let asked = format!("Password of {} on {}: ", server.config.user, args.name);
            let password = rpassword::prompt_password(asked).map_err(Failure::file("read", "the terminal"))?;
            settings.set("password", password).map_err(conninfo_refused)?;
            server = resolve(settings.clone(), context.environment())?;
            context.contact(&server).await
        }
        other => other,
    };
    let (connection, contact) = reached?;
    Ok(Newcomer { settings, server, connection, contact })
}

async fn add_with_files(
    context: &Context,
    loaded: &Loaded,
    mut repository: Repository,
    args: &InstanceAdd,
    mut newcomer: Newcomer,
) -> Result<()> {
    let identifier = server::system_identifier(&mut newcomer.connection).await;
    newcomer.connection.close().await;
    let (server, contact) = (&newcomer.server, &newcomer.contact);
    let data_directory = match args.by_sql {
        true => None,
        false => args.data_directory.clone().or_else(|| readable_here(contact.data_directory.as_deref())),
    };
    let config = InstanceConfig { data_directory: data_directory.clone(), ..InstanceConfig::default() };
    let reader = context.reader(&config, server, contact).await?;
    let control = server::read_control(&context.world, reader.source.as_ref()).await;
    let (_, control) = control.map_err(or_logical_only)?;
    if let (Some(identifier), Some(directory)) = (identifier, &data_directory)
        && identifier != control.system_identifier
    {
        let what = format!("{} belongs to another server than the connection", directory.display());
        return Err(Failure::refused(what, "give the data directory of this server, or --by-sql"));
    }
    let facts = server::facts(&control);
    match repository.lineage_of(&args.name) {
        Some(lineage) => {
            let journal = repository.lineage(lineage).await?;
            let known = &journal.state().facts;
            if server::is_logical_only(known) {
                let what = format!("{} is registered for logical backups only", args.name);
                let hint = "choose another name for backups of its files, or add --logical-only";
                return Err(Failure::refused(what, hint));
            }
            server::check_facts(&args.name, known, &facts)?;
        }
        None => {
            repository.register(&args.name, facts, None).await?;
        }
    }
    let mut fields = connection_fields(loaded, &args.name, &newcomer.settings, server)?;
    fields.extend(data_directory.as_ref().map(|path| ("data_directory", path.display().to_string().into())));
    if let Some(spool) = &args.spool {
        let spool = std::path::absolute(spool).map_err(Failure::file("find", spool))?;
        fields.push(("spool", spool.display().to_string().into()));
    }
    config::set_instance(&loaded.path, &args.name, Some(&fields))?;
    anstream::println!(
        "{} is PostgreSQL {} (system identifier {})",
        args.name,
        contact.version,
        control.system_identifier
    );
    match &data_directory {
        Some(path) => anstream::println!("  files    read from {}", path.display()),
        None if args.by_sql => anstream::println!("  files    read by SQL, as you asked"),
        None => anstream::println!(
            "  files    read by SQL: the data directory is not on this host, or not readable for this user"
        ),
    }
    match replication(server).await {
        Ok(Replication::Streams(_)) => anstream::println!("  WAL      received by streaming replication"),
        Ok(Replication::Refused(why)) => anstream::println!("  WAL      received by SQL: {why}"),
        Err(why) => anstream::println!("  WAL      cannot be received yet: {why}"),
    }
    anstream::println!(
        "  checksums {}",
        if control.has_data_checksums() { "on: every page read is verified" } else { "off" }
    );
    anstream::println!("Next: asof backup create {0}; asof wal receive {0}", args.name);
    Ok(())
}

/// Whoever may not read files is told what can be had without.
fn or_logical_only(error: asof_engine::Error) -> Failure {
    match error {
        asof_engine::Error::Refused { what, hint: Some(hint) } => {
            Failure::refused(what, format!("{hint}\n        Without files only dumps can be made: add --logical-only"))
        }
        other => other.into(),
    }
}

/// A server that hands out no files, or is not to be asked for them.
async fn add_logical(
    loaded: &Loaded,
    mut repository: Repository,
    args: &InstanceAdd,
    newcomer: Newcomer,
) -> Result<()> {
    let Newcomer { settings, server, mut connection, contact } = newcomer;
    let identity = Identity::ask(&mut connection, &contact).await?;
    connection.close().await;
    if args.data_directory.is_some() || args.by_sql || args.spool.is_some() {
        let what = format!(
            "this server is {}, which hands out neither its files nor its WAL",
            identity.service.unwrap_or("one")
        );
        return Err(Failure::refused(
            what,
            "leave out --data-directory, --by-sql and --spool: only logical backups are made there",
        ));
    }
    let remark = match repository.lineage_of(&args.name) {
        Some(lineage) => {
            let journal = repository.lineage(lineage).await?;
            if !server::is_logical_only(&journal.state().facts) {
                let what = format!("{} is registered with its files and its WAL", args.name);
                return Err(Failure::refused(what, "choose another name for logical backups only"));
            }
            server::check_identity(&args.name, journal.state(), &identity)?
        }
        None => {
            repository.register(&args.name, identity.facts(), None).await?;
            None
        }
    };
    let mut fields = connection_fields(loaded, &args.name, &settings, &server)?;
    fields.push(("logical", true.into()));
    config::set_instance(&loaded.path, &args.name, Some(&fields))?;
    print_logical(&args.name, &contact, identity.service, remark.as_deref());
    Ok(())
}

fn print_logical(name: &str, contact: &Contact, service: Option<&str>, remark: Option<&str>) {
    let of = service
        .map_or_else(|| "for which you asked for it".to_owned(), |service| format!("as {service} allows no other"));
    anstream::println!("{name} is PostgreSQL {}, added for logical backups only, {of}", contact.version);
    anstream::println!("  works     dump, load, compare, verify and drill: each dump is one moment of one database");
    anstream::println!("  does not  backups of files, WAL, restore to any other moment by asof");
    match service {
        Some(_) => anstream::println!(
            "  a second  only the snapshots of the service itself lead back to any second: keep them on"
        ),
        None => anstream::println!(
            "  a second  another way to protect it leads back to any second; `asof instance add` with the files does"
        ),
    }
    if let Some(remark) = remark {
        anstream::eprintln!("warning: {remark}");
    }
    anstream::println!("Next: asof check {name}; asof dump {name} --database NAME");
}

/// What says how the server is reached. A password goes into a passfile; the configuration holds none.
fn connection_fields(
    loaded: &Loaded,
    name: &str,
    settings: &Settings,
    server: &Server,
) -> Result<Vec<(&'static str, Value)>> {
    let mut settings = settings.clone();
    let password = settings.get("password").map(str::to_owned);
    let passfile = password.map(|password| passfile(loaded, name, server, &password)).transpose()?;
    settings.remove("password");
    let mut fields = vec![("conninfo", settings.to_conninfo().into())];
    fields.extend(passfile.map(|path| ("passfile", path.display().to_string().into())));
    Ok(fields)
}

fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !name.is_empty() && name.len() <= 63 && name.chars().all(plain) && !name.starts_with(['.', '-']) {
        return Ok(());
    }
    Err(Failure::refused(format!("\"{name}\" cannot name an instance"), "use up to 63 letters, digits, -, _ and ."))
}

/// The server's data directory, if it is on this host and this user can read it.
fn readable_here(directory: Option<&str>) -> Option<PathBuf> {
    let path = PathBuf::from(directory?);
    std::fs::File::open(path.join("global/pg_control")).ok().map(|_| path)
}

/// Keeps a password beside the configuration, in PostgreSQL's own format.
fn passfile(loaded: &Loaded, name: &str, server: &Server, password: &str) -> Result<PathBuf> {
    let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    let line = format!("*:*:*:{}:{}\n", escape(&server.config.user), escape(password));
    let path = loaded.path.with_file_name(format!("asof-{name}.pgpass"));
    write_durably(&path, line.as_bytes(), 0o600)?;
    Ok(path)
}
