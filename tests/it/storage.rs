//! What a run leaves of the table's storage: HOT updates by stripes, vacuums on the way, and what is said about them.

use crate::support::{Db, Sql, Started, Which, wait_for};

/// A packed table of rows of about 200 bytes, with an index that a run does not write.
fn table(sql: &Sql, rows: u32) {
    sql.run(&format!(
        "create table t (id bigint primary key, n int not null default 0, v text, owner int, body text) with (autovacuum_enabled = off);
         insert into t select i, 0, null, i, repeat(md5(i::text), 4) from generate_series(1, {rows}) i;
         create index on t (owner)"
    ));
    sql.run("vacuum analyze t");
}

const SET: &str = "[[rule]]\nset = { n = \"n + 1\" }\n";

fn sizes(sql: &Sql) -> (i64, i64) {
    (sql.number("select pg_relation_size('t')"), sql.number("select pg_indexes_size('t')"))
}

#[test]
fn stripes_are_chosen_where_they_pay_and_leave_the_heap_small() {
    let db = Db::new(Which::Apart);
    table(&db.sql, 120_000);
    let (heap, _) = sizes(&db.sql);
    db.spec("set", &format!("table = \"t\"\n{SET}"));
    let plan = db.backfill(&["plan", "set"]).exits(0).prints("in 13 stripes by key (id)");
    assert!(plan.stdout.contains("HOT"), "{}", plan.stdout);
    // The rehearsal's updates were counted too.
    db.sql.run("select pg_stat_reset_single_table_counters('t'::regclass)");
    db.backfill(&["run", "set"]).exits(0).says("HOT");
    let storage = db.status("set")["storage"].clone();
    assert_eq!(storage["cut_by"], "stripes");
    let share = storage["hot_share"].as_f64().unwrap();
    // A busy machine keeps snapshots longer; without stripes it is next to nothing.
    assert!(share > 0.5, "{storage}");
    let (heap_now, _) = sizes(&db.sql);
    // An autovacuum may have cut the end off since.
    let told = storage["heap_bytes"].as_i64().unwrap();
    assert!((heap_now..heap_now * 11 / 10).contains(&told), "{told}, and {heap_now} now");
    // The rehearsal of the plan left some rows' room.
    let before = storage["heap_bytes_before"].as_i64().unwrap();
    assert!((heap..heap * 11 / 10).contains(&before), "{before}, and {heap} when loaded");
    assert!((heap_now as f64) < heap as f64 * 1.6, "heap {heap} -> {heap_now}");
    assert_eq!(db.sql.number("select count(*) from t where n <> 1"), 0);
    // What the server counted itself.
    db.sql.wait_for(
        "the server's counters",
        "select n_tup_upd = 120000 from pg_stat_user_tables where relname = 't'",
    );
    let hot = db.sql.number("select n_tup_hot_upd from pg_stat_user_tables where relname = 't'");
    assert_eq!(hot, (share * 120_000.0).round() as i64);

    // The way back has the same stripes, and is as exact.
    db.backfill(&["reverse", "set"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n <> 0"), 0);
    assert!(db.sql.number("select max(stripes) from backfill.chunk where run_id = 2") == 13);
    assert_eq!(db.status("set")["storage"]["cut_by"], "stripes");

    // Where an index must be written anyway there are none, and the spec may say so too.
    db.sql.run("create index on t (n)");
    db.backfill(&["plan", "set"]).exits(0).prints("t_n_idx must be written for every row anyway");
    db.spec("asked", &format!("table = \"t\"\norder = \"striped\"\n{SET}"));
    db.backfill(&["run", "asked"]).exits(3).says("stripes would bring nothing");
    db.sql.run("drop index t_n_idx");
    db.spec("plain", &format!("table = \"t\"\norder = \"key\"\n{SET}"));
    db.backfill(&["plan", "plain"]).exits(0).prints("by key (id): the spec says so");
    db.spec("wrong", &format!("table = \"t\"\norder = \"random\"\n{SET}"));
    db.backfill(&["plan", "wrong"]).exits(2).says("wrong.toml:2:9").says("`random` is no order");
}

#[test]
fn keys_in_steps_and_below_zero_fall_into_all_stripes() {
    let db = Db::found();
    for (name, key) in
        [("steps", "i * 13"), ("below", "i - 60000"), ("gaps", "i::bigint * 1000003")]
    {
        db.sql.run(&format!(
            "drop table if exists t; create table t (id bigint primary key, n int not null default 0, body text);
             insert into t select {key}, 0, repeat(md5(i::text), 4) from generate_series(1, 120000) i"
        ));
        db.sql.run("vacuum analyze t");
        db.spec(name, &format!("table = \"t\"\n{SET}"));
        db.backfill(&["run", name]).exits(0);
        assert_eq!(db.sql.number("select count(*) from t where n <> 1"), 0, "{name}");
        let last = "(select max(run_id) from backfill.run)";
        let empty = db.sql.number(&format!(
            "select count(*) from backfill.chunk where run_id = {last} and stripes > 1 and rows_done = 0"
        ));
        assert_eq!(empty, 0, "{name}: every stripe has rows");
        // Multiples of thirteen all leave the same remainder of it, so there a hash decides.
        let spread =
            db.sql.text(&format!("select key->0->>3 from backfill.run where run_id = {last}"));
        assert_eq!(spread == "%", name != "steps", "{name}: {spread}");
        db.backfill(&["verify", name]).exits(0);
    }
}

#[test]
fn a_table_is_vacuumed_as_the_run_goes() {
    let db = Db::found();
    let mut grown = Vec::new();
    for (name, every) in [("never", "off"), ("often", "10%")] {
        db.sql.run("drop table if exists t");
        table(&db.sql, 120_000);
        let (heap, _) = sizes(&db.sql);
        db.spec(name, &format!("table = \"t\"\norder = \"key\"\n{SET}[vacuum]\nevery = \"{every}\"\n[limits]\nrate = \"40000 rows/s\"\nchunk_rows_max = 2000\n"));
        db.backfill(&["run", name]).exits(0);
        assert_eq!(db.sql.number("select count(*) from t where n <> 1"), 0);
        grown.push(sizes(&db.sql).0 as f64 / heap as f64);
        let storage = db.status(name)["storage"].clone();
        assert_eq!(storage["vacuums"].as_i64().unwrap() > 0, name == "often", "{storage}");
        let report = db.backfill(&["status", name]).exits(0);
        assert_eq!(
            report.stdout.contains(" in ") && report.stdout.contains("vacuum"),
            name == "often",
            "{}",
            report.stdout
        );
    }
    assert!(grown[0] > 1.9 && grown[1] < grown[0] - 0.1, "the heap grew {grown:?} times");
    // Not HOT: the indexes have doubled, whatever was vacuumed. They are too small here to be worth a word.
    db.backfill(&["prune", "often", "--yes"]).exits(0);
    db.backfill(&["prune", "never", "--yes"]).exits(0);
}

#[test]
fn a_vacuum_that_may_not_or_should_not_run_stops_nothing() {
    let db = Db::found();
    table(&db.sql, 30_000);
    let spec = format!(
        "table = \"t\"\norder = \"key\"\n{SET}[limits]\nchunk_rows_max = 1000\n[health]\nautovacuum = \"off\"\n"
    );
    // Somebody else is at it: a vacuum takes the same lock.
    let other = db.connect();
    other.run("begin; lock table t in share update exclusive mode");
    db.spec("held", &spec);
    db.backfill(&["run", "held"]).exits(0).says("no vacuum: backend ");
    other.run("commit");
    assert_eq!(db.status("held")["storage"]["vacuums"], 0);
    db.backfill(&["log", "held"]).exits(0).prints("vacuums or changes the table");

    // A role that may write and not vacuum.
    let role = format!("writer_{}", db.name);
    db.sql.run(&format!(
        "create role {role} login; grant select, update on t to {role}; grant create on database {} to {role};
         grant pg_monitor to {role}; create schema other authorization {role}; drop schema other; drop schema backfill cascade",
        db.name
    ));
    let url = db.url.replace("postgres@", &format!("{role}@"));
    db.spec("forbidden", &spec);
    db.backfill(&["run", "forbidden", "--url", &url])
        .exits(0)
        .says("this role may not vacuum the table")
        .says("run as the owner of");
    assert_eq!(db.sql.number("select count(*) from t where n <> 2"), 0);

    for (bad, expected) in [
        ("every = \"10\"", "no percent sign"),
        ("every = \"0%\"", "out of range"),
        ("evry = \"10%\"", "unknown key `evry`"),
    ] {
        db.spec("bad", &format!("table = \"t\"\n{SET}[vacuum]\n{bad}\n"));
        db.backfill(&["plan", "bad"]).exits(2).says(expected).says("bad.toml:");
    }
}

#[test]
fn a_vacuum_is_cancelled_when_the_run_is_stopped() {
    let db = Db::found();
    table(&db.sql, 60_000);
    for setting in ["vacuum_cost_delay = '100ms'", "vacuum_cost_limit = 1"] {
        db.sql.run(&format!("alter database {} set {setting}", db.name));
    }
    let spec = format!(
        "table = \"t\"\norder = \"key\"\n{SET}[limits]\nchunk_rows_max = 1000\n[health]\nautovacuum = \"off\"\n"
    );
    db.spec("slow", &spec);
    let run: Started = db.start(&["run", "slow", "--rate", "10000 rows/s"]);
    let vacuums = "select count(*) from pg_stat_activity where datname = current_database() and query ilike 'vacuum (skip_locked%' and state = 'active'";
    wait_for("a vacuum is at work", || db.sql.number(vacuums) == 1);
    run.signal(nix::sys::signal::Signal::SIGINT);
    run.wait().exits(4);
    assert_eq!(db.sql.number(vacuums), 0);
    db.backfill(&["resume", "slow"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n <> 1"), 0);
    assert_eq!(db.sql.number(vacuums), 0, "at the end it was cancelled too");
}
