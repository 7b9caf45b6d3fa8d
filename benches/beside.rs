//! What an application feels: the latency of pgbench at a fixed rate, alone, beside a run at full speed with health signals on and off,
//! beside a gentle run, beside runs with a rate, and beside the one big UPDATE of the same table.
//!
//! `cargo bench --bench beside [-- --rows N --repeat R --pg MAJOR --with WORDS]`, of which the last leaves out all that are not named so.
//! pgbench's own transaction at 100 a second from four clients, on a table of so many accounts. Only transactions that began while the work
//! was going on count; alone and with a rate it is fifteen seconds, and ninety where the run finds its rate. They follow one another within a
//! repeat, on fresh copies of the table.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod common;

use std::path::Path;
use std::time::Duration;

use common::load::{self, Load, interrupt, percentile};
use common::{Bench, option, show, word};

const SPEC: &str = "table = \"pgbench_accounts\"\n[[rule]]\nfill = { note = \"'seen ' || aid\" }\n";
const GENTLE: &str = "[limits]\nworkers = 1\nchunk_time = \"20ms\"\ndurability = \"group\"\n";
/// Small chunks, so that a COMMIT of the application that comes behind one waits for little.
const RATED: &str = "[limits]\nworkers = 1\nchunk_rows_max = 300\ndurability = \"group\"\n";
/// With a rate that follows what a small transaction takes, and the workers and chunks that come with it.
const FELT: &str = "[limits]\ndurability = \"group\"\n[health]\nlatency = \"on\"\n";
const OFF: &str = "[health]\nenabled = false\n";
const BIG: &str = "update pgbench_accounts set note = 'seen ' || aid where note is null";

/// What goes on beside pgbench.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Beside {
    Nothing,
    SignalsOn,
    SignalsOff,
    Gently,
    Rated(u32),
    Felt,
    BigUpdate,
}

const ALL: [(Beside, &str); 8] = [
    (Beside::Nothing, "alone"),
    (Beside::SignalsOn, "beside a run, signals on"),
    (Beside::SignalsOff, "beside a run, signals off"),
    (Beside::Gently, "beside one worker, chunks of 20 ms, group"),
    (Beside::Rated(20_000), "beside 20,000 rows/s, one worker, chunks of 300 rows, group"),
    (Beside::Rated(5_000), "beside 5,000 rows/s, likewise"),
    (Beside::Felt, "beside a run that follows the latency, group"),
    (Beside::BigUpdate, "beside the one big UPDATE"),
];

/// Where the work has no end of its own; and where the rate must be found first.
const FOR: Duration = Duration::from_secs(15);
const FELT_FOR: Duration = Duration::from_secs(90);

fn main() {
    let Some(pgbench) = load::pgbench() else {
        println!("pgbench is not installed");
        return;
    };
    let major = option("--pg", 0);
    let bench = Bench::new((major > 0).then_some(major as u32), &["autovacuum=on"]);
    let scale = (bench.rows / 100_000).max(1);
    load::fill(&bench, &pgbench, scale);
    bench.sql("alter table pgbench_accounts add column note text; create table base as table pgbench_accounts");
    bench.spec("on", SPEC);
    bench.spec("gentle", &format!("{SPEC}{GENTLE}"));
    bench.spec("rated", &format!("{SPEC}{RATED}"));
    bench.spec("felt", &format!("{SPEC}{FELT}"));
    bench.spec("off", &format!("{SPEC}{OFF}"));
    let with = word("--with").unwrap_or_default();
    let is_meant =
        |(beside, name): &&(Beside, &str)| *beside == Beside::Nothing || name.contains(&with);
    let all: Vec<&(Beside, &str)> = ALL.iter().filter(is_meant).collect();
    let mut figures: Vec<[Vec<f64>; 6]> = vec![Default::default(); all.len()];
    for repeat in 0..bench.repeat {
        for turn in 0..all.len() {
            let at = (turn + repeat) % all.len();
            let (latencies, seconds, speed) = measure(&bench, &pgbench, all[at].0);
            let settled = percentile(&latencies[latencies.len() / 2..], 0.99);
            let [median, p99, longest] = [0.5, 0.99, 1.0].map(|part| percentile(&latencies, part));
            let found = [median, p99, settled, longest, seconds, speed];
            for (figure, value) in figures[at].iter_mut().zip(found) {
                figure.push(value);
            }
        }
    }
    let (alone, settled_alone) = (figures[0][1].clone(), figures[0][2].clone());
    for (i, (_, name)) in all.iter().enumerate() {
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
        show("its speed", "rows/s", &figures[i][5]);
    }
}

/// Milliseconds of each transaction, in their order, that began while the work went on, how long that was, and rows a second of it.
fn measure(bench: &Bench, pgbench: &Path, beside: Beside) -> (Vec<f64>, f64, f64) {
    bench.sql("truncate pgbench_accounts, pgbench_history; insert into pgbench_accounts table base; drop schema if exists backfill cascade");
    bench.sql("vacuum (analyze) pgbench_accounts");
    bench.sql("checkpoint");
    let load = Load::start(bench, pgbench);
    match beside {
        Beside::Nothing => std::thread::sleep(FOR),
        Beside::BigUpdate => bench.sql(BIG),
        Beside::SignalsOn => drop(bench.finish(bench.start(&["run", "on", "--json"]))),
        Beside::Gently => drop(bench.finish(bench.start(&["run", "gentle", "--json"]))),
        Beside::Rated(rate) => {
            let rate = format!("{rate} rows/s");
            run_for(bench, FOR, &["run", "rated", "--json", "--rate", &rate]);
        }
        Beside::Felt => run_for(bench, FELT_FOR, &["run", "felt", "--json"]),
        Beside::SignalsOff => drop(bench.finish(bench.start(&["run", "off", "--json"]))),
    }
    let (latencies, seconds) = load.end();
    let rows = bench.number("select count(*)::float8 from pgbench_accounts where note is not null");
    assert!(
        latencies.len() > 100,
        "{} transactions are too few; give it more rows",
        latencies.len()
    );
    (latencies, seconds, rows / seconds)
}

/// A run that is interrupted after so long.
fn run_for(bench: &Bench, time: Duration, arguments: &[&str]) {
    let run = bench.start(arguments);
    let pid = run.id();
    std::thread::spawn(move || {
        std::thread::sleep(time);
        interrupt(pid);
    });
    bench.finish(run);
}
