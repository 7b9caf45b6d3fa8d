//! The server's judgement on a spec as a whole: every expression, the statement they make, and what the data can prove afterwards.

use tokio_postgres::Client;

use super::PlanError;
use super::clock;
use super::probe::{self, Place, Uses, judge};
use super::statement::{Builder, Target};
use super::surroundings;
use super::table::{Column, Table};
use crate::db::error::is_about_the_statement;
use crate::db::session::Bounds;
use crate::db::{Session, error};
use crate::diagnostic::Diagnostic;
use crate::key::Form;
use crate::spec::{Spec, Verb};
use crate::sql::{Ident, SqlText};

/// Judges every expression; all mistakes at once. The result follows the order rules are written in.
pub(super) async fn judge_all(
    client: &Client,
    session: &Session,
    spec: &Spec,
    table: &Table,
) -> Result<Vec<Uses>, PlanError> {
    let mut exprs = Vec::new();
    for rule in &spec.rules {
        exprs.extend(rule.when.iter().map(|when| (when, Place::Condition, true)));
        exprs.extend(rule.writes.iter().map(|write| (&write.value, Place::Value, true)));
    }
    exprs.extend(spec.remaining.iter().map(|remaining| (remaining, Place::Condition, false)));
    let mut problems: Vec<Diagnostic> = Vec::new();
    let mut found = Vec::new();
    for (expr, place, is_rule) in exprs {
        match judge(client, session, (&table.name, table.oid), spec, (expr, place)).await? {
            Err(problem) if !problems.contains(&problem) => problems.push(problem),
            Err(_) => {}
            Ok(uses) => {
                if let (Some(function), false) = (uses.volatile.first(), spec.allow_volatile) {
                    let label = format!("{function} is volatile");
                    let problem =
                        Diagnostic::new("the expression is volatile", expr.span.clone(), label);
                    problems.push(problem.help(
                        "a retried chunk would compute other values, and no check could recompute them; \
                         mark the function STABLE or IMMUTABLE if it is, or accept it with `allow_volatile = true`",
                    ));
                }
                found.extend(is_rule.then_some(uses));
            }
        }
    }
    if problems.is_empty() {
        Ok(found)
    } else {
        Err(PlanError::Spec(Box::new(spec.report(problems))))
    }
}

/// Whether every value written is the same for all rows of its rule: it reads no column.
pub(super) fn has_few_values(spec: &Spec, uses: &[Uses]) -> bool {
    let mut uses = uses.iter();
    let mut is_constant = spec.from.is_none();
    for rule in &spec.rules {
        if rule.when.is_some() {
            uses.next();
        }
        for value in uses.by_ref().take(rule.writes.len()) {
            let reads_nothing = value.columns.as_ref().is_some_and(Vec::is_empty);
            is_constant &= reads_nothing && value.volatile.is_empty();
        }
    }
    is_constant
}

pub(super) fn targets(table: &Table, written: &[String]) -> Vec<Target> {
    let columns = written.iter().filter_map(|name| table.column(name));
    let target = |c: &Column| Target {
        name: Ident::new(&c.name),
        type_sql: c.value_sql.clone(),
        collation: c.collation.clone(),
        held_sql: c.held_sql().to_owned(),
    };
    columns.map(target).collect()
}

/// Lets the server analyse the whole UPDATE: what only shows in combination, such as a value of the wrong type.
pub(super) async fn check_statement(
    client: &Client,
    session: &Session,
    spec: &Spec,
    builder: &Builder<'_>,
) -> Result<(), PlanError> {
    let sql = builder.update(Form::FIRST);
    let Err(error) = analyse(client, session, &sql, builder.key.columns.len()).await? else {
        return Ok(());
    };
    // The position counts the word EXPLAIN in front.
    let at = error::position(&error).and_then(|at| at.checked_sub("EXPLAIN ".len() as u32));
    let origin = at.and_then(|at| sql.origin_of(at));
    let span = origin.unwrap_or_else(|| spec.rules[0].writes[0].value.span.clone());
    let problem =
        probe::with_grants(client, probe::problem(&error, span), &error, sql.as_str()).await;
    Err(PlanError::Spec(Box::new(spec.report(vec![problem]))))
}

pub(super) async fn analyse(
    client: &Client,
    session: &Session,
    sql: &SqlText,
    params: usize,
) -> Result<Result<(), tokio_postgres::Error>, PlanError> {
    let statement = |error| PlanError::Statement("prepare the chunk statement", error);
    session.begin(client, Bounds::LOOKUP).await.map_err(statement)?;
    let mut explain = SqlText::default();
    explain.push("EXPLAIN ").append(sql);
    let analysed = probe::analyse(client, &explain, params).await;
    client.batch_execute("ROLLBACK").await.map_err(statement)?;
    match analysed {
        Ok(()) => Ok(Ok(())),
        Err(error) if is_about_the_statement(&error) => Ok(Err(error)),
        Err(error) => Err(statement(error)),
    }
}

/// The written columns, and those that are computed from them.
pub(super) async fn changed(
    client: &Client,
    table: &Table,
    builder: &Builder<'_>,
) -> Result<Vec<i16>, PlanError> {
    let names = builder.targets.iter().map(|target| target.name.as_str());
    let mut written: Vec<i16> =
        names.filter_map(|name| table.column(name)).map(|column| column.attnum).collect();
    let generated = surroundings::generated_from(client, table.oid, &written).await;
    let generated = generated.map_err(|e| PlanError::Statement("look up generated columns", e))?;
    written.extend(generated.into_iter().map(|(attnum, _)| attnum));
    Ok(written)
}

/// The condition of a row still to do, when the data can tell: the author's own, or what `fill` would still write, or where a `set`
/// column differs from a value that does not depend on what is written.
pub(super) async fn remaining(
    client: &Client,
    session: &Session,
    spec: &Spec,
    table: &Table,
    builder: &Builder<'_>,
    uses: &[Uses],
) -> Result<Option<String>, PlanError> {
    if let Some(own) = &spec.remaining {
        return Ok(Some(SqlText::default().push_expr(own).as_str().to_owned()));
    }
    let has_set = spec.columns().iter().any(|(_, verb)| *verb == Verb::Set);
    if !has_set {
        return Ok(Some(builder.needed().as_str().to_owned()));
    }
    // What the clock says is another value by the time it is asked again.
    if clock::texts(spec).any(clock::tells_time) {
        return Ok(None);
    }
    let written = changed(client, table, builder).await?;
    let reads_written = |uses: &Uses| match &uses.columns {
        None => true,
        Some(columns) => columns.iter().any(|attnum| written.contains(attnum)),
    };
    if uses.iter().any(|uses| reads_written(uses) || !uses.volatile.is_empty()) {
        return Ok(None);
    }
    // A type without equality (json, point) cannot be compared; then only the chunk map can tell.
    let is_comparable = analyse(client, session, &builder.equality(), 0).await?.is_ok();
    Ok(is_comparable.then(|| builder.differing().as_str().to_owned()))
}
