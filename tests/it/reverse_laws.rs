//! Run, then reverse, is the identity: for every type, killed at any moment, and beside an application whose writes must all survive.

use crate::support::{Db, Sql, Which, wait_for};

/// A column type, and SQL for three old values of it and the new one.
const TYPES: [(&str, [&str; 3], &str); 22] = [
    ("int", ["1", "null", "-7"], "2"),
    ("numeric", ["1.0", "'NaN'", "1.00"], "1"),
    ("numeric(12, 4)", ["1.5", "null", "-0.0001"], "99999999.9999"),
    ("float8", ["'-0'", "'Infinity'", "'NaN'"], "0"),
    ("real", ["0.1", "1e-30", "null"], "3.4e38"),
    ("text", ["''", "E'a\\nb\\\\''\"'", "repeat('long ', 3000)"], "repeat('other', 2000)"),
    ("varchar(3)", ["'abc'", "''", "null"], "'x'"),
    ("char(5)", ["'ab'", "''", "null"], "'x'"),
    ("bytea", ["'\\x00ff'", "''", "null"], "'\\xdeadbeef'"),
    ("boolean", ["true", "null", "false"], "null"),
    (
        "timestamptz",
        ["'infinity'", "'-infinity'", "'0044-03-15 BC'"],
        "'2026-01-01 00:00:00.000001+00'",
    ),
    ("interval", ["'1 mon -1 day'", "'24:00'", "'1 day'"], "'30 days'"),
    (
        "date[]",
        ["'{infinity,null}'", "'[0:1]={2020-01-01,2020-01-02}'", "'{}'"],
        "'{{2020-01-01},{null}}'",
    ),
    ("text[]", ["array[null, '', 'null', '\"', '{}']", "'{}'", "null"], "array['x']"),
    ("int4range", ["'[1,5)'", "'empty'", "'(,)'"], "'[7,8)'"),
    ("jsonb", ["'null'", "'{\"a\": [1, 1.0, \"\\u00e9\"]}'", "null"], "'[]'"),
    ("json", ["'{\"b\":1, \"a\" : 2,\"a\":3}'", "'[1,  2]'", "null"], "'{}'"),
    ("point", ["'(1,2)'", "'(NaN,-0)'", "null"], "'(0,0)'"),
    ("xml", ["'<a>b</a>'", "null", "'<a  c=\"1\"/>'"], "'<z/>'"),
    ("mood", ["'ok'", "null", "'sad'"], "'happy'"),
    ("positive", ["1", "null", "2147483647"], "5"),
    ("pair", ["row(1, null)", "row(null, null)", "null"], "row(3, '{x}')"),
];

/// Those whose values are equal only when their bytes are.
const EXACT: [&str; 8] =
    ["int", "text", "varchar(3)", "bytea", "timestamptz", "date[]", "text[]", "mood"];

/// Byte for byte: `*=` compares stored images, so 1.0 is not 1.00 and no equality operator is asked for.
const CHANGED: &str = "select count(*) from t join before b using (id) where not (row(t.*)::record *= row(b.*)::record)";

fn identity_of_types(which: Which) {
    let db = Db::new(which);
    db.sql.run(
        "create type mood as enum ('happy', 'ok', 'sad'); create domain positive as int check (value > 0);
         create type pair as (a int, b text[])",
    );
    for (i, (ty, old, new)) in TYPES.iter().enumerate() {
        // Built without libxml, a server knows the type but not the input.
        if *ty == "xml" && db.sql.try_run("select '<a/>'::xml").is_err() {
            continue;
        }
        let [a, b, c] = old.map(|value| format!("({value})::{ty}"));
        db.sql.run(&format!(
            "drop table if exists t, before; create table t (id bigint primary key, v {ty}, f {ty});
             insert into t select i, (array[{a}, {b}, {c}])[1 + i % 3] from generate_series(1, 300) i;
             analyze t; create table before as table t"
        )
        .replace(&format!("(array[{a}, {b}, {c}])[1 + i % 3]"), &format!("case i % 3 when 0 then {a} when 1 then {b} else {c} end")));
        let name = format!("type{i}");
        // `set` takes the general path, `fill` the short one.
        let new = format!("({new})::{ty}");
        db.spec(
            &name,
            &format!(
                "table = \"t\"\n[[rule]]\nset = {{ v = {new:?} }}\n[limits]\nchunk_rows_max = 40\n"
            ),
        );
        db.backfill(&["run", &name]).exits(0);
        if *ty != "boolean" {
            let fill = format!("fill{i}");
            db.spec(&fill, &format!("table = \"t\"\n[[rule]]\nfill = {{ f = {new:?} }}\n"));
            db.backfill(&["run", &fill]).exits(0);
            assert_eq!(
                db.sql.number("select count(*) from t where f is not distinct from null"),
                0,
                "{ty}"
            );
            let kept = db.sql.number("select max(run_id) from backfill.run");
            let sides =
                format!("select string_agg(distinct side, ', ') from backfill.before_image_{kept}");
            let has_lz4 = "select coalesce((select 'lz4' = any (enumvals) from pg_settings where name = 'default_toast_compression'), false)";
            // One row for the value and all its keys, where values are equal only when their bytes are and nothing packs them cheaply.
            let by_value = EXACT.contains(ty) && db.sql.text(has_lz4) == "f";
            assert_eq!(db.sql.text(&sides), if by_value { "by value" } else { "both" }, "{ty}");
            db.backfill(&["reverse", &fill]).exits(0);
        }
        assert!(db.sql.number(CHANGED) > 150, "{ty}: the run changed the rows");
        let reversed = db.backfill(&["reverse", &name]);
        assert_eq!(reversed.code, 0, "{ty}: {}", reversed.stderr);
        assert_eq!(db.sql.number(CHANGED), 0, "{ty}");
    }
    // What cannot be an element of an array was kept in types of its own; they go with the before-images.
    let made =
        "select count(*) from pg_type where typname ~ '^before_image_[0-9]+_(k|old_|new_)[0-9]+$'";
    assert!(db.sql.number(made) > 0);
    for name in db.sql.rows("select distinct name from backfill.run") {
        db.backfill(&["prune", &name[0], "--yes"]).exits(0);
    }
    assert_eq!(db.sql.number(made), 0);
}

#[test]
fn every_type_survives_on_the_server_that_is_found() {
    identity_of_types(Which::Found);
}

#[test]
fn every_type_survives_on_the_oldest_server() {
    identity_of_types(Which::Oldest);
}

#[test]
fn every_type_survives_on_the_newest_server() {
    identity_of_types(Which::Newest);
}

#[test]
fn values_too_long_for_one_array_are_kept_in_parts() {
    let db = Db::found();
    // 400 values of 100 kB that do not compress, stored out of line.
    db.sql.run(
        "create table t (id bigint primary key, v text); alter table t alter v set storage external;
         insert into t select i, (select string_agg(md5((i * 10000 + j)::text), '') from generate_series(1, 3125) j)
           from generate_series(1, 400) i;
         analyze t; create table before as table t",
    );
    db.spec("long", "table = \"t\"\n[[rule]]\nset = { v = \"upper(v)\" }\n[limits]\nworkers = 1\nchunk_rows_max = 400\nchunk_time = \"20s\"\n");
    db.backfill(&["run", "long"]).exits(0);
    let parts = db.sql.number("select max(part) from backfill.before_image_1");
    assert!(parts >= 5, "{parts} parts of 4 MB for 40 MB");
    db.backfill(&["reverse", "long"]).exits(0);
    assert_eq!(db.sql.number(CHANGED), 0);
}

#[test]
fn a_run_and_its_reverse_killed_ten_times_each() {
    let db = Db::found();
    db.sql.run(
        "create table t (id bigint primary key, n int not null); insert into t select i, i from generate_series(1, 40000) i;
         analyze t; create table before as table t",
    );
    db.spec("count", "table = \"t\"\n[[rule]]\nset = { n = \"n + 1\" }\n[limits]\nworkers = 4\nchunk_rows_max = 200\n");
    for first in ["run", "reverse"] {
        let mut verb = first;
        for kill in 1..=12_u64 {
            let started = db.start(&[verb, "count", "--rate", "20000 rows/s"]);
            let newest = format!("select coalesce((select direction = '{first}' from backfill.run order by run_id desc limit 1), false)")
                .replace("'run'", "'forward'");
            if kill == 1 {
                wait_for("the run exists", || {
                    db.sql.text("select to_regclass('backfill.run') is not null") == "t"
                        && db.sql.text(&newest) == "t"
                });
            }
            // Anywhere: in the start, in a chunk, between two.
            std::thread::sleep(std::time::Duration::from_millis(40 + kill * 37 % 150));
            started.kill();
            verb = "resume";
        }
        // Killed before its end.
        db.is_interrupted("count");
        db.backfill(&["resume", "count"]).exits(0);
        let expected = if first == "run" { "n = id + 1" } else { "n = id" };
        assert_eq!(
            db.sql.number(&format!("select count(*) from t where not ({expected})")),
            0,
            "{first}"
        );
    }
    assert_eq!(db.sql.number(CHANGED), 0);
}

/// One history: an application writes before, during and after the run and during its reverse, and journals what it wrote.
fn history(which: Which, seed: u64, spec: &str) {
    let mut random = fastrand::Rng::with_seed(seed);
    let db = Db::new(which);
    db.sql.run(
        "create table t (id bigint primary key, v int, other int); insert into t select i, case when i % 3 = 0 then i end from generate_series(1, 1500) i;
         analyze t; create table before as table t; create table journal (turn bigserial, id bigint, v int)",
    );
    db.spec("h", spec);
    let writer = db.connect();
    // A negative value is the application's, and never the backfill's.
    let mut write = |sql: &Sql, rows: u32| {
        let (low, step, value) = (random.u32(1..1500), random.u32(1..40), random.i32(1..1_000_000));
        sql.run(&format!(
            "with hit as (update t set v = -{value} where id in (select ({low} + i * {step}) % 1500 + 1 from generate_series(1, {rows}) i) returning id, v)
             insert into journal (id, v) select id, v from hit; update t set other = {value} where id = {low}"
        ));
    };
    write(&writer, 5);
    for verb in ["run", "reverse"] {
        let mut at_work = db.start(&[verb, "h", "--rate", "4000 rows/s"]);
        while !at_work.is_over() {
            write(&writer, 4);
        }
        let ran = at_work.wait();
        let expected: &[i32] = if verb == "run" { &[0] } else { &[0, 5] };
        assert!(
            expected.contains(&ran.code),
            "seed {seed}: {verb} ended with {}: {}",
            ran.code,
            ran.stderr
        );
        write(&writer, 5);
    }
    // What the application wrote last stands; all else is as it was.
    let wrong = "select count(*) from t join before b using (id)
                   left join (select distinct on (id) id, v from journal order by id, turn desc) j using (id)
                  where t.v is distinct from case when j.id is null then b.v else j.v end";
    let shown = "select t.id, t.v, b.v, j.v from t join before b using (id)
                   left join (select distinct on (id) id, v from journal order by id, turn desc) j using (id)
                  where t.v is distinct from case when j.id is null then b.v else j.v end limit 5";
    assert_eq!(
        db.sql.number(wrong),
        0,
        "seed {seed}: id, is, was, last written: {:?}",
        db.sql.rows(shown)
    );
    assert!(
        db.sql.number("select count(distinct id) from journal") > 20,
        "seed {seed}: the application was at work"
    );
}

const FILL: &str =
    "table = \"t\"\n[[rule]]\nfill = { v = \"id * 10\" }\n[limits]\nchunk_rows_max = 100\n";
// The application's value may be doubled by the run; then it must come back as the application wrote it.
const SET: &str =
    "table = \"t\"\n[[rule]]\nset = { v = \"v * 2\" }\n[limits]\nchunk_rows_max = 100\n";

#[test]
fn no_write_of_an_application_is_lost_where_columns_are_filled() {
    for seed in 0..10 {
        history(Which::Found, seed, FILL);
    }
}

#[test]
fn no_write_of_an_application_is_lost_where_columns_are_set() {
    for seed in 10..20 {
        history(Which::Found, seed, SET);
    }
}

#[test]
fn no_write_of_an_application_is_lost_on_the_newest_server() {
    for seed in 20..26 {
        history(Which::Newest, seed, SET);
    }
}
