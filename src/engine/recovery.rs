//! What an error of a chunk leads to.

use tokio::time::Instant;

use super::dispatcher::{Dispatcher, Ending};
use super::retry::{ABSENCE_MAX, Action, decide, is_deadly, jitter};
use super::{Fault, Setback, Stop, halving};
use crate::db::{Class, grants};
use crate::event::Event;
use crate::key::Form;
use crate::state::Chunk;

/// Attempts on a chunk that holds no row and fails all the same (a trigger for the whole statement, say).
const EMPTY_MAX: u32 = 5;

/// Attempts in a row on a chunk whose statement names a table that is not there. Its partition is looked up anew for each, so that after the
/// second it must be another one, which no chunk can do without.
const MISSING_MAX: u32 = 3;

/// Longest pause between two losses of the server that belong together: twice the longest wait before it is tried again.
const STRETCH: std::time::Duration = std::time::Duration::from_secs(15);

/// Cuts in a row that may run into their time.
const CUTS_MAX: u32 = 5;

impl Dispatcher<'_> {
    /// A chunk was rolled back.
    pub(super) async fn set_back(&mut self, chunk: Chunk, setback: Setback, had_connection: bool) {
        let fault = match setback {
            Setback::TakenOver => return self.end(Ending::TakenOver),
            Setback::Fault(fault) => fault,
        };
        if *self.stop.borrow() == Stop::Cancel
            && matches!(fault.class, Class::Cancelled | Class::TooBig)
        {
            return self.queue.push_front(chunk);
        }
        if had_connection
            && fault.class == Class::Connection
            && is_deadly(self.queue.crashed(chunk.seq))
        {
            return self.give_up(chunk, &fault).await;
        }
        if fault.class == Class::Contention {
            self.pacing.clashed();
        }
        let attempts = self.queue.failed(chunk.seq);
        let is_missing = fault.sqlstate.as_deref() == Some("42P01");
        let class = match self.queue.missed(chunk.seq, is_missing) >= MISSING_MAX {
            true => Class::Fatal,
            false => fault.class,
        };
        self.act(chunk, Fault { class, ..fault }, attempts).await;
    }

    async fn act(&mut self, chunk: Chunk, fault: Fault, attempts: u32) {
        match decide(fault.class, attempts, chunk.keys) {
            Action::Retry(wait) => self.again(chunk, &fault, attempts, wait),
            Action::Reconnect(wait) => {
                self.absent(&fault.message);
                self.must_reload = true;
                self.again(chunk, &fault, attempts, wait);
            }
            Action::Hold(wait) => self.hold(chunk, &fault, attempts, wait),
            Action::Split => {
                self.sizer.too_big(chunk.keys.max(1) as u32);
                self.halve(chunk, fault, attempts).await;
            }
            Action::Bisect => self.halve(chunk, fault, attempts).await,
            Action::GiveUp => self.give_up(chunk, &fault).await,
            Action::Pause => {
                let reason = "a statement was cancelled on the server from outside".to_owned();
                self.queue.push_front(chunk);
                self.end(Ending::Drain(reason));
            }
            Action::Fail => {
                self.queue.push_front(chunk);
                let message = self.with_grant(fault).await;
                self.end(Ending::Fail(message));
            }
        }
    }

    fn again(&mut self, chunk: Chunk, fault: &Fault, attempts: u32, wait: std::time::Duration) {
        let wait = jitter(wait);
        self.listener.hear(&Event::Retrying {
            seq: chunk.seq,
            attempts,
            error: fault.message.clone(),
            wait_ms: wait.as_millis() as u64,
        });
        self.queue.delay(chunk, Instant::now() + wait);
    }

    fn hold(&mut self, chunk: Chunk, fault: &Fault, attempts: u32, wait: std::time::Duration) {
        self.pacing.shortage.0 = Some(format!("the server is out of something: {}", fault.message));
        self.shortage_ends = Some(Instant::now() + wait);
        self.again(chunk, fault, attempts, wait);
    }

    /// The server is not there, or is no primary; after [`ABSENCE_MAX`] of that the runner stops. Losses that lie further apart than
    /// [`STRETCH`] are separate.
    pub(super) fn absent(&mut self, message: &str) {
        let now = Instant::now();
        let first = match self.absent {
            Some((first, last)) if now - last < STRETCH => first,
            _ => now,
        };
        self.absent = Some((first, now));
        if first.elapsed() > ABSENCE_MAX {
            self.end(Ending::Lost(message.to_owned()));
        }
    }

    async fn halve(&mut self, chunk: Chunk, fault: Fault, attempts: u32) {
        match halving::halve(&self.work, &chunk).await {
            Ok(halving::Halved::Parts(lower, upper)) => {
                self.listener.hear(&Event::Split { seq: chunk.seq, error: fault.message });
                self.queue.forget(chunk.seq);
                self.saw(std::slice::from_ref(&upper));
                self.queue.push_front(upper);
                self.queue.push_front(lower);
            }
            Ok(halving::Halved::Single(key)) if fault.class == Class::Data => {
                self.set_aside(chunk, key, fault).await;
            }
            Ok(halving::Halved::Single(_)) => {
                // Only its key count was out of date: as a chunk of one entry it is retried or given up.
                let single = Chunk { keys: 1, ..chunk };
                Box::pin(self.act(single, fault, attempts)).await;
            }
            Ok(halving::Halved::Empty) if attempts > EMPTY_MAX => self.give_up(chunk, &fault).await,
            Ok(halving::Halved::Empty) => self.queue.push_front(chunk),
            Ok(halving::Halved::Done(rows)) => self.found_done(&chunk, rows),
            Err(setback) => self.step_failed(chunk, setback, attempts),
        }
    }

    fn found_done(&mut self, chunk: &Chunk, rows: i64) {
        self.rows += rows;
        self.queue.forget(chunk.seq);
        let keys = i64::from(chunk.keys);
        self.listener.hear(&Event::Settled {
            seq: chunk.seq,
            rows,
            keys,
            took_ms: 0,
            write_us: 0,
            wal_bytes: 0,
            found_done: true,
        });
    }

    async fn set_aside(&mut self, chunk: Chunk, key: crate::key::Bound, fault: Fault) {
        let is_aside = match halving::set_aside(&self.work, &chunk, &key, &fault).await {
            Ok(is_aside) => is_aside,
            Err(setback) => return self.step_failed(chunk, setback, 1),
        };
        if !is_aside {
            return self.found_done(&chunk, 0);
        }
        self.count_quarantined().await;
        self.queue.forget(chunk.seq);
        let sqlstate = fault.sqlstate.clone().unwrap_or_default();
        self.audit("quarantined", &format!("one row, SQLSTATE {sqlstate}")).await;
        self.listener.hear(&Event::Quarantined {
            seq: chunk.seq,
            key: key.0,
            sqlstate,
            error: fault.message.clone(),
        });
        self.listener.hear(&Event::Settled {
            seq: chunk.seq,
            rows: 0,
            keys: 1,
            took_ms: 0,
            write_us: 0,
            wal_bytes: 0,
            found_done: false,
        });
        let allowed = i64::from(self.pacing.limits.quarantine_max.value);
        if self.start.quarantined > allowed {
            self.end(Ending::Fail(format!(
                "more than {allowed} rows are set aside (quarantine_max); the last one: {}",
                fault.message
            )));
        }
    }

    /// Counted in the table, because a retried row may have been in it already.
    async fn count_quarantined(&mut self) {
        let Ok(client) = self.work.database.get().await else { return };
        if let Ok(count) = self.work.store.count_quarantined(&client, self.work.run_id).await {
            self.start.quarantined = count;
        }
    }

    async fn give_up(&mut self, chunk: Chunk, fault: &Fault) {
        let at = self.work.address(chunk.seq);
        let given_up = match self.work.database.get().await {
            Ok(client) => {
                let failed = self
                    .work
                    .store
                    .fail_chunk(&client, at, fault.sqlstate.as_deref(), &fault.message)
                    .await;
                failed.map_err(|e| {
                    Setback::from_store(e, std::time::Duration::ZERO, std::time::Duration::MAX)
                })
            }
            Err(error) => Err(Setback::from_connect(&error)),
        };
        if let Err(setback) = given_up {
            return self.step_failed(chunk, setback, 1);
        }
        self.failed += 1;
        self.queue.forget(chunk.seq);
        self.audit("chunk failed", &format!("chunk {}: {}", chunk.seq, fault.message)).await;
        self.listener.hear(&Event::ChunkFailed { seq: chunk.seq, error: fault.message.clone() });
    }

    /// What a fault says; where a privilege is missing, with the grant.
    async fn with_grant(&self, fault: Fault) -> String {
        if fault.sqlstate.as_deref() != Some("42501") {
            return fault.message;
        }
        let Ok(client) = self.work.database.get().await else { return fault.message };
        let sql = self.work.sql.update.get(Form::WHOLE);
        match grants::mend_words(&client, &fault.message, sql).await {
            Some(grant) => format!("{}; {grant}", fault.message),
            None => fault.message,
        }
    }

    /// A step of the recovery itself met an error: the chunk waits and starts over; what became of the step shows then.
    fn step_failed(&mut self, chunk: Chunk, setback: Setback, attempts: u32) {
        match setback {
            Setback::TakenOver => self.end(Ending::TakenOver),
            Setback::Fault(fault) if fault.class == Class::Fatal => {
                self.queue.push_front(chunk);
                self.end(Ending::Fail(fault.message));
            }
            Setback::Fault(fault) => {
                if matches!(fault.class, Class::Connection | Class::ReadOnly) {
                    self.absent(&fault.message);
                }
                self.must_reload = true;
                self.again(chunk, &fault, attempts, std::time::Duration::from_millis(500));
            }
        }
    }

    /// Cutting met an error: it waits and starts over. Chunks of a commit whose answer was lost are found by their numbers.
    pub(super) fn cut_failed(&mut self, setback: Setback) {
        let fault = match setback {
            Setback::TakenOver => return self.end(Ending::TakenOver),
            Setback::Fault(fault) => fault,
        };
        match fault.class {
            Class::Fatal | Class::Data => return self.end(Ending::Fail(fault.message)),
            Class::Cancelled => {
                return self
                    .end(Ending::Drain("a cut was cancelled on the server from outside".into()));
            }
            Class::Connection | Class::ReadOnly => self.absent(&fault.message),
            Class::Resources => {
                self.pacing.shortage.0 =
                    Some(format!("the server is out of something: {}", fault.message));
                self.shortage_ends = Some(Instant::now() + std::time::Duration::from_secs(1));
            }
            Class::TooBig if self.cut_failures >= CUTS_MAX => {
                return self.end(Ending::Fail(fault.message));
            }
            Class::TooBig => {
                self.cut_failures += 1;
                self.sizer.too_big(self.sizer.size());
                self.stripes.too_big();
            }
            Class::Contention => {}
        }
        tracing::debug!(error = fault.message, "cutting failed and will be tried again");
        self.must_reload = true;
        self.cut_due = Some(Instant::now() + jitter(std::time::Duration::from_millis(500)));
    }
}
