//! `asof key`: who can open the repository.

use crate::args::KeyCommand;
use crate::config::write_durably;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::{passphrase, show};

pub(crate) async fn run(context: &Context, command: KeyCommand) -> Result<()> {
    let loaded = context.loaded()?;
    let mut repository = context.repository(&loaded).await?;
    match command {
        KeyCommand::Add { label, out: None, .. } => {
            repository.keyring.require_data_secret("a new key")?;
            let id = repository.add_passphrase(&label, passphrase::chosen()?.into()).await?;
            anstream::println!("added {id}: the passphrase opens the repository where asof.toml names no key_file");
        }
        KeyCommand::Add { label, out: Some(out), write_only, .. } => {
            if out.exists() {
                let what = format!("{} exists already", out.display());
                return Err(Failure::refused(what, "name another with --out; a key is never overwritten"));
            }
            let text = match write_only {
                true => repository.add_write_only(&label).await?,
                false => repository.add_key(&label).await?.text,
            };
            write_durably(&out, text.as_bytes(), 0o600)?;
            anstream::println!("wrote {}", out.display());
        }
        KeyCommand::List { json } => {
            let state = repository.journal.state();
            let recipients = repository.recipients().await?.into_iter().map(|it| {
                let kind = if it.passphrase { "passphrase" } else { "key" };
                (it.id, kind.to_owned(), it.label.unwrap_or_else(|| "made by `asof init`".to_owned()))
            });
            let signers = state.signers.iter().map(|(id, entry)| {
                let roles: Vec<String> = entry.roles.iter().map(|role| format!("{role:?}").to_lowercase()).collect();
                (id.to_string(), format!("signer: {}", roles.join(", ")), entry.label.clone())
            });
            let rows: Vec<_> = recipients.chain(signers).collect();
            if json {
                let value = |(id, kind, label): &(String, String, String)| serde_json::json!({ "id": id, "kind": kind, "label": label });
                show::json(&serde_json::Value::Array(rows.iter().map(value).collect()));
            } else {
                show::table(&["ID", "KIND", "LABEL"], rows.into_iter().map(|(id, kind, label)| vec![id, kind, label]));
            }
        }
        KeyCommand::Export => {
            // A kit that cannot restore would be found out on the worst day.
            repository.keyring.require_data_secret("the recovery kit")?;
            let Some(path) = &loaded.config.repository.key_file else {
                let what = format!("{} names no key_file, and the recovery kit holds a key", loaded.path.display());
                return Err(Failure::refused(
                    what,
                    "make a key with `asof key add LABEL --out FILE` and name it there",
                ));
            };
            let key = std::fs::read_to_string(path).map_err(Failure::file("read the key file", path))?;
            anstream::println!("RECOVERY KIT — keep this on paper, away from the machines it protects");
            anstream::println!();
            anstream::println!("repository   {}", loaded.config.repository.url);
            anstream::println!("root key     {}", repository.root.fingerprint());
            anstream::println!();
            anstream::println!("{}", key.trim());
            anstream::println!();
            anstream::println!(
                "On a bare machine: put the lines above into asof.key (mode 0600) and this into asof.toml:"
            );
            anstream::println!("[repository]");
            anstream::println!("url = \"{}\"", loaded.config.repository.url);
            anstream::println!("root_key = \"{}\"", repository.root.fingerprint());
            anstream::println!("key_file = \"asof.key\"");
            for name in loaded.config.instances.keys() {
                anstream::println!("[instances.{name}]");
            }
            anstream::println!("then: asof restore NAME --latest --as restored");
        }
    }
    Ok(())
}
