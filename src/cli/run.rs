//! `run`, `resume` and `retry`: they differ in how they come by a run; from there on they are one.

use deadpool_postgres::Object;

use super::acquire::acquire;
use super::begin::{after_reverse, already_done, check_standing, overtaken, unfinished};
use super::context::{Context, who};
use super::drive::{Job, Next, drive};
use super::failure::{Exit, Failure};
use super::{AcceptFlags, LimitFlags, PaceFlags, ResumeFlags, pace, reverse, say};
use crate::mutation::Guard;
use crate::mutation::Step;
use crate::plan::Plan;
use crate::spec::Spec;
use crate::state::{Actor, NewRun, NewUndo, PinnedSpec, Run, RunEvent, RunState};
use crate::undo::UndoMode;

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

/// The flags of the three commands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags {
    /// Limits.
    pub limits: LimitFlags,
    /// What is accepted.
    pub accepted: AcceptFlags,
    /// How it is paced.
    pub pace: PaceFlags,
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
    loop {
        let client = ctx.connect().await?;
        let newest = ctx.newest_run(&client, name).await?;
        let after = newest.as_ref().map(|run| run.run_id);
        if let Some(newest) = newest {
            if newest.is_reverse() {
                after_reverse(&newest, mode, spec.only_fills())?;
            }
            match (newest.state, mode) {
                _ if newest.is_reverse() => {}
                (RunState::Succeeded, Mode::StartOrContinue) => {
                    say(&format!(
                        "{name} is already done (run {}); check it with `backfill verify {name}`",
                        newest.run_id
                    ));
                    return Ok(Exit::Done);
                }
                (RunState::Succeeded, Mode::Start) => return Err(already_done(&newest)),
                (state, Mode::StartOrContinue) if !state.is_final() => {
                    let run_id = newest.run_id;
                    let taken = take_up(ctx, client, newest, flags, Next::Continue).await;
                    // Another runner may have brought it to its end between the look and the lock.
                    if taken.is_err() && has_succeeded(ctx, run_id).await? {
                        continue;
                    }
                    return taken;
                }
                (state, _) if !state.is_final() => return Err(unfinished(&newest)),
                _ => {}
            }
        }
        let wanted = Wanted { again: mode == Mode::StartAgain, after };
        if let Some((run, plan)) = register(ctx, &client, &spec, flags, wanted).await? {
            return drive(ctx, client, Job { spec, plan }, run, flags, Next::Begin).await;
        }
        // Whoever asked for one more run did not mean one more than that of somebody else.
        if mode == Mode::StartAgain {
            return Err(overtaken(&ctx.need_run(&client, name).await?));
        }
    }
}

async fn has_succeeded(ctx: &Context, run_id: i64) -> Result<bool, Failure> {
    let client = ctx.connect().await?;
    Ok(ctx.store.run(&client, run_id).await?.state == RunState::Succeeded)
}

/// The run that is to be written down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Whether what earlier runs wrote may be written once more.
    pub again: bool,
    /// The newest run that its plan knows of.
    pub after: Option<i64>,
}

/// Plans a run and writes it down, without a runner yet. Unless it is meant to be done `again`, no earlier run's rows may stand. None when
/// another run of the name came in between.
pub(super) async fn register(
    ctx: &Context,
    client: &Object,
    spec: &Spec,
    flags: Flags,
    wanted: Wanted,
) -> Result<Option<(Run, Plan)>, Failure> {
    let name = spec.name.as_str();
    let plan = make_plan(ctx, client, spec, (flags, false)).await?;
    if !wanted.again {
        check_standing(ctx, client, spec, &plan).await?;
    }
    ctx.store.install(client).await?;
    let ceiling = plan.run_ceiling();
    let (digest, me, table_name) = (spec.digest(), who(), plan.table.name.plain());
    let new = NewRun {
        name,
        is_again: wanted.again,
        after: wanted.after,
        table_name: &table_name,
        table_oid: plan.table.oid,
        key: &plan.key,
        ceiling: ceiling.as_ref(),
        leaves: plan.run_leaves(),
        walk_before: plan.walk_before.filter(|_| plan.physical.is_some()),
        spec: pinned(spec, &digest, &plan),
        session: &plan.session,
        table_rows_estimate: plan.table_rows,
        who: &me,
        undo: NewUndo {
            mode: plan.undo,
            columns: &plan.written,
            fields: &plan.image_fields(),
            lz4: plan.server.has_lz4,
        },
    };
    Step::Planned.reach();
    let Some(run_id) = ctx.store.create_run(client, &new).await? else { return Ok(None) };
    Step::Created.reach();
    ctx.store.log(client, run_id, &who(), "created", &format!("on {}", new.table_name)).await?;
    let run = ctx.store.run(client, run_id).await?;
    let plan = plan.keeping(&ctx.store.images(run_id));
    Ok(Some((run, plan)))
}

pub(super) fn pinned<'a>(spec: &'a Spec, digest: &'a str, plan: &'a Plan) -> PinnedSpec<'a> {
    PinnedSpec {
        digest,
        text: &spec.source,
        statement: plan.update_statement(),
        remaining: plan.remaining.as_deref(),
        verify_query: plan.verify_query(),
    }
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
            take_up(ctx, client, run, flags, Next::Continue).await
        }
        Some(run) => {
            let message = format!(
                "nothing unfinished: run {} of {name} is {}",
                run.run_id,
                run.state.as_str()
            );
            let hint = match (run.is_reverse(), run.state) {
                (false, RunState::Succeeded) => {
                    format!("start a new run with `backfill run {name} --again`")
                }
                (true, RunState::Succeeded) => {
                    format!("run it once more with `backfill run {name}`")
                }
                (true, _) => format!("take the rest back with `backfill reverse {name}`"),
                (false, _) if run.undo.pruned_at.is_some() || run.undo.mode == UndoMode::None => {
                    format!(
                        "`backfill run {name}` starts a new one, or says what stands in its way"
                    )
                }
                (false, _) => format!(
                    "take back what it wrote with `backfill reverse {name}`; then start a new run with `backfill run {name}`"
                ),
            };
            Err(Failure::refused(message).hint(hint))
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
    let runs = match ctx.has_tables(&client).await? {
        false => Vec::new(),
        true => ctx.store.unfinished(&client).await?,
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
        let exit = match take_up(ctx, client, run, flags, Next::Continue).await {
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
    let client = ctx.connect().await?;
    let run = ctx.need_run(&client, name).await?;
    let aside = ctx.store.count_quarantined(&client, run.run_id).await?;
    let failed = ctx.store.sums(&client, run.run_id).await?.chunks_failed;
    let passed = ctx.store.passed_leaves(&client, run.run_id).await?;
    let is_back = passed.iter().any(|passed| passed.is_part_again);
    if aside == 0 && failed == 0 && !is_back {
        say(&format!(
            "run {} of {name} has no rows set aside, no failed chunks, and no partition that is back",
            run.run_id
        ));
        return Ok(Exit::Done);
    }
    if let Err(illegal) = run.state.next(Next::Retry.event(run.state)) {
        return Err(Failure::refused(illegal.to_string()).hint(format!("backfill status {name}")));
    }
    if let (Some(at), false) = (&run.undo.pruned_at, run.is_reverse()) {
        let what = format!("the before-images of run {} were dropped at {at}", run.run_id);
        return Err(Failure::refused(format!("{what}, and it keeps one of every row it writes"))
            .hint("do what is left by a run of its own: pick the rows by `when` in another spec, or name the partition as its `table`"));
    }
    // Every chunk of a finished run is done but those of the rows set aside, and mending them may take a change of the spec.
    let accept_change = flags.takeover.accept_change || run.state == RunState::Succeeded;
    let flags = Flags { takeover: ResumeFlags { accept_change, ..flags.takeover }, ..flags };
    take_up(ctx, client, run, flags, Next::Retry).await
}

/// Takes an existing run up again.
async fn take_up(
    ctx: &Context,
    client: Object,
    run: Run,
    flags: Flags,
    next: Next,
) -> Result<Exit, Failure> {
    if run.is_reverse() {
        return reverse::take_up(ctx, client, run, flags, next).await;
    }
    let spec = ctx.spec(&run.name)?;
    let is_accepted = flags.takeover.accept_change || Guard::Digest.is_out();
    if spec.digest() != run.spec_digest && !is_accepted {
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
    let plan = make_plan(ctx, &client, &spec, (flags, true)).await?;
    if plan.table.oid != run.table_oid || !plan.key.is_same(&run.key) {
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
    plan.check_operators(&client, &run.session).await?;
    if (plan.undo, &plan.written) != (run.undo.mode, &run.undo.columns) {
        let kept = format!(
            "run {} writes ({}) and is taken back by {}",
            run.run_id,
            run.undo.columns.join(", "),
            run.undo.mode.as_str()
        );
        return Err(Failure::refused(format!("{kept}; the spec now says otherwise")).hint(
            format!("give the run up with `backfill cancel {}` and start a new one", run.name),
        ));
    }
    if run.state == RunState::Cancelling {
        return finish_cancel(ctx, client, &run).await;
    }
    Step::Planned.reach();
    let passed = ctx.store.sums(&client, run.run_id).await?.keys_cut;
    let plan = plan.going_on_with(&run, passed)?.keeping(&ctx.store.images(run.run_id));
    drive(ctx, client, Job { spec, plan }, run, flags, next).await
}

/// A cancel was asked for and its runner died: there is nothing to drain.
pub(super) async fn finish_cancel(
    ctx: &Context,
    client: Object,
    run: &Run,
) -> Result<Exit, Failure> {
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
    (flags, goes_on): (Flags, bool),
) -> Result<Plan, Failure> {
    let accepted = crate::plan::Accepted {
        subscribers_prepared: flags.accepted.subscribers_prepared,
        goes_on,
        ..crate::plan::Accepted::default()
    };
    let plan = Plan::make(client, spec, ctx.store.schema(), accepted).await?;
    pace::check_blind(ctx, client, spec, &plan, flags.pace).await?;
    Ok(plan)
}
