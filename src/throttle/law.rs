//! The control law: what rate a health signal leaves, from how it answered to the rates before. Pure.
//!
//! Cut by 30 % while a signal is hot and not getting better; raise by 5 % while it is cool and the rate is used. The rate at which it turned
//! hot is remembered, and approached in steps of 1 % until it has not been bad for three minutes. A signal that is hot but falling is
//! draining: cutting again would act on what the last cut has not yet had time to do. One that is cool but rising is already answering
//! to the rate it has: a backlog grows for as long as the rate is too high, however little, so nothing is raised on top.

use std::time::Duration;

/// What is left after a cut.
const CUT: f64 = 0.7;

/// Growth while cool, and near the last bad rate.
const RAISE: f64 = 1.05;
const RAISE_NEAR_BAD: f64 = 1.01;

/// From here on a rate is near the last bad one.
const NEAR_BAD: f64 = 0.9;

/// Between cuts: two samples, and time for a replica to answer.
const CUT_EVERY: Duration = Duration::from_secs(4);

/// Between raises.
const RAISE_EVERY: Duration = Duration::from_secs(5);

/// How long a bad rate is believed.
const BAD_FOR: Duration = Duration::from_secs(180);

/// Share of the rate that must be used before it is raised: a rate that nobody uses would grow without bound and let a burst through.
const USED: f64 = 0.8;

/// Severity from which on the rate is left alone, short of hot.
const WARM: f64 = 0.5;

/// Growth of the severity between two raises that is more than noise.
const RISING: f64 = 0.002;

/// Slowest rate, rows a second: the signal must be able to show that slowing helps, and only a hold stops.
pub(super) const FLOOR: f64 = 20.0;

/// Where a run begins that feels its way: next to nothing for any server; and by what it is raised while nothing answers, so that a hundred
/// times as much is reached in a minute.
pub(super) const START: f64 = 2_000.0;
const FEELING: f64 = 1.5;

/// The rate in force and what led to it.
#[derive(Clone, Debug, Default)]
pub struct Law {
    /// Rows a second; none while nothing was ever cut.
    rate: Option<f64>,
    /// The speed before the first cut.
    free: f64,
    bad: Option<(f64, Duration)>,
    cut_at: Option<Duration>,
    /// When a raise was last considered, and how bad the signal was then.
    looked_at: (Duration, f64),
    severity: f64,
    /// Whether no rate has been too much yet.
    is_feeling: bool,
}

impl Law {
    /// Begins slowly, where what is not to be harmed would feel it at once.
    pub fn feeling_its_way() -> Law {
        Law { rate: Some(START), free: f64::INFINITY, is_feeling: true, ..Law::default() }
    }

    /// Begins again to feel its way, from where it is; nothing changes where nothing is limited.
    pub fn feel_again(&mut self) {
        if self.rate.is_some() {
            (self.is_feeling, self.bad, self.free) = (true, None, f64::INFINITY);
        }
    }

    /// Whether it is still raised until something answers.
    pub fn is_feeling(&self) -> bool {
        self.is_feeling
    }

    /// Rows a second that are left; none is unlimited.
    pub fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// Learns, at time `now` since any fixed moment, that the worst signal stands at `severity` (1 is hot) while `used` rows a second went
    /// through, `able` being what the run reaches when nothing holds it. Whether
    /// the rate was cut.
    pub fn step(&mut self, now: Duration, severity: f64, used: f64, able: f64) -> bool {
        let is_falling = severity < self.severity * 0.999;
        self.severity = severity;
        if severity >= 1.0 {
            let is_due = self.cut_at.is_none_or(|at| now - at >= CUT_EVERY);
            if is_due && !is_falling {
                self.cut(now, able);
            }
            return is_due && !is_falling;
        }
        if let Some(rate) = self.rate {
            self.raise(now, rate, used);
        }
        false
    }

    fn raise(&mut self, now: Duration, rate: f64, used: f64) {
        let severity = self.severity;
        let (looked_at, severity_then) = self.looked_at;
        if now - looked_at < RAISE_EVERY {
            return;
        }
        self.looked_at = (now, severity);
        let is_rising = severity > severity_then + RISING && !self.is_feeling;
        if severity >= WARM || is_rising || used < rate * USED {
            return;
        }
        let raised = match self.bad {
            _ if self.is_feeling => rate * FEELING,
            Some((bad, at)) if rate > bad * NEAR_BAD && now - at < BAD_FOR => rate * RAISE_NEAR_BAD,
            Some((bad, at)) if rate > bad * NEAR_BAD && now - at >= BAD_FOR => {
                self.bad = Some((bad * 1.1, at));
                rate * RAISE
            }
            _ => rate * RAISE,
        };
        // Past the speed before the first cut there is nothing left to limit.
        self.rate = (raised < self.free * 1.2).then_some(raised);
    }

    fn cut(&mut self, now: Duration, able: f64) {
        if self.rate.is_none() {
            self.free = able.max(FLOOR);
        }
        // What the run is able to shows only when nothing limits it.
        let is_unknown = self.is_feeling && self.rate.is_some();
        let able = if is_unknown { f64::INFINITY } else { able.max(FLOOR) };
        let from = self.rate.unwrap_or(f64::INFINITY).min(able);
        self.is_feeling = false;
        self.bad = Some((from, now));
        self.rate = Some((from * CUT).max(FLOOR));
        self.cut_at = Some(now);
        self.looked_at = (now, self.severity);
    }

    /// After a hold: half of what was right before it; nothing changes for a run that was held before it did anything.
    pub fn reopen(&mut self, now: Duration, last_good: f64) {
        if last_good < FLOOR {
            return;
        }
        if self.rate.is_none() {
            self.free = last_good.max(FLOOR);
        }
        let half = (last_good / 2.0).max(FLOOR);
        self.rate = Some(self.rate.unwrap_or(half).min(half));
        self.looked_at = (now, self.severity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_that_is_not_used_is_not_raised() {
        let mut law = Law { rate: Some(1_000.0), free: 50_000.0, ..Law::default() };
        for second in 0..600 {
            law.step(Duration::from_secs(second), 0.0, 300.0, 300.0);
        }
        assert_eq!(law.rate(), Some(1_000.0));
    }

    #[test]
    fn feeling_its_way_it_begins_slowly_and_rises_until_it_is_cut() {
        let mut law = Law::feeling_its_way();
        let mut rates = Vec::new();
        for second in 0..=20 {
            law.step(Duration::from_secs(second), 0.1, law.rate().unwrap(), 300.0);
            if second % 5 == 0 {
                rates.push(law.rate().unwrap());
            }
        }
        assert_eq!(rates, [2_000.0, 3_000.0, 4_500.0, 6_750.0, 10_125.0]);
        // Warm, it stays; a rate that is not used is not raised here either.
        law.step(Duration::from_secs(25), 0.6, 10_000.0, 300.0);
        law.step(Duration::from_secs(30), 0.1, 100.0, 300.0);
        assert!(law.is_feeling() && law.rate() == Some(10_125.0));
        law.step(Duration::from_secs(35), 1.2, 10_000.0, 300.0);
        assert!(!law.is_feeling() && law.rate() == Some(10_125.0 * CUT));
    }

    #[test]
    fn it_is_cut_at_most_every_four_seconds_and_not_while_it_gets_better() {
        let mut law = Law::default();
        let mut rates = Vec::new();
        for (second, severity) in
            [1.0, 1.1, 1.2, 1.3, 1.4, 1.3, 1.2, 1.1, 1.0].into_iter().enumerate()
        {
            law.step(Duration::from_secs(second as u64), severity, 1_000.0, 1_000.0);
            rates.push(law.rate().unwrap().round());
        }
        assert_eq!(rates, [700.0, 700.0, 700.0, 700.0, 490.0, 490.0, 490.0, 490.0, 490.0]);
    }
}
