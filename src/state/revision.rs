//! Schema steps in the state tables.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::{Param, Result, Store, StoreError};
use crate::db::lock::LockKey;

/// Where a revision stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RevisionState {
    /// Some of its steps are applied; the next upgrade goes on behind them.
    Applying,
    /// Applied.
    Applied,
    /// Some of its steps are taken back; the next downgrade goes on behind them.
    Reverting,
}

impl RevisionState {
    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            RevisionState::Applying => "applying",
            RevisionState::Applied => "applied",
            RevisionState::Reverting => "reverting",
        }
    }

    fn parse(word: &str) -> Result<RevisionState> {
        [RevisionState::Applying, RevisionState::Applied, RevisionState::Reverting]
            .into_iter()
            .find(|state| state.as_str() == word)
            .ok_or_else(|| StoreError::Unreadable(format!("revision state `{word}`")))
    }
}

/// A revision as it was recorded.
#[derive(Clone, Debug, Serialize)]
pub struct Recorded {
    /// Its id.
    pub id: String,
    /// Those it builds on.
    pub parents: Vec<String>,
    /// Its title.
    pub title: String,
    /// Of what was run.
    pub digest: String,
    /// The backfill that it starts.
    pub backfill: Option<String>,
    /// What takes it back.
    pub down_sql: String,
    /// Why it cannot be taken back.
    pub irreversible: Option<String>,
    /// Where it stands.
    pub state: RevisionState,
    /// `ran`, `stamped` or `adopted`.
    pub origin: String,
    /// Who applied it.
    pub applied_by: String,
    /// When, ISO 8601; empty in one that is to be written.
    pub applied_at: String,
}

/// Up or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Applying.
    Up,
    /// Taking back.
    Down,
}

impl Direction {
    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Up => "up",
            Direction::Down => "down",
        }
    }
}

/// A step that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRecord {
    /// Of its statement.
    pub digest: String,
    /// Whether it is done; else it was running outside of a transaction.
    pub is_done: bool,
}

/// A run whose rows are to be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToTakeBack {
    /// Its number.
    pub run_id: i64,
    /// Whether there is something to take it back with.
    pub is_possible: bool,
    /// Whether it is over.
    pub is_over: bool,
    /// Whether its before-images were dropped.
    pub is_pruned: bool,
}

/// What a revision demanded of a backfill, and how it went on.
#[derive(Clone, Debug, Serialize)]
pub struct GateRecord {
    /// The revision.
    pub revision: String,
    /// `NAME@LEVEL`.
    pub demand: String,
    /// `satisfied` or `overridden`.
    pub outcome: String,
    /// On what evidence, or for what reason.
    pub evidence: String,
    /// Who was there.
    pub who: String,
    /// When, ISO 8601.
    pub at: String,
}

impl Store {
    /// The key of the lock that a runner of schema steps holds.
    pub fn migrate_lock(&self) -> LockKey {
        LockKey { class: self.lock_class(b's'), object: 0 }
    }

    /// All recorded revisions, in the order in which they were applied.
    pub async fn revisions(&self, client: &Client) -> Result<Vec<Recorded>> {
        let rows = self.rows(client, "read the revisions", &self.sql.load_revisions, &[]).await?;
        let read = |row: &Row| {
            Ok(Recorded {
                id: row.get(0),
                parents: row.get(1),
                title: row.get(2),
                digest: row.get(3),
                backfill: row.get(4),
                down_sql: row.get(5),
                irreversible: row.get(6),
                state: RevisionState::parse(row.get(7))?,
                origin: row.get(8),
                applied_by: row.get(9),
                applied_at: row.get(10),
            })
        };
        rows.iter().map(read).collect()
    }

    /// Records a revision, or brings its record up to date.
    pub async fn put_revision(&self, client: &Client, revision: &Recorded) -> Result<()> {
        let state = revision.state.as_str();
        let params: [Param<'_>; 10] = [
            (&revision.id, Type::TEXT),
            (&revision.parents, Type::TEXT_ARRAY),
            (&revision.title, Type::TEXT),
            (&revision.digest, Type::TEXT),
            (&revision.backfill, Type::TEXT),
            (&revision.down_sql, Type::TEXT),
            (&revision.irreversible, Type::TEXT),
            (&state, Type::TEXT),
            (&revision.origin, Type::TEXT),
            (&revision.applied_by, Type::TEXT),
        ];
        self.rows(client, "record the revision", &self.sql.put_revision, &params).await.map(drop)
    }

    /// Changes where a recorded revision stands.
    pub async fn set_revision_state(
        &self,
        client: &Client,
        id: &str,
        state: RevisionState,
    ) -> Result<()> {
        let state = state.as_str();
        let params: [Param<'_>; 2] = [(&id, Type::TEXT), (&state, Type::TEXT)];
        self.rows(client, "change the revision's state", &self.sql.set_revision_state, &params)
            .await
            .map(drop)
    }

    /// Locks the record of a revision until the end of the transaction, so that one runner at a time is at it.
    pub async fn lock_revision(&self, client: &Client, id: &str) -> Result<()> {
        self.rows(client, "lock the revision", &self.sql.lock_revision, &[(&id, Type::TEXT)])
            .await
            .map(drop)
    }

    /// Forgets a revision and its steps; the log keeps that it was there.
    pub async fn drop_revision(&self, client: &Client, id: &str) -> Result<()> {
        self.rows(client, "remove the revision", &self.sql.drop_revision, &[(&id, Type::TEXT)])
            .await
            .map(drop)
    }

    /// Forgets a revision and says so in the log, in one transaction.
    pub async fn forget_revision(
        &self,
        client: &Client,
        revision: &Recorded,
        who: &str,
        event: &str,
    ) -> Result<()> {
        let body = async |store: &Store| {
            store.drop_revision(client, &revision.id).await?;
            store.log_revision(client, who, &revision.id, event, &revision.title).await
        };
        self.transact(client, ("remove the revision", ""), body).await
    }

    /// The steps of a revision that were begun, by number.
    pub async fn steps(
        &self,
        client: &Client,
        id: &str,
        direction: Direction,
    ) -> Result<BTreeMap<i32, StepRecord>> {
        let direction = direction.as_str();
        let params: [Param<'_>; 2] = [(&id, Type::TEXT), (&direction, Type::TEXT)];
        let rows =
            self.rows(client, "read the revision's steps", &self.sql.load_steps, &params).await?;
        let read = |row: &Row| {
            let step = StepRecord { digest: row.get(1), is_done: row.get::<_, &str>(2) == "done" };
            (row.get(0), step)
        };
        Ok(rows.iter().map(read).collect())
    }

    /// Records that a step runs (`took_ms` is none) or is done.
    pub async fn put_step(
        &self,
        client: &Client,
        (id, direction, n): (&str, Direction, i32),
        (digest, statement): (&str, &str),
        took_ms: Option<i64>,
    ) -> Result<()> {
        let (direction, state) =
            (direction.as_str(), if took_ms.is_some() { "done" } else { "running" });
        let params: [Param<'_>; 7] = [
            (&id, Type::TEXT),
            (&direction, Type::TEXT),
            (&n, Type::INT4),
            (&digest, Type::TEXT),
            (&statement, Type::TEXT),
            (&state, Type::TEXT),
            (&took_ms, Type::INT8),
        ];
        self.rows(client, "record the step", &self.sql.put_step, &params).await.map(drop)
    }

    /// Forgets a step that did not happen.
    pub async fn drop_step(
        &self,
        client: &Client,
        id: &str,
        direction: Direction,
        n: i32,
    ) -> Result<()> {
        let direction = direction.as_str();
        let params: [Param<'_>; 3] =
            [(&id, Type::TEXT), (&direction, Type::TEXT), (&n, Type::INT4)];
        self.rows(client, "remove the step", &self.sql.drop_step, &params).await.map(drop)
    }

    /// Forgets the steps of one direction.
    pub async fn drop_steps(&self, client: &Client, id: &str, direction: Direction) -> Result<()> {
        let direction = direction.as_str();
        let params: [Param<'_>; 2] = [(&id, Type::TEXT), (&direction, Type::TEXT)];
        self.rows(client, "remove the steps", &self.sql.drop_steps, &params).await.map(drop)
    }

    /// Records how a demand was met.
    pub async fn put_gate(
        &self,
        client: &Client,
        revision: &str,
        demand: &str,
        (outcome, evidence): (&str, &str),
        who: &str,
    ) -> Result<()> {
        let params: [Param<'_>; 5] = [
            (&revision, Type::TEXT),
            (&demand, Type::TEXT),
            (&outcome, Type::TEXT),
            (&evidence, Type::TEXT),
            (&who, Type::TEXT),
        ];
        self.rows(client, "record the gate", &self.sql.put_gate, &params).await.map(drop)
    }

    /// All demands and how they were met, oldest first.
    pub async fn gates(&self, client: &Client) -> Result<Vec<GateRecord>> {
        let rows = self.rows(client, "read the gates", &self.sql.load_gates, &[]).await?;
        let read = |row: &Row| GateRecord {
            revision: row.get(0),
            demand: row.get(1),
            outcome: row.get(2),
            evidence: row.get(3),
            who: row.get(4),
            at: row.get(5),
        };
        Ok(rows.iter().map(read).collect())
    }

    /// The runs whose rows the way back of a revision has to give back, newest first.
    pub async fn to_take_back(
        &self,
        client: &Client,
        name: &str,
        id: &str,
    ) -> Result<Vec<ToTakeBack>> {
        let params: [Param<'_>; 2] = [(&name, Type::TEXT), (&id, Type::TEXT)];
        let rows = self
            .rows(client, "list runs to take back", &self.sql.list_to_take_back, &params)
            .await?;
        let read = |row: &Row| ToTakeBack {
            run_id: row.get(0),
            is_possible: row.get(1),
            is_over: row.get(2),
            is_pruned: row.get(4),
        };
        Ok(rows.iter().map(read).collect())
    }

    /// Whether a revision was taken back since a run was created.
    pub async fn was_taken_back(&self, client: &Client, id: &str, run_id: i64) -> Result<bool> {
        let params: [Param<'_>; 2] = [(&id, Type::TEXT), (&run_id, Type::INT8)];
        let rows = self
            .rows(client, "read the log of revisions", &self.sql.was_taken_back, &params)
            .await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    /// A statement that raises unless a backfill is as far as that, for somebody else to run.
    pub fn require_sql(&self, name: &str, level: &str) -> String {
        format!("SELECT {}.require({}, {})", self.schema(), literal(name), literal(level))
    }

    /// A statement that records a revision, for somebody else to run.
    pub fn record_sql(&self, revision: &Recorded) -> String {
        let parents: Vec<String> = revision.parents.iter().map(|parent| literal(parent)).collect();
        let or_null =
            |text: &Option<String>| text.as_ref().map_or("NULL".to_owned(), |text| literal(text));
        format!(
            "INSERT INTO {}.revision (id, parents, title, digest, backfill, down_sql, irreversible, state, applied_by)\n\
             VALUES ({}, ARRAY[{}]::text[], {}, {}, {}, {}, {}, 'applied', session_user)",
            self.schema(),
            literal(&revision.id),
            parents.join(", "),
            literal(&revision.title),
            literal(&revision.digest),
            or_null(&revision.backfill),
            literal(&revision.down_sql),
            or_null(&revision.irreversible),
        )
    }

    /// A statement that removes the record of a revision, for somebody else to run.
    pub fn forget_sql(&self, id: &str) -> String {
        format!("DELETE FROM {}.revision WHERE id = {}", self.schema(), literal(id))
    }

    /// Writes a line of the audit trail of schema steps.
    pub async fn log_revision(
        &self,
        client: &Client,
        who: &str,
        revision: &str,
        event: &str,
        detail: &str,
    ) -> Result<()> {
        let params: [Param<'_>; 4] = [
            (&who, Type::TEXT),
            (&revision, Type::TEXT),
            (&event, Type::TEXT),
            (&detail, Type::TEXT),
        ];
        self.rows(client, "write the log of revisions", &self.sql.log_revision, &params)
            .await
            .map(drop)
    }

    /// The audit trail of schema steps: when, who, revision, event, detail; oldest first.
    pub async fn revision_log(&self, client: &Client) -> Result<Vec<[String; 5]>> {
        let rows = self
            .rows(client, "read the log of revisions", &self.sql.list_revision_log, &[])
            .await?;
        Ok(rows.iter().map(|row| std::array::from_fn(|i| row.get(i))).collect())
    }
}

/// Text as a literal that means the same under every setting.
fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}
