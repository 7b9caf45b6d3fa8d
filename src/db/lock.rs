//! The run's courtesy lock: who is running this, and is anybody.
//!
//! An advisory lock keeps two runners from working on one run by mistake and lets any session see, in `pg_locks`, whether a run
//! is alive. Exactness never rests on it: chunks are claimed by their own rows under the run's epoch.
//!
//! A direct connection holds it for the session. Behind a transaction pooler a session lock would stay behind on a server
//! connection that somebody else uses next, so there it is held by a transaction kept open; the pooler ends that transaction
//! when the runner disappears.

use deadpool_postgres::Object;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use super::{ConnectError, Database};

/// The advisory lock's two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockKey {
    /// From the state schema's name, so that two schemas in a database do not meet.
    pub class: i32,
    /// The run's number.
    pub object: i32,
}

/// A held lock. Its connection is outside the pool's circulation until it is dropped.
pub struct RunLock {
    connection: Object,
    is_pooled: bool,
}

/// Whether the lock was to be had.
pub enum Attempt {
    /// It is ours.
    Held(Box<RunLock>),
    /// Another session has it: its backend's process id.
    Taken(Option<i32>),
}

/// Tries to take the lock, without waiting.
pub async fn try_acquire(database: &Database, key: LockKey) -> Result<Attempt, AcquireError> {
    let connection = database.get().await?;
    let is_pooled = is_pooled(database, &connection).await?;
    if is_pooled {
        connection
            .batch_execute(
                "BEGIN; SELECT pg_catalog.set_config(name, '0', true) FROM pg_catalog.pg_settings
                         WHERE name OPERATOR(pg_catalog.=) ANY (ARRAY['idle_in_transaction_session_timeout', 'transaction_timeout'])",
            )
            .await?;
    }
    let asked = ask(&connection, is_pooled, key).await;
    match asked {
        Ok(Asked::Held) => Ok(Attempt::Held(Box::new(RunLock { connection, is_pooled }))),
        Ok(Asked::Taken(holder)) => {
            super::roll_back(connection).await;
            Ok(Attempt::Taken(holder))
        }
        Err(error) => {
            super::roll_back(connection).await;
            Err(error.into())
        }
    }
}

enum Asked {
    Held,
    Taken(Option<i32>),
}

async fn ask(client: &Client, is_pooled: bool, key: LockKey) -> Result<Asked, Error> {
    // Qualified, because what a session locks outlives a transaction and what a transaction locks does not.
    let function = if is_pooled { "pg_try_advisory_xact_lock" } else { "pg_try_advisory_lock" };
    let sql = format!("select pg_catalog.{function}($1, $2)");
    let rows = super::ask_as_is(client, &sql, &params(&key)).await?;
    if rows.first().is_some_and(|row| row.get(0)) {
        return Ok(Asked::Held);
    }
    Ok(Asked::Taken(find_holder(client, key, is_pooled).await?))
}

/// Why the lock could not even be tried.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A statement failed.
    #[error("take the run's lock")]
    Statement(#[from] Error),
}

/// The backend that holds a lock of class $1 and object $2; needs no privilege.
const HOLDER: &str = "select pid from pg_catalog.pg_locks where locktype = 'advisory' and granted \
               and database = (select oid from pg_catalog.pg_database where datname = current_database()) \
               and classid::bigint = ($1::bigint & 4294967295) and objid::bigint = $2::bigint and objsubid = 2 \
               and mode = 'ExclusiveLock'";

/// The backend that holds the lock, if any.
pub async fn holder(client: &Client, key: LockKey) -> Result<Option<i32>, Error> {
    find_holder(client, key, false).await
}

/// The same, within the open transaction or as one.
async fn find_holder(client: &Client, key: LockKey, is_within: bool) -> Result<Option<i32>, Error> {
    let (class, object) = (i64::from(key.class), i64::from(key.object));
    let params: [super::Param<'_>; 2] = [(&class, Type::INT8), (&object, Type::INT8)];
    let rows = match is_within {
        true => super::ask_within(client, HOLDER, &params).await?,
        false => super::ask(client, HOLDER, &params).await?,
    };
    Ok(rows.first().map(|row| row.get(0)))
}

impl RunLock {
    /// Whether the connection that carries the lock still stands.
    pub fn is_alive(&self) -> bool {
        !self.connection.is_closed()
    }

    /// Whether a transaction pooler stood between us and the server when it was taken.
    pub fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    /// Gives the lock back by closing its connection, which also ends the transaction behind a pooler.
    pub fn release(self) {
        drop(Object::take(self.connection));
    }
}

/// Looks that must agree on a direct connection. Behind a busy pooler another client may take and give back a backend between two
/// questions, so that one look alone could miss it.
const LOOKS: u32 = 3;

/// Whether a transaction pooler stands between us and the server: two client connections that share a backend, or one that
/// changes it, prove it. On a direct connection neither can happen.
pub async fn is_pooled(database: &Database, first: &Client) -> Result<bool, AcquireError> {
    for _ in 0..LOOKS {
        let before = backend(first).await?;
        let second = database.get().await?;
        let looked = look(first, &second).await;
        // Whatever came of it, the pool must not get a connection back with a transaction open.
        super::roll_back(second).await;
        let (other, after) = looked?;
        if before == other || before != after {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The backend of `second`, inside a transaction, and that of `first` meanwhile.
async fn look(first: &Client, second: &Client) -> Result<(i32, i32), Error> {
    second.batch_execute("BEGIN").await?;
    Ok((backend(second).await?, backend(first).await?))
}

async fn backend(client: &Client) -> Result<i32, Error> {
    let rows = super::ask_as_is(client, "select pg_catalog.pg_backend_pid()", &[]).await?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}

fn params(key: &LockKey) -> [super::Param<'_>; 2] {
    [(&key.class, Type::INT4), (&key.object, Type::INT4)]
}
