//! A revision that starts a backfill, and one that takes it back.

use std::collections::BTreeSet;

use super::super::begin::overtaken;
use super::super::context::{Context, who};
use super::super::failure::{Exit, Failure, statement};
use super::super::{control, reverse, run, say};
use super::gate;
use super::session::Session;
use super::upgrade::record_of;
use super::{GatePolicy, start_flags};
use crate::migrate::class;
use crate::migrate::file::{Revision, Statement};
use crate::migrate::split::words;
use crate::plan::{Accepted, Plan};
use crate::proof;
use crate::state::{Recorded, RevisionState, Run, RunState};

/// Below this many rows a backfill takes no longer than a schema step, and is done at once.
const SMALL: i64 = 10_000;

/// Starts the backfill of a revision: runs it when it is small or asked for, else writes the run down for `backfill resume`.
pub(super) async fn start(
    ctx: &Context,
    session: &Session,
    revision: &Revision,
    name: &str,
    gate: GatePolicy,
) -> Result<Exit, Failure> {
    let client = &session.watch;
    let spec = ctx.spec(name)?;
    let plan = Plan::make(
        client,
        &spec,
        ctx.store.schema(),
        Accepted { subscribers_prepared: true, only_reads: true, ..Accepted::default() },
    )
    .await?;
    let newest = ctx.newest_run(client, name).await?;
    let mode = mode(ctx, session, &revision.id, (newest.as_ref(), &plan)).await?;
    let mut exit = Exit::Done;
    if plan.ceiling.is_none() {
        say(&format!("  {name}: {} has no rows, nothing to do", plan.table.name.plain()));
    } else if gate == GatePolicy::Run || plan.table_rows < SMALL {
        exit = run::run(ctx, name, mode, start_flags()).await?;
        if exit == Exit::Stopped || exit == Exit::Failed {
            return Ok(exit);
        }
    } else if mode != run::Mode::StartOrContinue {
        let after = newest.as_ref().map(|run| run.run_id);
        let wanted = run::Wanted { again: mode == run::Mode::StartAgain, after };
        let Some((run, _)) = run::register(ctx, client, &spec, start_flags(), wanted).await? else {
            return Err(overtaken(&ctx.need_run(client, name).await?));
        };
        say(&format!(
            "  run {} of {name} is started; it is worked by: backfill resume {name}",
            run.run_id
        ));
    } else if let Some(run) = newest {
        say(&format!("  run {} of {name} is {}", run.run_id, run.state.as_str()));
    }
    ctx.store.put_revision(client, &record_of(revision, RevisionState::Applied)).await?;
    ctx.store
        .log_revision(client, &who(), &revision.id, "applied", &format!("backfill {name}"))
        .await?;
    Ok(exit)
}

/// Whether the backfill of a revision goes on with the newest run or begins a new one: when that was given up, when it took back what
/// there was, when it belongs to an earlier time at which the revision was applied, or when the data shows that rows are left.
async fn mode(
    ctx: &Context,
    session: &Session,
    id: &str,
    (newest, plan): (Option<&Run>, &Plan),
) -> Result<run::Mode, Failure> {
    let Some(run) = newest else { return Ok(run::Mode::Start) };
    // What it wrote went with its columns, or with their tables.
    if run.state.is_final() && ctx.store.was_taken_back(&session.watch, id, run.run_id).await? {
        return Ok(run::Mode::StartAgain);
    }
    if is_over_with(run) {
        return Ok(run::Mode::Start);
    }
    if run.state != RunState::Succeeded {
        return Ok(run::Mode::StartOrContinue);
    }
    let Some(remaining) = &plan.remaining else { return Ok(run::Mode::StartOrContinue) };
    let left = proof::is_left(&session.watch, plan, remaining).await;
    match left.map_err(statement("look for rows left to do"))? {
        false => Ok(run::Mode::StartOrContinue),
        // `fill` passes over what it has done.
        true if plan.only_fills() => Ok(run::Mode::StartAgain),
        true => {
            let name = &run.name;
            Err(Failure::refused(format!("run {} of {name} succeeded, and rows are left to do", run.run_id)).hint(format!(
                "`set` would write all of its rows again; if that is meant: backfill run {name} --again, then upgrade again"
            )))
        }
    }
}

/// Whether the next run is a new one: the newest was given up, or took back what there was.
fn is_over_with(run: &Run) -> bool {
    (run.is_reverse() && run.state.is_final()) || run.state == RunState::Cancelled
}

/// Runs a backfill that a revision demands to its end.
pub(super) async fn go_on(ctx: &Context, session: &Session, name: &str) -> Result<Exit, Failure> {
    let newest = ctx.newest_run(&session.watch, name).await?;
    let is_new = newest.as_ref().is_none_or(is_over_with);
    let mode = if is_new { run::Mode::Start } else { run::Mode::StartOrContinue };
    run::run(ctx, name, mode, start_flags()).await
}

/// Whether a backfill can be taken back; refused beforehand, never half-way.
pub(super) async fn check_reversible(
    ctx: &Context,
    session: &Session,
    record: &Recorded,
    name: &str,
) -> Result<(), Failure> {
    check_idle(ctx, session, name).await?;
    let runs = ctx.store.to_take_back(&session.watch, name, &record.id).await?;
    let Some(lost) = runs.iter().find(|run| !run.is_possible) else { return Ok(()) };
    let no_way = match lost.is_pruned {
        true => format!("the before-images of run {} were dropped", lost.run_id),
        false => format!("run {} kept nothing to take it back with", lost.run_id),
    };
    Err(Failure::refused(format!("backfill {name} cannot be taken back: {no_way}"))
        .hint("downgrade only to the revision behind it: backfill migrate history"))
}

/// Refuses while somebody is working on it.
pub(super) async fn check_idle(
    ctx: &Context,
    session: &Session,
    name: &str,
) -> Result<(), Failure> {
    let newest = ctx.newest_run(&session.watch, name).await?;
    let Some(run) = newest.filter(|run| !run.state.is_final()) else { return Ok(()) };
    if !gate::is_at_work(ctx, &session.watch, &run).await? {
        return Ok(());
    }
    Err(Failure::refused(format!("run {} of {name} is at work", run.run_id))
        .hint(format!("end it first: backfill cancel {name}")))
}

/// Takes the backfill of a revision back: stops its run, then reverses what it and the runs before it did, the newest first.
pub(super) async fn take_back(
    ctx: &Context,
    session: &Session,
    record: &Recorded,
    name: &str,
) -> Result<Exit, Failure> {
    let mut exit = Exit::Done;
    let newest = ctx.newest_run(&session.watch, name).await?;
    if let Some(run) = newest.filter(|run| !run.state.is_final()) {
        if run.is_reverse() {
            exit = run::resume(ctx, Some(name), start_flags()).await?;
        } else {
            end(ctx, session, run).await?;
        }
    }
    while !matches!(exit, Exit::Stopped | Exit::Failed) {
        let left = ctx.store.to_take_back(&session.watch, name, &record.id).await?;
        let Some(run) = left.first() else {
            forget(ctx, session, record, "taken back").await?;
            return Ok(exit);
        };
        let reversed = reverse::reverse(ctx, name, Some(run.run_id), start_flags()).await?;
        exit = if reversed == Exit::Done { exit } else { reversed };
    }
    Ok(exit)
}

/// Removes the record of a revision that started a backfill.
pub(super) async fn forget(
    ctx: &Context,
    session: &Session,
    record: &Recorded,
    event: &str,
) -> Result<(), Failure> {
    Ok(ctx.store.forget_revision(&session.watch, record, &who(), event).await?)
}

/// Ends a run that is not over; one that somebody is working on is left alone.
pub(super) async fn end(ctx: &Context, session: &Session, run: Run) -> Result<(), Failure> {
    if !run.state.is_final() {
        check_idle(ctx, session, &run.name).await?;
        control::cancel(ctx, &run.name).await?;
    }
    Ok(())
}

/// Whether statements that follow drop every column that a backfill wrote, so that taking it back would be for nothing.
pub(super) async fn is_dropped_anyway(
    ctx: &Context,
    session: &Session,
    name: &str,
    later: &[Statement],
) -> Result<bool, Failure> {
    let Some(run) = ctx.newest_run(&session.watch, name).await? else { return Ok(false) };
    let mut columns: BTreeSet<&str> = run.undo.columns.iter().map(String::as_str).collect();
    let is_table = |written: &str| {
        let parts = words(written);
        let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
        parts.last().is_some_and(|word| word.text == last(&run.table_name))
            && (parts.len() == 1
                || parts
                    .first()
                    .is_some_and(|word| run.table_name.starts_with(&format!("{}.", word.text))))
    };
    for statement in later {
        let parts = statement.words();
        let Some((table, dropped)) = class::dropped(&statement.text, &parts) else { continue };
        if !is_table(&table) {
            continue;
        }
        match dropped {
            None => columns.clear(),
            Some(dropped) => dropped.iter().for_each(|column| {
                columns.remove(column.as_str());
            }),
        }
    }
    Ok(columns.is_empty() && !run.undo.columns.is_empty())
}
