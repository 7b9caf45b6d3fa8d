//! The one admission point: a chunk starts when its rows, and its WAL, have been paid for.
//!
//! governor cannot change a quota, refills a new limiter to the brim and knows no debt. So its quota is fixed at a million cells a
//! second, one cell being a microsecond of budget, and the price of a row or a byte is set here: `1,000,000 / rate` cells. A new rate is
//! a new price, and nothing else changes. The chunk is charged by estimate when it is admitted and corrected when it has
//! settled; what was overpaid is credit for the next.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use crate::budget::Budget;

/// Cells a second: a cell is a microsecond.
const CELLS_PER_SECOND: f64 = 1_000_000.0;

/// Budget that may be saved up while chunks are late: a quarter of a second. More would let a stall be followed by a burst, less
/// would lose budget to the ordinary jitter of commits.
const BURST: NonZeroU32 = NonZeroU32::new(250_000).expect("not zero");

/// tokio's clock, so that tests with a paused clock see waits as they would be.
#[derive(Clone, Debug)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Admits rows and WAL at rates that may change at any moment.
#[derive(Default)]
pub struct Pacer {
    rows: Account,
    wal: Account,
}

impl Pacer {
    /// Changes the rates; debt and credit stay what they were, in rows and bytes.
    pub fn set_budget(&mut self, budget: Budget) {
        self.rows.set_rate(budget.rows_per_s);
        self.wal.set_rate(budget.wal_per_s);
    }

    /// Adds rows and bytes of WAL to be paid for; negative ones are given back.
    pub fn charge(&mut self, rows: f64, wal: f64) {
        self.rows.charge(rows);
        self.wal.charge(wal);
    }

    /// Pays what can be paid now. Zero when all is paid; else how long until the next payment is due.
    pub fn pay(&mut self) -> Duration {
        self.rows.pay().max(self.wal.pay())
    }
}

/// One thing that is paid for.
struct Account {
    clock: TokioClock,
    limiter: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Duration>>,
    rate: Option<f64>,
    /// Cells still to be paid before the next chunk may start; below zero, credit.
    owed: f64,
}

impl Default for Account {
    fn default() -> Account {
        let clock = TokioClock(Instant::now());
        let million = NonZeroU32::new(CELLS_PER_SECOND as u32).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(million).allow_burst(BURST);
        let limiter = RateLimiter::direct_with_clock(quota, clock.clone());
        // A fresh limiter is full; a run begins with nothing saved up.
        let _ = limiter.check_n(BURST);
        Account { clock, limiter, rate: None, owed: 0.0 }
    }
}

impl Account {
    fn set_rate(&mut self, rate: Option<f64>) {
        if rate == self.rate {
            return;
        }
        self.owed = match (self.rate, rate) {
            (Some(old), Some(new)) => self.owed * old / new,
            _ => 0.0,
        };
        self.rate = rate;
    }

    fn charge(&mut self, units: f64) {
        if let Some(rate) = self.rate {
            self.owed += units * CELLS_PER_SECOND / rate;
        }
    }

    fn pay(&mut self) -> Duration {
        while self.owed >= 1.0 {
            let piece = self.owed.min(f64::from(BURST.get())) as u32;
            let piece = NonZeroU32::new(piece).unwrap_or(NonZeroU32::MIN);
            match self.limiter.check_n(piece) {
                Ok(Ok(())) => self.owed -= f64::from(piece.get()),
                Ok(Err(not_until)) => return not_until.wait_time_from(self.clock.now()),
                Err(_) => unreachable!("a piece is never larger than the burst"),
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows admitted over `seconds` in chunks of `size`, with the clock of the test.
    async fn admitted(pacer: &mut Pacer, size: f64, seconds: u64) -> f64 {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut rows = 0.0;
        loop {
            pacer.charge(size, 0.0);
            loop {
                let wait = pacer.pay();
                if wait.is_zero() {
                    break;
                }
                tokio::time::sleep(wait).await;
            }
            if Instant::now() >= end {
                return rows;
            }
            rows += size;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rates_are_exact_within_five_percent_over_ten_seconds() {
        for rate in [100.0, 5_000.0, 50_000.0] {
            let mut pacer = Pacer::default();
            pacer.set_budget(Budget::rows(rate));
            let rows = admitted(&mut pacer, rate / 4.0, 10).await;
            assert!((rows / 10.0 / rate - 1.0).abs() < 0.05, "{rate}: {rows} rows in 10 s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_rate_brings_neither_burst_nor_stall() {
        let mut pacer = Pacer::default();
        pacer.set_budget(Budget::rows(1_000.0));
        admitted(&mut pacer, 100.0, 60).await;
        for rate in [5_000.0, 200.0, 1_000.0] {
            pacer.set_budget(Budget::rows(rate));
            let rows = admitted(&mut pacer, rate / 10.0, 4).await;
            assert!((rows / 4.0 / rate - 1.0).abs() < 0.1, "{rate}: {rows} rows in 4 s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_not_followed_by_a_burst() {
        let mut pacer = Pacer::default();
        pacer.set_budget(Budget::rows(1_000.0));
        tokio::time::sleep(Duration::from_secs(30)).await;
        let rows = admitted(&mut pacer, 50.0, 2).await;
        assert!(rows <= 2_000.0 + 250.0 + 50.0, "{rows} rows in 2 s after a stall");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_overpaid_is_credit() {
        let mut pacer = Pacer::default();
        pacer.set_budget(Budget::rows(100.0));
        pacer.charge(100.0, 0.0);
        tokio::time::sleep(Duration::from_millis(240)).await;
        assert!(!pacer.pay().is_zero());
        pacer.charge(-100.0, 0.0);
        assert!(pacer.pay().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn the_stricter_of_rows_and_wal_decides() {
        let mut pacer = Pacer::default();
        pacer.set_budget(Budget { rows_per_s: Some(10_000.0), wal_per_s: Some(100_000.0) });
        let started = Instant::now();
        for _ in 0..100 {
            // 100 rows of 200 bytes each: five such chunks a second by WAL, a hundred by rows.
            pacer.charge(100.0, 20_000.0);
            loop {
                let wait = pacer.pay();
                if wait.is_zero() {
                    break;
                }
                tokio::time::sleep(wait).await;
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        assert!((seconds / 20.0 - 1.0).abs() < 0.05, "{seconds} s");
    }
}
