//! What is told about schema steps before they are taken: plan, lint, test.

use crate::migrate::{FIRST, example, load, revision};
use crate::support::{Db, Which, wait_for};

fn rules(db: &Db, id: &str, text: &str) -> Vec<String> {
    revision(db, 9, id, text);
    let found = db.backfill(&["migrate", "lint", id, "--json", "--scratch-url", &db.url]);
    let json = found.json();
    let findings = json["findings"].as_array().unwrap_or_else(|| panic!("{}", found.stdout));
    let of = |weight: &str| -> Vec<String> {
        let of_it = findings.iter().filter(|finding| finding["weight"] == weight);
        of_it.map(|finding| finding["rule"].as_str().unwrap().to_owned()).collect()
    };
    let (warnings, notes) = (of("warning"), of("note"));
    assert_eq!(found.code, if warnings.is_empty() { 0 } else { 6 });
    assert_eq!(warnings.len() + notes.len(), findings.len());
    if warnings.is_empty() { notes } else { warnings }
}

#[test]
fn lint_finds_what_would_hurt() {
    let db = Db::found();
    revision(
        &db,
        1,
        "aaaa",
        "-- revises: base\n-- up\ncreate table t (id int primary key, a int, b varchar(10), c int not null default 0);
         create table u (id int primary key, t_id int); create table x (id int primary key); create type mood as enum ('a'); create domain small as int; create table w (x_id int constraint w_x references x); create index on t (a);\n-- down\ndrop table w; drop table x; drop type mood; drop domain small; drop table u; drop table t;\n",
    );
    db.spec("fill", "table = \"t\"\n[[rule]]\nfill = { a = \"1\" }\n");
    let up = |sql: &str| rules(&db, "bbbb", &format!("-- revises: aaaa\n-- up\n{sql};\n-- down\n"));
    for (sql, expected) in [
        ("alter table t alter a set not null", "set-not-null"),
        ("alter table t add check (a > 0)", "add-check"),
        (
            "create index concurrently u_t on u (t_id); alter table u add foreign key (t_id) references t",
            "add-foreign-key",
        ),
        (
            "alter table u add foreign key (t_id) references t not valid",
            "foreign-key-without-index",
        ),
        ("alter table w drop constraint w_x", "drop-foreign-key"),
        ("alter type mood rename value 'a' to 'b'", "rename-enum-value"),
        ("alter domain small add constraint s check (value < 10)", "alter-domain"),
        ("create index concurrently t_a2 on t (a)", "duplicate-index"),
        ("with n as (select 1) update t set a = 1", "dml-in-schema-step"),
        ("do $$ begin update t set a = 1; end $$", "dml-in-schema-step"),
        (
            "create index concurrently u_t on u (t_id); alter table u add foreign key (t_id) references t not valid; alter table u add foreign key (t_id) references x not valid",
            "several-foreign-keys",
        ),
        ("reindex table t", "reindex"),
        ("alter table t alter a type bigint", "change-type"),
        ("alter table t add d uuid default gen_random_uuid()", "rewrite"),
        (
            "do $$ begin execute 'alter table t add d int generated always as (a + 1) stored'; end $$",
            "rewrite",
        ),
        ("alter table t add d int not null", "add-required-column"),
        ("create index on t (b)", "create-index"),
        ("alter table t add unique (b)", "add-unique"),
        ("alter table t drop column c", "drop-column"),
        ("alter table t rename column c to cc", "rename-column"),
        ("alter table t rename to tt", "rename-table"),
        ("drop table u", "drop-table"),
        ("update t set a = 1", "dml-in-schema-step"),
        ("truncate t", "truncate"),
        ("create index concurrently if not exists t_b on t (b)", "concurrently-if-not-exists"),
        ("alter table t add d int; alter table u add d int", "wide-lock-window"),
        ("alter table t alter c drop not null", "drop-not-null"),
        ("alter table t alter c drop default", "drop-default"),
        (
            "drop index concurrently t_a_idx; create index concurrently t_a2 on t (a, b)",
            "replace-index",
        ),
        ("create domain large as int check (value > 9)", "domain-with-constraint"),
        ("grant select on t to public", "authorisation"),
        ("create policy p on t using (true)", "authorisation"),
        ("alter table t enable row level security", "authorisation"),
        ("alter table t disable trigger user", "disable-trigger"),
        (
            "create function f() returns trigger language plpgsql as 'begin return null; end'; create trigger f after update on t for each row execute function f()",
            "create-trigger",
        ),
        // What is only noted.
        ("create unique index concurrently t_b on t (b)", "unique-on-unchecked-data"),
        ("create index concurrently t_wide on t (b, a, c, id)", "wide-index"),
        ("create index concurrently t_hash on t using hash (b)", "hash-index"),
        ("create table n (a int)", "no-primary-key"),
        ("create table n (id int primary key)", "small-key"),
        ("create table n (id bigserial primary key)", "serial-type"),
        ("alter table t add j json", "json-type"),
        ("alter table t add j char(7)", "char-type"),
        ("alter table t add j timestamp", "timestamp-type"),
        ("create type colour as enum ('red')", "enum-type"),
        (
            "create index concurrently u_t on u (t_id); alter table u alter t_id set default 1; alter table u add w_id bigint; create index concurrently u_w on u (w_id); alter table u add foreign key (w_id) references t not valid",
            "foreign-key-type",
        ),
        (
            "create view seventy_bytes_of_a_name_that_nobody_wants_to_read_to_its_very_end_at_all as select 1",
            "long-name",
        ),
    ] {
        assert_eq!(up(sql), [expected], "{sql}");
    }
    for fine in [
        "alter table t add d int",
        "alter table t add d int not null default 7",
        "alter table t alter b type varchar(20)",
        "create table v (id bigint primary key); create index on v (id); alter table v add check (id > 0); drop table v",
        "alter table t add constraint a_nn check (a is not null) not valid; alter table t validate constraint a_nn; alter table t alter a set not null; alter table t drop constraint a_nn",
        "create index concurrently t_b on t (b)",
        "create index concurrently u_t on u (t_id, id); alter table u add constraint f foreign key (t_id) references t not valid; alter table u validate constraint f",
    ] {
        assert_eq!(up(fine), [] as [&str; 0], "{fine}");
    }
    assert_eq!(
        rules(&db, "bbbb", "-- revises: aaaa\n-- up\nalter table t add d int;\n"),
        ["no-way-back"]
    );
    let taken = "create unique index concurrently t_b on t (b); alter table t add constraint t_b unique using index t_b";
    assert_eq!(up(taken), ["unique-on-unchecked-data"], "nothing about the constraint");
    let twice = "alter table t alter a set not null; alter table t alter b set not null";
    assert_eq!(up(twice), ["set-not-null", "set-not-null", "several-alters"]);
    let ignored = "-- revises: aaaa\n-- ignore drop-table: empty\n-- ignore truncate: x\n-- up\ndrop table u;\n-- down\n";
    assert_eq!(rules(&db, "bbbb", ignored), ["unused-ignore"]);

    let file = "-- revises: aaaa\n-- transaction: file\n-- up\nalter table t add constraint k check (a > 0) not valid; alter table t validate constraint k;\n-- down\n";
    assert_eq!(rules(&db, "bbbb", file), ["validate-in-same-transaction"]);

    // What fills or forbids another column is no guard of this one; roles that are not there are made.
    let roles = "-- revises: aaaa\n-- ignore authorisation: agreed\n-- up\nset local search_path = public;\ngrant select on t to nobody_in_particular;\nset role nobody_in_particular;\n-- down\n";
    revision(&db, 9, "bbbb", roles);
    db.backfill(&["migrate", "lint", "bbbb"]).exits(0);

    // What belongs to backfills: a guard before, a demand behind, and what takes the way back away.
    assert_eq!(
        rules(&db, "bbbb", "-- revises: aaaa\n-- backfill: fill\n"),
        ["backfill-without-guard"]
    );
    revision(
        &db,
        2,
        "cccc",
        "-- revises: aaaa\n-- up\nalter table t alter a set default 1;\n-- down\nalter table t alter a drop default;\n",
    );
    assert_eq!(rules(&db, "bbbb", "-- revises: cccc\n-- backfill: fill\n"), [] as [&str; 0]);
    revision(&db, 3, "dddd", "-- revises: cccc\n-- backfill: fill\n");
    let check = "alter table t add constraint a_nn check (a is not null) not valid; alter table t validate constraint a_nn";
    let contract = |header: &str| {
        rules(&db, "bbbb", &format!("-- revises: dddd\n{header}-- up\n{check};\n-- down\n"))
    };
    assert_eq!(contract(""), ["contract-without-gate"]);
    assert_eq!(contract("-- requires: fill@finished\n"), ["contract-without-gate"]);
    assert_eq!(contract("-- requires: fill\n"), [] as [&str; 0]);
    let drop = "-- revises: dddd\n-- requires: fill\n-- ignore drop-column: known\n-- up\nalter table t drop column a;\n-- down\nalter table t add a int;\n";
    assert_eq!(rules(&db, "bbbb", drop), ["breaks-reversal"]);
    let databases = "select count(*) from pg_database where datname like 'backfill_scratch%'";
    // Those of other tests come and go.
    wait_for("nothing is left behind", || db.sql.number(databases) == 0);
}

#[test]
fn the_example_is_clean_and_goes_up_and_down() {
    let db = Db::found();
    example(&db);
    db.backfill(&["migrate", "lint"]).exits(0).prints("nothing found");
    let seed = db.directory.join("seed");
    std::fs::write(&seed, "insert into skills (id, name, description, category) select i, 'n', 'd', 'development' from generate_series(1, 50) i").unwrap();
    db.backfill(&["migrate", "test", "--seed", seed.to_str().unwrap(), "--scratch-url", &db.url])
        .exits(0)
        .prints("16 revisions went up, down and up again")
        .says("governance_phases succeeded: 50 rows");
    // A way back that is none.
    let file = db.directory.join("migrations/20260112100000_a95e_add_governance.sql");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        text.replace("    DROP COLUMN owner,\n", "")
            .replace("ADD COLUMN owner text", "ADD COLUMN IF NOT EXISTS owner text"),
    )
    .unwrap();
    db.backfill(&["migrate", "test"])
        .exits(6)
        .prints("a95e does not come back down: + column public.skills.owner text");
}

#[test]
fn a_plan_shows_locks_sizes_demands_and_what_is_in_the_way() {
    let db = Db::found();
    example(&db);
    db.backfill(&["migrate", "upgrade", "c2e9"]).exits(0);
    load(&db, 20_000);
    let dump = db.connect();
    dump.run("set application_name = 'nightly dump'; begin; select count(*) from skills");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let plan = db.backfill(&["migrate", "plan"]).exits(0);
    for words in [
        "requires governance_phases@verified: holds",
        "AccessExclusiveLock on public.skills",
        "20,000 rows",
        "in the way now: process",
        "(nightly dump)",
        "starts the backfill tier; see: backfill plan tier",
        "point of no return: nobody kept the values",
        "beside the application",
    ] {
        assert!(plan.stdout.contains(words), "`{words}` is not in:\n{}", plan.stdout);
    }
    let json = db.backfill(&["migrate", "plan", "+1", "--json"]).exits(0).json();
    let steps = json["revisions"][0]["steps"].as_array().unwrap();
    let classes: Vec<&str> = steps.iter().map(|step| step["class"].as_str().unwrap()).collect();
    assert_eq!(classes, ["instant", "beside the application", "instant", "instant"]);
    // Rows that a unique index would fail on, as far as five seconds can tell.
    let twins = "-- revises: 7f58\n-- up\ncreate unique index concurrently u on skills (description);\n-- down\ndrop index concurrently u;\n";
    revision(&db, 9, "eeee", twins);
    db.backfill(&["migrate", "plan"])
        .exits(0)
        .prints("it will fail: several rows have (description) = (");
    db.sql.run("update skills set description = id::text where id <= 20000; delete from skills where id > 20000");
    db.backfill(&["migrate", "plan"]).exits(0).prints("no two rows are alike as of now");
    assert_eq!(db.sql.number("select count(*) from backfill.revision"), 5, "nothing was changed");
}

#[test]
fn a_constraint_that_is_not_valid_yet_is_no_promise() {
    // On 18 a column is marked NOT NULL as soon as such a constraint is there, valid or not.
    let db = Db::new(Which::Newest);
    revision(&db, 1, "aaaa", FIRST);
    let steps = "alter table t add constraint t_a_nn not null a not valid; alter table t validate constraint t_a_nn";
    assert_eq!(
        rules(
            &db,
            "bbbb",
            &format!(
                "-- revises: aaaa\n-- up\n{steps};\n-- down\nalter table t drop constraint t_a_nn;\n"
            )
        ),
        [] as [&str; 0]
    );
    db.backfill(&["migrate", "upgrade", "aaaa"]).exits(0);
    let before = db.snapshot();
    db.sql.run("alter table t add constraint t_a_nn not null a not valid");
    let half = db.snapshot();
    db.sql.run("alter table t validate constraint t_a_nn");
    assert!(before != half && half != db.snapshot(), "a snapshot tells all three apart");
    db.spec("fill", "table = \"t\"\n[[rule]]\nfill = { a = \"1\" }\n");
    db.sql.run("alter table t drop constraint t_a_nn; alter table t add constraint t_a_nn not null a not valid");
    revision(
        &db,
        3,
        "cccc",
        "-- revises: aaaa\n-- requires: fill@proved\n-- up\nselect 1;\n-- down\n",
    );
    std::fs::remove_file(db.directory.join("migrations/20260109_bbbb_step.sql")).unwrap();
    db.backfill(&["migrate", "upgrade"]).exits(3).says("no constraint in force proves");
    db.sql.run("alter table t validate constraint t_a_nn");
    db.backfill(&["migrate", "upgrade"]).exits(0).says("constraints in force leave no row");
}

#[test]
fn a_schema_reads_the_same_whatever_the_session() {
    let db = Db::found();
    // The server prints such a check and such a view otherwise than they were written.
    let text = "-- revises: base\n-- up\ncreate schema other; create table other.t (id int primary key, x varchar(5) check (x in ('a', 'b')));
        create table public.u (t int references other.t);\ncreate view v as select * from u where t in (1, 2);\n-- down\ndrop view v; drop table u; drop schema other cascade;\n";
    revision(&db, 1, "aaaa", text);
    db.backfill(&["migrate", "test", "--scratch-url", &db.url]).exits(0);
    db.backfill(&["migrate", "upgrade"]).exits(0);
    let before = db.snapshot();
    assert!(before.iter().any(|line| line.contains("REFERENCES other.t(id)")), "{before:?}");
    db.sql.run("set search_path = other, public; set datestyle = 'SQL, DMY'; set timezone = 'Asia/Tokyo'; set quote_all_identifiers = on");
    assert_eq!(db.snapshot(), before);
}
