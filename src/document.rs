//! A TOML file read key by key, with every problem kept.
//!
//! `serde` stops at the first mistake; people mend files faster when they see all of them. [`read`] parses with recovery,
//! a [`Section`] hands out typed values and remembers which keys were asked for: the rest are unknown keys, reported with
//! the nearest known one. Pure.

use std::cell::RefCell;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use crate::diagnostic::Diagnostic;
use crate::sql::Expr;

/// Problems found while reading; shared by all sections of a document.
pub type Problems = RefCell<Vec<Diagnostic>>;

/// Reads a document: calls `read` on the root section and returns its value when no problem was found.
pub fn read<T>(
    source: &str,
    read: impl FnOnce(&Section<'_>) -> Option<T>,
) -> Result<T, Vec<Diagnostic>> {
    let problems = Problems::default();
    let (root, syntax) = DeTable::parse_recoverable(source);
    for error in &syntax {
        let span = error.span().unwrap_or(0..0);
        let problem = Diagnostic::new("the file is not valid TOML", span, error.message());
        problems.borrow_mut().push(problem);
    }
    let section = Section::new(source, root.get_ref(), root.span(), &problems);
    let value = read(&section);
    if syntax.is_empty() {
        section.report_unknown();
    }
    let problems = problems.into_inner();
    match value {
        Some(value) if problems.is_empty() => Ok(value),
        _ => Err(problems),
    }
}

/// One table of the document.
pub struct Section<'a> {
    source: &'a str,
    table: &'a DeTable<'a>,
    span: Range<usize>,
    problems: &'a Problems,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    fn new(
        source: &'a str,
        table: &'a DeTable<'a>,
        span: Range<usize>,
        problems: &'a Problems,
    ) -> Section<'a> {
        Section { source, table, span, problems, known: RefCell::default() }
    }

    /// The bytes to point at when the section as a whole is at fault.
    pub fn span(&self) -> Range<usize> {
        let line = self.source[self.span.start..].find('\n').unwrap_or(0);
        self.span.start..(self.span.start + line).max(self.span.start).min(self.source.len())
    }

    /// Adds a problem.
    pub fn problem(&self, problem: Diagnostic) {
        self.problems.borrow_mut().push(problem);
    }

    /// Whether the key is there at all.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn value(&self, key: &'static str) -> Option<(&'a DeValue<'a>, Range<usize>)> {
        self.known.borrow_mut().push(key);
        self.table.get(key).map(|value| (value.get_ref(), value.span()))
    }

    fn expected(&self, what: &str, value: &DeValue<'_>, span: Range<usize>) {
        let message = format!("expected {what}, found {}", value.type_str());
        self.problem(Diagnostic::new(message, span, format!("not {what}")));
    }

    /// A string, as an [`Expr`] that knows its place.
    pub fn text(&self, key: &'static str) -> Option<Expr> {
        let (value, span) = self.value(key)?;
        self.as_text(value, span)
    }

    fn as_text(&self, value: &DeValue<'_>, span: Range<usize>) -> Option<Expr> {
        let Some(text) = value.as_str() else {
            self.expected("a string", value, span);
            return None;
        };
        let text_start = self.source[span.clone()].find(text).map(|at| span.start + at);
        Some(Expr { text: text.to_owned(), span, text_start })
    }

    /// A string or a number, as text.
    pub fn scalar(&self, key: &'static str) -> Option<Expr> {
        let (value, span) = self.value(key)?;
        let number = value.as_integer().map(|n| n.as_str().to_owned());
        match number.or_else(|| value.as_float().map(|n| n.as_str().to_owned())) {
            Some(text) => Some(Expr { text, span, text_start: None }),
            None => self.as_text(value, span),
        }
    }

    /// Marks a key as known without reading it.
    pub fn know(&self, key: &'static str) {
        self.known.borrow_mut().push(key);
    }

    /// Whether a key holds a table.
    pub fn is_table(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().as_table().is_some())
    }

    /// A string parsed by `parse`, whose error becomes the label; `help` shows a correct value.
    pub fn parsed<T>(
        &self,
        key: &'static str,
        help: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(key)?;
        match parse(&text.text) {
            Ok(value) => Some(value),
            Err(label) => {
                let message = format!("`{key}` cannot be read");
                self.problem(Diagnostic::new(message, text.span, label).help(help));
                None
            }
        }
    }

    /// An integer within `range`.
    pub fn integer(&self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let (value, span) = self.value(key)?;
        let Some(integer) = value.as_integer() else {
            self.expected("an integer", value, span);
            return None;
        };
        match integer.as_str().replace('_', "").parse::<u64>() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                let label = format!("must be from {} to {}", range.start(), range.end());
                self.problem(Diagnostic::new(format!("`{key}` is out of range"), span, label));
                None
            }
        }
    }

    /// A truth value.
    pub fn boolean(&self, key: &'static str) -> Option<bool> {
        let (value, span) = self.value(key)?;
        if value.as_bool().is_none() {
            self.expected("true or false", value, span);
        }
        value.as_bool()
    }

    /// A list of strings.
    pub fn texts(&self, key: &'static str) -> Option<Vec<Expr>> {
        let (value, span) = self.value(key)?;
        let Some(array) = value.as_array() else {
            self.expected("a list of strings", value, span);
            return None;
        };
        array.iter().map(|item| self.as_text(item.get_ref(), item.span())).collect()
    }

    /// A string, or a list of strings.
    pub fn text_or_texts(&self, key: &'static str) -> Option<Vec<Expr>> {
        match self.table.get(key).map(|value| value.get_ref().as_array().is_some()) {
            Some(true) => self.texts(key),
            _ => self.text(key).map(|text| vec![text]),
        }
    }

    /// The entries of a table of strings: name (with its place) and value.
    pub fn entries(&self, key: &'static str) -> Vec<(Expr, Expr)> {
        let Some((value, span)) = self.value(key) else { return Vec::new() };
        let Some(table) = value.as_table() else {
            self.expected("a table of `column = \"expression\"`", value, span);
            return Vec::new();
        };
        let mut entries = Vec::new();
        for (name, value) in table {
            let name_span = name.span();
            let name = Expr {
                text: name.get_ref().to_string(),
                span: name_span.clone(),
                text_start: Some(name_span.start),
            };
            if let Some(value) = self.as_text(value.get_ref(), value.span()) {
                entries.push((name, value));
            }
        }
        entries
    }

    /// A sub-table, read by `read`; its unknown keys are reported.
    pub fn section<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Section<'_>) -> Option<T>,
    ) -> Option<T> {
        let (value, span) = self.value(key)?;
        let Some(table) = value.as_table() else {
            self.expected("a table", value, span);
            return None;
        };
        self.read_table(table, span, read)
    }

    /// Every table of an array of tables `[[key]]`, each read by `read`.
    pub fn sections<T>(
        &self,
        key: &'static str,
        mut read: impl FnMut(&Section<'_>) -> Option<T>,
    ) -> Vec<T> {
        let Some((value, span)) = self.value(key) else { return Vec::new() };
        let Some(array) = value.as_array() else {
            self.expected(&format!("an array of tables `[[{key}]]`"), value, span);
            return Vec::new();
        };
        let mut all = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_table() {
                Some(table) => all.extend(self.read_table(table, item.span(), &mut read)),
                None => self.expected("a table", item.get_ref(), item.span()),
            }
        }
        all
    }

    fn read_table<T>(
        &self,
        table: &DeTable<'_>,
        span: Range<usize>,
        read: impl FnOnce(&Section<'_>) -> Option<T>,
    ) -> Option<T> {
        let section = Section::new(self.source, table, span, self.problems);
        let value = read(&section);
        section.report_unknown();
        value
    }

    fn report_unknown(&self) {
        let known = self.known.borrow();
        for name in self.table.keys() {
            let text: &str = name.get_ref();
            if known.contains(&text) {
                continue;
            }
            let help = match nearest(text, &known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", known.join(", ")),
            };
            let problem =
                Diagnostic::new(format!("unknown key `{text}`"), name.span(), "not known");
            self.problem(problem.help(help));
        }
    }
}

/// The known word nearest to a mistyped one, when it is near enough to be meant.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let scored = known.iter().map(|k| (edit_distance(word, k), *k));
    scored.filter(|(distance, k)| *distance <= (k.len() / 3).max(2)).min().map(|(_, k)| k)
}

/// Levenshtein distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
