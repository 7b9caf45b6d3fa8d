//! What the engine tells the world: only what is committed, and what it waits for.

use std::time::Duration;

use serde::Serialize;

/// One thing that happened. With `--json` each is one line on stdout.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The runner is at work.
    Started {
        /// The spec's name.
        name: String,
        /// The run.
        run_id: i64,
        /// The runner's epoch; above 2 the run was resumed.
        epoch: i32,
        /// Rows the table is thought to hold.
        table_rows_estimate: i64,
        /// Key entries settled by earlier runners.
        keys_done: i64,
        /// Rows written by earlier runners.
        rows_done: i64,
    },
    /// A chunk is committed.
    Settled {
        /// The chunk.
        seq: i64,
        /// Rows it wrote.
        rows: i64,
        /// Key entries in it.
        keys: i64,
        /// From claim to commit.
        took_ms: u64,
        /// Of that, the statements that write the rows, as the runner saw them; microseconds.
        write_us: u64,
        /// Bytes of WAL that it is thought to have cost.
        wal_bytes: u64,
        /// Whether an earlier attempt had committed it, and this one found out.
        found_done: bool,
    },
    /// A chunk met an error and will be tried again.
    Retrying {
        /// The chunk.
        seq: i64,
        /// How often it has been tried.
        attempts: u32,
        /// The server's words.
        error: String,
        /// Before the next attempt.
        wait_ms: u64,
    },
    /// A chunk was cut in two.
    Split {
        /// The chunk that keeps the lower part.
        seq: i64,
        /// Why.
        error: String,
    },
    /// A row was set aside.
    Quarantined {
        /// The chunk that held only this row.
        seq: i64,
        /// The row's key.
        key: Vec<String>,
        /// The error's code.
        sqlstate: String,
        /// The server's message.
        error: String,
    },
    /// A chunk was given up.
    ChunkFailed {
        /// The chunk.
        seq: i64,
        /// The server's words.
        error: String,
    },
    /// The throttle changed its mind.
    Throttle {
        /// `proceed`, `slow` or `hold`.
        verdict: &'static str,
        /// The constraint: `limit`, `window NAME`, or a signal; null for `proceed`.
        by: Option<String>,
        /// Why.
        reason: String,
    },
    /// The table was vacuumed.
    Vacuumed {
        /// How long that took.
        took_ms: u64,
        /// Row versions that the run had left dead since the last one, at least.
        dead: i64,
    },
    /// A vacuum was due and did not happen.
    NotVacuumed {
        /// Why.
        reason: String,
    },
    /// A partition is no part of the table any more: its chunks are done without a look.
    PassedOver {
        /// Its name, if it is still a table.
        partition: String,
    },
    /// The table was rewritten while it was walked by place: what the walk does not meet any more is done behind it.
    Rewritten {},
    /// The table has been walked by place, and is looked at as a whole for what is left.
    Looking {},
    /// Rows are left in a table without a key: it is walked once more.
    Again {
        /// Which round it is, from 2.
        round: usize,
    },
    /// What the walk has left is swept by key.
    Sweeping {
        /// Rows left to do; null when there are too many to be listed, and every key is looked at.
        rows: Option<usize>,
    },
    /// Another window is in force, or none.
    Window {
        /// Its name.
        window: Option<String>,
        /// Until when, in words.
        until: Option<String>,
    },
    /// The limits changed on an operator's word.
    Tuned {
        /// Chunks in flight at once.
        workers: u32,
        /// Rows a second; none is unlimited.
        rate_rows_per_s: Option<f64>,
        /// Bytes of WAL a second; none is unlimited.
        wal_bytes_per_s: Option<f64>,
        /// How long one chunk should take.
        chunk_time_ms: u64,
    },
    /// The runner is stopping; chunks in flight settle first.
    Draining {
        /// Why.
        reason: String,
        /// How many are in flight.
        in_flight: usize,
    },
    /// The runner has stopped.
    Stopped {
        /// The run's state.
        state: &'static str,
        /// Rows this runner wrote.
        rows: i64,
        /// How long it was at work.
        took_ms: u64,
    },
}

/// Where events go. Called from the dispatcher only, in the order things happened.
pub trait Listener {
    /// Takes one event.
    fn hear(&mut self, event: &Event);
}

/// A whole number with thousands separators, for people.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in bytes for people: `12.3 MB`.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit < UNITS.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A duration for people: `850 ms`, `12.4 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(12_340_000), "12.3 MB");
        assert_eq!(duration(Duration::from_millis(850)), "850 ms");
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(duration(Duration::from_secs(7500)), "2 h 5 min");
        assert_eq!(duration(Duration::from_secs(86_400 * 3 + 7500)), "3 d 2 h");
    }
}
