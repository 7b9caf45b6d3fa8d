//! Each guard of the engine, taken out: what it is there for happens. Debug builds alone have the switch.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::proxy::Proxy;
use crate::support::{Db, Ran, Started, wait_for};

const ADD: &str = "table = \"t\"\n[[rule]]\nset = { n = \"n + 1\" }\n";

fn counters(db: &Db, rows: u32) {
    db.sql.run(&format!(
        "create table t (id bigint primary key, n int not null default 0);
         insert into t select i from generate_series(1, {rows}) i; analyze t"
    ));
}

fn without(mut command: Command, guard: &str) -> Command {
    command.env("BACKFILL_WITHOUT", guard);
    command
}

fn run_without(db: &Db, guard: &str, arguments: &[&str]) -> Ran {
    Started::new(without(db.command(arguments), guard)).wait()
}

fn wrong(db: &Db) -> i64 {
    db.sql.number("select count(*) from t where n <> 1")
}

#[test]
fn without_the_claim_a_commit_whose_answer_was_lost_is_done_twice() {
    for (guard, is_out) in [("", false), ("claim", true)] {
        let db = Db::found();
        counters(&db, 5_000);
        db.spec("add", &format!("{ADD}[undo]\nmode = \"none\"\n[limits]\nchunk_rows_max = 500\n"));
        let proxy = Proxy::start(db.socket_dir(), 4);
        let url = format!("postgresql://postgres@127.0.0.1:{}/{}", proxy.port, db.name);
        run_without(&db, guard, &["run", "add", "--url", &url]).exits(0);
        assert_eq!(proxy.cuts_left(), 0);
        assert_eq!(wrong(&db) > 0, is_out, "{} rows are wrong", wrong(&db));
    }
}

#[test]
fn without_epochs_a_runner_that_was_replaced_goes_on() {
    for (guard, is_out) in [("", false), ("epoch", true), ("new_epoch", true)] {
        let db = Db::found();
        counters(&db, 20_000);
        db.spec("add", &format!("{ADD}[limits]\nworkers = 4\nchunk_rows_max = 100\n"));
        let arguments = ["run", "add", "--rate", "4000 rows/s"];
        let zombie = Started::new(without(db.command(&arguments), guard));
        wait_for("chunks settle", || db.chunks_done() >= 5);
        zombie.signal(Signal::SIGSTOP);
        let epoch = db.sql.number("select epoch from backfill.run");
        let arguments = ["resume", "add", "--take-over", "--rate", "4000 rows/s"];
        let heir = Started::new(without(db.command(&arguments), guard));
        let before = db.chunks_done();
        wait_for("the heir has begun", || db.chunks_done() > before + 5);
        let settled = format!("select count(*) from backfill.chunk where settled_epoch <= {epoch}");
        let before = db.sql.number(&settled);
        zombie.signal(Signal::SIGCONT);
        let zombie = zombie.wait();
        heir.wait();
        let goes_on = db.sql.number(&settled) > before || zombie.code != 3;
        assert_eq!(goes_on, is_out, "{guard}: {}", zombie.stderr);
        // The claim alone keeps the two of them from doing a chunk twice.
        assert_eq!(wrong(&db), 0);
    }
}

/// A trigger keeps some rows from being written.
#[test]
fn without_accounting_before_images_are_not_those_of_the_rows_written() {
    let db = Db::found();
    counters(&db, 1_000);
    db.sql.run(
        "create function refuse() returns trigger language plpgsql as $$ begin return null; end $$;
         create trigger refuse before update on t for each row when (new.id % 10 = 0) execute function refuse()",
    );
    db.spec("add", ADD);
    run_without(&db, "accounting", &["run", "add"]).exits(0);
    assert_eq!(wrong(&db), 100);
    let saved = "select coalesce(sum(rows), 0) from backfill.before_image_1 where side <> 'new'";
    let written = "select sum(rows_done) from backfill.chunk";
    assert_ne!(db.sql.number(saved), db.sql.number(written));
}

#[test]
fn without_the_comparison_a_reversal_overwrites_what_the_application_wrote() {
    for (guard, left) in [("", "40"), ("comparison", "0")] {
        let db = Db::found();
        counters(&db, 1_000);
        db.spec("add", ADD);
        db.backfill(&["run", "add"]).exits(0);
        db.sql.run("update t set n = 40 where id = 7");
        run_without(&db, guard, &["reverse", "add"]);
        assert_eq!(db.sql.text("select n from t where id = 7"), left);
    }
}

#[test]
fn without_the_digest_a_run_goes_on_with_another_spec() {
    for (guard, code) in [("", 3), ("digest", 0)] {
        let db = Db::found();
        counters(&db, 10_000);
        db.spec("add", &format!("{ADD}[limits]\nchunk_rows_max = 100\n"));
        db.stop_half_way("add", "pause").exits(4);
        db.spec("add", &ADD.replace("n + 1", "n + 2"));
        run_without(&db, guard, &["resume", "add"]).exits(code);
        assert_eq!(db.sql.number("select count(*) from t where n = 2") > 0, code == 0);
    }
}

#[test]
fn without_the_ceiling_rows_of_the_application_are_written() {
    for (guard, is_out) in [("", false), ("ceiling", true)] {
        let db = Db::found();
        counters(&db, 10_000);
        db.spec("add", &format!("{ADD}[limits]\nchunk_rows_max = 100\n"));
        db.stop_half_way("add", "pause").exits(4);
        db.sql.run("insert into t select i, 1 from generate_series(20001, 21000) i");
        run_without(&db, guard, &["resume", "add"]);
        assert_eq!(wrong(&db) > 0, is_out, "{} rows are wrong", wrong(&db));
    }
}

#[test]
fn without_the_lock_a_second_runner_is_not_refused() {
    for (guard, code) in [("", 3), ("single_runner", 0)] {
        let db = Db::found();
        counters(&db, 10_000);
        db.spec("add", &format!("{ADD}[limits]\nchunk_rows_max = 100\n"));
        let arguments = ["run", "add", "--rate", "4000 rows/s"];
        let first = Started::new(without(db.command(&arguments), guard));
        wait_for("chunks settle", || db.chunks_done() >= 5);
        run_without(&db, guard, &["resume", "add"]).exits(code);
        // Epoch and claim keep the two of them from harm.
        first.wait().exits(if code == 0 { 3 } else { 0 });
        assert_eq!(wrong(&db), 0);
    }
}
