//! Zero-downtime recipes, written out: each becomes revisions with their ways back, a spec where there is data to move, and the demands
//! between them. Pure.

mod columns;
mod constraints;

use super::split::words;
use crate::sql::Ident;
use columns::{change_type, drop_column, rename_column};
use constraints::{add_check, add_foreign_key, indexed};

/// What a recipe is about, as the live database has it.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// The schema's name.
    pub schema: String,
    /// The table's name.
    pub table: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// `pg_get_indexdef` of its indexes that no constraint owns.
    pub indexes: Vec<String>,
}

/// A column of it.
#[derive(Clone, Debug, Default)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as the server writes it.
    pub kind: String,
    /// Whether it is NOT NULL.
    pub is_required: bool,
    /// Its default.
    pub default: Option<String>,
    /// Constraints that hold it in place: keys and foreign keys.
    pub holders: Vec<String>,
}

/// A file of a recipe: a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// In words.
    pub title: String,
    /// Everything behind its line `-- revises`.
    pub body: String,
}

/// What a recipe writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    /// The revisions, each building on the one before.
    pub revisions: Vec<Revision>,
    /// The spec of its backfill: name and text.
    pub spec: Option<(String, String)>,
}

/// Which recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say themselves what they are")]
pub enum Pattern {
    /// A column becomes NOT NULL; rows without a value get this one, an SQL expression over the row.
    AddNotNull { column: String, value: String },
    /// A column gets another name.
    RenameColumn { column: String, to: String },
    /// A column gets another type; `using` converts it.
    ChangeType { column: String, kind: String, using: Option<String> },
    /// A column goes, in two phases.
    DropColumn { column: String },
    /// A foreign key, to `table (column)`.
    AddForeignKey { column: String, target: String },
    /// A check.
    AddCheck { condition: String },
    /// A unique constraint.
    AddUnique { columns: Vec<String> },
    /// An index.
    CreateIndex { columns: Vec<String> },
}

impl Shape {
    fn quoted(&self) -> String {
        format!("{}.{}", name(&self.schema), name(&self.table))
    }

    fn column(&self, wanted: &str) -> Result<&Column, String> {
        let found = self.columns.iter().find(|column| column.name == wanted);
        found.ok_or_else(|| {
            let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
            format!(
                "{}.{} has no column `{wanted}`; it has {}",
                self.schema,
                self.table,
                names.join(", ")
            )
        })
    }
}

/// A name as one writes it: quoted only where it must be.
fn name(text: &str) -> String {
    const RESERVED: [&str; 20] = [
        "all", "and", "as", "check", "column", "default", "desc", "do", "end", "from", "group",
        "in", "limit", "not", "offset", "order", "select", "table", "user", "where",
    ];
    let is_plain = text.chars().next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !RESERVED.contains(&text);
    if is_plain { text.to_owned() } else { Ident::new(text).to_string() }
}

/// A name for something that belongs to a table, short enough for the server.
fn made(parts: &[&str]) -> String {
    const LONGEST: usize = 63;
    let mut joined = parts.join("_");
    while joined.len() > LONGEST {
        joined.pop();
    }
    joined
}

fn revision(title: impl Into<String>, header: &str, up: &str, down: &str) -> Revision {
    Revision { title: title.into(), body: format!("{header}\n-- up\n{up}\n-- down\n{down}") }
}

/// Writes a recipe; an error says why it cannot be written for this table.
pub fn recipe(pattern: &Pattern, shape: &Shape) -> Result<Recipe, String> {
    match pattern {
        Pattern::AddNotNull { column, value } => add_not_null(shape, column, value),
        Pattern::RenameColumn { column, to } => rename_column(shape, column, to),
        Pattern::ChangeType { column, kind, using } => {
            change_type(shape, column, kind, using.as_deref())
        }
        Pattern::DropColumn { column } => drop_column(shape, column),
        Pattern::AddForeignKey { column, target } => add_foreign_key(shape, column, target),
        Pattern::AddCheck { condition } => Ok(add_check(shape, condition)),
        Pattern::AddUnique { columns } => indexed(shape, columns, true),
        Pattern::CreateIndex { columns } => indexed(shape, columns, false),
    }
}

/// NOT NULL by way of a validated check, so that no strong lock is held while rows are read.
fn require(table: &str, short: &str, column: &str) -> (String, String) {
    let check = name(&made(&[short, column, "nn"]));
    let column = name(column);
    let up = format!(
        "ALTER TABLE {table} ADD CONSTRAINT {check} CHECK ({column} IS NOT NULL) NOT VALID;\n\
         ALTER TABLE {table} VALIDATE CONSTRAINT {check};\n\
         ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL;\n\
         ALTER TABLE {table} DROP CONSTRAINT {check};\n"
    );
    (up, format!("ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL;\n"))
}

fn spec(description: &str, shape: &Shape, column: &str, value: &str) -> String {
    let text = |value: &str| toml::Value::String(value.to_owned()).to_string();
    format!(
        "description = {}\ntable = {}\n\n[[rule]]\nfill = {{ {} = {} }}\n",
        text(description),
        text(&shape.quoted()),
        text(column),
        text(value)
    )
}

fn add_not_null(shape: &Shape, wanted: &str, value: &str) -> Result<Recipe, String> {
    let column = shape.column(wanted)?;
    if column.is_required {
        return Err(format!("{wanted} is NOT NULL already"));
    }
    let (table, short, quoted) = (shape.quoted(), shape.table.as_str(), name(wanted));
    let job = made(&["fill", short, wanted]);
    let reads_row = words(value)
        .iter()
        .any(|word| word.is_name && shape.columns.iter().any(|column| column.name == word.text));
    let guard = if reads_row {
        let function =
            format!("{}.{}", name(&shape.schema), name(&made(&[short, wanted, "guard"])));
        let trigger = name(&made(&[short, wanted, "guard"]));
        let value = of_new_row(shape, value);
        revision(
            format!("guard {short} {wanted}"),
            "-- From here on no row comes without a value; the guard stands before the backfill, or rows behind its back would be missed.\n",
            &format!(
                "CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$\nBEGIN\n    NEW.{quoted} := {value};\n    RETURN NEW;\nEND\n$$;\n\
                 CREATE TRIGGER {trigger} BEFORE INSERT ON {table}\n    FOR EACH ROW WHEN (NEW.{quoted} IS NULL) EXECUTE FUNCTION {function}();\n"
            ),
            &format!("DROP TRIGGER {trigger} ON {table};\nDROP FUNCTION {function}();\n"),
        )
    } else {
        revision(
            format!("guard {short} {wanted}"),
            "-- From here on no row comes without a value; the guard stands before the backfill, or rows behind its back would be missed.\n",
            &format!("ALTER TABLE {table} ALTER COLUMN {quoted} SET DEFAULT {value};\n"),
            &format!("ALTER TABLE {table} ALTER COLUMN {quoted} DROP DEFAULT;\n"),
        )
    };
    // A default that is there guards already, and stays the application's.
    let has_default = column.default.as_ref().is_some_and(|default| !default.starts_with("NULL"));
    let guard = (!has_default).then_some(guard);
    let (up, down) = require(&table, short, wanted);
    // A row for which the expression yields nothing is not done; the demand says so before the constraint does.
    let about = format!("a value for {wanted} where there is none");
    let text =
        toml::Value::String(format!("{short}.{quoted} IS NULL", short = name(short))).to_string();
    let spec = format!("{}\n[verify]\nremaining = {text}\n", spec(&about, shape, wanted, value));
    let contract = revision(
        format!("require {short} {wanted}"),
        &format!("-- requires: {job}@verified\n"),
        &up,
        &down,
    );
    Ok(Recipe {
        revisions: guard.into_iter().chain([starts(&job), contract]).collect(),
        spec: Some((job, spec)),
    })
}

/// An expression over the row, as a trigger sees it: columns, however they are qualified, become those of NEW.
fn of_new_row(shape: &Shape, value: &str) -> String {
    let parts = words(value);
    let text = |i: usize| parts.get(i).map_or("", |word| word.text.as_str());
    let is_column = |i: usize| {
        parts.get(i).is_some_and(|word| {
            word.is_name && shape.columns.iter().any(|column| column.name == word.text)
        })
    };
    // A type behind `::` or AS, and a function, may be called like a column.
    let is_other =
        |i: usize| text(i + 1) == "(" || (i > 0 && (text(i - 1) == ":" || parts[i - 1].is("as")));
    let (mut out, mut end, mut i) = (String::new(), 0, 0);
    while i < parts.len() {
        let qualified = if text(i) == shape.schema
            && text(i + 1) == "."
            && text(i + 2) == shape.table
            && text(i + 3) == "."
        {
            4
        } else if text(i) == shape.table && text(i + 1) == "." {
            2
        } else {
            0
        };
        let is_bare = i == 0 || text(i - 1) != ".";
        let column = i + qualified;
        if is_bare && is_column(column) && (qualified > 0 || !is_other(i)) {
            out.push_str(&value[end..parts[i].span.start]);
            out.push_str("NEW.");
            out.push_str(&value[parts[column].span.clone()]);
            end = parts[column].span.end;
            i = column;
        }
        i += 1;
    }
    out.push_str(&value[end..]);
    out
}

fn starts(job: &str) -> Revision {
    Revision { title: job.replace('_', " "), body: format!("-- backfill: {job}\n") }
}
