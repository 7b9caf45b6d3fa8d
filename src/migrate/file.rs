//! The file of a revision: header comments, the statements that apply it, those that take it back. Pure.
//!
//! ```sql
//! -- What it is for, in words.
//! -- revises: 3f1a
//! -- requires: governance_phases@verified for 1d
//! -- up
//! ALTER TABLE …;
//! -- down
//! ALTER TABLE …;
//! -- verify: SELECT …
//! ```

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::class::{self, Way};
use super::requirement::Requirement;
use super::split::{self, Word};
use crate::diagnostic::{Diagnostic, Report};
use crate::document::nearest;

/// A revision as its file declares it.
#[derive(Clone, Debug)]
pub struct Revision {
    /// From the file's name; unique in the project.
    pub id: String,
    /// From the file's name; orders revisions that do not depend on each other.
    pub timestamp: String,
    /// The slug in words.
    pub title: String,
    /// The path as the user would type it.
    pub path: String,
    /// The file's text.
    pub source: String,
    /// The revisions it builds on; none for the first.
    pub revises: Vec<(String, Range<usize>)>,
    /// What has to be proved before it.
    pub requires: Vec<Requirement>,
    /// How its statements share transactions.
    pub grouping: Grouping,
    /// Why it cannot be taken back.
    pub irreversible: Option<String>,
    /// The backfill that it starts instead of running statements.
    pub backfill: Option<(String, Range<usize>)>,
    /// Rules of `lint` that it asks to be passed over, with the reason.
    pub ignores: Vec<Ignore>,
    /// Applies it.
    pub up: Vec<Statement>,
    /// Takes it back.
    pub down: Vec<Statement>,
    /// Whether the file has a way back, though it may have nothing to do.
    pub has_down: bool,
    /// Queries that must yield true when it is applied.
    pub verify: Vec<Statement>,
}

/// One statement of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// As it is sent.
    pub text: String,
    /// Its bytes in the file.
    pub span: Range<usize>,
    /// How it is run.
    pub way: Way,
}

impl Statement {
    /// Its words, with spans in its own text.
    pub fn words(&self) -> Vec<Word> {
        split::words(&self.text)
    }

    /// The digest of what the server reads of it; comments and line ends make no difference.
    pub fn digest(&self) -> String {
        digest(&self.text)
    }

    /// Its first line, shortened for a table.
    pub fn head(&self) -> String {
        head(&self.text)
    }
}

/// The first 72 characters of a statement, on one line.
pub fn head(text: &str) -> String {
    const SHOWN: usize = 72;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// How statements share transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grouping {
    /// Neighbours that can share one do.
    #[default]
    Auto,
    /// Each its own.
    None,
    /// All in one; a statement that cannot is a mistake.
    File,
}

/// A finding that the author has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignore {
    /// The rule.
    pub rule: String,
    /// Why it does not matter here.
    pub reason: String,
    /// Where.
    pub span: Range<usize>,
}

impl Revision {
    /// The digest of everything that running it depends on; comments, spaces and line ends make no difference.
    pub fn digest(&self) -> String {
        let mut text: String = self
            .up
            .iter()
            .map(|statement| format!("{};", split::normalised(&statement.text)))
            .collect();
        if let Some((name, _)) = &self.backfill {
            text = format!("backfill {name}");
        }
        sha256(&text)
    }

    /// Whether it only joins others.
    pub fn is_merge(&self) -> bool {
        self.revises.len() > 1
    }

    /// Whether `downgrade` can take it back: it has a way back, or nothing to take back.
    pub fn is_reversible(&self) -> bool {
        self.irreversible.is_none()
            && (self.backfill.is_some() || self.up.is_empty() || self.has_down)
    }

    /// The statements that take it back, as text.
    pub fn down_sql(&self) -> String {
        self.down.iter().map(|statement| format!("{};\n", statement.text)).collect()
    }
}

/// Cuts stored SQL into its statements again. None when it is cut off.
pub fn statements(source: &str) -> Option<Vec<Statement>> {
    let pieces = split::split(source).ok()?;
    Some(pieces.iter().map(|piece| statement(source, piece, 0)).collect())
}

fn statement(source: &str, piece: &split::Piece, shift: usize) -> Statement {
    let way = class::way(source, &piece.words);
    let text = source[piece.span.clone()].to_owned();
    Statement { text, span: piece.span.start + shift..piece.span.end + shift, way }
}

fn digest(text: &str) -> String {
    sha256(&split::normalised(text))
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Id, timestamp and slug of a file's name, `<timestamp>_<id>_<slug>.sql`.
pub fn name_parts(file_name: &str) -> Option<(&str, &str, &str)> {
    let stem = file_name.strip_suffix(".sql")?;
    let mut parts = stem.splitn(3, '_');
    let (timestamp, id, slug) = (parts.next()?, parts.next()?, parts.next()?);
    let is_time = timestamp.len() >= 8 && timestamp.chars().all(|c| c.is_ascii_digit() || c == 'T');
    let is_id = id.len() >= 4 && id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    (is_time && is_id && !slug.is_empty()).then_some((timestamp, id, slug))
}

/// Reads a file; all its problems at once.
pub fn parse(path: &str, file_name: &str, source: &str) -> Result<Revision, Report> {
    let Some((timestamp, id, slug)) = name_parts(file_name) else {
        let problem = Diagnostic::new("the file's name is not <timestamp>_<id>_<slug>.sql", 0..0, "in this file")
            .help("such as 20260105090000_3f1a_create_skills.sql; `backfill migrate revision -m \"…\"` writes one");
        return Err(Report::new(path, source, vec![problem]));
    };
    let mut reading = Reading::new(source);
    reading.read();
    let Reading { problems, header, up, down, has_down, verify, .. } = reading;
    if !problems.is_empty() {
        return Err(Report::new(path, source, problems));
    }
    Ok(Revision {
        id: id.to_owned(),
        timestamp: timestamp.to_owned(),
        title: slug.replace('_', " "),
        path: path.to_owned(),
        source: source.to_owned(),
        revises: header.revises,
        requires: header.requires,
        grouping: header.grouping,
        irreversible: header.irreversible,
        backfill: header.backfill,
        ignores: header.ignores,
        up,
        down,
        has_down,
        verify,
    })
}

/// What the header comments say.
#[derive(Debug, Default)]
struct Header {
    revises: Vec<(String, Range<usize>)>,
    requires: Vec<Requirement>,
    grouping: Grouping,
    irreversible: Option<String>,
    backfill: Option<(String, Range<usize>)>,
    ignores: Vec<Ignore>,
}

/// The words that begin a header comment.
const KEYS: [&str; 6] =
    ["revises", "requires", "transaction", "irreversible", "backfill", "ignore"];

/// A file being read.
struct Reading<'a> {
    source: &'a str,
    problems: Vec<Diagnostic>,
    header: Header,
    has_revises: bool,
    up: Vec<Statement>,
    down: Vec<Statement>,
    has_down: bool,
    verify: Vec<Statement>,
}

/// Where in the file a line stands.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Header,
    Up,
    Down,
}

impl<'a> Reading<'a> {
    fn new(source: &'a str) -> Reading<'a> {
        Reading {
            source,
            problems: Vec::new(),
            header: Header::default(),
            has_revises: false,
            has_down: false,
            up: Vec::new(),
            down: Vec::new(),
            verify: Vec::new(),
        }
    }

    fn problem(&mut self, message: impl Into<String>, span: Range<usize>, label: &str, help: &str) {
        self.problems.push(Diagnostic::new(message, span, label).help(help));
    }

    fn read(&mut self) {
        let (mut part, mut offset) = (Part::Header, 0);
        let (mut up, mut down): (Option<Range<usize>>, Option<Range<usize>>) = (None, None);
        for line in self.source.split_inclusive('\n') {
            let span = offset..offset + line.len();
            offset = span.end;
            let trimmed = line.trim();
            let text = span.start + (line.len() - line.trim_start().len())
                ..span.start + line.trim_end().len();
            match trimmed {
                "-- up" if part == Part::Header => {
                    (part, up) = (Part::Up, Some(span.end..span.end));
                }
                "-- down" if part != Part::Down => {
                    (part, down) = (Part::Down, Some(span.end..span.end));
                }
                "-- up" | "-- down" => {
                    self.problem(
                        format!("`{trimmed}` for the second time, or out of order"),
                        text,
                        "here",
                        "a file has one `-- up` and, behind it, one `-- down`",
                    );
                }
                _ if trimmed.starts_with("-- verify:") => self.verify_line(trimmed, text),
                _ if part == Part::Header => self.header_line(trimmed, text),
                _ => {}
            }
            let open = match part {
                Part::Up => up.as_mut(),
                Part::Down => down.as_mut(),
                Part::Header => None,
            };
            if let Some(open) = open.filter(|open| open.start < span.end) {
                open.end = span.end;
            }
        }
        self.up = up.clone().map(|span| self.section(span)).unwrap_or_default();
        self.down = down.clone().map(|span| self.section(span)).unwrap_or_default();
        self.has_down = down.is_some();
        self.check(up.is_some());
    }

    /// A verify query; on one line, because it is a comment.
    fn verify_line(&mut self, trimmed: &str, text: Range<usize>) {
        let query = trimmed["-- verify:".len()..].trim();
        let span = text.end - query.len()..text.end;
        match split::split(query) {
            Ok(pieces) if pieces.len() == 1 => {
                let piece =
                    pieces.into_iter().next().map(|piece| statement(query, &piece, span.start));
                self.verify.extend(piece);
            }
            _ => self.problem(
                "this is not one query",
                span,
                "here",
                "give one SELECT that yields true: `-- verify: SELECT …`",
            ),
        }
    }

    fn header_line(&mut self, line: &str, text: Range<usize>) {
        let Some(comment) = line.strip_prefix("--") else {
            if !line.is_empty() {
                self.problem(
                    "SQL above `-- up`",
                    text,
                    "belongs to no direction",
                    "put it behind a line `-- up`",
                );
            }
            return;
        };
        let Some((key, value)) = comment.split_once(':') else { return };
        let (key, value) = (key.trim(), value.trim());
        if !KEYS.contains(&key.split(' ').next().unwrap_or_default()) {
            // Prose may have colons; a misspelt key is a single word beside a known one.
            if !key.contains(' ')
                && let Some(near) = nearest(key, &KEYS)
            {
                self.problem(
                    format!("`{key}` is not a header"),
                    text,
                    "unknown",
                    &format!("did you mean `{near}`?"),
                );
            }
            return;
        }
        self.header_value(key, value, text.end - value.len()..text.end);
    }

    fn header_value(&mut self, key: &str, value: &str, span: Range<usize>) {
        match key {
            "revises" => {
                self.has_revises = true;
                let mut at = span.start;
                for part in value.split(',') {
                    let start = at + (part.len() - part.trim_start().len());
                    let id = part.trim();
                    at += part.len() + 1;
                    if id != "base" {
                        self.header.revises.push((id.to_owned(), start..start + id.len()));
                    }
                }
            }
            "requires" => match Requirement::parse(value, span.clone()) {
                Ok(requirement) => self.header.requires.push(requirement),
                Err(message) => self.problem(
                    message,
                    span,
                    "here",
                    "such as `governance_phases@verified` or `governance_phases@verified for 1d`",
                ),
            },
            "transaction" => match value {
                "auto" => self.header.grouping = Grouping::Auto,
                "none" => self.header.grouping = Grouping::None,
                "file" => self.header.grouping = Grouping::File,
                _ => self.problem(
                    format!("`{value}` is no way to group statements"),
                    span,
                    "here",
                    "auto (the default), none (each its own), or file (all in one)",
                ),
            },
            "irreversible" if !value.is_empty() => {
                self.header.irreversible = Some(value.to_owned());
            }
            "irreversible" => self.problem(
                "a reason is missing",
                span,
                "here",
                "say why it cannot be taken back: `-- irreversible: reason`",
            ),
            "backfill" => self.header.backfill = Some((value.to_owned(), span)),
            _ => {
                let rule = key.strip_prefix("ignore").unwrap_or_default().trim();
                if rule.is_empty() || value.is_empty() {
                    self.problem(
                        "a rule and a reason are needed",
                        span,
                        "here",
                        "such as `-- ignore set-not-null: the table has 12 rows`",
                    );
                } else {
                    self.header.ignores.push(Ignore {
                        rule: rule.to_owned(),
                        reason: value.to_owned(),
                        span,
                    });
                }
            }
        }
    }

    fn section(&mut self, span: Range<usize>) -> Vec<Statement> {
        let text = &self.source[span.clone()];
        let pieces = match split::split(text) {
            Ok(pieces) => pieces,
            Err(cut_off) => {
                let at = cut_off.span.start + span.start;
                self.problem(
                    cut_off.what,
                    at..at + 1,
                    "begins here and never ends",
                    "close it; nothing of the file is run before",
                );
                return Vec::new();
            }
        };
        let mut statements = Vec::new();
        for piece in pieces {
            if let Some(unfit) = class::unfit(text, &piece.words) {
                let at = unfit.span.start + span.start..unfit.span.end + span.start;
                self.problem(unfit.what, at, "here", unfit.help);
            }
            statements.push(statement(text, &piece, span.start));
        }
        statements
    }

    /// What belongs together.
    fn check(&mut self, has_up: bool) {
        let start = 0..self.source.find('\n').unwrap_or(self.source.len());
        if !self.has_revises {
            self.problem("`revises` is missing", start.clone(), "in this header", "name the revision before it: `-- revises: ID`, or `-- revises: base` for the first");
        }
        let is_merge = self.header.revises.len() > 1;
        if let Some((_, span)) = self.header.backfill.clone() {
            if !self.up.is_empty() || !self.down.is_empty() {
                self.problem(
                    "a revision that starts a backfill has no statements of its own",
                    span,
                    "starts a backfill",
                    "put them into revisions before and behind it",
                );
            }
        } else if !has_up && !is_merge {
            self.problem(
                "there is no line `-- up`",
                start,
                "in this file",
                "put the statements that apply the revision behind a line `-- up`",
            );
        }
        if self.header.grouping == Grouping::File {
            let apart = |statement: &&Statement| matches!(statement.way, Way::Outside(_));
            for span in self
                .up
                .iter()
                .chain(&self.down)
                .filter(apart)
                .map(|s| s.span.clone())
                .collect::<Vec<_>>()
            {
                self.problem(
                    "this statement refuses a transaction",
                    span,
                    "cannot share one",
                    "remove `-- transaction: file`, or put it into a revision of its own",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
