//! Whatever a file or an argument holds, it is read or refused with a place: no panic, no hang.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use backfill::budget::Budget;
use backfill::db::ConnInfo;
use backfill::diagnostic::Report;
use backfill::migrate::requirement::Requirement;
use backfill::migrate::{class, file, split};
use backfill::settings::Project;
use backfill::spec::{Spec, from_sql};
use backfill::units;
use fastrand::Rng;

/// Inputs for each parser: some seconds for all of them.
const INPUTS: u32 = 1_500;

/// Far beyond what any of them takes.
const HANG: Duration = Duration::from_secs(5);

const PIECES: [&str; 40] = [
    "\"",
    "'",
    "\\",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "$$",
    "$a$",
    "--",
    "/*",
    "*/",
    ";",
    "[",
    "]",
    "[[",
    "{",
    "}",
    "=",
    "#",
    ",",
    ".",
    "%",
    "é",
    "☃",
    "\u{feff}",
    "0",
    "-1",
    "1e999",
    "99999999999999999999",
    "nan",
    "25:00",
    "24:00-00:00",
    "rows/s",
    "MB/s wal",
    "begin atomic",
    "end",
    "when",
    "''",
    "=\"\"\"",
];

/// A text with some of it cut out, doubled, moved, or replaced by what means something somewhere.
fn mutate(text: &str, rng: &mut Rng) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(0..=chars.len());
        let until = (at + rng.usize(0..20)).min(chars.len());
        match rng.u32(0..5) {
            0 => drop(chars.drain(at..until)),
            1 => {
                let part: Vec<char> = chars[at..until].to_vec();
                let to = rng.usize(0..=chars.len());
                chars.splice(to..to, part);
            }
            2 => chars.truncate(at),
            _ => {
                let piece = PIECES[rng.usize(0..PIECES.len())];
                chars.splice(at..until.min(at + rng.usize(0..3)), piece.chars());
            }
        }
    }
    chars.into_iter().collect()
}

/// Feeds a parser with mutations of a corpus; one that is at fault is named with its input.
fn feed(name: &str, corpus: &[String], read: impl Fn(&str)) {
    let mut rng = Rng::with_seed(7);
    for i in 0..INPUTS {
        let text = &corpus[rng.usize(0..corpus.len())];
        let input = if i == 0 { String::new() } else { mutate(text, &mut rng) };
        let begun = Instant::now();
        let panicked = catch_unwind(AssertUnwindSafe(|| read(&input))).is_err();
        assert!(!panicked, "{name} panics on {input:?}");
        assert!(begun.elapsed() < HANG, "{name} takes {:?} on {input:?}", begun.elapsed());
    }
}

/// Every problem has a place in the text, and can be shown there.
fn check(report: &Report) {
    assert!(!report.problems.is_empty());
    for problem in &report.problems {
        let span = &problem.span;
        assert!(span.start <= span.end && span.end <= report.source.len(), "{problem:?}");
        assert!(report.source.is_char_boundary(span.start), "{problem:?}");
        assert!(report.source.is_char_boundary(span.end), "{problem:?}");
        assert!(!problem.message.is_empty());
    }
    assert!(!report.render(false).is_empty());
    assert_eq!(report.located().count(), report.problems.len());
}

fn files(directory: &str, ending: &str) -> Vec<String> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries = std::fs::read_dir(root).unwrap().flatten().map(|entry| entry.path());
    let meant = entries.filter(|path| path.to_string_lossy().ends_with(ending));
    let mut texts: Vec<String> = meant.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    texts.sort_unstable();
    texts
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn specs_and_settings_are_read_or_refused() {
    let mut corpus = files("backfills", ".toml");
    corpus.extend(strings(&[
        "table = \"t\"\nkey = [\"a\", \"b\"]\norder = \"striped\"\nstripes = 5\nfrom = \"u AS x\"\nallow_volatile = true\n\
         [[rule]]\nwhen = \"a = 1\"\nset = { n = \"n + 1\", m = '''2''' }\n[[rule]]\nfill = { o = \"3\" }\n[verify]\nremaining = \"n = 0\"\n\
         [undo]\nmode = \"statement\"\n[[undo.rule]]\nset = { n = \"n - 1\" }\n",
        "[database]\nurl = \"postgresql://a@b/c\"\nstate_schema = \"s\"\n[limits]\nworkers = 2\nrate = \"100 rows/s\"\nchunk_time = \"200ms\"\n\
         [[throttle.window]]\nname = \"day\"\ndays = \"mon-fri\"\nhours = \"09:00-18:00\"\ntimezone = \"Europe/Berlin\"\nrate = \"1 MB/s wal\"\n\
         except = [\"2026-12-24..2027-01-02\"]\n[health]\nreplica_lag = { warm = \"2 MB\", hot = \"4 MB\", hold = \"24 MB\" }\nflag_file = \"x\"\n\
         [vacuum]\nevery = \"10%\"\n",
    ]));
    feed("the spec", &corpus, |text| {
        if let Err(report) = Spec::parse("x", "x.toml", text) {
            check(&report);
        }
    });
    feed("the settings", &corpus, |text| {
        if let Err(report) = Project::parse("backfill.toml", text) {
            check(&report);
        }
    });
}

#[test]
fn schema_steps_and_sql_are_read_or_refused() {
    let mut corpus = files("migrations", ".sql");
    corpus.extend(strings(&[
        "-- revises: base\n-- requires: a@verified for 1d\n-- transaction: none\n-- up\ncreate function f() returns int begin atomic select 1; end;\n\
         do $x$ begin perform 1; end $x$; /* a /* b */ c */ select E'\\'', U&\"d\\0061\", $$;$$;\n-- down\ndrop function f();\n-- verify: select 1\n",
        "UPDATE t AS x SET a = CASE WHEN b THEN 1 ELSE 2 END, (c, d) = (1, 2) FROM u WHERE u.id = x.id AND a IS NULL",
    ]));
    let name = "20260105090000_3f1a_create.sql";
    feed("the revision", &corpus, |text| {
        if let Err(report) = file::parse("migrations/x.sql", name, text) {
            check(&report);
        }
    });
    feed("pasted SQL", &corpus, |text| match from_sql::convert("x", text) {
        Err(report) => check(&report),
        Ok(spec) => drop(Spec::parse("x", "x.toml", &spec).map_err(|report| check(&report))),
    });
    feed("statements", &corpus, |text| {
        split::normalised(text);
        split::line_comments(text);
        let words = split::words(text);
        class::way(text, &words);
        class::asks(text, &words);
        class::dropped(text, &words);
        class::unfit(text, &words);
        if let Err(cut) = split::split(text) {
            assert!(cut.span.end <= text.len() && text.is_char_boundary(cut.span.start));
        }
    });
}

#[test]
fn arguments_are_read_or_refused() {
    let units = strings(&[
        "500ms",
        "14d",
        "1h30m",
        "2 GB",
        "1.5 MB",
        "5000 rows/s, 10 MB/s wal",
        "off",
        "3",
    ]);
    feed("units", &units, |text| {
        let _ = (units::parse_duration(text), units::parse_chunk_time(text));
        let _ = (units::parse_workers(text), units::parse_bytes(text), text.parse::<Budget>());
        let _ = Requirement::parse(text, 0..text.len());
    });
    let urls = strings(&[
        "postgresql://user:p%40ss@host1:5432,host2/db?target_session_attrs=read-write&sslmode=verify-full&options=-c%20a%3Db",
        "host=/tmp port=5432 user='a b' password='it\\'s' dbname=x connect_timeout=3 sslmode=require",
        "postgres://%2Ftmp/x?host=a",
    ]);
    feed("connection strings", &urls, |text| {
        if let Err(error) = ConnInfo::resolve(Some(text), None, &|_| None) {
            assert!(!error.to_string().contains("p%40ss"), "the password shows: {error}");
        }
    });
}
