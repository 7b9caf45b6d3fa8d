//! What the operator's limits and the calendar allow, shared among the runs on this server.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Cause, Verdict};
use crate::budget::Budget;
use crate::calendar::{Calendar, Window};
use crate::settings::{Limits, Origin, Setting};

/// Limits, calendar and share, and what they come to at the moment last looked at.
#[derive(Clone, Debug)]
pub struct Limit {
    /// The limits outside every window.
    pub limits: Limits,
    /// The windows.
    pub calendar: Arc<Calendar>,
    /// A window that an operator put into force whatever the clock says.
    pub forced: Option<String>,
    /// Runs at work on this server, this one included: each has an equal part of its limits.
    pub share: u32,
    /// Of what was said for this very run, and of the clock.
    verdicts: [Verdict; 2],
    /// The window in force and until when, in words.
    window: Option<(String, Option<String>)>,
    ends: Option<Timestamp>,
    is_closed: bool,
}

impl Limit {
    /// Looks at the clock for the first time.
    pub fn new(
        limits: Limits,
        calendar: Arc<Calendar>,
        forced: Option<String>,
        at: Timestamp,
    ) -> Limit {
        let mut limit = Limit {
            limits,
            calendar,
            forced,
            share: 1,
            verdicts: [Verdict::Proceed, Verdict::Proceed],
            window: None,
            ends: None,
            is_closed: false,
        };
        limit.look(at);
        limit
    }

    /// Decides anew: what is allowed at this instant.
    pub fn look(&mut self, at: Timestamp) {
        let calendar = self.calendar.clone();
        let forced = self.forced.as_deref().and_then(|name| calendar.named(name));
        let window = forced.or_else(|| calendar.window_at(at));
        // The end is only looked for when the window is another one, or has ended unseen while the machine slept: it takes longer than
        // all the rest.
        let is_other = window.map(|w| &w.name) != self.window.as_ref().map(|(name, _)| name);
        if is_other || self.ends.is_some_and(|end| end <= at) {
            self.ends = calendar.next_change(at);
            // A forced window ends with its exemption, not by the clock.
            let ends = self.ends.filter(|_| forced.is_none());
            let until = |window: &Window| ends.map(|end| window.on_its_clock(end));
            self.window = window.map(|window| (window.name.clone(), until(window)));
        }
        self.is_closed = window.is_some_and(|window| window.is_pause);
        self.verdicts = self.decide(at, window, forced.is_some());
    }

    /// What was said for this very run holds within a window too; what a file says holds outside of them.
    fn decide(&self, at: Timestamp, window: Option<&Window>, is_forced: bool) -> [Verdict; 2] {
        let rate = self.limits.rate;
        let said = match rate.origin.is_operator() && !rate.value.is_unlimited() {
            true => self.shared(rate.value, limit_cause(rate)),
            false => Verdict::Proceed,
        };
        [said, self.by_clock(at, window, is_forced)]
    }

    fn by_clock(&self, at: Timestamp, window: Option<&Window>, is_forced: bool) -> Verdict {
        let until = self.window.as_ref().and_then(|(_, until)| until.as_deref());
        let until = until.map(|until| format!(" until {until}")).unwrap_or_default();
        let rate = self.limits.rate;
        let named = |window: &Window| format!("window {}", window.name);
        if let Some(window) = window.filter(|window| window.is_pause) {
            let reason = format!("window `{}` is closed{until}", window.name);
            return Verdict::Hold(Cause::new(named(window), reason));
        }
        if let Some(window) = window.filter(|w| is_forced && !w.budget.is_unlimited()) {
            let reason = format!(
                "window `{}` is in force by `tune` and allows {}",
                window.name, window.budget
            );
            return self.shared(window.budget, Cause::new(named(window), reason));
        }
        let allowed = self.calendar.allowed(at, rate.value);
        if allowed.budget.is_unlimited() {
            return Verdict::Proceed;
        }
        let budget = allowed.budget;
        let cause = match window {
            Some(window) if allowed.is_ramp => {
                let reason =
                    format!("window `{}`: on the way to another rate, {budget} now", window.name);
                Cause::new(named(window), reason)
            }
            None if allowed.is_ramp => {
                Cause::new("calendar", format!("on the way to another window's rate, {budget} now"))
            }
            Some(window) if !window.budget.is_unlimited() => {
                let reason = format!("window `{}` allows {}{until}", window.name, window.budget);
                Cause::new(named(window), reason)
            }
            _ => limit_cause(rate),
        };
        self.shared(budget, cause)
    }

    fn shared(&self, budget: Budget, cause: Cause) -> Verdict {
        let shared = budget.share(self.share);
        match self.share {
            0 | 1 => Verdict::Slow(budget, cause),
            runs => {
                let reason = format!("{}; shared by {runs} runs, {shared} each", cause.reason);
                Verdict::Slow(shared, Cause { reason, ..cause })
            }
        }
    }

    /// The limits with the window's put in, where nobody said otherwise for this very run.
    pub fn in_force(&self, at: Timestamp) -> Limits {
        let forced = self.forced.as_deref().and_then(|name| self.calendar.named(name));
        let Some(window) = forced.or_else(|| self.calendar.window_at(at)) else {
            return self.limits;
        };
        let over = |is_operator: bool| !is_operator || forced.is_some();
        let mut limits = self.limits;
        if let Some(workers) = window.workers.filter(|_| over(limits.workers.origin.is_operator()))
        {
            limits.workers = Setting { value: workers, origin: Origin::Window };
        }
        if let Some(time) =
            window.chunk_time.filter(|_| over(limits.chunk_time.origin.is_operator()))
        {
            limits.chunk_time = Setting { value: time, origin: Origin::Window };
        }
        limits
    }

    /// The name of the window in force and until when, in words.
    pub fn window(&self) -> Option<&(String, Option<String>)> {
        self.window.as_ref()
    }

    /// The verdicts of what was said for this very run and of the clock.
    pub fn verdicts(&self) -> [Verdict; 2] {
        self.verdicts.clone()
    }

    /// Whether the window in force is a pause.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }
}

fn limit_cause(rate: Setting<Budget>) -> Cause {
    Cause::new("limit", format!("limited to {} ({})", rate.value, rate.origin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::read;
    use crate::document;
    use crate::settings::Layer;
    use crate::throttle::rule;

    const WINDOWS: &str = "[[throttle.window]]\nname = \"closed\"\ndays = \"sun\"\npause = true\n\
        [[throttle.window]]\nname = \"day\"\nhours = \"09:00-18:00\"\nrate = \"2000 rows/s\"\nworkers = 1\nchunk_time = \"100ms\"\n";

    fn limit(origin: Origin, layer: Layer, at: &str) -> Limit {
        let calendar =
            document::read(WINDOWS, |root| Some(read::calendar(root).unwrap_or_default())).unwrap();
        Limit::new(
            Limits::resolve(&[(origin, layer)]),
            Arc::new(calendar),
            None,
            at.parse().unwrap(),
        )
    }

    fn rate(rows: f64) -> Layer {
        Layer { rate: Some(Budget::rows(rows)), workers: Some(4), ..Layer::default() }
    }

    fn said(limit: &Limit) -> (f64, String) {
        match rule(limit.verdicts(), 500.0).verdict {
            Verdict::Slow(budget, cause) => (budget.rows_per_s.unwrap(), cause.reason),
            other => (f64::INFINITY, format!("{other:?}")),
        }
    }

    #[test]
    fn a_window_replaces_what_a_file_says_and_a_flag_holds_within_it() {
        let (noon, night) = ("2026-11-25T12:00:00Z", "2026-11-25T20:00:00Z");
        assert_eq!(
            said(&limit(Origin::Project, rate(9_000.0), noon)),
            (2_000.0, "window `day` allows 2,000 rows/s until Wed 2026-11-25 18:00 UTC".into())
        );
        assert_eq!(
            said(&limit(Origin::Project, rate(9_000.0), night)),
            (9_000.0, "limited to 9,000 rows/s (backfill.toml)".into())
        );
        assert_eq!(
            said(&limit(Origin::Flag, rate(500.0), noon)),
            (500.0, "limited to 500 rows/s (flag)".into())
        );
        assert_eq!(said(&limit(Origin::Flag, rate(9_000.0), noon)).0, 2_000.0);
        // A row of 500 bytes: 200 of them a second.
        let wal = Budget { rows_per_s: None, wal_per_s: Some(100_000.0) };
        let tuned = Layer { rate: Some(wal), ..Layer::default() };
        let bound = rule(limit(Origin::Tune, tuned, noon).verdicts(), 500.0);
        assert_eq!(bound.verdict.reason(), "limited to 100.0 kB/s wal (tune)");
        assert_eq!(bound.budget, Budget { rows_per_s: Some(2_000.0), ..wal });
        let at: Timestamp = noon.parse().unwrap();
        assert_eq!(limit(Origin::Project, rate(1.0), noon).in_force(at).workers.value, 1);
        assert_eq!(limit(Origin::Flag, rate(1.0), noon).in_force(at).workers.value, 4);
        assert_eq!(
            limit(Origin::Flag, rate(1.0), noon).in_force(at).chunk_time.value.as_millis(),
            100
        );
    }

    #[test]
    fn a_closed_window_says_when_it_opens() {
        let limit = limit(Origin::Project, rate(9_000.0), "2026-11-29T12:00:00Z");
        assert!(limit.is_closed());
        assert_eq!(
            limit.verdicts()[1].reason(),
            "window `closed` is closed until Mon 2026-11-30 00:00 UTC"
        );
    }

    #[test]
    fn several_runs_share_and_a_forced_window_ignores_the_clock() {
        let at: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        let mut limit = limit(Origin::Project, rate(9_000.0), "2026-11-29T12:00:00Z");
        limit.forced = Some("day".to_owned());
        limit.share = 2;
        limit.look(at);
        assert_eq!(said(&limit), (1_000.0, "window `day` is in force by `tune` and allows 2,000 rows/s; shared by 2 runs, 1,000 rows/s each".into()));
    }
}
