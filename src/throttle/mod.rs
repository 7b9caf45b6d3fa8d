//! Whether the run may go on, how fast, and why.
//!
//! Three things are kept apart: sampling (the [`sampler`] keeps the newest values), the verdict (limits and calendar in [`limit`], health in
//! [`health`], both pure and immediate), and waiting ([`pacer::Pacer`]). The strictest verdict binds, and every verdict but `Proceed`
//! carries its cause.

mod commits;
pub mod grade;
pub mod health;
pub mod latency;
pub mod law;
pub mod limit;
pub mod pacer;
pub mod probes;
mod rest;
pub mod sampler;
#[cfg(test)]
mod simulation;
pub mod times;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::budget::Budget;

/// Why a throttle slows or holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Cause {
    /// The constraint, in a word that stays the same while its values change: `limit`, `window business hours`, `replica_lag`.
    pub by: String,
    /// The reason with its values.
    pub reason: String,
}

impl Cause {
    /// Takes both.
    pub fn new(by: impl Into<String>, reason: impl Into<String>) -> Cause {
        Cause { by: by.into(), reason: reason.into() }
    }
}

/// What a throttle says.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Go on at full speed.
    Proceed,
    /// Go on at most with this budget.
    Slow(Budget, Cause),
    /// Start no chunk.
    Hold(Cause),
}

impl Verdict {
    /// The word used in events and in the state tables.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Proceed => "proceed",
            Verdict::Slow(..) => "slow",
            Verdict::Hold(_) => "hold",
        }
    }

    /// Why; none for `Proceed`.
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Verdict::Proceed => None,
            Verdict::Slow(_, cause) | Verdict::Hold(cause) => Some(cause),
        }
    }

    /// The reason; empty for `Proceed`.
    pub fn reason(&self) -> &str {
        self.cause().map_or("", |cause| &cause.reason)
    }

    /// Hold before slow before proceed, the lower rate first.
    fn strictness(&self, wal_per_row: f64) -> f64 {
        match self {
            Verdict::Proceed => f64::INFINITY,
            Verdict::Slow(budget, _) => budget.as_rows(wal_per_row),
            Verdict::Hold(_) => -1.0,
        }
    }
}

/// All verdicts together.
#[derive(Clone, Debug, PartialEq)]
pub struct Ruling {
    /// The one that binds.
    pub verdict: Verdict,
    /// The stricter of all budgets in each respect.
    pub budget: Budget,
}

/// The ruling of several verdicts, when a row costs so many bytes of WAL.
pub fn rule(verdicts: impl IntoIterator<Item = Verdict>, wal_per_row: f64) -> Ruling {
    let mut ruling = Ruling { verdict: Verdict::Proceed, budget: Budget::UNLIMITED };
    for verdict in verdicts {
        if let Verdict::Slow(budget, _) = &verdict {
            ruling.budget = ruling.budget.and(*budget);
        }
        if verdict.strictness(wal_per_row) < ruling.verdict.strictness(wal_per_row) {
            ruling.verdict = verdict;
        }
    }
    ruling
}

/// An opinion on how fast the run may go. Cheap, never blocks: it reads a value that somebody else keeps fresh.
pub trait Throttle: Send {
    /// The opinion at this moment.
    fn verdict(&self) -> Verdict;
}

/// What the server has run out of, when it has: disk, connections, memory. Cleared by the engine when it tries again.
#[derive(Debug, Default)]
pub struct Shortage(pub Option<String>);

impl Throttle for Shortage {
    fn verdict(&self) -> Verdict {
        match &self.0 {
            Some(reason) => Verdict::Hold(Cause::new("shortage", reason)),
            None => Verdict::Proceed,
        }
    }
}

/// Time spent under each constraint.
#[derive(Debug)]
pub struct Ledger {
    spent: BTreeMap<String, Duration>,
    since: Instant,
    by: String,
}

/// The constraint when none binds: the server's own speed.
pub const UNBOUND: &str = "none";

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger { spent: BTreeMap::new(), since: Instant::now(), by: UNBOUND.to_owned() }
    }
}

impl Ledger {
    /// Another constraint, or the same, binds from here on.
    pub fn turn(&mut self, verdict: &Verdict) {
        let now = Instant::now();
        *self.spent.entry(self.by.clone()).or_default() += now - self.since;
        self.since = now;
        self.by = verdict
            .cause()
            .map_or(UNBOUND.to_owned(), |cause| format!("{} ({})", cause.by, verdict.word()));
    }

    /// How long the constraint binds that binds now.
    pub fn since(&self) -> Duration {
        self.since.elapsed()
    }

    /// Seconds by constraint, up to now.
    pub fn seconds(&self) -> BTreeMap<String, f64> {
        let mut all: BTreeMap<String, f64> =
            self.spent.iter().map(|(by, spent)| (by.clone(), spent.as_secs_f64())).collect();
        *all.entry(self.by.clone()).or_default() += self.since.elapsed().as_secs_f64();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strictest_verdict_binds_and_budgets_add_up() {
        let slow = |budget: Budget| Verdict::Slow(budget, Cause::new("x", budget.to_string()));
        let hold = Verdict::Hold(Cause::new("disk", "full"));
        let wal = Budget { rows_per_s: None, wal_per_s: Some(1_000.0) };
        assert_eq!(rule([], 500.0).verdict, Verdict::Proceed);
        // A row of 500 bytes: two rows a second.
        let ruling = rule([Verdict::Proceed, slow(Budget::rows(5.0)), slow(wal)], 500.0);
        assert_eq!(ruling.verdict, slow(wal));
        assert_eq!(ruling.budget, Budget { rows_per_s: Some(5.0), wal_per_s: Some(1_000.0) });
        assert_eq!(
            rule([slow(Budget::rows(5.0)), hold.clone(), Verdict::Proceed], 1.0).verdict,
            hold
        );
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_told_by_constraint() {
        let mut ledger = Ledger::default();
        tokio::time::advance(Duration::from_secs(3)).await;
        let hold = Verdict::Hold(Cause::new("replica_lag", "far behind"));
        ledger.turn(&hold);
        tokio::time::advance(Duration::from_secs(5)).await;
        ledger.turn(&Verdict::Proceed);
        tokio::time::advance(Duration::from_secs(2)).await;
        let seconds = ledger.seconds();
        assert_eq!((seconds["none"].round(), seconds["replica_lag (hold)"].round()), (5.0, 5.0));
    }
}
