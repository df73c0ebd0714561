//! placeholder

pub mod conninfo;
pub mod lsn;
pub mod version;
