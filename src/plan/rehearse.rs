//! The chunk statement tried on the live table before a run: its plan, and what one chunk costs, rolled back.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::leaves::Trial;
use super::{Plan, PlanError};
use crate::db;
use crate::db::error;
use crate::db::session::Bounds;
use crate::key::{Bound, Form, KeyRange};
use crate::state::{Field, Store};

/// Key entries of the rehearsed chunk: enough to average over a page or two of anything, few enough that the row locks of the
/// rehearsal last milliseconds.
pub(super) const ROWS: i64 = 500;

/// What one rehearsed chunk cost.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// Key entries in it.
    pub keys: i64,
    /// Rows the statement wrote.
    pub rows: i64,
    /// How long the statement took.
    pub took: Duration,
    /// WAL it wrote.
    pub wal_bytes: i64,
    /// What its before-images weigh, packed and compressed; none when none are kept, or this role may not try.
    pub image_bytes: Option<i64>,
}

/// Typed text parameters of a range.
pub fn params(range: &KeyRange) -> Vec<String> {
    range.params()
}

/// Borrows text parameters for the driver.
pub fn typed(params: &[String]) -> Vec<(&(dyn ToSql + Sync), Type)> {
    params.iter().map(|p| (p as &(dyn ToSql + Sync), Type::TEXT)).collect()
}

/// The plans for a range of the size that chunks have, one for each part: for an empty one the planner may choose otherwise.
pub(super) async fn explain_first_chunk(
    client: &Client,
    trial: &Trial<'_>,
) -> Result<Vec<Value>, tokio_postgres::Error> {
    let Some((range, _)) = first_chunk(client, trial).await? else { return Ok(Vec::new()) };
    trial.choose_join(client).await?;
    explain(client, trial, &range, "VERBOSE, FORMAT JSON").await
}

/// Explains the UPDATE of a range, part by part.
async fn explain(
    client: &Client,
    trial: &Trial<'_>,
    range: &KeyRange,
    options: &str,
) -> Result<Vec<Value>, tokio_postgres::Error> {
    let params = params(range);
    let mut plans = Vec::new();
    for form in range.parts() {
        let sql = format!("EXPLAIN ({options}) {}", trial.text(&trial.sql.update, form));
        let rows = db::ask_as_is(client, &sql, &typed(&params)).await?;
        plans.push(serde_json::from_str(&explain_text(&rows)).unwrap_or_default());
    }
    Ok(plans)
}

/// The range of the first chunk, and its entries; none when the table is empty.
async fn first_chunk(
    client: &Client,
    trial: &Trial<'_>,
) -> Result<Option<(KeyRange, i64)>, tokio_postgres::Error> {
    if trial.first.is_some() {
        return Ok(trial.first.clone());
    }
    let Some(ceiling) = trial.ceiling else { return Ok(None) };
    let whole = params(&KeyRange::new(None, ceiling.clone()));
    let mut bind = typed(&whole);
    bind.push((&ROWS, Type::INT8));
    let rows = db::ask_as_is(client, &trial.text(&trial.sql.stretch, Form::FIRST), &bind).await?;
    Ok(rows.first().map(|row| (KeyRange::new(None, Bound(row.get(0))), row.get(1))))
}

/// EXPLAIN answers with type `json`, whose binary form is its text.
pub fn explain_text(rows: &[tokio_postgres::Row]) -> String {
    let mut text = String::new();
    for row in rows {
        text.push_str(&row.try_get::<_, RawText>(0).map(|raw| raw.0).unwrap_or_default());
    }
    text
}

struct RawText(String);

impl<'a> tokio_postgres::types::FromSql<'a> for RawText {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(RawText(std::str::from_utf8(raw)?.to_owned()))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::JSON | Type::TEXT)
    }
}

/// Runs the first chunk in a transaction that is rolled back, and measures it. An error is told as text: the run itself would retry
/// or set rows aside.
pub async fn rehearse(
    client: &Client,
    plan: &Plan,
) -> Result<Result<Option<Rehearsal>, String>, PlanError> {
    let statement = |error| PlanError::Statement("rehearse a chunk", error);
    let bounds = Bounds {
        lock: Duration::from_secs(1),
        statement: Duration::from_secs(15),
        is_durable: true,
    };
    plan.session.begin(client, bounds).await.map_err(statement)?;
    let measured = rehearse_in(client, plan, &plan.trial()).await;
    client.batch_execute("ROLLBACK").await.map_err(statement)?;
    match measured {
        Ok(rehearsal) => Ok(Ok(rehearsal)),
        Err(error) if error.as_db_error().is_some() => {
            let grants = db::grants::mend(client, &error, &plan.update_statement()).await;
            let said = [Some(error::message(&error)), grants].into_iter().flatten();
            Ok(Err(said.collect::<Vec<_>>().join("; ")))
        }
        Err(error) => Err(statement(error)),
    }
}

async fn rehearse_in(
    client: &Client,
    plan: &Plan,
    trial: &Trial<'_>,
) -> Result<Option<Rehearsal>, tokio_postgres::Error> {
    let Some((range, keys)) = first_chunk(client, trial).await? else { return Ok(None) };
    trial.choose_join(client).await?;
    let image_bytes = rehearse_images(client, plan, &range).await?;
    let started = Instant::now();
    let plans = explain(client, trial, &range, "ANALYZE, WAL, TIMING OFF, FORMAT JSON").await?;
    let took = started.elapsed();
    let nodes = || plans.iter().map(|explain| &explain[0]["Plan"]);
    let written = |node: &Value| node["Plans"][0]["Actual Rows"].as_f64().unwrap_or(0.0);
    Ok(Some(Rehearsal {
        keys,
        rows: nodes().map(written).sum::<f64>() as i64,
        took,
        wal_bytes: nodes().filter_map(|node| node["WAL Bytes"].as_i64()).sum(),
        image_bytes,
    }))
}

/// Keeps the before-images of the chunk in a temporary table, weighs them, and takes all of it back.
async fn rehearse_images(
    client: &Client,
    plan: &Plan,
    range: &KeyRange,
) -> Result<Option<i64>, tokio_postgres::Error> {
    let images = Store::rehearsed_images();
    let keeping = plan.clone().keeping(&images);
    let trial = keeping.trial();
    let Some(keep) = &trial.sql.keep else { return Ok(None) };
    client.batch_execute("SAVEPOINT rehearsal").await?;
    let ddl = images.ddl(&plan.image_fields(), "rehearsal", plan.server.has_lz4);
    let weighed = async {
        client.batch_execute(&ddl).await?;
        let params = params(range);
        let mut bind = typed(&params);
        bind.extend([(&0_i64 as &(dyn ToSql + Sync), Type::INT8), (&0_i64, Type::INT8)]);
        for form in range.parts() {
            for sql in keep.lock.iter().chain([&keep.write]) {
                db::ask_as_is(client, &trial.text(sql, form), &bind).await?;
            }
        }
        let fields = plan.image_fields();
        let size =
            |field: &Field| format!("coalesce(pg_catalog.pg_column_size({}), 0)", field.name);
        let sizes = fields.iter().map(size).collect::<Vec<_>>().join(" + ");
        let sql = format!("select coalesce(sum({sizes}), 0)::int8 from {}", images.table);
        db::ask_as_is(client, &sql, &[]).await
    };
    let weighed = weighed.await;
    client.batch_execute("ROLLBACK TO SAVEPOINT rehearsal").await?;
    match weighed {
        Ok(rows) => Ok(rows.first().map(|row| row.get(0))),
        Err(error) if error::sqlstate(&error) == Some("42501") => Ok(None),
        Err(error) => Err(error),
    }
}

/// The planner's guess of how many rows a query yields.
pub async fn planner_rows(client: &Client, plan: &Plan, sql: &str) -> Result<i64, PlanError> {
    let statement = |error| PlanError::Statement("estimate rows", error);
    plan.session.begin_read_only(client, Bounds::LOOKUP).await.map_err(statement)?;
    let rows = db::ask_as_is(client, &format!("EXPLAIN (FORMAT JSON) {sql}"), &[]).await;
    client.batch_execute("ROLLBACK").await.map_err(statement)?;
    let explain: Value =
        serde_json::from_str(&explain_text(&rows.map_err(statement)?)).unwrap_or_default();
    Ok(explain[0]["Plan"]["Plan Rows"].as_i64().unwrap_or(0))
}
