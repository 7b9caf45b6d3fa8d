//! `prune`: drops before-images that are no longer wanted, and says what that gives up.

use std::io::{BufRead as _, IsTerminal, Write as _};
use std::time::Duration;

use super::context::{Context, who};
use super::failure::{Exit, Failure};
use super::{print_json, say};
use crate::event::{bytes, duration};

/// `backfill prune [NAME] [--older-than 14d] [--yes]`.
pub(super) async fn prune(
    ctx: &Context,
    name: Option<&str>,
    older_than: Option<Duration>,
    yes: bool,
) -> Result<Exit, Failure> {
    let client = ctx.connect().await?;
    if let Some(name) = name {
        let newest = ctx.need_run(&client, name).await?;
        if !newest.state.is_final() {
            let state = newest.state.as_str();
            return Err(Failure::refused(format!(
                "run {} of {name} is not finished (it is {state})",
                newest.run_id
            ))
            .hint(format!(
                "finish it with `backfill resume {name}`, or end it with `backfill cancel {name}`"
            )));
        }
    } else if !ctx.has_tables(&client).await? {
        say("nothing has been run here");
        return Ok(Exit::Done);
    }
    // Without a name only what is past its time is meant.
    let age = older_than.or_else(|| name.is_none().then(|| ctx.project.retention()));
    let found = ctx.store.prunable(&client, name, age.map(|age| age.as_secs_f64())).await?;
    let mut doomed = Vec::new();
    for run_id in found {
        let weight = ctx.store.image_bytes(&client, run_id).await?.unwrap_or(0);
        doomed.push((ctx.store.run(&client, run_id).await?, weight));
    }
    if doomed.is_empty() {
        let age =
            age.map(|age| format!(" finished more than {} ago", duration(age))).unwrap_or_default();
        say(&format!("no run{age} has before-images to drop"));
    }
    for (run, weight) in &doomed {
        let finished = run.times.finished_at.as_deref().unwrap_or("?");
        let weight = bytes(weight.unsigned_abs());
        say(&format!(
            "run {} of {}, finished {finished}: {weight} of before-images",
            run.run_id, run.name
        ));
        let newest = ctx.need_run(&client, &run.name).await?;
        let (mut aside, mut passed) = (0, 0);
        for open in [Some(run), Some(&newest).filter(|run| run.is_reverse())].into_iter().flatten()
        {
            aside += ctx.store.count_quarantined(&client, open.run_id).await?;
            let leaves = ctx.store.passed_leaves(&client, open.run_id).await?;
            passed += leaves.iter().filter(|leaf| leaf.is_there).count();
        }
        if aside + passed as i64 > 0 {
            say(&format!(
                "  {aside} rows are set aside and {passed} partitions were passed over; `backfill retry {}` can then not do them any more",
                run.name
            ));
        }
    }
    if !doomed.is_empty() && !yes && !confirm()? {
        say("nothing was dropped");
        return Ok(Exit::Done);
    }
    let mut freed = 0;
    for (run, weight) in &doomed {
        ctx.store.prune(&client, run.run_id).await?;
        ctx.store.log(&client, run.run_id, &who(), "pruned", &bytes(weight.unsigned_abs())).await?;
        freed += weight;
    }
    if ctx.json {
        let runs: Vec<i64> = doomed.iter().map(|(run, _)| run.run_id).collect();
        print_json(&serde_json::json!({ "pruned": runs, "bytes": freed }));
    } else if !doomed.is_empty() {
        say(&format!(
            "dropped {}; these runs can no longer be reversed",
            bytes(freed.unsigned_abs())
        ));
    }
    Ok(Exit::Done)
}

/// Asks on a terminal; elsewhere only `--yes` says yes.
fn confirm() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "dropping before-images cannot be undone, and there is no terminal to ask on",
        )
        .hint("add --yes"));
    }
    let _ = write!(
        std::io::stderr().lock(),
        "drop them? these runs can then no longer be reversed [y/N] "
    );
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
