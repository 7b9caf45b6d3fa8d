//! A server, and histories on it one after the other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backfill::mutation::Step;
use backfill::server::{Options, Server};
use fastrand::Rng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::application::Application;
use crate::around::{Clock, Disk, Pooler};
use crate::faults::Fault;
use crate::history::{History, Tools};
use crate::link::Link;

/// How long anything may take before it counts as stuck. Runs last seconds; two minutes is how long a runner waits for its server.
const PATIENCE: Duration = Duration::from_secs(180);

/// Runners that a history may use up.
const RUNNERS_MAX: u32 = 60;

/// A server of the campaign, or one that is to follow it.
fn start(major: Option<u32>, primary: Option<&Server>) -> Server {
    let settings = [
        "max_connections=60",
        "shared_buffers=128MB",
        "max_wal_size=1GB",
        "wal_level=replica",
        "wal_keep_size=1GB",
        "hot_standby=on",
    ];
    let mut settings = settings.map(str::to_owned).to_vec();
    settings.extend(primary.map(|primary| {
        format!("primary_conninfo=host={} user=postgres", primary.socket_dir().display())
    }));
    let options = Options { major, settings, no_fsync: false };
    Server::start(&options).expect("a private server")
}

/// A violation, in words.
pub type Verdict = Result<(), String>;

pub struct Campaign {
    pub server: Server,
    /// A copy that follows it, where the history has one.
    standby: Option<Server>,
    major: Option<u32>,
    pub rng: Rng,
    pub zombies: Vec<Runner>,
    pub tools: Tools,
    pub pooler: Option<Pooler>,
    pub clock: Option<Clock>,
    pub disk: Option<Disk>,
    pub counts: BTreeMap<Fault, u64>,
    pub rows_checked: u64,
    pub application: u64,
    runtime: Runtime,
    client: Option<Client>,
    database: String,
    directory: PathBuf,
    runners: u32,
}

/// A runner at work, and through what it reaches the server.
pub struct Runner {
    child: Child,
    pub link: Option<Link>,
}

impl Runner {
    pub fn signal(&mut self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }

    fn is_over(&mut self) -> bool {
        self.child.try_wait().expect("wait for the runner").is_some()
    }

    /// Waits until it has stopped, and not ended.
    fn stops(&mut self) -> Result<bool, String> {
        let deadline = Instant::now() + PATIENCE;
        let stat = format!("/proc/{}/stat", self.child.id());
        while !self.is_over() {
            if std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T ")) {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Err("a runner is stuck".to_owned());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(false)
    }

    /// Its exit code; none when it was killed.
    pub fn wait(&mut self) -> Result<Option<i32>, String> {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_over() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                return Err("a runner is stuck".to_owned());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(self.child.wait().expect("wait for the runner").code())
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Campaign {
    pub fn new(major: Option<u32>) -> Campaign {
        let server = start(major, None);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Campaign {
            server,
            standby: None,
            major,
            rng: Rng::with_seed(0),
            zombies: Vec::new(),
            tools: Tools {
                pooler: Pooler::is_there(),
                clock: Clock::is_there(),
                disk: Disk::is_there(),
                steps: cfg!(debug_assertions),
            },
            pooler: None,
            clock: None,
            disk: None,
            counts: BTreeMap::new(),
            rows_checked: 0,
            application: 0,
            runtime,
            client: None,
            database: String::new(),
            directory: PathBuf::new(),
            runners: 0,
        }
    }

    /// Runs the history of a seed. The database and the project stay where a promise was broken.
    pub fn run(&mut self, seed: u64, history: &History) -> Verdict {
        self.rng = Rng::with_seed(seed ^ 0x5eed);
        (self.runners, self.database) = (0, format!("h{seed}"));
        self.directory =
            std::env::temp_dir().join(format!("backfill-torture-{}-{seed}", self.server.pid()));
        if history.has_standby {
            self.stand_by()?;
        }
        std::fs::create_dir_all(self.directory.join("backfills")).map_err(|e| e.to_string())?;
        self.make_database(history)?;
        if history.has_pooler {
            let (socket_dir, directory) = (self.server.socket_dir(), &self.directory);
            self.pooler = Some(Pooler::start(socket_dir, &self.database, directory));
        }
        self.clock = history.has_clock.then(|| Clock::new(&self.directory));
        std::fs::write(self.directory.join("backfills/job.toml"), history.spec())
            .map_err(|e| e.to_string())?;
        self.rows(&history.setup())?;
        let mut rng = self.rng.fork();
        let application = Application::start(&self.url(None), history, &mut rng);
        let verdict = self.live(history);
        self.application += application.end();
        // It keeps connections to the server for whoever comes next.
        self.pooler = None;
        verdict.and_then(|()| self.check_leftovers())?;
        (self.client, self.standby) = (None, None);
        let admin = self.connect("postgres").ok_or("no connection")?;
        let drop = format!("drop database {} with (force)", self.database);
        self.runtime.block_on(admin.batch_execute(&drop)).map_err(|e| e.to_string())?;
        if self.disk.is_some() {
            let drop = "drop tablespace tight";
            self.runtime.block_on(admin.batch_execute(drop)).map_err(|e| e.to_string())?;
            self.disk = None;
        }
        let _ = std::fs::remove_dir_all(&self.directory);
        Ok(())
    }

    fn make_database(&mut self, history: &History) -> Verdict {
        let admin = self.connect("postgres").ok_or("no connection")?;
        let mut create = vec![format!("create database {}", self.database)];
        if history.is_tight {
            let directory = self.directory.join("disk");
            std::fs::create_dir_all(&directory).map_err(|e| e.to_string())?;
            let disk = Disk::mount(directory).ok_or("no disk")?;
            let place = disk.for_server();
            create.insert(0, format!("create tablespace tight location '{}'", place.display()));
            create[1].push_str(" tablespace tight");
            self.disk = Some(disk);
        }
        for statement in create {
            self.runtime.block_on(admin.batch_execute(&statement)).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn live(&mut self, history: &History) -> Verdict {
        self.drive(history, false)?;
        if history.poison > 0 && self.rng.bool() {
            self.command(&["retry", "job"]);
        }
        self.check(&history.after_run())?;
        self.check_run(history)?;
        if history.is_reversed {
            self.drive(history, true)?;
            self.check(&history.after_reverse())?;
        }
        Ok(())
    }

    /// One runner after the other, until the run or its reversal has come to its end.
    fn drive(&mut self, history: &History, is_back: bool) -> Verdict {
        let mut left = self.rng.u32(2..14);
        loop {
            self.runners += 1;
            if self.runners > RUNNERS_MAX {
                return Err("does not come to its end".to_owned());
            }
            let Some(verb) = self.next_verb(is_back)? else { return Ok(()) };
            let seconds = self.rng.f64() * 3.0 + 0.7;
            let rate = format!("{} rows/s", (f64::from(history.rows) / seconds) as u32);
            let is_direct = self.standby.is_none() && self.pooler.is_none();
            let has_link = is_direct && self.rng.bool();
            let arguments: Vec<&str> =
                verb.iter().copied().chain(["job", "--rate", &rate]).collect();
            let step = (self.tools.steps && self.rng.u32(0..3) == 0).then(|| self.pick_step());
            let is_stop = step.as_ref().is_some_and(|step| step.ends_with("stop"));
            let mut runner = self.start(&arguments, has_link, step.as_deref());
            if is_stop && runner.stops()? {
                *self.counts.entry(Fault::StopAtStep).or_default() += 1;
                let pause = Duration::from_millis(self.rng.u64(50..1_500));
                self.replace(&mut runner, pause);
            }
            let mut was_killed = is_stop || step.is_none();
            while left > 0 && !runner.is_over() {
                std::thread::sleep(Duration::from_millis(self.rng.u64(10..500)));
                if runner.is_over() {
                    break;
                }
                left -= 1;
                let has_standby = self.standby.is_some();
                let fits = |fault: &Fault| fault.fits(history, &runner, has_standby);
                let fault = std::iter::repeat_with(|| Fault::pick(&mut self.rng)).find(fits);
                let fault = fault.unwrap_or(Fault::Kill);
                was_killed |= fault == Fault::Kill;
                *self.counts.entry(fault).or_default() += 1;
                self.strike(fault, &mut runner, history);
            }
            let code = runner.wait()?;
            if code.is_none() && !was_killed {
                *self.counts.entry(Fault::KillAtStep).or_default() += 1;
            }
            for mut zombie in std::mem::take(&mut self.zombies) {
                zombie.wait()?;
            }
            match code {
                Some(2) => return Err("a command line was refused".to_owned()),
                // The server notices the death of a runner a moment later.
                Some(1 | 3 | 75) | None => std::thread::sleep(Duration::from_millis(200)),
                Some(_) => {}
            }
        }
    }

    /// A step at which a runner is to be struck, which it may never come to.
    fn pick_step(&mut self) -> String {
        let (_, word) = Step::ALL[self.rng.usize(0..Step::ALL.len())];
        let how = ["kill", "kill", "stop"][self.rng.usize(0..3)];
        format!("{word}:{}:{how}", self.rng.u32(1..12))
    }

    /// The next command on the way forward or back; none at the end of it.
    fn next_verb(&mut self, is_back: bool) -> Result<Option<&'static [&'static str]>, String> {
        let there = "select to_regclass('backfill.run') is not null";
        if self.rows(there)?[0][0] != "t" {
            return Ok(Some(&["run"]));
        }
        let newest = "select direction, state from backfill.run order by run_id desc limit 1";
        let newest = self.rows(newest)?;
        let Some(newest) = newest.first() else { return Ok(Some(&["run"])) };
        Ok(match (newest[0].as_str(), newest[1].as_str(), is_back) {
            ("forward", "succeeded", false) | ("reverse", "succeeded", true) => None,
            ("forward", "succeeded", true) | (_, "cancelled", true) => Some(&["reverse"]),
            // What half a run wrote is given back first, so that nothing is added twice.
            ("forward", "cancelled", false) | ("reverse", "cancelled", false) => Some(&["reverse"]),
            // Rows that the application took over meanwhile were left as they are, which is right here.
            ("reverse", "succeeded", false) => Some(&["run", "--again"]),
            _ => Some(&["resume"]),
        })
    }

    /// Starts the program, behind a link of its own when asked.
    pub fn start(&mut self, arguments: &[&str], has_link: bool, step: Option<&str>) -> Runner {
        let link = has_link.then(|| Link::start(self.server.socket_dir()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_backfill"));
        for (name, _) in std::env::vars() {
            if name.starts_with("PG") || name.starts_with("BACKFILL_") {
                command.env_remove(name);
            }
        }
        command.env("DATABASE_URL", self.runner_url(link.as_ref())).current_dir(&self.directory);
        if let Some(step) = step {
            command.env("BACKFILL_STOP_AT", step);
        }
        if let Some(clock) = &self.clock {
            clock.wind(&mut command);
        }
        let path = self.directory.join("output.log");
        let log = std::fs::File::options().create(true).append(true).open(path);
        let log = log.expect("a log file");
        let error = log.try_clone().expect("a log file");
        command.args(arguments).stdin(Stdio::null()).stdout(log).stderr(error);
        let child = command.spawn().expect("start the program");
        Runner { child, link }
    }

    /// A command of an operator, to its end; whether it is refused is the program's affair.
    pub fn command(&mut self, arguments: &[&str]) {
        let mut runner = self.start(arguments, false, None);
        let _ = runner.wait();
    }

    pub fn crash(&mut self, pause: Duration) {
        self.client = None;
        self.server.crash().expect("stop the server");
        std::thread::sleep(pause);
        self.server.restart().expect("start the server again");
    }

    /// Makes a copy of the server that follows it.
    fn stand_by(&mut self) -> Verdict {
        let mut standby = start(self.major, Some(&self.server));
        self.client = None;
        standby.crash().and_then(|()| self.server.crash()).map_err(|e| e.to_string())?;
        let data = standby.socket_dir().join("data");
        std::fs::remove_dir_all(&data).map_err(|e| e.to_string())?;
        let from = self.server.socket_dir().join("data");
        let copied = Command::new("cp").arg("-a").args([&from, &data]).status();
        if !copied.is_ok_and(|status| status.success()) {
            return Err("the cluster cannot be copied".to_owned());
        }
        std::fs::write(data.join("standby.signal"), "").map_err(|e| e.to_string())?;
        self.server.restart().and_then(|()| standby.restart()).map_err(|e| e.to_string())?;
        self.standby = Some(standby);
        Ok(())
    }

    /// The server goes for good, and its copy, which may lack the last commits, takes its place.
    pub fn fail_over(&mut self, pause: Duration) {
        let Some(standby) = self.standby.take() else { return };
        self.client = None;
        self.server.crash().expect("stop the server");
        std::thread::sleep(pause);
        self.server = standby;
        let promoted = self.connect("postgres").expect("the standby is there");
        let promoted = self.runtime.block_on(promoted.simple_query("select pg_promote(true, 60)"));
        promoted.expect("the standby is promoted");
    }

    /// Takes all connections that there are.
    pub fn crowd(&mut self, pause: Duration) {
        let mut crowd = Vec::new();
        while crowd.len() < 60 {
            match self.connect("postgres") {
                Some(client) => crowd.push(client),
                None => break,
            }
        }
        std::thread::sleep(pause);
        drop(crowd);
        // Their drivers say goodbye only while this runtime is at work.
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
    }

    /// A statement whose failure does not matter.
    pub fn sql(&mut self, sql: &str) {
        let _ = self.rows(sql);
        let _ = self.rows("rollback");
    }

    /// The rows of the last statement as text, by a connection of our own that is made anew when it is lost.
    pub fn rows(&mut self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        let deadline = Instant::now() + PATIENCE;
        while self.client.as_ref().is_none_or(Client::is_closed) {
            if Instant::now() > deadline {
                return Err("the server is not there".to_owned());
            }
            let database = self.database.clone();
            self.client = self.connect(&database);
            std::thread::sleep(Duration::from_millis(20));
        }
        let Some(client) = &self.client else { return Ok(Vec::new()) };
        let messages = self.runtime.block_on(client.simple_query(sql));
        let messages = messages.map_err(|error| format!("{sql}: {error:?}"))?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).unwrap_or("-").to_owned()).collect())
            }
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    fn connect(&self, database: &str) -> Option<Client> {
        let url = self.server.url(database);
        let (client, driver) = self.runtime.block_on(tokio_postgres::connect(&url, NoTls)).ok()?;
        self.runtime.spawn(driver);
        Some(client)
    }

    /// For the program, which goes through the pooler where there is one.
    fn runner_url(&self, link: Option<&Link>) -> String {
        match &self.pooler {
            Some(pooler) => {
                format!("postgresql://postgres@127.0.0.1:{}/{}", pooler.port, self.database)
            }
            None => self.url(link),
        }
    }

    /// For the program and the application, which know both servers where there are two.
    fn url(&self, link: Option<&Link>) -> String {
        let host = |server: &Server| server.socket_dir().display().to_string().replace('/', "%2F");
        let (first, database) = (host(&self.server), &self.database);
        match (link, &self.standby) {
            (Some(link), _) => format!("postgresql://postgres@127.0.0.1:{}/{database}", link.port),
            (None, None) => format!("postgresql://postgres@{first}/{database}"),
            (None, Some(standby)) => format!(
                "postgresql://postgres@{first},{}/{database}?target_session_attrs=read-write",
                host(standby)
            ),
        }
    }

    /// Where to look at what a broken promise left.
    pub fn evidence(&self) -> String {
        format!("database {}, project {}", self.database, self.directory.display())
    }
}
