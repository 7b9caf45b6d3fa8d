//! The leaves of a partitioned table, and whether a run may go through them one after the other.
//!
//! A leaf by itself can be striped, vacuumed and its versions looked at; its parent can not. But a statement on a leaf is not the
//! statement on the table: it needs privileges there, and other triggers, rules and policies hold.

use std::collections::HashSet;

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::join::IN_BULK;
use super::judge::analyse;
use super::probe::Uses;
use super::statement::{Builder, ByRange, ChunkSql};
use super::table::{self, Table};
use super::tree::{LeafNow, Obstacle, Tree};
use super::{Plan, PlanError, Refusal, order};
use crate::db::error::sqlstate;
use crate::db::session::Bounds;
use crate::db::{self, Session};
use crate::key::{Bound, Form, Key, KeyRange, LEAF, Leaf, Leaves, Place};
use crate::spec::Kind;
use crate::sql::SqlText;
use crate::state::Run;

/// How a run goes through a partitioned table leaf by leaf.
#[derive(Clone, Debug)]
pub struct ByLeaf {
    /// The leaves in the order they are gone through.
    pub leaves: Leaves,
    /// The statements, with [`LEAF`] where the leaf's name belongs.
    pub sql: ChunkSql,
    /// The leaves that are there now.
    pub now: Vec<LeafNow>,
    /// The largest of them, which stands for all; none when a run goes on and the table would not be gone through by leaf any more.
    pub sample: Option<Table>,
}

/// A chunk that can be tried before a run.
pub(super) struct Trial<'p> {
    /// The statements.
    pub sql: &'p ChunkSql,
    /// Where they go.
    pub place: Place,
    /// The greatest key there.
    pub ceiling: Option<&'p Bound>,
    /// Bytes of the heap there.
    pub heap_bytes: i64,
    /// The first chunk and its entries, where it need not be looked for.
    pub first: Option<(KeyRange, i64)>,
}

impl Trial<'_> {
    /// Has the rest of the transaction join as chunks do.
    pub(super) async fn choose_join(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        match self.sql.joins_in_bulk {
            Some(_) => client.batch_execute(IN_BULK).await,
            None => Ok(()),
        }
    }

    /// A statement in one form.
    pub(super) fn text(&self, sql: &ByRange, form: Form) -> String {
        self.place.text(sql.get(form)).unwrap_or_default().into_owned()
    }
}

impl ByLeaf {
    /// How many of the table's rows each leaf has, by the size of its heap; none for one that is gone.
    pub fn rows(&self, of: i64) -> Vec<i64> {
        let all: i64 = self.now.iter().map(|leaf| leaf.heap_bytes).sum();
        let share = |leaf: &Leaf| {
            let now = self.now.iter().find(|now| now.oid == leaf.oid);
            now.map_or(0.0, |now| now.heap_bytes as f64) / all.max(1) as f64
        };
        self.leaves.0.iter().map(|leaf| (of as f64 * share(leaf)) as i64).collect()
    }

    fn trial(&self) -> Option<Trial<'_>> {
        let sample = self.sample.as_ref()?;
        let at = self.leaves.0.iter().position(|leaf| leaf.oid == sample.oid)?;
        Some(Trial {
            sql: &self.sql,
            place: Place::Leaf(at + 1, sample.name.clone()),
            ceiling: self.leaves.0[at].ceiling.as_ref(),
            heap_bytes: sample.heap_bytes,
            first: None,
        })
    }
}

impl Plan {
    /// The table that the chunks meet: the largest leaf where they go by leaf.
    pub(super) fn met(&self) -> &Table {
        self.by_leaf().and_then(|by_leaf| by_leaf.sample.as_ref()).unwrap_or(&self.table)
    }

    /// How it goes leaf by leaf; none when it does not.
    pub fn by_leaf(&self) -> Option<&ByLeaf> {
        self.leaves.as_ref().and_then(|leaves| leaves.as_ref().ok())
    }

    /// How many of the table's rows each leaf of a run has.
    pub fn leaf_rows(&self) -> Vec<i64> {
        match (&self.physical, self.by_leaf()) {
            (Some(physical), _) => vec![self.table_rows; physical.leaves.0.len()],
            (None, Some(by_leaf)) => by_leaf.rows(self.table_rows),
            (None, None) => vec![self.table_rows],
        }
    }

    /// The numbers of leaves that are cut into plain slices, because they are too small for stripes and nobody asked for those.
    pub fn small_leaves(&self) -> HashSet<usize> {
        let is_asked = self.spec.order.kind == Kind::Striped;
        let Some(by_leaf) = self.by_leaf().filter(|_| !is_asked) else { return HashSet::new() };
        let is_small = |leaf: &Leaf| {
            let now = by_leaf.now.iter().find(|now| now.oid == leaf.oid);
            now.is_some_and(|now| order::is_small(now.heap_bytes))
        };
        (1..).zip(&by_leaf.leaves.0).filter(|(_, leaf)| is_small(leaf)).map(|(i, _)| i).collect()
    }

    /// The greatest key of a run's chunks.
    pub fn run_ceiling(&self) -> Option<Bound> {
        self.run_leaves().map_or_else(|| self.ceiling.clone(), Leaves::ceiling)
    }

    pub(super) fn trial(&self) -> Trial<'_> {
        let whole = || Trial {
            sql: &self.sql,
            place: Place::Table,
            ceiling: self.ceiling.as_ref(),
            heap_bytes: self.table.heap_bytes,
            first: None,
        };
        if let Some(walk) = self.physical_trials().and_then(|trials| trials.into_iter().next()) {
            return walk;
        }
        self.by_leaf().and_then(ByLeaf::trial).unwrap_or_else(whole)
    }

    /// Chunks of each kind that a run has.
    pub(super) fn trials(&self) -> Vec<Trial<'_>> {
        self.physical_trials().unwrap_or_else(|| vec![self.trial()])
    }

    /// The leaves that a run goes through.
    pub fn run_leaves(&self) -> Option<&Leaves> {
        let physical = self.physical.as_ref().map(|physical| &physical.leaves);
        physical.or(self.by_leaf().map(|by_leaf| &by_leaf.leaves))
    }

    /// Why leaves cannot be written by their own names.
    pub(super) fn leaf_obstacle(&self) -> Option<&Obstacle> {
        let obstacle = self.tree.as_ref().and_then(|tree| tree.obstacle.as_ref());
        obstacle.filter(|obstacle| obstacle.is_firm)
    }

    /// What an application must not do while this goes leaf by leaf.
    pub(super) fn leaf_warning(&self) -> Option<String> {
        let columns = self.by_leaf().and(self.tree.as_ref()).and_then(Tree::roaming)?;
        Some(format!(
            "a row whose {columns} is changed while the backfill runs moves to another partition, and may be missed or written twice"
        ))
    }

    /// The partitions of a partitioned table; none of another one.
    pub(super) async fn find_tree(&self, client: &Client) -> Result<Option<Tree>, PlanError> {
        if self.table.kind != "p" {
            return Ok(None);
        }
        let columns: Vec<&str> = self.written.iter().map(String::as_str).collect();
        let found = Tree::find(client, self.table.oid, &self.key, &columns).await;
        found.map(Some).map_err(|error| PlanError::Statement("look up the partitions", error))
    }

    /// Goes on through the leaves that a run began with, or through the parent if it began so; whatever would be chosen now. Refuses when
    /// a statement on a leaf would be refused, or do something else than one on the table; unless rows are given back `by_images`, which are
    /// found by their keys, whatever partition they are in.
    pub(super) fn set_leaves_of(&mut self, run: &Run, by_images: bool) -> Result<(), PlanError> {
        let reason = || Err("as the run began".to_owned());
        let by_leaf = run.leaves.as_ref().filter(|_| !run.is_walked());
        let Some(leaves) = by_leaf else {
            self.leaves = self.leaves.take().map(|_| reason());
            return Ok(());
        };
        if let Some(obstacle) = self.leaf_obstacle().filter(|_| !by_images) {
            let why = format!("run {} writes each partition by its own name", run.run_id);
            let mend = "undo that, or do what it says; then go on";
            return Err(Refusal::new(obstacle.what.clone(), why, mend).into());
        }
        let found = self.leaves.take().and_then(Result::ok);
        let sample = found.and_then(|found| found.sample);
        let now = self.tree.as_ref().map(|tree| tree.leaves.clone()).unwrap_or_default();
        let sql = self.builder().of_leaves().chunk_sql();
        self.leaves = Some(Ok(ByLeaf { leaves: leaves.clone(), sql, now, sample }));
        Ok(())
    }
}

impl<'a> Builder<'a> {
    /// The same for leaves.
    pub(super) fn of_leaves(self) -> Builder<'a> {
        Builder { leaf: Some(LEAF.to_owned()), ..self }
    }
}

/// How to go through a partitioned table leaf by leaf, or why not. The statements are those of `builder`, and of `back` where the spec
/// says how it is taken back.
pub(super) async fn find(
    client: &Client,
    session: &Session,
    (builder, back): (Builder<'_>, Option<Builder<'_>>),
    tree: &Tree,
    uses: &[Uses],
) -> Result<Result<ByLeaf, String>, PlanError> {
    if let Some(reason) = against(&builder, tree, uses) {
        return Ok(Err(reason));
    }
    let leaf_builder = Builder { leaf: Some(LEAF.to_owned()), ..builder };
    let found = match ceilings(client, session, &leaf_builder.ceiling(), &tree.leaves).await {
        Ok(ceilings) => in_key_order(client, session, builder.key, ceilings).await,
        Err(error) => Err(error),
    };
    let found = match found {
        Ok(found) => found,
        // Dropped just now, or out of this role's reach in a way that the catalogs did not tell.
        Err(error) if matches!(sqlstate(&error), Some("42P01" | "42501")) => {
            return Ok(Err(crate::db::message(&error)));
        }
        Err(error) => return Err(PlanError::Statement("find the greatest keys", error)),
    };
    let has_rows = |(_, leaf): &&(LeafNow, Leaf)| leaf.ceiling.is_some();
    let largest = found.iter().filter(has_rows).max_by_key(|(now, _)| now.heap_bytes);
    let Some((largest, _)) = largest.or(found.first()) else {
        return Ok(Err("it has no partitions".to_owned()));
    };
    let lookup = |error| PlanError::Statement("look up the partitions", error);
    let Some(sample) = table::find(client, &largest.name.to_string()).await.map_err(lookup)? else {
        return Ok(Err(format!("{} was dropped just now", largest.name.plain())));
    };
    let width = builder.key.columns.len();
    for (builder, what) in [(Some(builder), "statement"), (back, "undo statement")] {
        let Some(builder) = builder else { continue };
        let builder = Builder { leaf: Some(largest.name.to_string()), ..builder };
        let sql: SqlText = builder.update(Form::FIRST);
        if let Err(error) = analyse(client, session, &sql, width).await? {
            let message = crate::db::message(&error);
            return Ok(Err(format!("the {what} cannot name a partition: {message}")));
        }
    }
    let (now, leaves) = found.into_iter().unzip();
    let sql = leaf_builder.chunk_sql();
    Ok(Ok(ByLeaf { leaves: Leaves(leaves), sql, now, sample: Some(sample) }))
}

/// What speaks against going leaf by leaf.
fn against(builder: &Builder<'_>, tree: &Tree, uses: &[Uses]) -> Option<String> {
    if builder.spec.order.kind == Kind::Key {
        return Some("the spec says `order = \"key\"`".to_owned());
    }
    // Leaves may have their columns in another order, and are of other row types.
    if uses.iter().any(|uses| uses.columns.is_none()) {
        return Some("an expression reads the row as a whole".to_owned());
    }
    if let Some(obstacle) = &tree.obstacle {
        return Some(obstacle.what.clone());
    }
    let columns = tree.roaming().filter(|_| builder.spec.order.kind != Kind::Striped)?;
    Some(format!(
        "rows whose {columns} is changed meanwhile move to another partition, and could be missed or written twice; if that cannot \
         happen, say `order = \"striped\"`"
    ))
}

/// Leaves asked for their greatest key in one statement: a lock and an index look-up each.
const ASKED_AT_ONCE: usize = 100;

/// Every leaf with its greatest key.
async fn ceilings(
    client: &Client,
    session: &Session,
    sql: &str,
    now: &[LeafNow],
) -> Result<Vec<(LeafNow, Leaf)>, tokio_postgres::Error> {
    let mut found: Vec<(LeafNow, Leaf)> = now
        .iter()
        .map(|now| (now.clone(), Leaf { oid: now.oid, ceiling: None, is_walked: false }))
        .collect();
    for batch in found.chunks_mut(ASKED_AT_ONCE) {
        let one = |(i, (now, _)): (usize, &(LeafNow, Leaf))| {
            format!("SELECT {i}, ({})", sql.replace(LEAF, &now.name.to_string()))
        };
        let all: Vec<String> = batch.iter().enumerate().map(one).collect();
        let rows = read(client, session, &all.join("\nUNION ALL\n"), &[]).await?;
        for row in rows {
            let at = row.get::<_, i32>(0) as usize;
            batch[at].1.ceiling = row.get::<_, Option<Vec<String>>>(1).map(Bound);
        }
    }
    Ok(found)
}

/// By their greatest keys, which is by their bounds where those lead the key; empty ones last.
async fn in_key_order(
    client: &Client,
    session: &Session,
    key: &Key,
    leaves: Vec<(LeafNow, Leaf)>,
) -> Result<Vec<(LeafNow, Leaf)>, tokio_postgres::Error> {
    let bounds: Vec<Option<&Vec<String>>> =
        leaves.iter().map(|(_, leaf)| leaf.ceiling.as_ref().map(|bound| &bound.0)).collect();
    let bounds = serde_json::to_string(&bounds).unwrap_or_default();
    let column = |(i, column): (usize, &crate::key::KeyColumn)| {
        format!("(bound->>{i})::{}", column.type_sql)
    };
    let columns: Vec<String> = key.columns.iter().enumerate().map(column).collect();
    let sql = format!(
        "SELECT place - 1 FROM jsonb_array_elements($1::text::jsonb) WITH ORDINALITY AS b (bound, place) ORDER BY {}, place",
        columns.join(", ")
    );
    let rows = read(client, session, &sql, &[(&bounds, Type::TEXT)]).await?;
    let mut leaves: Vec<Option<(LeafNow, Leaf)>> = leaves.into_iter().map(Some).collect();
    Ok(rows.iter().filter_map(|row| leaves[row.get::<_, i64>(0) as usize].take()).collect())
}

async fn read(
    client: &Client,
    session: &Session,
    sql: &str,
    params: &[(&(dyn tokio_postgres::types::ToSql + Sync), Type)],
) -> Result<Vec<tokio_postgres::Row>, tokio_postgres::Error> {
    session.begin_read_only(client, Bounds::LOOKUP).await?;
    let rows = db::ask_as_is(client, sql, params).await;
    client.batch_execute("ROLLBACK").await?;
    rows
}
