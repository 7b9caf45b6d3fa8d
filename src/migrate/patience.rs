//! How long, and how often, a lock is tried for. Pure but for the clock and the dice.

use std::time::{Duration, Instant};

/// A budget of time for locks.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    until: Instant,
}

/// How long a statement queues for a lock, by try: while it queues, so does the application behind it. A tenth of a second is felt by
/// few; a whole one comes only after several in vain.
const LOCK_TIMEOUTS: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// The longest pause after the first try; doubled with each.
const PAUSE_FIRST: Duration = Duration::from_millis(250);

/// The longest pause of all.
const PAUSE_MAX: Duration = Duration::from_secs(30);

impl Patience {
    /// From now on, for so long.
    pub fn new(budget: Duration) -> Patience {
        Patience { until: Instant::now() + budget }
    }

    /// How long a statement queues in its try number `tries`, from 0.
    pub fn lock_timeout(&self, tries: u32) -> Duration {
        LOCK_TIMEOUTS[(tries as usize / 3).min(LOCK_TIMEOUTS.len() - 1)]
    }

    /// How long to wait after so many tries; none when the budget is spent.
    ///
    /// Anything from nothing to the longest pause, so that two who wait for one lock do not keep meeting.
    pub fn pause(&self, tries: u32) -> Option<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        let longest = (PAUSE_FIRST * 2_u32.pow(tries.min(10).saturating_sub(1))).min(PAUSE_MAX);
        let pause = longest.mul_f64(fastrand::f64()).max(Duration::from_millis(20));
        (!left.is_zero()).then(|| pause.min(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_ends_it() {
        assert_eq!(Patience::new(Duration::ZERO).pause(1), None);
        let patience = Patience::new(Duration::from_secs(600));
        for tries in 1..40 {
            assert!(patience.pause(tries).unwrap() <= PAUSE_MAX);
            assert!(patience.lock_timeout(tries) <= Duration::from_secs(1));
        }
        assert!(patience.pause(1).unwrap() <= PAUSE_FIRST);
        assert_eq!(patience.lock_timeout(0), Duration::from_millis(100));
    }
}
