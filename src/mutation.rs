//! What tests do to the program from the inside, in debug builds alone; a release build has no such switches.
//!
//! Guards can be taken out one by one, so that tests can show what each of them is there for: `BACKFILL_WITHOUT` names them, with commas
//! between them. And the program can be stopped at a step of its work: `BACKFILL_STOP_AT=written:2:kill` at the second chunk whose rows are
//! written, by SIGKILL; `stop` instead is SIGSTOP.

use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A guard of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A chunk that is done is not done again: the claim sees it, and the mark refuses it.
    Claim,
    /// Whose epoch is over claims, settles and cuts nothing.
    Epoch,
    /// Each runner begins an epoch of its own.
    NewEpoch,
    /// What is locked, saved and written are the same rows.
    Accounting,
    /// A row is given back only if it still holds what the run wrote.
    Comparison,
    /// A run goes on only with the spec that it began with.
    Digest,
    /// A run ends at the greatest key of when it began.
    Ceiling,
    /// One runner works on a run.
    SingleRunner,
    /// What the program asks for itself is resolved in `pg_catalog` alone.
    OwnPath,
}

const WORDS: [(Guard, &str); 9] = [
    (Guard::Claim, "claim"),
    (Guard::Epoch, "epoch"),
    (Guard::NewEpoch, "new_epoch"),
    (Guard::Accounting, "accounting"),
    (Guard::Comparison, "comparison"),
    (Guard::Digest, "digest"),
    (Guard::Ceiling, "ceiling"),
    (Guard::SingleRunner, "single_runner"),
    (Guard::OwnPath, "own_path"),
];

impl Guard {
    /// Whether it is taken out.
    pub fn is_out(self) -> bool {
        if !cfg!(debug_assertions) {
            return false;
        }
        let Ok(out) = std::env::var("BACKFILL_WITHOUT") else { return false };
        let is_it =
            |word: &str| WORDS.iter().any(|(guard, known)| *guard == self && *known == word);
        out.split(',').any(is_it)
    }
}

/// A step of a run, behind which everything may be lost but what was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// What a run would do is known, and nothing of it is in the state tables.
    Planned,
    /// The run is in the state tables, and nobody works on it.
    Created,
    /// The runner has begun its epoch.
    Begun,
    /// Chunks are cut, and not committed.
    Cut,
    /// A chunk is claimed.
    Claimed,
    /// Its rows are locked and their before-images saved.
    Saved,
    /// Its rows are written.
    Written,
    /// It is marked done.
    Marked,
    /// It is committed, and nobody in the program knows.
    Committed,
    /// A chunk is halved, and the halves are not committed.
    Split,
    /// A row is set aside, and that is not committed.
    SetAside,
    /// All chunks are settled, and the run does not say so.
    Ending,
    /// The run says so.
    Ended,
}

/// How often the step to stop at was reached.
static REACHED: AtomicU32 = AtomicU32::new(0);

impl Step {
    /// All of them, in the order of a run, with their words.
    pub const ALL: [(Step, &str); 13] = [
        (Step::Planned, "planned"),
        (Step::Created, "created"),
        (Step::Begun, "begun"),
        (Step::Cut, "cut"),
        (Step::Claimed, "claimed"),
        (Step::Saved, "saved"),
        (Step::Written, "written"),
        (Step::Marked, "marked"),
        (Step::Committed, "committed"),
        (Step::Split, "split"),
        (Step::SetAside, "set_aside"),
        (Step::Ending, "ending"),
        (Step::Ended, "ended"),
    ];

    /// Stops here if that was asked for.
    pub fn reach(self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let Ok(asked) = std::env::var("BACKFILL_STOP_AT") else { return };
        let mut asked = asked.split(':');
        let is_it = |word: &str| Step::ALL.contains(&(self, word));
        if !asked.next().is_some_and(is_it) {
            return;
        }
        let time = asked.next().and_then(|n| n.parse().ok());
        if time == Some(REACHED.fetch_add(1, Ordering::SeqCst) + 1) {
            let signal = match asked.next() {
                Some("stop") => Signal::SIGSTOP,
                _ => Signal::SIGKILL,
            };
            let _ = kill(Pid::this(), signal);
        }
    }
}

/// A statement on the state tables, less the guards in it that are taken out.
pub fn statement(mut sql: String) -> String {
    if Guard::Claim.is_out() {
        sql = sql.replace("and c.state <> 'done' and r.run_id", "and r.run_id");
    }
    if Guard::NewEpoch.is_out() {
        sql = sql.replace("epoch = epoch + 1", "epoch = epoch");
    }
    if Guard::Epoch.is_out() {
        for n in 1..10 {
            let any = format!("${n}::int4 is not null");
            sql = sql.replace(&format!("r.epoch = ${n}"), &any);
            sql = sql.replace(&format!("and epoch = ${n}"), &format!("and {any}"));
        }
    }
    sql
}
