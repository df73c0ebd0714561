//! The dump that a command is about: a file of this name, else a backup.

use std::path::{Path, PathBuf};

use asof_engine::logical::Origin;
use asof_engine::restore::find;
use asof_postgres::conninfo::Secret;
use asof_repository::lineage::Backup;

use crate::context::{Context, Instance, on_a_terminal, read_secret};
use crate::failure::{Failure, Result};

/// A dump that was named.
pub(crate) enum Named {
    /// A backup of the repository; it is not opened yet.
    Stored { instance: Box<Instance>, backup: Box<Backup> },
    /// A file or directory.
    File(Box<Origin>),
}

impl Named {
    /// Opens it. Also the instance whose backup it is.
    pub(crate) async fn open(self) -> Result<(Origin, Option<Instance>)> {
        match self {
            Self::File(origin) => Ok((*origin, None)),
            Self::Stored { instance, backup } => Ok((Origin::stored(&instance.shelf, &backup).await?, Some(*instance))),
        }
    }
}

/// Finds a dump.
pub(crate) async fn named(
    context: &Context,
    dump: &str,
    instance: Option<&str>,
    password_file: Option<&Path>,
) -> Result<Named> {
    let path = PathBuf::from(dump);
    if path.exists() {
        let secret = password(context, password_file, &path).await?;
        return Ok(Named::File(Box::new(Origin::file(&context.world, &path, secret.as_ref()).await?)));
    }
    if dump.contains('/') {
        let what = format!("there is no file {dump}");
        return Err(Failure::refused(what, "name a dump that is there, or a backup of the repository"));
    }
    let no_file = |failure| no_file_either(dump, failure);
    let instance = context.instance(instance).await.map_err(no_file)?;
    let journal = instance.shelf.journal().await?;
    let found = find(&journal.state().existing(), dump).map(|state| state.backup.clone());
    let backup = Box::new(found.map_err(|error| no_file(error.into()))?);
    Ok(Named::Stored { instance: Box::new(instance), backup })
}

/// What is no file may have been meant as one.
fn no_file_either(dump: &str, failure: Failure) -> Failure {
    let said = |what: String| format!("there is no file {dump} here, and {what}");
    match failure {
        Failure::Refused { what, hint } => Failure::refused(said(what), hint),
        Failure::Engine(asof_engine::Error::Refused { what, hint }) => {
            asof_engine::Error::Refused { what: said(what), hint }.into()
        }
        other => other,
    }
}

/// The password of a file that `openssl enc` encrypted: from its file, or asked for.
async fn password(context: &Context, file: Option<&Path>, path: &Path) -> Result<Option<Secret>> {
    if let Some(file) = file {
        let text = read_secret("password file", file, "write the password into it, and chmod 600")?;
        return Ok(Some(Secret::new(text.trim_end_matches(['\r', '\n']))));
    }
    if !Origin::is_encrypted(&context.world, path).await? || !on_a_terminal() {
        return Ok(None);
    }
    let password = rpassword::prompt_password(format!("Password of {}: ", path.display()));
    Ok(Some(Secret::new(password.map_err(Failure::file("read", "the terminal"))?)))
}
