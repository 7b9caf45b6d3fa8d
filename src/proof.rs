//! Proof from the data that nothing is left to do: at once where an index or a constraint helps or the key's order is not that of the heap,
//! else in slices of the key.

use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use crate::db;
use crate::db::error::sqlstate;
use crate::db::session::Bounds;
use crate::key::{Bound, KeyRange};
use crate::plan::{Plan, reads_nothing, rehearse};

/// Key entries looked at in one statement: a second or so of reading, so that no snapshot is held for long.
const SLICE: i64 = 100_000;

/// Keys of rows left that are shown.
pub const SHOWN: usize = 5;

/// For how long one query over the whole table is tried before it is cut in slices: an index on what is left answers within it.
const AT_ONCE: Duration = Duration::from_secs(5);

/// The same for a table whose key's order is not that of the heap. By key it would be read a page for each row, which takes a hundred times
/// as long; so a snapshot is held meanwhile.
const AS_A_WHOLE: Duration = Duration::from_secs(600);

/// The same for a table without a key, which cannot be looked at in slices: rows move, and between two looks they would not be met.
const WITHOUT_KEY: Duration = Duration::from_secs(12 * 3600);

/// Of one slice; it reads a hundred thousand rows.
const OF_A_SLICE: Duration = Duration::from_secs(300);

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Key entries looked at.
    pub keys: i64,
    /// Rows left to do.
    pub remaining: i64,
    /// Keys of some of them.
    pub examples: Vec<String>,
}

/// Whether a row is left to do: the first one found ends the search.
pub async fn is_left(client: &Client, plan: &Plan, remaining: &str) -> Result<bool, Error> {
    let at_once = match plan.key.is_places() {
        true => WITHOUT_KEY,
        false if plan.is_slow_by_key() => AS_A_WHOLE,
        false => AT_ONCE,
    };
    let bounds = Bounds { lock: AT_ONCE, statement: at_once, is_durable: true };
    plan.session.begin_read_only(client, bounds).await?;
    // Here reading the table from its beginning may well be the fastest way to a row.
    client
        .batch_execute("SET LOCAL enable_seqscan = on; SET LOCAL constraint_exclusion = on")
        .await?;
    let sql = format!("SELECT 1 {} WHERE {remaining} LIMIT 1", plan.from_sql);
    let asked = db::ask_as_is(client, &sql, &[]).await;
    client.batch_execute("ROLLBACK").await?;
    match asked {
        Ok(rows) => Ok(!rows.is_empty()),
        Err(error) if sqlstate(&error) == Some("57014") && !plan.key.is_places() => {
            Ok(in_slices(client, plan, remaining, true).await?.remaining > 0)
        }
        Err(error) => Err(error),
    }
}

/// Whether constraints in force rule out that a row is left to do: then the server plans to read nothing.
pub async fn is_ruled_out(client: &Client, plan: &Plan, remaining: &str) -> Result<bool, Error> {
    let sql = format!("SELECT 1 {} WHERE {remaining}", plan.from_sql);
    reads_nothing(client, &plan.session, &sql).await
}

/// Looks at the whole table, in slices of the key where it cannot be read as a whole; then, if asked, only to the first slice with a row
/// left.
pub async fn walk(
    client: &Client,
    plan: &Plan,
    remaining: &str,
    to_first: bool,
) -> Result<Findings, Error> {
    if (plan.is_slow_by_key() || plan.key.is_places())
        && let Some(findings) = as_a_whole(client, plan, remaining).await?
    {
        return Ok(findings);
    }
    in_slices(client, plan, remaining, to_first).await
}

/// Reads the table from its first page to its last; none where that takes too long.
async fn as_a_whole(
    client: &Client,
    plan: &Plan,
    remaining: &str,
) -> Result<Option<Findings>, Error> {
    let Some(ceiling) = plan.ceiling.clone() else { return Ok(None) };
    let statement = if plan.key.is_places() { WITHOUT_KEY } else { AS_A_WHOLE };
    let bounds = Bounds { lock: AT_ONCE, statement, is_durable: true };
    let range = KeyRange::new(None, ceiling);
    let table = &plan.table.name;
    let all = plan.key.range_sql(&table.name, range.form(), 1);
    let rows = format!("SELECT count(*) FROM {table} WHERE {all}");
    let left = left_sql(plan, &all, remaining);
    let params = rehearse::params(&range);
    let bind = rehearse::typed(&params);
    plan.session.begin_read_only(client, bounds).await?;
    client.batch_execute("SET LOCAL enable_seqscan = on").await?;
    let read = async {
        let rows = db::ask_as_is(client, &rows, &bind).await?;
        Ok::<_, Error>((rows, db::ask_as_is(client, &left, &bind).await?))
    };
    let read = read.await;
    client.batch_execute("ROLLBACK").await?;
    match read {
        Ok((rows, left)) => Ok(Some(Findings {
            keys: rows.first().map_or(0, |row| row.get(0)),
            remaining: left.first().map_or(0, |row| row.get(0)),
            examples: left.first().and_then(|row| row.get(1)).unwrap_or_default(),
        })),
        Err(error) if sqlstate(&error) == Some("57014") && !plan.key.is_places() => Ok(None),
        Err(error) => Err(error),
    }
}

/// How many rows of a range are left to do, and the keys of some.
fn left_sql(plan: &Plan, range: &str, remaining: &str) -> String {
    let key = plan.key.array_sql(&plan.table.name.name);
    // A join may show a row several times; it is still one row.
    let distinct = if plan.sql.ambiguous.is_some() { "DISTINCT " } else { "" };
    format!(
        "SELECT count(*), pg_catalog.array_agg(pg_catalog.array_to_string(k, ', ')) FILTER (WHERE place <= {SHOWN}) \
         FROM (SELECT k, row_number() OVER () AS place FROM (SELECT {distinct}{key} AS k {} WHERE {range} AND ({remaining})) AS found) AS rest",
        plan.from_sql
    )
}

async fn in_slices(
    client: &Client,
    plan: &Plan,
    remaining: &str,
    to_first: bool,
) -> Result<Findings, Error> {
    let mut findings = Findings::default();
    let Some(ceiling) = plan.ceiling.clone() else { return Ok(findings) };
    let table = &plan.table.name.name;
    let bounds = Bounds { lock: Duration::from_secs(5), statement: OF_A_SLICE, is_durable: true };
    let mut after: Option<Bound> = None;
    loop {
        let range = KeyRange::new(after.clone(), ceiling.clone());
        plan.session.begin_read_only(client, bounds).await?;
        let params = rehearse::params(&range);
        let mut bind = rehearse::typed(&params);
        bind.push((&SLICE, Type::INT8));
        let stretch = plan.sql.stretch.get(range.form());
        bind.push((&1_i64, Type::INT8));
        let whole = db::ask_as_is(client, plan.sql.boundaries.get(range.form()), &bind).await?;
        bind.pop();
        let (upto, keys, is_last) = match whole.first() {
            Some(row) => (Bound(row.get(0)), SLICE, row.get::<_, bool>(1)),
            None => {
                let rest = db::ask_as_is(client, stretch, &bind).await?;
                let keys = rest.first().map_or(0, |row| row.get::<_, i64>(1));
                (ceiling.clone(), keys, true)
            }
        };
        let slice = KeyRange::new(after.clone(), upto.clone());
        let params = rehearse::params(&slice);
        let mut found = Vec::new();
        for part in slice.parts() {
            let in_part = plan.key.range_sql(table, part, 1);
            let sql = left_sql(plan, &in_part, remaining);
            found.extend(db::ask_as_is(client, &sql, &rehearse::typed(&params)).await?);
        }
        client.batch_execute("COMMIT").await?;
        findings.keys += keys;
        for row in found {
            findings.remaining += row.get::<_, i64>(0);
            let examples: Option<Vec<String>> = row.get(1);
            let room = SHOWN - findings.examples.len();
            findings.examples.extend(examples.unwrap_or_default().into_iter().take(room));
        }
        if is_last || (to_first && findings.remaining > 0) {
            return Ok(findings);
        }
        after = Some(upto);
    }
}
