//! The names of a spec, found in the catalogs: table, columns, and the greatest key.

use tokio_postgres::Client;

use super::checks::choose_key;
use super::table::{self, Table};
use super::{PlanError, probe};
use crate::db::error::is_about_the_statement;
use crate::db::session::Bounds;
use crate::db::{self, Session};
use crate::diagnostic::Diagnostic;
use crate::document::nearest;
use crate::key::Bound;
use crate::spec::Spec;

/// The table of a spec; an unknown one is a mistake at its line.
pub(super) async fn find_table(client: &Client, spec: &Spec) -> Result<Table, PlanError> {
    let spec_error = |problem| PlanError::Spec(Box::new(spec.report(vec![problem])));
    let span = spec.table.span.clone();
    match table::find(client, &spec.table.text).await {
        Ok(Some(table)) => Ok(table),
        Ok(None) => {
            let problem =
                Diagnostic::new("the table does not exist", span, "no such relation for this role");
            Err(spec_error(problem.help(
                "check the spelling and the schema; `backfill doctor` shows database and role",
            )))
        }
        Err(error) if is_about_the_statement(&error) => {
            let problem = probe::problem(&error, span);
            Err(spec_error(probe::with_grants(client, problem, &error, &spec.table.text).await))
        }
        Err(error) => Err(PlanError::Statement("look up the table", error)),
    }
}

/// The written columns' names; unknown ones, and those of the key, are mistakes of the spec.
pub(super) fn check_columns(spec: &Spec, table: &Table) -> Result<Vec<String>, PlanError> {
    let mut problems = Vec::new();
    let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    let unknown = |expr: &crate::sql::Expr| {
        let message = format!("{} has no column `{}`", table.name.plain(), expr.text);
        let problem = Diagnostic::new(message, expr.span.clone(), "no such column");
        match nearest(&expr.text, &names) {
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None => problem.help(format!("its columns: {}", names.join(", "))),
        }
    };
    if !names.is_empty() && table.unsuitable().is_none() {
        problems.extend(
            spec.key.iter().flatten().filter(|e| table.column(&e.text).is_none()).map(unknown),
        );
        for (column, _) in spec.columns() {
            if table.column(&column.text).is_none() {
                problems.push(unknown(column));
            }
        }
        if let Ok((key, _)) = choose_key(table, spec) {
            let is_key = |name: &str| key.columns.iter().any(|column| column.name.as_str() == name);
            for (column, _) in spec.columns().into_iter().filter(|(column, _)| is_key(&column.text))
            {
                let message =
                    format!("column `{}` is part of the key that chunks are cut by", column.text);
                let problem = Diagnostic::new(
                    message,
                    column.span.clone(),
                    "writing it would move rows between chunks",
                );
                problems.push(
                    problem.help("cut by another unique index: name its columns with `key = […]`"),
                );
            }
        }
    }
    if problems.is_empty() {
        return Ok(spec.columns().into_iter().map(|(column, _)| column.text.clone()).collect());
    }
    Err(PlanError::Spec(Box::new(spec.report(problems))))
}

/// The greatest key now; none when the table is empty.
pub(super) async fn read_ceiling(
    client: &Client,
    session: &Session,
    sql: &str,
) -> Result<Option<Bound>, PlanError> {
    let statement = |error| PlanError::Statement("find the greatest key", error);
    session.begin_read_only(client, Bounds::LOOKUP).await.map_err(statement)?;
    let rows = db::ask_as_is(client, sql, &[]).await;
    client.batch_execute("ROLLBACK").await.map_err(statement)?;
    Ok(rows.map_err(statement)?.first().map(|row| Bound(row.get(0))))
}
