//! Bad input and unsafe plans: the message, the place, the next step, the exit code; and nothing is changed.

use backfill::server::{Options, Server};

use crate::support::{Db, Ran, Which, program, wait_for};

const GOOD: &str = "table = \"t\"\n[[rule]]\nwhen = \"c = 'a'\"\nfill = { v = \"1\" }\n";

fn table(db: &Db) {
    db.sql.run(
        "create table t (id bigint primary key, c text, v int, n int not null default 0);
         insert into t select i, 'a' from generate_series(1, 100) i; analyze t",
    );
}

/// Plans and runs a spec that must be turned down, and checks that nothing was touched.
#[track_caller]
fn turned_down(db: &Db, spec: &str, code: i32) -> Ran {
    db.spec("bad", spec);
    let planned = db.backfill(&["plan", "bad"]).exits(code);
    db.backfill(&["run", "bad"]).exits(code);
    assert_eq!(
        db.sql.text("select to_regnamespace('backfill') is null"),
        "t",
        "state tables were created"
    );
    planned
}

#[test]
fn the_file() {
    let db = Db::found();
    table(&db);
    db.spec("phases", GOOD);
    db.backfill(&["plan", "phasse"])
        .exits(2)
        .says("there is no spec backfills/phasse.toml")
        .says("did you mean `phases`?");
    db.backfill(&["plan", "../t"]).exits(2).says("not a backfill's name");
    turned_down(&db, "table = \"t\n", 2).says("not valid TOML").says("backfills/bad.toml:1:");
    turned_down(&db, &format!("tabel = 1\n{GOOD}"), 2)
        .says("unknown key `tabel`")
        .says("did you mean `table`?")
        .says("backfills/bad.toml:1:1");
    let several = "table = \"t\"\n[[rule]]\nwhen = \"c = (1\"\nfil = { v = \"1\" }\n[limits]\nworkers = 0\nrate = \"5\"\n";
    let ran = turned_down(&db, several, 2);
    for words in [
        "never closed",
        "unknown key `fil`",
        "the rule writes nothing",
        "from 1 to 64",
        "`2000 rows/s`",
        "bad.toml:7:8",
    ] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    let json = db.backfill(&["plan", "bad", "--json"]).exits(2).json();
    assert_eq!(json["error"]["problems"][0]["line"], 2);
    assert_eq!(json["error"]["problems"].as_array().unwrap().len(), 5);
}

#[test]
fn the_sql() {
    let db = Db::found();
    table(&db);
    let with = |when: &str, value: &str| {
        format!("table = \"t\"\n[[rule]]\nwhen = \"{when}\"\nfill = {{ v = \"{value}\" }}\n")
    };
    turned_down(&db, &GOOD.replace("\"t\"", "\"nowhere\""), 2)
        .says("does not exist")
        .says("bad.toml:1:9");
    turned_down(&db, &GOOD.replace("v =", "vv ="), 2)
        .says("has no column `vv`")
        .says("did you mean `v`?")
        .says("bad.toml:4:10");
    turned_down(&db, &with("c = = 'a'", "1"), 2).says("syntax error").says("bad.toml:3:13");
    let both = turned_down(&db, &with("nope = 1", "neither"), 2);
    both.says("column \"nope\" does not exist")
        .says("column \"neither\" does not exist")
        .says("bad.toml:4:15");
    turned_down(&db, &with("c = 'a'", "count(*)"), 2).says("aggregate functions are not allowed");
    turned_down(&db, &with("c = 'a'", "row_number() over ()"), 2)
        .says("window functions are not allowed");
    turned_down(&db, &with("c", "1"), 2).says("must be type boolean");
    turned_down(&db, &with("c = 'a'", "random()::int"), 2)
        .says("random() is volatile")
        .says("allow_volatile")
        .says("bad.toml:4:14");
    turned_down(&db, &with("true", "'x'::text"), 2)
        .says("is of type integer but expression is of type text");
    turned_down(&db, "table = \"t\"\n[[rule]]\nset = { id = \"id + 1\" }\n", 2)
        .says("part of the key");
    // Accepted in words, it runs.
    db.spec("bad", &format!("allow_volatile = true\n{}", with("c = 'a'", "random()::int + 1")));
    db.backfill(&["run", "bad"]).exits(0);
    assert_eq!(db.sql.number("select count(v) from t"), 100);
}

#[test]
fn the_key() {
    let db = Db::found();
    let refusals = [
        ("create table t (id bigint, c text, v int)", "has no such index"),
        ("create table t (id bigint unique, c text, v int)", "may be NULL"),
        ("create table t (id bigint primary key deferrable, c text, v int)", "deferrable"),
        (
            "create table t (id bigint not null, c text, v int); create unique index on t (id) where v > 0",
            "partial",
        ),
        (
            "create table t (id bigint not null, c text, v int); create unique index on t ((id + 1))",
            "expression",
        ),
        (
            "create table t (id bigint not null, c text not null, v int); create unique index on t (id, c desc)",
            "different directions",
        ),
        (
            "create table t (id text primary key, c text, v int); alter table t drop constraint t_pkey; create unique index on t (id text_pattern_ops)",
            "sorts differently",
        ),
    ];
    for (ddl, why) in refusals {
        db.sql.run("drop table if exists t");
        db.sql.run(ddl);
        let ran = turned_down(&db, GOOD, 3);
        ran.says("no usable primary key").says(why).says("mend:");
        let key = if why.contains("directions") { "\"id\", \"c\"" } else { "\"id\"" };
        let named = format!("key = [{key}]\n{GOOD}");
        turned_down(&db, &named, 3).says("no usable key");
    }
    db.sql.run("drop table t; create table t (id bigint not null unique, c text, v int); insert into t values (1, 'a')");
    turned_down(&db, GOOD, 3).says("key = [\"id\"]");
    db.spec("bad", &format!("key = [\"id\"]\n{GOOD}"));
    db.backfill(&["run", "bad"]).exits(0);
}

#[test]
fn the_table() {
    let db = Db::found();
    table(&db);
    db.sql.run(
        "create view a_view as select * from t; create materialized view a_copy as select * from t;
         create foreign data wrapper nothing; create server far foreign data wrapper nothing;
         create foreign table abroad (id bigint, c text, v int) server far;
         create table parent (id bigint primary key, c text, v int); create table child () inherits (parent);
         create table generated (id bigint primary key, c text, v int generated always as (1) stored)",
    );
    let on = |table: &str| GOOD.replace("\"t\"", &format!("\"{table}\""));
    turned_down(&db, &on("a_view"), 3).says("is a view");
    turned_down(&db, &on("a_copy"), 3).says("is a materialized view");
    turned_down(&db, &on("abroad"), 3).says("is a foreign table");
    turned_down(&db, &on("parent"), 3).says("inherited");
    turned_down(&db, &on("generated"), 3).says("is generated");
    turned_down(&db, &on("pg_catalog.pg_class"), 3);
}

#[test]
fn the_role() {
    let db = Db::found();
    table(&db);
    let role = format!("role_{}", db.name);
    db.sql.run(&format!("create role {role} login; alter table t enable row level security"));
    db.spec("bad", GOOD);
    let url = db.url.replace("postgres@", &format!("{role}@"));
    let as_role = |arguments: &[&str]| {
        let mut command = db.command(arguments);
        command.env("DATABASE_URL", &url);
        let output = command.output().unwrap();
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    };
    let ran = as_role(&["run", "bad"]).exits(3);
    ran.says("GRANT SELECT ON \"public\".\"t\"")
        .says("GRANT UPDATE (\"v\")")
        .says("row-level security hides rows");
    db.sql.run(&format!(
        "alter table t disable row level security; grant select, update (v) on t to {role}"
    ));
    as_role(&["doctor"]).exits(6).prints("may not create the state tables").prints("CREATE SCHEMA");
    as_role(&["run", "bad", "--accept-blind"])
        .exits(1)
        .says("create the state schema")
        .says(&format!("CREATE SCHEMA \"backfill\" AUTHORIZATION {role};"));
    db.sql.run(&format!("create schema backfill authorization {role}"));
    let doctor = as_role(&["doctor"]).exits(0);
    doctor.prints("blind: role").prints("GRANT pg_monitor TO").prints("connections are free");
    db.sql.run(&format!("alter role {role} connection limit 8"));
    as_role(&["doctor"]).exits(0).prints("takes up to 10").prints("--workers 1");
    db.sql.run(&format!("alter role {role} connection limit -1"));
    as_role(&["plan", "bad"]).exits(0).prints("this role cannot see replica_lag");
    let blind = as_role(&["run", "bad"]).exits(3);
    blind
        .says("cannot see the health signals replica_lag, replica_delay, sessions, horizon")
        .says("GRANT pg_monitor TO");
    assert_eq!(db.sql.number("select count(v) from t"), 0);
    // Signals that are turned off need not be seen.
    let off = "[health]\nreplica_lag = \"off\"\nreplica_delay = \"off\"\nsessions = \"off\"\nhorizon = \"off\"\n";
    std::fs::write(db.directory.join("backfill.toml"), off).unwrap();
    as_role(&["doctor"]).exits(0).prints("every health signal can be seen");
    std::fs::write(db.directory.join("backfill.toml"), "").unwrap();
    // These are all the privileges that a run needs; with pg_monitor it can also see what it does to others.
    as_role(&["run", "bad", "--accept-blind"]).exits(0);
    as_role(&["verify", "bad"]).exits(0);
    assert_eq!(db.sql.number("select count(v) from t"), 100);
}

#[test]
fn the_server() {
    let db = Db::found();
    table(&db);
    db.spec("bad", GOOD);
    let role = format!("pw_{}", db.name);
    db.sql.run(&format!("create role {role} login password 'right'"));
    let hba = db.socket_dir().join("data/pg_hba.conf");
    let old = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("local all {role} scram-sha-256\n{old}")).unwrap();
    db.sql.run("select pg_reload_conf()");
    let url = |password: &str| db.url.replace("postgres@", &format!("{role}:{password}@"));
    wait_for("the new rule is in force", || {
        db.backfill(&["doctor", "--url", &url("wrong")]).code == 1
    });
    let ran = db.backfill(&["plan", "bad", "--url", &url("wrong")]).exits(1);
    ran.says("password authentication failed").says("28P01").says("backfill doctor");
    let ran = db.backfill(&["plan", "bad", "--url", &url("wrong"), "-v"]);
    assert!(!ran.stderr.contains("wrong"), "the password was shown: {}", ran.stderr);
    db.backfill(&["doctor", "--url", &url("right")]).exits(6);
    // A password file serves too, unless others can read it.
    let passfile = db.directory.join("pgpass");
    std::fs::write(&passfile, format!("localhost:*:*:{role}:right\n")).unwrap();
    let bare = db.url.replace("postgres@", &format!("{role}@"));
    let with_file = |mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(mode)).unwrap();
        db.command(&["doctor", "--url", &bare])
            .env("PGPASSFILE", &passfile)
            .output()
            .unwrap()
            .status
            .code()
    };
    assert_eq!((with_file(0o600), with_file(0o644)), (Some(6), Some(2)));
    db.backfill(&["plan", "bad", "--url", "postgresql://me@127.0.0.1:1/x"])
        .exits(1)
        .says("connect to me@127.0.0.1:1/x");
    db.backfill(&["plan", "bad", "--url", "postgresql://h/x?sslmode=sometimes"])
        .exits(2)
        .says("sslmode");
    db.backfill(&["plan", "bad", "--url", "nonsense"]).exits(2);
    // A variable that is empty is none.
    let mut command = db.command(&["doctor"]);
    command.env("BACKFILL_URL", "").env("PGDATABASE", "postgres").env("PGHOST", db.socket_dir());
    let connected = format!("/{} as role", db.name);
    Ran::from(&command.output().unwrap()).prints(&connected);
}

#[test]
fn a_standby() {
    let mut server = Server::start(&Options { no_fsync: false, ..Options::default() }).unwrap();
    let directory =
        std::env::temp_dir().join(format!("backfill-test-standby-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("backfills")).unwrap();
    std::fs::write(directory.join("backfills/bad.toml"), GOOD).unwrap();
    server.crash().unwrap();
    std::fs::write(server.socket_dir().join("data/standby.signal"), "").unwrap();
    server.restart().unwrap();
    let url = server.url("postgres");
    for verb in ["plan", "run"] {
        let output =
            program().args([verb, "bad", "--url", &url]).current_dir(&directory).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("read-only standby"), "{said}");
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_publication_that_would_carry_the_state_tables() {
    let db = Db::found();
    table(&db);
    db.sql.run("create publication everything for all tables");
    let ran = turned_down(&db, GOOD, 3);
    ran.says("publication everything").says("backfill doctor --ddl").says("--subscribers-prepared");
    // The table of before-images is made anew for each run, so nobody can have prepared it.
    db.backfill(&["run", "bad", "--subscribers-prepared"]).exits(3).says("mode = \"none\"");
    db.spec("bad", &format!("{GOOD}[undo]\nmode = \"none\"\n"));
    db.backfill(&["run", "bad", "--subscribers-prepared"]).exits(0);
    // The statements for the subscribers make the same tables.
    let ddl = db.backfill(&["doctor", "--ddl"]).exits(0).stdout;
    let subscriber = Db::found();
    subscriber.sql.run(&ddl);
    let shape = "select string_agg(table_name || '.' || column_name || ' ' || data_type, ', ' order by table_name, ordinal_position)
                   from information_schema.columns where table_schema = 'backfill'";
    assert_eq!(subscriber.sql.text(shape), db.sql.text(shape));
}

#[test]
fn a_published_table_without_identity() {
    let db = Db::found();
    db.sql.run("create table t (id bigint not null unique, c text, v int); create publication p for table t");
    turned_down(&db, &format!("key = [\"id\"]\n{GOOD}"), 3).says("no replica identity");
}

#[test]
fn a_spec_that_changed_since_the_run_began() {
    let db = Db::found();
    table(&db);
    db.spec("bad", &format!("{GOOD}[limits]\nchunk_rows_max = 10\n"));
    let run = db.start(&["run", "bad", "--rate", "20 rows/s"]);
    wait_for("rows are written", || db.sql.number("select count(*) from t where v = 1") >= 10);
    run.kill();
    db.spec("bad", &GOOD.replace("\"1\"", "\"2\""));
    db.backfill(&["resume", "bad"])
        .exits(3)
        .says("has changed since run 1 began")
        .says("--accept-change");
    assert_eq!(db.sql.number("select count(*) from t where v = 2"), 0);
    db.backfill(&["resume", "bad", "--accept-change"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where v is null"), 0);
    assert!(db.sql.number("select count(*) from t where v = 1") >= 10);
    db.backfill(&["log", "bad"]).exits(0).prints("spec changed");
}

#[test]
fn a_newer_version_of_the_state_tables() {
    let db = Db::found();
    table(&db);
    db.spec("bad", GOOD);
    db.backfill(&["run", "bad"]).exits(0);
    db.sql.run("update backfill.meta set version = 99");
    db.backfill(&["status"]).exits(3).says("of version 99");
    db.backfill(&["run", "bad", "--again"]).exits(3);
}

/// A trigger that raises what a full disk raises, until a flag is lifted.
const FULL: &str = "create table flag (is_full boolean); insert into flag values (true);
    create function disk() returns trigger language plpgsql as $$
    begin if (select is_full from flag) and new.id > 50 then
        raise exception 'could not extend file: No space left on device' using errcode = '53100'; end if; return new; end $$;
    create trigger disk before update on t for each row execute function disk()";

#[test]
fn a_full_disk_and_too_many_connections_are_held_out() {
    let db = Db::found();
    table(&db);
    db.sql.run(FULL);
    db.spec("bad", &format!("{GOOD}[limits]\nchunk_rows_max = 10\n"));
    let run = db.start(&["run", "bad"]);
    wait_for("the run holds", || {
        db.runs() > 0 && db.status("bad")["throttle"]["verdict"] == "hold"
    });
    assert!(db.status("bad")["throttle"]["reason"].as_str().unwrap().contains("No space left"));
    db.sql.run("update flag set is_full = false");
    run.wait().exits(0);
    assert_eq!(db.sql.number("select count(v) from t"), 100);

    let role = format!("few_{}", db.name);
    db.sql.run(&format!(
        "update t set v = null; drop trigger disk on t; create role {role} login;
         grant all on all tables in schema public to {role}; grant all on schema backfill to {role};
         grant all on all tables in schema backfill to {role}"
    ));
    let url = db.url.replace("postgres@", &format!("{role}@"));
    let run = db.start(&[
        "run",
        "bad",
        "--again",
        "--accept-blind",
        "--rate",
        "20 rows/s",
        "--json",
        "--url",
        &url,
    ]);
    wait_for("chunks settle", || db.status("bad")["run_id"] == 2 && db.chunks_done() >= 2);
    db.sql.run(&format!(
        "alter role {role} connection limit 0;
         select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'"
    ));
    let refusal = format!("too many connections for role \"{role}\"");
    wait_for("the runner is refused", || {
        std::fs::read_to_string(db.server_log()).unwrap().contains(&refusal)
    });
    db.sql.run(&format!("alter role {role} connection limit -1"));
    let ran = run.wait().exits(0);
    assert!(
        ran.stdout.contains("\"verdict\":\"hold\"") && ran.stdout.contains("53300"),
        "{}",
        ran.stdout
    );
    assert_eq!(db.sql.number("select count(v) from t"), 100);
}

/// Does what a command says about privileges until there is nothing more to say: how often it had to.
fn as_told(db: &Db, role: &str, arguments: &[&str]) -> usize {
    let url = db.url.replace("postgres@", &format!("{role}@"));
    for round in 0..12 {
        let mut command = db.command(arguments);
        let ran = Ran::from(&command.env("DATABASE_URL", &url).output().unwrap());
        if ran.code == 0 {
            return round;
        }
        let text = format!("{}{}", ran.stdout, ran.stderr);
        let is_grant =
            |word: &str| word.starts_with("GRANT ") || word.starts_with("CREATE SCHEMA ");
        let mut told = 0;
        for line in text.lines().filter(|line| !line.starts_with("ok ")) {
            let line = line.split("   -- or").next().unwrap();
            let begin =
                ["GRANT ", "CREATE SCHEMA "].iter().filter_map(|word| line.find(word)).min();
            let Some(begin) = begin else { continue };
            for statement in line[begin..].split_inclusive(';') {
                let statement = statement.trim().trim_start_matches("or: ");
                if is_grant(statement) {
                    assert!(statement.ends_with(';'), "{statement}");
                    db.sql.run(statement);
                    told += 1;
                }
            }
        }
        assert!(told > 0, "no statement is named:\n{text}");
    }
    panic!("`backfill {}` asks for more and more", arguments.join(" "));
}

#[test]
fn one_privilege_after_the_other_is_asked_for_by_its_grant() {
    for which in [Which::Found, Which::Newest] {
        let db = Db::new(which);
        let (first, second) = (format!("first_{}", db.name), format!("second_{}", db.name));
        let name = &db.name;
        db.sql.run(&format!(
            "create role {first} login; create role {second} login; revoke all on database {name} from public;
             create schema \"App\"; create table \"App\".\"T\" (id bigint primary key, c text, v text);
             insert into \"App\".\"T\" select i, 'a' from generate_series(1, 300) i;
             create table \"App\".src (c text primary key, name text); insert into \"App\".src values ('a', 'n');
             create function \"App\".f(text) returns text language sql immutable as 'select $1';
             revoke execute on function \"App\".f(text) from public;
             create schema other; create table other.src (c text); create function other.f(text) returns text language sql as 'select $1';
             revoke execute on function other.f(text) from public;
             create table \"App\".hidden (c text); create view \"App\".shown as select * from \"App\".hidden;
             create role owner_{name}; grant usage on schema \"App\" to owner_{name}; alter view \"App\".shown owner to owner_{name};
             create schema \"s 1\"; create type \"s 1\".\"a kind\" as enum ('a', 'b'); revoke usage on type \"s 1\".\"a kind\" from public;
             create table \"s 1\".\"a table\" (id bigint primary key, k \"s 1\".\"a kind\"); insert into \"s 1\".\"a table\" values (1); analyze"
        ));
        let spec = "table = '\"App\".\"T\"'\nfrom = '\"App\".src AS s'\n[[rule]]\nwhen = 's.c = \"T\".c'\nfill = { v = '\"App\".f(s.name)' }\n";
        db.spec("job", spec);
        // To connect; the schema, the table and its column, the source, the function; the state's schema.
        assert_eq!(as_told(&db, &first, &["run", "job", "--accept-blind"]), 6);
        assert_eq!(db.sql.number("select count(v) from \"App\".\"T\""), 300);
        assert_eq!(as_told(&db, &first, &["doctor"]), 0);
        assert_eq!(as_told(&db, &first, &["verify", "job"]), 0);

        // Names with blanks, and a type that before-images cannot be kept of.
        db.spec("odd", "table = '\"s 1\".\"a table\"'\n[[rule]]\nfill = { k = \"'a'\" }\n");
        assert_eq!(as_told(&db, &first, &["run", "odd", "--accept-blind"]), 3);

        // What only a row asks for, which no look beforehand has seen.
        db.sql.run("create sequence \"App\".sq; create table \"App\".counted (id bigint primary key, n bigint); insert into \"App\".counted values (1)");
        db.sql.run(&format!("grant select, update (n) on \"App\".counted to {first}"));
        db.spec("count", "table = '\"App\".counted'\nallow_volatile = true\n[[rule]]\nfill = { n = \"nextval('\\\"App\\\".sq')\" }\n");
        assert_eq!(as_told(&db, &first, &["run", "count", "--resume", "--accept-blind"]), 1);

        // Whoever looks whether it is done need not be able to write.
        db.sql.run(&format!("revoke update on \"App\".counted from {first}; revoke update (n) on \"App\".counted from {first}"));
        assert_eq!(as_told(&db, &first, &["verify", "count"]), 0);

        // What a view reads is for its owner to read; and nobody is told to open what has only the same name.
        db.spec("view", &spec.replace("App\".src", "App\".shown").replace("s.name", "s.c"));
        db.sql.run(&format!(
            "grant select on \"App\".shown to {first}; update \"App\".\"T\" set v = null"
        ));
        let mut command = db.command(&["plan", "view"]);
        let url = db.url.replace("postgres@", &format!("{first}@"));
        let ran = Ran::from(&command.env("DATABASE_URL", &url).output().unwrap()).exits(2);
        ran.says("hidden is not named in the SQL").says("its owner needs SELECT");
        for role in [&first, &second] {
            let other = "select has_table_privilege($1, 'other.src', 'select') or has_function_privilege($1, 'other.f(text)', 'execute')";
            assert_eq!(db.sql.text(&other.replace("$1", &format!("'{role}'"))), "f");
        }
        db.sql.run("update \"App\".\"T\" set v = 'n'");

        // A second operator, of whom the state tables know nothing; what was kept of rows stays the first one's.
        assert_eq!(as_told(&db, &second, &["status", "job"]), 3);
        let kept =
            format!("select has_table_privilege('{second}', 'backfill.before_image_1', 'select')");
        assert_eq!(db.sql.text(&kept), "f");
        assert_eq!(as_told(&db, &second, &["doctor"]), 1);
        assert_eq!(db.sql.text(&kept), "f");
        assert!(as_told(&db, &second, &["reverse", "job", "--accept-blind"]) > 0);
        assert_eq!(db.sql.number("select count(v) from \"App\".\"T\""), 0);
        // The source and the function, which the way back did without.
        assert_eq!(as_told(&db, &second, &["run", "job", "--accept-blind"]), 2);
        let shown = db.backfill(&["status", "job", "--json"]).exits(0).json();
        assert_eq!(shown["rows_done"], 300);
    }
}
