//! Runs in physical order: walked by place, then swept by key, with nothing lost or written twice, whatever moves meanwhile.

use nix::sys::signal::Signal;

use crate::support::{Db, Sql, Started, Which, wait_for};

/// Rows in an order that is not the key's.
pub(crate) fn full(db: &Db, rows: u32) {
    db.sql.run(&format!(
        "create table t (id uuid primary key, d int not null, v text, n int not null default 0, body text);
         alter table t set (autovacuum_enabled = off);
         insert into t select md5(i::text)::uuid, 1, null, 0, repeat(md5(i::text), 2) from generate_series(1, {rows}) i"
    ));
}

/// The same, behind a fifth of pages that have room and no rows.
pub(crate) fn scattered(db: &Db, rows: u32) {
    full(db, rows + rows / 4);
    db.sql.run(
        "delete from t where ctid < (select format('(%s,0)', pg_relation_size('t') / 8192 / 5)::tid)",
    );
    db.sql.run("vacuum analyze t");
}

const FILL: &str =
    "table = \"t\"\norder = \"physical\"\n[[rule]]\nfill = { v = \"md5(id::text)\" }\n";

/// Every row is filled, and one before-image kept of each.
#[track_caller]
fn is_done_once(db: &Db, run: i64) {
    let rows = db.sql.number("select count(*) from t");
    let wrong = "select count(*) from t where v is distinct from md5(id::text)";
    assert_eq!(db.sql.number(wrong), 0, "rows without their value");
    let kept = format!(
        "select count(*) || ' ' || count(distinct k) from backfill.before_image_{run}, unnest(k1) as k"
    );
    assert_eq!(db.sql.text(&kept), format!("{rows} {rows}"), "before-images, and keys in them");
    let done = format!("select sum(rows_done) from backfill.chunk where run_id = {run}");
    assert_eq!(db.sql.number(&done), rows);
    let open =
        format!("select count(*) from backfill.chunk where run_id = {run} and state <> 'done'");
    assert_eq!(db.sql.number(&open), 0);
}

/// Moves rows of the last pages, which the walk comes to last, to the first ones, where it has been.
pub(crate) fn move_back(db: &Db) {
    db.sql.run(
        "update t set n = n + 1 where ctid > (select format('(%s,0)', pg_relation_size('t') / 8192 - 20)::tid) and v is null",
    );
    let moved = "select count(*) from t where n > 0 and ctid < (select format('(%s,0)', pg_relation_size('t') / 8192 / 5)::tid)";
    assert!(db.sql.number(moved) > 100, "nothing was moved back");
}

#[test]
fn rows_moved_to_where_the_walk_has_been_are_swept() {
    for (which, order) in
        [(Which::Found, ""), (Which::Newest, "stripes = 5\n"), (Which::Found, "stripes = 5\n")]
    {
        let db = Db::new(which);
        scattered(&db, 20_000);
        db.spec("fill", &format!("{order}{FILL}"));
        db.stop_half_way("fill", "pause").exits(4);
        move_back(&db);
        db.backfill(&["resume", "fill"])
            .exits(0)
            .says("rows that the walk did not do are done by key");
        is_done_once(&db, 1);
        let swept = "select sum(rows_done) from backfill.chunk where upto_key[1] = '2'";
        assert!(db.sql.number(swept) > 100, "the sweep had nothing to do");
        let listed =
            "select bool_and(only_keys is not null) from backfill.chunk where upto_key[1] = '2'";
        assert_eq!(db.sql.text(listed), "t", "the sweep lists its keys");
        assert_eq!(db.status("fill")["storage"]["cut_by"], "place");
        db.backfill(&["verify", "fill"]).exits(0);

        db.backfill(&["reverse", "fill"]).exits(0);
        assert_eq!(db.sql.number("select count(*) from t where v is not null"), 0);
        assert_eq!(db.sql.number("select count(*) from backfill.conflict"), 0);
    }
}

/// A run whose walk cannot come to its end while the connection holds the last row.
fn held_at_the_end(db: &Db) -> (Started, Sql) {
    scattered(db, 20_000);
    db.spec("fill", &format!("{FILL}[limits]\nlock_timeout = \"200ms\"\n"));
    let gate = db.connect();
    gate.run("begin; select from t where ctid = (select max(ctid) from t) for update");
    (db.start(&["run", "fill"]), gate)
}

#[test]
fn the_sweep_waits_for_the_walk() {
    let db = Db::found();
    let (run, gate) = held_at_the_end(&db);
    let attempt = "select query_start::text from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    let mut attempts = std::collections::BTreeSet::new();
    wait_for("the last chunk has been tried several times", || {
        attempts.extend(db.sql.rows(attempt).into_iter().flatten());
        attempts.len() > 3
    });
    let open = "select count(*) filter (where upto_key[1] = '2'), count(*) filter (where state = 'pending') > 0 from backfill.chunk";
    assert_eq!(db.sql.rows(open), [["0", "t"]]);
    gate.run("commit");
    run.wait().exits(0);
    is_done_once(&db, 1);
}

/// Kills a run twelve times and lets it come to its end, beside an application that writes to its rows; `set` says what its writes of a number
/// do besides counting in `n`. Returns how many those were.
pub(crate) fn killed_twelve_times(db: &Db, name: &str, set: fn(usize) -> &'static str) -> i64 {
    let keys = db.sql.rows("select id from t order by random() limit 5000");
    let writer = db.connect();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let moving = std::thread::spawn(move || {
        let mut moved = 0;
        for (i, key) in keys.iter().cycle().enumerate() {
            if stopped.try_recv().is_ok() {
                break;
            }
            writer.run(&format!("update t set n = n + 1{} where id = '{}'", set(i), key[0]));
            moved += 1;
        }
        moved
    });
    let mut verb = "run";
    for _ in 0..12 {
        let before = db.chunks_done();
        let started = db.start(&[verb, name, "--rate", "20000 rows/s"]);
        wait_for("the runner settles a chunk", || db.chunks_done() > before);
        started.kill();
        verb = "resume";
    }
    assert!(db.chunks_done() < 150, "nothing was left for the last runner");
    db.backfill(&["resume", name]).exits(0);
    stop.send(()).unwrap();
    moving.join().unwrap()
}

#[test]
fn a_writer_that_moves_rows_and_a_runner_killed_twelve_times() {
    let db = Db::found();
    scattered(&db, 60_000);
    db.spec("fill", &format!("stripes = 3\n{FILL}[limits]\nchunk_rows_max = 400\n"));
    let moved = killed_twelve_times(&db, "fill", |_| "");
    is_done_once(&db, 1);
    assert_eq!(db.sql.number("select sum(n) from t"), moved, "the application's writes");
    db.backfill(&["reverse", "fill"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where v is not null"), 0);
    assert_eq!(db.sql.number("select sum(n) from t"), moved, "the application's writes");
}

#[test]
fn a_key_of_several_columns_is_swept_too() {
    let db = Db::found();
    db.sql.run(
        "create table t (a text, b int, d int not null default 1, v text, n int not null default 0, primary key (a, b)) with (autovacuum_enabled = off);
         insert into t select md5((i % 997)::text), i, 1, null from generate_series(1, 25000) i;
         delete from t where ctid < '(40,0)'",
    );
    db.sql.run("vacuum analyze t");
    let rows = db.sql.number("select count(*) from t");
    let before = "select md5(string_agg(t::text, ',' order by a, b)) from t";
    db.spec(
        "fill",
        "table = \"t\"\norder = \"physical\"\n[[rule]]\nwhen = \"d = 1\"\nfill = { v = \"a || b\" }\n",
    );
    db.stop_half_way("fill", "pause").exits(4);
    move_back(&db);
    db.sql.run("update t set n = 0 where n <> 0");
    db.backfill(&["resume", "fill"]).exits(0).says("rows that the walk did not do are done by key");
    assert_eq!(db.sql.number("select count(*) from t where v = a || b"), rows);
    assert_eq!(db.sql.number("select sum(rows_done) from backfill.chunk"), rows);
    db.backfill(&["verify", "fill"]).exits(0);
    let after = db.sql.text(before);
    db.backfill(&["reverse", "fill"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where v is null"), rows);
    db.backfill(&["run", "fill"]).exits(0);
    assert_eq!(db.sql.text(before), after);
}

/// What the application empties again may be filled again; what is given back is the same in whatever order.
#[test]
fn a_row_that_is_emptied_again_is_given_back_once() {
    let db = Db::found();
    full(&db, 20_000);
    db.sql.run("vacuum analyze t");
    db.spec("fill", FILL);
    db.stop_half_way("fill", "pause").exits(4);
    let emptied = "update t set v = null where id in (select id from t where v is not null limit 50) returning 1";
    let emptied = db.sql.rows(emptied).len() as i64;
    assert!(emptied > 2, "too little had been filled");
    db.backfill(&["resume", "fill"]).exits(0);
    let kept = "select count(*) - count(distinct k) from backfill.before_image_1, unnest(k1) as k";
    assert_eq!(db.sql.number(kept), emptied);
    // Two of them have two before-images, and each is one row that was not given back.
    let changed = "update t set v = 'app' where id in (
         (select k from backfill.before_image_1, unnest(k1) as k group by k having count(*) = 2 limit 2) union all
         (select k from backfill.before_image_1, unnest(k1) as k group by k having count(*) = 1 limit 1)) returning 1";
    assert_eq!(db.sql.rows(changed).len(), 3);
    db.backfill(&["reverse", "fill"]).exits(5).says("3 rows were not simply given back");
    assert_eq!(db.sql.number("select count(*) from t where v is not null"), 3);
    assert_eq!(db.sql.number("select count(distinct key) from backfill.conflict"), 3);
    db.backfill(&["run", "fill"]).exits(0);
    let before = db.sql.number("select count(*) from t where v = 'app'");
    assert_eq!(before, 3);
    db.backfill(&["reverse", "fill", "--conflicts=force", "--yes"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where v is not null"), 3);
}

/// A crash takes chunks back that this runner has seen done.
#[test]
fn chunks_that_a_crash_took_back_are_done_before_the_sweep() {
    let db = Db::found();
    let (run, gate) = held_at_the_end(&db);
    let open = "select count(*) = 1 from backfill.chunk where state = 'pending' and (select cut_upto[2] from backfill.run) = (select leaf_ceilings->0->>0 from backfill.run)";
    wait_for("one chunk is left", || db.chunks_done() > 0 && db.sql.text(open) == "t");
    db.sql.run(
        "begin;
         update t set v = null where id in (select unnest(k1) from backfill.before_image_1 where seq = 1);
         delete from backfill.before_image_1 where seq = 1;
         update backfill.chunk set state = 'pending', settled_at = null, settled_epoch = null, rows_done = 0 where seq = 1;
         commit",
    );
    gate.run("commit");
    run.wait().exits(0);
    is_done_once(&db, 1);
}

/// A join shows the rows of the table several times, and rows that raise are known to be left.
#[test]
fn a_join_with_rows_that_raise() {
    let db = Db::found();
    scattered(&db, 20_000);
    db.sql.run(
        "create table src (id int primary key, name text); insert into src select i, 'x' from generate_series(1, 100000) i; analyze src;
         update t set d = 0 where id in (select id from t order by md5(id::text) limit 3)",
    );
    db.spec(
        "fill",
        "table = \"t\"\norder = \"physical\"\nfrom = \"src AS c\"\n[[rule]]\nwhen = \"c.id = 1 + length(t.body) % 7\"\nfill = { v = \"c.name || (1 / t.d)::text\" }\n",
    );
    db.stop_half_way("fill", "pause").exits(4);
    move_back(&db);
    db.backfill(&["resume", "fill"]).exits(5).says("division by zero");
    assert_eq!(db.sql.number("select count(*) from t where v is null"), 3);
    db.sql.run("update t set d = 1 where d = 0");
    db.backfill(&["retry", "fill"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where v is null"), 0);
}

#[test]
fn a_key_that_is_an_array_is_listed_too() {
    let db = Db::found();
    db.sql.run(
        "create table t (id int[] primary key, n int not null default 0, v text) with (autovacuum_enabled = off);
         insert into t select array[hashint4(i), i], 0, null from generate_series(1, 25000) i;
         delete from t where ctid < '(30,0)'",
    );
    db.sql.run("vacuum analyze t");
    db.spec("fill", FILL);
    db.stop_half_way("fill", "pause").exits(4);
    move_back(&db);
    db.backfill(&["resume", "fill"]).exits(0).says("rows that the walk did not do are done by key");
    assert_eq!(db.sql.number("select count(*) from t where v is null"), 0);
}

#[test]
fn a_run_by_place_is_not_gone_on_with_by_another_kind_of_spec() {
    let db = Db::found();
    scattered(&db, 20_000);
    db.spec("fill", FILL);
    db.stop_half_way("fill", "pause").exits(4);
    db.spec("fill", "table = \"t\"\n[[rule]]\nset = { v = \"md5(id::text)\" }\n");
    let ran = db.backfill(&["resume", "fill", "--accept-change"]).exits(3);
    ran.says("run 1 goes by place in the heap: a row that it has set").says("backfill cancel fill");
    let once = "table = \"t\"\n[[rule]]\nwhen = \"v is null\"\nset = { v = \"'x'\" }\n";
    db.spec("fill", once);
    let ran = db.backfill(&["resume", "fill", "--accept-change"]).exits(3);
    ran.says("it began as one that fills a single column").says("backfill cancel fill");
    db.spec("fill", &FILL.replace("physical", "key"));
    db.backfill(&["resume", "fill", "--accept-change"]).exits(0);
    is_done_once(&db, 1);
}

#[test]
fn a_table_rewritten_in_the_middle() {
    let db = Db::found();
    scattered(&db, 20_000);
    db.spec("fill", FILL);
    db.stop_half_way("fill", "pause").exits(4);
    db.sql.run("create index by_body on t (body)");
    db.sql.run("cluster t using by_body");
    db.backfill(&["resume", "fill"]).exits(0).says("the table was rewritten");
    is_done_once(&db, 1);
    let told = "select count(*) from backfill.log where event = 'rewritten'";
    assert_eq!(db.sql.number(told), 1);
}

/// Three rows raise; one of them in a place that the walk has behind it.
#[test]
fn rows_that_raise_are_set_aside_by_their_keys() {
    let db = Db::found();
    scattered(&db, 20_000);
    let poison = db.sql.rows(
        "update t set d = 0 where id in (select id from t order by md5(id::text) limit 3) returning id",
    );
    let fill = FILL.replace("md5(id::text)", "(1 / d)::text || md5(id::text)");
    db.spec("fill", &fill);
    let ran = db.backfill(&["run", "fill"]).exits(5);
    ran.says("3 rows that the walk did not do are done by key")
        .says("division by zero (SQLSTATE 22012)");
    let mut expected: Vec<String> = poison.into_iter().map(|row| row[0].clone()).collect();
    expected.sort();
    let aside = "select string_agg(key[1], ' ' order by key[1]) from backfill.quarantine";
    assert_eq!(db.sql.text(aside), expected.join(" "));
    assert_eq!(db.sql.number("select count(*) from t where v is null"), 3);
    db.sql.run("update t set d = 1 where d = 0");
    db.backfill(&["retry", "fill"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where v is null"), 0);
    assert_eq!(db.sql.number("select count(*) from backfill.quarantine"), 0);
    db.backfill(&["verify", "fill"]).exits(0);
    db.backfill(&["reverse", "fill"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where v is not null"), 0);
}

/// A look that raises tells nothing, so every key is looked at.
#[test]
fn a_row_that_raises_where_the_walk_has_been() {
    let db = Db::found();
    scattered(&db, 20_000);
    db.spec("fill", &FILL.replace("md5(id::text)", "(1 / d)::text || md5(id::text)"));
    db.stop_half_way("fill", "pause").exits(4);
    move_back(&db);
    db.sql.run(
        "update t set d = 0 where id = (select id from t where n > 0 and v is null order by ctid limit 1)",
    );
    db.backfill(&["resume", "fill"]).exits(5).says("every key is looked at");
    assert_eq!(db.sql.number("select count(*) from backfill.quarantine"), 1);
    assert_eq!(db.sql.number("select count(*) from t where v is null"), 1);
    let rows = db.sql.number("select count(*) from t");
    assert_eq!(db.sql.number("select sum(rows_done) from backfill.chunk"), rows - 1);
}

/// A reverse run's chunk of the walk has no ends of its own; it is halved by the keys of its before-images.
#[test]
fn a_chunk_that_cannot_be_given_back_is_halved_by_key() {
    let db = Db::found();
    scattered(&db, 20_000);
    db.spec("fill", FILL);
    db.backfill(&["run", "fill"]).exits(0);
    let least = db.sql.text("select min(id::text) from t");
    db.sql.run(&format!(
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'row is refused'; end $$;
         create trigger refuse before update on t for each row when (new.id = '{least}') execute function refuse()"
    ));
    db.backfill(&["reverse", "fill"]).exits(5).says("row is refused");
    assert_eq!(db.sql.number("select count(*) from t where v is not null"), 1);
    assert_eq!(db.sql.text("select key[1] from backfill.quarantine"), least);
    db.sql.run("drop trigger refuse on t");
    db.backfill(&["retry", "fill"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where v is not null"), 0);
}

#[test]
fn a_look_that_takes_long_is_ended_by_a_stop() {
    let db = Db::found();
    scattered(&db, 20_000);
    db.sql.run(
        "create function slow() returns boolean stable language plpgsql as $$
         begin if current_query() like '%backfill_left%' then perform pg_sleep(600); end if; return true; end $$",
    );
    db.spec("fill", &FILL.replace("[[rule]]", "[[rule]]\nwhen = \"slow()\""));
    db.stop_half_way("fill", "pause").exits(4);
    // It is called for rows that are left.
    move_back(&db);
    let run = db.start(&["resume", "fill"]);
    db.sql.wait_for(
        "the look is under way",
        "select count(*) > 0 from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()",
    );
    wait_for("others see what it does", || {
        db.status("fill")["throttle"]["reason"] == "looking for rows that the walk has left to do"
    });
    run.signal(Signal::SIGINT);
    run.wait().exits(4).says("backfill resume fill");
    db.sql.wait_for(
        "the look is over on the server too",
        "select count(*) = 0 from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()",
    );
    db.sql.run(
        "create or replace function slow() returns boolean stable language sql as 'select true'",
    );
    db.backfill(&["resume", "fill"]).exits(0);
    is_done_once(&db, 1);
}

#[test]
fn a_table_dropped_in_the_middle_is_not_a_run_that_succeeds() {
    let db = Db::found();
    scattered(&db, 20_000);
    db.spec("fill", FILL);
    let run = db.start(&["run", "fill", "--rate", "4000 rows/s"]);
    wait_for("chunks are done", || db.chunks_done() > 5);
    db.sql.run("drop table t");
    run.wait().exits(1).says("public.t is not there any more");
}

#[test]
fn what_cannot_be_gone_through_by_place_is_refused_in_words() {
    let db = Db::found();
    scattered(&db, 100);
    let refused = |spec: &str, why: &str| {
        db.spec("no", spec);
        db.backfill(&["run", "no"]).exits(3).says("the spec says `order = \"physical\"`").says(why);
    };
    let order = "order = \"physical\"\n";
    let set = format!("table = \"t\"\n{order}[[rule]]\nset = {{ n = \"n + 1\" }}\n");
    refused(
        &set,
        "a row that it has set may, for all the server can tell, be one that its `when` picks",
    );
    let both = FILL.replace("fill = {", "fill = { body = \"v\",");
    refused(&both, "it fills several columns, and one of them may depend on another");
    db.sql.run(
        "create function empty() returns trigger language plpgsql as 'begin new.v := null; return new; end';
         create trigger empty before update on t for each row execute function empty()",
    );
    refused(FILL, "a trigger may undo what is filled");
    db.sql.run("drop trigger empty on t");
    let undo = "[undo]\nmode = \"statement\"\n[[undo.rule]]\nset = { v = \"null\" }\n";
    refused(&format!("{FILL}{undo}"), "its undo rules are for ranges of the key");
    db.sql.run(
        "create table p (id int primary key, v text) partition by range (id); create table p_1 partition of p default",
    );
    refused(&FILL.replace("\"t\"", "\"p\""), "the table is partitioned");
    let old = Db::new(Which::Oldest);
    scattered(&old, 100);
    old.spec("no", FILL);
    old.backfill(&["run", "no"]).exits(3).says("servers older than 14");
}

#[test]
fn it_is_chosen_for_a_key_whose_order_is_not_that_of_the_heap() {
    let db = Db::found();
    let table = |name: &str, key: &str| {
        db.sql.run(&format!(
            "create table {name} as select {key} as id, null::text as v, repeat(md5(i::text), 8) as body from generate_series(1, 60000) i;
             alter table {name} add primary key (id)"
        ));
        db.sql.run(&format!("vacuum analyze {name}"));
    };
    table("random", "md5(i::text)::uuid");
    table("ordered", "i");
    for (name, by_place) in [("random", true), ("ordered", false)] {
        db.spec(name, &format!("table = \"{name}\"\n[[rule]]\nfill = {{ v = \"'x'\" }}\n"));
        let plan = db.backfill(&["plan", name, "--json"]).exits(0).json();
        assert_eq!(plan["order"]["by_place"], by_place, "{plan}");
        let set = "fill = { v = \"'x'\" }\n";
        db.spec(name, &format!("table = \"{name}\"\norder = \"key\"\n[[rule]]\n{set}"));
        let plan = db.backfill(&["plan", name, "--json"]).exits(0).json();
        assert_eq!(plan["order"]["by_place"], false, "{plan}");
    }
    let once = "[[rule]]\nwhen = \"v is null\"\nset = { v = \"'x'\" }\n";
    db.spec("random", &format!("table = \"random\"\n{once}"));
    db.backfill(&["plan", "random"]).exits(0).prints("by place, then what was moved");
    db.spec("random", "table = \"random\"\n[[rule]]\nset = { v = \"body\" }\n");
    let plan = db.backfill(&["plan", "random"]).exits(0);
    plan.prints("by place it cannot be gone through: a row that it has set");
    db.spec("random", "table = \"random\"\n[[rule]]\nfill = { v = \"'x'\" }\n");
    let plan = db.backfill(&["plan", "random"]).exits(0);
    plan.prints("by place, then what was moved meanwhile by key (id)").prints("\"ctid\" >");
    db.backfill(&["run", "random"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from random where v = 'x'"), 60_000);
    // It is verified as a whole, too: a page for each row is what its slices by key would read.
    let read = "select pg_stat_get_numscans('random'::regclass)";
    let verify = |exit: i32| {
        let before = db.sql.number(read);
        let ran = db.backfill(&["verify", "random", "--json"]).exits(exit);
        db.sql.wait_for("it is read as a whole", &format!("select ({read}) > {before}"));
        ran.json()
    };
    assert_eq!(verify(0)["keys_checked"], 60_000);
    db.sql
        .run("update random set v = null where id in (select id from random order by id limit 7)");
    let found = verify(6);
    assert_eq!(
        (&found["rows_remaining"], found["examples"].as_array().unwrap().len()),
        (&7.into(), 5)
    );
}
