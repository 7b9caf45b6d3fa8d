//! From what was sampled to a verdict: grades, the control law, and the reason in words. Pure.
//!
//! A signal that cannot be read holds after a bounded time, unless the settings say otherwise. One that the operator has exempted is
//! passed over until the exemption ends. Of several the worst speaks.

use std::collections::BTreeMap;
use std::time::Duration;

use super::commits::Commits;
use super::grade::{Grade, Grader};
use super::law::{FLOOR, Law, START};
use super::rest::Rest;
use super::{Cause, Throttle, Verdict};
use crate::budget::Budget;
use crate::signal::{Kind, Settings, Thresholds};

/// What a signal measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Measure {
    /// A value, and what it is of: "replica `r1` 81 MB behind". `floor` is a grade that the signal states outright.
    Value {
        /// In the signal's unit.
        value: f64,
        /// At least this grade.
        floor: Grade,
        /// The value in words.
        words: String,
    },
    /// It could not be read, and why.
    Unknown(String),
    /// This role cannot see it.
    Blind,
}

impl Measure {
    /// A value that speaks for itself by its thresholds.
    pub fn value(value: f64, words: impl Into<String>) -> Measure {
        Measure::Value { value, floor: Grade::Proceed, words: words.into() }
    }

    /// A grade stated outright.
    pub fn stated(floor: Grade, words: impl Into<String>) -> Measure {
        Measure::Value { value: 0.0, floor, words: words.into() }
    }
}

/// One look at all signals.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// What was measured.
    pub measures: Vec<(Kind, Measure)>,
}

/// Older samples are not believed.
const STALE: Duration = Duration::from_secs(5);

/// Part of the speed left by a signal that slowing does not mend: the vacuum or the transaction it is about gets room, and the run
/// goes on.
const FLAT: f64 = 0.5;

/// Ticks without a hold before the speed that a run reaches is known well enough to halve it.
const KNOWN_AFTER: u32 = 10;

/// The health of the server as the run sees it.
#[derive(Debug)]
pub struct Health {
    settings: Settings,
    graders: BTreeMap<Kind, Grader>,
    unknown_since: BTreeMap<Kind, Duration>,
    /// Signals passed over.
    exempt: Vec<Kind>,
    law: Law,
    /// The signals that the law last cut the rate for, and that last held the run.
    cut_by: Option<Kind>,
    held_by: Option<Kind>,
    rest: Rest,
    here: Here,
    /// The speed that the run reaches when nothing holds it: follows upwards quickly and downwards slowly, because a stretch with
    /// little to write says nothing about the next.
    good: f64,
    /// Half the speed at which a signal that slowing does not mend turned hot.
    flat: Option<f64>,
    commits: Commits,
    sample: Sample,
    sampled_at: Option<Duration>,
    is_held: bool,
    /// Ticks with nothing held.
    looks: u32,
    is_blocking: bool,
    verdict: Verdict,
}

impl Health {
    /// Starts well.
    pub fn new(settings: Settings) -> Health {
        let grader = |kind: Kind, thresholds: Thresholds| match kind {
            Kind::Latency => Grader::new(thresholds).lets_go_when_warm(),
            _ => Grader::new(thresholds),
        };
        let graders = settings.signals.iter().map(|(kind, t)| (*kind, grader(*kind, *t))).collect();
        let law = beginning(settings.has(Kind::Latency));
        Health {
            settings,
            graders,
            unknown_since: BTreeMap::new(),
            exempt: Vec::new(),
            law,
            cut_by: None,
            held_by: None,
            rest: Rest::default(),
            here: Here { is_at_work: false, may_rest: true },
            good: 0.0,
            flat: None,
            commits: Commits::default(),
            sample: Sample::default(),
            sampled_at: None,
            is_held: false,
            looks: 0,
            is_blocking: false,
            verdict: Verdict::Proceed,
        }
    }

    /// Passes over these signals from here on, and over no others. What a signal took from the rate is given back with it.
    pub fn exempt(&mut self, kinds: Vec<Kind>) {
        let is_new = |kind: Kind| kinds.contains(&kind) && !self.exempt.contains(&kind);
        if self.listens(&kinds) != self.listens(&self.exempt) {
            self.law = beginning(self.listens(&kinds));
            self.cut_by = None;
            self.rest.end();
        } else if self.cut_by.is_some_and(is_new) {
            match self.listens(&kinds) {
                true => self.law.feel_again(),
                false => self.law = Law::default(),
            }
            self.cut_by = None;
        }
        if self.held_by.is_some_and(is_new) {
            (self.held_by, self.is_held) = (None, false);
        }
        self.exempt = kinds;
    }

    /// Learns what goes on beside the signals.
    pub fn see(&mut self, here: Here) {
        self.here = here;
    }

    /// Whether the run goes by what a small transaction takes.
    fn listens(&self, exempt: &[Kind]) -> bool {
        self.settings.has(Kind::Latency) && !exempt.contains(&Kind::Latency)
    }

    /// Whether sessions of the application wait for our locks.
    pub fn is_blocking(&self) -> bool {
        self.is_blocking
    }

    /// Learns how long a chunk's COMMIT took, at a time that counts from the same moment as in [`Health::tick`].
    pub fn committed(&mut self, now: Duration, took: Duration) {
        self.commits.took(now, took);
    }

    /// Takes a sample, or None when there is no new one. `now` counts from the run's beginning; `used` rows a second went through lately, and
    /// the limits would allow `allowed`.
    pub fn tick(&mut self, now: Duration, sample: Option<&Sample>, used: f64, allowed: f64) {
        if self.settings.signals.is_empty() {
            return;
        }
        let sampled_at = *self.sampled_at.get_or_insert(now);
        if let Some(sample) = sample {
            (self.sample, self.sampled_at) = (sample.clone(), Some(now));
        } else if now.saturating_sub(sampled_at) >= STALE {
            let unread =
                |kind: &(Kind, _)| (kind.0, Measure::Unknown("it is not being read".to_owned()));
            self.sample.measures = self.settings.signals.iter().map(unread).collect();
        }
        if self.here.is_at_work {
            self.rest.put_off(now);
        }
        // What another signal, or a hold, has slowed down is not hurried because of a rest.
        let is_own = self.cut_by.is_none_or(|kind| kind == Kind::Latency) && !self.is_held;
        if self.rest.is_over(now) && is_own {
            self.law.feel_again();
        }
        let found = self.look(now);
        if let Some(held) = found.worst.filter(|worst| worst.grade == Grade::Hold) {
            // What an operator put in the way is out of the way when it is gone; a server that was in trouble is tried gently.
            if !matches!(held.kind, Kind::FlagFile | Kind::Http) {
                (self.is_held, self.held_by) = (true, Some(held.kind));
            }
            self.verdict = Verdict::Hold(self.cause(&held, |t| t.hold, "holds at"));
            return;
        }
        if let Some(left) = self.rest.left(now) {
            let reason = format!(
                "the run rests for {} s, to learn what a small transaction takes without it",
                left.as_secs()
            );
            self.verdict = Verdict::Hold(Cause::new(Kind::Latency.name(), reason));
            return;
        }
        self.conclude(now, found.answering, found.flat, used, allowed);
    }

    /// What the signals come to that are not passed over.
    fn look(&mut self, now: Duration) -> Found {
        let mut found = Found::default();
        let kinds: Vec<Kind> = self.settings.signals.iter().map(|(kind, _)| *kind).collect();
        for kind in kinds {
            let Some(finding) = self.judge(kind, now) else { continue };
            if kind == Kind::Blocked {
                self.is_blocking = finding.grade >= Grade::Hot;
            }
            if self.exempt.contains(&kind) {
                continue;
            }
            if kind.answers() && finding.is_worse_than(found.answering.as_ref()) {
                found.answering = Some(finding.clone());
            }
            if !kind.answers() && finding.grade == Grade::Hot {
                found.flat.get_or_insert_with(|| Cause::new(kind.name(), finding.words.clone()));
            }
            if finding.is_worse_than(found.worst.as_ref()) {
                found.worst = Some(finding);
            }
        }
        found
    }

    /// What one signal comes to.
    fn judge(&mut self, kind: Kind, now: Duration) -> Option<Finding> {
        let measure = match kind {
            Kind::CommitLatency => self.commits.measure(now)?,
            _ => self.sample.measures.iter().find(|(k, _)| *k == kind)?.1.clone(),
        };
        let grader = self.graders.get_mut(&kind)?;
        match measure {
            Measure::Value { value, floor, words } => {
                self.unknown_since.remove(&kind);
                let grade = grader.grade(now, value, floor);
                let severity = grader.severity(value, grade);
                let is_by_value = grade > floor;
                Some(Finding { kind, grade, severity, words, is_by_value })
            }
            Measure::Blind => None,
            Measure::Unknown(why) => {
                let since = *self.unknown_since.entry(kind).or_insert(now);
                let is_over = now.saturating_sub(since) >= self.settings.unknown_after;
                // What held the run, or slowed it down, is not known to be over.
                let grade = match is_over {
                    true if self.settings.ignores_unknown => Grade::Proceed,
                    true => Grade::Hold,
                    false => grader.last(),
                };
                let words = format!("unknown for {} s: {why}", (now - since).as_secs());
                let severity = if grade >= Grade::Warm { 0.5 } else { 0.0 };
                let found = Finding { kind, grade, severity, words, is_by_value: false };
                (grade > Grade::Proceed).then_some(found)
            }
        }
    }

    /// The verdict when nothing holds: from the worst signal that answers to the rate, and from one that does not.
    fn conclude(
        &mut self,
        now: Duration,
        answering: Option<Finding>,
        flat: Option<Cause>,
        used: f64,
        allowed: f64,
    ) {
        let severity = answering.as_ref().map_or(0.0, |worst| worst.severity);
        if std::mem::take(&mut self.is_held) {
            if self.looks >= KNOWN_AFTER {
                self.law.reopen(now, self.good);
                self.cut_by = self.held_by;
            }
        } else {
            self.held_by = None;
            self.looks += 1;
            let weight = if used > self.good { 0.3 } else { 0.02 };
            self.good += weight * (used - self.good);
            let is_cut = self.law.step(now, severity, used, self.good.max(used).min(allowed));
            if let Some(worst) = answering.as_ref().filter(|_| is_cut) {
                self.cut_by = Some(worst.kind);
            }
        }
        if self.law.rate().is_none() {
            self.cut_by = None;
        }
        if self.listens(&self.exempt) && self.here.may_rest {
            let is_slow = self.law.rate().is_some_and(|rate| rate <= START);
            let is_felt =
                |worst: &Finding| worst.kind == Kind::Latency && worst.grade >= Grade::Warm;
            self.rest.look(now, is_slow && answering.as_ref().is_some_and(is_felt));
        }
        if flat.is_none() {
            self.flat = None;
        }
        // Half of a speed that nobody knows yet would be next to nothing, for as long as the vacuum takes.
        let by_flat = flat.filter(|_| self.looks >= KNOWN_AFTER).map(|cause| {
            let speed = self.good.max(used).min(allowed);
            let rate = *self.flat.get_or_insert((speed * FLAT).max(FLOOR));
            (rate, cause)
        });
        let by_law = self.law.rate().map(|rate| {
            let cause = match answering {
                Some(worst) if worst.grade >= Grade::Warm => {
                    self.cause(&worst, |t| t.hot, "hot at")
                }
                _ if self.law.is_feeling() => Cause::new(
                    Kind::Latency.name(),
                    "the rate is raised until a small transaction takes longer",
                ),
                _ => Cause::new(
                    "recovery",
                    "the signals are cool again; the rate is raised step by step",
                ),
            };
            (rate, cause)
        });
        let strictest = [by_flat, by_law].into_iter().flatten().min_by(|a, b| a.0.total_cmp(&b.0));
        self.verdict = strictest
            .map_or(Verdict::Proceed, |(rate, cause)| Verdict::Slow(Budget::rows(rate), cause));
    }

    /// What was found with the threshold that it is told by: ` (hot at 64 MB)`.
    fn cause(
        &self,
        found: &Finding,
        pick: impl Fn(Thresholds) -> Option<f64>,
        words: &str,
    ) -> Cause {
        let Finding { kind, words: reason, .. } = found;
        let at = self.settings.thresholds(*kind).and_then(pick).filter(|_| found.is_by_value);
        let at = at.map(|at| format!(" ({words} {})", kind.show(at))).unwrap_or_default();
        Cause::new(kind.name(), format!("{reason}{at}"))
    }
}

/// What goes on beside the signals.
#[derive(Clone, Copy, Debug)]
pub struct Here {
    /// Whether anything of the run is at work on the server.
    pub is_at_work: bool,
    /// Whether a rest may begin: it would break a vacuum off, and is in vain while another run is at work.
    pub may_rest: bool,
}

/// What a signal comes to.
#[derive(Clone, Debug)]
struct Finding {
    kind: Kind,
    grade: Grade,
    severity: f64,
    words: String,
    /// Whether the grade is from a value and its thresholds.
    is_by_value: bool,
}

impl Finding {
    fn is_worse_than(&self, other: Option<&Finding>) -> bool {
        other.is_none_or(|other| (self.grade, self.severity) > (other.grade, other.severity))
    }
}

/// The worst of all signals, of those that answer to the rate, and one that does not and is hot.
#[derive(Debug, Default)]
struct Found {
    worst: Option<Finding>,
    answering: Option<Finding>,
    flat: Option<Cause>,
}

/// The law that a run begins with: where what it must not harm would feel it at once, slowly.
fn beginning(listens: bool) -> Law {
    if listens { Law::feeling_its_way() } else { Law::default() }
}

impl Throttle for Health {
    fn verdict(&self) -> Verdict {
        self.verdict.clone()
    }
}

#[cfg(test)]
mod tests;
