//! The health signals: their names, units, thresholds, and what `[health]` says of them. Pure.

mod read;

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::event::{bytes, count, duration};
use crate::units::{DURATION_HELP, parse_bytes, parse_duration};

/// A signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Bytes of WAL that the slowest replica has not replayed.
    ReplicaLag,
    /// Seconds that the slowest replica's replay is behind, while it is behind by a megabyte and more.
    ReplicaDelay,
    /// Bytes of WAL that a replication slot keeps more than when the run began; a slot about to be lost holds.
    Slots,
    /// WAL segments waiting to be archived; a failing archiver holds.
    Archiver,
    /// Sessions of others that wait for a lock of ours.
    Blocked,
    /// Sessions of others at work, times their usual number.
    Sessions,
    /// Checkpoints in the last five minutes that came because of WAL, not of time.
    Checkpoints,
    /// COMMIT of our own chunks, times its usual time.
    CommitLatency,
    /// By how many percent a small transaction takes longer than before the first chunk. Off unless it is asked for.
    Latency,
    /// A vacuum at work on the table; one against wraparound holds.
    Autovacuum,
    /// Seconds since the oldest transaction that keeps dead rows from being vacuumed.
    Horizon,
    /// Dead rows in the table, while they are a fifth of it and more.
    DeadRows,
    /// The operator's own SQL query.
    Query,
    /// The operator's file that holds every run while it exists.
    FlagFile,
    /// The operator's URL that holds with 429 or 503.
    Http,
}

/// In what a signal's values are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Bytes,
    Seconds,
    Number,
    Times,
    Percent,
}

/// All signals, in the order of documentation.
pub const KINDS: [Kind; 15] = [
    Kind::ReplicaLag,
    Kind::ReplicaDelay,
    Kind::Slots,
    Kind::Archiver,
    Kind::Blocked,
    Kind::Sessions,
    Kind::Checkpoints,
    Kind::CommitLatency,
    Kind::Latency,
    Kind::Autovacuum,
    Kind::Horizon,
    Kind::DeadRows,
    Kind::Query,
    Kind::FlagFile,
    Kind::Http,
];

/// From which values on a signal stops growth, cuts the rate, and holds. What is not given never happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Thresholds {
    /// The rate is not raised any more.
    pub warm: Option<f64>,
    /// The rate is cut.
    pub hot: Option<f64>,
    /// No chunk is started.
    pub hold: Option<f64>,
}

impl Kind {
    /// The word in files, flags, SQL and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::ReplicaLag => "replica_lag",
            Kind::ReplicaDelay => "replica_delay",
            Kind::Slots => "slots",
            Kind::Archiver => "archiver",
            Kind::Blocked => "blocked",
            Kind::Sessions => "sessions",
            Kind::Checkpoints => "checkpoints",
            Kind::CommitLatency => "commit_latency",
            Kind::Latency => "latency",
            Kind::Autovacuum => "autovacuum",
            Kind::Horizon => "horizon",
            Kind::DeadRows => "dead_rows",
            Kind::Query => "query",
            Kind::FlagFile => "flag_file",
            Kind::Http => "http",
        }
    }

    /// The signal of a word.
    pub fn parse(word: &str) -> Option<Kind> {
        KINDS.into_iter().find(|kind| kind.name() == word)
    }

    /// Whether it is at work only where it is asked for.
    pub fn is_extra(self) -> bool {
        matches!(self, Kind::Latency | Kind::Query | Kind::FlagFile | Kind::Http)
    }

    /// Whether slowing down makes it better. The others slow the run to half its speed for as long as they last.
    pub fn answers(self) -> bool {
        !matches!(self, Kind::Checkpoints | Kind::Autovacuum | Kind::Horizon | Kind::DeadRows)
    }

    /// The defaults, from the doctrine of running backfills beside production: values at which applications were not yet harmed. A
    /// number of requested checkpoints or dead rows alone never stops a run, because stopping does not mend it.
    pub fn defaults(self) -> Thresholds {
        let all = |warm: f64, hot: f64, hold: f64| Thresholds {
            warm: Some(warm),
            hot: Some(hot),
            hold: Some(hold),
        };
        match self {
            Kind::ReplicaLag => all(32e6, 64e6, 256e6),
            Kind::ReplicaDelay => all(1.0, 2.0, 10.0),
            Kind::Slots => Thresholds { hold: None, ..all(256e6, 1e9, 0.0) },
            Kind::Archiver => all(8.0, 16.0, 42.0),
            Kind::Blocked => Thresholds { warm: None, ..all(0.0, 1.0, 3.0) },
            Kind::Sessions => all(1.2, 1.5, 3.0),
            Kind::Checkpoints => Thresholds { hold: None, ..all(1.0, 2.0, 0.0) },
            Kind::CommitLatency => all(2.0, 3.0, 10.0),
            Kind::Latency => all(15.0, 30.0, 2_000.0),
            Kind::Autovacuum => Thresholds { warm: None, hot: Some(1.0), hold: None },
            Kind::Horizon => all(120.0, 300.0, 900.0),
            Kind::DeadRows => Thresholds { hold: None, ..all(5e6, 1e7, 0.0) },
            Kind::Query | Kind::FlagFile | Kind::Http => Thresholds::default(),
        }
    }

    fn unit(self) -> Unit {
        match self {
            Kind::ReplicaLag | Kind::Slots => Unit::Bytes,
            Kind::ReplicaDelay | Kind::Horizon => Unit::Seconds,
            Kind::Sessions | Kind::CommitLatency => Unit::Times,
            Kind::Latency => Unit::Percent,
            _ => Unit::Number,
        }
    }

    /// A value in its unit, for people.
    pub fn show(self, value: f64) -> String {
        match self.unit() {
            Unit::Bytes => bytes(value.max(0.0) as u64),
            Unit::Seconds => duration(Duration::from_secs_f64(value.clamp(0.0, 1e9))),
            Unit::Times => format!("{value:.1} times"),
            Unit::Percent => format!("{} %", count(value.max(0.0) as u64)),
            Unit::Number if value.fract() == 0.0 => count(value.max(0.0) as u64),
            Unit::Number => format!("{value:.2}"),
        }
    }

    fn read(self, text: &str) -> Result<f64, String> {
        match self.unit() {
            Unit::Bytes => parse_bytes(text),
            Unit::Seconds => parse_duration(text).map(|time| time.as_secs_f64()),
            _ => {
                let number: f64 = text
                    .trim()
                    .replace('_', "")
                    .parse()
                    .map_err(|_| format!("`{text}` is no number"))?;
                (number.is_finite() && number >= 0.0)
                    .then_some(number)
                    .ok_or("it must not be negative".to_owned())
            }
        }
    }

    fn help(self) -> &'static str {
        match self.unit() {
            Unit::Bytes => "write it as `64 MB`",
            Unit::Seconds => DURATION_HELP,
            _ => "write a number",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The operator's own query.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// What it is called in reasons.
    pub name: String,
    /// SQL that yields one number.
    pub sql: String,
}

/// What `[health]` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Signals at work with their thresholds.
    pub signals: Vec<(Kind, Thresholds)>,
    /// The operator's query.
    pub query: Option<Query>,
    /// The operator's file.
    pub flag_file: Option<String>,
    /// The operator's URL.
    pub http: Option<String>,
    /// Whether a signal that cannot be read is passed over instead of holding the run.
    pub ignores_unknown: bool,
    /// How long a signal may be unreadable before that holds the run.
    pub unknown_after: Duration,
    /// Whether the run may go on without the signals that this role cannot see.
    pub accepts_blind: bool,
}

/// Long enough for a restarted replica or a slow look-up, short enough that little happens unseen.
const UNKNOWN_AFTER: Duration = Duration::from_secs(10);

impl Default for Settings {
    fn default() -> Settings {
        let own = |kind: &Kind| !kind.is_extra();
        Settings {
            signals: KINDS.into_iter().filter(own).map(|kind| (kind, kind.defaults())).collect(),
            query: None,
            flag_file: None,
            http: None,
            ignores_unknown: false,
            unknown_after: UNKNOWN_AFTER,
            accepts_blind: false,
        }
    }
}

impl Settings {
    /// Whether a signal is at work.
    pub fn has(&self, kind: Kind) -> bool {
        self.thresholds(kind).is_some()
    }

    /// The thresholds of a signal at work.
    pub fn thresholds(&self, kind: Kind) -> Option<Thresholds> {
        self.signals.iter().find(|(known, _)| *known == kind).map(|(_, thresholds)| *thresholds)
    }
}
