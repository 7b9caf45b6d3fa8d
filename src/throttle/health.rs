//! From what was sampled to a verdict: grades, the control law, and the reason in words. Pure.
//!
//! A signal that cannot be read holds after a bounded time, unless the settings say otherwise. One that the operator has exempted is
//! passed over until the exemption ends. Of several the worst speaks.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::grade::{Grade, Grader};
use super::law::{FLOOR, Law};
use super::{Cause, Throttle, Verdict};
use crate::budget::Budget;
use crate::signal::{Kind, Settings};

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

/// COMMITs that a latency is judged by, and those that make the usual one.
const COMMITS: usize = 20;

/// Older COMMITs say nothing of now; while a run is held there are none, and what held it must not go on for ever by itself.
const COMMIT_RECENT: Duration = Duration::from_secs(10);

/// Fewer recent ones than this say nothing.
const COMMITS_MIN: usize = 10;

/// The usual COMMIT is taken to be at least this long: a server that answers in one millisecond and then in twenty has not become slow.
const COMMIT_USUAL_MIN: Duration = Duration::from_millis(10);

/// The health of the server as the run sees it.
#[derive(Debug)]
pub struct Health {
    settings: Settings,
    graders: BTreeMap<Kind, Grader>,
    unknown_since: BTreeMap<Kind, Duration>,
    /// Signals passed over.
    exempt: Vec<Kind>,
    law: Law,
    /// The speed that the run reaches when nothing holds it: follows upwards quickly and downwards slowly, because a stretch with
    /// little to write says nothing about the next.
    good: f64,
    /// Half the speed at which a signal that slowing does not mend turned hot.
    flat: Option<f64>,
    commits: VecDeque<(Duration, Duration)>,
    usual_commit: Option<Duration>,
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
        let graders = settings.signals.iter().map(|(kind, t)| (*kind, Grader::new(*t))).collect();
        let law = match settings.has(Kind::Latency) {
            true => Law::feeling_its_way(),
            false => Law::default(),
        };
        Health {
            settings,
            graders,
            unknown_since: BTreeMap::new(),
            exempt: Vec::new(),
            law,
            good: 0.0,
            flat: None,
            commits: VecDeque::new(),
            usual_commit: None,
            sample: Sample::default(),
            sampled_at: None,
            is_held: false,
            looks: 0,
            is_blocking: false,
            verdict: Verdict::Proceed,
        }
    }

    /// Passes over these signals from here on, and over no others.
    pub fn exempt(&mut self, kinds: Vec<Kind>) {
        self.exempt = kinds;
    }

    /// Whether sessions of the application wait for our locks.
    pub fn is_blocking(&self) -> bool {
        self.is_blocking
    }

    /// Learns how long a chunk's COMMIT took, at a time that counts from the same moment as in [`Health::tick`].
    pub fn committed(&mut self, now: Duration, took: Duration) {
        self.commits.push_back((now, took));
        if self.commits.len() > COMMITS {
            self.commits.pop_front();
        }
        if self.commits.len() == COMMITS && self.usual_commit.is_none() {
            let sorted = sorted(self.commits.iter().map(|(_, took)| *took));
            self.usual_commit = Some(sorted[COMMITS / 2].max(COMMIT_USUAL_MIN));
        }
    }

    fn commit_latency(&self, now: Duration) -> Option<Measure> {
        let usual = self.usual_commit?;
        let recent = self.commits.iter().filter(|(at, _)| now.saturating_sub(*at) < COMMIT_RECENT);
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

    /// Takes a sample, or None when there is no new one. `now` counts from any fixed moment; `used` rows a second went through lately, and
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
        let mut worst: Option<(Grade, f64, Cause)> = None;
        let mut answering: Option<(Grade, f64, Cause)> = None;
        let mut flat: Option<Cause> = None;
        let is_worse = |worst: &Option<(Grade, f64, Cause)>, grade: Grade, value: f64| {
            worst.as_ref().is_none_or(|(g, v, _)| (grade, value) > (*g, *v))
        };
        let kinds: Vec<Kind> = self.settings.signals.iter().map(|(kind, _)| *kind).collect();
        for kind in kinds {
            let Some((grade, value, cause)) = self.judge(kind, now) else { continue };
            if kind == Kind::Blocked {
                self.is_blocking = grade >= Grade::Hot;
            }
            if self.exempt.contains(&kind) {
                continue;
            }
            if kind.answers() && is_worse(&answering, grade, value) {
                answering = Some((grade, value, cause.clone()));
            }
            if !kind.answers() && grade == Grade::Hot {
                flat.get_or_insert_with(|| cause.clone());
            }
            if is_worse(&worst, grade, value) {
                worst = Some((grade, value, cause));
            }
        }
        if let Some((Grade::Hold, _, cause)) = worst {
            let at = self.threshold(&cause, |t| t.hold, "holds at");
            // What an operator put in the way is out of the way when it is gone; a server that was in trouble is tried gently.
            let by_operator = matches!(Kind::parse(&cause.by), Some(Kind::FlagFile | Kind::Http));
            self.is_held |= !by_operator;
            let reason = format!("{}{at}", cause.reason);
            self.verdict = Verdict::Hold(Cause { reason, ..cause });
            return;
        }
        self.conclude(now, answering, flat, used, allowed);
    }

    /// The grade, severity and reason of one signal.
    fn judge(&mut self, kind: Kind, now: Duration) -> Option<(Grade, f64, Cause)> {
        let measure = match kind {
            Kind::CommitLatency => self.commit_latency(now)?,
            _ => self.sample.measures.iter().find(|(k, _)| *k == kind)?.1.clone(),
        };
        let grader = self.graders.get_mut(&kind)?;
        match measure {
            Measure::Value { value, floor, words } => {
                self.unknown_since.remove(&kind);
                let grade = grader.grade(now, value, floor);
                let severity = grader.severity(value, grade);
                Some((grade, severity, Cause::new(kind.name(), words)))
            }
            Measure::Blind => None,
            Measure::Unknown(why) => {
                let since = *self.unknown_since.entry(kind).or_insert(now);
                let is_over = now.saturating_sub(since) >= self.settings.unknown_after;
                let holds = is_over && !self.settings.ignores_unknown;
                let words = format!("unknown for {} s: {why}", (now - since).as_secs());
                holds.then(|| (Grade::Hold, 0.0, Cause::new(kind.name(), words)))
            }
        }
    }

    /// The verdict when nothing holds: from the worst signal that answers to the rate, and from one that does not.
    fn conclude(
        &mut self,
        now: Duration,
        answering: Option<(Grade, f64, Cause)>,
        flat: Option<Cause>,
        used: f64,
        allowed: f64,
    ) {
        let severity = answering.as_ref().map_or(0.0, |(_, severity, _)| *severity);
        if std::mem::take(&mut self.is_held) {
            if self.looks >= KNOWN_AFTER {
                self.law.reopen(now, self.good);
            }
        } else {
            self.looks += 1;
            let weight = if used > self.good { 0.3 } else { 0.02 };
            self.good += weight * (used - self.good);
            self.law.step(now, severity, used, self.good.max(used).min(allowed));
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
                Some((grade, _, cause)) if grade >= Grade::Warm => {
                    let at = self.threshold(&cause, |t| t.hot, "hot at");
                    Cause { reason: format!("{}{at}", cause.reason), ..cause }
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

    /// ` (hot at 64 MB)`, where the cause is a signal with such a threshold.
    fn threshold(
        &self,
        cause: &Cause,
        pick: impl Fn(crate::signal::Thresholds) -> Option<f64>,
        words: &str,
    ) -> String {
        let kind = Kind::parse(&cause.by);
        let at = kind.and_then(|kind| Some((kind, pick(self.settings.thresholds(kind)?)?)));
        at.map(|(kind, at)| format!(" ({words} {})", kind.show(at))).unwrap_or_default()
    }
}

fn sorted(times: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    times
}

impl Throttle for Health {
    fn verdict(&self) -> Verdict {
        self.verdict.clone()
    }
}

#[cfg(test)]
mod tests;
