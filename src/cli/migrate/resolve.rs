//! `migrate stamp` and `migrate resolve`: what somebody says about the schema, written down with who, when and why.

use super::super::context::{Context, who};
use super::super::failure::{Exit, Failure};
use super::super::say;
use super::session::Session;
use super::standing::Standing;
use super::upgrade::{choose, record_of};
use super::{ChangeFlags, Resolution};
use crate::migrate::file::Revision;
use crate::state::{Direction, Recorded, RevisionState};

/// `backfill migrate stamp ID|head|base`: counts revisions as applied without running them.
pub(super) async fn stamp(
    ctx: &Context,
    target: &str,
    change: &ChangeFlags,
) -> Result<Exit, Failure> {
    let session = Session::open(ctx, change.lock_budget).await?;
    let standing = Standing::read(ctx, &session.watch).await?;
    let client = &session.watch;
    let goal = match target {
        "base" => Vec::new(),
        _ => choose_all(&standing, target)?,
    };
    for record in &standing.recorded {
        let stays = goal.iter().any(|revision| revision.id == record.id);
        if !stays {
            ctx.store.forget_revision(client, record, &who(), "stamped away").await?;
            say(&format!("{} {} counts as not applied", record.id, record.title));
        }
    }
    for revision in goal {
        if standing
            .record(&revision.id)
            .is_some_and(|record| record.state == RevisionState::Applied)
        {
            continue;
        }
        ctx.store.put_revision(client, &stamped(revision)).await?;
        ctx.store.drop_steps(client, &revision.id, Direction::Down).await?;
        ctx.store.log_revision(client, &who(), &revision.id, "stamped", &revision.title).await?;
        say(&format!("{} {} counts as applied", revision.id, revision.title));
    }
    session.close();
    Ok(Exit::Done)
}

fn stamped(revision: &Revision) -> Recorded {
    Recorded { origin: "stamped".to_owned(), ..record_of(revision, RevisionState::Applied) }
}

fn choose_all<'s>(standing: &'s Standing, target: &str) -> Result<Vec<&'s Revision>, Failure> {
    let nothing = Standing { tree: standing.tree.clone(), recorded: Vec::new(), gates: Vec::new() };
    let ids: Vec<String> =
        choose(&nothing, target, false)?.iter().map(|revision| revision.id.clone()).collect();
    Ok(standing.tree.revisions.iter().filter(|revision| ids.contains(&revision.id)).collect())
}

/// `backfill migrate resolve ID`: says what is so where the record cannot tell.
pub(super) async fn resolve(
    ctx: &Context,
    id: &str,
    resolution: &Resolution,
    reason: &str,
    change: &ChangeFlags,
) -> Result<Exit, Failure> {
    let session = Session::open(ctx, change.lock_budget).await?;
    let standing = Standing::read(ctx, &session.watch).await?;
    let client = &session.watch;
    let done = match resolution {
        Resolution::Applied => {
            let revision = standing.find(id)?;
            ctx.store.put_revision(client, &stamped(revision)).await?;
            // What was taken back of it counts for nothing now.
            ctx.store.drop_steps(client, &revision.id, Direction::Down).await?;
            (revision.id.clone(), "counts as applied".to_owned())
        }
        Resolution::Restamp => {
            let revision = standing.find(id)?;
            let Some(record) = standing.record(&revision.id) else {
                return Err(Failure::refused(format!("{} is not applied", revision.id))
                    .hint("apply it: backfill migrate upgrade"));
            };
            let restamped = Recorded {
                origin: record.origin.clone(),
                state: record.state,
                ..record_of(revision, record.state)
            };
            ctx.store.put_revision(client, &restamped).await?;
            (revision.id.clone(), "is recorded as its file now says".to_owned())
        }
        Resolution::Reverted => {
            let record = recorded(&standing, id)?;
            ctx.store.drop_revision(client, &record.id).await?;
            (record.id.clone(), "counts as not applied".to_owned())
        }
        Resolution::Step { n, is_done } => {
            let record = recorded(&standing, id)?;
            settle_step(ctx, &session, &standing, record, (*n, *is_done)).await?;
            let word = if *is_done { "done" } else { "not done" };
            (record.id.clone(), format!("statement {n} counts as {word}"))
        }
    };
    ctx.store
        .log_revision(client, &who(), &done.0, "resolved", &format!("{}: {reason}", done.1))
        .await?;
    session.close();
    say(&format!("{} {}", done.0, done.1));
    Ok(Exit::Done)
}

fn recorded<'s>(standing: &'s Standing, id: &str) -> Result<&'s Recorded, Failure> {
    standing.record(id).ok_or_else(|| {
        Failure::usage(format!("no revision `{id}` is recorded"))
            .hint("list them with `backfill migrate history`")
    })
}

/// Says of one statement whether it was done.
async fn settle_step(
    ctx: &Context,
    session: &Session,
    standing: &Standing,
    record: &Recorded,
    (n, is_done): (u32, bool),
) -> Result<(), Failure> {
    let direction = match record.state {
        RevisionState::Applying => Direction::Up,
        RevisionState::Reverting => Direction::Down,
        RevisionState::Applied => {
            return Err(Failure::refused(format!(
                "{} is applied; no statement of it is in doubt",
                record.id
            ))
            .hint("see it with `backfill migrate current`"));
        }
    };
    let revision = standing.find(&record.id)?;
    let statements = if direction == Direction::Up { &revision.up } else { &revision.down };
    let Some(statement) = (n as usize).checked_sub(1).and_then(|i| statements.get(i)) else {
        return Err(Failure::usage(format!("{} has {} statements", record.id, statements.len())));
    };
    let i = n as i32 - 1;
    if is_done {
        let (digest, head) = (statement.digest(), statement.head());
        ctx.store
            .put_step(&session.watch, (&record.id, direction, i), (&digest, &head), Some(0))
            .await?;
    } else {
        ctx.store.drop_step(&session.watch, &record.id, direction, i).await?;
    }
    Ok(())
}
