//! A problem in a file the user wrote: what, where, why, and what to do next.
//!
//! [`Report`] holds all problems of one file and draws them with the file's name, line, column and a caret. The same data
//! goes out as JSON. Pure.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

/// One problem at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong, as a lower-case fragment.
    pub message: String,
    /// The bytes of the file it is about.
    pub span: Range<usize>,
    /// What stands beside the caret.
    pub label: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Whether it is only worth knowing.
    pub is_note: bool,
}

impl Diagnostic {
    /// A problem without advice.
    pub fn new(message: impl Into<String>, span: Range<usize>, label: impl Into<String>) -> Self {
        Diagnostic {
            message: message.into(),
            span,
            label: label.into(),
            help: None,
            is_note: false,
        }
    }

    /// Adds the advice.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Makes it something that is only worth knowing.
    pub fn noted(mut self, is_note: bool) -> Self {
        self.is_note = is_note;
        self
    }
}

/// All problems of one file.
#[derive(Clone, Debug)]
pub struct Report {
    /// The path as the user would type it.
    pub path: String,
    /// The file's text.
    pub source: String,
    /// The problems, in the order of the file.
    pub problems: Vec<Diagnostic>,
}

/// One problem as `--json` shows it.
#[derive(Debug, Serialize)]
pub struct Located<'a> {
    /// The path as the user would type it.
    pub path: &'a str,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: &'a str,
    /// What stands beside the caret.
    pub label: &'a str,
    /// What to do about it.
    pub help: Option<&'a str>,
}

impl Report {
    /// Puts the problems in the order of the file.
    pub fn new(
        path: impl Into<String>,
        source: impl Into<String>,
        mut problems: Vec<Diagnostic>,
    ) -> Self {
        let source: String = source.into();
        for problem in &mut problems {
            // What is missing at the end of a file is missing behind its last byte.
            problem.span.end = problem.span.end.min(source.len());
            problem.span.start = problem.span.start.min(problem.span.end);
        }
        problems.sort_by_key(|problem| problem.span.start);
        Report { path: path.into(), source, problems }
    }

    /// The problems with lines and columns.
    pub fn located(&self) -> impl Iterator<Item = Located<'_>> {
        self.problems.iter().map(|problem| {
            let (line, column) = position(&self.source, problem.span.start);
            Located {
                path: &self.path,
                line,
                column,
                message: &problem.message,
                label: &problem.label,
                help: problem.help.as_deref(),
            }
        })
    }

    /// Draws every problem, with colour when asked.
    pub fn render(&self, colored: bool) -> String {
        let renderer = if colored { Renderer::styled() } else { Renderer::plain() };
        let drawn = self.problems.iter().map(|problem| self.render_one(&renderer, problem));
        drawn.collect::<Vec<_>>().join("\n\n")
    }

    fn render_one(&self, renderer: &Renderer, problem: &Diagnostic) -> String {
        let end = problem.span.end.min(self.source.len());
        let start = problem.span.start.min(end);
        let annotation = AnnotationKind::Primary.span(start..end).label(&problem.label);
        let snippet = Snippet::source(&self.source).path(&self.path).annotation(annotation);
        let level = if problem.is_note { Level::NOTE } else { Level::ERROR };
        let mut group = level.primary_title(&problem.message).element(snippet);
        if let Some(help) = &problem.help {
            group = group.element(Level::HELP.message(help));
        }
        renderer.render(&[group])
    }
}

fn position(source: &str, offset: usize) -> (usize, usize) {
    let before = &source[..offset.min(source.len())];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
