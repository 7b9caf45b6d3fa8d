//! Reads a revision's file line by line, and keeps all that is wrong with it.

use std::ops::Range;

use super::{Grouping, Ignore, Statement, statement};
use crate::diagnostic::Diagnostic;
use crate::document::nearest;
use crate::migrate::class::{self, Way};
use crate::migrate::requirement::Requirement;
use crate::migrate::split;

/// What the header comments say.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) revises: Vec<(String, Range<usize>)>,
    pub(super) requires: Vec<Requirement>,
    pub(super) grouping: Grouping,
    pub(super) irreversible: Option<String>,
    pub(super) stop: Option<String>,
    pub(super) backfill: Option<(String, Range<usize>)>,
    pub(super) ignores: Vec<Ignore>,
}

/// The words that begin a header comment.
const KEYS: [&str; 7] =
    ["revises", "requires", "transaction", "irreversible", "backfill", "ignore", "stop"];

/// A file being read.
pub(super) struct Reading<'a> {
    source: &'a str,
    pub(super) problems: Vec<Diagnostic>,
    pub(super) header: Header,
    has_revises: bool,
    pub(super) up: Vec<Statement>,
    pub(super) down: Vec<Statement>,
    pub(super) has_down: bool,
    pub(super) verify: Vec<Statement>,
}

/// Where in the file a line stands.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Header,
    Up,
    Down,
}

impl<'a> Reading<'a> {
    pub(super) fn new(source: &'a str) -> Reading<'a> {
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

    pub(super) fn read(&mut self) {
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
                "outside" => self.header.grouping = Grouping::Outside,
                _ => self.problem(
                    format!("`{value}` is no way to group statements"),
                    span,
                    "here",
                    "auto (the default), none (each its own), file (all in one), or outside (each without one)",
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
            "stop" if !value.is_empty() => self.header.stop = Some(value.to_owned()),
            "stop" => self.problem(
                "a reason is missing",
                span,
                "here",
                "say what a person has to see to first: `-- stop: the new code is deployed`",
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
        self.stray_markers(text, span.start);
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

    /// Comments among the statements that were meant for this program: a misspelt `-- down` would let the way back run on the way there,
    /// and a demand below `-- up` would be passed over.
    fn stray_markers(&mut self, text: &str, shift: usize) {
        // Those that are written right, and stand in the wrong place, are told already.
        let is_marker =
            |span: &Range<usize>| ["-- up", "-- down"].contains(&text[span.clone()].trim());
        for span in split::line_comments(text).into_iter().filter(|span| !is_marker(span)) {
            let comment = text[span.clone()].trim_start_matches('-').trim().to_lowercase();
            let at = span.start + shift..span.end + shift;
            let bare: String = comment.replace([':', ' ', '+'], "");
            let directions = [
                "up",
                "down",
                "migrateup",
                "migratedown",
                "gooseup",
                "goosedown",
                "rollback",
                "undo",
            ];
            if directions.contains(&bare.as_str()) {
                self.problem(
                    "this looks like a direction, and is not one",
                    at,
                    "here",
                    "write `-- up` or `-- down`, alone on a line and just so",
                );
                continue;
            }
            let key = comment.split_once(':').map(|(key, _)| key.trim()).unwrap_or_default();
            if KEYS.contains(&key.split(' ').next().unwrap_or_default())
                && (!key.contains(' ') || key.starts_with("ignore "))
            {
                self.problem(
                    format!("`{key}` among the statements"),
                    at,
                    "here",
                    "it belongs into the header, above `-- up`",
                );
            }
        }
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
