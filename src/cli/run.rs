//! `run`, `resume` and `retry`: they differ in how they come by a run; from there on they are one.

use std::io::IsTerminal;
use std::sync::Arc;

use deadpool_postgres::Object;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::acquire::acquire;
use super::context::{Context, host, who};
use super::failure::{Exit, Failure, Kind};
use super::outcome::tell_end;
use super::{AcceptFlags, LimitFlags, ResumeFlags, say};
use crate::engine::dispatcher::{Dispatcher, Start};
use crate::engine::{Stop, Work, pool_size};
use crate::event::{Event, Listener};
use crate::plan::Plan;
use crate::progress::{Bar, JsonLines, Lines};
use crate::spec::Spec;
use crate::state::{Actor, Installed, NewRun, PinnedSpec, Run, RunEvent, RunState};

/// What `run` does about runs that exist already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Refuses when one is unfinished, or the newest succeeded.
    Start,
    /// Refuses only when one is unfinished.
    StartAgain,
    /// Continues the unfinished one; exits 0 when the newest succeeded.
    StartOrContinue,
}

/// What is about to happen to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Its first runner.
    Begin,
    /// Another runner; chunks that were given up are tried again.
    Continue,
    /// Another runner; rows that were set aside are tried again too.
    Retry,
}

impl Next {
    fn event(self, state: RunState) -> RunEvent {
        match (self, state) {
            (Next::Retry, RunState::Succeeded) => RunEvent::Reopened,
            _ => RunEvent::Continued,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Next::Begin => "started",
            Next::Continue => "resumed",
            Next::Retry => "retried",
        }
    }
}

/// The flags of the three commands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags {
    /// Limits.
    pub limits: LimitFlags,
    /// What is accepted.
    pub accepted: AcceptFlags,
    /// How a run is taken up again.
    pub takeover: ResumeFlags,
}

/// `backfill run NAME`.
pub(super) async fn run(
    ctx: &Context,
    name: &str,
    mode: Mode,
    flags: Flags,
) -> Result<Exit, Failure> {
    let spec = ctx.spec(name)?;
    let client = ctx.connect().await?;
    if let Some(newest) = ctx.newest_run(&client, name).await? {
        match (newest.state, mode) {
            (RunState::Succeeded, Mode::StartOrContinue) => {
                say(&format!(
                    "{name} is already done (run {}); check it with `backfill verify {name}`",
                    newest.run_id
                ));
                return Ok(Exit::Done);
            }
            (RunState::Succeeded, Mode::Start) => return Err(already_done(&newest)),
            (state, Mode::StartOrContinue) if !state.is_final() => {
                return take_up(ctx, client, spec, newest, flags, Next::Continue).await;
            }
            (state, _) if !state.is_final() => return Err(unfinished(&newest)),
            _ => {}
        }
    }
    let plan = make_plan(ctx, &client, &spec, flags).await?;
    ctx.store.install(&client).await?;
    let (digest, me, table_name) = (spec.digest(), who(), plan.table.name.plain());
    let new = NewRun {
        name,
        table_name: &table_name,
        table_oid: plan.table.oid,
        key: &plan.key,
        ceiling: plan.ceiling.as_ref(),
        spec: pinned(&spec, &digest, &plan),
        session: &plan.session,
        table_rows_estimate: plan.table_rows,
        who: &me,
    };
    let Some(run_id) = ctx.store.create_run(&client, &new).await? else {
        return Err(unfinished(&ctx.need_run(&client, name).await?));
    };
    ctx.store.log(&client, run_id, &who(), "created", &format!("on {}", new.table_name)).await?;
    let run = ctx.store.run(&client, run_id).await?;
    drive(ctx, client, spec, plan, run, flags, Next::Begin).await
}

fn pinned<'a>(spec: &'a Spec, digest: &'a str, plan: &'a Plan) -> PinnedSpec<'a> {
    PinnedSpec {
        digest,
        text: &spec.source,
        statement: plan.sql.update.get(true),
        remaining: plan.remaining.as_deref(),
    }
}

fn already_done(run: &Run) -> Failure {
    let name = &run.name;
    Failure::refused(format!("{name} has already been run to the end (run {})", run.run_id))
        .hint(format!("check it with `backfill verify {name}`, or run it once more with `backfill run {name} --again`"))
}

fn unfinished(run: &Run) -> Failure {
    let name = &run.name;
    Failure::refused(format!(
        "run {} of {name} is not finished (it is {})",
        run.run_id,
        run.state.as_str()
    ))
    .hint(format!(
        "continue it with `backfill resume {name}`, or give it up with `backfill cancel {name}`"
    ))
}

/// `backfill resume [NAME]`.
pub(super) async fn resume(
    ctx: &Context,
    name: Option<&str>,
    flags: Flags,
) -> Result<Exit, Failure> {
    let client = ctx.connect().await?;
    let Some(name) = name else { return resume_all(ctx, client, flags).await };
    let newest = ctx.newest_run(&client, name).await?;
    match newest {
        Some(run) if !run.state.is_final() => {
            take_up(ctx, client, ctx.spec(name)?, run, flags, Next::Continue).await
        }
        Some(run) => {
            let message = format!(
                "nothing unfinished: run {} of {name} is {}",
                run.run_id,
                run.state.as_str()
            );
            let again = if run.state == RunState::Succeeded { " --again" } else { "" };
            Err(Failure::refused(message)
                .hint(format!("start a new run with `backfill run {name}{again}`")))
        }
        None => {
            ctx.spec(name)?;
            let failure =
                Failure::refused(format!("nothing unfinished: {name} has never been run here"));
            Err(failure.hint(format!("start it with `backfill run {name}`")))
        }
    }
}

async fn resume_all(ctx: &Context, client: Object, flags: Flags) -> Result<Exit, Failure> {
    let runs = match ctx.store.installed(&client).await? {
        Installed::No => Vec::new(),
        _ => ctx.store.unfinished(&client).await?,
    };
    drop(client);
    if runs.is_empty() {
        say("nothing is unfinished");
    }
    let mut worst = Exit::Done;
    let mut refused = None;
    for run in runs {
        let client = ctx.connect().await?;
        let name = run.name.clone();
        let taken_up = match ctx.spec(&name) {
            Ok(spec) => take_up(ctx, client, spec, run, flags, Next::Continue).await,
            Err(failure) => Err(failure),
        };
        let exit = match taken_up {
            Ok(exit) => exit,
            Err(failure) => {
                say(&format!("{name}: {}", failure.text(false)));
                refused = Some(failure);
                continue;
            }
        };
        if exit == Exit::Stopped {
            return Ok(exit);
        }
        worst = if exit.code() > worst.code() { exit } else { worst };
    }
    match refused {
        Some(failure) => Err(failure),
        None => Ok(worst),
    }
}

/// `backfill retry NAME`.
pub(super) async fn retry(ctx: &Context, name: &str, flags: Flags) -> Result<Exit, Failure> {
    let spec = ctx.spec(name)?;
    let client = ctx.connect().await?;
    let run = ctx.need_run(&client, name).await?;
    let aside = ctx.store.count_quarantined(&client, run.run_id).await?;
    let failed = ctx.store.sums(&client, run.run_id).await?.chunks_failed;
    if aside == 0 && failed == 0 {
        say(&format!("run {} of {name} has no rows set aside and no failed chunks", run.run_id));
        return Ok(Exit::Done);
    }
    if let Err(illegal) = run.state.next(Next::Retry.event(run.state)) {
        return Err(Failure::refused(illegal.to_string()).hint(format!("backfill run {name}")));
    }
    // Every chunk of a finished run is done but those of the rows set aside, and mending them may take a change of the spec.
    let accept_change = flags.takeover.accept_change || run.state == RunState::Succeeded;
    let flags = Flags { takeover: ResumeFlags { accept_change, ..flags.takeover }, ..flags };
    take_up(ctx, client, spec, run, flags, Next::Retry).await
}

/// Takes an existing run up again.
async fn take_up(
    ctx: &Context,
    client: Object,
    spec: Spec,
    run: Run,
    flags: Flags,
    next: Next,
) -> Result<Exit, Failure> {
    if spec.digest() != run.spec_digest && !flags.takeover.accept_change {
        return Err(Failure::refused(format!(
            "{} has changed since run {} began",
            spec.path, run.run_id
        ))
        .hint(format!(
            "restore it; or go on with the new text for the chunks that are left: \
             `backfill resume {} --accept-change`; or give the run up: `backfill cancel {}`",
            run.name, run.name
        )));
    }
    let plan = make_plan(ctx, &client, &spec, flags).await?;
    if plan.table.oid != run.table_oid || plan.key != run.key {
        let message =
            format!("run {} works on {} by key ({})", run.run_id, run.table_name, run.key.plain());
        let now = format!(
            "the spec and the database now say {} by key ({})",
            plan.table.name.plain(),
            plan.key.plain()
        );
        return Err(Failure::refused(format!("{message}; {now}")).hint(format!(
            "give the run up with `backfill cancel {}` and start a new one",
            run.name
        )));
    }
    if run.state == RunState::Cancelling {
        return finish_cancel(ctx, client, &run).await;
    }
    drive(ctx, client, spec, plan, run, flags, next).await
}

/// A cancel was asked for and its runner died: there is nothing to drain.
async fn finish_cancel(ctx: &Context, client: Object, run: &Run) -> Result<Exit, Failure> {
    let lock = acquire(ctx, &client, run, false).await?;
    ctx.store.transition(&client, run.run_id, RunEvent::Drained, Actor::Operator).await?;
    lock.release();
    say(&format!("run {} of {} was being cancelled; it is cancelled", run.run_id, run.name));
    Ok(Exit::Done)
}

async fn make_plan(
    ctx: &Context,
    client: &Object,
    spec: &Spec,
    flags: Flags,
) -> Result<Plan, Failure> {
    let accepted =
        crate::plan::Accepted { subscribers_prepared: flags.accepted.subscribers_prepared };
    Ok(Plan::make(client, spec, ctx.store.schema(), accepted).await?)
}

/// Holds the run's lock, works, and tells the end.
async fn drive(
    ctx: &Context,
    client: Object,
    spec: Spec,
    plan: Plan,
    run: Run,
    flags: Flags,
    next: Next,
) -> Result<Exit, Failure> {
    let (base, limits) = ctx.limits(flags.limits.layer(), &spec, &run.tuned)?;
    ctx.database.resize(pool_size(limits.workers.value));
    let lock = acquire(ctx, &client, &run, flags.takeover.take_over).await?;
    let host = host();
    let epoch =
        ctx.store.begin_epoch(&client, run.run_id, &host, std::process::id() as i32).await?;
    ctx.store.transition(&client, run.run_id, next.event(run.state), Actor::Operator).await?;
    let digest = spec.digest();
    if digest != run.spec_digest {
        ctx.store.accept_spec(&client, run.run_id, &pinned(&spec, &digest, &plan)).await?;
        ctx.store.log(&client, run.run_id, &who(), "spec changed", &digest).await?;
    }
    let reopened = ctx.store.reopen(&client, run.run_id, next == Next::Retry).await?;
    let detail = format!("runner {epoch}, {reopened} chunks reopened");
    ctx.store.log(&client, run.run_id, &who(), next.word(), &detail).await?;
    // Read again: an operator may have tuned it between our first look and the lock.
    let run = ctx.store.run(&client, run.run_id).await?;
    let sums = ctx.store.sums(&client, run.run_id).await?;
    let quarantined = ctx.store.count_quarantined(&client, run.run_id).await?;
    drop(client);
    let mut listener: Box<dyn Listener> = if ctx.json {
        Box::<JsonLines>::default()
    } else if std::io::stderr().is_terminal() {
        Box::<Bar>::default()
    } else {
        Box::<Lines>::default()
    };
    listener.hear(&Event::Started {
        name: run.name.clone(),
        run_id: run.run_id,
        epoch,
        table_rows_estimate: run.table_rows_estimate.max(sums.keys_cut),
        keys_done: sums.keys_done,
        rows_done: sums.rows_done,
    });
    let start = Start {
        base,
        limits: crate::engine::tuned_limits(&limits, &run.tuned),
        chunk_rows: run
            .last
            .chunk_rows
            .and_then(|rows| u32::try_from(rows).ok())
            .filter(|rows| *rows > 0),
        next_seq: run.next_seq,
        fully_cut: run.fully_cut,
        control_version: run.control_version,
        quarantined,
        who: who(),
    };
    let work = Work {
        database: ctx.database.clone(),
        store: Arc::new(crate::state::Store::new(ctx.store.schema().clone())),
        sql: Arc::new(plan.sql),
        session: run.session.clone(),
        run_id: run.run_id,
        epoch,
        ceiling: run.ceiling.clone(),
        has_quarantine: quarantined > 0,
    };
    let stop = watch_signals()?;
    let outcome = Dispatcher::new(work, start, lock, stop, &mut *listener).run().await;
    drop(listener);
    tell_end(ctx, &run, outcome).await
}

/// First signal drains, the second cancels on the server.
fn watch_signals() -> Result<watch::Receiver<Stop>, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(Kind::Failed, format!("listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let (sender, receiver) = watch::channel(Stop::No);
    tokio::spawn(async move {
        for stop in [Stop::Drain, Stop::Cancel] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if sender.send(stop).is_err() {
                return;
            }
        }
        // A third changes nothing, but the receiver must not see the sender go.
        sender.closed().await;
    });
    Ok(receiver)
}
