//! A private server for all tests of this binary, a database and a project directory for each.

pub mod proxy;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use backfill::server::{Options, Server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

/// Bound of every wait. Generous: it only matters when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Bound of a command that is run to its end: the longest of them take half a minute on a slow machine.
const COMMAND_MAX: Duration = Duration::from_secs(180);

fn start(major: Option<u32>) -> Server {
    // wal_level=logical lets publications exist; prepared transactions and locks as in production.
    let settings = [
        "wal_level=logical",
        "max_prepared_transactions=10",
        "max_connections=120",
        "max_wal_size=2GB",
        "shared_buffers=256MB",
    ];
    let settings = settings.map(str::to_owned).to_vec();
    Server::start(&Options { major, settings, no_fsync: true }).expect("a private server")
}

static FOUND: LazyLock<Server> = LazyLock::new(|| start(None));
static OLDEST: LazyLock<Server> = LazyLock::new(|| start(Some(13)));
static NEWEST: LazyLock<Server> = LazyLock::new(|| start(Some(18)));
static APART: LazyLock<Server> = LazyLock::new(|| start(None));
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A standby, `r1`, that follows a server, which is restarted for it.
pub fn follow(primary: &mut Server) -> Server {
    let conninfo = format!(
        "primary_conninfo=host={} user=postgres application_name=r1",
        primary.socket_dir().display()
    );
    let settings = vec![conninfo, "hot_standby=on".to_owned()];
    let mut standby =
        Server::start(&Options { settings, no_fsync: true, ..Options::default() }).unwrap();
    // A cold copy of the primary becomes the standby.
    standby.crash().unwrap();
    primary.crash().unwrap();
    let data = standby.socket_dir().join("data");
    std::fs::remove_dir_all(&data).unwrap();
    let copied =
        Command::new("cp").arg("-a").arg(primary.socket_dir().join("data")).arg(&data).status();
    assert!(copied.unwrap().success());
    std::fs::write(data.join("standby.signal"), "").unwrap();
    primary.restart().unwrap();
    standby.restart().unwrap();
    Sql::connect(&primary.url("postgres")).wait_for(
        "the standby streams",
        "select count(*) = 1 from pg_stat_replication where state = 'streaming'",
    );
    standby
}

/// Which server a test wants.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// The one found on this machine.
    Found,
    /// PostgreSQL 13.
    Oldest,
    /// PostgreSQL 18.
    Newest,
    /// The one found, where nobody else writes for long: a transaction that writes in any database of a server keeps the dead rows of all
    /// others while it lasts.
    Apart,
}

impl Which {
    fn server(self) -> &'static Server {
        match self {
            Which::Found => &FOUND,
            Which::Oldest => &OLDEST,
            Which::Newest => &NEWEST,
            Which::Apart => &APART,
        }
    }
}

/// A connection that tests speak SQL on, without a runtime of their own.
pub struct Sql {
    runtime: Runtime,
    client: Client,
}

impl Sql {
    pub fn connect(url: &str) -> Sql {
        Sql::try_connect(url).unwrap_or_else(|error| panic!("connect to {url}: {error}"))
    }

    pub fn try_connect(url: &str) -> Result<Sql, tokio_postgres::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (client, connection) = runtime.block_on(tokio_postgres::connect(url, NoTls))?;
        runtime.spawn(connection);
        Ok(Sql { runtime, client })
    }

    /// Runs statements.
    pub fn run(&self, sql: &str) {
        self.try_run(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub fn try_run(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.runtime.block_on(self.client.batch_execute(sql))
    }

    /// All rows as text; NULL is `-`.
    pub fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let messages = self.runtime.block_on(self.client.simple_query(sql));
        let messages = messages.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let row = |message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).unwrap_or("-").to_owned()).collect())
            }
            _ => None,
        };
        messages.into_iter().filter_map(row).collect()
    }

    /// The first column of the first row.
    pub fn text(&self, sql: &str) -> String {
        let rows = self.rows(sql);
        rows.first().and_then(|row| row.first()).unwrap_or_else(|| panic!("{sql}: no row")).clone()
    }

    pub fn number(&self, sql: &str) -> i64 {
        let text = self.text(sql);
        text.parse().unwrap_or_else(|_| panic!("{sql}: {text} is no number"))
    }

    /// Waits until a query yields true.
    pub fn wait_for(&self, what: &str, sql: &str) {
        wait_for(what, || self.rows(sql).first().is_some_and(|row| row[0] == "t"));
    }
}

/// Waits for a state, with a bound.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A program that a test needs besides the server. Without it the test is left out, aloud; in CI that is a failure.
pub fn needs(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let places = std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .chain(beside.map(|v| v.path().join("bin")));
    let found = places.map(|place| place.join(program)).find(|path| path.is_file());
    if found.is_none() {
        assert!(std::env::var_os("BACKFILL_TEST_ALL").is_none(), "{program} is not installed");
        eprintln!("LEFT OUT: {program} is not installed");
    }
    found
}

/// A database and a project directory.
pub struct Db {
    pub sql: Sql,
    pub name: String,
    pub url: String,
    pub directory: PathBuf,
    server: &'static Server,
}

impl Drop for Db {
    fn drop(&mut self) {
        // Kept on failure, to be looked at.
        if std::thread::panicking() {
            return;
        }
        let _ = std::fs::remove_dir_all(&self.directory);
        // A statement that is a transaction of its own would commit the one that it stands in.
        let log = std::fs::read_to_string(self.server_log()).unwrap_or_default();
        let nested = "there is already a transaction in progress";
        assert!(!log.contains(nested), "{nested}: see {}", self.server_log().display());
    }
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn from(output: &Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Asserts that standard error says something.
    #[track_caller]
    pub fn says(self, words: &str) -> Ran {
        assert!(self.stderr.contains(words), "`{words}` is not in:\n{}", self.stderr);
        self
    }

    /// Asserts that standard output holds something.
    #[track_caller]
    pub fn prints(self, words: &str) -> Ran {
        assert!(self.stdout.contains(words), "`{words}` is not in:\n{}", self.stdout);
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

impl Db {
    pub fn new(which: Which) -> Db {
        let server = which.server();
        let name = format!("t{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        Sql::connect(&server.url("postgres")).run(&format!("create database {name}"));
        let url = server.url(&name);
        let directory =
            std::env::temp_dir().join(format!("backfill-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(directory.join("backfills")).unwrap();
        Db { sql: Sql::connect(&url), name, url, directory, server }
    }

    pub fn found() -> Db {
        Db::new(Which::Found)
    }

    /// Another connection.
    pub fn connect(&self) -> Sql {
        Sql::connect(&self.url)
    }

    /// The directory of the server's socket.
    pub fn socket_dir(&self) -> &Path {
        self.server.socket_dir()
    }

    /// The server's log.
    pub fn server_log(&self) -> PathBuf {
        self.server.log_path()
    }

    /// Writes a spec.
    pub fn spec(&self, name: &str, text: &str) {
        std::fs::write(self.directory.join(format!("backfills/{name}.toml")), text).unwrap();
    }

    /// A command of the program on this database.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.env("DATABASE_URL", &self.url).current_dir(&self.directory).args(arguments);
        command
    }

    /// Runs a command to its end, with a bound.
    pub fn backfill(&self, arguments: &[&str]) -> Ran {
        let mut command = self.command(arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let (sender, receiver) = std::sync::mpsc::channel();
        // Its output is read while it runs, or a long one would never end.
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        match receiver.recv_timeout(COMMAND_MAX) {
            Ok(output) => Ran::from(&output.unwrap()),
            Err(_) => {
                let _ = kill(pid, Signal::SIGKILL);
                panic!("`backfill {}` does not end", arguments.join(" "));
            }
        }
    }

    /// Starts a command.
    pub fn start(&self, arguments: &[&str]) -> Started {
        Started::new(self.command(arguments))
    }

    /// Starts a run, and stops it by a command once some of its chunks are done.
    pub fn stop_half_way(&self, name: &str, command: &str) -> Ran {
        let run = self.start(&["run", name, "--rate", "4000 rows/s"]);
        wait_for("chunks are done", || self.chunks_done() > 5);
        self.backfill(&[command, name]).exits(0);
        run.wait()
    }

    /// The schema, a line for each thing in it.
    pub fn snapshot(&self) -> std::collections::BTreeSet<String> {
        let state = backfill::sql::Ident::new("backfill");
        let taken = backfill::migrate::snapshot::take(&self.sql.client, &state);
        self.sql.runtime.block_on(taken).unwrap()
    }

    /// `status --json` of a run.
    pub fn status(&self, name: &str) -> serde_json::Value {
        self.backfill(&["status", name, "--json"]).exits(0).json()
    }

    /// Waits until the server has noticed that the runner is gone, which is soon after its death and not at once.
    pub fn is_interrupted(&self, name: &str) {
        wait_for("the run is interrupted", || self.status(name)["state"] == "interrupted");
    }

    /// Runs there have been; 0 before the state tables are there.
    pub fn runs(&self) -> i64 {
        match self.sql.text("select to_regclass('backfill.run') is null").as_str() {
            "t" => 0,
            _ => self.sql.number("select count(*) from backfill.run"),
        }
    }

    /// Chunks done in the newest run; 0 before there is one.
    pub fn chunks_done(&self) -> i64 {
        if self.sql.text("select to_regclass('backfill.chunk') is null") == "t" {
            return 0;
        }
        self.sql.number(
            "select count(*) from backfill.chunk where state = 'done' and run_id = (select max(run_id) from backfill.run)",
        )
    }
}

/// The program, without the caller's environment leaking in.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backfill"));
    for (name, _) in std::env::vars() {
        if name.starts_with("PG") || name.starts_with("BACKFILL_") || name == "DATABASE_URL" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).env("NO_COLOR", "1");
    command
}

/// A command at work; killed when dropped.
pub struct Started {
    child: Child,
}

impl Started {
    pub fn new(mut command: Command) -> Started {
        Started { child: command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end, with a bound.
    pub fn wait(mut self) -> Ran {
        wait_for("the command ends", || self.is_over());
        let mut ran = Ran { code: -1, stdout: String::new(), stderr: String::new() };
        ran.code = self.child.wait().unwrap().code().unwrap_or(-1);
        self.child.stdout.take().unwrap().read_to_string(&mut ran.stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut ran.stderr).unwrap();
        ran
    }

    /// SIGKILL, and wait for it to be gone.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
