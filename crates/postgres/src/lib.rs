//! placeholder

pub mod lsn;
pub mod version;
