//! The tests that need a server, and those that look at the tree: one binary, a file for each behaviour.
#![allow(
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "support is shared by the files of this binary, not published; a test that cannot go on panics"
)]

mod architecture;
mod bad_input;
mod company;
mod control;
mod demo;
mod dependencies;
mod encryption;
mod exactly_once;
mod failover;
mod foreign;
mod fuzz;
mod guards;
mod joins;
mod latency;
mod keyless;
mod laws;
mod limiting;
mod migrate;
mod migrate_lint;
mod migrate_locks;
mod names;
mod pacing;
mod partitions;
mod patterns;
mod physical;
mod plan;
mod planted;
mod poison;
mod proofs;
mod reverse;
mod reverse_laws;
mod secrets;
mod steps;
mod storage;
mod support;
mod versions;
mod wraparound;
