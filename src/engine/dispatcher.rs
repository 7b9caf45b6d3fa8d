//! The one owner of everything that changes while a run is at work.
//!
//! Every turn: start what may start, cut when the queue runs low, then wait for the first of: a chunk's end, a signal, a request, a
//! payment or a delay that has come due. Nothing else holds state, so there is nothing to lock. What a chunk's error leads to is
//! in the `recovery` module, where chunks come from in `supply`, requests from other sessions in the `control` module.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_postgres::CancelToken;

use super::chunker::Sliced;
use super::pacing::{Charge, Pace, Pacing};
use super::queue::Queue;
use super::sizer::Sizer;
use super::stripes::Stripes;
use super::vacuuming::Vacuums;
use super::worker::{Attempt, Note, Settled};
use super::{Outcome, Setback, Stop, Work, pool_size, worker};
use crate::db::lock::RunLock;
use crate::event::{Event, Listener};
use crate::plan::Striping;
use crate::state::Chunk;
use crate::throttle::Verdict;
use crate::vacuum::Pressure;

/// How often requests are read when no chunk's claim brings them.
const TICK: Duration = Duration::from_secs(1);

/// How often listeners are told the values of a reason that stays the same, such as a lag.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// A chunk that a worker has.
pub(super) struct InFlight {
    /// What was charged for it beforehand.
    pub(super) charge: Charge,
    /// How to cancel its statement; known once it has a connection.
    pub(super) token: Option<CancelToken>,
    /// Whether its rows are written and only the mark and the COMMIT are left.
    pub(super) is_written: bool,
}

/// Why no more chunks are started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// A signal, or an operator's pause or cancel; the run's own state tells which.
    Drain(String),
    /// An error that ends the run.
    Fail(String),
    /// The server stayed away.
    Lost(String),
    /// Another runner has it.
    TakenOver,
}

/// What an earlier runner left, and what this one starts from.
pub struct Start {
    /// The size an earlier runner had reached.
    pub chunk_rows: Option<u32>,
    /// The number of the next chunk; pending ones have lower numbers.
    pub next_seq: i64,
    /// Whether the ceiling has been reached by cutting.
    pub fully_cut: bool,
    /// The run's control version.
    pub control_version: i32,
    /// Rows set aside so far.
    pub quarantined: i64,
    /// When to vacuum.
    pub pressure: Pressure,
    /// The stripes to cut into, when any.
    pub striping: Option<Striping>,
    /// Who we are, for the audit trail.
    pub who: String,
}

/// Runs a run. See the module's documentation.
pub struct Dispatcher<'l> {
    pub(super) work: Arc<Work>,
    pub(super) start: Start,
    pub(super) listener: &'l mut dyn Listener,
    pub(super) lock: Option<RunLock>,
    pub(super) stop: watch::Receiver<Stop>,
    pub(super) queue: Queue,
    pub(super) in_flight: HashMap<i64, InFlight>,
    tasks: JoinSet<(Chunk, Attempt)>,
    /// The cut under way; at most one.
    pub(super) cuts: JoinSet<Result<Sliced, Setback>>,
    /// Chunks ready below which more are cut.
    pub(super) low: usize,
    pub(super) notes: (mpsc::UnboundedSender<Note>, mpsc::UnboundedReceiver<Note>),
    pub(super) sizer: Sizer,
    pub(super) stripes: Stripes,
    pub(super) vacuums: Vacuums,
    pub(super) pacing: Pacing,
    /// The reason last told, and when.
    told: String,
    told_at: Option<Instant>,
    /// Verdicts told but not yet in the run's log.
    pub(super) unlogged: Vec<String>,
    pub(super) is_unpublished: bool,
    pub(super) published_at: Option<Instant>,
    pub(super) shortage_ends: Option<Instant>,
    /// Leaves that are no part of the table any more, as far as this runner has met them.
    pub(super) passed: HashSet<usize>,
    /// Whether the next cut waits for the walk to be done.
    pub(super) waits_for_walk: bool,
    /// Whether chunks of the sweep may be open, before which no chunk of the walk must be given back.
    pub(super) sweep_comes_first: bool,
    /// Whether it has been told that the table was rewritten.
    pub(super) is_rewritten: bool,
    /// How to cancel the look under way behind a walk.
    pub(super) look: Option<CancelToken>,
    /// The next chunk to start, already charged for.
    pub(super) charged: Option<(Chunk, Charge)>,
    pub(super) ending: Option<Ending>,
    /// When the server was first and last found missing, in one stretch.
    pub(super) absent: Option<(Instant, Instant)>,
    pub(super) control_version: i32,
    pub(super) fully_cut: bool,
    /// The highest chunk number seen; chunks of an unanswered commit have higher ones.
    pub(super) seen_seq: i64,
    pub(super) paged_seq: i64,
    pub(super) has_pages: bool,
    pub(super) cut_due: Option<Instant>,
    /// Cuts in a row that ran into their time.
    pub(super) cut_failures: u32,
    pub(super) must_reload: bool,
    next_tick: Instant,
    pub(super) rows: i64,
    pub(super) failed: i64,
}

impl<'l> Dispatcher<'l> {
    /// Takes a run up. The lock is kept until the end.
    pub fn new(
        work: Work,
        start: Start,
        pace: Pace,
        lock: RunLock,
        stop: watch::Receiver<Stop>,
        listener: &'l mut dyn Listener,
    ) -> Dispatcher<'l> {
        let pacing = Pacing::new(pace);
        let limits = pacing.limits;
        work.database.resize(pool_size(limits.workers.value));
        let sweep_comes_first = work.sweep_comes_first;
        Dispatcher {
            sizer: Sizer::of(&limits, start.chunk_rows, work.reading()),
            stripes: Stripes::new(start.striping),
            vacuums: Vacuums::new(start.pressure.clone()),
            work: Arc::new(work),
            listener,
            lock: Some(lock),
            stop,
            queue: Queue::default(),
            in_flight: HashMap::new(),
            tasks: JoinSet::new(),
            cuts: JoinSet::new(),
            low: limits.workers.value as usize,
            notes: mpsc::unbounded_channel(),
            pacing,
            told: String::new(),
            told_at: None,
            unlogged: Vec::new(),
            passed: HashSet::new(),
            waits_for_walk: false,
            sweep_comes_first,
            is_rewritten: false,
            look: None,
            is_unpublished: true,
            published_at: None,
            shortage_ends: None,
            charged: None,
            ending: None,
            absent: None,
            control_version: start.control_version,
            fully_cut: start.fully_cut,
            seen_seq: start.next_seq - 1,
            paged_seq: 0,
            has_pages: true,
            cut_due: None,
            cut_failures: 0,
            must_reload: false,
            next_tick: Instant::now(),
            rows: 0,
            failed: 0,
            start,
        }
    }

    /// Works until the end or a stop.
    pub async fn run(mut self) -> Outcome {
        let begun = Instant::now();
        loop {
            self.admit();
            if self.is_over() && (self.ending.is_some() || !self.find_forgotten().await) {
                break;
            }
            if self.waits_for_sweep() {
                self.look_for_sweep().await;
            } else if self.wants_chunks() {
                self.fetch_chunks().await;
            } else {
                self.wait().await;
            }
        }
        self.finish_vacuum().await;
        self.publish().await;
        let outcome = self.conclude().await;
        let state = match &outcome {
            Outcome::Reached(state) => state.as_str(),
            Outcome::Lost(_) => "interrupted",
            Outcome::TakenOver => "taken over",
        };
        let took_ms = begun.elapsed().as_millis() as u64;
        self.listener.hear(&Event::Stopped { state, rows: self.rows, took_ms });
        if let Some(lock) = self.lock.take() {
            lock.release();
        }
        outcome
    }

    fn is_over(&self) -> bool {
        let is_done = self.fully_cut
            && !self.has_pages
            && !self.must_reload
            && self.queue.is_empty()
            && self.charged.is_none();
        self.in_flight.is_empty() && self.cuts.is_empty() && (self.ending.is_some() || is_done)
    }

    /// Starts chunks while workers, throttle and budget allow.
    fn admit(&mut self) {
        while self.ending.is_none() && self.has_room() {
            if let Verdict::Hold(_) = self.ask_throttle() {
                return;
            }
            if self.charged.is_none() {
                let (work, sweep_first) = (self.work.clone(), self.sweep_comes_first);
                let may_start = |chunk: &Chunk| !sweep_first || !work.is_of_walk(chunk);
                let Some(chunk) = self.queue.pop(Instant::now(), may_start) else { return };
                let charge = self.pacing.charge(f64::from(chunk.keys) * self.sizer.selectivity());
                self.charged = Some((chunk, charge));
            }
            if !self.pacing.pay().is_zero() {
                return;
            }
            if let Some((chunk, charge)) = self.charged.take() {
                self.pacing.tell(true);
                self.in_flight
                    .insert(chunk.seq, InFlight { charge, token: None, is_written: false });
                let bounds = (self.work.bounds(&self.pacing.limits), self.slice_rows());
                self.tasks.spawn(worker::work(
                    self.work.clone(),
                    chunk,
                    bounds,
                    self.notes.0.clone(),
                ));
            }
        }
    }

    /// Whether another chunk may start. One whose rows are written does not count, so that the disk and the processor work at
    /// the same time; at most as many of those as there are workers.
    fn has_room(&self) -> bool {
        let workers = self.pacing.limits.workers.value as usize;
        let at_work = self.in_flight.values().filter(|chunk| !chunk.is_written).count();
        at_work < workers && self.in_flight.len() < workers * 2
    }

    /// The binding verdict; a change of its kind or its constraint is told at once and logged, other values now and then.
    pub(super) fn ask_throttle(&mut self) -> Verdict {
        let (verdict, is_other) = self.pacing.rule();
        let reason = verdict.reason();
        let is_stale = self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if is_other || (is_stale && reason != self.told) {
            let reason = reason.to_owned();
            (self.told, self.told_at) = (reason.clone(), Some(Instant::now()));
            if is_other {
                let separator = if reason.is_empty() { "" } else { ": " };
                self.unlogged.push(format!("{}{separator}{reason}", verdict.word()));
            }
            let by = verdict.cause().map(|cause| cause.by.clone());
            self.listener.hear(&Event::Throttle { verdict: verdict.word(), by, reason });
            self.is_unpublished = true;
        }
        verdict
    }

    /// Waits for the first thing to happen. Every branch is cancel-safe: joining, receiving, watching and sleeping lose nothing when
    /// another branch wins.
    async fn wait(&mut self) {
        let wake = self.wake_at();
        tokio::select! {
            Some(joined) = self.tasks.join_next() => {
                let (chunk, attempt) = joined.expect("a worker does not panic");
                self.attempted(chunk, attempt).await;
            }
            Some(joined) = self.cuts.join_next() => {
                self.was_cut(joined.expect("a cut does not panic")).await;
            }
            ended = self.vacuums.ended() => self.vacuum_ended(ended).await,
            Some(note) = self.notes.1.recv() => self.noted(note),
            Ok(()) = self.stop.changed() => self.signalled(),
            () = sleep_until(self.next_tick) => {
                self.next_tick = Instant::now() + TICK;
                self.tick().await;
            }
            () = sleep_until(wake) => {}
        }
        if self.shortage_ends.is_some_and(|ends| ends <= Instant::now()) {
            self.shortage_ends = None;
            self.pacing.shortage.0 = None;
        }
    }

    /// When a payment, a delay, a shortage or a cut comes due.
    fn wake_at(&mut self) -> Instant {
        let now = Instant::now();
        let has_room = self.has_room();
        let payment = (self.charged.is_some() && has_room).then(|| now + self.pacing.pay());
        let due =
            [payment, self.queue.next_due().filter(|_| has_room), self.shortage_ends, self.cut_due];
        // A due time in the past is one that something else blocks; the tick looks at it again.
        due.into_iter().flatten().filter(|due| *due > now).min().unwrap_or(self.next_tick)
    }

    async fn attempted(&mut self, chunk: Chunk, attempt: Attempt) {
        let in_flight = self.in_flight.remove(&chunk.seq);
        let charge = in_flight.as_ref().map(|in_flight| in_flight.charge).unwrap_or_default();
        let had_connection = in_flight.is_some_and(|in_flight| in_flight.token.is_some());
        match attempt {
            Attempt::Settled(settled) => self.settled(&chunk, &settled, charge).await,
            Attempt::Measured(parts) => {
                self.pacing.refund(charge);
                self.saw(&parts);
                parts.into_iter().rev().for_each(|part| self.queue.push_front(part));
            }
            Attempt::Refused(state) => {
                self.pacing.refund(charge);
                self.queue.push_front(chunk);
                self.end(Ending::Drain(format!("the run is {}", state.as_str())));
            }
            Attempt::Setback(setback) => {
                self.pacing.refund(charge);
                self.set_back(chunk, setback, had_connection).await;
            }
        }
    }

    async fn settled(&mut self, chunk: &Chunk, settled: &Settled, charge: Charge) {
        self.absent = None;
        self.queue.forget(chunk.seq);
        let wal_bytes = self.pacing.settle(settled, charge);
        if !settled.found_done {
            self.sizer.observe(chunk.keys.max(0) as u32, settled.rows as u32, settled.took);
            self.sizer.weigh(chunk.keys.max(0) as u32, settled.image_bytes);
            self.stripes.observe(chunk.range.stripe, settled.rows, settled.hot);
            let leaf = self.work.leaves.as_ref().and_then(|_| chunk.range.leaf());
            self.vacuums.observe(leaf, settled.rows, settled.hot);
            self.vacuum_if_due();
        }
        if let Some(leaf) = settled.passed_over {
            self.passed_over(leaf).await;
        }
        self.rows += settled.rows;
        self.listener.hear(&Event::Settled {
            seq: chunk.seq,
            rows: settled.rows,
            keys: i64::from(chunk.keys),
            took_ms: settled.took.as_millis() as u64,
            write_us: settled.writing.as_micros() as u64,
            wal_bytes: wal_bytes as u64,
            found_done: settled.found_done,
        });
        if settled.control_version != self.control_version {
            self.read_control().await;
        }
    }

    /// Stops starting chunks; the first reason stands, except that losing the run outranks all.
    pub(super) fn end(&mut self, ending: Ending) {
        if self.ending.is_none() {
            let reason = match &ending {
                Ending::Drain(reason) | Ending::Fail(reason) | Ending::Lost(reason) => {
                    reason.clone()
                }
                Ending::TakenOver => "another runner has taken the run over".to_owned(),
            };
            self.listener.hear(&Event::Draining { reason, in_flight: self.in_flight.len() });
        }
        if self.ending.is_none() || ending == Ending::TakenOver {
            self.ending = Some(ending);
        }
    }
}
