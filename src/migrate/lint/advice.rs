//! What costs something later, or is a matter of taste: said, and no reason to fail. Pure.

use super::{Finding, Weight};
use crate::migrate::facts::{Change, NewColumn};
use crate::migrate::file::Revision;
use crate::migrate::trace::Observed;

/// The longest name that a server keeps whole, in bytes (NAMEDATALEN - 1).
const NAME_MAX: usize = 63;

/// Notes about a revision.
pub(super) fn of_taste(revision: &Revision, observed: &[Observed]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (statement, seen) in revision.up.iter().zip(observed) {
        let mut add = |(rule, message, safe): (&'static str, String, String)| {
            let finding = Finding::new(rule, message, safe, &statement.span);
            found.push(Finding { weight: Weight::Note, ..finding });
        };
        let words = statement.words();
        for name in words.iter().filter(|word| word.is_name && word.text.len() > NAME_MAX) {
            add((
                "long-name",
                format!("the server cuts {} off after {NAME_MAX} bytes", name.text),
                "a shorter one".to_owned(),
            ));
        }
        if words.len() > 3
            && words[0].is("create")
            && words[1].is("type")
            && words.iter().any(|word| word.is("enum"))
        {
            add((
                "enum-type",
                "a value of an enum can be added, and never taken away".to_owned(),
                "text and a CHECK, or a table of its own, where values come and go".to_owned(),
            ));
        }
        seen.changes.iter().flat_map(of_a_change).for_each(&mut add);
    }
    found
}

type Note = (&'static str, String, String);

fn of_a_change(change: &Change) -> Vec<Note> {
    let mut found = Vec::new();
    match change {
        Change::TableAdded { table, columns, key } => {
            found.extend(columns.iter().flat_map(of_a_column));
            if key.is_empty() {
                found.push((
                    "no-primary-key",
                    format!(
                        "{table} has no primary key: replication, repair and backfills need one"
                    ),
                    "a bigint GENERATED ALWAYS AS IDENTITY, if nothing in it is unique by itself"
                        .to_owned(),
                ));
            }
            let small = columns.iter().find(|column| {
                key.as_slice() == [column.name.clone()]
                    && ["integer", "smallint"].contains(&column.kind.as_str())
            });
            if let Some(column) = small {
                found.push((
                    "small-key",
                    format!(
                        "{} ends at {}",
                        column.name,
                        if column.kind == "integer" { "2,147,483,647" } else { "32,767" }
                    ),
                    "bigint: a key is the dearest column to change later".to_owned(),
                ));
            }
        }
        Change::ColumnAdded { column, .. } => found.extend(of_a_column(column)),
        Change::ConstraintAdded { name, is_mixed: true, .. } => found.push((
            "foreign-key-type",
            format!("{name} points to a column of another type"),
            "the same type on both sides".to_owned(),
        )),
        Change::IndexAdded { table, index, is_unique, is_hash, columns, .. } => {
            if *is_unique {
                let list = columns.join(", ");
                found.push((
                    "unique-on-unchecked-data",
                    format!("{index} is built to its end before two rows of {table} that are alike make it fail"),
                    format!("look before: SELECT {list} FROM {table} GROUP BY {list} HAVING count(*) > 1 LIMIT 1; backfill migrate plan looks for five seconds"),
                ));
            }
            if !is_unique && columns.len() > WIDE {
                found.push((
                    "wide-index",
                    format!(
                        "{index} has {} columns; every write to {table} pays for all of them",
                        columns.len()
                    ),
                    "the columns that rows are found by; the rest seldom helps".to_owned(),
                ));
            }
            if *is_hash {
                found.push((
                    "hash-index",
                    format!("{index} finds equal values and nothing else: no order, no range, no uniqueness"),
                    "a btree, unless the values are long and only ever compared for equality".to_owned(),
                ));
            }
        }
        _ => {}
    }
    found
}

/// Columns that an index can well use: the rule of `strong_migrations`, from what its users met.
const WIDE: usize = 3;

fn of_a_column(column: &NewColumn) -> Vec<Note> {
    let name = &column.name;
    let kind = column.kind.as_str();
    let mut found = Vec::new();
    if kind == "json" {
        found.push((
            "json-type",
            format!(
                "{name} is json: it has no equality, and no SELECT DISTINCT or GROUP BY takes it"
            ),
            "jsonb".to_owned(),
        ));
    }
    if kind.starts_with("character(") {
        found.push(("char-type", format!("{name} is filled up with blanks"), "text".to_owned()));
    }
    if kind.starts_with("timestamp") && kind.ends_with("without time zone") {
        found.push((
            "timestamp-type",
            format!(
                "{name} is no point in time: it means another one in every session's time zone"
            ),
            "timestamptz".to_owned(),
        ));
    }
    if column.default.as_ref().is_some_and(|default| default.starts_with("nextval(")) {
        found.push((
            "serial-type",
            format!("{name} takes its numbers from a sequence with rights and an owner of its own"),
            "GENERATED ALWAYS AS IDENTITY".to_owned(),
        ));
    }
    found
}
