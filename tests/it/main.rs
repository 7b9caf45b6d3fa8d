//! The tests that need a server, and those that look at the tree: one binary, a file for each behaviour.
#![allow(
    unreachable_pub,
    missing_docs,
    reason = "support is shared by the files of this binary, not published"
)]

mod architecture;
mod exactly_once;
mod laws;
mod poison;
mod support;
