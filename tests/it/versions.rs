//! The main job on the oldest and the newest supported server, beside the one that is found.

use crate::support::{Db, Which, wait_for};

fn the_main_job(which: Which) {
    let db = Db::new(which);
    db.sql.run(
        "create table skills (id bigint primary key, category text not null, tier text, quota int default 10, phases text[]);
         create table categories (name text primary key, owner text);
         insert into categories select c, 'team-' || c from unnest(array['a', 'b', 'c']) c;
         insert into skills (id, category, tier) select i, (array['a', 'b', 'c'])[1 + i % 3], case when i % 2 = 0 then 'free' end
           from generate_series(1, 30000) i;
         alter table skills add column owner text; create index on skills (category); analyze",
    );
    db.spec(
        "phases",
        "table = \"skills\"\n[[rule]]\nwhen = \"category = 'a'\"\nfill = { phases = \"ARRAY['build']\" }\n\
         [[rule]]\nwhen = \"category = 'b'\"\nfill = { phases = \"ARRAY['run', 'prove']\" }\n[limits]\nchunk_rows_max = 500\n",
    );
    db.spec(
        "quota",
        "table = \"skills\"\n[[rule]]\nwhen = \"tier = 'free'\"\nset = { quota = \"quota * 2\" }\n",
    );
    db.spec(
        "owner",
        "table = \"skills\"\nfrom = \"categories AS c\"\n[[rule]]\nwhen = \"c.name = skills.category\"\nfill = { owner = \"c.owner\" }\n",
    );
    let plan = db.backfill(&["plan", "phases", "--json"]).exits(0).json();
    assert_eq!(plan["hot_possible"], true);
    assert!(plan["rehearsal"]["wal_bytes"].as_i64().unwrap() > 0);
    db.backfill(&["doctor"]).exits(0);

    let run = db.start(&["run", "phases", "--rate", "10000 rows/s"]);
    wait_for("chunks settle", || db.chunks_done() >= 10);
    run.kill();
    db.is_interrupted("phases");
    db.backfill(&["resume", "phases"]).exits(0);
    db.backfill(&["verify", "phases"]).exits(0);
    let phases =
        db.sql.rows("select category, phases, count(*) from skills group by 1, 2 order by 1");
    assert_eq!(
        phases,
        [["a", "{build}", "10000"], ["b", "{run,prove}", "10000"], ["c", "-", "10000"]]
    );

    db.backfill(&["run", "quota"]).exits(0);
    let quotas = db.sql.rows("select tier, quota, count(*) from skills group by 1, 2 order by 1");
    assert_eq!(quotas, [["free", "20", "15000"], ["-", "10", "15000"]]);
    // The data cannot tell a doubled quota from a large one; the chunk map can.
    db.backfill(&["verify", "quota"]).exits(0).prints("chunk map");
    db.backfill(&["run", "quota"]).exits(3);

    db.backfill(&["run", "owner"]).exits(0);
    assert_eq!(
        db.sql
            .number("select count(*) from skills where owner is distinct from 'team-' || category"),
        0
    );
    db.backfill(&["verify", "owner"]).exits(0);
}

#[test]
fn the_main_job_on_the_server_that_is_found() {
    the_main_job(Which::Found);
}

#[test]
fn the_main_job_on_the_oldest_server() {
    the_main_job(Which::Oldest);
}

#[test]
fn the_main_job_on_the_newest_server() {
    the_main_job(Which::Newest);
}

#[test]
fn a_partitioned_table() {
    for which in [Which::Oldest, Which::Newest] {
        let db = Db::new(which);
        db.sql.run(
            "create table t (id bigint, day date, v int, primary key (id, day)) partition by range (day);
             create table t1 partition of t for values from ('2026-01-01') to ('2026-02-01');
             create table t2 partition of t for values from ('2026-02-01') to ('2026-03-01');
             insert into t select i, '2026-01-01'::date + i % 59, null from generate_series(1, 5000) i; analyze t",
        );
        db.spec(
            "parts",
            "table = \"t\"\n[[rule]]\nfill = { v = \"1\" }\n[limits]\nchunk_rows_max = 300\n",
        );
        db.backfill(&["run", "parts"]).exits(0);
        assert_eq!(db.sql.number("select count(*) from t where v = 1"), 5_000);
        db.backfill(&["verify", "parts"]).exits(0);
        db.spec("parts", "table = \"t\"\n[[rule]]\nset = { day = \"day + 1\" }\n");
        let ran = db.backfill(&["plan", "parts"]);
        assert!([2, 3].contains(&ran.code), "{}", ran.stderr);
    }
}

#[test]
fn a_join_that_is_not_unique_is_refused_before_it_writes() {
    let db = Db::found();
    db.sql.run(
        "create table t (id bigint primary key, c text, v text); create table s (c text, v text);
         insert into t select i, 'c' || i % 5 from generate_series(1, 100) i;
         insert into s select 'c' || i % 5, 'v' || i from generate_series(1, 6) i; analyze",
    );
    db.spec(
        "join",
        "table = \"t\"\nfrom = \"s\"\n[[rule]]\nwhen = \"s.c = t.c\"\nset = { v = \"s.v\" }\n",
    );
    db.backfill(&["run", "join"]).exits(1).says("matches several rows of the spec's `from`");
    assert_eq!(db.sql.number("select count(v) from t"), 0);
    db.sql.run("delete from s where v = 'v6'");
    db.backfill(&["resume", "join"]).exits(0);
    assert_eq!(db.sql.number("select count(v) from t"), 100);
}

#[test]
fn hostile_names() {
    let db = Db::found();
    db.sql.run(
        "create schema \"Sch\"\"ema\"; create table \"Sch\"\"ema\".\"select\" (\"Id\" bigint primary key, \"new\" int, \"old'x\" text);
         insert into \"Sch\"\"ema\".\"select\" select i from generate_series(1, 500) i",
    );
    db.spec(
        "names",
        "table = '\"Sch\"\"ema\".\"select\"'\n[[rule]]\nfill = { new = '\"Id\"::int', \"old'x\" = \"'it''s' -- why\" }\n[limits]\nchunk_rows_max = 50\n",
    );
    db.backfill(&["run", "names"]).exits(0);
    let sum = "select sum(\"new\") || ' ' || min(\"old'x\") from \"Sch\"\"ema\".\"select\"";
    assert_eq!(db.sql.text(sum), "125250 it's");
    db.backfill(&["verify", "names"]).exits(0);
}

#[test]
fn new_from_sql_makes_a_spec_that_runs() {
    let db = Db::found();
    db.sql.run("create table t (id bigint primary key, c text, v int); insert into t select i, 'a' from generate_series(1, 100) i");
    let sql =
        "UPDATE t SET v = 1 WHERE v IS NULL AND id <= 50; UPDATE t SET v = 2 WHERE v IS NULL;";
    db.backfill(&["new", "pasted", "--from-sql", sql]).exits(0).says("backfill plan pasted");
    db.backfill(&["run", "pasted"]).exits(0);
    let values = db.sql.rows("select v, count(*) from t group by 1 order by 1");
    assert_eq!(values, [["1", "50"], ["2", "50"]]);
    db.backfill(&["new", "pasted"]).exits(3).says("exists already");
    db.backfill(&["new", "bad", "--from-sql", "UPDATE t SET v ="]).exits(2).says("--from-sql:1:");
    db.backfill(&["init"]).exits(0);
    db.backfill(&["completions", "bash"]).exits(0).prints("backfill");
    db.backfill(&["man"]).exits(0).prints(".TH backfill");
}

#[test]
fn a_value_is_computed_only_for_rows_of_its_rule() {
    let db = Db::found();
    db.sql.run(
        "create type pair as (a text, b text);
         create table t (id bigint primary key, code text, n int, p pair);
         insert into t select i, case when i % 3 = 0 then 'x' || i else i::text end from generate_series(1, 600) i;
         create function is_number(t text) returns boolean language plpgsql immutable cost 10000 as 'begin return t ~ ''^[0-9]+$''; end'",
    );
    // The condition is dear and the cast cheap, so a planner that may choose would cast first, and raise.
    let spec = |fill: &str| {
        format!("table = \"t\"\n[[rule]]\nwhen = \"is_number(code)\"\nfill = {{ {fill} }}\n")
    };
    db.spec("cast", &spec("n = \"code::int\""));
    db.backfill(&["run", "cast"]).exits(0);
    assert_eq!(db.sql.number("select count(n) from t"), 400);
    db.backfill(&["verify", "cast"]).exits(0);
    // A composite value with a NULL inside is a value.
    db.spec("pair", "table = \"t\"\n[[rule]]\nfill = { p = \"row(code, null)::pair\" }\n");
    db.backfill(&["run", "pair"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where (p).a = code"), 600);
}

#[test]
fn names_that_the_engine_uses_itself() {
    let db = Db::found();
    db.sql.run(
        "create table boundary (entry int, entries int, depth int, primary key (entry, entries), v int);
         insert into boundary select i % 10, i, 0 from generate_series(1, 2000) i",
    );
    db.spec("own", "table = \"boundary\"\n[[rule]]\nfill = { v = \"1 / (entries - 777)\" }\n[limits]\nchunk_rows_max = 300\n");
    db.backfill(&["run", "own"]).exits(5);
    assert_eq!(db.sql.number("select count(*) from boundary where v is null"), 1);
}

#[test]
fn rules_that_feed_each_other_are_not_called_incomplete() {
    let db = Db::found();
    db.sql.run(
        "create table t (id bigint primary key, tier text);
         insert into t select i, case when i % 2 = 0 then 'free' else 'basic' end from generate_series(1, 200) i",
    );
    let rule = |from: &str, to: &str| {
        format!("[[rule]]\nwhen = \"tier = '{from}'\"\nset = {{ tier = \"'{to}'\" }}\n")
    };
    db.spec("tiers", &format!("table = \"t\"\n{}{}", rule("free", "basic"), rule("basic", "pro")));
    db.backfill(&["run", "tiers"]).exits(0);
    let tiers = db.sql.rows("select tier, count(*) from t group by 1 order by 1");
    assert_eq!(tiers, [["basic", "100"], ["pro", "100"]]);
    db.backfill(&["verify", "tiers"]).exits(0).prints("chunk map");
}
