//! How long the COMMITs of the run's own chunks take, against the usual time. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use super::health::Measure;

/// COMMITs that a latency is judged by, and those that make the usual one.
const COMMITS: usize = 20;

/// Older COMMITs say nothing of now; while a run is held there are none, and what held it must not go on for ever by itself.
const RECENT: Duration = Duration::from_secs(10);

/// Fewer recent ones than this say nothing.
const COMMITS_MIN: usize = 10;

/// The usual COMMIT is taken to be at least this long: a server that answers in one millisecond and then in twenty has not become slow.
const USUAL_MIN: Duration = Duration::from_millis(10);

/// The last COMMITs, when they were and how long they took, and the usual one.
#[derive(Debug, Default)]
pub(super) struct Commits {
    lately: VecDeque<(Duration, Duration)>,
    usual: Option<Duration>,
}

impl Commits {
    /// One that took so long.
    pub(super) fn took(&mut self, now: Duration, took: Duration) {
        self.lately.push_back((now, took));
        if self.lately.len() > COMMITS {
            self.lately.pop_front();
        }
        if self.lately.len() == COMMITS && self.usual.is_none() {
            let sorted = sorted(self.lately.iter().map(|(_, took)| *took));
            self.usual = Some(sorted[COMMITS / 2].max(USUAL_MIN));
        }
    }

    /// How many times the usual one they take; none while too few are known.
    pub(super) fn measure(&self, now: Duration) -> Option<Measure> {
        let usual = self.usual?;
        let recent = self.lately.iter().filter(|(at, _)| now.saturating_sub(*at) < RECENT);
        let sorted = sorted(recent.map(|(_, took)| *took));
        if sorted.len() < COMMITS_MIN {
            return None;
        }
        // Three of four, not the slowest: a few that waited for a processor say nothing of the disk.
        let slow = sorted[sorted.len() * 3 / 4];
        let times = slow.as_secs_f64() / usual.as_secs_f64();
        let words = format!("COMMIT takes {} ms, {times:.1} times the usual", slow.as_millis());
        Some(Measure::value(times, words))
    }
}

fn sorted(times: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    times
}
