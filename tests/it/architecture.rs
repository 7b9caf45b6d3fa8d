//! The rules of the tree: who may use whom, how long a file may be, what comments may not say.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules that use nothing of ours but what is listed. `cli` uses all, nobody uses `cli`.
const MAY_USE: [(&str, &[&str]); 25] = [
    ("sql", &[]),
    ("key", &["sql"]),
    ("event", &[]),
    ("diagnostic", &[]),
    ("document", &["diagnostic", "sql"]),
    ("units", &[]),
    ("budget", &["event"]),
    ("calendar", &["budget", "diagnostic", "document", "event", "units"]),
    (
        "settings",
        &["budget", "calendar", "diagnostic", "document", "event", "signal", "units", "vacuum"],
    ),
    ("vacuum", &["db", "diagnostic", "document", "sql"]),
    ("undo", &[]),
    (
        "spec",
        &["calendar", "diagnostic", "document", "settings", "signal", "sql", "undo", "vacuum"],
    ),
    ("db", &["mutation", "sql"]),
    ("state", &["mutation", "budget", "db", "key", "sql", "undo"]),
    (
        "plan",
        &[
            "mutation",
            "db",
            "diagnostic",
            "document",
            "event",
            "key",
            "spec",
            "sql",
            "state",
            "undo",
            "vacuum",
        ],
    ),
    ("proof", &["db", "key", "plan"]),
    ("signal", &["diagnostic", "document", "event", "sql", "units"]),
    ("throttle", &["budget", "calendar", "db", "document", "event", "settings", "signal"]),
    (
        "engine",
        &[
            "mutation", "budget", "calendar", "db", "event", "key", "plan", "settings", "signal",
            "sql", "state", "throttle", "undo", "vacuum",
        ],
    ),
    ("progress", &["budget", "event"]),
    ("eta", &["budget", "calendar"]),
    ("report", &["budget", "calendar", "db", "eta", "event", "state", "undo"]),
    ("migrate", &["db", "diagnostic", "document", "event", "sql", "state", "units"]),
    ("server", &[]),
    ("mutation", &[]),
];

/// Modules that are synchronous and know no database.
const PURE: [&str; 47] = [
    "signal/read.rs",
    "engine/crew.rs",
    "eta.rs",
    "signal.rs",
    "throttle/commits.rs",
    "throttle/grade.rs",
    "throttle/law.rs",
    "throttle/health.rs",
    "throttle/rest.rs",
    "throttle/times.rs",
    "units.rs",
    "budget.rs",
    "calendar.rs",
    "calendar/read.rs",
    "calendar/week.rs",
    "sql.rs",
    "key.rs",
    "key/leaf.rs",
    "key/range.rs",
    "event.rs",
    "diagnostic.rs",
    "document.rs",
    "settings.rs",
    "spec.rs",
    "spec/from_sql.rs",
    "engine/sizer.rs",
    "engine/stripes.rs",
    "engine/retry.rs",
    "plan/statement.rs",
    "plan/explained.rs",
    "plan/forecast.rs",
    "plan/capture.rs",
    "plan/restore.rs",
    "undo.rs",
    "migrate/split.rs",
    "migrate/class.rs",
    "migrate/requirement.rs",
    "migrate/file.rs",
    "migrate/tree.rs",
    "migrate/unit.rs",
    "migrate/file/reading.rs",
    "migrate/lint.rs",
    "migrate/lint/changes.rs",
    "migrate/pattern.rs",
    "migrate/pattern/columns.rs",
    "migrate/pattern/constraints.rs",
    "migrate/patience.rs",
];

/// Longer files need a reason that their module documentation gives.
const LINES_MAX: usize = 500;

/// Whether a file is one of tests, which may use what they like.
fn is_test(path: &Path) -> bool {
    ["tests.rs", "simulation.rs"].iter().any(|name| path.ends_with(name))
}

fn sources() -> BTreeMap<PathBuf, String> {
    fn walk(directory: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.insert(path, text);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    walk(&root, &mut found);
    found
        .into_iter()
        .map(|(path, text)| (path.strip_prefix(&root).unwrap().to_owned(), text))
        .collect()
}

/// The module of ours that a file belongs to.
fn module(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The text without its tests, which may use what they like.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

#[test]
fn modules_use_only_what_the_design_allows() {
    let mut broken = Vec::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| !is_test(path)) {
        let module = module(&path);
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            assert!(
                ["lib", "main", "cli"].contains(&module.as_str()),
                "no rule for module `{module}`"
            );
            continue;
        };
        // Documentation may point anywhere.
        let code = without_tests(&text).lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for used in line.split("crate::").skip(1) {
                let used: String =
                    used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if used != module && !allowed.contains(&used.as_str()) {
                    broken.push(format!(
                        "{}: {module} uses {used}: {}",
                        path.display(),
                        line.trim()
                    ));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn pure_modules_know_no_database_and_do_not_wait() {
    let sources = sources();
    for name in PURE {
        let text = without_tests(&sources[Path::new(name)]);
        for word in ["tokio", "async fn", ".await", "deadpool"] {
            assert!(!text.contains(word), "{name} mentions `{word}`");
        }
    }
}

#[test]
fn only_the_state_module_names_the_state_tables() {
    for (path, text) in sources() {
        if module(&path) != "state" {
            for table in ["backfill.run", "backfill.chunk", "{schema}.", "backfill.quarantine"] {
                assert!(!without_tests(&text).contains(table), "{} names {table}", path.display());
            }
        }
    }
}

#[test]
fn files_stay_readable() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
        assert!(text.starts_with("//!"), "{} does not say what it is for", path.display());
    }
}

#[test]
fn comments_tell_no_history() {
    for (path, text) in sources() {
        for line in text.lines().filter(|line| line.trim_start().starts_with("//")) {
            let lower = line.to_lowercase();
            for word in [
                "previously",
                "used to be",
                "no longer used",
                "was removed",
                "fixme",
                "todo",
                "for now",
            ] {
                assert!(!lower.contains(word), "{}: {line}", path.display());
            }
        }
    }
}

#[test]
fn the_ci_runs_the_command_that_the_readme_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let ci = fs::read_to_string(root.join(".ci/run")).unwrap();
    for command in ["cargo test", "cargo run --release -- demo"] {
        assert!(
            readme.lines().any(|line| line.trim() == command),
            "README.md has no line `{command}`"
        );
    }
    assert!(ci.lines().any(|line| line.trim() == "cargo test"));
}
