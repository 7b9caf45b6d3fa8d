//! Rows that were frozen more than two billion transactions ago, whose age has become negative.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use backfill::server::{Binaries, Options, Server, binaries::unprivileged_user};

use crate::support::{Ran, Sql, needs, program};

/// Transactions that one segment of `pg_xact` has room for.
const SEGMENT: u32 = 1 << 20;

/// Freezes all that there is and lets the next transaction have a number far on. Rows keep the number that they had.
fn go_on_from(server: &mut Server, resetwal: &Path, xid: u32) {
    for database in ["template0", "template1", "postgres"] {
        Sql::connect(&server.url(database)).run("vacuum freeze");
    }
    Sql::connect(&server.url("postgres")).run("checkpoint");
    server.crash().unwrap();
    let data = server.socket_dir().join("data");
    let command = |program: &Path| {
        let mut command = Command::new(program);
        if let Some(user) = unprivileged_user() {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    };
    let mut reset = command(resetwal);
    let reset = reset.args(["-f", "-x", &xid.to_string(), "-D"]).arg(&data).output().unwrap();
    assert!(reset.status.success(), "{}", String::from_utf8_lossy(&reset.stderr));
    let segment = data.join(format!("pg_xact/{:04X}", xid / SEGMENT));
    let made = command(Path::new("truncate")).args(["-s", "256K"]).arg(&segment).status();
    assert!(made.unwrap().success());
    server.restart().unwrap();
}

#[test]
fn rows_frozen_two_billion_transactions_ago_are_old() {
    // Beside the server's programs, to which others may be linked.
    let initdb = Binaries::obtain(None).unwrap().directory.join("initdb");
    let resetwal = initdb.canonicalize().unwrap().with_file_name("pg_resetwal");
    if !resetwal.is_file() {
        needs(&resetwal.display().to_string());
        return;
    }
    let settings = vec!["autovacuum=off".to_owned()];
    let mut server =
        Server::start(&Options { settings, no_fsync: true, ..Options::default() }).unwrap();
    let sql = Sql::connect(&server.url("postgres"));
    sql.run(
        "update pg_database set datallowconn = true;
         create table t (id uuid primary key, n int not null, state text not null default 'old');
         insert into t select md5(i::text)::uuid, i from generate_series(1, 20000) i; analyze t;
         create table u as table t; alter table u add primary key (id); analyze u",
    );
    drop(sql);
    // In two steps, neither of which is longer than numbers can be compared.
    go_on_from(&mut server, &resetwal, 1_200 * SEGMENT + 3);
    go_on_from(&mut server, &resetwal, 2_400 * SEGMENT + 3);
    let sql = Sql::connect(&server.url("postgres"));
    assert_eq!(
        sql.number(
            "select count(*) from t join u using (id) where age(t.xmin) < 0 and age(u.xmin) < 0"
        ),
        20_000
    );
    let directory = std::env::temp_dir().join(format!("backfill-test-{}-wrap", std::process::id()));
    std::fs::create_dir_all(directory.join("backfills")).unwrap();
    let spec = |name: &str, text: &str| {
        std::fs::write(directory.join(format!("backfills/{name}.toml")), text).unwrap();
    };
    let run = |arguments: &[&str]| {
        let mut command = program();
        command.args(arguments).env("DATABASE_URL", server.url("postgres"));
        Ran::from(&command.current_dir(&directory).output().unwrap()).exits(0)
    };
    // Saved and written at once, which is a bet that no row is young; a lost one is tried again.
    spec("double", "table = \"u\"\n[[rule]]\nset = { n = \"n * 2\" }\n");
    let ran = run(&["run", "double", "--json"]);
    assert!(!ran.stdout.contains("\"event\":\"retrying\""), "a bet was lost: {}", ran.stdout);
    assert_eq!(sql.number("select count(*) from t join u using (id) where u.n = t.n * 2"), 20_000);
    // By place: what seems young would be left to the sweep.
    spec(
        "done",
        "table = \"t\"\norder = \"physical\"\n[[rule]]\nwhen = \"state <> 'done'\"\nset = { state = \"'done'\", n = \"n + 1\" }\n",
    );
    run(&["run", "done"]);
    let walked = "select sum(rows_done) from backfill.chunk where run_id = 2 and upto_key[1] = '1'";
    assert_eq!(sql.number(walked), 20_000);
    run(&["reverse", "done"]);
    let back = "select count(*) from t join u using (id) where u.n = t.n * 2 and t.state = 'old'";
    assert_eq!(sql.number(back), 20_000);
    std::fs::remove_dir_all(&directory).unwrap();
}
