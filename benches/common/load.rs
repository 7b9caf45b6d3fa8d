//! pgbench at a fixed rate beside what is measured, and the latency of its transactions.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Bench;

/// pgbench's own transaction, 100 a second from four clients.
pub struct Load {
    child: Child,
    project: PathBuf,
    began: f64,
}

impl Load {
    /// Starts it on tables that [`fill`] made; past its start when this returns.
    pub fn start(bench: &Bench, pgbench: &Path) -> Load {
        for old in logs(&bench.project) {
            let _ = std::fs::remove_file(old);
        }
        let child = run(bench, pgbench, &["-n", "-c", "4", "-R", "100", "-T", "3600", "-l"]);
        std::thread::sleep(Duration::from_secs(3));
        Load { child, project: bench.project.clone(), began: now() }
    }

    /// Ends it: milliseconds of each transaction, in their order, that began since, and how many seconds that was.
    pub fn end(mut self) -> (Vec<f64>, f64) {
        let ended = now();
        // What began shall also come to its end.
        std::thread::sleep(Duration::from_secs(2));
        interrupt(self.child.id());
        let _ = self.child.wait();
        let mut latencies = Vec::new();
        for log in logs(&self.project) {
            for line in std::fs::read_to_string(log).unwrap_or_default().lines() {
                latencies.extend(latency(line).filter(|(at, _)| self.began <= *at && *at <= ended));
            }
        }
        latencies.sort_by(|a, b| a.0.total_cmp(&b.0));
        (latencies.into_iter().map(|(_, ms)| ms).collect(), ended - self.began)
    }
}

/// The newest pgbench of this machine.
pub fn pgbench() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let mut found: Vec<PathBuf> =
        versions.map(|v| v.path().join("bin/pgbench")).filter(|path| path.is_file()).collect();
    found.sort();
    found.pop()
}

/// Makes its tables, of so many times 100,000 accounts.
pub fn fill(bench: &Bench, pgbench: &Path, scale: u64) {
    run(bench, pgbench, &["-i", "-q", "-s", &scale.to_string()]).wait().expect("pgbench -i");
}

/// By a signal that a background job of a shell does not ignore.
pub fn interrupt(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid as i32);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
}

pub fn percentile(latencies: &[f64], part: f64) -> f64 {
    let mut sorted = latencies.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len().saturating_sub(1) as f64 * part) as usize]
}

fn run(bench: &Bench, pgbench: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(pgbench);
    command.arg("-h").arg(bench.server.socket_dir()).args(["-U", "postgres"]).args(arguments);
    command.arg("postgres").current_dir(&bench.project);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start pgbench")
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
