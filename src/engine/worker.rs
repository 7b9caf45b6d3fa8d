//! One chunk, one transaction.
//!
//! Claim, rows, done mark, COMMIT. The claim waits for whoever holds the chunk's row and then sees the truth, so the same four
//! steps start a chunk, repeat it after an error, and find out what became of a COMMIT whose answer was lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use tokio::sync::mpsc;
use tokio_postgres::{CancelToken, Client};

use super::writing::write;
use super::{Fault, Setback, Work, halving};
use crate::db::roll_back;
use crate::db::session::Bounds;
use crate::key::Place;
use crate::mutation::{Guard, Step};
use crate::state::{Chunk, Done, RunState, StoreError};

/// A committed chunk.
#[derive(Clone, Debug)]
pub struct Settled {
    /// Rows written.
    pub rows: i64,
    /// From the beginning of the transaction to its commit.
    pub took: Duration,
    /// Of that, the statements that write the rows.
    pub writing: Duration,
    /// Of that, COMMIT.
    pub committing: Duration,
    /// Where the server's WAL stood at the claim and at the mark, in bytes.
    pub wal: (i64, i64),
    /// Bytes of before-images saved, as they were in memory.
    pub image_bytes: i64,
    /// Whether an earlier attempt had committed it.
    pub found_done: bool,
    /// The run's control version at the claim.
    pub control_version: i32,
    /// Rows written that needed no new index entry; none where nobody counted.
    pub hot: Option<i64>,
    /// The leaf that it belongs to and that is no part of the table any more.
    pub passed_over: Option<usize>,
}

/// How an attempt on a chunk ended.
#[derive(Debug)]
pub enum Attempt {
    /// Committed.
    Settled(Settled),
    /// Not tried: it was of unknown size, and is these chunks now.
    Measured(Vec<Chunk>),
    /// Not tried: the run is no longer running.
    Refused(RunState),
    /// Rolled back.
    Setback(Setback),
}

/// What a worker tells while it is at work.
pub enum Note {
    /// The chunk has its connection; the token cancels what it executes.
    Begun(i64, CancelToken),
    /// The chunk's rows are written: what is left, its mark and the COMMIT, mostly waits for the disk, and another chunk may use the
    /// processor.
    Written(i64),
    /// A vacuum has its connection; the token cancels it.
    Vacuuming(CancelToken),
    /// A look behind a walk has its connection, and the token cancels it; or it is over.
    Looking(Option<CancelToken>),
}

/// Takes a chunk through its transaction. One of unknown size is cut into slices of `size` entries first.
pub async fn work(
    work: Arc<Work>,
    chunk: Chunk,
    (bounds, size): (Bounds, u32),
    notes: mpsc::UnboundedSender<Note>,
) -> (Chunk, Attempt) {
    if chunk.keys == 0 && work.leaves.is_some() {
        match halving::measure(&work, &chunk, size).await {
            Ok(None) => {}
            Ok(Some(parts)) => return (chunk, Attempt::Measured(parts)),
            Err(setback) => return (chunk, Attempt::Setback(setback)),
        }
    }
    let connection = match work.database.get().await {
        Ok(connection) => connection,
        Err(error) => return (chunk, Attempt::Setback(Setback::from_connect(&error))),
    };
    let _ = notes.send(Note::Begun(chunk.seq, connection.cancel_token()));
    let attempt = match transaction(&work, &connection, &chunk, bounds, &notes).await {
        Ok(attempt) => attempt,
        Err(setback) => {
            roll_back(connection).await;
            return (chunk, Attempt::Setback(setback));
        }
    };
    if let Attempt::Refused(_) = attempt {
        roll_back(connection).await;
    }
    (chunk, attempt)
}

async fn transaction(
    work: &Work,
    connection: &Object,
    chunk: &Chunk,
    bounds: Bounds,
    notes: &mpsc::UnboundedSender<Note>,
) -> Result<Attempt, Setback> {
    let client: &Client = connection;
    let started = Instant::now();
    let mut step = Instant::now();
    let at = work.address(chunk.seq);
    let store = work.store.within();
    let fault = |error: tokio_postgres::Error, step: Instant| {
        Setback::Fault(Fault::from_error(&error, step.elapsed(), bounds.statement))
    };
    // The claim is sent along with BEGIN, which saves a round trip. Were BEGIN to fail, the claim would lock nothing beyond its own
    // statement, and nothing is written before both have succeeded.
    let (begun, claim) =
        tokio::join!(biased; work.session.begin(client, bounds), store.claim(client, at));
    begun.map_err(|error| Setback::from_begin(&error, step.elapsed(), bounds.statement))?;
    let claim =
        claim.map_err(|error| Setback::from_store(error, step.elapsed(), bounds.statement))?;
    let mut settled = Settled {
        rows: 0,
        took: Duration::ZERO,
        writing: Duration::ZERO,
        committing: Duration::ZERO,
        wal: (claim.wal_at, claim.wal_at),
        image_bytes: 0,
        found_done: false,
        control_version: claim.control_version,
        hot: None,
        passed_over: None,
    };
    if let Some(rows) = claim.done_rows.filter(|_| !Guard::Claim.is_out()) {
        client.batch_execute("COMMIT").await.map_err(|error| fault(error, step))?;
        let took = started.elapsed();
        return Ok(Attempt::Settled(Settled { rows, took, found_done: true, ..settled }));
    }
    if claim.run_state != RunState::Running {
        return Ok(Attempt::Refused(claim.run_state));
    }
    Step::Claimed.reach();
    step = Instant::now();
    let written = write(work, client, &claim, chunk.seq, bounds).await?;
    (settled.rows, settled.image_bytes) = (written.rows, written.image_bytes);
    settled.writing = step.elapsed();
    Step::Written.reach();
    let _ = notes.send(Note::Written(chunk.seq));
    step = Instant::now();
    let marked = async {
        if work.has_quarantine {
            store.release(client, at).await?;
        }
        let took = started.elapsed().as_millis() as i32;
        let hot_at = (work.counts_hot && !written.is_elsewhere).then_some(claim.hot_at);
        let done = Done {
            rows: settled.rows,
            took_ms: took,
            hot_at,
            place: &claim.place,
            is_passed_over: written.is_passed_over,
        };
        let mark = store.settle(client, at, done).await?;
        if mark.is_there { Ok(mark) } else { Err(StoreError::PlaceMeanwhile) }
    };
    let marked = marked.await;
    let mark =
        marked.map_err(|error| Setback::from_store(error, step.elapsed(), bounds.statement))?;
    (settled.wal.1, settled.hot) = (mark.wal_at, mark.hot);
    if let (Place::Gone(leaf), true) = (&claim.place, written.is_passed_over) {
        settled.passed_over = Some(*leaf);
    }
    Step::Marked.reach();
    step = Instant::now();
    client.batch_execute("COMMIT").await.map_err(|error| fault(error, step))?;
    Step::Committed.reach();
    (settled.committing, settled.took) = (step.elapsed(), started.elapsed());
    Ok(Attempt::Settled(settled))
}
