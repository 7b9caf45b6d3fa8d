//! Chunks as the state tables hold them.

use tokio_postgres::Row;

use super::RunState;
use crate::key::{Bound, KeyRange, Place, Stripe};

/// A chunk to be worked on.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Its number within the run.
    pub seq: i64,
    /// The slice of the key space, or a stripe of it.
    pub range: KeyRange,
    /// Index entries in it when it was cut.
    pub keys: i32,
}

impl Chunk {
    /// Reads `seq, after_key, upto_key, keys, stripe, stripes`.
    pub(super) fn read(row: &Row) -> Chunk {
        Chunk {
            seq: row.get(0),
            range: KeyRange {
                after: row.get::<_, Option<Vec<String>>>(1).map(Bound),
                upto: Bound(row.get(2)),
                stripe: stripe(row.get(4), row.get(5)),
                only: None,
            },
            keys: row.get(3),
        }
    }
}

/// One stripe of one is the whole slice.
pub(super) fn stripe(j: i16, k: i16) -> Option<Stripe> {
    (k > 1).then_some(Stripe { j, k, is_dense: false })
}

/// What a claim found.
#[derive(Debug)]
pub struct Claim {
    /// The rows of the chunk, when it is already done.
    pub done_rows: Option<i64>,
    /// The slice as it is now, of the keys of its place; a split may have shortened it.
    pub range: KeyRange,
    /// Where its statements go.
    pub place: Place,
    /// The chunk whose before-images it reads; itself in a forward run.
    pub source_seq: i64,
    /// The run's state at that moment.
    pub run_state: RunState,
    /// The run's control version at that moment.
    pub control_version: i32,
    /// Where the server's WAL stands, in bytes.
    pub wal_at: i64,
    /// HOT updates that the session had counted on the table, which is more than this transaction's.
    pub hot_at: i64,
}

/// What a chunk did.
#[derive(Clone, Copy, Debug)]
pub struct Done<'a> {
    /// Rows written.
    pub rows: i64,
    /// Since its claim.
    pub took_ms: i32,
    /// What the claim told, where HOT updates are to be counted.
    pub hot_at: Option<i64>,
    /// Where its statements went.
    pub place: &'a Place,
    /// Whether there was nowhere to go: its leaf is no part of the table any more.
    pub is_passed_over: bool,
}

/// What settling a chunk told.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Where the server's WAL stands, in bytes.
    pub wal_at: i64,
    /// Rows written that needed no new index entry; none where nobody counted.
    pub hot: Option<i64>,
    /// Whether the name that the statements used is that of the chunk's leaf. If not, they met another table, or one that is no part
    /// any more, and must be rolled back.
    pub is_there: bool,
}

/// Where a chunk is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The chunk's inclusive end.
    pub upto: Bound,
    /// Index entries in it.
    pub keys: i32,
    /// The only keys of it that are to be looked at, as [`KeyRange::only`]; none for all.
    pub only: Option<String>,
}

impl Cut {
    /// A chunk of all keys up to a bound.
    pub fn new(upto: Bound, keys: i32) -> Cut {
        Cut { upto, keys, only: None }
    }
}

/// How far a run has come with making chunks.
#[derive(Debug)]
pub struct CutTo {
    /// The end of the last chunk.
    pub upto: Option<Bound>,
    /// Whether the ceiling is reached.
    pub is_whole: bool,
    /// Whether the table that it walks has been rewritten since it began.
    pub is_rewritten: bool,
}

/// What a walk leaves to the sweep.
#[derive(Debug)]
pub struct WalkLeft {
    /// Its chunks that are still to be done.
    pub open: i64,
    /// The keys that its chunks could not do.
    pub keys: Vec<Bound>,
}

/// What a sweep has left.
#[derive(Debug)]
pub struct SweepLeft {
    /// Its chunks that are still to be done, or the first of them.
    pub pending: Vec<Chunk>,
    /// Whether one of its chunks failed.
    pub has_failed: bool,
}

/// A row that was set aside.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Quarantined {
    /// Its key.
    pub key: Vec<String>,
    /// The error's code.
    pub sqlstate: String,
    /// The server's message.
    pub message: String,
    /// When, ISO 8601.
    pub set_aside_at: String,
}

/// What the chunks add up to.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// Chunks done.
    pub chunks_done: i64,
    /// Chunks given up.
    pub chunks_failed: i64,
    /// Chunks cut and not done.
    pub chunks_pending: i64,
    /// Rows written.
    pub rows_done: i64,
    /// Index entries in the chunks done.
    pub keys_done: i64,
    /// Index entries in all chunks cut.
    pub keys_cut: i64,
    /// When the last chunk was settled, ISO 8601.
    pub last_settled_at: Option<String>,
    /// Index entries in the chunks that the newest runner did.
    pub keys_here: i64,
    /// HOT updates, and the rows written where they were counted; none where nobody counted.
    pub hot: Option<(i64, i64)>,
}

/// The chunk map as evidence.
#[derive(Clone, Copy, Debug)]
pub struct Cover {
    /// Chunks in all.
    pub chunks: i64,
    /// Of these not done.
    pub open: i64,
    /// Of these not beginning where another ends.
    pub loose: i64,
    /// Whether the last ends at the ceiling.
    pub reaches_ceiling: bool,
}

impl Cover {
    /// Whether every key up to the ceiling lies in a done chunk.
    pub fn is_complete(&self) -> bool {
        self.open == 0 && self.loose == 0 && (self.chunks == 0 || self.reaches_ceiling)
    }
}
