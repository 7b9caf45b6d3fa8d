//! `migrate downgrade`: takes revisions back, the newest first, and with them what their backfills wrote.

use std::collections::BTreeSet;

use super::super::context::Context;
use super::super::failure::{Exit, Failure};
use super::super::{print_json, say};
use super::session::Session;
use super::standing::Standing;
use super::trouble::{self, Place};
use super::upgrade::run_work;
use super::{ChangeFlags, backfill};
use crate::migrate::apply::Work;
use crate::migrate::file::{Grouping, Statement, statements};
use crate::state::{Direction, Recorded, RevisionState};

/// `backfill migrate downgrade TARGET`.
pub(super) async fn downgrade(
    ctx: &Context,
    target: &str,
    change: &ChangeFlags,
) -> Result<Exit, Failure> {
    let client = ctx.connect().await?;
    let standing = Standing::read(ctx, &client).await?;
    if choose(&standing, target)?.is_empty() {
        say("nothing to take back: the schema is where it was asked to be");
        return Ok(Exit::Done);
    }
    drop(client);
    let session = Session::open(ctx, change.lock_budget).await?;
    let standing = Standing::read(ctx, &session.watch).await?;
    let doomed: Vec<Recorded> = choose(&standing, target)?.into_iter().cloned().collect();
    let mut done = Vec::new();
    let ended = take_all_back(ctx, &session, &standing, (&doomed, change), &mut done).await;
    session.close();
    // A failure prints an object of its own.
    if ctx.json && ended.is_ok() {
        print_json(&serde_json::json!({ "taken_back": done, "left": doomed.len() - done.len() }));
    }
    match ended {
        Err(failure) if !done.is_empty() => {
            Err(failure.hint(format!("taken back before: {}", done.join(", "))))
        }
        other => other,
    }
}

/// The revisions to be taken back, the newest first.
pub(super) fn choose<'s>(
    standing: &'s Standing,
    target: &str,
) -> Result<Vec<&'s Recorded>, Failure> {
    let recorded = &standing.recorded;
    let newest_first = recorded.iter().rev();
    if target == "base" {
        return Ok(newest_first.collect());
    }
    if let Some(count) = target.strip_prefix('-') {
        let count: usize = count.parse().map_err(|_| {
            Failure::usage(format!("`{target}` is no number of revisions")).hint("such as -1")
        })?;
        return Ok(newest_first.take(count).collect());
    }
    let found: Vec<&Recorded> =
        recorded.iter().filter(|recorded| recorded.id.starts_with(target)).collect();
    let goal = match found.as_slice() {
        [one] => *one,
        [] => {
            return Err(Failure::usage(format!("no revision `{target}` is applied"))
                .hint("list them with `backfill migrate history`"));
        }
        several => {
            let ids: Vec<&str> = several.iter().map(|recorded| recorded.id.as_str()).collect();
            return Err(Failure::usage(format!(
                "`{target}` begins several ids: {}",
                ids.join(", ")
            ))
            .hint("type more of it"));
        }
    };
    let mut above: BTreeSet<&str> = BTreeSet::from([goal.id.as_str()]);
    let mut order = Vec::new();
    for one in recorded {
        // One that is half taken back is finished whatever the goal is.
        let is_half = one.state == RevisionState::Reverting && one.id != goal.id;
        if is_half || one.parents.iter().any(|parent| above.contains(parent.as_str())) {
            above.insert(&one.id);
            order.push(one);
        }
    }
    order.reverse();
    Ok(order)
}

/// One revision's way back.
pub(super) struct WayBack {
    path: String,
    source: String,
    pub statements: Vec<Statement>,
    pub grouping: Grouping,
}

/// From the file, or where there is none, as it was recorded.
pub(super) fn way_back(standing: &Standing, record: &Recorded) -> Result<WayBack, Failure> {
    if let Some(revision) = standing.tree.get(&record.id) {
        let (path, source) = (revision.path.clone(), revision.source.clone());
        return Ok(WayBack {
            path,
            source,
            statements: revision.down.clone(),
            grouping: revision.grouping,
        });
    }
    let cut = statements(&record.down_sql).ok_or_else(|| {
        Failure::usage(format!("the recorded way back of {} is cut off", record.id))
    })?;
    let path = format!("recorded with {}", record.id);
    Ok(WayBack { path, source: record.down_sql.clone(), statements: cut, grouping: Grouping::Auto })
}

async fn take_all_back(
    ctx: &Context,
    session: &Session,
    standing: &Standing,
    (doomed, change): (&[Recorded], &ChangeFlags),
    done: &mut Vec<String>,
) -> Result<Exit, Failure> {
    let ways =
        doomed.iter().map(|record| way_back(standing, record)).collect::<Result<Vec<_>, _>>()?;
    let mut elided = Vec::new();
    for (i, record) in doomed.iter().enumerate() {
        if record.state == RevisionState::Applying {
            let message = format!(
                "{} {} is half applied, and its way back is for the whole of it",
                record.id, record.title
            );
            return Err(Failure::refused(message).hint(format!(
                "finish it: backfill migrate upgrade {0}; or take what is there back by hand, then: backfill migrate resolve {0} --reverted --reason \"…\"",
                record.id
            )));
        }
        if let Some(why) = &record.irreversible {
            return Err(Failure::refused(format!(
                "{} {} cannot be taken back: {why}",
                record.id, record.title
            ))
            .hint(format!("go back to it at most: backfill migrate downgrade {}", record.id)));
        }
        let mut is_elided = false;
        if let Some(name) = &record.backfill {
            let later: Vec<Statement> =
                ways[i + 1..].iter().flat_map(|way| way.statements.clone()).collect();
            is_elided = backfill::is_dropped_anyway(ctx, session, name, &later).await?;
            if !is_elided {
                backfill::check_reversible(ctx, session, record, name).await?;
            } else {
                backfill::check_idle(ctx, session, name).await?;
            }
        }
        elided.push(is_elided);
    }
    let mut exit = Exit::Done;
    // The revision that shall be the newest: a count would go further the second time.
    let kept =
        standing.recorded.iter().rfind(|kept| !doomed.iter().any(|record| record.id == kept.id));
    let again = format!("backfill migrate downgrade {}", kept.map_or("base", |kept| &kept.id));
    for ((record, way), is_elided) in doomed.iter().zip(&ways).zip(elided) {
        if session.is_stopped() {
            return Err(trouble::stopped(&record.id, &again));
        }
        match &record.backfill {
            Some(name) if is_elided => {
                say(&format!(
                    "  {name} is not reversed: all that it wrote is dropped by this command"
                ));
                if let Some(run) = ctx.newest_run(&session.watch, name).await? {
                    backfill::end(ctx, session, run).await?;
                }
                backfill::forget(ctx, session, record, "taken back").await?;
            }
            Some(name) => match backfill::take_back(ctx, session, record, name).await? {
                ended @ (Exit::Stopped | Exit::Failed) => return Ok(ended),
                Exit::Done => {}
                other => exit = other,
            },
            None => {
                let work = Work {
                    revision: record,
                    direction: Direction::Down,
                    statements: &way.statements,
                    grouping: way.grouping,
                    verify: &[],
                };
                let place = Place {
                    id: &record.id,
                    path: &way.path,
                    source: &way.source,
                    work: &work,
                    again: &again,
                };
                let ran = run_work(ctx, session, &work, change.statement_timeout).await;
                ran.map_err(|error| trouble::failure(&place, &error, session))?;
            }
        }
        done.push(record.id.clone());
        say(&format!("took back {} {}", record.id, record.title));
    }
    Ok(exit)
}
