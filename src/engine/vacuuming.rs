//! Vacuums beside the chunks: one at a time, on a connection of its own, cancelled when the run must stand still.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::Object;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_postgres::CancelToken;

use super::Work;
use super::dispatcher::Dispatcher;
use super::worker::Note;
use crate::event::Event;
use crate::key::Place;
use crate::throttle::Verdict;
use crate::vacuum::{Manner, Outcome, Pressure};

/// How long the end of a run waits for its vacuum. Past that it is cancelled; what it has done stays done.
const END_MAX: Duration = Duration::from_secs(30);

/// How long to leave a table alone after a vacuum was held back or failed.
const AGAIN: Duration = Duration::from_secs(60);

/// The vacuum of a run, if any.
pub(super) struct Vacuums {
    pressure: Pressure,
    task: JoinSet<Result<Outcome, String>>,
    /// How to cancel the one under way.
    pub(super) token: Option<CancelToken>,
    /// Set when the one under way is not wanted any more, and why.
    is_unwanted: Arc<AtomicBool>,
    unwanted: Option<&'static str>,
    /// When the one under way, or the last one, began; at first the run itself. And the one before it.
    began: Instant,
    since: Instant,
    dead: i64,
    /// What the one under way is at.
    part: usize,
    /// Until when not to try a part; for ever where this role may not.
    rests: HashMap<usize, Option<Instant>>,
    told: String,
}

impl Vacuums {
    pub(super) fn new(pressure: Pressure) -> Vacuums {
        Vacuums {
            pressure,
            task: JoinSet::new(),
            token: None,
            is_unwanted: Arc::default(),
            unwanted: None,
            began: Instant::now(),
            since: Instant::now(),
            dead: 0,
            part: 0,
            rests: HashMap::new(),
            told: String::new(),
        }
    }

    /// Learns from a settled chunk of a leaf, if it is one of a leaf.
    pub(super) fn observe(&mut self, leaf: Option<usize>, rows: i64, hot: Option<i64>) {
        self.pressure.observe(leaf.map_or(0, |number| number - 1), rows, hot);
    }

    /// The end of the one under way; pending for ever when there is none, or none that ends. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Result<Outcome, String> {
        match self.task.join_next().await {
            Some(joined) => joined.unwrap_or_else(|error| Err(error.to_string())),
            None => std::future::pending().await,
        }
    }

    /// Whether one is under way.
    pub(super) fn is_at_work(&self) -> bool {
        !self.task.is_empty()
    }

    fn due(&self) -> Option<usize> {
        let now = Instant::now();
        let rests = |part: usize| {
            self.rests.get(&part).is_some_and(|until| until.is_none_or(|until| until > now))
        };
        (!self.is_at_work()).then(|| self.pressure.due(|part| !rests(part))).flatten()
    }
}

async fn vacuum(
    work: &Work,
    part: usize,
    manner: Manner,
    is_unwanted: &AtomicBool,
    notes: tokio::sync::mpsc::UnboundedSender<Note>,
) -> Result<Outcome, String> {
    let client = work.database.get().await.map_err(|error| error.to_string())?;
    // Out of the pool for good: a cancel may reach it late, and no chunk must have it then.
    let client = Object::take(client);
    let _ = notes.send(Note::Vacuuming(client.cancel_token()));
    let target = match &work.leaves {
        None => (work.table.oid, work.table.name.clone()),
        Some(_) => {
            let found = work.store.find_leaf(&client, work.run_id, part + 1).await;
            match found.map_err(|error| error.to_string())? {
                (Place::Leaf(_, name), Some(oid)) => (oid, name),
                _ => return Ok(Outcome::Gone),
            }
        }
    };
    let done = crate::vacuum::vacuum(&client, (target.0, &target.1), manner, is_unwanted).await;
    done.map_err(|error| crate::db::message(&error))
}

impl Dispatcher<'_> {
    /// Starts a vacuum when one is due and nothing holds the run.
    pub(super) fn vacuum_if_due(&mut self) {
        let Some(part) = self.vacuums.due().filter(|_| self.ending.is_none()) else { return };
        let verdict = self.ask_throttle();
        let is_gentle = match verdict {
            Verdict::Hold(_) => return,
            Verdict::Slow(..) => true,
            Verdict::Proceed => !self.pacing.limits.rate.value.is_unlimited(),
        };
        self.pacing.tell(true);
        let manner = Manner { is_gentle, is_pooled: self.is_pooled() };
        let (work, notes) = (self.work.clone(), self.notes.0.clone());
        self.vacuums.part = part;
        self.vacuums.dead = self.vacuums.pressure.begin(part);
        self.vacuums.since = std::mem::replace(&mut self.vacuums.began, Instant::now());
        let is_unwanted = Arc::new(AtomicBool::new(false));
        (self.vacuums.is_unwanted, self.vacuums.unwanted) = (is_unwanted.clone(), None);
        self.vacuums
            .task
            .spawn(async move { vacuum(&work, part, manner, &is_unwanted, notes).await });
    }

    /// A vacuum has ended: it is told, and counted in the run's tables.
    pub(super) async fn vacuum_ended(&mut self, ended: Result<Outcome, String>) {
        self.vacuums.token = None;
        let took = self.vacuums.began.elapsed();
        let mut is_forbidden = false;
        let reason = match ended {
            Ok(Outcome::Done) => {
                let since = self.vacuums.began - self.vacuums.since + took;
                self.vacuums.pressure.took(took, since);
                let took_ms = took.as_millis() as u64;
                self.listener.hear(&Event::Vacuumed { took_ms, dead: self.vacuums.dead });
                if let Ok(client) = self.work.database.get().await {
                    let (store, run_id) = (&self.work.store, self.work.run_id);
                    if let Err(error) = store.count_vacuum(&client, run_id, took_ms as i64).await {
                        tracing::warn!(error = %error, "a vacuum was not counted");
                    }
                }
                return;
            }
            Ok(Outcome::Gone) => return,
            Ok(Outcome::Held(reason)) => reason,
            Ok(Outcome::Forbidden(mend)) => {
                is_forbidden = true;
                format!("this role may not vacuum the table: {mend}")
            }
            Err(error) => self.vacuums.unwanted.map_or(error, str::to_owned),
        };
        let until = (!is_forbidden).then(|| Instant::now() + AGAIN);
        self.vacuums.rests.insert(self.vacuums.part, until);
        // What was counted is still there.
        self.vacuums.pressure.put_back(self.vacuums.part, self.vacuums.dead);
        if self.vacuums.told != reason {
            self.audit("no vacuum", &reason).await;
            self.listener.hear(&Event::NotVacuumed { reason: reason.clone() });
            self.vacuums.told = reason;
        }
    }

    /// Whether a transaction pooler stands in between, or nobody knows at this moment, without the lock.
    fn is_pooled(&self) -> bool {
        self.lock.as_ref().is_none_or(|lock| lock.is_pooled())
    }

    /// Cancels the vacuum under way, if any, and says why. To be repeated until it has ended: a cancel can come between two statements.
    pub(super) fn cancel_vacuum(&mut self, why: &'static str) {
        if self.vacuums.task.is_empty() {
            return;
        }
        self.vacuums.unwanted = Some(why);
        self.vacuums.is_unwanted.store(true, Ordering::SeqCst);
        // Behind a pooler the vacuum's session may have ended a moment ago and be a chunk's by now.
        if let Some(token) = self.vacuums.token.clone().filter(|_| !self.is_pooled()) {
            self.cancel(&token);
        }
    }

    /// Once a second while a vacuum is under way: whether it must end.
    pub(super) async fn watch_vacuum(&mut self, is_held: bool) {
        if self.vacuums.task.is_empty() {
            return;
        }
        if is_held {
            return self.cancel_vacuum("the run is held");
        }
        if let Some(why) = self.vacuums.unwanted {
            return self.cancel_vacuum(why);
        }
        let Ok(client) = self.work.database.get().await else { return };
        let leaf = self.work.leaves.as_ref().and_then(|leaves| leaves.get(self.vacuums.part + 1));
        let oid = leaf.map_or(self.work.table.oid, |leaf| leaf.oid);
        if crate::vacuum::is_in_the_way(&client, oid).await.unwrap_or(false) {
            drop(client);
            self.cancel_vacuum("somebody waits for a lock on the table");
        }
    }

    /// At the end of the run: a vacuum is finished, or cancelled when that takes too long or the run is being stopped.
    pub(super) async fn finish_vacuum(&mut self) {
        let deadline = Instant::now() + END_MAX;
        while !self.vacuums.task.is_empty() {
            tokio::select! {
                ended = self.vacuums.ended() => return self.vacuum_ended(ended).await,
                Some(note) = self.notes.1.recv() => self.noted(note),
                Ok(()) = self.stop.changed() => self.cancel_vacuum("the run is being stopped"),
                () = sleep(Duration::from_secs(1)) => self.watch_vacuum(false).await,
            }
            if self.ending.is_some() || Instant::now() > deadline {
                self.cancel_vacuum("the run is over");
            }
            if Instant::now() > deadline + END_MAX {
                return;
            }
        }
    }
}
