//! WAL on its way into the repository and back.

pub mod archive;
pub mod assemble;
pub mod feed;
mod forward;
pub mod ingest;
mod merging;
pub mod prefetch;
pub mod receiver;
pub mod shape;
pub mod spool;
pub mod stream;
mod tail;
