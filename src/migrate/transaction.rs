//! Statements that share a transaction: locks are looked at before they are queued for, and a transaction begins again while one is not
//! to be had.

use std::time::{Duration, Instant};

use tokio_postgres::Error;

use super::apply::{Applied, ApplyError, Event, Runner, Work, around};
use super::blockers::{Blocker, Target, ask_to_give_way, blockers, holding_up, target};
use super::class::{self, Way};
use super::file::Statement;
use super::patience::Patience;
use super::unit::{Kind, Unit};
use super::watch;
use crate::db;
use crate::db::error::sqlstate;
use crate::state::{Direction, StoreError};

/// How often it is looked at what a quick statement waits for: often enough to see who it was before its lock timeout.
const GLANCE: Duration = Duration::from_millis(50);

impl Runner<'_> {
    /// A transaction, from the start again while a lock is not to be had. `ends` is whether the revision is recorded in it.
    pub(super) async fn until_locked(
        &self,
        work: &Work<'_>,
        unit: &Unit,
        ends: bool,
    ) -> Applied<()> {
        let patience = Patience::new(self.lock_budget);
        self.repeat_settings(work, unit.range.start).await?;
        let targets = self.targets(work, unit).await?;
        let mut tries = 0;
        loop {
            // Behind an old transaction one does not even queue.
            let look = async |old_only| {
                blockers(self.watch, &targets, old_only).await.map_err(around("look for locks"))
            };
            let mut seen = if unit.kind == Kind::Long { Vec::new() } else { look(true).await? };
            if seen.is_empty() {
                let begun = Instant::now();
                let timeout = patience.lock_timeout(tries);
                match self
                    .transaction(work, unit, (&targets, tries), (timeout, ends), &mut seen)
                    .await
                {
                    Ok(()) => {
                        let done = &work.statements[unit.range.clone()];
                        (self.tell)(Event::Done(done, begun.elapsed()));
                        return Ok(());
                    }
                    Err(error) => {
                        self.roll_back().await?;
                        let error = self.explained(error).await;
                        if !is_about_locks(&error) {
                            return Err(error);
                        }
                    }
                }
                if seen.is_empty() {
                    seen = look(false).await?;
                }
            }
            tries += 1;
            let Some(pause) = patience.pause(tries) else {
                return Err(ApplyError::Locked(unit.range.start, seen));
            };
            if (self.is_stopped)() {
                return Err(ApplyError::Stopped(unit.range.start));
            }
            (self.tell)(Event::Waiting(&seen, pause));
            ask_to_give_way(self.watch, &seen).await;
            tokio::time::sleep(pause).await;
        }
    }

    /// The tables that the unit is known to lock. Behind a setting of its own a name may mean another table.
    async fn targets(&self, work: &Work<'_>, unit: &Unit) -> Applied<Vec<Target>> {
        let mut targets: Vec<Target> = Vec::new();
        let statements = &work.statements[unit.range.clone()];
        for statement in statements.iter().take_while(|statement| statement.way != Way::Setting) {
            for asks in class::asks(&statement.text, &statement.words()) {
                let found = target(self.client, &asks).await.map_err(around("look up a table"))?;
                if let Some(found) = found.filter(|found| !targets.contains(found)) {
                    targets.push(found);
                }
            }
        }
        Ok(targets)
    }

    async fn transaction(
        &self,
        work: &Work<'_>,
        unit: &Unit,
        (targets, tries): (&[Target], u32),
        (lock_timeout, ends): (Duration, bool),
        seen: &mut Vec<Blocker>,
    ) -> Applied<()> {
        self.reset().await?;
        self.client.batch_execute("BEGIN").await.map_err(around("begin a transaction"))?;
        let store = self.store.within();
        // The record first: whoever else is at this revision waits here, and then sees how far it is.
        self.set_timeouts(unit, lock_timeout).await?;
        if unit.range.start == 0 || work.direction == Direction::Down {
            self.begin_record(work, &store).await?;
        }
        let id = work.revision.id.as_str();
        store.lock_revision(self.client, id).await?;
        let steps = store.steps(self.client, id, work.direction).await?;
        let is_done = |i: usize| steps.get(&(i as i32)).is_some_and(|step| step.is_done);
        self.settings_before(work, unit.range.start).await?;
        self.set_timeouts(unit, lock_timeout).await?;
        let first = |error| ApplyError::Statement(unit.range.start, error);
        for target in targets.iter().filter(|target| target.is_table && unit.kind == Kind::Quick) {
            // A probe never queues; every third time it is waited for, for a moment, or a busy table would never be had.
            if !tries.is_multiple_of(3) && target.mode == "ACCESS EXCLUSIVE" {
                let probe = format!("LOCK TABLE {} IN {} MODE NOWAIT", target.name, target.mode);
                self.client.batch_execute(&probe).await.map_err(first)?;
            }
        }
        for i in unit.range.clone().filter(|i| !is_done(*i)) {
            let (statement, begun) = (&work.statements[i], Instant::now());
            // Before each, because the one before may have set them otherwise: not even its own file may make a step wait without end.
            self.set_timeouts(unit, lock_timeout).await?;
            let ran = self.watched(statement, &unit.kind, seen).await;
            ran.map_err(|error| ApplyError::Statement(i, error))?;
            self.as_oneself(work, async || self.mark(work, &store, i, Some(begun.elapsed())).await)
                .await?;
        }
        if ends {
            self.as_oneself(work, async || self.finish_in(work).await).await?;
        }
        let committed = self.client.batch_execute("COMMIT").await;
        committed.map_err(|error| ApplyError::Statement(unit.range.end - 1, error))
    }

    async fn set_timeouts(&self, unit: &Unit, lock_timeout: Duration) -> Applied<()> {
        let (lock, statement) = match unit.kind {
            Kind::Long => (Duration::ZERO, Duration::ZERO),
            _ => (lock_timeout, self.statement_timeout),
        };
        let settings = format!(
            "SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = '60s'",
            lock.as_millis(),
            statement.as_millis()
        );
        self.client.batch_execute(&settings).await.map_err(around("set the timeouts"))
    }

    /// Writes to the state tables as the role that logged in, whatever role the file has taken on.
    async fn as_oneself(
        &self,
        work: &Work<'_>,
        write: impl AsyncFnOnce() -> Applied<()>,
    ) -> Applied<()> {
        let takes_role =
            |statement: &Statement| statement.words().iter().any(|word| word.is("role"));
        if !work.statements.iter().any(takes_role) {
            return write().await;
        }
        let sql = "select pg_catalog.quote_ident(current_user), current_user = session_user";
        let rows =
            db::ask_within(self.client, sql, &[]).await.map_err(around("ask for the role"))?;
        let (role, is_oneself): (String, bool) = (rows[0].get(0), rows[0].get(1));
        if is_oneself {
            return write().await;
        }
        let set = async |role: &str| {
            let sql = format!("SET LOCAL ROLE {role}");
            self.client.batch_execute(&sql).await.map_err(around("change the role"))
        };
        set("NONE").await?;
        write().await?;
        set(&role).await
    }

    /// Runs one statement under the eyes of the other connection: how far a long one is, whom a quick one waits for.
    pub(super) async fn watched(
        &self,
        statement: &Statement,
        kind: &Kind,
        seen: &mut Vec<Blocker>,
    ) -> Result<(), Error> {
        let run = self.client.batch_execute(&statement.text);
        let every = if *kind == Kind::Quick { GLANCE } else { watch::EVERY };
        tokio::pin!(run);
        loop {
            tokio::select! {
                done = &mut run => return done,
                () = tokio::time::sleep(every) => {}
            }
            if *kind == Kind::Quick {
                let blockers = holding_up(self.watch, self.pid).await.unwrap_or_default();
                if !blockers.is_empty() {
                    *seen = blockers;
                }
            } else if let Some(words) = watch::look(self.watch, self.pid).await {
                (self.tell)(Event::Progress(statement, words));
            }
        }
    }
}

/// Lock timeout, deadlock: the only errors that another try mends. The state tables are locked like any others.
fn is_about_locks(error: &ApplyError) -> bool {
    let (ApplyError::Statement(_, server) | ApplyError::Store(StoreError::Statement(_, server))) =
        error
    else {
        return false;
    };
    matches!(sqlstate(server), Some("55P03" | "40P01"))
}
