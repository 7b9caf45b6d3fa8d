//! Rows that raise are found by halving, set aside with their error, and tried again on request; everything else is done.

use crate::support::Db;

/// 100,000 rows; the divisor is zero in 7 of them.
fn poisoned(db: &Db) {
    db.sql.run(
        "create table t (id bigint primary key, d int not null, v int, w int);
         insert into t select i, case when i in (1, 2, 777, 50000, 50001, 99999, 100000) then 0 else 1 end
           from generate_series(1, 100000) i; analyze t",
    );
}

const SEVEN: &str = "select count(*) from t where v is null";

#[test]
fn seven_rows_that_divide_by_zero() {
    let db = Db::found();
    poisoned(&db);
    db.spec("poison", "table = \"t\"\n[[rule]]\nfill = { v = \"1 / d\" }\n");
    let ran = db.backfill(&["run", "poison"]).exits(5);
    ran.says("division by zero (SQLSTATE 22012)").says("backfill retry poison");
    assert_eq!(db.sql.number(SEVEN), 7);
    let keys =
        db.sql.text("select string_agg(key[1], ',' order by key[1]::int) from backfill.quarantine");
    assert_eq!(keys, "1,2,777,50000,50001,99999,100000");
    let status = db.status("poison");
    assert_eq!(status["rows_quarantined"], 7);
    assert_eq!(status["rows_done"], 99_993);
    assert_eq!(status["quarantined"][0]["sqlstate"], "22012");
    // The condition itself raises on the rows that were set aside.
    let verified = db.backfill(&["verify", "poison"]).exits(6);
    verified.prints("division by zero").prints("backfill retry poison");

    // Nothing mended: the same rows are set aside again, and counted once.
    db.backfill(&["retry", "poison"]).exits(5);
    assert_eq!(db.status("poison")["rows_quarantined"], 7);

    db.sql.run("update t set d = 1 where d = 0");
    db.backfill(&["retry", "poison"]).exits(0);
    assert_eq!(db.sql.number(SEVEN), 0);
    assert_eq!(db.status("poison")["rows_quarantined"], 0);
    assert_eq!(db.status("poison")["rows_done"], 100_000);
    db.backfill(&["verify", "poison"]).exits(0);
    db.backfill(&["retry", "poison"]).exits(0).says("no rows set aside");
}

#[test]
fn a_check_violation_and_a_trigger_that_raises() {
    let db = Db::found();
    poisoned(&db);
    db.sql.run(
        "alter table t add check (v is null or w is null or d <> 0 or id > 1000);
         create function refuse() returns trigger language plpgsql as $$
         begin if new.d = 0 and new.id > 1000 then raise exception 'row % is refused', new.id; end if; return new; end $$;
         create trigger refuse before update on t for each row execute function refuse()",
    );
    db.spec("poison", "table = \"t\"\n[[rule]]\nfill = { v = \"1\", w = \"2\" }\n");
    db.backfill(&["run", "poison"]).exits(5).says("is refused (SQLSTATE P0001)");
    let codes =
        db.sql.rows("select sqlstate, count(*) from backfill.quarantine group by 1 order by 1");
    assert_eq!(codes, [["23514", "3"], ["P0001", "4"]]);
    db.sql.run("drop trigger refuse on t; update t set d = 1 where d = 0");
    db.backfill(&["retry", "poison"]).exits(0);
    assert_eq!(db.sql.number(SEVEN), 0);
}

#[test]
fn a_deferred_constraint_that_speaks_at_commit() {
    let db = Db::found();
    poisoned(&db);
    db.sql.run(
        "create table parent (id int primary key); insert into parent values (1);
         alter table t add foreign key (v) references parent deferrable initially deferred",
    );
    db.spec(
        "poison",
        "table = \"t\"\n[[rule]]\nfill = { v = \"case d when 0 then 9 else 1 end\" }\n",
    );
    db.backfill(&["run", "poison"]).exits(5).says("SQLSTATE 23503");
    assert_eq!(db.sql.number(SEVEN), 7);
    db.sql.run("insert into parent values (9)");
    db.backfill(&["retry", "poison"]).exits(0);
    assert_eq!(db.sql.number(SEVEN), 0);
}

#[test]
fn too_many_rows_set_aside_fail_the_run() {
    let db = Db::found();
    poisoned(&db);
    db.spec(
        "poison",
        "table = \"t\"\n[[rule]]\nfill = { v = \"1 / d\" }\n[limits]\nquarantine_max = 3\n",
    );
    db.backfill(&["run", "poison"]).exits(1).says("more than 3 rows are set aside");
    assert_eq!(db.status("poison")["state"], "failed");
    db.backfill(&["run", "poison"]).exits(3).says("backfill resume poison");
    db.sql.run("update t set d = 1 where d = 0");
    db.backfill(&["retry", "poison"]).exits(0);
    assert_eq!(db.sql.number(SEVEN), 0);
    assert_eq!(db.sql.number("select sum(rows_done) from backfill.chunk"), 100_000);
}
