//! A week on an accelerated clock: runs under windows, limits, signals and uneven keys, asked for their end at 10, 50 and 90 %.

use super::*;
use crate::calendar::read;
use crate::document;

const BUSINESS: &str = "[[throttle.window]]\nname = \"business\"\ndays = \"mon-fri\"\nhours = \"09:00-18:00\"\ntimezone = \"Europe/Berlin\"\nrate = \"2000 rows/s\"\nworkers = 1\n";
const NIGHTS: &str = "[[throttle.window]]\nname = \"day\"\nhours = \"06:00-22:00\"\ntimezone = \"America/New_York\"\npause = true\n";
const BACKUP: &str = "[[throttle.window]]\nname = \"backup\"\nhours = \"02:00-05:00\"\npause = true\n[[throttle.window]]\nname = \"weekend\"\ndays = \"sat-sun\"\nrate = \"20000 rows/s\"\n";

/// What a run meets.
struct Scenario {
    name: &'static str,
    windows: &'static str,
    outside: Budget,
    keys: f64,
    /// Keys a second of a worker at this share of the key space.
    speed: fn(f64) -> f64,
    /// Rows for a key there.
    rows_per_key: fn(f64) -> f64,
    /// The part of its speed that signals leave, in this hour of the run.
    health: fn(u64, &mut fastrand::Rng) -> f64,
}

const STEADY: Scenario = Scenario {
    name: "steady",
    windows: "",
    outside: Budget::UNLIMITED,
    keys: 6e9,
    speed: |_| 20_000.0,
    rows_per_key: |_| 1.0,
    health: |_, _| 1.0,
};

fn scenarios() -> Vec<Scenario> {
    let limit = Budget { rows_per_s: Some(5_000.0), wal_per_s: None };
    vec![
        STEADY,
        Scenario { name: "a limit", outside: limit, keys: 1e9, ..STEADY },
        Scenario { name: "business hours", windows: BUSINESS, keys: 5e9, ..STEADY },
        Scenario { name: "nights only", windows: NIGHTS, keys: 6e9, ..STEADY },
        Scenario { name: "backups and weekends", windows: BACKUP, keys: 6e9, ..STEADY },
        Scenario {
            name: "a replica that lags a third of the time",
            windows: BUSINESS,
            health: |_, random| if random.f64() < 0.33 { 0.4 } else { 1.0 },
            keys: 4e9,
            ..STEADY
        },
        Scenario {
            name: "keys that cost more and more",
            speed: |at| 26_000.0 - 8_000.0 * at,
            ..STEADY
        },
        Scenario {
            name: "keys that cost now this, now that",
            windows: NIGHTS,
            speed: |at| 20_000.0 * (1.0 + 0.3 * (at * 40.0).sin()),
            keys: 6e9,
            ..STEADY
        },
        Scenario {
            name: "rows only here and there",
            windows: BUSINESS,
            rows_per_key: |at| 0.3 + 0.15 * (at * 25.0).sin(),
            keys: 6e9,
            ..STEADY
        },
        Scenario {
            name: "noise in everything",
            windows: BACKUP,
            speed: |at| 18_000.0 * (1.0 + 0.2 * (at * 90.0).sin()),
            health: |_, random| 0.6 + 0.4 * random.f64(),
            keys: 4e9,
            ..STEADY
        },
    ]
}

/// When each percent was reached and what was said then, in steps of a minute.
fn live(scenario: &Scenario, seed: u64) -> (Vec<(f64, f64, Option<Range>)>, f64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let calendar =
        document::read(scenario.windows, |root| Some(read::calendar(root).unwrap_or_default()))
            .unwrap();
    let began: Timestamp = "2026-11-23T05:00:00Z".parse().unwrap();
    let outlook =
        Outlook { calendar: &calendar, outside: scenario.outside, workers: 2, wal_per_row: 500.0 };
    let (mut done, mut minute, mut health) = (0.0, 0_u64, 1.0);
    let mut stretches = vec![Stretch::default(); 200];
    let mut said = Vec::new();
    let mut asked = [0.1, 0.5, 0.9].into_iter().peekable();
    while done < scenario.keys {
        let now = began + SignedDuration::from_mins(minute as i64);
        let at = done / scenario.keys;
        if asked.next_if(|share| at >= *share).is_some() {
            // As the state tables give them: stretches of what is done.
            let seen = stretches.iter().filter(|s| s.keys > 0.0).copied().collect();
            let progress = Progress {
                keys_left: scenario.keys - done,
                stretches: seen,
                keys_here: done,
                began,
                now,
            };
            said.push((at, minute as f64 * 60.0, range(&progress, &outlook)));
        }
        if minute.is_multiple_of(60) {
            health = (scenario.health)(minute / 60, &mut random);
        }
        let speed = (scenario.speed)(at) * (0.9 + 0.2 * random.f64());
        let per_key = (scenario.rows_per_key)(at);
        // On its own account, not by the model that is to be judged.
        let window = calendar.window_at(now);
        let allowed = match window.map(|w| (w.is_pause, w.budget.rows_per_s, w.workers)) {
            Some((true, ..)) => 0.0,
            Some((_, Some(rate), workers)) => {
                (speed * f64::from(workers.unwrap_or(2))).min(rate / per_key)
            }
            _ => {
                let rate = scenario.outside.rows_per_s.unwrap_or(f64::INFINITY);
                (speed * 2.0).min(rate / per_key)
            }
        };
        let keys = allowed * health * 60.0;
        let stretch = &mut stretches[((at * 200.0) as usize).min(199)];
        stretch.keys += keys;
        stretch.rows += keys * per_key;
        stretch.seconds += keys / speed;
        done += keys;
        minute += 1;
    }
    (said, minute as f64 * 60.0)
}

#[test]
fn the_true_end_lies_in_the_range_and_the_range_is_of_use() {
    let mut missed = Vec::new();
    for (i, scenario) in scenarios().iter().enumerate() {
        let (said, end) = live(scenario, i as u64);
        assert_eq!(said.len(), 3, "{}", scenario.name);
        assert!(end > 86_400.0, "{} is over after {end} s", scenario.name);
        for (at, then, range) in said {
            let Some(range) = range else {
                missed.push(format!("{} at {:.0} %: nothing known", scenario.name, at * 100.0));
                continue;
            };
            let left = end - then;
            if !(range.low <= left && left <= range.high) {
                missed.push(format!(
                    "{} at {:.0} %: {left:.0} s left, said {:.0} to {:.0}",
                    scenario.name,
                    at * 100.0,
                    range.low,
                    range.high
                ));
            }
            if (0.4..0.6).contains(&at) {
                let width = range.high / range.low;
                assert!(width <= 2.0, "{}: a factor of {width:.2} at 50 %", scenario.name);
            }
        }
    }
    let scenarios_missed: std::collections::BTreeSet<&str> =
        missed.iter().map(|m| m.split(" at ").next().unwrap_or_default()).collect();
    assert!(scenarios_missed.len() <= 1, "{}", missed.join("\n"));
}

#[test]
fn a_run_of_which_little_is_known_is_not_judged() {
    let calendar = Calendar::default();
    let outlook =
        Outlook { calendar: &calendar, outside: Budget::UNLIMITED, workers: 2, wal_per_row: 500.0 };
    let now: Timestamp = "2026-11-23T05:00:00Z".parse().unwrap();
    let one = Stretch { keys: 100.0, rows: 100.0, seconds: 1.0 };
    let progress =
        Progress { keys_left: 1e6, stretches: vec![one; 2], keys_here: 200.0, began: now, now };
    assert_eq!(range(&progress, &outlook), None);
}

#[test]
fn what_held_a_run_back_is_expected_to_go_on() {
    let calendar = Calendar::default();
    let outlook =
        Outlook { calendar: &calendar, outside: Budget::UNLIMITED, workers: 2, wal_per_row: 500.0 };
    let began: Timestamp = "2026-11-23T05:00:00Z".parse().unwrap();
    let now = began + SignedDuration::from_secs(1_000);
    // A thousand keys a second of each worker: two million in these thousand seconds, had nothing held it.
    let stretches = vec![Stretch { keys: 1e5, rows: 1e5, seconds: 100.0 }; 10];
    let left = |keys_here: f64| {
        let stretches = stretches.clone();
        range(&Progress { keys_left: 2e6, stretches, keys_here, began, now }, &outlook).unwrap()
    };
    let (free, held) = (left(2e6), left(1e6));
    assert!(free.low < 1_000.0 && 1_000.0 < free.high, "{free:?}");
    assert!(held.low < 2_000.0 && 2_000.0 < held.high && held.low > 1_500.0, "{held:?}");
}
