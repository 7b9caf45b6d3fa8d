//! What another role has planted in a schema of the search path is never called by a statement of the program's own.

use crate::migrate::revision;
use crate::support::{Db, Started, Which, wait_for};

/// What is planted says this word, which the server logs.
const WORD: &str = "PLANTED";

const PLANTED: &str = include_str!("support/planted.sql");

/// A database whose every role trusts `public`, where one of them is not to be trusted.
fn planted(which: Which) -> Db {
    let db = Db::new(which);
    db.sql.run(
        "create table t (id bigint primary key, category text not null, d int not null default 1, phases text[], n int not null default 0, name varchar(50) unique not null);
         insert into t (id, category, name) select i, (array['a', 'b', 'c'])[1 + i % 3], i from generate_series(1, 20000) i;
         update t set d = 0 where id in (77, 15000);
         create table u (id uuid primary key, d int not null default 1, body text not null, v text, n int not null default 0) with (autovacuum_enabled = off);
         insert into u select md5(i::text)::uuid, 1, repeat(i::text, 10), null from generate_series(1, 25000) i;
         delete from u where ctid < '(40,0)';
         create table two (a int, b int, v text, primary key (a, b));
         insert into two select i / 100, i from generate_series(1, 5000) i;
         create table p (id bigint primary key, v text) partition by range (id);
         create table p1 partition of p for values from (0) to (3000);
         create table p2 partition of p for values from (3000) to (30000);
         insert into p select i from generate_series(1, 6000) i;
         create domain label as text; create table s (id bigint primary key, tags text[], code varchar(20), mark label);
         insert into s select i, array['old'], 'old', 'old' from generate_series(1, 3000) i;
         create table django_migrations (id int, app text, name text); insert into django_migrations values (1, 'app', 'one')",
    );
    db.sql.run("vacuum analyze");
    let role = format!("planter_{}", db.name);
    db.sql.run(&format!(
        "create role {role}; grant create on schema public to {role}; set role {role}"
    ));
    db.sql.run(PLANTED);
    // The test's own questions are its own too.
    db.sql.run("reset role; set search_path = pg_catalog");
    db.backfill(&["doctor"])
        .exits(0)
        .prints(&format!("role \"{role}\" may create in schema \"public\""));
    db
}

fn is_quiet(db: &Db) {
    let log = std::fs::read_to_string(db.server_log()).unwrap();
    let called: Vec<&str> = log.lines().filter(|line| line.contains(WORD)).collect();
    assert!(called.is_empty(), "{called:#?}");
}

fn specs(db: &Db) {
    db.spec(
        "phases",
        "table = \"t\"\n[[rule]]\nwhen = \"category = 'a'\"\nfill = { phases = \"'{build}'\" }\n[[rule]]\nfill = { phases = \"'{run}'\" }\n",
    );
    db.spec("add", "table = \"t\"\n[[rule]]\nset = { n = \"n + 1 / d\" }\n");
    db.spec(
        "place",
        "table = \"u\"\norder = \"physical\"\n[[rule]]\nfill = { v = \"md5(body)\" }\n",
    );
    db.spec(
        "values",
        "table = \"s\"\n[[rule]]\nset = { tags = \"ARRAY['new']\", code = \"'new'\", mark = \"'new'\" }\n",
    );
    db.spec("two", "table = \"two\"\n[[rule]]\nfill = { v = \"'x'\" }\n");
    db.spec("leaves", "table = \"p\"\norder = \"striped\"\n[[rule]]\nfill = { v = \"'x'\" }\n");
}

/// There and back, with a stop in the middle.
fn there_and_back(db: &Db, name: &str) {
    db.backfill(&["plan", name]).exits(0);
    let begun = db.runs();
    let run = db.start(&["run", name, "--rate", "4000 rows/s"]);
    wait_for("the run begins", || db.runs() > begun);
    wait_for("chunks are done", || db.chunks_done() > 2);
    db.backfill(&["tune", name, "--rate", "3000 rows/s"]).exits(0);
    db.backfill(&["pause", name]).exits(0);
    run.wait().exits(4);
    db.backfill(&["status", name]).exits(0);
    if name == "place" {
        // Some of what the walk has not come to goes to where it has been.
        db.sql.run("update public.u set n = n + 1 where v is null and id > '80000000-0000-0000-0000-000000000000'");
    }
    db.backfill(&["resume", name]).exits(0);
    for look in ["verify", "status", "log"] {
        db.backfill(&[look, name]).exits(0);
    }
    db.backfill(&["reverse", name]).exits(0);
    db.backfill(&["prune", name, "--yes"]).exits(0);
}

fn nothing_planted_is_called(which: Which) {
    let db = planted(which);
    specs(&db);
    for name in ["phases", "two", "leaves"] {
        there_and_back(&db, name);
    }
    if !matches!(which, Which::Oldest) {
        there_and_back(&db, "place");
    }
    // Rows that raise are halved and set aside; rows that somebody changed are left alone.
    db.backfill(&["run", "add"]).exits(5);
    db.sql.run("update public.t set d = 1 where d = 0");
    db.backfill(&["retry", "add"]).exits(0);
    db.backfill(&["verify", "add"]).exits(0).prints("chunk map");
    db.sql.run("update public.t set n = 7 where id = 4");
    db.backfill(&["reverse", "add"]).exits(5).says("1 row was not simply given back");
    db.backfill(&["list"]).exits(0);

    revision(
        &db,
        1,
        "aaaa",
        "-- revises: base\n\n-- up\nCREATE TABLE made (id bigint PRIMARY KEY, v text);\n\n-- down\nDROP TABLE made;\n",
    );
    revision(
        &db,
        2,
        "bbbb",
        "-- revises: aaaa\n\n-- up\nCREATE INDEX CONCURRENTLY made_v ON public.made (v);\n\n-- down\nDROP INDEX CONCURRENTLY public.made_v;\n",
    );
    revision(&db, 3, "cccc", "-- revises: bbbb\n-- backfill: two\n");
    revision(
        &db,
        4,
        "dddd",
        "-- revises: cccc\n-- requires: two@verified\n\n-- up\nALTER TABLE public.made ALTER COLUMN v SET NOT NULL;\n\n-- down\nALTER TABLE public.made ALTER COLUMN v DROP NOT NULL;\n",
    );
    db.backfill(&["migrate", "plan"]).exits(0);
    db.backfill(&["migrate", "upgrade", "--gate", "run"]).exits(0);
    for look in ["current", "history", "check", "heads"] {
        db.backfill(&["migrate", look]).exits(0);
    }
    db.backfill(&["migrate", "downgrade", "base"]).exits(0);
    db.backfill(&["migrate", "stamp", "aaaa"]).exits(0);
    db.backfill(&[
        "migrate",
        "revision",
        "--pattern",
        "change-type",
        "public.t.category",
        "varchar",
    ])
    .exits(0);
    std::fs::remove_dir_all(db.directory.join("migrations")).unwrap();
    db.sql.run("delete from backfill.revision");
    db.backfill(&["migrate", "adopt", "django"]).exits(0).says("1 version");
    is_quiet(&db);

    // A key of a type that is compared by the operators of another one: those that are planted would be taken.
    db.spec("name", "table = \"t\"\nkey = [\"name\"]\n[[rule]]\nfill = { phases = \"'{run}'\" }\n");
    db.sql.run(
        "create function public.planted_same(varchar, varchar) returns bool language plpgsql as $$ begin raise exception 'PLANTED'; end $$;
         create operator public.= (leftarg = varchar, rightarg = varchar, function = public.planted_same);
         create function public.planted_same(public.label, public.label) returns bool language plpgsql as $$ begin raise exception 'PLANTED'; end $$;
         create operator public.= (leftarg = public.label, rightarg = public.label, function = public.planted_same)",
    );
    db.backfill(&["plan", "name"]).exits(3).says("is not the operator that index");
    // What is left of a `set` is a comparison of values, of types that pg_catalog has no operator of their own for.
    db.backfill(&["run", "values"]).exits(0);
    db.backfill(&["verify", "values"]).exits(0).prints("3,000 rows looked at, none left");
    db.sql.run("update public.s set mark = 'other' where id = 7");
    db.backfill(&["verify", "values"]).exits(6).prints("1 of 3,000 rows are left to do");
    is_quiet(&db);

    // Without the guard one is called at once.
    let mut plan = db.command(&["plan", "phases"]);
    plan.env("BACKFILL_WITHOUT", "own_path");
    assert_ne!(Started::new(plan).wait().says(WORD).code, 0);
}

#[test]
fn nothing_planted_is_called_on_the_newest_server() {
    nothing_planted_is_called(Which::Newest);
}

#[test]
fn nothing_planted_is_called_on_the_oldest_server() {
    nothing_planted_is_called(Which::Oldest);
}
