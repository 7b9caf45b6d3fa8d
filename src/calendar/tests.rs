//! Windows over the years, in zones whose clocks jump.

use super::*;
use crate::calendar::read;
use crate::document;

/// A window from a few words.
fn window(name: &str, days: &str, hours: &str, zone: &str, rest: &str) -> String {
    format!(
        "[[throttle.window]]\nname = \"{name}\"\ndays = \"{days}\"\nhours = \"{hours}\"\ntimezone = \"{zone}\"\n{rest}\n"
    )
}

fn calendar(text: &str) -> Calendar {
    document::read(text, |root| Some(read::calendar(root).unwrap_or_default())).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn name<'c>(calendar: &'c Calendar, text: &str) -> &'c str {
    calendar.window_at(at(text)).map_or("", |window| &window.name)
}

#[test]
fn windows_are_half_open_and_the_first_that_holds_wins() {
    let text = window("lunch", "mon-fri", "12:00-13:00", "Europe/Berlin", "pause = true")
        + &window("business", "mon-fri", "09:00-18:00", "Europe/Berlin", "rate = \"2000 rows/s\"")
        + &window("night", "daily", "22:00-06:00", "Europe/Berlin", "workers = 8");
    let calendar = calendar(&text);
    // Berlin is an hour ahead of UTC in November; the 25th is a Wednesday.
    for (instant, expected) in [
        ("2026-11-25T07:59:59Z", ""),
        ("2026-11-25T08:00:00Z", "business"),
        ("2026-11-25T11:00:00Z", "lunch"),
        ("2026-11-25T12:00:00Z", "business"),
        ("2026-11-25T17:00:00Z", ""),
        ("2026-11-25T21:00:00Z", "night"),
        ("2026-11-26T04:59:59Z", "night"),
        ("2026-11-26T05:00:00Z", ""),
        ("2026-11-28T11:00:00Z", ""),
    ] {
        assert_eq!(name(&calendar, instant), expected, "{instant}");
    }
    assert_eq!(calendar.next_change(at("2026-11-25T08:30:00Z")), Some(at("2026-11-25T11:00:00Z")));
    assert_eq!(
        calendar.windows[0].on_its_clock(at("2026-11-25T11:00:00Z")),
        "Wed 2026-11-25 12:00 Europe/Berlin (11:00 UTC)"
    );
}

#[test]
fn the_skipped_hour_does_not_happen_and_the_doubled_one_holds_twice() {
    // New York: on 2026-03-08 the clock goes from 02:00 to 03:00, on 2026-11-01 from 02:00 back to 01:00.
    let zone = "America/New_York";
    let skipped = calendar(&window("gap", "sun", "02:15-02:45", zone, "workers = 1"));
    let day = at("2026-03-08T05:00:00Z");
    for minute in 0..24 * 60 {
        let then = day + SignedDuration::from_mins(minute);
        assert!(!skipped.windows[0].holds(then), "{then}");
    }
    // One that spans the gap is an hour shorter.
    let spans = calendar(&window("spans", "sun", "01:30-03:30", zone, "workers = 1"));
    assert_eq!(spans.next_change(day), Some(at("2026-03-08T06:30:00Z")));
    assert_eq!(spans.next_change(at("2026-03-08T06:30:00Z")), Some(at("2026-03-08T07:30:00Z")));
    // 01:15 to 01:45 comes twice, and holds both times.
    let doubled = calendar(&window("fold", "sun", "01:15-01:45", zone, "workers = 1"));
    let mut held = Vec::new();
    let mut then = at("2026-11-01T04:00:00Z");
    while let Some(change) = doubled.next_change(then).filter(|c| *c < at("2026-11-02T00:00:00Z")) {
        held.push(change.to_string());
        then = change;
    }
    assert_eq!(
        held,
        [
            "2026-11-01T05:15:00Z",
            "2026-11-01T05:45:00Z",
            "2026-11-01T06:15:00Z",
            "2026-11-01T06:45:00Z"
        ]
    );
}

#[test]
fn excepted_days_are_those_it_would_start_on() {
    let text = window(
        "night",
        "daily",
        "22:00-06:00",
        "UTC",
        "workers = 8\nexcept = \"2026-12-24..2026-12-25\"",
    );
    let calendar = calendar(&text);
    for (instant, expected) in [
        ("2026-12-23T23:00:00Z", "night"),
        ("2026-12-24T05:00:00Z", "night"),
        ("2026-12-24T23:00:00Z", ""),
        ("2026-12-26T05:00:00Z", ""),
        ("2026-12-26T22:00:00Z", "night"),
    ] {
        assert_eq!(name(&calendar, instant), expected, "{instant}");
    }
    assert_eq!(calendar.next_change(at("2026-12-24T06:00:00Z")), Some(at("2026-12-26T22:00:00Z")));
}

#[test]
fn a_change_is_a_ramp_that_never_exceeds_the_window() {
    let text = window("business", "daily", "09:00-18:00", "UTC", "rate = \"1000 rows/s\"");
    let calendar = calendar(&text);
    let outside = Budget::rows(64_000.0);
    let rate = |text: &str| calendar.allowed(at(text), outside).budget.rows_per_s.unwrap().round();
    assert_eq!(rate("2026-11-25T08:58:59Z"), 64_000.0);
    // Half-way, in factors: 8,000 is eight times 1,000 and an eighth of 64,000.
    assert!(
        (7_000.0..9_200.0).contains(&rate("2026-11-25T08:59:30Z")),
        "{}",
        rate("2026-11-25T08:59:30Z")
    );
    assert!(rate("2026-11-25T08:59:59Z") < 1_200.0);
    assert_eq!(rate("2026-11-25T09:00:00Z"), 1_000.0);
    assert_eq!(rate("2026-11-25T17:59:59Z"), 1_000.0);
    assert!(rate("2026-11-25T18:00:01Z") < 1_200.0);
    assert_eq!(rate("2026-11-25T18:01:01Z"), 64_000.0);
    // Without a limit outside, the ramp ends without one.
    assert!(calendar.allowed(at("2026-11-25T18:01:01Z"), Budget::UNLIMITED).budget.is_unlimited());
    assert!(calendar.allowed(at("2026-11-25T18:00:30Z"), Budget::UNLIMITED).is_ramp);
    // Out of a pause it begins small.
    let paused = self::calendar(&window("closed", "daily", "09:00-18:00", "UTC", "pause = true"));
    assert!(paused.allowed(at("2026-11-25T12:00:00Z"), outside).window.unwrap().is_pause);
    let first = paused.allowed(at("2026-11-25T18:00:00Z"), outside).budget.rows_per_s.unwrap();
    assert!(first < 1_000.0, "{first}");
}

const ZONES: [&str; 12] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Casablanca",
    "America/St_Johns",
    "Antarctica/Troll",
    "Pacific/Chatham",
];

#[test]
fn the_next_change_is_the_first_one_in_every_zone_for_years() {
    // Deterministic: the same instants each time.
    let mut random = fastrand::Rng::with_seed(4);
    for zone in ZONES {
        let text = window("odd", "tue,sat-sun", "23:40-02:20", zone, "workers = 3")
            + &window("business", "mon-fri", "09:00-18:00", zone, "rate = \"5 rows/s\"")
            + &window("fold", "daily", "01:10-02:50", zone, "pause = true");
        let calendar = calendar(&text);
        for _ in 0..150 {
            // 2010 to 2040, to the minute: no zone's rule has a finer grain since 1972.
            let start =
                Timestamp::from_second(1_262_304_000 + random.i64(0..15_778_800) * 60).unwrap();
            let expected = calendar.next_change(start).unwrap();
            let here = calendar.window_at(start);
            let mut then = start;
            while calendar.window_at(then) == here {
                then += SignedDuration::from_mins(1);
            }
            assert_eq!(then, expected, "{zone}, from {start}");
        }
    }
}

#[test]
fn at_every_instant_the_clock_of_the_zone_decides() {
    let mut random = fastrand::Rng::with_seed(5);
    for zone in ZONES {
        let calendar =
            calendar(&window("business", "mon-fri", "09:00-18:00", zone, "rate = \"5 rows/s\""));
        for _ in 0..3_000 {
            let then = Timestamp::from_second(random.i64(1_262_304_000..2_208_988_800)).unwrap();
            let local = then.to_zoned(TimeZone::get(zone).unwrap());
            let is_workday = local.weekday().to_monday_one_offset() <= 5;
            let expected = is_workday && (9..18).contains(&local.hour());
            assert_eq!(calendar.window_at(then).is_some(), expected, "{local}");
        }
    }
}

#[test]
fn the_week_is_a_chart() {
    let text = window(
        "business",
        "mon-fri",
        "09:00-18:00",
        "Europe/Berlin",
        "rate = \"2000 rows/s\"\nworkers = 1",
    ) + &window("backup", "sun", "02:00-04:00", "Europe/Berlin", "pause = true");
    let chart = week::chart(&calendar(&text), at("2026-11-25T12:00:00Z"), Budget::UNLIMITED);
    assert_eq!(
        chart,
        [
            "         00    04    08    12    16    20",
            "Wed 25   ----  ----  -aaa  aaaa  aa--  ----",
            "Thu 26   ----  ----  -aaa  aaaa  aa--  ----",
            "Fri 27   ----  ----  -aaa  aaaa  aa--  ----",
            "Sat 28   ----  ----  ----  ----  ----  ----",
            "Sun 29   --..  ----  ----  ----  ----  ----",
            "Mon 30   ----  ----  -aaa  aaaa  aa--  ----",
            "Tue 01   ----  ----  -aaa  aaaa  aa--  ----",
            "a business: 2,000 rows/s, 1 worker",
            ". backup: paused",
            "- otherwise: no rate limit",
            "on the clock of Europe/Berlin",
        ]
    );
}
