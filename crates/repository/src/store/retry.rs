//! The one retry loop: a store that does not answer is asked again for a bounded time.
//!
//! A creation whose outcome is unknown is settled by reading the object back: our own bytes mean that it happened,
//! other bytes mean that somebody else has the name, absence means that it did not happen. Every object that we create
//! carries a fresh salt, so equal bytes are our bytes.

use std::sync::Arc;
use std::time::Duration;

use asof_world::World;
use async_trait::async_trait;
use bytes::Bytes;

use super::{Body, Created, Listed, ReadRange, Store};
use crate::error::{Error, Result};

/// First wait between two tries; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A store that asks again when another store did not answer, for at most `patience`.
pub struct Retrying {
    inner: Arc<dyn Store>,
    world: World,
    patience: Duration,
}

impl Retrying {
    /// Retries calls to `inner` until `patience` is used up.
    pub fn new(inner: Arc<dyn Store>, world: World, patience: Duration) -> Self {
        Self { inner, world, patience }
    }

    /// Waits before the next try, or says that there is none.
    async fn wait(&self, started: Duration, tries: &mut u32) -> bool {
        let wait = LONGEST_WAIT.min(FIRST_WAIT.saturating_mul(1 << (*tries).min(10)));
        *tries += 1;
        if self.world.monotonic().saturating_sub(started) + wait > self.patience {
            return false;
        }
        self.world.sleep(wait).await;
        true
    }

    async fn persist<T, F: Future<Output = Result<T>>>(&self, call: impl Fn() -> F) -> Result<T> {
        let (started, mut tries) = (self.world.monotonic(), 0);
        loop {
            match call().await {
                Err(error) if error.is_transient() => {
                    if !self.wait(started, &mut tries).await {
                        return Err(error);
                    }
                }
                settled => return settled,
            }
        }
    }

    /// Whether the object under `name` is the one we tried to create; `None` when there is none.
    async fn is_ours(&self, name: &str, body: &Body) -> Result<Option<bool>> {
        match self.persist(|| self.inner.read(name, ReadRange::Whole)).await {
            Ok(found) => Ok(Some(found == body.as_slice())),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What a creation ended with, given whether an earlier try may have happened, whatever the last one said.
fn settled(name: &str, in_doubt: bool, result: Result<Created>) -> Result<Created> {
    match result {
        Err(error) if in_doubt && !matches!(error, Error::Uncertain { .. }) => {
            Err(Error::Uncertain { operation: "create", object: name.to_owned(), source: Box::new(error) })
        }
        other => other,
    }
}

#[async_trait]
impl Store for Retrying {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn create(&self, name: &str, body: Body) -> Result<Created> {
        let (started, mut tries, mut in_doubt) = (self.world.monotonic(), 0, false);
        loop {
            match self.inner.create(name, body.clone()).await {
                Ok(Created::Exists) if in_doubt => {
                    let created = |ours| if ours == Some(true) { Created::New } else { Created::Exists };
                    return settled(name, in_doubt, self.is_ours(name, &body).await.map(created));
                }
                Err(error) if error.is_transient() => {
                    in_doubt |= matches!(error, Error::Uncertain { .. });
                    if !self.wait(started, &mut tries).await {
                        return settled(name, in_doubt, Err(error));
                    }
                }
                other => return settled(name, in_doubt, other),
            }
        }
    }

    async fn read(&self, name: &str, range: ReadRange) -> Result<Bytes> {
        self.persist(|| self.inner.read(name, range)).await
    }

    async fn len(&self, name: &str) -> Result<u64> {
        self.persist(|| self.inner.len(name)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.persist(|| self.inner.list(prefix)).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.persist(|| self.inner.delete(name)).await
    }
}
