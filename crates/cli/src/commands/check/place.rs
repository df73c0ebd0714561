//! Whether the repository's store keeps what it must.

use asof_engine::error::in_one_line;
use std::time::Duration;

use asof_repository::store::probe::{Capabilities, probe};

use crate::context::Context;
use crate::failure::Result;

/// How long a store that does not answer is asked again: enough for a hiccup.
const PATIENCE: Duration = Duration::from_secs(5);

/// What trying the store gives; only that the store cannot be opened at all is an error of the command.
pub(super) async fn repository_store(context: &Context) -> Result<Result<String, String>> {
    let loaded = context.loaded()?;
    let store = context.store_asked_for(&loaded.config.repository.url, PATIENCE)?;
    let single_writer = context.repository(&loaded).await?.root.single_writer;
    let found = match probe(store.as_ref(), &context.world).await {
        Ok(found) => found,
        Err(error) => return Ok(Err(in_one_line(error))),
    };
    let protects = found.require(&store.place(), single_writer).map_err(in_one_line);
    Ok(protects.map(|()| described(&found)))
}

fn described(found: &Capabilities) -> String {
    let mut words = vec![match &found.overwrites {
        None => "creates without overwriting, reads back at once".to_owned(),
        Some(how) => format!("used by a single writer, because {how}"),
    }];
    if !found.lists_at_once {
        words.push("lists with a delay".to_owned());
    }
    words.extend(found.left_behind.clone());
    words.join("; ")
}
