//! Times of small transactions, and which of them are usual. Pure.
//!
//! Usual is what they take while the run rests: before its first chunk, and whenever nothing of it is at work later on. So the usual time
//! follows the day's load, and nothing that the run itself makes slow is ever taken for usual.

use std::collections::VecDeque;
use std::time::Duration;

use super::grade::Grade;
use super::health::Measure;

/// Transactions that the usual time is learnt from, in some four seconds; and those before them, while what the run wrote last still
/// reaches the disk, or the connection is new.
const USUAL_OF: usize = 100;
const WARM_UP: usize = 10;

/// On a slow server fewer will do, once they took this long.
const LEARN_WITHIN: Duration = Duration::from_secs(8);
const FEW: usize = 20;

/// Between two raises of the usual time: long enough for load that has come to stay.
const LEARN_EVERY: Duration = Duration::from_secs(30);

/// What the usual time may become at once, and against the shortest of the last hours: more is a server in trouble, which a run does not
/// add to.
const RAISE: u32 = 2;
const RAISE_MAX: u32 = 10;
const SHORTEST_OF: Duration = Duration::from_secs(2 * 3_600);

/// Over this long the time is judged: some two hundred transactions.
const OVER: Duration = Duration::from_secs(10);

/// Part of the transactions that is quicker than what counts: the slowest one in twenty is what people complain of, and one in a hundred
/// is chance among so few.
const PART: f64 = 0.95;

/// Fewer than these, two seconds of them, say nothing: the slowest of a few is always slow.
const ENOUGH: usize = 50;
const LISTENED: Duration = Duration::from_secs(2);

/// The usual time is taken to be at least this long: what is over in a part of a millisecond may take twice as long.
const USUAL_MIN: Duration = Duration::from_millis(1);

/// A transaction that takes so long is no slow one among many, but all that there is to tell.
const HANGS: Duration = Duration::from_millis(500);

/// Who is at work on the server, as far as the run knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtWork {
    /// This run.
    Us,
    /// Not this run, but others like it.
    Others,
    /// No run.
    Nobody,
}

/// What small transactions took, and usually take. All times count from the same moment.
#[derive(Debug, Default)]
pub(super) struct Times {
    lately: VecDeque<(Duration, Duration)>,
    /// Those since the run began to rest, or since they were last learnt from.
    at_rest: Vec<(Duration, Duration)>,
    usual: Option<Usual>,
    /// When the one that is not over yet began.
    pub(super) under_way: Option<Duration>,
    /// Why none can be timed.
    pub(super) trouble: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Usual {
    time: Duration,
    /// The shortest that was usual for some hours, and since when.
    least: (Duration, Duration),
    /// When it was last raised.
    raised: Duration,
}

impl Times {
    /// Learns that one which began at `at` took so long beside whoever was at work.
    pub(super) fn took(&mut self, at: Duration, took: Duration, at_work: AtWork) {
        self.trouble = None;
        while self.lately.front().is_some_and(|(first, _)| at - *first > OVER) {
            self.lately.pop_front();
        }
        self.lately.push_back((at, took));
        // What another run makes slow is usual only where nothing else is known: two that took turns would talk each other up.
        let is_telling = match at_work {
            AtWork::Us => false,
            AtWork::Others => self.usual.is_none(),
            AtWork::Nobody => true,
        };
        if !is_telling {
            self.at_rest.clear();
            return;
        }
        self.at_rest.push((at, took));
        let learnt = self.at_rest.len().saturating_sub(WARM_UP);
        let is_over = at - self.at_rest[0].0 >= LEARN_WITHIN && learnt >= FEW;
        if learnt >= USUAL_OF || is_over {
            let time = slow(self.at_rest.drain(..).skip(WARM_UP).map(|(_, took)| took));
            self.learn(at, time.max(USUAL_MIN));
        }
    }

    fn learn(&mut self, at: Duration, time: Duration) {
        self.usual = Some(match self.usual {
            None => Usual { time, least: (time, at), raised: at },
            Some(usual) if time > usual.time && at - usual.raised < LEARN_EVERY => usual,
            Some(usual) => {
                let least = match usual.least {
                    (least, _) if time <= least => (time, at),
                    (_, since) if at - since >= SHORTEST_OF => (usual.time, at),
                    least => least,
                };
                let raised = if time > usual.time { at } else { usual.raised };
                let time = time.min(usual.time * RAISE).min(least.0 * RAISE_MAX);
                Usual { time, least, raised }
            }
        });
    }

    /// It is another server: nothing that was learnt holds of it.
    pub(super) fn forget(&mut self) {
        self.lately.clear();
        self.at_rest.clear();
        self.usual = None;
    }

    /// Whether the usual time is known, or that there is none to be had.
    pub(super) fn is_known(&self) -> bool {
        self.usual.is_some() || self.trouble.is_some()
    }

    /// By how much the time lately is longer than the usual one, in percent.
    pub(super) fn measure(&self, now: Duration) -> Measure {
        if let Some(trouble) = &self.trouble {
            return Measure::Unknown(format!("commit a small transaction: {trouble}"));
        }
        let Some(Usual { time: usual, .. }) = self.usual else {
            // Learning takes a rest.
            let words = "how long a small transaction usually takes is being learnt";
            return Measure::stated(Grade::Hold, words);
        };
        let lately = || self.lately.iter().filter(|(at, _)| now - *at <= OVER);
        // Few they are too where each takes long.
        let listened: Duration = lately().map(|(_, took)| *took).sum();
        let slow = match lately().count() >= ENOUGH || listened >= LISTENED {
            true => slow(lately().map(|(_, took)| *took)),
            false => usual,
        };
        // One that hangs is not waited for to be told.
        let hanging = self.under_way.map(|begun| now - begun).filter(|time| *time >= HANGS);
        let slow = slow.max(hanging.unwrap_or_default());
        let longer = (slow.as_secs_f64() / usual.as_secs_f64() - 1.0).max(0.0) * 100.0;
        let [slow, usual] = [slow, usual].map(|time| time.as_secs_f64() * 1000.0);
        let words = format!("a small transaction takes {slow:.1} ms, usually {usual:.1} ms");
        Measure::value(longer, words)
    }
}

/// The time that all but the slowest keep to; zero of none.
fn slow(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    let at = (times.len() as f64 * PART) as usize;
    times.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[derive(Default)]
    struct Heard {
        times: Times,
        now: Duration,
    }

    impl Heard {
        /// So many, one every 40 ms.
        fn take(&mut self, n: usize, at_work: AtWork, took: impl Fn(usize) -> Duration) {
            for i in 0..n {
                self.now += ms(40);
                self.times.took(self.now, took(i), at_work);
            }
        }

        /// So many, one after the other.
        fn take_slowly(&mut self, n: usize, at_work: AtWork, took: Duration) {
            for _ in 0..n {
                self.now += took;
                self.times.took(self.now, took, at_work);
            }
        }

        fn usual(&self) -> Option<Duration> {
            self.times.usual.map(|usual| usual.time)
        }

        fn said(&self) -> (f64, String) {
            match self.times.measure(self.now) {
                Measure::Value { value, words, floor: Grade::Proceed } => (value, words),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_slowest_of_twenty_lately_against_those_before_the_first_chunk() {
        let mut heard = Heard::default();
        heard.take(WARM_UP, AtWork::Nobody, |_| ms(500));
        heard.take(USUAL_OF - 1, AtWork::Nobody, |i| ms(if i % 10 == 0 { 4 } else { 2 }));
        let not_known = heard.times.measure(heard.now);
        assert!(matches!(not_known, Measure::Value { floor: Grade::Hold, .. }), "{not_known:?}");
        heard.take(1, AtWork::Nobody, |_| ms(2));
        assert_eq!(heard.usual(), Some(ms(4)));
        // One in thirty is chance.
        heard.take(250, AtWork::Us, |i| ms(if i % 30 == 0 { 100 } else { 4 }));
        assert_eq!(heard.said().0, 0.0);
        heard.take(250, AtWork::Us, |i| ms(if i % 10 == 0 { 12 } else { 4 }));
        let words = "a small transaction takes 12.0 ms, usually 4.0 ms".to_owned();
        assert_eq!(heard.said(), (200.0, words));
        // What was is forgotten, and what hangs counts.
        heard.now += OVER * 2;
        assert_eq!(heard.said().0, 0.0);
        heard.times.under_way = Some(heard.now);
        heard.now += ms(499);
        assert_eq!(heard.said().0, 0.0);
        heard.now += ms(101);
        assert_eq!(heard.said().0.round(), 14_900.0);
        heard.times.trouble = Some("down".to_owned());
        assert!(matches!(heard.times.measure(heard.now), Measure::Unknown(_)));
    }

    #[test]
    fn what_it_takes_while_the_run_rests_is_usual_from_then_on() {
        let mut heard = Heard::default();
        let of_a_rest = WARM_UP + USUAL_OF;
        heard.take(of_a_rest, AtWork::Nobody, |_| ms(4));
        // However long it takes beside the run, that is not usual; nor is a rest that is broken off.
        heard.take(1_000, AtWork::Us, |_| ms(9));
        heard.take(of_a_rest - 1, AtWork::Nobody, |_| ms(5));
        heard.take(1, AtWork::Us, |_| ms(5));
        heard.take(of_a_rest, AtWork::Others, |_| ms(5));
        assert_eq!(heard.usual(), Some(ms(4)));
        // Load has come to stay, and goes again.
        heard.take(of_a_rest, AtWork::Nobody, |i| ms(if i < WARM_UP { 9 } else { 5 }));
        assert_eq!(heard.usual(), Some(ms(5)));
        heard.take(250, AtWork::Us, |_| ms(6));
        assert_eq!(heard.said().0.round(), 20.0);
        heard.take(2 * of_a_rest, AtWork::Us, |_| ms(5));
        heard.take(6 * of_a_rest, AtWork::Nobody, |_| ms(3));
        assert_eq!(heard.usual(), Some(ms(3)));
    }

    #[test]
    fn trouble_does_not_become_usual() {
        let mut heard = Heard::default();
        heard.take(WARM_UP + USUAL_OF, AtWork::Nobody, |_| ms(2));
        let mut learnt = Vec::new();
        for _ in 0..6 {
            heard.take(900, AtWork::Nobody, |_| ms(100));
            learnt.push(heard.usual().unwrap());
        }
        assert_eq!(learnt, [ms(4), ms(8), ms(16), ms(20), ms(20), ms(20)]);
        // It is over: that is believed at once.
        heard.take(WARM_UP + USUAL_OF, AtWork::Nobody, |_| ms(2));
        assert_eq!(heard.usual(), Some(ms(2)));
        // What lasts for hours is how the server is now.
        heard.take(200_000, AtWork::Nobody, |_| ms(100));
        assert_eq!(heard.usual(), Some(ms(100)));
        // Another server has taken its place.
        heard.times.forget();
        assert!(!heard.times.is_known());
        heard.take(WARM_UP + USUAL_OF, AtWork::Others, |_| ms(3));
        assert_eq!(heard.usual(), Some(ms(3)));
    }

    #[test]
    fn a_server_that_is_slow_is_known_and_told() {
        let mut heard = Heard::default();
        heard.take_slowly(WARM_UP + FEW - 1, AtWork::Nobody, ms(300));
        assert!(!heard.times.is_known());
        heard.take_slowly(1, AtWork::Nobody, ms(300));
        assert_eq!(heard.usual(), Some(ms(300)));
        // Seventeen in the last ten seconds.
        heard.take_slowly(100, AtWork::Us, ms(600));
        assert_eq!(heard.said().0, 100.0);
    }

    #[test]
    fn what_is_quicker_than_a_millisecond_is_one() {
        let mut heard = Heard::default();
        heard.take(WARM_UP + USUAL_OF, AtWork::Nobody, |_| Duration::from_micros(200));
        assert_eq!(heard.usual(), Some(USUAL_MIN));
    }
}
