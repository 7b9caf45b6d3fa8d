//! Names that mean something else wherever they are not quoted, in every place that a name can stand in.

use crate::support::Db;

const HOSTILE: [&str; 12] = [
    "a\"b",
    "a.b",
    "select",
    "Ümläut ☃",
    "x'y",
    "; drop table innocent; --",
    "$1 %s {schema}",
    "a\\b",
    " blank ",
    "line\nbreak",
    "t",
    // With a digit behind it the longest that a server takes.
    "sixty_two_bytes_are_all_but_one_that_a_name_may_have_on_servers",
];

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A TOML string: JSON's escapes are among those that it knows.
fn toml(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

#[test]
fn hostile_names_are_names() {
    for (i, name) in HOSTILE.into_iter().enumerate() {
        let db = Db::found();
        let name: String = name.chars().take(60).collect();
        let [schema, table, key, column, part] =
            ["", "1", "2", "3", "4"].map(|tail| quoted(&format!("{name}{tail}")));
        let (by, rows) = if i % 2 == 0 { ("", 300) } else { (" partition by range (KEY)", 300) };
        db.sql.run(&format!(
            "create table innocent (); create schema {schema};
             create table {schema}.{table} ({key} bigint primary key, {column} int default 1){}",
            by.replace("KEY", &key)
        ));
        if !by.is_empty() {
            db.sql.run(&format!(
                "create table {schema}.{part} partition of {schema}.{table} for values from (0) to (200);
                 create table {schema}.{} partition of {schema}.{table} for values from (200) to (9999)",
                quoted(&format!("{name}5"))
            ));
        }
        db.sql.run(&format!(
            "insert into {schema}.{table} select i from generate_series(1, {rows}) i; analyze {schema}.{table};
             create schema {}",
            quoted(&format!("{name}6"))
        ));
        std::fs::write(
            db.directory.join("backfill.toml"),
            format!("[database]\nstate_schema = {}\n", toml(&format!("{name}6"))),
        )
        .unwrap();
        db.spec(
            "odd",
            &format!(
                "table = {}\n[[rule]]\nwhen = {}\nset = {{ {} = {} }}\n[limits]\nchunk_rows_max = 50\n",
                toml(&format!("{schema}.{table}")),
                toml(&format!("{key} > 0")),
                toml(&format!("{name}3")),
                toml(&format!("{column} + 1")),
            ),
        );
        let sum = format!("select sum({column}) from {schema}.{table}");
        db.backfill(&["plan", "odd"]).exits(0);
        db.backfill(&["run", "odd"]).exits(0);
        assert_eq!(db.sql.number(&sum), 600, "{name}");
        db.backfill(&["verify", "odd"]).exits(0);
        db.backfill(&["status", "odd", "--json"]).exits(0).json();
        db.sql.run(&format!("update {schema}.{table} set {column} = 50 where {key} = 7"));
        db.backfill(&["reverse", "odd"]).exits(5);
        assert_eq!(db.sql.number(&sum), 299 + 50, "{name}");
        db.backfill(&["prune", "odd", "--yes"]).exits(0);
        db.backfill(&["log", "odd"]).exits(0);
        db.sql.run("select from innocent");
    }
}
