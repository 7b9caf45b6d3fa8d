//! Chunks waiting for a worker: those that may start now, and those that wait after an error. Pure.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;

use crate::state::Chunk;

/// The chunks that are cut, not done and not in flight.
#[derive(Debug, Default)]
pub struct Queue {
    ready: VecDeque<Chunk>,
    delayed: Vec<(Instant, Chunk)>,
    attempts: HashMap<i64, u32>,
    crashes: HashMap<i64, u32>,
    missing: HashMap<i64, u32>,
}

impl Queue {
    /// Adds chunks behind the others.
    pub fn append(&mut self, chunks: impl IntoIterator<Item = Chunk>) {
        self.ready.extend(chunks);
    }

    /// Adds a chunk before the others.
    pub fn push_front(&mut self, chunk: Chunk) {
        self.ready.push_front(chunk);
    }

    /// Lets a chunk wait until `due`.
    pub fn delay(&mut self, chunk: Chunk, due: Instant) {
        self.delayed.push((due, chunk));
    }

    /// The next chunk that may start now, of those that `may`; one whose wait is over goes first.
    pub fn pop(&mut self, now: Instant, may: impl Fn(&Chunk) -> bool) -> Option<Chunk> {
        let due = self.delayed.iter().position(|(due, chunk)| *due <= now && may(chunk));
        if let Some(at) = due {
            return Some(self.delayed.swap_remove(at).1);
        }
        let at = self.ready.iter().position(may)?;
        self.ready.remove(at)
    }

    /// Whether there is a chunk of which something holds.
    pub fn has(&self, holds: impl Fn(&Chunk) -> bool) -> bool {
        self.ready.iter().chain(self.delayed.iter().map(|(_, chunk)| chunk)).any(holds)
    }

    /// How many may start without waiting for an error's delay.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Whether nothing waits at all.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.delayed.is_empty()
    }

    /// When the next delayed chunk is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.delayed.iter().map(|(due, _)| *due).min()
    }

    /// Counts a failed attempt on a chunk: how many it has had now.
    pub fn failed(&mut self, seq: i64) -> u32 {
        let attempts = self.attempts.entry(seq).or_default();
        *attempts += 1;
        *attempts
    }

    /// Counts a connection that a chunk lost in the middle of its work: how many now.
    pub fn crashed(&mut self, seq: i64) -> u32 {
        let crashes = self.crashes.entry(seq).or_default();
        *crashes += 1;
        *crashes
    }

    /// Counts attempts in a row for which a table was not there; any other failure ends the row.
    pub fn missed(&mut self, seq: i64, is_missing: bool) -> u32 {
        if !is_missing {
            self.missing.remove(&seq);
            return 0;
        }
        let missing = self.missing.entry(seq).or_default();
        *missing += 1;
        *missing
    }

    /// Forgets a chunk that is settled or changed.
    pub fn forget(&mut self, seq: i64) {
        self.attempts.remove(&seq);
        self.crashes.remove(&seq);
        self.missing.remove(&seq);
    }
}
