//! Events for people and programs: a bar on a terminal, plain lines elsewhere, JSON lines on request.

use std::io::Write as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::budget::Budget;
use crate::event::{Event, Listener, count, duration};

/// How often a plain line tells where the run is.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Rows and keys settled, and the pace of this runner.
struct Tally {
    since: Instant,
    keys: i64,
    keys_total: i64,
    rows: i64,
    rows_here: i64,
    held: Option<String>,
}

impl Tally {
    fn new() -> Tally {
        Tally { since: Instant::now(), keys: 0, keys_total: 0, rows: 0, rows_here: 0, held: None }
    }

    fn hear(&mut self, event: &Event) {
        match event {
            Event::Started { table_rows_estimate, keys_done, rows_done, .. } => {
                self.since = Instant::now();
                self.keys_total = *table_rows_estimate;
                self.keys = *keys_done;
                self.rows = *rows_done;
            }
            Event::Settled { rows, keys, .. } => {
                self.keys += keys;
                self.rows += rows;
                self.rows_here += rows;
            }
            // Every key is looked at once more.
            Event::Sweeping { rows: None } | Event::Again { .. } => self.keys_total += self.keys,
            Event::Throttle { verdict, reason, .. } => {
                self.held = (*verdict != "proceed").then(|| format!("{verdict}: {reason}"));
            }
            _ => {}
        }
    }

    fn message(&self) -> String {
        let seconds = self.since.elapsed().as_secs_f64().max(0.001);
        let rate = (self.rows_here as f64 / seconds).round() as u64;
        let held = self.held.as_deref().map(|held| format!(", {held}")).unwrap_or_default();
        format!("{} rows, {} rows/s{held}", count(self.rows.unsigned_abs()), count(rate))
    }
}

/// What an event is worth saying at once, besides progress.
fn remark(event: &Event) -> Option<String> {
    match event {
        Event::Started { name, run_id, epoch, keys_done, .. } if *keys_done > 0 => Some(format!(
            "resuming {name} (run {run_id}, runner {epoch}): {} keys are done",
            count(keys_done.unsigned_abs())
        )),
        Event::Retrying { seq, attempts, error, .. } if *attempts >= 3 => {
            Some(format!("chunk {seq}, attempt {attempts}: {error}"))
        }
        Event::Quarantined { key, error, .. } => {
            Some(format!("set aside row ({}): {error}", key.join(", ")))
        }
        Event::ChunkFailed { seq, error } => Some(format!("gave up chunk {seq}: {error}")),
        Event::Throttle { verdict: verdict @ "hold", reason, .. } => {
            Some(format!("{verdict}: {reason}"))
        }
        Event::Window { window, until } => {
            let until = until.as_deref().map(|until| format!(" until {until}")).unwrap_or_default();
            Some(match window {
                Some(window) => format!("window `{window}` is in force{until}"),
                None => "no window is in force".to_owned(),
            })
        }
        Event::NotVacuumed { reason } => Some(format!("no vacuum: {reason}")),
        Event::Rewritten {} => Some(
            "the table was rewritten: what the walk by place does not meet any more is done behind it"
                .to_owned(),
        ),
        Event::Again { round } => Some(format!("rows are left: round {round} through the table")),
        Event::Looking {} => {
            Some("walked by place; looking for rows that are left to do".to_owned())
        }
        Event::Sweeping { rows: Some(0) } => None,
        Event::Sweeping { rows } => Some(match rows {
            Some(rows) => format!(
                "{} rows that the walk did not do are done by key",
                count(*rows as u64)
            ),
            None => "too much is left to be listed, so every key is looked at".to_owned(),
        }),
        Event::PassedOver { partition } => {
            Some(format!("passed over: {partition} is no part of the table any more"))
        }
        Event::Tuned { workers, rate_rows_per_s, wal_bytes_per_s, chunk_time_ms } => {
            let rate = Budget { rows_per_s: *rate_rows_per_s, wal_per_s: *wal_bytes_per_s };
            let plural = if *workers == 1 { "" } else { "s" };
            Some(format!("tuned: {workers} worker{plural}, {rate}, chunk time {chunk_time_ms} ms"))
        }
        Event::Draining { reason, in_flight } => {
            Some(format!("stopping ({reason}): {in_flight} chunks in flight settle first"))
        }
        _ => None,
    }
}

/// A bar on standard error.
pub struct Bar {
    bar: ProgressBar,
    tally: Tally,
}

impl Default for Bar {
    fn default() -> Bar {
        let bar = ProgressBar::new(0);
        // The message is cut to what the terminal has room for: a wrapped bar leaves its lines behind.
        let template = "{bar:30} {percent:>3} %  [{elapsed_precise}]  {wide_msg}";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(250));
        Bar { bar, tally: Tally::new() }
    }
}

impl Listener for Bar {
    fn hear(&mut self, event: &Event) {
        self.tally.hear(event);
        if let Some(remark) = remark(event) {
            self.bar.suspend(|| say(&remark));
        }
        let keys = self.tally.keys.max(0).unsigned_abs();
        // The total is the planner's estimate; a table that holds more must not show more than 100 %.
        self.bar.set_length(self.tally.keys_total.max(0).unsigned_abs().max(keys));
        self.bar.set_position(keys);
        self.bar.set_message(self.tally.message());
        if let Event::Stopped { .. } = event {
            self.bar.finish_and_clear();
        }
    }
}

/// Plain lines on standard error.
pub struct Lines {
    tally: Tally,
    said_at: Instant,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines { tally: Tally::new(), said_at: Instant::now() }
    }
}

impl Listener for Lines {
    fn hear(&mut self, event: &Event) {
        self.tally.hear(event);
        if let Some(remark) = remark(event) {
            say(&remark);
        }
        if let Event::Settled { .. } = event
            && self.said_at.elapsed() >= LINE_EVERY
        {
            self.said_at = Instant::now();
            let percent = self.tally.keys as f64 * 100.0
                / self.tally.keys_total.max(self.tally.keys).max(1) as f64;
            say(&format!(
                "{percent:.0} %, {}, {}",
                self.tally.message(),
                duration(self.tally.since.elapsed())
            ));
        }
    }
}

/// One JSON object a line on standard output.
#[derive(Default)]
pub struct JsonLines;

impl Listener for JsonLines {
    fn hear(&mut self, event: &Event) {
        let line = serde_json::to_string(event).unwrap_or_default();
        let mut out = std::io::stdout().lock();
        // A reader that went away must not stop the run.
        let _ = writeln!(out, "{line}");
        let _ = out.flush();
    }
}

/// Says a line on standard error.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
