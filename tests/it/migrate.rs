//! Schema steps: the example's whole story, interrupted everywhere, with an application on the table, and what is refused.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::{Db, Started, Which, wait_for};

/// The example's files in a test's project.
pub fn example(db: &Db) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["migrations", "backfills"] {
        std::fs::create_dir_all(db.directory.join(folder)).unwrap();
        for entry in std::fs::read_dir(root.join(folder)).unwrap().flatten() {
            std::fs::copy(entry.path(), db.directory.join(folder).join(entry.file_name())).unwrap();
        }
    }
}

/// Rows of the example, so many.
pub fn load(db: &Db, rows: u32) {
    db.sql.run(&format!(
        "insert into categories select c, 'team-' || c from unnest(array['development', 'security', 'operations', 'sales']) c;
         insert into skills (name, description, category, legacy_rank)
         select 's' || i, 'd', (array['development', 'security', 'operations', 'sales'])[1 + i % 4], i
           from generate_series(1, {rows}) i;
         analyze skills"
    ));
}

/// A revision's file.
pub fn revision(db: &Db, time: u32, id: &str, text: &str) {
    let directory = db.directory.join("migrations");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(format!("{}_{id}_step.sql", 20_260_100 + time)), text).unwrap();
}

fn schema(db: &Db) -> BTreeSet<String> {
    db.snapshot()
}

fn checksum(db: &Db) -> String {
    db.sql.text(
        "select md5(string_agg((to_jsonb(s) - 'created_at')::text, ',' order by id)) from skills s",
    )
}

fn the_story(which: Which) {
    let db = Db::new(which);
    example(&db);
    db.backfill(&["migrate", "upgrade", "a95e"]).exits(0).says("the schema is at a95e");
    load(&db, 20_000);
    let (before, rows) = (schema(&db), checksum(&db));

    // Goes on with what does not need the data, starts the backfill, and stops at the first step that needs it.
    db.backfill(&["migrate", "upgrade"])
        .exits(3)
        .says("d40f")
        .says("first: backfill resume governance_phases");
    assert_eq!(db.sql.number("select count(*) from backfill.revision"), 5);
    assert_eq!(db.sql.text("select attnotnull from pg_attribute where attrelid = 'skills'::regclass and attname = 'governance_phases'"), "f");
    db.backfill(&["resume", "governance_phases"]).exits(0);
    db.backfill(&["migrate", "upgrade", "5a2c", "--gate", "run"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from skills where governance_phases is null or tier is null or skill_category <> category"), 0);
    let evidence =
        db.sql.rows("select demand, outcome, evidence from backfill.gate order by gate_id");
    assert_eq!(
        evidence[0],
        ["governance_phases@verified", "satisfied", "no row of public.skills is left to do"]
    );

    // All of it back, with the data.
    let there = schema(&db);
    db.backfill(&["migrate", "downgrade", "a95e"]).exits(0);
    assert_eq!(schema(&db), before);
    assert_eq!(checksum(&db), rows);
    assert_eq!(db.sql.number("select count(*) from backfill.revision"), 3);

    // And there again, past the point of no return.
    db.backfill(&["migrate", "upgrade", "5a2c", "--gate", "run"]).exits(0);
    assert_eq!(schema(&db), there);
    db.backfill(&["migrate", "upgrade"]).exits(3).says("no code may use category any more");
    db.backfill(&["migrate", "upgrade", "7f58"]).exits(3).says("backfill migrate upgrade 6b13");
    db.backfill(&["migrate", "upgrade", "6b13"]).exits(0);
    db.backfill(&["migrate", "upgrade", "7f58"]).exits(0);
    let gates =
        db.sql.rows("select evidence from backfill.gate where demand = 'skill_category@proved'");
    assert_eq!(gates, [["constraints in force leave no row of public.skills to do"]]);
    db.backfill(&["migrate", "downgrade", "base"])
        .exits(3)
        .says("7f58")
        .says("nobody kept the values");
    assert_eq!(db.sql.number("select count(*) from backfill.revision"), 16);
    db.backfill(&["migrate", "check"]).exits(0);
}

#[test]
fn the_examples_story_on_the_server_that_is_found() {
    the_story(Which::Found);
}

#[test]
fn the_examples_story_on_the_oldest_server() {
    the_story(Which::Oldest);
}

#[test]
fn the_examples_story_on_the_newest_server() {
    the_story(Which::Newest);
}

#[test]
fn killed_at_every_step_and_taken_up_again() {
    killed_at_every_step(Which::Found);
}

#[test]
fn killed_at_every_step_and_taken_up_again_on_13() {
    killed_at_every_step(Which::Oldest);
}

#[test]
fn killed_at_every_step_and_taken_up_again_on_18() {
    killed_at_every_step(Which::Newest);
}

fn killed_at_every_step(which: Which) {
    let straight = Db::new(which);
    example(&straight);
    straight.backfill(&["migrate", "upgrade", "a95e"]).exits(0);
    load(&straight, 300);
    straight.backfill(&["migrate", "upgrade", "5a2c"]).exits(0);
    let (there, rows) = (schema(&straight), checksum(&straight));
    straight.backfill(&["migrate", "downgrade", "base"]).exits(0);
    let base = schema(&straight);

    let db = Db::new(which);
    example(&db);
    db.backfill(&["migrate", "upgrade", "3f1a"]).exits(0);
    load(&db, 300);
    let gate = Turnstile::new(&db);
    let up = gate.killed_everywhere(&["migrate", "upgrade", "5a2c"]);
    assert_eq!(schema(&db), there);
    assert_eq!(checksum(&db), rows);
    let down = gate.killed_everywhere(&["migrate", "downgrade", "base"]);
    assert_eq!(schema(&db), base);
    assert!(up > 30 && down > 20, "killed {up} times on the way up, {down} on the way down");

    // And up to the end, past the steps that cannot be taken back.
    straight.backfill(&["migrate", "upgrade", "3f1a"]).exits(0);
    gate.killed_everywhere(&["migrate", "upgrade", "3f1a"]);
    load(&straight, 300);
    load(&db, 300);
    gate.forget();
    let mut end = 0;
    for goal in ["6b13", "7f58"] {
        straight.backfill(&["migrate", "upgrade", goal]).exits(0);
        end += gate.killed_everywhere(&["migrate", "upgrade", goal]);
    }
    assert_eq!(schema(&db), schema(&straight));
    assert_eq!(checksum(&db), checksum(&straight));
    assert!(end > up, "killed {end} times");
}

/// Stops the runner wherever it writes something about a schema step for the first time.
struct Turnstile<'a> {
    db: &'a Db,
    keeper: crate::support::Sql,
}

/// The lock that a runner stands at.
const POST: i64 = 4711;

impl<'a> Turnstile<'a> {
    fn new(db: &'a Db) -> Turnstile<'a> {
        // In the state schema, which no snapshot shows.
        db.sql.run(&format!(
            "create table backfill.passed (mark text primary key);
             create function backfill.turnstile() returns trigger language plpgsql as $$
             declare seen jsonb := to_jsonb(coalesce(new, old));
                     here text := concat_ws(' ', tg_op, tg_table_name, coalesce(seen->>'revision', seen->>'id'),
                                            seen->>'direction', seen->>'n', seen->>'state');
             begin
                 if not exists (select from backfill.passed p where p.mark = here) then
                     perform set_config('application_name', here, false);
                     perform pg_advisory_xact_lock({POST});
                 end if;
                 return coalesce(new, old);
             end $$;
             create trigger turnstile before insert or update or delete on backfill.revision_step
                 for each row execute function backfill.turnstile();
             create trigger turnstile before insert or update or delete on backfill.revision
                 for each row execute function backfill.turnstile();"
        ));
        let keeper = db.connect();
        keeper.run(&format!("select pg_advisory_lock({POST})"));
        Turnstile { db, keeper }
    }

    /// Lets every post stop the runner again.
    fn forget(&self) {
        self.keeper.run("delete from backfill.passed");
    }

    /// Runs a command to its end, killing it at every post; how often that was.
    fn killed_everywhere(&self, command: &[&str]) -> u32 {
        // The two views are not read at one instant: a session may be seen waiting before it is seen under its post's name.
        let waiting = format!(
            "select a.pid, a.application_name from pg_locks l join pg_stat_activity a using (pid)
              where l.locktype = 'advisory' and not l.granted and l.objid = {POST} and a.datname = current_database()
                and a.application_name <> 'backfill'"
        );
        let mut kills = 0;
        loop {
            let mut run: Started = self.db.start(command);
            let mut at = None;
            wait_for("the runner stands at a post, or is done", || {
                at = self.db.sql.rows(&waiting).into_iter().next();
                at.is_some() || run.is_over()
            });
            let Some(at) = at else {
                run.wait().exits(0);
                return kills;
            };
            run.kill();
            kills += 1;
            assert!(kills < 300, "it stands at {} again and again", at[1]);
            let ended = format!("select pg_terminate_backend({}), pg_sleep(0)", at[0]);
            self.db.sql.rows(&ended);
            self.keeper.run(&format!("insert into backfill.passed values ('{}')", at[1]));
            wait_for("its session is gone", || self.db.sql.rows(&waiting).is_empty());
        }
    }
}

/// A table with two hundred rows.
pub const FIRST: &str = "-- revises: base\n-- up\ncreate table t (id int primary key, a int, b int);\ninsert into t select i, i from generate_series(1, 200) i;\n-- down\ndrop table t;\n";

#[test]
fn an_older_checkout_can_go_back() {
    let db = Db::found();
    revision(&db, 1, "aaaa", FIRST);
    revision(
        &db,
        2,
        "bbbb",
        "-- revises: aaaa\n-- up\nalter table t add column c int;\n-- down\nalter table t drop column c;\n",
    );
    let one = db.backfill(&["migrate", "upgrade", "+1", "--json"]).exits(0).json();
    assert_eq!((&one["applied"][0], &one["left"]), (&"aaaa".into(), &0.into()));
    db.backfill(&["migrate", "upgrade"]).exits(0);
    std::fs::remove_file(db.directory.join("migrations/20260102_bbbb_step.sql")).unwrap();
    revision(&db, 3, "cccc", "-- revises: aaaa\n-- up\nselect 1;\n-- down\n");
    db.backfill(&["migrate", "upgrade"]).exits(3).says("bbbb").says("not among the files");
    assert_eq!(
        db.backfill(&["migrate", "upgrade", "--json"]).exits(3).json()["error"]["exit_code"],
        3
    );
    db.backfill(&["migrate", "check"]).exits(6).prints("has no file here");
    db.backfill(&["migrate", "downgrade", "aaaa"]).exits(0).says("took back bbbb");
    assert_eq!(
        db.sql.number(
            "select count(*) from pg_attribute where attrelid = 't'::regclass and attname = 'c'"
        ),
        0
    );
    db.backfill(&["migrate", "upgrade"]).exits(0);
}

#[test]
fn forks_are_shown_and_joined() {
    let db = Db::found();
    revision(&db, 1, "aaaa", FIRST);
    revision(
        &db,
        2,
        "bbbb",
        "-- revises: aaaa\n-- up\nalter table t add column c int;\n-- down\nalter table t drop column c;\n",
    );
    revision(
        &db,
        3,
        "cccc",
        "-- revises: aaaa\n-- up\nalter table t add column d int;\n-- down\nalter table t drop column d;\n",
    );
    db.backfill(&["migrate", "upgrade"]).exits(3).says("2 heads").says("migrate merge");
    db.backfill(&["migrate", "revision", "-m", "more"]).exits(3).says("join them first");
    db.backfill(&["migrate", "upgrade", "bbbb"]).exits(0);
    db.backfill(&["migrate", "merge", "-m", "join"]).exits(0);
    db.backfill(&["migrate", "upgrade"]).exits(0);
    let order = db.sql.rows("select id from backfill.revision order by position");
    assert_eq!((order.len(), order[1][0].as_str(), order[2][0].as_str()), (4, "bbbb", "cccc"));
    // A file that turns up below what is applied.
    revision(&db, 4, "dddd", "-- revises: aaaa\n-- up\nselect 1;\n-- down\n");
    revision(
        &db,
        3,
        "cccc",
        "-- revises: dddd\n-- up\nalter table t add column d int;\n-- down\nalter table t drop column d;\n",
    );
    db.backfill(&["migrate", "upgrade"]).exits(3).says("comes before revisions that are applied");
    db.backfill(&["migrate", "upgrade", "--allow-out-of-order"]).exits(0).says("applied dddd");
}

#[test]
fn what_is_wrong_with_a_file_is_told_where_it_is() {
    let db = Db::found();
    revision(&db, 1, "aaaa", FIRST);
    db.backfill(&["migrate", "upgrade"]).exits(0);
    // Neither comments nor line ends are an edit; another column is.
    revision(
        &db,
        1,
        "aaaa",
        &FIRST.replace("-- up\n", "-- up\n-- a remark\n").replace('\n', "\r\n"),
    );
    db.backfill(&["migrate", "check"]).exits(0);
    revision(&db, 1, "aaaa", &FIRST.replace("b int", "b bigint"));
    db.backfill(&["migrate", "upgrade"])
        .exits(3)
        .says("has been edited since it was applied")
        .says("--restamp");
    db.backfill(&["migrate", "check"]).exits(6);
    db.backfill(&["migrate", "resolve", "aaaa", "--restamp", "--reason", "same thing"]).exits(0);
    db.backfill(&["migrate", "check"]).exits(0);
    db.backfill(&["migrate", "show", "aaaa"]).exits(0).prints("same thing");

    // A statement that fails in the middle: what is applied stays, the rest goes on from there.
    let middle = "-- revises: aaaa\n-- up\nalter table t add column c int;\ncreate index concurrently t_c on t (c);\nalter table t\n    add column d nosuchtype;\n-- down\nalter table t drop column c;\n";
    revision(&db, 2, "bbbb", middle);
    db.backfill(&["migrate", "upgrade"])
        .exits(1)
        .says("migrations/20260102_bbbb_step.sql:6:18")
        .says("type \"nosuchtype\" does not exist")
        .says("SQLSTATE 42704")
        .says("statements 1 to 2 of 3 of bbbb are applied and stay so");
    db.backfill(&["migrate", "current"])
        .exits(0)
        .prints("interrupted; go on with: backfill migrate upgrade");
    // Those that are done may not change under it.
    revision(&db, 2, "bbbb", &middle.replace("column c int", "column c bigint"));
    db.backfill(&["migrate", "upgrade"]).exits(3).says("applied and has been changed since");
    revision(&db, 2, "bbbb", &middle.replace("nosuchtype", "int"));
    db.backfill(&["migrate", "upgrade"]).exits(0);

    // A verify query that does not hold takes the transaction with it.
    revision(
        &db,
        3,
        "cccc",
        "-- revises: bbbb\n-- up\nalter table t add column e int;\n-- down\nalter table t drop column e;\n-- verify: select count(*) = 0 from t\n",
    );
    db.backfill(&["migrate", "upgrade"])
        .exits(1)
        .says("does not yield true")
        .says("statements 1 to 1 of 1 of cccc are applied and stay so");
    // It is looked at apart from the statements, so that none of their locks is held while it reads; the next time only it is left.
    db.backfill(&["migrate", "current"]).exits(0).prints("cccc step (interrupted");
    db.backfill(&["migrate", "downgrade"]).exits(3).says("cccc step is half applied");
    db.sql.run("create table kept as table t; delete from t");
    db.backfill(&["migrate", "upgrade"]).exits(0).says("applied cccc");
    db.backfill(&["migrate", "downgrade"]).exits(0);
    db.sql.run("insert into t (id, a, b) select id, a, b from kept; drop table kept");
    std::fs::remove_file(db.directory.join("migrations/20260103_cccc_step.sql")).unwrap();

    for (text, words) in [
        ("-- revises: bbbb\n-- up\nselect 'x;\n-- down\n", "an unterminated string"),
        ("-- revises: bbbc\n-- up\nselect 1;\n-- down\n", "did you mean `bbbb`?"),
        ("-- revises: bbbb\n-- up\ncopy t from stdin;\n-- down\n", "COPY over the connection"),
        ("-- revises: bbbb\n-- requires: x@verifed\n-- up\nselect 1;\n-- down\n", "no level"),
        ("-- revises: bbbb\n-- up\ncommit;\n-- down\n", "does not steer its transactions"),
    ] {
        revision(&db, 4, "dddd", text);
        db.backfill(&["migrate", "upgrade"]).exits(2).says(words).says("20260104_dddd_step.sql:");
    }
    revision(&db, 4, "dddd", "-- revises: bbbb\n-- up\nselect 1;\n-- down\n");
    revision(&db, 5, "dddd", "-- revises: bbbb\n-- up\nselect 1;\n-- down\n");
    db.backfill(&["migrate", "upgrade"]).exits(2).says("the id dddd is taken");
}

#[test]
fn demands_on_backfills() {
    let db = Db::found();
    revision(
        &db,
        1,
        "aaaa",
        "-- revises: base\n-- up\ncreate table t (id int primary key, a int, b int);\n-- down\ndrop table t;\n",
    );
    revision(
        &db,
        2,
        "bbbb",
        "-- revises: aaaa\n-- requires: fill@verified\n-- up\nalter table t alter b set not null;\n-- down\nalter table t alter b drop not null;\n",
    );
    db.spec("fill", "table = \"t\"\n[[rule]]\nfill = { b = \"a\" }\n");
    let call = "select backfill.require('fill', 'verified', 't')";
    db.backfill(&["migrate", "upgrade", "aaaa"]).exits(0);
    // Nothing to do in an empty table, in every form of the question.
    db.backfill(&["migrate", "upgrade"]).exits(0).says("public.t has no rows");
    assert_eq!(db.sql.text(call), "public.t has no rows");
    db.backfill(&["migrate", "downgrade"]).exits(0);

    db.sql.run("insert into t select i, i from generate_series(1, 100) i");
    db.backfill(&["migrate", "upgrade"])
        .exits(3)
        .says("rows of public.t are left to do")
        .says("backfill run fill");
    let refused = db.sql.try_run(call).unwrap_err();
    assert!(
        refused.as_db_error().unwrap().hint().unwrap().contains("backfill run fill"),
        "{refused:?}"
    );
    db.backfill(&["run", "fill"]).exits(0);
    assert_eq!(db.sql.text(call), "no row of public.t is left to do");
    // Measured now, and not when the run ended.
    db.sql.run("insert into t values (1000, 1)");
    db.backfill(&["migrate", "upgrade"]).exits(3).says("rows of public.t are left to do");
    let refused = db.sql.try_run(call).unwrap_err();
    assert!(refused.as_db_error().unwrap().message().contains("is not complete"), "{refused:?}");
    assert!(db.sql.try_run("select backfill.require('fill', 'proved')").is_err());
    db.sql.run("update t set b = 1 where id = 1000; alter table t add check (b is not null)");
    assert_eq!(
        db.sql.text("select backfill.require('fill', 'proved')"),
        "constraints of public.t leave no row to do"
    );

    // A time to wait after it, and a word that goes past it, which is shown for ever.
    revision(
        &db,
        3,
        "cccc",
        "-- revises: bbbb\n-- requires: fill@finished for 1d\n-- up\nselect 1;\n-- down\n",
    );
    db.backfill(&["migrate", "upgrade"]).exits(3).says("are to go").says("applied before: bbbb");
    db.backfill(&["migrate", "upgrade", "--override-gate", "tested on a copy"]).exits(0);
    db.backfill(&["migrate", "current"]).exits(0).prints("tested on a copy");
    db.backfill(&["migrate", "history"]).exits(0).prints("gate overridden");
    // A run that was taken back satisfies nothing.
    db.backfill(&["migrate", "downgrade", "aaaa"]).exits(0);
    db.sql.run("alter table t drop constraint t_b_check");
    db.backfill(&["reverse", "fill"]).exits(0);
    assert!(db.sql.try_run("select backfill.require('fill', 'started')").is_err());
    assert!(db.sql.try_run("select backfill.require('fill', 'done')").is_err());
}

#[test]
fn a_gate_waits_for_a_runner_elsewhere() {
    let db = Db::found();
    revision(
        &db,
        1,
        "aaaa",
        "-- revises: base\n-- up\ncreate table t (id int primary key, b int);\n-- down\ndrop table t;\n",
    );
    revision(
        &db,
        2,
        "bbbb",
        "-- revises: aaaa\n-- requires: fill\n-- up\nalter table t alter b set not null;\n-- down\nalter table t alter b drop not null;\n",
    );
    db.spec("fill", "table = \"t\"\n[[rule]]\nfill = { b = \"1\" }\n");
    db.backfill(&["migrate", "upgrade", "aaaa"]).exits(0);
    db.sql.run("insert into t select i from generate_series(1, 20000) i; analyze t");
    db.backfill(&["migrate", "upgrade", "--gate", "wait=1ms"]).exits(3);
    let run = db.start(&["run", "fill", "--rate", "10000 rows/s"]);
    db.backfill(&["migrate", "upgrade", "--gate", "wait=50s"])
        .exits(0)
        .says("bbbb waits for fill@verified");
    run.wait().exits(0);
}

#[test]
fn an_enums_new_value_and_settings_and_dollar_quotes() {
    let db = Db::found();
    revision(
        &db,
        1,
        "aaaa",
        "-- revises: base\n-- up\n
        set search_path = other, public; create schema other;
        create type mood as enum ('a');
        do $x$ begin execute 'create table ' || quote_ident('t') || ' (m mood)'; end; $x$;
        alter type mood add value 'b';
        insert into t values ('b');
        create index concurrently t_m on t (m);
        insert into t values ('a');
        -- down
        drop schema other cascade;\n",
    );
    db.backfill(&["migrate", "upgrade"]).exits(0);
    assert_eq!(db.sql.rows("select m from other.t order by m"), [["a"], ["b"]]);
    db.backfill(&["migrate", "downgrade", "base"]).exits(0);
}

/// The rules that `lint` finds in a revision, in the order of the file.

#[test]
fn histories_of_other_tools_become_a_baseline() {
    let tools: [(&str, &str, &str); 8] = [
        (
            "alembic",
            "create table alembic_version (version_num varchar(32) primary key); insert into alembic_version values ('1975ea83b712')",
            "1975ea83b712",
        ),
        (
            "sqlx",
            "create table _sqlx_migrations (version int8 primary key, description text, installed_on timestamptz, success bool, checksum bytea, execution_time int8); insert into _sqlx_migrations values (1, 'one', now(), true, '', 1)",
            "1 one",
        ),
        (
            "refinery",
            "create table refinery_schema_history (version int4 primary key, name varchar(255), applied_on varchar(255), checksum varchar(255)); insert into refinery_schema_history values (7, 'seven', '', '')",
            "7 seven",
        ),
        (
            "flyway",
            "create table flyway_schema_history (installed_rank int primary key, version varchar(50), description varchar(200), type varchar(20), script varchar(1000), checksum int, installed_by varchar(100), installed_on timestamp, execution_time int, success bool); insert into flyway_schema_history values (1, '1.1', 'first', 'SQL', 'V1_1__first.sql', 1, 'x', now(), 1, true)",
            "1.1 first",
        ),
        (
            "golang-migrate",
            "create table schema_migrations (version int8 primary key, dirty bool); insert into schema_migrations values (12, false)",
            "12",
        ),
        (
            "dbmate",
            "create table schema_migrations (version varchar primary key); insert into schema_migrations values ('20260101')",
            "20260101",
        ),
        (
            "diesel",
            "create table __diesel_schema_migrations (version varchar(50) primary key, run_on timestamp); insert into __diesel_schema_migrations values ('2026', now())",
            "2026",
        ),
        (
            "django",
            "create table django_migrations (id int primary key, app text, name text, applied timestamptz); insert into django_migrations values (1, 'shop', '0001_initial', now())",
            "shop.0001_initial",
        ),
    ];
    for (tool, history, version) in tools {
        let db = Db::found();
        db.backfill(&["migrate", "adopt", tool]).exits(3).says("has applied nothing");
        db.sql.run(history);
        db.sql.run("create table t (id int primary key, a int not null)");
        let before = db.snapshot();
        db.backfill(&["migrate", "adopt", tool]).exits(0).says("1 versions");
        assert_eq!(db.snapshot(), before, "{tool}: only the state tables came");
        db.backfill(&["migrate", "show", &db.sql.text("select id from backfill.revision")])
            .exits(0)
            .prints(&format!("{tool} {version}"));
        db.backfill(&["migrate", "check"]).exits(0);
        db.backfill(&["migrate", "adopt", tool])
            .exits(3)
            .says("a baseline comes before all others");
        // What follows builds on it, also on a scratch database.
        db.backfill(&["migrate", "revision", "--pattern", "create-index", "t", "a"]).exits(0);
        db.backfill(&["migrate", "lint", "--scratch-url", &db.url]).exits(0);
        db.backfill(&["migrate", "upgrade"]).exits(0);
        db.backfill(&["migrate", "downgrade", "base"]).exits(3).says("belongs to");
    }
    let db = Db::found();
    db.sql.run("create table schema_migrations (version int8 primary key, dirty bool); insert into schema_migrations values (12, true)");
    db.backfill(&["migrate", "adopt", "golang-migrate"]).exits(3).says("12 is half applied");
    db.backfill(&["migrate", "adopt", "alambic"]).exits(2).says("alembic, sqlx");
}

#[test]
fn the_sql_of_an_upgrade_does_what_the_upgrade_does() {
    let db = Db::found();
    example(&db);
    db.backfill(&["migrate", "upgrade", "3f1a"]).exits(0);
    let run = |script: &str| {
        // Statement by statement, as psql sends them.
        for statement in backfill::migrate::file::statements(script).unwrap() {
            db.sql.run(&statement.text);
        }
    };
    let up = db.backfill(&["migrate", "upgrade", "5a2c", "--sql"]).exits(0);
    assert!(up.stdout.contains("-- starts a backfill: backfill run governance_phases"));
    assert!(up.stdout.contains("require('governance_phases', 'verified')"));
    // No rows, so every demand holds once its backfill has been run.
    let parts: Vec<&str> = up.stdout.split("-- starts a backfill: backfill run ").collect();
    run(parts[0]);
    for part in &parts[1..] {
        let (name, rest) = part.split_once('\n').unwrap();
        db.backfill(&["run", name]).exits(0);
        run(rest);
    }
    let there = db.snapshot();
    db.backfill(&["migrate", "check"]).exits(0);
    db.backfill(&["migrate", "upgrade", "5a2c"]).exits(0).says("nothing to apply");
    let straight = Db::found();
    example(&straight);
    straight.backfill(&["migrate", "upgrade", "5a2c"]).exits(0);
    assert_eq!(straight.snapshot(), there);
    let down = db.backfill(&["migrate", "downgrade", "d40f", "--sql"]).exits(0);
    run(&down.stdout);
    db.backfill(&["migrate", "current"]).exits(0).prints("d40f");
    db.backfill(&["migrate", "upgrade", "--sql", "7f58"]).exits(0);
    straight.backfill(&["migrate", "upgrade", "6b13"]).exits(0);
    straight.backfill(&["migrate", "upgrade", "7f58"]).exits(0);
    straight
        .backfill(&["migrate", "downgrade", "base", "--sql"])
        .exits(3)
        .says("nobody kept the values");
}

#[test]
fn a_way_back_goes_through_the_data_unless_all_of_it_goes() {
    let db = Db::found();
    revision(
        &db,
        1,
        "aaaa",
        "-- revises: base\n-- up\ncreate table t (id int primary key, a int);\n-- down\ndrop table t;\n",
    );
    revision(
        &db,
        2,
        "bbbb",
        "-- revises: aaaa\n-- up\nalter table t add column b int;\n-- down\nalter table t drop column b;\n",
    );
    revision(&db, 3, "cccc", "-- revises: bbbb\n-- backfill: fill\n");
    revision(
        &db,
        4,
        "dddd",
        "-- revises: cccc\n-- requires: fill\n-- up\nalter table t alter b set not null;\n-- down\nalter table t alter b drop not null;\n",
    );
    db.spec("fill", "table = \"t\"\n[[rule]]\nfill = { b = \"a\" }\n");
    db.backfill(&["migrate", "upgrade", "bbbb"]).exits(0);
    db.sql.run("insert into t select i, i from generate_series(1, 300) i; update t set b = -1 where id <= 10");
    db.backfill(&["migrate", "upgrade"]).exits(0);
    db.backfill(&["migrate", "downgrade", "bbbb"])
        .exits(0)
        .says("fill reverse succeeded: 290 rows");
    assert_eq!(db.sql.number("select count(b) from t"), 10);
    db.backfill(&["migrate", "upgrade"]).exits(0);
    assert_eq!(db.sql.number("select count(b) from t"), 300);
    db.backfill(&["migrate", "downgrade", "aaaa"])
        .exits(0)
        .says("fill is not reversed: all that it wrote is dropped");
    db.backfill(&["migrate", "upgrade"]).exits(0).says("fill succeeded: 300 rows");
    // Nothing to take it back with: refused before anything is taken back.
    db.backfill(&["prune", "fill", "--yes"]).exits(0);
    db.backfill(&["migrate", "downgrade", "bbbb"])
        .exits(3)
        .says("before-images of run")
        .says("were dropped");
    assert_eq!(db.sql.number("select count(*) from backfill.revision"), 4);
}

#[test]
fn the_way_back_gives_back_what_all_runs_wrote() {
    let db = Db::found();
    revision(
        &db,
        1,
        "aaaa",
        "-- revises: base\n-- up\ncreate table t (id int primary key, b int);\n-- down\ndrop table t;\n",
    );
    revision(&db, 2, "bbbb", "-- revises: aaaa\n-- backfill: fill\n");
    db.spec(
        "fill",
        "table = \"t\"\n[[rule]]\nfill = { b = \"1\" }\n[limits]\nchunk_rows_max = 10\n",
    );
    db.backfill(&["migrate", "upgrade", "aaaa"]).exits(0);
    db.sql.run("insert into t select generate_series(1, 300)");
    db.backfill(&["migrate", "upgrade"]).exits(0);
    db.sql.run("insert into t select generate_series(301, 350)");
    db.backfill(&["run", "fill", "--again"]).exits(0);
    // A third one that found nothing.
    db.backfill(&["run", "fill", "--again"]).exits(0);
    db.backfill(&["migrate", "downgrade"]).exits(0);
    assert_eq!(db.sql.number("select count(b) from t"), 0);
    // `set` is not run twice because somebody says something about a revision.
    db.spec(
        "twice",
        "table = \"t\"\n[[rule]]\nset = { b = \"b * 2\" }\n[verify]\nremaining = \"b = 1\"\n",
    );
    db.sql.run("update t set b = 1");
    revision(&db, 8, "eeee", "-- revises: aaaa\n-- backfill: twice\n");
    db.backfill(&["run", "twice"]).exits(0);
    db.sql.run("update t set b = 1 where id = 1");
    db.backfill(&["migrate", "upgrade", "eeee"]).exits(3).says("--again");
    assert_eq!(db.sql.number("select max(b) from t"), 2);
    std::fs::remove_file(db.directory.join("migrations/20260108_eeee_step.sql")).unwrap();
    db.sql.run("update t set b = null");
    // A run of before is no run of now, whatever was said to have happened to the revision.
    db.backfill(&["migrate", "upgrade"]).exits(0);
    db.sql.run("update t set b = null");
    db.backfill(&["migrate", "resolve", "bbbb", "--reverted", "--reason", "restored a copy"])
        .exits(0);
    db.backfill(&["migrate", "upgrade"]).exits(0);
    assert_eq!(db.sql.number("select count(b) from t"), 350);
    // Nobody takes a backfill away from under its runner, nor the revisions behind it before that is known.
    revision(
        &db,
        3,
        "cccc",
        "-- revises: bbbb\n-- up\nalter table t add c int;\n-- down\nalter table t drop c;\n",
    );
    db.backfill(&["migrate", "upgrade"]).exits(0);
    db.sql.run("update t set b = null");
    let run = db.start(&["run", "fill", "--again", "--rate", "50 rows/s"]);
    db.sql.wait_for(
        "it is at work",
        "select exists (select from backfill.run where state = 'running')",
    );
    wait_for("it is at work", || db.chunks_done() >= 1);
    db.backfill(&["migrate", "downgrade", "base"]).exits(3).says("backfill cancel fill");
    assert_eq!(db.sql.number("select count(*) from backfill.revision"), 3);
    run.kill();
}

/// What `run` refuses, an upgrade does not do in passing: a large backfill is only written down by it.
#[test]
fn an_upgrade_does_not_start_a_backfill_over_half_a_run() {
    let db = Db::found();
    db.sql.run(
        "create table t (id bigint primary key, n int not null default 0);
         insert into t select i from generate_series(1, 20000) i; analyze t",
    );
    db.spec(
        "add",
        "table = \"t\"\n[[rule]]\nset = { n = \"n + 1\" }\n[limits]\nchunk_rows_max = 200\n",
    );
    revision(&db, 1, "aaaa", "-- revises: base\n-- backfill: add\n");
    db.stop_half_way("add", "cancel");
    db.backfill(&["migrate", "upgrade"]).exits(3).says("run 1 of add has written");
    db.backfill(&["reverse", "add"]).exits(0);
    db.backfill(&["migrate", "upgrade"]).exits(0);
    db.backfill(&["resume", "add"]).exits(0);
    assert_eq!(db.sql.rows("select n, count(*) from t group by n"), [["1", "20000"]]);
}

/// What half a run wrote went with its column: the next time begins anew.
#[test]
fn a_column_that_was_dropped_and_is_back_is_filled_anew() {
    let db = Db::found();
    db.sql.run(
        "create table t (id bigint primary key);
         insert into t select i from generate_series(1, 20000) i; analyze t",
    );
    db.spec(
        "add",
        "table = \"t\"\n[[rule]]\nset = { w = \"w + 1\" }\n[limits]\nchunk_rows_max = 200\n",
    );
    let column = "-- revises: base\n-- up\nalter table t add w int not null default 0;\n-- down\nalter table t drop w;\n";
    revision(&db, 1, "aaaa", column);
    revision(&db, 2, "bbbb", "-- revises: aaaa\n-- backfill: add\n");
    db.backfill(&["migrate", "upgrade"]).exits(0);
    let run = db.start(&["resume", "add", "--rate", "5000 rows/s"]);
    wait_for("chunks are done", || db.chunks_done() > 5);
    db.backfill(&["pause", "add"]).exits(0);
    run.wait().exits(4);
    db.backfill(&["migrate", "downgrade", "base"]).exits(0);
    db.backfill(&["migrate", "upgrade"]).exits(0);
    db.backfill(&["resume", "add"]).exits(0);
    assert_eq!(db.sql.rows("select w, count(*) from t group by w"), [["1", "20000"]]);
}

#[test]
fn a_contract_that_was_interrupted_goes_on_though_its_demand_cannot_be_asked_again() {
    let db = Db::found();
    revision(
        &db,
        1,
        "aaaa",
        "-- revises: base\n-- up\ncreate table t (id int primary key, a int, b int, u int);\n-- down\ndrop table t;\n",
    );
    let contract = "-- revises: aaaa\n-- requires: fill\n-- irreversible: a is gone\n-- up\nalter table t drop column a;\ncreate unique index concurrently t_u on t (u);\n";
    revision(&db, 2, "bbbb", contract);
    db.spec("fill", "table = \"t\"\n[[rule]]\nfill = { b = \"a\" }\n");
    db.backfill(&["migrate", "upgrade", "aaaa"]).exits(0);
    db.sql.run("insert into t values (1, 1, 1, 7), (2, 2, 2, 7)");
    db.backfill(&["migrate", "upgrade"])
        .exits(1)
        .says("statements 1 to 1 of 2 of bbbb are applied");
    db.sql.run("update t set u = id");
    db.backfill(&["migrate", "upgrade"]).exits(0);
}

#[test]
fn what_a_file_sets_for_itself_does_not_reach_the_runner() {
    let db = Db::found();
    db.sql.run(&format!(
        "create role owner_{0}; grant create on schema public to owner_{0}",
        db.name
    ));
    let role = format!("owner_{}", db.name);
    revision(
        &db,
        1,
        "aaaa",
        &format!(
            "-- revises: base\n-- up\nset role {role};\nset search_path = pg_temp;\nset lock_timeout = 0;\ncreate table public.t (id int);\n
             create index concurrently t_id on public.t (id);\ninsert into public.t values (1);\n-- down\nset role {role};\ndrop table public.t;\n"
        ),
    );
    db.backfill(&["migrate", "upgrade"]).exits(0);
    assert_eq!(db.sql.text("select tableowner from pg_tables where tablename = 't'"), role);
    // Its lock timeout of none is not taken over: a step gives up its place in the queue in time.
    revision(
        &db,
        2,
        "bbbb",
        "-- revises: aaaa\n-- up\nset lock_timeout = 0;\nset local lock_timeout = 0;\ndo $$ begin alter table public.t add a int; end $$;\n-- down\n",
    );
    let reader = db.connect();
    reader.run("set application_name = 'report'; begin; select * from t");
    db.backfill(&["migrate", "upgrade", "--lock-budget", "2s"]).exits(75).says("report");
    reader.run("commit");
    db.backfill(&["migrate", "upgrade"]).exits(0);
    db.backfill(&["migrate", "downgrade", "base"]).exits(0);
    // A procedure that commits by itself.
    let text = "-- revises: bbbb\n-- transaction: outside\n-- up\ncreate table u (id int);\ncreate procedure p() language plpgsql as $$ begin insert into u values (1); commit; insert into u values (2); end $$;\ncall p();\n-- down\ndrop procedure p;\ndrop table u;\n";
    revision(&db, 3, "cccc", text);
    db.backfill(&["migrate", "upgrade"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from u"), 2);
    // Interrupted in there, only a person can tell.
    db.sql.run("update backfill.revision set state = 'applying' where id = 'cccc'; update backfill.revision_step set state = 'running', took_ms = null where revision = 'cccc' and n = 2");
    db.backfill(&["migrate", "upgrade"])
        .exits(3)
        .says("nobody can tell")
        .says("--step 3 --done|--undone");
    db.backfill(&[
        "migrate",
        "resolve",
        "cccc",
        "--step",
        "3",
        "--done",
        "--reason",
        "two rows are there",
    ])
    .exits(0);
    db.backfill(&["migrate", "upgrade"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from u"), 2);
}

#[test]
fn an_index_on_what_is_left_helps_to_prove_that_nothing_is() {
    let db = Db::found();
    revision(
        &db,
        1,
        "aaaa",
        "-- revises: base\n-- up\ncreate table t (id int primary key, b int, filler text default repeat('x', 60));\n-- down\ndrop table t;\n",
    );
    revision(&db, 2, "bbbb", "-- revises: aaaa\n-- requires: fill\n-- up\nselect 1;\n-- down\n");
    db.spec("fill", "table = \"t\"\n[[rule]]\nfill = { b = \"1\" }\n");
    db.backfill(&["migrate", "upgrade", "aaaa"]).exits(0);
    db.sql.run("insert into t select i, 1 from generate_series(1, 50000) i; create index t_left on t (b); analyze t");
    db.backfill(&["verify", "fill"]).exits(0);
    db.backfill(&["migrate", "upgrade"]).exits(0).says("no row of public.t is left to do");
    db.sql.run("update t set b = null where id = 777");
    db.backfill(&["verify", "fill"]).exits(6).prints("777");
}
