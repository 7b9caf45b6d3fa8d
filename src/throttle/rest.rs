//! When a run rests for some seconds, so that what a small transaction usually takes can be learnt without it. Pure.
//!
//! While it is at work a run cannot know that. One that has slowed down to what no server feels, and is still felt, is told against a usual
//! time of a quieter hour; one that is told against a busier hour's takes what the application has left, and is not felt at all.

use std::time::Duration;

/// How long a rest lasts: a chunk's end, and a hundred transactions of which each takes up to half a tenth of a second.
const REST: Duration = Duration::from_secs(12);

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

    /// How long the rest goes on; none where there is none.
    pub(super) fn left(&self, now: Duration) -> Option<Duration> {
        self.ends.map(|ends| ends.saturating_sub(now)).filter(|left| !left.is_zero())
    }

    /// Whether one has just ended; told once.
    pub(super) fn is_over(&mut self, now: Duration) -> bool {
        self.ends.take_if(|ends| *ends <= now).is_some()
    }
}
