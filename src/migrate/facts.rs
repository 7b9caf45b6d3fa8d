//! What a statement changed, told by the catalogs before and after it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use crate::sql::Ident;

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
    has_default: bool,
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
}

#[derive(Clone, Debug, PartialEq)]
struct Index {
    table: u32,
    name: String,
    is_unique: bool,
    /// The columns it leads with; 0 for an expression.
    columns: Vec<i16>,
    /// Its definition behind its name.
    definition: String,
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
    /// A column came.
    ColumnAdded { table: String, column: String, is_required: bool, has_default: bool },
    /// A column is gone, with its values.
    ColumnDropped { table: String, column: String },
    /// A column has another name.
    ColumnRenamed { table: String, column: String, to: String },
    /// A column has another type.
    TypeChanged { table: String, column: String, from: String, to: String },
    /// A column may be NULL.
    Released { table: String, column: String },
    /// A column may not be NULL any more. `is_proved`: a validated check said so before, and nothing is read.
    Required { table: String, column: String, is_proved: bool },
    /// A constraint came. `is_valid`: existing rows were read for it. `is_fast`: it took an index that was there.
    /// `has_index`: an index leads with its columns.
    ConstraintAdded {
        table: String,
        name: String,
        kind: String,
        is_valid: bool,
        is_fast: bool,
        has_index: bool,
        columns: Vec<String>,
    },
    /// A constraint was checked against the rows that are there.
    Validated { table: String, name: String, columns: Vec<String> },
    /// A foreign key is gone.
    ForeignKeyDropped { table: String, name: String },
    /// An index came. `twin`: one that was there says the same.
    IndexAdded { table: String, index: String, is_unique: bool, twin: Option<String> },
    /// An index is gone.
    IndexDropped { table: String, index: String },
}

const RELATIONS: &str =
    "select c.oid, n.nspname || '.' || c.relname, c.relkind::text, c.relfilenode
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', $1)";
const COLUMNS: &str = "select a.attrelid, a.attnum, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef
    from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
     and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', $1)";
const CONSTRAINTS: &str = "select k.oid, k.conrelid, k.conname::text, k.contype::text, k.convalidated, coalesce(k.conkey, '{}'), pg_get_constraintdef(k.oid),
           case when k.contype in ('p', 'u', 'x') then k.conindid end
    from pg_catalog.pg_constraint k join pg_catalog.pg_namespace n on n.oid = k.connamespace
   where k.conrelid <> 0 and k.contype <> 't' and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', $1)";
const INDEXES: &str =
    "select i.indexrelid, i.indrelid, n.nspname || '.' || c.relname, i.indisunique, i.indkey::int2[],
           regexp_replace(pg_get_indexdef(i.indexrelid), '^.* ON ', case when i.indisunique then 'unique ' else '' end)
    from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', $1)";
/// Row triggers before INSERT.
const GUARDS: &str = "select t.tgrelid, p.prosrc from pg_catalog.pg_trigger t join pg_catalog.pg_proc p on p.oid = t.tgfoid
    where not t.tgisinternal and t.tgtype & 7 = 7 and $1::text is not null";

impl Facts {
    /// Reads them; those of the state tables are left out.
    pub async fn read(client: &Client, state_schema: &Ident) -> Result<Facts, Error> {
        let schema = state_schema.as_str();
        let ask = async |sql: &str| client.query_typed(sql, &[(&schema, Type::TEXT)]).await;
        let mut facts = Facts::default();
        for row in ask(RELATIONS).await? {
            facts.relations.insert(
                row.get(0),
                Relation { name: row.get(1), kind: row.get(2), file: row.get(3) },
            );
        }
        for row in ask(COLUMNS).await? {
            let column = Column {
                name: row.get(2),
                kind: row.get(3),
                is_required: row.get(4),
                has_default: row.get(5),
            };
            facts.columns.insert((row.get(0), row.get(1)), column);
        }
        for row in ask(CONSTRAINTS).await? {
            let constraint = Constraint {
                table: row.get(1),
                name: row.get(2),
                kind: row.get(3),
                is_valid: row.get(4),
                columns: row.get(5),
                definition: row.get(6),
                index: row.get(7),
            };
            facts.constraints.insert(row.get(0), constraint);
        }
        for row in ask(INDEXES).await? {
            facts.indexes.insert(
                row.get(0),
                Index {
                    table: row.get(1),
                    name: row.get(2),
                    is_unique: row.get(3),
                    columns: row.get(4),
                    definition: row.get(5),
                },
            );
        }
        facts.guards = ask(GUARDS).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
        Ok(facts)
    }

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
        !found.has_default && !found.is_required && !is_checked && !is_filled
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

    /// What became of the relations in `old` (those that count as having been there) between two looks.
    pub fn changes(&self, after: &Facts, old: &BTreeSet<u32>) -> Vec<Change> {
        let mut changes = Vec::new();
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
        for (oid, index) in &after.indexes {
            let is_new = !self.indexes.contains_key(oid) && old.contains(&index.table);
            let backs = after.constraints.values().any(|constraint| constraint.index == Some(*oid));
            if is_new && !backs && !is_named(&self.indexes, index) {
                let table = self.name(index.table).unwrap_or_default().to_owned();
                changes.push(Change::IndexAdded {
                    table,
                    index: index.name.clone(),
                    is_unique: index.is_unique,
                    twin: self.twin(index),
                });
            }
        }
        for (oid, index) in &self.indexes {
            let is_gone =
                !after.indexes.contains_key(oid) && after.relations.contains_key(&index.table);
            if is_gone && old.contains(&index.table) && !is_named(&after.indexes, index) {
                let table = self.name(index.table).unwrap_or_default().to_owned();
                changes.push(Change::IndexDropped { table, index: index.name.clone() });
            }
        }
        changes
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
                let (is_required, has_default) = (now.is_required, now.has_default);
                changes.push(Change::ColumnAdded {
                    table: table.clone(),
                    column: now.name.clone(),
                    is_required,
                    has_default,
                });
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

/// Whether an index of that name is among these: then it was built anew with its table.
fn is_named(indexes: &BTreeMap<u32, Index>, index: &Index) -> bool {
    indexes.values().any(|other| other.name == index.name)
}
