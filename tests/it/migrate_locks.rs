//! What schema steps do about locks, interrupted builds of indexes, each other, and a hand on the keyboard.

use nix::sys::signal::Signal;

use crate::migrate::{FIRST, revision};
use crate::support::{Db, Sql, Started, wait_for};

#[test]
fn an_invalid_index_is_built_anew_and_a_done_one_is_found() {
    let db = Db::found();
    revision(&db, 1, "aaaa", FIRST);
    let unique = "-- revises: aaaa\n-- up\ncreate unique index concurrently if not exists t_a on t (a);\n-- down\ndrop index concurrently t_a;\n";
    revision(&db, 2, "bbbb", unique);
    db.backfill(&["migrate", "upgrade", "+1"]).exits(0);
    // What an interrupted build leaves behind; IF NOT EXISTS would take it for the index.
    db.sql.run("insert into t values (1000, 1)");
    assert!(db.sql.try_run("create unique index concurrently t_a on t (a)").is_err());
    db.backfill(&["migrate", "upgrade"])
        .exits(1)
        .says("could not create unique index")
        .says("nothing of bbbb is applied");
    assert_eq!(
        db.sql.number("select count(*) from pg_class where relname = 't_a'"),
        0,
        "no invalid index is left"
    );
    assert!(db.sql.try_run("create unique index concurrently t_a on t (a)").is_err());
    db.sql.run("delete from t where id = 1000");
    db.backfill(&["migrate", "upgrade"]).exits(0).says("is invalid, an interrupted build left it");
    assert_eq!(
        db.sql.text("select indisvalid from pg_index where indexrelid = 't_a'::regclass"),
        "t"
    );
    // Built, but the runner died before it could say so.
    db.sql.run("update backfill.revision set state = 'applying' where id = 'bbbb'; update backfill.revision_step set state = 'running', took_ms = null where revision = 'bbbb'");
    db.backfill(&["migrate", "upgrade"]).exits(0).says("was done already");
    db.backfill(&["migrate", "downgrade"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from pg_class where relname = 't_a'"), 0);
}

#[test]
fn a_lock_that_is_not_to_be_had_is_not_queued_for() {
    let db = Db::found();
    revision(&db, 1, "aaaa", FIRST);
    revision(
        &db,
        2,
        "bbbb",
        "-- revises: aaaa\n-- up\nalter table t add column c int;\nalter table t add column d int;\n-- down\nalter table t drop column c, drop column d;\n",
    );
    db.backfill(&["migrate", "upgrade", "aaaa"]).exits(0);
    let reader = db.connect();
    reader.run("set application_name = 'nightly dump'; begin; select count(*) from t");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let mut run = db.start(&["migrate", "upgrade", "--lock-budget", "3s"]);
    // The application's statements pass at once while the step waits: it does not stand in the queue before them.
    let application = db.connect();
    application.run("set lock_timeout = '50ms'");
    let mut statements = 0;
    while !run.is_over() {
        application.run("update t set b = 1 where id = 1; select * from t where id = 2");
        statements += 1;
    }
    let ran = run.wait();
    ran.exits(75).says("nightly dump").says("nothing of bbbb is applied").says("--lock-budget");
    assert!(statements > 20, "{statements} statements of the application");
    assert_eq!(db.sql.number("select count(*) from pg_attribute where attrelid = 't'::regclass and attname in ('c', 'd')"), 0);
    let mut run = db.start(&["migrate", "upgrade"]);
    wait_for("it waits", || {
        db.sql.number("select count(*) from pg_stat_activity where query ilike '%pg_prepared_xacts%' and datname = current_database()") > 0
    });
    assert!(!run.is_over());
    reader.run("commit");
    run.wait().exits(0);
}

/// The second revision of a project builds an index, and waits for a writer; the first one is applied.
fn waiting_build(db: &Db, prepare: &str) -> (Sql, Started) {
    revision(db, 1, "aaaa", FIRST);
    let build = "-- revises: aaaa\n-- up\ncreate index concurrently t_a on t (a);\n-- down\ndrop index concurrently t_a;\n";
    revision(db, 2, "bbbb", build);
    db.backfill(&["migrate", "upgrade", "aaaa"]).exits(0);
    db.sql.run(prepare);
    let writer = db.connect();
    writer.run("begin; update t set a = a where id = 1");
    let run = db.start(&["migrate", "upgrade"]);
    let building = "select exists (select from pg_stat_progress_create_index where datname = current_database())";
    db.sql.wait_for("it waits for the writer", building);
    (writer, run)
}

fn is_valid(db: &Db) -> bool {
    db.sql.text("select indisvalid from pg_index where indexrelid = 't_a'::regclass") == "t"
}

#[test]
fn two_runners_at_once() {
    let db = Db::found();
    // Whoever is at work waits for this writer; the other must not be what it waits for in turn.
    let (writer, first) = waiting_build(&db, "");
    db.backfill(&["migrate", "upgrade", "--lock-budget", "1s"])
        .exits(75)
        .says("is changing the schema");
    let second = db.start(&["migrate", "upgrade"]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    writer.run("commit");
    first.wait().exits(0);
    second.wait().exits(0).says("nothing to apply");
    assert!(is_valid(&db));
}

#[test]
fn an_index_is_built_whatever_the_role_says_about_locks() {
    let db = Db::found();
    let short = format!(
        "alter database {} set lock_timeout = '100ms'; alter database {0} set statement_timeout = '100ms'",
        db.name
    );
    let (writer, run) = waiting_build(&db, &short);
    std::thread::sleep(std::time::Duration::from_millis(1300));
    writer.run("commit");
    run.wait().exits(0).says("waits for process");
    assert!(is_valid(&db));
}

#[test]
fn a_long_statement_is_cancelled_by_the_second_signal() {
    let db = Db::found();
    let (writer, mut run) = waiting_build(&db, "");
    run.signal(Signal::SIGINT);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!run.is_over(), "the first signal lets the statement come to its end");
    run.signal(Signal::SIGINT);
    run.wait().exits(4).says("go on with: backfill migrate upgrade bbbb");
    writer.run("commit");
    db.backfill(&["migrate", "upgrade"]).exits(0);
    assert!(is_valid(&db));
}

#[test]
fn a_prepared_transaction_is_named() {
    let db = Db::found();
    revision(&db, 1, "aaaa", FIRST);
    revision(
        &db,
        2,
        "bbbb",
        "-- revises: aaaa\n-- up\nalter table t add column c int;\n-- down\nalter table t drop column c;\n",
    );
    db.backfill(&["migrate", "upgrade", "aaaa"]).exits(0);
    db.sql.run("begin; update t set a = a where id = 1");
    db.sql.run("prepare transaction 'forgotten'");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    db.backfill(&["migrate", "upgrade", "--lock-budget", "1s"])
        .exits(75)
        .says("prepared transaction forgotten");
    db.sql.run("rollback prepared 'forgotten'");
    db.backfill(&["migrate", "upgrade"]).exits(0);
}

#[test]
fn an_index_that_a_dead_runners_session_still_builds_is_waited_for() {
    let db = Db::found();
    let (writer, run) = waiting_build(&db, "");
    run.kill();
    let second = db.start(&["migrate", "upgrade"]);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    writer.run("commit");
    second.wait().exits(0).says("still builds an index").says("was done already");
    assert!(is_valid(&db));
}

#[test]
fn copies_that_an_interrupted_reindex_left_are_removed() {
    let db = Db::found();
    revision(
        &db,
        1,
        "aaaa",
        "-- revises: base\n-- up\ncreate table t (id int primary key, a int);\ncreate index t_a on t (a);\n-- down\ndrop table t;\n",
    );
    revision(&db, 2, "bbbb", "-- revises: aaaa\n-- up\nreindex index concurrently t_a;\n-- down\n");
    db.backfill(&["migrate", "upgrade", "aaaa"]).exits(0);
    let writer = db.connect();
    writer.run("begin; insert into t values (1, 1)");
    let mut run = db.start(&["migrate", "upgrade"]);
    db.sql.wait_for(
        "there is a copy",
        "select exists (select from pg_class where relname = 't_a_ccnew')",
    );
    run.signal(Signal::SIGINT);
    std::thread::sleep(std::time::Duration::from_millis(200));
    run.signal(Signal::SIGINT);
    wait_for("it ends", || run.is_over());
    writer.run("commit");
    assert_eq!(db.sql.number("select count(*) from pg_class where relname = 't_a_ccnew'"), 1);
    db.backfill(&["migrate", "upgrade"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from pg_class where relname like 't\\_a\\_cc%'"), 0);
}

#[test]
fn a_validation_waits_for_whoever_else_works_on_the_table() {
    let db = Db::found();
    revision(&db, 1, "aaaa", FIRST);
    revision(
        &db,
        2,
        "bbbb",
        "-- revises: aaaa\n-- up\nalter table t add constraint t_a check (a > 0) not valid;\nalter table t validate constraint t_a;\n-- down\nalter table t drop constraint t_a;\n",
    );
    db.backfill(&["migrate", "upgrade", "aaaa"]).exits(0);
    let validated =
        "select exists (select from pg_constraint where conname = 't_a' and convalidated)";
    db.backfill(&["migrate", "upgrade", "+1"]).exits(0);
    db.sql.run("alter table t drop constraint t_a; alter table t add constraint t_a check (a > 0) not valid");
    db.sql.run("update backfill.revision set state = 'applying' where id = 'bbbb'; delete from backfill.revision_step where revision = 'bbbb' and n = 1");
    // As VACUUM, ANALYZE, another validation or a build of an index hold it.
    let other = db.connect();
    other.run("begin; lock table t in share update exclusive mode");
    let mut run = db.start(&["migrate", "upgrade"]);
    db.sql.wait_for(
        "it waits",
        "select exists (select from pg_locks where relation = 't'::regclass and not granted)",
    );
    let application = db.connect();
    application.run("set lock_timeout = '50ms'");
    for _ in 0..30 {
        application.run("update t set b = 2 where id = 1; select * from t where id = 2");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(!run.is_over());
    other.run("commit");
    run.wait().exits(0).says("waits for process");
    assert_eq!(db.sql.text(validated), "t");
}

#[test]
fn an_index_that_a_dead_runners_session_still_drops_is_gone() {
    let db = Db::found();
    revision(&db, 1, "aaaa", FIRST);
    revision(
        &db,
        2,
        "bbbb",
        "-- revises: aaaa\n-- up\ncreate index concurrently t_a on t (a);\n-- down\ndrop index concurrently t_a;\n",
    );
    db.backfill(&["migrate", "upgrade"]).exits(0);
    let reader = db.connect();
    reader.run("begin isolation level repeatable read; select * from t where a = 1");
    let first = db.start(&["migrate", "downgrade"]);
    db.sql.wait_for("it waits", "select exists (select from pg_index where indexrelid = 't_a'::regclass and not indisvalid)");
    first.kill();
    let second = db.start(&["migrate", "downgrade"]);
    std::thread::sleep(std::time::Duration::from_millis(800));
    reader.run("commit");
    second.wait().exits(0).says("took back bbbb");
    assert_eq!(db.sql.number("select count(*) from pg_class where relname = 't_a'"), 0);
}
