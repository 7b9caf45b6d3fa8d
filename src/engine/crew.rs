//! How many workers: fewer while chunks get into each other's and the application's way, decided once a minute. Pure.

use std::time::Duration;

/// Between two decisions: long enough for many chunks, so that one bad moment decides nothing.
const EVERY: Duration = Duration::from_secs(60);

/// Chunks in a hundred that met a lock timeout or a deadlock, from which on a worker is one too many; and up to which one more is tried.
const MANY: f64 = 3.0;
const FEW: f64 = 1.0;

/// Fewer chunks than this in a minute say nothing.
const CHUNKS_MIN: u32 = 20;

/// Takes workers away and gives them back.
#[derive(Clone, Debug, Default)]
pub(super) struct Crew {
    away: u32,
    chunks: u32,
    clashes: u32,
    decided_at: Duration,
}

impl Crew {
    /// A chunk was committed.
    pub(super) fn settled(&mut self) {
        self.chunks += 1;
    }

    /// A chunk met a lock timeout, a deadlock or a serialization failure.
    pub(super) fn clashed(&mut self) {
        self.clashes += 1;
    }

    /// The workers to use of those allowed, at a time that counts from a fixed moment. At least one.
    pub(super) fn workers(&mut self, now: Duration, allowed: u32) -> u32 {
        if now.saturating_sub(self.decided_at) >= EVERY {
            let tried = self.chunks + self.clashes;
            let share = f64::from(self.clashes) * 100.0 / f64::from(tried.max(1));
            if tried >= CHUNKS_MIN && share > MANY {
                self.away = (self.away + 1).min(allowed.saturating_sub(1));
            } else if share <= FEW {
                self.away = self.away.saturating_sub(1);
            }
            *self = Crew { away: self.away, decided_at: now, ..Crew::default() };
        }
        allowed.saturating_sub(self.away).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(crew: &mut Crew, at: u64, chunks: u32, clashes: u32) -> u32 {
        (0..chunks).for_each(|_| crew.settled());
        (0..clashes).for_each(|_| crew.clashed());
        crew.workers(Duration::from_secs(at * 60), 4)
    }

    #[test]
    fn a_worker_goes_when_chunks_clash_and_comes_back_when_they_do_not() {
        let mut crew = Crew::default();
        assert_eq!(minute(&mut crew, 1, 100, 1), 4);
        assert_eq!(minute(&mut crew, 2, 100, 10), 3);
        // Once a minute only.
        crew.clashed();
        assert_eq!(crew.workers(Duration::from_secs(130), 4), 3);
        assert_eq!(minute(&mut crew, 3, 100, 10), 2);
        assert_eq!(minute(&mut crew, 4, 100, 10), 1);
        assert_eq!(minute(&mut crew, 5, 100, 10), 1);
        // In between nothing changes; and a few chunks say nothing.
        assert_eq!(minute(&mut crew, 6, 98, 2), 1);
        assert_eq!(minute(&mut crew, 7, 5, 5), 1);
        assert_eq!(minute(&mut crew, 8, 100, 0), 2);
        assert_eq!(minute(&mut crew, 9, 0, 0), 3);
    }
}
