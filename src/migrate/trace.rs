//! Runs statements on a scratch database and sees what each does: the locks it takes on what was there before, and what the catalogs say
//! afterwards. No reading of the SQL could tell that as well: it sees through DO blocks, functions and defaults.

use std::collections::BTreeSet;

use serde::Serialize;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use super::class::{Outside, Way};
use super::facts::{Change, Facts};
use super::file::Statement;
use crate::sql::Ident;

/// What a statement did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// The strongest lock on each table that was there before its revision, strongest first.
    pub locks: Vec<(String, String)>,
    /// What it changed of those tables.
    pub changes: Vec<Change>,
}

/// Table locks from the weakest to the strongest, as `pg_locks` spells them.
const STRENGTH: [&str; 8] = [
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
];

/// How strong a lock is; the stronger the greater.
pub fn strength(mode: &str) -> usize {
    STRENGTH.iter().position(|known| *known == mode).unwrap_or(0)
}

/// The weakest lock that keeps an application from writing.
pub fn blocks_writes(mode: &str) -> bool {
    strength(mode) >= strength("ShareLock")
}

/// Runs a statement for good, and tells what it did to the tables in `old`.
pub async fn observe(
    client: &Client,
    state_schema: &Ident,
    statement: &Statement,
    old: &BTreeSet<u32>,
) -> Result<Observed, Error> {
    let before = Facts::read(client, state_schema).await?;
    let mut locks = Vec::new();
    if let Way::Outside(outside) = &statement.way {
        client.batch_execute(&statement.text).await?;
        locks = outside_locks(client, outside).await?;
    } else {
        client.batch_execute("BEGIN").await?;
        let ran = client.batch_execute(&statement.text).await;
        if let Err(error) = ran {
            client.batch_execute("ROLLBACK").await?;
            return Err(error);
        }
        let sql = "select l.relation, l.mode from pg_catalog.pg_locks l
                    where l.pid = pg_catalog.pg_backend_pid() and l.locktype = 'relation' and l.granted";
        for row in client.query_typed(sql, &[]).await? {
            let (oid, mode): (u32, String) = (row.get(0), row.get(1));
            if let Some(name) = before.name(oid).filter(|_| old.contains(&oid)) {
                locks.push((name.to_owned(), mode));
            }
        }
        client.batch_execute("COMMIT").await?;
    }
    let after = Facts::read(client, state_schema).await?;
    locks.sort_by(|a, b| strength(&b.1).cmp(&strength(&a.1)).then(a.0.cmp(&b.0)));
    let mut seen = BTreeSet::new();
    locks.retain(|(table, _)| seen.insert(table.clone()));
    Ok(Observed { locks, changes: before.changes(&after, old) })
}

/// What statements outside of a transaction hold while they are at work.
async fn outside_locks(client: &Client, outside: &Outside) -> Result<Vec<(String, String)>, Error> {
    let (Outside::CreateIndex { table, .. } | Outside::Detach { table, .. }) = outside else {
        return Ok(Vec::new());
    };
    let sql = "select n.nspname || '.' || c.relname from pg_catalog.pg_class c
                 join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass($1)";
    let rows = client.query_typed(sql, &[(table, Type::TEXT)]).await?;
    Ok(rows.iter().map(|row| (row.get(0), "ShareUpdateExclusiveLock".to_owned())).collect())
}
