//! The coming week as a small chart: a row a day, a column an hour. Pure.

use jiff::civil::Time;
use jiff::{Timestamp, ToSpan};

use super::{Calendar, Window};
use crate::budget::Budget;
use crate::event::duration;

/// Letters of windows in the chart, in their order.
const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";

/// Lines that show what holds in each hour of the seven days from `now`, in the zone of the first window. An hour is shown by what holds in
/// its middle.
pub fn chart(calendar: &Calendar, now: Timestamp, outside: Budget) -> Vec<String> {
    let Some(first) = calendar.windows.first() else { return Vec::new() };
    let zone = first.zone.clone();
    let today = now.to_zoned(zone.clone()).date();
    let mut lines = vec![format!("{:>9}00    04    08    12    16    20", "")];
    for day in 0..7 {
        let Ok(date) = today.checked_add(day.days()) else { continue };
        let mut row = String::new();
        for hour in 0..24 {
            if hour > 0 && hour % 4 == 0 {
                row.push_str("  ");
            }
            let time = Time::constant(hour, 30, 0, 0);
            let at = zone.to_ambiguous_zoned(date.to_datetime(time)).compatible();
            let window = at.ok().and_then(|at| calendar.place_at(at.timestamp()));
            row.push(letter(calendar, window));
        }
        lines.push(format!("{} {}", date.strftime("%a %d"), format_args!("  {row}")));
    }
    for (i, window) in calendar.windows.iter().enumerate() {
        lines.push(format!("{} {}: {}", letter(calendar, Some(i)), window.name, allows(window)));
    }
    lines.push(format!("- otherwise: {outside}"));
    lines.push(format!("on the clock of {}", zone.iana_name().unwrap_or("UTC")));
    lines
}

fn letter(calendar: &Calendar, place: Option<usize>) -> char {
    match place {
        Some(place) if calendar.windows[place].is_pause => '.',
        Some(place) => LETTERS.chars().nth(place).unwrap_or('?'),
        None => '-',
    }
}

/// What a window allows, in words.
pub fn allows(window: &Window) -> String {
    if window.is_pause {
        return "paused".to_owned();
    }
    let rate = (!window.budget.is_unlimited()).then(|| window.budget.to_string());
    let workers = window.workers.map(|n| format!("{n} worker{}", if n == 1 { "" } else { "s" }));
    let chunks = window.chunk_time.map(|time| format!("chunks of {}", duration(time)));
    [rate, workers, chunks].into_iter().flatten().collect::<Vec<_>>().join(", ")
}
