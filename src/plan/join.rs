//! How the chunk statement finds the rows of a spec's `from`, and of the subqueries in its expressions.
//!
//! The planner takes a stripe, or the places of a chunk's rows, for a few rows. Where the source has no index for the join, it then
//! reads the source once for each row, whatever the chunk's true size. So it is asked for a plan row by row: one that gets at a relation
//! without asking an index for what is joined must read it as a whole, and does that better once a statement than once a row.

use serde_json::Value;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::{Plan, PlanError, rehearse};
use crate::db;
use crate::db::session::Bounds;
use crate::event::bytes;
use crate::sql::{Ident, QualifiedName, behind_words};

/// Leaves the planner no way but row by row.
const ROW_BY_ROW: &str = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";

/// Keeps the planner from joining row by row where there is another way.
pub const IN_BULK: &str = "SET LOCAL enable_nestloop = off";

/// In bulk no more than so many times is read of what must be read as a whole anyway: what the planner finds by an index is left to it.
const FEW_TIMES: i64 = 2;

/// A relation of this size is read as a whole in some milliseconds, once a chunk.
const SMALL_ONCE: i64 = 1 << 20;

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
        let plans = self.explain_with(client, ROW_BY_ROW).await?;
        let a_row = self.whole_reads(client, &plans, false).await?;
        let plans = match has_source && !a_row.is_empty() {
            true => self.choose_join(client, plans, a_row).await?,
            false => plans,
        };
        let for_each = self.whole_reads(client, &plans, true).await?;
        self.warnings.extend(told(&for_each, SMALL_A_ROW).map(|read| {
            format!("a subquery reads all of {read}, for each row: CREATE INDEX CONCURRENTLY on the columns that it is looked up by")
        }));
        Ok(())
    }

    /// Joins in bulk where that reads less than row by row, by which `a_row` would be read for each row. The plans that it comes to.
    async fn choose_join(
        &mut self,
        client: &Client,
        row_by_row: Vec<Value>,
        a_row: Vec<Read>,
    ) -> Result<Vec<Value>, PlanError> {
        let in_bulk = self.explain_with(client, IN_BULK).await?;
        let once = self.whole_reads(client, &in_bulk, false).await?;
        let is_a_row = in_bulk.iter().any(|explain| has_node(&explain[0]["Plan"], "Nested Loop"));
        // A subquery may have joins of its own, which would be made in bulk too, for each row; and so would those of a trigger.
        let subqueries = total(&self.whole_reads(client, &row_by_row, true).await?);
        let is_subquery_worse =
            total(&self.whole_reads(client, &in_bulk, true).await?) > subqueries;
        // What row by row finds by its index may be far larger than what it cannot find so. A foreign table is of no known size.
        let (read_once, read_a_row) = (total(&once), total(&a_row));
        let is_more = read_a_row == 0 || read_once > read_a_row.saturating_mul(FEW_TIMES);
        let is_bulk = !is_a_row && !is_more && !is_subquery_worse && !self.has_triggers;
        let (read, how) = match is_bulk {
            true => (told(&once, SMALL_ONCE), "each statement of a chunk reads all of it"),
            false => {
                let a_row: Vec<Read> = a_row.into_iter().filter(|read| !read.is_gathered).collect();
                (told(&a_row, SMALL_A_ROW), "it is gone through for each row of a chunk")
            }
        };
        self.warnings.extend(read.map(|read| {
            format!("no index serves the join with {read}: {how}; CREATE INDEX CONCURRENTLY on the columns that it is joined by")
        }));
        if !is_bulk {
            return Ok(row_by_row);
        }
        self.join_in_bulk();
        Ok(in_bulk)
    }

    fn join_in_bulk(&mut self) {
        self.joins_in_bulk = true;
        self.sql.joins_in_bulk = true;
        if let Some(Ok(by_leaf)) = &mut self.leaves {
            by_leaf.sql.joins_in_bulk = true;
        }
        if let Some(physical) = &mut self.physical {
            (physical.walk.sql.joins_in_bulk, physical.sweep.joins_in_bulk) = (true, true);
        }
    }

    /// The plans of the first chunk under a setting.
    async fn explain_with(&self, client: &Client, setting: &str) -> Result<Vec<Value>, PlanError> {
        let statement = |error| PlanError::Statement("explain the join", error);
        self.session.begin(client, Bounds::LOOKUP).await.map_err(statement)?;
        let plans = async {
            client.batch_execute(setting).await?;
            rehearse::explain_first_chunk(client, &self.trial()).await
        };
        let plans = plans.await;
        client.batch_execute("ROLLBACK").await.map_err(statement)?;
        plans.map_err(statement)
    }

    /// Relations beside the target that are read without asking an index for what a row of another one holds: by subqueries that run
    /// once for each row, or by the join.
    async fn whole_reads(
        &self,
        client: &Client,
        plans: &[Value],
        by_subqueries: bool,
    ) -> Result<Vec<Read>, PlanError> {
        let mut found: Vec<Read> = Vec::new();
        for explain in plans {
            for (relation, is_gathered) in self.read_whole(&explain[0]["Plan"], by_subqueries) {
                if found.iter().any(|read| read.relation == relation) {
                    continue;
                }
                let sql = "select pg_catalog.pg_table_size(pg_catalog.to_regclass($1))";
                let size = db::ask(client, sql, &[(&relation.to_string(), Type::TEXT)]).await;
                let size =
                    size.map_err(|e| PlanError::Statement("look up the join's source", e))?;
                let size: Option<i64> = size.first().and_then(|row| row.get(0));
                found.push(Read { relation, size: size.unwrap_or(0), is_gathered });
            }
        }
        Ok(found)
    }

    fn read_whole(&self, plan: &Value, by_subqueries: bool) -> Vec<(QualifiedName, bool)> {
        let (mut aliases, mut scans) = (Vec::new(), Vec::new());
        collect_aliases(plan, &mut aliases);
        collect_scans(plan, (false, false), &plan.to_string(), &mut scans);
        let is_read_whole = |scan: &Value| {
            let alias = scan["Alias"].as_str().unwrap_or_default();
            let others = || aliases.iter().filter(|other| **other != alias);
            let asks = |condition: &&str| others().any(|other| names(condition, other));
            !self.is_target_alias(alias) && !conditions(scan).iter().any(asks)
        };
        let wanted =
            |scan: &&Scan<'_>| scan.is_in_subquery == by_subqueries && is_read_whole(scan.node);
        let read = |scan: &Scan<'_>| Some((relation(scan.node)?, scan.is_gathered));
        scans.iter().filter(wanted).filter_map(read).collect()
    }
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

fn children(node: &Value) -> impl Iterator<Item = &Value> {
    node["Plans"].as_array().into_iter().flatten()
}

fn has_node(node: &Value, kind: &str) -> bool {
    node["Node Type"] == kind || children(node).any(|child| has_node(child, kind))
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
    let word = |name: &str| node[name].as_str().unwrap_or_default();
    let is_subquery = word("Parent Relationship") == "SubPlan";
    let is_once = word("Parent Relationship") == "InitPlan"
        || (is_subquery && whole.contains(&format!("hashed {}", word("Subplan Name"))));
    if is_once {
        return;
    }
    let is_in_subquery = is_in_subquery || is_subquery;
    let is_gathered = is_gathered || GATHERS.contains(&word("Node Type"));
    if word("Node Type").ends_with("Scan") && !word("Relation Name").is_empty() {
        scans.push(Scan { node, is_in_subquery, is_gathered });
    }
    children(node)
        .for_each(|child| collect_scans(child, (is_in_subquery, is_gathered), whole, scans));
}

/// What a scan asks its indexes for.
fn conditions(scan: &Value) -> Vec<&str> {
    let own = ["Index Cond", "TID Cond"].map(|name| scan[name].as_str());
    let mut found: Vec<&str> = own.into_iter().flatten().collect();
    let is_bitmap =
        |child: &&Value| child["Node Type"].as_str().is_some_and(|kind| kind.starts_with("Bitmap"));
    found.extend(children(scan).filter(is_bitmap).flat_map(conditions));
    found
}

/// Whether a condition, as the server writes it with all names qualified, has a column of this relation in it.
fn names(condition: &str, alias: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '"');
    [alias.to_owned(), Ident::new(alias).to_string()]
        .iter()
        .any(|alias| behind_words(condition, alias, is_part).any(|behind| behind.starts_with('.')))
}

fn relation(node: &Value) -> Option<QualifiedName> {
    let word = |name: &str| node[name].as_str();
    Some(QualifiedName::new(word("Schema")?, word("Relation Name")?))
}
