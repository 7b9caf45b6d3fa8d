//! How the chunk statement finds the rows of a spec's `from`, and of the subqueries in its expressions.
//!
//! The planner takes a stripe, or the places of a chunk's rows, for a few rows. Where the source has no index for the join, it then
//! reads the source once for each row, whatever the chunk's true size. So it is asked for a plan row by row: one that gets at a relation
//! without asking an index for what is joined must read it as a whole, and does that better once a statement than once a row.

use serde_json::Value;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::explained::{children, index_looks, is_scan, mentions_any, relation, word};
use super::{Plan, PlanError, rehearse};
use crate::db;
use crate::db::session::Bounds;
use crate::event::bytes;
use crate::sql::QualifiedName;

/// Leaves the planner no way but row by row.
const ROW_BY_ROW: &str = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";

/// Keeps the planner from joining row by row where there is another way.
pub const IN_BULK: &str = "SET LOCAL enable_nestloop = off";

/// Leaves it the choice again.
pub const AS_USUAL: &str = "SET LOCAL enable_nestloop = DEFAULT";

/// In bulk no more than so many times is read of what must be read as a whole anyway: what the planner finds by an index is left to it.
const FEW_TIMES: i64 = 2;

/// A relation of this size is read as a whole in some milliseconds, once a chunk.
const SMALL_ONCE: i64 = 1 << 20;

/// While so much of a source is read and hashed, a row is written.
const BYTES_A_ROW: i64 = 6_000;

/// A run begins with as many rows in a chunk anyway.
const FEW_ROWS: u32 = 500;

/// A relation of this size, a thousand rows, is gone through in a tenth of a millisecond, once a row.
const SMALL_A_ROW: i64 = 64 << 10;

impl Plan {
    /// Decides how the source is joined, and warns of what is read over and over.
    pub(super) async fn find_join(&mut self, client: &Client) -> Result<(), PlanError> {
        let rules = self.spec.rules.iter();
        let mut exprs =
            rules.flat_map(|rule| rule.when.iter().chain(rule.writes.iter().map(|w| &w.value)));
        let has_source = self.spec.from.is_some();
        if !has_source && !exprs.any(|expr| expr.text.to_ascii_lowercase().contains("select")) {
            return Ok(());
        }
        let mut reads = self.reads(client, ROW_BY_ROW).await?;
        if has_source && !reads.by_join.is_empty() {
            reads = self.choose_join(client, reads).await?;
        }
        self.warnings.extend(told(&reads.by_subqueries, SMALL_A_ROW).map(|read| {
            format!("a subquery reads all of {read}, for each row: CREATE INDEX CONCURRENTLY on the columns that it is looked up by")
        }));
        Ok(())
    }

    /// Joins in bulk where that reads no more than `row_by_row`, whose reads by the join are of each row. What is read then.
    async fn choose_join(
        &mut self,
        client: &Client,
        mut row_by_row: Reads,
    ) -> Result<Reads, PlanError> {
        let in_bulk = self.reads(client, IN_BULK).await?;
        // A subquery may have joins of its own, which would be made in bulk too, for each row; and so would those of a trigger.
        let is_subquery_worse = total(&in_bulk.by_subqueries) > total(&row_by_row.by_subqueries);
        // What row by row finds by its index may be far larger than what it cannot find so. A foreign table is of no known size.
        let (once, a_row) = (total(&in_bulk.by_join), total(&row_by_row.by_join));
        let is_more = a_row == 0 || once > a_row.saturating_mul(FEW_TIMES);
        let is_bulk = !in_bulk.has_loop && !is_more && !is_subquery_worse && !self.has_triggers;
        let (read, how) = match is_bulk {
            true => {
                (told(&in_bulk.by_join, SMALL_ONCE), "each statement of a chunk reads all of it")
            }
            false => {
                row_by_row.by_join.retain(|read| !read.is_gathered);
                (
                    told(&row_by_row.by_join, SMALL_A_ROW),
                    "it is gone through for each row of a chunk",
                )
            }
        };
        self.warnings.extend(read.map(|read| {
            format!("no index serves the join with {read}: {how}; CREATE INDEX CONCURRENTLY on the columns that it is joined by")
        }));
        if !is_bulk {
            return Ok(row_by_row);
        }
        self.join_in_bulk(once);
        Ok(in_bulk)
    }

    fn join_in_bulk(&mut self, bytes: i64) {
        self.joins_in_bulk = Some(bytes);
        self.sql.joins_in_bulk = Some(bytes);
        if let Some(Ok(by_leaf)) = &mut self.leaves {
            by_leaf.sql.joins_in_bulk = Some(bytes);
        }
        if let Some(physical) = &mut self.physical {
            (physical.walk.sql.joins_in_bulk, physical.sweep.joins_in_bulk) =
                (Some(bytes), Some(bytes));
        }
    }

    /// Rows that the first chunk should have for what it reads as a whole anyway: a quarter of those that take as long as the reading. None
    /// where that is little.
    pub fn first_chunk_rows(&self) -> Option<u32> {
        let rows = self.joins_in_bulk? / BYTES_A_ROW / 4;
        u32::try_from(rows).ok().filter(|rows| *rows > FEW_ROWS)
    }

    /// What the first chunk reads as a whole under a setting.
    async fn reads(&self, client: &Client, setting: &str) -> Result<Reads, PlanError> {
        let statement = |error| PlanError::Statement("explain the join", error);
        self.session.begin(client, Bounds::LOOKUP).await.map_err(statement)?;
        let plans = async {
            client.batch_execute(setting).await?;
            rehearse::explain_first_chunk(client, &self.trial()).await
        };
        let plans = plans.await;
        client.batch_execute("ROLLBACK").await.map_err(statement)?;
        let mut reads = Reads::default();
        for explain in plans.map_err(statement)? {
            let plan = &explain[0]["Plan"];
            let mut loops = Vec::new();
            collect_loops(plan, &mut loops);
            for sides in loops {
                reads.has_loop |= !self.has_small_side(client, sides).await?;
            }
            for scan in self.read_whole(plan) {
                let relation = relation(scan.node);
                let side =
                    if scan.is_in_subquery { &mut reads.by_subqueries } else { &mut reads.by_join };
                if side.iter().any(|read| read.relation == relation) {
                    continue;
                }
                let size = size(client, &relation).await?;
                side.push(Read { relation, size, is_gathered: scan.is_gathered });
            }
        }
        Ok(reads)
    }

    /// Whether little is read again and again by a loop: it goes through few pages for each row of the other side, or once through the other
    /// side for a single row.
    async fn has_small_side(&self, client: &Client, sides: Vec<&Value>) -> Result<bool, PlanError> {
        'sides: for side in sides {
            let is_inner = word(side, "Parent Relationship") == "Inner";
            if !is_inner && side["Plan Rows"].as_f64().is_none_or(|rows| rows > 1.0) {
                continue;
            }
            let (mut leaves, mut read) = (Vec::new(), 0);
            collect_leaves(side, &mut leaves);
            for leaf in leaves {
                let is_target = self.is_target_alias(word(leaf, "Alias"));
                read += match word(leaf, "Node Type") {
                    "Values Scan" | "Result" => 0,
                    "Foreign Scan" => continue 'sides,
                    _ if is_target || word(leaf, "Relation Name").is_empty() => continue 'sides,
                    _ => size(client, &relation(leaf)).await?,
                };
            }
            if read <= SMALL_A_ROW {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is read beside the target without asking an index for what a row of another relation holds.
    fn read_whole<'v>(&self, plan: &'v Value) -> Vec<Scan<'v>> {
        let (mut aliases, mut scans) = (Vec::new(), Vec::new());
        collect_aliases(plan, &mut aliases);
        collect_scans(plan, (false, false), &plan.to_string(), &mut scans);
        scans.retain(|scan| {
            let alias = word(scan.node, "Alias");
            let others = || aliases.iter().filter(|other| **other != alias);
            let asks = |condition: &&str| others().any(|other| mentions_any(condition, other));
            !self.is_target_alias(alias) && !conditions(scan.node).iter().any(asks)
        });
        scans
    }
}

/// What is read as a whole: by subqueries that run once for each row, and by the join.
#[derive(Default)]
struct Reads {
    by_join: Vec<Read>,
    by_subqueries: Vec<Read>,
    /// Whether anything large is joined row by row.
    has_loop: bool,
}

/// A relation that is read as a whole.
struct Read {
    relation: QualifiedName,
    /// Bytes.
    size: i64,
    /// Whether an aggregate or the like makes few rows of it before they are joined.
    is_gathered: bool,
}

fn total(reads: &[Read]) -> i64 {
    reads.iter().map(|read| read.size).sum()
}

/// What is read, and how much that is; none when it is little.
fn told(reads: &[Read], small: i64) -> Option<String> {
    let largest = reads.iter().max_by_key(|read| read.size).filter(|_| total(reads) > small)?;
    let others = match reads.len() - 1 {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let size = bytes(total(reads).unsigned_abs());
    Some(format!("{}{others}, {size}", largest.relation.plain()))
}

/// A node of a plan that reads a relation.
struct Scan<'v> {
    node: &'v Value,
    is_in_subquery: bool,
    is_gathered: bool,
}

/// Bytes of a relation; none of what has no storage, such as a foreign table.
async fn size(client: &Client, relation: &QualifiedName) -> Result<i64, PlanError> {
    let sql = "select pg_catalog.pg_table_size(pg_catalog.to_regclass($1))";
    let size = db::ask(client, sql, &[(&relation.to_string(), Type::TEXT)]).await;
    let size = size.map_err(|e| PlanError::Statement("look up the join's source", e))?;
    Ok(size.first().and_then(|row| row.get(0)).unwrap_or(0))
}

/// What each nested loop of a plan joins.
fn collect_loops<'v>(node: &'v Value, loops: &mut Vec<Vec<&'v Value>>) {
    if word(node, "Node Type") == "Nested Loop" {
        let is_side =
            |child: &&Value| matches!(word(child, "Parent Relationship"), "Outer" | "Inner");
        loops.push(children(node).filter(is_side).collect());
    }
    children(node).for_each(|child| collect_loops(child, loops));
}

/// The nodes that rows come from.
fn collect_leaves<'v>(node: &'v Value, leaves: &mut Vec<&'v Value>) {
    match children(node).next() {
        None => leaves.push(node),
        Some(_) => children(node).for_each(|child| collect_leaves(child, leaves)),
    }
}

fn collect_aliases<'v>(node: &'v Value, aliases: &mut Vec<&'v str>) {
    aliases.extend(node["Alias"].as_str());
    children(node).for_each(|child| collect_aliases(child, aliases));
}

/// The nodes that make few rows of many.
const GATHERS: [&str; 4] = ["Aggregate", "Group", "Limit", "Unique"];

/// The nodes that read relations. What is read once a statement, such as by a subquery that is hashed, is left out.
fn collect_scans<'v>(
    node: &'v Value,
    (is_in_subquery, is_gathered): (bool, bool),
    whole: &str,
    scans: &mut Vec<Scan<'v>>,
) {
    let relationship = word(node, "Parent Relationship");
    let is_subquery = relationship == "SubPlan";
    let is_once = relationship == "InitPlan"
        || (is_subquery && whole.contains(&format!("hashed {}", word(node, "Subplan Name"))));
    if is_once {
        return;
    }
    let is_in_subquery = is_in_subquery || is_subquery;
    let is_gathered = is_gathered || GATHERS.contains(&word(node, "Node Type"));
    if is_scan(node) && !word(node, "Relation Name").is_empty() {
        scans.push(Scan { node, is_in_subquery, is_gathered });
    }
    children(node)
        .for_each(|child| collect_scans(child, (is_in_subquery, is_gathered), whole, scans));
}

/// What a scan asks its indexes for.
fn conditions(scan: &Value) -> Vec<&str> {
    let mut looks = Vec::new();
    index_looks(scan, &mut looks);
    let by_place = scan["TID Cond"].as_str();
    looks.into_iter().map(|(_, condition)| condition).chain(by_place).collect()
}
