//! Taking a run's lock, and taking it away from a runner that is stuck.

use std::time::Duration;

use deadpool_postgres::Object;
use tokio_postgres::types::Type;

use super::context::{Context, host};
use super::failure::{Failure, statement};
use crate::db;
use crate::db::lock::{self, Attempt, RunLock};
use crate::mutation::Guard;
use crate::state::Run;

/// How often the lock of a runner whose process is known to be gone is tried, a tenth of a second apart: five seconds, which a busy
/// server may need to notice; longer than that it is another session that holds the lock.
const DEAD_TRIES: u32 = 50;

/// The run's lock; taken from its holder when asked to.
pub(crate) async fn acquire(
    ctx: &Context,
    client: &Object,
    run: &Run,
    take_over: bool,
) -> Result<RunLock, Failure> {
    let mut key = ctx.store.run_lock(run.run_id);
    if Guard::SingleRunner.is_out() {
        key.object = std::process::id() as i32;
    }
    let mut tries = 0;
    loop {
        let holder = match lock::try_acquire(&ctx.database, key).await? {
            Attempt::Held(lock) => return Ok(*lock),
            Attempt::Taken(holder) => holder,
        };
        // A runner that died a moment ago: its backend needs that moment to notice.
        if !take_over && tries < DEAD_TRIES && !is_runner_alive_here(run) {
            tries += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        if !take_over || tries >= 20 {
            return Err(held(run, holder));
        }
        tries += 1;
        let chunks = ctx.store.chunk_lock(run.run_id);
        let ended = "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_locks
                      where locktype = 'advisory' and objsubid = 2 and pid <> pg_catalog.pg_backend_pid()
                        and database = (select oid from pg_catalog.pg_database where datname = current_database())
                        and ((classid::bigint = ($1::bigint & 4294967295) and objid::bigint = $3::bigint)
                          or (classid::bigint = ($2::bigint & 4294967295) and objid::bigint = $3::bigint))";
        let (class, chunk_class, object) =
            (i64::from(key.class), i64::from(chunks.class), i64::from(key.object));
        let params: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
            [(&class, Type::INT8), (&chunk_class, Type::INT8), (&object, Type::INT8)];
        db::ask(client, ended, &params)
            .await
            .map_err(statement("end the sessions of the runner that holds the run"))?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether the last runner was on this host and its process still exists.
fn is_runner_alive_here(run: &Run) -> bool {
    run.runner.as_ref().is_some_and(|(runner, pid)| {
        *runner != host() || nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), None).is_ok()
    })
}

fn held(run: &Run, backend: Option<i32>) -> Failure {
    let name = &run.name;
    let by = match &run.runner {
        Some((host, pid)) => format!("process {pid} on {host}"),
        None => "another runner".to_owned(),
    };
    let backend = backend.map(|pid| format!(" (backend {pid})")).unwrap_or_default();
    Failure::refused(format!("run {} of {name} is at work: {by}{backend} holds it", run.run_id)).hint(format!(
        "watch it with `backfill status {name} --watch`, stop it with `backfill pause {name}`; if that process is \
         stuck, take the run over with `backfill resume {name} --take-over`"
    ))
}
