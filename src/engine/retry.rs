//! What to do about a chunk that met an error: the class decides, attempts bound it. Pure.

use std::time::Duration;

use crate::db::Class;

/// Attempts on a chunk that the application keeps getting in the way of. With the waits between them that is about two minutes.
const CONTENTION_MAX: u32 = 10;

/// Attempts on a chunk that cannot be halved further, so that a passing load peak does not fail it.
const INDIVISIBLE_MAX: u32 = 3;

/// Connections that a chunk may lose in the middle of its work. Backends that are terminated, or a server that restarts, meet
/// a chunk once or twice; one that meets it every time is most likely brought down by it.
const CRASHES_MAX: u32 = 10;

/// Longest wait between attempts.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// How long the server may stay away before the runner stops. Longer than a failover, shorter than an operator's patience with a
/// command that says nothing new.
pub const ABSENCE_MAX: Duration = Duration::from_secs(120);

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Try again after about this long.
    Retry(Duration),
    /// Reconnect, and try again after about this long, as long as the server has not been away for [`ABSENCE_MAX`].
    Reconnect(Duration),
    /// Hold all chunks for this long, then try again.
    Hold(Duration),
    /// Cut it in two and try both parts.
    Split,
    /// Cut it in two, down to the row at fault, which is set aside.
    Bisect,
    /// Give this chunk up and go on.
    GiveUp,
    /// An operator cancelled the statement: pause the run.
    Pause,
    /// Stop the run.
    Fail,
}

/// Decides. `attempts` counts failures of this chunk in this runner, this one included; `keys` is how many entries it has.
pub fn decide(class: Class, attempts: u32, keys: i32) -> Action {
    match class {
        Class::Contention if attempts >= CONTENTION_MAX => Action::GiveUp,
        Class::Contention => Action::Retry(backoff(Duration::from_millis(50), attempts)),
        Class::TooBig if keys > 1 => Action::Split,
        Class::TooBig if attempts >= INDIVISIBLE_MAX => Action::GiveUp,
        Class::TooBig => Action::Retry(backoff(Duration::from_millis(500), attempts)),
        Class::Connection | Class::ReadOnly => {
            Action::Reconnect(backoff(Duration::from_millis(100), attempts.min(6)))
        }
        Class::Resources => Action::Hold(backoff(Duration::from_secs(1), attempts)),
        Class::Data => Action::Bisect,
        Class::Cancelled => Action::Pause,
        Class::Fatal => Action::Fail,
    }
}

/// Whether a chunk that lost so many connections in the middle of its work is given up.
pub fn is_deadly(crashes: u32) -> bool {
    crashes >= CRASHES_MAX
}

/// Doubles from `first` with every attempt, up to [`WAIT_MAX`].
fn backoff(first: Duration, attempts: u32) -> Duration {
    let doubled = first.saturating_mul(1 << attempts.saturating_sub(1).min(20));
    doubled.min(WAIT_MAX)
}

/// Spreads a wait over half to all of itself, so that workers and runs do not march in step.
pub fn jitter(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contention_backs_off_and_ends() {
        assert_eq!(decide(Class::Contention, 1, 500), Action::Retry(Duration::from_millis(50)));
        assert_eq!(decide(Class::Contention, 5, 500), Action::Retry(Duration::from_millis(800)));
        assert_eq!(decide(Class::Contention, 10, 500), Action::GiveUp);
    }

    #[test]
    fn a_chunk_too_big_is_halved_until_it_cannot_be() {
        assert_eq!(decide(Class::TooBig, 1, 2), Action::Split);
        assert!(matches!(decide(Class::TooBig, 2, 1), Action::Retry(_)));
        assert_eq!(decide(Class::TooBig, 3, 1), Action::GiveUp);
    }

    #[test]
    fn waits_are_bounded() {
        for class in [Class::Contention, Class::TooBig, Class::Connection, Class::Resources] {
            for attempts in 1..100 {
                if let Action::Retry(wait) | Action::Reconnect(wait) | Action::Hold(wait) =
                    decide(class, attempts, 1)
                {
                    assert!(wait <= WAIT_MAX && jitter(wait) <= wait && jitter(wait) >= wait / 2);
                }
            }
        }
    }
}
