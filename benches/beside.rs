//! What an application feels: the latency of pgbench at a fixed rate, alone, beside a run at full speed with health signals on and off,
//! beside a gentle run, and beside the one big UPDATE of the same table.
//!
//! `cargo bench --bench beside [-- --rows N --repeat R --pg MAJOR]`. pgbench's own transaction at 100 a second from four clients, on a table of
//! so many accounts. Only transactions that began while the work was going on count; alone it is ten seconds. They follow one
//! another within a repeat, on fresh copies of the table.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Bench, option, show};

const SPEC: &str = "table = \"pgbench_accounts\"\n[[rule]]\nfill = { note = \"'seen ' || aid\" }\n";
const GENTLE: &str = "[limits]\nworkers = 1\nchunk_time = \"20ms\"\ndurability = \"group\"\n";
const OFF: &str = "[health]\nenabled = false\n";
const BIG: &str = "update pgbench_accounts set note = 'seen ' || aid where note is null";

/// What goes on beside pgbench.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Beside {
    Nothing,
    SignalsOn,
    SignalsOff,
    Gently,
    BigUpdate,
}

const ALL: [(Beside, &str); 5] = [
    (Beside::Nothing, "alone"),
    (Beside::SignalsOn, "beside a run, signals on"),
    (Beside::SignalsOff, "beside a run, signals off"),
    (Beside::Gently, "beside one worker, chunks of 20 ms, group"),
    (Beside::BigUpdate, "beside the one big UPDATE"),
];

fn main() {
    let Some(pgbench) = pgbench() else {
        println!("pgbench is not installed");
        return;
    };
    let major = option("--pg", 0);
    let bench = Bench::new((major > 0).then_some(major as u32), &["autovacuum=on"]);
    let scale = (bench.rows / 100_000).max(1);
    run(&bench, &pgbench, &["-i", "-q", "-s", &scale.to_string()]).wait().expect("pgbench -i");
    bench.sql("alter table pgbench_accounts add column note text; create table base as table pgbench_accounts");
    bench.spec("on", SPEC);
    bench.spec("gentle", &format!("{SPEC}{GENTLE}"));
    bench.spec("off", &format!("{SPEC}{OFF}"));
    let mut figures: Vec<[Vec<f64>; 5]> = vec![Default::default(); ALL.len()];
    for repeat in 0..bench.repeat {
        for turn in 0..ALL.len() {
            let at = (turn + repeat) % ALL.len();
            let (latencies, seconds) = measure(&bench, &pgbench, ALL[at].0);
            let settled = percentile(&latencies[latencies.len() / 2..], 0.99);
            let [median, p99, longest] = [0.5, 0.99, 1.0].map(|part| percentile(&latencies, part));
            let found = [median, p99, settled, longest, seconds];
            for (figure, value) in figures[at].iter_mut().zip(found) {
                figure.push(value);
            }
        }
    }
    let (alone, settled_alone) = (figures[0][1].clone(), figures[0][2].clone());
    for (i, (_, name)) in ALL.iter().enumerate() {
        println!("\n{name}");
        show("median latency", "ms", &figures[i][0]);
        show("p99 latency", "ms", &figures[i][1]);
        show("p99 latency, second half", "ms", &figures[i][2]);
        show("longest", "ms", &figures[i][3]);
        let ratios =
            |of: &[f64], to: &[f64]| of.iter().zip(to).map(|(a, b)| a / b).collect::<Vec<_>>();
        show("p99, times that of pgbench alone", "", &ratios(&figures[i][1], &alone));
        show("second half, likewise", "", &ratios(&figures[i][2], &settled_alone));
        show("the work took", "s", &figures[i][4]);
    }
}

fn percentile(latencies: &[f64], part: f64) -> f64 {
    let mut sorted = latencies.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

fn pgbench() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let mut found: Vec<PathBuf> =
        versions.map(|v| v.path().join("bin/pgbench")).filter(|path| path.is_file()).collect();
    found.sort();
    found.pop()
}

fn run(bench: &Bench, pgbench: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(pgbench);
    command
        .arg("-h")
        .arg(bench.server.socket_dir())
        .args(["-U", "postgres"])
        .args(arguments)
        .arg("postgres");
    command.current_dir(&bench.project).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("start pgbench")
}

/// Milliseconds of each transaction, in their order, that began while the work went on, and how long that was.
fn measure(bench: &Bench, pgbench: &Path, beside: Beside) -> (Vec<f64>, f64) {
    bench.sql("truncate pgbench_accounts, pgbench_history; insert into pgbench_accounts table base; drop schema if exists backfill cascade");
    bench.sql("vacuum (analyze) pgbench_accounts");
    bench.sql("checkpoint");
    for old in logs(&bench.project) {
        let _ = std::fs::remove_file(old);
    }
    let mut load = run(bench, pgbench, &["-n", "-c", "4", "-R", "100", "-T", "600", "-l"]);
    // Past its start.
    std::thread::sleep(Duration::from_secs(3));
    let began = now();
    match beside {
        Beside::Nothing => std::thread::sleep(Duration::from_secs(10)),
        Beside::BigUpdate => bench.sql(BIG),
        Beside::SignalsOn => drop(bench.finish(bench.start(&["run", "on", "--json"]))),
        Beside::Gently => drop(bench.finish(bench.start(&["run", "gentle", "--json"]))),
        Beside::SignalsOff => drop(bench.finish(bench.start(&["run", "off", "--json"]))),
    }
    let ended = now();
    std::thread::sleep(Duration::from_secs(2));
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(load.id() as i32),
        nix::sys::signal::Signal::SIGINT,
    );
    let _ = load.wait();
    let mut latencies = Vec::new();
    for log in logs(&bench.project) {
        for line in std::fs::read_to_string(log).unwrap_or_default().lines() {
            latencies.extend(latency(line).filter(|(at, _)| began <= *at && *at <= ended));
        }
    }
    latencies.sort_by(|a, b| a.0.total_cmp(&b.0));
    let latencies: Vec<f64> = latencies.into_iter().map(|(_, ms)| ms).collect();
    assert!(
        latencies.len() > 100,
        "{} transactions are too few; give it more rows",
        latencies.len()
    );
    (latencies, ended - began)
}

/// When a transaction began and how long it took in milliseconds: a line is client, number, microseconds, script, seconds and
/// microseconds of its end, and the microseconds by which it began late.
fn latency(line: &str) -> Option<(f64, f64)> {
    let fields: Vec<f64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
    let (took, ended) = (fields.get(2)? / 1e6, fields.get(4)? + fields.get(5)? / 1e6);
    Some((ended - took, took * 1000.0))
}

fn logs(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let is_log = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pgbench_log"))
    };
    entries.map(|entry| entry.path()).filter(is_log).collect()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
