//! Runs large UPDATEs on PostgreSQL in chunks that can be paced, stopped, killed, resumed and trusted.
//!
//! # The straight path
//!
//! ```text
//! argv ─► cli ─► Spec ─► Plan ─► engine ──────────────────────────────────────────► Report
//!               (file)  (spec ×   dispatcher: pacer.pay → chunker.cut ─► worker ──┐
//!                        live DB)      ▲            (cut = 1 transaction) 1 chunk │
//!                                      └──────────── Settled ◄────────── = 1 tx ──┘
//!                                 Events ─► progress bar | plain lines | JSON lines
//! ```
//!
//! A [`spec::Spec`] is what the author declared. Joined with the live table it becomes a [`plan::Plan`], or refusals in words. The
//! [`engine`] cuts the key space into chunks and takes each through one transaction. Everything about progress lives in the
//! [`state`] tables, in the same database, and commits with the rows it speaks of.
//!
//! # Words
//!
//! **spec** the declared backfill · **plan** spec × live table · **run** one execution, forward or reverse · **chunk** a half-open slice
//! `(after, upto]` of the key space, or one stripe of it · **stripe** the rows of a slice whose key hashes to j of k · **walk** a pass by place in the heap · **sweep** the pass by key
//! behind it · **cut** to create
//! a chunk · **settle** to commit it · **ceiling** the greatest key when the run began · **before-image** old values of a row ·
//! **hold** throttled to zero · **pause** an operator's stop · **quarantine** a row set aside with its error · **conflict** a row a
//! reverse run left alone because somebody changed it since · **window** a calendar profile · **signal** a measured health value ·
//! **verdict** what a throttle says · **gate** a schema step's demand that a backfill is proved · **revision** a schema step.
//!
//! # Invariants
//!
//! 1. A chunk's rows, its before-images and its done mark commit in one transaction. Nothing about progress is written outside it.
//! 2. A worker claims the chunk's row first, under the run's epoch. That is the normal start and the whole recovery: after a lost COMMIT
//!    acknowledgement, beside an orphaned backend or a second runner, the claim waits and then sees the truth. The session lock is
//!    manners, never a fence.
//! 3. In flight, interrupted, percentages and times left are derived, never stored.
//! 4. Keys are opaque text here; only the server compares them.
//! 5. The end is reached when the ceiling is passed, never because a chunk wrote no row. A place in the heap proves nothing: what was
//!    walked is swept by key, or where there is no key walked again until a look finds nothing left.
//! 6. Errors are sorted by SQLSTATE in one place ([`db::error`]), COMMIT's own included.
//! 7. A chunk's future is never cancelled from outside; time is bounded on the server.
//! 8. Events and counters are made from what has been committed.
//! 9. What is unsafe is refused before the first write, with the mending command.
//! 10. SQL is built from quoted identifiers and the spec's own expressions; values are parameters. What the program asks for itself is
//!     resolved in `pg_catalog` alone ([`mod@db::ask`]), so that nobody's function or operator can come in between.
//! 11. A before-image is the row as it was locked, never as a snapshot saw it: locked = saved = written, or the chunk starts over.
//! 12. A reverse run is a run whose chunks are already cut. It gives a row back only if it still holds, to the byte, what was written; of
//!     two before-images of a row the later one first.
//! 13. A schema step's statement is marked done in its own transaction. What stands outside of one is looked up in the catalogs after
//!     an interruption; what nobody can look up is asked.
//! 14. No statement queues for a strong lock behind an old transaction, and none without a timeout. A gate is measured from the data.

pub mod mutation;
pub mod sql;
pub mod key;
pub mod event;
pub mod diagnostic;
pub mod document;
pub mod units;
pub mod budget;
pub mod calendar;
pub mod signal;
pub mod settings;
pub mod undo;
pub mod spec;
pub mod db;
pub mod vacuum;
pub mod state;
pub mod plan;
pub mod proof;
pub mod throttle;
pub mod engine;
pub mod progress;
pub mod eta;
pub mod report;
pub mod migrate;
pub mod server;
pub mod cli;
