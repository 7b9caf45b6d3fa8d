//! `n = n + 1` tells a lost chunk (0) from a doubled one (2), whatever the run goes through.

use std::time::Duration;

use nix::sys::signal::Signal;

use backfill::server::{Options, Server};

use crate::support::proxy::Proxy;
use crate::support::{Db, Sql, Started, Which, program, wait_for};

fn spec(limits: &str) -> String {
    format!("table = \"t\"\n[[rule]]\nset = {{ n = \"n + 1\" }}\n[limits]\nworkers = 4\n{limits}")
}

fn counters(sql: &Sql, rows: u32) {
    sql.run(&format!(
        "create table t (id bigint primary key, n int not null default 0);
         insert into t select i from generate_series(1, {rows}) i; analyze t"
    ));
}

/// Every row is 1, and the chunk table says the same.
#[track_caller]
fn every_row_is_one(sql: &Sql, rows: i64) {
    let wrong = sql.rows("select n, count(*) from t where n <> 1 group by n");
    assert!(wrong.is_empty(), "rows by n: {wrong:?}");
    let newest = "run_id = (select max(run_id) from backfill.run)";
    assert_eq!(
        sql.number(&format!("select sum(rows_done) from backfill.chunk where {newest}")),
        rows
    );
    assert_eq!(
        sql.number(&format!(
            "select count(*) from backfill.chunk where state <> 'done' and {newest}"
        )),
        0
    );
}

#[test]
fn a_runner_killed_twenty_times_at_random_moments() {
    killed_twenty_times("");
}

#[test]
fn a_runner_of_stripes_killed_twenty_times_at_random_moments() {
    killed_twenty_times("order = \"striped\"\nstripes = 8\n");
}

fn killed_twenty_times(order: &str) {
    let db = Db::found();
    counters(&db.sql, 200_000);
    db.spec("once", &format!("{order}{}", spec("chunk_rows_max = 400\n")));
    let mut kills = 0;
    let mut verb = "run";
    while kills < 20 {
        let before = db.chunks_done();
        let started = db.start(&[verb, "once"]);
        wait_for("the runner settles a chunk", || db.chunks_done() > before);
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..40)));
        started.kill();
        kills += 1;
        verb = "resume";
    }
    assert!(db.chunks_done() < 500, "nothing was left for the last runner");
    db.backfill(&["resume", "once"]).exits(0);
    every_row_is_one(&db.sql, 200_000);
    assert_eq!(db.status("once")["state"], "succeeded");
}

/// The run's backends that are inside a chunk.
const WORKERS: &str = "select pid from pg_locks where locktype = 'advisory' and mode = 'ShareLock'
    and database = (select oid from pg_database where datname = current_database())";

#[test]
fn backends_terminated_in_the_middle_of_chunks() {
    for which in [Which::Oldest, Which::Found, Which::Newest] {
        let db = Db::new(which);
        counters(&db.sql, 30_000);
        db.spec("once", &spec("chunk_rows_max = 200\n"));
        let mut run = db.start(&["run", "once", "--rate", "20000 rows/s"]);
        let mut terminated = 0;
        while terminated < 20 && !run.is_over() {
            // One chunk at least gets through between two blows, or the run would never end.
            let before = db.chunks_done();
            wait_for("a chunk is at work", || {
                let ended = format!("select pg_terminate_backend(pid) from ({WORKERS}) w");
                let ended = db.sql.rows(&ended).len();
                terminated += ended;
                ended > 0 || run.is_over()
            });
            wait_for("a chunk settles", || db.chunks_done() > before || run.is_over());
        }
        run.wait().exits(0);
        assert!(terminated > 5, "{terminated} backends were terminated");
        every_row_is_one(&db.sql, 30_000);
    }
}

/// A deferred trigger makes every COMMIT of a chunk wait for a lock that the test holds: a barrier between the last statement and the
/// end of the commit.
const WAIT_AT_COMMIT: &str = "
    create function wait_at_commit() returns trigger language plpgsql as $$
    begin perform pg_advisory_xact_lock_shared(4711); return null; end $$;
    create constraint trigger wait_at_commit after update on t deferrable initially deferred
        for each row when (new.id % 500 = 0) execute function wait_at_commit()";

#[test]
fn backends_terminated_between_statement_and_commit() {
    let db = Db::found();
    counters(&db.sql, 5_000);
    db.sql.run(WAIT_AT_COMMIT);
    db.spec("once", &spec("chunk_rows_max = 500\nlock_timeout = \"60s\"\nchunk_time = \"60s\"\n"));
    let gate = db.connect();
    gate.run("select pg_advisory_lock(4711)");
    let run = db.start(&["run", "once"]);
    let waiting =
        "select pid from pg_locks where locktype = 'advisory' and objid = 4711 and not granted
                      and database = (select oid from pg_database where datname = current_database())";
    db.sql.wait_for("chunks wait at COMMIT", &format!("select count(*) >= 2 from ({waiting}) w"));
    let ended = db.sql.rows(&format!("select pg_terminate_backend(pid) from ({waiting}) w"));
    assert!(ended.len() >= 2);
    gate.run("select pg_advisory_unlock(4711)");
    run.wait().exits(0);
    every_row_is_one(&db.sql, 5_000);
}

#[test]
fn answers_to_commit_that_never_arrive() {
    let db = Db::found();
    counters(&db.sql, 20_000);
    db.spec("once", &spec("chunk_rows_max = 500\n"));
    let proxy = Proxy::start(db.socket_dir(), 12);
    let url = format!("postgresql://postgres@127.0.0.1:{}/{}", proxy.port, db.name);
    let ran = db.backfill(&["run", "once", "--url", &url, "--json"]).exits(0);
    assert_eq!(proxy.cuts_left(), 0);
    every_row_is_one(&db.sql, 20_000);
    // The commits whose answers were lost had happened: the claim found the chunks done.
    let found = ran.stdout.lines().filter(|line| line.contains("\"found_done\":true")).count();
    assert!(found >= 1, "no chunk was found done:\n{}", ran.stdout);
}

#[test]
fn a_server_that_crashes_and_comes_back() {
    crashes_and_comes_back("commit", &[]);
}

#[test]
fn a_server_that_crashes_with_commits_that_were_not_on_disk() {
    // Written out so seldom that every crash takes chunks back.
    crashes_and_comes_back("group", &["wal_writer_delay=10s", "wal_writer_flush_after=1GB"]);
}

fn crashes_and_comes_back(durability: &str, settings: &[&str]) {
    let mut settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
    settings.push("max_connections=50".to_owned());
    let mut server = Server::start(&Options { major: None, settings, no_fsync: false }).unwrap();
    let sql = Sql::connect(&server.url("postgres"));
    counters(&sql, 60_000);
    let directory = std::env::temp_dir()
        .join(format!("backfill-test-crash-{durability}-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("backfills")).unwrap();
    let limits = format!("chunk_rows_max = 300\ndurability = \"{durability}\"\n");
    std::fs::write(directory.join("backfills/once.toml"), spec(&limits)).unwrap();
    let mut lost = 0;
    let mut command = program();
    command.args(["run", "once", "--rate", "20000 rows/s", "--url", &server.url("postgres")]);
    let run = Started::new({
        command.current_dir(&directory);
        command
    });
    for crash in 0..8 {
        let sql = Sql::connect(&server.url("postgres"));
        let done = "select count(*) from backfill.chunk where state = 'done'";
        let before = match sql.text("select to_regclass('backfill.chunk') is null").as_str() {
            "t" => 0,
            _ => sql.number(done),
        };
        sql.wait_for("chunks settle", "select to_regclass('backfill.chunk') is not null");
        sql.wait_for("chunks settle", &format!("select ({done}) > {}", before + 10));
        let seen = sql.number(done);
        server.crash().unwrap();
        server.restart().unwrap();
        let left = Sql::connect(&server.url("postgres")).number(done);
        lost += (seen - left).max(0);
        // What was cut in between went to the disk, with all before it; so it takes a few to lose some.
        if crash > 0 && (durability == "commit" || lost > 0) {
            break;
        }
    }
    // Else the test shows nothing: what COMMIT waited for is there, what it did not wait for is not.
    assert_eq!(lost > 0, durability == "group", "{lost} chunks were lost");
    run.wait().exits(0);
    every_row_is_one(&Sql::connect(&server.url("postgres")), 60_000);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_zombie_changes_nothing_after_it_was_replaced() {
    let db = Db::found();
    counters(&db.sql, 20_000);
    db.spec("once", &spec("chunk_rows_max = 200\n"));
    let zombie = db.start(&["run", "once", "--rate", "4000 rows/s"]);
    wait_for("chunks settle", || db.chunks_done() >= 5);
    zombie.signal(Signal::SIGSTOP);
    let epoch = db.sql.number("select epoch from backfill.run");
    // A live lock is respected, and its holder named.
    let refused = db.backfill(&["resume", "once"]).exits(3);
    let pid = format!("process {}", zombie.pid());
    refused.says(&pid).says("--take-over");
    db.backfill(&["resume", "once", "--take-over", "--rate", "40000 rows/s"]).exits(0);
    every_row_is_one(&db.sql, 20_000);
    zombie.signal(Signal::SIGCONT);
    let ran = zombie.wait().exits(3);
    ran.says("taken over");
    every_row_is_one(&db.sql, 20_000);
    let old = format!("select count(*) from backfill.chunk where settled_epoch <= {epoch}");
    assert!(db.sql.number(&old) < 100);
    assert_eq!(db.status("once")["state"], "succeeded");
}

#[test]
fn a_zombie_stopped_inside_a_chunk_does_not_commit_it() {
    let db = Db::found();
    counters(&db.sql, 2_000);
    db.sql.run(WAIT_AT_COMMIT);
    db.spec("once", &spec("chunk_rows_max = 500\nlock_timeout = \"60s\"\nchunk_time = \"60s\"\n"));
    let gate = db.connect();
    gate.run("select pg_advisory_lock(4711)");
    let zombie = db.start(&["run", "once"]);
    db.sql.wait_for("chunks are inside", &format!("select count(*) >= 2 from ({WORKERS}) w"));
    zombie.signal(Signal::SIGSTOP);
    let heir = db.start(&["resume", "once", "--take-over"]);
    db.sql.wait_for("the heir has begun", "select epoch >= 3 from backfill.run");
    gate.run("select pg_advisory_unlock(4711)");
    heir.wait().exits(0);
    zombie.signal(Signal::SIGCONT);
    zombie.wait().exits(3);
    every_row_is_one(&db.sql, 2_000);
    assert_eq!(db.sql.number("select count(*) from backfill.chunk where settled_epoch < 3"), 0);
}

#[test]
fn a_chunk_that_nobody_remembers_is_done_before_the_end() {
    let db = Db::found();
    counters(&db.sql, 3_000);
    db.spec("once", &spec("chunk_rows_max = 100\n"));
    let run = db.start(&["run", "once", "--rate", "1000 rows/s"]);
    wait_for("chunks settle", || db.chunks_done() >= 3);
    // As after a split whose commit was not answered: the rows of an open chunk are moved to a new one behind the runner's back.
    db.sql.run(
        "with last as (select * from backfill.chunk order by seq desc limit 1 for update),
              numbered as (update backfill.run set next_seq = next_seq + 1000 returning next_seq - 1000 + 500 as seq),
              shortened as (update backfill.chunk c set upto_key = array[((c.after_key[1])::bigint + 50)::text]
                              from last where c.seq = last.seq and c.state = 'pending' returning 1)
         insert into backfill.chunk (run_id, seq, after_key, upto_key, keys)
         select run_id, numbered.seq, array[((after_key[1])::bigint + 50)::text], upto_key, 50 from last, numbered, shortened",
    );
    assert_eq!(db.sql.number("select count(*) from backfill.chunk where keys = 50"), 1);
    run.wait().exits(0);
    every_row_is_one(&db.sql, 3_000);
}

#[test]
fn a_zombie_that_wakes_beside_its_heir_settles_nothing() {
    let db = Db::found();
    counters(&db.sql, 20_000);
    db.spec("once", &spec("chunk_rows_max = 100\n"));
    let zombie = db.start(&["run", "once", "--rate", "4000 rows/s"]);
    wait_for("chunks settle", || db.chunks_done() >= 5);
    zombie.signal(Signal::SIGSTOP);
    let epoch = db.sql.number("select epoch from backfill.run");
    let heir = db.start(&["resume", "once", "--take-over", "--rate", "4000 rows/s"]);
    db.sql.wait_for("the heir has begun", &format!("select epoch > {epoch} from backfill.run"));
    let by_zombie = format!("select count(*) from backfill.chunk where settled_epoch <= {epoch}");
    let before = db.sql.number(&by_zombie);
    zombie.signal(Signal::SIGCONT);
    zombie.wait().exits(3).says("taken over");
    heir.wait().exits(0);
    assert_eq!(db.sql.number(&by_zombie), before);
    every_row_is_one(&db.sql, 20_000);
}
