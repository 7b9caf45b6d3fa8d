//! A runner that is killed, or stopped and replaced, at each step of its work: nothing is lost and nothing is done twice.

use backfill::mutation::Step;
use nix::sys::signal::Signal;

use crate::support::{Db, Started, wait_for};

/// Rows of which one cannot be written and one is long, so that chunks are locked and saved first, halved, and a row is set aside.
fn table(db: &Db) {
    db.sql.run(
        "create table t (id bigint primary key, d int not null default 1, n int not null default 0, v text not null default '');
         alter table t alter v set storage external;
         insert into t (id) select i from generate_series(1, 2000) i;
         update t set d = 0 where id = 1500; update t set v = repeat('long', 3000) where id = 3; analyze t",
    );
    db.spec(
        "add",
        "table = \"t\"\n[[rule]]\nset = { n = \"n + 1 / d\", v = \"v || 'x'\" }\n[limits]\nchunk_rows_max = 100\n",
    );
}

fn is_done(db: &Db) {
    let wrong =
        "select count(*) from t where (n, v ~ 'x$', v ~ 'xx$') is distinct from (d, d = 1, false)";
    assert_eq!(db.sql.number(wrong), 0, "rows were lost or done twice");
    let told = db.status("add");
    assert_eq!((&told["state"], &told["rows_done"]), (&"succeeded".into(), &1999.into()));
    assert_eq!(told["rows_quarantined"], 1);
}

fn is_back(db: &Db) {
    assert_eq!(db.sql.number("select count(*) from t where n <> 0 or v ~ 'x$'"), 0);
    assert_eq!(db.status("add")["state"], "succeeded");
}

/// A command that is struck when it comes to a step for the first time.
fn struck(db: &Db, verb: &[&str], word: &str, how: &str) -> Started {
    let mut command = db.command(verb);
    command.env("BACKFILL_STOP_AT", format!("{word}:1:{how}"));
    Started::new(command)
}

fn killed(db: &Db, verb: &[&str], word: &str) {
    let ran = struck(db, verb, word, "kill").wait();
    assert_eq!(ran.code, -1, "`{word}` was not reached: {}", ran.stderr);
}

/// Goes on with a run that may be over already, or begins one where there is none.
fn go_on(db: &Db, arguments: &[&str]) {
    if db.sql.number("select count(*) from backfill.run") == 0 {
        db.backfill(&["run", "add"]).exits(5);
    } else if db.status("add")["state"] != "succeeded" {
        let ran = db.backfill(&[&["resume", "add"], arguments].concat());
        assert!([0, 5].contains(&ran.code), "{}: {}", ran.code, ran.stderr);
    }
}

#[test]
fn killed_at_each_step() {
    for (step, word) in Step::ALL {
        let db = Db::found();
        table(&db);
        killed(&db, &["run", "add"], word);
        go_on(&db, &[]);
        is_done(&db);
        // On the way back nothing is cut or saved, and no row raises. Before it is in the state tables there is nothing to go on with.
        if matches!(step, Step::Planned | Step::Cut | Step::Saved | Step::Split | Step::SetAside) {
            continue;
        }
        killed(&db, &["reverse", "add"], word);
        go_on(&db, &[]);
        is_back(&db);
    }
}

/// A command that has stopped at a step.
fn stopped(db: &Db, verb: &[&str], word: &str) -> Started {
    let zombie = struck(db, verb, word, "stop");
    let stat = format!("/proc/{}/stat", zombie.pid());
    wait_for(&format!("the command stops at `{word}`"), || {
        std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "))
    });
    zombie
}

#[test]
fn of_commands_that_planned_at_once_one_writes() {
    let db = Db::found();
    db.sql.run("create table t (id bigint primary key, n int not null default 0)");
    db.sql.run("insert into t select i from generate_series(1, 1000) i; analyze t");
    db.spec("add", "table = \"t\"\n[[rule]]\nset = { n = \"n + 1\" }\n");
    let verbs: [(&[&str], i32, &str); 5] = [
        (&["run", "add"], 1, "has already been run to the end"),
        (&["run", "add", "--again"], 2, "of add began a moment ago"),
        (&["reverse", "add"], 1, "of add began a moment ago"),
        (&["reverse", "add", "--run", "1"], 0, "of add began a moment ago"),
        (&["run", "add"], 1, "has already been run to the end"),
    ];
    for (verb, n, why) in verbs {
        let late = stopped(&db, verb, "planned");
        db.backfill(verb).exits(0);
        late.signal(Signal::SIGCONT);
        late.wait().exits(3).says(why);
        assert_eq!(db.sql.number(&format!("select count(*) from t where n = {n}")), 1000);
    }
}

/// For schedulers: a run that somebody else brings to its end in between is one that is done.
#[test]
fn a_run_that_ends_while_another_command_takes_it_up_is_done() {
    let db = Db::found();
    db.sql.run("create table t (id bigint primary key, n int not null default 0)");
    db.sql.run("insert into t select i from generate_series(1, 1000) i; analyze t");
    db.spec("add", "table = \"t\"\n[[rule]]\nset = { n = \"n + 1\" }\n");
    killed(&db, &["run", "add"], "begun");
    let late = stopped(&db, &["run", "add", "--resume"], "planned");
    db.backfill(&["resume", "add"]).exits(0);
    late.signal(Signal::SIGCONT);
    late.wait().exits(0).says("add is already done (run 1)");
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 1000);
}

#[test]
fn stopped_at_each_step_and_replaced() {
    for (_, word) in Step::ALL {
        let db = Db::found();
        table(&db);
        let zombie = stopped(&db, &["run", "add"], word);
        go_on(&db, &["--take-over"]);
        is_done(&db);
        zombie.signal(Signal::SIGCONT);
        zombie.wait();
        is_done(&db);
    }
}

/// What the application writes between a chunk's look at its rows and its writing them is what a reverse run gives back.
#[test]
fn a_row_that_a_later_transaction_writes_is_saved_as_that_left_it() {
    let db = Db::found();
    db.sql.run("create table t (id bigint primary key, n int not null)");
    db.sql.run("insert into t select i, i from generate_series(1, 1000) i; analyze t");
    db.spec("double", "table = \"t\"\n[[rule]]\nset = { n = \"n * 2\" }\n");
    let runner = stopped(&db, &["run", "double"], "claimed");
    let application = db.connect();
    application.run("begin; update t set n = 7000 where id = 70");
    runner.signal(Signal::SIGCONT);
    let waits = "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    db.sql.wait_for("the chunk waits for the application", waits);
    application.run("commit");
    runner.wait().exits(0);
    assert_eq!(db.sql.number("select n from t where id = 70"), 14_000);
    assert_eq!(db.sql.number("select count(*) from t where n = id * 2"), 999);
    db.backfill(&["reverse", "double"]).exits(0);
    assert_eq!(db.sql.number("select n from t where id = 70"), 7000);
}
