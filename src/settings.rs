//! Limits and project settings, each value with the place it came from.
//!
//! Precedence: flag, environment, spec, `backfill.toml`, built-in default. [`Layer`] is one place's say, [`Limits`] the result.
//! Pure; the environment is passed in.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::budget::{BUDGET_HELP, Budget};
use crate::calendar::{Calendar, read};
use crate::diagnostic::{Diagnostic, Report};
use crate::document::{self, Section};
use crate::signal;
use crate::units::{
    DURATION_HELP, WORKERS_MAX, parse_chunk_time, parse_duration, parse_lock_timeout, parse_workers,
};
use crate::vacuum;

/// Workers of a run that nobody gives a number of: one waits for its COMMIT while the other is at work.
pub const WORKERS: u32 = 2;

/// Where a setting came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A command-line flag.
    Flag,
    /// `backfill tune` on the live run.
    Tune,
    /// The window in force.
    Window,
    /// An environment variable `BACKFILL_…`.
    Environment,
    /// The spec's `[limits]`.
    Spec,
    /// The `[limits]` of `backfill.toml`.
    Project,
    /// What the health signal `latency` brings along.
    Latency,
    /// Built in.
    Default,
}

impl Origin {
    /// Whether somebody said so for this very run, which a window does not override.
    pub fn is_operator(self) -> bool {
        matches!(self, Origin::Flag | Origin::Tune | Origin::Environment)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Flag => "flag",
            Origin::Tune => "tune",
            Origin::Window => "window",
            Origin::Environment => "environment",
            Origin::Spec => "spec",
            Origin::Project => "backfill.toml",
            Origin::Latency => "latency",
            Origin::Default => "default",
        })
    }
}

/// A value in force and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Setting<T> {
    /// The value in force.
    pub value: T,
    /// Who said so.
    pub origin: Origin,
}

/// What one place says about the limits; silence is None.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Layer {
    /// Chunks in flight at once.
    pub workers: Option<u32>,
    /// What may be done in a second, over all workers.
    pub rate: Option<Budget>,
    /// How long one chunk should take.
    pub chunk_time: Option<Duration>,
    /// Most key entries a chunk may span.
    pub chunk_rows_max: Option<u32>,
    /// Most rows to set aside before the run fails.
    pub quarantine_max: Option<u32>,
    /// How long a chunk waits for a row lock before it gives way to the application.
    pub lock_timeout: Option<Duration>,
    /// When a chunk's COMMIT is on disk.
    pub durability: Option<Durability>,
}

impl Layer {
    /// What makes a run least felt at any rate: nobody waits for a chunk, or for a processor beside it, longer than for a few of his own
    /// transactions.
    pub fn unfelt() -> Layer {
        Layer { workers: Some(1), chunk_time: Some(Duration::from_millis(2)), ..Layer::default() }
    }

    /// Reads the `[limits]` of a spec or of `backfill.toml`.
    pub fn read(root: &Section<'_>) -> Layer {
        let read = |limits: &Section<'_>| {
            Some(Layer {
                workers: limits.integer("workers", 1..=WORKERS_MAX).map(|n| n as u32),
                rate: limits.parsed("rate", BUDGET_HELP, str::parse),
                chunk_time: limits.parsed("chunk_time", DURATION_HELP, parse_chunk_time),
                chunk_rows_max: limits.integer("chunk_rows_max", 1..=1_000_000).map(|n| n as u32),
                quarantine_max: limits.integer("quarantine_max", 0..=1_000_000).map(|n| n as u32),
                lock_timeout: limits.parsed("lock_timeout", DURATION_HELP, parse_lock_timeout),
                durability: limits.parsed("durability", "one of `commit` and `group`", str::parse),
            })
        };
        root.section("limits", read).unwrap_or_default()
    }

    /// Reads `BACKFILL_WORKERS`, `BACKFILL_RATE` and `BACKFILL_CHUNK_TIME`; a value that cannot be read is an error that
    /// names its variable.
    pub fn from_environment(var: impl Fn(&str) -> Option<String>) -> Result<Layer, String> {
        fn parsed<T>(
            value: Option<String>,
            name: &str,
            parse: impl FnOnce(&str) -> Result<T, String>,
        ) -> Result<Option<T>, String> {
            let Some(value) = value else { return Ok(None) };
            parse(&value).map(Some).map_err(|why| format!("{name}={value}: {why}"))
        }
        Ok(Layer {
            workers: parsed(var("BACKFILL_WORKERS"), "BACKFILL_WORKERS", parse_workers)?,
            rate: parsed(var("BACKFILL_RATE"), "BACKFILL_RATE", str::parse)?,
            chunk_time: parsed(
                var("BACKFILL_CHUNK_TIME"),
                "BACKFILL_CHUNK_TIME",
                parse_chunk_time,
            )?,
            ..Layer::default()
        })
    }
}

/// When a chunk's COMMIT is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Before it is said to be done.
    Commit,
    /// Within three times the server's `wal_writer_delay`, with others. A crash of the server takes the last chunks back, rows,
    /// before-images and done marks together, and they are done again. The last commit of a run waits for the disk, and with it for all of
    /// them.
    Group,
}

impl std::str::FromStr for Durability {
    type Err = String;

    fn from_str(word: &str) -> Result<Durability, String> {
        match word {
            "commit" => Ok(Durability::Commit),
            "group" => Ok(Durability::Group),
            other => Err(format!("`{other}` is neither")),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Commit => "commit",
            Durability::Group => "group",
        })
    }
}

/// The limits in force.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Chunks at work at once; one that only waits for its COMMIT does not count. Default 2: enough to keep a second core of the
    /// server busy; more is the operator's choice.
    pub workers: Setting<u32>,
    /// What may be done in a second, over all workers.
    pub rate: Setting<Budget>,
    /// How long one chunk should take. Default 500 ms: every lock a chunk takes is held at most about that long.
    pub chunk_time: Setting<Duration>,
    /// Most key entries a chunk may span. Default 50,000: bounds what a crash undoes and what one statement remembers.
    pub chunk_rows_max: Setting<u32>,
    /// Most rows to set aside before the run fails. Default 100: more is a mistake in the spec, not in the data.
    pub quarantine_max: Setting<u32>,
    /// How long a chunk waits for a row lock. Default 500 ms, half the server's default `deadlock_timeout`: in a deadlock the
    /// backfill gives way before the server looks for a victim and finds the application.
    pub lock_timeout: Setting<Duration>,
    /// When a chunk's COMMIT is on disk. Default `commit`.
    pub durability: Setting<Durability>,
}

impl Limits {
    /// Combines the layers, the first that speaks wins.
    pub fn resolve(layers: &[(Origin, Layer)]) -> Limits {
        fn pick<T: Copy>(
            layers: &[(Origin, Layer)],
            default: T,
            get: impl Fn(&Layer) -> Option<T>,
        ) -> Setting<T> {
            let found = layers.iter().find_map(|(origin, layer)| Some((*origin, get(layer)?)));
            let (origin, value) = found.unwrap_or((Origin::Default, default));
            Setting { value, origin }
        }
        Limits {
            workers: pick(layers, WORKERS, |l| l.workers),
            rate: pick(layers, Budget::UNLIMITED, |l| l.rate),
            chunk_time: pick(layers, Duration::from_millis(500), |l| l.chunk_time),
            chunk_rows_max: pick(layers, 50_000, |l| l.chunk_rows_max),
            quarantine_max: pick(layers, 100, |l| l.quarantine_max),
            lock_timeout: pick(layers, Duration::from_millis(500), |l| l.lock_timeout),
            durability: pick(layers, Durability::Commit, |l| l.durability),
        }
    }
}

/// The project's settings, `backfill.toml`.
#[derive(Clone, Debug, Default)]
pub struct Project {
    /// `[database] url`.
    pub url: Option<String>,
    /// `[database] state_schema`; where the state tables live, `backfill` when not given.
    pub state_schema: Option<String>,
    /// `[limits]`.
    pub limits: Layer,
    /// `[[throttle.window]]`.
    pub calendar: Option<Calendar>,
    /// `[health]`.
    pub health: Option<signal::Settings>,
    /// `[vacuum]`.
    pub vacuum: Option<vacuum::Settings>,
    /// `[undo] retention`.
    pub retention: Option<Duration>,
}

/// How long before-images are kept when nobody says otherwise: two weeks, in which a mistake is usually found, and short enough
/// that copies of personal data do not gather.
const RETENTION: Duration = Duration::from_secs(14 * 24 * 60 * 60);

impl Project {
    /// How long the before-images of a finished run are to be kept.
    pub fn retention(&self) -> Duration {
        self.retention.unwrap_or(RETENTION)
    }

    /// Reads the file's text; all problems at once.
    pub fn parse(path: &str, source: &str) -> Result<Project, Report> {
        let read = |root: &Section<'_>| {
            let database = root.section("database", |database| {
                let schema = database.text("state_schema");
                if let Some(schema) = schema.as_ref().filter(|s| s.text.is_empty()) {
                    let problem =
                        Diagnostic::new("`state_schema` is empty", schema.span.clone(), "");
                    database.problem(problem.help("leave it out for the schema `backfill`"));
                }
                Some((database.text("url").map(|e| e.text), schema.map(|e| e.text)))
            });
            let (url, state_schema) = database.unwrap_or_default();
            let retention = root.section("undo", |undo| {
                undo.parsed("retention", "such as \"14d\"", parse_duration)
            });
            let calendar = read::calendar(root);
            let health = signal::Settings::read(root);
            let vacuum = vacuum::Settings::read(root);
            Some(Project {
                url,
                state_schema,
                limits: Layer::read(root),
                calendar,
                health,
                vacuum,
                retention,
            })
        };
        document::read(source, read).map_err(|problems| Report::new(path, source, problems))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_layer_that_speaks_wins() {
        let flag = Layer { workers: Some(4), ..Layer::default() };
        let spec = Layer { workers: Some(1), rate: Some(Budget::rows(10.0)), ..Layer::default() };
        let limits = Limits::resolve(&[(Origin::Flag, flag), (Origin::Spec, spec)]);
        assert_eq!(limits.workers, Setting { value: 4, origin: Origin::Flag });
        assert_eq!(limits.rate.origin, Origin::Spec);
        assert_eq!(limits.chunk_time.origin, Origin::Default);
    }

    #[test]
    fn a_project_file_reports_all_its_problems() {
        let source = "[database]\nurll = \"x\"\n[limits]\nworkers = 0\nrate = \"5\"\n";
        let report = Project::parse("backfill.toml", source).unwrap_err();
        let lines: Vec<usize> = report.located().map(|l| l.line).collect();
        assert_eq!(lines, [2, 4, 5]);
    }
}
