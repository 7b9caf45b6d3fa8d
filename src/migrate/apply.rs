//! Runs the statements of a revision, up or down, so that an interruption anywhere can be taken up again.
//!
//! Statements in a transaction are marked done in that transaction. One outside of any is marked as running before it, and as done
//! after it; what an interruption left behind is looked up in the catalogs (`outside`).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::{Client, Error};

use super::blockers::Blocker;
use super::class::Way;
use super::file::{Grouping, Statement};
use super::unit::{Kind, Unit, units};
use crate::db;
use crate::state::{Direction, Recorded, RevisionState, StepRecord, Store, StoreError};

/// What is to be run.
pub struct Work<'a> {
    /// The revision as it will be recorded.
    pub revision: &'a Recorded,
    /// Which way.
    pub direction: Direction,
    /// The statements of that way.
    pub statements: &'a [Statement],
    /// How they share transactions.
    pub grouping: Grouping,
    /// Queries that must yield true in the end.
    pub verify: &'a [Statement],
}

/// What the runner works with.
pub struct Runner<'a> {
    /// The state tables.
    pub store: &'a Store,
    /// Runs the statements: a session of its own, not behind a transaction pooler.
    pub client: &'a Client,
    /// Its backend's process.
    pub pid: i32,
    /// Looks on meanwhile.
    pub watch: &'a Client,
    /// How long a lock is tried for, each time one is not to be had.
    pub lock_budget: Duration,
    /// How long a statement may take that holds a strong lock.
    pub statement_timeout: Duration,
    /// What happens, as it happens.
    pub tell: &'a (dyn Fn(Event<'_>) + Sync),
    /// Whether to stop before the next unit.
    pub is_stopped: &'a (dyn Fn() -> bool + Sync),
    /// Whether the lock of schema steps is still held.
    pub is_alone: &'a (dyn Fn() -> bool + Sync),
}

/// What happens while a revision is run.
#[derive(Debug)]
pub enum Event<'a> {
    /// These statements are committed.
    Done(&'a [Statement], Duration),
    /// A statement was found done: an interrupted runner had got that far.
    Found(&'a Statement),
    /// A lock is not to be had; who has it, and when it is tried again.
    Waiting(&'a [Blocker], Duration),
    /// A long statement is at work: how far, and whom it waits for.
    Progress(&'a Statement, String),
    /// An invalid index is removed, to be built anew.
    Healed(&'a str),
}

/// Why a revision was not run to its end. What is done is recorded; nothing is half-done.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A statement failed, by its number.
    #[error("the server refuses statement {}", .0 + 1)]
    Statement(usize, #[source] Error),
    /// A verify query did not yield true, by its number.
    #[error("a verify query does not yield true")]
    Verify(usize),
    /// A verify query failed, by its number.
    #[error("a verify query fails")]
    VerifyQuery(usize, #[source] Error),
    /// A lock was not to be had within the budget.
    #[error("a lock was not to be had")]
    Locked(usize, Vec<Blocker>),
    /// A statement that is done has been changed since.
    #[error("statement {} is applied and has been changed since", .0 + 1)]
    Changed(usize),
    /// It was interrupted in a statement of which nobody can tell whether it was done.
    #[error("it was interrupted in statement {}, and nobody can tell whether that was done", .0 + 1)]
    Unknown(usize),
    /// The index is still invalid after it was built several times.
    #[error("the index {1} stays invalid")]
    Invalid(usize, String),
    /// The lock of schema steps is gone with its connection; another runner may be at work.
    #[error("the lock of schema steps was lost before statement {}", .0 + 1)]
    NotAlone(usize),
    /// Asked to stop; the rest is left.
    #[error("stopped before statement {}", .0 + 1)]
    Stopped(usize),
    /// A statement around it failed.
    #[error("{0}")]
    Around(&'static str, #[source] Error),
    /// The state tables.
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(super) type Applied<T> = Result<T, ApplyError>;

pub(super) fn around(what: &'static str) -> impl FnOnce(Error) -> ApplyError {
    move |error| ApplyError::Around(what, error)
}

impl Runner<'_> {
    /// Runs what is left of a revision.
    pub async fn apply(&self, work: &Work<'_>) -> Applied<()> {
        self.reset().await?;
        let steps = self.store.steps(self.client, &work.revision.id, work.direction).await?;
        check_done(work, &steps)?;
        let is_done = |i: usize| steps.get(&(i as i32)).is_some_and(|step| step.is_done);
        let units = units(work.statements, work.grouping);
        let left: Vec<&Unit> =
            units.iter().filter(|unit| !unit.range.clone().all(is_done)).collect();
        // A verify query may read a whole table; it must not do that under the locks of the last statements.
        let ends_apart = !work.verify.is_empty()
            || left.last().is_none_or(|unit| matches!(unit.kind, Kind::Outside(_)));
        for (i, unit) in left.iter().enumerate() {
            if (self.is_stopped)() {
                return Err(ApplyError::Stopped(unit.range.start));
            }
            if !(self.is_alone)() {
                return Err(ApplyError::NotAlone(unit.range.start));
            }
            match &unit.kind {
                Kind::Outside(outside) => {
                    let was_running = steps.contains_key(&(unit.range.start as i32));
                    self.outside(work, unit.range.start, outside, was_running).await?;
                }
                Kind::Quick | Kind::Long => {
                    let ends_here = i + 1 == left.len() && !ends_apart;
                    self.until_locked(work, unit, ends_here).await?;
                }
            }
        }
        if ends_apart {
            self.finish(work).await?;
        }
        // What a revision set for its session ends with it.
        self.reset().await
    }

    pub(super) async fn reset(&self) -> Applied<()> {
        self.client
            .batch_execute("RESET ROLE; RESET ALL")
            .await
            .map_err(around("reset the session"))
    }

    /// The revision's record, in the state of being on its way.
    pub(super) async fn begin_record(&self, work: &Work<'_>, store: &Store) -> Applied<()> {
        match work.direction {
            Direction::Up => {
                let record = Recorded { state: RevisionState::Applying, ..work.revision.clone() };
                store.put_revision(self.client, &record).await?;
            }
            Direction::Down => {
                store
                    .set_revision_state(self.client, &work.revision.id, RevisionState::Reverting)
                    .await?;
            }
        }
        Ok(())
    }

    /// Marks a statement as running, or as done after a time.
    pub(super) async fn mark(
        &self,
        work: &Work<'_>,
        store: &Store,
        i: usize,
        took: Option<Duration>,
    ) -> Applied<()> {
        let statement = &work.statements[i];
        let place = (work.revision.id.as_str(), work.direction, i as i32);
        let took = took.map(|took| took.as_millis() as i64);
        let text = (statement.digest(), statement.head());
        Ok(store.put_step(self.client, place, (&text.0, &text.1), took).await?)
    }

    /// The end of a revision in a transaction of its own.
    async fn finish(&self, work: &Work<'_>) -> Applied<()> {
        self.reset().await?;
        for (i, query) in work.verify.iter().enumerate() {
            let sql = format!("SELECT ({})::boolean", query.text);
            let rows = db::ask_as_is(self.client, &sql, &[]).await;
            let rows = rows.map_err(|error| ApplyError::VerifyQuery(i, error))?;
            let holds = rows.first().and_then(|row| row.get::<_, Option<bool>>(0));
            if holds != Some(true) {
                return Err(ApplyError::Verify(i));
            }
        }
        self.client.batch_execute("BEGIN").await.map_err(around("begin a transaction"))?;
        match self.finish_in(work).await {
            Ok(()) => self
                .client
                .batch_execute("COMMIT")
                .await
                .map_err(around("commit the revision's record")),
            Err(error) => {
                self.roll_back().await?;
                Err(self.explained(error).await)
            }
        }
    }

    /// The end of a revision: it is recorded, or forgotten.
    pub(super) async fn finish_in(&self, work: &Work<'_>) -> Applied<()> {
        let (id, who) = (work.revision.id.as_str(), work.revision.applied_by.as_str());
        let store = self.store.within();
        match work.direction {
            Direction::Up => {
                store.put_revision(self.client, work.revision).await?;
                // Whatever way it went down before, the next time begins at the beginning.
                store.drop_steps(self.client, id, Direction::Down).await?;
            }
            Direction::Down => store.drop_revision(self.client, id).await?,
        }
        let event = if work.direction == Direction::Up { "applied" } else { "taken back" };
        Ok(store.log_revision(self.client, who, id, event, &work.revision.title).await?)
    }

    /// What the statements before it set for the session, when they are not run now.
    pub(super) async fn repeat_settings(&self, work: &Work<'_>, before: usize) -> Applied<()> {
        self.reset().await?;
        self.settings_before(work, before).await
    }

    /// As [`Runner::repeat_settings`], in a session that is as it was at its start.
    pub(super) async fn settings_before(&self, work: &Work<'_>, before: usize) -> Applied<()> {
        for (i, statement) in work.statements[..before].iter().enumerate() {
            if statement.way == Way::Setting {
                self.client
                    .batch_execute(&statement.text)
                    .await
                    .map_err(|error| ApplyError::Statement(i, error))?;
            }
        }
        Ok(())
    }

    /// An error of a transaction that is rolled back; where a privilege on the state tables is missing, with the grant.
    pub(super) async fn explained(&self, error: ApplyError) -> ApplyError {
        match error {
            ApplyError::Store(StoreError::Statement(what, error)) => {
                self.store.explained(self.client, (what, error), false).await.into()
            }
            other => other,
        }
    }

    pub(super) async fn roll_back(&self) -> Applied<()> {
        self.client.batch_execute("ROLLBACK").await.map_err(around("roll back"))
    }
}

/// What is done must still stand in the file as it was run.
fn check_done(work: &Work<'_>, steps: &BTreeMap<i32, StepRecord>) -> Applied<()> {
    for (n, step) in steps {
        let i = *n as usize;
        if work.statements.get(i).is_none_or(|statement| statement.digest() != step.digest) {
            return Err(ApplyError::Changed(i));
        }
    }
    Ok(())
}
