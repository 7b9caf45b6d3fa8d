//! Runs statements on a scratch database and sees what each does: the locks it takes on what was there before, and what the catalogs say
//! afterwards. No reading of the SQL could tell that as well: it sees through DO blocks, functions and defaults.

use std::collections::BTreeSet;

use serde::Serialize;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use super::class::Outside;
use super::facts::{Change, Facts};
use super::file::Statement;
use super::unit::Kind;
use crate::db;
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

/// Runs statements that share a transaction for good, and tells what each did to the tables in `old`; with the number of the one that
/// fails.
pub async fn observe(
    client: &Client,
    state_schema: &Ident,
    (statements, kind): (&[Statement], &Kind),
    old: &BTreeSet<u32>,
) -> Result<Vec<Observed>, (usize, Error)> {
    let around = |error| (0, error);
    if let Kind::Outside(outside) = kind {
        let before = Facts::read(client, state_schema).await.map_err(around)?;
        client.batch_execute(&statements[0].text).await.map_err(around)?;
        let after = Facts::read(client, state_schema).await.map_err(around)?;
        let locks = outside_locks(client, outside).await.map_err(around)?;
        return Ok(vec![Observed { locks, changes: before.changes(&after, old) }]);
    }
    client.batch_execute("BEGIN").await.map_err(around)?;
    let mut all = Vec::new();
    let mut held: BTreeSet<(u32, String)> = BTreeSet::new();
    for (i, statement) in statements.iter().enumerate() {
        match observe_one(client, state_schema, statement, (old, &mut held)).await {
            Ok(observed) => all.push(observed),
            Err(error) => {
                client.batch_execute("ROLLBACK").await.map_err(around)?;
                return Err((i, error));
            }
        }
    }
    client.batch_execute("COMMIT").await.map_err(|error| (statements.len() - 1, error))?;
    Ok(all)
}

async fn observe_one(
    client: &Client,
    state_schema: &Ident,
    statement: &Statement,
    (old, held): (&BTreeSet<u32>, &mut BTreeSet<(u32, String)>),
) -> Result<Observed, Error> {
    let before = Facts::read(client, state_schema).await?;
    client.batch_execute(&statement.text).await?;
    let sql = "select l.relation, l.mode from pg_catalog.pg_locks l
                where l.pid = pg_catalog.pg_backend_pid() and l.locktype = 'relation' and l.granted";
    let mut locks = Vec::new();
    for row in db::ask_as_is(client, sql, &[]).await? {
        let (oid, mode): (u32, String) = (row.get(0), row.get(1));
        // Those of the statements before it are theirs.
        if held.insert((oid, mode.clone()))
            && let Some(name) = before.name(oid).filter(|_| old.contains(&oid))
        {
            locks.push((name.to_owned(), mode));
        }
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
    let rows = db::ask_as_is(client, sql, &[(table, Type::TEXT)]).await?;
    Ok(rows.iter().map(|row| (row.get(0), "ShareUpdateExclusiveLock".to_owned())).collect())
}
