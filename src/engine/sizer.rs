//! How many key entries the next chunk spans, so that it takes about the time it should. Pure.
//!
//! Driven by rows written, not by rows scanned: a stretch with nothing to do is fast and says nothing about the stretch behind it.

use std::time::Duration;

use crate::settings::Limits;

/// Size of the first chunk: small, because its cost is unknown, yet above the cost of a round trip.
const START: f64 = 500.0;

/// Smallest size the sizer asks for by itself; below, the round trips cost more than the work. A timeout still halves further.
const FLOOR: f64 = 100.0;

/// Largest size that chunks without any work grow to: enough to cross a finished stretch quickly, and what follows it would still
/// take about a second at the slowest rates seen.
const IDLE_MAX: f64 = 5_000.0;

/// Most entries to scan for one entry written: beyond that, scanning is the cost and a chunk's time says nothing about rows.
const SCAN_FACTOR: f64 = 20.0;

/// Growth a chunk may have over the one before it.
const GROWTH: f64 = 1.5;

/// Bytes that the before-images of one chunk may take in the server's memory, before compression: a chunk of ordinary rows never
/// reaches it, and a few workers of a small server still fit.
const IMAGES_MAX: f64 = (16 << 20) as f64;

/// Weight of the newest chunk in the averages.
const ALPHA: f64 = 0.4;

/// Weight that what is known of the fixed cost keeps with each chunk.
const KEEP: f64 = 0.8;

/// Spread of the sizes, against their mean, from which on more than chance tells the fixed cost from that of the rows.
const SPREAD: f64 = 0.1;

/// What a chunk costs however many rows it has, such as the reading of a source that has no index. In milliseconds, from a line through
/// what the last chunks took.
#[derive(Clone, Debug, Default)]
struct FixedCost {
    n: f64,
    rows: f64,
    ms: f64,
    rows_rows: f64,
    rows_ms: f64,
    known: Option<f64>,
    /// What it is taken for before the first chunk.
    guess: f64,
}

impl FixedCost {
    /// Learns from a chunk what the fixed cost is. All of what it took, while chunks were of one size.
    fn observe(&mut self, rows: f64, ms: f64) -> f64 {
        for (sum, new) in [
            (&mut self.n, 1.0),
            (&mut self.rows, rows),
            (&mut self.ms, ms),
            (&mut self.rows_rows, rows * rows),
            (&mut self.rows_ms, rows * ms),
        ] {
            *sum = *sum * KEEP + new;
        }
        let (mean_rows, mean_ms) = (self.rows / self.n, self.ms / self.n);
        let variance = self.rows_rows / self.n - mean_rows * mean_rows;
        if variance > (mean_rows * SPREAD).powi(2) {
            let slope = (self.rows_ms / self.n - mean_rows * mean_ms) / variance;
            self.known = Some((mean_ms - slope.max(0.0) * mean_rows).max(0.0));
        }
        // No chunk takes less than what each of them costs.
        self.known = self.known.map(|known| known.min(ms));
        self.ms()
    }

    fn ms(&self) -> f64 {
        let unknown = if self.n > 0.0 { self.ms / self.n } else { self.guess };
        self.known.unwrap_or(unknown)
    }
}

/// Chooses the size of chunks from what they cost.
#[derive(Clone, Debug)]
pub struct Sizer {
    target: Duration,
    max: f64,
    size: f64,
    ms_per_row: Option<f64>,
    selectivity: f64,
    /// Most entries whose before-images fit in [`IMAGES_MAX`].
    image_max: f64,
    /// Where chunks have one that may be longer than their time should be.
    fixed: Option<FixedCost>,
}

impl Sizer {
    /// Aims at `target` with at most `max` entries; `known` is the size an earlier runner had reached.
    pub fn new(target: Duration, max: u32, known: Option<u32>) -> Sizer {
        let max = f64::from(max);
        let start = known.map_or(START, f64::from);
        Sizer {
            target,
            max,
            size: start.clamp(1.0, max),
            ms_per_row: None,
            selectivity: 1.0,
            image_max: f64::INFINITY,
            fixed: None,
        }
    }

    /// Aims at what the limits say. Where each chunk has a fixed cost, which no smaller one would spare, at most half of a chunk's time
    /// goes into that, even where this takes longer; `fixed` is about what it will be.
    pub fn of(limits: &Limits, known: Option<u32>, fixed: Option<Duration>) -> Sizer {
        let sizer = Sizer::new(limits.chunk_time.value, limits.chunk_rows_max.value, known);
        // Sizes that differ tell the fixed cost, so that the first one must leave room.
        let size = match fixed {
            Some(_) => sizer.size.min(sizer.max / 2.0).max(1.0),
            None => sizer.size,
        };
        let guess = |fixed: Duration| fixed.as_secs_f64() * 1000.0;
        Sizer {
            size,
            fixed: fixed.map(|fixed| FixedCost { guess: guess(fixed), ..FixedCost::default() }),
            ..sizer
        }
    }

    /// Entries for the next chunk; at least one.
    pub fn size(&self) -> u32 {
        self.size as u32
    }

    /// What a chunk costs however small it is, as far as that is known; zero where it is next to nothing.
    pub fn fixed_cost(&self) -> Duration {
        let ms = self.fixed.as_ref().map_or(0.0, FixedCost::ms);
        Duration::from_secs_f64(ms / 1000.0)
    }

    /// Rows written for an entry scanned, on average.
    pub fn selectivity(&self) -> f64 {
        self.selectivity
    }

    /// Aims at another time from here on.
    pub fn set_target(&mut self, target: Duration) {
        let ratio = target.as_secs_f64() / self.target.as_secs_f64();
        self.target = target;
        if ratio < 1.0 {
            self.set((self.size * ratio).min(self.size));
        }
    }

    /// Learns from a settled chunk.
    pub fn observe(&mut self, keys: u32, rows: u32, took: Duration) {
        let mut took_ms = took.as_secs_f64() * 1000.0;
        let mut target_ms = self.target.as_secs_f64() * 1000.0;
        if let Some(fixed) = &mut self.fixed {
            // Only what the rows cost grows with them.
            let fixed_ms = fixed.observe(f64::from(rows), took_ms);
            target_ms = target_ms.max(2.0 * fixed_ms) - fixed_ms;
            took_ms = (took_ms - fixed_ms).max(0.0);
        }
        let keys = f64::from(keys.max(1));
        if rows == 0 {
            self.selectivity *= 1.0 - ALPHA / 4.0;
            if took_ms < target_ms / 2.0 && self.size < IDLE_MAX {
                self.set((self.size * GROWTH).min(IDLE_MAX));
            }
            return;
        }
        let blend = |old: Option<f64>, new: f64| old.map_or(new, |old| old + ALPHA * (new - old));
        let cost = blend(self.ms_per_row, took_ms / f64::from(rows));
        self.ms_per_row = Some(cost);
        self.selectivity =
            blend(Some(self.selectivity), f64::from(rows) / keys).clamp(0.000_1, 1.0);
        let rows_wanted = target_ms / cost.max(0.000_1);
        let wanted = (rows_wanted / self.selectivity).min(rows_wanted * SCAN_FACTOR);
        // A chunk far over its time is believed at once, whatever the average says.
        let wanted =
            if took_ms > 2.0 * target_ms { wanted.min(keys * target_ms / took_ms) } else { wanted };
        // Slices may be smaller than this asks for, and say nothing of what larger ones cost then.
        let is_small = self.fixed.is_some() && keys * 2.0 < self.size;
        let growth = if is_small { 1.0 } else { GROWTH };
        self.set(wanted.min(self.size * growth));
    }

    /// Learns what the before-images of a settled chunk weighed; the heaviest since counts, and is forgotten slowly.
    pub fn weigh(&mut self, keys: u32, bytes: i64) {
        if bytes > 0 {
            let fits = f64::from(keys.max(1)) * IMAGES_MAX / bytes as f64;
            self.image_max = fits.min(self.image_max * 1.05).max(1.0);
            self.set(self.size);
        }
    }

    /// A chunk of this many entries did not fit its time at all.
    pub fn too_big(&mut self, keys: u32) {
        self.set(self.size.min(f64::from(keys) / 2.0));
    }

    fn set(&mut self, size: f64) {
        self.size = size.clamp(FLOOR.min(self.max), self.max).min(self.image_max).max(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(500);

    fn settle(sizer: &mut Sizer, us_per_row: f64, share: f64) -> u32 {
        let keys = sizer.size();
        let rows = (f64::from(keys) * share) as u32;
        let took = Duration::from_secs_f64(f64::from(rows) * us_per_row / 1e6 + 0.001);
        sizer.observe(keys, rows, took);
        keys
    }

    #[test]
    fn it_converges_on_the_target_and_grows_by_half_at_most() {
        let mut sizer = Sizer::new(TARGET, 50_000, None);
        let mut before = 500;
        for _ in 0..20 {
            let keys = settle(&mut sizer, 50.0, 1.0);
            assert!(f64::from(keys) <= f64::from(before) * 1.5 + 1.0);
            before = keys;
        }
        assert!((9_000..11_000).contains(&sizer.size()), "{}", sizer.size());
    }

    #[test]
    fn it_shrinks_at_once() {
        let mut sizer = Sizer::new(TARGET, 50_000, Some(10_000));
        sizer.observe(10_000, 10_000, Duration::from_secs(5));
        assert_eq!(sizer.size(), 1_000);
        sizer.too_big(1_000);
        assert_eq!(sizer.size(), 500);
    }

    #[test]
    fn a_long_gap_does_not_inflate_the_size() {
        let mut sizer = Sizer::new(TARGET, 50_000, None);
        for _ in 0..1_000 {
            settle(&mut sizer, 50.0, 0.0);
        }
        assert_eq!(sizer.size(), 5_000);
        // A single row in thousands is no reason to scan without bound either.
        for _ in 0..100 {
            sizer.observe(sizer.size(), 1, Duration::from_millis(5));
        }
        assert!(sizer.size() <= 2_000, "{}", sizer.size());
    }

    #[test]
    fn what_every_chunk_costs_takes_half_of_its_time_at_most() {
        // Reading the source takes so long, and a row 50 microseconds.
        let settled = |fixed_ms: f64| {
            let mut sizer = Sizer::new(TARGET, 50_000, None);
            sizer.fixed = Some(FixedCost::default());
            for i in 0..60 {
                let keys = sizer.size();
                let noise = 1.0 + f64::from(i % 5) / 50.0;
                let ms = (fixed_ms + f64::from(keys) * 0.05) * noise;
                sizer.observe(keys, keys, Duration::from_secs_f64(ms / 1000.0));
            }
            f64::from(sizer.size()) * 0.05
        };
        assert!((350.0..550.0).contains(&settled(10.0)), "{}", settled(10.0));
        assert!((1_000.0..3_000.0).contains(&settled(1_500.0)), "{}", settled(1_500.0));
    }

    #[test]
    fn what_a_rate_allows_says_nothing_of_larger_chunks() {
        let mut sizer = Sizer::new(TARGET, 50_000, None);
        sizer.fixed = Some(FixedCost::default());
        for _ in 0..50 {
            sizer.observe(200, 200, Duration::from_secs(1));
        }
        assert_eq!((sizer.size(), sizer.fixed_cost()), (500, Duration::from_secs(1)));
    }

    #[test]
    fn floor_and_ceiling_hold() {
        let mut sizer = Sizer::new(TARGET, 3_000, None);
        for _ in 0..50 {
            settle(&mut sizer, 0.1, 1.0);
        }
        assert_eq!(sizer.size(), 3_000);
        sizer.observe(3_000, 3_000, Duration::from_secs(3_000));
        assert_eq!(sizer.size(), 100);
        assert_eq!(Sizer::new(TARGET, 7, None).size(), 7);
    }
}
