//! What paces a run: windows of the calendar, budgets, health signals of a real server, and what an operator says meanwhile.

use std::io::{Read as _, Write as _};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use backfill::server::{Options, Server};
use jiff::{Timestamp, ToSpan};

use crate::control::{LEFT, SPEC, table};
use crate::support::{Db, Sql, Started, follow, program, wait_for};

pub(crate) fn project(db: &Db, text: &str) {
    std::fs::write(db.directory.join("backfill.toml"), text).unwrap();
}

/// A window that holds for an hour around now.
fn now_window(name: &str, rest: &str) -> String {
    let clock = |at: Timestamp| at.strftime("%H:%M").to_string();
    let now = Timestamp::now();
    let (from, to) = (now - 30.minutes(), now + 30.minutes());
    format!(
        "[[throttle.window]]\nname = \"{name}\"\nhours = \"{}-{}\"\ntimezone = \"UTC\"\n{rest}\n",
        clock(from),
        clock(to)
    )
}

/// The throttle of a run, `verdict: reason`.
fn throttle(db: &Db) -> String {
    if db.runs() == 0 {
        return String::new();
    }
    let ran = db.backfill(&["status", "fill", "--json"]);
    if ran.code != 0 {
        return String::new();
    }
    let throttle = &ran.json()["throttle"];
    let text = |field: &str| throttle[field].as_str().unwrap_or_default().to_owned();
    format!("{}: {}", text("verdict"), text("reason"))
}

pub(crate) fn waits_for(db: &Db, words: &str) {
    wait_for(words, || throttle(db).contains(words));
}

#[test]
fn a_closed_window_is_waited_out_or_ends_the_run() {
    let db = Db::found();
    table(&db, 1_000);
    project(&db, &now_window("closing time", "pause = true"));
    let plan = db.backfill(&["plan", "fill"]).exits(0);
    plan.prints("the week").prints(". closing time: paused").prints("on the clock of UTC");
    let ran = db.backfill(&["run", "fill", "--no-wait"]).exits(4);
    ran.says("window `closing time` is closed until").says("backfill resume fill");
    assert_eq!(db.sql.number(LEFT), 1_000);
    // Without that it sleeps, says why, and answers.
    let run = db.start(&["resume", "fill"]);
    waits_for(&db, "hold: window `closing time` is closed until");
    wait_for("the window is told", || db.status("fill")["throttle"]["window"] == "closing time");
    let status = db.status("fill");
    assert!(status["throttle"]["window_until"].as_str().unwrap().contains("UTC"), "{status}");
    db.backfill(&["pause", "fill"]).exits(0);
    run.wait().exits(4);
    assert_eq!(db.sql.number(LEFT), 1_000);
}

#[test]
fn a_window_sets_the_pace_and_can_be_put_into_force_by_hand() {
    let db = Db::found();
    table(&db, 5_000);
    let windows = now_window("slow", "rate = \"400 rows/s\"\nworkers = 1\nchunk_time = \"200ms\"")
        + "[[throttle.window]]\nname = \"fast\"\nrate = \"1000000 rows/s\"\nworkers = 3\n";
    project(&db, &windows);
    let run = db.start(&["run", "fill"]);
    waits_for(&db, "slow: window `slow` allows 400 rows/s until");
    wait_for("the window's limits are in force", || {
        let status = db.status("fill");
        status["workers"] == 1 && status["chunk_time_ms"] == 200
    });
    db.backfill(&["tune", "fill", "--window", "nightly"]).exits(2).says("there are: slow, fast");
    db.backfill(&["tune", "fill", "--window", "fast", "--for", "1h"])
        .exits(0)
        .says("window `fast` in force until");
    // At 400 rows/s the rest would have taken twelve seconds and more, shared with other runs.
    run.wait().exits(0);
    assert_eq!(db.sql.number(LEFT), 0);
    let log = db.backfill(&["log", "fill"]).exits(0);
    log.prints("window `fast` in force until")
        .prints("slow: window `slow` allows 400 rows/s until");
    let spent = db.status("fill")["spent_s"].clone();
    assert!(spent["window slow (slow)"].as_f64().unwrap() > 0.0, "{spent}");
}

#[test]
fn what_a_row_costs_in_wal_is_measured_and_limited() {
    let db = Db::found();
    table(&db, 20_000);
    let begun = db.sql.text("select pg_current_wal_lsn()");
    let run = db.start(&["run", "fill", "--rate", "2 MB/s wal", "--json"]);
    wait_for("chunks settle", || db.chunks_done() > 5);
    let status = db.status("fill");
    assert_eq!(status["wal_limit_bytes_per_s"], 2e6);
    assert!(status["throttle"]["reason"].as_str().unwrap().contains("2.0 MB/s wal"), "{status}");
    let ran = run.wait().exits(0);
    let bytes: f64 = ran
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|event| event["wal_bytes"].as_f64())
        .sum();
    // Other tests write to the same server meanwhile; what is written by a plain update of the same rows is known.
    let total: f64 = db
        .sql
        .text(&format!("select pg_wal_lsn_diff(pg_current_wal_lsn(), '{begun}')"))
        .parse()
        .unwrap();
    let least = 20_000.0 * 70.0;
    assert!(least < bytes && bytes <= total, "{bytes} of {total}, at least {least}");
}

#[test]
fn an_operators_file_query_and_url_hold_the_run() {
    let db = Db::found();
    table(&db, 2_000);
    db.sql.run("create table knob (v int); insert into knob values (0)");
    let answer = Arc::new(AtomicU16::new(200));
    let url = answers(&answer);
    let flag = db.directory.join("stop");
    project(
        &db,
        &format!(
            "[health]\nflag_file = \"{}\"\nhttp = \"{url}\"\n[health.query]\nname = \"queue\"\nsql = \"select v from knob\"\nhold = 10\n",
            flag.display()
        ),
    );
    std::fs::write(&flag, "").unwrap();
    let run = db.start(&["run", "fill", "--rate", "200 rows/s"]);
    waits_for(&db, "the file");
    assert_eq!(db.sql.number(LEFT), 2_000, "the first look comes before the first chunk");
    // An exemption is for a while only.
    db.backfill(&["tune", "fill", "--ignore-signal", "flag_filee"])
        .exits(2)
        .says("there are: lag,");
    db.backfill(&["tune", "fill", "--ignore-signal", "flag_file", "--for", "2s"]).exits(0);
    wait_for("it goes on", || db.chunks_done() > 0);
    waits_for(&db, "hold: the file");
    std::fs::remove_file(&flag).unwrap();
    db.sql.run("update knob set v = 10");
    waits_for(&db, "hold: queue is 10 (holds at 10)");
    db.sql.run("update knob set v = 0");
    answer.store(503, Ordering::Relaxed);
    waits_for(&db, "hold: the operator's URL answers 503");
    answer.store(200, Ordering::Relaxed);
    db.backfill(&["tune", "fill", "--no-rate"]).exits(0);
    run.wait().exits(0);
    assert_eq!(db.sql.number(LEFT), 0);
    // What cannot be read holds too, after its time.
    db.sql.run("update t set v = null; drop table knob");
    project(
        &db,
        "[health]\nunknown_after = \"1s\"\nquery = { sql = \"select v from knob\", hold = 1 }\n",
    );
    let run = db.start(&["run", "fill", "--again", "--rate", "100 rows/s"]);
    waits_for(&db, "hold: unknown for");
    drop(run);
}

/// A server on the loopback that answers every request with the given status.
fn answers(status: &Arc<AtomicU16>) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let status = status.clone();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let mut request = [0; 1024];
            let _ = connection.read(&mut request);
            let status = status.load(Ordering::Relaxed);
            let _ = write!(
                connection,
                "HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
        }
    });
    url
}

/// A deferred trigger makes every COMMIT of a chunk wait for a lock that the test holds.
const WAIT_AT_COMMIT: &str = "
    create function wait_at_commit() returns trigger language plpgsql as $$
    begin perform pg_advisory_xact_lock_shared(4712); return null; end $$;
    create constraint trigger wait_at_commit after update on t deferrable initially deferred
        for each row when (new.id = 150 and new.v > 0) execute function wait_at_commit()";

#[test]
fn an_application_that_waits_for_a_chunk_halves_the_chunk_time() {
    let db = Db::found();
    table(&db, 10_000);
    db.sql.run(WAIT_AT_COMMIT);
    db.spec("fill", &format!("{SPEC}lock_timeout = \"60s\"\nchunk_time = \"40s\"\n"));
    let gate = db.connect();
    gate.run("select pg_advisory_lock(4712)");
    let run = db.start(&["run", "fill", "--rate", "2000 rows/s"]);
    let waiting = "select count(*) = 1 from pg_locks where locktype = 'advisory' and objid = 4712 and not granted
                      and database = (select oid from pg_database where datname = current_database())";
    db.sql.wait_for("a chunk waits at COMMIT", waiting);
    let application = Started::new({
        let mut psql = Command::new("psql");
        psql.args([&db.url, "-c", "update t set v = -1 where id = 150"]);
        psql
    });
    wait_for("chunks take half as long, or less", || {
        db.status("fill")["chunk_time_ms"].as_i64().is_some_and(|ms| ms <= 20_000)
    });
    waits_for(&db, "1 session waits for rows that this run holds");
    gate.run("select pg_advisory_unlock(4712)");
    application.wait().exits(0);
    db.backfill(&["tune", "fill", "--no-rate", "--ignore-signal", "blocked"]).exits(0);
    run.wait().exits(0);
    assert_eq!(
        db.sql.text("select v from t where id = 150"),
        "-1",
        "the application's write stands"
    );
}

#[test]
fn several_runs_on_a_server_share_one_budget() {
    let (one, two) = (Db::found(), Db::found());
    for db in [&one, &two] {
        table(db, 20_000);
    }
    let first = one.start(&["run", "fill", "--rate", "1000 rows/s"]);
    let second = two.start(&["run", "fill", "--rate", "1000 rows/s"]);
    waits_for(&one, "limited to 1,000 rows/s (flag); shared by");
    waits_for(&two, "runs,");
    drop((first, second));
}

/// A server of its own with a project directory.
pub(crate) struct Own {
    server: Server,
    pub(crate) sql: Sql,
    pub(crate) directory: std::path::PathBuf,
}

impl Own {
    pub(crate) fn new(name: &str, settings: &[&str]) -> Own {
        Own::of(name, settings, true)
    }

    pub(crate) fn of(name: &str, settings: &[&str], no_fsync: bool) -> Own {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let server = Server::start(&Options { settings, no_fsync, ..Options::default() }).unwrap();
        let directory =
            std::env::temp_dir().join(format!("backfill-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(directory.join("backfills")).unwrap();
        // Even in its WAL: the first stripe of a window logs all of its pages whole.
        let spec = SPEC.replace("[[rule]]", "order = \"key\"\n[[rule]]");
        std::fs::write(directory.join("backfills/fill.toml"), spec).unwrap();
        let sql = Sql::connect(&server.url("postgres"));
        sql.run(
            "create table t (id bigint primary key, v bigint, w text);
             insert into t select i, null, repeat('x', 200) from generate_series(1, 200000) i; analyze t",
        );
        Own { server, sql, directory }
    }

    pub(crate) fn set(&self, setting: &str) {
        self.sql.run(&format!("alter system set {setting}"));
        self.sql.run("select pg_reload_conf()");
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command
            .args(arguments)
            .env("DATABASE_URL", self.server.url("postgres"))
            .current_dir(&self.directory);
        command
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        let output = self.command(&["status", "fill", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    pub(crate) fn reason(&self) -> String {
        let status = self.status();
        let text = |field: &str| status["throttle"][field].as_str().unwrap_or_default().to_owned();
        format!("{}: {}", text("verdict"), text("reason"))
    }

    pub(crate) fn waits_for(&self, words: &str) {
        wait_for(words, || self.reason().contains(words));
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn an_archiver_that_fails_holds_the_run() {
    let own =
        Own::new("archiver", &["wal_level=replica", "archive_mode=on", "archive_command=false"]);
    own.sql.run("select pg_switch_wal()");
    own.sql.wait_for("archiving fails", "select failed_count > 0 from pg_stat_archiver");
    let run = Started::new(own.command(&["run", "fill", "--rate", "20000 rows/s"]));
    own.waits_for("hold: archiving WAL fails");
    own.sql.run("alter system set archive_command = 'true'");
    // A setting on the command line wins over the file's, so the run is told to go on instead.
    let tuned = own
        .command(&["tune", "fill", "--ignore-signal", "archiver", "--no-rate"])
        .output()
        .unwrap();
    assert!(tuned.status.success());
    run.wait().exits(0);
    assert_eq!(own.sql.number(LEFT), 0);
}

#[test]
fn a_replica_that_lags_slows_the_run_and_one_that_vanishes_holds_it() {
    let mut own =
        Own::new("replica", &["wal_level=replica", "max_wal_senders=4", "wal_keep_size=4GB"]);
    std::fs::write(
        own.directory.join("backfill.toml"),
        "[health]\nreplica_delay = \"off\"\nunknown_after = \"1s\"\ncommit_latency = \"off\"\nsessions = \"off\"\n\
         replica_lag = { warm = \"2 MB\", hot = \"4 MB\", hold = \"24 MB\" }\n[vacuum]\nevery = \"off\"\n",
    )
    .unwrap();
    let mut standby = follow(&mut own.server);
    own.sql = Sql::connect(&own.server.url("postgres"));
    let replica = Sql::connect(&standby.url("postgres"));
    replica.run("select pg_wal_replay_pause()");
    let run = Started::new(own.command(&["run", "fill", "--rate", "10000 rows/s"]));
    own.waits_for("slow: replica `r1`");
    own.waits_for("hold: replica `r1`");
    assert!(own.reason().contains("behind (holds at 24.0 MB)"), "{}", own.reason());
    let left = own.sql.number(LEFT);
    assert!(left > 0, "it held before the end");
    replica.run("select pg_wal_replay_resume()");
    wait_for("it goes on when the replica has caught up", || own.sql.number(LEFT) < left);
    // Gone is not caught up.
    standby.crash().unwrap();
    own.waits_for("hold: unknown for");
    assert!(own.reason().contains("replica `r1` is gone"), "{}", own.reason());
    standby.restart().unwrap();
    let tuned =
        own.command(&["tune", "fill", "--no-rate", "--ignore-signal", "lag"]).output().unwrap();
    assert!(tuned.status.success());
    let ran = run.wait().exits(0);
    assert_eq!(own.sql.number(LEFT), 0);
    ran.says("time by what held it back:").says("replica_lag (hold)");
}

#[test]
fn vacuums_old_transactions_slots_and_crowds_are_seen() {
    let own = Own::new("signals", &["wal_level=logical", "max_replication_slots=4"]);
    let health = |line: &str| {
        let text = format!("[health]\ncommit_latency = \"off\"\n{line}\n");
        std::fs::write(own.directory.join("backfill.toml"), text).unwrap();
    };
    let start = || {
        own.sql.run("update t set v = null; drop schema if exists backfill cascade");
        Started::new(own.command(&["run", "fill", "--rate", "5000 rows/s"]))
    };
    // A vacuum of the table holds this lock; half the speed while it lasts.
    let vacuum = Sql::connect(&own.server.url("postgres"));
    vacuum.run("begin; lock table t in share update exclusive mode");
    health("horizon = \"off\"");
    let run = start();
    own.waits_for("vacuums or analyses the table");
    vacuum.run("rollback");
    own.waits_for("slow: limited to 5,000 rows/s");
    drop(run);
    // A transaction that keeps dead rows.
    let report = Sql::connect(&own.server.url("postgres"));
    report.run("begin isolation level repeatable read; select count(*) from t");
    health("horizon = { warm = \"500ms\", hot = \"1s\", hold = \"2s\" }");
    let run = start();
    own.waits_for("hold: backend");
    assert!(own.reason().contains("has a transaction open for"), "{}", own.reason());
    report.run("rollback");
    drop(run);
    // A slot that nobody reads keeps WAL.
    own.sql.run("select pg_create_logical_replication_slot('idle', 'pgoutput')");
    health("slots = { warm = \"1 kB\", hot = \"2 kB\", hold = \"100 kB\" }");
    let run = start();
    own.waits_for("hold: slot `idle` keeps");
    own.sql.run("select pg_drop_replication_slot('idle')");
    drop(run);
    // More sessions at work than usual.
    health("sessions = { warm = 1, hot = 1.1, hold = 1.2 }");
    let run = start();
    own.waits_for("slow: limited");
    let crowd: Vec<Started> = (0..12)
        .map(|_| {
            let mut psql = Command::new("psql");
            psql.args([&own.server.url("postgres"), "-c", "select pg_sleep(20)"]);
            Started::new(psql)
        })
        .collect();
    own.waits_for("hold: 12 sessions of others are at work, usually at most 8");
    drop((run, crowd));
}

#[test]
fn what_seldom_happens_is_seen_on_a_server() {
    let own = Own::new("seldom", &["max_wal_size=32MB", "autovacuum_naptime=1s"]);
    own.sql.run("alter table t set (autovacuum_enabled = off)");
    let start = |line: &str| {
        let text =
            format!("[health]\ncommit_latency = \"off\"\n{line}\n[vacuum]\nevery = \"off\"\n");
        std::fs::write(own.directory.join("backfill.toml"), text).unwrap();
        own.sql.run("update t set v = null");
        own.sql.run("drop schema if exists backfill cascade");
        Started::new(own.command(&["run", "fill", "--rate", "5000 rows/s"]))
    };
    // Rows that nobody has vacuumed: twice the table by now.
    let run = start("dead_rows = { warm = 500, hot = 1000 }\ncheckpoints = \"off\"");
    own.waits_for("slow: the table has");
    assert!(own.reason().contains("dead rows"), "{}", own.reason());
    drop(run);
    own.sql.run("vacuum t");
    // More WAL than the server is set up for.
    let run = start("dead_rows = \"off\"\ncheckpoints = { warm = 1, hot = 2 }");
    own.waits_for("slow: limited to 5,000 rows/s");
    let busy = Sql::connect(&own.server.url("postgres"));
    busy.run("create table busy (v text)");
    wait_for("checkpoints because of WAL", || {
        busy.run("insert into busy select repeat('x', 1000) from generate_series(1, 20000)");
        own.reason().contains("checkpoints in 5 minutes came because of WAL")
    });
    assert!(own.reason().starts_with("slow"), "{}", own.reason());
    drop(run);
    // A vacuum against wraparound, which must not be kept from its work.
    own.sql.run("drop table busy");
    own.sql.run(
        "alter table t set (autovacuum_freeze_max_age = 100000, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)",
    );
    own.sql.run("create procedure burn() language plpgsql as 'begin for i in 1..100100 loop perform txid_current(); commit; end loop; end'");
    own.sql.run("call burn()");
    own.sql.wait_for(
        "a vacuum against wraparound",
        "select count(*) > 0 from pg_stat_activity where query like '%public.t (to prevent wraparound)'",
    );
    let run = start("checkpoints = \"off\"");
    own.waits_for("hold: backend");
    assert!(own.reason().contains("vacuums the table to prevent wraparound"), "{}", own.reason());
    assert_eq!(own.sql.number(LEFT), 200_000, "nothing was written meanwhile");
    drop(run);
}

#[test]
fn a_process_that_slept_through_the_end_of_a_window_goes_on_at_once() {
    let db = Db::found();
    table(&db, 1_000);
    db.spec("fill", SPEC);
    // It closes with a minute of the clock, far enough away to begin before.
    let ends = Timestamp::now() + 70.seconds();
    let ends = ends - ends.strftime("%S").to_string().parse::<i64>().unwrap().seconds();
    let clock = |at: Timestamp| at.strftime("%H:%M").to_string();
    project(
        &db,
        &format!(
            "[[throttle.window]]\nname = \"closed\"\nhours = \"{}-{}\"\ntimezone = \"UTC\"\npause = true\n",
            clock(ends - 30.minutes()),
            clock(ends)
        ),
    );
    let run = db.start(&["run", "fill"]);
    waits_for(&db, "hold: window `closed`");
    run.signal(nix::sys::signal::Signal::SIGSTOP);
    let left = (ends - Timestamp::now()).total(jiff::Unit::Second).unwrap();
    std::thread::sleep(std::time::Duration::from_secs_f64(left.max(0.0) + 2.0));
    assert_eq!(db.sql.number(LEFT), 1_000, "it sleeps");
    run.signal(nix::sys::signal::Signal::SIGCONT);
    run.wait().exits(0);
    assert_eq!(db.sql.number(LEFT), 0);
}

#[test]
fn mistakes_in_windows_and_signals_are_told_with_their_lines() {
    let db = Db::found();
    table(&db, 10);
    for (text, words) in [
        (
            "\n[[throttle.window]]\nname = \"x\"\ntimezone = \"Europe/Berln\"\nrate = \"1 rows/s\"\n",
            "--> backfill.toml:4:12",
        ),
        (
            "[[throttle.window]]\nname = \"x\"\nhours = \"09:00-25:00\"\nrate = \"1 rows/s\"\n",
            "`25:00` is no time of day",
        ),
        ("[[throttle.window]]\nname = \"x\"\nrate = \"2000\"\n", "a rate needs its unit"),
        ("[health]\nreplica_lag = { hot = \"64\" }\n", "a size needs its unit"),
        ("[health]\nreplicalag = \"off\"\n", "did you mean `replica_lag`?"),
    ] {
        project(&db, text);
        db.backfill(&["plan", "fill"]).exits(2).says(words);
    }
}
