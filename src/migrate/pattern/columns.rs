//! Recipes that move a column: to another name, to another type, away.

use super::{
    Column, Recipe, Revision, Shape, made, name, of_new_row, require, revision, spec, starts,
};
use crate::migrate::split::words;

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
         \x20   ELSIF NEW.{n} IS NOT NULL OR current_setting('backfill.writes', true) IS DISTINCT FROM 'on' THEN\n\
         \x20       NEW.{o} := {with_new};\n\
         \x20   END IF; -- when the backfill is taken back, the new column becomes NULL and the old one stays as it is\n\
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
        "{} is held in place by {}; what holds it cannot be moved by a recipe: build it on the new column first, by hand",
        column.name,
        column.holders.join(", ")
    ))
}

pub(super) fn rename_column(shape: &Shape, old: &str, new: &str) -> Result<Recipe, String> {
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
        "-- requires: {job}@{level}\n-- stop: no code may use {old} any more\n-- irreversible: the old column is gone; its values live on in {new}\n-- ignore drop-column: contract of a rename\n"
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

pub(super) fn change_type(
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
    if using.is_some() && column.default.is_some() {
        return Err(format!(
            "{old} has a default, which would need another form; drop it first, and set the new one behind the swap"
        ));
    }
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
    back.push_str(&make(&n, &of_row, &o));
    if let Some(default) = &column.default {
        swap.push_str(&format!("ALTER TABLE {table} ALTER COLUMN {o} SET DEFAULT {default};\nALTER TABLE {table} ALTER COLUMN {g} DROP DEFAULT;\n"));
        back.push_str(&format!("ALTER TABLE {table} ALTER COLUMN {o} SET DEFAULT {default};\nALTER TABLE {table} ALTER COLUMN {n} DROP DEFAULT;\n"));
    }
    if column.default.is_some() {
        swap_header
            .push_str(&format!("-- ignore drop-default: {gone} is written by the trigger alone\n"));
    }
    if column.is_required {
        swap_header.push_str(&format!("-- ignore drop-not-null: {gone} is read by nobody\n"));
        swap.push_str(&format!("ALTER TABLE {table} ALTER COLUMN {g} DROP NOT NULL;\n"));
        // The way back does not read the table under a strong lock either; it comes last, because it is cut into transactions.
        back.push_str(&require(&table, short, old).0);
    }
    // What the old type cannot hold is left out of it, so that no write fails for a column that is about to go.
    let lossy = format!(
        "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$\nBEGIN\n    BEGIN\n        NEW.{g} := NEW.{o}::text::{};\n    EXCEPTION WHEN others THEN\n        NEW.{g} := NULL;\n    END;\n    RETURN NEW;\nEND\n$$;\n\
         CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE OF {o} ON {table}\n    FOR EACH ROW EXECUTE FUNCTION {function}();\n",
        column.kind
    );
    if using.is_some() {
        // Nobody said how to convert back, so the old column is kept as it was and there is no way back to it.
        swap_header.push_str("-- stop: from here on only the new form is written\n-- irreversible: nobody said how to convert back\n");
        let gone = format!("DROP FUNCTION {function}();\n");
        let body = format!("{swap_header}\n-- up\n{swap}{gone}");
        revisions.push(Revision { title: format!("swap {short} {old}"), body });
    } else {
        swap.push_str(&lossy);
        revisions.push(revision(format!("swap {short} {old}"), &swap_header, &swap, &back));
        revisions.push(still_fits(&table, short, (&o, &g), kind));
    }
    let header = format!(
        "-- stop: the new type must have proved itself; there is no way back from here\n-- irreversible: the column of the old type is gone\n-- ignore drop-column: nobody knows {gone} but its trigger\n"
    );
    let sync = match using {
        Some(_) => String::new(),
        None => format!("DROP TRIGGER {trigger} ON {table};\nDROP FUNCTION {function}();\n"),
    };
    let drop = format!("{sync}ALTER TABLE {table} DROP COLUMN {g};\n");
    revisions.push(Revision {
        title: format!("drop {short} {gone}"),
        body: format!("{header}\n-- up\n{drop}"),
    });
    Ok(Recipe {
        revisions,
        spec: Some((job, spec(&format!("{old} as {kind}"), shape, &new, &convert))),
    })
}

/// A revision whose way back looks, before the columns change places again, whether the old type holds everything.
fn still_fits(table: &str, short: &str, (new, old): (&str, &str), kind: &str) -> Revision {
    let check = format!(
        "DO $$\nBEGIN\n    IF EXISTS (SELECT FROM {table} WHERE {old} IS NULL AND {new} IS NOT NULL) THEN\n        \
         RAISE EXCEPTION 'values of {new} do not fit the type it had before {kind}';\n    END IF;\nEND\n$$;\n"
    );
    let header = "-- Nothing on the way there; on the way back it is looked first whether the old type holds everything.\n";
    revision(format!("keep {short} {new} in both forms"), header, "", &check)
}

pub(super) fn drop_column(shape: &Shape, wanted: &str) -> Result<Recipe, String> {
    let column = shape.column(wanted)?;
    if !column.holders.is_empty() {
        return Err(format!(
            "with {wanted} goes {}; drop that first, if it is meant",
            column.holders.join(", ")
        ));
    }
    let (table, short, quoted) = (shape.quoted(), shape.table.as_str(), name(wanted));
    let mut revisions = Vec::new();
    if column.is_required {
        let (again, _) = require(&table, short, wanted);
        revisions.push(revision(
            format!("release {short} {wanted}"),
            "-- First of two phases: the application may leave it out. Deploy the code that does, then go on.\n-- ignore drop-not-null: it is about to go, and no reader of it is to be left\n",
            &format!("ALTER TABLE {table} ALTER COLUMN {quoted} DROP NOT NULL;\n"),
            &again,
        ));
    }
    let known =
        if column.is_required { "" } else { "-- ignore drop-column: no code uses it any more\n" };
    let header = format!(
        "-- The last phase.\n-- stop: no code may read or write {wanted} any more\n-- irreversible: nobody kept the values\n{known}"
    );
    revisions.push(Revision {
        title: format!("drop {short} {wanted}"),
        body: format!("{header}\n-- up\nALTER TABLE {table} DROP COLUMN {quoted};\n"),
    });
    Ok(Recipe { revisions, spec: None })
}
