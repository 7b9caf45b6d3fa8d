//! What a run makes of what its signals say, second by second.

use super::*;

fn lag(megabytes: f64) -> Sample {
    let words = format!("replica `r1` {megabytes} MB behind");
    Sample { measures: vec![(Kind::ReplicaLag, Measure::value(megabytes * 1e6, words))] }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn the_reason_names_the_value_and_its_threshold() {
    let mut health = Health::new(Settings::default());
    for second in 0..30 {
        health.tick(seconds(second), Some(&lag(10.0)), 5_000.0, f64::INFINITY);
        assert_eq!(health.verdict(), Verdict::Proceed);
    }
    health.tick(seconds(31), Some(&lag(81.0)), 5_000.0, f64::INFINITY);
    let Verdict::Slow(budget, cause) = health.verdict() else { panic!("{:?}", health.verdict()) };
    assert_eq!(budget.rows_per_s.unwrap().round(), 3_500.0);
    assert_eq!(cause, Cause::new("replica_lag", "replica `r1` 81 MB behind (hot at 64.0 MB)"));
    health.tick(seconds(32), Some(&lag(300.0)), 3_500.0, f64::INFINITY);
    assert!(matches!(health.verdict(), Verdict::Hold(_)));
    assert_eq!(health.verdict().reason(), "replica `r1` 300 MB behind (holds at 256.0 MB)");
    // It opens again after ten quiet seconds, at half the last good speed.
    for second in 33..44 {
        health.tick(seconds(second), Some(&lag(1.0)), 0.0, f64::INFINITY);
    }
    let Verdict::Slow(budget, cause) = health.verdict() else { panic!("{:?}", health.verdict()) };
    assert!(budget.rows_per_s.unwrap() < 3_500.0, "{budget}");
    assert_eq!(cause.by, "recovery");
}

#[test]
fn what_cannot_be_read_holds_after_a_while_unless_told_otherwise() {
    let unknown = Sample {
        measures: vec![(Kind::ReplicaLag, Measure::Unknown("replica `r1` is gone".into()))],
    };
    let mut health = Health::new(Settings::default());
    for second in 0..10 {
        health.tick(seconds(second), Some(&unknown), 5_000.0, f64::INFINITY);
        assert_eq!(health.verdict(), Verdict::Proceed, "{second}");
    }
    health.tick(seconds(10), Some(&unknown), 5_000.0, f64::INFINITY);
    assert_eq!(health.verdict().reason(), "unknown for 10 s: replica `r1` is gone");
    let mut health = Health::new(Settings { ignores_unknown: true, ..Settings::default() });
    for second in 0..60 {
        health.tick(seconds(second), Some(&unknown), 5_000.0, f64::INFINITY);
    }
    assert_eq!(health.verdict(), Verdict::Proceed);
}

#[test]
fn what_held_holds_on_when_it_cannot_be_read() {
    let unknown =
        Sample { measures: vec![(Kind::ReplicaLag, Measure::Unknown("no answer".into()))] };
    let mut health = Health::new(Settings::default());
    health.tick(seconds(0), Some(&lag(300.0)), 5_000.0, f64::INFINITY);
    health.tick(seconds(1), Some(&unknown), 0.0, f64::INFINITY);
    let verdict = health.verdict();
    assert!(matches!(verdict, Verdict::Hold(_)), "{verdict:?}");
    assert_eq!(verdict.reason(), "unknown for 0 s: no answer");
}

#[test]
fn no_sample_at_all_is_unknown_too() {
    let mut health = Health::new(Settings::default());
    for second in 0..30 {
        health.tick(seconds(second), None, 5_000.0, f64::INFINITY);
    }
    assert!(matches!(health.verdict(), Verdict::Hold(_)), "{:?}", health.verdict());
}

#[test]
fn an_exempted_signal_is_passed_over() {
    let mut health = Health::new(Settings::default());
    health.exempt(vec![Kind::ReplicaLag]);
    health.tick(seconds(0), Some(&lag(300.0)), 5_000.0, f64::INFINITY);
    assert_eq!(health.verdict(), Verdict::Proceed);
    health.exempt(Vec::new());
    health.tick(seconds(1), Some(&lag(300.0)), 5_000.0, f64::INFINITY);
    assert!(matches!(health.verdict(), Verdict::Hold(_)));
}

#[test]
fn an_exemption_gives_back_what_the_signal_took() {
    let mut health = Health::new(Settings::default());
    for second in 0..60 {
        health.tick(seconds(second), Some(&lag(100.0 + second as f64)), 5_000.0, f64::INFINITY);
    }
    let Verdict::Slow(budget, _) = health.verdict() else { panic!("{:?}", health.verdict()) };
    assert!(budget.rows_per_s.unwrap() < 1_000.0, "{budget}");
    health.exempt(vec![Kind::Sessions]);
    health.tick(seconds(60), Some(&lag(170.0)), 100.0, f64::INFINITY);
    assert_eq!(health.verdict().cause().unwrap().by, "replica_lag");
    health.exempt(vec![Kind::ReplicaLag]);
    health.tick(seconds(61), Some(&lag(170.0)), 100.0, f64::INFINITY);
    assert_eq!(health.verdict(), Verdict::Proceed);
}

#[test]
fn an_exemption_lets_a_held_run_go() {
    let mut health = Health::new(Settings::default());
    for second in 0..30 {
        health.tick(seconds(second), Some(&lag(1.0)), 5_000.0, f64::INFINITY);
    }
    health.tick(seconds(30), Some(&lag(300.0)), 5_000.0, f64::INFINITY);
    assert!(matches!(health.verdict(), Verdict::Hold(_)));
    health.exempt(vec![Kind::ReplicaLag]);
    health.tick(seconds(31), Some(&lag(300.0)), 0.0, f64::INFINITY);
    assert_eq!(health.verdict(), Verdict::Proceed);
}

#[test]
fn what_another_signal_took_is_not_hurried_by_a_rest() {
    let mut settings = Settings::default();
    settings.signals.push((Kind::Latency, Kind::Latency.defaults()));
    let mut health = Health::new(settings);
    let mut rate = |second: u64, megabytes: f64| {
        health.tick(seconds(second), Some(&lag(megabytes)), 2_000.0, f64::INFINITY);
        match health.verdict() {
            Verdict::Slow(budget, _) => budget.rows_per_s.unwrap(),
            _ => 0.0,
        }
    };
    assert_eq!(rate(1_790, 100.0), 1_400.0);
    let cool: Vec<f64> = (1_795..1_840).map(|second| rate(second, 1.0)).collect();
    assert!(cool.contains(&0.0), "it does not rest: {cool:?}");
    assert!(cool[44] < 2_000.0, "{cool:?}");
}

#[test]
fn without_the_signal_that_it_feels_its_way_by_a_run_goes_at_full_speed() {
    let signals = vec![(Kind::Latency, Kind::Latency.defaults())];
    let mut health = Health::new(Settings { signals, ..Settings::default() });
    let felt = Measure::value(50.0, "a small transaction takes 3.0 ms, usually 2.0 ms");
    let felt = Sample { measures: vec![(Kind::Latency, felt)] };
    health.tick(seconds(0), Some(&felt), 2_000.0, f64::INFINITY);
    assert_eq!(health.verdict().cause().unwrap().by, "latency");
    health.exempt(vec![Kind::Latency]);
    health.tick(seconds(1), Some(&felt), 2_000.0, f64::INFINITY);
    assert_eq!(health.verdict(), Verdict::Proceed);
    // When the exemption ends it feels its way again.
    health.exempt(Vec::new());
    health.tick(seconds(2), Some(&Sample::default()), 50_000.0, f64::INFINITY);
    let Verdict::Slow(budget, cause) = health.verdict() else { panic!("{:?}", health.verdict()) };
    assert_eq!((budget.rows_per_s, cause.by.as_str()), (Some(2_000.0), "latency"));
}

#[test]
fn a_signal_that_slowing_does_not_mend_halves_once() {
    let sample =
        Sample { measures: vec![(Kind::Horizon, Measure::value(400.0, "backend 7 is old"))] };
    let mut health = Health::new(Settings::default());
    for second in 0..60 {
        health.tick(seconds(second), Some(&sample), 5_000.0, f64::INFINITY);
    }
    let Verdict::Slow(budget, _) = health.verdict() else { panic!("{:?}", health.verdict()) };
    assert_eq!(budget, Budget::rows(2_500.0));
}

#[test]
fn slow_commits_are_seen_against_the_usual_ones() {
    let mut health = Health::new(Settings::default());
    (0..20).for_each(|_| health.committed(seconds(0), Duration::from_millis(12)));
    health.tick(seconds(0), Some(&Sample::default()), 5_000.0, f64::INFINITY);
    assert_eq!(health.verdict(), Verdict::Proceed);
    (0..20).for_each(|_| health.committed(seconds(1), Duration::from_millis(60)));
    health.tick(seconds(1), Some(&Sample::default()), 5_000.0, f64::INFINITY);
    assert_eq!(
        health.verdict().reason(),
        "COMMIT takes 60 ms, 5.0 times the usual (hot at 3.0 times)"
    );
    // A hold ends by itself, because nothing commits meanwhile.
    (0..20).for_each(|_| health.committed(seconds(2), Duration::from_millis(600)));
    health.tick(seconds(2), Some(&Sample::default()), 5_000.0, f64::INFINITY);
    assert!(matches!(health.verdict(), Verdict::Hold(_)));
    health.tick(seconds(12), Some(&Sample::default()), 0.0, f64::INFINITY);
    assert!(matches!(health.verdict(), Verdict::Slow(..)), "{:?}", health.verdict());
}

#[test]
fn half_the_speed_is_left_beside_a_vacuum_once_it_is_known() {
    let vacuum = Measure::value(1.0, "backend 7 vacuums the table".to_owned());
    let vacuum = Sample { measures: vec![(Kind::Autovacuum, vacuum)] };
    let mut health = Health::new(Settings::default());
    for second in 0..10 {
        assert_eq!(health.verdict(), Verdict::Proceed, "{second}: nothing is known to be halved");
        health.tick(seconds(second), Some(&vacuum), 5_000.0, f64::INFINITY);
    }
    let Verdict::Slow(budget, cause) = health.verdict() else { panic!("{:?}", health.verdict()) };
    assert_eq!((budget.rows_per_s, cause.by.as_str()), (Some(2_500.0), "autovacuum"));
}
