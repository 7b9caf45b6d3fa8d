//! What the engine itself costs: chunk overhead, time to the first commit of a resumed run, time to pause, the runner's processor time and
//! memory, and how exact a rate is.
//!
//! `cargo bench --bench engine [-- --rows N --repeat R]`. A private server with `fsync` on; every figure is the median of the repeats,
//! raw numbers beside it. The shares of a run's time are read from `pg_stat_statements` after that same
//! run, so that the machine's noise falls on both sides of each ratio.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use common::{Bench, show};
use tokio_postgres::types::{ToSql, Type};

/// Without before-images: this is about the engine alone. What they cost is measured by the bench `undo`.
const SPEC: &str =
    concat!(include_str!("../backfills/governance_phases.toml"), "\n[undo]\nmode = \"none\"\n");
const CHUNK: u64 = 5_000;

/// The example's table; about 230 bytes a row.
const TABLE: &str = "create table base as
    select i as id, 'skill ' || i as name, repeat(md5(i::text), 4) as description,
           (array['development', 'data', 'security', 'documentation', 'operations', 'support', 'design', 'research',
                  'sales', 'people'])[1 + i % 10] as category,
           now() as created_at, null::text[] as governance_phases";

fn main() {
    let bench = Bench::new(
        None,
        &["shared_preload_libraries=pg_stat_statements", "pg_stat_statements.track_planning=on"],
    );
    bench.sql("create extension pg_stat_statements");
    bench.sql(&format!("{TABLE} from generate_series(1, {}) i", bench.rows));
    overhead(&bench);
    first_commit(&bench);
    time_to_pause(&bench);
    rates(&bench);
}

/// A fresh table and no runs.
fn fresh(bench: &Bench) {
    bench.sql(
            "drop table if exists skills; create table skills (like base); insert into skills table base;
             alter table skills add primary key (id); drop schema if exists backfill cascade",
        );
    bench.sql("vacuum (analyze) skills");
    bench.sql("checkpoint");
}

fn limits(bench: &Bench, limits: &str) {
    let text = format!("{SPEC}\n[limits]\n{limits}");
    bench.spec("bench", &text);
}

/// Where the time of a run with one worker goes, as the server counts it in that same run.
fn overhead(bench: &Bench) {
    limits(bench, &format!("workers = 1\nchunk_rows_max = {CHUNK}\nchunk_time = \"20s\"\n"));
    let mut shares: [Vec<f64>; 5] = Default::default();
    let (mut rates, mut processor, mut peaks, mut loops) = (vec![], vec![], vec![], vec![]);
    for _ in 0..bench.repeat {
        fresh(bench);
        bench.sql("select pg_stat_statements_reset()");
        let finished = bench.finish(bench.start(&["run", "bench", "--json"]));
        let wall = bench.number(
                "select extract(epoch from max(settled_at) - (select started_at from backfill.run))::float8 from backfill.chunk",
            );
        let spent = |what: &str| {
            bench.number(&format!(
                "select coalesce(sum(total_exec_time + total_plan_time), 0) / 1000 from pg_stat_statements where {what}"
            ))
        };
        let rows = spent("query like 'UPDATE \"public\".\"skills\"%'");
        let steps = spent(
            "query like '%for update of c%' or query like '%settled_epoch = $%' or query like 'BEGIN%' or query like 'select set_config%'",
        );
        let boundaries = spent("query like 'WITH RECURSIVE%' or query like '%bound as (%'");
        // What the runner waits for with no UPDATE at work. The mark, the COMMIT and the boundaries run beside the next chunk's UPDATE.
        let between = wall - finished.writing;
        let parts = [finished.writing, rows, between, steps, boundaries];
        for (share, part) in shares.iter_mut().zip(parts) {
            share.push(part / wall * 100.0);
        }
        rates.push(bench.rows as f64 / wall);
        processor.push(finished.processor / (bench.rows as f64 / 100_000.0) * 100.0);
        peaks.push(finished.peak as f64 / 1024.0);
        loops.push(bench.rows as f64 / plain_loop(bench));
    }
    println!("\nchunks of {CHUNK} rows, one worker: share of the run's time");
    let [writing, rows, between, steps, boundaries] = &shares;
    show("an UPDATE at work, as the runner sees it", "%", writing);
    show("  of that, the server executing it", "%", rows);
    show("none at work: claim, COMMIT, client", "%", between);
    show("begin, claim, done mark: execution", "%", steps);
    show("boundaries: execution", "%", boundaries);
    show("rows a second", "rows/s", &rates);
    show("a plain loop of the same UPDATEs", "rows/s", &loops);
    show("runner's processor time at 100,000 rows/s", "% of a core", &processor);
    show("runner's peak memory", "MB", &peaks);
}

/// Seconds of the same chunks as a hand-written loop does them: BEGIN, UPDATE, COMMIT, and no claim, mark or boundaries.
fn plain_loop(bench: &Bench) -> f64 {
    let sql = bench.text("select statement from backfill.run");
    fresh(bench);
    let began = Instant::now();
    for after in (0..bench.rows as i64).step_by(CHUNK as usize) {
        let upto = (after + CHUNK as i64).to_string();
        bench.sql("begin");
        let after = after.to_string();
        let range: [(&(dyn ToSql + Sync), Type); 2] = [(&after, Type::TEXT), (&upto, Type::TEXT)];
        bench
            .runtime
            .block_on(backfill::db::write_as_is(&bench.client, &sql, &range))
            .expect("the chunk's statement");
        bench.sql("commit");
    }
    began.elapsed().as_secs_f64()
}

/// From the command to the first commit of a run that was killed half-way.
fn first_commit(bench: &Bench) {
    limits(bench, "");
    let mut times = Vec::new();
    for _ in 0..bench.repeat {
        fresh(bench);
        let mut child = bench.start(&["run", "bench", "--json"]);
        wait_for_events(&mut child, "\"event\":\"settled\"", 15);
        let _ = child.kill();
        let _ = child.wait();
        let began = Instant::now();
        let mut child = bench.start(&["resume", "bench", "--json"]);
        wait_for_events(&mut child, "\"event\":\"settled\"", 1);
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        let _ = child.kill();
        let _ = child.wait();
    }
    println!("\na run that was killed half-way");
    show("resume: command to first commit", "ms", &times);
}

/// From the pause command to the runner's end, at the default chunk time.
fn time_to_pause(bench: &Bench) {
    limits(bench, "");
    let mut times = Vec::new();
    for _ in 0..bench.repeat {
        fresh(bench);
        let mut child = bench.start(&["run", "bench", "--json"]);
        wait_for_events(&mut child, "\"event\":\"settled\"", 20);
        let began = Instant::now();
        let mut pause = bench.start(&["pause", "bench"]);
        let _ = pause.wait();
        let _ = bench.finish(child);
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    println!("\ntwo workers, chunk time 500 ms");
    show("pause: command to the runner's end", "ms", &times);
}

/// Rows a second between the first and the last commit of ten seconds.
fn rates(bench: &Bench) {
    limits(bench, "");
    println!("\nrate over 10 s, two workers");
    for rate in [100, 5_000, 50_000] {
        let mut off = Vec::new();
        for _ in 0..bench.repeat.min(3) {
            fresh(bench);
            let mut child =
                bench.start(&["run", "bench", "--json", "--rate", &format!("{rate} rows/s")]);
            std::thread::sleep(Duration::from_secs(11));
            let _ = child.kill();
            let _ = child.wait();
            // The rows of the first chunk were paid for before the window began.
            let measured = bench.number(
                    "with c as (select *, min(settled_at) over () as first from backfill.chunk where state = 'done')
                     select (sum(rows_done) filter (where settled_at > first and settled_at <= first + interval '10 s') / 10.0)::float8 from c",
                );
            off.push((measured / f64::from(rate) - 1.0) * 100.0);
        }
        show(&format!("off from {rate} rows/s"), "%", &off);
    }
}

/// Reads events until `count` of a kind have come; the rest is read and dropped by a thread, so that the program never blocks.
fn wait_for_events(child: &mut Child, kind: &str, count: usize) {
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let seen =
        lines.by_ref().map_while(Result::ok).filter(|line| line.contains(kind)).take(count).count();
    assert_eq!(seen, count, "the run ended before {count} chunks; give it more rows");
    std::thread::spawn(move || lines.count());
}
