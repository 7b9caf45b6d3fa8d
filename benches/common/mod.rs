//! What the benchmarks share: a private server with `fsync` on, the program beside it, medians with their raw numbers.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    reason = "each benchmark uses its share; a benchmark prints its figures"
)]

pub mod load;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use backfill::server::{Options, Server};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

/// What was seen of a command: processor seconds, peak memory in kB, seconds spent in statements that write rows.
pub struct Finished {
    pub processor: f64,
    pub peak: u64,
    pub writing: f64,
}

/// A server, a connection and a project directory.
pub struct Bench {
    pub server: Server,
    pub runtime: Runtime,
    pub client: Client,
    pub project: PathBuf,
    pub rows: u64,
    pub repeat: usize,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.project);
    }
}

/// A number given as `--name N`.
pub fn option(name: &str, default: u64) -> u64 {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name);
    at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
}

/// A word given as `--name WORD`.
pub fn word(name: &str) -> Option<String> {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1).cloned()
}

impl Bench {
    pub fn new(major: Option<u32>, settings: &[&str]) -> Bench {
        let common = [
            "shared_buffers=2GB",
            "max_wal_size=8GB",
            "checkpoint_timeout=30min",
            "autovacuum=off",
        ];
        let settings = common.iter().chain(settings).map(|setting| (*setting).to_owned()).collect();
        let server =
            Server::start(&Options { major, settings, no_fsync: false }).expect("a private server");
        let (runtime, client) = connect(&server.url("postgres"));
        let project = std::env::temp_dir().join(format!("backfill-bench-{}", server.pid()));
        std::fs::create_dir_all(project.join("backfills")).expect("a project directory");
        let (rows, repeat) = (option("--rows", 1_000_000), option("--repeat", 5) as usize);
        println!("PostgreSQL {}, {rows} rows, {repeat} repeats", server.version());
        Bench { server, runtime, client, project, rows, repeat }
    }

    pub fn spec(&self, name: &str, text: &str) {
        std::fs::write(self.project.join(format!("backfills/{name}.toml")), text)
            .expect("write the spec");
    }

    pub fn sql(&self, sql: &str) {
        self.runtime
            .block_on(self.client.batch_execute(sql))
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Rows that a statement wrote.
    pub fn execute(&self, sql: &str) -> u64 {
        self.runtime
            .block_on(self.client.execute(sql, &[]))
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    pub fn rows_of(&self, sql: &str) -> Vec<tokio_postgres::Row> {
        self.runtime
            .block_on(self.client.query(sql, &[]))
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    pub fn number(&self, sql: &str) -> f64 {
        let row = self
            .runtime
            .block_on(self.client.query_one(sql, &[]))
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        row.get(0)
    }

    pub fn text(&self, sql: &str) -> String {
        self.runtime.block_on(self.client.query_one(sql, &[])).expect("one row").get(0)
    }

    pub fn start(&self, arguments: &[&str]) -> Child {
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
    pub fn finish(&self, mut child: Child) -> Finished {
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
}

fn connect(url: &str) -> (Runtime, Client) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (client, connection) =
        runtime.block_on(tokio_postgres::connect(url, NoTls)).expect("a connection");
    runtime.spawn(connection);
    (runtime, client)
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

pub fn show(what: &str, unit: &str, numbers: &[f64]) {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    let raw: Vec<String> = numbers.iter().map(|number| format!("{number:.2}")).collect();
    println!("  {what:<44} {median:>9.2} {unit:<12} [{}]", raw.join(" "));
}
