//! Whether the chunk statement would reach the target by way of its key: on a large table every chunk would read all of it otherwise.

use serde_json::Value;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::explained::{children, index_looks, is_scan, mentions, relation, word};
use super::leaves::Trial;
use super::rehearse::{self, ROWS};
use super::{Plan, PlanError, Refusal};
use crate::db;
use crate::db::error::is_about_the_statement;
use crate::db::session::Bounds;
use crate::sql::{Ident, QualifiedName};

/// A table of this size is read as a whole in a few milliseconds, 128 pages, whatever way the planner takes.
const SMALL_HEAP: i64 = 1 << 20;

/// Entries that an index which does not begin like the key may yield for each one of the chunk: as far as estimates go wrong of
/// themselves.
const FEW: i64 = 10;

/// How a plan reads a range of places.
const BY_PLACE: &str = "Tid Range Scan";

/// Refuses a statement that would not reach the target by its key.
pub(super) async fn guard(client: &Client, plan: &Plan) -> Result<Option<Refusal>, PlanError> {
    for trial in plan.trials() {
        // The planner has no reason to prefer one index to another where each leads to the whole table.
        if trial.heap_bytes <= SMALL_HEAP {
            continue;
        }
        if let Some(refusal) = guard_trial(client, plan, &trial).await? {
            return Ok(Some(refusal));
        }
    }
    Ok(None)
}

async fn guard_trial(
    client: &Client,
    plan: &Plan,
    trial: &Trial<'_>,
) -> Result<Option<Refusal>, PlanError> {
    let statement = |error| PlanError::Statement("explain the chunk statement", error);
    plan.session.begin(client, Bounds::LOOKUP).await.map_err(statement)?;
    let plans = rehearse::explain_first_chunk(client, trial).await;
    client.batch_execute("ROLLBACK").await.map_err(statement)?;
    for explain in plans.map_err(statement)? {
        for access in accesses(&explain[0]["Plan"], plan) {
            let Some(reads) = access.reads(client, plan).await? else { continue };
            let what =
                format!("the chunk statement would read {} by {reads}", plan.table.name.plain());
            let mend = format!(
                "ANALYZE {}; and mind joins and subqueries that read the same table",
                plan.table.name
            );
            let why = "every chunk would read far more than its own rows";
            return Ok(Some(Refusal::new(what, why, mend)));
        }
    }
    Ok(None)
}

/// The nodes of a plan that read the target; an empty table's plan has none.
fn accesses<'v>(node: &'v Value, plan: &Plan) -> Vec<Access<'v>> {
    let alias = word(node, "Alias");
    let mut found = Vec::new();
    if plan.is_target_alias(alias) && is_scan(node) {
        let mut looks = Vec::new();
        index_looks(node, &mut looks);
        found.push(Access { kind: word(node, "Node Type"), alias, table: relation(node), looks });
    }
    found.extend(children(node).flat_map(|child| accesses(child, plan)));
    found
}

/// How a plan reads the target, or a partition of it.
struct Access<'v> {
    kind: &'v str,
    alias: &'v str,
    table: QualifiedName,
    /// The indexes, and what each is asked for, as SQL.
    looks: Vec<(&'v str, &'v str)>,
}

impl Access<'_> {
    /// What it reads instead of the chunk's rows; none when it is those, or not many more: another index may be the shorter way to some
    /// rows, such as those that are left to fill, and a long one to others.
    async fn reads(&self, client: &Client, plan: &Plan) -> Result<Option<String>, PlanError> {
        for (index, condition) in &self.looks {
            if mentions(condition, self.alias, &plan.key.columns[0].name) {
                continue;
            }
            let what = format!("{} on {index}", self.kind);
            match self.estimate(client, plan, (index, condition)).await? {
                Some(rows) if rows <= FEW * ROWS => {}
                Some(rows) => {
                    return Ok(Some(format!("{what}, {rows} rows for a chunk of {ROWS}")));
                }
                None => return Ok(Some(format!("{what}, not by key ({})", plan.key.plain()))),
            }
        }
        if self.kind == BY_PLACE {
            return Ok(None);
        }
        let by_no_index = || format!("{}, not by key ({})", self.kind, plan.key.plain());
        Ok(self.looks.is_empty().then(by_no_index))
    }

    /// How many entries the planner expects an index to yield: of one whose first column the condition does not bound, all that it has.
    /// None when the condition depends on other tables.
    async fn estimate(
        &self,
        client: &Client,
        plan: &Plan,
        (index, condition): (&str, &str),
    ) -> Result<Option<i64>, PlanError> {
        let lookup = |error| PlanError::Statement("look up an index", error);
        let sql = "select c.reltuples::float8,
                          (select a.attname::text from pg_catalog.pg_attribute a where a.attrelid = i.indrelid and a.attnum = i.indkey[0])
                     from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
                    where i.indrelid = pg_catalog.to_regclass($1) and c.relname = $2";
        let params: [(&(dyn ToSql + Sync), Type); 2] =
            [(&self.table.to_string(), Type::TEXT), (&index, Type::TEXT)];
        let found = db::ask(client, sql, &params).await.map_err(lookup)?;
        let Some(found) = found.first() else { return Ok(None) };
        // Below zero where nobody has counted yet.
        let all = Some(found.get::<_, f64>(0)).filter(|all| *all >= 0.0).map(|all| all as i64);
        let first: Option<String> = found.get(1);
        let is_bounded =
            first.is_some_and(|first| mentions(condition, self.alias, &Ident::new(first)));
        if !is_bounded {
            return Ok(all);
        }
        let alias = Ident::new(self.alias);
        let sql = format!("SELECT 1 FROM {} AS {alias} WHERE {condition}", self.table);
        match rehearse::planner_rows(client, plan, &sql).await {
            Ok(rows) => Ok(Some(all.map_or(rows, |all| all.min(rows)))),
            Err(PlanError::Statement(_, error)) if is_about_the_statement(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
