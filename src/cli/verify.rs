//! `verify`: proof that nothing is left to do, from the data where the data can tell, else from the chunk map.

use std::time::Duration;

use deadpool_postgres::Object;
use tokio_postgres::types::Type;

use super::context::Context;
use super::failure::{Exit, Failure, statement};
use super::{print, print_json};
use crate::db::Class;
use crate::db::session::Bounds;
use crate::event::count;
use crate::key::{Bound, KeyRange};
use crate::plan::{Accepted, Plan, rehearse};
use crate::state::{Installed, RunState};

/// Key entries looked at in one statement: a second or so of reading, so that no snapshot is held for long.
const SLICE: i64 = 100_000;

/// Keys of rows left that are shown.
const SHOWN: usize = 5;

/// What was found.
#[derive(Debug, Default)]
struct Findings {
    keys: i64,
    remaining: i64,
    examples: Vec<String>,
}

/// `backfill verify NAME`.
pub(super) async fn verify(ctx: &Context, name: &str) -> Result<Exit, Failure> {
    let spec = ctx.spec(name)?;
    let client = ctx.connect().await?;
    // Verifying reads only, so a publication that would carry new state tables is no obstacle.
    let accepted = Accepted { subscribers_prepared: true };
    let plan = Plan::make(&client, &spec, ctx.store.schema(), accepted).await?;
    match &plan.remaining {
        Some(remaining) => by_data(ctx, &client, name, &plan, remaining).await,
        None => by_chunk_map(ctx, &client, name).await,
    }
}

async fn by_data(
    ctx: &Context,
    client: &Object,
    name: &str,
    plan: &Plan,
    remaining: &str,
) -> Result<Exit, Failure> {
    let findings = match walk(client, plan, remaining).await {
        Err(failure) if failure.class == Some(Class::Data) => {
            return cannot_tell(ctx, client, name, failure).await;
        }
        other => other?,
    };
    let is_proved = findings.remaining == 0;
    if ctx.json {
        print_json(&serde_json::json!({
            "name": name,
            "proved": is_proved,
            "method": "data",
            "keys_checked": findings.keys,
            "rows_remaining": findings.remaining,
            "examples": findings.examples,
        }));
    } else if is_proved {
        print(&format!(
            "{name} is verified: {} rows looked at, none left to do",
            big(findings.keys)
        ));
    } else {
        print(&format!(
            "{name} is not complete: {} of {} rows are left to do, such as ({}) {}\n{}",
            big(findings.remaining),
            big(findings.keys),
            plan.key.plain(),
            findings.examples.join(", "),
            advice(ctx, client, name).await?
        ));
    }
    Ok(if is_proved { Exit::Done } else { Exit::Found })
}

/// The condition itself raises on some row, most likely one that was set aside for it.
async fn cannot_tell(
    ctx: &Context,
    client: &Object,
    name: &str,
    failure: Failure,
) -> Result<Exit, Failure> {
    client.batch_execute("ROLLBACK").await.map_err(statement("end the look-up"))?;
    let why = failure.causes.join("; ");
    if ctx.json {
        print_json(
            &serde_json::json!({ "name": name, "proved": false, "method": "data", "error": why }),
        );
    } else {
        print(&format!("{name} is not proved: a row raises while it is looked at: {why}"));
        print(&advice(ctx, client, name).await?);
    }
    Ok(Exit::Found)
}

async fn advice(ctx: &Context, client: &Object, name: &str) -> Result<String, Failure> {
    let Some(run) = ctx.newest_run(client, name).await? else {
        return Ok(format!("next: backfill run {name}"));
    };
    if !run.state.is_final() {
        return Ok(format!("run {} is not finished; next: backfill resume {name}", run.run_id));
    }
    if ctx.store.count_quarantined(client, run.run_id).await? > 0 {
        return Ok(format!("rows are set aside; mend them, then: backfill retry {name}"));
    }
    Ok(format!(
        "rows written by the application since the run began are its own duty (a default or a trigger); \
         to do them now: backfill run {name} --again"
    ))
}

/// Walks the whole table in slices of the key.
async fn walk(client: &Object, plan: &Plan, remaining: &str) -> Result<Findings, Failure> {
    let mut findings = Findings::default();
    let Some(ceiling) = plan.ceiling.clone() else { return Ok(findings) };
    let table = &plan.table.name.name;
    let key = plan.key.array_sql(table);
    let bounds = Bounds { lock: Duration::from_secs(5), statement: Duration::from_secs(300) };
    let mut after: Option<Bound> = None;
    loop {
        let range = KeyRange { after: after.clone(), upto: ceiling.clone() };
        let failed = || statement("look for rows left to do");
        plan.session.begin_read_only(client, bounds).await.map_err(failed())?;
        let params = rehearse::params(&range);
        let mut bind = rehearse::typed(&params);
        bind.push((&SLICE, Type::INT8));
        let stretch = plan.sql.stretch.get(after.is_some());
        bind.push((&1_i64, Type::INT8));
        let whole = client
            .query_typed(plan.sql.boundaries.get(after.is_some()), &bind)
            .await
            .map_err(failed())?;
        bind.pop();
        let (upto, keys, is_last) = match whole.first() {
            Some(row) => (Bound(row.get(0)), SLICE, row.get::<_, bool>(1)),
            None => {
                let rest = client.query_typed(stretch, &bind).await.map_err(failed())?;
                let keys = rest.first().map_or(0, |row| row.get::<_, i64>(1));
                (ceiling.clone(), keys, true)
            }
        };
        let slice = KeyRange { after: after.clone(), upto: upto.clone() };
        let in_slice = plan.key.range_sql(table, after.is_some(), 1);
        // A join may show a row several times; it is still one row.
        let sql = format!(
            "SELECT count(*), (array_agg(array_to_string(k, ', ')))[1:{SHOWN}] \
             FROM (SELECT DISTINCT {key} AS k {} WHERE {in_slice} AND ({remaining})) rest",
            plan.from_sql
        );
        let params = rehearse::params(&slice);
        let rows = client.query_typed(&sql, &rehearse::typed(&params)).await.map_err(failed())?;
        client.batch_execute("COMMIT").await.map_err(failed())?;
        findings.keys += keys;
        if let Some(row) = rows.first() {
            findings.remaining += row.get::<_, i64>(0);
            let examples: Option<Vec<String>> = row.get(1);
            let room = SHOWN - findings.examples.len();
            findings.examples.extend(examples.unwrap_or_default().into_iter().take(room));
        }
        if is_last {
            return Ok(findings);
        }
        after = Some(upto);
    }
}

async fn by_chunk_map(ctx: &Context, client: &Object, name: &str) -> Result<Exit, Failure> {
    let run = match ctx.store.installed(client).await? {
        Installed::No => None,
        _ => ctx.newest_run(client, name).await?,
    };
    let mut is_proved = false;
    let mut said =
        format!("{name} has never been run, and the data cannot tell which rows are done");
    if let Some(run) = &run {
        let cover = ctx.store.cover(client, run.run_id).await?;
        let aside = ctx.store.count_quarantined(client, run.run_id).await?;
        is_proved = run.state == RunState::Succeeded && cover.is_complete() && aside == 0;
        said = if is_proved {
            format!(
                "{name} is verified by its chunk map: {} chunks without gap or overlap up to the ceiling, all done; \
                 the data itself cannot tell (name a condition with `[verify] remaining`)",
                big(cover.chunks)
            )
        } else {
            format!(
                "{name} is not complete: run {} is {}, {} of {} chunks are not done, {aside} rows are set aside\n\
                 next: backfill status {name}",
                run.run_id,
                run.state.as_str(),
                cover.open,
                big(cover.chunks)
            )
        };
    }
    if ctx.json {
        let run_id = run.as_ref().map(|run| run.run_id);
        print_json(
            &serde_json::json!({ "name": name, "proved": is_proved, "method": "chunk_map", "run_id": run_id }),
        );
    } else {
        print(&said);
    }
    Ok(if is_proved { Exit::Done } else { Exit::Found })
}

fn big(number: i64) -> String {
    count(number.max(0).unsigned_abs())
}
