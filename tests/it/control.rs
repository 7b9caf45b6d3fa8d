//! A live run and the word of an operator: signals, pause, cancel, tune, a second runner.

use nix::sys::signal::Signal;

use crate::support::{Db, wait_for};

pub const SPEC: &str =
    "table = \"t\"\n[[rule]]\nfill = { v = \"id\" }\n[limits]\nchunk_rows_max = 100\n";

pub fn table(db: &Db, rows: u32) {
    db.sql.run(&format!(
        "create table t (id bigint primary key, v bigint);
         insert into t select i from generate_series(1, {rows}) i; analyze t"
    ));
    db.spec("fill", SPEC);
}

/// Whether a backend of this database waits for a lock; other tests' backends do, too.
const WAITING: &str = "select count(*) > 0 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like '%\"public\".\"t\"%'";

pub const LEFT: &str = "select count(*) from t where v is null";

#[test]
fn one_signal_drains_and_names_the_command_to_go_on() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let db = Db::found();
        table(&db, 10_000);
        let run = db.start(&["run", "fill", "--rate", "1000 rows/s"]);
        wait_for("chunks settle", || db.chunks_done() >= 3);
        run.signal(signal);
        run.wait().exits(4).says("backfill resume fill");
        let status = db.status("fill");
        assert_eq!(status["state"], "paused");
        // What is counted is what is in the table.
        assert_eq!(db.sql.number(LEFT), 10_000 - status["rows_done"].as_i64().unwrap());
        db.backfill(&["resume", "fill"]).exits(0);
        assert_eq!(db.sql.number(LEFT), 0);
    }
}

#[test]
fn a_second_signal_cancels_on_the_server() {
    let db = Db::found();
    table(&db, 1_000);
    db.spec("fill", &format!("{SPEC}lock_timeout = \"60s\"\nchunk_time = \"60s\"\n"));
    let application = db.connect();
    application.run("begin; update t set v = 0 where id = 50");
    let run = db.start(&["run", "fill"]);
    db.sql.wait_for("a chunk waits for the application", WAITING);
    run.signal(Signal::SIGINT);
    db.sql.wait_for(
        "the runner drains",
        "select count(*) >= 1 from backfill.chunk where state = 'done'",
    );
    run.signal(Signal::SIGINT);
    run.wait().exits(4).says("backfill resume fill");
    application.run("rollback");
    assert_eq!(
        db.sql.number("select count(*) from backfill.chunk where seq = 1 and state = 'done'"),
        0
    );
    db.backfill(&["resume", "fill"]).exits(0);
    assert_eq!(db.sql.number(LEFT), 0);
}

#[test]
fn pause_and_resume_from_another_terminal() {
    let db = Db::found();
    table(&db, 10_000);
    let run = db.start(&["run", "fill", "--rate", "1000 rows/s"]);
    wait_for("chunks settle", || db.chunks_done() >= 2);
    db.backfill(&["pause", "fill"]).exits(0).says("backfill resume fill");
    run.wait().exits(4);
    assert_eq!(db.status("fill")["state"], "paused");
    db.backfill(&["pause", "fill"]).exits(3).says("a run that is paused cannot be paused");
    let log = db.backfill(&["log", "fill", "--json"]).exits(0).json();
    let asked =
        log["log"].as_array().unwrap().iter().find(|line| line["event"] == "pause asked").cloned();
    let asked = asked.expect("the pause is in the log");
    assert!(
        asked["who"].as_str().unwrap().contains('@') && !asked["at"].as_str().unwrap().is_empty()
    );
    db.backfill(&["resume"]).exits(0);
    assert_eq!(db.sql.number(LEFT), 0);
    db.backfill(&["resume"]).exits(0).says("nothing is unfinished");
}

/// What half a run has written is not written once more, whoever asks for it in passing.
#[test]
fn half_a_set_is_taken_back_before_it_is_run_again() {
    let db = Db::found();
    db.sql.run(
        "create table t (id bigint primary key, n int not null default 0);
         insert into t select i from generate_series(1, 20000) i; analyze t",
    );
    db.spec(
        "add",
        "table = \"t\"\n[[rule]]\nset = { n = \"n + 1\" }\n[limits]\nchunk_rows_max = 200\n",
    );
    db.stop_half_way("add", "cancel");
    let refused = db.backfill(&["run", "add"]).exits(3);
    refused.says("run 1 of add has written").says("backfill reverse add --run 1");
    db.backfill(&["resume", "add"]).exits(3).says("take back what it wrote");
    db.backfill(&["verify", "add"]).exits(6).prints("run 1 is cancelled");
    let run = db.start(&["reverse", "add", "--rate", "500 rows/s"]);
    wait_for("chunks are given back", || {
        db.sql.number("select count(*) from backfill.chunk where run_id = 2 and state = 'done'") > 0
    });
    db.backfill(&["cancel", "add"]).exits(0);
    run.wait();
    let refused = db.backfill(&["run", "add"]).exits(3);
    assert!(!refused.stderr.contains("--again"), "{}", refused.stderr);
    db.backfill(&["verify", "add"]).exits(6).prints("next: backfill reverse add");
    db.backfill(&["reverse", "add"]).exits(0);
    db.backfill(&["verify", "add"]).exits(6).prints("it was taken back by run 3");
    db.backfill(&["run", "add"]).exits(0);
    db.backfill(&["verify", "add"]).exits(0);
    assert_eq!(db.sql.rows("select n, count(*) from t group by n"), [["1", "20000"]]);

    // What is taken back on top of a run leaves that run's rows as they are.
    db.backfill(&["run", "add", "--again"]).exits(0);
    db.backfill(&["reverse", "add"]).exits(0);
    db.backfill(&["verify", "add"]).exits(0).prints("verified by its chunk map");
    for flags in [&["run", "add"][..], &["run", "add", "--resume"]] {
        let refused = db.backfill(flags).exits(3);
        assert!(
            refused.stderr.contains("--run 4") || refused.stderr.contains("taken back"),
            "{}",
            refused.stderr
        );
    }
    // Nor does a row that the application changed go back.
    db.sql.run("update t set n = n + 10 where id = 7");
    db.backfill(&["reverse", "add", "--run", "4"]).exits(5);
    db.backfill(&["run", "add"]).exits(3).says("left 1 rows as they were");
    db.backfill(&["run", "add", "--again"]).exits(0);
    assert_eq!(
        db.sql.rows("select n, count(*) from t group by n order by n"),
        [["1", "19999"], ["12", "1"]]
    );
}

#[test]
fn cancel_ends_a_run_for_good() {
    let db = Db::found();
    table(&db, 10_000);
    let run = db.start(&["run", "fill", "--rate", "1000 rows/s"]);
    wait_for("chunks settle", || db.chunks_done() >= 2);
    db.backfill(&["cancel", "fill"]).exits(0);
    run.wait().exits(4);
    assert_eq!(db.status("fill")["state"], "cancelled");
    db.backfill(&["resume", "fill"]).exits(3).says("backfill run fill");
    // Another run may begin, and does what is left.
    db.backfill(&["run", "fill"]).exits(0);
    assert_eq!(db.sql.number(LEFT), 0);
    // An interrupted run is cancelled at once.
    let run = db.start(&["run", "fill", "--again", "--rate", "1000 rows/s"]);
    wait_for("the run begins", || db.status("fill")["run_id"] == 3);
    run.kill();
    db.backfill(&["cancel", "fill"]).exits(0).says("is cancelled");
}

#[test]
fn tune_takes_effect_and_is_written_down() {
    let db = Db::found();
    table(&db, 20_000);
    let run = db.start(&["run", "fill", "--rate", "100 rows/s", "--json"]);
    wait_for("chunks settle", || db.chunks_done() >= 2);
    wait_for("the limit is shown", || db.status("fill")["rate_limit_rows_per_s"] == 100.0);
    assert_eq!(db.status("fill")["throttle"]["verdict"], "slow");
    db.backfill(&["tune", "fill", "--workers", "3", "--chunk-time", "300ms", "--no-rate"]).exits(0);
    // At 100 rows/s the rest would have taken three minutes.
    let ran = run.wait().exits(0);
    assert!(ran.stdout.contains(
        "\"event\":\"tuned\",\"workers\":3,\"rate_rows_per_s\":null,\"wal_bytes_per_s\":null,\"chunk_time_ms\":300"
    ));
    assert_eq!(db.sql.number(LEFT), 0);
    db.backfill(&["log", "fill"]).exits(0).prints("no rate limit, 3 workers, chunk time 300 ms");
    db.backfill(&["tune", "fill", "--workers", "2"]).exits(3);
    db.backfill(&["tune", "fill"]).exits(2).says("--rate");
}

#[test]
fn a_second_runner_is_refused_with_the_first_ones_name() {
    let db = Db::found();
    table(&db, 10_000);
    let run = db.start(&["run", "fill", "--rate", "500 rows/s"]);
    wait_for("chunks settle", || db.chunks_done() >= 1);
    db.backfill(&["run", "fill"]).exits(3).says("backfill resume fill");
    let holder = format!("process {}", run.pid());
    db.backfill(&["resume", "fill"]).exits(3).says(&holder);
    db.backfill(&["run", "fill", "--resume"]).exits(3).says(&holder);
    run.kill();
    db.backfill(&["run", "fill", "--resume"]).exits(0);
    db.backfill(&["run", "fill", "--resume"]).exits(0).says("already done");
    db.backfill(&["run", "fill"]).exits(3).says("--again");
    db.backfill(&["resume", "fill"]).exits(3).says("--again");
    db.backfill(&["run", "fill", "--again"]).exits(0);
    assert_eq!(db.status("fill")["rows_done"], 0);
}

#[test]
fn an_operators_cancel_of_a_statement_pauses_the_run() {
    let db = Db::found();
    table(&db, 1_000);
    db.spec("fill", &format!("{SPEC}lock_timeout = \"60s\"\nchunk_time = \"60s\"\n"));
    let application = db.connect();
    application.run("begin; update t set v = 0 where id = 50");
    let run = db.start(&["run", "fill"]);
    db.sql.wait_for("a chunk waits", WAITING);
    db.sql.run("select pg_cancel_backend(pid) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like '%\"public\".\"t\"%'");
    run.wait().exits(4).says("cancelled on the server from outside");
    assert_eq!(db.status("fill")["state"], "paused");
    application.run("rollback");
    db.backfill(&["resume", "fill"]).exits(0);
    assert_eq!(db.sql.number(LEFT), 0);
}

#[test]
fn the_contract_of_status_and_list() {
    let db = Db::found();
    table(&db, 1_000);
    db.backfill(&["status"]).exits(0).says("nothing has been run here");
    db.backfill(&["status", "fill"]).exits(3).says("backfill run fill");
    db.backfill(&["list"]).exits(0).prints("never run");
    assert_eq!(
        db.sql.text("select to_regnamespace('backfill') is null"),
        "t",
        "looking creates nothing"
    );
    db.backfill(&["run", "fill"]).exits(0).says("next: backfill verify fill");
    let status = db.status("fill");
    for field in [
        "name",
        "run_id",
        "direction",
        "state",
        "rows_done",
        "rows_total_estimate",
        "chunks_done",
        "chunks_failed",
        "rows_quarantined",
        "rows_conflicted",
        "rate_rows_per_s",
        "rate_limit_rows_per_s",
        "eta_s_low",
        "eta_s_high",
        "throttle",
        "started_at",
        "updated_at",
    ] {
        assert!(status.get(field).is_some(), "{field} is missing: {status}");
    }
    assert_eq!(status["state"], "succeeded");
    assert_eq!(status["rows_done"], 1_000);
    db.backfill(&["list", "--json"]).exits(0).prints("\"state\":\"succeeded\"");
    let verified = db.backfill(&["verify", "fill", "--json"]).exits(0).json();
    assert_eq!(verified["rows_remaining"], 0);
    db.sql.run("insert into t values (5000)");
    let verified = db.backfill(&["verify", "fill", "--json"]).exits(6).json();
    assert_eq!(
        (&verified["rows_remaining"], &verified["examples"][0]),
        (&1.into(), &"5000".into())
    );
}

#[test]
fn an_application_that_holds_a_row_is_waited_for_and_not_stalled() {
    let db = Db::found();
    table(&db, 2_000);
    let application = db.connect();
    application.run("begin; update t set v = -1 where id = 1500");
    let run = db.start(&["run", "fill", "--json"]);
    // All other chunks go through meanwhile.
    wait_for("the other chunks settle", || db.chunks_done() == 19);
    let waiting = "select coalesce(max(xact_start)::text, '') from pg_stat_activity
                    where datname = current_database() and wait_event_type = 'Lock' and query like '%\"public\".\"t\"%'";
    wait_for("the chunk waits", || !db.sql.text(waiting).is_empty());
    let first = db.sql.text(waiting);
    wait_for("the chunk gives way and comes back", || {
        !["", &first].contains(&db.sql.text(waiting).as_str())
    });
    application.run("commit");
    let ran = run.wait().exits(0);
    assert!(
        ran.stdout.contains("\"event\":\"retrying\"") && ran.stdout.contains("55P03"),
        "{}",
        ran.stdout
    );
    assert_eq!(db.sql.number("select v from t where id = 1500"), -1);
    assert_eq!(db.sql.number(LEFT), 0);
}

/// Several that are the first to come: the state tables are made once, and each of them finds them.
#[test]
fn the_first_runners_come_all_at_once() {
    for _ in 0..6 {
        let db = Db::found();
        db.sql.run("create table t (id bigint primary key, v int); insert into t select i from generate_series(1, 50) i; analyze t");
        db.spec("fill", "table = \"t\"\n[[rule]]\nfill = { v = \"1\" }\n");
        let all: Vec<_> = (0..6).map(|_| db.start(&["run", "fill", "--resume"])).collect();
        for one in all {
            let ran = one.wait();
            assert!([0, 3].contains(&ran.code), "{}: {}", ran.code, ran.stderr);
        }
        db.backfill(&["verify", "fill"]).exits(0);
        assert_eq!(db.sql.number("select count(*) from backfill.meta"), 1);
    }
}
