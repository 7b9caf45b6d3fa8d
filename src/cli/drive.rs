//! A run at work in this process: lock, epoch, signals, dispatcher, end. Forward or reverse makes no difference here.

use std::io::IsTerminal;
use std::sync::Arc;

use deadpool_postgres::Object;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::acquire::acquire;
use super::context::{Context, host, who};
use super::failure::{Exit, Failure, Kind};
use super::outcome::tell_end;
use super::pace;
use super::run::{Flags, pinned};
use crate::engine::dispatcher::{Dispatcher, Start};
use crate::engine::{Pace, Stop, TableRef, Work, pool_size, window_max};
use crate::event::{Event, Listener};
use crate::mutation::Guard;
use crate::mutation::Step;
use crate::plan::{LEAVES_IN_ROUNDS, Plan};
use crate::progress::{Bar, JsonLines, Lines};
use crate::settings::{Durability, Origin, Setting};
use crate::spec::Spec;
use crate::state::{Actor, Run, RunEvent, RunState};
use crate::vacuum::Pressure;

/// What a run works from.
pub(super) struct Job {
    /// The spec.
    pub spec: Spec,
    /// Its plan, with the statements that this very run sends.
    pub plan: Plan,
}

/// What is about to happen to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Its first runner.
    Begin,
    /// Another runner; chunks that were given up are tried again.
    Continue,
    /// Another runner; rows that were set aside are tried again too.
    Retry,
}

impl Next {
    pub(super) fn event(self, state: RunState) -> RunEvent {
        match (self, state) {
            (Next::Retry, RunState::Succeeded) => RunEvent::Reopened,
            _ => RunEvent::Continued,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Next::Begin => "started",
            Next::Continue => "resumed",
            Next::Retry => "retried",
        }
    }
}

/// Holds the run's lock, works, and tells the end.
pub(super) async fn drive(
    ctx: &Context,
    client: Object,
    job: Job,
    run: Run,
    flags: Flags,
    next: Next,
) -> Result<Exit, Failure> {
    let Job { spec, plan } = job;
    let mut base = ctx.limits(flags.limits.layer(), &spec)?;
    if run.is_reverse() {
        // What is given back must not come undone.
        base.durability = Setting { value: Durability::Commit, origin: Origin::Default };
    }
    ctx.database.resize(pool_size(base.workers.value));
    let lock = acquire(ctx, &client, &run, flags.takeover.take_over).await?;
    let host = host();
    let epoch =
        ctx.store.begin_epoch(&client, run.run_id, &host, std::process::id() as i32).await?;
    Step::Begun.reach();
    ctx.store.transition(&client, run.run_id, next.event(run.state), Actor::Operator).await?;
    let digest = spec.digest();
    if digest != run.spec_digest {
        ctx.store.accept_spec(&client, run.run_id, &pinned(&spec, &digest, &plan)).await?;
        ctx.store.log(&client, run.run_id, &who(), "spec changed", &digest).await?;
    }
    let reopened = ctx.store.reopen(&client, run.run_id, next == Next::Retry).await?;
    let detail = format!("runner {epoch}, {reopened} chunks reopened");
    ctx.store.log(&client, run.run_id, &who(), next.word(), &detail).await?;
    if plan.key.is_places() && !matches!(next, Next::Begin) {
        ctx.store.add_rounds(&client, (run.run_id, epoch), LEAVES_IN_ROUNDS).await?;
    }
    // Read again: an operator may have tuned it between our first look and the lock.
    let run = ctx.store.run(&client, run.run_id).await?;
    let cut_by = match plan.way.striping {
        _ if plan.way.is_physical => "place",
        Some(_) => "stripes",
        None => "key",
    };
    let sizes = (plan.table.heap_bytes, plan.table.index_bytes);
    ctx.store.note_storage(&client, run.run_id, cut_by, sizes).await?;
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
    // The first passes of a window are the dear ones, and say nothing about the rest.
    let two_windows = plan.way.striping.map_or(0.0, |striping| window_max(striping) * 2.0);
    let small_leaves = plan.small_leaves();
    let parts = plan.leaf_rows();
    let start = Start {
        chunk_rows: run
            .last
            .chunk_rows
            .and_then(|rows| u32::try_from(rows).ok())
            .filter(|rows| *rows > 0)
            .or(plan.first_chunk_rows()),
        next_seq: run.next_seq,
        fully_cut: run.fully_cut,
        control_version: run.control_version,
        quarantined,
        who: who(),
        striping: plan.way.striping,
        pressure: Pressure::new(pace::vacuum(ctx, &spec), &parts, two_windows),
    };
    let health = pace::health(ctx, &spec);
    let pace = Pace {
        base,
        tuned: run.tuned.clone(),
        calendar: pace::calendar(ctx, &spec),
        looks: pace::look(ctx, &health, &plan, &run).await?,
        health,
        no_wait: flags.pace.no_wait,
        spent: run.last.spent.clone(),
    };
    let (table, table_ceiling) =
        (TableRef { oid: plan.table.oid, name: plan.table.name.clone() }, plan.ceiling.clone());
    let counts_hot = (plan.table.kind == "r" || run.leaves.is_some()) && plan.server.counts;
    let lists_by_index = plan.key.lists_by_index();
    let (sql, walk) = plan.into_chunk_sql();
    let work = Work {
        database: ctx.database.clone(),
        store: Arc::new(ctx.store.clone()),
        session: run.session.clone(),
        run_id: run.run_id,
        epoch,
        ceiling: match Guard::Ceiling.is_out() {
            true => table_ceiling,
            false => run.ceiling.clone(),
        },
        leaves: run.leaves.clone(),
        small_leaves,
        table,
        counts_hot,
        sql: Arc::new(sql),
        walk: walk.map(Arc::new),
        lists_by_index,
        sweep_comes_first: run.is_reverse() && run.walk_before.is_some(),
        has_quarantine: quarantined > 0,
        caution: Arc::default(),
    };
    let stop = watch_signals()?;
    let outcome = Dispatcher::new(work, start, pace, lock, stop, &mut *listener).run().await;
    drop(listener);
    tell_end(ctx, &run, outcome).await
}

/// First signal drains, the second cancels on the server.
pub(super) fn watch_signals() -> Result<watch::Receiver<Stop>, Failure> {
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
