//! Whether a backfill is as far as a revision demands, measured from the data at this moment.

use std::time::Duration;

use deadpool_postgres::Object;

use super::super::context::Context;
use super::super::failure::{Failure, statement};
use super::super::verify::{after_end, do_the_rest};
use crate::db::lock;
use crate::event::{count, duration};
use crate::migrate::requirement::{Level, Requirement};
use crate::plan::{Accepted, Plan};
use crate::proof;
use crate::state::{Run, RunState};

/// What the look at a backfill came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    /// Whether it is as far as demanded.
    pub holds: bool,
    /// Why, or why not.
    pub evidence: String,
    /// What to do when it is not.
    pub next: String,
}

fn holds(evidence: impl Into<String>) -> Judgement {
    Judgement { holds: true, evidence: evidence.into(), next: String::new() }
}

fn lacks(evidence: impl Into<String>, next: impl Into<String>) -> Judgement {
    Judgement { holds: false, evidence: evidence.into(), next: next.into() }
}

/// Looks at a backfill.
pub(super) async fn judge(
    ctx: &Context,
    client: &Object,
    demand: &Requirement,
) -> Result<Judgement, Failure> {
    let name = &demand.name;
    let spec = ctx.spec(name)?;
    let accepted = Accepted { subscribers_prepared: true, only_reads: true, ..Accepted::default() };
    let plan = Plan::make(client, &spec, ctx.store.schema(), accepted).await?;
    let table = plan.table.name.plain();
    if plan.ceiling.is_none() {
        return Ok(holds(format!("{table} has no rows")));
    }
    let newest = ctx.newest_run(client, name).await?;
    if let Some(run) = &newest {
        if let Some(missing) = unfinished(ctx, client, run, demand.level).await? {
            return Ok(missing);
        }
    } else if demand.level < Level::Verified {
        return Ok(lacks(
            format!("{name} has never been run here"),
            format!("backfill run {name}"),
        ));
    }
    let soaked = soak(newest.as_ref(), demand);
    if let Some(missing) = soaked {
        return Ok(missing);
    }
    if demand.level < Level::Verified {
        let run = newest.map_or(0, |run| run.run_id);
        return Ok(holds(format!("run {run} of {name} is {}", demand.level.as_str())));
    }
    by_data(ctx, client, (&plan, newest.as_ref()), demand).await
}

/// What its newest run lacks; a run that is not over may still write.
async fn unfinished(
    ctx: &Context,
    client: &Object,
    run: &Run,
    level: Level,
) -> Result<Option<Judgement>, Failure> {
    let (name, id) = (&run.name, run.run_id);
    if run.is_reverse() && level < Level::Verified {
        return Ok(Some(lacks(
            format!("{name} was taken back by run {id}"),
            format!("backfill run {name}"),
        )));
    }
    if level == Level::Started {
        return Ok(None);
    }
    if !run.state.is_final() {
        let sums = ctx.store.sums(client, id).await?;
        let done = count(sums.rows_done.unsigned_abs());
        let state = match is_at_work(ctx, client, run).await? {
            true => "is at work",
            false => "is not finished, and nobody works on it",
        };
        let evidence = format!("run {id} of {name} {state}; {done} rows are done");
        let next = match run.is_reverse() {
            true => format!(
                "backfill resume {name} (it takes the backfill back), then: backfill run {name}"
            ),
            false => format!("backfill resume {name}"),
        };
        return Ok(Some(lacks(evidence, next)));
    }
    if level == Level::Finished && run.state != RunState::Succeeded {
        return Ok(Some(lacks(
            format!("run {id} of {name} is {}", run.state.as_str()),
            format!("backfill run {name}"),
        )));
    }
    let aside = ctx.store.count_quarantined(client, id).await?;
    if aside > 0 && level == Level::Finished {
        let next =
            format!("mend them (`backfill status {name}` lists them), then: backfill retry {name}");
        return Ok(Some(lacks(format!("run {id} of {name} has set {aside} rows aside"), next)));
    }
    Ok(None)
}

/// Whether a runner holds a run.
pub(super) async fn is_at_work(ctx: &Context, client: &Object, run: &Run) -> Result<bool, Failure> {
    let holder = lock::holder(client, ctx.store.run_lock(run.run_id)).await;
    Ok(holder.map_err(statement("look for the run's lock"))?.is_some())
}

/// Whether its run has been over for long enough.
fn soak(newest: Option<&Run>, demand: &Requirement) -> Option<Judgement> {
    if demand.soak.is_zero() {
        return None;
    }
    let finished = newest
        .and_then(|run| run.times.finished_at.as_ref())
        .and_then(|at| at.parse::<jiff::Timestamp>().ok());
    let Some(finished) = finished else {
        return Some(lacks(
            format!("no run of {} is over", demand.name),
            format!("backfill run {}", demand.name),
        ));
    };
    let over =
        Duration::try_from(jiff::Timestamp::now().duration_since(finished)).unwrap_or_default();
    (over < demand.soak).then(|| {
        let left = duration(demand.soak - over);
        lacks(
            format!("its run has been over for {}, {left} are to go", duration(over)),
            "wait, and upgrade again",
        )
    })
}

async fn by_data(
    ctx: &Context,
    client: &Object,
    (plan, newest): (&Plan, Option<&Run>),
    demand: &Requirement,
) -> Result<Judgement, Failure> {
    let name = &demand.name;
    let table = plan.table.name.plain();
    let Some(remaining) = &plan.remaining else {
        return by_chunk_map(ctx, client, newest, demand).await;
    };
    let look = || statement("look for rows left to do");
    if proof::is_ruled_out(client, plan, remaining).await.map_err(look())? {
        return Ok(holds(format!("constraints in force leave no row of {table} to do")));
    }
    if demand.level == Level::Proved {
        let next =
            format!("add a CHECK to {table} that its rows satisfy, NOT VALID, and validate it");
        return Ok(lacks(format!("no constraint in force proves that {name} is complete"), next));
    }
    if proof::is_left(client, plan, remaining).await.map_err(look())? {
        let next = match newest {
            None => format!("backfill run {name}"),
            Some(run) => after_end(run, plan).unwrap_or_else(|| do_the_rest(name, plan)),
        };
        return Ok(lacks(format!("rows of {table} are left to do"), next));
    }
    Ok(holds(format!("no row of {table} is left to do")))
}

/// Where the data cannot tell, the chunks do.
async fn by_chunk_map(
    ctx: &Context,
    client: &Object,
    newest: Option<&Run>,
    demand: &Requirement,
) -> Result<Judgement, Failure> {
    let name = &demand.name;
    let Some(run) = newest.filter(|run| !run.is_reverse()) else {
        return Ok(lacks(
            format!("{name} is not run, and the data cannot tell"),
            format!("backfill run {name}"),
        ));
    };
    if demand.level == Level::Proved {
        let next = "name a condition with `[verify] remaining` in its spec, or demand only that it is verified";
        return Ok(lacks("the data cannot tell, so no constraint can prove it", next));
    }
    let cover = ctx.store.cover(client, run.run_id).await?;
    let aside = ctx.store.count_quarantined(client, run.run_id).await?;
    if run.state == RunState::Succeeded && cover.is_complete() && aside == 0 {
        let strays = ctx.store.strays(client, run.run_id).await?;
        if !strays.is_empty() {
            let evidence = format!(
                "{} may hold rows that run {} missed or did twice",
                strays.join(", "),
                run.run_id
            );
            return Ok(lacks(evidence, format!("backfill verify {name}")));
        }
        return Ok(holds(format!("run {} has done all its chunks", run.run_id)));
    }
    let state = run.state.as_str();
    Ok(lacks(
        format!(
            "run {} is {state}, {} chunks are open, {aside} rows are set aside",
            run.run_id, cover.open
        ),
        format!("backfill status {name}"),
    ))
}
