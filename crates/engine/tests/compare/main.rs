//! Comparing two databases: each kind of difference is planted once and named, what is no difference is not called one, and what
//! could not be compared is never "equal".

mod differences;
mod kinds;
mod limits;
mod sameness;
mod stage;
#[path = "../support/mod.rs"]
mod support;
