//! What a change of something that was there before means for whoever uses it. Pure.

use super::Before;
use crate::migrate::facts::Change;
use crate::migrate::trace::{Observed, blocks_writes};

pub(super) type Judged = (&'static str, String, String);

/// What a change of something that was there before means.
pub(super) fn of_a_change(change: &Change, seen: &Observed, before: &Before) -> Vec<Judged> {
    let mut found: Vec<Judged> = Vec::new();
    let mut add = |rule, message: String, safe: &str| found.push((rule, message, safe.to_owned()));
    match change {
        Change::Rewritten { table }
            if !seen.changes.iter().any(|c| matches!(c, Change::TypeChanged { .. })) =>
        {
            add(
                "rewrite",
                format!("{table} is written anew under a lock that nobody passes"),
                "add the column without the default, set the default, backfill the rest: backfill migrate revision --pattern add-not-null TABLE.COLUMN",
            );
        }
        Change::TypeChanged { table, column, from, to } if rewrites(seen, table) => add(
            "change-type",
            format!(
                "{table} is written anew to turn {column} from {from} into {to}, under a lock that nobody passes"
            ),
            &format!("backfill migrate revision --pattern change-type {table}.{column} \"{to}\""),
        ),
        Change::TableDropped { table } => add(
            "drop-table",
            format!("{table} and its rows are gone; whoever still uses it fails"),
            "rename it first, and drop it when nobody has missed it; or `-- ignore drop-table: reason`",
        ),
        Change::TableRenamed { table, to } => add(
            "rename-table",
            format!("whoever still says {table} fails"),
            &format!("leave a view {table} over {to} until nobody does"),
        ),
        Change::ColumnRenamed { table, column, to } => add(
            "rename-column",
            format!("whoever still says {table}.{column} fails"),
            &format!("backfill migrate revision --pattern rename-column {table}.{column} {to}"),
        ),
        Change::ColumnDropped { table, column } if !before.has_released(table, column) => add(
            "drop-column",
            format!(
                "whoever still reads or writes {table}.{column} fails, and its values are gone"
            ),
            &format!(
                "in two phases: backfill migrate revision --pattern drop-column {table}.{column}; or `-- ignore drop-column: reason`"
            ),
        ),
        Change::ColumnAdded { table, column } if column.is_required && column.default.is_none() => {
            let column = &column.name;
            add(
                "add-required-column",
                format!(
                    "it fails when {table} has rows, and writers that do not know {column} fail"
                ),
                &format!("backfill migrate revision --pattern add-not-null {table}.{column}"),
            );
        }
        Change::Released { table, column } => add(
            "drop-not-null",
            format!("whoever reads {table}.{column} can meet NULL from now on"),
            "deploy readers that take it first, and say so: `-- ignore drop-not-null: reason`",
        ),
        Change::DefaultDropped { table, column, is_required } => add(
            "drop-default",
            format!(
                "inserts into {table} that leave {column} out {}",
                if *is_required { "fail from now on" } else { "get NULL from now on" }
            ),
            "deploy writers that name it first, and say so: `-- ignore drop-default: reason`",
        ),
        Change::Required { table, column, is_proved: false } => add(
            "set-not-null",
            format!("all rows of {table} are read for {column} under a lock that nobody passes"),
            &format!(
                "CHECK ({column} IS NOT NULL) NOT VALID, VALIDATE, then SET NOT NULL, then drop the check"
            ),
        ),
        Change::ConstraintAdded { table, name, kind, is_valid: true, is_fast, .. } => {
            match kind.as_str() {
                "c" | "f" => add(
                    if kind == "c" { "add-check" } else { "add-foreign-key" },
                    format!(
                        "all rows of {table} are read for {name} under a lock that nobody writes past"
                    ),
                    "add it NOT VALID, and VALIDATE it in a statement of its own",
                ),
                "p" | "u" if !is_fast => add(
                    "add-unique",
                    format!("an index for {name} is built while nobody can read or write {table}"),
                    "CREATE UNIQUE INDEX CONCURRENTLY first, then ADD CONSTRAINT … USING INDEX",
                ),
                "x" => add(
                    "add-exclusion",
                    format!(
                        "an index for {name} is built while nobody can read or write {table}; there is no other way"
                    ),
                    "in a new table, filled by a backfill; or `-- ignore add-exclusion: reason`",
                ),
                _ => {}
            }
        }
        Change::IndexAdded { table, index, .. } if is_locked(seen, table) => {
            add(
                "create-index",
                format!("nobody can write to {table} while {index} is built"),
                "CREATE INDEX CONCURRENTLY, in the same file: it gets a place outside of the transaction by itself",
            );
        }
        Change::IndexDropped { table, index, .. }
            if is_locked(seen, table) && !loses_columns(seen) =>
        {
            add(
                "drop-index",
                format!("nobody can read {table} until a lock for {index} is had and given back"),
                "DROP INDEX CONCURRENTLY",
            );
        }
        Change::ForeignKeyDropped { table, name } => {
            let locked =
                seen.locks.iter().filter(|(_, mode)| mode == "AccessExclusiveLock").count();
            if locked > 1 {
                add(
                    "drop-foreign-key",
                    format!(
                        "{name} is dropped under the strongest lock on both tables, {table} and the one it points to"
                    ),
                    "in a revision of its own; or `-- ignore drop-foreign-key: reason`",
                );
            }
        }
        _ => {}
    }
    if let Change::ConstraintAdded { table, name, kind, columns, has_index: false, .. } = change
        && kind == "f"
    {
        found.push((
            "foreign-key-without-index",
            format!("every delete of a row that {name} points to reads all of {table}"),
            format!("CREATE INDEX CONCURRENTLY on {table} ({}) before it", columns.join(", ")),
        ));
    }
    if let Change::IndexAdded { table, index, twin: Some(twin), .. } = change {
        found.push((
            "duplicate-index",
            format!("{index} is the same as {twin}; every write to {table} pays for both"),
            "leave it out, or drop the other one CONCURRENTLY when this one is there".to_owned(),
        ));
    }
    found.extend(about_data(change, before));
    found
}

/// Whether a table is locked against writes.
fn is_locked(seen: &Observed, table: &str) -> bool {
    seen.locks.iter().any(|(of, mode)| of == table && blocks_writes(mode))
}

/// An index that goes with its column is no step of its own.
fn loses_columns(seen: &Observed) -> bool {
    let loses = |change: &Change| {
        matches!(change, Change::ColumnDropped { .. } | Change::TableDropped { .. })
    };
    seen.changes.iter().any(loses)
}

fn rewrites(seen: &Observed, table: &str) -> bool {
    seen.changes
        .iter()
        .any(|change| matches!(change, Change::Rewritten { table: of } if of == table))
}

/// What a change means for backfills that came before.
fn about_data(change: &Change, before: &Before) -> Vec<Judged> {
    let (table, columns, breaks): (&str, Vec<&str>, bool) = match change {
        Change::Required { table, column, .. } => (table, vec![column], false),
        Change::Validated { table, columns, .. } => {
            (table, columns.iter().map(String::as_str).collect(), false)
        }
        Change::ConstraintAdded { table, columns, is_valid: true, .. } => {
            (table, columns.iter().map(String::as_str).collect(), false)
        }
        Change::ColumnDropped { table, column } | Change::TypeChanged { table, column, .. } => {
            (table, vec![column], true)
        }
        _ => return Vec::new(),
    };
    let mut found = Vec::new();
    for (name, writes) in &before.backfills {
        let touches = writes.table == table
            && columns.iter().any(|column| writes.columns.iter().any(|of| of == column));
        if !touches {
            continue;
        }
        if !before.proved.contains(name) {
            found.push((
                "contract-without-gate",
                format!("it builds on what the backfill {name} writes, and does not demand that this is complete"),
                format!("`-- requires: {name}@verified`"),
            ));
        }
        if breaks {
            found.push((
                "breaks-reversal",
                format!("the backfill {name} cannot be taken back any more when {table} has lost what it wrote"),
                format!("say so: `-- irreversible: reason` or `-- ignore breaks-reversal: reason`; before: backfill prune {name}"),
            ));
        }
    }
    found
}

impl Before {
    /// Whether a column was made optional, or left behind by a rename, before it is dropped.
    fn has_released(&self, table: &str, column: &str) -> bool {
        self.released.contains(&(table.to_owned(), column.to_owned()))
    }
}
