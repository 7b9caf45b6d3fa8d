//! Looks at the signals once a second, on a connection of its own, and keeps the newest sample for whoever asks.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Duration;

use deadpool_postgres::Object;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::{Client, Error};

use super::health::{Measure, Sample};
use super::latency::{KNOWN_WITHIN, Latency};
use super::probes;
use super::times::AtWork;
use crate::db::lock::LockKey;
use crate::db::{Database, message};
use crate::signal::{Kind, Settings};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// A look that takes longer is given up, and its connection with it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the signals are about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The table.
    pub table: u32,
    /// The lock that this run holds.
    pub run_lock: LockKey,
    /// The lock that its chunks hold while at work.
    pub chunk_lock: LockKey,
    /// `server_version_num`.
    pub version: i32,
}

/// What a look found.
#[derive(Clone, Debug)]
pub struct Look {
    /// The signals.
    pub sample: Sample,
    /// Runs on this server, whether they are at work or not.
    pub runs: u32,
    /// Whether a chunk of another run was seen at work in the last looks.
    pub others_at_work: bool,
}

/// What is remembered from look to look.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) version: i32,
    timeline: Option<u32>,
    pub(super) replicas: Vec<String>,
    pub(super) slots: BTreeMap<String, f64>,
    pub(super) lost_slots: Vec<String>,
    usual: Option<f64>,
    learnt: u32,
    checkpoint: Option<(i64, i64)>,
    by_wal: VecDeque<Instant>,
    latency: Option<Latency>,
    /// When a chunk of another run was last seen.
    others_at: Option<Instant>,
}

/// Looks that the usual number of sessions is learnt from: a minute.
const LEARN: u32 = 60;

/// Most that one of these looks may raise it.
const LEARN_STEP: f64 = 1.02;

/// Sessions that are nothing unusual whatever the server is used to.
const FEW_SESSIONS: f64 = 8.0;

/// Part of `max_wal_size` at which the server begins a checkpoint by itself: a third at least, for every
/// `checkpoint_completion_target`; a little less is what may be written until the next look.
const BY_WAL: f64 = 0.3;

/// A run whose chunks are short is not seen by each look.
const OTHERS_OVER: Duration = Duration::from_secs(15);

/// Over this long requested checkpoints are counted.
const CHECKPOINTS_OVER: Duration = Duration::from_secs(300);

impl Memory {
    /// Whether it is still the server that is remembered. One that was promoted has replicas and slots of its own; those of the server whose
    /// place it took will not come back.
    fn meet(&mut self, timeline: Option<u32>) -> bool {
        let is_other = timeline.is_some() && self.timeline.is_some() && timeline != self.timeline;
        self.timeline = timeline.or(self.timeline);
        if is_other {
            self.replicas.clear();
            self.slots.clear();
            self.checkpoint = None;
            self.latency.iter().for_each(Latency::forget);
        }
        !is_other
    }

    /// Sessions at work against the usual number: what the first look saw, before the first chunk, and for a minute a little more with each
    /// look that sees more. A crowd that comes at once is not taken for the usual.
    pub(super) fn sessions(&mut self, active: f64) -> Measure {
        let usual = match self.usual {
            None => active.max(FEW_SESSIONS),
            Some(usual) if self.learnt < LEARN && active > usual => active.min(usual * LEARN_STEP),
            Some(usual) => usual,
        };
        (self.usual, self.learnt) = (Some(usual), self.learnt + 1);
        let words =
            format!("{active:.0} sessions of others are at work, usually at most {usual:.0}");
        Measure::value(active / usual, words)
    }

    /// How many came because of WAL in the last five minutes: requested, and with much WAL since the one before. A CHECKPOINT that
    /// somebody typed, a backup or a new database request one too, whatever the WAL.
    pub(super) fn checkpoints(&mut self, requested: i64, redo: i64, max_wal_size: i64) -> f64 {
        let now = Instant::now();
        let (requested_before, redo_before) =
            self.checkpoint.replace((requested, redo)).unwrap_or((requested, redo));
        if requested > requested_before
            && (redo - redo_before) as f64 > max_wal_size as f64 * BY_WAL
        {
            self.by_wal.push_back(now);
        }
        while self.by_wal.front().is_some_and(|at| now - *at > CHECKPOINTS_OVER) {
            self.by_wal.pop_front();
        }
        self.by_wal.len() as f64
    }
}

/// What a run and its sampler tell each other.
#[derive(Debug)]
pub struct Looks {
    /// What the sampler sees; none before its first look.
    pub newest: watch::Receiver<Option<Look>>,
    /// Who is at work, and will be until this says otherwise.
    pub at_work: watch::Sender<AtWork>,
}

/// Begins to look, at a run that is not at work yet; ends when nobody holds the receiver any more. The first look is on its way when this returns.
pub fn start(database: Database, subject: Subject, settings: Settings) -> Looks {
    let (sender, receiver) = watch::channel(None);
    let (at_work, is_at_work) = watch::channel(AtWork::Nobody);
    tokio::spawn(async move {
        let listens = settings.has(Kind::Latency);
        let latency = listens.then(|| Latency::listen(database.clone(), is_at_work));
        let mut memory = Memory { version: subject.version, latency, ..Memory::default() };
        let (mut is_first, started) = (true, Instant::now());
        let mut connection: Option<Object> = None;
        while !sender.is_closed() {
            let begun = Instant::now();
            if connection.as_ref().is_none_or(|held| held.is_closed()) {
                connection = tokio::select! {
                    got = database.get() => got.ok(),
                    () = tokio::time::sleep(PATIENCE) => None,
                };
                is_first |= connection.is_some() && !memory.meet(database.timeline());
            }
            if let Some(held) = &connection {
                // The look is no chunk: giving it up leaves nothing half-done.
                let look = tokio::select! {
                    look = look(held, &subject, &settings, &mut memory, is_first) => look,
                    () = tokio::time::sleep(PATIENCE) => None,
                };
                match look {
                    Some(look) => {
                        is_first = false;
                        // The other signals do not wait for it for long.
                        let is_over = started.elapsed() >= KNOWN_WITHIN;
                        if is_over || memory.latency.as_ref().is_none_or(Latency::is_known) {
                            sender.send_replace(Some(look));
                        }
                    }
                    // A connection that does not answer is thrown away.
                    None => drop(connection.take().map(Object::take)),
                }
            }
            tokio::time::sleep_until(begun + EVERY).await;
        }
    });
    Looks { newest: receiver, at_work }
}

/// One look; none when the connection does not serve.
async fn look(
    client: &Client,
    subject: &Subject,
    settings: &Settings,
    memory: &mut Memory,
    is_first: bool,
) -> Option<Look> {
    if is_first {
        memory.lost_slots = probes::lost_slots(client).await.ok()?;
    }
    let mut measures = Vec::new();
    let mut add = |kind: Kind, measure: Measure| {
        if settings.has(kind) {
            measures.push((kind, measure));
        }
    };
    // What nobody wants to know is not asked.
    let has_any = |kinds: &[Kind]| kinds.iter().any(|kind| settings.has(*kind));
    if has_any(&[Kind::ReplicaLag, Kind::ReplicaDelay]) {
        let (lag, delay) = pair(probes::replicas(client, memory).await);
        add(Kind::ReplicaLag, lag);
        add(Kind::ReplicaDelay, delay);
    }
    if settings.has(Kind::Slots) {
        add(Kind::Slots, single(probes::slots(client, memory).await));
    }
    if settings.has(Kind::Archiver) {
        match probes::archiver(client).await {
            Ok(Some(measure)) => add(Kind::Archiver, measure),
            Ok(None) => {}
            Err(error) => add(Kind::Archiver, unknown(&error)),
        }
    }
    if settings.has(Kind::Blocked) {
        add(Kind::Blocked, single(probes::blocked(client, subject).await));
    }
    if has_any(&[Kind::Sessions, Kind::Horizon]) {
        let (sessions, horizon) = pair(probes::activity(client, subject, memory).await);
        add(Kind::Sessions, sessions);
        add(Kind::Horizon, horizon);
    }
    if has_any(&[Kind::Autovacuum, Kind::DeadRows]) {
        let (vacuum, dead) = pair(probes::table(client, subject).await);
        add(Kind::Autovacuum, vacuum);
        add(Kind::DeadRows, dead);
    }
    if settings.has(Kind::Checkpoints) {
        add(Kind::Checkpoints, single(probes::checkpoints(client, memory).await));
    }
    if let Some(latency) = &memory.latency {
        add(Kind::Latency, latency.measure());
    }
    if let Some(query) = &settings.query {
        add(Kind::Query, single(probes::query(client, query).await));
    }
    if let Some(path) = &settings.flag_file {
        add(Kind::FlagFile, flag_file(path));
    }
    if let Some(url) = &settings.http {
        add(Kind::Http, http(url.clone()).await);
    }
    let (runs, is_other_at_work) = probes::runs(client, subject).await.ok()?;
    memory.others_at = if is_other_at_work { Some(Instant::now()) } else { memory.others_at };
    let others_at_work = memory.others_at.is_some_and(|at| at.elapsed() < OTHERS_OVER);
    tracing::debug!(?measures, runs, "signals");
    Some(Look { sample: Sample { measures }, runs, others_at_work })
}

fn unknown(error: &Error) -> Measure {
    Measure::Unknown(message(error))
}

fn single(asked: Result<Measure, Error>) -> Measure {
    asked.unwrap_or_else(|error| unknown(&error))
}

fn pair(asked: Result<(Measure, Measure), Error>) -> (Measure, Measure) {
    asked.unwrap_or_else(|error| (unknown(&error), unknown(&error)))
}

fn flag_file(path: &str) -> Measure {
    match Path::new(path).try_exists() {
        Ok(true) => Measure::stated(super::grade::Grade::Hold, format!("the file {path} exists")),
        Ok(false) => Measure::value(0.0, format!("the file {path} does not exist")),
        Err(error) => Measure::Unknown(format!("look for {path}: {error}")),
    }
}

/// Asks the operator's URL: by HEAD, and where that is not served by GET.
async fn http(url: String) -> Measure {
    let asked = tokio::task::spawn_blocking(move || {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(EVERY))
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .into();
        let status = |answer: ureq::http::Response<ureq::Body>| answer.status().as_u16();
        match agent.head(&url).call().map(status) {
            Ok(405 | 501) => agent.get(&url).call().map(status),
            other => other,
        }
    });
    match asked.await {
        Ok(Ok(status @ (429 | 503))) => Measure::stated(
            super::grade::Grade::Hold,
            format!("the operator's URL answers {status}"),
        ),
        Ok(Ok(status @ 200..=399)) => {
            Measure::value(0.0, format!("the operator's URL answers {status}"))
        }
        Ok(Ok(status)) => Measure::Unknown(format!("the operator's URL answers {status}")),
        Ok(Err(error)) => Measure::Unknown(format!("ask the operator's URL: {error}")),
        Err(error) => Measure::Unknown(format!("ask the operator's URL: {error}")),
    }
}
