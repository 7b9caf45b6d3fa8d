//! Signals, and requests from other sessions.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::Stop;
use super::dispatcher::{Dispatcher, Ending};
use super::pacing::OnServer;
use super::worker::Note;
use crate::db::lock::{self, Attempt};
use crate::event::Event;
use crate::mutation::Guard;
use crate::settings::{Limits, Origin, Setting};
use crate::state::{Paced, RunState, Tuned};
use crate::throttle::Verdict;

/// How often other sessions are shown values that change all the time, such as a lag.
const PUBLISH_EVERY: Duration = Duration::from_secs(2);

/// The limits with what an operator tuned put over them, while that lasts.
pub(super) fn tuned_limits(base: &Limits, tuned: &Tuned, now: Timestamp) -> Limits {
    fn over<T: Copy>(setting: Setting<T>, tuned: Option<T>) -> Setting<T> {
        tuned.map_or(setting, |value| Setting { value, origin: Origin::Tune })
    }
    if tuned.limits_until.is_some_and(|ends| ends.is_past(now)) {
        return *base;
    }
    Limits {
        workers: over(base.workers, tuned.workers),
        rate: over(base.rate, tuned.rate),
        chunk_time: over(base.chunk_time, tuned.chunk_time_ms.map(Duration::from_millis)),
        ..*base
    }
}

/// What a run does that has no chunk to do, and is not idle.
const LOOKING: &str = "looking for rows that the walk has left to do";

impl Dispatcher<'_> {
    /// A signal arrived: drain with the first, cancel on the server with the second.
    pub(super) fn signalled(&mut self) {
        let stop = *self.stop.borrow_and_update();
        if stop >= Stop::Drain {
            self.end(Ending::Drain("stopped by a signal".to_owned()));
        }
        self.cancel_vacuum("the run is being stopped");
        self.cancel_look();
        if stop == Stop::Cancel {
            let tokens: Vec<_> =
                self.in_flight.values().filter_map(|chunk| chunk.token.clone()).collect();
            for token in tokens {
                self.cancel(&token);
            }
        }
    }

    /// A chunk has its connection, which is cancelled when everything is; or only waits for its COMMIT.
    pub(super) fn noted(&mut self, note: Note) {
        match note {
            Note::Begun(seq, token) => {
                if *self.stop.borrow() == Stop::Cancel {
                    self.cancel(&token);
                }
                if let Some(in_flight) = self.in_flight.get_mut(&seq) {
                    in_flight.token = Some(token);
                }
            }
            Note::Vacuuming(token) => {
                self.vacuums.token = Some(token);
                if self.ending.is_some() {
                    self.cancel_vacuum("the run is being stopped");
                }
            }
            Note::Looking(token) => {
                if token.is_some() {
                    self.listener.hear(&Event::Looking {});
                }
                self.look = token;
                self.is_unpublished = true;
                self.cancel_look();
            }
            Note::Written(seq) => {
                if let Some(in_flight) = self.in_flight.get_mut(&seq) {
                    in_flight.is_written = true;
                }
            }
        }
    }

    /// Ends a look that nobody waits for any more; it writes nothing.
    fn cancel_look(&self) {
        if let Some(token) = self.look.as_ref().filter(|_| self.ending.is_some()) {
            self.cancel(token);
        }
    }

    /// Beside everything else: a host that is down must not hold up what is to end.
    pub(super) fn cancel(&self, token: &tokio_postgres::CancelToken) {
        let (database, token) = (self.work.database.clone(), token.clone());
        tokio::spawn(async move {
            if let Err(error) = database.cancel(&token).await {
                tracing::warn!(error = %error, "a statement could not be cancelled on the server");
            }
        });
    }

    /// Once a second: requests, the clock, the signals, what other sessions may see, and the courtesy lock.
    pub(super) async fn tick(&mut self) {
        self.read_control().await;
        self.turn();
        let is_held = matches!(self.ask_throttle(), Verdict::Hold(_));
        self.pacing.tell(self.on_server().is_any);
        self.watch_vacuum(is_held).await;
        self.vacuum_if_due();
        self.cancel_look();
        for detail in std::mem::take(&mut self.unlogged) {
            self.audit("throttle", &detail).await;
        }
        let is_due = self.published_at.is_none_or(|at| at.elapsed() >= PUBLISH_EVERY);
        if (self.is_unpublished || is_due) && self.ending.is_none() {
            self.publish().await;
        }
        if self.lock.as_ref().is_some_and(|lock| !lock.is_alive()) {
            self.retake_lock().await;
        }
    }

    fn on_server(&self) -> OnServer {
        let is_vacuuming = self.vacuums.is_at_work();
        let has_long = is_vacuuming || !self.cuts.is_empty();
        OnServer { is_any: has_long || !self.in_flight.is_empty(), has_long }
    }

    /// Lets the pace follow the clock, the signals and what was tuned.
    fn turn(&mut self) {
        let turned = self.pacing.tick(self.on_server());
        let limits = self.pacing.limits;
        if turned.limits {
            self.sizer.set_target(limits.chunk_time.value);
            self.work.database.resize(super::pool_size(limits.workers.value));
            self.is_unpublished = true;
        }
        if turned.window {
            let (window, until) = self.pacing.window().cloned().unzip();
            self.listener.hear(&Event::Window { window, until: until.flatten() });
            self.is_unpublished = true;
        }
        if let Some(reason) = self.pacing.closed() {
            self.end(Ending::Drain(format!("{reason}; --no-wait")));
        }
    }

    /// Reads what was asked of the run, and whether it is still ours.
    pub(super) async fn read_control(&mut self) {
        let Ok(client) = self.work.database.get().await else {
            return self.absent("the server cannot be reached");
        };
        let control = match self.work.store.control(&client, self.work.run_id).await {
            Ok(control) => control,
            Err(error) => return self.absent(&error.to_string()),
        };
        if control.epoch != self.work.epoch && !Guard::Epoch.is_out() {
            return self.end(Ending::TakenOver);
        }
        match control.state {
            RunState::Running => {}
            state => self.end(Ending::Drain(format!("the run is {}", state.as_str()))),
        }
        self.pacing.idle_wal(control.wal_at, self.in_flight.is_empty());
        if control.version != self.control_version {
            self.control_version = control.version;
            let before = self.pacing.limits;
            self.pacing.tune(control.tuned);
            self.turn();
            let limits = self.pacing.limits;
            if limits != before {
                self.listener.hear(&Event::Tuned {
                    workers: limits.workers.value,
                    rate_rows_per_s: limits.rate.value.rows_per_s,
                    wal_bytes_per_s: limits.rate.value.wal_per_s,
                    chunk_time_ms: limits.chunk_time.value.as_millis() as u64,
                });
            }
        }
    }

    /// Shows other sessions the limits and what binds.
    pub(super) async fn publish(&mut self) {
        let Ok(client) = self.work.database.get().await else { return };
        let untold = self.pacing.take_wal();
        let (store, run_id, limits) = (&self.work.store, self.work.run_id, &self.pacing.limits);
        let chunk_time = limits.chunk_time.value.as_millis() as i32;
        let (workers, rate) = (limits.workers.value, limits.rate.value);
        let limited = store.publish_limits(&client, run_id, workers, rate, chunk_time).await;
        let verdict = self.pacing.verdict();
        let spent = self.pacing.spent();
        let window = self.pacing.window();
        let is_looking = self.look.is_some() && matches!(verdict, Verdict::Proceed);
        let reason = if is_looking { LOOKING } else { verdict.reason() };
        let paced = Paced {
            verdict: verdict.word(),
            reason,
            by: verdict.cause().map(|cause| cause.by.as_str()),
            window: window.map(|(name, until)| (name.as_str(), until.as_deref())),
            spent: &spent,
            wal_per_row: self.pacing.wal_per_row(),
            wal: (untold.0 as i64, untold.1),
        };
        let told = store.publish_throttle(&client, run_id, &paced).await;
        if told.is_err() {
            self.pacing.keep_wal(untold);
        }
        self.is_unpublished = limited.and(told).is_err();
        self.published_at = Some(Instant::now());
    }

    /// The lock's connection broke. Exactness does not depend on it: when somebody else has it, the epoch tells.
    async fn retake_lock(&mut self) {
        let key = self.work.store.run_lock(self.work.run_id);
        if let Ok(Attempt::Held(lock)) = lock::try_acquire(&self.work.database, key).await {
            self.lock = Some(*lock);
        }
    }

    /// Writes to the audit trail; a failure to do so stops nothing.
    pub(super) async fn audit(&self, event: &str, detail: &str) {
        let Ok(client) = self.work.database.get().await else { return };
        let logged =
            self.work.store.log(&client, self.work.run_id, &self.start.who, event, detail).await;
        if let Err(error) = logged {
            tracing::warn!(run.id = self.work.run_id, error = %error, "an event is not in the run's log");
        }
    }
}
