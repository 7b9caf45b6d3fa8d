//! When a run may do how much: windows of the week in their own time zones. Pure functions of an instant.
//!
//! Whether a window holds is read off the wall clock of its zone, which exists at every instant. So where the clock skips an hour, a
//! window inside the skipped hour does not happen that day; where an hour comes twice, a window inside it holds both times. Windows are
//! half-open and may wrap midnight; a window's day is the day it starts on. The first that holds wins.
//!
//! A change of windows is a ramp of a minute, not a step: a stricter window is reached at its first instant, coming down in the minute
//! before it; a laxer one is grown into during its first minute. The ramp is even in factors, not in rows, because limits lie
//! orders of magnitude apart.

pub mod read;
pub mod week;

use std::time::Duration;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp, Zoned};

use crate::budget::Budget;

/// How long a change of windows takes.
const RAMP: SignedDuration = SignedDuration::from_secs(60);

/// What stands for "unlimited" on a ramp: more than the fastest server seen does.
const UNLIMITED: Budget = Budget { rows_per_s: Some(1e6), wal_per_s: Some(1e9) };

/// What stands for zero on a ramp out of a pause: this part of the rate it leads to.
const FROM_PAUSE: f64 = 0.01;

/// One window.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Its name, unique in its file.
    pub name: String,
    /// The days it starts on.
    pub days: Vec<Weekday>,
    /// Its first minute, from midnight.
    pub from: i64,
    /// The minute behind its last, from midnight, up to 1440; not greater than `from` when it ends on the next day.
    pub to: i64,
    /// The zone whose clock counts.
    pub zone: TimeZone,
    /// What it allows; unlimited means that the limits outside windows hold.
    pub budget: Budget,
    /// Whether nothing runs in it.
    pub is_pause: bool,
    /// Chunks in flight at once.
    pub workers: Option<u32>,
    /// How long one chunk should take.
    pub chunk_time: Option<Duration>,
    /// Days it does not start on, first and last included.
    pub except: Vec<(Date, Date)>,
}

impl Window {
    /// Whether it holds at an instant.
    pub fn holds(&self, at: Timestamp) -> bool {
        let local = at.to_zoned(self.zone.clone());
        let (date, minute) = (local.date(), minute_of(local.time()));
        let starts = |date: Date| {
            self.days.contains(&date.weekday())
                && !self.except.iter().any(|(first, last)| *first <= date && date <= *last)
        };
        if self.wraps() {
            let yesterday = date.yesterday().ok();
            minute >= self.from && starts(date) || minute < self.to && yesterday.is_some_and(starts)
        } else {
            minute >= self.from && minute < self.to && starts(date)
        }
    }

    /// An instant in words: on the window's own clock, and in UTC.
    pub fn on_its_clock(&self, at: Timestamp) -> String {
        in_words(&at.to_zoned(self.zone.clone()))
    }

    fn wraps(&self) -> bool {
        self.to <= self.from
    }

    /// Instants of a day at which it may begin or end: its two times on the clock, where they come twice both, and those at which the
    /// clock itself jumps.
    fn edges(&self, date: Date, edges: &mut Vec<Timestamp>) {
        for minute in [self.from, self.to % 1440] {
            let time = Time::midnight() + Span::new().minutes(minute);
            let local = self.zone.to_ambiguous_zoned(date.to_datetime(time));
            let both = [local.clone().earlier(), local.later()];
            edges.extend(both.into_iter().flatten().map(|at| at.timestamp()));
        }
        if let Ok(midnight) = date.to_zoned(self.zone.clone())
            && let Ok(next) = midnight.checked_add(Span::new().hours(36))
        {
            let jumps = self.zone.following(midnight.timestamp());
            edges
                .extend(jumps.map(|jump| jump.timestamp()).take_while(|at| *at < next.timestamp()));
        }
    }
}

fn minute_of(time: Time) -> i64 {
    i64::from(time.hour()) * 60 + i64::from(time.minute())
}

/// The windows of a run, in deciding order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calendar {
    /// The windows.
    pub windows: Vec<Window>,
}

/// What the calendar says of an instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowed<'c> {
    /// The window in force; none outside every window.
    pub window: Option<&'c Window>,
    /// What may be done: the window's budget or `outside`, on the way from one to the other during a ramp.
    pub budget: Budget,
    /// Whether the budget is on its way.
    pub is_ramp: bool,
}

impl Calendar {
    /// The window in force at an instant.
    pub fn window_at(&self, at: Timestamp) -> Option<&Window> {
        self.windows.iter().find(|window| window.holds(at))
    }

    fn place_at(&self, at: Timestamp) -> Option<usize> {
        self.windows.iter().position(|window| window.holds(at))
    }

    /// The window of a name.
    pub fn named(&self, name: &str) -> Option<&Window> {
        self.windows.iter().find(|window| window.name == name)
    }

    /// What may be done at an instant, when the limits outside every window are `outside`.
    pub fn allowed(&self, at: Timestamp, outside: Budget) -> Allowed<'_> {
        let window = self.window_at(at);
        let budget_at = |place: Option<usize>| match place.map(|i| &self.windows[i]) {
            Some(window) if window.is_pause => None,
            Some(window) if !window.budget.is_unlimited() => Some(window.budget),
            _ => Some(outside),
        };
        let here = self.place_at(at);
        let Some(mut budget) = budget_at(here) else {
            return Allowed { window, budget: Budget::UNLIMITED, is_ramp: false };
        };
        let full = budget;
        // Coming out of a stricter window, and going into one.
        for (direction, from_there) in [(-1, true), (1, false)] {
            let there = at.checked_add(RAMP * direction).map_or(here, |then| self.place_at(then));
            if there == here {
                continue;
            }
            let distance = self.distance(at, direction, here);
            let share = distance.as_secs_f64() / RAMP.as_secs_f64();
            let other = match budget_at(there) {
                // There is no coming down to zero: a pause begins when it begins.
                None if !from_there => continue,
                None => part(full, FROM_PAUSE),
                Some(other) => other,
            };
            budget = budget.and(between(other, full, share));
        }
        Allowed { window, budget, is_ramp: budget != full }
    }

    /// How far the nearest change within a ramp lies, to the second.
    fn distance(&self, at: Timestamp, direction: i32, here: Option<usize>) -> SignedDuration {
        let (mut near, mut far) = (0, RAMP.as_secs());
        while far - near > 1 {
            let middle = (near + far) / 2;
            let then = at.checked_add(SignedDuration::from_secs(middle) * direction);
            match then.map_or(here, |then| self.place_at(then)) == here {
                true => near = middle,
                false => far = middle,
            }
        }
        SignedDuration::from_secs(near)
    }

    /// When the window in force changes next; none when it does not within a year.
    pub fn next_change(&self, after: Timestamp) -> Option<Timestamp> {
        let here = self.place_at(after);
        let mut week = after;
        for _ in 0..53 {
            let until = week.checked_add(SignedDuration::from_hours(24 * 8)).ok()?;
            let mut edges = Vec::new();
            for window in &self.windows {
                let mut date = week.to_zoned(window.zone.clone()).date().yesterday().ok()?;
                for _ in 0..11 {
                    window.edges(date, &mut edges);
                    date = date.tomorrow().ok()?;
                }
            }
            edges.sort();
            let mut edges = edges.into_iter().filter(|at| *at > after && *at <= until);
            if let Some(change) = edges.find(|at| self.place_at(*at) != here) {
                return Some(change);
            }
            week = week.checked_add(SignedDuration::from_hours(24 * 7)).ok()?;
        }
        None
    }
}

fn in_words(at: &Zoned) -> String {
    let zone = at.time_zone().iana_name().unwrap_or("UTC").to_owned();
    let utc = at.with_time_zone(TimeZone::UTC);
    match zone == "UTC" {
        true => at.strftime("%a %Y-%m-%d %H:%M UTC").to_string(),
        false => {
            format!("{} {zone} ({})", at.strftime("%a %Y-%m-%d %H:%M"), utc.strftime("%H:%M UTC"))
        }
    }
}

fn part(budget: Budget, share: f64) -> Budget {
    let whole = UNLIMITED.and(budget);
    Budget {
        rows_per_s: whole.rows_per_s.map(|rate| rate * share),
        wal_per_s: whole.wal_per_s.map(|rate| rate * share),
    }
}

/// On the way from one budget to the other, even in factors; the whole of `to` at 1, and never more than it.
fn between(from: Budget, to: Budget, share: f64) -> Budget {
    let step = |from: Option<f64>, to: Option<f64>, most: Option<f64>| {
        let (from, to) = (from.or(most)?, to.or(most)?);
        (from < to).then(|| from.powf(1.0 - share) * to.powf(share))
    };
    Budget {
        rows_per_s: step(from.rows_per_s, to.rows_per_s, UNLIMITED.rows_per_s),
        wal_per_s: step(from.wal_per_s, to.wal_per_s, UNLIMITED.wal_per_s),
    }
    .and(to)
}

#[cfg(test)]
mod tests;
