//! What `verify` can tell from the data of a `set`, and what only the chunk map can.

use crate::support::Db;

fn table(db: &Db) {
    db.sql.run(
        "create domain email as text check (value ~ '@'); create domain emails as email[]; create domain must as text not null; create domain code as varchar(3); create domain codes as code;
         create table t (id int primary key, k int, mail email, mails emails, must must default 'old', money numeric(5, 2), sums numeric(5, 2)[],
             code codes, plain text collate \"C\", words text[] collate \"C\", at timestamptz(0), short varchar(3), fixed char(5), a text, upper text generated always as (upper(a)) stored)",
    );
    db.sql.run(
        "insert into t (id, k, a) select i, i % 3, 'a' from generate_series(1, 300) i; analyze t",
    );
}

#[test]
fn a_set_is_told_by_what_the_column_holds() {
    let db = Db::found();
    table(&db);
    let rules = [
        "when = \"k = 1\"\nset = { mail = \"'a@b'\" }",
        "when = \"k = 1\"\nset = { mails = \"ARRAY['a@b']\" }",
        "when = \"k = 1\"\nset = { must = \"'new'\" }",
        "when = \"k = 1\"\nset = { mail = \"'a@b'\" }\n[[rule]]\nwhen = \"k = 2\"\nset = { mail = \"'b@b'\", a = \"'x'\" }",
        "when = \"k = 1\"\nset = { mail = \"'c@b'\" }\n[[rule]]\nfill = { short = \"'abc'\" }",
        "set = { plain = \"a\", words = \"ARRAY[a]\" }",
        "set = { plain = \"'x'\" }\n[[rule]]\nwhen = \"k = 1\"\nset = { code = \"'abc'\" }",
        // As the column rounds it.
        "set = { money = \"1.005\", sums = \"ARRAY[1.005, id / 300.0]\" }",
        "set = { at = \"timestamptz '2026-01-01 00:00:00.6+00'\" }",
        "set = { fixed = \"'ab'\", short = \"'xyz'\" }",
    ];
    for rule in rules {
        db.spec("told", &format!("table = \"t\"\n[[rule]]\n{rule}\n"));
        db.backfill(&["run", "told", "--again"]).exits(0);
        let told = db.backfill(&["verify", "told", "--json"]);
        assert_eq!(told.code, 0, "{rule}: {}{}", told.stdout, told.stderr);
        assert_eq!(told.json()["method"], "data", "{rule}");
    }
    db.spec("told", &format!("table = \"t\"\n[[rule]]\n{}\n", rules[0]));
    db.backfill(&["run", "told", "--again"]).exits(0);
    db.sql
        .run("update t set mail = 'z@z' where id in (1, 2); update t set mail = null where id = 4");
    let left = db.backfill(&["verify", "told", "--json"]).exits(6).json();
    assert_eq!(left["rows_remaining"], 2, "the row of another `when` is none of its own");
}

/// Where a hand-written UPDATE refuses a value, the statement of a chunk does, also with several columns.
#[test]
fn a_value_that_is_too_long_for_a_domain_is_not_cut() {
    let db = Db::found();
    table(&db);
    db.spec(
        "long",
        "table = \"t\"\n[[rule]]\nwhen = \"id = 7\"\nset = { code = \"'abcdef'\", k = \"9\" }\n",
    );
    db.backfill(&["run", "long"]).exits(5).says("value too long");
    assert_eq!(db.sql.number("select count(*) from t where code is not null or k = 9"), 0);
}

#[test]
fn a_set_that_is_another_one_later_is_told_by_its_chunks() {
    let db = Db::found();
    table(&db);
    for rule in [
        "set = { at = \"now()\" }",
        "set = { at = \"'now'\" }",
        "set = { at = \"$$now$$\" }",
        "set = { at = \"pg_catalog.\\\"now\\\"()\" }",
        "when = \"at is null or at < current_timestamp\"\nset = { a = \"'x'\" }",
        "set = { a = \"coalesce(upper, '') || 'z'\" }",
    ] {
        db.spec("told", &format!("table = \"t\"\n[[rule]]\n{rule}\n"));
        db.backfill(&["run", "told", "--again"]).exits(0);
        let told = db.backfill(&["verify", "told", "--json"]);
        assert_eq!(told.code, 0, "{rule}: {}{}", told.stdout, told.stderr);
        assert_eq!(told.json()["method"], "chunk_map", "{rule}");
    }
}
