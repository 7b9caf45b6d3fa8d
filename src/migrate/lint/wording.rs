//! What only the words of a statement tell. Pure.

use super::Finding;
use crate::migrate::class::{Outside, Way};
use crate::migrate::file::Statement;
use crate::migrate::trace::Observed;

/// What only the words tell.
pub(super) fn of_the_words(statement: &Statement, seen: &Observed) -> Vec<Finding> {
    let words = statement.words();
    let mut found = Vec::new();
    let mut add = |rule, message: String, safe: &str| {
        found.push(Finding::new(rule, message, safe, &statement.span));
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
    if first == "create" && has("domain") && (has("check") || (has("not") && has("null"))) {
        add(
            "domain-with-constraint",
            "a column of it is added by writing the table anew, and every change of it reads every table with such a column".to_owned(),
            "a plain type, and a CHECK on the column",
        );
    }
    let is_about_rights = ["grant", "revoke", "reassign"].contains(&first)
        || starts("alter default privileges")
        || words.get(1).is_some_and(|word| word.is("policy"))
        || (first == "alter"
            && words.windows(3).any(|three| {
                three[0].is("row") && three[1].is("level") && three[2].is("security")
            }))
        || (first == "alter" && words.windows(2).any(|two| two[0].is("owner") && two[1].is("to")));
    if is_about_rights {
        add(
            "authorisation",
            "it changes who may do what, and no test of the data shows that".to_owned(),
            "have it approved, and say so: `-- ignore authorisation: reason`",
        );
    }
    let switches = |word: &str| has(word) && has("trigger");
    if let Some((table, _)) = seen.locks.first() {
        if first == "alter" && switches("disable") {
            add(
                "disable-trigger",
                format!(
                    "what the trigger keeps right in {table} is kept by nobody, in every session, until it is enabled again"
                ),
                "for a session of one's own: SET session_replication_role; or `-- ignore disable-trigger: reason`",
            );
        }
        if first == "create" && has("trigger") && has("row") {
            let is_guard = has("before");
            if !is_guard {
                add(
                    "create-trigger",
                    format!(
                        "from now on every write to {table} does its work too, in the writer's transaction; it is made under a lock that nobody writes past"
                    ),
                    "measure it on a copy under load, and say so: `-- ignore create-trigger: reason`",
                );
            }
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

/// Whether rows of a table that was there were written: nothing stronger than the lock for that was taken.
fn writes(seen: &Observed) -> bool {
    seen.locks.first().is_some_and(|(_, mode)| mode == "RowExclusiveLock")
}
