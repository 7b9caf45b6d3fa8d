//! Runs the chunks of a run, exactly once each, at the pace that is allowed.
//!
//! One task, the [`dispatcher`], owns everything that changes: the queue, the limits, the sizer, the pacer, what is in flight. A
//! [`worker`] takes one chunk through one transaction and reports; it shares nothing. The [`chunker`] cuts the next chunks behind the
//! last one; [`halving`] cuts those again that do not go through. Resuming is starting: pending chunks come first, then cutting goes on where it
//! ended.
//!
//! A chunk's future is never cancelled from outside. Its time is bounded on the server; a second signal cancels the statement there,
//! and the chunk's own error path ends the transaction.

pub mod chunker;
mod conclusion;
mod control;
mod crew;
mod pacing;
pub mod dispatcher;
pub mod halving;
pub mod queue;
mod recovery;
pub mod retry;
pub mod sizer;
mod stripes;
mod supply;
mod vacuuming;
mod walk;
pub mod worker;
mod writing;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub use pacing::Pace;
pub use stripes::{stripe_rows_max, window_max};

use crate::db::session::Bounds;
use crate::db::{Class, Database, Session};
use crate::key::{Bound, Leaves, Place};
use crate::plan::{ChunkSql, Walk};
use crate::settings::{Durability, Limits};
use crate::sql::QualifiedName;
use crate::state::{Address, RunState, Store, StoreError};

/// Everything a run needs that does not change while it is at work. Shared by the dispatcher and its workers.
#[derive(Clone)]
pub struct Work {
    /// The way to the server.
    pub database: Database,
    /// The state tables.
    pub store: Arc<Store>,
    /// The statements.
    pub sql: Arc<ChunkSql>,
    /// What is sent to the leaves that are walked by place.
    pub walk: Option<Arc<Walk>>,
    /// Whether keys that a sweep lists are found without a join.
    pub lists_by_index: bool,
    /// Whether what was swept behind a walk must be given back before what was walked.
    pub sweep_comes_first: bool,
    /// What every transaction pins.
    pub session: Session,
    /// The run.
    pub run_id: i64,
    /// Our epoch.
    pub epoch: i32,
    /// The greatest key; none when there is nothing to cut.
    pub ceiling: Option<Bound>,
    /// The leaves that the run goes through one after the other, when it does.
    pub leaves: Option<Leaves>,
    /// The numbers of those that are cut into plain slices, whatever the others are.
    pub small_leaves: HashSet<usize>,
    /// The table, to be vacuumed.
    pub table: TableRef,
    /// Whether the server counts HOT updates of the table: it does not for the parent of partitions.
    pub counts_hot: bool,
    /// Whether chunks whose row was set aside are being tried again.
    pub has_quarantine: bool,
    /// Whether chunks may bet that nobody changes their rows.
    pub caution: Arc<Caution>,
}

/// A table by its number and its name.
#[derive(Clone, Debug)]
pub struct TableRef {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its name.
    pub name: QualifiedName,
}

/// Remembers lost bets: where one chunk met another writer, the next ones will.
#[derive(Debug, Default)]
pub struct Caution {
    /// Chunks that still lock first.
    careful: AtomicU32,
    /// For how many the last lost bet did that; zero after a bet won.
    spell: AtomicU32,
}

/// Chunks that lock their rows after a lost bet. A lost bet costs a chunk's work, so at first one part in this many is wasted; with each
/// further one in a row it is half as much.
const CAREFUL_CHUNKS: u32 = 64;

/// Most chunks that lock after a lost bet: an hour or so of them, after which the other writers may be gone.
const CAREFUL_MAX: u32 = 8_192;

impl Caution {
    fn may_bet(&self) -> bool {
        let count_down = |left: u32| left.checked_sub(1);
        self.careful.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count_down).is_err()
    }

    fn lost(&self) {
        let spell = (self.spell.load(Ordering::Relaxed) * 2).clamp(CAREFUL_CHUNKS, CAREFUL_MAX);
        self.spell.store(spell, Ordering::Relaxed);
        self.careful.store(spell, Ordering::Relaxed);
    }

    fn won(&self) {
        self.spell.store(0, Ordering::Relaxed);
    }
}

impl Work {
    fn address(&self, seq: i64) -> Address {
        Address { run_id: self.run_id, epoch: self.epoch, seq }
    }

    /// Bytes of its source that each statement reads, however small the chunk.
    fn reads_whole(&self) -> i64 {
        let beside = self.walk.as_ref().and_then(|walk| walk.sql.joins_in_bulk);
        self.sql.joins_in_bulk.or(beside).unwrap_or(0)
    }

    /// About how long that takes; none where nothing is read so.
    fn reading(&self) -> Option<Duration> {
        let bytes = self.reads_whole() as f64;
        (bytes > 0.0).then(|| Duration::from_secs_f64(bytes / (SOURCE_PER_S as f64 * 10.0)))
    }

    /// Time bounds of a chunk: a statement may take four times the chunk time, at least 2 s, and at least twice the lock wait, or waiting for
    /// the application would be taken for a chunk too big. Past that the chunk is halved.
    ///
    /// Less would halve chunks for an ordinary checkpoint's stall; more would hold row locks longer than applications wait. What a statement
    /// reads as a whole comes on top, for no half would read less.
    fn bounds(&self, limits: &Limits) -> Bounds {
        let waiting = limits.lock_timeout.value * 2;
        let statement = (limits.chunk_time.value * 4).max(Duration::from_secs(2)).max(waiting);
        let reading = self.reads_whole() as u64 * u64::from(limits.workers.value) / SOURCE_PER_S;
        let statement = statement + Duration::from_secs(reading).min(READING_MAX);
        let is_durable = limits.durability.value == Durability::Commit;
        Bounds { lock: limits.lock_timeout.value, statement, is_durable }
    }
}

/// Longer is nothing waited for with rows locked.
const READING_MAX: Duration = Duration::from_secs(3_600);

/// Bytes of a source that any server reads and hashes a second, for all workers: a tenth of what one with two processors and a slow disk did, whose hash
/// went through files.
const SOURCE_PER_S: u64 = 25_000_000;

/// How a runner's work ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The run reached this state.
    Reached(RunState),
    /// The server stayed away; the run is as it was, to be resumed.
    Lost(String),
    /// Another runner has taken the run over.
    TakenOver,
}

/// How far a stop has been asked for. Ordered: it only ever rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Not at all.
    #[default]
    No,
    /// Start no chunk; let those in flight settle.
    Drain,
    /// Cancel the statements in flight on the server.
    Cancel,
}

/// A chunk that was not committed, and why.
#[derive(Debug)]
pub struct Fault {
    /// What to do about it.
    pub class: Class,
    /// The server's code, when it spoke.
    pub sqlstate: Option<String>,
    /// The server's words.
    pub message: String,
}

impl Fault {
    fn from_error(error: &tokio_postgres::Error, elapsed: Duration, timeout: Duration) -> Fault {
        Fault {
            class: crate::db::classify(error, elapsed, timeout),
            sqlstate: crate::db::error::sqlstate(error).map(str::to_owned),
            message: crate::db::message(error),
        }
    }
}

/// Why a step of the engine did not succeed.
#[derive(Debug)]
pub enum Setback {
    /// An error of the server or the network.
    Fault(Fault),
    /// Our epoch is over.
    TakenOver,
}

impl Setback {
    /// BEGIN itself failed. On a standby that asks for a writable transaction in vain it says "feature not supported".
    fn from_begin(error: &tokio_postgres::Error, elapsed: Duration, timeout: Duration) -> Setback {
        let mut fault = Fault::from_error(error, elapsed, timeout);
        if fault.sqlstate.as_deref() == Some("0A000") {
            fault.class = Class::ReadOnly;
        }
        Setback::Fault(fault)
    }

    /// A statement that went somewhere. A leaf that is not found there was dropped or renamed since its name was looked up, and the next
    /// look will know better.
    fn from_place(
        error: &tokio_postgres::Error,
        place: &Place,
        elapsed: Duration,
        timeout: Duration,
    ) -> Setback {
        let mut fault = Fault::from_error(error, elapsed, timeout);
        let is_gone = fault.sqlstate.as_deref() == Some("42P01");
        if is_gone && matches!(place, Place::Leaf(..)) {
            fault.class = Class::Contention;
        }
        Setback::Fault(fault)
    }

    fn from_store(error: StoreError, elapsed: Duration, timeout: Duration) -> Setback {
        match error {
            StoreError::EpochOver => Setback::TakenOver,
            StoreError::CutMeanwhile | StoreError::PlaceMeanwhile => Setback::Fault(Fault {
                class: Class::Contention,
                sqlstate: None,
                message: error.to_string(),
            }),
            StoreError::Statement(_, error) | StoreError::Forbidden { source: error, .. } => {
                Setback::Fault(Fault::from_error(&error, elapsed, timeout))
            }
            other => Setback::Fault(Fault {
                class: Class::Fatal,
                sqlstate: None,
                message: other.to_string(),
            }),
        }
    }

    fn from_connect(error: &crate::db::ConnectError) -> Setback {
        Setback::Fault(match error {
            crate::db::ConnectError::Refused { source, .. } => {
                let mut fault = Fault::from_error(source, Duration::ZERO, Duration::MAX);
                // A password changed in the middle of a run, or a database being renamed: waiting may mend it, and
                // [`retry::ABSENCE_MAX`] bounds the wait.
                if fault.class == Class::Fatal {
                    fault.class = Class::Connection;
                }
                fault
            }
            _ => Fault { class: Class::Connection, sqlstate: None, message: error.to_string() },
        })
    }
}

/// Connections a run may use: two for each worker, because a chunk that waits for its COMMIT lets the next one start, and one each for
/// cutting, requests, the lock, a vacuum, and a spare for looking around.
pub fn pool_size(workers: u32) -> usize {
    workers as usize * 2 + 5
}
