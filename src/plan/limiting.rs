//! Whether a row that a statement has written is one that it leaves alone from then on.
//!
//! A row that is gone through by place may be met again. That does no harm where the statement then does nothing: a `fill` is done with a
//! column that holds a value, and a `set` with a row that it took out of its own `when`. The latter the server tells: it is asked to plan a look
//! for rows that the rule has just written and that a `when` still picks, and where it can tell that there are none, it plans to read nothing.

use serde_json::Value;
use tokio_postgres::{Client, Error};

use super::clock;
use super::judge::changed;
use super::probe::Uses;
use super::rehearse;
use super::statement::Builder;
use super::table::Table;
use super::{Plan, PlanError};
use crate::db::session::Bounds;
use crate::db::{self, Session};
use crate::spec::{Rule, Verb};
use crate::sql::{Ident, SqlText};

/// Whether a statement leaves alone what it has written.
pub(super) async fn limits_itself(
    client: &Client,
    plan: &Plan,
    uses: &[Uses],
) -> Result<bool, PlanError> {
    let (spec, table, builder) = (&plan.spec, &plan.table, plan.builder());
    if spec.only_fills() {
        if builder.targets.len() == 1 {
            return Ok(true);
        }
        // Of several columns none may be filled because another one was.
        let changed = changed(client, table, &builder).await?;
        let reads = |attnum: &i16| changed.contains(attnum);
        let is_apart = |uses: &Uses| !uses.columns.as_ref().is_none_or(|c| c.iter().any(reads));
        return Ok(uses.iter().all(|uses| uses.is_fixed && is_apart(uses)));
    }
    let columns = |rule: &Rule| {
        let mut names: Vec<String> = rule.writes.iter().map(|w| w.column.text.clone()).collect();
        names.sort();
        names
    };
    let is_set = |rule: &Rule| rule.writes.iter().all(|write| write.verb == Verb::Set);
    // Where all rules set the same columns, one rule decides all of a row.
    let is_plain = spec.rules.iter().all(|rule| {
        is_set(rule) && rule.when.is_some() && columns(rule) == columns(&spec.rules[0])
    });
    // To the server that is a constant, and a moment later it is another one.
    let has_clock_literal = clock::texts(spec).any(clock::has_clock_literal);
    if !is_plain || has_clock_literal || table.kind != "r" {
        return Ok(false);
    }
    for rule in &spec.rules {
        let sql = still_picked(rule, table, &builder);
        match reads_nothing(client, &plan.session, sql.as_str()).await {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            // A value that reads the join's source, or a row as a whole, cannot be asked about so; and what the server computes beforehand may
            // raise, or take too long.
            Err(error) if error.as_db_error().is_some() => return Ok(false),
            Err(error) => return Err(PlanError::Statement("look at what the rules leave", error)),
        }
    }
    Ok(true)
}

/// A look for rows that a rule has written and that some rule still picks.
fn still_picked(rule: &Rule, table: &Table, builder: &Builder<'_>) -> SqlText {
    let name = &table.name.name;
    let mut sql = SqlText::default();
    sql.push("SELECT 1 FROM (SELECT ");
    for (i, column) in table.columns.iter().enumerate() {
        sql.push(if i > 0 { ", " } else { "" });
        let ident = Ident::new(&column.name);
        match rule.writes.iter().find(|write| write.column.text == column.name) {
            // As the column will hold it, rounded and cut.
            Some(write) => {
                sql.push_expr(&write.value).push(&format!("::{} AS {ident}", column.type_name))
            }
            None => sql.push(&format!("{name}.{ident}")),
        };
    }
    sql.push(&format!(" FROM {}) AS {name}", table.name));
    if let Some(from) = &builder.spec.from {
        sql.push(", ").push_raw(from);
    }
    sql.push(" WHERE ").append(&builder.needed()).clone()
}

/// Whether the server can tell without reading that a query yields nothing.
pub async fn reads_nothing(client: &Client, session: &Session, sql: &str) -> Result<bool, Error> {
    session.begin_read_only(client, Bounds::LOOKUP).await?;
    client.batch_execute("SET LOCAL constraint_exclusion = on").await?;
    let asked = db::ask_as_is(client, &format!("EXPLAIN (FORMAT JSON) {sql}"), &[]).await;
    client.batch_execute("ROLLBACK").await?;
    let rows = asked?;
    // What cannot be read proves nothing.
    let explained = serde_json::from_str(&rehearse::explain_text(&rows));
    Ok(explained.is_ok_and(|plan| !scans(&plan)))
}

/// Whether any node of a plan reads something.
fn scans(node: &Value) -> bool {
    match node {
        Value::Object(fields) => fields.iter().any(|(key, value)| {
            (key == "Node Type" && value.as_str().is_some_and(|kind| kind.ends_with("Scan")))
                || scans(value)
        }),
        Value::Array(items) => items.iter().any(scans),
        _ => false,
    }
}

/// The oldest transaction under way: what was written before it is over, and what is written from now on comes after it.
pub(super) async fn oldest_transaction(client: &Client) -> Result<i64, Error> {
    let sql = "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
    let rows = db::ask(client, sql, &[]).await?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}
