//! What a place for objects has to do: format.md, "Stores".
//!
//! A store keeps five promises: a put that returned is durable; creation fails when the name is taken; what was put can be
//! read at once; part of an object can be read; and every call ends in one of three ways: done, not done, or *unknown*.
//! Nothing is ever overwritten. A listing is a help for finding orphans, never a reason to delete or to believe that
//! something is absent.

pub mod local;
mod looking;
pub mod probe;
mod retry;
pub mod s3;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;

pub use looking::LookingFirst;
pub use retry::Retrying;

/// Which bytes of an object to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadRange {
    /// All of it.
    Whole,
    /// `len` bytes from `offset`; an object that ends earlier is an error.
    Part {
        /// First byte.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// The last `len` bytes, or all of a shorter object.
    Last {
        /// How many at most.
        len: u64,
    },
}

/// What became of a creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object is there, made by this call.
    New,
    /// The name was taken; nothing was changed.
    Exists,
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// A place for objects. Names are relative to the repository, with `/` between parts.
#[async_trait]
pub trait Store: Send + Sync {
    /// Where this is, for messages: a path or URL without secrets.
    fn place(&self) -> String;
    /// Creates an object durably, unless the name is taken.
    async fn create(&self, name: &str, body: Body) -> Result<Created>;
    /// Reads an object or part of it.
    async fn read(&self, name: &str, range: ReadRange) -> Result<Bytes>;
    /// The length of an object.
    async fn len(&self, name: &str) -> Result<u64>;
    /// What is there below `prefix`, as far as the store knows. May be incomplete.
    async fn list(&self, prefix: &str) -> Result<Vec<Listed>>;
    /// Removes an object; absence is not an error.
    async fn delete(&self, name: &str) -> Result<()>;
}

/// The bytes of a new object. Shared, so that a retry needs no copy.
#[derive(Clone)]
pub struct Body(std::sync::Arc<dyn AsRef<[u8]> + Send + Sync>);

impl Body {
    /// A body in any memory that can be seen as bytes; aligned memory is written past the page cache.
    pub fn new(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self(std::sync::Arc::new(bytes))
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        (*self.0).as_ref()
    }

    /// The bytes as a reference-counted buffer without a copy.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::from_owner(Shared(self.clone()))
    }
}

struct Shared(Body);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}
