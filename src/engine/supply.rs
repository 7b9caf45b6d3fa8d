//! Where chunks come from: those that earlier runners left, then new ones, cut beside the workers.

use std::time::Duration;

use tokio::time::Instant;

use super::chunker::Sliced;
use super::dispatcher::{Dispatcher, Ending};
use super::{Setback, chunker};
use crate::event::Event;
use crate::state::{Chunk, Passed, SweepLeft};

/// Chunks to keep ready for each worker: one being cut while one runs. More would be cut with a size that no longer fits.
const READY_PER_WORKER: usize = 2;

/// Under a rate limit, the share of a second's rows that one chunk may span: the load stays even and a stop takes hold quickly.
const RATE_SHARE: f64 = 0.25;

/// But at least so many times what a chunk costs however small it is: its rows are paid for before it begins, and nothing is saved up for
/// the next one meanwhile. So a rate is kept to a ninth.
const FIXED_TIMES: f64 = 8.0;

/// When to ask again for what the walk has left, where nothing else says.
const AGAIN: Duration = Duration::from_millis(500);

/// Pending chunks read at once when a run is taken up again.
const PAGE: i64 = 1_000;

impl Dispatcher<'_> {
    pub(super) fn wants_chunks(&self) -> bool {
        let is_low = self.queue.ready() < self.low && self.cuts.is_empty();
        let is_kept = self.waits_for_walk && !self.is_idle();
        let has_more = self.has_pages || self.must_reload || !self.fully_cut;
        let is_due = self.cut_due.is_none_or(|due| due <= Instant::now());
        self.ending.is_none() && is_low && !is_kept && has_more && is_due
    }

    /// Pending chunks of earlier runners first, then new ones from the index.
    pub(super) async fn fetch_chunks(&mut self) {
        if !self.has_pages && !self.must_reload {
            return self.cut();
        }
        match self.load().await {
            Ok(()) => self.cut_due = None,
            Err(setback) => self.cut_failed(setback),
        }
    }

    /// Before the end is told, the chunks themselves are asked: one whose creation was committed without an answer reaching us may
    /// still be open. True when there is something left to do or to ask again.
    pub(super) async fn find_forgotten(&mut self) -> bool {
        match self.pending(0).await {
            Ok(chunks) => {
                self.saw(&chunks);
                let is_any = !chunks.is_empty();
                self.queue.append(chunks);
                is_any
            }
            Err(setback) => {
                self.cut_failed(setback);
                true
            }
        }
    }

    /// Whether all that is left to start is of a walk, and must not be before the state tables say that the sweep is given back. Halves of its
    /// chunks have higher numbers than those of the walk, and may not have been read yet.
    pub(super) fn waits_for_sweep(&self) -> bool {
        let has_sweep = || self.queue.has(|chunk| !self.work.is_of_walk(chunk));
        let is_idle = self.in_flight.is_empty() && self.charged.is_none() && !has_sweep();
        let is_due = self.cut_due.is_none_or(|due| due <= Instant::now());
        self.sweep_comes_first
            && self.ending.is_none()
            && !self.queue.is_empty()
            && is_idle
            && is_due
    }

    /// Asks for what is left of the sweep.
    pub(super) async fn look_for_sweep(&mut self) {
        match self.sweep_left().await {
            Err(setback) => self.cut_failed(setback),
            Ok(left) if !left.pending.is_empty() => {
                (self.cut_due, self.cut_failures) = (None, 0);
                self.saw(&left.pending);
                self.queue.append(left.pending);
            }
            Ok(left) if left.has_failed => {
                let why = "a chunk of rows that were written twice could not be given back, and what was written to them before has to wait \
                           for it; mend what stands in its way, and resume";
                self.end(Ending::Fail(why.to_owned()));
            }
            Ok(_) => self.sweep_comes_first = false,
        }
    }

    async fn sweep_left(&self) -> Result<SweepLeft, Setback> {
        let client =
            self.work.database.get().await.map_err(|error| Setback::from_connect(&error))?;
        let left = self.work.store.sweep_left(&client, self.work.run_id, PAGE).await;
        left.map_err(|e| Setback::from_store(e, Duration::ZERO, Duration::MAX))
    }

    /// The next pending chunks behind a number.
    async fn pending(&self, from: i64) -> Result<Vec<Chunk>, Setback> {
        let client =
            self.work.database.get().await.map_err(|error| Setback::from_connect(&error))?;
        let chunks = self.work.store.pending(&client, self.work.run_id, from, PAGE).await;
        chunks.map_err(|e| Setback::from_store(e, Duration::ZERO, Duration::MAX))
    }

    async fn load(&mut self) -> Result<(), Setback> {
        let from = if self.has_pages { self.paged_seq } else { self.seen_seq };
        let chunks = self.pending(from).await?;
        let first_new = self.start.next_seq;
        if self.has_pages {
            let chunks: Vec<Chunk> =
                chunks.into_iter().filter(|chunk| chunk.seq < first_new).collect();
            self.has_pages = chunks.len() as i64 == PAGE;
            self.paged_seq = chunks.last().map_or(self.paged_seq, |chunk| chunk.seq);
            let is_new = |chunk: &Chunk| {
                let is_it = |known: &Chunk| known.seq == chunk.seq;
                let is_charged = self.charged.as_ref().is_some_and(|(known, _)| is_it(known));
                !is_charged && !self.in_flight.contains_key(&chunk.seq) && !self.queue.has(is_it)
            };
            let chunks: Vec<Chunk> = chunks.into_iter().filter(is_new).collect();
            self.queue.append(chunks);
        } else {
            self.must_reload = false;
            self.saw(&chunks);
            self.queue.append(chunks);
        }
        Ok(())
    }

    /// Key entries that a slice should have now.
    pub(super) fn slice_rows(&self) -> u32 {
        let share = RATE_SHARE.max(self.sizer.fixed_cost().as_secs_f64() * FIXED_TIMES);
        f64::from(self.sizer.size()).min(self.pacing.rows_within(share)) as u32
    }

    /// Cuts beside the workers: a window of stripes takes as long as several chunks.
    fn cut(&mut self) {
        let size = self.slice_rows();
        let workers = self.pacing.limits.workers.value;
        let cutting = self.stripes.cutting(size, workers, workers * READY_PER_WORKER as u32);
        let passes_end = if cutting.stripes > 1 { cutting.count as usize } else { 0 };
        self.low = passes_end.max(workers as usize * READY_PER_WORKER / 2);
        let (work, notes) = (self.work.clone(), self.notes.0.clone());
        self.cuts.spawn(async move { chunker::cut(&work, cutting, &notes).await });
    }

    pub(super) async fn was_cut(&mut self, sliced: Result<Sliced, Setback>) {
        self.look = None;
        match sliced {
            Ok(sliced) => {
                (self.cut_due, self.cut_failures) = (None, 0);
                self.saw(&sliced.chunks);
                self.fully_cut = sliced.fully_cut;
                if sliced.waits && self.is_idle() && !self.find_forgotten().await {
                    self.cut_due = Some(Instant::now() + AGAIN);
                }
                self.waits_for_walk = sliced.waits;
                self.tell_walk(&sliced).await;
                self.queue.append(sliced.chunks);
            }
            Err(setback) => self.cut_failed(setback),
        }
    }

    /// Whether no chunk is at work or waits for a worker.
    fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.queue.is_empty() && self.charged.is_none()
    }

    /// Tells what happens to a walk: that the table has been rewritten under it, once, and what is swept behind it.
    async fn tell_walk(&mut self, sliced: &Sliced) {
        if sliced.is_rewritten && !self.is_rewritten {
            self.is_rewritten = true;
            self.audit("rewritten", "the table was rewritten under the walk").await;
            self.listener.hear(&Event::Rewritten {});
        }
        if let Some(round) = sliced.again {
            self.audit("round", &format!("rows are left: round {round} through the table")).await;
            self.listener.hear(&Event::Again { round });
        }
        if let Some(keys) = sliced.swept {
            let detail = match keys {
                Some(keys) => format!("{keys} rows that the walk did not do"),
                None => "all keys: too many rows are left to list them".to_owned(),
            };
            self.audit("sweep", &detail).await;
            self.listener.hear(&Event::Sweeping { rows: keys });
        }
    }

    /// A chunk's leaf is no part of the table any more. Told once.
    pub(super) async fn passed_over(&mut self, leaf: usize) {
        if !self.passed.insert(leaf) {
            return;
        }
        let found = match self.work.database.get().await {
            Ok(client) => self.work.store.passed_leaves(&client, self.work.run_id).await.ok(),
            Err(_) => None,
        };
        let is_it = |passed: &Passed| passed.number == leaf;
        let found = found.into_iter().flatten().find(is_it);
        let partition = found.map_or(format!("partition {leaf} of the run"), |found| found.table);
        self.audit("passed over", &format!("{partition} is no part of the table any more")).await;
        self.listener.hear(&Event::PassedOver { partition });
    }

    pub(super) fn saw(&mut self, chunks: &[Chunk]) {
        self.seen_seq = chunks.iter().map(|chunk| chunk.seq).fold(self.seen_seq, i64::max);
    }
}
