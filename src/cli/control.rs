//! `pause`, `cancel` and `tune`: a word to a run from any terminal, written down with who and when.

use super::context::{Context, who};
use super::failure::{Exit, Failure};
use super::{LimitFlags, print_json, say};
use crate::db::lock;
use crate::settings::Rate;
use crate::state::{Actor, Run, RunEvent, RunState, StoreError, Tuned};

/// `backfill pause NAME`.
pub(super) async fn pause(ctx: &Context, name: &str) -> Result<Exit, Failure> {
    ask(ctx, name, RunEvent::PauseAsked, "pause asked").await
}

/// `backfill cancel NAME`.
pub(super) async fn cancel(ctx: &Context, name: &str) -> Result<Exit, Failure> {
    ask(ctx, name, RunEvent::CancelAsked, "cancel asked").await
}

async fn ask(ctx: &Context, name: &str, event: RunEvent, word: &str) -> Result<Exit, Failure> {
    let client = ctx.connect().await?;
    let run = ctx.need_run(&client, name).await?;
    let asked = ctx.store.transition(&client, run.run_id, event, Actor::Operator).await;
    let mut state = asked.map_err(|error| refuse(&run, error))?;
    ctx.store.log(&client, run.run_id, &who(), word, "").await?;
    let key = ctx.store.run_lock(run.run_id);
    let holder = lock::holder(&client, key).await;
    let is_live =
        holder.map_err(|e| StoreError::Statement("look for the run's lock", e))?.is_some();
    // Nobody is at work, so nothing is in flight and what was asked for is reached.
    if !is_live && matches!(state, RunState::Pausing | RunState::Cancelling) {
        state =
            ctx.store.transition(&client, run.run_id, RunEvent::Drained, Actor::Operator).await?;
    }
    tell(ctx, &run, state);
    Ok(Exit::Done)
}

fn refuse(run: &Run, error: StoreError) -> Failure {
    let failure = Failure::from(error);
    match run.state {
        RunState::Paused | RunState::Failed => {
            failure.hint(format!("continue it with `backfill resume {}`", run.name))
        }
        _ => failure.hint(format!("see `backfill status {}`", run.name)),
    }
}

fn tell(ctx: &Context, run: &Run, state: RunState) {
    let name = &run.name;
    if ctx.json {
        return print_json(
            &serde_json::json!({ "name": name, "run_id": run.run_id, "state": state }),
        );
    }
    let next = match state {
        RunState::Pausing => "its chunks in flight settle first; continue it with",
        RunState::Paused => "continue it with",
        _ => {
            return say(&format!(
                "run {} of {name} is {}; what is done stays done",
                run.run_id,
                state.as_str()
            ));
        }
    };
    say(&format!(
        "run {} of {name} is {}; {next} `backfill resume {name}`",
        run.run_id,
        state.as_str()
    ));
}

/// `backfill tune NAME …`.
pub(super) async fn tune(
    ctx: &Context,
    name: &str,
    flags: LimitFlags,
    no_rate: bool,
) -> Result<Exit, Failure> {
    let tuned = Tuned {
        workers: flags.workers,
        rate_rows_per_s: flags.rate.map(Rate::get).or(no_rate.then_some(0.0)),
        chunk_time_ms: flags.chunk_time.map(|time| time.as_millis() as u64),
    };
    if tuned == Tuned::default() {
        return Err(Failure::usage("nothing to tune")
            .hint("give --rate, --no-rate, --workers or --chunk-time"));
    }
    let client = ctx.connect().await?;
    let run = ctx.need_run(&client, name).await?;
    if !ctx.store.request(&client, run.run_id, &tuned).await? {
        let message = format!("run {} of {name} is {}", run.run_id, run.state.as_str());
        return Err(Failure::refused(message)
            .hint(format!("limits of a new run go to `backfill run {name}`")));
    }
    let words = describe(&tuned);
    ctx.store.log(&client, run.run_id, &who(), "tuned", &words).await?;
    if ctx.json {
        print_json(&serde_json::json!({ "name": name, "run_id": run.run_id, "tuned": tuned }));
    } else {
        say(&format!("run {} of {name}: {words}; see `backfill status {name}`", run.run_id));
    }
    Ok(Exit::Done)
}

fn describe(tuned: &Tuned) -> String {
    let rate = tuned.rate_rows_per_s.map(|rate| match Rate::rows_per_second(rate) {
        Some(rate) => format!("rate {rate}"),
        None => "no rate limit".to_owned(),
    });
    let workers = tuned.workers.map(|workers| format!("{workers} workers"));
    let chunk_time = tuned.chunk_time_ms.map(|time| format!("chunk time {time} ms"));
    [rate, workers, chunk_time].into_iter().flatten().collect::<Vec<_>>().join(", ")
}
