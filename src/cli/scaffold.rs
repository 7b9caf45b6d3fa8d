//! `init`, `new` and `man`: files and texts to begin with.

use std::fs;
use std::path::Path;

use super::failure::{Exit, Failure, Kind};
use super::{print, say};
use crate::spec::{Spec, check_name, from_sql};

const PROJECT: &str = r#"# Settings of this project. Flags and environment variables win over them, a spec's [limits] too.

[database]
# url = "postgresql://user@host:5432/database?sslmode=verify-full"    # better: DATABASE_URL, or PG* and ~/.pgpass
# state_schema = "backfill"       # where progress is kept, in the same database

[limits]
# workers = 2                     # chunks in flight at once
# rate = "5000 rows/s"            # over all workers, or "1 MB/s wal", or both with a comma; no limit when not given
# chunk_time = "500ms"            # how long one chunk, and so one row lock, may take
# chunk_rows_max = 50000
# quarantine_max = 100            # rows to set aside before the run fails
# lock_timeout = "500ms"          # how long a chunk waits for a row before it gives way
# durability = "group"            # COMMIT does not wait for the disk; a crash of the server takes the last chunks back whole

# [[throttle.window]]             # the first that holds wins; outside of all of them [limits] hold
# name = "business hours"
# days = "mon-fri"
# hours = "09:00-18:00"
# timezone = "Europe/Berlin"
# rate = "2000 rows/s"            # or pause = true
# workers = 1

# [health]                        # signals of the server that slow or hold every run; all are on
# replica_lag = { warm = "32 MB", hot = "64 MB", hold = "256 MB" }
# dead_rows = "off"
# flag_file = "/run/backfill.stop"

# [vacuum]                        # of the table as a run goes, where its updates are not mostly HOT
# every = "10%"                   # of its rows; or "off"

[undo]
# retention = "14d"               # how long before-images are to be kept; `backfill prune` then drops them
"#;

const MIGRATION: &str = "\
A schema step is a file <time>_<id>_<slug>.sql; write one with: backfill migrate revision -m \"add my column\"
Whole zero-downtime changes are written by: backfill migrate revision --pattern add-not-null my_table.my_column 0

-- What it is for, in words.
-- revises: 3f1a                             (the id of the one before; base for the first)
-- requires: my_backfill@verified for 1d     (started, finished, verified from the data, proved by a constraint)
-- transaction: auto                         (none: each statement its own; file: all in one)
-- irreversible: reason                      (instead of a way back)
-- stop: the new code is deployed            (upgrade goes past it only when it is named)
-- ignore RULE: reason                       (a finding of `backfill migrate lint` that is meant)

-- up
ALTER TABLE public.my_table ADD COLUMN my_column text;
CREATE INDEX CONCURRENTLY my_table_my_column ON public.my_table (my_column);

-- down
DROP INDEX CONCURRENTLY public.my_table_my_column;
ALTER TABLE public.my_table DROP COLUMN my_column;
-- verify: SELECT count(*) = 0 FROM public.my_table WHERE my_column = ''

A file with `-- backfill: my_backfill` instead of statements starts that backfill, and its downgrade takes it back.
";

fn spec_template(name: &str) -> String {
    format!(
        r#"# {name}: what it is for, and who asked for it.

description = "say it in one line"
table = "public.my_table"           # unqualified names resolve through search_path
# key = ["id"]                      # the primary key, unless another unique index on NOT NULL columns is named
# from = "categories AS c"          # a join source for `when`, `fill` and `set`; at most one of its rows for each row

[[rule]]                            # for each column, the first rule whose `when` holds decides
when = "category = 'a'"
fill = {{ my_column = "lower(name)" }}     # only where my_column is NULL today

# [[rule]]
# when = "tier = 'free'"
# set = {{ quota = "quota * 2" }}          # whatever quota holds today

# [verify]
# remaining = "my_column IS NULL"   # a row still to do; worked out from the rules where that is possible

# [undo]
# mode = "capture"                  # before-images (the default); "statement" with undo rules, or "none"
# [[undo.rule]]
# when = "tier = 'free'"
# set = {{ quota = "quota / 2" }}

# [limits]
# workers = 2
# rate = "5000 rows/s"
"#
    )
}

/// `backfill init [DIR]`. Existing files are left alone.
pub(super) fn init(directory: &Path) -> Result<Exit, Failure> {
    let files = [
        ("backfill.toml", PROJECT.to_owned()),
        ("backfills/example.toml", spec_template("example")),
        ("migrations/EXAMPLE.txt", MIGRATION.to_owned()),
    ];
    for (name, text) in files {
        let path = directory.join(name);
        if path.exists() {
            say(&format!("kept    {}", path.display()));
            continue;
        }
        write_new(&path, &text)?;
        say(&format!("written {}", path.display()));
    }
    say("next: edit backfills/example.toml, then `backfill doctor` and `backfill plan example`");
    Ok(Exit::Done)
}

/// `backfill new NAME [--from-sql SQL]`.
pub(super) fn new(project: &Path, name: &str, sql: Option<&str>) -> Result<Exit, Failure> {
    check_name(name).map_err(Failure::usage)?;
    let path = project.join("backfills").join(format!("{name}.toml"));
    if path.exists() {
        return Err(Failure::refused(format!("{} exists already", path.display()))
            .hint("edit it, or choose another name"));
    }
    let text = match sql {
        None => spec_template(name),
        Some(sql) => {
            let text = from_sql::convert(name, sql).map_err(Failure::from)?;
            // What is written must be readable; if not, it is a defect of the conversion and nothing is written.
            Spec::parse(name, &path.display().to_string(), &text)?;
            text
        }
    };
    write_new(&path, &text)?;
    say(&format!("written {}\nnext: backfill plan {name}", path.display()));
    Ok(Exit::Done)
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Kind::Failed, format!("write {}: {error}", path.display()))
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)
}

/// `backfill man`.
pub(super) fn man(command: clap::Command) -> Result<Exit, Failure> {
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(command).render(&mut page);
    rendered
        .map_err(|error| Failure::new(Kind::Failed, format!("write the manual page: {error}")))?;
    print(&String::from_utf8_lossy(&page));
    Ok(Exit::Done)
}
