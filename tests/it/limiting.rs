//! Runs by place of statements that take the rows they write out of their own `when`: each row once, unless somebody puts it back, and then
//! given back in order.

use nix::sys::signal::Signal;

use crate::physical::{full, killed_twelve_times, move_back, scattered};
use crate::support::{Db, Which, wait_for};

const ADD: &str = "table = \"t\"\norder = \"physical\"\n[[rule]]\nwhen = \"state <> 'done'\"\nset = { state = \"'done'\", hits = \"hits + 1\" }\n";
const SET: &str = "table = \"t\"\norder = \"physical\"\n[[rule]]\nwhen = \"state <> 'done'\"\nset = { state = \"'done'\" }\n";

const COLUMNS: &str =
    "alter table t add state text not null default 'old', add hits int not null default 0";

fn table(db: &Db, rows: u32) {
    scattered(db, rows);
    db.sql.run(COLUMNS);
}

/// Stops a run when rows have been set.
fn stop_half_way(db: &Db) {
    let run = db.start(&["run", "set", "--rate", "10000 rows/s"]);
    let set = "select count(*) from t where state = 'done'";
    wait_for("rows are set", || db.sql.number(set) > 250);
    db.backfill(&["pause", "set"]).exits(0);
    run.wait().exits(4);
}

/// Puts rows back that have been set.
fn put_back(db: &Db, rows: u32) {
    let back = format!(
        "update t set state = 'back' where id in (select id from t where state = 'done' order by md5(id::text) limit {rows}) returning 1"
    );
    assert_eq!(db.sql.rows(&back).len(), rows as usize, "too little had been set");
}

/// A run that is stopped half-way, while rows move to where it has been and others are put back, and is then brought to its end.
fn half_way(db: &Db, rows: u32, spec: &str) {
    table(db, rows);
    db.spec("set", spec);
    stop_half_way(db);
    put_back(db, 50);
    move_back(db);
    db.backfill(&["resume", "set"]).exits(0).says("rows that the walk did not do are done by key");
    assert_eq!(db.sql.number("select count(*) from t where state <> 'done'"), 0);
}

const TWICE: &str = "select k from backfill.before_image_1, unnest(k1) as k where old_1 is not null group by k having count(*) = 2";

#[test]
fn a_row_is_set_once_unless_it_is_put_back() {
    for (which, stripes) in
        [(Which::Found, ""), (Which::Newest, "stripes = 5\n"), (Which::Found, "stripes = 5\n")]
    {
        let db = Db::new(which);
        half_way(&db, 20_000, &format!("{stripes}{ADD}"));
        let rows = db.sql.number("select count(*) from t");
        assert_eq!(db.sql.number("select count(*) from t where hits = 1"), rows - 50);
        assert_eq!(db.sql.number("select count(*) from t where hits = 2"), 50);
        assert_eq!(db.sql.number(&format!("select count(*) from ({TWICE}) as twice")), 50);
        let done = "select sum(rows_done) from backfill.chunk";
        assert_eq!(db.sql.number(done), rows + 50);
        db.backfill(&["verify", "set"]).exits(0);
        let ran = db.backfill(&["reverse", "set"]).exits(5);
        ran.says("50 rows were not simply given back");
        let back = "select count(*) from t where (state, hits) = ('old', 0)";
        assert_eq!(db.sql.number(back), rows - 50);
        let back = "select count(*) from t where (state, hits) = ('back', 1)";
        assert_eq!(db.sql.number(back), 50, "what the application wrote in between");
    }
}

/// What is put back where the walk still has to come is left to the sweep, or nobody could tell which of the two chunks came first.
#[test]
fn the_walk_writes_no_row_twice() {
    let db = Db::found();
    full(&db, 40_000);
    db.sql.run(COLUMNS);
    // The last half of the pages has room, and rows that keep it.
    db.sql.run("delete from t where ctid > (select format('(%s,0)', pg_relation_size('t') / 8192 / 2)::tid) and ctid::text not like '%,1)'");
    db.sql.run("vacuum analyze t");
    db.spec("set", ADD);
    stop_half_way(&db);
    db.sql.run(
        "create table twice as select * from t where state = 'done' order by md5(id::text) limit 200;
         delete from t where id in (select id from twice);
         insert into t select (jsonb_populate_record(twice, '{\"state\": \"back\"}')).* from twice",
    );
    let ahead = "select count(*) from t where state = 'back' and ctid > (select cut_upto[2]::tid from backfill.run)";
    assert!(db.sql.number(ahead) > 50, "nothing was put back where the walk still has to come");
    db.backfill(&["resume", "set"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where hits = 2"), 200);
    let places = format!(
        "select count(*) filter (where upto_key[1] = '1') || ' ' || count(*) filter (where upto_key[1] = '2')
           from backfill.chunk join backfill.before_image_1 using (seq), unnest(k1) as k where old_1 is not null and k in ({TWICE})"
    );
    assert_eq!(db.sql.text(&places), "200 200");
}

/// Nothing tells the two values apart that were written to one row, so that their order decides.
#[test]
fn what_was_written_later_is_given_back_first() {
    let db = Db::found();
    half_way(&db, 20_000, &format!("{SET}[limits]\nlock_timeout = \"200ms\"\n"));
    // The sweep's first chunk waits for a row that the walk did not write.
    let gate = db.connect();
    let held = "select min(k) from (select unnest(k1) as k from backfill.before_image_1 i join backfill.chunk c using (seq) where c.upto_key[1] = '2') as s
                 where k::text > '1' and not exists (select from backfill.before_image_1 i join backfill.chunk c using (seq), unnest(i.k1) as w where w = k and c.upto_key[1] = '1')";
    let held = db.sql.text(&held.replace("min(k)", "min(k::text)"));
    gate.run(&format!("begin; select from t where id = '{held}' for update"));
    let run = db.start(&["reverse", "set", "--workers", "2"]);
    let swept = "select count(*) filter (where upto_key[1] = '2' and state = 'done') > 0 from backfill.chunk where run_id = 2";
    db.sql.wait_for("the rest of the sweep is given back", swept);
    let attempt = "select query_start::text from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    let mut attempts = std::collections::BTreeSet::new();
    wait_for("the held chunk has been tried several times", || {
        attempts.extend(db.sql.rows(attempt).into_iter().flatten());
        attempts.len() > 3
    });
    let walked = "select count(*) from backfill.chunk where run_id = 2 and upto_key[1] = '1' and state = 'done'";
    assert_eq!(db.sql.number(walked), 0, "what was walked is given back before the sweep");
    gate.run("commit");
    run.wait().exits(5).says("50 rows were not simply given back");
    assert_eq!(db.sql.number("select count(*) from t where state = 'back'"), 50);
    assert_eq!(db.sql.number("select count(*) from t where state not in ('old', 'back')"), 0);
}

#[test]
fn a_row_whose_later_value_cannot_be_given_back_keeps_it() {
    let db = Db::found();
    half_way(&db, 20_000, SET);
    let id = db.sql.text(&format!("{TWICE} order by md5(k::text) limit 1"));
    db.sql.run(&format!(
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'row is refused'; end $$;
         create trigger refuse before update on t for each row when (new.id = '{id}' and new.state = 'back') execute function refuse()"
    ));
    db.backfill(&["reverse", "set"]).exits(5).says("row is refused");
    let state = format!("select state from t where id = '{id}'");
    assert_eq!(db.sql.text(&state), "done");
    assert_eq!(db.sql.number("select count(*) from t where state = 'back'"), 49);
    db.sql.run("drop trigger refuse on t");
    db.backfill(&["retry", "set"]);
    assert_eq!(db.sql.text(&state), "back");
    assert_eq!(db.sql.number("select count(*) from t where state not in ('old', 'back')"), 0);
}

#[test]
fn a_writer_that_puts_rows_back_and_a_runner_killed_twelve_times() {
    let db = Db::found();
    table(&db, 60_000);
    db.spec("set", &format!("stripes = 3\n{ADD}[limits]\nchunk_rows_max = 400\n"));
    let put_back = |i: usize| if i.is_multiple_of(3) { ", state = 'back'" } else { "" };
    killed_twelve_times(&db, "set", put_back);
    let kept =
        "select count(*) from backfill.before_image_1, unnest(k1) as k where old_1 is not null";
    assert_eq!(db.sql.number(kept), db.sql.number("select sum(hits) from t"));
    assert_eq!(db.sql.number("select count(*) from t where hits > 2 or (n = 0 and hits <> 1)"), 0);
    let rows = db.sql.number("select count(*) from t where n = 0");
    let given = db.start(&["reverse", "set", "--rate", "20000 rows/s"]);
    wait_for("the way back has begun", || {
        db.sql.number("select count(*) from backfill.chunk where run_id = 2 and state = 'done'") > 3
    });
    given.kill();
    let ran = db.backfill(&["resume", "set"]);
    assert!([0, 5].contains(&ran.code), "{}", ran.stderr);
    let back = "select count(*) from t where n = 0 and (state, hits) = ('old', 0)";
    assert_eq!(db.sql.number(back), rows);
    // What the writer put back once more behind the sweep is its own.
    let left = "select count(*) from t where state = 'done' or (hits > 1 and state <> 'back')";
    assert_eq!(db.sql.number(left), 0);
}

/// A chunk of the sweep that was halved on its way back has parts with higher numbers than all of the walk's chunks.
#[test]
fn halves_of_the_sweep_come_before_the_walk_for_the_next_runner_too() {
    let db = Db::found();
    half_way(&db, 90_000, &format!("{SET}[limits]\nchunk_rows_max = 50\n"));
    // More than are read at once.
    assert!(db.sql.number("select count(*) from backfill.chunk where upto_key[1] = '1'") > 1_100);
    db.sql.run(
        "create function refuse() returns trigger language plpgsql as $$ begin if new.state = 'back' then perform pg_sleep(0.05); raise exception 'row is refused'; end if; return new; end $$;
         create trigger refuse before update on t for each row execute function refuse()",
    );
    let run = db.start(&["reverse", "set"]);
    let halved = "select count(*) from backfill.chunk c, backfill.run r where c.run_id = 2 and r.run_id = 2 and c.state = 'pending' and c.upto_key[1] = '2'
                     and c.seq > (select max(seq) from backfill.chunk where run_id = 2 and upto_key[1] = '1')";
    wait_for("the sweep is halved", || db.sql.number(halved) > 1);
    run.signal(Signal::SIGKILL);
    assert_eq!(run.wait().code, -1);
    db.sql.run("drop trigger refuse on t");
    let gone = "select count(*) from pg_stat_activity where application_name like 'backfill%' and datname = current_database()";
    db.sql.wait_for("its sessions are gone", &format!("select ({gone}) = 0"));
    db.backfill(&["resume", "set"]).exits(5);
    let aside = db.sql.number("select count(*) from backfill.quarantine");
    assert_eq!(db.sql.number("select count(*) from t where state = 'done'"), aside);
    db.backfill(&["retry", "set"]);
    assert_eq!(db.sql.number("select count(*) from t where state = 'back'"), 50);
    assert_eq!(db.sql.number("select count(*) from t where state not in ('old', 'back')"), 0);
}

#[test]
fn several_columns_are_filled_by_place() {
    let db = Db::found();
    table(&db, 20_000);
    db.spec(
        "fill",
        "table = \"t\"\norder = \"physical\"\n[[rule]]\nfill = { v = \"md5(id::text)\", word = \"'w'\" }\n",
    );
    db.sql.run("alter table t add word text");
    db.stop_half_way("fill", "pause").exits(4);
    move_back(&db);
    db.backfill(&["resume", "fill"]).exits(0);
    assert_eq!(
        db.sql.number("select count(*) from t where v is null or word is distinct from 'w'"),
        0
    );
    let rows = db.sql.number("select count(*) from t");
    assert_eq!(db.sql.number("select sum(rows_done) from backfill.chunk"), rows);
    db.backfill(&["reverse", "fill"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where v is not null or word is not null"), 0);
}

#[test]
fn what_may_pick_its_own_rows_again_is_not_gone_through_by_place() {
    let db = Db::found();
    table(&db, 100);
    db.sql.run("create domain word as text; alter table t add word word, add cut varchar(3), add money numeric(5, 2), add at timestamptz, add flag boolean not null default false");
    db.sql.run("create table src (id int, state text)");
    let spec = |rules: &str| format!("table = \"t\"\norder = \"physical\"\n{rules}");
    let rule = |when: &str, set: &str| format!("[[rule]]\nwhen = \"{when}\"\nset = {{ {set} }}\n");
    let again = [
        rule("hits < 5", "hits = \"hits + 1\""),
        rule("state <> 'done'", "state = \"body\""),
        rule("state <> 'done'", "hits = \"1\""),
        rule("state is distinct from 'done'", "state = \"'Done'\""),
        // As the column rounds it.
        rule("money is distinct from 1.005", "money = \"1.005\""),
        // The clock's value is a constant to the server, and another one a moment later.
        rule("at < 'now'", "at = \"'now'\""),
        rule("at < $$now$$", "at = \"$$now$$\""),
        format!(
            "from = \"(select 'now'::timestamptz as now) as s\"\n{}",
            rule("t.at < s.now", "at = \"'2000-01-01'\"")
        ),
        rule("at is distinct from now() and at < ' Today 05:00'", "at = \"'today'\""),
        // Each takes its rows out of its own condition, and puts them into the other's.
        format!(
            "{}{}",
            rule("state = 'a'", "state = \"'b'\""),
            rule("state = 'b'", "state = \"'a'\"")
        ),
        "[[rule]]\nset = { state = \"'done'\" }\n".to_owned(),
        format!("{}[[rule]]\nfill = {{ v = \"'x'\" }}\n", rule("not flag", "flag = \"true\"")),
    ];
    for rules in again {
        db.spec("no", &spec(&rules));
        let plan = db.backfill(&["plan", "no"]);
        assert_eq!(plan.code, 3, "{rules}{}", plan.stdout);
        plan.says(
            "a row that it has set may, for all the server can tell, be one that its `when` picks",
        );
    }
    db.sql.run("alter table t add upper text generated always as (upper(v)) stored; create view seen as select id, v from t");
    for other in [
        "v || 'y'",
        "upper || 'y'",
        "(select s.v || 'y' from seen s where s.id = t.id)",
        "case when random() < 0.5 then 'y' end",
    ] {
        let fill = format!("[[rule]]\nfill = {{ v = \"'x'\", body = \"{other}\" }}\n");
        db.spec("no", &spec(&format!("allow_volatile = true\n{fill}")));
        db.backfill(&["run", "no"]).exits(3).says("one of them may depend on another");
    }
    let once = [
        rule("state <> 'done' and d = 1", "state = \"'done'\", hits = \"hits + 1\""),
        rule("not flag", "flag = \"true\""),
        rule("state <> 'done'", "state = \"'done'\", at = \"now()\""),
        rule("t is not null and state <> 'done'", "state = \"'done'\""),
        rule("cut is null", "cut = \"'abc'\""),
        rule("lower(state) = 'old'", "state = \"upper('new')\""),
        format!(
            "{}{}",
            rule("state = 'a'", "state = \"'c'\""),
            rule("state = 'b'", "state = \"'d'\"")
        ),
        format!(
            "from = \"src\"\n{}",
            rule("t.d = src.id and t.state = 'old'", "state = \"'new'\"")
        ),
    ];
    for rules in once {
        db.spec("yes", &spec(&rules));
        let plan = db.backfill(&["plan", "yes", "--json"]).exits(0).json();
        assert_eq!(plan["order"]["by_place"], true, "{rules}: {plan}");
    }
}
