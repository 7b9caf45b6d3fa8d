//! `verify`: proof that nothing is left to do, from the data where the data can tell, else from the chunk map.

use deadpool_postgres::Object;

use super::context::{Context, who};
use super::failure::{Exit, Failure, statement};
use super::{print, print_json};
use crate::db::Class;
use crate::event::count;
use crate::plan::{Accepted, Plan};
use crate::proof;
use crate::state::{Installed, Passed, Run, RunState};

/// `backfill verify NAME [--accept-moved REASON]`.
pub(super) async fn verify(
    ctx: &Context,
    name: &str,
    accept_moved: Option<&str>,
) -> Result<Exit, Failure> {
    let spec = ctx.spec(name)?;
    let client = ctx.connect().await?;
    if let Some(reason) = accept_moved {
        accept(ctx, &client, name, reason).await?;
    }
    // Verifying reads only, so a publication that would carry new state tables is no obstacle.
    let accepted = Accepted { subscribers_prepared: true, only_reads: true, ..Accepted::default() };
    let plan = Plan::make(&client, &spec, ctx.store.schema(), accepted).await?;
    match &plan.remaining {
        Some(remaining) => by_data(ctx, &client, name, &plan, remaining).await,
        None => by_chunk_map(ctx, &client, name).await,
    }
}

/// Somebody has looked at what became of the rows of partitions that went away.
async fn accept(ctx: &Context, client: &Object, name: &str, reason: &str) -> Result<(), Failure> {
    if reason.trim().is_empty() {
        return Err(Failure::usage("--accept-moved needs a reason, which is kept"));
    }
    let run = ctx.need_run(client, name).await?;
    if run.is_reverse() {
        let what = format!(
            "run {} took {name} back, and what it passed over is given back by",
            run.run_id
        );
        return Err(Failure::refused(format!("{what} `backfill retry {name}`"))
            .hint("attach the partitions first"));
    }
    let passed = ctx.store.passed_leaves(client, run.run_id).await?;
    let is_back = |passed: &&Passed| passed.is_part_again && run.undo.pruned_at.is_none();
    if let Some(back) = passed.iter().find(is_back) {
        return Err(Failure::refused(format!("{} is a part of the table again", back.table))
            .hint(format!("do it first: backfill retry {name}")));
    }
    let is_any = !passed.is_empty() || !ctx.store.strays(client, run.run_id).await?.is_empty();
    if !run.state.is_final() || !is_any {
        let what = format!("run {} of {name} has passed nothing over that is in doubt", run.run_id);
        return Err(Failure::refused(what).hint(format!("backfill status {name}")));
    }
    ctx.store.accept_moved(client, run.run_id).await?;
    Ok(ctx.store.log(client, run.run_id, &who(), "moved rows accepted", reason).await?)
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
        let is_wide = plan.key.columns.len() > 1;
        let example = |key: &String| if is_wide { format!("({key})") } else { key.clone() };
        let examples: Vec<String> = findings.examples.iter().map(example).collect();
        print(&format!(
            "{name} is not complete: {} of {} rows are left to do, such as ({}) {}\n{}",
            big(findings.remaining),
            big(findings.keys),
            plan.key.plain(),
            examples.join(", "),
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
    if let Some(next) = after_end(&run, plan) {
        return Ok(next);
    }
    if ctx.store.count_quarantined(client, run.run_id).await? > 0 {
        return Ok(format!("rows are set aside; mend them, then: backfill retry {name}"));
    }
    let passed = ctx.store.passed_leaves(client, run.run_id).await?;
    if let Some(back) = passed.iter().find(|passed| passed.is_part_again) {
        return Ok(format!(
            "partition {} was passed over and is a part of the table again; next: {}",
            back.table,
            retry(&run)
        ));
    }
    Ok(format!(
        "rows written by the application since the run began are its own duty (a default or a trigger); \
         to do them now: {}",
        do_the_rest(name, plan)
    ))
}

/// What comes after a run that ended otherwise than by doing its work; none after one that did it.
pub(super) fn after_end(run: &Run, plan: &Plan) -> Option<String> {
    let (name, id) = (&run.name, run.run_id);
    match (run.is_reverse(), run.state) {
        (true, RunState::Cancelled) => Some(format!(
            "run {id}, which took it back, was cancelled half-way; next: backfill reverse {name}"
        )),
        (true, _) => {
            Some(format!("run {id} took it back; to do it once more: backfill run {name}"))
        }
        (false, RunState::Cancelled) if plan.only_fills() => {
            Some(format!("run {id} was cancelled half-way; next: backfill run {name}"))
        }
        (false, RunState::Cancelled) => Some(format!(
            "run {id} was cancelled half-way; next: backfill reverse {name}, which takes back what it wrote, then: backfill run {name}"
        )),
        _ => None,
    }
}

/// How a partition that is back is done.
fn retry(run: &Run) -> String {
    match run.undo.pruned_at {
        None => format!("backfill retry {}", run.name),
        Some(_) => format!(
            "its before-images are dropped, so do it by a spec of its own that names it as `table`; then: \
             backfill verify {} --accept-moved 'done by …'",
            run.name
        ),
    }
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

/// What the chunk map of a run says.
#[derive(Default)]
struct Map {
    is_proved: bool,
    new_leaves: Vec<String>,
    passed_over: Vec<Passed>,
    strays: Vec<String>,
    said: String,
}

async fn by_chunk_map(ctx: &Context, client: &Object, name: &str) -> Result<Exit, Failure> {
    let run = match ctx.store.installed(client).await? {
        Installed::No => None,
        _ => ctx.newest_run(client, name).await?,
    };
    // What a reverse run took back was not all that was done where an older run stands.
    let standing =
        match run.as_ref().filter(|run| run.is_reverse() && run.state == RunState::Succeeded) {
            Some(run) => ctx.store.standing(client, name, (run.table_oid, &run.table_name)).await?,
            None => Vec::new(),
        };
    let run = match standing.first().filter(|run| run.left_by.is_none()) {
        Some(whole) => Some(ctx.store.run(client, whole.run_id).await?),
        None => run,
    };
    let map = match &run {
        Some(run) => read_map(ctx, client, run).await?,
        None => Map {
            said: format!(
                "{name} has never been run, and the data cannot tell which rows are done\nnext: backfill run {name}"
            ),
            ..Map::default()
        },
    };
    let exit = if map.is_proved { Exit::Done } else { Exit::Found };
    if ctx.json {
        let run_id = run.as_ref().map(|run| run.run_id);
        print_json(&serde_json::json!({
            "name": name,
            "proved": map.is_proved,
            "method": "chunk_map",
            "run_id": run_id,
            "partitions_since": map.new_leaves,
            "partitions_passed_over": map.passed_over,
            "partitions_in_doubt": map.strays,
        }));
        return Ok(exit);
    }
    print(&map.said);
    for passed in &map.passed_over {
        let table = &passed.table;
        let next = run.as_ref().map(retry).unwrap_or_default();
        print(&match passed.is_part_again {
            true => {
                format!("{table} was passed over and is a part of the table again: {next}")
            }
            false => format!("{table} was passed over: it is no part of the table any more"),
        });
    }
    let new: Vec<&str> = map
        .new_leaves
        .iter()
        .filter(|leaf| !map.strays.contains(leaf))
        .map(String::as_str)
        .collect();
    if !new.is_empty() {
        print(&format!(
            "partitions that were not there or were empty when it began are not looked at, their rows are the application's: {}\n\
             to do them too: name one as the `table` of a spec of its own",
            new.join(", ")
        ));
    }
    Ok(exit)
}

async fn read_map(ctx: &Context, client: &Object, run: &Run) -> Result<Map, Failure> {
    let (name, id) = (&run.name, run.run_id);
    if run.is_reverse() {
        let said = match (run.state.is_final(), run.state) {
            (false, _) => format!(
                "{name} is not complete: run {id} takes it back\nnext: backfill resume {name}"
            ),
            (_, RunState::Cancelled) => format!(
                "{name} is not complete: run {id}, which took it back, was cancelled half-way\nnext: backfill reverse {name}"
            ),
            _ => format!(
                "{name} is not complete: it was taken back by run {id}\nnext: backfill status {name}"
            ),
        };
        return Ok(Map { said, ..Map::default() });
    }
    let cover = ctx.store.cover(client, id).await?;
    let aside = ctx.store.count_quarantined(client, id).await?;
    let is_done = run.state == RunState::Succeeded && cover.is_complete() && aside == 0;
    let strays = ctx.store.strays(client, id).await?;
    let is_proved = is_done && strays.is_empty();
    let said = if is_proved {
        format!(
            "{name} is verified by its chunk map: {} chunks without gap or overlap up to the ceiling, all done; \
             the data itself cannot tell (name a condition with `[verify] remaining`)",
            big(cover.chunks)
        )
    } else if is_done {
        format!(
            "{name} is not proved: {} may hold rows of a partition that went away, which run {id} missed or did twice\n\
             next: look there, and mend what is wrong by a spec of its own (a second run would do all others twice); then: \
             backfill verify {name} --accept-moved 'mended by …'",
            strays.join(", ")
        )
    } else {
        format!(
            "{name} is not complete: run {id} is {}, {} of {} chunks are not done, {aside} rows are set aside\n\
             next: backfill status {name}",
            run.state.as_str(),
            cover.open,
            big(cover.chunks)
        )
    };
    let new_leaves = ctx.store.new_leaves(client, id).await?;
    let passed_over = ctx.store.passed_leaves(client, id).await?;
    Ok(Map { is_proved, new_leaves, passed_over, strays, said })
}

fn big(number: i64) -> String {
    count(number.max(0).unsigned_abs())
}
