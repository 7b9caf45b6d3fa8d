//! A password is seen by nobody: not in what is said, logged, stored or written, and not in the list of processes.

use std::path::Path;
use std::process::Command;

use backfill::server::{Options, Server};
use nix::sys::signal::Signal;

use crate::support::{Ran, Sql, Started, program, wait_for};

const SECRET: &str = "w0rd-that-nobody-sees";

/// A server that asks `teller` for a password and logs every statement.
struct Bank {
    server: Server,
    directory: std::path::PathBuf,
}

impl Bank {
    fn open() -> Bank {
        let settings = ["log_statement=all", "log_connections=on", "log_min_duration_statement=0"];
        let settings = settings.map(str::to_owned).to_vec();
        let server =
            Server::start(&Options { settings, no_fsync: true, ..Options::default() }).unwrap();
        let name = format!("backfill-test-secrets-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(directory.join("backfills")).unwrap();
        let spec =
            "table = \"t\"\n[[rule]]\nfill = { v = \"'x'\" }\n[limits]\nchunk_rows_max = 50\n";
        std::fs::write(directory.join("backfills/job.toml"), spec).unwrap();
        let bank = Bank { server, directory };
        let sql = bank.sql();
        // Made by its hash, or the statement that makes it would have it.
        sql.run("set password_encryption = 'scram-sha-256'; set log_statement = 'none'; set log_min_duration_statement = -1");
        sql.run(&format!(
            "create role teller login superuser password '{SECRET}';
             create table t (id bigint primary key, v text); insert into t select i from generate_series(1, 4000) i; analyze t"
        ));
        let hba = "local all postgres trust\nlocal all teller scram-sha-256\n";
        std::fs::write(bank.server.socket_dir().join("data/pg_hba.conf"), hba).unwrap();
        sql.run("select pg_reload_conf()");
        wait_for("the password is asked for", || Sql::try_connect(&bank.url("wrong")).is_err());
        bank
    }

    fn sql(&self) -> Sql {
        Sql::connect(&self.server.url("postgres"))
    }

    fn url(&self, password: &str) -> String {
        self.server.url("postgres").replace("postgres@", &format!("teller:{password}@"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.current_dir(&self.directory).args(arguments);
        command
    }

    /// What a command says at its most talkative.
    fn ask(&self, arguments: &[&str]) -> Ran {
        let mut command = self.command(arguments);
        command.env("DATABASE_URL", self.url(SECRET)).env("BACKFILL_LOG", "trace");
        let ran = Ran::from(&command.output().unwrap());
        is_kept(&ran, arguments[0]);
        ran
    }
}

fn is_kept(ran: &Ran, what: &str) {
    for (stream, text) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
        let line = text.lines().find(|line| line.contains(SECRET));
        assert!(line.is_none(), "{stream} of {what}: {line:?}");
    }
}

fn holds_no_secret(path: &Path) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap().flatten() {
            holds_no_secret(&entry.path());
        }
    } else if let Ok(bytes) = std::fs::read(path) {
        let is_there = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!is_there, "{} holds the password", path.display());
    }
}

#[test]
fn a_password_is_seen_nowhere() {
    let bank = Bank::open();
    let url = bank.url(SECRET);
    for arguments in [
        &["plan", "job"][..],
        &["doctor"],
        &["run", "job", "--rate", "1000 rows/s", "--json"],
        &["status", "job"],
        &["verify", "job", "-v"],
        &["log", "job"],
        &["migrate", "revision", "-m", "first"],
        &["migrate", "current"],
    ] {
        bank.ask(arguments).exits(0);
    }
    // What cannot be reached, is refused or cannot be read is told without it.
    for bad in [
        url.replace("/postgres", "/nowhere"),
        url.replace(SECRET, &format!("{SECRET}-or-another")),
        format!("postgresql://teller:{SECRET}@127.0.0.1:1/x"),
        format!("postgresql://teller:{SECRET}@[::1/x"),
        format!("postgresql://teller:{SECRET}@h/x?sslmode=sometimes"),
        format!("host=h password='{SECRET} dbname=x"),
        format!("host=h password={SECRET} nonsense"),
        format!("mysql://teller:{SECRET}@h/x"),
    ] {
        let mut command = bank.command(&["list", "--url", &bad]);
        command.env("BACKFILL_LOG", "trace");
        let ran = Ran::from(&command.output().unwrap());
        assert_ne!(ran.code, 0, "{bad}");
        is_kept(&ran, "a bad URL");
    }

    // While it is at work.
    let arguments = ["run", "job", "--again", "--rate", "400 rows/s", "--url", &url];
    bank.sql().run("update t set v = null");
    let run = Started::new(bank.command(&arguments));
    let sql = bank.sql();
    sql.wait_for(
        "the run is at work",
        "select count(*) > 3 from backfill.chunk where run_id = 2 and state = 'done'",
    );
    let shown = format!("/proc/{}", run.pid());
    for file in ["cmdline", "comm", "status"] {
        let text = std::fs::read(format!("{shown}/{file}")).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains(SECRET), "{file} shows the password");
    }
    let cmdline = std::fs::read(format!("{shown}/cmdline")).unwrap();
    assert!(String::from_utf8_lossy(&cmdline).contains("--again"), "it is another process");
    let seen = format!(
        "select count(*) from pg_stat_activity a where a::text like '%{SECRET}%' and pid <> pg_backend_pid()"
    );
    assert_eq!(sql.number(&seen), 0);
    run.signal(Signal::SIGTERM);
    is_kept(&run.wait().exits(4), "a run by --url");

    let tables = sql.rows("select format('%I.%I', schemaname, tablename) from pg_tables where schemaname = 'backfill'");
    assert!(tables.len() > 5, "{tables:?}");
    sql.run("set log_statement = 'none'; set log_min_duration_statement = -1");
    for table in tables {
        let sum = format!("select count(*) from {} t where t::text like '%{SECRET}%'", table[0]);
        assert_eq!(sql.number(&sum), 0, "{table:?} holds the password");
    }
    holds_no_secret(&bank.directory);
    let log = std::fs::read_to_string(bank.server.log_path()).unwrap();
    let line = log.lines().find(|line| line.contains(SECRET) && !line.contains("pg_stat_activity"));
    assert!(line.is_none(), "{line:?}");
    std::fs::remove_dir_all(&bank.directory).unwrap();
}
