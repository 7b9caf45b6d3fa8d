//! A spec joined with the live table: what a run will do, or why it will not.
//!
//! [`Plan::make`] asks the catalogs about the table, lets the server judge every expression, chooses the key, builds the statements,
//! and looks at their plan. Mistakes in the spec come back as a report at the spec's lines; an unsafe plan as refusals with the
//! mending command. Nothing it does survives: every transaction it opens is rolled back. The engine works from the plan alone
//! and never learns which way it goes.

mod around;
mod boundaries;
pub mod capture;
pub mod checks;
mod clock;
mod explained;
mod forecast;
mod guard;
mod join;
mod judge;
mod leaves;
mod limiting;
pub mod operators;
mod order;
mod physical;
pub mod probe;
pub mod rehearse;
mod resolve;
mod restore;
mod reverse;
mod sent;
pub mod statement;
pub mod surroundings;
pub mod table;
mod tree;

use tokio_postgres::Client;

pub use capture::Keep;
pub use checks::Refusal;
use checks::{choose_key, identity_refusal, server_refusal, table_refusals};
pub use forecast::Forecast;
pub use join::{AS_USUAL, IN_BULK};
use judge::{check_statement, has_few_values, judge_all, remaining, targets};
pub use leaves::ByLeaf;
pub use limiting::reads_nothing;
use limiting::{limits_itself, oldest_transaction};
pub use order::{Striping, Way};
pub use physical::{LEAVES_IN_ROUNDS, Physical, Walk, place};
pub use rehearse::Rehearsal;
use resolve::{check_columns, find_table, read_ceiling};
pub use reverse::Taken;
use statement::{Builder, Target};
pub use statement::{ByRange, ChunkSql};
use surroundings::Server;
use table::Table;
pub use tree::LeafNow;
use tree::Tree;

use crate::db::{ConnectError, Session};
use crate::diagnostic::Report;
use crate::key::{Bound, Key};
use crate::spec::{Kind, Spec};
use crate::sql::Ident;
use crate::state::StoreError;
use crate::undo::UndoMode;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The spec has mistakes.
    #[error("the spec has mistakes")]
    Spec(Box<Report>),
    /// Carrying it out would be unsafe.
    #[error("the plan is unsafe")]
    Refused(Vec<Refusal>),
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The state tables.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A look-up failed.
    #[error("{0}")]
    Statement(&'static str, #[source] tokio_postgres::Error),
}

impl From<Refusal> for PlanError {
    fn from(refusal: Refusal) -> PlanError {
        PlanError::Refused(vec![refusal])
    }
}

/// What a run will do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server.
    pub server: Server,
    /// The table.
    pub table: Table,
    /// The key that chunks are cut by.
    pub key: Key,
    /// The key's index; empty for a table without a key, which is gone through by place alone.
    pub index: String,
    /// The statements.
    pub sql: ChunkSql,
    /// The condition of a row still to do, as SQL over [`Plan::from_sql`]; none when the data cannot tell.
    pub remaining: Option<String>,
    /// `FROM` of the target and the join source.
    pub from_sql: String,
    /// The written columns.
    pub written: Vec<String>,
    /// How a run of it can be taken back.
    pub undo: UndoMode,
    /// What the statements are built from.
    spec: Spec,
    targets: Vec<Target>,
    /// The greatest key now; none when the table is empty.
    pub ceiling: Option<Bound>,
    /// What gives the spec's SQL its meaning.
    pub session: Session,
    /// For a partitioned table: how it goes through it leaf by leaf, or why through the parent.
    pub leaves: Option<Result<ByLeaf, String>>,
    /// The partitions of a partitioned table.
    tree: Option<Tree>,
    /// How it goes through the table by place, when it does.
    pub physical: Option<Physical>,
    /// In which order it goes through the table.
    pub way: Way,
    /// Rows in the table, as the planner sees them.
    pub table_rows: i64,
    /// Rows the backfill would write, as the planner sees them.
    pub rows_to_do: i64,
    /// Whether every value that the rules write is the same for all rows of the rule.
    pub has_few_values: bool,
    /// Whether it leaves alone from then on what it has written.
    limits_itself: bool,
    /// Whether the source is joined once a statement, because no index serves to join it row by row; and how many bytes that reads.
    pub joins_in_bulk: Option<i64>,
    /// A run by place walks row versions that are older than this transaction and no others, so that it meets no row twice before the
    /// sweep; none where it may.
    pub walk_before: Option<i64>,
    /// Whether triggers of the table fire, which may write other values.
    pub has_triggers: bool,
    /// Indexes that make the updates non-HOT because they mention a written column.
    pub hot_blockers: Vec<String>,
    /// Publications that carry the target's updates to subscribers.
    pub published: Vec<String>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// What the caller has already accepted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accepted {
    /// Subscribers of a publication that covers the state tables have them already.
    pub subscribers_prepared: bool,
    /// Nothing is going to be written: what only chunks must not do is no obstacle, and an index on what is left is a help.
    pub only_reads: bool,
    /// A run of it has begun: a way to the rows that is not the key's is a warning, for the run must be able to come to its end.
    pub goes_on: bool,
}

/// The server's facts, or why it cannot be worked on.
async fn usable_server(client: &Client) -> Result<Server, PlanError> {
    let lookup = |error| PlanError::Statement("look up the server", error);
    let server = surroundings::server(client).await.map_err(lookup)?;
    match server_refusal(&server) {
        Some(refusal) => Err(refusal.into()),
        None => Ok(server),
    }
}

impl Plan {
    /// Makes the plan of a spec on the live database. `state_schema` is where the state tables live or will live.
    pub async fn make(
        client: &Client,
        spec: &Spec,
        state_schema: &Ident,
        accepted: Accepted,
    ) -> Result<Plan, PlanError> {
        let lookup = |error| PlanError::Statement("look up the server", error);
        let server = usable_server(client).await?;
        let session = Session::read(client).await.map_err(lookup)?;
        let table = find_table(client, spec).await?;
        let written = check_columns(spec, &table)?;
        // Whoever only looks need not be able to write.
        let wanted = if accepted.only_reads { &[] } else { written.as_slice() };
        let mut refusals = table_refusals(&table, &server, wanted);
        let published =
            surroundings::publications_of_target(client, &table.name).await.map_err(lookup)?;
        refusals.extend(identity_refusal(&table, &published));
        if !refusals.is_empty() {
            return Err(PlanError::Refused(refusals));
        }
        let (key, index) = match choose_key(&table, spec) {
            Ok((key, index)) => (key, index.name.clone()),
            Err(refusal) => (physical::without_key(spec, &table, &server, refusal)?, String::new()),
        };
        let misled = operators::refusal(client, &session, (table.oid, &index), Some(&server.role));
        if let Some(refusal) = misled.await? {
            return Err(refusal.into());
        }
        let uses = judge_all(client, &session, spec, &table).await?;
        let key = order::spread(client, &session, &table, key).await?;
        let targets = targets(&table, &written);
        let builder = Builder::new(spec, &table.name, &key, &targets);
        if !accepted.only_reads {
            check_statement(client, &session, spec, &builder).await?;
        }
        let back = spec.way_back();
        let back_columns = back.as_ref().map(|back| check_columns(back, &table)).transpose()?;
        let back_targets = self::targets(&table, &back_columns.unwrap_or_default());
        let back = back.as_ref().map(|spec| Builder {
            spec,
            targets: &back_targets,
            leaf: None,
            ..builder
        });
        if let Some(back) = back.as_ref().filter(|_| !accepted.only_reads) {
            judge_all(client, &session, back.spec, &table).await?;
            check_statement(client, &session, back.spec, back).await?;
        }
        let remaining = remaining(client, &session, spec, &table, &builder, &uses).await?;
        let mut plan = Plan {
            sql: builder.chunk_sql(),
            remaining,
            from_sql: builder.from_target().as_str().to_owned(),
            ceiling: match key.is_places() {
                true => (table.heap_bytes > 0).then(physical::end),
                false => read_ceiling(client, &session, &builder.ceiling()).await?,
            },
            index,
            key: key.clone(),
            written,
            undo: spec.undo.mode,
            spec: spec.clone(),
            targets: targets.clone(),
            has_few_values: has_few_values(spec, &uses),
            limits_itself: false,
            joins_in_bulk: None,
            walk_before: None,
            has_triggers: false,
            hot_blockers: Vec::new(),
            published,
            warnings: Vec::new(),
            leaves: None,
            tree: None,
            physical: None,
            way: Way::by_key(String::new()),
            table_rows: 0,
            rows_to_do: 0,
            server,
            session,
            table: table.clone(),
        };
        let needed = builder.needed().as_str().to_owned();
        plan.tree = plan.find_tree(client).await?;
        if let Some(tree) = &plan.tree {
            plan.leaves =
                Some(leaves::find(client, &plan.session, (builder, back), tree, &uses).await?);
        }
        plan.look_around(client, state_schema, accepted).await?;
        plan.table_rows =
            rehearse::planner_rows(client, &plan, &format!("SELECT 1 FROM {}", table.name)).await?;
        let to_do = format!("SELECT 1 {} WHERE {needed}", plan.from_sql);
        plan.rows_to_do = rehearse::planner_rows(client, &plan, &to_do).await?;
        if accepted.only_reads {
            return Ok(plan);
        }
        if plan.may_go_by_place(accepted) {
            plan.limits_itself = limits_itself(client, &plan, &uses).await?;
        }
        if plan.limits_itself && plan.needs_order() && !plan.key.is_places() {
            plan.walk_before = Some(oldest_transaction(client).await.map_err(lookup)?);
        }
        match plan.set_way(None) {
            // A run that has begun goes on as it began, or says why it cannot.
            Err(_) if accepted.goes_on => {}
            set => set?,
        }
        plan.find_join(client).await?;
        let mut misled = guard::guard(client, &plan).await?;
        if misled.is_some() && plan.way.is_physical && spec.order.kind != Kind::Physical {
            plan.set_way(Some(false))?;
            misled = guard::guard(client, &plan).await?;
        }
        plan.warnings.extend(plan.scattered_warning());
        plan.warnings.extend(checks::fill_warning(
            plan.met(),
            plan.hot_blockers.is_empty() && plan.way.striping.is_none(),
        ));
        match misled {
            Some(refusal) if accepted.goes_on => {
                plan.warnings.push(format!("{}: {}; {}", refusal.what, refusal.why, refusal.mend));
                tracing::warn!("{}: {}", refusal.what, refusal.why);
                Ok(plan)
            }
            Some(refusal) => Err(refusal.into()),
            None => Ok(plan),
        }
    }

    /// Decides how to go through the table; whether `by_place` only where that is not decided yet.
    fn set_way(&mut self, by_place: Option<bool>) -> Result<(), Refusal> {
        self.way = self.choose_way(self.table_rows, by_place)?;
        self.physical = self.way.is_physical.then(|| self.walk_and_sweep()).flatten();
        Ok(())
    }

    /// Whether a plan node's alias stands for the target: partitions get their parent's alias with a number.
    pub(crate) fn is_target_alias(&self, alias: &str) -> bool {
        let name = self.table.name.name.as_str();
        match alias.strip_prefix(name) {
            Some("") => true,
            Some(rest) if self.table.kind == "p" => {
                rest.strip_prefix('_').is_some_and(|n| n.chars().all(|c| c.is_ascii_digit()))
            }
            _ => false,
        }
    }

    fn builder(&self) -> Builder<'_> {
        let builder = Builder::new(&self.spec, &self.table.name, &self.key, &self.targets);
        Builder { joins_in_bulk: self.joins_in_bulk, ..builder }
    }

    /// Whether it writes only where there is nothing, so that it can be run at any time.
    pub fn only_fills(&self) -> bool {
        self.spec.only_fills()
    }

    /// A query that yields a row while something is left to do; none when the data cannot tell.
    pub fn verify_query(&self) -> Option<String> {
        let remaining = self.remaining.as_ref()?;
        Some(format!("SELECT 1 {} WHERE {remaining}", self.from_sql.trim_start()))
    }
}
