//! In company: behind a transaction pooler, beside a benchmark's load, with a table too large to remember.

use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::support::{Db, Started, needs, wait_for};

/// A process that is stopped when dropped.
struct Beside(std::process::Child);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn through_pgbouncer_in_transaction_mode() {
    let Some(pgbouncer) = needs("pgbouncer") else { return };
    let db = Db::found();
    db.sql.run(
        "create table t (id bigint primary key, n int not null default 0);
         insert into t select i from generate_series(1, 50000) i; analyze t",
    );
    db.spec("pooled", "table = \"t\"\n[[rule]]\nset = { n = \"n + 1\" }\n[limits]\nworkers = 4\nchunk_rows_max = 200\n");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = db.directory.join("pgbouncer.ini");
    let socket = db.socket_dir().display();
    std::fs::write(
        &config,
        format!(
            "[databases]\n{name} = host={socket} dbname={name} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 3\n\
             logfile = {dir}/pgbouncer.log\n",
            name = db.name,
            dir = db.directory.display()
        ),
    )
    .unwrap();
    let mut command = Command::new(pgbouncer);
    command.arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(user) = backfill::server::binaries::unprivileged_user() {
        nix::unistd::chown(&db.directory, Some(user.uid), Some(user.gid)).unwrap();
        // The socket's directory is the server user's own; pgbouncer refuses to run as root just the same.
        use std::os::unix::process::CommandExt;
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    let mut pooler = Beside(command.spawn().unwrap());
    wait_for("the pooler is up", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let url = format!("postgresql://postgres@127.0.0.1:{port}/{}", db.name);

    db.backfill(&["doctor", "--url", &url])
        .exits(0)
        .prints("a transaction pooler stands in between");
    let run = db.start(&["run", "pooled", "--url", &url, "--rate", "30000 rows/s"]);
    wait_for("chunks settle", || db.chunks_done() >= 20);
    // The lock works through the pooler too, and goes with its runner.
    db.backfill(&["resume", "pooled", "--url", &url])
        .exits(3)
        .says(&format!("process {}", run.pid()));
    run.kill();
    db.is_interrupted("pooled");
    db.backfill(&["resume", "pooled", "--url", &url]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n <> 1"), 0);
    assert_eq!(db.sql.number("select sum(rows_done) from backfill.chunk"), 50_000);

    // Statements that are cancelled, by a second Ctrl-C, end for their own session alone.
    let rule =
        "allow_volatile = true\n[[rule]]\nset = { n = \"n + length(pg_sleep(0.05)::text)\" }\n";
    db.spec("slow", &format!("table = \"t\"\n{rule}[limits]\nchunk_rows_max = 400\n"));
    let run = db.start(&["run", "slow", "--url", &url]);
    let at_work = "select count(*) > 0 from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()";
    db.sql.wait_for("a chunk is at work", at_work);
    run.signal(Signal::SIGINT);
    std::thread::sleep(std::time::Duration::from_millis(100));
    run.signal(Signal::SIGINT);
    run.wait().exits(4);
    assert!(pooler.0.try_wait().unwrap().is_none(), "the pooler has ended");
    db.backfill(&["status", "slow", "--url", &url]).exits(0);
}

#[test]
fn beside_pgbench() {
    let Some(pgbench) = needs("pgbench") else { return };
    let db = Db::found();
    let bench = |arguments: &[&str]| {
        let mut command = Command::new(&pgbench);
        command.args(arguments).args([
            "-h",
            &db.socket_dir().display().to_string(),
            "-U",
            "postgres",
            &db.name,
        ]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let made = bench(&["-i", "-s", "10", "-q"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    db.sql.run("alter table pgbench_accounts add column note text");
    db.spec(
        "accounts",
        "table = \"pgbench_accounts\"\n[[rule]]\nfill = { note = \"'seen ' || aid\" }\n",
    );
    let load = Started::new(bench(&["-c", "2", "-T", "15", "-n"]));
    db.sql.wait_for("the load begins", "select count(*) > 50 from pgbench_history");
    let ran = db.backfill(&["run", "accounts", "--json"]).exits(0);
    assert!(
        !ran.stdout.contains("chunk_failed") && !ran.stdout.contains("quarantined\",\"seq"),
        "{}",
        ran.stdout
    );
    assert_eq!(
        db.sql.number(
            "select count(*) from pgbench_accounts where note is distinct from 'seen ' || aid"
        ),
        0
    );
    let loaded = load.wait().exits(0);
    assert!(loaded.stdout.contains("number of failed transactions: 0"), "{}", loaded.stdout);
    assert!(!loaded.stderr.contains("ERROR"), "{}", loaded.stderr);
    // Not one of the application's writes was lost.
    let balance = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)";
    assert_eq!(db.sql.text(balance), "t");
}

#[test]
fn memory_does_not_grow_with_the_table() {
    let db = Db::found();
    db.sql.run(
        "create table t (id int primary key, v int) with (autovacuum_enabled = off);
         insert into t select i, case when i % 50 = 0 then null else 1 end from generate_series(1, 10000000) i",
    );
    db.sql.run("vacuum analyze t");
    db.spec(
        "large",
        "table = \"t\"\n[[rule]]\nfill = { v = \"2\" }\n[limits]\nchunk_rows_max = 5000\n",
    );
    let mut run = db.start(&["run", "large"]);
    let status = format!("/proc/{}/status", run.pid());
    let mut peak_kb = 0;
    while !run.is_over() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak_kb = peak_kb.max(now.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    run.wait().exits(0);
    assert!(db.chunks_done() >= 2_000);
    assert_eq!(db.sql.number("select count(*) from t where v is null"), 0);
    assert!(peak_kb > 0 && peak_kb < 64 * 1024, "{peak_kb} kB at the peak");
}
