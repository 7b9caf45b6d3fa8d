//! Who is in the way of a lock: looked for before a statement queues for it, because what queues behind it is the application.

use serde::Serialize;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

use super::class::Asks;
use crate::db;

/// A session, or a prepared transaction, that holds a lock in conflict with the one that is wanted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Blocker {
    /// The backend's process; none for a prepared transaction.
    pub pid: Option<i32>,
    /// The role.
    pub user: String,
    /// What the client calls itself, or the kind of backend.
    pub application: String,
    /// `active`, `idle in transaction`, …
    pub state: String,
    /// Seconds since its transaction began.
    pub age_s: f64,
    /// The relation it holds.
    pub relation: String,
    /// In which mode.
    pub mode: String,
    /// The beginning of its query.
    pub query: String,
    /// Whether it is an autovacuum that gives way to anybody who waits for it; one against wraparound does not.
    pub gives_way: bool,
}

/// A transaction older than this is not about to end: nothing queues behind it. Younger ones are waited for, shortly.
const OLD: f64 = 1.0;

/// Modes that conflict with a mode, as `pg_locks` spells them.
fn conflicting(mode: &str) -> &'static [&'static str] {
    const ALL: [&str; 8] = [
        "AccessExclusiveLock",
        "ExclusiveLock",
        "ShareRowExclusiveLock",
        "ShareLock",
        "ShareUpdateExclusiveLock",
        "RowExclusiveLock",
        "RowShareLock",
        "AccessShareLock",
    ];
    const SHARE: [&str; 5] = [
        "AccessExclusiveLock",
        "ExclusiveLock",
        "ShareRowExclusiveLock",
        "ShareUpdateExclusiveLock",
        "RowExclusiveLock",
    ];
    match mode {
        "SHARE UPDATE EXCLUSIVE" => &ALL[..5],
        "SHARE ROW EXCLUSIVE" => &ALL[..6],
        "SHARE" => &SHARE,
        _ => &ALL,
    }
}

/// A table that statements are going to lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its identity.
    pub oid: u32,
    /// `schema.name`, quoted.
    pub name: String,
    /// As in `LOCK TABLE`.
    pub mode: &'static str,
    /// Whether `LOCK TABLE` takes it.
    pub is_table: bool,
}

/// The table that a statement asks for, if it exists.
pub async fn target(client: &Client, asks: &Asks) -> Result<Option<Target>, Error> {
    // An index is locked through its table.
    let sql = "select t.oid, format('%I.%I', n.nspname, t.relname), t.relkind in ('r', 'p')
                 from pg_catalog.pg_class c
                 left join pg_catalog.pg_index i on i.indexrelid = c.oid
                 join pg_catalog.pg_class t on t.oid = coalesce(i.indrelid, c.oid)
                 join pg_catalog.pg_namespace n on n.oid = t.relnamespace
                where c.oid = $1";
    let Some(oid) = db::find_relation(client, &asks.table).await? else { return Ok(None) };
    let rows = db::ask(client, sql, &[(&oid, Type::OID)]).await?;
    Ok(rows.first().map(|row| Target {
        oid: row.get(0),
        name: row.get(1),
        mode: asks.mode,
        is_table: row.get(2),
    }))
}

/// The columns of a [`Blocker`], from a lock `l`.
const COLUMNS: &str = "l.pid, coalesce(a.usename::text, p.owner::text, 'the server'),
       case when l.pid is null then 'prepared transaction ' || coalesce(p.gid, '?')
            when a.backend_type <> 'client backend' then a.backend_type
            else coalesce(nullif(a.application_name, ''), 'client') end,
       coalesce(a.state, case when l.pid is null then 'prepared' else 'active' end),
       coalesce(extract(epoch from clock_timestamp() - coalesce(a.xact_start, p.prepared)), 0)::float8,
       coalesce(l.relation::regclass::text, l.locktype), l.mode,
       coalesce(left(regexp_replace(a.query, '\\s+', ' ', 'g'), 60), ''),
       coalesce(a.backend_type = 'autovacuum worker' and a.query not like '%to prevent wraparound%', false)";

/// Where they come from.
const SOURCES: &str = "pg_catalog.pg_locks l
       left join pg_catalog.pg_stat_activity a on a.pid = l.pid
       left join pg_catalog.pg_locks x on l.pid is null and x.pid is null and x.locktype = 'transactionid'
                                      and x.virtualtransaction = l.virtualtransaction
       left join pg_catalog.pg_prepared_xacts p on p.transaction = x.transactionid";

fn blocker(row: &Row) -> Blocker {
    Blocker {
        pid: row.get(0),
        user: row.get(1),
        application: row.get(2),
        state: row.get(3),
        age_s: row.get(4),
        relation: row.get(5),
        mode: row.get(6),
        query: row.get(7),
        gives_way: row.get(8),
    }
}

/// Who holds a conflicting lock on these tables; the oldest first. Only those that are not about to end, when `old_only`.
pub async fn blockers(
    client: &Client,
    targets: &[Target],
    old_only: bool,
) -> Result<Vec<Blocker>, Error> {
    let mut found = Vec::new();
    for target in targets {
        let sql = format!(
            "select {COLUMNS} from {SOURCES}
              where l.granted and l.locktype = 'relation' and l.relation = $1 and l.mode = any ($2)
                and l.pid is distinct from pg_backend_pid()
                and l.database = (select oid from pg_catalog.pg_database where datname = current_database())"
        );
        let modes = conflicting(target.mode);
        let params: [(&(dyn ToSql + Sync), Type); 2] =
            [(&target.oid, Type::OID), (&modes, Type::TEXT_ARRAY)];
        found.extend(db::ask(client, &sql, &params).await?.iter().map(blocker));
    }
    found.retain(|blocker| !old_only || blocker.age_s >= OLD);
    found.sort_by(|a, b| b.age_s.total_cmp(&a.age_s));
    Ok(found)
}

/// Who keeps a backend waiting at this moment, each by one of its locks.
pub async fn holding_up(client: &Client, pid: i32) -> Result<Vec<Blocker>, Error> {
    let sql = format!(
        "select distinct on (l.pid) {COLUMNS} from {SOURCES}
          where l.granted and l.pid = any (pg_blocking_pids($1))
          order by l.pid, l.relation in (select w.relation from pg_catalog.pg_locks w where w.pid = $1 and not w.granted) desc nulls last"
    );
    Ok(db::ask(client, &sql, &[(&pid, Type::INT4)]).await?.iter().map(blocker).collect())
}

/// Does what the server would do for a statement that waits a second for an autovacuum, without keeping the application waiting that
/// long: the autovacuum ends, and comes again later. Without the privilege it is waited for.
pub async fn ask_to_give_way(client: &Client, blockers: &[Blocker]) {
    for pid in blockers.iter().filter(|blocker| blocker.gives_way).filter_map(|blocker| blocker.pid)
    {
        let _ =
            db::ask(client, "select pg_catalog.pg_cancel_backend($1)", &[(&pid, Type::INT4)]).await;
    }
}

impl Blocker {
    /// In one line.
    pub fn show(&self) -> String {
        let who = match self.pid {
            Some(pid) => format!("process {pid} ({}, {})", self.user, self.application),
            None => format!("{} ({})", self.application, self.user),
        };
        let age = crate::event::duration(std::time::Duration::from_secs_f64(self.age_s.max(0.0)));
        format!(
            "{who}, {} for {age}, holds {} on {}: {}",
            self.state, self.mode, self.relation, self.query
        )
    }
}
