//! `verify`: proof that nothing is left to do, from the data where the data can tell, else from the chunk map.

use deadpool_postgres::Object;

use super::context::Context;
use super::failure::{Exit, Failure, statement};
use super::{print, print_json};
use crate::db::Class;
use crate::event::count;
use crate::plan::{Accepted, Plan};
use crate::proof;
use crate::state::{Installed, RunState};

/// `backfill verify NAME`.
pub(super) async fn verify(ctx: &Context, name: &str) -> Result<Exit, Failure> {
    let spec = ctx.spec(name)?;
    let client = ctx.connect().await?;
    // Verifying reads only, so a publication that would carry new state tables is no obstacle.
    let accepted = Accepted { subscribers_prepared: true, only_reads: true };
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
    let walked = proof::walk(client, plan, remaining, false).await;
    let findings = match walked.map_err(statement("look for rows left to do")) {
        Err(failure) if failure.class == Some(Class::Data) => {
            return cannot_tell(ctx, client, (name, plan), failure).await;
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
            advice(ctx, client, name, plan).await?
        ));
    }
    Ok(if is_proved { Exit::Done } else { Exit::Found })
}

/// The condition itself raises on some row, most likely one that was set aside for it.
async fn cannot_tell(
    ctx: &Context,
    client: &Object,
    (name, plan): (&str, &Plan),
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
        print(&advice(ctx, client, name, plan).await?);
    }
    Ok(Exit::Found)
}

async fn advice(
    ctx: &Context,
    client: &Object,
    name: &str,
    plan: &Plan,
) -> Result<String, Failure> {
    let Some(run) = ctx.newest_run(client, name).await? else {
        return Ok(format!("next: backfill run {name}"));
    };
    if !run.state.is_final() {
        return Ok(format!("run {} is not finished; next: backfill resume {name}", run.run_id));
    }
    if ctx.store.count_quarantined(client, run.run_id).await? > 0 {
        return Ok(format!("rows are set aside; mend them, then: backfill retry {name}"));
    }
    let passed = ctx.store.passed_leaves(client, run.run_id).await?;
    if let Some(back) = passed.iter().find(|passed| passed.is_part_again) {
        return Ok(format!(
            "partition {} was passed over and is a part of the table again; next: backfill retry {name}",
            back.table
        ));
    }
    Ok(format!(
        "rows written by the application since the run began are its own duty (a default or a trigger); \
         to do them now: {}",
        do_the_rest(name, plan)
    ))
}

/// How rows that a run which is over left are done.
pub(super) fn do_the_rest(name: &str, plan: &Plan) -> String {
    match plan.only_fills() {
        true => format!("backfill run {name} --again"),
        false => format!(
            "pick them by `when` in a spec of their own (`backfill run {name} --again` would write all rows of this one once more)"
        ),
    }
}

async fn by_chunk_map(ctx: &Context, client: &Object, name: &str) -> Result<Exit, Failure> {
    let run = match ctx.store.installed(client).await? {
        Installed::No => None,
        _ => ctx.newest_run(client, name).await?,
    };
    let mut is_proved = false;
    let (mut new_leaves, mut passed_over, mut strays) = (Vec::new(), Vec::new(), Vec::new());
    let mut said =
        format!("{name} has never been run, and the data cannot tell which rows are done");
    if let Some(run) = &run {
        let cover = ctx.store.cover(client, run.run_id).await?;
        let aside = ctx.store.count_quarantined(client, run.run_id).await?;
        let is_done = run.state == RunState::Succeeded && cover.is_complete() && aside == 0;
        new_leaves = ctx.store.new_leaves(client, run.run_id).await?;
        passed_over = ctx.store.passed_leaves(client, run.run_id).await?;
        strays = ctx.store.strays(client, run.run_id).await?;
        is_proved = is_done && strays.is_empty();
        said = if is_done && !is_proved {
            let strays = strays.join(", ");
            format!(
                "{name} is not proved: {strays} came to the table since run {} began and may hold rows of a partition that was passed over\n\
                 next: look there for rows that are not done, and pick these by `when` in a spec of their own; a second run would do the \
                 others twice",
                run.run_id
            )
        } else if is_proved {
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
        print_json(&serde_json::json!({
            "name": name,
            "proved": is_proved,
            "method": "chunk_map",
            "run_id": run_id,
            "partitions_since": new_leaves,
            "partitions_passed_over": passed_over,
            "partitions_in_doubt": strays,
        }));
    } else {
        print(&said);
        for passed in passed_over {
            let table = passed.table;
            print(&match passed.is_part_again {
                true => format!(
                    "{table} was passed over and is a part of the table again: backfill retry {name}"
                ),
                false => format!("{table} was passed over: it is no part of the table any more"),
            });
        }
        if !new_leaves.is_empty() {
            print(&format!(
                "partitions that were not there or were empty when it began are not looked at, their rows are the application's: {}\n\
                 to do them too: name one as the `table` of a spec of its own",
                new_leaves.join(", ")
            ));
        }
    }
    Ok(if is_proved { Exit::Done } else { Exit::Found })
}

fn big(number: i64) -> String {
    count(number.max(0).unsigned_abs())
}
