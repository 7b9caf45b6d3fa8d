//! A run in numbers, as `status` shows it: read from the state tables, derived, never guessed.

mod storage;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::Client;

pub use storage::StorageReport;

use crate::budget::Budget;
use crate::calendar::Calendar;
use crate::db::lock;
use crate::eta;
use crate::state::{Conflict, Passed, Quarantined, Run, RunState, Store, StoreError, Sums};
use crate::undo::UndoMode;

/// Rows set aside that a report lists; `status --json` gives them all up to this many too.
const LISTED: i64 = 20;

/// A run in numbers. The fields are the contract of `status --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The spec's name.
    pub name: String,
    /// Whether progress is that of a walk through the table's pages.
    #[serde(skip)]
    pub by_pages: bool,
    /// The run.
    pub run_id: i64,
    /// `forward` or `reverse`.
    pub direction: String,
    /// The run's state, or `interrupted`: running, but nobody holds its lock.
    pub state: String,
    /// The table.
    pub table: String,
    /// Rows written, by committed chunks only.
    pub rows_done: i64,
    /// Rows written at the end, at the share seen so far; null while nothing is known.
    pub rows_total_estimate: Option<i64>,
    /// Chunks committed.
    pub chunks_done: i64,
    /// Chunks given up.
    pub chunks_failed: i64,
    /// Chunks cut and not committed.
    pub chunks_pending: i64,
    /// Rows set aside with their errors.
    pub rows_quarantined: i64,
    /// Rows a reverse run left alone because somebody had changed them.
    pub rows_conflicted: i64,
    /// Rows a reverse run overwrote by force.
    pub rows_overwritten: i64,
    /// Conflicts, the first of them.
    pub conflicts: Vec<Conflict>,
    /// Whether and until when the run can be taken back.
    pub undo: UndoReport,
    /// Key entries passed, by committed chunks.
    pub keys_done: i64,
    /// Key entries in the table when the run began, by the planner's estimate, or what has been cut when that is more.
    pub keys_total_estimate: i64,
    /// Rows a second over the last minute; null unless live.
    pub rate_rows_per_s: Option<f64>,
    /// The limit in force; null is unlimited.
    pub rate_limit_rows_per_s: Option<f64>,
    /// Chunks in flight at once.
    pub workers: Option<i32>,
    /// How long one chunk should take.
    pub chunk_time_ms: Option<i32>,
    /// The limit in force in bytes of WAL; null is unlimited.
    pub wal_limit_bytes_per_s: Option<f64>,
    /// Bytes of WAL that a row costs; null while unknown.
    pub wal_bytes_per_row: Option<f64>,
    /// Seconds left when all goes as well as it has gone, with the windows ahead; null while unknown or when nobody is at work.
    pub eta_s_low: Option<i64>,
    /// Seconds left when it goes as badly.
    pub eta_s_high: Option<i64>,
    /// What holds the run back.
    pub throttle: ThrottleReport,
    /// Seconds under each constraint, over all runners; `none` is the server's own speed.
    pub spent_s: BTreeMap<String, f64>,
    /// What it did to the table's storage.
    pub storage: StorageReport,
    /// Who runs it, or ran it last.
    pub runner: Option<Runner>,
    /// Why it failed.
    pub failure: Option<String>,
    /// Rows set aside, the first of them.
    pub quarantined: Vec<Quarantined>,
    /// Partitions that were no part of the table any more when their turn came.
    pub passed_over: Vec<Passed>,
    /// Chunks given up, the first of them: number, code, message.
    pub failed_chunks: Vec<(i64, String, String)>,
    /// When the run was created.
    pub created_at: String,
    /// When its last runner began.
    pub started_at: String,
    /// The last change of any kind.
    pub updated_at: String,
    /// When it succeeded or was cancelled.
    pub finished_at: Option<String>,
}

/// Whether and until when a run can be taken back.
#[derive(Clone, Debug, Serialize)]
pub struct UndoReport {
    /// By what.
    pub mode: UndoMode,
    /// Whether `backfill reverse` would accept it once it is finished.
    pub is_reversible: bool,
    /// Until when its before-images are to be kept, ISO 8601; null while it is not finished, or without before-images.
    pub until: Option<String>,
    /// Whether that is past.
    pub is_overdue: bool,
    /// Bytes of before-images on disk.
    pub image_bytes: Option<i64>,
}

/// What holds a run back.
#[derive(Clone, Debug, Serialize)]
pub struct ThrottleReport {
    /// `proceed`, `slow`, `hold`, or `none` when nobody is at work.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// The constraint: `limit`, `window NAME`, or a signal.
    pub by: Option<String>,
    /// The window in force.
    pub window: Option<String>,
    /// Until when, in words.
    pub window_until: Option<String>,
}

/// What lies ahead of runs: the windows and limits of each spec.
pub trait Ahead {
    /// The windows of a spec, and its workers outside of them, when the spec can be read.
    fn of(&self, name: &str) -> (Arc<Calendar>, Option<u32>);
    /// How long before-images are to be kept.
    fn retention(&self) -> Duration;
}

/// A process that works on a run.
#[derive(Clone, Debug, Serialize)]
pub struct Runner {
    /// Its host.
    pub host: String,
    /// Its process id there.
    pub pid: i32,
}

impl Report {
    /// Reads everything about a run.
    pub async fn load(
        client: &Client,
        store: &Store,
        run: Run,
        ahead: &impl Ahead,
    ) -> Result<Report, StoreError> {
        let held = lock::holder(client, store.run_lock(run.run_id)).await;
        let is_live =
            held.map_err(|e| StoreError::Statement("look for the run's lock", e))?.is_some();
        let sums = store.sums(client, run.run_id).await?;
        let recent = if is_live { store.recent(client, run.run_id).await? } else { Vec::new() };
        let pace = Pace::of(&recent);
        let total = keys_total(&run, &sums);
        let left = (total - sums.keys_done).max(0);
        // Past the planner's estimate nobody knows how much is left.
        let is_known = run.fully_cut || sums.keys_cut < run.table_rows_estimate;
        let eta = match is_live && is_known {
            true => eta(client, store, &run, &sums, left, ahead).await?,
            false => None,
        };
        let share =
            (sums.keys_done > 0 && is_known).then(|| sums.rows_done as f64 / sums.keys_done as f64);
        // Pages hold more or less than they are thought to; but no more rows are written than there are.
        let most =
            if run.is_walked() { run.table_rows_estimate.max(sums.rows_done) } else { i64::MAX };
        let is_waiting = is_live && !run.state.is_final();
        let throttle = run.last.throttle.clone().filter(|_| is_waiting);
        let (verdict, reason) = throttle.unwrap_or(("none".to_owned(), String::new()));
        let (window, window_until) = run.last.window.clone().filter(|_| is_waiting).unzip();
        let by = run.last.throttle_by.clone().filter(|_| is_waiting);
        let (conflicted, overwritten) = store.count_conflicts(client, run.run_id).await?;
        Ok(Report {
            undo: UndoReport::load(client, store, &run, ahead.retention()).await?,
            conflicts: store.conflicts(client, run.run_id, LISTED).await?,
            state: state_word(run.state, is_live).to_owned(),
            rows_done: sums.rows_done,
            rows_total_estimate: share
                .map(|share| (sums.rows_done + (left as f64 * share) as i64).min(most)),
            by_pages: run.is_walked() && (!run.fully_cut || run.key.is_places()),
            chunks_done: sums.chunks_done,
            chunks_failed: sums.chunks_failed,
            chunks_pending: sums.chunks_pending,
            rows_quarantined: store.count_quarantined(client, run.run_id).await?,
            rows_conflicted: conflicted,
            rows_overwritten: overwritten,
            keys_done: sums.keys_done,
            keys_total_estimate: total,
            rate_rows_per_s: pace.as_ref().map(|pace| pace.rows_per_s),
            rate_limit_rows_per_s: run.last.rate_limit,
            workers: run.last.workers,
            chunk_time_ms: run.last.chunk_time_ms,
            wal_limit_bytes_per_s: run.last.wal_limit,
            wal_bytes_per_row: run.last.wal_per_row,
            eta_s_low: eta.map(|range| range.low.floor() as i64),
            eta_s_high: eta.map(|range| range.high.ceil() as i64),
            throttle: ThrottleReport {
                verdict,
                reason,
                by,
                window,
                window_until: window_until.flatten(),
            },
            storage: StorageReport::new(store.storage(client, run.run_id).await?, sums.hot),
            spent_s: run.last.spent,
            quarantined: store.quarantined(client, run.run_id, LISTED).await?,
            passed_over: store.passed_leaves(client, run.run_id).await?,
            failed_chunks: store.failed_chunks(client, run.run_id, LISTED).await?,
            runner: run.runner.map(|(host, pid)| Runner { host, pid }),
            failure: run.failure,
            created_at: run.times.created_at,
            started_at: run.times.started_at,
            updated_at: sums.last_settled_at.max(Some(run.times.updated_at)).unwrap_or_default(),
            finished_at: run.times.finished_at,
            name: run.name,
            run_id: run.run_id,
            direction: run.direction,
            table: run.table_name,
        })
    }

    /// Share of the key space passed, in percent.
    pub fn percent(&self) -> f64 {
        match (self.state.as_str(), self.keys_total_estimate) {
            ("succeeded", _) => 100.0,
            (_, 0) => 0.0,
            (_, total) => self.keys_done as f64 * 100.0 / total as f64,
        }
    }

    /// Whether a runner is at work.
    pub fn is_live(&self) -> bool {
        matches!(self.state.as_str(), "running" | "pausing" | "cancelling")
    }
}

impl UndoReport {
    async fn load(
        client: &Client,
        store: &Store,
        run: &Run,
        retention: Duration,
    ) -> Result<UndoReport, StoreError> {
        let mode = run.undo.mode;
        let is_kept =
            mode == UndoMode::Capture && run.undo.pruned_at.is_none() && !run.is_reverse();
        let image_bytes = match is_kept {
            true => store.image_bytes(client, run.run_id).await?,
            false => None,
        };
        let kept_until = match is_kept {
            true => store.kept_until(client, run.run_id, retention.as_secs_f64()).await?,
            false => None,
        };
        Ok(UndoReport {
            mode,
            is_reversible: !run.is_reverse() && (is_kept || mode == UndoMode::Statement),
            is_overdue: kept_until.as_ref().is_some_and(|(_, is_past)| *is_past),
            until: kept_until.map(|(until, _)| until),
            image_bytes,
        })
    }
}

/// `interrupted` is derived: a state that needs a runner, and no runner.
pub fn state_word(state: RunState, is_live: bool) -> &'static str {
    match state {
        RunState::Running | RunState::Pausing | RunState::Cancelling if !is_live => "interrupted",
        other => other.as_str(),
    }
}

/// Key entries the run has to pass: what is cut when all is cut, else the planner's estimate, which may be short.
fn keys_total(run: &Run, sums: &Sums) -> i64 {
    if run.fully_cut { sums.keys_cut } else { run.table_rows_estimate.max(sums.keys_cut) }
}

/// The range of the time left.
async fn eta(
    client: &Client,
    store: &Store,
    run: &Run,
    sums: &Sums,
    left: i64,
    ahead: &impl Ahead,
) -> Result<Option<eta::Range>, StoreError> {
    let Ok(began) = run.times.started_at.parse() else { return Ok(None) };
    let stretches = store.stretches(client, run.run_id).await?;
    let stretch = |(keys, rows, seconds): &(f64, f64, f64)| eta::Stretch {
        keys: *keys,
        rows: *rows,
        seconds: *seconds,
    };
    let progress = eta::Progress {
        keys_left: left as f64,
        stretches: stretches.iter().map(stretch).collect(),
        keys_here: sums.keys_here as f64,
        began,
        now: Timestamp::now(),
    };
    let (calendar, workers) = ahead.of(&run.name);
    let last = run.last.workers.and_then(|workers| u32::try_from(workers).ok());
    let outlook = eta::Outlook {
        calendar: &calendar,
        outside: Budget { rows_per_s: run.last.rate_limit, wal_per_s: run.last.wal_limit },
        workers: workers.or(last).unwrap_or(1),
        wal_per_row: run.last.wal_per_row.unwrap_or(1.0),
    };
    Ok(eta::range(&progress, &outlook))
}

/// The pace of the last minute.
struct Pace {
    rows_per_s: f64,
}

impl Pace {
    /// From keys and rows settled in slices of five seconds, oldest first. The slices before the first work do not count; two with
    /// work are needed to say anything.
    fn of(slices: &[(i64, i64)]) -> Option<Pace> {
        let first = slices.iter().position(|(keys, _)| *keys > 0)?;
        let slices = &slices[first..];
        if slices.iter().filter(|(keys, _)| *keys > 0).count() < 2 {
            return None;
        }
        let rows: i64 = slices.iter().map(|(_, rows)| rows).sum();
        Some(Pace { rows_per_s: rows as f64 / (slices.len() as f64 * 5.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_is_unknown_until_there_are_two_slices_of_work() {
        assert!(Pace::of(&[(0, 0), (500, 500)]).is_none());
        let pace = Pace::of(&[(0, 0), (500, 250), (1_000, 500), (0, 0)]).unwrap();
        assert_eq!(pace.rows_per_s, 50.0);
    }
}
