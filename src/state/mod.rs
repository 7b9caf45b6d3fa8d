//! The state tables, in the target's own database: the only module that names them.
//!
//! A [`Store`] has one method per statement; the statements are the files in `sql/`. Methods take the connection to use, so that a
//! worker can run them inside the chunk's transaction. Everything about progress is derived from the chunks.

mod access;
mod chunk;
mod creating;
mod cutting;
mod images;
mod leaves;
mod records;
mod revision;
mod run;
mod schema;
mod storage;
mod work;

use std::sync::Arc;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use access::only_reads;
pub use chunk::{
    Chunk, Claim, Cover, Cut, CutTo, Done, Mark, Quarantined, Sums, SweepLeft, WalkLeft,
};
pub use images::Standing;
pub use images::{Conflict, Field, FieldType, Images, Notes, Side};
pub use leaves::Passed;
pub use records::{Actor, LogLine, NewReverse, NewRun, NewUndo, PinnedSpec};
use records::{json, one, read_run};
pub use revision::{Direction, GateRecord, Recorded, RevisionState, StepRecord, ToTakeBack};
pub use run::{
    ALL_STATES, Ends, IllegalTransition, LastWorked, Run, RunEvent, RunState, Times, Tuned, Undo,
};
pub use schema::{Installed, VERSION};
pub use storage::Storage;
pub use work::{Address, Control, Paced};

use crate::db;
use crate::db::Param;
use crate::db::lock::LockKey;
use crate::mutation;
use crate::sql::Ident;
use crate::undo::Conflicts;

/// Why the state tables did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A statement failed.
    #[error("{0}")]
    Statement(&'static str, #[source] tokio_postgres::Error),
    /// What they hold makes no sense to this version.
    #[error("the state tables hold something this version cannot read: {0}")]
    Unreadable(String),
    /// The run is in no state for this.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// Another runner has taken the run over.
    #[error("the run was taken over by another runner")]
    EpochOver,
    /// The slices were cut by another transaction meanwhile: one of ours whose answer was lost.
    #[error("the next slices were cut meanwhile")]
    CutMeanwhile,
    /// A partition was renamed, detached or dropped between the look at its name and the statement that used it.
    #[error("a partition was renamed, detached or dropped meanwhile")]
    PlaceMeanwhile,
    /// The role may not do it.
    #[error("{what}")]
    Forbidden {
        /// What it may not do.
        what: &'static str,
        /// The statements that let it.
        mend: String,
        /// What the server said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The tables are of a newer version of this program.
    #[error("the state tables are of version {found}, this program knows {known}")]
    Newer {
        /// The version in the database.
        found: i32,
        /// The newest this program knows.
        known: i32,
    },
}

impl StoreError {
    /// The server's error, when that was the cause.
    pub fn server(&self) -> Option<&tokio_postgres::Error> {
        match self {
            StoreError::Statement(_, error) | StoreError::Forbidden { source: error, .. } => {
                Some(error)
            }
            _ => None,
        }
    }
}

type Result<T> = std::result::Result<T, StoreError>;

macro_rules! statements {
    ($($name:ident),+ $(,)?) => {
        /// The statements, with the schema's name put in.
        #[derive(Debug)]
        struct Statements { $($name: String),+ }

        impl Statements {
            fn new(schema: &Ident) -> Statements {
                let schema = schema.to_string();
                Statements {
                    $($name: mutation::statement(include_str!(concat!("sql/", stringify!($name), ".sql")).replace("{schema}", &schema))),+
                }
            }
        }
    };
}

statements!(
    accept_moved,
    accept_spec,
    add_rounds,
    begin_epoch,
    chunk_cover,
    claim_chunk,
    count_conflicts,
    count_quarantined,
    count_vacuum,
    create_reverse,
    create_run,
    cut_chunks,
    drop_revision,
    drop_step,
    drop_steps,
    end_cut,
    fail_chunk,
    failed_chunks,
    find_leaf,
    kept_until,
    leave_to_sweep,
    list_conflicts,
    list_log,
    list_names,
    list_pending,
    list_prunable,
    list_quarantined,
    list_reversible,
    list_revision_log,
    list_standing,
    list_to_take_back,
    list_unfinished,
    load_gates,
    load_revisions,
    load_run,
    load_steps,
    lock_revision,
    lock_runs,
    log_revision,
    mark_pruned,
    new_leaves,
    passed_leaves,
    progress,
    publish_limits,
    publish_throttle,
    put_gate,
    put_revision,
    put_step,
    quarantine_row,
    read_control,
    read_cut,
    recent_rates,
    release_quarantine,
    reopen_chunks,
    request,
    set_conflicts,
    set_revision_state,
    note_storage,
    settle_chunk,
    split_chunk,
    storage,
    strays,
    sweep_left,
    stretches,
    transition,
    walk_left,
    was_taken_back,
    write_log,
);

/// The state tables of one schema.
#[derive(Clone, Debug)]
pub struct Store {
    schema: Ident,
    sql: Arc<Statements>,
    /// Whether its statements are part of a transaction that is open, and not each one of its own.
    is_within: bool,
}

impl Store {
    /// For the tables in `schema`, which need not exist yet.
    pub fn new(schema: Ident) -> Store {
        let sql = Arc::new(Statements::new(&schema));
        Store { schema, sql, is_within: false }
    }

    /// The same tables, for statements that are part of the transaction that is open on the connection.
    pub fn within(&self) -> Store {
        Store { is_within: true, ..self.clone() }
    }

    /// The schema of the tables.
    pub fn schema(&self) -> &Ident {
        &self.schema
    }

    /// The key of a run's courtesy lock.
    pub fn run_lock(&self, run_id: i64) -> LockKey {
        LockKey { class: self.lock_class(b'r'), object: run_id as i32 }
    }

    /// The key that chunks of a run hold, shared, while they are at work.
    pub fn chunk_lock(&self, run_id: i64) -> LockKey {
        LockKey { class: self.lock_class(b'c'), object: run_id as i32 }
    }

    /// FNV-1a over the schema's name: stable over versions and builds, which a hasher of the standard library is not.
    fn lock_class(&self, kind: u8) -> i32 {
        let bytes = self.schema.as_str().bytes().chain([0, kind]);
        let hash = bytes
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        hash as i32
    }

    async fn rows(
        &self,
        client: &Client,
        what: &'static str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>> {
        if self.is_within {
            let rows = db::ask_within(client, sql, params).await;
            return rows.map_err(|error| StoreError::Statement(what, error));
        }
        match db::ask(client, sql, params).await {
            Ok(rows) => Ok(rows),
            Err(error) => Err(self.explained(client, (what, error), only_reads(sql)).await),
        }
    }

    /// Changes what a reverse run does about conflicts.
    pub async fn set_conflicts(
        &self,
        client: &Client,
        run_id: i64,
        policy: Conflicts,
    ) -> Result<()> {
        let policy = policy.as_str();
        let params: [Param<'_>; 2] = [(&run_id, Type::INT8), (&policy, Type::TEXT)];
        let what = "change what is done about conflicts";
        self.rows(client, what, &self.sql.set_conflicts, &params).await.map(drop)
    }

    /// Pins another text of the spec to a run.
    pub async fn accept_spec(
        &self,
        client: &Client,
        run_id: i64,
        spec: &PinnedSpec<'_>,
    ) -> Result<()> {
        let params: [Param<'_>; 6] = [
            (&run_id, Type::INT8),
            (&spec.digest, Type::TEXT),
            (&spec.text, Type::TEXT),
            (&spec.statement, Type::TEXT),
            (&spec.remaining, Type::TEXT),
            (&spec.verify_query, Type::TEXT),
        ];
        self.rows(client, "pin the changed spec", &self.sql.accept_spec, &params).await.map(drop)
    }

    /// The newest run of a name.
    pub async fn newest_run(&self, client: &Client, name: &str) -> Result<Option<Run>> {
        self.load(client, Some(name), None).await
    }

    /// The run of a number; that it exists is known.
    pub async fn run(&self, client: &Client, run_id: i64) -> Result<Run> {
        let run = self.load(client, None, Some(run_id)).await?;
        run.ok_or_else(|| StoreError::Unreadable(format!("run {run_id} is gone")))
    }

    async fn load(
        &self,
        client: &Client,
        name: Option<&str>,
        run_id: Option<i64>,
    ) -> Result<Option<Run>> {
        let params: [Param<'_>; 2] = [(&name, Type::TEXT), (&run_id, Type::INT8)];
        let rows = self.rows(client, "read the run", &self.sql.load_run, &params).await?;
        rows.first().map(read_run).transpose()
    }

    /// The newest run of every name.
    pub async fn list(&self, client: &Client) -> Result<Vec<Run>> {
        self.load_all(client, &self.sql.list_names).await
    }

    /// Every run that is not finished, oldest first.
    pub async fn unfinished(&self, client: &Client) -> Result<Vec<Run>> {
        self.load_all(client, &self.sql.list_unfinished).await
    }

    async fn load_all(&self, client: &Client, sql: &str) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        for row in self.rows(client, "list the runs", sql, &[]).await? {
            runs.push(self.run(client, row.get(0)).await?);
        }
        Ok(runs)
    }

    /// Moves a run along its lifecycle; the guard in the UPDATE is the lifecycle's own table.
    pub async fn transition(
        &self,
        client: &Client,
        run_id: i64,
        event: RunEvent,
        by: Actor<'_>,
    ) -> Result<RunState> {
        let (epoch, failure) = match by {
            Actor::Operator => (None, None),
            Actor::Runner { epoch, failure } => (Some(epoch), failure),
        };
        for target in ALL_STATES {
            let leads_there = |from: &&RunState| from.next(event) == Ok(target);
            let from: Vec<&str> =
                ALL_STATES.iter().filter(leads_there).map(|s| s.as_str()).collect();
            if from.is_empty() {
                continue;
            }
            let params: [Param<'_>; 5] = [
                (&run_id, Type::INT8),
                (&target.as_str(), Type::TEXT),
                (&from, Type::TEXT_ARRAY),
                (&failure, Type::TEXT),
                (&epoch, Type::INT4),
            ];
            let rows =
                self.rows(client, "change the run's state", &self.sql.transition, &params).await?;
            if !rows.is_empty() {
                return Ok(target);
            }
        }
        let run = self.run(client, run_id).await?;
        if epoch.is_some_and(|epoch| epoch != run.epoch) {
            return Err(StoreError::EpochOver);
        }
        let from = run.state;
        Err(IllegalTransition { from, event }.into())
    }

    /// Takes a run over: its new epoch.
    pub async fn begin_epoch(
        &self,
        client: &Client,
        run_id: i64,
        host: &str,
        pid: i32,
    ) -> Result<i32> {
        let params: [Param<'_>; 3] =
            [(&run_id, Type::INT8), (&host, Type::TEXT), (&pid, Type::INT4)];
        let rows =
            self.rows(client, "begin the run's epoch", &self.sql.begin_epoch, &params).await?;
        one(&rows).map(|row| row.get(0))
    }

    /// Adds an operator's word to a run. False when the run is over.
    pub async fn request(&self, client: &Client, run_id: i64, tuned: &Tuned) -> Result<bool> {
        let json = serde_json::to_string(tuned).unwrap_or_default();
        let params: [Param<'_>; 2] = [(&run_id, Type::INT8), (&json, Type::TEXT)];
        let rows = self.rows(client, "tune the run", &self.sql.request, &params).await?;
        Ok(!rows.is_empty())
    }

    /// Writes a line of the audit trail.
    pub async fn log(
        &self,
        client: &Client,
        run_id: i64,
        who: &str,
        event: &str,
        detail: &str,
    ) -> Result<()> {
        let params: [Param<'_>; 4] = [
            (&run_id, Type::INT8),
            (&who, Type::TEXT),
            (&event, Type::TEXT),
            (&detail, Type::TEXT),
        ];
        self.rows(client, "write the log", &self.sql.write_log, &params).await.map(drop)
    }

    /// The audit trail of all runs of a name, oldest first.
    pub async fn read_log(&self, client: &Client, name: &str) -> Result<Vec<LogLine>> {
        let rows =
            self.rows(client, "read the log", &self.sql.list_log, &[(&name, Type::TEXT)]).await?;
        let line = |row: &Row| LogLine {
            at: row.get(0),
            run_id: row.get(1),
            who: row.get(2),
            event: row.get(3),
            detail: row.get(4),
        };
        Ok(rows.iter().map(line).collect())
    }
}
