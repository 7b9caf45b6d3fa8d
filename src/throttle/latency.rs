//! How long a small transaction takes while the run is at work: what the application feels of it.
//!
//! A run that takes every processor, and whose WAL the COMMITs of others wait for, makes nothing ill that a view of the server would show.
//! So a transaction of a few bytes is committed over and over, on a connection of its own, and told against what it took before the first
//! chunk.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::Object;
use tokio::time::Instant;
use tokio_postgres::{Client, Error};

use super::health::Measure;
use crate::db::{self, Database, message};
use crate::event::duration;

/// Between two transactions: 25 a second are enough to tell a twentieth of them, and cost a percent of a processor and two million
/// transaction ids a day.
const EVERY: Duration = Duration::from_millis(40);

/// Between two tries to connect, as for the other signals.
const DOWN: Duration = Duration::from_secs(1);

/// Transactions that the usual time is learnt from, in some four seconds; and those before them, whose connection is new.
const USUAL_OF: usize = 100;
const WARM_UP: usize = 10;

/// Over this long the time is judged: some two hundred transactions.
const OVER: Duration = Duration::from_secs(10);

/// Part of the transactions that is quicker than what counts: the slowest one in twenty is what people complain of, and one in a hundred
/// is chance among so few.
const PART: f64 = 0.95;

/// Fewer than these, two seconds of them, say nothing: the slowest of a few is always slow.
const ENOUGH: usize = 50;
const LISTENED: Duration = Duration::from_secs(2);

/// The usual time is taken to be at least this long: what is over in a part of a millisecond may take twice as long.
const USUAL_MIN: Duration = Duration::from_millis(1);

/// A transaction that takes so long is no slow one among many, but all that there is to tell.
const HANGS: Duration = Duration::from_millis(500);

/// A transaction that takes longer is given up, and its connection with it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it takes until the usual time is known, at most, on a server that is not in trouble.
pub const KNOWN_WITHIN: Duration = Duration::from_secs(10);

/// Something that leaves a COMMIT record, and waits for it as the application does. Needs no privilege, and writes no table.
const SMALL: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'backfill', '')";

/// Times of small transactions, as they come.
#[derive(Clone, Debug)]
pub(super) struct Latency(Arc<Mutex<Times>>);

impl Latency {
    /// Begins to listen; ends when nobody holds what this returns.
    pub(super) fn listen(database: Database) -> Latency {
        let latency = Latency(Arc::default());
        let times = Arc::downgrade(&latency.0);
        tokio::spawn(async move {
            let mut connection: Option<Object> = None;
            loop {
                let begun = Instant::now();
                let Some(times) = times.upgrade().map(Latency) else { return };
                if connection.as_ref().is_none_or(|held| held.is_closed()) {
                    connection = match database.get().await {
                        Ok(got) => Some(got),
                        Err(error) => {
                            times.with(|times| times.trouble = Some(error.to_string()));
                            None
                        }
                    };
                }
                if let Some(held) = &connection
                    && let Err(error) = times.time_one(held).await
                {
                    times.with(|times| times.trouble = Some(error));
                    drop(connection.take().map(Object::take));
                }
                drop(times);
                // A server that is down or full is not knocked at 25 times a second.
                let pause = if connection.is_some() { EVERY } else { DOWN };
                tokio::time::sleep_until(begun + pause).await;
            }
        });
        latency
    }

    async fn time_one(&self, client: &Client) -> Result<(), String> {
        let begun = Instant::now();
        self.with(|times| times.under_way = Some(begun));
        let asked = tokio::select! {
            asked = commit_small(client) => asked.map_err(|error| message(&error)),
            () = tokio::time::sleep(PATIENCE) => Err(format!("no answer for {}", duration(PATIENCE))),
        };
        self.with(|times| {
            times.under_way = None;
            asked.map(|()| times.took(begun, begun.elapsed()))
        })
    }

    /// Whether the usual time is known, or that there is none to be had.
    pub(super) fn is_known(&self) -> bool {
        self.with(|times| times.usual.is_some() || times.trouble.is_some())
    }

    /// By how much the time lately is longer than the usual one.
    pub(super) fn measure(&self) -> Measure {
        self.with(|times| times.measure(Instant::now()))
    }

    fn with<T>(&self, what: impl FnOnce(&mut Times) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn commit_small(client: &Client) -> Result<(), Error> {
    db::ask_as_is(client, SMALL, &[]).await.map(|_| ())
}

#[derive(Debug, Default)]
struct Times {
    known: usize,
    lately: VecDeque<(Instant, Duration)>,
    usual: Option<Duration>,
    under_way: Option<Instant>,
    trouble: Option<String>,
}

impl Times {
    fn took(&mut self, at: Instant, took: Duration) {
        self.trouble = None;
        self.known += 1;
        if self.known <= WARM_UP {
            return;
        }
        self.lately.push_back((at, took));
        // However long the usual one takes, so many are needed to know it.
        let is_known = self.usual.is_some();
        while is_known && self.lately.front().is_some_and(|(first, _)| at - *first > OVER) {
            self.lately.pop_front();
        }
        if self.usual.is_none() && self.lately.len() >= USUAL_OF {
            self.usual = Some(slow(self.lately.iter().map(|(_, took)| *took)).max(USUAL_MIN));
        }
    }

    fn measure(&self, now: Instant) -> Measure {
        if let Some(trouble) = &self.trouble {
            return Measure::Unknown(format!("commit a small transaction: {trouble}"));
        }
        let Some(usual) = self.usual else {
            return Measure::Unknown("its usual time is not known yet".to_owned());
        };
        let lately = || self.lately.iter().filter(|(at, _)| now - *at <= OVER);
        // Few they are too where each takes long.
        let listened: Duration = lately().map(|(_, took)| *took).sum();
        let slow = match lately().count() >= ENOUGH || listened >= LISTENED {
            true => slow(lately().map(|(_, took)| *took)),
            false => usual,
        };
        // One that hangs is not waited for to be told.
        let hanging = self.under_way.map(|begun| now - begun).filter(|time| *time >= HANGS);
        let slow = slow.max(hanging.unwrap_or_default());
        let longer = (slow.as_secs_f64() / usual.as_secs_f64() - 1.0).max(0.0) * 100.0;
        let [slow, usual] = [slow, usual].map(|time| time.as_secs_f64() * 1000.0);
        let words = format!("a small transaction takes {slow:.1} ms, usually {usual:.1} ms");
        Measure::value(longer, words)
    }
}

/// The time that all but the slowest keep to; zero of none.
fn slow(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    let at = (times.len() as f64 * PART) as usize;
    times.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    async fn take(times: &mut Times, n: usize, took: impl Fn(usize) -> Duration) {
        for i in 0..n {
            tokio::time::advance(EVERY).await;
            times.took(Instant::now(), took(i));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_of_twenty_lately_against_those_before_the_first_chunk() {
        let mut times = Times::default();
        take(&mut times, WARM_UP, |_| ms(500)).await;
        take(&mut times, USUAL_OF - 1, |i| ms(if i % 10 == 0 { 4 } else { 2 })).await;
        assert!(matches!(times.measure(Instant::now()), Measure::Unknown(_)));
        take(&mut times, 1, |_| ms(2)).await;
        assert_eq!(times.usual, Some(ms(4)));
        let said = |times: &Times| match times.measure(Instant::now()) {
            Measure::Value { value, words, .. } => (value, words),
            other => panic!("{other:?}"),
        };
        // One in thirty is chance.
        take(&mut times, 250, |i| ms(if i % 30 == 0 { 100 } else { 4 })).await;
        assert_eq!(said(&times).0, 0.0);
        take(&mut times, 250, |i| ms(if i % 10 == 0 { 12 } else { 4 })).await;
        let words = "a small transaction takes 12.0 ms, usually 4.0 ms".to_owned();
        assert_eq!(said(&times), (200.0, words));
        // What was is forgotten, and what hangs counts.
        tokio::time::advance(OVER * 2).await;
        assert_eq!(said(&times).0, 0.0);
        times.under_way = Some(Instant::now());
        tokio::time::advance(ms(499)).await;
        assert_eq!(said(&times).0, 0.0);
        tokio::time::advance(ms(101)).await;
        assert_eq!(said(&times).0.round(), 14_900.0);
        times.trouble = Some("down".to_owned());
        assert!(matches!(times.measure(Instant::now()), Measure::Unknown(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_slow_is_known_and_told() {
        let mut times = Times::default();
        let slowly = async |times: &mut Times, n: usize, took: Duration| {
            for _ in 0..n {
                tokio::time::advance(took).await;
                times.took(Instant::now(), took);
            }
        };
        slowly(&mut times, WARM_UP + USUAL_OF, ms(150)).await;
        assert_eq!(times.usual, Some(ms(150)));
        // Thirty-three in the last ten seconds.
        slowly(&mut times, 100, ms(300)).await;
        let Measure::Value { value, .. } = times.measure(Instant::now()) else { panic!() };
        assert_eq!(value, 100.0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_quicker_than_a_millisecond_is_one() {
        let mut times = Times::default();
        take(&mut times, WARM_UP + USUAL_OF, |_| Duration::from_micros(200)).await;
        assert_eq!(times.usual, Some(USUAL_MIN));
    }
}
