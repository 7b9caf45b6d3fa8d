//! What the engine itself costs: chunk overhead, time to the first commit of a resumed run, time to pause, the runner's processor time and
//! memory, and how exact a rate is.
//!
//! `cargo bench --bench engine [-- --rows N --repeat R]`. A private server with `fsync` on; every figure is the median of the repeats,
//! raw numbers beside it. The shares of a run's time are read from `pg_stat_statements` after that same
//! run, so that the machine's noise falls on both sides of each ratio.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backfill::server::{Options, Server};
use tokio::runtime::Runtime;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls};

const SPEC: &str = include_str!("../backfills/governance_phases.toml");
const CHUNK: u64 = 5_000;

/// The example's table; about 230 bytes a row.
const TABLE: &str = "create table base as
    select i as id, 'skill ' || i as name, repeat(md5(i::text), 4) as description,
           (array['development', 'data', 'security', 'documentation', 'operations', 'support', 'design', 'research',
                  'sales', 'people'])[1 + i % 10] as category,
           now() as created_at, null::text[] as governance_phases";

/// What was seen of a command: processor seconds, peak memory in kB, seconds spent in statements that write rows.
struct Finished {
    processor: f64,
    peak: u64,
    writing: f64,
}

struct Bench {
    server: Server,
    runtime: Runtime,
    client: Client,
    project: PathBuf,
    rows: u64,
    repeat: usize,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let bench = Bench::new(option("--rows", 1_000_000), option("--repeat", 5) as usize);
    println!(
        "PostgreSQL {}, {} rows, {} repeats",
        bench.server.version(),
        bench.rows,
        bench.repeat
    );
    bench.overhead();
    bench.first_commit();
    bench.time_to_pause();
    bench.rates();
    let _ = std::fs::remove_dir_all(&bench.project);
}

impl Bench {
    fn new(rows: u64, repeat: usize) -> Bench {
        let settings = [
            "shared_buffers=2GB",
            "max_wal_size=8GB",
            "checkpoint_timeout=30min",
            "autovacuum=off",
            "shared_preload_libraries=pg_stat_statements",
            "pg_stat_statements.track_planning=on",
        ];
        let options =
            Options { settings: settings.map(str::to_owned).to_vec(), ..Options::default() };
        let server = Server::start(&options).expect("a private server");
        let (runtime, client) = connect(&server.url("postgres"));
        let project = std::env::temp_dir().join(format!("backfill-bench-{}", std::process::id()));
        std::fs::create_dir_all(project.join("backfills")).expect("a project directory");
        let bench = Bench { server, runtime, client, project, rows, repeat };
        bench.sql("create extension pg_stat_statements");
        bench.sql(&format!("{TABLE} from generate_series(1, {rows}) i"));
        bench
    }

    fn sql(&self, sql: &str) {
        self.runtime
            .block_on(self.client.batch_execute(sql))
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    fn number(&self, sql: &str) -> f64 {
        let row = self
            .runtime
            .block_on(self.client.query_one(sql, &[]))
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        row.get(0)
    }

    fn text(&self, sql: &str) -> String {
        self.runtime.block_on(self.client.query_one(sql, &[])).expect("one row").get(0)
    }

    /// A fresh table and no runs.
    fn fresh(&self) {
        self.sql(
            "drop table if exists skills; create table skills (like base); insert into skills table base;
             alter table skills add primary key (id); drop schema if exists backfill cascade",
        );
        self.sql("vacuum (analyze) skills");
        self.sql("checkpoint");
    }

    fn spec(&self, limits: &str) {
        let text = format!("{SPEC}\n[limits]\n{limits}");
        std::fs::write(self.project.join("backfills/bench.toml"), text).expect("write the spec");
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let program = Path::new(env!("CARGO_BIN_EXE_backfill"));
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&self.project)
            .env("DATABASE_URL", self.server.url("postgres"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the program")
    }

    /// Follows a command to its end.
    fn finish(&self, mut child: Child) -> Finished {
        let proc = PathBuf::from(format!("/proc/{}", child.id()));
        let reader = std::thread::spawn({
            let out = child.stdout.take();
            move || {
                let lines = out.map(|out| BufReader::new(out).lines().map_while(Result::ok));
                lines.into_iter().flatten().map(|line| write_us(&line)).sum::<f64>()
            }
        });
        let (mut processor, mut peak) = (0.0, 0);
        while child.try_wait().expect("wait").is_none() {
            processor = f64::max(processor, processor_seconds(&proc));
            peak = peak.max(peak_kb(&proc));
            std::thread::sleep(Duration::from_millis(5));
        }
        let writing = reader.join().unwrap_or_default() / 1_000_000.0;
        Finished { processor, peak, writing }
    }

    /// Where the time of a run with one worker goes, as the server counts it in that same run.
    fn overhead(&self) {
        self.spec(&format!("workers = 1\nchunk_rows_max = {CHUNK}\nchunk_time = \"20s\"\n"));
        let mut shares: [Vec<f64>; 5] = Default::default();
        let (mut rates, mut processor, mut peaks, mut loops) = (vec![], vec![], vec![], vec![]);
        for _ in 0..self.repeat {
            self.fresh();
            self.sql("select pg_stat_statements_reset()");
            let finished = self.finish(self.start(&["run", "bench", "--json"]));
            let wall = self.number(
                "select extract(epoch from max(settled_at) - (select started_at from backfill.run))::float8 from backfill.chunk",
            );
            let spent = |what: &str| {
                self.number(&format!(
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
            rates.push(self.rows as f64 / wall);
            processor.push(finished.processor / (self.rows as f64 / 100_000.0) * 100.0);
            peaks.push(finished.peak as f64 / 1024.0);
            loops.push(self.rows as f64 / self.plain_loop());
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
    fn plain_loop(&self) -> f64 {
        let sql = self.text("select statement from backfill.run");
        self.fresh();
        let began = Instant::now();
        for after in (0..self.rows as i64).step_by(CHUNK as usize) {
            let upto = (after + CHUNK as i64).to_string();
            self.sql("begin");
            let after = after.to_string();
            let range: [(&(dyn ToSql + Sync), Type); 2] =
                [(&after, Type::TEXT), (&upto, Type::TEXT)];
            self.runtime
                .block_on(self.client.execute_typed(&sql, &range))
                .expect("the chunk's statement");
            self.sql("commit");
        }
        began.elapsed().as_secs_f64()
    }

    /// From the command to the first commit of a run that was killed half-way.
    fn first_commit(&self) {
        self.spec("");
        let mut times = Vec::new();
        for _ in 0..self.repeat {
            self.fresh();
            let mut child = self.start(&["run", "bench", "--json"]);
            wait_for_events(&mut child, "\"event\":\"settled\"", 15);
            let _ = child.kill();
            let _ = child.wait();
            let began = Instant::now();
            let mut child = self.start(&["resume", "bench", "--json"]);
            wait_for_events(&mut child, "\"event\":\"settled\"", 1);
            times.push(began.elapsed().as_secs_f64() * 1000.0);
            let _ = child.kill();
            let _ = child.wait();
        }
        println!("\na run that was killed half-way");
        show("resume: command to first commit", "ms", &times);
    }

    /// From the pause command to the runner's end, at the default chunk time.
    fn time_to_pause(&self) {
        self.spec("");
        let mut times = Vec::new();
        for _ in 0..self.repeat {
            self.fresh();
            let mut child = self.start(&["run", "bench", "--json"]);
            wait_for_events(&mut child, "\"event\":\"settled\"", 20);
            let began = Instant::now();
            let mut pause = self.start(&["pause", "bench"]);
            let _ = pause.wait();
            let _ = self.finish(child);
            times.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        println!("\ntwo workers, chunk time 500 ms");
        show("pause: command to the runner's end", "ms", &times);
    }

    /// Rows a second between the first and the last commit of ten seconds.
    fn rates(&self) {
        self.spec("");
        println!("\nrate over 10 s, two workers");
        for rate in [100, 5_000, 50_000] {
            let mut off = Vec::new();
            for _ in 0..self.repeat.min(3) {
                self.fresh();
                let mut child =
                    self.start(&["run", "bench", "--json", "--rate", &format!("{rate} rows/s")]);
                std::thread::sleep(Duration::from_secs(11));
                let _ = child.kill();
                let _ = child.wait();
                // The rows of the first chunk were paid for before the window began.
                let measured = self.number(
                    "with c as (select *, min(settled_at) over () as first from backfill.chunk where state = 'done')
                     select (sum(rows_done) filter (where settled_at > first and settled_at <= first + interval '10 s') / 10.0)::float8 from c",
                );
                off.push((measured / f64::from(rate) - 1.0) * 100.0);
            }
            show(&format!("off from {rate} rows/s"), "%", &off);
        }
    }
}

fn connect(url: &str) -> (Runtime, Client) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (client, connection) =
        runtime.block_on(tokio_postgres::connect(url, NoTls)).expect("a connection");
    runtime.spawn(connection);
    (runtime, client)
}

/// Reads events until `count` of a kind have come; the rest is read and dropped by a thread, so that the program never blocks.
fn wait_for_events(child: &mut Child, kind: &str, count: usize) {
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let seen =
        lines.by_ref().map_while(Result::ok).filter(|line| line.contains(kind)).take(count).count();
    assert_eq!(seen, count, "the run ended before {count} chunks; give it more rows");
    std::thread::spawn(move || lines.count());
}

/// The time of the writing statements in a line of `--json`, if it tells one.
fn write_us(line: &str) -> f64 {
    let told = line.split_once("\"write_us\":").map(|(_, rest)| rest);
    told.and_then(|rest| rest.split([',', '}']).next()?.parse().ok()).unwrap_or(0.0)
}

fn processor_seconds(proc: &Path) -> f64 {
    let stat = std::fs::read_to_string(proc.join("stat")).unwrap_or_default();
    let Some((_, fields)) = stat.rsplit_once(')') else { return 0.0 };
    let fields: Vec<f64> =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    // Clock ticks: 100 a second on Linux.
    fields.iter().sum::<f64>() / 100.0
}

fn peak_kb(proc: &Path) -> u64 {
    let status = std::fs::read_to_string(proc.join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn show(what: &str, unit: &str, numbers: &[f64]) {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    let raw: Vec<String> = numbers.iter().map(|number| format!("{number:.2}")).collect();
    println!("  {what:<44} {median:>9.2} {unit:<12} [{}]", raw.join(" "));
}
