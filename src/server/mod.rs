//! A private PostgreSQL server for the demo, the tests and the benchmarks.
//!
//! [`Server::start`] finds server binaries ([`binaries`]) or fetches a private copy ([`fetch`]), makes a cluster in a directory of
//! its own and starts it on a Unix socket there, as an unprivileged user when we are root (PostgreSQL refuses to run as root). It
//! is stopped and its directory removed when the value is dropped; when the process dies without that, by panic, signal or
//! SIGKILL, a janitor process that watches a pipe to us does it. Should both be killed, the next start sweeps up.

pub mod binaries;
pub mod fetch;
mod sweep;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

pub use binaries::Binaries;

/// How long a new server may take until it answers. A cluster of a few megabytes is up in a tenth of a second; this is for a machine
/// that is busy with something else.
const START_MAX: Duration = Duration::from_secs(60);

/// Why there is no private server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No server binaries, and none could be fetched.
    #[error("no PostgreSQL server binaries{}: {why}", major.map(|m| format!(" of version {m}")).unwrap_or_default())]
    NoBinaries {
        /// The version asked for.
        major: Option<u32>,
        /// What was tried.
        why: String,
    },
    /// Something of the system did not work.
    #[error("{0}")]
    System(String, #[source] io::Error),
    /// The server or `initdb` ended, or did not answer.
    #[error("{what}:\n{log}")]
    Broken {
        /// What happened.
        what: String,
        /// The end of its log.
        log: String,
    },
}

/// How the server is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The major version; any that is found when not given.
    pub major: Option<u32>,
    /// Extra settings, `name=value`.
    pub settings: Vec<String>,
    /// Whether a crash of the machine may lose data. Right for tests; wrong for anything measured, because a commit then costs
    /// nothing.
    pub no_fsync: bool,
}

/// A running private server.
pub struct Server {
    directory: PathBuf,
    process: Child,
    janitor: Option<(Child, ChildStdin)>,
    version: String,
    binaries: Binaries,
    user: Option<User>,
    settings: Vec<String>,
}

impl Server {
    /// Makes a cluster and starts it.
    pub fn start(options: &Options) -> Result<Server, ServerError> {
        sweep::sweep();
        let binaries = Binaries::obtain(options.major)?;
        let user = binaries::unprivileged_user();
        let directory = make_directory(user.as_ref())?;
        let version = binaries.version.clone();
        let mut settings = options.settings.clone();
        if options.no_fsync {
            settings.push("fsync=off".to_owned());
        }
        let guard = RemoveOnDrop(Some(directory.clone()));
        init_cluster(&binaries, user.as_ref(), &directory)?;
        let process = spawn(&binaries, user.as_ref(), &directory, &settings)?;
        let janitor = sweep::janitor(&directory, process.id()).ok();
        let mut server = Server { directory, process, janitor, version, binaries, user, settings };
        guard.disarm();
        server.wait_until_up()?;
        Ok(server)
    }

    /// The socket's directory, which is what a client gives as host.
    pub fn socket_dir(&self) -> &Path {
        &self.directory
    }

    /// A connection URL for a database on it, as the superuser `postgres`.
    pub fn url(&self, database: &str) -> String {
        let host = self.directory.display().to_string().replace('/', "%2F");
        format!("postgresql://postgres@{host}/{database}")
    }

    /// The server's version as it calls itself, such as `15.18`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where its log goes.
    pub fn log_path(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    /// Stops it as a power cut would (`-m immediate`), leaving the cluster to be started again.
    pub fn crash(&mut self) -> Result<(), ServerError> {
        self.signal(Signal::SIGQUIT);
        self.process.wait().map(drop).map_err(system("wait for the server"))
    }

    /// Starts it again after [`Server::crash`].
    pub fn restart(&mut self) -> Result<(), ServerError> {
        self.process = spawn(&self.binaries, self.user.as_ref(), &self.directory, &self.settings)?;
        self.dismiss_janitor();
        self.janitor = sweep::janitor(&self.directory, self.process.id()).ok();
        self.wait_until_up()
    }

    /// Leaves it running when this value goes: the directory, and the command that stops and removes it.
    pub fn keep(mut self) -> (PathBuf, String) {
        sweep::mark_kept(&self.directory);
        let directory = self.directory.clone();
        let pid = self.process.id();
        self.dismiss_janitor();
        std::mem::forget(self);
        let stop = format!("kill -INT {pid} && sleep 1 && rm -r {}", directory.display());
        (directory, stop)
    }

    /// Sends the janitor away without its doing anything: the process it watches over is gone, or shall stay.
    fn dismiss_janitor(&mut self) {
        if let Some((mut janitor, mut pipe)) = self.janitor.take() {
            let _ = pipe.write_all(b"keep\n");
            drop(pipe);
            let _ = janitor.wait();
        }
    }

    fn signal(&self, signal: Signal) {
        // A server that is gone already is what the signal is for.
        let _ = kill(Pid::from_raw(self.process.id() as i32), signal);
    }

    fn wait_until_up(&mut self) -> Result<(), ServerError> {
        let deadline = Instant::now() + START_MAX;
        loop {
            let status = fs::read_to_string(self.directory.join("data/postmaster.pid"));
            if status.is_ok_and(|text| {
                text.lines().nth(7).is_some_and(|line| ["ready", "standby"].contains(&line.trim()))
            }) {
                return Ok(());
            }
            if let Ok(Some(exit)) = self.process.try_wait() {
                return Err(self.broken(format!("the server ended with {exit}")));
            }
            if Instant::now() > deadline {
                return Err(
                    self.broken(format!("the server was not up after {} s", START_MAX.as_secs()))
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn broken(&self, what: String) -> ServerError {
        ServerError::Broken { what, log: tail(&self.log_path()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::SIGQUIT);
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
        self.dismiss_janitor();
    }
}

/// Removes a directory unless disarmed; for the steps between making it and handing it to a [`Server`].
struct RemoveOnDrop(Option<PathBuf>);

impl RemoveOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if let Some(directory) = self.0.take() {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> ServerError {
    let what = what.into();
    |error| ServerError::System(what, error)
}

fn make_directory(user: Option<&User>) -> Result<PathBuf, ServerError> {
    let name = format!("{}{}-{:08x}", sweep::PREFIX, std::process::id(), fastrand::u32(..));
    // A socket's path must stay under 108 bytes, so not below a deep temporary directory.
    let base = std::env::temp_dir();
    let base = if base.as_os_str().len() < 60 { base } else { PathBuf::from("/tmp") };
    let directory = base.join(name);
    fs::create_dir(&directory).map_err(system(format!("create {}", directory.display())))?;
    let guard = RemoveOnDrop(Some(directory.clone()));
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))
        .map_err(system("set permissions"))?;
    sweep::mark_owned(&directory).map_err(system("mark the directory"))?;
    if let Some(user) = user {
        nix::unistd::chown(&directory, Some(user.uid), Some(user.gid)).map_err(|errno| {
            ServerError::System("give the directory away".to_owned(), errno.into())
        })?;
    }
    guard.disarm();
    Ok(directory)
}

/// A command of the server's binaries, as the unprivileged user, in a process group of its own: a Ctrl-C in the terminal is for us, and
/// we then stop the server in order.
fn command(binaries: &Binaries, user: Option<&User>, program: &str) -> Command {
    let mut command = Command::new(binaries.directory.join(program));
    command
        .process_group(0)
        .stdin(Stdio::null())
        .current_dir("/")
        .env("LC_ALL", "C")
        .env_remove("PGDATA");
    if let Some(library) = &binaries.library {
        command.env("LD_LIBRARY_PATH", library);
    }
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

fn init_cluster(
    binaries: &Binaries,
    user: Option<&User>,
    directory: &Path,
) -> Result<(), ServerError> {
    let output = command(binaries, user, "initdb")
        .args([
            "--no-sync",
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            "--pgdata",
        ])
        .arg(directory.join("data"))
        .output()
        .map_err(system("run initdb"))?;
    if output.status.success() {
        return Ok(());
    }
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(ServerError::Broken { what: format!("initdb ended with {}", output.status), log })
}

fn spawn(
    binaries: &Binaries,
    user: Option<&User>,
    directory: &Path,
    settings: &[String],
) -> Result<Child, ServerError> {
    let log = fs::OpenOptions::new().create(true).append(true).open(directory.join("server.log"));
    let log = log.map_err(system("create the server's log"))?;
    let errors = log.try_clone().map_err(system("create the server's log"))?;
    let mut command = command(binaries, user, "postgres");
    command.arg("-D").arg(directory.join("data")).arg("-k").arg(directory);
    command.args(["-c", "listen_addresses="]);
    for setting in settings {
        command.args(["-c", setting]);
    }
    command.stdout(log).stderr(errors).spawn().map_err(system("start the server"))
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
