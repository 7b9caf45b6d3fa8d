//! Recipes for constraints and indexes: rows to come are held to them at once, those that are there without keeping anybody out.

use super::{Recipe, Shape, made, name, revision};
use crate::migrate::split::words;

pub(super) fn add_foreign_key(shape: &Shape, wanted: &str, target: &str) -> Result<Recipe, String> {
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

pub(super) fn add_check(shape: &Shape, condition: &str) -> Recipe {
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

pub(super) fn indexed(
    shape: &Shape,
    columns: &[String],
    is_unique: bool,
) -> Result<Recipe, String> {
    for column in columns {
        shape.column(column)?;
    }
    let (table, short) = (shape.quoted(), shape.table.as_str());
    let list = columns.iter().map(|column| name(column)).collect::<Vec<_>>().join(", ");
    let mut parts = vec![short];
    parts.extend(columns.iter().map(String::as_str));
    parts.push(if is_unique { "key" } else { "idx" });
    let index = name(&made(&parts));
    let home = name(&shape.schema);
    let (what, up, down) = if is_unique {
        let up = format!(
            "CREATE UNIQUE INDEX CONCURRENTLY {index} ON {table} ({list});\nALTER TABLE {table} ADD CONSTRAINT {index} UNIQUE USING INDEX {index};\n"
        );
        ("unique", up, format!("ALTER TABLE {table} DROP CONSTRAINT {index};\n"))
    } else {
        let up = format!("CREATE INDEX CONCURRENTLY {index} ON {table} ({list});\n");
        ("index", up, format!("DROP INDEX CONCURRENTLY {home}.{index};\n"))
    };
    let title = format!("{what} {short} {}", columns.join(" "));
    Ok(Recipe { revisions: vec![revision(title, "", &up, &down)], spec: None })
}
