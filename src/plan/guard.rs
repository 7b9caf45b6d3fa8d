//! Whether the chunk statement would reach the target by way of its key: on a large table every chunk would read all of it otherwise.

use serde_json::Value;
use tokio_postgres::Client;

use super::rehearse::{self, ROWS};
use super::{Plan, PlanError, Refusal};
use crate::db::session::Bounds;
use crate::sql::{Ident, QualifiedName};

/// A table of this size is read as a whole in a few milliseconds, 128 pages, whatever way the planner takes.
const SMALL_HEAP: i64 = 1 << 20;

/// Entries that an index which does not begin like the key may yield for each one of the chunk: as far as estimates go wrong of
/// themselves.
const FEW: i64 = 10;

/// Refuses a statement that would not reach the target by its key.
pub(super) async fn guard(client: &Client, plan: &Plan) -> Result<Option<Refusal>, PlanError> {
    let trial = plan.trial();
    // The planner has no reason to prefer one index to another where each leads to the whole table.
    if trial.heap_bytes <= SMALL_HEAP {
        return Ok(None);
    }
    let statement = |error| PlanError::Statement("explain the chunk statement", error);
    plan.session.begin(client, Bounds::LOOKUP).await.map_err(statement)?;
    let plans = rehearse::explain_first_chunk(client, &trial).await;
    client.batch_execute("ROLLBACK").await.map_err(statement)?;
    for explain in plans.map_err(statement)? {
        for access in accesses(&explain[0]["Plan"], plan) {
            let Some(reads) = access.reads(client, plan).await? else { continue };
            let what =
                format!("the chunk statement would read {} by {reads}", plan.table.name.plain());
            let mend = "look at the statement and its plan with `backfill plan`; ANALYZE the table, and mind joins and \
                        subqueries that read the same table";
            let why = "every chunk would read far more than its own rows";
            return Ok(Some(Refusal::new(what, why, mend)));
        }
    }
    Ok(None)
}

/// The nodes of a plan that read the target; an empty table's plan has none.
fn accesses<'v>(node: &'v Value, plan: &Plan) -> Vec<Access<'v>> {
    let word = |name: &str| node[name].as_str().unwrap_or_default();
    let (kind, alias) = (word("Node Type"), word("Alias"));
    let mut found = Vec::new();
    if plan.is_target_alias(alias) && kind.ends_with("Scan") {
        let condition = match kind {
            "Index Scan" | "Index Only Scan" => word("Index Cond"),
            "Bitmap Heap Scan" => word("Recheck Cond"),
            _ => "",
        };
        let table = QualifiedName::new(word("Schema"), word("Relation Name"));
        found.push(Access { kind, alias, condition, table, index: word("Index Name") });
    }
    let children = node["Plans"].as_array().into_iter().flatten();
    found.extend(children.flat_map(|child| accesses(child, plan)));
    found
}

/// How a plan reads the target, or a partition of it.
struct Access<'v> {
    kind: &'v str,
    alias: &'v str,
    /// What the index is asked for, as SQL.
    condition: &'v str,
    table: QualifiedName,
    index: &'v str,
}

impl Access<'_> {
    /// What it reads instead of the chunk's rows; none when it is those, or not many more. An index that has another column of the key may
    /// be the shorter way to some parts of a range, and a long one to others.
    async fn reads(&self, client: &Client, plan: &Plan) -> Result<Option<String>, PlanError> {
        let names = |i: usize| mentions(self.condition, self.alias, &plan.key.columns[i].name);
        if names(0) {
            return Ok(None);
        }
        let is_by_key = (1..plan.key.columns.len()).any(names);
        let rows = if is_by_key { self.estimate(client, plan).await? } else { None };
        let index = match self.index {
            "" => String::new(),
            index => format!(" on {index}"),
        };
        Ok(match rows {
            Some(rows) if rows <= FEW * ROWS => None,
            Some(rows) => Some(format!("{}{index}, {rows} rows for a chunk of {ROWS}", self.kind)),
            None => Some(format!("{}{index}, not by key ({})", self.kind, plan.key.plain())),
        })
    }

    /// How many rows the planner expects of the index; none when the condition depends on other tables.
    async fn estimate(&self, client: &Client, plan: &Plan) -> Result<Option<i64>, PlanError> {
        let alias = Ident::new(self.alias);
        let sql = format!("SELECT 1 FROM {} AS {alias} WHERE {}", self.table, self.condition);
        match rehearse::planner_rows(client, plan, &sql).await {
            Ok(rows) => Ok(Some(rows)),
            Err(PlanError::Statement(_, error)) if error.as_db_error().is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether a condition, as the server writes it with all names qualified, has a column in it.
fn mentions(condition: &str, alias: &str, column: &Ident) -> bool {
    let written = |name: &str| [name.to_owned(), Ident::new(name).to_string()];
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '"');
    written(alias).iter().any(|alias| {
        written(column.as_str()).iter().any(|column| {
            let name = format!("{alias}.{column}");
            condition.match_indices(&name).any(|(at, _)| {
                let before = condition[..at].chars().next_back();
                let after = condition[at + name.len()..].chars().next();
                !before.is_some_and(is_word) && !after.is_some_and(is_word)
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_found_by_its_whole_name() {
        let has = |condition: &str, column: &str| mentions(condition, "t_1", &Ident::new(column));
        let plain = "((t_1.tenant = 1) AND (t_1.id <= '5'::bigint))";
        assert!(has(plain, "tenant") && has(plain, "id"));
        assert!(!has(plain, "ten") && !has(plain, "d") && !has("(tt_1.id = 1)", "id"));
        assert!(!has("(t_1.kind = 'id'::text)", "id"));
        assert!(has(r#"(ROW(t_1."Day", t_1.id) <= ROW(1, 2))"#, "Day"));
    }
}
