//! The program beside what people use instead, each with the SQL that it really sends, on fresh copies of the same table.
//!
//! `cargo bench --bench side_by_side [-- --rows N --repeat R --shape NAME --job NAME --with NAME --order ORDER --undo MODE --pgbench --json FILE]`, or `-- --scale` for the program
//! alone on tables of one, three, ten and, with `--scale 30`, thirty million rows, and with one, two and four workers. In each repeat every contender takes its
//! turn, and the order turns with the repeats; ratios are made within a repeat, so that the machine's drift falls on all of them. Loops
//! commit each statement and have no pause between them, which their authors would put there. With `--pgbench` that runs beside each of
//! them, 100 transactions a second on tables of its own, and its p99 latency is shown; speeds and WAL are those with it then.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::load::{self, Load, percentile};
use common::{Bench, show, word};
use serde_json::{Value, json};

/// A table: its columns behind the key, and its indexes.
struct Shape {
    name: &'static str,
    /// The key's columns with types, and how row `i` gets them.
    key: &'static [(&'static str, &'static str, &'static str)],
    /// Of wide rows, the value that is stored out of line.
    wide: &'static str,
    indexes: &'static [&'static str],
    options: &'static str,
    /// Whether it lies in ten partitions, by the first column of the key.
    is_partitioned: bool,
}

const PLAIN: Shape = Shape {
    name: "primary key only",
    key: &[("id", "bigint", "i")],
    wide: "",
    indexes: &[],
    options: "",
    is_partitioned: false,
};

/// Partitions of a partitioned table.
const PARTS: u64 = 10;

const SHAPES: [Shape; 8] = [
    PLAIN,
    Shape { name: "3 secondary indexes", indexes: &["category", "created_at", "owner"], ..PLAIN },
    Shape {
        name: "4 indexes, one on the written column",
        indexes: &["category", "created_at", "owner", "quota", "tier"],
        ..PLAIN
    },
    Shape { name: "uuid key", key: &[("id", "uuid", "md5(i::text)::uuid")], ..PLAIN },
    Shape {
        name: "composite key",
        key: &[("tenant", "int", "i % 100"), ("id", "bigint", "i")],
        ..PLAIN
    },
    Shape {
        name: "wide rows",
        wide: "(select string_agg(md5((i * 100 + n)::text), '') from generate_series(1, 100) n)",
        ..PLAIN
    },
    Shape { name: "pages half full", options: "with (fillfactor = 50)", ..PLAIN },
    Shape {
        name: "partitioned by day, 3 secondary indexes",
        key: &[("day", "int", "(i - 1) * 10 / rows"), ("id", "bigint", "i")],
        indexes: &["category", "created_at", "owner"],
        is_partitioned: true,
        ..PLAIN
    },
];

/// What is written: the SET list, and the condition of a row to do where the data has one.
struct Job {
    name: &'static str,
    set: &'static str,
    todo: &'static str,
    spec: &'static str,
}

const JOBS: [Job; 3] = [
    Job {
        name: "fill",
        set: "tier = 'free'",
        todo: "tier IS NULL",
        spec: "fill = { tier = \"'free'\" }",
    },
    Job {
        name: "set",
        set: "quota = quota * 2",
        todo: "",
        spec: "set = { quota = \"quota * 2\" }",
    },
    Job {
        name: "set, once",
        set: "quota = quota * 2, tier = 'free'",
        todo: "tier IS NULL",
        spec: "when = \"tier IS NULL\"\nset = { quota = \"quota * 2\", tier = \"'free'\" }",
    },
];

/// Rows of a statement of the loop by IN, the size its users choose most.
const LOOP_ROWS: u32 = 5_000;

const CONTENDERS: [&str; 6] = [
    "one big UPDATE",
    "backfill",
    "IN (SELECT … LIMIT)",
    "pgroll's batch",
    "GitLab's sub-batches",
    "procedure with COMMIT",
];

/// What a turn came to.
#[derive(Clone, Copy)]
struct Turn {
    seconds: f64,
    wal: f64,
    heap: f64,
    indexes: f64,
    hot: f64,
    images: f64,
    processor: f64,
    p99: f64,
}

fn main() {
    let mut bench = Bench::new(None, &[]);
    if std::env::args().any(|argument| argument == "--scale") {
        return scale(&mut bench, word("--scale").and_then(|most| most.parse().ok()).unwrap_or(10));
    }
    let pgbench = std::env::args().any(|argument| argument == "--pgbench").then(|| {
        let pgbench = load::pgbench().expect("pgbench is not installed");
        load::fill(&bench, &pgbench, 10);
        pgbench
    });
    let mut results = Vec::new();
    let (only, with, job_name) = (word("--shape"), word("--with"), word("--job"));
    for shape in SHAPES
        .iter()
        .filter(|shape| only.as_deref().is_none_or(|only| shape.name.starts_with(only)))
    {
        base(&bench, shape);
        for job in JOBS.iter().filter(|job| job_name.as_deref().is_none_or(|name| job.name == name))
        {
            let is_meant = |name: &&&str| {
                let is_named = with.as_deref().is_none_or(|with| name.contains(with));
                **name == "one big UPDATE" || is_named
            };
            // A loop by IN ends when no row is left to do, which a `set` cannot tell.
            let possible = |name: &&&str| !(job.todo.is_empty() && name.starts_with("IN"));
            let contenders: Vec<&str> =
                CONTENDERS.iter().filter(is_meant).filter(possible).copied().collect();
            results.push(measure(&bench, shape, job, (&contenders, pgbench.as_deref())));
        }
    }
    if let Some(path) = word("--json") {
        let text = serde_json::to_string_pretty(&json!(results)).expect("JSON");
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// Whether a row costs the same in a large table, and what more workers bring.
fn scale(bench: &mut Bench, most: u64) {
    let shape = &SHAPES[1];
    for millions in [1, 3, 10, 30].into_iter().filter(|millions| *millions <= most) {
        bench.rows = millions * 1_000_000;
        base(bench, shape);
        let workers: &[u32] = if millions == 1 { &[1, 2, 4] } else { &[2] };
        for workers in workers {
            let (mut speed, mut memory) = (Vec::new(), Vec::new());
            for _ in 0..bench.repeat {
                fresh(bench, shape);
                bench.spec(
                    "job",
                    &format!(
                        "table = \"public.big\"\n[[rule]]\n{}\n[limits]\nworkers = {workers}\n",
                        JOBS[0].spec
                    ),
                );
                memory.push(
                    bench.finish(bench.start(&["run", "job", "--json"])).peak as f64 / 1000.0,
                );
                speed.push(bench.rows as f64 / bench.number(TOOK));
            }
            show(&format!("{millions} million rows, {workers} workers"), "rows/s", &speed);
            show("memory of the program", "MB", &memory);
        }
    }
}

/// Seconds of the only run.
const TOOK: &str = "select extract(epoch from coalesce(finished_at, clock_timestamp()) - started_at)::float8 from backfill.run";

/// The rows, once for a shape.
fn base(bench: &Bench, shape: &Shape) {
    let columns: Vec<String> =
        shape.key.iter().map(|(name, kind, _)| format!("{name} {kind} not null")).collect();
    let values: Vec<&str> = shape.key.iter().map(|(_, _, value)| *value).collect();
    let (wide, text) = match shape.wide {
        "" => ("", String::new()),
        text => (", wide text", format!(", {text}")),
    };
    bench.sql(&format!(
        "drop table if exists base; create table base ({}, name text not null, description text not null, category text not null,
           created_at timestamptz not null, owner int not null, quota int not null, tier text{wide});
         insert into base select {}, 'skill ' || i, repeat(md5(i::text), 4),
           (array['development', 'data', 'security', 'documentation', 'operations', 'support', 'design', 'research', 'sales', 'people'])[1 + i % 10],
           now() - i * interval '1 second', i % 5000, 10, null{text} from generate_series(1, {rows}) i, (values ({rows}::bigint)) as size (rows)",
        columns.join(", "),
        values.join(", "),
        rows = bench.rows
    ));
}

fn fresh(bench: &Bench, shape: &Shape) {
    bench.sql("drop table if exists big; drop schema if exists backfill cascade");
    create(bench, shape, "big");
    bench.sql("insert into big table base");
    index(bench, shape);
    bench.sql("vacuum (analyze) big");
    bench.sql("checkpoint");
}

fn create(bench: &Bench, shape: &Shape, name: &str) {
    if !shape.is_partitioned {
        return bench.sql(&format!("create table {name} (like base) {}", shape.options));
    }
    let by = shape.key[0].0;
    bench.sql(&format!("create table {name} (like base) partition by list ({by})"));
    for part in 0..PARTS {
        bench.sql(&format!(
            "create table {name}_{part} partition of {name} for values in ({part}) {}",
            shape.options
        ));
    }
}

/// What a fresh copy of the written table weighs: its heap and its indexes.
fn copied(bench: &Bench, shape: &Shape) -> (f64, f64) {
    create(bench, shape, "written");
    bench.sql(&format!("insert into written table big order by {}", key_list(shape)));
    bench.sql("drop table big; alter table written rename to big");
    index(bench, shape);
    let size = sizes(bench);
    bench.sql("drop table big");
    size
}

fn index(bench: &Bench, shape: &Shape) {
    bench.sql(&format!("alter table big add primary key ({})", key_list(shape)));
    for column in shape.indexes {
        bench.sql(&format!("create index on big ({column})"));
    }
}

fn measure(
    bench: &Bench,
    shape: &Shape,
    job: &Job,
    (contenders, pgbench): (&[&str], Option<&Path>),
) -> Value {
    let mut turns: BTreeMap<&str, Vec<Turn>> = BTreeMap::new();
    let mut size = (0.0, 0.0);
    for repeat in 0..bench.repeat {
        for i in 0..contenders.len() {
            let contender = contenders[(i + repeat) % contenders.len()];
            fresh(bench, shape);
            let load = pgbench.map(|pgbench| Load::start(bench, pgbench));
            let turn = turn(bench, shape, job, (contender, load));
            turns.entry(contender).or_default().push(turn);
            if size.0 == 0.0 {
                size = copied(bench, shape);
            }
        }
    }
    println!(
        "\n{}, {}: a fresh copy has {:.0} MB of heap and {:.0} MB of indexes",
        shape.name,
        job.name,
        size.0 / 1e6,
        size.1 / 1e6
    );
    println!(
        "  {:<24} {:>8} {:>15} {:>6} {:>6} {:>6} {:>8} {:>7} {:>6} {:>8}",
        "",
        "rows/s",
        "times (spread)",
        "WAL/r",
        "heap",
        "index",
        "HOT %",
        "undo/r",
        "CPU s",
        "p99 ms"
    );
    let mut shown = BTreeMap::new();
    for contender in contenders {
        let all = &turns[contender];
        let of = |value: &dyn Fn(&Turn) -> f64| median(all.iter().map(value).collect());
        let ratios: Vec<f64> = turns["one big UPDATE"]
            .iter()
            .zip(all)
            .map(|(big, turn)| big.seconds / turn.seconds)
            .collect();
        let (low, high) =
            ratios.iter().fold((f64::MAX, 0.0_f64), |(low, high), r| (low.min(*r), high.max(*r)));
        let rows = bench.rows as f64;
        let speed = of(&|t| rows / t.seconds);
        let figures = json!({
            "rows_per_s": speed, "times": median(ratios.clone()), "times_all": ratios, "seconds": all.iter().map(|t| t.seconds).collect::<Vec<_>>(),
            "wal_bytes_per_row": of(&|t| t.wal / rows), "heap_of_fresh": of(&|t| t.heap / size.0), "indexes_of_fresh": of(&|t| t.indexes / size.1),
            "hot_share": of(&|t| t.hot / rows), "before_image_bytes_per_row": of(&|t| t.images / rows), "client_cpu_s": of(&|t| t.processor),
            "pgbench_p99_ms": pgbench.map(|_| of(&|t| t.p99)),
        });
        println!(
            "  {:<24} {:>8.0} {:>5.2} ({:.2}-{:.2}) {:>6.0} {:>6.2} {:>6.2} {:>8.0} {:>7.1} {:>6.1} {:>8}",
            contender,
            speed,
            median(ratios.clone()),
            low,
            high,
            of(&|t| t.wal / rows),
            of(&|t| t.heap / size.0),
            of(&|t| t.indexes / size.1),
            of(&|t| t.hot * 100.0 / rows),
            of(&|t| t.images / rows),
            of(&|t| t.processor),
            pgbench.map_or_else(|| "-".to_owned(), |_| format!("{:.1}", of(&|t| t.p99)))
        );
        shown.insert(*contender, figures);
    }
    json!({ "shape": shape.name, "job": job.name, "rows": bench.rows, "heap_bytes": size.0, "index_bytes": size.1, "contenders": shown })
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// The table, and its partitions.
const TREE: &str =
    "select 'big'::regclass as relid union select relid from pg_partition_tree('big')";

fn sizes(bench: &Bench) -> (f64, f64) {
    (
        bench.number(&format!("select sum(pg_relation_size(relid))::float8 from ({TREE}) tree")),
        bench.number(&format!("select sum(pg_indexes_size(relid))::float8 from ({TREE}) tree")),
    )
}

fn turn(bench: &Bench, shape: &Shape, job: &Job, (contender, load): (&str, Option<Load>)) -> Turn {
    let wal = || bench.number("select (pg_current_wal_insert_lsn() - '0/0')::float8");
    let before = wal();
    let started = std::time::Instant::now();
    let mut processor = 0.0;
    let mut seconds = None;
    match contender {
        "one big UPDATE" => bench.sql(&format!("update big set {}", job.set)),
        "backfill" => {
            let key: Vec<String> =
                shape.key.iter().map(|(name, _, _)| format!("{name:?}")).collect();
            let undo = word("--undo")
                .map_or_else(String::new, |mode| format!("[undo]\nmode = {mode:?}\n"));
            let order =
                word("--order").map_or_else(String::new, |order| format!("order = {order:?}\n"));
            bench.spec(
                "job",
                &format!(
                    "table = \"public.big\"\nkey = [{}]\n{order}[[rule]]\n{}\n{undo}",
                    key.join(", "),
                    job.spec
                ),
            );
            processor = bench.finish(bench.start(&["run", "job", "--json"])).processor;
            seconds = Some(bench.number(TOOK));
        }
        "IN (SELECT … LIMIT)" => in_loop(bench, shape, job),
        "pgroll's batch" => pgroll(bench, shape, job),
        "GitLab's sub-batches" => gitlab(bench, shape, job),
        _ => procedure(bench, shape, job),
    }
    let seconds = seconds.unwrap_or_else(|| started.elapsed().as_secs_f64());
    let wal = wal() - before;
    let p99 = load.map_or(0.0, |load| percentile(&load.end().0, 0.99));
    let left = if job.todo.is_empty() { "quota <> 20" } else { "tier is null" };
    assert_eq!(
        bench.number(&format!("select count(*)::float8 from big where {left}")),
        0.0,
        "{contender} left rows"
    );
    let (heap, indexes) = sizes(bench);
    // The server's counters come a moment later.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    let hot = bench.number("select coalesce(sum(n_tup_hot_upd), 0)::float8 from pg_stat_user_tables where relname like 'big%'");
    let images = if contender == "backfill" && word("--undo").is_none() {
        bench.number("select pg_total_relation_size('backfill.before_image_1')::float8")
    } else {
        0.0
    };
    Turn { seconds, wal, heap, indexes, hot, images, processor, p99 }
}

fn in_loop(bench: &Bench, shape: &Shape, job: &Job) {
    let key = key_list(shape);
    let sql = format!(
        "update big set {} where ({key}) in (select {key} from big where {} limit {LOOP_ROWS})",
        job.set, job.todo
    );
    while bench.execute(&sql) > 0 {}
}

/// A batch of 1,000 by key, locked and then updated; its cursor is the last key that comes back.
fn pgroll(bench: &Bench, shape: &Shape, job: &Job) {
    let key = key_list(shape);
    let same = each(shape, " and ", |name| format!("big.{name} = batch.{name}"));
    let returned = each(shape, ", ", |name| format!("big.{name}"));
    let texts = each(shape, ", ", |name| format!("last_value({name}::text) over ()"));
    let todo = if job.todo.is_empty() { "true" } else { job.todo };
    let mut last: Option<Vec<String>> = None;
    loop {
        let after = last.as_ref().map_or_else(
            || "true".to_owned(),
            |last| format!("({key}) > ({})", literals(shape, last)),
        );
        last = key_of(
            bench,
            shape,
            &format!(
            "with batch as (select {key} from big where {todo} and {after} order by {key} limit 1000 for no key update),
                  update as (update big set {} from batch where {same} returning {returned})
             select {texts} from (select * from update order by {key}) done limit 1",
            job.set
        ));
        if last.is_none() {
            return;
        }
    }
}

/// Batches of 1,000 keys found by offset, each updated in ranges of 100.
fn gitlab(bench: &Bench, shape: &Shape, job: &Job) {
    let key = key_list(shape);
    let texts = each(shape, ", ", |name| format!("{name}::text"));
    let mut from = key_of(bench, shape, &format!("select {texts} from big order by {key} limit 1"));
    while let Some(start) = from {
        let at_least = format!("({key}) >= ({})", literals(shape, &start));
        let next = key_of(
            bench,
            shape,
            &format!("select {texts} from big where {at_least} order by {key} limit 1 offset 100"),
        );
        let below = next
            .as_ref()
            .map_or_else(String::new, |next| format!(" and ({key}) < ({})", literals(shape, next)));
        bench.sql(&format!("update big set {} where {at_least}{below}", job.set));
        from = next;
    }
}

/// A loop in the database that commits every 10,000 keys.
fn procedure(bench: &Bench, shape: &Shape, job: &Job) {
    let key = key_list(shape);
    let last = each(shape, ", ", |name| format!("last.{name}"));
    let next = each(shape, ", ", |name| format!("next.{name}"));
    bench.sql(&format!(
        "create or replace procedure walk() language plpgsql as $$
         declare last big; next big;
         begin
             select * into last from big order by {key} limit 1;
             update big set {set} where ({key}) = ({last});
             loop
                 select * into next from big where ({key}) > ({last}) order by {key} offset 9999 limit 1;
                 if not found then
                     update big set {set} where ({key}) > ({last});
                     commit;
                     return;
                 end if;
                 update big set {set} where ({key}) > ({last}) and ({key}) <= ({next});
                 commit;
                 last := next;
             end loop;
         end $$",
        set = job.set
    ));
    bench.sql("call walk()");
}

/// Something of each column of the key.
fn each(shape: &Shape, separator: &str, render: impl Fn(&str) -> String) -> String {
    shape.key.iter().map(|(name, _, _)| render(name)).collect::<Vec<_>>().join(separator)
}

fn key_list(shape: &Shape) -> String {
    each(shape, ", ", str::to_owned)
}

/// The key that a query yields as text, if any.
fn key_of(bench: &Bench, shape: &Shape, sql: &str) -> Option<Vec<String>> {
    let rows = bench.rows_of(sql);
    rows.first().map(|row| (0..shape.key.len()).map(|i| row.get(i)).collect())
}

fn literals(shape: &Shape, values: &[String]) -> String {
    shape
        .key
        .iter()
        .zip(values)
        .map(|((_, kind, _), value)| format!("'{value}'::{kind}"))
        .collect::<Vec<_>>()
        .join(", ")
}
