//! Nothing left behind: the janitor that outlives us by a moment, and the sweep of what even it could not remove.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Names of private servers' directories begin with this.
pub(super) const PREFIX: &str = "backfill-pg-";

/// Written into a directory: the process that owns it, and when that process began, so that a reused number does not protect it.
const OWNER: &str = "owner";

/// Present in a directory that shall outlive its owner.
const KEPT: &str = "kept";

/// Waits for its standard input to end, which happens when the owner is gone in whatever way, then stops the server and removes the
/// directory. `keep` on the pipe sends it away. It ignores the signals of a terminal, which are for the owner.
const JANITOR: &str = r#"
trap '' INT TERM HUP
read -r word
[ "$word" = keep ] && exit 0
kill -QUIT "$1" 2>/dev/null
i=0
while kill -0 "$1" 2>/dev/null && [ $i -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
rm -rf "$2"
"#;

pub(super) fn janitor(directory: &Path, server: u32) -> io::Result<(Child, ChildStdin)> {
    let mut child = Command::new("sh")
        .args(["-c", JANITOR, "backfill-janitor", &server.to_string()])
        .arg(directory)
        .process_group(0)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let pipe = child.stdin.take().ok_or_else(|| io::Error::other("the janitor has no pipe"))?;
    Ok((child, pipe))
}

pub(super) fn mark_owned(directory: &Path) -> io::Result<()> {
    let pid = std::process::id();
    fs::write(directory.join(OWNER), format!("{pid} {}", birth(pid).unwrap_or_default()))
}

pub(super) fn mark_kept(directory: &Path) {
    // Without the mark a kept server is swept by the next start; nothing worse.
    let _ = fs::write(directory.join(KEPT), "");
}

/// Removes the servers of owners that are gone.
pub(super) fn sweep() {
    for base in [std::env::temp_dir(), PathBuf::from("/tmp")] {
        for entry in fs::read_dir(base).into_iter().flatten().flatten() {
            let directory = entry.path();
            if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_orphan(&directory) {
                stop(&directory);
                let _ = fs::remove_dir_all(&directory);
            }
        }
    }
}

fn is_orphan(directory: &Path) -> bool {
    if directory.join(KEPT).exists() {
        return false;
    }
    let Ok(owner) = fs::read_to_string(directory.join(OWNER)) else {
        // Being made at this moment, or not ours to judge.
        return false;
    };
    let (pid, born) = owner.split_once(' ').unwrap_or((&owner, ""));
    let Ok(pid) = pid.parse::<u32>() else { return false };
    let is_alive = kill(Pid::from_raw(pid as i32), None).is_ok()
        || nix::errno::Errno::last() == nix::errno::Errno::EPERM;
    !is_alive || birth(pid).is_some_and(|now| now != born)
}

/// When a process began, in the kernel's ticks; None where there is no `/proc`.
fn birth(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may hold blanks; the fields are counted behind it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

/// Stops the server of a directory, if it is still that server.
fn stop(directory: &Path) {
    let Ok(status) = fs::read_to_string(directory.join("data/postmaster.pid")) else { return };
    let mut lines = status.lines();
    let (Some(pid), Some(data)) =
        (lines.next().and_then(|pid| pid.parse::<i32>().ok()), lines.next())
    else {
        return;
    };
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_server = arguments.is_empty() || String::from_utf8_lossy(&arguments).contains(data);
    if !is_server {
        return;
    }
    let pid = Pid::from_raw(pid);
    let _ = kill(pid, Signal::SIGQUIT);
    for _ in 0..100 {
        if kill(pid, None).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
