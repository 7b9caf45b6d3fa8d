//! How a spec's `from` and the subqueries of its expressions are read: once a statement, or by an index, and said beforehand when neither.

use crate::physical::{move_back, scattered};
use crate::support::{Db, Which};

const ROWS: i64 = 2_000;
const SOURCE: i64 = 20_000;

/// A table whose stripes the planner takes for one row each, and a source for it. Comparisons by `told` are counted.
fn table_and_source(which: Which) -> Db {
    let db = Db::new(which);
    db.sql.run(&format!(
        "create table t (id bigint primary key, s int not null, kind text not null, v int) with (autovacuum_enabled = off);
         create table src (s int not null, w int not null) with (autovacuum_enabled = off);
         insert into t select i, i * 7 % {SOURCE}, chr(97 + i % 2), null from generate_series(1, {ROWS}) i;
         insert into src select i, i * 2 from generate_series(0, {SOURCE} - 1) i;
         create function told(i int) returns int immutable language plpgsql as 'begin return i; end';
         do $$ begin execute format('alter database %I set track_functions = ''all''', current_database()); end $$"
    ));
    db.sql.run("analyze src");
    db
}

fn comparisons(db: &Db) -> i64 {
    let calls =
        "select coalesce(sum(calls), 0)::int8 from pg_stat_user_functions where funcname = 'told'";
    db.connect().number(calls)
}

fn is_whole(db: &Db) {
    assert_eq!(db.sql.number("select count(*) from t where v = s * 2"), ROWS);
}

const JOINED: &str = "table = \"t\"\nfrom = \"src\"\norder = \"striped\"\n[[rule]]\nwhen = \"t.s = told(src.s)\"\nset = { v = \"src.w\" }\n";

#[test]
fn a_source_without_an_index_is_read_once_a_statement() {
    for which in [Which::Found, Which::Newest] {
        let db = table_and_source(which);
        db.spec("join", JOINED);
        let by_rules = JOINED.replace("table =", "undo = { mode = \"none\" }\ntable =");
        db.spec("plain", &by_rules);
        for name in ["join", "plain"] {
            db.sql.run("update t set v = null");
            let before = comparisons(&db);
            db.backfill(&["run", name]).exits(0);
            is_whole(&db);
            // Row by row it were every row of the source for each row; in bulk it is every row of it for each of the statements.
            let compared = comparisons(&db) - before;
            assert!(compared > 0, "nothing was counted");
            assert!(compared < ROWS * SOURCE / 10, "{name}: {compared} comparisons");
        }
        db.backfill(&["reverse", "join", "--yes", "--conflicts=force"]).exits(0);
    }
}

/// A row that is the same for all is joined by no condition, so that nothing spares a loop over it.
#[test]
fn a_single_row_beside_the_source_costs_nothing() {
    let db = table_and_source(Which::Found);
    db.sql.run("create table settings (factor int not null); insert into settings values (2); analyze settings");
    for (name, one) in [("table", "settings"), ("values", "(values (2)) as settings (factor)")] {
        db.sql.run("update t set v = null");
        let from = format!("from = \"src cross join {one}\"");
        let spec =
            JOINED.replace("from = \"src\"", &from).replace("src.w", "src.s * settings.factor");
        db.spec(name, &spec);
        let before = comparisons(&db);
        db.backfill(&["run", name]).exits(0);
        is_whole(&db);
        let compared = comparisons(&db) - before;
        assert!(compared > 0 && compared < ROWS * SOURCE / 10, "{name}: {compared} comparisons");
    }
}

/// Rows that moved during a walk by place are listed by their keys; no chunk of them reads the table for it.
#[test]
fn keys_that_are_listed_are_looked_up_one_by_one() {
    for key in ["id", "d, id"] {
        let db = Db::found();
        scattered(&db, 10_000);
        db.sql.run(
            "create table src as select md5(id::text) as m, id::text as w from t; analyze src",
        );
        db.sql.run(&format!("alter table t drop constraint t_pkey, add primary key ({key})"));
        db.spec(
            "fill",
            "table = \"t\"\norder = \"physical\"\nfrom = \"src\"\n[[rule]]\nwhen = \"src.m = md5(t.id::text)\"\nfill = { v = \"src.w\" }\n\
             [limits]\nchunk_rows_max = 200\n",
        );
        db.stop_half_way("fill", "pause").exits(4);
        move_back(&db);
        let looked_up = || {
            let sql = "select idx_tup_fetch from pg_stat_user_tables where relname = 't'";
            db.connect().number(sql)
        };
        let before = looked_up();
        let ran = db.backfill(&["resume", "fill"]).exits(0);
        ran.says("rows that the walk did not do are done by key");
        assert_eq!(db.sql.number("select count(*) from t where v is distinct from id::text"), 0);
        let listed =
            db.sql.number("select sum(rows_done) from backfill.chunk where only_keys is not null");
        let looked_up = looked_up() - before;
        assert!(listed > 100, "{listed}");
        // Of several columns each key is a look-up of its own, whatever the planner makes of it on so small a table.
        assert!(key != "id" || looked_up < listed * 4, "{looked_up} rows for {listed}");
    }
}

/// The rules of a `fill` have the join in common.
#[test]
fn several_rules_that_fill_by_one_join() {
    let db = table_and_source(Which::Found);
    db.spec(
        "fill",
        "table = \"t\"\nfrom = \"src\"\n[[rule]]\nwhen = \"t.s = told(src.s) and kind = 'a'\"\nfill = { v = \"src.w\" }\n\
         [[rule]]\nwhen = \"t.s = told(src.s) and kind = 'b'\"\nfill = { v = \"src.w\" }\n",
    );
    db.backfill(&["run", "fill"]).exits(0);
    is_whole(&db);
    let compared = comparisons(&db);
    assert!(compared > 0 && compared < ROWS * SOURCE / 10, "{compared} comparisons");
}

fn warnings(db: &Db, spec: &str) -> String {
    db.spec("look", spec);
    let plan = db.backfill(&["plan", "look", "--json"]).exits(0).json();
    plan["warnings"].to_string()
}

#[test]
fn a_source_with_an_index_is_not_read_as_a_whole() {
    let db = table_and_source(Which::Found);
    let plain = JOINED.replace("told(src.s)", "src.s");
    // Small as it is, nobody need know.
    assert!(!warnings(&db, &plain).contains("no index"));
    db.sql.run(
        "insert into src select i, i * 2 from generate_series(20000, 99999) i; create index src_s on src (s)",
    );
    db.sql.run("vacuum analyze src");
    assert!(!warnings(&db, &plain).contains("no index"));
    let read = || {
        let sql =
            "select seq_tup_read + idx_tup_fetch from pg_stat_user_tables where relname = 'src'";
        db.connect().number(sql)
    };
    db.spec("join", &plain);
    let built = "select seq_tup_read >= 100000 from pg_stat_user_tables where relname = 'src'";
    db.sql.wait_for("the build of the index is counted", built);
    let before = read();
    db.backfill(&["run", "join"]).exits(0);
    is_whole(&db);
    let read = read() - before;
    assert!(read > 0 && read <= ROWS * 5, "{read} rows of the source were read");
    db.sql.run("drop index src_s");
    let said = warnings(&db, &plain);
    assert!(said.contains("no index serves the join with public.src"), "{said}");
    assert!(said.contains("each statement of a chunk reads all of it"), "{said}");
    // By inequality nothing can be joined in bulk.
    let said =
        warnings(&db, &plain.replace("t.s = src.s", "t.s * 7 + 1 > src.s and src.s > t.s * 7 - 1"));
    assert!(said.contains("it is gone through for each row of a chunk"), "{said}");
    // What comes out of an aggregate is little, whatever goes in.
    let largest = "table = \"t\"\nfrom = \"(select max(w) as m from src) as x\"\n[[rule]]\nset = { v = \"x.m\" }\n";
    let said = warnings(&db, largest);
    assert!(!said.contains("no index"), "{said}");
}

#[test]
fn a_subquery_that_reads_a_table_for_each_row_is_told() {
    let db = table_and_source(Which::Found);
    let spec = |value: &str| format!("table = \"t\"\n[[rule]]\nset = {{ v = \"{value}\" }}\n");
    let for_each = spec("(select w from src where src.s = t.s)");
    let said = warnings(&db, &for_each);
    assert!(said.contains("a subquery reads all of public.src"), "{said}");
    for once in ["(select max(w) from src)", "case when t.s in (select s from src) then 1 end"] {
        let said = warnings(&db, &spec(once));
        assert!(!said.contains("a subquery reads"), "{once}: {said}");
    }
    db.sql.run("create index src_s on src (s)");
    let said = warnings(&db, &for_each);
    assert!(!said.contains("a subquery reads"), "{said}");
}
