//! Schema steps: the revisions in `migrations/`, their order, and how their statements are run.

pub mod split;
pub mod class;
pub mod requirement;
pub mod file;
pub mod tree;
pub mod unit;
pub mod patience;
pub mod blockers;
pub mod watch;
pub mod snapshot;
pub mod facts;
pub mod trace;
pub mod lint;
pub mod pattern;
pub mod apply;
mod transaction;
mod outside;
