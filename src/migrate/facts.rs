//! What a statement changed, told by the catalogs before and after it.

mod reading;

use std::collections::{BTreeMap, BTreeSet};

use crate::sql::Ident;
use serde::Serialize;

/// What the catalogs hold, by the objects' own numbers, so that a new name is seen as one.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    relations: BTreeMap<u32, Relation>,
    columns: BTreeMap<(u32, i16), Column>,
    constraints: BTreeMap<u32, Constraint>,
    indexes: BTreeMap<u32, Index>,
    /// Tables with row triggers before INSERT, and the triggers' source.
    guards: Vec<(u32, String)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Relation {
    name: String,
    kind: String,
    file: u32,
}

#[derive(Clone, Debug, PartialEq)]
struct Column {
    name: String,
    kind: String,
    is_required: bool,
    /// As the server writes it.
    default: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Constraint {
    table: u32,
    name: String,
    kind: String,
    is_valid: bool,
    columns: Vec<i16>,
    definition: String,
    /// The index behind a unique one.
    index: Option<u32>,
    /// Whether a foreign key's columns have other types than those they point to.
    is_mixed: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Index {
    table: u32,
    name: String,
    is_unique: bool,
    /// The columns it is ordered by; 0 for an expression.
    columns: Vec<i16>,
    /// Its definition behind its name.
    definition: String,
    is_partial: bool,
}

/// One thing that a statement did to what was there before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields say themselves what they are")]
pub enum Change {
    /// A table is written anew.
    Rewritten { table: String },
    /// A table is gone, with its rows.
    TableDropped { table: String },
    /// A table has another name.
    TableRenamed { table: String, to: String },
    /// A table came.
    TableAdded { table: String, columns: Vec<NewColumn>, key: Vec<String> },
    /// A column came.
    ColumnAdded { table: String, column: NewColumn },
    /// A column is gone, with its values.
    ColumnDropped { table: String, column: String },
    /// A column has another name.
    ColumnRenamed { table: String, column: String, to: String },
    /// A column has another type.
    TypeChanged { table: String, column: String, from: String, to: String },
    /// A column may be NULL.
    Released { table: String, column: String },
    /// A column has no default any more.
    DefaultDropped { table: String, column: String, is_required: bool },
    /// A column may not be NULL any more. `is_proved`: a validated check said so before, and nothing is read.
    Required { table: String, column: String, is_proved: bool },
    /// A constraint came. `is_valid`: existing rows were read for it. `is_fast`: it took an index that was there.
    /// `has_index`: an index leads with its columns. `is_mixed`: it points to columns of other types.
    ConstraintAdded {
        table: String,
        name: String,
        kind: String,
        is_valid: bool,
        is_fast: bool,
        has_index: bool,
        is_mixed: bool,
        columns: Vec<String>,
    },
    /// A constraint was checked against the rows that are there.
    Validated { table: String, name: String, columns: Vec<String> },
    /// A foreign key is gone.
    ForeignKeyDropped { table: String, name: String },
    /// An index came. `twin`: one that was there says the same. `columns`: what it is ordered by; an expression has no name.
    /// `is_whole`: it holds all rows, by plain columns.
    IndexAdded {
        table: String,
        index: String,
        is_unique: bool,
        is_hash: bool,
        is_whole: bool,
        columns: Vec<String>,
        twin: Option<String>,
    },
    /// An index is gone. `columns`: as above.
    IndexDropped { table: String, index: String, columns: Vec<String> },
}

/// A column that came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NewColumn {
    /// Its name.
    pub name: String,
    /// Its type, as the server writes it.
    pub kind: String,
    /// Whether it may not be NULL.
    pub is_required: bool,
    /// Its default, as the server writes it.
    pub default: Option<String>,
}

impl Facts {
    /// The tables there are, by number.
    pub fn tables(&self) -> BTreeSet<u32> {
        let is_table = |relation: &Relation| ["r", "p", "m"].contains(&relation.kind.as_str());
        self.relations
            .iter()
            .filter(|(_, relation)| is_table(relation))
            .map(|(oid, _)| *oid)
            .collect()
    }

    /// A relation's name.
    pub fn name(&self, oid: u32) -> Option<&str> {
        self.relations.get(&oid).map(|relation| relation.name.as_str())
    }

    /// Whether a row that an application inserts can come without a value in this column: nothing fills or forbids it.
    pub fn is_unguarded(&self, table: &str, column: &str) -> bool {
        let Some((oid, _)) = self.relations.iter().find(|(_, relation)| relation.name == table)
        else {
            return false;
        };
        let found = self.columns.iter().find(|((of, _), c)| of == oid && c.name == column);
        let Some(((_, attnum), found)) = found else { return false };
        let is_checked = self.constraints.values().any(|k| {
            let says_so = k.kind == "n" || k.definition.contains("IS NOT NULL");
            k.table == *oid && says_so && k.columns == [*attnum]
        });
        let is_filled = self.guards.iter().any(|(of, source)| {
            of == oid && super::split::words(source).iter().any(|word| word.text == column)
        });
        found.default.is_none() && !found.is_required && !is_checked && !is_filled
    }

    /// An index that says the same as this one.
    fn twin(&self, index: &Index) -> Option<String> {
        let is_twin =
            |other: &&Index| other.table == index.table && other.definition == index.definition;
        self.indexes.values().find(is_twin).map(|other| other.name.clone())
    }

    /// Whether an index leads with these columns, in any order.
    fn has_index(&self, table: u32, columns: &[i16]) -> bool {
        self.indexes.values().any(|index| {
            let leading = index.columns.iter().take(columns.len());
            index.table == table
                && leading.clone().count() == columns.len()
                && leading.clone().all(|n| columns.contains(n))
        })
    }

    fn column_names(&self, table: u32, numbers: &[i16]) -> Vec<String> {
        numbers
            .iter()
            .filter_map(|n| self.columns.get(&(table, *n)))
            .map(|column| column.name.clone())
            .collect()
    }

    /// Whether a validated check already says that a column is not NULL.
    fn is_proved(&self, table: u32, attnum: i16, column: &str) -> bool {
        let wanted = format!("({column} IS NOT NULL)");
        let quoted = format!("({} IS NOT NULL)", Ident::new(column));
        self.constraints.values().any(|k| {
            let says_so =
                k.definition.contains(&wanted) || k.definition.contains(&quoted) || k.kind == "n";
            k.table == table && k.is_valid && k.columns == [attnum] && says_so
        })
    }

    /// What became of the relations in `old` (those that count as having been there) between two looks, and the tables that came.
    pub fn changes(&self, after: &Facts, old: &BTreeSet<u32>) -> Vec<Change> {
        let mut changes = after.tables_added(self);
        for oid in old {
            let Some(before) = self.relations.get(oid) else { continue };
            let table = before.name.clone();
            match after.relations.get(oid) {
                None => {
                    changes.push(Change::TableDropped { table });
                    continue;
                }
                Some(now) if now.name != before.name => {
                    changes.push(Change::TableRenamed { table, to: now.name.clone() });
                }
                Some(_) => {}
            }
            if after
                .relations
                .get(oid)
                .is_some_and(|now| now.file != before.file && before.kind != "p")
            {
                changes.push(Change::Rewritten { table: before.name.clone() });
            }
            self.column_changes(after, *oid, &mut changes);
        }
        self.constraint_changes(after, old, &mut changes);
        self.index_changes(after, old, &mut changes);
        changes
    }

    /// Tables that are not among those from before.
    fn tables_added(&self, before: &Facts) -> Vec<Change> {
        let is_new = |(oid, relation): &(&u32, &Relation)| {
            ["r", "p"].contains(&relation.kind.as_str()) && !before.relations.contains_key(oid)
        };
        let added = self.relations.iter().filter(is_new).map(|(oid, relation)| {
            let columns = self.columns.range((*oid, i16::MIN)..=(*oid, i16::MAX));
            let key = self.constraints.values().find(|k| k.table == *oid && k.kind == "p");
            Change::TableAdded {
                table: relation.name.clone(),
                columns: columns.map(|(_, column)| column.as_new()).collect(),
                key: key.map_or_else(Vec::new, |key| self.column_names(*oid, &key.columns)),
            }
        });
        added.collect()
    }

    fn index_changes(&self, after: &Facts, old: &BTreeSet<u32>, changes: &mut Vec<Change>) {
        for (oid, index) in &after.indexes {
            let is_new = !self.indexes.contains_key(oid) && old.contains(&index.table);
            let backs = after.constraints.values().any(|constraint| constraint.index == Some(*oid));
            if is_new && !backs && !is_named(&self.indexes, index) {
                let table = self.name(index.table).unwrap_or_default().to_owned();
                changes.push(Change::IndexAdded {
                    table,
                    index: index.name.clone(),
                    is_unique: index.is_unique,
                    is_hash: index.definition.contains("USING hash "),
                    is_whole: !index.is_partial && !index.columns.contains(&0),
                    columns: after.index_columns(index),
                    twin: self.twin(index),
                });
            }
        }
        for (oid, index) in &self.indexes {
            let is_gone =
                !after.indexes.contains_key(oid) && after.relations.contains_key(&index.table);
            if is_gone && old.contains(&index.table) && !is_named(&after.indexes, index) {
                let table = self.name(index.table).unwrap_or_default().to_owned();
                let columns = self.index_columns(index);
                changes.push(Change::IndexDropped { table, index: index.name.clone(), columns });
            }
        }
    }

    /// What an index is ordered by; an expression has no name.
    fn index_columns(&self, index: &Index) -> Vec<String> {
        let name = |n: &i16| self.columns.get(&(index.table, *n)).map(|column| column.name.clone());
        index.columns.iter().map(|n| name(n).unwrap_or_default()).collect()
    }

    fn column_changes(&self, after: &Facts, oid: u32, changes: &mut Vec<Change>) {
        let table = self.name(oid).unwrap_or_default().to_owned();
        let range = (oid, i16::MIN)..=(oid, i16::MAX);
        for (key, before) in self.columns.range(range.clone()) {
            let (table, column) = (table.clone(), before.name.clone());
            let Some(now) = after.columns.get(key) else {
                changes.push(Change::ColumnDropped { table, column });
                continue;
            };
            if now.name != before.name {
                changes.push(Change::ColumnRenamed {
                    table: table.clone(),
                    column: column.clone(),
                    to: now.name.clone(),
                });
            }
            if now.kind != before.kind {
                let (from, to) = (before.kind.clone(), now.kind.clone());
                changes.push(Change::TypeChanged {
                    table: table.clone(),
                    column: column.clone(),
                    from,
                    to,
                });
            }
            if before.is_required && !now.is_required {
                changes.push(Change::Released { table: table.clone(), column: column.clone() });
            }
            if before.default.is_some() && now.default.is_none() {
                let (table, column, is_required) = (table.clone(), column.clone(), now.is_required);
                changes.push(Change::DefaultDropped { table, column, is_required });
            }
            // On 18 the column is marked before its constraint is valid; nothing is read until then.
            let waits = |k: &Constraint| {
                k.kind == "n" && k.table == oid && k.columns == [key.1] && !k.is_valid
            };
            if now.is_required && !before.is_required && !after.constraints.values().any(waits) {
                let is_proved = self.is_proved(oid, key.1, &column);
                changes.push(Change::Required { table, column, is_proved });
            }
        }
        for (key, now) in after.columns.range(range) {
            if !self.columns.contains_key(key) {
                changes.push(Change::ColumnAdded { table: table.clone(), column: now.as_new() });
            }
        }
    }

    fn constraint_changes(&self, after: &Facts, old: &BTreeSet<u32>, changes: &mut Vec<Change>) {
        for (oid, now) in after.constraints.iter().filter(|(_, k)| old.contains(&k.table)) {
            let table = self.name(now.table).unwrap_or_default().to_owned();
            let (name, columns) = (now.name.clone(), after.column_names(now.table, &now.columns));
            match self.constraints.get(oid) {
                None => {
                    // USING INDEX takes over an index that was there, under its own number.
                    let is_fast = now.index.is_some_and(|index| self.indexes.contains_key(&index));
                    let (kind, is_valid) = (now.kind.clone(), now.is_valid);
                    changes.push(Change::ConstraintAdded {
                        table,
                        name,
                        kind,
                        is_valid,
                        is_fast,
                        has_index: after.has_index(now.table, &now.columns),
                        is_mixed: now.is_mixed,
                        columns,
                    });
                }
                Some(before) if now.is_valid && !before.is_valid => {
                    changes.push(Change::Validated { table, name, columns });
                }
                Some(_) => {}
            }
        }
        for (oid, before) in
            self.constraints.iter().filter(|(_, k)| old.contains(&k.table) && k.kind == "f")
        {
            if !after.constraints.contains_key(oid) && after.relations.contains_key(&before.table) {
                let table = self.name(before.table).unwrap_or_default().to_owned();
                changes.push(Change::ForeignKeyDropped { table, name: before.name.clone() });
            }
        }
    }
}

impl Column {
    fn as_new(&self) -> NewColumn {
        let Column { name, kind, is_required, default } = self.clone();
        NewColumn { name, kind, is_required, default }
    }
}

/// Whether an index of that name is among these: then it was built anew with its table.
fn is_named(indexes: &BTreeMap<u32, Index>, index: &Index) -> bool {
    indexes.values().any(|other| other.name == index.name)
}
