//! A signal's value against its thresholds, with hysteresis: up at once, down only after it has stayed well below for a while. Pure.

use std::time::Duration;

use crate::signal::Thresholds;

/// How bad a signal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// All is well.
    #[default]
    Proceed,
    /// Nothing is raised.
    Warm,
    /// The rate is cut.
    Hot,
    /// No chunk is started.
    Hold,
}

/// Part of a threshold below which a value must fall before it counts as passed.
const WELL_BELOW: f64 = 0.8;

/// How long it must stay there: after a hold long enough that a replica which catches up in jerks does not flap.
const AFTER_HOLD: Duration = Duration::from_secs(10);
const AFTER_HOT: Duration = Duration::from_secs(3);

/// The grade of one signal over time.
#[derive(Clone, Debug)]
pub struct Grader {
    thresholds: Thresholds,
    /// Out of a hold only below this grade.
    let_go_below: Grade,
    grade: Grade,
    better_since: Option<Duration>,
}

impl Grader {
    /// Starts at [`Grade::Proceed`].
    pub fn new(thresholds: Thresholds) -> Grader {
        let let_go_below = Grade::Warm;
        Grader { thresholds, let_go_below, grade: Grade::Proceed, better_since: None }
    }

    /// Leaves a hold for the rate to be cut, where what is warm is within what chance makes of it.
    pub fn lets_go_when_warm(self) -> Grader {
        Grader { let_go_below: Grade::Hot, ..self }
    }

    /// The grade at time `now` with this value; never below `floor`, which a signal states outright.
    pub fn grade(&mut self, now: Duration, value: f64, floor: Grade) -> Grade {
        let raw = self.raw(value, 1.0).max(floor);
        if raw >= self.grade {
            self.grade = raw;
            self.better_since = None;
            return raw;
        }
        let is_well = match self.grade {
            Grade::Hold => self.raw(value, WELL_BELOW).max(floor) < self.let_go_below,
            grade => self.raw(value, WELL_BELOW).max(floor) < grade,
        };
        if !is_well {
            self.better_since = None;
            return self.grade;
        }
        let since = *self.better_since.get_or_insert(now);
        let wait = if self.grade == Grade::Hold { AFTER_HOLD } else { AFTER_HOT };
        if now.saturating_sub(since) >= wait {
            self.grade = raw;
            self.better_since = None;
        }
        self.grade
    }

    /// As last graded.
    pub fn last(&self) -> Grade {
        self.grade
    }

    fn raw(&self, value: f64, part: f64) -> Grade {
        let reached =
            |threshold: Option<f64>| threshold.is_some_and(|threshold| value >= threshold * part);
        match self.thresholds {
            Thresholds { hold, .. } if reached(hold) => Grade::Hold,
            Thresholds { hot, .. } if reached(hot) => Grade::Hot,
            Thresholds { warm, .. } if reached(warm) => Grade::Warm,
            _ => Grade::Proceed,
        }
    }

    /// How bad on the scale of the control law: one is hot, a half is warm.
    pub fn severity(&self, value: f64, grade: Grade) -> f64 {
        let Some(hot) = self.thresholds.hot.or(self.thresholds.hold).filter(|hot| *hot > 0.0)
        else {
            return 0.0;
        };
        let scaled = match self.thresholds.warm.filter(|warm| *warm < hot && *warm > 0.0) {
            _ if value >= hot => value / hot,
            Some(warm) if value >= warm => 0.5 + 0.5 * (value - warm) / (hot - warm),
            Some(warm) => 0.5 * value / warm,
            None => 0.5 * value / hot,
        };
        // What the hysteresis still counts as hot is not raised against.
        if grade >= Grade::Warm { scaled.max(0.5) } else { scaled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAG: Thresholds = Thresholds { warm: Some(32.0), hot: Some(64.0), hold: Some(256.0) };

    #[test]
    fn up_at_once_down_slowly() {
        let mut grader = Grader::new(LAG);
        let mut at = |second: u64, value: f64| {
            grader.grade(Duration::from_secs(second), value, Grade::Proceed)
        };
        assert_eq!(at(0, 31.0), Grade::Proceed);
        assert_eq!(at(1, 32.0), Grade::Warm);
        assert_eq!(at(2, 64.0), Grade::Hot);
        // A little below is not below.
        assert_eq!(at(3, 60.0), Grade::Hot);
        assert_eq!(at(10, 60.0), Grade::Hot);
        assert_eq!(at(11, 50.0), Grade::Hot);
        assert_eq!(at(13, 50.0), Grade::Hot);
        assert_eq!(at(14, 50.0), Grade::Warm);
        assert_eq!(at(15, 300.0), Grade::Hold);
        // Not even warm for ten seconds.
        assert_eq!(at(16, 26.0), Grade::Hold);
        assert_eq!(at(40, 25.0), Grade::Hold);
        assert_eq!(at(45, 26.0), Grade::Hold);
        assert_eq!(at(46, 25.0), Grade::Hold);
        assert_eq!(at(56, 25.0), Grade::Proceed);
    }

    #[test]
    fn a_signal_may_state_its_grade() {
        let mut grader = Grader::new(Thresholds::default());
        assert_eq!(grader.grade(Duration::ZERO, 0.0, Grade::Hold), Grade::Hold);
        assert_eq!(grader.grade(Duration::from_secs(1), 0.0, Grade::Proceed), Grade::Hold);
        assert_eq!(grader.grade(Duration::from_secs(11), 0.0, Grade::Proceed), Grade::Proceed);
    }

    #[test]
    fn severity_is_one_at_hot_and_a_half_at_warm() {
        let grader = Grader::new(LAG);
        let severity = |value| grader.severity(value, Grade::Proceed);
        assert_eq!(
            (severity(0.0), severity(32.0), severity(64.0), severity(128.0)),
            (0.0, 0.5, 1.0, 2.0)
        );
    }
}
