//! A run and its lifecycle.
//!
//! A state that ends in -ing has been asked for, one that ends in -ed has been reached. [`RunState::next`] is the only authority
//! on what may follow what; the guarded UPDATE of the store is built from it. "Interrupted" is not a state: it is `running` while
//! nobody holds the run's lock.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::budget::Budget;
use crate::db::Session;
use crate::key::{Bound, Key, Leaves};
use crate::undo::{Conflicts, UndoMode};

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// At work, or interrupted.
    Running,
    /// A pause has been asked for; chunks in flight are settling.
    Pausing,
    /// Stopped by an operator or a signal; resumable.
    Paused,
    /// An end has been asked for; chunks in flight are settling.
    Cancelling,
    /// Ended for good before the end; what is done stays done.
    Cancelled,
    /// Every chunk is done.
    Succeeded,
    /// Stopped by an error; resumable.
    Failed,
}

/// What happens to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEvent {
    /// An operator asks for a pause.
    PauseAsked,
    /// An operator asks for the end.
    CancelAsked,
    /// The chunks in flight have settled after a pause or cancel was asked for.
    Drained,
    /// The last chunk has settled.
    Finished,
    /// An error ended it.
    Broke,
    /// An operator continues it.
    Continued,
    /// An operator retries the rows that a finished run set aside.
    Reopened,
}

/// All states, for building guards and for tests.
pub const ALL_STATES: [RunState; 7] = [
    RunState::Running,
    RunState::Pausing,
    RunState::Paused,
    RunState::Cancelling,
    RunState::Cancelled,
    RunState::Succeeded,
    RunState::Failed,
];

/// An event that cannot happen in a state.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a run that is {state} cannot be {event}", state = from.as_str(), event = event.as_str())]
pub struct IllegalTransition {
    /// The state it met.
    pub from: RunState,
    /// What was to happen.
    pub event: RunEvent,
}

impl RunState {
    /// The state that follows.
    pub fn next(self, event: RunEvent) -> Result<RunState, IllegalTransition> {
        use RunEvent::*;
        use RunState::*;
        match (self, event) {
            // A live run is asked to stop; asking twice changes nothing.
            (Running | Pausing, PauseAsked) => Ok(Pausing),
            // A cancel outranks a pause that has not been reached.
            (Running | Pausing | Cancelling, CancelAsked) => Ok(Cancelling),
            // Nothing is in flight, so the end is reached at once.
            (Paused | Failed, CancelAsked) => Ok(Cancelled),
            // The runner has drained, or there was no runner to drain. A signal drains a run that nobody paused.
            (Running | Pausing, Drained) => Ok(Paused),
            (Cancelling, Drained) => Ok(Cancelled),
            // The last chunk settled before the request was seen; there is nothing left to stop.
            (Running | Pausing | Cancelling, Finished) => Ok(Succeeded),
            // An error does not wait for the request to be seen.
            (Running | Pausing | Cancelling, Broke) => Ok(Failed),
            // A running or pausing run without a runner was interrupted; the others stopped in order.
            (Running | Pausing | Paused | Failed, Continued) => Ok(Running),
            // Rows that were set aside are tried again.
            (Succeeded, Reopened) => Ok(Running),
            (from, event) => Err(IllegalTransition { from, event }),
        }
    }

    /// Whether nothing more can happen to it but a retry of rows set aside.
    pub fn is_final(self) -> bool {
        matches!(self, RunState::Cancelled | RunState::Succeeded)
    }

    /// The word used in SQL, messages and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Running => "running",
            RunState::Pausing => "pausing",
            RunState::Paused => "paused",
            RunState::Cancelling => "cancelling",
            RunState::Cancelled => "cancelled",
            RunState::Succeeded => "succeeded",
            RunState::Failed => "failed",
        }
    }

    /// Reads the word back; None for a word this version does not know.
    pub fn parse(word: &str) -> Option<RunState> {
        ALL_STATES.into_iter().find(|state| state.as_str() == word)
    }
}

impl RunEvent {
    fn as_str(self) -> &'static str {
        match self {
            RunEvent::PauseAsked => "paused",
            RunEvent::CancelAsked => "cancelled",
            RunEvent::Drained => "drained",
            RunEvent::Finished => "finished",
            RunEvent::Broke => "failed",
            RunEvent::Continued => "resumed",
            RunEvent::Reopened => "reopened",
        }
    }
}

/// What an operator tuned; wins over every file and flag until the run ends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Tuned {
    /// Chunks in flight at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// What may be done in a second; an empty budget lifts the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Budget>,
    /// How long one chunk should take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_time_ms: Option<u64>,
    /// When these limits end; written with each of them, because the newest word counts as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits_until: Option<Ends>,
    /// A window put into force whatever the clock says, and when that ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<(String, Timestamp)>,
    /// Health signals passed over, and until when.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ignore: BTreeMap<String, Timestamp>,
}

/// When what an operator tuned ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ends {
    /// With the run.
    Never,
    /// At this instant.
    At(Timestamp),
}

impl Ends {
    /// Whether it is over at an instant.
    pub fn is_past(self, now: Timestamp) -> bool {
        matches!(self, Ends::At(end) if end <= now)
    }
}

/// A run as the state tables hold it.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its number.
    pub run_id: i64,
    /// The spec's name.
    pub name: String,
    /// `forward` or `reverse`.
    pub direction: String,
    /// Where it stands.
    pub state: RunState,
    /// Raised by every resume.
    pub epoch: i32,
    /// Raised by every operator's request.
    pub control_version: i32,
    /// The table, `schema.name`.
    pub table_name: String,
    /// The table's identity.
    pub table_oid: u32,
    /// What it is cut by.
    pub key: Key,
    /// The greatest key when the run began.
    pub ceiling: Option<Bound>,
    /// The leaves that it goes through one after the other; none for a run through the table as a whole.
    pub leaves: Option<Leaves>,
    /// Of a run by place, or one that takes it back: only row versions older than this transaction are walked, and what the sweep wrote must
    /// be given back before what was walked. None where a row may be met twice to no harm.
    pub walk_before: Option<i64>,
    /// The end of the last chunk cut.
    pub cut_upto: Option<Bound>,
    /// Whether the ceiling has been reached by cutting.
    pub fully_cut: bool,
    /// The number of the next chunk.
    pub next_seq: i64,
    /// SHA-256 of the spec's text.
    pub spec_digest: String,
    /// The chunk statement.
    pub statement: String,
    /// The condition of a row still to do, when it can be read from the data.
    pub remaining: Option<String>,
    /// The settings that give the spec's SQL its meaning.
    pub session: Session,
    /// Rows in the table when the run began, as the planner sees them.
    pub table_rows_estimate: i64,
    /// What an operator tuned.
    pub tuned: Tuned,
    /// What the runner last worked with.
    pub last: LastWorked,
    /// The last runner's host and process.
    pub runner: Option<(String, i32)>,
    /// Why it failed.
    pub failure: Option<String>,
    /// The run whose rows this one gives back.
    pub reverses: Option<i64>,
    /// The spec's text.
    pub spec_text: String,
    /// How it can be taken back, or, in a reverse run, how it takes back.
    pub undo: Undo,
    /// What a reverse run does about conflicts.
    pub conflicts: Conflicts,
    /// Who created it.
    pub created_by: String,
    /// Times, ISO 8601.
    pub times: Times,
}

impl Run {
    /// Whether it takes another run back.
    pub fn is_reverse(&self) -> bool {
        self.reverses.is_some()
    }

    /// Whether it goes through the table by place first.
    pub fn is_walked(&self) -> bool {
        self.leaves.as_ref().is_some_and(|leaves| leaves.walked() > 0)
    }
}

/// How a run can be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undo {
    /// By what.
    pub mode: UndoMode,
    /// The written columns, in the order of the before-images' fields.
    pub columns: Vec<String>,
    /// When the before-images were dropped, ISO 8601.
    pub pruned_at: Option<String>,
}

/// What the runner last worked with, for other sessions to see.
#[derive(Clone, Debug, Default)]
pub struct LastWorked {
    /// Chunks in flight at once.
    pub workers: Option<i32>,
    /// Rows a second; none is unlimited.
    pub rate_limit: Option<f64>,
    /// How long one chunk should take.
    pub chunk_time_ms: Option<i32>,
    /// The chunk size, in key entries.
    pub chunk_rows: Option<i32>,
    /// Bytes of WAL a second; none is unlimited.
    pub wal_limit: Option<f64>,
    /// The throttle's last word and its reason.
    pub throttle: Option<(String, String)>,
    /// The constraint behind it.
    pub throttle_by: Option<String>,
    /// The window in force and until when, in words.
    pub window: Option<(String, Option<String>)>,
    /// Bytes of WAL that a row costs.
    pub wal_per_row: Option<f64>,
    /// Seconds under each constraint, over all runners.
    pub spent: BTreeMap<String, f64>,
}

/// When things happened, ISO 8601 with a zone.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Times {
    /// When the run was created.
    pub created_at: String,
    /// When the last runner began.
    pub started_at: String,
    /// The last change.
    pub updated_at: String,
    /// When it succeeded or was cancelled.
    pub finished_at: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::RunEvent::*;
    use super::RunState::*;
    use super::*;

    #[test]
    fn every_pair_of_state_and_event_is_decided() {
        let events = [PauseAsked, CancelAsked, Drained, Finished, Broke, Continued, Reopened];
        let mut allowed = Vec::new();
        for state in ALL_STATES {
            for event in events {
                if let Ok(next) = state.next(event) {
                    allowed.push((state, event, next));
                }
            }
        }
        let expected = [
            (Running, PauseAsked, Pausing),
            (Running, CancelAsked, Cancelling),
            (Running, Drained, Paused),
            (Running, Finished, Succeeded),
            (Running, Broke, Failed),
            (Running, Continued, Running),
            (Pausing, PauseAsked, Pausing),
            (Pausing, CancelAsked, Cancelling),
            (Pausing, Drained, Paused),
            (Pausing, Finished, Succeeded),
            (Pausing, Broke, Failed),
            (Pausing, Continued, Running),
            (Paused, CancelAsked, Cancelled),
            (Paused, Continued, Running),
            (Cancelling, CancelAsked, Cancelling),
            (Cancelling, Drained, Cancelled),
            (Cancelling, Finished, Succeeded),
            (Cancelling, Broke, Failed),
            (Succeeded, Reopened, Running),
            (Failed, CancelAsked, Cancelled),
            (Failed, Continued, Running),
        ];
        assert_eq!(allowed, expected);
    }

    #[test]
    fn words_are_read_back() {
        for state in ALL_STATES {
            assert_eq!(RunState::parse(state.as_str()), Some(state));
        }
    }
}
