//! The server's judgement on every expression of a spec, before anything runs.
//!
//! Each expression is analysed on its own, so that all mistakes are found in one go and at their own lines. A temporary view
//! in a transaction that is rolled back then tells what the expression calls and reads: the rewriter's tree names every function
//! by number, which no reading of the text could.

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::PlanError;
use super::clock;
use crate::db;
use crate::db::error;
use crate::db::error::is_about_the_statement;
use crate::db::session::{Bounds, Session};
use crate::diagnostic::Diagnostic;
use crate::spec::Spec;
use crate::sql::{Expr, QualifiedName, SqlText};

/// What an expression turned out to use.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    /// Volatile functions it calls.
    pub volatile: Vec<String>,
    /// Whether it yields the same for the same columns: it calls immutable functions alone and reads nothing else.
    pub is_fixed: bool,
    /// Columns of the target it reads, by attribute number. None when it reads a row as a whole, or when this role may not create the
    /// view that tells.
    pub columns: Option<Vec<i16>>,
}

/// Whether an expression is a condition or a value.
#[derive(Clone, Copy)]
pub enum Place {
    /// `when`, `remaining`.
    Condition,
    /// `fill`, `set`.
    Value,
}

/// Judges one expression; a mistake comes back as a problem at the spec's own line.
pub async fn judge(
    client: &Client,
    session: &Session,
    target: (&QualifiedName, u32),
    spec: &Spec,
    (expr, place): (&Expr, Place),
) -> Result<Result<Uses, Diagnostic>, PlanError> {
    let statement = |error| PlanError::Statement("check an expression of the spec", error);
    session.begin(client, Bounds::LOOKUP).await.map_err(statement)?;
    let sql = select(target.0, spec, expr, place);
    let verdict = match analyse(client, &sql, 0).await {
        Ok(()) => uses(client, target, spec, expr).await,
        Err(error) => Err(error),
    };
    client.batch_execute("ROLLBACK").await.map_err(statement)?;
    match verdict {
        Ok(uses) => Ok(Ok(uses)),
        Err(error) if is_about_the_statement(&error) => {
            let origin = error::position(&error).and_then(|at| sql.origin_of(at));
            let problem = problem(&error, origin.unwrap_or(expr.span.clone()));
            Ok(Err(with_grants(client, problem, &error, sql.as_str()).await))
        }
        Err(error) => Err(statement(error)),
    }
}

/// Lets the server analyse and plan a statement with so many text parameters, without running it.
///
/// By EXPLAIN, because preparing would need a named statement, which behind a transaction pooler collides with those of others.
pub async fn analyse(
    client: &Client,
    sql: &SqlText,
    params: usize,
) -> Result<(), tokio_postgres::Error> {
    let unknown: Option<&str> = None;
    let params = vec![(&unknown as &(dyn ToSql + Sync), Type::TEXT); params];
    db::ask_as_is(client, sql.as_str(), &params).await.map(drop)
}

/// A server error as a problem of the spec.
pub fn problem(error: &tokio_postgres::Error, span: std::ops::Range<usize>) -> Diagnostic {
    let Some(db) = error.as_db_error() else {
        return Diagnostic::new("the server could not be asked", span, error.to_string());
    };
    let message = format!("the server refuses this SQL (SQLSTATE {})", db.code().code());
    let problem = Diagnostic::new(message, span, db.message());
    match db.hint() {
        Some(hint) => problem.help(hint),
        None => problem,
    }
}

/// Adds to a problem of some SQL the grants that would mend it. No transaction is open.
pub(super) async fn with_grants(
    client: &Client,
    problem: Diagnostic,
    error: &tokio_postgres::Error,
    sql: &str,
) -> Diagnostic {
    match db::grants::mend(client, error, sql).await {
        Some(grants) => problem.help(grants),
        None => problem,
    }
}

/// In a WHERE clause, so that the server refuses here what it would refuse in the UPDATE: aggregates, window functions, sets.
fn select(table: &QualifiedName, spec: &Spec, expr: &Expr, place: Place) -> SqlText {
    let mut sql = SqlText::default();
    sql.push("EXPLAIN ").append(&from(table, spec)).push(" WHERE ").push_expr(expr);
    if matches!(place, Place::Value) {
        sql.push(" IS NULL");
    }
    sql
}

fn from(table: &QualifiedName, spec: &Spec) -> SqlText {
    let mut sql = SqlText::default();
    sql.push(&format!("SELECT 1 FROM {table}"));
    if let Some(from) = &spec.from {
        sql.push(", ").push_raw(from).push("\n");
    }
    sql
}

async fn uses(
    client: &Client,
    (table, oid): (&QualifiedName, u32),
    spec: &Spec,
    expr: &Expr,
) -> Result<Uses, tokio_postgres::Error> {
    let mut view = SqlText::default();
    view.push("CREATE TEMPORARY VIEW backfill_probe AS ").append(&from(table, spec));
    view.push(" WHERE ").push_expr(expr).push(" IS NULL");
    if client.batch_execute(view.as_str()).await.is_err() {
        return Ok(Uses::default());
    }
    let functions = "select distinct p.oid::regprocedure::text, p.provolatile = 'v'
                       from pg_catalog.pg_rewrite r,
                            regexp_matches(r.ev_action::text, ':(?:funcid|opfuncid|aggfnoid|winfnoid) (\\d+)', 'g') m
                       join pg_catalog.pg_proc p on p.oid = m[1]::oid
                      where r.ev_class = 'pg_temp.backfill_probe'::regclass and p.provolatile <> 'i'";
    let rows = db::ask_within(client, functions, &[]).await?;
    let volatile = rows.iter().filter(|row| row.get(1)).map(|row| row.get(0)).collect();
    // A whole row is a column numbered 0 in the tree, and no dependency.
    let tree = "select r.ev_action::text ~ ':varattno 0 ', r.ev_action::text ~ '{SUB(LINK|QUERY)'
                  from pg_catalog.pg_rewrite r where r.ev_class = 'pg_temp.backfill_probe'::regclass";
    let row = db::ask_within(client, tree, &[]).await?;
    let (has_whole, has_subquery) =
        row.first().map_or((true, true), |row| (row.get(0), row.get(1)));
    let is_fixed = rows.is_empty() && !has_subquery && !clock::tells_time(&expr.text);
    if has_whole {
        return Ok(Uses { volatile, is_fixed, columns: None });
    }
    let columns = "select distinct d.refobjsubid::int2
                     from pg_catalog.pg_rewrite r
                     join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = r.oid
                    where r.ev_class = 'pg_temp.backfill_probe'::regclass
                      and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = $1 and d.refobjsubid > 0";
    let rows = db::ask_within(client, columns, &[(&oid, Type::OID)]).await?;
    Ok(Uses { volatile, is_fixed, columns: Some(rows.iter().map(|row| row.get(0)).collect()) })
}
