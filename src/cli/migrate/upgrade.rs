//! `migrate upgrade`: applies what is pending, in order, and stops at the first demand that is not met.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::super::context::{Context, who};
use super::super::failure::{Exit, Failure, Kind};
use super::super::{print_json, say};
use super::gate::{self, Judgement};
use super::session::Session;
use super::standing::Standing;
use super::trouble::{self, Place};
use super::{ChangeFlags, GatePolicy, backfill};
use crate::migrate::apply::{Event, Runner, Work};
use crate::migrate::file::Revision;
use crate::migrate::requirement::Requirement;
use crate::state::{Direction, Recorded, RevisionState};

/// What `upgrade` was told besides where to.
#[derive(Clone, Debug)]
pub(super) struct Flags {
    pub change: ChangeFlags,
    pub gate: GatePolicy,
    pub override_gate: Option<String>,
    pub out_of_order: bool,
    /// Whether times that a demand has to hold for are passed over.
    pub ignores_soak: bool,
}

/// `backfill migrate upgrade [TARGET]`.
pub(super) async fn upgrade(ctx: &Context, target: &str, flags: &Flags) -> Result<Exit, Failure> {
    let client = ctx.connect().await?;
    let standing = Standing::read(ctx, &client).await?;
    let pending = choose(&standing, target, flags.out_of_order)?;
    if pending.is_empty() {
        drop(client);
        return told_nothing(ctx, &standing);
    }
    standing.check()?;
    check_late(&standing, &pending, flags.out_of_order)?;
    drop(client);
    let session = Session::open(ctx, flags.change.lock_budget).await?;
    // Another runner may have been at work until now.
    let standing = Standing::read(ctx, &session.watch).await?;
    standing.check()?;
    let pending = choose(&standing, target, flags.out_of_order)?;
    if pending.is_empty() {
        session.close();
        return told_nothing(ctx, &standing);
    }
    let mut done = Vec::new();
    let ended = apply_all(ctx, &session, &standing, (&pending, target, flags), &mut done).await;
    session.close();
    let left = pending.len() - done.len();
    // A failure prints an object of its own.
    if ctx.json && ended.is_ok() {
        print_json(&serde_json::json!({ "applied": done, "left": left }));
    }
    match ended {
        Ok(exit) => {
            if left == 0 && done.len() > 1 {
                say(&format!(
                    "{} revisions applied; the schema is at {}",
                    done.len(),
                    pending.last().map_or("", |last| &last.id)
                ));
            }
            Ok(exit)
        }
        Err(failure) if done.is_empty() => Err(failure),
        Err(failure) => {
            Err(failure.hint(format!("applied before: {}; not applied: {left}", done.join(", "))))
        }
    }
}

fn told_nothing(ctx: &Context, standing: &Standing) -> Result<Exit, Failure> {
    standing.check()?;
    if ctx.json {
        print_json(&serde_json::json!({ "applied": [], "left": 0 }));
    }
    say("nothing to apply: the schema is where it was asked to be");
    Ok(Exit::Done)
}

/// What is to be applied to get to where it was asked for, in order.
pub(super) fn choose<'s>(
    standing: &'s Standing,
    target: &str,
    out_of_order: bool,
) -> Result<Vec<&'s Revision>, Failure> {
    let tree = &standing.tree;
    let applied = standing.applied();
    let heads = tree.heads();
    let steps = target.strip_prefix('+').map(str::parse::<usize>);
    let wants_heads = target == "head" || target == "heads" || steps.is_some();
    if wants_heads && heads.len() > 1 && target != "heads" && !out_of_order {
        let ids: Vec<String> =
            heads.iter().map(|head| format!("{} ({})", head.id, head.path)).collect();
        return Err(Failure::refused(format!("the history has {} heads: {}", heads.len(), ids.join(", "))).hint(
            "join them with `backfill migrate merge -m \"…\"`; or apply them side by side with --allow-out-of-order",
        ));
    }
    let targets: Vec<&str> = match wants_heads {
        true => heads.iter().map(|head| head.id.as_str()).collect(),
        false => vec![standing.find(target)?.id.as_str()],
    };
    let mut pending = tree.pending(&applied, &targets);
    match steps {
        Some(Ok(count)) => pending.truncate(count),
        Some(Err(_)) => {
            return Err(
                Failure::usage(format!("`{target}` is no number of revisions")).hint("such as +1")
            );
        }
        None => {}
    }
    Ok(pending)
}

fn check_late(
    standing: &Standing,
    pending: &[&Revision],
    out_of_order: bool,
) -> Result<(), Failure> {
    if out_of_order {
        return Ok(());
    }
    if let Some(late) = standing.tree.late(&standing.applied(), pending).first() {
        return Err(Failure::refused(format!("{} comes before revisions that are applied already", late.path)).hint(
            "if it does no harm to apply it now: --allow-out-of-order; if it is applied: backfill migrate resolve ID --applied --reason \"…\"",
        ));
    }
    let missing = standing.without_file();
    if let Some(first) = missing.first() {
        let message = format!(
            "the database has revision {} ({}), which is not among the files here",
            first.id, first.title
        );
        return Err(Failure::refused(message).hint(
            "get the newer files; or apply these beside it with --allow-out-of-order; or go back first: backfill migrate downgrade -1",
        ));
    }
    Ok(())
}

async fn apply_all(
    ctx: &Context,
    session: &Session,
    standing: &Standing,
    (pending, target, flags): (&[&Revision], &str, &Flags),
    done: &mut Vec<String>,
) -> Result<Exit, Failure> {
    let mut exit = Exit::Done;
    // By the name of the last one: a count would go further the second time, and `head` may be another then.
    let goal = pending.last().map_or("head", |last| last.id.as_str());
    let aside = if flags.out_of_order { " --allow-out-of-order" } else { "" };
    let again = format!("backfill migrate upgrade {goal}{aside}");
    for revision in pending {
        if session.is_stopped() {
            return Err(trouble::stopped(&revision.id, &again));
        }
        if let Some(reason) = revision.stop.as_ref().filter(|_| !is_named(&revision.id, target)) {
            let message =
                format!("{} ({}) waits for a person: {reason}", revision.id, revision.path);
            return Err(Failure::refused(message)
                .hint(format!("when that is so: backfill migrate upgrade {}", revision.id)));
        }
        for demand in &revision.requires {
            if !was_met(standing, revision, demand) {
                pass(ctx, session, (revision, demand), (flags, &again)).await?;
            }
        }
        let begun = Instant::now();
        if let Some((name, _)) = &revision.backfill {
            let ended = backfill::start(ctx, session, revision, name, flags.gate).await?;
            if ended == Exit::Stopped || ended == Exit::Failed {
                return Ok(ended);
            }
            exit = if ended == Exit::Done { exit } else { ended };
        } else {
            apply(ctx, session, standing, (revision, &again), &flags.change).await?;
        }
        done.push(revision.id.clone());
        say(&format!(
            "applied {} {} in {}",
            revision.id,
            revision.title,
            crate::event::duration(begun.elapsed())
        ));
    }
    Ok(exit)
}

async fn apply(
    ctx: &Context,
    session: &Session,
    standing: &Standing,
    (revision, again): (&Revision, &str),
    change: &ChangeFlags,
) -> Result<(), Failure> {
    let record = record_of(revision, RevisionState::Applied);
    let work = Work {
        revision: &record,
        direction: Direction::Up,
        statements: &revision.up,
        grouping: revision.grouping,
        verify: &revision.verify,
    };
    if standing.record(&revision.id).is_some() {
        say(&format!("taking up {} {} where it was interrupted", revision.id, revision.title));
    }
    let place = Place {
        id: &revision.id,
        path: &revision.path,
        source: &revision.source,
        work: &work,
        again,
    };
    run_work(ctx, session, &work, change.statement_timeout)
        .await
        .map_err(|error| trouble::failure(&place, &error, session))
}

/// Runs statements with what happens told as it happens.
pub(super) async fn run_work(
    ctx: &Context,
    session: &Session,
    work: &Work<'_>,
    statement_timeout: Duration,
) -> Result<(), crate::migrate::apply::ApplyError> {
    let tell = |event: Event<'_>| tell(ctx, &event);
    let stop = session.stop.clone();
    let is_stopped = move || *stop.borrow() != crate::engine::Stop::No;
    let runner = Runner {
        store: &ctx.store,
        client: &session.client,
        pid: session.pid,
        watch: &session.watch,
        lock_budget: session.budget,
        statement_timeout,
        tell: &tell,
        is_stopped: &is_stopped,
        is_alone: &|| session.is_alone(),
    };
    runner.apply(work).await
}

fn tell(ctx: &Context, event: &Event<'_>) {
    match event {
        Event::Done(statements, took) if ctx.verbose => {
            for statement in *statements {
                say(&format!("  done: {} ({})", statement.head(), crate::event::duration(*took)));
            }
        }
        Event::Done(..) => {}
        Event::Found(statement) => say(&format!("  was done already: {}", statement.head())),
        Event::Waiting(blockers, pause) => {
            let who = blockers
                .first()
                .map_or_else(|| "a lock was not to be had".to_owned(), |blocker| blocker.show());
            say(&format!("  waiting: {who}; again in {}", crate::event::duration(*pause)));
        }
        Event::Progress(statement, seen) => say(&format!("  {}: {seen}", statement.head())),
        Event::Healed(name) => {
            say(&format!("  {name} is invalid, an interrupted build left it; it is removed first"));
        }
    }
}

/// A revision as it will be recorded.
pub(super) fn record_of(revision: &Revision, state: RevisionState) -> Recorded {
    let no_way = "its file gives no way back".to_owned();
    Recorded {
        id: revision.id.clone(),
        parents: revision.revises.iter().map(|(id, _)| id.clone()).collect(),
        title: revision.title.clone(),
        digest: revision.digest(),
        backfill: revision.backfill.as_ref().map(|(name, _)| name.clone()),
        down_sql: revision.down_sql(),
        irreversible: revision
            .irreversible
            .clone()
            .or_else(|| (!revision.is_reversible()).then_some(no_way)),
        state,
        origin: "ran".to_owned(),
        applied_by: who(),
        applied_at: String::new(),
    }
}

/// Whether a revision is the one that was asked for, and not just on the way.
fn is_named(id: &str, target: &str) -> bool {
    target.len() >= 4 && id.starts_with(target) && target != "head" && target != "heads"
}

/// Whether a revision that was interrupted behind its demand has met it: what it did since may keep the question from being asked again.
fn was_met(standing: &Standing, revision: &Revision, demand: &Requirement) -> bool {
    let is_begun =
        standing.record(&revision.id).is_some_and(|record| record.state == RevisionState::Applying);
    is_begun
        && standing
            .gates
            .iter()
            .any(|gate| gate.revision == revision.id && gate.demand == demand.show())
}

/// Lets a revision past a demand, or refuses.
async fn pass(
    ctx: &Context,
    session: &Session,
    (revision, demand): (&Revision, &Requirement),
    (flags, again): (&Flags, &str),
) -> Result<(), Failure> {
    let mut demand = demand.clone();
    if flags.ignores_soak {
        demand.soak = Duration::ZERO;
    }
    let deadline = match flags.gate {
        GatePolicy::Wait(time) => Some(Instant::now() + time),
        _ => None,
    };
    let mut is_first = true;
    loop {
        let judged = gate::judge(ctx, &session.watch, &demand).await?;
        if judged.holds {
            say(&format!("  {} requires {}: {}", revision.id, demand.show(), judged.evidence));
            let outcome = ("satisfied", judged.evidence.as_str());
            ctx.store
                .put_gate(&session.watch, &revision.id, &demand.show(), outcome, &who())
                .await?;
            return Ok(());
        }
        if let Some(reason) = &flags.override_gate {
            say(&format!(
                "  {} requires {}, which does not hold ({}); overridden: {reason}",
                revision.id,
                demand.show(),
                judged.evidence
            ));
            let evidence = format!("{reason} ({})", judged.evidence);
            ctx.store
                .put_gate(
                    &session.watch,
                    &revision.id,
                    &demand.show(),
                    ("overridden", &evidence),
                    &who(),
                )
                .await?;
            ctx.store
                .log_revision(&session.watch, &who(), &revision.id, "gate overridden", &evidence)
                .await?;
            return Ok(());
        }
        if is_first && flags.gate == GatePolicy::Run {
            is_first = false;
            let exit = backfill::go_on(ctx, session, &demand.name).await?;
            if exit == Exit::Stopped {
                return Err(trouble::stopped(&revision.id, again));
            }
            continue;
        }
        match deadline {
            Some(deadline) if Instant::now() < deadline && !session.is_stopped() => {
                if is_first {
                    is_first = false;
                    say(&format!(
                        "  {} waits for {}: {}",
                        revision.id,
                        demand.show(),
                        judged.evidence
                    ));
                }
                tokio::time::sleep(Duration::from_secs(1).min(deadline - Instant::now())).await;
            }
            Some(_) if session.is_stopped() => return Err(trouble::stopped(&revision.id, again)),
            _ => return Err(unmet(revision, &demand, &judged, again)),
        }
    }
}

fn unmet(revision: &Revision, demand: &Requirement, judged: &Judgement, again: &str) -> Failure {
    let message = format!(
        "{} ({}) requires {}: {}",
        revision.id,
        revision.path,
        demand.show(),
        judged.evidence
    );
    Failure::new(Kind::Refused, message)
        .hint(format!("first: {}", judged.next))
        .hint(format!("then again: {again}; or let it run and wait: {again} --gate run"))
}

/// The ids that are pending, for those who only want to know.
pub(super) fn pending_ids(standing: &Standing) -> BTreeSet<String> {
    let applied = standing.applied();
    let ids = standing.tree.revisions.iter().map(|revision| revision.id.clone());
    ids.filter(|id| !applied.contains(id)).collect()
}
