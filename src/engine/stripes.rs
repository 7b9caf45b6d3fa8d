//! Into how many stripes the next window of the table is cut, and how large it is. Pure.
//!
//! The new versions of a page's rows find no room on it when all of them are written at once: each then needs a place elsewhere and a new
//! entry in every index. So a window of the table is passed over k times, each pass writing the rows whose key hashes to j of k. When the
//! next pass comes, the versions that the pass before it left dead are pruned, and the new ones find room on their own page: HOT updates,
//! without index entries. That only works when nobody can still see the dead versions, so a window takes some time; how well it works is
//! measured in each chunk's transaction, and the window grows, or stripes are given up for a while, when it does not.

use super::chunker::Cutting;
use crate::key::Stripe;
use crate::plan::Striping;

/// Entries of the first window, where the server can cache them: several seconds of work. A fifth of it took 10 % longer and left a tenth
/// more index entries behind.
const WINDOW: f64 = 1_000_000.0;

/// Chunks that each worker takes in one pass, at least: what another worker's chunk can still see must be over when the next pass comes.
const CHUNKS_A_PASS: f64 = 4.0;

/// Most chunks cut at once: creating them takes one statement of some milliseconds.
const CHUNKS_MAX: f64 = 512.0;

/// Slices of the first window: what a chunk costs is not known yet, and the sizes chosen then hold for all of it.
const FIRST_SLICES: f64 = 8.0;

/// Rows counted before a share is believed.
const ROWS_MIN: i64 = 1_000;

/// Share of HOT updates in the passes behind the first that is as good as it gets; below, a longer window may help.
const GOOD: f64 = 0.7;

/// Share below which k passes over a window cost more than they save. The gain is about the share, the cost a scan for each pass.
const POOR: f64 = 0.25;

/// Windows without stripes after poor ones: at first, and at most, doubled each time.
const SPELL: (u32, u32) = (4, 64);

/// Entries of the windows that a run begins with.
pub fn window_max(striping: Striping) -> f64 {
    WINDOW.min(striping.window_max)
}

/// Most rows of a chunk that is a stripe.
pub fn stripe_rows_max(striping: Striping, workers: u32) -> f64 {
    rows_that_fit(window_max(striping), striping.k, workers)
}

fn rows_that_fit(window: f64, k: i16, workers: u32) -> f64 {
    window / (f64::from(k) * f64::from(workers) * CHUNKS_A_PASS)
}

/// Chooses windows and stripes from what they brought.
#[derive(Clone, Debug)]
pub(super) struct Stripes {
    allowed: Option<Striping>,
    window: f64,
    /// Windows still to be cut without stripes.
    plain: u32,
    spell: u32,
    is_first: bool,
    /// Rows written in passes behind the first, and of these the HOT ones, since the last window was cut.
    counted: (i64, i64),
}

impl Stripes {
    /// None allowed means plain slices.
    pub(super) fn new(allowed: Option<Striping>) -> Stripes {
        let max = allowed.map_or(WINDOW, |allowed| allowed.window_max);
        Stripes {
            allowed,
            window: WINDOW.min(max),
            plain: 0,
            spell: 0,
            is_first: true,
            counted: (0, 0),
        }
    }

    /// How to cut next, for chunks of `size` entries; `ready` chunks are wanted where there are no stripes.
    pub(super) fn cutting(&mut self, size: u32, workers: u32, ready: u32) -> Cutting {
        let plain = Cutting { size, count: ready, stripes: 1 };
        let Some(allowed) = self.allowed else { return plain };
        self.judge(allowed);
        if self.plain > 0 {
            self.plain -= 1;
            // As much of the table as a window, so that a spell is as long.
            let count = (self.window / f64::from(size.max(1))).ceil().min(CHUNKS_MAX) as u32;
            return Cutting { count: count.max(ready), ..plain };
        }
        let k = f64::from(allowed.k);
        let fits = rows_that_fit(self.window, allowed.k, workers);
        let size = f64::from(size).min(fits).max(1.0).floor();
        let most = if self.is_first { FIRST_SLICES } else { CHUNKS_MAX / k };
        self.is_first = false;
        let slices = (self.window / (size * k)).ceil().min(most.floor()).max(1.0);
        Cutting { size: (size * k) as u32, count: slices as u32, stripes: allowed.k }
    }

    /// A window took too long to cut.
    pub(super) fn too_big(&mut self) {
        self.window = (self.window / 2.0).max(1.0);
    }

    /// Learns from a settled chunk.
    pub(super) fn observe(&mut self, stripe: Option<Stripe>, rows: i64, hot: Option<i64>) {
        if let (Some(Stripe { j: 1.., .. }), Some(hot)) = (stripe, hot) {
            self.counted.0 += rows;
            self.counted.1 += hot;
        }
    }

    fn judge(&mut self, allowed: Striping) {
        let (rows, hot) = self.counted;
        if rows < ROWS_MIN {
            return;
        }
        self.counted = (0, 0);
        let share = hot as f64 / rows as f64;
        if share >= GOOD {
            self.spell = 0;
        } else if self.window < allowed.window_max {
            self.window = (self.window * 2.0).min(allowed.window_max);
        } else if share < POOR {
            self.spell = (self.spell * 2).clamp(SPELL.0, SPELL.1);
            self.plain = self.spell;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Striping = Striping { k: 8, window_max: 200_000.0 };

    fn tell(stripes: &mut Stripes, share: f64) {
        for j in 0..8 {
            let hot = if j == 0 { 0 } else { (share * 10_000.0) as i64 };
            stripes.observe(Some(Stripe { j, k: 8, is_dense: false }), 10_000, Some(hot));
        }
    }

    #[test]
    fn each_pass_has_several_chunks_for_each_worker() {
        let mut stripes = Stripes::new(Some(ALLOWED));
        let first = stripes.cutting(500, 2, 4);
        assert_eq!(first, Cutting { size: 500 * 8, count: 8, stripes: 8 }, "costs are unknown yet");
        let large = stripes.cutting(50_000, 2, 4);
        assert_eq!(large, Cutting { size: 3_125 * 8, count: 8, stripes: 8 });
        let small = stripes.cutting(25, 2, 4);
        assert_eq!(small, Cutting { size: 25 * 8, count: 64, stripes: 8 });
        let plain = Stripes::new(None).cutting(25, 2, 4);
        assert_eq!(plain, Cutting { size: 25, count: 4, stripes: 1 });
    }

    #[test]
    fn the_window_grows_until_it_pays_and_stripes_are_given_up_where_it_never_does() {
        let mut stripes = Stripes::new(Some(ALLOWED));
        stripes.window = 50_000.0;
        tell(&mut stripes, 0.5);
        stripes.cutting(5_000, 2, 4);
        assert_eq!(stripes.window, 100_000.0);
        tell(&mut stripes, 0.8);
        stripes.cutting(5_000, 2, 4);
        assert_eq!(stripes.window, 100_000.0);
        tell(&mut stripes, 0.1);
        assert_eq!(stripes.cutting(5_000, 2, 4).stripes, 8);
        let mut plain = 0;
        for _ in 0..2 {
            tell(&mut stripes, 0.1);
            while stripes.cutting(5_000, 2, 4).stripes == 1 {
                plain += 1;
            }
        }
        assert_eq!(plain, 4 + 8, "the second spell is twice as long");
        tell(&mut stripes, 0.9);
        stripes.cutting(5_000, 2, 4);
        assert_eq!(stripes.spell, 0);
    }
}
