//! How fast the run may go at this moment: limits, calendar, health and shortages brought together, and paid for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::control::tuned_limits;
use super::crew::Crew;
use super::worker::Settled;
use crate::budget::Budget;
use crate::calendar::Calendar;
use crate::settings::Limits;
use crate::signal::{self, Kind};
use crate::state::Tuned;
use crate::throttle::health::{Health, Here};
use crate::throttle::limit::Limit;
use crate::throttle::pacer::Pacer;
use crate::throttle::sampler::Looks;
use crate::throttle::times::AtWork;
use crate::throttle::{Ledger, Shortage, Throttle, Verdict, rule};

/// What paces a run, from files, flags and the run's record.
pub struct Pace {
    /// The limits before anything was tuned.
    pub base: Limits,
    /// What an operator tuned.
    pub tuned: Tuned,
    /// The windows.
    pub calendar: Arc<Calendar>,
    /// The health signals.
    pub health: signal::Settings,
    /// What the sampler sees, and is told.
    pub looks: Looks,
    /// Whether the run ends at a closed window instead of waiting.
    pub no_wait: bool,
    /// Seconds under each constraint, by earlier runners.
    pub spent: BTreeMap<String, f64>,
}

/// Over this long the run's speed is averaged: several chunks, and short enough to follow the control law.
const SPEED_OVER: Duration = Duration::from_secs(10);

/// How long nobody must have waited for a chunk before chunks may take twice as long again.
const GENTLE_FOR: Duration = Duration::from_secs(30);

/// Between two halvings of the chunk time: chunks cut before must be over first.
const GENTLER_EVERY: Duration = Duration::from_secs(2);

/// Shortest chunk time that blocked sessions lead to: below, the round trips cost more than the work.
const GENTLE_MIN: Duration = Duration::from_millis(20);

/// After so long in a hold what other runs do is how the server usually is.
const HELD_LONG: Duration = Duration::from_secs(120);

/// The pace of a run at work.
pub(super) struct Pacing {
    pace: Pace,
    /// The limits in force, with what was tuned and what the window says.
    pub(super) limits: Limits,
    pub(super) shortage: Shortage,
    limit: Limit,
    health: Health,
    crew: Crew,
    pacer: Pacer,
    budget: Budget,
    verdict: Verdict,
    ledger: Ledger,
    wal: WalMeter,
    begun: Instant,
    settled: VecDeque<(Instant, f64)>,
    /// How often the chunk time is halved for blocked sessions.
    halvings: u32,
    /// When it was last halved or doubled.
    halved_at: Option<Instant>,
    /// When a session was last seen waiting.
    blocked_at: Option<Instant>,
    /// Whether another run is at work on the server.
    has_company: bool,
}

/// What a run has at work on the server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OnServer {
    pub(super) is_any: bool,
    /// What may take long: a vacuum, or a look for what is left.
    pub(super) has_long: bool,
}

/// What a tick changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turned {
    pub(super) limits: bool,
    pub(super) window: bool,
}

impl Pacing {
    pub(super) fn new(pace: Pace) -> Pacing {
        let at = Timestamp::now();
        let limits = tuned_limits(&pace.base, &pace.tuned, at);
        let limit = Limit::new(limits, pace.calendar.clone(), forced(&pace.tuned, at), at);
        let mut pacing = Pacing {
            limits: limit.in_force(at),
            limit,
            health: Health::new(pace.health.clone()),
            shortage: Shortage::default(),
            crew: Crew::default(),
            pacer: Pacer::default(),
            budget: Budget::UNLIMITED,
            verdict: Verdict::Proceed,
            ledger: Ledger::default(),
            wal: WalMeter::default(),
            begun: Instant::now(),
            settled: VecDeque::new(),
            halvings: 0,
            halved_at: None,
            blocked_at: None,
            has_company: false,
            pace,
        };
        pacing.tick(OnServer::default());
        pacing
    }

    /// Takes what an operator tuned.
    pub(super) fn tune(&mut self, tuned: Tuned) {
        self.pace.tuned = tuned;
    }

    /// Looks at the clock and at the newest sample. Once a second. `work` is what the run has on the server.
    pub(super) fn tick(&mut self, work: OnServer) -> Turned {
        let at = Timestamp::now();
        let (before, window) = (self.limits, self.limit.window().cloned());
        self.limit.limits = tuned_limits(&self.pace.base, &self.pace.tuned, at);
        self.limit.forced = forced(&self.pace.tuned, at);
        let looks = &mut self.pace.looks.newest;
        let is_new = looks.has_changed().unwrap_or(false);
        let look = is_new.then(|| looks.borrow_and_update().clone()).flatten();
        if let Some(look) = &look {
            self.limit.share = look.runs;
            self.has_company = look.others_at_work;
        }
        self.limit.look(at);
        let kept = self.pace.tuned.ignore.iter().filter(|(_, until)| **until > at);
        self.health.exempt(kept.filter_map(|(name, _)| Kind::parse(name)).collect());
        let ruling = rule(self.limit.verdicts(), self.wal.per_row());
        let allowed = ruling.budget.as_rows(self.wal.per_row());
        let sample = look.as_ref().map(|look| &look.sample);
        let speed = self.speed();
        let is_open = !self.limit.verdicts().iter().any(|v| matches!(v, Verdict::Hold(_)));
        let may_rest = is_open && !work.has_long && !self.has_company;
        self.health.see(Here { is_at_work: work.is_any, may_rest });
        self.health.tick(self.begun.elapsed(), sample, speed, allowed);
        self.limits = self.gentle(self.limit.in_force(at));
        let workers = &mut self.limits.workers.value;
        *workers = self.crew.workers(self.begun.elapsed(), *workers);
        Turned { limits: self.limits != before, window: self.limit.window() != window.as_ref() }
    }

    /// With chunks half as long, and half again, while sessions of the application wait for them; and slowly back when none does.
    fn gentle(&mut self, mut limits: Limits) -> Limits {
        let now = Instant::now();
        let time = limits.chunk_time.value;
        let halved = |halvings: u32| (time / 2_u32.pow(halvings)).max(GENTLE_MIN.min(time));
        let is_due = |at: Option<Instant>, wait: Duration| at.is_none_or(|at| now - at >= wait);
        if self.health.is_blocking() {
            self.blocked_at = Some(now);
            if is_due(self.halved_at, GENTLER_EVERY) && halved(self.halvings) > GENTLE_MIN {
                self.halvings += 1;
                self.halved_at = Some(now);
            }
        } else if self.halvings > 0
            && is_due(self.blocked_at, GENTLE_FOR)
            && is_due(self.halved_at, GENTLE_FOR)
        {
            self.halvings -= 1;
            self.halved_at = Some(now);
        }
        limits.chunk_time.value = halved(self.halvings);
        limits
    }

    /// Rows a second lately.
    fn speed(&mut self) -> f64 {
        let now = Instant::now();
        while self.settled.front().is_some_and(|(at, _)| now - *at > SPEED_OVER) {
            self.settled.pop_front();
        }
        let over = SPEED_OVER.min(self.begun.elapsed()).max(Duration::from_secs(1));
        self.settled.iter().map(|(_, rows)| rows).sum::<f64>() / over.as_secs_f64()
    }

    /// Tells who listens to the server whether anything of the run is at work there. Behind a hold for a server in trouble the run's own
    /// work is still felt for a while, as that of another run is.
    pub(super) fn tell(&self, is_at_work: bool) {
        let is_calm = |by: &str| {
            let calm = [Kind::Latency, Kind::FlagFile, Kind::Http];
            by.starts_with("window") || calm.iter().any(|kind| kind.name() == by)
        };
        // Held beside another run it would wait for that one's end.
        let is_alone = !self.has_company || self.ledger.since() >= HELD_LONG;
        let now = match &self.verdict {
            Verdict::Hold(_) if is_at_work => AtWork::Us,
            Verdict::Hold(cause) if is_calm(&cause.by) && is_alone => AtWork::Nobody,
            Verdict::Hold(_) => AtWork::Others,
            _ => AtWork::Us,
        };
        self.pace.looks.at_work.send_if_modified(|was| std::mem::replace(was, now) != now);
    }

    /// The binding verdict now, and whether it is of another kind or by another constraint than the one before.
    pub(super) fn rule(&mut self) -> (Verdict, bool) {
        let others = [self.health.verdict(), self.shortage.verdict()];
        let verdicts = self.limit.verdicts().into_iter().chain(others);
        let ruling = rule(verdicts, self.wal.per_row());
        let by = |verdict: &Verdict| verdict.cause().map(|cause| cause.by.clone());
        let is_other = (ruling.verdict.word(), by(&ruling.verdict))
            != (self.verdict.word(), by(&self.verdict));
        if is_other {
            self.ledger.turn(&ruling.verdict);
        }
        self.verdict = ruling.verdict;
        // A hold keeps the debt; it only postpones it.
        if !matches!(self.verdict, Verdict::Hold(_)) && self.budget != ruling.budget {
            self.budget = ruling.budget;
            self.pacer.set_budget(ruling.budget);
        }
        (self.verdict.clone(), is_other)
    }

    /// The verdict as last told.
    pub(super) fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Charges a chunk beforehand, by what its rows are thought to be: rows and bytes charged.
    pub(super) fn charge(&mut self, rows: f64) -> Charge {
        let charge = Charge { rows, wal: rows * self.wal.per_row() };
        self.pacer.charge(charge.rows, charge.wal);
        charge
    }

    /// Takes a charge back, because the chunk was not committed.
    pub(super) fn refund(&mut self, charge: Charge) {
        self.pacer.charge(-charge.rows, -charge.wal);
    }

    /// Puts right what a chunk was charged, by what it did.
    pub(super) fn settle(&mut self, settled: &Settled, charge: Charge) -> f64 {
        let rows = settled.rows as f64;
        let wal = if settled.found_done { 0.0 } else { self.wal.learn(settled) };
        self.pacer.charge(rows - charge.rows, wal - charge.wal);
        self.settled.push_back((Instant::now(), rows));
        self.crew.settled();
        if !settled.found_done {
            self.health.committed(self.begun.elapsed(), settled.committing);
        }
        wal
    }

    /// Bytes of WAL and rows since this was last asked; other sessions' bytes beside a chunk are among them.
    pub(super) fn take_wal(&mut self) -> (f64, i64) {
        std::mem::take(&mut self.wal.untold)
    }

    /// What could not be told counts again.
    pub(super) fn keep_wal(&mut self, untold: (f64, i64)) {
        self.wal.untold.0 += untold.0;
        self.wal.untold.1 += untold.1;
    }

    /// A chunk met a lock timeout or a deadlock.
    pub(super) fn clashed(&mut self) {
        self.crew.clashed();
    }

    /// How long until what is owed is paid; zero when it is.
    pub(super) fn pay(&mut self) -> Duration {
        self.pacer.pay()
    }

    /// Rows that a chunk may span under the budget, when it is to be paid for within this share of a second.
    pub(super) fn rows_within(&self, share: f64) -> f64 {
        (self.budget.as_rows(self.wal.per_row()) * share).max(1.0)
    }

    /// Where the WAL stands while no chunk is at work, or that one is.
    pub(super) fn idle_wal(&mut self, wal_at: i64, is_idle: bool) {
        self.wal.look(wal_at, is_idle);
    }

    /// The window in force and until when, in words.
    pub(super) fn window(&self) -> Option<&(String, Option<String>)> {
        self.limit.window()
    }

    /// Why the run ends now instead of waiting; none when it waits or need not.
    pub(super) fn closed(&self) -> Option<String> {
        let [_, clock] = self.limit.verdicts();
        (self.pace.no_wait && self.limit.is_closed()).then(|| clock.reason().to_owned())
    }

    /// Bytes of WAL that a row costs.
    pub(super) fn wal_per_row(&self) -> f64 {
        self.wal.per_row()
    }

    /// Seconds under each constraint, over all runners.
    pub(super) fn spent(&self) -> BTreeMap<String, f64> {
        let mut spent = self.pace.spent.clone();
        for (by, seconds) in self.ledger.seconds() {
            *spent.entry(by).or_default() += seconds;
        }
        spent
    }
}

/// The window that an operator put into force, while that lasts.
fn forced(tuned: &Tuned, at: Timestamp) -> Option<String> {
    let forced = tuned.window.as_ref().filter(|(_, until)| *until > at);
    forced.map(|(name, _)| name.clone())
}

/// What was charged for a chunk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Charge {
    rows: f64,
    wal: f64,
}

/// WAL of a row before any was measured: a row of a few hundred bytes with two indexes.
const WAL_PER_ROW: f64 = 500.0;

/// Weight that what was measured keeps with each chunk.
const KEEP: f64 = 0.9;

/// What the run's rows cost in WAL.
///
/// The server tells where its WAL stands, not who wrote it (but for 18, and there only afterwards). So the WAL between a chunk's claim and its
/// mark counts, each byte once however many chunks were at work, less what the others write, which is measured while no chunk is.
#[derive(Debug, Default)]
struct WalMeter {
    counted: i64,
    rows: f64,
    bytes: f64,
    idle_since: Option<(Instant, i64)>,
    others_per_s: f64,
    /// Bytes between claims and marks, each once, whoever wrote them, and the rows written there, since they were last taken.
    untold: (f64, i64),
}

impl WalMeter {
    fn per_row(&self) -> f64 {
        if self.rows < 1.0 { WAL_PER_ROW } else { (self.bytes / self.rows).max(1.0) }
    }

    fn learn(&mut self, settled: &Settled) -> f64 {
        let (from, to) = settled.wal;
        let own = (to - from.max(self.counted)).max(0) as f64;
        let part = own / ((to - from).max(1) as f64);
        self.untold.0 += own;
        self.untold.1 += settled.rows;
        self.counted = self.counted.max(to);
        let bytes = (own - self.others_per_s * settled.took.as_secs_f64() * part).max(0.0);
        self.rows = self.rows * KEEP + settled.rows as f64;
        self.bytes = self.bytes * KEEP + bytes;
        bytes
    }

    fn look(&mut self, wal_at: i64, is_idle: bool) {
        let now = Instant::now();
        if let (Some((since, then)), true) = (self.idle_since, is_idle) {
            let seconds = (now - since).as_secs_f64().max(0.1);
            let rate = (wal_at - then).max(0) as f64 / seconds;
            self.others_per_s += 0.3 * (rate - self.others_per_s);
        }
        self.idle_since = is_idle.then_some((now, wal_at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(rows: i64, wal: (i64, i64), seconds: u64) -> Settled {
        Settled {
            rows,
            took: Duration::from_secs(seconds),
            writing: Duration::ZERO,
            committing: Duration::ZERO,
            wal,
            image_bytes: 0,
            found_done: false,
            control_version: 0,
            hot: None,
            passed_over: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_byte_of_wal_is_counted_once_and_that_of_others_is_not() {
        let mut meter = WalMeter::default();
        assert_eq!(meter.per_row(), WAL_PER_ROW);
        // Two chunks side by side: 300,000 bytes in all.
        assert_eq!(meter.learn(&settled(500, (0, 200_000), 1)), 200_000.0);
        assert_eq!(meter.learn(&settled(500, (100_000, 300_000), 1)), 100_000.0);
        for second in 0..20 {
            tokio::time::advance(Duration::from_secs(1)).await;
            meter.look(300_000 + second * 50_000, true);
        }
        let bytes = meter.learn(&settled(500, (1_250_000, 1_450_000), 2));
        assert!((90_000.0..110_000.0).contains(&bytes), "{bytes}");
    }
}
