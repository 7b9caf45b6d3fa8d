//! `reverse`: takes a run back. Its chunks are those of the run it takes back; everything else is a run like any other.

use deadpool_postgres::Object;

use super::begin::overtaken;
use super::context::{Context, who};
use super::drive::{Job, Next, drive};
use super::failure::{Exit, Failure};
use super::run::{Flags, finish_cancel};
use super::{pace, say};
use crate::mutation::Step;
use crate::plan::{Accepted, Plan, Taken};
use crate::spec::Spec;
use crate::state::{NewReverse, Run, RunState};
use crate::undo::{Conflicts, UndoMode};

/// `backfill reverse NAME [--run N]`.
pub(super) async fn reverse(
    ctx: &Context,
    name: &str,
    run_id: Option<i64>,
    flags: Flags,
) -> Result<Exit, Failure> {
    let policy = flags.takeover.conflicts.unwrap_or_default();
    check_force(policy, flags)?;
    let client = ctx.connect().await?;
    let newest = ctx.need_run(&client, name).await?;
    let left = ctx.store.reversible(&client, name).await?;
    let (forward, source) = choose(ctx, &client, &newest, &left, run_id).await?;
    let mut job = make_job(ctx, &client, &forward, flags).await?;
    let images = ctx.store.images(forward.run_id);
    job.plan.give_back(&images, &ctx.store.notes(), 0, policy);
    let statement = job.plan.chunk_statement().to_owned();
    Step::Planned.reach();
    let new = NewReverse {
        name,
        after: newest.run_id,
        forward: forward.run_id,
        source,
        statement: &statement,
        conflicts: policy,
        who: &who(),
    };
    let Some(run_id) = ctx.store.create_reverse(&client, &new).await? else {
        return Err(overtaken(&ctx.need_run(&client, name).await?));
    };
    let detail = format!("takes back run {}, conflicts: {}", forward.run_id, policy.as_str());
    Step::Created.reach();
    ctx.store.log(&client, run_id, &who(), "created", &detail).await?;
    let run = ctx.store.run(&client, run_id).await?;
    job.plan.give_back(&images, &ctx.store.notes(), run_id, policy);
    let exit = drive(ctx, client, job, run, flags, Next::Begin).await?;
    let older = left.iter().find(|left| **left != forward.run_id);
    if let (Some(older), false) = (older, matches!(exit, Exit::Stopped | Exit::Failed)) {
        say(&format!(
            "run {older} of {name} wrote rows too: backfill reverse {name} --run {older}"
        ));
    }
    Ok(exit)
}

/// The run to take back, and the run whose chunks are to be taken: its own, or those that a cancelled reverse of it left.
async fn choose(
    ctx: &Context,
    client: &Object,
    newest: &Run,
    left: &[i64],
    run_id: Option<i64>,
) -> Result<(Run, i64), Failure> {
    let name = &newest.name;
    let forward = match (newest.reverses, run_id) {
        (_, Some(run_id)) if run_id == newest.run_id && !newest.is_reverse() => newest.clone(),
        (Some(forward), None) => ctx.store.run(client, forward).await?,
        (None, None) => newest.clone(),
        (_, Some(run_id)) if left.contains(&run_id) => ctx.store.run(client, run_id).await?,
        (_, Some(run_id)) => {
            return Err(Failure::refused(format!("run {run_id} of {name} cannot be taken back"))
                .hint(match left {
                    [] => format!("nor can any other run of it; see `backfill log {name}`"),
                    left => format!("these can: {}", join(left)),
                }));
        }
    };
    check_reversible(newest, &forward, left)?;
    // Values pile up: what a later run wrote on top has to go first.
    if let Some(later) = left.iter().find(|later| **later > forward.run_id) {
        return Err(Failure::refused(format!(
            "run {later} of {name} wrote later than run {}",
            forward.run_id
        ))
        .hint(format!("take that back first: `backfill reverse {name} --run {later}`")));
    }
    let is_left_half_way =
        newest.reverses == Some(forward.run_id) && newest.state == RunState::Cancelled;
    let source = if is_left_half_way { newest.run_id } else { forward.run_id };
    Ok((forward, source))
}

fn join(runs: &[i64]) -> String {
    runs.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
}

/// Takes an unfinished reverse run up again. The spec's file does not matter: what was written is known.
pub(super) async fn take_up(
    ctx: &Context,
    client: Object,
    mut run: Run,
    flags: Flags,
    next: Next,
) -> Result<Exit, Failure> {
    let policy = flags.takeover.conflicts.unwrap_or(run.conflicts);
    if policy != run.conflicts {
        check_force(policy, flags)?;
        ctx.store.set_conflicts(&client, run.run_id, policy).await?;
        ctx.store.log(&client, run.run_id, &who(), "conflicts", policy.as_str()).await?;
        run.conflicts = policy;
    }
    let forward = ctx.store.run(&client, run.reverses.unwrap_or(run.run_id)).await?;
    check_kept(&forward)?;
    let mut job = make_job(ctx, &client, &forward, flags).await?;
    if run.state == RunState::Cancelling {
        return finish_cancel(ctx, client, &run).await;
    }
    let images = ctx.store.images(forward.run_id);
    job.plan.give_back(&images, &ctx.store.notes(), run.run_id, policy);
    drive(ctx, client, job, run, flags, next).await
}

async fn make_job(
    ctx: &Context,
    client: &Object,
    forward: &Run,
    flags: Flags,
) -> Result<Job, Failure> {
    let path = format!("the spec pinned to run {}", forward.run_id);
    let spec = Spec::parse(&forward.name, &path, &forward.spec_text)?;
    let images = ctx.store.images(forward.run_id);
    let types = ctx.store.image_types(client, forward.run_id).await?;
    let taken = Taken { run: forward, images: &images, types };
    let accepted = Accepted {
        subscribers_prepared: flags.accepted.subscribers_prepared,
        ..Accepted::default()
    };
    let plan = Plan::reverse(client, &spec, &taken, ctx.store.schema(), accepted).await?;
    pace::check_blind(ctx, client, &spec, &plan, flags.pace).await?;
    Ok(Job { spec, plan })
}

fn check_force(policy: Conflicts, flags: Flags) -> Result<(), Failure> {
    if policy != Conflicts::Force || flags.takeover.yes {
        return Ok(());
    }
    Err(Failure::usage("--conflicts=force overwrites what the application wrote since")
        .hint("if that is what you want, add --yes; `--conflicts=skip` leaves such rows alone"))
}

fn check_reversible(newest: &Run, forward: &Run, left: &[i64]) -> Result<(), Failure> {
    let name = &newest.name;
    if !newest.state.is_final() {
        let state = newest.state.as_str();
        let refusal = Failure::refused(format!(
            "run {} of {name} is not finished (it is {state})",
            newest.run_id
        ));
        let cancel = format!("end it with `backfill cancel {name}`, then reverse what it has done");
        return Err(refusal.hint(format!("continue it with `backfill resume {name}`; or {cancel}")));
    }
    if newest.reverses == Some(forward.run_id) && newest.state == RunState::Succeeded {
        let refusal = Failure::refused(format!(
            "run {} of {name} has been taken back already, by run {}",
            forward.run_id, newest.run_id
        ));
        return Err(match left.first() {
            Some(older) => refusal.hint(format!(
                "run {older} wrote rows too; take it back with `backfill reverse {name} --run {older}`"
            )),
            None => refusal.hint(format!("run it once more with `backfill run {name}`")),
        });
    }
    check_kept(forward)
}

/// Whether there is anything to take the run back by.
fn check_kept(forward: &Run) -> Result<(), Failure> {
    let (name, run_id) = (&forward.name, forward.run_id);
    if let Some(at) = &forward.undo.pruned_at {
        return Err(Failure::refused(format!("the before-images of run {run_id} were dropped at {at}"))
            .hint(format!("what it did is in `backfill log {name}`; a backfill the other way needs a spec of its own")));
    }
    if forward.undo.mode == UndoMode::None {
        return Err(Failure::refused(format!("run {run_id} of {name} kept nothing to take it back by"))
            .hint("its spec says `[undo]` with `mode = \"none\"`, or it ran before before-images were kept"));
    }
    Ok(())
}
