//! A fault campaign: random backfills on random tables beside an application, under random faults, until the time is over.
//!
//! `cargo bench --bench torture --profile faults -- --minutes 60 --seed 1 [--pg MAJOR] [--only SEED]`; in the profile of other benchmarks
//! runners are not killed and stopped at steps that have names, for there the program knows none. Each history has a seed of its own, which the campaign
//! prints with what was found; `--only` runs that one again. What is decided follows from the seed; what meets what in time does not, so a
//! history may have to be run a few times. After each, every row is compared with what must have become of it, and the campaign stops at
//! the first broken promise with database and project left to look at.

#![allow(
    clippy::print_stdout,
    unreachable_pub,
    reason = "a campaign prints its counts, and its parts have one reader"
)]

mod application;
mod around;
mod campaign;
mod faults;
mod history;
mod link;
mod promises;

use std::time::{Duration, Instant};

use campaign::Campaign;
use fastrand::Rng;
use history::History;

fn option(name: &str) -> Option<u64> {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1)?.parse().ok()
}

fn main() -> std::process::ExitCode {
    let minutes = option("--minutes").unwrap_or(1);
    let seed = option("--seed").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut campaign = Campaign::new(option("--pg").map(|major| major as u32));
    println!("PostgreSQL {}, {minutes} minutes, seed {seed}", campaign.server.version());
    for (what, is_there) in campaign.tools.each() {
        if !is_there {
            println!("left out, because this machine has none: {what}");
        }
    }
    let until = Instant::now() + Duration::from_secs(minutes * 60);
    let mut seeds = Rng::with_seed(seed);
    let (mut histories, mut broken) = (0_u64, 0_u64);
    let only = option("--only");
    while Instant::now() < until || only.is_some() {
        let seed = only.unwrap_or_else(|| seeds.u64(..1_000_000_000));
        let history = History::new(&mut Rng::with_seed(seed), campaign.tools);
        let started = Instant::now();
        let verdict = campaign.run(seed, &history);
        histories += 1;
        let took = started.elapsed().as_secs_f64();
        match verdict {
            Ok(()) => println!("{seed:>10} {took:>6.1} s  kept   {}", history.show()),
            Err(what) => {
                println!("{seed:>10} {took:>6.1} s  BROKEN {}\n  {what}", history.show());
                println!("  {}\n  again: --only {seed}", campaign.evidence());
                broken += 1;
                break;
            }
        }
        if only.is_some() {
            break;
        }
    }
    println!(
        "\n{histories} histories, {} rows checked, {broken} promises broken",
        campaign.rows_checked
    );
    println!("{} transactions of the application beside them", campaign.application);
    for (fault, count) in &campaign.counts {
        println!("  {:<16} {count:>6}", format!("{fault:?}"));
    }
    if broken > 0 {
        let (directory, stop) = campaign.server.keep();
        println!("the server stays up in {}; to stop it: {stop}", directory.display());
        return std::process::ExitCode::FAILURE;
    }
    std::process::ExitCode::SUCCESS
}
