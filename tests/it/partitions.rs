//! Partitioned tables: gone through leaf by leaf where that is the same as going through the parent, and whatever becomes of a leaf
//! meanwhile.

use crate::support::{Db, Which, wait_for};

/// A table in five partitions of as many rows each, and one without any.
fn table(db: &Db, each: u32, with: &str) {
    db.sql.run(
        "create table t (id bigint, part int, n int not null default 0, v text, body text, primary key (part, id)) partition by list (part)",
    );
    for part in 1..=6 {
        db.sql.run(&format!("create table t_{part} partition of t for values in ({part}) {with}"));
    }
    db.sql.run(&format!(
        "insert into t select i, 1 + i / {each}, 0, null, repeat(md5(i::text), 4) from generate_series(0, {each} * 5 - 1) i"
    ));
    db.sql.run("vacuum analyze t");
}

const SET: &str = "table = \"t\"\n[[rule]]\nset = { n = \"n + 1\" }\n";

const LEAVES: &str = "select leaves is not null from backfill.run order by run_id desc limit 1";

#[test]
fn each_leaf_is_striped_counted_and_vacuumed_by_itself() {
    let db = Db::new(Which::Apart);
    table(&db, 24_000, "with (autovacuum_enabled = off)");
    db.spec("set", &format!("order = \"striped\"\nstripes = 13\n{SET}"));
    let plan = db.backfill(&["plan", "set"]).exits(0);
    let plan =
        plan.prints("6, one after the other: public.t_1 ").prints("and 2 more (-v names them)");
    plan.prints("in 13 stripes by key (part, id)");
    let plan = db.backfill(&["plan", "set", "--json"]).exits(0).json();
    let leaves = plan["leaves"].as_array().unwrap();
    assert_eq!(leaves.len(), 6);
    assert_eq!(leaves[4]["ceiling"], serde_json::json!(["5", "119999"]));
    assert_eq!(leaves[5]["ceiling"], serde_json::Value::Null);
    db.backfill(&["run", "set"]).exits(0).says("HOT");
    assert_eq!(db.sql.text(LEAVES), "t");
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 120_000);
    let storage = db.status("set")["storage"].clone();
    assert_eq!(storage["cut_by"], "stripes");
    assert!(storage["hot_share"].as_f64().unwrap() > 0.4, "{storage}");
    assert_eq!(db.sql.number("select count(distinct upto_key[1]) from backfill.chunk"), 5);
    db.backfill(&["reverse", "set"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n = 0"), 120_000);

    // In slices nothing is HOT, and each leaf is vacuumed once a good part of it is dead.
    db.sql.run("create index on t (n)");
    db.spec(
        "slices",
        &format!("{SET}[vacuum]\nevery = \"40%\"\n[limits]\nrate = \"40000 rows/s\"\nchunk_rows_max = 2000\n"),
    );
    db.backfill(&["run", "slices"]).exits(0);
    let vacuums = db.status("slices")["storage"]["vacuums"].as_i64().unwrap();
    db.sql.wait_for(
        "the server's counters",
        &format!("select sum(vacuum_count) >= {vacuums} + 6 from pg_stat_user_tables where relname like 't\\__'"),
    );
    let each =
        "select count(*) from pg_stat_user_tables where relname like 't\\__' and vacuum_count > 1";
    assert!(db.sql.number(each) >= 3, "leaves vacuumed on the way: {}", db.sql.number(each));
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 120_000);
}

#[test]
fn small_leaves_among_large_ones_are_cut_into_plain_slices() {
    let db = Db::found();
    table(&db, 300, "");
    db.sql.run("insert into t select i, 2, 0, null, repeat(md5(i::text), 4) from generate_series(10000, 109999) i");
    db.sql.run("vacuum analyze t");
    db.spec("set", &format!("{SET}[limits]\nchunk_rows_max = 500\n"));
    let plan = db.backfill(&["plan", "set"]).exits(0).prints("in 13 stripes");
    db.backfill(&["run", "set"]).exits(0);
    let stripes =
        "select upto_key[1], max(stripes), count(*) > 1 from backfill.chunk group by 1 order by 1";
    let plain = |leaf: &str| vec![leaf.to_owned(), "1".to_owned(), "f".to_owned()];
    let mut expected: Vec<Vec<String>> = ["1", "2", "3", "4", "5"].map(plain).to_vec();
    expected[1] = vec!["2".to_owned(), "13".to_owned(), "t".to_owned()];
    assert_eq!(db.sql.rows(stripes), expected);
    let chunks = db.chunks_done();
    let estimate = plan.stdout.lines().find(|line| line.contains("estimate")).unwrap();
    let estimated: i64 = estimate.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((chunks / 2..chunks * 2).contains(&estimated), "{estimated} estimated, {chunks} done");
    db.backfill(&["verify", "set"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 101_500);
}

/// Waits until chunks of the second leaf are done, and stops there.
fn stop_in_the_second_leaf(db: &Db, name: &str) {
    let run = db.start(&["run", name, "--rate", "20000 rows/s"]);
    wait_for("the second leaf is begun", || {
        db.sql.text("select to_regclass('backfill.chunk') is not null") == "t"
            && db.sql.number(
                "select count(*) from backfill.chunk where state = 'done' and upto_key[1] = '2'",
            ) > 0
    });
    db.backfill(&["pause", name]).exits(0);
    run.wait();
}

#[test]
fn leaves_that_are_renamed_detached_dropped_and_attached_meanwhile() {
    let db = Db::found();
    table(&db, 6_000, "");
    let spec = format!("{SET}[limits]\nchunk_rows_max = 200\nworkers = 2\n");
    db.spec("set", &spec);
    stop_in_the_second_leaf(&db, "set");
    db.sql.run(
        "alter table t_2 rename to \"t 2\"; create schema elsewhere; alter table t_3 set schema elsewhere;
         alter table t detach partition t_4; drop table t_5;
         create table late partition of t for values in (5); insert into t select i, 5 from generate_series(40001, 40100) i",
    );
    db.backfill(&["resume", "set"]).exits(0);
    assert_eq!(
        db.sql.rows("select part, n, count(*) from t group by part, n order by part"),
        [["1", "1", "6000"], ["2", "1", "6000"], ["3", "1", "6000"], ["5", "0", "100"]]
    );
    assert_eq!(db.sql.number("select count(*) from t_4 where n <> 0"), 0, "it is no part any more");
    db.sql.run("insert into t values (1, 6, 0)");
    let verified = db.backfill(&["verify", "set"]).exits(0);
    let verified = verified
        .prints("partitions that were not there or were empty when it began are not looked at")
        .prints("public.late, public.t_6");
    verified
        .prints("public.t_4 was passed over: it is no part")
        .prints("a partition that was dropped was passed over");
    db.backfill(&["log", "set"]).exits(0).prints("public.t_4 is no part of the table any more");
    let require = "select backfill.require('set', 'finished')";
    db.sql.run(require);

    // A leaf that is back is left to do, and says so everywhere.
    db.sql.run("alter table t attach partition t_4 for values in (4)");
    db.backfill(&["verify", "set"])
        .exits(6)
        .prints("public.t_4 was passed over and is a part of the table again");
    db.backfill(&["status", "set"])
        .exits(0)
        .prints("next: do the partitions that are back: backfill retry set");
    assert!(db.sql.try_run(require).is_err());
    db.backfill(&["retry", "set"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t_4 where n = 1"), 6_000);
    let chunks = "select count(*) from backfill.chunk where upto_key[1] = '4'";
    assert!(db.sql.number(chunks) >= 30, "it was one chunk that nobody had counted");
    db.backfill(&["verify", "set"]).exits(0);
    db.sql.run(require);
    db.backfill(&["reverse", "set"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n <> 0"), 0);
}

/// A partition that makes room for another one before its turn: whether rows that have its keys are done nobody can tell.
#[test]
fn rows_that_may_have_moved_are_not_called_done() {
    let db = Db::found();
    table(&db, 6_000, "");
    db.spec("set", &format!("{SET}[limits]\nchunk_rows_max = 200\nworkers = 2\n"));
    stop_in_the_second_leaf(&db, "set");
    db.sql.run(
        "alter table t detach partition t_4; drop table t_3;
         create table \"T 4\" partition of t for values in (4); insert into t select * from t_4; drop table t_4;
         insert into t_6 select 90000, 6",
    );
    db.backfill(&["resume", "set"]).exits(0);
    let verified = db.backfill(&["verify", "set"]).exits(6);
    verified
        .prints("set is not proved: public.\"T 4\" may hold rows of a partition that went away")
        .prints("backfill verify set --accept-moved");
    let verified = db.backfill(&["verify", "set", "--json"]).exits(6).json();
    assert_eq!(verified["partitions_in_doubt"], serde_json::json!(["public.\"T 4\""]));
    let require = "select backfill.require('set', 'verified')";
    let raised = db.sql.try_run(require).unwrap_err();
    let raised = raised.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default();
    assert!(raised.contains("public.\"T 4\" may hold rows that run 1 missed"), "{raised}");
    db.sql.run("select backfill.require('set', 'finished')");
    // What came behind the ceiling is the application's.
    db.sql.run("update t set id = id + 1000000 where part = 4");
    db.backfill(&["verify", "set"]).exits(0).prints("not looked at").prints("\"T 4\"");
    db.sql.run(require);
    db.sql.run("update t set id = id - 1000000 where part = 4");
    db.backfill(&["verify", "set"]).exits(6);
    // On somebody's word.
    db.backfill(&["verify", "set", "--accept-moved", " "]).exits(2).says("needs a reason");
    db.backfill(&["verify", "set", "--accept-moved", "counted by hand"]).exits(0);
    db.backfill(&["log", "set"]).exits(0).prints("moved rows accepted").prints("counted by hand");
    db.sql.run(require);
    db.backfill(&["verify", "set", "--accept-moved", "once more"]).exits(3);
}

/// The rows of a partition that went away lie in another one of the run, where they may be met once more.
#[test]
fn rows_that_moved_into_a_leaf_of_the_run_are_in_doubt() {
    let db = Db::found();
    table(&db, 3_000, "");
    db.sql.run("create table t_rest partition of t default; insert into t select i, 9 from generate_series(1, 500) i; analyze t");
    db.spec("set", &format!("{SET}[limits]\nchunk_rows_max = 200\n"));
    stop_in_the_second_leaf(&db, "set");
    db.sql.run("alter table t detach partition t_1; insert into t select * from t_1");
    db.backfill(&["resume", "set"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n = 2"), 3_000);
    let verified = db.backfill(&["verify", "set"]).exits(6);
    verified.prints("public.t_rest may hold rows of a partition that went away");
}

/// The default partition loses a part of its rows to a new one before its turn.
#[test]
fn rows_that_left_the_default_partition_are_in_doubt() {
    let db = Db::found();
    table(&db, 3_000, "");
    db.sql.run("create table t_rest partition of t default; insert into t select i, 9 + i % 2 from generate_series(1, 500) i; analyze t");
    db.spec("set", &format!("{SET}[limits]\nchunk_rows_max = 200\n"));
    stop_in_the_second_leaf(&db, "set");
    db.sql.run(
        "begin; alter table t detach partition t_rest; create table t_9 partition of t for values in (9);
         insert into t select * from t_rest where part = 9; delete from t_rest where part = 9;
         alter table t attach partition t_rest default; commit",
    );
    db.backfill(&["resume", "set"]).exits(0);
    let verified = db.backfill(&["verify", "set"]).exits(6);
    verified.prints("public.t_9 may hold rows of a partition that went away");
    // What is moved after the end has been done.
    db.backfill(&["verify", "set", "--accept-moved", "t_9 is next"]).exits(0);
    db.sql.run("alter table t detach partition t_2; insert into t select * from t_2");
    db.backfill(&["verify", "set"]).exits(0);
    db.sql.run("alter table t rename part to p; drop table t_3");
    db.backfill(&["verify", "set"]).exits(0);
}

/// What a run kept is dropped, so that it may write no more: a partition that is back, or a row that was mended, is left as it is.
#[test]
fn a_run_without_its_before_images_is_not_taken_up_again() {
    let db = Db::found();
    table(&db, 1_000, "");
    db.spec("set", CAPTURE);
    db.sql.run("alter table t add check (n <> 1 or id <> 7)");
    let run = db.start(&["run", "set", "--rate", "1000 rows/s"]);
    wait_for("a chunk is done", || db.chunks_done() > 0);
    db.sql.run("alter table t detach partition t_5");
    run.wait().exits(5);
    db.backfill(&["prune", "set", "--yes"])
        .exits(0)
        .says("1 rows are set aside and 1 partitions were passed over");
    db.sql.run("alter table t attach partition t_5 for values in (5); alter table t drop constraint t_check");
    let refused = db.backfill(&["retry", "set"]).exits(3);
    refused
        .says("the before-images of run 1 were dropped")
        .says("name the partition as its `table`");
    assert_eq!(db.status("set")["state"], "succeeded");
    assert_eq!(db.sql.number("select count(*) from backfill.chunk where state <> 'done'"), 0);
    assert_eq!(db.sql.number("select count(*) from t where n = 0"), 1_001);
}

#[test]
fn a_leaf_dropped_under_a_run_at_work() {
    let db = Db::found();
    table(&db, 6_000, "");
    db.spec("set", &format!("{SET}[limits]\nchunk_rows_max = 200\nworkers = 2\n"));
    let mut run = db.start(&["run", "set", "--rate", "10000 rows/s"]);
    wait_for("the second leaf is begun", || {
        db.sql.text("select to_regclass('backfill.chunk') is not null") == "t"
            && db.sql.number(
                "select count(*) from backfill.chunk where state = 'done' and upto_key[1] = '2'",
            ) > 0
    });
    db.sql.run("alter table t detach partition t_2; drop table t_2; drop table t_4");
    assert!(!run.is_over());
    run.wait().exits(0);
    assert_eq!(
        db.sql.rows("select part, n, count(*) from t group by part, n order by part"),
        [["1", "1", "6000"], ["3", "1", "6000"], ["5", "1", "6000"]]
    );
    assert_eq!(db.sql.number("select count(*) from backfill.chunk where state <> 'done'"), 0);
}

#[test]
fn a_row_that_fails_is_found_in_its_leaf() {
    let db = Db::found();
    table(&db, 2_000, "");
    db.sql.run("alter table t add check (n < 100 or id <> 7777)");
    db.spec("set", "table = \"t\"\n[[rule]]\nset = { n = \"case when id = 7777 then 100 else n + 1 end\" }\n[undo]\nmode = \"capture\"\n");
    db.backfill(&["run", "set"]).exits(5).says("(4, 7777)");
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 9_999);
    let aside = db.sql.rows("select key from backfill.quarantine");
    assert_eq!(aside, [["{4,7777}"]]);
    db.sql.run("alter table t drop constraint t_check");
    db.backfill(&["retry", "set"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n = 100"), 1);
    db.backfill(&["reverse", "set"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n <> 0"), 0);
}

#[test]
fn rules_give_back_leaf_by_leaf_too() {
    let db = Db::found();
    table(&db, 2_000, "");
    db.spec(
        "set",
        "table = \"t\"\n[[rule]]\nset = { n = \"n + 1\" }\n[undo]\nmode = \"statement\"\n[[undo.rule]]\nset = { n = \"n - 1\" }\n",
    );
    db.backfill(&["run", "set"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 10_000);
    db.backfill(&["reverse", "set"]).exits(0);
    assert_eq!(db.sql.text(LEAVES), "t");
    assert_eq!(db.sql.number("select count(*) from t where n = 0"), 10_000);
}

/// What makes a statement on a leaf another one than that on the table; the run goes through the parent then.
#[test]
fn the_parent_is_gone_through_where_a_leaf_would_not_be_the_same() {
    let db = Db::found();
    table(&db, 400, "");
    db.sql.run(
        "create function nothing() returns trigger language plpgsql as $$ begin return null; end $$;
         create function n_of(t) returns int language sql immutable as 'select $1.n'",
    );
    let spec = |when: &str| {
        format!("table = \"t\"\n[[rule]]\nwhen = \"{when}\"\nset = {{ n = \"t.n + 1\" }}\n")
    };
    let statement_trigger = "fires once a statement";
    for (when, obstacle, undo, words) in [
        (
            "true",
            "create trigger once after update on t for each statement execute function nothing()",
            "drop trigger once on t",
            statement_trigger,
        ),
        (
            "true",
            "create trigger once after update on t_3 for each statement execute function nothing()",
            "drop trigger once on t_3",
            statement_trigger,
        ),
        (
            "true",
            "create rule other as on update to t_3 where old.n > 10 do instead nothing",
            "drop rule other on t_3",
            "has rules",
        ),
        (
            "true",
            "alter table t detach partition t_6; drop table t_6;
             create table t_6 (id bigint not null, part int not null, n int not null generated always as (id) stored, v text, body text);
             alter table t attach partition t_6 for values in (6)",
            "alter table t detach partition t_6; drop table t_6; create table t_6 partition of t for values in (6)",
            "column `n` is generated in partition public.t_6",
        ),
        ("n_of(t) = 0", "", "", "reads the row as a whole"),
        ("public.t.n = 0", "", "", "the statement cannot name a partition"),
    ] {
        db.sql.run(obstacle);
        db.spec("set", &spec(when));
        let plan = db.backfill(&["plan", "set"]);
        let line = plan.stdout.lines().find(|line| line.contains("leaves")).unwrap_or_default();
        assert!(
            line.contains("through the parent") && line.contains(words),
            "{obstacle}{when}: {}{}",
            plan.stdout,
            plan.stderr
        );
        db.sql.run(undo);
    }

    db.spec(
        "set",
        "table = \"t\"\n[[rule]]\nset = { n = \"n + 1\" }\n[undo]\nmode = \"statement\"\n[[undo.rule]]\nset = { n = \"public.t.n - 1\" }\n",
    );
    db.backfill(&["plan", "set"]).exits(0).prints("the undo statement cannot name a partition");

    db.spec("set", "table = \"t\"\norder = \"key\"\n[[rule]]\nset = { n = \"n + 1\" }\n");
    db.backfill(&["run", "set"]).exits(0);
    assert_eq!(db.sql.text(LEAVES), "f");
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 2_000);
}

#[test]
fn a_role_that_may_write_the_parent_alone_goes_through_it() {
    let db = Db::found();
    table(&db, 400, "");
    let role = format!("clerk_{}", db.name);
    db.sql.run(&format!(
        "create role {role} login; grant create on database {} to {role}; grant select, update on t to {role}",
        db.name
    ));
    db.spec("set", SET);
    let url = format!("host={} user={role} dbname={}", db.socket_dir().display(), db.name);
    let flags = ["--url", &url, "--accept-blind"];
    let plan = db.backfill(&["plan", "set", "--url", &url]).exits(0);
    plan.prints(&format!("GRANT SELECT, UPDATE (\"n\") ON \"public\".\"t_1\" TO \"{role}\";"));
    db.backfill(&[&["run", "set"], &flags[..]].concat()).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 2_000);
    assert_eq!(db.sql.text(LEAVES), "f");
    for part in 1..=6 {
        db.sql.run(&format!("grant select, update (n) on t_{part} to {role}"));
    }
    db.sql.run("create schema closed; alter table t_2 set schema closed");
    let plan = db.backfill(&["plan", "set", "--url", &url]).exits(0);
    plan.prints(&format!("GRANT USAGE ON SCHEMA \"closed\" TO \"{role}\";"));
    db.sql.run("alter table closed.t_2 set schema public");
    db.backfill(&[&["run", "set", "--again"], &flags[..]].concat()).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n = 2"), 2_000);
    assert_eq!(db.sql.text(LEAVES), "t");
    db.sql.run(&format!("drop owned by {role}"));
}

/// A run goes on as it began, whatever would be chosen by now.
#[test]
fn a_run_keeps_its_way() {
    let db = Db::found();
    table(&db, 6_000, "");
    let trigger =
        "create trigger once after update on t for each statement execute function nothing()";
    db.sql.run("create function nothing() returns trigger language plpgsql as $$ begin return null; end $$");
    db.spec("set", &format!("{SET}[limits]\nchunk_rows_max = 200\n"));
    stop_in_the_second_leaf(&db, "set");
    db.sql.run(trigger);
    let rule = "create rule other as on update to t_4 where old.n > 10 do instead nothing";
    db.sql.run(rule);
    let refused = db.backfill(&["resume", "set"]).exits(3);
    refused.says("public.t_4 has rules").says("run 1 writes each partition by its own name");
    db.sql.run("drop rule other on t_4");
    db.backfill(&["resume", "set"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 30_000);
    // And the other way round.
    let run = db.start(&["run", "set", "--again", "--rate", "20000 rows/s"]);
    wait_for("chunks are done", || {
        db.sql.number("select count(*) from backfill.chunk where state = 'done' and run_id = 2") > 0
    });
    db.backfill(&["pause", "set"]).exits(0);
    run.wait();
    assert_eq!(db.sql.text(LEAVES), "f");
    db.sql.run("drop trigger once on t");
    db.backfill(&["resume", "set"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n = 2"), 30_000);
    assert_eq!(db.sql.text(LEAVES), "f");
}

/// A chunk's statement waits behind DDL on its leaf, by a name that means something else once it may go on.
fn behind_ddl(ddl: &str) -> (Db, i64) {
    let db = Db::found();
    table(&db, 6_000, "");
    db.spec(
        "set",
        &format!(
            "{SET}[limits]\nchunk_rows_max = 200\nlock_timeout = \"60s\"\nchunk_time = \"60s\"\n"
        ),
    );
    let run = db.start(&["run", "set", "--rate", "1500 rows/s"]);
    wait_for("the first leaf is begun", || db.chunks_done() > 0);
    let other = db.connect();
    other.run("begin");
    other.run(ddl);
    let done = other.number("select count(*) from t_1_was where n = 1");
    db.sql.wait_for(
        "a chunk waits",
        "select count(*) > 0 from pg_stat_activity
          where datname = current_database() and wait_event_type = 'Lock' and query like 'WITH backfill%'",
    );
    other.run("commit");
    run.wait().exits(0);
    (db, done)
}

#[test]
fn a_table_that_takes_the_name_of_a_leaf_is_not_written() {
    let swap = "alter table t_1 rename to t_1_was; create table t_1 as table t_1_was; update t_1 set n = 7";
    let (db, _) = behind_ddl(swap);
    assert_eq!(db.sql.number("select count(*) from t_1 where n <> 7"), 0);
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 30_000);
}

/// The chunk runs into its lock timeout a few times before the leaf has its new name.
#[test]
fn a_leaf_renamed_in_a_transaction_of_some_seconds() {
    let db = Db::found();
    table(&db, 2_000, "");
    db.spec("set", &format!("{SET}[limits]\nchunk_rows_max = 200\nlock_timeout = \"100ms\"\n"));
    let other = db.connect();
    let run = db.start(&["run", "set", "--rate", "1500 rows/s"]);
    wait_for("the first leaf is begun", || db.chunks_done() > 0);
    other.run("begin; alter table t_1 rename to t_1_was");
    // Past four attempts.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    other.run("commit");
    run.wait().exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 10_000);
}

#[test]
fn leaves_that_swap_their_names_are_done_once_each() {
    let swap =
        "alter table t_1 rename to t_1_was; alter table t_2 rename to t_1; alter table t_1_was rename to t_2;
         create view t_1_was as select * from t_2";
    let (db, _) = behind_ddl(swap);
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 30_000);
}

#[test]
fn a_leaf_being_detached_is_not_written_any_more() {
    let detach = "alter table t detach partition t_1; create view t_1_was as select * from t_1";
    let (db, done) = behind_ddl(detach);
    assert_eq!(db.sql.number("select count(*) from t_1 where n = 1"), done);
    assert!(done < 6_000);
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 24_000);
}

#[test]
fn a_partition_of_a_partition_can_be_the_table() {
    let db = Db::found();
    db.sql.run(
        "create table top (region int, id bigint, n int not null default 0, primary key (region, id)) partition by list (region);
         create table t partition of top for values in (1) partition by range (id);
         create table t_2 partition of t for values from (1000) to (2000);
         create table t_1 partition of t for values from (0) to (1000);
         create table other partition of top for values in (2);
         insert into top select 1, i from generate_series(0, 1999) i; insert into other select 2, i from generate_series(0, 99) i;
         analyze t",
    );
    db.spec("set", &format!("{SET}[limits]\nchunk_rows_max = 100\n"));
    db.backfill(&["plan", "set"]).exits(0).prints("2, one after the other: public.t_1 ");
    db.backfill(&["run", "set"]).exits(0);
    assert_eq!(db.sql.text(LEAVES), "t");
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 2_000);
    assert_eq!(db.sql.number("select count(*) from other where n <> 0"), 0);
    db.backfill(&["reverse", "set"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n = 0"), 2_000);
}

/// Where the application may move rows between leaves without moving them far by key, the parent is gone through; leaf by leaf, rows
/// were lost and doubled.
#[test]
fn rows_that_may_roam_are_not_gone_through_leaf_by_leaf_unasked() {
    let db = Db::found();
    db.sql.run(
        "create table t (id bigint, status text, at date not null, n int not null default 0, primary key (id, status)) partition by list (status);
         create table t_new partition of t for values in ('new');
         create table t_old partition of t for values in ('old');
         insert into t select i, case when i % 2 = 0 then 'new' else 'old' end, '2026-01-01' from generate_series(1, 1000) i; analyze t",
    );
    db.spec("set", SET);
    let plan = db.backfill(&["plan", "set"]).exits(0);
    plan.prints("rows whose status is changed meanwhile move to another partition");
    db.spec("set", &format!("order = \"striped\"\n{SET}"));
    let plan = db.backfill(&["plan", "set"]).exits(0);
    plan.prints("2, one after the other")
        .prints("a row whose status is changed while the backfill runs moves");
}

const CAPTURE: &str =
    "table = \"t\"\n[[rule]]\nset = { n = \"n + 1\" }\n[limits]\nchunk_rows_max = 200\n";

/// A partition is split after the run: its rows are given back where they are now; those of a dropped one are not spoken of row by row.
#[test]
fn rows_are_given_back_where_they_are_now() {
    for policy in ["skip", "force"] {
        let db = Db::found();
        table(&db, 1_000, "");
        db.spec("set", CAPTURE);
        db.backfill(&["run", "set"]).exits(0);
        // The first half of t_3 stays; t_4 moves as a whole; t_5 is dropped.
        db.sql.run(
            "alter table t detach partition t_3; alter table t detach partition t_4; drop table t_5;
             create table t_34 partition of t for values in (3, 4);
             insert into t select * from t_3; insert into t select * from t_4;
             create table kept as select * from t_3 where id % 2 = 0; truncate t_3; drop table t_4;
             update t set n = 50 where id = 3500; delete from t where id = 3501; update t set n = 40 where id = 10",
        );
        let flags = ["reverse", "set", "--conflicts", policy, "--yes"];
        db.backfill(&flags).exits(5);
        let left = if policy == "skip" { "2" } else { "0" };
        assert_eq!(db.sql.text("select count(*) from t where n <> 0"), left);
        let conflicts = "select key[2], kind from backfill.conflict order by key[2]::int";
        let kind = if policy == "skip" { "changed" } else { "overwritten" };
        assert_eq!(db.sql.rows(conflicts), [["10", kind], ["3500", kind], ["3501", "deleted"]]);
        let status = db.backfill(&["status", "set"]).exits(0);
        status.prints("passed over").prints("a partition that was dropped, 5 chunks");
        // What was given back elsewhere is given back, also when its old leaf is back, with other rows.
        db.sql.run("alter table t detach partition t_34; alter table t attach partition t_3 for values in (3); insert into t select i, 3 from generate_series(2000, 2999) i");
        db.backfill(&["retry", "set"]).exits(0).says("no partition that is back");
    }
}

/// A partition was away while a run was taken back, and that was cancelled; once it is a part again, taking back the rest gives its rows
/// back too.
#[test]
fn what_a_cancelled_reverse_passed_over_is_given_back_by_the_next() {
    let db = Db::found();
    table(&db, 1_000, "");
    db.spec("set", CAPTURE);
    db.backfill(&["run", "set"]).exits(0);
    db.sql.run("alter table t detach partition t_4");
    let run = db.start(&["reverse", "set", "--rate", "1000 rows/s"]);
    wait_for("the third leaf is begun", || {
        db.sql.number("select count(*) from backfill.chunk where run_id = 2 and state = 'done' and upto_key[1] = '3'") > 0
    });
    db.backfill(&["cancel", "set"]).exits(0);
    run.wait();
    assert_eq!(
        db.sql.number("select count(*) from backfill.chunk where run_id = 2 and passed_over"),
        5
    );
    db.sql.run("alter table t attach partition t_4 for values in (4)");
    db.backfill(&["reverse", "set"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n <> 0"), 0);
}

/// A leaf that was half moved is given back on both sides.
#[test]
fn rows_that_moved_out_of_a_leaf_are_found_by_their_key() {
    let db = Db::found();
    db.sql.run(
        "create table t (id bigint primary key, n int not null default 0) partition by range (id);
         create table t_1 partition of t for values from (0) to (2000);
         create table t_2 partition of t for values from (2000) to (3000);
         insert into t select i from generate_series(0, 2999) i; analyze t",
    );
    db.spec("set", CAPTURE);
    db.backfill(&["run", "set"]).exits(0);
    assert_eq!(db.sql.text(LEAVES), "t");
    // t_1 gives its upper half away and stays a part.
    db.sql.run(
        "begin; alter table t detach partition t_1; create table t_1b (like t_1 including all);
         with gone as (delete from t_1 where id >= 900 returning *) insert into t_1b select * from gone;
         alter table t attach partition t_1 for values from (0) to (900);
         alter table t attach partition t_1b for values from (900) to (2000); commit;
         update t set n = 9 where id in (5, 1500)",
    );
    db.backfill(&["reverse", "set", "--conflicts=stop"]).exits(1).says("1500");
    db.backfill(&["resume", "set", "--conflicts=skip"]).exits(5);
    assert_eq!(
        db.sql.rows("select id, n from t where n <> 0 order by id"),
        [["5", "9"], ["1500", "9"]]
    );
}

/// A row that must not be given back is found among the before-images of its leaf, and the others are given back.
#[test]
fn a_row_that_cannot_be_given_back_is_found_in_its_leaf() {
    let db = Db::found();
    table(&db, 1_000, "");
    db.spec("set", CAPTURE);
    db.backfill(&["run", "set"]).exits(0);
    db.sql.run("alter table t add check (id <> 3210 or n > 0)");
    db.backfill(&["reverse", "set"]).exits(5).says("(4, 3210)");
    assert_eq!(db.sql.rows("select id from t where n <> 0"), [["3210"]]);
    assert_eq!(db.sql.rows("select key from backfill.quarantine"), [["{4,3210}"]]);
}

/// The first chunk of a leaf has no lower end; it is none of the other leaves' business.
#[test]
fn giving_back_a_leaf_touches_no_other() {
    let db = Db::found();
    table(&db, 1_000, "");
    db.spec("set", CAPTURE);
    db.backfill(&["run", "set"]).exits(0);
    let other = db.connect();
    let run = db.start(&["reverse", "set", "--rate", "1000 rows/s"]);
    wait_for("a chunk is given back", || {
        db.sql.number("select count(*) from backfill.chunk where run_id = 2 and state = 'done'") > 0
    });
    other.run("begin; lock table only t_1, t_2 in access exclusive mode");
    wait_for("three leaves are given back", || {
        db.sql.number("select count(*) from backfill.chunk where run_id = 2 and state = 'done'")
            == 15
    });
    other.run("commit");
    run.wait().exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n <> 0"), 0);
}

/// Without a right to the leaves, before-images are given back through the parent.
#[test]
fn before_images_do_not_need_the_leaves() {
    let db = Db::found();
    table(&db, 400, "");
    db.spec("set", CAPTURE);
    db.backfill(&["run", "set"]).exits(0);
    assert_eq!(db.sql.text(LEAVES), "t");
    db.sql.run("create rule other as on update to t_3 where old.n > 10 do instead nothing; update t set n = 5 where id = 1000");
    db.backfill(&["reverse", "set"]).exits(5);
    assert_eq!(db.sql.rows("select id from t where n <> 0"), [["1000"]]);
}

/// Within a day's partition, an index on the second column of the key is as good a way to the end of a range as the key's own.
#[test]
fn an_index_on_a_later_column_of_the_key_may_serve() {
    let db = Db::found();
    db.sql.run(
        "create table t (day date, id bigint, n int not null default 0, body text, primary key (day, id)) partition by range (day);
         create index on t (id);
         create table t_1 partition of t for values from ('2026-01-01') to ('2026-01-02');
         create table t_2 partition of t for values from ('2026-01-02') to ('2026-01-03');
         insert into t select date '2026-01-01' + i / 15000, i, 0, repeat('x', 100) from generate_series(0, 29999) i",
    );
    db.sql.run("vacuum analyze t");
    db.spec("set", CAPTURE);
    db.backfill(&["run", "set"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 30_000);
    db.spec("parent", &format!("order = \"key\"\n{CAPTURE}"));
    db.backfill(&["run", "parent"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n = 2"), 30_000);
    for name in ["parent", "set"] {
        db.backfill(&["reverse", name]).exits(0);
    }
    assert_eq!(db.sql.number("select count(*) from t where n = 0"), 30_000);
}
