//! `[[throttle.window]]` in a spec or in `backfill.toml`. Pure.

use std::ops::Range;

use jiff::Timestamp;
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;

use super::{Calendar, Window};
use crate::budget::{BUDGET_HELP, Budget};
use crate::diagnostic::Diagnostic;
use crate::document::Section;
use crate::units::{self, DURATION_HELP, WORKERS_MAX};

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

const DAYS_HELP: &str = "write `mon-fri`, `sat,sun`, `daily`, or a list of these";
const HOURS_HELP: &str = "write it as `09:00-18:00`; `22:00-06:00` ends on the next day";
const ZONE_HELP: &str = "a name of the IANA time zone database, such as `Europe/Berlin` or `UTC`";
const EXCEPT_HELP: &str =
    "write days as `2026-12-24`, or spans as `2026-12-24..2027-01-02`, the last day included";

/// Reads `[throttle]` with its windows; none when it is not there.
pub fn calendar(root: &Section<'_>) -> Option<Calendar> {
    root.section("throttle", |throttle| {
        let found = throttle.sections("window", window);
        let windows: Vec<Window> = found.iter().map(|(window, _)| window.clone()).collect();
        for (i, (window, span)) in found.iter().enumerate() {
            if found[..i].iter().any(|(other, _)| other.name == window.name) {
                let message = format!("two windows are called `{}`", window.name);
                let problem = Diagnostic::new(message, span.clone(), "the second");
                throttle.problem(problem.help("give each window a name of its own"));
            }
        }
        let calendar = Calendar { windows };
        check_openings(throttle, &calendar, &found);
        Some(calendar)
    })
}

fn window(section: &Section<'_>) -> Option<(Window, Range<usize>)> {
    let name = section.text("name");
    if name.as_ref().is_none_or(|name| name.text.trim().is_empty()) {
        let problem = Diagnostic::new("a window without a name", section.span(), "no `name`");
        section.problem(problem.help("add `name = \"business hours\"`: it is shown as the reason"));
    }
    let days = match section.has("days") {
        true => section.text_or_texts("days").map(|items| {
            let mut days = Vec::new();
            for item in items {
                match read_days(&item.text) {
                    Ok(found) => days.extend(found),
                    Err(label) => section.problem(unreadable("days", item.span, label, DAYS_HELP)),
                }
            }
            days
        }),
        false => Some(DAYS.map(|(_, day)| day).to_vec()),
    };
    let hours = match section.has("hours") {
        true => section.parsed("hours", HOURS_HELP, read_hours),
        false => Some((0, 1440)),
    };
    let zone = match section.has("timezone") {
        true => section.parsed("timezone", ZONE_HELP, read_zone),
        // Never the machine's: a bastion's zone is nobody's business hours.
        false => Some(TimeZone::UTC),
    };
    let budget: Option<Budget> = section.parsed("rate", BUDGET_HELP, str::parse);
    let is_pause = section.boolean("pause").unwrap_or(false);
    let workers = section.integer("workers", 1..=WORKERS_MAX).map(|n| n as u32);
    let chunk_time = section.parsed("chunk_time", DURATION_HELP, units::parse_chunk_time);
    let mut except = Vec::new();
    for item in section.text_or_texts("except").unwrap_or_default() {
        match read_dates(&item.text) {
            Ok(dates) => except.push(dates),
            Err(label) => section.problem(unreadable("except", item.span, label, EXCEPT_HELP)),
        }
    }
    let says_more = section.has("rate") || section.has("workers") || section.has("chunk_time");
    if is_pause && says_more {
        let problem =
            Diagnostic::new("a pause with limits", section.span(), "`pause = true` runs nothing");
        section.problem(
            problem.help("leave out either `pause` or `rate`, `workers` and `chunk_time`"),
        );
    }
    if !is_pause && !says_more {
        let problem =
            Diagnostic::new("a window that changes nothing", section.span(), "no limit, no pause");
        section.problem(problem.help("add `rate`, `workers`, `chunk_time` or `pause = true`"));
    }
    let (from, to) = hours?;
    let window = Window {
        name: name?.text.trim().to_owned(),
        days: days?,
        from,
        to,
        zone: zone?,
        budget: budget.unwrap_or_default(),
        is_pause,
        workers,
        chunk_time,
        except,
    };
    Some((window, section.span()))
}

fn unreadable(key: &str, span: Range<usize>, label: String, help: &str) -> Diagnostic {
    Diagnostic::new(format!("`{key}` cannot be read"), span, label).help(help)
}

/// `mon-fri`, `fri-mon`, `sat,sun`, `daily`.
fn read_days(text: &str) -> Result<Vec<Weekday>, String> {
    let text = text.trim().to_lowercase();
    if text == "daily" {
        return Ok(DAYS.map(|(_, day)| day).to_vec());
    }
    let day = |word: &str| {
        let word = word.trim();
        let found = DAYS
            .iter()
            .position(|(short, day)| word == *short || word == format!("{day:?}").to_lowercase());
        found.ok_or_else(|| format!("`{word}` is no day"))
    };
    let mut days = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (day(first)?, day(last)?);
                let span = (last + 7 - first) % 7;
                days.extend((0..=span).map(|i| DAYS[(first + i) % 7].1));
            }
            None => days.push(DAYS[day(part)?].1),
        }
    }
    Ok(days)
}

/// Minutes from midnight of both ends.
fn read_hours(text: &str) -> Result<(i64, i64), String> {
    let (from, to) = text.split_once('-').ok_or("there is no `-` between two times")?;
    let (from, to) = (read_minute(from)?, read_minute(to)?);
    match (from, to) {
        (1440, _) => Err("24:00 can only be an end".to_owned()),
        _ if from == to => {
            Err("it begins when it ends; for a whole day leave `hours` out".to_owned())
        }
        // An end at midnight is the end of the day it began on.
        (_, 0) => Ok((from, 1440)),
        _ => Ok((from, to)),
    }
}

fn read_minute(text: &str) -> Result<i64, String> {
    let text = text.trim();
    let fail = || format!("`{text}` is no time of day");
    let (hour, minute) = text.split_once(':').ok_or_else(fail)?;
    let number = |digits: &str| match digits.len() {
        1 | 2 if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<i64>().ok(),
        _ => None,
    };
    match (number(hour), number(minute).filter(|_| minute.len() == 2)) {
        (Some(hour), Some(minute)) if minute < 60 && hour * 60 + minute <= 1440 => {
            Ok(hour * 60 + minute)
        }
        _ => Err(fail()),
    }
}

fn read_zone(text: &str) -> Result<TimeZone, String> {
    TimeZone::get(text.trim()).map_err(|_| "no such time zone".to_owned())
}

fn read_dates(text: &str) -> Result<(Date, Date), String> {
    let date = |text: &str| {
        text.trim().parse::<Date>().map_err(|_| format!("`{}` is no day", text.trim()))
    };
    let (first, last) = match text.split_once("..") {
        Some((first, last)) => (date(first)?, date(last)?),
        None => (date(text)?, date(text)?),
    };
    match first <= last {
        true => Ok((first, last)),
        false => Err("it ends before it begins".to_owned()),
    }
}

/// A window that never holds, or windows in which nothing ever runs: somebody meant something else. Looked at minute by minute over a
/// week of winter and one of summer, without the excepted days.
fn check_openings(throttle: &Section<'_>, calendar: &Calendar, found: &[(Window, Range<usize>)]) {
    let mut plain = calendar.clone();
    plain.windows.iter_mut().for_each(|window| window.except.clear());
    let mut held = vec![false; plain.windows.len()];
    let mut runs = plain.windows.is_empty();
    for week in [1_767_571_200_i64, 1_783_296_000] {
        for minute in 0..7 * 1440 {
            let Ok(at) = Timestamp::from_second(week + minute * 60) else { continue };
            match plain.place_at(at) {
                Some(place) => {
                    held[place] = true;
                    runs |= !plain.windows[place].is_pause;
                }
                None => runs = true,
            }
        }
    }
    for (i, (window, span)) in found.iter().enumerate().filter(|(i, _)| !held[*i]) {
        let why = match window.days.is_empty() {
            true => "it has no day",
            false if i == 0 => "its hours do not exist",
            false => "an earlier window always holds first",
        };
        let message = format!("window `{}` never opens", window.name);
        throttle.problem(
            Diagnostic::new(message, span.clone(), why)
                .help("the first window that holds wins; put narrower ones first"),
        );
    }
    if !runs {
        let problem = Diagnostic::new(
            "nothing would ever run",
            throttle.span(),
            "every hour of the week is paused",
        );
        throttle.problem(problem.help("leave some hours without `pause = true`"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;

    fn read(text: &str) -> Result<Calendar, Vec<Diagnostic>> {
        document::read(text, |root| Some(calendar(root).unwrap_or_default()))
    }

    #[test]
    fn a_window_is_read() {
        let text = "[[throttle.window]]\nname = \"business hours\"\ndays = \"mon-fri\"\nhours = \"09:00-18:00\"\ntimezone = \"Europe/Berlin\"\n\
                    rate = \"2000 rows/s\"\nworkers = 1\nchunk_time = \"200ms\"\nexcept = [\"2026-12-24..2027-01-02\"]\n";
        let calendar = read(text).unwrap();
        let window = &calendar.windows[0];
        assert_eq!((window.from, window.to, window.days.len()), (540, 1080, 5));
        assert_eq!(window.budget, Budget::rows(2000.0));
        assert_eq!(window.except[0].1.to_string(), "2027-01-02");
        assert_eq!(
            read_days("fri-mon"),
            Ok(vec![Weekday::Friday, Weekday::Saturday, Weekday::Sunday, Weekday::Monday])
        );
        assert_eq!(read_days("Saturday, sun").unwrap().len(), 2);
        assert_eq!(read_hours("22:00-06:00"), Ok((1320, 360)));
        assert_eq!(read_hours("20:00-24:00"), read_hours("20:00-0:00"));
    }

    #[test]
    fn mistakes_are_told_at_their_place() {
        let head = "# windows\n[[throttle.window]]\nname = \"a\"\n";
        for (line, message, label) in [
            (
                "timezone = \"Mars/Olympus\"\nrate = \"1 rows/s\"",
                "`timezone` cannot be read",
                "no such time zone",
            ),
            (
                "hours = \"09:00-25:00\"\nrate = \"1 rows/s\"",
                "`hours` cannot be read",
                "`25:00` is no time of day",
            ),
            (
                "hours = \"24:00-06:00\"\nrate = \"1 rows/s\"",
                "`hours` cannot be read",
                "24:00 can only be an end",
            ),
            (
                "hours = \"09:00-09:00\"\nrate = \"1 rows/s\"",
                "`hours` cannot be read",
                "it begins when it ends; for a whole day leave `hours` out",
            ),
            ("days = \"mon-fry\"\nrate = \"1 rows/s\"", "`days` cannot be read", "`fry` is no day"),
            ("rate = \"-5 rows/s\"", "`rate` cannot be read", "a rate must be greater than zero"),
            (
                "rate = \"2000\"",
                "`rate` cannot be read",
                "a rate needs its unit, `rows/s` or `MB/s wal`",
            ),
            (
                "pause = true\nrate = \"1 rows/s\"",
                "a pause with limits",
                "`pause = true` runs nothing",
            ),
            ("hours = \"09:00-10:00\"", "a window that changes nothing", "no limit, no pause"),
            ("pause = true", "nothing would ever run", "every hour of the week is paused"),
            ("days = []\nrate = \"1 rows/s\"", "window `a` never opens", "it has no day"),
            (
                "except = [\"2027-01-02..2026-12-24\"]\nrate = \"1 rows/s\"",
                "`except` cannot be read",
                "it ends before it begins",
            ),
        ] {
            let problems = read(&format!("{head}{line}\n")).unwrap_err();
            assert_eq!(
                (problems[0].message.as_str(), problems[0].label.as_str()),
                (message, label),
                "{line}"
            );
            assert!(problems[0].span.start > 0, "{line}");
        }
        let twice = format!(
            "{head}hours = \"09:00-10:00\"\nrate = \"1 rows/s\"\n{head}rate = \"2 rows/s\"\n"
        );
        let problems = read(&twice).unwrap_err();
        assert_eq!(problems[0].message, "two windows are called `a`");
        let shadowed = "[[throttle.window]]\nname = \"a\"\nrate = \"1 rows/s\"\n[[throttle.window]]\nname = \"b\"\ndays = \"mon\"\nrate = \"2 rows/s\"\n";
        let problems = read(shadowed).unwrap_err();
        assert_eq!(
            (problems[0].message.as_str(), problems[0].label.as_str()),
            ("window `b` never opens", "an earlier window always holds first")
        );
    }
}
