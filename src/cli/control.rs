//! `pause`, `cancel` and `tune`: a word to a run from any terminal, written down with who and when.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::context::{Context, who};
use super::failure::{Exit, Failure};
use super::{TuneFlags, pace, print_json, say};
use crate::budget::Budget;
use crate::db::lock;
use crate::signal::{KINDS, Kind};
use crate::state::{Actor, Ends, Run, RunEvent, RunState, StoreError, Tuned};

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
        let event = RunEvent::Drained;
        state = match ctx.store.transition(&client, run.run_id, event, Actor::Operator).await {
            // The runner let go of its lock a moment ago, and said so itself.
            Err(StoreError::Illegal(illegal))
                if matches!(illegal.from, RunState::Paused | RunState::Cancelled) =>
            {
                illegal.from
            }
            drained => drained?,
        };
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

/// How long what overrides a protection lasts when nobody says: an override that is forgotten must not become the next incident.
const EXEMPT_FOR: Duration = Duration::from_secs(60 * 60);

/// `backfill tune NAME …`.
pub(super) async fn tune(ctx: &Context, name: &str, flags: TuneFlags) -> Result<Exit, Failure> {
    let tuned = read_flags(&flags)?;
    if tuned == Tuned::default() {
        return Err(Failure::usage("nothing to tune")
            .hint("give --rate, --no-rate, --workers, --chunk-time, --window or --ignore-signal"));
    }
    if let Some((window, _)) = &tuned.window {
        check_window(ctx, name, window)?;
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

fn read_flags(flags: &TuneFlags) -> Result<Tuned, Failure> {
    let now = Timestamp::now();
    let after = |time: Duration| {
        let time = jiff::SignedDuration::try_from(time).ok();
        let end = time.and_then(|time| now.checked_add(time).ok());
        end.ok_or_else(|| Failure::usage("--for is too long"))
    };
    let limits = flags.limits;
    let has_limits = limits.workers.is_some()
        || limits.rate.is_some()
        || limits.chunk_time.is_some()
        || flags.no_rate;
    let exempt_until = after(flags.lasting.unwrap_or(EXEMPT_FOR))?;
    let mut ignore = BTreeMap::new();
    for word in &flags.ignore_signal {
        for kind in signals(word)? {
            ignore.insert(kind.name().to_owned(), exempt_until);
        }
    }
    let limits_until = match flags.lasting {
        Some(time) => Ends::At(after(time)?),
        None => Ends::Never,
    };
    Ok(Tuned {
        workers: limits.workers,
        rate: limits.rate.or(flags.no_rate.then_some(Budget::UNLIMITED)),
        chunk_time_ms: limits.chunk_time.map(|time| time.as_millis() as u64),
        limits_until: has_limits.then_some(limits_until),
        window: flags.window.clone().map(|window| (window, exempt_until)),
        ignore,
    })
}

/// The signals of a word; `lag` stands for both of a replica's.
fn signals(word: &str) -> Result<Vec<Kind>, Failure> {
    if word == "lag" {
        return Ok(vec![Kind::ReplicaLag, Kind::ReplicaDelay]);
    }
    Kind::parse(word).map(|kind| vec![kind]).ok_or_else(|| {
        Failure::usage(format!("`{word}` is no health signal"))
            .hint(format!("there are: lag, {}", pace::names(&KINDS)))
    })
}

fn check_window(ctx: &Context, name: &str, window: &str) -> Result<(), Failure> {
    let calendar = pace::calendar(ctx, &ctx.spec(name)?);
    if calendar.named(window).is_some() {
        return Ok(());
    }
    let names: Vec<&str> = calendar.windows.iter().map(|window| window.name.as_str()).collect();
    let failure = Failure::usage(format!("there is no window `{window}`"));
    Err(failure.hint(match names.as_slice() {
        [] => "neither the spec nor backfill.toml has any `[[throttle.window]]`".to_owned(),
        names => format!("there are: {}", names.join(", ")),
    }))
}

fn describe(tuned: &Tuned) -> String {
    let rate = tuned.rate.map(|rate| match rate.is_unlimited() {
        true => "no rate limit".to_owned(),
        false => format!("rate {rate}"),
    });
    let workers = tuned.workers.map(|workers| format!("{workers} workers"));
    let chunk_time = tuned.chunk_time_ms.map(|time| format!("chunk time {time} ms"));
    let mut words: Vec<String> = [rate, workers, chunk_time].into_iter().flatten().collect();
    if let (Some(Ends::At(end)), Some(last)) = (tuned.limits_until, words.last_mut()) {
        last.push_str(&format!(", until {end:.0}"));
    }
    if let Some((window, until)) = &tuned.window {
        words.push(format!("window `{window}` in force until {until:.0}"));
    }
    for (signal, until) in &tuned.ignore {
        words.push(format!("signal {signal} ignored until {until:.0}"));
    }
    words.join(", ")
}
