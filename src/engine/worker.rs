//! One chunk, one transaction.
//!
//! Claim, rows, done mark, COMMIT. The claim waits for whoever holds the chunk's row and then sees the truth, so the same four
//! steps start a chunk, repeat it after an error, and find out what became of a COMMIT whose answer was lost.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use tokio::sync::mpsc;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{CancelToken, Client};

use super::{Fault, Setback, Work, chunker};
use crate::db::session::Bounds;
use crate::db::{Class, roll_back};
use crate::key::Place;
use crate::plan::ByRange;
use crate::plan::rehearse::{params as range_params, typed};
use crate::state::{Chunk, Claim, Done, RunState, StoreError};
use crate::undo::Conflicts;

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
}

/// Takes a chunk through its transaction. One of unknown size is cut into slices of `size` entries first.
pub async fn work(
    work: Arc<Work>,
    chunk: Chunk,
    (bounds, size): (Bounds, u32),
    notes: mpsc::UnboundedSender<Note>,
) -> (Chunk, Attempt) {
    if chunk.keys == 0 && work.leaves.is_some() {
        match chunker::measure(&work, &chunk, size).await {
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
    if let Some(rows) = claim.done_rows {
        client.batch_execute("COMMIT").await.map_err(|error| fault(error, step))?;
        let took = started.elapsed();
        return Ok(Attempt::Settled(Settled { rows, took, found_done: true, ..settled }));
    }
    if claim.run_state != RunState::Running {
        return Ok(Attempt::Refused(claim.run_state));
    }
    step = Instant::now();
    let written = write(work, client, &claim, chunk.seq, bounds).await?;
    (settled.rows, settled.image_bytes) = (written.rows, written.image_bytes);
    settled.writing = step.elapsed();
    let _ = notes.send(Note::Written(chunk.seq));
    step = Instant::now();
    let marked = async {
        if work.has_quarantine {
            work.store.release(client, at).await?;
        }
        let took = started.elapsed().as_millis() as i32;
        let hot_at = work.counts_hot.then_some(claim.hot_at);
        let done = Done { rows: settled.rows, took_ms: took, hot_at, place: &claim.place };
        let mark = work.store.settle(client, at, done).await?;
        if mark.is_there { Ok(mark) } else { Err(StoreError::PlaceMeanwhile) }
    };
    let marked = marked.await;
    let mark =
        marked.map_err(|error| Setback::from_store(error, step.elapsed(), bounds.statement))?;
    (settled.wal.1, settled.hot) = (mark.wal_at, mark.hot);
    if let Place::Gone(leaf) = claim.place {
        settled.passed_over = Some(leaf);
    }
    step = Instant::now();
    client.batch_execute("COMMIT").await.map_err(|error| fault(error, step))?;
    (settled.committing, settled.took) = (step.elapsed(), started.elapsed());
    Ok(Attempt::Settled(settled))
}

/// What the writing statements did.
struct Written {
    rows: i64,
    image_bytes: i64,
}

/// Locks and saves when before-images are kept that way, then writes; and makes sure that both met the same rows.
async fn write(
    work: &Work,
    client: &Client,
    claim: &Claim,
    seq: i64,
    bounds: Bounds,
) -> Result<Written, Setback> {
    let form = claim.range.form();
    let params = range_params(&claim.range);
    let mut step = Instant::now();
    let fault = |error: tokio_postgres::Error, step: Instant| {
        Setback::from_place(&error, &claim.place, step.elapsed(), bounds.statement)
    };
    let here = |sql: &ByRange| claim.place.text(sql.get(form)).map(Cow::into_owned);
    let target = work.sql.keep.as_ref().map_or(&work.sql.update, |keep| &keep.write);
    let Some(write) = here(target) else { return Ok(Written { rows: 0, image_bytes: 0 }) };
    if let Some(ambiguous) = work.sql.ambiguous.as_ref().and_then(here) {
        let rows = client.query_typed(&ambiguous, &typed(&params)).await;
        if let Some(row) = rows.map_err(|error| fault(error, step))?.first() {
            return Err(ambiguous_join(&row.get::<_, Vec<String>>(0)));
        }
        step = Instant::now();
    }
    let Some(keep) = &work.sql.keep else {
        let rows = client.execute_typed(&write, &typed(&params)).await;
        return Ok(Written {
            rows: rows.map_err(|error| fault(error, step))? as i64,
            image_bytes: 0,
        });
    };
    let mut bind = typed(&params);
    bind.extend([(&seq as &(dyn ToSql + Sync), Type::INT8), (&claim.source_seq, Type::INT8)]);
    if keep.joins_in_bulk {
        let bulk = client.batch_execute("SET LOCAL enable_nestloop = off").await;
        bulk.map_err(|error| fault(error, step))?;
    }
    let bet = keep.bet.as_ref().filter(|_| work.caution.may_bet()).and_then(here);
    let mut locked = None;
    if let (Some(lock), None) = (keep.lock.as_ref().and_then(here), &bet) {
        let rows = client.query_typed(&lock, &bind).await;
        let rows = rows.map_err(|error| fault(error, step))?;
        let (count, saved): (i64, i64) = (rows[0].get(0), rows[0].get(1));
        if count != saved {
            return Err(moved(&format!("{count} rows locked, {saved} saved")));
        }
        locked = Some(count);
        step = Instant::now();
    }
    let sql = bet.as_ref().unwrap_or(&write);
    let rows = client.query_typed(sql, &bind).await.map_err(|error| fault(error, step))?;
    let number = |i: usize| rows[0].get::<_, i64>(i);
    let (rows_written, accounted, conflicted) = (number(0), number(1), number(2));
    match bet {
        Some(_) if rows_written != accounted => work.caution.lost(),
        Some(_) => work.caution.won(),
        None => {}
    }
    if rows_written + conflicted != accounted || locked.is_some_and(|locked| locked != rows_written)
    {
        let locked = locked.map(|locked| format!("{locked} rows locked, ")).unwrap_or_default();
        return Err(moved(&format!(
            "{locked}{accounted} saved, {rows_written} written, {conflicted} in conflict"
        )));
    }
    if conflicted > 0 && keep.conflicts == Conflicts::Stop {
        return Err(in_conflict(&rows[0].get::<_, Option<Vec<String>>>(4).unwrap_or_default()));
    }
    Ok(Written { rows: rows_written, image_bytes: number(3) })
}

/// The application moved rows in or out under the chunk; another attempt meets them where they are now.
fn moved(counts: &str) -> Setback {
    let message = format!(
        "rows of the chunk moved while it was at work, or a trigger keeps some from being written ({counts})"
    );
    Setback::Fault(Fault { class: Class::Contention, sqlstate: None, message })
}

fn in_conflict(key: &[String]) -> Setback {
    let key = key.join(", ");
    fatal(format!(
        "the row with key ({key}) no longer holds what the backfill wrote, and conflicts stop this run; nothing of its chunk is \
         given back. Look at the row, then resume with `--conflicts=skip` to leave such rows alone"
    ))
}

fn ambiguous_join(key: &[String]) -> Setback {
    let key = key.join(", ");
    fatal(format!(
        "the row with key ({key}) matches several rows of the spec's `from`; which of them would write it is left \
         to chance. Make the join unique and start again"
    ))
}

/// What only a person can decide: the run stops.
fn fatal(message: String) -> Setback {
    Setback::Fault(Fault { class: Class::Fatal, sqlstate: None, message })
}
