//! What goes into the state tables and what is read back, as types.

use tokio_postgres::Row;

use super::{Field, LastWorked, Result, Run, RunState, StoreError, Times, Undo};
use crate::db::Session;
use crate::key::{Bound, Key, KeyColumn, Leaf, Leaves, Spread};
use crate::sql::Ident;
use crate::undo::{Conflicts, UndoMode};

/// What a new run is made from.
pub struct NewRun<'a> {
    /// The spec's name.
    pub name: &'a str,
    /// Whether somebody said that what earlier runs wrote may be written once more.
    pub is_again: bool,
    /// The newest run of the name that the caller knows of.
    pub after: Option<i64>,
    /// The table, `schema.name`.
    pub table_name: &'a str,
    /// The table's identity.
    pub table_oid: u32,
    /// What it is cut by.
    pub key: &'a Key,
    /// The greatest key; none when the table is empty.
    pub ceiling: Option<&'a Bound>,
    /// The leaves, when it goes through the table leaf by leaf; the ceiling is that of the last then.
    pub leaves: Option<&'a Leaves>,
    /// What [`Run::walk_before`] is to be.
    pub walk_before: Option<i64>,
    /// The spec as pinned.
    pub spec: PinnedSpec<'a>,
    /// The settings that give the spec's SQL its meaning.
    pub session: &'a Session,
    /// Rows in the table, as the planner sees them.
    pub table_rows_estimate: i64,
    /// Who asks.
    pub who: &'a str,
    /// How it can be taken back.
    pub undo: NewUndo<'a>,
}

/// What a reverse run is created with.
pub struct NewReverse<'a> {
    /// The spec's name.
    pub name: &'a str,
    /// The newest run of the name that the caller knows of.
    pub after: i64,
    /// The run that is taken back.
    pub forward: i64,
    /// Whose chunks are taken: those of the forward run, or of a reverse run of it that was cancelled.
    pub source: i64,
    /// The chunk statement.
    pub statement: &'a str,
    /// What is done about rows that somebody changed since.
    pub conflicts: Conflicts,
    /// Who asks.
    pub who: &'a str,
}

/// How a new run can be taken back.
pub struct NewUndo<'a> {
    /// By what.
    pub mode: UndoMode,
    /// The written columns.
    pub columns: &'a [String],
    /// The fields of a before-image, for a run that captures.
    pub fields: &'a [Field],
    /// Whether the server compresses with lz4.
    pub lz4: bool,
}

/// The parts of a run that come from the spec's text.
pub struct PinnedSpec<'a> {
    /// SHA-256 of the text.
    pub digest: &'a str,
    /// The text.
    pub text: &'a str,
    /// The chunk statement made from it.
    pub statement: String,
    /// The condition of a row still to do.
    pub remaining: Option<&'a str>,
    /// A query that yields a row while something is left to do.
    pub verify_query: Option<String>,
}

/// On whose word a run changes its state.
#[derive(Clone, Copy, Debug)]
pub enum Actor<'a> {
    /// An operator at another terminal.
    Operator,
    /// The runner of this epoch; refused when another has taken the run over.
    Runner {
        /// Its epoch.
        epoch: i32,
        /// Why the run failed, when it did.
        failure: Option<&'a str>,
    },
}

/// A line of the audit trail.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LogLine {
    /// When, ISO 8601.
    pub at: String,
    /// The run's number.
    pub run_id: i64,
    /// Who.
    pub who: String,
    /// What.
    pub event: String,
    /// More about it.
    pub detail: String,
}

/// The only row; none or several where one was expected is an error.
pub(super) fn one(rows: &[Row]) -> Result<&Row> {
    match rows {
        [row] => Ok(row),
        _ => Err(StoreError::Unreadable(format!("{} rows where one was expected", rows.len()))),
    }
}

pub(super) fn key_to_json(key: &Key) -> String {
    let column = |column: &KeyColumn| {
        let told = [column.name.as_str(), &column.type_sql, &column.type_name].map(str::to_owned);
        told.into_iter()
            .chain(column.spread.as_ref().map(|s| s.as_str().to_owned()))
            .collect::<Vec<_>>()
    };
    serde_json::to_string(&key.columns.iter().map(column).collect::<Vec<_>>()).unwrap_or_default()
}

pub(super) fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| StoreError::Unreadable(error.to_string()))
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(word: &str) -> Result<T> {
    word.parse().map_err(|error: T::Err| StoreError::Unreadable(error.to_string()))
}

pub(super) fn ceilings_to_json(leaves: &Leaves) -> String {
    let ceilings: Vec<_> =
        leaves.0.iter().map(|leaf| leaf.ceiling.as_ref().map(|bound| &bound.0)).collect();
    serde_json::to_string(&ceilings).unwrap_or_default()
}

fn leaves(oids: Option<Vec<u32>>, ceilings: Option<&str>, walked: i32) -> Result<Option<Leaves>> {
    let Some((oids, ceilings)) = oids.zip(ceilings) else { return Ok(None) };
    let ceilings: Vec<Option<Vec<String>>> = json(ceilings)?;
    let leaf = |(number, (oid, ceiling)): (i32, (u32, Option<Vec<String>>))| Leaf {
        oid,
        ceiling: ceiling.map(Bound),
        is_walked: number <= walked,
    };
    Ok(Some(Leaves((1..).zip(oids.into_iter().zip(ceilings)).map(leaf).collect())))
}

pub(super) fn read_run(row: &Row) -> Result<Run> {
    // Runs of older versions know no hash.
    let columns: Vec<Vec<String>> = json(row.get(8))?;
    let column = |told: Vec<String>| {
        let mut told = told.into_iter();
        let mut next = || told.next().unwrap_or_default();
        let (name, type_sql, type_name) = (Ident::new(next()), next(), next());
        KeyColumn { name, type_sql, type_name, spread: told.next().map(Spread::parse) }
    };
    let state: String = row.get(3);
    let verdict: Option<String> = row.get(23);
    let reason: Option<String> = row.get(24);
    let host: Option<String> = row.get(25);
    let pid: Option<i32> = row.get(26);
    Ok(Run {
        run_id: row.get(0),
        name: row.get(1),
        direction: row.get(2),
        state: RunState::parse(&state).ok_or(StoreError::Unreadable(format!("state `{state}`")))?,
        epoch: row.get(4),
        control_version: row.get(5),
        table_name: row.get(6),
        table_oid: row.get(7),
        key: Key { columns: columns.into_iter().map(column).collect() },
        ceiling: row.get::<_, Option<Vec<String>>>(9).map(Bound),
        leaves: leaves(row.get(45), row.get(46), row.get(47))?,
        walk_before: row.get(48),
        cut_upto: row.get::<_, Option<Vec<String>>>(10).map(Bound),
        fully_cut: row.get(11),
        next_seq: row.get(12),
        spec_digest: row.get(13),
        statement: row.get(14),
        remaining: row.get(15),
        session: json(row.get(16))?,
        table_rows_estimate: row.get(17),
        tuned: json(row.get(18))?,
        last: LastWorked {
            workers: row.get(19),
            rate_limit: row.get(20),
            chunk_time_ms: row.get(21),
            chunk_rows: row.get(22),
            throttle: verdict.zip(reason),
            throttle_by: row.get(39),
            window: row.get::<_, Option<String>>(40).map(|name| (name, row.get(41))),
            wal_limit: row.get(42),
            spent: json(row.get(43))?,
            wal_per_row: row.get(44),
        },
        runner: host.zip(pid),
        failure: row.get(27),
        reverses: row.get(33),
        spec_text: row.get(34),
        undo: Undo {
            mode: parsed(row.get(35))?,
            columns: json(row.get(36))?,
            pruned_at: row.get(37),
        },
        conflicts: parsed(row.get(38))?,
        created_by: row.get(28),
        times: Times {
            created_at: row.get(29),
            started_at: row.get(30),
            updated_at: row.get(31),
            finished_at: row.get(32),
        },
    })
}
