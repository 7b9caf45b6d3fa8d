//! What a plan says about the table's surroundings, and that it changes nothing.

use crate::support::{Db, Started, Which, wait_for};

#[test]
fn everything_that_a_run_would_set_off_is_said_beforehand() {
    let db = Db::found();
    db.sql.run(
        "create table parent (id int primary key);
         create table t (id bigint primary key, c text, v int references parent, w int, twice int generated always as (v * 2) stored);
         create index by_v on t (v); create index by_expression on t ((v + 1)); create index partly on t (c) where v > 0;
         create index by_twice on t (twice); create index by_c on t (c);
         insert into parent values (1); insert into t (id, c) select i, 'x' from generate_series(1, 1000) i; analyze t;
         create function note() returns trigger language plpgsql as 'begin return new; end';
         create trigger noted before update of v on t for each row execute function note();
         create trigger silent before update of w on t for each row execute function note();
         create publication changes for table t; alter table t replica identity full",
    );
    db.spec("plan", "description = \"words\"\ntable = \"t\"\n[[rule]]\nfill = { v = \"1\" }\n[limits]\nworkers = 3\n");
    let contents = "select md5(string_agg(t::text, '' order by id)) from t";
    let before = db.sql.text(contents);
    let plan = db.backfill(&["plan", "plan", "--json", "--rate", "100 rows/s"]).exits(0).json();
    let said = plan["warnings"].to_string();
    for words in [
        "trigger noted (public.note)",
        "foreign key t_v_fkey",
        "generated column `twice`",
        "publication changes",
        "REPLICA IDENTITY FULL",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("silent"), "{said}");
    let mut blockers: Vec<&str> =
        plan["hot_blockers"].as_array().unwrap().iter().filter_map(|v| v.as_str()).collect();
    blockers.sort_unstable();
    assert_eq!(blockers, ["by_expression", "by_twice", "by_v", "partly"]);
    assert_eq!(plan["ceiling"][0], "1000");
    assert_eq!(plan["rehearsal"]["rows"], 500);
    assert_eq!(plan["limits"]["workers"], serde_json::json!({ "value": 3, "origin": "spec" }));
    assert_eq!(db.sql.text(contents), before);
    assert_eq!(db.sql.text("select to_regnamespace('backfill') is null"), "t");
}

#[test]
fn settings_win_in_the_documented_order() {
    let db = Db::found();
    db.sql.run("create table t (id bigint primary key, v int); insert into t values (1)");
    let workers = |with_spec: bool, environment: Option<&str>, flag: Option<&str>| {
        let limits = if with_spec { "[limits]\nworkers = 5\n" } else { "" };
        db.spec("order", &format!("table = \"t\"\n[[rule]]\nfill = {{ v = \"1\" }}\n{limits}"));
        let mut command = db.command(&["plan", "order", "--json"]);
        if let Some(value) = environment {
            command.env("BACKFILL_WORKERS", value);
        }
        if let Some(value) = flag {
            command.args(["--workers", value]);
        }
        let output = command.output().unwrap();
        let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (
            plan["limits"]["workers"]["value"].as_u64().unwrap(),
            plan["limits"]["workers"]["origin"].to_string(),
        )
    };
    assert_eq!(workers(false, None, None), (2, "\"default\"".into()));
    std::fs::write(db.directory.join("backfill.toml"), "[limits]\nworkers = 7\n").unwrap();
    assert_eq!(workers(false, None, None), (7, "\"project\"".into()));
    assert_eq!(workers(true, None, None), (5, "\"spec\"".into()));
    assert_eq!(workers(true, Some("4"), None), (4, "\"environment\"".into()));
    assert_eq!(workers(true, Some("4"), Some("3")), (3, "\"flag\"".into()));
}

#[test]
fn another_index_on_a_column_of_the_key_is_no_obstacle() {
    let db = Db::found();
    db.sql.run(
        "create table t (tenant int, id bigint unique, n int not null default 0, body text, primary key (tenant, id));
         insert into t select i / 20000, i, 0, repeat('x', 100) from generate_series(0, 59999) i",
    );
    db.sql.run("vacuum analyze t");
    db.spec("set", "table = \"t\"\n[[rule]]\nset = { n = \"n + 1\" }\n");
    db.backfill(&["plan", "set"]).exits(0);
    db.backfill(&["run", "set"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 60_000);
}

/// The few rows that are left may have an index of their own, which is the shorter way to them.
#[test]
fn an_index_on_what_is_left_is_no_obstacle() {
    let db = Db::found();
    db.sql.run(
        "create table t (id bigint primary key, v int, w int, body text);
         insert into t select i, i, i, repeat('x', 60) from generate_series(1, 40000) i;
         create index on t (v); create index on t (id) where w is null",
    );
    db.spec("v", "table = \"t\"\n[[rule]]\nfill = { v = \"1\" }\n");
    db.spec("w", "table = \"t\"\n[[rule]]\nfill = { w = \"1\" }\n");
    db.sql.run(
        "update t set v = null where id % 2000 = 0; update t set w = null where id % 2000 = 1",
    );
    db.sql.run("vacuum analyze t");
    for name in ["v", "w"] {
        db.backfill(&["plan", name]).exits(0);
        db.backfill(&["run", name]).exits(0);
        db.backfill(&["verify", name]).exits(0);
    }
}

/// `citext` sorts by operators of its own schema; where `search_path` does not lead there, `<=` compares it as `text`.
#[test]
fn a_key_whose_operators_are_out_of_reach_is_refused() {
    let db = Db::found();
    db.sql.run(
        "create schema ext; create extension citext schema ext;
         create table t (name ext.citext primary key, v int);
         insert into t values ('a'), ('B'), ('c'), ('D'), ('e')",
    );
    db.spec(
        "fill",
        "table = \"t\"\n[[rule]]\nfill = { v = \"1\" }\n[limits]\nchunk_rows_max = 2\n",
    );
    let refused = db.backfill(&["run", "fill"]).exits(3);
    refused
        .says(
            "`<` on key column `name` (ext.citext) is not the operator that index t_pkey sorts by",
        )
        .says("search_path = \"$user\", public, \"ext\";");
    let path = format!("alter database {} set search_path = public, ext", db.name);
    db.sql.run(&path);
    db.backfill(&["run", "fill"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where v = 1"), 5);
    db.backfill(&["verify", "fill"]).exits(0);
    // A run goes back by the search_path that it began with.
    db.sql.run(&format!("alter database {} reset search_path", db.name));
    db.backfill(&["reverse", "fill"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where v is null"), 5);
    db.backfill(&["run", "fill"])
        .exits(3)
        .says("PGOPTIONS='-c search_path=\"$user\",public,\"ext\"'");
    let mut again = db.command(&["run", "fill"]);
    again.env("PGOPTIONS", "-c search_path=\"$user\",public,\"ext\"");
    assert!(again.status().unwrap().success());
    db.sql.run("create schema other; alter extension citext set schema other");
    let refused = db.backfill(&["reverse", "fill"]).exits(3);
    refused
        .says("the run keeps the search_path that it began with")
        .says("they are in \"other\" now");
    db.sql.run("alter extension citext set schema ext");
    db.backfill(&["reverse", "fill"]).exits(0);
    // An enum's operators do not know a domain, and a cast leads to those of text.
    db.sql.run(
        "create type en as enum ('z', 'y', 'x'); create cast (en as text) with inout as implicit; create domain dn as en;
         create table d (k dn primary key, v int)",
    );
    db.spec("domain", "table = \"d\"\n[[rule]]\nfill = { v = \"1\" }\n");
    db.backfill(&["run", "domain"]).exits(3).says("key column `k` (dn)");
    // One that fits the column's own type better hides it.
    db.sql.run(
        "create function odd(varchar, varchar) returns boolean language sql immutable as 'select true';
         create operator < (leftarg = varchar, rightarg = varchar, function = odd);
         create table u (name varchar primary key, v int)",
    );
    db.spec("hidden", "table = \"u\"\n[[rule]]\nfill = { v = \"1\" }\n");
    db.backfill(&["run", "hidden"]).exits(3).says("cut by another unique index");
}

#[test]
fn a_statement_that_would_reach_the_table_another_way_is_refused() {
    let db = Db::found();
    db.sql.run(
        "create table t (id bigint primary key, v int);
         insert into t select i from generate_series(1, 50000) i; analyze t",
    );
    let by_place = "table = \"t\"\n[[rule]]\nwhen = \"t.ctid = '(0,1)'\"\nfill = { v = \"1\" }\n";
    db.spec("scan", by_place);
    let ran = db.backfill(&["run", "scan"]).exits(3);
    ran.says("the chunk statement would read public.t by Tid Scan, not by key (id)")
        .says("mend: ANALYZE");
    assert_eq!(db.sql.number("select count(v) from t"), 0);
    // A run that has begun must be able to come to its end.
    db.spec("scan", "table = \"t\"\n[[rule]]\nfill = { v = \"1\" }\n");
    let run = db.start(&["run", "scan", "--rate", "10000 rows/s"]);
    wait_for("chunks are done", || db.chunks_done() > 0);
    db.backfill(&["pause", "scan"]).exits(0);
    run.wait().exits(4);
    db.spec("scan", by_place);
    db.backfill(&["resume", "scan", "--accept-change"]).exits(0).says("by Tid Scan");
    // A table of a few pages is read as a whole whatever the plan.
    db.sql.run("truncate t; insert into t select i from generate_series(1, 500) i; analyze t");
    db.backfill(&["run", "scan", "--again"]).exits(0);
}

#[test]
fn the_roles_own_defaults_do_not_change_what_a_run_means() {
    let db = Db::found();
    let role = format!("odd_{}", db.name);
    db.sql.run(&format!(
        "create table t (id timestamptz primary key, v date, f float8); create role {role} login superuser;
         insert into t select '2026-01-31 00:00Z'::timestamptz + i * interval '1 hour 0.000001 s', null, 0.1 + i / 3.0 from generate_series(1, 900) i;
         alter role {role} set datestyle = 'SQL, DMY'; alter role {role} set timezone = 'Asia/Kolkata';
         alter role {role} set default_transaction_isolation = 'repeatable read';
         alter role {role} set extra_float_digits = 0"
    ));
    // Read with the day first, as the role's own sessions would.
    db.spec("dates", "table = \"t\"\n[[rule]]\nfill = { v = \"'03/02/2026'::date\" }\n[limits]\nchunk_rows_max = 50\n");
    let url = db.url.replace("postgres@", &format!("{role}@"));
    db.backfill(&["run", "dates", "--url", &url]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where v = '2026-02-03'"), 900);
}

#[test]
fn a_path_with_another_schema_before_the_servers_own_is_refused() {
    let db = Db::found();
    db.sql.run("create table t (id bigint primary key, v int)");
    db.spec("fill", "table = \"t\"\n[[rule]]\nfill = { v = \"1\" }\n");
    let plan = |path: &str| {
        let mut command = db.command(&["plan", "fill"]);
        command.env("PGOPTIONS", format!("-c search_path={path}"));
        Started::new(command).wait()
    };
    plan("public,pg_catalog").exits(3).says("leads to schema public before pg_catalog");
    plan("pg_catalog,public").exits(0);
    plan("pg_temp,public").exits(0);
}

/// From 17 on the server can end every transaction that takes long; those of a run have bounds of their own.
#[test]
fn the_roles_limit_on_transactions_ends_no_chunk() {
    let db = Db::new(Which::Newest);
    let role = format!("hasty_{}", db.name);
    db.sql.run(&format!(
        "create table t (id bigint primary key, v text); create role {role} login superuser; insert into t select i from generate_series(1, 60) i;
         alter role {role} set transaction_timeout = '150ms'"
    ));
    let rule = "allow_volatile = true\n[[rule]]\nfill = { v = \"pg_sleep(0.01)::text || 'x'\" }\n";
    db.spec("slow", &format!("table = \"t\"\n{rule}[limits]\nchunk_rows_max = 60\nworkers = 1\n"));
    let url = db.url.replace("postgres@", &format!("{role}@"));
    db.backfill(&["run", "slow", "--url", &url, "--json"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where v = 'x'"), 60);
    assert_eq!(db.sql.number("select max(attempts) from backfill.chunk"), 1, "a chunk was ended");
    assert!(db.sql.number("select max(took_ms) from backfill.chunk") > 300, "no chunk took long");
}

#[test]
fn a_role_that_is_read_only_by_default_is_refused() {
    let db = Db::found();
    let role = format!("reader_{}", db.name);
    db.sql.run(&format!(
        "create table t (id bigint primary key, v int); create role {role} login superuser;
         alter role {role} set default_transaction_read_only = on"
    ));
    db.spec("read", "table = \"t\"\n[[rule]]\nfill = { v = \"1\" }\n");
    let url = db.url.replace("postgres@", &format!("{role}@"));
    let ran = db.backfill(&["run", "read", "--url", &url]).exits(3);
    ran.says("read-only by default").says("SET default_transaction_read_only = off");
}
