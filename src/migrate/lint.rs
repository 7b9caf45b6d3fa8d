//! What a revision would do to a live application, with the form that does not. Pure.
//!
//! Most rules judge what was observed on a scratch database, not the text: they see through functions and DO blocks, and they know
//! which tables were there before. Only what the catalogs cannot show is read from the words.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::class::{Outside, Way};
use super::facts::Change;
use super::file::{Grouping, Revision, Statement};
use super::requirement::Level;
use super::trace::{Observed, blocks_writes};

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
            "update" | "delete" => add(
                "dml-in-schema-step",
                format!(
                    "all rows of {table} are written in one transaction, and a crash begins it again"
                ),
                "make it a backfill: backfill new NAME --from-sql \"…\", then backfill migrate revision --backfill NAME",
            ),
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

type Judged = (&'static str, String, String);

/// What a change of something that was there before means.
fn of_a_change(change: &Change, seen: &Observed, before: &Before) -> Vec<Judged> {
    let mut found: Vec<Judged> = Vec::new();
    let mut add = |rule, message: String, safe: &str| found.push((rule, message, safe.to_owned()));
    match change {
        Change::Rewritten { table }
            if !seen.changes.iter().any(|c| matches!(c, Change::TypeChanged { .. })) =>
        {
            add(
                "rewrite",
                format!("{table} is written anew under a lock that nobody passes"),
                "add the column without the default, set the default, backfill the rest: backfill migrate revision --pattern add-not-null TABLE.COLUMN",
            );
        }
        Change::TypeChanged { table, column, from, to } if rewrites(seen, table) => add(
            "change-type",
            format!(
                "{table} is written anew to turn {column} from {from} into {to}, under a lock that nobody passes"
            ),
            &format!("backfill migrate revision --pattern change-type {table}.{column} \"{to}\""),
        ),
        Change::TableDropped { table } => add(
            "drop-table",
            format!("{table} and its rows are gone; whoever still uses it fails"),
            "rename it first, and drop it when nobody has missed it; or `-- ignore drop-table: reason`",
        ),
        Change::TableRenamed { table, to } => add(
            "rename-table",
            format!("whoever still says {table} fails"),
            &format!("leave a view {table} over {to} until nobody does"),
        ),
        Change::ColumnRenamed { table, column, to } => add(
            "rename-column",
            format!("whoever still says {table}.{column} fails"),
            &format!("backfill migrate revision --pattern rename-column {table}.{column} {to}"),
        ),
        Change::ColumnDropped { table, column } if !before.has_released(table, column) => add(
            "drop-column",
            format!(
                "whoever still reads or writes {table}.{column} fails, and its values are gone"
            ),
            &format!(
                "in two phases: backfill migrate revision --pattern drop-column {table}.{column}; or `-- ignore drop-column: reason`"
            ),
        ),
        Change::ColumnAdded { table, column, is_required: true, has_default: false } => add(
            "add-required-column",
            format!("it fails when {table} has rows, and writers that do not know {column} fail"),
            &format!("backfill migrate revision --pattern add-not-null {table}.{column}"),
        ),
        Change::Required { table, column, is_proved: false } => add(
            "set-not-null",
            format!("all rows of {table} are read for {column} under a lock that nobody passes"),
            &format!(
                "CHECK ({column} IS NOT NULL) NOT VALID, VALIDATE, then SET NOT NULL, then drop the check"
            ),
        ),
        Change::ConstraintAdded { table, name, kind, is_valid: true, is_fast, .. } => {
            match kind.as_str() {
                "c" | "f" => add(
                    if kind == "c" { "add-check" } else { "add-foreign-key" },
                    format!(
                        "all rows of {table} are read for {name} under a lock that nobody writes past"
                    ),
                    "add it NOT VALID, and VALIDATE it in a statement of its own",
                ),
                "p" | "u" if !is_fast => add(
                    "add-unique",
                    format!("an index for {name} is built while nobody can read or write {table}"),
                    "CREATE UNIQUE INDEX CONCURRENTLY first, then ADD CONSTRAINT … USING INDEX",
                ),
                "x" => add(
                    "add-exclusion",
                    format!(
                        "an index for {name} is built while nobody can read or write {table}; there is no other way"
                    ),
                    "in a new table, filled by a backfill; or `-- ignore add-exclusion: reason`",
                ),
                _ => {}
            }
        }
        Change::IndexAdded { table, index, .. } if is_locked(seen, table) => {
            add(
                "create-index",
                format!("nobody can write to {table} while {index} is built"),
                "CREATE INDEX CONCURRENTLY, in the same file: it gets a place outside of the transaction by itself",
            );
        }
        Change::IndexDropped { table, index } if is_locked(seen, table) && !loses_columns(seen) => {
            add(
                "drop-index",
                format!("nobody can read {table} until a lock for {index} is had and given back"),
                "DROP INDEX CONCURRENTLY",
            );
        }
        Change::ForeignKeyDropped { table, name } => {
            let locked =
                seen.locks.iter().filter(|(_, mode)| mode == "AccessExclusiveLock").count();
            if locked > 1 {
                add(
                    "drop-foreign-key",
                    format!(
                        "{name} is dropped under the strongest lock on both tables, {table} and the one it points to"
                    ),
                    "in a revision of its own; or `-- ignore drop-foreign-key: reason`",
                );
            }
        }
        _ => {}
    }
    if let Change::ConstraintAdded { table, name, kind, columns, has_index: false, .. } = change
        && kind == "f"
    {
        found.push((
            "foreign-key-without-index",
            format!("every delete of a row that {name} points to reads all of {table}"),
            format!("CREATE INDEX CONCURRENTLY on {table} ({}) before it", columns.join(", ")),
        ));
    }
    found.extend(about_data(change, before));
    found
}

/// Whether a table is locked against writes.
fn is_locked(seen: &Observed, table: &str) -> bool {
    seen.locks.iter().any(|(of, mode)| of == table && blocks_writes(mode))
}

/// An index that goes with its column is no step of its own.
fn loses_columns(seen: &Observed) -> bool {
    let loses = |change: &Change| {
        matches!(change, Change::ColumnDropped { .. } | Change::TableDropped { .. })
    };
    seen.changes.iter().any(loses)
}

fn rewrites(seen: &Observed, table: &str) -> bool {
    seen.changes
        .iter()
        .any(|change| matches!(change, Change::Rewritten { table: of } if of == table))
}

/// What a change means for backfills that came before.
fn about_data(change: &Change, before: &Before) -> Vec<Judged> {
    let (table, columns, breaks): (&str, Vec<&str>, bool) = match change {
        Change::Required { table, column, .. } => (table, vec![column], false),
        Change::Validated { table, columns, .. } => {
            (table, columns.iter().map(String::as_str).collect(), false)
        }
        Change::ConstraintAdded { table, columns, is_valid: true, .. } => {
            (table, columns.iter().map(String::as_str).collect(), false)
        }
        Change::ColumnDropped { table, column } | Change::TypeChanged { table, column, .. } => {
            (table, vec![column], true)
        }
        _ => return Vec::new(),
    };
    let mut found = Vec::new();
    for (name, writes) in &before.backfills {
        let touches = writes.table == table
            && columns.iter().any(|column| writes.columns.iter().any(|of| of == column));
        if !touches {
            continue;
        }
        if !before.proved.contains(name) {
            found.push((
                "contract-without-gate",
                format!("it builds on what the backfill {name} writes, and does not demand that this is complete"),
                format!("`-- requires: {name}@verified`"),
            ));
        }
        if breaks {
            found.push((
                "breaks-reversal",
                format!("the backfill {name} cannot be taken back any more when {table} has lost what it wrote"),
                format!("say so: `-- irreversible: reason` or `-- ignore breaks-reversal: reason`; before: backfill prune {name}"),
            ));
        }
    }
    found
}

impl Before {
    /// Whether a column was made optional, or left behind by a rename, before it is dropped.
    fn has_released(&self, table: &str, column: &str) -> bool {
        self.released.contains(&(table.to_owned(), column.to_owned()))
    }
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
