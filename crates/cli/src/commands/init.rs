//! `asof init`: the repository, its first key, the configuration.

use asof_repository::root;
use asof_repository::store::Store;
use asof_repository::store::probe::probe;

use crate::args::Init;
use crate::config::{self, write_durably};
use crate::context::Context;
use crate::failure::{Failure, Result};

pub(crate) async fn run(context: &Context, args: Init) -> Result<()> {
    let config_path = context.new_config_path()?;
    if config_path.exists() {
        let what = format!("{} exists already", config_path.display());
        return Err(Failure::refused(what, "name another configuration with --config, or remove it"));
    }
    let beside = config_path.parent().unwrap_or(std::path::Path::new("/"));
    let key_file = args.key_file.unwrap_or_else(|| beside.join("asof.key"));
    let key_file = std::path::absolute(&key_file).map_err(Failure::file("find", &key_file))?;
    if key_file.exists() {
        let what = format!("the key file {} exists already", key_file.display());
        return Err(Failure::refused(what, "name another with --key-file; a key is never overwritten"));
    }
    let store = context.store(&args.repository)?;
    let place = store.place();
    let single_writer = needs_single_writer(context, store.as_ref(), args.single_writer).await?;
    let (repository, key) = root::init(&context.world, store, single_writer).await.map_err(|error| match error {
        asof_repository::Error::Conflict { .. } => {
            let hint =
                "to use it from here, write its asof.toml and key file from the recovery kit (`asof key export`)";
            Failure::refused(error.to_string(), hint)
        }
        other => other.into(),
    })?;
    // The repository exists now; without its key it would be lost, so the key comes before anything else.
    write_durably(&key_file, key.text.as_bytes(), 0o600)?;
    let url = if args.repository.contains("://") { args.repository } else { place };
    config::create(&config_path, &url, &repository.root.fingerprint().to_string(), &key_file)?;
    anstream::println!("repository     {url}");
    anstream::println!("root key       {}", repository.root.fingerprint());
    anstream::println!("key file       {}", key_file.display());
    anstream::println!("configuration  {}", config_path.display());
    if single_writer {
        anstream::println!("single writer  declared: only one asof may ever write to this repository");
    }
    anstream::println!();
    anstream::println!(
        "Everything is encrypted. Whoever loses the key file loses every backup: print the recovery kit now"
    );
    anstream::println!("(`asof key export`) and keep it away from this machine, or add a second key (`asof key add`).");
    anstream::println!("Next: asof instance add NAME --pg 'host=… user=…'");
    Ok(())
}

/// Tries the store before anything is made in it, and whether it can only be used by a single writer.
async fn needs_single_writer(context: &Context, store: &dyn Store, declared: bool) -> Result<bool> {
    let found = probe(store, &context.world).await?;
    found.require(&store.place(), declared).map_err(|error| {
        let hint = "use another store, or say --single-writer if only one asof will ever write to this one";
        Failure::refused(error.to_string(), hint)
    })?;
    Ok(found.overwrites.is_some())
}
