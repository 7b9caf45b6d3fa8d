//! What a command needs that changes the schema: a session of its own, another that looks on, and the lock of schema steps.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Object;
use tokio::sync::watch;

use super::super::context::Context;
use super::super::drive::watch_signals;
use super::super::failure::{Failure, Kind, statement};
use super::super::say;
use crate::db;
use crate::db::lock::{self, Attempt, RunLock, is_pooled};
use crate::engine::Stop;
use crate::migrate::patience::Patience;

/// Connections, lock and ear for one command.
pub(super) struct Session {
    /// Runs statements.
    pub client: Object,
    /// Its backend's process.
    pub pid: i32,
    /// Looks on.
    pub watch: Object,
    /// How long a lock is tried for.
    pub budget: Duration,
    /// Whether somebody wants it to end.
    pub stop: watch::Receiver<Stop>,
    lock: RunLock,
}

impl Session {
    /// Connects and takes the lock of schema steps, within the budget.
    pub(super) async fn open(ctx: &Context, budget: Duration) -> Result<Session, Failure> {
        let database = ctx.database.apart(2)?;
        let client = database.get().await?;
        if is_pooled(&ctx.database, &client).await? {
            return Err(Failure::refused("a transaction pooler stands in between, and schema steps need a session of their own")
                .hint("give the server's own address: backfill migrate … --url postgresql://…"));
        }
        let watch = database.get().await?;
        let rows = db::ask(&client, "select pg_catalog.pg_backend_pid()", &[]).await;
        let pid = rows.map_err(statement("ask for the backend's process"))?[0].get(0);
        ctx.store.install(&watch).await?;
        let lock = take_lock(ctx, &watch, Patience::new(budget)).await?;
        let stop = watch_signals()?;
        cancel_on_second(ctx, &client, stop.clone());
        Ok(Session { client, pid, watch, budget, stop, lock })
    }

    /// Whether the command was asked to end.
    pub(super) fn is_stopped(&self) -> bool {
        *self.stop.borrow() != Stop::No
    }

    /// Whether the lock is still held.
    pub(super) fn is_alone(&self) -> bool {
        self.lock.is_alive()
    }

    /// Gives the lock back.
    pub(super) fn close(self) {
        self.lock.release();
    }
}

/// Polls: a session that waits for an advisory lock holds a snapshot, which CREATE INDEX CONCURRENTLY waits for in turn.
async fn take_lock(ctx: &Context, watch: &Object, patience: Patience) -> Result<RunLock, Failure> {
    let key = ctx.store.migrate_lock();
    let mut tries = 0;
    loop {
        let holder = match lock::try_acquire(&ctx.database, key).await? {
            Attempt::Held(lock) => return Ok(*lock),
            Attempt::Taken(holder) => holder,
        };
        let who = describe(watch, holder).await;
        if tries == 0 {
            say(&format!("waiting: {who} is changing the schema"));
        }
        tries += 1;
        let Some(pause) = patience.pause(tries.min(4)) else {
            return Err(Failure::new(Kind::TryAgain, format!("{who} is changing the schema"))
                .hint(
                    "try again when it is done; `backfill migrate current` shows how far it is",
                ));
        };
        tokio::time::sleep(pause).await;
    }
}

async fn describe(client: &Object, pid: Option<i32>) -> String {
    let Some(pid) = pid else { return "another runner".to_owned() };
    let sql =
        "select format('process %s (%s, %s)', pid, usename, coalesce(client_addr::text, 'local'))
                 from pg_catalog.pg_stat_activity where pid = $1";
    let rows = db::ask(client, sql, &[(&pid, tokio_postgres::types::Type::INT4)])
        .await
        .unwrap_or_default();
    rows.first().map_or_else(|| format!("process {pid}"), |row| row.get(0))
}

/// The second signal cancels the statement in flight on the server; the first only keeps the next from beginning.
fn cancel_on_second(ctx: &Context, client: &Object, mut stop: watch::Receiver<Stop>) {
    let (token, database) = (client.cancel_token(), Arc::new(ctx.database.clone()));
    tokio::spawn(async move {
        while stop.changed().await.is_ok() {
            if *stop.borrow() == Stop::Cancel {
                let _ = database.cancel(&token).await;
            }
        }
    });
}
