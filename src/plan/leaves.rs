//! The leaves of a partitioned table, and whether a run may go through them one after the other.
//!
//! A leaf by itself can be striped, vacuumed and its versions looked at; its parent can not. But a statement on a leaf is not the
//! statement on the table: it needs privileges there, and other triggers, rules and policies hold.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::judge::analyse;
use super::probe::Uses;
use super::statement::{Builder, ByRange, ChunkSql};
use super::table::{self, Table};
use super::{Plan, PlanError};
use crate::db::Session;
use crate::db::session::Bounds;
use crate::key::{Bound, Form, LEAF, Leaf, Leaves, Place};
use crate::spec::Kind;
use crate::sql::{Ident, QualifiedName};
use crate::state::Run;

/// A leaf as it is now.
#[derive(Clone, Debug)]
pub struct LeafNow {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its name.
    pub name: QualifiedName,
    /// Bytes of its heap.
    pub heap_bytes: i64,
}

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
}

impl Trial<'_> {
    /// A statement for the first chunk.
    pub(super) fn text(&self, sql: &ByRange) -> String {
        self.place.text(sql.get(Form::FIRST)).unwrap_or_default().into_owned()
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

    /// The greatest key of a run's chunks.
    pub fn run_ceiling(&self) -> Option<Bound> {
        self.by_leaf().map_or_else(|| self.ceiling.clone(), |by_leaf| by_leaf.leaves.ceiling())
    }

    pub(super) fn trial(&self) -> Trial<'_> {
        let whole = || Trial {
            sql: &self.sql,
            place: Place::Table,
            ceiling: self.ceiling.as_ref(),
            heap_bytes: self.table.heap_bytes,
        };
        self.by_leaf().and_then(ByLeaf::trial).unwrap_or_else(whole)
    }

    /// Goes on through the leaves that a run began with, or through the parent if it began so; whatever would be chosen now.
    pub(super) fn set_leaves_of(&mut self, run: &Run) {
        let reason = || Err("as the run began".to_owned());
        self.leaves = match (&run.leaves, self.leaves.take()) {
            (Some(leaves), found) => {
                let found = found.and_then(Result::ok);
                let (now, sample) =
                    found.map(|found| (found.now, found.sample)).unwrap_or_default();
                let sql = self.builder().of_leaves().chunk_sql();
                Some(Ok(ByLeaf { leaves: leaves.clone(), sql, now, sample }))
            }
            (None, found) => found.map(|_| reason()),
        };
    }
}

impl<'a> Builder<'a> {
    /// The same for leaves.
    pub(super) fn of_leaves(self) -> Builder<'a> {
        Builder { leaf: Some(LEAF.to_owned()), ..self }
    }
}

/// How to go through a partitioned table leaf by leaf, or why not; none for a table without partitions.
pub(super) async fn find(
    client: &Client,
    session: &Session,
    builder: Builder<'_>,
    table: &Table,
    uses: &[Uses],
) -> Result<Option<Result<ByLeaf, String>>, PlanError> {
    let lookup = |error| PlanError::Statement("look up the partitions", error);
    if table.kind != "p" {
        return Ok(None);
    }
    if builder.spec.order.kind == Kind::Key {
        return Ok(Some(Err("the spec says `order = \"key\"`".to_owned())));
    }
    // Leaves may have their columns in another order, and are of other row types.
    if uses.iter().any(|uses| uses.columns.is_none()) {
        return Ok(Some(Err("an expression reads the row as a whole".to_owned())));
    }
    let names: Vec<&str> = builder.targets.iter().map(|target| target.name.as_str()).collect();
    let tree = client
        .query_typed(TREE, &[(&table.oid, Type::OID), (&names, Type::TEXT_ARRAY)])
        .await
        .map_err(lookup)?;
    if let Some(obstacle) = tree.iter().find_map(|row| obstacle(row, &names)) {
        return Ok(Some(Err(obstacle)));
    }
    let is_leaf = |row: &&Row| row.get(3);
    let now: Vec<LeafNow> = tree.iter().filter(is_leaf).map(read_leaf).collect();
    let Some(largest) = now.iter().max_by_key(|leaf| leaf.heap_bytes) else {
        return Ok(Some(Err("it has no partitions".to_owned())));
    };
    let Some(sample) = table::find(client, &largest.name.to_string()).await.map_err(lookup)? else {
        return Ok(Some(Err(format!("{} was dropped just now", largest.name.plain()))));
    };
    let builder = Builder { leaf: Some(largest.name.to_string()), ..builder };
    let width = builder.key.columns.len();
    if let Err(error) = analyse(client, session, &builder.update(Form::FIRST), width).await? {
        let message = crate::db::message(&error);
        return Ok(Some(Err(format!("the statement cannot name a partition: {message}"))));
    }
    let builder = builder.of_leaves();
    let leaves = ceilings(client, session, &builder.ceiling(), &now).await?;
    Ok(Some(Ok(ByLeaf { leaves, sql: builder.chunk_sql(), now, sample: Some(sample) })))
}

/// The table and all below it; none is a foreign table, because those cannot be below a unique index. Statement triggers fire for the table that is named alone, and policies and rules are its own.
const TREE: &str = "
    select c.oid, n.nspname::text, c.relname::text, t.isleaf, pg_catalog.pg_relation_size(c.oid),
           not t.isleaf or pg_catalog.has_table_privilege(c.oid, 'select'),
           not t.isleaf or (select bool_and(pg_catalog.has_column_privilege(c.oid, w, 'update')) from unnest($2::text[]) w),
           pg_catalog.row_security_active(c.oid),
           exists (select from pg_catalog.pg_rewrite r where r.ev_class = c.oid),
           (select g.tgname::text from pg_catalog.pg_trigger g
             where g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled <> 'D' and g.tgtype & 16 = 16 and g.tgtype & 1 = 0
             limit 1),
           current_user::text
      from pg_catalog.pg_partition_tree($1::oid::regclass) t
      join pg_catalog.pg_class c on c.oid = t.relid
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     order by 2, 3";

fn read_leaf(row: &Row) -> LeafNow {
    LeafNow {
        oid: row.get(0),
        name: QualifiedName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
        heap_bytes: row.get(4),
    }
}

/// Why a statement on this member of the tree would not do what one on the table does.
fn obstacle(row: &Row, written: &[&str]) -> Option<String> {
    let leaf = read_leaf(row);
    let (name, plain) = (&leaf.name, leaf.name.plain());
    let role = Ident::new(row.get::<_, String>(10));
    let (may_select, may_update): (bool, bool) = (row.get(5), row.get(6));
    if !may_select || !may_update {
        let columns: Vec<String> = written.iter().map(|c| Ident::new(*c).to_string()).collect();
        let grant = format!("GRANT SELECT, UPDATE ({}) ON {name} TO {role};", columns.join(", "));
        return Some(format!(
            "role {role} may not read and write partition {plain} itself: {grant}"
        ));
    }
    if row.get(7) {
        return Some(format!("row-level security of partition {plain} would hold"));
    }
    if row.get(8) {
        return Some(format!("{plain} has rules"));
    }
    let trigger: Option<String> = row.get(9);
    trigger.map(|trigger| format!("trigger {trigger} of {plain} fires once a statement"))
}

/// Leaves asked for their greatest key in one statement: a lock and an index look-up each.
const ASKED_AT_ONCE: usize = 100;

/// The greatest key of every leaf.
async fn ceilings(
    client: &Client,
    session: &Session,
    sql: &str,
    now: &[LeafNow],
) -> Result<Leaves, PlanError> {
    let failed = |error| PlanError::Statement("find the greatest keys", error);
    let mut leaves: Vec<Leaf> =
        now.iter().map(|leaf| Leaf { oid: leaf.oid, ceiling: None }).collect();
    for (batch, leaves) in now.chunks(ASKED_AT_ONCE).zip(leaves.chunks_mut(ASKED_AT_ONCE)) {
        let one = |(i, leaf): (usize, &LeafNow)| {
            format!("SELECT {i}, ({})", sql.replace(LEAF, &leaf.name.to_string()))
        };
        let all: Vec<String> = batch.iter().enumerate().map(one).collect();
        session.begin_read_only(client, Bounds::LOOKUP).await.map_err(failed)?;
        let rows = client.query_typed(&all.join("\nUNION ALL\n"), &[]).await;
        client.batch_execute("ROLLBACK").await.map_err(failed)?;
        for row in rows.map_err(failed)? {
            let at = row.get::<_, i32>(0) as usize;
            leaves[at].ceiling = row.get::<_, Option<Vec<String>>>(1).map(Bound);
        }
    }
    Ok(Leaves(leaves))
}
