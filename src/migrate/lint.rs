//! What a revision would do to a live application, with the form that does not. Pure.
//!
//! Most rules judge what was observed on a scratch database, not the text: they see through functions and DO blocks, and they know
//! which tables were there before. Only what the catalogs cannot show is read from the words.

mod advice;
mod changes;
mod wording;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::class::Way;
use super::facts::Change;
use super::file::{Grouping, Revision};
use super::requirement::Level;
use super::trace::Observed;
use advice::of_taste;
use changes::of_a_change;
use wording::of_the_words;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule's name, as `-- ignore` takes it.
    pub rule: &'static str,
    /// What would happen.
    pub message: String,
    /// The form that does not do that.
    pub safe: String,
    /// Where in the file.
    pub span: Range<usize>,
    /// How much it weighs.
    pub weight: Weight,
}

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// It hurts a live application, or loses something: the check fails.
    Warning,
    /// It costs something later, or is a matter of taste: it is only said.
    Note,
}

impl Finding {
    fn new(
        rule: &'static str,
        message: String,
        safe: impl Into<String>,
        span: &Range<usize>,
    ) -> Finding {
        Finding { rule, message, safe: safe.into(), span: span.clone(), weight: Weight::Warning }
    }
}

/// What a backfill writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writes {
    /// `schema.table`.
    pub table: String,
    /// The columns.
    pub columns: Vec<String>,
}

/// What came before a revision in its history.
#[derive(Clone, Debug, Default)]
pub struct Before {
    /// The backfills of the revisions it builds on.
    pub backfills: BTreeMap<String, Writes>,
    /// Those of them that were demanded to be verified, by it or by one it builds on.
    pub proved: BTreeSet<String>,
    /// Columns that were made optional by a revision it builds on: the first of two phases.
    pub released: BTreeSet<(String, String)>,
    /// Columns of its own backfill that an insert can leave empty at this moment.
    pub unguarded: Vec<String>,
}

/// All findings of a revision that it does not ask to pass over, and the requests that met no finding.
pub fn lint(revision: &Revision, observed: &[Observed], before: &Before) -> Vec<Finding> {
    let mut found = of_the_file(revision, before);
    for (statement, seen) in revision.up.iter().zip(observed) {
        found.extend(of_the_words(statement, seen));
        // A truncated table has a new file too; that is no news.
        let is_truncate = statement.words().first().is_some_and(|word| word.is("truncate"));
        for change in seen.changes.iter().filter(|_| !is_truncate) {
            found.extend(
                of_a_change(change, seen, before).into_iter().map(|(rule, message, safe)| {
                    Finding::new(rule, message, safe, &statement.span)
                }),
            );
        }
    }
    found.extend(of_taste(revision, observed));
    found.extend(wide_windows(revision, observed));
    found.extend(window_without_index(revision, observed));
    found.extend(several_passes(revision, observed));
    found.extend(several_keys(revision, observed));
    if revision.grouping == Grouping::File {
        for statement in revision.up.iter().filter(|statement| statement.way == Way::Long) {
            found.push(Finding::new(
                "validate-in-same-transaction",
                "the locks of the statements before it are held while all rows are read".to_owned(),
                "remove `-- transaction: file`: it then gets a transaction of its own".to_owned(),
                &statement.span,
            ));
        }
    }
    if revision.irreversible.is_some() {
        // It is said, and shown by history and plan.
        found.retain(|finding| finding.rule != "breaks-reversal");
    }
    let mut unused: Vec<Finding> = Vec::new();
    for ignore in &revision.ignores {
        let count = found.len();
        found.retain(|finding| finding.rule != ignore.rule);
        if found.len() == count {
            unused.push(Finding::new(
                "unused-ignore",
                format!("`{}` is passed over here, and nothing of it is found", ignore.rule),
                "remove the line".to_owned(),
                &ignore.span,
            ));
        }
    }
    found.extend(unused);
    found.sort_by_key(|finding| finding.span.start);
    found.dedup();
    found
}

fn of_the_file(revision: &Revision, before: &Before) -> Vec<Finding> {
    let start = &(0..revision.source.find('\n').unwrap_or(revision.source.len()));
    let mut found = Vec::new();
    if !revision.is_reversible() && revision.irreversible.is_none() {
        found.push(Finding::new(
            "no-way-back",
            "there is no `-- down`, and no reason why".to_owned(),
            "write the way back, or say why there is none: `-- irreversible: reason`".to_owned(),
            start,
        ));
    }
    if let Some((name, span)) = &revision.backfill
        && !before.unguarded.is_empty()
    {
        found.push(Finding::new(
            "backfill-without-guard",
            format!(
                "rows inserted behind the back of {name} can still come without {}",
                before.unguarded.join(", ")
            ),
            "set a default, or a trigger before INSERT, in a revision before this one".to_owned(),
            span,
        ));
    }
    found
}

/// Foreign keys that share a transaction hold the locks of all their tables until the last one is made.
fn several_keys(revision: &Revision, observed: &[Observed]) -> Option<Finding> {
    let is_key =
        |change: &Change| matches!(change, Change::ConstraintAdded { kind, .. } if kind == "f");
    super::unit::units(&revision.up, revision.grouping).into_iter().find_map(|unit| {
        let adds_key = |i: &usize| observed.get(*i).is_some_and(|seen| seen.changes.iter().any(is_key));
        let second = unit.range.filter(adds_key).nth(1)?;
        Some(Finding::new(
            "several-foreign-keys",
            "it is made in the transaction of another foreign key, and the locks of all their tables are held together".to_owned(),
            "a revision for each; or `-- transaction: none`".to_owned(),
            &revision.up[second].span,
        ))
    })
}

/// An index that is dropped before the one that takes its place is there.
fn window_without_index(revision: &Revision, observed: &[Observed]) -> Vec<Finding> {
    let mut gone: Vec<(&String, &String, &[String])> = Vec::new();
    let mut found = Vec::new();
    for (statement, seen) in revision.up.iter().zip(observed) {
        for change in &seen.changes {
            match change {
                Change::IndexDropped { table, index, columns } => {
                    gone.push((table, index, columns));
                }
                Change::IndexAdded { table, columns, .. } => {
                    let leads = |(of, _, had): &&(&String, &String, &[String])| {
                        *of == table && had.first() == columns.first()
                    };
                    let Some((_, old, _)) = gone.iter().find(leads) else { continue };
                    found.push(Finding::new(
                        "replace-index",
                        format!("{old} is dropped before this one is there: until it is built, what needs it reads all of {table}"),
                        "build the new one under another name first, then drop the old one, then rename",
                        &statement.span,
                    ));
                }
                _ => {}
            }
        }
    }
    found
}

/// Statements that each go through all rows of one table under its lock, where one ALTER TABLE would go through them once.
fn several_passes(revision: &Revision, observed: &[Observed]) -> Vec<Finding> {
    let mut passed: BTreeSet<&str> = BTreeSet::new();
    let mut found = Vec::new();
    for (statement, seen) in revision.up.iter().zip(observed) {
        let is_alter = statement.words().first().is_some_and(|word| word.is("alter"));
        let tables: BTreeSet<&str> = seen
            .changes
            .iter()
            .filter(|_| is_alter)
            .filter_map(|change| match change {
                Change::Rewritten { table }
                | Change::Required { table, is_proved: false, .. }
                | Change::ConstraintAdded { table, is_valid: true, is_fast: false, .. } => {
                    Some(table.as_str())
                }
                _ => None,
            })
            .collect();
        if let Some(table) = tables.iter().find(|table| passed.contains(*table)) {
            found.push(Finding::new(
                "several-alters",
                format!("all rows of {table} are gone through again for it"),
                "one ALTER TABLE with all its clauses goes through them once",
                &statement.span,
            ));
        }
        passed.extend(tables);
    }
    found
}

/// Two tables locked against everybody in one transaction: each waits for the other's application.
fn wide_windows(revision: &Revision, observed: &[Observed]) -> Vec<Finding> {
    let mut found = Vec::new();
    for unit in super::unit::units(&revision.up, revision.grouping) {
        let mut tables: BTreeSet<&str> = BTreeSet::new();
        for i in unit.range {
            let Some(seen) = observed.get(i) else { continue };
            let strong = seen.locks.iter().filter(|(_, mode)| mode == "AccessExclusiveLock");
            let had = tables.len();
            tables.extend(strong.map(|(table, _)| table.as_str()));
            if had > 0 && tables.len() > had {
                found.push(Finding::new(
                    "wide-lock-window",
                    format!(
                        "one transaction locks {} against everybody",
                        tables.iter().copied().collect::<Vec<_>>().join(" and ")
                    ),
                    "a revision for each; or `-- transaction: none`".to_owned(),
                    &revision.up[i].span,
                ));
                break;
            }
        }
    }
    found
}

/// Whether a demand lets what is behind it rely on the data.
pub fn relies(level: Level) -> bool {
    level >= Level::Verified
}
