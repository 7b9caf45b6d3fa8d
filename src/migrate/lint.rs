//! What a revision would do to a live application, with the form that does not. Pure.
//!
//! Most rules judge what was observed on a scratch database, not the text: they see through functions and DO blocks, and they know
//! which tables were there before. Only what the catalogs cannot show is read from the words.

mod changes;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::class::{Outside, Way};
use super::facts::Change;
use super::file::{Grouping, Revision, Statement};
use super::requirement::Level;
use super::trace::Observed;
use changes::of_a_change;

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
            found.extend(of_a_change(change, seen, before).into_iter().map(
                |(rule, message, safe)| {
                    let span = statement.span.clone();
                    Finding { rule, message, safe, span }
                },
            ));
        }
    }
    found.extend(wide_windows(revision, observed));
    found.extend(several_keys(revision, observed));
    if revision.grouping == Grouping::File {
        for statement in revision.up.iter().filter(|statement| statement.way == Way::Long) {
            found.push(Finding {
                rule: "validate-in-same-transaction",
                message: "the locks of the statements before it are held while all rows are read"
                    .to_owned(),
                safe: "remove `-- transaction: file`: it then gets a transaction of its own"
                    .to_owned(),
                span: statement.span.clone(),
            });
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
            unused.push(Finding {
                rule: "unused-ignore",
                message: format!(
                    "`{}` is passed over here, and nothing of it is found",
                    ignore.rule
                ),
                safe: "remove the line".to_owned(),
                span: ignore.span.clone(),
            });
        }
    }
    found.extend(unused);
    found.sort_by_key(|finding| finding.span.start);
    found.dedup();
    found
}

fn of_the_file(revision: &Revision, before: &Before) -> Vec<Finding> {
    let start = 0..revision.source.find('\n').unwrap_or(revision.source.len());
    let mut found = Vec::new();
    if !revision.is_reversible() && revision.irreversible.is_none() {
        found.push(Finding {
            rule: "no-way-back",
            message: "there is no `-- down`, and no reason why".to_owned(),
            safe: "write the way back, or say why there is none: `-- irreversible: reason`"
                .to_owned(),
            span: start,
        });
    }
    if let Some((name, span)) = &revision.backfill
        && !before.unguarded.is_empty()
    {
        found.push(Finding {
            rule: "backfill-without-guard",
            message: format!(
                "rows inserted behind the back of {name} can still come without {}",
                before.unguarded.join(", ")
            ),
            safe: "set a default, or a trigger before INSERT, in a revision before this one"
                .to_owned(),
            span: span.clone(),
        });
    }
    found
}

/// What only the words tell.
fn of_the_words(statement: &Statement, seen: &Observed) -> Vec<Finding> {
    let words = statement.words();
    let mut found = Vec::new();
    let mut add = |rule, message: String, safe: &str| {
        found.push(Finding { rule, message, safe: safe.to_owned(), span: statement.span.clone() });
    };
    let first = words.first().map(|word| word.text.as_str()).unwrap_or_default();
    let has = |keyword: &str| words.iter().any(|word| word.is(keyword));
    if let Some((table, _)) = seen.locks.first() {
        match first {
            "update" | "delete" | "merge" | "with" | "do" | "select" | "call" if writes(seen) => {
                add(
                    "dml-in-schema-step",
                    format!(
                        "all rows of {table} are written in one transaction, and a crash begins it again"
                    ),
                    "make it a backfill: backfill new NAME --from-sql \"…\", then backfill migrate revision --backfill NAME",
                );
            }
            "reindex" => add(
                "reindex",
                format!("nobody can write to {table} while its indexes are built anew"),
                "REINDEX … CONCURRENTLY",
            ),
            "refresh" => add(
                "refresh",
                format!("nobody can read {table} while it is computed anew"),
                "REFRESH MATERIALIZED VIEW CONCURRENTLY, which needs a unique index",
            ),
            "truncate" => add(
                "truncate",
                format!("all rows of {table} are gone at once"),
                "say that it is meant: `-- ignore truncate: reason`",
            ),
            _ => {}
        }
    }
    let starts = |start: &str| {
        let expected = start.split(' ');
        words.iter().zip(expected.clone()).all(|(word, keyword)| word.is(keyword))
            && words.len() >= expected.count()
    };
    if starts("alter type") && has("rename") && has("value") {
        add(
            "rename-enum-value",
            "whoever still writes the old value fails".to_owned(),
            "add the new value, let a backfill replace the old one, and leave that in the type",
        );
    }
    if starts("alter domain") && has("add") && !has("valid") {
        add(
            "alter-domain",
            "every row of every table with a column of this domain is read, under locks that nobody writes past".to_owned(),
            "ADD CONSTRAINT … NOT VALID, then ALTER DOMAIN … VALIDATE CONSTRAINT; or a CHECK on the column",
        );
    }
    if starts("alter extension") || starts("drop extension") {
        add(
            "extension",
            "what the extension's own scripts do is in no file here, and has no way back"
                .to_owned(),
            "read them, try it on a copy, and say so: `-- ignore extension: reason`",
        );
    }
    if first == "alter" && has("attach") && has("partition") {
        add(
            "attach-partition",
            "rows of the new partition are read under a lock that nobody passes, unless a check already says where they belong".to_owned(),
            "add a CHECK of the bounds to it NOT VALID, validate it, attach it, drop the check; or `-- ignore attach-partition: it has one`",
        );
    }
    if first == "alter"
        && has("detach")
        && has("partition")
        && matches!(statement.way, Way::Together)
    {
        add(
            "detach-partition",
            "nobody can read or write the whole table until the lock is had and given back"
                .to_owned(),
            "DETACH PARTITION … CONCURRENTLY",
        );
    }
    if let Way::Outside(Outside::CreateIndex { name, .. }) = &statement.way
        && has("exists")
    {
        add(
            "concurrently-if-not-exists",
            format!(
                "IF NOT EXISTS takes an invalid {name} for the index; here it is built anew, elsewhere it would stay"
            ),
            "leave IF NOT EXISTS out: an interrupted build is found and healed without it",
        );
    }
    found
}

/// Whether rows of a table that was there were written: nothing stronger than the lock for that was taken.
fn writes(seen: &Observed) -> bool {
    seen.locks.first().is_some_and(|(_, mode)| mode == "RowExclusiveLock")
}

/// Foreign keys that share a transaction hold the locks of all their tables until the last one is made.
fn several_keys(revision: &Revision, observed: &[Observed]) -> Option<Finding> {
    let is_key =
        |change: &Change| matches!(change, Change::ConstraintAdded { kind, .. } if kind == "f");
    super::unit::units(&revision.up, revision.grouping).into_iter().find_map(|unit| {
        let adds_key = |i: &usize| observed.get(*i).is_some_and(|seen| seen.changes.iter().any(is_key));
        let second = unit.range.filter(adds_key).nth(1)?;
        Some(Finding {
            rule: "several-foreign-keys",
            message: "it is made in the transaction of another foreign key, and the locks of all their tables are held together".to_owned(),
            safe: "a revision for each; or `-- transaction: none`".to_owned(),
            span: revision.up[second].span.clone(),
        })
    })
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
                found.push(Finding {
                    rule: "wide-lock-window",
                    message: format!(
                        "one transaction locks {} against everybody",
                        tables.iter().copied().collect::<Vec<_>>().join(" and ")
                    ),
                    safe: "a revision for each; or `-- transaction: none`".to_owned(),
                    span: revision.up[i].span.clone(),
                });
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
