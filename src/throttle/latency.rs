//! How long a small transaction takes while the run is at work: what the application feels of it.
//!
//! A run that takes every processor, and whose WAL the COMMITs of others wait for, makes nothing ill that a view of the server would show.
//! So a transaction of a few bytes is committed over and over, on a connection of its own, and told against what it takes while the run
//! rests.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::Object;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::{Client, Error};

use super::health::Measure;
use super::times::{AtWork, Times};
use crate::db::{self, Database, message};
use crate::event::duration;

/// Between two transactions: 25 a second are enough to tell a twentieth of them, and cost a percent of a processor and two million
/// transaction ids a day.
const EVERY: Duration = Duration::from_millis(40);

/// Between two tries where there is trouble, as for the other signals.
const AGAIN: Duration = Duration::from_secs(1);

/// A transaction that takes longer is given up, and its connection with it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it takes until the usual time is known, on a server that is not in trouble.
pub const KNOWN_WITHIN: Duration = Duration::from_secs(10);

/// Something that leaves a COMMIT record, and waits for it as the application does. Needs no privilege, and writes no table.
const SMALL: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'backfill', '')";

/// Listens to small transactions.
#[derive(Clone, Debug)]
pub(super) struct Latency {
    times: Arc<Mutex<Times>>,
    since: Instant,
}

impl Latency {
    /// Begins to listen; ends when nobody holds what this returns. `at_work` tells who is at work beside it.
    pub(super) fn listen(database: Database, mut at_work: watch::Receiver<AtWork>) -> Latency {
        let since = Instant::now();
        let latency = Latency { times: Arc::default(), since };
        let times = Arc::downgrade(&latency.times);
        tokio::spawn(async move {
            let mut connection: Option<Object> = None;
            loop {
                let begun = Instant::now();
                let Some(times) = times.upgrade() else { return };
                let latency = Latency { times, since };
                let timed = latency.time_one(&database, &mut connection, &mut at_work).await;
                let pause = if timed.is_ok() { EVERY } else { AGAIN };
                if let Err(trouble) = timed {
                    latency.with(|times| times.trouble = Some(trouble));
                }
                drop(latency);
                tokio::time::sleep_until(begun + pause).await;
            }
        });
        latency
    }

    async fn time_one(
        &self,
        database: &Database,
        connection: &mut Option<Object>,
        at_work: &mut watch::Receiver<AtWork>,
    ) -> Result<(), String> {
        // A connection that does not come is felt too.
        if connection.as_ref().is_none_or(|held| held.is_closed()) {
            let begun = self.since.elapsed();
            self.with(|times| times.under_way = Some(begun));
            *connection = Some(database.get().await.map_err(|error| error.to_string())?);
        }
        let Some(client) = connection.as_ref() else { return Ok(()) };
        let beside = *at_work.borrow_and_update();
        let begun = self.since.elapsed();
        self.with(|times| times.under_way = Some(begun));
        let asked = tokio::select! {
            asked = commit_small(client) => Some(asked),
            () = tokio::time::sleep(PATIENCE) => None,
        };
        let took = self.since.elapsed() - begun;
        self.with(|times| times.under_way = None);
        match asked {
            Some(Ok(())) => {
                let has_changed = at_work.has_changed().unwrap_or(false);
                let beside = if has_changed { AtWork::Us } else { beside };
                self.with(|times| times.took(begun, took, beside));
                Ok(())
            }
            Some(Err(error)) => Err(message(&error)),
            None => {
                drop(connection.take().map(Object::take));
                Err(format!("no answer for {}", duration(PATIENCE)))
            }
        }
    }

    /// Whether the usual time is known, or that there is none to be had.
    pub(super) fn is_known(&self) -> bool {
        self.with(|times| times.is_known())
    }

    /// It is another server now.
    pub(super) fn forget(&self) {
        self.with(Times::forget);
    }

    /// By how much the time lately is longer than the usual one, in percent.
    pub(super) fn measure(&self) -> Measure {
        self.with(|times| times.measure(self.since.elapsed()))
    }

    fn with<T>(&self, what: impl FnOnce(&mut Times) -> T) -> T {
        what(&mut self.times.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn commit_small(client: &Client) -> Result<(), Error> {
    db::ask_as_is(client, SMALL, &[]).await.map(|_| ())
}
