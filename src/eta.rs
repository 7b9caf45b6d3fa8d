//! How long a run will still take: a range, from what its chunks cost, what held it back so far, and the windows ahead. Pure.
//!
//! Three things are kept apart. What a key costs is read off the chunks themselves, however they were paced; how much it differs from
//! stretch to stretch tells how far to trust it. The windows and limits ahead are known. What remains, signals that slow, rows that are
//! waited for, errors, is the ratio of what was done to what cost and windows alone would have let happen.

use jiff::{SignedDuration, Timestamp};

use crate::budget::Budget;
use crate::calendar::Calendar;

/// A stretch of the run: keys, rows and the seconds that its chunks took, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stretch {
    /// Key entries passed.
    pub keys: f64,
    /// Rows written.
    pub rows: f64,
    /// Seconds of chunks, summed over workers.
    pub seconds: f64,
}

/// How far a run has come.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Key entries left.
    pub keys_left: f64,
    /// Its stretches so far, oldest first.
    pub stretches: Vec<Stretch>,
    /// Key entries that the present runner passed.
    pub keys_here: f64,
    /// When the present runner began.
    pub began: Timestamp,
    /// Now.
    pub now: Timestamp,
}

/// What lies ahead, and lay behind.
#[derive(Clone, Copy, Debug)]
pub struct Outlook<'c> {
    /// The windows.
    pub calendar: &'c Calendar,
    /// What is allowed outside of them.
    pub outside: Budget,
    /// Chunks in flight at once outside of them.
    pub workers: u32,
    /// Bytes of WAL that a row costs.
    pub wal_per_row: f64,
}

/// Seconds left at best and at worst.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// When all goes as well as it has gone.
    pub low: f64,
    /// When it goes as badly.
    pub high: f64,
}

/// Fewer stretches than this say nothing about how much they differ.
const STRETCHES_MIN: usize = 3;

/// Least and most that cost is thought to differ, either way: no run is steadier than the first, and beyond the second the range would
/// be of no use; it narrows as the run goes on.
const SPREAD_MIN: f64 = 0.08;
const SPREAD_MAX: f64 = 0.24;

/// How far the share of its possible speed that a run reaches may rise and fall from here on.
const BETTER: f64 = 1.06;
const WORSE: f64 = 0.87;

/// A run that has come to nothing, and one that the model underestimates, are not taken at their word.
const SHARE_MIN: f64 = 0.02;
const SHARE_MAX: f64 = 1.3;

/// Farther ahead nobody looks: a year.
const HORIZON: f64 = 366.0 * 86_400.0;

/// The range; none while too little is known.
pub fn range(progress: &Progress, outlook: &Outlook<'_>) -> Option<Range> {
    let total = progress.stretches.iter().fold(Stretch::default(), |sum, stretch| Stretch {
        keys: sum.keys + stretch.keys,
        rows: sum.rows + stretch.rows,
        seconds: sum.seconds + stretch.seconds,
    });
    if progress.stretches.len() < STRETCHES_MIN || total.seconds <= 0.0 || total.keys <= 0.0 {
        return None;
    }
    let spread = spread(&progress.stretches, progress.keys_left / total.keys);
    let rows_per_key = total.rows / total.keys;
    let speed = total.keys / total.seconds;
    let model = |speed: f64| Model { speed, rows_per_key, outlook };
    let possible = model(speed).keys_between(progress.began, progress.now);
    let share = match possible > 0.0 && progress.keys_here > 0.0 {
        true => (progress.keys_here / possible).clamp(SHARE_MIN, SHARE_MAX),
        false => 1.0,
    };
    let seconds =
        |speed: f64, share: f64| model(speed).seconds_for(progress.keys_left / share, progress.now);
    Some(Range {
        low: seconds(speed * (1.0 + spread), (share * BETTER).min(SHARE_MAX)),
        high: seconds(speed * (1.0 - spread), share * WORSE),
    })
}

/// How much the cost of a key differs from stretch to stretch: its deviation, less of it when much like what was seen lies behind.
fn spread(stretches: &[Stretch], left_for_done: f64) -> f64 {
    let costs: Vec<f64> =
        stretches.iter().filter(|s| s.keys > 0.0).map(|s| s.seconds / s.keys).collect();
    let count = costs.len().max(1) as f64;
    let mean = costs.iter().sum::<f64>() / count;
    let variance = costs.iter().map(|cost| (cost - mean).powi(2)).sum::<f64>() / count;
    let deviation = if mean > 0.0 { variance.sqrt() / mean } else { 0.0 };
    let most = SPREAD_MAX * left_for_done.clamp(0.6, 1.3).sqrt();
    deviation.clamp(SPREAD_MIN, most.max(SPREAD_MIN))
}

/// Cost and windows alone.
struct Model<'a> {
    /// Keys a second of one worker.
    speed: f64,
    rows_per_key: f64,
    outlook: &'a Outlook<'a>,
}

impl Model<'_> {
    /// Keys a second at an instant.
    fn at(&self, at: Timestamp) -> f64 {
        let outlook = self.outlook;
        let (budget, workers) = match outlook.calendar.window_at(at) {
            Some(window) if window.is_pause => return 0.0,
            Some(window) => {
                let budget =
                    if window.budget.is_unlimited() { outlook.outside } else { window.budget };
                (budget, window.workers.unwrap_or(outlook.workers))
            }
            None => (outlook.outside, outlook.workers),
        };
        let free = self.speed * f64::from(workers);
        let allowed = budget.as_rows(outlook.wal_per_row) / self.rows_per_key.max(1e-9);
        free.min(allowed)
    }

    /// Walks from window to window: `step` gets each one's speed and seconds, and says how many of them it takes, or none to go on.
    fn walk(
        &self,
        from: Timestamp,
        seconds: f64,
        mut step: impl FnMut(f64, f64) -> Option<f64>,
    ) -> f64 {
        let (mut at, mut passed) = (from, 0.0);
        while passed < seconds {
            let change = self.outlook.calendar.next_change(at);
            let until = change.map_or(f64::INFINITY, |change| (change - at).total_seconds());
            let length = until.min(seconds - passed);
            if let Some(taken) = step(self.at(at), length) {
                return passed + taken;
            }
            passed += length;
            match change {
                Some(change) if length == until => at = change,
                _ => break,
            }
        }
        seconds
    }

    fn keys_between(&self, from: Timestamp, to: Timestamp) -> f64 {
        let mut keys = 0.0;
        self.walk(from, (to - from).total_seconds(), |speed, seconds| {
            keys += speed * seconds;
            None
        });
        keys
    }

    fn seconds_for(&self, keys: f64, from: Timestamp) -> f64 {
        let mut left = keys;
        self.walk(from, HORIZON, |speed, seconds| {
            if speed * seconds >= left {
                return Some(left / speed);
            }
            left -= speed * seconds;
            None
        })
    }
}

/// Seconds of a span.
trait Seconds {
    fn total_seconds(self) -> f64;
}

impl Seconds for jiff::Span {
    fn total_seconds(self) -> f64 {
        SignedDuration::try_from(self).map_or(0.0, |span| span.as_secs_f64())
    }
}

#[cfg(test)]
mod tests;
