//! Zero-downtime recipes, written out: each becomes revisions with their ways back, a spec where there is data to move, and the demands
//! between them. Pure.

use super::split::words;
use crate::sql::Ident;

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
        let back = column
            .default
            .as_ref()
            .map_or("DROP DEFAULT".to_owned(), |old| format!("SET DEFAULT {old}"));
        revision(
            format!("guard {short} {wanted}"),
            "-- From here on no row comes without a value; the guard stands before the backfill, or rows behind its back would be missed.\n",
            &format!("ALTER TABLE {table} ALTER COLUMN {quoted} SET DEFAULT {value};\n"),
            &format!("ALTER TABLE {table} ALTER COLUMN {quoted} {back};\n"),
        )
    };
    let (up, down) = require(&table, short, wanted);
    let contract = revision(
        format!("require {short} {wanted}"),
        &format!("-- requires: {job}@verified\n"),
        &up,
        &down,
    );
    Ok(Recipe {
        revisions: vec![guard, starts(&job), contract],
        spec: Some((
            job.clone(),
            spec(&format!("a value for {wanted} where there is none"), shape, wanted, value),
        )),
    })
}

/// An expression over the row, as a trigger sees it.
fn of_new_row(shape: &Shape, value: &str) -> String {
    let mut text = String::new();
    let mut end = 0;
    let parts = words(value);
    for (i, word) in parts.iter().enumerate() {
        let is_column = word.is_name && shape.columns.iter().any(|column| column.name == word.text);
        let is_qualified = i > 0 && parts[i - 1].text == ".";
        text.push_str(&value[end..word.span.start]);
        if is_column && !is_qualified {
            text.push_str("NEW.");
        }
        text.push_str(&value[word.span.clone()]);
        end = word.span.end;
    }
    text.push_str(&value[end..]);
    text
}

fn starts(job: &str) -> Revision {
    Revision { title: job.replace('_', " "), body: format!("-- backfill: {job}\n") }
}

/// Two columns kept alike: `with_old` converts the old one's value, `with_new` the new one's.
fn sync(
    shape: &Shape,
    (old, new): (&str, &str),
    (with_old, with_new): (&str, &str),
) -> (String, String) {
    let short = shape.table.as_str();
    let table = shape.quoted();
    let function = format!("{}.{}", name(&shape.schema), name(&made(&[short, new, "sync"])));
    let (insert, update) = (name(&made(&[short, new, "ins"])), name(&made(&[short, new, "upd"])));
    let (o, n) = (name(old), name(new));
    let up = format!(
        "CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$\n\
         BEGIN\n\
         \x20   IF TG_OP = 'INSERT' THEN\n\
         \x20       IF NEW.{n} IS NULL THEN NEW.{n} := {with_old}; ELSE NEW.{o} := {with_new}; END IF;\n\
         \x20   ELSIF NEW.{o} IS DISTINCT FROM OLD.{o} THEN\n\
         \x20       NEW.{n} := {with_old};\n\
         \x20   ELSIF NEW.{n} IS NOT NULL THEN\n\
         \x20       NEW.{o} := {with_new};\n\
         \x20   END IF; -- NULL in the new column is the backfill being taken back; the old one stays as it is\n\
         \x20   RETURN NEW;\n\
         END\n\
         $$;\n\
         CREATE TRIGGER {insert} BEFORE INSERT ON {table}\n    FOR EACH ROW EXECUTE FUNCTION {function}();\n\
         CREATE TRIGGER {update} BEFORE UPDATE OF {o}, {n} ON {table}\n    FOR EACH ROW WHEN (NEW.{o} IS DISTINCT FROM OLD.{o} OR NEW.{n} IS DISTINCT FROM OLD.{n})\n    \
         EXECUTE FUNCTION {function}();\n"
    );
    let down = format!(
        "DROP TRIGGER {update} ON {table};\nDROP TRIGGER {insert} ON {table};\nDROP FUNCTION {function}();\n"
    );
    (up, down)
}

/// The indexes of the old column, for the new one.
fn indexes_for(shape: &Shape, old: &str, new: &str) -> Option<Revision> {
    let (mut up, mut down) = (String::new(), String::new());
    for definition in &shape.indexes {
        let parts = words(definition);
        let Some(open) = parts.iter().position(|word| word.text == "(") else { continue };
        let Some(on) = parts.iter().position(|word| word.is("on")) else { continue };
        if !parts[open..].iter().any(|word| word.is_name && word.text == old) {
            continue;
        }
        let old_name = &parts[on - 1];
        let new_name = made(&[&old_name.text.replace(old, ""), new]).replace("__", "_");
        let new_name = name(if new_name == old_name.text {
            "renamed_index"
        } else {
            new_name.trim_matches('_')
        });
        let mut text = definition[..old_name.span.start].to_owned() + "CONCURRENTLY " + &new_name;
        let mut end = old_name.span.end;
        for word in &parts[open..] {
            if word.is_name && word.text == old {
                text.push_str(&definition[end..word.span.start]);
                text.push_str(&name(new));
                end = word.span.end;
            }
        }
        text.push_str(&definition[end..]);
        up.push_str(&format!("{text};\n"));
        down.insert_str(
            0,
            &format!("DROP INDEX CONCURRENTLY {}.{new_name};\n", name(&shape.schema)),
        );
    }
    (!up.is_empty()).then(|| revision(format!("index {} {new}", shape.table), "", &up, &down))
}

fn check_free(shape: &Shape, column: &Column, new: &str) -> Result<(), String> {
    if shape.columns.iter().any(|other| other.name == new) {
        return Err(format!("{}.{} has a column `{new}` already", shape.schema, shape.table));
    }
    if column.holders.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} is held in place by {}; a key cannot be moved by a recipe: build it on the new column first, by hand",
        column.name,
        column.holders.join(", ")
    ))
}

fn rename_column(shape: &Shape, old: &str, new: &str) -> Result<Recipe, String> {
    let column = shape.column(old)?;
    check_free(shape, column, new)?;
    let (table, short) = (shape.quoted(), shape.table.as_str());
    let job = made(&["copy", short, new]);
    let (o, n) = (name(old), name(new));
    let (sync_up, sync_down) = sync(shape, (old, new), (&format!("NEW.{o}"), &format!("NEW.{n}")));
    let expand = revision(
        format!("expand {short} {old} to {new}"),
        &format!(
            "-- {old} becomes {new}: both stand side by side, whichever the application writes, until nobody reads the old name.\n"
        ),
        &format!("ALTER TABLE {table} ADD COLUMN {n} {};\n{sync_up}", column.kind),
        &format!("{sync_down}ALTER TABLE {table} DROP COLUMN {n};\n"),
    );
    let mut revisions = vec![expand, starts(&job)];
    revisions.extend(indexes_for(shape, old, new));
    let mut level = "verified";
    if column.is_required {
        let (up, down) = require(&table, short, new);
        revisions.push(revision(
            format!("require {short} {new}"),
            &format!("-- requires: {job}@verified\n"),
            &up,
            &down,
        ));
        level = "proved";
    }
    let header = format!(
        "-- requires: {job}@{level}\n-- irreversible: the old column is gone; its values live on in {new}\n-- ignore drop-column: contract of a rename\n"
    );
    let mut drop = format!("{sync_down}ALTER TABLE {table} DROP COLUMN {o};\n");
    if let Some(default) = &column.default {
        // Not before: a default of both would hide which of them the application wrote.
        drop.push_str(&format!("ALTER TABLE {table} ALTER COLUMN {n} SET DEFAULT {default};\n"));
    }
    revisions.push(Revision {
        title: format!("drop {short} {old}"),
        body: format!("{header}\n-- up\n{drop}"),
    });
    Ok(Recipe {
        revisions,
        spec: Some((job, spec(&format!("{old} under its new name"), shape, new, &o))),
    })
}

fn change_type(
    shape: &Shape,
    old: &str,
    kind: &str,
    using: Option<&str>,
) -> Result<Recipe, String> {
    let column = shape.column(old)?;
    let new = made(&[old, "new"]);
    let gone = made(&[old, "old"]);
    check_free(shape, column, &new)?;
    check_free(shape, column, &gone)?;
    let (table, short) = (shape.quoted(), shape.table.as_str());
    let job = made(&["convert", short, old]);
    let (o, n, g) = (name(old), name(&new), name(&gone));
    let convert = using.map_or_else(|| format!("{o}::{kind}"), str::to_owned);
    let of_row = of_new_row(shape, &convert);
    let function = format!("{}.{}", name(&shape.schema), name(&made(&[short, &new, "sync"])));
    let trigger = name(&made(&[short, &new, "sync"]));
    let make = |target: &str, value: &str, source: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$\nBEGIN\n    NEW.{target} := {value};\n    RETURN NEW;\nEND\n$$;\n\
             CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE OF {source} ON {table}\n    FOR EACH ROW EXECUTE FUNCTION {function}();\n"
        )
    };
    let expand = revision(
        format!("expand {short} {old} to {kind}"),
        &format!("-- {old} becomes {kind}: a second column follows it until it takes its place.\n"),
        &format!("ALTER TABLE {table} ADD COLUMN {n} {kind};\n{}", make(&n, &of_row, &o)),
        &format!(
            "DROP TRIGGER {trigger} ON {table};\nDROP FUNCTION {function}();\nALTER TABLE {table} DROP COLUMN {n};\n"
        ),
    );
    let mut revisions = vec![expand, starts(&job)];
    revisions.extend(indexes_for(shape, old, &new));
    let mut swap_header = format!("-- requires: {job}@verified\n");
    if column.is_required {
        let (up, down) = require(&table, short, &new);
        revisions.push(revision(format!("require {short} {new}"), &swap_header, &up, &down));
    }
    swap_header.push_str(&format!(
        "-- ignore rename-column: {old} is there before and after, in one transaction\n"
    ));
    let mut swap = format!(
        "DROP TRIGGER {trigger} ON {table};\nALTER TABLE {table} RENAME COLUMN {o} TO {g};\nALTER TABLE {table} RENAME COLUMN {n} TO {o};\n"
    );
    let mut back = format!(
        "DROP TRIGGER {trigger} ON {table};\nALTER TABLE {table} RENAME COLUMN {o} TO {n};\nALTER TABLE {table} RENAME COLUMN {g} TO {o};\n"
    );
    if column.is_required {
        swap.push_str(&format!("ALTER TABLE {table} ALTER COLUMN {g} DROP NOT NULL;\n"));
        // The way back does not read the table under a strong lock either.
        let (again, _) = require(&table, short, old);
        back.push_str(&make(&n, &of_row, &o));
        back.push_str(&again);
    } else {
        back.push_str(&make(&n, &of_row, &o));
    }
    if let Some(default) = &column.default {
        swap.push_str(&format!("ALTER TABLE {table} ALTER COLUMN {o} SET DEFAULT {default};\nALTER TABLE {table} ALTER COLUMN {g} DROP DEFAULT;\n"));
        back.push_str(&format!("ALTER TABLE {table} ALTER COLUMN {o} SET DEFAULT {default};\nALTER TABLE {table} ALTER COLUMN {n} DROP DEFAULT;\n"));
    }
    // What the old type cannot hold is left out of it, so that no write fails for a column that is about to go.
    let lossy = format!(
        "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$\nBEGIN\n    BEGIN\n        NEW.{g} := NEW.{o}::text::{};\n    EXCEPTION WHEN others THEN\n        NEW.{g} := NULL;\n    END;\n    RETURN NEW;\nEND\n$$;\n\
         CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE OF {o} ON {table}\n    FOR EACH ROW EXECUTE FUNCTION {function}();\n",
        column.kind
    );
    swap.push_str(&lossy);
    revisions.push(revision(format!("swap {short} {old}"), &swap_header, &swap, &back));
    let header = format!(
        "-- irreversible: the column of the old type is gone\n-- ignore drop-column: nobody knows {gone} but its trigger\n"
    );
    let drop = format!(
        "DROP TRIGGER {trigger} ON {table};\nDROP FUNCTION {function}();\nALTER TABLE {table} DROP COLUMN {g};\n"
    );
    revisions.push(Revision {
        title: format!("drop {short} {gone}"),
        body: format!("{header}\n-- up\n{drop}"),
    });
    Ok(Recipe {
        revisions,
        spec: Some((job, spec(&format!("{old} as {kind}"), shape, &new, &convert))),
    })
}

fn drop_column(shape: &Shape, wanted: &str) -> Result<Recipe, String> {
    let column = shape.column(wanted)?;
    let (table, short, quoted) = (shape.quoted(), shape.table.as_str(), name(wanted));
    let mut revisions = Vec::new();
    if column.is_required {
        let (again, _) = require(&table, short, wanted);
        revisions.push(revision(
            format!("release {short} {wanted}"),
            "-- First of two phases: the application may leave it out. Deploy the code that does, then go on.\n",
            &format!("ALTER TABLE {table} ALTER COLUMN {quoted} DROP NOT NULL;\n"),
            &again,
        ));
    }
    let header = "-- The last phase, when no code reads or writes it any more.\n-- irreversible: nobody kept the values\n-- ignore drop-column: no code uses it any more\n";
    let header = if column.is_required {
        header.replace("-- ignore drop-column: no code uses it any more\n", "")
    } else {
        header.to_owned()
    };
    revisions.push(Revision {
        title: format!("drop {short} {wanted}"),
        body: format!("{header}\n-- up\nALTER TABLE {table} DROP COLUMN {quoted};\n"),
    });
    Ok(Recipe { revisions, spec: None })
}

fn add_foreign_key(shape: &Shape, wanted: &str, target: &str) -> Result<Recipe, String> {
    shape.column(wanted)?;
    let (table, short, quoted) = (shape.quoted(), shape.table.as_str(), name(wanted));
    let constraint = name(&made(&[short, wanted, "fkey"]));
    let mut revisions = Vec::new();
    let leads = |definition: &String| {
        let parts = words(definition);
        let open = parts.iter().position(|word| word.text == "(");
        open.and_then(|open| parts.get(open + 1)).is_some_and(|word| word.text == wanted)
    };
    let column = shape.column(wanted)?;
    if !shape.indexes.iter().any(leads) && column.holders.is_empty() {
        // Without it every delete of a referenced row reads this whole table.
        revisions.extend(indexed(shape, &[wanted.to_owned()], false)?.revisions);
    }
    revisions.push(revision(
        format!("reference {short} {wanted}"),
        "-- Rows to come are checked at once, those that are there without keeping anybody out.\n",
        &format!(
            "ALTER TABLE {table} ADD CONSTRAINT {constraint} FOREIGN KEY ({quoted}) REFERENCES {target} NOT VALID;\nALTER TABLE {table} VALIDATE CONSTRAINT {constraint};\n"
        ),
        &format!("ALTER TABLE {table} DROP CONSTRAINT {constraint};\n"),
    ));
    Ok(Recipe { revisions, spec: None })
}

fn add_check(shape: &Shape, condition: &str) -> Recipe {
    let (table, short) = (shape.quoted(), shape.table.as_str());
    let about: Vec<String> = words(condition)
        .into_iter()
        .filter(|word| word.is_name && shape.columns.iter().any(|column| column.name == word.text))
        .map(|word| word.text)
        .collect();
    let about = about.first().map_or("", String::as_str);
    let constraint = name(&made(&[short, about, "check"]).replace("__", "_"));
    let check = revision(
        format!("check {short} {about}"),
        "-- Rows to come are checked at once, those that are there without keeping anybody out.\n",
        &format!(
            "ALTER TABLE {table} ADD CONSTRAINT {constraint} CHECK ({condition}) NOT VALID;\nALTER TABLE {table} VALIDATE CONSTRAINT {constraint};\n"
        ),
        &format!("ALTER TABLE {table} DROP CONSTRAINT {constraint};\n"),
    );
    Recipe { revisions: vec![check], spec: None }
}

fn indexed(shape: &Shape, columns: &[String], is_unique: bool) -> Result<Recipe, String> {
    for column in columns {
        shape.column(column)?;
    }
    let (table, short) = (shape.quoted(), shape.table.as_str());
    let list = columns.iter().map(|column| name(column)).collect::<Vec<_>>().join(", ");
    let mut parts = vec![short];
    parts.extend(columns.iter().map(String::as_str));
    parts.push(if is_unique { "key" } else { "idx" });
    let index = name(&made(&parts));
    let schema = name(&shape.schema);
    let (what, up, down) = if is_unique {
        let up = format!(
            "CREATE UNIQUE INDEX CONCURRENTLY {index} ON {table} ({list});\nALTER TABLE {table} ADD CONSTRAINT {index} UNIQUE USING INDEX {index};\n"
        );
        ("unique", up, format!("ALTER TABLE {table} DROP CONSTRAINT {index};\n"))
    } else {
        let up = format!("CREATE INDEX CONCURRENTLY {index} ON {table} ({list});\n");
        ("index", up, format!("DROP INDEX CONCURRENTLY {schema}.{index};\n"))
    };
    let title = format!("{what} {short} {}", columns.join(" "));
    Ok(Recipe { revisions: vec![revision(title, "", &up, &down)], spec: None })
}
