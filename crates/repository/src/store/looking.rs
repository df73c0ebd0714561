//! A store without create-if-absent, used by a single writer.
//!
//! Such a store overwrites: the same writer, started anew behind a crash, would replace a long piece of WAL that it had
//! acknowledged by a shorter one that begins at the same place. So it looks first. That is no protection against a second
//! writer, which is why the operator has to vouch that there is none.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Body, Created, Listed, ReadRange, Store};
use crate::error::Result;

/// Asks whether a name is taken before it creates an object.
pub struct LookingFirst {
    inner: Arc<dyn Store>,
}

impl LookingFirst {
    /// Looks into `inner` before each creation.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl Store for LookingFirst {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn create(&self, name: &str, body: Body) -> Result<Created> {
        match self.inner.len(name).await {
            Ok(_) => Ok(Created::Exists),
            Err(error) if error.is_not_found() => self.inner.create(name, body).await,
            Err(error) => Err(error),
        }
    }

    async fn read(&self, name: &str, range: ReadRange) -> Result<Bytes> {
        self.inner.read(name, range).await
    }

    async fn len(&self, name: &str) -> Result<u64> {
        self.inner.len(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name).await
    }
}
