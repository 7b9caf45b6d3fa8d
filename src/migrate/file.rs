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

mod reading;

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::class::{self, Way};
use super::requirement::Requirement;
use super::split::{self, Word};
use crate::diagnostic::{Diagnostic, Report};
use reading::Reading;

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
    /// What a person has to see to before it: `upgrade` passes it only when it is named.
    pub stop: Option<String>,
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
    /// Each outside of any: for procedures that commit by themselves, and whatever else refuses a transaction.
    Outside,
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
        stop: header.stop,
        backfill: header.backfill,
        ignores: header.ignores,
        up,
        down,
        has_down,
        verify,
    })
}

#[cfg(test)]
mod tests;
