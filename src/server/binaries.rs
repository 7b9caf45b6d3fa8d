//! Finding PostgreSQL server binaries on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{User, geteuid};

use super::{ServerError, fetch};

/// Names the directory with `postgres` and `initdb`; wins over everything found.
pub const VARIABLE: &str = "BACKFILL_PG_BIN";

/// A directory with `postgres` and `initdb`.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The directory.
    pub directory: PathBuf,
    /// Libraries they need that the system does not know.
    pub library: Option<PathBuf>,
    /// The version, such as `15.18`.
    pub version: String,
}

impl Binaries {
    /// Finds binaries, of the major version when one is asked for, or fetches a private copy.
    pub fn obtain(major: Option<u32>) -> Result<Binaries, ServerError> {
        match find(major) {
            Some(found) => Ok(found),
            None => fetch::fetch(major),
        }
    }

    /// The binaries in a directory, if they are there and this machine can run them.
    pub fn at(directory: &Path, library: Option<PathBuf>) -> Option<Binaries> {
        if !directory.join("initdb").is_file() {
            return None;
        }
        let mut command = Command::new(directory.join("postgres"));
        if let Some(library) = &library {
            command.env("LD_LIBRARY_PATH", library);
        }
        let output = command.arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version =
            text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        Some(Binaries { directory: directory.to_owned(), library, version: version.to_owned() })
    }

    /// The major version.
    pub fn major(&self) -> Option<u32> {
        self.version.split(['.', 'b', 'r', 'd']).next()?.parse().ok()
    }
}

fn find(major: Option<u32>) -> Option<Binaries> {
    let fits = |found: &Binaries| major.is_none() || found.major() == major;
    if let Some(named) = std::env::var_os(VARIABLE) {
        let named = Binaries::at(Path::new(&named), None).filter(fits);
        if named.is_some() {
            return named;
        }
    }
    candidates().into_iter().find_map(|directory| Binaries::at(&directory, None).filter(fits))
}

/// Where servers are usually installed; the newest version of each place first.
fn candidates() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        found.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    let places = [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/opt/homebrew/opt", "postgresql@", "bin"),
        ("/usr/local/opt", "postgresql@", "bin"),
    ];
    for (base, prefix, bin) in places {
        let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(base)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let version = name.strip_prefix(prefix)?.parse().ok()?;
                Some((version, entry.path().join(bin)))
            })
            .collect();
        versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        found.extend(versions.into_iter().map(|(_, path)| path));
    }
    found
}

/// The user to run a server as: none when we are not root, else `postgres`, else `nobody`.
pub fn unprivileged_user() -> Option<User> {
    if !geteuid().is_root() {
        return None;
    }
    let named = |name| User::from_name(name).ok().flatten();
    named("postgres").or_else(|| named("nobody"))
}
