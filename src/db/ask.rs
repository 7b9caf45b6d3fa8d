//! Whose names a statement is resolved by.
//!
//! A statement of this program's own asks the catalogs or the state tables. Were it resolved by the session's `search_path`, a function or
//! an operator that another role has planted in one of its schemas would be called with this program's rights wherever its arguments fit
//! better than those in `pg_catalog` do. So it is resolved in `pg_catalog` alone. A session-level setting would stay behind in a
//! transaction pooler; it is set inside the statement's own transaction, and all of it travels at once.
//!
//! A statement with SQL of the author in it is resolved as the author's. What this program adds to it is qualified.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

use crate::mutation::Guard;

/// A parameter and its type.
pub type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// What names are resolved by in statements of this program's own. Temporary tables, which are otherwise found first, come last.
const OWN_PATH: &str = "SET LOCAL search_path = pg_catalog, pg_temp";

/// Runs a statement of our own on a connection with no open transaction, as a transaction of its own.
pub async fn ask(client: &Client, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
    ask_apart(client, &begin_own(""), sql, params).await
}

/// Runs a statement as a transaction of its own, begun as is said. All of it travels at once.
pub async fn ask_apart(
    client: &Client,
    begin: &str,
    sql: &str,
    params: &[Param<'_>],
) -> Result<Vec<Row>, Error> {
    let (begun, rows, ended) = tokio::join!(
        biased;
        client.batch_execute(begin),
        ask_as_is(client, sql, params),
        client.batch_execute("COMMIT")
    );
    begun?;
    let rows = rows?;
    ended.map(|()| rows)
}

/// What begins a transaction of our own, with further settings: `SET LOCAL …; `.
pub fn begin_own(settings: &str) -> String {
    let path = if Guard::OwnPath.is_out() { "" } else { OWN_PATH };
    // Whatever the role's default is: they are written for this one.
    format!("BEGIN ISOLATION LEVEL READ COMMITTED; {settings}{path}")
}

/// Runs a statement of our own within the open transaction, whose `search_path` it leaves as it was.
pub async fn ask_within(
    client: &Client,
    sql: &str,
    params: &[Param<'_>],
) -> Result<Vec<Row>, Error> {
    let enter = "SELECT pg_catalog.set_config('backfill.search_path', pg_catalog.current_setting('search_path'), true),
                        pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)";
    let leave = "SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('backfill.search_path'), true)";
    let (entered, rows, left) = tokio::join!(
        biased;
        client.batch_execute(enter),
        ask_as_is(client, sql, params),
        client.batch_execute(leave)
    );
    entered?;
    let rows = rows?;
    left.map(|()| rows)
}

/// Runs a statement by the `search_path` in force: one with SQL of the author in it, or one that is qualified to the last operator.
#[expect(clippy::disallowed_methods, reason = "the one place that statements are sent from")]
pub async fn ask_as_is(
    client: &Client,
    sql: &str,
    params: &[Param<'_>],
) -> Result<Vec<Row>, Error> {
    client.query_typed(sql, params).await
}

/// As [`ask_as_is`], for one that only writes: how many rows.
#[expect(clippy::disallowed_methods, reason = "the one place that statements are sent from")]
pub async fn write_as_is(client: &Client, sql: &str, params: &[Param<'_>]) -> Result<u64, Error> {
    client.execute_typed(sql, params).await
}

/// The table or index that a name of the author stands for.
pub async fn find_relation(client: &Client, name: &str) -> Result<Option<u32>, Error> {
    let sql = "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid";
    let rows = ask_as_is(client, sql, &[(&name, Type::TEXT)]).await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}

/// The schemas in which the session looks for names, in their order; `pg_catalog` is among them.
pub async fn schemas_in_path(client: &Client) -> Result<Vec<String>, Error> {
    let rows = ask_as_is(client, "SELECT pg_catalog.current_schemas(true)", &[]).await?;
    Ok(rows.first().map(|row| row.get(0)).unwrap_or_default())
}
