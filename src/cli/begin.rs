//! Whether a run may begin, and if not, what comes first.

use deadpool_postgres::Object;

use super::context::Context;
use super::failure::Failure;
use super::run::Mode;
use crate::event::count;
use crate::plan::Plan;
use crate::spec::Spec;
use crate::state::{Run, RunState};

/// A run that succeeded is not begun once more in passing.
pub(super) fn already_done(run: &Run) -> Failure {
    let name = &run.name;
    Failure::refused(format!("{name} has already been run to the end (run {})", run.run_id))
        .hint(format!("check it with `backfill verify {name}`, or run it once more with `backfill run {name} --again`"))
}

/// One run of a name at a time.
pub(super) fn unfinished(run: &Run) -> Failure {
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

/// Another run of the name was written down while this one was planned.
pub(super) fn overtaken(newest: &Run) -> Failure {
    let (name, run_id) = (&newest.name, newest.run_id);
    Failure::refused(format!("run {run_id} of {name} began a moment ago"))
        .hint(format!("see what it does with `backfill status {name}`"))
}

/// After a reverse run that came to its end a run may start afresh; a half-way one is in the way, and a scheduler must not undo what an
/// operator did.
pub(super) fn after_reverse(newest: &Run, mode: Mode, only_fills: bool) -> Result<(), Failure> {
    let (name, run_id) = (&newest.name, newest.run_id);
    match (newest.state, mode) {
        (state, _) if !state.is_final() => Err(unfinished(newest)),
        (_, Mode::StartOrContinue) => {
            Err(Failure::refused(format!("{name} was taken back by run {run_id}"))
                .hint(format!("if it shall run once more: `backfill run {name}`")))
        }
        (RunState::Cancelled, Mode::Start) => {
            let again = match only_fills {
                true => format!(", or run it over all rows with `backfill run {name} --again`"),
                false => String::new(),
            };
            Err(Failure::refused(format!(
                "run {run_id}, which took {name} back, was cancelled half-way"
            ))
            .hint(format!("take the rest back with `backfill reverse {name}`{again}")))
        }
        _ => Ok(()),
    }
}

/// What an earlier run wrote and nobody has taken back, `set` would write once more.
pub(super) async fn check_standing(
    ctx: &Context,
    client: &Object,
    spec: &Spec,
    plan: &Plan,
) -> Result<(), Failure> {
    if spec.only_fills() || !ctx.has_tables(client).await? {
        return Ok(());
    }
    let name = &spec.name;
    let standing =
        ctx.store.standing(client, name, (plan.table.oid, &plan.table.name.plain())).await?;
    let Some(run) = standing.first() else { return Ok(()) };
    let number = |n: i64| count(n.unsigned_abs());
    let (id, rows) = (run.run_id, number(run.rows));
    let again = format!("where writing them once more does no harm: `backfill run {name} --again`");
    let (what, hint) = match run.left_by {
        _ if !run.is_same_table => (
            format!(
                "run {id} of {name} has written {rows} rows of a table of this name, and this may be a copy of it"
            ),
            again,
        ),
        Some(back) if run.leaves_left > 0 => (
            format!(
                "run {back}, which took run {id} back, passed over {} partitions that are still there",
                run.leaves_left
            ),
            format!(
                "attach them and give them back with `backfill retry {name}`, or drop them; {again}"
            ),
        ),
        Some(back) => (
            format!(
                "run {back}, which took run {id} back, left {} rows as they were",
                number(run.rows_left)
            ),
            format!("`backfill status {name}` names them; {again}"),
        ),
        None if run.is_reversible => (
            format!("run {id} of {name} has written {rows} rows, and they stand"),
            format!("take them back first with `backfill reverse {name} --run {id}`; {again}"),
        ),
        None => (
            format!(
                "run {id} of {name} has written {rows} rows, and nothing takes them back any more"
            ),
            format!("pick the rows that are left by `when` in a spec of its own; {again}"),
        ),
    };
    Err(Failure::refused(format!("{what}: `set` would write them once more")).hint(hint))
}
