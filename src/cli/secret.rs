//! A password on the command line is shown to every user of the machine, in the list of processes. So a `--url` that has one goes over to
//! the environment, which only the same user may read: the program starts itself again without it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::db::ConnInfo;

/// The environment's `--url`.
pub(super) const URL: &str = "BACKFILL_URL";

/// The environment's `--scratch-url`.
pub(super) const SCRATCH_URL: &str = "BACKFILL_SCRATCH_URL";

/// The options that take a URL, and their names in the environment.
const OPTIONS: [(&str, &str); 2] = [("--url", URL), ("--scratch-url", SCRATCH_URL)];

/// Starts the program again when its command line has a password. Comes back when that is not so, or cannot be done.
pub(super) fn off_the_command_line() {
    let mut arguments = std::env::args_os();
    let Some(name) = arguments.next() else { return };
    let (rest, urls) = without_urls(arguments);
    if !urls.iter().any(|(_, url)| has_password(url)) {
        return;
    }
    let error = match std::env::current_exe() {
        Ok(program) => Command::new(program).arg0(name).args(rest).envs(urls).exec(),
        Err(error) => error,
    };
    tracing::warn!("the password of a URL shows in the list of processes ({error})");
}

/// The arguments without those that are URLs, and what these were, by their names in the environment.
fn without_urls(
    mut arguments: impl Iterator<Item = OsString>,
) -> (Vec<OsString>, BTreeMap<&'static str, OsString>) {
    let (mut rest, mut urls) = (Vec::new(), BTreeMap::new());
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            rest.push(argument);
            rest.extend(arguments);
            break;
        }
        let text = argument.as_bytes();
        // What stands behind the option: `=` and the URL, or nothing.
        let found = OPTIONS.iter().find_map(|(option, variable)| {
            let behind = text.strip_prefix(option.as_bytes())?;
            match behind.strip_prefix(b"=") {
                Some(url) => Some((*variable, Some(url))),
                None => behind.is_empty().then_some((*variable, None)),
            }
        });
        match found {
            Some((variable, Some(url))) => {
                urls.insert(variable, OsStr::from_bytes(url).to_owned());
            }
            Some((variable, None)) => match arguments.next() {
                Some(url) => drop(urls.insert(variable, url)),
                None => rest.push(argument),
            },
            None => rest.push(argument),
        }
    }
    (rest, urls)
}

/// Whether there is, or may be, a password in a URL; of one that cannot be read nobody knows.
fn has_password(url: &OsString) -> bool {
    let Some(url) = url.to_str() else { return true };
    match ConnInfo::resolve(Some(url), None, &|_| None) {
        Ok(info) => info.config.get_password().is_some(),
        Err(_) => url.contains('@') || url.contains("password"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_out_and_nothing_else() {
        let split = |words: &str| {
            let (rest, urls) = without_urls(words.split(' ').map(OsString::from));
            let rest: Vec<String> = rest.iter().map(|w| w.to_string_lossy().into()).collect();
            let urls = urls.iter().map(|(name, url)| format!("{name}={}", url.to_string_lossy()));
            (rest.join(" "), urls.collect::<Vec<_>>().join(" "))
        };
        let both = |rest: &str, urls: &str| (rest.to_owned(), urls.to_owned());
        assert_eq!(split("run x --url u -v"), both("run x -v", "BACKFILL_URL=u"));
        assert_eq!(split("--url=u=1 run x"), both("run x", "BACKFILL_URL=u=1"));
        assert_eq!(
            split("migrate test --scratch-url s --url=u"),
            both("migrate test", "BACKFILL_SCRATCH_URL=s BACKFILL_URL=u")
        );
        for same in ["run x -- --url u", "run x --url", "run --urls u", "run x"] {
            assert_eq!(split(same), both(same, ""));
        }
    }

    #[test]
    fn a_password_is_seen_in_every_form() {
        let has = |url: &str| has_password(&OsString::from(url));
        for url in [
            "postgresql://me:p@h/d",
            "postgresql://h/d?password=p",
            "host=h password=p",
            "nonsense@p",
        ] {
            assert!(has(url), "{url}");
        }
        for url in ["postgresql://me@h/d", "host=h user=me", "postgres:///d?host=/tmp"] {
            assert!(!has(url), "{url}");
        }
    }
}
