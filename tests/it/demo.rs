//! The demo tells its story, and leaves nothing behind however it ends.

use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::support::{Started, program, wait_for};

/// What a demo process has in the temporary directory.
fn traces(pid: u32) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(std::env::temp_dir()).unwrap().flatten().map(|entry| entry.path());
    entries.filter(|path| path.to_string_lossy().contains(&format!("backfill-pg-{pid}-"))).collect()
}

/// The postmaster of a demo process, while it is up. While `initdb` prepares the data the same file names servers without
/// connections, as a negative number.
fn postmaster(pid: u32) -> Option<i32> {
    let server = traces(pid).pop()?;
    let lock = std::fs::read_to_string(server.join("data/postmaster.pid")).ok()?;
    lock.lines().next()?.parse().ok().filter(|postmaster| *postmaster > 0)
}

fn is_alive(pid: i32) -> bool {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok()
}

fn demo(arguments: &[&str]) -> Started {
    let mut command = program();
    command.arg("demo").args(arguments);
    Started::new(command)
}

#[test]
fn the_whole_story() {
    let started = demo(&["--rows", "300000"]);
    let pid = started.pid();
    let ran = started.wait().exits(0);
    for words in [
        "interrupted (forward run 1)",
        "governance_phases is verified: 300,000 rows looked at, none left to do",
        "rows committed by both runners             300,000",
        "rows without a value then                  0",
        "rows given back                            299,997",
        "rows of the application left alone         3",
        "all others as before the run, by checksum  yes",
        "5a2c release legacy rank (applied",
        "governance_phases, tier and skill_category are NOT NULL",
    ] {
        assert!(ran.stdout.contains(words), "{words}\n{}", ran.stdout);
    }
    assert!(ran.stderr.contains("resuming governance_phases"), "{}", ran.stderr);
    assert_eq!(traces(pid), Vec::<PathBuf>::new());
}

#[test]
fn a_signal_or_a_kill_leaves_nothing_behind() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let started = demo(&["--rows", "5000000"]);
        let pid = started.pid();
        let mut server = None;
        wait_for("the server is up", || {
            server = postmaster(pid);
            server.is_some()
        });
        let server = server.unwrap();
        let project = || traces(pid).pop().is_some_and(|server| server.join("project").exists());
        wait_for("the demo loads rows", project);
        started.signal(signal);
        let ran = started.wait();
        assert_eq!(ran.code, if signal == Signal::SIGKILL { -1 } else { 4 }, "{}", ran.stderr);
        // After SIGKILL it is the janitor that cleans up, a moment later.
        wait_for("everything is gone", || traces(pid).is_empty() && !is_alive(server));
    }
}
