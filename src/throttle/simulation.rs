//! A replica that lags, in virtual time: where the rate settles.

use std::collections::VecDeque;
use std::time::Duration;

use super::health::{Health, Measure, Sample};
use super::times::{AtWork, Times};
use super::{Throttle, Verdict};
use crate::signal::{Kind, Settings};

/// A replica that applies so many rows a second, each of 500 bytes, and is seen two seconds late.
struct Replica {
    applies: f64,
    behind: f64,
    seen: VecDeque<f64>,
}

impl Replica {
    fn new(applies: f64) -> Replica {
        Replica { applies, behind: 0.0, seen: [0.0, 0.0].into() }
    }

    /// Bytes behind, as they were two seconds ago.
    fn second(&mut self, rows: f64) -> f64 {
        self.behind = (self.behind + (rows - self.applies) * 500.0).max(0.0);
        self.seen.push_back(self.behind);
        self.seen.pop_front().unwrap()
    }
}

/// The rate in each of these seconds, the server being able to do `able` rows a second.
fn simulate(
    health: &mut Health,
    replica: &mut Replica,
    able: f64,
    seconds: std::ops::Range<u64>,
) -> Vec<f64> {
    let mut rates = Vec::new();
    let (mut lag, mut used) = (0.0, 0.0);
    for second in seconds {
        let sample = Sample { measures: vec![(Kind::ReplicaLag, Measure::value(lag, "replica"))] };
        health.tick(Duration::from_secs(second), Some(&sample), used, f64::INFINITY);
        used = match health.verdict() {
            Verdict::Proceed => able,
            Verdict::Slow(budget, _) => budget.as_rows(500.0).min(able),
            Verdict::Hold(_) => 0.0,
        };
        lag = replica.second(used);
        rates.push(used);
    }
    rates
}

#[track_caller]
fn settles(rates: &[f64], sustainable: f64) {
    let tail = &rates[1_200..];
    let within = tail.iter().filter(|rate| (**rate / sustainable - 1.0).abs() <= 0.2).count();
    let share = within as f64 / tail.len() as f64;
    let mean = tail.iter().sum::<f64>() / tail.len() as f64;
    assert!(share >= 0.9, "within 20 % for {:.0} % of the time", share * 100.0);
    assert!((mean / sustainable - 1.0).abs() < 0.1, "mean {mean} of {sustainable}");
    let deviation = tail.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / tail.len() as f64;
    assert!(deviation.sqrt() / mean < 0.15, "it oscillates: {}", deviation.sqrt() / mean);
}

#[test]
fn the_rate_settles_near_what_a_replica_can_apply_from_above() {
    for times in [1.05, 1.3, 2.0, 5.0, 20.0] {
        let mut health = Health::new(Settings::default());
        let rates = simulate(&mut health, &mut Replica::new(20_000.0), 20_000.0 * times, 0..3_600);
        settles(&rates, 20_000.0);
    }
}

#[test]
fn and_from_below() {
    // Slowed down to a tenth by a replica that could apply little; then it can apply more.
    let mut health = Health::new(Settings::default());
    let mut replica = Replica::new(2_000.0);
    simulate(&mut health, &mut replica, 100_000.0, 0..1_800);
    replica.applies = 20_000.0;
    let rates = simulate(&mut health, &mut replica, 100_000.0, 1_800..5_400);
    settles(&rates, 20_000.0);
}

#[test]
fn a_replica_that_recovers_gives_the_speed_back() {
    let mut health = Health::new(Settings::default());
    let mut replica = Replica::new(20_000.0);
    simulate(&mut health, &mut replica, 50_000.0, 0..600);
    replica.applies = 200_000.0;
    let rates = simulate(&mut health, &mut replica, 50_000.0, 600..2_400);
    assert_eq!(*rates.last().unwrap(), 50_000.0);
    assert_eq!(health.verdict(), Verdict::Proceed);
}

/// A small transaction takes three tenths longer at 20,000 rows a second; the slowest of the last ten seconds is what is told.
#[test]
fn a_run_that_feels_its_way_stays_below_what_is_felt() {
    let signals = vec![(Kind::Latency, Kind::Latency.defaults())];
    let mut health = Health::new(Settings { signals, ..Settings::default() });
    let mut lately: VecDeque<f64> = VecDeque::new();
    let (mut used, mut rates) = (0.0, Vec::new());
    for second in 0..1_700 {
        lately.push_back(30.0 * used / 20_000.0);
        if lately.len() > 10 {
            lately.pop_front();
        }
        let percent = lately.iter().copied().fold(0.0, f64::max);
        let measure = Measure::value(percent, "a small transaction");
        let sample = Sample { measures: vec![(Kind::Latency, measure)] };
        health.tick(Duration::from_secs(second), Some(&sample), used, f64::INFINITY);
        used = match health.verdict() {
            Verdict::Slow(budget, _) => budget.as_rows(500.0),
            other => panic!("{other:?}"),
        };
        rates.push(used);
    }
    assert_eq!(rates[0], 2_000.0);
    // Between warm, at 10,000, and hot.
    assert!(rates[60..].iter().all(|rate| (10_000.0..=20_000.0).contains(rate)), "{rates:?}");
    // Ten times as slow from one moment to the next: it makes room within seconds, and comes back.
    let words = "a small transaction";
    let mut at = 1_700;
    let mut look = |health: &mut Health, percent: f64, seconds: u64| {
        for _ in 0..seconds {
            let sample = Sample { measures: vec![(Kind::Latency, Measure::value(percent, words))] };
            health.tick(Duration::from_secs(at), Some(&sample), used, f64::INFINITY);
            if let Verdict::Slow(budget, _) = health.verdict() {
                used = budget.as_rows(500.0);
            }
            at += 1;
        }
        used
    };
    let before = look(&mut health, 0.0, 1);
    assert!(look(&mut health, 900.0, 20) < before / 4.0);
    assert_eq!(health.verdict().cause().unwrap().by, "latency");
    assert!(look(&mut health, 0.0, 900) > before / 2.0);
}

/// A server whose small transactions take `alone` milliseconds, and three tenths longer beside 20,000 rows a second.
struct Server {
    times: Times,
    health: Health,
    now: Duration,
    used: f64,
}

impl Server {
    fn new() -> Server {
        let signals = vec![(Kind::Latency, Kind::Latency.defaults())];
        let health = Health::new(Settings { signals, ..Settings::default() });
        Server { times: Times::default(), health, now: Duration::ZERO, used: 0.0 }
    }

    /// The rate in each of these seconds, and what a transaction took.
    fn pass(&mut self, seconds: u64, alone: f64) -> Vec<f64> {
        let mut rates = Vec::new();
        for _ in 0..seconds {
            for _ in 0..25 {
                self.now += Duration::from_millis(40);
                let at_work = if self.used == 0.0 { AtWork::Nobody } else { AtWork::Us };
                let took = alone * (1.0 + 0.3 * self.used / 20_000.0) / 1_000.0;
                self.times.took(self.now, Duration::from_secs_f64(took), at_work);
            }
            let measure = self.times.measure(self.now);
            let sample = Sample { measures: vec![(Kind::Latency, measure)] };
            self.health.tick(self.now, Some(&sample), self.used, f64::INFINITY);
            self.used = match self.health.verdict() {
                Verdict::Proceed => panic!("it is not felt any more"),
                Verdict::Slow(budget, _) => budget.as_rows(500.0),
                Verdict::Hold(_) => 0.0,
            };
            rates.push(self.used);
        }
        rates
    }
}

/// What is worth to be told of so many.
fn ends(rates: &[f64]) -> Vec<f64> {
    rates.iter().copied().step_by(rates.len() / 20).collect()
}

fn part_within(rates: &[f64], from: f64, to: f64) -> f64 {
    let within = rates.iter().filter(|rate| (from..=to).contains(*rate)).count();
    within as f64 / rates.len() as f64
}

#[test]
fn a_run_that_feels_its_way_follows_the_days_load() {
    let mut server = Server::new();
    // Before the first chunk it is learnt what is usual.
    let quiet = server.pass(900, 4.0);
    assert_eq!(quiet[..5], [0.0; 5]);
    assert!(part_within(&quiet[100..], 9_000.0, 20_000.0) > 0.95, "{:?}", ends(&quiet));
    // It feels its way again from where it was slowed down to.
    let busier = server.pass(300, 4.0 * 1.3);
    assert!(busier.contains(&0.0) && busier[299] > 9_000.0, "{:?}", ends(&busier));
    for load in [1.8, 4.0, 1.0] {
        let rates = server.pass(3_600, 4.0 * load);
        let part = part_within(&rates[2_100..], 7_000.0, 20_000.0);
        assert!(part > 0.85, "at {load} times: {part} of {:?}", ends(&rates));
    }
    // Fifty times as long is no load: it stands still until that is over, and for a quarter of a minute more.
    let trouble = server.pass(3_600, 200.0);
    assert!(part_within(&trouble[60..], 0.0, 0.0) > 0.99, "{:?}", ends(&trouble));
    let rates = server.pass(600, 4.0);
    let part = part_within(&rates[300..], 7_000.0, 20_000.0);
    assert!(part > 0.85, "{part} of {:?}", ends(&rates));
}
