//! Whether the run may go on, how fast, and why.
//!
//! Three things are kept apart: sampling (whoever knows something keeps a cached value), the verdict ([`Throttle`], pure and
//! immediate), and waiting ([`pacer::Pacer`]). The strictest verdict binds, and every verdict but `Proceed` carries its reason.

pub mod pacer;

use tokio::sync::watch;

use crate::settings::{Rate, Setting};

/// What a throttle says.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Go on at full speed.
    Proceed,
    /// Go on at most at this rate.
    Slow(Rate, String),
    /// Start no chunk.
    Hold(String),
}

impl Verdict {
    /// The word used in events and in the state tables.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Proceed => "proceed",
            Verdict::Slow(..) => "slow",
            Verdict::Hold(_) => "hold",
        }
    }

    /// Why; empty for `Proceed`.
    pub fn reason(&self) -> &str {
        match self {
            Verdict::Proceed => "",
            Verdict::Slow(_, reason) | Verdict::Hold(reason) => reason,
        }
    }

    /// The rate it allows; none is unlimited.
    pub fn rate(&self) -> Option<Rate> {
        match self {
            Verdict::Slow(rate, _) => Some(*rate),
            _ => None,
        }
    }

    /// The stricter of two: hold before slow before proceed, the lower rate first.
    fn stricter(self, other: Verdict) -> Verdict {
        let is_stricter = match (&self, &other) {
            (Verdict::Hold(_), _) => true,
            (_, Verdict::Hold(_)) => false,
            (Verdict::Slow(mine, _), Verdict::Slow(theirs, _)) => mine.get() <= theirs.get(),
            (Verdict::Slow(..), Verdict::Proceed) => true,
            (Verdict::Proceed, _) => false,
        };
        if is_stricter { self } else { other }
    }
}

/// An opinion on how fast the run may go. Cheap, never blocks: it reads a value that somebody else keeps fresh.
pub trait Throttle: Send {
    /// The opinion at this moment.
    fn verdict(&self) -> Verdict;
}

/// The strictest of several.
pub fn strictest(throttles: &[Box<dyn Throttle>]) -> Verdict {
    throttles.iter().map(|throttle| throttle.verdict()).fold(Verdict::Proceed, Verdict::stricter)
}

/// The rate the operator allows, by flag, file or `tune`.
pub struct RateLimit(pub watch::Receiver<Setting<Option<Rate>>>);

impl Throttle for RateLimit {
    fn verdict(&self) -> Verdict {
        let setting = *self.0.borrow();
        match setting.value {
            Some(rate) => Verdict::Slow(rate, format!("limited to {rate} ({})", setting.origin)),
            None => Verdict::Proceed,
        }
    }
}

/// What the server has run out of, when it has: disk, connections, memory. Cleared by the engine when it tries again.
pub struct Shortage(pub watch::Receiver<Option<String>>);

impl Throttle for Shortage {
    fn verdict(&self) -> Verdict {
        match &*self.0.borrow() {
            Some(reason) => Verdict::Hold(reason.clone()),
            None => Verdict::Proceed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(Verdict);

    impl Throttle for Says {
        fn verdict(&self) -> Verdict {
            self.0.clone()
        }
    }

    #[test]
    fn the_strictest_verdict_binds() {
        let slow = |rate| Verdict::Slow(Rate::rows_per_second(rate).unwrap(), format!("{rate}"));
        let all = |verdicts: &[Verdict]| {
            let boxed: Vec<Box<dyn Throttle>> =
                verdicts.iter().map(|v| Box::new(Says(v.clone())) as Box<dyn Throttle>).collect();
            strictest(&boxed)
        };
        let hold = Verdict::Hold("disk".into());
        assert_eq!(all(&[]), Verdict::Proceed);
        assert_eq!(all(&[Verdict::Proceed, slow(10.0), slow(5.0)]), slow(5.0));
        assert_eq!(all(&[slow(5.0), hold.clone(), Verdict::Proceed]), hold);
    }
}
