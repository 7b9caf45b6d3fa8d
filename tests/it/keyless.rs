//! Tables without a key: walked in rounds until a look finds nothing left, and only where nothing has to be given back.

use nix::sys::signal::Signal;

use crate::physical::killed_twelve_times;
use crate::support::{Db, Which, wait_for};

const FILL: &str = "table = \"t\"\norder = \"physical\"\n[[rule]]\nfill = { v = \"md5(id::text)\" }\n[undo]\nmode = \"none\"\n";

/// Rows without a key, behind a fifth of pages that have room and no rows.
fn table(db: &Db, rows: u32) {
    db.sql.run(&format!(
        "create table t (id int not null, d int not null default 1, v text, n int not null default 0, body text) with (autovacuum_enabled = off);
         insert into t select i, 1, null, 0, repeat(md5(i::text), 2) from generate_series(1, {rows} * 5 / 4) i;
         delete from t where ctid < (select format('(%s,0)', pg_relation_size('t') / 8192 / 5)::tid)"
    ));
    db.sql.run("vacuum analyze t");
}

/// Moves rows that are left to do to where the walk has been.
fn move_back(db: &Db) -> i64 {
    let moved = "update t set n = n + 1 where ctid > (select format('(%s,0)', pg_relation_size('t') / 8192 - 20)::tid) and v is null returning 1";
    let moved = db.sql.rows(moved).len() as i64;
    let back = "select count(*) from t where n > 0 and v is null and ctid < (select format('(%s,0)', pg_relation_size('t') / 8192 / 5)::tid)";
    assert!(db.sql.number(back) > 100, "nothing was moved back");
    moved
}

#[track_caller]
fn is_done(db: &Db) {
    let wrong = "select count(*) from t where v is distinct from md5(id::text)";
    assert_eq!(db.sql.number(wrong), 0, "rows without their value");
    let rows = db.sql.number("select count(*) from t");
    assert_eq!(db.sql.number("select sum(rows_done) from backfill.chunk"), rows);
    assert_eq!(db.status("fill")["state"], "succeeded");
    let verified = db.backfill(&["verify", "fill", "--json"]).exits(0).json();
    assert_eq!((&verified["method"], &verified["keys_checked"]), (&"data".into(), &rows.into()));
}

#[test]
fn rows_that_move_behind_the_walk_are_met_in_the_next_round() {
    for (which, stripes) in [(Which::Found, ""), (Which::Newest, "stripes = 5\n")] {
        let db = Db::new(which);
        table(&db, 20_000);
        db.spec("fill", &format!("{stripes}{FILL}"));
        let plan = db.backfill(&["plan", "fill"]).exits(0);
        plan.prints("none: by place, and without a way back")
            .prints("in rounds until no row is left");
        db.stop_half_way("fill", "pause").exits(4);
        move_back(&db);
        db.backfill(&["resume", "fill"]).exits(0).says("rows are left: round 2 through the table");
        is_done(&db);
        let rounds = "select count(distinct upto_key[1]) from backfill.chunk where rows_done > 0";
        assert_eq!(db.sql.number(rounds), 2);
        db.backfill(&["reverse", "fill"]).exits(3).says("kept nothing to take it back by");
    }
}

#[test]
fn a_heap_that_grows_is_walked_to_its_end() {
    let db = Db::found();
    table(&db, 20_000);
    db.spec("fill", FILL);
    db.stop_half_way("fill", "pause").exits(4);
    let rows = db.sql.number("select count(*) from t");
    db.sql.run(
        "insert into t select -i, 1, null, 0, repeat('x', 1800) from generate_series(1, 5000) i",
    );
    db.backfill(&["resume", "fill"]).exits(0);
    is_done(&db);
    // What is added behind the end belongs to the first round; some of it found room before.
    let first = "select sum(rows_done) from backfill.chunk where upto_key[1] = '1'";
    assert!(db.sql.number(first) > rows + 2_000);
}

#[test]
fn a_writer_that_moves_rows_and_a_runner_killed_twelve_times() {
    let db = Db::found();
    table(&db, 60_000);
    db.sql.run("create index on t (id)");
    db.spec("fill", &format!("stripes = 3\n{FILL}[limits]\nchunk_rows_max = 400\n"));
    let moved = killed_twelve_times(&db, "fill", |_| "");
    is_done(&db);
    assert_eq!(db.sql.number("select sum(n) from t"), moved, "the application's writes");
}

#[test]
fn rows_that_raise_are_set_aside_by_their_place() {
    let db = Db::found();
    table(&db, 20_000);
    db.sql.run("update t set d = 0 where id in (select id from t order by md5(id::text) limit 3)");
    db.spec("fill", &FILL.replace("md5(id::text)", "(1 / d)::text || md5(id::text)"));
    db.backfill(&["run", "fill"]).exits(5).says("division by zero (SQLSTATE 22012)");
    assert_eq!(db.sql.number("select count(*) from t where v is null"), 3);
    let places =
        "select count(*) from backfill.quarantine join t on t.ctid::text = key[1] where d = 0";
    assert_eq!(db.sql.number(places), 3);
    db.sql.run("update t set d = 1 where d = 0");
    // They have moved, and there is nothing to know them by: whatever is left is looked for.
    db.backfill(&["retry", "fill"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where v is null"), 0);
    db.backfill(&["verify", "fill"]).exits(0);
}

/// One that moved while it raises is set aside where it is now.
#[test]
fn a_row_that_raises_and_moves() {
    let db = Db::found();
    table(&db, 20_000);
    db.spec("fill", &FILL.replace("md5(id::text)", "(1 / d)::text || md5(id::text)"));
    db.sql.run("update t set d = 0 where id = (select max(id) from t)");
    db.stop_half_way("fill", "pause").exits(4);
    move_back(&db);
    db.sql.run(
        "update t set d = 0 where ctid = (select ctid from t where n > 0 and v is null order by ctid limit 1)",
    );
    db.backfill(&["resume", "fill"]).exits(5).says("round 2 through the table");
    assert_eq!(db.sql.number("select count(*) from t where v is null"), 2);
    assert_eq!(db.sql.number("select count(distinct key) from backfill.quarantine"), 2);
}

#[test]
fn rows_that_come_without_end_end_the_run() {
    let db = Db::found();
    table(&db, 20_000);
    db.spec("fill", FILL);
    let writer = db.connect();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let adding = std::thread::spawn(move || {
        while stopped.try_recv().is_err() {
            writer.run("insert into t (id) values (-1)");
        }
    });
    let ran = db.backfill(&["run", "fill"]).exits(1);
    ran.says("round 10 through the table").says("rows are left behind the last round");
    stop.send(()).unwrap();
    adding.join().unwrap();
    assert_eq!(db.status("fill")["state"], "failed");
    let old = "select count(*) from t where id > 0 and v is null";
    assert_eq!(db.sql.number(old), 0);
    assert!(db.sql.number("select count(*) from t where v is null") > 0);
    db.backfill(&["resume", "fill"]).exits(0);
    assert_eq!(db.status("fill")["state"], "succeeded");
    assert_eq!(db.sql.number("select count(*) from t where v is null"), 0);
    db.backfill(&["verify", "fill"]).exits(0);
}

/// Of a `set` the chunks tell that it is done, and the look behind them.
#[test]
fn a_set_and_a_fill_of_two_columns_go_on_and_are_proved() {
    let rules = [
        "when = \"v is null\"\nset = { v = \"'x'\", n = \"n + 1\" }",
        "fill = { v = \"'x'\", w = \"1\" }",
    ];
    for rule in rules {
        let db = Db::found();
        table(&db, 20_000);
        db.sql.run("alter table t add w int");
        let spec = FILL.replace("fill = { v = \"md5(id::text)\" }", rule);
        db.spec("fill", &spec);
        db.stop_half_way("fill", "pause").exits(4);
        let run = db.start(&["resume", "fill", "--rate", "4000 rows/s"]);
        let before = db.chunks_done();
        wait_for("chunks are done", || db.chunks_done() > before);
        run.kill();
        // The last ones move to where the walk has been.
        let moved = "update t set d = 2 where ctid > (select format('(%s,0)', pg_relation_size('t') / 8192 - 20)::tid) and v is null returning 1";
        assert!(db.sql.rows(moved).len() > 100);
        db.backfill(&["resume", "fill"]).exits(0).says("round 2");
        let rows = db.sql.number("select count(*) from t");
        assert_eq!(
            db.sql.number("select count(*) from t where v = 'x' and (n = 1 or w = 1)"),
            rows
        );
        db.backfill(&["verify", "fill"]).exits(0);
        let gate = "select backfill.require('fill', 'verified', 'public.t')";
        db.sql.run(gate);
        db.sql.run("update t set v = null where id = (select max(id) from t)");
        db.backfill(&["run", "fill", "--again"]).exits(0);
        assert_eq!(db.sql.number("select count(*) from t where v is null"), 0);
    }
}

#[test]
fn a_join_with_a_row_that_raises() {
    let db = Db::found();
    table(&db, 20_000);
    db.sql.run("create table src (id int primary key, w text); insert into src select i, 'w' from generate_series(1, 25000) i; analyze src");
    db.sql.run("update t set d = 0 where id = (select max(id) from t)");
    let rule = "when = \"s.id = t.id\"\nfill = { v = \"s.w || (1 / t.d)\" }";
    let spec = FILL.replace("fill = { v = \"md5(id::text)\" }", rule);
    db.spec("fill", &spec.replace("[[rule]]", "from = \"src AS s\"\n[[rule]]"));
    db.stop_half_way("fill", "pause").exits(4);
    move_back(&db);
    db.backfill(&["resume", "fill"]).exits(5).says("division by zero").says("round 2");
    assert_eq!(db.sql.number("select count(*) from t where v is null"), 1);
    assert_eq!(db.sql.number("select count(*) from backfill.quarantine"), 1);
    db.sql.run("update t set d = 1 where d = 0");
    db.backfill(&["retry", "fill"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where v is null"), 0);
}

#[test]
fn a_runner_killed_while_it_looks() {
    let db = Db::found();
    table(&db, 20_000);
    db.sql.run(
        "create function slow() returns boolean stable language plpgsql as $$
         begin if current_query() like '%backfill_left%' then perform pg_sleep(600); end if; return true; end $$",
    );
    db.spec("fill", &FILL.replace("[[rule]]", "[[rule]]\nwhen = \"slow()\""));
    db.stop_half_way("fill", "pause").exits(4);
    move_back(&db);
    let run = db.start(&["resume", "fill"]);
    let looking = "select count(*) > 0 from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()";
    db.sql.wait_for("the look is under way", looking);
    run.signal(Signal::SIGKILL);
    run.wait();
    db.sql.run(
        "create or replace function slow() returns boolean stable language sql as 'select true'",
    );
    db.sql.run("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()");
    db.backfill(&["resume", "fill"]).exits(0);
    is_done(&db);
}

#[test]
fn without_a_key_it_must_be_asked_for() {
    let db = Db::found();
    table(&db, 100);
    let refused = |spec: &str, why: &str| {
        db.spec("no", spec);
        db.backfill(&["run", "no"]).exits(3).says(why);
    };
    let how = "go by place and without a way back";
    refused(&FILL.replace("order = \"physical\"\n", ""), how);
    refused(FILL.split("[undo]").next().unwrap(), how);
    let set = FILL.replace("fill = { v = \"md5(id::text)\" }", "set = { n = \"n + 1\" }");
    refused(
        &set,
        "a row that it has set may, for all the server can tell, be one that its `when` picks",
    );
    refused(&FILL.replace("[[rule]]", "key = [\"id\"]\n[[rule]]"), "no usable key (id)");
    db.sql.run("create table u (id int, v text) partition by range (id); create table u_1 partition of u default");
    refused(&FILL.replace("\"t\"", "\"u\""), "no usable primary key");
    let once = FILL.replace(
        "fill = { v = \"md5(id::text)\" }",
        "when = \"v is null\"\nset = { v = \"'x'\", n = \"n + 1\" }",
    );
    db.spec("once", &once);
    db.backfill(&["run", "once"]).exits(0);
    let rows = db.sql.number("select count(*) from t");
    assert_eq!(db.sql.number("select count(*) from t where (v, n) = ('x', 1)"), rows);
    // An empty table has nothing to do.
    db.sql.run("create table e (id int, v text)");
    db.spec("empty", &FILL.replace("\"t\"", "\"e\""));
    db.backfill(&["run", "empty"]).exits(0);
}
