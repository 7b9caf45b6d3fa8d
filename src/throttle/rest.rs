//! When a run rests for some seconds, so that what a small transaction usually takes can be learnt without it. Pure.
//!
//! While it is at work a run cannot know that. One that has slowed down to what no server feels, and is still felt, is told against a usual
//! time of a quieter hour; one that is told against a busier hour's takes what the application has left, and is not felt at all.

use std::time::Duration;

/// How long a rest lasts once nothing of the run is at work: a hundred transactions of which each takes up to a tenth of a second. And in
/// all, for a run whose chunks do not end.
const REST: Duration = Duration::from_secs(12);
const REST_MAX: Duration = Duration::from_secs(60);

/// Between two rests, for what changes over a day: less than a percent of the time.
const EVERY: Duration = Duration::from_secs(1_800);

/// Between two rests of a run that is slow and felt: a tenth of a time in which it gets next to nothing done.
const EVERY_SLOW: Duration = Duration::from_secs(120);

/// Rests, past and present.
#[derive(Clone, Debug, Default)]
pub(super) struct Rest {
    /// When the last one began; at first the run.
    since: Duration,
    ends: Option<Duration>,
}

impl Rest {
    /// Begins one where it is due, at a time `now` since the run began; `is_slow` where the run is felt although it is slow.
    pub(super) fn look(&mut self, now: Duration, is_slow: bool) {
        let every = if is_slow { EVERY_SLOW } else { EVERY };
        if self.ends.is_none() && now.saturating_sub(self.since) >= every {
            (self.since, self.ends) = (now, Some(now + REST));
        }
    }

    /// Learns that the run is still at work: the rest has not begun yet.
    pub(super) fn put_off(&mut self, now: Duration) {
        let most = self.since + REST_MAX;
        self.ends = self.ends.map(|ends| ends.max((now + REST).min(most)));
    }

    /// Ends it, if there is one.
    pub(super) fn end(&mut self) {
        self.ends = None;
    }

    /// How long the rest goes on; none where there is none.
    pub(super) fn left(&self, now: Duration) -> Option<Duration> {
        self.ends.map(|ends| ends.saturating_sub(now)).filter(|left| !left.is_zero())
    }

    /// Whether one has just ended; told once.
    pub(super) fn is_over(&mut self, now: Duration) -> bool {
        self.ends.take_if(|ends| *ends <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_rest_is_counted_from_when_nothing_is_at_work() {
        let mut rest = Rest::default();
        rest.look(seconds(119), true);
        rest.look(seconds(1_799), false);
        assert_eq!(rest.left(seconds(1_799)), None);
        rest.look(seconds(1_800), false);
        rest.put_off(seconds(1_810));
        assert_eq!(rest.left(seconds(1_811)), Some(seconds(11)));
        assert!(!rest.is_over(seconds(1_821)) && rest.is_over(seconds(1_822)));
        assert!(!rest.is_over(seconds(1_823)));
        // A chunk that does not end is not waited for without end.
        rest.look(seconds(1_920), true);
        for second in 1_920..1_980 {
            rest.put_off(seconds(second));
        }
        assert_eq!(rest.left(seconds(1_979)), Some(seconds(1)));
        rest.end();
        assert_eq!(rest.left(seconds(1_979)), None);
    }
}
