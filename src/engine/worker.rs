//! One chunk, one transaction.
//!
//! Claim, rows, done mark, COMMIT. The claim waits for whoever holds the chunk's row and then sees the truth, so the same four
//! steps start a chunk, repeat it after an error, and find out what became of a COMMIT whose answer was lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use tokio::sync::mpsc;
use tokio_postgres::{CancelToken, Client};

use super::{Fault, Setback, Work};
use crate::db::session::Bounds;
use crate::db::{Class, roll_back};
use crate::plan::rehearse::{params as range_params, typed};
use crate::state::{Chunk, RunState};

/// A committed chunk.
#[derive(Clone, Debug)]
pub struct Settled {
    /// Rows written.
    pub rows: i64,
    /// From the beginning of the transaction to its commit.
    pub took: Duration,
    /// Of that, the statements that write the rows.
    pub writing: Duration,
    /// Whether an earlier attempt had committed it.
    pub found_done: bool,
    /// The run's control version at the claim.
    pub control_version: i32,
}

/// How an attempt on a chunk ended.
#[derive(Debug)]
pub enum Attempt {
    /// Committed.
    Settled(Settled),
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
}

/// Takes a chunk through its transaction.
pub async fn work(
    work: Arc<Work>,
    chunk: Chunk,
    bounds: Bounds,
    notes: mpsc::UnboundedSender<Note>,
) -> (Chunk, Attempt) {
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
    let fault = |error: tokio_postgres::Error, step: Instant| {
        Setback::Fault(Fault::from_error(&error, step.elapsed(), bounds.statement))
    };
    // The claim is sent along with BEGIN, which saves a round trip. Were BEGIN to fail, the claim would lock nothing beyond its own
    // statement, and nothing is written before both have succeeded.
    let (begun, claim) =
        tokio::join!(work.session.begin(client, bounds), work.store.claim(client, at));
    begun.map_err(|error| Setback::from_begin(&error, step.elapsed(), bounds.statement))?;
    let claim =
        claim.map_err(|error| Setback::from_store(error, step.elapsed(), bounds.statement))?;
    let settled = |rows, writing, found_done| {
        let (took, control_version) = (started.elapsed(), claim.control_version);
        Attempt::Settled(Settled { rows, took, writing, found_done, control_version })
    };
    if let Some(rows) = claim.done_rows {
        client.batch_execute("COMMIT").await.map_err(|error| fault(error, step))?;
        return Ok(settled(rows, Duration::ZERO, true));
    }
    if claim.run_state != RunState::Running {
        return Ok(Attempt::Refused(claim.run_state));
    }
    let has_after = claim.range.after.is_some();
    let params = range_params(&claim.range);
    if let Some(ambiguous) = &work.sql.ambiguous {
        step = Instant::now();
        let rows = client.query_typed(ambiguous.get(has_after), &typed(&params)).await;
        if let Some(row) = rows.map_err(|error| fault(error, step))?.first() {
            return Err(ambiguous_join(&row.get::<_, Vec<String>>(0)));
        }
    }
    step = Instant::now();
    let rows = client.execute_typed(work.sql.update.get(has_after), &typed(&params)).await;
    let rows = rows.map_err(|error| fault(error, step))? as i64;
    let writing = step.elapsed();
    let _ = notes.send(Note::Written(chunk.seq));
    step = Instant::now();
    let marked = async {
        if work.has_quarantine {
            work.store.release(client, at).await?;
        }
        work.store.settle(client, at, rows, started.elapsed().as_millis() as i32).await
    };
    marked.await.map_err(|error| Setback::from_store(error, step.elapsed(), bounds.statement))?;
    step = Instant::now();
    client.batch_execute("COMMIT").await.map_err(|error| fault(error, step))?;
    Ok(settled(rows, writing, false))
}

fn ambiguous_join(key: &[String]) -> Setback {
    let key = key.join(", ");
    Setback::Fault(Fault {
        class: Class::Fatal,
        sqlstate: None,
        message: format!(
            "the row with key ({key}) matches several rows of the spec's `from`; which of them would write it is left \
             to chance. Make the join unique and start again"
        ),
    })
}
