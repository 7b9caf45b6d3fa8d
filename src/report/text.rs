//! A report for people.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Report, UndoReport};
use crate::event::{bytes, count, duration};
use crate::undo::UndoMode;

/// The constraint when none binds.
const UNBOUND: &str = "none";

impl Report {
    /// The report for people, ending with the next command.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{}  {} ({} run {})",
            self.name, self.state, self.direction, self.run_id
        );
        let total = self
            .rows_total_estimate
            .map_or_else(|| "unknown".to_owned(), |n| format!("about {}", number(n)));
        let mut line = |label: &str, value: String| {
            let _ = writeln!(text, "  {label:<12} {value}");
        };
        line("table", self.table.clone());
        let of = if self.by_pages { "pages" } else { "keys" };
        line("progress", format!("{:.1} % of the {of}", self.percent()));
        line("rows", format!("{} written, {total} in all", number(self.rows_done)));
        line(
            "chunks",
            format!(
                "{} done, {} pending, {} failed",
                self.chunks_done, self.chunks_pending, self.chunks_failed
            ),
        );
        if let Some(rate) = self.rate_rows_per_s {
            line("rate", format!("{} rows/s", number(rate.round() as i64)));
        }
        if let (Some(low), Some(high)) = (self.eta_s_low, self.eta_s_high) {
            let time = |s: i64| duration(Duration::from_secs(s.max(0).unsigned_abs()));
            line("time left", format!("{} to {}", time(low), time(high)));
        }
        if self.throttle.verdict != "none" && !self.throttle.reason.is_empty() {
            line("throttle", format!("{}: {}", self.throttle.verdict, self.throttle.reason));
        }
        if let Some(window) = &self.throttle.window {
            let until = self.throttle.window_until.as_deref();
            let until = until.map(|until| format!(" until {until}")).unwrap_or_default();
            line("window", format!("`{window}`{until}"));
        }
        if let Some(spent) = self.spent_text() {
            line("time spent", spent);
        }
        for storage in self.storage_text() {
            line("storage", storage);
        }
        if let Some(runner) = &self.runner {
            let verb = if self.is_live() { "run by" } else { "last run by" };
            line(verb, format!("process {} on {}", runner.pid, runner.host));
        }
        line("updated", self.updated_at.clone());
        if let Some(failure) = &self.failure {
            line("failure", failure.clone());
        }
        for (seq, code, message) in &self.failed_chunks {
            line("failed", format!("chunk {seq}: {message} {code}").trim_end().to_owned());
        }
        for passed in &self.passed_over {
            let (table, chunks) = (&passed.table, number(passed.chunks));
            let now = if passed.is_part_again {
                "a part of the table again"
            } else {
                "no part of the table any more"
            };
            line("passed over", format!("{table}, {chunks} chunks: it is {now}"));
        }
        if self.rows_quarantined > 0 {
            line("set aside", format!("{} rows", number(self.rows_quarantined)));
        }
        for row in &self.quarantined {
            line("", format!("({}) {}", row.key.join(", "), row.message));
        }
        if self.rows_conflicted > 0 {
            line("conflicts", format!("{} rows", number(self.rows_conflicted)));
        }
        for row in &self.conflicts {
            line("", format!("({}) {}", row.key.join(", "), row.in_words()));
        }
        if self.direction == "forward" {
            line("undo", self.undo.text(&self.name));
        }
        if let Some(next) = self.next_command() {
            let _ = writeln!(text, "next: {next}");
        }
        text
    }

    /// Where the time went, longest first; none when nothing but the server's own speed held the run.
    pub fn spent_text(&self) -> Option<String> {
        let mut spent: Vec<(&String, &f64)> =
            self.spent_s.iter().filter(|(_, seconds)| **seconds >= 1.0).collect();
        if spent.iter().all(|(by, _)| *by == UNBOUND) {
            return None;
        }
        spent.sort_by(|a, b| b.1.total_cmp(a.1));
        let part = |(by, seconds): &(&String, &f64)| {
            let by = if *by == UNBOUND { "unlimited" } else { by.as_str() };
            format!("{by} {}", duration(Duration::from_secs_f64(seconds.clamp(0.0, 1e9))))
        };
        Some(spent.iter().map(part).collect::<Vec<_>>().join(", "))
    }

    /// What an operator would do next.
    pub fn next_command(&self) -> Option<String> {
        let name = &self.name;
        match self.state.as_str() {
            "interrupted" | "paused" => Some(format!("backfill resume {name}")),
            "failed" => {
                Some(format!("backfill resume {name}  (or give it up: backfill cancel {name})"))
            }
            "running" => {
                Some(format!("backfill status {name} --watch  (or stop it: backfill pause {name})"))
            }
            "succeeded" if self.passed_over.iter().any(|passed| passed.is_part_again) => {
                Some(format!("do the partitions that are back: backfill retry {name}"))
            }
            "succeeded" if self.rows_quarantined > 0 => {
                Some(format!("mend the rows set aside, then: backfill retry {name}"))
            }
            "succeeded"
                if self.direction == "reverse"
                    && self.passed_over.iter().any(|passed| passed.is_there) =>
            {
                Some(format!(
                    "attach what was passed over and give it back with `backfill retry {name}`, or let it go; only then: backfill prune {name}"
                ))
            }
            "succeeded" if self.direction == "reverse" => {
                let again =
                    if self.rows_conflicted + self.rows_quarantined > 0 { " --again" } else { "" };
                Some(format!(
                    "drop what it kept: backfill prune {name}  (or run it once more: backfill run {name}{again})"
                ))
            }
            "succeeded" if self.undo.is_reversible => {
                Some(format!("backfill verify {name}  (or take it back: backfill reverse {name})"))
            }
            "succeeded" => Some(format!("backfill verify {name}")),
            "cancelled" if self.undo.is_reversible || self.direction == "reverse" => {
                Some(format!("backfill reverse {name}  takes back what is done"))
            }
            _ => None,
        }
    }
}

impl UndoReport {
    fn text(&self, name: &str) -> String {
        let weight = bytes(self.image_bytes.unwrap_or(0).unsigned_abs());
        match (self.mode, &self.until) {
            (UndoMode::Capture, _) if !self.is_reversible => {
                "none: its before-images were dropped".to_owned()
            }
            (UndoMode::Capture, Some(until)) if self.is_overdue => {
                format!(
                    "exact, {weight} of before-images; to be kept until {until}, which is past: backfill prune {name}"
                )
            }
            (UndoMode::Capture, Some(until)) => {
                format!("exact, {weight} of before-images, to be kept until {until}")
            }
            (UndoMode::Capture, None) => format!("exact, {weight} of before-images so far"),
            (UndoMode::Statement, _) => "by the spec's undo rules".to_owned(),
            (UndoMode::None, _) => "none: it kept nothing".to_owned(),
        }
    }
}

fn number(n: i64) -> String {
    let sign = if n < 0 { "-" } else { "" };
    format!("{sign}{}", count(n.unsigned_abs()))
}
