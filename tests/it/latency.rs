//! A run that goes by how long a small transaction takes.

use std::process::Command;

use crate::control::{LEFT, table};
use crate::pacing::{Own, project, waits_for};
use crate::support::{Db, Started, wait_for};

/// A COMMIT that hangs is what an application would feel.
#[test]
fn a_small_transaction_that_hangs_holds_the_run() {
    let db = Db::found();
    table(&db, 50_000);
    // A test makes a machine busy, which is felt too; only what hangs counts here.
    let only_hold = "[health]\nlatency = { warm = \"off\", hot = \"off\", hold = 5000 }\n";
    project(&db, only_hold);
    let plan = db.backfill(&["plan", "fill", "-v"]).exits(0);
    plan.prints("1 (latency)").prints("2 ms (latency)").prints("commit_latency, latency, ");
    let run = db.start(&["run", "fill"]);
    waits_for(&db, "slow: the rate is raised until a small transaction takes longer");
    let others = "from pg_stat_activity where query like '%pg_logical_emit_message%' and pid <> pg_backend_pid()";
    let backend =
        db.sql.text(&format!("select pid::text {others} and datname = current_database()"));
    let signal = |signal: &str| {
        assert!(Command::new("kill").args([signal, &backend]).status().unwrap().success());
    };
    signal("-STOP");
    waits_for(&db, "hold: a small transaction takes");
    assert!(db.sql.number(LEFT) > 0, "it was over before");
    signal("-CONT");
    waits_for(&db, "slow: ");
    // Without the signal nothing limits it.
    db.backfill(&["tune", "fill", "--ignore-signal", "latency"]).exits(0);
    run.wait().exits(0);
    assert_eq!(db.sql.number(LEFT), 0);
    db.backfill(&["log", "fill"]).exits(0).prints("  proceed  ");
    project(&db, "");
    db.backfill(&["plan", "fill", "-v"]).prints("500 ms (default)");
}

#[test]
fn small_transactions_that_take_longer_slow_the_run() {
    // Every COMMIT waits as long as this says, as it would behind a busy disk.
    let own = Own::of("latency", &["commit_siblings=0"], false);
    let health =
        "[health]\nlatency = { warm = 100, hot = 200, hold = \"off\" }\ncommit_latency = \"off\"\n";
    std::fs::write(own.directory.join("backfill.toml"), health).unwrap();
    let run = Started::new(own.command(&["run", "fill"]));
    own.waits_for("slow: the rate is raised until a small transaction takes longer");
    own.set("commit_delay = 100000");
    own.waits_for("slow: a small transaction takes");
    assert!(own.reason().contains(" ms (hot at 200 %)"), "{}", own.reason());
    own.set("commit_delay = 0");
    own.waits_for("slow: the signals are cool again");
    let tuned = own.command(&["tune", "fill", "--ignore-signal", "latency"]).output().unwrap();
    assert!(tuned.status.success());
    run.wait().exits(0);
    assert_eq!(own.sql.number(LEFT), 0);
}

#[test]
fn what_is_usual_is_learnt_anew_while_the_run_is_held() {
    let own = Own::of("usual", &["commit_siblings=0"], false);
    let flag = own.directory.join("hold");
    let health = format!(
        "[health]\nflag_file = '{}'\nlatency = {{ warm = 100, hot = 200, hold = \"off\" }}\ncommit_latency = \"off\"\n",
        flag.display()
    );
    std::fs::write(own.directory.join("backfill.toml"), health).unwrap();
    own.set("commit_delay = 50000");
    let run = Started::new(own.command(&["run", "fill"]));
    own.waits_for("slow: the rate is raised until a small transaction takes longer");
    std::fs::write(&flag, "").unwrap();
    own.waits_for("hold: the file");
    own.set("commit_delay = 0");
    // Not more often than twice a minute.
    wait_for("it is held for long enough", || {
        own.status()["spent_s"]["flag_file (hold)"].as_f64().is_some_and(|held| held > 40.0)
    });
    own.set("commit_delay = 50000");
    std::fs::remove_file(&flag).unwrap();
    own.waits_for("slow: a small transaction takes");
    own.set("commit_delay = 0");
    own.command(&["tune", "fill", "--ignore-signal", "latency"]).output().unwrap();
    run.wait().exits(0);
    assert_eq!(own.sql.number(LEFT), 0);
}
