//! The grant that the server's refusal asks for.
//!
//! The server names what it denies by its last name alone, in words. The catalogs tell what of that name the role may not use, and the SQL
//! that was refused which of it is meant.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use super::error::sqlstate;
use super::{Param, ask, schemas_in_path};
use crate::sql::holds_word;

/// What a server that speaks English calls things, and a query for those of a name that the role may not use: schema and grant.
const KINDS: [(&[&str], &str); 5] = [
    (
        &["schema"],
        "select n.nspname::text, format('GRANT USAGE ON SCHEMA %I TO %I;', n.nspname, current_user)
           from pg_catalog.pg_namespace n where n.nspname = $1 and not has_schema_privilege(n.oid, 'usage')",
    ),
    (
        &["materialized view", "foreign table", "table", "view"],
        "select n.nspname::text, format('GRANT SELECT ON %s TO %I;', c.oid::regclass, current_user)
           from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
          where c.relname = $1 and c.relkind in ('r', 'p', 'v', 'm', 'f') and not has_table_privilege(c.oid, 'select')",
    ),
    (
        &["sequence"],
        "select n.nspname::text, format('GRANT USAGE ON SEQUENCE %s TO %I;', c.oid::regclass, current_user)
           from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
          where c.relname = $1 and c.relkind = 'S' and not has_sequence_privilege(c.oid, 'usage')",
    ),
    (
        &["function", "procedure", "aggregate"],
        "select n.nspname::text, format('GRANT EXECUTE ON ROUTINE %s TO %I;', p.oid::regprocedure, current_user)
           from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
          where p.proname = $1 and not has_function_privilege(p.oid, 'execute')",
    ),
    (
        &["type"],
        "select n.nspname::text, format('GRANT USAGE ON TYPE %s TO %I;', t.oid::regtype, current_user)
           from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
          where t.oid = to_regtype($1) and not has_type_privilege(t.oid, 'usage')",
    ),
];

/// What would mend an error about a privilege, for SQL that was refused. None where nobody can tell. No transaction is open.
pub async fn mend(client: &Client, error: &Error, sql: &str) -> Option<String> {
    if sqlstate(error) != Some("42501") {
        return None;
    }
    mend_words(client, error.as_db_error()?.message(), sql).await
}

/// As [`mend`], by the words of an error.
pub async fn mend_words(client: &Client, words: &str, sql: &str) -> Option<String> {
    let (kind, name) = denied_in(words)?;
    let (_, query) = KINDS.iter().find(|(kinds, _)| kinds.contains(&kind))?;
    let path = schemas_in_path(client).await.ok()?;
    let params: [Param<'_>; 1] = [(&name, Type::TEXT)];
    let rows = ask(client, query, &params).await.ok()?;
    let found: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let is_relation = matches!(kind, "table" | "view" | "materialized view" | "foreign table");
    if is_relation && !is_named(sql, name) {
        return Some(format!(
            "{name} is not named in the SQL: a trigger or a function uses it, and the role needs what that does there (INSERT, SELECT, …); \
             or a view does, and its owner needs SELECT"
        ));
    }
    let meant = meant(&found, (sql, name), &path);
    (!meant.is_empty()).then(|| meant.join("  or: "))
}

/// The role that the server goes by, quoted.
pub async fn role(client: &Client) -> Option<String> {
    let rows = ask(client, "select format('%I', current_user)", &[]).await.ok()?;
    rows.first().map(|row| row.get(0))
}

/// What an error says that the role may not use: its kind and its name.
pub fn denied(error: &Error) -> Option<(&'static str, &str)> {
    if sqlstate(error) != Some("42501") {
        return None;
    }
    denied_in(error.as_db_error()?.message())
}

fn denied_in(words: &str) -> Option<(&'static str, &str)> {
    let words = words.strip_prefix("permission denied for ")?;
    // As messages of this program have it.
    let words = words.split_once(" (SQLSTATE").map_or(words, |(words, _)| words);
    let kinds = KINDS.iter().flat_map(|(kinds, _)| *kinds).chain(&["database"]);
    let name = |kind: &'static str| Some((kind, words.strip_prefix(kind)?.strip_prefix(' ')?));
    let (kind, name) = kinds.copied().find_map(name)?;
    // The database alone is put into quotes, where it is not there yet.
    Some((kind, if kind == "database" { name.trim_matches('"') } else { name }))
}

/// Of the things of a name those that are meant: the qualified ones, or else those that the path comes to first.
fn meant(found: &[(String, String)], (sql, name): (&str, &str), path: &[String]) -> Vec<String> {
    let is_qualified = |(schema, _): &&(String, String)| is_named(sql, &[schema, name].join("."));
    let qualified: Vec<_> = found.iter().filter(is_qualified).collect();
    let first = path.iter().find(|at| found.iter().any(|(schema, _)| schema == *at));
    let mut meant: Vec<String> = match (qualified.is_empty(), first) {
        (false, _) => qualified.into_iter().map(|(_, grant)| grant.clone()).collect(),
        (true, Some(first)) => {
            found.iter().filter(|(schema, _)| schema == first).map(|(_, g)| g.clone()).collect()
        }
        (true, None) if found.len() == 1 => vec![found[0].1.clone()],
        (true, None) => Vec::new(),
    };
    meant.sort();
    meant
}

/// Whether SQL has a name in it, however it is quoted.
fn is_named(sql: &str, name: &str) -> bool {
    let plain = |text: &str| text.replace('"', "").to_lowercase();
    let (sql, name) = (plain(sql), plain(name));
    holds_word(&sql, &name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thing_that_is_meant_is_told_from_its_namesakes() {
        let found = |schemas: &[&str]| {
            schemas.iter().map(|s| ((*s).to_owned(), format!("grant {s}"))).collect::<Vec<_>>()
        };
        let path = ["pg_catalog".to_owned(), "b".to_owned(), "a".to_owned()];
        let meant =
            |schemas: &[&str], sql: &str| meant(&found(schemas), (sql, "x"), &path).join(" ");
        assert_eq!(meant(&["a", "b", "c"], "select from c.x"), "grant c");
        assert_eq!(meant(&["a", "b", "c"], r#"select from "A"."X""#), "grant a");
        assert_eq!(meant(&["a", "b", "c"], "select from x"), "grant b");
        assert_eq!(meant(&["c"], "select from x"), "grant c");
        assert_eq!(meant(&["c", "d"], "select from x"), "");
        assert_eq!(meant(&["b", "b"], "select x(1)"), "grant b grant b");
    }

    #[test]
    fn what_is_denied_is_read_from_the_words() {
        let denied = |words: &'static str| denied_in(words).map(|(k, n)| format!("{k}:{n}"));
        assert_eq!(denied("permission denied for table a b"), Some("table:a b".into()));
        assert_eq!(
            denied("permission denied for materialized view v"),
            Some("materialized view:v".into())
        );
        assert_eq!(denied("permission denied for database \"d\""), Some("database:d".into()));
        assert_eq!(
            denied("permission denied for sequence s (SQLSTATE 42501)"),
            Some("sequence:s".into())
        );
        assert_eq!(denied("permission denied to create role"), None);
    }

    #[test]
    fn a_name_is_a_word_of_its_own() {
        assert!(is_named("select * from s.\"My Table\" t", "My Table"));
        assert!(!is_named("select * from lookup_all", "lookup"));
        assert!(!is_named("select * from s2.lookup", "2.lookup"));
    }
}
