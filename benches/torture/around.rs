//! What a runner stands on besides its server: a pooler in between, a clock, a disk. Each can fail, and none of them is there on every
//! machine.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backfill::server::binaries::unprivileged_user;
use fastrand::Rng;

/// Gives a file or directory to the user of the server.
fn give_away(path: &Path) {
    if let Some(user) = unprivileged_user() {
        nix::unistd::chown(path, Some(user.uid), Some(user.gid)).expect("give a file away");
    }
}

/// `PgBouncer` in transaction mode.
pub struct Pooler {
    child: Child,
    config: PathBuf,
    pub port: u16,
}

const POOLER: &str = "/usr/sbin/pgbouncer";

impl Pooler {
    pub fn is_there() -> bool {
        Path::new(POOLER).is_file()
    }

    pub fn start(socket_dir: &Path, database: &str, directory: &Path) -> Pooler {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("the port's number").port();
        drop(listener);
        let config = directory.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n{database} = host={} dbname={database} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 8\n\
             logfile = {}/pgbouncer.log\n",
            socket_dir.display(),
            directory.display()
        );
        std::fs::write(&config, text).expect("write the pooler's settings");
        give_away(directory);
        Pooler { child: Pooler::spawn(&config), config, port }
    }

    fn spawn(config: &Path) -> Child {
        let mut command = Command::new(POOLER);
        command.arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(user) = unprivileged_user() {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command.spawn().expect("start the pooler")
    }

    /// Kills it, and starts it again after a while.
    pub fn restart(&mut self, pause: Duration) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        std::thread::sleep(pause);
        self.child = Pooler::spawn(&self.config);
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "the pooler does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The clock on the wall as a runner sees it, by libfaketime. What measures time goes on as it should.
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    fn library() -> Option<PathBuf> {
        let places = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
        places.map(|place| place.join("faketime/libfaketime.so.1")).find(|path| path.is_file())
    }

    pub fn is_there() -> bool {
        Clock::library().is_some()
    }

    pub fn new(directory: &Path) -> Clock {
        let clock = Clock { file: directory.join("clock") };
        clock.set("+0");
        clock
    }

    fn set(&self, offset: &str) {
        // In one step, for it is read at any time.
        let next = self.file.with_extension("next");
        std::fs::write(&next, offset).expect("write the clock");
        std::fs::rename(&next, &self.file).expect("set the clock");
    }

    /// Hours or days, forth or back.
    pub fn jump(&self, rng: &mut Rng) {
        let unit = ["m", "h", "d"][rng.usize(0..3)];
        let sign = ["+", "-"][rng.usize(0..2)];
        self.set(&format!("{sign}{}{unit}", rng.u32(1..50)));
    }

    pub fn wind(&self, command: &mut Command) {
        let Some(library) = Clock::library() else { return };
        command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}

/// A filesystem of its own, small enough to be filled. Only root can make one.
pub struct Disk {
    directory: PathBuf,
}

/// Room for a few copies of a history's table.
const DISK: &str = "size=256m";

impl Disk {
    pub fn is_there() -> bool {
        let directory = std::env::temp_dir().join(format!("backfill-disk-{}", std::process::id()));
        std::fs::create_dir_all(&directory).is_ok() && Disk::mount(directory).is_some()
    }

    /// Mounts one; it goes with the value.
    pub fn mount(directory: PathBuf) -> Option<Disk> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(&directory).stderr(Stdio::null());
        let is_mounted = command.status().is_ok_and(|status| status.success());
        is_mounted.then_some(Disk { directory })
    }

    /// A directory of the server on it.
    pub fn for_server(&self) -> PathBuf {
        let directory = self.directory.join("tablespace");
        std::fs::create_dir_all(&directory).expect("make a directory");
        give_away(&directory);
        directory
    }

    /// Leaves no byte free for a while.
    pub fn fill(&self, pause: Duration) {
        let path = self.directory.join("filler");
        let mut filler = std::fs::File::create(&path).expect("make a file");
        for size in [1 << 20, 1 << 12, 1] {
            let block = vec![0; size];
            while filler.write_all(&block).is_ok() {}
        }
        std::thread::sleep(pause);
        std::fs::remove_file(&path).expect("remove a file");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.directory).status();
        let _ = std::fs::remove_dir(&self.directory);
    }
}
