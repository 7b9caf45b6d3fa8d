//! What a long statement is doing, seen from another connection.

use std::time::Duration;

use crate::db;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// Between two looks.
pub const EVERY: Duration = Duration::from_secs(1);

/// How far the statement of a backend is, and whom it waits for; none when there is nothing to say.
pub async fn look(client: &Client, pid: i32) -> Option<String> {
    let sql = "select coalesce(a.wait_event_type, ''), pg_catalog.pg_blocking_pids(a.pid),
                      p.phase, coalesce(p.blocks_done, 0)::float8 / nullif(p.blocks_total, 0)
                 from pg_catalog.pg_stat_activity a
                 left join pg_catalog.pg_stat_progress_create_index p on p.pid = a.pid
                where a.pid = $1";
    let rows = db::ask(client, sql, &[(&pid, Type::INT4)]).await.ok()?;
    let row = rows.first()?;
    let blocking: Vec<i32> = row.get(1);
    let phase: Option<String> = row.get(2);
    let done: Option<f64> = row.get(3);
    let mut said = Vec::new();
    if let Some(phase) = phase {
        said.push(match done {
            Some(done) => format!("{phase}, {:.0} %", done * 100.0),
            None => phase,
        });
    }
    if row.get::<_, &str>(0) == "Lock" && !blocking.is_empty() {
        said.push(format!("waits for {}", names(client, &blocking).await.join("; ")));
    }
    (!said.is_empty()).then(|| said.join("; "))
}

async fn names(client: &Client, pids: &[i32]) -> Vec<String> {
    let sql = "select format('process %s (%s, %s), %s for %s s', a.pid, a.usename, nullif(a.application_name, ''), a.state,
                             round(extract(epoch from clock_timestamp() - a.xact_start)))
                 from pg_catalog.pg_stat_activity a where a.pid = any ($1)";
    let rows = db::ask(client, sql, &[(&pids, Type::INT4_ARRAY)]).await.unwrap_or_default();
    rows.iter().map(|row| row.get(0)).collect()
}
