//! A standby takes the primary's place in the middle of a run.

use backfill::server::{Options, Server};

use crate::support::{Sql, Started, follow, program, wait_for};

const DONE: &str = "select count(*) from backfill.chunk where state = 'done'";

#[test]
fn a_run_goes_on_where_the_standby_was_promoted_and_not_on_the_old_primary() {
    let settings = ["wal_level=replica", "max_wal_senders=4", "wal_keep_size=1GB"];
    let settings = settings.map(str::to_owned).to_vec();
    let mut old =
        Server::start(&Options { settings, no_fsync: true, ..Options::default() }).unwrap();
    let standby = follow(&mut old);
    let directory = std::env::temp_dir().join(format!("backfill-test-{}-over", std::process::id()));
    std::fs::create_dir_all(directory.join("backfills")).unwrap();
    // A replica that vanished would hold the run soon; the new primary has none, and none that it misses.
    std::fs::write(directory.join("backfill.toml"), "[health]\nunknown_after = \"1s\"\n").unwrap();
    std::fs::write(
        directory.join("backfills/add.toml"),
        "table = \"t\"\n[[rule]]\nset = { n = \"n + 1\" }\n[limits]\nchunk_rows_max = 200\n",
    )
    .unwrap();
    let sql = Sql::connect(&old.url("postgres"));
    sql.run(
        "create table t (id bigint primary key, n int not null default 0);
         insert into t select i from generate_series(1, 60000) i; analyze t",
    );
    let host = |server: &Server| server.socket_dir().display().to_string().replace('/', "%2F");
    let url = format!(
        "postgresql://postgres@{},{}/postgres?target_session_attrs=read-write",
        host(&old),
        host(&standby)
    );
    let mut command = program();
    command.args(["run", "add", "--rate", "8000 rows/s"]);
    command.env("DATABASE_URL", &url).current_dir(&directory);
    let mut run = Started::new(command);
    wait_for("chunks are done", || {
        sql.text("select to_regclass('backfill.chunk') is not null") == "t" && sql.number(DONE) > 20
    });
    old.crash().unwrap();
    let new = Sql::connect(&standby.url("postgres"));
    new.run("select pg_promote(true, 60)");
    let kept = new.number(DONE);
    wait_for("the run goes on", || new.number(DONE) > kept + 10);

    old.restart().unwrap();
    let back = Sql::connect(&old.url("postgres"));
    let left = back.number("select sum(n) from t");
    for _ in 0..10 {
        let before = new.number(DONE);
        new.run("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'backfill'");
        wait_for("the run goes on", || new.number(DONE) > before || run.is_over());
    }
    run.wait().exits(0);
    assert_eq!(new.rows("select n, count(*) from t group by n"), [["1", "60000"]]);
    assert_eq!(back.number("select sum(n) from t"), left, "nobody writes to the old one");
    assert!(left > 0 && left < 60_000);

    // A runner that has seen neither of them before, and finds two primaries, the old one first.
    let mut command = program();
    command.args(["reverse", "add"]).env("DATABASE_URL", &url).current_dir(&directory);
    Started::new(command).wait().exits(0);
    assert_eq!(new.rows("select n, count(*) from t group by n"), [["0", "60000"]]);
    assert_eq!(back.number("select sum(n) from t"), left, "nobody writes to the old one");

    // Where the new one is there and does not let the role in, nobody can know that it is the newer one, and the old one is not taken.
    for sql in [&new, &back] {
        sql.run("create role op superuser login");
    }
    let hba = standby.socket_dir().join("data/pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("local all op reject\n{rules}")).unwrap();
    new.run("select pg_reload_conf()");
    let as_op = url.replace("postgres@", "op@");
    let list = || {
        let mut command = program();
        command.arg("list").env("DATABASE_URL", &as_op).current_dir(&directory);
        Started::new(command).wait()
    };
    wait_for("the role is kept out", || list().code == 1);
    list().says("cannot be asked whether it is the newest primary").says("let the role in there");
    // One that is not there at all is left out.
    drop(new);
    let mut standby = standby;
    standby.crash().unwrap();
    list().exits(0).prints("add");
    // Neither does one hold up the others that takes connections and never answers, though it stands first.
    standby.restart().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!(
        "host=127.0.0.1,{},{} port={port},5432,5432 user=postgres dbname=postgres target_session_attrs=read-write",
        old.socket_dir().display(),
        standby.socket_dir().display()
    );
    let mut command = program();
    command.args(["status", "add", "--json"]).env("DATABASE_URL", &url).current_dir(&directory);
    let told = Started::new(command).wait().exits(0);
    assert_eq!(told.json()["direction"], "reverse", "the old one was asked");
    assert!(told.stderr.contains("does not answer"), "{}", told.stderr);
    let _ = std::fs::remove_dir_all(directory);
}
